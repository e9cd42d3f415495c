/* Chat requests from anywhere in the three formats, and chat templates to be recognised. Spans must lie
 * inside the text, in order. */
#include "check.h"
#include "fathom/chat.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const names[] = { "v3", "r1", "v3.1" };
    const char *s = (const char *)data;
    for (int i = 0; i < 3; i++) {
        fm_chat_format f;
        fm_text out = { 0 };
        fm_chat_spans spans = { 0 };
        if (fm_chat_format_get(names[i], &f, NULL)) abort();
        fm_err err;
        fm_status st = fm_chat_render_json(&f, "<bos>", s, size, "input", &out, &spans, &err);
        if (st && st != FM_E_NOMEM) fuzz_check_failure(st, &err, "input");
        if (st) FUZZ_CHECK(!out.n && !spans.n);
        for (size_t k = 0, at = 0; k < spans.n; at = spans.span[k++][1])
            if (spans.span[k][0] < at || spans.span[k][1] <= spans.span[k][0] ||
                spans.span[k][1] > out.n)
                abort();
        fm_text_deinit(&out);
        fm_chat_spans_deinit(&spans);
    }
    char *text = malloc(size + 1);
    if (!text) return 0;
    memcpy(text, s, size);
    text[size] = 0;
    fm_chat_format f;
    fm_chat_format_read(text, &f, NULL);
    free(text);
    return 0;
}
