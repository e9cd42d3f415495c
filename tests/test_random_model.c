/* Whole models of shapes drawn at random: answers, logits and gradients are the same bytes at every level of
 * instructions and on 1, 2 and 3 threads as on one scalar thread; answers too in any chunks, beside other
 * sequences and with drafts.
 *
 * As test_random.c: FATHOM_RANDOM_SECONDS (default 12; 3 in the shortened runs), FATHOM_RANDOM_SEED. */
#include <time.h>

#include "fathom/checkpoint.h"
#include "fathom/session.h"
#include "io/file.h"
#include "ops/ops.h"
#include "support.h"

#define ANSWER_MAX 24
#define PROMPT_MAX 200
#define SETTINGS_MAX 24

static fm_err ok_err;
static uint64_t state;

static uint64_t draw(void)
{
    uint64_t z = (state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int below(int n)
{
    return (int)(draw() % (uint64_t)n);
}

/* 1..max: small, a multiple of unit, or anything. */
static int size(int max, int unit)
{
    int n = 1 + below(max), kind = below(3);
    if (kind == 0) n = 1 + below(max < 12 ? max : 12);
    if (kind == 1) n = unit * (1 + below(max / unit));
    return n;
}

typedef struct settings {
    char text[SETTINGS_MAX][64];
    const char *list[SETTINGS_MAX];
    int n;
} settings;

static void set(settings *s, const char *key, int value)
{
    assert_true(s->n < SETTINGS_MAX);
    snprintf(s->text[s->n], sizeof s->text[0], "model.%s=%d", key, value);
    s->list[s->n] = s->text[s->n];
    s->n++;
}

/* A shape of the third or, without MTP, the second generation. */
static const char *shape(settings *s, bool *mtp)
{
    bool v2 = below(4) == 0;
    int groups = v2 ? 1 : 1 + below(3), experts = groups * (2 + below(6));
    int most = experts < 6 ? experts : 6, layers = 1 + below(3);
    s->n = 0;
    set(s, "hidden_size", below(3) ? 32 * (1 + below(5)) : size(160, 16));
    set(s, "num_hidden_layers", layers);
    set(s, "first_k_dense_replace", below(layers + 1));
    set(s, "num_attention_heads", size(20, 4));
    if (!v2) set(s, "q_lora_rank", size(96, 32));
    set(s, "kv_lora_rank", size(96, 32));
    set(s, "qk_nope_head_dim", size(64, 16));
    set(s, "qk_rope_head_dim", 2 * size(32, 16));
    set(s, "v_head_dim", size(64, 16));
    set(s, "intermediate_size", size(200, 32));
    set(s, "n_routed_experts", experts);
    set(s, "n_group", groups);
    set(s, "topk_group", groups);
    set(s, "num_experts_per_tok", 1 + below(most));
    set(s, "n_shared_experts", 1 + below(2));
    set(s, "moe_intermediate_size", size(96, 32));
    set(s, "vocab_size", 40 + size(400, 32));
    set(s, "bos_token_id", 0);
    set(s, "eos_token_id", 1);
    *mtp = !v2 && below(3) > 0;
    if (!v2) set(s, "num_nextn_predict_layers", *mtp);
    return v2 ? "v2-lite" : "nano";
}

typedef struct answer {
    int32_t id[ANSWER_MAX];
    float logprob[ANSWER_MAX];
    int n;
} answer;

static bool on_piece(void *arg, const fm_piece *p)
{
    answer *a = arg;
    if (p->id < 0) return true;
    assert_true(a->n < ANSWER_MAX);
    a->id[a->n] = p->id;
    a->logprob[a->n++] = p->logprob;
    return true;
}

typedef struct job {
    char dir[96], what[2048];
    fm_dtype precision;
    bool absorbed, mtp, recompute;
    int vocab;
    int32_t prompt[PROMPT_MAX], other[PROMPT_MAX];
    int n, n_other, tokens;
    double temperature;
} job;

static fm_model *model(const job *j, fm_exec *x, bool absorbed, bool writable)
{
    fm_model *m = NULL;
    fm_model_opts o = {.precision = j->precision, .absorbed = absorbed, .writable = writable};
    OK(fm_model_open(x, j->dir, &o, &m, &ok_err));
    return m;
}

/* The answer to the prompt, alone or beside another. */
static void answer_of(const job *j, fm_model *m, const fm_session_opts *o, answer *a)
{
    fm_session *s = NULL;
    fm_generated g[2];
    answer others = {.n = 0};
    int seqs[2] = {0, 1};
    fm_generate_opts how = {.tokens_max = j->tokens,
                            .temperature = j->temperature,
                            .seed = 5,
                            .ignore_eos = true,
                            .fn = on_piece,
                            .arg = a};
    fm_generate_opts both[2] = {how, how};
    both[1].arg = &others;
    a->n = 0;
    OK(fm_session_open(m, NULL, o, &s, &ok_err));
    OK(fm_session_push_ids(s, 0, j->prompt, (size_t)j->n, &ok_err));
    if (o->sequences > 1) {
        OK(fm_session_push_ids(s, 1, j->other, (size_t)j->n_other, &ok_err));
        OK(fm_session_generate_batch(s, 2, seqs, both, g, &ok_err));
    } else {
        OK(fm_session_generate(s, 0, &how, g, &ok_err));
    }
    fm_session_close(s);
}

/* A file of this process. */
static const char *file(const char *name, char out[128])
{
    snprintf(out, 128, "%s/%s", test_dir(), name);
    return out;
}

static void same_file(const job *j, const char *a, const char *b, const char *level, int threads)
{
    fm_map m[2];
    OK(fm_map_open(&m[0], a, &ok_err));
    OK(fm_map_open(&m[1], b, &ok_err));
    if (m[0].bytes != m[1].bytes || memcmp(m[0].data, m[1].data, m[0].bytes))
        fail_msg("%s, %d threads: %s differs [%s]", level, threads, b, j->what);
    fm_map_close(&m[0]);
    fm_map_close(&m[1]);
}

static void logits_of(const job *j, fm_model *m, int64_t chunk, const char *path)
{
    fm_logits_opts o = {.mtp = j->mtp, .chunk = chunk};
    OK(fm_model_logits(m, j->prompt, 1, j->n, &o, path, &ok_err));
}

static void gradient_of(const job *j, fm_exec *x, const char *path)
{
    fm_model *m = model(j, x, false, true);
    fm_grad_opts o = {.mtp_weight = j->mtp ? 0.3 : 0, .seq_balance = 0.01, .recompute = j->recompute};
    int rows = j->n >= 6 ? 2 : 1;
    OK(fm_model_grad(m, j->prompt, rows, j->n / rows, &o, path, &ok_err));
    fm_model_close(m);
}

/* One level and number of threads against the scalar one. */
static void check_level(const job *j, fm_isa isa, int threads, const answer *want)
{
    fm_exec *x = NULL;
    answer a;
    char path[128], first[128];
    OK(fm_context_open(NULL, fm_isa_name(isa), threads, &x, &ok_err));
    fm_model *m = model(j, x, j->absorbed, false);
    for (int i = 0; i < 3; i++) {
        fm_session_opts o = {.context_max = PROMPT_MAX + 40, .chunk = i ? 1 + below(j->n + 8) : 0,
                             .sequences = 1 + below(2), .drafts = 1 + below(4)};
        if (i && j->mtp) o.draft = below(2) ? FM_DRAFT_MTP : FM_DRAFT_AUTO;
        answer_of(j, m, &o, &a);
        if (a.n != want->n || memcmp(a.id, want->id, (size_t)a.n * 4)
            || memcmp(a.logprob, want->logprob, (size_t)a.n * 4))
            fail_msg("%s, %d threads, chunk %d, %d sequences, draft %d of %d: another answer [%s]",
                     fm_isa_name(isa), threads, (int)o.chunk, o.sequences, (int)o.draft, o.drafts, j->what);
    }
    logits_of(j, m, 0, file("logits", path));
    same_file(j, file("logits.scalar", first), path, fm_isa_name(isa), threads);
    logits_of(j, m, 1 + below(j->n), file("chunked", path));
    same_file(j, first, path, fm_isa_name(isa), threads);
    fm_model_close(m);
    gradient_of(j, x, file("grad", path));
    same_file(j, file("grad.scalar", first), path, fm_isa_name(isa), threads);
    fm_context_close(x);
}

static void check_model(job *j)
{
    fm_exec *x = NULL;
    answer want;
    char path[128];
    OK(fm_context_open(NULL, "scalar", 1, &x, &ok_err));
    fm_model *m = model(j, x, j->absorbed, false);
    j->vocab = fm_model_vocab(m);
    for (int i = 0; i < PROMPT_MAX; i++) {
        j->prompt[i] = below(j->vocab);
        j->other[i] = below(j->vocab);
    }
    answer_of(j, m, &(fm_session_opts){.context_max = PROMPT_MAX + 40}, &want);
    assert_int_equal(want.n, j->tokens);
    logits_of(j, m, 0, file("logits.scalar", path));
    fm_model_close(m);
    gradient_of(j, x, file("grad.scalar", path));
    fm_context_close(x);
    for (int isa = FM_ISA_AVX2; isa <= (int)fm_isa_detect(); isa++)
        check_level(j, (fm_isa)isa, 1 + below(3), &want);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Draws a model and what is asked of it. False: no such model. */
static bool draw_case(job *j, uint64_t seed)
{
    settings s;
    fm_shape sh;
    fm_exec *x = NULL;
    state = seed * 0x2545f4914f6cdd1du;
    const char *preset = shape(&s, &j->mtp);
    fm_init_opts o = {.shape = {.preset = preset, .set = s.list, .n_set = s.n}, .seed = seed,
                      .stored = below(3) ? FM_DTYPE_BF16 : FM_DTYPE_F32};
    int at = snprintf(j->what, sizeof j->what, "FATHOM_RANDOM_SEED=%llu, %s",
                      (unsigned long long)seed, preset);
    for (int i = 0; i < s.n; i++)
        at += snprintf(j->what + at, sizeof j->what - (size_t)at, " %s", s.list[i] + 6);
    if (fm_shape_get(&o.shape, 0, &sh, &ok_err)) return false;
    snprintf(j->dir, sizeof j->dir, "%s/model", test_dir());
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", j->dir);
    assert_int_equal(system(cmd), 0);
    OK(fm_context_open(NULL, NULL, 1, &x, &ok_err));
    OK(fm_checkpoint_init(x, &o, j->dir, &ok_err));
    fm_context_close(x);
    j->precision = o.stored == FM_DTYPE_F32 || below(4) == 0 ? FM_DTYPE_F32 : FM_DTYPE_BF16;
    j->absorbed = below(3) > 0;
    j->recompute = below(2);
    j->n = 2 + below(below(3) ? 40 : PROMPT_MAX - 2);
    j->n_other = 1 + below(60);
    j->tokens = 1 + below(ANSWER_MAX);
    j->temperature = below(2) ? 0 : 1;
    snprintf(j->what + at, sizeof j->what - (size_t)at, "; %s, absorbed %d, %d and %d tokens",
             fm_dtype_name(j->precision), j->absorbed, j->n, j->tokens);
    return true;
}

static void test_models(void **none)
{
    (void)none;
    static job j;
    const char *s = getenv("FATHOM_RANDOM_SECONDS"), *from = getenv("FATHOM_RANDOM_SEED");
    double end = now() + (s ? atof(s) : test_quick() ? 3 : 12);
    uint64_t seed = from ? strtoull(from, NULL, 0) : 1;
    int cases = 0, refused = 0;
    do
        if (draw_case(&j, seed++)) {
            check_model(&j);
            cases++;
        } else {
            refused++;
        }
    while (now() < end);
    print_message("%d models, %d shapes refused\n", cases, refused);
    if (!from) assert_true(cases > refused);
    test_dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
