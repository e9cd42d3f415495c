/* Fixtures for the operators that choose, move and update: router, plan, row movers, bias update,
 * gradient norm, AdamW, Muon. Expected values are worked out by hand or by plain double loops
 * here. */
#include <string.h>

#include "ops_util.h"

static const char *const devices[2] = {"cpu", "fence"};

/* Router */

typedef struct route_row {
    const char *name;
    fm_route_score scoring;
    fm_route_method method;
    int n_group, topk_group, K;
    float z[8], bias[8];
    int want[4];
} route_row;

#define NOAUX FM_ROUTE_SIGMOID, FM_ROUTE_NOAUX
#define GREEDY FM_ROUTE_SOFTMAX, FM_ROUTE_GREEDY
#define GMAX FM_ROUTE_SOFTMAX, FM_ROUTE_GROUP_MAX

static const route_row routes[] = {
    {"greedy", GREEDY, 1, 1, 3, {0, 3, 1, 2, -1, 5, 4, 0}, {0}, {5, 6, 1}},
    {"ties: lower id", GREEDY, 1, 1, 4, {1, 2, 2, 1, 2, 1, 1, 1}, {0}, {1, 2, 4, 0}},
    {"greedy passes over the bias", GREEDY, 1, 1, 2, {2, 1, 0, 0, 0, 0, 0, 0},
     {0, 0, 0, 0, 9, 9, 9, 9}, {0, 1}},
    {"NaN counts as minus infinity", NOAUX, 1, 1, 3, {NAN, -9, NAN, 1, -8, NAN, NAN, NAN},
     {0}, {3, 4, 1}},
    /* Groups of two: {0,1} {2,3} {4,5} {6,7}. */
    {"group by its best", GMAX, 4, 2, 3, {5, -3, 2, 2, 2, 2, 1, 4}, {0}, {0, 7, 6}},
    {"group by its best, tie", GMAX, 4, 1, 2, {1, 0, 3, 0, 3, 2, 0, 0}, {0}, {2, 3}},
    {"group by the sum of two", NOAUX, 4, 1, 2, {3, -3, 1, 1, 0, 0, 0, 0}, {0}, {2, 3}},
    {"sum of two with bias", NOAUX, 4, 1, 2, {3, -3, 1, 1, 0, 0, 0, 0}, {0, 0.9f, 0, 0, 0, 0, 0, 0},
     {0, 1}},
    {"negative bias drops the best", NOAUX, 1, 1, 2, {5, 4, 3, 0, 0, 0, 0, 0},
     {-1, 0, 0, 0, 0, 0, 0, 0}, {1, 2}},
    /* Kept group {4,5} is all negative; a masked expert must not win with a zero. */
    {"negative sums stay above masked", NOAUX, 4, 1, 2, {0, 0, 0, 0, 1, 2, 0, 0},
     {-5, -5, -5, -5, -2, -2, -5, -5}, {5, 4}},
    {"no groups", NOAUX, 1, 1, 4, {0, 1, 2, 3, 4, 5, 6, 7}, {0}, {7, 6, 5, 4}},
    {"two of four groups, tie of groups", NOAUX, 4, 2, 4, {1, 1, 1, 1, 1, 1, 1, 1},
     {0}, {0, 1, 2, 3}},
};

static double score_of(const route_row *r, int e)
{
    double sum = 0;
    if (r->scoring == FM_ROUTE_SIGMOID) return 1 / (1 + exp(-(double)r->z[e]));
    for (int i = 0; i < 8; i++) sum += exp((double)r->z[i]);
    return exp((double)r->z[e]) / sum;
}

static void route_check(fm_exec *x, const route_row *r, bool norm)
{
    int32_t expert[4];
    float w[4], score[8];
    void *z = dev_put(x, r->z, sizeof r->z), *bias = dev_put(x, r->bias, sizeof r->bias);
    void *s = dev_new(x, sizeof score), *e = dev_new(x, sizeof expert), *dw = dev_new(x, sizeof w);
    fm_op_route(x, &(fm_route_args){z, bias, s, e, dw, 1, 8, r->K, r->n_group, r->topk_group,
                                    r->scoring, r->method, norm, 2.5, FM_DTYPE_F32});
    dev_get(x, expert, e, sizeof expert);
    dev_get(x, w, dw, sizeof w);
    dev_get(x, score, s, sizeof score);
    double sum = 0;
    for (int k = 0; k < r->K; k++) sum += score_of(r, r->want[k]);
    for (int k = 0; k < r->K; k++) {
        if (expert[k] != r->want[k])
            fail_msg("%s: rank %d is %d, want %d", r->name, k, expert[k], r->want[k]);
        double want = score_of(r, r->want[k]) * 2.5 / (norm ? sum : 1);
        if (isnan(want)) continue;
        assert_true(fabs(w[k] - want) <= 1e-6 * want); /* some ten roundings of 6e-8 */
        assert_true(fabs(score[r->want[k]] - score_of(r, r->want[k])) <= 1e-6);
    }
    void *all[] = {z, bias, s, e, dw};
    for (int i = 0; i < 5; i++) fm_dev_free(x, all[i]);
}

