/* The data of a run: with text, a tokenizer and shards made inside the run directory (each appears whole or
 * not at all, so a killed start is simply done again); else the directory that was named. Declared in
 * run.h. */
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "train/run.h"

static void stage(const fm_train_hooks *h, const char *name, const char *detail)
{
    if (h && h->on_stage) h->on_stage(h->arg, name, detail);
}

/* The sources, borrowed from the request. */
static int list_sources(const fmi_request *r, const char **out)
{
    int n = 0;
    for (int i = 0; i < r->given->n; i++) {
        if (strncmp(r->given->entries[i].key, "data.text_", 10)) continue;
        if (out) out[n] = r->given->entries[i].value;
        n++;
    }
    return n;
}

/* Where the tokenizer for text comes from: the model to continue from, or trained in the run. */
static fm_status make_tokenizer(fm_trainer *t, const char *const *source, int n, const fm_train_hooks *hooks,
                                char **dir, fm_err *err)
{
    if (*t->req.s.run_model) {
        *dir = fmi_path_is_dir(t->req.s.run_model) ? fmi_strdup(t->req.s.run_model)
                                                   : fmi_path_parent(t->req.s.run_model);
        return *dir ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    }
    *dir = fmi_path_join(t->dir, "tokenizer");
    if (!*dir) return FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    if (fmi_path_is_dir(*dir)) return FM_OK;
    char *tmp = NULL, detail[64];
    snprintf(detail, sizeof detail, "%d entries", t->req.cfg.vocab_size);
    stage(hooks, "tokenizer", detail);
    fm_status st = fmi_dir_open_tmp(*dir, &tmp, err);
    if (!st) st = fm_data_train_tokenizer(source, n, t->req.cfg.vocab_size, tmp, NULL, err);
    if (!st) st = fmi_dir_close_tmp(tmp, *dir, false, err);
    if (st && tmp) fmi_tree_remove(tmp, NULL);
    fmi_free(tmp);
    return st;
}

static fm_status make_shards(fm_trainer *t, const char *tok_dir, const char *const *source, int n,
                             const fm_train_hooks *hooks, char **dir, fm_err *err)
{
    *dir = fmi_path_join(t->dir, "data");
    if (!*dir) return FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    if (fmi_path_is_dir(*dir)) return FM_OK;
    char detail[64];
    snprintf(detail, sizeof detail, "%d source%s", n, n == 1 ? "" : "s");
    stage(hooks, "shards", detail);
    fm_tokenizer *tok = NULL;
    fm_status st = fm_tokenizer_open(tok_dir, &tok, err);
    fm_data_options o = { .source = source, .n_sources = n,
                          .val_source = *t->req.s.data_val ? t->req.s.data_val : NULL };
    if (!st) st = fm_data_prepare(tok, &o, *dir, NULL, err);
    fm_tokenizer_free(tok);
    return st;
}

static fm_status from_text(fm_trainer *t, const fm_train_hooks *hooks, char **dir, fm_err *err)
{
    int n = list_sources(&t->req, NULL);
    const char **source = fmi_alloc((size_t)(n + 1) * sizeof *source);
    char *tok_dir = NULL;
    if (!source) return FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    list_sources(&t->req, source);
    fm_status st = make_tokenizer(t, source, n, hooks, &tok_dir, err);
    if (!st) st = make_shards(t, tok_dir, source, n, hooks, dir, err);
    fmi_free(tok_dir);
    fmi_free(source);
    return st;
}

/* The model's vocabulary follows the tokenizer unless it was given or comes with the weights. */
static fm_status fit_vocabulary(fm_trainer *t, fm_err *err)
{
    fm_config *c = &t->req.cfg;
    int32_t n = fm_data_vocab_size(t->data);
    bool fixed = *t->req.s.run_model || fmi_ini_get(t->req.given, "model.vocab_size");
    if (!fixed) c->vocab_size = n;
    if (c->vocab_size < n)
        return FM_FAIL(err, FM_E_SHAPE, "the data's tokenizer has %d entries, the model's vocabulary %d", n,
                       c->vocab_size);
    if (*t->req.s.run_model) return FM_OK;
    c->bos_token_id = fm_tokenizer_bos(t->tok);
    c->eos_token_id = fm_tokenizer_eos(t->tok);
    c->pad_token_id = fm_tokenizer_pad(t->tok);
    return FM_OK;
}

fm_status fmi_run_data(fm_trainer *t, const fm_train_hooks *hooks, fm_err *err)
{
    char *dir = NULL;
    fm_status st = FM_OK;
    if (*t->req.s.data_dir) {
        dir = fmi_strdup(t->req.s.data_dir);
        if (!dir) st = FM_FAIL(err, FM_E_NOMEM, "%s", t->dir);
    } else {
        st = from_text(t, hooks, &dir, err);
    }
    if (!st) st = fm_data_open(dir, &t->data, err);
    if (!st) st = fm_tokenizer_open(dir, &t->tok, err);
    if (!st && fm_tokenizer_hash(t->tok) != fm_data_tokenizer_hash(t->data))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: the shards were made with another tokenizer than the one beside "
                     "them", dir);
    if (!st) st = fit_vocabulary(t, err);
    t->tok_dir = dir;
    return st;
}
