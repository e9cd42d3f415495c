/* Mixture of experts, backward. The choice of experts is held fixed; the gradient reaches the router
 * through the weights of the chosen experts and, when asked, through the sequence balance loss (V3 report,
 * eq. 17-20). */
#include "model/internal.h"

/* Leaves the gradient of the gathered inputs in tmp->y, of the routing weights in tmp->dweight.
 * Reads tmp->dxa. */
static void experts_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, int64_t T)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    void **grad = g->tables[layer];
    fm_op_gated_bwd(m->x, &(fm_gated_bwd_args){.dy = t->dxa,
                                               .x = la->xn1,
                                               .offsets = la->offsets,
                                               .row_token = la->row_token,
                                               .row_slot = la->row_slot,
                                               .weight = la->weight,
                                               .w_gate = l->gate_table,
                                               .w_up = l->up_table,
                                               .w_down = l->down_table,
                                               .g_gate = grad[0],
                                               .g_up = grad[1],
                                               .g_down = grad[2],
                                               .gate = la->eg,
                                               .up = la->eu,
                                               .xg = t->xg,
                                               .h = t->h,
                                               .dh = t->dh,
                                               .dgate = t->dgate,
                                               .dup = t->dup,
                                               .dx = t->y,
                                               .dweight = t->dweight,
                                               .G = T * c->num_experts_per_tok,
                                               .D = c->hidden_size,
                                               .M = c->moe_intermediate_size,
                                               .groups = c->n_routed_experts,
                                               .dt = m->dt,
                                               .dtdx = m->dt});
}

/* tmp->dxr = gradient of what the router read, its part. */
static void router_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b,
                       const fm_backward_opts *o)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    int64_t T = b->T, D = c->hidden_size, E = c->n_routed_experts;
    fm_dtype F = fmi_full_dtype(m->dt);
    bool balance = o && o->balance_scale != 0;
    if (balance)
        fm_op_seq_balance(m->x, &(fm_seq_balance_args){
                                    .score = la->score, .f = la->balance_f,
                                    .loss = fmi_at(o->balance_loss, layer, F), .T = T,
                                    .L = b->row_length, .E = (int)E, .K = c->num_experts_per_tok,
                                    .balance_scale = o->balance_scale, .dt = F});
    fm_op_route_bwd(m->x, &(fm_route_bwd_args){.dweight = t->dweight, .score = la->score,
                                               .expert = la->expert,
                                               .balance_f = balance ? la->balance_f : NULL, .dz = t->dz,
                                               .T = T, .L = b->row_length, .E = (int)E,
                                               .K = c->num_experts_per_tok, .scoring = c->scoring,
                                               .norm_topk = c->norm_topk_prob,
                                               .scale = c->routed_scaling_factor,
                                               .balance_scale = balance ? o->balance_scale : 0, .dt = m->dt});
    fmi_linear_dw(m, g, t->dz, E, la->xn1, D, l->router, T);
    fmi_linear_dx(m, t->dz, E, l->router, T, t->dxr, D, m->dt, false);
}

void fmi_moe_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b,
                 const fm_backward_opts *o)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    const fm_layer_acts *la = &a->layer[layer];
    struct fm_temp *t = a->tmp;
    int64_t T = b->T, D = c->hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    bool shared = l->shared_gate >= 0;
    experts_bwd(m, a, g, layer, T);
    router_bwd(m, a, g, layer, b, o);
    if (shared) fmi_gated_bwd(m, a, g, la, l->shared_gate, l->shared_up, l->shared_down, T, t->dxa, t->dn,
                              m->dt);
    fm_op_moe_combine(m->x, &(fm_moe_combine_args){.y = t->y,
                                                   .slot_row = la->slot_row,
                                                   .shared = shared ? t->dn : NULL,
                                                   .extra = t->dxr,
                                                   .x = t->dnf,
                                                   .T = T,
                                                   .D = D,
                                                   .K = c->num_experts_per_tok,
                                                   .dt = m->dt});
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dyf = t->dnf,
                                                   .x = la->x1,
                                                   .w = fmi_w(m, l->ffn_norm),
                                                   .rstd = la->rstd1,
                                                   .dx = t->dx,
                                                   .dxa = t->dxa,
                                                   .dw = g->g[l->ffn_norm],
                                                   .T = T,
                                                   .D = D,
                                                   .ldx = D,
                                                   .lddy = D,
                                                   .lddx = D,
                                                   .dt = m->dt,
                                                   .dtdx = F,
                                                   .accumulate = true});
}
