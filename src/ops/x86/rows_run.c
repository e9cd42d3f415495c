/* Running rows on the pool with FTZ and DAZ set on every thread. */
#include <immintrin.h>

#include "ops/x86/x86.h"

/* Below this many elements waking threads costs more than it saves. */
#define WORK_MIN 16384

typedef struct rows_job {
    fmi_rows_fn fn;
    const void *arg;
    int64_t n, grain;
} rows_job;

static void rows_share(void *arg, int tid, int n_threads)
{
    const rows_job *j = arg;
    int64_t begin, end;
    fmi_pool_share(j->n, j->grain, tid, n_threads, &begin, &end);
    if (begin == end) return;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    j->fn(j->arg, begin, end);
    _mm_setcsr(csr);
}

void fmi_rows_run(const fm_kernel_ctx *k, fmi_rows_fn fn, const void *arg, int64_t n, int64_t grain,
                  int64_t work)
{
    rows_job j = {fn, arg, n, grain};
    if (n <= 0) return;
    if (work < WORK_MIN || n <= grain || k->n_threads == 1) rows_share(&j, 0, 1);
    else fmi_pool_run(k->pool, rows_share, &j);
}
