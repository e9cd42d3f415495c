/* Read-only file mappings. Refuses anything but a regular file. */
#include <fcntl.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"

fm_status fm_map_open(fm_map *m, const char *path, fm_err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot open: %m", path);
    struct stat s;
    fm_status st = FM_OK;
    void *p = NULL;
    if (fstat(fd, &s)) {
        st = FM_FAIL(err, FM_E_IO, "%s: %m", path);
    } else if (!S_ISREG(s.st_mode)) {
        st = FM_FAIL(err, FM_E_IO, "%s: not a regular file", path);
    } else if (s.st_size > 0) {
        p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED) st = FM_FAIL(err, FM_E_IO, "%s: cannot map: %m", path);
    }
    close(fd);
    if (st) return st;
    m->data = p;
    m->bytes = p ? (size_t)s.st_size : 0;
    return FM_OK;
}

void fm_map_close(fm_map *m)
{
    if (m->data) munmap((void *)(uintptr_t)m->data, m->bytes);
    m->data = NULL;
    m->bytes = 0;
}

void fm_map_advise(const fm_map *m, size_t offset, size_t bytes, fmi_advice advice)
{
    if (!m->data || offset >= m->bytes) return;
    if (bytes > m->bytes - offset) bytes = m->bytes - offset;
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t begin = offset, end = offset + bytes;
    if (advice == FMI_ADVICE_DONE) { /* whole pages only: a neighbour may still be in use */
        begin = (begin + page - 1) / page * page;
        end = end == m->bytes ? end : end / page * page;
    } else {
        begin = begin / page * page;
    }
    if (begin >= end) return;
    int how = advice == FMI_ADVICE_DONE         ? MADV_DONTNEED
              : advice == FMI_ADVICE_SEQUENTIAL ? MADV_SEQUENTIAL
                                                : MADV_WILLNEED;
    (void)madvise((void *)(uintptr_t)(m->data + begin), end - begin, how);
}
