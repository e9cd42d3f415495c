/* The x86 operators: one visible list. The table comes filled with the reference; each level overwrites
 * what it improves, so an operator missing at a level keeps the one before. */
#include "ops/x86/gemm_x86.h"
#include "ops/x86/thin.h"
#include "ops/x86/x86.h"

void fm_ops_init_x86(fm_ops *ops, fm_isa isa)
{
    if (isa < FM_ISA_AVX2) return;
    ops->gemm = fmi_gemm_x86_avx2;
    ops->gated = fmi_gated_avx2;
    ops->muon = fmi_muon_x86;
    fmi_rows_init_avx2(ops);
    fmi_attn_init_avx2(ops);
    if (isa < FM_ISA_AVX512) return;
    ops->gemm = fmi_gemm_x86_avx512;
    ops->gated = fmi_gated_avx512;
    fmi_rows_init_avx512(ops);
    fmi_attn_init_avx512(ops);
    if (isa < FM_ISA_AMX) return;
    ops->gemm = fmi_gemm_x86_amx;
    ops->linear_xent = fmi_linear_xent_amx;
    ops->newton_schulz = fmi_newton_schulz_amx;
    fmi_rows_init_amx(ops);
    fmi_attn_init_amx(ops);
    fmi_ffn_init_amx(ops);
}
