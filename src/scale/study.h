/* What the files of a study share: the plan in memory, where things lie in the directory, and child
 * processes. Paths inside a study are relative to it, so that it may be moved or copied.
 *
 *   plan.json            the runs: size, tokens, settings, expected time
 *   study.ini            settings of all runs, given to each as its recipe
 *   queue/<state>/       one file a run: waiting/<id>, doing/<id>.<pid>.<host>, done/<id>, failed/<id>
 *   runs/<id>/           the run directory, and result.json beside its files
 */
#ifndef FM_SCALE_STUDY_H
#define FM_SCALE_STUDY_H

#include <sys/types.h>

#include "base/base.h"
#include "fathom/study.h"
#include "io/ini.h"
#include "io/json.h"

typedef struct fmi_study {
    char *dir;
    json_t *plan;      /* plan.json                                    */
    fm_study_run *run; /* [n] as planned; state and results filled in  */
    int n;
} fmi_study;

/* plan.json; states from the queue, results from runs/<id>/result.json. */
fm_status fmi_study_open(const char *dir, fmi_study **out, fm_err *err);
void fmi_study_close(fmi_study *s);
fm_status fmi_study_refresh(fmi_study *s, fm_err *err);
int fmi_study_find(const fmi_study *s, const char *id, size_t n); /* -1: not there */

/* One run of plan.json from and to JSON. */
json_t *fmi_study_run_json(const fm_study_run *r); /* new reference; NULL: out of memory */

/* DIR/a/b, heap; b may be NULL. */
char *fmi_study_path(const fmi_study *s, const char *a, const char *b);

/* Reads RUN/metrics.jsonl: losses, tokens, seconds. `ended`: the last step reached r->tokens and
 * was evaluated. A missing file is a run without a step. */
typedef struct fmi_study_metrics {
    bool ended;
    int64_t step;
    double tokens, loss, bits_per_byte, train_loss, seconds, elapsed;
} fmi_study_metrics;
fm_status fmi_study_metrics_read(const char *run, double tokens, fmi_study_metrics *out,
                                 fm_err *err);

/* result.json of a run that ended, from r. */
fm_status fmi_study_result_write(const fmi_study *s, const fm_study_run *r, fm_err *err);

/* points.csv and index.db from the states in memory; index.db only where SQLite is built in. */
fm_status fmi_study_csv_write(const fmi_study *s, fm_err *err);
fm_status fmi_study_index_write(const fmi_study *s, bool *have_db, fm_err *err);
/* Both, one process at a time, after a refresh. */
fm_status fmi_study_publish(fmi_study *s, bool *have_db, fm_err *err);

/* Progress of runs at work, read from their metrics. */
fm_status fmi_study_board_fill(fmi_study *s, fm_study_board *out, fm_err *err);

/* --- child processes (study_child.c) --- */

#define FMI_CHILD_TAIL 4096
typedef struct fmi_child {
    pid_t pid;                     /* 0: none                          */
    int pipe;                      /* its stderr; -1: closed           */
    double began;                  /* clock                            */
    char tail[FMI_CHILD_TAIL + 1]; /* last of its stderr     */
    size_t n_tail;
    int status; /* of waitpid, once it ended        */
} fmi_child;

/* Arguments of a child; the strings are owned. */
typedef struct fmi_args {
    char **v; /* NULL at the end */
    int n, cap;
    bool failed; /* out of memory   */
} fmi_args;
void fmi_args_add(fmi_args *a, const char *fmt, ...) FMI_PRINTF(2, 3);
void fmi_args_free(fmi_args *a);

/* Starts v[0] in directory `cwd`, in a process group of its own, standard input and output at
 * /dev/null (output: a file, if `out_path`, truncated). It gets SIGTERM when this process dies. */
fm_status fmi_child_start(fmi_child *c, const fmi_args *a, const char *cwd, const char *out_path,
                          fm_err *err);
/* Reads what there is of its stderr. True when it has ended (status set). */
bool fmi_child_poll(fmi_child *c);
void fmi_child_signal(const fmi_child *c, int sig);
/* Kills and reaps what still runs; closes the pipe. */
void fmi_child_end(fmi_child *c);
/* The last line it wrote to stderr, without "fathom NAME: ", into out. */
void fmi_child_message(const fmi_child *c, char *out, size_t cap);
/* Whether its end or its message say that there is no space for files. */
bool fmi_child_disk_full(const fmi_child *c);
/* Runs to the end. stop: as fm_study_run_opts. FM_E_IO with the child's message when it fails. */
fm_status fmi_child_run(const fmi_args *a, const char *cwd, const char *out_path, fm_err *err);

