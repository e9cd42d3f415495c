/* From options to a request, and recipe.ini: settings in the order preset < recipe < --set < option, the
 * configuration beside them, and the comparison of two requests. Declared in run.h. */
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "model/count.h"
#include "train/run.h"

#define AUTO_KEY "run.auto"

static bool is_extra(const char *key)
{
    return !strncmp(key, "model.", 6) || !strncmp(key, "data.text_", 10);
}

/* The last value given for `key` by options, set or recipe; NULL: none. */
static const char *given(const fm_train_opts *o, const fmi_ini *recipe, const char *key)
{
    size_t n = strlen(key);
    for (int i = o->n_set - 1; i >= 0; i--)
        if (!strncmp(o->set[i], key, n) && o->set[i][n] == '=') return o->set[i] + n + 1;
    return recipe ? fmi_ini_get(recipe, key) : NULL;
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

/* Where the configuration comes from. */
static fm_status base_config(const fm_train_opts *o, const fmi_ini *recipe, fmi_request *out, fm_err *err)
{
    const char *model = o->model ? o->model : or_empty(given(o, recipe, "run.model"));
    const char *preset = o->preset ? o->preset : or_empty(given(o, recipe, "run.preset"));
    fm_status st;
    if (*model && *preset)
        return FM_FAIL(err, FM_E_RANGE, "give a preset or a model to continue from, not both (%s, %s)",
                       preset, model);
    if (!*model && !*preset) preset = "nano";
    if (*model) st = fmi_config_read(model, &out->cfg, err);
    else st = fmi_config_preset(preset, &out->cfg, err);
    if (!st) st = fmi_settings_set(&out->s, NULL, "run.model", model, err);
    if (!st) st = fmi_settings_set(&out->s, NULL, "run.preset", preset, err);
    return st;
}

static fm_status apply_recipe(const fmi_ini *recipe, fmi_request *out, fm_err *err)
{
    fm_status st = FM_OK;
    for (int i = 0; i < recipe->n && !st; i++) {
        const fmi_ini_entry *e = &recipe->entries[i];
        if (!strcmp(e->key, AUTO_KEY)) continue;
        if (is_extra(e->key)) st = fmi_ini_set(out->given, e->key, e->value, err);
        if (!st && strncmp(e->key, "data.text_", 10))
            st = fmi_settings_set(&out->s, &out->cfg, e->key, e->value, err);
        if (st) return fmi_fail_prefix(err, st, "%s: line %d", recipe->name, e->line);
    }
    return st;
}

static fm_status apply_set(const char *entry, fmi_request *out, fm_err *err)
{
    const char *eq = strchr(entry, '=');
    char key[96];
    if (!eq || eq == entry || (size_t)(eq - entry) >= sizeof key)
        return FM_FAIL(err, FM_E_FORMAT, "--set %s: expected section.key=value", entry);
    memcpy(key, entry, (size_t)(eq - entry));
    key[eq - entry] = 0;
    fm_status st = fmi_settings_set(&out->s, &out->cfg, key, eq + 1, err);
    if (!st && is_extra(key)) st = fmi_ini_set(out->given, key, eq + 1, err);
    return st ? fmi_fail_prefix(err, st, "--set %s", entry) : FM_OK;
}

static fm_status apply_text(const fm_train_opts *o, fmi_request *out, fm_err *err)
{
    fm_status st = FM_OK;
    if (!o->n_text) return st;
    /* The options' list replaces the recipe's. */
    for (int i = 0; i < out->given->n; i++)
        if (!strncmp(out->given->entries[i].key, "data.text_", 10))
            return FM_FAIL(err, FM_E_RANGE, "text is given both in the recipe and as an option");
    for (int i = 0; i < o->n_text && !st; i++) {
        char key[32];
        snprintf(key, sizeof key, "data.text_%d", i + 1);
        st = fmi_ini_set(out->given, key, o->text[i], err);
    }
    return st;
}

static fm_status apply_options(const fm_train_opts *o, fmi_request *out, fm_err *err)
{
    fmi_settings *s = &out->s;
    fm_status st = FM_OK;
    if (o->minutes < 0 || o->tokens < 0 || o->flops < 0 || o->steps < 0 || o->seq < 0)
        return FM_FAIL(err, FM_E_RANGE, "minutes, tokens, flops, steps and seq cannot be negative");
    if (o->minutes > 0 || o->tokens || o->flops > 0 || o->steps) {
        s->stop_minutes = o->minutes;
        s->stop_tokens = o->tokens;
        s->stop_flops = o->flops;
        s->stop_steps = o->steps;
    }
    if (o->seq) s->data_seq = o->seq;
    if (o->seed >= 0) s->run_seed = o->seed;
    if (o->command) st = fmi_settings_set(s, NULL, "run.command", o->command, err);
    if (!st && o->precision) st = fmi_settings_set(s, NULL, "run.precision", o->precision, err);
    if (!st && o->data) st = fmi_settings_set(s, NULL, "data.dir", o->data, err);
    if (!st && o->val) st = fmi_settings_set(s, NULL, "data.val", o->val, err);
    return st ? st : apply_text(o, out, err);
}

/* Checks that need everything in place; the stop that follows from the size. */
static fm_status settle(fmi_request *out, fm_err *err)
{
    fmi_settings *s = &out->s;
    int n_text = 0;
    for (int i = 0; i < out->given->n; i++) n_text += !strncmp(out->given->entries[i].key, "data.text_", 10);
    if ((n_text > 0) == (*s->data_dir != 0))
        return FM_FAIL(err, FM_E_RANGE, n_text ? "give text files or a data directory, not both"
                                               : "no data: give text files or a data directory");
    int stops = (s->stop_minutes > 0) + (s->stop_tokens > 0) + (s->stop_flops > 0) + (s->stop_steps > 0);
    if (stops > 1)
        return FM_FAIL(err, FM_E_RANGE, "one stop at most: minutes, tokens, flops or steps");
    if (n_text && !*s->run_model && s->data_vocab != FMI_AUTO_INT) out->cfg.vocab_size = (int)s->data_vocab;
    fm_status st = fmi_config_check(&out->cfg, err);
    if (!st && s->data_seq > out->cfg.max_position_embeddings)
        st = FM_FAIL(err, FM_E_RANGE, "data.seq %lld exceeds max_position_embeddings %d",
                     (long long)s->data_seq, out->cfg.max_position_embeddings);
    if (st || stops) return st;
    fm_layout lay;
    st = fmi_layout_new(&out->cfg, &lay, err);
    if (st) return st;
    fmi_param_counts n;
    fmi_count_params(&out->cfg, &lay, &n);
    fmi_layout_free(&lay);
    s->stop_tokens = 20 * n.active; /* Chinchilla's ratio */
    return FM_OK;
}

fm_status fmi_request_make(const fm_train_opts *o, fmi_request *out, fm_err *err)
{
    memset(out, 0, sizeof *out);
    fmi_settings_default(&out->s);
    fmi_ini *recipe = NULL;
    fm_status st = fmi_ini_new("recipe", &out->given, err);
    if (!st && o->recipe) st = fmi_ini_open(o->recipe, &recipe, err);
    if (!st) st = base_config(o, recipe, out, err);
    if (!st && recipe) st = apply_recipe(recipe, out, err);
    for (int i = 0; i < o->n_set && !st; i++) st = apply_set(o->set[i], out, err);
    /* Options go last: preset and model were taken above and must stand. */
    if (!st && o->preset) st = fmi_settings_set(&out->s, NULL, "run.preset", o->preset, err);
    if (!st && o->model) st = fmi_settings_set(&out->s, NULL, "run.model", o->model, err);
    if (!st) st = apply_options(o, out, err);
    if (!st) st = settle(out, err);
    fmi_ini_free(recipe);
    if (st) fmi_request_deinit(out);
    return st;
}

void fmi_request_deinit(fmi_request *r)
{
    fmi_ini_free(r->given);
    r->given = NULL;
}

fm_status fmi_request_load(const char *run, fmi_request *out, fmi_settings *resolved, fm_err *err)
{
    char *path = fmi_path_join(run, "recipe.ini");
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", run);
    fm_train_opts o = { .recipe = path, .seed = -1 };
    fm_status st = fmi_request_make(&o, out, err);
    fmi_ini *ini = NULL;
    if (!st && resolved) *resolved = out->s;
    if (!st) st = fmi_ini_open(path, &ini, err);
    /* A run from before there was this key. */
    if (!st && resolved && !fmi_ini_get(ini, "train.lr_embed")) resolved->train_lr_embed = 1;
    const char *list = st ? NULL : fmi_ini_get(ini, AUTO_KEY);
    /* Keys that were not given follow anew from what was. */
    for (const char *at = list; at && *at && !st;) {
        size_t n = strcspn(at, " ");
        char key[96];
        snprintf(key, sizeof key, "%.*s", (int)n, at);
        st = fmi_settings_set(&out->s, NULL, key, "auto", err);
        at += n;
        at += strspn(at, " ");
    }
    if (st && out->given) fmi_request_deinit(out);
    fmi_ini_free(ini);
    fmi_free(path);
    return st;
}

fm_status fmi_request_save(const fmi_request *r, const fmi_settings *s, const char *run, fm_err *err)
{
    fmi_ini *ini = NULL;
    char *path = fmi_path_join(run, "recipe.ini");
    char autos[FMI_INI_LINE_MAX] = "", value[FMI_TEXT_MAX + 8];
    fm_status st = path ? fmi_ini_new(path, &ini, err) : FM_FAIL(err, FM_E_NOMEM, "%s", run);
    if (!st) st = fmi_settings_write(s, ini, err);
    for (int i = 0; fmi_settings_key(i) && !st; i++) {
        st = fmi_settings_get(&r->s, fmi_settings_key(i), value, sizeof value, err);
        size_t n = strlen(autos);
        if (!st && !strcmp(value, "auto"))
            snprintf(autos + n, sizeof autos - n, "%s%s", n ? " " : "", fmi_settings_key(i));
    }
    if (!st && *autos) st = fmi_ini_set(ini, AUTO_KEY, autos, err);
    for (int i = 0; i < r->given->n && !st; i++)
        st = fmi_ini_set(ini, r->given->entries[i].key, r->given->entries[i].value, err);
    if (!st) st = fmi_ini_write(ini, path, err);
    fmi_ini_free(ini);
    fmi_free(path);
    return st;
}

/* Adds "key (here A, there B)" to a list of differences. */
static void differ(char *list, size_t cap, const char *key, const char *have, const char *asked)
{
    size_t n = strlen(list);
    snprintf(list + n, cap - n, "%s%s is %s there, %s here", n ? "; " : "", key,
             have && *have ? have : "not set", asked && *asked ? asked : "not set");
}

fm_status fmi_request_compare(const char *run, const fmi_request *have, const fmi_request *asked, fm_err *err)
{
    char list[400] = "", a[FMI_TEXT_MAX + 8], b[FMI_TEXT_MAX + 8];
    for (int i = 0; fmi_settings_key(i); i++) {
        const char *key = fmi_settings_key(i);
        fm_status st = fmi_settings_get(&have->s, key, a, sizeof a, err);
        if (!st) st = fmi_settings_get(&asked->s, key, b, sizeof b, err);
        if (st) return st;
        if (strcmp(a, b)) differ(list, sizeof list, key, a, b);
    }
    for (int i = 0; i < asked->given->n; i++) {
        const fmi_ini_entry *e = &asked->given->entries[i];
        const char *v = fmi_ini_get(have->given, e->key);
        if (!v || strcmp(v, e->value)) differ(list, sizeof list, e->key, v, e->value);
    }
    for (int i = 0; i < have->given->n; i++) {
        const fmi_ini_entry *e = &have->given->entries[i];
        if (!fmi_ini_get(asked->given, e->key)) differ(list, sizeof list, e->key, e->value, NULL);
    }
    if (*list) return FM_FAIL(err, FM_E_STATE, "%s holds another run: %s", run, list);
    return FM_OK;
}
