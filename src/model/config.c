/* What follows from a configuration: the check of every size, which layers are experts', the
 * softmax scale, the rotary tables. Reading and writing config.json is config_io.c, presets are
 * config_preset.c. Source: DeepSeek-V3 report section 2.1; YaRN (Peng et al. 2023) as DeepSeek's
 * inference code uses it. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config_fields.h"

#define LAYERS_MAX 4096
#define EXPERTS_MAX 16384
#define TENSORS_MAX 4000000
#define BYTES_MAX (INT64_MAX / 16)

#define FIELD(name, kind, none) {#name, kind, offsetof(fm_config, name), none}
const fmi_config_field fmi_config_fields[] = {
    FIELD(vocab_size, FMI_FIELD_INT, 0),
    FIELD(hidden_size, FMI_FIELD_INT, 0),
    FIELD(intermediate_size, FMI_FIELD_INT, 0),
    FIELD(moe_intermediate_size, FMI_FIELD_INT, 0),
    FIELD(num_hidden_layers, FMI_FIELD_INT, 0),
    FIELD(num_nextn_predict_layers, FMI_FIELD_INT_NULL, 0),
    FIELD(num_attention_heads, FMI_FIELD_INT, 0),
    FIELD(n_routed_experts, FMI_FIELD_INT, 0),
    FIELD(num_experts_per_tok, FMI_FIELD_INT, 0),
    FIELD(n_shared_experts, FMI_FIELD_INT_NULL, 0),
    FIELD(n_group, FMI_FIELD_INT_NULL, 1),
    FIELD(topk_group, FMI_FIELD_INT_NULL, 1),
    FIELD(first_k_dense_replace, FMI_FIELD_INT, 0),
    FIELD(moe_layer_freq, FMI_FIELD_INT, 0),
    FIELD(norm_topk_prob, FMI_FIELD_BOOL, 0),
    FIELD(routed_scaling_factor, FMI_FIELD_REAL, 0),
    FIELD(q_lora_rank, FMI_FIELD_INT_NULL, 0),
    FIELD(kv_lora_rank, FMI_FIELD_INT, 0),
    FIELD(qk_nope_head_dim, FMI_FIELD_INT, 0),
    FIELD(qk_rope_head_dim, FMI_FIELD_INT, 0),
    FIELD(v_head_dim, FMI_FIELD_INT, 0),
    FIELD(max_position_embeddings, FMI_FIELD_INT, 0),
    FIELD(rope_theta, FMI_FIELD_ROPE_REAL, 0),
    FIELD(rope_interleave, FMI_FIELD_BOOL, 0),
    {"factor", FMI_FIELD_ROPE_REAL, offsetof(fm_config, yarn_factor), 0},
    FIELD(beta_fast, FMI_FIELD_ROPE_REAL, 0),
    FIELD(beta_slow, FMI_FIELD_ROPE_REAL, 0),
    FIELD(mscale, FMI_FIELD_ROPE_REAL, 0),
    FIELD(mscale_all_dim, FMI_FIELD_ROPE_REAL, 0),
    FIELD(original_max_position_embeddings, FMI_FIELD_ROPE_INT, 0),
    FIELD(rms_norm_eps, FMI_FIELD_REAL, 0),
    FIELD(initializer_range, FMI_FIELD_REAL, 0),
    FIELD(bos_token_id, FMI_FIELD_ID, -1),
    FIELD(eos_token_id, FMI_FIELD_ID, -1),
    FIELD(pad_token_id, FMI_FIELD_ID, -1),
};
#undef FIELD
const int fmi_config_n_fields = (int)(sizeof fmi_config_fields / sizeof fmi_config_fields[0]);

static const char *const score_names[] = {"sigmoid", "softmax"};
static const char *const method_names[] = {"greedy", "group_limited_greedy", "noaux_tc"};

const char *fmi_config_scoring_name(fm_route_score s)
{
    return score_names[s];
}

const char *fmi_config_method_name(fm_route_method m)
{
    return method_names[m];
}

bool fmi_config_scoring_parse(const char *s, fm_route_score *out)
{
    for (int i = 0; i < 2; i++)
        if (!strcmp(s, score_names[i])) return *out = (fm_route_score)i, true;
    return false;
}

bool fmi_config_method_parse(const char *s, fm_route_method *out)
{
    for (int i = 0; i < 3; i++)
        if (!strcmp(s, method_names[i])) return *out = (fm_route_method)i, true;
    return false;
}

void fmi_config_defaults(fm_family family, fm_config *c)
{
    const fm_config v3 = {
        .family = FM_FAMILY_V3, .vocab_size = 129280, .hidden_size = 7168,
        .intermediate_size = 18432, .moe_intermediate_size = 2048, .num_hidden_layers = 61,
        .num_nextn_predict_layers = 0, .num_attention_heads = 128, .n_routed_experts = 256,
        .num_experts_per_tok = 8, .n_shared_experts = 1, .n_group = 8, .topk_group = 4,
        .first_k_dense_replace = 3, .moe_layer_freq = 1, .scoring = FM_ROUTE_SIGMOID,
        .method = FM_ROUTE_NOAUX, .norm_topk_prob = true, .routed_scaling_factor = 2.5,
        .q_lora_rank = 1536, .kv_lora_rank = 512, .qk_nope_head_dim = 128, .qk_rope_head_dim = 64,
        .v_head_dim = 128, .max_position_embeddings = 4096, .rope_theta = 10000,
        .rope_interleave = true, .yarn_factor = 1, .beta_fast = 32, .beta_slow = 1, .mscale = 1,
        .mscale_all_dim = 0, .original_max_position_embeddings = 4096, .rms_norm_eps = 1e-6,
        .latent_norm_eps = 1e-6, .initializer_range = 0.02, .bos_token_id = 0, .eos_token_id = 1,
        .pad_token_id = -1, .fp8_block = {128, 128},
    };
    *c = v3;
    if (family == FM_FAMILY_V3) return;
    c->family = FM_FAMILY_V2;
    c->vocab_size = 32000;
    c->hidden_size = 4096;
    c->intermediate_size = 11008;
    c->moe_intermediate_size = 1407;
    c->num_hidden_layers = c->num_attention_heads = 32;
    c->n_routed_experts = 64;
    c->num_experts_per_tok = 0; /* transformers has none: the file must say */
    c->n_shared_experts = 2;
    c->n_group = c->topk_group = 1;
    c->first_k_dense_replace = 0;
    c->scoring = FM_ROUTE_SOFTMAX;
    c->method = FM_ROUTE_GREEDY;
    c->norm_topk_prob = false;
    c->routed_scaling_factor = 1;
    c->max_position_embeddings = 2048;
}

