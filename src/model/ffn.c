/* The gated FFN of dense layers (and of the shared experts, which are one wider FFN), forward and backward:
 * y = W_down(silu(W_gate x) * (W_up x)). deepseek-family.md 3.8. */
#include "model/internal.h"

void fmi_gated_fwd(fm_model *m, fm_acts *a, fm_layer_acts *la, int wg, int wu, int wd, int64_t T,
                   const void *base, void *y)
{
    fm_op_gated(m->x, &(fm_gated_args){.x = la->xn1, .w_gate = fmi_w(m, wg), .w_up = fmi_w(m, wu),
                                       .w_down = fmi_w(m, wd), .gate = la->gate, .up = la->up, .h = a->tmp->h,
                                       .base = base, .y = y, .G = T, .D = m->cfg.hidden_size,
                                       .M = m->lay.params[wg].rows, .dt = m->dt,
                                       .dty = base ? fmi_full_dtype(m->dt) : m->dt});
}

void fmi_gated_bwd(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer_acts *la, int wg, int wu, int wd,
                   int64_t T, const void *dy, void *dn, fm_dtype dtdn)
{
    struct fm_temp *t = a->tmp;
    fm_op_gated_bwd(m->x, &(fm_gated_bwd_args){.dy = dy,
                                               .x = la->xn1,
                                               .w_gate = fmi_w(m, wg),
                                               .w_up = fmi_w(m, wu),
                                               .w_down = fmi_w(m, wd),
                                               .g_gate = g->g[wg],
                                               .g_up = g->g[wu],
                                               .g_down = g->g[wd],
                                               .gate = la->gate,
                                               .up = la->up,
                                               .h = t->h,
                                               .dh = t->dh,
                                               .dgate = t->dgate,
                                               .dup = t->dup,
                                               .dx = dn,
                                               .G = T,
                                               .D = m->cfg.hidden_size,
                                               .M = m->lay.params[wg].rows,
                                               .dt = m->dt,
                                               .dtdx = dtdn});
}

void fmi_ffn_fwd(fm_model *m, fm_acts *a, int layer, int64_t T, void *xout)
{
    const fm_layer *l = &m->lay.layers[layer];
    fm_layer_acts *la = &a->layer[layer];
    int64_t D = m->cfg.hidden_size;
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->x1, .w = fmi_w(m, l->ffn_norm), .y = la->xn1,
                                           .rstd = la->rstd1, .T = T, .D = D, .ldx = D, .ldy = D,
                                           .eps = m->cfg.rms_norm_eps, .dt = m->dt});
    fmi_gated_fwd(m, a, la, l->gate, l->up, l->down, T, la->x1, xout);
}

void fmi_ffn_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, int64_t T)
{
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    int64_t D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fmi_gated_bwd(m, a, g, la, l->gate, l->up, l->down, T, t->dxa, t->dn, F);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = t->dn, .x = la->x1, .w = fmi_w(m, l->ffn_norm),
                                                   .rstd = la->rstd1, .dx = t->dx, .dxa = t->dxa,
                                                   .dw = g->g[l->ffn_norm],
                                                   .T = T, .D = D, .ldx = D, .lddy = D, .lddx = D,
                                                   .dt = m->dt, .dtdx = F, .accumulate = true});
}
