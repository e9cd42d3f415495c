/* Directories: making, listing, removing, and publishing one atomically.
 *
 * A published directory was complete and synced before its name appeared. Walks go at most
 * TREE_DEPTH_MAX deep and never follow symbolic links. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "io/file.h"
#include "io/file_internal.h"

#define TREE_DEPTH_MAX 64

bool fmi_path_is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode);
}

bool fmi_path_is_dir(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

bool fmi_path_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

char *fmi_path_join(const char *dir, const char *name)
{
    size_t n = strlen(dir);
    return fmi_format("%s%s%s", dir, n > 0 && dir[n - 1] != '/' ? "/" : "", name);
}

/* Length of path without trailing slashes (the root keeps its one). */
static size_t trimmed_length(const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/') n--;
    return n;
}

char *fmi_path_parent(const char *path)
{
    size_t n = trimmed_length(path);
    while (n > 0 && path[n - 1] != '/') n--;
    if (n == 0) return fmi_strdup(".");
    while (n > 1 && path[n - 1] == '/') n--;
    return fmi_format("%.*s", (int)n, path);
}

fm_status fmi_dir_make(const char *path, fm_err *err)
{
    if (fmi_path_is_dir(path)) return FM_OK;
    char *p = fmi_strdup(path);
    if (!p) return FM_FAIL(err, FM_E_NOMEM, "%s: making the directory", path);
    fm_status st = FM_OK;
    for (char *s = p + 1; !st; s++) {
        if (*s != '/' && *s != 0) continue;
        char was = *s;
        *s = 0;
        if (mkdir(p, 0777) && (errno != EEXIST || !fmi_path_is_dir(p))) {
            if (errno == EEXIST) errno = ENOTDIR;
            st = FM_FAIL(err, FM_E_IO, "%s: cannot make directory: %m", p);
        }
        *s = was;
        if (!was) break;
    }
    fmi_free(p);
    return st;
}

