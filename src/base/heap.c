/* The heap behind hooks, and the arena.
 *
 * Owns the count of heap calls and the "fail the n-th call" switch that tests use. Every allocation
 * of the library passes here. Large aligned blocks come from calloc, so that untouched pages cost
 * nothing; the address to free lies just before the block. */
#include "base/base.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static atomic_int_least64_t n_calls;
static atomic_int_least64_t fail_in; /* 0: never; 1: the next call fails */

/* Counts a call; false when a test wants this one to fail. */
static bool heap_enter(void)
{
    atomic_fetch_add_explicit(&n_calls, 1, memory_order_relaxed);
    if (atomic_load_explicit(&fail_in, memory_order_relaxed) <= 0) return true;
    return atomic_fetch_sub_explicit(&fail_in, 1, memory_order_relaxed) != 1;
}

void *fmi_alloc(size_t bytes)
{
    if (!heap_enter()) return NULL;
    return malloc(bytes ? bytes : 1);
}

void *fmi_zalloc(size_t bytes)
{
    if (!heap_enter()) return NULL;
    return calloc(1, bytes ? bytes : 1);
}

void *fmi_realloc(void *p, size_t bytes)
{
    if (!heap_enter()) return NULL;
    return realloc(p, bytes ? bytes : 1);
}

void *fmi_alloc_aligned(size_t bytes, size_t align)
{
    FM_ASSERT(align && (align & (align - 1)) == 0);
    if (align < sizeof(void *)) align = sizeof(void *);
    size_t extra = align + sizeof(void *);
    if (bytes > SIZE_MAX - extra) return NULL;
    if (!heap_enter()) return NULL;
    char *raw = calloc(1, bytes + extra);
    if (!raw) return NULL;
    uintptr_t at = ((uintptr_t)raw + sizeof(void *) + align - 1) & ~(uintptr_t)(align - 1);
    char *p = raw + (at - (uintptr_t)raw);
    memcpy(p - sizeof(void *), &raw, sizeof raw);
    return p;
}

void fmi_free(void *p)
{
    free(p);
}

void fmi_free_aligned(void *p)
{
    if (!p) return;
    void *raw;
    memcpy(&raw, (char *)p - sizeof(void *), sizeof raw);
    free(raw);
}

char *fmi_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = fmi_alloc(n);
    if (p) memcpy(p, s, n);
    return p;
}

char *fmi_format(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (n < 0) return NULL;
    char *p = fmi_alloc((size_t)n + 1);
    if (!p) return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

int64_t fmi_alloc_calls(void)
{
    return atomic_load(&n_calls);
}

void fmi_alloc_fail_after(int64_t n)
{
    atomic_store(&fail_in, n);
}

bool fmi_mul_ok(int64_t a, int64_t b, int64_t *out)
{
    int64_t r;
    if (a < 0 || b < 0 || __builtin_mul_overflow(a, b, &r)) return false;
    *out = r;
    return true;
}

#define ARENA_ALIGN 64

void *fmi_arena_take(fmi_arena *a, size_t bytes)
{
    size_t rounded = (bytes + ARENA_ALIGN - 1) & ~(size_t)(ARENA_ALIGN - 1);
    FM_ASSERT(rounded >= bytes && a->used + rounded >= a->used);
    size_t at = a->used;
    a->used += rounded;
    if (!a->base) return NULL;
    FM_ASSERT(a->used <= a->cap);
    return a->base + at;
}
