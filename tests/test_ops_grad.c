/* Every backward operator against the complex-step derivative of its forward.
 *
 * A case uploads its inputs as complex numbers, moves one element by i * 1e-40, runs the C128
 * forward and reads the derivative off the imaginary part of sum_k proj_k out_k. The backward runs
 * in F64 on the same values with proj as the gradient of the output. No subtraction is involved, so
 * both agree to rounding: 1e-12 of the largest gradient of that input. */
#include "ops_util.h"

#define STEP 1e-40
#define TOL 1e-12
#define PER_INPUT 64
#define IN_MAX 6
#define OUT_MAX 3

typedef struct grad_case grad_case;
struct grad_case {
    fm_exec *x;
    rnd r;
    int n_in, n_out;
    int64_t n[IN_MAX];         /* elements of each input */
    double *in[IN_MAX];
    double *grad[IN_MAX];      /* the backward's answer; NULL: no gradient is asked for */
    int64_t n_o[OUT_MAX];
    double *proj[OUT_MAX];
    void (*fwd)(const grad_case *c, fm_dtype dt, void *const *in, void *const *out);
    const void *user;
};

static void case_init(grad_case *c, uint64_t seed, const void *user)
{
    *c = (grad_case){.r = {seed}, .user = user};
    c->x = open_exec("cpu", 2, FM_ISA_SCALAR);
}

static void case_in(grad_case *c, int64_t n, double scale)
{
    c->n[c->n_in] = n;
    c->in[c->n_in++] = rnd_doubles(&c->r, n, scale);
}

static void case_out(grad_case *c, int64_t n)
{
    c->n_o[c->n_out] = n;
    c->proj[c->n_out++] = rnd_doubles(&c->r, n, 1);
}

static void case_free(grad_case *c)
{
    for (int i = 0; i < c->n_in; i++) {
        fmi_free(c->in[i]);
        fmi_free(c->grad[i]);
    }
    for (int i = 0; i < c->n_out; i++) fmi_free(c->proj[i]);
    fm_exec_close(c->x);
}

/* d/d in[i][e] of sum proj * out. */
static double complex_step(const grad_case *c, void *const *in, void *const *out,
                           double complex *host, int i, int64_t e)
{
    fm_err err = {0};
    double complex moved = CMPLX(c->in[i][e], STEP), back = c->in[i][e];
    char *at = (char *)in[i] + (size_t)e * sizeof moved;
    must(fm_write(c->x, at, &moved, sizeof moved, &err), &err);
    for (int o = 0; o < c->n_out; o++)
        fm_op_zero(c->x, &(fm_zero_args){out[o], c->n_o[o] * (int64_t)sizeof moved});
    c->fwd(c, FM_DTYPE_C128, in, out);
    double sum = 0;
    for (int o = 0; o < c->n_out; o++) {
        dev_get(c->x, host, out[o], (size_t)c->n_o[o] * sizeof moved);
        for (int64_t k = 0; k < c->n_o[o]; k++) sum += c->proj[o][k] * cimag(host[k]);
    }
    must(fm_write(c->x, at, &back, sizeof back, &err), &err);
    return sum / STEP;
}

