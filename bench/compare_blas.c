/* Matrix products of this library beside those of BLAS libraries in one process, in turn.
 *
 *   fathom bench gemm --preset nano --json | compare_blas [--threads N] [--rounds N]
 * NAME=LIBRARY...
 *
 * LIBRARY is a shared object with the Fortran interface: sgemm_ (or scipy_sgemm_64_, as in numpy's
 * wheels) for f32, gemm_bf16bf16f32 (MKL) or sbgemm_ for bf16 with an f32 C; a library without one
 * sits that dtype out. Every shape of the input marked "cold" is run once: operands rotate through
 * 256 MB of copies, and in each round every contender gets 10 ms after a pause in which the others'
 * threads come to rest. One JSON line a shape: medians in FLOP/s, and for each library the median
 * over rounds of ours divided by theirs. */
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "ops/ops.h"

#define LIBS_MAX 4
#define ROUNDS_MAX 64
#define COPIES_BYTES ((size_t)256 << 20)

typedef void (*gemm32_fn)(const char *, const char *, const int *, const int *, const int *,
                          const float *, const void *, const int *, const void *, const int *,
                          const float *, float *, const int *);
typedef void (*gemm64_fn)(const char *, const char *, const int64_t *, const int64_t *,
                          const int64_t *, const float *, const void *, const int64_t *,
                          const void *, const int64_t *, const float *, float *, const int64_t *);

typedef struct blas {
    const char *name;
    gemm32_fn f32, bf16;
    gemm64_fn f32_64;
} blas;

typedef struct shape {
    fm_gemm_kind kind;
    fm_dtype dt;
    int m, n, k;
} shape;

typedef struct operands {
    char *a, *b;
    float *c;
    size_t a_bytes, b_bytes, c_floats;
    int copies;
} operands;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void rest(void)
{
    struct timespec t = {0, 40000000}; /* OpenBLAS spins for about 30 ms */
    nanosleep(&t, NULL);
}

/* Row-major C = A B is column-major C^T = B^T A^T: operands change places. */
static void blas_call(const blas *l, const shape *s, const char *a, const char *b, float *c)
{
    const char *tb = s->kind == FM_GEMM_NT ? "T" : "N", *ta = s->kind == FM_GEMM_TN ? "T" : "N";
    const float one = 1, beta = s->kind == FM_GEMM_TN ? 1 : 0;
    int lda = s->kind == FM_GEMM_TN ? s->m : s->k, ldb = s->kind == FM_GEMM_NT ? s->k : s->n;
    gemm32_fn fn = s->dt == FM_DTYPE_F32 ? l->f32 : l->bf16;
    if (fn) {
        fn(tb, ta, &s->n, &s->m, &s->k, &one, b, &ldb, a, &lda, &beta, c, &s->n);
        return;
    }
    int64_t m = s->m, n = s->n, k = s->k, la = lda, lb = ldb;
    l->f32_64(tb, ta, &n, &m, &k, &one, b, &lb, a, &la, &beta, c, &n);
}

static void our_call(fm_exec *x, const shape *s, const char *a, const char *b, float *c)
{
    fm_gemm_args g = {.a = a, .b = b, .c = c, .kind = s->kind, .m = s->m, .n = s->n, .k = s->k,
                      .lda = s->kind == FM_GEMM_TN ? s->m : s->k, .ldb = s->kind == FM_GEMM_NT ? s->k : s->n,
                      .ldc = s->n, .dt = s->dt, .dtc = FM_DTYPE_F32, .accumulate = s->kind == FM_GEMM_TN};
    fm_op_gemm(x, &g);
}

static void call(fm_exec *x, const blas *l, const shape *s, const operands *o, int i)
{
    size_t at = (size_t)(i % o->copies);
    const char *a = o->a + at * o->a_bytes, *b = o->b + at * o->b_bytes;
    float *c = o->c + at * o->c_floats;
    if (l) blas_call(l, s, a, b, c);
    else our_call(x, s, a, b, c);
}

static bool takes(const blas *l, fm_dtype dt)
{
    return dt == FM_DTYPE_F32 ? l->f32 || l->f32_64 : l->bf16 != NULL;
}

