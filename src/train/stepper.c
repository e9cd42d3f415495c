/* The step: packing, micro-batches, losses, update. See stepper.h.
 *
 * Per micro-batch of M = rows * T tokens the packed block holds, one after the other: ids, next, pos,
 * k_begin, k_end, target, mtp_target [M] and seg [M + 1], padded to a multiple of 64 elements. The
 * block read back holds fm_step_state, the losses (main, MTP, balance of each layer), the loads and
 * the router biases. */
#include "train/stepper.h"

#include <string.h>

#include "model/count.h"
#include "train/diagnose.h"

static size_t up(size_t n, size_t to)
{
    return (n + to - 1) / to * to;
}

static int n_losses(const fmi_stepper *t)
{
    return 2 + t->n_layers;
}

/* The same arrays on the device. */
static int32_t *on_dev(const fmi_stepper *t, const int32_t *host)
{
    return t->dev_ids + (host - t->host_ids);
}

static void carve_micro(fmi_stepper *t)
{
    int64_t M = t->o.micro_rows * t->o.T;
    for (int i = 0; i < t->n_micro_max; i++) {
        int32_t *p = t->host_ids + i * t->micro_ids;
        t->micro[i] = (fmi_feed_arrays){ .ids = p, .next = p + M, .pos = p + 2 * M, .k_begin = p + 3 * M,
                                         .k_end = p + 4 * M, .target = p + 5 * M,
                                         .mtp_target = p + 6 * M, .seg = p + 7 * M };
    }
}

static void plan_batch(fmi_stepper *t)
{
    int64_t M = t->o.micro_rows * t->o.T;
    t->micro_ids = fmi_count_micro_ids(M);
    t->n_micro_max = (int)((t->o.rows_max + t->o.micro_rows - 1) / t->o.micro_rows);
    t->n_ids = t->n_micro_max * t->micro_ids;
}

static void plan_stats(fmi_stepper *t, fm_dtype F)
{
    size_t cells = (size_t)t->n_layers * (size_t)t->n_experts;
    t->at_loss = up(sizeof(fm_step_state), 64);
    t->at_load = t->at_loss + up((size_t)n_losses(t) * fm_dtype_bytes(F), 64);
    t->at_bias = t->at_load + up(cells * sizeof(int32_t), 64);
    t->stats_bytes = t->at_bias + up(cells * fm_dtype_bytes(F), 64);
}

static fm_acts_opts acts_opts(const fm_config *c, const fmi_step_opts *o)
{
    int64_t rows = o->micro_rows * o->T;
    return (fm_acts_opts){ .rows_max = rows, .keep = true, .backward = true, .recompute = o->recompute,
                           .mtp = o->mtp, .logit_rows = fmi_count_logit_rows(c, rows),
                           .row_length_min = o->T };
}

static fm_status alloc_device(fmi_stepper *t, fm_err *err)
{
    fm_exec *x = t->m->x;
    size_t F = fm_dtype_bytes(fmi_full_dtype(t->m->dt));
    size_t M = (size_t)(t->o.micro_rows * t->o.T), D = (size_t)t->m->cfg.hidden_size;
    size_t cells = (size_t)t->n_layers * (size_t)t->n_experts;
    fm_status st = fm_dev_alloc(x, (size_t)t->n_ids * sizeof(int32_t), (void **)&t->dev_ids, err);
    if (!st) st = fm_dev_alloc(x, M * F, &t->loss_rows, err);
    if (!st) st = fm_dev_alloc(x, M * D * F, &t->dh, err);
    if (!st && t->o.mtp) st = fm_dev_alloc(x, M * D * F, &t->dmtp, err);
    if (!st && t->o.mtp) st = fm_dev_alloc(x, M * D * F, &t->dhf, err);
    if (!st) st = fm_dev_alloc(x, (cells + 1) * sizeof(int32_t), (void **)&t->load, err);
    if (!st) st = fm_dev_alloc(x, (size_t)(t->n_experts + 1) * F, &t->no_bias, err);
    if (!st) st = fm_dev_alloc(x, t->stats_bytes, (void **)&t->dev_stats, err);
    return st;
}

static fmi_optim_parts parts(const fmi_step_opts *o)
{
    return (fmi_optim_parts){ .muon = o->muon, .ademamix = o->ademamix, .grokfast = o->grokfast,
                              .ema = o->ema, .soap = o->soap };
}

