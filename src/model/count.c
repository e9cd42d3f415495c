/* Parameters, FLOPs and bytes of a configuration. Walks the layout, so that what is counted is what
 * is allocated. Source of the attention terms: docs/notation.md letters, DeepSeek-V2 report
 * section 2.1. */
#include "model/count.h"


#include "base/pool.h"
#include "model/model_build.h"

#define LOGIT_ROWS 64                      /* of a session, as infer/engine.c carves them      */
#define LOGIT_ELEMENTS ((int64_t)16 << 20) /* of a chunk of logits in training                 */
/* The process beside the planned blocks, in resident bytes as /proc/PID/smaps shows them. */
#define PROGRAM_BYTES ((int64_t)5 << 20) /* code and data of the program and its libraries      */
#define STAGING_BYTES ((int64_t)4 << 20) /* of training: a save's stage, or a sample's session  */
#define THREAD_BYTES ((int64_t)1 << 20)  /* stack, and what kernels touch of 4 MiB of scratch   */
#define ENTRY_BYTES ((int64_t)512)       /* of the tokenizer: strings, merges, hash tables      */

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

/* Shapes of matrices in a model: dense, experts and shared experts in two directions, attention, MTP; 13 at
 * most (layout.c). */
#define SHAPES_MAX 32

void fmi_count_muon(const fm_layout *l, fmi_muon_sizes *out)
{
    fmi_muon_sizes m = {1, 1, 1};
    struct {
        int64_t rows, cols, count;
    } shape[SHAPES_MAX];
    int n_shapes = 0;
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        int s = 0;
        if (p->kind != FM_PARAM_MATRIX) continue;
        while (s < n_shapes && (shape[s].rows != p->rows || shape[s].cols != p->cols)) s++;
        FM_ASSERT(s < SHAPES_MAX);
        if (s == n_shapes) {
            shape[n_shapes].rows = p->rows;
            shape[n_shapes].cols = p->cols;
            shape[n_shapes++].count = 0;
        }
        shape[s].count++;
    }
    for (int s = 0; s < n_shapes; s++) {
        int64_t n = shape[s].rows * shape[s].cols, fit = fmi_muon_fit(n);
        int64_t r = shape[s].rows < shape[s].cols ? shape[s].rows : shape[s].cols;
        int64_t copies = shape[s].count < fit ? shape[s].count : fit;
        if (copies > m.batch) m.batch = copies;
        if (copies * n > m.x) m.x = copies * n;
        if (copies * r * r > m.gram) m.gram = copies * r * r;
    }
    *out = m;
}

int64_t fmi_count_muon_bytes(const fm_layout *l, fm_dtype dt)
{
    fmi_muon_sizes m;
    int64_t A = (int64_t)fm_dtype_bytes(dt), F = (int64_t)fm_dtype_bytes(fmi_full_dtype(dt));
    fmi_count_muon(l, &m);
    return m.x * (2 * A + F) + m.gram * (2 * F + A) + m.batch * F + l->n_params * (int64_t)sizeof(fm_segment);
}

void fmi_count_soap(const fm_layout *l, int64_t limit, fmi_soap_sizes *out)
{
    fmi_soap_sizes s = {1, 1, 1, 1};
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        if (p->kind != FM_PARAM_MATRIX) continue;
        int64_t n = fmi_param_count(p), copies = FMI_MUON_ELEMENTS / n, sides[2] = {p->rows, p->cols};
        if (copies > p->expert + 1) copies = p->expert + 1; /* the last expert counts them all */
        if (copies < 1) copies = 1;
        if (copies * n > s.x) s.x = copies * n;
        for (int k = 0; k < 2; k++) {
            if (sides[k] > limit) continue;
            if (copies * sides[k] * sides[k] > s.gram) s.gram = copies * sides[k] * sides[k];
            if (copies * sides[k] > s.order) s.order = copies * sides[k];
            s.state += 2 * sides[k] * sides[k];
        }
    }
    *out = s;
}

int64_t fmi_count_soap_bytes(const fm_layout *l, int64_t limit, fm_dtype dt)
{
    fmi_soap_sizes s;
    fmi_count_soap(l, limit, &s);
    return (3 * s.x + s.gram + s.state) * (int64_t)fm_dtype_bytes(fmi_full_dtype(dt)) +
           s.order * (int64_t)sizeof(int32_t);
}

int64_t fmi_count_logit_rows(const fm_config *c, int64_t rows)
{
    int64_t chunk = LOGIT_ELEMENTS / c->vocab_size / 64 * 64;
    if (chunk < 64) chunk = 64;
    return chunk < rows ? chunk : rows;
}

int64_t fmi_count_micro_ids(int64_t rows)
{
    return (FMI_FEED_ARRAYS * rows + 1 + 63) / 64 * 64;
}

int64_t fmi_count_batch_bytes(const fm_config *c, fm_dtype dt, int64_t rows, int64_t n_micro)
{
    int64_t F = (int64_t)fm_dtype_bytes(fmi_full_dtype(dt));
    int64_t wide = c->num_nextn_predict_layers > 0 ? 3 : 1;
    return 2 * n_micro * fmi_count_micro_ids(rows) * (int64_t)sizeof(int32_t) + rows * F +
           wide * rows * c->hidden_size * F;
}

int64_t fmi_count_process_bytes(bool training, int threads, int64_t vocab)
{
    int n = threads > 0 ? threads : fmi_processors();
    int64_t bytes = PROGRAM_BYTES + n * THREAD_BYTES + vocab * ENTRY_BYTES;
    return training ? bytes + STAGING_BYTES : bytes;
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
    int64_t F = (int64_t)fm_dtype_bytes(fmi_full_dtype(r->dt));
    fm_acts_opts o = {.rows_max = r->rows, .keep = r->training, .backward = r->training,
                      .recompute = r->recompute, .mtp = c->num_nextn_predict_layers > 0,
                      .logit_rows = r->logit_rows, .row_length_min = r->row_length};
    if (o.logit_rows <= 0 && r->training) o.logit_rows = fmi_count_logit_rows(c, r->rows);
    if (o.logit_rows <= 0) o.logit_rows = r->rows < LOGIT_ROWS ? r->rows : LOGIT_ROWS;
    fmi_count_params(c, l, &n);
    if (!r->borrowed) m.weights = fmi_model_weight_bytes(l, r->dt);
    m.activations = (int64_t)fmi_acts_bytes(c, r->dt, &o);
    m.workspace = tables_bytes(c, l, F) +
                  fmi_count_process_bytes(r->training, r->threads, c->vocab_size);
    m.cache = r->cache_tokens * fmi_count_kv_bytes(c, r->dt, true);
    if (r->training) {
        m.masters = m.gradients = n.trained * F;
        m.moments = (2 + r->arrays) * n.trained * F;
        m.workspace += (int64_t)l->n_params * (int64_t)(sizeof(fm_segment) + sizeof(double));
        m.workspace += fmi_count_batch_bytes(c, r->dt, r->rows, 1);
        if (r->muon) m.workspace += fmi_count_muon_bytes(l, r->dt);
        if (r->soap) m.workspace += fmi_count_soap_bytes(l, r->soap, r->dt);
    }
    m.total =
        m.weights + m.masters + m.gradients + m.moments + m.activations + m.cache + m.workspace;
    *out = m;
}
