/* Sixteen floats as one value: a 512-bit register with AVX-512, two 256-bit ones with AVX2.
 *
 * Kernels are written once on these functions and compiled per level, so every level does the
 * same exactly rounded operations on the same 16 lanes (docs/numerics.md, "Row reductions") and
 * gives the same bits. v16_exp and friends repeat ops/fmath.h operation by operation;
 * tests/test_kernels.c compares them with the scalar functions.
 *
 * Partial vectors: the _n forms read and write n (0..16) elements and fill with zeros. Included
 * only by files compiled with a level's flags. */
#ifndef FM_OPS_X86_V16_H
#define FM_OPS_X86_V16_H

#include <immintrin.h>

#include "ops/fmath.h"

#ifdef __AVX512F__

typedef __m512 v16;
typedef __m512i v16i;
typedef __mmask16 v16m;

static inline v16m v16_first(int64_t n) { return (v16m)((1u << n) - 1u); }
static inline v16 v16_set1(float x) { return _mm512_set1_ps(x); }
static inline v16 v16_zero(void) { return _mm512_setzero_ps(); }
static inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static inline void v16_store(float *p, v16 x) { _mm512_storeu_ps(p, x); }
static inline v16 v16_load_n(const float *p, int64_t n)
{
    return _mm512_maskz_loadu_ps(v16_first(n), p);
}
static inline void v16_store_n(float *p, v16 x, int64_t n)
{
    _mm512_mask_storeu_ps(p, v16_first(n), x);
}
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_sqrt(v16 a) { return _mm512_sqrt_ps(a); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }
static inline v16 v16_fms(v16 a, v16 b, v16 c) { return _mm512_fmsub_ps(a, b, c); }
static inline v16 v16_fnma(v16 a, v16 b, v16 c) { return _mm512_fnmadd_ps(a, b, c); }
/* a > b ? a : b, so b where either is NaN. */
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline v16i v16_bits(v16 a) { return _mm512_castps_si512(a); }
static inline v16 v16_from_bits(v16i a) { return _mm512_castsi512_ps(a); }
static inline v16i v16i_set1(int32_t x) { return _mm512_set1_epi32(x); }
static inline v16i v16i_load(const void *p) { return _mm512_loadu_si512(p); }
static inline void v16i_store(void *p, v16i x) { _mm512_storeu_si512(p, x); }
static inline v16i v16i_load_n(const void *p, int64_t n)
{
    return _mm512_maskz_loadu_epi32(v16_first(n), p);
}
/* n bf16 values (0..32) as words of two. */
static inline v16i v16i_load_halves(const void *p, int64_t n)
{
    return _mm512_maskz_loadu_epi16((__mmask32)(((uint64_t)1 << n) - 1), p);
}
static inline v16i v16i_and(v16i a, v16i b) { return _mm512_and_si512(a, b); }
static inline v16i v16i_or(v16i a, v16i b) { return _mm512_or_si512(a, b); }
static inline v16i v16i_shl16(v16i a) { return _mm512_slli_epi32(a, 16); }
static inline v16i v16i_shr16(v16i a) { return _mm512_srli_epi32(a, 16); }
static inline v16 v16_neg(v16 a)
{
    return _mm512_castsi512_ps(
        _mm512_xor_si512(_mm512_castps_si512(a), _mm512_set1_epi32(INT32_MIN)));
}
/* lane a > b (signed): x, else y. */
static inline v16 v16_select_gt(v16i a, v16i b, v16 x, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(a, b), y, x);
}
/* a < b: x, else y. */
static inline v16 v16_select_lt(v16 a, v16 b, v16 x, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* Elements 0, 0, 2, 2, .. and 1, 1, 3, 3, .. */
static inline v16 v16_dup_even(v16 a) { return _mm512_moveldup_ps(a); }
static inline v16 v16_dup_odd(v16 a) { return _mm512_movehdup_ps(a); }

/* Bits of bf16(a), nearest even, NaN kept quiet, in the low half of each lane (upper half zero). */
static inline v16i v16_round_bf16(v16 a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i h = _mm512_srli_epi32(u, 16);
    __m512i r = _mm512_add_epi32(u, _mm512_set1_epi32(0x7fff));
    r = _mm512_add_epi32(r, _mm512_and_si512(h, _mm512_set1_epi32(1)));
    r = _mm512_srli_epi32(r, 16);
    return _mm512_mask_or_epi32(r, _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), h,
                                _mm512_set1_epi32(0x40));
}
/* For what comes out of arithmetic (nothing subnormal, no NaN with a payload): words of two
 * bf16, a low and b high; and 32 consecutive bf16. */