fm_status fmi_stepper_new(fm_model *m, const fmi_step_opts *o, fmi_stepper **out, fm_err *err)
{
    FM_ASSERT(o->rows_max >= 1 && o->micro_rows >= 1 && !m->absorbed);
    fmi_stepper *t = fmi_zalloc(sizeof *t);
    if (!t) return FM_FAIL(err, FM_E_NOMEM, "training step");
    t->m = m;
    t->o = *o;
    if (t->o.micro_rows > t->o.rows_max) t->o.micro_rows = t->o.rows_max;
    t->n_layers = m->lay.n_layers;
    t->n_experts = m->cfg.n_routed_experts;
    plan_batch(t);
    plan_stats(t, fmi_full_dtype(m->dt));
    t->host_ids = fmi_zalloc((size_t)t->n_ids * sizeof *t->host_ids);
    t->host_stats = fmi_alloc_aligned(t->stats_bytes, 64);
    t->micro = fmi_zalloc((size_t)t->n_micro_max * sizeof *t->micro);
    fm_status st = t->host_ids && t->host_stats && t->micro
                       ? FM_OK
                       : FM_FAIL(err, FM_E_NOMEM, "batch of %lld rows", (long long)o->rows_max);
    if (!st) carve_micro(t);
    fm_acts_opts ao = acts_opts(&m->cfg, &t->o);
    if (!st) st = fmi_acts_new(m, &ao, &t->acts, err);
    if (!st) st = fmi_grads_new(m, &t->grads, err);
    if (!st) st = fmi_optim_new(m, t->grads, parts(o), &t->optim, err);
    if (!st) st = alloc_device(t, err);
    if (st) {
        fmi_stepper_free(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

void fmi_stepper_free(fmi_stepper *t)
{
    if (!t) return;
    void *dev[] = { t->dev_ids, t->loss_rows, t->dh, t->dmtp, t->dhf, t->load, t->no_bias, t->dev_stats };
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i]) fm_dev_free(t->m->x, dev[i]);
    fmi_optim_free(t->optim);
    fmi_grads_free(t->grads);
    fmi_acts_free(t->acts);
    fmi_free(t->host_ids);
    fmi_free_aligned(t->host_stats);
    fmi_free(t->micro);
    fmi_free(t);
}

fm_status fmi_stepper_plan(const fm_config *c, fm_dtype dt, const fmi_step_opts *o, fmi_step_plan *out,
                           fm_err *err)
{
    fm_layout lay;
    fm_status st = fmi_layout_new(c, &lay, err);
    if (st) return st;
    fmi_stepper t = { .o = *o, .n_layers = lay.n_layers, .n_experts = c->n_routed_experts };
    if (t.o.micro_rows > t.o.rows_max) t.o.micro_rows = t.o.rows_max;
    size_t F = fm_dtype_bytes(fmi_full_dtype(dt));
    plan_batch(&t);
    plan_stats(&t, fmi_full_dtype(dt));
    int64_t n = 0;
    for (int i = 0; i < lay.n_params; i++)
        if (lay.params[i].kind != FM_PARAM_ROUTER_BIAS) /* as fmi_grads_new lays them out */
            n += (fmi_param_count(&lay.params[i]) + 15) & ~(int64_t)15;
    fm_acts_opts ao = acts_opts(c, &t.o);
    out->activations = fmi_acts_bytes(c, dt, &ao);
    out->gradients = (size_t)n * F;
    out->optimizer = fmi_optim_bytes(&lay, n, dt, parts(o));
    out->batch = (size_t)fmi_count_batch_bytes(c, dt, t.o.micro_rows * t.o.T, t.n_micro_max) +
                 2 * t.stats_bytes;
    fmi_layout_free(&lay);
    return FM_OK;
}

/* Packs `rows` rows into micro-batches and sends them. Returns how many micro-batches; used counts rows
 * that hold tokens. */
static fm_status pack(fmi_stepper *t, fmi_feed *feed, int64_t rows, int *n_micro, int64_t *used, fm_err *err)
{
    FM_ASSERT(rows >= 1 && rows <= t->o.rows_max && feed->T == t->o.T);
    int n = 0;
    *used = 0;
    for (int64_t r = 0; r < rows; r += t->o.micro_rows, n++) {
        int64_t k = rows - r < t->o.micro_rows ? rows - r : t->o.micro_rows;
        *used += fmi_feed_fill(feed, k, &t->micro[n]);
    }
    *n_micro = n;
    return fm_write(t->m->x, t->dev_ids, t->host_ids, (size_t)(n * t->micro_ids) * sizeof(int32_t), err);
}

static fm_batch batch_of(const fmi_stepper *t, int i, int64_t rows)
{
    const fmi_feed_arrays *h = &t->micro[i];
    return (fm_batch){ .T = rows * t->o.T, .ids = on_dev(t, h->ids), .pos = on_dev(t, h->pos),
                       .k_begin = on_dev(t, h->k_begin), .k_end = on_dev(t, h->k_end),
                       .seg = on_dev(t, h->seg), .n_seg = h->n_seg, .row_length = t->o.T };
}

static void zero(fm_exec *x, void *p, size_t bytes)
{
    fm_op_zero(x, &(fm_zero_args){ .y = p, .bytes = (int64_t)bytes });
}

static void *loss_at(const fmi_stepper *t, int i)
{
    return t->dev_stats + t->at_loss + (size_t)i * fm_dtype_bytes(fmi_full_dtype(t->m->dt));
}

static void add_loss(fmi_stepper *t, int i, int64_t n, double scale)
{
    fm_op_sum(t->m->x, &(fm_sum_args){ .x = t->loss_rows, .out = loss_at(t, i), .n = n, .scale = scale,
                                       .dt = fmi_full_dtype(t->m->dt) });
}

/* What the gradients of one step are scaled by. */
typedef struct step_scale {
    double main, mtp, mtp_weight, balance;
} step_scale;

/* Forward and backward of micro-batch i. */
static void run_micro(fmi_stepper *t, int i, int64_t rows, const step_scale *k)
{
    fm_model *m = t->m;
    fm_batch b = batch_of(t, i, rows);
    const fmi_feed_arrays *h = &t->micro[i];
    fm_backward_opts bo = { .balance_scale = k->balance, .balance_loss = loss_at(t, 2) };
    fmi_forward(m, t->acts, &b, t->load);
    fmi_head_loss(m, t->acts, t->grads, t->acts->h, on_dev(t, h->target), b.T, k->main, t->loss_rows, t->dh);
    add_loss(t, 0, b.T, k->main);
    void *dhf = NULL;
    if (t->o.mtp && k->mtp_weight > 0) {
        fm_batch bm = b;
        bm.ids = on_dev(t, h->next);
        fmi_forward_mtp(m, t->acts, &bm, t->acts->hf, t->load);
        fmi_head_loss(m, t->acts, t->grads, t->acts->mtp_h, on_dev(t, h->mtp_target), b.T,
                      k->mtp * k->mtp_weight, t->loss_rows, t->dmtp);
        add_loss(t, 1, b.T, k->mtp);
        fmi_backward_mtp(m, t->acts, t->grads, &bm, t->acts->hf, t->dmtp, t->dhf, &bo);
        dhf = t->dhf;
    }
    fmi_backward(m, t->acts, t->grads, &b, t->dh, dhf, &bo);
}

/* Gradients of the next `rows` rows. */
static fm_status run_gradients(fmi_stepper *t, fmi_feed *feed, const fmi_settings *s, int64_t rows,
                               double mtp_weight, fmi_step_out *out, fm_err *err)
{
    int n;
    int64_t used;
    fm_status st = pack(t, feed, rows, &n, &used, err);
    if (st) return st;
    out->n_target = out->n_mtp_target = 0;
    for (int i = 0; i < n; i++) {
        out->n_target += t->micro[i].n_target;
        out->n_mtp_target += t->micro[i].n_mtp_target;
    }
    step_scale k = {.main = out->n_target ? 1.0 / (double)out->n_target : 0,
                    .mtp = out->n_mtp_target ? 1.0 / (double)out->n_mtp_target : 0,
                    .mtp_weight = mtp_weight,
                    .balance = s->balance_alpha > 0 ? s->balance_alpha / (double)rows : 0};
    fmi_grads_zero(t->grads);
    zero(t->m->x, t->dev_stats, t->stats_bytes);
    for (int i = 0; i < n; i++) {
        int64_t left = rows - i * t->o.micro_rows;
        run_micro(t, i, left < t->o.micro_rows ? left : t->o.micro_rows, &k);
    }
    return FM_OK;
}

/* Router biases of every routed layer; loads and biases into the block the host reads. */
static void update_balance(fmi_stepper *t, double gamma, bool center, const fm_step_state *state)
{
    fm_dtype F = fmi_full_dtype(t->m->dt);
    int E = t->n_experts;
    for (int i = 0; i < t->n_layers; i++) {
        const fm_layer *l = &t->m->lay.layers[i];
        if (!l->moe) continue;
        void *bias = l->bias >= 0 ? t->m->lay.params[l->bias].w : t->no_bias;
        int32_t *last = (int32_t *)(void *)(t->dev_stats + t->at_load) + (size_t)i * (size_t)E;
        fm_op_balance_update(t->m->x,
                             &(fm_balance_update_args){ .load = t->load + (size_t)i * (size_t)E,
                                                        .load_last = last, .bias = bias,
                                                        .state = state, .E = E,
                                                        .gamma = l->bias >= 0 ? gamma : 0,
                                                        .center = center, .dt = t->m->dt });
        char *to = t->dev_stats + t->at_bias + (size_t)i * (size_t)E * fm_dtype_bytes(F);
        fm_op_gather_rows(t->m->x, &(fm_gather_rows_args){ .x = bias, .y = to, .n = 1, .D = E, .ldx = E,
                                                           .ldy = E, .dt_x = F, .dt_y = F });
    }
}

fm_status fmi_step_run(fmi_stepper *t, fmi_feed *feed, const fmi_settings *s, const fmi_step_in *in,
                       fmi_step_out *out, fm_err *err)
{
    memset(out, 0, sizeof *out);
    fm_step_state *state = (fm_step_state *)(void *)t->dev_stats;
    fm_status st = run_gradients(t, feed, s, in->rows, in->mtp_weight, out, err);
    if (st) return st;
    fmi_optim_norm(t->optim, s, in->step, loss_at(t, 0), n_losses(t), state);
    fmi_optim_run(t->optim, s, in->step, in->progress, in->lr, state);
    update_balance(t, in->gamma, s->balance_center, state);
    st = fm_read(t->m->x, t->host_stats, t->dev_stats, t->stats_bytes, err);
    if (st) return st;
    const fm_step_state *h = (const fm_step_state *)(const void *)t->host_stats;
    const float *loss = (const float *)(const void *)(t->host_stats + t->at_loss);
    out->loss = loss[0];
    out->mtp_loss = loss[1];
    for (int i = 0; i < t->n_layers; i++) out->balance_loss += loss[2 + i];
    out->grad_norm = h->grad_norm;
    out->clip = h->clip;
    out->load = (const int32_t *)(const void *)(t->host_stats + t->at_load);
    out->bias = (const float *)(const void *)(t->host_stats + t->at_bias);
    if (h->bad) return fmi_diagnose(t, in->step, h->bad, err);
    return FM_OK;
}

fm_status fmi_step_probe(fmi_stepper *t, fmi_feed *feed, const fmi_settings *s, int64_t rows, fm_err *err)
{
    fmi_step_out out;
    fm_status st = run_gradients(t, feed, s, rows, fmi_schedule_mtp(s, 0), &out, err);
    zero(t->m->x, t->load, (size_t)t->n_layers * (size_t)t->n_experts * sizeof(int32_t));
    return st ? st : fm_sync(t->m->x, err);
}

static fm_status evaluate(fmi_stepper *t, fmi_feed *feed, fmi_eval_out *out, fm_err *err)
{
    fm_model *m = t->m;
    out->n_target = 0;
    out->nats = 0;
    zero(m->x, loss_at(t, 0), fm_dtype_bytes(fmi_full_dtype(m->dt)));
    for (bool more = true; more;) {
        int n;
        int64_t used;
        fm_status st = pack(t, feed, t->o.micro_rows, &n, &used, err);
        if (st) return st;
        fm_batch b = batch_of(t, 0, t->o.micro_rows);
        const fmi_feed_arrays *h = &t->micro[0];
        out->n_target += h->n_target;
        more = used == t->o.micro_rows;
        if (!h->n_target) continue;
        fmi_forward(m, t->acts, &b, NULL);
        fmi_head_loss(m, t->acts, NULL, t->acts->h, on_dev(t, h->target), b.T, 0, t->loss_rows, NULL);
        add_loss(t, 0, b.T, 1);
    }
    float sum;
    fm_status st = fm_read(m->x, &sum, loss_at(t, 0), sizeof sum, err);
    if (st) return st;
    out->nats = (double)sum;
    return FM_OK;
}

fm_status fmi_step_eval(fmi_stepper *t, fmi_feed *feed, fmi_eval_out *out, fm_err *err)
{
    fmi_optim_show(t->optim, true);
    fm_status st = evaluate(t, feed, out, err);
    fmi_optim_show(t->optim, false);
    return st;
}
