/* Sources from anywhere: the input is standard input, so its kind (plain, gzip, zstd; text or JSON
 * lines) is told by its bytes. Documents are never empty and, for plain text, never longer together
 * than the input. */
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "text/documents.h"

static fm_status take(void *arg, const char *text, size_t n, fm_err *err)
{
    size_t *total = arg;
    (void)err;
    if (!n || !text) abort();
    *total += n;
    /* A small file may unpack to an enormous one: enough is enough. */
    return *total > ((size_t)64 << 20) ? FM_E_RANGE : FM_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fd = memfd_create("input", 0);
    if (fd < 0) return 0;
    if (write(fd, data, size) != (ssize_t)size || lseek(fd, 0, SEEK_SET) ||
        dup2(fd, 0) < 0)
        abort();
    close(fd);
    size_t total = 0;
    fm_err err = { .code = FM_OK };
    fm_status st = fmi_documents_read("-", take, &total, &err);
    if (st && err.code) fuzz_check_failure(st, &err, st == FM_E_NOMEM ? "" : "standard input");
    bool packed = size > 3 && (data[0] == 0x1f || data[0] == 0x28);
    if (!packed && total > size) abort();
    char spec[64];
    size_t n = size < 63 ? size : 63;
    if (n) memcpy(spec, data, n);
    spec[n] = 0;
    char *path = NULL;
    double w = 0;
    if (!fmi_source_parse(spec, &path, &w, NULL) && !(w > 0 && w <= 1000)) abort();
    fmi_free(path);
    return 0;
}
