/* The demo's printing: wrapped text and the closing page, within 60 columns. */
#include <jansson.h>
#include <langinfo.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "demo.h"

#define PLOT_COLUMNS 48
#define PLOT_ROWS 10

void demo_curve_add(demo *d, const fm_train_progress *p)
{
    if (d->every == 0) d->every = 1;
    d->sum_tokens += (double)p->tokens;
    d->sum_loss += p->loss;
    if (++d->since < d->every) return;
    if (d->n_points == DEMO_POINTS) {
        for (int i = 0; i < DEMO_POINTS / 2; i++) {
            d->x_tokens[i] = (d->x_tokens[2 * i] + d->x_tokens[2 * i + 1]) / 2;
            d->y_loss[i] = (d->y_loss[2 * i] + d->y_loss[2 * i + 1]) / 2;
        }
        d->n_points /= 2;
        d->every *= 2;
        return;
    }
    d->x_tokens[d->n_points] = d->sum_tokens / d->since;
    d->y_loss[d->n_points++] = d->sum_loss / d->since;
    d->since = 0;
    d->sum_tokens = d->sum_loss = 0;
}

void demo_print_text(const char *s, size_t n)
{
    int width = cli_width() > 100 ? 100 : cli_width(), column = 0;
    for (size_t i = 0; i < n;) {
        size_t word = i;
        while (word < n && s[word] != ' ' && s[word] != '\n') word++;
        int cells = 0;
        for (size_t k = i; k < word; k++) cells += ((unsigned char)s[k] & 0xc0) != 0x80;
        if (column > 0 && column + 1 + cells > width) {
            putchar('\n');
            column = 0;
        }
        if (column > 0) column += putchar(' ') == ' ';
        for (size_t k = i; k < word; k++)
            if ((unsigned char)s[k] >= 0x20 && s[k] != 0x7f) putchar(s[k]);
        column += cells;
        if (word < n && s[word] == '\n') {
            putchar('\n');
            column = 0;
        }
        i = word + 1;
    }
}

/* Mean loss of column c of PLOT_COLUMNS, NAN when it holds no point. */
static double column_mean(const demo *d, int c)
{
    double sum = 0, x1 = d->x_tokens[d->n_points - 1];
    int n = 0;
    for (int i = 0; i < d->n_points; i++) {
        int at = (int)(d->x_tokens[i] / x1 * (PLOT_COLUMNS - 1e-9));
        if (at != c) continue;
        sum += d->y_loss[i];
        n++;
    }
    return n ? sum / n : NAN;
}

static void loss_curve(const demo *d)
{
    const char *mark = strcmp(nl_langinfo(CODESET), "UTF-8") == 0 ? "\xe2\x96\x88" : "#";
    double y[PLOT_COLUMNS], low = 1e30, high = -1e30;
    cli_buf b;
    if (d->n_points < 2) return;
    for (int c = 0; c < PLOT_COLUMNS; c++) {
        y[c] = column_mean(d, c);
        if (isnan(y[c]) && c > 0) y[c] = y[c - 1];
        if (y[c] < low) low = y[c];
        if (y[c] > high) high = y[c];
    }
    printf("Training loss, nats per token\n");
    for (int r = PLOT_ROWS; r >= 1; r--) {
        if (r == PLOT_ROWS) printf("%6.2f ", high);
        else if (r == 1) printf("%6.2f ", low);
        else printf("       ");
        for (int c = 0; c < PLOT_COLUMNS; c++) {
            double share = high > low ? (y[c] - low) / (high - low) : 0;
            printf("%s", !isnan(y[c]) && share * (PLOT_ROWS - 1) + 1.5 >= r ? mark : " ");
        }
        printf("\n");
    }
    printf("       0 tokens %*s\n\n", PLOT_COLUMNS - 9, cli_count(d->x_tokens[d->n_points - 1], &b));
}

/* The last step's line of metrics.jsonl that holds layers. */
static json_t *last_layers(const char *run)
{
    char path[4200];
    char *line = NULL;
    size_t cap = 0;
    json_t *keep = NULL;
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    FILE *f = fopen(path, "r");
    while (f && getline(&line, &cap, f) > 0) {
        if (!strstr(line, "\"layers\":[{")) continue;
        json_t *o = json_loads(line, 0, NULL);
        if (!o) continue;
        json_decref(keep);
        keep = o;
    }
    if (f) fclose(f);
    free(line);
    return keep;
}

static void balance(const demo *d)
{
    json_t *o = last_layers(d->run), *layer;
    size_t i;
    if (!o) return;
    printf("Balance over the last 50 steps (MaxVio 0: every expert\ngets the same load)\n");
    printf("  layer   MaxVio  dead  load entropy\n");
    json_array_foreach(json_object_get(o, "layers"), i, layer)
        printf("  %-6lld %7.3f %5lld %13.4f\n",
               (long long)json_integer_value(json_object_get(layer, "layer")),
               json_number_value(json_object_get(layer, "max_vio_50")),
               (long long)json_integer_value(json_object_get(layer, "dead")),
               json_number_value(json_object_get(layer, "entropy")));
    printf("  no token was dropped\n\n");
    json_decref(o);
}

static void cache(const demo *d)
{
    fm_err err;
    fm_shape *s = malloc(sizeof *s);
    fm_shape_opts o = {.model = d->checkpoint};
    if (s && fm_shape_get(&o, 0, s, &err) == FM_OK)
        printf("Cache     %lld bytes a token; plain attention would take\n          %lld, %.1f "
               "times as many\n",
               (long long)s->kv_bytes_bf16, (long long)(2 * s->kv_elements_mha),
               2.0 * (double)s->kv_elements_mha / (double)s->kv_bytes_bf16);
    free(s);
}

void demo_closing_page(const demo *d)
{
    cli_buf a, b;
    const fm_session_stats *t = &d->stats;
    loss_curve(d);
    balance(d);
    printf("Trained   %s tokens in %s\n", cli_count((double)d->last.tokens, &a),
           cli_duration(d->last.seconds, &b));
    if (d->last.val_bits_per_byte >= 0) printf("Held-out  %.4f bits per byte\n", d->last.val_bits_per_byte);
    cache(d);
    if (t->drafted)
        printf("Drafts    %lld of %lld accepted (%.0f%%): %lld tokens took\n          %lld forward "
               "passes; %.0f tokens/s\n",
               (long long)t->accepted, (long long)t->drafted,
               100.0 * (double)t->accepted / (double)t->drafted, (long long)t->new_tokens,
               (long long)t->main_forwards, t->decode_tokens_per_second);
    printf("Whole way %s\n\n", cli_duration(difftime(time(NULL), d->started), &a));
    printf("The checkpoint, which transformers opens too:\n  %s\n\nTry next:\n", d->checkpoint);
    printf("  fathom generate --model %s \\\n    --prompt \"Tom had a dog.\" --tokens 100\n", d->checkpoint);
    printf("  fathom inspect --model %s\n", d->checkpoint);
    printf("  fathom report %s\n", d->run);
    printf("  fathom resume %s --minutes 10\n", d->run);
}
