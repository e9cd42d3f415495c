/* Learning merges: repeatedly join the most frequent pair of neighbours.
 *
 * Each distinct piece is a row of symbols with a count. Every pair of neighbours has a count and
 * the list of rows that (may) hold it. A merge rewrites only those rows: a row's pairs are taken
 * off the counts, the row is rewritten, its pairs are put back. The heap holds (count, pair); an
 * entry whose count is no longer true is put back with the true one. Equal counts: the lower left
 * id, then the lower right id, so the result depends on nothing but the counts. Two merges may give
 * the same bytes: the second adds a merge, not a token. (Sennrich et al. 2016, byte-level as in
 * GPT-2.) */
#include <string.h>

#include "io/hash.h"
#include "text/tok.h"
#include "text/words.h"

typedef struct bpe_pair {
    uint64_t key;
    int64_t count;
    uint32_t *row; /* rows that may hold the pair */
    size_t n, cap;
    uint32_t step; /* last merge that added to it */
    bool merged;   /* has its rank; another merge may make it occur again */
} bpe_pair;

typedef struct bpe_entry {
    int64_t count;
    uint64_t key;
} bpe_entry;

typedef struct learner {
    int32_t *sym;       /* all rows, one after another */
    uint64_t *begin;    /* [n_rows] into sym */
    uint32_t *len;      /* [n_rows] shrinks */
    int64_t *count;     /* [n_rows] */
    size_t n_rows;
    bpe_pair *pair;
    size_t n_pairs, cap_pairs;
    uint32_t *slot;     /* pair index + 1 */
    size_t slot_mask;
    bpe_entry *heap;
    size_t n_heap, cap_heap;
    uint32_t *touched;  /* pairs the running merge added to */
    size_t n_touched, cap_touched;
    uint32_t step;
    uint32_t *by_bytes; /* token id + 1 by hash of its bytes */
    size_t by_mask;
} learner;

static bool before(bpe_entry a, bpe_entry b)
{
    return a.count != b.count ? a.count > b.count : a.key < b.key;
}

static fm_status heap_push(learner *l, bpe_entry e, fm_err *err)
{
    void *p = l->heap;
    fm_status st = fmi_grow(&p, &l->cap_heap, l->n_heap + 1, sizeof e, err);
    l->heap = p;
    if (st) return st;
    size_t i = l->n_heap++;
    for (; i && before(e, l->heap[(i - 1) / 2]); i = (i - 1) / 2) l->heap[i] = l->heap[(i - 1) / 2];
    l->heap[i] = e;
    return FM_OK;
}

static bpe_entry heap_pop(learner *l)
{
    bpe_entry top = l->heap[0], v = l->heap[--l->n_heap];
    size_t i = 0;
    for (size_t c; (c = 2 * i + 1) < l->n_heap; i = c) {
        if (c + 1 < l->n_heap && before(l->heap[c + 1], l->heap[c])) c++;
        if (!before(l->heap[c], v)) break;
        l->heap[i] = l->heap[c];
    }
    l->heap[i] = v;
    return top;
}

static size_t pair_slot(const learner *l, uint64_t key)
{
    size_t i = (size_t)fmi_pair_hash(key) & l->slot_mask;
    while (l->slot[i] && l->pair[l->slot[i] - 1].key != key) i = (i + 1) & l->slot_mask;
    return i;
}

static fm_status grow_slots(learner *l, fm_err *err)
{
    size_t slots = l->slot ? 2 * (l->slot_mask + 1) : 65536;
    uint32_t *fresh = fmi_zalloc(slots * sizeof *fresh);
    if (!fresh) return FM_FAIL(err, FM_E_NOMEM, "a table of %zu pairs", slots);
    fmi_free(l->slot);
    l->slot = fresh;
    l->slot_mask = slots - 1;
    for (size_t k = 0; k < l->n_pairs; k++) l->slot[pair_slot(l, l->pair[k].key)] = (uint32_t)k + 1;
    return FM_OK;
}

