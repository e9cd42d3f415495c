/* fathom inspect: what a checkpoint holds, from its headers. Tensors that differ only in layer and
 * expert numbers are one row unless --tensors asks for all. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* One row of the grouped table. */
typedef struct group {
    char pattern[128];        /* name with `*` for numbers */
    const fm_tensor_row *t;   /* the first of them */
    int order, count;
    int64_t bytes;
    long low[2], high[2];     /* of the first two numbers */
} group;

static void group_of(const fm_tensor_row *t, int order, group *g)
{
    size_t n = 0;
    int k = 0;
    *g = (group){
        .t = t, .order = order, .count = 1, .bytes = t->bytes, .low = {-1, -1}, .high = {-1, -1}};
    for (const char *s = t->name; *s && n + 2 < sizeof g->pattern;) {
        bool number = *s >= '0' && *s <= '9' && s > t->name && s[-1] == '.';
        if (!number) {
            g->pattern[n++] = *s++;
            continue;
        }
        char *end;
        long v = strtol(s, &end, 10);
        if (k < 2) g->low[k] = g->high[k] = v;
        k++;
        g->pattern[n++] = '*';
        s = end;
    }
    g->pattern[n] = 0;
}

static int same(const group *a, const group *b)
{
    int c = strcmp(a->pattern, b->pattern);
    if (!c) c = strcmp(a->t->dtype, b->t->dtype);
    if (!c) c = a->t->rank - b->t->rank;
    for (int i = 0; i < a->t->rank && !c; i++)
        c = (a->t->dims[i] > b->t->dims[i]) - (a->t->dims[i] < b->t->dims[i]);
    return c;
}

static int by_kind(const void *a, const void *b)
{
    const group *p = a, *q = b;
    int c = same(p, q);
    return c ? c : p->order - q->order;
}

static int by_order(const void *a, const void *b)
{
    return ((const group *)a)->order - ((const group *)b)->order;
}

/* Merges equal kinds; returns how many rows are left, in order of first appearance. */
static int merge(group *g, int n)
{
    int m = 0;
    qsort(g, (size_t)n, sizeof *g, by_kind);
    for (int i = 0; i < n; i++) {
        if (m > 0 && !same(&g[m - 1], &g[i])) {
            group *to = &g[m - 1];
            to->count++;
            to->bytes += g[i].bytes;
            for (int k = 0; k < 2; k++) {
                if (g[i].low[k] < to->low[k]) to->low[k] = g[i].low[k];
                if (g[i].high[k] > to->high[k]) to->high[k] = g[i].high[k];
            }
        } else {
            g[m++] = g[i];
        }
    }
    qsort(g, (size_t)m, sizeof *g, by_order);
    return m;
}

/* The pattern with number ranges in place of the stars. */
static void name_of(const group *g, char *out, size_t cap)
{
    size_t n = 0;
    int k = 0;
    for (const char *s = g->pattern; *s && n + 1 < cap; s++) {
        if (*s != '*') {
            out[n++] = *s;
            continue;
        }
        if (k < 2 && g->low[k] < g->high[k])
            n += (size_t)snprintf(out + n, cap - n, "{%ld-%ld}", g->low[k], g->high[k]);
        else if (k < 2) n += (size_t)snprintf(out + n, cap - n, "%ld", g->low[k]);
        else out[n++] = '*';
        if (n >= cap) n = cap - 1;
        k++;
    }
    out[n] = 0;
}

static void print_row(const char *name, const fm_tensor_row *t, int count, int64_t bytes)
{
    char shape[96] = "[";
    cli_buf b;
    size_t n = 1;
    for (int i = 0; i < t->rank; i++)
        n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%lld", i ? ", " : "",
                              (long long)t->dims[i]);
    snprintf(shape + n, sizeof shape - n, "]");
    printf("  %-58s %-8s %-16s", name, t->dtype, shape);
    if (count > 1) printf(" x %-6d", count);
    else printf("         ");
    printf(" %s\n", cli_bytes((double)bytes, &b));
}

static int print_tensors(const fm_inspection *r, bool all)
{
    char name[192];
    if (all) {
        for (int i = 0; i < r->n_tensors; i++)
            print_row(r->tensors[i].name, &r->tensors[i], 1, r->tensors[i].bytes);
        return CLI_DONE;
    }
    group *g = malloc((size_t)(r->n_tensors + 1) * sizeof *g);
    if (!g) return cli_fail("inspect", "out of memory");
    for (int i = 0; i < r->n_tensors; i++) group_of(&r->tensors[i], i, &g[i]);
    int n = merge(g, r->n_tensors);
    for (int i = 0; i < n; i++) {
        name_of(&g[i], name, sizeof name);
        print_row(name, g[i].t, g[i].count, g[i].bytes);
    }
    free(g);
    return CLI_DONE;
}

