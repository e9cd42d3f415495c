/* Base: error text, heap hooks, arena, thread pool and the counter-based generator. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>

#include "base/pool.h"
#include "base/rng.h"

static void test_fail_text(void **state)
{
    (void)state;
    fm_err err;
    assert_int_equal(FM_FAIL(&err, FM_E_FORMAT, "file %s: byte %d\n", "a.txt", 12), FM_E_FORMAT);
    assert_int_equal(err.code, FM_E_FORMAT);
    assert_string_equal(err.text, "file a.txt: byte 12");
    assert_int_equal(fmi_fail_prefix(&err, FM_E_FORMAT, "loading %s", "m"), FM_E_FORMAT);
    assert_string_equal(err.text, "loading m: file a.txt: byte 12");
    FM_FAIL(&err, FM_E_IO, "again: %s", err.text); /* the old text as an argument */
    assert_string_equal(err.text, "again: loading m: file a.txt: byte 12");
    assert_int_equal(FM_FAIL(NULL, FM_E_IO, "x"), FM_E_IO);
    assert_int_equal(fmi_fail_prefix(NULL, FM_E_IO, "x"), FM_E_IO);
    char big[2 * FM_ERR_TEXT_MAX];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    FM_FAIL(&err, FM_E_IO, "%s", big);
    assert_int_equal(strlen(err.text), FM_ERR_TEXT_MAX - 1);
    fmi_fail_prefix(&err, FM_E_IO, "p");
    assert_int_equal(strlen(err.text), FM_ERR_TEXT_MAX - 1);
    fmi_fail_prefix(&err, FM_E_IO, "%s", big);
    assert_int_equal(strlen(err.text), FM_ERR_TEXT_MAX - 1);
    assert_string_equal(fm_status_text(FM_E_FORMAT), "malformed input");
    assert_string_equal(fm_status_text((fm_status)99), "unknown status");
}

static void test_heap_hooks(void **state)
{
    (void)state;
    int64_t calls = fmi_alloc_calls();
    void *a = fmi_alloc(3), *b = fmi_zalloc(100), *c = fmi_alloc_aligned(1000, 256);
    assert_int_equal(fmi_alloc_calls() - calls, 3);
    assert_non_null(a);
    assert_int_equal((uintptr_t)c % 256, 0);
    for (int i = 0; i < 100; i++) assert_int_equal(((char *)b)[i], 0);
    for (int i = 0; i < 1000; i++) assert_int_equal(((char *)c)[i], 0);
    a = fmi_realloc(a, 50);
    fmi_free(a);
    fmi_free(b);
    fmi_free_aligned(c);
    fmi_free(NULL);
    fmi_free_aligned(NULL);
    fmi_alloc_fail_after(3);
    void *p1 = fmi_alloc(1);
    char *p2 = fmi_strdup("x"), *p3 = fmi_format("%d", 5), *p4 = fmi_format("%d", 6);
    assert_non_null(p1);
    assert_string_equal(p2, "x");
    assert_null(p3);
    assert_string_equal(p4, "6");
    fmi_free(p1);
    fmi_free(p2);
    fmi_free(p4);
    assert_null(fmi_alloc_aligned(SIZE_MAX - 8, 64));
    int64_t r = 5;
    assert_true(fmi_mul_ok(1 << 20, 1 << 20, &r));
    assert_true(r == (int64_t)1 << 40);
    assert_false(fmi_mul_ok(INT64_MAX, 2, &r));
    assert_false(fmi_mul_ok(-1, 2, &r));
}

static size_t carve(fmi_arena *a, char **x, char **y)
{
    *x = fmi_arena_take(a, 1);
    *y = fmi_arena_take(a, 65);
    return a->used;
}

static void test_arena(void **state)
{
    (void)state;
    char *x, *y;
    fmi_arena plan = {0};
    size_t need = carve(&plan, &x, &y);
    assert_int_equal(need, 64 + 128);
    assert_null(x);
    fmi_arena a = {.base = fmi_alloc_aligned(need, 64), .cap = need};
    assert_int_equal(carve(&a, &x, &y), need);
    assert_ptr_equal(x, a.base);
    assert_ptr_equal(y, a.base + 64);
    fmi_free_aligned(a.base);
}

typedef struct pool_job {
    int64_t out[4096];
    atomic_int calls;
    int64_t n, grain, salt;
} pool_job;

static void pool_work(void *arg, int tid, int n_threads)
{
    pool_job *j = arg;
    int64_t begin, end;
    fmi_pool_share(j->n, j->grain, tid, n_threads, &begin, &end);
    for (int64_t i = begin; i < end; i++) j->out[i] += i * j->salt;
    atomic_fetch_add(&j->calls, 1);
}

static void test_pool_runs_everything_once(void **state)
{
    (void)state;
    static const int threads[] = {1, 2, 3, 7, 16};
    static pool_job job;
    for (size_t t = 0; t < sizeof threads / sizeof threads[0]; t++) {
        fmi_pool *p;
        assert_int_equal(fmi_pool_new(threads[t], &p, NULL), FM_OK);
        assert_int_equal(fmi_pool_threads(p), threads[t]);
        for (int round = 0; round < 2000; round++) {
            job.n = round % 300;
            job.grain = 1 + round % 9;
            job.salt = round + 1;
            memset(job.out, 0, sizeof job.out[0] * 300);
            atomic_store(&job.calls, 0);
            fmi_pool_run(p, pool_work, &job);
            assert_int_equal(atomic_load(&job.calls), threads[t]);
            for (int64_t i = 0; i < job.n; i++) assert_int_equal(job.out[i], i * job.salt);
        }
        fmi_pool_free(p);
    }
    fmi_pool_free(NULL);
    fm_err err;
    fmi_pool *p = NULL;
    assert_int_equal(fmi_pool_new(0, &p, &err), FM_E_RANGE);
    assert_null(p);
    fmi_alloc_fail_after(2);
    assert_int_equal(fmi_pool_new(2, &p, &err), FM_E_NOMEM);
    fmi_alloc_fail_after(0);
}

