/* `fathom logits`: logits (and hidden states, and the MTP block's logits) of given rows of token ids, as a
 * safetensors file to hold against other implementations.
 *
 * Each row of ids is one document. Without a cache a row goes through at once; with --chunk N (and always in
 * the absorbed form) N tokens at a time go through the latent cache. The bytes do not depend on N. */
#include <stdio.h>

#include "io/safetensors.h"
#include "bench/report.h"

typedef struct report {
    fm_model *m;
    fm_logits_opts o;
    int64_t rows, T, chunk;
    fm_acts *acts;
    fm_cache cache;
    bool cached;
    int32_t *host;          /* arrays below, host side, in the device block's order */
    int32_t *dev;
    float *logits;          /* [rows, T, W] */
    float *mtp;             /* [rows, T-1, W] */
    float *hidden;          /* [L+1, rows, T, D] */
} report;

/* Offsets of the arrays in the i32 block: n = chunk rows each, then gather and the page table. */
enum { IDS, NEXT, POS, BEGIN, END, SEQ, N_ARRAYS };

static int64_t pages(const report *r)
{
    return (r->T + FM_PAGE_ROWS - 1) / FM_PAGE_ROWS;
}

static int64_t block_len(const report *r)
{
    return N_ARRAYS * r->chunk + r->T + pages(r);
}

static fm_status report_cache(report *r, fm_err *err)
{
    const fm_config *c = &r->m->cfg;
    int n = r->m->lay.n_layers;
    size_t bytes = (size_t)(pages(r) * FM_PAGE_ROWS * (c->kv_lora_rank + c->qk_rope_head_dim)) *
                   fm_dtype_bytes(r->m->dt);
    r->cache.n_pages = pages(r);
    r->cache.pages = fmi_zalloc((size_t)n * sizeof *r->cache.pages);
    if (!r->cache.pages) return FM_FAIL(err, FM_E_NOMEM, "cache");
    fm_status st = FM_OK;
    for (int i = 0; i < n && !st; i++) st = fm_dev_alloc(r->m->x, bytes, &r->cache.pages[i], err);
    return st;
}

static fm_status report_open(report *r, fm_err *err)
{
    const fm_config *c = &r->m->cfg;
    size_t cells = (size_t)(r->rows * r->T), W = (size_t)c->vocab_size, D = (size_t)c->hidden_size;
    fm_acts_opts o = {.rows_max = r->chunk, .keys_max = r->cached && !r->m->absorbed ? r->T : 0,
                      .keep = r->o.hidden, .mtp = r->o.mtp, .logit_rows = r->chunk};
    fm_status st = fmi_acts_new(r->m, &o, &r->acts, err);
    if (!st && r->cached) st = report_cache(r, err);
    if (!st) st = fm_dev_alloc(r->m->x, (size_t)block_len(r) * sizeof *r->dev, (void **)&r->dev, err);
    if (st) return st;
    r->host = fmi_zalloc((size_t)block_len(r) * sizeof *r->host);
    r->logits = fmi_alloc(cells * W * sizeof *r->logits);
    if (r->o.mtp) r->mtp = fmi_alloc(cells * W * sizeof *r->mtp);
    if (r->o.hidden)
        r->hidden = fmi_alloc((size_t)(c->num_hidden_layers + 1) * cells * D * sizeof *r->hidden);
    if (!r->host || !r->logits || (r->o.mtp && !r->mtp) || (r->o.hidden && !r->hidden))
        return FM_FAIL(err, FM_E_NOMEM, "logits of %lld x %lld tokens", (long long)r->rows,
                       (long long)r->T);
    return FM_OK;
}

static void report_free(report *r)
{
    for (int i = 0; r->cache.pages && i < r->m->lay.n_layers; i++)
        if (r->cache.pages[i]) fm_dev_free(r->m->x, r->cache.pages[i]);
    fmi_free(r->cache.pages);
    if (r->dev) fm_dev_free(r->m->x, r->dev);
    fmi_acts_free(r->acts);
    fmi_free(r->host);
    fmi_free(r->logits);
    fmi_free(r->mtp);
    fmi_free(r->hidden);
}

