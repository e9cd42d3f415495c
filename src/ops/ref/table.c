/* The reference's table of operators, and the two helpers that run a version over threads. */
#include "ops/ref/ref.h"

typedef struct ref_job {
    const fm_kernel_ctx *k;
    ref_range_fn fn;
    const void *args;
    int64_t n;
} ref_job;

static void job_run(void *arg, int tid, int n_threads)
{
    const ref_job *j = arg;
    int64_t begin, end;
    fmi_pool_share(j->n, 1, tid, n_threads, &begin, &end);
    if (begin < end) j->fn(j->args, begin, end, j->k->scratch[tid]);
}

void ref_run(const fm_kernel_ctx *k, ref_range_fn fn, const void *args, int64_t n)
{
    if (n <= 0) return;
    ref_job j = {k, fn, args, n};
    if (k->n_threads == 1) job_run(&j, 0, 1); /* perhaps inside a thread of the pool */
    else fmi_pool_run(k->pool, job_run, &j);
}

fm_status ref_run_dt(const fm_kernel_ctx *k, fm_dtype dt, ref_versions v, const void *args,
                     int64_t n)
{
    ref_range_fn fn = NULL;
    if (dt == FM_DTYPE_F32) fn = v.f32;
    if (dt == FM_DTYPE_BF16) fn = v.bf16;
    if (dt == FM_DTYPE_F64) fn = v.f64;
    if (dt == FM_DTYPE_C128) fn = v.c128;
    if (!fn) return FM_E_UNSUPPORTED;
    ref_run(k, fn, args, n);
    return FM_OK;
}

void fm_ops_init_ref(fm_ops *ops)
{
#define REF_SET(name, first) ops->name = ref_##name;
    FM_OP_LIST(REF_SET)
#undef REF_SET
}
