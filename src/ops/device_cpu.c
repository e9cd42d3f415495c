/* The "cpu" device: device memory is host memory and an operator runs when it is issued.
 *
 * A block carries its size in the 256 bytes in front of it. Large blocks come straight from mmap
 * with a hint for huge pages: zero pages cost nothing until touched, and weights then need few TLB
 * entries. Their bookkeeping still goes through fmi_alloc, so that tests see and can fail it. */
#include "ops/exec_internal.h"

#include <sys/mman.h>

#define HEADER 256u
#define BLOCK_MAGIC 0x66746d6d656d3031ull
#define MAP_MIN ((size_t)4 << 20)
#define HUGE_PAGE ((size_t)2 << 20)

typedef struct block {
    uint64_t magic;
    size_t bytes;      /* what the caller asked for, as counted           */
    void *map;         /* start of the mapping, NULL for a heap block     */
    size_t map_bytes;
    void *tag;         /* heap cell that stands for a mapping in the hooks */
} block;

static fm_status cpu_open(fm_exec *x, fm_err *err)
{
    (void)x;
    (void)err;
    return FM_OK;
}

static void cpu_close(fm_exec *x)
{
    (void)x;
}

/* A mapping whose data, after the header, starts on a huge page. */
static block *map_block(size_t bytes)
{
    void *tag = fmi_alloc(1);
    if (!tag) return NULL;
    size_t total = bytes + 2 * HUGE_PAGE;
    char *map = mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) {
        fmi_free(tag);
        return NULL;
    }
    uintptr_t data = ((uintptr_t)map + HEADER + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1);
    madvise((void *)data, bytes, MADV_HUGEPAGE);
    block *b = (block *)(data - HEADER);
    b->map = map;
    b->map_bytes = total;
    b->tag = tag;
    return b;
}

static fm_status cpu_alloc(fm_exec *x, size_t bytes, void **out, size_t *granted, fm_err *err)
{
    (void)x;
    if (bytes > SIZE_MAX / 4) return FM_FAIL(err, FM_E_NOMEM, "%zu bytes of device memory", bytes);
    block *b = bytes >= MAP_MIN ? map_block(bytes) : fmi_alloc_aligned(bytes + HEADER, HEADER);
    if (!b) return FM_FAIL(err, FM_E_NOMEM, "%zu bytes of device memory", bytes);
    b->magic = BLOCK_MAGIC;
    b->bytes = bytes;
    *granted = bytes;
    *out = (char *)b + HEADER;
    return FM_OK;
}

static size_t cpu_free(fm_exec *x, void *dev)
{
    (void)x;
    block *b = (block *)((char *)dev - HEADER);
    FM_ASSERT(b->magic == BLOCK_MAGIC);
    size_t bytes = b->bytes;
    b->magic = 0;
    if (b->map) {
        fmi_free(b->tag);
        munmap(b->map, b->map_bytes);
    } else {
        fmi_free_aligned(b);
    }
    return bytes;
}

static void *cpu_borrow(fm_exec *x, const void *host)
{
    (void)x;
    return (void *)(uintptr_t)host;
}

static void *cpu_resolve(fm_exec *x, const void *dev, size_t bytes)
{
    (void)x;
    (void)bytes;
    return (void *)(uintptr_t)dev;
}

static void cpu_drain(fm_exec *x)
{
    (void)x;
}

const fmi_device fmi_device_cpu = {
    "cpu", false, cpu_open, cpu_close, cpu_alloc, cpu_free, cpu_borrow, cpu_resolve,
    fmi_exec_run, cpu_drain,
};
