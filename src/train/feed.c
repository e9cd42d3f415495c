/* Packing of documents into rows: see feed.h. The order of documents is a four-round Feistel network
 * keyed by (seed, epoch) over counter-based random numbers, so no permutation is stored. */
#include "train/feed.h"

#include <string.h>

#include "base/rng.h"

int64_t fmi_feed_order(uint64_t seed, int64_t epoch, int64_t n, int64_t i)
{
    int half = 1;
    while (half < 31 && ((int64_t)1 << (2 * half)) < n) half++;
    uint32_t mask = (uint32_t)(((uint64_t)1 << half) - 1);
    uint64_t v = (uint64_t)i;
    do {
        uint32_t l = (uint32_t)(v >> half) & mask, r = (uint32_t)v & mask;
        for (uint32_t round = 0; round < 4; round++) {
            uint32_t w[4];
            fmi_rng_words(seed, (uint32_t)epoch, r, FMI_RNG_DATA, round, w);
            uint32_t t = l ^ (w[0] & mask);
            l = r;
            r = t;
        }
        v = ((uint64_t)l << half) | r;
    } while (v >= (uint64_t)n);
    return (int64_t)v;
}

fm_status fmi_feed_init(fmi_feed *f, const fmi_docs *docs, int64_t T, uint64_t seed, bool shuffle,
                        bool once, fm_err *err)
{
    memset(f, 0, sizeof *f);
    f->docs = *docs;
    f->T = T;
    f->seed = seed;
    f->shuffle = shuffle;
    f->once = once;
    bool usable = false;
    for (int64_t i = 0; i < docs->n && !usable; i++) usable = docs->length(docs->arg, i) >= 2;
    if (!usable) return FM_FAIL(err, FM_E_RANGE, "the corpus holds no document of two tokens or more");
    f->row = fmi_alloc((size_t)(T + 2) * sizeof *f->row);
    f->window = fmi_alloc((size_t)(docs->n + 1) * sizeof *f->window);
    if (!f->row || !f->window) {
        fmi_feed_deinit(f);
        return FM_FAIL(err, FM_E_NOMEM, "feed of rows of %lld tokens", (long long)T);
    }
    f->window[0] = 0;
    for (int64_t i = 0; i < docs->n; i++) {
        int64_t n = docs->length(docs->arg, i);
        f->window[i + 1] = f->window[i] + (shuffle && n > T ? (n + T - 1) / T : 1);
    }
    return FM_OK;
}

void fmi_feed_deinit(fmi_feed *f)
{
    fmi_free(f->row);
    fmi_free(f->window);
    f->row = NULL;
    f->window = NULL;
}

/* Windows there are, and the i-th one. Without shuffling a document is one window. */
static int64_t n_windows(const fmi_feed *f)
{
    return f->window[f->docs.n];
}

static fmi_feed_piece window_at(const fmi_feed *f, int64_t i)
{
    int64_t low = 0, high = f->docs.n;
    while (high - low > 1) {
        int64_t mid = low + (high - low) / 2;
        if (f->window[mid] <= i) low = mid;
        else high = mid;
    }
    int64_t n = f->docs.length(f->docs.arg, low), begin = (i - f->window[low]) * f->T, end = begin + f->T;
    if (!f->shuffle || end > n) end = n;
    return (fmi_feed_piece){ low, begin, end };
}

/* Nothing to predict: empty, or a single token that ends its document. */
static bool spent(const fmi_feed *f, const fmi_feed_piece *o)
{
    int64_t left = o->end - o->begin;
    return left < 1 || (left < 2 && o->end == f->docs.length(f->docs.arg, o->doc));
}

bool fmi_feed_pos_ok(const fmi_feed *f, const fmi_feed_pos *p)
{
    if (p->epoch < 0 || p->next < 0 || p->next > n_windows(f) || p->rows < 0) return false;
    if (p->n_open < 0 || p->n_open > FMI_FEED_OPEN) return false;
    for (int64_t i = 0; i < p->n_open; i++) {
        const fmi_feed_piece *o = &p->open[i];
        if (o->doc < 0 || o->doc >= f->docs.n || o->begin < 0 || o->begin >= o->end) return false;
        if (o->end > f->docs.length(f->docs.arg, o->doc)) return false;
    }
    return true;
}

