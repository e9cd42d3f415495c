/* One optimizer step and one evaluation: everything on the device, one fm_write at the start, one
 * fm_read at the end, no heap call between.
 *
 * A step's rows are packed on the host for all its micro-batches first, so the counts of valid targets
 * are known before the first backward. The loss is the sum over the step's valid targets over their
 * number; the MTP loss likewise by its own count; the sequence balance loss has one sequence a packed
 * row. Gradients add up over micro-batches; then norm, clip factor, flag, update, router bias. */
#ifndef FM_TRAIN_STEPPER_H
#define FM_TRAIN_STEPPER_H

#include "train/balance.h"
#include "train/feed.h"
#include "train/optim.h"
#include "train/schedule.h"

typedef struct fmi_step_opts {
    int64_t rows_max;     /* packed rows of the largest step */
    int64_t micro_rows;   /* packed rows of a micro-batch    */
    int64_t T;
    bool mtp, recompute;
    bool muon, ademamix, grokfast, ema; /* fmi_optim_parts */
    int64_t soap;
} fmi_step_opts;

typedef struct fmi_stepper {
    fm_model *m;
    fmi_step_opts o;
    fm_acts *acts;
    fm_grads *grads;
    fmi_optim *optim;
    int32_t *host_ids, *dev_ids;   /* the packed step: per micro-batch 8 arrays, see stepper.c */
    int64_t n_ids;                 /* i32 elements of either */
    int64_t micro_ids;             /* of one micro-batch */
    fmi_feed_arrays *micro;        /* host [n_micro_max] views into host_ids */
    int n_micro_max;
    void *loss_rows, *dh, *dmtp, *dhf; /* device */
    int32_t *load;                 /* device [layers, E] */
    void *no_bias;                 /* device [E] F: routers without a bias */
    char *dev_stats, *host_stats;  /* the one block read a step */
    size_t stats_bytes, at_loss, at_load, at_bias;
    int n_layers, n_experts;
} fmi_stepper;

/* Scalars of a step, read back. Device figures are valid until the next run. */
typedef struct fmi_step_in {
    int64_t step;         /* from 1 */
    int64_t rows;
    double lr, gamma, mtp_weight;
    double progress;      /* of the run, at the step's end */
} fmi_step_in;

typedef struct fmi_step_out {
    int64_t n_target, n_mtp_target;
    double loss, mtp_loss, balance_loss, grad_norm, clip;
    const int32_t *load;  /* host [layers, E] */
    const float *bias;    /* host [layers, E] */
} fmi_step_out;

/* Plans, then allocates. The model must be writable and in the expanded form, F32 or BF16. */
fm_status fmi_stepper_new(fm_model *m, const fmi_step_opts *o, fmi_stepper **out, fm_err *err);
void fmi_stepper_free(fmi_stepper *t);

/* Predicted device bytes by purpose (the same plan, nothing allocated). */
typedef struct fmi_step_plan {
    size_t activations, gradients, optimizer, batch;
} fmi_step_plan;
fm_status fmi_stepper_plan(const fm_config *c, fm_dtype dt, const fmi_step_opts *o, fmi_step_plan *out,
                           fm_err *err);

/* Packs in->rows rows of the feed and does one step. FM_E_NUMERIC when a loss or a gradient is not
 * finite: nothing was changed then, and the message names the first bad tensor. */
fm_status fmi_step_run(fmi_stepper *t, fmi_feed *feed, const fmi_settings *s, const fmi_step_in *in,
                       fmi_step_out *out, fm_err *err);

/* Forward and backward of `rows` rows without an update: for measuring speed. Weights, moments and
 * router bias stay; the feed is the caller's to rewind. */
fm_status fmi_step_probe(fmi_stepper *t, fmi_feed *feed, const fmi_settings *s, int64_t rows, fm_err *err);

/* Sum of the loss in nats over every next token of a `once` feed, by the average of the weights where
 * one is kept. */
typedef struct fmi_eval_out {
    double nats;
    int64_t n_target;
} fmi_eval_out;
fm_status fmi_step_eval(fmi_stepper *t, fmi_feed *feed, fmi_eval_out *out, fm_err *err);

#endif
