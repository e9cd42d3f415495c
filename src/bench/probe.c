/* Short rounds of the loops of ops/machine.h on a pool of their own. */
#include "bench/probe.h"

#include <stdlib.h>
#include <unistd.h>

#include "ops/machine.h"

#define SPINS 150000

typedef enum what { READ, SMALL, TILES, FMA } what;

typedef struct round_job {
    fmi_ceiling *c;
    what w;
    size_t bytes;
    double done[64];
} round_job;

static void round_thread(void *arg, int tid, int n_threads)
{
    round_job *j = arg;
    fmi_ceiling *c = j->c;
    float *sink = c->sink[tid];
    size_t share = j->bytes / (size_t)n_threads & ~(size_t)4095;
    const char *p = j->w == SMALL ? c->small + (size_t)tid * c->small_bytes
                                  : c->memory + c->at + share * (size_t)tid;
    int rounds = j->w == SMALL ? 24 : 1;
    if (j->w == SMALL) share = c->small_bytes;
    j->done[tid] = 0;
    if (j->w == TILES) {
        j->done[tid] = fmi_spin_amx_bf16(c->spins, sink);
    } else if (j->w == FMA) {
        j->done[tid] = c->isa >= FM_ISA_AVX512 ? fmi_spin_fma_avx512(c->spins * 4, sink)
                       : c->isa >= FM_ISA_AVX2 ? fmi_spin_fma_avx2(c->spins * 4, sink)
                                               : fmi_spin_fma_scalar(c->spins * 4, sink);
    } else {
        for (int i = 0; i < rounds; i++)
            j->done[tid] += c->isa >= FM_ISA_AVX512 ? fmi_read_speed_avx512(p, share, sink)
                                                    : fmi_read_speed(p, share, sink);
    }
}

static double run_round(fmi_ceiling *c, what w, size_t bytes)
{
    round_job j = {.c = c, .w = w, .bytes = bytes};
    double t = fmi_clock_s(), sum = 0;
    fmi_pool_run(c->pool, round_thread, &j);
    t = fmi_clock_s() - t;
    for (int i = 0; i < fmi_pool_threads(c->pool); i++) sum += j.done[i];
    return sum / (t > 1e-9 ? t : 1e-9);
}

fm_status fmi_ceiling_open(fmi_ceiling *c, int threads, fm_isa isa, fm_err *err)
{
    long l2 = sysconf(_SC_LEVEL2_CACHE_SIZE);
    *c = (fmi_ceiling){.isa = isa, .spins = SPINS};
    c->small_bytes = (size_t)(l2 > 0 ? l2 : 512 << 10) / 2 & ~(size_t)4095;
    if (threads > 64) threads = 64;
    fm_status st = fmi_pool_new(threads, &c->pool, err);
    if (st) return st;
    char *small = fmi_alloc_aligned(c->small_bytes * (size_t)threads, 4096);
    c->small = small;
    if (!small) {
        fmi_ceiling_close(c);
        return FM_FAIL(err, FM_E_NOMEM, "%zu bytes to measure L2 with", c->small_bytes);
    }
    for (size_t i = 0; i < c->small_bytes * (size_t)threads; i += 64) small[i] = (char)(i >> 6);
    return FM_OK;
}

void fmi_ceiling_close(fmi_ceiling *c)
{
    fmi_pool_free(c->pool);
    fmi_free_aligned((void *)(uintptr_t)c->small);
    *c = (fmi_ceiling){0};
}

double fmi_ceiling_read(fmi_ceiling *c, size_t bytes)
{
    if (bytes > c->bytes) bytes = c->bytes;
    if (c->at + bytes > c->bytes) c->at = 0;
    double r = run_round(c, READ, bytes);
    c->at = (c->at + bytes + 4095) & ~(size_t)4095;
    return r;
}

double fmi_ceiling_l2(fmi_ceiling *c)
{
    return run_round(c, SMALL, 0);
}

double fmi_ceiling_compute(fmi_ceiling *c, fm_dtype dt)
{
    return run_round(c, dt == FM_DTYPE_BF16 && c->isa >= FM_ISA_AMX ? TILES : FMA, 0);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double fmi_median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return n > 0 ? v[n / 2] : 0;
}
