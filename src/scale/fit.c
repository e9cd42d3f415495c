/* A fit: points copied, sweeps reduced to their best, outliers taken out, every method in every
 * counting. A method that cannot run says why and the others go on.
 *
 * Outliers: Huber's loss bounds what one point can pull, but a handful at one edge still bends the
 * surface (Besiroglu et al. 2024 leave out five of Chinchilla's). Points further from the main
 * surface than 12 robust deviations are left out, at most one in twenty, and named. */
#include <math.h>
#include <string.h>

#include "fit.h"
#include "small.h"

#define OUTLIER_DEVIATIONS 12.0
#define DELTA_DEFAULT 1e-3
#define BOOTSTRAP_DEFAULT 500

void fm_scale_fit_free(fm_scale_fit *f)
{
    if (!f) return;
    for (int c = 0; c < FM_SCALE_COUNTINGS; c++) {
        fmi_cloud_deinit(&f->in[c].cloud);
        fmi_free(f->in[c].fitted);
        fmi_free(f->in[c].draws);
        fmi_free(f->in[c].valley_draws);
        fmi_free(f->in[c].moved);
    }
    fmi_free(f->optima);
    fmi_free(f->points.p);
    fmi_free(f);
}

static fm_status copy_points(fm_scale_fit *f, const fm_scale_points *p, fm_err *err)
{
    f->points.p = fmi_alloc((size_t)p->n * sizeof *p->p);
    if (!f->points.p) return FM_FAIL(err, FM_E_NOMEM, "%d points", p->n);
    memcpy(f->points.p, p->p, (size_t)p->n * sizeof *p->p);
    f->points.n = f->points.cap = f->n_read = p->n;
    return FM_OK;
}

/* Points of the study beyond the limit, marked in far[n]; the surface is fitted to all. */
static fm_status mark_far(const fmi_cloud *s, const fm_scale_options *o, bool *far, int *n_far,
                          fm_err *err)
{
    fmi_surface q;
    fmi_surface_at at;
    double *r = fmi_alloc((size_t)s->n * 2 * sizeof *r);
    *n_far = 0;
    if (!r) return FM_FAIL(err, FM_E_NOMEM, "outliers");
    fm_status st = fmi_surface_init(&q, s->n, s->ln_x, s->ln_d, s->ln_s, s->ln_l, o->huber_delta,
                                    o->sparsity, err);
    if (!st && !fmi_surface_search(&q, &at, NULL)) {
        fmi_surface_fitted(&q, &at, r);
        for (int i = 0; i < s->n; i++) r[i] = s->ln_l[i] - log(r[i]);
        double deviation = 1.4826 * fmi_median_abs(r + s->n, r, s->n);
        double limit = OUTLIER_DEVIATIONS * fmax(deviation, o->huber_delta);
        for (int i = 0; i < s->n; i++) *n_far += far[i] = fabs(r[i]) > limit;
    }
    fmi_surface_deinit(&q);
    fmi_free(r);
    return st;
}

static fm_status drop_outliers(fm_scale_fit *f, fm_err *err)
{
    int n_max = f->points.n / 20;
    if (n_max > 64) n_max = 64;
    for (;;) {
        fmi_cloud s;
        bool there;
        int n_far = 0, n = 0;
        fm_status st = fmi_cloud_init(&s, &f->points, f->main, &there, err);
        bool *far = st ? NULL : fmi_zalloc((size_t)f->points.n);
        if (!st && !far) st = FM_FAIL(err, FM_E_NOMEM, "outliers");
        if (!st && s.n >= 20) st = mark_far(&s, &f->o, far, &n_far, err);
        bool drop = !st && n_far > 0 && f->n_outliers + n_far <= n_max;
        for (int i = 0; drop && i < f->points.n; i++) {
            if (far[i])
                f->outlier[f->n_outliers++] = f->points.p[i].line;
            else
                f->points.p[n++] = f->points.p[i];
        }
        if (drop) f->points.n = n;
        fmi_free(far);
        fmi_cloud_deinit(&s);
        if (st || !drop) return st;
    }
}

