/* The gated FFN in one pass over its rows, on AMX tiles; the bits are those of ops/composite.c.
 *
 * A block is 32 rows. Its input is gathered once into tile layout and stays in L1; gate and up come out 32
 * columns at a time and go through the activation while the next products run; the hidden row never leaves
 * L1. The weights of a group are packed once a thread and stay in L2. Backward: the same walk for dh,
 * dgate, dup and dx; weight gradients follow in ffn_dw_amx.c. Shapes that do not fit (odd sizes, weights
 * larger than the scratch, few rows) go to the composite. docs/kernels/ffn.md. */
#pragma GCC target("avx512bf16")
#include "ops/x86/ffn_amx.h"

#include "ops/ref/ref.h"
#include "ops/x86/x86.h"

#define ROWS_MIN 48 /* rows of a group below which packing its weights does not pay */

typedef struct work {
    char *gate, *up, *down;      /* packed weights                      */
    char *in;                    /* the block's rows of x or dy         */
    char *mid[2];                /* h; or dgate, dup, in tile layout    */
    float *tile[2][2];           /* [turn][gate, up][32 * 32]           */
    v16 *dw;                     /* [32] lanes of dweight               */
} work;

static size_t carve(work *w, char *scratch, int64_t D, int64_t M)
{
    fmi_ffn_carve c = {scratch, 0};
    w->gate = ffn_take(&c, ffn_packed(M, D));
    w->up = ffn_take(&c, ffn_packed(M, D));
    w->down = ffn_take(&c, ffn_packed(M, D));
    w->in = ffn_take(&c, ffn_packed(FMI_FFN_ROWS, D));
    for (int i = 0; i < 2; i++) w->mid[i] = ffn_take(&c, ffn_packed(FMI_FFN_ROWS, M));
    for (int i = 0; i < 4; i++) w->tile[i / 2][i % 2] = ffn_take(&c, 4096);
    w->dw = ffn_take(&c, 64 * FMI_FFN_ROWS);
    return c.used;
}

static bool fits(const fm_kernel_ctx *k, fm_dtype dt, int64_t G, int64_t D, int64_t M, int groups)
{
    work w;
    return dt == FM_DTYPE_BF16 && D % 32 == 0 && M % 32 == 0 && D > 0 && M > 0
        && G >= ROWS_MIN * (int64_t)(groups > 0 ? groups : 1) && carve(&w, NULL, D, M) <= k->scratch_bytes
        && __builtin_cpu_supports("avx512bf16");
}

/* Blocks [lo, hi) of all groups are this thread's; calls fn once a group that it has a part of. */
typedef void (*group_fn)(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end);
typedef struct walk {
    const fm_kernel_ctx *k;
    const void *args;
    group_fn fn;
    const int32_t *offsets;
    int64_t G, D, M;
    int groups;
} walk;

static void walk_thread(void *arg, int tid, int n_threads)
{
    const walk *s = arg;
    int groups = s->groups > 0 ? s->groups : 1;
    int64_t total = 0, first = 0, begin, end;
    for (int g = 0; g < groups; g++) {
        ffn_group(s->offsets, s->G, g, &begin, &end);
        total += ffn_blocks(end - begin);
    }
    int64_t lo = total * tid / n_threads, hi = total * (tid + 1) / n_threads;
    if (lo >= hi) return;
    work w;
    carve(&w, s->k->scratch[tid], s->D, s->M);
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fmi_tiles_configure_amx();
    for (int g = 0; g < groups && first < hi; g++) {
        ffn_group(s->offsets, s->G, g, &begin, &end);
        int64_t n = ffn_blocks(end - begin), b0 = lo > first ? lo - first : 0;
        int64_t b1 = hi - first < n ? hi - first : n;
        if (b0 < b1) {
            int64_t stop = begin + b1 * FMI_FFN_ROWS;
            s->fn(s->args, &w, g, begin + b0 * FMI_FFN_ROWS, stop < end ? stop : end, end);
        }
        first += n;
    }
    fmi_tiles_release_amx();
    _mm_setcsr(csr);
}

static inline v16 weight_of(const void *weight, const int32_t *slot, int64_t row)
{
    return weight ? v16_set1(((const float *)weight)[slot[row]]) : v16_set1(1.0f);
}

static inline v16 gated_unit(v16 g, v16 u, v16 w)
{
    return v16_mul(w, v16_mul(v16_mul(g, v16_sigmoid(g)), u));
}

