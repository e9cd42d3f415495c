/* Studies without training: the family's counts by hand, the laws, claims fought over by processes,
 * metrics as runs write them, the index, and a comparison of curves whose speed-up is known. Whole
 * studies are run by tests/cli/scale_run.sh. */
#include "support.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "fathom/study.h"
#include "io/file.h"
#include "scale/study.h"

static char *in_dir(const char *name)
{
    static char path[4][512];
    static int k;
    k = (k + 1) % 4;
    snprintf(path[k], sizeof path[k], "%s/%s", test_dir(), name);
    return path[k];
}

static void write_text(const char *path, const char *text)
{
    fm_err ok_err;
    OK(fmi_file_write(path, text, strlen(text), &ok_err));
}

/* --- family and laws --- */

/* Width 64: three layers, two heads of 16 + 8 and 16, latents 24 and 16, dense FFN 176, experts
 * of 32. */
static void test_family(void **state)
{
    (void)state;
    fm_err ok_err;
    fmi_json_init();
    fm_study_design_opts o = {.experts = 16, .active = 4};
    fmi_ini *ini;
    fmi_study_size s, dense;
    json_t *set = json_array(), *twin = json_array();
    OK(fmi_ini_new("study.ini", &ini, &ok_err));
    OK(fmi_family_sets(&o, ini, 64, set, &ok_err));
    OK(fmi_family_count(ini, set, 2048, 512, &s, &ok_err));
    double attention = 64 * 24 + 24 * 2 * 24 + 64 * (16 + 8) + 16 * 2 * 32 + 2 * 16 * 64;
    double dense_ffn = 3 * 64 * 176, expert = 3 * 64 * 32, router = 64 * 16;
    double norms = 3 * (2 * 64 + 24 + 16) + 64;
    double matrices = 3 * attention + dense_ffn + 2 * 5 * expert;
    double keys = 3 * 256.5 * 2 * 2 * (24 + 16);
    assert_true(s.M == 3 * (2 * matrices + 2 * 2 * router + keys));
    assert_true(s.params == matrices + 2 * router + norms + 2 * 16); /* the last: router biases */
    assert_true(s.params_total == s.params + 2 * 12 * expert);
    assert_int_equal(s.layers, 3);
    assert_int_equal(s.experts, 16);
    /* Neither vocabulary nor a head of another size is in M. */
    fmi_study_size other;
    OK(fmi_family_count(ini, set, 32768, 512, &other, &ok_err));
    assert_true(other.M == s.M && other.params == s.params);
    /* The dense twin computes as much, but for the router. */
    o.dense = true;
    OK(fmi_family_sets(&o, ini, 64, twin, &ok_err));
    OK(fmi_family_count(ini, twin, 2048, 512, &dense, &ok_err));
    assert_true(dense.M == s.M - 3 * 2 * 2 * router);
    assert_true(dense.params == dense.params_total);
    json_decref(set);
    json_decref(twin);
    fmi_ini_free(ini);
}

/* Widths ascend, every one is a valid shape, and M grows by less than 1.8 from one to the next. */
static void test_family_steps(void **state)
{
    (void)state;
    fm_err ok_err;
    fm_study_design_opts o = {.experts = 16, .active = 4};
    fmi_ini *ini;
    double last = 0;
    int n = 0;
    OK(fmi_ini_new("study.ini", &ini, &ok_err));
    for (int w = fmi_family_next(0), before = 0; w && w <= 2048;
         before = w, w = fmi_family_next(w), n++) {
        json_t *set = json_array();
        fmi_study_size s;
        assert_true(w > before);
        OK(fmi_family_sets(&o, ini, w, set, &ok_err));
        OK(fmi_family_count(ini, set, 2048, 512, &s, &ok_err));
        if (last > 0 && (s.M <= last || s.M > 1.8 * last))
            fail_msg("width %d: M %g after %g", w, s.M, last);
        last = s.M;
        json_decref(set);
    }
    assert_true(n > 30);
    fmi_ini_free(ini);
}