static void case_check(grad_case *c, const char *name)
{
    void *in[IN_MAX], *out[OUT_MAX];
    int64_t most = 1;
    for (int i = 0; i < c->n_in; i++) in[i] = dev_put_as(c->x, c->in[i], c->n[i], FM_DTYPE_C128);
    for (int o = 0; o < c->n_out; o++) {
        out[o] = dev_new(c->x, (size_t)c->n_o[o] * sizeof(double complex));
        if (c->n_o[o] > most) most = c->n_o[o];
    }
    double complex *host = fmi_alloc((size_t)most * sizeof *host);
    assert_non_null(host);
    for (int i = 0; i < c->n_in; i++) {
        if (!c->grad[i]) continue;
        double big = 0;
        for (int64_t e = 0; e < c->n[i]; e++) big = fmax(big, fabs(c->grad[i][e]));
        assert_true(big > 0 && isfinite(big));
        int64_t tries = c->n[i] <= PER_INPUT ? c->n[i] : PER_INPUT;
        for (int64_t k = 0; k < tries; k++) {
            int64_t e = tries == c->n[i] ? k : rnd_below(&c->r, (int)c->n[i]);
            double want = complex_step(c, in, out, host, i, e);
            if (!(fabs(c->grad[i][e] - want) <= TOL * big))
                fail_msg("%s, input %d element %lld: backward %.17g, complex step %.17g (max %g)",
                         name, i, (long long)e, c->grad[i][e], want, big);
        }
    }
    fmi_free(host);
    for (int i = 0; i < c->n_in; i++) fm_dev_free(c->x, in[i]);
    for (int o = 0; o < c->n_out; o++) fm_dev_free(c->x, out[o]);
}

/* Device copies of an input or a projection for the F64 backward. */
static void *f64_in(const grad_case *c, int i)
{
    return dev_put_as(c->x, c->in[i], c->n[i], FM_DTYPE_F64);
}

static void *f64_proj(const grad_case *c, int o)
{
    return dev_put_as(c->x, c->proj[o], c->n_o[o], FM_DTYPE_F64);
}

/* Takes the gradient of input i from device memory and frees that. */
static void take(grad_case *c, int i, void *dev)
{
    c->grad[i] = dev_get_as(c->x, dev, c->n[i], FM_DTYPE_F64);
    fm_dev_free(c->x, dev);
}

static void *f64_new(const grad_case *c, int64_t n)
{
    return dev_new(c->x, (size_t)n * sizeof(double));
}

/* gemm: y = x W^T; dx = dy W (NN), dW = dy^T x (TN). Grouped when offsets are given. */
typedef struct gemm_shape {
    int64_t m, n, k;
    int batch, groups;
    int32_t offsets[6];
} gemm_shape;

static void gemm_call(const grad_case *c, fm_gemm_kind kind, fm_dtype dt, const void *a,
                      const void *b,
                      void *out)
{
    const gemm_shape *s = c->user;
    fm_gemm_args g = {.a = a, .b = b, .c = out, .kind = kind, .dt = dt, .dtc = dt,
                      .batch = s->batch};
    g.m = kind == FM_GEMM_TN ? s->n : s->m;
    g.n = kind == FM_GEMM_NT ? s->n : s->k;
    g.k = kind == FM_GEMM_NT ? s->k : kind == FM_GEMM_NN ? s->n : s->m;
    g.lda = kind == FM_GEMM_NT ? s->k : s->n;
    g.ldb = s->k;
    g.ldc = kind == FM_GEMM_NT ? s->n : s->k;
    int64_t x = s->m * s->k, w = s->n * s->k, y = s->m * s->n;
    g.stride_a = kind == FM_GEMM_NT ? x : y;
    g.stride_b = kind == FM_GEMM_TN ? x : w;
    g.stride_c = kind == FM_GEMM_NT ? y : kind == FM_GEMM_NN ? x : w;
    void *table = NULL, *off = NULL, *parts[8];
    fm_err e = {0};
    if (s->groups) {
        char *base = kind == FM_GEMM_TN ? out : (char *)(uintptr_t)b;
        for (int i = 0; i < s->groups; i++) parts[i] = base + (size_t)(i * w) * fm_dtype_bytes(dt);
        must(fm_dev_table(c->x, (const void *const *)parts, s->groups, &table, &e), &e);
        off = dev_put(c->x, s->offsets, sizeof s->offsets);
        g.offsets = off;
        g.table = table;
        g.groups = s->groups;
    }
    fm_op_gemm(c->x, &g);
    must(fm_sync(c->x, &e), &e);
    fm_dev_free(c->x, table);
    fm_dev_free(c->x, off);
}

static void gemm_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    gemm_call(c, FM_GEMM_NT, dt, in[0], in[1], out[0]);
}