#ifdef __AVX512BF16__
static inline v16i v16_pair_bf16(v16 a, v16 b)
{
    const __m512i turn = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19,
        3, 18, 2, 17, 1, 16, 0);
    return _mm512_permutexvar_epi16(turn, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
static inline void v16_store_2bf16(fm_bf16 *p, v16 a, v16 b)
{
    _mm512_storeu_si512(p, (__m512i)_mm512_cvtne2ps_pbh(b, a));
}
#else
static inline v16i v16_round_high(v16 a)
{
    __m512i u = _mm512_castps_si512(a);
    __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    return _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd);
}
static inline v16i v16_pair_bf16(v16 a, v16 b)
{
    return _mm512_mask_blend_epi16(0xaaaaaaaau, _mm512_srli_epi32(v16_round_high(a), 16),
                                   v16_round_high(b));
}
static inline void v16_store_2bf16(fm_bf16 *p, v16 a, v16 b)
{
    const __m512i index = _mm512_set_epi16(
        63, 61, 59, 57, 55, 53, 51, 49, 47, 45, 43, 41, 39, 37, 35, 33, 31, 29, 27, 25, 23, 21, 19,
        17, 15, 13, 11, 9, 7, 5, 3, 1);
    _mm512_storeu_si512(p, _mm512_permutex2var_epi16(v16_round_high(a), index, v16_round_high(b)));
}
#endif
static inline v16 v16_load_bf16(const fm_bf16 *p)
{
    return _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16));
}
static inline v16 v16_load_bf16_n(const fm_bf16 *p, int64_t n)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(
        _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(v16_first(n), p)), 16));
}
#ifdef __AVX512BF16__
/* The instruction takes subnormal values for 0: those go the long way. */
static inline __m256i v16_halves_bf16(v16 a)
{
    if (_mm512_testn_epi32_mask(_mm512_castps_si512(a), _mm512_set1_epi32(0x7f800000)))
        return _mm512_cvtepi32_epi16(v16_round_bf16(a));
    return (__m256i)_mm512_cvtneps_pbh(a);
}
static inline void v16_store_made(fm_bf16 *p, v16 a)
{
    _mm256_storeu_si256((void *)p, (__m256i)_mm512_cvtneps_pbh(a));
}
#else
static inline __m256i v16_halves_bf16(v16 a)
{
    return _mm512_cvtepi32_epi16(v16_round_bf16(a));
}
#endif
static inline void v16_store_bf16(fm_bf16 *p, v16 a)
{
    _mm256_storeu_si256((void *)p, v16_halves_bf16(a));
}
static inline void v16_store_bf16_n(fm_bf16 *p, v16 a, int64_t n)
{
    _mm256_mask_storeu_epi16(p, v16_first(n), _mm512_cvtepi32_epi16(v16_round_bf16(a)));
}

/* Transposes a 16 x 16 matrix of words. */
static inline void v16i_transpose(v16i r[16])
{
    v16i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    /* r[4b + c] holds, in 128-bit part q, column 4q + c of rows 4b .. 4b+3. */
    for (int c = 0; c < 4; c++) {
        v16i x = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
        v16i y = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xdd);
        v16i z = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        v16i w = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xdd);
        t[c] = _mm512_shuffle_i32x4(x, z, 0x88);
        t[8 + c] = _mm512_shuffle_i32x4(x, z, 0xdd);
        t[4 + c] = _mm512_shuffle_i32x4(y, w, 0x88);
        t[12 + c] = _mm512_shuffle_i32x4(y, w, 0xdd);
    }
    for (int i = 0; i < 16; i++) r[i] = t[i];
}

