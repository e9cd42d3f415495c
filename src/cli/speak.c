/* Options, opening and closing shared by `generate` and `chat`. */
#include "speak.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

volatile sig_atomic_t speak_interrupted;

void speak_init(speak *s, const char *command)
{
    *s = (speak){.command = command,
                 .draft = "auto",
                 .mla = "absorbed",
                 .temperature = strcmp(command, "chat") ? 0 : 0.8,
                 .top_p = 0.95,
                 .repetition_penalty = 1};
}

static int one_of(const char *text, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(text, names[i])) return i;
    return -1;
}

static int resolve(speak *s)
{
    static const char *const drafts[] = {"off", "mtp", "auto", NULL};
    static const char *const forms[] = {"expanded", "absorbed", NULL};
    int draft = one_of(s->draft, drafts), form = one_of(s->mla, forms);
    if (draft < 0)
        return cli_wrong(s->command, "--draft: expected off, mtp or auto, found \"%s\"", s->draft);
    if (form < 0)
        return cli_wrong(s->command, "--mla: expected absorbed or expanded, found \"%s\"", s->mla);
    if (s->tokens < 0 || s->drafts < 0 || s->drafts > 8 || s->top_k < 0 || s->top_k > INT32_MAX)
        return cli_wrong(s->command, "--tokens, --drafts (1 to 8) or --top-k is out of range");
    int rc = cli_precision(s->command, s->common.precision, FM_DTYPE_BF16,
                           &s->model_opts.precision);
    s->model_opts.absorbed = form == 1;
    s->model_opts.skip_mtp = draft == 0;
    s->session_opts.draft = draft == 0 ? FM_DRAFT_OFF : draft == 1 ? FM_DRAFT_MTP : FM_DRAFT_AUTO;
    s->session_opts.drafts = (int)s->drafts;
    s->session_opts.chunk = s->chunk;
    return rc;
}

/* Is there a tokenizer.json in the directory, or beside the file? */
static bool find_tokenizer(const char *model, char *path, size_t n)
{
    const char *slash = strrchr(model, '/');
    size_t len = strlen(model);
    snprintf(path, n, "%s/tokenizer.json", model);
    if (access(path, F_OK) == 0) return true;
    if (len < 12 || strcmp(model + len - 12, ".safetensors")) return false;
    if (slash)
        snprintf(path, n, "%.*s/tokenizer.json", (int)(slash - model), model);
    else
        snprintf(path, n, "tokenizer.json");
    return access(path, F_OK) == 0;
}

int speak_open(speak *s)
{
    char path[4096];
    fm_err err = {0};
    int rc = resolve(s);
    if (rc == CLI_GO_ON) rc = cli_model_path(s->command, s->common.model, &s->path);
    if (rc == CLI_GO_ON) rc = cli_context(s->command, &s->common, &s->context);
    if (rc != CLI_GO_ON) return rc;
    fm_status st = fm_model_open(s->context, s->path.data, &s->model_opts, &s->model, &err);
    if (!st && find_tokenizer(s->path.data, path, sizeof path))
        st = fm_tokenizer_open(path, &s->tok, &err);
    return st ? cli_fail(s->command, "%s", err.text) : CLI_GO_ON;
}

fm_status speak_open_session(speak *s, int sequences, int64_t context, fm_err *err)
{
    s->session_opts.sequences = sequences;
    s->session_opts.context_max = s->context_max ? s->context_max : context;
    return fm_session_open(s->model, s->tok, &s->session_opts, &s->session, err);
}

void speak_close(speak *s)
{
    fm_session_close(s->session);
    fm_tokenizer_free(s->tok);
    fm_model_close(s->model);
    fm_context_close(s->context);
    fm_text_deinit(&s->path);
}

fm_generate_opts speak_ask(const speak *s)
{
    return (fm_generate_opts){.tokens_max = s->tokens, .temperature = s->temperature,
                              .top_k = (int)s->top_k, .top_p = s->top_p, .min_p = s->min_p,
                              .repetition_penalty = s->repetition_penalty,
                              .seed = (uint64_t)s->common.seed, .stop = s->stop.item,
                              .n_stop = s->stop.n, .ignore_eos = s->ignore_eos,
                              .show_control = s->show_control};
}

#define N_SETTINGS 7
typedef struct setting {
    const char *name;
    int64_t *whole;
    double *real;
    double lo, hi;
} setting;

static void settings_of(speak *s, setting out[N_SETTINGS])
{
    const setting all[N_SETTINGS] = {
        {"temperature", NULL, &s->temperature, 0, 1e6}, {"top-p", NULL, &s->top_p, 0, 1},
        {"min-p", NULL, &s->min_p, 0, 1},
        {"repetition-penalty", NULL, &s->repetition_penalty, 1e-6, 1e6},
        {"top-k", &s->top_k, NULL, 0, INT32_MAX},       {"tokens", &s->tokens, NULL, 0, INT32_MAX},
        {"seed", &s->common.seed, NULL, 0, 9e15},
    };
    memcpy(out, all, sizeof all);
}

bool speak_set(speak *s, const char *name, const char *value, char *message, size_t n)
{
    setting all[N_SETTINGS];
    char *end;
    settings_of(s, all);
    for (int i = 0; i < N_SETTINGS; i++) {
        if (strcmp(all[i].name, name)) continue;
        double v = strtod(value, &end);
        if (end == value || *end || !(v >= all[i].lo && v <= all[i].hi)
            || (all[i].whole && v != (double)(int64_t)v)) {
            snprintf(message, n, "%s: expected %s from %g to %g, found \"%s\"", name,
                     all[i].whole ? "a whole number" : "a number", all[i].lo, all[i].hi, value);
            return false;
        }
        if (all[i].whole)
            *all[i].whole = (int64_t)v;
        else
            *all[i].real = v;
        return true;
    }
    snprintf(message, n, "unknown setting \"%s\"; /set alone lists them", name);
    return false;
}

void speak_show_settings(const speak *s)
{
    setting all[N_SETTINGS];
    speak copy = *s;
    settings_of(&copy, all);
    for (int i = 0; i < N_SETTINGS; i++) {
        if (all[i].whole)
            printf("  %-20s %lld\n", all[i].name, (long long)*all[i].whole);
        else
            printf("  %-20s %g\n", all[i].name, *all[i].real);
    }
}

static void on_interrupt(int sig)
{
    (void)sig;
    speak_interrupted = 1;
}

void speak_catch_interrupt(bool on)
{
    struct sigaction a = {0}; /* no SA_RESTART: a line being typed is given up */
    a.sa_handler = on ? on_interrupt : SIG_DFL;
    sigaction(SIGINT, &a, NULL);
}

void speak_print(const char *text, size_t n)
{
    bool terminal = isatty(STDOUT_FILENO);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];
        bool control = (c < 32 && c != '\n' && c != '\t') || c == 127;
        if (!terminal || !control) putchar(c);
    }
    if (n) fflush(stdout);
}

void speak_summary(const speak *s, int64_t tokens, char *out, size_t n)
{
    fm_session_stats st;
    char speed[48] = "", drafts[80] = "";
    fm_session_stats_get(s->session, &st);
    if (st.decode_tokens_per_second > 0)
        snprintf(speed, sizeof speed, ", %.1f tokens/s", st.decode_tokens_per_second);
    if (st.drafted > 0)
        snprintf(drafts, sizeof drafts, ", %lld of %lld drafts accepted", (long long)st.accepted,
                 (long long)st.drafted);
    snprintf(out, n, "[%lld token%s%s%s]", (long long)tokens, tokens == 1 ? "" : "s", speed,
             drafts);
}
