/* The table of operators: what each computes, its shapes, dtypes and rounding points.
 *
 * An operator is one entry of `struct fm_ops`, taking one argument struct. Every argument struct
 * begins with its device pointers, contiguous, and then its host scalars; that is how the fence
 * device (and a GPU's launch queue) copies and translates arguments. Call an operator as
 * fm_op_rmsnorm(x, &(fm_rmsnorm_args){...}).
 *
 * Letters (docs/notation.md): T rows (tokens), D width, H heads, C kv latent, N no-position head
 * dim, R rotary dim, V value dim, E experts, K chosen experts, G grouped rows (T*K), M expert
 * hidden, W vocabulary. dq = N + R.
 *
 * Dtypes: `dt` is the activation dtype, written A below: F32, BF16, F64 or C128 (the last two only in
 * the reference). F is its full dtype: F32 for F32 and BF16, else dt (fmi_full_dtype). Weights of
 * GEMMs are A; norm weights and the router bias are F. Storing to A rounds to nearest
 * even. Results are the same bits at every ISA level and thread count: docs/numerics.md
 * gives the order of every sum.
 *
 * Shapes are checked where plans are made; an operator may assume they agree. T = 0 is legal. */
#ifndef FM_OPS_OPS_H
#define FM_OPS_OPS_H

#include "ops/exec.h"

typedef enum fm_gemm_kind {
    FM_GEMM_NT, /* C[m,n] = A[m,k] B[n,k]^T   forward: y = x W^T                     */
    FM_GEMM_NN, /* C[m,n] = A[m,k] B[k,n]     backward to the input: dx = dy W       */
    FM_GEMM_TN  /* C[m,n] = A[k,m]^T B[k,n]   backward to the weight: dW = dy^T x; k counts tokens,
                   summed in chunks of 1,024 rows, each from 0, chunks added ascending */
} fm_gemm_kind;

/* a, b of dtype dt (both); c of dtype dtc (A or F). accumulate: C = C + product (the product is
 * formed from 0 first; for TN each chunk is added to C in turn).
 * batch > 1: the same for i < batch with a + i*stride_a, and so on.
 * Grouped (offsets not NULL; batch 1): row_group g owns rows offsets[g] .. offsets[g+1]-1 of A (and of
 * C for NT/NN; of B for TN). NT/NN: m is the row capacity, weights come from table[g] instead of b.
 * TN: k is the row capacity, outputs go to table[g] instead of c, chunks count from the group's
 * first row; a group without rows adds nothing (accumulate) or writes zeros. */
typedef struct fm_gemm_args {
    const void *a;
    const void *b;
    void *c;
    const int32_t *offsets;     /* [groups + 1] or NULL */
    void *const *table;         /* [groups] from fm_dev_table, or NULL */
    fm_gemm_kind kind;
    int64_t m, n, k;
    int64_t lda, ldb, ldc;
    fm_dtype dt, dtc;
    bool accumulate;
    int batch;                  /* 0 means 1 */
    int64_t stride_a, stride_b, stride_c;
    int groups;
} fm_gemm_args;

/* x[t,:] = table[ids[t],:]. table [W, D] A; x [T, ldx] F. ids outside 0..W-1 give zeros. */
typedef struct fm_embed_args {
    const void *table;
    const int32_t *ids;   /* [T] */
    void *x;
    int64_t T, D, W, ldx;
    fm_dtype dt;
} fm_embed_args;

/* dtable[id,:] += dx[t,:] for every t with ids[t] == id, t ascending. dtable [W, D] F; dx [T, ldx] F.
 * ids outside 0..W-1 are passed over. */
typedef struct fm_embed_bwd_args {
    const void *dx;
    const int32_t *ids;
    void *dtable;
    int64_t T, D, W, ldx;
    fm_dtype dt;
} fm_embed_bwd_args;

/* y = w * x * rstd, rstd = 1 / sqrt(mean(x^2) + eps), all in F; y rounded to A. DeepSeek-V3 section 2.1.
 * x [T, ldx] F; w [D] F; y [T, ldy] A or NULL; yf [T, D] F, the unrounded y, or NULL;
 * rstd [T] F out or NULL. */
typedef struct fm_rmsnorm_args {
    const void *x;
    const void *w;
    void *y;
    void *yf;
    void *rstd;
    int64_t T, D, ldx, ldy;
    double eps;
    fm_dtype dt;
} fm_rmsnorm_args;

