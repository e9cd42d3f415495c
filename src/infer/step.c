/* One step: choose rows, stage every input in one block, issue further drafts, the main forward
 * pass, the sampler, the MTP block and its sampler, read all results at once, accept drafts.
 *
 * Nothing between the write and the read asks the device anything. A draft is accepted when it is
 * the token the main model's own sampling chose at that position, so drafting changes no text. */
#include "infer/engine.h"

#include <string.h>

typedef struct draft_pass {
    fmi_rows r;
    int n;                       /* sequences that want this draft: the first n slots */
    const int32_t *from;         /* [n] rows of hsave (first pass)  */
    const int32_t *to_ids;       /* [n] rows of the main batch      */
    const int32_t *to_history;   /* [n] */
    const fm_sample_row *how;
    int32_t *token;              /* [n] results */
} draft_pass;

typedef struct step {
    int64_t T, n_keys;
    int n_samples, n_passes;
    bool penalty;                /* some sequence reads its history */
    fmi_rows main, mtp;
    const int32_t *rows;         /* [n_samples] batch rows that are sampled */
    const int32_t *to_history;   /* [n_samples] */
    const fm_sample_row *how, *mtp_how;
    int32_t *token;              /* [n_samples] results in device memory */
    float *logprob;
    int32_t *draft;
    int64_t out_n;
    draft_pass pass[FMI_DRAFTS_MAX];
} step;

int32_t *fmi_in_put(fmi_engine *e, int64_t n, int32_t **dev)
{
    FM_ASSERT(e->in_n + n <= e->in_max);
    int32_t *host = e->in + e->in_n;
    *dev = e->dev_in + e->in_n;
    e->in_n += (n + 1) & ~(int64_t)1; /* 8-byte places: settings hold 64-bit fields */
    return host;
}

void fmi_rows_begin(fmi_engine *e, const fmi_pages *p, int64_t T, int64_t S, fmi_rows *r)
{
    int32_t *d[8];
    r->n_keys = 0;
    r->ids = fmi_in_put(e, T, &d[0]);
    r->pos = fmi_in_put(e, T, &d[1]);
    r->write = fmi_in_put(e, T, &d[2]);
    r->seq = fmi_in_put(e, T, &d[3]);
    r->len = fmi_in_put(e, T, &d[4]);
    r->k_begin = fmi_in_put(e, T, &d[5]);
    r->k_end = fmi_in_put(e, T, &d[6]);
    r->gather = fmi_in_put(e, S, &d[7]);
    r->b = (fm_batch){.T = T, .ids = d[0], .pos = d[1], .write_row = d[2], .row_seq = d[3],
                      .row_len = d[4], .k_begin = d[5], .k_end = d[6], .gather = d[7], .S = S,
                      .cache = &e->cache, .page_table = p->dev_table,
                      .pages_max = (int)p->pages_max};
}

void fmi_rows_put(fmi_engine *e, const fmi_pages *p, fmi_rows *r, int s, int64_t row,
                  int64_t begin, int64_t end)
{
    int64_t key0 = r->n_keys;
    for (int64_t i = begin; i < end; i++, row++) {
        r->pos[row] = (int32_t)i;
        r->write[row] = fmi_pages_row(p, s, i);
        r->seq[row] = s;
        r->len[row] = (int32_t)(i + 1);
        r->k_begin[row] = (int32_t)key0;
        r->k_end[row] = (int32_t)(key0 + i + 1);
    }
    if (e->m->absorbed) return;
    for (int64_t i = 0; i < end; i++) r->gather[r->n_keys++] = fmi_pages_row(p, s, i);
}

static int64_t pending(const fmi_seq *q)
{
    return q->n - q->len;
}

static int drafts_of(const fmi_engine *e, const fmi_seq *q)
{
    if (!e->mtp_on || q->draft < 0) return 0;
    int64_t room = e->o.context_max - 1 - q->n;
    int d = q->drafts < e->o.drafts ? q->drafts : e->o.drafts;
    return d < room ? d : (int)room;
}

