/* The driver of the fast matrix products: kinds, batches, groups, threads, blocking.
 *
 * An operator is a list of problems (batch entries or groups). A problem's outputs are cut into
 * units: one block of R rows times one group of P panels. Units are numbered over all problems and
 * each thread owns a contiguous range of equal cost, so no output is ever shared. Within a range
 * the panels are packed once and used for all blocks of R. The chain of an output runs over pieces
 * of k: a TN chunk is a chain and a piece of its own; otherwise there is one chain, in one piece
 * unless a single packed panel would not fit the scratch. Nothing here rounds or adds. */
#include <string.h>
#include <xmmintrin.h>

#include "ops/x86/gemm_x86.h"

#define PANELS_MAX ((size_t)5 << 19)  /* scratch for packed P                     */
#define PANELS_AIM ((size_t)1 << 20)  /* what leaves room for R and C in L2       */
#define LONG_K 4096                   /* a chain above goes in steps, where C can hold its sums */
#define LONG_PIECE 2048
#define ACC_COLS 1024                 /* columns of a unit, at most               */
#define ACC_LD (ACC_COLS + 16)        /* their row length: rows differ in L1 set  */
#define CSR_FTZ_DAZ 0x8040u

typedef struct problem {
    fmi_gemm_view r, p;
    fmi_gemm_dst dst;
    int64_t n_r, n_p, k;
    int64_t piece;        /* k of a piece                                    */
    int64_t n_pieces;
    int64_t block;        /* rows of R in a block, even shares of n_r        */
    int64_t n_blocks;
    int64_t group_rows;   /* rows of P in a group, a multiple of kern->panel */
    int64_t n_units, unit_cost;
    bool chunked;         /* pieces are chains of their own                  */
    bool stepped;         /* one long chain, whose sums wait in C between pieces */
    bool lower;           /* C is symmetric: panels above the diagonal are left out     */
    bool follows;         /* the rows of the next group follow in memory         */
    fmi_gemm_view next_p; /* P of the next group where that has its own, or p NULL */
} problem;

typedef struct drive {
    const fm_kernel_ctx *ctx;
    const fm_gemm_args *a;
    const fmi_gemm_kern *kern;
    int n_problems, n_live;     /* live: with rows */
    int64_t total_cost, least;  /* least: cost of a share that a thread takes, at least */
    fmi_pool_pieces taken;
} drive;

/* A finished block still to be written. Reading a tile back right after it was stored stalls, so a
 * block is written after the next one has been issued. */
typedef struct pending {
    const float *acc;     /* NULL: nothing waits */
    int rows, cols;
    fmi_gemm_dst dst;
} pending;

typedef struct worker {
    const drive *d;
    char *panels;         /* packed P of the group and piece at hand         */
    char *rows;           /* prepare's scratch                               */
    float *acc;           /* [FMI_GEMM_BLOCK_MAX, ACC_LD]                    */
    float *sum;           /* the same; sum of chunks of a bf16 C             */
    float *tile[2];       /* [FMI_GEMM_BLOCK_MAX, FMI_GEMM_PANEL_MAX] each   */
    int turn;             /* the tile to compute into next                   */
    pending wait;         /* the block in the other tile                     */
    int64_t packed;       /* group whose only piece lies packed, or -1       */
} worker;

static int64_t round_up(int64_t x, int64_t to)
{
    return (x + to - 1) / to * to;
}

/* Cycles of the products, of packing, of preparing R and of a transposing store, for choosing
 * roles. Rough; any choice gives the same bits. */
static double role_cost(const problem *q, const drive *d)
{
    const fmi_gemm_kern *kern = d->kern;
    double k = (double)q->k, pack = q->p.across ? kern->pack_cost_across : kern->pack_cost;
    double rows = q->r.across ? kern->rows_cost_across : kern->rows_cost;
    double again = q->p.across && q->r.across ? (double)(q->n_p + 767) / 768 : 1;
    int64_t blocks = q->n_r / 32 + 1;
    double share = d->ctx->n_threads < blocks ? d->ctx->n_threads : (double)blocks;
    double r = (double)round_up(q->n_r, kern->unit_r), p = (double)round_up(q->n_p, kern->unit_p);
    double cost = k * (kern->mac * r * p + pack * (double)q->n_p * share + rows * r * again);
    if (q->dst.transposed) cost += 0.25 * (double)q->n_p * (double)q->n_r;
    return cost;
}

static void swap_roles(problem *q)
{
    fmi_gemm_view v = q->r;
    int64_t n = q->n_r;
    q->r = q->p;
    q->p = v;
    q->n_r = q->n_p;
    q->n_p = n;
    q->dst.transposed = !q->dst.transposed;
}

