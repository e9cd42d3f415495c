/* Reference attention: expanded MLA form, and absorbed form over paged latents. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/attn.inc"
#include "ops/ref/instances.h"

REF_OP(attn)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(attn), a, a->T * a->H);
}

REF_OP(attn_latent)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(attn_latent), a, a->T * a->H);
}
