/* Errors, assertions, the log callback and the clock.
 *
 * Owns the text in fm_err and the one log callback of the process. Refuses to print: a failed
 * assertion is the only thing that writes to stderr, because the process ends there. A message that
 * does not fit is cut, never an error of its own. */
#include "base/base.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const char *fm_status_text(fm_status code)
{
    switch (code) {
#define STATUS_CASE(name, text)                                                                    \
    case FM_E_##name: return text;
        FM_STATUS_LIST(STATUS_CASE)
#undef STATUS_CASE
    }
    return "unknown status";
}

/* One line without a final newline; inner newlines become spaces. */
static void flatten(char *s)
{
    size_t n = strlen(s);
    while (n > 0 && (s[n - 1] == '\n' || s[n - 1] == '\r')) s[--n] = 0;
    for (; *s; s++)
        if (*s == '\n' || *s == '\r') *s = ' ';
}

fm_status fmi_fail(fm_err *err, fm_status code, const char *file, int line, const char *fmt, ...)
{
    if (!err) return code;
    va_list ap;
    va_start(ap, fmt);
    char text[FM_ERR_TEXT_MAX]; /* an argument may be err->text itself */
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    flatten(text);
    memcpy(err->text, text, strlen(text) + 1);
    err->code = code;
    err->file = file;
    err->line = line;
    return code;
}

fm_status fmi_fail_prefix(fm_err *err, fm_status code, const char *fmt, ...)
{
    if (!err) return code;
    char text[FM_ERR_TEXT_MAX];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t at = n < 0 ? 0 : (size_t)n;
    for (const char *s = ": "; *s && at < sizeof text - 1; s++) text[at++] = *s;
    for (const char *s = err->text; *s && at < sizeof text - 1; s++) text[at++] = *s;
    text[at < sizeof text ? at : sizeof text - 1] = 0;
    flatten(text);
    memcpy(err->text, text, strlen(text) + 1);
    err->code = code;
    return code;
}

void fmi_assert_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: assertion failed: %s\n", file, line, what);
    abort();
}

static fm_log_fn log_fn; /* set before threads start */
static void *log_arg;

void fm_log_set(fm_log_fn fn, void *arg)
{
    log_fn = fn;
    log_arg = arg;
}

void fmi_log(int level, const char *fmt, ...)
{
    if (!log_fn) return;
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    flatten(text);
    log_fn(log_arg, level, text);
}

double fmi_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
