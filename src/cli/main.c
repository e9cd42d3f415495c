/* fathom: finds the command, calls it, and makes sure that what was printed arrived. */
#include <errno.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "fathom/nearest.h"

typedef struct command {
    const char *name, *about;
    int (*run)(int argc, char **argv);
} command;

#define ROW(id, name, about) {name, about, cmd_##id},
static const command commands[] = {CLI_COMMANDS(ROW)};
#undef ROW
#define N_COMMANDS CLI_COUNT(commands)

static void print_help(FILE *f)
{
    fprintf(f, "usage: fathom COMMAND [options]\n\n"
               "From text to a talking model of DeepSeek-V3's architecture.\n\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].run) fprintf(f, "  %-12s %s\n", commands[i].name, commands[i].about);
    fprintf(
        f,
        "\nfathom COMMAND --help shows a command's options. Exit status: 0 done, 1 failed,\n"
        "2 wrong usage.\n");
}

static const command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].run && !strcmp(commands[i].name, name)) return &commands[i];
    return NULL;
}

static int unknown(const char *name)
{
    const char *names[N_COMMANDS];
    int n = 0;
    for (int i = 0; i < N_COMMANDS; i++)
        if (commands[i].run) names[n++] = commands[i].name;
    const char *near = fm_nearest(name, names, n);
    if (near) fprintf(stderr, "fathom: unknown command \"%s\"; did you mean \"%s\"?\n", name, near);
    else fprintf(stderr, "fathom: unknown command \"%s\"; fathom --help lists them\n", name);
    return CLI_USAGE;
}

/* A full disk or a closed pipe behind stdout must not look like success. */
static int finish(int rc)
{
    if (fflush(stdout) || ferror(stdout)) {
        if (rc == CLI_DONE) fprintf(stderr, "fathom: standard output: %s\n", strerror(errno));
        return rc == CLI_DONE ? CLI_FAILED : rc;
    }
    return rc;
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    setlocale(LC_CTYPE, "");
    if (argc < 2) {
        print_help(stderr);
        return CLI_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--version")) {
        printf("fathom %s\n", FM_VERSION);
        return finish(CLI_DONE);
    }
    bool help = !strcmp(name, "--help") || !strcmp(name, "-h") || !strcmp(name, "help");
    if (help && argc == 2) {
        print_help(stdout);
        return finish(CLI_DONE);
    }
    if (help) { /* fathom help COMMAND */
        char *args[] = {argv[2], "--help", NULL};
        const command *c = find(argv[2]);
        return c ? finish(c->run(2, args)) : unknown(argv[2]);
    }
    const command *c = find(name);
    if (c) fm_log_set(cli_log, (void *)c->name);
    return c ? finish(c->run(argc - 1, argv + 1)) : unknown(name);
}
