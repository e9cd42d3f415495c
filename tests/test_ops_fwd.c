/* Forward operators in f32 and bf16 against F64 from the same rounded inputs, the absorbed
 * attention against the expanded one, and the order of sums of the bf16 and f32 products against
 * loops written here, bit for bit, over random shapes.
 *
 * Limits: f32: normalised squared error 1e-14 + 1e-15 * terms (each term one rounding of 2^-24,
 * squared 3.6e-15 / 3). bf16 outputs: a rounding moves a value by at most 2^-8 of it, so 2^-16 =
 * 1.53e-5 for single values; over many of them the mean square is a third of that at most, 5.1e-6:
 * 6e-6. */
#include "ops_util.h"

static const fm_dtype types[2] = {FM_DTYPE_F32, FM_DTYPE_BF16};

static double limit(fm_dtype dt, double terms, int64_t n)
{
    if (dt == FM_DTYPE_BF16) return n < 64 ? 1.6e-5 : 6e-6;
    return 1e-14 + 1e-15 * terms;
}

/* n doubles that bf16 holds exactly, so that every type starts from the same values. */
static double *coarse(rnd *r, int64_t n, double scale)
{
    double *v = rnd_doubles(r, n, scale);
    for (int64_t i = 0; i < n; i++) v[i] = fmi_bf16_to_f32(fmi_f32_to_bf16((float)v[i]));
    return v;
}

/* Runs `call` in F64 and in dt on the same inputs; compares output o (dtype out_dt[o]) by nmse. */
typedef struct fwd_case {
    int n_in, n_out;
    int64_t n[5], n_o[3];
    bool in_full[5], out_full[3]; /* stored in F rather than A */
    double *in[5];
    double terms;
    void (*call)(fm_exec *x, const void *user, fm_dtype dt, void *const *in, void *const *out);
    const void *user;
} fwd_case;

static void run_as(fm_exec *x, const fwd_case *c, fm_dtype dt, double **result)
{
    void *in[5], *out[3];
    for (int i = 0; i < c->n_in; i++)
        in[i] = dev_put_as(x, c->in[i], c->n[i], c->in_full[i] ? fmi_full_dtype(dt) : dt);
    for (int o = 0; o < c->n_out; o++) out[o] = dev_new(x, (size_t)c->n_o[o] * 8);
    c->call(x, c->user, dt, in, out);
    for (int o = 0; o < c->n_out; o++)
        result[o] = dev_get_as(x, out[o], c->n_o[o], c->out_full[o] ? fmi_full_dtype(dt) : dt);
    for (int i = 0; i < c->n_in; i++) fm_dev_free(x, in[i]);
    for (int o = 0; o < c->n_out; o++) fm_dev_free(x, out[o]);
}

static void fwd_check(fm_exec *x, fwd_case *c, const char *name)
{
    double *want[3], *got[3];
    run_as(x, c, FM_DTYPE_F64, want);
    for (int k = 0; k < 2; k++) {
        run_as(x, c, types[k], got);
        for (int o = 0; o < c->n_out; o++) {
            /* An output in F has no output rounding, but bf16 inputs inside may be rounded. */
            double e = nmse(got[o], want[o], c->n_o[o]);
            double top = limit(types[k], c->terms, c->n_o[o]);
            if (!(e <= top)) fail_msg("%s output %d, type %d: nmse %g > %g", name, o, k, e, top);
            fmi_free(got[o]);
        }
    }
    for (int o = 0; o < c->n_out; o++) fmi_free(want[o]);
    for (int i = 0; i < c->n_in; i++) fmi_free(c->in[i]);
}

static void add_in(fwd_case *c, rnd *r, int64_t n, double scale, bool full)
{
    c->n[c->n_in] = n;
    c->in_full[c->n_in] = full;
    c->in[c->n_in++] = coarse(r, n, scale);
}

static void add_out(fwd_case *c, int64_t n, bool full)
{
    c->n_o[c->n_out] = n;
    c->out_full[c->n_out++] = full;
}

typedef struct dims {
    int64_t a, b, c;
} dims;