static void test_gemm(void **state)
{
    (void)state;
    static const gemm_shape shapes[] = {
        {1, 1, 1, 1, 0, {0}},         {5, 6, 7, 1, 0, {0}}, {3, 4, 33, 3, 0, {0}},
        {2100, 2, 3, 1, 0, {0}},      {9, 4, 5, 1, 4, {0, 3, 3, 4, 9}},
        {1300, 2, 3, 1, 3, {0, 1, 1200, 1290}},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const gemm_shape *s = &shapes[i];
        int64_t copies = s->groups ? s->groups : s->batch, rows = s->groups ? 1 : s->batch;
        grad_case c;
        case_init(&c, 11 + i, s);
        case_in(&c, rows * s->m * s->k, 1);
        case_in(&c, copies * s->n * s->k, 1);
        case_out(&c, rows * s->m * s->n);
        c.fwd = gemm_fwd;
        void *x = f64_in(&c, 0), *w = f64_in(&c, 1), *dy = f64_proj(&c, 0);
        void *dx = f64_new(&c, c.n[0]), *dw = f64_new(&c, c.n[1]);
        gemm_call(&c, FM_GEMM_NN, FM_DTYPE_F64, dy, w, dx);
        gemm_call(&c, FM_GEMM_TN, FM_DTYPE_F64, dy, x, dw);
        take(&c, 0, dx);
        take(&c, 1, dw);
        case_check(&c, "gemm");
        fm_dev_free(c.x, x);
        fm_dev_free(c.x, w);
        fm_dev_free(c.x, dy);
        case_free(&c);
    }
}

static void embed_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    fm_op_embed(c->x, &(fm_embed_args){in[0], c->user, out[0], 7, 3, 5, 3, dt});
}

static void test_embed(void **state)
{
    (void)state;
    const int32_t ids[7] = {4, 0, 4, 9, 2, -1, 4};
    grad_case c;
    case_init(&c, 21, NULL);
    case_in(&c, 15, 1);
    case_out(&c, 21);
    c.fwd = embed_fwd;
    void *dev_ids = dev_put(c.x, ids, sizeof ids), *dx = f64_proj(&c, 0), *dt = f64_new(&c, 15);
    c.user = dev_ids;
    fm_op_embed_bwd(c.x, &(fm_embed_bwd_args){dx, dev_ids, dt, 7, 3, 5, 3, FM_DTYPE_F64});
    take(&c, 0, dt);
    case_check(&c, "embed");
    fm_dev_free(c.x, dx);
    fm_dev_free(c.x, dev_ids);
    case_free(&c);
}

/* rmsnorm: outputs y (0) and yf (1); user says which of their gradients are given. */
typedef struct norm_shape {
    int64_t T, D;
    bool dy, dyf;
} norm_shape;

static void norm_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    const norm_shape *s = c->user;
    fm_op_rmsnorm(c->x, &(fm_rmsnorm_args){in[0], in[1], s->dy ? out[0] : NULL,
                                           s->dyf ? out[1] : NULL, NULL, s->T, s->D, s->D, s->D,
                                           0.01, dt});
}

