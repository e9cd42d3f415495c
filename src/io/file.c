/* Reading files whole and writing them atomically.
 *
 * A writer owns one temporary beside its target. Everything before the rename may fail and leaves
 * the target alone; free removes the temporary whatever happened. Refuses to replace a directory.
 */
#include "io/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file_internal.h"

#define OUT_BUFFER ((size_t)256 << 10)

struct fmi_out {
    char *path;
    char *parent; /* known before the rename: after it nothing but the sync may fail */
    char *tmp;    /* what is written; NULL: path itself (a device or a pipe) */
    int fd;       /* -1: closed */
    bool tmp_exists;
    uint64_t total; /* bytes accepted */
    size_t n_buf;
    char *buf; /* [OUT_BUFFER] */
};

fm_status fmi_write_all(int fd, const char *path, const void *data, size_t bytes, fm_err *err)
{
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = write(fd, p, bytes < ((size_t)1 << 30) ? bytes : (size_t)1 << 30);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot write: %m", path);
        p += n;
        bytes -= (size_t)n;
    }
    return FM_OK;
}

/* Grows *buf so that at least one more byte and a NUL fit; the limit decides how far. */
static bool read_grow(char **buf, size_t *cap, size_t max_bytes)
{
    size_t want = *cap < ((size_t)64 << 10) ? (size_t)64 << 10 : *cap * 2;
    if (want > max_bytes + 2) want = max_bytes + 2;
    char *p = fmi_realloc(*buf, want);
    if (!p) return false;
    *buf = p;
    *cap = want;
    return true;
}

static fm_status read_fd(int fd, const char *path, size_t max_bytes, char **out, size_t *n_out,
                         fm_err *err)
{
    struct stat st;
    if (fstat(fd, &st)) return FM_FAIL(err, FM_E_IO, "%s: %m", path);
    if (S_ISDIR(st.st_mode)) return FM_FAIL(err, FM_E_IO, "%s: is a directory", path);
    bool sized = S_ISREG(st.st_mode) && st.st_size > 0;
    if (sized && (uint64_t)st.st_size > max_bytes)
        return FM_FAIL(err, FM_E_RANGE, "%s: %lld bytes, expected at most %zu", path,
                       (long long)st.st_size, max_bytes);
    size_t n = 0, cap = sized ? (size_t)st.st_size + 2 : 0;
    char *buf = sized ? fmi_alloc(cap) : NULL;
    if (sized && !buf) return FM_FAIL(err, FM_E_NOMEM, "%s: reading %zu bytes", path, cap);
    for (;;) {
        if (n + 1 >= cap && !read_grow(&buf, &cap, max_bytes)) {
            fmi_free(buf);
            return FM_FAIL(err, FM_E_NOMEM, "%s: reading more than %zu bytes", path, n);
        }
        ssize_t got = read(fd, buf + n, cap - 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            FM_FAIL(err, FM_E_IO, "%s: cannot read: %m", path);
            fmi_free(buf);
            return FM_E_IO;
        }
        if (got == 0) break;
        n += (size_t)got;
        if (n > max_bytes) {
            fmi_free(buf);
            return FM_FAIL(err, FM_E_RANGE, "%s: more than %zu bytes", path, max_bytes);
        }
    }
    buf[n] = 0;
    *out = buf;
    if (n_out) *n_out = n;
    return FM_OK;
}

fm_status fmi_file_read(const char *path, size_t max_bytes, char **out, size_t *n, fm_err *err)
{
    if (max_bytes > SIZE_MAX / 4) max_bytes = SIZE_MAX / 4;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot open: %m", path);
    fm_status st = read_fd(fd, path, max_bytes, out, n, err);
    close(fd);
    return st;
}

fm_status fmi_file_write(const char *path, const void *data, size_t bytes, fm_err *err)
{
    fmi_out *o;
    fm_status st = fmi_out_open(path, &o, err);
    if (st) return st;
    st = fmi_out_write(o, data, bytes, err);
    if (!st) st = fmi_out_close(o, err);
    fmi_out_free(o);
    return st;
}

