/* What a comparison found: how much less compute, and how much less time, an idea takes to the same
 * held-out loss, and how that moves with size.
 *
 * For a size and a seed, L is the worse of the two final losses, so that both curves reach it. C(L)
 * is read off a curve by straight lines in (log C, loss) at its first crossing; speed-up =
 * C_baseline / C_idea, and the same with the seconds of the training steps. Where L lies above a
 * curve's first point, that point is taken: the speed-up of an idea is then at least, or at most,
 * what is given. Logarithms of speed-ups are averaged over seeds with Student's t; the trend is
 * their regression on log10 of the baseline's M. */
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"
#include "scale/study.h"

#define METRICS_BYTES_MAX ((size_t)1 << 30)
#define POINTS_MAX 2048
#define PAIRS_MAX 1024
#define SLOPE_MIN 1e-9 /* rounding of equal speed-ups is no trend */

typedef struct curve {
    int n;
    double tokens[POINTS_MAX], seconds[POINTS_MAX], loss[POINTS_MAX];
} curve;

typedef struct pair {
    double M, flops, time, loss; /* logs of the speed-ups; idea's final loss minus the baseline's */
    int width;
    bool clipped;
} pair;

typedef struct interval {
    double value, low, high; /* low NAN: too few for an interval */
} interval;

/* Two-sided 95% points of Student's t. */
static double student(int df)
{
    static const double t[] = {12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306,
                               2.262,  2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
                               2.110,  2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064,
                               2.060,  2.056, 2.052, 2.048, 2.045, 2.042};
    return df < 1 ? NAN : df <= 30 ? t[df - 1] : 1.95996 + 2.4 / df;
}

static interval mean_of(const double *x, int n)
{
    double sum = 0, sq = 0;
    for (int i = 0; i < n; i++) sum += x[i];
    double mean = sum / n;
    for (int i = 0; i < n; i++) sq += (x[i] - mean) * (x[i] - mean);
    double half = n > 1 ? student(n - 1) * sqrt(sq / (n - 1) / n) : NAN;
    return (interval){mean, mean - half, mean + half};
}

/* Slope of y on x. value NAN where all x are equal. */
static interval slope_of(const double *x, const double *y, int n)
{
    double mx = 0, my = 0, sxx = 0, sxy = 0, sq = 0;
    for (int i = 0; i < n; i++) mx += x[i] / n, my += y[i] / n;
    for (int i = 0; i < n; i++) sxx += (x[i] - mx) * (x[i] - mx), sxy += (x[i] - mx) * (y[i] - my);
    if (!(sxx > 1e-12)) return (interval){NAN, NAN, NAN};
    double b = sxy / sxx;
    for (int i = 0; i < n; i++) sq += pow(y[i] - my - b * (x[i] - mx), 2);
    double half = n > 2 ? student(n - 2) * sqrt(sq / (n - 2) / sxx) : NAN;
    return (interval){b, b - half, b + half};
}

static fm_status read_curve(const fmi_study *s, const fm_study_run *r, curve *c, fm_err *err)
{
    char *path = fmi_format("%s/runs/%s/metrics.jsonl", s->dir, r->id), *text = NULL;
    double seconds = 0;
    c->n = 0;
    fm_status st = path ? fmi_file_read(path, METRICS_BYTES_MAX, &text, NULL, err)
                        : FM_FAIL(err, FM_E_NOMEM, "%s", r->id);
    for (char *line = text; !st && line && *line;) {
        char *end = strchr(line, '\n');
        if (!end) break;
        *end = 0;
        const char *v = strstr(line, "\"val_loss\":"), *t = strstr(line, "\"tokens\":");
        const char *step = strstr(line, "],\"seconds\":");
        if (step) seconds += strtod(step + 12, NULL);
        if (v && t && c->n < POINTS_MAX) {
            c->tokens[c->n] = strtod(t + 9, NULL);
            c->seconds[c->n] = seconds;
            c->loss[c->n++] = strtod(v + 11, NULL);
        }
        line = end + 1;
    }
    if (!st && !c->n) st = FM_FAIL(err, FM_E_FORMAT, "%s: no evaluation", path);
    fmi_free(text);
    fmi_free(path);
    return st;
}

