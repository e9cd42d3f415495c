/* Speed of the pieces, measured: whole training steps, prefill and decode, beside what bounds them.
 *
 * Thread rule: one call at a time. */
#ifndef FATHOM_BENCH_H
#define FATHOM_BENCH_H

#include "fathom/model.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_train_bench_opts {
    const char *preset;    /* NULL: "nano" */
    const char *isa;       /* NULL: the best */
    int threads;           /* 0: all */
    fm_dtype precision;    /* BF16 or F32 */
    bool mtp, muon;
    bool dense_twin;       /* no routed experts, the FFN as wide as the active ones */
    int64_t rows, seq;     /* packed rows of a step and their tokens; 0: 32 x 512 */
    int64_t micro;         /* tokens of a micro-batch; 0: what a run would take */
    int steps;             /* measured, after one that is not; 0: 3 */
} fm_train_bench_opts;

typedef struct fm_train_bench {
    double tokens_per_second;        /* median step */
    double fastest, slowest;         /* tokens/s of single steps */
    double flops_per_token;          /* counted, model/count.c */
    double step_seconds;             /* mean step */
    struct {
        const char *name;
        double seconds;
        int64_t calls;
    } part[64];                      /* per mean step, operators in table order */
    int n_parts;
} fm_train_bench;

/* Random text in documents of 64..512 tokens, random weights, learned routing, on a context of its own (cpu).
 * Errors: UNSUPPORTED (preset, isa), RANGE, NOMEM. */
fm_status fm_bench_train(const fm_train_bench_opts *o, fm_train_bench *out, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
