/* Attention with AVX-512; bf16 products follow TDPBF16PS in plain FMAs. */
#include "ops/x86/v16.h"
#include "ops/x86/x86.h"

#include "ops/x86/tile_mm.inc"
#include "ops/x86/tile_pack.inc"
#include "ops/x86/tile_fwd.inc"
#include "ops/x86/tile_bwd.inc"
#include "ops/x86/tile_latent.inc"

void fmi_attn_init_avx512(fm_ops *ops)
{
    ops->attn = attn;
    ops->attn_bwd = attn_bwd;
    ops->attn_latent = attn_latent;
}