/* log of x where the curve first reaches L; it does at its last point. */
static double reach(const curve *c, const double *x, double L, bool *clipped)
{
    int k = 0;
    while (k < c->n - 1 && c->loss[k] > L) k++;
    if (k == 0) {
        *clipped |= c->loss[0] < L;
        return log(x[0]);
    }
    double f = (c->loss[k - 1] - L) / (c->loss[k - 1] - c->loss[k]);
    return log(x[k - 1]) + (log(x[k]) - log(x[k - 1])) * (f < 0 ? 0 : f > 1 ? 1 : f);
}

static void judge(const fm_study_run *base, const fm_study_run *idea, const curve *b,
                  const curve *i, pair *out)
{
    double lb = b->loss[b->n - 1], li = i->loss[i->n - 1], L = lb > li ? lb : li;
    *out = (pair){.M = base->flops_per_token, .width = base->width, .loss = li - lb};
    out->flops = log(base->flops_per_token) + reach(b, b->tokens, L, &out->clipped) -
                 log(idea->flops_per_token) - reach(i, i->tokens, L, &out->clipped);
    out->time = reach(b, b->seconds, L, &out->clipped) - reach(i, i->seconds, L, &out->clipped);
}

static const fm_study_run *find_run(const fmi_study *s, const char *arm, int width, int64_t seed)
{
    for (int i = 0; i < s->n; i++)
        if (!strcmp(s->run[i].arm, arm) && s->run[i].width == width && s->run[i].seed == seed)
            return &s->run[i];
    return NULL;
}

/* Pairs of an idea, in the plan's order: sizes together. */
static fm_status collect(const fmi_study *s, const char *arm, pair *p, int *n, int *missing,
                         fm_err *err)
{
    curve *c = fmi_alloc(2 * sizeof *c);
    fm_status st = c ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "curves");
    *n = *missing = 0;
    for (int i = 0; i < s->n && !st && *n < PAIRS_MAX; i++) {
        const fm_study_run *idea = &s->run[i];
        if (strcmp(idea->arm, arm)) continue;
        const fm_study_run *base = find_run(s, "baseline", idea->width, idea->seed);
        if (!base || base->state != FM_STUDY_DONE || idea->state != FM_STUDY_DONE) {
            ++*missing;
            continue;
        }
        st = read_curve(s, base, &c[0], err);
        if (!st) st = read_curve(s, idea, &c[1], err);
        if (!st) judge(base, idea, &c[0], &c[1], &p[(*n)++]);
    }
    fmi_free(c);
    return st;
}

/* --- output --- */

static bool add(fm_text *t, const char *fmt, ...) FMI_PRINTF(2, 3);
static bool add(fm_text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fm_status st = fm_text_vprintf(t, NULL, fmt, ap);
    va_end(ap);
    return !st;
}

static const char *show(interval v, bool ratio, char *buf, size_t cap)
{
    if (ratio) v = (interval){exp(v.value), exp(v.low), exp(v.high)};
    if (isnan(v.value))
        snprintf(buf, cap, "-");
    else if (isnan(v.low))
        snprintf(buf, cap, ratio ? "%.3f (no interval)" : "%+.4f (no interval)", v.value);
    else
        snprintf(buf, cap, ratio ? "%.3f (%.3f to %.3f)" : "%+.4f (%+.4f to %+.4f)", v.value, v.low,
                 v.high);
    return buf;
}

