/* Claims: a run belongs to whoever renamed its queue file. The name says who; the file's time of
 * change is the lease, renewed while the work lives; its lines are a log of attempts.
 *
 *   waiting/<id>  --rename-->  doing/<id>.<pid>.<host>  --rename-->  done/<id>, failed/<id> or
 * waiting/<id>
 *
 * rename() lets one of any number of processes win. A lease is expired when it is older than asked
 * for, or when its process, on this host, is gone. <host> is the host's name and a hash of its boot
 * and of the process namespace, since a pid means something only there. The time is set before the
 * rename, so that a fresh claim never looks expired. A worker that slept past its lease finds its
 * file gone and stops; until then the run directory's own lock keeps two processes from training it
 * at once. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "io/file.h"
#include "scale/study.h"

static uint32_t hash_text(uint32_t h, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    return h;
}

/* The host's name without dots and odd bytes, and eight hex digits of boot and process namespace.
 */
static void host_name(char *out, size_t cap)
{
    struct utsname u;
    char link[64];
    uint32_t h = 2166136261u;
    char *boot = NULL;
    size_t n = 0;
    if (uname(&u)) snprintf(u.nodename, sizeof u.nodename, "host");
    if (!fmi_file_read("/proc/sys/kernel/random/boot_id", 256, &boot, &n, NULL))
        h = hash_text(h, boot, n);
    fmi_free(boot);
    ssize_t k = readlink("/proc/self/ns/pid", link, sizeof link);
    if (k > 0) h = hash_text(h, link, (size_t)k);
    for (char *p = u.nodename; *p; p++)
        if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9')))
            *p = '-';
    snprintf(out, cap, "%.40s-%08x", u.nodename, h);
}

void fmi_claim_self(char *out, size_t cap)
{
    char host[64];
    host_name(host, sizeof host);
    snprintf(out, cap, "%ld.%s", (long)getpid(), host);
}

size_t fmi_claim_split(const char *name, long *pid, const char **host)
{
    const char *dot = strchr(name, '.');
    if (!dot || dot == name) return 0;
    char *end;
    errno = 0;
    long p = strtol(dot + 1, &end, 10);
    if (errno || p <= 0 || *end != '.' || !end[1]) return 0;
    if (pid) *pid = p;
    if (host) *host = end + 1;
    return (size_t)(dot - name);
}

/* A zombie counts as gone: its parent may never ask for it. */
bool fmi_process_gone(long pid)
{
    char path[48], *text = NULL;
    if (kill((pid_t)pid, 0)) return errno == ESRCH;
    snprintf(path, sizeof path, "/proc/%ld/stat", pid);
    if (fmi_file_read(path, 4096, &text, NULL, NULL)) return false;
    const char *state = strrchr(text, ')'); /* the name before it may hold anything */
    bool gone = state && (!strncmp(state, ") Z", 3) || !strncmp(state, ") X", 3));
    fmi_free(text);
    return gone;
}

/* Whether the lease doing/<name> may be taken. */
static bool expired(const char *path, const char *name, double lease_s)
{
    char self[64];
    long pid;
    const char *host;
    struct stat s;
    struct timespec now;
    if (!fmi_claim_split(name, &pid, &host)) return false;
    host_name(self, sizeof self);
    bool here = !strcmp(host, self);
    if (here && pid == (long)getpid()) return false; /* another slot of this process */
    if (here && fmi_process_gone(pid)) return true;
    if (stat(path, &s)) return false;
    clock_gettime(CLOCK_REALTIME, &now);
    double age =
        (double)(now.tv_sec - s.st_mtim.tv_sec) + 1e-9 * (double)(now.tv_nsec - s.st_mtim.tv_nsec);
    return age > lease_s;
}

/* from -> doing/<id>.<self>. *got false when another process was faster. */
static fm_status grab(const char *dir, const char *from, const char *id, bool *got, char **path,
                      fm_err *err)
{
    char self[96];
    fmi_claim_self(self, sizeof self);
    char *to = fmi_format("%s/queue/doing/%s.%s", dir, id, self);
    *got = false;
    if (!to) return FM_FAIL(err, FM_E_NOMEM, "claim of %s", id);
    fm_status st = FM_OK;
    if (utimensat(AT_FDCWD, from, NULL, 0) || rename(from, to)) {
        if (errno != ENOENT)
            st = FM_FAIL(err, FM_E_IO, "%s: cannot be claimed: %s", from, strerror(errno));
        fmi_free(to);
        return st;
    }
    *got = true;
    *path = to;
    return FM_OK;
}

