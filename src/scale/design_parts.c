/* What every design does: the temporary directory, tokenizer and shards (by child processes of the
 * same program, or copied), study.ini, the speed measured by short runs, and putting it all under
 * its name. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#define PROBE_STEPS 8 /* the first ones warm up and are left out */
#define PROBE_WARM 3
#define PROBE_LINES 64
#define SHARD_COPY_BYTES ((size_t)1 << 20)

void fmi_design_stage(const fmi_design *d, const char *stage, const char *detail)
{
    if (d->hooks && d->hooks->on_stage) d->hooks->on_stage(d->hooks->arg, stage, detail);
}

/* --- data ----------------------------------------------------------------------------------------
 */

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

/* --- settings
 * -------------------------------------------------------------------------------------- */

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

/* --- speed
 * ------------------------------------------------------------------------------------------- */

/* A setting of study.ini; 0 where it is absent or auto. */
static double given(const fmi_design *d, const char *key)
{
    const char *v = fmi_ini_get(d->ini, key);
    return v && strcmp(v, "auto") ? strtod(v, NULL) : 0;
}

typedef struct probing {
    fmi_child child;
    fmi_study_size size;
    char dir[48];
    int copy;
    double wall;
} probing;

/* What every run's command begins with. */
static void common_args(const fmi_design *d, const char *program, const json_t *set, fmi_args *a)
{
    fmi_args_add(a, "%s", program ? program : d->o.program);
    fmi_args_add(a, "pretrain");
    fmi_args_add(a, "--data=data");
    fmi_args_add(a, "--recipe=study.ini");
    fmi_args_add(a, "--preset=nano");
    fmi_args_add(a, "--json");
    if (d->o.threads) fmi_args_add(a, "--threads=%d", d->o.threads);
    for (size_t i = 0; i < json_array_size(set); i++)
        fmi_args_add(a, "--set=%s", json_string_value(json_array_get(set, i)));
}

fm_status fmi_design_check(const fmi_design *d, const json_t *set, const char *program, fm_err *err)
{
    fmi_args a = {0};
    common_args(d, program, set, &a);
    fmi_args_add(&a, "--tokens=100000");
    fmi_args_add(&a, "--dry-run");
    fm_status st = fmi_child_run(&a, d->tmp, NULL, err);
    fmi_args_free(&a);
    return st;
}

static fm_status probe_start(fmi_design *d, int width, probing *p, fm_err *err)
{
    json_t *set = json_array();
    fmi_args a = {0};
    fm_status st =
        set ? fmi_family_sets(&d->o, d->ini, width, set, err) : FM_FAIL(err, FM_E_NOMEM, "a probe");
    if (!st) st = fmi_family_count(d->ini, set, d->vocab, d->o.seq, &p->size, err);
    snprintf(p->dir, sizeof p->dir, "probe/w%d-%d", width, p->copy);
    int64_t batch = given(d, "train.batch") > 0 ? (int64_t)given(d, "train.batch") : 4096;
    if (batch < d->o.seq) batch = d->o.seq;
    batch = batch / d->o.seq * d->o.seq;
    common_args(d, NULL, set, &a);
    fmi_args_add(&a, "--prompt=");
    fmi_args_add(&a, "--out=%s", p->dir);
    fmi_args_add(&a, "--tokens=%lld", (long long)(batch * PROBE_STEPS));
    if (!fmi_ini_get(d->ini, "train.batch"))
        fmi_args_add(&a, "--set=train.batch=%lld", (long long)batch);
    fmi_args_add(&a, "--set=train.evals=0");
    if (!st) st = fmi_child_start(&p->child, &a, d->tmp, NULL, err);
    fmi_args_free(&a);
    json_decref(set);
    return st;
}

