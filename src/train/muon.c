/* Muon (Jordan et al.; scaled as in the Moonlight report, section 2). Per matrix, transposed where it
 * has more rows than columns so that X is [r, c] with r <= c:
 *     X = u / |u|;  five times:  A = X X^T;  X = 3.4445 X + (-4.7750 A + 2.0315 A A) X
 *     master -= lr (wd master + 0.2 sqrt(max(rows, cols)) X)
 * X is kept in F and rounded to the activation dtype for the products. Matrices of one shape, whichever
 * layer and role they have, go through the iteration together. */
#include "train/muon.h"

#include <math.h>
#include <stdlib.h>

#include "model/count.h"

#define NS_STEPS 5

static int64_t small_side(int64_t rows, int64_t cols)
{
    return rows < cols ? rows : cols;
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
    int64_t fit = FMI_MUON_ELEMENTS / (g->rows * g->cols);
    return fit < 1 ? 1 : fit > g->count ? g->count : (int)fit;
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
    o->matrices = fmi_zalloc((size_t)(lay->n_params + 1) * sizeof *o->matrices);
    if (!o->matrices) return FM_FAIL(err, FM_E_NOMEM, "optimizer: %d matrices", lay->n_params);
    for (int i = 0; i < lay->n_params; i++) {
        const fm_param *p = &lay->params[i];
        if (is_muon(p) && o->g->offset[i] >= 0)
            o->matrices[o->n_matrices++] = (fmi_muon_matrix){ i, p->rows, p->cols, o->g->offset[i] };
    }
    qsort(o->matrices, (size_t)o->n_matrices, sizeof *o->matrices, by_shape);
    return FM_OK;
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
    if (!st) st = fm_dev_alloc(ex, (size_t)x * F, &o->p, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a2, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * A, &o->ab, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)need.batch * F, &o->norm2, err);
    return st;
}

static void *at(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

/* n matrices of one shape. */
static void run_batch(fmi_optim *o, const fmi_muon_matrix *list, int n, const fmi_settings *s, double lr,
                      const fm_step_state *state)
{
    fm_exec *x = o->m->x;
    fm_dtype A = o->m->dt, F = fmi_full_dtype(A);
    int64_t rows = list->rows, cols = list->cols, r = small_side(rows, cols), rc = rows * cols, c = rc / r;
    bool turn = rows > cols;
    for (int i = 0; i < n; i++) {
        int64_t off = list[i].offset;
        void *u = at(o->flat[FMI_V], off, F);
        fm_op_muon_momentum(x, &(fm_muon_momentum_args){ .grad = at(o->g->flat, off, F),
                                                         .m = at(o->flat[FMI_M], off, F), .u = u,
                                                         .norm2 = at(o->norm2, i, F), .state = state,
                                                         .n = rc, .mu = s->train_momentum, .dt = A });
        fm_op_muon_scale(x, &(fm_muon_scale_args){ .x = u, .norm2 = at(o->norm2, i, F),
                                                   .y = at(o->y, i * rc, F), .rows = rows,
                                                   .cols = cols, .transpose = turn, .dt_x = F,
                                                   .dt_y = F });
    }
    fm_op_newton_schulz(x, &(fm_newton_schulz_args){ .y = o->y, .x = o->x, .p = o->p, .g = o->a,
                                                     .g2 = o->a2, .ga = o->ab, .n = n, .r = r, .c = c,
                                                     .steps = NS_STEPS, .dt = A });
    double factor = 0.2 * sqrt((double)c);
    for (int i = 0; i < n; i++) {
        const fm_param *p = &o->m->lay.params[list[i].param];
        fm_op_muon_apply(x, &(fm_muon_apply_args){ .master = at(o->flat[FMI_MASTER], list[i].offset, F),
                                                   .o = at(o->y, i * rc, F), .weight = p->w,
                                                   .state = state, .rows = rows, .cols = cols,
                                                   .transpose = turn, .lr = lr,
                                                   .weight_decay = s->train_weight_decay,
                                                   .factor = factor, .dt = A,
                                                   .weight_dtype = p->dtype });
    }
}

void fmi_muon_run(fmi_optim *o, const fmi_settings *s, double lr, const fm_step_state *state)
{
    for (int i = 0, n; i < o->n_matrices; i += n) {
        const fmi_muon_matrix *m = &o->matrices[i];
        int64_t most = FMI_MUON_ELEMENTS / (m->rows * m->cols);
        n = 1;
        while (n < most && i + n < o->n_matrices && m[n].rows == m->rows && m[n].cols == m->cols) n++;
        run_batch(o, m, n, s, lr, state);
    }
}
