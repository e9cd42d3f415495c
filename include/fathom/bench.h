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

/* A model of a preset with cheap random weights and an engine, for prefill and decode. */
typedef struct fm_infer_bench fm_infer_bench;

typedef struct fm_infer_bench_opts {
    const char *preset;      /* NULL: "mini" */
    const char *isa;
    int threads;
    fm_dtype precision;
    int64_t context;         /* the deepest decode and the longest prefill; 0: 4096 */
    int rows;                /* most rows verified in one step; 0: 1 */
    int64_t chunk;           /* prompt tokens of a forward pass; 0: as a session takes */
} fm_infer_bench_opts;

#define FM_BENCH_PARTS 64
typedef struct fm_infer_speed {
    double tokens_per_second;        /* median step */
    double step_seconds;             /* median */
    double weight_bytes;             /* of a mean step: each weight once, the union of chosen experts */
    double cache_bytes;
    double operations;               /* of the run, in the form it ran (absorbed) */
    double counted;                  /* the same as model/count.c counts it (expanded) */
    double experts;                  /* distinct experts a layer, mean */
    double ceiling;                  /* median: bytes/s (decode) or operations/s (prefill), in turn */
    double fraction;                 /* median share of that ceiling */
    struct {
        const char *name;
        double seconds;
        int64_t calls;
    } part[FM_BENCH_PARTS];          /* per mean step */
    int n_parts;
} fm_infer_speed;

/* Errors: UNSUPPORTED (preset, isa), RANGE, NOMEM. */
fm_status fm_infer_bench_open(const fm_infer_bench_opts *o, fm_infer_bench **out, fm_err *err);
void fm_infer_bench_close(fm_infer_bench *b); /* NULL is fine */
/* Steps of `rows` rows of one sequence that already has `depth` tokens in the cache: 1 is decode, more is
 * verifying drafts. Steps and reading memory take turns. */
fm_status fm_infer_bench_decode(fm_infer_bench *b, int64_t depth, int rows, fm_infer_speed *out, fm_err *err);
fm_status fm_infer_bench_prefill(fm_infer_bench *b, int64_t tokens, fm_infer_speed *out, fm_err *err);

typedef struct fm_gemm_speed {
    char name[40];                   /* "q_a forward" */
    const char *kind;                /* "NT", "NN", "TN" */
    const char *dtype;
    int64_t m, n, k;                 /* of one group */
    int groups;                      /* 1: not grouped */
    bool cold;                       /* operands from memory; else L2-resident */
    double seconds, flops;           /* median call; operations/s */
    double compute_s, bytes_s;       /* the two floors */
    double fraction;                 /* larger floor / seconds */
} fm_gemm_speed;

typedef struct fm_gemm_bench_opts {
    const char *preset;              /* NULL: "nano" */
    const char *isa;
    int threads;
    fm_dtype precision;
    int64_t rows;                    /* tokens of a training micro-batch; 0: 4096 */
    bool inference;                  /* few rows instead of the training step */
} fm_gemm_bench_opts;

/* Every product of the preset's step, one after the other; fn is called with each result. */
fm_status fm_bench_gemm(const fm_gemm_bench_opts *o, void (*fn)(void *arg, const fm_gemm_speed *g),
                        void *arg, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
