/* Row and elementwise kernels against the reference, bit for bit, over odd and real sizes. */
#include "kernel_harness.h"

#define F32 FM_DTYPE_F32
#define BF16 FM_DTYPE_BF16

static const int widths[] = {1, 2, 15, 16, 17, 31, 64, 100, 256, 257, 1024, 7168};
#define N_WIDTHS ((int)(sizeof widths / sizeof widths[0]))
static const int heights[] = {0, 1, 3, 65};
#define N_HEIGHTS ((int)(sizeof heights / sizeof heights[0]))

/* Calls body for every (T, D, dt) with a fresh shift. */
#define EACH_SHAPE(h, T, D, dt)                                                         \
    for (int iw_ = 0; iw_ < N_WIDTHS; iw_++)                                            \
        for (int ih_ = 0; ih_ < N_HEIGHTS; ih_++)                                       \
            for (int idt_ = F32; idt_ <= BF16; idt_++)                                  \
                for (int64_t T = heights[ih_], D = widths[iw_], once_ = 1; once_; once_ = 0) \
                    for (fm_dtype dt = name_case(h, T, D, (fm_dtype)idt_); once_; once_ = 0)

static char case_name[64];

static fm_dtype name_case(kh *h, int64_t T, int64_t D, fm_dtype dt)
{
    snprintf(case_name, sizeof case_name, "T %d D %d %s", (int)T, (int)D, fm_dtype_name(dt));
    h->what = case_name;
    h->shift = (size_t)(T + D) % 4;
    return dt;
}

static void test_rmsnorm(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        for (int v = 0; v < 3; v++) {
            fm_rmsnorm_args a = {.T = T, .D = D, .ldx = D + 5, .ldy = D + 2, .eps = 1e-6, .dt = dt};
            a.x = kh_in(h, T * a.ldx, F32, 3);
            a.w = kh_in(h, D, F32, 2);
            if (v != 1) a.y = kh_out(h, T * a.ldy, fm_dtype_bytes(dt));
            if (v != 2) a.yf = kh_out(h, T * D, 4);
            if (v != 2) a.rstd = kh_out(h, T, 4);
            KH_CHECK(h, rmsnorm, &a);
        }
    }
}

static void check_rmsnorm_bwd(kh *h, int64_t T, int64_t D, fm_dtype dt, int v)
{
    fm_rmsnorm_bwd_args a = {.T = T, .D = D, .ldx = D + 1, .lddy = D + 3, .lddx = D + 2, .dt = dt};
    a.dtdx = v == 0 || v == 5 ? dt : F32;
    a.accumulate = v == 1 || v == 3 || v == 4;
    if (v != 1) a.dy = kh_in(h, T * a.lddy, F32, 1);
    if (v < 2 || v == 3) a.dyf = kh_in(h, T * D, F32, 1);
    a.x = kh_in(h, T * a.ldx, F32, 2);
    a.w = kh_in(h, D, F32, 2);
    a.rstd = kh_in(h, T, F32, 1);
    a.dx = kh_values(h, T * a.lddx, a.dtdx, 1, true);
    a.dw = kh_values(h, D, F32, 1, true);
    if (v > 0 && v < 5) a.dxa = kh_out(h, T * D, fm_dtype_bytes(dt));
    KH_CHECK(h, rmsnorm_bwd, &a);
}

/* dx in the place of dy; no dx at all. */
static void check_rmsnorm_bwd_place(kh *h, int64_t T, int64_t D)
{
    for (int v = 0; v < 2; v++) {
        fm_rmsnorm_bwd_args a = {.T = T, .D = D, .ldx = D, .lddy = D, .lddx = D, .dt = BF16,
                                 .dtdx = F32};
        float *dy = kh_values(h, T * D, F32, 1, true);
        a.dy = dy;
        a.dx = v ? NULL : dy;
        a.x = kh_in(h, T * D, F32, 2);
        a.w = kh_in(h, D, F32, 2);
        a.rstd = kh_in(h, T, F32, 1);
        a.dw = kh_values(h, D, F32, 1, true);
        KH_CHECK(h, rmsnorm_bwd, &a);
    }
}

