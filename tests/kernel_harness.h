/* Holding every kernel against the reference operator, bit for bit.
 *
 * A case makes its arrays with kh_in and kh_out (exactly as long as the operator may touch,
 * shifted off alignment when the case says so; outputs are filled with a pattern that shows
 * stray writes), fills an argument struct and says KH_CHECK(h, op, args): the reference runs on
 * one thread, then every level this machine has on 1, 2 and 3 threads, from the same initial
 * bytes. */
#ifndef FM_TESTS_KERNEL_HARNESS_H
#define FM_TESTS_KERNEL_HARNESS_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <immintrin.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ops/fmath.h"
#include "ops/ops.h"

#define KH_ARRAYS 40
#define KH_THREADS 3

typedef struct kh_array {
    char *block, *p, *init, *want;
    size_t bytes;
    bool out, scratch;       /* scratch: what it holds afterwards is nobody's business */
} kh_array;

typedef struct kh {
    kh_array a[KH_ARRAYS];
    int n;
    size_t shift;            /* elements every array is shifted by */
    uint64_t seed;
    fm_ops ref, level[FM_ISA_AMX + 1];
    fm_isa isa_max;
    fmi_pool *pool[KH_THREADS];
    char *scratch[KH_THREADS];
    fm_kernel_ctx k[KH_THREADS];
    const char *what;        /* the case, for messages */
} kh;

static inline bool kh_quick(void)
{
    return getenv("FATHOM_TEST_QUICK") != NULL;
}

static inline void kh_open(kh *h)
{
    *h = (kh){.seed = 1};
    h->isa_max = fm_isa_detect();
    fm_ops_init_ref(&h->ref);
    for (int i = 0; i <= (int)h->isa_max; i++) {
        h->level[i] = h->ref;
        fm_ops_init_x86(&h->level[i], (fm_isa)i);
    }
    for (int i = 0; i < KH_THREADS; i++) h->scratch[i] = fmi_alloc_aligned(FM_SCRATCH_BYTES, 64);
    for (int i = 0; i < KH_THREADS; i++) {
        assert_int_equal(fmi_pool_new(i + 1, &h->pool[i], NULL), FM_OK);
        h->k[i] = (fm_kernel_ctx){h->pool[i], i + 1, h->scratch, FM_SCRATCH_BYTES, NULL};
    }
}

static inline void kh_clear(kh *h)
{
    for (int i = 0; i < h->n; i++) {
        free(h->a[i].block);
        free(h->a[i].init);
        free(h->a[i].want);
    }
    h->n = 0;
}

static inline void kh_close(kh *h)
{
    kh_clear(h);
    for (int i = 0; i < KH_THREADS; i++) {
        fmi_pool_free(h->pool[i]);
        fmi_free_aligned(h->scratch[i]);
    }
}

