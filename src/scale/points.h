/* The points behind the public handle, and their budgets: groups of nearly equal compute. */
#ifndef FM_SCALE_POINTS_H
#define FM_SCALE_POINTS_H

#include "base/base.h"
#include "fathom/scale.h"

struct fm_scale_points {
    fm_scale_point *p; /* [n] */
    int n, cap;
    const char *arm; /* borrowed; only its rows are read. NULL: all */
};

#define FMI_SCALE_POINTS_MAX 200000

/* A CSV text of n bytes with a zero byte after them, cut up in place; `name` stands for the file.
 */
fm_status fmi_scale_points_parse(fm_scale_points *p, const char *name, char *text, size_t n,
                                 const char *const *columns, int n_columns, fm_err *err);

/* Neighbours in C further apart than this start another budget; a group wider than the second is
 * none (the points are no IsoFLOP study). */
#define FMI_BUDGET_GAP 1.18
#define FMI_BUDGET_SPAN 1.6

/* group[i]: 0.. ascending in C, or -1. Points with a nominal budget go by it, others by the gaps in
 * flops[]. Groups of fewer than n_min points are taken out. Returns the number of groups. */
int fmi_scale_budgets(const fm_scale_points *p, const double *ln_flops, int n_min, int *group,
                      fm_err *err);

#endif
