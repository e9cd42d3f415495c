/* Parameters, FLOPs and bytes of a configuration. Walks the layout, so that what is counted is what
 * is allocated. Source of the attention terms: docs/notation.md letters, DeepSeek-V2 report
 * section 2.1. */
#include "model/count.h"

#include "model/model_build.h"

#define LOGIT_ROWS 1024
#define MUON_ELEMENTS ((int64_t)4 << 20)

static bool in_mtp(const fm_config *c, const fm_param *p)
{
    return p->layer >= c->num_hidden_layers;
}

void fmi_count_params(const fm_config *c, const fm_layout *l, fmi_param_counts *out)
{
    fmi_param_counts n = {0};
    int64_t embed = fmi_param_count(&l->params[l->embed]),
            head = fmi_param_count(&l->params[l->head]);
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        int64_t k = fmi_param_count(p);
        bool active =
            p->expert < c->num_experts_per_tok; /* experts are alike: the first K stand for any */
        if (in_mtp(c, p)) {
            n.mtp_total += k;
            n.mtp_active += active ? k : 0;
        } else {
            n.total += k;
            n.active += active ? k : 0;
        }
        if (p->layer == 0 && i >= l->layers[0].attn_norm + 1 && i < l->layers[0].ffn_norm)
            n.attention_layer += k;
        if (p->kind != FM_PARAM_ROUTER_BIAS) n.trained += k;
        if (k > n.largest) n.largest = k;
    }
    if (n.mtp_total) n.mtp_active += embed + head;
    n.active_no_embed = n.active - embed;
    if (c->n_routed_experts) n.expert = 3 * (int64_t)c->hidden_size * c->moe_intermediate_size;
    *out = n;
}

/* Scores and values of one query over one key, all heads. */
static double attention_pair(const fm_config *c, bool absorbed)
{
    double dq = (double)c->qk_nope_head_dim + c->qk_rope_head_dim, v = c->v_head_dim;
    double C = c->kv_lora_rank, R = c->qk_rope_head_dim;
    return 2.0 * c->num_attention_heads * (absorbed ? C + R + C : dq + v);
}

void fmi_count_flops(const fm_config *c, const fm_layout *l, int64_t L, fmi_flops *out)
{
    fmi_flops f = {0};
    double pairs = ((double)L + 1) / 2;
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        double n = 2.0 * (double)fmi_param_count(p);
        bool product =
            p->kind == FM_PARAM_MATRIX || p->kind == FM_PARAM_ROUTER || p->kind == FM_PARAM_HEAD;
        if (!product || p->expert >= c->num_experts_per_tok) continue;
        if (in_mtp(c, p)) f.mtp += n;
        else if (p->kind == FM_PARAM_ROUTER) f.router += n;
        else if (p->kind == FM_PARAM_HEAD) f.head += n;
        else f.matrices += n;
    }
    f.attention = c->num_hidden_layers * pairs * attention_pair(c, false);
    if (c->num_nextn_predict_layers) f.mtp += f.head + pairs * attention_pair(c, false);
    f.forward = f.matrices + f.router + f.attention + f.head;
    f.training = 3 * (f.forward + f.mtp);
    /* Absorbed, kv_b's two halves act on the query and on the result: the same products as
     * expanding. */
    f.decode =
        f.matrices + f.router + f.head + c->num_hidden_layers * (double)L * attention_pair(c, true);
    *out = f;
}

int64_t fmi_count_kv_bytes(const fm_config *c, fm_dtype dt, bool mtp)
{
    int64_t layers = c->num_hidden_layers + (mtp ? c->num_nextn_predict_layers : 0);
    return ((int64_t)c->kv_lora_rank + c->qk_rope_head_dim) * layers * (int64_t)fm_dtype_bytes(dt);
}

/* Muon's scratch as train/muon.c carves it: the matrices of one group in A and F, as many at a time
 * as MUON_ELEMENTS hold (at least one), and three Gram matrices of each. */
static int64_t muon_bytes(const fm_layout *l, int64_t A, int64_t F)
{
    int64_t x = 1, gram = 1, batch = 1;
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        if (p->kind != FM_PARAM_MATRIX) continue;
        int64_t n = fmi_param_count(p), r = p->rows < p->cols ? p->rows : p->cols;
        if (p->expert + 1 > batch) batch = p->expert + 1;
        int64_t group = p->expert >= 0 ? n * batch : n;
        if (group > MUON_ELEMENTS) group = n > MUON_ELEMENTS ? n : MUON_ELEMENTS;
        if (group > x) x = group;
        if (group / n * r * r > gram) gram = group / n * r * r;
    }
    return x * (A + F) + gram * (2 * F + A) + batch * F;
}

/* Rotary and expert tables, and what the operators keep of a step. */
static int64_t tables_bytes(const fm_config *c, const fm_layout *l, int64_t F)
{
    int64_t rope = c->max_position_embeddings < 163840 ? c->max_position_embeddings : 163840;
    int64_t bytes = rope * c->qk_rope_head_dim * F;
    for (int i = 0; i < l->n_layers; i++)
        if (l->layers[i].moe) bytes += 3 * (int64_t)c->n_routed_experts * (int64_t)sizeof(void *);
    return bytes;
}

void fmi_count_memory(const fm_config *c, const fm_layout *l, const fmi_memory_request *r,
                      fmi_memory *out)
{
    fmi_memory m = {0};
    fmi_param_counts n;
    int64_t A = (int64_t)fm_dtype_bytes(r->dt), F = (int64_t)fm_dtype_bytes(fmi_full_dtype(r->dt));
    fm_acts_opts o = {.rows_max = r->rows, .keep = r->training, .backward = r->training,
                      .recompute = r->recompute, .mtp = c->num_nextn_predict_layers > 0,
                      .logit_rows = r->logit_rows, .row_length_min = r->row_length};
    if (o.logit_rows <= 0) o.logit_rows = r->rows < LOGIT_ROWS ? r->rows : LOGIT_ROWS;
    fmi_count_params(c, l, &n);
    if (!r->borrowed) m.weights = fmi_model_weight_bytes(l, r->dt);
    m.activations = (int64_t)fmi_acts_bytes(c, r->dt, &o);
    m.workspace = tables_bytes(c, l, F);
    m.cache = r->cache_tokens * fmi_count_kv_bytes(c, r->dt, true);
    if (r->training) {
        m.masters = m.gradients = n.trained * F;
        m.moments = 2 * n.trained * F;
        m.workspace += (int64_t)l->n_params * (int64_t)(sizeof(fm_segment) + sizeof(double));
        if (r->muon) m.workspace += muon_bytes(l, A, F);
    }
    m.total =
        m.weights + m.masters + m.gradients + m.moments + m.activations + m.cache + m.workspace;
    *out = m;
}
