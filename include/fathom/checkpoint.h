/* Checkpoints as things on disk, and shapes as things to plan with: finding, making, converting and
 * inspecting a checkpoint; counting what a shape takes.
 *
 * Thread rule: every function here may run on any thread; results belong to the caller. */
#ifndef FATHOM_CHECKPOINT_H
#define FATHOM_CHECKPOINT_H

#include <stdbool.h>
#include <stdint.h>

#include "fathom/model.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What the user typed -> a path: a directory or file that exists, or org/name in one of the Hugging
 * Face caches roots[n_roots] (entries may be NULL). The error names the command that fetches it. */
fm_status fm_model_find(const char *name, const char *const *roots, int n_roots, fm_text *out,
                        fm_err *err);

/* A shape: a preset, or what a checkpoint's config.json says, with changes. */
typedef struct fm_shape_opts {
    const char *preset;        /* this or model */
    const char *model;         /* path          */
    const char *const *set;    /* [n_set] "model.key=value", in order */
    int n_set;
    int64_t depth;             /* layers; 0: the preset's */
} fm_shape_opts;

typedef struct fm_setting {
    const char *key;           /* as in config.json */
    char value[48];            /* as JSON           */
} fm_setting;
#define FM_SETTINGS_MAX 64

/* Parameters, and operations and bytes of one token. The MTP module is counted apart. */
typedef struct fm_shape {
    fm_setting setting[FM_SETTINGS_MAX];
    int n_settings;
    int64_t total, active, active_no_embed;
    int64_t mtp_total, mtp_active;        /* its own; with the shared embedding and head */
    int64_t attention_layer, expert;
    int64_t kv_elements, kv_bytes_bf16;   /* latent cache of a token, main layers */
    int64_t kv_elements_mha;              /* the same kept as expanded keys and values */
    int64_t length;                       /* of the row the next figures are means over */
    double flops_forward, flops_mtp, flops_training, flops_decode;
    double flops_m, flops_6n;             /* training without embedding, head, MTP: DeepSeek LLM's M; 6 N */
    int layers, mtp_layers, max_positions;
} fm_shape;
/* length: tokens of a row, for the attention's share; 0: 4096 or the longest the model takes. */
fm_status fm_shape_get(const fm_shape_opts *o, int64_t length, fm_shape *out, fm_err *err);

/* Memory by purpose, in bytes, of using or training a shape. */
typedef struct fm_memory_opts {
    fm_dtype precision;        /* F32 or BF16                                        */
    bool training, recompute, muon;
    int arrays;                /* F32 beside AdamW's two moments: AdEMAMix, Grokfast, EMA */
    int64_t soap_side;         /* SOAP's longest side with a basis; 0: not SOAP      */
    int64_t rows;              /* tokens of a forward pass: micro-batch or prompt chunk */
    int64_t length;            /* packed row, or context of a sequence               */
    int64_t sequences;         /* in use at once (not training)                      */
    int threads;               /* 0: one a processor                                 */
} fm_memory_opts;

typedef struct fm_memory {
    int64_t weights, masters, gradients, moments, activations, cache, workspace, total;
} fm_memory;
fm_status fm_shape_memory(const fm_shape_opts *o, const fm_memory_opts *m, fm_memory *out,
                          fm_err *err);

/* Random weights of a shape as a complete Hugging Face directory. `out` must not exist, or be an
 * empty directory: FM_E_STATE otherwise, and nothing is written; it appears whole or not at all. */
typedef struct fm_init_opts {
    fm_shape_opts shape;
    uint64_t seed;
    fm_dtype stored;               /* BF16 or F32 */
    const char *tokenizer_dir;     /* its files are copied; NULL: none */
    int64_t shard_bytes_max;       /* 0: 4 GiB */
} fm_init_opts;
fm_status fm_checkpoint_init(fm_exec *x, const fm_init_opts *o, const char *out, fm_err *err);

/* A checkpoint written anew, under the same rule. */
typedef struct fm_convert_opts {
    bool no_mtp;
    bool keep_dtype;               /* F32 stays F32, everything else becomes BF16 */
    fm_dtype stored;               /* without keep_dtype: BF16 or F32 */
    int64_t shard_bytes_max;       /* 0: 4 GiB */
} fm_convert_opts;
fm_status fm_checkpoint_convert(fm_exec *x, const char *path, const fm_convert_opts *o,
                                const char *out, fm_err *err);

/* What the files hold. No weight is read. */
typedef struct fm_tensor_row {
    const char *name, *dtype, *file;
    int rank;
    int64_t dims[8];
    int64_t n;
    int64_t bytes, offset;         /* offset of the data in the file */
} fm_tensor_row;

typedef struct fm_loader {
    const char *program;
    bool loads;
    char why[256];                 /* why not, or what to know; "" otherwise */
} fm_loader;
#define FM_LOADERS_MAX 8

typedef struct fm_inspection {
    fm_shape shape;
    fm_tensor_row *tensors;        /* [n_tensors] in file order */
    int n_tensors;
    int64_t bytes, elements;
    int n_files;
    bool mtp;                      /* the module's weights are there */
    bool fp8;
    fm_loader loader[FM_LOADERS_MAX];
    int n_loaders;
    void *files;
} fm_inspection;
fm_status fm_checkpoint_inspect(const char *path, fm_inspection **out, fm_err *err);
void fm_inspection_free(fm_inspection *i); /* NULL is fine */

#ifdef __cplusplus
}
#endif
#endif
