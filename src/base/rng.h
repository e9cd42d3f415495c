/* Counter-based random numbers: a value is a pure function of its key, so nothing has a state to
 * save and order of use does not matter. Philox4x32-10 (Salmon et al., SC 2011). */
#ifndef FM_BASE_RNG_H
#define FM_BASE_RNG_H

#include "base/base.h"

typedef enum fmi_rng_purpose {
    FMI_RNG_INIT = 1,    /* weight initialisation: choice = parameter index, position = element */
    FMI_RNG_SAMPLE = 2,  /* Gumbel noise: choice = sequence, position = token position,
                            lane = vocabulary id */
    FMI_RNG_DATA = 3,    /* shuffles and source draws */
    FMI_RNG_TEST = 4
} fmi_rng_purpose;

/* Four 32-bit words for (seed, choice, position, purpose, lane); position < 2^56, purpose < 256.
 * Key words: seed low, seed high. Counter words: lane, choice, position low,
 * (position >> 32) | purpose << 24. */
void fmi_rng_words(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose,
                   uint32_t lane, uint32_t out[4]);

/* Uniform in (0, 1), never 0 nor 1: ((word 0 >> 9) * 2 + 1) / 2^24, exact in f32. Standard normal:
 * Box-Muller in double. */
float fmi_rng_uniform(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose,
                      uint32_t lane);
double fmi_rng_normal(uint64_t seed, uint32_t choice, uint64_t position, uint32_t purpose);

#endif