/* Decode rows first, most drafts first (a draft pass then serves a prefix of the slots), then
 * chunks of prompts. */
static void choose(fmi_engine *e, const int *seqs, int n, step *st)
{
    e->n_slots = 0;
    for (int i = 0; i < n; i++) {
        const fmi_seq *q = &e->seq[seqs[i]];
        if (pending(q) != 1) continue;
        fmi_slot slot = {.seq = seqs[i], .take = 1, .drafts = drafts_of(e, q), .decode = true,
                         .samples = true};
        int at = e->n_slots++;
        for (; at > 0 && e->slot[at - 1].drafts < slot.drafts; at--) e->slot[at] = e->slot[at - 1];
        e->slot[at] = slot;
        st->T += 1 + slot.drafts;
    }
    int64_t room = e->rows_max - st->T;
    if (room > e->o.chunk) room = e->o.chunk;
    for (int i = 0; i < n; i++) {
        int64_t want = pending(&e->seq[seqs[i]]);
        if (want <= 1) continue;
        int64_t take = want < room ? want : room;
        if (take == 0) break;
        e->slot[e->n_slots++] = (fmi_slot){.seq = seqs[i], .take = take, .samples = take == want};
        room -= take;
        st->T += take;
    }
}

static fm_status reserve(fmi_engine *e, step *st, fm_err *err)
{
    int64_t row = 0;
    for (int k = 0; k < e->n_slots; k++) {
        fmi_slot *t = &e->slot[k];
        fmi_seq *q = &e->seq[t->seq];
        FM_ASSERT(q->n < e->o.context_max && (!e->mtp_on || q->mtp_len == q->len));
        int64_t end = q->len + t->take + t->drafts;
        t->row0 = row;
        t->s0 = st->n_samples;
        row += t->take + t->drafts;
        if (t->samples) st->n_samples += 1 + t->drafts;
        if (t->drafts - 1 > st->n_passes) st->n_passes = t->drafts - 1;
        if (t->samples && q->how.repetition_penalty != 1) st->penalty = true;
        if (!e->m->absorbed) st->n_keys += end;
        fm_status s = fmi_pages_reserve(&e->main, t->seq, q->len, end, err);
        if (!s && e->mtp_on) s = fmi_pages_reserve(&e->drafter, t->seq, q->len, end, err);
        if (s) return s;
    }
    return FM_OK;
}

/* Settings for the token at `position` of sequence s, whose history is everything before it. */
static void put_how(const fmi_engine *e, fm_sample_row *how, int s, int64_t position)
{
    *how = e->seq[s].how;
    how->position = (uint64_t)position;
    bool past = how->repetition_penalty != 1;
    how->history_begin = past ? (int32_t)(s * e->o.context_max) : 0;
    how->history_n = past ? (int32_t)position : 0;
}

static fm_sample_row *put_hows(fmi_engine *e, int n, const fm_sample_row **dev)
{
    int32_t *d;
    int32_t *h = fmi_in_put(e, n * (int64_t)(sizeof(fm_sample_row) / sizeof(int32_t)), &d);
    *dev = (const fm_sample_row *)(void *)d;
    return (fm_sample_row *)(void *)h;
}

static void stage_rows(fmi_engine *e, step *st)
{
    fmi_rows_begin(e, &e->main, st->T, st->n_keys, &st->main);
    if (e->mtp_on) fmi_rows_begin(e, &e->drafter, st->T, st->n_keys, &st->mtp);
    for (int k = 0; k < e->n_slots; k++) {
        const fmi_slot *t = &e->slot[k];
        const fmi_seq *q = &e->seq[t->seq];
        int64_t end = q->len + t->take + t->drafts;
        fmi_rows_put(e, &e->main, &st->main, t->seq, t->row0, q->len, end);
        if (e->mtp_on) fmi_rows_put(e, &e->drafter, &st->mtp, t->seq, t->row0, q->len, end);
        for (int64_t i = q->len; i < end; i++) {
            int64_t row = t->row0 + i - q->len;
            /* drafts beyond the first, and what is being sampled, arrive on the device */
            st->main.ids[row] = i < q->n ? q->tokens[i] : i == q->n ? q->draft : 0;
            if (e->mtp_on) st->mtp.ids[row] = i + 1 < q->n ? q->tokens[i + 1] : 0;
        }
    }
}

