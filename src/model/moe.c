/* Mixture of experts, forward. DeepSeek-V3 report, section 2.1.2; deepseek-family.md 3.7, 3.8.
 *
 * The router reads what the experts read; its logits are F. Tokens are sorted by expert on the device; the
 * grouped products take the device's offsets, so the host never learns who went where. No token is
 * dropped. The routing weight is applied to the hidden activation (w * silu(gate) * up), which
 * equals weighting the output. */
#include "model/internal.h"

static void route(fm_model *m, fm_acts *a, const fm_layer *l, fm_layer_acts *la, int64_t T, int32_t *load)
{
    const fm_config *c = &m->cfg;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, E = c->n_routed_experts;
    fmi_linear(m, la->xn1, D, l->router, T, a->tmp->z, E, F, false);
    fm_op_route(m->x, &(fm_route_args){.z = a->tmp->z, .bias = l->bias >= 0 ? fmi_w(m, l->bias) : NULL,
                                       .score = la->score, .expert = la->expert, .weight = la->weight,
                                       .T = T, .E = (int)E, .K = c->num_experts_per_tok,
                                       .n_group = c->n_group, .topk_group = c->topk_group,
                                       .scoring = c->scoring, .method = c->method,
                                       .norm_topk = c->norm_topk_prob, .scale = c->routed_scaling_factor,
                                       .dt = F});
    fm_op_moe_plan(m->x, &(fm_moe_plan_args){.expert = la->expert, .offsets = la->offsets,
                                             .row_slot = la->row_slot, .row_token = la->row_token,
                                             .slot_row = la->slot_row, .load = load, .T = T, .E = (int)E,
                                             .K = c->num_experts_per_tok});
}

static void experts(fm_model *m, fm_acts *a, const fm_layer *l, fm_layer_acts *la, int64_t T, void *y)
{
    const fm_config *c = &m->cfg;
    fm_op_gated(m->x, &(fm_gated_args){
                          .x = la->xn1, .offsets = la->offsets, .row_token = la->row_token,
                          .row_slot = la->row_slot, .weight = la->weight, .w_gate = l->gate_table,
                          .w_up = l->up_table, .w_down = l->down_table, .xg = a->tmp->xg, .gate = la->eg,
                          .up = la->eu, .h = a->tmp->h, .y = y, .G = T * c->num_experts_per_tok,
                          .D = c->hidden_size, .M = c->moe_intermediate_size, .groups = c->n_routed_experts,
                          .dt = m->dt, .dty = m->dt});
}

void fmi_moe_fwd(fm_model *m, fm_acts *a, int layer, int64_t T, void *xout, int32_t *load)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    fm_layer_acts *la = &a->layer[layer];
    int64_t D = c->hidden_size;
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->x1, .w = fmi_w(m, l->ffn_norm), .y = la->xn1,
                                           .rstd = la->rstd1, .T = T, .D = D, .ldx = D, .ldy = D,
                                           .eps = c->rms_norm_eps, .dt = m->dt});
    route(m, a, l, la, T, load);
    experts(m, a, l, la, T, xout ? a->tmp->y : NULL);
    if (l->shared_gate >= 0)
        fmi_gated_fwd(m, a, la, l->shared_gate, l->shared_up, l->shared_down, T, NULL,
                      xout ? a->tmp->ys : NULL);
    if (!xout) return;
    fm_op_moe_combine(m->x, &(fm_moe_combine_args){.y = a->tmp->y, .slot_row = la->slot_row,
                                                   .shared = l->shared_gate >= 0 ? a->tmp->ys : NULL,
                                                   .base = la->x1, .x = xout, .T = T, .D = D,
                                                   .K = c->num_experts_per_tok, .dt = m->dt});
}
