/* Whole runs in process: stopped and resumed equals uninterrupted, byte for byte; checkpoints give
 * the trainer's own logits; refusals; a full disk; event files. */
#include "support.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "fathom/trainer.h"
#include "io/file.h"
#include "io/hash.h"
#include "model/forward.h"
#include "train/events.h"

static fm_err ok_err;
#define E &ok_err

static fm_exec *ctx;

static char *path_of(const char *name)
{
    static char buf[512][512]; /* never reused: a test keeps what it asked for */
    static int at;
    assert_true(at < 512);
    char *p = buf[at++];
    snprintf(p, 512, "%s/%s", test_dir(), name);
    return p;
}

/* Forty little documents with some structure. */
static void write_text(void)
{
    static const char *const who[] = { "The fox", "A crow", "The old lion", "Some mice" };
    static const char *const what[] = { "saw a grape", "found bread", "slept in the sun", "asked the moon" };
    FILE *f = fopen(path_of("text.txt"), "w");
    assert_non_null(f);
    for (int i = 0; i < 60; i++) {
        for (int k = 0; k < 5 + i % 7; k++)
            fprintf(f, "%s %s and %s. ", who[(i + k) % 4], what[(i * 3 + k) % 4], what[(i + 2 * k) % 4]);
        fprintf(f, "\n<|endoftext|>\n");
    }
    fclose(f);
}

static const char *const small[] = { "train.batch=256",   "train.micro=128", "train.saves=4",
                                     "train.evals=4",     "train.keep=100",  "train.eval_tokens=300" };

typedef struct stopper {
    fm_trainer *t;
    int64_t at;
    int samples;
} stopper;

static void stop_at(void *arg, const fm_train_progress *p)
{
    stopper *s = arg;
    if (p->step == s->at) fm_trainer_stop(s->t);
}

static fm_status on_sample(void *arg, fm_model *m, const fm_tokenizer *tok, const fm_train_progress *p,
                           fm_text *text, fm_err *err)
{
    (void)err;
    stopper *s = arg;
    assert_int_equal(fm_model_vocab(m), fm_tokenizer_vocab_size(tok));
    s->samples++;
    char *line = fmi_format("step %lld\n", (long long)p->step);
    *text = (fm_text){ line, strlen(line), strlen(line) + 1 };
    return FM_OK;
}

static fm_train_opts options(const char *out, const char *const *text)
{
    return (fm_train_opts){ .out = out, .preset = "pico", .set = small, .n_set = 6, .text = text, .n_text = 1,
                            .steps = 12, .seq = 32, .seed = 5 };
}

static fm_status train(const fm_train_opts *o, int64_t stop, stopper *s, fm_err *err)
{
    fm_train_hooks hooks = { s, stop_at, NULL, on_sample };
    fm_status st = fm_trainer_open(ctx, o, &hooks, &s->t, err);
    s->at = stop;
    if (!st) st = fm_trainer_run(s->t, &hooks, err);
    fm_trainer_free(s->t);
    s->t = NULL;
    return st;
}

static void same_file(const char *a, const char *b, const char *name)
{
    char *x, *y;
    size_t n, k;
    char pa[512], pb[512];
    snprintf(pa, sizeof pa, "%s/%s", path_of(a), name);
    snprintf(pb, sizeof pb, "%s/%s", path_of(b), name);
    OK(fmi_file_read(pa, 1 << 28, &x, &n, E));
    OK(fmi_file_read(pb, 1 << 28, &y, &k, E));
    if (n != k || memcmp(x, y, n)) fail_msg("%s and %s differ", pa, pb);
    fmi_free(x);
    fmi_free(y);
}

/* Cuts the two fields of time from every line. */
static char *metrics_without_times(const char *run)
{
    char *x, path[512];
    size_t n;
    snprintf(path, sizeof path, "%s/metrics.jsonl", path_of(run));
    OK(fmi_file_read(path, 1 << 28, &x, &n, E));
    char *to = x;
    for (char *s = x; *s;) {
        if (!strncmp(s, ",\"seconds\":", 11)) {
            while (*s && *s != '\n') s++;
            continue;
        }
        *to++ = *s++;
    }
    *to = 0;
    return x;
}

