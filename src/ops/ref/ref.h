/* What the reference operators share: running a loop over threads, and picking a type's version.
 *
 * An operator's arithmetic stands in a .inc file which instances.h includes once per activation
 * dtype. A version works on a range [begin, end) of independent outputs and never depends on the
 * split. */
#ifndef FM_OPS_REF_REF_H
#define FM_OPS_REF_REF_H

#include "ops/ops.h"

/* Computes outputs begin..end-1; scratch is this thread's block of FM_SCRATCH_BYTES. */
typedef void (*ref_range_fn)(const void *args, int64_t begin, int64_t end, void *scratch);

/* Splits n outputs over the context's threads. */
void ref_run(const fm_kernel_ctx *k, ref_range_fn fn, const void *args, int64_t n);

/* Versions by dtype: activations f32, bf16, f64, complex. */
typedef struct ref_versions {
    ref_range_fn f32, bf16, f64, c128;
} ref_versions;
#define REF_VERSIONS(name) ((ref_versions){name##_f32, name##_bf16, name##_f64, name##_c128})

/* Runs the version of dt over n outputs; FM_E_UNSUPPORTED for other dtypes or a NULL version. */
fm_status ref_run_dt(const fm_kernel_ctx *k, fm_dtype dt, ref_versions v, const void *args,
                     int64_t n);

/* The group whose rows hold r, or -1 (grouped GEMM; offsets ascending). */
static inline int ref_group_of(const int32_t *offsets, int groups, int64_t r)
{
    if (r < offsets[0] || r >= offsets[groups]) return -1;
    int g = 0;
    while (r >= offsets[g + 1]) g++;
    return g;
}

#define REF_OP(name) fm_status ref_##name(const fm_kernel_ctx *k, const fm_##name##_args *a)
#define REF_DECLARE(name, first) REF_OP(name);
FM_OP_LIST(REF_DECLARE)
#undef REF_DECLARE

#endif
