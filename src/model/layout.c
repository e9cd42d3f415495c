/* The list of parameters that a configuration implies: names, shapes and kinds in checkpoint order,
 * and per layer the indices into it. No memory stands behind a bare layout; model.c and
 * checkpoint.c put it there. Names: those of the published Hugging Face checkpoints. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/model.h"

/* Appends one parameter (only counts while params is NULL) and returns its index. */
static int add(fm_layout *l, int layer, int expert, fm_param_kind kind, int64_t rows, int64_t cols,
               const char *fmt, ...) FMI_PRINTF(7, 8);

static int add(fm_layout *l, int layer, int expert, fm_param_kind kind, int64_t rows, int64_t cols,
               const char *fmt, ...)
{
    int i = l->n_params++;
    if (!l->params) return i;
    fm_param *p = &l->params[i];
    va_list ap;
    int n = 0;
    if (layer >= 0) n = snprintf(p->name, sizeof p->name, "model.layers.%d.", layer);
    va_start(ap, fmt);
    vsnprintf(p->name + n, sizeof p->name - (size_t)n, fmt, ap);
    va_end(ap);
    p->kind = kind;
    p->rows = rows;
    p->cols = cols;
    p->layer = layer;
    p->expert = expert;
    return i;
}

static void add_attention(fm_layout *l, const fm_config *c, int i, fm_layer *y)
{
    int64_t D = c->hidden_size, H = c->num_attention_heads, C = c->kv_lora_rank, Q = c->q_lora_rank;
    int64_t N = c->qk_nope_head_dim, R = c->qk_rope_head_dim, V = c->v_head_dim;
    const fm_param_kind mat = FM_PARAM_MATRIX, norm = FM_PARAM_NORM;
    y->attn_norm = add(l, i, -1, norm, D, 1, "input_layernorm.weight");
    if (Q == 0) {
        y->q = add(l, i, -1, mat, H * (N + R), D, "self_attn.q_proj.weight");
    } else {
        y->q_a = add(l, i, -1, mat, Q, D, "self_attn.q_a_proj.weight");
        y->q_a_norm = add(l, i, -1, norm, Q, 1, "self_attn.q_a_layernorm.weight");
        y->q_b = add(l, i, -1, mat, H * (N + R), Q, "self_attn.q_b_proj.weight");
    }
    y->kv_a = add(l, i, -1, mat, C + R, D, "self_attn.kv_a_proj_with_mqa.weight");
    y->kv_a_norm = add(l, i, -1, norm, C, 1, "self_attn.kv_a_layernorm.weight");
    y->kv_b = add(l, i, -1, mat, H * (N + V), C, "self_attn.kv_b_proj.weight");
    y->o = add(l, i, -1, mat, D, H * V, "self_attn.o_proj.weight");
    y->ffn_norm = add(l, i, -1, norm, D, 1, "post_attention_layernorm.weight");
}

static void add_ffn(fm_layout *l, const fm_config *c, int i, fm_layer *y)
{
    int64_t D = c->hidden_size, M = c->moe_intermediate_size, E = c->n_routed_experts;
    int64_t I = fmi_config_dense_width(c, i), S = (int64_t)c->n_shared_experts * M;
    const fm_param_kind mat = FM_PARAM_MATRIX;
    y->moe = fmi_config_is_moe(c, i);
    if (!y->moe) {
        y->gate = add(l, i, -1, mat, I, D, "mlp.gate_proj.weight");
        y->up = add(l, i, -1, mat, I, D, "mlp.up_proj.weight");
        y->down = add(l, i, -1, mat, D, I, "mlp.down_proj.weight");
        return;
    }
    y->router = add(l, i, -1, FM_PARAM_ROUTER, E, D, "mlp.gate.weight");
    if (c->method == FM_ROUTE_NOAUX)
        y->bias = add(l, i, -1, FM_PARAM_ROUTER_BIAS, E, 1, "mlp.gate.e_score_correction_bias");
    y->expert0 = l->n_params;
    for (int e = 0; e < c->n_routed_experts; e++) {
        add(l, i, e, mat, M, D, "mlp.experts.%d.gate_proj.weight", e);
        add(l, i, e, mat, M, D, "mlp.experts.%d.up_proj.weight", e);
        add(l, i, e, mat, D, M, "mlp.experts.%d.down_proj.weight", e);
    }
    if (S == 0) return;
    y->shared_gate = add(l, i, -1, mat, S, D, "mlp.shared_experts.gate_proj.weight");
    y->shared_up = add(l, i, -1, mat, S, D, "mlp.shared_experts.up_proj.weight");
    y->shared_down = add(l, i, -1, mat, D, S, "mlp.shared_experts.down_proj.weight");
}

