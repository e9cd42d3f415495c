/* The worker: claims runs, the longest first, trains each in a child process, renews its leases,
 * and records what came out. It holds no state that is not on disk: killed at any moment, its
 * leases expire and its runs go on from their last checkpoint under whoever takes them.
 *
 *   the child reached the end     result.json, done
 *   it diverged or refused        result.json with its reason, failed; the study goes on
 *   it died by a signal           waiting again; failed after the third time
 *   the disk is full              waiting again; the worker stops
 *   the worker was told to stop   the child saves; waiting again
 *   the lease was lost            the child saves; the new owner records it
 *
 * A result is written before the run leaves doing/, and whoever takes a run looks for one first, so
 * that none is trained twice. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#define CRASHES_MAX 3
#define WORKERS_MAX 256
#define KILL_AFTER_S 600 /* of a child that was asked to save and stop */

typedef struct slot {
    fmi_claim claim; /* path NULL: idle                        */
    int run;
    fmi_child child; /* pid 0: waiting for the run's lock      */
    bool told, lost;
    double renewed, told_at;
} slot;

typedef struct worker {
    fmi_study *s;
    const fm_study_run_opts *o;
    slot *slot;
    int n_slots;
    int *order; /* [s->n] longest first */
    double lease_s, tick_s, looked, drawn;
    bool stopping, cancelled;
    fm_status st; /* why it stops, with err */
    fm_err err;
} worker;

static void event(const worker *w, fm_study_event e, const fm_study_run *r, const char *note)
{
    if (w->o->on_event) w->o->on_event(w->o->arg, e, r, note);
}

/* The first reason to stop is the one reported. */
static void stop_for(worker *w, fm_status st, const fm_err *err)
{
    if (!w->st) w->st = st, w->err = *err;
    w->stopping = true;
}

static json_t *plan_run(const fmi_study *s, int i)
{
    return json_array_get(json_object_get(s->plan, "runs"), (size_t)i);
}

static void run_args(const worker *w, int i, fmi_args *a)
{
    const fm_study_run *r = &w->s->run[i];
    const json_t *o = plan_run(w->s, i), *set = json_object_get(o, "set");
    const char *program = json_string_value(json_object_get(o, "program"));
    fmi_args_add(a, "%s", program ? program : w->o->program);
    fmi_args_add(a, "pretrain");
    fmi_args_add(a, "--data=data");
    fmi_args_add(a, "--recipe=study.ini");
    fmi_args_add(a, "--preset=nano");
    fmi_args_add(a, "--out=runs/%s", r->id);
    fmi_args_add(a, "--tokens=%.0f", r->tokens);
    fmi_args_add(a, "--seed=%lld", (long long)r->seed);
    if (w->o->threads) fmi_args_add(a, "--threads=%d", w->o->threads);
    fmi_args_add(a, "--prompt=");
    fmi_args_add(a, "--json");
    for (size_t k = 0; k < json_array_size(set); k++) {
        const char *v = json_string_value(json_array_get(set, k));
        fmi_args_add(a, "--set=%s", v ? v : "");
    }
}

/* Whether no process trains the run now (its directory's lock is free or not there yet). */
static bool lock_free(const fmi_study *s, const char *id)
{
    char *path = fmi_format("%s/runs/%s/lock", s->dir, id);
    int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    bool yes = fd < 0 || !flock(fd, LOCK_EX | LOCK_NB);
    if (fd >= 0) close(fd);
    fmi_free(path);
    return yes;
}

static void drop_checkpoints(const worker *w, const char *id)
{
    if (w->o->keep) return;
    char *path = fmi_format("%s/runs/%s/checkpoints", w->s->dir, id);
    if (path) fmi_tree_remove(path, NULL);
    fmi_free(path);
}

