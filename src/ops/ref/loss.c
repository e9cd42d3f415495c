/* Reference log-sum-exp and cross-entropy. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/loss.inc"
#include "ops/ref/instances.h"

REF_OP(lse)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(lse), a, a->T);
}

REF_OP(xent)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(xent), a, a->T);
}
