/* How long a run is: tokens, FLOPs and steps at once, minutes by measuring. Declared in run.h; what is
 * written down and why is in horizon.h. */
#include <stdio.h>
#include <string.h>

#include "model/count.h"
#include "train/run.h"

#define TIME_USED 0.97  /* of the minutes: the rest is for the last save */
#define PROBE_SECONDS 1.5

fmi_step_opts fmi_run_step_opts(const fmi_settings *s, const fm_config *c)
{
    int64_t micro = s->train_micro / s->data_seq;
    return (fmi_step_opts){ .rows_max = fmi_schedule_rows_max(s), .micro_rows = micro < 1 ? 1 : micro,
                            .T = s->data_seq, .mtp = c->num_nextn_predict_layers > 0,
                            .muon = !strcmp(s->train_optimizer, "muon"), .recompute = s->train_recompute,
                            .ademamix = !strcmp(s->train_optimizer, "ademamix"),
                            .soap = strcmp(s->train_optimizer, "soap") ? 0 : s->train_soap_side,
                            .grokfast = s->train_grokfast_lamb > 0, .ema = s->train_ema > 0 };
}

/* Tokens a second of forward and backward, on the first rows of the data; changes nothing. */
static fm_status measure(fm_trainer *t, double *rate, fm_err *err)
{
    fmi_settings s = t->req.s;
    fmi_horizon h = { .tokens = 1000000 };
    fmi_settings_resolve(&s, t->flops_per_token, &h);
    fmi_step_opts o = fmi_run_step_opts(&s, &t->m->cfg);
    o.rows_max = o.micro_rows;
    fmi_stepper *st = NULL;
    fmi_feed feed = t->feed; /* its own position */
    fm_status ret = fmi_stepper_new(t->m, &o, &st, err);
    double begin = 0, spent = 0;
    int64_t tokens = 0;
    for (int i = 0; !ret && (i < 2 || spent < PROBE_SECONDS); i++) {
        ret = fmi_step_probe(st, &feed, &s, o.micro_rows, err);
        if (i == 0) begin = fmi_clock_s(); /* the first one warms up */
        else tokens += o.micro_rows * o.T;
        spent = fmi_clock_s() - begin;
    }
    fmi_stepper_free(st);
    if (!ret) *rate = (double)tokens / (spent > 1e-9 ? spent : 1e-9);
    return ret;
}

fm_status fmi_run_decide(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    const fmi_settings *q = &t->req.s;
    fmi_decision d = { .step = 0 };
    fm_status st = FM_OK;
    if (q->stop_minutes > 0) {
        double rate = 0;
        if (hooks && hooks->on_stage) hooks->on_stage(hooks->arg, "measure", "speed of the first batches");
        st = measure(t, &rate, err);
        if (st) return st;
        d.seconds = q->stop_minutes * 60;
        d.h.tokens = (int64_t)(rate * d.seconds * TIME_USED);
    }
    if (q->stop_tokens > 0) d.h.tokens = q->stop_tokens;
    if (q->stop_flops > 0) d.h.tokens = (int64_t)(q->stop_flops / t->flops_per_token);
    d.h.steps = q->stop_steps;
    if (d.h.tokens < 1) d.h.tokens = 1;
    t->s = *q;
    fmi_settings_resolve(&t->s, t->flops_per_token, &d.h);
    t->s.data_vocab = t->m->cfg.vocab_size;
    st = fmi_request_save(&t->req, &t->s, t->dir, err);
    return st ? st : fmi_horizons_add(t->dir, &t->ends, &d, err);
}

/* Tokens that fit into `seconds` of training in all, at this session's speed. */
static int64_t tokens_by_time(const fm_trainer *t, double seconds)
{
    double spent = t->r.seconds - t->seconds0;
    double rate = spent > 0 ? (double)(t->r.tokens - t->tokens0) / spent
                            : (double)t->r.tokens / (t->r.seconds > 0 ? t->r.seconds : 1);
    double left = seconds - t->r.seconds;
    return t->r.tokens + (left > 0 ? (int64_t)(rate * left) : 0);
}

fm_status fmi_run_decide_again(fm_trainer *t, double before, fm_err *err)
{
    const fmi_decision *last = &t->ends.d[t->ends.n - 1];
    if (last->step > t->r.step || !fmi_horizon_due(last, before, t->r.seconds)) return FM_OK;
    fmi_decision d = { .step = t->r.step, .seconds = last->seconds,
                       .h.tokens = tokens_by_time(t, last->seconds * TIME_USED) };
    return fmi_horizons_add(t->dir, &t->ends, &d, err);
}

fm_status fmi_run_extend(fm_trainer *t, double minutes, int64_t tokens, fm_err *err)
{
    fmi_decision d = { .step = t->r.step };
    if (minutes < 0 || tokens < 0 || (minutes > 0 && tokens > 0))
        return FM_FAIL(err, FM_E_RANGE, "minutes or tokens, one of them, and not negative");
    if (tokens > 0) {
        d.h.tokens = t->r.tokens + tokens;
    } else {
        if (t->r.seconds <= 0) return FM_FAIL(err, FM_E_STATE, "%s has not trained yet; give tokens", t->dir);
        d.seconds = t->r.seconds + minutes * 60;
        t->seconds0 = t->r.seconds;
        d.h.tokens = tokens_by_time(t, t->r.seconds + minutes * 60 * TIME_USED);
    }
    return fmi_horizons_add(t->dir, &t->ends, &d, err);
}
