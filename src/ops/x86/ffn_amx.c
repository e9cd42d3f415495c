/* The gated FFN in one pass over its rows, on AMX tiles; the bits are those of ops/composite.c.
 *
 * A block is 32 rows. Its input is gathered once into tile layout and stays in L1; gate and up come out 32
 * columns at a time and go through the activation while the next products run; the hidden row never leaves
 * L1. The weights of a group are packed once a thread; small ones stay in L2. Backward: the same walk for dh,
 * dgate, dup and dx; weight gradients follow in ffn_dw_amx.c. Shapes that do not fit (odd sizes, weights
 * larger than the scratch, few rows) go to thin.h or the composite. docs/kernels/ffn.md. */
#pragma GCC target("avx512bf16")
#include "ops/x86/ffn_walk.h"

#include <pthread.h>

#include "ops/ref/ref.h"
#include "ops/x86/thin.h"
#include "ops/x86/x86.h"

#define ROWS_MIN 48 /* rows of a group below which packing its weights does not pay */
#define ROWS_MIN_LARGE 192 /* the same, forward, of weights that do not stay in L2 */
#define WEIGHTS_MAX ((size_t)3 << 19) /* bytes of a group's weights that stay in L2 beside the rows */
#define STREAM_MIN ((int64_t)1 << 20) /* bytes of an output that will not be read from a cache */

static size_t carve(work *w, char *scratch, int64_t D, int64_t M)
{
    fmi_ffn_carve c = {scratch, 0};
    w->gate = ffn_take(&c, ffn_packed(M, D));
    w->up = ffn_take(&c, ffn_packed(M, D));
    w->down = ffn_take(&c, ffn_packed(M, D));
    w->in = ffn_take(&c, ffn_packed(FMI_FFN_ROWS, D));
    for (int i = 0; i < 2; i++) w->mid[i] = ffn_take(&c, ffn_packed(FMI_FFN_ROWS, M));
    w->mid[2] = ffn_take(&c, 2 * STEP_BYTES);
    for (int i = 0; i < 3; i++) w->tile[i / 2][i % 2] = ffn_take(&c, 4096);
    w->dw = ffn_take(&c, 64 * FMI_FFN_ROWS);
    return c.used;
}

static bool fits(const fm_kernel_ctx *k, fm_dtype dt, int64_t G, int64_t D, int64_t M, int groups,
                 int64_t rows_min)
{
    work w;
    return dt == FM_DTYPE_BF16 && D % 32 == 0 && M % 32 == 0 && D > 0 && M > 0
        && G >= rows_min * (int64_t)(groups > 0 ? groups : 1)
        && carve(&w, NULL, D, M) <= k->scratch_bytes
        && __builtin_cpu_supports("avx512bf16");
}

bool fmi_ffn_streams(int64_t G, int64_t M, const void *a, const void *b, const void *c)
{
    return 2 * G * M >= STREAM_MIN && (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c) & 63) == 0;
}

/* Blocks of a group that a thread takes at a time: weights are packed for each piece, so no fewer
 * than 32 where a thread's share is more; less if there are some groups, but too few for whole ones
 * to come out even. */
static int64_t piece_blocks(const walk *s)
{
    int groups = s->groups > 0 ? s->groups : 1, threads = s->k->n_threads;
    int64_t total = 0, begin, end;
    for (int g = 0; g < groups; g++) {
        ffn_group(s->offsets, s->G, g, &begin, &end);
        total += ffn_blocks(end - begin);
    }
    int64_t share = (total + threads - 1) / threads, half = (share + 1) / 2, least = 32;
    if (groups > 1 && groups < 4 * threads) {
        half = (half + 1) / 2;
        least = 4;
    }
    return share < least ? (share > 0 ? share : 1) : half > least ? half : least;
}

/* A piece: rows of group g, whose first piece is `first` of all. */
typedef struct place {
    int g;
    int64_t first, row, end, group_end;
} place;

