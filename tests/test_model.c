/* The model against PyTorch: logits, hidden states, losses, gradients, routing and balance of the
 * seven reference checkpoints; the same through the cache in chunks and in the absorbed form; and
 * row invariance of the bf16 forward at every instruction-set level and thread count. Limits:
 * docs/numerics.md. */
#include "support.h"

#include <math.h>

#include "io/safetensors.h"
#include "ops/exec.h"

static const char *const variants[] = {"v3", "v3-yarn", "v3-noqlora-tied-shapes", "v3-mtp", "v3-fp8",
                                       "v2-lite", "v2"};
#define N_VARIANTS (int)(sizeof variants / sizeof *variants)

static fm_err ok_err;

static void path_of(char *buf, size_t cap, const char *variant, const char *file)
{
    snprintf(buf, cap, "tests/data/reference/%s/%s", variant, file);
}

static int32_t *read_ids(const fm_tensors *ref, int64_t *rows, int64_t *T)
{
    const fm_tensor_info *t;
    OK(fm_tensors_get(ref, "input_ids", &t, &ok_err));
    *rows = t->dims[0];
    *T = t->dims[1];
    int32_t *ids = malloc((size_t)t->n * sizeof *ids);
    const int64_t *src = t->data;
    for (int64_t i = 0; i < t->n; i++) ids[i] = (int32_t)src[i];
    return ids;
}

static float *floats(const fm_tensors *t, const char *name, int64_t *n)
{
    const fm_tensor_info *info;
    OK(fm_tensors_get(t, name, &info, &ok_err));
    assert_int_equal(info->dtype, FM_DTYPE_F32);
    float *out = malloc((size_t)info->n * 4 + 4);
    memcpy(out, info->data, (size_t)info->n * 4);
    *n = info->n;
    return out;
}

/* max |a - b| / max |b| */
static double worst(const float *a, const float *b, int64_t n)
{
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        double e = fabs((double)a[i] - b[i]);
        if (!(e <= d)) d = e;
        if (fabs(b[i]) > m) m = fabs(b[i]);
    }
    return m > 0 ? d / m : d;
}

static void same_within(const fm_tensors *got, const fm_tensors *want, const char *name, double limit,
                        const char *what)
{
    int64_t n = 0, k = 0;
    float *a = floats(got, name, &n), *b = floats(want, name, &k);
    assert_int_equal(n, k);
    double d = worst(a, b, n);
    if (!(d <= limit))
        fail_msg("%s: %s differs by %.3g of the largest value, limit %.3g", what, name, d, limit);
    free(a);
    free(b);
}

static fm_model *open_model(fm_exec *x, const char *variant, fm_dtype precision, bool absorbed, bool writable)
{
    char dir[256];
    fm_model *m = NULL;
    path_of(dir, sizeof dir, variant, "");
    fm_model_opts o = {.precision = precision, .absorbed = absorbed, .writable = writable};
    OK(fm_model_open(x, dir, &o, &m, &ok_err));
    return m;
}

static void run_logits(const char *device, const char *isa, int threads, const char *variant,
                       fm_dtype precision, bool absorbed, int64_t chunk, const char *out)
{
    fm_exec *x = NULL;
    fm_tensors *ref = NULL;
    char path[256];
    path_of(path, sizeof path, variant, "reference.safetensors");
    OK(fm_tensors_open(path, &ref, &ok_err));
    OK(fm_context_open(device, isa, threads, &x, &ok_err));
    fm_model *m = open_model(x, variant, precision, absorbed, false);
    int64_t rows, T;
    int32_t *ids = read_ids(ref, &rows, &T);
    fm_logits_opts o = {.hidden = true, .mtp = fm_model_has_mtp(m), .chunk = chunk};
    OK(fm_model_logits(m, ids, rows, T, &o, out, &ok_err));
    free(ids);
    fm_model_close(m);
    fm_context_close(x);
    fm_tensors_close(ref);
}

