/* Token shards: reading (mapped, checked whole before use) and writing (streamed, published at
 * close). The format table stands in shards.h.
 *
 * The writer sends tokens straight to the file and keeps 16 bytes a document in memory for the two
 * tables behind them; the header is patched last. Little-endian hosts only (hash.c asserts it). */
#include "io/shards.h"

#include <inttypes.h>
#include <string.h>

#include "io/hash.h"

#define HEADER_BYTES 128
#define VOCAB_MAX    ((uint64_t)1 << 31)
static const char magic[8] = "FMTOKENS";

static uint64_t get64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static uint32_t get32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

void fmi_shard_close(fmi_shard *s)
{
    if (!s) return;
    fm_map_close(&s->map);
    fmi_free(s->path);
    fmi_free(s);
}

static fm_status check_header(fmi_shard *s, const uint8_t *p, size_t bytes, fm_err *err)
{
    if (bytes < HEADER_BYTES)
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected a header of %d bytes, found a file of %zu",
                       s->path, HEADER_BYTES, bytes);
    if (memcmp(p, magic, 8))
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 0: expected the magic FMTOKENS, found "
                       "%02x %02x %02x %02x ..: not a token shard",
                       s->path, p[0], p[1], p[2], p[3]);
    if (get32(p + 8) != FMI_SHARD_VERSION)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: byte 8: expected version %d, found %" PRIu32,
                       s->path, FMI_SHARD_VERSION, get32(p + 8));
    uint64_t want = fmi_hash_bytes(p, 72, 0);
    if (get64(p + 72) != want)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 72: header hash: expected %016" PRIx64 ", found %016" PRIx64,
                       s->path, want, get64(p + 72));
    s->token_bytes = (int)get32(p + 12);
    s->vocab_size = get64(p + 16);
    s->tokenizer_hash = get64(p + 24);
    s->n_documents = get64(p + 32);
    s->n_tokens = get64(p + 40);
    s->source_bytes = get64(p + 48);
    s->payload_hash = get64(p + 64);
    if (s->token_bytes != 2 && s->token_bytes != 4)
        return FM_FAIL(err, FM_E_FORMAT, "%s: byte 12: expected a token width of 2 or 4, found %d",
                       s->path, s->token_bytes);
    if (s->vocab_size < 1 || s->vocab_size > VOCAB_MAX)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 16: expected a vocabulary of 1 to %" PRIu64 ", found %" PRIu64,
                       s->path, VOCAB_MAX, s->vocab_size);
    if (get64(p + 56) != bytes)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 56: expected %" PRIu64 " bytes of file, found %zu "
                       "(truncated?)",
                       s->path, get64(p + 56), bytes);
    for (int i = 80; i < HEADER_BYTES; i++)
        if (p[i])
            return FM_FAIL(err, FM_E_FORMAT, "%s: byte %d: expected zero, found %02x", s->path, i,
                           p[i]);
    return FM_OK;
}

/* Where the tables lie; D and T are bounded by the file length before they are multiplied. */
static fm_status check_layout(fmi_shard *s, const uint8_t *p, size_t bytes, fm_err *err)
{
    uint64_t room = bytes - HEADER_BYTES, w = (uint64_t)s->token_bytes;
    uint64_t want = 0;
    bool ok = s->n_tokens <= room / w && s->n_documents <= room / 16;
    if (ok) {
        want = (s->n_tokens * w + 7) / 8 * 8 + s->n_documents * 16 + 8;
        ok = want == room;
    }
    if (!ok)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 32: %" PRIu64 " documents and %" PRIu64
                       " tokens do not fill the %" PRIu64 " bytes of payload",
                       s->path, s->n_documents, s->n_tokens, room);
    s->payload = p + HEADER_BYTES;
    s->payload_bytes = room;
    s->starts = s->payload + (s->n_tokens * w + 7) / 8 * 8;
    s->lengths = s->starts + 8 * (s->n_documents + 1);
    return FM_OK;
}

