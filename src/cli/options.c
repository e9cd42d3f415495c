/* Options: one declarative table per command gives parsing, messages and --help. Also the shared
 * steps between options and the library: precision, context, model path. Reads the environment,
 * which the library never does. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "fathom/nearest.h"

#define OPTIONS_MAX 64
#define HELP_COLUMN 26

/* Prints text from column `at`, wrapped to `width`, breaking at spaces; lines of its own stay
 * apart. */
static void print_wrapped(const char *text, int at, int width)
{
    int col = at;
    while (*text) {
        size_t n = strcspn(text, " \n");
        if (col > at && col + 1 + (int)n > width) {
            printf("\n%*s", at, "");
            col = at;
        } else if (col > at) {
            putchar(' ');
            col++;
        }
        fwrite(text, 1, n, stdout);
        col += (int)n;
        text += n;
        if (*text == '\n') {
            printf("\n%*s", text[1] ? at : 0, "");
            col = at;
        }
        if (*text) text++;
    }
    putchar('\n');
}

static void print_help(const cli_command *c)
{
    int width = cli_width() > 100 ? 100 : cli_width();
    printf("usage: fathom %s %s\n\n", c->name, c->usage);
    print_wrapped(c->about, 0, width);
    putchar('\n');
    for (int i = 0; i < c->n_options; i++) {
        const cli_option *o = &c->options[i];
        char left[96];
        if (!o->help) continue;
        snprintf(left, sizeof left, "  --%s%s%s", o->name, o->value ? " " : "",
                 o->value ? o->value : "");
        printf("%-*s", HELP_COLUMN, left);
        if (strlen(left) >= HELP_COLUMN - 1) printf("\n%*s", HELP_COLUMN, "");
        print_wrapped(o->help, HELP_COLUMN, width);
    }
    printf("%-*sthis text\n", HELP_COLUMN, "  --help");
}

static const cli_option *find(const cli_command *c, const char *name, size_t n)
{
    for (int i = 0; i < c->n_options; i++)
        if (strlen(c->options[i].name) == n && !memcmp(c->options[i].name, name, n))
            return &c->options[i];
    return NULL;
}

static int unknown(const cli_command *c, const char *arg)
{
    const char *names[OPTIONS_MAX + 1] = {"help"};
    char name[80];
    int n = 1;
    for (int i = 0; i < c->n_options && n <= OPTIONS_MAX; i++)
        if (c->options[i].help) names[n++] = c->options[i].name;
    const char *s = arg + (arg[1] == '-' ? 2 : 1);
    snprintf(name, sizeof name, "%.*s", (int)strcspn(s, "="), s);
    const char *near = fm_nearest(name, names, n);
    if (near) return cli_wrong(c->name, "unknown option %s; did you mean --%s?", arg, near);
    return cli_wrong(c->name, "unknown option %s; fathom %s --help lists them", arg, c->name);
}

/* 12, 12k, 1.5M: a whole number after the factor. */
static bool parse_int(const char *s, int64_t *out)
{
    char *end;
    errno = 0;
    long long v = strtoll(s, &end, 10);
    if (end != s && !*end && !errno) return *out = v, true;
    double d = strtod(s, &end);
    if (end == s) return false;
    if (*end == 'k' || *end == 'K') d *= 1e3, end++;
    else if (*end == 'M') d *= 1e6, end++;
    else if (*end == 'G' || *end == 'B') d *= 1e9, end++;
    if (*end || !(d > -9e18 && d < 9e18) || d != (double)(int64_t)d) return false;
    *out = (int64_t)d;
    return true;
}

static int store(const cli_command *c, const cli_option *o, const char *value)
{
    char *end;
    cli_list *l;
    switch (o->kind) {
    case CLI_FLAG:
        *(bool *)o->to = true;
        break;
    case CLI_TEXT:
        *(const char **)o->to = value;
        break;
    case CLI_INT:
        if (!parse_int(value, o->to))
            return cli_wrong(c->name, "--%s: expected a whole number, found \"%s\"", o->name,
                             value);
        break;
    case CLI_REAL:
        *(double *)o->to = strtod(value, &end);
        if (end == value || *end)
            return cli_wrong(c->name, "--%s: expected a number, found \"%s\"", o->name, value);
        break;
    case CLI_LIST:
        l = o->to;
        if (l->n == CLI_LIST_MAX)
            return cli_wrong(c->name, "--%s: more than %d times", o->name, CLI_LIST_MAX);
        l->item[l->n++] = value;
        break;
    }
    return CLI_GO_ON;
}