static void test_rmsnorm(void **state)
{
    (void)state;
    static const norm_shape shapes[] = {
        {1, 1, true, false}, {3, 37, true, false}, {4, 16, false, true}, {5, 19, true, true},
        {1030, 3, true, true},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const norm_shape *s = &shapes[i];
        int64_t n = s->T * s->D;
        grad_case c;
        case_init(&c, 31 + i, s);
        case_in(&c, n, 1);
        case_in(&c, s->D, 2);
        case_out(&c, n);
        case_out(&c, n);
        c.fwd = norm_fwd;
        void *x = f64_in(&c, 0), *w = f64_in(&c, 1), *dy = f64_proj(&c, 0), *dyf = f64_proj(&c, 1);
        void *y = f64_new(&c, n), *rstd = f64_new(&c, s->T), *dx = f64_new(&c, n);
        void *dw = f64_new(&c, s->D);
        fm_op_rmsnorm(c.x, &(fm_rmsnorm_args){x, w, y, NULL, rstd, s->T, s->D, s->D, s->D, 0.01,
                      FM_DTYPE_F64});
        fm_op_rmsnorm_bwd(c.x, &(fm_rmsnorm_bwd_args){s->dy ? dy : NULL, s->dyf ? dyf : NULL, x, w,
                          rstd, dx, dw, NULL, s->T, s->D, s->D, s->D, s->D, FM_DTYPE_F64, FM_DTYPE_F64,
                          true});
        take(&c, 0, dx);
        take(&c, 1, dw);
        case_check(&c, "rmsnorm");
        void *all[] = {x, w, dy, dyf, y, rstd};
        for (int k = 0; k < 6; k++) fm_dev_free(c.x, all[k]);
        case_free(&c);
    }
}

/* rope: inputs q, k (and the tables, whose gradient nobody asks for). */
enum { ROPE_T = 4, ROPE_H = 3, ROPE_N = 5, ROPE_R = 6, ROPE_P = 9 };

static void rope_call(const grad_case *c, fm_dtype dt, const void *q, const void *k, const void *cs,
                      const void *sn, void *qo, void *ko, bool inverse)
{
    int dq = ROPE_N + ROPE_R;
    fm_op_rope(c->x, &(fm_rope_args){q, qo, k, ko, cs, sn, c->user, ROPE_T, ROPE_H * dq,
                                     ROPE_H * dq, ROPE_R, ROPE_R, ROPE_H, ROPE_N, ROPE_R, inverse,
                                     dt});
}

static void rope_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    rope_call(c, dt, in[0], in[1], in[2], in[3], out[0], out[1], false);
}

static void test_rope(void **state)
{
    (void)state;
    const int32_t pos[ROPE_T] = {0, 8, 3, 3};
    int64_t nq = ROPE_T * ROPE_H * (ROPE_N + ROPE_R), nk = ROPE_T * ROPE_R;
    int64_t nt = ROPE_P * ROPE_R / 2;
    grad_case c;
    case_init(&c, 41, NULL);
    case_in(&c, nq, 1);
    case_in(&c, nk, 1);
    case_in(&c, nt, 1);
    case_in(&c, nt, 1);
    for (int64_t i = 0; i < nt; i++) {
        double angle = 0.37 * (double)i;
        c.in[2][i] = cos(angle);
        c.in[3][i] = sin(angle);
    }
    case_out(&c, nq);
    case_out(&c, nk);
    c.fwd = rope_fwd;
    void *dev_pos = dev_put(c.x, pos, sizeof pos), *cs = f64_in(&c, 2), *sn = f64_in(&c, 3);
    void *dqo = f64_proj(&c, 0), *dko = f64_proj(&c, 1), *dq = f64_new(&c, nq),
        *dk = f64_new(&c, nk);
    c.user = dev_pos;
    rope_call(&c, FM_DTYPE_F64, dqo, dko, cs, sn, dq, dk, true);
    take(&c, 0, dq);
    take(&c, 1, dk);
    case_check(&c, "rope");
    void *all[] = {dev_pos, cs, sn, dqo, dko};
    for (int k = 0; k < 5; k++) fm_dev_free(c.x, all[k]);
    case_free(&c);
}

/* attn over documents of given lengths. */
typedef struct attn_shape {
    int H, N, R, V, n_seg;
    int32_t len[5];
} attn_shape;

typedef struct attn_run {
    const attn_shape *s;
    int64_t T;
    void *begin, *end;
} attn_run;

static void attn_call(const grad_case *c, fm_dtype dt, const void *q, const void *kv,
                      const void *kpe,
                      void *o, void *lse)
{
    const attn_run *a = c->user;
    const attn_shape *s = a->s;
    fm_op_attn(c->x, &(fm_attn_args){q, kv, kpe, a->begin, a->end, o, lse, a->T, a->T, s->R, s->H,
                                     s->N, s->R, s->V, 0.7, dt});
}