static void test_route(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = open_exec(devices[d], 1, FM_ISA_SCALAR);
        for (size_t i = 0; i < sizeof routes / sizeof *routes; i++)
            for (int norm = 0; norm < 2; norm++) route_check(x, &routes[i], norm);
        fm_exec_close(x);
    }
}

/* f counts the top K of the unbiased scores; the loss is added to what is there. */
static void test_seq_balance(void **state)
{
    (void)state;
    enum { T = 4, L = 2, E = 4, K = 2 };
    const double s[T * E] = {0.1, 0.2, 0.3, 0.4, 0.4, 0.3, 0.2, 0.1,
                             0.5, 0.5, 0.5, 0.5, 0.9, 0.1, 0.8, 0.2};
    const double want_f[2 * E] = {1, 1, 1, 1, 2, 1, 1, 0}; /* E / (K L) = 1 a count */
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    const double seven = 7;
    void *score = dev_put_as(x, s, T * E, FM_DTYPE_F64), *f = dev_new(x, 2 * E * 8);
    void *loss = dev_put(x, &seven, sizeof seven);
    fm_op_seq_balance(x, &(fm_seq_balance_args){score, f, loss, T, L, E, K, 0.1, FM_DTYPE_F64});
    double *gf = dev_get_as(x, f, 2 * E, FM_DTYPE_F64), got, want = 0;
    dev_get(x, &got, loss, sizeof got);
    for (int i = 0; i < 2 * E; i++) assert_true(gf[i] == want_f[i]);
    for (int b = 0; b < 2; b++)
        for (int e = 0; e < E; e++)
            for (int t = b * L; t < (b + 1) * L; t++) {
                double total = 0;
                for (int i = 0; i < E; i++) total += s[t * E + i];
                want += want_f[b * E + e] * s[t * E + e] / total / L;
            }
    assert_true(fabs(got - (7 + 0.1 * want)) < 1e-14);
    fmi_free(gf);
    fm_dev_free(x, score);
    fm_dev_free(x, f);
    fm_dev_free(x, loss);
    fm_exec_close(x);
}

static void plan_check(fm_exec *x, rnd *r, int T, int E, int K)
{
    int n = T * K;
    int32_t *ids = fmi_alloc((size_t)(4 * n + 2 * E + 2) * 4);
    assert_non_null(ids);
    int32_t *slot = ids + n, *token = slot + n, *row = token + n, *off = row + n,
        *load = off + E + 1;
    for (int i = 0; i < n; i++) ids[i] = rnd_below(r, E);
    for (int e = 0; e < E; e++) load[e] = 100 + e;
    void *d_ids = dev_put(x, ids, (size_t)n * 4), *d_load = dev_put(x, load, (size_t)E * 4);
    void *d_off = dev_new(x, (size_t)(E + 1) * 4), *d_slot = dev_new(x, (size_t)n * 4);
    void *d_tok = dev_new(x, (size_t)n * 4), *d_row = dev_new(x, (size_t)n * 4);
    fm_op_moe_plan(x, &(fm_moe_plan_args){d_ids, d_off, d_slot, d_tok, d_row, d_load, T, E, K});
    dev_get(x, off, d_off, (size_t)(E + 1) * 4);
    dev_get(x, slot, d_slot, (size_t)n * 4);
    dev_get(x, token, d_tok, (size_t)n * 4);
    dev_get(x, row, d_row, (size_t)n * 4);
    dev_get(x, load, d_load, (size_t)E * 4);
    int at = 0;
    for (int e = 0; e < E; e++) {
        int begin = at;
        assert_int_equal(off[e], at);
        for (int s = 0; s < n; s++) {
            if (ids[s] != e) continue;
            assert_int_equal(slot[at], s);
            assert_int_equal(token[at], s / K);
            assert_int_equal(row[s], at);
            at++;
        }
        assert_int_equal(load[e], 100 + e + at - begin);
    }
    assert_int_equal(off[E], n);
    void *all[] = {d_ids, d_load, d_off, d_slot, d_tok, d_row};
    for (int i = 0; i < 6; i++) fm_dev_free(x, all[i]);
    fmi_free(ids);
}

