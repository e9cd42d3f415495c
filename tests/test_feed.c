/* Packing of documents into rows: full rows, borders, targets, every token once a pass, exact resume,
 * the same rows whatever the micro-batch; the order of documents; schedules. */
#include "support.h"

#include <math.h>

#include "train/schedule.h"
#include "train/feed.h"

static fm_err ok_err;
#define E &ok_err

enum { T = 64, N_DOCS = 300 };

/* Document i holds the tokens i * 1000, i * 1000 + 1, ..; lengths from 1 to 300. */
static int64_t length_of(void *arg, int64_t doc)
{
    (void)arg;
    return doc % 17 == 0 ? 1 + doc : 2 + (doc * 7919) % 90;
}

static void copy_of(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    assert_in_range(begin + n, 0, length_of(arg, doc));
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)(doc * 1000 + begin + i);
}

static const fmi_docs docs = { NULL, N_DOCS, length_of, copy_of };

typedef struct rows {
    int32_t *block;
    fmi_feed_arrays a;
} rows;

static rows rows_new(int64_t n)
{
    rows r;
    int64_t M = n * T;
    r.block = calloc((size_t)(8 * M + 1), sizeof *r.block);
    int32_t *p = r.block;
    r.a = (fmi_feed_arrays){ .ids = p, .next = p + M, .pos = p + 2 * M, .k_begin = p + 3 * M,
                             .k_end = p + 4 * M, .target = p + 5 * M, .mtp_target = p + 6 * M,
                             .seg = p + 7 * M };
    return r;
}

/* Everything that must hold for one filled micro-batch. */
static void check_rows(const fmi_feed_arrays *a, int64_t n_rows)
{
    int64_t M = n_rows * T, n_target = 0, n_mtp = 0;
    assert_int_equal(a->seg[0], 0);
    assert_int_equal(a->seg[a->n_seg], M);
    for (int s = 0; s < a->n_seg; s++) {
        int32_t begin = a->seg[s], end = a->seg[s + 1];
        assert_true(begin < end);
        assert_int_equal(begin / T, (end - 1) / T); /* inside one packed row */
        int32_t doc = a->ids[begin] / 1000, first = a->ids[begin] % 1000;
        int64_t len = length_of(NULL, doc);
        for (int32_t t = begin; t < end; t++) {
            int32_t at = first + (t - begin);
            assert_int_equal(a->ids[t], doc * 1000 + at);
            assert_int_equal(a->pos[t], t - begin);
            assert_int_equal(a->k_begin[t], begin);
            assert_int_equal(a->k_end[t], t + 1);
            assert_int_equal(a->target[t], at + 1 < len ? doc * 1000 + at + 1 : -1);
            assert_int_equal(a->next[t], a->target[t]);
            assert_int_equal(a->mtp_target[t], at + 2 < len ? doc * 1000 + at + 2 : -1);
            n_target += a->target[t] >= 0;
            n_mtp += a->mtp_target[t] >= 0;
        }
        /* A document ends, its window of T does, the row does, or a single token (already a target)
         * is left. */
        int64_t left = len - first - (end - begin);
        assert_true(left <= 1 || end % T == 0 || (len > T && (first + end - begin) % T == 0));
    }
    assert_int_equal(a->n_target, n_target);
    assert_int_equal(a->n_mtp_target, n_mtp);
}

static void test_rows(void **state)
{
    (void)state;
    fmi_feed f;
    OK(fmi_feed_init(&f, &docs, T, 7, true, false, E));
    rows r = rows_new(5);
    for (int i = 0; i < 200; i++) {
        assert_int_equal(fmi_feed_fill(&f, 5, &r.a), 5);
        check_rows(&r.a, 5);
    }
    assert_int_equal(f.pos.rows, 1000);
    free(r.block);
    fmi_feed_deinit(&f);
}

