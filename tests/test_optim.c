/* Optimizers against their papers: eight steps on given gradients end in the weights that
 * tools/make_optim.py computed in float64. Both masters' types and the fence device; a step whose loss
 * is not finite touches nothing. */
#include "support.h"

#include <math.h>

#include "io/safetensors.h"
#include "train/muon.h"
#include "train/optim.h"

static fm_err ok_err;
#define E &ok_err
#define GOLDEN "tests/data/optim/steps.safetensors"

enum { STEPS = 8, N_PARAMS = 4 };
static const char *const params[N_PARAMS] = {
    "model.layers.0.self_attn.o_proj.weight", "model.layers.0.mlp.gate_proj.weight",
    "model.layers.0.mlp.down_proj.weight", "model.norm.weight",
};

typedef struct rig {
    fm_exec *x;
    fm_model *m;
    fm_grads *g;
    fmi_optim *o;
    fm_tensors *golden;
    fmi_settings s;
    fm_step_state *state;
    void *loss;
    fm_dtype dt;
} rig;

static void settings(fmi_settings *s)
{
    fmi_settings_default(s);
    s->train_lr_embed = 1;
    s->train_beta2 = s->train_momentum = 0.95;
    s->train_clip = 0;
    s->train_ademamix_beta3 = 0.99;
    s->train_ema = 0.6;
    s->train_soap_every = 3;
    s->train_soap_first = 1000; /* as good as eigenvectors */
}

static void rig_new(rig *r, const char *device, fm_dtype dt, fmi_optim_parts parts)
{
    memset(r, 0, sizeof *r);
    fm_config c;
    r->dt = dt;
    OK(fm_context_open(device, NULL, 2, &r->x, E));
    OK(fmi_config_preset("pico", &c, E));
    c.hidden_size = 8;
    c.num_attention_heads = 2;
    c.v_head_dim = 4;
    c.intermediate_size = 12;
    OK(fmi_model_new(r->x, &c, dt, false, &r->m, E));
    OK(fmi_model_init(r->m, 3, E));
    OK(fmi_grads_new(r->m, &r->g, E));
    settings(&r->s);
    OK(fmi_optim_new(r->m, r->g, parts, &r->o, E));
    OK(fm_dev_alloc(r->x, sizeof *r->state, (void **)&r->state, E));
    OK(fm_dev_alloc(r->x, sizeof(double), &r->loss, E));
    OK(fm_tensors_open(GOLDEN, &r->golden, E));
}

static void rig_free(rig *r)
{
    fm_tensors_close(r->golden);
    fm_dev_free(r->x, r->loss);
    fm_dev_free(r->x, r->state);
    fmi_optim_free(r->o);
    fmi_grads_free(r->g);
    fm_model_close(r->m);
    fm_context_close(r->x);
}

/* The golden tensor KIND.PARAM as doubles; returns its elements. */
static int golden(const rig *r, const char *kind, const char *param, double *out)
{
    char name[160];
    const fm_tensor_info *info;
    float v;
    snprintf(name, sizeof name, "%s.%s", kind, param);
    OK(fm_tensors_get(r->golden, name, &info, E));
    assert_true(info->n <= 96);
    for (int64_t i = 0; i < info->n; i++) {
        memcpy(&v, (const char *)info->data + i * 4, 4);
        out[i] = v;
    }
    return (int)info->n;
}

/* n elements of a parameter's place in a flat device array, in or out. */
static void flat_move(const rig *r, void *flat, const char *param, double *v, int n, bool in)
{
    int p = fmi_layout_find(&r->m->lay, param);
    assert_true(p >= 0);
    assert_int_equal(fmi_param_count(&r->m->lay.params[p]), n);
    size_t size = r->dt == FM_DTYPE_F64 ? 8 : 4;
    char *at = (char *)flat + (size_t)r->g->offset[p] * size;
    float f[96];
    for (int i = 0; i < n && in; i++) f[i] = (float)v[i];
    void *host = size == 8 ? (void *)v : (void *)f;
    if (in) OK(fm_write(r->x, at, host, (size_t)n * size, E));
    else OK(fm_read(r->x, host, at, (size_t)n * size, E));
    for (int i = 0; i < n && !in && size == 4; i++) v[i] = (double)f[i];
}