static void attn_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    attn_call(c, dt, in[0], in[1], in[2], out[0], NULL);
}

static void attn_bwd_call(grad_case *c, const attn_run *a, const int32_t *seg)
{
    const attn_shape *s = a->s;
    int64_t th = a->T * s->H;
    void *q = f64_in(c, 0), *kv = f64_in(c, 1), *kpe = f64_in(c, 2), *dout = f64_proj(c, 0);
    void *o = f64_new(c, th * s->V), *lse = f64_new(c, th), *work = f64_new(c, th * s->R);
    void *dq = f64_new(c, c->n[0]), *dkv = f64_new(c, c->n[1]), *dkpe = f64_new(c, c->n[2]);
    void *dev_seg = dev_put(c->x, seg, 6 * sizeof *seg);
    attn_call(c, FM_DTYPE_F64, q, kv, kpe, o, lse);
    fm_op_attn_bwd(c->x, &(fm_attn_bwd_args){q, kv, kpe, o, lse, dout, dev_seg, dq, dkv, dkpe,
                                             work, a->T, s->R, s->n_seg, s->H, s->N, s->R, s->V,
                                             0.7, FM_DTYPE_F64});
    take(c, 0, dq);
    take(c, 1, dkv);
    take(c, 2, dkpe);
    void *all[] = {q, kv, kpe, dout, o, lse, work, dev_seg};
    for (int k = 0; k < 8; k++) fm_dev_free(c->x, all[k]);
}

static void test_attn(void **state)
{
    (void)state;
    static const attn_shape shapes[] = {
        {1, 1, 2, 1, 1, {1}},
        {2, 3, 2, 4, 4, {5, 1, 70, 3}},
        {3, 4, 2, 3, 3, {64, 65, 130}},
        {1, 2, 2, 2, 3, {3, 580, 20}},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        const attn_shape *s = &shapes[i];
        int32_t seg[6] = {0}, begin[1024], end[1024];
        for (int d = 0; d < s->n_seg; d++) {
            seg[d + 1] = seg[d] + s->len[d];
            for (int32_t t = seg[d]; t < seg[d + 1]; t++) {
                begin[t] = seg[d];
                end[t] = t + 1;
            }
        }
        int64_t T = seg[s->n_seg];
        grad_case c;
        case_init(&c, 51 + i, NULL);
        attn_run run = {s, T, dev_put(c.x, begin, (size_t)T * 4), dev_put(c.x, end, (size_t)T * 4)};
        c.user = &run;
        case_in(&c, T * s->H * (s->N + s->R), 1.5);
        case_in(&c, T * s->H * (s->N + s->V), 1.5);
        case_in(&c, T * s->R, 1.5);
        case_out(&c, T * s->H * s->V);
        c.fwd = attn_fwd;
        attn_bwd_call(&c, &run, seg);
        if (i == 0) { /* one key: p is 1 whatever the score, only dv is left */
            assert_true(c.grad[0][0] == 0 && c.grad[2][0] == 0);
            fmi_free(c.grad[0]);
            fmi_free(c.grad[2]);
            c.grad[0] = c.grad[2] = NULL;
        }
        case_check(&c, "attn");
        fm_dev_free(c.x, run.begin);
        fm_dev_free(c.x, run.end);
        case_free(&c);
    }
}

/* swiglu: inputs gate, up and, when slots are given, the weights by slot. */
static void swiglu_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    fm_op_swiglu(c->x, &(fm_swiglu_args){in[0], in[1], c->user, c->user ? in[2] : NULL, out[0], 4,
                                         37, 37, 37, 37, dt});
}

