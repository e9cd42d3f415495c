/* Muon's half of the optimizer: grouping of matrices and the Newton-Schulz iteration. */
#ifndef FM_TRAIN_MUON_H
#define FM_TRAIN_MUON_H

#include "train/optim.h"

/* Finds the groups and allocates the scratch. */
fm_status fmi_muon_plan(fmi_optim *o, fm_err *err);
void fmi_muon_run(fmi_optim *o, const fmi_settings *s, double lr, const fm_step_state *state);

#endif