/* Adds `count` (may be negative) to a pair; with a row >= 0 notes that the row holds it. */
static fm_status pair_add(learner *l, uint64_t key, int64_t count, int64_t row, fm_err *err)
{
    fm_status st = FM_OK;
    if (!l->slot || 2 * (l->n_pairs + 1) > l->slot_mask) st = grow_slots(l, err);
    if (st) return st;
    size_t s = pair_slot(l, key);
    if (!l->slot[s]) {
        void *p = l->pair;
        st = fmi_grow(&p, &l->cap_pairs, l->n_pairs + 1, sizeof *l->pair, err);
        l->pair = p;
        if (st) return st;
        l->pair[l->n_pairs++] = (bpe_pair){ .key = key };
        l->slot[s] = (uint32_t)l->n_pairs;
    }
    uint32_t index = l->slot[s] - 1;
    bpe_pair *x = &l->pair[index];
    x->count += count;
    if (row < 0) return FM_OK;
    if (x->step != l->step) {
        void *t = l->touched;
        st = fmi_grow(&t, &l->cap_touched, l->n_touched + 1, sizeof *l->touched, err);
        l->touched = t;
        if (st) return st;
        x->step = l->step;
        l->touched[l->n_touched++] = index;
    }
    if (x->n && x->row[x->n - 1] == (uint32_t)row) return FM_OK;
    void *p = x->row;
    st = fmi_grow(&p, &x->cap, x->n + 1, sizeof *x->row, err);
    x->row = p;
    if (!st) x->row[x->n++] = (uint32_t)row;
    return st;
}

static fm_status push_touched(learner *l, fm_err *err)
{
    fm_status st = FM_OK;
    for (size_t i = 0; i < l->n_touched && !st; i++) {
        const bpe_pair *x = &l->pair[l->touched[i]];
        if (x->count >= 2) st = heap_push(l, (bpe_entry){ x->count, x->key }, err);
    }
    l->n_touched = 0;
    return st;
}

static fm_status fill(learner *l, const fmi_words *w, fm_err *err)
{
    size_t total = 0;
    for (size_t i = 0; i < w->n; i++) total += w->word[i].len;
    l->n_rows = w->n;
    l->sym = fmi_alloc((total + 1) * sizeof *l->sym);
    l->begin = fmi_alloc((w->n + 1) * sizeof *l->begin);
    l->len = fmi_alloc((w->n + 1) * sizeof *l->len);
    l->count = fmi_alloc((w->n + 1) * sizeof *l->count);
    if (!l->sym || !l->begin || !l->len || !l->count)
        return FM_FAIL(err, FM_E_NOMEM, "%zu pieces of %zu bytes", w->n, total);
    fm_status st = FM_OK;
    l->step = 1;
    for (size_t i = 0, at = 0; i < w->n && !st; i++) {
        const unsigned char *s = (const unsigned char *)w->pool.data + w->word[i].begin;
        l->begin[i] = at;
        l->len[i] = w->word[i].len;
        l->count[i] = w->word[i].count;
        for (uint32_t k = 0; k < l->len[i]; k++) l->sym[at++] = s[k];
        for (uint32_t k = 0; k + 1 < l->len[i] && !st; k++)
            st = pair_add(l, fmi_pair_key(s[k], s[k + 1]), l->count[i], (int64_t)i, err);
    }
    return st ? st : push_touched(l, err);
}

/* Row i with every (a, b) joined into c, left to right; counts follow. */
static fm_status rewrite(learner *l, uint32_t i, int32_t a, int32_t b, int32_t c, fm_err *err)
{
    int32_t *s = l->sym + l->begin[i];
    uint32_t n = l->len[i], k = 0;
    while (k + 1 < n && !(s[k] == a && s[k + 1] == b)) k++;
    if (k + 1 >= n) return FM_OK; /* an earlier merge took the pair away */
    fm_status st = FM_OK;
    for (k = 0; k + 1 < n && !st; k++)
        st = pair_add(l, fmi_pair_key(s[k], s[k + 1]), -l->count[i], -1, err);
    uint32_t out = 0;
    for (k = 0; k < n; out++) {
        bool join = k + 1 < n && s[k] == a && s[k + 1] == b;
        s[out] = join ? c : s[k];
        k += join ? 2 : 1;
    }
    l->len[i] = out;
    for (k = 0; k + 1 < out && !st; k++) {
        bool fresh = s[k] == c || s[k + 1] == c;
        st = pair_add(l, fmi_pair_key(s[k], s[k + 1]), l->count[i], fresh ? (int64_t)i : -1, err);
    }
    return st;
}

static size_t token_slot(const learner *l, const fmi_bpe_model *m, const char *s, size_t n)
{
    size_t i = (size_t)fmi_hash_bytes(s, n, 0) & l->by_mask;
    for (;; i = (i + 1) & l->by_mask) {
        uint32_t k = l->by_bytes[i];
        if (!k || (m->len[k - 1] == n && !memcmp(m->pool.data + m->begin[k - 1], s, n))) return i;
    }
}

