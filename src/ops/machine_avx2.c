/* FMA rate of AVX2: twelve independent chains of 8 lanes, which hides the latency of two FMA ports. */
#include "ops/machine.h"

#include <immintrin.h>

double fmi_spin_fma_avx2(int64_t n, float *sink)
{
    __m256 acc[12], x = _mm256_set1_ps(0.999f), y = _mm256_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++) acc[i] = _mm256_set1_ps((float)i);
    for (int64_t r = 0; r < n; r++)
        for (int i = 0; i < 12; i++) acc[i] = _mm256_fmadd_ps(acc[i], x, y);
    for (int i = 1; i < 12; i++) acc[0] = _mm256_add_ps(acc[0], acc[i]);
    _mm256_storeu_ps(sink, acc[0]);
    return (double)n * 12 * 8 * 2;
}
