/* The training step against PyTorch and against itself: the twelve AdamW steps of the reference
 * checkpoints, accumulation, the flag of a non-finite loss, the count of reads and heap calls, router
 * bias, the fence device. */
#include "support.h"

#include <jansson.h>
#include <math.h>

#include "io/safetensors.h"
#include "train/stepper.h"

static fm_err ok_err;
#define E &ok_err

/* Documents held in memory. */
typedef struct memory_docs {
    const int32_t *ids;
    int64_t n, length;
} memory_docs;

static int64_t memory_length(void *arg, int64_t doc)
{
    (void)doc;
    return ((memory_docs *)arg)->length;
}

static void memory_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    memory_docs *d = arg;
    memcpy(out, d->ids + doc * d->length + begin, (size_t)n * sizeof *out);
}

static fmi_docs docs_of(memory_docs *d)
{
    return (fmi_docs){ .arg = d, .n = d->n, .length = memory_length, .copy = memory_copy };
}

static fm_exec *context(const char *device)
{
    fm_exec *x;
    OK(fm_context_open(device, NULL, 2, &x, E));
    return x;
}

static void reference_path(char *out, size_t cap, const char *variant, const char *file)
{
    snprintf(out, cap, "tests/data/reference/%s%s%s", variant, *file ? "/" : "", file);
}

/* input_ids of a reference checkpoint, [2, 96]. */
static void reference_ids(const char *variant, int32_t *ids)
{
    char path[256];
    reference_path(path, sizeof path, variant, "reference.safetensors");
    fm_tensors *t;
    OK(fm_tensors_open(path, &t, E));
    const fm_tensor_info *info;
    OK(fm_tensors_get(t, "input_ids", &info, E));
    assert_int_equal(info->n, 192);
    for (int i = 0; i < 192; i++) {
        int64_t v;
        memcpy(&v, (const char *)info->data + (size_t)i * 8, 8);
        ids[i] = (int32_t)v;
    }
    fm_tensors_close(t);
}

static void reference_settings(fmi_settings *s)
{
    fmi_settings_default(s);
    s->train_lr_embed = 1;
    s->train_beta2 = s->train_momentum = 0.95;
    s->data_seq = 96;
    s->train_lr = 2e-3;
    s->balance_alpha = 0;
}

static void twelve_steps(const char *variant)
{
    char path[256];
    fm_exec *x = context(NULL);
    fm_model *m;
    reference_path(path, sizeof path, variant, "");
    OK(fm_model_open(x, path, &(fm_model_opts){ .precision = FM_DTYPE_F32, .writable = true,
                                                .skip_mtp = true }, &m, E));
    int32_t ids[192];
    reference_ids(variant, ids);
    memory_docs d = { ids, 2, 96 };
    fmi_docs docs = docs_of(&d);
    fmi_settings s;
    reference_settings(&s);
    fmi_feed feed;
    OK(fmi_feed_init(&feed, &docs, 96, 1, false, false, E));
    fmi_stepper *t;
    OK(fmi_stepper_new(m, &(fmi_step_opts){ .rows_max = 2, .micro_rows = 2, .T = 96 }, &t, E));
    reference_path(path, sizeof path, variant, "meta.json");
    json_t *meta = json_load_file(path, 0, NULL);
    assert_non_null(meta);
    const json_t *want = json_object_get(json_object_get(meta, "adamw"), "loss_and_grad_norm");
    assert_int_equal(json_array_size(want), 12);
    for (int i = 0; i < 12; i++) {
        fmi_step_out out;
        OK(fmi_step_run(t, &feed, &s, &(fmi_step_in){ .step = i + 1, .rows = 2, .lr = 2e-3 }, &out, E));
        double loss = json_number_value(json_array_get(json_array_get(want, (size_t)i), 0));
        double norm = json_number_value(json_array_get(json_array_get(want, (size_t)i), 1));
        assert_int_equal(out.n_target, 190);
        if (fabs(out.loss - loss) > 1e-3 || fabs(out.grad_norm - norm) > 1e-3 * norm)
            fail_msg("%s step %d: loss %.7f, PyTorch %.7f; norm %.7f, PyTorch %.7f", variant, i, out.loss,
                     loss, out.grad_norm, norm);
    }
    json_decref(meta);
    fmi_stepper_free(t);
    fmi_feed_deinit(&feed);
    fm_model_close(m);
    fm_context_close(x);
}

static void test_reference_steps(void **state)
{
    (void)state;
    static const char *const variants[] = { "v3", "v3-yarn", "v3-noqlora-tied-shapes", "v3-mtp", "v3-fp8",
                                            "v2-lite", "v2" };
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) twelve_steps(variants[i]);
}

/* A small model on a repeating text: pico, or a given reference checkpoint's shape. */
typedef struct rig {
    fm_exec *x;
    fm_model *m;
    fmi_feed feed;
    fmi_stepper *t;
    fmi_settings s;
    memory_docs d;
    fmi_docs docs;
    int32_t ids[16 * 48];
} rig;