/* g = dy + dyf (either may be NULL); dx = w*g*rstd - x * rstd^3/D * sum_j(w_j g_j x_j); dw += sum over rows
 * of g * x * rstd (chunks of 1,024 rows, each from 0, added to dw ascending).
 * dy [T, lddy] F; dyf [T, D] F; dx [T, lddx] dtype dtdx (A or F), added to when accumulate (F only);
 * dxa [T, D] A: what dx holds afterwards, rounded, or NULL. dx may be dy. */
typedef struct fm_rmsnorm_bwd_args {
    const void *dy;
    const void *dyf;
    const void *x;
    const void *w;
    const void *rstd;
    void *dx;
    void *dw;       /* [D] F */
    void *dxa;
    int64_t T, D, ldx, lddy, lddx;
    fm_dtype dt, dtdx;
    bool accumulate;
} fm_rmsnorm_bwd_args;

/* Rotary embedding on interleaved pairs (2j, 2j+1) of the last R dims of each head of q and of the one
 * shared key: y[2j] = x[2j] cos - x[2j+1] sin; y[2j+1] = x[2j] sin + x[2j+1] cos (fused as
 * fma(x0, c, -(x1*s)) and fma(x0, s, x1*c)); the first N dims are copied (rounded).
 * inverse: the angle's sign flips (backward). q and k may each be NULL.
 * q_in [T, H, N+R] F (row stride ldq_in); q_out A (row stride ldq_out); k_in [T, ldk_in] F pointing at the
 * R rotary dims; k_out [T, ldk_out] A. cos, sin [P, R/2] F; pos [T] row in the tables. */
typedef struct fm_rope_args {
    const void *q_in;
    void *q_out;
    const void *k_in;
    void *k_out;
    const void *cos;
    const void *sin;
    const int32_t *pos;
    int64_t T, ldq_in, ldq_out, ldk_in, ldk_out;
    int H, N, R;
    bool inverse;
    fm_dtype dt;
} fm_rope_args;

/* MLA attention, expanded form. Query row t attends to key rows k_begin[t] .. k_end[t]-1; blocks of 64
 * keys and segments of 512 count from k_begin[t]. score = scale * (q_nope.k_nope + q_pe.k_pe); softmax in
 * F; probabilities rounded to A; o rounded to A. Order: docs/numerics.md, "Attention".
 * q [T, H, N+R] A; kv [S, H, N+V] A (a head's N key dims, then its V value dims); kpe [S, ldkpe] A;
 * o [T, H, V] A; lse [T, H] F natural log of the sum, or NULL. Rows with no key give zeros, lse -inf. */
typedef struct fm_attn_args {
    const void *q;
    const void *kv;
    const void *kpe;
    const int32_t *k_begin; /* [T] */
    const int32_t *k_end;   /* [T] */
    void *o;
    void *lse;
    int64_t T, S, ldkpe;
    int H, N, R, V;
    double scale;
    fm_dtype dt;
} fm_attn_args;

/* Backward of attn for self-attention over documents: S = T; document i is rows seg[i] .. seg[i+1]-1, row t
 * sees rows seg[i] .. t. P recomputed from lse (unrounded F), rounded to A for dV; D_t = sum(do*o) in F;
 * dS = P * (dP - D) * scale rounded to A for dQ and dK.
 * do [T, H, V] A; dq [T, H, N+R] F out; dkv [T, H, N+V] A out; dkpe [T, R] F out (heads added ascending). */
typedef struct fm_attn_bwd_args {
    const void *q;
    const void *kv;
    const void *kpe;
    const void *o;
    const void *lse;
    const void *dout;
    const int32_t *seg;     /* [n_seg + 1] */
    void *dq;
    void *dkv;
    void *dkpe;
    void *scratch;          /* [T, H, R] F */
    int64_t T, ldkpe;
    int n_seg;
    int H, N, R, V;
    double scale;
    fm_dtype dt;
} fm_attn_bwd_args;

/* MLA attention, absorbed form, over paged latents. Query row t belongs to sequence row_seq[t] and sees its
 * first row_len[t] cached rows. A cached row is [c (C), k_pe (R)] A; page p holds rows p*64 .. p*64+63 of
 * `pages`; sequence s's i-th page is page_table[s*pages_max + i]. score = scale * (q_lat.c + q_pe.k_pe);
 * u = sum_j p_j c_j, rounded to A. Segments as in attn, each with one maximum and one chain.
 * q_lat [T, H, C] A; q [T, H, N+R] A (its last R dims are read); u [T, H, C] A. */