static json_t *interval_json(interval v, bool ratio)
{
    if (ratio) v = (interval){exp(v.value), exp(v.low), exp(v.high)};
    return json_pack("{s:o, s:o, s:o}", "value",
                     isfinite(v.value) ? json_real(v.value) : json_null(), "low",
                     isfinite(v.low) ? json_real(v.low) : json_null(), "high",
                     isfinite(v.high) ? json_real(v.high) : json_null());
}

static const char *trend_word(interval v)
{
    if (isnan(v.value)) return "one size: no trend can be told";
    if (isnan(v.low)) return "too few pairs for an interval";
    return v.low > SLOPE_MIN     ? "grows with size"
           : v.high < -SLOPE_MIN ? "shrinks with size"
                                 : "neither growth nor fall is shown";
}

typedef struct judged {
    interval flops, time, loss;
    int n, clipped;
} judged;

/* Pairs [from, from + n). */
static judged average(const pair *p, int n)
{
    double f[PAIRS_MAX], t[PAIRS_MAX], l[PAIRS_MAX];
    judged j = {.n = n};
    for (int i = 0; i < n; i++)
        f[i] = p[i].flops, t[i] = p[i].time, l[i] = p[i].loss, j.clipped += p[i].clipped;
    j.flops = mean_of(f, n);
    j.time = mean_of(t, n);
    j.loss = mean_of(l, n);
    return j;
}

static bool put_row(const judged *j, const char *name, double M, fm_text *text, json_t *list)
{
    char f[96], t[96], l[96], m[32] = "-";
    if (M > 0) snprintf(m, sizeof m, "%.3g", M);
    json_t *o = json_pack(
        "{s:s, s:f, s:i, s:i, s:o, s:o, s:o}", "size", name, "flops_per_token", M, "pairs", j->n,
        "clipped", j->clipped, "flops_speedup", interval_json(j->flops, true), "time_speedup",
        interval_json(j->time, true), "loss_difference", interval_json(j->loss, false));
    if (!o || json_array_append_new(list, o)) return false;
    return add(text, "| %s | %s | %d%s | %s | %s | %s |\n", name, m, j->n, j->clipped ? " *" : "",
               show(j->flops, true, f, sizeof f), show(j->time, true, t, sizeof t),
               show(j->loss, false, l, sizeof l));
}

static bool put_trend(const pair *p, int n, fm_text *text, json_t *idea)
{
    double x[PAIRS_MAX], f[PAIRS_MAX], t[PAIRS_MAX];
    char a[96], b[96];
    for (int i = 0; i < n; i++) x[i] = log10(p[i].M), f[i] = p[i].flops, t[i] = p[i].time;
    interval sf = slope_of(x, f, n), st = slope_of(x, t, n);
    json_t *o =
        json_pack("{s:o, s:s, s:o, s:s}", "flops", interval_json(sf, true), "flops_verdict",
                  trend_word(sf), "time", interval_json(st, true), "time_verdict", trend_word(st));
    if (!o || json_object_set_new(idea, "factor_per_tenfold_size", o)) return false;
    return add(text,
               "\nFor ten times the size the speed-up changes by a factor of %s in FLOPs (%s) and "
               "%s in time "
               "(%s).\n",
               show(sf, true, a, sizeof a), trend_word(sf), show(st, true, b, sizeof b),
               trend_word(st));
}

