/* A study in one counting: logs of size, tokens, compute and loss, and its budgets. Also how points
 * are drawn for the bootstrap.
 *
 * Budgets are found once, in the compute that the points record, and kept in every counting: runs
 * planned together stay together. How compute follows size is a parabola in logs, since heads and
 * attention weigh more in small models; it is 6N and M exactly where the counting says so. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "fit.h"
#include "small.h"

int fmi_draw(uint64_t seed, fmi_draw_of of, int round, int k, int n)
{
    uint32_t w[4];
    fmi_rng_words(seed, (uint32_t)of, (uint64_t)round, FMI_RNG_SCALE, (uint32_t)k, w);
    uint64_t wide = (uint64_t)w[0] << 32 | w[1];
    return (int)(((wide >> 11) * (uint64_t)n) >> 53);
}

void fmi_cloud_deinit(fmi_cloud *s)
{
    fmi_free(s->block);
    memset(s, 0, sizeof *s);
}

static bool has(const fm_scale_points *p, fm_scale_counting c)
{
    for (int i = 0; i < p->n; i++)
        if (c == FM_SCALE_M ? p->p[i].m == 0 : p->p[i].params == 0) return false;
    return p->n > 0;
}

/* The cost of a token against size: 6N and M as they are; what the points record as a parabola in
 * logs, a straight line where that is as good. ln_cost is overwritten. */
static void find_cost(fmi_cloud *s, fm_scale_counting c, double *ln_cost)
{
    fmi_cost *k = &s->cost;
    double line[2], curve[3], off[2] = {0, 0};
    *k = (fmi_cost){.low = INFINITY, .high = -INFINITY};
    s->ln_c_low = INFINITY;
    s->ln_c_high = -INFINITY;
    for (int i = 0; i < s->n; i++) {
        k->center += s->ln_x[i] / s->n;
        s->ln_c_low = fmin(s->ln_c_low, s->ln_c[i]);
        s->ln_c_high = fmax(s->ln_c_high, s->ln_c[i]);
    }
    for (int i = 0; i < s->n; i++) {
        s->ln_x[i] -= k->center;
        k->low = fmin(k->low, s->ln_x[i]);
        k->high = fmax(k->high, s->ln_x[i]);
    }
    s->factor = c == FM_SCALE_M ? 1 : 6;
    s->power = 1;
    if (c == FM_SCALE_N && fmi_fit_poly(s->n, s->ln_x, ln_cost, NULL, 1, line)) {
        bool bent = fmi_fit_poly(s->n, s->ln_x, ln_cost, NULL, 2, curve);
        for (int i = 0; bent && i < s->n; i++) {
            double t = s->ln_x[i], r = ln_cost[i] - line[0] - line[1] * t;
            off[0] += r * r / s->n;
            off[1] +=
                pow(r - (curve[0] - line[0]) - t * (curve[1] - line[1] + t * curve[2]), 2) / s->n;
        }
        bent = bent && off[0] > 1e-8 && off[1] < off[0] / 4;
        k->c[0] = bent ? curve[0] : line[0];
        k->c[1] = bent ? curve[1] : line[1];
        k->c[2] = bent ? curve[2] : 0;
        s->power = line[1];
        s->factor = exp(line[0] - line[1] * k->center);
        if (!bent && fabs(s->power - 1) < 1e-6 && fabs(s->factor - 6) < 1e-3)
            s->power = 1, s->factor = 6;
    }
    if (s->power == 1 && s->factor == (c == FM_SCALE_M ? 1 : 6)) {
        k->c[0] = log(s->factor) + k->center;
        k->c[1] = 1;
        k->c[2] = 0;
    }
    for (int i = 0; i < s->n; i++) s->ln_x[i] += k->center;
}

fm_status fmi_cloud_init(fmi_cloud *s, const fm_scale_points *p, fm_scale_counting c, bool *there,
                         fm_err *err)
{
    memset(s, 0, sizeof *s);
    *there = has(p, c);
    if (!*there) return FM_OK;
    size_t n = (size_t)p->n;
    double *b = s->block = fmi_alloc(n * (6 * sizeof(double) + 2 * sizeof(int)));
    if (!b) return FM_FAIL(err, FM_E_NOMEM, "a study of %d points", p->n);
    s->ln_x = b;
    s->ln_d = b + n;
    s->ln_c = b + 2 * n;
    s->ln_s = b + 3 * n;
    s->ln_l = b + 4 * n;
    double *recorded = b + 5 * n;
    s->group = (int *)(void *)(b + 6 * n);
    s->order = s->group + n;
    s->n = p->n;
    for (int i = 0; i < p->n; i++) {
        const fm_scale_point *q = &p->p[i];
        s->ln_x[i] = log(c == FM_SCALE_M ? q->m : q->params);
        s->ln_d[i] = log(q->tokens);
        recorded[i] = log(q->flops);
        s->ln_c[i] = c == FM_SCALE_N ? recorded[i]
                                     : s->ln_x[i] + s->ln_d[i] + (c == FM_SCALE_6N ? log(6) : 0);
        s->ln_s[i] = q->params > 0 ? log(q->params_total / q->params) : 0;
        s->ln_l[i] = log(q->loss);
        s->ln_s_mean += s->ln_s[i] / p->n;
    }
    s->n_groups = fmi_scale_budgets(p, recorded, 4, s->group, err);
    if (s->n_groups < 0) {
        fmi_cloud_deinit(s);
        return FM_E_NOMEM;
    }
    for (int g = -1, k = 0; g < s->n_groups; g++)
        for (int i = 0; i < p->n; i++)
            if (s->group[i] == g) s->order[k++] = i;
    for (int i = 0; i < p->n; i++) recorded[i] = s->ln_c[i] - s->ln_d[i];
    find_cost(s, c, recorded);
    return FM_OK;
}

void fmi_resample(const fmi_cloud *s, uint64_t seed, fmi_draw_of of, int round, int *from)
{
    for (int a = 0, b; a < s->n; a = b) {
        for (b = a + 1; b < s->n && s->group[s->order[b]] == s->group[s->order[a]];) b++;
        for (int k = a; k < b; k++) from[k] = s->order[a + fmi_draw(seed, of, round, k, b - a)];
    }
}
