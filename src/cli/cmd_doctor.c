/* fathom doctor: what this machine has, what Fathom makes of it, and what could be installed. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "cli.h"
#include "fathom/machine.h"

typedef struct part {
    const char *name, *what, *install;
    bool found;
} part;

/* Whether a program of this name is on the PATH. */
static bool on_path(const char *program)
{
    const char *path = getenv("PATH");
    char file[4096];
    while (path && *path) {
        size_t n = strcspn(path, ":");
        snprintf(file, sizeof file, "%.*s/%s", (int)n, path, program);
        if (access(file, X_OK) == 0) return true;
        path += n + (path[n] == ':');
    }
    return false;
}

#ifdef FM_HAVE_LIBEDIT
#define HAVE_EDIT true
#else
#define HAVE_EDIT false
#endif

#ifdef FM_HAVE_NLOPT
#define HAVE_NLOPT true
#else
#define HAVE_NLOPT false
#endif

#ifdef FM_HAVE_SQLITE
#define HAVE_SQLITE true
#else
#define HAVE_SQLITE false
#endif

static int parts_of(part *p)
{
    int n = 0;
    p[n++] = (part){"libedit", "line editing in fathom chat", "libedit-dev, then build again", HAVE_EDIT};
    p[n++] = (part){"zstd", "packing corpora by hand", "zstd", on_path("zstd")};
    p[n++] = (part){"NLopt", "fits of scaling laws", "libnlopt-dev, then build again", HAVE_NLOPT};
    p[n++] = (part){"SQLite", "the index of a study's runs", "libsqlite3-dev, then build again", HAVE_SQLITE};
    p[n++] = (part){"gnuplot", "plots of scaling studies", "gnuplot-nox", on_path("gnuplot")};
    p[n++] = (part){"mpirun", "several processes", "openmpi-bin libopenmpi-dev", on_path("mpirun")};
    p[n++] = (part){"nvcc", "CUDA kernels", "the CUDA toolkit", on_path("nvcc")};
    p[n++] = (part){"nvidia-smi", "an NVIDIA GPU and its driver", "the NVIDIA driver", on_path("nvidia-smi")};
    return n;
}

static void print_text(const fm_machine *m, const fm_ceiling *c, int n, const part *p, int n_parts,
                       double disk)
{
    cli_buf a, b;
    printf("processor   %s, %d for this process\n", m->processor, m->processors);
    printf("features    %s\n", m->features[0] ? m->features : "none Fathom uses");
    printf("level       %s (--isa lowers it; the results are the same bits)\n", m->isa);
    printf("memory      %s, %s available\n", cli_bytes((double)m->memory_bytes, &a),
           cli_bytes((double)m->memory_available_bytes, &b));
    printf("caches      L2 %s a core, L3 %s\n", cli_bytes((double)m->l2_bytes, &a),
           cli_bytes((double)m->l3_bytes, &b));
    printf("disk        %s free here\n", cli_bytes(disk, &a));
    printf("\nmeasured in about a second (fathom bench machine measures longer)\n");
    for (int i = 0; i < n; i++)
        if (c[i].value > 0)
            printf("  %-12s %2d thread%s %9.1f G%s\n", c[i].name, c[i].threads, c[i].threads > 1 ? "s" : " ",
                   c[i].value / 1e9, c[i].unit);
    printf("\noptional parts\n");
    for (int i = 0; i < n_parts; i++) {
        printf("  %-11s %-8s %s", p[i].name, p[i].found ? "found" : "missing", p[i].what);
        if (!p[i].found) printf("; install: %s", p[i].install);
        printf("\n");
    }
    if (strcmp(m->isa, "scalar") == 0)
        printf("\nThis processor has no AVX2: everything works, but slowly.\n");
}

static void print_json(const fm_machine *m, const fm_ceiling *c, int n, const part *p, int n_parts,
                       double disk)
{
    printf("{\"processor\": ");
    cli_json_string(m->processor);
    printf(", \"processors\": %d, \"features\": \"%s\", \"isa\": \"%s\", \"memory_bytes\": %lld, "
           "\"memory_available_bytes\": %lld, \"disk_free_bytes\": %.0f, \"ceilings\": [",
           m->processors, m->features, m->isa, (long long)m->memory_bytes,
           (long long)m->memory_available_bytes, disk);
    for (int i = 0; i < n; i++)
        printf("%s{\"name\": \"%s\", \"threads\": %d, \"value\": %.4g, \"unit\": \"%s\"}",
               i ? ", " : "", c[i].name, c[i].threads, c[i].value, c[i].unit);
    printf("], \"parts\": [");
    for (int i = 0; i < n_parts; i++)
        printf("%s{\"name\": \"%s\", \"found\": %s}", i ? ", " : "", p[i].name,
               p[i].found ? "true" : "false");
    printf("]}\n");
}

int cmd_doctor(int argc, char **argv)
{
    cli_common o = {0};
    const cli_option options[] = {CLI_OPT_JSON(&o)};
    const cli_command c = {
        "doctor",
        "[--json]",
        "Prints processor features, memory, bandwidth, and which optional parts are there.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    fm_machine m;
    fm_ceiling ceilings[FM_CEILINGS_MAX];
    fm_err err = {0};
    part parts[10];
    struct statvfs vfs;
    int n = 0, n_parts = parts_of(parts);
    double disk = statvfs(".", &vfs) == 0 ? (double)vfs.f_bavail * (double)vfs.f_frsize : 0;
    fm_machine_describe(&m);
    if (fm_machine_measure(NULL, 0, 1.0, ceilings, &n, &err)) {
        fprintf(stderr, "fathom doctor: %s\n", err.text);
        n = 0;
    }
    if (o.json) print_json(&m, ceilings, n, parts, n_parts, disk);
    else print_text(&m, ceilings, n, parts, n_parts, disk);
    return CLI_DONE;
}