/* Out of doing/ and out of the slot. */
static void leave(worker *w, slot *p, fm_study_state state, fm_study_event e, const char *note)
{
    fm_study_run *r = &w->s->run[p->run];
    fm_err err = {0};
    r->state = state;
    if (p->lost)
        fmi_claim_free(&p->claim);
    else {
        fm_status st = fmi_claim_end(&p->claim, w->s->dir, state, &err);
        if (st) stop_for(w, st, &err);
    }
    if (state >= FM_STUDY_DONE && fmi_study_publish(w->s, NULL, &err))
        err.code = FM_OK; /* again at the end */
    event(w, e, r, note);
    memset(p, 0, sizeof *p);
}

/* A result on disk: the run is over, whoever wrote it. */
static bool already_over(worker *w, slot *p)
{
    fm_study_run *r = &w->s->run[p->run];
    char *path = fmi_format("%s/runs/%s/result.json", w->s->dir, r->id);
    json_t *o = NULL;
    bool over = path && fmi_path_is_file(path) && !fmi_json_load(path, 1 << 20, &o, NULL);
    const char *status = json_string_value(json_object_get(o, "status"));
    fm_study_state state = status && !strcmp(status, "failed") ? FM_STUDY_FAILED : FM_STUDY_DONE;
    json_decref(o);
    fmi_free(path);
    if (!over) return false;
    if (state == FM_STUDY_DONE) drop_checkpoints(w, r->id);
    r->attempts = 0; /* read it at the next look */
    leave(w, p, state, FM_STUDY_ENDED, "was recorded before");
    return true;
}

static void record(worker *w, slot *p, fm_study_state state, const fmi_study_metrics *m,
                   const char *why)
{
    fm_study_run *r = &w->s->run[p->run];
    fm_err err = {0};
    double wall = fmi_clock_s() - p->child.began;
    r->state = state;
    snprintf(r->why, sizeof r->why, "%s", why);
    r->loss = isfinite(m->loss) ? m->loss : 0;
    r->bits_per_byte = isfinite(m->bits_per_byte) ? m->bits_per_byte : 0;
    r->train_loss = isfinite(m->train_loss) ? m->train_loss : 0;
    r->seconds = m->seconds;
    r->wall_seconds = p->claim.attempts > 1 && m->elapsed > wall ? m->elapsed : wall;
    r->attempts = p->claim.attempts;
    fm_status st = fmi_study_result_write(w->s, r, &err);
    if (st) {
        fmi_fail_prefix(&err, st, "%s stays to do", r->id);
        stop_for(w, st, &err);
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, err.text);
        return;
    }
    if (state == FM_STUDY_DONE) drop_checkpoints(w, r->id);
    leave(w, p, state, FM_STUDY_ENDED, why);
}

/* The child died by a signal, or stopped in the middle without being told to. */
static void crashed(worker *w, slot *p, const fmi_study_metrics *m)
{
    char why[FM_STUDY_WHY_MAX], note[FM_STUDY_WHY_MAX];
    if (WIFSIGNALED(p->child.status))
        snprintf(why, sizeof why, "ended by signal %d%s", WTERMSIG(p->child.status),
                 WTERMSIG(p->child.status) == 9 ? " (is memory short?)" : "");
    else
        snprintf(why, sizeof why, "stopped before its end");
    fmi_claim_note(&p->claim, "crash");
    if (p->claim.crashes < CRASHES_MAX) {
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, why);
        return;
    }
    snprintf(note, sizeof note, "%.200s, %d times", why, p->claim.crashes);
    record(w, p, FM_STUDY_FAILED, m, note);
}

static void disk_full(worker *w, slot *p)
{
    char why[FM_STUDY_WHY_MAX];
    fm_err err = {0};
    fmi_child_message(&p->child, why, sizeof why);
    FM_FAIL(&err, FM_E_IO, "%s: %s; the run stays to do: make room and start again",
            w->s->run[p->run].id, why);
    stop_for(w, FM_E_IO, &err);
    leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, why);
}

