/* Segments, master weights, averages, AdamW, AdEMAMix; matrices in muon.c and soap.c. See optim.h. */
#include "train/optim.h"

#include "model/count.h"
#include "train/muon.h"
#include "train/schedule.h"

static bool decays(fm_param_kind k)
{
    return k == FM_PARAM_MATRIX || k == FM_PARAM_EMBED || k == FM_PARAM_HEAD || k == FM_PARAM_ROUTER;
}

static void fill_segment(const fm_model *m, int i, int64_t offset, bool apart, fm_segment *s)
{
    const fm_param *p = &m->lay.params[i];
    *s = (fm_segment){ .offset = offset,
                       .n = fmi_param_count(p),
                       .weight = p->w,
                       .weight_dtype = (int32_t)p->dtype,
                       .round_bf16 = m->dt == FM_DTYPE_BF16 && p->dtype != FM_DTYPE_BF16,
                       .decay = decays(p->kind),
                       .skip = apart && p->kind == FM_PARAM_MATRIX };
}

/* Host arrays of segments. */
static fm_status list_segments(fmi_optim *o, fm_err *err)
{
    int n = 0;
    for (int i = 0; i < o->m->lay.n_params; i++) n += o->g->offset[i] >= 0;
    o->n_segs = n;
    o->host_segs = fmi_zalloc((size_t)n * sizeof *o->host_segs);
    o->param_of = fmi_zalloc((size_t)n * sizeof *o->param_of);
    if (!o->host_segs || !o->param_of) return FM_FAIL(err, FM_E_NOMEM, "optimizer: %d segments", n);
    n = 0;
    for (int i = 0; i < o->m->lay.n_params; i++) {
        if (o->g->offset[i] < 0) continue;
        fill_segment(o->m, i, o->g->offset[i], o->parts.muon || o->parts.soap, &o->host_segs[n]);
        o->param_of[n++] = i;
    }
    FM_ASSERT(o->m->lay.params[o->param_of[0]].kind == FM_PARAM_EMBED);
    return FM_OK;
}

static fm_status alloc_flat(fmi_optim *o, fm_err *err)
{
    fm_exec *x = o->m->x;
    size_t bytes = (size_t)o->g->n * fm_dtype_bytes(fmi_full_dtype(o->m->dt));
    const bool used[FMI_FLATS] = { true, true, true, o->parts.ademamix, o->parts.grokfast, o->parts.ema };
    fm_status st = FM_OK;
    for (int i = 0; i < FMI_FLATS && !st; i++)
        if (used[i]) st = fm_dev_alloc(x, bytes, &o->flat[i], err);
    if (!st) st = fm_dev_alloc(x, (size_t)o->n_segs * sizeof *o->segs, (void **)&o->segs, err);
    if (!st) st = fm_dev_alloc(x, (size_t)o->n_segs * sizeof *o->sumsq, (void **)&o->sumsq, err);
    if (!st) st = fm_segments_write(x, o->segs, o->host_segs, o->n_segs, err);
    return st;
}

/* Masters and average = weights, on the device. */
static fm_status copy_masters(fmi_optim *o, fm_err *err)
{
    fm_dtype F = fmi_full_dtype(o->m->dt);
    for (int s = 0; s < o->n_segs; s++) {
        const fm_param *p = &o->m->lay.params[o->param_of[s]];
        int64_t rows = p->rows, cols = p->cols;
        char *dst = (char *)o->flat[FMI_MASTER] + (size_t)o->host_segs[s].offset * fm_dtype_bytes(F);
        fm_op_gather_rows(o->m->x, &(fm_gather_rows_args){ .x = p->w, .y = dst, .n = rows, .D = cols,
                                                           .ldx = cols, .ldy = cols,
                                                           .dt_x = p->dtype, .dt_y = F });
    }
    if (o->flat[FMI_EMA])
        fm_op_axpby(o->m->x, &(fm_axpby_args){ .x = o->flat[FMI_MASTER], .y = o->flat[FMI_EMA],
                                               .n = o->g->n, .alpha = 1, .dt = F });
    return fm_sync(o->m->x, err);
}

fm_status fmi_optim_new(fm_model *m, const fm_grads *g, fmi_optim_parts parts, fmi_optim **out,
                        fm_err *err)
{
    fmi_optim *o = fmi_zalloc(sizeof *o);
    if (!o) return FM_FAIL(err, FM_E_NOMEM, "optimizer");
    o->m = m;
    o->g = g;
    o->parts = parts;
    fm_status st = list_segments(o, err);
    if (!st) st = alloc_flat(o, err);
    if (!st) st = copy_masters(o, err);
    if (!st && parts.muon) st = fmi_muon_plan(o, err);
    if (!st && parts.soap) st = fmi_soap_plan(o, err);
    if (st) {
        fmi_optim_free(o);
        return st;
    }
    *out = o;
    return FM_OK;
}

void fmi_optim_free(fmi_optim *o)
{
    if (!o) return;
    void *dev[] = { o->segs, o->sumsq, o->x, o->y, o->p, o->a, o->a2, o->ab, o->norm2, o->t, o->order,
                    o->soap, o->matrix_segs };
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i]) fm_dev_free(o->m->x, dev[i]);
    for (int i = 0; i < FMI_FLATS; i++)
        if (o->flat[i]) fm_dev_free(o->m->x, o->flat[i]);
    fmi_free(o->host_segs);
    fmi_free(o->param_of);
    fmi_free(o->groups);
    fmi_free(o->matrices);
    fmi_free(o->soap_at);
    fmi_free(o);
}