static void same_run(const char *a, const char *b)
{
    same_file(a, b, "checkpoints/12/model.safetensors");
    same_file(a, b, "checkpoints/12/trainer/optimizer.safetensors");
    same_file(a, b, "samples.txt");
    same_file(a, b, "recipe.ini");
    char *x = metrics_without_times(a), *y = metrics_without_times(b);
    assert_string_equal(x, y);
    fmi_free(x);
    fmi_free(y);
}

static void test_resume(void **state)
{
    (void)state;
    const char *text[] = { path_of("text.txt") };
    stopper s = { 0 };
    fm_train_opts a = options(path_of("whole"), text);
    OK(train(&a, -1, &s, E));
    assert_int_equal(s.samples, 4);
    fm_train_opts b = options(path_of("parts"), text);
    assert_int_equal(train(&b, 5, &s, E), FM_E_CANCELLED);
    /* A crash after step 7: what was written since step 5's checkpoint is cut off and made again. */
    assert_int_equal(train(&b, 7, &s, E), FM_E_CANCELLED);
    char path[512];
    snprintf(path, sizeof path, "%s/checkpoints/7", path_of("parts"));
    OK(fmi_tree_remove(path, E));
    OK(train(&b, -1, &s, E));
    same_run("whole", "parts");
    /* A finished run does nothing more. */
    OK(train(&b, -1, &s, E));
    same_run("whole", "parts");
}

/* The same for what optimizers add to the state; the average is a model directory of its own. */
static void test_resume_optimizers(void **state)
{
    (void)state;
    static const char *const sets[][8] = {
        { "train.batch=256", "train.micro=128", "train.saves=4", "train.keep=100", "train.evals=4",
          "train.optimizer=ademamix", "train.grokfast_lamb=2", "train.ema=0.9" },
        { "train.batch=256", "train.micro=128", "train.saves=4", "train.keep=100", "train.evals=4",
          "train.optimizer=soap", "train.soap_every=3", "train.soap_side=64" },
    };
    const char *text[] = { path_of("text.txt") };
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char name[2][32];
        for (int k = 0; k < 2; k++) {
            stopper s = { 0 };
            snprintf(name[k], sizeof name[k], "optim%zu-%d", i, k);
            fm_train_opts o = options(path_of(name[k]), text);
            o.set = sets[i];
            o.n_set = 8;
            if (k) assert_int_equal(train(&o, 5, &s, E), FM_E_CANCELLED);
            OK(train(&o, -1, &s, E));
        }
        same_run(name[0], name[1]);
        if (!i) same_file(name[0], name[1], "checkpoints/12/ema/model.safetensors");
    }
}

static void test_extend(void **state)
{
    (void)state;
    const char *text[] = { path_of("text.txt") };
    stopper s = { 0 };
    fm_train_opts a = options(path_of("extend"), text);
    a.steps = 3;
    OK(train(&a, -1, &s, E));
    fm_trainer *t;
    OK(fm_trainer_resume(ctx, path_of("extend"), 0, 512, NULL, &t, E));
    OK(fm_trainer_run(t, NULL, E));
    fm_train_progress p;
    fm_trainer_progress(t, &p);
    assert_int_equal(p.step, 5);
    fm_trainer_free(t);
    OK(fm_trainer_resume(ctx, path_of("extend"), 0.002, 0, NULL, &t, E));
    OK(fm_trainer_run(t, NULL, E));
    fm_trainer_progress(t, &p);
    assert_true(p.step >= 5);
    fm_trainer_free(t);
    assert_int_equal(fm_trainer_resume(ctx, path_of("nothing"), 0, 0, NULL, &t, E), FM_E_IO);
}

/* Takes the line `key = ..` out of a run's recipe. */
static void drop_line(const char *run, const char *key)
{
    char path[512], line[256], *out = malloc(1 << 16);
    size_t n = 0;
    snprintf(path, sizeof path, "%s/recipe.ini", run);
    FILE *f = fopen(path, "r");
    assert_true(f && out);
    out[0] = 0;
    while (fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key))) n += (size_t)snprintf(out + n, (1 << 16) - n, "%s", line);
    fclose(f);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_true(fputs(out, f) >= 0);
    fclose(f);
    free(out);
}

