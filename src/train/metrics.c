/* metrics.jsonl and its twin for TensorBoard: see metrics.h. */
#include "train/metrics.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static void add(fmi_metrics *m, const char *fmt, ...) FMI_PRINTF(2, 3);
static void add(fmi_metrics *m, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int k = vsnprintf(m->line + m->n, m->cap - m->n, fmt, ap);
    va_end(ap);
    FM_ASSERT(k >= 0 && (size_t)k < m->cap - m->n);
    m->n += (size_t)k;
}

/* JSON has no infinities. */
static void add_real(fmi_metrics *m, const char *key, double v)
{
    if (isfinite(v)) add(m, ",\"%s\":%.9g", key, v);
    else add(m, ",\"%s\":null", key);
}

static fm_status put_line(fmi_metrics *m, fm_err *err)
{
    for (size_t at = 0; at < m->n;) {
        ssize_t w = write(m->fd, m->line + at, m->n - at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) return FM_FAIL(err, FM_E_IO, "%s: %s", m->path, strerror(errno));
        at += (size_t)w;
    }
    m->offset += m->n;
    return FM_OK;
}

fm_status fmi_metrics_open(fmi_metrics *m, const char *dir, uint64_t offset, int64_t resumed_at,
                           int n_layers, fm_err *err)
{
    memset(m, 0, sizeof *m);
    m->fd = m->events.fd = -1;
    m->cap = 1024 + (size_t)n_layers * 256;
    m->line = fmi_alloc(m->cap);
    m->path = fmi_format("%s/metrics.jsonl", dir);
    if (!m->path || !m->line) return FM_FAIL(err, FM_E_NOMEM, "%s/metrics.jsonl", dir);
    m->fd = open(m->path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);
    if (m->fd < 0) return FM_FAIL(err, FM_E_IO, "%s: %s", m->path, strerror(errno));
    off_t have = lseek(m->fd, 0, SEEK_END);
    if (have < (off_t)offset)
        return FM_FAIL(err, FM_E_FORMAT, "%s: %lld bytes, but the checkpoint was made after %llu", m->path,
                       (long long)have, (unsigned long long)offset);
    if (ftruncate(m->fd, (off_t)offset) || lseek(m->fd, (off_t)offset, SEEK_SET) < 0)
        return FM_FAIL(err, FM_E_IO, "%s: %s", m->path, strerror(errno));
    m->offset = offset;
    return fmi_events_open(&m->events, dir, resumed_at, err);
}

void fmi_metrics_close(fmi_metrics *m)
{
    if (m->fd > 0) close(m->fd);
    fmi_events_close(&m->events);
    fmi_free(m->path);
    fmi_free(m->line);
    memset(m, 0, sizeof *m);
    m->fd = -1;
}

static void layer_scalars(fmi_events *e, const fmi_layer_balance *b)
{
    char tag[64];
    snprintf(tag, sizeof tag, "balance/layer_%d/max_vio", b->layer);
    fmi_events_scalar(e, tag, b->max_vio);
    snprintf(tag, sizeof tag, "balance/layer_%d/max_vio_50", b->layer);
    fmi_events_scalar(e, tag, b->max_vio_window);
    snprintf(tag, sizeof tag, "balance/layer_%d/dead", b->layer);
    fmi_events_scalar(e, tag, b->dead);
    snprintf(tag, sizeof tag, "balance/layer_%d/entropy", b->layer);
    fmi_events_scalar(e, tag, b->entropy);
    snprintf(tag, sizeof tag, "balance/layer_%d/bias_range", b->layer);
    fmi_events_scalar(e, tag, (double)b->bias_max - (double)b->bias_min);
}

static fm_status step_events(fmi_metrics *m, const fmi_step_report *r, fm_err *err)
{
    fmi_events *e = &m->events;
    fmi_events_begin(e, r->step);
    fmi_events_scalar(e, "train/loss", r->loss);
    fmi_events_scalar(e, "train/mtp_loss", r->mtp_loss);
    fmi_events_scalar(e, "train/balance_loss", r->balance_loss);
    fmi_events_scalar(e, "train/bits_per_byte", r->bits_per_byte);
    fmi_events_scalar(e, "train/grad_norm", r->grad_norm);
    fmi_events_scalar(e, "train/lr", r->lr);
    fmi_events_scalar(e, "train/tokens", (double)r->tokens);
    fmi_events_scalar(e, "train/tokens_per_second", r->tokens_per_second);
    for (int i = 0; i < r->n_layers; i++) layer_scalars(e, &r->layers[i]);
    return fmi_events_end(e, err);
}

fm_status fmi_metrics_step(fmi_metrics *m, const fmi_step_report *r, fm_err *err)
{
    m->n = 0;
    add(m, "{\"step\":%lld,\"tokens\":%lld,\"batch_tokens\":%lld,\"targets\":%lld", (long long)r->step,
        (long long)r->tokens, (long long)r->batch_tokens, (long long)r->n_target);
    add_real(m, "loss", r->loss);
    add_real(m, "mtp_loss", r->mtp_loss);
    add_real(m, "balance_loss", r->balance_loss);
    add_real(m, "bits_per_byte", r->bits_per_byte);
    add_real(m, "lr", r->lr);
    add_real(m, "grad_norm", r->grad_norm);
    add_real(m, "gamma", r->gamma);
    add_real(m, "mtp_weight", r->mtp_weight);
    add(m, ",\"dropped\":0,\"layers\":[");
    for (int i = 0; i < r->n_layers; i++) {
        const fmi_layer_balance *b = &r->layers[i];
        add(m, "%s{\"layer\":%d", i ? "," : "", b->layer);
        add_real(m, "max_vio", b->max_vio);
        add_real(m, "max_vio_50", b->max_vio_window);
        add(m, ",\"dead\":%d", b->dead);
        add_real(m, "entropy", b->entropy);
        add_real(m, "bias_min", b->bias_min);
        add_real(m, "bias_max", b->bias_max);
        add(m, "}");
    }
    add(m, "],\"seconds\":%.4f,\"elapsed\":%.3f,\"tokens_per_second\":%.1f}\n", r->seconds, r->elapsed,
        r->tokens_per_second);
    fm_status st = put_line(m, err);
    return st ? st : step_events(m, r, err);
}

fm_status fmi_metrics_eval(fmi_metrics *m, int64_t step, int64_t tokens, double bits_per_byte, double loss,
                           int64_t n_target, fm_err *err)
{
    m->n = 0;
    add(m, "{\"step\":%lld,\"tokens\":%lld,\"val_targets\":%lld", (long long)step, (long long)tokens,
        (long long)n_target);
    add_real(m, "val_bits_per_byte", bits_per_byte);
    add_real(m, "val_loss", loss);
    add(m, "}\n");
    fm_status st = put_line(m, err);
    if (st) return st;
    fmi_events_begin(&m->events, step);
    fmi_events_scalar(&m->events, "val/bits_per_byte", bits_per_byte);
    fmi_events_scalar(&m->events, "val/loss", loss);
    return fmi_events_end(&m->events, err);
}

fm_status fmi_metrics_sync(fmi_metrics *m, fm_err *err)
{
    if (fsync(m->fd)) return FM_FAIL(err, FM_E_IO, "%s: %s", m->path, strerror(errno));
    return FM_OK;
}