/* Goes on to piece `want` of all; false past the end. */
static bool find_piece(const walk *s, place *p, int64_t want)
{
    int groups = s->groups > 0 ? s->groups : 1;
    for (; p->g < groups; p->g++) {
        int64_t begin, end;
        ffn_group(s->offsets, s->G, p->g, &begin, &end);
        int64_t n = ffn_blocks(end - begin), parts = (n + s->most - 1) / s->most, i = want - p->first;
        if (i < parts) {
            int64_t stop = begin + n * (i + 1) / parts * FMI_FFN_ROWS;
            p->row = begin + n * i / parts * FMI_FFN_ROWS;
            p->end = stop < end ? stop : end;
            p->group_end = end;
            return true;
        }
        p->first += parts;
    }
    return false;
}

static void walk_thread(void *arg, int tid, int n_threads)
{
    walk *s = arg;
    work w;
    s->carve(&w, s->k->scratch[tid], s->D, s->M);
    w.stream = s->stream;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fmi_tiles_configure_amx();
    place p = {0};
    for (int64_t want = fmi_pool_take(&s->taken); find_piece(s, &p, want); want = fmi_pool_take(&s->taken)) {
        place q = p; /* what this thread will probably take next */
        w.next = (fetch){.lines = s->D * s->M / 32, .m = 3};
        if (find_piece(s, &q, want + n_threads) && q.g != p.g) {
            s->matrices(s->args, q.g, w.next.matrix);
            w.next.m = 0;
        }
        s->fn(s->args, &w, p.g, p.row, p.end, p.group_end);
    }
    fmi_tiles_release_amx();
    _mm_sfence();
    _mm_setcsr(csr);
}

void fmi_ffn_walk(walk *s)
{
    s->most = piece_blocks(s);
    fmi_pool_run(s->k->pool, walk_thread, s);
}

float fmi_ffn_sigmoid[1 << 16];

static void fill_sigmoids(void)
{
    float x[16];
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    for (uint32_t i = 0; i < 1 << 16; i += 16) {
        for (uint32_t j = 0; j < 16; j++) x[j] = fmi_bf16_to_f32((fm_bf16){(uint16_t)(i + j)});
        v16_store(fmi_ffn_sigmoid + i, v16_sigmoid(v16_load(x)));
    }
    _mm_setcsr(csr);
}

/* Rows of columns j .. j+31 of gate: silu takes their place in the tile. */
ALWAYS void activate_gate(const side *x, int r0, int r1)
{
    const fm_gated_args *a = x->args;
    char *gate = (char *)a->gate + 2 * ((x->row + r0) * a->M + x->at);
    float *t = x->tile[0] + 32 * r0;
    for (int r = r0; r < r1 && r < x->n; r++, t += 32, gate += 2 * a->M) {
        __m512i g = FFN_ROUND(v16_load(t), v16_load(t + 16));
        put(x->w, gate, g);
        for (int i = 0; i < 2; i++) {
            __m512i bits = half_bits(g, i);
            v16_store(t + 16 * i, v16_mul(value_at(bits), sigmoid_at(bits)));
        }
    }
}

/* The same rows of up, and h from both. */
ALWAYS void activate_up(const side *x, int r0, int r1)
{
    const fm_gated_args *a = x->args;
    const float *silu = x->tile[0] + 32 * r0, *t = x->tile[1] + 32 * r0;
    char *up = (char *)a->up + 2 * ((x->row + r0) * a->M + x->at);
    char *h = x->h + x->at / 32 * STEP_BYTES + 64 * r0;
    int live = r1 < x->n ? r1 : x->n, r = r0;
    for (; r < live; r++, t += 32, silu += 32, up += 2 * a->M, h += 64) {
        v16 wr = weight_of(a->weight, a->row_slot, x->row + r), out[2];
        __m512i u = FFN_ROUND(v16_load(t), v16_load(t + 16));
        put(x->w, up, u);
        for (int i = 0; i < 2; i++)
            out[i] = v16_mul(wr, v16_mul(v16_load(silu + 16 * i), value_at(half_bits(u, i))));
        _mm512_store_si512(h, FFN_ROUND(out[0], out[1]));
    }
    for (; r < r1; r++, h += 64) _mm512_store_si512(h, _mm512_setzero_si512());
}

