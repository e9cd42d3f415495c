/* The engine's memory: one walk over every buffer plans them (measuring arenas) and carves them.
 * Also what changes a sequence between steps. */
#include "infer/engine.h"

#include <string.h>

#define SCORE_ROWS 64 /* rows of logits at a time when scoring */

static void *take(fmi_arena *a, int64_t n, fm_dtype d)
{
    size_t bytes = (size_t)n * fm_dtype_bytes(d);
    return fmi_arena_take(a, (bytes + 255) & ~(size_t)255);
}

static void sizes(fmi_engine *e, const fm_model *m)
{
    const fmi_engine_opts *o = &e->o;
    int64_t B = o->sequences, per = o->drafts + 1;
    e->mtp = e->mtp_on = o->drafts > 0;
    e->samples_max = (int)(B * per);
    e->rows_max = o->chunk > B * per ? o->chunk : B * per;
    e->pages_max = fmi_pages_for(o->context_max);
    e->keys_max = m->absorbed ? 0 : B * o->context_max;
    e->logit_rows = e->samples_max;
    if (e->logit_rows < SCORE_ROWS && e->rows_max >= SCORE_ROWS) e->logit_rows = SCORE_ROWS;
    /* input words: seven arrays of rows and the keys, for the main batch, the MTP batch and every
     * further draft; lists of sampled rows; their settings */
    int64_t batches = 2 * (7 * e->rows_max + e->keys_max)
                      + (int64_t)o->drafts * (8 * B + e->keys_max);
    int64_t lists = 3 * e->samples_max + 4 * (int64_t)o->drafts * B;
    int64_t settings = (2 * (int64_t)e->samples_max + o->drafts * B)
                       * (int64_t)(sizeof(fm_sample_row) / sizeof(int32_t));
    e->in_max = batches + lists + settings + 256;
    e->out_max = 3 * (int64_t)e->samples_max + (int64_t)o->drafts * B + e->rows_max;
}

static void carve_pages(fmi_engine *e, const fm_model *m, fmi_arena *host, fmi_arena *dev)
{
    const fm_config *c = &m->cfg;
    int64_t B = e->o.sequences, width = c->kv_lora_rank + c->qk_rope_head_dim;
    int main_layers = c->num_hidden_layers;
    e->cache.n_pages = B * e->pages_max;
    e->cache.pages = fmi_arena_take(host, (size_t)m->lay.n_layers * sizeof *e->cache.pages);
    for (int l = 0; l < m->lay.n_layers; l++) {
        void *pool = l < main_layers || e->mtp
                         ? take(dev, e->cache.n_pages * FM_PAGE_ROWS * width, m->dt)
                         : NULL;
        if (e->cache.pages) e->cache.pages[l] = pool;
    }
    e->main = (fmi_pages){.x = m->x, .cache = &e->cache, .dt = m->dt, .width = width, .layer0 = 0,
                          .n_layers = main_layers, .n_seqs = (int)B, .n_pages = e->cache.n_pages,
                          .pages_max = e->pages_max};
    e->drafter = e->main;
    e->drafter.layer0 = main_layers;
    e->drafter.n_layers = e->mtp ? 1 : 0;
    fmi_pages_carve(&e->main, host, dev);
    fmi_pages_carve(&e->drafter, host, dev);
}

static void carve(fmi_engine *e, const fm_model *m, fmi_arena *host, fmi_arena *dev)
{
    const fm_config *c = &m->cfg;
    int64_t B = e->o.sequences, D = c->hidden_size, ctx = e->o.context_max;
    fm_dtype F = fmi_full_dtype(m->dt);
    carve_pages(e, m, host, dev);
    e->dev_in = take(dev, e->in_max, FM_DTYPE_I32);
    e->dev_out = take(dev, e->out_max, FM_DTYPE_I32);
    e->dev_history = take(dev, B * ctx, FM_DTYPE_I32);
    e->dev_scratch = take(dev, (int64_t)e->samples_max * c->vocab_size, F);
    e->dev_waste = take(dev, e->samples_max, F);
    if (e->mtp) {
        e->dev_hin = take(dev, B * D, F);
        e->dev_hsave = take(dev, B * (e->o.drafts + 1) * D, F);
    }
    e->in = take(host, e->in_max, FM_DTYPE_I32);
    e->out = take(host, e->out_max, FM_DTYPE_I32);
    e->seq = fmi_arena_take(host, (size_t)B * sizeof *e->seq);
    e->slot = fmi_arena_take(host, (size_t)B * sizeof *e->slot);
    for (int64_t s = 0; s < B; s++) {
        int32_t *tokens = take(host, ctx, FM_DTYPE_I32);
        if (e->seq) e->seq[s].tokens = tokens;
    }
}

static fm_acts_opts acts_opts(const fmi_engine *e)
{
    return (fm_acts_opts){.rows_max = e->rows_max, .keys_max = e->keys_max, .mtp = e->mtp,
                          .logit_rows = e->logit_rows};
}

size_t fmi_engine_bytes(const fm_model *m, const fmi_engine_opts *o, size_t *host_bytes)
{
    fmi_engine e = {.o = *o};
    fmi_arena host = {0}, dev = {0};
    sizes(&e, m);
    carve(&e, m, &host, &dev);
    if (host_bytes) *host_bytes = host.used;
    fm_acts_opts ao = acts_opts(&e);
    return dev.used + fmi_acts_bytes(&m->cfg, m->dt, &ao);
}

