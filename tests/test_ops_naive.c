/* Forward operators in F64 against their textbook formulas, written here without blocks, segments
 * or chunks: attention over documents, norm, rotation, SwiGLU, log-sum-exp and cross-entropy. Limit
 * 1e-12: some thousand double roundings of 1.1e-16, on values of order 1. */
#include "ops_util.h"

#define TOL 1e-12

static const fm_dtype dt = FM_DTYPE_F64;

static double *fetch(fm_exec *x, void *dev, int64_t n)
{
    double *v = dev_get_as(x, dev, n, dt);
    fm_dev_free(x, dev);
    return v;
}

enum { T = 700, H = 2, N = 3, R = 2, V = 4, DQ = N + R, DKV = N + V };

/* Softmax attention of row t over keys begin .. end-1; fills o[V], returns log of the sum. */
static double naive_attn(const double *q, const double *kv, const double *pe, int h, int begin,
                         int end, double scale, double *o)
{
    double sum = 0;
    for (int d = 0; d < V; d++) o[d] = 0;
    for (int j = begin; j < end; j++) {
        const double *k = kv + (j * H + h) * DKV;
        double s = 0;
        for (int d = 0; d < N; d++) s += q[d] * k[d];
        for (int d = 0; d < R; d++) s += q[N + d] * pe[j * R + d];
        double p = exp(scale * s);
        sum += p;
        for (int d = 0; d < V; d++) o[d] += p * k[N + d];
    }
    for (int d = 0; d < V; d++) o[d] /= sum;
    return log(sum);
}

static void test_attn(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {1};
    double *q = rnd_doubles(&r, T * H * DQ, 1.5), *kv = rnd_doubles(&r, T * H * DKV, 1.5);
    double *pe = rnd_doubles(&r, T * R, 1.5), o[V];
    int32_t begin[T], end[T];
    for (int t = 0; t < T; t++) {
        begin[t] = t < 100 ? 0 : 100;
        end[t] = t % 3 ? t + 1 : begin[t] + 1 + rnd_below(&r, t + 1 - begin[t]);
    }
    void *in[] = {dev_put_as(x, q, T * H * DQ, dt), dev_put_as(x, kv, T * H * DKV, dt),
                  dev_put_as(x, pe, T * R, dt), dev_put(x, begin, sizeof begin),
                  dev_put(x, end, sizeof end)};
    void *d_o = dev_new(x, T * H * V * 8), *d_lse = dev_new(x, T * H * 8);
    fm_op_attn(x, &(fm_attn_args){in[0], in[1], in[2], in[3], in[4], d_o, d_lse, T, T, R, H, N, R,
                                  V, 0.6, dt});
    double *got = fetch(x, d_o, T * H * V), *lse = fetch(x, d_lse, T * H);
    for (int i = 0; i < T * H; i++) {
        int t = i / H;
        double want = naive_attn(q + i * DQ, kv, pe, i % H, begin[t], end[t], 0.6, o);
        assert_true(fabs(lse[i] - want) <= TOL);
        for (int d = 0; d < V; d++) assert_true(fabs(got[i * V + d] - o[d]) <= TOL);
    }
    double *mine[] = {q, kv, pe, got, lse};
    for (int i = 0; i < 5; i++) fmi_free(mine[i]);
    for (int i = 0; i < 5; i++) fm_dev_free(x, in[i]);
    fm_exec_close(x);
}

static void test_norm_and_swiglu(void **state)
{
    (void)state;
    enum { ROWS = 5, D = 41, LD = 44 };
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {2};
    double *a = rnd_doubles(&r, ROWS * LD, 2), *b = rnd_doubles(&r, ROWS * LD, 2);
    double w[ROWS] = {0.5, -1, 2, 3, 0.25};
    const int32_t slot[ROWS] = {4, 3, 1, 0, 2};
    void *da = dev_put_as(x, a, ROWS * LD, dt), *db = dev_put_as(x, b, ROWS * LD, dt);
    void *dw = dev_put_as(x, w, ROWS, dt), *ds = dev_put(x, slot, sizeof slot);
    void *y = dev_new(x, ROWS * LD * 8), *yf = dev_new(x, ROWS * D * 8);
    void *h = dev_new(x, ROWS * LD * 8);
    fm_op_rmsnorm(x, &(fm_rmsnorm_args){da, db, y, yf, NULL, ROWS, D, LD, LD, 1e-3, dt});
    fm_op_swiglu(x, &(fm_swiglu_args){da, db, ds, dw, h, ROWS, D, LD, LD, LD, dt});
    double *gy = fetch(x, y, ROWS * LD), *gf = fetch(x, yf, ROWS * D), *gh = fetch(x, h, ROWS * LD);
    for (int t = 0; t < ROWS; t++) {
        double sum = 0;
        for (int i = 0; i < D; i++) sum += a[t * LD + i] * a[t * LD + i];
        for (int i = 0; i < D; i++) {
            double v = a[t * LD + i], n = v / sqrt(sum / D + 1e-3) * b[i];
            assert_true(fabs(gy[t * LD + i] - n) <= TOL && fabs(gf[t * D + i] - n) <= TOL);
            double g = w[slot[t]] * (v / (1 + exp(-v))) * b[t * LD + i];
            assert_true(fabs(gh[t * LD + i] - g) <= TOL);
        }
        for (int i = D; i < LD; i++) assert_true(gy[t * LD + i] == 0 && gh[t * LD + i] == 0);
    }
    double *mine[] = {a, b, gy, gf, gh};
    for (int i = 0; i < 5; i++) fmi_free(mine[i]);
    void *dev[] = {da, db, dw, ds};
    for (int i = 0; i < 4; i++) fm_dev_free(x, dev[i]);
    fm_exec_close(x);
}