static void step(rig *r, int t)
{
    double v[96];
    char kind[16];
    snprintf(kind, sizeof kind, "g%d", t);
    fmi_grads_zero(r->g);
    for (int p = 0; p < N_PARAMS; p++) {
        int n = golden(r, kind, params[p], v);
        flat_move(r, r->g->flat, params[p], v, n, true);
    }
    fmi_optim_norm(r->o, &r->s, t, r->loss, 1, r->state);
    fmi_optim_run(r->o, &r->s, t, (double)t / STEPS, 0.02, r->state);
}

static void start(rig *r)
{
    double v[96];
    for (int p = 0; p < N_PARAMS; p++) {
        int n = golden(r, "w0", params[p], v);
        flat_move(r, r->o->flat[FMI_MASTER], params[p], v, n, true);
        if (r->o->parts.ema) flat_move(r, r->o->flat[FMI_EMA], params[p], v, n, true);
    }
}

/* Compares what was learnt: the difference from w0, to `tol` of its largest element. */
static void compare(const rig *r, const char *kind, int flat, double tol)
{
    double want[96], got[96], w0[96];
    for (int p = 0; p < N_PARAMS; p++) {
        int n = golden(r, kind, params[p], want);
        golden(r, "w0", params[p], w0);
        flat_move(r, r->o->flat[flat], params[p], got, n, false);
        double most = 0, off = 0;
        for (int i = 0; i < n; i++) {
            most = fmax(most, fabs(want[i] - w0[i]));
            off = fmax(off, fabs(got[i] - want[i]));
        }
        assert_true(most > 0.01);
        if (!(off <= tol * most)) fail_msg("%s %s: off by %.3g of %.3g", kind, params[p], off, most);
    }
}

/* Steps of one optimizer in both types and on the fence device. */
static void check(const char *kind, fmi_optim_parts parts, int flat, double clip, double tol32)
{
    for (int k = 0; k < 3; k++) {
        rig r;
        rig_new(&r, k == 2 ? "fence" : NULL, k ? FM_DTYPE_F32 : FM_DTYPE_F64, parts);
        r.s.train_clip = clip;
        r.s.train_grokfast_lamb = parts.grokfast ? 2 : 0;
        start(&r);
        for (int t = 1; t <= STEPS; t++) step(&r, t);
        compare(&r, kind, flat, k ? tol32 : 1e-6);
        rig_free(&r);
    }
}

static void test_ademamix(void **state)
{
    (void)state;
    check("ademamix", (fmi_optim_parts){ .ademamix = true }, FMI_MASTER, 0, 1e-5);
}

static void test_grokfast(void **state)
{
    (void)state;
    check("grokfast", (fmi_optim_parts){ .grokfast = true }, FMI_MASTER, 1, 1e-5);
}

static void test_ema(void **state)
{
    (void)state;
    check("ema", (fmi_optim_parts){ .ema = true }, FMI_EMA, 0, 1e-5);
}

static void test_soap(void **state)
{
    (void)state;
    check("soap", (fmi_optim_parts){ .soap = 10 }, FMI_MASTER, 0, 1e-5);
}

/* Every array of the optimizer, as bytes. */
static void *snapshot(const rig *r, size_t *bytes)
{
    size_t one = (size_t)r->g->n * sizeof(float);
    *bytes = FMI_FLATS * one;
    char *out = calloc(1, *bytes);
    assert_non_null(out);
    for (int i = 0; i < FMI_FLATS; i++)
        if (r->o->flat[i]) OK(fm_read(r->x, out + (size_t)i * one, r->o->flat[i], one, E));
    return out;
}