static void test_rmsnorm_bwd(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        for (int v = 0; v < 3; v++) check_rmsnorm_bwd(h, T, D, dt, v);
    }
    h->what = "several chunks";
    for (int v = 0; v < 3; v++) check_rmsnorm_bwd(h, 2500, 40, BF16, v);
    for (int v = 0; v < 7; v++) check_rmsnorm_bwd(h, 2500, 64, BF16, v);
    check_rmsnorm_bwd(h, 4096, 33, F32, 1);
    check_rmsnorm_bwd_place(h, 3100, 24);
}

static void test_rope(void **state)
{
    kh *h = *state;
    static const int shapes[][3] = {{4, 32, 16}, {3, 12, 8}, {1, 0, 2}, {2, 33, 18}, {16, 64, 64}};
    for (int i = 0; i < 5; i++)
        for (int v = 0; v < 8; v++) {
            int H = shapes[i][0], N = shapes[i][1], R = shapes[i][2];
            int64_t T = i == 0 ? 130 : 5, P = 40;
            h->shift = (size_t)v % 3;
            h->what = "rope";
            fm_rope_args a = {.T = T, .H = H, .N = N, .R = R, .inverse = v & 1,
                              .dt = v & 2 ? BF16 : F32};
            a.ldq_in = H * (N + R) + 3;
            a.ldq_out = H * (N + R) + 1;
            a.ldk_in = R + 7;
            a.ldk_out = R + 2;
            size_t es = fm_dtype_bytes(a.dt);
            if (v != 4) {
                a.q_in = kh_in(h, T * a.ldq_in, F32, 2);
                a.q_out = kh_out(h, T * a.ldq_out, es);
            }
            if (v != 5) {
                a.k_in = kh_in(h, T * a.ldk_in, F32, 2);
                a.k_out = kh_out(h, T * a.ldk_out, es);
            }
            a.cos = kh_in(h, P * R / 2, F32, 1);
            a.sin = kh_in(h, P * R / 2, F32, 1);
            a.pos = kh_ints(h, T, (int)P);
            KH_CHECK(h, rope, &a);
        }
}

static void test_embed(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        enum { W = 23 };
        fm_embed_args a = {.T = T, .D = D, .W = W, .ldx = D + 1, .dt = dt};
        a.table = kh_in(h, W * D, dt, 2);
        int32_t *ids = kh_ints(h, T, W + 2);
        for (int64_t t = 0; t < T; t++) ids[t]--;
        a.ids = ids;
        a.x = kh_out(h, T * a.ldx, 4);
        KH_CHECK(h, embed, &a);
        fm_embed_bwd_args b = {.T = T, .D = D, .W = W, .ldx = D + 2, .dt = dt};
        b.dx = kh_in(h, T * b.ldx, F32, 2);
        ids = kh_ints(h, T, W + 2);
        for (int64_t t = 0; t < T; t++) ids[t]--;
        b.ids = ids;
        b.dtable = kh_values(h, W * D, F32, 1, true);
        KH_CHECK(h, embed_bwd, &b);
    }
}

static void test_gather_scatter(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        for (int v = 0; v < 3; v++) {
            fm_gather_rows_args a = {.n = T, .D = D, .ldx = D + 1, .ldy = D + 2, .dt_x = dt,
                                     .dt_y = v ? BF16 : F32};
            int64_t have = v == 2 ? T : 30;
            a.x = kh_in(h, have * a.ldx, dt, 2);
            int32_t *rows = kh_ints(h, T, 31);
            for (int64_t t = 0; t < T; t++) rows[t]--;
            a.rows = v == 2 ? NULL : rows;
            a.y = kh_out(h, T * a.ldy, fm_dtype_bytes(a.dt_y));
            KH_CHECK(h, gather_rows, &a);
        }
        fm_scatter_rows_args s = {.n = T, .D = D, .ldx = D + 1, .ldy = D + 2, .dt = dt};
        s.x = kh_in(h, T * s.ldx, dt, 2);
        int32_t *rows = kh_ints(h, T, 1);
        for (int64_t t = 0; t < T; t++) rows[t] = t % 5 == 3 ? -1 : (int32_t)(T - 1 - t);
        s.rows = rows;
        s.y = kh_values(h, T * s.ldy, dt, 1, true);
        KH_CHECK(h, scatter_rows, &s);
    }
}