typedef struct fm_attn_latent_args {
    const void *q_lat;
    const void *q;
    const void *pages;
    const int32_t *page_table;
    const int32_t *row_seq;  /* [T] */
    const int32_t *row_len;  /* [T] */
    void *u;
    int64_t T;
    int pages_max;
    int H, N, R, C;
    double scale;
    fm_dtype dt;
} fm_attn_latent_args;

/* h = w[row] * silu(gate) * up, evaluated in F, rounded to A once. gate, up, h [G, ld] A.
 * row_slot [G] with weight [T*K] F, w[row] = weight[row_slot[row]]; both NULL: w = 1. */
typedef struct fm_swiglu_args {
    const void *gate;
    const void *up;
    const int32_t *row_slot;
    const void *weight;
    void *h;
    int64_t G, M, ld_gate, ld_up, ld_h;
    fm_dtype dt;
} fm_swiglu_args;

/* dgate, dup [G, ..] A; dweight[row_slot[row]] = sum_m dh * silu(gate) * up (written, F; skipped
 * when NULL). */
typedef struct fm_swiglu_bwd_args {
    const void *dh;         /* [G, ld_dh] A */
    const void *gate;
    const void *up;
    const int32_t *row_slot;
    const void *weight;
    void *dgate;
    void *dup;
    void *dweight;
    int64_t G, M, ld_dh, ld_gate, ld_up, ld_dgate, ld_dup;
    fm_dtype dt;
} fm_swiglu_bwd_args;

/* The gated FFN, whole, of one or many groups of rows: row i of group g (rows offsets[g] ..
 * offsets[g+1]-1; one group of all G rows without offsets) is row row_token[i] of x (row i where
 * NULL); gate = x W_gate^T, up = x W_up^T (A);  h = w silu(gate) up (A, as swiglu);  y = base + h
 * W_down^T. groups > 0: the weights are tables of that many matrices, else one matrix each.
 * Means exactly gather_rows, two products, swiglu and a product; a fused version gives the same
 * bits and may leave xg and h untouched. gate, up [G, M] A out; y [G, D] of dtype dty (A; F with base),
 * NULL: stop after h; base [G, D] F, NULL: none. */
typedef struct fm_gated_args {
    const void *x;              /* [*, D] A */
    const int32_t *offsets;     /* [groups + 1] or NULL */
    const int32_t *row_token;   /* [G] or NULL */
    const int32_t *row_slot;    /* [G] or NULL with weight: w = 1 */
    const void *weight;         /* [slots] F */
    const void *w_gate, *w_up;  /* [M, D] A */
    const void *w_down;         /* [D, M] A */
    void *xg;                   /* [G, D] A scratch, needed with row_token */
    void *gate, *up;
    void *h;                    /* [G, M] A scratch */
    const void *base;
    void *y;
    int64_t G, D, M;
    int groups;
    fm_dtype dt, dty;
} fm_gated_args;

/* Backward of gated from dy (rows through row_token like x) and the kept gate and up:
 *     h again; dW_down += dy^T h; dh = dy W_down (A); dgate, dup, dweight as swiglu_bwd;
 *     dW_gate += dgate^T x; dW_up += dup^T x; dx = dgate W_gate, then + dup W_up (written; dtype
 * dtdx, A or F: where A, both results are rounded). Gradients are tables (groups > 0) or single
 * matrices, F. Everything [G, ..] without a remark is scratch. */
typedef struct fm_gated_bwd_args {
    const void *dy;             /* [*, D] A */
    const void *x;              /* [*, D] A */
    const int32_t *offsets, *row_token, *row_slot;
    const void *weight;
    const void *w_gate, *w_up, *w_down;
    void *g_gate, *g_up, *g_down;
    const void *gate, *up;      /* [G, M] A */
    void *xg;                   /* [G, D] A, needed with row_token: rows of dy, then of x */
    void *h, *dh, *dgate, *dup; /* [G, M] A */
    void *dx;                   /* [G, D] out */
    void *dweight;              /* [slots] F out or NULL */
    int64_t G, D, M;
    int groups;
    fm_dtype dt, dtdx;
} fm_gated_bwd_args;