static void test_bad(void **state)
{
    (void)state;
    static const fmi_optim_parts parts[] = {
        { .ademamix = true, .grokfast = true, .ema = true },
        { .soap = 10 },
    };
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        rig r;
        float nan_loss = NAN;
        rig_new(&r, NULL, FM_DTYPE_F32, parts[k]);
        r.s.train_grokfast_lamb = 2;
        start(&r);
        for (int t = 1; t <= 4; t++) step(&r, t);
        size_t n;
        void *before = snapshot(&r, &n);
        OK(fm_write(r.x, r.loss, &nan_loss, sizeof nan_loss, E));
        step(&r, 5);
        void *after = snapshot(&r, &n);
        assert_memory_equal(before, after, n);
        free(before);
        free(after);
        rig_free(&r);
    }
}

/* Masters after three steps on made-up gradients; returns the embedding's elements, which come first. */
static int64_t masters(fmi_optim_parts parts, double lr, double lr_embed, float *out, int64_t cap)
{
    rig r;
    rig_new(&r, NULL, FM_DTYPE_F32, parts);
    r.s.train_lr_embed = lr_embed;
    int64_t n = r.g->n, embed = fmi_param_count(&r.m->lay.params[r.m->lay.embed]);
    assert_true(n <= cap && r.g->offset[r.m->lay.embed] == 0);
    for (int t = 1; t <= 3; t++) {
        for (int64_t i = 0; i < n; i++) out[i] = (float)((i * 7 + t * 5) % 23 - 11) * 0.01f;
        OK(fm_write(r.x, r.g->flat, out, (size_t)n * sizeof *out, E));
        fmi_optim_norm(r.o, &r.s, t, r.loss, 1, r.state);
        fmi_optim_run(r.o, &r.s, t, t / 3.0, lr, r.state);
    }
    OK(fm_read(r.x, out, r.o->flat[FMI_MASTER], (size_t)n * sizeof *out, E));
    rig_free(&r);
    return embed;
}

/* train.lr_embed is the embedding's alone, whatever optimizer takes the others. */
static void test_lr_embed(void **state)
{
    (void)state;
    enum { CAP = 1 << 20 };
    static const fmi_optim_parts parts[] = { { 0 }, { .ademamix = true }, { .muon = true }, { .soap = 10 } };
    static float both[CAP], faster[CAP], plain[CAP];
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) {
        memset(both, 0, sizeof both);
        memset(plain, 0, sizeof plain);
        int64_t n = masters(parts[k], 0.02, 3, both, CAP);
        masters(parts[k], 0.06, 1, faster, CAP);
        masters(parts[k], 0.02, 1, plain, CAP);
        assert_memory_equal(both, faster, (size_t)n * sizeof *both);
        assert_memory_not_equal(both, plain, (size_t)n * sizeof *both);
        assert_memory_equal(both + n, plain + n, (size_t)(CAP - n) * sizeof *both);
    }
}

/* The average shows in the weights and the masters come back, bit for bit. */
static void test_show(void **state)
{
    (void)state;
    rig r;
    float w[8], mean[8], back[8];
    rig_new(&r, NULL, FM_DTYPE_BF16, (fmi_optim_parts){ .ema = true });
    r.dt = FM_DTYPE_F32;
    start(&r);
    for (int t = 1; t <= 3; t++) step(&r, t);
    int p = fmi_layout_find(&r.m->lay, "model.norm.weight");
    OK(fmi_param_read(r.m, p, w, E));
    fmi_optim_show(r.o, true);
    OK(fmi_param_read(r.m, p, mean, E));
    fmi_optim_show(r.o, false);
    OK(fmi_param_read(r.m, p, back, E));
    assert_memory_equal(w, back, sizeof w);
    double ema[8];
    flat_move(&r, r.o->flat[FMI_EMA], "model.norm.weight", ema, 8, false);
    for (int i = 0; i < 8; i++)
        assert_true(mean[i] == fmi_bf16_to_f32(fmi_f32_to_bf16((float)ema[i])) && mean[i] != w[i]);
    rig_free(&r);
}

