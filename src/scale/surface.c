/* Variable projection for L = E + A / (N^alpha S^gamma) + B / D^beta.
 *
 * For given exponents the three constants enter linearly; they are found inside (project), so that
 * the search is over two or three exponents only (Golub and Pereyra 1973). The loss is the sum of
 * Huber(ln L - ln fit), as Hoffmann et al. 2022 and Besiroglu et al. 2024 have it: summed, not
 * averaged. Inside: Newton steps on the active quadratic part with non-negative constants, else a
 * reweighted step, which always descends. At the inner minimum the gradient in the exponents is
 * the partial one (the envelope theorem), which NLopt's L-BFGS takes. Refuses nothing numeric: a
 * start that does not converge is passed over. */
#include "surface.h"

#include <math.h>
#include <string.h>

#include "small.h"

#ifdef FM_HAVE_NLOPT
#include <nlopt.h>
#endif

#define EXPONENT_MIN 0.01
#define EXPONENT_MAX 3.0
#define GAMMA_MAX 2.0
#define STARTS 6

fm_status fmi_surface_init(fmi_surface *s, int n, const double *ln_n, const double *ln_d,
                           const double *ln_s, const double *ln_loss, double delta, bool with_s,
                           fm_err *err)
{
    memset(s, 0, sizeof *s);
    double *block = fmi_alloc((size_t)n * 8 * sizeof *block);
    if (!block) return FM_FAIL(err, FM_E_NOMEM, "a fit of %d points", n);
    s->block = block;
    double **part[8] = {&s->ln_n, &s->ln_d, &s->ln_s, &s->ln_loss,
                        &s->u,    &s->v,    &s->fit,  &s->trial};
    for (int i = 0; i < 8; i++) *part[i] = block + (size_t)n * (size_t)i;
    for (int i = 0; i < n; i++) {
        s->mean_n += ln_n[i] / n;
        s->mean_d += ln_d[i] / n;
        s->mean_s += ln_s[i] / n;
    }
    for (int i = 0; i < n; i++) {
        s->ln_n[i] = ln_n[i] - s->mean_n;
        s->ln_d[i] = ln_d[i] - s->mean_d;
        s->ln_s[i] = ln_s[i] - s->mean_s;
        s->ln_loss[i] = ln_loss[i];
    }
    s->n = n;
    s->delta = delta;
    s->with_s = with_s;
    return FM_OK;
}

void fmi_surface_deinit(fmi_surface *s)
{
    fmi_free(s->block);
    memset(s, 0, sizeof *s);
}

static void columns(fmi_surface *s, const fmi_surface_at *at)
{
    for (int i = 0; i < s->n; i++) {
        s->u[i] = exp(-at->alpha * s->ln_n[i] - at->gamma * s->ln_s[i]);
        s->v[i] = exp(-at->beta * s->ln_d[i]);
    }
}

/* fit = the surface with these constants; the objective. Infinity when a value is not positive. */
static double evaluate(const fmi_surface *s, const double *lin, double *fit)
{
    double sum = 0, d = s->delta;
    for (int i = 0; i < s->n; i++) {
        fit[i] = lin[0] + lin[1] * s->u[i] + lin[2] * s->v[i];
        if (!(fit[i] > 0)) return INFINITY;
        double r = fabs(log(fit[i]) - s->ln_loss[i]);
        sum += r <= d ? r * r / 2 : d * (r - d / 2);
    }
    return sum;
}

/* Minimum over lin >= 0 of the quadratic model about lin: `newton` takes curvature of the quadratic
 * part of Huber's loss (and a little of the rest), otherwise the weights of a reweighted step. */
static bool model_step(const fmi_surface *s, const double *lin, bool newton, double *out)
{
    double h[FMI_SMALL_MAX][FMI_SMALL_MAX] = {{0}}, b[3] = {0};
    for (int i = 0; i < s->n; i++) {
        double f = s->fit[i], r = log(f) - s->ln_loss[i], a = fabs(r);
        double psi = a <= s->delta ? r : r > 0 ? s->delta : -s->delta;
        double w = a <= s->delta ? 1 : s->delta / a;
        if (newton && a > s->delta) w *= 1e-2;
        double x[3] = {1 / f, s->u[i] / f, s->v[i] / f};
        for (int j = 0; j < 3; j++) {
            b[j] -= psi * x[j];
            for (int k = j; k < 3; k++) h[j][k] += w * x[j] * x[k];
        }
    }
    for (int j = 0; j < 3; j++)
        for (int k = 0; k < 3; k++) b[j] += (j <= k ? h[j][k] : h[k][j]) * lin[k];
    return fmi_small_solve_positive(3, h, b, out);
}

