/* CSV files of finished runs: one header line, commas, optional double quotes, numbers in C's form.
 *
 * A column is known by any of its names, in any case; `field=NAME` overrides. Which fields make a
 * point is decided here as well: expert files name the active count beside the whole one, sweeps
 * give batches in sequences or steps. Refuses, with file and line, what is no positive number, and
 * the arms of a comparison side by side: their runs follow no common law. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/file.h"
#include "points.h"

#define COLUMNS_MAX 256
#define CSV_BYTES_MAX ((size_t)256 << 20)

enum {
    PARAMS,
    ACTIVE,
    TOTAL,
    M,
    TOKENS,
    FLOPS,
    LOSS,
    LR,
    BATCH,
    BATCH_SEQS,
    SEQ,
    STEPS,
    BUDGET,
    N_FIELDS
};

/* A field and the columns that are it; earlier names win. A smoothed loss goes before the last
 * batch's. */
static const struct {
    const char *own, *names[8];
} fields[N_FIELDS] = {
    [PARAMS] = {"params", {"params", "n", "n_params", "parameters", "size", "eff_params"}},
    [ACTIVE] = {"active", {"active", "na", "n_active", "active_params", "params_active"}},
    [TOTAL] = {"params_total", {"params_total", "total_params", "n_total", "total"}},
    [M] = {"m", {"m", "nonembed_flops_per_token", "flops_per_token", "m_flops"}},
    [TOKENS] = {"tokens", {"tokens", "d", "n_tokens", "training_tokens"}},
    [FLOPS] = {"flops", {"flops", "c", "compute", "training_flops"}},
    [LOSS] = {"loss", {"smooth_loss", "loss", "l", "val_loss", "final_loss", "val_bpb", "bpb"}},
    [LR] = {"lr", {"lr", "learning_rate", "lr_peak"}},
    [BATCH] = {"batch_tokens", {"batch_tokens", "batch"}},
    [BATCH_SEQS] = {"batch_seqs", {"batch_seqs"}},
    [SEQ] = {"seq_len", {"seq_len", "seq_length"}},
    [STEPS] = {"steps", {"steps", "n_steps"}},
    [BUDGET] = {"budget", {"budget"}},
};

typedef struct reader {
    const char *path;
    char *at; /* the next line */
    int line;
    char *cell[COLUMNS_MAX];
    int n; /* cells of this line */
    int n_header;
    int column[N_FIELDS]; /* -1: not there */
    int arm;              /* column, -1: not there */
    char first_arm[64];   /* of the rows so far */
    char *header[COLUMNS_MAX];
} reader;

static char *trimmed(char *s)
{
    while (*s == ' ' || *s == '\t') s++;
    size_t n = strlen(s);
    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t' || s[n - 1] == '\r')) s[--n] = 0;
    return s;
}

/* Cuts the next line that is not blank into cells, in place. False at the end. */
static fm_status next_line(reader *r, bool *there, fm_err *err)
{
    for (;;) {
        char *s = r->at;
        if (!*s) return *there = false, FM_OK;
        size_t n = strcspn(s, "\n");
        r->at = s + n + (s[n] == '\n');
        s[n] = 0;
        r->line++;
        s = trimmed(s);
        if (*s && *s != '#') {
            r->n = 0;
            for (char *end = s; end; s = end) {
                if (r->n == COLUMNS_MAX)
                    return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: more than %d columns", r->path,
                                   r->line, COLUMNS_MAX);
                if (*s == '"') {
                    char *close = strchr(s + 1, '"');
                    if (!close)
                        return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: a quote is not closed",
                                       r->path, r->line);
                    end = strchr(close, ',');
                    *close = 0;
                    s++;
                } else {
                    end = strchr(s, ',');
                }
                if (end) *end++ = 0;
                r->cell[r->n++] = trimmed(s);
            }
            return *there = true, FM_OK;
        }
    }
}

static int header_index(const reader *r, const char *name)
{
    for (int i = 0; i < r->n_header; i++)
        if (!strcasecmp(r->header[i], name)) return i;
    return -1;
}

static fm_status override(reader *r, const char *pair, fm_err *err)
{
    size_t n = strcspn(pair, "=");
    for (int f = 0; f < N_FIELDS; f++) {
        if (strlen(fields[f].own) != n || strncasecmp(fields[f].own, pair, n)) continue;
        if (pair[n] && !strcmp(pair + n, "=-")) return r->column[f] = -1, FM_OK;
        r->column[f] = pair[n] ? header_index(r, pair + n + 1) : -1;
        if (r->column[f] < 0)
            return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: no column \"%s\"", r->path, r->line,
                           pair[n] ? pair + n + 1 : pair);
        return FM_OK;
    }
    return FM_FAIL(
        err, FM_E_RANGE,
        "column \"%s\": expected field=NAME, field one of params, active, params_total, m, "
        "tokens, flops, loss, lr, batch_tokens, batch_seqs, seq_len, steps, budget",
        pair);
}