/* A run from before train.lr_embed goes on as it was: with one learning rate for all. */
static void test_before_lr_embed(void **state)
{
    (void)state;
    const char *set[7] = { [6] = "train.lr_embed=1" }, *text[] = { path_of("text.txt") };
    memcpy(set, small, 6 * sizeof *small);
    for (int k = 0; k < 2; k++) {
        const char *run = path_of(k ? "older" : "newer");
        stopper s = { 0 };
        fm_train_opts a = options(run, text);
        a.steps = 3;
        a.set = set;
        a.n_set = 7;
        OK(train(&a, -1, &s, E));
        if (k) drop_line(run, "lr_embed");
        fm_trainer *t;
        OK(fm_trainer_resume(ctx, run, 0, 512, NULL, &t, E));
        OK(fm_trainer_run(t, NULL, E));
        fm_trainer_free(t);
    }
    same_file("newer", "older", "checkpoints/5/model.safetensors");
}

/* What the library logged since the last time. */
static char logged[2048];

static void keep(void *arg, int level, const char *text)
{
    size_t n = strlen(logged);
    (void)arg;
    snprintf(logged + n, sizeof logged - n, "%d %s\n", level, text);
}

/* A damaged newest checkpoint is passed over for the one before, and said so. */
static void test_damaged(void **state)
{
    (void)state;
    const char *text[] = { path_of("text.txt") };
    stopper s = { 0 };
    fm_train_opts a = options(path_of("damaged"), text);
    assert_int_equal(train(&a, 7, &s, E), FM_E_CANCELLED);
    char path[512];
    snprintf(path, sizeof path, "%s/checkpoints/7/model.safetensors", path_of("damaged"));
    int fd = open(path, O_WRONLY);
    assert_true(fd >= 0 && pwrite(fd, "x", 1, 20000) == 1);
    close(fd);
    logged[0] = 0;
    fm_log_set(keep, NULL);
    OK(train(&a, -1, &s, E));
    fm_log_set(NULL, NULL);
    assert_non_null(strstr(logged, "checkpoints/7 is damaged and passed over: "));
    same_run("whole", "damaged");
}

static char *whole_file(const char *path)
{
    char *text = calloc(1, 1 << 16);
    FILE *f = fopen(path, "r");
    assert_true(text && f && fread(text, 1, (1 << 16) - 1, f) > 0);
    fclose(f);
    return text;
}

static void put_file(const char *path, char *text)
{
    FILE *f = fopen(path, "w");
    assert_true(f && fputs(text, f) >= 0 && !fclose(f));
    free(text);
}

/* Makes the checkpoint one that a program of that numerics version wrote. */
static void set_numerics(const char *checkpoint, int version)
{
    char state[600], hashes[600], hex[2][17];
    uint64_t hash[2];
    snprintf(state, sizeof state, "%s/trainer/state.json", checkpoint);
    snprintf(hashes, sizeof hashes, "%s/trainer/hashes.json", checkpoint);
    OK(fmi_hash_file(state, &hash[0], E));
    char *text = whole_file(state), *at = strstr(text, "\"numerics\"");
    assert_non_null(at);
    at[strcspn(at, "0123456789")] = (char)('0' + version);
    put_file(state, text);
    OK(fmi_hash_file(state, &hash[1], E));
    for (int i = 0; i < 2; i++) snprintf(hex[i], sizeof hex[i], "%016llx", (unsigned long long)hash[i]);
    text = whole_file(hashes);
    at = strstr(text, hex[0]);
    assert_non_null(at);
    memcpy(at, hex[1], 16);
    put_file(hashes, text);
}

/* A run of an earlier program goes on with a warning where its bits were others, and only there: version 5
 * changed Muon, 4 what bf16 rounds. */
