/* What the fused gated FFNs on AMX share: the walk over blocks of 32 rows, tile steps with elementwise work
 * beside them, the activation and the store of y. Included by files compiled with avx512bf16. */
#ifndef FM_OPS_X86_FFN_WALK_H
#define FM_OPS_X86_FFN_WALK_H

#include "ops/x86/ffn_amx.h"

/* The matrices that the next group will pack, asked for a line a tile step. */
typedef struct fetch {
    const char *matrix[3];
    int64_t lines, at;           /* of a matrix; next line              */
    int m;                       /* which; 3: none left                 */
} fetch;

#define FFN_TILES 16

typedef struct work {
    fetch next;
    char *gate, *up, *down;      /* packed weights                      */
    char *in;                    /* the block's rows of x or dy         */
    char *mid[3];                /* h; or dgate, dup, two steps of h: tile layout */
    float *tile[2][FFN_TILES];   /* [turn][gate, up ..][32 * 32]        */
    v16 *dw;                     /* [32] lanes of dweight               */
    bool stream;                 /* outputs go past the caches          */
} work;

ALWAYS void put(const work *w, void *to, __m512i v)
{
    if (w->stream) _mm512_stream_si512(to, v);
    else _mm512_storeu_si512(to, v);
}

/* Threads take groups, large ones in even pieces, and call fn for each. */
typedef void (*group_fn)(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end);
typedef void (*matrices_fn)(const void *args, int g, const char *matrix[3]);
typedef size_t (*carve_fn)(work *w, char *scratch, int64_t D, int64_t M);
typedef struct walk {
    const fm_kernel_ctx *k;
    const void *args;
    group_fn fn;
    matrices_fn matrices;
    carve_fn carve;
    const int32_t *offsets;
    int64_t G, D, M;
    int groups;
    bool stream;
    int64_t most;                /* blocks of a piece, set by fmi_ffn_walk */
    fmi_pool_pieces taken;
} walk;

/* Runs s on all threads. */
void fmi_ffn_walk(walk *s);

/* Outputs of G x M bf16 and up, written whole lines at a time, are streamed where they are large. */
bool fmi_ffn_streams(int64_t G, int64_t M, const void *a, const void *b, const void *c);

ALWAYS v16 weight_of(const void *weight, const int32_t *slot, int64_t row)
{
    return weight ? v16_set1(((const float *)weight)[slot[row]]) : v16_set1(1.0f);
}

ALWAYS void fetch_line(fetch *f)
{
    if (f->m > 2) return;
    _mm_prefetch(f->matrix[f->m] + 64 * f->at, _MM_HINT_T1);
    if (++f->at < f->lines) return;
    f->at = 0;
    f->m++;
}

/* What goes on beside the products: the elementwise work on the tiles finished before (none at first). */
typedef struct side {
    const void *args;
    work *w;
    float *const *tile;          /* NULL: nothing yet                  */
    char *h;                     /* the block's h in tile layout       */
    int64_t row, at;             /* block's first row, tiles' first column */
    int n;                       /* live rows                          */
} side;
typedef void (*side_fn)(const side *x, int r0, int r1);

/* acc [32, 32] = (on: goes on over) 32 rows in tile layout by one panel; between its steps fn works
 * on its share of the 32 rows of x, part `part` of `parts`, and `lines` of the weights to come are
 * asked for. Tiles are multiplied while vectors are computed. */