/* Lines of the log that begin with `word`. */
static int count_lines(const char *text, const char *word)
{
    int n = 0;
    size_t k = strlen(word);
    for (const char *p = text; p && *p; p = strchr(p, '\n'), p = p ? p + 1 : NULL)
        n += !strncmp(p, word, k);
    return n;
}

static fm_status take_expired(const char *dir, const char *id, double lease_s, bool *got,
                              char **path, fm_err *err)
{
    char **names = NULL, *doing = fmi_format("%s/queue/doing", dir);
    int n = 0;
    fm_status st =
        doing ? fmi_dir_names(doing, &names, &n, err) : FM_FAIL(err, FM_E_NOMEM, "claim of %s", id);
    for (int i = 0; i < n && !st && !*got; i++) {
        size_t len = fmi_claim_split(names[i], NULL, NULL);
        if (len != strlen(id) || memcmp(names[i], id, len)) continue;
        char *from = fmi_path_join(doing, names[i]);
        if (!from)
            st = FM_FAIL(err, FM_E_NOMEM, "claim of %s", id);
        else if (expired(from, names[i], lease_s))
            st = grab(dir, from, id, got, path, err);
        fmi_free(from);
    }
    fmi_names_free(names, n);
    fmi_free(doing);
    return st;
}

fm_status fmi_claim_take(const char *dir, const char *id, double lease_s, fmi_claim *out, bool *got,
                         fm_err *err)
{
    char *waiting = fmi_format("%s/queue/waiting/%s", dir, id), *path = NULL, *log = NULL;
    fmi_claim c = {0};
    *got = false;
    if (!waiting) return FM_FAIL(err, FM_E_NOMEM, "claim of %s", id);
    fm_status st = fmi_path_is_file(waiting) ? grab(dir, waiting, id, got, &path, err) : FM_OK;
    if (!st && !*got) {
        st = take_expired(dir, id, lease_s, got, &path, err);
        c.taken_back = *got;
    }
    fmi_free(waiting);
    if (st || !*got) return st;
    c.path = path;
    snprintf(c.id, sizeof c.id, "%s", id);
    if (!fmi_file_read(path, 1 << 20, &log, NULL, NULL)) {
        c.attempts = count_lines(log, "attempt");
        c.crashes = count_lines(log, "crash");
    }
    fmi_free(log);
    *out = c;
    return FM_OK;
}

fm_status fmi_claim_renew(const fmi_claim *c, bool *lost, fm_err *err)
{
    *lost = false;
    if (!utimensat(AT_FDCWD, c->path, NULL, 0)) return FM_OK;
    if (errno != ENOENT)
        return FM_FAIL(err, FM_E_IO, "%s: cannot be renewed: %s", c->path, strerror(errno));
    *lost = true;
    return FM_OK;
}

/* A full disk must not stop a worker from giving back what it holds: the log may miss a line. */
void fmi_claim_note(fmi_claim *c, const char *word)
{
    char line[160], self[96];
    fmi_claim_self(self, sizeof self);
    int n = snprintf(line, sizeof line, "%s %lld %s\n", word, (long long)time(NULL), self);
    int fd = open(c->path, O_WRONLY | O_APPEND | O_CLOEXEC);
    if (!strcmp(word, "attempt")) c->attempts++;
    if (!strcmp(word, "crash")) c->crashes++;
    if (fd < 0) return;
    if (write(fd, line, (size_t)n) != n) (void)!ftruncate(fd, 0);
    close(fd);
}

fm_status fmi_claim_end(fmi_claim *c, const char *dir, fm_study_state state, fm_err *err)
{
    char *to = fmi_format("%s/queue/%s/%s", dir, fm_study_state_name(state), c->id);
    fm_status st = FM_OK;
    if (!to) st = FM_FAIL(err, FM_E_NOMEM, "claim of %s", c->id);
    /* ENOENT: taken by another worker, who will end it. */
    else if (rename(c->path, to) && errno != ENOENT)
        st = FM_FAIL(err, FM_E_IO, "%s: cannot be moved to %s: %s", c->path, to, strerror(errno));
    fmi_free(to);
    fmi_claim_free(c);
    return st;
}

void fmi_claim_free(fmi_claim *c)
{
    fmi_free(c->path);
    memset(c, 0, sizeof *c);
}
