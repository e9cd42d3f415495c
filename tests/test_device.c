/* The execution context and its devices: the fence stops the host from touching device memory and
 * runs operators late; errors stick and name the operator; memory is zeroed and counted. */
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ops_util.h"

static const char *const devices[2] = {"cpu", "fence"};

static void axpby(fm_exec *x, void *src, void *dst, int64_t n, double alpha)
{
    fm_op_axpby(x, &(fm_axpby_args){src, dst, NULL, n, alpha, 0, FM_DTYPE_F32});
}

/* Runs touch(p) in a child; returns the signal that ended it, 0 if none did. */
static int child_signal(void (*touch)(volatile float *), volatile float *p)
{
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        touch(p);
        _exit(0);
    }
    int status = 0;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

static void touch_read(volatile float *p)
{
    float v = *p;
    (void)v;
}

static void touch_write(volatile float *p)
{
    *p = 1;
}

static void test_fence_kills_host_access(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
    assert_true(fm_exec_is_fence(x));
    float *p = dev_new(x, 64);
    assert_int_equal(child_signal(touch_read, p), SIGSEGV);
    assert_int_equal(child_signal(touch_write, p), SIGSEGV);
    float mine = 0;
    assert_int_equal(child_signal(touch_read, &mine), 0);
    fm_dev_free(x, p);
    fm_exec_close(x);
}

/* Arguments are copied at the issue; the operator runs at the next read, on what memory holds
 * then. */
static void test_fence_queues(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = open_exec(devices[d], 2, FM_ISA_SCALAR);
        float in[4] = {1, 2, 3, 4}, out[4];
        float *a = dev_put(x, in, sizeof in), *b = dev_new(x, sizeof in);
        fm_axpby_args args = {a, b, NULL, 4, 2, 0, FM_DTYPE_F32};
        fm_op_axpby(x, &args);
        args.alpha = 100;
        int64_t seconds_calls = 0;
        fm_exec_profile(x, FM_OP_axpby, NULL, &seconds_calls);
        assert_int_equal(seconds_calls, 0); /* profile is off */
        dev_get(x, out, b, sizeof out);
        for (int i = 0; i < 4; i++) assert_true(out[i] == 2 * in[i]);
        assert_int_equal(fm_read_count(x), 1);
        fm_dev_free(x, a);
        fm_dev_free(x, b);
        assert_int_equal(fm_dev_bytes(x), 0);
        fm_exec_close(x);
    }
}

static void test_profile_shows_when_ops_run(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = NULL;
        fm_err e = {0};
        must(fm_exec_open(&(fm_exec_opts){devices[d], 1, FM_ISA_SCALAR, true}, &x, &e), &e);
        float in[4] = {1, 2, 3, 4};
        float *a = dev_put(x, in, sizeof in);
        axpby(x, a, a, 4, 3);
        int64_t calls = -1;
        double seconds = -1;
        assert_string_equal(fm_exec_profile(x, FM_OP_axpby, &seconds, &calls), "axpby");
        assert_int_equal(calls, d == 0 ? 1 : 0);
        must(fm_sync(x, &e), &e);
        fm_exec_profile(x, FM_OP_axpby, &seconds, &calls);
        assert_int_equal(calls, 1);
        assert_true(seconds >= 0);
        assert_null(fm_exec_profile(x, FM_OP_COUNT, NULL, NULL));
        fm_exec_profile_reset(x);
        fm_exec_profile(x, FM_OP_axpby, NULL, &calls);
        assert_int_equal(calls, 0);
        fm_dev_free(x, a);
        fm_exec_close(x);
    }
}

static void test_queue_grows_then_keeps(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
    float one = 1, got = 0;
    float *a = dev_put(x, &one, sizeof one), *s = dev_new(x, sizeof one);
    fm_sum_args sum = {a, s, 1, 1, FM_DTYPE_F32};
    for (int i = 0; i < 5000; i++) fm_op_sum(x, &sum);
    dev_get(x, &got, s, sizeof got);
    assert_true(got == 5000);
    int64_t calls = fmi_alloc_calls();
    for (int i = 0; i < 5000; i++) fm_op_sum(x, &sum);
    dev_get(x, &got, s, sizeof got);
    assert_true(got == 10000);
    assert_int_equal(fmi_alloc_calls(), calls);
    fm_dev_free(x, a);
    fm_dev_free(x, s);
    fm_exec_close(x);
}

static void test_free_waits(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
    float in = 7, out = 0;
    float *a = dev_put(x, &in, sizeof in), *b = dev_new(x, sizeof in);
    axpby(x, a, b, 1, 1);
    fm_dev_free(x, a);
    dev_get(x, &out, b, sizeof out);
    assert_true(out == 7);
    fm_dev_free(x, b);
    fm_exec_close(x);
}

