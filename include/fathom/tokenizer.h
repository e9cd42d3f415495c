/* Tokenizer: text to token ids and back, training a vocabulary, and the buffers both use.
 *
 * Byte-level BPE in the Hugging Face tokenizer.json format. Any bytes encode, valid UTF-8 or not,
 * and decode to the same bytes. An fm_tokenizer never changes after opening: all threads may share
 * it. */
#ifndef FATHOM_TOKENIZER_H
#define FATHOM_TOKENIZER_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Growing results. Start from {0}; calls append; deinit frees and zeroes. data may be NULL while
 * n is 0. fm_text keeps a zero byte after its n bytes, which may contain zeros themselves. */
typedef struct fm_ids {
    int32_t *data;
    size_t n, cap;
} fm_ids;

typedef struct fm_text {
    char *data;
    size_t n, cap;
} fm_text;

fm_status fm_ids_push(fm_ids *ids, int32_t id, fm_err *err);
fm_status fm_text_push(fm_text *text, const void *bytes, size_t n, fm_err *err);
/* Appends what vprintf would write, whole. */
fm_status fm_text_vprintf(fm_text *text, fm_err *err, const char *fmt, va_list ap);
void fm_ids_deinit(fm_ids *ids);
void fm_text_deinit(fm_text *text);

typedef struct fm_tokenizer fm_tokenizer;

/* Opens a tokenizer.json, or the one in a model directory or beside a .safetensors file.
 * tokenizer_config.json, config.json and chat_template.jinja there are read when they exist: they
 * name bos, eos, pad and the chat template. Errors: IO; FORMAT and UNSUPPORTED name the file and the
 * entry. */
fm_status fm_tokenizer_open(const char *path, fm_tokenizer **out, fm_err *err);

/* The same from memory: n bytes of a tokenizer.json; `name` stands for the file in messages. */
fm_status fm_tokenizer_parse(const char *json, size_t n, const char *name, fm_tokenizer **out,
                             fm_err *err);
void fm_tokenizer_free(fm_tokenizer *tok); /* NULL is fine */

/* Highest id + 1; ids without a token may lie below it. */
int32_t fm_tokenizer_vocab_size(const fm_tokenizer *tok);

/* xxh64 (seed 0) over what decides ids: the same value for the same mapping from text to ids. */
uint64_t fm_tokenizer_hash(const fm_tokenizer *tok);

/* Ids of the marks, -1 when the tokenizer has none. */
int32_t fm_tokenizer_bos(const fm_tokenizer *tok);
int32_t fm_tokenizer_eos(const fm_tokenizer *tok);
int32_t fm_tokenizer_pad(const fm_tokenizer *tok);

/* The chat template's text, NULL when there is none; owned by the tokenizer. */
const char *fm_tokenizer_chat_template(const fm_tokenizer *tok);

/* A token's bytes (no zero at the end) and their number, owned by tok; NULL: id has no token. */
const char *fm_tokenizer_token_bytes(const fm_tokenizer *tok, int32_t id, size_t *n);

/* An added token (special or not) by its exact text; -1 when there is none. */
int32_t fm_tokenizer_find_added(const fm_tokenizer *tok, const char *text);

/* Added tokens stand for themselves and are matched before anything else; control tokens are those
 * marked special: decoders may leave them out. */
bool fm_tokenizer_is_added(const fm_tokenizer *tok, int32_t id);
bool fm_tokenizer_is_control(const fm_tokenizer *tok, int32_t id);

enum {
    FM_ENCODE_PLAIN = 1, /* added tokens in the text are plain text: for text from a user */
    FM_ENCODE_BOS = 2    /* put bos first, if the tokenizer has one and the result lacks it */
};

/* Appends the ids of n bytes of text to ids. Thread-safe. Errors: NOMEM; ids is then as before. */
fm_status fm_tokenizer_encode(const fm_tokenizer *tok, const char *text, size_t n, unsigned flags,
                              fm_ids *ids, fm_err *err);

enum { FM_DECODE_SKIP_CONTROL = 1 };

/* Appends the bytes of n ids to text, exactly. Errors: RANGE names the index of an id without a
 * token; text is then as before. */
fm_status fm_tokenizer_decode(const fm_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                              fm_text *text, fm_err *err);

/* Streaming decode for terminals and events: what comes out is always whole UTF-8 characters. The
 * start of a character waits for the rest; bytes that cannot become one are replaced by U+FFFD, as
 * Python's errors="replace" does on the whole. Holds a reference to tok; one thread at a time. */
typedef struct fm_detok {
    const fm_tokenizer *tok;
    unsigned flags;
    int n_held;
    unsigned char held[4];
} fm_detok;

void fm_detok_init(fm_detok *d, const fm_tokenizer *tok, unsigned flags);
fm_status fm_detok_push(fm_detok *d, int32_t id, fm_text *out, fm_err *err);
fm_status fm_detok_flush(fm_detok *d, fm_text *out, fm_err *err); /* at the end of the text */

/* Training. Byte-level BPE with DeepSeek-V3's three splits, digits singly; ids 0, 1, 2 are begin of
 * sentence, end of sentence and pad; the marks of the chat formats come last. The vocabulary has
 * exactly vocab_size tokens; where the text yields too few merges, spare tokens fill it up. The
 * same documents in any order give the same file. */
typedef struct fm_bpe_trainer fm_bpe_trainer;

typedef struct fm_bpe_report {
    int64_t n_documents;
    int64_t n_bytes;        /* of text counted               */
    int64_t n_pieces;       /* different pre-token pieces    */
    int32_t n_merges;
    int32_t n_spare; /* ids that no merge could fill  */
} fm_bpe_report;

#define FM_BPE_VOCAB_MIN 273 /* 256 bytes and 17 marks */
#define FM_BPE_VOCAB_MAX 1000000

fm_status fm_bpe_trainer_new(fm_bpe_trainer **out, fm_err *err);
void fm_bpe_trainer_free(fm_bpe_trainer *t);

/* Counts one document `count` times (count >= 1); the text is not kept. */
fm_status fm_bpe_trainer_push(fm_bpe_trainer *t, const char *text, size_t n, int64_t count,
                              fm_err *err);

/* Learns the merges and writes tokenizer.json, tokenizer_config.json and chat_template.jinja into
 * dir, which is made if missing. Once per trainer. Errors: STATE (nothing pushed), RANGE
 * (vocab_size), IO. report may be NULL. */
fm_status fm_bpe_trainer_run(fm_bpe_trainer *t, int32_t vocab_size, const char *dir,
                             fm_bpe_report *report, fm_err *err);

/* Writes the files of an open tokenizer that this library trained, or copies of the files it was
 * opened from, into dir (made if missing): for checkpoints. */
fm_status fm_tokenizer_write(const fm_tokenizer *tok, const char *dir, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
