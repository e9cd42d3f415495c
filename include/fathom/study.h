/* Scaling studies: a set of training runs designed for a machine and a time, worked through by any
 * number of processes, and what came of each; and the comparison of an idea with a baseline.
 *
 * A study is a directory that may be moved: plan.json (the runs), study.ini (settings of all of
 * them), tokenizer/ and data/ (made once), queue/{waiting,doing,done,failed} (one file a run),
 * runs/<id>/ (run directories and result.json), points.csv and, with SQLite, index.db (both rebuilt
 * from the directories). Runs are child processes of a fathom program. docs/studies.md has the
 * rules.
 *
 * Thread rule: one call at a time in a process; several processes may work on one study. */
#ifndef FATHOM_STUDY_H
#define FATHOM_STUDY_H

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

#include "fathom/status.h"
#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_study_state {
    FM_STUDY_WAITING,
    FM_STUDY_DOING,
    FM_STUDY_DONE,
    FM_STUDY_FAILED
} fm_study_state;
const char *fm_study_state_name(fm_study_state s); /* "waiting", "doing", "done", "failed" */

#define FM_STUDY_ID_MAX 64
#define FM_STUDY_WHY_MAX 240

/* One run: what was planned and, once done, what came out. 0 where not known. */
typedef struct fm_study_run {
    char id[FM_STUDY_ID_MAX];
    char arm[FM_STUDY_ID_MAX]; /* of a comparison: "baseline" or an idea's name; "" otherwise */
    fm_study_state state;
    char why[FM_STUDY_WHY_MAX]; /* of a failed run */
    int width, layers, experts; /* experts 0: dense */
    int64_t seed;
    double budget;          /* C asked for                                            */
    double params;          /* active, without embedding, head and MTP module         */
    double params_total;    /* of the same, every expert counted                      */
    double flops_per_token; /* M: training, non-embedding (no head, no MTP)           */
    double tokens;          /* D                                                      */
    double flops;           /* M D                                                    */
    double epochs;          /* D over the tokens of the training split                */
    double lr, batch_tokens;
    double seconds_expected;
    double loss, bits_per_byte; /* held out, whole split: nats a token, bits a byte       */
    double train_loss;          /* mean of the last twentieth of the steps                */
    double seconds;             /* training steps alone                                   */
    double wall_seconds;        /* of the child processes, all attempts                   */
    int attempts;
} fm_study_run;

/* Runs of a study in the plan's order; the callback returns false to stop. Reads nothing but the
 * directory. Errors: IO, FORMAT (plan.json, naming the key), NOMEM. */
typedef bool (*fm_study_fn)(void *arg, const fm_study_run *run);
fm_status fm_study_points(const char *dir, fm_study_fn fn, void *arg, fm_err *err);

/* --- design --- */

typedef struct fm_study_design_opts {
    const char *program;     /* the fathom program that children run                     */
    const char *out;         /* the study's directory; must not exist                    */
    const char *const *text; /* [n_text] FILE[:WEIGHT]                                   */
    int n_text;
    const char *data;  /* or a directory made by `fathom data`: copied             */
    const char *val;   /* held-out text; NULL: by hash                             */
    int val_every;     /* 0: 50                                                    */
    int vocab;         /* 0: 2048                                                  */
    int budgets;       /* 0: 4                                                     */
    double low, high;  /* C; 0: what the machine can finish in `minutes`           */
    double span;       /* high / low when they are not given; 0: 27                */
    double minutes;    /* 0: 60                                                    */
    int sizes;         /* a budget; 0: 7                                           */
    double sizes_span; /* largest M over smallest, of a budget; 0: 12              */
    double centre;     /* factor on DeepSeek LLM's best M of a budget; 0: see docs */
    double epochs;     /* at most; 0: 4                                            */
    int seeds;         /* 0: 1                                                     */
    bool dense;
    int experts, active;          /* 0: 16 and 4                                              */
    int seq;                      /* 0: 512                                                   */
    double lr_scale, lr_exponent; /* eta = scale C^exponent; 0: DeepSeek LLM's      */
    double batch_scale, batch_exponent; /* B in tokens                                    */
    const char *recipe;     /* settings of all runs, beside the study's own             */
    const char *const *set; /* [n_set]                                                  */
    int n_set;
    int threads, workers; /* of a run, and runs at once; 0: all processors, 1         */
    double speed;         /* training FLOP/s (M counted) to assume; 0: measured       */
    bool dry_run;         /* nothing stays on disk                                    */
} fm_study_design_opts;

