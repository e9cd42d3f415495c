/* fathom resume: goes on with a run, past its old end when asked. */
#include <stdio.h>

#include "train_view.h"

int cmd_resume(int argc, char **argv)
{
    static cli_common c;
    static double minutes;
    static int64_t tokens;
    static const char *prompt;
    char **args;
    int n_args;
    c = (cli_common){.seed = -1};
    minutes = 0;
    tokens = 0;
    prompt = "Once upon a time";
    const cli_option options[] = {
        {"minutes", CLI_REAL, &minutes, "N", "N minutes more from where it stands"},
        {"tokens", CLI_INT, &tokens, "N", "N tokens more from where it stands"},
        {"prompt", CLI_TEXT, &prompt, "TEXT", "continued at 1, 10, 50 and 100 percent; \"\": never"},
        CLI_OPT_THREADS(&c), CLI_OPT_DEVICE(&c), CLI_OPT_ISA(&c), CLI_OPT_JSON(&c),
    };
    const cli_command command = {
        "resume", "RUN [--minutes N | --tokens N] [options]",
        "Goes on with a run from its newest whole checkpoint to its end, bit for bit as if it had never "
        "stopped; with --minutes or --tokens it goes on that much further.",
        options, CLI_COUNT(options), 1};
    int rc = cli_parse(&command, argc, argv, &args, &n_args);
    if (rc != CLI_GO_ON) return rc;
    if (!n_args) return cli_wrong("resume", "which run? give its directory");
    fm_exec *x = NULL;
    fm_trainer *t = NULL;
    fm_err err = {0};
    rc = cli_context("resume", &c, &x);
    if (rc != CLI_GO_ON) return rc;
    train_view v = {.command = "resume", .prompt = prompt, .json = c.json};
    fm_train_hooks hooks = train_view_hooks(&v);
    if (fm_trainer_resume(x, args[0], minutes, tokens, &hooks, &t, &err)) {
        rc = cli_fail("resume", "%s", err.text);
    } else {
        if (!c.json) train_view_measure(&v, c.isa, c.threads, true);
        rc = train_view_run(&v, t);
    }
    fm_context_close(x);
    return rc;
}
