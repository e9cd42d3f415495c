/* Newton-Schulz on AMX tiles, a thread to a matrix, in its scratch (small ones in L2); the bits are those
 * of ops/composite.c.
 *
 * G = X X^T and B = -4.7750 G + 2.0315 G G are symmetric to the last bit (products commute, chains run over
 * the same k), so the blocks below the diagonal are computed and mirrored. Blocks are rounded, mixed and
 * added as they leave their tiles, while the next block is multiplied. docs/kernels/muon.md. */
#pragma GCC target("avx512bf16")
#include "ops/x86/ffn_amx.h"

#include "ops/x86/x86.h"

typedef struct work {
    int64_t live, r, c;          /* live rows; rounded up to 32, the others zeros */
    float *y, *g;                /* [live, c], [r, r]                             */
    fm_bf16 *x, *ga, *b;         /* y, G and B rounded                            */
    char *panels, *across;       /* rows of x or ga; columns of x                 */
    float *tile[2];
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

static void put_mix(const work *w, const waiting *t)
{
    v16 one = v16_set1((float)FMI_NS_B), two = v16_set1((float)FMI_NS_C), v[2];
    for (int q = 0; q < 32; q++) {
        int64_t at = (t->i + q) * w->r + t->j;
        for (int h = 0; h < 2; h++)
            v[h] = v16_fma(one, v16_load(w->g + at + 16 * h),
                           v16_mul(two, v16_load(t->acc + 32 * q + 16 * h)));
        _mm512_storeu_si512(w->b + at, FFN_ROUND(v[0], v[1]));
    }
    mirror(w->b, w->r, t->i, t->j);
}

static void put_sum(const work *w, const waiting *t)
{
    v16 one = v16_set1(1.0f), keep = v16_set1((float)FMI_NS_A), v[2];
    for (int q = 0; q < 32 && t->i + q < w->live; q++) {
        int64_t at = (t->i + q) * w->c + t->j;
        for (int h = 0; h < 2; h++) {
            v[h] = v16_fma(one, v16_load(t->acc + 32 * q + 16 * h),
                           v16_mul(keep, v16_load(w->y + at + 16 * h)));
            v16_store(w->y + at + 16 * h, v[h]);
        }
        _mm512_storeu_si512(w->x + at, FFN_ROUND(v[0], v[1]));
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

static void iterate(const work *w, int steps)
{
    int64_t r = w->r, c = w->c;
    memset(w->x + w->live * c, 0, (size_t)((r - w->live) * c) * sizeof *w->x);
    for (int64_t i = 0; i < w->live * c; i += 32)
        _mm512_storeu_si512(w->x + i, FFN_ROUND(v16_load(w->y + i), v16_load(w->y + i + 16)));
    for (int s = 0; s < steps; s++) {
        ffn_pack_rows(w->panels, w->x, r, c);
        ffn_pack_cols(w->across, w->x, r, c);
        products(w, w->x, c, w->panels, r, true, put_gram);
        ffn_pack_rows(w->panels, w->ga, r, r);
        products(w, w->ga, r, w->panels, r, true, put_mix);
        products(w, w->b, r, w->across, c, false, put_sum);
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
        iterate(&w, a->steps);
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
