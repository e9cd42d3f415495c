/* Growing buffers, UTF-8 checks and the GPT-2 byte map.
 *
 * The byte map gives each byte a printable character, so that a vocabulary of byte strings can be
 * written as JSON text: bytes 21-7E, A1-AC and AE-FF (hexadecimal) stand for themselves, the other
 * 68 are counted up from U+0100 in order. */
#include "text/buf.h"

#include <stdio.h>
#include <string.h>

fm_status fmi_grow(void **p, size_t *cap, size_t need, size_t size, fm_err *err)
{
    if (need <= *cap) return FM_OK;
    size_t want = *cap + *cap / 2;
    if (want < need) want = need;
    if (want < 16) want = 16;
    if (want > SIZE_MAX / 2 / size)
        return FM_FAIL(err, FM_E_NOMEM, "a buffer of %zu elements", want);
    void *q = fmi_realloc(*p, want * size);
    if (!q) return FM_FAIL(err, FM_E_NOMEM, "a buffer of %zu bytes", want * size);
    *p = q;
    *cap = want;
    return FM_OK;
}

fm_status fmi_ids_reserve(fm_ids *ids, size_t extra, fm_err *err)
{
    void *p = ids->data;
    fm_status st = fmi_grow(&p, &ids->cap, ids->n + extra, sizeof *ids->data, err);
    ids->data = p;
    return st;
}

fm_status fmi_text_reserve(fm_text *text, size_t extra, fm_err *err)
{
    void *p = text->data;
    fm_status st = fmi_grow(&p, &text->cap, text->n + extra + 1, 1, err);
    text->data = p;
    return st;
}

fm_status fm_ids_push(fm_ids *ids, int32_t id, fm_err *err)
{
    fm_status st = fmi_ids_reserve(ids, 1, err);
    if (!st) ids->data[ids->n++] = id;
    return st;
}

fm_status fm_text_push(fm_text *text, const void *bytes, size_t n, fm_err *err)
{
    fm_status st = fmi_text_reserve(text, n, err);
    if (st) return st;
    if (n) memcpy(text->data + text->n, bytes, n);
    text->n += n;
    text->data[text->n] = 0;
    return FM_OK;
}

fm_status fm_text_vprintf(fm_text *text, fm_err *err, const char *fmt, va_list ap)
{
    va_list again;
    va_copy(again, ap);
    int n = vsnprintf(NULL, 0, fmt, again);
    va_end(again);
    if (n < 0) return FM_FAIL(err, FM_E_RANGE, "a text that cannot be formatted");
    fm_status st = fmi_text_reserve(text, (size_t)n, err);
    if (st) return st;
    vsnprintf(text->data + text->n, (size_t)n + 1, fmt, ap);
    text->n += (size_t)n;
    return FM_OK;
}

fm_status fmi_text_puts(fm_text *text, const char *s, fm_err *err)
{
    return fm_text_push(text, s, strlen(s), err);
}

void fm_ids_deinit(fm_ids *ids)
{
    fmi_free(ids->data);
    *ids = (fm_ids){0};
}

void fm_text_deinit(fm_text *text)
{
    fmi_free(text->data);
    *text = (fm_text){0};
}

int fmi_utf8_char(const unsigned char *s, size_t n, bool *partial)
{
    if (partial) *partial = false;
    if (!n) return 0;
    unsigned c = s[0];
    if (c < 0x80) return 1;
    if (c < 0xc2 || c > 0xf4) return 0;
    int len = c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    /* The second byte's range excludes overlong forms, surrogates and what lies past U+10FFFF. */
    unsigned lo = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;
    unsigned hi = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf;
    for (int i = 1; i < len; i++) {
        if ((size_t)i >= n) {
            if (partial) *partial = true;
            return 0;
        }
        if (s[i] < lo || s[i] > hi) return 0;
        lo = 0x80;
        hi = 0xbf;
    }
    return len;
}

size_t fmi_utf8_bad(const unsigned char *s, size_t n)
{
    /* The longest prefix that could begin a character; at least one byte. */
    size_t k = 1;
    bool partial = false;
    while (k < n && k < 4) {
        fmi_utf8_char(s, k + 1, &partial);
        if (!partial) break;
        k++;
    }
    fmi_utf8_char(s, 1, &partial);
    return partial ? k : 1;
}

size_t fmi_utf8_valid(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    size_t i = 0;
    while (i < n) {
        while (n - i >= 8) {
            uint64_t w;
            memcpy(&w, s + i, 8);
            if (w & 0x8080808080808080u) break;
            i += 8;
        }
        if (i >= n) break;
        int len = fmi_utf8_char(s + i, n - i, NULL);
        if (!len) return i;
        i += (size_t)len;
    }
    return n;
}

int fmi_utf8_put(uint32_t c, char out[4])
{
    unsigned char *o = (unsigned char *)out;
    if (c < 0x80) {
        o[0] = (unsigned char)c;
        return 1;
    }
    if (c < 0x800) {
        o[0] = (unsigned char)(0xc0 | c >> 6);
        o[1] = (unsigned char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        o[0] = (unsigned char)(0xe0 | c >> 12);
        o[1] = (unsigned char)(0x80 | (c >> 6 & 63));
        o[2] = (unsigned char)(0x80 | (c & 63));
        return 3;
    }
    o[0] = (unsigned char)(0xf0 | c >> 18);
    o[1] = (unsigned char)(0x80 | (c >> 12 & 63));
    o[2] = (unsigned char)(0x80 | (c >> 6 & 63));
    o[3] = (unsigned char)(0x80 | (c & 63));
    return 4;
}

uint32_t fmi_utf8_get(const unsigned char *s, int len)
{
    static const unsigned char mask[5] = { 0, 0x7f, 0x1f, 0x0f, 0x07 };
    uint32_t c = s[0] & mask[len];
    for (int i = 1; i < len; i++) c = c << 6 | (s[i] & 63u);
    return c;
}

static bool byte_is_printable(unsigned b)
{
    return (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xff && b != 0xad);
}

uint32_t fmi_byte_char(unsigned byte)
{
    if (byte_is_printable(byte)) return byte;
    if (byte <= 0x20) return 0x100 + byte;         /* 33 of them: 00-20 */
    if (byte <= 0xa0) return 0x121 + byte - 0x7f;  /* 34: 7F-A0         */
    return 0x143;                                  /* AD                */
}

int fmi_char_byte(uint32_t c)
{
    if (c < 0x100) return byte_is_printable(c) ? (int)c : -1;
    if (c <= 0x120) return (int)(c - 0x100);
    if (c <= 0x142) return (int)(c - 0x121 + 0x7f);
    return c == 0x143 ? 0xad : -1;
}
