/* The gated FFN forward for groups whose weights do not stay in L2 (an expert of mini has 3 MiB),
 * on AMX tiles; the bits are those of ops/composite.c.
 *
 * Some hundred rows of a group are gathered into tile layout. The weights pass by once, in strips
 * small enough for L2: packed, multiplied by every block of 32 rows, forgotten, the next strip
 * asked for meanwhile. h of the rows waits in L2 for w_down. A block of wide rows does not stay in
 * L1, so that k goes in pieces of 512, whose sums wait in their tiles' buffers (a stored
 * accumulator does not change). docs/kernels/ffn.md. */
#pragma GCC target("avx512bf16")
#include "ops/x86/ffn_walk.h"
#include "ops/x86/x86.h"

#define PIECE 512                       /* k: 32 rows of it are 32 KiB                        */
#define STRIP_BYTES ((int64_t)1 << 18)  /* packed weights in work                             */
#define ROWS_BYTES ((int64_t)3 << 19)   /* x and h of the rows in work                        */
#define ROWS_LEAST 256                  /* rows in work below which packing does not pay      */
#define GROUP_MIN 128                   /* the same of a group, on average                    */

/* How much is in work at a time. */
typedef struct sizes {
    int64_t rows, gate_cols, down_cols;
} sizes;

static int64_t between(int64_t x, int64_t low, int64_t high)
{
    x = x / 32 * 32;
    return x < low ? low : x > high ? high : x;
}

static sizes sizes_of(int64_t D, int64_t M)
{
    int64_t pairs = FFN_TILES / 2 * 32, singles = FFN_TILES * 32;
    return (sizes){between(ROWS_BYTES / (2 * (D + M)), 32, 512),
                   between(STRIP_BYTES / (4 * D), 32, M < pairs ? M : pairs),
                   between(STRIP_BYTES / (2 * M), 32, D < singles ? D : singles)};
}

static size_t carve(work *w, char *scratch, int64_t D, int64_t M)
{
    fmi_ffn_carve c = {scratch, 0};
    sizes z = sizes_of(D, M);
    w->gate = ffn_take(&c, 2 * ffn_packed(z.gate_cols, D));
    w->down = ffn_take(&c, ffn_packed(z.down_cols, M));
    w->in = ffn_take(&c, ffn_packed(z.rows, D));
    w->mid[0] = ffn_take(&c, ffn_packed(z.rows, M));
    for (int i = 0; i < 2 * FFN_TILES; i++) w->tile[i / FFN_TILES][i % FFN_TILES] = ffn_take(&c, 4096);
    return c.used;
}

/* The rows in work: blocks of 32 from `row` on. */
typedef struct rows {
    const fm_gated_args *a;
    work *w;
    sizes z;
    side wait;                   /* finished tiles that nothing was done with yet */
    int64_t row, end;
    int blocks, turn, lines;     /* lines: of the next strip, asked for a step     */
} rows;

static void flush(rows *s, side_fn fn)
{
    if (s->wait.tile) fn(&s->wait, 0, FMI_FFN_ROWS);
    s->wait.tile = NULL;
}

/* A block's k0 .. k0+PIECE-1 by `n` panels in packed: sums in tiles. each: panels that are finished
 * together. */
ALWAYS void block_piece(rows *s, const char *in, const char *packed, int64_t k, int64_t k0, int n,
                        float *const *tiles, side done, side_fn fn, const int each)
{
    int64_t steps = (k - k0 < PIECE ? k - k0 : PIECE) / 32, cols = done.at;
    bool last = k0 + PIECE >= k;
    for (int q = 0; q < n; q += each) {
        for (int i = 0; i < each; i++)
            multiply_on(in + 64 * k0, packed + 64 * ((q + i) * k + k0), steps, tiles[q + i], fn,
                        &s->wait, i, each, k0 > 0, s->lines);
        s->wait.tile = NULL;
        if (!last) continue;
        s->wait = done;
        s->wait.at = cols + q / each * 32;
        s->wait.tile = tiles + q;
    }
}

/* All blocks by the strip in `packed`, whose first column is `at`. */
ALWAYS void strip(rows *s, const char *packed, int64_t at, int64_t k, int n, side_fn fn, const int each)
{
    const fm_gated_args *a = s->a;
    work *w = s->w;
    for (int b = 0; b < s->blocks; b++, s->turn ^= 1) {
        int64_t row = s->row + b * FMI_FFN_ROWS, left = s->end - row;
        char *h = w->mid[0] + b * 64 * a->M;
        side done = {a, w, NULL, h, row, at, (int)(left < FMI_FFN_ROWS ? left : FMI_FFN_ROWS)};
        const char *in = each == 2 ? w->in + b * 64 * a->D : h;
        for (int64_t k0 = 0; k0 < k; k0 += PIECE)
            block_piece(s, in, packed, k, k0, n, w->tile[s->turn], done, fn, each);
    }
}

