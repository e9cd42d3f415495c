/* What `generate` and `chat` share: their options, opening model, tokenizer and session, Ctrl-C. */
#ifndef FM_CLI_SPEAK_H
#define FM_CLI_SPEAK_H

#include <signal.h>

#include "cli.h"
#include "fathom/session.h"

typedef struct speak {
    const char *command;
    cli_common common;
    const char *draft, *mla;
    int64_t tokens, top_k, drafts, context_max, chunk;
    double temperature, top_p, min_p, repetition_penalty;
    cli_list stop;
    bool ignore_eos, show_control;

    fm_text path;            /* of the checkpoint */
    fm_model_opts model_opts;
    fm_session_opts session_opts;
    fm_exec *context;
    fm_model *model;
    fm_tokenizer *tok;       /* NULL: the checkpoint has none */
    fm_session *session;
} speak;

/* Rows of a cli_option table, for a speak in static storage. */
#define SPEAK_OPTIONS(s)                                                                           \
    CLI_OPT_MODEL(&(s)->common), {"tokens", CLI_INT, &(s)->tokens, "N", "new tokens at most"},     \
        {"temperature", CLI_REAL, &(s)->temperature, "T",                                          \
         "0: always the most likely token (generate: 0, chat: 0.8)"},                              \
        {"top-k", CLI_INT, &(s)->top_k, "N", "only the N most likely tokens; 0: all"},             \
        {"top-p", CLI_REAL, &(s)->top_p, "P", "only the likeliest tokens that make up P; 1: all"}, \
        {"min-p", CLI_REAL, &(s)->min_p, "P",                                                      \
         "only tokens at least P times as likely as the first"},                                   \
        {"repetition-penalty", CLI_REAL, &(s)->repetition_penalty, "R",                            \
         "makes tokens of the text so far less likely; 1: off"},                                   \
        CLI_OPT_SEED(&(s)->common),                                                                \
        {"stop", CLI_LIST, &(s)->stop, "TEXT", "ends before TEXT; may be repeated"},               \
        {"ignore-eos", CLI_FLAG, &(s)->ignore_eos, NULL, "goes on after the end of sentence"},     \
        {"show-control", CLI_FLAG, &(s)->show_control, NULL, "prints control tokens"},             \
        {"draft", CLI_TEXT, &(s)->draft, "off|mtp|auto",                                           \
         "drafting with the model's own module; never changes the text (default: auto)"},          \
        {"drafts", CLI_INT, &(s)->drafts, "N", "tokens drafted ahead, 1 to 8 (default: 1)"},       \
        {"context", CLI_INT, &(s)->context_max, "N", "tokens a sequence can hold"},                \
        {"chunk", CLI_INT, &(s)->chunk, "N", "prompt tokens a forward pass takes (default: 2048)"}, \
        {"mla", CLI_TEXT, &(s)->mla, "absorbed|expanded",                                          \
         "form of attention (default: absorbed)"},                                                 \
        CLI_OPT_PRECISION(&(s)->common), CLI_OPT_DEVICE(&(s)->common), CLI_OPT_ISA(&(s)->common),  \
        CLI_OPT_THREADS(&(s)->common)

/* Defaults: bf16, absorbed, drafting AUTO, top-p 0.95, temperature 0.8 for chat and 0 otherwise. */
void speak_init(speak *s, const char *command);

/* Opens context, model and tokenizer. CLI_GO_ON, or an exit code with the message printed. */
int speak_open(speak *s);
/* Opens the session for so many sequences; context_max in s, or `context` when that is 0. */
fm_status speak_open_session(speak *s, int sequences, int64_t context, fm_err *err);
void speak_close(speak *s);

/* What is asked of an answer, from the options. */
fm_generate_opts speak_ask(const speak *s);

/* Changes a setting by its option's name: false with a message when the name is unknown or the
 * value is not of its kind. */
bool speak_set(speak *s, const char *name, const char *value, char *message, size_t n);
void speak_show_settings(const speak *s);

/* Ctrl-C while on: sets the flag instead of ending the process. */
extern volatile sig_atomic_t speak_interrupted;
void speak_catch_interrupt(bool on);

/* Text as it comes; on a terminal without the control characters a model may make up. */
void speak_print(const char *text, size_t n);

/* "[48 tokens, 35.1 tokens/s, 10 of 40 drafts accepted]" for what was counted since the reset. */
void speak_summary(const speak *s, int64_t tokens, char *out, size_t n);

#endif
