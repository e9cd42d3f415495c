/* One self-contained page about one or more runs: curves laid over each other, balance per layer,
 * samples, settings that differ. */
#ifndef FATHOM_REPORT_H
#define FATHOM_REPORT_H

#include "fathom/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define FM_REPORT_RUNS_MAX 8

/* runs[n]: run directories (metrics.jsonl; recipe.ini and samples.txt where there). Writes one HTML file,
 * atomically, without any reference to another file or host. Errors: IO, FORMAT (a metrics line that is no
 * JSON, naming file and line), RANGE (no run, or more than FM_REPORT_RUNS_MAX), NOMEM. */
fm_status fm_report_write(const char *const *runs, int n, const char *out_path, fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
