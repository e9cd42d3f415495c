/* XXH64 (public specification by Y. Collet): a fast check against damage, not against an adversary.
 * Checkpoints, token shards and tokenizers are named by it. */
#ifndef FM_IO_HASH_H
#define FM_IO_HASH_H

#include "base/base.h"

typedef struct fmi_hash {
    uint64_t acc[4];
    uint64_t total;
    uint64_t seed;
    uint8_t tail[32]; /* bytes not yet a whole stripe */
    size_t n_tail;
} fmi_hash;

void fmi_hash_init(fmi_hash *h, uint64_t seed);
void fmi_hash_write(fmi_hash *h, const void *data, size_t bytes);
uint64_t fmi_hash_get(const fmi_hash *h); /* of everything written so far; may go on */

uint64_t fmi_hash_bytes(const void *data, size_t bytes, uint64_t seed);
fm_status fmi_hash_file(const char *path, uint64_t *out, fm_err *err);

#endif