/* lane i + lane i+8, then i+4, i+2, i+1. */
static inline float v16_sum(v16 a)
{
    __m256 b = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_movehdup_ps(c));
    return _mm_cvtss_f32(c);
}
static inline float v16_hmax(v16 a) { return _mm512_reduce_max_ps(a); }
/* Bit i: lane i of a equals that of b (NaN equals nothing). */
static inline unsigned v16_equal_mask(v16 a, v16 b)
{
    return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ);
}
/* NaN lanes become y. */
static inline v16 v16_nan_to(v16 a, v16 y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q), a, y);
}

/* p * 2^n for the n an exponential needs: vscalefps rounds, flushes and overflows as one
 * product. */
static inline v16 v16_exp_scaled(v16 p, v16 t, v16 n)
{
    (void)t;
    return _mm512_scalef_ps(p, n);
}
/* Far below the range 2^n flushes the result to 0; the clamp keeps n finite. */
#define V16_EXP_LO (-1000.0f)
#define V16_EXP_HI 1000.0f
static inline v16 v16_exp_edges(v16 x, v16 y) { (void)x; return y; }
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }

#else

typedef struct v16 { __m256 a, b; } v16;
typedef struct v16i { __m256i a, b; } v16i;

static inline v16 v16_set1(float x)
{
    __m256 v = _mm256_set1_ps(x);
    return (v16){v, v};
}
static inline v16 v16_zero(void) { return v16_set1(0); }
static inline v16 v16_load(const float *p)
{
    return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
static inline void v16_store(float *p, v16 x)
{
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
}
/* All ones in the first n of the 16 lanes. */
static inline v16i v16_first(int64_t n)
{
    __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return (v16i){_mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), lane),
                  _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n - 8), lane)};
}
static inline v16 v16_load_n(const float *p, int64_t n)
{
    v16i m = v16_first(n);
    return (v16){_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
}
static inline void v16_store_n(float *p, v16 x, int64_t n)
{
    v16i m = v16_first(n);
    _mm256_maskstore_ps(p, m.a, x.a);
    _mm256_maskstore_ps(p + 8, m.b, x.b);
}
#define V16_DEF2(name, intrinsic)                                            \
    static inline v16 name(v16 x, v16 y)                                     \
    {                                                                        \
        return (v16){intrinsic(x.a, y.a), intrinsic(x.b, y.b)};              \
    }
#define V16_DEF3(name, intrinsic)                                            \
    static inline v16 name(v16 x, v16 y, v16 z)                              \
    {                                                                        \
        return (v16){intrinsic(x.a, y.a, z.a), intrinsic(x.b, y.b, z.b)};    \
    }
V16_DEF2(v16_add, _mm256_add_ps)
V16_DEF2(v16_sub, _mm256_sub_ps)
V16_DEF2(v16_mul, _mm256_mul_ps)
V16_DEF2(v16_div, _mm256_div_ps)
V16_DEF2(v16_max, _mm256_max_ps)
V16_DEF2(v16_min, _mm256_min_ps)
V16_DEF3(v16_fma, _mm256_fmadd_ps)
V16_DEF3(v16_fms, _mm256_fmsub_ps)
V16_DEF3(v16_fnma, _mm256_fnmadd_ps)
static inline v16 v16_sqrt(v16 x) { return (v16){_mm256_sqrt_ps(x.a), _mm256_sqrt_ps(x.b)}; }
static inline v16i v16_bits(v16 x)
{
    return (v16i){_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)};
}
static inline v16 v16_from_bits(v16i x)
{
    return (v16){_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)};
}
static inline v16i v16i_set1(int32_t x)
{
    __m256i v = _mm256_set1_epi32(x);
    return (v16i){v, v};
}
static inline v16i v16i_load(const void *p)
{
    const __m256i *q = p;
    return (v16i){_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline void v16i_store(void *p, v16i x)
{
    __m256i *q = p;
    _mm256_storeu_si256(q, x.a);
    _mm256_storeu_si256(q + 1, x.b);
}
static inline v16i v16i_load_n(const void *p, int64_t n) { return v16_bits(v16_load_n(p, n)); }
static inline v16i v16i_load_halves(const void *p, int64_t n)
{
    uint16_t t[32] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return v16i_load(t);
}
static inline v16i v16i_and(v16i x, v16i y)
{
    return (v16i){_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
}
static inline v16i v16i_or(v16i x, v16i y)
{
    return (v16i){_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)};
}
static inline v16i v16i_shl16(v16i x)
{
    return (v16i){_mm256_slli_epi32(x.a, 16), _mm256_slli_epi32(x.b, 16)};
}
static inline v16i v16i_shr16(v16i x)
{
    return (v16i){_mm256_srli_epi32(x.a, 16), _mm256_srli_epi32(x.b, 16)};
}
static inline v16 v16_neg(v16 x)
{
    __m256 s = _mm256_castsi256_ps(_mm256_set1_epi32(INT32_MIN));
    return (v16){_mm256_xor_ps(x.a, s), _mm256_xor_ps(x.b, s)};
}
static inline v16 v16_select_gt(v16i a, v16i b, v16 x, v16 y)
{
    return (v16){
        _mm256_blendv_ps(y.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.a, b.a))),
        _mm256_blendv_ps(y.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.b, b.b)))};
}
static inline v16 v16_select_lt(v16 a, v16 b, v16 x, v16 y)
{
    return (v16){_mm256_blendv_ps(y.a, x.a, _mm256_cmp_ps(a.a, b.a, _CMP_LT_OQ)),
                 _mm256_blendv_ps(y.b, x.b, _mm256_cmp_ps(a.b, b.b, _CMP_LT_OQ))};
}
static inline v16 v16_dup_even(v16 x)
{
    return (v16){_mm256_moveldup_ps(x.a), _mm256_moveldup_ps(x.b)};
}
static inline v16 v16_dup_odd(v16 x)
{
    return (v16){_mm256_movehdup_ps(x.a), _mm256_movehdup_ps(x.b)};
}

