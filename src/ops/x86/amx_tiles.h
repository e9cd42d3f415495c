/* Tile primitives that the AMX kernels share: making tiles of bf16 rows, of pairs, of columns, and the
 * block of 32 x 32 outputs.
 *
 * A tile layout is what a block reads: per step of 32 k two tiles of 1,024 bytes (rows 0..15 and 16..31,
 * 64 bytes each). An R operand holds 32 k of a row there, a P operand 16 pairs of k of 16 columns. */
#ifndef FM_OPS_X86_AMX_TILES_H
#define FM_OPS_X86_AMX_TILES_H

#include <immintrin.h>
#include <string.h>

#include "ops/x86/gemm_x86.h"

#define STEP_BYTES 2048 /* 32 rows of 32 bf16 */
#define ALWAYS static inline __attribute__((always_inline))

static inline __m512i lanes4(const char *p, int64_t gap)
{
    __m512i v = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(const void *)p));
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + gap)), 1);
    v = _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 2 * gap)), 2);
    return _mm512_inserti32x4(v, _mm_loadu_si128((const __m128i *)(const void *)(p + 3 * gap)), 3);
}

/* 16 rows of 32 bf16 -> pairs: dst[k/2][row] of 32-bit pairs. Lanes gather rows i, i+4, i+8, i+12,
 * so that a 4 x 4 transpose inside the lanes finishes the work. */
static inline void pairs_tile(char *dst, const char *src, int64_t stride)
{
    for (int q = 0; q < 4; q++) {
        const char *s = src + 16 * q;
        __m512i z0 = lanes4(s, 4 * stride), z1 = lanes4(s + stride, 4 * stride);
        __m512i z2 = lanes4(s + 2 * stride, 4 * stride), z3 = lanes4(s + 3 * stride, 4 * stride);
        __m512i a = _mm512_unpacklo_epi32(z0, z1), b = _mm512_unpackhi_epi32(z0, z1);
        __m512i c = _mm512_unpacklo_epi32(z2, z3), d = _mm512_unpackhi_epi32(z2, z3);
        char *o = dst + 256 * q;
        _mm512_store_si512(o, _mm512_unpacklo_epi64(a, c));
        _mm512_store_si512(o + 64, _mm512_unpackhi_epi64(a, c));
        _mm512_store_si512(o + 128, _mm512_unpacklo_epi64(b, d));
        _mm512_store_si512(o + 192, _mm512_unpackhi_epi64(b, d));
    }
}

ALWAYS void put_line(void *to, __m512i v, bool stream)
{
    if (stream) _mm512_stream_si512(to, v);
    else _mm512_storeu_si512(to, v);
}

/* 32 rows k of 8 bf16 -> dst[row][k], rows of 64 bytes: lanes gather k = i, i+8, i+16, i+24, then
 * an 8 x 8 transpose inside the lanes. stream: past the caches. */
ALWAYS void rows_half(char *dst, const char *src, int64_t stride, bool stream)
{
    __m512i z[8], t[8];
    for (int i = 0; i < 8; i++) z[i] = lanes4(src + i * stride, 8 * stride);
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm512_unpacklo_epi16(z[2 * i], z[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi16(z[2 * i], z[2 * i + 1]);
    }
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 2; j++) {
            z[4 * i + 2 * j] = _mm512_unpacklo_epi32(t[4 * i + j], t[4 * i + 2 + j]);
            z[4 * i + 2 * j + 1] = _mm512_unpackhi_epi32(t[4 * i + j], t[4 * i + 2 + j]);
        }
    for (int i = 0; i < 4; i++) {
        put_line(dst + 128 * i, _mm512_unpacklo_epi64(z[i], z[4 + i]), stream);
        put_line(dst + 128 * i + 64, _mm512_unpackhi_epi64(z[i], z[4 + i]), stream);
    }
}

/* The same for 16 bf16: a tile. */
ALWAYS void rows_tile(char *dst, const char *src, int64_t stride, bool stream)
{
    rows_half(dst, src, stride, stream);
    rows_half(dst + 512, src + 16, stride, stream);
}

static inline __mmask32 mask32(int64_t n)
{
    return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1;
}

/* rows x k elements (at most 32 x 32) into rows of 64 bytes, zeros around. */
static inline void copy_padded(char *dst, int dst_rows, const char *src, int64_t stride, int rows,
                        int64_t k)
{
    __mmask32 m = mask32(k);
    for (int i = 0; i < dst_rows; i++) {
        __m512i v = _mm512_setzero_si512();
        if (i < rows) v = _mm512_maskz_loadu_epi16(m, src + i * stride);
        _mm512_store_si512(dst + 64 * i, v);
    }
}

/* Two rows of k (the second may be NULL: zeros) as pairs, 16 columns from c. */
static inline __m512i pair_rows(const char *lo, const char *hi, __mmask16 m)
{
    const __m512i mix = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24,
        8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    __m256i l = _mm256_maskz_loadu_epi16(m, lo);
    __m256i h = hi ? _mm256_maskz_loadu_epi16(m, hi) : _mm256_setzero_si256();
    return _mm512_permutexvar_epi16(mix, _mm512_inserti64x4(_mm512_castsi256_si512(l), h, 1));
}