static fm_status read_header(reader *r, const char *const *columns, int n_columns, fm_err *err)
{
    bool there;
    fm_status st = next_line(r, &there, err);
    if (st) return st;
    if (!there) return FM_FAIL(err, FM_E_FORMAT, "%s: empty; expected a header line", r->path);
    r->n_header = r->n;
    memcpy(r->header, r->cell, sizeof r->cell);
    for (int f = 0; f < N_FIELDS; f++) {
        r->column[f] = -1;
        for (int k = 0; k < 8 && fields[f].names[k] && r->column[f] < 0; k++)
            r->column[f] = header_index(r, fields[f].names[k]);
    }
    r->arm = header_index(r, "arm");
    for (int i = 0; i < n_columns && !st; i++) st = override(r, columns[i], err);
    if (st) return st;
    const int *c = r->column;
    const char *missing = NULL;
    if (c[LOSS] < 0)
        missing = "loss (or L, val_loss, bpb)";
    else if (c[PARAMS] < 0 && c[ACTIVE] < 0 && c[M] < 0)
        missing = "size: params (or N), or M (or flops_per_token)";
    else if (c[TOKENS] < 0 && c[FLOPS] < 0)
        missing = "tokens (or D), or flops (or C)";
    if (missing)
        return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: no column for %s; found \"%s\"%s%s%s",
                       r->path, r->line, missing, r->header[0], r->n_header > 1 ? ", \"" : "",
                       r->n_header > 1 ? r->header[1] : "",
                       r->n_header > 2   ? "\", .."
                       : r->n_header > 1 ? "\""
                                         : "");
    return FM_OK;
}

static fm_status number(const reader *r, int f, double *out, fm_err *err)
{
    int c = r->column[f];
    *out = 0;
    if (c < 0) return FM_OK;
    const char *name = r->header[c], *s = r->cell[c];
    char *end;
    double v = strtod(s, &end);
    if (end == s || *end)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: line %d: column \"%s\": expected a number, found \"%.40s\"", r->path,
                       r->line, name, s);
    if (!isfinite(v) || v <= 0)
        return FM_FAIL(err, FM_E_RANGE,
                       "%s: line %d: column \"%s\": expected a positive number, found %.40s",
                       r->path, r->line, name, s);
    *out = v;
    return FM_OK;
}

/* Fields of a line -> a point. With an active count beside it, "params" is the whole model. */
static void compose(const double *v, fm_scale_point *p)
{
    p->params = v[ACTIVE] > 0 ? v[ACTIVE] : v[PARAMS];
    p->params_total = v[TOTAL] > 0 ? v[TOTAL] : v[ACTIVE] > 0 ? v[PARAMS] : 0;
    p->m = v[M];
    p->tokens = v[TOKENS];
    p->flops = v[FLOPS];
    p->loss = v[LOSS];
    p->lr = v[LR];
    p->budget = v[BUDGET];
    p->batch_tokens = v[BATCH];
    if (p->batch_tokens == 0 && v[BATCH_SEQS] > 0 && v[SEQ] > 0)
        p->batch_tokens = v[BATCH_SEQS] * v[SEQ];
    if (p->batch_tokens == 0 && v[STEPS] > 0) p->batch_tokens = v[TOKENS] / v[STEPS];
}

/* Whether the row is of the arm asked for; all rows must be of one when none is. */
static fm_status take_arm(reader *r, const char *want, int row, bool *take, fm_err *err)
{
    const char *arm = r->arm >= 0 ? r->cell[r->arm] : "";
    *take = !want || !strcmp(arm, want);
    if (row == 0) snprintf(r->first_arm, sizeof r->first_arm, "%s", arm);
    if (want || !strncmp(arm, r->first_arm, sizeof r->first_arm - 1)) return FM_OK;
    return FM_FAIL(err, FM_E_FORMAT,
                   "%s: line %d: arm \"%.60s\" beside \"%s\": the arms of a comparison follow no "
                   "common law; --arm NAME takes one of them",
                   r->path, r->line, arm, r->first_arm);
}

static fm_status read_rows(reader *r, fm_scale_points *p, fm_err *err)
{
    int row = 0;
    for (;;) {
        double v[N_FIELDS];
        char name[64];
        bool there, take;
        fm_scale_point q = {0};
        fm_status st = next_line(r, &there, err);
        if (st || !there) return st;
        if (r->n != r->n_header)
            return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: expected %d columns, found %d", r->path,
                           r->line, r->n_header, r->n);
        st = take_arm(r, p->arm, row++, &take, err);
        if (!st && !take) continue;
        for (int f = 0; f < N_FIELDS && !st; f++) st = number(r, f, &v[f], err);
        if (st) return st;
        compose(v, &q);
        q.line = r->line;
        snprintf(name, sizeof name, "line %d", r->line);
        st = fm_scale_points_add(p, &q, name, err);
        if (st) return fmi_fail_prefix(err, st, "%s", r->path);
    }
}

fm_status fmi_scale_points_parse(fm_scale_points *p, const char *name, char *text, size_t n,
                                 const char *const *columns, int n_columns, fm_err *err)
{
    int before = p->n;
    if (memchr(text, 0, n)) return FM_FAIL(err, FM_E_FORMAT, "%s: a zero byte: no text", name);
    reader *r = fmi_zalloc(sizeof *r);
    if (!r) return FM_FAIL(err, FM_E_NOMEM, "%s", name);
    r->path = name;
    r->at = !strncmp(text, "\xef\xbb\xbf", 3) ? text + 3 : text;
    fm_status st = read_header(r, columns, n_columns, err);
    if (!st) st = read_rows(r, p, err);
    if (!st && p->n == before && p->arm)
        st = FM_FAIL(err, FM_E_FORMAT, "%s: no run of arm \"%.60s\"%s", name, p->arm,
                     r->arm < 0 ? ": no column \"arm\"" : "");
    if (!st && p->n == before) st = FM_FAIL(err, FM_E_FORMAT, "%s: a header and no points", name);
    if (st) p->n = before;
    fmi_free(r);
    return st;
}

fm_status fm_scale_points_read(fm_scale_points *p, const char *path, const char *const *columns,
                               int n_columns, fm_err *err)
{
    char *text = NULL;
    size_t n;
    fm_status st = fmi_file_read(path, CSV_BYTES_MAX, &text, &n, err);
    if (!st) st = fmi_scale_points_parse(p, path, text, n, columns, n_columns, err);
    fmi_free(text);
    return st;
}
