/* Elementwise and row operators with AVX-512 and its bf16 conversions, which every processor with AMX has. */
#pragma GCC target("avx512bf16")
#include "base/rng.h"
#include "ops/x86/v16.h"
#include "ops/x86/x86.h"

#include "ops/x86/rows_norm.inc"
#include "ops/x86/rows_ffn.inc"
#include "ops/x86/rows_loss.inc"
#include "ops/x86/rows_optim.inc"
#include "ops/x86/rows_route.inc"
#include "ops/x86/rows_sample.inc"
#include "ops/x86/rows_init.inc"

void fmi_rows_init_amx(fm_ops *ops)
{
    if (__builtin_cpu_supports("avx512bf16")) rows_init(ops);
}
