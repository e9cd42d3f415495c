/* fm_model: the configuration plus every parameter, in one layout walked by name in checkpoint
 * order, wherever it lives. fm_layer holds indices into that list; forward and backward find a
 * layer's weights (and the trainer its gradients) through the same indices. */
#ifndef FM_MODEL_MODEL_H
#define FM_MODEL_MODEL_H

#include "fathom/model.h"
#include "model/config.h"

#define FM_NAME_MAX 112

typedef enum fm_param_kind {
    FM_PARAM_MATRIX,      /* GEMM weight: dtype A; weight decay; Muon's unless said otherwise */
    FM_PARAM_EMBED,       /* model.embed_tokens.weight: A, AdamW, decay  */
    FM_PARAM_HEAD,        /* lm_head.weight: A, AdamW, decay              */
    FM_PARAM_ROUTER,      /* mlp.gate.weight: A, AdamW, decay */
    FM_PARAM_NORM,        /* F (bf16 values in a bf16 model), AdamW, no decay */
    FM_PARAM_ROUTER_BIAS  /* e_score_correction_bias: F, never rounded, no gradient */
} fm_param_kind;

typedef struct fm_param {
    char name[FM_NAME_MAX];  /* as in the checkpoint                    */
    fm_param_kind kind;
    int64_t rows, cols;      /* a vector has cols 1 and is stored as [rows] */
    int layer;               /* -1: global                              */
    int expert;              /* -1: not a routed expert                 */
    fm_dtype dtype;          /* of w                                    */
    void *w;                 /* device; NULL in a bare layout           */
    bool borrowed;           /* w lies in a file mapping                */
} fm_param;

/* Indices into params; -1 where the layer has no such tensor. */
typedef struct fm_layer {
    bool moe;
    int attn_norm, q, q_a, q_a_norm, q_b, kv_a, kv_a_norm, kv_b, o, ffn_norm;
    int gate, up, down;                          /* dense FFN                     */
    int router, bias;
    int expert0;                                 /* expert e: gate expert0+3e, up +1, down +2 */
    int shared_gate, shared_up, shared_down;
    int enorm, hnorm, eh_proj, head_norm;        /* the MTP block only            */
    void *gate_table, *up_table, *down_table;    /* [E] device tables of weights  */
} fm_layer;

/* The list of parameters a configuration implies, without memory behind it. Order: embed_tokens,
 * layers 0..L-1, model.norm, lm_head, then the MTP block (layer index L; its embedding and head are
 * the main ones). */
typedef struct fm_layout {
    int n_params;
    fm_param *params;
    int n_layers;        /* main layers + MTP blocks */
    fm_layer *layers;
    int embed, norm, head;
    int *by_name;        /* [n_params] indices in the order of strcmp, for fmi_layout_find */
} fm_layout;
fm_status fmi_layout_new(const fm_config *c, fm_layout *out, fm_err *err);
void fmi_layout_free(fm_layout *l);
int64_t fmi_param_count(const fm_param *p);
/* The parameter that is placed right behind i, before i + 1, or -1: kv_a behind q_a, so that the two products
 * of one input are one. */
int fmi_layout_behind(const fm_layout *l, int i);
int fmi_layout_find(const fm_layout *l, const char *name); /* -1: none */

struct fm_model {
    fm_config cfg;
    fm_exec *x;
    fm_dtype dt;             /* A */
    bool absorbed;
    fm_layout lay;
    void *rope_cos, *rope_sin; /* device [max_position_embeddings, R/2] F */
    int64_t rope_rows;
    void *arena;             /* device memory of weights that are not borrowed */
    void *files;             /* mappings behind borrowed weights (model/checkpoint.c) */
};

/* A model with zeroed weights of dtype dt (F32, BF16; F64 in tests), all in device memory. */
fm_status fmi_model_new(fm_exec *x, const fm_config *c, fm_dtype dt, bool absorbed, fm_model **out,
                        fm_err *err);
/* Random weights: normal(0, initializer_range), norms 1, bias 0; a pure function of (seed,
 * parameter, element). */
fm_status fmi_model_init(fm_model *m, uint64_t seed, fm_err *err);
/* Host copies of a parameter as F32 (or F64 for an F64 model): what a checkpoint would hold. */
fm_status fmi_param_read(const fm_model *m, int i, void *out_f, fm_err *err);
fm_status fmi_param_write(fm_model *m, int i, const void *in_f, fm_err *err); /* rounds to the stored dtype */

#endif
