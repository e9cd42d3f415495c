/* Where a run ends, decided once and written down, so that what a step uses is the same after a kill.
 *
 * RUN/schedule.json holds a list of decisions {step, tokens, steps, seconds}: from that step on, the run is
 * that long. Tokens, FLOPs and steps are decided before the first step. Minutes become tokens by the speed
 * measured before the first step, and again when 5, 10, 20, 40 and 60% of the time are over, all before
 * the learning rate starts to fall; each decision is on disk before a step uses it. Going on past the
 * old end adds a decision. */
#ifndef FM_TRAIN_HORIZON_H
#define FM_TRAIN_HORIZON_H

#include "train/schedule.h"

#define FMI_DECISIONS_MAX 256

typedef struct fmi_decision {
    int64_t step;      /* first step (counted from 0) it holds for */
    fmi_horizon h;
    double seconds;    /* training time in all when the stop is time, else 0 */
} fmi_decision;

typedef struct fmi_horizons {
    int n;
    fmi_decision d[FMI_DECISIONS_MAX];
} fmi_horizons;

/* A missing file leaves n 0. */
fm_status fmi_horizons_read(const char *run, fmi_horizons *h, fm_err *err);
/* Appends a decision (replacing one of the same step) and writes the file, atomically. */
fm_status fmi_horizons_add(const char *run, fmi_horizons *h, const fmi_decision *d, fm_err *err);
/* The one that holds for `step`; n must not be 0. */
const fmi_decision *fmi_horizons_at(const fmi_horizons *h, int64_t step);

/* Whether the time share at which to decide again lies in (before, after]; shares of seconds done. */
bool fmi_horizon_due(const fmi_decision *d, double before, double after);

#endif
