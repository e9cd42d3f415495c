/* Expert balance of a step, from the loads the device counted: per routed layer MaxVio (largest load
 * over the mean, minus 1), dead experts, entropy of the load over its maximum, bias range; and MaxVio
 * over the loads of the last 50 steps together. Tokens are never dropped. Host arithmetic only. */
#ifndef FM_TRAIN_BALANCE_H
#define FM_TRAIN_BALANCE_H

#include "base/base.h"

#define FMI_BALANCE_WINDOW 50

typedef struct fmi_layer_balance {
    int layer;
    double max_vio, max_vio_window, entropy;
    int dead;             /* experts without a token this step */
    float bias_min, bias_max;
} fmi_layer_balance;

/* The last steps' loads: a ring, saved in checkpoints. */
typedef struct fmi_load_window {
    int layers, experts;
    int64_t steps;        /* pushed so far                                         */
    int32_t *load;        /* [FMI_BALANCE_WINDOW, layers, experts], step s at s % window */
} fmi_load_window;

fm_status fmi_load_window_init(fmi_load_window *w, int layers, int experts, fm_err *err);
void fmi_load_window_deinit(fmi_load_window *w);
void fmi_load_window_push(fmi_load_window *w, const int32_t *load); /* [layers, experts] */

/* From one layer's load [E] (and its window); 0 everywhere when no token was routed. */
void fmi_balance_layer(const fmi_load_window *w, int layer, const int32_t *load, const float *bias,
                       fmi_layer_balance *out);

#endif
