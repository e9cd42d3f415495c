/* Products with few rows: which they are, their blocks over batches and groups, the threads'
 * shares. */
#include <string.h>
#include <xmmintrin.h>

#include "ops/ref/ref.h"
#include "ops/x86/gemm_x86.h"
#include "ops/x86/thin.h"
#include "ops/x86/wide.h"

#define CSR_FTZ_DAZ 0x8040u
#define X_BYTES ((size_t)2 << 20) /* of scratch for rows of A, widened or packed */
#define LINES_AT (X_BYTES + ((size_t)64 << 10)) /* of scratch, behind the sums: rows of A as lines */
#define WIDE_BYTES ((int64_t)1 << 20) /* of packed rows that stay in L2 */
#define FIRST_BYTES 65536         /* asked for when a share begins, .. */
#define FIRST_LINES 8192          /* .. where its weight is read in order */
#define FIRST_ROWS 64             /* .. or of its columns */
#define LINES_FLOATS 4096         /* of a batch of rows as lines: half of L1 */
#define WIDE_BLOCKS 4             /* of 16 columns a thread, or packing the rows does not pay */
#define WAKE_BYTES 32768          /* a weight smaller than this stays on the calling thread */
#define WIDE_ROWS 128             /* rows of a problem, on average, up to which weights stay in place */
#define SHARES 6                  /* a thread, at most, .. */
#define SHARE_BYTES 196608.0      /* .. or, of few rows, as many as have so much of the weight */
#define SHARED_PROBLEMS                                                                            \
    8 /* of many rows, from which on they are shared in more than one part a thread */
#define STREAM_MIN ((int64_t)1 << 20) /* bytes of an f32 C that no cache keeps for its reader */

typedef struct job {
    const fm_kernel_ctx *ctx;
    const fm_gemm_args *a;
    fmi_thin_kern kern;
    int n_problems, lanes;
    int64_t m_max;
    int64_t blocks; /* of one problem */
    int64_t live;   /* problems with rows */
    int64_t cost;   /* of all their blocks */
    int64_t least;  /* of a share that a thread takes */
    size_t el, elc;
    const int32_t *row; /* NULL, or row i of A is row row[i] of memory */
} job;

typedef struct problem {
    const char *a, *b;
    char *c;
    int64_t m, row0; /* its rows; the first of them in A and C */
} problem;

static int64_t rows_of(const fm_gemm_args *a, int i)
{
    return a->offsets ? a->offsets[i + 1] - a->offsets[i] : a->m;
}

static problem problem_at(const job *j, int i)
{
    const fm_gemm_args *a = j->a;
    problem p = {a->a, a->b, a->c, rows_of(a, i), 0};
    if (a->offsets) {
        p.row0 = a->offsets[i];
        if (!j->row) p.a += (size_t)a->offsets[i] * (size_t)a->lda * j->el;
        p.b = a->table[i];
        p.c += (size_t)a->offsets[i] * (size_t)a->ldc * j->elc;
    } else if (i > 0) {
        p.a += (ptrdiff_t)i * a->stride_a * (ptrdiff_t)j->el;
        p.b += (ptrdiff_t)i * a->stride_b * (ptrdiff_t)j->el;
        p.c += (ptrdiff_t)i * a->stride_c * (ptrdiff_t)j->elc;
    }
    return p;
}

static const char *row_at(const job *j, const problem *p, int64_t r)
{
    if (j->row) r = j->row[p->row0 + r];
    return p->a + (size_t)(r * j->a->lda) * j->el;
}

/* Rows of A for a problem into scratch: as the block's kernel wants them, and widened where that
 * leaves ragged ends to another. */
static void place_rows(const job *j, const problem *p, const fmi_thin_block *b, float *x, uint32_t *pairs,
                       float *lines)
{
    const fm_gemm_args *a = j->a;
    bool whole = (pairs || lines) && a->n % 16 == 0;
    for (int64_t r = 0; r < p->m && !whole; r++) j->kern.widen(x + r * b->kp, b->kp, row_at(j, p, r), a->k);
    for (int64_t r = 0; r < p->m && lines; r++) j->kern.spread(lines, b->m, (int)r, row_at(j, p, r), a->k);
    for (int64_t r = 0; r < p->m && pairs; r++) {
        const char *row = row_at(j, p, r);
        uint32_t *to = pairs + r;
        for (int64_t t = 0; t < a->k / 2; t++, to += p->m) memcpy(to, row + 4 * t, 4);
    }
}