static void against_reference(const char *variant, bool absorbed, int64_t chunk, const char *device)
{
    char path[256], out[128], what[128];
    fm_tensors *ref = NULL, *got = NULL;
    snprintf(out, sizeof out, "%s/logits.safetensors", test_dir());
    snprintf(what, sizeof what, "%s, %s, chunk %d, %s", variant, absorbed ? "absorbed" : "expanded",
             (int)chunk, device);
    run_logits(device, NULL, 2, variant, FM_DTYPE_F32, absorbed, chunk, out);
    path_of(path, sizeof path, variant, "reference.safetensors");
    OK(fm_tensors_open(path, &ref, &ok_err));
    OK(fm_tensors_open(out, &got, &ok_err));
    same_within(got, ref, "logits", 2e-5, what);
    if (fm_tensors_find(ref, "mtp_logits")) same_within(got, ref, "mtp_logits", 2e-5, what);
    for (int i = 0; i < 64; i++) {
        char name[32];
        snprintf(name, sizeof name, "hidden.%d", i);
        if (!fm_tensors_find(ref, name)) {
            assert_true(i > 3);
            break;
        }
        same_within(got, ref, name, 2e-5, what);
    }
    fm_tensors_close(ref);
    fm_tensors_close(got);
}

static void logits_at_once(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) against_reference(variants[i], false, 0, "cpu");
}

static void logits_through_the_cache(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        against_reference(variants[i], false, 7, "cpu");
        if (!test_quick()) against_reference(variants[i], false, 1, "cpu");
        if (!test_quick()) against_reference(variants[i], false, 96, "cpu");
    }
}

static void logits_absorbed(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) {
        against_reference(variants[i], true, 0, "cpu");
        if (!test_quick()) against_reference(variants[i], true, 7, "cpu");
        if (!test_quick()) against_reference(variants[i], true, 1, "cpu");
    }
}

static void logits_on_the_fence(void **state)
{
    (void)state;
    against_reference("v3-mtp", false, 0, "fence");
    against_reference("v3-mtp", false, 7, "fence");
    against_reference("v3-fp8", true, 7, "fence");
    against_reference("v2", true, 0, "fence");
}

/* norm(a - b) / norm(b); both zero: 0. A gradient of zero norm must be exactly zero. */
static void gradient_within(const fm_tensors *got, const fm_tensors *ref,
                            const fm_tensor_info *want, double limit, const char *what)
{
    int64_t n = 0;
    float *a = floats(got, want->name, &n), *b = floats(ref, want->name, &n);
    double d = 0, m = 0;
    for (int64_t i = 0; i < n; i++) {
        d += ((double)a[i] - b[i]) * ((double)a[i] - b[i]);
        m += (double)b[i] * b[i];
    }
    if (m == 0 && d != 0) fail_msg("%s: %s must be exactly zero", what, want->name);
    if (m > 0 && !(sqrt(d / m) <= limit))
        fail_msg("%s: %s differs by %.3g of its norm, limit %.3g", what, want->name, sqrt(d / m), limit);
    free(a);
    free(b);
}

static void same_router(const fm_tensors *got, const fm_tensors *ref, const fm_tensor_info *want,
                        const char *what)
{
    const fm_tensor_info *g;
    OK(fm_tensors_get(got, want->name, &g, &ok_err));
    assert_int_equal(g->bytes, want->bytes);
    if (strstr(want->name, "seq_balance_loss"))
        same_within(got, ref, want->name, 1e-5, what);
    else if (memcmp(g->data, want->data, want->bytes) != 0)
        fail_msg("%s: %s differs", what, want->name);
}

