/* Optimizer: master weights and moments in the gradients' flat layout, all on the device.
 *
 * AdamW takes every parameter with a gradient or, with Muon, the embedding, head, router and norms.
 * Muon takes each matrix by itself (every expert; gate and up apart): Nesterov momentum, five
 * Newton-Schulz steps in the activation dtype, update scaled by 0.2 sqrt(max(rows, cols)) to AdamW's
 * size (Moonlight, section 2). Matrices of one shape that lie at one stride in the flat arrays (the
 * experts of a layer) go through the products together. The clip factor and the non-finite flag
 * stay on the device. */
#ifndef FM_TRAIN_OPTIM_H
#define FM_TRAIN_OPTIM_H

#include "model/forward.h"
#include "train/settings.h"

/* `count` matrices of rows x cols at elements offset, offset + stride, ..; their parameters are
 * first_param, first_param + param_stride, .. */
typedef struct fmi_muon_group {
    int first_param, param_stride, count;
    int64_t rows, cols, offset, stride;
} fmi_muon_group;

typedef struct fmi_optim {
    fm_model *m;
    const fm_grads *g;
    void *master, *mom, *var; /* device, flat [g->n] F; var of a Muon matrix is its scratch */
    fm_segment *segs;         /* device [n_segs] */
    int *param_of;            /* host [n_segs] */
    fm_segment *host_segs;    /* host [n_segs], weight unresolved */
    double *sumsq;            /* device [n_segs] */
    int n_segs;
    bool muon;
    fmi_muon_group *groups;
    int n_groups;
    int batch_max;            /* matrices at a time in the scratch */
    /* Muon scratch, for batch_max matrices: y, p [r, c] F; x [r, c] A, y rounded; a, a2
     * [r, r] F; ab [r, r] A */
    void *x, *y, *p, *a, *a2, *ab, *norm2;
} fmi_optim;

/* Masters start as the model's weights. */
fm_status fmi_optim_new(fm_model *m, const fm_grads *g, bool muon, fmi_optim **out, fm_err *err);
void fmi_optim_free(fmi_optim *o);
/* Bytes new will take on the device. n_grad: elements of the gradients. */
size_t fmi_optim_bytes(const fm_layout *lay, int64_t n_grad, fm_dtype dt, bool muon);

/* Gradient norm, clip factor and flag into `state`; loss [n_loss] F is checked too. */
void fmi_optim_norm(fmi_optim *o, const void *loss, int n_loss, double clip, fm_step_state *state);
/* One update; step counts from 1. Touches nothing when state->bad. */
void fmi_optim_run(fmi_optim *o, const fmi_settings *s, int64_t step, double lr,
                   const fm_step_state *state);

#endif
