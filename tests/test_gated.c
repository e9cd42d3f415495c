/* The gated FFN, whole: fused versions against the composite of reference operators, bit for bit; routed rows
 * in groups of all sizes (empty ones too), single matrices, odd shapes that fall back. */
#include "kernel_harness.h"

typedef struct shape {
    int64_t T, D, M;
    int groups, K;     /* groups 0: one matrix, no routing */
} shape;

/* D and M off the tile sizes; the sizes of nano and micro; more rows than a chunk of 1,024; groups
 * of some dozens of rows, also with weights larger than L2 keeps; such weights with more rows, in
 * one and two lots. */
static const shape shapes[] = {{70, 64, 40, 4, 2},    {33, 32, 32, 0, 0},   {200, 64, 96, 3, 2},
                               {130, 256, 128, 2, 2}, {97, 256, 704, 0, 0}, {1100, 64, 32, 2, 2},
                               {1200, 32, 64, 0, 0},  {100, 64, 96, 4, 1},   {90, 640, 448, 2, 2},
                               {120, 96, 48, 4, 2},   {150, 704, 416, 2, 1},
                               {270, 704, 416, 2, 1}, {264, 2944, 96, 0, 0}, {5, 64, 48, 4, 2},
                               {1, 256, 704, 0, 0},   {3, 256, 130, 0, 0}};

typedef struct routed {
    int32_t *offsets, *row_token, *row_slot;
    int64_t G;
} routed;

static int32_t *ints(kh *h, int64_t n)
{
    return kh_array_new(h, n, sizeof(int32_t), false);
}

/* Rows of T tokens with K choices each in groups of uneven size, the second one empty. */
static routed route(kh *h, const shape *s)
{
    routed r = {.G = s->T};
    if (s->groups == 0) return r;
    r.G = s->T * s->K;
    r.offsets = ints(h, s->groups + 1);
    r.row_token = ints(h, r.G);
    r.row_slot = ints(h, r.G);
    r.offsets[0] = 0;
    for (int g = 1; g < s->groups; g++)
        r.offsets[g] = r.offsets[g - 1] + (g == 2 ? 0 : kh_below(h, (int)r.G / s->groups) + 1);
    r.offsets[s->groups] = (int32_t)r.G;
    for (int64_t i = 0; i < r.G; i++) r.row_slot[i] = (int32_t)(r.G - 1 - i);
    for (int64_t i = 0; i < r.G; i++) r.row_token[i] = r.row_slot[i] / s->K;
    return r;
}

/* Matrices of [rows, cols], one or a table of them. */
static void *matrices(kh *h, int groups, int64_t n, fm_dtype dt, bool out, void **table)
{
    float range = out ? 1 : 0.2f;
    if (groups == 0) return kh_values(h, n, dt, range, out);
    char *all = kh_values(h, n * groups, dt, range, out);
    for (int g = 0; g < groups; g++) table[g] = all + (size_t)g * (size_t)n * fm_dtype_bytes(dt);
    return table;
}

static void check_forward(kh *h, const shape *s, fm_dtype dt, int variant)
{
    static void *table[3][8];
    routed r = route(h, s);
    fm_gated_args a = {.offsets = r.offsets,
                       .row_token = r.row_token,
                       .row_slot = r.row_slot,
                       .G = r.G,
                       .D = s->D,
                       .M = s->M,
                       .groups = s->groups,
                       .dt = dt};
    a.x = kh_in(h, s->T * s->D, dt, 1);
    if (r.row_slot) a.weight = kh_in(h, r.G, FM_DTYPE_F32, 2);
    a.w_gate = matrices(h, s->groups, s->M * s->D, dt, false, table[0]);
    a.w_up = matrices(h, s->groups, s->M * s->D, dt, false, table[1]);
    a.w_down = matrices(h, s->groups, s->M * s->D, dt, false, table[2]);
    a.xg = kh_scratch(h, r.G * s->D, fm_dtype_bytes(dt));
    a.h = kh_scratch(h, r.G * s->M, fm_dtype_bytes(dt));
    a.gate = kh_out(h, r.G * s->M, fm_dtype_bytes(dt));
    a.up = kh_out(h, r.G * s->M, fm_dtype_bytes(dt));
    if (variant == 1) a.base = kh_in(h, r.G * s->D, FM_DTYPE_F32, 1);
    a.dty = variant == 0 ? dt : FM_DTYPE_F32;
    if (variant < 2) a.y = kh_out(h, r.G * s->D, fm_dtype_bytes(a.dty));
    KH_CHECK(h, gated, &a);
}