static fm_status check_documents(const fmi_shard *s, fm_err *err)
{
    uint64_t at = 0, text = 0, where = (uint64_t)(s->starts - s->payload) + HEADER_BYTES;
    for (uint64_t i = 0; i <= s->n_documents; i++) {
        uint64_t v = get64(s->starts + 8 * i);
        if (i == 0 ? v != 0 : v <= at)
            return FM_FAIL(err, FM_E_FORMAT,
                           "%s: byte %" PRIu64 ": document %" PRIu64
                           ": expected a first token %s %" PRIu64 ", found %" PRIu64,
                           s->path, where + 8 * i, i, i ? "above" : "of", at, v);
        at = v;
        if (i < s->n_documents && __builtin_add_overflow(text, get64(s->lengths + 8 * i), &text))
            return FM_FAIL(err, FM_E_FORMAT, "%s: document %" PRIu64 ": text bytes overflow",
                           s->path, i);
    }
    if (at != s->n_tokens)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte %" PRIu64 ": expected the documents to end at token "
                       "%" PRIu64 ", found %" PRIu64,
                       s->path, where + 8 * s->n_documents, s->n_tokens, at);
    if (text != s->source_bytes)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 48: expected %" PRIu64 " bytes of text, found "
                       "documents of %" PRIu64,
                       s->path, s->source_bytes, text);
    return FM_OK;
}

static uint32_t token_at(const fmi_shard *s, uint64_t i)
{
    if (s->token_bytes == 4) return get32(s->payload + 4 * i);
    uint16_t v;
    memcpy(&v, s->payload + 2 * i, 2);
    return v;
}

static fm_status check_tokens(const fmi_shard *s, fm_err *err)
{
    uint32_t most = 0;
    if (s->token_bytes == 2 && s->vocab_size > UINT16_MAX) return FM_OK;
    for (uint64_t i = 0; i < s->n_tokens; i++) {
        uint32_t v = token_at(s, i);
        most = v > most ? v : most;
    }
    if (s->n_tokens == 0 || most < s->vocab_size) return FM_OK;
    uint64_t i = 0;
    while (token_at(s, i) < s->vocab_size) i++;
    return FM_FAIL(
        err, FM_E_FORMAT,
        "%s: byte %" PRIu64 ": token %" PRIu64 ": expected an id below %" PRIu64 ", found %" PRIu32,
        s->path, HEADER_BYTES + i * (uint64_t)s->token_bytes, i, s->vocab_size, token_at(s, i));
}

static fm_status check_all(fmi_shard *s, const uint8_t *data, size_t bytes, fm_err *err)
{
    fm_status st = check_header(s, data, bytes, err);
    if (!st) st = check_layout(s, data, bytes, err);
    if (!st) st = check_documents(s, err);
    return st ? st : check_tokens(s, err);
}

static fm_status shard_new(const char *path, fmi_shard **out, fm_err *err)
{
    fmi_shard *s = fmi_zalloc(sizeof *s);
    if (s) s->path = fmi_strdup(path);
    if (!s || !s->path) {
        fmi_free(s);
        return FM_FAIL(err, FM_E_NOMEM, "%s: token shard", path);
    }
    *out = s;
    return FM_OK;
}

fm_status fmi_shard_parse(const char *name, const void *data, size_t bytes, fmi_shard **out,
                          fm_err *err)
{
    fmi_shard *s = NULL;
    fm_status st = shard_new(name, &s, err);
    if (st) return st;
    st = check_all(s, data, bytes, err);
    if (st) {
        fmi_shard_close(s);
        return st;
    }
    *out = s;
    return FM_OK;
}

fm_status fmi_shard_open(const char *path, fmi_shard **out, fm_err *err)
{
    fmi_shard *s = NULL;
    fm_status st = shard_new(path, &s, err);
    if (st) return st;
    st = fm_map_open(&s->map, path, err);
    if (!st) st = check_all(s, s->map.data, s->map.bytes, err);
    if (st) {
        fmi_shard_close(s);
        return st;
    }
    *out = s;
    return FM_OK;
}

fm_status fmi_shard_check_hash(const fmi_shard *s, fm_err *err)
{
    uint64_t found = fmi_hash_bytes(s->payload, (size_t)s->payload_bytes, 0);
    if (found == s->payload_hash) return FM_OK;
    return FM_FAIL(err, FM_E_FORMAT,
                   "%s: byte 64: payload hash: expected %016" PRIx64 ", found %016" PRIx64
                   ": the file is damaged",
                   s->path, s->payload_hash, found);
}

void fmi_shard_document(const fmi_shard *s, uint64_t i, uint64_t *begin, uint64_t *end,
                        uint64_t *text_bytes)
{
    FM_ASSERT(i < s->n_documents);
    if (begin) *begin = get64(s->starts + 8 * i);
    if (end) *end = get64(s->starts + 8 * i + 8);
    if (text_bytes) *text_bytes = get64(s->lengths + 8 * i);
}

void fmi_shard_tokens(const fmi_shard *s, uint64_t begin, uint64_t n, int32_t *out)
{
    FM_ASSERT(begin <= s->n_tokens && n <= s->n_tokens - begin);
    for (uint64_t i = 0; i < n; i++) out[i] = (int32_t)token_at(s, begin + i);
}