/* Columns j .. j+31 of gate and up leave their tiles; h goes to tile layout. */
static void activate(const fm_gated_args *a, const work *w, float *const tile[2], int64_t row, int n, int64_t j)
{
    char *gate = (char *)a->gate + 2 * (row * a->M + j), *up = (char *)a->up + 2 * (row * a->M + j);
    char *h = w->mid[0] + j / 32 * STEP_BYTES;
    const float *tg = tile[0], *tu = tile[1];
    for (int r = 0; r < n; r++, tg += 32, tu += 32, gate += 2 * a->M, up += 2 * a->M, h += 64) {
        v16 wr = weight_of(a->weight, a->row_slot, row + r);
        __m512i g = FFN_ROUND(v16_load(tg), v16_load(tg + 16)), u = FFN_ROUND(v16_load(tu), v16_load(tu + 16));
        _mm512_storeu_si512(gate, g);
        _mm512_storeu_si512(up, u);
        v16 h0 = gated_unit(ffn_low(g), ffn_low(u), wr), h1 = gated_unit(ffn_high(g), ffn_high(u), wr);
        _mm512_store_si512(h, FFN_ROUND(h0, h1));
    }
    for (int r = n; r < FMI_FFN_ROWS; r++, h += 64) _mm512_store_si512(h, _mm512_setzero_si512());
}

/* y rows gain nothing or base; without base whole blocks are stored by the tiles themselves. */
static void down_block(const fm_gated_args *a, work *w, int64_t row, int n)
{
    int64_t steps = a->M / 32, panel = ffn_packed(32, a->M);
    float *y = (float *)a->y + row * a->D;
    const float *base = a->base ? (const float *)a->base + row * a->D : NULL;
    for (int64_t p = 0; p < a->D; p += 32) {
        const char *b = w->down + p / 32 * panel;
        if (!base && n == FMI_FFN_ROWS) {
            ffn_block(w->mid[0], b, steps, y + p, a->D);
            continue;
        }
        float *t = w->tile[p / 32 & 1][0];
        ffn_block(w->mid[0], b, steps, t, 32);
        for (int r = 0; r < n; r++)
            for (int c = 0; c < 32; c += 16) {
                v16 v = v16_load(t + 32 * r + c);
                if (base) v = v16_add(v16_load(base + r * a->D + p + c), v);
                v16_store(y + r * a->D + p + c, v);
            }
    }
}

static void gated_group(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end)
{
    const fm_gated_args *a = args;
    int64_t steps = a->D / 32, panel = ffn_packed(32, a->D);
    ffn_pack_rows(w->gate, ffn_matrix(a->w_gate, a->groups, g), a->M, a->D);
    ffn_pack_rows(w->up, ffn_matrix(a->w_up, a->groups, g), a->M, a->D);
    if (a->y) ffn_pack_rows(w->down, ffn_matrix(a->w_down, a->groups, g), a->D, a->M);
    for (; row < end; row += FMI_FFN_ROWS) {
        int n = (int)(group_end - row < FMI_FFN_ROWS ? group_end - row : FMI_FFN_ROWS), turn = 0;
        ffn_rows(w->in, a->x, a->row_token, row, n, group_end, a->D);
        for (int64_t j = 0; j < a->M; j += 32, turn ^= 1) {
            ffn_block(w->in, w->gate + j / 32 * panel, steps, w->tile[turn][0], 32);
            ffn_block(w->in, w->up + j / 32 * panel, steps, w->tile[turn][1], 32);
            if (j) activate(a, w, w->tile[turn ^ 1], row, n, j - 32);
        }
        activate(a, w, w->tile[turn ^ 1], row, n, a->M - 32);
        if (a->y) down_block(a, w, row, n);
    }
}

static fm_status gated(const fm_kernel_ctx *k, const fm_gated_args *a)
{
    if (!fits(k, a->dt, a->G, a->D, a->M, a->groups)) return ref_gated(k, a);
    walk s = {k, a, gated_group, a->offsets, a->G, a->D, a->M, a->groups};
    fmi_pool_run(k->pool, walk_thread, &s);
    return FM_OK;
}

