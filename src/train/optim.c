/* Segments, master weights and AdamW; Muon's part is in muon.c. See optim.h. */
#include "train/optim.h"

#include "model/count.h"
#include "train/muon.h"

static bool decays(fm_param_kind k)
{
    return k == FM_PARAM_MATRIX || k == FM_PARAM_EMBED || k == FM_PARAM_HEAD || k == FM_PARAM_ROUTER;
}

static void fill_segment(const fm_model *m, int i, int64_t offset, bool muon, fm_segment *s)
{
    const fm_param *p = &m->lay.params[i];
    *s = (fm_segment){ .offset = offset,
                       .n = fmi_param_count(p),
                       .weight = p->w,
                       .weight_dtype = (int32_t)p->dtype,
                       .round_bf16 = m->dt == FM_DTYPE_BF16 && p->dtype != FM_DTYPE_BF16,
                       .decay = decays(p->kind),
                       .skip = muon && p->kind == FM_PARAM_MATRIX };
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
        fill_segment(o->m, i, o->g->offset[i], o->muon, &o->host_segs[n]);
        o->param_of[n++] = i;
    }
    return FM_OK;
}

static fm_status alloc_flat(fmi_optim *o, fm_err *err)
{
    fm_exec *x = o->m->x;
    size_t bytes = (size_t)o->g->n * fm_dtype_bytes(fmi_full_dtype(o->m->dt));
    fm_status st = fm_dev_alloc(x, bytes, &o->master, err);
    if (!st) st = fm_dev_alloc(x, bytes, &o->mom, err);
    if (!st) st = fm_dev_alloc(x, bytes, &o->var, err);
    if (!st) st = fm_dev_alloc(x, (size_t)o->n_segs * sizeof *o->segs, (void **)&o->segs, err);
    if (!st) st = fm_dev_alloc(x, (size_t)o->n_segs * sizeof *o->sumsq, (void **)&o->sumsq, err);
    if (!st) st = fm_segments_write(x, o->segs, o->host_segs, o->n_segs, err);
    return st;
}

/* Masters = weights, on the device. */
static fm_status copy_masters(fmi_optim *o, fm_err *err)
{
    fm_dtype F = fmi_full_dtype(o->m->dt);
    for (int s = 0; s < o->n_segs; s++) {
        const fm_param *p = &o->m->lay.params[o->param_of[s]];
        int64_t rows = p->rows, cols = p->cols;
        char *dst = (char *)o->master + (size_t)o->host_segs[s].offset * fm_dtype_bytes(F);
        fm_op_gather_rows(o->m->x, &(fm_gather_rows_args){ .x = p->w, .y = dst, .n = rows, .D = cols,
                                                           .ldx = cols, .ldy = cols,
                                                           .dt_x = p->dtype, .dt_y = F });
    }
    return fm_sync(o->m->x, err);
}

fm_status fmi_optim_new(fm_model *m, const fm_grads *g, bool muon, fmi_optim **out, fm_err *err)
{
    fmi_optim *o = fmi_zalloc(sizeof *o);
    if (!o) return FM_FAIL(err, FM_E_NOMEM, "optimizer");
    o->m = m;
    o->g = g;
    o->muon = muon;
    fm_status st = list_segments(o, err);
    if (!st) st = alloc_flat(o, err);
    if (!st) st = copy_masters(o, err);
    if (!st && muon) st = fmi_muon_plan(o, err);
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
    void *dev[] = { o->master, o->mom, o->var, o->segs, o->sumsq, o->x, o->y, o->p,
                    o->a, o->a2, o->ab, o->norm2 };
    for (size_t i = 0; i < sizeof dev / sizeof *dev; i++)
        if (dev[i]) fm_dev_free(o->m->x, dev[i]);
    fmi_free(o->host_segs);
    fmi_free(o->param_of);
    fmi_free(o->groups);
    fmi_free(o);
}

size_t fmi_optim_bytes(const fm_layout *lay, int64_t n_grad, fm_dtype dt, bool muon)
{
    size_t F = fm_dtype_bytes(fmi_full_dtype(dt));
    size_t bytes = 3 * (size_t)n_grad * F;
    bytes += (size_t)lay->n_params * (sizeof(fm_segment) + sizeof(double));
    if (muon) bytes += (size_t)fmi_count_muon_bytes(lay, dt);
    return bytes;
}

void fmi_optim_norm(fmi_optim *o, const void *loss, int n_loss, double clip, fm_step_state *state)
{
    fm_dtype dt = o->m->dt;
    fm_op_grad_sumsq(o->m->x, &(fm_grad_sumsq_args){ .grad = o->g->flat, .segs = o->segs,
                                                     .sumsq = o->sumsq, .n_segs = o->n_segs,
                                                     .dt = dt });
    fm_op_grad_norm(o->m->x, &(fm_grad_norm_args){ .sumsq = o->sumsq, .loss = loss, .state = state,
                                                   .n_segs = o->n_segs, .n_loss = n_loss,
                                                   .max_norm = clip, .dt = dt });
}

void fmi_optim_run(fmi_optim *o, const fmi_settings *s, int64_t step, double lr,
                   const fm_step_state *state)
{
    fm_op_adamw(o->m->x, &(fm_adamw_args){ .master = o->master, .grad = o->g->flat, .m = o->mom,
                                           .v = o->var, .segs = o->segs, .state = state,
                                           .n_segs = o->n_segs, .step = step, .lr = lr,
                                           .beta1 = s->train_beta1, .beta2 = s->train_beta2,
                                           .eps = s->train_eps,
                                           .weight_decay = s->train_weight_decay, .dt = o->m->dt });
    if (o->muon) fmi_muon_run(o, s, lr, state);
}
