/* exp, log, sigmoid and silu against libm in double over dense sweeps, their special values, and
 * that flushing subnormals changes nothing in exp and log. */
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#include "ops/fmath.h"

#define STEP 1021u /* prime: the sweep meets all exponents and mixed mantissas */

/* |got - want| in units in the last place of the float nearest to want. */
static double ulps(float got, double want)
{
    int k;
    frexp(want, &k);
    return fabs((double)got - want) / ldexp(1.0, k - 24);
}

static void test_exp(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t u = 0; u < 0xff800000u; u += STEP) {
        float x = fmi_bits_f32(u), got = fmi_expf(x);
        if (x != x) continue;
        double want = exp((double)x);
        if (want < 0x1p-126) assert_true(got == 0);
        else if (want >= 0x1.ffffffp127) assert_true(isinf(got) && got > 0);
        else worst = fmax(worst, ulps(got, want));
    }
    if (!(worst <= 1.5)) fail_msg("exp: %.3f ulp", worst);
    assert_true(fmi_expf(0) == 1 && fmi_expf(-0.0f) == 1);
    assert_true(fmi_expf(-INFINITY) == 0 && isinf(fmi_expf(INFINITY)));
    assert_true(isnan(fmi_expf(NAN)));
}

/* Every float beside the two ends of the range. */
static void test_exp_ends(void **state)
{
    (void)state;
    const float ends[2] = {-87.33654f, 88.72284f};
    for (int e = 0; e < 2; e++)
        for (int d = -2000; d <= 2000; d++) {
            float x = fmi_bits_f32(fmi_f32_bits(ends[e]) + (uint32_t)d), got = fmi_expf(x);
            double want = exp((double)x);
            if (want < 0x1p-126) assert_true(got == 0);
            else if (want >= 0x1.ffffffp127) assert_true(isinf(got));
            else assert_true(ulps(got, want) <= 1.5);
        }
}

static void test_log(void **state)
{
    (void)state;
    double worst = 0;
    for (uint32_t u = 0x00800000u; u < 0x7f800000u; u += STEP) {
        double want = log((double)fmi_bits_f32(u));
        float got = fmi_logf(fmi_bits_f32(u));
        if (want == 0) assert_true(got == 0);
        else worst = fmax(worst, ulps(got, want));
    }
    /* Beside 1, where the result is small, and beside the seams of the mantissa range. */
    const uint32_t seams[3] = {0x3f800000u, 0x3f3504f3u, 0x3fb504f3u};
    for (int s = 0; s < 3; s++)
        for (uint32_t d = 0; d < 4000; d++) {
            float x = fmi_bits_f32(seams[s] - 2000 + d);
            if (x != 1) worst = fmax(worst, ulps(fmi_logf(x), log((double)x)));
        }
    if (!(worst <= 1.5)) fail_msg("log: %.3f ulp", worst);
    assert_true(fmi_logf(1) == 0);
    assert_true(fmi_logf(0) == -INFINITY && fmi_logf(-0.0f) == -INFINITY);
    assert_true(isnan(fmi_logf(-1)) && isnan(fmi_logf(-INFINITY)) && isnan(fmi_logf(NAN)));
    assert_true(fmi_logf(INFINITY) == INFINITY);
    assert_true(fmi_logf(fmi_bits_f32(1)) == -INFINITY);
}

/* sigmoid: exp carries 1.5 ulp into 1 + exp, then two roundings: 1.5 + 0.5 + 0.5, doubled at most
 * by the change of binade; silu one rounding more. */
static void test_sigmoid(void **state)
{
    (void)state;
    for (double x = -85; x <= 100; x += 0.00731) {
        float xf = (float)x;
        double want = 1 / (1 + exp(-(double)xf));
        assert_true(ulps(fmi_sigmoidf(xf), want) <= 5);
        if (xf != 0) assert_true(ulps(fmi_siluf(xf), xf * want) <= 6);
    }
    assert_true(fmi_sigmoidf(-INFINITY) == 0 && fmi_sigmoidf(INFINITY) == 1);
    assert_true(fmi_sigmoidf(0) == 0.5f && fmi_siluf(0) == 0);
    assert_true(isnan(fmi_sigmoidf(NAN)));
}

static void test_tree(void **state)
{
    (void)state;
    /* 2^24 swallows 1 unless the two lanes that meet first are added first. */
    float lane[16] = {0};
    lane[0] = 16777216.0f;
    lane[8] = -16777216.0f;
    lane[1] = 1.0f;
    assert_true(fmi_tree16(lane) == 1.0f);
    float other[16] = {0};
    other[0] = 16777216.0f;
    other[2] = -16777216.0f;
    other[4] = 1.0f; /* meets lane 0 one level before lane 2 does, and is lost */
    assert_true(fmi_tree16(other) == 0.0f);
}

static void test_flush_mode(void **state)
{
    (void)state;
#if defined(__SSE__)
    unsigned old = _mm_getcsr();
    for (uint32_t u = 0; u < 0xff800000u; u += STEP * 67) {
        float x = fmi_bits_f32(u);
        _mm_setcsr(old & ~0x8040u);
        uint32_t e0 = fmi_f32_bits(fmi_expf(x)), l0 = fmi_f32_bits(fmi_logf(x));
        _mm_setcsr(old | 0x8040u);
        uint32_t e1 = fmi_f32_bits(fmi_expf(x)), l1 = fmi_f32_bits(fmi_logf(x));
        _mm_setcsr(old);
        assert_int_equal(e0, e1);
        assert_int_equal(l0, l1);
    }
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exp),     cmocka_unit_test(test_exp_ends),
        cmocka_unit_test(test_log),     cmocka_unit_test(test_sigmoid),
        cmocka_unit_test(test_tree),    cmocka_unit_test(test_flush_mode),
    };
    return cmocka_run_group_tests_name("fmath", tests, NULL, NULL);
}
