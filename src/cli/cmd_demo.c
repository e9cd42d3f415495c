/* fathom demo: the whole way on the shipped corpus: tokenizer, shards, training with samples on the way,
 * the checkpoint loaded again, a story told while the model's own MTP module drafts, a closing page. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "demo.h"
#include "fathom/machine.h"

static const char PROMPT[] = "Once upon a time, there was a little girl named Lily. ";

/* The simple stories weighted up: passes over each file in one pass over the mix. */
static const char *const corpus[][2] = {
    {"tinystories_train.txt.zst", "4"},
    {"storybooks_en.txt.zst", "2"},
    {"aesop_loc.txt", "2"},
    {"gutenberg_children_train.txt.zst", "0.2"},
};
#define N_FILES CLI_COUNT(corpus)

static fm_trainer *volatile running;

static void on_signal(int number)
{
    (void)number;
    if (running) fm_trainer_stop(running);
}

static void on_stage(void *arg, const char *stage, const char *detail)
{
    demo *d = arg;
    cli_live_print(&d->live, 10, "%-10s %s", stage, detail ? detail : "");
}

static void on_step(void *arg, const fm_train_progress *p)
{
    demo *d = arg;
    cli_buf left;
    demo_curve_add(d, p);
    d->last = *p;
    if (p->val_bits_per_byte >= 0)
        cli_live_print(
            &d->live, 15,
            "step %lld %3.0f%% loss %.3f held-out %.3f bits/byte %.0f tok/s MaxVio %.2f, %s left",
            (long long)p->step, 100 * p->fraction, p->loss, p->val_bits_per_byte,
            p->tokens_per_second, p->max_vio, cli_duration(p->seconds_left, &left));
    else
        cli_live_print(&d->live, 15, "step %lld %3.0f%% loss %.3f %.0f tok/s MaxVio %.2f, %s left",
                       (long long)p->step, 100 * p->fraction, p->loss, p->tokens_per_second,
                       p->max_vio, cli_duration(p->seconds_left, &left));
}

static bool collect(void *arg, const fm_piece *piece)
{
    fm_err err;
    return fm_text_push(arg, piece->text, piece->n, &err) == FM_OK;
}

/* One prompt's continuation at 1, 10, 50 and 100 percent, printed and kept in samples.txt. */
static fm_status on_sample(void *arg, fm_model *m, const fm_tokenizer *tok,
                           const fm_train_progress *p, fm_text *text, fm_err *err)
{
    demo *d = arg;
    fm_session *s = NULL;
    char head[96];
    size_t from = text->n;
    fm_session_opts so = {.context_max = 256};
    fm_generate_opts go = {
        .tokens_max = 60, .temperature = 0.6, .top_p = 0.95, .seed = 7, .fn = collect, .arg = text};
    snprintf(head, sizeof head, "--- %.0f%%, step %lld, %lld tokens, loss %.3f\n", 100 * p->fraction,
             (long long)p->step, (long long)p->tokens, p->loss);
    fm_status st = fm_text_push(text, head, strlen(head), err);
    if (!st) st = fm_text_push(text, PROMPT, sizeof PROMPT - 2, err);
    if (!st) st = fm_session_open(m, tok, &so, &s, err);
    if (!st) st = fm_session_push_text(s, 0, PROMPT, sizeof PROMPT - 2, FM_ENCODE_BOS, err);
    fm_generated out;
    if (!st) st = fm_session_generate(s, 0, &go, &out, err);
    if (!st) st = fm_text_push(text, "\n", 1, err);
    fm_session_close(s);
    if (st) return st;
    cli_live_end(&d->live);
    demo_print_text(text->data + from, text->n - from);
    printf("\n");
    fflush(stdout);
    return FM_OK;
}

