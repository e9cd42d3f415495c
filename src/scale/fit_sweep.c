/* Sweeps of batch and learning rate at fixed size and tokens: the best of each, and power laws.
 *
 * The optimum of a group is the mean, in logs, over its near-optimal runs, those within 0.25% of
 * the lowest loss (DeepSeek LLM, section 3.1): a valley this flat has no sharp minimum, and one
 * run's noise moves the lowest. Intervals: groups redrawn, and runs inside them. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fit.h"
#include "small.h"

#define NEAR_OPTIMAL 1.0025
#define RUNS_MIN 5 /* settings in a group for it to be a sweep */

typedef struct group {
    int first, n; /* runs in the sorted order */
    double ln_n, ln_all, ln_d, ln_c;
} group;

typedef struct sweep {
    const fm_scale_point *p;
    int *order;
    group *groups;
    int n;
} sweep;

/* qsort has no argument; set and used in one call. */
static _Thread_local const fm_scale_point *sorting;

static int by_place(const void *a, const void *b)
{
    const fm_scale_point *x = &sorting[*(const int *)a], *y = &sorting[*(const int *)b];
    const double u[4] = {x->params, x->m, x->params_total, x->tokens};
    const double w[4] = {y->params, y->m, y->params_total, y->tokens};
    for (int i = 0; i < 4; i++)
        if (u[i] != w[i]) return u[i] < w[i] ? -1 : 1;
    return *(const int *)a - *(const int *)b;
}

static bool same_place(const fm_scale_point *x, const fm_scale_point *y)
{
    return x->params == y->params && x->m == y->m && x->params_total == y->params_total &&
           x->tokens == y->tokens;
}

/* Different settings among the runs, counted no further than RUNS_MIN. */
static bool is_sweep(const sweep *w, const group *g)
{
    int n = 0;
    for (int i = 0; i < g->n && n < RUNS_MIN; i++) {
        const fm_scale_point *q = &w->p[w->order[g->first + i]];
        bool fresh = q->lr > 0 || q->batch_tokens > 0;
        for (int j = 0; j < i && fresh; j++) {
            const fm_scale_point *e = &w->p[w->order[g->first + j]];
            fresh =
                q->lr != e->lr || fabs(q->batch_tokens - e->batch_tokens) > 0.01 * q->batch_tokens;
        }
        n += fresh;
    }
    return n >= RUNS_MIN;
}

static void find_groups(sweep *w, int n_points)
{
    for (int i = 0; i < n_points; i++) w->order[i] = i;
    sorting = w->p;
    qsort(w->order, (size_t)n_points, sizeof *w->order, by_place);
    for (int a = 0, b; a < n_points; a = b) {
        const fm_scale_point *q = &w->p[w->order[a]];
        for (b = a + 1; b < n_points && same_place(q, &w->p[w->order[b]]);) b++;
        double size = q->params > 0 ? q->params : q->m;
        double all = q->params_total > 0 ? q->params_total : size;
        group g = {a, b - a, log(size), log(all), log(q->tokens), log(q->flops)};
        if (is_sweep(w, &g)) w->groups[w->n++] = g;
    }
}

/* Mean ln lr and ln batch of a group's near-optimal runs; round < 0: the runs as they are. NaN
 * where a run does not say. */
static void optimum(const sweep *w, const group *g, uint64_t seed, int round, int salt, double *out)
{
    double lowest = INFINITY, sum[2] = {0, 0};
    int n = 0;
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < g->n; i++) {
            int k = round < 0 ? i : fmi_draw(seed, FMI_DRAW_SWEEP, round, salt + i, g->n);
            const fm_scale_point *q = &w->p[w->order[g->first + k]];
            if (way == 0) {
                lowest = fmin(lowest, q->loss);
            } else if (q->loss <= lowest * NEAR_OPTIMAL) {
                sum[0] += q->lr > 0 ? log(q->lr) : NAN;
                sum[1] += q->batch_tokens > 0 ? log(q->batch_tokens) : NAN;
                n++;
            }
        }
    out[0] = sum[0] / n;
    out[1] = sum[1] / n;
}

