/* Products over tokens on AMX tiles: C += A^T B, the gradients of weights. */
#ifndef FM_OPS_X86_TN_AMX_H
#define FM_OPS_X86_TN_AMX_H

#include "ops/x86/gemm_x86.h"

/* C[i][j] += sum_t A[t][i] B[row(t)][j], chunks of 1,024 t, each from 0; transposed: C[j][i]. A may
 * come in two parts of m columns each with a C of their own, which then share one packing of B. */
typedef struct fmi_tn {
    const fm_bf16 *a[2];       /* [k, m], the second NULL: one part */
    float *c[2];
    const fm_bf16 *b;          /* [*, n] */
    const int32_t *b_rows;     /* [k] or NULL: row t */
    int64_t lda, ldb, ldc;
    int64_t k, m, n;
    bool transposed;
    /* A in tile layout: 2,048 bytes for 32 t of 32 columns, tile_step bytes on to the next 32 t, tile_block
     * to the next 32 columns. The last t, where fewer than 32: rows (m = lda, a multiple of 32), or a tile
     * that zeros fill up (padded). */
    bool in_tiles, padded;
    int64_t tile_step, tile_block;
} fmi_tn;

/* Fills problem i; `arg` as given to fmi_tn_run. */
typedef void (*fmi_tn_fn)(const void *arg, int i, fmi_tn *out);

/* All problems over the context's threads. */
fm_status fmi_tn_run(const fm_kernel_ctx *k, fmi_tn_fn fn, const void *arg, int n_problems);

#endif