/* corpus/ beside the build directory, or share/fathom under the prefix the program is installed in. */
static bool find_corpus(const char *given, char *out, size_t cap)
{
    static const char *const places[] = {"/../corpus", "/../share/fathom"};
    char exe[4096], file[8300];
    if (given) {
        snprintf(out, cap, "%s", given);
        snprintf(file, sizeof file, "%s/%s", out, corpus[0][0]);
        return access(file, R_OK) == 0;
    }
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n < 0) return false;
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (slash) *slash = 0;
    for (int i = 0; i < CLI_COUNT(places); i++) {
        snprintf(out, cap, "%s%s", exe, places[i]);
        snprintf(file, sizeof file, "%s/%s", out, corpus[0][0]);
        if (access(file, R_OK) == 0) return true;
    }
    return false;
}

/* The tokens a minute of training would see at a plain share of this machine's rate; a machine that would not
 * reach a million tokens gets half the layers. */
static void choose_depth(demo *d, fm_train_opts *o)
{
    fm_ceiling c[FM_CEILINGS_MAX];
    fm_train_plan plan;
    fm_err err;
    int n = 0;
    double rate = 0;
    if (fm_machine_measure_compute(d->c.isa, (int)d->c.threads, 0.6, c, &n, &err)) return;
    for (int i = 0; i < n; i++)
        if ((!strcmp(c[i].name, "amx_bf16") || !strcmp(c[i].name, "fma_f32")) && c[i].value > rate)
            rate = c[i].value;
    if (fm_train_plan_make(o, 0, &plan, &err) || plan.flops_per_token <= 0) return;
    double tokens = 0.1 * rate / plan.flops_per_token * 60 * o->minutes;
    if (tokens < 1e6 && o->n_set < CLI_LIST_MAX) {
        ((const char **)(uintptr_t)o->set)[o->n_set++] = "model.num_hidden_layers=3";
        printf("This machine is slow (%.0f GFLOP/s): three layers instead of six.\n", rate / 1e9);
    }
}

static int train(demo *d, fm_train_opts *o)
{
    fm_err err = {0};
    fm_train_hooks hooks = {.arg = d, .on_step = on_step, .on_stage = on_stage, .on_sample = on_sample};
    fm_trainer *t = NULL;
    if (fm_trainer_open(d->x, o, &hooks, &t, &err)) {
        cli_live_end(&d->live);
        return cli_fail("demo", "%s", err.text);
    }
    running = t;
    struct sigaction act = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGINT, &act, NULL);
    sigaction(SIGTERM, &act, NULL);
    snprintf(d->run, sizeof d->run, "%s", fm_trainer_dir(t));
    fm_status st = fm_trainer_run(t, &hooks, &err);
    cli_live_end(&d->live);
    snprintf(d->checkpoint, sizeof d->checkpoint, "%s", fm_trainer_checkpoint(t));
    running = NULL;
    signal(SIGINT, SIG_DFL);
    signal(SIGTERM, SIG_DFL);
    fm_trainer_free(t);
    if (st == FM_E_CANCELLED) {
        printf("Stopped and saved. To go on: fathom resume %s\n", d->run);
        return CLI_FAILED;
    }
    return st ? cli_fail("demo", "%s", err.text) : CLI_GO_ON;
}

/* The checkpoint loaded anew, in the serving form, telling a story with its own drafts. */
static int tell(demo *d)
{
    fm_err err = {0};
    fm_tokenizer *tok = NULL;
    fm_model *m = NULL;
    fm_session *s = NULL;
    fm_text text = {0};
    fm_generated out;
    fm_model_opts mo = {.precision = FM_DTYPE_BF16, .absorbed = true};
    fm_session_opts so = {.context_max = 512, .draft = FM_DRAFT_MTP};
    fm_generate_opts go = {.tokens_max = 220, .temperature = 0.6, .top_p = 0.95, .seed = 11, .fn = collect,
                           .arg = &text};
    fm_status st = fm_tokenizer_open(d->checkpoint, &tok, &err);
    if (!st) st = fm_model_open(d->x, d->checkpoint, &mo, &m, &err);
    if (!st) st = fm_session_open(m, tok, &so, &s, &err);
    if (!st) st = fm_session_push_text(s, 0, PROMPT, sizeof PROMPT - 2, FM_ENCODE_BOS, &err);
    if (!st) st = fm_text_push(&text, PROMPT, sizeof PROMPT - 2, &err);
    if (!st) st = fm_session_generate(s, 0, &go, &out, &err);
    if (!st) {
        fm_session_stats_get(s, &d->stats);
        printf("A story from the checkpoint, loaded again, its MTP module drafting:\n\n");
        demo_print_text(text.data, text.n);
        printf("\n\n");
    }
    fm_session_close(s);
    fm_model_close(m);
    fm_tokenizer_free(tok);
    fm_text_deinit(&text);
    return st ? cli_fail("demo", "%s", err.text) : CLI_GO_ON;
}