/* Floats of m rows of A as lines, which the sums follow; 0: not for this weight, or a batch of rows
 * leaves L1. */
static size_t lines_of(const job *j, int64_t m)
{
    int64_t k = j->a->k, steps = k / 32, repeats = 16;
    bool whole = j->a->kind == FM_GEMM_NT && k % 32 == 0 && j->a->ldb == k;
    if (!j->kern.nt_lines || !whole || m > j->kern.lines_rows) return 0;
    while (steps % repeats) repeats /= 2;
    int64_t n = k * (16 / repeats);
    return n * (m < 4 ? m : 4) <= LINES_FLOATS ? (size_t)(m * n) : 0;
}

/* Of one block of m rows: reading the weight is worth as much as four tiles of rows. */
static int64_t block_cost(int64_t m)
{
    return 4 + (m + FMI_WIDE_TILE - 1) / FMI_WIDE_TILE;
}

/* run_problem for more rows than a narrow tile holds. */
static void run_wide(const job *j, const problem *p, int64_t u0, int64_t u1, const char *next, bool placed,
                     char *scratch)
{
    const fm_gemm_args *a = j->a;
    int tiles = (int)((p->m + FMI_WIDE_TILE - 1) / FMI_WIDE_TILE);
    bool lines = ((uintptr_t)a->c & 63) == 0 && a->ldc % 16 == 0 && a->stride_c % 16 == 0;
    int64_t rows = a->offsets ? a->offsets[a->groups] : a->m;
    fmi_wide_block b = {.stride = a->ldb * 2,
                        .steps = a->k / 32,
                        .x = scratch,
                        .tiles = tiles,
                        .rows = (int)p->m,
                        .ldc = a->ldc,
                        .bf16 = a->dtc == FM_DTYPE_BF16,
                        .add = a->accumulate,
                        .stream = lines && a->dtc == FM_DTYPE_F32 && 4 * rows * a->n >= STREAM_MIN};
    float *acc = (float *)(void *)(scratch + X_BYTES);
    fmi_wide w = {.acc = {acc, acc + FMI_WIDE_ACC_BYTES / sizeof *acc}};
    for (int t = 0; t < tiles && !placed; t++) {
        const char *row[FMI_WIDE_TILE];
        int live = (int)(p->m - 16 * t < 16 ? p->m - 16 * t : 16);
        for (int i = 0; i < live; i++) row[i] = row_at(j, p, 16 * t + i);
        fmi_wide_pack_amx(scratch, b.steps, tiles, t, row, live);
    }
    for (int64_t u = u0; u < u1; u++) {
        b.w = p->b + u * FMI_WIDE_TILE * b.stride;
        b.next = u + 1 < u1 ? b.w + FMI_WIDE_TILE * b.stride : next;
        b.c = p->c + (size_t)(u * FMI_WIDE_TILE) * j->elc;
        fmi_wide_block_amx(&w, &b);
    }
    fmi_wide_flush_amx(&w);
    if (b.stream) _mm_sfence();
}

/* Asks for the first block of a share, which no block before it asked for, or for its beginning. */
static void ask_first(const job *j, const char *w, int64_t u, int64_t stride, int64_t most)
{
    int64_t rows = j->a->n - u * j->lanes, bytes = (rows < j->lanes ? rows : j->lanes) * stride;
    w += u * j->lanes * stride;
    for (int64_t i = 0; i < bytes && i < most; i += 64) _mm_prefetch(w + i, _MM_HINT_T1);
}

/* The same for NN, whose blocks are columns: the first rows of them. */
static void ask_columns(const job *j, const char *w, int64_t u, int64_t stride)
{
    int64_t rows = j->a->k < FIRST_ROWS ? j->a->k : FIRST_ROWS, width = j->lanes * (int64_t)j->el;
    uintptr_t at = (uintptr_t)w + (uintptr_t)(u * width);
    for (int64_t t = 0; t < rows; t++, at += (uintptr_t)stride)
        for (int64_t i = 0; i < width; i += 64) _mm_prefetch((const char *)(at + (uintptr_t)i), _MM_HINT_T1);
}

/* Blocks u0 .. u1-1 of one problem; `next`: the weight after it, or NULL; placed: the call before had the
 * same rows. */
