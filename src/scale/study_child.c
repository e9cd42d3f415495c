/* Child processes of a study: started in the study's directory, watched without blocking, their
 * last words kept. A child is in a process group of its own, so that Ctrl-C on the terminal reaches
 * only the worker, which then tells it once; and it gets SIGTERM when the worker dies, at which a
 * training run finishes its step and saves. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scale/study.h"

#define CANNOT_START 126

void fmi_args_add(fmi_args *a, const char *fmt, ...)
{
    char text[8192];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= sizeof text) a->failed = true;
    if (a->n + 2 > a->cap && !a->failed) {
        int cap = 2 * a->cap + 16;
        char **v = fmi_realloc(a->v, (size_t)cap * sizeof *v);
        if (v)
            a->v = v, a->cap = cap;
        else
            a->failed = true;
    }
    char *copy = a->failed ? NULL : fmi_strdup(text);
    if (!copy) {
        a->failed = true;
        return;
    }
    a->v[a->n++] = copy;
    a->v[a->n] = NULL;
}

void fmi_args_free(fmi_args *a)
{
    for (int i = 0; i < a->n; i++) fmi_free(a->v[i]);
    fmi_free(a->v);
    memset(a, 0, sizeof *a);
}

/* After the fork: calls that are safe there, and nothing else. */
static void become(const fmi_args *a, const char *cwd, int out, int err_pipe, pid_t parent)
{
    static const char *const words[] = {"cannot enter the study's directory", "cannot be started"};
    int null = open("/dev/null", O_RDWR), step = 0;
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent) _exit(CANNOT_START);
    for (int sig = 1; sig < 32; sig++)
        if (sig != SIGPIPE) signal(sig, SIG_DFL);
    dup2(null, 0);
    dup2(out >= 0 ? out : null, 1);
    dup2(err_pipe, 2);
    if (!chdir(cwd)) {
        step = 1;
        execv(a->v[0], a->v);
    }
    const char *parts[] = {a->v[0], ": ", words[step], ": ", strerror(errno), "\n"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (write(2, parts[i], strlen(parts[i])) < 0) break;
    _exit(CANNOT_START);
}

fm_status fmi_child_start(fmi_child *c, const fmi_args *a, const char *cwd, const char *out_path,
                          fm_err *err)
{
    int p[2], out = -1;
    memset(c, 0, sizeof *c);
    c->pipe = -1;
    if (a->failed || !a->v) return FM_FAIL(err, FM_E_NOMEM, "arguments of a child process");
    if (out_path && (out = open(out_path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666)) < 0)
        return FM_FAIL(err, FM_E_IO, "%s: %s", out_path, strerror(errno));
    if (pipe2(p, O_CLOEXEC)) {
        if (out >= 0) close(out);
        return FM_FAIL(err, FM_E_IO, "a pipe: %s", strerror(errno));
    }
    pid_t parent = getpid(), pid = fork();
    if (!pid) become(a, cwd, out, p[1], parent);
    int why = errno;
    close(p[1]);
    if (out >= 0) close(out);
    if (pid < 0) {
        close(p[0]);
        return FM_FAIL(err, FM_E_IO, "%s: cannot be started: %s", a->v[0], strerror(why));
    }
    setpgid(pid, pid);
    fcntl(p[0], F_SETFL, O_NONBLOCK);
    c->pid = pid;
    c->pipe = p[0];
    c->began = fmi_clock_s();
    return FM_OK;
}

static void keep(fmi_child *c, const char *text, size_t n)
{
    if (n > FMI_CHILD_TAIL) text += n - FMI_CHILD_TAIL, n = FMI_CHILD_TAIL;
    size_t drop = c->n_tail + n > FMI_CHILD_TAIL ? c->n_tail + n - FMI_CHILD_TAIL : 0;
    memmove(c->tail, c->tail + drop, c->n_tail - drop);
    memcpy(c->tail + c->n_tail - drop, text, n);
    c->n_tail += n - drop;
    c->tail[c->n_tail] = 0;
}

static void drain(fmi_child *c)
{
    char buf[4096];
    ssize_t n;
    while (c->pipe >= 0 && ((n = read(c->pipe, buf, sizeof buf)) > 0 || (n < 0 && errno == EINTR)))
        if (n > 0) keep(c, buf, (size_t)n);
}

bool fmi_child_poll(fmi_child *c)
{
    if (!c->pid) return true;
    drain(c);
    pid_t r = waitpid(c->pid, &c->status, WNOHANG);
    if (!r || (r < 0 && errno == EINTR)) return false;
    drain(c);
    if (c->pipe >= 0) close(c->pipe);
    c->pipe = -1;
    c->pid = 0;
    return true;
}

void fmi_child_signal(const fmi_child *c, int sig)
{
    if (c->pid) kill(c->pid, sig);
}

void fmi_child_end(fmi_child *c)
{
    if (!c->pid) return;
    kill(c->pid, SIGKILL);
    while (waitpid(c->pid, &c->status, 0) < 0 && errno == EINTR) {
    }
    if (c->pipe >= 0) close(c->pipe);
    c->pipe = -1;
    c->pid = 0;
}

void fmi_child_message(const fmi_child *c, char *out, size_t cap)
{
    size_t end = c->n_tail;
    while (end > 0 && (c->tail[end - 1] == '\n' || c->tail[end - 1] == '\r')) end--;
    size_t at = end;
    while (at > 0 && c->tail[at - 1] != '\n' && c->tail[at - 1] != '\r') at--;
    const char *s = c->tail + at;
    const char *colon = end - at > 7 && !strncmp(s, "fathom ", 7) ? strstr(s, ": ") : NULL;
    if (colon && colon < c->tail + end) s = colon + 2;
    int n = (int)(c->tail + end - s);
    if (n > 0)
        snprintf(out, cap, "%.*s", n, s);
    else if (WIFSIGNALED(c->status))
        snprintf(out, cap, "ended by signal %d", WTERMSIG(c->status));
    else
        snprintf(out, cap, "ended with status %d and no message", WEXITSTATUS(c->status));
}

bool fmi_child_disk_full(const fmi_child *c)
{
    static const int codes[] = {ENOSPC, EDQUOT, EFBIG};
    if (WIFSIGNALED(c->status)) return WTERMSIG(c->status) == SIGXFSZ;
    if (!WIFEXITED(c->status) || !WEXITSTATUS(c->status)) return false;
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        if (strstr(c->tail, strerror(codes[i]))) return true;
    return false;
}

fm_status fmi_child_run(const fmi_args *a, const char *cwd, const char *out_path, fm_err *err)
{
    fmi_child c;
    char why[FM_STUDY_WHY_MAX];
    fm_status st = fmi_child_start(&c, a, cwd, out_path, err);
    if (st) return st;
    while (!fmi_child_poll(&c)) {
        struct pollfd p = {.fd = c.pipe, .events = POLLIN};
        poll(&p, 1, 50);
        if (p.revents & POLLHUP && !(p.revents & POLLIN)) poll(NULL, 0, 5);
    }
    if (WIFEXITED(c.status) && !WEXITSTATUS(c.status)) return FM_OK;
    fmi_child_message(&c, why, sizeof why);
    return FM_FAIL(err, FM_E_IO, "fathom %s: %s", a->n > 1 ? a->v[1] : "", why);
}
