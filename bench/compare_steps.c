/* Training steps of several builds of this library in one process, in turn.
 *
 *   compare_steps [--threads N] [--rows N] [--steps N] [--preset P] [--mtp] [--muon] [--dense]
 *                 [--f32] [--isa LEVEL] OLD.so NEW.so...
 *
 * A build is the shared object of a tree (make build/libfathom.so.VERSION). Each trains the same
 * model on the same random documents; step by step they take turns, so that the machine's minutes
 * are the same for all. One JSON line a build: milliseconds a step, the ratio of its steps to those
 * of the first build beside them, its operators in milliseconds a step. What is looked up in the
 * builds is not public: all of them must agree with the headers that this program was compiled with
 * on the structures named here. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "train/stepper.h"

#define BUILDS_MAX 8
#define STEPS_MAX 1024
#define DOCS 256
#define ROW 512

typedef struct build {
    const char *path;
    void *so;
    fm_exec *x;
    fm_model *m;
    fmi_stepper *t;
    fmi_feed feed;
    fm_config c;
    fmi_settings s;
    fmi_docs docs;
    __typeof__(&fmi_step_run) run;
    __typeof__(&fm_exec_profile) profile;
    __typeof__(&fm_exec_profile_reset) reset;
    double ms[STEPS_MAX];
} build;

typedef struct options {
    int threads, rows, steps;
    bool mtp, muon, dense, f32;
    const char *preset, *isa; /* isa NULL: the highest */
} options;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static uint32_t mixed(uint32_t x)
{
    x *= 2654435761u;
    x = (x ^ x >> 15) * 2246822519u;
    return x ^ x >> 13;
}

static int64_t doc_length(void *arg, int64_t doc)
{
    (void)arg;
    return 64 + mixed((uint32_t)doc) % (ROW - 63);
}

static void doc_copy(void *arg, int64_t doc, int64_t begin, int64_t n, int32_t *out)
{
    const fm_config *c = arg;
    for (int64_t i = 0; i < n; i++)
        out[i] = (int32_t)(mixed((uint32_t)(doc * 7919 + begin + i)) % (uint32_t)c->vocab_size);
}

static void *symbol(const build *b, const char *name)
{
    void *p = dlsym(b->so, name);
    if (p) return p;
    fprintf(stderr, "compare_steps: %s: no %s\n", b->path, name);
    exit(1);
}

#define FROM(b, name) ((__typeof__(&name))symbol(b, #name))

static fm_status start(build *b, const options *o, fm_err *err)
{
    b->so = dlopen(b->path, RTLD_LAZY | RTLD_LOCAL);
    if (!b->so) {
        fprintf(stderr, "compare_steps: %s\n", dlerror());
        exit(1);
    }
    int isa = o->isa ? FROM(b, fm_isa_parse)(o->isa) : -1;
    if (o->isa && isa < 0) {
        fprintf(stderr, "compare_steps: no instruction set %s\n", o->isa);
        exit(2);
    }
    fm_exec_opts eo = {.device = "cpu", .threads = o->threads, .isa_max = isa, .profile = true};
    fmi_step_opts so = {
        .rows_max = o->rows, .micro_rows = 4096 / ROW, .T = ROW, .mtp = o->mtp, .muon = o->muon};
    fm_status st = FROM(b, fm_exec_open)(&eo, &b->x, err);
    if (!st) st = FROM(b, fmi_config_preset)(o->preset, &b->c, err);
    if (!st && o->mtp && !b->c.num_nextn_predict_layers) {
        fprintf(stderr, "compare_steps: %s has no MTP module\n", o->preset);
        exit(1);
    }
    if (!o->mtp) b->c.num_nextn_predict_layers = 0;
    if (o->dense) b->c.n_routed_experts = 0;
    if (!st)
        st = FROM(b, fmi_model_new)(b->x, &b->c, o->f32 ? FM_DTYPE_F32 : FM_DTYPE_BF16, false,
                                    &b->m, err);
    if (!st) st = FROM(b, fmi_model_init)(b->m, 1, err);
    if (!st) st = FROM(b, fmi_stepper_new)(b->m, &so, &b->t, err);
    FROM(b, fmi_settings_default)(&b->s);
    b->s.train_lr_embed = 1;
    b->s.train_beta2 = b->s.train_momentum = 0.95;
    b->docs = (fmi_docs){&b->c, DOCS, doc_length, doc_copy};
    if (!st) st = FROM(b, fmi_feed_init)(&b->feed, &b->docs, ROW, 1, true, false, err);
    b->run = FROM(b, fmi_step_run);
    b->profile = FROM(b, fm_exec_profile);
    b->reset = FROM(b, fm_exec_profile_reset);
    return st;
}

