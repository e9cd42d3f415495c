/* The face of a training run: one live line, samples, signals. Ctrl-C and SIGTERM finish the step, save and
 * say how to go on; SIGUSR1 saves and goes on; a second Ctrl-C ends the process at once. */
#include "train_view.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/machine.h"
#include "fathom/session.h"

static fm_trainer *volatile running;
static volatile sig_atomic_t asked;

static void on_signal(int sig)
{
    fm_trainer *t = running;
    if (sig == SIGUSR1) {
        if (t) fm_trainer_save(t);
        return;
    }
    if (asked++) signal(sig, SIG_DFL);
    if (t) fm_trainer_stop(t);
}

static void catch_signals(fm_trainer *t)
{
    struct sigaction a = {.sa_handler = t ? on_signal : SIG_DFL, .sa_flags = SA_RESTART};
    running = t;
    sigemptyset(&a.sa_mask);
    sigaction(SIGINT, &a, NULL);
    sigaction(SIGTERM, &a, NULL);
    sigaction(SIGUSR1, &a, NULL);
}

/* Largest resident size so far (VmHWM); 0: unknown. */
static long long peak_bytes(void)
{
    FILE *f = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "VmHWM:", 6)) kib = strtoll(line + 6, NULL, 10);
    if (f) fclose(f);
    return kib * 1024;
}

static void print_json(const fm_train_progress *p)
{
    printf("{\"step\": %lld, \"tokens\": %lld, \"fraction\": %.6f, \"loss\": %.9g, \"mtp_loss\": %.9g, "
           "\"bits_per_byte\": %.9g, ", (long long)p->step, (long long)p->tokens, p->fraction, p->loss,
           p->mtp_loss, p->bits_per_byte);
    if (p->evaluated) printf("\"val_bits_per_byte\": %.9g, ", p->val_bits_per_byte);
    printf("\"tokens_per_second\": %.1f, \"max_vio_50\": %.6f, \"seconds\": %.2f, \"peak_bytes\": %lld}\n",
           p->tokens_per_second, p->max_vio, p->seconds, peak_bytes());
    fflush(stdout);
}

static void on_step(void *arg, const fm_train_progress *p)
{
    train_view *v = arg;
    char share[32] = "", held[32] = "";
    cli_buf left, tokens;
    if (v->json) {
        print_json(p);
        return;
    }
    if (v->peak > 0) snprintf(share, sizeof share, " (%.0f%% of peak)", 100 * p->flops_per_second / v->peak);
    if (p->val_bits_per_byte >= 0) snprintf(held, sizeof held, ", held out %.3f", p->val_bits_per_byte);
    cli_live_print(&v->live, 10,
                   "step %lld/%lld  loss %.3f  bits/byte %.3f%s  %s tokens/s%s  MaxVio %.2f  %s left",
                   (long long)p->step, (long long)(p->step + p->steps_left), p->loss, p->bits_per_byte, held,
                   cli_count(p->tokens_per_second, &tokens), share, p->max_vio,
                   cli_duration(p->seconds_left, &left));
}

static void on_stage(void *arg, const char *stage, const char *detail)
{
    train_view *v = arg;
    if (!v->json) fprintf(stderr, "%s: %s\n", stage, detail);
}

/* Appends printf-style; false when memory is out. */
static bool append(fm_text *t, const char *data, size_t n)
{
    if (t->n + n + 1 > t->cap) {
        size_t cap = 2 * (t->n + n + 64);
        char *p = realloc(t->data, cap);
        if (!p) return false;
        t->data = p;
        t->cap = cap;
    }
    memcpy(t->data + t->n, data, n);
    t->n += n;
    t->data[t->n] = 0;
    return true;
}

static bool on_piece(void *arg, const fm_piece *p)
{
    return append(arg, p->text, p->n);
}

static fm_status on_sample(void *arg, fm_model *model, const fm_tokenizer *tok, const fm_train_progress *p,
                           fm_text *text, fm_err *err)
{
    train_view *v = arg;
    fm_session *s = NULL;
    fm_generated done;
    char head[96];
    if (!v->prompt || !*v->prompt) return FM_OK;
    fm_session_opts so = {.context_max = 256, .chunk = 64};
    fm_generate_opts go = {.tokens_max = 96, .temperature = 0.7, .top_p = 0.95, .seed = 1, .fn = on_piece,
                           .arg = text};
    int n = snprintf(head, sizeof head, "--- step %lld, %lld tokens, %.1f%%\n", (long long)p->step,
                     (long long)p->tokens, 100 * p->fraction);
    if (!append(text, head, (size_t)n) || !append(text, v->prompt, strlen(v->prompt))) return FM_OK;
    fm_status st = fm_session_open(model, tok, &so, &s, err);
    if (!st) st = fm_session_push_text(s, 0, v->prompt, strlen(v->prompt), FM_ENCODE_BOS, err);
    if (!st) st = fm_session_generate(s, 0, &go, &done, err);
    fm_session_close(s);
    if (st) return st;
    append(text, "\n\n", 2);
    if (v->json) return FM_OK;
    cli_live_end(&v->live);
    cli_print_text(text->data, text->n);
    return FM_OK;
}

fm_train_hooks train_view_hooks(train_view *v)
{
    return (fm_train_hooks){.arg = v, .on_step = on_step, .on_stage = on_stage, .on_sample = on_sample};
}

void train_view_measure(train_view *v, const char *isa, int64_t threads, bool bf16)
{
    fm_ceiling c[FM_CEILINGS_MAX];
    int n = 0, most = 0;
    if (fm_machine_measure_compute(isa, (int)threads, 0.5, c, &n, NULL)) return;
    for (int pass = 0; pass < 2 && v->peak == 0; pass++) {
        const char *name = bf16 && pass == 0 ? "amx_bf16" : "fma_f32";
        for (int i = 0; i < n; i++)
            if (!strcmp(c[i].name, name) && c[i].threads >= most && c[i].value > 0) {
                most = c[i].threads;
                v->peak = c[i].value;
            }
    }
}

int train_view_run(train_view *v, fm_trainer *t)
{
    fm_err err = {0};
    fm_train_hooks hooks = train_view_hooks(v);
    fm_train_progress p;
    catch_signals(t);
    fm_status st = fm_trainer_run(t, &hooks, &err);
    catch_signals(NULL);
    cli_live_end(&v->live);
    fm_trainer_progress(t, &p);
    int rc = CLI_DONE;
    if (st == FM_E_CANCELLED) {
        fprintf(stderr, "%s\ngo on with: fathom resume %s\n", err.text, fm_trainer_dir(t));
    } else if (st) {
        rc = cli_fail(v->command, "%s", err.text);
    } else if (!v->json) {
        cli_buf n, time;
        fprintf(stderr, "done: step %lld, %s tokens, %s", (long long)p.step, cli_count((double)p.tokens, &n),
                cli_duration(p.seconds, &time));
        if (p.val_bits_per_byte >= 0) fprintf(stderr, ", %.4f bits per byte held out", p.val_bits_per_byte);
        fprintf(stderr, "\ncheckpoint: %s\n", fm_trainer_checkpoint(t));
    }
    fm_trainer_free(t);
    return rc;
}
