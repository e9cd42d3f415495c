/* The encoder's scratch: one per encoding thread, kept between calls for its cache. */
#ifndef FM_TEXT_BPE_H
#define FM_TEXT_BPE_H

#include "text/tok.h"

#define FMI_BPE_CACHE 16384 /* slots, a power of two; 1 MiB in all */

typedef struct fmi_bpe_slot {
    uint8_t n, n_ids; /* n 0: free */
    char key[30];
    int32_t ids[8];
} fmi_bpe_slot;

typedef struct fmi_bpe_node {
    int32_t id;          /* -1: merged away */
    uint32_t prev, next; /* UINT32_MAX: none */
} fmi_bpe_node;

struct fmi_encoder {
    const fm_tokenizer *tok;
    fmi_pretok_run pretok;
    fmi_bpe_slot *cache; /* [FMI_BPE_CACHE] */
    fmi_bpe_node *node;
    uint64_t *heap;      /* rank << 32 | position */
    size_t node_cap, heap_cap;
    fm_ids *ids;         /* where the pieces of the running call go */
};

/* Puts a token into tok->whole, which has room. */
void fmi_bpe_index_whole(fm_tokenizer *t, int32_t id);

#endif
