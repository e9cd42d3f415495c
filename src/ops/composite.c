/* Composite operators: what they mean in terms of the fine ones, which any table can run.
 *
 * A backend may fuse them; the bits are those of this file. The fine operators come from the table in
 * use, so that a level without a fused version still runs its own products. */
#include <math.h>

#include "ops/ref/ref.h"

typedef struct product {
    fm_gemm_kind kind;
    const void *a, *b;
    void *c;
    int64_t n, k;        /* columns of C; inner (NT, NN) or rows of C (TN) */
    fm_dtype dtc;
    bool accumulate;
} product;

/* One product over all groups. For TN `b` is the [G, n] operand and c the gradient (table). */
static fm_status multiply(const fm_kernel_ctx *x, fm_dtype dt, const int32_t *offsets, int groups, int64_t G,
                          const product *p)
{
    bool tn = p->kind == FM_GEMM_TN;
    fm_gemm_args g = {.a = p->a, .kind = p->kind, .m = tn ? p->k : G, .n = p->n, .k = tn ? G : p->k,
                      .lda = p->k, .ldb = p->kind == FM_GEMM_NT ? p->k : p->n, .ldc = p->n, .dt = dt,
                      .dtc = p->dtc, .accumulate = p->accumulate};
    g.b = p->b;
    g.c = p->c;
    if (groups > 0) {
        g.offsets = offsets;
        g.groups = groups;
        g.table = (void *const *)(tn ? p->c : p->b);
    }
    return x->ops->gemm(x, &g);
}

static fm_status gather(const fm_kernel_ctx *x, const void *from, const int32_t *rows, void *to, int64_t n,
                        int64_t D, fm_dtype dt)
{
    return x->ops->gather_rows(x, &(fm_gather_rows_args){.x = from, .rows = rows, .y = to, .n = n, .D = D,
                                                         .ldx = D, .ldy = D, .dt_x = dt, .dt_y = dt});
}

REF_OP(gated)
{
    int64_t G = a->G, D = a->D, M = a->M;
    fm_dtype F = fmi_full_dtype(a->dt);
    const void *x = a->row_token ? a->xg : a->x;
    fm_status st = a->row_token ? gather(k, a->x, a->row_token, a->xg, G, D, a->dt) : FM_OK;
    product gate = {FM_GEMM_NT, x, a->w_gate, a->gate, M, D, a->dt, false};
    product up = {FM_GEMM_NT, x, a->w_up, a->up, M, D, a->dt, false};
    if (!st) st = multiply(k, a->dt, a->offsets, a->groups, G, &gate);
    if (!st) st = multiply(k, a->dt, a->offsets, a->groups, G, &up);
    if (!st)
        st = k->ops->swiglu(k, &(fm_swiglu_args){.gate = a->gate, .up = a->up, .row_slot = a->row_slot,
                                                 .weight = a->weight, .h = a->h, .G = G, .M = M,
                                                 .ld_gate = M, .ld_up = M, .ld_h = M, .dt = a->dt});
    if (st || !a->y) return st;
    if (a->base && a->base != a->y) st = gather(k, a->base, NULL, a->y, G, D, F);
    product down = {FM_GEMM_NT, a->h, a->w_down, a->y, D, M, a->dty, a->base != NULL};
    return st ? st : multiply(k, a->dt, a->offsets, a->groups, G, &down);
}

