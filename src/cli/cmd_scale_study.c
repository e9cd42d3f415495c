/* fathom scale design | run | compare: a study planned, worked through and, for an idea against a
 * baseline, judged. The board is drawn over on a terminal; elsewhere a line an event and one a
 * minute. */
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/study.h"
#include "scale_cli.h"

#define BOARD_LINES_MAX 16

/* --- shared --- */

static char program[PATH_MAX];

/* This program, for the children. */
static int find_program(const char *name)
{
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (n <= 0)
        return cli_fail(name, "/proc/self/exe cannot be read: the program's own path is not known");
    program[n] = 0;
    return CLI_GO_ON;
}

typedef struct design_args {
    cli_common c;
    cli_list text;
    fm_study_design_opts o;
    int64_t budgets, sizes, seeds, experts, active, seq, vocab, workers, val_every;
    const char *lr_law, *batch_law;
    double speed;
    bool header;
    double last_budget;
} design_args;

/* "a,b": scale and exponent of a law in C. */
static bool parse_law(const char *text, double *scale, double *exponent)
{
    char *end;
    if (!text) return true;
    *scale = strtod(text, &end);
    if (end == text || *end != ',' || !(*scale > 0)) return false;
    const char *second = end + 1;
    *exponent = strtod(second, &end);
    return end != second && !*end;
}

static bool small(int64_t v)
{
    return v >= 0 && v <= 1000000;
}

/* Options into fm_study_design_opts; arguments are text files. */
static int fill(const char *name, design_args *a, char **args, int n)
{
    fm_study_design_opts *o = &a->o;
    for (int i = 0; i < n; i++) {
        if (!a->text.n) return cli_wrong(name, "unexpected argument \"%s\"", args[i]);
        if (a->text.n == CLI_LIST_MAX)
            return cli_wrong(name, "more than %d text files", CLI_LIST_MAX);
        a->text.item[a->text.n++] = args[i];
    }
    if (!a->c.out) return cli_wrong(name, "--out is missing");
    if (!a->text.n == !o->data) return cli_wrong(name, "expected --text or --data");
    const int64_t ints[] = {a->budgets, a->sizes, a->seeds,   a->experts,   a->active,
                            a->seq,     a->vocab, a->workers, a->val_every, a->c.threads};
    for (int i = 0; i < CLI_COUNT(ints); i++)
        if (!small(ints[i])) return cli_wrong(name, "%lld: out of range", (long long)ints[i]);
    const double reals[] = {o->minutes,    o->low,    o->high,   o->span,
                            o->sizes_span, o->centre, o->epochs, a->speed};
    for (int i = 0; i < CLI_COUNT(reals); i++)
        if (!(reals[i] >= 0)) return cli_wrong(name, "%g: expected a positive number", reals[i]);
    if (!parse_law(a->lr_law, &o->lr_scale, &o->lr_exponent))
        return cli_wrong(name, "--lr-law: expected SCALE,EXPONENT, found \"%s\"", a->lr_law);
    if (!parse_law(a->batch_law, &o->batch_scale, &o->batch_exponent))
        return cli_wrong(name, "--batch-law: expected SCALE,EXPONENT, found \"%s\"", a->batch_law);
    o->program = program;
    o->out = a->c.out;
    o->text = a->text.item;
    o->n_text = a->text.n;
    o->val_every = (int)a->val_every;
    o->vocab = (int)a->vocab;
    o->budgets = (int)a->budgets;
    o->sizes = (int)a->sizes;
    o->seeds = (int)a->seeds;
    o->experts = (int)a->experts;
    o->active = (int)a->active;
    o->seq = (int)a->seq;
    o->recipe = a->c.recipe;
    o->set = a->c.set.item;
    o->n_set = a->c.set.n;
    o->threads = (int)a->c.threads;
    o->workers = (int)a->workers;
    o->speed = a->speed;
    o->dry_run = a->c.dry_run;
    return CLI_GO_ON;
}

static void on_stage(void *arg, const char *stage, const char *detail)
{
    const design_args *a = arg;
    if (!a->c.json) fprintf(stderr, "%s: %s\n", stage, detail);
}

