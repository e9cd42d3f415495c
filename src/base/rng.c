/* Philox4x32 with 10 rounds: a keyed bijection of a 128-bit counter (Salmon, Moraes, Dror, Shaw,
 * "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
 *
 * Key: the seed. Counter words: lane, choice, low half of the position, then 24 more bits of the
 * position with the purpose in the upper 8. Nothing has a state; refuses positions of 2^56 or more.
 */
#include "base/rng.h"

#include <math.h>

#define PHILOX_M0 0xD2511F53u
#define PHILOX_M1 0xCD9E8D57u
#define PHILOX_W0 0x9E3779B9u
#define PHILOX_W1 0xBB67AE85u

void fmi_rng_words(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose,
                   uint32_t lane, uint32_t out[4])
{
    FM_ASSERT(position >> 56 == 0 && purpose < 256);
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    uint32_t c0 = lane, c1 = choice, c2 = (uint32_t)position;
    uint32_t c3 = (uint32_t)(position >> 32) | purpose << 24;
    for (int round = 0; round < 10; round++) {
        uint64_t a = (uint64_t)PHILOX_M0 * c0, b = (uint64_t)PHILOX_M1 * c2;
        c0 = (uint32_t)(b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)b;
        c2 = (uint32_t)(a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)a;
        k0 += PHILOX_W0;
        k1 += PHILOX_W1;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

float fmi_rng_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose,
                      uint32_t lane)
{
    uint32_t w[4];
    fmi_rng_words(seed, choice, position, purpose, lane, w);
    /* Odd numerators over 2^24: exact in binary32, symmetric about 1/2, never an end point. */
    return (float)((w[0] >> 9) * 2 + 1) * 0x1p-24f;
}

/* Odd numerators over 2^53. */
static double uniform53(uint32_t hi, uint32_t lo)
{
    uint64_t k = ((uint64_t)hi << 32 | lo) >> 12;
    return (double)(k * 2 + 1) * 0x1p-53;
}

double fmi_rng_normal(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose)
{
    uint32_t w[4];
    fmi_rng_words(seed, choice, position, purpose, 0, w);
    const double two_pi = 6.283185307179586476925286766559;
    return sqrt(-2.0 * log(uniform53(w[0], w[1]))) * cos(two_pi * uniform53(w[2], w[3]));
}
