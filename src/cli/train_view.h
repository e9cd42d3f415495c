/* What `pretrain` and `resume` share: the live line, samples on the way, signals, the closing words. */
#ifndef FM_CLI_TRAIN_VIEW_H
#define FM_CLI_TRAIN_VIEW_H

#include "cli.h"
#include "fathom/trainer.h"

typedef struct train_view {
    const char *command;
    const char *prompt;      /* continued at 1, 10, 50 and 100 percent; NULL or "": no samples */
    double peak;             /* FLOP/s of the machine; 0: unknown */
    bool json;
    cli_live live;
    fm_trainer *t;
} train_view;

fm_train_hooks train_view_hooks(train_view *v);
/* Measures the machine's FLOP/s for the precision (half a second). */
void train_view_measure(train_view *v, const char *isa, int64_t threads, bool bf16);
/* Runs an opened trainer with Ctrl-C, SIGTERM and SIGUSR1 caught; frees it; the exit code. */
int train_view_run(train_view *v, fm_trainer *t);

#endif
