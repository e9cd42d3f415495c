/* `fathom grad`: loss, MTP loss, the gradient of every weight, and what the batch does to the routers'
 * balance, as a safetensors file. Each row of ids is one document and one packed row. */
#include <stdio.h>
#include <stdlib.h>

#include "io/safetensors.h"
#include "bench/report.h"

#define REPORT_GAMMA 0.001f
#define REPORT_ALPHA 1e-4

typedef struct gradrun {
    fm_model *m;
    fm_grad_opts o;
    int64_t rows, T, n;          /* n = rows * T */
    fm_acts *acts;
    fm_grads *g;
    int32_t *host, *dev;         /* ids, next, pos, begin, end, target, mtp target [n] each; seg [rows+1] */
    void *loss_rows, *dh, *dhf, *dmtp;
    void *losses;                /* [2 + n_layers] F: loss, mtp loss, balance loss per layer */
    int32_t *load;               /* [n_layers, E] */
    float *host_losses;
} gradrun;

enum { IDS, NEXT, POS, BEGIN, END, TARGET, TARGET2, N_ARRAYS };

static fm_status grad_open(gradrun *r, fm_err *err)
{
    fm_model *m = r->m;
    fm_exec *x = m->x;
    int64_t D = m->cfg.hidden_size;
    bool mtp = fm_model_has_mtp(m);
    size_t F = fm_dtype_bytes(fmi_full_dtype(m->dt)), ints = (size_t)(N_ARRAYS * r->n + r->rows + 1);
    fm_acts_opts o = {.rows_max = r->n, .keep = true, .backward = true, .recompute = r->o.recompute,
                      .mtp = mtp, .logit_rows = r->n < 1024 ? r->n : 1024, .row_length_min = r->T};
    size_t loads = (size_t)m->lay.n_layers * (size_t)(m->cfg.n_routed_experts + 1);
    fm_status st = fmi_acts_new(m, &o, &r->acts, err);
    if (!st) st = fmi_grads_new(m, &r->g, err);
    if (!st) st = fm_dev_alloc(x, ints * sizeof *r->dev, (void **)&r->dev, err);
    if (!st) st = fm_dev_alloc(x, (size_t)r->n * F, &r->loss_rows, err);
    if (!st) st = fm_dev_alloc(x, (size_t)(r->n * D) * F, &r->dh, err);
    if (!st && mtp) st = fm_dev_alloc(x, (size_t)(r->n * D) * F, &r->dhf, err);
    if (!st && mtp) st = fm_dev_alloc(x, (size_t)(r->n * D) * F, &r->dmtp, err);
    if (!st) st = fm_dev_alloc(x, (size_t)(2 + m->lay.n_layers) * F, &r->losses, err);
    if (!st) st = fm_dev_alloc(x, loads * sizeof *r->load, (void **)&r->load, err);
    if (st) return st;
    r->host = fmi_zalloc(ints * sizeof *r->host);
    r->host_losses = fmi_zalloc((size_t)(2 + m->lay.n_layers) * sizeof *r->host_losses);
    return r->host && r->host_losses ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "gradient run");
}

static void grad_free(gradrun *r)
{
    void *dev[] = {r->dev, r->loss_rows, r->dh, r->dhf, r->dmtp, r->losses, r->load};
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i]) fm_dev_free(r->m->x, dev[i]);
    fmi_grads_free(r->g);
    fmi_acts_free(r->acts);
    fmi_free(r->host);
    fmi_free(r->host_losses);
}

static fm_status grad_batch(gradrun *r, const int32_t *ids, fm_batch *b, fm_err *err)
{
    int64_t n = r->n, T = r->T;
    int32_t *h = r->host;
    for (int64_t i = 0; i < n; i++) {
        int64_t t = i % T;
        h[IDS * n + i] = ids[i];
        h[NEXT * n + i] = t + 1 < T ? ids[i + 1] : 0;
        h[POS * n + i] = (int32_t)t;
        h[BEGIN * n + i] = (int32_t)(i - t);
        h[END * n + i] = (int32_t)i + 1;
        h[TARGET * n + i] = t + 1 < T ? ids[i + 1] : -1;
        h[TARGET2 * n + i] = t + 2 < T ? ids[i + 2] : -1;
    }
    for (int64_t i = 0; i <= r->rows; i++) h[N_ARRAYS * n + i] = (int32_t)(i * T);
    const int32_t *d = r->dev;
    *b = (fm_batch){.T = n, .ids = d, .pos = d + POS * n, .k_begin = d + BEGIN * n, .k_end = d + END * n,
                    .seg = d + N_ARRAYS * n, .n_seg = (int)r->rows, .row_length = T};
    return fm_write(r->m->x, r->dev, h, (size_t)(N_ARRAYS * n + r->rows + 1) * sizeof *h, err);
}

static void sum_loss(gradrun *r, int slot, int64_t valid)
{
    fm_dtype F = fmi_full_dtype(r->m->dt);
    fm_op_sum(r->m->x, &(fm_sum_args){.x = r->loss_rows, .out = report_at(r->losses, slot, F), .n = r->n,
                                      .scale = 1.0 / (double)valid, .dt = F});
}