size_t fmi_optim_bytes(const fm_layout *lay, int64_t n_grad, fm_dtype dt, fmi_optim_parts parts)
{
    size_t F = fm_dtype_bytes(fmi_full_dtype(dt));
    size_t bytes = (size_t)(3 + parts.ademamix + parts.grokfast + parts.ema) * (size_t)n_grad * F;
    bytes += (size_t)lay->n_params * (sizeof(fm_segment) + sizeof(double));
    if (parts.muon) bytes += (size_t)fmi_count_muon_bytes(lay, dt);
    if (parts.soap) bytes += (size_t)fmi_count_soap_bytes(lay, parts.soap, dt);
    return bytes;
}

static void norm(fmi_optim *o, const void *loss, int n_loss, double clip, fm_step_state *state)
{
    fm_dtype dt = o->m->dt;
    fm_op_grad_sumsq(o->m->x, &(fm_grad_sumsq_args){ .grad = o->g->flat, .segs = o->segs,
                                                     .sumsq = o->sumsq, .n_segs = o->n_segs,
                                                     .dt = dt });
    fm_op_grad_norm(o->m->x, &(fm_grad_norm_args){ .sumsq = o->sumsq, .loss = loss, .state = state,
                                                   .n_segs = o->n_segs, .n_loss = n_loss,
                                                   .max_norm = clip, .dt = dt });
}

void fmi_optim_norm(fmi_optim *o, const fmi_settings *s, int64_t step, const void *loss, int n_loss,
                    fm_step_state *state)
{
    if (o->flat[FMI_FILTER]) { /* the first gradient starts its average */
        norm(o, loss, n_loss, 0, state);
        fm_op_ema(o->m->x, &(fm_ema_args){ .x = o->g->flat, .y = o->flat[FMI_FILTER], .state = state,
                                           .n = o->g->n, .beta = step > 1 ? s->train_grokfast_alpha : 0,
                                           .lamb = s->train_grokfast_lamb, .dt = o->m->dt });
    }
    norm(o, loss, n_loss, s->train_clip, state);
}

/* AdamW or AdEMAMix on segments first .. first+n-1 that are no other optimizer's. */
static void elementwise(const fmi_optim *o, const fmi_settings *s, int64_t step, double progress, double lr,
                        const fm_step_state *state, int first, int n)
{
    void *const *f = o->flat;
    const fm_segment *segs = o->segs + first;
    if (o->parts.ademamix)
        fm_op_ademamix(o->m->x,
                       &(fm_ademamix_args){ .master = f[FMI_MASTER], .grad = o->g->flat, .m = f[FMI_M],
                                            .slow = f[FMI_SLOW], .v = f[FMI_V], .segs = segs,
                                            .state = state, .n_segs = n, .step = step, .lr = lr,
                                            .beta1 = s->train_beta1, .beta2 = s->train_beta2,
                                            .beta3 = fmi_schedule_beta3(s, progress),
                                            .alpha = fmi_schedule_alpha(s, progress),
                                            .eps = s->train_eps,
                                            .weight_decay = s->train_weight_decay,
                                            .dt = o->m->dt });
    else
        fm_op_adamw(o->m->x, &(fm_adamw_args){ .master = f[FMI_MASTER], .grad = o->g->flat,
                                               .m = f[FMI_M], .v = f[FMI_V], .segs = segs,
                                               .state = state, .n_segs = n, .step = step, .lr = lr,
                                               .beta1 = s->train_beta1, .beta2 = s->train_beta2,
                                               .eps = s->train_eps,
                                               .weight_decay = s->train_weight_decay,
                                               .dt = o->m->dt });
}

void fmi_optim_run(fmi_optim *o, const fmi_settings *s, int64_t step, double progress, double lr,
                   const fm_step_state *state)
{
    fm_exec *x = o->m->x;
    void **f = o->flat;
    elementwise(o, s, step, progress, lr * s->train_lr_embed, state, 0, 1); /* the embedding is first */
    elementwise(o, s, step, progress, lr, state, 1, o->n_segs - 1);
    if (o->parts.muon) fmi_muon_run(o, s, lr, state);
    if (o->parts.soap) fmi_soap_run(o, s, step, lr, state);
    double young = (1 + (double)step) / (10 + (double)step);
    if (o->parts.ema)
        fm_op_ema(x, &(fm_ema_args){ .x = f[FMI_MASTER], .y = f[FMI_EMA], .state = state, .n = o->g->n,
                                     .beta = s->train_ema < young ? s->train_ema : young,
                                     .dt = o->m->dt });
}

void fmi_optim_show(fmi_optim *o, bool average)
{
    if (!o->parts.ema) return;
    fm_op_put_weights(o->m->x, &(fm_put_weights_args){ .x = o->flat[average ? FMI_EMA : FMI_MASTER],
                                                       .segs = o->segs, .n_segs = o->n_segs,
                                                       .dt = o->m->dt });
}
