/* Activations: what one forward pass writes, planned and carved by the same code.
 *
 * plan() walks every buffer once. With a NULL base it only adds up sizes, which is what `fathom plan`
 * and --dry-run print; with the device block it hands out addresses. Training keeps one set of
 * buffers per layer, inference (and recomputation) one set for all layers. */
#include "model/internal.h"

/* Logits of a training step at a time: rows enough to use the head's packed weights well, elements few
 * enough for memory. */
#define LOGIT_ROWS 1024
#define LOGIT_BLOCK ((int64_t)16 << 20)

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

typedef struct planner {
    fmi_arena arena;
    const fm_config *c;
    fm_dtype A, F;
    int64_t T, G;    /* rows, rows times chosen experts */
} planner;

static void *take(planner *p, int64_t n, fm_dtype d)
{
    size_t bytes = (size_t)n * fm_dtype_bytes(d);
    return fmi_arena_take(&p->arena, (bytes + 255) & ~(size_t)255);
}

static int64_t keys(const planner *p, const fm_acts_opts *o)
{
    return o->keys_max > p->T ? o->keys_max : p->T;
}

/* Widest dense FFN (shared experts counted) of the model. */
static int64_t dense_width(const fm_config *c)
{
    int64_t w = (int64_t)c->n_shared_experts * c->moe_intermediate_size;
    for (int i = 0; i <= c->num_hidden_layers; i++)
        if (!fmi_config_is_moe(c, i)) {
            int64_t d = fmi_config_dense_width(c, i);
            if (d > w) w = d;
        }
    return w;
}

/* Elements of hidden activations: dense FFN of all rows or experts of all grouped rows. */
static int64_t wide_rows(const planner *p)
{
    int64_t wide = p->T * dense_width(p->c), routed = p->G * p->c->moe_intermediate_size;
    return routed > wide ? routed : wide;
}

static void plan_attention(planner *p, fm_layer_acts *l, const fm_acts_opts *o)
{
    const fm_config *c = p->c;
    int64_t T = p->T, H = c->num_attention_heads;
    int64_t dq = c->qk_nope_head_dim + c->qk_rope_head_dim;
    int64_t lat = c->kv_lora_rank + c->qk_rope_head_dim;
    int64_t Q = c->q_lora_rank;
    l->xn = take(p, T * c->hidden_size, p->A);
    l->rstd0 = take(p, T, p->F);
    l->q_a = take(p, T * (Q + lat), p->F);
    l->kv_a = l->q_a ? fmi_at(l->q_a, Q, p->F) : NULL;
    if (Q) {
        l->q_an = take(p, T * Q, p->A);
        l->q_rstd = take(p, T, p->F);
    }
    l->q = take(p, T * H * dq, p->A);
    l->lat = take(p, T * lat, p->A);
    l->kv_rstd = take(p, T, p->F);
    l->kv = take(p, keys(p, o) * H * (c->qk_nope_head_dim + c->v_head_dim), p->A);
    l->o = take(p, T * H * c->v_head_dim, p->A);
    l->lse = take(p, T * H, p->F);
    l->x1 = take(p, T * c->hidden_size, p->F);
}

static void plan_ffn(planner *p, fm_layer_acts *l, const fm_acts_opts *o, bool moe, int64_t dense)
{
    const fm_config *c = p->c;
    int64_t T = p->T, D = c->hidden_size, M = c->moe_intermediate_size;
    int64_t E = c->n_routed_experts, K = c->num_experts_per_tok;
    l->xn1 = take(p, T * D, p->A);
    l->rstd1 = take(p, T, p->F);
    l->gate = take(p, T * dense, p->A);
    l->up = take(p, T * dense, p->A);
    if (!moe) return;
    l->score = take(p, T * E, p->F);
    l->expert = take(p, T * K, FM_DTYPE_I32);
    l->weight = take(p, T * K, p->F);
    l->offsets = take(p, E + 1, FM_DTYPE_I32);
    l->row_slot = take(p, p->G, FM_DTYPE_I32);
    l->row_token = take(p, p->G, FM_DTYPE_I32);
    l->slot_row = take(p, p->G, FM_DTYPE_I32);
    l->eg = take(p, p->G * M, p->A);
    l->eu = take(p, p->G * M, p->A);
    int64_t L = o->row_length_min > 0 ? o->row_length_min : T;
    if (o->backward) l->balance_f = take(p, (T + L - 1) / L * E, p->F);
}

