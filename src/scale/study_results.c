/* What a run directory says of itself: metrics.jsonl read from its lines, and the board, which
 * takes only the last of them. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

#define METRICS_BYTES_MAX ((size_t)1 << 30)
#define TAIL_BYTES 16384

/* The number behind "key": in a line of metrics; NAN where it is absent or null. Keys of the line's
 * own level stand before or behind "layers", whose objects have none of the names asked for. */
static double number_of(const char *line, const char *end, const char *key)
{
    char quoted[48];
    size_t k = (size_t)snprintf(quoted, sizeof quoted, "\"%s\":", key);
    for (const char *p = line; p + k < end; p++) {
        p = memchr(p, '"', (size_t)(end - p));
        if (!p || p + k >= end) break;
        if (memcmp(p, quoted, k)) continue;
        char *stop;
        double v = strtod(p + k, &stop);
        return stop == p + k ? NAN : v;
    }
    return NAN;
}

static void take_line(const char *line, const char *end, fmi_study_metrics *m, int64_t *eval_step,
                      double *losses, int64_t *n_losses)
{
    double step = number_of(line, end, "step"), bits = number_of(line, end, "val_bits_per_byte");
    double targets = number_of(line, end, "val_targets");
    if (isnan(step)) return;
    if (!isnan(targets)) {
        *eval_step = (int64_t)step;
        m->bits_per_byte = bits;
        m->loss = number_of(line, end, "val_loss");
        return;
    }
    double seconds = number_of(line, end, "seconds");
    m->step = (int64_t)step;
    m->tokens = number_of(line, end, "tokens");
    m->elapsed = number_of(line, end, "elapsed");
    if (seconds > 0) m->seconds += seconds;
    losses[(*n_losses)++] = number_of(line, end, "loss");
}

fm_status fmi_study_metrics_read(const char *run, double tokens, fmi_study_metrics *out,
                                 fm_err *err)
{
    fmi_study_metrics m = {.loss = NAN, .bits_per_byte = NAN, .train_loss = NAN};
    char *path = fmi_path_join(run, "metrics.jsonl"), *text = NULL;
    size_t n = 0, lines = 1;
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s: metrics", run);
    fm_status st =
        fmi_path_is_file(path) ? fmi_file_read(path, METRICS_BYTES_MAX, &text, &n, err) : FM_OK;
    for (size_t i = 0; i < n; i++) lines += text[i] == '\n';
    double *losses = st ? NULL : fmi_alloc(lines * sizeof *losses);
    if (!st && !losses) st = FM_FAIL(err, FM_E_NOMEM, "%s", path);
    int64_t n_losses = 0, eval_step = -1;
    for (const char *p = text; !st && p && p < text + n;) {
        const char *end = memchr(p, '\n', (size_t)(text + n - p));
        if (!end) break; /* half a line: written by a process that was killed */
        take_line(p, end, &m, &eval_step, losses, &n_losses);
        p = end + 1;
    }
    if (!st && n_losses) {
        int64_t k = (n_losses + 19) / 20;
        double sum = 0;
        for (int64_t i = n_losses - k; i < n_losses; i++) sum += losses[i];
        m.train_loss = sum / (double)k;
        m.ended = m.tokens >= tokens && eval_step == m.step;
    }
    fmi_free(losses);
    fmi_free(text);
    fmi_free(path);
    if (!st) *out = m;
    return st;
}

/* The last complete step line of a growing file. */
static void last_line(const char *run, double tokens, double *fraction, double *loss, double *bits,
                      double *rate, double *elapsed)
{
    char buf[TAIL_BYTES + 1], *path = fmi_path_join(run, "metrics.jsonl");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    fmi_free(path);
    if (fd < 0) return;
    off_t size = lseek(fd, 0, SEEK_END), from = size > TAIL_BYTES ? size - TAIL_BYTES : 0;
    ssize_t n = pread(fd, buf, TAIL_BYTES, from);
    close(fd);
    buf[n > 0 ? n : 0] = 0;
    const char *end = n > 0 ? buf + n : buf;
    while (end > buf) {
        while (end > buf && end[-1] != '\n') end--; /* half a line */
        if (end == buf) return;
        const char *line = end - 1;
        while (line > buf && line[-1] != '\n') line--;
        if (!isnan(number_of(line, end, "batch_tokens"))) {
            *fraction = number_of(line, end, "tokens") / tokens;
            *loss = number_of(line, end, "loss");
            *bits = number_of(line, end, "bits_per_byte");
            *rate = number_of(line, end, "tokens_per_second");
            *elapsed = number_of(line, end, "elapsed");
            return;
        }
        end = line;
    }
}

/* Runs at work: names of queue/doing. */
static fm_status board_lines(fmi_study *s, fm_study_board *b, fm_err *err)
{
    char **names = NULL, self[96], *path = fmi_study_path(s, "queue", "doing");
    int n = 0;
    fmi_claim_self(self, sizeof self);
    fm_status st =
        path ? fmi_dir_names(path, &names, &n, err) : FM_FAIL(err, FM_E_NOMEM, "%s", s->dir);
    for (int i = 0; i < n && b->n_lines < FM_STUDY_BOARD_MAX; i++) {
        size_t len = fmi_claim_split(names[i], NULL, NULL);
        int r = len ? fmi_study_find(s, names[i], len) : -1;
        char *run = r >= 0 ? fmi_study_path(s, "runs", s->run[r].id) : NULL;
        if (!run) continue;
        int k = b->n_lines++;
        memcpy(b->line[k].id, s->run[r].id, sizeof b->line[k].id);
        snprintf(b->line[k].worker, sizeof b->line[k].worker, "%.63s", names[i] + len + 1);
        b->line[k].mine = !strcmp(names[i] + len + 1, self);
        last_line(run, s->run[r].tokens, &b->line[k].fraction, &b->line[k].loss,
                  &b->line[k].bits_per_byte, &b->line[k].tokens_per_second, &b->line[k].seconds);
        fmi_free(run);
    }
    fmi_names_free(names, n);
    fmi_free(path);
    return st;
}

fm_status fmi_study_board_fill(fmi_study *s, fm_study_board *out, fm_err *err)
{
    fm_study_board b = {0};
    double expected = 0, spent = 0, left = 0;
    fm_status st = board_lines(s, &b, err);
    for (int i = 0; i < s->n && !st; i++) {
        const fm_study_run *r = &s->run[i];
        b.waiting += r->state == FM_STUDY_WAITING;
        b.doing += r->state == FM_STUDY_DOING;
        b.done += r->state == FM_STUDY_DONE;
        b.failed += r->state == FM_STUDY_FAILED;
        if (r->state == FM_STUDY_DONE) expected += r->seconds_expected, spent += r->wall_seconds;
        if (r->state >= FM_STUDY_DONE) continue;
        double part = 1;
        for (int k = 0; k < b.n_lines; k++)
            if (!strcmp(b.line[k].id, r->id) && b.line[k].fraction < 1)
                part = 1 - b.line[k].fraction;
        left += part * r->seconds_expected;
    }
    if (expected > 0 && spent > 0) left *= spent / expected;
    b.seconds_left = left / (b.doing > 0 ? b.doing : 1);
    if (!st) *out = b;
    return st;
}

fm_status fm_study_board_get(const char *dir, fm_study_board *out, fm_err *err)
{
    fmi_study *s;
    fm_status st = fmi_study_open(dir, &s, err);
    if (st) return st;
    st = fmi_study_board_fill(s, out, err);
    fmi_study_close(s);
    return st;
}