/* Fills the host block for tokens s .. s+n-1 of one row and writes it. */
static fm_status write_batch(report *r, const int32_t *ids, int64_t s, int64_t n, fm_err *err)
{
    int64_t c = r->chunk;
    for (int64_t i = 0; i < n; i++) {
        r->host[IDS * c + i] = ids[s + i];
        r->host[NEXT * c + i] = s + i + 1 < r->T ? ids[s + i + 1] : 0;
        r->host[POS * c + i] = (int32_t)(s + i);
        r->host[BEGIN * c + i] = 0;
        r->host[END * c + i] = (int32_t)(s + i + 1);
        r->host[SEQ * c + i] = 0;
    }
    int32_t *gather = r->host + N_ARRAYS * c;
    for (int64_t i = 0; i < r->T; i++) gather[i] = (int32_t)i;
    for (int64_t i = 0; i < pages(r); i++) gather[r->T + i] = (int32_t)i;
    return fm_write(r->m->x, r->dev, r->host, (size_t)block_len(r) * sizeof *r->dev, err);
}

static fm_batch batch_of(const report *r, int64_t s, int64_t n)
{
    const int32_t *d = r->dev;
    int64_t c = r->chunk;
    fm_batch b = {.T = n, .ids = d + IDS * c, .pos = d + POS * c, .k_begin = d + BEGIN * c,
                  .k_end = d + END * c, .row_length = n};
    if (r->cached) {
        b.cache = &r->cache;
        b.write_row = d + POS * c;
        b.row_seq = d + SEQ * c;
        b.row_len = d + END * c;
        b.gather = d + N_ARRAYS * c;
        b.S = s + n;
        b.page_table = d + N_ARRAYS * c + r->T;
        b.pages_max = (int)pages(r);
    }
    return b;
}

static fm_status read_hidden(report *r, int64_t row, int64_t s, int64_t n, fm_err *err)
{
    int L = r->m->cfg.num_hidden_layers;
    int64_t D = r->m->cfg.hidden_size, cells = r->rows * r->T;
    fm_status st = FM_OK;
    for (int i = 0; i <= L && !st; i++) {
        const void *src = i < L ? r->acts->layer[i].x0 : r->acts->hf;
        float *dst = r->hidden + (i * cells + row * r->T + s) * D;
        st = fm_read(r->m->x, dst, src, (size_t)(n * D) * sizeof *dst, err);
    }
    return st;
}

static fm_status run_chunk(report *r, const int32_t *ids, int64_t row, int64_t s, int64_t n, fm_err *err)
{
    fm_model *m = r->m;
    int64_t W = m->cfg.vocab_size;
    fm_status st = write_batch(r, ids, s, n, err);
    if (st) return st;
    fm_batch b = batch_of(r, s, n);
    fmi_forward(m, r->acts, &b, NULL);
    fmi_logits(m, r->acts, r->acts->h, NULL, n, r->acts->logits);
    st = fm_read(m->x, r->logits + (row * r->T + s) * W, r->acts->logits, (size_t)(n * W) * sizeof(float),
                 err);
    if (!st && r->o.hidden) st = read_hidden(r, row, s, n, err);
    int64_t k = s + n < r->T ? n : n - 1; /* the last token has no next one to read */
    if (st || !r->o.mtp || k < 1) return st;
    fm_batch d = batch_of(r, s, k);
    d.ids = r->dev + NEXT * r->chunk;
    fmi_forward_mtp(m, r->acts, &d, r->acts->hf, NULL);
    fmi_logits(m, r->acts, r->acts->mtp_h, NULL, k, r->acts->logits);
    return fm_read(m->x, r->mtp + (row * (r->T - 1) + s) * W, r->acts->logits,
                   (size_t)(k * W) * sizeof(float), err);
}

