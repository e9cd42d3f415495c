/* Token shards: tokenized documents on disk, mapped for training. One file, little-endian:
 *   offset  size  meaning
 *   0       8     magic "FMTOKENS"
 *   8       4     version, 1
 *   12      4     token width in bytes, 2 or 4
 *   16      8     vocabulary size V; every token id is below it
 *   24      8     hash of the tokenizer
 *   32      8     D, number of documents
 *   40      8     T, number of tokens
 *   48      8     S, UTF-8 bytes of the documents' texts (for bits per byte)
 *   56      8     file length
 *   64      8     XXH64 (seed 0) of the payload: bytes 128 to the end
 *   72      8     XXH64 (seed 0) of bytes 0 to 71
 *   80      48    zero
 *   128     w*T   tokens; then zero bytes to a multiple of 8
 *   ..      8D+8  first token of each document, strictly ascending from 0; the last entry is T
 *   ..      8D    UTF-8 bytes of each document's text; their sum is S
 * Also in docs/formats.md. Never rewritten in place; read-only and shareable once open. */
#ifndef FM_IO_SHARDS_H
#define FM_IO_SHARDS_H

#include "base/base.h"
#include "io/file.h"

#define FMI_SHARD_VERSION 1

typedef struct fmi_shard {
    fm_map map;               /* empty when parsed from a borrowed buffer */
    char *path;
    int token_bytes;
    uint64_t vocab_size, tokenizer_hash;
    uint64_t n_documents, n_tokens, source_bytes;
    uint64_t payload_hash;
    const uint8_t *payload;   /* tokens first */
    uint64_t payload_bytes;
    const uint8_t *starts;    /* [D + 1] u64; read with fmi_shard_document */
    const uint8_t *lengths;   /* [D] u64 */
} fmi_shard;

/* Checks all but the payload hash: header, lengths, document table, byte counts, token ids. */
fm_status fmi_shard_open(const char *path, fmi_shard **out, fm_err *err);
/* From memory, borrowed until close. */
fm_status fmi_shard_parse(const char *name, const void *data, size_t bytes, fmi_shard **out,
                          fm_err *err);
void fmi_shard_close(fmi_shard *s); /* NULL is fine */
fm_status fmi_shard_check_hash(const fmi_shard *s, fm_err *err); /* reads the whole file */

/* Document i: tokens [*begin, *end) and the bytes of its text; any result may be NULL. */
void fmi_shard_document(const fmi_shard *s, uint64_t i, uint64_t *begin, uint64_t *end,
                        uint64_t *text_bytes);
/* Tokens [begin, begin + n) widened to 32 bits. */
void fmi_shard_tokens(const fmi_shard *s, uint64_t begin, uint64_t n, int32_t *out);

/* Writer: documents one after another; the file appears complete at close. */
typedef struct fmi_shard_writer fmi_shard_writer;
/* Width 2 when vocab_size <= 65536, else 4. */
fm_status fmi_shard_writer_open(const char *path, uint64_t vocab_size, uint64_t tokenizer_hash,
                                fmi_shard_writer **out, fm_err *err);
/* FM_E_RANGE: no tokens, or an id outside the vocabulary. The writer stays usable. */
fm_status fmi_shard_writer_write(fmi_shard_writer *w, const int32_t *ids, int64_t n,
                                 uint64_t text_bytes, fm_err *err);
fm_status fmi_shard_writer_close(fmi_shard_writer *w, fm_err *err);
void fmi_shard_writer_free(fmi_shard_writer *w);
uint64_t fmi_shard_writer_documents(const fmi_shard_writer *w);
uint64_t fmi_shard_writer_tokens(const fmi_shard_writer *w);

#endif