static void stage_samples(fmi_engine *e, step *st)
{
    int32_t *rows, *history, *dev;
    fm_sample_row *mtp_how = NULL;
    rows = fmi_in_put(e, st->n_samples, &dev);
    st->rows = dev;
    history = fmi_in_put(e, st->n_samples, &dev);
    st->to_history = dev;
    fm_sample_row *how = put_hows(e, st->n_samples, &st->how);
    if (e->mtp_on) mtp_how = put_hows(e, st->n_samples, &st->mtp_how);
    for (int k = 0; k < e->n_slots; k++) {
        const fmi_slot *t = &e->slot[k];
        const fmi_seq *q = &e->seq[t->seq];
        if (!t->samples) continue;
        for (int j = 0; j <= t->drafts; j++) {
            rows[t->s0 + j] = (int32_t)(t->row0 + t->take - 1 + j);
            history[t->s0 + j] = (int32_t)(t->seq * e->o.context_max + q->n + j);
            put_how(e, &how[t->s0 + j], t->seq, q->n + j);
            if (mtp_how) put_how(e, &mtp_how[t->s0 + j], t->seq, q->n + j + 1);
        }
    }
    st->token = e->dev_out;
    st->logprob = (float *)(void *)(e->dev_out + st->n_samples);
    st->draft = e->dev_out + 2 * (int64_t)st->n_samples;
    st->out_n = (e->mtp_on ? 3 : 2) * (int64_t)st->n_samples;
}

/* Pass j reads draft j and finds draft j + 1. */
static void stage_pass(fmi_engine *e, step *st, int j)
{
    draft_pass *p = &st->pass[j - 1];
    int64_t n_keys = 0;
    int32_t *dev;
    while (p->n < e->n_slots && e->slot[p->n].drafts > j) p->n++;
    if (!e->m->absorbed)
        for (int k = 0; k < p->n; k++) n_keys += e->seq[e->slot[k].seq].n - 1 + j;
    fmi_rows_begin(e, &e->drafter, p->n, n_keys, &p->r);
    int32_t *from = fmi_in_put(e, p->n, &dev);
    p->from = dev;
    int32_t *to_ids = fmi_in_put(e, p->n, &dev);
    p->to_ids = dev;
    int32_t *to_history = fmi_in_put(e, p->n, &dev);
    p->to_history = dev;
    fm_sample_row *how = put_hows(e, p->n, &p->how);
    for (int k = 0; k < p->n; k++) {
        const fmi_slot *t = &e->slot[k];
        const fmi_seq *q = &e->seq[t->seq];
        fmi_rows_put(e, &e->drafter, &p->r, t->seq, k, q->n - 2 + j, q->n - 1 + j);
        p->r.ids[k] = q->draft;
        from[k] = q->hidden;
        to_ids[k] = (int32_t)(t->row0 + 1 + j);
        to_history[k] = (int32_t)(t->seq * e->o.context_max + q->n + j);
        put_how(e, &how[k], t->seq, q->n + j);
    }
    p->token = e->dev_out + st->out_n;
    st->out_n += p->n;
    if (j > 1) p->r.b.ids = st->pass[j - 2].token;
}

