/* Pre-tokenizer: cuts text into the pieces inside which BPE merges. A list of regular expressions;
 * each is applied to every piece the one before left, and its matches and what lies between them
 * become pieces of their own. */
#ifndef FM_TEXT_PRETOK_H
#define FM_TEXT_PRETOK_H

#include "base/base.h"

#define FMI_PRETOK_STAGES_MAX 8

typedef struct fmi_pretok_stage {
    void *code;        /* pcre2_code */
    char *pattern;     /* as given   */
    bool matches_only; /* what lies between matches is dropped (Split Removed, inverted) */
} fmi_pretok_stage;

typedef struct fmi_pretok {
    fmi_pretok_stage stage[FMI_PRETOK_STAGES_MAX];
    int n;
} fmi_pretok;

/* Scratch of one thread: match data per stage, JIT stack. */
typedef struct fmi_pretok_run {
    const fmi_pretok *pretok;
    void *match[FMI_PRETOK_STAGES_MAX]; /* pcre2_match_data */
    void *context, *stack;
} fmi_pretok_run;

typedef fm_status (*fmi_piece_fn)(void *arg, const char *piece, size_t n, fm_err *err);

/* Adds a stage. Errors: FORMAT (does not compile), UNSUPPORTED (syntax PCRE2 reads otherwise). */
fm_status fmi_pretok_add(fmi_pretok *p, const char *pattern, bool matches_only, fm_err *err);
void fmi_pretok_deinit(fmi_pretok *p);

fm_status fmi_pretok_run_init(fmi_pretok_run *r, const fmi_pretok *p, fm_err *err);
void fmi_pretok_run_deinit(fmi_pretok_run *r);

/* Calls fn for every piece of valid UTF-8 text, in order, together covering it. */
fm_status fmi_pretok_split(fmi_pretok_run *r, const char *text, size_t n, fmi_piece_fn fn,
                           void *arg, fm_err *err);

/* GPT-2's expression (ByteLevel with use_regex), and DeepSeek-V3's three with digits singly. */
extern const char *const fmi_pretok_gpt2;
extern const char *const fmi_pretok_fathom[3];

#endif
