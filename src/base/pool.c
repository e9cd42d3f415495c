/* The thread pool: a generation counter that workers watch, and a count of workers still busy.
 *
 * A run publishes fn and arg, then advances the generation; a worker that sees a new generation
 * runs fn once and takes one off `pending`. Both sides spin for a few tens of microseconds and then
 * sleep on a futex. Where there are more threads than processors nobody spins: the spinner would
 * hold the processor that the awaited thread needs. Refuses nested runs (a caller's bug). */
#include "base/pool.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SPIN_SECONDS 40e-6
#define SPIN_BATCH   32 /* pauses between two looks at the clock */

typedef struct worker {
    struct fmi_pool *pool;
    pthread_t thread;
    int tid;
} worker;

struct fmi_pool {
    int n_threads;
    int n_started; /* workers running; the caller's thread only */
    bool spin;
    worker *workers; /* [n_threads - 1] */
    fmi_pool_fn fn;  /* written by the caller before a new generation, read by workers after it */
    void *arg;
    bool stop;
    atomic_bool running;
    _Alignas(64) atomic_uint generation;
    atomic_int sleepers; /* workers in or near futex_wait on generation */
    _Alignas(64) atomic_uint pending;
    atomic_int caller_sleeps;
};

static void cpu_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void futex_wait(atomic_uint *word, unsigned seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

static void futex_wake(atomic_uint *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}

/* Spins while *word == value (when `equal`) or != value; true when the wait is over. */
static bool spin_while(atomic_uint *word, unsigned value, bool equal, bool spin)
{
    double end = 0;
    for (;;) {
        for (int i = 0; i < (spin ? SPIN_BATCH : 1); i++) {
            if ((atomic_load_explicit(word, memory_order_acquire) == value) != equal) return true;
            if (spin) cpu_pause();
        }
        if (!spin) return false;
        double now = fmi_clock_s();
        if (end == 0) end = now + SPIN_SECONDS;
        if (now >= end) return false;
    }
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    fmi_pool *p = w->pool;
    unsigned seen = 0;
    for (;;) {
        if (!spin_while(&p->generation, seen, true, p->spin)) {
            atomic_fetch_add(&p->sleepers, 1);
            while (atomic_load(&p->generation) == seen) futex_wait(&p->generation, seen);
            atomic_fetch_sub(&p->sleepers, 1);
        }
        seen++; /* a run waits for every worker, so generations are never skipped */
        if (p->stop) return NULL;
        p->fn(p->arg, w->tid, p->n_threads);
        if (atomic_fetch_sub(&p->pending, 1) == 1 && atomic_load(&p->caller_sleeps))
            futex_wake(&p->pending, 1);
    }
}

int fmi_processors(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN); /* where there are more than a set holds */
    if (sched_getaffinity(0, sizeof set, &set)) return online > 0 ? (int)online : 1;
    return CPU_COUNT(&set);
}

/* Starts a new generation and wakes whoever sleeps. */
static void publish(fmi_pool *p)
{
    atomic_fetch_add(&p->generation, 1);
    if (atomic_load(&p->sleepers) > 0) futex_wake(&p->generation, INT32_MAX);
}

fm_status fmi_pool_new(int n_threads, fmi_pool **out, fm_err *err)
{
    if (n_threads < 1 || n_threads > 4096)
        return FM_FAIL(err, FM_E_RANGE, "thread pool: %d threads (expected 1..4096)", n_threads);
    fmi_pool *p = fmi_alloc_aligned(sizeof *p, 64);
    worker *workers = fmi_zalloc((size_t)n_threads * sizeof *workers);
    if (!p || !workers) {
        fmi_free_aligned(p);
        fmi_free(workers);
        return FM_FAIL(err, FM_E_NOMEM, "thread pool of %d threads", n_threads);
    }
    p->n_threads = n_threads;
    p->workers = workers;
    p->spin = n_threads <= fmi_processors();
    /* Signals belong to the caller's thread. */
    sigset_t all, old;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    int rc = 0;
    for (int i = 0; i < n_threads - 1 && !rc; i++) {
        workers[i].pool = p;
        workers[i].tid = i + 1;
        rc = pthread_create(&workers[i].thread, NULL, worker_main, &workers[i]);
        if (!rc) p->n_started++;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc) {
        int started = p->n_started;
        fmi_pool_free(p);
        return FM_FAIL(err, FM_E_NOMEM, "thread pool: thread %d of %d: %s", started + 1, n_threads,
                       strerror(rc));
    }
    *out = p;
    return FM_OK;
}

void fmi_pool_free(fmi_pool *p)
{
    if (!p) return;
    p->stop = true;
    publish(p);
    for (int i = 0; i < p->n_started; i++) pthread_join(p->workers[i].thread, NULL);
    fmi_free(p->workers);
    fmi_free_aligned(p);
}

int fmi_pool_threads(const fmi_pool *p)
{
    return p->n_threads;
}

void fmi_pool_run(fmi_pool *p, fmi_pool_fn fn, void *arg)
{
    if (p->n_threads == 1) {
        fn(arg, 0, 1);
        return;
    }
    bool nested = atomic_exchange(&p->running, true);
    FM_ASSERT(!nested);
    (void)nested;
    p->fn = fn;
    p->arg = arg;
    atomic_store(&p->pending, (unsigned)(p->n_threads - 1));
    publish(p);
    fn(arg, 0, p->n_threads);
    if (!spin_while(&p->pending, 0, false, p->spin)) {
        atomic_store(&p->caller_sleeps, 1);
        for (unsigned left; (left = atomic_load(&p->pending)) != 0;) futex_wait(&p->pending, left);
        atomic_store(&p->caller_sleeps, 0);
    }
    atomic_store(&p->running, false);
}

void fmi_pool_share(int64_t n, int64_t grain, int tid, int n_threads, int64_t *begin, int64_t *end)
{
    FM_ASSERT(n >= 0 && grain > 0 && n_threads > 0 && tid >= 0 && tid < n_threads);
    int64_t blocks = n / grain + (n % grain != 0);
    int64_t each = blocks / n_threads, rest = blocks % n_threads;
    int64_t first = tid * each + (tid < rest ? tid : rest);
    int64_t last = first + each + (tid < rest);
    *begin = first == blocks ? n : first * grain;
    *end = last == blocks ? n : last * grain;
}
