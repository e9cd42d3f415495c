/* Arithmetic under one set of names for float, double and double complex.
 *
 * float goes through fmath.h and fused multiply-adds, as docs/numerics.md says. double and complex
 * use libm and a * b + c; comparisons and maxima of complex numbers look at the real part alone, so
 * that the complex step passes through them as a derivative does. */
#ifndef FM_OPS_REF_NUM_H
#define FM_OPS_REF_NUM_H

#include <complex.h>
#include <math.h>

#include "ops/fmath.h"

static inline float ref_fma_f(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline double ref_fma_d(double a, double b, double c) { return a * b + c; }

/* Written out: C's complex product checks for NaN and would call a library routine. */
static inline double complex ref_mul_c(double complex a, double complex b)
{
    return CMPLX(creal(a) * creal(b) - cimag(a) * cimag(b),
                 creal(a) * cimag(b) + cimag(a) * creal(b));
}

static inline double complex ref_fma_c(double complex a, double complex b, double complex c)
{
    return ref_mul_c(a, b) + c;
}

static inline float ref_sigmoid_f(float x) { return fmi_sigmoidf(x); }
static inline double ref_sigmoid_d(double x) { return 1.0 / (1.0 + exp(-x)); }
static inline double complex ref_sigmoid_c(double complex x) { return 1.0 / (1.0 + cexp(-x)); }

static inline float ref_bf16_load(const fm_bf16 *p) { return fmi_bf16_to_f32(*p); }
static inline fm_bf16 ref_bf16_store(float v) { return fmi_f32_to_bf16(v); }

#endif
