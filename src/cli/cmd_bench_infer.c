/* fathom bench decode, prefill and gemm. */
#include <stdio.h>
#include <string.h>

#include "bench_cli.h"
#include "fathom/bench.h"

enum { LIST_MAX = 16 };

static void print_parts(const fm_infer_speed *s)
{
    double sum = 0;
    printf("\n%-16s %10s %8s %7s\n", "operator", "ms a step", "calls", "share");
    for (int i = 0; i < s->n_parts; i++) {
        sum += s->part[i].seconds;
        printf("%-16s %10.3f %8lld %6.1f%%\n", s->part[i].name, 1e3 * s->part[i].seconds,
               (long long)s->part[i].calls, 100 * s->part[i].seconds / s->step_seconds);
    }
    printf("%-16s %10.3f %8s %6.1f%%   of a step of %.3f ms\n\n", "all operators", 1e3 * sum, "",
           100 * sum / s->step_seconds, 1e3 * s->step_seconds);
}

static int open_model(const bench_args *a, int64_t context, int rows, fm_infer_bench **out)
{
    fm_err err = {0};
    fm_dtype precision;
    int rc = cli_precision("bench", a->c.precision, FM_DTYPE_BF16, &precision);
    if (rc != CLI_GO_ON) return rc;
    fm_infer_bench_opts o = {.preset = a->preset,
                             .isa = a->c.isa,
                             .threads = (int)a->c.threads,
                             .precision = precision,
                             .context = context,
                             .rows = rows,
                             .chunk = a->chunk};
    if (fm_infer_bench_open(&o, out, &err)) return cli_fail("bench", "%s", err.text);
    return CLI_GO_ON;
}

int bench_decode(const bench_args *a)
{
    int64_t depth[LIST_MAX], rows[LIST_MAX], deepest = 0, most = 1;
    int n_depth = 0, n_rows = 0;
    char shape[96];
    fm_err err = {0};
    fm_infer_bench *b = NULL;
    fm_infer_speed s;
    int rc = bench_list("depth", a->depth ? a->depth : "0,4096,16384", depth, &n_depth, LIST_MAX);
    if (rc == CLI_GO_ON) rc = bench_list("rows", a->rows ? a->rows : "1", rows, &n_rows, LIST_MAX);
    for (int i = 0; i < n_depth; i++) deepest = depth[i] > deepest ? depth[i] : deepest;
    for (int i = 0; i < n_rows; i++) most = rows[i] > most ? rows[i] : most;
    if (rc == CLI_GO_ON) rc = open_model(a, deepest, (int)(most < 64 ? most : 65), &b);
    for (int i = 0; i < n_depth && rc == CLI_GO_ON; i++)
        for (int j = 0; j < n_rows && rc == CLI_GO_ON; j++) {
            if (fm_infer_bench_decode(b, depth[i], (int)rows[j], &s, &err)) {
                rc = cli_fail("bench", "%s", err.text);
                break;
            }
            snprintf(shape, sizeof shape, "%s depth %lld rows %lld, %.1f experts, %.0f+%.0f MB",
                     a->preset, (long long)depth[i], (long long)rows[j], s.experts,
                     1e-6 * s.weight_bytes, 1e-6 * s.cache_bytes);
            double bytes = s.weight_bytes + s.cache_bytes;
            bench_line(a, rows[j] == 1 ? "decode_tokens" : "verify_rows", shape,
                       s.tokens_per_second, "tokens/s", s.ceiling / bytes * (double)rows[j],
                       s.fraction);
            if (a->profile && !a->c.json) print_parts(&s);
        }
    fm_infer_bench_close(b);
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

int bench_prefill(const bench_args *a)
{
    int64_t tokens[LIST_MAX], most = 0;
    int n = 0;
    char shape[96];
    fm_err err = {0};
    fm_infer_bench *b = NULL;
    fm_infer_speed s;
    int rc = bench_list("depth", a->depth ? a->depth : "512,4096", tokens, &n, LIST_MAX);
    for (int i = 0; i < n; i++) most = tokens[i] > most ? tokens[i] : most;
    if (rc == CLI_GO_ON) rc = open_model(a, most, 1, &b);
    for (int i = 0; i < n && rc == CLI_GO_ON; i++) {
        if (fm_infer_bench_prefill(b, tokens[i], &s, &err)) {
            rc = cli_fail("bench", "%s", err.text);
            break;
        }
        snprintf(shape, sizeof shape, "%s %lld tokens, %.0f tokens/s", a->preset,
                 (long long)tokens[i], s.tokens_per_second);
        bench_line(a, "prefill", shape, s.operations / s.step_seconds, "FLOP/s", s.ceiling,
                   s.fraction);
        bench_line(a, "prefill_counted", shape, s.counted / s.step_seconds, "FLOP/s", s.ceiling,
                   s.fraction * s.counted / s.operations);
        if (a->profile && !a->c.json) print_parts(&s);
    }
    fm_infer_bench_close(b);
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

static void gemm_line(void *arg, const fm_gemm_speed *g)
{
    char name[64], shape[96];
    snprintf(name, sizeof name, "%s", g->name);
    snprintf(shape, sizeof shape, "%s %s %lld x %lld x %lld%s %s %s", g->kind, g->dtype,
             (long long)g->m, (long long)g->n, (long long)g->k, g->groups > 1 ? " grouped" : "",
             g->cold ? "cold" : "L2", g->compute_s > g->bytes_s ? "operations" : "bytes");
    double floor = g->compute_s > g->bytes_s ? g->compute_s : g->bytes_s;
    bench_line(arg, name, shape, g->flops, "FLOP/s", g->flops * g->seconds / floor, g->fraction);
}

int bench_gemm(const bench_args *a)
{
    fm_err err = {0};
    fm_dtype precision;
    int64_t rows = 0;
    int n = 0, rc = cli_precision("bench", a->c.precision, FM_DTYPE_BF16, &precision);
    if (rc == CLI_GO_ON && a->rows) rc = bench_list("rows", a->rows, &rows, &n, 1);
    if (rc != CLI_GO_ON) return rc;
    fm_gemm_bench_opts o = {.preset = a->preset,
                            .isa = a->c.isa,
                            .threads = (int)a->c.threads,
                            .precision = precision,
                            .rows = rows};
    if (fm_bench_gemm(&o, gemm_line, (void *)(uintptr_t)a, &err))
        return cli_fail("bench", "%s", err.text);
    return CLI_DONE;
}
