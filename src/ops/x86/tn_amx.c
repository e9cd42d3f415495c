/* C += A^T B over tokens, on AMX tiles. See tn_amx.h.
 *
 * The tiles want columns of A as rows (a transpose, paid for the narrow operand) and rows of B in pairs (an
 * interleave). Per chunk of 1,024 tokens a thread packs up to 768 columns of B once, then block by block
 * 32 columns of A, and lets the products run over all panels; both stay in L2. Pairs are made by
 * unpacking inside 128-bit lanes, which leaves the columns of a panel out of order; they are put right
 * when a block is added to C. Threads take problems, or groups of B's columns; where there are too few of
 * those to come out even they take blocks of C, chunk by chunk, each waiting for its own chunk before. */
#include "ops/x86/tn_amx.h"

#include "ops/x86/amx_tiles.h"
#include "ops/x86/v16.h"

#define B_COLUMNS 768                                       /* packed at a time           */
#define B_BYTES ((size_t)FMI_GEMM_CHUNK * B_COLUMNS * 2)
#define A_BYTES ((size_t)FMI_GEMM_CHUNK * 64)
#define DONE_AT (B_BYTES + A_BYTES + 8192)                  /* of the first thread's scratch */
#define DONE_MAX 65536                                      /* blocks of C worked on together */
#define GROUPS_MAX 1024
#define WHOLE_CHUNK 16 /* blocks of C up to which packing B twice costs more than passing C between threads */

typedef struct job {
    const fm_kernel_ctx *k;
    fmi_tn_fn fn;
    const void *arg;
    int n_problems;
    int64_t total;
    fmi_pool_pieces taken;
    int first;             /* problems before are not this run's */
} job;

typedef struct block_out {
    const float *acc;      /* NULL: nothing waits */
    float *c;
    int64_t ldc;
    int rows, cols;
    bool transposed;
} block_out;

typedef struct worker {
    char *b, *a;
    int64_t packed;        /* chunk that b holds, of a problem worked on together; -1: none */
    float *tile[2];
    int turn;
    block_out wait;
} worker;

static int64_t a_blocks(const fmi_tn *q)
{
    return (q->m + 31) / 32 * (q->a[1] ? 2 : 1);
}

/* Columns of B that are packed at a time: even shares. */
static int64_t b_columns(const fmi_tn *q)
{
    int64_t groups = (q->n + B_COLUMNS - 1) / B_COLUMNS;
    return ((q->n + groups - 1) / groups + 31) / 32 * 32;
}

static int64_t b_groups(const fmi_tn *q)
{
    return (q->n + b_columns(q) - 1) / b_columns(q);
}

/* Of one unit: products and the packing of its A, in columns times tokens. */
static int64_t unit_cost(const fmi_tn *q)
{
    int64_t n = q->n < b_columns(q) ? q->n : b_columns(q);
    return (n + 32) * q->k;
}

static int64_t problem_cost(const fmi_tn *q)
{
    return q->k > 0 && q->m > 0 && q->n > 0 ? a_blocks(q) * b_groups(q) * unit_cost(q) : 0;
}

/* Tokens t0 .. t0+kn-1 of columns j0 .. j0+n-1 of B, panels one after the other. */
static void pack_b(char *dst, const fmi_tn *q, int64_t t0, int64_t kn, int64_t j0, int64_t n)
{
    int64_t padded = (kn + 31) & ~(int64_t)31, panel = 64 * padded;
    for (int64_t t = 0; t < padded; t += 2) {
        const fm_bf16 *row[2] = {NULL, NULL};
        for (int i = 0; i < 2; i++)
            if (t + i < kn)
                row[i] = q->b + (q->b_rows ? q->b_rows[t0 + t + i] : t0 + t + i) * q->ldb + j0;
        if (t + 12 < kn) {
            const fm_bf16 *far = q->b + (q->b_rows ? q->b_rows[t0 + t + 12] : t0 + t + 12) * q->ldb + j0;
            const fm_bf16 *far2 = t + 13 < kn
                ? q->b + (q->b_rows ? q->b_rows[t0 + t + 13] : t0 + t + 13) * q->ldb + j0 : far;
            for (int64_t j = 0; j < n; j += 32) {
                _mm_prefetch((const char *)(far + j), _MM_HINT_T0);
                _mm_prefetch((const char *)(far2 + j), _MM_HINT_T0);
            }
        }
        char *o = dst + t / 32 * STEP_BYTES + t % 32 * 32;
        for (int64_t j = 0; j < n; j += 32, o += panel) {
            __mmask32 m = mask32(n - j);
            __m512i lo = row[0] ? _mm512_maskz_loadu_epi16(m, row[0] + j) : _mm512_setzero_si512();
            __m512i hi = row[1] ? _mm512_maskz_loadu_epi16(m, row[1] + j) : _mm512_setzero_si512();
            _mm512_store_si512(o, _mm512_unpacklo_epi16(lo, hi));
            _mm512_store_si512(o + 1024, _mm512_unpackhi_epi16(lo, hi));
        }
    }
}

