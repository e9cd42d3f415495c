/* Thread pool. Work is cut into pieces by the operator, by shapes and the number of threads alone;
 * a thread owns its share, or takes one piece after the other (fmi_pool_take) where a slower
 * processor would keep the others waiting. Which thread computes an output never changes what is
 * computed. Workers spin briefly, then sleep. */
#ifndef FM_BASE_POOL_H
#define FM_BASE_POOL_H

#include <stdatomic.h>

#include "base/base.h"

typedef struct fmi_pool fmi_pool;

/* n_threads >= 1, the caller counted in. */
fm_status fmi_pool_new(int n_threads, fmi_pool **out, fm_err *err);
void fmi_pool_free(fmi_pool *p);
int fmi_pool_threads(const fmi_pool *p);

/* Processors that this process may use (its affinity: taskset, cpusets of containers), at least 1. */
int fmi_processors(void);

/* Runs fn(arg, tid, n_threads) once on every thread (tid 0 is the caller) and waits for all. */
typedef void (*fmi_pool_fn)(void *arg, int tid, int n_threads);
void fmi_pool_run(fmi_pool *p, fmi_pool_fn fn, void *arg);

/* The half-open share [*begin, *end) of n items that thread tid of n_threads owns; shares start at
 * multiples of `grain` and differ by at most one grain. */
void fmi_pool_share(int64_t n, int64_t grain, int tid, int n_threads, int64_t *begin, int64_t *end);

/* Pieces of a run, each taken once, either one by one (0, 1, ..) or as shares of so many units;
 * starts as {0}. */
typedef struct fmi_pool_pieces {
    _Atomic int64_t next;
} fmi_pool_pieces;

/* The next share of n units: a part of what is left, so that shares grow smaller and all threads come to an
 * end together, in multiples of `least`. False: none left. */
static inline bool fmi_pool_next(fmi_pool_pieces *c, int64_t n, int64_t least, int n_threads, int64_t *begin,
                                 int64_t *end)
{
    int64_t at = atomic_load_explicit(&c->next, memory_order_relaxed), size;
    do {
        if (at >= n) return false;
        size = n_threads > 1 ? (n - at) / (2 * n_threads) : n - at;
        size = (size / least + (size % least != 0 || size < least)) * least;
    } while (!atomic_compare_exchange_weak_explicit(&c->next, &at, at + size, memory_order_relaxed,
                                                    memory_order_relaxed));
    *begin = at;
    *end = at + size < n ? at + size : n;
    return true;
}

static inline int64_t fmi_pool_take(fmi_pool_pieces *c)
{
    return atomic_fetch_add_explicit(&c->next, 1, memory_order_relaxed);
}

#endif
