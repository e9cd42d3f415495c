/* Optimizer: master weights and moments in the gradients' flat layout, all on the device.
 *
 * AdamW takes every parameter with a gradient or, with Muon, the embedding, head, router and norms.
 * Muon takes each matrix by itself (every expert; gate and up apart): Nesterov momentum, three
 * or four Newton-Schulz steps in the activation dtype (muon.c), update scaled by 0.2 sqrt(max(rows, cols)) to
 * AdamW's size (Moonlight, section 2). Matrices of one shape go through the steps together. SOAP
 * (Vyas et al. 2024) takes the same matrices. AdEMAMix takes every parameter; grokfast adds a
 * filter of the gradients before any of them, ema an average of the weights after. The clip factor
 * and the non-finite flag stay on the device. */
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

typedef struct fmi_muon_matrix {
    int param;
    int64_t rows, cols, offset;
} fmi_muon_matrix;

/* What an optimizer keeps beside AdamW's two moments. */
typedef struct fmi_optim_parts {
    bool muon, ademamix, grokfast, ema;
    int64_t soap;             /* longest side with a basis; 0: not SOAP */
} fmi_optim_parts;

/* The flat arrays, each [g->n] F on the device; those that a run does not use are NULL. */
enum { FMI_MASTER, FMI_M, FMI_V, FMI_SLOW, FMI_FILTER, FMI_EMA, FMI_FLATS };

typedef struct fmi_optim {
    fm_model *m;
    const fm_grads *g;
    void *flat[FMI_FLATS];    /* V of a Muon matrix is its scratch */
    fm_segment *segs;         /* device [n_segs] */
    int *param_of;            /* host [n_segs] */
    fm_segment *host_segs;    /* host [n_segs], weight unresolved */
    double *sumsq;            /* device [n_segs] */
    int n_segs;
    fmi_optim_parts parts;
    fmi_muon_group *groups;   /* SOAP's */
    int n_groups;
    fmi_muon_matrix *matrices; /* Muon's, those of one shape together */
    fm_segment *matrix_segs;  /* device [n_params], in that order */
    int n_matrices;
    /* Muon scratch, for as many matrices as FMI_MUON_ELEMENTS hold: y, p [r, c] F; x [r, c] A, y
     * rounded; a, a2 [r, r] F; ab [r, r] A */
    void *x, *y, *p, *a, *a2, *ab, *norm2;
    /* SOAP: y, p, t for the matrices of a batch, a for their square factors; soap: factors and bases of
     * all, those of a parameter at soap_at (-1: none) */
    void *t, *order, *soap;
    int64_t *soap_at;         /* host [n_params] */
} fmi_optim;

/* Masters start as the model's weights. */
fm_status fmi_optim_new(fm_model *m, const fm_grads *g, fmi_optim_parts parts, fmi_optim **out,
                        fm_err *err);
void fmi_optim_free(fmi_optim *o);
/* Bytes new will take on the device. n_grad: elements of the gradients. */
size_t fmi_optim_bytes(const fm_layout *lay, int64_t n_grad, fm_dtype dt, fmi_optim_parts parts);

/* Gradient norm, clip factor and flag into `state`; loss [n_loss] F is checked too. With grokfast the
 * gradients are filtered first, and the norm is that of what came out. step counts from 1. */
void fmi_optim_norm(fmi_optim *o, const fmi_settings *s, int64_t step, const void *loss, int n_loss,
                    fm_step_state *state);
/* One update; the step ends at `progress` of the run. Touches nothing when state->bad. */
void fmi_optim_run(fmi_optim *o, const fmi_settings *s, int64_t step, double progress, double lr,
                   const fm_step_state *state);
/* The model's weights = the average (where one is kept) or the masters again. */
void fmi_optim_show(fmi_optim *o, bool average);

#endif