static void test_laws(void **state)
{
    (void)state;
    fm_err ok_err;
    fm_study_run r = {0};
    fmi_design d = {.o = {.seq = 512,
                          .lr_scale = 0.3118,
                          .lr_exponent = -0.125,
                          .batch_scale = 0.2920,
                          .batch_exponent = 0.3271},
                    .train_tokens = 1e9};
    OK(fmi_ini_new("study.ini", &d.ini, &ok_err));
    /* DeepSeek LLM, eq. 1, at C = 1e17: 0.3118 x 1e17^-0.125 and 0.2920 x 1e17^0.3271 tokens. */
    fmi_design_laws(&d, 1e8, 1e9, &r);
    assert_true(fabs(r.lr / 0.0023380 - 1) < 1e-3);
    assert_true(fabs(r.batch_tokens - 106240) <= 512);
    assert_true(fmod(r.batch_tokens, 512) == 0 && fmod(r.tokens, r.batch_tokens) == 0);
    assert_true(fabs(r.tokens - 1e9) <= r.batch_tokens / 2);
    assert_true(r.flops == 1e8 * r.tokens && fabs(r.epochs - 1) < 1e-3);
    /* Tiny runs: 4,096 tokens and 0.006 at most; settings of the study win. */
    fmi_design_laws(&d, 1e6, 1e6, &r);
    assert_true(r.lr == 6e-3 && r.batch_tokens == 4096);
    OK(fmi_ini_set(d.ini, "train.lr", "0.001", &ok_err));
    OK(fmi_ini_set(d.ini, "train.batch", "1024", &ok_err));
    fmi_design_laws(&d, 1e6, 1e6, &r);
    assert_true(r.lr == 1e-3 && r.batch_tokens == 1024);
    fmi_ini_free(d.ini);
}

static void test_makespan(void **state)
{
    (void)state;
    const double s[] = {2, 7, 4, 3, 5};
    assert_true(fmi_design_makespan(s, 5, 1) == 21);
    assert_true(fmi_design_makespan(s, 5, 2) == 11); /* 7 + 3, 5 + 4 + 2: the longest first */
    assert_true(fmi_design_makespan(s, 5, 9) == 7);
}

/* --- claims --- */

static void make_queue(const char *dir, int n)
{
    fm_err ok_err;
    const char *states[] = {"waiting", "doing", "done", "failed"};
    char path[600];
    for (int i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/queue/%s", dir, states[i]);
        OK(fmi_dir_make(path, &ok_err));
    }
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/queue/waiting/r%02d", dir, i);
        write_text(path, "");
    }
}

/* Takes what it can; writes an octet for each. */
static void grab_all(const char *dir, int n, int out)
{
    for (int i = 0; i < n; i++) {
        char id[16];
        fmi_claim c = {0};
        bool got = false;
        snprintf(id, sizeof id, "r%02d", i);
        if (fmi_claim_take(dir, id, 100, &c, &got, NULL)) _exit(2);
        if (!got) continue;
        unsigned char b = (unsigned char)i;
        if (write(out, &b, 1) != 1 || fmi_claim_end(&c, dir, FM_STUDY_DONE, NULL)) _exit(3);
    }
    _exit(0);
}