static bool start_lin(fmi_surface *s, double *lin)
{
    double h[FMI_SMALL_MAX][FMI_SMALL_MAX] = {{0}}, b[3] = {0};
    for (int i = 0; i < s->n; i++) {
        double w = exp(-s->ln_loss[i]), x[3] = {w, s->u[i] * w, s->v[i] * w};
        for (int j = 0; j < 3; j++) {
            b[j] += x[j];
            for (int k = j; k < 3; k++) h[j][k] += x[j] * x[k];
        }
    }
    return fmi_small_solve_positive(3, h, b, lin);
}

/* The best constants for at's exponents, from at->lin when it is set. */
static bool project(fmi_surface *s, fmi_surface_at *at)
{
    columns(s, at);
    double value =
        at->lin[0] + at->lin[1] + at->lin[2] > 0 ? evaluate(s, at->lin, s->fit) : INFINITY;
    if (!(value < INFINITY)) {
        if (!start_lin(s, at->lin)) return false;
        value = evaluate(s, at->lin, s->fit);
        if (!(value < INFINITY)) return false;
    }
    for (int it = 0; it < 80; it++) {
        double next[3], got = INFINITY;
        for (int way = 1; way >= 0 && !(got < value); way--) {
            if (!model_step(s, at->lin, way, next)) continue;
            got = evaluate(s, next, s->trial);
            for (int half = 0; half < 6 && !way && !(got < value); half++) {
                for (int j = 0; j < 3; j++) next[j] = (next[j] + at->lin[j]) / 2;
                got = evaluate(s, next, s->trial);
            }
        }
        if (!(got < value)) break;
        double gain = value - got;
        double *swap = s->fit;
        s->fit = s->trial;
        s->trial = swap;
        memcpy(at->lin, next, sizeof next);
        value = got;
        if (gain < 1e-11 * value + 1e-24) break;
    }
    at->objective = value;
    return true;
}

#ifdef FM_HAVE_NLOPT
/* d objective / d exponents at the projected constants. */
static void slope(const fmi_surface *s, const fmi_surface_at *at, double *g)
{
    g[0] = g[1] = g[2] = 0;
    for (int i = 0; i < s->n; i++) {
        double r = log(s->fit[i]) - s->ln_loss[i];
        double psi = fabs(r) <= s->delta ? r : r > 0 ? s->delta : -s->delta;
        double a = psi * at->lin[1] * s->u[i] / s->fit[i];
        g[0] -= a * s->ln_n[i];
        g[1] -= psi * at->lin[2] * s->v[i] / s->fit[i] * s->ln_d[i];
        g[2] -= a * s->ln_s[i];
    }
}

typedef struct search {
    fmi_surface *s;
    fmi_surface_at at, best;
} search;

static double objective(unsigned n, const double *x, double *grad, void *arg)
{
    search *q = arg;
    q->at.alpha = x[0];
    q->at.beta = x[1];
    q->at.gamma = n > 2 ? x[2] : 0;
    double unit = 1 / (q->s->delta * q->s->delta);
    if (!project(q->s, &q->at)) {
        memset(q->at.lin, 0, sizeof q->at.lin);
        for (unsigned i = 0; grad && i < n; i++) grad[i] = 0;
        return 1e300;
    }
    if (grad) {
        double g[3];
        slope(q->s, &q->at, g);
        for (unsigned i = 0; i < n; i++) grad[i] = g[i] * unit;
    }
    if (q->at.objective < q->best.objective) q->best = q->at;
    return q->at.objective * unit;
}