static bool on_planned(void *arg, const fm_study_run *r)
{
    design_args *a = arg;
    cli_buf n, m, d, t, b;
    if (a->c.json) {
        printf("{\"id\": \"%s\", \"budget\": %.6g, \"width\": %d, \"layers\": %d, \"experts\": %d, "
               "\"params\": %.0f, "
               "\"params_total\": %.0f, \"flops_per_token\": %.0f, \"tokens\": %.0f, \"epochs\": "
               "%.4f, "
               "\"lr\": %.6g, \"batch_tokens\": %.0f, \"seconds\": %.2f}\n",
               r->id, r->budget, r->width, r->layers, r->experts, r->params, r->params_total,
               r->flops_per_token, r->tokens, r->epochs, r->lr, r->batch_tokens,
               r->seconds_expected);
        return true;
    }
    if (!a->header)
        printf("%-22s %9s %6s %6s %9s %9s %9s %7s %8s %8s %9s\n", "run", "budget", "width",
               "layers", "active", "M", "tokens", "epochs", "lr", "batch", "time");
    else if (r->budget != a->last_budget)
        putchar('\n');
    a->header = true;
    a->last_budget = r->budget;
    printf("%-22s %9.3g %6d %6d %9s %9s %9s %7.2f %8.2g %8s %9s\n", r->id, r->budget, r->width,
           r->layers, cli_count(r->params, &n), cli_count(r->flops_per_token, &m),
           cli_count(r->tokens, &d), r->epochs, r->lr, cli_count(r->batch_tokens, &b),
           cli_duration(r->seconds_expected, &t));
    return true;
}

static void print_design(const design_args *a, const fm_study_design *d)
{
    cli_buf t, n, v;
    if (a->c.json) {
        printf("{\"runs\": %d, \"budgets\": %d, \"low\": %.6g, \"high\": %.6g, \"seconds\": %.1f, "
               "\"corpus_tokens\": %.0f, \"val_tokens\": %.0f, \"epochs_max\": %.4f}\n",
               d->n_runs, d->n_budgets, d->low, d->high, d->seconds, d->corpus_tokens,
               d->val_tokens, d->epochs_max);
        return;
    }
    printf("\n%d runs, %s expected with %lld at a time; %s tokens of text (%s held out), at most "
           "%.2f epochs\n",
           d->n_runs, cli_duration(d->seconds, &t), (long long)(a->workers > 0 ? a->workers : 1),
           cli_count(d->corpus_tokens, &n), cli_count(d->val_tokens, &v), d->epochs_max);
    if (!a->c.dry_run) printf("work through it with: fathom scale run %s\n", a->c.out);
}

/* Options that design and compare share. */
#define DATA_OPTIONS(a)                                                                            \
    {"text", CLI_LIST, &(a).text, "FILE[:WEIGHT]", "text to train on; further files may follow"},  \
        {"data", CLI_TEXT, &(a).o.data, "DIR",                                                     \
         "token shards made by fathom data, instead (copied)"},                                    \
        {"val", CLI_TEXT, &(a).o.val, "FILE", "held-out text (default: some documents, by hash)"}, \
        {"val-every", CLI_INT, &(a).val_every, "N", "about one document in N is held out"},        \
        {"vocab", CLI_INT, &(a).vocab, "N", "entries of the tokenizer (default 2048)"},            \
        {"seq", CLI_INT, &(a).seq, "N", "tokens of a packed row (default 512)"},                   \
        {"epochs", CLI_REAL, &(a).o.epochs, "N", "most passes over the text (default 4)"},         \
        {"dense", CLI_FLAG, &(a).o.dense, NULL, "dense models instead of experts"},                \
        {"experts", CLI_INT, &(a).experts, "N", "routed experts (default 16)"},                    \
        {"active", CLI_INT, &(a).active, "N", "of them chosen for a token (default 4)"},           \
        {"lr-law", CLI_TEXT, &(a).lr_law, "A,B",                                                   \
         "learning rate A C^B (default 0.3118,-0.125: DeepSeek LLM)"},                             \
        {"batch-law", CLI_TEXT, &(a).batch_law, "A,B",                                             \
         "tokens of a step, A C^B (default 0.2920,0.3271)"},                                       \
        {"speed", CLI_REAL, &(a).speed, "FLOP/S",                                                  \
         "non-embedding training speed (default: measured)"},                                      \
    {                                                                                              \
        "workers", CLI_INT, &(a).workers, "N",                                                     \
            "runs side by side (default 1); the time is planned for so many"                            \
    }

