/* Checkpoints on disk: finding each parameter's tensor in the files, and writing a complete Hugging
 * Face directory. Opening is fm_model_open (fathom/model.h). */
#ifndef FM_MODEL_CHECKPOINT_H
#define FM_MODEL_CHECKPOINT_H

#include "io/safetensors.h"
#include "model/model.h"

typedef struct fmi_checkpoint_opts {
    bool no_mtp;                /* leave the multi-token-prediction module out          */
    const char *tokenizer_dir;  /* tokenizer files found there are copied; NULL: none   */
    int64_t shard_bytes_max;    /* 0: 4 GiB; a larger model is written in shards        */
} fmi_checkpoint_opts;

/* Writes config.json, generation_config.json, the weights (model.safetensors, or shards and their
 * index) and the tokenizer files into `dir`, which exists and is the caller's to publish. stored:
 * BF16 or F32; the router bias is always F32. Values are rounded once, from what the model holds.
 */
fm_status fmi_checkpoint_write(const fm_model *m, const char *dir, fm_dtype stored,
                               const fmi_checkpoint_opts *opts, fm_err *err);

/* One parameter's place in the files. */
typedef struct fmi_source {
    const fm_tensor_info *info;
    const fm_tensor_info *scale;  /* weight_scale_inv of an FP8 tensor, else NULL */
} fmi_source;

/* The tensor of parameter p, its shape and dtype checked against p and c. */
fm_status fmi_source_find(const fm_tensors *t, const fm_config *c, const fm_param *p,
                          fmi_source *out, fm_err *err);
/* One row of it in f32: FP8 widens as code x scale. [p->cols], or [p->rows] for a vector (row 0).
 */
void fmi_source_row(const fmi_source *s, const fm_config *c, int64_t row, float *out);
/* The stored row that holds row r of p in the interleaved order of rotary dims. */
int64_t fmi_source_row_of(const fm_config *c, const fm_layout *l, const fm_param *p, int64_t r);

/* What no parameter claims. Logs one line for tensors that should not be there and fails when a
 * duplicate (the MTP module's embedding or head) has another shape. */
fm_status fmi_source_check_rest(const fm_tensors *t, const fm_config *c, const fm_layout *l,
                                fm_err *err);
/* True when the files hold any tensor of layer i. */
bool fmi_source_has_layer(const fm_tensors *t, int i);

#endif