static inline __m256i v16_round_bf16_half(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i h = _mm256_srli_epi32(u, 16);
    __m256i r = _mm256_add_epi32(u, _mm256_set1_epi32(0x7fff));
    r = _mm256_add_epi32(r, _mm256_and_si256(h, _mm256_set1_epi32(1)));
    r = _mm256_srli_epi32(r, 16);
    __m256i q = _mm256_or_si256(h, _mm256_set1_epi32(0x40));
    __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(r, q, nan);
}
static inline v16i v16_round_bf16(v16 x)
{
    return (v16i){v16_round_bf16_half(x.a), v16_round_bf16_half(x.b)};
}
static inline __m256i v16_round_high_half(__m256 x)
{
    __m256i u = _mm256_castps_si256(x);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    return _mm256_add_epi32(_mm256_add_epi32(u, _mm256_set1_epi32(0x7fff)), odd);
}
static inline __m256i v16_pair_half(__m256 x, __m256 y)
{
    return _mm256_blend_epi16(_mm256_srli_epi32(v16_round_high_half(x), 16), v16_round_high_half(y),
                              0xaa);
}
static inline v16i v16_pair_bf16(v16 x, v16 y)
{
    return (v16i){v16_pair_half(x.a, y.a), v16_pair_half(x.b, y.b)};
}
static inline void v16_store_2bf16(fm_bf16 *p, v16 x, v16 y)
{
    v16 h[2] = {x, y};
    for (int i = 0; i < 2; i++) {
        __m256i w = _mm256_packus_epi32(_mm256_srli_epi32(v16_round_high_half(h[i].a), 16),
                                        _mm256_srli_epi32(v16_round_high_half(h[i].b), 16));
        _mm256_storeu_si256((void *)(p + 16 * i), _mm256_permute4x64_epi64(w, 0xd8));
    }
}
static inline v16 v16_load_bf16(const fm_bf16 *p)
{
    __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p));
    __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)(p + 8)));
    return (v16){_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
                 _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
static inline v16 v16_load_bf16_n(const fm_bf16 *p, int64_t n)
{
    fm_bf16 t[16] = {0};
    memcpy(t, p, (size_t)n * sizeof *t);
    return v16_load_bf16(t);
}
static inline void v16_store_bf16(fm_bf16 *p, v16 x)
{
    v16i r = v16_round_bf16(x);
    __m256i w = _mm256_packus_epi32(r.a, r.b); /* 64-bit groups: a0 b0 a1 b1 */
    _mm256_storeu_si256((void *)p, _mm256_permute4x64_epi64(w, 0xd8));
}
static inline void v16_store_bf16_n(fm_bf16 *p, v16 x, int64_t n)
{
    fm_bf16 t[16];
    v16_store_bf16(t, x);
    memcpy(p, t, (size_t)n * sizeof *t);
}

static inline void transpose8(__m256i r[8])
{
    __m256i t[8];
    for (int i = 0; i < 8; i += 2) {
        t[i] = _mm256_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm256_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {
        r[i] = _mm256_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm256_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm256_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm256_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int c = 0; c < 4; c++) {
        t[c] = _mm256_permute2x128_si256(r[c], r[4 + c], 0x20);
        t[4 + c] = _mm256_permute2x128_si256(r[c], r[4 + c], 0x31);
    }
    for (int i = 0; i < 8; i++) r[i] = t[i];
}

/* Transposes a 16 x 16 matrix of words: four 8 x 8 ones, the off-diagonal two changing places. */
static inline void v16i_transpose(v16i r[16])
{
    __m256i q[4][8];
    for (int i = 0; i < 8; i++) {
        q[0][i] = r[i].a;
        q[1][i] = r[i].b;
        q[2][i] = r[8 + i].a;
        q[3][i] = r[8 + i].b;
    }
    for (int i = 0; i < 4; i++) transpose8(q[i]);
    for (int i = 0; i < 8; i++) {
        r[i] = (v16i){q[0][i], q[2][i]};
        r[8 + i] = (v16i){q[1][i], q[3][i]};
    }
}

static inline float v16_sum(v16 x)
{
    __m256 b = _mm256_add_ps(x.a, x.b);
    __m128 c = _mm_add_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_add_ps(c, _mm_movehl_ps(c, c));
    c = _mm_add_ss(c, _mm_movehdup_ps(c));
    return _mm_cvtss_f32(c);
}
static inline float v16_hmax(v16 x)
{
    __m256 b = _mm256_max_ps(x.a, x.b);
    __m128 c = _mm_max_ps(_mm256_castps256_ps128(b), _mm256_extractf128_ps(b, 1));
    c = _mm_max_ps(c, _mm_movehl_ps(c, c));
    c = _mm_max_ss(c, _mm_movehdup_ps(c));
    return _mm_cvtss_f32(c);
}

static inline unsigned v16_equal_mask(v16 a, v16 b)
{
    unsigned lo = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.a, b.a, _CMP_EQ_OQ));
    return lo | (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a.b, b.b, _CMP_EQ_OQ)) << 8;
}
static inline v16 v16_nan_to(v16 x, v16 y)
{
    return (v16){_mm256_blendv_ps(x.a, y.a, _mm256_cmp_ps(x.a, x.a, _CMP_UNORD_Q)),
                 _mm256_blendv_ps(x.b, y.b, _mm256_cmp_ps(x.b, x.b, _CMP_UNORD_Q))};
}