/* The child refused or its loss was not finite. */
static void refused(worker *w, slot *p, const fmi_study_metrics *m)
{
    char why[FM_STUDY_WHY_MAX];
    fm_err err = {0};
    fmi_child_message(&p->child, why, sizeof why);
    if (WEXITSTATUS(p->child.status) >=
        126) { /* the program itself: no other run would start either */
        FM_FAIL(&err, FM_E_IO, "%s", why);
        stop_for(w, FM_E_IO, &err);
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, why);
    } else if (strstr(p->child.tail, "another process is training this run")) {
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, why);
    } else {
        record(w, p, FM_STUDY_FAILED, m, why);
    }
}

static void ended(worker *w, slot *p)
{
    const fm_study_run *r = &w->s->run[p->run];
    char *run = fmi_study_path(w->s, "runs", r->id), why[FM_STUDY_WHY_MAX];
    fmi_study_metrics m = {0};
    fm_err err = {0};
    fm_status st = run ? fmi_study_metrics_read(run, r->tokens, &m, &err)
                       : FM_FAIL(&err, FM_E_NOMEM, "%s", r->id);
    double guess = log(json_number_value(json_object_get(w->s->plan, "vocab")));
    bool clean = WIFEXITED(p->child.status) && !WEXITSTATUS(p->child.status);
    fmi_free(run);
    if (p->lost)
        leave(w, p, FM_STUDY_DOING, FM_STUDY_RELEASED, "another worker has it");
    else if (st) {
        stop_for(w, st, &err);
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, err.text);
    } else if (clean && m.ended && !(isfinite(m.loss) && isfinite(m.bits_per_byte))) {
        record(w, p, FM_STUDY_FAILED, &m, "diverged: the held-out loss is not finite");
    } else if (clean && m.ended && guess > 0 && m.loss > guess) {
        snprintf(why, sizeof why, "diverged: held-out loss %.3f is above that of guessing, %.3f",
                 m.loss, guess);
        record(w, p, FM_STUDY_FAILED, &m, why);
    } else if (clean && m.ended) {
        record(w, p, FM_STUDY_DONE, &m, "");
    } else if (fmi_child_disk_full(&p->child)) {
        disk_full(w, p);
    } else if (p->told) {
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, "stopped; its state is saved");
    } else if (clean || WIFSIGNALED(p->child.status)) {
        crashed(w, p, &m);
    } else {
        refused(w, p, &m);
    }
}

static void start_child(worker *w, slot *p)
{
    fmi_args a = {0};
    fm_err err = {0};
    fm_study_run *r = &w->s->run[p->run];
    char *dir = fmi_format("%s/runs/%s", w->s->dir, r->id);
    run_args(w, p->run, &a);
    fmi_claim_note(&p->claim, "attempt");
    fm_status st = dir ? fmi_dir_make(dir, &err) : FM_FAIL(&err, FM_E_NOMEM, "%s", r->id);
    if (!st) st = fmi_child_start(&p->child, &a, w->s->dir, NULL, &err);
    fmi_args_free(&a);
    fmi_free(dir);
    if (st) {
        stop_for(w, st, &err);
        leave(w, p, FM_STUDY_WAITING, FM_STUDY_RELEASED, err.text);
        return;
    }
    event(w, p->claim.taken_back ? FM_STUDY_TAKEN_BACK : FM_STUDY_STARTED, r, "");
}

static void tell(slot *p, int sig)
{
    if (!p->child.pid) return;
    fmi_child_signal(&p->child, sig);
    if (!p->told) p->told_at = fmi_clock_s();
    p->told = true;
}