static double median(double *v, int n)
{
    for (int i = 1; i < n; i++)
        for (int k = i; k > 0 && v[k] < v[k - 1]; k--) {
            double t = v[k];
            v[k] = v[k - 1], v[k - 1] = t;
        }
    return n & 1 ? v[n / 2] : 0.5 * (v[n / 2 - 1] + v[n / 2]);
}

/* Seconds a token in the middle one of the last steps. */
static fm_status probe_read(fmi_design *d, const probing *p, double *rate, double *elapsed,
                            fm_err *err)
{
    char *path = fmi_format("%s/%s/metrics.jsonl", d->tmp, p->dir), *text = NULL;
    double seconds[PROBE_LINES];
    int n = 0;
    fm_status st = path ? fmi_file_read(path, 16 << 20, &text, NULL, err)
                        : FM_FAIL(err, FM_E_NOMEM, "a probe");
    for (char *line = text; !st && line && *line;) {
        char *end = strchr(line, '\n');
        if (!end) break;
        *end = 0;
        const char *tokens = strstr(line, "\"batch_tokens\":"), *s = strstr(line, "],\"seconds\":");
        const char *e = strstr(line, "\"elapsed\":");
        if (tokens && s && e && n < PROBE_LINES) {
            seconds[n++] = strtod(s + 12, NULL) / strtod(tokens + 15, NULL);
            *elapsed = strtod(e + 10, NULL);
        }
        line = end + 1;
    }
    if (!st && n < 1) st = FM_FAIL(err, FM_E_FORMAT, "%s: no steps to measure", path);
    int skip = n > PROBE_WARM ? PROBE_WARM : n - 1;
    if (!st) *rate = median(seconds + skip, n - skip);
    fmi_free(text);
    fmi_free(path);
    return st;
}

/* Where M stands among the probes, in ascending order; made if it is not there. */
static int probe_slot(fmi_design *d, const fmi_study_size *size)
{
    int k = 0;
    while (k < d->n_probes && d->probe[k].width != size->width) k++;
    if (k < d->n_probes) return k;
    for (d->n_probes++; k > 0 && d->probe[k - 1].M > size->M; k--) d->probe[k] = d->probe[k - 1];
    memset(&d->probe[k], 0, sizeof d->probe[k]);
    d->probe[k].width = size->width;
    d->probe[k].M = size->M;
    return k;
}

static fm_status probe_end(fmi_design *d, probing *p, fm_err *err)
{
    char why[FM_STUDY_WHY_MAX];
    double rate = 0, elapsed = 0;
    if (!WIFEXITED(p->child.status) || WEXITSTATUS(p->child.status)) {
        fmi_child_message(&p->child, why, sizeof why);
        return FM_FAIL(err, FM_E_IO, "a trial run of width %d failed: %s", p->size.width, why);
    }
    fm_status st = probe_read(d, p, &rate, &elapsed, err);
    if (st) return st;
    int k = probe_slot(d, &p->size), n = d->probe[k].copies++;
    d->probe[k].seconds_per_token = (d->probe[k].seconds_per_token * n + rate) / (n + 1);
    d->probe[k].overhead_s = (d->probe[k].overhead_s * n + fmax(0, p->wall - elapsed)) / (n + 1);
    return FM_OK;
}