/* y = c0 + c1 x1 + c2 x2 in logs. */
static bool plane(int n, const double *y, const double *const *x, int n_terms, double *c)
{
    double a[FMI_SMALL_MAX][FMI_SMALL_MAX] = {{0}}, b[FMI_SMALL_MAX] = {0};
    for (int i = 0; i < n; i++) {
        double row[3] = {1, x[0][i], n_terms > 1 ? x[1][i] : 0};
        for (int j = 0; j <= n_terms; j++) {
            b[j] += row[j] * y[i];
            for (int k = j; k <= n_terms; k++) a[j][k] += row[j] * row[k];
        }
    }
    return isfinite(b[0]) && fmi_small_solve(n_terms + 1, a, b, c);
}

typedef struct law {
    const char *terms; /* "ND" */
    int y;             /* 0 lr, 1 batch */
    fm_scale_power *out;
} law;

/* One law on groups pick[n], whose optima are in y. */
static bool fit_law(const sweep *w, const law *l, const int *pick, const double *y, double *work,
                    double *c)
{
    double *v = work, *x1 = work + w->n, *x2 = work + 2 * w->n;
    const double *x[2] = {x1, x2};
    int n_terms = (int)strlen(l->terms);
    for (int i = 0; i < w->n; i++) {
        const group *g = &w->groups[pick[i]];
        v[i] = y[2 * i + l->y];
        for (int k = 0; k < n_terms; k++)
            work[(k + 1) * w->n + i] = l->terms[k] == 'N'   ? g->ln_n
                                       : l->terms[k] == 'D' ? g->ln_d
                                                            : g->ln_c;
    }
    return plane(w->n, v, x, n_terms, c);
}

/* The published law of the same form, at a group. */
static double published(const law *l, const group *g)
{
    double c = exp(g->ln_c), d = exp(g->ln_d);
    if (*l->terms == 'C') return l->y ? fm_scale_batch_deepseek(c) : fm_scale_lr_deepseek(c);
    return l->y ? fm_scale_batch_step_law(d) : fm_scale_lr_step_law(exp(g->ln_all), d);
}

static void compare(const sweep *w, const law *l, const double *y)
{
    double sum = 0, square = 0;
    for (int i = 0; i < w->n; i++) {
        double r = y[2 * i + l->y] - log(published(l, &w->groups[i]));
        sum += r / w->n;
        square += r * r / w->n;
    }
    l->out->ratio = exp(sum);
    l->out->ratio_rms = sqrt(fmax(square - sum * sum, 0));
}

static void fit_one(const sweep *w, const fm_scale_options *o, const law *l, const double *y,
                    const double *draws, const int *picks, double *work, int *whole)
{
    fm_scale_power *out = l->out;
    int n_terms = (int)strlen(l->terms), n = w->n, kept = 0;
    double c[3], *scratch = work + 3 * n;
    for (int i = 0; i < n; i++) whole[i] = i;
    out->n_terms = n_terms;
    out->n = n;
    for (int k = 0; k < n_terms; k++) out->term[k][0] = l->terms[k];
    if (n < n_terms + 2) {
        snprintf(out->why, sizeof out->why, "%d sweeps; %d constants need at least %d", n,
                 n_terms + 1, n_terms + 2);
        return;
    }
    if (!fit_law(w, l, whole, y, work, c)) {
        snprintf(out->why, sizeof out->why, "the sweeps do not vary %s, or a run lacks %s",
                 n_terms > 1 ? "size and tokens apart" : "compute",
                 l->y ? "its batch" : "its learning rate");
        return;
    }
    for (int i = 0; i < n; i++) {
        double r = work[i] - c[0] - c[1] * work[n + i] - (n_terms > 1 ? c[2] * work[2 * n + i] : 0);
        out->rms += r * r / n;
    }
    out->rms = sqrt(out->rms);
    compare(w, l, y);
    for (int round = 0; round < o->n_bootstrap; round++) {
        double d[3];
        if (!fit_law(w, l, picks + (size_t)round * (size_t)n, draws + (size_t)round * 2 * (size_t)n,
                     work, d))
            continue;
        for (int k = 0; k <= n_terms; k++)
            scratch[k * o->n_bootstrap + kept] = k ? d[k] : exp(d[0]);
        kept++;
    }
    out->scale = fmi_interval(exp(c[0]), scratch, kept);
    for (int k = 0; k < n_terms; k++)
        out->exponent[k] = fmi_interval(c[k + 1], scratch + (k + 1) * o->n_bootstrap, kept);
    out->done = true;
}