static void run_grad(const char *device, const char *isa, int threads, const char *variant,
                     fm_dtype precision, bool recompute, const char *out)
{
    fm_exec *x = NULL;
    fm_tensors *ref = NULL;
    char path[256];
    int64_t rows, T;
    path_of(path, sizeof path, variant, "reference.safetensors");
    OK(fm_tensors_open(path, &ref, &ok_err));
    OK(fm_context_open(device, isa, threads, &x, &ok_err));
    fm_model *m = open_model(x, variant, precision, false, true);
    int32_t *ids = read_ids(ref, &rows, &T);
    fm_grad_opts o = {.mtp_weight = 0.3, .recompute = recompute};
    OK(fm_model_grad(m, ids, rows, T, &o, out, &ok_err));
    free(ids);
    fm_model_close(m);
    fm_context_close(x);
    fm_tensors_close(ref);
}

static void gradients_of(const char *variant, const char *device, bool recompute)
{
    fm_tensors *ref = NULL, *got = NULL;
    char path[256], out[128];
    int checked = 0;
    snprintf(out, sizeof out, "%s/grad.safetensors", test_dir());
    run_grad(device, NULL, 2, variant, FM_DTYPE_F32, recompute, out);
    path_of(path, sizeof path, variant, "reference.safetensors");
    OK(fm_tensors_open(path, &ref, &ok_err));
    OK(fm_tensors_open(out, &got, &ok_err));
    for (int i = 0; i < fm_tensors_count(ref); i++) {
        const fm_tensor_info *t = fm_tensors_at(ref, i);
        if (!strcmp(t->name, "loss") || !strcmp(t->name, "mtp_loss"))
            same_within(got, ref, t->name, 1e-5, variant);
        else if (!strncmp(t->name, "grad.", 5))
            gradient_within(got, ref, t, 1e-4, variant);
        else if (!strncmp(t->name, "router.", 7) && !recompute)
            same_router(got, ref, t, variant);
        else
            continue;
        checked++;
    }
    assert_true(checked >= 1);
    fm_tensors_close(ref);
    fm_tensors_close(got);
}

static void gradients(void **state)
{
    (void)state;
    for (int i = 0; i < N_VARIANTS; i++) gradients_of(variants[i], "cpu", false);
}

static void gradients_recomputed(void **state)
{
    (void)state;
    gradients_of("v3-mtp", "cpu", true);
    gradients_of("v2", "cpu", true);
}

static void gradients_on_the_fence(void **state)
{
    (void)state;
    gradients_of("v3-mtp", "fence", false);
    gradients_of("v3-noqlora-tied-shapes", "fence", true);
}

static void same_file(const char *a, const char *b, const char *what)
{
    fm_tensors *x = NULL, *y = NULL;
    OK(fm_tensors_open(a, &x, &ok_err));
    OK(fm_tensors_open(b, &y, &ok_err));
    assert_int_equal(fm_tensors_count(x), fm_tensors_count(y));
    for (int i = 0; i < fm_tensors_count(x); i++) {
        const fm_tensor_info *t = fm_tensors_at(x, i), *u = fm_tensors_find(y, t->name);
        assert_non_null(u);
        assert_int_equal(t->bytes, u->bytes);
        if (memcmp(t->data, u->data, t->bytes) != 0) fail_msg("%s: bytes of %s differ", what, t->name);
    }
    fm_tensors_close(x);
    fm_tensors_close(y);
}

/* The same bytes at every level, on 1, 2 and 3 threads, at once and in chunks. */
static void invariant(const char *variant, fm_dtype precision)
{
    static const char *const levels[] = {"scalar", "avx2", "avx512", "amx"};
    static const int64_t chunks[] = {0, 1, 7, 64};
    char a[128], b[128], what[160];
    snprintf(a, sizeof a, "%s/a.safetensors", test_dir());
    snprintf(b, sizeof b, "%s/b.safetensors", test_dir());
    for (int absorbed = 0; absorbed < 2; absorbed++) {
        run_logits("cpu", NULL, 1, variant, precision, absorbed, 0, a);
        for (int l = 0; l <= (int)fm_isa_detect(); l++)
            for (int k = 0; k < 4; k++) {
                if (l == 0 && chunks[k] == 1) continue;
                if (test_quick() && (chunks[k] != 7 || l == 0)) continue;
                snprintf(what, sizeof what, "%s %s %s %d threads chunk %d", variant,
                         absorbed ? "absorbed" : "expanded", levels[l], 1 + (l + k) % 3, (int)chunks[k]);
                run_logits("cpu", levels[l], 1 + (l + k) % 3, variant, precision, absorbed, chunks[k], b);
                same_file(a, b, what);
            }
    }
}