static fm_status check_opts(const fm_model *m, const fmi_engine_opts *o, fm_err *err)
{
    if (o->sequences < 1 || o->sequences > 4096)
        return FM_FAIL(err, FM_E_RANGE, "sequences: expected 1 to 4096, found %d", o->sequences);
    if (o->context_max < 2 || o->context_max > m->rope_rows)
        return FM_FAIL(err, FM_E_RANGE,
                       "context: expected 2 to %lld (max_position_embeddings), found %lld",
                       (long long)m->rope_rows, (long long)o->context_max);
    if ((int64_t)o->sequences * (o->context_max + FM_PAGE_ROWS) > INT32_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d sequences of %lld tokens: more cache rows than 2^31",
                       o->sequences, (long long)o->context_max);
    if (o->chunk < 1 || o->chunk > (1 << 20))
        return FM_FAIL(err, FM_E_RANGE, "chunk: expected 1 to 1048576, found %lld",
                       (long long)o->chunk);
    if (o->drafts < 0 || o->drafts > FMI_DRAFTS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "drafts: expected 0 to %d, found %d", FMI_DRAFTS_MAX,
                       o->drafts);
    if (o->drafts > 0 && m->lay.n_layers <= m->cfg.num_hidden_layers)
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "drafting: the model has no multi-token-prediction module");
    return FM_OK;
}

fm_status fmi_engine_new(fm_model *m, const fmi_engine_opts *o, fmi_engine **out, fm_err *err)
{
    fm_status st = check_opts(m, o, err);
    if (st) return st;
    fmi_engine *e = fmi_zalloc(sizeof *e);
    if (!e) return FM_FAIL(err, FM_E_NOMEM, "session");
    fmi_arena host = {0}, dev = {0};
    e->m = m;
    e->x = m->x;
    e->o = *o;
    sizes(e, m);
    carve(e, m, &host, &dev);
    e->host = fmi_alloc_aligned(host.used, 64);
    if (!e->host)
        st = FM_FAIL(err, FM_E_NOMEM, "session: %zu bytes of host memory", host.used);
    if (!st) st = fm_dev_alloc(e->x, dev.used, &e->dev, err);
    if (!st) {
        host = (fmi_arena){.base = e->host, .cap = host.used};
        dev = (fmi_arena){.base = e->dev, .cap = dev.used};
        carve(e, m, &host, &dev);
        fmi_pages_init(&e->main);
        fmi_pages_init(&e->drafter);
        for (int s = 0; s < o->sequences; s++) {
            e->seq[s].draft = -1;
            e->seq[s].how = (fm_sample_row){.top_p = 1, .repetition_penalty = 1, .mask = -1};
        }
        fm_acts_opts ao = acts_opts(e);
        st = fmi_acts_new(m, &ao, &e->acts, err);
    }
    if (st) {
        fmi_engine_free(e);
        return st;
    }
    *out = e;
    return FM_OK;
}

void fmi_engine_free(fmi_engine *e)
{
    if (!e) return;
    fmi_acts_free(e->acts);
    fm_dev_free(e->x, e->dev);
    fmi_free_aligned(e->host);
    fmi_free(e);
}

fm_status fmi_seq_push(fmi_engine *e, int s, const int32_t *ids, int64_t n, fm_err *err)
{
    fmi_seq *q = &e->seq[s];
    int W = e->m->cfg.vocab_size;
    if (n > e->o.context_max - q->n)
        return FM_FAIL(err, FM_E_RANGE, "%lld tokens after %lld exceed the context of %lld",
                       (long long)n, (long long)q->n, (long long)e->o.context_max);
    for (int64_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= W)
            return FM_FAIL(err, FM_E_RANGE, "token %lld: id %d is outside the vocabulary of %d",
                           (long long)i, (int)ids[i], W);
    if (n > 0) q->draft = -1;
    if (n > 0) memcpy(q->tokens + q->n, ids, (size_t)n * sizeof *ids);
    q->n += n;
    return FM_OK;
}

void fmi_seq_truncate(fmi_engine *e, int s, int64_t n)
{
    fmi_seq *q = &e->seq[s];
    FM_ASSERT(n >= 0 && n <= q->n);
    q->n = n;
    if (q->len > n) q->len = n;
    /* row i of the MTP block has read token i+1 */
    int64_t mtp = n > 0 ? n - 1 : 0;
    if (q->mtp_len > mtp) q->mtp_len = mtp;
    if (q->hist > n) q->hist = n;
    q->draft = -1;
    fmi_pages_truncate(&e->main, s, q->len);
    fmi_pages_truncate(&e->drafter, s, q->mtp_len);
}

void fmi_seq_fork(fmi_engine *e, int dst, int src, int64_t n)
{
    fmi_seq *d = &e->seq[dst];
    const fmi_seq *q = &e->seq[src];
    FM_ASSERT(n >= 0 && n <= q->n);
    if (dst == src) {
        fmi_seq_truncate(e, src, n);
        return;
    }
    memcpy(d->tokens, q->tokens, (size_t)n * sizeof *d->tokens);
    d->n = n;
    d->len = q->len < n ? q->len : n;
    int64_t mtp = n > 0 ? n - 1 : 0;
    d->mtp_len = q->mtp_len < mtp ? q->mtp_len : mtp;
    d->hist = 0;
    d->draft = -1;
    fmi_pages_fork(&e->main, dst, src, d->len);
    fmi_pages_fork(&e->drafter, dst, src, d->mtp_len);
}

void fmi_seq_ready(fmi_engine *e, int s)
{
    fmi_seq *q = &e->seq[s];
    FM_ASSERT(q->n > 0);
    int64_t len = q->len < q->n - 1 ? q->len : q->n - 1;
    if (e->mtp_on && q->mtp_len < len) len = q->mtp_len;
    if (len < q->len || q->mtp_len < len) q->draft = -1;
    q->len = len;
    if (q->mtp_len > len) q->mtp_len = len;
}
