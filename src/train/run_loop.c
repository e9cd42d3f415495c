/* The loop of a run: step, metrics, and at the right progress evaluation, samples, checkpoint, in this
 * order, so that a checkpoint stands for everything before it. Between two of those a step makes no heap
 * call. Declared in run.h. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "train/run.h"

fm_status fmi_run_files(fm_trainer *t, bool resumed, fm_err *err)
{
    fm_status st = fmi_metrics_open(&t->metrics, t->dir, t->r.metrics_offset, resumed ? t->r.step + 1 : 0,
                                    t->n_routed, err);
    char *path = fmi_format("%s/samples.txt", t->dir);
    if (!st && !path) st = FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    if (!st) {
        off_t at = (off_t)t->r.samples_offset;
        t->samples = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
        if (t->samples < 0 || ftruncate(t->samples, at) || lseek(t->samples, at, SEEK_SET) < 0)
            st = FM_FAIL(err, FM_E_IO, "%s: %s", path, strerror(errno));
    }
    fmi_free(path);
    return st;
}

static fm_status evaluate(fm_trainer *t, bool last, fm_err *err)
{
    fmi_eval_out e;
    t->val_feed.docs.n = last ? t->val_docs_all : t->val_docs;
    memset(&t->val_feed.pos, 0, sizeof t->val_feed.pos);
    fm_status st = fmi_step_eval(t->st, &t->val_feed, &e, err);
    if (st || !e.n_target) return st;
    double bytes = (double)(last ? t->val_bytes_all : t->val_bytes);
    t->r.eval_step = t->r.step;
    t->r.eval_bits = bytes > 0 ? e.nats / log(2.0) / bytes : 0;
    t->p.val_bits_per_byte = t->r.eval_bits;
    t->p.evaluated = true;
    return fmi_metrics_eval(&t->metrics, t->r.step, t->r.tokens, t->r.eval_bits, e.nats / (double)e.n_target,
                            e.n_target, err);
}

static bool sample_due(double p0, double p1)
{
    static const double at[] = { 0.01, 0.1, 0.5, 1 };
    for (size_t i = 0; i < sizeof at / sizeof *at; i++)
        if (p0 < at[i] && p1 >= at[i]) return true;
    return false;
}

static fm_status sample(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    fm_text text = { 0 };
    fm_status st = hooks->on_sample(hooks->arg, t->m, t->tok, &t->p, &text, err);
    for (size_t at = 0; !st && at < text.n;) {
        ssize_t w = write(t->samples, text.data + at, text.n - at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) st = FM_FAIL(err, FM_E_IO, "%s/samples.txt: %s", t->dir, strerror(errno));
        else at += (size_t)w;
    }
    if (!st) t->r.samples_offset += text.n;
    if (!st && text.n && fsync(t->samples))
        st = FM_FAIL(err, FM_E_IO, "%s/samples.txt: %s", t->dir, strerror(errno));
    fm_text_deinit(&text);
    return st;
}

static void balance(fm_trainer *t, const fmi_step_out *out)
{
    size_t E = (size_t)t->window.experts;
    int n = 0;
    fmi_load_window_push(&t->window, out->load);
    t->p.max_vio = 0;
    for (int i = 0; i < t->m->lay.n_layers; i++) {
        if (!t->m->lay.layers[i].moe) continue;
        fmi_layer_balance *b = &t->layers[n++];
        fmi_balance_layer(&t->window, i, out->load + (size_t)i * E, out->bias + (size_t)i * E, b);
        if (b->max_vio_window > t->p.max_vio) t->p.max_vio = b->max_vio_window;
    }
}

static fm_status report(fm_trainer *t, const fmi_step_in *in, const fmi_step_out *out, double seconds,
                        fm_err *err)
{
    int64_t batch = in->rows * t->s.data_seq;
    fmi_step_report r = { .step = t->r.step, .tokens = t->r.tokens, .batch_tokens = batch,
                          .n_target = out->n_target, .loss = out->loss, .mtp_loss = out->mtp_loss,
                          .balance_loss = out->balance_loss, .bits_per_byte = out->loss * t->bits_per_nat,
                          .lr = in->lr, .grad_norm = out->grad_norm, .gamma = in->gamma,
                          .mtp_weight = in->mtp_weight, .seconds = seconds,
                          .elapsed = t->r.seconds,
                          .tokens_per_second = (double)batch / (seconds > 1e-9 ? seconds : 1e-9),
                          .layers = t->layers, .n_layers = t->n_routed };
    fm_train_progress *p = &t->p;
    p->step = t->r.step;
    p->tokens = t->r.tokens;
    p->loss = out->loss;
    p->mtp_loss = out->mtp_loss;
    p->balance_loss = out->balance_loss;
    p->bits_per_byte = r.bits_per_byte;
    p->grad_norm = out->grad_norm;
    p->lr = in->lr;
    p->tokens_per_second = r.tokens_per_second;
    p->flops_per_second = r.tokens_per_second * t->flops_per_token;
    p->seconds = t->r.seconds;
    return fmi_metrics_step(&t->metrics, &r, err);
}

static bool finished(const fm_trainer *t, const fmi_horizon *h)
{
    return h->steps ? t->r.step >= h->steps : t->r.tokens >= h->tokens;
}

/* Progress of the whole run as the live line shows it. */
static void outlook(fm_trainer *t, const fmi_horizon *h, double fraction)
{
    fm_train_progress *p = &t->p;
    double spent = t->r.seconds - t->seconds0;
    double rate = spent > 0 ? (double)(t->r.tokens - t->tokens0) / spent : 0;
    int64_t batch = fmi_schedule_rows(&t->s, fraction) * t->s.data_seq;
    int64_t left = h->steps ? (h->steps - t->r.step) * batch : h->tokens - t->r.tokens;
    if (left < 0) left = 0;
    p->fraction = fraction;
    p->tokens_total = h->steps ? t->r.tokens + left : h->tokens;
    p->steps_left = (left + batch - 1) / batch;
    p->seconds_left = rate > 0 ? (double)left / rate : 0;
}

