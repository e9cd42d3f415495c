/* Multi-head latent attention, forward. DeepSeek-V2 report, appendix C; deepseek-family.md 3.2, 3.5.
 *
 * Per token: q = W_q h (or W_qb norm(W_qa h)); [c; k_pe] = W_kva h; c is normed, the rotary parts are
 * rotated; (c, k_pe) is the latent row a cache stores. Expanded form: [k; v] = W_kvb c per head, then
 * ordinary attention. Absorbed form: W_kvb's key half goes to the query (q_lat = W_k^T q_nope), its value
 * half to the output (o = W_v u), and attention reads latent rows only. */
#include "model/internal.h"

/* W_qa xn and W_kva xn side by side: one product where the weights lie one behind the other. */
static void compress(fm_model *m, const fm_layer *l, fm_layer_acts *la, int64_t T)
{
    const fm_config *c = &m->cfg;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, ld = fmi_mla_in(c);
    const fm_param *q = c->q_lora_rank ? &m->lay.params[l->q_a] : NULL, *kv = &m->lay.params[l->kv_a];
    if (q && fmi_at(q->w, fmi_param_count(q), q->dtype) == kv->w) {
        fm_op_gemm(m->x, &(fm_gemm_args){.a = la->xn, .b = q->w, .c = la->q_a, .kind = FM_GEMM_NT, .m = T,
                                         .n = ld, .k = D, .lda = D, .ldb = D, .ldc = ld, .dt = q->dtype,
                                         .dtc = F});
        return;
    }
    if (q) fmi_linear(m, la->xn, D, l->q_a, T, la->q_a, ld, F, false);
    fmi_linear(m, la->xn, D, l->kv_a, T, la->kv_a, ld, F, false);
}

static void queries(fm_model *m, fm_acts *a, const fm_layer *l, fm_layer_acts *la, int64_t T)
{
    const fm_config *c = &m->cfg;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t D = c->hidden_size, Q = c->q_lora_rank;
    int64_t dq = (int64_t)c->num_attention_heads * (c->qk_nope_head_dim + c->qk_rope_head_dim);
    if (!Q) {
        fmi_linear(m, la->xn, D, l->q, T, a->tmp->q, dq, F, false);
        return;
    }
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->q_a, .w = fmi_w(m, l->q_a_norm), .y = la->q_an,
                                           .rstd = la->q_rstd, .T = T, .D = Q, .ldx = fmi_mla_in(c),
                                           .ldy = Q,
                                           .eps = c->latent_norm_eps, .dt = m->dt});
    fmi_linear(m, la->q_an, Q, l->q_b, T, a->tmp->q, dq, F, false);
}

static void latents(fm_model *m, fm_acts *a, const fm_layer *l, fm_layer_acts *la, const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    int H = c->num_attention_heads, N = c->qk_nope_head_dim, R = c->qk_rope_head_dim;
    int64_t C = c->kv_lora_rank, dq = (int64_t)H * (N + R), ld = C + R, ldx = fmi_mla_in(c);
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->kv_a, .w = fmi_w(m, l->kv_a_norm), .y = la->lat,
                                           .rstd = la->kv_rstd, .T = b->T, .D = C, .ldx = ldx,
                                           .ldy = ld, .eps = c->latent_norm_eps, .dt = m->dt});
    fm_op_rope(m->x, &(fm_rope_args){.q_in = a->tmp->q, .q_out = la->q,
                                     .k_in = fmi_at(la->kv_a, C, F), .k_out = fmi_at(la->lat, C, m->dt),
                                     .cos = m->rope_cos, .sin = m->rope_sin, .pos = b->pos, .T = b->T,
                                     .ldq_in = dq, .ldq_out = dq, .ldk_in = ldx, .ldk_out = ld, .H = H,
                                     .N = N, .R = R, .dt = m->dt});
}