/* The balance loss at the report's alpha when the gradient does not carry one. */
static void balance_only(gradrun *r)
{
    fm_model *m = r->m;
    fm_dtype F = fmi_full_dtype(m->dt);
    for (int i = 0; i < m->cfg.num_hidden_layers; i++)
        if (m->lay.layers[i].moe)
            fm_op_seq_balance(m->x, &(fm_seq_balance_args){
                                        .score = r->acts->layer[i].score, .f = r->acts->layer[i].balance_f,
                                        .loss = report_at(r->losses, 2 + i, F), .T = r->n, .L = r->T,
                                        .E = m->cfg.n_routed_experts, .K = m->cfg.num_experts_per_tok,
                                        .balance_scale = REPORT_ALPHA / (double)r->rows, .dt = F});
}

static void grad_run(gradrun *r, fm_batch b)
{
    fm_model *m = r->m;
    fm_dtype F = fmi_full_dtype(m->dt);
    int64_t valid = r->rows * (r->T - 1), valid2 = r->rows * (r->T - 2);
    const int32_t *target = r->dev + TARGET * r->n, *target2 = r->dev + TARGET2 * r->n;
    bool mtp = fm_model_has_mtp(m) && valid2 > 0;
    fm_backward_opts bo = {.balance_scale = r->o.seq_balance / (double)r->rows,
                           .balance_loss = report_at(r->losses, 2, F)};
    fm_batch next = b;
    next.ids = r->dev + NEXT * r->n;
    fmi_grads_zero(r->g);
    fmi_forward(m, r->acts, &b, r->load);
    if (mtp) fmi_forward_mtp(m, r->acts, &next, r->acts->hf, r->load);
    if (r->o.seq_balance <= 0 && !r->o.recompute) balance_only(r);
    fmi_head_loss(m, r->acts, r->g, r->acts->h, target, r->n, 1.0 / (double)valid, r->loss_rows, r->dh);
    sum_loss(r, 0, valid);
    if (mtp) {
        fmi_head_loss(m, r->acts, r->g, r->acts->mtp_h, target2, r->n,
                      r->o.mtp_weight / (double)valid2, r->loss_rows, r->dmtp);
        sum_loss(r, 1, valid2);
        fmi_backward_mtp(m, r->acts, r->g, &next, r->acts->hf, r->dmtp, r->dhf, &bo);
    }
    fmi_backward(m, r->acts, r->g, &b, r->dh, mtp ? r->dhf : NULL, &bo);
}

static int compare_i64(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* The balance figures of one layer. */
static fm_status save_router(gradrun *r, fmi_st_writer *w, int layer, fm_err *err)
{
    fm_model *m = r->m;
    const fm_layer *l = &m->lay.layers[layer];
    int E = m->cfg.n_routed_experts, K = m->cfg.num_experts_per_tok;
    char name[64];
    size_t slots = (size_t)r->n * (size_t)K;
    int32_t *load = fmi_alloc((size_t)E * 4), *chosen = fmi_alloc(slots * 4);
    float *bias = fmi_zalloc((size_t)E * 4), *out = fmi_zalloc((size_t)E * 4);
    int64_t *sorted = fmi_alloc(slots * 8);
    fm_status st =
        load && chosen && bias && out && sorted ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "router report");
    if (!st) st = fm_read(m->x, load, r->load + (int64_t)layer * E, (size_t)E * 4, err);
    if (!st) st = fm_read(m->x, chosen, r->acts->layer[layer].expert, slots * 4, err);
    if (!st && l->bias >= 0) st = fmi_param_read(m, l->bias, bias, err);
    float mean = (float)slots / (float)E;
    for (int e = 0; e < E && !st; e++) out[e] = (float)load[e];
    snprintf(name, sizeof name, "router.%d.load", layer);
    if (!st) st = fmi_st_writer_write(w, name, out, (size_t)E * 4, err);
    for (int e = 0; e < E && !st; e++) {
        float d = mean - (float)load[e];
        out[e] = bias[e] + REPORT_GAMMA * (float)((d > 0) - (d < 0));
    }
    snprintf(name, sizeof name, "router.%d.bias_after", layer);
    if (!st) st = fmi_st_writer_write(w, name, out, (size_t)E * 4, err);
    snprintf(name, sizeof name, "router.%d.seq_balance_loss", layer);
    if (!st) st = fmi_st_writer_write(w, name, &r->host_losses[2 + layer], 4, err);
    for (size_t i = 0; i < slots && !st; i++) sorted[i] = chosen[i];
    for (int64_t t = 0; t < r->n && !st; t++) qsort(sorted + t * K, (size_t)K, 8, compare_i64);
    snprintf(name, sizeof name, "router.%d.topk_sorted", layer);
    if (!st) st = fmi_st_writer_write(w, name, sorted, slots * 8, err);
    fmi_free(load);
    fmi_free(chosen);
    fmi_free(bias);
    fmi_free(out);
    fmi_free(sorted);
    return st;
}

