/* The "fence" device: finds on a CPU what would break on a GPU.
 *
 * One reservation of addresses nobody may touch (PROT_NONE) and a second, usable mapping of a
 * memory file of the same size; the two lie a constant distance apart. Addresses handed out are in
 * the first, so that host code which follows one dies of SIGSEGV. Operators are queued with their
 * arguments copied and run at the next read, write, sync or free; pointer arguments are moved to
 * the second mapping. A pointer argument that is not device memory is an error, as a GPU could not
 * follow it. The queue's storage grows and stays, so the steady state makes no heap call. */
#include "ops/exec_internal.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#define RESERVE_BYTES ((size_t)64 << 30)
#define PAGE ((size_t)4096)
#define QUEUE_FIRST 1024
#define BLOCKS_FIRST 256

typedef struct queued_op {
    fm_op_id id;
    fmi_op_args args;
} queued_op;

typedef struct span {
    size_t offset, pages_bytes; /* within the reservation, whole pages */
    size_t bytes;               /* asked for                           */
} span;

typedef struct fence {
    int fd;
    char *closed;       /* PROT_NONE reservation */
    char *open;         /* the same memory, usable */
    span *spans;        /* live blocks, ascending offset */
    size_t n_spans, spans_cap;
    queued_op *queue;
    size_t n_queue, queue_cap;
} fence;

static void fence_close(fm_exec *x)
{
    fence *f = x->dev_state;
    if (!f) return;
    if (f->closed) munmap(f->closed, RESERVE_BYTES);
    if (f->open) munmap(f->open, RESERVE_BYTES);
    if (f->fd >= 0) close(f->fd);
    fmi_free(f->spans);
    fmi_free(f->queue);
    fmi_free(f);
    x->dev_state = NULL;
}

static fm_status fence_map(fence *f, fm_err *err)
{
    f->fd = memfd_create("fathom-fence", MFD_CLOEXEC);
    if (f->fd < 0 || ftruncate(f->fd, (off_t)RESERVE_BYTES))
        return FM_FAIL(err, FM_E_DEVICE, "fence memory file: %s", strerror(errno));
    void *p = mmap(NULL, RESERVE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
                   0);
    if (p == MAP_FAILED) return FM_FAIL(err, FM_E_DEVICE, "fence reservation: %s", strerror(errno));
    f->closed = p;
    p = mmap(NULL, RESERVE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, f->fd, 0);
    if (p == MAP_FAILED) return FM_FAIL(err, FM_E_DEVICE, "fence mapping: %s", strerror(errno));
    f->open = p;
    return FM_OK;
}

static fm_status fence_open(fm_exec *x, fm_err *err)
{
    fence *f = fmi_zalloc(sizeof *f);
    if (!f) return FM_FAIL(err, FM_E_NOMEM, "fence device");
    f->fd = -1;
    x->dev_state = f;
    f->spans_cap = BLOCKS_FIRST;
    f->queue_cap = QUEUE_FIRST;
    f->spans = fmi_alloc(f->spans_cap * sizeof *f->spans);
    f->queue = fmi_alloc(f->queue_cap * sizeof *f->queue);
    fm_status st = f->spans && f->queue ? fence_map(f, err)
                                        : FM_FAIL(err, FM_E_NOMEM, "fence device");
    if (st) fence_close(x);
    return st;
}

/* First gap of n bytes; returns the index at which its span goes, SIZE_MAX when full. */
static size_t find_gap(const fence *f, size_t n, size_t *offset)
{
    size_t at = 0;
    for (size_t i = 0; i < f->n_spans; i++) {
        const span *s = &f->spans[i];
        if (s->offset - at >= n) {
            *offset = at;
            return i;
        }
        at = s->offset + s->pages_bytes;
    }
    *offset = at;
    return RESERVE_BYTES - at >= n ? f->n_spans : SIZE_MAX;
}