/* A long chain in f32 that nothing is added to: packed whole, a group of panels would be one panel, and R
 * would be read anew for each. */
static bool steps(const problem *q, const drive *d)
{
    return d->a->kind != FM_GEMM_TN && q->k > LONG_K && !q->dst.bf16 && !q->dst.add &&
           q->n_r >= 4 * d->kern->block_unit && q->n_p >= 2 * d->kern->panel;
}

/* Rows of a block with which the largest share of n rows, whole blocks, takes the least time, in
 * times of a row: rows that do not fill a unit have too few chains to keep the multipliers busy,
 * and each block costs. */
static int64_t even_block(int64_t n, int threads, const fmi_gemm_kern *kern)
{
    bool reused = kern->block > kern->block_unit; /* else a block is two units of a kernel with two chains */
    int64_t unit = reused ? kern->block_unit : kern->block_unit / 2, rest_least = reused ? 4 : 2, best = 1;
    double least = 0;
    for (int64_t b = 1; b <= kern->block && b <= n; b++) {
        int64_t blocks = fmi_ceil_div(fmi_ceil_div(n, b), threads), rest = b % unit;
        if (rest && rest < rest_least) rest = rest_least;
        double cost = (double)blocks * ((double)(b / unit * unit + rest) + 1.5);
        if (b > 1 && cost > least) continue;
        least = cost;
        best = b;
    }
    return best;
}

/* Pieces, groups of panels and units of a problem whose roles are set. */
static void plan_blocks(problem *q, const drive *d)
{
    const fmi_gemm_kern *kern = d->kern;
    int64_t panel = kern->panel, k_bytes = panel * kern->packed_bytes;
    q->chunked = d->a->kind == FM_GEMM_TN;
    q->stepped = steps(q, d) && !q->dst.transposed;
    int64_t step = kern->k_block < LONG_PIECE ? kern->k_block : LONG_PIECE;
    q->piece = q->chunked ? FMI_GEMM_CHUNK : q->stepped ? step : (int64_t)PANELS_MAX / k_bytes / 32 * 32;
    if (q->piece > q->k) q->piece = q->k > 0 ? q->k : 1;
    q->n_pieces = q->k > 0 ? (q->k + q->piece - 1) / q->piece : 1;
    int64_t want = fmi_ceil_div(4 * (int64_t)d->ctx->n_threads, d->n_live),
            most = fmi_ceil_div(q->n_r, kern->block_unit);
    q->n_blocks = fmi_ceil_div(q->n_r, kern->block);
    if (q->n_blocks < want) q->n_blocks = most < want ? most : want;
    q->block = round_up(fmi_ceil_div(q->n_r, q->n_blocks), kern->block_unit);
    /* Over tokens on vectors, threads share the longer side of C, so that least is packed twice. */
    if (q->lower && panel < q->block) q->block = round_up(panel, kern->block_unit);
    bool spans = q->chunked && !kern->tiles && !d->a->offsets, by_p = spans && q->n_p > q->n_r;
    if (spans) q->block = even_block(q->n_r, by_p ? 1 : d->ctx->n_threads, kern);
    q->n_blocks = fmi_ceil_div(q->n_r, q->block);

    int64_t piece_k = round_up(q->piece, 32), all = (q->n_p + panel - 1) / panel;
    bool reused = kern->block > kern->block_unit; /* a panel by many rows: it may come from beyond L2 */
    int64_t fit = (int64_t)(reused ? PANELS_MAX : PANELS_AIM) / (piece_k * k_bytes);
    if (fit > ACC_COLS / panel) fit = ACC_COLS / panel;
    if (fit < 1) fit = 1;
    int64_t groups = (all + fit - 1) / fit;
    if (by_p) groups = round_up(groups, d->ctx->n_threads);
    else if (!spans && groups * q->n_blocks < want) groups = (want + q->n_blocks - 1) / q->n_blocks;
    if (groups > all) groups = all;
    int64_t per = groups > 0 ? (all + groups - 1) / groups : 1;
    q->group_rows = per * panel;
    groups = (all + per - 1) / per;
    q->n_units = groups * q->n_blocks;
    q->unit_cost = (round_up(q->n_p < q->group_rows ? q->n_p : q->group_rows, 16) + 8)
        * (piece_k * q->n_pieces);
}

/* X X^T on vectors: C[j][i] has the products of C[i][j] in the same order, so a thread that is alone
 * computes what is on and below the diagonal and copies the rest. */
