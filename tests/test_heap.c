/* No heap call inside a step: every malloc, calloc and realloc of the process is counted here, so
 * also those of libraries, while a sequence decodes (plain, with drafts, sampled) and while
 * training steps run. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdatomic.h>
#include <stdlib.h>

#include "base/rng.h"
#include "infer/engine.h"
#include "train/stepper.h"

static atomic_long n_calls;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
void *__libc_malloc(size_t n);
void *__libc_calloc(size_t n, size_t size);
void *__libc_realloc(void *p, size_t n);
void *malloc(size_t n)
{
    n_calls++;
    return __libc_malloc(n);
}

void *calloc(size_t n, size_t size)
{
    n_calls++;
    return __libc_calloc(n, size);
}

void *realloc(void *p, size_t n)
{
    n_calls++;
    return __libc_realloc(p, n);
}

static long heap_calls(void)
{
    return n_calls;
}
#else
static long heap_calls(void)
{
    n_calls = (long)fmi_alloc_calls();
    return n_calls;
}
#endif

static fm_err err;
#define OK(call) \
    do { \
        if (call) fail_msg("%s", err.text); \
    } while (0)

/* The counter itself. */
static void test_counts(void **state)
{
    (void)state;
    long before = heap_calls();
    void *volatile p = fmi_alloc(100);
    fmi_free(p);
    assert_true(heap_calls() - before == 1);
}

static fm_model *model_open(const char *isa, fm_dtype dt, bool absorbed, fm_exec **x)
{
    fm_config c;
    fm_model *m;
    OK(fm_context_open("cpu", isa, 2, x, &err));
    OK(fmi_config_preset("pico", &c, &err));
    OK(fmi_model_new(*x, &c, dt, absorbed, &m, &err));
    OK(fmi_model_init(m, 1, &err));
    return m;
}

static void decode(const char *isa, fm_dtype dt, int drafts, float temperature)
{
    fm_exec *x;
    fmi_engine *e;
    fm_model *m = model_open(isa, dt, true, &x);
    fmi_engine_opts o = {.sequences = 2, .context_max = 400, .chunk = 64, .drafts = drafts};
    OK(fmi_engine_new(m, &o, &e, &err));
    int seqs[2] = {0, 1};
    for (int s = 0; s < 2; s++) {
        int32_t ids[70];
        for (int i = 0; i < 70; i++) ids[i] = (i * 7 + s) % 320;
        OK(fmi_seq_push(e, s, ids, 60 + s, &err));
        e->seq[s].how.temperature = temperature;
        e->seq[s].how.top_p = 0.9f;
        e->seq[s].drafts = drafts;
        fmi_seq_ready(e, s);
    }
    OK(fmi_engine_step(e, seqs, 2, &err)); /* the prompts; libraries may set themselves up */
    OK(fmi_engine_step(e, seqs, 2, &err));
    long before = heap_calls();
    int64_t n = e->seq[0].n;
    for (int i = 0; i < 70; i++) OK(fmi_engine_step(e, seqs, 2, &err)); /* crosses pages */
    assert_true(heap_calls() == before);
    assert_true(e->seq[0].n >= n + 70);
    fmi_engine_free(e);
    fm_model_close(m);
    fm_context_close(x);
}

static void test_decode(void **state)
{
    (void)state;
    decode(NULL, FM_DTYPE_BF16, 0, 0);
    decode(NULL, FM_DTYPE_BF16, 0, 0.8f);
    decode(NULL, FM_DTYPE_BF16, 2, 0.8f);
    decode(NULL, FM_DTYPE_F32, 1, 0);
    decode("avx2", FM_DTYPE_BF16, 0, 0.8f);
}

static int64_t doc_length(void *arg, int64_t doc)
{
    (void)arg;
    return 20 + doc % 50;
}

static void doc_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    (void)arg;
    for (int64_t i = 0; i < n; i++) out[i] = (int32_t)((doc * 31 + (begin + i) * 17) % 320);
}

static void train(fm_dtype dt, bool muon)
{
    fm_exec *x;
    fmi_stepper *t;
    fmi_feed feed = {0};
    fmi_docs docs = {NULL, 64, doc_length, doc_copy};
    fmi_settings s;
    fmi_step_out r;
    fm_model *m = model_open(NULL, dt, false, &x);
    fmi_step_opts o = {.rows_max = 4, .micro_rows = 2, .T = 40, .mtp = true, .muon = muon};
    OK(fmi_stepper_new(m, &o, &t, &err));
    OK(fmi_feed_init(&feed, &docs, 40, 1, true, false, &err));
    fmi_settings_default(&s);
    s.train_lr_embed = 1;
    s.train_beta2 = s.train_momentum = 0.95;
    long before = 0;
    for (int i = 1; i <= 4; i++) {
        if (i == 2) before = heap_calls();
        fmi_step_in in = {.step = i, .rows = 4, .lr = 1e-3, .gamma = 1e-3, .mtp_weight = 0.3};
        OK(fmi_step_run(t, &feed, &s, &in, &r, &err));
    }
    assert_true(heap_calls() == before);
    fmi_feed_deinit(&feed);
    fmi_stepper_free(t);
    fm_model_close(m);
    fm_context_close(x);
}

static void test_train(void **state)
{
    (void)state;
    train(FM_DTYPE_BF16, false);
    train(FM_DTYPE_BF16, true);
    train(FM_DTYPE_F32, false);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_train),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
