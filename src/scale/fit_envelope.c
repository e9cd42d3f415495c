/* Method 1, the envelope: of every step of log-spaced compute the run of lowest loss, and straight
 * lines of its size and tokens against C (Hoffmann et al. 2022, approach 1).
 *
 * Steps are the budgets where the study has them. A run that is worse than one of less compute is
 * not on the envelope. Sizes are as coarse as the grid of the study, so intervals are wide: those
 * of runs redrawn inside each step and of the line's residuals redrawn, the outer ends of both. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "fit.h"
#include "small.h"

#define STEPS_MAX 20
#define LINE_MAX 64 /* points of redraw_line */

typedef struct steps {
    int *of; /* [n] step of each point, -1 none */
    int n;
} steps;

static void make_steps(const fmi_cloud *s, steps *t)
{
    double low = INFINITY, high = -INFINITY;
    int grouped = 0;
    for (int i = 0; i < s->n; i++) {
        low = fmin(low, s->ln_c[i]);
        high = fmax(high, s->ln_c[i]);
        grouped += s->group[i] >= 0;
    }
    if (2 * grouped >= s->n && s->n_groups >= 2) {
        memcpy(t->of, s->group, (size_t)s->n * sizeof *t->of);
        t->n = s->n_groups;
        return;
    }
    t->n = s->n / 6 < 4 ? 4 : s->n / 6 > STEPS_MAX ? STEPS_MAX : s->n / 6;
    if (!(high - low > log(FMI_BUDGET_SPAN))) t->n = 1;
    for (int i = 0; i < s->n; i++)
        t->of[i] = t->n == 1 ? 0 : (int)fmin((s->ln_c[i] - low) / (high - low) * t->n, t->n - 1);
}

/* Lowest of each step among points from[n], less those above a cheaper one; then the lines.
 * Returns the number of points on the envelope, 0 when they give no line. */
static int envelope(const fmi_cloud *s, const steps *t, const int *from, int *best, double *work,
                    fmi_lines *out)
{
    double *c = work, *x = work + t->n, *d = work + 2 * t->n, line[2];
    int n = 0;
    for (int k = 0; k < t->n; k++) best[k] = -1;
    for (int i = 0; i < s->n; i++) {
        int j = from[i], k = t->of[j];
        if (k >= 0 && (best[k] < 0 || s->ln_l[j] < s->ln_l[best[k]])) best[k] = j;
    }
    double lowest = INFINITY;
    for (int k = 0; k < t->n; k++) {
        int j = best[k];
        if (j < 0 || s->ln_l[j] >= lowest) continue;
        lowest = s->ln_l[j];
        best[n] = j;
        c[n] = s->ln_c[j];
        x[n] = s->ln_x[j];
        d[n++] = s->ln_d[j];
    }
    if (n < 2 || !fmi_fit_poly(n, c, x, NULL, 1, line)) return 0;
    out->ln_size_scale = line[0];
    out->size_exponent = line[1];
    if (!fmi_fit_poly(n, c, d, NULL, 1, line)) return 0;
    out->ln_token_scale = line[0];
    out->token_exponent = line[1];
    return n;
}

/* Draws of the lines: runs redrawn inside each step. */
static int redraw_runs(const fmi_cloud *s, const fm_scale_options *o, const steps *t, int *pick,
                       int *best, double *scratch, fmi_lines *draws)
{
    fmi_cloud by_step = *s;
    int kept = 0;
    by_step.group = t->of;
    by_step.order = pick + s->n;
    for (int g = -1, k = 0; g < t->n; g++)
        for (int i = 0; i < s->n; i++)
            if (t->of[i] == g) by_step.order[k++] = i;
    for (int round = 0; round < o->n_bootstrap; round++) {
        fmi_resample(&by_step, o->seed, FMI_DRAW_ENVELOPE, round, pick);
        kept += envelope(s, t, pick, best, scratch, &draws[kept]) > 0;
    }
    return kept;
}

/* The same from residuals of the lines, scaled for their two constants: all there is where a step
 * holds one run, as in a list of optima. scratch: C, size, tokens of the n best. */