static void call_gemm(fm_exec *x, const void *user, fm_dtype dt, void *const *in, void *const *out)
{
    const dims *d = user;
    fm_op_gemm(x, &(fm_gemm_args){.a = in[0], .b = in[1], .c = out[0], .kind = FM_GEMM_NT,
                                  .m = d->a, .n = d->b, .k = d->c, .lda = d->c, .ldb = d->c,
                                  .ldc = d->b, .dt = dt, .dtc = fmi_full_dtype(dt)});
    fm_op_gemm(x, &(fm_gemm_args){.a = in[0], .b = in[1], .c = out[1], .kind = FM_GEMM_NT,
                                  .m = d->a, .n = d->b, .k = d->c, .lda = d->c, .ldb = d->c,
                                  .ldc = d->b, .dt = dt, .dtc = dt});
}

static void call_norm(fm_exec *x, const void *user, fm_dtype dt, void *const *in, void *const *out)
{
    const dims *d = user;
    fm_op_rmsnorm(x, &(fm_rmsnorm_args){in[0], in[1], out[0], out[1], out[2], d->a, d->b, d->b,
                                        d->b, 1e-6, dt});
}

static void call_swiglu(fm_exec *x, const void *user, fm_dtype dt, void *const *in,
                        void *const *out)
{
    const dims *d = user;
    fm_op_swiglu(x, &(fm_swiglu_args){in[0], in[1], NULL, NULL, out[0], d->a, d->b, d->b, d->b,
                                      d->b, dt});
}

static void call_lse(fm_exec *x, const void *user, fm_dtype dt, void *const *in, void *const *out)
{
    const dims *d = user;
    fm_op_lse(x, &(fm_lse_args){in[0], out[0], d->a, d->b, d->b, dt});
}

static void test_simple(void **state)
{
    (void)state;
    static const dims sizes[] = {{1, 1, 1}, {3, 5, 33}, {2, 70, 7}, {4, 3, 129}, {2, 1500, 64}};
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {5};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const dims *d = &sizes[i];
        fwd_case g = {.terms = (double)d->c, .call = call_gemm, .user = d};
        add_in(&g, &r, d->a * d->c, 1, false);
        add_in(&g, &r, d->b * d->c, 1, false);
        add_out(&g, d->a * d->b, true);
        add_out(&g, d->a * d->b, false);
        fwd_check(x, &g, "gemm");
        fwd_case n = {.terms = (double)d->b, .call = call_norm, .user = d};
        add_in(&n, &r, d->a * d->b, 2, true);
        add_in(&n, &r, d->b, 1, true);
        add_out(&n, d->a * d->b, false);
        add_out(&n, d->a * d->b, true);
        add_out(&n, d->a, true);
        fwd_check(x, &n, "rmsnorm");
        fwd_case s = {.terms = 8, .call = call_swiglu, .user = d};
        add_in(&s, &r, d->a * d->b, 6, false);
        add_in(&s, &r, d->a * d->b, 1, false);
        add_out(&s, d->a * d->b, false);
        fwd_check(x, &s, "swiglu");
        fwd_case l = {.terms = (double)d->b, .call = call_lse, .user = d};
        add_in(&l, &r, d->a * d->b, 9, true);
        add_out(&l, d->a, true);
        fwd_check(x, &l, "lse");
    }
    fm_exec_close(x);
}

enum { AT_T = 620, AT_H = 2, AT_N = 6, AT_R = 4, AT_V = 5 };

typedef struct attn_user {
    void *begin, *end;
} attn_user;

static void call_attn(fm_exec *x, const void *user, fm_dtype dt, void *const *in, void *const *out)
{
    const attn_user *u = user;
    fm_op_attn(x, &(fm_attn_args){in[0], in[1], in[2], u->begin, u->end, out[0], out[1], AT_T,
                                  AT_T, AT_R, AT_H, AT_N, AT_R, AT_V, 0.3, dt});
}

static void test_attn(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {6};
    int32_t begin[AT_T], end[AT_T];
    for (int t = 0; t < AT_T; t++) {
        begin[t] = t < 30 ? 0 : 30;
        end[t] = t + 1;
    }
    attn_user u = {dev_put(x, begin, sizeof begin), dev_put(x, end, sizeof end)};
    /* exp of a score of magnitude 8 carries 8 roundings of the score; then the sums. */
    fwd_case c = {.terms = 64 + 12, .call = call_attn, .user = &u};
    add_in(&c, &r, AT_T * AT_H * (AT_N + AT_R), 2, false);
    add_in(&c, &r, AT_T * AT_H * (AT_N + AT_V), 2, false);
    add_in(&c, &r, AT_T * AT_R, 2, false);
    add_out(&c, AT_T * AT_H * AT_V, false);
    add_out(&c, AT_T * AT_H, true);
    fwd_check(x, &c, "attn");
    fm_dev_free(x, u.begin);
    fm_dev_free(x, u.end);
    fm_exec_close(x);
}