static void test_borrow(void **state)
{
    (void)state;
    float host = 3;
    fm_exec *cpu = open_exec("cpu", 1, FM_ISA_SCALAR);
    fm_exec *fence = open_exec("fence", 1, FM_ISA_SCALAR);
    assert_ptr_equal(fm_dev_borrow(cpu, &host), &host);
    assert_null(fm_dev_borrow(fence, &host));
    fm_exec_close(cpu);
    fm_exec_close(fence);
}

static void test_error_sticks(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = open_exec(devices[d], 1, FM_ISA_SCALAR);
        float in = 5, out = -1;
        float *a = dev_put(x, &in, sizeof in);
        axpby(x, a, a, 1, 2); /* runs: 10 */
        fm_op_axpby(x, &(fm_axpby_args){a, a, NULL, 1, 1, 0, FM_DTYPE_U8});
        fm_op_axpby(x, &(fm_axpby_args){a, a, NULL, 1, 1, 0, FM_DTYPE_I32});
        fm_op_zero(x, &(fm_zero_args){a, sizeof in}); /* dropped */
        fm_err e = {0};
        assert_int_equal(fm_read(x, &out, a, sizeof out, &e), FM_E_UNSUPPORTED);
        assert_non_null(strstr(e.text, "axpby"));
        assert_true(out == -1);
        dev_get(x, &out, a, sizeof out); /* reported once; the context goes on */
        assert_true(out == 10);
        fm_dev_free(x, a);
        fm_exec_close(x);
    }
}

static void test_fence_host_pointer(void **state)
{
    (void)state;
    fm_exec *x = open_exec("fence", 1, FM_ISA_SCALAR);
    float host[2] = {1, 2}, out[2] = {0};
    float *a = dev_put(x, host, sizeof host);
    axpby(x, a, a, 2, 2);
    axpby(x, a, host, 2, 1); /* argument 1 is host memory */
    fm_err e = {0};
    assert_int_equal(fm_sync(x, &e), FM_E_DEVICE);
    assert_non_null(strstr(e.text, "axpby"));
    assert_non_null(strstr(e.text, "argument 1"));
    dev_get(x, out, a, sizeof out); /* what was issued before did run */
    assert_true(out[0] == 2 && out[1] == 4);
    assert_int_equal(fm_write(x, host, out, sizeof out, &e), FM_E_DEVICE);
    assert_int_equal(fm_read(x, out, host, sizeof out, &e), FM_E_DEVICE);
    fm_dev_free(x, a);
    fm_exec_close(x);
}

/* NULL arguments stay NULL, and tables and segments hold addresses an operator can follow. */
static void test_tables_and_segments(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = open_exec(devices[d], 2, FM_ISA_SCALAR);
        float w0[2] = {1, 10}, w1[2] = {2, 20}, in[6] = {1, 1, 1, 2, 3, 4}, out[3];
        int32_t offsets[3] = {0, 1, 3};
        float *a = dev_put(x, in, sizeof in), *c = dev_new(x, sizeof out);
        void *ws[2] = {dev_put(x, w0, sizeof w0), dev_put(x, w1, sizeof w1)}, *table = NULL;
        void *off = dev_put(x, offsets, sizeof offsets);
        fm_err e = {0};
        must(fm_dev_table(x, (const void *const *)ws, 2, &table, &e), &e);
        fm_op_gemm(x, &(fm_gemm_args){.a = a, .c = c, .offsets = off, .table = table,
                   .kind = FM_GEMM_NT, .m = 3, .n = 1, .k = 2, .lda = 2, .ldb = 2, .ldc = 1,
                   .dt = FM_DTYPE_F32, .dtc = FM_DTYPE_F32, .groups = 2});
        dev_get(x, out, c, sizeof out);
        assert_true(out[0] == 11 && out[1] == 42 && out[2] == 86);

        fm_segment seg = {.offset = 0, .n = 2, .weight = ws[0], .weight_dtype = FM_DTYPE_F32};
        fm_step_state st = {.clip = 1};
        fm_segment *segs = dev_new(x, sizeof seg);
        void *sd = dev_put(x, &st, sizeof st), *zero[2] = {dev_new(x, 8), dev_new(x, 8)};
        must(fm_segments_write(x, segs, &seg, 1, &e), &e);
        fm_op_adamw(x, &(fm_adamw_args){ws[1], zero[0], zero[0], zero[1], segs, sd, 1, 1, 0.5, 0.9,
                    0.95, 1e-8, 0, FM_DTYPE_F32});
        dev_get(x, out, ws[0], 8); /* a zero gradient: the weight becomes the master */
        assert_true(out[0] == 2 && out[1] == 20);
        void *all[] = {a, c, ws[0], ws[1], table, off, segs, sd, zero[0], zero[1]};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++) fm_dev_free(x, all[i]);
        fm_exec_close(x);
    }
}

