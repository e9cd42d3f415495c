/* What every design begins with: the temporary directory, study.ini from the study's own settings,
 * the user's recipe and the user's settings, and tokenizer and shards by child processes of the
 * same program (or copied). */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#define SHARD_COPY_BYTES ((size_t)1 << 20)

void fmi_design_stage(const fmi_design *d, const char *stage, const char *detail)
{
    if (d->hooks && d->hooks->on_stage) d->hooks->on_stage(d->hooks->arg, stage, detail);
}

/* --- data --- */

static fm_status copy_file(const char *from, const char *to, fm_err *err)
{
    fmi_out *o = NULL;
    char *buf = fmi_alloc(SHARD_COPY_BYTES);
    int fd = buf ? open(from, O_RDONLY | O_CLOEXEC) : -1;
    fm_status st = FM_OK;
    if (!buf)
        st = FM_FAIL(err, FM_E_NOMEM, "copying %s", from);
    else if (fd < 0)
        st = FM_FAIL(err, FM_E_IO, "%s: %s", from, strerror(errno));
    if (!st) st = fmi_out_open(to, &o, err);
    for (ssize_t n = 1; !st && n > 0;) {
        n = read(fd, buf, SHARD_COPY_BYTES);
        if (n < 0)
            st = FM_FAIL(err, FM_E_IO, "%s: %s", from, strerror(errno));
        else if (n > 0)
            st = fmi_out_write(o, buf, (size_t)n, err);
    }
    if (!st) st = fmi_out_close(o, err);
    fmi_out_free(o);
    if (fd >= 0) close(fd);
    fmi_free(buf);
    return st;
}

/* A directory of plain files. */
static fm_status copy_dir(const char *from, const char *to, fm_err *err)
{
    char **names = NULL;
    int n = 0;
    fm_status st = fmi_dir_names(from, &names, &n, err);
    if (!st) st = fmi_dir_make(to, err);
    for (int i = 0; i < n && !st; i++) {
        char *a = fmi_path_join(from, names[i]), *b = fmi_path_join(to, names[i]);
        if (!a || !b)
            st = FM_FAIL(err, FM_E_NOMEM, "copying %s", from);
        else if (fmi_path_is_file(a))
            st = copy_file(a, b, err);
        fmi_free(a);
        fmi_free(b);
    }
    fmi_names_free(names, n);
    return st;
}

static fm_status make_shards(fmi_design *d, fm_err *err)
{
    fmi_args t = {0}, s = {0};
    const fm_study_design_opts *o = &d->o;
    char note[96];
    fmi_args_add(&t, "%s", o->program);
    fmi_args_add(&t, "tokenizer");
    fmi_args_add(&t, "train");
    fmi_args_add(&t, "--vocab=%d", o->vocab);
    fmi_args_add(&t, "--out=%s/tokenizer", d->tmp);
    fmi_args_add(&s, "%s", o->program);
    fmi_args_add(&s, "data");
    fmi_args_add(&s, "--out=%s/data", d->tmp);
    fmi_args_add(&s, "--tokenizer=%s/tokenizer", d->tmp);
    if (o->val)
        fmi_args_add(&s, "--val=%s", o->val);
    else
        fmi_args_add(&s, "--val-every=%d", o->val_every);
    for (int i = 0; i < o->n_text; i++) {
        fmi_args_add(&t, "%s", o->text[i]);
        fmi_args_add(&s, "%s", o->text[i]);
    }
    snprintf(note, sizeof note, "%d entries from %d file%s", o->vocab, o->n_text,
             o->n_text > 1 ? "s" : "");
    fmi_design_stage(d, "tokenizer", note);
    fm_status st = fmi_child_run(&t, ".", NULL, err);
    if (!st) {
        fmi_design_stage(d, "shards", "every document, once");
        st = fmi_child_run(&s, ".", NULL, err);
    }
    fmi_args_free(&t);
    fmi_args_free(&s);
    return st;
}

static fm_status read_split(const json_t *o, const char *file, const char *key, double *tokens,
                            double *bytes, fm_err *err)
{
    json_t *c;
    fm_status st = fmi_json_get_object(o, file, key, &c, err);
    if (!st) st = fmi_json_get_double(c, file, "tokens", tokens, err);
    if (!st) st = fmi_json_get_double(c, file, "bytes", bytes, err);
    return st;
}

static fm_status read_manifest(fmi_design *d, fm_err *err)
{
    char *path = fmi_format("%s/data/data.json", d->tmp);
    json_t *o = NULL;
    int64_t vocab = 0;
    fm_status st = path ? fmi_json_load(path, FMI_JSON_BYTES_MAX, &o, err)
                        : FM_FAIL(err, FM_E_NOMEM, "data.json");
    if (!st) st = read_split(o, path, "train", &d->train_tokens, &d->train_bytes, err);
    if (!st) st = read_split(o, path, "val", &d->val_tokens, &d->val_bytes, err);
    if (!st) st = fmi_json_get_int(o, path, "vocab_size", &vocab, err);
    if (!st && (d->train_tokens < 1 || d->val_tokens < 1))
        st = FM_FAIL(err, FM_E_RANGE,
                     "%s: %.0f tokens to train on and %.0f held out; a study needs both",
                     d->o.data ? d->o.data : "the text", d->train_tokens, d->val_tokens);
    d->vocab = (int)vocab;
    json_decref(o);
    fmi_free(path);
    return st;
}

static fm_status open_data(fmi_design *d, fm_err *err)
{
    fm_status st = FM_OK;
    if (d->o.data) {
        char *to = fmi_format("%s/data", d->tmp);
        st = to ? copy_dir(d->o.data, to, err) : FM_FAIL(err, FM_E_NOMEM, "%s", d->o.data);
        fmi_free(to);
    } else {
        st = make_shards(d, err);
    }
    return st ? st : read_manifest(d, err);
}

