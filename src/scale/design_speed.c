/* The speed of this machine, measured: short training runs of several widths, as many at once as
 * there will be workers; times of other sizes lie between them, straight in the logarithms. */
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "io/file.h"
#include "scale/study.h"

#define PROBE_STEPS_MIN 8 /* the first ones warm up and are left out */
#define PROBE_STEPS_MAX 48
#define PROBE_FLOPS 4e11 /* of small models: a step of theirs is short, and its time noisy */
#define PROBE_WARM 3
#define PROBE_LINES 64

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
    int64_t batch =
        fmi_design_given(d, "train.batch") > 0 ? (int64_t)fmi_design_given(d, "train.batch") : 4096;
    if (batch < d->o.seq) batch = d->o.seq;
    batch = batch / d->o.seq * d->o.seq;
    double steps = PROBE_FLOPS / ((double)batch * (p->size.M > 0 ? p->size.M : 1));
    steps = fmin(fmax(floor(steps), PROBE_STEPS_MIN), PROBE_STEPS_MAX);
    common_args(d, NULL, set, &a);
    fmi_args_add(&a, "--prompt=");
    fmi_args_add(&a, "--out=%s", p->dir);
    fmi_args_add(&a, "--tokens=%lld", (long long)(batch * (int64_t)steps));
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

/* As many at once as there will be workers, so that what they take from each other is in the
 * figures. */
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
                if (fmi_child_poll(&p[j].child))
                    p[j].wall = fmi_clock_s() - p[j].child.began;
                else
                    all = false;
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
