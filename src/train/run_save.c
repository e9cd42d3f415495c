/* Checkpoints of a run: model and trainer state into one directory, published by a rename, then rotation.
 * On failure (a full disk included) the half-made directory is removed and the old ones stand. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "model/checkpoint.h"
#include "train/run.h"

/* RUN/checkpoints/best -> STEP, replaced in one rename. */
static fm_status link_best(const fm_trainer *t, fm_err *err)
{
    char *link = fmi_format("%s/checkpoints/best", t->dir);
    char *tmp = fmi_format("%s/checkpoints/best.tmp-%ld", t->dir, (long)getpid());
    char step[32];
    snprintf(step, sizeof step, "%lld", (long long)t->r.best_step);
    fm_status st = link && tmp ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    if (!st) {
        unlink(tmp);
        if (symlink(step, tmp) || rename(tmp, link))
            st = FM_FAIL(err, FM_E_IO, "%s: %s", link, strerror(errno));
    }
    fmi_free(link);
    fmi_free(tmp);
    return st;
}

static fm_status fill(fm_trainer *t, const char *tmp, fm_err *err)
{
    fmi_checkpoint_opts o = { .tokenizer_dir = t->tok_dir };
    fm_status st = fmi_checkpoint_write(t->m, tmp, t->m->dt, &o, err);
    if (!st && t->st->optim->parts.ema) {
        char *ema = fmi_path_join(tmp, "ema");
        st = ema ? fmi_dir_make(ema, err) : FM_FAIL(err, FM_E_NOMEM, "%s", tmp);
        fmi_optim_show(t->st->optim, true);
        if (!st) st = fmi_checkpoint_write(t->m, ema, t->m->dt, &o, err);
        fmi_optim_show(t->st->optim, false);
        fmi_free(ema);
    }
    return st ? st : fmi_state_write(tmp, t->st, &t->window, &t->r, err);
}

fm_status fmi_run_save(fm_trainer *t, fm_err *err)
{
    char *path = fmi_format("%s/checkpoints/%lld", t->dir, (long long)t->r.step), *tmp = NULL;
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    bool best = t->r.eval_step == t->r.step && (t->r.best_step < 0 || t->r.eval_bits < t->r.best_bits);
    if (best) {
        t->r.best_step = t->r.step;
        t->r.best_bits = t->r.eval_bits;
    }
    t->r.feed = t->feed.pos;
    t->r.metrics_offset = t->metrics.offset;
    fm_status st = fmi_metrics_sync(&t->metrics, err);
    if (!st) st = fmi_dir_open_tmp(path, &tmp, err);
    if (!st) st = fill(t, tmp, err);
    if (!st) st = fmi_dir_close_tmp(tmp, path, true, err);
    if (st) {
        if (tmp) fmi_tree_remove(tmp, NULL);
        fmi_free(tmp);
        fmi_fail_prefix(err, st, "checkpoint of step %lld was not written (older ones are intact)",
                        (long long)t->r.step);
        fmi_free(path);
        return st;
    }
    fmi_free(tmp);
    fmi_free(t->checkpoint);
    t->checkpoint = path;
    t->last_save = fmi_clock_s();
    t->saved_step = t->r.step;
    if (best) st = link_best(t, err);
    return st ? st : fmi_state_rotate(t->dir, t->s.train_keep, t->r.best_step, err);
}