/* Removes everything inside the directory open at fd (taken over). */
static fm_status clear_dir(int fd, const char *path, int depth, fm_err *err)
{
    DIR *d = fdopendir(fd);
    if (!d) {
        FM_FAIL(err, FM_E_IO, "%s: cannot read directory: %m", path);
        close(fd);
        return FM_E_IO;
    }
    fm_status st = FM_OK;
    if (depth > TREE_DEPTH_MAX)
        st = FM_FAIL(err, FM_E_RANGE, "%s: directories nested deeper than %d", path, depth - 1);
    struct dirent *e;
    while (!st && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (unlinkat(fd, e->d_name, 0) == 0) continue;
        if (errno != EISDIR && errno != EPERM) {
            st = FM_FAIL(err, FM_E_IO, "%s/%s: cannot remove: %m", path, e->d_name);
            break;
        }
        int sub = openat(fd, e->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (sub < 0) {
            st = FM_FAIL(err, FM_E_IO, "%s/%s: cannot remove: %m", path, e->d_name);
            break;
        }
        st = clear_dir(sub, path, depth + 1, err);
        if (!st && unlinkat(fd, e->d_name, AT_REMOVEDIR))
            st = FM_FAIL(err, FM_E_IO, "%s/%s: cannot remove: %m", path, e->d_name);
    }
    closedir(d);
    return st;
}

fm_status fmi_tree_remove(const char *path, fm_err *err)
{
    struct stat st;
    if (lstat(path, &st)) {
        if (errno == ENOENT) return FM_OK;
        return FM_FAIL(err, FM_E_IO, "%s: cannot remove: %m", path);
    }
    if (S_ISDIR(st.st_mode)) {
        int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
        if (fd < 0) return FM_FAIL(err, FM_E_IO, "%s: cannot remove: %m", path);
        fm_status s = clear_dir(fd, path, 1, err);
        if (s) return s;
    }
    if (remove(path)) return FM_FAIL(err, FM_E_IO, "%s: cannot remove: %m", path);
    return FM_OK;
}

static int name_order(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void fmi_names_free(char **names, int n)
{
    if (!names) return;
    for (int i = 0; i < n; i++) fmi_free(names[i]);
    fmi_free(names);
}

fm_status fmi_dir_names(const char *path, char ***names, int *n_out, fm_err *err)
{
    DIR *d = opendir(path);
    if (!d) return FM_FAIL(err, FM_E_IO, "%s: cannot read directory: %m", path);
    int n = 0, cap = 16;
    char **list = fmi_alloc((size_t)cap * sizeof *list);
    fm_status st = list ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s: listing", path);
    struct dirent *e;
    while (!st && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if (n == cap) {
            char **more = fmi_realloc(list, (size_t)cap * 2 * sizeof *list);
            if (more) {
                list = more;
                cap *= 2;
            }
        }
        if (n == cap || !(list[n] = fmi_strdup(e->d_name)))
            st = FM_FAIL(err, FM_E_NOMEM, "%s: listing", path);
        else
            n++;
    }
    closedir(d);
    if (st) {
        fmi_names_free(list, n);
        return st;
    }
    qsort(list, (size_t)n, sizeof *list, name_order);
    *names = list;
    *n_out = n;
    return FM_OK;
}

fm_status fmi_dir_open_tmp(const char *path, char **tmp_out, fm_err *err)
{
    char *tmp = fmi_format("%.*s.tmp-%ld", (int)trimmed_length(path), path, (long)getpid());
    char *parent = tmp ? fmi_path_parent(tmp) : NULL;
    fm_status st = parent ? fmi_dir_make(parent, err)
                          : FM_FAIL(err, FM_E_NOMEM, "%s: temporary directory", path);
    if (!st) st = fmi_tree_remove(tmp, err);
    if (!st && mkdir(tmp, 0777)) st = FM_FAIL(err, FM_E_IO, "%s: cannot make directory: %m", tmp);
    fmi_free(parent);
    if (st) {
        fmi_free(tmp);
        return st;
    }
    *tmp_out = tmp;
    return FM_OK;
}

/* Syncs every file and directory under path, path last. */
static fm_status sync_tree(const char *path, int depth, fm_err *err)
{
    if (depth > TREE_DEPTH_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: directories nested deeper than %d", path, depth - 1);
    char **names;
    int n;
    fm_status st = fmi_dir_names(path, &names, &n, err);
    if (st) return st;
    for (int i = 0; i < n && !st; i++) {
        char *p = fmi_path_join(path, names[i]);
        struct stat s;
        if (!p) {
            st = FM_FAIL(err, FM_E_NOMEM, "%s: syncing", path);
        } else if (lstat(p, &s)) {
            st = FM_FAIL(err, FM_E_IO, "%s: %m", p);
        } else if (S_ISDIR(s.st_mode)) {
            st = sync_tree(p, depth + 1, err);
        } else if (S_ISREG(s.st_mode)) {
            int fd = open(p, O_RDONLY | O_CLOEXEC);
            if (fd < 0 || fsync(fd)) st = FM_FAIL(err, FM_E_IO, "%s: cannot sync: %m", p);
            if (fd >= 0) close(fd);
        }
        fmi_free(p);
    }
    fmi_names_free(names, n);
    return st ? st : fmi_sync_dir(path, err);
}

/* Puts tmp in the place of an existing path; the old tree is removed last. */
static fm_status exchange(const char *tmp, const char *path, const char *parent, fm_err *err)
{
    if (renameat2(AT_FDCWD, tmp, AT_FDCWD, path, RENAME_EXCHANGE) == 0) {
        fm_status st = fmi_sync_dir(parent, err);
        return st ? st : fmi_tree_remove(tmp, err);
    }
    if (errno != EINVAL && errno != ENOSYS)
        return FM_FAIL(err, FM_E_IO, "%s: cannot rename to %s: %m", tmp, path);
    /* No exchange on this file system: for a moment the name is missing. */
    char *old = fmi_format("%s-old", tmp);
    if (!old) return FM_FAIL(err, FM_E_NOMEM, "%s: replacing", path);
    fm_status st = FM_OK;
    if (rename(path, old)) {
        st = FM_FAIL(err, FM_E_IO, "%s: cannot rename: %m", path);
    } else if (rename(tmp, path)) {
        st = FM_FAIL(err, FM_E_IO, "%s: cannot rename to %s: %m", tmp, path);
        if (rename(old, path)) st = fmi_fail_prefix(err, st, "%s is now %s", path, old);
    } else {
        st = fmi_sync_dir(parent, err);
        if (!st) st = fmi_tree_remove(old, err);
    }
    fmi_free(old);
    return st;
}

fm_status fmi_dir_close_tmp(const char *tmp, const char *path_in, bool replace, fm_err *err)
{
    char *path = fmi_format("%.*s", (int)trimmed_length(path_in), path_in);
    char *parent = path ? fmi_path_parent(path) : NULL;
    bool exists = parent && fmi_path_exists(path);
    fm_status st = parent ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s: publishing", path_in);
    if (!st && exists && !replace) st = FM_FAIL(err, FM_E_STATE, "%s: already exists", path);
    if (!st) st = sync_tree(tmp, 1, err);
    if (!st && exists) {
        st = exchange(tmp, path, parent, err);
    } else if (!st) {
        if (rename(tmp, path)) st = FM_FAIL(err, FM_E_IO, "%s: cannot rename to %s: %m", tmp, path);
        if (!st) st = fmi_sync_dir(parent, err);
    }
    fmi_free(path);
    fmi_free(parent);
    return st;
}

/* The process id in NAME.tmp-<pid>[-<n>|-old], or 0 where the name has another form. */
static long tmp_pid(const char *name)
{
    const char *s = NULL;
    for (const char *at = name; (at = strstr(at, ".tmp-")); at++) s = at + 5;
    if (!s || *s < '1' || *s > '9') return 0;
    char *end;
    errno = 0;
    long pid = strtol(s, &end, 10);
    if (errno || pid <= 0 || pid > INT32_MAX) return 0;
    if (!strcmp(end, "-old")) return 0; /* may be the only copy left: for a person to judge */
    if (*end == '-') end += 1 + strspn(end + 1, "0123456789");
    return *end ? 0 : pid;
}

fm_status fmi_dir_sweep_tmp(const char *dir, fm_err *err)
{
    char **names;
    int n;
    fm_status st = fmi_dir_names(dir, &names, &n, err);
    if (st) return st;
    for (int i = 0; i < n && !st; i++) {
        long pid = tmp_pid(names[i]);
        if (!pid) continue;
        if (pid != (long)getpid() && (kill((pid_t)pid, 0) == 0 || errno != ESRCH)) continue;
        char *p = fmi_path_join(dir, names[i]);
        st = p ? fmi_tree_remove(p, err) : FM_FAIL(err, FM_E_NOMEM, "%s: sweeping", dir);
        fmi_free(p);
    }
    fmi_names_free(names, n);
    return st;
}
