/* The sampler: argmax, penalty, mask, filters against a sort written here, reproducibility, and the
 * distribution of its draws by chi-square, which must also reject a wrong one. */
#include <stdlib.h>
#include <string.h>

#include "ops_util.h"

#define PLAIN {.seed = 1, .temperature = 1, .top_p = 1, .repetition_penalty = 1, .mask = -1}
#define W_MAX 400

/* Draws rows[n] from one row of logits [W] each (or from the same when same is set). */
static void draw(fm_exec *x, const float *logits, bool same, const fm_sample_row *rows, int n,
                 int W,
                 const int32_t *history, int n_history, const uint32_t *mask, int n_mask,
                 int32_t *token, float *logprob)
{
    size_t lb = (size_t)(same ? 1 : n) * (size_t)W * 4;
    void *l = dev_put(x, logits, lb), *r = dev_put(x, rows, (size_t)n * sizeof *rows);
    void *h = dev_put(x, history, (size_t)n_history * 4), *m = dev_put(x, mask, (size_t)n_mask * 4);
    void *t = dev_new(x, (size_t)n * 4), *p = dev_new(x, (size_t)n * 4);
    void *s = dev_new(x, (size_t)n * (size_t)W * 4);
    fm_op_sample(x, &(fm_sample_args){l, r, h, n_mask ? m : NULL, t, p, s, n, W, same ? 0 : W,
                 FM_DTYPE_F32});
    dev_get(x, token, t, (size_t)n * 4);
    if (logprob) dev_get(x, logprob, p, (size_t)n * 4);
    void *all[] = {l, r, h, m, t, p, s};
    for (int i = 0; i < 7; i++) fm_dev_free(x, all[i]);
}

static int32_t draw1(fm_exec *x, const float *logits, fm_sample_row row, int W)
{
    int32_t token;
    draw(x, logits, true, &row, 1, W, NULL, 0, NULL, 0, &token, NULL);
    return token;
}

static void test_argmax(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    fm_sample_row row = PLAIN;
    row.temperature = 0;
    const float tie[6] = {1, 3, 2, 3, -1, 3}, odd[4] = {NAN, -5, -INFINITY, -7};
    const float none[3] = {NAN, -INFINITY, NAN}, huge[3] = {1, INFINITY, 2};
    assert_int_equal(draw1(x, tie, row, 6), 1);
    assert_int_equal(draw1(x, odd, row, 4), 1);
    assert_int_equal(draw1(x, none, row, 3), -1);
    assert_int_equal(draw1(x, huge, row, 3), 1);
    row.temperature = 1;
    assert_int_equal(draw1(x, huge, row, 3), 1);
    assert_int_equal(draw1(x, none, row, 3), -1);
    row.temperature = 1e-30f; /* as good as argmax */
    for (uint64_t pos = 0; pos < 50; pos++) {
        row.position = pos;
        assert_int_equal(draw1(x, (float[4]){1, 2, 4, 3}, row, 4), 2);
    }
    fm_exec_close(x);
}

/* Penalty: positive divided, negative multiplied, once however often the token occurs. */
static void test_penalty_and_mask(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    const float l[4] = {4, 3, -1, 2.5f}, neg[2] = {-1, -1.5f};
    const int32_t history[4] = {9, 0, 0, -1};
    int32_t token;
    fm_sample_row row = PLAIN;
    row.temperature = 0;
    row.history_n = 4;
    row.repetition_penalty = 1.25f; /* 4 / 1.25 = 3.2 still wins; twice would be 2.56 */
    draw(x, l, true, &row, 1, 4, history, 4, NULL, 0, &token, NULL);
    assert_int_equal(token, 0);
    row.repetition_penalty = 1.5f;
    draw(x, l, true, &row, 1, 4, history, 4, NULL, 0, &token, NULL);
    assert_int_equal(token, 1);
    row.history_begin = 3; /* its own part of the history holds nothing */
    row.history_n = 1;
    draw(x, l, true, &row, 1, 4, history, 4, NULL, 0, &token, NULL);
    assert_int_equal(token, 0);
    row.history_begin = 1;
    row.repetition_penalty = 2; /* -1 becomes -2 */
    draw(x, neg, true, &row, 1, 2, history, 4, NULL, 0, &token, NULL);
    assert_int_equal(token, 1);

    float wide[70];
    uint32_t mask[6] = {~0u, ~0u, ~0u, 0x10, 0, 1u << 4};
    for (int i = 0; i < 70; i++) wide[i] = (float)i;
    fm_sample_row masked = PLAIN;
    masked.mask = 1; /* tokens 4 and 68 */
    for (int i = 0; i < 20; i++) {
        masked.position = (uint64_t)i;
        masked.temperature = (float)i * 10;
        draw(x, wide, true, &masked, 1, 70, NULL, 0, mask, 6, &token, NULL);
        assert_true(token == 68 || (token == 4 && i > 0));
    }
    fm_exec_close(x);
}