static void rig_new(rig *r, const char *device, fm_dtype dt, const fmi_step_opts *o)
{
    memset(r, 0, sizeof *r);
    fm_config c;
    r->x = context(device);
    OK(fmi_config_preset("pico", &c, E));
    OK(fmi_model_new(r->x, &c, dt, false, &r->m, E));
    OK(fmi_model_init(r->m, 11, E));
    for (int i = 0; i < 16 * 48; i++) r->ids[i] = (i * i % 61 + i / 48 * 7) % 320;
    r->d = (memory_docs){ r->ids, 16, 48 };
    r->docs = docs_of(&r->d);
    fmi_settings_default(&r->s);
    r->s.train_lr_embed = 1;
    r->s.train_beta2 = r->s.train_momentum = 0.95;
    r->s.data_seq = o->T;
    OK(fmi_feed_init(&r->feed, &r->docs, o->T, 1, true, false, E));
    OK(fmi_stepper_new(r->m, o, &r->t, E));
}

static void rig_free(rig *r)
{
    fmi_stepper_free(r->t);
    fmi_feed_deinit(&r->feed);
    fm_model_close(r->m);
    fm_context_close(r->x);
}

static fmi_step_out rig_step(rig *r, int64_t step, int64_t rows, double lr)
{
    fmi_step_out out;
    OK(fmi_step_run(r->t, &r->feed, &r->s,
                    &(fmi_step_in){ .step = step, .rows = rows, .lr = lr, .gamma = 0.001, .mtp_weight = 0.3 },
                    &out, E));
    return out;
}

static void test_overfit(void **state)
{
    (void)state;
    for (int muon = 0; muon < 2; muon++) {
        rig r;
        rig_new(&r, NULL, FM_DTYPE_F32,
                &(fmi_step_opts){ .rows_max = 2, .micro_rows = 2, .T = 48, .mtp = true, .muon = muon });
        r.docs.n = 2;
        r.feed.docs = r.docs;
        double first = rig_step(&r, 1, 2, 0.01).loss, last = 0, mtp = 0;
        for (int i = 2; i <= 80; i++) {
            fmi_step_out out = rig_step(&r, i, 2, 0.01);
            last = out.loss;
            mtp = out.mtp_loss;
        }
        assert_true(first > 5.5 && last < 0.3 && mtp < 0.6);
        rig_free(&r);
    }
}

/* Four rows at once and one by one: the same loss and norm but for the order of sums. */
static void test_accumulation(void **state)
{
    (void)state;
    fmi_step_out a[4], b[4];
    for (int k = 0; k < 2; k++) {
        rig r;
        rig_new(&r, NULL, FM_DTYPE_F32, &(fmi_step_opts){ .rows_max = 4, .micro_rows = k ? 1 : 4, .T = 40,
                                                          .mtp = true, .muon = true });
        for (int i = 0; i < 4; i++) (k ? b : a)[i] = rig_step(&r, i + 1, 4, 1e-3);
        rig_free(&r);
    }
    for (int i = 0; i < 4; i++) {
        assert_int_equal(a[i].n_target, b[i].n_target);
        if (fabs(a[i].loss - b[i].loss) > 1e-5 || fabs(a[i].mtp_loss - b[i].mtp_loss) > 1e-5 ||
            fabs(a[i].balance_loss - b[i].balance_loss) > 1e-8 ||
            fabs(a[i].grad_norm - b[i].grad_norm) > 1e-4 * a[i].grad_norm)
            fail_msg("step %d: loss %.8f %.8f, norm %.8f %.8f", i, a[i].loss, b[i].loss, a[i].grad_norm,
                     b[i].grad_norm);
    }
}

/* One read a step, no heap call, whatever the optimizer; recomputation changes no bit. */
static void test_step_costs(void **state)
{
    (void)state;
    double norm[4];
    for (int k = 0; k < 4; k++) {
        rig r;
        fmi_step_opts o = { .rows_max = 3, .micro_rows = 2, .T = 40, .mtp = true, .muon = k < 2,
                            .recompute = k == 1, .soap = k == 2 ? 64 : 0, .ademamix = k == 3,
                            .grokfast = k > 1, .ema = k > 1 };
        rig_new(&r, NULL, FM_DTYPE_BF16, &o);
        r.s.train_ademamix_beta3 = 0.999;
        rig_step(&r, 1, 3, 1e-3);
        int64_t reads = fm_read_count(r.x), calls = fmi_alloc_calls();
        norm[k] = rig_step(&r, 2, 3, 1e-3).grad_norm;
        assert_int_equal(fm_read_count(r.x) - reads, 1);
        assert_int_equal(fmi_alloc_calls() - calls, 0);
        rig_free(&r);
    }
    assert_true(norm[0] == norm[1]);
}