static bool symmetric(const drive *d)
{
    const fm_gemm_args *a = d->a;
    return !d->kern->tiles && d->ctx->n_threads == 1 && a->kind == FM_GEMM_NT && a->a == a->b &&
           a->lda == a->ldb && a->stride_a == a->stride_b && a->m == a->n && a->m > d->kern->panel &&
           a->k > 0 && !a->offsets && !a->accumulate && a->dtc == FM_DTYPE_F32;
}

/* Copies what is below the diagonal of c [n, n] to the other side. */
static void mirror(const fmi_gemm_kern *kern, float *c, int64_t n, int64_t ld)
{
    int64_t side = kern->panel;
    for (int64_t i = side; i < n; i += side)
        for (int64_t j = 0; j < i; j += side) {
            fmi_gemm_dst above = { (char *)(c + j * ld + i), ld, false, false, true };
            kern->store(c + i * ld + j, ld, (int)(n - i < side ? n - i : side), (int)side, &above);
        }
}

static size_t elem_bytes(fm_dtype dt)
{
    return dt == FM_DTYPE_BF16 ? 2 : 4;
}

/* Problem i of the operator with roles, blocks and cost. */
static void plan_problem(problem *q, const drive *d, int i)
{
    const fm_gemm_args *a = d->a;
    size_t el = elem_bytes(a->dt), elc = elem_bytes(a->dtc);
    const char *pa = a->a, *pb = a->b;
    char *pc = a->c;
    int64_t m = a->m, k = a->k;
    if (a->offsets) {
        int64_t row = a->offsets[i], n_rows = a->offsets[i + 1] - row;
        pa += (size_t)row * (size_t)a->lda * el;
        if (a->kind == FM_GEMM_TN) {
            pb += (size_t)row * (size_t)a->ldb * el;
            pc = a->table[i];
            k = n_rows;
        } else {
            pb = a->table[i];
            pc += (size_t)row * (size_t)a->ldc * elc;
            m = n_rows;
        }
    } else if (i > 0) {
        pa += (ptrdiff_t)i * a->stride_a * (ptrdiff_t)el;
        pb += (ptrdiff_t)i * a->stride_b * (ptrdiff_t)el;
        pc += (ptrdiff_t)i * a->stride_c * (ptrdiff_t)elc;
    }
    bool bf16 = a->dt == FM_DTYPE_BF16;
    *q = (problem){
        .r = { pa, a->lda, a->kind == FM_GEMM_TN, bf16, m },
        .p = { pb, a->ldb, a->kind != FM_GEMM_NT, bf16, a->n },
        .dst = { pc, a->ldc, a->dtc == FM_DTYPE_BF16, a->accumulate, false },
        .n_r = m, .n_p = a->n, .k = k,
    };
    if (m <= 0 || a->n <= 0 || (k <= 0 && a->accumulate && a->kind == FM_GEMM_TN)) return;
    problem s = *q;
    swap_roles(&s);
    q->lower = symmetric(d) && !steps(q, d);
    if (!q->lower && !steps(q, d) && role_cost(&s, d) < role_cost(q, d)) *q = s;
    q->follows = a->offsets && i + 1 < d->n_problems;
    q->next_p = (fmi_gemm_view){ .p = NULL };
    if (q->follows && a->kind != FM_GEMM_TN && !q->dst.transposed) {
        q->next_p = q->p;
        q->next_p.p = a->table[i + 1];
    }
    plan_blocks(q, d);
}

/* Asks for rows of memory t .. t+n-1 of an operand that lies across, columns first .. end-1 of them. */
static void ask_rows(const fmi_gemm_view *v, int64_t t, int64_t n, int64_t first, int64_t end)
{
    int64_t el = v->bf16 ? 2 : 4;
    for (int64_t i = t; i < t + n; i++) {
        const char *row = (const char *)v->p + (i * v->ld + first) * el;
        for (int64_t b = 0; b < (end - first) * el; b += 64) _mm_prefetch(row + b, _MM_HINT_T1);
    }
}

/* Packs a group for k0 .. k0+k-1. An operand that lies across is walked 32 rows of memory at a time
 * over all panels, so that memory is read in runs and not one line a row. */
