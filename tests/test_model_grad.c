/* One whole `pico` model in double: the hand-written backward against the central difference of
 * loss + 0.3 x MTP loss + sequence balance loss, along a random direction in every parameter (the
 * experts of a layer together), over packed rows with document borders. Central differences with
 * step h are off by about h^2 plus 1e-16 / h. */
#include "support.h"

#include <math.h>

#include "base/rng.h"
#include "model/forward.h"

#define ROWS 2
#define ROW_LEN 24
#define TOKENS (ROWS * ROW_LEN)
#define ALPHA 0.5
#define STEP 1e-5

static fm_err ok_err;

enum { IDS, NEXT, POS, BEGIN, END, TARGET, TARGET2, N_ARRAYS };

typedef struct setup {
    fm_exec *x;
    fm_model *m;
    fm_acts *a;
    fm_grads *g;
    int32_t *dev;
    void *rows, *dh, *dhf, *dmtp, *loss;
    int n_valid, n_valid2;
    fm_batch b, next;
} setup;

static void *device(setup *s, size_t bytes)
{
    void *p = NULL;
    OK(fm_dev_alloc(s->x, bytes, &p, &ok_err));
    return p;
}

/* Documents of 10 + 14 and 24 tokens. */
static void write_batch(setup *s)
{
    static const int seg[] = {0, 10, 24, 48};
    int32_t h[N_ARRAYS * TOKENS + 4];
    for (int d = 0; d < 3; d++)
        for (int i = seg[d]; i < seg[d + 1]; i++) {
            uint32_t w[4];
            fmi_rng_words(5, 0, (uint64_t)i, FMI_RNG_TEST, 0, w);
            h[IDS * TOKENS + i] = (int32_t)(w[0] % 320);
            h[POS * TOKENS + i] = i - seg[d];
            h[BEGIN * TOKENS + i] = seg[d];
            h[END * TOKENS + i] = i + 1;
        }
    s->n_valid = s->n_valid2 = 0;
    for (int d = 0; d < 3; d++)
        for (int i = seg[d]; i < seg[d + 1]; i++) {
            bool one = i + 1 < seg[d + 1], two = i + 2 < seg[d + 1];
            h[NEXT * TOKENS + i] = i + 1 < TOKENS ? h[IDS * TOKENS + i + 1] : 0;
            h[TARGET * TOKENS + i] = one ? h[IDS * TOKENS + i + 1] : -1;
            h[TARGET2 * TOKENS + i] = two ? h[IDS * TOKENS + i + 2] : -1;
            s->n_valid += one;
            s->n_valid2 += two;
        }
    for (int d = 0; d < 4; d++) h[N_ARRAYS * TOKENS + d] = seg[d];
    OK(fm_write(s->x, s->dev, h, sizeof h, &ok_err));
    s->b = (fm_batch){.T = TOKENS,
                      .ids = s->dev,
                      .pos = s->dev + POS * TOKENS,
                      .k_begin = s->dev + BEGIN * TOKENS,
                      .k_end = s->dev + END * TOKENS,
                      .seg = s->dev + N_ARRAYS * TOKENS,
                      .n_seg = 3,
                      .row_length = ROW_LEN};
    s->next = s->b;
    s->next.ids = s->dev + NEXT * TOKENS;
}

static void open_setup(setup *s, bool recompute)
{
    fm_config c;
    OK(fm_context_open("cpu", "scalar", 2, &s->x, &ok_err));
    OK(fmi_config_preset("pico", &c, &ok_err));
    c.initializer_range = 0.1;
    OK(fmi_model_new(s->x, &c, FM_DTYPE_F64, false, &s->m, &ok_err));
    OK(fmi_model_init(s->m, 3, &ok_err));
    fm_acts_opts o = {.rows_max = TOKENS, .keep = true, .backward = true, .recompute = recompute, .mtp = true,
                      .logit_rows = 20, .row_length_min = ROW_LEN};
    OK(fmi_acts_new(s->m, &o, &s->a, &ok_err));
    OK(fmi_grads_new(s->m, &s->g, &ok_err));
    size_t D = (size_t)c.hidden_size;
    s->dev = device(s, (N_ARRAYS * TOKENS + 4) * sizeof *s->dev);
    s->rows = device(s, TOKENS * 8);
    s->dh = device(s, TOKENS * D * 8);
    s->dhf = device(s, TOKENS * D * 8);
    s->dmtp = device(s, TOKENS * D * 8);
    s->loss = device(s, 64 * 8);
    write_batch(s);
}

static void close_setup(setup *s)
{
    void *dev[] = {s->dev, s->rows, s->dh, s->dhf, s->dmtp, s->loss};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++) fm_dev_free(s->x, dev[i]);
    fmi_grads_free(s->g);
    fmi_acts_free(s->a);
    fm_model_close(s->m);
    fm_context_close(s->x);
}

static void head(setup *s, fm_grads *g, const void *h, int target, int valid, double weight, void *dh)
{
    fmi_head_loss(s->m, s->a, g, h, s->dev + target * TOKENS, TOKENS, weight / valid, s->rows, dh);
    fm_op_sum(s->x, &(fm_sum_args){.x = s->rows, .out = s->loss, .n = TOKENS, .scale = weight / valid,
                                   .dt = FM_DTYPE_F64});
}