static void test_processors_follow_affinity(void **state)
{
    (void)state;
    cpu_set_t all, one;
    CPU_ZERO(&one);
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(fmi_processors(), CPU_COUNT(&all));
    for (int i = 0; i < CPU_SETSIZE && !CPU_COUNT(&one); i++)
        if (CPU_ISSET(i, &all)) CPU_SET(i, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(fmi_processors(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

static void test_pool_sleeps_and_wakes(void **state)
{
    (void)state;
    static pool_job job;
    fmi_pool *p;
    assert_int_equal(fmi_pool_new(2, &p, NULL), FM_OK);
    job.n = 10;
    job.grain = 1;
    for (int i = 0; i < 20; i++) {
        double until = fmi_clock_s() + 2e-3; /* longer than any spin */
        while (fmi_clock_s() < until) {}
        atomic_store(&job.calls, 0);
        fmi_pool_run(p, pool_work, &job);
        assert_int_equal(atomic_load(&job.calls), 2);
    }
    fmi_pool_free(p);
}

static void test_shares_cover(void **state)
{
    (void)state;
    for (int64_t n = 0; n < 70; n++)
        for (int64_t grain = 1; grain < 20; grain++)
            for (int nt = 1; nt < 9; nt++) {
                int64_t at = 0, least = INT64_MAX, most = 0;
                for (int t = 0; t < nt; t++) {
                    int64_t b, e;
                    fmi_pool_share(n, grain, t, nt, &b, &e);
                    assert_int_equal(b, at);
                    assert_true(e >= b && (b % grain == 0 || b == n));
                    int64_t blocks = (e - b + grain - 1) / grain;
                    if (blocks < least) least = blocks;
                    if (blocks > most) most = blocks;
                    at = e;
                }
                assert_int_equal(at, n);
                assert_true(most - least <= 1);
            }
}

/* Known answers published with Random123 (kat_vectors, philox4x32 10). */
static void test_philox_known_answers(void **state)
{
    (void)state;
    static const struct {
        uint32_t c[4], k[2], want[4];
    } rows[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint32_t got[4];
        uint64_t position = (uint64_t)(rows[i].c[3] & 0xffffff) << 32 | rows[i].c[2];
        fmi_rng_words((uint64_t)rows[i].k[1] << 32 | rows[i].k[0], rows[i].c[1], position,
                      rows[i].c[3] >> 24, rows[i].c[0], got);
        for (int w = 0; w < 4; w++) assert_int_equal(got[w], rows[i].want[w]);
    }
}

static void test_uniform_and_normal(void **state)
{
    (void)state;
    enum { N = 200000 };
    double su = 0, sn = 0, sn2 = 0, sn4 = 0, lag = 0, last = 0;
    float least = 1, most = 0;
    for (int i = 0; i < N; i++) {
        float u = fmi_rng_uniform(11, 2, 3, FMI_RNG_TEST, (uint32_t)i);
        double z = fmi_rng_normal(11, 5, (uint64_t)i, FMI_RNG_INIT);
        assert_true(u > 0 && u < 1 && isfinite(z));
        if (u < least) least = u;
        if (u > most) most = u;
        su += (double)u;
        sn += z;
        sn2 += z * z;
        sn4 += z * z * z * z;
        lag += z * last;
        last = z;
    }
    /* Five standard errors of each estimate. */
    double root = sqrt((double)N);
    assert_true(fabs(su / N - 0.5) < 5 * sqrt(1.0 / 12) / root);
    assert_true(fabs(sn / N) < 5 / root);
    assert_true(fabs(sn2 / N - 1) < 5 * sqrt(2.0) / root);
    assert_true(fabs(sn4 / N - 3) < 5 * sqrt(96.0) / root);
    assert_true(fabs(lag / N) < 5 / root);
    assert_true(least < 1e-3f && most > 0.999f);
    assert_true(fmi_rng_normal(1, 2, 3, FMI_RNG_INIT) == fmi_rng_normal(1, 2, 3, FMI_RNG_INIT));
    assert_true(fmi_rng_normal(1, 2, 3, FMI_RNG_INIT) != fmi_rng_normal(2, 2, 3, FMI_RNG_INIT));
    assert_true(fmi_rng_normal(1, 2, 3, FMI_RNG_INIT) != fmi_rng_normal(1, 3, 3, FMI_RNG_INIT));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fail_text),
        cmocka_unit_test(test_heap_hooks),
        cmocka_unit_test(test_arena),
        cmocka_unit_test(test_pool_runs_everything_once),
        cmocka_unit_test(test_processors_follow_affinity),
        cmocka_unit_test(test_pool_sleeps_and_wakes),
        cmocka_unit_test(test_shares_cover),
        cmocka_unit_test(test_philox_known_answers),
        cmocka_unit_test(test_uniform_and_normal),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
