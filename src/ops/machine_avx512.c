/* FMA rate of AVX-512, and reading memory with 64-byte loads. */
#include "ops/machine.h"

#include <immintrin.h>

double fmi_spin_fma_avx512(int64_t n, float *sink)
{
    __m512 acc[12], x = _mm512_set1_ps(0.999f), y = _mm512_set1_ps(1e-3f);
    for (int i = 0; i < 12; i++) acc[i] = _mm512_set1_ps((float)i);
    for (int64_t r = 0; r < n; r++)
        for (int i = 0; i < 12; i++) acc[i] = _mm512_fmadd_ps(acc[i], x, y);
    for (int i = 1; i < 12; i++) acc[0] = _mm512_add_ps(acc[0], acc[i]);
    _mm512_storeu_ps(sink, acc[0]);
    return (double)n * 12 * 16 * 2;
}

double fmi_read_speed_avx512(const void *p, size_t bytes, float *sink)
{
    const __m512i *q = p;
    __m512i a = _mm512_setzero_si512(), b = a, c = a, d = a;
    for (size_t i = 0; i < bytes / 64; i += 4) {
        a = _mm512_xor_si512(a, _mm512_loadu_si512(q + i));
        b = _mm512_xor_si512(b, _mm512_loadu_si512(q + i + 1));
        c = _mm512_xor_si512(c, _mm512_loadu_si512(q + i + 2));
        d = _mm512_xor_si512(d, _mm512_loadu_si512(q + i + 3));
    }
    a = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    _mm512_storeu_ps(sink, _mm512_castsi512_ps(a));
    return (double)bytes;
}
