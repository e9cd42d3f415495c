/* SOAP (Vyas et al. 2024, arXiv 2409.11321, algorithm 3): per matrix, with Shampoo's factors L, R and
 * their eigenbases as rows of U, W:
 *     L += (1-b)(G G^T - L), R likewise;  M = b1 M + (1-b1) G;  V = b2 V + (1-b2) (U G W^T)^2
 *     master -= lr (wd master + U^T (Adam of U M W^T, V) W)
 * Every N steps, after the update: U = QR of (L U^T), its columns in descending order of eigenvalue. The
 * first step makes factors and bases only, as the authors' implementation does; theirs takes eigenvectors
 * there, here power iterations from the identity (one by default) lead towards them. A side above the
 * limit has no basis. M stays in the original space, so that a new basis leaves it as it is. Products in
 * F; the matrices of a group go through them as one batch. */
#include "model/count.h"
#include "train/muon.h"

static int64_t block(const fmi_optim *o, int64_t n)
{
    return n <= o->parts.soap ? n * n : 0;
}

fm_status fmi_soap_plan(fmi_optim *o, fm_err *err)
{
    const fm_layout *lay = &o->m->lay;
    fmi_soap_sizes k;
    fmi_count_soap(lay, o->parts.soap, &k);
    size_t F = fm_dtype_bytes(fmi_full_dtype(o->m->dt));
    fm_status st = fmi_muon_groups(o, err);
    o->soap_at = fmi_alloc((size_t)lay->n_params * sizeof *o->soap_at);
    if (!st && !o->soap_at) st = FM_FAIL(err, FM_E_NOMEM, "SOAP: %d tensors", lay->n_params);
    for (int i = 0; i < lay->n_params && !st; i++) o->soap_at[i] = -1;
    int64_t at = 0;
    for (const fmi_muon_group *g = o->groups; !st && g < o->groups + o->n_groups; g++)
        for (int i = 0; i < g->count; i++, at += 2 * (block(o, g->rows) + block(o, g->cols)))
            o->soap_at[g->first_param + i * g->param_stride] = at;
    fm_exec *x = o->m->x;
    if (!st) st = fm_dev_alloc(x, (size_t)k.state * F, &o->soap, err);
    if (!st) st = fm_dev_alloc(x, (size_t)k.x * F, &o->y, err);
    if (!st) st = fm_dev_alloc(x, (size_t)k.x * F, &o->p, err);
    if (!st) st = fm_dev_alloc(x, (size_t)k.x * F, &o->t, err);
    if (!st) st = fm_dev_alloc(x, (size_t)k.gram * F, &o->a, err);
    if (!st) st = fm_dev_alloc(x, (size_t)k.order * sizeof(int32_t), &o->order, err);
    return st;
}