bool fmi_config_is_moe(const fm_config *c, int layer)
{
    return c->n_routed_experts > 0 && layer >= c->first_k_dense_replace &&
           layer % c->moe_layer_freq == 0;
}

int64_t fmi_config_dense_width(const fm_config *c, int layer)
{
    bool twin = c->n_routed_experts == 0 && layer >= c->first_k_dense_replace;
    if (!twin) return c->intermediate_size;
    return ((int64_t)c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size;
}

static double yarn_mscale(double factor, double m)
{
    return factor > 1 ? 0.1 * m * log(factor) + 1 : 1;
}

double fmi_config_softmax_scale(const fm_config *c)
{
    double ms =
        c->yarn && c->mscale_all_dim != 0 ? yarn_mscale(c->yarn_factor, c->mscale_all_dim) : 1;
    return ms * ms / sqrt((double)c->qk_nope_head_dim + c->qk_rope_head_dim);
}

/* The dimension that turns `rotations` times within the original context. */
static double yarn_dim(const fm_config *c, double rotations)
{
    double n0 = c->original_max_position_embeddings;
    return c->qk_rope_head_dim * log(n0 / (2 * M_PI * rotations)) / (2 * log(c->rope_theta));
}

/* Angle per position of rotary pair j. High frequencies keep theirs, low ones are stretched. */
static double rope_frequency(const fm_config *c, int j)
{
    double f = pow(c->rope_theta, -2.0 * j / c->qk_rope_head_dim);
    if (!c->yarn) return f;
    double low = fmax(floor(yarn_dim(c, c->beta_fast)), 0);
    double high = fmin(ceil(yarn_dim(c, c->beta_slow)), c->qk_rope_head_dim - 1);
    if (low == high) high += 0.001;
    double ramp = fmin(fmax((j - low) / (high - low), 0), 1);
    return f / c->yarn_factor * ramp + f * (1 - ramp);
}

void fmi_config_rope(const fm_config *c, int64_t P, double *cosv, double *sinv)
{
    int half = c->qk_rope_head_dim / 2;
    double by = 1;
    if (c->yarn) {
        bool both = c->mscale != 0 && c->mscale_all_dim != 0;
        by = both ? yarn_mscale(c->yarn_factor, c->mscale) /
                        yarn_mscale(c->yarn_factor, c->mscale_all_dim)
                  : yarn_mscale(c->yarn_factor, 1);
    }
    for (int j = 0; j < half; j++) {
        double f = rope_frequency(c, j);
        for (int64_t p = 0; p < P; p++) {
            cosv[p * half + j] = cos((double)p * f) * by;
            sinv[p * half + j] = sin((double)p * f) * by;
        }
    }
}

static fm_status check_positive(const fm_config *c, fm_err *err)
{
    const struct { const char *key; int value, min, max; } sizes[] = {
        {"vocab_size", c->vocab_size, 1, INT_MAX},
        {"hidden_size", c->hidden_size, 1, INT_MAX},
        {"intermediate_size", c->intermediate_size, 1, INT_MAX},
        {"num_hidden_layers", c->num_hidden_layers, 1, LAYERS_MAX},
        {"num_nextn_predict_layers", c->num_nextn_predict_layers, 0, 1},
        {"num_attention_heads", c->num_attention_heads, 1, INT_MAX},
        {"n_routed_experts", c->n_routed_experts, 0, EXPERTS_MAX},
        {"num_experts_per_tok", c->num_experts_per_tok, 1, EXPERTS_MAX},
        {"moe_intermediate_size", c->moe_intermediate_size, 1, INT_MAX},
        {"n_shared_experts", c->n_shared_experts, 0, EXPERTS_MAX},
        {"n_group", c->n_group, 1, EXPERTS_MAX},
        {"topk_group", c->topk_group, 1, EXPERTS_MAX},
        {"first_k_dense_replace", c->first_k_dense_replace, 0, c->num_hidden_layers},
        {"moe_layer_freq", c->moe_layer_freq, 1, LAYERS_MAX},
        {"q_lora_rank", c->q_lora_rank, 0, INT_MAX},
        {"kv_lora_rank", c->kv_lora_rank, 1, INT_MAX},
        {"qk_nope_head_dim", c->qk_nope_head_dim, 1, INT_MAX},
        {"qk_rope_head_dim", c->qk_rope_head_dim, 2, INT_MAX},
        {"v_head_dim", c->v_head_dim, 1, INT_MAX},
        {"max_position_embeddings", c->max_position_embeddings, 1, INT_MAX},
        {"bos_token_id", c->bos_token_id, -1, c->vocab_size - 1},
        {"eos_token_id", c->eos_token_id, -1, c->vocab_size - 1},
        {"pad_token_id", c->pad_token_id, -1, c->vocab_size - 1},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        int v = sizes[i].value, lo = sizes[i].min, hi = sizes[i].max;
        if (v >= lo && v <= hi) continue;
        if (hi == INT_MAX)
            return FM_FAIL(err, FM_E_RANGE, "%s: expected at least %d, found %d", sizes[i].key, lo,
                           v);
        return FM_FAIL(err, FM_E_RANGE, "%s: expected %d to %d, found %d", sizes[i].key, lo, hi, v);
    }
    return FM_OK;
}

static fm_status check_reals(const fm_config *c, fm_err *err)
{
    const struct { const char *key; double value, min; bool open; } reals[] = {
        {"routed_scaling_factor", c->routed_scaling_factor, 0, true},
        {"rope_theta", c->rope_theta, 1, true},
        {"rms_norm_eps", c->rms_norm_eps, 0, false},
        {"initializer_range", c->initializer_range, 0, false},
        {"factor", c->yarn_factor, 1, false},
        {"beta_fast", c->beta_fast, 0, true},
        {"beta_slow", c->beta_slow, 0, true},
        {"mscale", c->mscale, 0, false},
        {"mscale_all_dim", c->mscale_all_dim, 0, false},
    };
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        double v = reals[i].value, lo = reals[i].min;
        if (isfinite(v) && (reals[i].open ? v > lo : v >= lo)) continue;
        return FM_FAIL(err, FM_E_RANGE, "%s: expected %s %g, found %g", reals[i].key,
                       reals[i].open ? "more than" : "at least", lo, v);
    }
    if (c->yarn && c->original_max_position_embeddings < 1)
        return FM_FAIL(err, FM_E_RANGE,
                       "original_max_position_embeddings: expected at least 1, found %d",
                       c->original_max_position_embeddings);
    return FM_OK;
}