/* One layer's own buffers (training), or the one set that fits every layer. */
static void plan_layer(planner *p, fm_layer_acts *l, const fm_acts_opts *o, int layer, bool shared)
{
    const fm_config *c = p->c;
    bool moe = shared ? c->n_routed_experts > 0 : fmi_config_is_moe(c, layer);
    int64_t dense = (int64_t)c->n_shared_experts * c->moe_intermediate_size;
    if (shared)
        dense = dense_width(c);
    else if (!moe)
        dense = fmi_config_dense_width(c, layer);
    plan_attention(p, l, o);
    plan_ffn(p, l, o, moe, dense);
}

static void plan_temp_forward(planner *p, struct fm_temp *t, const fm_acts_opts *o, bool absorbed)
{
    const fm_config *c = p->c;
    int64_t T = p->T, H = c->num_attention_heads, D = c->hidden_size;
    t->q = take(p, T * H * (c->qk_nope_head_dim + c->qk_rope_head_dim), p->F);
    t->h = take(p, wide_rows(p), p->A);
    if (c->n_routed_experts) {
        t->xg = take(p, p->G * D, p->A);
        t->z = take(p, T * c->n_routed_experts, p->F);
        t->y = take(p, p->G * D, p->A);
        t->ys = take(p, T * D, p->A);
    }
    if (absorbed) {
        t->q_lat = take(p, T * H * c->kv_lora_rank, p->A);
        t->u = take(p, T * H * c->kv_lora_rank, p->A);
    }
    if (o->keys_max > 0) t->lat_g = take(p, o->keys_max * (c->kv_lora_rank + c->qk_rope_head_dim), p->A);
    t->hsel = take(p, T * D, p->A);
}

static void plan_temp_backward(planner *p, struct fm_temp *t, const fm_acts_opts *o)
{
    const fm_config *c = p->c;
    int64_t T = p->T, H = c->num_attention_heads, D = c->hidden_size;
    int64_t N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim, C = c->kv_lora_rank;
    int64_t wide = wide_rows(p);
    t->dx = take(p, T * D, p->F);
    t->dxa = take(p, T * D, p->A);
    t->dn = take(p, T * D, p->F);
    t->dnf = take(p, T * D, p->F);
    t->dq = take(p, T * H * (N + R), p->F);
    t->dqa = take(p, T * H * (N + R), p->A);
    t->dq_an = take(p, T * c->q_lora_rank, p->F);
    t->dq_a = take(p, T * fmi_mla_in(c), p->A);
    t->dkv_a = t->dq_a ? fmi_at(t->dq_a, c->q_lora_rank, p->A) : NULL;
    if (c->q_lora_rank) t->w_in = take(p, fmi_mla_in(c) * c->hidden_size, p->A);
    t->dout = take(p, T * H * V, p->A);
    t->dkv = take(p, T * H * (N + V), p->A);
    t->dkpe = take(p, T * R, p->F);
    t->dc = take(p, T * C, p->F);
    t->heads = take(p, T * H * R, p->F);
    t->dh = take(p, wide, p->A);
    t->dgate = take(p, wide, p->A);
    t->dup = take(p, wide, p->A);
    if (c->n_routed_experts) {
        t->dweight = take(p, T * c->num_experts_per_tok, p->F);
        t->dz = take(p, T * c->n_routed_experts, p->A);
        t->dxr = take(p, T * D, p->A);
    }
    t->dlogits = take(p, o->logit_rows * c->vocab_size, p->A);
    if (o->mtp) t->dcat = take(p, 2 * T * D, p->F);
}