static void test_plan(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {3};
    plan_check(x, &r, 0, 3, 2);
    plan_check(x, &r, 1, 1, 1);
    for (int i = 0; i < 40; i++)
        plan_check(x, &r, 1 + rnd_below(&r, 50), 1 + rnd_below(&r, 20), 1 + rnd_below(&r, 6));
    fm_exec_close(x);
}

/* gather to grouped rows, scatter back, and the sum of experts in ascending grouped row. */
static void test_rows(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    const float v[6] = {1, 2, 3, 4, 5, 6};
    const int32_t rows[4] = {2, -1, 0, 1};
    float back[12];
    fm_bf16 half[8];
    void *a = dev_put(x, v, sizeof v), *idx = dev_put(x, rows, sizeof rows), *b = dev_new(x, 64);
    fm_op_gather_rows(x, &(fm_gather_rows_args){a, idx, b, 4, 2, 2, 2, FM_DTYPE_F32,
                                                FM_DTYPE_BF16});
    dev_get(x, half, b, sizeof half);
    const float want[8] = {5, 6, 0, 0, 1, 2, 3, 4};
    for (int i = 0; i < 8; i++) assert_true(fmi_bf16_to_f32(half[i]) == want[i]);
    fm_op_gather_rows(x, &(fm_gather_rows_args){a, NULL, b, 3, 1, 2, 4, FM_DTYPE_F32,
                                                FM_DTYPE_F32});
    fm_op_scatter_rows(x, &(fm_scatter_rows_args){a, idx, b, 3, 2, 2, 4, FM_DTYPE_F32});
    dev_get(x, back, b, 10 * sizeof(float));
    assert_true(back[8] == 1 && back[9] == 2);  /* row 2 <- source 0 */
    assert_true(back[0] == 5 && back[1] == 6);  /* row 0 <- source 2 */
    assert_true(back[4] == 3);                  /* row 1 kept: source 1 goes nowhere */

    /* 2^24 + 1 - 2^24 in grouped order 0, 1, 2 is 0; slot order would give 1. */
    const float y[3] = {16777216.0f, 1, -16777216.0f}, shared = 0.5f, res = 10;
    const int32_t slot_row[3] = {0, 2, 1};
    void *dy = dev_put(x, y, sizeof y), *ds = dev_put(x, &shared, 4);
    void *dr = dev_put(x, slot_row, 12);
    void *dx = dev_put(x, &res, 4);
    fm_op_moe_combine(x, &(fm_moe_combine_args){dy, dr, ds, NULL, dx, dx, 1, 1, 3, FM_DTYPE_F32});
    dev_get(x, back, dx, 4);
    assert_true(back[0] == 10.5f);
    void *all[] = {a, idx, b, dy, ds, dr, dx};
    for (int i = 0; i < 7; i++) fm_dev_free(x, all[i]);
    fm_exec_close(x);
}

/* 0, 30, 10, 0: mean 10, signs +1 -1 0 +1, their mean 1/4. */
static void test_balance_update(void **state)
{
    (void)state;
    for (int center = 0; center < 2; center++) {
        fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
        const int32_t load[4] = {0, 30, 10, 0};
        const float bias[4] = {1, 1, 1, 1};
        const double sign[4] = {1, -1, 0, 1};
        fm_step_state st = {.bad = 2};
        int32_t seen[4], after[4];
        float got[4];
        void *l = dev_put(x, load, sizeof load), *last = dev_new(x, sizeof load);
        void *b = dev_put(x, bias, sizeof bias), *s = dev_put(x, &st, sizeof st);
        fm_balance_update_args args = {l, last, b, s, 4, 0.125, center, FM_DTYPE_F32};
        fm_op_balance_update(x, &args);
        dev_get(x, got, b, sizeof got);
        for (int e = 0; e < 4; e++) assert_true(got[e] == 1); /* the flag holds it back */
        args.state = NULL;
        fm_op_balance_update(x, &args);
        dev_get(x, got, b, sizeof got);
        dev_get(x, seen, last, sizeof seen);
        dev_get(x, after, l, sizeof after);
        for (int e = 0; e < 4; e++) {
            assert_true(got[e] == 1 + 0.125 * (sign[e] - (center ? 0.25 : 0)));
            assert_int_equal(seen[e], load[e]);
            assert_int_equal(after[e], 0);
        }
        void *all[] = {l, last, b, s};
        for (int i = 0; i < 4; i++) fm_dev_free(x, all[i]);
        fm_exec_close(x);
    }
}