static void fill(char *p, size_t n, fm_dtype dt)
{
    for (size_t i = 0; i < n; i++) {
        float v = (float)((int)(i * 2654435761u >> 20) % 201 - 100) / 128;
        if (dt == FM_DTYPE_F32) ((float *)(void *)p)[i] = v;
        else ((fm_bf16 *)(void *)p)[i] = fmi_f32_to_bf16(v);
    }
}

/* As the models' memory is: on huge pages where there are any. */
static void *take(fm_exec *x, size_t bytes)
{
    void *p = NULL;
    fm_err err = {0};
    if (fm_dev_alloc(x, bytes, &p, &err)) {
        fprintf(stderr, "compare_blas: %s\n", err.text);
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

static operands make_operands(fm_exec *x, const shape *s)
{
    size_t el = s->dt == FM_DTYPE_F32 ? 4 : 2;
    operands o = {.a_bytes = el * (size_t)s->m * (size_t)s->k, .b_bytes = el * (size_t)s->n * (size_t)s->k,
                  .c_floats = (size_t)s->m * (size_t)s->n};
    o.copies = (int)(COPIES_BYTES / (o.a_bytes + o.b_bytes + 4 * o.c_floats));
    if (o.copies < 2) o.copies = 2;
    o.a = take(x, o.a_bytes * (size_t)o.copies);
    o.b = take(x, o.b_bytes * (size_t)o.copies);
    o.c = take(x, o.c_floats * (size_t)o.copies * sizeof *o.c);
    fill(o.a, o.a_bytes / el * (size_t)o.copies, s->dt);
    fill(o.b, o.b_bytes / el * (size_t)o.copies, s->dt);
    return o;
}

/* The largest difference of both results for the first copy, relative to k. */
static double difference(fm_exec *x, const blas *l, const shape *s, const operands *o)
{
    double worst = 0;
    float *keep = take(x, o->c_floats * sizeof *keep);
    memset(o->c, 0, o->c_floats * sizeof *o->c);
    call(x, NULL, s, o, 0);
    memcpy(keep, o->c, o->c_floats * sizeof *keep);
    memset(o->c, 0, o->c_floats * sizeof *o->c);
    call(x, l, s, o, 0);
    for (size_t i = 0; i < o->c_floats; i++) {
        double d = fabs((double)keep[i] - (double)o->c[i]) / s->k;
        if (!(d <= worst)) worst = d;
    }
    fm_dev_free(x, keep);
    return worst;
}

static double rate(fm_exec *x, const blas *l, const shape *s, const operands *o, int *next)
{
    rest();
    call(x, l, s, o, (*next)++);
    double begin = now(), took = 0;
    int n = 0;
    while (n < 2 || took < 0.01) {
        call(x, l, s, o, (*next)++);
        n++;
        took = now() - begin;
    }
    return 2.0 * s->m * s->n * s->k * n / took;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void compare(fm_exec *x, const blas *libs, int n_libs, const shape *s, const char *name, int rounds)
{
    operands o = make_operands(x, s);
    double ours[ROUNDS_MAX], theirs[LIBS_MAX][ROUNDS_MAX], ratio[LIBS_MAX][ROUNDS_MAX];
    int next = 0;
    for (int i = 0; i < n_libs; i++) {
        double d = takes(&libs[i], s->dt) ? difference(x, &libs[i], s, &o) : 0;
        if (d <= 1e-4) continue;
        fprintf(stderr, "compare_blas: %s: %s differs by %g\n", name, libs[i].name, d);
        exit(1);
    }
    for (int r = 0; r < rounds; r++) {
        ours[r] = rate(x, NULL, s, &o, &next);
        for (int i = 0; i < n_libs; i++) {
            if (!takes(&libs[i], s->dt)) continue;
            theirs[i][r] = rate(x, &libs[i], s, &o, &next);
            ratio[i][r] = ours[r] / theirs[i][r];
        }
    }
    static const char *const kinds[] = {"NT", "NN", "TN"};
    printf("{\"name\": \"%s\", \"shape\": \"%s %s %d x %d x %d cold\", \"fathom\": %.4g", name,
           kinds[s->kind], s->dt == FM_DTYPE_F32 ? "F32" : "BF16", s->m, s->n, s->k,
           median(ours, rounds));
    for (int i = 0; i < n_libs; i++)
        if (takes(&libs[i], s->dt))
            printf(", \"%s\": %.4g, \"ratio_%s\": %.3f", libs[i].name, median(theirs[i], rounds),
                   libs[i].name, median(ratio[i], rounds));
    printf(", \"unit\": \"FLOP/s\", \"rounds\": %d}\n", rounds);
    fflush(stdout);
    fm_dev_free(x, o.a);
    fm_dev_free(x, o.b);
    fm_dev_free(x, o.c);
}

/* One line of `fathom bench gemm --json`; false: not a plain product with cold operands. */
static bool parse(const char *line, char name[64], shape *s)
{
    char kind[3], type[8];
    const char *n = strstr(line, "\"name\": \""), *p = strstr(line, "\"shape\": \"");
    if (!n || !p || !strstr(p, " cold") || strstr(p, "grouped")) return false;
    if (sscanf(n, "\"name\": \"%63[^\"]", name) != 1) return false;
    if (sscanf(p, "\"shape\": \"%2s %7s %d x %d x %d", kind, type, &s->m, &s->n, &s->k) != 5) return false;
    s->kind = !strcmp(kind, "NT") ? FM_GEMM_NT : !strcmp(kind, "NN") ? FM_GEMM_NN : FM_GEMM_TN;
    s->dt = !strcmp(type, "F32") ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    return true;
}

static void open_library(blas *l, char *arg)
{
    char *path = strchr(arg, '=');
    if (path) *path++ = 0;
    void *h = path ? dlopen(path, RTLD_NOW | RTLD_GLOBAL) : NULL;
    if (!h) {
        fprintf(stderr, "compare_blas: %s: %s\n", arg, path ? dlerror() : "expected NAME=LIBRARY");
        exit(2);
    }
    l->name = arg;
    l->f32 = (gemm32_fn)dlsym(h, "sgemm_");
    if (!l->f32) l->f32_64 = (gemm64_fn)dlsym(h, "scipy_sgemm_64_");
    l->bf16 = (gemm32_fn)dlsym(h, "gemm_bf16bf16f32");
    if (!l->bf16) l->bf16 = (gemm32_fn)dlsym(h, "sbgemm_");
    if (l->f32 || l->f32_64 || l->bf16) return;
    fprintf(stderr, "compare_blas: %s: no matrix product found\n", arg);
    exit(2);
}

int main(int argc, char **argv)
{
    blas libs[LIBS_MAX] = {{0}};
    int n_libs = 0, threads = 2, rounds = 7;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--threads") && i + 1 < argc) threads = atoi(argv[++i]);
        else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
            rounds = atoi(argv[++i]);
        else if (n_libs < LIBS_MAX) argv[1 + n_libs++] = argv[i];
    }
    if (n_libs == 0 || threads < 1 || rounds < 1 || rounds > ROUNDS_MAX) {
        fputs("usage: fathom bench gemm --json | compare_blas [--threads N] [--rounds N] "
              "NAME=LIBRARY...\n",
              stderr);
        return 2;
    }
    char text[16], line[512], name[64];
    snprintf(text, sizeof text, "%d", threads);
    setenv("OMP_NUM_THREADS", text, 1); /* read when a library is loaded */
    setenv("MKL_NUM_THREADS", text, 1);
    setenv("OPENBLAS_NUM_THREADS", text, 1);
    for (int i = 0; i < n_libs; i++) open_library(&libs[i], argv[1 + i]);
    fm_exec *x = NULL;
    fm_err err = {0};
    fm_exec_opts o = {.device = "cpu", .threads = threads, .isa_max = -1};
    if (fm_exec_open(&o, &x, &err)) {
        fprintf(stderr, "compare_blas: %s\n", err.text);
        return 1;
    }
    while (fgets(line, sizeof line, stdin)) {
        shape s;
        if (parse(line, name, &s)) compare(x, libs, n_libs, &s, name, rounds);
    }
    fm_exec_close(x);
    return 0;
}