static int redraw_line(const fm_scale_options *o, int n, int stride, const double *scratch,
                       const fmi_lines *at, fmi_lines *draws)
{
    const double *c = scratch, *x = scratch + stride, *d = scratch + 2 * stride;
    double unit = sqrt(n / (n - 2.0)), y[2][LINE_MAX], a[2], b[2];
    int kept = 0;
    for (int round = 0; round < o->n_bootstrap; round++) {
        for (int i = 0; i < n; i++) {
            int k = fmi_draw(o->seed, FMI_DRAW_ENVELOPE, round, i, n);
            double size = at->ln_size_scale + at->size_exponent * c[i];
            double tokens = at->ln_token_scale + at->token_exponent * c[i];
            y[0][i] = size + unit * (x[k] - at->ln_size_scale - at->size_exponent * c[k]);
            y[1][i] = tokens + unit * (d[k] - at->ln_token_scale - at->token_exponent * c[k]);
        }
        if (!fmi_fit_poly(n, c, y[0], NULL, 1, a) || !fmi_fit_poly(n, c, y[1], NULL, 1, b))
            continue;
        draws[kept++] = (fmi_lines){a[1], a[0], b[1], b[0]};
    }
    return kept;
}

static void widen(fm_scale_value *v, const fm_scale_value *by)
{
    v->low = fmin(v->low, by->low);
    v->high = fmax(v->high, by->high);
}

static void hull(fm_scale_frontier *f, const fm_scale_frontier *by)
{
    widen(&f->size_exponent, &by->size_exponent);
    widen(&f->size_scale, &by->size_scale);
    widen(&f->token_exponent, &by->token_exponent);
    widen(&f->token_scale, &by->token_scale);
}

static fm_status work(const fmi_cloud *s, const fm_scale_options *o, steps *t, int *pick, int *best,
                      double *scratch, fmi_lines *draws, fm_scale_envelope *out)
{
    fmi_lines at;
    int kept;
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < s->n; i++) {
        pick[i] = i;
        low = fmin(low, s->ln_d[i]);
        high = fmax(high, s->ln_d[i]);
    }
    if (high - low < 1e-6) { /* then C follows the size, whatever is best */
        snprintf(out->why, sizeof out->why, "one token count only");
        return FM_OK;
    }
    out->n = envelope(s, t, pick, best, scratch, &at);
    if (out->n < 3) {
        if (t->n < 2)
            snprintf(out->why, sizeof out->why,
                     "one budget only; a line with residuals needs three");
        else
            snprintf(out->why, sizeof out->why,
                     "%d point%s on the envelope; a line with residuals needs three", out->n,
                     out->n == 1 ? "" : "s");
        return FM_OK;
    }
    out->residuals = (fm_scale_residuals){.n = out->n, .worst = -1};
    for (int i = 0; i < out->n; i++) {
        double r = scratch[t->n + i] - at.ln_size_scale - at.size_exponent * scratch[i];
        out->residuals.rms += r * r / out->n;
        if (fabs(r) > out->residuals.max_abs || i == 0) {
            out->residuals.max_abs = fabs(r);
            out->residuals.worst = best[i];
        }
    }
    out->residuals.rms = sqrt(out->residuals.rms);
    fm_scale_frontier line;
    kept = out->n <= LINE_MAX ? redraw_line(o, out->n, t->n, scratch, &at, draws) : 0;
    fmi_frontier(&at, draws, sizeof *draws, kept, scratch, &line);
    int runs = redraw_runs(s, o, t, pick, best, scratch, draws);
    fmi_frontier(&at, draws, sizeof *draws, runs, scratch, &out->frontier);
    if (kept) hull(&out->frontier, &line);
    out->done = true;
    return FM_OK;
}

fm_status fmi_fit_envelope(const fmi_cloud *s, const fm_scale_options *o, fm_scale_envelope *out,
                           fm_err *err)
{
    size_t n = (size_t)s->n, steps_max = n > STEPS_MAX ? n : STEPS_MAX;
    size_t n_scratch =
        3 * steps_max > (size_t)o->n_bootstrap ? 3 * steps_max : (size_t)o->n_bootstrap;
    steps t = {fmi_alloc((3 * n + steps_max) * sizeof(int)), 0};
    double *scratch = fmi_alloc(n_scratch * sizeof *scratch);
    fmi_lines *draws = fmi_alloc((size_t)o->n_bootstrap * sizeof *draws);
    fm_status st = FM_OK;
    memset(out, 0, sizeof *out);
    if (!t.of || !scratch || !draws) {
        st = FM_FAIL(err, FM_E_NOMEM, "the envelope");
    } else {
        make_steps(s, &t);
        st = work(s, o, &t, t.of + n, t.of + 3 * n, scratch, draws, out);
    }
    fmi_free(t.of);
    fmi_free(scratch);
    fmi_free(draws);
    return st;
}