/* --- claims (claim.c) --- */

typedef struct fmi_claim {
    char *path; /* queue/doing/<id>.<pid>.<host>; NULL: none */
    char id[FM_STUDY_ID_MAX];
    bool taken_back;
    int crashes; /* children of this run that died by a signal so far */
    int attempts;
} fmi_claim;

/* This process as a lease names it, "<pid>.<host>". */
void fmi_claim_self(char *out, size_t cap);
bool fmi_process_gone(long pid); /* of this host and process namespace */
/* Takes waiting/<id>, or an expired lease of it. *got false: somebody else has it. */
fm_status fmi_claim_take(const char *dir, const char *id, double lease_s, fmi_claim *out, bool *got,
                         fm_err *err);
/* Renews; *lost: another worker has taken it. */
fm_status fmi_claim_renew(const fmi_claim *c, bool *lost, fm_err *err);
void fmi_claim_note(fmi_claim *c, const char *word); /* a line in the file: "attempt", "crash" */
/* Moves it to queue/<state>/<id>. */
fm_status fmi_claim_end(fmi_claim *c, const char *dir, fm_study_state state, fm_err *err);
void fmi_claim_free(fmi_claim *c);
/* Splits "<id>.<pid>.<host>"; returns the length of the id, 0 for another form. */
size_t fmi_claim_split(const char *name, long *pid, const char **host);

/* --- shapes and designs (design_*.c) --- */

typedef struct fmi_study_size {
    int width, layers, experts;
    double params, params_total, M; /* as in fm_study_run */
} fmi_study_size;

/* model.* settings of the family at a width: "model.key=value", appended to the array `set`. ini:
 * study.ini (head dims and others that the family leaves alone). */
fm_status fmi_family_sets(const fm_study_design_opts *o, const fmi_ini *ini, int width, json_t *set,
                          fm_err *err);
/* Counts of nano + model.* of ini + model.* of set. */
fm_status fmi_family_count(const fmi_ini *ini, const json_t *set, int vocab, int seq,
                           fmi_study_size *out, fm_err *err);
/* Widths the family has, ascending: the one after `width` (0: the first); 0 past the last. */
int fmi_family_next(int width);

/* A design being made: the temporary directory, data, settings, measured speed. */
#define FMI_PROBES_MAX 16
typedef struct fmi_design {
    fm_study_design_opts o; /* defaults filled in */
    const fm_study_hooks *hooks;
    char *tmp;
    fmi_ini *ini;
    double train_tokens, train_bytes, val_tokens, val_bytes;
    int vocab;
    int n_probes;
    struct {
        int width, copies;
        double M, seconds_per_token, overhead_s; /* means over copies */
    } probe[FMI_PROBES_MAX];
    json_t *runs; /* of plan.json */
} fmi_design;

/* Opens tmp beside o->out, makes tokenizer and shards, study.ini. */
fm_status fmi_design_open(const fm_study_design_opts *o, const fm_study_hooks *hooks,
                          const char *own_settings, fmi_design *d, fm_err *err);
void fmi_design_free(fmi_design *d); /* removes tmp */
void fmi_design_stage(const fmi_design *d, const char *stage, const char *detail);
/* A setting of study.ini; 0 where it is absent or auto. */
double fmi_design_given(const fmi_design *d, const char *key);
/* Measures runs of these widths, o.workers at once; n <= FMI_PROBES_MAX. */
fm_status fmi_design_probe(fmi_design *d, const int *width, int n, fm_err *err);
/* Whether the program takes these settings (a dry run); FM_E_IO with its message. NULL: o.program.
 */
fm_status fmi_design_check(const fmi_design *d, const json_t *set, const char *program,
                           fm_err *err);
/* Expected seconds of a run of M over tokens, its start, evaluations of `eval_tokens` and save
 * counted. */
double fmi_design_seconds(const fmi_design *d, double M, double tokens, double eval_tokens);
/* Learning rate, batch and tokens rounded to steps for a run of budget C at M. */
void fmi_design_laws(const fmi_design *d, double M, double tokens, fm_study_run *r);
/* Appends a run to the plan; set is the per-run list (reference taken). program may be NULL. */
fm_status fmi_design_add(fmi_design *d, const fm_study_run *r, json_t *set, const char *program,
                         fm_err *err);
/* Time of the runs so far on o.workers, the longest first. */
double fmi_design_makespan(const double *seconds, int n, int workers);
/* plan.json, queue, and the directory under its name (not when o.dry_run). */
fm_status fmi_design_publish(fmi_design *d, const char *kind, json_t *extra, fm_study_design *out,
                             fm_err *err);

#endif
