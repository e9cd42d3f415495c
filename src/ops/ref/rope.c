/* Reference rotary embedding, forward and inverse. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/rope.inc"
#include "ops/ref/instances.h"

REF_OP(rope)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(rope), a, a->T);
}
