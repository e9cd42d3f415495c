/* A comparison as a study: a baseline and ideas at several sizes and seeds, the same data, tokens,
 * learning rate and batch, held out evaluated along the way. An idea is a file of settings over the
 * baseline's, for this program or another build of it. fm_study_work runs it; compare_report.c
 * judges it. */
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#define ARMS_MAX 16
#define SIZES_MAX 32
#define NAME_BYTES 40

typedef struct arm {
    char name[NAME_BYTES];
    fmi_ini *ini;  /* NULL: the baseline, or an idea that is only a program */
    char *program; /* NULL: the study's own */
} arm;

static bool name_ok(const char *s, size_t n)
{
    return n > 0 && n < NAME_BYTES &&
           strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") >= n;
}

/* NAME=recipe.ini[@/path/to/fathom] */
static fm_status parse_idea(const char *text, arm *a, fm_err *err)
{
    const char *eq = strchr(text, '=');
    if (!eq || !name_ok(text, (size_t)(eq - text)))
        return FM_FAIL(err, FM_E_FORMAT,
                       "idea \"%s\": expected NAME=recipe.ini[@program], the name of letters, "
                       "digits, - and _",
                       text);
    snprintf(a->name, sizeof a->name, "%.*s", (int)(eq - text), text);
    if (!strcmp(a->name, "baseline"))
        return FM_FAIL(err, FM_E_RANGE, "idea \"%s\": that is what ideas are compared with",
                       a->name);
    const char *at = strrchr(eq, '@');
    char *path = fmi_format("%.*s", at ? (int)(at - eq - 1) : (int)strlen(eq + 1), eq + 1);
    fm_status st = path ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "idea %s", a->name);
    if (!st && *path)
        st = fmi_ini_open(path, &a->ini, err);
    else if (!st && !at)
        st = FM_FAIL(err, FM_E_FORMAT, "idea \"%s\": neither a recipe nor a program", a->name);
    if (!st && at) {
        char full[PATH_MAX];
        if (!realpath(at + 1, full) || access(full, X_OK))
            st = FM_FAIL(err, FM_E_IO, "idea %s: program %s: %s", a->name, at + 1, strerror(errno));
        else if (!(a->program = fmi_strdup(full)))
            st = FM_FAIL(err, FM_E_NOMEM, "idea %s", a->name);
    }
    fmi_free(path);
    return st;
}

static void free_arms(arm *a, int n)
{
    for (int i = 0; i < n; i++) {
        fmi_ini_free(a[i].ini);
        fmi_free(a[i].program);
    }
}