/* In these commands the threads are those of one run. */
#define THREADS_OPTION(c)                                                                          \
    {                                                                                              \
        "threads", CLI_INT, &(c).threads, "N", "threads of each run (default: all processors)"     \
    }

/* --- design --- */

int cmd_scale_design(int argc, char **argv)
{
    static design_args a;
    char **args;
    int n_args;
    fm_err err = {0};
    fm_study_design d;
    a = (design_args){0};
    const cli_option options[] = {
        {"budgets", CLI_INT, &a.budgets, "N", "number of budgets (default 4)"},
        {"low", CLI_REAL, &a.o.low, "C", "smallest budget, FLOPs = M x tokens"},
        {"high", CLI_REAL, &a.o.high, "C", "largest (default: what can be finished in --minutes)"},
        {"span", CLI_REAL, &a.o.span, "R",
         "largest over smallest when they are not given (default 27)"},
        {"minutes", CLI_REAL, &a.o.minutes, "N", "time for the whole study (default 60)"},
        {"sizes", CLI_INT, &a.sizes, "N", "models of each budget (default 7)"},
        {"sizes-span", CLI_REAL, &a.o.sizes_span, "R",
         "largest M over smallest of a budget (default 12)"},
        {"centre", CLI_REAL, &a.o.centre, "F",
         "middle of a budget's sizes as a multiple of DeepSeek LLM's best M (default 1)"},
        {"seeds", CLI_INT, &a.seeds, "N", "runs of each size and budget (default 1)"},
        DATA_OPTIONS(a),
        CLI_OPT_OUT(&a.c),
        CLI_OPT_RECIPE(&a.c),
        CLI_OPT_SET(&a.c),
        THREADS_OPTION(a.c),
        CLI_OPT_DRY_RUN(&a.c),
        CLI_OPT_JSON(&a.c),
    };
    const cli_command command = {"scale design",
                                 "(--text FILE[:WEIGHT]... | --data DIR) --out STUDY [options]",
                                 "Plans an IsoFLOP study: sizes x budgets of one family of shapes, "
                                 "tokens D = C / M, learning rate and "
                                 "batch by law, time from short measured runs. Makes tokenizer and "
                                 "shards once. Refuses budgets that "
                                 "the machine cannot finish and says the largest that it can. "
                                 "docs/studies.md has the rules.",
                                 options,
                                 CLI_COUNT(options),
                                 CLI_LIST_MAX};
    int rc = cli_parse(&command, argc, argv, &args, &n_args);
    if (rc == CLI_GO_ON) rc = find_program(command.name);
    if (rc == CLI_GO_ON) rc = fill(command.name, &a, args, n_args);
    if (rc != CLI_GO_ON) return rc;
    const fm_study_hooks hooks = {&a, on_stage, on_planned};
    if (fm_study_design_run(&a.o, &hooks, &d, &err)) return cli_fail(command.name, "%s", err.text);
    print_design(&a, &d);
    return CLI_DONE;
}

/* --- run --- */

static volatile sig_atomic_t stop_asked;

static void on_signal(int sig)
{
    (void)sig;
    stop_asked++;
}

static void catch_signals(bool on)
{
    struct sigaction s = {.sa_handler = on ? on_signal : SIG_DFL, .sa_flags = SA_RESTART};
    sigemptyset(&s.sa_mask);
    sigaction(SIGINT, &s, NULL);
    sigaction(SIGTERM, &s, NULL);
}

typedef struct run_args {
    cli_common c;
    int64_t workers;
    double lease;
    bool keep, retry, reindex;
    int drawn;         /* lines of the board on the terminal */
    double last_plain; /* ticks since a plain line was printed */
} run_args;

