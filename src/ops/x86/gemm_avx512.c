/* Matrix products on AVX-512: the vectors of 16 floats for gemm_vec.inc. Blocks of 12 x 32 outputs;
 * a bf16 step takes 6 rows x 2 vectors x 2 chains = 24 registers. Tails are masked, so nothing past
 * an operand's last element is read. */
#include <immintrin.h>

#include "ops/ref/ref.h"
#include "ops/x86/gemm_x86.h"
#include "ops/x86/thin.h"

typedef __m512 V;
#define VL 16
#define BLOCK 12
#define ROWS_BF16 6
#define NAME(x) x##_avx512
#define BF16_WIDE_CASES STEP(1, 2) STEP(2, 2) STEP(3, 2) STEP(4, 2) STEP(5, 2) STEP(6, 2)
#define BF16_NARROW_CASES \
    STEP(1, 1) STEP(2, 1) STEP(3, 1) STEP(4, 1) STEP(5, 1) STEP(6, 1) \
    STEP(7, 1) STEP(8, 1) STEP(9, 1) STEP(10, 1) STEP(11, 1) STEP(12, 1)
#define F32_CASES(nv) \
    CHAIN(1, nv) CHAIN(2, nv) CHAIN(3, nv) CHAIN(4, nv) CHAIN(5, nv) CHAIN(6, nv) \
    CHAIN(7, nv) CHAIN(8, nv) CHAIN(9, nv) CHAIN(10, nv) CHAIN(11, nv) CHAIN(12, nv)

static inline V v_zero(void) { return _mm512_setzero_ps(); }
static inline V v_set1(float x) { return _mm512_set1_ps(x); }
static inline V v_add(V a, V b) { return _mm512_add_ps(a, b); }
static inline V v_fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
static inline V v_load(const void *p) { return _mm512_loadu_ps(p); }
static inline void v_store(void *p, V v) { _mm512_storeu_ps(p, v); }

static inline __mmask16 lanes(int n)
{
    return (__mmask16)((1u << n) - 1);
}

static inline V v_load_n(const void *p, int n)
{
    return _mm512_maskz_loadu_ps(lanes(n), p);
}

static inline void v_store_n(void *p, V v, int n)
{
    _mm512_mask_storeu_ps(p, lanes(n), v);
}

static inline V widen(__m256i h)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

static inline V v_load_h(const void *p)
{
    return widen(_mm256_loadu_si256(p));
}

static inline V v_load_h_n(const void *p, int n)
{
    return widen(_mm256_maskz_loadu_epi16(lanes(n), p));
}

/* fmi_f32_to_bf16 on 16 lanes. */
static inline void v_store_h_n(void *p, V v, int n)
{
    __m512i u = _mm512_castps_si512(v), h = _mm512_srli_epi32(u, 16);
    __m512i odd = _mm512_and_si512(h, _mm512_set1_epi32(1));
    __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
    __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    r = _mm512_mask_or_epi32(_mm512_srli_epi32(r, 16), nan, h, _mm512_set1_epi32(0x40));
    _mm256_mask_storeu_epi16(p, lanes(n), _mm512_cvtepi32_epi16(r));
}

/* 16 x 16: 4 x 4 inside lanes, then 4 x 4 of lanes. */
static inline void v_transpose(V t[16])
{
    V u[16];
    for (int i = 0; i < 16; i += 4) {
        V a = _mm512_unpacklo_ps(t[i], t[i + 1]), b = _mm512_unpackhi_ps(t[i], t[i + 1]);
        V c = _mm512_unpacklo_ps(t[i + 2], t[i + 3]), d = _mm512_unpackhi_ps(t[i + 2], t[i + 3]);
        u[i] = _mm512_shuffle_ps(a, c, 0x44);
        u[i + 1] = _mm512_shuffle_ps(a, c, 0xee);
        u[i + 2] = _mm512_shuffle_ps(b, d, 0x44);
        u[i + 3] = _mm512_shuffle_ps(b, d, 0xee);
    }
    for (int i = 0; i < 4; i++) {
        V a = _mm512_shuffle_f32x4(u[i], u[i + 4], 0x88);
        V b = _mm512_shuffle_f32x4(u[i], u[i + 4], 0xdd);
        V c = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0x88);
        V d = _mm512_shuffle_f32x4(u[i + 8], u[i + 12], 0xdd);
        t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
        t[i + 8] = _mm512_shuffle_f32x4(a, c, 0xdd);
        t[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
        t[i + 12] = _mm512_shuffle_f32x4(b, d, 0xdd);
    }
}

#include "ops/x86/gemm_vec.inc"
