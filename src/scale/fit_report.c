/* A fit for people: the table of the terminal and the report in Markdown. Both say first what was
 * fitted and left out, then every method with its intervals and residuals, then our exponents
 * beside the published ones. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fit.h"

typedef struct page {
    fm_text *out;
    fm_err *err;
    fm_status st;
    bool md;
} page;

static void put(page *p, const char *fmt, ...) FMI_PRINTF(2, 3);
static void put(page *p, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!p->st) p->st = fm_text_vprintf(p->out, p->err, fmt, ap);
    va_end(ap);
}

static void head(page *p, const char *text)
{
    put(p, p->md ? "\n## %s\n\n" : "\n%s\n", text);
}

/* "0.512 [0.498, 0.526]" */
typedef struct cell {
    char s[72];
} cell;

static const char *show(fm_scale_value v, const char *fmt, cell *c)
{
    char one[3][20];
    const double x[3] = {v.value, v.low, v.high};
    for (int i = 0; i < 3; i++) {
        char form[8];
        snprintf(form, sizeof form, "%%%s", fmt);
        snprintf(one[i], sizeof one[i], form, x[i]);
    }
    snprintf(c->s, sizeof c->s, "%s [%s, %s]", one[0], one[1], one[2]);
    return c->s;
}

static void what_was_fitted(page *p, const fm_scale_fit *f)
{
    put(p, "%d points", f->n_read);
    if (f->sweep.there)
        put(p, "; %d sweeps of %d runs, the best run of each is fitted", f->sweep.n_groups,
            f->sweep.n_runs);
    if (f->n_outliers) {
        put(p, "; %d left out, further than 12 robust deviations from the surface: line",
            f->n_outliers);
        for (int i = 0; i < f->n_outliers && i < 10; i++)
            put(p, "%s%d", i ? ", " : f->n_outliers > 1 ? "s " : " ", f->outlier[i]);
        put(p, f->n_outliers > 10 ? ", .. (--keep-all keeps them)" : " (--keep-all keeps them)");
    }
    put(p, ". Intervals are 95%%, from %d redraws (seed %llu).\n", f->o.n_bootstrap,
        (unsigned long long)f->o.seed);
}

static const char *size_name(fm_scale_counting c)
{
    return c == FM_SCALE_M ? "M" : "N";
}

/* Recorded C is 6ND: the two countings are one. */
static bool as_6n(const fm_scale_fit *f)
{
    const fmi_cloud *s = &f->in[FM_SCALE_N].cloud;
    return f->view[FM_SCALE_N].there && s->power == 1 && s->factor == 6;
}

static const char *counting_words(const fm_scale_fit *f, fm_scale_counting c)
{
    if (c == FM_SCALE_6N) return "N, C = 6ND";
    if (c == FM_SCALE_M) return "M, C = MD";
    return as_6n(f) ? "N, C as given (= 6ND)" : "N, C as given";
}

static void one_row(page *p, const char *method, const char *words, const fm_scale_frontier *f)
{
    cell a, b;
    put(p, p->md ? "| %s | %s | %s | %s |\n" : "  %-12s %-22s %-24s %s\n", method, words,
        show(f->size_exponent, ".3f", &a), show(f->token_exponent, ".3f", &b));
}

/* Ours in every counting, then what is published. */
static void exponents(page *p, const fm_scale_fit *f)
{
    int n;
    const fm_scale_published *list = fm_scale_published_list(&n);
    head(p, "Exponents against compute: size ~ C^a, tokens ~ C^b");
    if (p->md)
        put(p, "| method | counting | a | b |\n|---|---|---|---|\n");
    else
        put(p, "  %-12s %-22s %-24s %s\n", "method", "counting", "a", "b");
    for (int c = 0; c < FM_SCALE_COUNTINGS; c++) {
        const fm_scale_view *v = &f->view[c];
        const char *words = counting_words(f, (fm_scale_counting)c);
        if (!v->there || (c == FM_SCALE_6N && as_6n(f))) continue;
        if (v->envelope.done) one_row(p, "envelope", words, &v->envelope.frontier);
        if (v->valley.done) one_row(p, "isoflop", words, &v->valley.frontier);
        if (v->surface.done) one_row(p, "parametric", words, &v->surface.frontier);
    }
    for (int i = 0; i < n; i++)
        put(p, p->md ? "| %s | %s | %.3f | %.3f |\n" : "  %-49s %s  %.3f  %.3f\n", list[i].name,
            list[i].counting, list[i].size_exponent, list[i].token_exponent);
}