/* The loss; with g its gradient too. */
static double evaluate(setup *s, bool gradient)
{
    fm_grads *g = gradient ? s->g : NULL;
    double out[64] = {0}, zero[64] = {0}, sum = 0;
    fm_backward_opts o = {.balance_scale = ALPHA / ROWS, .balance_loss = (double *)s->loss + 1};
    OK(fm_write(s->x, s->loss, zero, sizeof zero, &ok_err));
    if (g) fmi_grads_zero(g);
    fmi_forward(s->m, s->a, &s->b, NULL);
    fmi_forward_mtp(s->m, s->a, &s->next, s->a->hf, NULL);
    head(s, g, s->a->h, TARGET, s->n_valid, 1, s->dh);
    head(s, g, s->a->mtp_h, TARGET2, s->n_valid2, 0.3, s->dmtp);
    if (g) {
        fmi_backward_mtp(s->m, s->a, g, &s->next, s->a->hf, s->dmtp, s->dhf, &o);
        fmi_backward(s->m, s->a, g, &s->b, s->dh, s->dhf, &o);
    } else {
        for (int i = 0; i < s->m->lay.n_layers; i++)
            if (s->m->lay.layers[i].moe)
                fm_op_seq_balance(s->x, &(fm_seq_balance_args){
                                            .score = s->a->layer[i].score, .f = s->a->layer[i].balance_f,
                                            .loss = (double *)s->loss + 1 + i, .T = TOKENS, .L = ROW_LEN,
                                            .E = s->m->cfg.n_routed_experts,
                                            .K = s->m->cfg.num_experts_per_tok,
                                            .balance_scale = ALPHA / ROWS, .dt = FM_DTYPE_F64});
    }
    OK(fm_read(s->x, out, s->loss, sizeof out, &ok_err));
    for (int i = 0; i < 64; i++) sum += out[i];
    return sum;
}

static double direction(int param, int64_t i)
{
    return fmi_rng_normal(11, (uint32_t)param, (uint64_t)i, FMI_RNG_TEST);
}

/* Moves parameters first..last along their directions by h from their values in `base`. */
static void move(setup *s, int first, int last, double **base, double h)
{
    for (int p = first; p <= last; p++) {
        int64_t n = fmi_param_count(&s->m->lay.params[p]);
        double *w = malloc((size_t)n * sizeof *w);
        for (int64_t i = 0; i < n; i++) w[i] = base[p][i] + h * direction(p, i);
        OK(fmi_param_write(s->m, p, w, &ok_err));
        free(w);
    }
}

static void check_group(setup *s, int first, int last, double **base, double **grad)
{
    double want = 0, size = 0;
    for (int p = first; p <= last; p++) {
        int64_t n = fmi_param_count(&s->m->lay.params[p]);
        for (int64_t i = 0; i < n; i++) {
            want += grad[p][i] * direction(p, i);
            size += grad[p][i] * grad[p][i];
        }
    }
    move(s, first, last, base, STEP);
    double up = evaluate(s, false);
    move(s, first, last, base, -STEP);
    double down = evaluate(s, false);
    move(s, first, last, base, 0);
    double got = (up - down) / (2 * STEP);
    double limit = 1e-6 * sqrt(size) + 2e-10;
    if (!(fabs(got - want) <= limit))
        fail_msg("%s: derivative %.12g, backward %.12g, limit %.2g", s->m->lay.params[first].name, got, want,
                 limit);
}

static void whole_model(void **state)
{
    (void)state;
    setup s = {0};
    open_setup(&s, false);
    int n = s.m->lay.n_params;
    double **base = calloc((size_t)n, sizeof *base), **grad = calloc((size_t)n, sizeof *grad);
    evaluate(&s, true);
    for (int p = 0; p < n; p++) {
        size_t bytes = (size_t)fmi_param_count(&s.m->lay.params[p]) * 8;
        base[p] = malloc(bytes);
        grad[p] = calloc(1, bytes);
        OK(fmi_param_read(s.m, p, base[p], &ok_err));
        if (s.g->g[p]) OK(fm_read(s.x, grad[p], s.g->g[p], bytes, &ok_err));
    }
    for (int p = 0; p < n; p++) {
        int last = p;
        if (!s.g->g[p]) continue;
        while (s.m->lay.params[p].expert >= 0 && last + 1 < n && s.m->lay.params[last + 1].expert >= 0 &&
               s.m->lay.params[last + 1].layer == s.m->lay.params[p].layer)
            last++;
        check_group(&s, p, last, base, grad);
        p = last;
    }
    for (int p = 0; p < n; p++) {
        free(base[p]);
        free(grad[p]);
    }
    free(base);
    free(grad);
    close_setup(&s);
}

static void recomputation_gives_the_same_bytes(void **state)
{
    (void)state;
    setup s = {0}, r = {0};
    open_setup(&s, false);
    open_setup(&r, true);
    assert_true(evaluate(&s, true) == evaluate(&r, true));
    size_t bytes = (size_t)s.g->n * 8;
    char *a = malloc(bytes), *b = malloc(bytes);
    OK(fm_read(s.x, a, s.g->flat, bytes, &ok_err));
    OK(fm_read(r.x, b, r.g->flat, bytes, &ok_err));
    assert_memory_equal(a, b, bytes);
    free(a);
    free(b);
    close_setup(&s);
    close_setup(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whole_model),
        cmocka_unit_test(recomputation_gives_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