static void wipe(run_args *a)
{
    for (; a->drawn > 0; a->drawn--) fputs("\x1b[1A\x1b[2K", stderr);
}

/* One object a line. */
static void json_event(fm_study_event e, const fm_study_run *r, const char *note)
{
    static const char *const names[] = {"started", "taken_back", "ended", "released"};
    printf("{\"event\": \"%s\", \"id\": \"%s\", \"status\": \"%s\", ", names[e], r->id,
           fm_study_state_name(r->state));
    if (e == FM_STUDY_ENDED && r->state == FM_STUDY_DONE)
        printf("\"loss\": %.9g, \"bits_per_byte\": %.9g, \"seconds\": %.3f, ", r->loss,
               r->bits_per_byte, r->wall_seconds);
    printf("\"note\": ");
    cli_json_string(note);
    printf("}\n");
    fflush(stdout);
}

static void on_event(void *arg, fm_study_event e, const fm_study_run *r, const char *note)
{
    run_args *a = arg;
    cli_buf t;
    if (a->c.json) {
        json_event(e, r, note);
        return;
    }
    wipe(a);
    if (e == FM_STUDY_STARTED)
        fprintf(stderr, "%-22s started\n", r->id);
    else if (e == FM_STUDY_TAKEN_BACK)
        fprintf(stderr, "%-22s taken back from a worker that is gone\n", r->id);
    else if (e == FM_STUDY_RELEASED)
        fprintf(stderr, "%-22s stays to do: %s\n", r->id, note);
    else if (r->state == FM_STUDY_FAILED)
        fprintf(stderr, "%-22s failed: %s\n", r->id, note);
    else if (r->wall_seconds > 0)
        fprintf(stderr, "%-22s done: loss %.4f, %.4f bits per byte, %s (expected %.0f s)\n", r->id,
                r->loss, r->bits_per_byte, cli_duration(r->wall_seconds, &t), r->seconds_expected);
    else
        fprintf(stderr, "%-22s done: %s\n", r->id, note);
    fflush(stderr);
}

static void board_head(const fm_study_board *b)
{
    cli_buf t;
    fprintf(stderr, "%d done, %d failed, %d at work, %d to do; about %s left\n", b->done, b->failed,
            b->doing, b->waiting, cli_duration(b->seconds_left, &t));
}

static void on_board(void *arg, const fm_study_board *b)
{
    run_args *a = arg;
    cli_buf n;
    char line[256];
    if (a->c.json) return;
    if (!cli_is_terminal()) {
        if (a->last_plain++ < 60) return; /* a tick is a second */
        a->last_plain = 0;
        board_head(b);
        return;
    }
    wipe(a);
    board_head(b);
    a->drawn = 1;
    for (int i = 0; i < b->n_lines && i < BOARD_LINES_MAX; i++, a->drawn++) {
        int full = (int)(20 * b->line[i].fraction);
        snprintf(line, sizeof line, "  %-22s [%-20.*s] %3.0f%%  loss %.3f  %s tokens/s%s",
                 b->line[i].id, full > 20 ? 20 : full, "####################",
                 100 * b->line[i].fraction, b->line[i].loss,
                 cli_count(b->line[i].tokens_per_second, &n),
                 b->line[i].mine ? "" : "  (another process)");
        fprintf(stderr, "%.*s\n", cli_width() - 1, line);
    }
    fflush(stderr);
}

static int reindex(const char *name, const char *dir)
{
    fm_err err = {0};
    bool db = false;
    if (fm_study_reindex(dir, &db, &err)) return cli_fail(name, "%s", err.text);
    printf("%s/points.csv%s\n", dir,
           db ? " and index.db" : "; no index.db: built without SQLite (libsqlite3-dev)");
    return CLI_DONE;
}