static fm_status report_save(const report *r, const char *path, fm_err *err)
{
    const fm_config *c = &r->m->cfg;
    int n = 0, L = c->num_hidden_layers;
    fmi_st_spec *spec = fmi_zalloc((size_t)(L + 3) * sizeof *spec);
    char(*names)[24] = fmi_zalloc((size_t)(L + 1) * sizeof *names);
    fmi_st_writer *w = NULL;
    fm_status st = spec && names ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    for (int i = 0; !st && r->o.hidden && i <= L; i++) {
        snprintf(names[i], sizeof names[i], "hidden.%d", i);
        spec[n++] = (fmi_st_spec){names[i], FM_DTYPE_F32, 3, {r->rows, r->T, c->hidden_size}};
    }
    if (!st) spec[n++] = (fmi_st_spec){"logits", FM_DTYPE_F32, 3, {r->rows, r->T, c->vocab_size}};
    if (!st && r->o.mtp)
        spec[n++] = (fmi_st_spec){"mtp_logits", FM_DTYPE_F32, 3, {r->rows, r->T - 1, c->vocab_size}};
    if (!st) st = fmi_st_writer_open(path, spec, n, NULL, 0, &w, err);
    size_t cells = (size_t)(r->rows * r->T), D = (size_t)c->hidden_size, W = (size_t)c->vocab_size;
    for (int i = 0; !st && r->o.hidden && i <= L; i++)
        st = fmi_st_writer_write(w, names[i], r->hidden + (size_t)i * cells * D, cells * D * 4, err);
    if (!st) st = fmi_st_writer_write(w, "logits", r->logits, cells * W * 4, err);
    if (!st && r->o.mtp)
        st = fmi_st_writer_write(w, "mtp_logits", r->mtp, (cells - (size_t)r->rows) * W * 4, err);
    if (!st) st = fmi_st_writer_close(w, err);
    fmi_st_writer_free(w);
    fmi_free(spec);
    fmi_free(names);
    return st;
}

fm_status fmi_check_ids(const fm_model *m, const int32_t *ids, int64_t rows, int64_t T, fm_err *err)
{
    if (rows < 1 || T < 1) return FM_FAIL(err, FM_E_RANGE, "no token ids");
    if (T > m->rope_rows)
        return FM_FAIL(err, FM_E_RANGE, "row of %lld tokens; the model's positions end at %lld",
                       (long long)T, (long long)m->rope_rows);
    for (int64_t i = 0; i < rows * T; i++)
        if (ids[i] < 0 || ids[i] >= m->cfg.vocab_size)
            return FM_FAIL(err, FM_E_RANGE, "token id %d at row %lld, place %lld; expected 0..%d", ids[i],
                           (long long)(i / T), (long long)(i % T), m->cfg.vocab_size - 1);
    return FM_OK;
}

fm_status fm_model_logits(fm_model *m, const int32_t *ids, int64_t rows, int64_t length,
                          const fm_logits_opts *opts, const char *out_path, fm_err *err)
{
    fm_status st = fmi_check_ids(m, ids, rows, length, err);
    if (st) return st;
    if (opts->mtp && m->lay.n_layers == m->cfg.num_hidden_layers)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "the model has no MTP block");
    report r = {.m = m, .o = *opts, .rows = rows, .T = length};
    r.cached = opts->chunk > 0 || m->absorbed;
    r.chunk = opts->chunk > 0 && opts->chunk < length ? opts->chunk : length;
    st = report_open(&r, err);
    for (int64_t row = 0; row < rows && !st; row++)
        for (int64_t s = 0; s < length && !st; s += r.chunk) {
            int64_t n = length - s < r.chunk ? length - s : r.chunk;
            st = run_chunk(&r, ids + row * length, row, s, n, err);
        }
    if (!st) st = report_save(&r, out_path, err);
    report_free(&r);
    return st;
}