typedef enum fm_route_score { FM_ROUTE_SIGMOID, FM_ROUTE_SOFTMAX } fm_route_score;
typedef enum fm_route_method {
    FM_ROUTE_GREEDY,        /* top K of s                                                     */
    FM_ROUTE_GROUP_MAX,     /* V2 group_limited_greedy: groups ranked by their best s         */
    FM_ROUTE_NOAUX          /* V3 noaux_tc: t = s + bias; groups by the sum of their two best t */
} fm_route_method;

/* Choose K experts a token. DeepSeek-V3 report, eq. 12-16; equal scores: lower id wins; NaN counts as -inf.
 * z [T, E] F logits; bias [E] F or NULL; score [T, E] F out; expert [T, K] i32 out, best first;
 * weight [T, K] F out: chosen scores (unbiased), divided by (their sum + 1e-20) if norm_topk, times scale.
 * n_group <= 1: no groups. */
typedef struct fm_route_args {
    const void *z;
    const void *bias;
    void *score;
    int32_t *expert;
    void *weight;
    int64_t T;
    int E, K, n_group, topk_group;
    fm_route_score scoring;
    fm_route_method method;
    bool norm_topk;
    double scale;
    fm_dtype dt;
} fm_route_args;

/* dz from dweight through the weights and scores (choice held fixed), plus, when balance_f is given, the
 * gradient of the sequence balance loss: row t of packed row b = t / L adds balance_scale * f[b,i] / L to the
 * gradient of P's share s_i / sum_j s_j. dz [T, E] A. */
typedef struct fm_route_bwd_args {
    const void *dweight;     /* [T, K] F */
    const void *score;       /* [T, E] F */
    const int32_t *expert;
    const void *balance_f;   /* [T / L, E] F or NULL */
    void *dz;
    int64_t T, L;
    int E, K;
    fm_route_score scoring;
    bool norm_topk;
    double scale;
    double balance_scale;    /* alpha / number of packed rows in the optimizer step */
    fm_dtype dt;
} fm_route_bwd_args;

/* Sequence balance loss, eq. 17-20: per packed row b of L tokens f[b,i] = E/(K L) * #(tokens whose top K by
 * unbiased score holds i; ties: lower id), P_i = mean_t s_i / sum_j s_j; loss[0] += balance_scale *
 * sum_b sum_i f P (balance_scale = alpha / number of packed rows in the optimizer step). */
typedef struct fm_seq_balance_args {
    const void *score;       /* [T, E] F */
    void *f;                 /* [T / L, E] F out */
    void *loss;              /* [1] F, added to */
    int64_t T, L;
    int E, K;
    double balance_scale;
    fm_dtype dt;
} fm_seq_balance_args;

/* Sort the T*K slots (slot = t*K + k) by expert, tokens ascending inside an expert.
 * offsets [E+1] out; row_slot [T*K] out (grouped row -> slot); row_token [T*K] out (= slot / K);
 * slot_row [T*K] out (slot -> grouped row); load [E] i32 added to, or NULL. */
typedef struct fm_moe_plan_args {
    const int32_t *expert;   /* [T, K] */
    int32_t *offsets;
    int32_t *row_slot;
    int32_t *row_token;
    int32_t *slot_row;
    int32_t *load;
    int64_t T;
    int E, K;
} fm_moe_plan_args;

/* y[i,:] = x[rows[i],:], converting dt_x to dt_y (rounding); rows NULL: identity (a cast or a strided copy).
 * A negative row gives zeros. x [*, ldx], y [n, ldy]. */
typedef struct fm_gather_rows_args {
    const void *x;
    const int32_t *rows;
    void *y;
    int64_t n, D, ldx, ldy;
    fm_dtype dt_x, dt_y;
} fm_gather_rows_args;

/* y[rows[i],:] = x[i,:], same dtype; rows are distinct; a negative row is passed over. */
typedef struct fm_scatter_rows_args {
    const void *x;
    const int32_t *rows;
    void *y;
    int64_t n, D, ldx, ldy;
    fm_dtype dt;
} fm_scatter_rows_args;

/* x[t,:] = base[t,:] + (((sum of y[slot_row[t*K+k],:] in ascending grouped row) + shared[t,:]) + extra[t,:]);
 * shared, extra and base may be NULL; sums in F. x, base [T, D] F, base may be x; shared, extra [T, D],
 * y [T*K, D] A. Forward: x is the residual stream. Backward: x is the gradient of what router and experts
 * read, extra the router's part of it. */
typedef struct fm_moe_combine_args {
    const void *y;
    const int32_t *slot_row;
    const void *shared;
    const void *extra;
    void *x;
    const void *base;
    int64_t T, D;
    int K;
    fm_dtype dt;
} fm_moe_combine_args;