/* Chooses what to write to and opens it. */
static fm_status out_start(fmi_out *o, fm_err *err)
{
    static atomic_uint serial;
    struct stat st;
    bool exists = stat(o->path, &st) == 0;
    if (exists && S_ISDIR(st.st_mode))
        return FM_FAIL(err, FM_E_IO, "%s: cannot write: is a directory", o->path);
    if (exists && !S_ISREG(st.st_mode)) {
        o->fd = open(o->path, O_WRONLY | O_CLOEXEC);
        if (o->fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot open: %m", o->path);
        return FM_OK;
    }
    o->tmp = fmi_format("%s.tmp-%ld-%u", o->path, (long)getpid(), atomic_fetch_add(&serial, 1u));
    if (!o->tmp) return FM_FAIL(err, FM_E_NOMEM, "%s: writer", o->path);
    o->fd = open(o->tmp, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (o->fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot create: %m", o->tmp);
    o->tmp_exists = true;
    return FM_OK;
}

fm_status fmi_out_open(const char *path, fmi_out **out, fm_err *err)
{
    fmi_out *o = fmi_zalloc(sizeof *o);
    if (!o) return FM_FAIL(err, FM_E_NOMEM, "%s: writer", path);
    o->fd = -1;
    o->path = fmi_strdup(path);
    o->parent = fmi_path_parent(path);
    o->buf = fmi_alloc(OUT_BUFFER);
    fm_status st = o->path && o->parent && o->buf ? out_start(o, err)
                                                  : FM_FAIL(err, FM_E_NOMEM, "%s: writer", path);
    if (st) {
        fmi_out_free(o);
        return st;
    }
    *out = o;
    return FM_OK;
}

static fm_status out_flush(fmi_out *o, fm_err *err)
{
    fm_status st = fmi_write_all(o->fd, o->path, o->buf, o->n_buf, err);
    o->n_buf = 0;
    return st;
}

fm_status fmi_out_write(fmi_out *o, const void *data, size_t bytes, fm_err *err)
{
    FM_ASSERT(o->fd >= 0);
    o->total += bytes;
    if (bytes >= OUT_BUFFER - o->n_buf) {
        fm_status st = out_flush(o, err);
        if (st) return st;
        if (bytes >= OUT_BUFFER) return fmi_write_all(o->fd, o->path, data, bytes, err);
    }
    if (bytes) memcpy(o->buf + o->n_buf, data, bytes);
    o->n_buf += bytes;
    return FM_OK;
}

fm_status fmi_out_patch(fmi_out *o, uint64_t offset, const void *data, size_t bytes, fm_err *err)
{
    FM_ASSERT(o->fd >= 0 && offset + bytes <= o->total);
    if (!o->tmp)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: this format needs a regular file", o->path);
    fm_status st = out_flush(o, err);
    if (st) return st;
    const char *p = data;
    while (bytes > 0) {
        ssize_t n = pwrite(o->fd, p, bytes, (off_t)offset);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot write: %m", o->path);
        p += n;
        offset += (uint64_t)n;
        bytes -= (size_t)n;
    }
    return FM_OK;
}

uint64_t fmi_out_offset(const fmi_out *o)
{
    return o->total;
}

fm_status fmi_sync_dir(const char *path, fm_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot open: %m", path);
    fm_status st = FM_OK;
    /* Some file systems cannot sync a directory and say EINVAL. */
    if (fsync(fd) && errno != EINVAL) st = FM_FAIL(err, FM_E_IO, "%s: cannot sync: %m", path);
    close(fd);
    return st;
}

fm_status fmi_out_close(fmi_out *o, fm_err *err)
{
    FM_ASSERT(o->fd >= 0);
    fm_status st = out_flush(o, err);
    if (st) return st;
    if (o->tmp && fsync(o->fd)) return FM_FAIL(err, FM_E_IO, "%s: cannot sync: %m", o->path);
    int rc = close(o->fd);
    o->fd = -1;
    if (rc) return FM_FAIL(err, FM_E_IO, "%s: cannot close: %m", o->path);
    if (!o->tmp) return FM_OK;
    if (rename(o->tmp, o->path)) return FM_FAIL(err, FM_E_IO, "%s: cannot rename: %m", o->tmp);
    o->tmp_exists = false;
    return fmi_sync_dir(o->parent, err);
}

void fmi_out_free(fmi_out *o)
{
    if (!o) return;
    if (o->fd >= 0) close(o->fd);
    if (o->tmp_exists) unlink(o->tmp);
    fmi_free(o->tmp);
    fmi_free(o->path);
    fmi_free(o->parent);
    fmi_free(o->buf);
    fmi_free(o);
}
