/* Method 2, IsoFLOP valleys: a parabola of loss in ln size per budget, its minimum, and straight
 * lines of the minima's size and tokens against C (Hoffmann et al. 2022, approach 2; DeepSeek LLM,
 * section 3.2).
 *
 * Points whose C is not their budget's are moved there along the surface, L(N, D) -> L(N, D C_b/C),
 * where there is one. The parabola is biased even without noise, since a valley is steeper on one
 * side (arXiv 2603.22339): the bias is measured by fitting the surface itself at the same sizes. A
 * parabola without a minimum among the sizes run is reported and not used. Intervals: residuals,
 * scaled for the three coefficients, redrawn about the parabolas. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fit.h"
#include "small.h"

/* One budget's points, moved to its C. */
typedef struct slice {
    int n;
    double *t, *loss, *fit; /* [n] ln(size / center), loss, the parabola */
    double ln_c, center;    /* center: ln size */
    double low, high;       /* of t */
} slice;

typedef struct valley {
    const fmi_cloud *s;
    slice slice[FM_SCALE_BUDGETS_MAX];
    int n;
    bool used[FM_SCALE_BUDGETS_MAX];
    double *residual; /* relative, scaled, of the slices used */
    int n_residuals;
    double *block;
} valley;

static double token_line(const fmi_cloud *s, double ln_c, double ln_x)
{
    return ln_c - fmi_cost_at(&s->cost, ln_x, NULL);
}

/* Budgets of a cloud without gaps, where a surface can move points: bins in ln C, of equal width.
 */
static int bins(const fmi_cloud *s, int *group)
{
    double low = INFINITY, high = -INFINITY;
    int count[FM_SCALE_BUDGETS_MAX] = {0}, name[FM_SCALE_BUDGETS_MAX], n = 0;
    for (int i = 0; i < s->n; i++) low = fmin(low, s->ln_c[i]), high = fmax(high, s->ln_c[i]);
    int k = (int)fmin(fmax((high - low) / log(2.0), 2), fmin(s->n / 8.0, 16));
    if (k < 2) return 0;
    for (int i = 0; i < s->n; i++) {
        group[i] = (int)fmin((s->ln_c[i] - low) / (high - low) * k, k - 1);
        count[group[i]]++;
    }
    for (int g = 0; g < k; g++) name[g] = count[g] >= 6 ? n++ : -1;
    for (int i = 0; i < s->n; i++) group[i] = name[group[i]];
    return n;
}

static void take(valley *v, const fmi_constants *surface, const int *group, int g, double *at,
                 double *moved)
{
    const fmi_cloud *s = v->s;
    slice *c = &v->slice[g];
    *c = (slice){.low = INFINITY, .high = -INFINITY};
    for (int i = 0; i < s->n; i++)
        if (group[i] == g) {
            c->n++;
            c->ln_c += s->ln_c[i];
            c->center += s->ln_x[i];
        }
    c->ln_c /= c->n;
    c->center /= c->n;
    c->t = at;
    c->loss = at + c->n;
    c->fit = at + 2 * c->n;
    for (int i = 0, k = 0; i < s->n; i++) {
        if (group[i] != g) continue;
        double move = 0, x = s->ln_x[i], d = s->ln_d[i], z = s->ln_s[i];
        if (surface)
            move = fmi_law_ln_loss(surface, x, d + c->ln_c - s->ln_c[i], z) -
                   fmi_law_ln_loss(surface, x, d, z);
        c->t[k] = x - c->center;
        c->loss[k] = moved[i] = exp(s->ln_l[i] + move);
        c->low = fmin(c->low, c->t[k]);
        c->high = fmax(c->high, c->t[k]);
        k++;
    }
}

static bool minimum(const slice *c, const double *loss, double *curve, double *t, double *at)
{
    if (!fmi_fit_poly(c->n, c->t, loss, NULL, 2, curve) || !(curve[2] > 0)) return false;
    *t = -curve[1] / (2 * curve[2]);
    *at = curve[0] + curve[1] * *t / 2;
    return *at > 0;
}

/* Lines through minima at (ln_c, ln_x), with losses. */
static bool lines(const fmi_cloud *s, int n, const double *ln_c, const double *ln_x,
                  const double *loss, fmi_valley_draw *out)
{
    double y[FM_SCALE_BUDGETS_MAX], c[2];
    if (n < 2 || !fmi_fit_poly(n, ln_c, ln_x, NULL, 1, c)) return false;
    out->lines.ln_size_scale = c[0];
    out->lines.size_exponent = c[1];
    for (int i = 0; i < n; i++) y[i] = token_line(s, ln_c[i], ln_x[i]);
    if (!fmi_fit_poly(n, ln_c, y, NULL, 1, c)) return false;
    out->lines.ln_token_scale = c[0];
    out->lines.token_exponent = c[1];
    for (int i = 0; i < n; i++) y[i] = log(loss[i]);
    if (!fmi_fit_poly(n, ln_c, y, NULL, 1, c)) return false;
    out->ln_loss_scale = c[0];
    out->loss_exponent = c[1];
    return true;
}

