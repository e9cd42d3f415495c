/* Growing buffers, UTF-8 checks and the GPT-2 byte map: what every file of this module leans on. */
#ifndef FM_TEXT_BUF_H
#define FM_TEXT_BUF_H

#include "base/base.h"
#include "fathom/tokenizer.h" /* fm_ids, fm_text and their push */

/* Room for `extra` more elements; data and n stay as they were on failure. */
fm_status fmi_ids_reserve(fm_ids *ids, size_t extra, fm_err *err);
fm_status fmi_text_reserve(fm_text *text, size_t extra, fm_err *err);

fm_status fmi_text_puts(fm_text *text, const char *s, fm_err *err);

/* Grows *p (elements of `size` bytes, room for *cap) to hold at least `need` elements. */
fm_status fmi_grow(void **p, size_t *cap, size_t need, size_t size, fm_err *err);

/* Bytes of the longest prefix of s that is valid UTF-8 (no surrogates, no overlong forms). */
size_t fmi_utf8_valid(const char *s, size_t n);

/* Length 1..4 of the character that starts at s, 0 when the bytes are not one. *partial is set when
 * n ends inside what may still become a character. */
int fmi_utf8_char(const unsigned char *s, size_t n, bool *partial);

/* Bytes of the maximal ill-formed part at s (n >= 1; s does not start a character): what U+FFFD
 * replaces once (Unicode 3.9, "substitution of maximal subparts"). */
size_t fmi_utf8_bad(const unsigned char *s, size_t n);

int fmi_utf8_put(uint32_t c, char out[4]);              /* bytes written */
uint32_t fmi_utf8_get(const unsigned char *s, int len); /* a valid character of len bytes */

/* GPT-2's map: byte -> printable code point, and back (-1 when c stands for no byte). */
uint32_t fmi_byte_char(unsigned byte);
int fmi_char_byte(uint32_t c);

#endif
