/* Files and directories: reading whole, writing so that a reader sees the old or the new and
 * nothing between, and read-only mappings.
 *
 * Atomic means: written beside the target as NAME.tmp-<pid>-<n>, synced, renamed, directory synced.
 * After any failure (a full disk included) the temporary is removed and the target is untouched.
 * Every message names the path and the system's reason. */
#ifndef FM_IO_FILE_H
#define FM_IO_FILE_H

#include "base/base.h"

/* Whole file into a heap block with a NUL after the last byte; free with fmi_free. `n` may be NULL.
 * FM_E_RANGE: longer than max_bytes. Works on pipes and devices too. */
fm_status fmi_file_read(const char *path, size_t max_bytes, char **out, size_t *n, fm_err *err);

/* Whole file, atomically. */
fm_status fmi_file_write(const char *path, const void *data, size_t bytes, fm_err *err);

/* Streaming atomic writer. open, write.., close (publishes), free. free without a successful close
 * removes the temporary. A target that exists and is no regular file (a pipe, /dev/stdout) is
 * written directly. One thread at a time. */
typedef struct fmi_out fmi_out;
fm_status fmi_out_open(const char *path, fmi_out **out, fm_err *err);
fm_status fmi_out_write(fmi_out *o, const void *data, size_t bytes, fm_err *err);
/* Overwrites bytes already written, at an absolute offset (a header known only at the end). */
fm_status fmi_out_patch(fmi_out *o, uint64_t offset, const void *data, size_t bytes, fm_err *err);
uint64_t fmi_out_offset(const fmi_out *o); /* bytes written so far */
fm_status fmi_out_close(fmi_out *o, fm_err *err);
void fmi_out_free(fmi_out *o);

/* Atomic directory: open makes the empty PATH.tmp-<pid> beside (parents too; a leftover is removed)
 * and returns its name (free with fmi_free). The caller fills it. close syncs every file and
 * directory in it, renames it to path and syncs the parent; an existing path is FM_E_STATE unless
 * `replace`, which exchanges the two and removes the old. On failure tmp stays: the caller removes
 * it with fmi_tree_remove. */
fm_status fmi_dir_open_tmp(const char *path, char **tmp, fm_err *err);
fm_status fmi_dir_close_tmp(const char *tmp, const char *path, bool replace, fm_err *err);

/* Removes entries of `dir` named *.tmp-<pid>[-<n>] whose process is gone (a killed writer's). */
fm_status fmi_dir_sweep_tmp(const char *dir, fm_err *err);

fm_status fmi_dir_make(const char *path, fm_err *err);    /* with parents; existing is fine */
fm_status fmi_tree_remove(const char *path, fm_err *err); /* file or directory; missing is fine;
                                                             symbolic links are not followed */

/* Names in a directory without . and .., sorted by bytes; free with fmi_names_free. */
fm_status fmi_dir_names(const char *path, char ***names, int *n, fm_err *err);
void fmi_names_free(char **names, int n);

bool fmi_path_is_file(const char *path);
bool fmi_path_is_dir(const char *path);
bool fmi_path_exists(const char *path);
char *fmi_path_join(const char *dir, const char *name); /* heap; NULL: out of memory */
char *fmi_path_parent(const char *path);                /* heap; "." where there is none */

/* Read-only mapping. A zeroed fm_map may be closed. An empty file has data NULL and bytes 0. The
 * file must not be truncated while mapped (SIGBUS): checkpoints are replaced, never rewritten. */
typedef struct fm_map {
    const uint8_t *data;
    size_t bytes;
} fm_map;
typedef enum fmi_advice { FMI_ADVICE_SEQUENTIAL, FMI_ADVICE_WILL_NEED, FMI_ADVICE_DONE } fmi_advice;

fm_status fm_map_open(fm_map *m, const char *path, fm_err *err);
void fm_map_close(fm_map *m);
/* A hint for [offset, offset + bytes); DONE lets the kernel drop the pages (still readable). */
void fm_map_advise(const fm_map *m, size_t offset, size_t bytes, fmi_advice advice);

#endif