static inline __m256 v16_exp_scaled_half(__m256 p, __m256 t)
{
    __m256i n = _mm256_sub_epi32(_mm256_castps_si256(t), _mm256_set1_epi32(0x4b400000));
    return _mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(p), _mm256_slli_epi32(n, 23)));
}
static inline v16 v16_exp_scaled(v16 p, v16 t, v16 n)
{
    (void)n;
    return (v16){v16_exp_scaled_half(p.a, t.a), v16_exp_scaled_half(p.b, t.b)};
}
#define V16_EXP_LO (-0x1.5d589ep+6f)
#define V16_EXP_HI 0x1.62e42ep+6f
static inline __m256 v16_exp_edges_half(__m256 x, __m256 y)
{
    __m256 lo = _mm256_cmp_ps(x, _mm256_set1_ps(V16_EXP_LO), _CMP_LT_OQ);
    __m256 hi = _mm256_cmp_ps(x, _mm256_set1_ps(V16_EXP_HI), _CMP_GT_OQ);
    y = _mm256_andnot_ps(lo, y);
    y = _mm256_blendv_ps(y, _mm256_set1_ps(__builtin_inff()), hi);
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(x, x, _CMP_UNORD_Q));
}
static inline v16 v16_exp_edges(v16 x, v16 y)
{
    return (v16){v16_exp_edges_half(x.a, y.a), v16_exp_edges_half(x.b, y.b)};
}