/* logprob: of the token, at temperature 1, before filters. */
static void test_logprob(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 2, FM_ISA_SCALAR);
    rnd r = {4};
    float l[40];
    fm_sample_row row = PLAIN;
    row.temperature = 0.5f;
    row.top_k = 3;
    for (int i = 0; i < 30; i++) {
        for (int w = 0; w < 40; w++) l[w] = (float)(5 * rnd_unit(&r));
        int32_t token;
        float lp;
        double sum = 0;
        row.position = (uint64_t)i;
        draw(x, l, true, &row, 1, 40, NULL, 0, NULL, 0, &token, &lp);
        for (int w = 0; w < 40; w++) sum += exp((double)l[w]);
        assert_true(fabs(lp - (l[token] - log(sum))) < 4e-6); /* some roundings of values near 10 */
    }
    fm_exec_close(x);
}

/* The kept set by sorting: descending x, equal x by id. */
typedef struct entry {
    double x;
    int id;
} entry;

static int by_x(const void *a, const void *b)
{
    const entry *p = a, *q = b;
    if (p->x != q->x) return p->x < q->x ? 1 : -1;
    return p->id - q->id;
}

/* Fills p[W] with the expected probabilities (0: dropped); returns false when a limit is too close
 * to call in float. */
static bool expected(const float *l, int W, const fm_sample_row *row, double *p)
{
    entry e[W_MAX];
    double total = 0, run = 0, sum = 0;
    bool clear = true;
    int n = W;
    for (int w = 0; w < W; w++) e[w] = (entry){(double)l[w] / row->temperature, w};
    qsort(e, (size_t)W, sizeof *e, by_x);
    if (row->top_k > 0 && row->top_k < n) n = row->top_k;
    for (int i = 0; i < n; i++) total += exp(e[i].x - e[0].x);
    if (row->top_p < 1) {
        int keep = 0;
        while (keep < n && run < row->top_p * total) {
            run += exp(e[keep++].x - e[0].x);
            clear = clear && fabs(run - row->top_p * total) > 1e-5 * total;
        }
        n = keep;
    }
    memset(p, 0, (size_t)W * sizeof *p);
    for (int i = 0; i < n; i++) {
        double q = exp(e[i].x - e[0].x);
        clear = clear && fabs(q - row->min_p) > 1e-5 * row->min_p * (row->min_p > 0);
        if (row->min_p > 0 && q < row->min_p) continue;
        p[e[i].id] = q;
        sum += q;
    }
    for (int w = 0; w < W; w++) p[w] /= sum;
    return clear;
}

/* A very high temperature at the end would show every kept token; instead temperature is part of
 * the filter, so many draws are made and each must be kept, and each likely token must be seen. */
static void test_filters(void **state)
{
    (void)state;
    enum { DRAWS = 400 };
    fm_exec *x = open_exec("cpu", 2, FM_ISA_SCALAR);
    rnd r = {5};
    static int32_t token[DRAWS];
    static fm_sample_row rows[DRAWS];
    int called = 0;
    for (int c = 0; c < 150; c++) {
        int W = 2 + rnd_below(&r, c % 3 ? 12 : W_MAX - 2);
        float l[W_MAX];
        double p[W_MAX];
        /* Few distinct values, so that ties at the limits are common. */
        for (int w = 0; w < W; w++)
            l[w] = c % 2 ? (float)rnd_below(&r, 4) : (float)(3 * rnd_unit(&r));
        fm_sample_row row = PLAIN;
        row.temperature = (float)(0.5 + 0.1 * rnd_below(&r, 12));
        if (rnd_below(&r, 2)) row.top_k = 1 + rnd_below(&r, W + 2);
        if (rnd_below(&r, 2)) row.top_p = (float)(0.05 + 0.9 * (rnd_unit(&r) + 1) / 2);
        if (rnd_below(&r, 3) == 0) row.min_p = (float)(0.3 * (rnd_unit(&r) + 1) / 2);
        if (!expected(l, W, &row, p)) continue;
        called++;
        for (int i = 0; i < DRAWS; i++) {
            rows[i] = row;
            rows[i].position = (uint64_t)i;
        }
        draw(x, l, true, rows, DRAWS, W, NULL, 0, NULL, 0, token, NULL);
        int seen[W_MAX] = {0};
        for (int i = 0; i < DRAWS; i++) {
            assert_in_range(token[i], 0, W - 1);
            if (p[token[i]] == 0)
                fail_msg("case %d: token %d of %d was dropped by the filters", c, token[i], W);
            seen[token[i]]++;
        }
        /* 400 draws miss a token of p >= 0.06 once in 10^10. */
        for (int w = 0; w < W; w++)
            if (p[w] >= 0.06) assert_true(seen[w] > 0);
    }
    assert_true(called > 100);
    fm_exec_close(x);
}

