/* After a step refused itself: which tensor went first. Slow, and only then. */
#ifndef FM_TRAIN_DIAGNOSE_H
#define FM_TRAIN_DIAGNOSE_H

#include "train/stepper.h"

/* Always returns FM_E_NUMERIC (or what reading the device returned), with the message. bad as in
 * fm_step_state. Looks, in this order, at the weights, at the activations of the last micro-batch in
 * the order they are computed, and at the gradients. */
fm_status fmi_diagnose(fmi_stepper *t, int64_t step, int32_t bad, fm_err *err);

#endif