static void run_problem(const job *j, const problem *p, int64_t u0, int64_t u1, const char *next,
                        bool placed, char *scratch)
{
    const fm_gemm_args *a = j->a;
    if (p->m > FMI_THIN_ROWS) {
        run_wide(j, p, u0, u1, next, placed, scratch);
        return;
    }
    const fmi_thin_kern *kern = &j->kern;
    bool nt = a->kind == FM_GEMM_NT;
    int64_t kp = (a->k + 31) / 32 * 32, stride = a->ldb * (int64_t)j->el;
    float *acc = (float *)(void *)(scratch + X_BYTES);
    fmi_thin_block b = {.stride = stride, .k = a->k, .kp = kp, .m = (int)p->m, .acc = acc};
    float *x = (float *)(void *)scratch;
    uint32_t *pairs = NULL;
    if (kern->pairs && nt && a->k % 32 == 0)
        pairs = (uint32_t *)(void *)(scratch + X_BYTES / 3 * 2 / 64 * 64);
    float *lines = (float *)(void *)(scratch + LINES_AT);
    size_t n_lines = lines_of(j, p->m);
    if (!n_lines) lines = NULL;
    if (!placed) place_rows(j, p, &b, x, pairs, lines);
    b.x = x;
    b.pairs = pairs;
    b.lines = lines;
    b.sums = lines ? lines + n_lines : NULL;
    b.after = next;
    if (!nt)
        ask_columns(j, p->b, u0, stride);
    else if (!pairs)
        ask_first(j, p->b, u0, stride, lines ? FIRST_LINES : FIRST_BYTES);
    for (int64_t u = u0; u < u1; u++) {
        int64_t at = u * j->lanes;
        b.lanes = (int)(a->n - at < j->lanes ? a->n - at : j->lanes);
        b.w = p->b + (nt ? at * stride : at * (int64_t)j->el);
        b.ahead = u + 1 < u1 ? b.w + j->lanes * (nt ? stride : (int64_t)j->el) : next;
        b.left = ((u1 < j->blocks ? u1 * j->lanes : a->n) - at) * stride;
        if (lines && b.lanes == j->lanes)
            kern->nt_lines(&b);
        else if (nt)
            kern->nt(&b);
        else
            kern->nn(&b);
        for (int r = 0; r < b.m; r++)
            kern->store(p->c + (size_t)(r * a->ldc + at) * j->elc, acc + (int64_t)r * j->lanes,
                        b.lanes, a->dtc == FM_DTYPE_BF16, a->accumulate);
    }
}

/* A product, or the first two of a gated FFN with the activation between them and the third. */
typedef struct pass {
    job one, two;
    const fm_gated_args *gated; /* NULL: a product */
    fmi_pool_pieces taken;
} pass;

/* Columns n0 .. n1-1 of h for the rows of a problem, once gate and up are there. */
static void activate(const pass *w, const problem *p, int64_t n0, int64_t n1)
{
    const fm_gated_args *g = w->gated;
    fm_kernel_ctx alone = *w->one.ctx;
    size_t at = ((size_t)p->row0 * (size_t)g->M + (size_t)n0) * w->one.el;
    alone.n_threads = 1;
    fm_swiglu_args s = {.gate = (const char *)g->gate + at,
                        .up = (const char *)g->up + at,
                        .row_slot = g->row_slot ? g->row_slot + p->row0 : NULL,
                        .weight = g->weight,
                        .h = (char *)g->h + at,
                        .G = p->m,
                        .M = (n1 < g->M ? n1 : g->M) - n0,
                        .ld_gate = g->M,
                        .ld_up = g->M,
                        .ld_h = g->M,
                        .dt = g->dt};
    alone.ops->swiglu(&alone, &s);
}