static void *at(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

void *fmi_soap_state(const fmi_optim *o, int param, int k, int64_t *n)
{
    const fm_param *p = &o->m->lay.params[param];
    if (!o->parts.soap || o->soap_at[param] < 0) return NULL;
    *n = k < 2 ? p->rows : p->cols;
    int64_t begin = k < 2 ? 0 : 2 * block(o, p->rows), size = block(o, *n);
    if (!size) return NULL;
    return at(o->soap, o->soap_at[param] + begin + (k & 1) * size, fmi_full_dtype(o->m->dt));
}

/* A batch of matrices of one shape. */
typedef struct batch {
    fmi_optim *o;
    fm_exec *x;
    fm_dtype F;
    int first, param_stride, n;
    int64_t r, c, offset, stride, per; /* per: elements of a matrix's factors and bases */
    void *side[4];                     /* of the first: fmi_soap_state */
    const fm_step_state *state;
} batch;

/* C = A B in one of the three ways, for all matrices. */
static void product(const batch *b, fm_gemm_kind kind, const void *x, int64_t sx, const void *y, int64_t sy,
                    void *z, int64_t m, int64_t n, int64_t k)
{
    fm_op_gemm(b->x, &(fm_gemm_args){ .a = x, .b = y, .c = z, .kind = kind, .m = m, .n = n, .k = k,
                                      .lda = kind == FM_GEMM_TN ? m : k, .ldb = kind == FM_GEMM_NT ? k : n,
                                      .ldc = n, .dt = b->F, .dtc = b->F, .batch = b->n, .stride_a = sx,
                                      .stride_b = sy, .stride_c = m * n });
}

/* dst = U src W^T, or back: U^T src W; a side without a basis stays. dst is packed; o->t is used. */
static void turn(const batch *b, const void *src, int64_t stride, void *dst, bool back)
{
    const void *u = b->side[1], *w = b->side[3];
    int64_t r = b->r, c = b->c, rc = r * c;
    void *mid = w ? b->o->t : dst;
    if (u) product(b, back ? FM_GEMM_TN : FM_GEMM_NN, u, b->per, src, stride, mid, r, c, r);
    if (u) src = mid, stride = rc;
    if (w) product(b, back ? FM_GEMM_NN : FM_GEMM_NT, src, stride, w, b->per, dst, r, c, c);
    if (!u && !w)
        fm_op_gather_rows(b->x, &(fm_gather_rows_args){ .x = src, .y = dst, .n = b->n, .D = rc,
                                                        .ldx = stride, .ldy = rc, .dt_x = b->F,
                                                        .dt_y = b->F });
}

/* Adam in the basis, from the gradients in y; moves the masters. */
static void update(const batch *b, const fmi_settings *s, int64_t step, double lr)
{
    fmi_optim *o = b->o;
    int64_t rc = b->r * b->c;
    turn(b, o->y, rc, o->p, false);
    turn(b, at(o->flat[FMI_M], b->offset, b->F), b->stride, o->y, false);
    for (int i = 0; i < b->n; i++)
        fm_op_soap_adam(b->x, &(fm_soap_adam_args){ .g = at(o->p, i * rc, b->F), .m = at(o->y, i * rc, b->F),
                                                    .v = at(o->flat[FMI_V], b->offset + i * b->stride, b->F),
                                                    .state = b->state, .n = rc, .step = step,
                                                    .beta1 = s->train_momentum, .beta2 = s->train_beta2,
                                                    .eps = s->train_eps, .dt = o->m->dt });
    turn(b, o->y, rc, o->p, true);
    for (int i = 0; i < b->n; i++) {
        const fm_param *p = &o->m->lay.params[b->first + i * b->param_stride];
        fm_op_muon_apply(b->x, &(fm_muon_apply_args){
            .master = at(o->flat[FMI_MASTER], b->offset + i * b->stride, b->F),
            .o = at(o->p, i * rc, b->F), .weight = p->w, .state = b->state, .rows = b->r, .cols = b->c,
            .lr = lr, .weight_decay = s->train_weight_decay, .factor = 1, .dt = o->m->dt,
            .weight_dtype = p->dtype });
    }
}

/* Factors of both sides from the gradients in y. */
static void factors(const batch *b, double beta)
{
    int64_t rc = b->r * b->c;
    for (int k = 0; k < 4; k += 2) {
        int64_t n = k ? b->c : b->r;
        if (!b->side[k]) continue;
        product(b, k ? FM_GEMM_TN : FM_GEMM_NT, b->o->y, rc, b->o->y, rc, b->o->a, n, n, k ? b->r : b->c);
        for (int i = 0; i < b->n; i++)
            fm_op_ema(b->x, &(fm_ema_args){ .x = at(b->o->a, i * n * n, b->F),
                                            .y = at(b->side[k], i * b->per, b->F), .state = b->state,
                                            .n = n * n, .beta = beta, .dt = b->o->m->dt });
    }
}

static void refresh(const batch *b)
{
    for (int k = 0; k < 4; k += 2) {
        int64_t n = k ? b->c : b->r;
        if (!b->side[k]) continue;
        product(b, FM_GEMM_NN, b->side[k + 1], b->per, b->side[k], b->per, b->o->a, n, n, n);
        fm_op_soap_basis(b->x, &(fm_soap_basis_args){ .u = b->side[k + 1], .p = b->o->a,
                                                      .v = at(b->o->flat[FMI_V], b->offset, b->F),
                                                      .tmp = b->o->t, .order = b->o->order,
                                                      .state = b->state, .n = n, .rows = b->r,
                                                      .cols = b->c, .stride_u = b->per,
                                                      .stride_v = b->stride, .batch = b->n, .left = !k,
                                                      .dt = b->o->m->dt });
    }
}

static void run_batch(const batch *b, const fmi_settings *s, int64_t step, double lr)
{
    fmi_optim *o = b->o;
    for (int i = 0; i < b->n; i++) { /* the first step's gradient is for the bases alone */
        int64_t off = b->offset + i * b->stride;
        fm_op_soap_moment(b->x, &(fm_soap_moment_args){ .grad = at(o->g->flat, off, b->F),
                                                        .m = at(o->flat[FMI_M], off, b->F),
                                                        .g = at(o->y, i * b->r * b->c, b->F),
                                                        .state = b->state, .n = b->r * b->c,
                                                        .beta = step > 1 ? s->train_momentum : 1,
                                                        .dt = o->m->dt });
    }
    factors(b, s->train_beta2);
    if (step > 1) update(b, s, step - 1, lr);
    /* From bases of zeros the first pass gives the identity. */
    int64_t passes = step == 1 ? 1 + s->train_soap_first : (step - 1) % s->train_soap_every == 0;
    while (passes-- > 0) refresh(b);
}

void fmi_soap_run(fmi_optim *o, const fmi_settings *s, int64_t step, double lr, const fm_step_state *state)
{
    for (const fmi_muon_group *g = o->groups; g < o->groups + o->n_groups; g++) {
        int most = fmi_muon_batch(g);
        for (int at0 = 0; at0 < g->count; at0 += most) {
            int64_t n;
            batch b = { .o = o, .x = o->m->x, .F = fmi_full_dtype(o->m->dt), .r = g->rows, .c = g->cols,
                        .n = g->count - at0 < most ? g->count - at0 : most,
                        .first = g->first_param + at0 * g->param_stride, .param_stride = g->param_stride,
                        .offset = g->offset + at0 * g->stride, .stride = g->stride, .state = state,
                        .per = 2 * (block(o, g->rows) + block(o, g->cols)) };
            for (int k = 0; k < 4; k++) b.side[k] = fmi_soap_state(o, b.first, k, &n);
            run_batch(&b, s, step, lr);
        }
    }
}
