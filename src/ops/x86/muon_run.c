/* Muon with a thread to a matrix: what its update touches stays in the core's L2, and no thread waits for
 * another before the end. With fewer matrices than threads, the threads share each operation. */
#include "ops/x86/x86.h"

typedef struct job {
    const fm_kernel_ctx *k;
    const fm_muon_args *a;
    int failed;            /* fm_status, of any thread */
    fmi_pool_pieces taken;
} job;

static void run_share(void *arg, int tid, int n_threads)
{
    job *j = arg;
    const fm_muon_args *a = j->a;
    int64_t rc = a->rows * a->cols, r = a->rows < a->cols ? a->rows : a->cols, rr = r * r;
    size_t A = fm_dtype_bytes(a->dt), F = fm_dtype_bytes(FM_DTYPE_F32);
    fm_kernel_ctx alone = *j->k;
    alone.n_threads = 1;
    alone.scratch = j->k->scratch + tid;
    fm_muon_args one = *a;
    one.n = 1;
    one.y = (char *)a->y + (size_t)(tid * rc) * F;
    one.x = (char *)a->x + (size_t)(tid * rc) * A;
    one.p = (char *)a->p + (size_t)(tid * rc) * A;
    one.g = (char *)a->g + (size_t)(tid * rr) * F;
    one.g2 = (char *)a->g2 + (size_t)(tid * rr) * F;
    one.ga = (char *)a->ga + (size_t)(tid * rr) * A;
    one.norm2 = (char *)a->norm2 + (size_t)tid * F;
    (void)n_threads;
    for (int64_t i; (i = fmi_pool_take(&j->taken)) < a->n;) {
        one.segs = a->segs + i;
        fm_status st = ref_muon(&alone, &one);
        if (st) __atomic_store_n(&j->failed, (int)st, __ATOMIC_RELAXED);
    }
}

fm_status fmi_muon_x86(const fm_kernel_ctx *k, const fm_muon_args *a)
{
    bool known = a->dt == FM_DTYPE_BF16 || a->dt == FM_DTYPE_F32;
    if (!known || k->n_threads == 1 || a->n < k->n_threads) return ref_muon(k, a);
    job j = {k, a, FM_OK, {0}};
    fmi_pool_run(k->pool, run_share, &j);
    return (fm_status)j.failed;
}