static void print_counts(const fm_shape *s)
{
    cli_buf a, b, c;
    printf("parameters  %s total, %s active (%s without the input embedding)\n",
           cli_count((double)s->total, &a), cli_count((double)s->active, &b),
           cli_count((double)s->active_no_embed, &c));
    if (s->mtp_layers)
        printf("MTP module  %s of its own, %s active with the shared embedding and head\n",
               cli_count((double)s->mtp_total, &a), cli_count((double)s->mtp_active, &b));
    printf("FLOPs       %s a token forward, %s training (mean over %lld tokens)\n",
           cli_count(s->flops_forward, &a), cli_count(s->flops_training, &b), (long long)s->length);
    printf("latent KV   %lld bytes a token in bf16; expanded keys and values would take %lld\n",
           (long long)s->kv_bytes_bf16, 2 * (long long)s->kv_elements_mha);
}

static int print_text(const char *path, const fm_inspection *r, bool all)
{
    cli_buf a;
    printf("%s\n\nconfig\n", path);
    for (int i = 0; i < r->shape.n_settings; i++)
        printf("  %-32s %s\n", r->shape.setting[i].key, r->shape.setting[i].value);
    printf("\ntensors     %d in %d file%s, %s\n", r->n_tensors, r->n_files,
           r->n_files == 1 ? "" : "s", cli_bytes((double)r->bytes, &a));
    int rc = print_tensors(r, all);
    if (rc) return rc;
    putchar('\n');
    print_counts(&r->shape);
    printf("\nprograms\n");
    for (int i = 0; i < r->n_loaders; i++)
        printf("  %-13s %s%s%s\n", r->loader[i].program,
               r->loader[i].loads ? "loads it" : "does not load it",
               r->loader[i].why[0] ? ": " : "", r->loader[i].why);
    return CLI_DONE;
}

static void print_json_shape(const fm_shape *s)
{
    printf("\"config\": {");
    for (int i = 0; i < s->n_settings; i++)
        printf("%s\"%s\": %s", i ? ", " : "", s->setting[i].key, s->setting[i].value);
    printf(
        "}, \"parameters\": {\"total\": %lld, \"active\": %lld, "
         "\"active_no_embedding\": %lld, \"mtp\": %lld, "
        "\"mtp_active\": %lld}",
        (long long)s->total, (long long)s->active, (long long)s->active_no_embed,
        (long long)s->mtp_total, (long long)s->mtp_active);
    printf(
        ", \"flops_per_token\": {\"length\": %lld, \"forward\": %.0f, \"mtp\": %.0f, "
         "\"training\": %.0f}",
        (long long)s->length, s->flops_forward, s->flops_mtp, s->flops_training);
    printf(", \"kv_bytes_per_token\": {\"f32\": %lld, \"bf16\": %lld}",
           4 * (long long)s->kv_elements, (long long)s->kv_bytes_bf16);
}

static int print_json(const char *path, const fm_inspection *r)
{
    printf("{\"path\": ");
    cli_json_string(path);
    printf(", ");
    print_json_shape(&r->shape);
    printf(", \"bytes\": %lld, \"files\": %d, \"mtp\": %s, \"tensors\": [", (long long)r->bytes,
           r->n_files, r->mtp ? "true" : "false");
    for (int i = 0; i < r->n_tensors; i++) {
        const fm_tensor_row *t = &r->tensors[i];
        printf("%s\n{\"name\": ", i ? "," : "");
        cli_json_string(t->name);
        printf(", \"dtype\": \"%s\", \"shape\": [", t->dtype);
        for (int k = 0; k < t->rank; k++) printf("%s%lld", k ? ", " : "", (long long)t->dims[k]);
        printf("], \"bytes\": %lld}", (long long)t->bytes);
    }
    printf("],\n\"programs\": {");
    for (int i = 0; i < r->n_loaders; i++) {
        printf("%s\"%s\": {\"loads\": %s, \"why\": ", i ? ", " : "", r->loader[i].program,
               r->loader[i].loads ? "true" : "false");
        cli_json_string(r->loader[i].why);
        putchar('}');
    }
    printf("}}\n");
    return CLI_DONE;
}

int cmd_inspect(int argc, char **argv)
{
    cli_common common = {0};
    bool all = false;
    char **args;
    int n_args;
    const cli_option options[] = {
        CLI_OPT_MODEL(&common),
        {"tensors", CLI_FLAG, &all, NULL, "a row for every tensor"},
        CLI_OPT_JSON(&common),
    };
    const cli_command c = {
        "inspect",
        "--model M [options]",
        "Prints what a checkpoint holds: configuration, tensors, parameters, cache bytes, and "
         "which "
        "programs will load it. No weight is read.",
        options,
        CLI_COUNT(options),
        1};
    int rc = cli_parse(&c, argc, argv, &args, &n_args);
    if (rc != CLI_GO_ON) return rc;
    if (n_args && common.model) return cli_wrong("inspect", "unexpected argument \"%s\"", args[0]);
    fm_text path = {0};
    fm_inspection *r = NULL;
    fm_err err = {0};
    rc = cli_model_path("inspect", n_args ? args[0] : common.model, &path);
    if (rc != CLI_GO_ON) return rc;
    if (fm_checkpoint_inspect(path.data, &r, &err)) rc = cli_fail("inspect", "%s", err.text);
    else rc = common.json ? print_json(path.data, r) : print_text(path.data, r, all);
    fm_inspection_free(r);
    fm_text_deinit(&path);
    return rc;
}
