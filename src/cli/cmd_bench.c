/* fathom bench: speed as a fraction of what the machine can do. One JSON object a line with --json.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bench_cli.h"
#include "fathom/bench.h"
#include "fathom/machine.h"

void bench_line(const bench_args *a, const char *name, const char *shape, double value,
                const char *unit, double bound, double fraction)
{
    if (fraction < 0) fraction = bound > 0 ? value / bound : 0;
    if (a->c.json)
        printf("{\"name\": \"%s\", \"shape\": \"%s\", \"value\": %.6g, \"unit\": \"%s\", "
               "\"bound\": %.6g, "
               "\"fraction\": %.4g}\n",
               name, shape, value, unit, bound, fraction);
    else if (bound > 0)
        printf("%-18s %-44s %10.4g %-9s %5.1f%% of %.4g\n", name, shape, value, unit,
               100 * fraction, bound);
    else
        printf("%-18s %-44s %10.4g %-9s\n", name, shape, value, unit);
    fflush(stdout);
}

int bench_list(const char *option, const char *text, int64_t *out, int *n, int most)
{
    for (const char *p = text; *n < most; p++) {
        char *end;
        double v = strtod(p, &end);
        int64_t unit = *end == 'k' ? 1024 : 1;
        if (end == p || v < 0 || v > 1e9)
            return cli_wrong("bench", "--%s %s: expected numbers, as 0,4096", option, text);
        out[(*n)++] = (int64_t)v * unit;
        p = unit > 1 ? end + 1 : end;
        if (!*p) return CLI_GO_ON;
        if (*p != ',') break;
    }
    return cli_wrong("bench", "--%s %s: expected at most %d numbers, as 0,4096", option, text,
                     most);
}

/* The best of several rounds; the bound is the best itself, the fraction tells the median's
 * distance. */
static int machine(const bench_args *a)
{
    fm_ceiling c[FM_CEILINGS_MAX];
    fm_err err = {0};
    int n = 0;
    char shape[48];
    if (fm_machine_measure(a->c.isa, (int)a->c.threads, 6, c, &n, &err))
        return cli_fail("bench", "%s", err.text);
    for (int i = 0; i < n; i++) {
        if (c[i].value <= 0) continue;
        snprintf(shape, sizeof shape, "%d thread%s, median of rounds", c[i].threads,
                 c[i].threads > 1 ? "s" : "");
        bench_line(a, c[i].name, shape, c[i].median, c[i].unit, c[i].value, -1);
    }
    return CLI_DONE;
}

/* FLOP/s all threads reach at best in this precision. */
static int ceiling_of(const bench_args *a, fm_dtype precision, double *out)
{
    fm_ceiling c[FM_CEILINGS_MAX];
    fm_err err = {0};
    int n = 0, most = 0;
    *out = 0;
    if (fm_machine_measure(a->c.isa, (int)a->c.threads, 2, c, &n, &err))
        return cli_fail("bench", "%s", err.text);
    for (int i = 0; i < n; i++)
        if (c[i].threads > most) most = c[i].threads;
    for (int i = 0; i < n; i++) {
        bool tile = precision == FM_DTYPE_BF16 && !strcmp(c[i].name, "amx_bf16");
        if (c[i].threads == most && (tile || !strcmp(c[i].name, "fma_f32")) && c[i].value > *out)
            *out = c[i].value;
    }
    return CLI_GO_ON;
}

static void print_profile(const fm_train_bench *b)
{
    double sum = 0;
    for (int i = 0; i < b->n_parts; i++) sum += b->part[i].seconds;
    printf("\n%-16s %10s %8s %7s\n", "operator", "ms a step", "calls", "share");
    for (int i = 0; i < b->n_parts; i++)
        printf("%-16s %10.2f %8lld %6.1f%%\n", b->part[i].name, 1e3 * b->part[i].seconds,
               (long long)b->part[i].calls, 100 * b->part[i].seconds / b->step_seconds);
    printf("%-16s %10.2f %8s %6.1f%%   of a step of %.2f ms\n\n", "all operators", 1e3 * sum, "",
           100 * sum / b->step_seconds, 1e3 * b->step_seconds);
}