/* Log-sum-exp per row: chunks of 1,024 columns from column 0, merged ascending. logits [T, ld] F;
 * lse [T] F. */
typedef struct fm_lse_args {
    const void *logits;
    void *lse;
    int64_t T, W, ld;
    fm_dtype dt;
} fm_lse_args;

/* Cross-entropy given lse (NULL: it is formed here, the same bits): loss[t] = lse[t] - logits[t, target[t]]
 * (0 where target < 0);
 * dlogits[t,w] = grad_scale * (exp(logits - lse) - [w == target]) rounded to A, zeros where target < 0.
 * dlogits may be NULL (evaluation). loss [T] F; dlogits [T, ldd] A. */
typedef struct fm_xent_args {
    const void *logits;
    const void *lse;
    const int32_t *target;   /* [T], -1: no target */
    void *loss;
    void *dlogits;
    int64_t T, W, ld, ldd;
    double grad_scale;
    fm_dtype dt;
} fm_xent_args;

/* Head and cross-entropy in one: logits = x W^T (F); loss and dlogits as xent; with dx: dx = dlogits W (F,
 * written) and dW += dlogits^T x, `chunk` rows at a time in ascending order. Means exactly gemm, xent and
 * two more gemms on each `block` rows of a chunk (dW: on the chunk); a fused version gives the same bits and
 * writes to its scratch as it likes. dx NULL: losses alone. */
typedef struct fm_linear_xent_args {
    const void *x;           /* [T, D] A */
    const void *w;           /* [W, D] A */
    const int32_t *target;   /* [T], -1: no target */
    void *loss;              /* [T] F out */
    void *dx;                /* [T, D] F out or NULL */
    void *dw;                /* [W, D] F, added to; NULL without dx */
    void *logits;            /* [block, W] F scratch */
    void *dlogits;           /* [chunk, W] A scratch; NULL without dx */
    int64_t T, D, W, block, chunk;
    double grad_scale;
    fm_dtype dt;
} fm_linear_xent_args;

/* out[0] = out[0] + scale * sum(x[0..n-1]) (16 lanes, tree), F. */
typedef struct fm_sum_args {
    const void *x;
    void *out;
    int64_t n;
    double scale;
    fm_dtype dt;
} fm_sum_args;

/* y = alpha x + beta y elementwise as fma(alpha, x, beta*y), F (beta 0: y is not read). x may be NULL with
 * alpha 0 (scaling or, with beta 0, zero filling). ya: y rounded to bf16 (dt F32), or NULL. */
typedef struct fm_axpby_args {
    const void *x;
    void *y;
    void *ya;
    int64_t n;
    double alpha, beta;
    fm_dtype dt;             /* of x and y: F32, F64, C128 */
} fm_axpby_args;

/* Zero bytes. */
typedef struct fm_zero_args {
    void *y;
    int64_t bytes;
} fm_zero_args;

/* One parameter's place in the flat arrays of master weights, gradients and moments (all F). */
typedef struct fm_segment {
    int64_t offset;          /* first element in the flat arrays                         */
    int64_t n;
    void *weight;            /* device address (resolved by fm_segments) of the weight the forward reads */
    int32_t weight_dtype;    /* fm_dtype of weight                                        */
    int32_t round_bf16;      /* F weight holding a value rounded to bf16 (norms in bf16 runs) */
    int32_t decay;           /* weight decay applies                                      */
    int32_t skip;            /* not AdamW's (Muon's, or held fixed)                       */
} fm_segment;

/* What a step decides on the device; read by the host once a step. */
typedef struct fm_step_state {
    double grad_norm;        /* before clipping                                           */
    float clip;              /* factor the optimizer applies: min(1, max_norm / norm)     */
    int32_t bad;             /* 0: finite; 1 + i: first segment i with a non-finite gradient; -1: the loss */
} fm_step_state;

/* sumsq[i] = sum of grad^2 over segment i in double: chunks of 4,096 elements in 16 F lanes and a tree, chunk
 * sums added ascending in double. */
typedef struct fm_grad_sumsq_args {
    const void *grad;        /* flat F */
    const fm_segment *segs;
    double *sumsq;           /* [n_segs] */
    int n_segs;
    fm_dtype dt;
} fm_grad_sumsq_args;

/* grad_norm = sqrt(sum sumsq, ascending); state as above; loss [n_loss] F is checked for non-finite
 * values first. */
