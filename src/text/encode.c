/* Text to ids: runs of valid UTF-8, added tokens, pieces, merges.
 *
 * An invalid byte is a piece of its own, so any bytes encode and come back. An added token is valid
 * UTF-8 and UTF-8 is self-synchronising: it can only lie inside a valid run. Added tokens are found
 * leftmost, longest, in two rounds as in the Hugging Face library: first those not marked
 * "normalized", then, in what is left, the others. */
#include <stdatomic.h>
#include <string.h>

#include "text/bpe.h"

fm_status fmi_encoder_new(const fm_tokenizer *tok, fmi_encoder **out, fm_err *err)
{
    fmi_encoder *e = fmi_zalloc(sizeof *e);
    if (!e) return FM_FAIL(err, FM_E_NOMEM, "an encoder");
    e->tok = tok;
    fm_status st = fmi_pretok_run_init(&e->pretok, &tok->pretok, err);
    if (!st && !(e->cache = fmi_zalloc(FMI_BPE_CACHE * sizeof *e->cache)))
        st = FM_FAIL(err, FM_E_NOMEM, "an encoder's cache");
    if (st) {
        fmi_encoder_free(e);
        return st;
    }
    *out = e;
    return FM_OK;
}

void fmi_encoder_free(fmi_encoder *e)
{
    if (!e) return;
    fmi_pretok_run_deinit(&e->pretok);
    fmi_free(e->cache);
    fmi_free(e->node);
    fmi_free(e->heap);
    fmi_free(e);
}

static fm_status take_piece(void *arg, const char *piece, size_t n, fm_err *err)
{
    fmi_encoder *e = arg;
    return fmi_bpe_encode(e, piece, n, e->ids, err);
}

static int compare_at(const fmi_added *a, uint32_t depth)
{
    return depth < a->n ? (unsigned char)a->text[depth] : -1;
}

/* The longest token of the set that starts at s, or NULL: the sorted range is narrowed by a byte at
 * a time; a token that ends at the current depth is the first of its range. */
static const fmi_added *added_at(const fmi_added_set *set, const char *s, size_t n)
{
    const fmi_added *best = NULL;
    int32_t lo = 0, hi = set->n;
    for (uint32_t depth = 0; lo < hi; depth++) {
        if (set->item[lo].n == depth) best = &set->item[lo];
        if (depth >= n) break;
        int want = (unsigned char)s[depth];
        int32_t a = lo, b = hi;
        while (a < b) {
            int32_t mid = a + (b - a) / 2;
            if (compare_at(&set->item[mid], depth) < want) a = mid + 1;
            else b = mid;
        }
        lo = a;
        b = hi;
        while (a < b) {
            int32_t mid = a + (b - a) / 2;
            if (compare_at(&set->item[mid], depth) <= want) a = mid + 1;
            else b = mid;
        }
        hi = a;
    }
    return best;
}

static fm_status encode_run(fmi_encoder *e, int round, const char *s, size_t n, fm_err *err)
{
    if (!n) return FM_OK;
    if (round == 2) return fmi_pretok_split(&e->pretok, s, n, take_piece, e, err);
    const fmi_added_set *set = &e->tok->added[round];
    fm_status st = FM_OK;
    size_t done = 0;
    for (size_t i = 0; set->n && i < n && !st;) {
        const fmi_added *a;
        if (!set->first[(unsigned char)s[i]] || !(a = added_at(set, s + i, n - i))) {
            i++;
            continue;
        }
        st = encode_run(e, round + 1, s + done, i - done, err);
        if (!st) st = fm_ids_push(e->ids, a->id, err);
        i += a->n;
        done = i;
    }
    return st ? st : encode_run(e, round + 1, s + done, n - done, err);
}

fm_status fmi_encode(fmi_encoder *e, const char *text, size_t n, unsigned flags, fm_ids *ids,
                     fm_err *err)
{
    if (n > INT32_MAX) return FM_FAIL(err, FM_E_RANGE, "a text of %zu bytes; at most 2 GiB", n);
    size_t before = ids->n;
    fm_status st = FM_OK;
    e->ids = ids;
    for (size_t i = 0; i < n && !st;) {
        size_t run = fmi_utf8_valid(text + i, n - i);
        st = encode_run(e, flags & FM_ENCODE_PLAIN ? 2 : 0, text + i, run, err);
        i += run;
        if (i < n && !st) st = fmi_bpe_encode(e, text + i++, 1, ids, err);
    }
    if (!st && flags & FM_ENCODE_BOS && e->tok->bos >= 0 &&
        (ids->n == before || ids->data[before] != e->tok->bos)) {
        st = fmi_ids_reserve(ids, 1, err);
        if (!st) {
            memmove(ids->data + before + 1, ids->data + before,
                    (ids->n - before) * sizeof *ids->data);
            ids->data[before] = e->tok->bos;
            ids->n++;
        }
    }
    e->ids = NULL;
    if (st) ids->n = before;
    return st;
}

fm_status fm_tokenizer_encode(const fm_tokenizer *tok, const char *text, size_t n, unsigned flags,
                              fm_ids *ids, fm_err *err)
{
    /* The spare encoder is the one field that changes: whoever takes it owns it until it is back.
     */
    fm_tokenizer *t = (fm_tokenizer *)tok;
    fmi_encoder *e = atomic_exchange(&t->spare, NULL);
    fm_status st = FM_OK;
    if (!e) st = fmi_encoder_new(tok, &e, err);
    if (!st) st = fmi_encode(e, text, n, flags, ids, err);
    if (e) fmi_encoder_free(atomic_exchange(&t->spare, e));
    return st;
}