static void pack_group(const worker *w, char *to, const problem *q, int64_t group, int64_t k0, int64_t k)
{
    const fmi_gemm_kern *kern = w->d->kern;
    int64_t first = group * q->group_rows, end = first + q->group_rows;
    int64_t el = kern->panel * kern->packed_bytes, bytes = round_up(k, kern->k_round) * el;
    int64_t slab = q->p.across ? 32 : k;
    if (end > q->n_p) end = q->n_p;
    for (int64_t t = 0; t < k; t += slab) {
        int64_t kn = k - t < slab ? k - t : slab;
        char *dst = to + t * el;
        int64_t left = k - t - kn < slab ? k - t - kn : slab, asked = 0; /* of the next rows of memory */
        int64_t each = fmi_ceil_div(left * kern->panel, end - first);
        for (int64_t row = first; row < end; row += kern->panel, dst += bytes) {
            int rows = (int)(end - row < kern->panel ? end - row : kern->panel);
            int64_t n = left - asked < each ? left - asked : each;
            if (q->p.across && !kern->tiles) ask_rows(&q->p, k0 + t + kn + asked, n, first, end);
            asked += n;
            kern->pack(dst, &q->p, row, rows, k0 + t, kn);
        }
    }
}

/* The part of C where row `r` of R meets row `p` of P. */
static fmi_gemm_dst dst_at(const fmi_gemm_dst *d, int64_t r, int64_t p)
{
    fmi_gemm_dst out = *d;
    int64_t at = d->transposed ? p * d->ldc + r : r * d->ldc + p;
    out.c += at * (d->bf16 ? 2 : 4);
    return out;
}

static void flush(worker *w)
{
    pending *p = &w->wait;
    if (p->acc) w->d->kern->store(p->acc, FMI_GEMM_PANEL_MAX, p->rows, p->cols, &p->dst);
    p->acc = NULL;
}

/* Rows row .. row+rows-1, k0 .. k0+k-1 of v, to be asked for. */
static fmi_gemm_later later_part(const fmi_gemm_view *v, int64_t row, int64_t rows, int64_t k0, int64_t k)
{
    int64_t el = v->bf16 ? 2 : 4, stride = v->ld * el;
    uintptr_t p = (uintptr_t)v->p;
    if (v->across) return fmi_later(p + (uintptr_t)(k0 * stride + row * el), rows * el, stride, k);
    return fmi_later(p + (uintptr_t)(row * stride + k0 * el), k * el, stride, rows);
}

/* What run_unit reads after this part of a block: R, and where it is a group's last one, the next one's P. */
static void next_rows(const problem *q, int64_t row, int rows, int64_t k0, int64_t kb, int64_t k,
                      int64_t k_block, fmi_gemm_later out[2])
{
    int64_t left = k - kb, next = row + q->block, below = q->n_r - next, kn = k < k_block ? k : k_block;
    if (left > 0) {
        out[0] = later_part(&q->r, row, rows, k0 + kb, left < k_block ? left : k_block);
        return;
    }
    bool end = below <= 0 && q->next_p.p;
    out[0] = later_part(&q->r, next, end || below > q->block ? q->block : below, k0, kn);
    if (!end) return;
    out[1] = later_part(&q->next_p, 0, q->n_p, 0, q->k);
    out[0].then = &out[1];
}

/* C, where mul can add a panel's results to it. */
static float *add_to(const fmi_gemm_dst *c, bool whole)
{
    return whole && c->add && !c->transposed && !c->bf16 ? (float *)(void *)c->c : NULL;
}

/* One unit over one piece k0 .. k0+k-1; dst: where the unit's first output goes. begins, ends: the
 * chain starts and is complete here. */
