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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference_steps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
