/* Method 3, the surface: the search, points that no surface reaches taken out, and the bootstrap.
 *
 * Intervals: pairs drawn with replacement inside each budget (among all points where there are no
 * budgets), refitted from the best solution; percentiles. Drawn inside budgets, because a draw that
 * loses a whole budget says nothing about the study made. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fit.h"
#include "small.h"

static int distinct(const double *ln, int n, double gap)
{
    int count = 0;
    for (int i = 0; i < n; i++) {
        bool first = true;
        for (int j = 0; j < i && first; j++) first = fabs(ln[i] - ln[j]) > gap;
        count += first;
    }
    return count;
}

/* What the points must hold for the constants to be determined. Three points to spare: with fewer,
 * most draws of the bootstrap hold no more points than constants, and intervals miss the truth. */
static bool enough(const fmi_cloud *s, bool with_s, char *why)
{
    int constants = with_s ? 6 : 5, need = constants + 3;
    if (s->n < need)
        snprintf(why, FM_SCALE_WHY_MAX,
                 "%d points; %d constants and their intervals need at least %d", s->n, constants,
                 need);
    else if (distinct(s->ln_x, s->n, 1e-3) < 3)
        snprintf(why, FM_SCALE_WHY_MAX, "fewer than three sizes");
    else if (distinct(s->ln_d, s->n, 1e-3) < 3)
        snprintf(why, FM_SCALE_WHY_MAX, "fewer than three token counts");
    else if (s->n_groups == 1 && distinct(s->ln_c, s->n, log(FMI_BUDGET_SPAN)) < 2)
        snprintf(why, FM_SCALE_WHY_MAX,
                 "one budget only; size and tokens need at least two to come apart");
    else if (with_s && distinct(s->ln_s, s->n, 1e-2) < 2)
        snprintf(why, FM_SCALE_WHY_MAX, "one sparsity only; its exponent needs at least two");
    else
        return true;
    return false;
}

typedef struct draws {
    fmi_constants *k;
    int n;
} draws;

static fm_status bootstrap(const fmi_cloud *s, const fm_scale_options *o, const fmi_surface *from,
                           const fmi_surface_at *best, draws *d, fm_err *err)
{
    size_t n = (size_t)s->n;
    double *b = fmi_alloc(n * (4 * sizeof(double) + sizeof(int)));
    if (!b) return FM_FAIL(err, FM_E_NOMEM, "the bootstrap");
    int *pick = (int *)(void *)(b + 4 * n);
    fm_status st = FM_OK;
    d->n = 0;
    for (int round = 0; round < o->n_bootstrap && !st; round++) {
        fmi_resample(s, o->seed, FMI_DRAW_SURFACE, round, pick);
        for (size_t i = 0; i < n; i++) {
            b[i] = s->ln_x[pick[i]];
            b[n + i] = s->ln_d[pick[i]];
            b[2 * n + i] = s->ln_s[pick[i]];
            b[3 * n + i] = s->ln_l[pick[i]];
        }
        fmi_surface q;
        st = fmi_surface_init(&q, s->n, b, b + n, b + 2 * n, b + 3 * n, from->delta, from->with_s,
                              err);
        if (st) break;
        fmi_surface_at start = *best, got; /* the same surface about the draw's own means */
        start.lin[1] *=
            exp(best->alpha * (from->mean_n - q.mean_n) + best->gamma * (from->mean_s - q.mean_s));
        start.lin[2] *= exp(best->beta * (from->mean_d - q.mean_d));
        if (!fmi_surface_refine(&q, &start, &got, NULL) && got.lin[1] > 0 && got.lin[2] > 0)
            d->k[d->n++] = fmi_surface_constants(&q, &got);
        fmi_surface_deinit(&q);
    }
    fmi_free(b);
    return st;
}

static fm_scale_value interval(double at, const draws *d, size_t offset, double *scratch)
{
    for (int i = 0; i < d->n; i++)
        scratch[i] = *(const double *)(const void *)((const char *)&d->k[i] + offset);
    return fmi_interval(at, scratch, d->n);
}