/* As many at once as there will be workers, so that what they take from each other is in the figures. */
fm_status fmi_design_probe(fmi_design *d, const int *width, int n, fm_err *err)
{
    probing p[FMI_PROBES_MAX];
    fm_status st = FM_OK;
    int at_once = d->o.workers < FMI_PROBES_MAX ? d->o.workers : FMI_PROBES_MAX;
    int jobs = n > at_once ? n : at_once;
    memset(p, 0, sizeof p);
    for (int i = 0; i < jobs && !st; i += at_once) {
        int k = jobs - i < at_once ? jobs - i : at_once, live = 0;
        for (; live < k && !st; live++) {
            p[live].copy = i + live;
            st = probe_start(d, width[(i + live) % n], &p[live], err);
        }
        bool all = false;
        while (!st && !all) {
            all = true;
            for (int j = 0; j < k; j++) {
                if (!p[j].child.pid) continue;
                if (fmi_child_poll(&p[j].child)) p[j].wall = fmi_clock_s() - p[j].child.began;
                else all = false;
            }
            if (!all) poll(NULL, 0, 5);
        }
        for (int j = 0; j < k && !st; j++) st = probe_end(d, &p[j], err);
        for (int j = 0; j < live; j++) fmi_child_end(&p[j].child);
    }
    for (int i = 0; i < n && !st; i++) {
        char note[128];
        fmi_study_size s = {.width = width[i]};
        int k = probe_slot(d, &s);
        snprintf(note, sizeof note, "width %d: %.0f tokens/s, %.3g FLOP/s", width[i],
                 1 / d->probe[k].seconds_per_token, d->probe[k].M / d->probe[k].seconds_per_token);
        fmi_design_stage(d, "speed", note);
    }
    char *path = fmi_format("%s/probe", d->tmp);
    if (path) fmi_tree_remove(path, NULL);
    fmi_free(path);
    return st;
}

/* Between probes, and beyond them, straight in the logarithms. */
double fmi_design_seconds(const fmi_design *d, double M, double tokens, double eval_tokens)
{
    double rate, overhead = 0;
    if (d->o.speed > 0 || !d->n_probes) {
        rate = M / (d->o.speed > 0 ? d->o.speed : 1e11);
    } else if (d->n_probes == 1) {
        rate = d->probe[0].seconds_per_token * M / d->probe[0].M;
    } else {
        int k = 1;
        while (k < d->n_probes - 1 && d->probe[k].M < M) k++;
        double x0 = log(d->probe[k - 1].M), x1 = log(d->probe[k].M), x = log(M);
        double y0 = log(d->probe[k - 1].seconds_per_token), y1 = log(d->probe[k].seconds_per_token);
        rate = exp(y0 + (y1 - y0) * (x - x0) / (x1 - x0));
    }
    for (int i = 0; i < d->n_probes; i++) overhead += d->probe[i].overhead_s / d->n_probes;
    return overhead + rate * (tokens + eval_tokens / 3); /* a forward pass is a third of a step */
}

/* --- plan
 * -------------------------------------------------------------------------------------------- */

void fmi_design_laws(const fmi_design *d, double M, double tokens, fm_study_run *r)
{
    double C = M * tokens, T = d->o.seq, least = T <= 512 ? ceil(4096 / T) : 8;
    double batch = d->o.batch_scale * pow(C, d->o.batch_exponent), most = tokens / 500;
    double rows = floor((batch < most ? batch : most) / T + 0.5);
    double lr = d->o.lr_scale * pow(C, d->o.lr_exponent);
    r->batch_tokens = (rows < least ? least : rows) * T;
    r->lr = lr > 6e-3 ? 6e-3 : lr < 1e-6 ? 1e-6 : lr;
    if (given(d, "train.batch") > 0)
        r->batch_tokens = fmax(1, floor(given(d, "train.batch") / T + 0.5)) * T;
    if (given(d, "train.lr") > 0) r->lr = given(d, "train.lr");
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
    static const char *const dirs[] = {"queue/todo", "queue/doing", "queue/done", "queue/failed",
                                       "runs"};
    fm_status st = FM_OK;
    for (size_t i = 0; i < sizeof dirs / sizeof *dirs && !st; i++) {
        char *p = fmi_path_join(d->tmp, dirs[i]);
        st = p ? fmi_dir_make(p, err) : FM_FAIL(err, FM_E_NOMEM, "a queue");
        fmi_free(p);
    }
    for (size_t i = 0; i < json_array_size(d->runs) && !st; i++) {
        const char *id = json_string_value(json_object_get(json_array_get(d->runs, i), "id"));
        char *p = fmi_format("%s/queue/todo/%s", d->tmp, id);
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
