/* A hash table of pieces and how often each occurred. */
#include "text/words.h"

#include <string.h>

#include "io/hash.h"

static size_t slot_of(const fmi_words *w, const char *s, size_t n)
{
    size_t i = (size_t)fmi_hash_bytes(s, n, 0) & w->slot_mask;
    for (;; i = (i + 1) & w->slot_mask) {
        uint32_t k = w->slot[i];
        if (!k) return i;
        const fmi_word *x = &w->word[k - 1];
        if (x->len == n && !memcmp(w->pool.data + x->begin, s, n)) return i;
    }
}

static fm_status grow_slots(fmi_words *w, fm_err *err)
{
    size_t slots = w->slot ? 2 * (w->slot_mask + 1) : 4096;
    uint32_t *fresh = fmi_zalloc(slots * sizeof *fresh);
    if (!fresh) return FM_FAIL(err, FM_E_NOMEM, "a table of %zu pieces", slots);
    fmi_free(w->slot);
    w->slot = fresh;
    w->slot_mask = slots - 1;
    for (size_t k = 0; k < w->n; k++)
        w->slot[slot_of(w, w->pool.data + w->word[k].begin, w->word[k].len)] = (uint32_t)k + 1;
    return FM_OK;
}

fm_status fmi_words_push(fmi_words *w, const char *s, size_t n, int64_t count, fm_err *err)
{
    fm_status st = FM_OK;
    if (!w->slot || 2 * (w->n + 1) > w->slot_mask) st = grow_slots(w, err);
    if (st) return st;
    size_t i = slot_of(w, s, n);
    if (w->slot[i]) {
        w->word[w->slot[i] - 1].count += count;
        return FM_OK;
    }
    if (w->n >= UINT32_MAX - 1) return FM_FAIL(err, FM_E_RANGE, "more than 2^32 different pieces");
    void *p = w->word;
    st = fmi_grow(&p, &w->cap, w->n + 1, sizeof *w->word, err);
    w->word = p;
    uint64_t begin = w->pool.n;
    if (!st) st = fm_text_push(&w->pool, s, n, err);
    if (st) return st;
    w->word[w->n++] = (fmi_word){ begin, (uint32_t)n, count };
    w->slot[i] = (uint32_t)w->n;
    return FM_OK;
}

void fmi_words_deinit(fmi_words *w)
{
    fm_text_deinit(&w->pool);
    fmi_free(w->word);
    fmi_free(w->slot);
    *w = (fmi_words){0};
}