#endif

/* fmi_expf on 16 lanes. NaN stays NaN. Needs FTZ (vscalefps flushes). */
static inline v16 v16_exp_core(v16 x, v16 xc)
{
    v16 t = v16_fma(xc, v16_set1(0x1.715476p+0f), v16_set1(12582912.0f));
    v16 n = v16_sub(t, v16_set1(12582912.0f));
    v16 r = v16_fnma(n, v16_set1(FMI_LN2_HI), xc);
    r = v16_fnma(n, v16_set1(FMI_LN2_LO), r);
    v16 q = v16_fma(v16_set1(0x1.6ac6b2p-10f), r, v16_set1(0x1.123de0p-7f));
    q = v16_fma(q, r, v16_set1(0x1.555858p-5f));
    q = v16_fma(q, r, v16_set1(0x1.55548cp-3f));
    q = v16_fma(q, r, v16_set1(0x1.fffffcp-2f));
    v16 p = v16_add(v16_fma(q, v16_mul(r, r), r), v16_set1(1.0f));
    return v16_exp_edges(x, v16_exp_scaled(p, t, n));
}
static inline v16 v16_exp(v16 x)
{
    v16 xc = v16_max(v16_set1(V16_EXP_LO), x);
    return v16_exp_core(x, v16_min(v16_set1(V16_EXP_HI), xc));
}
/* The same for differences to a maximum or a log-sum-exp, which are never far above 0. */
static inline v16 v16_exp_low(v16 x)
{
    return v16_exp_core(x, v16_max(v16_set1(V16_EXP_LO), x));
}

static inline v16 v16_sigmoid(v16 x)
{
    v16 one = v16_set1(1.0f);
    return v16_div(one, v16_add(one, v16_exp(v16_neg(x))));
}

/* fmi_logf lane by lane through memory: called once per row or per 64 queries. */
static inline v16 v16_log(v16 x)
{
    float t[16];
    v16_store(t, x);
    for (int i = 0; i < 16; i++) t[i] = fmi_logf(t[i]);
    return v16_load(t);
}

/* Elements of dtype F32 (bf false) or BF16 (bf true) at index i of base p. */
static inline const void *v16_at(const void *p, int64_t i, bool bf)
{
    return (const char *)p + i * (bf ? 2 : 4);
}
static inline void *v16_ptr(void *p, int64_t i, bool bf)
{
    return (char *)p + i * (bf ? 2 : 4);
}
static inline v16 v16_get(const void *p, bool bf)
{
    return bf ? v16_load_bf16(p) : v16_load(p);
}
static inline v16 v16_get_n(const void *p, int64_t n, bool bf)
{
    return bf ? v16_load_bf16_n(p, n) : v16_load_n(p, n);
}
static inline void v16_put(void *p, v16 x, bool bf)
{
    if (bf) v16_store_bf16(p, x);
    else v16_store(p, x);
}
static inline void v16_put_n(void *p, v16 x, int64_t n, bool bf)
{
    if (bf) v16_store_bf16_n(p, x, n);
    else v16_store_n(p, x, n);
}

