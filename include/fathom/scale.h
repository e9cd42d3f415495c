/* Scaling laws: points (size, tokens, loss) from runs or from a CSV file; three fits with 95%
 * intervals; the best size and token count for a budget; plots and a report.
 *
 * Size is N, parameters, or M, non-embedding FLOPs a token. Compute C is what the points say, 6ND,
 * or MD. A fit is made in every such counting that the points allow, since exponents depend on it:
 *   FM_SCALE_N    size N, C as recorded      FM_SCALE_6N   size N, C = 6ND
 *   FM_SCALE_M    size M, C = MD
 * Methods, docs/scaling.md: envelope (lowest loss at log-spaced C), valley (IsoFLOP parabolas in
 * log size), surface (L = E + A/N^alpha + B/D^beta; Hoffmann et al. 2022, DeepSeek LLM).
 * Handles belong to one thread at a time. */
#ifndef FATHOM_SCALE_H
#define FATHOM_SCALE_H

#include <stdbool.h>
#include <stdint.h>

#include "fathom/status.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* --- points ----------------------------------------------------------------------------------- */

/* One finished run. 0: not known. At least loss, one of params and m, and tokens or flops. */
typedef struct fm_scale_point {
    double params;       /* N; of expert models the active ones                     */
    double params_total; /* all parameters of an expert model; sparsity is their ratio to N */
    double m;            /* M, non-embedding FLOPs a token                          */
    double tokens;       /* D                                                       */
    double flops;        /* C                                                       */
    double loss;         /* nats a token, or bits a byte: the same for all points   */
    double lr;           /* peak learning rate                                      */
    double batch_tokens; /* tokens of an optimizer step                             */
    double budget;       /* nominal C of its IsoFLOP group; 0: found from C         */
    int line;            /* in its file; for messages                               */
} fm_scale_point;

typedef struct fm_scale_points fm_scale_points;
fm_status fm_scale_points_new(fm_scale_points **out, fm_err *err);
void fm_scale_points_free(fm_scale_points *p);
int fm_scale_points_count(const fm_scale_points *p);
const fm_scale_point *fm_scale_points_get(const fm_scale_points *p, int i);

/* Adds one; what can be derived is filled in (D from C, C from M or N and D). `name` stands for the
 * run in messages. FM_E_RANGE: a needed value is missing, not finite or not positive. */
fm_status fm_scale_points_add(fm_scale_points *p, const fm_scale_point *point, const char *name,
                              fm_err *err);

/* Reads a CSV file with a header line. Names are matched without regard to case; other columns are
 * ignored (the names are listed in docs/scaling.md and by `fathom scale fit --help`).
 * `columns`: [n_columns] "field=NAME" pairs that override the match. Errors name file and line:
 * IO, FORMAT (a missing column, text for a number, a short line), RANGE (zero, negative).
 * A file with a column "arm" (a comparison's points.csv) must hold one arm only: FORMAT. */
fm_status fm_scale_points_read(fm_scale_points *p, const char *path, const char *const *columns,
                               int n_columns, fm_err *err);

/* From the next read on only rows of this arm are taken; a file without one is FORMAT. NULL:
 * all. `arm` is borrowed until then. */
void fm_scale_points_arm(fm_scale_points *p, const char *arm);

/* Takes out the n points of highest loss; those above a compute; keeps order. */
void fm_scale_points_drop_highest(fm_scale_points *p, int n);
void fm_scale_points_drop_above(fm_scale_points *p, double flops);

/* --- fits ------------------------------------------------------------------------------------- */

/* A value with its 95% interval. */
typedef struct fm_scale_value {
    double value, low, high;
} fm_scale_value;

typedef enum fm_scale_counting {
    FM_SCALE_N,
    FM_SCALE_6N,
    FM_SCALE_M,
    FM_SCALE_COUNTINGS
} fm_scale_counting;

/* size = size_scale * C^size_exponent, and tokens likewise. */
typedef struct fm_scale_frontier {
    fm_scale_value size_exponent, size_scale, token_exponent, token_scale;
} fm_scale_frontier;

/* ln loss - ln fit. */
typedef struct fm_scale_residuals {
    int n;
    double rms, max_abs;
    int worst; /* index of the point of max_abs; -1 where residuals are not of points */
} fm_scale_residuals;

#define FM_SCALE_WHY_MAX 240

/* `done` false: `why` says what is missing, and nothing else is set. */
typedef struct fm_scale_envelope {
    bool done;
    char why[FM_SCALE_WHY_MAX];
    fm_scale_frontier frontier;
    fm_scale_residuals residuals; /* of ln size about the power law */
    int n;
} fm_scale_envelope;

typedef struct fm_scale_budget {
    double flops;    /* geometric mean of C in the group                        */
    int n;           /* points                                                  */
    bool used;       /* false: the parabola has no minimum inside the sizes run */
    double curve[3]; /* loss = c0 + c1 t + c2 t^2, t = ln(size / center)        */
    double center;
    double size_min, size_max;   /* sizes run                                               */
    fm_scale_value size, tokens; /* at the minimum                                          */
    double loss;                 /* there                                                   */
    double bias;                 /* ln size of a parabola through the fitted surface at the
                                    same sizes, minus the surface's own; 0 without one      */
} fm_scale_budget;

#define FM_SCALE_BUDGETS_MAX 32
typedef struct fm_scale_valley {
    bool done;
    char why[FM_SCALE_WHY_MAX];
    fm_scale_frontier frontier;
    fm_scale_value bias; /* of the size exponent, value only: as in fm_scale_budget */
    bool binned;         /* no budgets in the points: bins of C, moved along the surface */
    int n_budgets;
    fm_scale_budget budgets[FM_SCALE_BUDGETS_MAX];
    fm_scale_residuals residuals; /* of the points about their parabola, ln loss             */
    fm_scale_residuals line;      /* of the minima about the power law, ln size              */
} fm_scale_valley;