/* Chi-square of n draws against p. */
static double chi_square(const int32_t *token, int n, const double *p, int W)
{
    double chi = 0;
    int count[16] = {0};
    for (int i = 0; i < n; i++) count[token[i]]++;
    for (int w = 0; w < W; w++) {
        double want = p[w] * n;
        if (want > 0) chi += (count[w] - want) * (count[w] - want) / want;
    }
    return chi;
}

static void test_distribution(void **state)
{
    (void)state;
    enum { N = 30000, W = 6 };
    fm_exec *x = open_exec("cpu", 2, FM_ISA_SCALAR);
    const float l[W] = {0.3f, 2, 1, -1, 1.5f, 0};
    double p[W], wrong[W];
    fm_sample_row *rows = fmi_alloc(N * sizeof *rows), other = PLAIN;
    int32_t *token = fmi_alloc(N * sizeof *token);
    assert_true(rows && token);
    /* Each part of the key alone makes independent draws. */
    for (int key = 0; key < 3; key++) {
        for (int i = 0; i < N; i++) {
            rows[i] = (fm_sample_row)PLAIN;
            rows[i].temperature = 0.8f;
            if (key == 0) rows[i].position = (uint64_t)i;
            if (key == 1) rows[i].choice = (uint32_t)i;
            if (key == 2) rows[i].seed = (uint64_t)i;
        }
        draw(x, l, true, rows, N, W, NULL, 0, NULL, 0, token, NULL);
        expected(l, W, &rows[0], p);
        /* 5 degrees of freedom: 20.5 is passed once in a thousand. */
        double chi = chi_square(token, N, p, W);
        if (!(chi < 20.5)) fail_msg("key %d: chi-square %.1f", key, chi);
        /* The rule that forgets the temperature is far outside, and so is one swapped pair. */
        expected(l, W, &other, wrong);
        assert_true(chi_square(token, N, wrong, W) > 200);
        memcpy(wrong, p, sizeof p);
        wrong[0] = p[5];
        wrong[5] = p[0];
        assert_true(chi_square(token, N, wrong, W) > 200);
    }
    fmi_free(rows);
    fmi_free(token);
    fm_exec_close(x);
}

/* A row's token depends on its key and logits alone: any place in a batch, any thread count. */
static void test_rows_alone(void **state)
{
    (void)state;
    enum { N = 37, W = 33 };
    rnd r = {6};
    float l[N * W];
    fm_sample_row rows[N];
    int32_t all[N], again[N];
    float lp[N], lp1;
    for (int i = 0; i < N * W; i++) l[i] = (float)(3 * rnd_unit(&r));
    for (int i = 0; i < N; i++) {
        rows[i] = (fm_sample_row)PLAIN;
        rows[i].seed = (uint64_t)i * 7;
        rows[i].position = (uint64_t)rnd_below(&r, 1000);
        rows[i].top_k = i % 5;
        rows[i].top_p = i % 3 ? 1 : 0.8f;
    }
    fm_exec *one = open_exec("cpu", 1, FM_ISA_SCALAR);
    fm_exec *three = open_exec("fence", 3, FM_ISA_SCALAR);
    draw(three, l, false, rows, N, W, NULL, 0, NULL, 0, all, lp);
    draw(one, l, false, rows, N, W, NULL, 0, NULL, 0, again, NULL);
    assert_memory_equal(all, again, sizeof all);
    for (int i = 0; i < N; i++) {
        draw(one, l + i * W, true, rows + i, 1, W, NULL, 0, NULL, 0, again, &lp1);
        assert_int_equal(again[0], all[i]);
        assert_memory_equal(&lp1, &lp[i], sizeof lp1);
    }
    fm_exec_close(one);
    fm_exec_close(three);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_argmax),  cmocka_unit_test(test_penalty_and_mask),
        cmocka_unit_test(test_logprob), cmocka_unit_test(test_filters),
        cmocka_unit_test(test_distribution), cmocka_unit_test(test_rows_alone),
    };
    return cmocka_run_group_tests_name("ops_sample", tests, NULL, NULL);
}
