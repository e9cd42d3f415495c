/* What the demo remembers while it runs, and its printing. */
#ifndef FM_CLI_DEMO_H
#define FM_CLI_DEMO_H

#include <stdio.h>
#include <time.h>

#include "cli.h"
#include "fathom/session.h"
#include "fathom/trainer.h"

#define DEMO_POINTS 600

typedef struct demo {
    cli_common c;
    cli_live live;
    fm_exec *x;
    double x_tokens[DEMO_POINTS], y_loss[DEMO_POINTS]; /* thinned by half whenever they are full */
    int n_points, every, since;
    double sum_tokens, sum_loss;
    fm_train_progress last;
    char run[4096], checkpoint[4096];
    fm_session_stats stats;
    time_t started;
} demo;

void demo_curve_add(demo *d, const fm_train_progress *p);
/* Text wrapped at the terminal's width; control characters other than newlines are dropped. */
void demo_print_text(const char *s, size_t n);
/* Loss curve, balance per layer, cache bytes, drafts, where the checkpoint is, what to try next. */
void demo_closing_page(const demo *d);

#endif
