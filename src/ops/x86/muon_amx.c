/* Newton-Schulz on AMX tiles, a thread to a matrix, in its scratch (small ones in L2); the bits are those
 * of ops/composite.c.
 *
 * G = X X^T and G G are symmetric to the last bit (products commute, chains run over the same k), so the
 * blocks below the diagonal are computed and mirrored. Blocks are rounded and mixed as they leave their
 * tiles, while the next block is multiplied; the first step's G G is kept, for its sum comes before the
 * mixing. docs/kernels/muon.md. */
#pragma GCC target("avx512bf16")
#include "ops/fmath.h"
#include "ops/x86/ffn_amx.h"

#include "ops/x86/x86.h"

typedef struct work {
    int64_t live, r, c;          /* live rows; rounded up to 32, the others zeros */
    float *g, *g2;               /* [r, r], [live, live]                          */
    fm_bf16 *x, *ga, *b;         /* [r, c]; G and B rounded                       */
    char *panels, *across;       /* rows of x or ga; columns of x                 */
    float *tile[2];
    float *y;                    /* [live, c] out                                 */
    float f[3];                  /* factors of this step                          */
} work;

/* A block that waits in a tile buffer: rows i .., columns j .. */
typedef struct waiting {
    const float *acc;            /* NULL: none */
    int64_t i, j;
} waiting;
typedef void (*put_fn)(const work *w, const waiting *t);

static size_t carve(work *w, char *scratch, int64_t r, int64_t c)
{
    fmi_ffn_carve s = {scratch, 0};
    w->live = r;
    r = (r + 31) & ~(int64_t)31;
    int64_t wide = c > r ? c : r;
    w->r = r;
    w->c = c;
    w->g = ffn_take(&s, (size_t)(r * r) * 4);
    w->g2 = ffn_take(&s, (size_t)(w->live * w->live) * 4);
    w->x = ffn_take(&s, ffn_packed(r, c));
    w->ga = ffn_take(&s, ffn_packed(r, r));
    w->b = ffn_take(&s, ffn_packed(r, r));
    w->panels = ffn_take(&s, ffn_packed(r, wide));
    w->across = ffn_take(&s, ffn_packed(r, c));
    for (int i = 0; i < 2; i++) w->tile[i] = ffn_take(&s, 4096);
    return s.used;
}

/* The block of a symmetric matrix m [r, r] at (i, j) onto (j, i). */
static void mirror(fm_bf16 *m, int64_t r, int64_t i, int64_t j)
{
    _Alignas(64) char turned[1024];
    if (i == j) return;
    for (int half = 0; half < 32; half += 16) {
        rows_tile(turned, (const char *)(m + i * r + j + half), 2 * r, false);
        for (int q = 0; q < 16; q++)
            _mm512_storeu_si512(m + (j + half + q) * r + i, _mm512_load_si512(turned + 64 * q));
    }
}

static void put_gram(const work *w, const waiting *t)
{
    for (int q = 0; q < 32; q++) {
        int64_t at = (t->i + q) * w->r + t->j;
        v16 lo = v16_load(t->acc + 32 * q), hi = v16_load(t->acc + 32 * q + 16);
        v16_store(w->g + at, lo);
        v16_store(w->g + at + 16, hi);
        _mm512_storeu_si512(w->ga + at, FFN_ROUND(lo, hi));
    }
    mirror(w->ga, w->r, t->i, t->j);
}

static inline v16 mixed(const work *w, v16 g, v16 g2)
{
    return v16_fma(v16_set1(w->f[1]), g, v16_mul(v16_set1(w->f[2]), g2));
}

/* Row i of B from columns j .. j+31 of G G. */
static void put_mixed_row(const work *w, int64_t i, int64_t j, v16 lo, v16 hi)
{
    int64_t at = i * w->r + j, d = i - j;
    v16 v[2] = {mixed(w, v16_load(w->g + at), lo), mixed(w, v16_load(w->g + at + 16), hi)};
    if (d >= 0 && d < 32)
        v[d >> 4] = _mm512_mask_add_ps(v[d >> 4], (__mmask16)(1 << (d & 15)), v[d >> 4], v16_set1(w->f[0]));
    _mm512_storeu_si512(w->b + at, FFN_ROUND(v[0], v[1]));
}

static void put_mix(const work *w, const waiting *t)
{
    for (int q = 0; q < 32; q++)
        put_mixed_row(w, t->i + q, t->j, v16_load(t->acc + 32 * q), v16_load(t->acc + 32 * q + 16));
    mirror(w->b, w->r, t->i, t->j);
}

/* The first `rows` rows and `cols` columns of 16 x 16 floats to dst [.., ld]. */
static void put_quarter(float *dst, int64_t ld, const v16i t[16], int64_t rows, int64_t cols)
{
    for (int64_t q = 0; q < 16 && q < rows; q++)
        if (cols > 0) v16_store_n(dst + q * ld, v16_from_bits(t[q]), cols < 16 ? cols : 16);
}

/* The block and its mirror image into G G as it is summed. */
static void put_square(const work *w, const waiting *t)
{
    int64_t n = w->live;
    for (int h = 0; h < 4; h++) {
        int64_t i = t->i + 16 * (h >> 1), j = t->j + 16 * (h & 1);
        v16i q[16];
        for (int e = 0; e < 16; e++) q[e] = v16i_load_n(t->acc + 32 * (16 * (h >> 1) + e) + 16 * (h & 1), 16);
        put_quarter(w->g2 + i * n + j, n, q, n - i, n - j);
        v16i_transpose(q);
        put_quarter(w->g2 + j * n + i, n, q, n - j, n - i);
    }
}

