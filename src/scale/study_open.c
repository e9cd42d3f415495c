/* A study in memory: plan.json, the state of each run from the queue's directories, its result from
 * runs/<id>/result.json. The directories are the truth, every other file is made of them. */
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "scale/study.h"

#define PLAN_BYTES_MAX ((size_t)64 << 20)
#define RESULT_BYTES_MAX ((size_t)1 << 20)

static const char *const state_names[] = {"waiting", "doing", "done", "failed"};

const char *fm_study_state_name(fm_study_state s)
{
    return state_names[s];
}

char *fmi_study_path(const fmi_study *s, const char *a, const char *b)
{
    return b ? fmi_format("%s/%s/%s", s->dir, a, b) : fmi_format("%s/%s", s->dir, a);
}

int fmi_study_find(const fmi_study *s, const char *id, size_t n)
{
    for (int i = 0; i < s->n; i++)
        if (strlen(s->run[i].id) == n && !memcmp(s->run[i].id, id, n)) return i;
    return -1;
}

/* Ids become file names of three parts, so they have no dot. */
static bool id_ok(const char *id)
{
    size_t n = strspn(id, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_");
    return n > 0 && n < FM_STUDY_ID_MAX && !id[n];
}

json_t *fmi_study_run_json(const fm_study_run *r)
{
    return json_pack(
        "{s:s, s:s, s:i, s:i, s:i, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "id",
        r->id, "arm", r->arm, "width", r->width, "layers", r->layers, "experts", r->experts, "seed",
        (json_int_t)r->seed, "budget", r->budget, "params", r->params, "params_total",
        r->params_total, "flops_per_token", r->flops_per_token, "tokens", r->tokens, "flops",
        r->flops, "epochs", r->epochs, "lr", r->lr, "batch_tokens", r->batch_tokens,
        "seconds_expected", r->seconds_expected);
}

static fm_status get_text(const json_t *o, const char *file, const char *key, char *out, size_t cap,
                          fm_err *err)
{
    const char *s;
    fm_status st = fmi_json_get_string(o, file, key, &s, err);
    if (st) return st;
    if (strlen(s) >= cap)
        return FM_FAIL(err, FM_E_RANGE, "%s: key \"%s\": %zu bytes", file, key, strlen(s));
    memcpy(out, s, strlen(s) + 1);
    return FM_OK;
}

static fm_status get_small(const json_t *o, const char *file, const char *key, int *out,
                           fm_err *err)
{
    int64_t v;
    fm_status st = fmi_json_get_int(o, file, key, &v, err);
    if (!st && (v < 0 || v > INT32_MAX))
        st = FM_FAIL(err, FM_E_RANGE, "%s: key \"%s\": %lld", file, key, (long long)v);
    if (!st) *out = (int)v;
    return st;
}

static fm_status read_run(const json_t *o, const char *file, fm_study_run *r, fm_err *err)
{
    const struct {
        const char *key;
        double *to;
    } reals[] = {{"budget", &r->budget},
                 {"params", &r->params},
                 {"params_total", &r->params_total},
                 {"flops_per_token", &r->flops_per_token},
                 {"tokens", &r->tokens},
                 {"flops", &r->flops},
                 {"epochs", &r->epochs},
                 {"lr", &r->lr},
                 {"batch_tokens", &r->batch_tokens},
                 {"seconds_expected", &r->seconds_expected}};
    fm_status st = get_text(o, file, "id", r->id, sizeof r->id, err);
    if (!st && !id_ok(r->id)) st = FM_FAIL(err, FM_E_FORMAT, "%s: key \"id\": \"%s\"", file, r->id);
    if (!st) st = get_text(o, file, "arm", r->arm, sizeof r->arm, err);
    if (!st) st = get_small(o, file, "width", &r->width, err);
    if (!st) st = get_small(o, file, "layers", &r->layers, err);
    if (!st) st = get_small(o, file, "experts", &r->experts, err);
    if (!st) st = fmi_json_get_int(o, file, "seed", &r->seed, err);
    for (size_t i = 0; i < sizeof reals / sizeof *reals && !st; i++)
        st = fmi_json_get_double(o, file, reals[i].key, reals[i].to, err);
    if (!st && !(r->tokens > 0))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: key \"tokens\": expected a positive number", file);
    return st;
}

static fm_status read_runs(fmi_study *s, const char *path, json_t *runs, fm_err *err)
{
    size_t n = json_array_size(runs);
    if (!n) return FM_FAIL(err, FM_E_FORMAT, "%s: no runs", path);
    s->run = fmi_zalloc(n * sizeof *s->run);
    if (!s->run) return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    for (size_t i = 0; i < n; i++) {
        fm_status st = read_run(json_array_get(runs, i), path, &s->run[i], err);
        if (!st && fmi_study_find(s, s->run[i].id, strlen(s->run[i].id)) >= 0)
            st = FM_FAIL(err, FM_E_FORMAT, "%s: id \"%s\" twice", path, s->run[i].id);
        if (st) return st;
        s->n++;
    }
    return FM_OK;
}

