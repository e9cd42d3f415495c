/* Printing for people: one-line messages, a live line on terminals, numbers with units. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

static void message(const char *name, const char *fmt, va_list ap)
{
    fflush(stdout);
    fprintf(stderr, "fathom %s: ", name);
    vfprintf(stderr, fmt, ap);
    fputc('\n', stderr);
}

void cli_log(void *arg, int level, const char *text)
{
    if (level < 1) return;
    fflush(stdout);
    fprintf(stderr, "%sfathom %s: warning: ", cli_is_terminal() ? "\r\x1b[K" : "", (const char *)arg);
    cli_print_text(text, strlen(text));
    fputc('\n', stderr);
}

int cli_fail(const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(name, fmt, ap);
    va_end(ap);
    return CLI_FAILED;
}

int cli_wrong(const char *name, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    message(name, fmt, ap);
    va_end(ap);
    return CLI_USAGE;
}

bool cli_is_terminal(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb");
}

int cli_width(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col == 0) return 80;
    return w.ws_col < 60 ? 60 : w.ws_col > 200 ? 200 : w.ws_col;
}

/* Cuts UTF-8 text to `columns` characters and replaces control characters. */
static void fit(char *s, int columns)
{
    int n = 0;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if ((c & 0xc0) == 0x80) continue;
        if (n++ == columns) {
            *s = 0;
            return;
        }
        if (c < 0x20 || c == 0x7f) *s = ' ';
    }
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

void cli_live_print(cli_live *l, double every_s, const char *fmt, ...)
{
    char line[512];
    bool terminal = cli_is_terminal();
    double now = now_s(), least = terminal ? 0.05 : every_s;
    if (l->last_s > 0 && now - l->last_s < least) return;
    l->last_s = now;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof line, fmt, ap);
    va_end(ap);
    fit(line, terminal ? cli_width() - 1 : (int)sizeof line);
    fprintf(stderr, terminal ? "\r\x1b[K%s" : "%s\n", line);
    fflush(stderr);
    l->drawn = terminal;
}

void cli_live_end(cli_live *l)
{
    if (l->drawn) fputs("\r\x1b[K", stderr);
    fflush(stderr);
    l->drawn = false;
    l->last_s = 0;
}

void cli_print_text(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i], next = i + 1 < n ? (unsigned char)s[i + 1] : 0;
        if (c == 0xc2 && next >= 0x80 && next < 0xa0) i++; /* U+0080..U+009F */
        else if ((c >= 0x20 && c != 0x7f) || c == '\n' || c == '\t') fputc(c, stderr);
    }
}

static const char *scaled(double n, double step, const char *const *units, int n_units, int digits,
                          cli_buf *buf)
{
    int u = 0;
    while (u + 1 < n_units && (n >= step || -n >= step)) {
        n /= step;
        u++;
    }
    snprintf(buf->s, sizeof buf->s, "%.*f%s", u ? digits : 0, n, units[u]);
    return buf->s;
}

const char *cli_count(double n, cli_buf *buf)
{
    static const char *const units[] = {"", "k", "M", "B", "T", "P", "E", "Z"};
    return scaled(n, 1000, units, CLI_COUNT(units), 3, buf);
}

const char *cli_bytes(double n, cli_buf *buf)
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB"};
    return scaled(n, 1024, units, CLI_COUNT(units), 2, buf);
}

const char *cli_duration(double s, cli_buf *buf)
{
    const double year = 365.25 * 86400;
    if (s < 60) snprintf(buf->s, sizeof buf->s, "%.1f s", s);
    else if (s < 3600) snprintf(buf->s, sizeof buf->s, "%d min %02d s", (int)(s / 60), (int)s % 60);
    else if (s < 86400)
        snprintf(buf->s, sizeof buf->s, "%d h %02d min", (int)(s / 3600), (int)(s / 60) % 60);
    else if (s < year)
        snprintf(buf->s, sizeof buf->s, "%d d %02d h", (int)(s / 86400), (int)(s / 3600) % 24);
    else snprintf(buf->s, sizeof buf->s, "%.3g years", s / year);
    return buf->s;
}

void cli_json_string(const char *s)
{
    putchar('"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;
        if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 0x20) printf("\\u%04x", c);
        else putchar(c);
    }
    putchar('"');
}