static inline void add_to(float *c, v16 v, int64_t n)
{
    if (n >= 16) v16_store(c, v16_add(v16_load(c), v));
    else if (n > 0) v16_store_n(c, v16_add(v16_load_n(c, n), v), n);
}

static void add_rows(const block_out *o)
{
    const __m512i first = _mm512_set_epi32(23, 22, 21, 20, 7, 6, 5, 4, 19, 18, 17, 16, 3, 2, 1, 0);
    const __m512i second = _mm512_set_epi32(31, 30, 29, 28, 15, 14, 13, 12, 27, 26, 25, 24, 11, 10, 9, 8);
    for (int r = 0; r < o->rows; r++) {
        v16 lo = v16_load(o->acc + 32 * r), hi = v16_load(o->acc + 32 * r + 16);
        float *c = o->c + r * o->ldc;
        add_to(c, _mm512_permutex2var_ps(lo, first, hi), o->cols);
        add_to(c + 16, _mm512_permutex2var_ps(lo, second, hi), o->cols - 16);
    }
}

static void add_columns(const block_out *o)
{
    for (int half = 0; half < 2; half++)
        for (int r = 0; r < o->rows; r += 16) {
            v16i v[16];
            for (int i = 0; i < 16; i++) v[i] = v16_bits(v16_load(o->acc + 32 * (r + i) + 16 * half));
            v16i_transpose(v);
            for (int i = 0; i < 16; i++) {
                int col = 8 * (i / 4) + 4 * half + i % 4;
                if (col < o->cols) add_to(o->c + col * o->ldc + r, v16_from_bits(v[i]), o->rows - r);
            }
        }
}

static void flush(worker *w)
{
    if (!w->wait.acc) return;
    if (w->wait.transposed) add_columns(&w->wait);
    else add_rows(&w->wait);
    w->wait.acc = NULL;
}

static const char *tiles_at(const fmi_tn *q, int part, int64_t i0, int64_t t0)
{
    return (const char *)q->a[part] + t0 / 32 * q->tile_step + i0 / 32 * q->tile_block;
}

/* 32 columns of A, from i0: in tiles where they lie, else transposed into the scratch. */
static void a_block(worker *w, const fmi_tn *q, int part, int64_t i0, int64_t t0, int64_t kn,
                    fmi_gemm_rows *r)
{
    const char *a = (const char *)(q->a[part] + t0 * q->lda), *tiles = tiles_at(q, part, i0, t0);
    int64_t whole = q->padded ? (kn + 31) & ~(int64_t)31 : kn & ~(int64_t)31, ld = 2 * q->lda;
    if (!q->in_tiles) {
        rows_across(w->a, a + 2 * i0, ld, (int)(q->m - i0 < 32 ? q->m - i0 : 32), kn);
        return;
    }
    r->p = tiles;
    r->step_bytes = q->tile_step;
    r->k = whole;
    if (whole >= kn) return;
    rows_across(w->a, a + whole * ld + 2 * i0, ld, 32, kn - whole);
    r->tail = w->a;
}