static inline void pack_across(char *dst, const char *src, int64_t stride, int rows, int64_t k)
{
    __mmask16 m0 = (__mmask16)mask32(rows < 16 ? rows : 16);
    __mmask16 m1 = (__mmask16)mask32(rows < 16 ? 0 : rows - 16);
    int64_t t = 0;
    for (; t < k; t += 2, src += 2 * stride) {
        const char *hi = t + 1 < k ? src + stride : NULL;
        _mm_prefetch(src + 32 * stride, _MM_HINT_T0);
        _mm_prefetch(src + 33 * stride, _MM_HINT_T0);
        char *o = dst + (t / 32) * STEP_BYTES + (t % 32) * 32;
        _mm512_store_si512(o, pair_rows(src, hi, m0));
        _mm512_store_si512(o + 1024, m1 ? pair_rows(src + 32, hi ? hi + 32 : NULL, m1)
                                        : _mm512_setzero_si512());
    }
    for (; t % 32; t += 2) {
        char *o = dst + (t / 32) * STEP_BYTES + (t % 32) * 32;
        _mm512_store_si512(o, _mm512_setzero_si512());
        _mm512_store_si512(o + 1024, _mm512_setzero_si512());
    }
}

/* R across (TN): 32 rows k of up to 32 elements a step. The rows lie in lines far apart, which no
 * hardware prefetcher follows, so they are asked for two steps early. */
static inline void rows_across(char *o, const char *src, int64_t stride, int rows, int64_t k)
{
    for (int64_t t = 0; t < k; t += 32, o += STEP_BYTES, src += 32 * stride) {
        for (int i = 64; i < 96; i++) _mm_prefetch(src + i * stride, _MM_HINT_T0);
        if (rows == 32 && k - t >= 32) {
            rows_tile(o, src, stride, false);
            rows_tile(o + 1024, src + 32, stride, false);
            continue;
        }
        _Alignas(64) char pad[STEP_BYTES];
        copy_padded(pad, 32, src, stride, (int)(k - t < 32 ? k - t : 32), rows);
        rows_tile(o, pad, 64, false);
        rows_tile(o + 1024, pad + 32, 64, false);
    }
}

/* Stands between tile instructions. Issued back to back they run 1.7 times slower while the core's
 * other hyperthread is busy (docs/kernels/gemm.md); alone, the gap costs nothing. */
ALWAYS void gap(void)
{
    __asm__ volatile("nop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop\n\tnop");
}

/* One step: the tiles of R at a (second half at a + half) by the panel at b. two_r, two_p: both
 * halves live. past: the panel does not settle in L1. */
ALWAYS void step_from(const char *a, int64_t stride, int64_t half, const char *b, bool two_r, bool two_p,
                      const bool past)
{
    _tile_loadd(4, a, stride);
    gap();
    if (two_r) {
        _tile_loadd(5, a + half, stride);
        gap();
    }
    if (past) _tile_stream_loadd(6, b, 64);
    else _tile_loadd(6, b, 64);
    gap();
    if (two_p) {
        if (past) _tile_stream_loadd(7, b + 1024, 64);
        else _tile_loadd(7, b + 1024, 64);
        gap();
    }
    _tile_dpbf16ps(0, 4, 6);
    gap();
    if (two_p) {
        _tile_dpbf16ps(1, 4, 7);
        gap();
    }
    if (two_r) {
        _tile_dpbf16ps(2, 5, 6);
        gap();
    }
    if (two_r && two_p) {
        _tile_dpbf16ps(3, 5, 7);
        gap();
    }
}

ALWAYS void step(const char *a, int64_t stride, int64_t half, const char *b, bool two_r, bool two_p)
{
    step_from(a, stride, half, b, two_r, two_p, false);
}

ALWAYS void block(const fmi_gemm_rows *r, const char *b, float *acc, int64_t ld, bool load,
                  bool two_r, bool two_p, const bool past)
{
    int64_t ldb = 4 * ld;
    if (load) {
        _tile_loadd(0, acc, ldb);
        if (two_p) _tile_loadd(1, acc + 16, ldb);
        if (two_r) _tile_loadd(2, acc + 16 * ld, ldb);
        if (two_r && two_p) _tile_loadd(3, acc + 16 * ld + 16, ldb);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    const char *a = r->p;
    int64_t stride = r->row_bytes, half = r->half_bytes, next = r->step_bytes;
    const char *ahead = r->ahead, *touch = r->touch;
    for (int64_t s = 0; s < r->k / 32; s++, a += next, b += STEP_BYTES) {
        if (ahead) {
            for (int i = 0; i < r->ahead_rows; i++)
                _mm_prefetch(ahead + i * r->ahead_bytes, _MM_HINT_T1);
            ahead += r->ahead_step;
        }
        if (touch && s < 8) {
            for (int i = 0; i < 4; i++, touch += r->touch_bytes) {
                __builtin_prefetch(touch, 1, 3);
                __builtin_prefetch(touch + 64, 1, 3);
            }
        }
        step_from(a, stride, half, b, two_r, two_p, past);
    }
    if (r->tail) step(r->tail, 64, 1024, b, two_r, two_p);
    _tile_stored(0, acc, ldb);
    if (two_p) _tile_stored(1, acc + 16, ldb);
    if (two_r) _tile_stored(2, acc + 16 * ld, ldb);
    if (two_r && two_p) _tile_stored(3, acc + 16 * ld + 16, ldb);
}

#endif
