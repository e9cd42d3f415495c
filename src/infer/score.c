/* Scoring: the log-probability of every token of a sequence given those before it. The same forward
 * pass and cache as generation, so that the numbers are those the sampler would record; the
 * cross-entropy operator takes logits in blocks of rows. */
#include "infer/engine.h"

static void issue_block(fmi_engine *e, int64_t row, int64_t n, const int32_t *target)
{
    const fm_config *c = &e->m->cfg;
    int64_t W = c->vocab_size;
    const char *h = e->acts->h;
    fmi_logits(e->m, e->acts, h + (size_t)(row * c->hidden_size) * fm_dtype_bytes(e->m->dt), NULL,
               n, e->acts->logits);
    fm_op_xent(e->x, &(fm_xent_args){.logits = e->acts->logits, .target = target + row,
                                     .loss = e->dev_out + row, .T = n, .W = W, .ld = W, .ldd = W,
                                     .dt = e->m->dt});
}

/* Forwards rows len..len+T-1; scores those whose next token is `first` or later. */
static fm_status chunk(fmi_engine *e, int s, int64_t T, int64_t first, float *logprob, fm_err *err)
{
    fmi_seq *q = &e->seq[s];
    int64_t begin = q->len, end = begin + T;
    fmi_rows r;
    int32_t *dev;
    e->in_n = 0;
    fm_status st = fmi_pages_reserve(&e->main, s, begin, end, err);
    if (st) return st;
    fmi_rows_begin(e, &e->main, T, e->m->absorbed ? 0 : end, &r);
    fmi_rows_put(e, &e->main, &r, s, 0, begin, end);
    int32_t *target = fmi_in_put(e, T, &dev);
    for (int64_t i = 0; i < T; i++) {
        r.ids[i] = q->tokens[begin + i];
        target[i] = q->tokens[begin + i + 1];
    }
    st = fm_write(e->x, e->dev_in, e->in, (size_t)e->in_n * sizeof *e->in, err);
    if (!st) st = fmi_pages_write(&e->main, err);
    if (st) return st;
    fmi_forward(e->m, e->acts, &r.b, NULL);
    e->counts.forwards++;
    int64_t row = first - 1 > begin ? first - 1 - begin : 0;
    if (row < T) {
        for (int64_t at = row; at < T; at += e->logit_rows)
            issue_block(e, at, T - at < e->logit_rows ? T - at : e->logit_rows, dev);
        st = fm_read(e->x, e->out, e->dev_out + row, (size_t)(T - row) * sizeof *e->out, err);
        if (st) return st;
        const float *loss = (const float *)(const void *)e->out;
        for (int64_t i = 0; i < T - row; i++) logprob[begin + row + i + 1 - first] = -loss[i];
    }
    q->len = end;
    return FM_OK;
}

fm_status fmi_engine_score(fmi_engine *e, int s, int64_t first, float *logprob, fm_err *err)
{
    fmi_seq *q = &e->seq[s];
    FM_ASSERT(first >= 1 && first <= q->n);
    q->draft = -1;
    if (q->len > first - 1) q->len = first - 1;
    while (q->len < q->n - 1) {
        int64_t left = q->n - 1 - q->len;
        int64_t T = left < e->o.chunk ? left : e->o.chunk;
        fm_status st = chunk(e, s, T, first, logprob, err);
        if (st) return st;
    }
    if (q->mtp_len > q->len) q->mtp_len = q->len;
    return FM_OK;
}