/* Each tile is worked on during the products that come right after its own, so that two of them do. */
static void gated_block(const fm_gated_args *a, work *w, int64_t row, int n)
{
    int64_t D = a->D, M = a->M;
    side x = {.args = a, .w = w, .h = w->mid[0], .row = row, .n = n};
    float *const *tile = w->tile[0];
    for (int64_t j = 0; j < M; j += 32) {
        multiply(w->in, w->gate + 2 * j * D, D / 32, tile[0], activate_up, &x, 0, 1);
        x.tile = tile;
        x.at = j;
        multiply(w->in, w->up + 2 * j * D, D / 32, tile[1], activate_gate, &x, 0, 1);
    }
    activate_up(&x, 0, FMI_FFN_ROWS);
    if (!a->y) return;
    x.tile = NULL;
    for (int64_t p = 0; p < D; p += 32) {
        multiply(w->mid[0], w->down + 2 * p * M, M / 32, tile[0], store_y, &x, 0, 1);
        x.tile = tile;
        x.at = p;
    }
    store_y(&x, 0, FMI_FFN_ROWS);
}

static void gated_group(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end)
{
    const fm_gated_args *a = args;
    ffn_pack_rows(w->gate, ffn_matrix(a->w_gate, a->groups, g), a->M, a->D);
    ffn_pack_rows(w->up, ffn_matrix(a->w_up, a->groups, g), a->M, a->D);
    if (a->y) ffn_pack_rows(w->down, ffn_matrix(a->w_down, a->groups, g), a->D, a->M);
    for (; row < end; row += FMI_FFN_ROWS) {
        int n = (int)(group_end - row < FMI_FFN_ROWS ? group_end - row : FMI_FFN_ROWS);
        ffn_rows(w->in, a->x, a->row_token, row, n, group_end, a->D);
        gated_block(a, w, row, n);
    }
}

static void gated_matrices(const void *args, int g, const char *matrix[3])
{
    const fm_gated_args *a = args;
    matrix[0] = ffn_matrix(a->w_gate, a->groups, g);
    matrix[1] = ffn_matrix(a->w_up, a->groups, g);
    matrix[2] = ffn_matrix(a->w_down, a->groups, g);
}

static fm_status gated(const fm_kernel_ctx *k, const fm_gated_args *a)
{
    bool large = 3 * ffn_packed(a->M, a->D) > WEIGHTS_MAX;
    int64_t rows_min = large ? ROWS_MIN_LARGE : ROWS_MIN;
    if (large && fmi_gated_large_amx(k, a)) return FM_OK;
    if (!fits(k, a->dt, a->G, a->D, a->M, a->groups, rows_min))
        return fmi_gated_thin(k, a, FM_ISA_AMX) ? FM_OK : ref_gated(k, a);
    bool stream = fmi_ffn_streams(a->G, a->M, a->gate, a->up, a->y);
    walk s = {k,    a,    gated_group, gated_matrices, carve, a->offsets, a->G,
              a->D, a->M, a->groups,   stream,         0,     {0}};
    fmi_ffn_walk(&s);
    return FM_OK;
}

#define PIECES 12 /* of what a block of 32 rows and columns hands over */

/* Columns j .. j+31 of dgate, dup and h leave for the weight gradients, pieces p0 .. p1-1 of them:
 * a whole block in the layout that they multiply (fmi_tn, in_tiles), in place of its rows; the last
 * one of a group, if not whole, as rows. */
ALWAYS void hand_over(const side *x, int64_t j, int p0, int p1)
{
    const fm_gated_bwd_args *a = x->args;
    const work *w = x->w;
    char *const to[3] = {a->dgate, a->dup, a->h};
    const char *const from[3] = {w->mid[0] + j / 32 * STEP_BYTES, w->mid[1] + j / 32 * STEP_BYTES,
                                 w->mid[2] + j / 32 % 2 * STEP_BYTES};
    if (x->n == FMI_FFN_ROWS) {
        for (int i = p0; i < p1; i++)
            rows_half(to[i / 4] + 2 * x->row * a->M + j / 32 * STEP_BYTES + i % 4 * 512,
                      from[i / 4] + i % 4 * 16, 64, w->stream);
        return;
    }
    for (int r = x->n * p0 / PIECES; r < x->n * p1 / PIECES; r++)
        for (int i = 0; i < 3; i++)
            _mm512_storeu_si512(to[i] + 2 * ((x->row + r) * a->M + j), _mm512_load_si512(from[i] + 64 * r));
}

