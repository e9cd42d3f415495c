/* Ceilings measured beside what is timed, on threads of their own, so that a share compares two
 * rates of the same minute. On a shared machine a ceiling measured once is wrong a minute later. */
#ifndef FM_BENCH_PROBE_H
#define FM_BENCH_PROBE_H

#include "base/pool.h"
#include "ops/exec.h"

typedef struct fmi_ceiling {
    fmi_pool *pool;
    fm_isa isa;
    const char *memory; /* what is read to measure memory: several times the last cache */
    size_t bytes, at;   /* its size; where the next round begins */
    const char *small;  /* half of L2 a thread */
    size_t small_bytes;
    int64_t spins; /* repetitions of the arithmetic loop, about 3 ms */
    float sink[64][16];
} fmi_ceiling;

fm_status fmi_ceiling_open(fmi_ceiling *c, int threads, fm_isa isa, fm_err *err);
void fmi_ceiling_close(fmi_ceiling *c);

/* Bytes/s of all threads reading the next `bytes` of c->memory; of L2; operations/s of tiles (bf16
 * where there are tiles) or of FMA. */
double fmi_ceiling_read(fmi_ceiling *c, size_t bytes);
double fmi_ceiling_l2(fmi_ceiling *c);
double fmi_ceiling_compute(fmi_ceiling *c, fm_dtype dt);

/* Orders n values in place and gives their middle. */
double fmi_median(double *v, int n);

#endif