/* Blocks whose cost begins within lo .. hi-1; `entered`: shape that the kernel is set up for. */
static void run_share(const pass *w, int64_t lo, int64_t hi, char *scratch, int *entered)
{
    const job *j = &w->one;
    int64_t base = 0;
    for (int i = 0; i < j->n_problems && base < hi; i++) {
        if (rows_of(j->a, i) == 0) continue;
        int64_t each = block_cost(rows_of(j->a, i));
        int64_t u0 = fmi_ceil_div(lo - base, each), u1 = fmi_ceil_div(hi - base, each);
        if (u1 > j->blocks) u1 = j->blocks;
        base += j->blocks * each;
        if (u0 >= u1) continue;
        problem p = problem_at(j, i);
        int shape = p.m > FMI_THIN_ROWS ? FMI_THIN_ROWS + 1 : (int)p.m;
        if (j->kern.enter && *entered != shape) j->kern.enter(shape);
        *entered = shape;
        int next = i + 1;
        while (next < j->n_problems && rows_of(j->a, next) == 0) next++;
        const char *ahead = base < hi && next < j->n_problems ? problem_at(j, next).b : NULL;
        if (!w->gated) {
            run_problem(j, &p, u0, u1, ahead, false, scratch);
            continue;
        }
        problem q = problem_at(&w->two, i);
        run_problem(j, &p, u0, u1, q.b + u0 * j->lanes * j->a->ldb * (int64_t)j->el, false, scratch);
        run_problem(&w->two, &q, u0, u1, ahead, true, scratch);
        activate(w, &p, u0 * j->lanes, u1 * j->lanes);
    }
}

static void thin_thread(void *arg, int tid, int n_threads)
{
    pass *w = arg;
    const job *j = &w->one;
    int64_t lo, hi;
    int entered = 0;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | CSR_FTZ_DAZ);
    while (fmi_pool_next(&w->taken, j->cost, j->least, n_threads, &lo, &hi))
        run_share(w, lo, hi, j->ctx->scratch[tid], &entered);
    if (entered && j->kern.leave) j->kern.leave();
    _mm_setcsr(csr);
}

/* Bytes of the weights that have rows. */
static double weight_bytes(const job *j)
{
    return (double)(j->live * j->blocks) * j->lanes * (double)j->a->k * (double)j->el;
}

/* Each share makes the rows of its problems ready anew, which many rows of few problems do not bear; but
 * whoever comes to an end first waits for the other's last share. */
static int64_t least_share(const job *j)
{
    int64_t parts = j->m_max > FMI_THIN_ROWS && j->live < SHARED_PROBLEMS ? 1 : SHARES;
    int64_t few = j->m_max > FMI_THIN_ROWS ? 0 : (int64_t)(weight_bytes(j) / SHARE_BYTES);
    parts *= j->ctx->n_threads;
    return j->cost / (few > parts ? few : parts) + 1;
}

/* Rows of the largest problem that such a product may have: 16, or, on tiles and with whole tiles of the
 * weight, what fits packed into half of L2, as long as the problems have few rows on average. */
static int64_t rows_max(const job *j, int64_t live, fm_isa isa)
{
    const fm_gemm_args *a = j->a;
    bool wide = isa >= FM_ISA_AMX && j->el == 2 && a->kind == FM_GEMM_NT && a->n % 16 == 0 && a->k % 32 == 0;
    int64_t rows = 0, most = WIDE_ROWS;
    for (int i = 0; i < j->n_problems; i++) rows += rows_of(a, i);
    bool few = a->n / FMI_WIDE_TILE * live < WIDE_BLOCKS * j->ctx->n_threads;
    if (!wide || few || rows > most * live) return FMI_THIN_ROWS;
    return WIDE_BYTES / (2 * a->k) / FMI_WIDE_TILE * FMI_WIDE_TILE;
}

/* Fills a job; 0: not such a product, 1: run it, 2: nothing to do. */
static int job_of(job *out, const fm_kernel_ctx *ctx, const fm_gemm_args *a, fm_isa isa)
{
    bool bf16 = a->dt == FM_DTYPE_BF16;
    if ((!bf16 && a->dt != FM_DTYPE_F32) || a->kind == FM_GEMM_TN || isa < FM_ISA_AVX2) return 0;
    if (a->n <= 0 || a->k <= 0) return 0;
    job j = {.ctx = ctx, .a = a};
    j.n_problems = a->offsets ? a->groups : a->batch > 0 ? a->batch : 1;
    j.el = bf16 ? 2 : 4;
    int64_t m_thin = 0, live = 0;
    for (int i = 0; i < j.n_problems; i++) {
        int64_t m = rows_of(a, i);
        if (m > j.m_max) j.m_max = m;
        if (m > m_thin && m <= FMI_THIN_ROWS) m_thin = m;
        live += m > 0;
    }
    if (live == 0) return 2;
    if (j.m_max > FMI_THIN_ROWS && j.m_max > rows_max(&j, live, isa)) return 0;
    if ((size_t)m_thin * (size_t)(a->k + 31) * 6 + 128 > X_BYTES) return 0;
    j.elc = a->dtc == FM_DTYPE_BF16 ? 2 : 4;
    j.lanes = a->kind == FM_GEMM_NT ? FMI_THIN_LANES_NT : FMI_THIN_LANES_NN;
    j.blocks = (a->n + j.lanes - 1) / j.lanes;
    j.live = live;
    for (int i = 0; i < j.n_problems; i++)
        if (rows_of(a, i) > 0) j.cost += j.blocks * block_cost(rows_of(a, i));
    j.least = least_share(&j);
    if (isa >= FM_ISA_AMX && bf16)
        fmi_thin_amx(&j.kern);
    else if (isa >= FM_ISA_AVX512)
        j.kern = bf16 ? fmi_thin_bf16_avx512 : fmi_thin_f32_avx512;
    else
        j.kern = bf16 ? fmi_thin_bf16_avx2 : fmi_thin_f32_avx2;
    *out = j;
    return 1;
}

