/* The step engine: sequences, their cache and every device buffer of a forward pass over a batch of
 * them. One step takes any mix of prompt chunks and decode rows (with drafts), issues the main
 * forward pass, the sampler and the MTP block, and reads all results at once. Buffers are sized and
 * allocated when the engine is made: a step makes no heap call and one fm_read.
 *
 * What is cached of a sequence of n tokens: main rows 0..len-1 (row i reads token i) and MTP rows
 * 0..mtp_len-1 (row i reads the hidden state of token i and token i+1: the row design.md numbers
 * i+1, one place lower, so that its keys start at the first cached row). len < n while something is
 * pending; the last token is always forwarded again rather than its hidden state kept.
 *
 * Drafts: the MTP row beside the last token predicts the token after it (draft 1), found by the
 * step that chose the last token. Further drafts run at the start of the next step, one pass each,
 * from the block's own hidden state; their cache rows are overwritten by the true ones later in the
 * same step. A rejected draft leaves rows past len; the next step overwrites them in both caches.
 */
#ifndef FM_INFER_ENGINE_H
#define FM_INFER_ENGINE_H

#include "infer/pages.h"

#define FMI_DRAFTS_MAX 8
#define FMI_CHUNK 2048       /* prompt tokens of a step unless told otherwise */

typedef struct fmi_engine_opts {
    int sequences;
    int64_t context_max;     /* tokens of a sequence                              */
    int64_t chunk;           /* prompt tokens a step takes, all sequences together */
    int drafts;              /* drafts a step verifies at most; 0: no MTP block   */
} fmi_engine_opts;

typedef struct fmi_seq {
    int32_t *tokens;         /* [context_max] */
    int64_t n, len, mtp_len;
    int64_t hist;            /* tokens whose copy on the device is good (repetition penalty) */
    fm_sample_row how;       /* seed, choice and settings; position and history are set per row */
    int drafts;              /* drafts wanted in the next step */
    int32_t draft;           /* candidate for token n, -1: none */
    int32_t hidden;          /* row of e->hsave the next draft continues from */
} fmi_seq;

/* One sequence's part of a step, and after it what came out. */
typedef struct fmi_slot {
    int seq;
    int64_t row0, take;      /* rows of the batch: `take` known tokens, then drafts */
    int drafts;
    bool decode;             /* one known token */
    bool samples;            /* takes all that was pending, so tokens come out */
    int s0;                  /* its first row among the sampled ones */
    int n_new, accepted;     /* tokens appended; drafts among them */
    const float *logprob;    /* [n_new] */
} fmi_slot;

typedef struct fmi_counts {
    int64_t steps, forwards, mtp_forwards, drafted, accepted;
} fmi_counts;

typedef struct fmi_engine {
    fm_model *m;
    fm_exec *x;
    fmi_engine_opts o;
    bool mtp;                /* the MTP block's cache exists            */
    bool mtp_on;             /* steps keep it filled                    */
    int64_t rows_max, keys_max, pages_max;
    int samples_max, logit_rows;
    fm_acts *acts;
    fm_cache cache;
    fmi_pages main, drafter;
    fmi_seq *seq;            /* [sequences] */
    fmi_slot *slot;          /* [sequences] of the last step */
    int n_slots;
    fmi_counts counts;
    int32_t *in, *dev_in;    /* [in_max] words: everything the host says in a step */
    int64_t in_n, in_max;
    int32_t *out, *dev_out;  /* [out_max] words: everything it hears */
    int64_t out_max;
    int32_t *dev_history;    /* [sequences, context_max] */
    void *dev_scratch;       /* [samples_max, W] F */
    void *dev_waste;         /* [samples_max] F: log-probabilities of drafts */
    void *dev_hin;           /* [sequences, D] F: hidden states of a further draft */
    void *dev_hsave;         /* [sequences, drafts + 1, D] F */
    void *dev, *host;        /* the two blocks */
} fmi_engine;

/* Bytes of device and host memory an engine takes, without allocating. */
size_t fmi_engine_bytes(const fm_model *m, const fmi_engine_opts *o, size_t *host_bytes);
fm_status fmi_engine_new(fm_model *m, const fmi_engine_opts *o, fmi_engine **out, fm_err *err);
void fmi_engine_free(fmi_engine *e);

/* Appends tokens. FM_E_RANGE names an id outside the vocabulary or the context. */
fm_status fmi_seq_push(fmi_engine *e, int s, const int32_t *ids, int64_t n, fm_err *err);
/* Keeps the first n tokens and what is cached of them. */
void fmi_seq_truncate(fmi_engine *e, int s, int64_t n);
/* dst becomes a copy of the first n tokens of src, sharing cached pages. */
void fmi_seq_fork(fmi_engine *e, int dst, int src, int64_t n);
/* Makes sequence s ready for a step: at least one token pending, MTP rows as far as main rows. */
void fmi_seq_ready(fmi_engine *e, int s);

/* One step over the sequences named; each must be ready and have n < context_max. e->slot says what
 * came out; sequences that found no room in the batch have no slot. */
fm_status fmi_engine_step(fmi_engine *e, const int *seqs, int n, fm_err *err);

/* Forwards what sequence s has pending but its last token and writes the log-probability of tokens
 * first..n-1 given those before them (first >= 1) to logprob [n - first]. */
fm_status fmi_engine_score(fmi_engine *e, int s, int64_t first, float *logprob, fm_err *err);

/* Parts of a step shared by step.c and score.c. */
int32_t *fmi_in_put(fmi_engine *e, int64_t n, int32_t **dev); /* n words of the input block */
/* Stages positions, cache rows and keys of rows begin..end-1 of sequence s at batch row `row`. */
typedef struct fmi_rows {
    int32_t *ids, *pos, *write, *seq, *len, *k_begin, *k_end, *gather; /* host */
    int64_t n_keys;                                                    /* of gather, so far */
    fm_batch b;                                                        /* device */
} fmi_rows;
void fmi_rows_begin(fmi_engine *e, const fmi_pages *p, int64_t T, int64_t S, fmi_rows *r);
void fmi_rows_put(fmi_engine *e, const fmi_pages *p, fmi_rows *r, int s, int64_t row, int64_t begin,
                  int64_t end);

#endif