REF_OP(gated_bwd)
{
    int64_t G = a->G, D = a->D, M = a->M;
    fm_dtype A = a->dt, F = fmi_full_dtype(a->dt);
    const void *x = a->row_token ? a->xg : a->x, *dy = a->row_token ? a->xg : a->dy;
    fm_status st = FM_OK;
    if (a->row_token) st = gather(k, a->dy, a->row_token, a->xg, G, D, A);
    if (!st)
        st = k->ops->swiglu(k, &(fm_swiglu_args){.gate = a->gate, .up = a->up, .row_slot = a->row_slot,
                                                 .weight = a->weight, .h = a->h, .G = G, .M = M,
                                                 .ld_gate = M, .ld_up = M, .ld_h = M, .dt = A});
    product down[2] = {{FM_GEMM_NN, dy, a->w_down, a->dh, M, D, A, false},
                       {FM_GEMM_TN, dy, a->h, a->g_down, M, D, F, true}};
    for (int i = 0; i < 2 && !st; i++) st = multiply(k, A, a->offsets, a->groups, G, &down[i]);
    if (!st)
        st = k->ops->swiglu_bwd(k, &(fm_swiglu_bwd_args){
                                       .dh = a->dh, .gate = a->gate, .up = a->up, .row_slot = a->row_slot,
                                       .weight = a->weight, .dgate = a->dgate, .dup = a->dup,
                                       .dweight = a->dweight, .G = G, .M = M, .ld_dh = M, .ld_gate = M,
                                       .ld_up = M, .ld_dgate = M, .ld_dup = M, .dt = A});
    if (!st && a->row_token) st = gather(k, a->x, a->row_token, a->xg, G, D, A);
    product list[4] = {{FM_GEMM_TN, a->dgate, x, a->g_gate, D, M, F, true},
                       {FM_GEMM_TN, a->dup, x, a->g_up, D, M, F, true},
                       {FM_GEMM_NN, a->dgate, a->w_gate, a->dx, D, M, a->dtdx, false},
                       {FM_GEMM_NN, a->dup, a->w_up, a->dx, D, M, a->dtdx, true}};
    for (int i = 0; i < 4 && !st; i++) st = multiply(k, A, a->offsets, a->groups, G, &list[i]);
    return st;
}