/* Asks for lines of p (and q) from now on: `bytes` of each. */
static void ask(rows *s, const char *p, const char *q, int64_t bytes)
{
    s->w->next = (fetch){{NULL, q ? p : NULL, q ? q : p}, bytes / 64, 0, !p ? 3 : q ? 1 : 2};
    s->lines = (int)between(32 * (32 / s->blocks + 1), 32, 256) / 32;
}

/* The rows in work, w_gate and w_up given by their first row; next: the gate and up that come after. */
static void large_rows(rows *s, int g, const char *next_gate, const char *next_up)
{
    const fm_gated_args *a = s->a;
    work *w = s->w;
    int64_t D = a->D, M = a->M, cols = s->z.gate_cols;
    const char *gate = ffn_matrix(a->w_gate, a->groups, g), *up = ffn_matrix(a->w_up, a->groups, g);
    const char *down = a->y ? ffn_matrix(a->w_down, a->groups, g) : NULL;
    for (int64_t j = 0; j < M; j += cols) {
        int64_t n = M - j < cols ? M - j : cols, left = M - j - n, after = left < cols ? left : cols;
        for (int64_t i = 0; i < n; i += 32) {
            ffn_pack_rows(w->gate + 4 * i * D, gate + 2 * (j + i) * D, 32, D);
            ffn_pack_rows(w->gate + 4 * i * D + 64 * D, up + 2 * (j + i) * D, 32, D);
        }
        if (left) ask(s, gate + 2 * (j + n) * D, up + 2 * (j + n) * D, 2 * after * D);
        else ask(s, down, NULL, 2 * s->z.down_cols * M);
        strip(s, w->gate, j, D, (int)(n / 16), activate, 2);
    }
    flush(s, activate);
    for (int64_t p = 0; down && p < D; p += s->z.down_cols) {
        int64_t n = D - p < s->z.down_cols ? D - p : s->z.down_cols, left = D - p - n;
        ffn_pack_rows(w->down, down + 2 * p * M, n, M);
        if (left) ask(s, down + 2 * (p + n) * M, NULL, 2 * (left < n ? left : n) * M);
        else ask(s, next_gate, next_up, 2 * cols * D);
        strip(s, w->down, p, M, (int)(n / 32), store_y, 1);
    }
    flush(s, store_y);
}

static void large_group(const void *args, work *w, int g, int64_t row, int64_t end, int64_t group_end)
{
    const fm_gated_args *a = args;
    rows s = {.a = a, .w = w, .z = sizes_of(a->D, a->M), .wait = {.w = w}, .end = end};
    bool next = w->next.m == 0;
    const char *gate = next ? w->next.matrix[0] : NULL, *up = next ? w->next.matrix[1] : NULL;
    for (; row < end; row += s.z.rows) {
        int64_t n = end - row < s.z.rows ? end - row : s.z.rows;
        bool more = row + n < end;
        s.row = row;
        s.blocks = (int)ffn_blocks(n);
        for (int b = 0; b < s.blocks; b++) {
            int64_t r = row + b * FMI_FFN_ROWS, left = end - r;
            ffn_rows(w->in + b * 64 * a->D, a->x, a->row_token, r,
                     (int)(left < FMI_FFN_ROWS ? left : FMI_FFN_ROWS), group_end, a->D);
        }
        large_rows(&s, g, more ? ffn_matrix(a->w_gate, a->groups, g) : gate,
                   more ? ffn_matrix(a->w_up, a->groups, g) : up);
    }
}

static void matrices(const void *args, int g, const char *matrix[3])
{
    const fm_gated_args *a = args;
    matrix[0] = ffn_matrix(a->w_gate, a->groups, g);
    matrix[1] = ffn_matrix(a->w_up, a->groups, g);
    matrix[2] = ffn_matrix(a->w_down, a->groups, g);
}

bool fmi_gated_large_amx(const fm_kernel_ctx *k, const fm_gated_args *a)
{
    work w;
    if (a->dt != FM_DTYPE_BF16 || a->D % 32 || a->M % 32 || !a->D || !a->M ||
        a->G < GROUP_MIN * (int64_t)(a->groups > 0 ? a->groups : 1) ||
        sizes_of(a->D, a->M).rows < ROWS_LEAST || carve(&w, NULL, a->D, a->M) > k->scratch_bytes ||
        !__builtin_cpu_supports("avx512bf16"))
        return false;
    fmi_ffn_walk(&(walk){k, a, large_group, matrices, carve, a->offsets, a->G, a->D, a->M, a->groups,
                         fmi_ffn_streams(a->G, a->M, a->gate, a->up, a->y), 0, {0}});
    return true;
}
