/* Metrics of a run: a line of JSON per step and per evaluation in metrics.jsonl, and the same scalars as
 * TensorBoard events. Lines are built in a fixed buffer: no heap call.
 *
 * A step's line depends on the run alone, except for its last fields: "seconds" (of this
 * step), "elapsed" (of the run) and "tokens_per_second". The file is cut
 * at the offset a checkpoint recorded when a run goes on from it. */
#ifndef FM_TRAIN_METRICS_H
#define FM_TRAIN_METRICS_H

#include "train/balance.h"
#include "train/events.h"

typedef struct fmi_metrics {
    int fd;
    uint64_t offset;      /* bytes written */
    char *path;
    fmi_events events;
    char *line;           /* being built */
    size_t n, cap;
} fmi_metrics;

/* What one step reports. */
typedef struct fmi_step_report {
    int64_t step, tokens, batch_tokens, n_target;
    double loss, mtp_loss, balance_loss, bits_per_byte, lr, grad_norm, gamma, mtp_weight;
    double seconds, elapsed, tokens_per_second;
    const fmi_layer_balance *layers;
    int n_layers;
} fmi_step_report;

/* Opens DIR/metrics.jsonl cut at `offset` and a new event file; resumed_at as in fmi_events_open. */
fm_status fmi_metrics_open(fmi_metrics *m, const char *dir, uint64_t offset, int64_t resumed_at,
                           int n_layers, fm_err *err);
void fmi_metrics_close(fmi_metrics *m);
fm_status fmi_metrics_step(fmi_metrics *m, const fmi_step_report *r, fm_err *err);
fm_status fmi_metrics_eval(fmi_metrics *m, int64_t step, int64_t tokens, double bits_per_byte, double loss,
                           int64_t n_target, fm_err *err);
/* On disk, so that a checkpoint may rely on it. */
fm_status fmi_metrics_sync(fmi_metrics *m, fm_err *err);

#endif