static void check_backward(kh *h, const shape *s, fm_dtype dt, fm_dtype dtdx)
{
    static void *table[6][8];
    routed r = route(h, s);
    int64_t n = s->M * s->D;
    fm_gated_bwd_args a = {.offsets = r.offsets, .row_token = r.row_token, .row_slot = r.row_slot, .G = r.G,
                           .D = s->D, .M = s->M, .groups = s->groups, .dt = dt, .dtdx = dtdx};
    a.dy = kh_in(h, s->T * s->D, dt, 1);
    a.x = kh_in(h, s->T * s->D, dt, 1);
    if (r.row_slot) a.weight = kh_in(h, r.G, FM_DTYPE_F32, 2);
    a.w_gate = matrices(h, s->groups, n, dt, false, table[0]);
    a.w_up = matrices(h, s->groups, n, dt, false, table[1]);
    a.w_down = matrices(h, s->groups, n, dt, false, table[2]);
    a.g_gate = matrices(h, s->groups, n, FM_DTYPE_F32, true, table[3]);
    a.g_up = matrices(h, s->groups, n, FM_DTYPE_F32, true, table[4]);
    a.g_down = matrices(h, s->groups, n, FM_DTYPE_F32, true, table[5]);
    a.gate = kh_in(h, r.G * s->M, dt, 3);
    a.up = kh_in(h, r.G * s->M, dt, 2);
    a.xg = kh_scratch(h, r.G * s->D, fm_dtype_bytes(dt));
    a.h = kh_scratch(h, r.G * s->M, fm_dtype_bytes(dt));
    a.dh = kh_scratch(h, r.G * s->M, fm_dtype_bytes(dt));
    a.dgate = kh_scratch(h, r.G * s->M, fm_dtype_bytes(dt));
    a.dup = kh_scratch(h, r.G * s->M, fm_dtype_bytes(dt));
    a.dx = kh_out(h, r.G * s->D, fm_dtype_bytes(dtdx));
    if (r.row_slot) a.dweight = kh_out(h, r.G, 4);
    KH_CHECK(h, gated_bwd, &a);
}

static bool too_long(const shape *s)
{
    return kh_quick() && s->T * s->D * s->M > 1 << 22;
}

/* For the forward pass in bf16 alone. */
static bool large(const shape *s)
{
    return s->T * s->D * s->M > 60000000;
}

static void test_forward(void **state)
{
    kh *h = *state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int v = 0; v < 3; v++)
            for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++) {
                if (too_long(&shapes[i])) continue;
                if (large(&shapes[i]) && (dt == FM_DTYPE_F32 || v != 1)) continue;
                h->what = "gated";
                h->shift = i % 2 ? 1 : 0;
                check_forward(h, &shapes[i], (fm_dtype)dt, v);
            }
}

static void test_backward(void **state)
{
    kh *h = *state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int v = 0; v < 3; v++) {
            fm_dtype dt = v ? FM_DTYPE_BF16 : FM_DTYPE_F32, dtdx = v == 1 ? FM_DTYPE_BF16 : FM_DTYPE_F32;
            if (too_long(&shapes[i]) || large(&shapes[i])) continue;
            h->what = "gated_bwd";
            h->shift = i % 2 ? 1 : 0;
            check_backward(h, &shapes[i], dt, dtdx);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_forward), cmocka_unit_test(test_backward)};
    return cmocka_run_group_tests(tests, kh_setup, kh_teardown);
}