static void spread(page *p, const char *what, const fm_scale_residuals *r, const fm_scale_fit *f)
{
    put(p, "%sResiduals %s: rms %.4f, largest %.4f", p->md ? "\n" : "  ", what, r->rms, r->max_abs);
    if (r->worst >= 0 && f->points.p[r->worst].line)
        put(p, " (line %d)", f->points.p[r->worst].line);
    put(p, ", n %d.\n", r->n);
}

static void surface(page *p, const fm_scale_fit *f, fm_scale_counting c)
{
    const fm_scale_surface *s = &f->view[c].surface;
    cell v;
    char title[120];
    snprintf(title, sizeof title, "Parametric: L = E + A/%s^alpha%s + B/D^beta", size_name(c),
             s->with_sparsity ? "/S^gamma" : "");
    head(p, title);
    if (!s->done) {
        put(p, "%sNot fitted: %s.\n", p->md ? "" : "  ", s->why);
        return;
    }
    const struct {
        const char *name, *fmt;
        const fm_scale_value *v;
    } rows[] = {{"E", ".4f", &s->E}, {"A", ".5g", &s->A},       {"alpha", ".4f", &s->alpha},
                {"B", ".5g", &s->B}, {"beta", ".4f", &s->beta}, {"gamma", ".4f", &s->gamma}};
    if (p->md) put(p, "| constant | value [95%% interval] |\n|---|---|\n");
    for (int i = 0; i < (s->with_sparsity ? 6 : 5); i++)
        put(p, p->md ? "| %s | %s |\n" : "  %-6s %s\n", rows[i].name,
            show(*rows[i].v, rows[i].fmt, &v));
    spread(p, "of ln loss", &s->residuals, f);
    put(p, "%sSum of Huber losses (delta %.3g): %.6g.", p->md ? "" : "  ", s->huber_delta,
        s->objective);
    if (f->in[c].cloud.power != 1 || f->in[c].cloud.factor != 6)
        put(p, " C is about %.4g %s^%.4f D.", s->size_factor, size_name(c), s->size_power);
    put(p, "\n");
}

static void valley(page *p, const fm_scale_fit *f, fm_scale_counting c)
{
    const fm_scale_valley *v = &f->view[c].valley;
    const char *size = size_name(c);
    cell a, b;
    head(p, "IsoFLOP: a parabola in ln size per budget");
    if (v->n_budgets && p->md)
        put(p,
            "| C | points | best %s | best D | loss | bias of ln %s |\n|---|---|---|---|---|---|\n",
            size, size);
    else if (v->n_budgets)
        put(p, "  %-10s %-3s %-34s %-34s %-8s %s\n", "C", "n", size, "D", "loss", "bias");
    for (int i = 0; i < v->n_budgets; i++) {
        const fm_scale_budget *g = &v->budgets[i];
        if (g->used)
            put(p,
                p->md ? "| %.3g | %d | %s | %s | %.4f | %+.3f |\n"
                      : "  %-10.3g %-3d %-34s %-34s %-8.4f %+.3f\n",
                g->flops, g->n, show(g->size, ".4g", &a), show(g->tokens, ".4g", &b), g->loss,
                g->bias);
        else
            put(p,
                p->md ? "| %.3g | %d | no minimum from %.3g to %.3g; not used | | | |\n"
                      : "  %-10.3g %-3d no minimum from %.3g to %.3g; not used\n",
                g->flops, g->n, g->size_min, g->size_max);
    }
    if (!v->done) {
        put(p, "%sNo power law: %s.\n", p->md ? "\n" : "  ", v->why);
        return;
    }
    if (v->binned)
        put(p,
            "%sThe points have no budgets: bins of C, each point moved along the surface to its "
            "bin's C.\n",
            p->md ? "\n" : "  ");
    spread(p, "of ln loss about the parabolas", &v->residuals, f);
    spread(p, "of ln size about the power law", &v->line, f);
    if (isfinite(v->bias.value))
        put(p,
            "%sKnown bias of the parabola, measured on the fitted surface at these sizes: exponent "
            "%+.4f; "
            "of each minimum, in the table. Intervals do not hold it.\n",
            p->md ? "\n" : "  ", v->bias.value);
}