static fm_status fit_view(fm_scale_fit *f, fm_scale_counting c, fm_err *err)
{
    fmi_view *in = &f->in[c];
    fm_scale_view *v = &f->view[c];
    fm_status st = fmi_cloud_init(&in->cloud, &f->points, c, &v->there, err);
    if (st || !v->there) return st;
    st = fmi_fit_envelope(&in->cloud, &f->o, &v->envelope, err);
    if (!st) st = fmi_fit_surface(in, &f->o, &v->surface, err);
    if (!st) st = fmi_fit_valley(in, &f->o, &v->surface, &v->valley, err);
    return st;
}

fm_status fm_scale_fit_new(const fm_scale_points *p, const fm_scale_options *options,
                           fm_scale_fit **out, fm_err *err)
{
    if (p->n < 3)
        return FM_FAIL(err, FM_E_RANGE, "%d point%s; no method runs on fewer than three", p->n,
                       p->n == 1 ? "" : "s");
    fm_scale_fit *f = fmi_zalloc(sizeof *f);
    if (!f) return FM_FAIL(err, FM_E_NOMEM, "a fit");
    if (options) f->o = *options;
    if (f->o.n_bootstrap <= 0) f->o.n_bootstrap = BOOTSTRAP_DEFAULT;
    if (!(f->o.huber_delta > 0)) f->o.huber_delta = DELTA_DEFAULT;
    fm_status st = copy_points(f, p, err);
    if (!st) st = fmi_fit_sweep(&f->points, &f->o, &f->sweep, &f->optima, err);
    bool sized = !st && f->points.n > 0;
    for (int i = 0; sized && i < f->points.n; i++) sized = f->points.p[i].params > 0;
    f->main = sized ? FM_SCALE_N : FM_SCALE_M;
    if (f->o.main > 0) f->main = (fm_scale_counting)(f->o.main - 1);
    for (int i = 0; !st && !sized && i < f->points.n; i++)
        if (f->points.p[i].m == 0)
            st = FM_FAIL(err, FM_E_RANGE, "some points have only params (N) and others only m (M)");
    for (int i = 0; !st && i < f->points.n; i++)
        if (f->main == FM_SCALE_M ? f->points.p[i].m == 0 : f->points.p[i].params == 0)
            st = FM_FAIL(err, FM_E_RANGE, "counting %s: a point lacks %s",
                         fm_scale_counting_name(f->main),
                         f->main == FM_SCALE_M ? "m (M)" : "params (N)");
    if (!st && !f->o.keep_all) st = drop_outliers(f, err);
    for (int c = 0; !st && c < FM_SCALE_COUNTINGS; c++)
        if (!f->o.only_main || c == (int)f->main) st = fit_view(f, (fm_scale_counting)c, err);
    if (st) {
        fm_scale_fit_free(f);
        return st;
    }
    *out = f;
    return FM_OK;
}

const fm_scale_view *fm_scale_fit_view(const fm_scale_fit *f, fm_scale_counting c)
{
    return &f->view[c];
}

fm_scale_counting fm_scale_fit_main(const fm_scale_fit *f)
{
    return f->main;
}

bool fm_scale_fit_any(const fm_scale_fit *f)
{
    for (int c = 0; c < FM_SCALE_COUNTINGS; c++) {
        const fm_scale_view *v = &f->view[c];
        if (v->there && (v->envelope.done || v->valley.done || v->surface.done)) return true;
    }
    return f->sweep.there && (f->sweep.lr_nd.done || f->sweep.lr_c.done || f->sweep.batch_d.done ||
                              f->sweep.batch_c.done);
}

const fm_scale_sweep *fm_scale_fit_sweep(const fm_scale_fit *f)
{
    return &f->sweep;
}

const char *fm_scale_counting_name(fm_scale_counting c)
{
    static const char *const names[] = {"N", "6N", "M"};
    return names[c];
}
