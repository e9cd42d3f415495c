/* bf16 against float32: the logits of the seven reference checkpoints within the limit that
 * docs/numerics.md ("Limits") derives from the rounding points, and the proof that the limit means
 * something: one matrix moved by 8 units in the last place breaks it. */
#include "support.h"

#include <math.h>

#include "io/safetensors.h"
#include "model/model.h"
#include "ops/exec_internal.h"

static const char *const variants[] = {"v3",     "v3-yarn", "v3-noqlora-tied-shapes",
                                       "v3-mtp", "v3-fp8",  "v2-lite", "v2"};
#define N_VARIANTS (int)(sizeof variants / sizeof *variants)

/* Mean squared relative error of one rounding to bf16: docs/numerics.md, Limits. */
#define DELTA2 (1.0 / 65536 / 6.49)

static fm_err ok_err;

static fm_tensors *open_reference(const char *variant)
{
    char path[256];
    fm_tensors *ref = NULL;
    snprintf(path, sizeof path, "tests/data/reference/%s/reference.safetensors", variant);
    OK(fm_tensors_open(path, &ref, &ok_err));
    return ref;
}

/* docs/numerics.md, Limits: mean squared relative error of the logits of a row whose experts are
 * those of the reference. */
static double limit_of(const fm_config *c, bool weights_rounded)
{
    const double share = 0.5, gain = 1.64;
    double attention = weights_rounded ? 7 + 5 : 7;
    double ffn = (1 + gain) + gain + 1 + 1 + (weights_rounded ? gain + 2 : 0);
    double e2 = 0;
    for (int i = 0; i < c->num_hidden_layers; i++) {
        e2 += share * attention;
        e2 = ((1 - share) + share * (1 + gain)) * e2 + share * ffn;
    }
    return (e2 + 1) * DELTA2;
}