/* Copies so large that they are written past the caches. */
static void test_gather_large(void **state)
{
    kh *h = *state;
    for (int v = 0; v < 4; v++) {
        enum { D = 96 };
        fm_gather_rows_args a = {.n = 30000, .D = D, .ldx = D + 1, .ldy = D + (v == 3 ? 1 : 32),
                                 .dt_x = v == 1 ? BF16 : F32, .dt_y = v ? BF16 : F32};
        h->what = "large gather";
        h->shift = 0;
        a.x = kh_in(h, 100 * a.ldx, a.dt_x, 2);
        int32_t *rows = kh_ints(h, a.n, 101);
        for (int64_t t = 0; t < a.n; t++) rows[t]--;
        a.rows = rows;
        char *y = kh_out(h, a.n * a.ldy + 64, fm_dtype_bytes(a.dt_y));
        a.y = y + (64 - (uintptr_t)y % 64) % 64;
        KH_CHECK(h, gather_rows, &a);
    }
}

static void test_swiglu(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        for (int v = 0; v < 2; v++) {
            fm_swiglu_args a = {.G = T, .M = D, .ld_gate = D + 1, .ld_up = D + 2, .ld_h = D + 3,
                                .dt = dt};
            size_t es = fm_dtype_bytes(dt);
            a.gate = kh_in(h, T * a.ld_gate, dt, 12);
            a.up = kh_in(h, T * a.ld_up, dt, 2);
            int32_t *slot = kh_ints(h, T, 1);
            for (int64_t t = 0; t < T; t++) slot[t] = (int32_t)(T - 1 - t);
            if (v) a.row_slot = slot;
            if (v) a.weight = kh_in(h, T, F32, 1);
            a.h = kh_out(h, T * a.ld_h, es);
            KH_CHECK(h, swiglu, &a);
            fm_swiglu_bwd_args b = {.G = T, .M = D, .ld_dh = D, .ld_gate = D + 1, .ld_up = D + 2,
                                    .ld_dgate = D + 3, .ld_dup = D + 1, .dt = dt};
            b.dh = kh_in(h, T * D, dt, 1);
            b.gate = kh_in(h, T * b.ld_gate, dt, 90);
            b.up = kh_in(h, T * b.ld_up, dt, 2);
            slot = kh_ints(h, T, 1);
            for (int64_t t = 0; t < T; t++) slot[t] = (int32_t)(T - 1 - t);
            if (v) b.row_slot = slot;
            if (v) b.weight = kh_in(h, T, F32, 1);
            b.dgate = kh_out(h, T * b.ld_dgate, es);
            b.dup = kh_out(h, T * b.ld_dup, es);
            b.dweight = v ? kh_out(h, T, 4) : NULL;
            KH_CHECK(h, swiglu_bwd, &b);
        }
    }
}

static void test_combine(void **state)
{
    kh *h = *state;
    EACH_SHAPE(h, T, D, dt)
    {
        for (int round = 0; round < 5 * 6; round++) {
            static const int choices[] = {1, 3, 4, 6, 8};
            int K = choices[round / 6], v = round % 6;
            fm_moe_combine_args a = {.T = T, .D = D, .K = K, .dt = dt};
            a.y = kh_in(h, T * K * D, dt, 1);
            int32_t *row = kh_ints(h, T * K, 1);
            for (int64_t i = 0; i < T * K; i++) row[i] = (int32_t)i;
            for (int64_t i = T * K - 1; i > 0; i--) {
                int64_t j = kh_below(h, (int)i + 1);
                int32_t t = row[i];
                row[i] = row[j];
                row[j] = t;
            }
            a.slot_row = row;
            /* No base with all terms (backward), a base of its own (forward), x itself; each without some. */
            if (v != 3 && v != 4) a.shared = kh_in(h, T * D, dt, 1);
            if (v == 0 || v == 2 || v == 4) a.extra = kh_in(h, T * D, dt, 1);
            a.x = kh_values(h, T * D, F32, 1, true);
            if (v % 3) a.base = v % 3 == 1 ? kh_in(h, T * D, F32, 1) : a.x;
            KH_CHECK(h, moe_combine, &a);
        }
    }
}

