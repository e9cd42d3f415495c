/* Opening a run: a new directory, or one that is there with the same recipe. Every part is made so that a
 * kill at any point leaves something the next opening goes on from. Declared in run.h. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "io/file.h"
#include "model/count.h"
#include "train/run.h"

static void stage(const fm_train_hooks *h, const char *name, const char *detail)
{
    if (h && h->on_stage) h->on_stage(h->arg, name, detail);
}

/* runs/<command>-<preset>-<time> */
static char *default_dir(const fmi_request *r)
{
    char when[32];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(when, sizeof when, "%Y%m%d-%H%M%S", &tm);
    const char *name = r->s.run_preset;
    if (!*name) {
        name = strrchr(r->s.run_model, '/');
        name = name && name[1] ? name + 1 : "model";
    }
    return fmi_format("runs/%s-%s-%s", r->s.run_command, name, when);
}

static bool has_recipe(const char *dir)
{
    char *p = fmi_path_join(dir, "recipe.ini");
    bool yes = p && fmi_path_is_file(p);
    fmi_free(p);
    return yes;
}

static fm_status take_lock(fm_trainer *t, fm_err *err)
{
    char *p = fmi_path_join(t->dir, "lock");
    if (!p) return FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    t->lock = open(p, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    fm_status st = FM_OK;
    if (t->lock < 0) st = FM_FAIL(err, FM_E_IO, "%s: %s", p, strerror(errno));
    else if (flock(t->lock, LOCK_EX | LOCK_NB))
        st = FM_FAIL(err, FM_E_BUSY, "%s: another process is training this run", t->dir);
    fmi_free(p);
    return st;
}

/* Makes the directory and claims it with its recipe; or checks that it is the same run. */
static fm_status claim(fm_trainer *t, fm_err *err)
{
    char **names;
    int n = 0;
    if (has_recipe(t->dir)) {
        fmi_request have;
        fm_status st = fmi_request_load(t->dir, &have, &t->s, err);
        if (st) return st;
        st = fmi_request_compare(t->dir, &have, &t->req, err);
        fmi_request_deinit(&have);
        return st ? st : take_lock(t, err);
    }
    fm_status st = fmi_dir_make(t->dir, err);
    if (!st) st = fmi_dir_names(t->dir, &names, &n, err);
    if (st) return st;
    for (int i = 0; i < n && !st; i++)
        if (strcmp(names[i], "lock") && !strstr(names[i], ".tmp-"))
            st = FM_FAIL(err, FM_E_STATE, "%s: holds \"%s\" and no recipe.ini: not a run, and not empty",
                         t->dir, names[i]);
    fmi_names_free(names, n);
    if (!st) st = take_lock(t, err);
    return st ? st : fmi_request_save(&t->req, &t->req.s, t->dir, err);
}

static fm_dtype precision(const fmi_settings *s)
{
    return strcmp(s->run_precision, "f32") ? FM_DTYPE_BF16 : FM_DTYPE_F32;
}

/* From the newest checkpoint, from the model to continue, or fresh. */
static fm_status open_model(fm_trainer *t, const char *from, fm_err *err)
{
    const fmi_settings *s = &t->req.s;
    fm_model_opts mo = { .precision = precision(s), .writable = true };
    if (from) return fm_model_open(t->x, from, &mo, &t->m, err);
    if (*s->run_model) {
        for (int i = 0; i < t->req.given->n; i++)
            if (!strncmp(t->req.given->entries[i].key, "model.", 6))
                return FM_FAIL(err, FM_E_RANGE, "%s cannot be changed when continuing from %s",
                               t->req.given->entries[i].key, s->run_model);
        return fm_model_open(t->x, s->run_model, &mo, &t->m, err);
    }
    fm_status st = fmi_model_new(t->x, &t->req.cfg, precision(s), false, &t->m, err);
    return st ? st : fmi_model_init(t->m, (uint64_t)s->run_seed, err);
}

static int64_t docs_length(void *arg, int64_t doc)
{
    return fm_data_document(arg, FM_SPLIT_TRAIN, doc, NULL);
}

static void docs_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    fm_data_read(arg, FM_SPLIT_TRAIN, doc, begin, n, out);
}

static int64_t val_length(void *arg, int64_t doc)
{
    return fm_data_document(arg, FM_SPLIT_VAL, doc, NULL);
}