/* A row without keys gives zeros and a log-sum of minus infinity. */
static void test_attn_no_keys(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
    const double v[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
    const int32_t begin = 1;
    void *q = dev_put_as(x, v, 3, FM_DTYPE_F32), *kv = dev_put_as(x, v, 8, FM_DTYPE_F32);
    void *kpe = dev_put_as(x, v, 4, FM_DTYPE_F32), *b = dev_put(x, &begin, 4);
    void *o = dev_put_as(x, v, 2, FM_DTYPE_F32), *lse = dev_put_as(x, v, 1, FM_DTYPE_F32);
    fm_op_attn(x, &(fm_attn_args){q, kv, kpe, b, b, o, lse, 1, 2, 1, 1, 2, 1, 2, 1, FM_DTYPE_F32});
    double *got = dev_get_as(x, o, 2, FM_DTYPE_F32), *gl = dev_get_as(x, lse, 1, FM_DTYPE_F32);
    assert_true(got[0] == 0 && got[1] == 0 && gl[0] == -INFINITY);
    fmi_free(got);
    fmi_free(gl);
    void *all[] = {q, kv, kpe, b, o, lse};
    for (int i = 0; i < 6; i++) fm_dev_free(x, all[i]);
    fm_exec_close(x);
}

/* Absorbed attention over scrambled pages against the expanded form, all in F64, absorbed by
 * hand. */
enum { L_S = 600, L_H = 2, L_N = 3, L_R = 2, L_V = 4, L_C = 5, L_PAGES = 12, L_T = 5 };

static void test_latent(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {7};
    const int dq = L_N + L_R, dkv = L_N + L_V, ld = L_C + L_R;
    double *q = rnd_doubles(&r, L_T * L_H * dq, 2), *c = rnd_doubles(&r, L_S * L_C, 1);
    double *pe = rnd_doubles(&r, L_S * L_R, 1), *w = rnd_doubles(&r, L_H * dkv * L_C, 1);
    double *kv = rnd_doubles(&r, L_S * L_H * dkv, 0), *ql = rnd_doubles(&r, L_T * L_H * L_C, 0);
    double *pages = rnd_doubles(&r, L_PAGES * 64 * ld, 9);
    int32_t table[2 * L_PAGES], zeros[L_T] = {0}, seq[L_T], len[L_T] = {1, 64, 65, 513, L_S};
    for (int i = 0; i < L_PAGES; i++) table[L_PAGES + i] = (i * 5 + 3) % L_PAGES;
    for (int i = 0; i < L_PAGES; i++) table[i] = -1;
    for (int t = 0; t < L_T; t++) seq[t] = 1;
    for (int s = 0; s < L_S; s++) {
        double *row = pages + ((int64_t)table[L_PAGES + s / 64] * 64 + s % 64) * ld;
        for (int i = 0; i < L_C; i++) row[i] = c[s * L_C + i];
        for (int i = 0; i < L_R; i++) row[L_C + i] = pe[s * L_R + i];
        for (int j = 0; j < L_H * dkv; j++)
            for (int i = 0; i < L_C; i++) kv[s * L_H * dkv + j] += w[j * L_C + i] * c[s * L_C + i];
    }
    for (int th = 0; th < L_T * L_H; th++)
        for (int i = 0; i < L_C; i++)
            for (int n = 0; n < L_N; n++)
                ql[th * L_C + i] += q[th * dq + n] * w[((th % L_H) * dkv + n) * L_C + i];
    const fm_dtype dt = FM_DTYPE_F64;
    void *all[] = {dev_put_as(x, q, L_T * L_H * dq, dt), dev_put_as(x, kv, L_S * L_H * dkv, dt),
                   dev_put_as(x, pe, L_S * L_R, dt), dev_put_as(x, ql, L_T * L_H * L_C, dt),
                   dev_put_as(x, pages, L_PAGES * 64 * ld, dt), dev_put(x, table, sizeof table),
                   dev_put(x, seq, sizeof seq), dev_put(x, len, sizeof len),
                   dev_put(x, zeros, sizeof zeros), dev_new(x, L_T * L_H * L_V * 8),
                   dev_new(x, L_T * L_H * L_C * 8)};
    fm_op_attn(x, &(fm_attn_args){all[0], all[1], all[2], all[8], all[7], all[9], NULL, L_T, L_S,
                                  L_R, L_H, L_N, L_R, L_V, 0.8, dt});
    fm_op_attn_latent(x, &(fm_attn_latent_args){all[3], all[0], all[4], all[5], all[6], all[7],
                      all[10], L_T, L_PAGES, L_H, L_N, L_R, L_C, 0.8, dt});
    double *o = dev_get_as(x, all[9], L_T * L_H * L_V, dt);
    double *u = dev_get_as(x, all[10], L_T * L_H * L_C, dt);
    for (int th = 0; th < L_T * L_H; th++)
        for (int v = 0; v < L_V; v++) {
            double got = 0;
            for (int i = 0; i < L_C; i++)
                got += u[th * L_C + i] * w[((th % L_H) * dkv + L_N + v) * L_C + i];
            assert_true(fabs(got - o[th * L_V + v]) <= 1e-12);
        }
    double *mine[] = {q, c, pe, w, kv, ql, pages, o, u};
    for (int i = 0; i < 9; i++) fmi_free(mine[i]);
    for (int i = 0; i < 11; i++) fm_dev_free(x, all[i]);
    fm_exec_close(x);
}

/* TDPBF16PS order written a second time, over whole padded pairs as the instruction sees them. */
static float tile_order(const float *a, const float *b, int k, float acc)
{
    float pad_a[32], pad_b[32];
    for (int s = 0; s < (k + 31) / 32; s++) {
        float sum[2] = {0, 0};
        for (int i = 0; i < 32; i++) {
            pad_a[i] = s * 32 + i < k ? a[s * 32 + i] : 0;
            pad_b[i] = s * 32 + i < k ? b[s * 32 + i] : 0;
        }
        for (int pair = 0; pair < 16; pair++)
            for (int half = 0; half < 2; half++)
                sum[half] = fmaf(pad_a[2 * pair + half], pad_b[2 * pair + half], sum[half]);
        acc = acc + (sum[0] + sum[1]);
    }
    return acc;
}

static float chain_order(const float *a, const float *b, int k, float acc)
{
    for (int i = 0; i < k; i++) acc = fmaf(a[i], b[i], acc);
    return acc;
}

/* One product of the given kind and type, bit for bit. bf16 outputs are asked for in F. */
static void product_check(fm_exec *x, rnd *r, fm_gemm_kind kind, fm_dtype dt, int m, int n, int k,
                          bool add)
{
    double *a = coarse(r, m * k, 2), *b = coarse(r, n * k, 2), *c = coarse(r, m * n, 1);
    int lda = kind == FM_GEMM_TN ? m : k, ldb = kind == FM_GEMM_NT ? k : n;
    void *da = dev_put_as(x, a, m * k, dt), *db = dev_put_as(x, b, n * k, dt);
    void *dc = dev_put_as(x, c, m * n, FM_DTYPE_F32);
    fm_op_gemm(x, &(fm_gemm_args){.a = da, .b = db, .c = dc, .kind = kind, .m = m, .n = n, .k = k,
               .lda = lda, .ldb = ldb, .ldc = n, .dt = dt, .dtc = FM_DTYPE_F32, .accumulate = add});
    double *got = dev_get_as(x, dc, m * n, FM_DTYPE_F32);
    float *ra = fmi_alloc((size_t)k * 4), *rb = fmi_alloc((size_t)k * 4);
    assert_true(ra && rb);
    for (int i = 0; i < m; i++)
        for (int j = 0; j < n; j++) {
            for (int l = 0; l < k; l++) {
                ra[l] = (float)(kind == FM_GEMM_TN ? a[l * m + i] : a[i * k + l]);
                rb[l] = (float)(kind == FM_GEMM_NT ? b[j * k + l] : b[l * n + j]);
            }
            float want = add ? (float)c[i * n + j] : 0;
            int step = kind == FM_GEMM_TN ? 1024 : k;
            for (int l = 0; l < k; l += step) {
                int len = k - l < step ? k - l : step;
                float part = dt == FM_DTYPE_BF16 ? tile_order(ra + l, rb + l, len, 0)
                                                 : chain_order(ra + l, rb + l, len, 0);
                want = l == 0 && !add ? part : want + part;
            }
            assert_int_equal(fmi_f32_bits((float)got[i * n + j]), fmi_f32_bits(want));
        }
    double *mine[] = {a, b, c, got};
    for (int i = 0; i < 4; i++) fmi_free(mine[i]);
    fmi_free(ra);
    fmi_free(rb);
    fm_dev_free(x, da);
    fm_dev_free(x, db);
    fm_dev_free(x, dc);
}

static void test_product_order(void **state)
{
    (void)state;
    fm_exec *x = open_exec("cpu", 2, FM_ISA_SCALAR);
    rnd r = {8};
    for (int i = 0; i < 120; i++) {
        int k = 1 + rnd_below(&r, i % 10 ? 130 : 2600);
        product_check(x, &r, (fm_gemm_kind)(i % 3), types[rnd_below(&r, 2)], 1 + rnd_below(&r, 9),
                      1 + rnd_below(&r, 9), k, rnd_below(&r, 2));
    }
    fm_exec_close(x);
}

/* The orders differ: a value that only the two chains of a step keep. */
static void test_product_order_matters(void **state)
{
    (void)state;
    fm_exec *x = open_exec("cpu", 1, FM_ISA_SCALAR);
    const double a[4] = {16777216, 1, -16777216, 1}, b[4] = {1, 1, 1, 1};
    const double want[2] = {1, 2}; /* one chain loses the first 1; even + odd lose nothing */
    for (int k = 0; k < 2; k++) {
        void *da = dev_put_as(x, a, 4, types[k]), *db = dev_put_as(x, b, 4, types[k]),
            *c = dev_new(x, 4);
        fm_op_gemm(x, &(fm_gemm_args){.a = da, .b = db, .c = c, .kind = FM_GEMM_NT, .m = 1, .n = 1,
                                      .k = 4, .lda = 4, .ldb = 4, .ldc = 1, .dt = types[k],
                                      .dtc = FM_DTYPE_F32});
        double *got = dev_get_as(x, c, 1, FM_DTYPE_F32);
        assert_true(got[0] == want[k]);
        fmi_free(got);
        fm_dev_free(x, da);
        fm_dev_free(x, db);
        fm_dev_free(x, c);
    }
    fm_exec_close(x);
}

/* T = 0 and empty groups are legal and touch nothing. */
static void test_empty(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    float mark[4] = {1, 2, 3, 4}, got[4];
    void *p = dev_put(x, mark, sizeof mark);
    const int32_t zero[3] = {0, 0, 0};
    void *off = dev_put(x, zero, sizeof zero), *table = NULL;
    const void *both[2] = {p, p};
    fm_err e = {0};
    must(fm_dev_table(x, both, 2, &table, &e), &e);
    for (int k = 0; k < 2; k++) {
        fm_dtype dt = types[k];
        fm_op_rmsnorm(x, &(fm_rmsnorm_args){p, p, p, p, p, 0, 4, 4, 4, 1e-6, dt});
        fm_op_lse(x, &(fm_lse_args){p, p, 0, 4, 4, dt});
        fm_op_embed(x, &(fm_embed_args){p, off, p, 0, 4, 1, 4, dt});
        fm_op_swiglu(x, &(fm_swiglu_args){p, p, NULL, NULL, p, 0, 4, 4, 4, 4, dt});
        fm_op_attn(x, &(fm_attn_args){p, p, p, off, off, p, p, 0, 0, 1, 1, 1, 1, 1, 1, dt});
        fm_op_gemm(x, &(fm_gemm_args){.a = p, .c = p, .offsets = off, .table = table,
                                      .kind = FM_GEMM_NT, .m = 4, .n = 1, .k = 1, .lda = 1,
                                      .ldb = 1, .ldc = 1, .dt = dt, .dtc = FM_DTYPE_F32,
                                      .groups = 2});
        fm_op_gemm(x, &(fm_gemm_args){.a = p, .b = p, .offsets = off, .table = table,
                                      .kind = FM_GEMM_TN, .m = 1, .n = 1, .k = 4, .lda = 1,
                                      .ldb = 1, .ldc = 1, .dt = dt, .dtc = FM_DTYPE_F32,
                                      .accumulate = true, .groups = 2});
    }
    dev_get(x, got, p, sizeof got);
    for (int i = 0; i < 4; i++) assert_true(got[i] == mark[i]);
    fm_dev_free(x, p);
    fm_dev_free(x, off);
    fm_dev_free(x, table);
    fm_exec_close(x);
}

/* Denormal inputs count as zero, denormal results become zero, and the caller's mode comes back. */
static void test_flush(void **state)
{
    (void)state;
    fm_exec *x = open_exec("cpu", 2, FM_ISA_SCALAR);
    const float tiny = fmi_bits_f32(1000), small = 0x1p-100f;
    volatile float denormal = tiny;
    void *a = dev_put(x, &small, 4), *d = dev_put(x, &tiny, 4), *c = dev_new(x, 4);
    float got = 7;
    fm_op_axpby(x, &(fm_axpby_args){a, c, NULL, 1, 0x1p-40, 0, FM_DTYPE_F32});
    dev_get(x, &got, c, 4);
    assert_true(fmi_f32_bits(got) == 0);
    fm_op_axpby(x, &(fm_axpby_args){d, c, NULL, 1, 0x1p100, 0, FM_DTYPE_F32});
    dev_get(x, &got, c, 4);
    assert_true(fmi_f32_bits(got) == 0);
    assert_true(denormal * 0x1p60f > 0); /* outside operators nothing is flushed */
    fm_dev_free(x, a);
    fm_dev_free(x, d);
    fm_dev_free(x, c);
    fm_exec_close(x);
}

/* The number of threads changes no bit: attention and its backward, norm, products. */
static void test_threads(void **state)
{
    (void)state;
    double *first = NULL;
    for (int threads = 1; threads <= 5; threads += 2) {
        fm_exec *x = open_exec("cpu", threads, FM_ISA_SCALAR);
        rnd r = {9};
        enum { T = 90, H = 3, N = 4, R = 2, V = 3 };
        double *q = coarse(&r, T * H * (N + R), 2), *kv = coarse(&r, T * H * (N + V), 2);
        double *pe = coarse(&r, T * R, 2), *dy = coarse(&r, T * H * V, 2);
        int32_t begin[T] = {0}, end[T], seg[2] = {0, T};
        for (int t = 0; t < T; t++) end[t] = t + 1;
        const fm_dtype dt = FM_DTYPE_BF16;
        void *all[] = {
            dev_put_as(x, q, T * H * (N + R), dt), dev_put_as(x, kv, T * H * (N + V), dt),
            dev_put_as(x, pe, T * R, dt), dev_put_as(x, dy, T * H * V, dt),
            dev_put(x, begin, sizeof begin), dev_put(x, end, sizeof end), dev_put(x, seg, sizeof seg),
            dev_new(x, T * H * V * 2), dev_new(x, T * H * 4), dev_new(x, T * H * (N + R) * 4),
            dev_new(x, T * H * (N + V) * 2), dev_new(x, T * R * 4), dev_new(x, T * H * R * 4),
        };
        fm_op_attn(x, &(fm_attn_args){all[0], all[1], all[2], all[4], all[5], all[7], all[8], T, T,
                                      R, H, N, R, V, 0.5, dt});
        fm_op_attn_bwd(x, &(fm_attn_bwd_args){all[0], all[1], all[2], all[7], all[8], all[3],
                       all[6], all[9], all[10], all[11], all[12], T, R, 1, H, N, R, V, 0.5, dt});
        double *got = dev_get_as(x, all[11], T * R, FM_DTYPE_F32);
        if (!first) first = got;
        for (int i = 0; i < T * R; i++) assert_true(got[i] == first[i]);
        if (got != first) fmi_free(got);
        double *mine[] = {q, kv, pe, dy};
        for (int i = 0; i < 4; i++) fmi_free(mine[i]);
        for (int i = 0; i < 13; i++) fm_dev_free(x, all[i]);
        fm_exec_close(x);
    }
    fmi_free(first);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_simple),        cmocka_unit_test(test_attn),
        cmocka_unit_test(test_attn_no_keys),  cmocka_unit_test(test_latent),
        cmocka_unit_test(test_product_order), cmocka_unit_test(test_product_order_matters),
        cmocka_unit_test(test_empty),         cmocka_unit_test(test_flush),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests_name("ops_fwd", tests, NULL, NULL);
}