static inline uint64_t kh_random(kh *h)
{
    uint64_t z = (h->seed += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static inline int kh_below(kh *h, int n)
{
    return (int)(kh_random(h) % (uint64_t)n);
}

/* Uniform in -1..1 with a few exact zeros and subnormals among them. */
static inline float kh_value(kh *h, float range)
{
    uint64_t r = kh_random(h);
    if (r % 97 == 0) return 0;
    if (r % 101 == 0) return 1e-40f;
    return ((float)(int64_t)(r >> 20 & 0xffffff) * 0x1p-23f - 1.0f) * range;
}

static inline void *kh_array_new(kh *h, int64_t n, size_t elem, bool out)
{
    assert_true(h->n < KH_ARRAYS);
    kh_array *a = &h->a[h->n++];
    size_t pad = h->shift * elem;
    a->bytes = (size_t)n * elem;
    a->block = malloc(pad + a->bytes + 1);
    /* The byte past the end belongs to nobody: ASan would not miss a touch beyond it, and stray
     * writes to it show below. */
    a->p = a->block + pad;
    a->out = out;
    a->init = malloc(a->bytes + 1);
    a->want = malloc(a->bytes + 1);
    memset(a->p, 0xb7, a->bytes);
    return a->p;
}

static inline void *kh_out(kh *h, int64_t n, size_t elem)
{
    return kh_array_new(h, n, elem, true);
}

/* n values of dtype dt (F32 or BF16) within -range..range; out: the operator changes them. */
static inline void *kh_values(kh *h, int64_t n, fm_dtype dt, float range, bool out)
{
    void *p = kh_array_new(h, n, fm_dtype_bytes(dt), out);
    for (int64_t i = 0; i < n; i++) {
        float v = kh_value(h, range);
        if (dt == FM_DTYPE_BF16) ((fm_bf16 *)p)[i] = fmi_f32_to_bf16(v);
        else ((float *)p)[i] = v;
    }
    return p;
}

static inline void *kh_in(kh *h, int64_t n, fm_dtype dt, float range)
{
    return kh_values(h, n, dt, range, false);
}

static inline void *kh_scratch(kh *h, int64_t n, size_t elem)
{
    void *p = kh_array_new(h, n, elem, true);
    h->a[h->n - 1].scratch = true;
    return p;
}

static inline int32_t *kh_ints(kh *h, int64_t n, int below)
{
    int32_t *p = kh_array_new(h, n, sizeof *p, false);
    for (int64_t i = 0; i < n; i++) p[i] = kh_below(h, below);
    return p;
}

static inline void kh_snapshot(kh *h)
{
    for (int i = 0; i < h->n; i++) memcpy(h->a[i].init, h->a[i].p, h->a[i].bytes);
}

static inline void kh_restore(kh *h)
{
    for (int i = 0; i < h->n; i++) memcpy(h->a[i].p, h->a[i].init, h->a[i].bytes);
}

static inline void kh_expect(kh *h)
{
    for (int i = 0; i < h->n; i++) memcpy(h->a[i].want, h->a[i].p, h->a[i].bytes);
}

static inline void kh_compare(const kh *h, const char *op, int level, int threads)
{
    for (int i = 0; i < h->n; i++) {
        const kh_array *a = &h->a[i];
        if (a->scratch || !memcmp(a->p, a->want, a->bytes)) continue;
        size_t at = 0, bad = 0;
        for (size_t b = 0; b < a->bytes; b++)
            if (a->p[b] != a->want[b] && !bad++) at = b;
        size_t w = at & ~(size_t)3;
        uint32_t x = 0, y = 0;
        if (w + 4 <= a->bytes) {
            memcpy(&x, a->p + w, 4);
            memcpy(&y, a->want + w, 4);
        }
        fail_msg("%s [%s], level %s, %d threads: array %d%s, %zu of %zu bytes differ, first at "
                 "byte %zu (%08x, expected %08x)", op, h->what, fm_isa_name((fm_isa)level), threads, i,
                 a->out ? "" : " (an input!)", bad, a->bytes, at, x, y);
    }
}

#define KH_CHECK(h, op, args)                                                           \
    do {                                                                                \
        kh_snapshot(h);                                                                 \
        unsigned csr_ = _mm_getcsr();                                                   \
        _mm_setcsr(csr_ | 0x8040u);                                                     \
        (h)->k[0].ops = &(h)->ref;                                                      \
        assert_int_equal((h)->ref.op(&(h)->k[0], (args)), FM_OK);                       \
        _mm_setcsr(csr_);                                                               \
        kh_expect(h);                                                                   \
        for (int l_ = FM_ISA_AVX2; l_ <= (int)(h)->isa_max; l_++)                       \
            for (int t_ = 0; t_ < KH_THREADS; t_++) {                                   \
                kh_restore(h);                                                          \
                (h)->k[t_].ops = &(h)->level[l_];                                       \
                assert_int_equal((h)->level[l_].op(&(h)->k[t_], (args)), FM_OK);        \
                kh_compare(h, #op, l_, t_ + 1);                                         \
                assert_int_equal(_mm_getcsr() & 0x8040u, csr_ & 0x8040u);               \
            }                                                                           \
        kh_clear(h);                                                                    \
    } while (0)

/* Of a group of tests: *state is an open harness. */
static inline int kh_setup(void **state)
{
    static kh h;
    kh_open(&h);
    *state = &h;
    return 0;
}

static inline int kh_teardown(void **state)
{
    kh_close(*state);
    return 0;
}

#endif