/* Optimizers */

enum { N0 = 5000, N1 = 37, N2 = 3, NT = N0 + N1 + N2 };

typedef struct flat {
    fm_exec *x;
    double *grad, *master, *m, *v;
    void *d_grad, *d_master, *d_m, *d_v, *segs, *sumsq, *state, *loss, *w[3];
} flat;

static void flat_open(flat *f, fm_dtype dt, const char *device)
{
    rnd r = {17};
    f->x = open_exec(device, 2, FM_ISA_SCALAR);
    f->grad = rnd_doubles(&r, NT, 0.1);
    f->master = rnd_doubles(&r, NT, 1);
    f->m = rnd_doubles(&r, NT, 0.01);
    f->v = rnd_doubles(&r, NT, 0.001);
    for (int i = 0; i < NT; i++) { /* both types start from the same values */
        f->grad[i] = (float)f->grad[i];
        f->master[i] = (float)f->master[i];
        f->m[i] = (float)f->m[i];
        f->v[i] = (float)fabs(f->v[i]);
    }
    const double loss[2] = {3, 4};
    fm_step_state st = {.bad = 77};
    f->d_grad = dev_put_as(f->x, f->grad, NT, dt);
    f->d_master = dev_put_as(f->x, f->master, NT, dt);
    f->d_m = dev_put_as(f->x, f->m, NT, dt);
    f->d_v = dev_put_as(f->x, f->v, NT, dt);
    f->loss = dev_put_as(f->x, loss, 2, dt);
    f->state = dev_put(f->x, &st, sizeof st);
    f->sumsq = dev_new(f->x, 3 * sizeof(double));
    for (int i = 0; i < 3; i++) f->w[i] = dev_new(f->x, N0 * 8);
    fm_segment segs[3] = {
        {0, N0, f->w[0], (int32_t)dt, 0, 1, 0},
        {N0, N1, f->w[1], FM_DTYPE_BF16, 0, 0, 0},
        {N0 + N1, N2, f->w[2], (int32_t)dt, 1, 0, 1},
    };
    f->segs = dev_new(f->x, sizeof segs);
    fm_err e = {0};
    must(fm_segments_write(f->x, f->segs, segs, 3, &e), &e);
}

static void flat_close(flat *f)
{
    void *dev[] = {f->d_grad, f->d_master, f->d_m, f->d_v, f->segs, f->sumsq, f->state, f->loss,
                   f->w[0], f->w[1], f->w[2]};
    for (int i = 0; i < 11; i++) fm_dev_free(f->x, dev[i]);
    double *mine[] = {f->grad, f->master, f->m, f->v};
    for (int i = 0; i < 4; i++) fmi_free(mine[i]);
    fm_exec_close(f->x);
}

static fm_step_state flat_norm(flat *f, fm_dtype dt, double max_norm)
{
    fm_step_state st;
    fm_op_grad_sumsq(f->x, &(fm_grad_sumsq_args){f->d_grad, f->segs, f->sumsq, 3, dt});
    fm_op_grad_norm(f->x, &(fm_grad_norm_args){f->sumsq, f->loss, f->state, 3, 2, max_norm, dt});
    dev_get(f->x, &st, f->state, sizeof st);
    return st;
}

static void flat_adamw(flat *f, fm_dtype dt)
{
    fm_op_adamw(f->x, &(fm_adamw_args){f->d_master, f->d_grad, f->d_m, f->d_v, f->segs, f->state,
                                       3, 5, 1e-2, 0.9, 0.95, 1e-8, 0.1, dt});
}

