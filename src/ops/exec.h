/* Execution context: a device, its memory, its threads and its table of operators.
 *
 * Device memory is touched by operators alone; the host sees it through fm_read and fm_write, which
 * wait for what was issued before. Issuing an operator returns nothing: the first failure sticks in
 * the context and comes out of the next fm_read, fm_write or fm_sync, as on a GPU stream.
 *
 * Devices: "cpu" runs an operator when it is issued. "fence" is for tests: the addresses it hands
 * out lie in an unreadable reservation, operators are queued with their arguments copied and run at
 * the next read, write or sync on a second mapping of the same memory. Host code that touches
 * device memory dies there of SIGSEGV, and host code that assumes an operator already ran reads
 * stale values, as it would on a GPU.
 *
 * Thread rule: one context, one thread at a time. */
#ifndef FM_OPS_EXEC_H
#define FM_OPS_EXEC_H

#include "base/base.h"
#include "base/pool.h"
#include "tensor/tensor.h"

/* Instruction set levels; each includes those before it. The same bits come out of every level. */
typedef enum fm_isa { FM_ISA_SCALAR, FM_ISA_AVX2, FM_ISA_AVX512, FM_ISA_AMX } fm_isa;

typedef struct fm_exec fm_exec;

typedef struct fm_exec_opts {
    const char *device; /* "cpu" (NULL too) or "fence" */
    int threads;        /* 0: one per usable processor  */
    int isa_max;        /* fm_isa cap; -1: what the machine has */
    bool profile;       /* collect seconds per operator */
} fm_exec_opts;

fm_status fm_exec_open(const fm_exec_opts *opts, fm_exec **out, fm_err *err);
void fm_exec_close(fm_exec *x); /* NULL is fine; device memory must have been freed */

fm_isa fm_exec_isa(const fm_exec *x);
int fm_exec_threads(const fm_exec *x);
bool fm_exec_is_fence(const fm_exec *x);

/* Best level this processor and kernel offer (asks the kernel for AMX tile data once a process). */
fm_isa fm_isa_detect(void);
const char *fm_isa_name(fm_isa isa);                 /* "scalar", "avx2", "avx512", "amx" */
int fm_isa_parse(const char *name);                  /* -1: unknown */

/* Device memory: zeroed, 256-byte aligned. bytes 0 gives a non-NULL address. */
fm_status fm_dev_alloc(fm_exec *x, size_t bytes, void **out, fm_err *err);
void fm_dev_free(fm_exec *x, void *dev);

/* Host bytes the device may use where they lie (a file mapping on "cpu"): returns the device address
 * of p, or NULL where the device needs a copy (fence, GPUs). */
void *fm_dev_borrow(fm_exec *x, const void *p);

/* A table of n device addresses living in device memory, for operators that take one (grouped GEMM).
 * Entries are resolved for the device, so an operator just follows them. Free with fm_dev_free. */
fm_status fm_dev_table(fm_exec *x, const void *const *dev_ptrs, int n, void **out, fm_err *err);

/* Copies between host and device; both wait for everything issued before and return its first
 * failure. fm_read_count counts fm_read calls (a decode step has one, a training step one). */
fm_status fm_write(fm_exec *x, void *dst_dev, const void *src_host, size_t bytes, fm_err *err);
fm_status fm_read(fm_exec *x, void *dst_host, const void *src_dev, size_t bytes, fm_err *err);
fm_status fm_sync(fm_exec *x, fm_err *err);
int64_t fm_read_count(const fm_exec *x);

/* Bytes of device memory allocated now, and the most there ever were. */
size_t fm_dev_bytes(const fm_exec *x);
size_t fm_dev_bytes_peak(const fm_exec *x);

/* Seconds and calls per operator since the last reset (profile only). i runs over operators;
 * returns NULL past the last. */
const char *fm_exec_profile(const fm_exec *x, int i, double *seconds, int64_t *calls);
void fm_exec_profile_reset(fm_exec *x);

#endif
