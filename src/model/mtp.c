/* The multi-token-prediction block, forward and backward. DeepSeek-V3 report, section 2.2.
 *
 * Row t reads hidden state t (after the main model's final norm, unrounded) and token b->ids[t], the one that
 * follows: x0 = eh_proj [norm(embedding) ; norm(hidden)], one decoder layer, shared_head.norm, the main head.
 * The concatenation is [embedding ; hidden], as in the published weights. */
#include "model/internal.h"

static void half_norm(fm_model *m, const void *x, int w, void *cat, int half, void *rstd, int64_t T)
{
    int64_t D = m->cfg.hidden_size;
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = x, .w = fmi_w(m, w), .y = fmi_at(cat, half * D, m->dt),
                                           .rstd = rstd, .T = T, .D = D, .ldx = D, .ldy = 2 * D,
                                           .eps = m->cfg.rms_norm_eps, .dt = m->dt});
}

void fmi_forward_mtp(fm_model *m, fm_acts *a, const fm_batch *b, const void *hidden, int32_t *load)
{
    int layer = m->cfg.num_hidden_layers;
    const fm_layer *l = &m->lay.layers[layer];
    int64_t T = b->T, D = m->cfg.hidden_size, E = m->cfg.n_routed_experts;
    FM_ASSERT(a->o.mtp && layer < m->lay.n_layers);
    fm_op_embed(m->x, &(fm_embed_args){.table = fmi_w(m, m->lay.embed), .ids = b->ids, .x = a->mtp_emb,
                                       .T = T, .D = D, .W = m->cfg.vocab_size, .ldx = D, .dt = m->dt});
    half_norm(m, a->mtp_emb, l->enorm, a->mtp_cat, 0, a->mtp_erstd, T);
    half_norm(m, hidden, l->hnorm, a->mtp_cat, 1, a->mtp_hrstd, T);
    fmi_linear(m, a->mtp_cat, 2 * D, l->eh_proj, T, a->layer[layer].x0, D, fmi_full_dtype(m->dt), false);
    fmi_layer_fwd(m, a, layer, b, a->mtp_xout, load ? load + layer * E : NULL);
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = a->mtp_xout, .w = fmi_w(m, l->head_norm), .y = a->mtp_h,
                                           .yf = a->mtp_hf, .rstd = a->mtp_rstd, .T = T, .D = D,
                                           .ldx = D, .ldy = D, .eps = m->cfg.rms_norm_eps, .dt = m->dt});
}

static void half_norm_bwd(fm_model *m, fm_acts *a, fm_grads *g, const void *x, int w, int half,
                          const void *rstd, void *dx, int64_t T)
{
    int64_t D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = fmi_at(a->tmp->dcat, half * D, F), .x = x,
                                                   .w = fmi_w(m, w), .rstd = rstd, .dx = dx,
                                                   .dw = g->g[w], .T = T, .D = D, .ldx = D,
                                                   .lddy = 2 * D, .lddx = D, .dt = m->dt, .dtdx = F});
}

void fmi_backward_mtp(fm_model *m, fm_acts *a, fm_grads *g, const fm_batch *b, const void *hidden,
                      const void *dmtp, void *dhf, const fm_backward_opts *o)
{
    int layer = m->cfg.num_hidden_layers;
    const fm_layer *l = &m->lay.layers[layer];
    struct fm_temp *t = a->tmp;
    int64_t T = b->T, D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = dmtp, .x = a->mtp_xout, .w = fmi_w(m, l->head_norm),
                                                   .rstd = a->mtp_rstd, .dx = t->dx, .dxa = t->dxa,
                                                   .dw = g->g[l->head_norm], .T = T, .D = D, .ldx = D,
                                                   .lddy = D, .lddx = D, .dt = m->dt, .dtdx = F});
    fmi_layer_bwd(m, a, g, layer, b, o);
    fmi_linear_dw(m, g, t->dxa, D, a->mtp_cat, 2 * D, l->eh_proj, T);
    fmi_linear_dx(m, t->dxa, D, l->eh_proj, T, t->dcat, 2 * D, F, false);
    half_norm_bwd(m, a, g, a->mtp_emb, l->enorm, 0, a->mtp_erstd, t->dx, T);
    fm_op_embed_bwd(m->x, &(fm_embed_bwd_args){.dx = t->dx, .ids = b->ids, .dtable = g->g[m->lay.embed],
                                               .T = T, .D = D, .W = m->cfg.vocab_size, .ldx = D,
                                               .dt = m->dt});
    half_norm_bwd(m, a, g, hidden, l->hnorm, 1, a->mtp_hrstd, dhf, T);
}