static void test_adamw(void **state)
{
    (void)state;
    const fm_dtype types[2] = {FM_DTYPE_F64, FM_DTYPE_F32};
    const double tol[2] = {1e-14, 2e-6}; /* update sizes near 1e-2 with some ten float roundings */
    for (int k = 0; k < 2; k++) {
        flat f;
        flat_open(&f, types[k], devices[k]);
        double sum = 0;
        for (int i = 0; i < NT; i++) sum += f.grad[i] * f.grad[i];
        fm_step_state st = flat_norm(&f, types[k], 0.5);
        assert_int_equal(st.bad, 0);
        assert_true(fabs(st.grad_norm - sqrt(sum)) <= 1e-6 * sqrt(sum));
        assert_true(fabs(st.clip - 0.5 / st.grad_norm) <= 1e-7);
        flat_adamw(&f, types[k]);
        double *p = dev_get_as(f.x, f.d_master, NT, types[k]);
        double *w0 = dev_get_as(f.x, f.w[0], N0, types[k]);
        double *w1 = dev_get_as(f.x, f.w[1], N1, FM_DTYPE_BF16);
        for (int i = 0; i < N0 + N1; i++) {
            double g = (double)st.clip * f.grad[i];
            double m = 0.9 * f.m[i] + (1 - 0.9) * g, v = 0.95 * f.v[i] + (1 - 0.95) * g * g;
            double want = f.master[i] * (i < N0 ? 1 - 1e-2 * 0.1 : 1);
            want -= 1e-2 * (m / (1 - pow(0.9, 5))) / (sqrt(v / (1 - pow(0.95, 5))) + 1e-8);
            assert_true(fabs(p[i] - want) <= tol[k]);
            double stored = fmi_bf16_to_f32(fmi_f32_to_bf16((float)p[i]));
            assert_true((i < N0 ? w0[i] : w1[i - N0]) == (i < N0 ? p[i] : stored));
        }
        for (int i = N0 + N1; i < NT; i++) assert_true(p[i] == f.master[i]); /* skipped */
        fmi_free(p);
        fmi_free(w0);
        fmi_free(w1);
        flat_close(&f);
    }
}

/* No clipping below the bound or without one. */
static void test_no_clip(void **state)
{
    (void)state;
    flat f;
    flat_open(&f, FM_DTYPE_F32, "fence");
    assert_true(flat_norm(&f, FM_DTYPE_F32, 1e6).clip == 1);
    assert_true(flat_norm(&f, FM_DTYPE_F32, 0).clip == 1);
    flat_close(&f);
}

/* A non-finite gradient names its segment, a non-finite loss comes first; nothing is then
 * touched. */
static void test_not_finite(void **state)
{
    (void)state;
    const float poison[2] = {NAN, INFINITY};
    for (int k = 0; k < 4; k++) {
        flat f;
        flat_open(&f, FM_DTYPE_F32, devices[k % 2]);
        fm_err e = {0};
        float *grad = f.d_grad, *loss = f.loss;
        must(fm_write(f.x, grad + N0 + 9, &poison[k / 2], 4, &e), &e);
        must(fm_write(f.x, grad + N0 + N1, &poison[k / 2], 4, &e), &e);
        if (k == 3) must(fm_write(f.x, loss + 1, &poison[0], 4, &e), &e);
        fm_step_state st = flat_norm(&f, FM_DTYPE_F32, 1);
        assert_int_equal(st.bad, k == 3 ? -1 : 2);
        flat_adamw(&f, FM_DTYPE_F32);
        void *u = dev_new(f.x, NT * 4), *norm2 = dev_new(f.x, 4);
        fm_op_muon_momentum(f.x, &(fm_muon_momentum_args){f.d_grad, f.d_m, u, norm2, f.state, NT,
                            0.95, FM_DTYPE_F32});
        fm_op_muon_apply(f.x, &(fm_muon_apply_args){f.d_master, f.d_grad, f.w[0], f.state, 5, 7,
                         false, 0.1, 0.1, 1, FM_DTYPE_F32, FM_DTYPE_F32});
        double *p = dev_get_as(f.x, f.d_master, NT, FM_DTYPE_F32);
        double *m = dev_get_as(f.x, f.d_m, NT, FM_DTYPE_F32);
        double *v = dev_get_as(f.x, f.d_v, NT, FM_DTYPE_F32);
        double *w = dev_get_as(f.x, f.w[0], N0, FM_DTYPE_F32);
        for (int i = 0; i < NT; i++)
            assert_true(p[i] == f.master[i] && m[i] == f.m[i] && v[i] == f.v[i]);
        for (int i = 0; i < N0; i++) assert_true(w[i] == 0);
        double *mine[] = {p, m, v, w};
        for (int i = 0; i < 4; i++) fmi_free(mine[i]);
        fm_dev_free(f.x, u);
        fm_dev_free(f.x, norm2);
        flat_close(&f);
    }
}

