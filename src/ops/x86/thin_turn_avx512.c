/* NT blocks of bf16 on AVX-512 for three or four rows of A, 16 rows of the weight, k a multiple of 32.
 *
 * A step of 32 k is 16 lines, turned in registers, and 32 FMAs for every row of A. One after the other
 * they leave the FMA units idle for a third of the time, and the processor does not look far enough ahead
 * to mix them. So the lines of the next step are turned while this one's wait in L1, two turns after each
 * pair of k. More rows hide the turns by themselves, fewer are read line by line (thin_lines_avx2.c). The
 * bits are those of nt_bf16 in thin_vec.inc. */
#include <immintrin.h>

#include "ops/x86/thin.h"

#define INLINE static inline __attribute__((always_inline))

typedef struct step {
    const __m512i *now; /* 16 words of 16 rows, turned */
    const float *x;     /* a row of A at this step, the others kp floats apart */
    int64_t kp;
    __m512i *then;      /* where the next step's go, .. */
    const char *w;      /* .. from lines `stride` bytes apart */
    int64_t stride;
    const char *ask; /* 16 lines to ask for, ask_stride bytes apart, or NULL */
    int64_t ask_stride;
} step;

/* Two registers of the next step for two others. */
#define TURN(f, a, b, ...)                                                                                   \
    do {                                                                                                     \
        __m512i low = f##_LOW(a, b);                                                                         \
        (b) = f##_HIGH(a, b);                                                                                \
        (a) = low;                                                                                           \
    } while (0)
#define WORDS_LOW(a, b) _mm512_unpacklo_epi32(a, b)
#define WORDS_HIGH(a, b) _mm512_unpackhi_epi32(a, b)
#define PAIRS_LOW(a, b) _mm512_unpacklo_epi64(a, b)
#define PAIRS_HIGH(a, b) _mm512_unpackhi_epi64(a, b)
#define FOURS_LOW(a, b) _mm512_shuffle_i32x4(a, b, 0x88)
#define FOURS_HIGH(a, b) _mm512_shuffle_i32x4(a, b, 0xdd)

#define LOADED(i, j)                                                                                         \
    do {                                                                                                     \
        a##i = _mm512_loadu_si512(s->w + (i) * s->stride);                                                   \
        a##j = _mm512_loadu_si512(s->w + (j) * s->stride);                                                   \
        TURN(WORDS, a##i, a##j);                                                                             \
    } while (0)
#define STORED(i, j, at)                                                                                     \
    do {                                                                                                     \
        TURN(FOURS, a##i, a##j);                                                                             \
        _mm512_store_si512(s->then + (at), a##i);                                                            \
        _mm512_store_si512(s->then + 8 + (at), a##j);                                                        \
    } while (0)

#define ROW(r, p)                                                                                            \
    if (mr > r) {                                                                                            \
        e##r = _mm512_fmadd_ps(_mm512_set1_ps(s->x[(r) * s->kp + 2 * (p)]), e, e##r);                        \
        o##r = _mm512_fmadd_ps(_mm512_set1_ps(s->x[(r) * s->kp + 2 * (p) + 1]), o, o##r);                    \
    }
/* Pair p of k, and some turns of the next step beside it. */
#define PAIR(p, turns)                                                                                       \
    do {                                                                                                     \
        __m512 e = _mm512_castsi512_ps(_mm512_slli_epi32(s->now[p], 16));                                    \
        __m512 o = _mm512_castsi512_ps(_mm512_and_si512(s->now[p], high));                                   \
        ROW(0, p)                                                                                            \
        ROW(1, p)                                                                                            \
        ROW(2, p)                                                                                            \
        ROW(3, p)                                                                                            \
        turns;                                                                                               \
        if (s->ask) _mm_prefetch(s->ask + (p) * s->ask_stride, _MM_HINT_T1);                                 \
    } while (0)

/* acc[r] += the step's products with row r, r < mr. */
INLINE void step_of(const step *s, float *acc, const int mr)
{
    const __m512i high = _mm512_set1_epi32((int32_t)0xffff0000u);
    __m512 z = _mm512_setzero_ps(), e0 = z, o0 = z, e1 = z, o1 = z, e2 = z, o2 = z, e3 = z, o3 = z;
    __m512i a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15;
    PAIR(0, LOADED(0, 1); LOADED(2, 3));
    PAIR(1, LOADED(4, 5); LOADED(6, 7));
    PAIR(2, LOADED(8, 9); LOADED(10, 11));
    PAIR(3, LOADED(12, 13); LOADED(14, 15));
    /* Of rows 4b .. 4b+3, columns 0, 1, 2, 3 of each 128 bits end in 4b, 4b+2, 4b+1, 4b+3. */
    PAIR(4, TURN(PAIRS, a0, a2); TURN(PAIRS, a1, a3));
    PAIR(5, TURN(PAIRS, a4, a6); TURN(PAIRS, a5, a7));
    PAIR(6, TURN(PAIRS, a8, a10); TURN(PAIRS, a9, a11));
    PAIR(7, TURN(PAIRS, a12, a14); TURN(PAIRS, a13, a15));
    PAIR(8, TURN(FOURS, a0, a4); TURN(FOURS, a8, a12));
    PAIR(9, TURN(FOURS, a2, a6); TURN(FOURS, a10, a14));
    PAIR(10, TURN(FOURS, a1, a5); TURN(FOURS, a9, a13));
    PAIR(11, TURN(FOURS, a3, a7); TURN(FOURS, a11, a15));
    PAIR(12, STORED(0, 8, 0); STORED(4, 12, 4));
    PAIR(13, STORED(2, 10, 1); STORED(6, 14, 5));
    PAIR(14, STORED(1, 9, 2); STORED(5, 13, 6));
    PAIR(15, STORED(3, 11, 3); STORED(7, 15, 7));
#define SUM(r)                                                                                               \
    if (mr > r)                                                                                              \
    _mm512_store_ps(acc + 16 * (r), _mm512_add_ps(_mm512_load_ps(acc + 16 * (r)), _mm512_add_ps(e##r, o##r)))
    SUM(0);
    SUM(1);
    SUM(2);
    SUM(3);
}

/* The whole block; mr 0 turns the first step, or the loop would begin with nothing turned. */
INLINE void block(const fmi_thin_block *b, const int mr)
{
    _Alignas(64) __m512i t[2][16];
    _Alignas(64) float acc[16 * 4];
    int64_t steps = b->k / 32;
    bool gaps = b->stride != 2 * b->k;
    step s = {.now = t[1], .x = b->x, .kp = b->kp, .then = t[0], .w = b->w, .stride = b->stride};
    s.ask_stride = gaps ? b->stride : 64;
    for (int r = 0; r < mr; r++) _mm512_store_ps(acc + 16 * r, _mm512_setzero_ps());
    for (int i = 0; i < 16; i++) _mm512_store_si512(t[1] + i, _mm512_setzero_si512());
    step_of(&s, acc, 0);
    for (int64_t k = 0; k < steps; k++, s.x += 32) {
        s.now = t[k % 2];
        s.then = t[(k + 1) % 2];
        if (k + 1 < steps) s.w += 64; /* the last one is turned again, to no use */
        if (b->ahead) s.ask = b->ahead + (gaps ? 64 : 1024) * k;
        step_of(&s, acc, mr);
    }
    for (int i = 0; i < 16 * mr; i += 16) _mm512_storeu_ps(b->acc + i, _mm512_load_ps(acc + i));
}

void fmi_thin_turn_avx512(const fmi_thin_block *b)
{
    if (b->m == 4) block(b, 4);
    else block(b, 3);
}
