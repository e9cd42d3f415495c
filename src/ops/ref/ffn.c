/* Reference SwiGLU, forward and backward. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/ffn.inc"
#include "ops/ref/instances.h"

REF_OP(swiglu)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(swiglu), a, a->G);
}

REF_OP(swiglu_bwd)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(swiglu_bwd), a, a->G);
}