static void test_loss(void **state)
{
    kh *h = *state;
    static const int vocab[] = {1, 15, 16, 320, 1023, 1024, 1025, 4096, 5000};
    for (int i = 0; i < 9; i++)
        for (int v = 0; v < 4; v++) {
            int64_t T = v == 3 ? 0 : 9, W = vocab[i];
            h->shift = (size_t)v;
            h->what = "loss";
            fm_lse_args l = {.T = T, .W = W, .ld = W + 3, .dt = v & 1 ? BF16 : F32};
            float *x = kh_in(h, T * l.ld, F32, v == 2 ? 120 : 10);
            if (v == 2 && W > 3) x[2] = -INFINITY;
            l.logits = x;
            l.lse = kh_out(h, T, 4);
            KH_CHECK(h, lse, &l);
            fm_xent_args a = {.T = T, .W = W, .ld = W + 3, .ldd = W + 1, .grad_scale = 1.0 / 37,
                              .dt = l.dt};
            a.logits = kh_in(h, T * a.ld, F32, 10);
            float *lse = kh_in(h, T, F32, 1);
            for (int64_t t = 0; t < T; t++) lse[t] += 11;
            a.lse = lse;
            int32_t *target = kh_ints(h, T, (int)W + 1);
            for (int64_t t = 0; t < T; t++) target[t]--;
            a.target = target;
            a.loss = kh_out(h, T, 4);
            if (v != 2) a.dlogits = kh_out(h, T * a.ldd, fm_dtype_bytes(a.dt));
            KH_CHECK(h, xent, &a);
            a.logits = x = kh_in(h, T * a.ld, F32, v == 2 ? 120 : 10);
            if (v == 2 && W > 3) x[2] = -INFINITY;
            a.lse = NULL;
            a.target = target = kh_ints(h, T, (int)W + 1);
            for (int64_t t = 0; t < T; t++) target[t]--;
            a.loss = kh_out(h, T, 4);
            a.dlogits = v != 1 ? kh_out(h, T * a.ldd, fm_dtype_bytes(a.dt)) : NULL;
            KH_CHECK(h, xent, &a);
        }
}

/* The vector exponential over all of float's range, densely where it underflows and overflows:
 * with lse 0 and scale 1 the gradient of cross-entropy is exp(logit). */
static void test_exp_bits(void **state)
{
    kh *h = *state;
    enum { W = 1 << 20 };
    for (int part = 0; part < 4; part++) {
        h->shift = 0;
        h->what = "exp";
        fm_xent_args a = {.T = 1, .W = W, .ld = W, .ldd = W, .grad_scale = 1, .dt = F32};
        float *x = kh_in(h, W, F32, 1), *zero = kh_in(h, 1, F32, 1);
        float middle[] = {-0x1.5d589ep+6f, 0x1.62e42ep+6f, -0x1.9p+6f};
        for (int64_t i = 0; i < W; i++) {
            uint32_t u = (uint32_t)i * 4093u;
            if (part) u = fmi_f32_bits(middle[part - 1]) + (uint32_t)(i - W / 2);
            x[i] = fmi_bits_f32(u);
            if (x[i] != x[i]) x[i] = 0;
        }
        zero[0] = 0;
        a.logits = x;
        a.lse = zero;
        a.target = kh_ints(h, 1, 1);
        a.loss = kh_out(h, 1, 4);
        a.dlogits = kh_out(h, W, 4);
        KH_CHECK(h, xent, &a);
    }
}

static void test_flat(void **state)
{
    kh *h = *state;
    static const int sizes[] = {0, 1, 15, 16, 17, 1000, 70001};
    for (int i = 0; i < 7; i++)
        for (int v = 0; v < 3; v++) {
            int64_t n = sizes[i];
            h->shift = (size_t)v;
            h->what = "flat";
            fm_sum_args s = {.n = n, .scale = 0.3, .dt = F32};
            s.x = kh_in(h, n, F32, 1);
            s.out = kh_values(h, 1, F32, 1, true);
            KH_CHECK(h, sum, &s);
            fm_axpby_args a = {.n = n, .alpha = v == 2 ? 0 : 0.7, .beta = v ? 0.9 : 0, .dt = F32};
            a.x = v == 2 ? NULL : kh_in(h, n, F32, 1);
            a.y = kh_values(h, n, F32, 1, true);
            if (i % 2) a.ya = kh_out(h, n, 2);
            KH_CHECK(h, axpby, &a);
            fm_zero_args z = {.bytes = n};
            z.y = kh_values(h, n / 4 + 1, F32, 1, true);
            KH_CHECK(h, zero, &z);
        }
}