typedef struct fm_grad_norm_args {
    const double *sumsq;
    const void *loss;
    fm_step_state *state;
    int n_segs, n_loss;
    double max_norm;         /* <= 0: no clipping */
    fm_dtype dt;
} fm_grad_norm_args;

/* AdamW over every segment not skipped; nothing is touched when state->bad != 0.
 * g = clip * grad; m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; master -= lr * decay * wd * master, then
 * master -= lr * (m / c1) / (sqrt(v / c2) + eps), c = 1 - b^step; weight = master in its dtype. */
typedef struct fm_adamw_args {
    void *master;
    const void *grad;
    void *m;
    void *v;
    const fm_segment *segs;
    const fm_step_state *state;
    int n_segs;
    int64_t step;            /* from 1 */
    double lr, beta1, beta2, eps, weight_decay;
    fm_dtype dt;
} fm_adamw_args;

/* AdEMAMix over every segment not skipped (Pagliardini et al. 2024, algorithm 1); nothing is touched
 * when state->bad != 0. AdamW with a second, slow average of the gradient: slow = b3 slow + (1-b3) g, not
 * corrected for its start (slow NULL: none); the step is (m / c1 + alpha slow) / (sqrt(v / c2) + eps). */
typedef struct fm_ademamix_args {
    void *master;
    const void *grad;
    void *m;
    void *slow;
    void *v;
    const fm_segment *segs;
    const fm_step_state *state;
    int n_segs;
    int64_t step;            /* from 1 */
    double lr, beta1, beta2, beta3, alpha, eps, weight_decay;
    fm_dtype dt;
} fm_ademamix_args;

/* Running mean: y = beta y + (1-beta) x; where lamb is not 0 then x = x + lamb y (Grokfast's filter). x, y
 * [n] F. Nothing is touched when state->bad. */
typedef struct fm_ema_args {
    void *x;
    void *y;
    const fm_step_state *state;
    int64_t n;
    double beta, lamb;
    fm_dtype dt;
} fm_ema_args;

/* The weights of every segment = x (flat F), each rounded to its dtype as an update rounds. */
typedef struct fm_put_weights_args {
    const void *x;
    const fm_segment *segs;
    int n_segs;
    fm_dtype dt;
} fm_put_weights_args;

/* Muon, first half, one matrix: m = mu m + clip*grad; u = clip*grad + mu m (Nesterov), out [n] F; norm2[0] =
 * sum u^2. Nothing is touched when state->bad. */
typedef struct fm_muon_momentum_args {
    const void *grad;
    void *m;
    void *u;
    void *norm2;             /* [1] F */
    const fm_step_state *state;
    int64_t n;
    double mu;
    fm_dtype dt;
} fm_muon_momentum_args;

/* y = x / (sqrt(norm2) + 1e-7), rounded to dt_y; transposed: x [rows, cols] -> y [cols, rows]. */
typedef struct fm_muon_scale_args {
    const void *x;
    const void *norm2;
    void *y;
    int64_t rows, cols;
    bool transpose;
    fm_dtype dt_x, dt_y;
} fm_muon_scale_args;

/* What a step of Newton-Schulz multiplies by: b = a h + b h q G + c h q^2 G G, from F matrices g and g2
 * [n, r, r] to b [n, r, r] A. sums NULL: q = h = 1. Otherwise q = 1 / (sum^(1/4) + 1e-7) and h = sqrt(q),
 * sums [n] F (out) being every matrix's grad_sumsq of g2: the sum of s^8 over the singular values s of X, so
 * that those of h X are at most 1 and the largest is near it. */
typedef struct fm_newton_schulz_mix_args {
    const void *g, *g2;
    void *b, *sums;
    int64_t n, r;
    const double *coef;      /* host [3]: a, b, c */
    fm_dtype dt;
} fm_newton_schulz_mix_args;

/* Muon's iteration on n matrices [r, c]: for every row a, b, c of coef
 *     G = X X^T;  X = (a + b G + c G G) X
 * with X, G and what stands in brackets rounded to A for the products, the first step on X scaled by its
 * singular values (fm_newton_schulz_mix_args). x [n, r, c] A in; y [n, r, c] F out. Scratch: p as x, g and g2
 * [n, r, r] F, ga [n, r, r] A, sums [n] F; what they and x hold afterwards is open. */