static void test_older_numerics(void **state)
{
    (void)state;
    static const struct {
        const char *optimizer, *precision;
        int version;
        bool warned;
    } cases[] = {
        { "train.optimizer=muon", "bf16", 5, false },  { "train.optimizer=muon", "bf16", 4, true },
        { "train.optimizer=muon", "f32", 4, true },    { "train.optimizer=adamw", "bf16", 4, false },
        { "train.optimizer=adamw", "bf16", 3, true },  { "train.optimizer=adamw", "f32", 3, false },
        { "train.optimizer=adamw", "f32", 2, true },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *set[7], *text[] = { path_of("text.txt") };
        char name[32], checkpoint[512];
        memcpy(set, small, 6 * sizeof *small);
        set[6] = cases[i].optimizer;
        snprintf(name, sizeof name, "numerics-%zu", i);
        fm_train_opts a = options(path_of(name), text);
        stopper s = { 0 };
        a.steps = 2;
        a.set = set;
        a.n_set = 7;
        a.precision = cases[i].precision;
        OK(train(&a, -1, &s, E));
        snprintf(checkpoint, sizeof checkpoint, "%s/checkpoints/2", path_of(name));
        set_numerics(checkpoint, cases[i].version);
        logged[0] = 0;
        fm_log_set(keep, NULL);
        fm_trainer *t;
        OK(fm_trainer_resume(ctx, path_of(name), 0, 0, NULL, &t, E));
        fm_trainer_free(t);
        fm_log_set(NULL, NULL);
        if ((strstr(logged, "bits will differ") != NULL) != cases[i].warned)
            fail_msg("case %zu, version %d: \"%s\"", i, cases[i].version, logged);
    }
}

static void refused(const fm_train_opts *o, fm_status code, const char *words)
{
    fm_trainer *t;
    fm_err err = { 0 };
    fm_status st = fm_trainer_open(ctx, o, NULL, &t, &err);
    if (!st) fm_trainer_free(t);
    if (st != code || !strstr(err.text, words))
        fail_msg("expected %s with \"%s\", found %s: %s", fm_status_text(code), words, fm_status_text(st),
                 err.text);
}

static void test_refusals(void **state)
{
    (void)state;
    const char *text[] = { path_of("text.txt") };
    fm_train_opts o = options(path_of("whole"), text);
    o.seq = 48;
    refused(&o, FM_E_STATE, "data.seq is 32 there, 48 here");
    o = options(path_of("other"), text);
    OK(fmi_dir_make(path_of("other"), E));
    OK(fmi_file_write(path_of("other/thesis.tex"), "x", 1, E));
    refused(&o, FM_E_STATE, "thesis.tex");
    static const char recipe[] = "[train]\nlr = 0.01\nkepe = 3\n";
    OK(fmi_file_write(path_of("bad.ini"), recipe, sizeof recipe - 1, E));
    o = options(path_of("new"), text);
    o.recipe = path_of("bad.ini");
    refused(&o, FM_E_FORMAT, "line 3");
    refused(&o, FM_E_FORMAT, "train.keep?");
    o = options(path_of("new"), text);
    o.tokens = 5;
    refused(&o, FM_E_RANGE, "one stop");
    o = options(path_of("new"), text);
    o.n_text = 0;
    refused(&o, FM_E_RANGE, "no data");
    assert_false(fmi_path_exists(path_of("new")));
}

