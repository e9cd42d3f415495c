/* Weight gradients of the gated FFN: per group dW_gate and dW_up from one packing of x, and
 * dW_down; rows of x and dy read where they lie, dgate, dup and h in the layout that the walk left.
 * See ffn_amx.c and tn_amx.h. */
#include "ops/x86/ffn_amx.h"
#include "ops/x86/tn_amx.h"

static void problem(const void *arg, int i, fmi_tn *q)
{
    const fm_gated_bwd_args *a = arg;
    int g = i / 2;
    int64_t begin, end, M = a->M, D = a->D;
    ffn_group(a->offsets, a->G, g, &begin, &end);
    *q = (fmi_tn){.b_rows = a->row_token ? a->row_token + begin : NULL, .lda = M, .ldb = D, .k = end - begin,
                  .m = M, .n = D, .in_tiles = true, .tile_step = 64 * M, .tile_block = STEP_BYTES};
    q->b = (const fm_bf16 *)(i % 2 ? a->dy : a->x) + (a->row_token ? 0 : begin * D);
    if (i % 2) { /* dW_down^T = h^T dy */
        q->a[0] = (const fm_bf16 *)a->h + begin * M;
        q->c[0] = (float *)ffn_matrix(a->g_down, a->groups, g);
        q->ldc = M;
        q->transposed = true;
        return;
    }
    q->a[0] = (const fm_bf16 *)a->dgate + begin * M;
    q->a[1] = (const fm_bf16 *)a->dup + begin * M;
    q->c[0] = (float *)ffn_matrix(a->g_gate, a->groups, g);
    q->c[1] = (float *)ffn_matrix(a->g_up, a->groups, g);
    q->ldc = D;
}

fm_status fmi_ffn_dw_amx(const fm_kernel_ctx *k, const fm_gated_bwd_args *a)
{
    return fmi_tn_run(k, problem, a, 2 * (a->groups > 0 ? a->groups : 1));
}