/* Tokens the device does not know yet, with the first draft behind them. */
static fm_status write_history(fmi_engine *e, fm_err *err)
{
    for (int k = 0; k < e->n_slots; k++) {
        const fmi_slot *t = &e->slot[k];
        fmi_seq *q = &e->seq[t->seq];
        if (!t->samples || q->how.repetition_penalty == 1) continue;
        int64_t n = q->n;
        if (t->drafts > 0) q->tokens[n++] = q->draft;
        fm_status s = fm_write(e->x, e->dev_history + t->seq * e->o.context_max + q->hist,
                               q->tokens + q->hist, (size_t)(n - q->hist) * sizeof *q->tokens, err);
        if (s) return s;
        q->hist = q->n;
    }
    return FM_OK;
}

static void scatter(fmi_engine *e, const int32_t *x, const int32_t *rows, int32_t *y, int64_t n)
{
    fm_op_scatter_rows(e->x, &(fm_scatter_rows_args){.x = x, .rows = rows, .y = y, .n = n, .D = 1,
                                                     .ldx = 1, .ldy = 1, .dt = FM_DTYPE_I32});
}

/* Logits of n rows of h (all when rows is NULL) and a token for each. */
static void sample(fmi_engine *e, const void *h, const int32_t *rows, int64_t n,
                   const fm_sample_row *how, int32_t *token, void *logprob)
{
    int64_t W = e->m->cfg.vocab_size;
    fmi_logits(e->m, e->acts, h, rows, n, e->acts->logits);
    fm_op_sample(e->x, &(fm_sample_args){.logits = e->acts->logits, .rows = how,
                                         .history = e->dev_history, .token = token,
                                         .logprob = logprob, .scratch = e->dev_scratch, .T = n,
                                         .W = W, .ld = W, .dt = e->m->dt});
}

static void gather(fmi_engine *e, const void *x, const int32_t *rows, void *y, int64_t n)
{
    int64_t D = e->m->cfg.hidden_size;
    fm_dtype F = fmi_full_dtype(e->m->dt);
    fm_op_gather_rows(e->x, &(fm_gather_rows_args){.x = x, .rows = rows, .y = y, .n = n, .D = D,
                                                   .ldx = D, .ldy = D, .dt_x = F, .dt_y = F});
}

static void issue_drafts(fmi_engine *e, step *st)
{
    for (int j = 1; j <= st->n_passes; j++) {
        draft_pass *p = &st->pass[j - 1];
        if (j == 1)
            gather(e, e->dev_hsave, p->from, e->dev_hin, p->n);
        else
            gather(e, e->acts->mtp_hf, NULL, e->dev_hin, p->n);
        fmi_forward_mtp(e->m, e->acts, &p->r.b, e->dev_hin, NULL);
        sample(e, e->acts->mtp_h, NULL, p->n, p->how, p->token, e->dev_waste);
        scatter(e, p->token, p->to_ids, (int32_t *)(uintptr_t)st->main.b.ids, p->n);
        if (st->penalty) scatter(e, p->token, p->to_history, e->dev_history, p->n);
        e->counts.mtp_forwards++;
    }
}

static void issue_main(fmi_engine *e, step *st)
{
    fmi_forward(e->m, e->acts, &st->main.b, NULL);
    e->counts.forwards++;
    if (st->n_samples == 0) return;
    sample(e, e->acts->h, st->rows, st->n_samples, st->how, st->token, st->logprob);
    if (st->penalty) scatter(e, st->token, st->to_history, e->dev_history, st->n_samples);
}

