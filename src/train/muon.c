/* Muon (Jordan et al.; scaled as in the Moonlight report, section 2). Per matrix, transposed where it
 * has more rows than columns so that X is [r, c] with r <= c:
 *     X = u / |u|;  three or four times:  G = X X^T;  X = (a + b G + c G G) X
 *     master -= lr (wd master + 0.2 sqrt(max(rows, cols)) X)
 * with a, b, c of their own in every step (Amsel et al. 2025, Polar Express, arXiv 2505.16932), the first
 * time on X scaled to singular values of at most 1, its Schatten 8-norm known from G G (docs/training.md).
 * Between steps X is rounded to the activation dtype. Matrices of one shape, whichever layer and role they
 * have, go through the iteration together. */
#include "train/muon.h"

#include <stdlib.h>

#include "model/count.h"

int fmi_muon_steps(int64_t side, const double (**out)[3])
{
    /* tools/polar_express.py 3 0.01 and 4 0.003 */
    static const double three[][3] = { { 7.9401, -22.3223, 16.0788 },
                                       { 3.6054, -2.6453, 0.5109 },
                                       { 2.6684, -1.9829, 0.4533 } };
    static const double four[][3] = { { 8.1693, -22.9667, 16.5429 },
                                      { 3.9795, -2.8674, 0.5294 },
                                      { 3.4842, -2.5590, 0.5013 },
                                      { 2.5061, -1.8478, 0.4383 } };
    bool small = side <= 128;
    *out = small ? three : four;
    return small ? 3 : 4;
}

static bool is_muon(const fm_param *p)
{
    return p->kind == FM_PARAM_MATRIX;
}

/* One group per (layer, role) of experts, one per other matrix. */
static int list_groups(const fmi_optim *o, fmi_muon_group *out)
{
    const fm_layout *lay = &o->m->lay;
    int n = 0;
    for (int i = 0; i < lay->n_params; i++) {
        const fm_param *p = &lay->params[i];
        if (!is_muon(p) || o->g->offset[i] < 0) continue;
        if (p->expert > 0) continue; /* in expert 0's group */
        fmi_muon_group g = { .first_param = i, .count = 1, .rows = p->rows, .cols = p->cols,
                             .offset = o->g->offset[i] };
        if (p->expert == 0) {
            while (i + 3 * g.count < lay->n_params && lay->params[i + 3 * g.count].expert == g.count &&
                   lay->params[i + 3 * g.count].layer == p->layer)
                g.count++;
            g.param_stride = 3;
            g.stride = g.count > 1 ? o->g->offset[i + 3] - g.offset : 0;
            for (int e = 1; e < g.count; e++)
                FM_ASSERT(o->g->offset[i + 3 * e] == g.offset + e * g.stride);
        }
        if (out) out[n] = g;
        n++;
    }
    return n;
}

fm_status fmi_muon_groups(fmi_optim *o, fm_err *err)
{
    o->n_groups = list_groups(o, NULL);
    o->groups = fmi_zalloc((size_t)(o->n_groups + 1) * sizeof *o->groups);
    if (!o->groups) return FM_FAIL(err, FM_E_NOMEM, "optimizer: %d groups", o->n_groups);
    list_groups(o, o->groups);
    return FM_OK;
}

int fmi_muon_batch(const fmi_muon_group *g)
{
    int64_t fit = fmi_muon_fit(g->rows * g->cols);
    return fit > g->count ? g->count : (int)fit;
}

/* By shape, and the parameters' order within one. */
static int by_shape(const void *pa, const void *pb)
{
    const fmi_muon_matrix *a = pa, *b = pb;
    if (a->rows != b->rows) return a->rows < b->rows ? -1 : 1;
    if (a->cols != b->cols) return a->cols < b->cols ? -1 : 1;
    return a->param < b->param ? -1 : a->param > b->param;
}

static fm_status list_matrices(fmi_optim *o, fm_err *err)
{
    const fm_layout *lay = &o->m->lay;
    size_t bytes = (size_t)lay->n_params * sizeof(fm_segment);
    o->matrices = fmi_zalloc((size_t)(lay->n_params + 1) * sizeof *o->matrices);
    if (!o->matrices) return FM_FAIL(err, FM_E_NOMEM, "optimizer: %d matrices", lay->n_params);
    for (int i = 0; i < lay->n_params; i++) {
        const fm_param *p = &lay->params[i];
        if (is_muon(p) && o->g->offset[i] >= 0)
            o->matrices[o->n_matrices++] = (fmi_muon_matrix){ i, p->rows, p->cols, o->g->offset[i] };
    }
    qsort(o->matrices, (size_t)o->n_matrices, sizeof *o->matrices, by_shape);
    fm_segment *segs = fmi_zalloc(bytes + 1);
    if (!segs) return FM_FAIL(err, FM_E_NOMEM, "optimizer: %d matrices", o->n_matrices);
    for (int i = 0; i < o->n_matrices; i++) {
        const fm_param *p = &lay->params[o->matrices[i].param];
        segs[i] = (fm_segment){ .offset = o->matrices[i].offset, .n = fmi_param_count(p), .weight = p->w,
                                .weight_dtype = (int32_t)p->dtype };
    }
    fm_status st = fm_dev_alloc(o->m->x, bytes, (void **)&o->matrix_segs, err);
    if (!st) st = fm_segments_write(o->m->x, o->matrix_segs, segs, o->n_matrices, err);
    fmi_free(segs);
    return st;
}

fm_status fmi_muon_plan(fmi_optim *o, fm_err *err)
{
    fmi_muon_sizes need;
    fmi_count_muon(&o->m->lay, &need);
    int64_t x = need.x, a = need.gram;
    fm_exec *ex = o->m->x;
    size_t A = fm_dtype_bytes(o->m->dt), F = fm_dtype_bytes(fmi_full_dtype(o->m->dt));
    fm_status st = list_matrices(o, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * A, &o->x, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * F, &o->y, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * A, &o->p, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a2, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * A, &o->ab, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)need.batch * F, &o->norm2, err);
    return st;
}

void fmi_muon_run(fmi_optim *o, const fmi_settings *s, double lr, const fm_step_state *state)
{
    for (int i = 0, n; i < o->n_matrices; i += n) {
        const fmi_muon_matrix *m = &o->matrices[i];
        int64_t most = fmi_muon_fit(m->rows * m->cols);
        const double(*coef)[3];
        int steps = fmi_muon_steps(m->rows < m->cols ? m->rows : m->cols, &coef);
        n = 1;
        while (n < most && i + n < o->n_matrices && m[n].rows == m->rows && m[n].cols == m->cols) n++;
        fm_op_muon(o->m->x, &(fm_muon_args){ .grad = o->g->flat, .m = o->flat[FMI_M], .u = o->flat[FMI_V],
                                             .master = o->flat[FMI_MASTER], .segs = o->matrix_segs + i,
                                             .state = state, .y = o->y, .x = o->x, .p = o->p, .g = o->a,
                                             .g2 = o->a2, .ga = o->ab, .norm2 = o->norm2, .n = n,
                                             .rows = m->rows, .cols = m->cols, .coef = coef,
                                             .steps = steps,
                                             .mu = s->train_momentum, .lr = lr,
                                             .weight_decay = s->train_weight_decay, .dt = o->m->dt });
    }
}
