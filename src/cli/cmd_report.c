/* fathom report: one self-contained page about one or more runs. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "fathom/report.h"

int cmd_report(int argc, char **argv)
{
    const char *out = NULL;
    char **runs = NULL, path[4096];
    int n = 0;
    const cli_option options[] = {
        {"out", CLI_TEXT, &out, "FILE", "the page (default: report.html in the first run)"},
    };
    const cli_command c = {
        "report",
        "RUN... [--out FILE.html]",
        "Writes one page: curves of the runs laid over each other, balance per layer, samples, "
        "settings that differ. A run is a directory made by pretrain or demo.",
        options,
        CLI_COUNT(options),
        FM_REPORT_RUNS_MAX};
    int rc = cli_parse(&c, argc, argv, &runs, &n);
    if (rc != CLI_GO_ON) return rc;
    if (n < 1) return cli_wrong("report", "no run directory given");
    if (!out) {
        if (snprintf(path, sizeof path, "%s/report.html", runs[0]) >= (int)sizeof path)
            return cli_fail("report", "%s: the path is too long", runs[0]);
        out = path;
    }
    fm_err err = {0};
    if (fm_report_write((const char *const *)runs, n, out, &err)) return cli_fail("report", "%s", err.text);
    printf("%s\n", out);
    return CLI_DONE;
}
