/* Codecs: every code of e4m3, f16 and bf16 there and back, ties, ends of the range, and the nearest
 * neighbour property against a search in double. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/rng.h"
#include "tensor/tensor.h"

/* The value of a small float's code from its definition, in double. */
static double define_small(unsigned code, int man_bits, int bias)
{
    unsigned e = code >> man_bits, m = code & ((1u << man_bits) - 1);
    double frac = (double)m / (double)(1u << man_bits);
    return e ? ldexp(1.0 + frac, (int)e - bias) : ldexp(frac, 1 - bias);
}

static void test_e4m3_all_codes(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 256; c++) {
        float f = fmi_e4m3_to_f32((uint8_t)c);
        if ((c & 0x7f) == 0x7f) {
            assert_true(isnan(f));
            assert_int_equal(fmi_f32_to_e4m3(f), c);
            continue;
        }
        double want = define_small(c & 0x7f, 3, 7);
        assert_true((double)f == (c & 0x80 ? -want : want));
        assert_int_equal(signbit(f) != 0, c >> 7);
        assert_int_equal(fmi_f32_to_e4m3(f), c);
    }
}

static void test_f16_all_codes(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 65536; c++) {
        float f = fmi_f16_to_f32((uint16_t)c);
        unsigned mag = c & 0x7fff;
        if (mag > 0x7c00) {
            assert_true(isnan(f));
            assert_int_equal(fmi_f32_to_f16(f), c | 0x200);
            continue;
        }
        double want = mag == 0x7c00 ? (double)INFINITY : define_small(mag, 10, 15);
        assert_true((double)f == (c & 0x8000 ? -want : want));
        assert_int_equal(fmi_f32_to_f16(f), c);
    }
}

static void test_bf16_all_codes(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 65536; c++) {
        float f = fmi_bf16_to_f32((fm_bf16)c);
        if (isnan(f)) {
            assert_true((c & 0x7fff) > 0x7f80);
            assert_int_equal(fmi_f32_to_bf16(f), c | 0x40);
        } else {
            assert_int_equal(fmi_f32_to_bf16(f), c);
        }
    }
}

/* Between neighbours a < b of one sign: the midpoint goes to the even code, a hair to either side
 * goes to the nearer one. */
static void check_midpoint(float a, float b, unsigned code, unsigned got_at, unsigned got_below,
                           unsigned got_above)
{
    assert_true(a < b);
    assert_int_equal(got_at, code + (code & 1));
    assert_int_equal(got_below, code);
    assert_int_equal(got_above, code + 1);
}

static void test_ties_to_even(void **state)
{
    (void)state;
    for (unsigned c = 0; c < 0x7e; c++) {
        float a = fmi_e4m3_to_f32((uint8_t)c), b = fmi_e4m3_to_f32((uint8_t)(c + 1));
        float m = (a + b) / 2;
        check_midpoint(a, b, c, fmi_f32_to_e4m3(m), fmi_f32_to_e4m3(nextafterf(m, 0)),
                       fmi_f32_to_e4m3(nextafterf(m, INFINITY)));
        assert_int_equal(fmi_f32_to_e4m3(-m), (c + (c & 1)) | 0x80);
    }
    for (unsigned c = 0; c < 0x7bff; c++) {
        float a = fmi_f16_to_f32((uint16_t)c), b = fmi_f16_to_f32((uint16_t)(c + 1));
        float m = (a + b) / 2;
        check_midpoint(a, b, c, fmi_f32_to_f16(m), fmi_f32_to_f16(nextafterf(m, 0)),
                       fmi_f32_to_f16(nextafterf(m, INFINITY)));
    }
    for (unsigned c = 0; c < 0x7f80; c++) {
        float m = fmi_bits_f32(c << 16 | 0x8000u);
        assert_int_equal(fmi_f32_to_bf16(m), c + (c & 1));
        assert_int_equal(fmi_f32_to_bf16(fmi_bits_f32(c << 16 | 0x7fffu)), c);
        assert_int_equal(fmi_f32_to_bf16(fmi_bits_f32(c << 16 | 0x8001u)), c + 1);
    }
}

