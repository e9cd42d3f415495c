/* The feed: documents -> packed rows.
 *
 * A document longer than a row is first cut into consecutive windows of a row's length, and the windows are
 * what is shuffled, so that a long book is spread over the epoch as many short texts are.
 *
 * A packed row has T input tokens and the two tokens after them, so that the last inputs have their
 * targets. Documents keep whole where they fit: a row opens with the oldest waiting document and is
 * filled up with the longest waiting ones that still fit; when none fits, the longest is cut at the
 * row's end and its rest waits as a document of its own (position 0, no attention back), while the
 * two tokens after the cut are still targets of the tokens before it. Rows are always full.
 *
 * No attention and no target crosses a document's border. Documents come in the order of a keyed
 * permutation per epoch, so the position is a small struct: everything the feed does next follows
 * from it, whatever the micro-batch. No heap call after fmi_feed_init. */
#ifndef FM_TRAIN_FEED_H
#define FM_TRAIN_FEED_H

#include "base/base.h"

#define FMI_FEED_OPEN 64

/* Where documents come from. n may be lowered later, never above what fmi_feed_init saw.
 * Thread rule: one feed, one thread. */
typedef struct fmi_docs {
    void *arg;
    int64_t n;
    int64_t (*length)(void *arg, int64_t doc);  /* tokens, >= 0 */
    void (*copy)(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out);
} fmi_docs;

/* A waiting document, or what is left of one. */
typedef struct fmi_feed_piece {
    int64_t doc, begin, end;
} fmi_feed_piece;

/* The exact position: saved in a checkpoint, of a size that does not depend on the corpus. */
typedef struct fmi_feed_pos {
    int64_t epoch;     /* passes begun over the documents, from 0 */
    int64_t next;      /* next window in the epoch's order        */
    int64_t rows;      /* rows handed out                         */
    int64_t n_open;
    fmi_feed_piece open[FMI_FEED_OPEN]; /* oldest first */
} fmi_feed_pos;

typedef struct fmi_feed {
    fmi_docs docs;
    uint64_t seed;
    int64_t T;         /* input tokens of a row */
    bool shuffle;      /* false: documents in order (evaluation) */
    bool once;         /* false: epochs without end              */
    fmi_feed_pos pos;
    int32_t *row;      /* [T + 2] scratch */
    int64_t *window;   /* [docs.n + 1] first window of each document */
} fmi_feed;

/* One micro-batch of host arrays, [rows * T] each; seg [rows * T + 1]. Indices count from the
 * micro-batch's first token. next: the token after, -1 where the document ends (the MTP block then reads a
 * zero embedding in a row nobody sees). target, mtp_target: -1 where there is none. */
typedef struct fmi_feed_arrays {
    int32_t *ids, *next, *pos, *k_begin, *k_end, *target, *mtp_target, *seg;
    int n_seg;
    int64_t n_target, n_mtp_target;
} fmi_feed_arrays;

/* A corpus without a single document of two tokens is FM_E_RANGE. */
fm_status fmi_feed_init(fmi_feed *f, const fmi_docs *docs, int64_t T, uint64_t seed, bool shuffle,
                        bool once, fm_err *err);
void fmi_feed_deinit(fmi_feed *f);

/* Packs the next `rows` rows. Returns the rows that hold tokens: fewer than asked only when `once` and
 * the corpus is used up (the last of them may be short); the rest is padding without keys or targets. */
int64_t fmi_feed_fill(fmi_feed *f, int64_t rows, fmi_feed_arrays *out);

/* Whether p is a position this feed could have reached: for positions read from a file. */
bool fmi_feed_pos_ok(const fmi_feed *f, const fmi_feed_pos *p);

/* The document at place i of epoch e: a bijection on 0..n-1 (Feistel network on the next power of
 * four, walked until it lands inside). */
int64_t fmi_feed_order(uint64_t seed, int64_t epoch, int64_t n, int64_t i);

#endif
