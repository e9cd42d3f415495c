/* points.csv and index.db: tables of what is done, made from the directories whenever a run ends
 * and whenever asked. Each is written whole beside the old one and renamed; a lock lets one process
 * at a time do so, so that an older view never replaces a newer. Losing them loses nothing. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#ifdef FM_HAVE_SQLITE
#include <sqlite3.h>
#endif

#define CSV_HEAD                                                                                   \
    "id,arm,width,layers,params,params_total,nonembed_flops_per_token,tokens,flops,loss,bpb,"      \
    "train_loss,budget,seed,experts,lr,batch_tokens,epochs,seconds,wall_seconds,status\n"

/* Only runs that are done: a reader finds a number in every field. */
fm_status fmi_study_csv_write(const fmi_study *s, fm_err *err)
{
    char *path = fmi_study_path(s, "points.csv", NULL), line[1024];
    fmi_out *o = NULL;
    fm_status st = path ? fmi_out_open(path, &o, err) : FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    if (!st) st = fmi_out_write(o, CSV_HEAD, strlen(CSV_HEAD), err);
    for (int i = 0; i < s->n && !st; i++) {
        const fm_study_run *r = &s->run[i];
        if (r->state != FM_STUDY_DONE) continue;
        int n = snprintf(
            line, sizeof line,
            "%s,%s,%d,%d,%.0f,%.0f,%.0f,%.0f,%.9g,%.9g,%.9g,%.9g,%.9g,%lld,%d,%.9g,%.0f,%.6g,"
            "%.3f,%.3f,%s\n",
            r->id, r->arm, r->width, r->layers, r->params, r->params_total, r->flops_per_token,
            r->tokens, r->flops, r->loss, r->bits_per_byte, r->train_loss, r->budget,
            (long long)r->seed, r->experts, r->lr, r->batch_tokens, r->epochs, r->seconds,
            r->wall_seconds, fm_study_state_name(r->state));
        st = fmi_out_write(o, line, (size_t)n, err);
    }
    if (!st) st = fmi_out_close(o, err);
    fmi_out_free(o);
    fmi_free(path);
    return st;
}

#ifdef FM_HAVE_SQLITE
static const char schema[] =
    "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; BEGIN;"
    "CREATE TABLE runs(id TEXT PRIMARY KEY, arm TEXT, status TEXT, why TEXT, width INT, layers INT,"
    " experts INT, seed INT, budget REAL, params REAL, params_total REAL, nonembed_flops_per_token "
    "REAL,"
    " tokens REAL, flops REAL, epochs REAL, lr REAL, batch_tokens REAL, seconds_expected REAL, "
    "loss REAL,"
    " bpb REAL, train_loss REAL, seconds REAL, wall_seconds REAL, attempts INT)";
static const char insert[] =
    "INSERT INTO runs VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)";

static int put_run(sqlite3_stmt *q, const fm_study_run *r)
{
    const double reals[] = {
        r->budget, r->params, r->params_total, r->flops_per_token, r->tokens,
        r->flops,  r->epochs, r->lr,           r->batch_tokens,    r->seconds_expected};
    const double found[] = {r->loss, r->bits_per_byte, r->train_loss, r->seconds, r->wall_seconds};
    const char *texts[] = {r->id, r->arm, fm_study_state_name(r->state), r->why};
    int k = 1;
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
    for (size_t i = 0; i < 4; i++) sqlite3_bind_text(q, k++, texts[i], -1, SQLITE_STATIC);
    sqlite3_bind_int(q, k++, r->width);
    sqlite3_bind_int(q, k++, r->layers);
    sqlite3_bind_int(q, k++, r->experts);
    sqlite3_bind_int64(q, k++, r->seed);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++) sqlite3_bind_double(q, k++, reals[i]);
    for (size_t i = 0; i < sizeof found / sizeof *found; i++, k++) /* unknown stays NULL */
        if (r->state == FM_STUDY_DONE) sqlite3_bind_double(q, k, found[i]);
    sqlite3_bind_int(q, k, r->attempts);
    int rc = sqlite3_step(q);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static fm_status fill(sqlite3 *db, const fmi_study *s, const char *path, fm_err *err)
{
    sqlite3_stmt *q = NULL;
    int rc = sqlite3_exec(db, schema, NULL, NULL, NULL);
    if (!rc) rc = sqlite3_prepare_v2(db, insert, -1, &q, NULL);
    for (int i = 0; i < s->n && !rc; i++) rc = put_run(q, &s->run[i]);
    sqlite3_finalize(q);
    if (!rc) rc = sqlite3_exec(db, "COMMIT", NULL, NULL, NULL);
    return rc ? FM_FAIL(err, FM_E_IO, "%s: %s", path, sqlite3_errmsg(db)) : FM_OK;
}

