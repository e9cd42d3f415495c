/* Reads a run for the report: metrics.jsonl line by line into curves, recipe.ini, samples.txt. A
 * last line cut short (a run that is still writing) is passed over; any other bad line is an error
 * with its number. */
#include "eval/report.h"

#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"

#define METRICS_BYTES_MAX ((size_t)1 << 30)
#define SAMPLES_BYTES_MAX ((size_t)4 << 20)

static fm_status curve_add(report_curve *c, double x, const json_t *y, fm_err *err)
{
    if (!json_is_number(y)) return FM_OK;
    if (c->n == c->cap) {
        int cap = c->cap ? 2 * c->cap : 256;
        double *px = fmi_realloc(c->x, (size_t)cap * sizeof *px);
        if (px) c->x = px;
        double *py = px ? fmi_realloc(c->y, (size_t)cap * sizeof *py) : NULL;
        if (py) c->y = py;
        if (!py) return FM_FAIL(err, FM_E_NOMEM, "report");
        c->cap = cap;
    }
    c->x[c->n] = x;
    c->y[c->n++] = json_number_value(y);
    return FM_OK;
}

static fm_status layer_add(report_run *r, double x, const json_t *layer, int i, fm_err *err)
{
    int id = (int)json_integer_value(json_object_get(layer, "layer"));
    for (int k = 0; k < REPORT_LAYER_CURVES; k++)
        snprintf(r->layer[k][i].label, sizeof r->layer[k][i].label, "layer %d", id);
    json_t *range = json_real(json_number_value(json_object_get(layer, "bias_max")) -
                              json_number_value(json_object_get(layer, "bias_min")));
    fm_status st = curve_add(&r->layer[REPORT_VIO][i], x, json_object_get(layer, "max_vio_50"), err);
    if (!st) st = curve_add(&r->layer[REPORT_ENTROPY][i], x, json_object_get(layer, "entropy"), err);
    if (!st) st = curve_add(&r->layer[REPORT_DEAD][i], x, json_object_get(layer, "dead"), err);
    if (!st) st = curve_add(&r->layer[REPORT_BIAS][i], x, range, err);
    json_decref(range);
    return st;
}

static fm_status line_add(report_run *r, const json_t *o, fm_err *err)
{
    static const char *const keys[REPORT_STEP_CURVES] = {"loss", "mtp_loss", "lr", "tokens_per_second",
                                                         "grad_norm", "balance_loss", "val_bits_per_byte"};
    double x = json_number_value(json_object_get(o, "tokens"));
    fm_status st = FM_OK;
    for (int i = 0; i < REPORT_STEP_CURVES && !st; i++)
        st = curve_add(&r->curve[i], x, json_object_get(o, keys[i]), err);
    const json_t *layers = json_object_get(o, "layers");
    int n = (int)json_array_size(layers);
    if (n > REPORT_LAYERS_MAX) n = REPORT_LAYERS_MAX;
    for (int i = 0; i < n && !st; i++) st = layer_add(r, x, json_array_get(layers, (size_t)i), i, err);
    if (n > r->n_layers) r->n_layers = n;
    int64_t step = json_integer_value(json_object_get(o, "step"));
    if (step > r->steps) r->steps = step;
    if (x > (double)r->tokens) r->tokens = (int64_t)x;
    double s = json_number_value(json_object_get(o, "seconds"));
    if (s > 0) r->seconds += s;
    return st;
}

static fm_status load_metrics(const char *path, report_run *r, fm_err *err)
{
    char *text = NULL, where[600];
    size_t n = 0;
    fm_status st = fmi_file_read(path, METRICS_BYTES_MAX, &text, &n, err);
    int number = 0;
    for (size_t at = 0; at < n && !st;) {
        const char *end = memchr(text + at, '\n', n - at);
        if (!end) break;
        size_t len = (size_t)(end - (text + at));
        json_t *o = NULL;
        snprintf(where, sizeof where, "%s: line %d", path, ++number);
        if (len) st = fmi_json_parse(where, text + at, len, false, &o, err);
        if (!st && o) st = line_add(r, o, err);
        json_decref(o);
        at += len + 1;
    }
    fmi_free(text);
    return st;
}

fm_status fmi_report_load(const char *dir, report_run *r, fm_err *err)
{
    size_t n = strlen(dir);
    memset(r, 0, sizeof *r);
    while (n > 1 && dir[n - 1] == '/') n--;
    size_t from = n;
    while (from > 0 && dir[from - 1] != '/') from--;
    snprintf(r->name, sizeof r->name, "%.*s", (int)(n - from), dir + from);
    char *metrics = fmi_path_join(dir, "metrics.jsonl"), *recipe = fmi_path_join(dir, "recipe.ini");
    char *samples = fmi_path_join(dir, "samples.txt");
    fm_status st = metrics && recipe && samples ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    if (!st && !fmi_path_is_file(metrics))
        st = FM_FAIL(err, FM_E_IO, "%s: no metrics.jsonl; a run directory was expected", dir);
    if (!st) st = load_metrics(metrics, r, err);
    if (!st && fmi_path_is_file(recipe)) st = fmi_ini_open(recipe, &r->recipe, err);
    if (!st && fmi_path_is_file(samples))
        st = fmi_file_read(samples, SAMPLES_BYTES_MAX, &r->samples, NULL, err);
    for (int i = 0; i < REPORT_STEP_CURVES; i++)
        snprintf(r->curve[i].label, sizeof r->curve[i].label, "%s", r->name);
    fmi_free(metrics);
    fmi_free(recipe);
    fmi_free(samples);
    if (st) fmi_report_unload(r);
    return st;
}

void fmi_report_unload(report_run *r)
{
    for (int i = 0; i < REPORT_STEP_CURVES; i++) {
        fmi_free(r->curve[i].x);
        fmi_free(r->curve[i].y);
    }
    for (int k = 0; k < REPORT_LAYER_CURVES; k++)
        for (int i = 0; i < REPORT_LAYERS_MAX; i++) {
            fmi_free(r->layer[k][i].x);
            fmi_free(r->layer[k][i].y);
        }
    fmi_ini_free(r->recipe);
    fmi_free(r->samples);
    memset(r, 0, sizeof *r);
}
