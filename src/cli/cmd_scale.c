/* fathom scale design | run | fit | plot | predict | compare: finds the part; fits, plots,
 * predicts. The parts that start runs stand in cmd_scale_study.c. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fathom/nearest.h"
#include "fathom/scale.h"
#include "scale_cli.h"

typedef struct part {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} part;

static int scale_fit(int argc, char **argv);
static int scale_plot(int argc, char **argv);
static int scale_predict(int argc, char **argv);

static int parts_of(part *p)
{
    int n = 0;
    if (cmd_scale_design)
        p[n++] = (part){"design", "plan a study: sizes, budgets, time", cmd_scale_design};
    if (cmd_scale_run)
        p[n++] = (part){"run", "work through a study, or go on with it", cmd_scale_run};
    p[n++] = (part){"fit", "exponents with 95% intervals, from a study or a CSV file", scale_fit};
    p[n++] = (part){"plot", "the fits as SVG and PNG, and a report", scale_plot};
    p[n++] = (part){"predict", "best size, tokens and loss for a budget", scale_predict};
    if (cmd_scale_compare)
        p[n++] =
            (part){"compare", "an idea against the baseline, at several sizes", cmd_scale_compare};
    return n;
}

static void print_help(void)
{
    part p[8];
    int n = parts_of(p);
    printf("usage: fathom scale PART [options]\n\n"
           "Scaling laws: how loss falls with size, tokens and compute.\n\n");
    for (int i = 0; i < n; i++) printf("  %-10s %s\n", p[i].name, p[i].about);
    printf("\nfathom scale PART --help shows a part's options. docs/scaling.md has the methods.\n");
}

int cmd_scale(int argc, char **argv)
{
    part p[8];
    const char *names[8];
    int n = parts_of(p);
    const char *want = argc > 1 ? argv[1] : NULL;
    if (!want) return cli_wrong("scale", "a part is missing; fathom scale --help lists them");
    if (!strcmp(want, "--help") || !strcmp(want, "-h")) return print_help(), CLI_DONE;
    if (want[0] == '-') return cli_wrong("scale", "unknown option %s; fathom scale --help", want);
    for (int i = 0; i < n; i++) {
        if (!strcmp(want, p[i].name)) return p[i].run(argc - 1, argv + 1);
        names[i] = p[i].name;
    }
    const char *near = fm_nearest(want, names, n);
    return near ? cli_wrong("scale", "unknown part \"%s\"; did you mean \"%s\"?", want, near)
                : cli_wrong("scale", "unknown part \"%s\"; fathom scale --help lists them", want);
}

/* --- points and options the three share ------------------------------------------------------- */

typedef struct scale_args {
    cli_common c;
    const char *csv, *study, *arm, *counting, *method;
    cli_list column;
    double huber, below;
    int64_t bootstrap, drop;
    bool sparsity, all;
} scale_args;

#define SCALE_OPTIONS(a)                                                                           \
    {"csv", CLI_TEXT, &(a).csv, "FILE",                                                            \
     "finished runs: a header, then size (params or N; or M), tokens or flops (D or C), loss; "    \
     "also read where they are there: active, params_total, lr, batch_tokens, batch_seqs, "        \
     "seq_len, steps, budget"},                                                                    \
        {"study", CLI_TEXT, &(a).study, "DIR",                                                     \
         "or the finished runs of a study of fathom scale run (DIR/points.csv)"},                  \
        {"arm", CLI_TEXT, &(a).arm, "NAME",                                                        \
         "of a comparison only these runs: \"baseline\" or an idea's name"},                       \
        {"column", CLI_LIST, &(a).column, "FIELD=NAME",                                            \
         "the column of a field, such as loss=smooth_loss; FIELD=- for none; may be repeated"},    \
        {"bootstrap", CLI_INT, &(a).bootstrap, "N", "redraws for the intervals (default 500)"},    \
        {"huber-delta", CLI_REAL, &(a).huber, "X", "delta of the Huber loss on ln loss (1e-3)"},   \
        {"sparsity", CLI_FLAG, &(a).sparsity, NULL,                                                \
         "a term in total over active parameters: A / (N^alpha S^gamma)"},                         \
        {"drop-highest", CLI_INT, &(a).drop, "N", "leave out the N highest losses"},               \
        {"below", CLI_REAL, &(a).below, "C", "leave out runs of more than C FLOPs"},               \
        {"keep-all", CLI_FLAG, &(a).all, NULL,                                                     \
         "keep points further than 12 robust deviations from the surface too"},                    \
        {"counting", CLI_TEXT, &(a).counting, "N|6N|M",                                            \
         "how size and compute are counted in constants, plots and predictions (default: N, "      \
         "or M where there is no N); docs/scaling.md"},                                            \
        CLI_OPT_SEED(&(a).c)