static void run_unit(worker *w, const problem *q, const fmi_gemm_dst *dst, int64_t group,
                     int64_t block, int64_t k0, int64_t k, bool begins, bool ends)
{
    const fmi_gemm_kern *kern = w->d->kern;
    int64_t row = block * q->block, p0 = group * q->group_rows;
    int64_t p1 = p0 + q->group_rows < q->n_p ? p0 + q->group_rows : q->n_p;
    int rows = (int)(q->n_r - row < q->block ? q->n_r - row : q->block);
    int64_t diagonal = round_up(row + rows, kern->panel);
    if (q->lower && p1 > diagonal) p1 = diagonal;
    if (p1 <= p0) return;
    size_t bytes = (size_t)round_up(k, kern->k_round) * (size_t)(kern->panel * kern->packed_bytes);
    bool whole = begins && ends && k <= kern->k_block;
    bool plain = !dst->bf16 && !dst->add && !dst->transposed && (rows == q->block || !kern->tiles);
    int64_t kb = 0;
    do {
        int64_t kn = k - kb < kern->k_block ? k - kb : kern->k_block;
        bool load = !begins || kb > 0, last = ends && kb + kn >= k;
        fmi_gemm_rows r;
        kern->prepare(&r, w->rows, &q->r, row, rows, k0 + kb, kn);
        const char *panel = w->panels + (size_t)kb * (size_t)(kern->panel * kern->packed_bytes);
        int64_t n_panels = (p1 - p0 + kern->panel - 1) / kern->panel;
        r.ahead_rows = (int)((32 + n_panels - 1) / n_panels);
        r.touch_bytes = dst->ldc * (dst->bf16 ? 2 : 4);
        fmi_gemm_later later[2];
        if (!kern->tiles) {
            next_rows(q, row, rows, k0, kb + kn, k, kern->k_block, later);
            r.later = later;
            r.later_lines = (int)fmi_ceil_div(fmi_later_lines(later), n_panels);
            r.out_ld = dst->ldc;
        }
        for (int64_t p = p0; p < p1; p += kern->panel, panel += bytes) {
            int cols = (int)(p1 - p < kern->panel ? p1 - p : kern->panel);
            fmi_gemm_dst c = dst_at(dst, 0, p - p0);
            bool more = p + kern->panel < p1;
            if (last && more) r.touch = dst_at(dst, 0, p - p0 + kern->panel).c;
            else if (last) r.touch = dst_at(dst, q->block, 0).c;
            if (!kern->tiles && last) r.out = add_to(&c, cols == kern->panel && k > 0);
            if (r.out) {
                kern->mul(&r, panel, cols, w->acc + (p - p0), ACC_LD, load);
            } else if (whole && plain && cols == kern->panel) {
                kern->mul(&r, panel, cols, (float *)(void *)c.c, c.ldc, load);
            } else if (whole) {
                float *tile = w->tile[w->turn];
                kern->mul(&r, panel, cols, tile, FMI_GEMM_PANEL_MAX, load);
                flush(w);
                w->wait = (pending){ tile, rows, cols, c };
                w->turn ^= 1;
            } else {
                kern->mul(&r, panel, cols, w->acc + (p - p0), ACC_LD, load);
                if (last) kern->store(w->acc + (p - p0), ACC_LD, rows, cols, &c);
            }
            if (r.ahead) r.ahead += r.ahead_rows * r.ahead_bytes;
        }
        kb += kn;
    } while (kb < k);
}

/* One unit over one piece of a long chain that goes on from C (load) and stays there. */
static void run_step(worker *w, const problem *q, const fmi_gemm_dst *dst, int64_t u, int64_t k0, int64_t k,
                     bool load)
{
    const fmi_gemm_kern *kern = w->d->kern;
    int64_t row = u % q->n_blocks * q->block, p0 = u / q->n_blocks * q->group_rows;
    int64_t p1 = p0 + q->group_rows < q->n_p ? p0 + q->group_rows : q->n_p;
    int rows = (int)(q->n_r - row < q->block ? q->n_r - row : q->block);
    size_t bytes = (size_t)round_up(k, kern->k_round) * (size_t)(kern->panel * kern->packed_bytes);
    const char *panel = w->panels;
    fmi_gemm_rows r;
    kern->prepare(&r, w->rows, &q->r, row, rows, k0, k);
    int64_t next = row + q->block, below = q->n_r - next;
    fmi_gemm_later later = later_part(&q->r, next, below < q->block ? below : q->block, k0, k);
    if (!kern->tiles) {
        r.later = &later;
        r.later_lines = (int)fmi_ceil_div(fmi_later_lines(&later) * kern->panel, p1 - p0);
    }
    for (int64_t p = p0; p < p1; p += kern->panel, panel += bytes) {
        int cols = (int)(p1 - p < kern->panel ? p1 - p : kern->panel);
        fmi_gemm_dst c = dst_at(dst, 0, p - p0);
        float *at = (float *)(void *)c.c, *tile = w->tile[0];
        if (rows == q->block && cols == kern->panel) {
            kern->mul(&r, panel, cols, at, c.ldc, load);
            continue;
        }
        for (int i = 0; i < rows && load; i++)
            memcpy(tile + i * FMI_GEMM_PANEL_MAX, at + i * c.ldc, (size_t)cols * sizeof *at);
        kern->mul(&r, panel, cols, tile, FMI_GEMM_PANEL_MAX, load);
        kern->store(tile, FMI_GEMM_PANEL_MAX, rows, cols, &c);
    }
}

static fmi_gemm_dst unit_dst(const problem *q, const fmi_gemm_dst *dst, int64_t u)
{
    return dst_at(dst, u % q->n_blocks * q->block, u / q->n_blocks * q->group_rows);
}

#define SPAN_FLOATS (2 * FMI_GEMM_BLOCK_MAX * ACC_LD) /* acc and sum as one               */
#define SPAN_K 128                                    /* of a piece; kern->k_block or less */

/* Some blocks of R, a group and a chunk: all of them go through SPAN_K of the chunk before the next SPAN_K,
 * so that these rows of both operands are read once, in the order of memory, and wait in L2. */
