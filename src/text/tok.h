/* The tokenizer's insides, shared by the files that load, encode, decode and write it.
 *
 * Encoding: text -> runs of valid UTF-8 (an invalid byte is a piece of its own) -> added tokens cut
 * out -> pieces (pretok) -> merges (bpe). Everything here is read-only after loading, the spare
 * encoder apart. */
#ifndef FM_TEXT_TOK_H
#define FM_TEXT_TOK_H

#include "base/base.h"
#include "text/buf.h"
#include "text/pretok.h"

typedef struct fmi_merge {
    uint64_t key;  /* left id << 32 | right id; ~0 when the slot is free */
    int32_t rank;  /* lower merges first                                */
    int32_t id;    /* what the two become                               */
} fmi_merge;

typedef struct fmi_added {
    const char *text; /* in the pool, not zero-terminated */
    uint32_t n;
    int32_t id;
} fmi_added;

typedef struct fmi_added_set { /* sorted by bytes, for narrowing byte by byte */
    fmi_added *item;
    int32_t n;
    uint8_t first[256];        /* 1: some token starts with this byte */
} fmi_added_set;

typedef struct fmi_encoder fmi_encoder;

enum { FMI_TOKEN_KNOWN = 1, FMI_TOKEN_ADDED = 2, FMI_TOKEN_CONTROL = 4, FMI_TOKEN_SECOND = 8 };

struct fm_tokenizer {
    int32_t n_vocab;       /* highest id + 1 */
    uint64_t *begin;       /* [n_vocab + 1] offsets into pool */
    uint32_t *len;         /* [n_vocab] */
    uint8_t *kind;         /* [n_vocab] FMI_TOKEN_ bits */
    fm_text pool;          /* the bytes of every token */
    int32_t byte_id[256];
    fmi_merge *merge;      /* [merge_mask + 1], open addressing */
    uint64_t merge_mask;
    int32_t n_merges;
    bool ignore_merges;    /* a piece that is a token is taken whole */
    int32_t *whole;        /* [whole_mask + 1] ids by hash of bytes, -1 free; with ignore_merges */
    uint64_t whole_mask;
    fmi_added_set added[2]; /* matched first: not "normalized"; then "normalized" */
    fmi_pretok pretok;
    int32_t bos, eos, pad;
    char *chat_template;   /* may be NULL */
    uint64_t hash;
    char *json, *config_json, *template_file; /* the files as read, for writing them again */
    size_t json_bytes, config_bytes, template_bytes;
    _Atomic(fmi_encoder *) spare; /* an encoder nobody uses just now: taken and put by exchange */
};

/* Encoder: scratch of one encoding thread. */
fm_status fmi_encoder_new(const fm_tokenizer *tok, fmi_encoder **out, fm_err *err);
void fmi_encoder_free(fmi_encoder *e);

/* Appends the ids of one piece: no added tokens, no splitting. */
fm_status fmi_bpe_encode(fmi_encoder *e, const char *piece, size_t n, fm_ids *ids, fm_err *err);
fm_status fmi_encode(fmi_encoder *e, const char *text, size_t n, unsigned flags, fm_ids *ids,
                     fm_err *err);

static inline uint64_t fmi_pair_key(int32_t a, int32_t b)
{
    return (uint64_t)(uint32_t)a << 32 | (uint32_t)b;
}

static inline uint64_t fmi_pair_hash(uint64_t key)
{
    key *= 0x9e3779b97f4a7c15u;
    return key ^ key >> 29;
}

/* NULL when the two do not merge. */
static inline const fmi_merge *fmi_merge_find(const fm_tokenizer *t, int32_t a, int32_t b)
{
    uint64_t key = fmi_pair_key(a, b);
    for (uint64_t i = fmi_pair_hash(key) & t->merge_mask;; i = (i + 1) & t->merge_mask) {
        if (t->merge[i].key == key) return &t->merge[i];
        if (t->merge[i].key == UINT64_MAX) return NULL;
    }
}

/* The names Fathom's own tokenizers use. */
#define FMI_BOS "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define FMI_EOS "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define FMI_PAD "<\xef\xbd\x9c\xe2\x96\x81pad\xe2\x96\x81\xef\xbd\x9c>"

#endif
