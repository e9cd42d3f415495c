/* What the x86 row and attention kernels share: the level initialisers that table.c calls, and
 * running rows on the pool. A kernel hands dtypes and shapes it does not speed up (F64 and C128
 * among them) to the reference operator. */
#ifndef FM_OPS_X86_X86_H
#define FM_OPS_X86_X86_H

#include "ops/ref/ref.h"

void fmi_rows_init_avx2(fm_ops *ops);
void fmi_rows_init_avx512(fm_ops *ops);
void fmi_rows_init_amx(fm_ops *ops);
void fmi_attn_init_avx2(fm_ops *ops);
void fmi_attn_init_avx512(fm_ops *ops);
void fmi_attn_init_amx(fm_ops *ops);
void fmi_ffn_init_amx(fm_ops *ops);
fm_status fmi_muon_x86(const fm_kernel_ctx *k, const fm_muon_args *a);
fm_status fmi_linear_xent_amx(const fm_kernel_ctx *k, const fm_linear_xent_args *a);
fm_status fmi_newton_schulz_amx(const fm_kernel_ctx *k, const fm_newton_schulz_args *a);

/* Calls fn(arg, begin, end) for disjoint shares of 0..n-1 that begin at multiples of grain, which threads
 * take one after the other, with FTZ and DAZ set; `work` estimates the elements touched: little work stays
 * on the calling thread. No result may depend on the shares. */
typedef void (*fmi_rows_fn)(const void *arg, int64_t begin, int64_t end);
void fmi_rows_run(const fm_kernel_ctx *k, fmi_rows_fn fn, const void *arg, int64_t n, int64_t grain,
                  int64_t work);

#endif
