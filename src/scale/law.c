/* Laws: the loss of a surface, its best sizes, predictions; published laws beside them.
 *
 * Along D = C / cost(N) the loss is least where alpha A N^-alpha = p beta B D^-beta, p the slope of
 * ln cost in ln N. Where cost is k N^p this is closed, N* = G^(1/(alpha + p beta)) (C/k)^a with
 * G = alpha A / (p beta B), a = beta / (alpha + p beta), and p = 1, k = 6 is Hoffmann et al. 2022,
 * eq. 4. Heads and attention bend the cost of small models: there the root is found. Sources of the
 * published numbers stand at each. */
#include <math.h>

#include "fit.h"
#include "small.h"

double fmi_law_ln_loss(const fmi_constants *k, double ln_x, double ln_d, double ln_s)
{
    return log(k->E + k->A * exp(-k->alpha * ln_x - k->gamma * ln_s) + k->B * exp(-k->beta * ln_d));
}

double fmi_cost_at(const fmi_cost *cost, double ln_x, double *slope)
{
    double t = ln_x - cost->center, at = fmin(fmax(t, cost->low), cost->high);
    double rise = cost->c[1] + 2 * cost->c[2] * at;
    if (slope) *slope = rise;
    return cost->c[0] + at * (cost->c[1] + at * cost->c[2]) + (t - at) * rise;
}

/* The derivative of the loss along D = C / cost(N), over its rising term; grows with ln_x. */
static double steepness(const fmi_constants *k, const fmi_cloud *s, double ln_c, double ln_x)
{
    double p, ln_d = ln_c - fmi_cost_at(&s->cost, ln_x, &p);
    double falling = log(k->alpha * k->A) - k->alpha * ln_x - k->gamma * s->ln_s_mean;
    return log(fmax(p, 0.05) * k->beta * k->B) - k->beta * ln_d - falling;
}

void fmi_law_best(const fmi_constants *k, const fmi_cloud *s, double ln_c, double *ln_x,
                  double *ln_d)
{
    double low = s->cost.center - 60, high = s->cost.center + 60;
    double f_low = steepness(k, s, ln_c, low), f_high = steepness(k, s, ln_c, high), x = low;
    /* Illinois' false position: exact in one step where the cost is a straight line */
    for (int i = 0, side = 0; i < 80 && high - low > 1e-12; i++) {
        x = f_high > f_low ? (low * f_high - high * f_low) / (f_high - f_low) : (low + high) / 2;
        double f = steepness(k, s, ln_c, x);
        if (fabs(f) < 1e-13) break;
        if (f > 0) {
            high = x;
            f_high = f;
            if (side == 1) f_low /= 2;
            side = 1;
        } else {
            low = x;
            f_low = f;
            if (side == -1) f_high /= 2;
            side = -1;
        }
    }
    *ln_x = x;
    *ln_d = ln_c - fmi_cost_at(&s->cost, x, NULL);
}

fmi_lines fmi_law_lines(const fmi_constants *k, const fmi_cloud *s)
{
    double x[2], d[2], low = s->ln_c_low, high = fmax(s->ln_c_high, s->ln_c_low + 1e-3);
    fmi_law_best(k, s, low, &x[0], &d[0]);
    fmi_law_best(k, s, high, &x[1], &d[1]);
    fmi_lines l;
    l.size_exponent = (x[1] - x[0]) / (high - low);
    l.ln_size_scale = x[0] - l.size_exponent * low;
    l.token_exponent = (d[1] - d[0]) / (high - low);
    l.ln_token_scale = d[0] - l.token_exponent * low;
    return l;
}

static fm_scale_value of_draws(double at, const char *draws, size_t stride, size_t offset, int n,
                               bool exponential, double *scratch)
{
    for (int i = 0; i < n; i++) {
        double v = *(const double *)(const void *)(draws + (size_t)i * stride + offset);
        scratch[i] = exponential ? exp(v) : v;
    }
    return fmi_interval(exponential ? exp(at) : at, scratch, n);
}