static int check(const char *name, const scale_args *a)
{
    if (!a->csv == !a->study) return cli_wrong(name, "one of --csv FILE and --study DIR is needed");
    if (a->bootstrap < 0 || a->bootstrap == 1 || a->bootstrap > 100000)
        return cli_wrong(name, "--bootstrap: expected 2 to 100000, found %lld",
                         (long long)a->bootstrap);
    if (a->huber < 0)
        return cli_wrong(name, "--huber-delta: expected a positive number, found %g", a->huber);
    if (a->drop < 0 || a->drop > 1000000)
        return cli_wrong(name, "--drop-highest: expected 0 or more, found %lld",
                         (long long)a->drop);
    return CLI_GO_ON;
}

/* DIR/points.csv is there, or a line that says what to do. */
static int find_points(const char *name, const char *study, const char *from)
{
    char plan[4096];
    if (!access(from, F_OK)) return CLI_GO_ON;
    bool planned = snprintf(plan, sizeof plan, "%s/plan.json", study) < (int)sizeof plan &&
                   !access(plan, F_OK);
    return planned ? cli_fail(name, "%s: no run has ended yet; fathom scale run %s goes on", from,
                              study)
                   : cli_fail(name, "%s: no study there; fathom scale design makes one", from);
}

static int counting_of(const char *name, const char *text, int *out)
{
    *out = 0;
    for (int c = 0; text && c < FM_SCALE_COUNTINGS; c++)
        if (!strcmp(text, fm_scale_counting_name((fm_scale_counting)c))) *out = 1 + c;
    if (!text || *out) return CLI_GO_ON;
    return cli_wrong(name, "--counting: expected N, 6N or M, found \"%s\"", text);
}

/* Points and their fit; *from names the source. */
static int make_fit(const char *name, const scale_args *a, char *from, size_t from_size,
                    fm_scale_fit **fit)
{
    fm_err err = {0};
    fm_scale_points *p = NULL;
    fm_scale_options o = {.seed = (uint64_t)a->c.seed,
                          .n_bootstrap = (int)a->bootstrap,
                          .huber_delta = a->huber,
                          .sparsity = a->sparsity,
                          .keep_all = a->all};
    snprintf(from, from_size, a->study ? "%s/points.csv" : "%s", a->study ? a->study : a->csv);
    int rc = counting_of(name, a->counting, &o.main);
    if (rc == CLI_GO_ON && a->study) rc = find_points(name, a->study, from);
    if (rc != CLI_GO_ON) return rc;
    if (fm_scale_points_new(&p, &err)) return cli_fail(name, "%s", err.text);
    fm_scale_points_arm(p, a->arm);
    if (fm_scale_points_read(p, from, a->column.item, a->column.n, &err))
        rc = cli_fail(name, "%s", err.text);
    if (rc == CLI_GO_ON) {
        fm_scale_points_drop_highest(p, (int)a->drop);
        if (a->below > 0) fm_scale_points_drop_above(p, a->below);
        if (fm_scale_fit_new(p, &o, fit, &err)) rc = cli_fail(name, "%s: %s", from, err.text);
    }
    fm_scale_points_free(p);
    return rc;
}

/* --- fit -------------------------------------------------------------------------------------- */

/* One line: what each method lacks, and what can run instead. */
static void say_why_not(const char *name, const char *from, const fm_scale_view *v, bool any)
{
    const char *why[3] = {v->envelope.why, v->valley.why, v->surface.why};
    const bool done[3] = {v->envelope.done, v->valley.done, v->surface.done};
    static const char *const names[3] = {"envelope", "isoflop", "parametric"};
    char text[1200] = "", can[64] = "";
    size_t n = 0, m = 0;
    for (int i = 0; i < 3; i++) {
        if (done[i])
            m += (size_t)snprintf(can + m, sizeof can - m, "%s%s", m ? ", " : "", names[i]);
        else
            n += (size_t)snprintf(text + n, sizeof text - n, "%s%s: %.200s", n ? "; " : "",
                                  names[i], why[i]);
    }
    if (n)
        fprintf(stderr, "fathom %s: %s: %s. Methods that ran: %s.%s\n", name, from, text,
                m ? can : "none",
                any || !v->valley.n_budgets
                    ? ""
                    : " --method isoflop gives the minimum of each budget alone.");
}