/* The file's table: losses, gradients, router figures. Returns the number of entries. */
static int grad_specs(const gradrun *r, fmi_st_spec *s, char (*names)[FM_NAME_MAX + 8])
{
    const fm_model *m = r->m;
    int64_t E = m->cfg.n_routed_experts, K = m->cfg.num_experts_per_tok;
    int n = 0;
    s[n++] = (fmi_st_spec){"loss", FM_DTYPE_F32, 1, {1}};
    if (fm_model_has_mtp(m)) s[n++] = (fmi_st_spec){"mtp_loss", FM_DTYPE_F32, 1, {1}};
    for (int i = 0; i < m->lay.n_params; i++) {
        const fm_param *p = &m->lay.params[i];
        if (!r->g->g[i]) continue;
        snprintf(names[n], sizeof names[n], "grad.%s", p->name);
        int rank = p->kind == FM_PARAM_NORM ? 1 : 2;
        s[n] = (fmi_st_spec){names[n], FM_DTYPE_F32, rank, {p->rows, rank == 2 ? p->cols : 0}};
        n++;
    }
    static const char *const what[] = {"load", "bias_after", "seq_balance_loss", "topk_sorted"};
    for (int i = 0; i < m->cfg.num_hidden_layers; i++)
        for (int k = 0; k < 4 && m->lay.layers[i].moe && !r->o.recompute; k++) {
            snprintf(names[n], sizeof names[n], "router.%d.%s", i, what[k]);
            s[n] = (fmi_st_spec){names[n], k == 3 ? FM_DTYPE_I64 : FM_DTYPE_F32, k == 3 ? 2 : 1,
                                 {k == 3 ? r->n : k == 2 ? 1 : E, k == 3 ? K : 0}};
            n++;
        }
    return n;
}

static fm_status grad_save(gradrun *r, const char *path, fm_err *err)
{
    fm_model *m = r->m;
    size_t most = (size_t)(m->lay.n_params + 2 + 4 * m->lay.n_layers), biggest = 0;
    fmi_st_spec *spec = fmi_zalloc(most * sizeof *spec);
    char(*names)[FM_NAME_MAX + 8] = fmi_zalloc(most * sizeof *names);
    for (int i = 0; i < m->lay.n_params; i++)
        if ((size_t)fmi_param_count(&m->lay.params[i]) > biggest)
            biggest = (size_t)fmi_param_count(&m->lay.params[i]);
    float *buf = fmi_alloc(biggest * sizeof *buf);
    fmi_st_writer *w = NULL;
    fm_status st = spec && names && buf ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    if (!st) st = fmi_st_writer_open(path, spec, grad_specs(r, spec, names), NULL, 0, &w, err);
    if (!st) st = fmi_st_writer_write(w, "loss", &r->host_losses[0], 4, err);
    if (!st && fm_model_has_mtp(m)) st = fmi_st_writer_write(w, "mtp_loss", &r->host_losses[1], 4, err);
    for (int i = 0; i < m->lay.n_params && !st; i++) {
        if (!r->g->g[i]) continue;
        size_t bytes = (size_t)fmi_param_count(&m->lay.params[i]) * sizeof *buf;
        char name[FM_NAME_MAX + 8];
        snprintf(name, sizeof name, "grad.%s", m->lay.params[i].name);
        st = fm_read(m->x, buf, r->g->g[i], bytes, err);
        if (!st) st = fmi_st_writer_write(w, name, buf, bytes, err);
    }
    for (int i = 0; i < m->cfg.num_hidden_layers && !st && !r->o.recompute; i++)
        if (m->lay.layers[i].moe) st = save_router(r, w, i, err);
    if (!st) st = fmi_st_writer_close(w, err);
    fmi_st_writer_free(w);
    fmi_free(spec);
    fmi_free(names);
    fmi_free(buf);
    return st;
}

fm_status fm_model_grad(fm_model *m, const int32_t *ids, int64_t rows, int64_t length,
                        const fm_grad_opts *opts, const char *out_path, fm_err *err)
{
    fm_status st = fmi_check_ids(m, ids, rows, length, err);
    if (st) return st;
    if (length < 2) return FM_FAIL(err, FM_E_RANGE, "rows of one token have no target");
    if (m->absorbed || fmi_full_dtype(m->dt) != FM_DTYPE_F32)
        return FM_FAIL(err, FM_E_STATE, "gradients need the expanded form and precision f32 or bf16");
    gradrun r = {.m = m, .o = *opts, .rows = rows, .T = length, .n = rows * length};
    fm_batch b;
    st = grad_open(&r, err);
    if (!st) st = grad_batch(&r, ids, &b, err);
    if (!st) {
        grad_run(&r, b);
        st = fm_read(m->x, r.host_losses, r.losses, (size_t)(2 + m->lay.n_layers) * 4, err);
    }
    if (!st) st = grad_save(&r, out_path, err);
    grad_free(&r);
    return st;
}