fm_status fmi_study_index_write(const fmi_study *s, bool *have_db, fm_err *err)
{
    char *path = fmi_study_path(s, "index.db", NULL);
    char *tmp = path ? fmi_format("%s.tmp-%ld", path, (long)getpid()) : NULL;
    sqlite3 *db = NULL;
    *have_db = true;
    fm_status st = tmp ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    if (!st) st = fmi_tree_remove(tmp, err);
    if (!st && sqlite3_open(tmp, &db))
        st = FM_FAIL(err, FM_E_IO, "%s: %s", tmp, sqlite3_errmsg(db));
    if (!st) st = fill(db, s, tmp, err);
    sqlite3_close(db);
    if (!st && rename(tmp, path))
        st = FM_FAIL(err, FM_E_IO, "%s: cannot rename to %s: %s", tmp, path, strerror(errno));
    if (st && tmp) fmi_tree_remove(tmp, NULL);
    fmi_free(tmp);
    fmi_free(path);
    return st;
}
#else
fm_status fmi_study_index_write(const fmi_study *s, bool *have_db, fm_err *err)
{
    (void)s, (void)err;
    *have_db = false;
    return FM_OK;
}
#endif

fm_status fmi_study_publish(fmi_study *s, bool *have_db, fm_err *err)
{
    bool db;
    char *path = fmi_study_path(s, "queue", "lock");
    int fd = path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666) : -1;
    fm_status st = FM_OK;
    if (!path)
        st = FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    else if (fd < 0 || flock(fd, LOCK_EX))
        st = FM_FAIL(err, FM_E_IO, "%s: %s", path, strerror(errno));
    if (!st) st = fmi_study_refresh(s, err);
    if (!st) st = fmi_study_csv_write(s, err);
    if (!st) st = fmi_study_index_write(s, have_db ? have_db : &db, err);
    if (fd >= 0) close(fd);
    fmi_free(path);
    return st;
}

/* Runs in no directory of the queue (a copy that left empty files out) become waiting, unless somebody
 * is at work, whose moves could look like that. */
static fm_status repair(fmi_study *s, fm_err *err)
{
    fm_status st = FM_OK;
    bool working = false;
    for (int i = 0; i < s->n; i++) working |= s->run[i].state == FM_STUDY_DOING;
    for (int i = 0; i < s->n && !st && !working; i++) {
        if (s->run[i].state != FM_STUDY_WAITING) continue;
        char *path = fmi_format("%s/queue/waiting/%s", s->dir, s->run[i].id);
        if (!path)
            st = FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
        else if (!fmi_path_exists(path))
            st = fmi_file_write(path, "", 0, err);
        fmi_free(path);
    }
    return st;
}

fm_status fm_study_reindex(const char *dir, bool *have_db, fm_err *err)
{
    fmi_study *s;
    fm_status st = fmi_study_open(dir, &s, err);
    if (st) return st;
    st = repair(s, err);
    if (!st) st = fmi_study_publish(s, have_db, err);
    fmi_study_close(s);
    return st;
}