void fmi_frontier(const fmi_lines *at, const void *draws, size_t stride, int n, double *scratch,
                  fm_scale_frontier *out)
{
    const char *d = draws;
    out->size_exponent = of_draws(at->size_exponent, d, stride, offsetof(fmi_lines, size_exponent),
                                  n, false, scratch);
    out->size_scale = of_draws(at->ln_size_scale, d, stride, offsetof(fmi_lines, ln_size_scale), n,
                               true, scratch);
    out->token_exponent = of_draws(at->token_exponent, d, stride,
                                   offsetof(fmi_lines, token_exponent), n, false, scratch);
    out->token_scale = of_draws(at->ln_token_scale, d, stride, offsetof(fmi_lines, ln_token_scale),
                                n, true, scratch);
}

static double on_line(const fmi_constants *k, const fmi_cloud *s, fmi_band_of what, double ln_c)
{
    double x, d;
    fmi_law_best(k, s, ln_c, &x, &d);
    if (what == FMI_BAND_SIZE) return exp(x);
    return exp(what == FMI_BAND_TOKENS ? d : fmi_law_ln_loss(k, x, d, s->ln_s_mean));
}

fm_scale_value fmi_law_band(const fmi_view *v, fmi_band_of what, double ln_c, double *scratch)
{
    for (int i = 0; i < v->n_draws; i++) scratch[i] = on_line(&v->draws[i], &v->cloud, what, ln_c);
    return fmi_interval(on_line(&v->at, &v->cloud, what, ln_c), scratch, v->n_draws);
}

/* --- predictions ------------------------------------------------------------------------------ */

/* A draw's ln loss, with the scatter of one run about the fit. */
static double noisy(const fm_scale_fit *f, const fmi_view *v, int round, double ln_loss)
{
    int i = fmi_draw(f->o.seed, FMI_DRAW_NOISE, round, 0, v->cloud.n);
    double unit = v->cloud.n > 6 ? sqrt(v->cloud.n / (v->cloud.n - 5.0)) : 1;
    return ln_loss + unit * (v->cloud.ln_l[i] - log(v->fitted[i]));
}

static fm_status by_surface(const fm_scale_fit *f, fm_scale_counting c, fm_scale_prediction *out,
                            fm_err *err)
{
    const fmi_view *v = &f->in[c];
    const fmi_cloud *s = &v->cloud;
    double lc = log(out->flops), *x = fmi_alloc((size_t)v->n_draws * 3 * sizeof *x);
    if (!x) return FM_FAIL(err, FM_E_NOMEM, "a prediction");
    double *d = x + v->n_draws, *loss = d + v->n_draws;
    double ln_x, ln_d, lx, ld;
    fmi_law_best(&v->at, s, lc, &ln_x, &ln_d);
    for (int i = 0; i < v->n_draws; i++) {
        fmi_law_best(&v->draws[i], s, lc, &lx, &ld);
        x[i] = exp(lx);
        d[i] = exp(ld);
        loss[i] = exp(noisy(f, v, i, fmi_law_ln_loss(&v->draws[i], lx, ld, s->ln_s_mean)));
    }
    out->method = "parametric";
    out->size = fmi_interval(exp(ln_x), x, v->n_draws);
    out->tokens = fmi_interval(exp(ln_d), d, v->n_draws);
    out->loss =
        fmi_interval(exp(fmi_law_ln_loss(&v->at, ln_x, ln_d, s->ln_s_mean)), loss, v->n_draws);
    fmi_free(x);
    return FM_OK;
}

static fm_status by_valley(const fm_scale_fit *f, fm_scale_counting c, fm_scale_prediction *out,
                           fm_err *err)
{
    const fmi_view *v = &f->in[c];
    double lc = log(out->flops), *x = fmi_alloc((size_t)v->n_valley_draws * 3 * sizeof *x);
    if (!x) return FM_FAIL(err, FM_E_NOMEM, "a prediction");
    int n = v->n_valley_draws;
    double *d = x + n, *loss = d + n;
    for (int i = 0; i < n; i++) {
        const fmi_valley_draw *r = &v->valley_draws[i];
        x[i] = exp(r->lines.ln_size_scale + r->lines.size_exponent * lc);
        d[i] = exp(r->lines.ln_token_scale + r->lines.token_exponent * lc);
        loss[i] = exp(r->ln_loss_scale + r->loss_exponent * lc);
    }
    const fmi_valley_draw *a = &v->valley;
    out->method = "isoflop";
    out->size = fmi_interval(exp(a->lines.ln_size_scale + a->lines.size_exponent * lc), x, n);
    out->tokens = fmi_interval(exp(a->lines.ln_token_scale + a->lines.token_exponent * lc), d, n);
    out->loss = fmi_interval(exp(a->ln_loss_scale + a->loss_exponent * lc), loss, n);
    fmi_free(x);
    return FM_OK;
}