/* One pass in order: each token but a document's first is a target exactly once. */
static void test_once(void **state)
{
    (void)state;
    fmi_feed f;
    OK(fmi_feed_init(&f, &docs, T, 0, false, true, E));
    rows r = rows_new(3);
    char *seen = calloc(N_DOCS * 1000, 1);
    int64_t expected = 0, found = 0, used;
    for (int64_t d = 0; d < N_DOCS; d++) expected += length_of(NULL, d) - 1;
    do {
        used = fmi_feed_fill(&f, 3, &r.a);
        found += r.a.n_target;
        for (int t = 0; t < 3 * T; t++)
            if (r.a.target[t] >= 0) assert_int_equal(seen[r.a.target[t]]++, 0);
        for (int t = 0; t < 3 * T; t++)
            if (r.a.k_begin[t] == r.a.k_end[t]) assert_int_equal(r.a.target[t], -1);
    } while (used == 3);
    assert_int_equal(found, expected);
    free(seen);
    free(r.block);
    fmi_feed_deinit(&f);
}

/* Every epoch hands out every usable document; the waiting ones are the only exception. */
static void test_epochs(void **state)
{
    (void)state;
    char seen[N_DOCS];
    for (int64_t e = 0; e < 3; e++) {
        memset(seen, 0, sizeof seen);
        int same = 0;
        for (int64_t i = 0; i < N_DOCS; i++) {
            int64_t d = fmi_feed_order(5, e, N_DOCS, i);
            assert_in_range(d, 0, N_DOCS - 1);
            assert_int_equal(seen[d]++, 0);
            same += d == i;
        }
        assert_true(same < 10); /* about one fixed point is expected */
    }
    assert_int_equal(fmi_feed_order(5, 0, 1, 0), 0);
    assert_true(fmi_feed_order(5, 0, N_DOCS, 3) != fmi_feed_order(5, 1, N_DOCS, 3) ||
                fmi_feed_order(5, 0, N_DOCS, 4) != fmi_feed_order(5, 1, N_DOCS, 4));
}

static void test_resume(void **state)
{
    (void)state;
    fmi_feed a, b;
    OK(fmi_feed_init(&a, &docs, T, 3, true, false, E));
    OK(fmi_feed_init(&b, &docs, T, 3, true, false, E));
    rows ra = rows_new(4), rb = rows_new(4);
    for (int i = 0; i < 37; i++) fmi_feed_fill(&a, 4, &ra.a);
    assert_true(fmi_feed_pos_ok(&b, &a.pos));
    b.pos = a.pos;
    for (int i = 0; i < 37; i++) {
        fmi_feed_fill(&a, 4, &ra.a);
        fmi_feed_fill(&b, 4, &rb.a);
        assert_memory_equal(ra.block, rb.block, (size_t)(7 * 4 * T) * sizeof(int32_t));
        assert_memory_equal(ra.a.seg, rb.a.seg, (size_t)(ra.a.n_seg + 1) * sizeof(int32_t));
    }
    fmi_feed_pos bad = a.pos;
    bad.open[0].doc = N_DOCS;
    assert_false(fmi_feed_pos_ok(&a, &bad));
    bad = a.pos;
    bad.n_open = FMI_FEED_OPEN + 1;
    assert_false(fmi_feed_pos_ok(&a, &bad));
    free(ra.block);
    free(rb.block);
    fmi_feed_deinit(&a);
    fmi_feed_deinit(&b);
}

/* Twelve rows are the same rows in micro-batches of 12, 4 and 1. */
static void test_micro(void **state)
{
    (void)state;
    fmi_feed f[3];
    static const int64_t micro[3] = { 12, 4, 1 };
    rows r = rows_new(12);
    int32_t ids[3][12 * T], target[3][12 * T];
    for (int k = 0; k < 3; k++) {
        OK(fmi_feed_init(&f[k], &docs, T, 9, true, false, E));
        for (int64_t i = 0; i < 12; i += micro[k]) {
            fmi_feed_fill(&f[k], micro[k], &r.a);
            memcpy(&ids[k][i * T], r.a.ids, (size_t)(micro[k] * T) * sizeof(int32_t));
            memcpy(&target[k][i * T], r.a.target, (size_t)(micro[k] * T) * sizeof(int32_t));
        }
        fmi_feed_deinit(&f[k]);
    }
    assert_memory_equal(ids[0], ids[1], sizeof ids[0]);
    assert_memory_equal(ids[0], ids[2], sizeof ids[0]);
    assert_memory_equal(target[0], target[1], sizeof target[0]);
    assert_memory_equal(target[0], target[2], sizeof target[0]);
    free(r.block);
}

