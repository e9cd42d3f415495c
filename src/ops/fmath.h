/* exp, log, sigmoid and silu in float: the same bits on every instruction set.
 *
 * Each function is branch-free scalar code of exactly rounded operations (+, *, /, sqrt, fma),
 * integer operations on the bits and selects, so that gcc turns a loop over it into vector code in
 * files compiled with -mfma, and every lane gives the bits of the scalar call. Callers must not let
 * the compiler contract or reorder (the Makefile forbids both).
 *
 * Polynomials: own minimax fits, computed for the project with mpmath and numpy. exp: Remez
 * exchange on (e^r - 1 - r) / r^2, |r| <= ln2/2 * 1.0005, degree 4, error relative to e^r,
 * coefficients rounded to float one by one from the lowest with a refit of the rest; error 3.2e-9.
 * log: Lawson-weighted least squares on (log(1+f) - f + f^2/2) / f^3, f in [sqrt(1/2)-1,
 * sqrt(2)-1], degree 8, error relative to log(1+f), rounded to float; error 3.2e-9.
 * tests/test_fmath.c measures the whole in ulp. */
#ifndef FM_OPS_FMATH_H
#define FM_OPS_FMATH_H

#include <math.h>

#include "tensor/tensor.h"

/* ln 2 = FMI_LN2_HI + FMI_LN2_LO; the high part has 20 fraction bits, so n * high is exact. */
#define FMI_LN2_HI 0x1.62e430p-1f
#define FMI_LN2_LO (-0x1.05c610p-29f)

static inline float fmi_fmaf(float a, float b, float c)
{
    return __builtin_fmaf(a, b, c);
}

/* <= 1.5 ulp. Below -126 ln 2 the result would be subnormal: 0. NaN gives NaN. */
static inline float fmi_expf(float x)
{
    const float lo = -0x1.5d589ep+6f;  /* smallest float whose exp is a normal number  */
    const float hi = 0x1.62e42ep+6f;   /* largest float whose exp is finite            */
    const float magic = 12582912.0f;   /* 1.5 * 2^23: adding it rounds to an integer   */
    float xc = x < lo ? lo : x;
    xc = xc > hi ? hi : xc;
    float t = fmi_fmaf(xc, 0x1.715476p+0f, magic);
    float n = t - magic;
    float r = fmi_fmaf(n, -FMI_LN2_HI, xc);
    r = fmi_fmaf(n, -FMI_LN2_LO, r);
    float q = 0x1.6ac6b2p-10f;
    q = fmi_fmaf(q, r, 0x1.123de0p-7f);
    q = fmi_fmaf(q, r, 0x1.555858p-5f);
    q = fmi_fmaf(q, r, 0x1.55548cp-3f);
    q = fmi_fmaf(q, r, 0x1.fffffcp-2f);
    float p = fmi_fmaf(q, r * r, r) + 1.0f;
    /* p lies in [0.70, 1.42] and xc within lo..hi, so the sum of exponents stays that of a
     * normal. */
    uint32_t u = fmi_f32_bits(p) + ((fmi_f32_bits(t) - fmi_f32_bits(magic)) << 23);
    u = x < lo ? 0u : u;
    u = x > hi ? 0x7f800000u : u;
    u = x != x ? 0x7fc00000u : u;
    return fmi_bits_f32(u);
}

/* <= 1.5 ulp for normal positives. Zeros and subnormals (of either sign) give -inf, negatives NaN,
 * +inf gives +inf, NaN gives NaN. */
static inline float fmi_logf(float x)
{
    uint32_t u = fmi_f32_bits(x);
    uint32_t ix = u - 0x3f3504f3u; /* of sqrt(1/2): mantissa in [sqrt(1/2), sqrt(2)) */
    float e = (float)((int32_t)ix >> 23);
    float f = fmi_bits_f32((ix & 0x007fffffu) + 0x3f3504f3u) - 1.0f;
    float s = f * f;
    float q = 0x1.145742p-4f;
    q = fmi_fmaf(q, f, -0x1.de3bfap-4f);
    q = fmi_fmaf(q, f, 0x1.e6f08ap-4f);
    q = fmi_fmaf(q, f, -0x1.fc220ep-4f);
    q = fmi_fmaf(q, f, 0x1.233766p-3f);
    q = fmi_fmaf(q, f, -0x1.555c4ep-3f);
    q = fmi_fmaf(q, f, 0x1.99a4b6p-3f);
    q = fmi_fmaf(q, f, -0x1.000006p-2f);
    q = fmi_fmaf(q, f, 0x1.555548p-2f);
    float t = fmi_fmaf(q, f, -0.5f);
    float y = f + fmi_fmaf(s, t, e * FMI_LN2_LO);
    uint32_t v = fmi_f32_bits(fmi_fmaf(e, FMI_LN2_HI, y));
    v = u == 0x7f800000u ? 0x7f800000u : v;
    v = u > 0x7f800000u ? 0x7fc00000u : v;
    v = (u & 0x7fffffffu) < 0x00800000u ? 0xff800000u : v;
    return fmi_bits_f32(v);
}

/* 1 / (1 + exp(-x)). */
static inline float fmi_sigmoidf(float x)
{
    return 1.0f / (1.0f + fmi_expf(-x));
}

/* x * sigmoid(x). */
static inline float fmi_siluf(float x)
{
    return x * fmi_sigmoidf(x);
}

/* 1 / sqrt(x), both correctly rounded. */
static inline float fmi_rsqrtf(float x)
{
    return 1.0f / __builtin_sqrtf(x);
}

/* coef on h X, q = h^2 = 1 / (sum^(1/4) + 1e-7) as in newton_schulz_mix; a sum below 0: h = 1. */
static inline void fmi_newton_schulz_factors(const double coef[3], double sum, double out[3])
{
    double q = sum < 0 ? 1 : 1 / (sqrt(sqrt(sum)) + 1e-7), h = sqrt(q);
    out[0] = coef[0] * h;
    out[1] = coef[1] * (h * q);
    out[2] = coef[2] * (h * q * q);
}

/* Sum of 16 lanes in the order of docs/numerics.md, "Row reductions". Overwrites lane. */
static inline float fmi_tree16(float lane[16])
{
    for (int w = 8; w >= 1; w >>= 1)
        for (int i = 0; i < w; i++) lane[i] += lane[i + w];
    return lane[0];
}

#endif