fm_status fm_scale_predict(const fm_scale_fit *f, fm_scale_counting c, double flops,
                           fm_scale_prediction *out, fm_err *err)
{
    const fm_scale_view *v = &f->view[c];
    fm_scale_prediction p = {.flops = flops};
    if (!isfinite(flops) || flops <= 0)
        return FM_FAIL(err, FM_E_RANGE, "budget: expected a positive number of FLOPs, found %g",
                       flops);
    if (!v->there || (!v->surface.done && !v->valley.done))
        return FM_FAIL(err, FM_E_STATE, "no prediction: %s",
                       v->there ? v->surface.why : "the points lack what this counting needs");
    fm_status st = v->surface.done ? by_surface(f, c, &p, err) : by_valley(f, c, &p, err);
    if (st) return st;
    double top = -INFINITY;
    for (int i = 0; i < f->in[c].cloud.n; i++) top = fmax(top, f->in[c].cloud.ln_c[i]);
    p.times_beyond = flops / exp(top);
    p.tokens_per_size = p.tokens.value / p.size.value;
    *out = p;
    return FM_OK;
}

fm_status fm_scale_predict_loss(const fm_scale_fit *f, fm_scale_counting c, double size,
                                double tokens, fm_scale_value *out, fm_err *err)
{
    const fmi_view *v = &f->in[c];
    if (!(size > 0) || !(tokens > 0) || !isfinite(size) || !isfinite(tokens))
        return FM_FAIL(err, FM_E_RANGE, "expected positive size and tokens, found %g and %g", size,
                       tokens);
    if (!f->view[c].there || !f->view[c].surface.done)
        return FM_FAIL(err, FM_E_STATE, "no parametric fit: %s", f->view[c].surface.why);
    double *loss = fmi_alloc((size_t)v->n_draws * sizeof *loss), s = v->cloud.ln_s_mean;
    if (!loss) return FM_FAIL(err, FM_E_NOMEM, "a prediction");
    for (int i = 0; i < v->n_draws; i++)
        loss[i] = exp(noisy(f, v, i, fmi_law_ln_loss(&v->draws[i], log(size), log(tokens), s)));
    *out = fmi_interval(exp(fmi_law_ln_loss(&v->at, log(size), log(tokens), s)), loss, v->n_draws);
    fmi_free(loss);
    return FM_OK;
}

/* --- published -------------------------------------------------------------------------------- */

/* DeepSeek LLM (arXiv 2401.02954), table 4, which gives the first two as well. */
static const fm_scale_published published[] = {
    {"OpenAI (Kaplan et al. 2020), OpenWebText2", "N", 0.73, 0.27},
    {"Chinchilla (Hoffmann et al. 2022), MassiveText", "N, 6ND", 0.49, 0.51},
    {"DeepSeek LLM, early in-house data", "M", 0.450, 0.550},
    {"DeepSeek LLM, current in-house data", "M", 0.524, 0.476},
    {"DeepSeek LLM, OpenWebText2", "M", 0.578, 0.422},
};

const fm_scale_published *fm_scale_published_list(int *n)
{
    *n = (int)(sizeof published / sizeof *published);
    return published;
}

/* DeepSeek LLM, eq. 1. */
double fm_scale_lr_deepseek(double flops)
{
    return 0.3118 * pow(flops, -0.125);
}

double fm_scale_batch_deepseek(double flops)
{
    return 0.2920 * pow(flops, 0.3271);
}

/* Step Law (arXiv 2503.04715); N without embeddings. */
double fm_scale_lr_step_law(double params, double tokens)
{
    return 1.79 * pow(params, -0.713) * pow(tokens, 0.307);
}

double fm_scale_batch_step_law(double tokens)
{
    return 0.58 * pow(tokens, 0.571);
}
