/* Helpers of the operator tests: contexts, device copies of host arrays, random values.
 *
 * Everything reaches device memory through fm_write and fm_read, so that each test can run on the
 * fence device too. */
#ifndef TESTS_OPS_UTIL_H
#define TESTS_OPS_UTIL_H

#include <complex.h>
#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "ops/ops.h"

#define UNUSED __attribute__((unused))

/* Writes the message of a failed call into the test's report. */
static inline void must(fm_status st, const fm_err *e)
{
    if (st) fail_msg("status %d: %s", (int)st, e->text);
}

UNUSED static fm_exec *open_exec(const char *device, int threads, int isa)
{
    fm_exec *x = NULL;
    fm_err e = {0};
    must(fm_exec_open(&(fm_exec_opts){device, threads, isa, false}, &x, &e), &e);
    return x;
}

UNUSED static void *dev_new(fm_exec *x, size_t bytes)
{
    void *p = NULL;
    fm_err e = {0};
    must(fm_dev_alloc(x, bytes, &p, &e), &e);
    return p;
}

UNUSED static void *dev_put(fm_exec *x, const void *host, size_t bytes)
{
    void *p = dev_new(x, bytes);
    fm_err e = {0};
    must(fm_write(x, p, host, bytes, &e), &e);
    return p;
}

UNUSED static void dev_get(fm_exec *x, void *host, const void *dev, size_t bytes)
{
    fm_err e = {0};
    must(fm_read(x, host, dev, bytes, &e), &e);
}

/* A small generator; the state is the test's seed. */
typedef struct rnd {
    uint64_t s;
} rnd;

UNUSED static uint32_t rnd_u32(rnd *r)
{
    r->s = r->s * 6364136223846793005ull + 1442695040888963407ull;
    uint64_t z = r->s ^ (r->s >> 29);
    return (uint32_t)((z * 0xbf58476d1ce4e5b9ull) >> 32);
}

UNUSED static int rnd_below(rnd *r, int n)
{
    return (int)(rnd_u32(r) % (uint32_t)n);
}

/* Uniform in (-1, 1). */
UNUSED static double rnd_unit(rnd *r)
{
    return ((double)rnd_u32(r) + 0.5) / 2147483648.0 - 1.0;
}

UNUSED static double *rnd_doubles(rnd *r, int64_t n, double scale)
{
    double *v = fmi_alloc((size_t)(n ? n : 1) * sizeof *v);
    assert_non_null(v);
    for (int64_t i = 0; i < n; i++) v[i] = scale * rnd_unit(r);
    return v;
}

/* Device copy of n doubles in dtype dt (F32, BF16, F64, C128). */
UNUSED static void *dev_put_as(fm_exec *x, const double *v, int64_t n, fm_dtype dt)
{
    char *h = fmi_alloc((size_t)(n ? n : 1) * fm_dtype_bytes(dt));
    assert_non_null(h);
    for (int64_t i = 0; i < n; i++) {
        if (dt == FM_DTYPE_F32) ((float *)h)[i] = (float)v[i];
        if (dt == FM_DTYPE_BF16) ((fm_bf16 *)h)[i] = fmi_f32_to_bf16((float)v[i]);
        if (dt == FM_DTYPE_F64) ((double *)h)[i] = v[i];
        if (dt == FM_DTYPE_C128) ((double complex *)h)[i] = v[i];
    }
    void *p = dev_put(x, h, (size_t)n * fm_dtype_bytes(dt));
    fmi_free(h);
    return p;
}

/* The values of a device array as doubles (the real part of complex ones). Caller frees. */
UNUSED static double *dev_get_as(fm_exec *x, const void *dev, int64_t n, fm_dtype dt)
{
    char *h = fmi_alloc((size_t)(n ? n : 1) * fm_dtype_bytes(dt));
    double *v = fmi_alloc((size_t)(n ? n : 1) * sizeof *v);
    assert_true(h && v);
    dev_get(x, h, dev, (size_t)n * fm_dtype_bytes(dt));
    for (int64_t i = 0; i < n; i++) {
        if (dt == FM_DTYPE_F32) v[i] = ((float *)h)[i];
        if (dt == FM_DTYPE_BF16) v[i] = fmi_bf16_to_f32(((fm_bf16 *)h)[i]);
        if (dt == FM_DTYPE_F64) v[i] = ((double *)h)[i];
        if (dt == FM_DTYPE_C128) v[i] = creal(((double complex *)h)[i]);
    }
    fmi_free(h);
    return v;
}

/* sum (a - b)^2 / sum b^2. */
UNUSED static double nmse(const double *a, const double *b, int64_t n)
{
    double num = 0, den = 0;
    for (int64_t i = 0; i < n; i++) {
        num += (a[i] - b[i]) * (a[i] - b[i]);
        den += b[i] * b[i];
    }
    return den > 0 ? num / den : num;
}

#endif
