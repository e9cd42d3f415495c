/* Byte-pair merging of one piece, with a cache of pieces.
 *
 * Rule: while two neighbours have a merge, apply the one with the lowest rank, leftmost first.
 * Short pieces scan an array of ranks; long ones keep a heap of (rank, position) over a linked
 * list, so that time is n log n. The cache maps short pieces to their ids and replaces on
 * collision: words repeat. */
#include "text/bpe.h"

#include <string.h>

#define SCAN_MAX 48 /* pieces up to this many bytes are scanned */

static uint64_t piece_hash(const char *s, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u ^ n, w;
    for (; n >= 8; s += 8, n -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0x9fb21c651e98df25u;
        h ^= h >> 32;
    }
    w = 0;
    memcpy(&w, s, n);
    h = (h ^ w) * 0x9fb21c651e98df25u;
    return h ^ h >> 29;
}

static int32_t pair_rank(const fm_tokenizer *t, int32_t a, int32_t b)
{
    const fmi_merge *m = fmi_merge_find(t, a, b);
    return m ? m->rank : INT32_MAX;
}

/* ids[n] in place; returns the new n. n <= SCAN_MAX. */
static int merge_scan(const fm_tokenizer *t, int32_t *ids, int n)
{
    int32_t rank[SCAN_MAX];
    for (int i = 0; i + 1 < n; i++) rank[i] = pair_rank(t, ids[i], ids[i + 1]);
    while (n > 1) {
        int at = 0;
        for (int i = 1; i + 1 < n; i++)
            if (rank[i] < rank[at]) at = i;
        if (rank[at] == INT32_MAX) break;
        ids[at] = fmi_merge_find(t, ids[at], ids[at + 1])->id;
        n--;
        memmove(ids + at + 1, ids + at + 2, (size_t)(n - at - 1) * sizeof *ids);
        if (at + 1 < n) memmove(rank + at + 1, rank + at + 2, (size_t)(n - at - 2) * sizeof *rank);
        if (at > 0) rank[at - 1] = pair_rank(t, ids[at - 1], ids[at]);
        if (at + 1 < n) rank[at] = pair_rank(t, ids[at], ids[at + 1]);
    }
    return n;
}

static void heap_down(uint64_t *h, size_t n, size_t i)
{
    uint64_t v = h[i];
    for (size_t c; (c = 2 * i + 1) < n; i = c) {
        if (c + 1 < n && h[c + 1] < h[c]) c++;
        if (v <= h[c]) break;
        h[i] = h[c];
    }
    h[i] = v;
}

static fm_status heap_push(fmi_encoder *e, size_t *n, uint64_t v, fm_err *err)
{
    void *p = e->heap;
    fm_status st = fmi_grow(&p, &e->heap_cap, *n + 1, sizeof *e->heap, err);
    e->heap = p;
    if (st) return st;
    size_t i = (*n)++;
    for (; i && e->heap[(i - 1) / 2] > v; i = (i - 1) / 2) e->heap[i] = e->heap[(i - 1) / 2];
    e->heap[i] = v;
    return FM_OK;
}

static fm_status push_pair(fmi_encoder *e, size_t *n, uint32_t at, fm_err *err)
{
    uint32_t next = e->node[at].next;
    if (next == UINT32_MAX) return FM_OK;
    int32_t r = pair_rank(e->tok, e->node[at].id, e->node[next].id);
    return r == INT32_MAX ? FM_OK : heap_push(e, n, (uint64_t)(uint32_t)r << 32 | at, err);
}

/* Long pieces. An entry of the heap is stale when the pair at its position has another rank now:
 * each rank belongs to one pair, so nothing else need be compared. */
