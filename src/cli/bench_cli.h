/* What the files of `fathom bench` share: the parsed options and the one line of output. */
#ifndef FM_CLI_BENCH_H
#define FM_CLI_BENCH_H

#include "cli.h"

typedef struct bench_args {
    cli_common c;
    const char *preset, *optimizer, *depth;
    const char *rows; /* list for decode, number for train */
    int64_t seq, micro, steps, chunk;
    bool profile, dense;
} bench_args;

/* bound 0: a figure without one. fraction < 0: value / bound. */
void bench_line(const bench_args *a, const char *name, const char *shape, double value,
                const char *unit, double bound, double fraction);
/* "0,4096,16k" -> out; CLI_GO_ON or an exit code. */
int bench_list(const char *option, const char *text, int64_t *out, int *n, int most);

int bench_decode(const bench_args *a);
int bench_prefill(const bench_args *a);
int bench_gemm(const bench_args *a);

#endif
