/* A model: configuration and weights, opened from a checkpoint or made from a preset; and the
 * two commands that hold its numbers against other implementations.
 *
 * Thread rule: a model and its execution context belong to one thread at a time. */
#ifndef FATHOM_MODEL_H
#define FATHOM_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include "fathom/dtype.h"
#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_exec fm_exec;
typedef struct fm_model fm_model;

/* Where a model runs. device: "cpu" (or NULL); isa: "scalar", "avx2", "avx512", "amx" or NULL for the
 * best the machine has; threads 0: one per processor. Close after everything opened on it. */
fm_status fm_context_open(const char *device, const char *isa, int threads, fm_exec **out, fm_err *err);
void fm_context_close(fm_exec *x);

typedef struct fm_model_opts {
    fm_dtype precision;   /* FM_DTYPE_F32 or FM_DTYPE_BF16 */
    bool absorbed;        /* MLA form, fixed while open: absorbed (serving) or expanded */
    bool skip_mtp;        /* leave the multi-token-prediction module out */
    bool writable;        /* weights are copied, never borrowed from the mapping (training) */
} fm_model_opts;

/* Opens a Hugging Face directory or a .safetensors file beside its config.json. Errors: IO, FORMAT,
 * SHAPE, RANGE, UNSUPPORTED, NOMEM; the message names file and tensor. */
fm_status fm_model_open(fm_exec *x, const char *path, const fm_model_opts *opts, fm_model **out,
                        fm_err *err);
void fm_model_close(fm_model *m); /* NULL is fine */

/* Facts a caller needs. */
int fm_model_vocab(const fm_model *m);
int fm_model_hidden(const fm_model *m);
int fm_model_layers(const fm_model *m);
bool fm_model_has_mtp(const fm_model *m);

/* `fathom logits`: rows of equal length -> a safetensors file. See the command's help. */
typedef struct fm_logits_opts {
    bool hidden, mtp;
    int64_t chunk;        /* 0: all at once, without a cache */
} fm_logits_opts;
fm_status fm_model_logits(fm_model *m, const int32_t *ids, int64_t rows, int64_t length,
                          const fm_logits_opts *opts, const char *out_path, fm_err *err);

/* `fathom grad`: gradients of loss + mtp_weight * mtp_loss (+ sequence balance loss of weight
 * seq_balance when > 0) for the given rows -> a safetensors file. The model must be writable. */
typedef struct fm_grad_opts {
    double mtp_weight, seq_balance;
    bool recompute;       /* recompute activations in the backward pass */
} fm_grad_opts;
fm_status fm_model_grad(fm_model *m, const int32_t *ids, int64_t rows, int64_t length,
                        const fm_grad_opts *opts, const char *out_path, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