/* --- settings --- */

/* The study's own, then the user's recipe, then the user's settings. */
static fm_status make_settings(fmi_design *d, const char *own, fm_err *err)
{
    fmi_ini *user = NULL;
    char *path = fmi_format("%s/study.ini", d->tmp);
    fm_status st = path ? fmi_ini_parse("study.ini", own, strlen(own), &d->ini, err)
                        : FM_FAIL(err, FM_E_NOMEM, "study.ini");
    char seq[32];
    snprintf(seq, sizeof seq, "%d", d->o.seq);
    if (!st) st = fmi_ini_set(d->ini, "data.seq", seq, err);
    if (!st && d->o.recipe) st = fmi_ini_open(d->o.recipe, &user, err);
    for (int i = 0; !st && user && i < user->n; i++)
        st = fmi_ini_set(d->ini, user->entries[i].key, user->entries[i].value, err);
    fmi_ini_free(user);
    for (int i = 0; !st && i < d->o.n_set; i++) {
        const char *value = strchr(d->o.set[i], '=');
        char key[128];
        if (!value || value == d->o.set[i] || (size_t)(value - d->o.set[i]) >= sizeof key) {
            st = FM_FAIL(err, FM_E_FORMAT, "setting \"%s\": expected section.key=value",
                         d->o.set[i]);
            break;
        }
        snprintf(key, sizeof key, "%.*s", (int)(value - d->o.set[i]), d->o.set[i]);
        st = fmi_ini_set(d->ini, key, value + 1, err);
    }
    if (!st) st = fmi_ini_write(d->ini, path, err);
    const char *given = st ? NULL : fmi_ini_get(d->ini, "data.seq");
    if (given) d->o.seq = (int)strtol(given, NULL, 10);
    if (!st && d->o.seq < 8) st = FM_FAIL(err, FM_E_RANGE, "data.seq: %s", given ? given : "0");
    fmi_free(path);
    return st;
}

static void fill_defaults(fm_study_design_opts *o)
{
    if (!o->val_every) o->val_every = 50;
    if (!o->vocab) o->vocab = 2048;
    if (!o->budgets) o->budgets = 4;
    if (o->span <= 0) o->span = 27;
    if (o->minutes <= 0) o->minutes = 60;
    if (!o->sizes) o->sizes = 7;
    if (o->sizes_span <= 0) o->sizes_span = 12;
    if (o->centre <= 0) o->centre = 1;
    if (o->epochs <= 0) o->epochs = 4;
    if (!o->seeds) o->seeds = 1;
    if (!o->experts) o->experts = 16;
    if (!o->active) o->active = 4;
    if (!o->seq) o->seq = 512;
    if (o->lr_scale <= 0) o->lr_scale = 0.3118, o->lr_exponent = -0.1250;
    if (o->batch_scale <= 0) o->batch_scale = 0.2920, o->batch_exponent = 0.3271;
    if (o->workers < 1) o->workers = 1;
}

/* Removes OUT.tmp-<pid> of designs that were killed. */
static void sweep(const char *out)
{
    char *parent = fmi_path_parent(out), **names = NULL;
    const char *base = strrchr(out, '/');
    size_t k;
    int n = 0;
    base = base ? base + 1 : out;
    k = strlen(base);
    if (parent && k && !fmi_dir_names(parent, &names, &n, NULL)) {
        for (int i = 0; i < n; i++) {
            if (strncmp(names[i], base, k) || strncmp(names[i] + k, ".tmp-", 5)) continue;
            long pid = strtol(names[i] + k + 5, NULL, 10);
            char *path = fmi_path_join(parent, names[i]);
            if (path && pid > 0 && fmi_process_gone(pid)) fmi_tree_remove(path, NULL);
            fmi_free(path);
        }
        fmi_names_free(names, n);
    }
    fmi_free(parent);
}

fm_status fmi_design_open(const fm_study_design_opts *o, const fm_study_hooks *hooks,
                          const char *own_settings, fmi_design *d, fm_err *err)
{
    memset(d, 0, sizeof *d);
    d->o = *o;
    d->hooks = hooks;
    fill_defaults(&d->o);
    fmi_json_init();
    if (!o->out) return FM_FAIL(err, FM_E_RANGE, "no directory for the study");
    if (!o->data == !o->n_text)
        return FM_FAIL(err, FM_E_RANGE, "expected text or a directory of shards");
    if (!o->dry_run && fmi_path_exists(o->out))
        return FM_FAIL(err, FM_E_STATE, "%s: already exists", o->out);
    sweep(o->out);
    d->runs = json_array();
    fm_status st =
        d->runs ? fmi_dir_open_tmp(o->out, &d->tmp, err) : FM_FAIL(err, FM_E_NOMEM, "a plan");
    if (!st) st = make_settings(d, own_settings, err); /* before the long work */
    if (!st) st = open_data(d, err);
    if (st) fmi_design_free(d);
    return st;
}

void fmi_design_free(fmi_design *d)
{
    if (d->tmp) fmi_tree_remove(d->tmp, NULL);
    fmi_free(d->tmp);
    fmi_ini_free(d->ini);
    json_decref(d->runs);
    memset(d, 0, sizeof *d);
}

/* A setting of study.ini; 0 where it is absent or auto. */
double fmi_design_given(const fmi_design *d, const char *key)
{
    const char *v = fmi_ini_get(d->ini, key);
    return v && strcmp(v, "auto") ? strtod(v, NULL) : 0;
}