/* The checkpoint, opened again, gives the trainer's own logits byte for byte. */
static void test_checkpoint_logits(void **state)
{
    (void)state;
    fm_trainer *t;
    fm_model *m;
    char path[512];
    OK(fm_trainer_resume(ctx, path_of("whole"), 0, 0, NULL, &t, E));
    fm_model *own = fm_trainer_model(t);
    snprintf(path, sizeof path, "%s/checkpoints/12", path_of("whole"));
    OK(fm_model_open(ctx, path, &(fm_model_opts){ .precision = FM_DTYPE_BF16 }, &m, E));
    enum { N = 24 };
    int32_t host[4][N];
    void *dev;
    OK(fm_dev_alloc(ctx, sizeof host, &dev, E));
    for (int i = 0; i < N; i++) {
        host[0][i] = 20 + i;
        host[1][i] = i;
        host[2][i] = 0;
        host[3][i] = i + 1;
    }
    OK(fm_write(ctx, dev, host, sizeof host, E));
    const int32_t *d = dev;
    fm_batch b = { .T = N, .ids = d, .pos = d + N, .k_begin = d + 2 * N, .k_end = d + 3 * N };
    float *out[2];
    for (int k = 0; k < 2; k++) {
        fm_acts *a;
        fm_model *mm = k ? m : own;
        int64_t W = fm_model_vocab(mm);
        OK(fmi_acts_new(mm, &(fm_acts_opts){ .rows_max = N, .logit_rows = N }, &a, E));
        fmi_forward(mm, a, &b, NULL);
        fmi_logits(mm, a, a->h, NULL, N, a->logits);
        out[k] = malloc((size_t)(N * W) * sizeof(float));
        OK(fm_read(ctx, out[k], a->logits, (size_t)(N * W) * sizeof(float), E));
        fmi_acts_free(a);
    }
    assert_memory_equal(out[0], out[1], (size_t)(N * fm_model_vocab(m)) * sizeof(float));
    free(out[0]);
    free(out[1]);
    fm_dev_free(ctx, dev);
    fm_model_close(m);
    fm_trainer_free(t);
}

/* No room for the checkpoint: a clear error, nothing half-written, the older one stands. */
static void test_full_disk(void **state)
{
    (void)state;
    const char *text[] = { path_of("text.txt") };
    stopper s = { 0 };
    fm_train_opts o = options(path_of("full"), text);
    assert_int_equal(train(&o, 2, &s, E), FM_E_CANCELLED);
    struct rlimit old, tight = { 300000, 300000 };
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    tight.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
    fm_err err = { 0 };
    fm_status st = train(&o, -1, &s, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(st, FM_E_IO);
    assert_non_null(strstr(err.text, "older ones are intact"));
    char **names, path[512];
    int n;
    snprintf(path, sizeof path, "%s/checkpoints", path_of("full"));
    OK(fmi_dir_names(path, &names, &n, E));
    assert_int_equal(n, 1);
    assert_string_equal(names[0], "2");
    fmi_names_free(names, n);
    OK(train(&o, -1, &s, E));
    same_run("whole", "full");
}

static void test_events(void **state)
{
    (void)state;
    assert_int_equal(fmi_crc32c("123456789", 9), 0xe3069283u);
    fmi_events e;
    OK(fmi_events_open(&e, test_dir(), 3, E));
    fmi_events_begin(&e, 4);
    fmi_events_scalar(&e, "a", 1.0);
    OK(fmi_events_end(&e, E));
    fmi_events_close(&e);
    char **names, *data = NULL;
    size_t bytes = 0;
    int n, records = 0;
    OK(fmi_dir_names(test_dir(), &names, &n, E));
    for (int i = 0; i < n; i++)
        if (!strncmp(names[i], "events.out.tfevents.", 20))
            OK(fmi_file_read(path_of(names[i]), 1 << 20, &data, &bytes, E));
    fmi_names_free(names, n);
    assert_non_null(data);
    for (size_t at = 0; at < bytes; records++) {
        uint64_t len;
        uint32_t crc, want;
        memcpy(&len, data + at, 8);
        assert_true(at + 16 + len <= bytes);
        memcpy(&crc, data + at + 12 + len, 4);
        want = fmi_crc32c(data + at + 12, len);
        assert_int_equal(crc, ((want >> 15) | (want << 17)) + 0xa282ead8u);
        at += 16 + len;
    }
    assert_int_equal(records, 3); /* version, session start, scalar */
    fmi_free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_resume),    cmocka_unit_test(test_resume_optimizers),
        cmocka_unit_test(test_extend),
        cmocka_unit_test(test_before_lr_embed),
        cmocka_unit_test(test_damaged), cmocka_unit_test(test_older_numerics),
         cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_checkpoint_logits), cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_events),
    };
    if (fm_context_open(NULL, NULL, 2, &ctx, E)) return 1;
    write_text();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    test_dir_remove();
    fm_context_close(ctx);
    return failed;
}
