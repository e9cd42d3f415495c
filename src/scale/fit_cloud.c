/* A study in one counting: logs of size, tokens, compute and loss, and its budgets. Also how points
 * are drawn for the bootstrap.
 *
 * Budgets are found once, in the compute that the points record, and kept in every counting: runs
 * planned together stay together. How compute follows size is a straight line in logs,
 * C/D = factor size^power; it is 6N and M exactly where the counting says so. */
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
    double *recorded = b + 5 * n, line[2] = {0, 1};
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
    if (c == FM_SCALE_N && !fmi_fit_poly(s->n, s->ln_x, recorded, NULL, 1, line)) {
        line[0] = recorded[0] - s->ln_x[0];
        line[1] = 1;
    }
    s->power = c == FM_SCALE_N ? line[1] : 1;
    s->factor = c == FM_SCALE_N ? exp(line[0]) : c == FM_SCALE_6N ? 6 : 1;
    if (fabs(s->power - 1) < 1e-6 && fabs(s->factor - 6) < 1e-3) s->power = 1, s->factor = 6;
    return FM_OK;
}

void fmi_resample(const fmi_cloud *s, uint64_t seed, fmi_draw_of of, int round, int *from)
{
    for (int a = 0, b; a < s->n; a = b) {
        for (b = a + 1; b < s->n && s->group[s->order[b]] == s->group[s->order[a]];) b++;
        for (int k = a; k < b; k++) from[k] = s->order[a + fmi_draw(seed, of, round, k, b - a)];
    }
}