static void test_swiglu(void **state)
{
    (void)state;
    const int32_t slots[4] = {2, 0, 3, 1};
    for (int weighted = 0; weighted < 2; weighted++) {
        grad_case c;
        case_init(&c, 61, NULL);
        case_in(&c, 4 * 37, 3);
        case_in(&c, 4 * 37, 1);
        case_in(&c, 4, 1);
        case_out(&c, 4 * 37);
        c.fwd = swiglu_fwd;
        void *slot = dev_put(c.x, slots, sizeof slots);
        if (weighted) c.user = slot;
        void *gate = f64_in(&c, 0), *up = f64_in(&c, 1), *w = f64_in(&c, 2), *dh = f64_proj(&c, 0);
        void *dg = f64_new(&c, c.n[0]), *du = f64_new(&c, c.n[1]), *dw = f64_new(&c, 4);
        fm_op_swiglu_bwd(c.x, &(fm_swiglu_bwd_args){dh, gate, up, c.user, weighted ? w : NULL, dg,
                         du, weighted ? dw : NULL, 4, 37, 37, 37, 37, 37, 37, FM_DTYPE_F64});
        take(&c, 0, dg);
        take(&c, 1, du);
        if (weighted) take(&c, 2, dw);
        else fm_dev_free(c.x, dw);
        case_check(&c, "swiglu");
        void *all[] = {slot, gate, up, w, dh};
        for (int k = 0; k < 5; k++) fm_dev_free(c.x, all[k]);
        case_free(&c);
    }
}

/* route: outputs the weights and the sequence balance loss. */
typedef struct route_shape {
    int E, K, n_group, topk_group;
    fm_route_score scoring;
    fm_route_method method;
    bool norm_topk, balance;
} route_shape;

enum { ROUTE_T = 6, ROUTE_L = 3 };
#define ROUTE_SCALE 2.5
#define BALANCE_SCALE 0.3

typedef struct route_run {
    const route_shape *s;
    void *score, *expert, *f; /* large enough for complex */
} route_run;

static void route_call(const grad_case *c, fm_dtype dt, const void *z, const void *bias,
                       void *weight,
                       void *loss)
{
    const route_run *r = c->user;
    const route_shape *s = r->s;
    fm_op_route(c->x, &(fm_route_args){z, bias, r->score, r->expert, weight, ROUTE_T, s->E, s->K,
                s->n_group, s->topk_group, s->scoring, s->method, s->norm_topk, ROUTE_SCALE, dt});
    if (s->balance)
        fm_op_seq_balance(c->x, &(fm_seq_balance_args){r->score, r->f, loss, ROUTE_T, ROUTE_L,
                          s->E, s->K, BALANCE_SCALE, dt});
}

static void route_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    route_call(c, dt, in[0], in[1], out[0], out[1]);
}

static void route_check(const route_shape *s, uint64_t seed)
{
    grad_case c;
    case_init(&c, seed, NULL);
    case_in(&c, ROUTE_T * s->E, 2);
    case_in(&c, s->E, 0.1);
    case_out(&c, ROUTE_T * s->K);
    case_out(&c, 1);
    c.proj[1][0] = 1;
    route_run r = {s, dev_new(c.x, (size_t)ROUTE_T * (size_t)s->E * 16),
                   dev_new(c.x, (size_t)ROUTE_T * (size_t)s->K * 4),
                   dev_new(c.x, (size_t)ROUTE_T * (size_t)s->E * 16)};
    c.user = &r;
    c.fwd = route_fwd;
    void *z = f64_in(&c, 0), *bias = f64_in(&c, 1), *w = f64_new(&c, c.n_o[0]),
        *loss = f64_new(&c, 1);
    void *dw = f64_proj(&c, 0), *dz = f64_new(&c, c.n[0]);
    route_call(&c, FM_DTYPE_F64, z, bias, w, loss);
    fm_op_route_bwd(c.x, &(fm_route_bwd_args){dw, r.score, r.expert, s->balance ? r.f : NULL, dz,
                    ROUTE_T, ROUTE_L, s->E, s->K, s->scoring, s->norm_topk, ROUTE_SCALE,
                    BALANCE_SCALE, FM_DTYPE_F64});
    take(&c, 0, dz);
    case_check(&c, "route");
    void *all[] = {z, bias, w, loss, dw, r.score, r.expert, r.f};
    for (int k = 0; k < 8; k++) fm_dev_free(c.x, all[k]);
    case_free(&c);
}