/* Muon's three operators against plain loops, straight and transposed. */
static void test_muon(void **state)
{
    (void)state;
    enum { RO = 5, CO = 7, N = RO * CO };
    for (int tr = 0; tr < 2; tr++) {
        flat f;
        flat_open(&f, FM_DTYPE_F64, "fence");
        double clip = flat_norm(&f, FM_DTYPE_F64, 0.5).clip, norm2 = 0, got;
        void *u = dev_new(f.x, N * 8), *n2 = dev_new(f.x, 8), *y = dev_new(f.x, N * 8);
        fm_op_muon_momentum(f.x, &(fm_muon_momentum_args){f.d_grad, f.d_m, u, n2, f.state, N, 0.9,
                            FM_DTYPE_F64});
        fm_op_muon_scale(f.x, &(fm_muon_scale_args){u, n2, y, RO, CO, tr, FM_DTYPE_F64,
                                                    FM_DTYPE_F64});
        fm_op_muon_apply(f.x, &(fm_muon_apply_args){f.d_master, y, f.w[1], f.state, RO, CO, tr,
                         0.1, 0.2, 0.7, FM_DTYPE_F64, FM_DTYPE_BF16});
        double want_u[N], *gu = dev_get_as(f.x, u, N, FM_DTYPE_F64);
        double *p = dev_get_as(f.x, f.d_master, N, FM_DTYPE_F64);
        double *gy = dev_get_as(f.x, y, N, FM_DTYPE_F64);
        double *w = dev_get_as(f.x, f.w[1], N, FM_DTYPE_BF16);
        dev_get(f.x, &got, n2, 8);
        for (int i = 0; i < N; i++) {
            double g = clip * f.grad[i], m = 0.9 * f.m[i] + g;
            want_u[i] = g + 0.9 * m;
            norm2 += want_u[i] * want_u[i];
            assert_true(fabs(gu[i] - want_u[i]) < 1e-15);
        }
        assert_true(fabs(got - norm2) < 1e-14);
        for (int i = 0; i < N; i++) {
            double o = want_u[i] / (sqrt(norm2) + 1e-7);
            assert_true(fabs(gy[tr ? i % CO * RO + i / CO : i] - o) < 1e-14);
            assert_true(fabs(p[i] - (f.master[i] - 0.1 * (0.2 * f.master[i] + 0.7 * o))) < 1e-14);
            assert_true(w[i] == fmi_bf16_to_f32(fmi_f32_to_bf16((float)p[i])));
        }
        double *mine[] = {gu, p, gy, w};
        for (int i = 0; i < 4; i++) fmi_free(mine[i]);
        fm_dev_free(f.x, u);
        fm_dev_free(f.x, n2);
        fm_dev_free(f.x, y);
        flat_close(&f);
    }
}

/* round_bf16: an F weight holds the master rounded to bf16. */
static void test_round_bf16(void **state)
{
    (void)state;
    flat f;
    flat_open(&f, FM_DTYPE_F32, "fence");
    fm_segment seg = {0, N1, f.w[0], FM_DTYPE_F32, 1, 0, 0};
    fm_err e = {0};
    must(fm_segments_write(f.x, f.segs, &seg, 1, &e), &e);
    fm_step_state st = {.clip = 1};
    must(fm_write(f.x, f.state, &st, sizeof st, &e), &e);
    fm_op_adamw(f.x, &(fm_adamw_args){f.d_master, f.d_grad, f.d_m, f.d_v, f.segs, f.state, 1, 1,
                                      1e-3, 0.9, 0.95, 1e-8, 0, FM_DTYPE_F32});
    double *p = dev_get_as(f.x, f.d_master, N1, FM_DTYPE_F32);
    double *w = dev_get_as(f.x, f.w[0], N1, FM_DTYPE_F32);
    int differ = 0;
    for (int i = 0; i < N1; i++) {
        assert_true(w[i] == fmi_bf16_to_f32(fmi_f32_to_bf16((float)p[i])));
        differ += w[i] != p[i];
    }
    assert_true(differ > N1 / 2);
    fmi_free(p);
    fmi_free(w);
    flat_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_route),     cmocka_unit_test(test_seq_balance),
        cmocka_unit_test(test_plan),      cmocka_unit_test(test_rows),
        cmocka_unit_test(test_balance_update), cmocka_unit_test(test_adamw),
        cmocka_unit_test(test_no_clip),   cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_muon),      cmocka_unit_test(test_round_bf16),
    };
    return cmocka_run_group_tests_name("ops_ref", tests, NULL, NULL);
}