static int run(demo *d, const char *corpus_dir, double minutes, const char *preset)
{
    static char text[N_FILES][4400];
    const char *files[N_FILES], *set[CLI_LIST_MAX + 1];
    char where[4200];
    bool found = find_corpus(corpus_dir, where, sizeof where);
    if (!found && corpus_dir) return cli_fail("demo", "%s: no %s there", corpus_dir, corpus[0][0]);
    if (!found)
        return cli_fail(
            "demo",
            "no %s in ../corpus or ../share/fathom, seen from the program; --corpus DIR names "
            "the corpus",
            corpus[0][0]);
    for (int i = 0; i < N_FILES; i++) {
        snprintf(text[i], sizeof text[i], "%s/%s:%s", where, corpus[i][0], corpus[i][1]);
        files[i] = text[i];
    }
    for (int i = 0; i < d->c.set.n; i++) set[i] = d->c.set.item[i];
    fm_train_opts o = {.command = "demo",
                       .out = d->c.out,
                       .preset = preset,
                       .recipe = d->c.recipe,
                       .set = set,
                       .n_set = d->c.set.n,
                       .text = files,
                       .n_text = N_FILES,
                       .minutes = minutes,
                       .precision = d->c.precision,
                       .seed = d->c.seed};
    int rc = cli_context("demo", &d->c, &d->x);
    if (rc == CLI_GO_ON) {
        choose_depth(d, &o);
        printf("Fathom trains %s for %.3g minutes on the stories in %s.\n\n", preset, minutes, where);
        fflush(stdout);
        d->started = time(NULL);
        rc = train(d, &o);
    }
    if (rc == CLI_GO_ON) rc = tell(d);
    if (rc == CLI_GO_ON) demo_closing_page(d);
    fm_context_close(d->x);
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

int cmd_demo(int argc, char **argv)
{
    demo d = {.c = {.seed = -1}};
    const char *corpus_dir = NULL, *preset = "nano";
    double minutes = 4.5;
    const cli_option options[] = {
        {"minutes", CLI_REAL, &minutes, "X", "training time (default 4.5)"},
        {"preset", CLI_TEXT, &preset, "P", "shape (default nano)"},
        {"corpus", CLI_TEXT, &corpus_dir, "DIR", "where the corpus lies"},
        CLI_OPT_OUT(&d.c), CLI_OPT_RECIPE(&d.c), CLI_OPT_SET(&d.c), CLI_OPT_SEED(&d.c), CLI_OPT_THREADS(&d.c),
        CLI_OPT_DEVICE(&d.c), CLI_OPT_PRECISION(&d.c), CLI_OPT_ISA(&d.c),
    };
    const cli_command c = {
        "demo",
        "[options]",
        "Trains a small model of DeepSeek-V3's architecture on the shipped stories, from the "
        "tokenizer on, prints one prompt's continuation at 1, 10, 50 and 100 percent, loads the "
        "checkpoint again and tells a story. Ctrl-C saves; fathom resume goes on.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!(minutes > 0 && minutes < 1e5)) return cli_wrong("demo", "--minutes must be positive");
    return run(&d, corpus_dir, minutes, preset);
}
