/* Reference router, its backward, the sequence balance loss and the router bias update. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/route.inc"
#include "ops/ref/instances.h"

#define EXPERTS_MAX 65536 /* what a thread's scratch holds in every version */

REF_OP(route)
{
    if (a->E < 1 || a->E > EXPERTS_MAX || a->K < 1 || a->K > a->E) return FM_E_RANGE;
    return ref_run_dt(k, a->dt, REF_VERSIONS(route), a, a->T);
}

REF_OP(route_bwd)
{
    if (a->E < 1 || a->E > EXPERTS_MAX || a->K < 1 || a->K > a->E) return FM_E_RANGE;
    return ref_run_dt(k, a->dt, REF_VERSIONS(route_bwd), a, a->T);
}

REF_OP(seq_balance)
{
    if (a->E < 1 || a->E > EXPERTS_MAX || a->K < 1 || a->K > a->E) return FM_E_RANGE;
    if (a->L < 1 || a->T % a->L) return FM_E_SHAPE;
    fm_status st = ref_run_dt(k, a->dt, REF_VERSIONS(seq_balance), a, a->T / a->L);
    if (!st) st = ref_run_dt(k, a->dt, REF_VERSIONS(seq_balance_loss), a, 1);
    return st;
}

REF_OP(moe_plan)
{
    int64_t slots = a->T * a->K;
    (void)k;
    for (int e = 0; e <= a->E; e++) a->offsets[e] = 0;
    for (int64_t s = 0; s < slots; s++) {
        if ((uint32_t)a->expert[s] >= (uint32_t)a->E) return FM_E_RANGE;
        a->offsets[a->expert[s] + 1]++;
    }
    for (int e = 0; e < a->E; e++) {
        if (a->load) a->load[e] += a->offsets[e + 1];
        a->offsets[e + 1] += a->offsets[e];
    }
    /* offsets[e] walks to the end of its group while slots are placed, then moves back. */
    for (int64_t s = 0; s < slots; s++) {
        int32_t row = a->offsets[a->expert[s]]++;
        a->row_slot[row] = (int32_t)s;
        a->row_token[row] = (int32_t)(s / a->K);
        a->slot_row[s] = row;
    }
    for (int e = a->E; e > 0; e--) a->offsets[e] = a->offsets[e - 1];
    a->offsets[0] = 0;
    return FM_OK;
}

REF_OP(balance_update)
{
    int64_t total = 0, signs = 0;
    (void)k;
    if (a->dt == FM_DTYPE_C128) return FM_E_UNSUPPORTED;
    if (a->state && a->state->bad) return FM_OK;
    for (int e = 0; e < a->E; e++) total += a->load[e];
    /* sign(mean - load) without a division: total against load * E. */
    for (int e = 0; e < a->E; e++) {
        int64_t d = total - (int64_t)a->load[e] * a->E;
        signs += (d > 0) - (d < 0);
    }
    double mean = a->center ? (double)signs / a->E : 0.0;
    for (int e = 0; e < a->E; e++) {
        int64_t d = total - (int64_t)a->load[e] * a->E;
        double step = a->gamma * ((double)((d > 0) - (d < 0)) - mean);
        if (a->dt == FM_DTYPE_F64) ((double *)a->bias)[e] += step;
        else ((float *)a->bias)[e] += (float)step;
        if (a->load_last) a->load_last[e] = a->load[e];
        a->load[e] = 0;
    }
    return FM_OK;
}
