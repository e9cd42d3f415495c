/* The surface L = E + A / (N^alpha S^gamma) + B / D^beta, found by variable projection. */
#ifndef FM_SCALE_SURFACE_H
#define FM_SCALE_SURFACE_H

#include "points.h"

/* Problem and workspace. Logs are centred: ln_n[i] is ln N minus mean_n, and so on, so that the
 * coefficients stay near one. */
typedef struct fmi_surface {
    int n;
    double *ln_n, *ln_d, *ln_s; /* [n] centred */
    double *ln_loss;            /* [n] */
    double mean_n, mean_d, mean_s;
    double delta; /* of the Huber loss */
    bool with_s;
    double *u, *v, *fit, *trial; /* [n] scratch: the two terms' columns, the fitted loss */
    void *block;
} fmi_surface;

/* Parameters in centred coordinates: lin = {E, A', B'}. */
typedef struct fmi_surface_at {
    double lin[3], alpha, beta, gamma;
    double objective;
} fmi_surface_at;

/* Constants as they are printed; what the draws of the bootstrap keep. */
typedef struct fmi_constants {
    double E, A, alpha, B, beta, gamma;
} fmi_constants;

fm_status fmi_surface_init(fmi_surface *s, int n, const double *ln_n, const double *ln_d,
                           const double *ln_s, const double *ln_loss, double delta, bool with_s,
                           fm_err *err);
void fmi_surface_deinit(fmi_surface *s);

/* The best of a grid of starts, and the same from one start. FM_E_UNSUPPORTED without NLopt,
 * FM_E_NUMERIC when no start converges. */
fm_status fmi_surface_search(fmi_surface *s, fmi_surface_at *best, fm_err *err);
fm_status fmi_surface_refine(fmi_surface *s, const fmi_surface_at *start, fmi_surface_at *out,
                             fm_err *err);

/* Fitted loss of every point into fit[n]. */
void fmi_surface_fitted(fmi_surface *s, const fmi_surface_at *at, double *fit);
fmi_constants fmi_surface_constants(const fmi_surface *s, const fmi_surface_at *at);

#endif
