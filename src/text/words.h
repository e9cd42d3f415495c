/* Counted pre-token pieces: the input of the BPE trainer. */
#ifndef FM_TEXT_WORDS_H
#define FM_TEXT_WORDS_H

#include "text/buf.h"

typedef struct fmi_word {
    uint64_t begin; /* in pool */
    uint32_t len;
    int64_t count;
} fmi_word;

typedef struct fmi_words {
    fm_text pool;
    fmi_word *word;
    size_t n, cap;
    uint32_t *slot;   /* index + 1 of a word, 0 free */
    size_t slot_mask; /* slots - 1 */
} fmi_words;

fm_status fmi_words_push(fmi_words *w, const char *s, size_t n, int64_t count, fm_err *err);
void fmi_words_deinit(fmi_words *w);

/* What was learned. Token ids here: 0..255 the bytes, then one per new string. */
typedef struct fmi_bpe_model {
    int32_t (*merge)[3]; /* left, right, result */
    size_t n_merges, cap_merges;
    fm_text pool;
    uint64_t *begin;     /* [n_tokens] */
    uint32_t *len;
    size_t n_tokens, cap_begin, cap_len;
} fmi_bpe_model;

/* Learns until there are n_tokens tokens (the 256 bytes counted in) or no pair occurs twice. */
fm_status fmi_bpe_learn(const fmi_words *w, size_t n_tokens, fmi_bpe_model *m, fm_err *err);
void fmi_bpe_model_deinit(fmi_bpe_model *m);

/* tokenizer.json, tokenizer_config.json and chat_template.jinja of a learned model. */
fm_status fmi_bpe_model_write(const fmi_bpe_model *m, int32_t vocab_size, const char *dir,
                              int32_t *n_spare, fm_err *err);

/* Marks a trained tokenizer has beside bytes and merges: 3 at its start, the rest at its end. */
extern const char *const fmi_marks[];
extern const int32_t fmi_n_marks;

#endif
