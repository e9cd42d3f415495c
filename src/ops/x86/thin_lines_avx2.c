/* NT blocks of bf16 whose rows of the weight lie one after the other, k a multiple of 32: read line
 * by line, as they lie. AVX2 for up to 16 rows of A, and AVX-512 for one or two.
 *
 * A step of 32 is one line of 64 bytes and, by docs/numerics.md, two chains from 0 of its own. So a
 * lane is a step: lines, turned in registers, meet as many steps of a row of A, and the sums of the
 * steps are added up, ascending, at the end of the block. Which steps the 16 lanes of group g have
 * repeats every `phases` groups; A waits in that order (spread). The bits are those of nt_bf16 in
 * thin_vec.inc. */
#include <immintrin.h>

#include "ops/x86/thin.h"
#include "ops/x86/v16.h"

#define INLINE static inline __attribute__((always_inline))
/* Lines are asked for so many bytes early, into L2: with less the prefetches of a core whose other
 * hyperthread is busy come too late (docs/kernels/decode.md). */
#define EARLY 8192
enum { BATCH = 4 }; /* rows of A at once */

static int phases_of(int64_t steps)
{
    int64_t a = 16, b = steps;
    while (b) {
        int64_t t = a % b;
        a = b;
        b = t;
    }
    return (int)(steps / a);
}

static int least(int a, int b)
{
    return a < b ? a : b;
}

/* Row r of m rows of A into x[phases][m * 512], a phase in batches of mr rows: [16 words][mr][even,
 * odd][16 lanes]. */
void fmi_thin_spread_avx2(float *x, int m, int r, const void *row, int64_t k)
{
    v16i high = v16i_set1((int32_t)0xffff0000u);
    int64_t steps = k / 32, s = 0;
    int r0 = r / BATCH * BATCH, mr = least(BATCH, m - r0), phases = phases_of(steps);
    for (int ph = 0; ph < phases; ph++) {
        float *to = x + ((int64_t)ph * m + r0) * 512 + 32 * (r - r0);
        v16i t[16];
        for (int i = 0; i < 16; i++) {
            t[i] = v16i_load((const char *)row + 64 * s);
            s = s + 1 < steps ? s + 1 : 0;
        }
        v16i_transpose(t);
        for (int q = 0; q < 16; q++) {
            v16_store(to + 32 * mr * q, v16_from_bits(v16i_shl16(t[q])));
            v16_store(to + 32 * mr * q + 16, v16_from_bits(v16i_and(t[q], high)));
        }
    }
}

/* The sums of 16 steps for mr rows of A: sums[i * ld + lane], eight lines at a time, and eight
 * words of them, which with their sums fit 16 registers. Lines are loaded in address order, or the
 * prefetchers of the hardware see none. Accumulators have names, since gcc keeps an array of them
 * in memory. */
#define ROW(i)                                                                                     \
    if (mr > i) {                                                                                  \
        e##i = _mm256_fmadd_ps(_mm256_loadu_ps(xh + 32 * (mr * q + i)), e, e##i);                  \
        o##i = _mm256_fmadd_ps(_mm256_loadu_ps(xh + 32 * (mr * q + i) + 16), o, o##i);             \
    }
INLINE void group(const char *w, const char *ask, const float *x, float *sums, int64_t ld,
                  const int mr)
{
    __m256i high = _mm256_set1_epi32((int32_t)0xffff0000u);
    for (int h = 0; h < 2; h++, w += 512, ask += 512, x += 8, sums += 8) {
        __m256 z = _mm256_setzero_ps(), e0 = z, o0 = z, e1 = z, o1 = z, e2 = z, o2 = z, e3 = z,
               o3 = z;
        for (int half = 0; half < 2; half++) {
            const float *xh = x + half * 256 * mr;
            __m256i t[8];
            for (int i = 0; i < 8; i++) {
                t[i] = _mm256_loadu_si256((const void *)(w + 64 * i + 32 * half));
                __asm__ volatile("" : "+x"(t[i]));
                if (half == 0) _mm_prefetch(ask + 64 * i, _MM_HINT_T1);
            }
            transpose8(t);
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++) {
                __m256 e = _mm256_castsi256_ps(_mm256_slli_epi32(t[q], 16));
                __m256 o = _mm256_castsi256_ps(_mm256_and_si256(t[q], high));
                ROW(0)
                ROW(1)
                ROW(2)
                ROW(3)
            }
        }
        _mm256_storeu_ps(sums, _mm256_add_ps(e0, o0));
        if (mr > 1) _mm256_storeu_ps(sums + ld, _mm256_add_ps(e1, o1));
        if (mr > 2) _mm256_storeu_ps(sums + 2 * ld, _mm256_add_ps(e2, o2));
        if (mr > 3) _mm256_storeu_ps(sums + 3 * ld, _mm256_add_ps(e3, o3));
    }
}

/* What lies `bytes` behind the block's first line, or as far into what is read after the share. */
INLINE const char *ahead(const fmi_thin_block *b, int64_t bytes)
{
    const char *from = bytes < b->left ? b->w : b->after;
    uintptr_t at = (uintptr_t)from + (uintptr_t)(bytes < b->left ? bytes : bytes - b->left);
    return from ? (const char *)at : b->w;
}

/* The whole block for a batch of rows; asks with the first batch. */
INLINE void batch(const fmi_thin_block *b, int phases, int r0, const int mr)
{
    int64_t steps = b->k / 32;
    const float *x = b->lines + (int64_t)r0 * 512;
    float *sums = b->sums + 16 * steps * r0;
    for (int64_t g = 0, ph = 0; g < steps; g++, ph = ph + 1 < phases ? ph + 1 : 0)
        group(b->w + 1024 * g, r0 ? b->w : ahead(b, 1024 * g + EARLY), x + 512 * b->m * ph,
              sums + 16 * g, 16 * steps, mr);
}

/* acc[lane] = the sums of 16 rows of `steps` steps, ascending. */
static void fold(const float *sums, int64_t steps, float *acc)
{
    v16 a = v16_zero();
    for (int64_t s = 0; s < steps; s += 16) {
        v16i t[16];
        int n = steps - s < 16 ? (int)(steps - s) : 16;
        for (int i = 0; i < 16; i++) {
            const float *from = sums + i * steps + s;
            t[i] = n == 16 ? v16i_load(from) : v16i_load_n(from, n);
        }
        v16i_transpose(t);
        for (int i = 0; i < n; i++) a = v16_add(a, v16_from_bits(t[i]));
    }
    v16_store(acc, a);
}

void fmi_thin_lines_avx2(const fmi_thin_block *b)
{
    int64_t steps = b->k / 32;
    int phases = phases_of(steps);
    for (int r0 = 0; r0 < b->m; r0 += BATCH) switch (b->m - r0) {
        case 1:
            batch(b, phases, r0, 1);
            break;
        case 2:
            batch(b, phases, r0, 2);
            break;
        case 3:
            batch(b, phases, r0, 3);
            break;
        default:
            batch(b, phases, r0, 4);
            break;
        }
    for (int r = 0; r < b->m; r++) fold(b->sums + 16 * steps * r, steps, b->acc + 16 * r);
}
