/* What a step uses, as a pure function of the settings and of how far the run is: learning rate, batch,
 * bias update speed, weight of the MTP loss. And what follows from the model's size and the stop when
 * it is not set.
 *
 * Progress is tokens done over tokens in all (steps over steps when the stop is steps), 0..1.
 *   wsd       linear warm-up, constant, linear decay over the last `decay` of the run to lr_end x peak
 *   cosine    linear warm-up, half a cosine to lr_end x peak
 *   v3        DeepSeek-V3's: constant to 10/14.8 of the tokens, cosine to a tenth until 14.3/14.8, a
 *             tenth until 14.633/14.8, then 0.033; the batch grows from a fifth over 3.2% (469B of 14.8T)
 *   constant  after the warm-up
 * Laws for what is not set, from DeepSeek LLM (arXiv 2401.02954, eq. 1), with C the training FLOPs:
 *   lr = 0.3118 C^-0.1250, at most 0.006;  batch = 0.2920 C^0.3271 tokens, at least 4,096 and eight rows,
 *   at most a 500th of the run (so that short runs still take some hundred steps).
 *   gamma = 8 / steps, from 0.001 (V3's) to 0.02: a bias must be able to cross the spread of the sigmoid
 *   scores within the run. It is 0 from gamma_end on (V3's schedule; other runs keep it to the end) and, when
 *   gamma_decay < 1, falls linearly to a twentieth before that.
 *   alpha = 2 / steps, from 1e-4 (V3's) to 0.005: the sign update balances the median step; what a bursty
 *   text adds to the sum over steps is for the sequence balance loss to even out.
 *   ademamix_beta3 = 1 - 10 / steps, from 0.99 to 0.9999 (the paper's): a memory of a tenth of the run. */
#ifndef FM_TRAIN_SCHEDULE_H
#define FM_TRAIN_SCHEDULE_H

#include "train/settings.h"

/* Tokens in all and, when the stop is steps, steps in all (else 0). */
typedef struct fmi_horizon {
    int64_t tokens, steps;
} fmi_horizon;

double fmi_progress(const fmi_horizon *h, int64_t step, int64_t tokens);
/* Of the step that starts at progress p. first: the step's number from 1 (a warm-up never uses 0). */
double fmi_schedule_lr(const fmi_settings *s, double p, double p_next);
int64_t fmi_schedule_rows(const fmi_settings *s, double p);      /* packed rows of the step */
int64_t fmi_schedule_rows_max(const fmi_settings *s);
double fmi_schedule_gamma(const fmi_settings *s, double p);
double fmi_schedule_mtp(const fmi_settings *s, double p);
/* AdEMAMix's weight and decay of the slow average in the step that ends at p: the weight rises linearly,
 * the decay from beta1 so that its half-life does (Pagliardini et al. 2024, section 3). */
double fmi_schedule_alpha(const fmi_settings *s, double p);
double fmi_schedule_beta3(const fmi_settings *s, double p);

/* Whether event i of n (at progress i/n, i = 1..n) falls into (p0, p1]. */
bool fmi_schedule_crosses(int64_t n, double p0, double p1);

/* Fills what is auto, given training FLOPs of a token and the horizon's tokens (steps when the stop is
 * steps: tokens then follow from the batch and are returned in h). */
void fmi_settings_resolve(fmi_settings *s, double flops_per_token, fmi_horizon *h);

#endif