/* The first step of each build is not counted. */
static fm_status run(build *b, int n, const options *o, fm_err *err)
{
    for (int k = 0; k <= o->steps; k++)
        for (int i = 0; i < n; i++) {
            build *v = &b[(i + k) % n];
            fmi_step_in in = {.step = k + 1, .rows = o->rows, .lr = 1e-4, .gamma = 1e-3, .mtp_weight = 0.3};
            fmi_step_out out;
            if (k == 1) v->reset(v->x);
            double at = now();
            fm_status st = v->run(v->t, &v->feed, &v->s, &in, &out, err);
            if (st) return st;
            if (k) v->ms[k - 1] = 1e3 * (now() - at);
        }
    return FM_OK;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void print_quartiles(const char *name, const double *v, int n)
{
    double w[STEPS_MAX];
    memcpy(w, v, (size_t)n * sizeof *w);
    qsort(w, (size_t)n, sizeof *w, by_value);
    printf(", \"%s\": {\"min\": %.4g, \"q1\": %.4g, \"median\": %.4g, \"q3\": %.4g}", name, w[0],
           w[n / 4], w[n / 2], w[3 * n / 4]);
}

static void report(const build *first, const build *b, const options *o)
{
    double ratio[STEPS_MAX], seconds;
    int64_t calls;
    const char *name;
    bool more = false;
    for (int i = 0; i < o->steps; i++) ratio[i] = b->ms[i] / first->ms[i];
    printf("{\"build\": \"%s\", \"preset\": \"%s\", \"threads\": %d, \"rows\": %d, \"steps\": %d, "
           "\"mtp\": %s, "
           "\"optimizer\": \"%s\"",
           b->path, o->preset, o->threads, o->rows, o->steps, o->mtp ? "true" : "false",
           o->muon ? "muon" : "adamw");
    print_quartiles("ms", b->ms, o->steps);
    print_quartiles("ratio", ratio, o->steps);
    printf(", \"operators\": {");
    for (int i = 0; (name = b->profile(b->x, i, &seconds, &calls)) != NULL; i++) {
        if (!calls) continue;
        printf("%s\"%s\": %.2f", more ? ", " : "", name, 1e3 * seconds / o->steps);
        more = true;
    }
    printf("}}\n");
}

static int usage(FILE *f, int rc)
{
    fputs("usage: compare_steps [--threads N] [--rows N] [--steps N] [--preset P] [--mtp] [--muon] "
          "[--dense]\n"
          "                     [--f32] [--isa LEVEL] OLD.so NEW.so...\n",
          f);
    return rc;
}

int main(int argc, char **argv)
{
    static build b[BUILDS_MAX];
    options o = {.threads = 2, .rows = 8, .steps = 20, .preset = "nano"};
    int n = 0;
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *next = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(a, "--help")) return usage(stdout, 0);
        else if (!strcmp(a, "--mtp")) o.mtp = true;
        else if (!strcmp(a, "--muon")) o.muon = true;
        else if (!strcmp(a, "--dense")) o.dense = true;
        else if (!strcmp(a, "--f32")) o.f32 = true;
        else if (!strcmp(a, "--isa")) o.isa = next, i++;
        else if (!strcmp(a, "--threads")) o.threads = atoi(next), i++;
        else if (!strcmp(a, "--rows")) o.rows = atoi(next), i++;
        else if (!strcmp(a, "--steps")) o.steps = atoi(next), i++;
        else if (!strcmp(a, "--preset")) o.preset = next, i++;
        else if (a[0] == '-' || n == BUILDS_MAX) return usage(stderr, 2);
        else b[n++].path = a;
    }
    if (n < 1 || o.threads < 1 || o.rows < 1 || o.steps < 1 || o.steps > STEPS_MAX) return usage(stderr, 2);
    fm_err err = {0};
    fm_status st = FM_OK;
    for (int i = 0; i < n && !st; i++) st = start(&b[i], &o, &err);
    if (!st) st = run(b, n, &o, &err);
    if (st) {
        fprintf(stderr, "compare_steps: %s\n", err.text);
        return 1;
    }
    for (int i = 0; i < n; i++) report(&b[0], &b[i], &o);
    return 0;
}
