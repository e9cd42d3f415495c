/* Reference RMS norm. The backward forms dw first, so that dx may overwrite dy. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/norm.inc"
#include "ops/ref/instances.h"

REF_OP(rmsnorm)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(rmsnorm), a, a->T);
}

REF_OP(rmsnorm_bwd)
{
    fm_status st = FM_OK;
    if (a->dw) st = ref_run_dt(k, a->dt, REF_VERSIONS(rmsnorm_dw), a, a->D);
    if (!st && a->dx) st = ref_run_dt(k, a->dt, REF_VERSIONS(rmsnorm_dx), a, a->T);
    return st;
}
