/* The generation loop: steps over the active sequences, each new token through its stops, its
 * decoder and the callback. Works on any number of sequences; prompts and answers share steps. */
#include "infer/session.h"

#include <math.h>

#include "text/buf.h"

const char *fm_stop_name(fm_stop stop)
{
    static const char *const names[] = {"length", "stop", "string", "cancelled", "context"};
    return (unsigned)stop < sizeof names / sizeof *names ? names[stop] : "unknown";
}

static fm_status check_range(const char *name, double v, double lo, double hi, fm_err *err)
{
    if (v >= lo && v <= hi) return FM_OK;
    return FM_FAIL(err, FM_E_RANGE, "%s: expected %g to %g, found %g", name, lo, hi, v);
}

static fm_status check_opts(const fm_session *s, int seq, const fm_generate_opts *o, fm_err *err)
{
    if (seq < 0 || seq >= s->e->o.sequences)
        return FM_FAIL(err, FM_E_RANGE, "sequence %d: the session has %d", seq, s->e->o.sequences);
    int64_t n = s->e->seq[seq].n, ctx = s->e->o.context_max;
    if (n == 0) return FM_FAIL(err, FM_E_STATE, "sequence %d is empty: nothing to go on from", seq);
    if (o->tokens_max < 0 || o->tokens_max > ctx - n)
        return FM_FAIL(err, FM_E_RANGE, "%lld new tokens after %lld exceed the context of %lld",
                       (long long)o->tokens_max, (long long)n, (long long)ctx);
    fm_status st = check_range("temperature", o->temperature, 0, 1e6, err);
    if (!st) st = check_range("top_k", o->top_k, 0, INT32_MAX, err);
    if (!st) st = check_range("top_p", o->top_p, 0, 1, err);
    if (!st) st = check_range("min_p", o->min_p, 0, 1, err);
    if (!st) st = check_range("repetition_penalty", o->repetition_penalty, 0, 1e6, err);
    if (st) return st;
    if (o->n_stop > 0 && !s->tok)
        return FM_FAIL(err, FM_E_STATE, "stop strings given, but the model has no tokenizer");
    for (int i = 0; i < o->n_stop; i++)
        if (!o->stop[i] || !*o->stop[i])
            return FM_FAIL(err, FM_E_RANGE, "stop string %d is empty", i);
    return FM_OK;
}

static fm_status begin(fm_session *s, int seq, const fm_generate_opts *o, fm_generated *out,
                       fm_err *err)
{
    fmi_answer *a = &s->answer[seq];
    fmi_seq *q = &s->e->seq[seq];
    double penalty = o->repetition_penalty > 0 ? o->repetition_penalty : 1;
    *out = (fm_generated){.string = -1};
    q->how = (fm_sample_row){.seed = o->seed, .choice = o->choice, .mask = -1, .top_k = o->top_k,
                             .temperature = (float)o->temperature, .min_p = (float)o->min_p,
                             .top_p = o->top_p > 0 ? (float)o->top_p : 1,
                             .repetition_penalty = (float)penalty};
    a->o = o;
    a->out = out;
    a->n0 = q->n;
    a->stopper.stop = o->stop;
    a->stopper.n = o->n_stop;
    a->stopper.hold.n = 0;
    a->active = true;
    q->draft = -1; /* a draft found under other settings still fits, but was not asked for */
    if (!s->tok) return FM_OK;
    fm_detok_init(&a->detok, s->tok, o->show_control ? 0 : FM_DECODE_SKIP_CONTROL);
    size_t room = fmi_stopper_longest(o->stop, o->n_stop) + s->token_bytes_max + 64;
    return fmi_text_reserve(&a->stopper.hold, 3 * room, err);
}

/* Gives the caller what may go out; returns false when the answer ends here. */
static bool emit(fm_session *s, int seq, int32_t id, float logprob, bool last)
{
    fmi_answer *a = &s->answer[seq];
    size_t n = 0;
    bool stopped = false, on = true;
    if (s->tok) fmi_stopper_scan(&a->stopper, last, &n, &stopped);
    fm_piece piece = {.seq = seq, .id = id, .logprob = logprob, .text = a->stopper.hold.data,
                      .n = n};
    if (a->o->fn && (id >= 0 || n > 0)) on = a->o->fn(a->o->arg, &piece);
    fmi_stopper_drop(&a->stopper, n);
    if (stopped) {
        a->out->stop = FM_STOP_STRING;
        a->out->string = fmi_stopper_which(&a->stopper);
        a->stopper.hold.n = 0;
        return false;
    }
    if (!on) a->out->stop = FM_STOP_CALLER;
    return on;
}

static bool is_stop_id(const fm_session *s, const fm_generate_opts *o, int32_t id)
{
    bool eos = id == s->m->cfg.eos_token_id || (s->tok && id == fm_tokenizer_eos(s->tok));
    if (eos && !o->ignore_eos) return true;
    for (int i = 0; i < o->n_stop_ids; i++)
        if (id == o->stop_ids[i]) return true;
    return false;
}

/* The answer is over: drops tokens past `keep`, lets held text out unless a stop string began. */
static fm_status finish(fm_session *s, int seq, int64_t keep, fm_err *err)
{
    fmi_answer *a = &s->answer[seq];
    fm_stop stop = a->out->stop;
    fm_status st = FM_OK;
    a->active = false;
    a->out->n_tokens = keep - a->n0;
    if (keep < s->e->seq[seq].n) fmi_seq_truncate(s->e, seq, keep);
    if (!s->tok || stop == FM_STOP_STRING || stop == FM_STOP_CALLER) return FM_OK;
    st = fm_detok_flush(&a->detok, &a->stopper.hold, err);
    if (!st && a->stopper.hold.n > 0) {
        bool on = emit(s, seq, -1, 0, true);
        if (!on && a->out->stop == FM_STOP_CALLER) a->out->stop = stop;
    }
    return st;
}