/* L = E + A / (N^alpha S^gamma) + B / D^beta, N the view's size; S = params_total / params, gamma 0
 * unless asked for. */
typedef struct fm_scale_surface {
    bool done;
    char why[FM_SCALE_WHY_MAX];
    fm_scale_value E, A, alpha, B, beta, gamma;
    fm_scale_frontier frontier; /* at the points' mean sparsity when gamma is fitted       */
    fm_scale_residuals residuals;
    double objective; /* sum of Huber(ln L - ln fit)                             */
    double huber_delta;
    bool with_sparsity;
    double sparsity;                /* geometric mean                                          */
    double size_power, size_factor; /* about C = size_factor * size^size_power * D    */
} fm_scale_surface;

/* What one counting gives. */
typedef struct fm_scale_view {
    bool there; /* false: the points lack what the counting needs          */
    fm_scale_envelope envelope;
    fm_scale_valley valley;
    fm_scale_surface surface;
} fm_scale_view;

/* y = scale * x1^e1 * x2^e2: an optimum of batch or learning rate. */
typedef struct fm_scale_power {
    bool done;
    char why[FM_SCALE_WHY_MAX];
    int n_terms; /* 1 or 2 */
    fm_scale_value scale, exponent[2];
    char term[2][8]; /* "N", "D", "C" */
    double rms;      /* of ln y */
    int n;
    double ratio, ratio_rms; /* the sweeps' optima over the published law's (N: all parameters):
                                geometric mean, rms of ln about it */
} fm_scale_power;

/* Laws of the best batch and learning rate over (size, tokens) groups of a sweep. */
typedef struct fm_scale_sweep {
    bool there;           /* lr or batch vary at fixed size and tokens */
    int n_groups, n_runs; /* the other fits take the best run of each group */
    fm_scale_power lr_nd, lr_c, batch_d, batch_c;
} fm_scale_sweep;

typedef struct fm_scale_options {
    uint64_t seed;
    int n_bootstrap;    /* 0: 500                                       */
    double huber_delta; /* 0: 1e-3, on ln loss                          */
    bool sparsity;      /* fit gamma                                    */
    bool only_main;     /* only the main counting                       */
    int main;           /* 1 + the counting of tables and plots; 0: the first the points allow */
    bool keep_all;      /* also points further than 12 robust deviations from the surface */
} fm_scale_options;

typedef struct fm_scale_fit fm_scale_fit;

/* Runs every method that the points allow; one that cannot run says why. FM_E_RANGE: none can
 * (fewer than three points). `options` may be NULL. The points are copied. */
fm_status fm_scale_fit_new(const fm_scale_points *p, const fm_scale_options *options,
                           fm_scale_fit **out, fm_err *err);
void fm_scale_fit_free(fm_scale_fit *f);
const fm_scale_view *fm_scale_fit_view(const fm_scale_fit *f, fm_scale_counting c);
fm_scale_counting fm_scale_fit_main(const fm_scale_fit *f); /* of tables, plots, predictions */
bool fm_scale_fit_any(const fm_scale_fit *f);               /* some method gave exponents */
const fm_scale_sweep *fm_scale_fit_sweep(const fm_scale_fit *f);
const char *fm_scale_counting_name(fm_scale_counting c); /* "N", "6N", "M" */

/* --- use -------------------------------------------------------------------------------------- */

typedef struct fm_scale_prediction {
    double flops;
    const char *method; /* "parametric", or "isoflop" when the surface is not there */
    fm_scale_value size, tokens, loss;
    double tokens_per_size;
    double times_beyond; /* budget over the largest C of the points */
} fm_scale_prediction;
/* Best size and tokens for a budget, with the loss expected there. FM_E_STATE: no method that can
 * say it has run. */
fm_status fm_scale_predict(const fm_scale_fit *f, fm_scale_counting c, double flops,
                           fm_scale_prediction *out, fm_err *err);
/* Loss of a run of a given size (N or M, as the counting says) and token count, the scatter of runs
 * in its interval; needs the surface. */
fm_status fm_scale_predict_loss(const fm_scale_fit *f, fm_scale_counting c, double size,
                                double tokens, fm_scale_value *out, fm_err *err);

/* One JSON object with every method; the table for people; the report in Markdown. Append. */
fm_status fm_scale_fit_json(const fm_scale_fit *f, fm_text *out, fm_err *err);
fm_status fm_scale_fit_table(const fm_scale_fit *f, fm_text *out, fm_err *err);
fm_status fm_scale_fit_report(const fm_scale_fit *f, bool with_plots, fm_text *out, fm_err *err);

/* Writes data files and gnuplot scripts into dir (made if it is not there), then runs gnuplot for
 * isoflop, frontier and residuals as .svg and .png, and writes report.md. FM_E_UNSUPPORTED: gnuplot
 * is not installed (everything else has been written). FM_E_IO: it failed; its first line. */
fm_status fm_scale_plot(const fm_scale_fit *f, const char *dir, fm_err *err);

/* Published exponents for comparison: C as the authors count it. */
typedef struct fm_scale_published {
    const char *name, *counting;
    double size_exponent, token_exponent;
} fm_scale_published;
const fm_scale_published *fm_scale_published_list(int *n);

/* Published laws of learning rate and batch (tokens a step): DeepSeek LLM, eq. 1, and Step Law. */
double fm_scale_lr_deepseek(double flops);
double fm_scale_batch_deepseek(double flops);
double fm_scale_lr_step_law(double params, double tokens);
double fm_scale_batch_step_law(double tokens);

#ifdef __cplusplus
}
#endif
#endif