static fm_status intervals(const fmi_cloud *s, const fmi_constants *at, const draws *d,
                           fm_scale_surface *out, fm_err *err)
{
    double *scratch = fmi_alloc((size_t)d->n * sizeof *scratch);
    fmi_lines *lines = fmi_alloc((size_t)d->n * sizeof *lines);
    if (!scratch || !lines) {
        fmi_free(scratch);
        fmi_free(lines);
        return FM_FAIL(err, FM_E_NOMEM, "intervals");
    }
    out->E = interval(at->E, d, offsetof(fmi_constants, E), scratch);
    out->A = interval(at->A, d, offsetof(fmi_constants, A), scratch);
    out->alpha = interval(at->alpha, d, offsetof(fmi_constants, alpha), scratch);
    out->B = interval(at->B, d, offsetof(fmi_constants, B), scratch);
    out->beta = interval(at->beta, d, offsetof(fmi_constants, beta), scratch);
    out->gamma = interval(at->gamma, d, offsetof(fmi_constants, gamma), scratch);
    for (int i = 0; i < d->n; i++) lines[i] = fmi_law_lines(&d->k[i], s);
    fmi_lines l = fmi_law_lines(at, s);
    fmi_frontier(&l, lines, sizeof *lines, d->n, scratch, &out->frontier);
    fmi_free(scratch);
    fmi_free(lines);
    return FM_OK;
}

static void residuals(const fmi_cloud *s, const double *fitted, fm_scale_residuals *r)
{
    *r = (fm_scale_residuals){.n = s->n, .worst = -1};
    for (int i = 0; i < s->n; i++) {
        double e = s->ln_l[i] - log(fitted[i]);
        r->rms += e * e / s->n;
        if (fabs(e) > r->max_abs || r->worst < 0) {
            r->max_abs = fabs(e);
            r->worst = i;
        }
    }
    r->rms = sqrt(r->rms);
}

fm_status fmi_fit_surface(fmi_view *v, const fm_scale_options *o, fm_scale_surface *out,
                          fm_err *err)
{
    const fmi_cloud *s = &v->cloud;
    fmi_surface q;
    fmi_surface_at best;
    fm_err why = {0};
    memset(out, 0, sizeof *out);
    if (!enough(s, o->sparsity, out->why)) return FM_OK;
    fm_status st = fmi_surface_init(&q, s->n, s->ln_x, s->ln_d, s->ln_s, s->ln_l, o->huber_delta,
                                    o->sparsity, err);
    if (st) return st;
    st = fmi_surface_search(&q, &best, &why);
    if (st == FM_E_UNSUPPORTED || st == FM_E_NUMERIC) {
        snprintf(out->why, sizeof out->why, "%.200s", why.text);
        fmi_surface_deinit(&q);
        return FM_OK;
    }
    if (!st && !(best.lin[1] > 0 && best.lin[2] > 0)) {
        snprintf(out->why, sizeof out->why, "the points do not show that loss falls with %s",
                 best.lin[1] > 0 ? "tokens" : "size");
        fmi_surface_deinit(&q);
        return FM_OK;
    }
    draws d = {fmi_alloc((size_t)o->n_bootstrap * sizeof *d.k), 0};
    v->draws = d.k;
    v->fitted = fmi_alloc((size_t)s->n * sizeof *v->fitted);
    if (!st && (!v->draws || !v->fitted)) st = FM_FAIL(err, FM_E_NOMEM, "the bootstrap");
    if (!st) {
        fmi_surface_fitted(&q, &best, v->fitted);
        v->at = fmi_surface_constants(&q, &best);
        st = bootstrap(s, o, &q, &best, &d, err);
        v->n_draws = d.n;
    }
    if (!st && d.n < o->n_bootstrap / 2) {
        snprintf(
            out->why, sizeof out->why,
            "only %d of %d bootstrap draws give a surface: too few points, or too little spread",
            d.n, o->n_bootstrap);
        fmi_surface_deinit(&q);
        return FM_OK;
    }
    if (!st) st = intervals(s, &v->at, &d, out, err);
    if (!st) {
        residuals(s, v->fitted, &out->residuals);
        out->objective = best.objective;
        out->huber_delta = o->huber_delta;
        out->with_sparsity = o->sparsity;
        out->sparsity = exp(s->ln_s_mean);
        out->size_power = s->power;
        out->size_factor = s->factor;
        out->done = true;
    }
    fmi_surface_deinit(&q);
    return st;
}