/* Rows of columns j .. j+31 of dh leave their tile: dgate, dup and h go to tile layout. */
ALWAYS void activate_bwd(const side *x, int r0, int r1)
{
    const fm_gated_bwd_args *a = x->args;
    const work *w = x->w;
    int64_t j = x->at, at = 2 * ((x->row + r0) * a->M + j), ld = 2 * a->M;
    char *tg = w->mid[0] + j / 32 * STEP_BYTES, *tu = w->mid[1] + j / 32 * STEP_BYTES;
    char *th = w->mid[2] + j / 32 % 2 * STEP_BYTES;
    if (j) hand_over(x, j - 32, PIECES * r0 / FMI_FFN_ROWS, PIECES * r1 / FMI_FFN_ROWS);
    const float *t = x->tile[0] + 32 * r0;
    int live = r1 < x->n ? r1 : x->n, r = r0;
    for (; r < live; r++, t += 32, at += ld) {
        v16 wr = weight_of(a->weight, a->row_slot, x->row + r), lanes = w->dw[r], one = v16_set1(1.0f);
        __m512i dh = FFN_ROUND(v16_load(t), v16_load(t + 16));
        __m512i gate = _mm512_loadu_si512((const char *)a->gate + at);
        __m512i up = _mm512_loadu_si512((const char *)a->up + at);
        v16 dg[2], du[2], h[2];
        for (int i = 0; i < 2; i++) {
            __m512i bits = half_bits(gate, i);
            v16 d = value_at(half_bits(dh, i)), u = value_at(half_bits(up, i)), g = value_at(bits);
            v16 sig = sigmoid_at(bits), silu = v16_mul(g, sig);
            v16 both = v16_mul(silu, u), wd = v16_mul(wr, d);
            h[i] = v16_mul(wr, both);
            dg[i] = v16_mul(v16_mul(wd, u), v16_fma(silu, v16_sub(one, sig), sig));
            du[i] = v16_mul(wd, silu);
            lanes = v16_fma(d, both, lanes);
        }
        w->dw[r] = lanes;
        _mm512_store_si512(tg + 64 * r, FFN_ROUND(dg[0], dg[1]));
        _mm512_store_si512(tu + 64 * r, FFN_ROUND(du[0], du[1]));
        _mm512_store_si512(th + 64 * r, FFN_ROUND(h[0], h[1]));
    }
    for (; r < r1; r++)
        for (int i = 0; i < 2; i++)
            _mm512_store_si512(w->mid[i] + j / 32 * STEP_BYTES + 64 * r, _mm512_setzero_si512());
}

/* Lines of gate and up of the next 32 rows, all of them asked for over the D rows of dx's blocks. */
ALWAYS void ask_kept(const fm_gated_bwd_args *a, int64_t row, int64_t at)
{
    int64_t M = a->M, each = (2 * M + a->D - 1) / a->D;
    for (int64_t i = at * each; i < (at + 1) * each; i++) {
        const char *p = i < M ? (const char *)a->gate + 64 * i : (const char *)a->up + 64 * (i - M);
        _mm_prefetch(p + 2 * (row + FMI_FFN_ROWS) * M, _MM_HINT_T1);
    }
}

/* dx = the sum of two finished products, each rounded where dx is bf16. */
ALWAYS void store_dx(const side *x, int r0, int r1)
{
    const fm_gated_bwd_args *a = x->args;
    int64_t at = (x->row + r0) * a->D + x->at;
    for (int r = r0; r < r1 && r < x->n; r++, at += a->D) {
        const float *p = x->tile[0] + 32 * r, *q = x->tile[1] + 32 * r;
        ask_kept(a, x->row, x->at + r);
        if (a->dtdx == FM_DTYPE_BF16) {
            __m512i first = FFN_ROUND(v16_load(p), v16_load(p + 16));
            v16 lo = v16_add(value_at(half_bits(first, 0)), v16_load(q));
            v16 hi = v16_add(value_at(half_bits(first, 1)), v16_load(q + 16));
            put(x->w, (fm_bf16 *)a->dx + at, FFN_ROUND(lo, hi));
            continue;
        }
        for (int c = 0; c < 32; c += 16)
            put(x->w, (float *)a->dx + at + c, v16_bits(v16_add(v16_load(p + c), v16_load(q + c))));
    }
}

