/* The IsoFLOP design: budgets C, and for each a row of sizes about the best one that DeepSeek LLM's
 * law expects, tokens D = C / M. (Hoffmann et al. 2022, approach 2; DeepSeek LLM, section 3.2.)
 *
 * Sizes are taken from the family nearest to log-spaced targets; one whose tokens would be more
 * than the epochs allowed, or fewer than STEPS_MIN steps, is left out and the row grows at its
 * other end. Budgets are what was asked for, or the largest that the machine finishes in the time;
 * a study that it cannot finish is refused with the largest that it can, before any run is planned.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "scale/study.h"

#define STEPS_MIN 40
#define SIZES_MIN 3
#define SIZES_MAX 32
#define BUDGETS_MAX 32
#define FAMILY_MAX 96
#define TIME_SHARE 0.95 /* of the time given that is planned */

/* One evaluation at the end, on the whole held-out split; a save a minute. */
static const char own_settings[] = "[train]\nevals = 1\nsaves = 1\nsave_minutes = 1\nkeep = 1\n";

typedef struct family {
    fmi_study_size size[FAMILY_MAX];
    int n;
} family;

typedef struct row { /* of one budget */
    double C;
    int n, size[SIZES_MAX]; /* in the family, ascending */
    bool cut;               /* text is short, and no size below the best one expected is left */
} row;

typedef struct draft {
    row row[BUDGETS_MAX];
    int n;
    double seconds; /* with o.workers */
} draft;

/* Non-embedding FLOPs a token of the best model for a budget, DeepSeek LLM section 3.2. */
static double best_size(double C)
{
    return 0.1715 * pow(C, 0.5243);
}

static fm_status make_family(const fmi_design *d, family *f, fm_err *err)
{
    fm_status st = FM_OK;
    f->n = 0;
    for (int w = fmi_family_next(0); w && f->n < FAMILY_MAX && !st; w = fmi_family_next(w)) {
        json_t *set = json_array();
        st = set ? fmi_family_sets(&d->o, d->ini, w, set, err)
                 : FM_FAIL(err, FM_E_NOMEM, "a family");
        if (!st) st = fmi_family_count(d->ini, set, d->vocab, d->o.seq, &f->size[f->n++], err);
        json_decref(set);
    }
    return st;
}

/* Whether a size can be trained with a budget; *epochs tells that it was the text that was short.
 */
static bool fits(const fmi_design *d, double M, double C, bool *epochs)
{
    fm_study_run r = {0};
    fmi_design_laws(d, M, C / M, &r);
    *epochs = C / M > d->o.epochs * d->train_tokens || r.epochs > d->o.epochs;
    return !*epochs && C / M / r.batch_tokens >= STEPS_MIN;
}

static int nearest_size(const family *f, double M)
{
    int best = 0;
    for (int i = 1; i < f->n; i++)
        if (fabs(log(f->size[i].M / M)) < fabs(log(f->size[best].M / M))) best = i;
    return best;
}

static void insert(row *r, int size)
{
    int k = r->n++;
    for (; k > 0 && r->size[k - 1] > size; k--) r->size[k] = r->size[k - 1];
    r->size[k] = size;
}

static bool has(const row *r, int size)
{
    for (int i = 0; i < r->n; i++)
        if (r->size[i] == size) return true;
    return false;
}