static void advance(worker *w, slot *p)
{
    bool lost = false;
    double now = fmi_clock_s();
    if (!p->claim.path) return;
    if (now - p->renewed > w->lease_s / 5) {
        p->renewed = now;
        if (!fmi_claim_renew(&p->claim, &lost, NULL) && lost && !p->lost) {
            p->lost = true;
            tell(p, SIGTERM);
        }
    }
    if (p->child.pid) {
        if (p->told && now - p->told_at > KILL_AFTER_S) fmi_child_signal(&p->child, SIGKILL);
        if (fmi_child_poll(&p->child)) ended(w, p);
    } else if (p->lost || w->stopping) {
        leave(w, p, p->lost ? FM_STUDY_DOING : FM_STUDY_WAITING, FM_STUDY_RELEASED, "not started");
    } else if (!already_over(w, p) && lock_free(w->s, p->claim.id)) {
        start_child(w, p);
    }
}

/* Claims one run for an idle slot: the longest that can be had. */
static void pick(worker *w, slot *p)
{
    fm_err err = {0};
    for (int k = 0; k < w->s->n && !w->stopping; k++) {
        int i = w->order[k];
        bool got = false;
        if (w->s->run[i].state >= FM_STUDY_DONE) continue;
        fm_status st =
            fmi_claim_take(w->s->dir, w->s->run[i].id, w->lease_s, &p->claim, &got, &err);
        if (st) stop_for(w, st, &err);
        if (!got) continue;
        w->s->run[i].state = FM_STUDY_DOING;
        p->run = i;
        p->renewed = fmi_clock_s();
        advance(w, p);
        if (p->claim.path) return;
    }
}

/* Fresh states, then work for idle slots. True when something is left for this or another process.
 */
static bool look(worker *w)
{
    fm_err err = {0};
    bool busy = false;
    fm_status st = fmi_study_refresh(w->s, &err);
    if (st) stop_for(w, st, &err);
    for (int i = 0; i < w->n_slots && !w->stopping; i++)
        if (!w->slot[i].claim.path) pick(w, &w->slot[i]);
    for (int i = 0; i < w->n_slots; i++) busy |= w->slot[i].claim.path != NULL;
    for (int i = 0; i < w->s->n && !w->stopping; i++) busy |= w->s->run[i].state < FM_STUDY_DONE;
    return busy;
}

static void wait_children(const worker *w)
{
    struct pollfd p[WORKERS_MAX];
    nfds_t n = 0;
    for (int i = 0; i < w->n_slots; i++)
        if (w->slot[i].child.pid)
            p[n++] = (struct pollfd){.fd = w->slot[i].child.pipe, .events = POLLIN};
    int k = poll(p, n, 100);
    if (k > 0) poll(NULL, 0, 10); /* a closed pipe comes a moment before the end of its process */
}

static void draw(worker *w, double now)
{
    fm_study_board b;
    if (!w->o->on_board || now - w->drawn < w->tick_s) return;
    w->drawn = now;
    if (!fmi_study_board_fill(w->s, &b, NULL)) w->o->on_board(w->o->arg, &b);
}

static void work(worker *w)
{
    bool busy = true;
    while (busy) {
        double now = fmi_clock_s();
        int asked = w->o->stop ? *w->o->stop : 0;
        if (asked) w->stopping = w->cancelled = true;
        for (int i = 0; i < w->n_slots; i++) {
            slot *p = &w->slot[i];
            if (w->stopping && p->child.pid && !p->told) tell(p, SIGINT);
            if (asked > 1) tell(p, SIGKILL);
            advance(w, p);
        }
        bool idle = false;
        busy = false;
        for (int i = 0; i < w->n_slots; i++) {
            idle |= !w->slot[i].claim.path;
            busy |= w->slot[i].claim.path != NULL;
        }
        if (!w->stopping && (now - w->looked >= w->tick_s || idle)) {
            busy = look(w);
            w->looked = now;
        }
        draw(w, now);
        if (busy) wait_children(w);
    }
}