static void attend_expanded(fm_model *m, fm_acts *a, int layer, const fm_layer *l, fm_layer_acts *la,
                            const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    int H = c->num_attention_heads, N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim;
    int64_t C = c->kv_lora_rank, ld = C + R, S = b->T;
    const void *lat = la->lat;
    if (b->cache) {
        S = b->S;
        lat = a->tmp->lat_g;
        fm_op_gather_rows(m->x, &(fm_gather_rows_args){.x = b->cache->pages[layer], .rows = b->gather,
                                                       .y = a->tmp->lat_g, .n = S, .D = ld, .ldx = ld,
                                                       .ldy = ld, .dt_x = m->dt, .dt_y = m->dt});
    }
    fmi_linear(m, lat, ld, l->kv_b, S, la->kv, (int64_t)H * (N + V), m->dt, false);
    fm_op_attn(m->x, &(fm_attn_args){.q = la->q, .kv = la->kv, .kpe = fmi_at(lat, C, m->dt),
                                     .k_begin = b->k_begin, .k_end = b->k_end, .o = la->o, .lse = la->lse,
                                     .T = b->T, .S = S, .ldkpe = ld, .H = H, .N = N, .R = R, .V = V,
                                     .scale = fmi_config_softmax_scale(c), .dt = m->dt});
}

static void attend_absorbed(fm_model *m, fm_acts *a, int layer, const fm_layer *l, fm_layer_acts *la,
                            const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    int H = c->num_attention_heads, N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim;
    int64_t C = c->kv_lora_rank;
    const char *w = fmi_w(m, l->kv_b); /* per head: N key rows, then V value rows, C wide */
    FM_ASSERT(b->cache);
    fm_op_gemm(m->x, &(fm_gemm_args){.a = la->q, .b = w, .c = a->tmp->q_lat, .kind = FM_GEMM_NN,
                                     .m = b->T, .n = C, .k = N, .lda = (int64_t)H * (N + R), .ldb = C,
                                     .ldc = H * C, .dt = m->dt, .dtc = m->dt, .batch = H,
                                     .stride_a = N + R, .stride_b = (N + V) * C, .stride_c = C});
    fm_op_attn_latent(m->x, &(fm_attn_latent_args){
                                .q_lat = a->tmp->q_lat, .q = la->q, .pages = b->cache->pages[layer],
                                .page_table = b->page_table, .row_seq = b->row_seq, .row_len = b->row_len,
                                .u = a->tmp->u, .T = b->T, .pages_max = b->pages_max, .H = H, .N = N,
                                .R = R, .C = (int)C, .scale = fmi_config_softmax_scale(c), .dt = m->dt});
    fm_op_gemm(m->x, &(fm_gemm_args){.a = a->tmp->u, .b = fmi_at(w, N * C, m->dt), .c = la->o,
                                     .kind = FM_GEMM_NT, .m = b->T, .n = V, .k = C, .lda = H * C,
                                     .ldb = C, .ldc = (int64_t)H * V, .dt = m->dt, .dtc = m->dt,
                                     .batch = H, .stride_a = C, .stride_b = (N + V) * C, .stride_c = V});
}

void fmi_mla_fwd(fm_model *m, fm_acts *a, int layer, const fm_batch *b)
{
    const fm_config *c = &m->cfg;
    const fm_layer *l = &m->lay.layers[layer];
    fm_layer_acts *la = &a->layer[layer];
    int64_t T = b->T, D = c->hidden_size, ld = c->kv_lora_rank + c->qk_rope_head_dim;
    fm_dtype F = fmi_full_dtype(m->dt);
    fm_op_rmsnorm(m->x, &(fm_rmsnorm_args){.x = la->x0, .w = fmi_w(m, l->attn_norm), .y = la->xn,
                                           .rstd = la->rstd0, .T = T, .D = D, .ldx = D, .ldy = D,
                                           .eps = c->rms_norm_eps, .dt = m->dt});
    compress(m, l, la, T);
    queries(m, a, l, la, T);
    latents(m, a, l, la, b);
    if (b->cache)
        fm_op_scatter_rows(m->x, &(fm_scatter_rows_args){.x = la->lat, .rows = b->write_row,
                                                         .y = b->cache->pages[layer], .n = T, .D = ld,
                                                         .ldx = ld, .ldy = ld, .dt = m->dt});
    if (m->absorbed)
        attend_absorbed(m, a, layer, l, la, b);
    else
        attend_expanded(m, a, layer, l, la, b);
    fmi_copy(m->x, la->x0, F, la->x1, F, T, D);
    fmi_linear(m, la->o, (int64_t)c->num_attention_heads * c->v_head_dim, l->o, T, la->x1, D, F, true);
}