/* Distinct sizes about the best one. */
static void make_row(const fmi_design *d, const family *f, double C, row *r)
{
    int want = d->o.sizes;
    double centre = best_size(C) * d->o.centre,
           step = want > 1 ? pow(d->o.sizes_span, 1.0 / (want - 1)) : 1;
    bool epochs, cut = false;
    *r = (row){.C = C};
    for (int i = 0; i < want; i++) {
        int k = nearest_size(f, centre * pow(step, i - 0.5 * (want - 1)));
        if (has(r, k)) continue;
        if (fits(d, f->size[k].M, C, &epochs))
            insert(r, k);
        else
            cut |= epochs;
    }
    /* Duplicates and those left out are made up for: in the widest gap, else beyond the ends. */
    while (r->n > 0 && r->n < want) {
        int pick = -1;
        double gap = 0;
        for (int k = 0; k < f->n; k++) {
            if (has(r, k) || !fits(d, f->size[k].M, C, &epochs)) continue;
            double near = INFINITY;
            for (int i = 0; i < r->n; i++)
                near = fmin(near, fabs(log(f->size[k].M / f->size[r->size[i]].M)));
            bool inside = k > r->size[0] && k < r->size[r->n - 1];
            double score = inside ? 1e3 + near : 1 / near;
            if (score > gap) gap = score, pick = k;
        }
        if (pick < 0) break;
        insert(r, pick);
    }
    r->cut = cut && (!r->n || f->size[r->size[0]].M > centre);
}

static double run_seconds(const fmi_design *d, double M, double C)
{
    fm_study_run r = {0};
    fmi_design_laws(d, M, C / M, &r);
    return fmi_design_seconds(d, M, r.tokens, d->val_tokens);
}

static fm_status make_draft(const fmi_design *d, const family *f, double low, double high,
                            draft *out, fm_err *err)
{
    int n = d->o.budgets, k = 0;
    draft p = {.n = n};
    double *seconds = fmi_alloc((size_t)(n * SIZES_MAX * d->o.seeds) * sizeof *seconds);
    if (!seconds) return FM_FAIL(err, FM_E_NOMEM, "a design");
    for (int b = 0; b < n; b++) {
        double C = n > 1 ? low * pow(high / low, (double)b / (n - 1)) : high;
        make_row(d, f, C, &p.row[b]);
        for (int i = 0; i < p.row[b].n; i++)
            for (int s = 0; s < d->o.seeds; s++)
                seconds[k++] = run_seconds(d, f->size[p.row[b].size[i]].M, C);
    }
    p.seconds = fmi_design_makespan(seconds, k, d->o.workers);
    fmi_free(seconds);
    *out = p;
    return FM_OK;
}

/* The largest high with this ratio that ends in the time. */
static fm_status largest(const fmi_design *d, const family *f, double ratio, double *high,
                         draft *out, fm_err *err)
{
    double limit = d->o.minutes * 60 * TIME_SHARE, lo = log(1e8), hi = log(1e26);
    for (int i = 0; i < 60; i++) {
        double mid = 0.5 * (lo + hi);
        fm_status st = make_draft(d, f, exp(mid) / ratio, exp(mid), out, err);
        if (st) return st;
        bool cut = false;
        for (int b = 0; b < out->n; b++) cut |= out->row[b].cut;
        if (out->seconds > limit || cut)
            hi = mid;
        else
            lo = mid;
    }
    *high = exp(lo);
    return make_draft(d, f, *high / ratio, *high, out, err);
}

static fm_status check_rows(const fmi_design *d, const draft *p, fm_err *err)
{
    for (int b = 0; b < p->n; b++) {
        if (p->row[b].cut)
            return FM_FAIL(err, FM_E_RANGE,
                           "budget %.3g: sizes below the best one expected would take more than %g "
                           "epochs of the "
                           "%.0f tokens there are: give more text or smaller budgets",
                           p->row[b].C, d->o.epochs, d->train_tokens);
        if (p->row[b].n >= SIZES_MIN) continue;
        if (d->o.high > 0)
            return FM_FAIL(err, FM_E_RANGE,
                           "budget %.3g: only %d sizes train at least %d steps; expected %d: give "
                           "larger budgets, or smaller batches (--set train.batch=N)",
                           p->row[b].C, p->row[b].n, STEPS_MIN, SIZES_MIN);
        return FM_FAIL(
            err, FM_E_RANGE,
            "in %g minutes this machine finishes budgets from %.3g to %.3g, and for the "
            "smallest %d sizes train at least %d steps; expected %d: give more --minutes, "
            "a smaller --span, or smaller batches (--set train.batch=N)",
            d->o.minutes, p->row[0].C, p->row[p->n - 1].C, p->row[0].n, STEPS_MIN, SIZES_MIN);
    }
    return FM_OK;
}