static void test_route(void **state)
{
    (void)state;
    uint64_t seed = 71;
    for (int scoring = 0; scoring < 2; scoring++)
        for (int method = 0; method < 3; method++)
            for (int flags = 0; flags < 4; flags++) {
                int n_group = method == FM_ROUTE_GREEDY ? 1 : 4;
                route_shape s = {20, 3, n_group, 2, (fm_route_score)scoring,
                                 (fm_route_method)method, flags & 1, flags & 2};
                route_check(&s, seed++);
            }
    /* One expert chosen; all experts chosen. */
    route_check(&(route_shape){8, 1, 1, 1, FM_ROUTE_SOFTMAX, FM_ROUTE_GREEDY, false, true}, 5);
    route_check(&(route_shape){4, 4, 1, 1, FM_ROUTE_SIGMOID, FM_ROUTE_NOAUX, true, false}, 6);
}

/* xent through lse; the gradient of the summed loss times grad_scale. */
enum { XENT_T = 4, XENT_W = 1100, XENT_LD = 1103 };

typedef struct xent_run {
    void *target, *lse;
} xent_run;

static void xent_call(const grad_case *c, fm_dtype dt, const void *logits, void *loss,
                      void *dlogits)
{
    const xent_run *r = c->user;
    fm_op_lse(c->x, &(fm_lse_args){logits, r->lse, XENT_T, XENT_W, XENT_LD, dt});
    fm_op_xent(c->x, &(fm_xent_args){logits, r->lse, r->target, loss, dlogits, XENT_T, XENT_W,
                                     XENT_LD, XENT_LD, 0.37, dt});
}

static void xent_fwd(const grad_case *c, fm_dtype dt, void *const *in, void *const *out)
{
    xent_call(c, dt, in[0], out[0], NULL);
}

static void test_xent(void **state)
{
    (void)state;
    const int32_t target[XENT_T] = {1090, -1, 3, 0};
    grad_case c;
    case_init(&c, 81, NULL);
    xent_run r = {dev_put(c.x, target, sizeof target), dev_new(c.x, XENT_T * 16)};
    c.user = &r;
    case_in(&c, XENT_T * XENT_LD, 6);
    case_out(&c, XENT_T);
    for (int t = 0; t < XENT_T; t++) c.proj[0][t] = 0.37;
    c.fwd = xent_fwd;
    void *logits = f64_in(&c, 0), *loss = f64_new(&c, XENT_T), *d = f64_new(&c, c.n[0]);
    xent_call(&c, FM_DTYPE_F64, logits, loss, d);
    take(&c, 0, d);
    for (int w = 0; w < XENT_W; w++) assert_true(c.grad[0][XENT_LD + w] == 0);
    double sum = 0; /* the gradient of a row sums to zero */
    for (int w = 0; w < XENT_W; w++) sum += c.grad[0][w];
    assert_true(fabs(sum) < 1e-12);
    assert_true(c.grad[0][1090] < 0 && c.grad[0][2 * XENT_LD + 3] < 0);
    assert_true(c.grad[0][3 * XENT_LD] < 0);
    case_check(&c, "xent");
    void *all[] = {logits, loss, r.target, r.lse};
    for (int k = 0; k < 4; k++) fm_dev_free(c.x, all[k]);
    case_free(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),   cmocka_unit_test(test_embed), cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),   cmocka_unit_test(test_attn),  cmocka_unit_test(test_swiglu),
        cmocka_unit_test(test_route),  cmocka_unit_test(test_xent),
    };
    return cmocka_run_group_tests_name("ops_grad", tests, NULL, NULL);
}