static void envelope(page *p, const fm_scale_fit *f, fm_scale_counting c)
{
    const fm_scale_envelope *e = &f->view[c].envelope;
    head(p, "Envelope: the lowest loss at log-spaced C");
    if (e->done)
        spread(p, "of ln size about the power law", &e->residuals, f);
    else
        put(p, "%sNo power law: %s.\n", p->md ? "" : "  ", e->why);
}

static void power(page *p, const char *what, const fm_scale_power *w, const char *published)
{
    cell a, b;
    if (!w->done) {
        put(p,
            p->md ? "| %s | not fitted: %s | | %s | |\n"
                  : "  %-9s not fitted: %s (published: %s)\n",
            what, w->why, published);
        return;
    }
    char form[200];
    int n = snprintf(form, sizeof form, "%s", show(w->scale, ".4g", &a));
    for (int k = 0; k < w->n_terms && n < (int)sizeof form; k++)
        n += snprintf(form + n, sizeof form - (size_t)n, " x %s^(%s)", w->term[k],
                      show(w->exponent[k], ".3f", &b));
    put(p,
        p->md ? "| %s | %s | %.3f | %s | x%.2f, %.2f |\n"
              : "  %-9s %s; residuals: rms of ln %.3f\n            published: %s; the optima are "
                "x%.2f of it, rms of ln %.2f\n",
        what, form, w->rms, published, w->ratio, w->ratio_rms);
}

static void sweeps(page *p, const fm_scale_sweep *s)
{
    if (!s->there) return;
    head(p, "Batch (tokens a step) and learning rate: mean over the runs within 0.25% of each "
            "sweep's best");
    if (p->md)
        put(p, "| optimum | ours | rms of ln | published | optima over it, rms of ln |\n"
               "|---|---|---|---|---|\n");
    power(p, "lr(N, D)", &s->lr_nd, "1.79 N^-0.713 D^0.307 (Step Law)");
    power(p, "lr(C)", &s->lr_c, "0.3118 C^-0.125 (DeepSeek LLM)");
    power(p, "batch(D)", &s->batch_d, "0.58 D^0.571 (Step Law)");
    power(p, "batch(C)", &s->batch_c, "0.2920 C^0.3271 (DeepSeek LLM)");
}

static void body(page *p, const fm_scale_fit *f)
{
    exponents(p, f);
    surface(p, f, f->main);
    valley(p, f, f->main);
    envelope(p, f, f->main);
    sweeps(p, &f->sweep);
}

fm_status fm_scale_fit_table(const fm_scale_fit *f, fm_text *out, fm_err *err)
{
    page p = {.out = out, .err = err};
    what_was_fitted(&p, f);
    body(&p, f);
    return p.st;
}

/* The five furthest points, for the reader to judge. */
static void furthest(page *p, const fm_scale_fit *f)
{
    const fmi_view *v = &f->in[f->main];
    double below = INFINITY;
    if (!f->view[f->main].surface.done) return;
    head(p, "Furthest from the surface");
    put(p, "| line | %s | D | loss | fit | ln loss - ln fit |\n|---|---|---|---|---|---|\n",
        size_name(f->main));
    for (int k = 0; k < 5; k++) {
        int top = -1;
        double most = 0;
        for (int i = 0; i < v->cloud.n; i++) {
            double r = fabs(v->cloud.ln_l[i] - log(v->fitted[i]));
            if (r < below && r > most) most = r, top = i;
        }
        if (top < 0) break;
        below = most;
        const fm_scale_point *q = &f->points.p[top];
        put(p, "| %d | %.4g | %.4g | %.4f | %.4f | %+.4f |\n", q->line, exp(v->cloud.ln_x[top]),
            q->tokens, q->loss, v->fitted[top], v->cloud.ln_l[top] - log(v->fitted[top]));
    }
}

fm_status fm_scale_fit_report(const fm_scale_fit *f, bool with_plots, fm_text *out, fm_err *err)
{
    page p = {.out = out, .err = err, .md = true};
    put(&p, "# Scaling laws\n\n");
    what_was_fitted(&p, f);
    if (with_plots)
        put(&p, "\n![IsoFLOP valleys](isoflop.svg)\n\n![Best size and tokens against "
                "compute](frontier.svg)\n\n"
                "![Residuals](residuals.svg)\n");
    if (with_plots && f->sweep.there) put(&p, "\n![Optima of the sweeps](sweep.svg)\n");
    body(&p, f);
    furthest(&p, f);
    put(&p, "\nMethods, countings and their limits: docs/scaling.md of Fathom.\n");
    return p.st;
}