static void test_claims_race(void **state)
{
    (void)state;
    enum { N = 60, P = 6 };
    const char *dir = in_dir("race");
    int p[2], count[N] = {0}, status;
    unsigned char b;
    make_queue(dir, N);
    assert_int_equal(pipe(p), 0);
    for (int k = 0; k < P; k++)
        if (!fork()) grab_all(dir, N, p[1]);
    close(p[1]);
    while (read(p[0], &b, 1) == 1) count[b]++;
    close(p[0]);
    for (int k = 0; k < P; k++) {
        wait(&status);
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    for (int i = 0; i < N; i++) assert_int_equal(count[i], 1);
}

static void test_leases(void **state)
{
    (void)state;
    fm_err ok_err;
    const char *dir = in_dir("leases");
    char self[96], path[600], foreign[600];
    fmi_claim c, e;
    bool got, lost;
    make_queue(dir, 2);
    OK(fmi_claim_take(dir, "r00", 10, &c, &got, &ok_err));
    assert_true(got && !c.taken_back);
    fmi_claim_self(self, sizeof self);
    snprintf(path, sizeof path, "%s/queue/doing/r00.%s", dir, self);
    assert_string_equal(c.path, path);
    OK(fmi_claim_renew(&c, &lost, &ok_err));
    assert_false(lost);
    fmi_claim_note(&c, "attempt");
    fmi_claim_note(&c, "crash");
    /* Fresh, of another host: not to be had. Old: had, with its log; the sleeper notices. */
    snprintf(foreign, sizeof foreign, "%s/queue/doing/r00.4242.elsewhere-00000000", dir);
    assert_int_equal(rename(path, foreign), 0);
    OK(fmi_claim_renew(&c, &lost, &ok_err));
    assert_true(lost);
    OK(fmi_claim_take(dir, "r00", 10, &e, &got, &ok_err));
    assert_false(got);
    const struct timespec old[2] = {{.tv_sec = time(NULL) - 20}, {.tv_sec = time(NULL) - 20}};
    assert_int_equal(utimensat(AT_FDCWD, foreign, old, 0), 0);
    OK(fmi_claim_take(dir, "r00", 10, &e, &got, &ok_err));
    assert_true(got && e.taken_back && e.attempts == 1 && e.crashes == 1);
    OK(fmi_claim_end(&e, dir, FM_STUDY_WAITING, &ok_err));
    OK(fmi_claim_end(&c, dir, FM_STUDY_DONE, &ok_err)); /* lost: nothing to move */
    snprintf(path, sizeof path, "%s/queue/waiting/r00", dir);
    assert_true(fmi_path_is_file(path));
    /* A process of this host that is gone: at once, however fresh. */
    pid_t dead = fork();
    if (!dead) _exit(0);
    while (!fmi_process_gone(dead)) usleep(1000); /* a zombie */
    waitpid(dead, NULL, 0);
    assert_true(fmi_process_gone(dead));
    assert_false(fmi_process_gone(getpid()));
    snprintf(foreign, sizeof foreign, "%s/queue/doing/r01.%ld%s", dir, (long)dead,
             strchr(self, '.'));
    snprintf(path, sizeof path, "%s/queue/waiting/r01", dir);
    assert_int_equal(rename(path, foreign), 0);
    OK(fmi_claim_take(dir, "r01", 1000, &e, &got, &ok_err));
    assert_true(got && e.taken_back);
    fmi_claim_free(&e);
    assert_int_equal(fmi_claim_split("r01", NULL, NULL), 0);
    assert_int_equal(fmi_claim_split("r01.x.host", NULL, NULL), 0);
    assert_int_equal(fmi_claim_split("r01.12.host", NULL, NULL), 3);
}

/* --- children --- */

static void test_children(void **state)
{
    (void)state;
    fm_err err = {0};
    char text[FM_STUDY_WHY_MAX];
    fmi_args a = {0}, gone = {0};
    fmi_child c;
    fmi_args_add(&a, "/bin/sh");
    fmi_args_add(&a, "-c");
    fmi_args_add(&a, "echo 'fathom pretrain: RUN/lock: No space left on device' >&2; exit 1");
    assert_int_equal(fmi_child_start(&c, &a, test_dir(), NULL, &err), FM_OK);
    while (!fmi_child_poll(&c)) usleep(1000);
    fmi_child_message(&c, text, sizeof text);
    assert_string_equal(text, "RUN/lock: No space left on device");
    assert_true(fmi_child_disk_full(&c));
    fmi_args_add(&gone, "/no/such/program");
    assert_int_equal(fmi_child_run(&gone, test_dir(), NULL, &err), FM_E_IO);
    assert_non_null(strstr(err.text, "/no/such/program: cannot be started: No such file"));
    fmi_args_free(&a);
    fmi_args_free(&gone);
}

/* --- metrics, plans, the index --- */

static void test_metrics(void **state)
{
    (void)state;
    fm_err ok_err;
    fmi_study_metrics m;
    char *run = in_dir("run"), path[600];
    OK(fmi_dir_make(run, &ok_err));
    OK(fmi_study_metrics_read(run, 300, &m, &ok_err)); /* no file: no step */
    assert_false(m.ended);
    assert_int_equal(m.step, 0);
    snprintf(path, sizeof path, "%s/metrics.jsonl", run);
    const char *steps = "{\"step\":1,\"tokens\":100,\"batch_tokens\":100,\"loss\":5.5,\"bits_per_"
                        "byte\":2,\"layers\":[{\"layer\":1}],"
                        "\"seconds\":0.25,\"elapsed\":0.3,\"tokens_per_second\":400}\n"
                        "{\"step\":2,\"tokens\":300,\"batch_tokens\":200,\"loss\":4.5,\"bits_per_"
                        "byte\":2,\"layers\":[],"
                        "\"seconds\":0.5,\"elapsed\":0.9,\"tokens_per_second\":400}\n";
    char text[2048];
    write_text(path, steps);
    OK(fmi_study_metrics_read(run, 300, &m, &ok_err));
    assert_false(m.ended); /* not evaluated */
    snprintf(text, sizeof text,
             "%s{\"step\":2,\"tokens\":300,\"val_targets\":9,\"val_bits_per_byte\":1.5,"
             "\"val_loss\":3.25}\n{\"step\":3,\"tok",
             steps);
    write_text(path, text);
    OK(fmi_study_metrics_read(run, 300, &m, &ok_err));
    assert_true(m.ended && m.step == 2 && m.tokens == 300 && m.loss == 3.25 &&
                m.bits_per_byte == 1.5);
    assert_true(m.seconds == 0.75 && m.elapsed == 0.9 && m.train_loss == 4.5);
    OK(fmi_study_metrics_read(run, 301, &m, &ok_err));
    assert_false(m.ended); /* tokens are missing */
    snprintf(text, sizeof text,
             "%s{\"step\":2,\"tokens\":300,\"val_targets\":9,\"val_bits_per_byte\":null,"
             "\"val_loss\":null}\n",
             steps);
    write_text(path, text);
    OK(fmi_study_metrics_read(run, 300, &m, &ok_err));
    assert_true(m.ended && isnan(m.loss));
}

/* A plan of n runs of two arms; sizes and seeds. */
static void make_plan(const char *dir, const char *extra, int n_widths, int n_seeds,
                      const char *const *arms, int n_arms)
{
    fm_err ok_err;
    char path[600];
    json_t *runs = json_array();
    fmi_json_init();
    for (int w = 0; w < n_widths; w++)
        for (int a = 0; a < n_arms; a++)
            for (int s = 1; s <= n_seeds; s++) {
                fm_study_run r = {.width = 64 << w,
                                  .layers = 3,
                                  .seed = s,
                                  .budget = 1e12,
                                  .params = 1e5,
                                  .params_total = 2e5,
                                  .flops_per_token = 1e6 * pow(10, w),
                                  .tokens = 1e6,
                                  .flops = 1e12 * pow(10, w),
                                  .epochs = 0.5,
                                  .lr = 0.006,
                                  .batch_tokens = 4096,
                                  .seconds_expected = 10};
                snprintf(r.arm, sizeof r.arm, "%s", arms[a]);
                snprintf(r.id, sizeof r.id, "%s-w%d-s%d", arms[a], 64 << w, s);
                json_array_append_new(runs, fmi_study_run_json(&r));
            }
    json_t *plan = json_pack("{s:i, s:i, s:o}", "format", 1, "vocab", 320, "runs", runs);
    if (extra) json_object_set_new(plan, "ideas", json_pack("[s]", extra));
    make_queue(dir, 0);
    snprintf(path, sizeof path, "%s/plan.json", dir);
    OK(fmi_json_write(path, plan, &ok_err));
    json_decref(plan);
}

static void set_state(const char *dir, const char *id, const char *state)
{
    char path[700];
    snprintf(path, sizeof path, "%s/queue/%s/%s", dir, state, id);
    write_text(path, "");
}

typedef struct seen {
    int n, state[4];
    fm_study_run last;
} seen;

static bool see(void *arg, const fm_study_run *r)
{
    seen *s = arg;
    s->n++;
    s->state[r->state]++;
    if (r->state == FM_STUDY_DONE) s->last = *r;
    return true;
}

static void test_points(void **state)
{
    (void)state;
    fm_err ok_err, err = {0};
    const char *dir = in_dir("points"), *arms[] = {""};
    seen s = {0};
    fm_study_board b;
    bool db;
    char path[600], *csv;
    assert_int_equal(fm_study_points(dir, see, &s, &err), FM_E_STATE);
    make_plan(dir, NULL, 4, 1, arms, 1);
    set_state(dir, "-w64-s1", "done");
    set_state(dir, "-w128-s1", "failed");
    set_state(dir, "-w256-s1.77.elsewhere-00000000", "doing");
    set_state(dir, "-w512-s1", "waiting");
    fmi_study *st;
    OK(fmi_study_open(dir, &st, &ok_err));
    st->run[0].loss = 3.5, st->run[0].bits_per_byte = 1.25, st->run[0].seconds = 8,
    st->run[0].attempts = 2;
    OK(fmi_study_result_write(st, &st->run[0], &ok_err));
    fmi_study_close(st);
    OK(fm_study_points(dir, see, &s, &ok_err));
    assert_int_equal(s.n, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(s.state[i], 1);
    assert_true(s.last.loss == 3.5 && s.last.bits_per_byte == 1.25 && s.last.attempts == 2);
    OK(fm_study_board_get(dir, &b, &ok_err));
    assert_true(b.waiting == 1 && b.doing == 1 && b.done == 1 && b.failed == 1 && b.n_lines == 1);
    assert_string_equal(b.line[0].worker, "77.elsewhere-00000000");
    /* Only what is done; every field a number. */
    OK(fm_study_reindex(dir, &db, &ok_err));
    snprintf(path, sizeof path, "%s/points.csv", dir);
    OK(fmi_file_read(path, 1 << 20, &csv, NULL, &ok_err));
    const char *row = strchr(csv, '\n') + 1;
    assert_int_equal(
        strncmp(row, "-w64-s1,,64,3,100000,200000,1000000,1000000,1e+12,3.5,1.25,", 55), 0);
    assert_null(strchr(strchr(row, '\n') + 1, '\n'));
    fmi_free(csv);
    snprintf(path, sizeof path, "%s/index.db", dir);
    assert_int_equal(fmi_path_is_file(path), db);
}

static void test_bad_plans(void **state)
{
    (void)state;
    static const struct {
        const char *text, *why;
    } cases[] = {
        {"[", "plan.json"},
        {"{\"runs\": []}", "format"},
        {"{\"format\": 2, \"runs\": []}", "this program reads 1"},
        {"{\"format\": 1}", "runs"},
        {"{\"format\": 1, \"runs\": []}", "no runs"},
        {"{\"format\": 1, \"runs\": [{\"id\": \"a/b\"}]}", "a/b"},
        {"{\"format\": 1, \"runs\": [{\"id\": \"a.1.b\", \"arm\": \"\"}]}", "a.1.b"},
        {"{\"format\": 1, \"runs\": [{\"id\": \"a\", \"arm\": \"\", \"width\": -1}]}", "width"},
    };
    fm_err ok_err;
    const char *dir = in_dir("bad");
    char path[600];
    seen s = {0};
    OK(fmi_dir_make(dir, &ok_err));
    snprintf(path, sizeof path, "%s/plan.json", dir);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_err err = {0};
        write_text(path, cases[i].text);
        assert_int_not_equal(fm_study_points(dir, see, &s, &err), FM_OK);
        if (!strstr(err.text, cases[i].why)) fail_msg("case %zu: %s", i, err.text);
    }
}

/* --- comparison --- */

/* loss = 8 (k tokens)^-0.1 at `n` evaluations, `k` the speed-up; a token takes 1e-5 s x slow. */
static void write_curve(const char *dir, const char *id, double k, double slow, double noise)
{
    fm_err ok_err;
    enum { N = 400 };
    static char text[N * 200];
    char path[700];
    size_t at = 0;
    snprintf(path, sizeof path, "%s/runs/%s", dir, id);
    OK(fmi_dir_make(path, &ok_err));
    for (int i = 1; i <= N; i++) {
        double t = 2500.0 * i;
        at += (size_t)snprintf(
            text + at, sizeof text - at,
            "{\"step\":%d,\"tokens\":%.0f,\"batch_tokens\":2500,\"layers\":[],\"seconds\":%.9g}\n"
            "{\"step\":%d,\"tokens\":%.0f,\"val_targets\":1,\"val_loss\":%.12g}\n",
            i, t, 2500e-5 * slow, i, t, 8 * pow(k * exp(noise) * t, -0.1));
    }
    strncat(path, "/metrics.jsonl", sizeof path - strlen(path) - 1);
    write_text(path, text);
    set_state(dir, id, "done");
}

static void near(const json_t *o, const char *key, double want, double within)
{
    double v = json_number_value(json_object_get(o, key));
    if (!(fabs(v - want) <= within))
        fail_msg("%s: %g, expected %g within %g", key, v, want, within);
}

static void test_compare(void **state)
{
    (void)state;
    fm_err ok_err;
    const char *dir = in_dir("compare"), *arms[] = {"baseline", "idea"};
    const double speedup[] = {1.25, 1.5, 1.8}, noise[] = {0, 0.01, -0.01};
    fm_text text = {0};
    json_t *o;
    char path[600], id[64];
    make_plan(dir, "idea", 3, 3, arms, 2);
    fm_err err = {0};
    assert_int_equal(fm_study_compare_report(dir, &text, &err), FM_E_STATE); /* nothing is done */
    for (int w = 0; w < 3; w++)
        for (int s = 1; s <= 3; s++) {
            snprintf(id, sizeof id, "baseline-w%d-s%d", 64 << w, s);
            write_curve(dir, id, 1, 1, 0);
            snprintf(id, sizeof id, "idea-w%d-s%d", 64 << w, s);
            write_curve(dir, id, speedup[w], 1.2, noise[s - 1]);
        }
    OK(fm_study_compare_report(dir, &text, &ok_err));
    assert_non_null(strstr(text.data, "grows with size"));
    fm_text_deinit(&text);
    snprintf(path, sizeof path, "%s/compare.json", dir);
    OK(fmi_json_load(path, 1 << 20, &o, &ok_err));
    const json_t *idea = json_array_get(json_object_get(o, "ideas"), 0),
                 *sizes = json_object_get(idea, "sizes");
    assert_int_equal(json_array_size(sizes), 3);
    for (int w = 0; w < 3; w++) {
        const json_t *size = json_array_get(sizes, (size_t)w),
                     *f = json_object_get(size, "flops_speedup");
        /* Straight lines between points 1/250 apart in the logarithm: an error below 1e-5. The mean
         * of three with sample deviation 0.01: 4.303 x 0.01 / sqrt(3). */
        near(f, "value", speedup[w], 2e-5);
        near(f, "low", speedup[w] * exp(-4.303 * 0.01 / sqrt(3)), 1e-4);
        near(f, "high", speedup[w] * exp(4.303 * 0.01 / sqrt(3)), 1e-4);
        near(json_object_get(size, "time_speedup"), "value", speedup[w] / 1.2, 2e-5);
        near(size, "pairs", 3, 0);
        near(size, "clipped", 0, 0);
    }
    /* ln 1.25, ln 1.5, ln 1.8 on 0, 1, 2: the slope is half the difference of the ends. */
    near(json_object_get(json_object_get(idea, "factor_per_tenfold_size"), "flops"), "value",
         sqrt(1.8 / 1.25), 2e-5);
    json_decref(o);
}

/* An idea worse than the baseline from its first point on is marked; a missing pair is counted. */
static void test_compare_clipped(void **state)
{
    (void)state;
    fm_err ok_err;
    const char *dir = in_dir("clipped"), *arms[] = {"baseline", "idea"};
    fm_text text = {0};
    make_plan(dir, "idea", 1, 2, arms, 2);
    write_curve(dir, "baseline-w64-s1", 1, 1, 0);
    write_curve(dir, "idea-w64-s1", 1e-4, 1, 0);
    write_curve(dir, "baseline-w64-s2", 1, 1, 0);
    OK(fm_study_compare_report(dir, &text, &ok_err));
    assert_non_null(strstr(text.data, "| width 64 | 1e+06 | 1 * | 0.003 (no interval)"));
    assert_non_null(strstr(text.data, "1 pairs are missing"));
    assert_non_null(strstr(text.data, "one size: no trend can be told"));
    fm_text_deinit(&text);
}

static int clean(void **state)
{
    (void)state;
    test_dir_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_family),      cmocka_unit_test(test_family_steps),
        cmocka_unit_test(test_laws),        cmocka_unit_test(test_makespan),
        cmocka_unit_test(test_claims_race), cmocka_unit_test(test_leases),
        cmocka_unit_test(test_children),    cmocka_unit_test(test_metrics),
        cmocka_unit_test(test_points),      cmocka_unit_test(test_bad_plans),
        cmocka_unit_test(test_compare),     cmocka_unit_test(test_compare_clipped),
    };
    return cmocka_run_group_tests(tests, NULL, clean);
}