/* The bias of each parabola, and of the line through them, on a surface without noise. */
static void bias(const valley *v, const fmi_constants *k, fm_scale_valley *out)
{
    const fmi_cloud *s = v->s;
    double ln_c[FM_SCALE_BUDGETS_MAX], ln_x[FM_SCALE_BUDGETS_MAX], loss[FM_SCALE_BUDGETS_MAX], t;
    int n = 0;
    fmi_lines truth = fmi_law_lines(k, s);
    for (int g = 0; g < v->n; g++) {
        const slice *c = &v->slice[g];
        double curve[3], x0, d0;
        if (!v->used[g]) continue;
        fmi_law_best(k, s, c->ln_c, &x0, &d0);
        for (int i = 0; i < c->n; i++) {
            double x = c->center + c->t[i];
            c->fit[i] = exp(fmi_law_ln_loss(k, x, token_line(s, c->ln_c, x), s->ln_s_mean));
        }
        if (!minimum(c, c->fit, curve, &t, &loss[n])) continue;
        out->budgets[g].bias = c->center + t - x0;
        ln_c[n] = c->ln_c;
        ln_x[n++] = c->center + t;
    }
    fmi_valley_draw d;
    if (lines(s, n, ln_c, ln_x, loss, &d))
        out->bias = (fm_scale_value){d.lines.size_exponent - truth.size_exponent, NAN, NAN};
}

/* The parabolas as they are; residuals for the redraws. */
static void fit_slices(valley *v, fm_scale_valley *out)
{
    double square = 0;
    out->n_budgets = v->n;
    out->residuals.worst = -1;
    for (int g = 0; g < v->n; g++) {
        slice *c = &v->slice[g];
        fm_scale_budget *b = &out->budgets[g];
        double t, at;
        *b = (fm_scale_budget){.flops = exp(c->ln_c), .n = c->n, .center = exp(c->center)};
        b->size_min = exp(c->center + c->low);
        b->size_max = exp(c->center + c->high);
        bool bowl = minimum(c, c->loss, b->curve, &t, &at);
        if (!bowl || t < c->low || t > c->high) continue;
        v->used[g] = b->used = true;
        b->size.value = exp(c->center + t);
        b->tokens.value = exp(token_line(v->s, c->ln_c, c->center + t));
        b->loss = at;
        for (int i = 0; i < c->n; i++) {
            c->fit[i] = b->curve[0] + c->t[i] * (b->curve[1] + c->t[i] * b->curve[2]);
            double r = log(c->loss[i] / c->fit[i]);
            square += r * r;
            out->residuals.max_abs = fmax(out->residuals.max_abs, fabs(r));
            v->residual[v->n_residuals++] = r * sqrt(c->n / (c->n - 3.0));
        }
    }
    out->residuals.n = v->n_residuals;
    out->residuals.rms = v->n_residuals ? sqrt(square / v->n_residuals) : 0;
}

/* One redraw: minima of every slice into x (NaN where there is none), and the lines. */
static bool redraw(const valley *v, const fm_scale_options *o, int round, double *x, double *loss,
                   fmi_valley_draw *out)
{
    double ln_c[FM_SCALE_BUDGETS_MAX], ln_x[FM_SCALE_BUDGETS_MAX], low[FM_SCALE_BUDGETS_MAX];
    int n = 0, k = 0;
    for (int g = 0; g < v->n; g++) {
        const slice *c = &v->slice[g];
        double curve[3], t, at;
        x[g] = NAN;
        if (!v->used[g]) continue;
        for (int i = 0; i < c->n; i++) {
            int pick = fmi_draw(o->seed, FMI_DRAW_VALLEY, round, k++, v->n_residuals);
            loss[i] = c->fit[i] * exp(v->residual[pick]);
        }
        if (!minimum(c, loss, curve, &t, &at)) continue;
        x[g] = c->center + t;
        ln_c[n] = c->ln_c;
        low[n] = at;
        ln_x[n++] = x[g];
    }
    return lines(v->s, n, ln_c, ln_x, low, out);
}

