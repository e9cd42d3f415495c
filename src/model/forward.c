/* The forward pass: embedding, layers, final norm, logits. Training, sampling and serving all come here.
 *
 * x += attention(norm(x)); x += ffn(norm(x)) per layer; logits = head(norm(x)). deepseek-family.md 3. */
#include "model/internal.h"

void fmi_layer_fwd(fm_model *m, fm_acts *a, int layer, const fm_batch *b, void *xout, int32_t *load)
{
    fmi_mla_fwd(m, a, layer, b);
    if (m->lay.layers[layer].moe)
        fmi_moe_fwd(m, a, layer, b->T, xout, load);
    else
        fmi_ffn_fwd(m, a, layer, b->T, xout);
}

void fmi_forward(fm_model *m, fm_acts *a, const fm_batch *b, int32_t *load)
{
    const fm_config *c = &m->cfg;
    int L = c->num_hidden_layers;
    int64_t T = b->T, D = c->hidden_size, E = c->n_routed_experts;
    FM_ASSERT(T <= a->o.rows_max);
    a->T = T;
    fm_op_embed(m->x, &(fm_embed_args){.table = fmi_w(m, m->lay.embed), .ids = b->ids,
                                       .x = a->layer[0].x0, .T = T, .D = D, .W = c->vocab_size, .ldx = D,
                                       .dt = m->dt});
    for (int i = 0; i < L; i++)
        fmi_layer_fwd(m, a, i, b, i + 1 < L ? a->layer[i + 1].x0 : a->xout, load ? load + i * E : NULL);
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = a->xout, .w = fmi_w(m, m->lay.norm), .y = a->h,
                                           .yf = a->hf, .rstd = a->h_rstd, .T = T, .D = D, .ldx = D,
                                           .ldy = D, .eps = c->rms_norm_eps, .dt = m->dt});
}

void fmi_logits(fm_model *m, fm_acts *a, const void *h, const int32_t *rows, int64_t n, void *logits)
{
    int64_t D = m->cfg.hidden_size;
    FM_ASSERT(n <= a->o.rows_max);
    if (rows) {
        fm_op_gather_rows(m->x, &(fm_gather_rows_args){.x = h, .rows = rows, .y = a->tmp->hsel, .n = n,
                                                       .D = D, .ldx = D, .ldy = D, .dt_x = m->dt,
                                                       .dt_y = m->dt});
        h = a->tmp->hsel;
    }
    fmi_linear(m, h, D, m->lay.head, n, logits, m->cfg.vocab_size, fmi_full_dtype(m->dt), false);
}

void fmi_head_loss(fm_model *m, fm_acts *a, fm_grads *g, const void *h, const int32_t *target, int64_t T,
                   double grad_scale, void *loss_rows, void *dh)
{
    const fm_param *p = &m->lay.params[m->lay.head];
    FM_ASSERT(p->dtype == m->dt);
    fm_op_linear_xent(m->x, &(fm_linear_xent_args){
                                .x = h, .w = p->w, .target = target, .loss = loss_rows, .dx = g ? dh : NULL,
                                .dw = g ? g->g[m->lay.head] : NULL, .logits = a->logits,
                                .dlogits = g ? a->tmp->dlogits : NULL, .T = T, .D = p->cols, .W = p->rows,
                                .block = a->logit_block, .chunk = a->o.logit_rows, .grad_scale = grad_scale,
                                .dt = m->dt});
}
