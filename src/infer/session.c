/* fm_session: the public object over the step engine. Owns the engine and each sequence's answer
 * state; borrows model and tokenizer. */
#include "infer/session.h"

#include "text/buf.h"

#define CONTEXT_DEFAULT 8192

static bool has_mtp(const fm_model *m)
{
    return m->lay.n_layers > m->cfg.num_hidden_layers;
}

static fm_status engine_opts(const fm_model *m, const fm_session_opts *o, fmi_engine_opts *out,
                             fm_err *err)
{
    int64_t ctx = o->context_max;
    if (ctx == 0) ctx = m->rope_rows < CONTEXT_DEFAULT ? m->rope_rows : CONTEXT_DEFAULT;
    out->sequences = o->sequences ? o->sequences : 1;
    out->context_max = ctx;
    out->chunk = o->chunk ? o->chunk : FMI_CHUNK;
    if (out->chunk > ctx * out->sequences && ctx > 0 && out->sequences > 0)
        out->chunk = ctx * out->sequences;
    out->drafts = 0;
    if (o->drafts < 0 || o->drafts > FMI_DRAFTS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "drafts: expected 1 to %d, found %d", FMI_DRAFTS_MAX,
                       o->drafts);
    if (o->draft == FM_DRAFT_OFF || (o->draft == FM_DRAFT_AUTO && !has_mtp(m))) return FM_OK;
    out->drafts = o->drafts ? o->drafts : 1;
    return FM_OK;
}

size_t fm_session_bytes(const fm_model *model, const fm_session_opts *opts)
{
    static const fm_session_opts zero;
    fmi_engine_opts eo;
    if (engine_opts(model, opts ? opts : &zero, &eo, NULL)) return 0;
    return fmi_engine_bytes(model, &eo, NULL);
}

static size_t longest_token(const fm_tokenizer *tok)
{
    size_t longest = 0;
    for (int32_t id = 0; tok && id < fm_tokenizer_vocab_size(tok); id++) {
        size_t n = 0;
        if (fm_tokenizer_token_bytes(tok, id, &n) && n > longest) longest = n;
    }
    return longest;
}

fm_status fm_session_open(fm_model *model, const fm_tokenizer *tokenizer,
                          const fm_session_opts *opts, fm_session **out, fm_err *err)
{
    static const fm_session_opts zero;
    fmi_engine_opts eo;
    if (!opts) opts = &zero;
    fm_status st = engine_opts(model, opts, &eo, err);
    if (st) return st;
    fm_session *s = fmi_zalloc(sizeof *s);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "session");
    s->m = model;
    s->tok = tokenizer;
    s->draft = opts->draft;
    s->token_bytes_max = longest_token(tokenizer);
    st = fmi_engine_new(model, &eo, &s->e, err);
    if (!st) {
        s->answer = fmi_zalloc((size_t)eo.sequences * sizeof *s->answer);
        s->active = fmi_zalloc((size_t)eo.sequences * sizeof *s->active);
        if (!s->answer || !s->active) st = FM_FAIL(err, FM_E_NOMEM, "session");
    }
    if (st) {
        fm_session_close(s);
        return st;
    }
    s->reads0 = fm_read_count(model->x);
    *out = s;
    return FM_OK;
}

void fm_session_close(fm_session *s)
{
    if (!s) return;
    for (int i = 0; s->answer && i < s->e->o.sequences; i++)
        fm_text_deinit(&s->answer[i].stopper.hold);
    fmi_free(s->answer);
    fmi_free(s->active);
    fmi_engine_free(s->e);
    fmi_free(s);
}

int64_t fm_session_context(const fm_session *s)
{
    return s->e->o.context_max;
}

static fm_status check_seq(const fm_session *s, int seq, fm_err *err)
{
    if (seq >= 0 && seq < s->e->o.sequences) return FM_OK;
    return FM_FAIL(err, FM_E_RANGE, "sequence %d: the session has %d", seq, s->e->o.sequences);
}

