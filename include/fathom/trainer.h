/* Training: from text or token shards to a run directory with checkpoints that other programs open.
 *
 * A run is a directory: recipe.ini (every setting, resolved), schedule.json (where it ends),
 * metrics.jsonl, events.out.tfevents.* (TensorBoard), checkpoints/<step>/ (a complete Hugging Face directory
 * plus trainer/), samples.txt, and tokenizer/ and data/ when they were made from text. Opening the same
 * run again goes on from its newest whole checkpoint, bit for bit as if it had never stopped.
 *
 * Thread rule: a trainer and its context belong to one thread; fm_trainer_stop and fm_trainer_save may
 * be called from a signal handler. */
#ifndef FATHOM_TRAINER_H
#define FATHOM_TRAINER_H

#include "fathom/model.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_trainer fm_trainer;

/* Zeros and NULLs mean "not given". Settings: preset < recipe < set < the fields here. */
typedef struct fm_train_opts {
    const char *command;       /* NULL: "pretrain"; names the run                             */
    const char *out;           /* run directory; NULL: runs/<command>-<preset>-<time>         */
    const char *preset;        /* NULL: "nano", unless `model` is given                       */
    const char *model;         /* continue from this checkpoint: its configuration, weights, tokenizer */
    const char *recipe;        /* file of settings                                            */
    const char *const *set;    /* [n_set] "section.key=value"                                 */
    int n_set;
    const char *const *text;   /* [n_text] FILE or FILE:WEIGHT, tokenized inside the run      */
    int n_text;
    const char *data;          /* or a directory made by `fathom data`                        */
    const char *val;           /* held-out text instead of the split by hash                  */
    double minutes, flops;     /* the stop: one of these                                      */
    int64_t tokens, steps;
    int64_t seq;               /* tokens of a packed row                                      */
    const char *precision;     /* "bf16" or "f32"                                             */
    int64_t seed;              /* < 0: not given                                              */
    int threads;               /* for the plan only: of the context; 0: one a processor       */
} fm_train_opts;

/* What a step was like; the live line is made of it. */
typedef struct fm_train_progress {
    int64_t step, steps_left;      /* done; predicted                                         */
    int64_t tokens, tokens_total;
    double fraction;               /* of the run, 0..1                                        */
    double loss, mtp_loss, balance_loss, bits_per_byte, grad_norm, lr;
    double val_bits_per_byte;      /* of the last evaluation; negative: none yet              */
    double tokens_per_second, flops_per_second;
    double max_vio;                /* worst layer, loads of the last 50 steps                 */
    double seconds, seconds_left;
    bool evaluated, saved;         /* in this step                                            */
} fm_train_progress;

typedef struct fm_train_hooks {
    void *arg;
    void (*on_step)(void *arg, const fm_train_progress *p);
    /* What is going on before the first step: "tokenizer", "shards", "model", "resume" and a detail. */
    void (*on_stage)(void *arg, const char *stage, const char *detail);
    /* At 1, 10, 50 and 100 percent: append to text what belongs into samples.txt. The model is the trainer's
     * own, in the expanded form, and must be left as it was. */
    fm_status (*on_sample)(void *arg, fm_model *model, const fm_tokenizer *tok,
                           const fm_train_progress *p, fm_text *text, fm_err *err);
} fm_train_hooks;

/* Makes the run directory (tokenizer and shards too, where text is given) or goes on with it. Errors: FORMAT
 * (recipe: file, line, nearest key), RANGE, STATE (the directory holds something else, or another run:
 * the keys that differ are named), IO, NOMEM. hooks may be NULL; only on_stage is called. */
fm_status fm_trainer_open(fm_exec *x, const fm_train_opts *o, const fm_train_hooks *hooks,
                          fm_trainer **out, fm_err *err);

/* An existing run as its recipe says, on past its old end when minutes or tokens (more of them) are given. */
fm_status fm_trainer_resume(fm_exec *x, const char *run, double more_minutes, int64_t more_tokens,
                            const fm_train_hooks *hooks, fm_trainer **out, fm_err *err);
void fm_trainer_free(fm_trainer *t); /* NULL is fine */

/* Trains to the end, evaluating, sampling and saving on the way. FM_E_CANCELLED after fm_trainer_stop: the
 * state was saved. FM_E_NUMERIC: a non-finite step was refused and named; the last checkpoint stands. */
fm_status fm_trainer_run(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err);

void fm_trainer_stop(fm_trainer *t); /* finish the step, save, return; async-signal-safe */
void fm_trainer_save(fm_trainer *t); /* save after this step and go on; async-signal-safe */

fm_model *fm_trainer_model(fm_trainer *t);
const fm_tokenizer *fm_trainer_tokenizer(const fm_trainer *t); /* NULL: ids only */
const char *fm_trainer_dir(const fm_trainer *t);
void fm_trainer_progress(const fm_trainer *t, fm_train_progress *out);
/* The newest checkpoint's directory, "" before the first. */
const char *fm_trainer_checkpoint(const fm_trainer *t);

/* --dry-run: what a run will take, without making anything. Bytes by purpose, predicted peak. */
typedef struct fm_train_plan {
    int64_t parameters, active_parameters;
    double flops_per_token;        /* training, MTP included */
    int64_t weights, gradients, optimizer, activations, batch, other;
    int64_t peak;
    int64_t tokens, steps, batch_tokens, micro_tokens; /* tokens 0: minutes, measured at the start */
    double lr;
    double seconds;                /* at tokens_per_second; 0: unknown */
} fm_train_plan;
fm_status fm_train_plan_make(const fm_train_opts *o, double tokens_per_second, fm_train_plan *out,
                             fm_err *err);

/* Writes the settings a run would use ("section.key = value" lines, "auto" where measured later). */
fm_status fm_train_settings(const fm_train_opts *o, fm_text *out, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
