/* The machine: what the processor offers and the ceilings measured on it.
 *
 * Thread rule: one call at a time; measuring uses its own threads and buffers and frees them. */
#ifndef FATHOM_MACHINE_H
#define FATHOM_MACHINE_H

#include <stdbool.h>
#include <stdint.h>

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_machine {
    char processor[96];        /* as the processor names itself; "unknown" otherwise */
    char features[256];        /* space-separated, of those Fathom cares about       */
    const char *isa;           /* level in use when none is asked for: "scalar", "avx2", "avx512", "amx" */
    int processors;            /* that this process may use */
    int64_t memory_bytes, memory_available_bytes;
    int64_t l2_bytes, l3_bytes; /* of one processor; 0: unknown */
} fm_machine;

/* Reads /proc and cpuid; never fails, unknown facts stay 0 or "unknown". */
void fm_machine_describe(fm_machine *out);

/* One measured ceiling. value is the best of several short runs, the others give the spread. */
typedef struct fm_ceiling {
    const char *name;          /* amx_bf16, amx_int8, fma_f32, read_memory, copy_memory, read_l2 */
    const char *unit;          /* "FLOP/s", "OP/s" or "B/s" */
    int threads;
    double value;              /* 0: this processor lacks it */
    double median;
} fm_ceiling;

#define FM_CEILINGS_MAX 16

/* Measures each ceiling on one thread and on `threads` (0: all it may use), up to the instruction-set
 * level `isa` (NULL: the best). Takes about `seconds` in all (0: 3 s). *n entries are written.
 * Errors: UNSUPPORTED (unknown isa), NOMEM. */
fm_status fm_machine_measure(const char *isa, int threads, double seconds, fm_ceiling out[FM_CEILINGS_MAX],
                             int *n, fm_err *err);
/* The same for arithmetic alone: without the 256 MiB that measuring memory takes. */
fm_status fm_machine_measure_compute(const char *isa, int threads, double seconds,
                                     fm_ceiling out[FM_CEILINGS_MAX], int *n, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