typedef struct span {
    const problem *q;
    int64_t group, b0, b1;   /* blocks of R                        */
    int64_t k0, k;           /* the chunk                          */
    int64_t p0, cols, ld;    /* columns of the group; acc's rows   */
    bool pack;               /* P is not yet packed for this chunk */
    bool keep;               /* nor is this span the last to use it */
} span;

/* Where P's piece at kb lies packed: pieces one after the other, or one in place of the other. */
static char *packed_piece(const worker *w, const span *s, int64_t kb)
{
    const fmi_gemm_kern *kern = w->d->kern;
    if (s->pack && !s->keep) return w->panels;
    return w->panels + kb * round_up(s->cols, kern->panel) * kern->packed_bytes;
}

/* What is read after piece kb: more of the chunk, or rows that follow. */
static void next_piece(const span *s, int64_t kb, int64_t kn, fmi_gemm_later out[2])
{
    const problem *q = s->q;
    int64_t t = s->k0 + kb + kn, n = q->follows ? SPAN_K : q->k - t;
    if (kb + kn < s->k) n = s->k - kb - kn;
    if (n > SPAN_K) n = SPAN_K;
    int64_t r0 = s->b0 * q->block, r1 = s->b1 * q->block < q->n_r ? s->b1 * q->block : q->n_r;
    out[0] = later_part(&q->r, r0, r1 - r0, t, n);
    out[1] = later_part(&q->p, s->p0, s->pack || kb + kn >= s->k ? s->cols : 0, t, n);
    out[0].then = &out[1];
}

static void span_piece(worker *w, const span *s, const fmi_gemm_dst *dst, int64_t kb, int64_t kn)
{
    const problem *q = s->q;
    const fmi_gemm_kern *kern = w->d->kern;
    int64_t n_panels = (s->cols + kern->panel - 1) / kern->panel;
    size_t bytes = (size_t)round_up(kn, kern->k_round) * (size_t)(kern->panel * kern->packed_bytes);
    bool last = kb + kn == s->k;
    fmi_gemm_later later[2];
    next_piece(s, kb, kn, later);
    int64_t muls = (s->b1 - s->b0) * n_panels;
    int each = (int)fmi_ceil_div(fmi_later_lines(later), muls);
    for (int64_t b = s->b0; b < s->b1; b++) {
        int64_t row = b * q->block;
        int rows = (int)(q->n_r - row < q->block ? q->n_r - row : q->block);
        const char *panel = packed_piece(w, s, kb);
        float *acc = w->acc + (row - s->b0 * q->block) * s->ld;
        fmi_gemm_rows r;
        kern->prepare(&r, w->rows, &q->r, row, rows, s->k0 + kb, kn);
        r.touch_bytes = dst->ldc * 4;
        r.out_ld = dst->ldc;
        r.later = later;
        r.later_lines = each;
        for (int64_t p = 0; p < s->cols; p += kern->panel, panel += bytes) {
            int cols = (int)(s->cols - p < kern->panel ? s->cols - p : kern->panel);
            fmi_gemm_dst c = dst_at(dst, row, s->p0 + p);
            bool more = p + kern->panel < s->cols;
            if (last)
                r.touch =
                    dst_at(dst, more ? row : row + q->block, more ? s->p0 + p + kern->panel : s->p0)
                        .c;
            r.out = last ? add_to(&c, cols == kern->panel && kn > 0) : NULL;
            kern->mul(&r, panel, cols, acc + p, s->ld, kb > 0);
            if (last && !r.out) kern->store(acc + p, s->ld, rows, cols, &c);
        }
    }
}

/* Units u0 .. u1-1 of a product over tokens, C in f32, on vectors. */
static void run_spans(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    bool stays = q->n_pieces == 1 && !w->d->a->offsets; /* P, for the shares to come */
    for (int64_t i = 0; i < q->n_pieces; i++) {
        span s = { .q = q, .k0 = i * q->piece, .pack = true };
        s.k = q->k - s.k0 < q->piece ? q->k - s.k0 : q->piece;
        fmi_gemm_dst dst = q->dst;
        dst.add = dst.add || i > 0;
        int64_t done;
        for (int64_t u = u0; u < u1; u += done) {
            int64_t group = u / q->n_blocks, left = (group + 1) * q->n_blocks - u;
            s.pack = (u == u0 || group != s.group) && !(stays && group == w->packed);
            s.group = group;
            s.p0 = group * q->group_rows;
            s.cols = q->n_p - s.p0 < q->group_rows ? q->n_p - s.p0 : q->group_rows;
            s.ld = round_up(s.cols, w->d->kern->panel) + 16;
            done = SPAN_FLOATS / (s.ld * q->block);
            if (done > left) done = left;
            if (done > u1 - u) done = u1 - u;
            s.keep = stays || (done < left && u + done < u1);
            w->packed = stays ? group : -1;
            s.b0 = u % q->n_blocks;
            s.b1 = s.b0 + done;
            int64_t kb = 0;
            do {
                int64_t kn = s.k - kb < SPAN_K ? s.k - kb : SPAN_K;
                if (s.pack) pack_group(w, packed_piece(w, &s, kb), q, group, s.k0 + kb, kn);
                span_piece(w, &s, &dst, kb, kn);
                kb += kn;
            } while (kb < s.k);
        }
    }
}

