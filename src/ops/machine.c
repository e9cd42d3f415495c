/* What the processor is, and its measured ceilings.
 *
 * A ceiling is the best rate of short rounds, each about 30 ms, on one thread and on all: register-only
 * loops for FMA and tiles, passes over a buffer far larger than the last cache for memory, over half of
 * the second-level cache for L2. Threads run the same round side by side; the rate counts the work of
 * all over the slowest one's time. */
#include "fathom/machine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/pool.h"
#include "ops/exec.h"
#include "ops/machine.h"

#define MEMORY_BYTES ((size_t)256 << 20)
#define ROUND_S 0.03

static void read_line_value(const char *path, const char *key, char *out, size_t cap)
{
    char line[4096];
    FILE *f = fopen(path, "r");
    out[0] = 0;
    while (f && fgets(line, sizeof line, f)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *v = strchr(line, ':');
        if (!v) continue;
        v += strspn(v, ": \t");
        snprintf(out, cap, "%.*s", (int)strcspn(v, "\n"), v);
        break;
    }
    if (f) fclose(f);
}

static int64_t memory_line(const char *key)
{
    char v[64];
    read_line_value("/proc/meminfo", key, v, sizeof v);
    return (int64_t)strtoll(v, NULL, 10) * 1024;
}

void fm_machine_describe(fm_machine *m)
{
    static const char *const wanted[] = {"avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512dq", "avx512vl",
                                         "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"};
    char flags[8192], word[40];
    memset(m, 0, sizeof *m);
    read_line_value("/proc/cpuinfo", "model name", m->processor, sizeof m->processor);
    if (!m->processor[0]) snprintf(m->processor, sizeof m->processor, "unknown");
    flags[0] = ' ';
    read_line_value("/proc/cpuinfo", "flags", flags + 1, sizeof flags - 3);
    size_t end = strlen(flags);
    flags[end] = ' ';
    flags[end + 1] = 0;
    size_t used = 0;
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        snprintf(word, sizeof word, " %s ", wanted[i]);
        if (strstr(flags, word))
            used += (size_t)snprintf(m->features + used, sizeof m->features - used, "%s%s", used ? " " : "",
                                     wanted[i]);
    }
    m->isa = fm_isa_name(fm_isa_detect());
    m->processors = fmi_processors();
    m->memory_bytes = memory_line("MemTotal");
    m->memory_available_bytes = memory_line("MemAvailable");
    m->l2_bytes = sysconf(_SC_LEVEL2_CACHE_SIZE) > 0 ? sysconf(_SC_LEVEL2_CACHE_SIZE) : 0;
    m->l3_bytes = sysconf(_SC_LEVEL3_CACHE_SIZE) > 0 ? sysconf(_SC_LEVEL3_CACHE_SIZE) : 0;
}

double fmi_spin_fma_scalar(int64_t n, float *sink)
{
    float acc[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int64_t r = 0; r < n; r++)
        for (int i = 0; i < 8; i++) acc[i] = acc[i] * 0.999f + 1e-3f;
    for (int i = 0; i < 8; i++) *sink += acc[i];
    return (double)n * 8 * 2;
}

double fmi_read_speed(const void *p, size_t bytes, float *sink)
{
    const uint64_t *q = p;
    uint64_t a = 0, b = 0, c = 0, d = 0;
    for (size_t i = 0; i < bytes / 8; i += 4) {
        a ^= q[i];
        b ^= q[i + 1];
        c ^= q[i + 2];
        d ^= q[i + 3];
    }
    *sink += (float)((a ^ b ^ c ^ d) & 1);
    return (double)bytes;
}

double fmi_stream_copy(void *dst, const void *src, size_t bytes)
{
    memcpy(dst, src, bytes);
    return 2.0 * (double)bytes;
}

typedef enum work { FMA, TILE_BF16, TILE_INT8, READ_MEMORY, COPY_MEMORY, READ_L2, N_WORK } work;

typedef struct round_args {
    work what;
    fm_isa isa;
    int64_t n;           /* repetitions */
    char *buffer;        /* MEMORY_BYTES for all threads */
    size_t l2;
    double done[64];     /* work of each thread */
    float sink[64][16];
} round_args;

static double repeat(const round_args *r, int tid, int n_threads, float *sink)
{
    size_t share = MEMORY_BYTES / (size_t)n_threads & ~(size_t)8191;
    char *mine = r->buffer + share * (size_t)tid;
    double sum = 0;
    switch (r->what) {
    case FMA:
        return r->isa >= FM_ISA_AVX512 ? fmi_spin_fma_avx512(r->n, sink)
               : r->isa >= FM_ISA_AVX2 ? fmi_spin_fma_avx2(r->n, sink)
                                       : fmi_spin_fma_scalar(r->n, sink);
    case TILE_BF16:
        return fmi_spin_amx_bf16(r->n, sink);
    case TILE_INT8:
        return fmi_spin_amx_int8(r->n, sink);
    case COPY_MEMORY:
        for (int64_t i = 0; i < r->n; i++) sum += fmi_stream_copy(mine, mine + share / 2, share / 2);
        return sum;
    default:
        if (r->what == READ_L2) share = r->l2;
        for (int64_t i = 0; i < r->n; i++)
            sum += r->isa >= FM_ISA_AVX512 ? fmi_read_speed_avx512(mine, share, sink)
                                           : fmi_read_speed(mine, share, sink);
        return sum;
    }
}