static fm_status check_experts(const fm_config *c, fm_err *err)
{
    int E = c->n_routed_experts, K = c->num_experts_per_tok, G = c->n_group;
    if (E == 0) return FM_OK;
    if (K > E)
        return FM_FAIL(err, FM_E_RANGE,
                       "num_experts_per_tok: expected at most n_routed_experts %d, found %d", E, K);
    if (E % G)
        return FM_FAIL(err, FM_E_RANGE,
                       "n_routed_experts: expected a multiple of n_group %d, found %d", G, E);
    if (c->topk_group > G)
        return FM_FAIL(err, FM_E_RANGE, "topk_group: expected at most n_group %d, found %d", G,
                       c->topk_group);
    if (G > 1 && c->method != FM_ROUTE_GREEDY && K > c->topk_group * (E / G))
        return FM_FAIL(
            err, FM_E_RANGE,
            "num_experts_per_tok: expected at most the %d experts of topk_group %d, found %d",
            c->topk_group * (E / G), c->topk_group, K);
    if (G > 1 && c->method == FM_ROUTE_NOAUX && E / G < 2)
        return FM_FAIL(err, FM_E_RANGE,
                       "n_group: expected groups of at least 2 experts, found %d of %d", G, E);
    return FM_OK;
}

/* No product of sizes, and no buffer of all weights, may leave int64. */
static fm_status check_products(const fm_config *c, fm_err *err)
{
    int64_t H = c->num_attention_heads, D = c->hidden_size, N = c->qk_nope_head_dim;
    int64_t qk = H * ((int64_t)N + c->qk_rope_head_dim), kv = H * ((int64_t)N + c->v_head_dim);
    int64_t twin =
        ((int64_t)c->num_experts_per_tok + c->n_shared_experts) * c->moe_intermediate_size;
    int64_t experts =
        (int64_t)(c->n_routed_experts > 0 ? c->n_routed_experts : 1) * c->moe_intermediate_size;
    const struct {
        const char *what; int64_t a, b;
    } mats[] = {
        {"vocab_size x hidden_size", c->vocab_size, D},
        {"num_attention_heads x (qk_nope_head_dim + qk_rope_head_dim) x its input", qk,
         c->q_lora_rank > 0 ? c->q_lora_rank : D},
        {"q_lora_rank x hidden_size", c->q_lora_rank, D},
        {"(kv_lora_rank + qk_rope_head_dim) x hidden_size",
         (int64_t)c->kv_lora_rank + c->qk_rope_head_dim, D},
        {"num_attention_heads x (qk_nope_head_dim + v_head_dim) x kv_lora_rank", kv,
         c->kv_lora_rank},
        {"num_attention_heads x v_head_dim x hidden_size", H * c->v_head_dim, D},
        {"intermediate_size x hidden_size x 3", c->intermediate_size, 3 * D},
        {"n_routed_experts x moe_intermediate_size x hidden_size x 3", experts, 3 * D},
        {"shared experts x moe_intermediate_size x hidden_size x 3", twin, 3 * D},
        {"max_position_embeddings x qk_rope_head_dim", c->max_position_embeddings,
         c->qk_rope_head_dim},
    };
    int64_t total = 0, layers = (int64_t)c->num_hidden_layers + c->num_nextn_predict_layers + 2;
    for (size_t i = 0; i < sizeof mats / sizeof mats[0]; i++) {
        int64_t n, all;
        if (!fmi_mul_ok(mats[i].a, mats[i].b, &n) || !fmi_mul_ok(n, layers, &all) ||
            all > BYTES_MAX - total)
            return FM_FAIL(err, FM_E_RANGE, "sizes overflow: %s is %lld x %lld over %lld layers",
                           mats[i].what, (long long)mats[i].a, (long long)mats[i].b,
                           (long long)layers);
        if (mats[i].a > INT_MAX || mats[i].b > INT_MAX)
            return FM_FAIL(err, FM_E_RANGE,
                           "sizes overflow: a side of %s is over 2147483647 (%lld x %lld)",
                           mats[i].what, (long long)mats[i].a, (long long)mats[i].b);
        total += all;
    }
    if (layers * (3 * (int64_t)c->n_routed_experts + 20) > TENSORS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "n_routed_experts %d in %d layers: more than %d tensors",
                       c->n_routed_experts, c->num_hidden_layers, TENSORS_MAX);
    return FM_OK;
}

fm_status fmi_config_check(const fm_config *c, fm_err *err)
{
    fm_status st = check_positive(c, err);
    if (!st) st = check_reals(c, err);
    if (!st && c->qk_rope_head_dim % 2)
        st = FM_FAIL(err, FM_E_RANGE, "qk_rope_head_dim: expected an even number, found %d",
                     c->qk_rope_head_dim);
    if (!st && c->fp8 && (c->fp8_block[0] < 1 || c->fp8_block[1] < 1))
        st = FM_FAIL(
            err, FM_E_RANGE,
            "quantization_config.weight_block_size: expected positive sizes, found [%d, %d]",
            c->fp8_block[0], c->fp8_block[1]);
    if (!st) st = check_experts(c, err);
    if (!st) st = check_products(c, err);
    return st;
}
