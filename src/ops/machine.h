/* Loops that do nothing but reach a ceiling of the processor. Each runs `n` rounds and returns the work
 * done (operations or bytes); a sink keeps the compiler from dropping it. */
#ifndef FM_OPS_MACHINE_H
#define FM_OPS_MACHINE_H

#include <stddef.h>
#include <stdint.h>

double fmi_spin_fma_scalar(int64_t n, float *sink);
double fmi_spin_fma_avx2(int64_t n, float *sink);
double fmi_spin_fma_avx512(int64_t n, float *sink);
double fmi_spin_amx_bf16(int64_t n, float *sink);   /* tiles stay in registers */
double fmi_spin_amx_int8(int64_t n, float *sink);

/* One pass over `bytes` (a multiple of 4096). */
double fmi_read_speed(const void *p, size_t bytes, float *sink);
double fmi_read_speed_avx512(const void *p, size_t bytes, float *sink);
double fmi_stream_copy(void *dst, const void *src, size_t bytes);

#endif
