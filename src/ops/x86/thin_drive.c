/* Products with few rows: which they are, their blocks over batches and groups, the threads'
 * shares. */
#include <string.h>
#include <xmmintrin.h>

#include "ops/x86/thin.h"

#define CSR_FTZ_DAZ 0x8040u
#define X_BYTES ((size_t)2 << 20) /* of scratch for widened rows of A */
#define WAKE_BYTES 32768          /* a weight smaller than this stays on the calling thread */

typedef struct job {
    const fm_kernel_ctx *ctx;
    const fm_gemm_args *a;
    fmi_thin_kern kern;
    int n_problems, m_max, lanes;
    int64_t blocks; /* of one problem */
    int64_t units;  /* blocks of all problems with rows */
    size_t el, elc;
} job;

typedef struct problem {
    const char *a, *b;
    char *c;
    int64_t m;
} problem;

static int64_t rows_of(const fm_gemm_args *a, int i)
{
    return a->offsets ? a->offsets[i + 1] - a->offsets[i] : a->m;
}

static problem problem_at(const job *j, int i)
{
    const fm_gemm_args *a = j->a;
    problem p = {a->a, a->b, a->c, rows_of(a, i)};
    if (a->offsets) {
        p.a += (size_t)a->offsets[i] * (size_t)a->lda * j->el;
        p.b = a->table[i];
        p.c += (size_t)a->offsets[i] * (size_t)a->ldc * j->elc;
    } else if (i > 0) {
        p.a += (ptrdiff_t)i * a->stride_a * (ptrdiff_t)j->el;
        p.b += (ptrdiff_t)i * a->stride_b * (ptrdiff_t)j->el;
        p.c += (ptrdiff_t)i * a->stride_c * (ptrdiff_t)j->elc;
    }
    return p;
}

/* Rows of A for a problem into scratch, widened or as pairs. */
static void place_rows(const job *j, const problem *p, float *x, int64_t kp, uint32_t *pairs)
{
    const fm_gemm_args *a = j->a;
    for (int64_t r = 0; r < p->m && (!pairs || a->n % 16); r++)
        j->kern.widen(x + r * kp, kp, p->a + (size_t)(r * a->lda) * j->el, a->k);
    for (int64_t r = 0; r < p->m && pairs; r++) {
        const char *row = p->a + (size_t)(r * a->lda) * 2;
        uint32_t *to = pairs + r;
        for (int64_t t = 0; t < a->k / 2; t++, to += p->m) memcpy(to, row + 4 * t, 4);
    }
}

/* Blocks u0 .. u1-1 of one problem; `next`: the weight after it, or NULL. */
static void run_problem(const job *j, const problem *p, int64_t u0, int64_t u1, const char *next,
                        char *scratch)
{
    const fm_gemm_args *a = j->a;
    const fmi_thin_kern *kern = &j->kern;
    bool nt = a->kind == FM_GEMM_NT;
    int64_t kp = (a->k + 31) / 32 * 32, stride = a->ldb * (int64_t)j->el;
    float *acc = (float *)(void *)(scratch + X_BYTES);
    fmi_thin_block b = {.stride = stride, .k = a->k, .kp = kp, .m = (int)p->m, .acc = acc};
    float *x = (float *)(void *)scratch;
    uint32_t *pairs = NULL;
    if (kern->pairs && nt && a->k % 32 == 0)
        pairs = (uint32_t *)(void *)(scratch + X_BYTES / 3 * 2 / 64 * 64);
    place_rows(j, p, x, kp, pairs);
    b.x = x;
    b.pairs = pairs;
    bool dense = nt && a->ldb == a->k;
    b.ahead_lines = (int)((16 * 32 * j->el + 63) / 64);
    for (int64_t u = u0; u < u1; u++) {
        int64_t at = u * j->lanes;
        b.lanes = (int)(a->n - at < j->lanes ? a->n - at : j->lanes);
        b.w = p->b + (nt ? at * stride : at * (int64_t)j->el);
        b.ahead = !dense ? NULL : u + 1 < u1 ? b.w + j->lanes * stride : next;
        if (nt)
            kern->nt(&b);
        else
            kern->nn(&b);
        for (int r = 0; r < b.m; r++)
            kern->store(p->c + (size_t)(r * a->ldc + at) * j->elc, acc + (int64_t)r * j->lanes,
                        b.lanes, a->dtc == FM_DTYPE_BF16, a->accumulate);
    }
}

static void thin_thread(void *arg, int tid, int n_threads)
{
    const job *j = arg;
    int64_t lo = j->units * tid / n_threads, hi = j->units * (tid + 1) / n_threads, base = 0;
    if (lo == hi) return;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | CSR_FTZ_DAZ);
    int entered = 0;
    for (int i = 0; i < j->n_problems && base < hi; i++) {
        if (rows_of(j->a, i) == 0) continue;
        int64_t u0 = lo > base ? lo - base : 0, u1 = hi - base < j->blocks ? hi - base : j->blocks;
        base += j->blocks;
        if (u0 >= u1) continue;
        problem p = problem_at(j, i);
        if (j->kern.enter && entered != p.m) j->kern.enter((int)p.m);
        entered = (int)p.m;
        int next = i + 1;
        while (next < j->n_problems && rows_of(j->a, next) == 0) next++;
        const char *ahead = base < hi && next < j->n_problems ? problem_at(j, next).b : NULL;
        run_problem(j, &p, u0, u1, ahead, j->ctx->scratch[tid]);
    }
    if (entered && j->kern.leave) j->kern.leave();
    _mm_setcsr(csr);
}

bool fmi_gemm_thin(const fm_kernel_ctx *ctx, const fm_gemm_args *a, fm_isa isa)
{
    bool bf16 = a->dt == FM_DTYPE_BF16;
    if ((!bf16 && a->dt != FM_DTYPE_F32) || a->kind == FM_GEMM_TN || isa < FM_ISA_AVX2)
        return false;
    if (a->n <= 0 || a->k <= 0) return false;
    job j = {.ctx = ctx, .a = a};
    j.n_problems = a->offsets ? a->groups : a->batch > 0 ? a->batch : 1;
    if (!a->offsets && a->m > FMI_THIN_ROWS) return false;
    int64_t live = 0;
    for (int i = 0; i < j.n_problems; i++) {
        int64_t m = rows_of(a, i);
        if (m > FMI_THIN_ROWS) return false;
        if (m > j.m_max) j.m_max = (int)m;
        live += m > 0;
    }
    if (live == 0) return true;
    if ((size_t)j.m_max * (size_t)(a->k + 31) * 6 + 128 > X_BYTES) return false;
    j.el = bf16 ? 2 : 4;
    j.elc = a->dtc == FM_DTYPE_BF16 ? 2 : 4;
    j.lanes = a->kind == FM_GEMM_NT ? FMI_THIN_LANES_NT : FMI_THIN_LANES_NN;
    j.blocks = (a->n + j.lanes - 1) / j.lanes;
    j.units = j.blocks * live;
    if (isa >= FM_ISA_AMX && bf16)
        fmi_thin_amx(&j.kern);
    else if (isa >= FM_ISA_AVX512)
        j.kern = bf16 ? fmi_thin_bf16_avx512 : fmi_thin_f32_avx512;
    else
        j.kern = bf16 ? fmi_thin_bf16_avx2 : fmi_thin_f32_avx2;
    double bytes = (double)live * (double)a->n * (double)a->k * (double)j.el;
    if (bytes < WAKE_BYTES || ctx->n_threads == 1)
        thin_thread(&j, 0, 1);
    else
        fmi_pool_run(ctx->pool, thin_thread, &j);
    return true;
}