/* Leases with this process's own name are an earlier life's of the same number. */
static fm_status clear_own(const fmi_study *s, fm_err *err)
{
    char self[96], **names = NULL, *doing = fmi_study_path(s, "queue", "doing");
    int n = 0;
    fmi_claim_self(self, sizeof self);
    fm_status st =
        doing ? fmi_dir_names(doing, &names, &n, err) : FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    for (int i = 0; i < n && !st; i++) {
        size_t len = fmi_claim_split(names[i], NULL, NULL);
        if (!len || strcmp(names[i] + len + 1, self)) continue;
        char *from = fmi_path_join(doing, names[i]);
        char *to = fmi_format("%s/queue/waiting/%.*s", s->dir, (int)len, names[i]);
        if (!from || !to)
            st = FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
        else if (rename(from, to) && errno != ENOENT)
            st = FM_FAIL(err, FM_E_IO, "%s: cannot be renamed: %s", from, strerror(errno));
        fmi_free(from);
        fmi_free(to);
    }
    fmi_names_free(names, n);
    fmi_free(doing);
    return st;
}

/* Failed runs start again from nothing. */
static fm_status retry_failed(const fmi_study *s, fm_err *err)
{
    fm_status st = FM_OK;
    for (int i = 0; i < s->n && !st; i++) {
        if (s->run[i].state != FM_STUDY_FAILED) continue;
        const char *id = s->run[i].id;
        char *run = fmi_study_path(s, "runs", id),
             *from = fmi_format("%s/queue/failed/%s", s->dir, id);
        char *to = fmi_format("%s/queue/waiting/%s", s->dir, id);
        st = run && from && to ? fmi_tree_remove(run, err) : FM_FAIL(err, FM_E_NOMEM, "%s", id);
        if (!st) st = fmi_file_write(from, "", 0, err); /* its crashes are forgotten */
        if (!st && rename(from, to))
            st = FM_FAIL(err, FM_E_IO, "%s: cannot be renamed: %s", from, strerror(errno));
        fmi_free(run);
        fmi_free(from);
        fmi_free(to);
    }
    return st;
}

static const fmi_study *sorting;
static int longer_first(const void *a, const void *b)
{
    double x = sorting->run[*(const int *)a].seconds_expected,
           y = sorting->run[*(const int *)b].seconds_expected;
    return x < y ? 1 : x > y ? -1 : *(const int *)a - *(const int *)b;
}

static fm_status prepare(worker *w, fm_err *err)
{
    w->order = fmi_alloc((size_t)w->s->n * sizeof *w->order);
    w->slot = fmi_zalloc((size_t)w->n_slots * sizeof *w->slot);
    if (!w->order || !w->slot) return FM_FAIL(err, FM_E_NOMEM, "%s", w->s->dir);
    for (int i = 0; i < w->s->n; i++) w->order[i] = i;
    sorting = w->s;
    qsort(w->order, (size_t)w->s->n, sizeof *w->order, longer_first);
    fm_status st = clear_own(w->s, err);
    if (!st && w->o->retry) st = retry_failed(w->s, err);
    return st;
}

fm_status fm_study_work(const char *dir, const fm_study_run_opts *o, fm_err *err)
{
    worker w = {.o = o,
                .n_slots = o->workers > 0 ? o->workers : 1,
                .lease_s = o->lease_s > 0 ? o->lease_s : 30,
                .tick_s = o->tick_s > 0 ? o->tick_s : 1};
    if (w.n_slots > WORKERS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d workers; the limit is %d", w.n_slots, WORKERS_MAX);
    fm_status st = fmi_study_open(dir, &w.s, err);
    if (st) return st;
    st = prepare(&w, err);
    if (!st) {
        work(&w);
        w.drawn = 0;
        draw(&w, fmi_clock_s());
        st = w.st;
        if (st && err) *err = w.err;
        if (!st && w.cancelled)
            st = FM_FAIL(err, FM_E_CANCELLED, "stopped; the states of runs are saved");
        fm_status pub = st == FM_E_IO ? FM_OK : fmi_study_publish(w.s, NULL, err);
        if (!st) st = pub;
    }
    fmi_free(w.order);
    fmi_free(w.slot);
    fmi_study_close(w.s);
    return st;
}
