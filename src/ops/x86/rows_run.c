/* Running rows on the pool with FTZ and DAZ set on every thread. */
#include <immintrin.h>

#include "ops/x86/x86.h"

/* Below this many elements waking threads costs more than it saves; a share has no fewer than these. */
#define WORK_MIN 16384
#define SHARE_MIN 8192

typedef struct rows_job {
    fmi_rows_fn fn;
    const void *arg;
    int64_t n, least;
    fmi_pool_pieces taken;
} rows_job;

static void rows_share(void *arg, int tid, int n_threads)
{
    rows_job *j = arg;
    int64_t begin, end;
    (void)tid;
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    while (fmi_pool_next(&j->taken, j->n, j->least, n_threads, &begin, &end)) j->fn(j->arg, begin, end);
    _mm_setcsr(csr);
}

void fmi_rows_run(const fm_kernel_ctx *k, fmi_rows_fn fn, const void *arg, int64_t n, int64_t grain,
                  int64_t work)
{
    if (n <= 0) return;
    bool alone = work < WORK_MIN || n <= grain || k->n_threads == 1;
    int64_t least = n * SHARE_MIN / (work > 0 ? work : 1);
    rows_job j = {fn, arg, n, alone ? n : (least / grain + 1) * grain, {0}};
    if (alone) rows_share(&j, 0, 1);
    else fmi_pool_run(k->pool, rows_share, &j);
}
