/* The matrices' half of the optimizer: Muon, and SOAP with its groups. */
#ifndef FM_TRAIN_MUON_H
#define FM_TRAIN_MUON_H

#include "train/optim.h"

fm_status fmi_muon_groups(fmi_optim *o, fm_err *err); /* SOAP's groups */
fm_status fmi_muon_plan(fmi_optim *o, fm_err *err);   /* lists the matrices, allocates the scratch */
void fmi_muon_run(fmi_optim *o, const fmi_settings *s, double lr, const fm_step_state *state);
/* Matrices of a group that go through the products together. */
int fmi_muon_batch(const fmi_muon_group *g);

fm_status fmi_soap_plan(fmi_optim *o, fm_err *err);
void fmi_soap_run(fmi_optim *o, const fmi_settings *s, int64_t step, double lr, const fm_step_state *state);
/* Factor (k even) or basis (odd) of the left (0, 1) or right (2, 3) side of a parameter, [n, n] F on the
 * device; NULL where it has none. */
void *fmi_soap_state(const fmi_optim *o, int param, int k, int64_t *n);

/* Newton-Schulz on matrices whose smaller side is `side`: a, b, c of each step, by which singular values from
 * 0.01 (a side of up to 128; 0.003 above) to 1 become about 1. Returns the number of steps. */
int fmi_muon_steps(int64_t side, const double (**out)[3]);

#endif