static void layer_init(fm_layer *y)
{
    const fm_layer none = {
        .attn_norm = -1, .q = -1, .q_a = -1, .q_a_norm = -1, .q_b = -1, .kv_a = -1, .kv_a_norm = -1,
        .kv_b = -1, .o = -1, .ffn_norm = -1, .gate = -1, .up = -1, .down = -1, .router = -1,
        .bias = -1, .expert0 = -1, .shared_gate = -1, .shared_up = -1, .shared_down = -1,
        .enorm = -1, .hnorm = -1, .eh_proj = -1, .head_norm = -1,
    };
    *y = none;
}

/* Run twice: once to count, once to fill. */
static void walk(fm_layout *l, const fm_config *c)
{
    int64_t D = c->hidden_size, W = c->vocab_size;
    int L = c->num_hidden_layers;
    fm_layer scratch;
    l->n_params = 0;
    l->embed = add(l, -1, -1, FM_PARAM_EMBED, W, D, "model.embed_tokens.weight");
    for (int i = 0; i < L; i++) {
        fm_layer *y = l->params ? &l->layers[i] : &scratch;
        layer_init(y);
        add_attention(l, c, i, y);
        add_ffn(l, c, i, y);
    }
    l->norm = add(l, -1, -1, FM_PARAM_NORM, D, 1, "model.norm.weight");
    l->head = add(l, -1, -1, FM_PARAM_HEAD, W, D, "lm_head.weight");
    for (int i = L; i < L + c->num_nextn_predict_layers; i++) {
        fm_layer *y = l->params ? &l->layers[i] : &scratch;
        layer_init(y);
        y->enorm = add(l, i, -1, FM_PARAM_NORM, D, 1, "enorm.weight");
        y->hnorm = add(l, i, -1, FM_PARAM_NORM, D, 1, "hnorm.weight");
        y->eh_proj = add(l, i, -1, FM_PARAM_MATRIX, D, 2 * D, "eh_proj.weight");
        add_attention(l, c, i, y);
        add_ffn(l, c, i, y);
        y->head_norm = add(l, i, -1, FM_PARAM_NORM, D, 1, "shared_head.norm.weight");
    }
}

static int compare_names(const void *a, const void *b, void *arg)
{
    const fm_param *p = arg;
    return strcmp(p[*(const int *)a].name, p[*(const int *)b].name);
}

fm_status fmi_layout_new(const fm_config *c, fm_layout *out, fm_err *err)
{
    fm_layout l = {0};
    l.n_layers = c->num_hidden_layers + c->num_nextn_predict_layers;
    walk(&l, c);
    l.layers = fmi_zalloc((size_t)l.n_layers * sizeof *l.layers);
    l.by_name = fmi_alloc((size_t)l.n_params * sizeof *l.by_name);
    l.params = fmi_zalloc((size_t)l.n_params * sizeof *l.params);
    if (!l.layers || !l.params || !l.by_name) {
        int n = l.n_params;
        fmi_layout_free(&l);
        return FM_FAIL(err, FM_E_NOMEM, "list of %d parameters", n);
    }
    walk(&l, c);
    for (int i = 0; i < l.n_params; i++) l.by_name[i] = i;
    qsort_r(l.by_name, (size_t)l.n_params, sizeof *l.by_name, compare_names, l.params);
    *out = l;
    return FM_OK;
}

void fmi_layout_free(fm_layout *l)
{
    if (!l) return;
    fmi_free(l->params);
    fmi_free(l->layers);
    fmi_free(l->by_name);
    *l = (fm_layout){0};
}

int64_t fmi_param_count(const fm_param *p)
{
    return p->rows * p->cols;
}

int fmi_layout_behind(const fm_layout *l, int i)
{
    int layer = l->params[i].layer;
    return layer >= 0 && l->layers[layer].q_a == i ? l->layers[layer].kv_a : -1;
}

int fmi_layout_find(const fm_layout *l, const char *name)
{
    int lo = 0, hi = l->n_params;
    while (lo < hi) {
        int mid = lo + (hi - lo) / 2;
        int c = strcmp(name, l->params[l->by_name[mid]].name);
        if (c == 0) return l->by_name[mid];
        if (c < 0) hi = mid;
        else lo = mid + 1;
    }
    return -1;
}