/* Units u0 .. u1-1, piece by piece: each group is packed once a piece. */
static void run_by_piece(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    for (int64_t i = 0; i < q->n_pieces; i++) {
        int64_t k0 = i * q->piece, k = q->k - k0 < q->piece ? q->k - k0 : q->piece;
        int64_t packed = q->n_pieces == 1 ? w->packed : -1;
        fmi_gemm_dst dst = q->dst;
        dst.add = dst.add || i > 0;
        for (int64_t u = u0; u < u1; u++) {
            int64_t group = u / q->n_blocks;
            if (group != packed) pack_group(w, w->panels, q, group, k0, k);
            packed = group;
            fmi_gemm_dst c = unit_dst(q, &dst, u);
            run_unit(w, q, &c, group, u % q->n_blocks, k0, k, true, true);
        }
        w->packed = packed;
    }
    flush(w);
}

/* Units u0 .. u1-1 of a long chain, piece by piece. */
static void run_by_step(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    for (int64_t i = 0; i < q->n_pieces; i++) {
        int64_t k0 = i * q->piece, k = q->k - k0 < q->piece ? q->k - k0 : q->piece, packed = -1;
        for (int64_t u = u0; u < u1; u++) {
            fmi_gemm_dst dst = unit_dst(q, &q->dst, u);
            if (u / q->n_blocks != packed) pack_group(w, w->panels, q, u / q->n_blocks, k0, k);
            packed = u / q->n_blocks;
            run_step(w, q, &dst, u, k0, k, i > 0);
        }
    }
}

/* One chain longer than the scratch holds packed: each unit walks all pieces by itself. */
static void run_by_unit(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    for (int64_t u = u0; u < u1; u++) {
        fmi_gemm_dst dst = unit_dst(q, &q->dst, u);
        for (int64_t i = 0; i < q->n_pieces; i++) {
            int64_t k0 = i * q->piece, k = q->k - k0 < q->piece ? q->k - k0 : q->piece;
            pack_group(w, w->panels, q, u / q->n_blocks, k0, k);
            run_unit(w, q, &dst, u / q->n_blocks, u % q->n_blocks, k0, k, i == 0,
                     i == q->n_pieces - 1);
        }
    }
}

/* Copies the unit's part of a bf16 C into w->sum. */
static void load_sum(const worker *w, const fmi_gemm_dst *c, int rows, int64_t cols)
{
    const fm_bf16 *from = (const fm_bf16 *)(const void *)c->c;
    for (int r = 0; r < rows; r++)
        for (int64_t p = 0; p < cols; p++)
            w->sum[r * ACC_LD + p] =
                fmi_bf16_to_f32(from[c->transposed ? p * c->ldc + r : r * c->ldc + p]);
}

/* Chunks of a bf16 C: summed in f32, rounded once. */
static void run_chunks_bf16(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    const fmi_gemm_kern *kern = w->d->kern;
    for (int64_t u = u0; u < u1; u++) {
        int64_t group = u / q->n_blocks, block = u % q->n_blocks;
        int64_t left = q->n_p - group * q->group_rows, below = q->n_r - block * q->block;
        int64_t cols = left < q->group_rows ? left : q->group_rows;
        int rows = (int)(below < q->block ? below : q->block);
        fmi_gemm_dst c = unit_dst(q, &q->dst, u);
        fmi_gemm_dst sum = { (char *)w->sum, ACC_LD, false, c.add, false };
        if (c.add) load_sum(w, &c, rows, cols);
        c.add = false;
        for (int64_t i = 0; i < q->n_pieces; i++, sum.add = true) {
            int64_t k0 = i * q->piece, k = q->k - k0 < q->piece ? q->k - k0 : q->piece;
            pack_group(w, w->panels, q, group, k0, k);
            run_unit(w, q, &sum, group, block, k0, k, true, true);
            flush(w);
        }
        for (int64_t p = 0; p < cols; p += kern->panel) {
            fmi_gemm_dst part = dst_at(&c, 0, p);
            int n = (int)(cols - p < kern->panel ? cols - p : kern->panel);
            kern->store(w->sum + p, ACC_LD, rows, n, &part);
        }
    }
}