static fm_status fit_laws(const sweep *w, const fm_scale_options *o, fm_scale_sweep *out,
                          double *optima, fm_err *err)
{
    size_t n = (size_t)w->n, rounds = (size_t)o->n_bootstrap;
    double *y = fmi_alloc((2 * n * (rounds + 1) + 3 * n + 3 * rounds) * sizeof *y);
    int *picks = fmi_alloc((n * rounds + n) * sizeof *picks);
    if (!y || !picks) {
        fmi_free(y);
        fmi_free(picks);
        return FM_FAIL(err, FM_E_NOMEM, "sweeps");
    }
    double *draws = y + 2 * n, *work = draws + 2 * n * rounds;
    for (size_t i = 0; i < n; i++) optimum(w, &w->groups[i], 0, -1, 0, y + 2 * i);
    for (size_t r = 0; r < rounds; r++)
        for (size_t i = 0; i < n; i++) {
            int k = fmi_draw(o->seed, FMI_DRAW_SWEEP, (int)r, (int)i, w->n);
            picks[r * n + i] = k;
            optimum(w, &w->groups[k], o->seed, (int)r, 4096 * (1 + (int)i),
                    draws + 2 * (r * n + i));
        }
    const law laws[] = {{"ND", 0, &out->lr_nd},
                        {"C", 0, &out->lr_c},
                        {"D", 1, &out->batch_d},
                        {"C", 1, &out->batch_c}};
    for (int i = 0; i < 4; i++) fit_one(w, o, &laws[i], y, draws, picks, work, picks + n * rounds);
    for (size_t i = 0; i < 2 * n; i++) { /* lr of N and D, batch of D */
        const law *l = &laws[i % 2 ? 2 : 0];
        const group *g = &w->groups[i / 2];
        double *row = optima + 3 * i, *e = &l->out->exponent[0].value;
        row[0] = exp(y[i]);
        row[1] =
            !l->out->done ? NAN
            : i % 2       ? l->out->scale.value * exp(*e * g->ln_d)
                    : l->out->scale.value * exp(*e * g->ln_n + l->out->exponent[1].value * g->ln_d);
        row[2] = published(l, g);
    }
    fmi_free(y);
    fmi_free(picks);
    return FM_OK;
}

/* Keeps the best run of every sweep, and what is in no sweep. */
static void reduce(const sweep *w, fm_scale_points *p)
{
    int n = 0;
    for (int k = 0; k < w->n; k++) {
        const group *g = &w->groups[k];
        int best = w->order[g->first];
        for (int i = 1; i < g->n; i++)
            if (w->p[w->order[g->first + i]].loss < w->p[best].loss) best = w->order[g->first + i];
        for (int i = 0; i < g->n; i++)
            if (w->order[g->first + i] != best) p->p[w->order[g->first + i]].loss = -1;
    }
    for (int i = 0; i < p->n; i++)
        if (p->p[i].loss > 0) p->p[n++] = p->p[i];
    p->n = n;
}

fm_status fmi_fit_sweep(fm_scale_points *p, const fm_scale_options *o, fm_scale_sweep *out,
                        double **optima, fm_err *err)
{
    sweep w = {.p = p->p};
    fm_status st = FM_OK;
    memset(out, 0, sizeof *out);
    w.order = fmi_alloc((size_t)p->n * sizeof *w.order);
    w.groups = fmi_alloc((size_t)p->n * sizeof *w.groups);
    if (!w.order || !w.groups) st = FM_FAIL(err, FM_E_NOMEM, "sweeps");
    if (!st) find_groups(&w, p->n);
    if (!st && w.n >= 2) {
        out->there = true;
        out->n_groups = w.n;
        for (int i = 0; i < w.n; i++) out->n_runs += w.groups[i].n;
        *optima = fmi_alloc((size_t)w.n * 6 * sizeof **optima);
        st = *optima ? fit_laws(&w, o, out, *optima, err) : FM_FAIL(err, FM_E_NOMEM, "sweeps");
        if (!st) reduce(&w, p);
    }
    fmi_free(w.order);
    fmi_free(w.groups);
    return st;
}
