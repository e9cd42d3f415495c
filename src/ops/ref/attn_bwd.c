/* Reference backward of attention: a pass over heads, then the sum of the shared key's gradient. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/attn_bwd.inc"
#include "ops/ref/instances.h"

REF_OP(attn_bwd)
{
    /* Tiles and 64 rows of dk, dv in the widest type must fit a thread's scratch. */
    if (2 * 64 * 64 * 16 + 64 + (int64_t)64 * (a->N + a->V) * 16 > (int64_t)k->scratch_bytes)
        return FM_E_RANGE;
    fm_status st = ref_run_dt(k, a->dt, REF_VERSIONS(attn_bwd), a, a->H);
    if (!st) st = ref_run_dt(k, a->dt, REF_VERSIONS(attn_bwd_kpe), a, a->T);
    return st;
}