static void test_non_finite(void **state)
{
    (void)state;
    rig r;
    rig_new(&r, NULL, FM_DTYPE_F32, &(fmi_step_opts){ .rows_max = 2, .micro_rows = 2, .T = 40, .mtp = true,
                                                      .muon = true });
    rig_step(&r, 1, 2, 1e-3);
    int p = fmi_layout_find(&r.m->lay, "model.layers.2.self_attn.o_proj.weight");
    int other = fmi_layout_find(&r.m->lay, "model.norm.weight");
    assert_true(p >= 0 && other >= 0);
    int64_t n = fmi_param_count(&r.m->lay.params[p]);
    float *w = malloc((size_t)n * sizeof *w), before[64], after[64];
    OK(fmi_param_read(r.m, p, w, E));
    w[5] = NAN;
    OK(fmi_param_write(r.m, p, w, E));
    OK(fmi_param_read(r.m, other, before, E));
    fmi_step_out out;
    fm_err err = { 0 };
    fm_status st = fmi_step_run(r.t, &r.feed, &r.s, &(fmi_step_in){ .step = 2, .rows = 2, .lr = 1e-3,
                                                                    .gamma = 1e-3, .mtp_weight = 0.3 },
                                &out, &err);
    assert_int_equal(st, FM_E_NUMERIC);
    assert_non_null(strstr(err.text, "model.layers.2.self_attn.o_proj.weight [5]"));
    OK(fmi_param_read(r.m, other, after, E));
    assert_memory_equal(before, after, sizeof before);
    free(w);
    rig_free(&r);
}

/* The fence device queues operators and hides their memory: the same numbers come out. */
static void test_fence(void **state)
{
    (void)state;
    fmi_step_out out[2][3];
    for (int k = 0; k < 2; k++) {
        rig r;
        rig_new(&r, k ? "fence" : NULL, FM_DTYPE_BF16,
                &(fmi_step_opts){ .rows_max = 2, .micro_rows = 1, .T = 40, .mtp = true, .muon = true });
        for (int i = 0; i < 3; i++) out[k][i] = rig_step(&r, i + 1, 2, 1e-3);
        rig_free(&r);
    }
    for (int i = 0; i < 3; i++) {
        assert_true(out[0][i].loss == out[1][i].loss);
        assert_true(out[0][i].grad_norm == out[1][i].grad_norm);
    }
}

/* Centred updates leave a layer's mean bias where it was; loads count every token K times. */
static void test_balance(void **state)
{
    (void)state;
    for (int center = 0; center < 2; center++) {
        rig r;
        rig_new(&r, NULL, FM_DTYPE_F32, &(fmi_step_opts){ .rows_max = 2, .micro_rows = 2, .T = 40,
                                                          .mtp = true });
        r.s.balance_center = center;
        fmi_step_out out = rig_step(&r, 1, 2, 1e-3);
        for (int i = 0; i < r.m->lay.n_layers; i++) {
            if (!r.m->lay.layers[i].moe) continue;
            double sum = 0;
            int64_t load = 0;
            for (int e = 0; e < 16; e++) {
                load += out.load[i * 16 + e];
                float b = out.bias[i * 16 + e], sign = out.load[i * 16 + e] < 20 ? 1 : -1;
                sum += b;
                if (out.load[i * 16 + e] == 20) sign = 0;
                if (!center && fabsf(b - 0.001f * sign) > 1e-9f) fail_msg("layer %d expert %d: %g", i, e, b);
            }
            assert_int_equal(load, 80 * 4); /* 80 tokens, 4 experts each: mean 20 */
            if (center && fabs(sum) > 1e-8) fail_msg("layer %d: mean bias moved by %g", i, sum / 16);
        }
        rig_free(&r);
    }
    fmi_load_window w;
    OK(fmi_load_window_init(&w, 2, 4, E));
    static const int32_t load[2][8] = { { 0, 0, 0, 0, 10, 0, 20, 10 }, { 0, 0, 0, 0, 10, 20, 0, 10 } };
    static const float bias[4] = { -0.5f, 0, 0.25f, 0 };
    fmi_layer_balance b;
    fmi_load_window_push(&w, load[0]);
    fmi_load_window_push(&w, load[1]);
    fmi_balance_layer(&w, 1, load[1] + 4, bias, &b);
    assert_true(b.max_vio == 1 && b.max_vio_window == 0 && b.dead == 1);
    assert_true(b.bias_min == -0.5f && b.bias_max == 0.25f);
    assert_true(fabs(b.entropy - 0.75) < 1e-12); /* 1/4, 1/2, 1/4: 1.5 of 2 bits */
    fmi_load_window_deinit(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_steps), cmocka_unit_test(test_overfit),
        cmocka_unit_test(test_accumulation),    cmocka_unit_test(test_step_costs),
        cmocka_unit_test(test_non_finite),      cmocka_unit_test(test_fence),
        cmocka_unit_test(test_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