static void *elements(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

/* Rows t .. t+n-1 of a chunk that begins at row `begin`: logits, losses and, with gradients, dx. */
static fm_status linear_xent_block(const fm_kernel_ctx *k, const fm_linear_xent_args *a, int64_t begin,
                                   int64_t t, int64_t n)
{
    int64_t D = a->D, W = a->W;
    fm_dtype A = a->dt, F = fmi_full_dtype(A);
    void *d = a->dx ? elements(a->dlogits, (t - begin) * W, A) : NULL;
    fm_gemm_args logits = {.a = elements(a->x, t * D, A), .b = a->w, .c = a->logits, .kind = FM_GEMM_NT,
                           .m = n, .n = W, .k = D, .lda = D, .ldb = D, .ldc = W, .dt = A, .dtc = F};
    fm_xent_args xent = {.logits = a->logits,
                         .target = a->target + t,
                         .loss = elements(a->loss, t, F),
                         .dlogits = d,
                         .T = n,
                         .W = W,
                         .ld = W,
                         .ldd = W,
                         .grad_scale = a->grad_scale,
                         .dt = A};
    fm_gemm_args dx = {.a = d, .b = a->w, .kind = FM_GEMM_NN, .m = n, .n = D, .k = W, .lda = W, .ldb = D,
                       .ldc = D, .dt = A, .dtc = F};
    fm_status st = k->ops->gemm(k, &logits);
    if (!st) st = k->ops->xent(k, &xent);
    if (st || !a->dx) return st;
    dx.c = elements(a->dx, t * D, F);
    return k->ops->gemm(k, &dx);
}

REF_OP(linear_xent)
{
    int64_t D = a->D, W = a->W;
    fm_dtype A = a->dt;
    for (int64_t begin = 0; begin < a->T; begin += a->chunk) {
        int64_t n = a->T - begin < a->chunk ? a->T - begin : a->chunk, end = begin + n;
        fm_status st = FM_OK;
        for (int64_t t = begin; t < end && !st; t += a->block)
            st = linear_xent_block(k, a, begin, t, end - t < a->block ? end - t : a->block);
        fm_gemm_args dw = {.a = a->dlogits, .b = elements(a->x, begin * D, A), .c = a->dw, .kind = FM_GEMM_TN,
                           .m = W, .n = D, .k = n, .lda = W, .ldb = D, .ldc = D, .dt = A,
                           .dtc = fmi_full_dtype(A), .accumulate = true};
        if (!st && a->dx) st = k->ops->gemm(k, &dw);
        if (st) return st;
    }
    return FM_OK;
}

/* Step i: from x to p, p to x, .., the last one to y. */
static fm_status newton_schulz_step(const fm_kernel_ctx *k, const fm_newton_schulz_args *a, int i)
{
    int64_t r = a->r, c = a->c, rr = r * r, rc = r * c;
    fm_dtype A = a->dt, F = fmi_full_dtype(A);
    bool round = A != F, last = i == a->steps - 1;
    const void *x = i & 1 ? a->p : a->x, *g = round ? a->ga : a->g;
    fm_gemm_args gram = {.a = x, .b = x, .c = a->g, .kind = FM_GEMM_NT, .m = r, .n = r, .k = c, .lda = c,
                         .ldb = c, .ldc = r, .dt = A, .dtc = F, .batch = (int)a->n, .stride_a = rc,
                         .stride_b = rc, .stride_c = rr};
    fm_gather_rows_args rounded = {.x = a->g, .y = a->ga, .n = a->n * r, .D = r, .ldx = r, .ldy = r,
                                   .dt_x = F, .dt_y = A};
    /* G is symmetric to the last bit (products commute, chains run over the same k), so G G = G G^T. */
    fm_gemm_args square = {.a = g, .b = g, .c = a->g2, .kind = FM_GEMM_NT, .m = r, .n = r, .k = r, .lda = r,
                           .ldb = r, .ldc = r, .dt = A, .dtc = F, .batch = (int)a->n, .stride_a = rr,
                           .stride_b = rr, .stride_c = rr};
    fm_newton_schulz_mix_args mix = {.g = a->g, .g2 = a->g2, .b = a->ga, .sums = i ? NULL : a->sums,
                                     .n = a->n, .r = r, .coef = a->coef[i], .dt = A};
    fm_gemm_args turn = {.a = a->ga, .b = x, .c = last ? a->y : i & 1 ? a->x : a->p, .kind = FM_GEMM_NN,
                         .m = r, .n = c, .k = r, .lda = r, .ldb = c, .ldc = c, .dt = A, .dtc = last ? F : A,
                         .batch = (int)a->n, .stride_a = rr, .stride_b = rc, .stride_c = rc};
    fm_status st = k->ops->gemm(k, &gram);
    if (!st && round) st = k->ops->gather_rows(k, &rounded);
    if (!st) st = k->ops->gemm(k, &square);
    if (!st) st = k->ops->newton_schulz_mix(k, &mix);
    return st ? st : k->ops->gemm(k, &turn);
}

REF_OP(newton_schulz)
{
    fm_status st = FM_OK;
    for (int i = 0; a->n > 0 && i < a->steps && !st; i++) st = newton_schulz_step(k, a, i);
    return st;
}

REF_OP(muon)
{
    int64_t rc = a->rows * a->cols;
    bool turn = a->rows > a->cols;
    fm_dtype A = a->dt, F = fmi_full_dtype(A);
    fm_status st = FM_OK;
    if (a->n <= 0 || a->state->bad) return FM_OK;
    for (int64_t i = 0; i < a->n && !st; i++) {
        int64_t off = a->segs[i].offset;
        fm_muon_momentum_args mo = {.grad = elements(a->grad, off, F), .m = elements(a->m, off, F),
                                    .u = elements(a->u, off, F), .norm2 = elements(a->norm2, i, F),
                                    .state = a->state, .n = rc, .mu = a->mu, .dt = a->dt};
        fm_muon_scale_args sc = {.x = mo.u, .norm2 = mo.norm2, .y = elements(a->x, i * rc, A),
                                 .rows = a->rows, .cols = a->cols, .transpose = turn, .dt_x = F, .dt_y = A};
        st = k->ops->muon_momentum(k, &mo);
        if (!st) st = k->ops->muon_scale(k, &sc);
    }
    fm_newton_schulz_args ns = {.y = a->y, .x = a->x, .p = a->p, .g = a->g, .g2 = a->g2, .ga = a->ga,
                                .sums = a->norm2, .n = a->n, .r = turn ? a->cols : a->rows,
                                .c = turn ? a->rows : a->cols, .coef = a->coef, .steps = a->steps, .dt = A};
    if (!st) st = k->ops->newton_schulz(k, &ns);
    for (int64_t i = 0; i < a->n && !st; i++) {
        const fm_segment *s = &a->segs[i];
        fm_muon_apply_args ap = {.master = elements(a->master, s->offset, F), .o = elements(a->y, i * rc, F),
                                 .weight = s->weight, .state = a->state, .rows = a->rows, .cols = a->cols,
                                 .transpose = turn, .lr = a->lr, .weight_decay = a->weight_decay,
                                 .factor = 0.2 * sqrt((double)ns.c), .dt = a->dt,
                                 .weight_dtype = (fm_dtype)s->weight_dtype};
        st = k->ops->muon_apply(k, &ap);
    }
    return st;
}