static int64_t length_one(void *arg, int64_t doc)
{
    (void)arg;
    (void)doc;
    return 1;
}

static void test_empty(void **state)
{
    (void)state;
    fmi_feed f;
    fmi_docs none = { NULL, 0, length_of, copy_of }, ones = { NULL, 5, length_one, copy_of };
    assert_int_equal(fmi_feed_init(&f, &none, T, 0, true, false, E), FM_E_RANGE);
    assert_int_equal(fmi_feed_init(&f, &ones, T, 0, true, false, E), FM_E_RANGE);
}

static void near(double a, double b)
{
    if (fabs(a - b) > 1e-12 * (1 + fabs(b))) fail_msg("%.15g is not %.15g", a, b);
}

static void test_schedules(void **state)
{
    (void)state;
    fmi_settings s;
    fmi_settings_default(&s);
    OK(fmi_settings_set(&s, NULL, "train.lr", "0.01", E));
    OK(fmi_settings_set(&s, NULL, "train.warmup", "0.1", E));
    OK(fmi_settings_set(&s, NULL, "train.decay", "0.3", E));
    OK(fmi_settings_set(&s, NULL, "train.lr_end", "0.1", E));
    near(fmi_schedule_lr(&s, 0.05, 0.05), 0.005);
    near(fmi_schedule_lr(&s, 0.1, 0.1), 0.01);
    near(fmi_schedule_lr(&s, 0.69, 0.69), 0.01);
    near(fmi_schedule_lr(&s, 0.85, 0.85), 0.01 * 0.55);
    near(fmi_schedule_lr(&s, 1, 1), 0.001);
    OK(fmi_settings_set(&s, NULL, "train.schedule", "cosine", E));
    near(fmi_schedule_lr(&s, 0.1, 0.1), 0.01);
    near(fmi_schedule_lr(&s, 0.55, 0.55), 0.0055);
    near(fmi_schedule_lr(&s, 1, 1), 0.001);
    OK(fmi_settings_set(&s, NULL, "train.schedule", "v3", E));
    near(fmi_schedule_lr(&s, 9.9 / 14.8, 9.9 / 14.8), 0.01);
    near(fmi_schedule_lr(&s, 12.15 / 14.8, 12.15 / 14.8), 0.0055);
    near(fmi_schedule_lr(&s, 14.4 / 14.8, 14.4 / 14.8), 0.001);
    near(fmi_schedule_lr(&s, 14.7 / 14.8, 14.7 / 14.8), 0.01 * 7.3 / 220);
    s.balance_gamma = 0.001;
    s.balance_gamma_decay = 1;
    s.balance_gamma_end = 0.9;
    near(fmi_schedule_gamma(&s, 0.89), 0.001);
    near(fmi_schedule_gamma(&s, 0.9), 0);
    s.balance_gamma_decay = 0.5;
    near(fmi_schedule_gamma(&s, 0.5), 0.001);
    near(fmi_schedule_gamma(&s, 0.7), 0.001 * (1 - 0.95 * 0.5));
    near(fmi_schedule_mtp(&s, 0.1), 0.3);
    near(fmi_schedule_mtp(&s, 0.9), 0.1);
    s.data_seq = 100;
    s.train_batch_start = 200;
    s.train_batch = 1000;
    s.train_batch_ramp = 0.5;
    assert_int_equal(fmi_schedule_rows(&s, 0), 2);
    assert_int_equal(fmi_schedule_rows(&s, 0.25), 6);
    assert_int_equal(fmi_schedule_rows(&s, 0.5), 10);
    assert_int_equal(fmi_schedule_rows(&s, 1), 10);
    assert_true(fmi_schedule_crosses(10, 0.19, 0.2));
    assert_false(fmi_schedule_crosses(10, 0.2, 0.29));
    assert_true(fmi_schedule_crosses(10, 0.99, 1));
}