static bool method_done(const fm_scale_view *v, const char *method, bool any)
{
    if (!method) return any;
    if (!strcmp(method, "envelope")) return v->envelope.done;
    if (!strcmp(method, "parametric")) return v->surface.done;
    for (int i = 0; i < v->valley.n_budgets; i++)
        if (v->valley.budgets[i].used) return true;
    return v->valley.done;
}

static int print_fit(const char *name, const scale_args *a, const char *from, const fm_scale_fit *f)
{
    fm_err err = {0};
    fm_text text = {0};
    const fm_scale_view *v = fm_scale_fit_view(f, fm_scale_fit_main(f));
    bool any = fm_scale_fit_any(f);
    say_why_not(name, from, v, any || a->method);
    if (!method_done(v, a->method, any)) return CLI_FAILED;
    if (a->c.json ? fm_scale_fit_json(f, &text, &err) : fm_scale_fit_table(f, &text, &err)) {
        fm_text_deinit(&text);
        return cli_fail(name, "%s", err.text);
    }
    fwrite(text.data, 1, text.n, stdout);
    if (a->c.json) putchar('\n');
    fm_text_deinit(&text);
    return CLI_DONE;
}

static int scale_fit(int argc, char **argv)
{
    static const char NAME[] = "scale fit";
    scale_args a = {0};
    char from[4096];
    const cli_option options[] = {SCALE_OPTIONS(a),
                                  {"method", CLI_TEXT, &a.method, "envelope|isoflop|parametric",
                                   "the method that must succeed (default: any)"},
                                  CLI_OPT_JSON(&a.c)};
    const cli_command c = {
        NAME,
        "--csv FILE | --study DIR [options]",
        "Fits by three methods how best size and tokens grow with compute: the envelope of the "
        "lowest losses, a parabola per budget (IsoFLOP), and L = E + A/N^alpha + B/D^beta "
        "(parametric). Every exponent and constant has its 95% interval. Where the runs sweep "
        "batch and learning rate, their power laws too.",
        options,
        CLI_COUNT(options),
        0};
    fm_scale_fit *f = NULL;
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (a.method && strcmp(a.method, "envelope") && strcmp(a.method, "isoflop") &&
        strcmp(a.method, "parametric"))
        return cli_wrong(NAME, "--method: expected envelope, isoflop or parametric, found \"%s\"",
                         a.method);
    if ((rc = check(NAME, &a)) != CLI_GO_ON) return rc;
    rc = make_fit(NAME, &a, from, sizeof from, &f);
    if (rc == CLI_GO_ON) rc = print_fit(NAME, &a, from, f);
    fm_scale_fit_free(f);
    return rc;
}

/* --- plot ------------------------------------------------------------------------------------- */

static int scale_plot(int argc, char **argv)
{
    static const char NAME[] = "scale plot";
    scale_args a = {0};
    char from[4096];
    const cli_option options[] = {SCALE_OPTIONS(a), CLI_OPT_OUT(&a.c)};
    const cli_command c = {
        NAME,
        "(--csv FILE --out DIR | --study DIR [--out DIR]) [options]",
        "Fits, and writes isoflop, frontier and residuals as SVG and PNG (through gnuplot), "
        "their data and scripts, and report.md; into DIR/plots of a study, or --out.",
        options,
        CLI_COUNT(options),
        0};
    fm_scale_fit *f = NULL;
    fm_err err = {0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON || (rc = check(NAME, &a)) != CLI_GO_ON) return rc;
    if (!a.c.out && !a.study) return cli_wrong(NAME, "--out is missing");
    char dir[4096];
    snprintf(dir, sizeof dir, a.c.out ? "%s" : "%s/plots", a.c.out ? a.c.out : a.study);
    rc = make_fit(NAME, &a, from, sizeof from, &f);
    if (rc == CLI_GO_ON && !fm_scale_fit_any(f)) {
        say_why_not(NAME, from, fm_scale_fit_view(f, fm_scale_fit_main(f)), false);
        rc = CLI_FAILED;
    }
    if (rc == CLI_GO_ON && fm_scale_plot(f, dir, &err)) rc = cli_fail(NAME, "%s", err.text);
    if (rc == CLI_GO_ON) {
        printf("%s: isoflop, frontier, residuals%s as .svg and .png; report.md\n", dir,
               fm_scale_fit_sweep(f)->there ? ", sweep" : "");
        rc = CLI_DONE;
    }
    fm_scale_fit_free(f);
    return rc;
}

