/* Head and cross-entropy on AMX tiles, in one pass over the tokens; the bits are those of ops/composite.c.
 *
 * Logits come out transposed: 32 rows of W, read where they lie, by 32 tokens. So a maximum or a sum over
 * the vocabulary is one over vectors of tokens, a row of dlogits over tokens is the operand that dW wants,
 * and two such rows make the pairs that dx wants: nothing is transposed but W, once a call. Logits are never
 * kept: a first walk over W leaves each token's log-sum-exp, a second one makes them again, a strip of the
 * vocabulary at a time, turns them into dlogits in L1 and goes on with dx. dW follows from tn_amx.c for each
 * 1,024 tokens. What is vector work stands between tile steps. docs/kernels/head.md. */
#pragma GCC target("avx512bf16")
#include "ops/ref/ref.h"
#include "ops/x86/amx_tiles.h"
#include "ops/x86/tn_amx.h"
#include "ops/x86/v16.h"
#include "ops/x86/x86.h"

#define LSE_CHUNK 1024               /* columns of a chunk (docs/numerics.md)     */
#define STRIP 256                    /* columns of W at a time in the second walk */
#define ROWS_MIN 64                  /* fewer tokens: the composite               */
#define GROUP 512                    /* tokens in work of a thread                */
#define LEAST 128                    /* of the last ones that it takes            */
#define GROUP_BYTES ((size_t)3 << 18) /* of them, in L2 beside W                  */

typedef struct job {
    const fm_kernel_ctx *k;
    const fm_linear_xent_args *a;
    char *wt;                /* W transposed: per strip, 32 columns of D by its steps in tile layout  */
    char *dl;                /* dlogits: [W / 32][blocks] tiles of 32 columns by 32 tokens            */
    int64_t begin, n;        /* rows of the chunk in work                                             */
    fmi_pool_pieces taken;
} job;

/* Memory that is needed soon, asked for some lines a tile step: `at` .. `end`, then `then` .. */
typedef struct ahead {
    const char *at, *end, *then;
    int64_t bytes;           /* of each of both */
    int lines;
} ahead;

ALWAYS void ask(ahead *f)
{
    if (f->at >= f->end) {
        if (!f->then) return;
        f->at = f->then;
        f->end = f->at + f->bytes;
        f->then = NULL;
    }
    for (int i = 0; i < f->lines; i++, f->at += 64) _mm_prefetch(f->at, _MM_HINT_T1);
}

typedef struct work {
    const fm_linear_xent_args *a;
    ahead next;              /* of W and its transpose                  */
    char *x;                 /* the group's rows as panels              */
    float *s[2];             /* [LSE_CHUNK][32] logits of a block       */
    float *tile[2];          /* [32][32] logits                         */
    float *low;              /* [32][32] -inf; and where nobody looks   */
    float *acc;              /* [blocks][D][32] dx so far               */
    char *pairs;             /* [STRIP / 32] steps of dlogits as panels */
    float *sum;              /* [16][32] */
    float *max, *l, *lse, *at; /* per token; at: logit, then gradient of the target */
    int32_t *target;         /* per token; -1: none, or past the end */
    int64_t row;             /* the group's first */
    int n, blocks;           /* live rows; blocks of 32 */
} work;

static void *take(char **at, size_t bytes)
{
    void *p = *at;
    *at += (bytes + 63) & ~(size_t)63;
    return p;
}

/* Tokens of a group: as many as leave room for W. */
static int group_rows(int64_t D)
{
    int64_t fit = (int64_t)(GROUP_BYTES / (size_t)(6 * D)) / 32 * 32;
    return (int)(fit > GROUP ? GROUP : fit > 32 ? fit : 32);
}