static void val_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    fm_data_read(arg, FM_SPLIT_VAL, doc, begin, n, out);
}

/* The first held-out documents that together reach eval_tokens. */
static void cap_val(fm_trainer *t)
{
    int64_t cap = t->req.s.train_eval_tokens, tokens = 0;
    fm_data_count all = fm_data_total(t->data, FM_SPLIT_VAL);
    t->val_docs_all = all.n_documents;
    t->val_bytes_all = all.n_bytes;
    t->val_docs = t->val_bytes = 0;
    while (t->val_docs < all.n_documents && (!cap || tokens < cap)) {
        int64_t bytes;
        tokens += fm_data_document(t->data, FM_SPLIT_VAL, t->val_docs++, &bytes);
        t->val_bytes += bytes;
    }
}

static fm_status open_feeds(fm_trainer *t, fm_err *err)
{
    const fmi_settings *s = &t->req.s;
    fm_data_count n = fm_data_total(t->data, FM_SPLIT_TRAIN);
    fmi_docs docs = { t->data, n.n_documents, docs_length, docs_copy };
    fm_status st = fmi_feed_init(&t->feed, &docs, s->data_seq, (uint64_t)s->run_seed, true, false, err);
    if (st) return st;
    t->bits_per_nat = n.n_bytes ? (double)(n.n_tokens - n.n_documents) / (double)n.n_bytes / log(2.0) : 0;
    cap_val(t);
    if (!t->val_docs) return FM_OK;
    fmi_docs val = { t->data, t->val_docs_all, val_length, val_copy };
    return fmi_feed_init(&t->val_feed, &val, s->data_seq, 0, false, true, err);
}

static fm_status open_state(fm_trainer *t, const char *from, fm_err *err)
{
    fmi_step_opts so = fmi_run_step_opts(&t->s, &t->m->cfg);
    fm_status st = fmi_stepper_new(t->m, &so, &t->st, err);
    if (!st) st = fmi_load_window_init(&t->window, t->m->lay.n_layers, t->m->cfg.n_routed_experts, err);
    for (int i = 0; i < t->m->lay.n_layers; i++) t->n_routed += t->m->lay.layers[i].moe;
    t->layers = fmi_zalloc((size_t)(t->n_routed + 1) * sizeof *t->layers);
    if (!st && !t->layers) st = FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    t->r.best_step = t->r.eval_step = -1;
    if (st || !from) return st;
    st = fmi_state_read(from, t->st, &t->window, &t->r, err);
    if (!st && !fmi_feed_pos_ok(&t->feed, &t->r.feed))
        st = FM_FAIL(err, FM_E_FORMAT, "%s/trainer/state.json: the feed's position does not fit the data",
                     from);
    t->feed.pos = t->r.feed;
    t->saved_step = t->r.step;
    return st;
}

/* Everything after the directory is claimed. */
static fm_status open_run(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    int64_t step;
    char *checkpoints = fmi_path_join(t->dir, "checkpoints");
    fm_status st = checkpoints ? fmi_dir_make(checkpoints, err) : FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    if (!st) st = fmi_dir_sweep_tmp(t->dir, err);
    if (!st) st = fmi_dir_sweep_tmp(checkpoints, err);
    fmi_free(checkpoints);
    if (!st) st = fmi_run_data(t, hooks, err);
    if (!st) st = fmi_horizons_read(t->dir, &t->ends, err);
    if (!st) st = fmi_state_latest(t->dir, &t->checkpoint, &step, err);
    if (st) return st;
    if (t->checkpoint && !t->ends.n)
        return FM_FAIL(err, FM_E_FORMAT, "%s: checkpoints but no schedule.json", t->dir);
    if (t->checkpoint) stage(hooks, "resume", t->checkpoint);
    else stage(hooks, "model", *t->req.s.run_model ? t->req.s.run_model : t->req.s.run_preset);
    st = open_model(t, t->checkpoint, err);
    if (!st) st = open_feeds(t, err);
    if (st) return st;
    fmi_flops f;
    fmi_count_flops(&t->m->cfg, &t->m->lay, t->req.s.data_seq, &f);
    t->flops_per_token = f.training;
    if (!t->ends.n) st = fmi_run_decide(t, hooks, err);
    if (!st) st = open_state(t, t->checkpoint, err);
    if (!st) st = fmi_run_files(t, t->checkpoint != NULL, err);
    t->p.step = t->r.step;
    t->p.tokens = t->r.tokens;
    t->p.seconds = t->r.seconds;
    t->p.val_bits_per_byte = t->r.eval_step >= 0 ? t->r.eval_bits : -1;
    return st;
}