static void bwd_block(const fm_gated_bwd_args *a, work *w, int64_t row, int n)
{
    int64_t D = a->D, M = a->M;
    side x = {.args = a, .w = w, .row = row, .n = n};
    for (int r = 0; r < n; r++) w->dw[r] = v16_zero();
    for (int64_t j = 0; j < M; j += 32) {
        multiply(w->in, w->down + 2 * j * D, D / 32, w->tile[0][0], activate_bwd, &x, 0, 1);
        x.tile = w->tile[0];
        x.at = j;
    }
    activate_bwd(&x, 0, FMI_FFN_ROWS);
    if (a->dweight && a->row_slot)
        for (int r = 0; r < n; r++) ((float *)a->dweight)[a->row_slot[row + r]] = v16_sum(w->dw[r]);
    hand_over(&x, M - 32, 0, PIECES);
    x.tile = NULL;
    float *tile[3] = {w->tile[0][0], w->tile[0][1], w->tile[1][0]}, *done[2];
    for (int64_t p = 0, i = 0; p < D;
         p += 32, i = (i + 2) % 3) { /* each stored where all is taken along by then */
        float *first = tile[i], *second = tile[(i + 1) % 3];
        multiply(w->mid[0], w->gate + 2 * p * M, M / 32, first, store_dx, &x, 0, 2);
        multiply(w->mid[1], w->up + 2 * p * M, M / 32, second, store_dx, &x, 1, 2);
        done[0] = first;
        done[1] = second;
        x.tile = done;
        x.at = p;
    }
    store_dx(&x, 0, FMI_FFN_ROWS);
}

static void bwd_group(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end)
{
    const fm_gated_bwd_args *a = args;
    ffn_pack_cols(w->down, ffn_matrix(a->w_down, a->groups, g), a->D, a->M);
    ffn_pack_cols(w->gate, ffn_matrix(a->w_gate, a->groups, g), a->M, a->D);
    ffn_pack_cols(w->up, ffn_matrix(a->w_up, a->groups, g), a->M, a->D);
    for (; row < end; row += FMI_FFN_ROWS) {
        int64_t left = group_end - row;
        int n = (int)(left < FMI_FFN_ROWS ? left : FMI_FFN_ROWS);
        ffn_rows(w->in, a->dy, a->row_token, row, n, group_end, a->D);
        bwd_block(a, w, row, n);
    }
}

static void bwd_matrices(const void *args, int g, const char *matrix[3])
{
    const fm_gated_bwd_args *a = args;
    matrix[0] = ffn_matrix(a->w_down, a->groups, g);
    matrix[1] = ffn_matrix(a->w_gate, a->groups, g);
    matrix[2] = ffn_matrix(a->w_up, a->groups, g);
}

static fm_status gated_bwd(const fm_kernel_ctx *k, const fm_gated_bwd_args *a)
{
    if (!fits(k, a->dt, a->G, a->D, a->M, a->groups, ROWS_MIN)) return ref_gated_bwd(k, a);
    bool stream = fmi_ffn_streams(a->G, a->M, a->h, a->dgate, a->dup) && ((uintptr_t)a->dx & 63) == 0;
    walk s = {k, a, bwd_group, bwd_matrices, carve, a->offsets, a->G, a->D, a->M, a->groups, stream, 0, {0}};
    fmi_ffn_walk(&s);
    return fmi_ffn_dw_amx(k, a);
}

void fmi_ffn_init_amx(fm_ops *ops)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, fill_sigmoids);
    ops->gated = gated;
    ops->gated_bwd = gated_bwd;
}