/* One block of A's columns against all packed panels. */
static void run_block(worker *w, const fmi_tn *q, int64_t ab, int64_t next, int64_t t0, int64_t kn,
                      int64_t j0, int64_t n)
{
    int64_t per = (q->m + 31) / 32, i0 = ab % per * 32, padded = (kn + 31) & ~(int64_t)31;
    int part = ab >= per, rows = (int)(q->m - i0 < 32 ? q->m - i0 : 32);
    fmi_gemm_rows r = {.p = w->a, .row_bytes = 64, .half_bytes = 1024, .step_bytes = STEP_BYTES, .k = padded,
                       .rows = 32, .touch_bytes = q->ldc * (int64_t)sizeof(float)};
    a_block(w, q, part, i0, t0, kn, &r);
    if (q->in_tiles && next >= 0) {
        int64_t panels = (n + 31) / 32;
        r.ahead_rows = (int)((32 + panels - 1) / panels);
        r.ahead_bytes = 64;
        r.ahead_step = q->tile_step;
    }
    const char *panel = w->b;
    for (int64_t j = 0; j < n; j += 32, panel += 64 * padded) {
        float *tile = w->tile[w->turn];
        float *c = q->c[part] + (q->transposed ? (j0 + j) * q->ldc + i0 : i0 * q->ldc + j0 + j);
        if (r.ahead_rows) {
            int64_t at = j / 32 * r.ahead_rows * 64;
            r.ahead = at < STEP_BYTES ? tiles_at(q, next >= per, next % per * 32, t0) + at : NULL;
        }
        r.touch = (const char *)c; /* added to after the next block */
        block(&r, panel, tile, 32, false, true, true, false);
        flush(w);
        w->wait = (block_out){tile, c, q->ldc, rows, (int)(n - j < 32 ? n - j : 32), q->transposed};
        w->turn ^= 1;
    }
}

/* Units u0 .. u1-1 of a problem: those of one group of B's columns lie together. */
static void run_units(worker *w, const fmi_tn *q, int64_t u0, int64_t u1)
{
    int64_t blocks = a_blocks(q);
    while (u0 < u1) {
        int64_t wide = b_columns(q), j0 = u0 / blocks * wide, left = q->n - j0, n = left < wide ? left : wide;
        int64_t end = (u0 / blocks + 1) * blocks;
        if (end > u1) end = u1;
        for (int64_t t0 = 0; t0 < q->k; t0 += FMI_GEMM_CHUNK) {
            int64_t kn = q->k - t0 < FMI_GEMM_CHUNK ? q->k - t0 : FMI_GEMM_CHUNK;
            pack_b(w->b, q, t0, kn, j0, n);
            for (int64_t u = u0; u < end; u++)
                run_block(w, q, u % blocks, u + 1 < end ? (u + 1) % blocks : -1, t0, kn, j0, n);
        }
        u0 = end;
    }
    flush(w);
}

/* Pieces of a problem that threads take: B is packed once a piece and chunk, so whole groups of its
 * columns, or whole problems, where there are enough of them. */
static int64_t pieces(const job *d, const fmi_tn *q, int64_t units)
{
    int64_t groups = b_groups(q), n = groups >= 2 * (int64_t)d->k->n_threads ? groups : 1;
    return n < units ? n : units;
}

static worker worker_of(const fm_kernel_ctx *k, int tid)
{
    char *s = k->scratch[tid], *tile = s + B_BYTES + A_BYTES;
    return (worker){.b = s, .a = s + B_BYTES, .packed = -1,
                    .tile = {(float *)(void *)tile, (float *)(void *)(tile + 4096)}};
}

static unsigned enter(void)
{
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fmi_tiles_configure_amx();
    return csr;
}

static void leave(unsigned csr)
{
    fmi_tiles_release_amx();
    _mm_setcsr(csr);
}

static void run_thread(void *arg, int tid, int n_threads)
{
    job *d = arg;
    worker w = worker_of(d->k, tid);
    int64_t mine = fmi_pool_take(&d->taken), at = 0;
    (void)n_threads;
    unsigned csr = enter();
    for (int i = d->first; i < d->n_problems; i++) {
        fmi_tn q;
        d->fn(d->arg, i, &q);
        if (!problem_cost(&q)) continue;
        int64_t units = a_blocks(&q) * b_groups(&q), n = pieces(d, &q, units);
        for (; mine < at + n; mine = fmi_pool_take(&d->taken))
            run_units(&w, &q, units * (mine - at) / n, units * (mine - at + 1) / n);
        at += n;
    }
    leave(csr);
}

/* A problem that all threads work on. An item is one block of A's columns in one chunk; a group of
 * B's columns has all items, of which threads take some at a time, in order, those of different
 * groups first. */
typedef struct together {
    const fm_kernel_ctx *k;
    fmi_tn q;
    int64_t blocks, chunks, groups, each;  /* each: items taken at a time                     */
    _Atomic int32_t *done;                 /* [groups, blocks] chunks that C has of each, in order */
    fmi_pool_pieces *taken;                /* [groups]                                        */
} together;

