/* What a run needs besides the model to go on bit for bit, in checkpoints/<step>/trainer/:
 *   optimizer.safetensors   master.<name>, m.<name>, v.<name> F32 (v not for Muon's matrices),
 *                           slow.<name> (AdEMAMix), filter.<name> (Grokfast), ema.<name>;
 *                           left.<name>, left_basis.<name>, right.., right_basis.. (SOAP);
 *                           loads I32 [50, layers, experts]
 *   state.json              format and numerics version, counters, the feed's position, the best so far,
 *                           offsets of metrics.jsonl and samples.txt
 *   hashes.json             XXH64 of every other file of the checkpoint, in hexadecimal
 * docs/formats.md has the fields. A checkpoint appears whole or not at all: it is filled beside and
 * renamed; old ones are renamed away before they are removed. */
#ifndef FM_TRAIN_STATE_H
#define FM_TRAIN_STATE_H

#include "train/stepper.h"

#define FMI_STATE_FORMAT 1
#define FMI_NUMERICS 5
/* The oldest version that trains to the same bits: 5 changed Muon alone, and 4 nothing in f32. */
#define FMI_NUMERICS_TRAINING(dt, muon) ((muon) ? 5 : (dt) == FM_DTYPE_F32 ? 3 : 4)

typedef struct fmi_run_state {
    int64_t step, tokens;       /* done */
    double seconds;             /* of training so far, all sessions */
    fmi_feed_pos feed;
    int64_t best_step;          /* checkpoint with the best held-out figure, -1: none */
    double best_bits;
    int64_t eval_step;          /* last evaluation, -1: none */
    double eval_bits;
    uint64_t metrics_offset, samples_offset;
} fmi_run_state;

/* Into DIR/trainer, DIR being a checkpoint in the making whose other files are there already. */
fm_status fmi_state_write(const char *dir, const fmi_stepper *t, const fmi_load_window *w,
                          const fmi_run_state *r, fm_err *err);
/* Checks format, shapes and the feed's position; masters, moments and weights go to the device. The router
 * bias came with the model. */
fm_status fmi_state_read(const char *dir, fmi_stepper *t, fmi_load_window *w, fmi_run_state *r, fm_err *err);
/* Every file against hashes.json; FM_E_FORMAT names the first that differs. */
fm_status fmi_state_verify(const char *dir, fm_err *err);

/* The newest checkpoint of RUN/checkpoints that verifies; damaged ones are passed over with a warning.
 * path NULL when there is none. */
fm_status fmi_state_latest(const char *run, char **path, int64_t *step, fm_err *err);
/* Removes all but the newest `keep` and the best. */
fm_status fmi_state_rotate(const char *run, int64_t keep, int64_t best, fm_err *err);

#endif
