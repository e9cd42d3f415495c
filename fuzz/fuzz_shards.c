/* Token shards. The input runs as it is, and again with file length and header hash corrected so
 * that mutations reach the checks behind them. */
#include "check.h"
#include "io/hash.h"
#include "io/shards.h"

static void parse(const uint8_t *data, size_t size)
{
    fm_err err;
    fmi_shard *s = NULL;
    fm_status st = fmi_shard_parse("input", data, size, &s, &err);
    if (st) {
        fuzz_check_failure(st, &err, "input");
        return;
    }
    uint64_t at = 0, text = 0;
    for (uint64_t d = 0; d < s->n_documents; d++) {
        uint64_t begin, end, bytes;
        fmi_shard_document(s, d, &begin, &end, &bytes);
        FUZZ_CHECK(begin == at && end > begin && end <= s->n_tokens);
        for (; at < end; at++) {
            int32_t id;
            fmi_shard_tokens(s, at, 1, &id);
            FUZZ_CHECK(id >= 0 && (uint64_t)id < s->vocab_size);
        }
        text += bytes;
    }
    FUZZ_CHECK(at == s->n_tokens && text == s->source_bytes);
    (void)fmi_shard_check_hash(s, &err);
    fmi_shard_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    if (size < 128) return 0;
    uint8_t *fixed = malloc(size);
    if (!fixed) return 0;
    memcpy(fixed, data, size);
    memcpy(fixed, "FMTOKENS\1\0\0\0", 12);
    uint64_t n = size;
    memcpy(fixed + 56, &n, 8);
    n = fmi_hash_bytes(fixed, 72, 0);
    memcpy(fixed + 72, &n, 8);
    memset(fixed + 80, 0, 48);
    parse(fixed, size);
    free(fixed);
    return 0;
}