static void bf16_bytes_do_not_depend_on_the_machine(void **state)
{
    (void)state;
    if (!test_quick()) invariant("v3-mtp", FM_DTYPE_BF16);
    invariant("v3-noqlora-tied-shapes", FM_DTYPE_BF16);
    if (!test_quick()) invariant("v2", FM_DTYPE_BF16);
}

static void f32_bytes_do_not_depend_on_the_machine(void **state)
{
    (void)state;
    invariant("v3-mtp", FM_DTYPE_F32);
}

static void gradient_bytes_do_not_depend_on_the_machine(void **state)
{
    (void)state;
    static const char *const levels[] = {"scalar", "avx2", "avx512", "amx"};
    char a[128], b[128];
    snprintf(a, sizeof a, "%s/a.safetensors", test_dir());
    snprintf(b, sizeof b, "%s/b.safetensors", test_dir());
    for (int p = 0; p < 3; p++) { /* the last with odd widths, and a router of 10 experts */
        fm_dtype precision = p == 1 ? FM_DTYPE_F32 : FM_DTYPE_BF16;
        const char *variant = p == 2 ? "v3-noqlora-tied-shapes" : "v3-mtp";
        run_grad("cpu", NULL, 1, variant, precision, false, a);
        for (int l = 0; l <= (int)fm_isa_detect(); l++) {
            run_grad("cpu", levels[l], 1 + l % 3, variant, precision, false, b);
            same_file(a, b, levels[l]);
        }
    }
}

static void bad_calls(void **state)
{
    (void)state;
    fm_exec *x = NULL;
    fm_err err;
    OK(fm_context_open("cpu", NULL, 1, &x, &ok_err));
    fm_model *m = open_model(x, "v3", FM_DTYPE_F32, false, true);
    int32_t ids[4] = {0, 1, 320, 2};
    fm_logits_opts o = {0};
    assert_int_equal(fm_model_logits(m, ids, 1, 4, &o, "/nowhere/x", &err), FM_E_RANGE);
    assert_non_null(strstr(err.text, "token id 320"));
    ids[2] = 3;
    o.mtp = true;
    assert_int_equal(fm_model_logits(m, ids, 1, 4, &o, "/nowhere/x", &err), FM_E_UNSUPPORTED);
    o.mtp = false;
    assert_int_equal(fm_model_logits(m, ids, 1, 4, &o, "/nowhere/x", &err), FM_E_IO);
    assert_int_equal(fm_model_logits(m, ids, 0, 4, &o, "/nowhere/x", &err), FM_E_RANGE);
    fm_grad_opts g = {0};
    assert_int_equal(fm_model_grad(m, ids, 4, 1, &g, "/nowhere/x", &err), FM_E_RANGE);
    fm_model_close(m);
    fm_context_close(x);
}

static int done(void **state)
{
    (void)state;
    test_dir_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_at_once),
        cmocka_unit_test(logits_through_the_cache),
        cmocka_unit_test(logits_absorbed),
        cmocka_unit_test(logits_on_the_fence),
        cmocka_unit_test(gradients),
        cmocka_unit_test(gradients_recomputed),
        cmocka_unit_test(gradients_on_the_fence),
        cmocka_unit_test(bf16_bytes_do_not_depend_on_the_machine),
        cmocka_unit_test(f32_bytes_do_not_depend_on_the_machine),
        cmocka_unit_test(gradient_bytes_do_not_depend_on_the_machine),
        cmocka_unit_test(bad_calls),
    };
    return cmocka_run_group_tests(tests, NULL, done);
}
