/* Byte streams over plain, gzip and zstd files and standard input.
 *
 * The kind is told by the first bytes, not by the name, so a pipe may be compressed too. Several
 * gzip members or zstd frames one after another count as one file. A compressed file that ends
 * early is an error: half a corpus must not pass for a whole one. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include "text/documents.h"

#define IN_BYTES 65536

struct fmi_stream {
    char *path;
    int fd;
    bool own_fd, eof, in_frame;
    enum { PLAIN, GZIP, ZST } kind;
    z_stream z;
    ZSTD_DStream *zst;
    size_t at, n;    /* unread part of in */
    uint64_t offset; /* bytes taken from the file */
    unsigned char in[IN_BYTES];
};

/* Reads more after what is unread; at the end of the file sets eof. */
static fm_status fill(fmi_stream *s, fm_err *err)
{
    if (s->at) memmove(s->in, s->in + s->at, s->n);
    s->at = 0;
    while (!s->eof && s->n < IN_BYTES) {
        ssize_t k = read(s->fd, s->in + s->n, IN_BYTES - s->n);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return FM_FAIL(err, FM_E_IO, "%s: %s", s->path, strerror(errno));
        if (k == 0) s->eof = true;
        s->n += (size_t)k;
        s->offset += (uint64_t)k;
        if (k > 0 && s->n >= 4) break; /* enough to go on: do not wait for a slow pipe */
    }
    return FM_OK;
}

static fm_status start(fmi_stream *s, fm_err *err)
{
    fm_status st = fill(s, err);
    if (st) return st;
    if (s->n >= 2 && s->in[0] == 0x1f && s->in[1] == 0x8b) {
        if (inflateInit2(&s->z, 15 + 16) != Z_OK)
            return FM_FAIL(err, FM_E_NOMEM, "%s: gzip", s->path);
        s->kind = GZIP;
        s->in_frame = true;
    } else if (s->n >= 4 && !memcmp(s->in, "\x28\xb5\x2f\xfd", 4)) {
        s->zst = ZSTD_createDStream();
        if (!s->zst) return FM_FAIL(err, FM_E_NOMEM, "%s: zstd", s->path);
        s->kind = ZST;
        s->in_frame = true;
    }
    return FM_OK;
}

fm_status fmi_stream_open(const char *path, fmi_stream **out, fm_err *err)
{
    fmi_stream *s = fmi_zalloc(sizeof *s);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    bool std = !strcmp(path, "-");
    s->fd = -1;
    s->path = fmi_strdup(std ? "standard input" : path);
    fm_status st = s->path ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    if (!st) {
        s->fd = std ? 0 : open(path, O_RDONLY | O_CLOEXEC);
        s->own_fd = !std;
        if (s->fd < 0) st = FM_FAIL(err, FM_E_IO, "%s: %s", path, strerror(errno));
    }
    if (!st) st = start(s, err);
    if (st) fmi_stream_close(s);
    else *out = s;
    return st;
}

void fmi_stream_close(fmi_stream *s)
{
    if (!s) return;
    if (s->kind == GZIP) inflateEnd(&s->z);
    ZSTD_freeDStream(s->zst);
    if (s->own_fd && s->fd >= 0) close(s->fd);
    fmi_free(s->path);
    fmi_free(s);
}

static fm_status damaged(const fmi_stream *s, const char *what, fm_err *err)
{
    return FM_FAIL(err, FM_E_FORMAT, "%s: %s near byte %llu", s->path, what,
                   (unsigned long long)(s->offset - s->n));
}

static fm_status read_gzip(fmi_stream *s, void *buf, size_t cap, size_t *n, fm_err *err)
{
    if (!s->in_frame) { /* between members */
        if (!s->n) return FM_OK;
        if (s->in[s->at] != 0x1f || inflateReset(&s->z) != Z_OK)
            return damaged(s, "bytes after the gzip data", err);
        s->in_frame = true;
    }
    s->z.next_in = s->in + s->at;
    s->z.avail_in = (uInt)s->n;
    s->z.next_out = buf;
    s->z.avail_out = (uInt)cap;
    int rc = inflate(&s->z, Z_NO_FLUSH);
    s->at += s->n - s->z.avail_in;
    s->n = s->z.avail_in;
    *n = cap - s->z.avail_out;
    if (rc == Z_STREAM_END) s->in_frame = false;
    else if (rc != Z_OK && rc != Z_BUF_ERROR) return damaged(s, "damaged gzip data", err);
    return FM_OK;
}

static fm_status read_zst(fmi_stream *s, void *buf, size_t cap, size_t *n, fm_err *err)
{
    ZSTD_inBuffer in = { s->in + s->at, s->n, 0 };
    ZSTD_outBuffer o = { buf, cap, 0 };
    if (!s->n && !s->in_frame) return FM_OK;
    size_t rc = ZSTD_decompressStream(s->zst, &o, &in);
    if (ZSTD_isError(rc)) return damaged(s, ZSTD_getErrorName(rc), err);
    s->in_frame = rc != 0;
    s->at += in.pos;
    s->n -= in.pos;
    *n = o.pos;
    return FM_OK;
}

fm_status fmi_stream_read(fmi_stream *s, void *buf, size_t cap, size_t *n, fm_err *err)
{
    *n = 0;
    if (cap > 1u << 30) cap = 1u << 30;
    for (;;) {
        fm_status st = s->n || s->eof ? FM_OK : fill(s, err);
        if (st) return st;
        if (s->kind == PLAIN) {
            *n = s->n < cap ? s->n : cap;
            memcpy(buf, s->in + s->at, *n);
            s->at += *n;
            s->n -= *n;
            return FM_OK;
        }
        size_t had = s->n;
        st = s->kind == GZIP ? read_gzip(s, buf, cap, n, err) : read_zst(s, buf, cap, n, err);
        if (st || *n) return st;
        if (s->eof && s->n == had) /* no output, no progress, nothing to come */
            return s->in_frame ? damaged(s, "the compressed data ends early", err) : FM_OK;
    }
}
