/* Small dense problems of the fits: normal equations of at most SMALL_MAX unknowns, straight lines,
 * order statistics. Everything is double; nothing is allocated. */
#ifndef FM_SCALE_SMALL_H
#define FM_SCALE_SMALL_H

#include "base/base.h"
#include "fathom/scale.h"

enum { FMI_SMALL_MAX = 5 };

/* Symmetric positive definite a [n, n] (upper part read, destroyed) x = b, by Cholesky. False when
 * it is singular to working precision. */
bool fmi_small_solve(int n, double a[][FMI_SMALL_MAX], const double *b, double *x);

/* Minimises x'ax/2 - b'x over x >= 0 by trying every support; n <= 4. False: no support solves. */
bool fmi_small_solve_positive(int n, double a[][FMI_SMALL_MAX], const double *b, double *x);

/* y = c[0] + c[1] x + .. (degree <= 2) by least squares, weights w or NULL. False: singular. */
bool fmi_fit_poly(int n, const double *x, const double *y, const double *w, int degree, double *c);

void fmi_sort(double *v, int n);
double fmi_quantile(const double *sorted, int n, double q); /* linear between order statistics */
double fmi_median_abs(double *scratch, const double *v, int n);

/* 95% interval of a value from its bootstrap draws (sorted here; non-finite ones left out). */
fm_scale_value fmi_interval(double value, double *draws, int n);

#endif
