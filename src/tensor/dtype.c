/* Names, sizes and scalar codecs of the element types.
 *
 * All conversions are done on bits, so they depend on no rounding mode and no FTZ or DAZ setting.
 * Round to nearest, ties to even; subnormals are kept. Refuses nothing: every code has a value. */
#include "tensor/tensor.h"

static const struct {
    const char *name;
    size_t bytes;
} dtypes[FM_DTYPE_COUNT] = {
    [FM_DTYPE_F32] = {"F32", 4},       [FM_DTYPE_BF16] = {"BF16", 2}, [FM_DTYPE_F16] = {"F16", 2},
    [FM_DTYPE_F8E4M3] = {"F8_E4M3", 1}, [FM_DTYPE_F64] = {"F64", 8},   [FM_DTYPE_C128] = {"C128", 16},
    [FM_DTYPE_I32] = {"I32", 4},       [FM_DTYPE_I64] = {"I64", 8},   [FM_DTYPE_U8] = {"U8", 1},
};

size_t fm_dtype_bytes(fm_dtype dtype)
{
    FM_ASSERT((unsigned)dtype < FM_DTYPE_COUNT);
    return dtypes[dtype].bytes;
}

const char *fm_dtype_name(fm_dtype dtype)
{
    return (unsigned)dtype < FM_DTYPE_COUNT ? dtypes[dtype].name : "?";
}

/* m >> s, to nearest, ties to even; 1 <= s <= 31. */
static uint32_t shift_round(uint32_t m, int s)
{
    uint32_t half = 1u << (s - 1);
    return (m + half - 1 + ((m >> s) & 1u)) >> s;
}

/* A small float's magnitude code (exponent and mantissa bits, no sign) as binary32. */
static float small_to_f32(uint32_t code, int man_bits, int bias, uint32_t sign)
{
    uint32_t e = code >> man_bits, m = code & ((1u << man_bits) - 1);
    if (e) return fmi_bits_f32(sign | (e + 127 - (uint32_t)bias) << 23 | m << (23 - man_bits));
    if (!m) return fmi_bits_f32(sign);
    /* Subnormal m * 2^(1 - bias - man_bits): move the leading one to the implicit place. */
    int top = 31 - __builtin_clz(m);
    uint32_t exp = (uint32_t)(127 + 1 - bias - man_bits + top);
    return fmi_bits_f32(sign | exp << 23 | (m << (23 - top) & 0x7fffffu));
}

/* The magnitude code nearest to |f|, f finite or infinite; may exceed the format's largest code. */
static uint32_t f32_to_small(uint32_t abs_bits, int man_bits, int bias)
{
    int e = (int)(abs_bits >> 23) - 127;
    if (e >= 1 - bias) {
        uint32_t r = shift_round(abs_bits, 23 - man_bits);
        return r - ((uint32_t)(127 - bias) << man_bits);
    }
    /* In units of the smallest subnormal, 2^(1 - bias - man_bits). */
    int s = 23 - e + 1 - bias - man_bits;
    if (s > 25 || e == -127) return 0;
    return shift_round((abs_bits & 0x7fffffu) | 0x800000u, s);
}

float fmi_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, code = h & 0x7fffu;
    if (code >= 0x7c00u) /* infinity, or NaN made quiet */
        return fmi_bits_f32(sign | 0x7f800000u | (code & 0x3ffu) << 13
                            | (code > 0x7c00u ? 0x400000u : 0));
    return small_to_f32(code, 10, 15, sign);
}

uint16_t fmi_f32_to_f16(float f)
{
    uint32_t u = fmi_f32_bits(f), a = u & 0x7fffffffu;
    uint16_t sign = (uint16_t)(u >> 16 & 0x8000u);
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | (a >> 13 & 0x3ffu));
    if (a >= 0x47800000u) return (uint16_t)(sign | 0x7c00u); /* 65536 and above */
    return (uint16_t)(sign | f32_to_small(a, 10, 15));       /* 65520 and above carry to infinity */
}

float fmi_e4m3_to_f32(uint8_t c)
{
    uint32_t sign = (uint32_t)(c & 0x80u) << 24;
    if ((c & 0x7f) == 0x7f) return fmi_bits_f32(sign | 0x7fc00000u);
    return small_to_f32(c & 0x7fu, 3, 7, sign);
}

uint8_t fmi_f32_to_e4m3(float f)
{
    uint32_t u = fmi_f32_bits(f), a = u & 0x7fffffffu;
    uint8_t sign = (uint8_t)(u >> 24 & 0x80u);
    if (a > 0x7f800000u) return (uint8_t)(sign | 0x7fu);
    if (a >= 0x43e00000u) return (uint8_t)(sign | 0x7eu); /* 448 and above */
    return (uint8_t)(sign | f32_to_small(a, 3, 7));
}