/* Segments of every kind, laid out with gaps; what is skipped must stay. */
static int64_t make_segments(kh *h, fm_segment *segs, int n)
{
    static const int sizes[] = {1, 17, 4096, 4097, 60000, 0, 300};
    int64_t at = 3;
    for (int i = 0; i < n; i++) {
        segs[i] = (fm_segment){.offset = at, .n = sizes[i % 7], .weight_dtype = i % 3 ? BF16 : F32,
                               .round_bf16 = i % 2, .decay = i % 4 != 1, .skip = i == 2};
        segs[i].weight = i == 4 ? NULL : kh_out(h, segs[i].n,
                                                fm_dtype_bytes((fm_dtype)segs[i].weight_dtype));
        at += segs[i].n + i % 2;
    }
    return at;
}

static void test_optimizer(void **state)
{
    kh *h = *state;
    for (int v = 0; v < 4; v++) {
        enum { N = 7 };
        fm_segment segs[N];
        h->shift = (size_t)v % 3;
        h->what = "segments";
        int64_t n = make_segments(h, segs, N);
        fm_step_state st = {.clip = 0.7f, .bad = v == 3};
        fm_adamw_args a = {.segs = segs, .state = &st, .n_segs = N, .step = v == 0 ? 1 : 1000,
                           .lr = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8,
                           .weight_decay = v == 1 ? 0 : 0.1, .dt = v & 1 ? BF16 : F32};
        a.master = kh_values(h, n, F32, 1, true);
        a.grad = kh_in(h, n, F32, 0.1f);
        a.m = kh_values(h, n, F32, 0.1f, true);
        float *var = kh_values(h, n, F32, 0.1f, true);
        for (int64_t i = 0; i < n; i++) var[i] = var[i] < 0 ? -var[i] : var[i];
        a.v = var;
        KH_CHECK(h, adamw, &a);
        n = make_segments(h, segs, N);
        fm_grad_sumsq_args g = {.segs = segs, .n_segs = N, .dt = a.dt};
        g.grad = kh_in(h, n, F32, 1);
        g.sumsq = kh_out(h, N, 8);
        h->shift = 0;
        KH_CHECK(h, grad_sumsq, &g);
    }
}

static void test_muon(void **state)
{
    kh *h = *state;
    static const int shapes[][2] = {{1, 1}, {16, 16}, {17, 31}, {96, 256}, {130, 40}};
    for (int i = 0; i < 5; i++)
        for (int v = 0; v < 4; v++) {
            int64_t rows = shapes[i][0], cols = shapes[i][1], n = rows * cols;
            fm_step_state st = {.clip = 0.5f};
            h->shift = (size_t)v % 3;
            h->what = "muon";
            fm_muon_momentum_args m = {.n = n, .mu = 0.95, .state = &st, .dt = F32};
            m.grad = kh_in(h, n, F32, 1);
            m.m = kh_values(h, n, F32, 1, true);
            m.u = kh_out(h, n, 4);
            m.norm2 = kh_out(h, 1, 4);
            KH_CHECK(h, muon_momentum, &m);
            fm_muon_scale_args s = {.rows = rows, .cols = cols, .transpose = v & 1, .dt_x = F32,
                                    .dt_y = v & 2 ? BF16 : F32};
            s.x = kh_in(h, n, F32, 1);
            float *norm2 = kh_in(h, 1, F32, 1);
            *norm2 = 3.7f;
            s.norm2 = norm2;
            s.y = kh_out(h, n, fm_dtype_bytes(s.dt_y));
            KH_CHECK(h, muon_scale, &s);
            fm_muon_apply_args p = {.rows = rows, .cols = cols, .transpose = v & 1, .lr = 0.01,
                                    .weight_decay = 0.1, .factor = 0.2, .dt = F32, .state = &st,
                                    .weight_dtype = v & 2 ? BF16 : F32};
            p.master = kh_values(h, n, F32, 1, true);
            p.o = kh_in(h, n, F32, 1);
            p.weight = kh_out(h, n, fm_dtype_bytes(p.weight_dtype));
            KH_CHECK(h, muon_apply, &p);
        }
}

