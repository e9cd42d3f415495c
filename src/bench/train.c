/* Speed of a whole training step: model of a preset with random weights, random documents, the step
 * of train/stepper.h. What is timed is what a run does between two reads. */
#include "fathom/bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "model/count.h"
#include "train/stepper.h"

#define DOCS 256
#define STEPS_MAX 64

static int64_t doc_length(void *arg, int64_t doc)
{
    uint32_t w[4];
    (void)arg;
    fmi_rng_words(1, 0, (uint64_t)doc, FMI_RNG_TEST, 0, w);
    return 64 + w[0] % 449;
}

static void doc_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    const fm_config *c = arg;
    for (int64_t i = 0; i < n; i++) {
        uint32_t w[4];
        fmi_rng_words(2, (uint32_t)doc, (uint64_t)(begin + i), FMI_RNG_TEST, 0, w);
        out[i] = (int32_t)(w[0] % (uint32_t)c->vocab_size);
    }
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static fm_status measure(fm_model *m, fmi_stepper *t, const fm_train_bench_opts *o, int64_t rows,
                         int64_t T, fm_train_bench *out, fm_err *err)
{
    fmi_feed feed = {0};
    fmi_docs docs = {&m->cfg, DOCS, doc_length, doc_copy};
    fmi_settings s;
    fmi_step_out r;
    double speed[STEPS_MAX], total = 0;
    int n = o->steps > 0 ? o->steps : 3;
    if (n > STEPS_MAX) n = STEPS_MAX;
    fmi_settings_default(&s);
    s.train_lr_embed = 1;
    s.train_beta2 = s.train_momentum = 0.95;
    fm_status st = fmi_feed_init(&feed, &docs, T, 1, true, false, err);
    for (int i = 0; i <= n && !st; i++) {
        if (i == 1) fm_exec_profile_reset(m->x);
        fmi_step_in in = {
            .step = i + 1, .rows = rows, .lr = 1e-4, .gamma = 1e-3, .mtp_weight = 0.3};
        double at = fmi_clock_s();
        st = fmi_step_run(t, &feed, &s, &in, &r, err);
        at = fmi_clock_s() - at;
        if (i == 0 || st) continue;
        speed[i - 1] = (double)(rows * T) / at;
        total += at;
    }
    fmi_feed_deinit(&feed);
    if (st) return st;
    qsort(speed, (size_t)n, sizeof *speed, by_value);
    out->tokens_per_second = speed[n / 2];
    out->slowest = speed[0];
    out->fastest = speed[n - 1];
    out->step_seconds = total / n;
    double seconds;
    int64_t calls;
    const char *name;
    for (int i = 0; (name = fm_exec_profile(m->x, i, &seconds, &calls)) != NULL; i++)
        if (calls && out->n_parts < 64) {
            out->part[out->n_parts].name = name;
            out->part[out->n_parts].seconds = seconds / n;
            out->part[out->n_parts++].calls = calls / n;
        }
    return FM_OK;
}

static fm_status run(fm_exec *x, const fm_train_bench_opts *o, fm_train_bench *out, fm_err *err)
{
    fm_config c;
    fm_model *m = NULL;
    fmi_stepper *t = NULL;
    fmi_flops f;
    int64_t rows = o->rows > 0 ? o->rows : 32, T = o->seq > 0 ? o->seq : 512;
    fm_status st = fmi_config_preset(o->preset ? o->preset : "nano", &c, err);
    if (st) return st;
    if (!o->mtp) c.num_nextn_predict_layers = 0;
    if (o->dense_twin) c.n_routed_experts = 0;
    int64_t micro = ((o->micro > 0 ? o->micro : 4096) + T - 1) / T;
    fmi_step_opts so = {
        .rows_max = rows, .micro_rows = micro, .T = T, .mtp = o->mtp, .muon = o->muon};
    st = fmi_model_new(x, &c, o->precision, false, &m, err);
    if (!st) st = fmi_model_init(m, 1, err);
    if (!st) fmi_count_flops(&c, &m->lay, T, &f);
    if (!st) out->flops_per_token = f.training;
    if (!st) st = fmi_stepper_new(m, &so, &t, err);
    if (!st) st = measure(m, t, o, rows, T, out, err);
    fmi_stepper_free(t);
    fm_model_close(m);
    return st;
}

fm_status fm_bench_train(const fm_train_bench_opts *o, fm_train_bench *out, fm_err *err)
{
    fm_exec *x = NULL;
    fm_train_bench b = {0};
    int isa = o->isa ? fm_isa_parse(o->isa) : -1;
    if (o->isa && isa < 0)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown instruction set level '%s'", o->isa);
    fm_exec_opts eo = {.device = "cpu", .threads = o->threads, .isa_max = isa, .profile = true};
    fm_status st = fm_exec_open(&eo, &x, err);
    if (!st) st = run(x, o, &b, err);
    fm_exec_close(x);
    if (!st) *out = b;
    return st;
}
