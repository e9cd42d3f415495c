/* The configuration of a DeepSeek model: what config.json says, defaults filled in, checked.
 * Field names are those of the published config.json. */
#ifndef FM_MODEL_CONFIG_H
#define FM_MODEL_CONFIG_H

#include "base/base.h"
#include "ops/ops.h"

typedef enum fm_family { FM_FAMILY_V2, FM_FAMILY_V3 } fm_family;

typedef struct fm_config {
    fm_family family;               /* model_type deepseek_v2, deepseek_v3 (kimi_k2 too) */
    int vocab_size;
    int hidden_size;
    int intermediate_size;
    int moe_intermediate_size;
    int num_hidden_layers;
    int num_nextn_predict_layers;   /* 0 or 1 */
    int num_attention_heads;
    int n_routed_experts;           /* 0: the dense twin, see fmi_config_dense_width */
    int num_experts_per_tok;
    int n_shared_experts;           /* 0: none */
    int n_group, topk_group;        /* 1, 1: no groups */
    int first_k_dense_replace;
    int moe_layer_freq;             /* layer i >= first_k is MoE iff i % freq == 0 */
    fm_route_score scoring;         /* scoring_func */
    fm_route_method method;         /* topk_method  */
    bool norm_topk_prob;
    double routed_scaling_factor;
    int q_lora_rank;                /* 0: plain q_proj */
    int kv_lora_rank;
    int qk_nope_head_dim;
    int qk_rope_head_dim;
    int v_head_dim;
    int max_position_embeddings;
    double rope_theta;
    bool yarn;
    bool rope_interleave;           /* false: checkpoint holds half-split rotary dims (re-saved) */
    double yarn_factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    int original_max_position_embeddings;
    double rms_norm_eps;
    double latent_norm_eps;         /* of q_a_layernorm, kv_a_layernorm (docs/numerics.md) */
    double initializer_range;
    int bos_token_id, eos_token_id, pad_token_id; /* -1: none */
    bool fp8;                       /* quantization_config: e4m3 with weight_scale_inv */
    int fp8_block[2];               /* rows, columns of a scale block */
} fm_config;

/* Reads DIR/config.json (or the file itself). Old (rope_scaling, rope_theta) and new
 * (rope_parameters) spelling. Every size is checked: positive, divisible where it must be, products
 * within int64. */
fm_status fmi_config_read(const char *path, fm_config *out, fm_err *err);
/* The same from memory; `name` stands for the file in messages. */
fm_status fmi_config_parse(const char *name, const char *text, size_t n, fm_config *out,
                           fm_err *err);
/* Writes config.json as transformers reads it (model_type, architectures, torch dtype, rope keys in
 * both spellings). */
fm_status fmi_config_write(const fm_config *c, const char *path, fm_dtype dtype, fm_err *err);
/* "pico", "nano", "micro", "mini", "v2-lite", "v2", "v3", "v3-slim"; UNSUPPORTED names the
 * known ones. */
fm_status fmi_config_preset(const char *name, fm_config *out, fm_err *err);
/* key = a field name as in config.json (for `--set model.KEY=VALUE`); unknown keys name the
 * nearest. */
fm_status fmi_config_set(fm_config *c, const char *key, const char *value, fm_err *err);
fm_status fmi_config_check(const fm_config *c, fm_err *err);

/* layer = num_hidden_layers: the MTP block */
bool fmi_config_is_moe(const fm_config *c, int layer);
/* Hidden width of a dense FFN layer: intermediate_size for the leading layers; in the dense twin
 * (n_routed_experts 0) the others have (num_experts_per_tok + n_shared_experts) *
 * moe_intermediate_size. */
int64_t fmi_config_dense_width(const fm_config *c, int layer);
double fmi_config_softmax_scale(const fm_config *c);         /* (N+R)^-1/2 * ms^2 */
/* Rotary tables for positions 0..P-1 in double: cos, sin [P, R/2] (YaRN and its cos/sin
 * factor applied). */
void fmi_config_rope(const fm_config *c, int64_t P, double *cos, double *sin);

#endif