static fm_status parse_arms(const fm_study_compare_opts *o, arm *a, int *n, fm_err *err)
{
    fm_status st = FM_OK;
    snprintf(a[0].name, sizeof a[0].name, "baseline");
    *n = 1;
    if (o->n_ideas < 1 || o->n_ideas >= ARMS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d ideas; expected 1 to %d", o->n_ideas, ARMS_MAX - 1);
    for (int i = 0; i < o->n_ideas && !st; i++) {
        st = parse_idea(o->ideas[i], &a[*n], err);
        for (int k = 1; k < *n && !st; k++)
            if (!strcmp(a[k].name, a[*n].name))
                st = FM_FAIL(err, FM_E_RANGE, "idea \"%s\" twice", a[k].name);
        ++*n;
    }
    return st;
}

static fm_status parse_sizes(const fm_study_compare_opts *o, int *width, fm_err *err)
{
    if (o->n_sizes < 1 || o->n_sizes > SIZES_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d sizes; expected 1 to %d", o->n_sizes, SIZES_MAX);
    for (int i = 0; i < o->n_sizes; i++) {
        char *end;
        long w = strtol(o->sizes[i], &end, 10);
        if (end == o->sizes[i] || *end || w < 16 || w > 8192 || w % 8)
            return FM_FAIL(err, FM_E_RANGE,
                           "size \"%s\": expected a width, a multiple of 8 from 16 to 8192",
                           o->sizes[i]);
        width[i] = (int)w;
        for (int k = 0; k < i; k++)
            if (width[k] == width[i]) return FM_FAIL(err, FM_E_RANGE, "size %ld twice", w);
    }
    return FM_OK;
}

/* Takes out earlier settings of the same key, and appends. */
static fm_status set_over(json_t *set, const char *key, const char *value, fm_err *err)
{
    char *text = fmi_format("%s=%s", key, value);
    size_t k = strlen(key) + 1;
    if (!text) return FM_FAIL(err, FM_E_NOMEM, "settings");
    for (size_t i = json_array_size(set); i-- > 0;)
        if (!strncmp(json_string_value(json_array_get(set, i)), text, k)) json_array_remove(set, i);
    bool ok = !json_array_append_new(set, json_string(text));
    fmi_free(text);
    return ok ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "settings");
}

/* The settings of an arm at a width, and what they count to. Learning rate and batch are the
 * baseline's. */
static fm_status arm_sets(const fmi_design *d, const arm *a, int width, const fm_study_run *laws,
                          json_t *set, fmi_study_size *size, fm_err *err)
{
    char text[48];
    fm_status st = fmi_family_sets(&d->o, d->ini, width, set, err);
    if (!st && laws && !fmi_ini_get(d->ini, "train.lr")) {
        snprintf(text, sizeof text, "%.9g", laws->lr);
        st = set_over(set, "train.lr", text, err);
    }
    if (!st && laws && !fmi_ini_get(d->ini, "train.batch")) {
        snprintf(text, sizeof text, "%.0f", laws->batch_tokens);
        st = set_over(set, "train.batch", text, err);
    }
    for (int i = 0; !st && a->ini && i < a->ini->n; i++)
        st = set_over(set, a->ini->entries[i].key, a->ini->entries[i].value, err);
    return st ? st : fmi_family_count(d->ini, set, d->vocab, d->o.seq, size, err);
}

static fm_status add_runs(fmi_design *d, const fm_study_compare_opts *o, const arm *a, int width,
                          fm_err *err)
{
    static const arm plain;
    fmi_study_size base = {0};
    fm_study_run laws = {0};
    json_t *probe = json_array();
    fm_status st = probe ? arm_sets(d, &plain, width, NULL, probe, &base, err)
                         : FM_FAIL(err, FM_E_NOMEM, "a run");
    json_decref(probe);
    if (st) return st;
    double per = o->tokens_per_param > 0 ? o->tokens_per_param : 20;
    double tokens = o->tokens > 0 ? o->tokens : per * base.params;
    fmi_design_laws(d, base.M, tokens, &laws);
    if (laws.epochs > d->o.epochs)
        return FM_FAIL(err, FM_E_RANGE,
                       "width %d: %.0f tokens are %.1f epochs of the text; at most %g (--epochs)",
                       width, laws.tokens, laws.epochs, d->o.epochs);
    for (int s = 1; s <= d->o.seeds && !st; s++) {
        fm_study_run r = laws;
        fmi_study_size size = {0};
        json_t *set = json_array();
        st =
            set ? arm_sets(d, a, width, &laws, set, &size, err) : FM_FAIL(err, FM_E_NOMEM, "a run");
        if (!st && s == 1) st = fmi_design_check(d, set, a->program, err);
        if (st) {
            json_decref(set);
            return fmi_fail_prefix(err, st, "%s, width %d", a->name, width);
        }
        snprintf(r.id, sizeof r.id, "%.39s-w%04d-s%d", a->name, width, s);
        snprintf(r.arm, sizeof r.arm, "%.39s", a->name);
        r.width = width;
        r.layers = size.layers;
        r.experts = size.experts;
        r.seed = s;
        r.params = size.params;
        r.params_total = size.params_total;
        r.flops_per_token = size.M;
        r.flops = size.M * r.tokens;
        r.budget = laws.flops;
        r.seconds_expected =
            fmi_design_seconds(d, size.M, r.tokens, d->val_tokens * (o->evals > 0 ? o->evals : 20));
        st = fmi_design_add(d, &r, set, a->program, err);
        if (!st && d->hooks && d->hooks->on_run) d->hooks->on_run(d->hooks->arg, &r);
    }
    return st;
}

static fm_status check_time(const fmi_design *d, double minutes, fm_err *err)
{
    size_t n = json_array_size(d->runs);
    double *s = fmi_alloc((n + 1) * sizeof *s);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "a plan");
    for (size_t i = 0; i < n; i++)
        s[i] = json_number_value(json_object_get(json_array_get(d->runs, i), "seconds_expected"));
    double all = fmi_design_makespan(s, (int)n, d->o.workers);
    fmi_free(s);
    if (!(minutes > 0) || all <= minutes * 60) return FM_OK;
    return FM_FAIL(err, FM_E_RANGE,
                   "%zu runs take %.3g minutes on this machine, %g were given: about %.2g of the "
                   "tokens would fit (--tokens, --tokens-per-param)",
                   n, all / 60, minutes, minutes * 60 / all);
}

static fm_status make(fmi_design *d, const fm_study_compare_opts *o, const arm *a, int n_arms,
                      const int *width, fm_study_design *out, fm_err *err)
{
    fm_status st =
        d->o.speed > 0
            ? FM_OK
            : fmi_design_probe(d, width, o->n_sizes < FMI_PROBES_MAX ? o->n_sizes : FMI_PROBES_MAX,
                               err);
    for (int i = 0; i < o->n_sizes; i++)
        for (int k = 0; k < n_arms && !st; k++) st = add_runs(d, o, &a[k], width[i], err);
    if (!st) st = check_time(d, o->base.minutes, err);
    json_t *names = st ? NULL : json_array();
    for (int k = 1; k < n_arms && names; k++) json_array_append_new(names, json_string(a[k].name));
    json_t *extra = names ? json_pack("{s:o}", "ideas", names) : NULL;
    if (!st && !extra) st = FM_FAIL(err, FM_E_NOMEM, "a plan");
    return st ? st : fmi_design_publish(d, "compare", extra, out, err);
}

fm_status fm_study_compare_make(const fm_study_compare_opts *o, const fm_study_hooks *hooks,
                                fm_study_design *out, fm_err *err)
{
    arm a[ARMS_MAX] = {0};
    int n_arms = 0, width[SIZES_MAX];
    char own[160];
    fmi_design d;
    fm_study_design_opts base = o->base;
    if (!base.val_every) base.val_every = 400; /* it is read at every evaluation */
    base.seeds = o->seeds > 0 ? o->seeds : 3;
    /* The whole split every time: points of a curve are then measured on the same text. */
    snprintf(own, sizeof own,
             "[train]\nevals = %d\neval_tokens = 0\nsaves = 1\nsave_minutes = 1\nkeep = 1\n",
             o->evals > 0 ? o->evals : 20);
    fm_status st = parse_arms(o, a, &n_arms, err);
    if (!st) st = parse_sizes(o, width, err);
    if (!st) st = fmi_design_open(&base, hooks, own, &d, err);
    if (!st) {
        st = make(&d, o, a, n_arms, width, out, err);
        fmi_design_free(&d);
    }
    free_arms(a, n_arms);
    return st;
}