static fm_status put_idea(const fmi_study *s, const char *arm, pair *p, fm_text *text,
                          json_t *ideas, int *pairs, fm_err *err)
{
    int n, missing;
    fm_status st = collect(s, arm, p, &n, &missing, err);
    if (st) return st;
    *pairs += n;
    json_t *sizes = json_array(),
           *o = json_pack("{s:s, s:i, s:O}", "name", arm, "missing", missing, "sizes", sizes);
    bool ok = o && !json_array_append_new(ideas, o);
    ok = ok && add(text,
                   "\n## %s\n\n| size | M | pairs | speed-up in FLOPs | speed-up in time | final "
                   "loss minus "
                   "baseline's |\n|---|---|---|---|---|---|\n",
                   arm);
    int clipped = 0;
    for (int i = 0, k; i < n && ok; i = k) {
        for (k = i; k < n && p[k].width == p[i].width;) clipped += p[k++].clipped;
        char name[32];
        snprintf(name, sizeof name, "width %d", p[i].width);
        judged j = average(p + i, k - i);
        ok = put_row(&j, name, p[i].M, text, sizes);
    }
    if (ok && n) {
        judged all = average(p, n);
        json_t *list = json_array();
        ok = put_row(&all, "all", 0, text, list) && put_trend(p, n, text, o);
        ok = ok && !json_object_set(o, "overall", json_array_get(list, 0));
        json_decref(list);
    }
    if (ok && clipped)
        ok = add(text,
                 "\n`*` In %d pairs one curve was below the loss compared at from its first "
                 "evaluation on: its "
                 "speed-up is a bound.\n",
                 clipped);
    if (ok && missing)
        ok = add(text, "\n%d pairs are missing: a run failed or is not done.\n", missing);
    json_decref(sizes);
    return ok ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "a report");
}

static fm_status put_failed(const fmi_study *s, fm_text *text, fm_err *err)
{
    bool ok = true, any = false;
    for (int i = 0; i < s->n && ok; i++) {
        if (s->run[i].state != FM_STUDY_FAILED) continue;
        if (!any) ok = add(text, "\n## Failed runs\n\n");
        any = true;
        ok = ok && add(text, "- %s: %s\n", s->run[i].id, s->run[i].why);
    }
    return ok ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "a report");
}

static fm_status write_files(const fmi_study *s, const fm_text *text, const json_t *root,
                             fm_err *err)
{
    char *md = fmi_study_path(s, "compare.md", NULL), *js = fmi_study_path(s, "compare.json", NULL);
    fm_status st = md && js ? fmi_file_write(md, text->data, text->n, err)
                            : FM_FAIL(err, FM_E_NOMEM, "a report");
    if (!st) st = fmi_json_write(js, root, err);
    fmi_free(md);
    fmi_free(js);
    return st;
}

fm_status fm_study_compare_report(const char *dir, fm_text *out, fm_err *err)
{
    fmi_study *s = NULL;
    fm_text text = {0};
    int pairs = 0;
    pair *p = fmi_alloc(PAIRS_MAX * sizeof *p);
    fm_status st = p ? fmi_study_open(dir, &s, err) : FM_FAIL(err, FM_E_NOMEM, "a report");
    json_t *ideas = json_array(), *root = st ? NULL : json_pack("{s:O}", "ideas", ideas);
    const json_t *names = st ? NULL : json_object_get(s->plan, "ideas");
    if (!st && !json_array_size(names)) st = FM_FAIL(err, FM_E_STATE, "%s: not a comparison", dir);
    if (!st &&
        !add(
            &text,
            "# Comparison\n\nSpeed-up: what the baseline takes to a held-out loss over what the "
            "idea "
            "takes to the same, the worse of the two final losses; above 1 the idea is faster. "
            "Intervals are 95%%, Student's t over pairs of runs with the same size and seed. FLOPs "
            "are "
            "non-embedding training FLOPs as counted (an optimizer's own are in the time only).\n"))
        st = FM_FAIL(err, FM_E_NOMEM, "a report");
    for (size_t i = 0; i < json_array_size(names) && !st; i++)
        st = put_idea(s, json_string_value(json_array_get(names, i)), p, &text, ideas, &pairs, err);
    if (!st) st = put_failed(s, &text, err);
    if (!st && !pairs)
        st = FM_FAIL(
            err, FM_E_STATE,
            "%s: no idea has a finished run beside the baseline's of the same size and seed", dir);
    if (!st) st = write_files(s, &text, root, err);
    json_decref(root);
    json_decref(ideas);
    fmi_free(p);
    fmi_study_close(s);
    if (st)
        fmi_free(text.data);
    else
        *out = text;
    return st;
}