/* --- predict ---------------------------------------------------------------------------------- */

static void print_value(const char *key, fm_scale_value v)
{
    printf(", \"%s\": {\"value\": %.8g, \"low\": %.8g, \"high\": %.8g}", key, v.value, v.low,
           v.high);
}

static void print_prediction(const fm_scale_prediction *p, fm_scale_counting c, bool json)
{
    const char *size = c == FM_SCALE_M ? "M" : "N";
    if (json) {
        printf("{\"flops\": %.8g, \"method\": \"%s\", \"counting\": \"%s\"", p->flops, p->method,
               fm_scale_counting_name(c));
        print_value(size, p->size);
        print_value("D", p->tokens);
        print_value("loss", p->loss);
        printf(", \"times_beyond\": %.4g}\n", p->times_beyond);
        return;
    }
    printf("C %.4g FLOPs, %.3g times the largest run (%s)\n", p->flops, p->times_beyond, p->method);
    printf("  %s     %11.4g  [%.4g, %.4g]%s\n", size, p->size.value, p->size.low, p->size.high,
           c == FM_SCALE_M ? " FLOPs a token" : " parameters");
    printf("  D     %11.4g  [%.4g, %.4g] tokens, %.3g a %s\n", p->tokens.value, p->tokens.low,
           p->tokens.high, p->tokens_per_size, c == FM_SCALE_M ? "FLOP" : "parameter");
    printf("  loss  %11.4f  [%.4f, %.4f]\n", p->loss.value, p->loss.low, p->loss.high);
}

static int scale_predict(int argc, char **argv)
{
    static const char NAME[] = "scale predict";
    scale_args a = {0};
    char from[4096];
    double budget = 0, size = 0, tokens = 0;
    const cli_option options[] = {
        SCALE_OPTIONS(a),
        {"flops", CLI_REAL, &budget, "C", "the budget, such as 1e20"},
        {"size", CLI_REAL, &size, "N",
         "with --tokens: the loss of this run instead (N; with --counting M, FLOPs a token)"},
        {"tokens", CLI_REAL, &tokens, "D", "see --size"},
        CLI_OPT_JSON(&a.c)};
    const cli_command c = {
        NAME,
        "(--csv FILE | --study DIR) (--flops C | --size N --tokens D) [options]",
        "The best size and token count for a budget and the loss expected there, with 95% "
        "intervals; the loss's covers the scatter of one run.",
        options,
        CLI_COUNT(options),
        0};
    fm_scale_fit *f = NULL;
    fm_scale_counting counting = FM_SCALE_N;
    fm_scale_prediction p;
    fm_scale_value v;
    fm_err err = {0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON || (rc = check(NAME, &a)) != CLI_GO_ON) return rc;
    bool one_run = size != 0 || tokens != 0;
    if (!one_run && budget == 0) return cli_wrong(NAME, "--flops is missing");
    rc = make_fit(NAME, &a, from, sizeof from, &f);
    if (rc == CLI_GO_ON) counting = fm_scale_fit_main(f);
    if (rc == CLI_GO_ON && (one_run ? fm_scale_predict_loss(f, counting, size, tokens, &v, &err)
                                    : fm_scale_predict(f, counting, budget, &p, &err)))
        rc = cli_fail(NAME, "%s: %s", from, err.text);
    if (rc == CLI_GO_ON) {
        if (!one_run)
            print_prediction(&p, counting, a.c.json);
        else if (a.c.json)
            printf("{\"loss\": {\"value\": %.8g, \"low\": %.8g, \"high\": %.8g}}\n", v.value, v.low,
                   v.high);
        else
            printf("loss %.4f [%.4f, %.4f]\n", v.value, v.low, v.high);
        rc = CLI_DONE;
    }
    fm_scale_fit_free(f);
    return rc;
}