/* A run that could not begin leaves nothing, so that the corrected command finds no other run. */
static void discard(fm_trainer *t, bool existed)
{
    fmi_tree_remove(t->dir, NULL);
    if (existed) fmi_dir_make(t->dir, NULL);
}

static fm_status trainer_new(fm_exec *x, fm_trainer **out, fm_err *err)
{
    fm_trainer *t = fmi_zalloc(sizeof *t);
    if (!t) return FM_FAIL(err, FM_E_NOMEM, "trainer");
    t->x = x;
    t->lock = t->samples = t->metrics.fd = t->metrics.events.fd = -1;
    *out = t;
    return FM_OK;
}

fm_status fm_trainer_open(fm_exec *x, const fm_train_opts *o, const fm_train_hooks *hooks, fm_trainer **out,
                          fm_err *err)
{
    fm_trainer *t = NULL;
    fm_status st = trainer_new(x, &t, err);
    if (st) return st;
    bool fresh = false, existed = false;
    st = fmi_request_make(o, &t->req, err);
    if (!st) {
        t->dir = o->out ? fmi_strdup(o->out) : default_dir(&t->req);
        if (!t->dir) st = FM_FAIL(err, FM_E_NOMEM, "run directory");
    }
    if (!st) {
        existed = fmi_path_is_dir(t->dir);
        fresh = !existed || !has_recipe(t->dir);
        st = claim(t, err);
        fresh = fresh && !st;
    }
    if (!st) st = open_run(t, hooks, err);
    if (st) {
        if (fresh) discard(t, existed);
        fm_trainer_free(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

fm_status fm_trainer_resume(fm_exec *x, const char *run, double more_minutes, int64_t more_tokens,
                            const fm_train_hooks *hooks, fm_trainer **out, fm_err *err)
{
    fm_trainer *t = NULL;
    if (!has_recipe(run)) return FM_FAIL(err, FM_E_IO, "%s: no run here (recipe.ini is missing)", run);
    fm_status st = trainer_new(x, &t, err);
    if (st) return st;
    t->dir = fmi_strdup(run);
    if (!t->dir) st = FM_FAIL(err, FM_E_NOMEM, "run directory");
    if (!st) st = fmi_request_load(run, &t->req, &t->s, err);
    if (!st) st = take_lock(t, err);
    if (!st) st = open_run(t, hooks, err);
    if (!st && (more_minutes != 0 || more_tokens != 0))
        st = fmi_run_extend(t, more_minutes, more_tokens, err);
    if (st) {
        fm_trainer_free(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

void fm_trainer_free(fm_trainer *t)
{
    if (!t) return;
    fmi_metrics_close(&t->metrics);
    if (t->samples >= 0) close(t->samples);
    fmi_stepper_free(t->st);
    fmi_load_window_deinit(&t->window);
    fmi_free(t->layers);
    fmi_feed_deinit(&t->feed);
    fmi_feed_deinit(&t->val_feed);
    fm_model_close(t->m);
    fm_tokenizer_free(t->tok);
    fm_data_close(t->data);
    fmi_request_deinit(&t->req);
    fmi_free(t->tok_dir);
    fmi_free(t->checkpoint);
    if (t->lock >= 0) close(t->lock);
    fmi_free(t->dir);
    fmi_free(t);
}

fm_model *fm_trainer_model(fm_trainer *t)
{
    return t->m;
}

const fm_tokenizer *fm_trainer_tokenizer(const fm_trainer *t)
{
    return t->tok;
}

const char *fm_trainer_dir(const fm_trainer *t)
{
    return t->dir;
}

const char *fm_trainer_checkpoint(const fm_trainer *t)
{
    return t->checkpoint ? t->checkpoint : "";
}

void fm_trainer_progress(const fm_trainer *t, fm_train_progress *out)
{
    *out = t->p;
}

void fm_trainer_stop(fm_trainer *t)
{
    t->stop = 1;
}

void fm_trainer_save(fm_trainer *t)
{
    t->save = 1;
}