static void issue_mtp(fmi_engine *e, step *st)
{
    size_t row = (size_t)e->m->cfg.hidden_size * fm_dtype_bytes(fmi_full_dtype(e->m->dt));
    if (st->n_samples > 0)
        scatter(e, st->token, st->rows, (int32_t *)(uintptr_t)st->mtp.b.ids, st->n_samples);
    fmi_forward_mtp(e->m, e->acts, &st->mtp.b, e->acts->hf, NULL);
    e->counts.mtp_forwards++;
    if (st->n_samples == 0) return;
    sample(e, e->acts->mtp_h, st->rows, st->n_samples, st->mtp_how, st->draft, e->dev_waste);
    if (e->o.drafts < 2) return;
    for (int k = 0; k < e->n_slots; k++) {
        const fmi_slot *t = &e->slot[k];
        if (!t->samples) continue;
        const char *from = e->acts->mtp_hf;
        char *to = e->dev_hsave;
        gather(e, from + (size_t)(t->row0 + t->take - 1) * row, NULL,
               to + (size_t)(t->seq * (e->o.drafts + 1)) * row, t->drafts + 1);
    }
}

/* Draft i (from 0) of slot k, as the host knows it after the read. */
static int32_t draft_at(const fmi_engine *e, const step *st, int k, int i)
{
    if (i == 0) return e->seq[e->slot[k].seq].draft;
    return e->out[st->pass[i - 1].token - e->dev_out + k];
}

static fm_status accept(fmi_engine *e, const step *st, int k, fm_err *err)
{
    fmi_slot *t = &e->slot[k];
    fmi_seq *q = &e->seq[t->seq];
    const int32_t *token = e->out + t->s0;
    for (int j = 0; j <= t->drafts; j++)
        if (token[j] < 0 || token[j] >= e->m->cfg.vocab_size)
            return FM_FAIL(err, FM_E_NUMERIC, "sequence %d: no token chosen at position %lld",
                           t->seq, (long long)(q->n + j));
    int a = 0;
    while (a < t->drafts && draft_at(e, st, k, a) == token[a]) a++;
    memcpy(q->tokens + q->n, token, (size_t)(a + 1) * sizeof *token);
    q->len = q->n + a;
    q->n += a + 1;
    if (q->how.repetition_penalty != 1) q->hist = q->n;
    t->n_new = a + 1;
    t->accepted = a;
    t->logprob = (const float *)(const void *)(e->out + st->n_samples + t->s0);
    e->counts.drafted += t->drafts;
    e->counts.accepted += a;
    q->draft = -1;
    if (!e->mtp_on) return FM_OK;
    q->mtp_len = q->len;
    q->draft = e->out[2 * st->n_samples + t->s0 + a];
    q->hidden = t->seq * (e->o.drafts + 1) + a;
    return FM_OK;
}

static fm_status stage(fmi_engine *e, step *st, fm_err *err)
{
    e->in_n = 0;
    fm_status s = reserve(e, st, err);
    if (s) return s;
    stage_rows(e, st);
    if (st->n_samples > 0) stage_samples(e, st);
    for (int j = 1; j <= st->n_passes; j++) stage_pass(e, st, j);
    s = fm_write(e->x, e->dev_in, e->in, (size_t)e->in_n * sizeof *e->in, err);
    if (!s) s = fmi_pages_write(&e->main, err);
    if (!s && e->mtp_on) s = fmi_pages_write(&e->drafter, err);
    if (!s && st->penalty) s = write_history(e, err);
    return s;
}

fm_status fmi_engine_step(fmi_engine *e, const int *seqs, int n, fm_err *err)
{
    step st = {0};
    choose(e, seqs, n, &st);
    fm_status s = stage(e, &st, err);
    if (s) return s;
    issue_drafts(e, &st);
    issue_main(e, &st);
    if (e->mtp_on) issue_mtp(e, &st);
    if (st.n_samples > 0) {
        s = fm_read(e->x, e->out, e->dev_out, (size_t)st.out_n * sizeof *e->out, err);
        if (s) return s;
    }
    e->counts.steps++;
    for (int k = 0; k < e->n_slots && !s; k++) {
        fmi_slot *t = &e->slot[k];
        if (t->samples) {
            s = accept(e, &st, k, err);
            continue;
        }
        fmi_seq *q = &e->seq[t->seq];
        q->len += t->take;
        if (e->mtp_on) q->mtp_len = q->len;
    }
    return s;
}