static void test_memory(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        fm_exec *x = open_exec(devices[d], 1, FM_ISA_SCALAR);
        const size_t sizes[6] = {0, 1, 255, 4096, 70001, 6u << 20};
        void *p[6];
        for (int round = 0; round < 3; round++) {
            size_t total = 0;
            for (int i = 0; i < 6; i++) {
                p[i] = dev_new(x, sizes[i]);
                total += sizes[i];
                assert_non_null(p[i]);
                assert_int_equal((uintptr_t)p[i] % 256, 0);
                unsigned char last = 1;
                if (!sizes[i]) continue;
                dev_get(x, &last, (char *)p[i] + sizes[i] - 1, 1);
                assert_int_equal(last, 0);
                last = 0xff; /* must not be seen by the next owner */
                fm_err e = {0};
                must(fm_write(x, (char *)p[i] + sizes[i] - 1, &last, 1, &e), &e);
            }
            assert_int_equal(fm_dev_bytes(x), total);
            for (int i = 0; i < 6; i++) fm_dev_free(x, p[(i * 5 + round) % 6]);
            assert_int_equal(fm_dev_bytes(x), 0);
            assert_int_equal(fm_dev_bytes_peak(x), total);
        }
        void *never = NULL;
        assert_int_equal(fm_dev_alloc(x, (size_t)1 << 60, &never, NULL), FM_E_NOMEM);
        assert_null(never);
        fm_exec_close(x);
    }
}

/* Every allocation that fails on the way leaves nothing behind. */
static void test_open_without_memory(void **state)
{
    (void)state;
    for (int d = 0; d < 2; d++) {
        int n = 1;
        for (; n < 100; n++) {
            fm_exec *x = NULL;
            fm_err e = {0};
            fmi_alloc_fail_after(n);
            fm_status st = fm_exec_open(&(fm_exec_opts){devices[d], 2, FM_ISA_SCALAR, false}, &x,
                                        &e);
            fmi_alloc_fail_after(0);
            if (!st) {
                fm_exec_close(x);
                break;
            }
            assert_int_equal(st, FM_E_NOMEM);
            assert_null(x);
        }
        assert_in_range(n, 4, 99);
    }
}

static void test_bad_options(void **state)
{
    (void)state;
    fm_exec *x = NULL;
    fm_err e = {0};
    assert_int_equal(fm_exec_open(&(fm_exec_opts){"tpu", 1, -1, false}, &x, &e), FM_E_UNSUPPORTED);
    assert_non_null(strstr(e.text, "tpu"));
    assert_int_equal(fm_exec_open(&(fm_exec_opts){"cpu", -3, -1, false}, &x, &e), FM_E_RANGE);
    assert_int_equal(fm_exec_open(&(fm_exec_opts){"cpu", 1, 9, false}, &x, &e), FM_E_RANGE);
    fm_exec_close(NULL);
}

static void test_isa(void **state)
{
    (void)state;
    for (int i = 0; i <= FM_ISA_AMX; i++) assert_int_equal(fm_isa_parse(fm_isa_name((fm_isa)i)), i);
    assert_int_equal(fm_isa_parse("sse"), -1);
    assert_int_equal(fm_isa_parse(NULL), -1);
    assert_true(fm_isa_detect() == fm_isa_detect());
    fm_exec *x = open_exec("cpu", 1, FM_ISA_SCALAR);
    assert_int_equal(fm_exec_isa(x), FM_ISA_SCALAR);
    fm_exec_close(x);
    x = open_exec("cpu", 3, -1);
    assert_int_equal(fm_exec_isa(x), fm_isa_detect());
    assert_int_equal(fm_exec_threads(x), 3);
    fm_exec_close(x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fence_kills_host_access), cmocka_unit_test(test_fence_queues),
        cmocka_unit_test(test_profile_shows_when_ops_run),
        cmocka_unit_test(test_queue_grows_then_keeps),  cmocka_unit_test(test_free_waits),
        cmocka_unit_test(test_borrow),                  cmocka_unit_test(test_error_sticks),
        cmocka_unit_test(test_fence_host_pointer),      cmocka_unit_test(test_tables_and_segments),
        cmocka_unit_test(test_memory),                  cmocka_unit_test(test_open_without_memory),
        cmocka_unit_test(test_bad_options),             cmocka_unit_test(test_isa),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