/* One option at argv[*i]; a value in the next word moves *i on. */
static int take(const cli_command *c, int argc, char **argv, int *i)
{
    const char *arg = argv[*i];
    size_t n = strcspn(arg + 2, "=");
    const cli_option *o = arg[1] == '-' ? find(c, arg + 2, n) : NULL;
    const char *value = arg[1] == '-' && arg[2 + n] == '=' ? arg + 3 + n : NULL;
    if (!o) return unknown(c, arg);
    if (o->kind == CLI_FLAG && value) return cli_wrong(c->name, "--%s takes no value", o->name);
    if (o->kind != CLI_FLAG && !value) {
        if (*i + 1 >= argc) return cli_wrong(c->name, "--%s: %s is missing", o->name, o->value);
        value = argv[++*i];
    }
    return store(c, o, value);
}

int cli_parse(const cli_command *c, int argc, char **argv, char ***args, int *n_args)
{
    int n = 0;
    bool options = true;
    for (int i = 1; i < argc; i++) {
        const char *arg = argv[i];
        if (options && !strcmp(arg, "--")) {
            options = false;
        } else if (options && (!strcmp(arg, "--help") || !strcmp(arg, "-h"))) {
            print_help(c);
            return CLI_DONE;
        } else if (options && arg[0] == '-' && arg[1]) {
            int rc = take(c, argc, argv, &i);
            if (rc != CLI_GO_ON) return rc;
        } else {
            if (n == c->args_max) return cli_wrong(c->name, "unexpected argument \"%s\"", arg);
            argv[1 + n++] = argv[i];
        }
    }
    if (args) *args = argv + 1;
    if (n_args) *n_args = n;
    return CLI_GO_ON;
}

int cli_precision(const char *name, const char *text, fm_dtype absent, fm_dtype *out)
{
    if (!text) *out = absent;
    else if (!strcmp(text, "f32")) *out = FM_DTYPE_F32;
    else if (!strcmp(text, "bf16")) *out = FM_DTYPE_BF16;
    else return cli_wrong(name, "precision: expected f32 or bf16, found \"%s\"", text);
    return CLI_GO_ON;
}

int cli_context(const char *name, const cli_common *c, fm_exec **out)
{
    fm_err err = {0};
    if (c->threads < 0 || c->threads > 4096)
        return cli_wrong(name, "--threads: expected 1 to 4096, found %lld", (long long)c->threads);
    fm_status st = fm_context_open(c->device, c->isa, (int)c->threads, out, &err);
    if (!st) return CLI_GO_ON;
    return st == FM_E_UNSUPPORTED ? cli_wrong(name, "%s", err.text)
                                  : cli_fail(name, "%s", err.text);
}

int cli_model_path(const char *name, const char *model, fm_text *out)
{
    char hub[3][1024];
    const char *roots[4] = {getenv("HF_HUB_CACHE"), NULL, NULL, NULL};
    const char *from[3] = {getenv("HF_HOME"), getenv("XDG_CACHE_HOME"), getenv("HOME")};
    const char *tail[3] = {"hub", "huggingface/hub", ".cache/huggingface/hub"};
    fm_err err = {0};
    if (!model) return cli_wrong(name, "--model is missing");
    for (int i = 0; i < 3; i++) {
        if (!from[i] || !*from[i]) continue;
        int n = snprintf(hub[i], sizeof hub[i], "%s/%s", from[i], tail[i]);
        if (n > 0 && (size_t)n < sizeof hub[i]) roots[i + 1] = hub[i];
    }
    if (fm_model_find(model, roots, 4, out, &err)) return cli_fail(name, "%s", err.text);
    return CLI_GO_ON;
}