static const double quintics[][3] = {{8, -22.5, 16}, {3.5, -2.5, 0.5}, {2.5, -2, 0.5}};

static void test_newton_schulz(void **state)
{
    kh *h = *state;
    static const int shapes[][3] = {{1, 1, 1}, {2, 16, 16}, {5, 17, 31}, {4, 96, 160}, {7, 32, 64},
                                    {3, 64, 288},  {4, 80, 96}, {0, 4, 8}};
    for (int i = 0; i < 8; i++)
        for (int v = 0; v < 2; v++) {
            int64_t n = shapes[i][0], r = shapes[i][1], c = shapes[i][2];
            fm_dtype A = v ? BF16 : F32;
            h->what = "newton_schulz";
            h->shift = 0;
            for (int scaled = 0; scaled < 2; scaled++) {
                fm_newton_schulz_mix_args m = {.n = n, .r = r, .coef = quintics[v], .dt = A};
                m.g = kh_in(h, n * r * r, F32, 1);
                m.g2 = kh_in(h, n * r * r, F32, 1);
                m.b = kh_out(h, n * r * r, fm_dtype_bytes(A));
                m.sums = scaled ? kh_out(h, n, 4) : NULL;
                KH_CHECK(h, newton_schulz_mix, &m);
            }
            fm_newton_schulz_args a = {.n = n, .r = r, .c = c, .coef = quintics, .steps = 1 + i % 3, .dt = A};
            a.x = kh_values(h, n * r * c, A, 1.0f / (float)c, true);
            h->a[h->n - 1].scratch = true;
            a.y = kh_out(h, n * r * c, 4);
            a.p = kh_scratch(h, n * r * c, fm_dtype_bytes(A));
            a.sums = kh_scratch(h, n, 4);
            a.g = kh_scratch(h, n * r * r, 4);
            a.g2 = kh_scratch(h, n * r * r, 4);
            a.ga = kh_scratch(h, n * r * r, fm_dtype_bytes(A));
            KH_CHECK(h, newton_schulz, &a);
        }
}

/* Whole updates, straight and transposed; matrices in another order than in the flat arrays. */
static void test_muon_whole(void **state)
{
    kh *h = *state;
    static const int shapes[][3] = {{1, 5, 9}, {3, 64, 96}, {4, 96, 64}, {5, 17, 31}, {0, 4, 8}};
    for (int i = 0; i < 5; i++)
        for (int v = 0; v < 4; v++) {
            int64_t n = shapes[i][0], rows = shapes[i][1], cols = shapes[i][2], rc = rows * cols;
            int64_t r = rows < cols ? rows : cols;
            fm_dtype A = v & 1 ? BF16 : F32;
            fm_step_state st = {.clip = 0.5f, .bad = v == 2};
            fm_segment segs[5];
            h->what = "muon, whole";
            h->shift = 0;
            fm_muon_args a = {.segs = segs, .state = &st, .n = n, .rows = rows, .cols = cols, .steps = 3,
                              .coef = quintics, .mu = 0.95, .lr = 0.01, .weight_decay = 0.1, .dt = A};
            a.grad = kh_in(h, n * rc, F32, 1);
            a.m = kh_values(h, n * rc, F32, 1, true);
            a.master = kh_values(h, n * rc, F32, 1, true);
            a.u = kh_scratch(h, n * rc, 4);
            a.y = kh_scratch(h, n * rc, 4);
            a.x = kh_scratch(h, n * rc, fm_dtype_bytes(A));
            a.p = kh_scratch(h, n * rc, fm_dtype_bytes(A));
            a.g = kh_scratch(h, n * r * r, 4);
            a.g2 = kh_scratch(h, n * r * r, 4);
            a.ga = kh_scratch(h, n * r * r, fm_dtype_bytes(A));
            a.norm2 = kh_scratch(h, n, 4);
            for (int64_t j = 0; j < n; j++)
                segs[j] = (fm_segment){.offset = (n - 1 - j) * rc, .n = rc, .weight_dtype = (int32_t)A,
                                       .weight = kh_out(h, rc, fm_dtype_bytes(A))};
            KH_CHECK(h, muon, &a);
        }
}