static int train(const bench_args *a)
{
    fm_err err = {0};
    fm_train_bench b;
    double peak;
    char shape[96];
    fm_dtype precision;
    int64_t rows = 32;
    int n = 0, rc = cli_precision("bench", a->c.precision, FM_DTYPE_BF16, &precision);
    if (rc == CLI_GO_ON && a->rows) rc = bench_list("rows", a->rows, &rows, &n, 1);
    if (rc == CLI_GO_ON && (rows < 1 || a->seq < 8 || a->steps < 1))
        rc = cli_wrong("bench", "--rows, --seq and --steps: too small");
    if (rc == CLI_GO_ON) rc = ceiling_of(a, precision, &peak);
    for (int mtp = 0; mtp < 2 && rc == CLI_GO_ON; mtp++) {
        fm_train_bench_opts o = {.preset = a->preset,
                                 .isa = a->c.isa,
                                 .threads = (int)a->c.threads,
                                 .precision = precision,
                                 .mtp = mtp,
                                 .dense_twin = a->dense,
                                 .muon = a->optimizer && !strcmp(a->optimizer, "muon"),
                                 .rows = rows,
                                 .seq = a->seq,
                                 .micro = a->micro,
                                 .steps = (int)a->steps};
        if (fm_bench_train(&o, &b, &err)) return cli_fail("bench", "%s", err.text);
        snprintf(shape, sizeof shape, "%s%s %lld x %lld %s", a->preset, a->dense ? " twin" : "",
                 (long long)rows, (long long)a->seq, o.muon ? "muon" : "adamw");
        bench_line(a, mtp ? "train_tokens_mtp" : "train_tokens", shape, b.tokens_per_second,
                   "tokens/s", peak / b.flops_per_token, -1);
        if (a->profile && !a->c.json) print_profile(&b);
    }
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

int cmd_bench(int argc, char **argv)
{
    static const struct {
        const char *name, *preset;
        int (*fn)(const bench_args *a);
    } what[] = {{"machine", "nano", machine},
                {"train", "nano", train},
                {"gemm", "nano", bench_gemm},
                {"decode", "mini", bench_decode},
                {"prefill", "mini", bench_prefill}};
    bench_args a = {.seq = 512, .steps = 3};
    char **args = NULL;
    int n = 0;
    const cli_option options[] = {
        {"preset", CLI_TEXT, &a.preset, "P",
         "shape of the model (default nano; mini for decode and prefill)"},
        {"rows", CLI_TEXT, &a.rows, "N",
         "train: packed rows of a step (default 32); gemm: tokens (4096); decode: "
         "rows of a step, a list (1)"},
        {"depth", CLI_TEXT, &a.depth, "N,..",
         "decode: cached tokens (0,4096,16384); prefill: tokens (512,4096)"},
        {"seq", CLI_INT, &a.seq, "N", "tokens of a row (default 512)"},
        {"micro", CLI_INT, &a.micro, "N", "tokens of a micro-batch (default: as a run)"},
        {"chunk", CLI_INT, &a.chunk, "N", "prefill: tokens of a forward pass (default: as a session)"},
        {"steps", CLI_INT, &a.steps, "N", "steps measured after the first (default 3)"},
        {"optimizer", CLI_TEXT, &a.optimizer, "adamw|muon", "default adamw"},
        {"dense", CLI_FLAG, &a.dense, NULL, "the dense twin instead of experts"},
        {"profile", CLI_FLAG, &a.profile, NULL, "the step's time by operator"},
        CLI_OPT_PRECISION(&a.c),
        CLI_OPT_THREADS(&a.c),
        CLI_OPT_ISA(&a.c),
        CLI_OPT_JSON(&a.c),
    };
    const cli_command c = {
        "bench",
        "machine|gemm|train|decode|prefill [options]",
        "machine: the ceilings of this processor, measured, on one thread and on all.\n"
        "gemm: the products of a training step, operands cold and in L2, as a share of the "
        "larger floor: operations or bytes.\n"
        "train: whole training steps without and with the MTP module, as a share of the "
        "arithmetic ceiling; learned routing, random documents of 64..512 tokens.\n"
        "decode: steps of one or a few rows over a cache, as a share of reading the weights and "
        "the cache once.\nprefill: prompts, as a share of the arithmetic ceiling.",
        options,
        CLI_COUNT(options),
        1};
    int rc = cli_parse(&c, argc, argv, &args, &n);
    if (rc != CLI_GO_ON) return rc;
    for (int i = 0; n == 1 && i < CLI_COUNT(what); i++)
        if (!strcmp(args[0], what[i].name)) {
            if (!a.preset) a.preset = what[i].preset;
            return what[i].fn(&a);
        }
    return cli_wrong("bench", "what to measure: machine, gemm, train, decode or prefill");
}