ALWAYS void multiply_on(const char *rows, const char *panel, int64_t steps, float *acc, side_fn fn,
                        const side *x, int part, int parts, bool on, int lines)
{
    int r0 = FMI_FFN_ROWS * part / parts, last = FMI_FFN_ROWS * (part + 1) / parts;
    unsigned at = (unsigned)r0 << 16, each = (FMI_FFN_ROWS << 16) / ((unsigned)parts * (unsigned)steps);
    if (on) {
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
    for (int64_t s = 0; s < steps; s++, rows += STEP_BYTES, panel += STEP_BYTES) {
        step_from(rows, 64, 1024, panel, true, true, true);
        for (int i = 0; i < lines; i++) fetch_line(&x->w->next);
        if (!x->tile) continue;
        at += each;
        int r1 = s + 1 < steps ? (int)(at >> 16) : last;
        fn(x, r0, r1);
        r0 = r1;
    }
    _tile_stored(0, acc, 128);
    _tile_stored(1, acc + 16, 128);
    _tile_stored(2, acc + 512, 128);
    _tile_stored(3, acc + 528, 128);
}

ALWAYS void multiply(const char *rows, const char *panel, int64_t steps, float *acc, side_fn fn,
                     const side *x, int part, int parts)
{
    multiply_on(rows, panel, steps, acc, fn, x, part, parts, false, 1);
}

/* Gate is bf16, so its sigmoid has 65,536 possible values, computed once by v16_sigmoid. The few that
 * a layer meets stay in a near cache; an exponential and a division take four times as long. */
extern float fmi_ffn_sigmoid[1 << 16];

/* 32 bf16 values, half of them, as indices of that table. */
ALWAYS __m512i half_bits(__m512i v, int half)
{
    return _mm512_cvtepu16_epi32(half ? _mm512_extracti64x4_epi64(v, 1) : _mm512_castsi512_si256(v));
}

ALWAYS v16 sigmoid_at(__m512i bits)
{
    return _mm512_i32gather_ps(bits, fmi_ffn_sigmoid, 4);
}

ALWAYS v16 value_at(__m512i bits)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(bits, 16));
}

ALWAYS v16 gated_unit(__m512i gate, __m512i up, v16 w, int half)
{
    __m512i g = half_bits(gate, half);
    return v16_mul(w, v16_mul(v16_mul(value_at(g), sigmoid_at(g)), value_at(half_bits(up, half))));
}

/* Rows r0 .. r1-1 of columns j .. j+31 of gate and up leave their tiles; h goes to tile layout. */
ALWAYS void activate(const side *x, int r0, int r1)
{
    const fm_gated_args *a = x->args;
    const work *w = x->w;
    int64_t j = x->at, at = 2 * ((x->row + r0) * a->M + j);
    char *gate = (char *)a->gate + at, *up = (char *)a->up + at;
    char *h = x->h + j / 32 * STEP_BYTES + 64 * r0;
    const float *tg = x->tile[0] + 32 * r0, *tu = x->tile[1] + 32 * r0;
    int live = r1 < x->n ? r1 : x->n, r = r0;
    for (; r < live; r++, tg += 32, tu += 32, gate += 2 * a->M, up += 2 * a->M, h += 64) {
        v16 wr = weight_of(a->weight, a->row_slot, x->row + r);
        __m512i g = FFN_ROUND(v16_load(tg), v16_load(tg + 16)),
                u = FFN_ROUND(v16_load(tu), v16_load(tu + 16));
        put(w, gate, g);
        put(w, up, u);
        v16 h0 = gated_unit(g, u, wr, 0), h1 = gated_unit(g, u, wr, 1);
        _mm512_store_si512(h, FFN_ROUND(h0, h1));
    }
    for (; r < r1; r++, h += 64) _mm512_store_si512(h, _mm512_setzero_si512());
}

/* Columns p .. p+31 of y leave their tile, on top of base. */
ALWAYS void store_y(const side *x, int r0, int r1)
{
    const fm_gated_args *a = x->args;
    int64_t at = (x->row + r0) * a->D + x->at;
    if (a->dty == FM_DTYPE_BF16) {
        for (int r = r0; r < r1 && r < x->n; r++, at += a->D)
            put(x->w, (fm_bf16 *)a->y + at,
                FFN_ROUND(v16_load(x->tile[0] + 32 * r), v16_load(x->tile[0] + 32 * r + 16)));
        return;
    }
    for (int r = r0; r < r1 && r < x->n; r++, at += a->D)
        for (int c = 0; c < 32; c += 16) {
            v16 v = v16_load(x->tile[0] + 32 * r + c);
            if (a->base) v = v16_add(v16_load((const float *)a->base + at + c), v);
            put(x->w, (float *)a->y + at + c, v16_bits(v));
        }
}

/* The forward pass of groups whose weights do not stay in L2; false where the shape does not fit. */
bool fmi_gated_large_amx(const fm_kernel_ctx *k, const fm_gated_args *a);

#endif
