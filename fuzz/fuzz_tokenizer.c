/* tokenizer.json from anywhere, and any text through a tokenizer: what is accepted must encode and
 * decode every byte string to itself, and the stream must stay valid UTF-8. The first byte chooses:
 * odd inputs are text for a fixed small tokenizer, even ones a tokenizer.json. */
#include "check.h"
#include "fathom/tokenizer.h"
#include "text/buf.h"

static void check(const fm_tokenizer *t, const char *s, size_t n, unsigned flags)
{
    fm_ids ids = { 0 };
    fm_text back = { 0 }, out = { 0 };
    fm_detok d;
    if (!fm_tokenizer_encode(t, s, n, flags, &ids, NULL) &&
        !fm_tokenizer_decode(t, ids.data, ids.n, 0, &back, NULL) &&
        (back.n != n || memcmp(back.data, s, n)))
        abort();
    fm_detok_init(&d, t, 0);
    bool ok = true;
    for (size_t i = 0; i < ids.n && ok; i++) ok = !fm_detok_push(&d, ids.data[i], &out, NULL);
    if (ok) ok = !fm_detok_flush(&d, &out, NULL);
    if (ok && fmi_utf8_valid(out.data, out.n) != out.n) abort();
    fm_ids_deinit(&ids);
    fm_text_deinit(&back);
    fm_text_deinit(&out);
}

static fm_tokenizer *small(void)
{
    static fm_tokenizer *t;
    if (t) return t;
    fm_text j = { 0 };
    const char *rest =
        "{\"added_tokens\":[{\"id\":300,\"content\":\"<x>\",\"special\":true},"
        "{\"id\":301,\"content\":\"<x\",\"normalized\":true}],\"pre_tokenizer\":{\"type\":\"Sequence\","
        "\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false}]},\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\","
        "\"merges\":[\"a b\",\"ab ab\",\"x y\"],\"vocab\":{\"ab\":256,\"abab\":257,\"xy\":258";
    fm_text_push(&j, rest, strlen(rest), NULL);
    for (unsigned b = 0; b < 256; b++) {
        char *e = fmi_format(",\"\\u%04x\":%u", fmi_byte_char(b), b);
        if (e) fm_text_push(&j, e, strlen(e), NULL);
        fmi_free(e);
    }
    fm_text_push(&j, "}}}", 3, NULL);
    fm_err err;
    fm_status st = fm_tokenizer_parse(j.data, j.n, "small", &t, &err);
    if (st && st != FM_E_NOMEM && st != FM_E_FORMAT) abort(); /* FORMAT: a push above failed */
    fm_text_deinit(&j);
    return t;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    const char *s = (const char *)data + 1;
    size_t n = size - 1;
    if (data[0] & 1) {
        fm_tokenizer *fixed = small();
        if (fixed) check(fixed, s, n, data[0] & 2 ? FM_ENCODE_PLAIN : 0);
        return 0;
    }
    fm_err err;
    fm_tokenizer *t = NULL;
    fm_status st = fm_tokenizer_parse(s, n, "input", &t, &err);
    if (st) fuzz_check_failure(st, &err, st == FM_E_NOMEM ? "" : "input");
    else check(t, s, n < 4096 ? n : 4096, 0);
    fm_tokenizer_free(t);
    return 0;
}