static void check_route(kh *h, int E, int K, int groups, int v)
{
    int64_t T = 70;
    fm_route_args a = {.T = T, .E = E, .K = K, .n_group = groups, .topk_group = (groups + 1) / 2,
                       .scoring = v & 1 ? FM_ROUTE_SOFTMAX : FM_ROUTE_SIGMOID,
                       .method = (fm_route_method)(v % 3), .norm_topk = v & 2, .scale = 2.5,
                       .dt = BF16};
    float *z = kh_in(h, T * E, F32, 4), *bias = kh_in(h, E, F32, 0.1f);
    for (int64_t i = 0; i < T * E; i++) z[i] = roundf(z[i] * 4) / 4; /* ties */
    z[E - 1] = NAN;
    a.z = z;
    a.bias = v == 2 ? NULL : bias;
    a.score = kh_out(h, T * E, 4);
    a.expert = kh_out(h, T * K, 4);
    a.weight = kh_out(h, T * K, 4);
    if (a.scoring == FM_ROUTE_SOFTMAX) z[E - 1] = 0; /* NaN bits of a whole row are not fixed */
    KH_CHECK(h, route, &a);

    enum { L = 10 };
    fm_route_bwd_args b = {.T = T, .L = L, .E = E, .K = K, .scoring = a.scoring, .norm_topk = v & 2,
                           .scale = 2.5, .balance_scale = 0.01, .dt = BF16};
    b.dweight = kh_in(h, T * K, F32, 1);
    float *s = kh_in(h, T * E, F32, 0.5f);
    for (int64_t i = 0; i < T * E; i++) s[i] = fabsf(s[i]) + 0.01f;
    b.score = s;
    int32_t *expert = kh_ints(h, T * K, 1);
    for (int64_t t = 0; t < T; t++)
        for (int r = 0, first = kh_below(h, E); r < K; r++) expert[t * K + r] = (first + r) % E;
    b.expert = expert;
    if (v) b.balance_f = kh_in(h, T / L * E, F32, 1);
    b.dt = v >= 3 ? BF16 : F32; /* each with both scorings */
    b.dz = kh_out(h, T * E, fm_dtype_bytes(b.dt));
    KH_CHECK(h, route_bwd, &b);

    fm_seq_balance_args q = {.T = T, .L = L, .E = E, .K = K, .balance_scale = 0.02, .dt = F32};
    s = kh_in(h, T * E, F32, 0.5f);
    for (int64_t i = 0; i < T * E; i++) s[i] = roundf(fabsf(s[i]) * 16) / 16 + 0.01f;
    q.score = s;
    q.f = kh_out(h, T / L * E, 4);
    q.loss = kh_values(h, 1, F32, 1, true);
    KH_CHECK(h, seq_balance, &q);
}

static void test_route(void **state)
{
    kh *h = *state;
    static const int shapes[][3] = {{16, 4, 1}, {16, 4, 4}, {1, 1, 1}, {64, 6, 1}, {256, 8, 8},
                                    {33, 5, 3}, {160, 6, 8}, {17, 17, 1}};
    for (int i = 0; i < 8; i++)
        for (int v = 0; v < 6; v++) {
            snprintf(case_name, sizeof case_name, "E %d K %d groups %d v %d", shapes[i][0],
                     shapes[i][1], shapes[i][2], v);
            h->what = case_name;
            h->shift = (size_t)v % 2;
            check_route(h, shapes[i][0], shapes[i][1], shapes[i][2], v);
        }
}