/* Results of arithmetic, of which none is subnormal: 16, 32 and up to 16 of them. */
#ifndef __AVX512BF16__
static inline void v16_store_made(fm_bf16 *p, v16 a) { v16_store_bf16(p, a); }
#endif
static inline void v16_put_made(void *p, v16 x, bool bf)
{
    if (bf) v16_store_made(p, x);
    else v16_store(p, x);
}
static inline void v16_put_2made(void *p, v16 x, v16 y, bool bf)
{
#ifdef __AVX512BF16__
    if (bf) {
        v16_store_2bf16(p, x, y);
        return;
    }
#endif
    v16_put_made(p, x, bf);
    v16_put_made((char *)p + (bf ? 32 : 64), y, bf);
}

/* 32 of any values. */
static inline void v16_round_2bf16(fm_bf16 *p, v16 x, v16 y)
{
#ifdef __AVX512BF16__
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    if (!(_mm512_testn_epi32_mask(_mm512_castps_si512(x), exponent)
          | _mm512_testn_epi32_mask(_mm512_castps_si512(y), exponent))) {
        v16_store_2bf16(p, x, y);
        return;
    }
#endif
    v16_store_bf16(p, x);
    v16_store_bf16(p + 16, y);
}

/* Asks for the line `bytes` past p, which may lie past the array. */
static inline void v16_ask(const void *p, int64_t bytes)
{
    _mm_prefetch((const char *)((uintptr_t)p + (uintptr_t)bytes), _MM_HINT_T0);
}

/* Asks for n elements at p, into the second level. */
static inline void v16_touch(const void *p, int64_t n, bool bf)
{
    const char *c = p;
    int64_t bytes = n * (bf ? 2 : 4);
    for (int64_t i = 0; i < bytes + 63; i += 64)
        _mm_prefetch(c + (i < bytes ? i : bytes - 1), _MM_HINT_T1);
}

/* Elements of a step of 16 that are left at i of n. */
static inline int64_t lanes_left(int64_t n, int64_t i)
{
    return n - i < 16 ? n - i : 16;
}

/* y = x converted between F32 and BF16. */
static inline void convert_row(void *y, bool y_bf, const void *x, bool x_bf, int64_t D)
{
    if (x_bf == y_bf) {
        memcpy(y, x, (size_t)D * (x_bf ? 2 : 4));
        return;
    }
    int64_t i = 0;
    for (; y_bf && i + 32 <= D; i += 32)
        v16_round_2bf16((fm_bf16 *)y + i, v16_load((const float *)x + i),
                        v16_load((const float *)x + i + 16));
    for (; i + 16 <= D; i += 16)
        v16_put(v16_ptr(y, i, y_bf), v16_get(v16_at(x, i, x_bf), x_bf), y_bf);
    if (i < D)
        v16_put_n(v16_ptr(y, i, y_bf), v16_get_n(v16_at(x, i, x_bf), D - i, x_bf), D - i, y_bf);
}

/* The same for rows whose y begins at a multiple of 64 bytes and takes a multiple of them (bf16 is
 * not widened), written past the caches; the caller ends with _mm_sfence. */
static inline void stream_row(void *y, bool y_bf, const void *x, bool x_bf, int64_t D)
{
    int64_t bytes = D * (y_bf ? 2 : 4);
    for (int64_t b = 0; x_bf == y_bf && b < bytes; b += 32)
        _mm256_stream_si256((void *)((char *)y + b),
                            _mm256_loadu_si256((const void *)((const char *)x + b)));
    for (int64_t i = 0; x_bf != y_bf && i < D; i += 16) {
        fm_bf16 t[16];
        v16_store_bf16(t, v16_load((const float *)x + i));
        _mm256_stream_si256((void *)((fm_bf16 *)y + i), _mm256_loadu_si256((const void *)t));
    }
}

/* FTZ and DAZ inside an operator, restored after it; per thread. */
static inline unsigned fp_enter(void)
{
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    return csr;
}
static inline void fp_leave(unsigned csr)
{
    _mm_setcsr(csr);
}

#endif
