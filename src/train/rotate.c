/* The checkpoints of a run as a set: which is newest, which may go. Declared in state.h. A checkpoint is
 * a directory whose name is its step in decimal; anything else there is left alone. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "train/state.h"

/* The step a name stands for, -1 when it is no checkpoint's. */
static int64_t step_of(const char *name)
{
    char *end;
    if (*name < '0' || *name > '9') return -1;
    errno = 0;
    long long v = strtoll(name, &end, 10);
    return *end || errno ? -1 : v;
}

static int descending(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

/* Steps of RUN/checkpoints, newest first; *steps is the caller's to free. */
static fm_status list_steps(const char *dir, int64_t **steps, int *n, fm_err *err)
{
    char **names = NULL;
    int n_names = 0;
    *n = 0;
    *steps = NULL;
    if (!fmi_path_is_dir(dir)) return FM_OK;
    fm_status st = fmi_dir_names(dir, &names, &n_names, err);
    if (st) return st;
    int64_t *s = fmi_alloc((size_t)(n_names + 1) * sizeof *s);
    int k = 0;
    for (int i = 0; s && i < n_names; i++)
        if (step_of(names[i]) >= 0) s[k++] = step_of(names[i]);
    fmi_names_free(names, n_names);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    qsort(s, (size_t)k, sizeof *s, descending);
    *steps = s;
    *n = k;
    return FM_OK;
}

fm_status fmi_state_latest(const char *run, char **path, int64_t *step, fm_err *err)
{
    char *dir = fmi_path_join(run, "checkpoints");
    int64_t *steps = NULL;
    int n = 0;
    *path = NULL;
    if (!dir) return FM_FAIL(err, FM_E_NOMEM, "%s", run);
    fm_status st = list_steps(dir, &steps, &n, err);
    for (int i = 0; i < n && !st && !*path; i++) {
        char *p = fmi_format("%s/%lld", dir, (long long)steps[i]);
        fm_err why = { 0 };
        if (!p) {
            st = FM_FAIL(err, FM_E_NOMEM, "%s", dir);
        } else if (fmi_state_verify(p, &why)) {
            fmi_log(1, "%s is damaged and passed over: %s", p, why.text);
            fmi_free(p);
        } else {
            *path = p;
            *step = steps[i];
        }
    }
    fmi_free(steps);
    fmi_free(dir);
    return st;
}

/* Renamed first: a removal that is cut short leaves nothing that looks whole. */
static fm_status remove_one(const char *dir, int64_t step, fm_err *err)
{
    char *p = fmi_format("%s/%lld", dir, (long long)step);
    char *away = fmi_format("%s/%lld.tmp-%ld", dir, (long long)step, (long)getpid());
    fm_status st = p && away ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    if (!st) st = fmi_tree_remove(away, err);
    if (!st && rename(p, away)) st = FM_FAIL(err, FM_E_IO, "%s: %s", p, strerror(errno));
    if (!st) st = fmi_tree_remove(away, err);
    fmi_free(p);
    fmi_free(away);
    return st;
}

fm_status fmi_state_rotate(const char *run, int64_t keep, int64_t best, fm_err *err)
{
    char *dir = fmi_path_join(run, "checkpoints");
    int64_t *steps = NULL;
    int n = 0;
    if (!dir) return FM_FAIL(err, FM_E_NOMEM, "%s", run);
    fm_status st = list_steps(dir, &steps, &n, err);
    for (int i = 0; i < n && !st; i++)
        if (i >= keep && steps[i] != best) st = remove_one(dir, steps[i], err);
    fmi_free(steps);
    fmi_free(dir);
    return st;
}