/* grad_sumsq of x, rounded once. */
static float sumsq(const float *x, int64_t n)
{
    double sum = 0;
    for (int64_t i = 0; i < n; i += 4096) {
        v16 s = v16_zero();
        for (int64_t e = i; e < n && e < i + 4096; e += 16) {
            v16 v = v16_load_n(x + e, n - e < 16 ? n - e : 16);
            s = v16_fma(v, v, s);
        }
        sum += (double)v16_sum(s);
    }
    return (float)sum;
}

/* B from g, which exists below the diagonal only, and the kept g2; beyond the live rows both are zero. */
static void mix_kept(const work *w)
{
    int64_t n = w->live;
    for (int64_t i = 0; i < w->r; i += 32)
        for (int64_t j = 0; j <= i; j += 32) {
            for (int64_t q = i; q < i + 32; q++) {
                v16 v[2] = {v16_zero(), v16_zero()};
                for (int h = 0; h < 2; h++) {
                    int64_t left = n - j - 16 * h;
                    if (q < n && left > 0)
                        v[h] = v16_load_n(w->g2 + q * n + j + 16 * h, left < 16 ? left : 16);
                }
                put_mixed_row(w, q, j, v[0], v[1]);
            }
            mirror(w->b, w->r, i, j);
        }
}

static void put_x(const work *w, const waiting *t)
{
    for (int q = 0; q < 32; q++)
        _mm512_storeu_si512(w->x + (t->i + q) * w->c + t->j,
                            FFN_ROUND(v16_load(t->acc + 32 * q), v16_load(t->acc + 32 * q + 16)));
}

static void put_y(const work *w, const waiting *t)
{
    for (int q = 0; q < 32 && t->i + q < w->live; q++) {
        float *y = w->y + (t->i + q) * w->c + t->j;
        v16_store(y, v16_load(t->acc + 32 * q));
        v16_store(y + 16, v16_load(t->acc + 32 * q + 16));
    }
}

/* Blocks of a [r, k] (rows in place) by panels over k; half: only those on and below the diagonal. */
static void products(const work *w, const fm_bf16 *a, int64_t k, const char *panels, int64_t n, bool half,
                     put_fn put)
{
    waiting wait = {NULL, 0, 0};
    int turn = 0;
    for (int64_t i = 0; i < w->r; i += 32) {
        fmi_gemm_rows rows = {.p = (const char *)(a + i * k), .row_bytes = 2 * k, .half_bytes = 32 * k,
                              .step_bytes = 64, .k = k, .rows = 32};
        int64_t end = half ? i + 32 : n;
        for (int64_t j = 0; j < end; j += 32, turn ^= 1) {
            block(&rows, panels + 2 * j * k, w->tile[turn], 32, false, true, true, true);
            if (wait.acc) put(w, &wait);
            wait = (waiting){w->tile[turn], i, j};
        }
    }
    if (wait.acc) put(w, &wait);
}

static void factors(work *w, const double coef[3], double sum)
{
    double f[3];
    fmi_newton_schulz_factors(coef, sum, f);
    for (int i = 0; i < 3; i++) w->f[i] = (float)f[i];
}

static void iterate(work *w, const fm_bf16 *x, const fm_newton_schulz_args *a)
{
    int64_t r = w->r, c = w->c;
    memcpy(w->x, x, (size_t)(w->live * c) * sizeof *w->x);
    memset(w->x + w->live * c, 0, (size_t)((r - w->live) * c) * sizeof *w->x);
    for (int s = 0; s < a->steps; s++) {
        ffn_pack_rows(w->panels, w->x, r, c);
        ffn_pack_cols(w->across, w->x, r, c);
        products(w, w->x, c, w->panels, r, true, put_gram);
        ffn_pack_rows(w->panels, w->ga, r, r);
        if (s) factors(w, a->coef[s], -1);
        products(w, w->ga, r, w->panels, r, true, s ? put_mix : put_square);
        if (!s) {
            factors(w, a->coef[0], (double)sumsq(w->g2, w->live * w->live));
            mix_kept(w);
        }
        products(w, w->b, r, w->across, c, false, s == a->steps - 1 ? put_y : put_x);
    }
}

typedef struct job {
    const fm_kernel_ctx *k;
    const fm_newton_schulz_args *a;
    fmi_pool_pieces taken;
} job;

static void run_share(void *arg, int tid, int n_threads)
{
    job *j = arg;
    const fm_newton_schulz_args *a = j->a;
    work w;
    (void)n_threads;
    carve(&w, j->k->scratch[tid], a->r, a->c);
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fmi_tiles_configure_amx();
    for (int64_t i; (i = fmi_pool_take(&j->taken)) < a->n;) {
        w.y = (float *)a->y + i * a->r * a->c;
        iterate(&w, (const fm_bf16 *)a->x + i * a->r * a->c, a);
    }
    fmi_tiles_release_amx();
    _mm_setcsr(csr);
}

fm_status fmi_newton_schulz_amx(const fm_kernel_ctx *k, const fm_newton_schulz_args *a)
{
    work w;
    bool whole = a->c % 32 == 0 && a->r > 0 && a->c > 0, many = a->n >= k->n_threads;
    if (a->dt != FM_DTYPE_BF16 || !whole || !many || !__builtin_cpu_supports("avx512bf16") ||
        carve(&w, NULL, a->r, a->c) > k->scratch_bytes)
        return ref_newton_schulz(k, a);
    job j = {k, a, {0}};
    if (k->n_threads == 1) run_share(&j, 0, 1);
    else fmi_pool_run(k->pool, run_share, &j);
    return FM_OK;
}