static size_t carve(work *w, char *scratch, int64_t D)
{
    size_t G = (size_t)group_rows(D), d = (size_t)D;
    char *at = scratch;
    w->x = take(&at, G * d * 2);
    for (int i = 0; i < 2; i++) w->s[i] = take(&at, LSE_CHUNK * 32 * sizeof(float));
    for (int i = 0; i < 2; i++) w->tile[i] = take(&at, 4096);
    w->low = take(&at, 3 * 4096);
    w->acc = take(&at, G * d * sizeof(float));
    w->pairs = take(&at, STRIP * 64);
    w->sum = take(&at, 16 * 32 * sizeof(float));
    w->max = take(&at, G * sizeof(float));
    w->l = take(&at, G * sizeof(float));
    w->lse = take(&at, G * sizeof(float));
    w->at = take(&at, G * sizeof(float));
    w->target = take(&at, G * sizeof(int32_t));
    return (size_t)(at - scratch);
}

/* What goes on beside a product: vectors 0 .. 63 of a block of 32 rows by 2 halves, one by one; `keep` holds
 * what one leaves for the next. Vector i is base + k, k (0 .. 7) a constant wherever it is inlined. */
typedef void (*side_fn)(const void *side, v16 *keep, int base, int k);

/* A step with one vector's work after each tile instruction. */
ALWAYS void step_beside(const fmi_gemm_rows *r, const char *a, const char *p, side_fn fn, const void *side,
                        v16 *keep, int base)
{
    _tile_loadd(4, a, r->row_bytes);
    fn(side, keep, base, 0);
    _tile_loadd(5, a + r->half_bytes, r->row_bytes);
    fn(side, keep, base, 1);
    _tile_loadd(6, p, 64);
    fn(side, keep, base, 2);
    _tile_loadd(7, p + 1024, 64);
    fn(side, keep, base, 3);
    _tile_dpbf16ps(0, 4, 6);
    fn(side, keep, base, 4);
    _tile_dpbf16ps(1, 4, 7);
    fn(side, keep, base, 5);
    _tile_dpbf16ps(2, 5, 6);
    fn(side, keep, base, 6);
    _tile_dpbf16ps(3, 5, 7);
    fn(side, keep, base, 7);
}

ALWAYS void eight(side_fn fn, const void *side, v16 *keep, int base)
{
#pragma GCC unroll 8
    for (int k = 0; k < 8; k++) fn(side, keep, base, k);
}

ALWAYS void all_rows(side_fn fn, const void *side)
{
    v16 keep[2] = {v16_zero(), v16_zero()};
    for (int i = 0; i < 64; i += 8) eight(fn, side, keep, i);
}

ALWAYS void store_tiles(float *acc)
{
    _tile_stored(0, acc, 128);
    _tile_stored(1, acc + 16, 128);
    _tile_stored(2, acc + 512, 128);
    _tile_stored(3, acc + 528, 128);
}

/* acc [32, 32] = 32 rows at r by a panel, with the side's 64 vectors beside it. */
ALWAYS void product_beside(const fmi_gemm_rows *r, const char *p, float *acc, side_fn fn, const void *side,
                           ahead *f)
{
    int steps = (int)(r->k / 32), done = 0;
    const char *a = r->p;
    v16 keep[2] = {v16_zero(), v16_zero()};
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int s = 0; s < steps; s++, a += r->step_bytes, p += STEP_BYTES) {
        ask(f);
        if (64 * (s + 1) >= steps * (done + 8)) {
            step_beside(r, a, p, fn, side, keep, done);
            done += 8;
        } else {
            step(a, r->row_bytes, r->half_bytes, p, true, true);
        }
    }
    for (; done < 64; done += 8) eight(fn, side, keep, done);
    store_tiles(acc);
}

