/* Speed of single matrix products. */
#include "fathom/bench.h"

#include "base/base.h"

fm_status fm_bench_gemm(const fm_gemm_bench_opts *o, void (*fn)(void *arg, const fm_gemm_speed *g),
                        void *arg, fm_err *err)
{
    (void)o;
    (void)fn;
    (void)arg;
    return FM_FAIL(err, FM_E_UNSUPPORTED, "gemm");
}