static void round_thread(void *arg, int tid, int n_threads)
{
    round_args *r = arg;
    r->done[tid] = repeat(r, tid, n_threads, r->sink[tid]);
}

static double run_round(fmi_pool *pool, round_args *r)
{
    double t = fmi_clock_s(), sum = 0;
    fmi_pool_run(pool, round_thread, r);
    t = fmi_clock_s() - t;
    for (int i = 0; i < fmi_pool_threads(pool); i++) sum += r->done[i];
    return sum / (t > 1e-9 ? t : 1e-9);
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(fmi_pool *pool, round_args *r, double seconds, fm_ceiling *out)
{
    double rates[32], t;
    int n = (int)(seconds / ROUND_S);
    n = n < 3 ? 3 : n > 32 ? 32 : n;
    for (r->n = 1;; r->n *= 2) {
        t = fmi_clock_s();
        run_round(pool, r);
        if (fmi_clock_s() - t > ROUND_S / 2) break;
    }
    for (int i = 0; i < n; i++) rates[i] = run_round(pool, r);
    qsort(rates, (size_t)n, sizeof *rates, compare_double);
    out->value = rates[n - 1];
    out->median = rates[n / 2];
}

static fm_status measure_all(fmi_pool *pool, fm_isa isa, char *buffer, size_t l2, double seconds,
                             int n_work, fm_ceiling *out, int *n)
{
    static const char *const name[N_WORK] = {"fma_f32", "amx_bf16", "amx_int8", "read_memory", "copy_memory",
                                             "read_l2"};
    static const char *const unit[N_WORK] = {"FLOP/s", "FLOP/s", "OP/s", "B/s", "B/s", "B/s"};
    for (int w = 0; w < n_work; w++) {
        round_args r = {.what = (work)w, .isa = isa, .buffer = buffer, .l2 = l2};
        fm_ceiling *c = &out[*n];
        *c = (fm_ceiling){.name = name[w], .unit = unit[w], .threads = fmi_pool_threads(pool)};
        if ((w != TILE_BF16 && w != TILE_INT8) || isa >= FM_ISA_AMX) measure(pool, &r, seconds, c);
        (*n)++;
    }
    return FM_OK;
}

/* The first n_work kinds of work; only those on memory need the large buffer. */
static fm_status measure_works(const char *isa, int threads, double seconds, int n_work,
                               fm_ceiling out[FM_CEILINGS_MAX], int *n, fm_err *err)
{
    fm_machine m;
    fm_machine_describe(&m);
    int level = isa ? fm_isa_parse(isa) : (int)fm_isa_detect();
    if (level < 0) return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown instruction set level '%s'", isa);
    if (level > (int)fm_isa_detect())
        return FM_FAIL(err, FM_E_UNSUPPORTED, "this processor has no %s; its level is %s", isa,
                       fm_isa_name(fm_isa_detect()));
    if (threads <= 0) threads = m.processors;
    if (threads > 64) threads = 64;
    size_t l2 = (size_t)(m.l2_bytes > 0 ? m.l2_bytes : 512 << 10) / 2 & ~(size_t)4095;
    if (l2 > MEMORY_BYTES / 64) l2 = MEMORY_BYTES / 64;
    bool memory = n_work > READ_MEMORY;
    char *buffer = memory ? fmi_alloc_aligned(MEMORY_BYTES, 4096) : NULL;
    if (memory && !buffer) return FM_FAIL(err, FM_E_NOMEM, "%zu bytes to measure memory with", MEMORY_BYTES);
    for (size_t i = 0; memory && i < MEMORY_BYTES; i += 64) buffer[i] = (char)(i >> 6);
    fm_status st = FM_OK;
    *n = 0;
    seconds = (seconds > 0 ? seconds : 3.0) / (threads > 1 ? 2 * n_work : n_work);
    for (int t = 1; t <= threads && !st; t = t == 1 && threads > 1 ? threads : threads + 1) {
        fmi_pool *pool = NULL;
        st = fmi_pool_new(t, &pool, err);
        if (!st) st = measure_all(pool, (fm_isa)level, buffer, l2, seconds, n_work, out, n);
        fmi_pool_free(pool);
    }
    fmi_free_aligned(buffer);
    return st;
}

fm_status fm_machine_measure(const char *isa, int threads, double seconds,
                             fm_ceiling out[FM_CEILINGS_MAX], int *n, fm_err *err)
{
    return measure_works(isa, threads, seconds, N_WORK, out, n, err);
}

fm_status fm_machine_measure_compute(const char *isa, int threads, double seconds,
                                     fm_ceiling out[FM_CEILINGS_MAX], int *n, fm_err *err)
{
    return measure_works(isa, threads, seconds, READ_MEMORY, out, n, err);
}
