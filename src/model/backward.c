/* The backward pass over the whole model, and the gradient buffers.
 *
 * Layers run from last to first; tmp->dx holds the gradient of the residual stream throughout. With
 * recompute, a layer's activations are made again from its kept input, by the same operators and so
 * with the same bits. */
#include "model/internal.h"

void fmi_layer_bwd(fm_model *m, fm_acts *a, fm_grads *g, int layer, const fm_batch *b,
                   const fm_backward_opts *o)
{
    if (a->o.recompute) fmi_layer_fwd(m, a, layer, b, NULL, NULL);
    if (m->lay.layers[layer].moe)
        fmi_moe_bwd(m, a, g, layer, b, o);
    else
        fmi_ffn_bwd(m, a, g, layer, b->T);
    fmi_mla_bwd(m, a, g, layer, b);
}

void fmi_backward(fm_model *m, fm_acts *a, fm_grads *g, const fm_batch *b, const void *dh, const void *dhf,
                  const fm_backward_opts *o)
{
    int64_t T = b->T, D = m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm_bwd(m->x, &(fm_rmsnorm_bwd_args){.dy = dh, .dyf = dhf, .x = a->xout,
                                                   .w = fmi_w(m, m->lay.norm), .rstd = a->h_rstd,
                                                   .dx = a->tmp->dx, .dxa = a->tmp->dxa,
                                                   .dw = g->g[m->lay.norm], .T = T,
                                                   .D = D, .ldx = D, .lddy = D, .lddx = D, .dt = m->dt,
                                                   .dtdx = F});
    for (int i = m->cfg.num_hidden_layers - 1; i >= 0; i--) fmi_layer_bwd(m, a, g, i, b, o);
    fm_op_embed_bwd(m->x, &(fm_embed_bwd_args){.dx = a->tmp->dx, .ids = b->ids,
                                               .dtable = g->g[m->lay.embed], .T = T, .D = D,
                                               .W = m->cfg.vocab_size, .ldx = D, .dt = m->dt});
}

static fm_status grads_tables(fm_grads *g, fm_err *err)
{
    fm_model *m = g->m;
    int E = m->cfg.n_routed_experts;
    const void **ptrs = fmi_zalloc((size_t)(E + 1) * sizeof *ptrs);
    fm_status st = ptrs ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "gradient tables");
    for (int i = 0; i < m->lay.n_layers && !st; i++) {
        g->tables[i] = fmi_zalloc(3 * sizeof **g->tables);
        if (!g->tables[i]) st = FM_FAIL(err, FM_E_NOMEM, "gradient tables");
        for (int k = 0; k < 3 && !st && m->lay.layers[i].moe; k++) {
            for (int e = 0; e < E; e++) ptrs[e] = g->g[m->lay.layers[i].expert0 + 3 * e + k];
            st = fm_dev_table(m->x, ptrs, E, (void **)&g->tables[i][k], err);
        }
    }
    fmi_free(ptrs);
    return st;
}

fm_status fmi_grads_new(fm_model *m, fm_grads **out, fm_err *err)
{
    int n = m->lay.n_params;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_grads *g = fmi_zalloc(sizeof *g);
    if (!g) return FM_FAIL(err, FM_E_NOMEM, "gradients");
    g->m = m;
    g->offset = fmi_zalloc((size_t)n * sizeof *g->offset);
    g->g = fmi_zalloc((size_t)n * sizeof *g->g);
    g->tables = fmi_zalloc((size_t)m->lay.n_layers * sizeof *g->tables);
    fm_status st = g->offset && g->g && g->tables ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "gradients");
    for (int i = 0; i < n && !st; i++) g->offset[i] = -1;
    for (int i = 0; i < n && !st; i++)
        for (int j = i; j >= 0; j = fmi_layout_behind(&m->lay, j)) {
            const fm_param *p = &m->lay.params[j];
            if (p->kind == FM_PARAM_ROUTER_BIAS || g->offset[j] >= 0) continue;
            g->offset[j] = g->n;
            g->n += (fmi_param_count(p) + 15) & ~(int64_t)15;
        }
    if (!st) st = fm_dev_alloc(m->x, (size_t)g->n * fm_dtype_bytes(F), &g->flat, err);
    for (int i = 0; i < n && !st; i++)
        if (g->offset[i] >= 0) g->g[i] = fmi_at(g->flat, g->offset[i], F);
    if (!st) st = grads_tables(g, err);
    if (st) {
        fmi_grads_free(g);
        return st;
    }
    *out = g;
    return FM_OK;
}

void fmi_grads_free(fm_grads *g)
{
    if (!g) return;
    for (int i = 0; g->tables && i < g->m->lay.n_layers; i++)
        for (int k = 0; g->tables[i] && k < 3; k++)
            if (g->tables[i][k]) fm_dev_free(g->m->x, g->tables[i][k]);
    for (int i = 0; g->tables && i < g->m->lay.n_layers; i++) fmi_free(g->tables[i]);
    if (g->flat) fm_dev_free(g->m->x, g->flat);
    fmi_free(g->tables);
    fmi_free(g->g);
    fmi_free(g->offset);
    fmi_free(g);
}

void fmi_grads_zero(fm_grads *g)
{
    fm_op_zero(g->m->x, &(fm_zero_args){.y = g->flat,
                                        .bytes = g->n * (int64_t)fm_dtype_bytes(fmi_full_dtype(g->m->dt))});
}