/* The tokens one step gave sequence t->seq. */
static fm_status take_tokens(fm_session *s, const fmi_slot *t, fm_err *err)
{
    fmi_answer *a = &s->answer[t->seq];
    const fmi_seq *q = &s->e->seq[t->seq];
    int64_t first = q->n - t->n_new, ctx = s->e->o.context_max;
    for (int j = 0; j < t->n_new; j++) {
        int64_t n = first + j + 1; /* tokens with this one */
        int32_t id = q->tokens[first + j];
        bool stop = is_stop_id(s, a->o, id), on;
        size_t n_bytes;
        bool shown = s->tok && !(stop && !a->o->show_control)
                     && fm_tokenizer_token_bytes(s->tok, id, &n_bytes); /* padded vocabularies */
        if (shown) {
            fm_status st = fm_detok_push(&a->detok, id, &a->stopper.hold, err);
            if (st) return st;
        }
        s->stats.new_tokens += t->decode;
        on = emit(s, t->seq, id, t->logprob[j], false);
        if (on && stop) a->out->stop = FM_STOP_ID;
        if (on && !stop && a->o->tokens_max > 0 && n - a->n0 >= a->o->tokens_max) {
            a->out->stop = FM_STOP_TOKENS;
            stop = true;
        }
        if (on && !stop && n >= ctx) {
            a->out->stop = FM_STOP_CONTEXT;
            stop = true;
        }
        if (!on || stop) return finish(s, t->seq, n, err);
    }
    return FM_OK;
}

/* Prompt rows only: the caller may stop between chunks. */
static fm_status progress(fm_session *s, int seq, fm_err *err)
{
    fmi_answer *a = &s->answer[seq];
    fm_piece piece = {.seq = seq, .id = -1, .text = ""};
    if (!a->o->fn || a->o->fn(a->o->arg, &piece)) return FM_OK;
    a->out->stop = FM_STOP_CALLER;
    return finish(s, seq, s->e->seq[seq].n, err);
}

static int collect(fm_session *s, int n, const int *seqs)
{
    int active = 0;
    for (int i = 0; i < n; i++) {
        const fmi_answer *a = &s->answer[seqs[i]];
        if (!a->active) continue;
        fmi_seq *q = &s->e->seq[seqs[i]];
        int64_t left = a->o->tokens_max > 0 ? a->n0 + a->o->tokens_max - q->n : INT32_MAX;
        q->drafts = (int)(left - 1 < FMI_DRAFTS_MAX ? left - 1 : FMI_DRAFTS_MAX);
        s->active[active++] = seqs[i];
    }
    return active;
}

static void switch_drafting(fm_session *s, int n, bool on)
{
    s->e->mtp_on = on;
    for (int i = 0; i < n; i++) {
        s->e->seq[s->active[i]].draft = -1;
        fmi_seq_ready(s->e, s->active[i]);
    }
}

static fm_status step(fm_session *s, int n_active, fm_err *err)
{
    fmi_engine *e = s->e;
    double t0 = fmi_clock_s();
    fm_status st = fmi_engine_step(e, s->active, n_active, err);
    if (st) return st;
    double seconds = fmi_clock_s() - t0;
    bool decode = true, drafted = false;
    int64_t tokens = 0;
    for (int k = 0; k < e->n_slots; k++) {
        decode = decode && e->slot[k].decode && e->slot[k].n_new > 0;
        drafted = drafted || e->slot[k].drafts > 0;
        tokens += e->slot[k].n_new;
        if (!e->slot[k].decode) s->stats.prompt_tokens += e->slot[k].take;
    }
    if (decode)
        s->stats.decode_seconds += seconds;
    else
        s->stats.prefill_seconds += seconds;
    for (int k = 0; k < e->n_slots && !st; k++) {
        const fmi_slot *t = &e->slot[k];
        st = t->samples ? take_tokens(s, t, err) : progress(s, t->seq, err);
    }
    if (st || !decode || !e->mtp || s->draft != FM_DRAFT_AUTO) return st;
    bool on = fmi_auto_step(&s->drafting, seconds, tokens, n_active, drafted);
    if (on != e->mtp_on) switch_drafting(s, n_active, on);
    return FM_OK;
}

fm_status fm_session_generate_batch(fm_session *s, int n, const int *seqs,
                                    const fm_generate_opts *opts, fm_generated *out, fm_err *err)
{
    for (int i = 0; i < n; i++) {
        fm_status st = check_opts(s, seqs[i], &opts[i], err);
        for (int j = 0; j < i && !st; j++)
            if (seqs[j] == seqs[i])
                st = FM_FAIL(err, FM_E_RANGE, "sequence %d is named twice", seqs[i]);
        if (st) return st;
    }
    fm_status st = FM_OK;
    for (int i = 0; i < n && !st; i++) {
        st = begin(s, seqs[i], &opts[i], &out[i], err);
        fmi_seq_ready(s->e, seqs[i]);
        if (!st && s->e->seq[seqs[i]].n == s->e->o.context_max) {
            out[i].stop = FM_STOP_CONTEXT;
            s->answer[seqs[i]].active = false;
        }
    }
    int n_active;
    while (!st && (n_active = collect(s, n, seqs)) > 0) st = step(s, n_active, err);
    for (int i = 0; i < n; i++) s->answer[seqs[i]].active = false;
    return st;
}

fm_status fm_session_generate(fm_session *s, int seq, const fm_generate_opts *opts,
                              fm_generated *out, fm_err *err)
{
    return fm_session_generate_batch(s, 1, &seq, opts, out, err);
}
