/* The parts of a report: what is read from a run, and a line chart in SVG. */
#ifndef FM_EVAL_REPORT_H
#define FM_EVAL_REPORT_H

#include "fathom/report.h"
#include "fathom/tokenizer.h" /* fm_text */
#include "io/ini.h"

/* One curve: x in tokens. Points that were null in the metrics are left out. */
typedef struct report_curve {
    char label[96];
    double *x, *y;
    int n, cap;
} report_curve;

enum {
    REPORT_LOSS, REPORT_MTP, REPORT_LR, REPORT_SPEED, REPORT_NORM, REPORT_BALANCE, REPORT_VAL,
    REPORT_STEP_CURVES
};
enum { REPORT_VIO, REPORT_ENTROPY, REPORT_BIAS, REPORT_DEAD, REPORT_LAYER_CURVES };
#define REPORT_LAYERS_MAX 128

typedef struct report_run {
    char name[96];                 /* last part of the directory's name */
    report_curve curve[REPORT_STEP_CURVES];
    report_curve layer[REPORT_LAYER_CURVES][REPORT_LAYERS_MAX];
    int n_layers;
    int64_t steps, tokens;
    double seconds;
    fmi_ini *recipe;               /* NULL: none */
    char *samples;                 /* NULL: none */
} report_run;

fm_status fmi_report_load(const char *dir, report_run *out, fm_err *err);
void fmi_report_unload(report_run *r);

typedef struct report_chart {
    const char *title, *unit;
    const report_curve **curves;   /* [n]; empty ones are skipped */
    int n;
    bool log_y;
    bool from_zero;
} report_chart;

/* Appends one <figure>; nothing when no curve has two points. */
fm_status fmi_report_chart(fm_text *page, const report_chart *c, fm_err *err);

fm_status fmi_report_add(fm_text *page, fm_err *err, const char *fmt, ...) FMI_PRINTF(3, 4);
fm_status fmi_report_escaped(fm_text *page, const char *s, fm_err *err);

#endif