static void run_pass(pass *w)
{
    w->taken.next = 0;
    const job *j = &w->one;
    double bytes = weight_bytes(j) * (w->gated ? 2 : 1);
    if (bytes < WAKE_BYTES || j->ctx->n_threads == 1)
        thin_thread(w, 0, 1);
    else
        fmi_pool_run(j->ctx->pool, thin_thread, w);
}

bool fmi_gemm_thin(const fm_kernel_ctx *ctx, const fm_gemm_args *a, fm_isa isa)
{
    pass w = {.gated = NULL};
    int what = job_of(&w.one, ctx, a, isa);
    if (what == 1) run_pass(&w);
    return what != 0;
}

bool fmi_gated_thin(const fm_kernel_ctx *ctx, const fm_gated_args *g, fm_isa isa)
{
    bool tables = g->groups > 0;
    fm_dtype F = FM_DTYPE_F32;
    fm_gemm_args gate = {.a = g->x,
                         .b = g->w_gate,
                         .c = g->gate,
                         .kind = FM_GEMM_NT,
                         .m = g->G,
                         .n = g->M,
                         .k = g->D,
                         .lda = g->D,
                         .ldb = g->D,
                         .ldc = g->M,
                         .dt = g->dt,
                         .dtc = g->dt};
    if (tables) {
        gate.offsets = g->offsets;
        gate.groups = g->groups;
        gate.table = (void *const *)g->w_gate;
    }
    fm_gemm_args up = gate;
    up.b = g->w_up;
    up.c = g->up;
    if (tables) up.table = (void *const *)g->w_up;
    pass w = {.gated = g};
    int what = tables == (g->offsets != NULL) ? job_of(&w.one, ctx, &gate, isa) : 0;
    if (what == 0) return false;
    if (what == 2) return true;
    w.one.row = g->row_token;
    w.two = w.one;
    w.two.a = &up;
    run_pass(&w);
    if (!g->y) return true;
    if (g->base && g->base != g->y)
        ctx->ops->gather_rows(ctx, &(fm_gather_rows_args){.x = g->base,
                                                          .y = g->y,
                                                          .n = g->G,
                                                          .D = g->D,
                                                          .ldx = g->D,
                                                          .ldy = g->D,
                                                          .dt_x = F,
                                                          .dt_y = F});
    fm_gemm_args down = {.a = g->h,
                         .b = g->w_down,
                         .c = g->y,
                         .kind = FM_GEMM_NT,
                         .m = g->G,
                         .n = g->D,
                         .k = g->M,
                         .lda = g->M,
                         .ldb = g->M,
                         .ldc = g->D,
                         .dt = g->dt,
                         .dtc = g->dty,
                         .accumulate = g->base != NULL,
                         .offsets = gate.offsets,
                         .groups = gate.groups};
    if (tables) down.table = (void *const *)g->w_down;
    return fmi_gemm_thin(ctx, &down, isa) || ctx->ops->gemm(ctx, &down) == FM_OK;
}

fm_status fmi_gated_avx2(const fm_kernel_ctx *ctx, const fm_gated_args *g)
{
    return fmi_gated_thin(ctx, g, FM_ISA_AVX2) ? FM_OK : ref_gated(ctx, g);
}

fm_status fmi_gated_avx512(const fm_kernel_ctx *ctx, const fm_gated_args *g)
{
    return fmi_gated_thin(ctx, g, FM_ISA_AVX512) ? FM_OK : ref_gated(ctx, g);
}