/* The token with these bytes, made if new. s must not lie in the pool. */
static fm_status token_of(learner *l, fmi_bpe_model *m, const char *s, size_t n, int32_t *id,
                          fm_err *err)
{
    size_t slot = token_slot(l, m, s, n);
    if (l->by_bytes[slot]) {
        *id = (int32_t)l->by_bytes[slot] - 1;
        return FM_OK;
    }
    void *b = m->begin, *e = m->len;
    fm_status st = fmi_grow(&b, &m->cap_begin, m->n_tokens + 1, sizeof *m->begin, err);
    if (!st) st = fmi_grow(&e, &m->cap_len, m->n_tokens + 1, sizeof *m->len, err);
    m->begin = b;
    m->len = e;
    uint64_t begin = m->pool.n;
    if (!st) st = fm_text_push(&m->pool, s, n, err);
    if (st) return st;
    m->begin[m->n_tokens] = begin;
    m->len[m->n_tokens] = (uint32_t)n;
    *id = (int32_t)m->n_tokens++;
    l->by_bytes[slot] = (uint32_t)m->n_tokens;
    return FM_OK;
}

static fm_status merge_pair(learner *l, fmi_bpe_model *m, uint32_t index, fm_text *joined,
                            fm_err *err)
{
    int32_t a = (int32_t)(l->pair[index].key >> 32), b = (int32_t)(uint32_t)l->pair[index].key,
            c = 0;
    joined->n = 0;
    fm_status st = fm_text_push(joined, m->pool.data + m->begin[a], m->len[a], err);
    if (!st) st = fm_text_push(joined, m->pool.data + m->begin[b], m->len[b], err);
    if (!st) st = token_of(l, m, joined->data, joined->n, &c, err);
    void *p = m->merge;
    if (!st) st = fmi_grow(&p, &m->cap_merges, m->n_merges + 1, sizeof *m->merge, err);
    m->merge = p;
    if (st) return st;
    if (!l->pair[index].merged) {
        int32_t *row = m->merge[m->n_merges++];
        row[0] = a, row[1] = b, row[2] = c;
        l->pair[index].merged = true;
    }
    uint32_t *rows = l->pair[index].row;
    size_t n = l->pair[index].n;
    l->pair[index].row = NULL; /* the array of pairs may move below */
    l->pair[index].n = l->pair[index].cap = 0;
    l->step++;
    for (size_t i = 0; i < n && !st; i++) st = rewrite(l, rows[i], a, b, c, err);
    fmi_free(rows);
    return st ? st : push_touched(l, err);
}

static void learner_deinit(learner *l)
{
    for (size_t i = 0; i < l->n_pairs; i++) fmi_free(l->pair[i].row);
    void *all[] = { l->sym,  l->begin, l->len,     l->count,   l->pair,
                    l->slot, l->heap,  l->touched, l->by_bytes };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) fmi_free(all[i]);
}

static fm_status learn(learner *l, const fmi_words *w, size_t n_tokens, fmi_bpe_model *m,
                       fm_err *err)
{
    size_t slots = 1024;
    while (slots < 2 * n_tokens + 2) slots *= 2;
    l->by_bytes = fmi_zalloc(slots * sizeof *l->by_bytes);
    if (!l->by_bytes) return FM_FAIL(err, FM_E_NOMEM, "%zu tokens", n_tokens);
    l->by_mask = slots - 1;
    fm_status st = FM_OK;
    int32_t id;
    for (int b = 0; b < 256 && !st; b++) st = token_of(l, m, &(char){ (char)b }, 1, &id, err);
    if (!st) st = fill(l, w, err);
    fm_text joined = {0};
    while (!st && m->n_tokens < n_tokens && l->n_heap) {
        bpe_entry top = heap_pop(l);
        uint32_t index = l->slot[pair_slot(l, top.key)] - 1;
        int64_t now = l->pair[index].count;
        if (now == top.count)
            st = merge_pair(l, m, index, &joined, err);
        else if (now >= 2 && now < top.count) /* a rise has its own entry already */
            st = heap_push(l, (bpe_entry){ now, top.key }, err);
    }
    fm_text_deinit(&joined);
    return st;
}

fm_status fmi_bpe_learn(const fmi_words *w, size_t n_tokens, fmi_bpe_model *m, fm_err *err)
{
    learner l = {0};
    fm_status st = learn(&l, w, n_tokens, m, err);
    learner_deinit(&l);
    return st;
}

void fmi_bpe_model_deinit(fmi_bpe_model *m)
{
    fmi_free(m->merge);
    fmi_free(m->begin);
    fmi_free(m->len);
    fm_text_deinit(&m->pool);
    *m = (fmi_bpe_model){0};
}