static int up(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median over the rows of |got - want|^2 / |want|^2: a few rows choose other experts, where two are
 * nearly equal. */
static double median_error(const fm_tensors *got, const fm_tensors *want)
{
    const fm_tensor_info *g, *w;
    OK(fm_tensors_get(got, "logits", &g, &ok_err));
    OK(fm_tensors_get(want, "logits", &w, &ok_err));
    assert_int_equal(g->n, w->n);
    int64_t W = w->dims[2], rows = w->n / W;
    float *a = malloc(g->bytes), *b = malloc(w->bytes);
    double *e = malloc((size_t)rows * sizeof *e);
    memcpy(a, g->data, g->bytes);
    memcpy(b, w->data, w->bytes);
    for (int64_t t = 0; t < rows; t++) {
        double d = 0, m = 0;
        for (int64_t i = t * W; i < (t + 1) * W; i++) {
            d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
            m += (double)b[i] * b[i];
        }
        e[t] = d / m;
        assert_true(isfinite(e[t]));
    }
    qsort(e, (size_t)rows, sizeof *e, up);
    double median = e[rows / 2];
    free(a);
    free(b);
    free(e);
    return median;
}

/* Every element of a matrix 8 bf16 units in the last place away, up and down in turn. */
static void disturb(fm_model *m, const char *name)
{
    int i = fmi_layout_find(&m->lay, name);
    assert_true(i >= 0);
    int64_t n = fmi_param_count(&m->lay.params[i]);
    float *w = malloc((size_t)n * sizeof *w);
    OK(fmi_param_read(m, i, w, &ok_err));
    for (int64_t k = 0; k < n; k++) {
        uint32_t bits;
        memcpy(&bits, &w[k], sizeof bits);
        if (fabsf(w[k]) < 1e-6f) continue;
        bits = k & 1 ? bits + (8u << 16) : bits - (8u << 16);
        memcpy(&w[k], &bits, sizeof bits);
    }
    OK(fmi_param_write(m, i, w, &ok_err));
    free(w);
}

/* The median error of a checkpoint in bf16, and its limit. */
static double error_of(const char *variant, const char *disturbed, double *limit)
{
    char dir[256], out[128];
    fm_exec *x = NULL;
    fm_model *m = NULL;
    fm_tensors *ref = open_reference(variant), *got = NULL;
    const fm_tensor_info *t;
    fm_model_opts o = {.precision = FM_DTYPE_BF16, .writable = true};
    fm_logits_opts lo = {.chunk = 0};
    snprintf(dir, sizeof dir, "tests/data/reference/%s", variant);
    snprintf(out, sizeof out, "%s/bf16.safetensors", test_dir());
    OK(fm_context_open("cpu", NULL, 2, &x, &ok_err));
    OK(fm_model_open(x, dir, &o, &m, &ok_err));
    if (disturbed) disturb(m, disturbed);
    OK(fm_tensors_get(ref, "input_ids", &t, &ok_err));
    int32_t *ids = malloc((size_t)t->n * sizeof *ids);
    for (int64_t i = 0; i < t->n; i++) ids[i] = (int32_t)((const int64_t *)t->data)[i];
    OK(fm_model_logits(m, ids, t->dims[0], t->dims[1], &lo, out, &ok_err));
    OK(fm_tensors_open(out, &got, &ok_err));
    double error = median_error(got, ref);
    *limit = limit_of(&m->cfg, m->cfg.fp8);
    free(ids);
    fm_tensors_close(got);
    fm_tensors_close(ref);
    fm_model_close(m);
    fm_context_close(x);
    return error;
}

/* What the router of a layer reads, and how many expert layers read the same. */
static struct {
    fm_status (*gemm)(const fm_kernel_ctx *k, const fm_gemm_args *a);
    fm_status (*gated)(const fm_kernel_ctx *k, const fm_gated_args *g);
    int experts, routers, same;
    const void *read;
} spy;

static fm_status spy_gemm(const fm_kernel_ctx *k, const fm_gemm_args *a)
{
    if (a->kind == FM_GEMM_NT && a->n == spy.experts && !a->offsets) {
        assert_int_equal(a->dt, FM_DTYPE_BF16);
        assert_int_equal(a->dtc, FM_DTYPE_F32);
        spy.read = a->a;
        spy.routers++;
    }
    return spy.gemm(k, a);
}

static fm_status spy_gated(const fm_kernel_ctx *k, const fm_gated_args *g)
{
    if (g->groups > 0) spy.same += g->x == spy.read;
    return spy.gated(k, g);
}

/* Numerics 4: the router of a bf16 model reads the rounded rows that the experts read. */
static void router_reads_what_experts_read(void **state)
{
    (void)state;
    fm_exec *x = NULL;
    fm_model *m = NULL;
    fm_model_opts o = {.precision = FM_DTYPE_BF16};
    fm_logits_opts lo = {.chunk = 0};
    char out[128];
    int32_t ids[40];
    for (int i = 0; i < 40; i++) ids[i] = i;
    snprintf(out, sizeof out, "%s/router.safetensors", test_dir());
    OK(fm_context_open("cpu", NULL, 1, &x, &ok_err));
    spy.gemm = x->ops.gemm;
    spy.gated = x->ops.gated;
    x->ops.gemm = spy_gemm;
    x->ops.gated = spy_gated;
    OK(fm_model_open(x, "tests/data/reference/v3", &o, &m, &ok_err));
    spy.experts = m->cfg.n_routed_experts;
    OK(fm_model_logits(m, ids, 1, 40, &lo, out, &ok_err));
    assert_int_equal(spy.routers, m->cfg.num_hidden_layers - m->cfg.first_k_dense_replace);
    assert_int_equal(spy.same, spy.routers);
    fm_model_close(m);
    fm_context_close(x);
}

static void logits_within_the_limit(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        double limit, error = error_of(variants[i], NULL, &limit);
        if (!(error <= limit))
            fail_msg("%s: squared relative error %.3g, limit %.3g", variants[i], error, limit);
        if (error < DELTA2)
            fail_msg("%s: error %.3g: less than one rounding's", variants[i], error);
    }
}

static void a_disturbed_matrix_is_noticed(void **state)
{
    (void)state;
    static const char *const names[] = {"lm_head.weight", "model.embed_tokens.weight"};
    for (int i = 0; i < N_VARIANTS; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            double limit, error = error_of(variants[i], names[k], &limit);
            if (!(error > limit))
                fail_msg("%s: %s disturbed, error %.3g, limit %.3g", variants[i], names[k], error,
                         limit);
        }
}

static int clean_up(void **state)
{
    (void)state;
    test_dir_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(router_reads_what_experts_read),
        cmocka_unit_test(logits_within_the_limit),
        cmocka_unit_test(a_disturbed_matrix_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, clean_up);
}
