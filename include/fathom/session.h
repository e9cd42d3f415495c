/* A session: one or more sequences of tokens on an open model, with their latent cache. Feed a
 * prompt, generate with a callback, score text, go on, go back, branch off.
 *
 * What comes out does not depend on chunking, on the sequences beside it, or on drafting: a token's
 * randomness is keyed by (seed, choice, position), so text with drafting on and off is the same.
 *
 * Thread rule: a session belongs to one thread at a time, as its model does. Close it before the
 * model and the tokenizer, which it borrows. All memory is taken when it is opened. What is cached
 * belongs to the model's weights: after they change (training), truncate to 0. */
#ifndef FATHOM_SESSION_H
#define FATHOM_SESSION_H

#include "fathom/model.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_session fm_session;

/* Drafting with the model's multi-token-prediction module. AUTO drafts where the module is there
 * and goes on while what is accepted outweighs what verifying costs, both measured as it runs. */
typedef enum fm_draft { FM_DRAFT_OFF, FM_DRAFT_MTP, FM_DRAFT_AUTO } fm_draft;

typedef struct fm_session_opts {
    int sequences;       /* at most this many at once; 0: 1                                     */
    int64_t context_max; /* tokens a sequence can hold; 0: the model's, 8192 at most             */
    int64_t chunk;       /* prompt tokens a forward pass takes; 0: 2048                          */
    fm_draft draft;
    int drafts;          /* tokens drafted ahead, 1..8; 0: 1                                     */
} fm_session_opts;

/* Bytes of memory fm_session_open will take on the model's device. 0 when the options are bad. */
size_t fm_session_bytes(const fm_model *model, const fm_session_opts *opts);

/* opts NULL: all defaults (zeros). tokenizer may be NULL: then ids only, no text, no stop strings.
 * Errors: RANGE (sizes), UNSUPPORTED (FM_DRAFT_MTP without the module), NOMEM. */
fm_status fm_session_open(fm_model *model, const fm_tokenizer *tokenizer,
                          const fm_session_opts *opts, fm_session **out, fm_err *err);
void fm_session_close(fm_session *s); /* NULL is fine */

int64_t fm_session_context(const fm_session *s); /* tokens a sequence can hold */

/* Appends to sequence `seq` (0 .. sequences-1). Nothing is computed before it is needed. Text is
 * encoded with `flags` (FM_ENCODE_*; BOS applies to an empty sequence only). Errors: RANGE (an id
 * outside the vocabulary, the context exceeded: the sequence is unchanged), STATE (no tokenizer).
 */
fm_status fm_session_push_ids(fm_session *s, int seq, const int32_t *ids, size_t n, fm_err *err);
fm_status fm_session_push_text(fm_session *s, int seq, const char *text, size_t n, unsigned flags,
                               fm_err *err);

/* The tokens of a sequence; the array is the session's and changes with the next call on it. */
const int32_t *fm_session_tokens(const fm_session *s, int seq, size_t *n);

/* Keeps the first n tokens (0: starts anew). What was computed for them stays. RANGE: n is more
 * than there are. */
fm_status fm_session_truncate(fm_session *s, int seq, size_t n, fm_err *err);

/* dst becomes a copy of src's first n tokens; the cache pages are shared until one writes. */
fm_status fm_session_fork(fm_session *s, int dst, int src, size_t n, fm_err *err);

/* One piece of an answer. id -1: no token, the end of held-back text or, with n 0, progress in the
 * prompt. text: n bytes of whole UTF-8 characters, not zero-terminated, valid during the call. */
typedef struct fm_piece {
    int seq;
    int32_t id;
    float logprob;       /* natural log of the token's probability at temperature 1, unfiltered */
    const char *text;
    size_t n;
} fm_piece;

/* Returns false to stop the answer after this piece. */
typedef bool (*fm_piece_fn)(void *arg, const fm_piece *piece);

typedef struct fm_generate_opts {
    int64_t tokens_max;       /* new tokens; 0: until the context is full                       */
    double temperature;       /* 0: the most likely token                                       */
    int top_k;                /* 0: off */
    double top_p;             /* 0 or 1: off */
    double min_p;             /* 0: off */
    double repetition_penalty;/* 0 or 1: off; over the whole sequence, prompt included          */
    uint64_t seed;
    uint32_t choice;          /* which of several answers to one prompt                         */
    const char *const *stop;  /* [n_stop] stop strings, none empty; they are not part of the text */
    int n_stop;
    const int32_t *stop_ids;  /* [n_stop_ids] beside the model's and tokenizer's end of sentence */
    int n_stop_ids;
    bool ignore_eos;
    bool show_control;        /* control tokens appear in the text                              */
    fm_piece_fn fn;           /* may be NULL */
    void *arg;
} fm_generate_opts;

typedef enum fm_stop {
    FM_STOP_TOKENS,           /* tokens_max reached            */
    FM_STOP_ID,               /* end of sentence or a stop id  */
    FM_STOP_STRING,
    FM_STOP_CALLER,           /* the callback returned false   */
    FM_STOP_CONTEXT           /* the context is full           */
} fm_stop;

const char *fm_stop_name(fm_stop stop); /* "length", "stop", "string", "cancelled", "context" */

typedef struct fm_generated {
    fm_stop stop;
    int string;               /* which stop string, else -1 */
    int64_t n_tokens;         /* new tokens, now at the end of the sequence; a stop id counts */
} fm_generated;

/* Generates after what sequence `seq` holds (at least one token). The new tokens are appended;
 * those past a stop are dropped. Errors: RANGE (settings; tokens_max does not fit into the
 * context), STATE (an empty sequence, stop strings without a tokenizer), and what the device reports;
 * the tokens given to the callback so far then stay. */
fm_status fm_session_generate(fm_session *s, int seq, const fm_generate_opts *opts,
                              fm_generated *out, fm_err *err);

/* The same for n different sequences in one batch: opts[i] and out[i] belong to seqs[i]. Each
 * answer is the one it would be alone. */
fm_status fm_session_generate_batch(fm_session *s, int n, const int *seqs,
                                    const fm_generate_opts *opts, fm_generated *out, fm_err *err);

/* Log-probabilities (natural) of the sequence's tokens first..n-1, each given all before it, into
 * logprob [n - first]. first 0 counts as 1: nothing is before token 0. RANGE: first > n. */
fm_status fm_session_score(fm_session *s, int seq, size_t first, float *logprob, fm_err *err);

/* Counted since the session was opened (or fm_session_stats_reset). */
typedef struct fm_session_stats {
    int64_t prompt_tokens, new_tokens;
    double prefill_seconds, decode_seconds;
    double prefill_tokens_per_second, decode_tokens_per_second; /* 0 when nothing was measured */
    int64_t drafted, accepted;
    int64_t main_forwards, mtp_forwards;
    int64_t reads;            /* times the host waited for the device */
    bool drafting;            /* drafts are made now (AUTO may have decided against) */
} fm_session_stats;
void fm_session_stats_get(const fm_session *s, fm_session_stats *out);
void fm_session_stats_reset(fm_session *s);

#ifdef __cplusplus
}
#endif
#endif