static void test_range_ends(void **state)
{
    (void)state;
    assert_int_equal(fmi_f32_to_e4m3(448.0f), 0x7e);
    assert_int_equal(fmi_f32_to_e4m3(465.0f), 0x7e);
    assert_int_equal(fmi_f32_to_e4m3(1e30f), 0x7e);
    assert_int_equal(fmi_f32_to_e4m3(INFINITY), 0x7e);
    assert_int_equal(fmi_f32_to_e4m3(-INFINITY), 0xfe);
    assert_int_equal(fmi_f32_to_e4m3(0x1p-10f), 0); /* tie with zero goes to zero, which is even */
    assert_int_equal(fmi_f32_to_e4m3(nextafterf(0x1p-10f, 1)), 1);
    assert_int_equal(fmi_f32_to_e4m3(-0.0f), 0x80);
    assert_int_equal(fmi_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(fmi_f32_to_f16(65520.0f), 0x7c00);
    assert_int_equal(fmi_f32_to_f16(1e30f), 0x7c00);
    assert_int_equal(fmi_f32_to_f16(-INFINITY), 0xfc00);
    assert_int_equal(fmi_f32_to_f16(0x1p-25f), 0);
    assert_int_equal(fmi_f32_to_f16(nextafterf(0x1p-25f, 1)), 1);
    assert_int_equal(fmi_f32_to_f16(fmi_bits_f32(1)), 0);
    assert_int_equal(fmi_f32_to_bf16(fmi_bits_f32(0x7f7fffffu)), 0x7f80);
}

#if defined(__FLT16_MAX__)
/* The compiler's own half type as a second opinion. */
static void test_f16_against_compiler(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2000000; i++) {
        uint32_t w[4];
        fmi_rng_words(7, 0, i, FMI_RNG_TEST, 0, w);
        /* exponents around the half range */
        float f = fmi_bits_f32((w[0] & 0x807fffffu) | (127 - 28 + w[1] % 48) << 23);
        _Float16 h = (_Float16)f;
        uint16_t want;
        memcpy(&want, &h, 2);
        assert_int_equal(fmi_f32_to_f16(f), want);
    }
}
#endif

static void test_names_and_sizes(void **state)
{
    (void)state;
    static const struct {
        fm_dtype dt;
        const char *name;
        size_t bytes;
    } rows[] = {
        {FM_DTYPE_F32, "F32", 4},  {FM_DTYPE_BF16, "BF16", 2}, {FM_DTYPE_F16, "F16", 2},
        {FM_DTYPE_F8E4M3, "F8_E4M3", 1}, {FM_DTYPE_F64, "F64", 8}, {FM_DTYPE_C128, "C128", 16},
        {FM_DTYPE_I32, "I32", 4},  {FM_DTYPE_I64, "I64", 8},   {FM_DTYPE_U8, "U8", 1},
    };
    assert_int_equal(sizeof rows / sizeof rows[0], FM_DTYPE_COUNT);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_string_equal(fm_dtype_name(rows[i].dt), rows[i].name);
        assert_int_equal(fm_dtype_bytes(rows[i].dt), rows[i].bytes);
    }
    assert_int_equal(fmi_full_dtype(FM_DTYPE_BF16), FM_DTYPE_F32);
    assert_int_equal(fmi_full_dtype(FM_DTYPE_F64), FM_DTYPE_F64);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_e4m3_all_codes),
        cmocka_unit_test(test_f16_all_codes),
        cmocka_unit_test(test_bf16_all_codes),
        cmocka_unit_test(test_ties_to_even),
        cmocka_unit_test(test_range_ends),
#if defined(__FLT16_MAX__)
        cmocka_unit_test(test_f16_against_compiler),
#endif
        cmocka_unit_test(test_names_and_sizes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
