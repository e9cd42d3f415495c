/* Multi-head latent attention, backward of the expanded form: the steps of mla.c in reverse. The
 * gradient of the residual stream (tmp->dx) passes through unchanged and gains the gradient of the
 * attention norm's input. */
#include "model/internal.h"

/* dW_qa and dW_kva as compress() in mla.c: one product where the gradients lie one behind the other. */
static void compress_dw(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer *l, const fm_layer_acts *la,
                        int64_t T)
{
    const fm_config *c = &m->cfg;
    const struct fm_temp *t = a->tmp;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, ld = fmi_mla_in(c);
    const fm_param *q = c->q_lora_rank ? &m->lay.params[l->q_a] : NULL;
    if (q && fmi_at(g->g[l->q_a], fmi_param_count(q), F) == g->g[l->kv_a]) {
        fm_op_gemm(m->x, &(fm_gemm_args){.a = t->dq_a, .b = la->xn, .c = g->g[l->q_a], .kind = FM_GEMM_TN,
                                         .m = ld, .n = D, .k = T, .lda = ld, .ldb = D, .ldc = D,
                                         .dt = q->dtype, .dtc = F, .accumulate = true});
        return;
    }
    if (q) fmi_linear_dw(m, g, t->dq_a, ld, la->xn, D, l->q_a, T);
    fmi_linear_dw(m, g, t->dkv_a, ld, la->xn, D, l->kv_a, T);
}

/* dn: both gradients by both weights, one product (added to dn where q has no W_qa). Weights that
 * do not lie one behind the other are copied so: the sum is one chain either way. */
static void compress_dx(fm_model *m, fm_acts *a, const fm_layer *l, int64_t T)
{
    const fm_config *c = &m->cfg;
    struct fm_temp *t = a->tmp;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, ld = fmi_mla_in(c);
    const fm_param *q = c->q_lora_rank ? &m->lay.params[l->q_a] : NULL, *kv = &m->lay.params[l->kv_a];
    if (!q) {
        fmi_linear_dx(m, t->dkv_a, ld, l->kv_a, T, t->dn, D, F, true);
        return;
    }
    const void *w = q->w;
    if (fmi_at(q->w, fmi_param_count(q), q->dtype) != kv->w) {
        fmi_copy(m->x, q->w, q->dtype, t->w_in, q->dtype, q->rows, D);
        fmi_copy(m->x, kv->w, kv->dtype, fmi_at(t->w_in, fmi_param_count(q), q->dtype), q->dtype,
                 kv->rows, D);
        w = t->w_in;
    }
    fm_op_gemm(m->x, &(fm_gemm_args){.a = t->dq_a,
                                     .b = w,
                                     .c = t->dn,
                                     .kind = FM_GEMM_NN,
                                     .m = T,
                                     .n = D,
                                     .k = ld,
                                     .lda = ld,
                                     .ldb = D,
                                     .ldc = D,
                                     .dt = q->dtype,
                                     .dtc = F});
}

static void queries_bwd(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer *l, const fm_layer_acts *la,
                        int64_t T)
{
    const fm_config *c = &m->cfg;
    struct fm_temp *t = a->tmp;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, Q = c->q_lora_rank, ld = fmi_mla_in(c);
    int64_t dq = (int64_t)c->num_attention_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    if (!Q) {
        fmi_linear_dw(m, g, t->dqa, dq, la->xn, D, l->q, T);
        fmi_linear_dx(m, t->dqa, dq, l->q, T, t->dn, D, F, false);
        return;
    }
    fmi_linear_dw(m, g, t->dqa, dq, la->q_an, Q, l->q_b, T);
    fmi_linear_dx(m, t->dqa, dq, l->q_b, T, t->dq_an, Q, F, false);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){
                                .dy = t->dq_an, .x = la->q_a, .w = fmi_w(m, l->q_a_norm),
                                .rstd = la->q_rstd, .dx = t->dq_a, .dw = g->g[l->q_a_norm], .T = T,
                                .D = Q, .ldx = ld, .lddy = Q, .lddx = ld, .dt = m->dt, .dtdx = m->dt});
}

static void latents_bwd(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer *l, const fm_layer_acts *la,
                        const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    struct fm_temp *t = a->tmp;
    int H = c->num_attention_heads, N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim;
    int64_t C = c->kv_lora_rank, ld = C + R, dq = (int64_t)H * (N + R), dkv = (int64_t)H * (N + V);
    int64_t ldx = fmi_mla_in(c);
    fmi_linear_dw(m, g, t->dkv, dkv, la->lat, ld, l->kv_b, b->T);
    fmi_linear_dx(m, t->dkv, dkv, l->kv_b, b->T, t->dc, C, fmi_full_dtype(m->dt), false);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){
                                .dy = t->dc, .x = la->kv_a, .w = fmi_w(m, l->kv_a_norm),
                                .rstd = la->kv_rstd, .dx = t->dkv_a, .dw = g->g[l->kv_a_norm],
                                .T = b->T, .D = C, .ldx = ldx, .lddy = C, .lddx = ldx, .dt = m->dt,
                                .dtdx = m->dt});
    fm_op_rope(m->x, &(fm_rope_args){.q_in = t->dq, .q_out = t->dqa, .k_in = t->dkpe,
                                     .k_out = fmi_at(t->dkv_a, C, m->dt), .cos = m->rope_cos,
                                     .sin = m->rope_sin, .pos = b->pos, .T = b->T, .ldq_in = dq,
                                     .ldq_out = dq, .ldk_in = R, .ldk_out = ldx, .H = H, .N = N, .R = R,
                                     .inverse = true, .dt = m->dt});
}

void fmi_mla_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    int H = c->num_attention_heads, N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim;
    int64_t T = b->T, D = c->hidden_size, C = c->kv_lora_rank, ld = C + R, ho = (int64_t)H * V;
    fm_dtype F = fmi_full_dtype(m->dt);
    fmi_linear_dw(m, g, t->dxa, D, la->o, ho, l->o, T);
    fmi_linear_dx(m, t->dxa, D, l->o, T, t->dout, ho, m->dt, false);
    fm_op_attn_bwd(m->x, &(fm_attn_bwd_args){
                             .q = la->q, .kv = la->kv, .kpe = fmi_at(la->lat, C, m->dt), .o = la->o,
                             .lse = la->lse, .dout = t->dout, .seg = b->seg, .dq = t->dq, .dkv = t->dkv,
                             .dkpe = t->dkpe, .scratch = t->heads, .T = T, .ldkpe = ld, .n_seg = b->n_seg,
                             .H = H, .N = N, .R = R, .V = V, .scale = fmi_config_softmax_scale(c),
                             .dt = m->dt});
    latents_bwd(m, a, g, l, la, b);
    queries_bwd(m, a, g, l, la, T);
    compress_dw(m, a, g, l, la, T);
    compress_dx(m, a, l, T);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = t->dn, .x = la->x0, .w = fmi_w(m, l->attn_norm),
                                                   .rstd = la->rstd0, .dx = t->dx, .dxa = t->dxa,
                                                   .dw = g->g[l->attn_norm],
                                                   .T = T, .D = D, .ldx = D, .lddy = D, .lddx = D,
                                                   .dt = m->dt, .dtdx = F, .accumulate = true});
}
