/* Ids to bytes, at once or as a stream of whole characters. */
#include <string.h>

#include "text/tok.h"

const char *fm_tokenizer_token_bytes(const fm_tokenizer *tok, int32_t id, size_t *n)
{
    *n = 0;
    if (id < 0 || id >= tok->n_vocab || !tok->kind[id]) return NULL;
    *n = tok->len[id];
    return tok->pool.data + tok->begin[id];
}

bool fm_tokenizer_is_added(const fm_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n_vocab && (tok->kind[id] & FMI_TOKEN_ADDED);
}

bool fm_tokenizer_is_control(const fm_tokenizer *tok, int32_t id)
{
    return id >= 0 && id < tok->n_vocab && (tok->kind[id] & FMI_TOKEN_CONTROL);
}

fm_status fm_tokenizer_decode(const fm_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags,
                              fm_text *text, fm_err *err)
{
    size_t before = text->n;
    fm_status st = fm_text_push(text, "", 0, err);
    for (size_t i = 0; i < n && !st; i++) {
        size_t len;
        const char *s = fm_tokenizer_token_bytes(tok, ids[i], &len);
        if (!s)
            st = FM_FAIL(err, FM_E_RANGE,
                         "id %d at index %zu: the vocabulary has no such token (%d ids)", ids[i], i,
                         tok->n_vocab);
        else if (!(flags & FM_DECODE_SKIP_CONTROL) || !fm_tokenizer_is_control(tok, ids[i]))
            st = fm_text_push(text, s, len, err);
    }
    if (st) text->n = before;
    return st;
}

void fm_detok_init(fm_detok *d, const fm_tokenizer *tok, unsigned flags)
{
    *d = (fm_detok){ .tok = tok, .flags = flags };
}

/* Gives out what is complete of buf[n]; returns how many bytes at its end must wait. */
static fm_status put_whole(const unsigned char *buf, size_t n, bool last, fm_text *out,
                           size_t *n_wait, fm_err *err)
{
    size_t i = 0;
    fm_status st = FM_OK;
    while (i < n) {
        size_t run = fmi_utf8_valid((const char *)buf + i, n - i);
        st = fm_text_push(out, buf + i, run, err);
        i += run;
        if (st || i == n) break;
        bool partial;
        fmi_utf8_char(buf + i, n - i, &partial);
        if (partial && !last) break;
        st = fm_text_push(out, "\xef\xbf\xbd", 3, err);
        if (st) break;
        i += fmi_utf8_bad(buf + i, n - i);
    }
    *n_wait = n - i;
    return st;
}

/* In blocks, so that nothing is allocated beside what `out` may need. */
static fm_status detok_bytes(fm_detok *d, const char *s, size_t n, bool last, fm_text *out,
                             fm_err *err)
{
    unsigned char buf[256];
    size_t before = out->n, held = (size_t)d->n_held;
    memcpy(buf, d->held, held);
    do {
        size_t take = n < sizeof buf - held ? n : sizeof buf - held, wait = 0;
        memcpy(buf + held, s, take);
        s += take;
        n -= take;
        fm_status st = put_whole(buf, held + take, last && !n, out, &wait, err);
        if (st) {
            out->n = before;
            return st;
        }
        memmove(buf, buf + held + take - wait, wait);
        held = wait;
    } while (n);
    d->n_held = (int)held;
    memcpy(d->held, buf, held);
    return FM_OK;
}

fm_status fm_detok_push(fm_detok *d, int32_t id, fm_text *out, fm_err *err)
{
    size_t n;
    const char *s = fm_tokenizer_token_bytes(d->tok, id, &n);
    if (!s)
        return FM_FAIL(err, FM_E_RANGE, "id %d: the vocabulary has no such token (%d ids)", id,
                       d->tok->n_vocab);
    if (d->flags & FM_DECODE_SKIP_CONTROL && fm_tokenizer_is_control(d->tok, id)) return FM_OK;
    return detok_bytes(d, s, n, false, out, err);
}

fm_status fm_detok_flush(fm_detok *d, fm_text *out, fm_err *err)
{
    return detok_bytes(d, "", 0, true, out, err);
}