static fm_status read_plan(fmi_study *s, fm_err *err)
{
    char *path = fmi_study_path(s, "plan.json", NULL);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    json_t *runs = NULL;
    int64_t format = 0;
    fm_status st = FM_OK;
    if (!fmi_path_is_file(path))
        st = FM_FAIL(err, FM_E_STATE,
                     "%s: no plan.json: not a study (fathom scale design makes one)", s->dir);
    if (!st) st = fmi_json_load(path, PLAN_BYTES_MAX, &s->plan, err);
    if (!st) st = fmi_json_get_int(s->plan, path, "format", &format, err);
    if (!st && format != 1)
        st = FM_FAIL(err, FM_E_UNSUPPORTED, "%s: format %lld; this program reads 1", path,
                     (long long)format);
    if (!st) st = fmi_json_get_array(s->plan, path, "runs", &runs, err);
    if (!st) st = read_runs(s, path, runs, err);
    fmi_free(path);
    return st;
}

static double real_of(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : 0;
}

static fm_status read_result(const fmi_study *s, fm_study_run *r, fm_err *err)
{
    char *path = fmi_format("%s/runs/%s/result.json", s->dir, r->id);
    json_t *o = NULL;
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    fm_status st = fmi_path_is_file(path) ? fmi_json_load(path, RESULT_BYTES_MAX, &o, err) : FM_OK;
    if (!st && o) {
        const char *why = json_string_value(json_object_get(o, "why"));
        snprintf(r->why, sizeof r->why, "%s", why ? why : "");
        r->loss = real_of(o, "loss");
        r->bits_per_byte = real_of(o, "bits_per_byte");
        r->train_loss = real_of(o, "train_loss");
        r->seconds = real_of(o, "seconds");
        r->wall_seconds = real_of(o, "wall_seconds");
        r->attempts = (int)real_of(o, "attempts");
    }
    json_decref(o);
    fmi_free(path);
    return st;
}

fm_status fmi_study_result_write(const fmi_study *s, const fm_study_run *r, fm_err *err)
{
    char *path = fmi_format("%s/runs/%s/result.json", s->dir, r->id);
    char *dir = fmi_study_path(s, "runs", r->id);
    fmi_json_init();
    json_t *o = json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f, s:i}", "id", r->id, "status",
                          fm_study_state_name(r->state), "why", r->why, "loss", r->loss,
                          "bits_per_byte", r->bits_per_byte, "train_loss", r->train_loss, "seconds",
                          r->seconds, "wall_seconds", r->wall_seconds, "attempts", r->attempts);
    fm_status st =
        path && dir && o ? fmi_dir_make(dir, err) : FM_FAIL(err, FM_E_NOMEM, "%s: result", r->id);
    if (!st) st = fmi_json_write(path, o, err);
    json_decref(o);
    fmi_free(path);
    fmi_free(dir);
    return st;
}

/* A file moves waiting -> doing -> done or failed: reading the directories in this order, a run that
 * moves meanwhile is seen late, never lost. One that goes back is seen at the next look. */
static fm_status read_states(fmi_study *s, fm_err *err)
{
    fm_status st = FM_OK;
    for (int i = 0; i < s->n; i++) s->run[i].state = FM_STUDY_WAITING;
    for (int k = 0; k < 4 && !st; k++) {
        char **names = NULL, *path = fmi_study_path(s, "queue", state_names[k]);
        int n = 0;
        st = path ? fmi_dir_names(path, &names, &n, err) : FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
        for (int j = 0; j < n; j++) {
            size_t len =
                k == FM_STUDY_DOING ? fmi_claim_split(names[j], NULL, NULL) : strlen(names[j]);
            int i = len ? fmi_study_find(s, names[j], len) : -1;
            if (i >= 0) s->run[i].state = (fm_study_state)k;
        }
        fmi_names_free(names, n);
        fmi_free(path);
    }
    return st;
}

fm_status fmi_study_refresh(fmi_study *s, fm_err *err)
{
    fm_status st = read_states(s, err);
    for (int i = 0; i < s->n && !st; i++) {
        fm_study_run *r = &s->run[i];
        if (r->state < FM_STUDY_DONE)
            r->attempts = 0;
        else if (!r->attempts)
            st = read_result(s, r, err); /* never changes once it is there */
    }
    return st;
}

fm_status fmi_study_open(const char *dir, fmi_study **out, fm_err *err)
{
    fmi_study *s = fmi_zalloc(sizeof *s);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "study %s", dir);
    fmi_json_init();
    s->dir = fmi_strdup(dir);
    fm_status st = s->dir ? read_plan(s, err) : FM_FAIL(err, FM_E_NOMEM, "study %s", dir);
    if (!st) st = fmi_study_refresh(s, err);
    if (st) {
        fmi_study_close(s);
        return st;
    }
    *out = s;
    return FM_OK;
}

void fmi_study_close(fmi_study *s)
{
    if (!s) return;
    json_decref(s->plan);
    fmi_free(s->run);
    fmi_free(s->dir);
    fmi_free(s);
}

fm_status fm_study_points(const char *dir, fm_study_fn fn, void *arg, fm_err *err)
{
    fmi_study *s;
    fm_status st = fmi_study_open(dir, &s, err);
    if (st) return st;
    for (int i = 0; i < s->n; i++)
        if (!fn(arg, &s->run[i])) break;
    fmi_study_close(s);
    return FM_OK;
}