/* The laws: DeepSeek LLM's equation 1 at 1e20 FLOPs gives 9.9e-4 (their figure 3: about 1e-3). */
static void test_laws(void **state)
{
    (void)state;
    fmi_settings s;
    fmi_settings_default(&s);
    s.data_seq = 4096;
    fmi_horizon h = { .tokens = 10000000000 };
    fmi_settings_resolve(&s, 1e10, &h);
    near(s.train_lr, 0.3118 * pow(1e20, -0.125));
    assert_true(fabs((double)s.train_batch - 0.2920 * pow(1e20, 0.3271)) <= 2048);
    near(s.balance_gamma, 0.001);
    fmi_settings_default(&s);
    h = (fmi_horizon){ .steps = 100 };
    fmi_settings_resolve(&s, 3e7, &h);
    assert_int_equal(h.tokens, 100 * s.train_batch);
    near(s.balance_gamma, 0.02);
    assert_int_equal(s.train_micro % s.data_seq, 0);
    near(s.train_momentum, 0.8);
    near(s.train_beta2, 0.99);
    near(s.train_lr_embed, 8);
    fmi_settings_default(&s);
    h = (fmi_horizon){ .steps = 100000 };
    fmi_settings_resolve(&s, 3e7, &h);
    near(s.train_momentum, 0.95);
    fmi_settings_default(&s);
    OK(fmi_settings_set(&s, NULL, "train.optimizer", "adamw", E));
    h = (fmi_horizon){ .steps = 100 };
    fmi_settings_resolve(&s, 3e7, &h);
    near(s.train_beta2, 0.95);
    near(s.train_lr_embed, 1);
    fmi_settings_default(&s);
    h = (fmi_horizon){ .steps = 800 };
    fmi_settings_resolve(&s, 3e7, &h);
    near(s.train_momentum, 0.9);
    fmi_settings_default(&s);
    OK(fmi_settings_set(&s, NULL, "train.optimizer", "soap", E));
    OK(fmi_settings_set(&s, NULL, "train.lr_embed", "3", E));
    h = (fmi_horizon){ .steps = 100 };
    fmi_settings_resolve(&s, 3e7, &h);
    near(s.train_momentum, 0.95);
    near(s.train_beta2, 0.95);
    near(s.train_lr_embed, 3);
}

static void test_settings(void **state)
{
    (void)state;
    fmi_settings s;
    char v[64];
    fmi_settings_default(&s);
    OK(fmi_settings_set(&s, NULL, "stop.tokens", "2e6", E));
    assert_int_equal(s.stop_tokens, 2000000);
    assert_int_equal(fmi_settings_set(&s, NULL, "train.lrr", "1", E), FM_E_FORMAT);
    assert_non_null(strstr(ok_err.text, "train.lr?"));
    assert_int_equal(fmi_settings_set(&s, NULL, "train.lr", "2", E), FM_E_RANGE);
    assert_int_equal(fmi_settings_set(&s, NULL, "train.keep", "1.5", E), FM_E_RANGE);
    assert_int_equal(fmi_settings_set(&s, NULL, "train.optimizer", "sgd", E), FM_E_RANGE);
    OK(fmi_settings_set(&s, NULL, "train.lr", "0.1", E));
    OK(fmi_settings_get(&s, "train.lr", v, sizeof v, E));
    assert_string_equal(v, "0.1");
    OK(fmi_settings_get(&s, "train.batch", v, sizeof v, E));
    assert_string_equal(v, "auto");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),      cmocka_unit_test(test_once),   cmocka_unit_test(test_epochs),
        cmocka_unit_test(test_resume),    cmocka_unit_test(test_micro),  cmocka_unit_test(test_empty),
        cmocka_unit_test(test_schedules), cmocka_unit_test(test_laws),   cmocka_unit_test(test_settings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