/* Works and reports; the exit code, or CLI_GO_ON after a whole study. */
static int work(const char *name, const char *dir, run_args *a)
{
    fm_err err = {0};
    fm_study_board b;
    fm_study_run_opts o = {.program = program,
                           .threads = (int)a->c.threads,
                           .workers = (int)a->workers,
                           .lease_s = a->lease,
                           .keep = a->keep,
                           .retry = a->retry,
                           .stop = &stop_asked,
                           .arg = a,
                           .on_event = on_event,
                           .on_board = on_board};
    stop_asked = 0;
    catch_signals(true);
    fm_status st = fm_study_work(dir, &o, &err);
    catch_signals(false);
    if (st == FM_E_CANCELLED) {
        fprintf(stderr, "%s\ngo on with: fathom %s %s%s\n", err.text, name,
                strcmp(name, "scale run") ? "--out " : "", dir);
        return CLI_DONE;
    }
    if (st) return cli_fail(name, "%s", err.text);
    if (fm_study_board_get(dir, &b, &err)) return cli_fail(name, "%s", err.text);
    fprintf(stderr, "%d done, %d failed\n", b.done, b.failed);
    if (!b.done) return cli_fail(name, "no run ended well; %s/runs/<id>/result.json says why", dir);
    return CLI_GO_ON;
}

#define RUN_OPTIONS(a)                                                                             \
    {"keep", CLI_FLAG, &(a).keep, NULL, "keep the checkpoints of finished runs"},                  \
        {"retry", CLI_FLAG, &(a).retry, NULL, "failed runs start again"},                          \
    {                                                                                              \
        "lease", CLI_REAL, &(a).lease, "SECONDS",                                                  \
            "after which a silent worker's run is taken over (default 30)"                         \
    }

int cmd_scale_run(int argc, char **argv)
{
    static run_args a;
    char **args;
    int n_args;
    a = (run_args){.last_plain = 60};
    const cli_option options[] = {
        {"workers", CLI_INT, &a.workers, "N", "runs at a time in this process (default 1)"},
        {"reindex", CLI_FLAG, &a.reindex, NULL,
         "only rebuild points.csv and index.db from the directories"},
        RUN_OPTIONS(a),
        THREADS_OPTION(a.c),
        CLI_OPT_JSON(&a.c),
    };
    const cli_command command = {"scale run",
                                 "STUDY [--threads N] [--workers N]",
                                 "Works through a study, the longest run first, each in a child "
                                 "process. Any number of processes may "
                                 "work on one study. Killed or stopped at any moment, the same "
                                 "command goes on. STUDY may be moved.",
                                 options,
                                 CLI_COUNT(options),
                                 1};
    int rc = cli_parse(&command, argc, argv, &args, &n_args);
    if (rc == CLI_GO_ON) rc = find_program(command.name);
    if (rc != CLI_GO_ON) return rc;
    if (n_args != 1) return cli_wrong(command.name, "expected the study's directory");
    if (!small(a.workers) || !small(a.c.threads) || !(a.lease >= 0))
        return cli_wrong(command.name, "--workers, --threads, --lease: out of range");
    if (a.reindex) return reindex(command.name, args[0]);
    rc = work(command.name, args[0], &a);
    if (rc != CLI_GO_ON) return rc;
    if (!a.c.json) printf("%s/points.csv\n", args[0]);
    return CLI_DONE;
}

/* --- compare --- */

/* "a,b,c" into pointers; text is cut up. */
static int split(char *text, const char **out, int cap)
{
    int n = 0;
    for (char *p = text; p && *p && n < cap;) {
        out[n++] = p;
        p = strchr(p, ',');
        if (p) *p++ = 0;
    }
    return n;
}

static bool is_study(const char *dir)
{
    char path[PATH_MAX];
    return snprintf(path, sizeof path, "%s/plan.json", dir) < (int)sizeof path &&
           !access(path, R_OK);
}

static int plan_comparison(const char *name, design_args *a, fm_study_compare_opts *o,
                           const cli_list *ideas, const char *sizes)
{
    static char text[1024];
    static const char *size[64];
    fm_err err = {0};
    fm_study_design d;
    const fm_study_hooks hooks = {a, on_stage, on_planned};
    if (!ideas->n) return cli_wrong(name, "--idea is missing");
    if (!sizes || strlen(sizes) >= sizeof text)
        return cli_wrong(name, "--sizes: expected widths, as 64,96,128");
    snprintf(text, sizeof text, "%s", sizes);
    o->base = a->o;
    o->ideas = ideas->item;
    o->n_ideas = ideas->n;
    o->sizes = size;
    o->n_sizes = split(text, size, CLI_COUNT(size));
    if (fm_study_compare_make(o, &hooks, &d, &err)) return cli_fail(name, "%s", err.text);
    print_design(a, &d);
    return CLI_GO_ON;
}