static void test_sample(void **state)
{
    kh *h = *state;
    static const int vocab[] = {1, 31, 320, 4097};
    for (int i = 0; i < 4; i++)
        for (int v = 0; v < 3; v++) {
            enum { T = 7 };
            int64_t W = vocab[i];
            h->shift = (size_t)v;
            h->what = "sample";
            fm_sample_args a = {.T = T, .W = W, .ld = W + 1, .dt = BF16};
            float *x = kh_in(h, T * a.ld, F32, 6);
            for (int64_t j = 0; j < T * a.ld; j++) x[j] = roundf(x[j] * 8) / 8;
            if (W > 5) x[4] = NAN;
            a.logits = x;
            fm_sample_row *rows = kh_array_new(h, T, sizeof *rows, false);
            for (int t = 0; t < T; t++)
                rows[t] = (fm_sample_row){.seed = 9, .position = (uint64_t)t,
                    .history_n = t == 3 ? 4 : 0,
                    .temperature = t == 2 || t == 5 ? 0.8f : 0, .top_k = 20, .top_p = 0.9f,
                    .repetition_penalty = 1.3f, .mask = t == 4 ? 0 : -1};
            a.rows = rows;
            a.history = kh_ints(h, 4, (int)W);
            a.mask = (uint32_t *)kh_ints(h, (W + 31) / 32, INT32_MAX);
            a.token = kh_out(h, T, 4);
            if (v != 1) a.logprob = kh_out(h, T, 4);
            a.scratch = malloc((size_t)(T * W) * 4);
            if (W > 5) x[4] = v == 1 ? NAN : x[5]; /* NaN bits in a log-probability are not fixed */
            KH_CHECK(h, sample, &a);
            free(a.scratch);
        }
}

/* Every filter with noise, over flat and peaked rows and more than one block of random words. */
static void test_sample_noise(void **state)
{
    kh *h = *state;
    static const fm_sample_row how[] = {
        {.temperature = 1, .top_p = 1}, {.temperature = 0.3f, .top_p = 1, .min_p = 0.05f},
        {.temperature = 1.7f, .top_p = 0.95f}, {.temperature = 0.6f, .top_p = 0.5f, .top_k = 50},
        {.temperature = 3, .top_p = 1, .top_k = 7}, {.temperature = 1, .top_p = 0.8f, .min_p = 0.2f},
        {.temperature = 1e-30f, .top_p = 1}, {.temperature = 0, .top_p = 1},
    };
    static const int vocab[] = {2, 63, 64, 65, 1000, 5003};
    enum { T = 8 };
    for (int i = 0; i < 6; i++)
        for (int v = 0; v < 3; v++) {
            int64_t W = vocab[i];
            char what[48];
            snprintf(what, sizeof what, "sample with noise, W %d, %d", (int)W, v);
            h->what = what;
            h->shift = (size_t)v;
            fm_sample_args a = {.T = T, .W = W, .ld = W, .dt = v ? BF16 : F32};
            float *x = kh_in(h, T * W, F32, v == 0 ? 0.01f : v == 1 ? 2 : 40);
            if (v == 2)
                for (int64_t t = 0; t < T; t++) x[t * W + 1] = t == 3 ? INFINITY : -INFINITY;
            a.logits = x;
            fm_sample_row *rows = kh_array_new(h, T, sizeof *rows, false);
            for (int t = 0; t < T; t++) {
                rows[t] = how[t];
                rows[t].seed = 0x123456789abcdefull * (uint64_t)(t + 1);
                rows[t].choice = (uint32_t)t;
                rows[t].position = (uint64_t)i << 33 | (uint64_t)v;
                rows[t].repetition_penalty = 1;
                rows[t].mask = -1;
            }
            a.rows = rows;
            a.token = kh_out(h, T, 4);
            a.scratch = malloc((size_t)(T * W) * 4);
            KH_CHECK(h, sample, &a);
            free(a.scratch);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rmsnorm),   cmocka_unit_test(test_rmsnorm_bwd),
        cmocka_unit_test(test_rope),      cmocka_unit_test(test_embed),
        cmocka_unit_test(test_gather_scatter), cmocka_unit_test(test_gather_large),
        cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_combine),   cmocka_unit_test(test_loss),
        cmocka_unit_test(test_exp_bits),  cmocka_unit_test(test_flat),
        cmocka_unit_test(test_optimizer),
        cmocka_unit_test(test_newton_schulz), cmocka_unit_test(test_muon_whole),
        cmocka_unit_test(test_muon),      cmocka_unit_test(test_route),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_sample_noise),
    };
    return cmocka_run_group_tests(tests, kh_setup, kh_teardown);
}
