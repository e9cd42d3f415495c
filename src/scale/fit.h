/* What the methods share: the study in one counting, the fit's handle, the draws of its bootstrap.
 */
#ifndef FM_SCALE_FIT_H
#define FM_SCALE_FIT_H

#include "points.h"
#include "surface.h"

/* How compute follows size: ln(C/D) = c0 + c1 t + c2 t^2, t = ln size - center; straight beyond the
 * sizes run. */
typedef struct fmi_cost {
    double c[3], center, low, high; /* low, high of t */
} fmi_cost;

/* Points in one counting. C = factor size^power D is the straight line nearest to the cost. */
typedef struct fmi_cloud {
    int n;
    double *ln_x, *ln_d, *ln_c, *ln_s, *ln_l; /* [n] size, tokens, compute, sparsity, loss */
    int *group, n_groups;                     /* [n] budgets; -1: in none */
    int *order;                               /* [n] points by budget     */
    fmi_cost cost;
    double power, factor;
    double ln_c_low, ln_c_high; /* of the points */
    double ln_s_mean;
    void *block;
} fmi_cloud;

/* A straight line in logs, y = scale C^exponent, twice. */
typedef struct fmi_lines {
    double size_exponent, ln_size_scale, token_exponent, ln_token_scale;
} fmi_lines;

/* Loss at the minima against C: ln L = ln_scale + exponent ln C. */
typedef struct fmi_valley_draw {
    fmi_lines lines;
    double loss_exponent, ln_loss_scale;
} fmi_valley_draw;

typedef struct fmi_view {
    fmi_cloud cloud;
    double *fitted;       /* [n] loss on the surface; NULL without one */
    fmi_constants at;     /* the surface                               */
    fmi_constants *draws; /* [n_bootstrap]                             */
    int n_draws;
    fmi_valley_draw valley; /* the minima's lines                        */
    fmi_valley_draw *valley_draws;
    int n_valley_draws;
    double *moved; /* [n] loss at the budget's C; valid where slice >= 0 */
    int *slice;    /* [n] the valley's budget, -1 none; in moved's block */
} fmi_view;

struct fm_scale_fit {
    fm_scale_points points; /* those fitted; the sweep's best where there is one */
    int n_read, n_outliers;
    int outlier[64]; /* their lines */
    fm_scale_options o;
    fm_scale_view view[FM_SCALE_COUNTINGS];
    fmi_view in[FM_SCALE_COUNTINGS];
    fm_scale_counting main;
    fm_scale_sweep sweep;
    double *optima; /* [n_groups, 6]: lr, lr by lr_nd, published; batch, by batch_d, published */
};

/* Random numbers of the bootstrap; purposes beyond base/rng.h's own. */
enum { FMI_RNG_SCALE = 32 };
typedef enum fmi_draw_of {
    FMI_DRAW_ENVELOPE,
    FMI_DRAW_VALLEY,
    FMI_DRAW_SURFACE,
    FMI_DRAW_SWEEP,
    FMI_DRAW_NOISE
} fmi_draw_of;
/* An index below n: draw `round` of a method, its k-th choice. */
int fmi_draw(uint64_t seed, fmi_draw_of of, int round, int k, int n);

/* Study of a counting; `there` false when the points lack it. */
fm_status fmi_cloud_init(fmi_cloud *s, const fm_scale_points *p, fm_scale_counting c, bool *there,
                         fm_err *err);
void fmi_cloud_deinit(fmi_cloud *s);

/* Points drawn with replacement inside each budget, or among all where there are none. from[n]. */
void fmi_resample(const fmi_cloud *s, uint64_t seed, fmi_draw_of of, int round, int *from);

/* Loss of the surface at its best size and tokens for C, and the band of the draws. */
typedef enum fmi_band_of { FMI_BAND_SIZE, FMI_BAND_TOKENS, FMI_BAND_LOSS } fmi_band_of;
fm_scale_value fmi_law_band(const fmi_view *v, fmi_band_of what, double ln_c, double *scratch);

fm_status fmi_fit_envelope(const fmi_cloud *s, const fm_scale_options *o, fm_scale_envelope *out,
                           fm_err *err);
fm_status fmi_fit_surface(fmi_view *v, const fm_scale_options *o, fm_scale_surface *out,
                          fm_err *err);
fm_status fmi_fit_valley(fmi_view *v, const fm_scale_options *o, const fm_scale_surface *surface,
                         fm_scale_valley *out, fm_err *err);
/* Takes points that only differ in lr and batch down to their best, and fits those. */
fm_status fmi_fit_sweep(fm_scale_points *p, const fm_scale_options *o, fm_scale_sweep *out,
                        double **optima, fm_err *err);

/* law.c: a surface's loss; its best size and tokens for C, at sparsity exp(ln_s_mean); the lines
 * through the best of the smallest and the largest C of the points (closed form: any C, where cost
 * is a power of size). */
double fmi_cost_at(const fmi_cost *cost, double ln_x,
                   double *slope); /* ln(C/D); slope may be NULL */
double fmi_law_ln_loss(const fmi_constants *k, double ln_x, double ln_d, double ln_s);
void fmi_law_best(const fmi_constants *k, const fmi_cloud *s, double ln_c, double *ln_x,
                  double *ln_d);
fmi_lines fmi_law_lines(const fmi_constants *k, const fmi_cloud *s);

/* Intervals of the frontier out of draws[n] of lines. scratch[n]. */
void fmi_frontier(const fmi_lines *at, const void *draws, size_t stride, int n, double *scratch,
                  fm_scale_frontier *out);

#endif