typedef struct fm_study_design {
    int n_runs, n_budgets;
    double low, high;                   /* budgets                                               */
    double seconds;                     /* expected, with these workers                          */
    double corpus_tokens, corpus_bytes; /* of the training split                          */
    double val_tokens;
    double epochs_max;
} fm_study_design;

typedef struct fm_study_hooks {
    void *arg;
    void (*on_stage)(void *arg, const char *stage, const char *detail);
    fm_study_fn on_run; /* design: each planned run, in order */
} fm_study_hooks;

/* Errors: RANGE (a budget that the machine cannot finish: the largest that it can; too little text
 * for a budget), STATE (out exists), IO, FORMAT. Nothing is left on failure. */
fm_status fm_study_design_run(const fm_study_design_opts *o, const fm_study_hooks *hooks,
                              fm_study_design *out, fm_err *err);

/* --- run --- */

/* What the whole study is like at this moment, for one board. */
#define FM_STUDY_BOARD_MAX 64
typedef struct fm_study_board {
    int waiting, doing, done, failed;
    double seconds_left; /* at the expected speeds and the runs at work now         */
    int n_lines;         /* runs at work, of every process                         */
    struct {
        char id[FM_STUDY_ID_MAX], worker[FM_STUDY_ID_MAX];
        double fraction, loss, bits_per_byte, tokens_per_second, seconds;
        bool mine;
    } line[FM_STUDY_BOARD_MAX];
} fm_study_board;

typedef enum fm_study_event {
    FM_STUDY_STARTED,
    FM_STUDY_TAKEN_BACK, /* from a worker that is gone */
    FM_STUDY_ENDED,      /* done or failed             */
    FM_STUDY_RELEASED    /* back to waiting               */
} fm_study_event;

typedef struct fm_study_run_opts {
    const char *program;
    int threads;                 /* of a run; 0: all processors                 */
    int workers;                 /* runs at once in this process; 0: 1          */
    double lease_s;              /* 0: 30                                       */
    double tick_s;               /* between two boards; 0: 1                    */
    bool keep;                   /* keep the checkpoints of finished runs       */
    bool retry;                  /* failed runs are tried again                 */
    volatile sig_atomic_t *stop; /* set by a signal handler: children save and stop; NULL: never */
    void *arg;
    void (*on_event)(void *arg, fm_study_event event, const fm_study_run *run, const char *note);
    void (*on_board)(void *arg, const fm_study_board *board);
} fm_study_run_opts;

/* Works until nothing is left that this process can take. Runs that fail are recorded and do not
 * fail the call. Errors: CANCELLED (stopped; states are saved), IO (a full disk: the run stays to
 * do; the program cannot be started), STATE, FORMAT. */
fm_status fm_study_work(const char *dir, const fm_study_run_opts *o, fm_err *err);

/* Rebuilds points.csv and index.db from the directories. have_db false: built without SQLite. */
fm_status fm_study_reindex(const char *dir, bool *have_db, fm_err *err);

fm_status fm_study_board_get(const char *dir, fm_study_board *out, fm_err *err);

/* --- compare --- */

typedef struct fm_study_compare_opts {
    fm_study_design_opts base; /* data, threads, family, recipe of the baseline; out       */
    const char *const *ideas;  /* [n_ideas] NAME=recipe.ini[@/path/to/fathom]              */
    int n_ideas;
    const char *const *sizes; /* [n_sizes] widths of the family                           */
    int n_sizes;
    int seeds;               /* 0: 3                                                     */
    double tokens;           /* of every run; 0: tokens_per_param                        */
    double tokens_per_param; /* of the active parameters; 0: 20                          */
    int evals;               /* points of a curve; 0: 20                                 */
} fm_study_compare_opts;

/* Makes a study of baseline and ideas; fm_study_work runs it. */
fm_status fm_study_compare_make(const fm_study_compare_opts *o, const fm_study_hooks *hooks,
                                fm_study_design *out, fm_err *err);

/* Speed-ups at equal loss from what is done, as Markdown and JSON (compare.md and compare.json in
 * dir); *text gets the Markdown. Errors: STATE (no idea has a run beside a baseline's). */
fm_status fm_study_compare_report(const char *dir, fm_text *text, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