/* Items lo .. hi-1 of one chunk `at` (numbered over groups): each block of C waits for the chunk before. */
static void run_items(worker *w, together *c, int64_t at, int64_t lo, int64_t hi)
{
    const fmi_tn *q = &c->q;
    int64_t group = at / c->chunks, wide = b_columns(q), j0 = group * wide,
            t0 = at % c->chunks * FMI_GEMM_CHUNK;
    int64_t n = q->n - j0 < wide ? q->n - j0 : wide, kn = q->k - t0;
    if (kn > FMI_GEMM_CHUNK) kn = FMI_GEMM_CHUNK;
    if (w->packed != at) pack_b(w->b, q, t0, kn, j0, n);
    w->packed = at;
    for (int64_t ab = lo; ab < hi; ab++) {
        _Atomic int32_t *done = c->done + group * c->blocks + ab;
        while (atomic_load_explicit(done, memory_order_acquire) != (int32_t)(at % c->chunks)) _mm_pause();
        run_block(w, q, ab, ab + 1 < hi ? ab + 1 : -1, t0, kn, j0, n);
        flush(w);
        atomic_store_explicit(done, (int32_t)(at % c->chunks) + 1, memory_order_release);
    }
}

static void together_thread(void *arg, int tid, int n_threads)
{
    together *c = arg;
    worker w = worker_of(c->k, tid);
    int64_t items = c->chunks * c->blocks;
    unsigned csr = enter();
    for (int64_t i = 0; i < c->groups; i++) {
        int64_t g = (i + c->groups * tid / n_threads) % c->groups;
        for (int64_t lo; (lo = fmi_pool_take(&c->taken[g]) * c->each) < items;)
            for (int64_t hi = lo + c->each < items ? lo + c->each : items, end; lo < hi; lo = end) {
                int64_t chunk = lo / c->blocks, first = chunk * c->blocks;
                end = first + c->blocks < hi ? first + c->blocks : hi;
                run_items(&w, c, g * c->chunks + chunk, lo - first, end - first);
            }
    }
    leave(csr);
}

/* A problem with too few groups of columns to share. False: too many blocks to keep account of. */
static bool run_together(const fm_kernel_ctx *k, const fmi_tn *q)
{
    together c = {.k = k, .q = *q, .blocks = a_blocks(q), .groups = b_groups(q)};
    c.chunks = (q->k + FMI_GEMM_CHUNK - 1) / FMI_GEMM_CHUNK;
    if (c.blocks * c.groups > DONE_MAX || c.groups > GROUPS_MAX) return false;
    bool chunks = c.chunks >= 2 * k->n_threads && c.blocks <= WHOLE_CHUNK;
    c.each = chunks ? c.blocks : c.blocks / (8 * k->n_threads);
    if (c.each < 1) c.each = 1;
    c.done = (_Atomic int32_t *)(void *)(k->scratch[0] + DONE_AT);
    c.taken = (fmi_pool_pieces *)(void *)(c.done + DONE_MAX);
    for (int64_t i = 0; i < c.blocks * c.groups; i++) atomic_init(c.done + i, 0);
    for (int64_t i = 0; i < c.groups; i++) atomic_init(&c.taken[i].next, 0);
    fmi_pool_run(k->pool, together_thread, &c);
    return true;
}

/* Problems, or groups of columns, enough for threads to take them whole. */
static bool enough(const job *d)
{
    int64_t n = 0;
    for (int i = 0; i < d->n_problems; i++) {
        fmi_tn q;
        d->fn(d->arg, i, &q);
        if (problem_cost(&q)) n += b_groups(&q);
    }
    return n >= 4 * (int64_t)d->k->n_threads;
}

fm_status fmi_tn_run(const fm_kernel_ctx *k, fmi_tn_fn fn, const void *arg, int n_problems)
{
    job d = {k, fn, arg, n_problems, 0, {0}, 0};
    FM_ASSERT(DONE_AT + DONE_MAX * sizeof(int32_t) + GROUPS_MAX * sizeof(fmi_pool_pieces) <=
              k->scratch_bytes);
    for (int i = 0; i < n_problems; i++) {
        fmi_tn q;
        fn(arg, i, &q);
        d.total += problem_cost(&q);
    }
    if (d.total == 0) return FM_OK;
    if (d.total < 1 << 15 || k->n_threads == 1) run_thread(&d, 0, 1);
    else if (enough(&d)) fmi_pool_run(k->pool, run_thread, &d);
    else
        for (int i = 0; i < n_problems; i++) {
            job one = {k, fn, arg, i + 1, 0, {0}, i};
            fmi_tn q;
            fn(arg, i, &q);
            if (problem_cost(&q) && !run_together(k, &q)) fmi_pool_run(k->pool, run_thread, &one);
        }
    return FM_OK;
}