fm_status fmi_surface_refine(fmi_surface *s, const fmi_surface_at *start, fmi_surface_at *out,
                             fm_err *err)
{
    unsigned n = s->with_s ? 3 : 2;
    const double low[3] = {EXPONENT_MIN, EXPONENT_MIN, -GAMMA_MAX};
    const double high[3] = {EXPONENT_MAX, EXPONENT_MAX, GAMMA_MAX};
    search q = {.s = s, .at = *start};
    q.best.objective = INFINITY;
    nlopt_opt opt = nlopt_create(NLOPT_LD_LBFGS, n);
    if (!opt) return FM_FAIL(err, FM_E_NOMEM, "NLopt");
    nlopt_set_min_objective(opt, objective, &q);
    nlopt_set_lower_bounds(opt, low);
    nlopt_set_upper_bounds(opt, high);
    nlopt_set_ftol_rel(opt, 1e-12);
    nlopt_set_xtol_rel(opt, 1e-10);
    nlopt_set_maxeval(opt, 200);
    /* A kink of Huber's loss can end a line search early: go on while it still pays. */
    fmi_surface_at from = *start;
    for (int again = 0; again < 4; again++) {
        double x[3] = {from.alpha, from.beta, from.gamma}, value, before = q.best.objective;
        for (unsigned i = 0; i < n; i++) x[i] = fmin(fmax(x[i], low[i]), high[i]);
        nlopt_optimize(opt, x, &value); /* its verdict does not matter: best is kept here */
        if (!(q.best.objective < before * (1 - 1e-7) - 1e-20)) break;
        from = q.best;
    }
    nlopt_destroy(opt);
    if (!(q.best.objective < INFINITY))
        return FM_FAIL(err, FM_E_NUMERIC, "the surface does not converge");
    *out = q.best;
    return FM_OK;
}
#else
fm_status fmi_surface_refine(fmi_surface *s, const fmi_surface_at *start, fmi_surface_at *out,
                             fm_err *err)
{
    (void)s, (void)start, (void)out;
    return FM_FAIL(err, FM_E_UNSUPPORTED,
                   "this build has no NLopt: install libnlopt-dev and build again");
}
#endif

/* The grid is walked with the constants projected at every node; L-BFGS goes on from the best few
 * that are not neighbours of a better one. */
fm_status fmi_surface_search(fmi_surface *s, fmi_surface_at *best, fm_err *err)
{
    static const double grid[] = {0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.65, 0.85, 1.2, 1.8};
    static const double gammas[] = {0, 0.1, 0.3, -0.1};
    enum { G = sizeof grid / sizeof *grid, K = sizeof gammas / sizeof *gammas };
    fmi_surface_at node[G * G * K];
    int n = 0, n_gamma = s->with_s ? K : 1;
    fm_status st = FM_OK;
    for (int i = 0; i < G; i++)
        for (int j = 0; j < G; j++)
            for (int k = 0; k < n_gamma; k++) {
                fmi_surface_at *a = &node[n];
                *a = (fmi_surface_at){.alpha = grid[i], .beta = grid[j], .gamma = gammas[k]};
                if (project(s, a)) n++;
            }
    best->objective = INFINITY;
    bool any = false;
    for (int start = 0; start < STARTS && n > 0; start++) {
        int top = 0;
        for (int i = 1; i < n; i++)
            if (node[i].objective < node[top].objective) top = i;
        fmi_surface_at from = node[top], got;
        int kept = 0;
        for (int i = 0; i < n; i++)
            if (fabs(log(node[i].alpha / from.alpha)) > 0.5 ||
                fabs(log(node[i].beta / from.beta)) > 0.5)
                node[kept++] = node[i];
        n = kept;
        st = fmi_surface_refine(s, &from, &got, err);
        if (st == FM_E_UNSUPPORTED || st == FM_E_NOMEM) return st;
        if (st) continue;
        if (!any || got.objective < best->objective) *best = got;
        any = true;
    }
    return any ? FM_OK : FM_FAIL(err, FM_E_NUMERIC, "the surface does not converge from any start");
}

void fmi_surface_fitted(fmi_surface *s, const fmi_surface_at *at, double *fit)
{
    columns(s, at);
    for (int i = 0; i < s->n; i++)
        fit[i] = at->lin[0] + at->lin[1] * s->u[i] + at->lin[2] * s->v[i];
}

fmi_constants fmi_surface_constants(const fmi_surface *s, const fmi_surface_at *at)
{
    fmi_constants c = {.E = at->lin[0], .alpha = at->alpha, .beta = at->beta, .gamma = at->gamma};
    c.A = at->lin[1] * exp(at->alpha * s->mean_n + at->gamma * s->mean_s);
    c.B = at->lin[2] * exp(at->beta * s->mean_d);
    return c;
}