/* What follows a step: evaluation, samples, checkpoint. */
static fm_status after_step(fm_trainer *t, const fm_train_hooks *hooks, double p0, double p1, bool last,
                            fm_err *err)
{
    const fmi_settings *s = &t->s;
    fm_status st = FM_OK;
    t->p.evaluated = t->p.saved = false;
    bool eval = t->val_feed.row && s->train_evals && (last || fmi_schedule_crosses(s->train_evals, p0, p1));
    if (eval) st = evaluate(t, last, err);
    if (!st && hooks && hooks->on_sample && sample_due(p0, p1))
        st = sample(t, hooks, err);
    bool timed = s->train_save_minutes > 0 && fmi_clock_s() - t->last_save > 60 * s->train_save_minutes;
    bool save = last || t->stop || t->save || timed || fmi_schedule_crosses(s->train_saves, p0, p1);
    if (!st && save) {
        t->save = 0;
        t->r.seconds = t->seconds0 + fmi_clock_s() - t->since;
        st = fmi_run_save(t, err);
        t->p.saved = !st;
    }
    return st;
}

/* One step of the run and what follows it. */
static fm_status one_step(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    const fmi_settings *s = &t->s;
    const fmi_horizon h = fmi_horizons_at(&t->ends, t->r.step)->h;
    double p0 = fmi_progress(&h, t->r.step, t->r.tokens);
    fmi_step_in in = { .step = t->r.step + 1, .rows = fmi_schedule_rows(s, p0),
                       .gamma = fmi_schedule_gamma(s, p0), .mtp_weight = fmi_schedule_mtp(s, p0) };
    double p1 = fmi_progress(&h, t->r.step + 1, t->r.tokens + in.rows * s->data_seq);
    in.lr = fmi_schedule_lr(s, p0, p1);
    in.progress = p1;
    double began = fmi_clock_s(), before = t->r.seconds;
    fmi_step_out out;
    fm_status st = fmi_step_run(t->st, &t->feed, s, &in, &out, err);
    if (st) return st;
    t->r.step++;
    t->r.tokens += in.rows * s->data_seq;
    t->r.seconds = t->seconds0 + fmi_clock_s() - t->since;
    balance(t, &out);
    st = report(t, &in, &out, fmi_clock_s() - began, err);
    outlook(t, &h, p1);
    if (!st) st = after_step(t, hooks, p0, p1, finished(t, &h), err);
    if (!st) st = fmi_run_decide_again(t, before, err);
    if (!st && hooks && hooks->on_step) hooks->on_step(hooks->arg, &t->p);
    return st;
}

fm_status fm_trainer_run(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    t->since = t->last_save = fmi_clock_s();
    t->seconds0 = t->r.seconds;
    t->tokens0 = t->r.tokens;
    for (;;) {
        const fmi_horizon *h = &fmi_horizons_at(&t->ends, t->r.step)->h;
        if (finished(t, h)) return FM_OK;
        if (t->stop) break;
        fm_status st = one_step(t, hooks, err);
        if (st) return st;
    }
    if (t->r.step > t->saved_step) { /* asked between the step's save and here */
        fm_status st = fmi_run_save(t, err);
        if (st) return st;
    }
    return FM_FAIL(err, FM_E_CANCELLED, "stopped after step %lld; the state is saved in %s",
                   (long long)t->r.step, fm_trainer_checkpoint(t));
}