static fm_status fence_alloc(fm_exec *x, size_t bytes, void **out, size_t *granted, fm_err *err)
{
    fence *f = x->dev_state;
    size_t offset = 0, slot = SIZE_MAX;
    size_t need = bytes < RESERVE_BYTES ? (bytes + PAGE) / PAGE * PAGE : 0;
    if (need) slot = find_gap(f, need, &offset);
    if (slot == SIZE_MAX) return FM_FAIL(err, FM_E_NOMEM, "%zu bytes of fence memory", bytes);
    if (f->n_spans == f->spans_cap) {
        span *grown = fmi_realloc(f->spans, 2 * f->spans_cap * sizeof *grown);
        if (!grown) return FM_FAIL(err, FM_E_NOMEM, "fence device");
        f->spans = grown;
        f->spans_cap *= 2;
    }
    memmove(f->spans + slot + 1, f->spans + slot, (f->n_spans - slot) * sizeof *f->spans);
    f->spans[slot] = (span){offset, need, bytes};
    f->n_spans++;
    *granted = bytes;
    *out = f->closed + offset;
    return FM_OK;
}

static size_t fence_free(fm_exec *x, void *dev)
{
    fence *f = x->dev_state;
    size_t offset = (size_t)((char *)dev - f->closed);
    size_t i = 0;
    while (i < f->n_spans && f->spans[i].offset != offset) i++;
    FM_ASSERT(i < f->n_spans);
    span s = f->spans[i];
    /* The pages go back to the kernel and read as zeros when they are handed out again. */
    if (madvise(f->open + s.offset, s.pages_bytes, MADV_REMOVE))
        memset(f->open + s.offset, 0, s.pages_bytes);
    memmove(f->spans + i, f->spans + i + 1, (f->n_spans - i - 1) * sizeof *f->spans);
    f->n_spans--;
    return s.bytes;
}

static void *fence_borrow(fm_exec *x, const void *host)
{
    (void)x;
    (void)host;
    return NULL;
}

/* Binary search among the live blocks; n bytes must lie inside one. */
static void *fence_resolve(fm_exec *x, const void *dev, size_t bytes)
{
    const fence *f = x->dev_state;
    uintptr_t base = (uintptr_t)f->closed, at = (uintptr_t)dev;
    if (at < base || at - base >= RESERVE_BYTES) return NULL;
    size_t offset = (size_t)(at - base), lo = 0, hi = f->n_spans;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (f->spans[mid].offset <= offset) lo = mid + 1;
        else hi = mid;
    }
    if (lo == 0) return NULL;
    const span *s = &f->spans[lo - 1];
    size_t within = offset - s->offset;
    if (within >= s->pages_bytes || s->pages_bytes - within < bytes) return NULL;
    return f->open + offset;
}

static void fence_drain(fm_exec *x)
{
    fence *f = x->dev_state;
    size_t n = f->n_queue;
    f->n_queue = 0;
    for (size_t i = 0; i < n; i++) fmi_exec_run(x, f->queue[i].id, &f->queue[i].args);
}

/* Room for one more operator in the queue. */
static bool queue_reserve(fence *f)
{
    if (f->n_queue < f->queue_cap) return true;
    queued_op *grown = fmi_realloc(f->queue, 2 * f->queue_cap * sizeof *grown);
    if (!grown) return false;
    f->queue = grown;
    f->queue_cap *= 2;
    return true;
}

static void fence_issue(fm_exec *x, fm_op_id id, const void *args)
{
    fence *f = x->dev_state;
    const fmi_op_desc *d = &fmi_op_descs[id];
    int bad = -1;
    bool room = queue_reserve(f);
    if (room) {
        queued_op *q = &f->queue[f->n_queue];
        q->id = id;
        memcpy(&q->args, args, d->args_bytes);
        for (int i = 0; i < d->n_ptrs && bad < 0; i++) {
            void *p;
            char *at = (char *)&q->args + (size_t)i * sizeof p;
            memcpy(&p, at, sizeof p);
            void *host = p ? fence_resolve(x, p, 0) : NULL;
            if (p && !host) bad = i;
            memcpy(at, &host, sizeof host);
        }
        if (bad < 0) {
            f->n_queue++;
            return;
        }
    }
    /* What was queued before still runs, and its failure, if any, is the first. */
    fence_drain(x);
    if (x->first.code) return;
    if (!room) FM_FAIL(&x->first, FM_E_NOMEM, "operator %s: fence queue", d->name);
    else FM_FAIL(&x->first, FM_E_DEVICE, "operator %s: pointer argument %d is not device memory",
                 d->name, bad);
}

const fmi_device fmi_device_fence = {
    "fence", true, fence_open, fence_close, fence_alloc, fence_free, fence_borrow, fence_resolve,
    fence_issue, fence_drain,
};