static fm_status choose(fmi_design *d, const family *f, draft *out, fm_err *err)
{
    const fm_study_design_opts *o = &d->o;
    draft p, q;
    double high = o->high, limit = o->minutes * 60, ratio = o->low > 0 ? o->high / o->low : o->span;
    fm_status st;
    if (o->budgets < 2) ratio = 1;
    if (high <= 0) {
        st = largest(d, f, ratio, &high, &p, err);
    } else {
        st = make_draft(d, f, high / ratio, high, &p, err);
        if (!st && p.seconds > limit) {
            double most, took = p.seconds;
            st = largest(d, f, ratio, &most, &q, err);
            if (!st)
                st = FM_FAIL(
                    err, FM_E_RANGE,
                    "budgets %.3g to %.3g take %.3g minutes on this machine with %d worker%s, %g "
                    "were "
                    "given; the largest it can finish: --low %.3g --high %.3g (%.3g minutes)",
                    high / ratio, high, took / 60, o->workers, o->workers > 1 ? "s" : "",
                    o->minutes, most / ratio, most, q.seconds / 60);
        }
    }
    if (!st) st = check_rows(d, &p, err);
    if (!st) *out = p;
    return st;
}

static fm_status add_run(fmi_design *d, const fmi_study_size *size, int budget, double C, int seed,
                         fm_err *err)
{
    fm_study_run r = {.width = size->width,
                      .layers = size->layers,
                      .experts = size->experts,
                      .seed = seed,
                      .budget = C,
                      .params = size->params,
                      .params_total = size->params_total};
    json_t *set = json_array();
    snprintf(r.id, sizeof r.id, "c%d-w%04d-s%d", budget + 1, size->width, seed);
    fmi_design_laws(d, size->M, C / size->M, &r);
    r.seconds_expected = fmi_design_seconds(d, size->M, r.tokens, d->val_tokens);
    fm_status st = set ? fmi_family_sets(&d->o, d->ini, size->width, set, err)
                       : FM_FAIL(err, FM_E_NOMEM, "a run");
    if (st)
        json_decref(set);
    else
        st = fmi_design_add(d, &r, set, NULL, err);
    if (!st && d->hooks && d->hooks->on_run) d->hooks->on_run(d->hooks->arg, &r);
    return st;
}

static fm_status add_runs(fmi_design *d, const family *f, const draft *p, fm_err *err)
{
    fm_status st = FM_OK;
    for (int b = 0; b < p->n; b++)
        for (int i = 0; i < p->row[b].n; i++)
            for (int s = 1; s <= d->o.seeds && !st; s++)
                st = add_run(d, &f->size[p->row[b].size[i]], b, p->row[b].C, s, err);
    return st;
}