static fm_status merge_heap(fmi_encoder *e, const char *s, size_t n, fm_ids *ids, fm_err *err)
{
    const fm_tokenizer *t = e->tok;
    void *p = e->node;
    fm_status st = fmi_grow(&p, &e->node_cap, n, sizeof *e->node, err);
    e->node = p;
    if (st) return st;
    for (size_t i = 0; i < n; i++)
        e->node[i] = (fmi_bpe_node){ t->byte_id[(unsigned char)s[i]], (uint32_t)i - 1,
                                     i + 1 < n ? (uint32_t)i + 1 : UINT32_MAX };
    size_t n_heap = 0;
    for (size_t i = 0; i < n && !st; i++) st = push_pair(e, &n_heap, (uint32_t)i, err);
    while (n_heap && !st) {
        uint64_t top = e->heap[0];
        e->heap[0] = e->heap[--n_heap];
        if (n_heap) heap_down(e->heap, n_heap, 0);
        uint32_t at = (uint32_t)top;
        fmi_bpe_node *a = &e->node[at];
        if (a->id < 0 || a->next == UINT32_MAX) continue;
        fmi_bpe_node *b = &e->node[a->next];
        const fmi_merge *m = fmi_merge_find(t, a->id, b->id);
        if (!m || (uint64_t)(uint32_t)m->rank != top >> 32) continue;
        a->id = m->id;
        b->id = -1;
        a->next = b->next;
        if (a->next != UINT32_MAX) e->node[a->next].prev = at;
        if (a->prev != UINT32_MAX) st = push_pair(e, &n_heap, a->prev, err);
        if (!st) st = push_pair(e, &n_heap, at, err);
    }
    for (uint32_t i = 0; i != UINT32_MAX && !st; i = e->node[i].next)
        st = fm_ids_push(ids, e->node[i].id, err);
    return st;
}

static int32_t whole_token(const fm_tokenizer *t, const char *s, size_t n)
{
    for (uint64_t i = piece_hash(s, n) & t->whole_mask; t->whole[i] >= 0;
         i = (i + 1) & t->whole_mask) {
        int32_t id = t->whole[i];
        if (t->len[id] == n && !memcmp(t->pool.data + t->begin[id], s, n)) return id;
    }
    return -1;
}

void fmi_bpe_index_whole(fm_tokenizer *t, int32_t id)
{
    uint64_t i = piece_hash(t->pool.data + t->begin[id], t->len[id]) & t->whole_mask;
    while (t->whole[i] >= 0) i = (i + 1) & t->whole_mask;
    t->whole[i] = id;
}

fm_status fmi_bpe_encode(fmi_encoder *e, const char *piece, size_t n, fm_ids *ids, fm_err *err)
{
    const fm_tokenizer *t = e->tok;
    if (n == 1) return fm_ids_push(ids, t->byte_id[(unsigned char)*piece], err);
    fmi_bpe_slot *slot = NULL;
    if (n <= sizeof slot->key) {
        slot = &e->cache[piece_hash(piece, n) & (FMI_BPE_CACHE - 1)];
        if (slot->n == n && !memcmp(slot->key, piece, n)) {
            fm_status st = fmi_ids_reserve(ids, slot->n_ids, err);
            if (st) return st;
            memcpy(ids->data + ids->n, slot->ids, slot->n_ids * sizeof *ids->data);
            ids->n += slot->n_ids;
            return FM_OK;
        }
    }
    int32_t whole = t->ignore_merges ? whole_token(t, piece, n) : -1;
    if (whole >= 0) return fm_ids_push(ids, whole, err);
    if (n > SCAN_MAX) return merge_heap(e, piece, n, ids, err);
    int32_t local[SCAN_MAX];
    for (size_t i = 0; i < n; i++) local[i] = t->byte_id[(unsigned char)piece[i]];
    size_t k = (size_t)merge_scan(t, local, (int)n);
    fm_status st = fmi_ids_reserve(ids, k, err);
    if (st) return st;
    memcpy(ids->data + ids->n, local, k * sizeof *local);
    ids->n += k;
    if (slot && k <= sizeof slot->ids / sizeof *slot->ids) {
        slot->n = (uint8_t)n;
        slot->n_ids = (uint8_t)k;
        memcpy(slot->key, piece, n);
        memcpy(slot->ids, local, k * sizeof *local);
    }
    return FM_OK;
}
