/* Plans of a run: bytes by purpose, tokens, time, before anything is made. The sizes are those the step
 * carves (fmi_stepper_plan). */
#include <string.h>

#include "model/count.h"
#include "train/run.h"

static int64_t weight_bytes(const fm_layout *l, fm_dtype dt)
{
    int64_t n = 0;
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        bool matrix = p->kind == FM_PARAM_MATRIX || p->kind == FM_PARAM_EMBED || p->kind == FM_PARAM_HEAD;
        n += fmi_param_count(p) * (int64_t)fm_dtype_bytes(matrix ? dt : fmi_full_dtype(dt));
    }
    return n;
}

static fm_status plan_sizes(const fmi_request *r, const fm_layout *l, const fmi_settings *s,
                            int threads, fm_train_plan *out, fm_err *err)
{
    fm_dtype dt = strcmp(s->run_precision, "f32") ? FM_DTYPE_BF16 : FM_DTYPE_F32;
    fmi_step_opts so = fmi_run_step_opts(s, &r->cfg);
    fmi_step_plan sp;
    fm_status st = fmi_stepper_plan(&r->cfg, dt, &so, &sp, err);
    if (st) return st;
    out->weights = weight_bytes(l, dt);
    out->gradients = (int64_t)sp.gradients;
    out->optimizer = (int64_t)sp.optimizer;
    out->activations = (int64_t)sp.activations;
    out->batch = (int64_t)sp.batch;
    out->other = fmi_count_process_bytes(true, threads, r->cfg.vocab_size);
    out->peak = out->weights + out->gradients + out->optimizer + out->activations + out->batch + out->other;
    return FM_OK;
}

/* What shards tell: the vocabulary that the run will have, where nothing else fixes it, and the bytes
 * that stay mapped (opening reads them all; the system may take them back). */
static fm_status plan_data(fmi_request *r, int64_t *mapped, fm_err *err)
{
    fm_data *d = NULL;
    *mapped = 0;
    if (!*r->s.data_dir) return FM_OK;
    fm_status st = fm_data_open(r->s.data_dir, &d, err);
    if (st) return st;
    int32_t vocab = fm_data_vocab_size(d);
    if (!*r->s.run_model && !fmi_ini_get(r->given, "model.vocab_size")) r->cfg.vocab_size = vocab;
    for (int k = 0; k < 2; k++) {
        fm_data_count n = fm_data_total(d, k ? FM_SPLIT_VAL : FM_SPLIT_TRAIN);
        *mapped += n.n_tokens * (vocab <= 65536 ? 2 : 4) + n.n_documents * 16;
    }
    fm_data_close(d);
    return FM_OK;
}

static fm_status plan_request(const fmi_request *r, double rate, int threads, fm_train_plan *out,
                              fm_err *err)
{
    fmi_settings s = r->s;
    fm_layout l;
    fm_status st = fmi_layout_new(&r->cfg, &l, err);
    if (st) return st;
    fmi_param_counts n;
    fmi_flops f;
    fmi_count_params(&r->cfg, &l, &n);
    fmi_count_flops(&r->cfg, &l, s.data_seq, &f);
    out->parameters = n.total + n.mtp_total;
    out->active_parameters = n.active;
    out->flops_per_token = f.training;
    fmi_horizon h = { .tokens = s.stop_tokens, .steps = s.stop_steps };
    if (s.stop_flops > 0) h.tokens = (int64_t)(s.stop_flops / f.training);
    if (s.stop_minutes > 0) h.tokens = (int64_t)(rate * s.stop_minutes * 60);
    bool known = h.tokens > 0 || h.steps > 0;
    if (!known) h.tokens = 1000000; /* for the sizes of a batch only */
    fmi_settings_resolve(&s, f.training, &h);
    st = plan_sizes(r, &l, &s, threads, out, err);
    out->batch_tokens = fmi_schedule_rows_max(&s) * s.data_seq;
    out->micro_tokens = s.train_micro;
    out->lr = s.train_lr;
    if (known) {
        out->tokens = h.tokens;
        out->steps = h.steps ? h.steps : (h.tokens + out->batch_tokens - 1) / out->batch_tokens;
    }
    if (s.stop_minutes > 0) out->seconds = s.stop_minutes * 60;
    else if (rate > 0) out->seconds = (double)out->tokens / rate;
    fmi_layout_free(&l);
    return st;
}

fm_status fm_train_plan_make(const fm_train_opts *o, double tokens_per_second, fm_train_plan *out,
                             fm_err *err)
{
    fmi_request r;
    fm_status st = fmi_request_make(o, &r, err);
    if (st) return st;
    fm_train_plan p = { 0 };
    int64_t mapped;
    st = plan_data(&r, &mapped, err);
    if (!st) st = plan_request(&r, tokens_per_second, o->threads, &p, err);
    p.other += mapped;
    p.peak += mapped;
    fmi_request_deinit(&r);
    if (!st) *out = p;
    return st;
}

fm_status fm_train_settings(const fm_train_opts *o, fm_text *out, fm_err *err)
{
    fmi_request r;
    fmi_ini *ini = NULL;
    fm_status st = fmi_request_make(o, &r, err);
    if (st) return st;
    st = fmi_ini_new("settings", &ini, err);
    if (!st) st = fmi_settings_write(&r.s, ini, err);
    for (int i = 0; i < r.given->n && !st; i++)
        st = fmi_ini_set(ini, r.given->entries[i].key, r.given->entries[i].value, err);
    char *text = st ? NULL : fmi_ini_text(ini);
    if (!st && !text) st = FM_FAIL(err, FM_E_NOMEM, "settings");
    if (!st) {
        size_t n = strlen(text);
        *out = (fm_text){ text, n, n + 1 };
    }
    fmi_ini_free(ini);
    fmi_request_deinit(&r);
    return st;
}