/* Tops the waiting documents up. */
static void refill(fmi_feed *f)
{
    fmi_feed_pos *p = &f->pos;
    while (p->n_open < FMI_FEED_OPEN) {
        if (p->next == n_windows(f)) {
            if (f->once) return;
            p->epoch++;
            p->next = 0;
        }
        int64_t at = p->next++;
        fmi_feed_piece o =
            window_at(f, f->shuffle ? fmi_feed_order(f->seed, p->epoch, n_windows(f), at) : at);
        if (!spent(f, &o)) p->open[p->n_open++] = o;
    }
}

/* The waiting document that goes into `room` tokens next; first: the row is empty. */
static int64_t choose(const fmi_feed *f, int64_t room, bool first)
{
    const fmi_feed_pos *p = &f->pos;
    if (first || !f->shuffle) return 0;
    int64_t fit = -1, longest = 0, n_fit = 0, n_longest = 0;
    for (int64_t i = 0; i < p->n_open; i++) {
        int64_t n = p->open[i].end - p->open[i].begin;
        if (n <= room && n > n_fit) {
            fit = i;
            n_fit = n;
        }
        if (n > n_longest) {
            longest = i;
            n_longest = n;
        }
    }
    return fit >= 0 ? fit : longest;
}

/* Writes one piece of n input tokens whose copy in f->row begins at `at`; n_seen >= n tokens of the
 * document are there (up to two beyond the inputs). base: the row's first index in the arrays. */
static void emit(const fmi_feed *f, fmi_feed_arrays *out, int64_t base, int64_t at, int64_t n,
                 int64_t n_seen)
{
    const int32_t *tok = f->row + at;
    int64_t start = base + at;
    out->seg[out->n_seg++] = (int32_t)start;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = start + i;
        out->ids[t] = tok[i];
        out->pos[t] = (int32_t)i;
        out->k_begin[t] = (int32_t)start;
        out->k_end[t] = (int32_t)(t + 1);
        out->next[t] = i + 1 < n_seen ? tok[i + 1] : -1;
        out->target[t] = out->next[t];
        out->mtp_target[t] = i + 2 < n_seen ? tok[i + 2] : -1;
        out->n_target += i + 1 < n_seen;
        out->n_mtp_target += i + 2 < n_seen;
    }
}

/* Rows without a document: no key, no target; one segment each keeps `seg` a partition. */
static void pad(fmi_feed_arrays *out, int64_t from, int64_t to)
{
    if (from == to) return;
    out->seg[out->n_seg++] = (int32_t)from;
    for (int64_t t = from; t < to; t++) {
        out->ids[t] = 0;
        out->next[t] = out->target[t] = out->mtp_target[t] = -1;
        out->pos[t] = 0;
        out->k_begin[t] = out->k_end[t] = (int32_t)from;
    }
}

/* Packs one row at index base; returns the tokens it holds. */
static int64_t pack_row(fmi_feed *f, fmi_feed_arrays *out, int64_t base)
{
    fmi_feed_pos *p = &f->pos;
    int64_t at = 0;
    while (at < f->T) {
        refill(f);
        if (!p->n_open) break;
        int64_t room = f->T - at;
        int64_t i = choose(f, room, at == 0);
        fmi_feed_piece *o = &p->open[i];
        int64_t left = o->end - o->begin;
        int64_t n = left < room ? left : room;
        int64_t rest = f->docs.length(f->docs.arg, o->doc) - o->begin; /* targets may lie past the window */
        int64_t seen = rest < n + 2 ? rest : n + 2;
        f->docs.copy(f->docs.arg, o->doc, o->begin, seen, f->row + at);
        emit(f, out, base, at, n, seen);
        at += n;
        /* What is left goes on as a document. */
        o->begin += n;
        if (spent(f, o)) {
            p->n_open--;
            memmove(o, o + 1, (size_t)(p->n_open - i) * sizeof *o);
        }
    }
    pad(out, base + at, base + f->T);
    p->rows++;
    return at;
}

int64_t fmi_feed_fill(fmi_feed *f, int64_t rows, fmi_feed_arrays *out)
{
    int64_t used = 0;
    out->n_seg = 0;
    out->n_target = out->n_mtp_target = 0;
    for (int64_t r = 0; r < rows; r++) used += pack_row(f, out, r * f->T) > 0;
    out->seg[out->n_seg] = (int32_t)(rows * f->T);
    return used;
}