typedef struct fm_newton_schulz_args {
    void *y, *x, *p, *g, *g2, *ga, *sums;
    int64_t n, r, c;
    const double (*coef)[3]; /* host [steps] */
    int steps;
    fm_dtype dt;
} fm_newton_schulz_args;

/* Muon, last half: master -= lr * (wd * master + factor * o), o [rows, cols] F (or [cols, rows] when
 * transposed); weight = master in its dtype. Obeys state->bad. */
typedef struct fm_muon_apply_args {
    void *master;
    const void *o;
    void *weight;
    const fm_step_state *state;
    int64_t rows, cols;
    bool transpose;
    double lr, weight_decay, factor;
    fm_dtype dt, weight_dtype;
} fm_muon_apply_args;

/* Muon, whole, on n matrices of rows x cols: momentum, scaling, Newton-Schulz by coef on the smaller side,
 * apply with factor 0.2 sqrt(max(rows, cols)). Matrix i is segs[i] of the flat arrays grad, m, master and u
 * (F; u is scratch). Scratch as newton_schulz's for n matrices, y too; norm2 [n] F. Obeys state->bad. */
typedef struct fm_muon_args {
    const void *grad;
    void *m, *u, *master;
    const fm_segment *segs;
    const fm_step_state *state;
    void *y, *x, *p, *g, *g2, *ga, *norm2;
    int64_t n, rows, cols;
    const double (*coef)[3]; /* host [steps] */
    int steps;
    double mu, lr, weight_decay;
    fm_dtype dt;
} fm_muon_args;

/* SOAP, first half, one matrix: g = clip*grad; m = beta m + (1-beta) g. Nothing is touched when
 * state->bad. */
typedef struct fm_soap_moment_args {
    const void *grad;
    void *m;
    void *g;                 /* [n] F out */
    const fm_step_state *state;
    int64_t n;
    double beta;
    fm_dtype dt;
} fm_soap_moment_args;

/* SOAP's Adam in the eigenbasis: v = beta2 v + (1-beta2) g^2; m = (sqrt(c2) / c1) m / (sqrt(v) + eps),
 * c = 1 - beta^step. Obeys state->bad. */
typedef struct fm_soap_adam_args {
    const void *g;
    void *v;
    void *m;                 /* in: the moment in the basis; out: the update */
    const fm_step_state *state;
    int64_t n, step;         /* step from 1 */
    double beta1, beta2, eps;
    fm_dtype dt;
} fm_soap_adam_args;

/* The next basis of one side of `batch` matrices, from one power iteration: rows of u [n, n] are the old
 * basis, p = u M with Shampoo's factor M. Rows of p go into descending order of their eigenvalue's
 * estimate u_j . p_j; u = the rows of Q^T in the QR decomposition of their transpose. v [rows, cols]
 * follows the order along the side. Where p is zero, u becomes the identity. Obeys state->bad. */
typedef struct fm_soap_basis_args {
    void *u;
    void *p;                 /* [batch, n, n], overwritten         */
    void *v;
    void *tmp;               /* [batch, rows, cols] F, scratch     */
    int32_t *order;          /* [batch, n], scratch                */
    const fm_step_state *state;
    int64_t n, rows, cols, stride_u, stride_v;
    int batch;
    bool left;               /* the side of the rows: n is rows    */
    fm_dtype dt;
} fm_soap_basis_args;

/* Auxiliary-loss-free balancing, V3 section 2.1.2: e_i = sign(mean(load) - load_i); bias_i += gamma * (e_i -
 * center * mean_j e_j). load is then added into load_sum and zeroed. Obeys state->bad when given. */
typedef struct fm_balance_update_args {
    int32_t *load;           /* [E] */
    int32_t *load_last;      /* [E] out: the load this step, for the host, or NULL */
    void *bias;              /* [E] F */
    const fm_step_state *state;
    int E;
    double gamma;
    bool center;
    fm_dtype dt;
} fm_balance_update_args;

/* Settings of one row of the sampler. */
typedef struct fm_sample_row {
    uint64_t seed;
    uint64_t position;       /* of the token being chosen, in its sequence */
    uint32_t choice;         /* which of several continuations of one prompt */
    int32_t history_begin;   /* its tokens in `history` for the repetition penalty */
    int32_t history_n;
    float temperature;       /* <= 0: argmax (lower id wins a tie) */
    int32_t top_k;           /* 0: off */
    float top_p;             /* 1: off; smallest set of tokens, in descending probability, reaching top_p */
    float min_p;             /* 0: off; drop tokens with p < min_p * max p */
    float repetition_penalty;/* 1: off; logits of tokens in history divided (positive) or multiplied */
    int32_t mask;            /* index of a row of `mask`, or -1 */
} fm_sample_row;

