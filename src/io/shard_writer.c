/* Writing token shards; the format table stands in shards.h. Tokens go straight to the file, 16
 * bytes a document stay in memory for the two tables behind them, and the header is patched last.
 */
#include <inttypes.h>
#include <string.h>

#include "io/hash.h"
#include "io/shards.h"

#define HEADER_BYTES 128

struct fmi_shard_writer {
    fmi_out *out;
    char *path;
    int width;
    uint64_t vocab_size, tokenizer_hash;
    uint64_t n_documents, cap, n_tokens, source_bytes;
    uint64_t *starts;  /* [cap + 1] */
    uint64_t *lengths; /* [cap] */
    fmi_hash hash;     /* of the payload so far */
};

void fmi_shard_writer_free(fmi_shard_writer *w)
{
    if (!w) return;
    fmi_out_free(w->out);
    fmi_free(w->path);
    fmi_free(w->starts);
    fmi_free(w->lengths);
    fmi_free(w);
}

fm_status fmi_shard_writer_open(const char *path, uint64_t vocab_size, uint64_t tokenizer_hash,
                                fmi_shard_writer **out, fm_err *err)
{
    static const uint8_t zeros[HEADER_BYTES];
    if (vocab_size < 1 || vocab_size > (uint64_t)1 << 31)
        return FM_FAIL(err, FM_E_RANGE, "%s: vocabulary of %" PRIu64 " (expected 1 to 2^31)", path,
                       vocab_size);
    fmi_shard_writer *w = fmi_zalloc(sizeof *w);
    if (!w) return FM_FAIL(err, FM_E_NOMEM, "%s: token shard writer", path);
    w->vocab_size = vocab_size;
    w->tokenizer_hash = tokenizer_hash;
    w->width = vocab_size <= 65536 ? 2 : 4;
    w->cap = 1024;
    w->path = fmi_strdup(path);
    w->starts = fmi_alloc((w->cap + 1) * sizeof *w->starts);
    w->lengths = fmi_alloc(w->cap * sizeof *w->lengths);
    fmi_hash_init(&w->hash, 0);
    fm_status st = FM_OK;
    if (!w->path || !w->starts || !w->lengths)
        st = FM_FAIL(err, FM_E_NOMEM, "%s: token shard writer", path);
    if (!st) st = fmi_out_open(path, &w->out, err);
    if (!st) st = fmi_out_write(w->out, zeros, sizeof zeros, err);
    if (st) {
        fmi_shard_writer_free(w);
        return st;
    }
    w->starts[0] = 0;
    *out = w;
    return FM_OK;
}

static bool grow(fmi_shard_writer *w)
{
    if (w->n_documents < w->cap) return true;
    uint64_t *s = fmi_realloc(w->starts, (w->cap * 2 + 1) * sizeof *s);
    if (!s) return false;
    w->starts = s;
    uint64_t *l = fmi_realloc(w->lengths, w->cap * 2 * sizeof *l);
    if (!l) return false;
    w->lengths = l;
    w->cap *= 2;
    return true;
}

static fm_status put(fmi_shard_writer *w, const void *data, size_t bytes, fm_err *err)
{
    fmi_hash_write(&w->hash, data, bytes);
    return fmi_out_write(w->out, data, bytes, err);
}

fm_status fmi_shard_writer_write(fmi_shard_writer *w, const int32_t *ids, int64_t n,
                                 uint64_t text_bytes, fm_err *err)
{
    if (n < 1)
        return FM_FAIL(err, FM_E_RANGE, "%s: document %" PRIu64 " has no tokens", w->path,
                       w->n_documents);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint64_t)ids[i] >= w->vocab_size)
            return FM_FAIL(err, FM_E_RANGE,
                           "%s: document %" PRIu64 ", token %" PRId64
                           ": expected an id below %" PRIu64 ", found %" PRId32,
                           w->path, w->n_documents, i, w->vocab_size, ids[i]);
    if (!grow(w))
        return FM_FAIL(err, FM_E_NOMEM, "%s: table of %" PRIu64 " documents", w->path,
                       w->n_documents);
    fm_status st = FM_OK;
    if (w->width == 4) {
        st = put(w, ids, (size_t)n * 4, err);
    } else {
        uint16_t piece[2048];
        for (int64_t at = 0; at < n && !st; at += 2048) {
            int64_t k = n - at < 2048 ? n - at : 2048;
            for (int64_t i = 0; i < k; i++) piece[i] = (uint16_t)ids[at + i];
            st = put(w, piece, (size_t)k * 2, err);
        }
    }
    if (st) return st;
    w->n_tokens += (uint64_t)n;
    w->source_bytes += text_bytes;
    w->lengths[w->n_documents] = text_bytes;
    w->starts[++w->n_documents] = w->n_tokens;
    return FM_OK;
}

fm_status fmi_shard_writer_close(fmi_shard_writer *w, fm_err *err)
{
    static const uint8_t zeros[8];
    uint64_t token_bytes = w->n_tokens * (uint64_t)w->width;
    fm_status st = put(w, zeros, (size_t)(-token_bytes & 7), err);
    if (!st) st = put(w, w->starts, (size_t)(w->n_documents + 1) * 8, err);
    if (!st) st = put(w, w->lengths, (size_t)w->n_documents * 8, err);
    if (st) return st;
    uint8_t h[80] = {0};
    uint32_t version = FMI_SHARD_VERSION, width = (uint32_t)w->width;
    uint64_t fields[7] = {w->vocab_size,         w->tokenizer_hash, w->n_documents,
                          w->n_tokens,           w->source_bytes,   fmi_out_offset(w->out),
                          fmi_hash_get(&w->hash)};
    memcpy(h, "FMTOKENS", 8);
    memcpy(h + 8, &version, 4);
    memcpy(h + 12, &width, 4);
    memcpy(h + 16, fields, sizeof fields);
    uint64_t own = fmi_hash_bytes(h, 72, 0);
    memcpy(h + 72, &own, 8);
    st = fmi_out_patch(w->out, 0, h, sizeof h, err);
    return st ? st : fmi_out_close(w->out, err);
}

uint64_t fmi_shard_writer_documents(const fmi_shard_writer *w)
{
    return w->n_documents;
}

uint64_t fmi_shard_writer_tokens(const fmi_shard_writer *w)
{
    return w->n_tokens;
}
