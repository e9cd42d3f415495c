/* TensorBoard event files: see events.h. */
#include "train/events.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

uint32_t fmi_crc32c(const void *data, size_t n)
{
    const unsigned char *p = data;
    uint32_t c = 0xffffffffu;
    for (size_t i = 0; i < n; i++) {
        c ^= p[i];
        for (int k = 0; k < 8; k++) c = (c >> 1) ^ (0x82f63b78u & (0u - (c & 1u)));
    }
    return ~c;
}

static uint32_t masked(const void *data, size_t n)
{
    uint32_t c = fmi_crc32c(data, n);
    return ((c >> 15) | (c << 17)) + 0xa282ead8u;
}

static size_t put_le(unsigned char *p, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++) p[i] = (unsigned char)(v >> (8 * i));
    return (size_t)bytes;
}

static size_t put_varint(unsigned char *p, uint64_t v)
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) p[n++] = (unsigned char)(v | 0x80);
    p[n++] = (unsigned char)v;
    return n;
}

static double wall_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Length-delimited field; the payload is copied. */
static size_t put_bytes(unsigned char *p, int field, const void *data, size_t n)
{
    size_t k = put_varint(p, (uint64_t)field << 3 | 2);
    k += put_varint(p + k, n);
    memcpy(p + k, data, n);
    return k + n;
}

/* Writes one record whose Event is wall time, step and field `field` holding n bytes. */
static void put_event(fmi_events *e, int field, const void *data, size_t n)
{
    unsigned char rec[FMI_EVENTS_BYTES + 64];
    unsigned char *ev = rec + 12;
    size_t k = 0;
    uint64_t bits;
    memcpy(&bits, &e->wall, sizeof bits);
    ev[k++] = 1 << 3 | 1;
    k += put_le(ev + k, bits, 8);
    ev[k++] = 2 << 3;
    k += put_varint(ev + k, (uint64_t)e->step);
    k += put_bytes(ev + k, field, data, n);
    put_le(rec, k, 8);
    put_le(rec + 8, masked(rec, 8), 4);
    put_le(ev + k, masked(ev, k), 4);
    size_t total = 12 + k + 4;
    for (size_t at = 0; at < total && !e->failed;) {
        ssize_t w = write(e->fd, rec + at, total - at);
        if (w < 0 && errno == EINTR) continue;
        if (w <= 0) e->failed = true;
        else at += (size_t)w;
    }
}

fm_status fmi_events_open(fmi_events *e, const char *dir, int64_t resumed_at, fm_err *err)
{
    memset(e, 0, sizeof *e);
    e->fd = -1;
    e->wall = wall_now();
    for (int i = 0; e->fd < 0 && i < 10000; i++) {
        char *path = fmi_format("%s/events.out.tfevents.%010lld.%d.fathom", dir, (long long)e->wall, i);
        if (!path) return FM_FAIL(err, FM_E_NOMEM, "event file in %s", dir);
        e->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        int why = errno;
        if (e->fd < 0 && why != EEXIST) {
            fm_status st = FM_FAIL(err, FM_E_IO, "%s: %s", path, strerror(why));
            fmi_free(path);
            return st;
        }
        fmi_free(path);
    }
    if (e->fd < 0) return FM_FAIL(err, FM_E_IO, "%s: no free name for an event file", dir);
    put_event(e, 3, "brain.Event:2", 13);
    static const unsigned char start[] = { 1 << 3, 1 }; /* SessionLog.status = START */
    e->step = resumed_at;
    if (resumed_at >= 0) put_event(e, 7, start, sizeof start);
    return e->failed ? FM_FAIL(err, FM_E_IO, "event file in %s: write failed", dir) : FM_OK;
}

void fmi_events_close(fmi_events *e)
{
    if (e->fd > 0) close(e->fd);
    e->fd = -1;
}

void fmi_events_begin(fmi_events *e, int64_t step)
{
    e->step = step;
    e->wall = wall_now();
    e->n = 0;
}

void fmi_events_scalar(fmi_events *e, const char *tag, double value)
{
    unsigned char v[256];
    size_t len = strlen(tag);
    FM_ASSERT(len < 200);
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    size_t k = put_bytes(v, 1, tag, len);
    v[k++] = 2 << 3 | 5;
    k += put_le(v + k, bits, 4);
    if (e->n + k + 8 > sizeof e->summary) {
        put_event(e, 5, e->summary, e->n);
        e->n = 0;
    }
    e->n += put_bytes(e->summary + e->n, 1, v, k);
}

fm_status fmi_events_end(fmi_events *e, fm_err *err)
{
    if (e->n) put_event(e, 5, e->summary, e->n);
    e->n = 0;
    return e->failed ? FM_FAIL(err, FM_E_IO, "event file: write failed: %s", strerror(errno)) : FM_OK;
}
