/* The gated FFN of dense layers (and of the shared experts, which are one wider FFN), forward and backward:
 * y = W_down(silu(W_gate x) * (W_up x)). deepseek-family.md 3.8. */
#include "model/internal.h"

void fmi_gated_fwd(fm_model *m, fm_layer_acts *la, int wg, int wu, int64_t T)
{
    int64_t D = m->cfg.hidden_size, I = m->lay.params[wg].rows;
    fmi_linear(m, la->xn1, D, wg, T, la->gate, I, m->dt, false);
    fmi_linear(m, la->xn1, D, wu, T, la->up, I, m->dt, false);
    fm_op_swiglu(m->x, &(fm_swiglu_args){.gate = la->gate, .up = la->up, .h = la->h, .G = T, .M = I,
                                         .ld_gate = I, .ld_up = I, .ld_h = I, .dt = m->dt});
}

void fmi_gated_bwd(fm_model *m, fm_acts *a, fm_grads *g, const fm_layer_acts *la, int wg, int wu, int wd,
                   int64_t T, const void *dy, void *dn)
{
    struct fm_temp *t = a->tmp;
    int64_t D = m->cfg.hidden_size, I = m->lay.params[wg].rows;
    fm_dtype F = fmi_full_dtype(m->dt);
    fmi_linear_dw(m, g, dy, D, la->h, I, wd, T);
    fmi_linear_dx(m, dy, D, wd, T, t->dh, I, m->dt, false);
    fm_op_swiglu_bwd(m->x, &(fm_swiglu_bwd_args){.dh = t->dh, .gate = la->gate, .up = la->up,
                                                 .dgate = t->dgate, .dup = t->dup, .G = T, .M = I,
                                                 .ld_dh = I, .ld_gate = I, .ld_up = I, .ld_dgate = I,
                                                 .ld_dup = I, .dt = m->dt});
    fmi_linear_dw(m, g, t->dgate, I, la->xn1, D, wg, T);
    fmi_linear_dw(m, g, t->dup, I, la->xn1, D, wu, T);
    fmi_linear_dx(m, t->dgate, I, wg, T, dn, D, F, false);
    fmi_linear_dx(m, t->dup, I, wu, T, dn, D, F, true);
}

void fmi_ffn_fwd(fm_model *m, fm_acts *a, int layer, int64_t T, void *xout)
{
    const fm_layer *l = &m->lay.layers[layer];
    fm_layer_acts *la = &a->layer[layer];
    int64_t D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->x1, .w = fmi_w(m, l->ffn_norm), .y = la->xn1,
                                           .rstd = la->rstd1, .T = T, .D = D, .ldx = D, .ldy = D,
                                           .eps = m->cfg.rms_norm_eps, .dt = m->dt});
    fmi_gated_fwd(m, la, l->gate, l->up, T);
    if (!xout) return;
    fmi_copy(m->x, la->x1, F, xout, F, T, D);
    fmi_linear(m, la->h, m->lay.params[l->gate].rows, l->down, T, xout, D, F, true);
}

void fmi_ffn_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, int64_t T)
{
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    int64_t D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fmi_copy(m->x, t->dx, F, t->dxa, m->dt, T, D);
    fmi_gated_bwd(m, a, g, la, l->gate, l->up, l->down, T, t->dxa, t->dn);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = t->dn, .x = la->x1, .w = fmi_w(m, l->ffn_norm),
                                                   .rstd = la->rstd1, .dx = t->dx, .dw = g->g[l->ffn_norm],
                                                   .T = T, .D = D, .ldx = D, .lddy = D, .lddx = D,
                                                   .dt = m->dt, .dtdx = F, .accumulate = true});
}