/* Column j of the reflection I - 2 w w^T / w.w, w = 1, 2, .. n. */
static double reflected(int n, int i, int j)
{
    return (i == j) - 12.0 * (i + 1) * (j + 1) / ((double)n * (n + 1) * (2 * n + 1));
}

/* Muon on a gradient of known singular vectors: the update has the same and singular values about 1, whatever
 * they and the gradient's size were, and leaves a direction alone in which there is none. */
static void check_muon(fm_dtype dt, const double singular[8], double size, double tolerance)
{
    enum { ROWS = 12, COLS = 8, N = ROWS * COLS };
    double g[N], zero[N] = { 0 }, w[N], lr = 0.01;
    rig r;
    rig_new(&r, "fence", dt, (fmi_optim_parts){ .muon = true });
    r.dt = FM_DTYPE_F32;
    r.s.train_momentum = r.s.train_weight_decay = 0;
    for (int i = 0; i < N; i++) {
        g[i] = 0;
        for (int k = 0; k < COLS; k++)
            g[i] += size * singular[k] * reflected(ROWS, i / COLS, k) * reflected(COLS, i % COLS, k);
    }
    fmi_grads_zero(r.g);
    flat_move(&r, r.g->flat, params[1], g, N, true);
    flat_move(&r, r.o->flat[FMI_MASTER], params[1], zero, N, true);
    fmi_optim_norm(r.o, &r.s, 1, r.loss, 1, r.state);
    fmi_optim_run(r.o, &r.s, 1, 1, lr, r.state);
    flat_move(&r, r.o->flat[FMI_MASTER], params[1], w, N, false);
    for (int k = 0; k < COLS; k++) {
        double v[ROWS] = { 0 }, along = 0, norm = 0;
        for (int i = 0; i < N; i++)
            v[i / COLS] -= w[i] * reflected(COLS, i % COLS, k) / (lr * 0.2 * sqrt(ROWS));
        for (int i = 0; i < ROWS; i++) {
            along += v[i] * reflected(ROWS, i, k);
            norm += v[i] * v[i];
        }
        double want_low = singular[k] > 0 ? 0.715 : 0, want_high = singular[k] > 0 ? 1.2734 : 0;
        assert_true(along > want_low - tolerance && along < want_high + tolerance);
        assert_true(sqrt(fabs(norm - along * along)) < tolerance);
    }
    rig_free(&r);
}

/* Every singular value that the steps are made for ends near 1, those below grow, none leaves [0, 1.28]. */
static void check_steps(int64_t side, int want, double low, double least)
{
    const double(*coef)[3];
    assert_int_equal(fmi_muon_steps(side, &coef), want);
    for (int i = 1; i <= 10000; i++) {
        double s = i / 10000.0, x = s;
        for (int k = 0; k < want; k++) x = coef[k][0] * x + coef[k][1] * pow(x, 3) + coef[k][2] * pow(x, 5);
        assert_true(x < 1.28 && x > (s < low ? s : least));
    }
}

static void test_muon_update(void **state)
{
    (void)state;
    check_steps(128, 3, 0.01, 0.714);
    check_steps(129, 4, 0.003, 0.775);
    static const double sizes[] = { 1e-6, 1, 1e6 };
    static const double falling[] = { 1, 0.9, 0.5, 0.4, 0.1, 0.05, 0.03, 0 };
    /* Over the Frobenius norm the last were 0.0057 and would end at 0.43. */
    static const double level[] = { 1, 1, 1, 1, 1, 1, 1, 0.015 };
    for (int i = 0; i < 3; i++) {
        check_muon(FM_DTYPE_F32, falling, sizes[i], 1e-3);
        check_muon(FM_DTYPE_BF16, falling, sizes[i], 0.15);
        check_muon(FM_DTYPE_F32, level, sizes[i], 1e-3);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ademamix), cmocka_unit_test(test_grokfast), cmocka_unit_test(test_ema),
        cmocka_unit_test(test_soap),     cmocka_unit_test(test_bad),      cmocka_unit_test(test_show),
        cmocka_unit_test(test_lr_embed), cmocka_unit_test(test_muon_update),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