static fm_status check_opts(const fm_study_design_opts *o, fm_err *err)
{
    if (o->budgets < 0 || o->budgets > BUDGETS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d budgets; expected 1 to %d", o->budgets, BUDGETS_MAX);
    if (o->sizes && (o->sizes < SIZES_MIN || o->sizes > SIZES_MAX))
        return FM_FAIL(err, FM_E_RANGE, "%d sizes; expected %d to %d", o->sizes, SIZES_MIN,
                       SIZES_MAX);
    if (o->low < 0 || o->high < 0 || (o->low > 0) != (o->high > 0) || o->low > o->high)
        return FM_FAIL(err, FM_E_RANGE, "budgets from %g to %g: expected both, the smaller first",
                       o->low, o->high);
    if (o->low > 0 && o->low == o->high && o->budgets != 1)
        return FM_FAIL(err, FM_E_RANGE, "one budget, %g: an exponent needs two or more", o->low);
    if (o->seeds < 0 || o->seeds > 1000) return FM_FAIL(err, FM_E_RANGE, "%d seeds", o->seeds);
    if (o->workers > 256)
        return FM_FAIL(err, FM_E_RANGE, "%d workers; the limit is 256", o->workers);
    return FM_OK;
}

/* A wrong setting is found before the first run, not in every one of them. */
static fm_status check_settings(const fmi_design *d, fm_err *err)
{
    json_t *set = json_array();
    fm_status st =
        set ? fmi_family_sets(&d->o, d->ini, 64, set, err) : FM_FAIL(err, FM_E_NOMEM, "settings");
    if (!st) st = fmi_design_check(d, set, NULL, err);
    json_decref(set);
    return st;
}

/* M of the largest model that the design may want, by what is known of the speed. */
static fm_status largest_size(const fmi_design *d, const family *f, double *M, fm_err *err)
{
    double high = d->o.high;
    draft p;
    fm_status st = high > 0 ? FM_OK : largest(d, f, d->o.span, &high, &p, err);
    if (!st) *M = best_size(high) * d->o.centre * sqrt(d->o.sizes_span);
    return st;
}

/* Doubling widths until the largest size of the design is covered. Four at first, since with fewer
 * the budgets that fit the time are not known either; a trial must itself stay short. */
static fm_status measure(fmi_design *d, const family *f, fm_err *err)
{
    int ladder[4], n = 0;
    double most = INFINITY, last = 0;
    fm_status st = FM_OK;
    if (d->o.speed > 0) return FM_OK;
    if (d->o.high > 0) st = largest_size(d, f, &most, err);
    for (int i = 0, w = 32; i < f->n && n < 4 && (n < 2 || last < 2 * most); i++)
        if (f->size[i].width == w) ladder[n++] = w, w *= 2, last = f->size[i].M;
    if (!st) st = fmi_design_probe(d, ladder, n, err);
    for (int w = ladder[n - 1] * 2; !st && n == 4 && d->n_probes < FMI_PROBES_MAX; w *= 2) {
        st = largest_size(d, f, &most, err);
        if (st || most < 1.5 * d->probe[d->n_probes - 1].M) break;
        if (w > 4096 || fmi_design_seconds(d, 6 * d->probe[d->n_probes - 1].M, 8 * 4096, 0) > 60)
            break;
        st = fmi_design_probe(d, &w, 1, err);
    }
    return st;
}

fm_status fm_study_design_run(const fm_study_design_opts *o, const fm_study_hooks *hooks,
                              fm_study_design *out, fm_err *err)
{
    fmi_design d;
    family *f = NULL;
    draft p;
    fm_status st = check_opts(o, err);
    if (!st) st = fmi_design_open(o, hooks, own_settings, &d, err);
    if (st) return st;
    f = fmi_zalloc(sizeof *f);
    st = f ? make_family(&d, f, err) : FM_FAIL(err, FM_E_NOMEM, "a family");
    if (!st) st = check_settings(&d, err);
    if (!st) st = measure(&d, f, err);
    if (!st) st = choose(&d, f, &p, err);
    if (!st) st = add_runs(&d, f, &p, err);
    json_t *extra =
        st ? NULL
           : json_pack("{s:i, s:f, s:f, s:f, s:f, s:i, s:i, s:b}", "budgets", p.n, "minutes",
                       d.o.minutes, "epochs_max", d.o.epochs, "centre", d.o.centre, "sizes_span",
                       d.o.sizes_span, "experts", d.o.dense ? 0 : d.o.experts, "active", d.o.active,
                       "dense", d.o.dense);
    if (!st) st = fmi_design_publish(&d, "isoflop", extra, out, err);
    if (!st) out->n_budgets = p.n;
    fmi_free(f);
    fmi_design_free(&d);
    return st;
}