static fm_status intervals(valley *v, fmi_view *view, const fm_scale_options *o,
                           fm_scale_valley *out, fm_err *err)
{
    int n = o->n_bootstrap, kept = 0;
    double *x =
        fmi_alloc(((size_t)n * FM_SCALE_BUDGETS_MAX + (size_t)n + (size_t)v->s->n) * sizeof *x);
    view->valley_draws = fmi_alloc((size_t)n * sizeof *view->valley_draws);
    if (!x || !view->valley_draws) {
        fmi_free(x);
        return FM_FAIL(err, FM_E_NOMEM, "the bootstrap");
    }
    double *scratch = x + (size_t)n * FM_SCALE_BUDGETS_MAX, *loss = scratch + n;
    for (int round = 0; round < n; round++)
        if (redraw(v, o, round, x + (size_t)round * FM_SCALE_BUDGETS_MAX, loss,
                   &view->valley_draws[kept]))
            kept++;
    view->n_valley_draws = kept;
    for (int g = 0; g < v->n; g++) {
        fm_scale_budget *b = &out->budgets[g];
        if (!b->used) continue;
        for (int i = 0; i < n; i++)
            scratch[i] = exp(x[(size_t)i * FM_SCALE_BUDGETS_MAX + (size_t)g]);
        b->size = fmi_interval(b->size.value, scratch, n);
        for (int i = 0; i < n; i++)
            scratch[i] = exp(
                token_line(v->s, log(b->flops), x[(size_t)i * FM_SCALE_BUDGETS_MAX + (size_t)g]));
        b->tokens = fmi_interval(b->tokens.value, scratch, n);
    }
    fmi_frontier(&view->valley.lines, view->valley_draws, sizeof *view->valley_draws, kept, scratch,
                 &out->frontier);
    fmi_free(x);
    return FM_OK;
}

static fm_status work(valley *v, fmi_view *view, const fm_scale_options *o,
                      const fmi_constants *surface, fm_scale_valley *out, fm_err *err)
{
    double ln_c[FM_SCALE_BUDGETS_MAX] = {0}, ln_x[FM_SCALE_BUDGETS_MAX] = {0};
    double loss[FM_SCALE_BUDGETS_MAX] = {0};
    int n = 0;
    fit_slices(v, out);
    for (int g = 0; g < v->n; g++)
        if (v->used[g]) {
            ln_c[n] = v->slice[g].ln_c;
            ln_x[n] = log(out->budgets[g].size.value);
            loss[n++] = out->budgets[g].loss;
        }
    bool two = lines(v->s, n, ln_c, ln_x, loss, &view->valley);
    fm_status st = n ? intervals(v, view, o, out, err) : FM_OK;
    if (st) return st;
    if (!two)
        snprintf(out->why, sizeof out->why,
                 v->n == 1
                     ? "one budget only; a power law needs two"
                     : "%d of %d budgets have a minimum among their sizes; a power law needs two",
                 n, v->n);
    else if (view->n_valley_draws < o->n_bootstrap / 2)
        snprintf(out->why, sizeof out->why, "most redraws of the valleys have no minima");
    if (out->why[0]) return FM_OK;
    out->line = (fm_scale_residuals){.n = n, .worst = -1};
    for (int i = 0; i < n; i++) {
        double r =
            ln_x[i] - view->valley.lines.ln_size_scale - view->valley.lines.size_exponent * ln_c[i];
        out->line.rms += r * r / n;
        out->line.max_abs = fmax(out->line.max_abs, fabs(r));
    }
    out->line.rms = sqrt(out->line.rms);
    out->bias = (fm_scale_value){NAN, NAN, NAN};
    if (surface) bias(v, surface, out);
    out->done = true;
    return FM_OK;
}

fm_status fmi_fit_valley(fmi_view *view, const fm_scale_options *o, const fm_scale_surface *surface,
                         fm_scale_valley *out, fm_err *err)
{
    const fmi_cloud *s = &view->cloud;
    const fmi_constants *k = surface->done ? &view->at : NULL;
    memset(out, 0, sizeof *out);
    valley v = {.s = s};
    size_t n = (size_t)s->n;
    v.block = fmi_alloc(n * 4 * sizeof *v.block);
    view->moved = fmi_zalloc(n * (sizeof *view->moved + sizeof *view->slice));
    if (!v.block || !view->moved) {
        fmi_free(v.block);
        return FM_FAIL(err, FM_E_NOMEM, "valleys");
    }
    int *group = view->slice = (int *)(void *)(view->moved + n), grouped = 0;
    memcpy(group, s->group, n * sizeof *group);
    for (int i = 0; i < s->n; i++) grouped += group[i] >= 0;
    v.n = s->n_groups;
    if (2 * grouped < s->n && k) {
        v.n = bins(s, group);
        out->binned = v.n > 0;
    }
    v.residual = v.block + 3 * n;
    double *at = v.block;
    fm_status st = FM_OK;
    if (v.n > FM_SCALE_BUDGETS_MAX) {
        snprintf(out->why, sizeof out->why, "%d budgets; at most %d", v.n, FM_SCALE_BUDGETS_MAX);
    } else if (v.n == 0) {
        snprintf(out->why, sizeof out->why,
                 "no budget with at least four sizes at nearly equal compute");
    } else {
        for (int g = 0; g < v.n; g++) {
            take(&v, k, group, g, at, view->moved);
            at += 3 * v.slice[g].n;
        }
        st = work(&v, view, o, k, out, err);
    }
    fmi_free(v.block);
    return st;
}
