/* Planted studies for the tests of the fits: a known surface, budgets by sizes, noise with a key.
 */
#ifndef SCALE_UTIL_H
#define SCALE_UTIL_H

#include <math.h>

#include "base/rng.h"
#include "fathom/scale.h"

typedef struct planted {
    double E, A, alpha, B, beta, gamma;
} planted;

typedef struct plan {
    double first, factor; /* budgets: first, first * factor, .. */
    int n_budgets, n_sizes;
    double span;  /* largest size over smallest in a budget */
    double shift; /* center of the sizes over the best one  */
} plan;

static inline double planted_loss(const planted *p, double n, double d, double s)
{
    return p->E + p->A * pow(n, -p->alpha) * pow(s, -p->gamma) + p->B * pow(d, -p->beta);
}

/* Hoffmann et al. 2022, eq. 4. */
static inline double planted_size(const planted *p, double c)
{
    double sum = p->alpha + p->beta;
    return pow(p->alpha * p->A / (p->beta * p->B), 1 / sum) * pow(c / 6, p->beta / sum);
}

static inline fm_scale_points *planted_points(const planted *p, const plan *q, double sigma,
                                              uint64_t seed)
{
    fm_scale_points *out = NULL;
    if (fm_scale_points_new(&out, NULL)) return NULL;
    for (int b = 0; b < q->n_budgets; b++)
        for (int i = 0; i < q->n_sizes; i++) {
            double c = q->first * pow(q->factor, b);
            double n = planted_size(p, c) * q->shift * pow(q->span, i / (q->n_sizes - 1.0) - 0.5);
            uint64_t at = (uint64_t)(b * q->n_sizes + i);
            double noise = sigma > 0 ? sigma * fmi_rng_normal(seed, 0, at, FMI_RNG_TEST) : 0;
            fm_scale_point v = {.params = n, .flops = c, .line = (int)at + 2};
            v.loss = planted_loss(p, n, c / 6 / n, 1) * exp(noise);
            if (fm_scale_points_add(out, &v, "planted", NULL)) return NULL;
        }
    return out;
}

#endif
