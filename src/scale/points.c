/* Points of a study: checked when they come in, completed from one another, grouped by budget.
 *
 * C = MD where M is known, else 6ND; D = C/M or C/6N. Refuses what is not finite and positive.
 * Budgets come from the nominal value of a run where it has one, else from gaps in the sorted C:
 * points read off a figure scatter by a few percent about their budget. */
#include "points.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

fm_status fm_scale_points_new(fm_scale_points **out, fm_err *err)
{
    fm_scale_points *p = fmi_zalloc(sizeof *p);
    if (!p) return FM_FAIL(err, FM_E_NOMEM, "points");
    *out = p;
    return FM_OK;
}

void fm_scale_points_free(fm_scale_points *p)
{
    if (!p) return;
    fmi_free(p->p);
    fmi_free(p);
}

void fm_scale_points_arm(fm_scale_points *p, const char *arm)
{
    p->arm = arm;
}

int fm_scale_points_count(const fm_scale_points *p)
{
    return p->n;
}

const fm_scale_point *fm_scale_points_get(const fm_scale_points *p, int i)
{
    FM_ASSERT(i >= 0 && i < p->n);
    return &p->p[i];
}

/* A value that is given must be finite and positive; 0 means that it is not given. */
static fm_status check(const fm_scale_point *q, const char *name, fm_err *err)
{
    const struct {
        const char *what;
        double v;
    } all[] = {{"params", q->params}, {"params_total", q->params_total},
               {"m", q->m},           {"tokens", q->tokens},
               {"flops", q->flops},   {"loss", q->loss},
               {"lr", q->lr},         {"batch", q->batch_tokens},
               {"budget", q->budget}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (!isfinite(all[i].v) || all[i].v < 0)
            return FM_FAIL(err, FM_E_RANGE, "%s: %s: expected a positive number, found %g", name,
                           all[i].what, all[i].v);
    if (q->loss == 0) return FM_FAIL(err, FM_E_RANGE, "%s: loss is missing or zero", name);
    if (q->params == 0 && q->m == 0)
        return FM_FAIL(err, FM_E_RANGE, "%s: no size: neither params (N) nor m (M)", name);
    if (q->tokens == 0 && q->flops == 0)
        return FM_FAIL(err, FM_E_RANGE, "%s: neither tokens (D) nor flops (C)", name);
    return FM_OK;
}

fm_status fm_scale_points_add(fm_scale_points *p, const fm_scale_point *point, const char *name,
                              fm_err *err)
{
    fm_scale_point q = *point;
    fm_status st = check(&q, name, err);
    if (st) return st;
    if (p->n == FMI_SCALE_POINTS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: more than %d points", name, FMI_SCALE_POINTS_MAX);
    double per_token = q.m > 0 ? q.m : 6 * q.params;
    if (q.tokens == 0) q.tokens = q.flops / per_token;
    if (q.flops == 0) q.flops = q.tokens * per_token;
    if (q.params_total == 0) q.params_total = q.params;
    if (q.params_total < q.params)
        return FM_FAIL(err, FM_E_RANGE, "%s: %g parameters in all, but %g active", name,
                       q.params_total, q.params);
    if (p->n == p->cap) {
        int cap = p->cap ? 2 * p->cap : 64;
        fm_scale_point *grown = fmi_realloc(p->p, (size_t)cap * sizeof *grown);
        if (!grown) return FM_FAIL(err, FM_E_NOMEM, "points");
        p->p = grown;
        p->cap = cap;
    }
    p->p[p->n++] = q;
    return FM_OK;
}

void fm_scale_points_drop_highest(fm_scale_points *p, int n)
{
    for (; n > 0 && p->n > 0; n--) {
        int top = 0;
        for (int i = 1; i < p->n; i++)
            if (p->p[i].loss > p->p[top].loss) top = i;
        memmove(p->p + top, p->p + top + 1, (size_t)(p->n - top - 1) * sizeof *p->p);
        p->n--;
    }
}

void fm_scale_points_drop_above(fm_scale_points *p, double flops)
{
    int n = 0;
    for (int i = 0; i < p->n; i++)
        if (p->p[i].flops <= flops) p->p[n++] = p->p[i];
    p->n = n;
}

/* --- budgets ---------------------------------------------------------------------------------- */

typedef struct place {
    double key, ln_c;
    int i;
} place;

static int by_key(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->key != y->key) return x->key < y->key ? -1 : 1;
    return x->i - y->i;
}

int fmi_scale_budgets(const fm_scale_points *p, const double *ln_flops, int n_min, int *group,
                      fm_err *err)
{
    place *s = fmi_alloc((size_t)(p->n ? p->n : 1) * sizeof *s);
    int n_groups = 0;
    if (!s) {
        FM_FAIL(err, FM_E_NOMEM, "budgets");
        return -1;
    }
    for (int i = 0; i < p->n; i++) {
        double nominal = p->p[i].budget;
        s[i] = (place){nominal > 0 ? log(nominal) : ln_flops[i], ln_flops[i], i};
        group[i] = -1;
    }
    qsort(s, (size_t)p->n, sizeof *s, by_key);
    for (int a = 0, b; a < p->n; a = b) {
        for (b = a + 1; b < p->n; b++) {
            bool named = p->p[s[b].i].budget > 0 && p->p[s[b - 1].i].budget > 0;
            if (s[b].key - s[b - 1].key > (named ? 1e-6 : log(FMI_BUDGET_GAP))) break;
        }
        bool named = p->p[s[a].i].budget > 0;
        if (b - a < n_min || (!named && s[b - 1].key - s[a].key > log(FMI_BUDGET_SPAN))) continue;
        for (int j = a; j < b; j++) group[s[j].i] = n_groups;
        n_groups++;
    }
    fmi_free(s);
    return n_groups;
}
