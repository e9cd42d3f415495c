/* Reference optimizer operators: gradient norm, AdamW, AdEMAMix, averages, Muon, SOAP. F64 stands for
 * double masters. */
#include "ops/ref/ref.h"

#define REF_REAL_ONLY
#define REF_BODY "ops/ref/optim.inc"
#include "ops/ref/instances.h"
#define REF_BODY "ops/ref/soap.inc"
#include "ops/ref/instances.h"

/* bf16 activations keep float masters; complex has no optimizer. */
#define REAL_VERSIONS(name) ((ref_versions){name##_f32, name##_f32, name##_f64, NULL})

REF_OP(grad_sumsq)
{
    return ref_run_dt(k, a->dt, REAL_VERSIONS(grad_sumsq), a, a->n_segs);
}

static bool loss_finite(const fm_grad_norm_args *a)
{
    for (int i = 0; i < a->n_loss; i++) {
        bool wide = a->dt == FM_DTYPE_F64;
        double v = wide ? ((const double *)a->loss)[i] : (double)((const float *)a->loss)[i];
        if (!isfinite(v)) return false;
    }
    return true;
}

REF_OP(grad_norm)
{
    double sum = 0;
    int32_t bad = loss_finite(a) ? 0 : -1;
    (void)k;
    for (int i = 0; i < a->n_segs; i++) {
        if (!bad && !isfinite(a->sumsq[i])) bad = 1 + i;
        sum += a->sumsq[i];
    }
    double norm = sqrt(sum);
    a->state->grad_norm = norm;
    a->state->clip = a->max_norm > 0 && norm > a->max_norm ? (float)(a->max_norm / norm) : 1.0f;
    a->state->bad = bad;
    return FM_OK;
}

REF_OP(ademamix)
{
    int64_t n = 0;
    if (a->state->bad) return FM_OK;
    for (int i = 0; i < a->n_segs; i++) n += a->segs[i].n;
    return ref_run_dt(k, a->dt, REAL_VERSIONS(ademamix), a, n);
}

REF_OP(adamw)
{
    const fm_ademamix_args b = {.master = a->master, .grad = a->grad, .m = a->m, .v = a->v,
                                .segs = a->segs, .state = a->state, .n_segs = a->n_segs,
                                .step = a->step, .lr = a->lr, .beta1 = a->beta1, .beta2 = a->beta2,
                                .eps = a->eps, .weight_decay = a->weight_decay, .dt = a->dt};
    return ref_ademamix(k, &b);
}

REF_OP(ema)
{
    return a->state->bad ? FM_OK : ref_run_dt(k, a->dt, REAL_VERSIONS(ema), a, a->n);
}

REF_OP(put_weights)
{
    return ref_run_dt(k, a->dt, REAL_VERSIONS(put_weights), a, a->n_segs);
}

REF_OP(muon_momentum)
{
    if (a->state->bad) return FM_OK;
    fm_status st = ref_run_dt(k, a->dt, REAL_VERSIONS(muon_momentum), a, a->n);
    if (st) return st;
    /* The norm in the order of grad_sumsq, rounded once. */
    if (a->dt == FM_DTYPE_F64) *(double *)a->norm2 = sumsq_f64(a->u, a->n);
    else *(float *)a->norm2 = (float)sumsq_f32(a->u, a->n);
    return FM_OK;
}

REF_OP(muon_scale)
{
    return ref_run_dt(k, a->dt_x, REAL_VERSIONS(muon_scale), a, a->transpose ? a->cols : a->rows);
}

REF_OP(newton_schulz_mix)
{
    int64_t rr = a->r * a->r;
    fm_dtype F = fmi_full_dtype(a->dt);
    const double *wide = a->g2;
    const float *g2 = a->g2;
    for (int64_t i = 0; a->sums && i < a->n; i++) {
        if (F == FM_DTYPE_F64) ((double *)a->sums)[i] = sumsq_f64(wide + i * rr, rr);
        else ((float *)a->sums)[i] = (float)sumsq_f32(g2 + i * rr, rr);
    }
    return ref_run_dt(k, F, REAL_VERSIONS(newton_schulz_mix), a, a->n * a->r);
}

REF_OP(muon_apply)
{
    if (a->state->bad) return FM_OK;
    return ref_run_dt(k, a->dt, REAL_VERSIONS(muon_apply), a, a->rows);
}

REF_OP(soap_moment)
{
    return a->state->bad ? FM_OK : ref_run_dt(k, a->dt, REAL_VERSIONS(soap_moment), a, a->n);
}

REF_OP(soap_adam)
{
    return a->state->bad ? FM_OK : ref_run_dt(k, a->dt, REAL_VERSIONS(soap_adam), a, a->n);
}

REF_OP(soap_basis)
{
    return a->state->bad ? FM_OK : ref_run_dt(k, a->dt, REAL_VERSIONS(soap_basis), a, a->batch);
}