/* acc [32, 32] = (load: goes on over) 32 rows at r by a panel. */
ALWAYS void product(const fmi_gemm_rows *r, const char *p, float *acc, bool load, ahead *f)
{
    if (load) {
        _tile_loadd(0, acc, 128);
        gap();
        _tile_loadd(1, acc + 16, 128);
        gap();
        _tile_loadd(2, acc + 512, 128);
        gap();
        _tile_loadd(3, acc + 528, 128);
        gap();
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *a = r->p;
    for (int s = 0; s < (int)(r->k / 32); s++, a += r->step_bytes, p += STEP_BYTES) {
        ask(f);
        step(a, r->row_bytes, r->half_bytes, p, true, true);
    }
    store_tiles(acc);
}

/* Rows v .. v+31 of W. */
static inline fmi_gemm_rows rows_of_w(const fm_linear_xent_args *a, int64_t v)
{
    return (fmi_gemm_rows){.p = (const char *)a->w + 2 * v * a->D,
                           .row_bytes = 2 * a->D,
                           .half_bytes = 32 * a->D,
                           .step_bytes = 64,
                           .k = a->D};
}

static void ask_for(ahead *f, const char *p, const char *then, int64_t bytes)
{
    f->at = p;
    f->end = p ? p + bytes : NULL;
    f->then = then;
    f->bytes = bytes;
}

/* ---- first walk: log-sum-exp ---- */

typedef struct lse_side {
    const float *fresh;      /* 32 rows of logits whose maximum is to be taken */
    const float *ready;      /* 32 rows to be summed                           */
    float *fresh_max;        /* [32] */
    const float *ready_max;
    float *sum;
} lse_side;

ALWAYS void lse_fresh(const lse_side *x, int i)
{
    float *m = x->fresh_max + 16 * (i & 1);
    v16_store(m, v16_max(v16_load(x->fresh + 16 * i), v16_load(m)));
}

ALWAYS void lse_vector(const void *side, v16 *keep, int base, int k)
{
    const lse_side *x = side;
    int i = base + k;
    (void)keep;
    lse_fresh(x, i);
    float *s = x->sum + 16 * (i % 32);
    v16 d = v16_sub(v16_load(x->ready + 16 * i), v16_load(x->ready_max + 16 * (k & 1)));
    v16_store(s, v16_add(v16_load(s), v16_exp_low(d)));
}

/* The chunk's sums of a block join what its tokens have (first: nothing). */
static void lse_merge(work *w, int b, const float *chunk_max, bool first)
{
    for (int h = 0; h < 32; h += 16) {
        float *pm = w->max + 32 * b + h, *pl = w->l + 32 * b + h;
        v16 t[16];
        for (int i = 0; i < 16; i++) t[i] = v16_load(w->sum + 32 * i + h);
        for (int n = 8; n >= 1; n /= 2)
            for (int i = 0; i < n; i++) t[i] = v16_add(t[i], t[i + n]);
        v16 m2 = v16_load(chunk_max + h), l2 = t[0], M = m2;
        if (!first) {
            v16 m = v16_load(pm);
            M = v16_max(m, m2);
            l2 = v16_fma(l2, v16_exp_low(v16_sub(m2, M)), v16_mul(v16_load(pl), v16_exp_low(v16_sub(m, M))));
        }
        v16_store(pm, M);
        v16_store(pl, l2);
    }
}

/* Columns c .. c+cols-1 of W for all blocks: a block's logits are multiplied while those of the block before
 * are summed (at first and at last: rows that nobody needs). */
static void lse_chunk(work *w, int64_t c, int64_t cols)
{
    int64_t D = w->a->D;
    _Alignas(64) float top[2][32] = {{0}};
    for (int b = 0; b <= w->blocks; b++) {
        float *fresh = w->s[b & 1], *ready = w->s[~b & 1], *max = top[b & 1], *ready_max = top[~b & 1];
        lse_side x = {.fresh = w->low, .fresh_max = max, .ready_max = ready_max, .sum = w->sum};
        for (int i = 0; i < 32; i++) max[i] = -__builtin_inff();
        memset(w->sum, 0, 16 * 32 * sizeof(float));
        for (int64_t v = 0; v < cols; v += 32) {
            x.ready = b > 0 ? ready + 32 * v : w->low;
            if (b == w->blocks) {
                all_rows(lse_vector, &x);
                continue;
            }
            fmi_gemm_rows r = rows_of_w(w->a, c + v);
            product_beside(&r, w->x + 64 * D * b, fresh + 32 * v, lse_vector, &x, &w->next);
            x.fresh = fresh + 32 * v;
        }
        for (int i = 0; i < 64 && b < w->blocks; i++) lse_fresh(&x, i);
        if (b == 0) continue;
        lse_merge(w, b - 1, ready_max, c == 0);
        for (int i = 0; i < 32; i++) {
            int64_t at = w->target[32 * (b - 1) + i] - c;
            if (at >= 0 && at < cols) w->at[32 * (b - 1) + i] = ready[32 * at + i];
        }
    }
}

static void lse_walk(work *w)
{
    const fm_linear_xent_args *a = w->a;
    for (int64_t c = 0; c < a->W; c += LSE_CHUNK) {
        int64_t left = a->W - c, cols = left < LSE_CHUNK ? left : LSE_CHUNK;
        int64_t then = left - cols < LSE_CHUNK ? left - cols : LSE_CHUNK;
        ask_for(&w->next, then ? (const char *)a->w + 2 * (c + cols) * a->D : NULL, NULL, 2 * then * a->D);
        lse_chunk(w, c, cols);
    }
    float scale = (float)a->grad_scale, *loss = a->loss;
    for (int i = 0; i < w->n; i++) {
        bool live = w->target[i] >= 0;
        w->lse[i] = live ? w->max[i] + fmi_logf(w->l[i]) : 0;
        if (loss) loss[w->row + i] = live ? w->lse[i] - w->at[i] : 0.0f;
        w->at[i] = live ? (fmi_expf(w->at[i] - w->lse[i]) - 1.0f) * scale : 0;
    }
}

/* ---- second walk: dlogits and dx ---- */

typedef struct grad_side {
    const float *logits;     /* [32][32] */
    const float *lse, *at;   /* the block's [32] */
    const int32_t *target;
    char *dl, *pairs;
    float scale;
    int32_t v;               /* first column */
} grad_side;

/* A row's two halves give a line of dlogits; two rows a line of pairs for each half. */
ALWAYS void grad_vector(const void *side, v16 *keep, int base, int k)
{
    const __m512i low = _mm512_set_epi16(47, 15, 46, 14, 45, 13, 44, 12, 43, 11, 42, 10, 41, 9, 40,
                                         8, 39, 7, 38, 6, 37, 5, 36, 4, 35, 3, 34, 2, 33, 1, 32, 0);
    const __m512i high =
        _mm512_set_epi16(63, 31, 62, 30, 61, 29, 60, 28, 59, 27, 58, 26, 57, 25, 56, 24, 55, 23, 54,
                         22, 53, 21, 52, 20, 51, 19, 50, 18, 49, 17, 48, 16);
    const grad_side *x = side;
    int r = (base + k) / 2, h = 16 * (k & 1);
    v16i target = v16i_load(x->target + h);
    __mmask16 live = _mm512_cmpneq_epi32_mask(target, v16i_set1(-1));
    v16 e = v16_exp_low(v16_sub(v16_load(x->logits + 32 * r + h), v16_load(x->lse + h)));
    e = _mm512_maskz_mul_ps(live, e, v16_set1(x->scale));
    e = _mm512_mask_mov_ps(e, _mm512_cmpeq_epi32_mask(target, v16i_set1(x->v + r)), v16_load(x->at + h));
    if (!h) {
        keep[0] = e;
        return;
    }
    __m512i line = (__m512i)_mm512_cvtne2ps_pbh(e, keep[0]);
    _mm512_stream_si512((void *)(x->dl + 64 * r), line);
    if (k % 4 == 1) {
        keep[1] = v16_from_bits(line);
        return;
    }
    __m512i before = v16_bits(keep[1]);
    _mm512_store_si512(x->pairs + 32 * (r - 1), _mm512_permutex2var_epi16(before, low, line));
    _mm512_store_si512(x->pairs + 1024 + 32 * (r - 1), _mm512_permutex2var_epi16(before, high, line));
}

/* dx of block b goes on over `steps` steps of the strip that begins at column v. */
static void strip_dx(work *w, const job *d, int b, int64_t v, int64_t steps)
{
    int64_t D = w->a->D;
    const char *wt = d->wt + 2 * v * D;
    float *acc = w->acc + 32 * D * b;
    fmi_gemm_rows r = {.row_bytes = 64, .half_bytes = 1024, .step_bytes = STEP_BYTES, .k = 32 * steps};
    for (int64_t i = 0; i < D; i += 32, wt += steps * STEP_BYTES, acc += 1024) {
        r.p = wt;
        product(&r, w->pairs, acc, v > 0, &w->next);
    }
}

static void strip(work *w, const job *d, int64_t v0, int64_t cols)
{
    int64_t D = w->a->D, blocks = (d->n + 31) / 32, first = (w->row - d->begin) / 32;
    for (int b = 0; b < w->blocks; b++) {
        char *nowhere = (char *)w->low + 4096;
        grad_side x = {.logits = w->low,
                       .lse = w->lse + 32 * b,
                       .at = w->at + 32 * b,
                       .target = w->target + 32 * b,
                       .dl = nowhere,
                       .pairs = nowhere + 4096,
                       .scale = (float)w->a->grad_scale};
        for (int64_t v = v0; v < v0 + cols; v += 32) {
            float *tile = w->tile[v / 32 & 1];
            fmi_gemm_rows r = rows_of_w(w->a, v);
            product_beside(&r, w->x + 64 * D * b, tile, grad_vector, &x, &w->next);
            x.logits = tile;
            x.v = (int32_t)v;
            x.dl = d->dl + (v / 32 * blocks + first + b) * STEP_BYTES;
            x.pairs = w->pairs + (v - v0) / 32 * STEP_BYTES;
        }
        all_rows(grad_vector, &x);
        strip_dx(w, d, b, v0, cols / 32);
    }
}

/* dx of the group leaves the accumulators. */
static void write_dx(const work *w)
{
    int64_t D = w->a->D;
    for (int b = 0; b < w->blocks; b++)
        for (int64_t i = 0; i < D; i += 16)
            for (int h = 0; h < 32 && 32 * b + h < w->n; h += 16) {
                const float *acc = w->acc + 32 * (D * b + i) + h;
                float *dx = (float *)w->a->dx + (w->row + 32 * b + h) * D + i;
                v16i t[16];
                for (int r = 0; r < 16; r++) t[r] = v16i_load(acc + 32 * r);
                v16i_transpose(t);
                for (int r = 0; r < 16 && 32 * b + h + r < w->n; r++) v16i_store(dx + r * D, t[r]);
            }
}

static void grad_walk(work *w, const job *d)
{
    const fm_linear_xent_args *a = w->a;
    for (int64_t v = 0; v < a->W; v += STRIP) {
        int64_t left = a->W - v, cols = left < STRIP ? left : STRIP,
                then = left - cols < STRIP ? left - cols : STRIP;
        int64_t at = 2 * (v + cols) * a->D;
        ask_for(&w->next, then ? (const char *)a->w + at : NULL, then ? d->wt + at : NULL, 2 * then * a->D);
        strip(w, d, v, cols);
    }
    write_dx(w);
}

/* ---- threads ---- */

/* Rows of a block as a panel, zeros past n. */
static void pack_x(char *dst, const char *x, int n, int64_t D)
{
    for (int64_t t = 0; t < D; t += 32, dst += STEP_BYTES, x += 64) {
        _Alignas(64) char pad[STEP_BYTES];
        const char *src = x;
        int64_t stride = 2 * D;
        if (n < 32) {
            copy_padded(pad, 32, x, stride, n, 32);
            src = pad;
            stride = 64;
        }
        pairs_tile(dst, src, stride);
        pairs_tile(dst + 1024, src + 16 * stride, stride);
    }
}

static void begin_group(work *w, int64_t row, int n)
{
    const fm_linear_xent_args *a = w->a;
    w->row = row;
    w->n = n;
    w->blocks = (n + 31) / 32;
    w->next.lines = (32 + w->blocks - 1) / w->blocks;
    for (int i = 0; i < 32 * w->blocks; i++) {
        int32_t t = i < n ? a->target[row + i] : -1;
        w->target[i] = t < a->W ? t < 0 ? -1 : t : -1;
        w->lse[i] = w->at[i] = 0;
    }
    for (int b = 0; b < w->blocks; b++)
        pack_x(w->x + 64 * a->D * b, (const char *)a->x + 2 * (row + 32 * b) * a->D, n - 32 * b, a->D);
}

static void walk_thread(void *arg, int tid, int n_threads)
{
    job *d = arg;
    const fm_linear_xent_args *a = d->a;
    work w = {.a = a};
    carve(&w, d->k->scratch[tid], a->D);
    for (int i = 0; i < 1024; i++) w.low[i] = -__builtin_inff();
    int64_t row, end, most = group_rows(a->D), least = most < LEAST ? most : LEAST;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fmi_tiles_configure_amx();
    while (fmi_pool_next(&d->taken, d->n, least, n_threads, &row, &end)) {
        int64_t groups = (end - row + most - 1) / most,
                each = ((end - row + groups - 1) / groups + 31) / 32 * 32;
        for (; row < end; row += each) {
            begin_group(&w, d->begin + row, (int)(end - row < each ? end - row : each));
            lse_walk(&w);
            if (a->dx) grad_walk(&w, d);
        }
    }
    fmi_tiles_release_amx();
    _mm_sfence();
    _mm_setcsr(csr);
}

/* W transposed, strip by strip. */
static void transpose_thread(void *arg, int tid, int n_threads)
{
    const job *d = arg;
    int64_t D = d->a->D, v, end;
    fmi_pool_share(d->a->W, STRIP, tid, n_threads, &v, &end);
    while (v < end) {
        int64_t cols = end - v < STRIP ? end - v : STRIP;
        char *dst = d->wt + 2 * v * D;
        for (int64_t i = 0; i < D; i += 32)
            for (int64_t s = 0; s < cols; s += 32, dst += STEP_BYTES) {
                const char *src = (const char *)d->a->w + 2 * ((v + s) * D + i);
                rows_tile(dst, src, 2 * D, false);
                rows_tile(dst + 1024, src + 32, 2 * D, false);
            }
        v += cols;
    }
}

static void dw_problem(const void *arg, int i, fmi_tn *q)
{
    const job *d = arg;
    const fm_linear_xent_args *a = d->a;
    int64_t blocks = (d->n + 31) / 32;
    (void)i;
    *q = (fmi_tn){.a = {(const fm_bf16 *)(const void *)d->dl, NULL},
                  .c = {a->dw, NULL},
                  .b = (const fm_bf16 *)a->x + d->begin * a->D,
                  .lda = a->W,
                  .ldb = a->D,
                  .ldc = a->D,
                  .k = d->n,
                  .m = a->W,
                  .n = a->D,
                  .in_tiles = true,
                  .padded = true,
                  .tile_step = STEP_BYTES,
                  .tile_block = blocks * STEP_BYTES};
}

static bool fits(const fm_kernel_ctx *k, const fm_linear_xent_args *a)
{
    work w;
    int64_t C = a->chunk, n = a->T < C ? a->T : C;
    bool scratch = !a->dx || ((n + 31) / 32 * 32 <= C && a->D <= 2 * a->block && a->block > 0 &&
                              (((uintptr_t)a->dlogits | (uintptr_t)a->logits) & 63) == 0);
    bool whole = a->D > 0 && a->D % 32 == 0 && a->W > 0 && a->W % 32 == 0;
    return a->dt == FM_DTYPE_BF16 && a->T >= ROWS_MIN && whole && scratch
        && carve(&w, k->scratch[0], a->D) <= k->scratch_bytes && __builtin_cpu_supports("avx512bf16");
}

fm_status fmi_linear_xent_amx(const fm_kernel_ctx *k, const fm_linear_xent_args *a)
{
    if (!fits(k, a)) return ref_linear_xent(k, a);
    job d = {.k = k, .a = a, .wt = a->logits, .dl = a->dlogits};
    if (a->dx) fmi_pool_run(k->pool, transpose_thread, &d);
    for (; d.begin < a->T; d.begin += d.n) {
        d.n = a->T - d.begin < a->chunk ? a->T - d.begin : a->chunk;
        d.taken.next = 0;
        fmi_pool_run(k->pool, walk_thread, &d);
        fm_status st = a->dx ? fmi_tn_run(k, dw_problem, &d, 1) : FM_OK;
        if (st) return st;
    }
    return FM_OK;
}