static int print_comparison(const char *name, const char *dir, bool json)
{
    fm_err err = {0};
    fm_text text = {0};
    if (fm_study_compare_report(dir, &text, &err)) return cli_fail(name, "%s", err.text);
    if (json)
        printf("{\"report\": \"%s/compare.json\"}\n", dir);
    else
        fwrite(text.data, 1, text.n, stdout);
    fm_text_deinit(&text);
    return CLI_DONE;
}

int cmd_scale_compare(int argc, char **argv)
{
    static design_args a;
    static run_args r;
    char **args;
    const char *sizes = NULL;
    int n_args;
    int64_t seeds = 3, evals = 20;
    cli_list ideas = {0};
    fm_study_compare_opts o = {0};
    a = (design_args){0};
    r = (run_args){.last_plain = 60};
    const cli_option options[] = {
        {"idea", CLI_LIST, &ideas, "NAME=RECIPE[@PROGRAM]",
         "a name, a file of settings over the baseline's, and if need be another build of fathom; "
         "may be repeated"},
        {"sizes", CLI_TEXT, &sizes, "A,B,C", "widths of the models, such as 32,48,64"},
        {"seeds", CLI_INT, &seeds, "N", "runs of every size and arm (default 3)"},
        {"tokens", CLI_REAL, &o.tokens, "N", "tokens that every run trains on"},
        {"tokens-per-param", CLI_REAL, &o.tokens_per_param, "R",
         "without --tokens: so many per active parameter of the run (default 20)"},
        {"evals", CLI_INT, &evals, "N",
         "evaluations of a run, the points of its loss curve (default 20)"},
        {"minutes", CLI_REAL, &a.o.minutes, "N", "refuse a plan that takes longer"},
        DATA_OPTIONS(a),
        RUN_OPTIONS(r),
        CLI_OPT_OUT(&a.c),
        CLI_OPT_RECIPE(&a.c),
        CLI_OPT_SET(&a.c),
        THREADS_OPTION(a.c),
        CLI_OPT_DRY_RUN(&a.c),
        CLI_OPT_JSON(&a.c),
    };
    const cli_command command = {
        "scale compare",
        "--idea NAME=RECIPE.ini[@PROGRAM].. --sizes A,B,C (--text FILE.. | --data DIR) --out DIR",
        "Trains baseline and ideas at several sizes and seeds on the same data and says how much "
        "less compute and "
        "time an idea takes to the same held-out loss, with 95% intervals, and whether that grows "
        "with size. The "
        "baseline's settings are --recipe and --set. On a directory that is there it goes on and "
        "reports.",
        options,
        CLI_COUNT(options),
        CLI_LIST_MAX};
    int rc = cli_parse(&command, argc, argv, &args, &n_args);
    if (rc == CLI_GO_ON) rc = find_program(command.name);
    if (rc != CLI_GO_ON) return rc;
    if (!small(seeds) || !small(evals) || !(r.lease >= 0) || !(o.tokens >= 0) ||
        !(o.tokens_per_param >= 0))
        return cli_wrong(command.name, "--seeds, --evals, --tokens, --lease: out of range");
    o.seeds = (int)seeds;
    o.evals = (int)evals;
    bool there = a.c.out && is_study(a.c.out);
    if (!there) rc = fill(command.name, &a, args, n_args);
    if (rc == CLI_GO_ON && !there) rc = plan_comparison(command.name, &a, &o, &ideas, sizes);
    if (rc == CLI_GO_ON && a.c.dry_run) return CLI_DONE;
    r.c = a.c;
    r.workers = a.workers;
    if (rc == CLI_GO_ON) rc = work(command.name, a.c.out, &r);
    return rc == CLI_GO_ON ? print_comparison(command.name, a.c.out, a.c.json) : rc;
}
