/* Reference matrix products, plain, batched and grouped by expert. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/gemm.inc"
#include "ops/ref/instances.h"

REF_OP(gemm)
{
    int64_t copies = a->batch > 1 ? a->batch : 1;
    if (a->offsets) copies = a->kind == FM_GEMM_TN ? a->groups : 1;
    return ref_run_dt(k, a->dt, REF_VERSIONS(gemm), a, a->m * copies);
}
