/* A fit as one JSON object: the main counting's methods at the top, every counting below, the
 * sweep's laws. A method that did not run is {"error": why}; an interval without a bound has null
 * there. */
#include <math.h>
#include <string.h>

#include "fit.h"
#include "io/json.h"

static json_t *real(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *value(fm_scale_value v)
{
    return json_pack("{s:o, s:o, s:o}", "value", real(v.value), "low", real(v.low), "high",
                     real(v.high));
}

static json_t *why_not(const char *why)
{
    return json_pack("{s:s}", "error", why);
}

/* "N_exponent": .. into obj. */
static void frontier(json_t *obj, const char *size, const fm_scale_frontier *f)
{
    bool m = *size == 'M';
    json_object_set_new(obj, m ? "M_exponent" : "N_exponent", value(f->size_exponent));
    json_object_set_new(obj, "D_exponent", value(f->token_exponent));
    json_object_set_new(obj, m ? "M_scale" : "N_scale", value(f->size_scale));
    json_object_set_new(obj, "D_scale", value(f->token_scale));
}

static json_t *residuals(const fm_scale_residuals *r, const fm_scale_fit *f)
{
    json_t *o =
        json_pack("{s:i, s:o, s:o}", "n", r->n, "rms", real(r->rms), "max_abs", real(r->max_abs));
    if (r->worst >= 0)
        json_object_set_new(o, "worst_line", json_integer(f->points.p[r->worst].line));
    return o;
}

static json_t *envelope(const fm_scale_fit *f, const char *size, const fm_scale_envelope *e)
{
    if (!e->done) return why_not(e->why);
    json_t *o = json_object();
    frontier(o, size, &e->frontier);
    json_object_set_new(o, "points", json_integer(e->n));
    json_object_set_new(o, "residuals_ln_size", residuals(&e->residuals, f));
    return o;
}

static json_t *valley(const fm_scale_fit *f, const char *size, const fm_scale_valley *v)
{
    json_t *o = v->done ? json_object() : why_not(v->why), *list = json_array();
    bool m = *size == 'M';
    for (int i = 0; i < v->n_budgets; i++) {
        const fm_scale_budget *b = &v->budgets[i];
        json_t *row =
            json_pack("{s:o, s:i, s:b, s:o, s:o}", "flops", real(b->flops), "points", b->n, "used",
                      b->used, "size_min", real(b->size_min), "size_max", real(b->size_max));
        if (b->used) {
            json_object_set_new(row, m ? "M" : "N", value(b->size));
            json_object_set_new(row, "D", value(b->tokens));
            json_object_set_new(row, "loss", real(b->loss));
            if (v->done) json_object_set_new(row, "bias_ln_size", real(b->bias));
        }
        json_array_append_new(list, row);
    }
    if (v->done) {
        frontier(o, size, &v->frontier);
        json_object_set_new(o, "bias_of_exponent", real(v->bias.value));
        json_object_set_new(o, "residuals_line_ln_size", residuals(&v->line, f));
        json_object_set_new(o, "binned", json_boolean(v->binned));
    }
    if (v->n_budgets) {
        json_object_set_new(o, "residuals", residuals(&v->residuals, f));
        json_object_set_new(o, "budgets", list);
    } else {
        json_decref(list);
    }
    return o;
}

static json_t *surface(const fm_scale_fit *f, fm_scale_counting c, bool with_points)
{
    const fm_scale_surface *s = &f->view[c].surface;
    const fmi_view *in = &f->in[c];
    if (!s->done) return why_not(s->why);
    json_t *o = json_pack("{s:o, s:o, s:o, s:o, s:o}", "E", value(s->E), "A", value(s->A), "alpha",
                          value(s->alpha), "B", value(s->B), "beta", value(s->beta));
    if (s->with_sparsity) {
        json_object_set_new(o, "gamma", value(s->gamma));
        json_object_set_new(o, "sparsity", real(s->sparsity));
    }
    frontier(o, fm_scale_counting_name(c), &s->frontier);
    json_object_set_new(o, "objective", real(s->objective));
    json_object_set_new(o, "huber_delta", real(s->huber_delta));
    json_object_set_new(o, "draws", json_integer(in->n_draws));
    json_t *r = residuals(&s->residuals, f);
    if (with_points) {
        json_t *list = json_array();
        for (int i = 0; i < in->cloud.n; i++) {
            const fm_scale_point *p = &f->points.p[i];
            json_array_append_new(list, json_pack("{s:i, s:o, s:o, s:o, s:o, s:o}", "line", p->line,
                                                  "size", real(exp(in->cloud.ln_x[i])), "D",
                                                  real(p->tokens), "loss", real(p->loss), "fit",
                                                  real(in->fitted[i]), "residual",
                                                  real(in->cloud.ln_l[i] - log(in->fitted[i]))));
        }
        json_object_set_new(r, "points", list);
    }
    json_object_set_new(o, "residuals", r);
    return o;
}

static void methods(json_t *o, const fm_scale_fit *f, fm_scale_counting c, bool with_points)
{
    const fm_scale_view *v = &f->view[c];
    const char *size = fm_scale_counting_name(c);
    json_object_set_new(o, "envelope", envelope(f, size, &v->envelope));
    json_object_set_new(o, "isoflop", valley(f, size, &v->valley));
    json_object_set_new(o, "parametric", surface(f, c, with_points));
}

static json_t *power(const fm_scale_power *p)
{
    if (!p->done) return why_not(p->why);
    json_t *o = json_pack("{s:o}", "scale", value(p->scale));
    for (int k = 0; k < p->n_terms; k++) {
        char name[16] = {p->term[k][0]};
        strncat(name, "_exponent", sizeof name - 2);
        json_object_set_new(o, name, value(p->exponent[k]));
    }
    json_object_set_new(o, "residuals", json_pack("{s:i, s:o}", "n", p->n, "rms", real(p->rms)));
    json_object_set_new(o, "ratio_to_published", real(p->ratio));
    json_object_set_new(o, "ratio_rms_ln", real(p->ratio_rms));
    return o;
}

static json_t *sweep(const fm_scale_sweep *s)
{
    return json_pack("{s:i, s:i, s:o, s:o, s:o, s:o}", "sweeps", s->n_groups, "runs", s->n_runs,
                     "lr_of_N_D", power(&s->lr_nd), "lr_of_C", power(&s->lr_c), "batch_tokens_of_D",
                     power(&s->batch_d), "batch_tokens_of_C", power(&s->batch_c));
}

fm_status fm_scale_fit_json(const fm_scale_fit *f, fm_text *out, fm_err *err)
{
    fmi_json_init();
    json_t *lines = json_array(), *views = json_object(), *list = json_array();
    int n_published;
    const fm_scale_published *published = fm_scale_published_list(&n_published);
    for (int i = 0; i < f->n_outliers; i++)
        json_array_append_new(lines, json_integer(f->outlier[i]));
    json_t *o =
        json_pack("{s:i, s:i, s:o, s:i, s:I, s:s}", "points", f->n_read, "fitted", f->points.n,
                  "left_out_lines", lines, "bootstrap", f->o.n_bootstrap, "seed",
                  (json_int_t)f->o.seed, "counting", fm_scale_counting_name(f->main));
    methods(o, f, f->main, true);
    for (int c = 0; c < FM_SCALE_COUNTINGS; c++) {
        if (!f->view[c].there) continue;
        json_t *v = json_object();
        methods(v, f, (fm_scale_counting)c, false);
        json_object_set_new(views, fm_scale_counting_name((fm_scale_counting)c), v);
    }
    json_object_set_new(o, "countings", views);
    for (int i = 0; i < n_published; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f}", "name", published[i].name,
                                              "counting", published[i].counting, "size_exponent",
                                              published[i].size_exponent, "D_exponent",
                                              published[i].token_exponent));
    json_object_set_new(o, "published", list);
    if (f->sweep.there) json_object_set_new(o, "sweep", sweep(&f->sweep));
    char *text = o ? fmi_json_text(o) : NULL;
    json_decref(o);
    if (!text) return FM_FAIL(err, FM_E_NOMEM, "the fit's JSON");
    fm_status st = fm_text_push(out, text, strlen(text), err);
    fmi_free(text);
    return st;
}
