/* What the files of the forward and backward pass share: transients and short forms of the matrix
 * product. Only src/model includes this. */
#ifndef FM_MODEL_INTERNAL_H
#define FM_MODEL_INTERNAL_H

#include "model/forward.h"

/* Buffers that live for one layer at most; one set whatever the depth. */
struct fm_temp {
    /* forward */
    void *q;        /* [T, H, N+R] F   query before rotation */
    void *z;        /* [T, E] F        router logits */
    void *y;        /* [T*K, D] A      expert outputs; backward: gradient of gathered inputs */
    void *ys;       /* [T, D] A        shared experts' output */
    void *xg;       /* [T*K, D] A      gathered rows, where experts do not read them in place */
    void *h;        /* [T, max dense] or [T*K, M] A: hidden activations */
    void *q_lat;    /* [T, H, C] A     absorbed query */
    void *u;        /* [T, H, C] A     absorbed attention output */
    void *lat_g;    /* [S, C+R] A      gathered cache rows (expanded form over a cache) */
    void *hsel;     /* [T, D] A        hidden rows chosen for logits */
    /* backward */
    void *dx;       /* [T, D] F        gradient of the residual stream */
    void *dxa;      /* [T, D] A        the same, rounded */
    void *dn;       /* [T, D] F        gradient of a norm's output (shared experts: A, their part of it) */
    void *dnf;      /* [T, D] F        gradient of what router and experts read */
    void *dq;       /* [T, H, N+R] F */
    void *dqa;      /* [T, H, N+R] A   rotated back */
    void *dq_an;    /* [T, q_lora] F */
    void *dq_a;     /* [T, q_lora + C+R] A, laid out as q_a */
    void *dout;     /* [T, H, V] A */
    void *dkv;      /* [T, H, N+V] A */
    void *dkpe;     /* [T, R] F */
    void *dc;       /* [T, C] F */
    void *dkv_a;    /* columns q_lora .. of dq_a */
    void *w_in;     /* [q_lora + C+R, hidden] A, W_qa and W_kva where they lie apart */
    void *heads;    /* [T, H, R] F     attn_bwd's scratch */
    void *dh;       /* [T, max dense] or [T*K, M] A: gradient of h */
    void *dgate;    /* the same shape */
    void *dup;
    void *dweight;  /* [T, K] F */
    void *dz;       /* [T, E] A */
    void *dxr;      /* [T, D] A        the router's part of dnf */
    void *dlogits;  /* [logit_rows, W] A */
    void *dcat;     /* [T, 2D] F */
};

static inline void *fmi_w(const fm_model *m, int i)
{
    return m->lay.params[i].w;
}

/* Element `n` of a device buffer of dtype d. */
static inline void *fmi_at(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

/* Row length of q_a. */
static inline int64_t fmi_mla_in(const fm_config *c)
{
    return c->q_lora_rank + c->kv_lora_rank + c->qk_rope_head_dim;
}

/* y [T, n] = x [T, k] W[n, k]^T; y of dtype dty, added to y when acc. */
static inline void fmi_linear(fm_model *m, const void *x, int64_t ldx, int w, int64_t T, void *y,
                              int64_t ldy, fm_dtype dty, bool acc)
{
    const fm_param *p = &m->lay.params[w];
    fm_op_gemm(m->x, &(fm_gemm_args){.a = x, .b = p->w, .c = y, .kind = FM_GEMM_NT, .m = T,
                                     .n = p->rows, .k = p->cols, .lda = ldx, .ldb = p->cols,
                                     .ldc = ldy, .dt = p->dtype, .dtc = dty, .accumulate = acc});
}

/* dx [T, k] (F, or A without acc) = dy [T, n] W[n, k], added to dx when acc. */
static inline void fmi_linear_dx(fm_model *m, const void *dy, int64_t lddy, int w, int64_t T, void *dx,
                                 int64_t lddx, fm_dtype dtx, bool acc)
{
    const fm_param *p = &m->lay.params[w];
    fm_op_gemm(m->x, &(fm_gemm_args){.a = dy, .b = p->w, .c = dx, .kind = FM_GEMM_NN, .m = T,
                                     .n = p->cols, .k = p->rows, .lda = lddy, .ldb = p->cols,
                                     .ldc = lddx, .dt = p->dtype, .dtc = dtx, .accumulate = acc});
}

/* dW [n, k] += dy [T, n]^T x [T, k]. */
static inline void fmi_linear_dw(fm_model *m, fm_grads *g, const void *dy, int64_t lddy, const void *x,
                                 int64_t ldx, int w, int64_t T)
{
    const fm_param *p = &m->lay.params[w];
    fm_op_gemm(m->x, &(fm_gemm_args){.a = dy, .b = x, .c = g->g[w], .kind = FM_GEMM_TN, .m = p->rows,
                                     .n = p->cols, .k = T, .lda = lddy, .ldb = ldx, .ldc = p->cols,
                                     .dt = p->dtype, .dtc = fmi_full_dtype(m->dt),
                                     .accumulate = true});
}

static inline void fmi_copy(fm_exec *x, const void *src, fm_dtype ds, void *dst, fm_dtype dd, int64_t n,
                            int64_t D)
{
    fm_op_gather_rows(x, &(fm_gather_rows_args){.x = src, .y = dst, .n = n, .D = D, .ldx = D, .ldy = D,
                                                .dt_x = ds, .dt_y = dd});
}

/* Sublayers, each reading and writing one layer's acts. `layer` indexes lay.layers. */
void fmi_mla_fwd(fm_model *m, fm_acts *a, int layer, const fm_batch *b);      /* x0 -> x1 */
/* x1 -> xout (NULL: stop before the output projection, as recomputation needs no more). */
void fmi_ffn_fwd(fm_model *m, fm_acts *a, int layer, int64_t T, void *xout);
void fmi_moe_fwd(fm_model *m, fm_acts *a, int layer, int64_t T, void *xout, int32_t *load);
void fmi_layer_fwd(fm_model *m, fm_acts *a, int layer, const fm_batch *b, void *xout, int32_t *load);

/* Each turns tmp->dx, the gradient of its output, into the gradient of its input, in place; tmp->dxa
 * is always tmp->dx rounded. */
void fmi_mla_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b);
void fmi_ffn_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, int64_t T);
void fmi_moe_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b,
                 const fm_backward_opts *o);
void fmi_layer_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b,
                   const fm_backward_opts *o);

/* Dense gate-up-down shared by dense layers and shared experts: y = base + ffn(xn1); y NULL: gate
 * and up only. */
void fmi_gated_fwd(fm_model *m, fm_acts *a, fm_layer_acts *la, int wg, int wu, int wd, int64_t T,
                   const void *base, void *y);
/* From dy (A): weight gradients, and dn = the gradient of xn1. */
void fmi_gated_bwd(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer_acts *la, int wg, int wu, int wd,
                   int64_t T, const void *dy, void *dn, fm_dtype dtdn);

#endif
