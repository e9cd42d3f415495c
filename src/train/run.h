/* struct fm_trainer: a run in progress, and the steps of opening one. run_open.c makes or finds the
 * directory, run_loop.c trains, run_save.c writes checkpoints. */
#ifndef FM_TRAIN_RUN_H
#define FM_TRAIN_RUN_H

#include <signal.h>

#include "fathom/data.h"
#include "fathom/trainer.h"
#include "train/horizon.h"
#include "train/metrics.h"
#include "train/state.h"

/* What the user asked for, before any of it is done. */
typedef struct fmi_request {
    fmi_settings s;            /* autos unresolved                                     */
    fm_config cfg;
    fmi_ini *given;            /* model.* overrides and data.text_N, in order          */
} fmi_request;

struct fm_trainer {
    fm_exec *x;
    fm_model *m;
    fmi_request req;
    fmi_settings s;            /* resolved */
    char *dir;
    int lock;                  /* descriptor of RUN/lock: one process a run */
    char *checkpoint;          /* newest, NULL before the first */
    fm_tokenizer *tok;
    char *tok_dir;             /* where its files are */
    fm_data *data;
    fmi_feed feed, val_feed;   /* val_feed.row NULL: nothing held out */
    int64_t val_docs, val_bytes;         /* of the usual evaluation */
    int64_t val_docs_all, val_bytes_all; /* of the last one         */
    fmi_stepper *st;
    fmi_metrics metrics;
    int samples;               /* descriptor of samples.txt */
    fmi_load_window window;
    fmi_layer_balance *layers; /* [n_routed] */
    int n_routed;
    fmi_horizons ends;
    fmi_run_state r;
    double flops_per_token, bits_per_nat; /* training loss x bits_per_nat = bits per byte */
    double last_save;          /* clock */
    int64_t saved_step;        /* of the newest checkpoint; 0 before the first */
    double since, seconds0;    /* clock at the start of this session's loop; seconds before it */
    int64_t tokens0;           /* tokens before it */
    fm_train_progress p;
    volatile sig_atomic_t stop, save;
};

/* Settings and configuration from options; err names recipe lines. */
fm_status fmi_request_make(const fm_train_opts *o, fmi_request *out, fm_err *err);
/* The same from RUN/recipe.ini; resolved gets its settings as they stand there. */
fm_status fmi_request_load(const char *run, fmi_request *out, fmi_settings *resolved, fm_err *err);
void fmi_request_deinit(fmi_request *r);
/* RUN/recipe.ini: settings `s` (resolved or not) plus what was given; notes which keys of req are auto. */
fm_status fmi_request_save(const fmi_request *r, const fmi_settings *s, const char *run, fm_err *err);
/* FM_E_STATE naming the keys in which `asked` differs from the run's `have`. */
fm_status fmi_request_compare(const char *run, const fmi_request *have, const fmi_request *asked,
                              fm_err *err);

/* Tokenizer and shards: made in the run, or found; opens t->tok and t->data. */
fm_status fmi_run_data(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err);
fmi_step_opts fmi_run_step_opts(const fmi_settings *s, const fm_config *c);

/* Checkpoint of the state as it is now: atomic, hashed, then rotation. */
fm_status fmi_run_save(fm_trainer *t, fm_err *err);

/* The first decision on the run's length (measured if the stop is time): resolves t->s, writes recipe.ini
 * and schedule.json. */
fm_status fmi_run_decide(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err);
/* During the run: decides again when time says so. before: training seconds before the last step. */
fm_status fmi_run_decide_again(fm_trainer *t, double before, fm_err *err);
/* Past the old end. */
fm_status fmi_run_extend(fm_trainer *t, double minutes, int64_t tokens, fm_err *err);

/* Files of the run opened at the state's offsets: metrics.jsonl, events, samples.txt. */
fm_status fmi_run_files(fm_trainer *t, bool resumed, fm_err *err);

#endif