/* Columns j .. j+31 of dh leave their tile: dgate, dup and h are written, the first two to tile layout too. */
static void activate_bwd(const fm_gated_bwd_args *a, const work *w, const float *t, int64_t row, int n,
                         int64_t j)
{
    int64_t at = 2 * (row * a->M + j), ld = 2 * a->M;
    char *tg = w->mid[0] + j / 32 * STEP_BYTES, *tu = w->mid[1] + j / 32 * STEP_BYTES;
    for (int r = 0; r < n; r++, t += 32, at += ld) {
        v16 wr = weight_of(a->weight, a->row_slot, row + r), lanes = w->dw[r], one = v16_set1(1.0f);
        __m512i dh = FFN_ROUND(v16_load(t), v16_load(t + 16));
        __m512i gate = _mm512_loadu_si512((const char *)a->gate + at);
        __m512i up = _mm512_loadu_si512((const char *)a->up + at);
        v16 dg[2], du[2], h[2];
        for (int i = 0; i < 2; i++) {
            v16 d = i ? ffn_high(dh) : ffn_low(dh), g = i ? ffn_high(gate) : ffn_low(gate);
            v16 u = i ? ffn_high(up) : ffn_low(up), sig = v16_sigmoid(g), silu = v16_mul(g, sig);
            v16 both = v16_mul(silu, u), wd = v16_mul(wr, d);
            h[i] = v16_mul(wr, both);
            dg[i] = v16_mul(v16_mul(wd, u), v16_fma(silu, v16_sub(one, sig), sig));
            du[i] = v16_mul(wd, silu);
            lanes = v16_fma(d, both, lanes);
        }
        w->dw[r] = lanes;
        __m512i g = FFN_ROUND(dg[0], dg[1]), u = FFN_ROUND(du[0], du[1]);
        _mm512_storeu_si512((char *)a->h + at, FFN_ROUND(h[0], h[1]));
        _mm512_storeu_si512((char *)a->dgate + at, g);
        _mm512_storeu_si512((char *)a->dup + at, u);
        _mm512_store_si512(tg + 64 * r, g);
        _mm512_store_si512(tu + 64 * r, u);
    }
    for (int r = n; r < FMI_FFN_ROWS; r++) {
        _mm512_store_si512(tg + 64 * r, _mm512_setzero_si512());
        _mm512_store_si512(tu + 64 * r, _mm512_setzero_si512());
    }
}

/* dx = the sum of two finished products. */
static void store_dx(const fm_gated_bwd_args *a, float *const tile[2], int64_t row, int n, int64_t p)
{
    float *dx = (float *)a->dx + row * a->D + p;
    for (int r = 0; r < n; r++, dx += a->D)
        for (int c = 0; c < 32; c += 16)
            v16_store(dx + c, v16_add(v16_load(tile[0] + 32 * r + c), v16_load(tile[1] + 32 * r + c)));
}

static void bwd_block(const fm_gated_bwd_args *a, work *w, int64_t row, int n, int64_t group_end)
{
    int64_t D = a->D, M = a->M;
    int turn = 0;
    for (int r = 0; r < n; r++) w->dw[r] = v16_zero();
    ffn_rows(w->in, a->dy, a->row_token, row, n, group_end, D);
    for (int64_t j = 0; j < M; j += 32, turn ^= 1) {
        ffn_block(w->in, w->down + 2 * j * D, D / 32, w->tile[turn][0], 32);
        if (j) activate_bwd(a, w, w->tile[turn ^ 1][0], row, n, j - 32);
    }
    activate_bwd(a, w, w->tile[turn ^ 1][0], row, n, M - 32);
    if (a->dweight && a->row_slot)
        for (int r = 0; r < n; r++) ((float *)a->dweight)[a->row_slot[row + r]] = v16_sum(w->dw[r]);
    for (int64_t p = 0; p < D; p += 32, turn ^= 1) {
        ffn_block(w->mid[0], w->gate + 2 * p * M, M / 32, w->tile[turn][0], 32);
        ffn_block(w->mid[1], w->up + 2 * p * M, M / 32, w->tile[turn][1], 32);
        if (p) store_dx(a, w->tile[turn ^ 1], row, n, p - 32);
    }
    store_dx(a, w->tile[turn ^ 1], row, n, D - 32);
}

static void bwd_group(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end)
{
    const fm_gated_bwd_args *a = args;
    ffn_pack_cols(w->down, ffn_matrix(a->w_down, a->groups, g), a->D, a->M);
    ffn_pack_cols(w->gate, ffn_matrix(a->w_gate, a->groups, g), a->M, a->D);
    ffn_pack_cols(w->up, ffn_matrix(a->w_up, a->groups, g), a->M, a->D);
    for (; row < end; row += FMI_FFN_ROWS) {
        int64_t left = group_end - row;
        bwd_block(a, w, row, (int)(left < FMI_FFN_ROWS ? left : FMI_FFN_ROWS), group_end);
    }
}

static fm_status gated_bwd(const fm_kernel_ctx *k, const fm_gated_bwd_args *a)
{
    if (!fits(k, a->dt, a->G, a->D, a->M, a->groups)) return ref_gated_bwd(k, a);
    walk s = {k, a, bwd_group, a->offsets, a->G, a->D, a->M, a->groups};
    fmi_pool_run(k->pool, walk_thread, &s);
    return fmi_ffn_dw_amx(k, a);
}

void fmi_ffn_init_amx(fm_ops *ops)
{
    ops->gated = gated;
    ops->gated_bwd = gated_bwd;
}