static void plan_ends(planner *p, fm_acts *a, const fm_acts_opts *o)
{
    const fm_config *c = p->c;
    int64_t T = p->T, D = c->hidden_size;
    a->xout = take(p, T * D, p->F);
    a->h = take(p, T * D, p->A);
    a->hf = take(p, T * D, p->F);
    a->h_rstd = take(p, T, p->F);
    if (o->mtp) {
        a->mtp_emb = take(p, T * D, p->F);
        a->mtp_erstd = take(p, T, p->F);
        a->mtp_hrstd = take(p, T, p->F);
        a->mtp_cat = take(p, 2 * T * D, p->A);
        a->mtp_xout = take(p, T * D, p->F);
        a->mtp_h = take(p, T * D, p->A);
        a->mtp_hf = take(p, T * D, p->F);
        a->mtp_rstd = take(p, T, p->F);
    }
    a->logit_block = o->logit_rows;
    if (o->backward) {
        int64_t fit = LOGIT_BLOCK / c->vocab_size / 32 * 32, rows = smaller(LOGIT_ROWS, fit > 0 ? fit : 32);
        a->logit_block = smaller(rows, o->logit_rows);
    }
    a->logits = take(p, a->logit_block * c->vocab_size, p->F);
}

/* Fills a (layer array of n entries and tmp already there) from the arena; base NULL measures. */
static size_t plan(const fm_config *c, fm_dtype dt, bool absorbed, const fm_acts_opts *o, fm_acts *a, int n,
                   void *base)
{
    planner p = {.arena = {.base = base, .cap = SIZE_MAX}, .c = c, .A = dt, .F = fmi_full_dtype(dt),
                 .T = o->rows_max};
    p.G = p.T * (c->n_routed_experts ? c->num_experts_per_tok : 0);
    bool own = o->keep && !o->recompute;
    fm_layer_acts shared = {0};
    if (!own) plan_layer(&p, &shared, o, 0, true);
    void *x0 = o->keep ? NULL : take(&p, p.T * c->hidden_size, p.F);
    for (int i = 0; i < n; i++) {
        fm_layer_acts l = shared;
        if (own) plan_layer(&p, &l, o, i, false);
        l.x0 = o->keep ? take(&p, p.T * c->hidden_size, p.F) : x0;
        a->layer[i] = l;
    }
    plan_ends(&p, a, o);
    plan_temp_forward(&p, a->tmp, o, absorbed);
    if (o->backward) plan_temp_backward(&p, a->tmp, o);
    return p.arena.used;
}

static int acts_layers(const fm_config *c, const fm_acts_opts *o)
{
    return c->num_hidden_layers + (o->mtp ? c->num_nextn_predict_layers : 0);
}

size_t fmi_acts_bytes(const fm_config *c, fm_dtype dt, const fm_acts_opts *o)
{
    int n = acts_layers(c, o);
    struct fm_temp tmp = {0};
    fm_acts a = {.tmp = &tmp, .layer = fmi_zalloc((size_t)(n + 1) * sizeof *a.layer)};
    if (!a.layer) return 0;
    size_t bytes = plan(c, dt, !o->backward, o, &a, n, NULL);
    fmi_free(a.layer);
    return bytes;
}

fm_status fmi_acts_new(fm_model *m, const fm_acts_opts *o, fm_acts **out, fm_err *err)
{
    int n = acts_layers(&m->cfg, o);
    fm_acts *a = fmi_zalloc(sizeof *a);
    if (!a) return FM_FAIL(err, FM_E_NOMEM, "activations");
    a->m = m;
    a->o = *o;
    a->layer = fmi_zalloc((size_t)(n + 1) * sizeof *a->layer);
    a->tmp = fmi_zalloc(sizeof *a->tmp);
    fm_status st = a->layer && a->tmp ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "activations");
    if (!st) {
        a->bytes = plan(&m->cfg, m->dt, m->absorbed, o, a, n, NULL);
        st = fm_dev_alloc(m->x, a->bytes, &a->arena, err);
    }
    if (!st) plan(&m->cfg, m->dt, m->absorbed, o, a, n, a->arena);
    if (st) {
        fmi_acts_free(a);
        return st;
    }
    *out = a;
    return FM_OK;
}

void fmi_acts_free(fm_acts *a)
{
    if (!a) return;
    if (a->arena) fm_dev_free(a->m->x, a->arena);
    fmi_free(a->layer);
    fmi_free(a->tmp);
    fmi_free(a);
}
