/* Matrix products on AVX2: the vectors of 8 floats for gemm_vec.inc. Blocks of 6 x 16 outputs; a
 * bf16 step takes 3 rows x 2 vectors x 2 chains = 12 registers. Tails go through masks or copies of
 * the live elements, so nothing past an operand's last element is read. */
#include <immintrin.h>
#include <string.h>

#include "ops/ref/ref.h"
#include "ops/x86/gemm_x86.h"
#include "ops/x86/thin.h"

typedef __m256 V;
#define VL 8
#define BLOCK 6
#define ROWS_BF16 3
#define NAME(x) x##_avx2
#define BF16_WIDE_CASES STEP(1, 2) STEP(2, 2) STEP(3, 2)
#define BF16_NARROW_CASES STEP(1, 1) STEP(2, 1) STEP(3, 1) STEP(4, 1) STEP(5, 1) STEP(6, 1)
#define F32_CASES(nv) \
    CHAIN(1, nv) CHAIN(2, nv) CHAIN(3, nv) CHAIN(4, nv) CHAIN(5, nv) CHAIN(6, nv)

static inline V v_zero(void) { return _mm256_setzero_ps(); }
static inline V v_set1(float x) { return _mm256_set1_ps(x); }
static inline V v_add(V a, V b) { return _mm256_add_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
static inline V v_load(const void *p) { return _mm256_loadu_ps(p); }
static inline void v_store(void *p, V v) { _mm256_storeu_ps(p, v); }

static inline __m256i lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0));
}

static inline V v_load_n(const void *p, int n)
{
    return _mm256_maskload_ps(p, lanes(n));
}

static inline void v_store_n(void *p, V v, int n)
{
    _mm256_maskstore_ps(p, lanes(n), v);
}

static inline V v_load_h(const void *p)
{
    __m256i h = _mm256_cvtepu16_epi32(_mm_loadu_si128(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(h, 16));
}

static inline V v_load_h_n(const void *p, int n)
{
    uint16_t h[8] = { 0 };
    memcpy(h, p, 2 * (size_t)n);
    return v_load_h(h);
}

/* fmi_f32_to_bf16 on 8 lanes. */
static inline void v_store_h_n(void *p, V v, int n)
{
    __m256i u = _mm256_castps_si256(v), h = _mm256_srli_epi32(u, 16);
    __m256i odd = _mm256_and_si256(h, _mm256_set1_epi32(1));
    __m256i r = _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    __m256i quiet = _mm256_or_si256(h, _mm256_set1_epi32(0x40));
    r = _mm256_blendv_epi8(_mm256_srli_epi32(r, 16), quiet, nan);
    r = _mm256_permute4x64_epi64(_mm256_packus_epi32(r, r), 0x08);
    __m128i out = _mm256_castsi256_si128(r);
    if (n >= 8) {
        _mm_storeu_si128(p, out);
    } else {
        uint16_t t[8];
        _mm_storeu_si128((__m128i *)(void *)t, out);
        memcpy(p, t, 2 * (size_t)n);
    }
}

/* 8 x 8: 4 x 4 inside lanes, then the lanes. */
static inline void v_transpose(V t[8])
{
    V u[8];
    for (int i = 0; i < 8; i += 4) {
        V a = _mm256_unpacklo_ps(t[i], t[i + 1]), b = _mm256_unpackhi_ps(t[i], t[i + 1]);
        V c = _mm256_unpacklo_ps(t[i + 2], t[i + 3]), d = _mm256_unpackhi_ps(t[i + 2], t[i + 3]);
        u[i] = _mm256_shuffle_ps(a, c, 0x44);
        u[i + 1] = _mm256_shuffle_ps(a, c, 0xee);
        u[i + 2] = _mm256_shuffle_ps(b, d, 0x44);
        u[i + 3] = _mm256_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x20);
        t[i + 4] = _mm256_permute2f128_ps(u[i], u[i + 4], 0x31);
    }
}

#include "ops/x86/gemm_vec.inc"
