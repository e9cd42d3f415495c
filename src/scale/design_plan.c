/* From sizes and budgets to a plan on disk: learning rate and batch by law, tokens in whole steps,
 * the time of all runs together, plan.json and the queue, and the study under its name. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "scale/study.h"

void fmi_design_laws(const fmi_design *d, double M, double tokens, fm_study_run *r)
{
    double C = M * tokens, T = d->o.seq, least = T <= 512 ? ceil(4096 / T) : 8;
    double batch = d->o.batch_scale * pow(C, d->o.batch_exponent), most = tokens / 500;
    double rows = floor((batch < most ? batch : most) / T + 0.5);
    double lr = d->o.lr_scale * pow(C, d->o.lr_exponent);
    r->batch_tokens = (rows < least ? least : rows) * T;
    r->lr = lr > 6e-3 ? 6e-3 : lr < 1e-6 ? 1e-6 : lr;
    if (fmi_design_given(d, "train.batch") > 0)
        r->batch_tokens = fmax(1, floor(fmi_design_given(d, "train.batch") / T + 0.5)) * T;
    if (fmi_design_given(d, "train.lr") > 0) r->lr = fmi_design_given(d, "train.lr");
    r->tokens = fmax(1, floor(tokens / r->batch_tokens + 0.5)) * r->batch_tokens;
    r->flops_per_token = M;
    r->flops = M * r->tokens;
    r->epochs = r->tokens / d->train_tokens;
}

fm_status fmi_design_add(fmi_design *d, const fm_study_run *r, json_t *set, const char *program,
                         fm_err *err)
{
    char text[64];
    json_t *o = fmi_study_run_json(r);
    bool ok = o && set;
    if (ok && !fmi_ini_get(d->ini, "train.lr")) {
        snprintf(text, sizeof text, "train.lr=%.9g", r->lr);
        ok = !json_array_insert_new(set, 0, json_string(text));
    }
    if (ok && !fmi_ini_get(d->ini, "train.batch")) {
        snprintf(text, sizeof text, "train.batch=%.0f", r->batch_tokens);
        ok = !json_array_insert_new(set, 0, json_string(text));
    }
    ok = ok && !json_object_set_new(o, "set", set);
    if (ok && program) ok = !json_object_set_new(o, "program", json_string(program));
    ok = ok && !json_array_append_new(d->runs, o);
    return ok ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "a plan");
}

static int descending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? 1 : x > y ? -1 : 0;
}

double fmi_design_makespan(const double *seconds, int n, int workers)
{
    double *s = fmi_alloc(((size_t)n + (size_t)workers) * sizeof *s), last = 0;
    if (!s) return INFINITY;
    double *busy = s + n;
    memcpy(s, seconds, (size_t)n * sizeof *s);
    qsort(s, (size_t)n, sizeof *s, descending);
    for (int i = 0; i < workers; i++) busy[i] = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        for (int j = 1; j < workers; j++)
            if (busy[j] < busy[k]) k = j;
        busy[k] += s[i];
        if (busy[k] > last) last = busy[k];
    }
    fmi_free(s);
    return last;
}

static json_t *probes_json(const fmi_design *d)
{
    json_t *list = json_array();
    for (int i = 0; i < d->n_probes; i++)
        json_array_append_new(list, json_pack("{s:i, s:f, s:f, s:f}", "width", d->probe[i].width,
                                              "flops_per_token", d->probe[i].M, "seconds_per_token",
                                              d->probe[i].seconds_per_token, "overhead_seconds",
                                              d->probe[i].overhead_s));
    return list;
}

static fm_status make_queue(const fmi_design *d, fm_err *err)
{
    static const char *const dirs[] = {"queue/waiting", "queue/doing", "queue/done", "queue/failed",
                                       "runs"};
    fm_status st = FM_OK;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs && !st; i++) {
        char *p = fmi_path_join(d->tmp, dirs[i]);
        st = p ? fmi_dir_make(p, err) : FM_FAIL(err, FM_E_NOMEM, "a queue");
        fmi_free(p);
    }
    for (size_t i = 0; i < json_array_size(d->runs) && !st; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(d->runs, i), "id"));
        char *p = fmi_format("%s/queue/waiting/%s", d->tmp, id);
        st = p ? fmi_file_write(p, "", 0, err) : FM_FAIL(err, FM_E_NOMEM, "a queue");
        fmi_free(p);
    }
    return st;
}

static void tell_runs(const fmi_design *d, fm_study_design *out)
{
    size_t n = json_array_size(d->runs);
    double *seconds = fmi_alloc((n + 1) * sizeof *seconds);
    double low = INFINITY, high = 0, most = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *o = json_array_get(d->runs, i);
        double b = json_number_value(json_object_get(o, "budget"));
        double e = json_number_value(json_object_get(o, "epochs"));
        if (seconds) seconds[i] = json_number_value(json_object_get(o, "seconds_expected"));
        if (b < low) low = b;
        if (b > high) high = b;
        if (e > most) most = e;
    }
    *out = (fm_study_design){.n_runs = (int)n,
                             .low = low,
                             .high = high,
                             .corpus_tokens = d->train_tokens,
                             .corpus_bytes = d->train_bytes,
                             .val_tokens = d->val_tokens,
                             .epochs_max = most,
                             .seconds =
                                 seconds ? fmi_design_makespan(seconds, (int)n, d->o.workers) : 0};
    fmi_free(seconds);
}

fm_status fmi_design_publish(fmi_design *d, const char *kind, json_t *extra, fm_study_design *out,
                             fm_err *err)
{
    tell_runs(d, out);
    json_t *plan = json_pack(
        "{s:i, s:s, s:i, s:i, s:f, s:f, s:f, s:f, s:i, s:i, s:{s:f, s:f, s:f, s:f}, s:o, s:O}",
        "format", 1, "kind", kind, "vocab", d->vocab, "seq", d->o.seq, "train_tokens",
        d->train_tokens, "train_bytes", d->train_bytes, "val_tokens", d->val_tokens,
        "seconds_expected", out->seconds, "threads", d->o.threads, "workers", d->o.workers, "laws",
        "lr_scale", d->o.lr_scale, "lr_exponent", d->o.lr_exponent, "batch_scale", d->o.batch_scale,
        "batch_exponent", d->o.batch_exponent, "probes", probes_json(d), "runs", d->runs);
    if (plan && extra) json_object_update(plan, extra);
    json_decref(extra);
    char *path = fmi_format("%s/plan.json", d->tmp);
    fm_status st =
        plan && path ? fmi_json_write(path, plan, err) : FM_FAIL(err, FM_E_NOMEM, "plan.json");
    if (!st) st = make_queue(d, err);
    if (!st && !d->o.dry_run) {
        st = fmi_dir_close_tmp(d->tmp, d->o.out, false, err);
        if (!st) {
            fmi_free(d->tmp);
            d->tmp = NULL;
        }
    }
    json_decref(plan);
    fmi_free(path);
    return st;
}