/* token[t] = argmax over kept w of log p_w + Gumbel noise(seed, choice, position, w), p after penalty, mask,
 * temperature and filters in that order. logprob[t]: log p of the token under the unfiltered temperature-1
 * distribution. logits [T, ld] F (not changed). mask [*, ceil(W/32)] u32 bits, 1 = allowed. */
typedef struct fm_sample_args {
    const void *logits;
    const fm_sample_row *rows;
    const int32_t *history;
    const uint32_t *mask;
    int32_t *token;          /* [T] */
    void *logprob;           /* [T] F */
    void *scratch;           /* [T, W] F */
    int64_t T, W, ld;
    fm_dtype dt;
} fm_sample_args;

/* X(name, first host field): the operators, in table order. */
#define FM_OP_LIST(X)              \
    X(gemm, kind)                  \
    X(embed, T)                    \
    X(embed_bwd, T)                \
    X(rmsnorm, T)                  \
    X(rmsnorm_bwd, T)              \
    X(rope, T)                     \
    X(attn, T)                     \
    X(attn_bwd, T)                 \
    X(attn_latent, T)              \
    X(swiglu, G)                   \
    X(swiglu_bwd, G)               \
    X(gated, G)                    \
    X(gated_bwd, G)                \
    X(route, T)                    \
    X(route_bwd, T)                \
    X(seq_balance, T)              \
    X(moe_plan, T)                 \
    X(gather_rows, n)              \
    X(scatter_rows, n)             \
    X(moe_combine, T)              \
    X(lse, T)                      \
    X(xent, T)                     \
    X(linear_xent, T)              \
    X(sum, n)                      \
    X(axpby, n)                    \
    X(zero, bytes)                 \
    X(grad_sumsq, n_segs)          \
    X(grad_norm, n_segs)           \
    X(adamw, n_segs)               \
    X(ademamix, n_segs)            \
    X(ema, n)                      \
    X(put_weights, n_segs)         \
    X(muon_momentum, n)            \
    X(muon_scale, rows)            \
    X(newton_schulz_mix, n)        \
    X(newton_schulz, n)            \
    X(muon_apply, rows)            \
    X(muon, n)                     \
    X(soap_moment, n)              \
    X(soap_adam, n)                \
    X(soap_basis, n)               \
    X(balance_update, E)           \
    X(sample, T)

typedef enum fm_op_id {
#define FM_OP_ENUM(name, first) FM_OP_##name,
    FM_OP_LIST(FM_OP_ENUM)
#undef FM_OP_ENUM
    FM_OP_COUNT
} fm_op_id;

/* What a kernel sees of the context it runs in: threads and scratch. */
typedef struct fm_kernel_ctx {
    fmi_pool *pool;
    int n_threads;
    char *const *scratch;      /* [n_threads] host blocks of scratch_bytes each, 64-byte aligned */
    size_t scratch_bytes;      /* FM_SCRATCH_BYTES */
    const struct fm_ops *ops;  /* the table in use, for composite operators */
} fm_kernel_ctx;
#define FM_SCRATCH_BYTES ((size_t)4 << 20)

typedef struct fm_ops {
#define FM_OP_FIELD(name, first) fm_status (*name)(const fm_kernel_ctx *k, const fm_##name##_args *a);
    FM_OP_LIST(FM_OP_FIELD)
#undef FM_OP_FIELD
} fm_ops;

/* Start from the reference, each level overwrites what it improves. */
void fm_ops_init_ref(fm_ops *ops);
void fm_ops_init_x86(fm_ops *ops, fm_isa isa);

/* Issues operator `id`; fm_op_<name> below are the typed calls. */
void fmi_op_issue(fm_exec *x, fm_op_id id, const void *args);
#define FM_OP_CALL(name, first)                                              \
    static inline void fm_op_##name(fm_exec *x, const fm_##name##_args *a)   \
    {                                                                        \
        fmi_op_issue(x, FM_OP_##name, a);                                    \
    }
FM_OP_LIST(FM_OP_CALL)
#undef FM_OP_CALL

/* Writes n segments to device memory at dst with `weight` resolved for the device. */
fm_status fm_segments_write(fm_exec *x, fm_segment *dst_dev, const fm_segment *segs, int n, fm_err *err);

#endif