fm_status fm_session_push_ids(fm_session *s, int seq, const int32_t *ids, size_t n, fm_err *err)
{
    fm_status st = check_seq(s, seq, err);
    if (st) return st;
    if (n > INT32_MAX) return FM_FAIL(err, FM_E_RANGE, "%zu tokens at once", n);
    return fmi_seq_push(s->e, seq, ids, (int64_t)n, err);
}

fm_status fm_session_push_text(fm_session *s, int seq, const char *text, size_t n, unsigned flags,
                               fm_err *err)
{
    fm_ids ids = {0};
    fm_status st = check_seq(s, seq, err);
    if (st) return st;
    if (!s->tok) return FM_FAIL(err, FM_E_STATE, "text given, but the model has no tokenizer");
    if (s->e->seq[seq].n > 0) flags &= ~(unsigned)FM_ENCODE_BOS;
    st = fm_tokenizer_encode(s->tok, text, n, flags, &ids, err);
    if (!st) st = fm_session_push_ids(s, seq, ids.data, ids.n, err);
    fm_ids_deinit(&ids);
    return st;
}

const int32_t *fm_session_tokens(const fm_session *s, int seq, size_t *n)
{
    if (check_seq(s, seq, NULL)) {
        *n = 0;
        return NULL;
    }
    *n = (size_t)s->e->seq[seq].n;
    return s->e->seq[seq].tokens;
}

fm_status fm_session_truncate(fm_session *s, int seq, size_t n, fm_err *err)
{
    fm_status st = check_seq(s, seq, err);
    if (st) return st;
    if (n > (size_t)s->e->seq[seq].n)
        return FM_FAIL(err, FM_E_RANGE, "sequence %d: asked to keep %zu tokens of %lld", seq, n,
                       (long long)s->e->seq[seq].n);
    fmi_seq_truncate(s->e, seq, (int64_t)n);
    return FM_OK;
}

fm_status fm_session_fork(fm_session *s, int dst, int src, size_t n, fm_err *err)
{
    fm_status st = check_seq(s, dst, err);
    if (!st) st = check_seq(s, src, err);
    if (st) return st;
    if (n > (size_t)s->e->seq[src].n)
        return FM_FAIL(err, FM_E_RANGE, "sequence %d: asked for %zu tokens of %lld", src, n,
                       (long long)s->e->seq[src].n);
    fmi_seq_fork(s->e, dst, src, (int64_t)n);
    return FM_OK;
}

fm_status fm_session_score(fm_session *s, int seq, size_t first, float *logprob, fm_err *err)
{
    fm_status st = check_seq(s, seq, err);
    if (st) return st;
    size_t n = (size_t)s->e->seq[seq].n;
    if (first == 0) first = 1;
    if (first > n && n > 0)
        return FM_FAIL(err, FM_E_RANGE, "score from token %zu: the sequence has %zu", first, n);
    if (n < 2) return FM_OK;
    return fmi_engine_score(s->e, seq, (int64_t)first, logprob, err);
}

void fm_session_stats_get(const fm_session *s, fm_session_stats *out)
{
    const fmi_counts *c = &s->e->counts, *c0 = &s->counts0;
    *out = s->stats;
    out->drafted = c->drafted - c0->drafted;
    out->accepted = c->accepted - c0->accepted;
    out->main_forwards = c->forwards - c0->forwards;
    out->mtp_forwards = c->mtp_forwards - c0->mtp_forwards;
    out->reads = fm_read_count(s->m->x) - s->reads0;
    out->drafting = s->e->mtp_on;
    if (out->prefill_seconds > 0)
        out->prefill_tokens_per_second = (double)out->prompt_tokens / out->prefill_seconds;
    if (out->decode_seconds > 0)
        out->decode_tokens_per_second = (double)out->new_tokens / out->decode_seconds;
}

void fm_session_stats_reset(fm_session *s)
{
    s->stats = (fm_session_stats){0};
    s->counts0 = s->e->counts;
    s->reads0 = fm_read_count(s->m->x);
}