/* A pair (x0, x1) turns by pos * freq, as a complex number would. */
static void test_rope(void **state)
{
    (void)state;
    enum { ROWS = 4, HEADS = 2, NOPE = 3, ROT = 6, P = 20, D = NOPE + ROT };
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {3};
    double *q = rnd_doubles(&r, ROWS * HEADS * D, 2), *k = rnd_doubles(&r, ROWS * 9, 2);
    double cs[P * ROT / 2], sn[P * ROT / 2];
    const int32_t pos[ROWS] = {0, 19, 7, 7};
    for (int p = 0; p < P; p++)
        for (int j = 0; j < ROT / 2; j++) {
            double angle = p * pow(100, -2.0 * j / ROT);
            cs[p * ROT / 2 + j] = cos(angle);
            sn[p * ROT / 2 + j] = sin(angle);
        }
    void *in[] = {dev_put_as(x, q, ROWS * HEADS * D, dt), dev_put_as(x, k, ROWS * 9, dt),
                  dev_put_as(x, cs, P * ROT / 2, dt), dev_put_as(x, sn, P * ROT / 2, dt),
                  dev_put(x, pos, sizeof pos)};
    void *dq = dev_new(x, ROWS * HEADS * D * 8), *dk = dev_new(x, ROWS * ROT * 8);
    /* The key's rotary dims are columns 3..8 of rows of 9. */
    fm_op_rope(x, &(fm_rope_args){in[0], dq, (double *)in[1] + 3, dk, in[2], in[3], in[4], ROWS,
                                  HEADS * D, HEADS * D, 9, ROT, HEADS, NOPE, ROT, false, dt});
    double *gq = fetch(x, dq, ROWS * HEADS * D), *gk = fetch(x, dk, ROWS * ROT);
    for (int t = 0; t < ROWS; t++)
        for (int j = 0; j < ROT / 2; j++) {
            double complex turn = cexp(I * (pos[t] * pow(100, -2.0 * j / ROT)));
            double complex kk = CMPLX(k[t * 9 + 3 + 2 * j], k[t * 9 + 4 + 2 * j]) * turn;
            assert_true(fabs(gk[t * ROT + 2 * j] - creal(kk)) <= TOL);
            assert_true(fabs(gk[t * ROT + 2 * j + 1] - cimag(kk)) <= TOL);
            for (int h = 0; h < HEADS; h++) {
                const double *from = q + (t * HEADS + h) * D, *to = gq + (t * HEADS + h) * D;
                double complex v = CMPLX(from[NOPE + 2 * j], from[NOPE + 2 * j + 1]) * turn;
                assert_true(fabs(to[NOPE + 2 * j] - creal(v)) <= TOL);
                assert_true(fabs(to[NOPE + 2 * j + 1] - cimag(v)) <= TOL);
                assert_true(to[0] == from[0] && to[1] == from[1] && to[2] == from[2]);
            }
        }
    double *mine[] = {q, k, gq, gk};
    for (int i = 0; i < 4; i++) fmi_free(mine[i]);
    for (int i = 0; i < 5; i++) fm_dev_free(x, in[i]);
    fm_exec_close(x);
}

/* Rows that rise and fall, so that later chunks have the larger and the smaller maximum. */
static void test_loss(void **state)
{
    (void)state;
    enum { ROWS = 3, W = 2600 };
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {4};
    double *l = rnd_doubles(&r, ROWS * W, 1);
    for (int w = 0; w < W; w++) {
        l[w] += 0.01 * w;
        l[W + w] -= 0.01 * w;
        l[2 * W + w] += w / 1024 == 1 ? 30 : 0;
    }
    const int32_t target[ROWS] = {2599, 0, 5};
    void *d_l = dev_put_as(x, l, ROWS * W, dt), *d_t = dev_put(x, target, sizeof target);
    void *d_lse = dev_new(x, ROWS * 8), *d_loss = dev_new(x, ROWS * 8), *d_sum = dev_new(x, 8);
    fm_op_lse(x, &(fm_lse_args){d_l, d_lse, ROWS, W, W, dt});
    fm_op_xent(x, &(fm_xent_args){d_l, d_lse, d_t, d_loss, NULL, ROWS, W, W, W, 1, dt});
    fm_op_sum(x, &(fm_sum_args){d_loss, d_sum, ROWS, 0.25, dt});
    fm_op_sum(x, &(fm_sum_args){d_loss, d_sum, ROWS, 0.25, dt});
    double *lse = fetch(x, d_lse, ROWS), *loss = fetch(x, d_loss, ROWS), *sum = fetch(x, d_sum, 1);
    double total = 0;
    for (int t = 0; t < ROWS; t++) {
        double s = 0;
        for (int w = 0; w < W; w++) s += exp(l[t * W + w]);
        assert_true(fabs(lse[t] - log(s)) <= TOL * 40);
        assert_true(fabs(loss[t] - (log(s) - l[t * W + target[t]])) <= TOL * 40);
        total += loss[t];
    }
    assert_true(fabs(sum[0] - 0.5 * total) <= TOL * 100);
    double *mine[] = {l, lse, loss, sum};
    for (int i = 0; i < 4; i++) fmi_free(mine[i]);
    fm_dev_free(x, d_l);
    fm_dev_free(x, d_t);
    fm_exec_close(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attn),
        cmocka_unit_test(test_norm_and_swiglu),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_loss),
    };
    return cmocka_run_group_tests_name("ops_naive", tests, NULL, NULL);
}
