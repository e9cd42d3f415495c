/* Muon (Jordan et al.; scaled as in the Moonlight report, section 2). Per matrix, transposed where it
 * has more rows than columns so that X is [r, c] with r <= c:
 *     X = u / |u|;  five times:  A = X X^T;  X = 3.4445 X + (-4.7750 A + 2.0315 A A) X
 *     master -= lr (wd master + 0.2 sqrt(max(rows, cols)) X)
 * X is kept in F and rounded to the activation dtype for the products. All
 * matrices of a group go through each product as one batch. */
#include "train/muon.h"

#include <math.h>

#include "model/count.h"

#define NS_STEPS 5
#define NS_A 3.4445
#define NS_B (-4.7750)
#define NS_C 2.0315

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

fm_status fmi_muon_plan(fmi_optim *o, fm_err *err)
{
    fmi_muon_sizes need;
    fmi_count_muon(&o->m->lay, &need);
    int64_t x = need.x, a = need.gram;
    o->batch_max = need.batch;
    fm_exec *ex = o->m->x;
    size_t A = fm_dtype_bytes(o->m->dt), F = fm_dtype_bytes(fmi_full_dtype(o->m->dt));
    fm_status st = fmi_muon_groups(o, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * A, &o->x, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * F, &o->y, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)x * F, &o->p, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * F, &o->a2, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)a * A, &o->ab, err);
    if (!st) st = fm_dev_alloc(ex, (size_t)o->batch_max * F, &o->norm2, err);
    return st;
}

static void *at(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

static void cast(fm_exec *x, const void *src, fm_dtype ds, void *dst, fm_dtype dd, int64_t rows, int64_t cols)
{
    fm_op_gather_rows(x, &(fm_gather_rows_args){ .x = src, .y = dst, .n = rows, .D = cols, .ldx = cols,
                                                 .ldy = cols, .dt_x = ds, .dt_y = dd });
}

/* X <- NS_A X + (NS_B A + NS_C A A) X with A = X X^T, for n matrices [r, c]. */
static void newton_schulz(fmi_optim *o, int n, int64_t r, int64_t c)
{
    fm_exec *x = o->m->x;
    fm_dtype A = o->m->dt, F = fmi_full_dtype(A);
    int64_t rr = r * r, rc = r * c;
    const void *ab = A == F ? o->a : o->ab;
    fm_op_gemm(x, &(fm_gemm_args){ .a = o->x, .b = o->x, .c = o->a, .kind = FM_GEMM_NT, .m = r, .n = r,
                                   .k = c, .lda = c, .ldb = c, .ldc = r, .dt = A, .dtc = F, .batch = n,
                                   .stride_a = rc, .stride_b = rc, .stride_c = rr });
    if (A != F) cast(x, o->a, F, o->ab, A, n * r, r);
    fm_op_gemm(x, &(fm_gemm_args){ .a = ab, .b = ab, .c = o->a2, .kind = FM_GEMM_NN, .m = r, .n = r,
                                   .k = r, .lda = r, .ldb = r, .ldc = r, .dt = A, .dtc = F, .batch = n,
                                   .stride_a = rr, .stride_b = rr, .stride_c = rr });
    fm_op_axpby(x, &(fm_axpby_args){ .x = o->a, .y = o->a2, .ya = A == FM_DTYPE_BF16 ? o->ab : NULL,
                                     .n = n * rr, .alpha = NS_B, .beta = NS_C, .dt = F });
    fm_op_gemm(x, &(fm_gemm_args){ .a = A == F ? o->a2 : o->ab, .b = o->x, .c = o->p,
                                   .kind = FM_GEMM_NN, .m = r, .n = c, .k = r, .lda = r, .ldb = c,
                                   .ldc = c, .dt = A, .dtc = F, .batch = n, .stride_a = rr,
                                   .stride_b = rc, .stride_c = rc });
    fm_op_axpby(x, &(fm_axpby_args){ .x = o->p, .y = o->y, .ya = A == FM_DTYPE_BF16 ? o->x : NULL,
                                     .n = n * rc, .alpha = 1, .beta = NS_A, .dt = F });
    if (A != FM_DTYPE_BF16) cast(x, o->y, F, o->x, A, n * r, c);
}

/* Matrices begin .. begin+n-1 of a group. */
static void run_batch(fmi_optim *o, const fmi_muon_group *g, int begin, int n, const fmi_settings *s,
                      double lr, const fm_step_state *state)
{
    fm_exec *x = o->m->x;
    fm_dtype A = o->m->dt, F = fmi_full_dtype(A);
    bool turn = g->rows > g->cols;
    int64_t r = small_side(g->rows, g->cols), c = turn ? g->rows : g->cols, rc = r * c;
    for (int i = 0; i < n; i++) {
        int64_t off = g->offset + (begin + i) * g->stride;
        void *u = at(o->flat[FMI_V], off, F);
        fm_op_muon_momentum(x, &(fm_muon_momentum_args){ .grad = at(o->g->flat, off, F),
                                                         .m = at(o->flat[FMI_M], off, F), .u = u,
                                                         .norm2 = at(o->norm2, i, F), .state = state,
                                                         .n = rc, .mu = s->train_momentum, .dt = A });
        fm_op_muon_scale(x, &(fm_muon_scale_args){ .x = u, .norm2 = at(o->norm2, i, F),
                                                   .y = at(o->y, i * rc, F), .rows = g->rows,
                                                   .cols = g->cols, .transpose = turn, .dt_x = F,
                                                   .dt_y = F });
    }
    cast(x, o->y, F, o->x, A, n * r, c);
    for (int i = 0; i < NS_STEPS; i++) newton_schulz(o, n, r, c);
    double factor = 0.2 * sqrt((double)c);
    for (int i = 0; i < n; i++) {
        const fm_param *p = &o->m->lay.params[g->first_param + (begin + i) * g->param_stride];
        int64_t off = g->offset + (begin + i) * g->stride;
        fm_op_muon_apply(x, &(fm_muon_apply_args){ .master = at(o->flat[FMI_MASTER], off, F),
                                                   .o = at(o->y, i * rc, F), .weight = p->w,
                                                   .state = state, .rows = g->rows, .cols = g->cols,
                                                   .transpose = turn, .lr = lr,
                                                   .weight_decay = s->train_weight_decay,
                                                   .factor = factor, .dt = A,
                                                   .weight_dtype = p->dtype });
    }
}

int fmi_muon_batch(const fmi_muon_group *g)
{
    int64_t fit = FMI_MUON_ELEMENTS / (g->rows * g->cols);
    return fit < 1 ? 1 : fit > g->count ? g->count : (int)fit;
}

void fmi_muon_run(fmi_optim *o, const fmi_settings *s, double lr, const fm_step_state *state)
{
    for (int i = 0; i < o->n_groups; i++) {
        const fmi_muon_group *g = &o->groups[i];
        int most = fmi_muon_batch(g);
        for (int b = 0; b < g->count; b += most) {
            int n = g->count - b < most ? g->count - b : most;
            run_batch(o, g, b, n, s, lr, state);
        }
    }
}