static void run_problem(worker *w, const problem *q, int64_t u0, int64_t u1)
{
    if (q->stepped) run_by_step(w, q, u0, u1);
    else if (q->chunked && !q->dst.bf16 && !w->d->kern->tiles) run_spans(w, q, u0, u1);
    else if (q->n_pieces == 1 || (q->chunked && !q->dst.bf16)) run_by_piece(w, q, u0, u1);
    else if (q->chunked) run_chunks_bf16(w, q, u0, u1);
    else run_by_unit(w, q, u0, u1);
}

static void drive_thread(void *arg, int tid, int n_threads)
{
    drive *d = arg;
    int64_t lo, hi, base = 0, units;
    char *s = d->ctx->scratch[tid];
    worker w = { .d = d, .panels = s, .packed = -1 };
    size_t acc_bytes = sizeof(float) * FMI_GEMM_BLOCK_MAX * ACC_LD;
    size_t tile_bytes = sizeof(float) * FMI_GEMM_BLOCK_MAX * FMI_GEMM_PANEL_MAX;
    s += PANELS_MAX;
    w.acc = (float *)(void *)s;
    w.sum = (float *)(void *)(s + acc_bytes);
    w.tile[0] = (float *)(void *)(s + 2 * acc_bytes);
    w.tile[1] = (float *)(void *)(s + 2 * acc_bytes + tile_bytes);
    w.rows = s + 2 * acc_bytes + 2 * tile_bytes;

    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | CSR_FTZ_DAZ);
    if (d->kern->tiles) fmi_tiles_configure_amx();
    problem q;
    int i = 0, planned = -1;
    while (fmi_pool_next(&d->taken, d->total_cost, d->least, n_threads, &lo, &hi))
        for (;; i++, base += units) {
            if (planned < i) plan_problem(&q, d, planned = i);
            units = q.n_units * q.unit_cost;
            int64_t u0 = q.n_units ? fmi_ceil_div(lo - base, q.unit_cost) : 0;
            int64_t u1 = q.n_units ? fmi_ceil_div(hi - base, q.unit_cost) : 0;
            if (u1 > q.n_units) u1 = q.n_units;
            if (u0 < u1) run_problem(&w, &q, u0, u1);
            if (base + units >= hi || i + 1 == d->n_problems) break;
            w.packed = -1;
        }
    if (d->kern->tiles) fmi_tiles_release_amx();
    _mm_setcsr(csr);
}

/* Shares no smaller than packing P for each is worth: all blocks of R can use a group that is
 * packed once, but where there are several, or several pieces, each share packs its own. */
static int64_t least_share(const drive *d, const problem *first)
{
    int64_t threads = d->ctx->n_threads, each = (d->total_cost + threads - 1) / threads;
    if (first->n_units == 0 || first->n_pieces > 1) return each;
    int64_t parts = first->n_units > first->n_blocks ? 4 : 16;
    return (each + parts - 1) / parts;
}

fm_status fmi_gemm_drive(const fm_kernel_ctx *ctx, const fm_gemm_args *a, const fmi_gemm_kern *kern)
{
    drive d = { .ctx = ctx, .a = a, .kern = kern };
    problem first = {0};
    d.n_problems = a->offsets ? a->groups : a->batch > 0 ? a->batch : 1;
    FM_ASSERT(PANELS_MAX + sizeof(float) * FMI_GEMM_BLOCK_MAX * 2 * (ACC_LD + FMI_GEMM_PANEL_MAX)
              + kern->rows_bytes <= ctx->scratch_bytes);
    for (int i = 0; i < d.n_problems; i++) d.n_live += !a->offsets || a->offsets[i + 1] > a->offsets[i];
    if (d.n_live == 0) d.n_live = 1;
    for (int i = 0; i < d.n_problems; i++) {
        problem q;
        plan_problem(&q, &d, i);
        d.total_cost += q.n_units * q.unit_cost;
        if (i == 0) first = q;
    }
    if (d.total_cost == 0) return FM_OK;
    d.least = least_share(&d, &first);
    bool little = d.total_cost < 1 << 15; /* less work than waking a thread */
    if (little || ctx->n_threads == 1) drive_thread(&d, 0, 1);
    else fmi_pool_run(ctx->pool, drive_thread, &d);
    for (int i = 0; i < d.n_problems && first.lower; i++)
        mirror(kern, (float *)a->c + i * a->stride_c, a->m, a->ldc);
    return FM_OK;
}
