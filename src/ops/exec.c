/* The execution context: opening, issuing operators, copies, errors, profile.
 *
 * FTZ and DAZ: the pool's workers belong to the context alone and get them once, when it opens; the
 * caller's thread gets them around each operator and its own mode back afterwards. */
#include "ops/exec_internal.h"

#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define MXCSR_FTZ_DAZ 0x8040u

const fmi_op_desc fmi_op_descs[FM_OP_COUNT] = {
#define OP_DESC(name, first)                                              \
    {#name, sizeof(fm_##name##_args), (int)(offsetof(fm_##name##_args, first) / sizeof(void *))},
    FM_OP_LIST(OP_DESC)
#undef OP_DESC
};

static unsigned fp_mode_set(void)
{
#if defined(__x86_64__)
    unsigned old = _mm_getcsr();
    _mm_setcsr(old | MXCSR_FTZ_DAZ);
    return old;
#else
    return 0;
#endif
}

static void fp_mode_restore(unsigned old)
{
#if defined(__x86_64__)
    _mm_setcsr(old);
#else
    (void)old;
#endif
}

static void worker_fp_mode(void *arg, int tid, int n_threads)
{
    (void)arg;
    (void)n_threads;
    if (tid > 0) fp_mode_set();
}

static fm_status call_op(fm_exec *x, fm_op_id id, const void *args)
{
    switch (id) {
#define OP_CASE(name, first)                                              \
    case FM_OP_##name:                                                    \
        return x->ops.name ? x->ops.name(&x->kernel, args) : FM_E_UNSUPPORTED;
        FM_OP_LIST(OP_CASE)
#undef OP_CASE
    case FM_OP_COUNT: break;
    }
    return FM_E_UNSUPPORTED;
}

void fmi_exec_run(fm_exec *x, fm_op_id id, const void *args)
{
    if (x->first.code) return;
    double t0 = x->profile ? fmi_clock_s() : 0.0;
    unsigned mode = fp_mode_set();
    fm_status st = call_op(x, id, args);
    fp_mode_restore(mode);
    if (st) FM_FAIL(&x->first, st, "operator %s: %s", fmi_op_descs[id].name, fm_status_text(st));
    if (x->profile) {
        x->seconds[id] += fmi_clock_s() - t0;
        x->calls[id]++;
    }
}

void fmi_op_issue(fm_exec *x, fm_op_id id, const void *args)
{
    FM_ASSERT((unsigned)id < FM_OP_COUNT);
    if (x->first.code) return;
    x->dev->issue(x, id, args);
}

static fm_status scratch_open(fm_exec *x, int threads, fm_err *err)
{
    x->scratch = fmi_zalloc((size_t)threads * sizeof *x->scratch);
    if (!x->scratch) return FM_FAIL(err, FM_E_NOMEM, "execution context");
    x->kernel = (fm_kernel_ctx){x->pool, threads, x->scratch, FM_SCRATCH_BYTES, &x->ops};
    for (int i = 0; i < threads; i++) {
        x->scratch[i] = fmi_alloc_aligned(FM_SCRATCH_BYTES, 64);
        if (!x->scratch[i])
            return FM_FAIL(err, FM_E_NOMEM, "scratch of %zu bytes for thread %d",
                           FM_SCRATCH_BYTES, i);
    }
    return FM_OK;
}

static fm_status exec_init(fm_exec *x, const fm_exec_opts *opts, fm_err *err)
{
    const char *device = opts->device ? opts->device : "cpu";
    const fmi_device *dev = NULL;
    if (!strcmp(device, "cpu")) dev = &fmi_device_cpu;
    if (!strcmp(device, "fence")) dev = &fmi_device_fence;
    if (!dev) return FM_FAIL(err, FM_E_UNSUPPORTED, "device '%s' is neither cpu nor fence", device);
    long threads = opts->threads;
    if (!threads) threads = fmi_processors();
    if (threads < 1 || threads > 4096)
        return FM_FAIL(err, FM_E_RANGE, "%ld threads, expected 1 to 4096", threads);
    if (opts->isa_max < -1 || opts->isa_max > FM_ISA_AMX)
        return FM_FAIL(err, FM_E_RANGE, "isa level %d is not known", opts->isa_max);

    x->isa = fm_isa_detect();
    if (opts->isa_max >= 0 && (int)x->isa > opts->isa_max) x->isa = (fm_isa)opts->isa_max;
    x->profile = opts->profile;
    fm_status st = fmi_pool_new((int)threads, &x->pool, err);
    if (!st) st = scratch_open(x, (int)threads, err);
    if (!st) st = dev->open(x, err);
    if (st) return st;
    x->dev = dev;
    fmi_pool_run(x->pool, worker_fp_mode, NULL);
    fm_ops_init_ref(&x->ops);
    if (x->isa > FM_ISA_SCALAR) fm_ops_init_x86(&x->ops, x->isa);
    return FM_OK;
}

fm_status fm_exec_open(const fm_exec_opts *opts, fm_exec **out, fm_err *err)
{
    fm_exec *x = fmi_zalloc(sizeof *x);
    if (!x) return FM_FAIL(err, FM_E_NOMEM, "execution context");
    fm_status st = exec_init(x, opts, err);
    if (st) {
        fm_exec_close(x);
        return st;
    }
    *out = x;
    return FM_OK;
}

void fm_exec_close(fm_exec *x)
{
    if (!x) return;
    FM_ASSERT(x->bytes == 0);
    if (x->dev) x->dev->close(x);
    if (x->scratch)
        for (int i = 0; i < x->kernel.n_threads; i++) fmi_free_aligned(x->scratch[i]);
    fmi_free(x->scratch);
    if (x->pool) fmi_pool_free(x->pool);
    fmi_free(x);
}

fm_isa fm_exec_isa(const fm_exec *x) { return x->isa; }
int fm_exec_threads(const fm_exec *x) { return x->kernel.n_threads; }
bool fm_exec_is_fence(const fm_exec *x) { return x->dev->fence; }
int64_t fm_read_count(const fm_exec *x) { return x->reads; }
size_t fm_dev_bytes(const fm_exec *x) { return x->bytes; }
size_t fm_dev_bytes_peak(const fm_exec *x) { return x->bytes_peak; }

fm_status fm_dev_alloc(fm_exec *x, size_t bytes, void **out, fm_err *err)
{
    size_t granted = 0;
    fm_status st = x->dev->alloc(x, bytes, out, &granted, err);
    if (st) return st;
    x->bytes += granted;
    if (x->bytes > x->bytes_peak) x->bytes_peak = x->bytes;
    return FM_OK;
}

void fm_dev_free(fm_exec *x, void *dev)
{
    if (!dev) return;
    x->dev->drain(x);
    x->bytes -= x->dev->dev_free(x, dev);
}

void *fm_dev_borrow(fm_exec *x, const void *p)
{
    return x->dev->borrow(x, p);
}

/* Waits for what was issued, then hands out and clears the first failure. */
static fm_status settle(fm_exec *x, fm_err *err)
{
    x->dev->drain(x);
    fm_status st = x->first.code;
    if (!st) return FM_OK;
    if (err) *err = x->first;
    x->first.code = FM_OK;
    return st;
}

fm_status fm_sync(fm_exec *x, fm_err *err)
{
    return settle(x, err);
}

fm_status fm_write(fm_exec *x, void *dst_dev, const void *src_host, size_t bytes, fm_err *err)
{
    fm_status st = settle(x, err);
    if (st || !bytes) return st;
    void *dst = x->dev->resolve(x, dst_dev, bytes);
    if (!dst) return FM_FAIL(err, FM_E_DEVICE, "write of %zu bytes outside device memory", bytes);
    memcpy(dst, src_host, bytes);
    return FM_OK;
}

fm_status fm_read(fm_exec *x, void *dst_host, const void *src_dev, size_t bytes, fm_err *err)
{
    x->reads++;
    fm_status st = settle(x, err);
    if (st || !bytes) return st;
    const void *src = x->dev->resolve(x, src_dev, bytes);
    if (!src) return FM_FAIL(err, FM_E_DEVICE, "read of %zu bytes outside device memory", bytes);
    memcpy(dst_host, src, bytes);
    return FM_OK;
}

fm_status fm_dev_table(fm_exec *x, const void *const *dev_ptrs, int n, void **out, fm_err *err)
{
    void *table = NULL;
    size_t bytes = (size_t)n * sizeof(void *);
    fm_status st = fm_dev_alloc(x, bytes, &table, err);
    if (st) return st;
    void **host = x->dev->resolve(x, table, bytes);
    for (int i = 0; i < n && !st; i++) {
        host[i] = dev_ptrs[i] ? x->dev->resolve(x, dev_ptrs[i], 1) : NULL;
        if (dev_ptrs[i] && !host[i])
            st = FM_FAIL(err, FM_E_DEVICE, "table entry %d of %d is not device memory", i, n);
    }
    if (st) {
        fm_dev_free(x, table);
        return st;
    }
    *out = table;
    return FM_OK;
}

fm_status fm_segments_write(fm_exec *x, fm_segment *dst_dev, const fm_segment *segs, int n,
                            fm_err *err)
{
    fm_status st = settle(x, err);
    if (st || n == 0) return st;
    fm_segment *dst = x->dev->resolve(x, dst_dev, (size_t)n * sizeof *dst);
    if (!dst) return FM_FAIL(err, FM_E_DEVICE, "%d segments outside device memory", n);
    for (int i = 0; i < n; i++) {
        fm_segment s = segs[i];
        if (s.weight) {
            s.weight = x->dev->resolve(x, s.weight, 1);
            if (!s.weight)
                return FM_FAIL(err, FM_E_DEVICE, "weight of segment %d is not device memory", i);
        }
        dst[i] = s;
    }
    return FM_OK;
}

const char *fm_exec_profile(const fm_exec *x, int i, double *seconds, int64_t *calls)
{
    if (i < 0 || i >= FM_OP_COUNT) return NULL;
    if (seconds) *seconds = x->seconds[i];
    if (calls) *calls = x->calls[i];
    return fmi_op_descs[i].name;
}

void fm_exec_profile_reset(fm_exec *x)
{
    memset(x->seconds, 0, sizeof x->seconds);
    memset(x->calls, 0, sizeof x->calls);
}
