/* Sessions: greedy continuations against PyTorch, the same bytes alone, in a batch, in chunks, with
 * drafting on and off; one read a decode step and no heap call; stops, errors, forks; all of it on
 * the fence device too. */
#include "infer/draft_auto.h"
#include "support.h"

#include "fathom/session.h"
#include "infer/session.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "model/model.h"

static fm_err ok_err;
static const char *const variants[] = {"v3", "v3-yarn", "v3-noqlora-tied-shapes", "v3-mtp",
                                       "v3-fp8", "v2-lite", "v2"};
#define N_VARIANTS (sizeof variants / sizeof *variants)
#define ANSWER_MAX 256

typedef struct answer {
    int32_t id[ANSWER_MAX];
    float logprob[ANSWER_MAX];
    int n;
    char text[4 * 4096];
    size_t n_text;
    int stop_after;                 /* tokens until the callback says stop; 0: never */
    fm_exec *x;                     /* counts per token when given */
    int64_t reads[ANSWER_MAX], heap[ANSWER_MAX];
} answer;

typedef struct machine {
    fm_exec *x;
    fm_model *m;
} machine;

static bool on_piece(void *arg, const fm_piece *p)
{
    answer *a = arg;
    assert_true(a->n_text + p->n < sizeof a->text);
    if (p->n) memcpy(a->text + a->n_text, p->text, p->n);
    a->n_text += p->n;
    if (p->id < 0) return true;
    assert_true(a->n < ANSWER_MAX);
    if (a->x) {
        a->reads[a->n] = fm_read_count(a->x);
        a->heap[a->n] = fmi_alloc_calls();
    }
    a->id[a->n] = p->id;
    a->logprob[a->n++] = p->logprob;
    return a->stop_after == 0 || a->n < a->stop_after;
}

static machine machine_open(const char *device, const char *variant, fm_dtype precision,
                            bool absorbed)
{
    machine k = {0};
    char dir[128];
    snprintf(dir, sizeof dir, "tests/data/reference/%s", variant);
    OK(fm_context_open(device, NULL, 2, &k.x, &ok_err));
    fm_model_opts o = {.precision = precision, .absorbed = absorbed};
    OK(fm_model_open(k.x, dir, &o, &k.m, &ok_err));
    return k;
}

static void machine_close(machine *k)
{
    fm_model_close(k->m);
    fm_context_close(k->x);
}

static fm_session *session(machine *k, const fm_session_opts *o)
{
    fm_session *s = NULL;
    OK(fm_session_open(k->m, NULL, o, &s, &ok_err));
    return s;
}

static int ids_of(const char *path, const char *key, int32_t *out, int cap)
{
    json_t *j = NULL, *a = NULL;
    OK(fmi_json_load(path, 1 << 20, &j, &ok_err));
    OK(fmi_json_get_array(j, path, key, &a, &ok_err));
    int n = (int)json_array_size(a);
    assert_true(n > 0 && n <= cap);
    for (int i = 0; i < n; i++) out[i] = (int32_t)json_integer_value(json_array_get(a, (size_t)i));
    json_decref(j);
    return n;
}

static int greedy_of(const char *variant, const char *key, int32_t *out, int cap)
{
    char path[160];
    snprintf(path, sizeof path, "tests/data/reference/%s/meta.json", variant);
    return ids_of(path, key, out, cap);
}

static void run(fm_session *s, int seq, const int32_t *prompt, int n, fm_generate_opts o,
                answer *a)
{
    fm_generated g;
    a->n = 0;
    a->n_text = 0;
    o.fn = on_piece;
    o.arg = a;
    OK(fm_session_truncate(s, seq, 0, &ok_err));
    OK(fm_session_push_ids(s, seq, prompt, (size_t)n, &ok_err));
    OK(fm_session_generate(s, seq, &o, &g, &ok_err));
    assert_int_equal(g.n_tokens, a->n);
}

static void same(const answer *a, const answer *b)
{
    assert_int_equal(a->n, b->n);
    assert_memory_equal(a->id, b->id, (size_t)a->n * sizeof *a->id);
    assert_memory_equal(a->logprob, b->logprob, (size_t)a->n * sizeof *a->logprob);
}

/* meta.json's continuation was made by transformers' generate with pad_token_id 0 and no attention
 * mask: it hid the prompt's first token (id 0) as padding. What it continues is the prompt from its
 * second token on; positions are relative, so that is the whole difference. */
static void greedy_variant(const char *device, const char *variant, bool absorbed, int64_t chunk)
{
    int32_t prompt[64], want[ANSWER_MAX];
    answer a = {0};
    int n = greedy_of(variant, "greedy_prompt", prompt, 64);
    int k = greedy_of(variant, "greedy", want, ANSWER_MAX);
    machine mc = machine_open(device, variant, FM_DTYPE_F32, absorbed);
    fm_session *s = session(&mc, &(fm_session_opts){.context_max = 128, .chunk = chunk});
    assert_int_equal(prompt[0], 0);
    run(s, 0, prompt + 1, n - 1, (fm_generate_opts){.tokens_max = k, .ignore_eos = true}, &a);
    for (int i = 0; i < k; i++)
        if (a.id[i] != want[i])
            fail_msg("%s %s chunk %d: token %d is %d, PyTorch has %d", variant,
                     absorbed ? "absorbed" : "expanded", (int)chunk, i, a.id[i], want[i]);
    fm_session_close(s);
    machine_close(&mc);
}

/* The whole prompt, against transformers with an attention mask of ones (not for v3-fp8, which it
 * cannot open here). */
static void test_greedy_whole(void **state)
{
    (void)state;
    for (size_t v = 0; v < N_VARIANTS; v++) {
        int32_t prompt[64], want[ANSWER_MAX];
        answer a = {0};
        if (!strcmp(variants[v], "v3-fp8")) continue;
        int n = greedy_of(variants[v], "greedy_prompt", prompt, 64);
        int k = ids_of("tests/data/greedy/full_prompt.json", variants[v], want, ANSWER_MAX);
        machine mc = machine_open("cpu", variants[v], FM_DTYPE_F32, v & 1);
        fm_session *s = session(&mc, NULL);
        run(s, 0, prompt, n, (fm_generate_opts){.tokens_max = k, .ignore_eos = true}, &a);
        assert_memory_equal(a.id, want, sizeof *want * (size_t)k);
        fm_session_close(s);
        machine_close(&mc);
    }
}

static void test_greedy(void **state)
{
    (void)state;
    static const int64_t chunks[] = {1, 7, 0};
    for (size_t v = 0; v < N_VARIANTS; v++)
        for (int absorbed = 0; absorbed < 2; absorbed++)
            for (int c = 0; c < 3; c++) greedy_variant("cpu", variants[v], absorbed, chunks[c]);
}

static void test_greedy_fence(void **state)
{
    (void)state;
    for (size_t v = 0; v < N_VARIANTS; v++) greedy_variant("fence", variants[v], v & 1, 7);
}

/* Three prompts of unlike lengths, each alone in one chunk; then together, in chunks of 7. */
static void batch_case(const char *device, fm_dtype precision, bool absorbed, fm_draft draft)
{
    int32_t prompt[3][70];
    static const int length[3] = {5, 70, 1};
    static const int seqs[3] = {2, 0, 1};
    answer alone[3] = {0}, batch[3] = {0};
    fm_generate_opts o[3];
    fm_generated g[3];
    machine mc = machine_open(device, "v3-mtp", precision, absorbed);
    fm_session *one = session(&mc, &(fm_session_opts){.context_max = 160, .draft = draft});
    fm_session *many = session(&mc, &(fm_session_opts){.context_max = 160, .draft = draft,
                                                      .sequences = 3, .chunk = 7});
    for (int i = 0; i < 3; i++) {
        for (int j = 0; j < length[i]; j++) prompt[i][j] = (i * 31 + j * j * 7 + j) % 320;
        o[i] = (fm_generate_opts){.tokens_max = 20 + 4 * i, .temperature = i == 1 ? 0 : 0.9,
                                  .seed = 11, .choice = (uint32_t)i, .ignore_eos = true,
                                  .repetition_penalty = i == 2 ? 1.3 : 1};
        run(one, 0, prompt[i], length[i], o[i], &alone[i]);
        o[i].fn = on_piece;
        o[i].arg = &batch[i];
        OK(fm_session_push_ids(many, seqs[i], prompt[i], (size_t)length[i], &ok_err));
    }
    OK(fm_session_generate_batch(many, 3, seqs, o, g, &ok_err));
    for (int i = 0; i < 3; i++) same(&alone[i], &batch[i]);
    fm_session_close(many);
    fm_session_close(one);
    machine_close(&mc);
}

static void test_batch(void **state)
{
    (void)state;
    for (int absorbed = 0; absorbed < 2; absorbed++)
        for (int bf16 = 0; bf16 < 2; bf16++)
            for (int draft = 0; draft < 2; draft++)
                batch_case("cpu", bf16 ? FM_DTYPE_BF16 : FM_DTYPE_F32, absorbed,
                           draft ? FM_DRAFT_MTP : FM_DRAFT_OFF);
    batch_case("fence", FM_DTYPE_F32, true, FM_DRAFT_MTP);
    batch_case("fence", FM_DTYPE_BF16, false, FM_DRAFT_MTP);
}

/* Random weights accept a draft by luck only; at a high temperature the shared noise decides, and
 * both rules agree often. */
static const fm_generate_opts draft_cases[] = {
    {.tokens_max = 60, .ignore_eos = true},
    {.tokens_max = 60, .ignore_eos = true, .temperature = 0.7, .seed = 1, .top_p = 0.9},
    {.tokens_max = 61, .ignore_eos = true, .temperature = 4, .seed = 2, .top_k = 100},
    {.tokens_max = 62, .ignore_eos = true, .temperature = 60, .seed = 3, .min_p = 0.1},
    {.tokens_max = 61, .ignore_eos = true, .temperature = 60, .seed = 4,
     .repetition_penalty = 1.5},
};
#define N_DRAFT_CASES (sizeof draft_cases / sizeof *draft_cases)

static void draft_case(const char *device, fm_dtype precision, bool absorbed, int drafts)
{
    int32_t prompt[64];
    int n = greedy_of("v3-mtp", "greedy_prompt", prompt, 64);
    machine mc = machine_open(device, "v3-mtp", precision, absorbed);
    fm_session *off = session(&mc, &(fm_session_opts){.context_max = 100});
    fm_session *on = session(&mc, &(fm_session_opts){.context_max = 100, .draft = FM_DRAFT_MTP,
                                                    .drafts = drafts});
    for (size_t c = 0; c < N_DRAFT_CASES; c++) {
        answer a = {0}, b = {0};
        fm_session_stats st;
        run(off, 0, prompt, n, draft_cases[c], &a);
        fm_session_stats_reset(on);
        run(on, 0, prompt, n, draft_cases[c], &b);
        same(&a, &b);
        fm_session_stats_get(on, &st);
        assert_true(st.drafted > 0 && st.accepted <= st.drafted);
        assert_int_equal(st.main_forwards, 1 + (b.n - 1) - st.accepted);
        if (draft_cases[c].temperature > 50) assert_true(st.accepted * 2 > st.drafted);
    }
    fm_session_close(on);
    fm_session_close(off);
    machine_close(&mc);
}

static void test_drafts(void **state)
{
    (void)state;
    draft_case("cpu", FM_DTYPE_F32, true, 1);
    draft_case("cpu", FM_DTYPE_F32, false, 3);
    draft_case("cpu", FM_DTYPE_BF16, true, 4);
    draft_case("cpu", FM_DTYPE_BF16, false, 1);
    draft_case("fence", FM_DTYPE_F32, true, 3);
    draft_case("fence", FM_DTYPE_F32, false, 1);
}

/* The draft beside the first new token is what the MTP block says without any cache: the best of
 * `fathom logits --mtp` in the row that reads that token. */
static void draft_token_case(machine *mc, int n, int64_t chunk)
{
    int32_t ids[ANSWER_MAX + 1];
    char path[128];
    fm_tensors *t = NULL;
    const fm_tensor_info *info;
    answer a = {0};
    for (int i = 0; i < n; i++) ids[i] = (i * 37 + i * i) % 320;
    fm_session *s = session(mc, &(fm_session_opts){.draft = FM_DRAFT_MTP, .chunk = chunk});
    run(s, 0, ids, n, (fm_generate_opts){.tokens_max = 1}, &a);
    ids[n] = a.id[0];
    snprintf(path, sizeof path, "%s/mtp.safetensors", test_dir());
    OK(fm_model_logits(mc->m, ids, 1, n + 1, &(fm_logits_opts){.mtp = true}, path, &ok_err));
    OK(fm_tensors_open(path, &t, &ok_err));
    OK(fm_tensors_get(t, "mtp_logits", &info, &ok_err));
    assert_int_equal(info->dims[1], n);
    const float *row = (const float *)info->data + (size_t)(n - 1) * 320;
    int best = 0;
    for (int w = 1; w < 320; w++)
        if (row[w] > row[best]) best = w;
    assert_int_equal(s->e->seq[0].draft, best);
    fm_tensors_close(t);
    fm_session_close(s);
}

static void test_draft_token(void **state)
{
    (void)state;
    static const int lengths[] = {1, 2, 40, 64, 65, 100, 130};
    for (int absorbed = 0; absorbed < 2; absorbed++) {
        machine mc = machine_open("cpu", "v3-mtp", FM_DTYPE_F32, absorbed);
        for (int i = 0; i < 7; i++) draft_token_case(&mc, lengths[i], i & 1 ? 7 : 0);
        machine_close(&mc);
    }
}

/* A context that goes on, back and on again gives the bytes of one that never did. */
static void test_turns(void **state)
{
    (void)state;
    int32_t prompt[64];
    int n = greedy_of("v3-mtp", "greedy_prompt", prompt, 64);
    const fm_generate_opts o = {.tokens_max = 70, .ignore_eos = true, .temperature = 60, .seed = 9};
    machine mc = machine_open("cpu", "v3-mtp", FM_DTYPE_F32, true);
    for (int draft = 0; draft < 3; draft++) {
        fm_session *s = session(&mc, &(fm_session_opts){.context_max = 200, .sequences = 2,
                                                       .draft = (fm_draft)draft, .chunk = 9});
        answer whole = {0}, part = {0};
        run(s, 0, prompt, n, o, &whole);
        /* stop in the middle (perhaps inside a step that accepted a draft), then go on */
        part.stop_after = 33;
        run(s, 0, prompt, n, o, &part);
        assert_int_equal(part.n, 33);
        assert_memory_equal(part.id, whole.id, sizeof *part.id * 33);
        fm_generate_opts rest = o;
        fm_generated g;
        rest.tokens_max = 20;
        rest.fn = on_piece;
        rest.arg = &part;
        part.stop_after = 0;
        OK(fm_session_generate(s, 0, &rest, &g, &ok_err));
        assert_memory_equal(part.id, whole.id, sizeof *part.id * 53);
        /* a branch in the other sequence, from inside a page both share; the first stays whole */
        OK(fm_session_fork(s, 1, 0, (size_t)n + 10, &ok_err));
        part.n = 10;
        rest.tokens_max = 43;
        OK(fm_session_generate(s, 1, &rest, &g, &ok_err));
        assert_memory_equal(part.id, whole.id, sizeof *part.id * 53);
        part.n = 53;
        rest.tokens_max = 17;
        OK(fm_session_generate(s, 0, &rest, &g, &ok_err));
        same(&part, &whole);
        fm_session_close(s);
    }
    machine_close(&mc);
}

/* AUTO switches drafting while it measures; the text stays. */
static void test_auto(void **state)
{
    (void)state;
    int32_t prompt[64];
    int n = greedy_of("v3-mtp", "greedy_prompt", prompt, 64);
    fm_generate_opts o = {.tokens_max = 120, .ignore_eos = true, .temperature = 30, .seed = 5};
    answer a = {0}, b = {0};
    machine mc = machine_open("cpu", "v3-mtp", FM_DTYPE_BF16, true);
    fm_session *off = session(&mc, NULL);
    fm_session *on = session(&mc, &(fm_session_opts){.draft = FM_DRAFT_AUTO});
    run(off, 0, prompt, n, o, &a);
    run(on, 0, prompt, n, o, &b);
    same(&a, &b);
    run(on, 0, prompt, n, o, &b);
    same(&a, &b);
    fm_session_close(on);
    fm_session_close(off);
    machine_close(&mc);
    mc = machine_open("cpu", "v3", FM_DTYPE_F32, true);
    on = session(&mc, &(fm_session_opts){.draft = FM_DRAFT_AUTO}); /* no module: plain decoding */
    run(on, 0, prompt, n, o, &b);
    fm_session_close(on);
    assert_int_equal(fm_session_open(mc.m, NULL, &(fm_session_opts){.draft = FM_DRAFT_MTP}, &on,
                                     &ok_err), FM_E_UNSUPPORTED);
    machine_close(&mc);
}

/* Seconds of `tokens` tokens under the controller, a plain step being 1: verifying costs `verify`,
 * a draft is accepted with probability p, taking drafting up again costs `again` for each token it
 * missed. */
static double play(double verify, double p, double again, int tokens, double noise, uint64_t seed)
{
    fmi_auto a = {0};
    bool on = true;
    double t = 0, missed = 0;
    for (int n = 0; n < tokens;) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        double u = (double)(seed >> 40) / (1 << 24), jitter = (double)(seed >> 8 & 0xffff) / 65536;
        bool hit = on && u < p;
        double s = (on ? verify : 1) * (1 + noise * jitter * jitter * jitter);
        n += 1 + hit;
        t += s;
        missed = on ? 0 : missed + 1;
        bool next = fmi_auto_step(&a, s, 1 + hit, 1, on);
        if (next && !on) t += again * missed;
        on = next;
    }
    return t;
}

/* Never more than 2% behind plain decoding, whatever a draft costs and however often it fails; near
 * the better of the two where drafting pays. */
static void test_auto_choice(void **state)
{
    (void)state;
    enum { TOKENS = 512, RUNS = 64 };
    for (double verify = 1.05; verify < 2.6; verify += 0.25)
        for (double p = 0; p < 0.99; p += 0.14)
            for (int noisy = 0; noisy < 2; noisy++) {
                double sum = 0, drafting = verify / (1 + p) * TOKENS;
                for (uint64_t r = 1; r <= RUNS; r++)
                    sum += play(verify, p, 0.3, TOKENS, noisy ? 0.5 : 0, r * 7919);
                double mean = sum / RUNS / (noisy ? 1 + 0.5 / 4 : 1);
                double best = drafting < TOKENS ? drafting : TOKENS;
                if (mean > 1.02 * TOKENS)
                    fail_msg("verify %g accepted %g: %g of %d", verify, p, mean, TOKENS);
                if (p > 0.6 && mean > 1.06 * best)
                    fail_msg("verify %g accepted %g: %g, best %g", verify, p, mean, best);
            }
}

static void count_case(const char *device, fm_draft draft, int drafts)
{
    int32_t prompt[64];
    int n = greedy_of("v3-mtp", "greedy_prompt", prompt, 64);
    machine mc = machine_open(device, "v3-mtp", FM_DTYPE_F32, true);
    fm_session *s = session(&mc, &(fm_session_opts){.context_max = 160, .draft = draft,
                                                   .drafts = drafts});
    answer a = {.x = mc.x};
    fm_session_stats st;
    run(s, 0, prompt, n, (fm_generate_opts){.tokens_max = 100, .ignore_eos = true,
                                            .temperature = 60, .repetition_penalty = 1.1}, &a);
    fm_session_stats_get(s, &st);
    /* prompt and first token: one step; then one read for each further step */
    assert_int_equal(st.reads, st.main_forwards);
    for (int i = 2; i < a.n; i++) {
        if (draft == FM_DRAFT_OFF) assert_int_equal(a.reads[i] - a.reads[i - 1], 1);
        assert_int_equal(a.heap[i] - a.heap[1], 0);
    }
    fm_session_close(s);
    machine_close(&mc);
}

static void test_counts(void **state)
{
    (void)state;
    count_case("cpu", FM_DRAFT_OFF, 0);
    count_case("cpu", FM_DRAFT_MTP, 1);
    count_case("cpu", FM_DRAFT_MTP, 3);
    count_case("fence", FM_DRAFT_OFF, 0);
    count_case("fence", FM_DRAFT_MTP, 2);
}

/* Scoring gives the log-probabilities the sampler recorded, and works inside a sequence. */
static void score_case(const char *device, fm_dtype precision, bool absorbed, int64_t chunk)
{
    int32_t prompt[64];
    float score[ANSWER_MAX];
    int n = greedy_of("v3-mtp", "greedy_prompt", prompt, 64);
    answer a = {0};
    machine mc = machine_open(device, "v3-mtp", precision, absorbed);
    fm_session *s = session(&mc, &(fm_session_opts){.context_max = 200, .chunk = chunk});
    run(s, 0, prompt, n, (fm_generate_opts){.tokens_max = 90, .ignore_eos = true, .temperature = 1},
        &a);
    OK(fm_session_score(s, 0, (size_t)n, score, &ok_err));
    assert_memory_equal(score, a.logprob, sizeof *score * (size_t)a.n);
    OK(fm_session_truncate(s, 0, 0, &ok_err));
    OK(fm_session_push_ids(s, 0, prompt, (size_t)n, &ok_err));
    OK(fm_session_push_ids(s, 0, a.id, (size_t)a.n, &ok_err));
    OK(fm_session_score(s, 0, 0, score, &ok_err));
    assert_memory_equal(score + n - 1, a.logprob, sizeof *score * (size_t)a.n);
    fm_session_close(s);
    machine_close(&mc);
}

static void test_score(void **state)
{
    (void)state;
    score_case("cpu", FM_DTYPE_F32, true, 0);
    score_case("cpu", FM_DTYPE_BF16, false, 13);
    score_case("fence", FM_DTYPE_BF16, true, 70);
}

static void test_errors(void **state)
{
    (void)state;
    static const int32_t ids[4] = {1, 5, 320, 7};
    static const char *const stops[1] = {"x"};
    int32_t prompt[40] = {0};
    fm_generated g;
    size_t n;
    machine mc = machine_open("cpu", "v3", FM_DTYPE_F32, true);
    fm_session *s = session(&mc, &(fm_session_opts){.context_max = 40});
    assert_int_equal(fm_session_generate(s, 0, &(fm_generate_opts){0}, &g, &ok_err), FM_E_STATE);
    assert_int_equal(fm_session_push_ids(s, 0, ids, 4, &ok_err), FM_E_RANGE);
    assert_non_null(strstr(ok_err.text, "320"));
    assert_int_equal(fm_session_push_ids(s, 0, (const int32_t[]){-1}, 1, &ok_err), FM_E_RANGE);
    fm_session_tokens(s, 0, &n);
    assert_int_equal(n, 0);
    assert_int_equal(fm_session_push_ids(s, 1, ids, 1, &ok_err), FM_E_RANGE);
    OK(fm_session_push_ids(s, 0, prompt, 30, &ok_err));
    assert_int_equal(fm_session_push_ids(s, 0, prompt, 11, &ok_err), FM_E_RANGE);
    assert_non_null(strstr(ok_err.text, "40"));
    assert_int_equal(fm_session_generate(s, 0, &(fm_generate_opts){.tokens_max = 11}, &g, &ok_err),
                     FM_E_RANGE);
    assert_int_equal(fm_session_generate(s, 0, &(fm_generate_opts){.top_p = 1.5}, &g, &ok_err),
                     FM_E_RANGE);
    assert_int_equal(fm_session_generate(s, 0, &(fm_generate_opts){.stop = stops, .n_stop = 1}, &g,
                                         &ok_err), FM_E_STATE);
    OK(fm_session_generate(s, 0, &(fm_generate_opts){.ignore_eos = true}, &g, &ok_err));
    assert_int_equal(g.stop, FM_STOP_CONTEXT);
    assert_int_equal(g.n_tokens, 10);
    OK(fm_session_generate(s, 0, &(fm_generate_opts){.ignore_eos = true}, &g, &ok_err));
    assert_int_equal(g.n_tokens, 0);
    assert_int_equal(fm_session_truncate(s, 0, 41, &ok_err), FM_E_RANGE);
    fm_session_close(s);
    assert_int_equal(fm_session_open(mc.m, NULL, &(fm_session_opts){.context_max = 257}, &s,
                                     &ok_err), FM_E_RANGE);
    machine_close(&mc);
}

/* The plan is what is taken, and running out of memory on the way leaves nothing behind. */
static void test_memory(void **state)
{
    (void)state;
    const fm_session_opts o = {.context_max = 200, .sequences = 2, .draft = FM_DRAFT_MTP};
    machine mc = machine_open("cpu", "v3-mtp", FM_DTYPE_BF16, true);
    fm_session *s = NULL;
    size_t before = fm_dev_bytes(mc.x);
    OK(fm_session_open(mc.m, NULL, &o, &s, &ok_err));
    assert_int_equal(fm_dev_bytes(mc.x) - before, fm_session_bytes(mc.m, &o));
    fm_session_close(s);
    assert_int_equal(fm_session_bytes(mc.m, &(fm_session_opts){.drafts = 9}), 0);
    fm_status st = FM_E_NOMEM;
    for (int n = 1; st; n++) {
        fmi_alloc_fail_after(n);
        st = fm_session_open(mc.m, NULL, &o, &s, &ok_err);
        fmi_alloc_fail_after(0);
        if (st) assert_int_equal(st, FM_E_NOMEM);
        if (st) assert_int_equal(fm_dev_bytes(mc.x), before);
    }
    fm_session_close(s);
    machine_close(&mc);
}

static void test_stop_ids(void **state)
{
    (void)state;
    int32_t prompt[64], want[ANSWER_MAX];
    answer a = {0};
    fm_generated g;
    int n = greedy_of("v3", "greedy_prompt", prompt, 64);
    greedy_of("v3", "greedy", want, ANSWER_MAX);
    machine mc = machine_open("cpu", "v3", FM_DTYPE_F32, true);
    fm_session *s = session(&mc, NULL);
    fm_generate_opts o = {.tokens_max = 40, .stop_ids = &want[9], .n_stop_ids = 1, .fn = on_piece,
                          .arg = &a};
    OK(fm_session_push_ids(s, 0, prompt + 1, (size_t)n - 1, &ok_err));
    OK(fm_session_generate(s, 0, &o, &g, &ok_err));
    int first = 0;
    while (want[first] != want[9]) first++;
    assert_int_equal(g.stop, FM_STOP_ID);
    assert_int_equal(a.n, first + 1);
    fm_session_close(s);
    machine_close(&mc);
}

static void scan_case(const char *const *stop, int n_stop, const char *text, const char *want)
{
    char got[256] = "", buf[256] = "";
    fmi_stopper s = {.stop = stop, .n = n_stop, .hold = {.data = buf, .cap = sizeof buf}};
    bool stopped = false;
    size_t release;
    for (const char *p = text; *p && !stopped; p++) {
        s.hold.data[s.hold.n++] = *p;
        s.hold.data[s.hold.n] = 0;
        fmi_stopper_scan(&s, false, &release, &stopped);
        strncat(got, s.hold.data, release);
        assert_memory_equal(got, want, strlen(got)); /* never past a stop string */
        fmi_stopper_drop(&s, release);
    }
    if (!stopped) {
        fmi_stopper_scan(&s, true, &release, &stopped);
        strncat(got, s.hold.data, release);
    }
    assert_string_equal(got, want);
}

static void test_stopper(void **state)
{
    (void)state;
    static const char *const a[] = {"aab"}, *const b[] = {"\n\n", "END"};
    static const char *const c[] = {"abcd", "bc"};
    scan_case(a, 1, "xaaab tail", "xa");
    scan_case(a, 1, "aaXaa", "aaXaa");
    scan_case(b, 2, "one\ntwo ENd\nEND x", "one\ntwo ENd\n");
    scan_case(b, 2, "one\n\n", "one");
    scan_case(c, 2, "zabcd", "za");
    scan_case(NULL, 0, "plain", "plain");
}

/* A tokenizer of the model's size, trained here; random weights speak in random bytes. */
static fm_tokenizer *tokenizer(void)
{
    static const char text[] = "one two three four five six seven eight nine ten, one by one.";
    fm_bpe_trainer *t = NULL;
    fm_tokenizer *tok = NULL;
    OK(fm_bpe_trainer_new(&t, &ok_err));
    OK(fm_bpe_trainer_push(t, text, sizeof text - 1, 1, &ok_err));
    OK(fm_bpe_trainer_run(t, 320, test_dir(), NULL, &ok_err));
    fm_bpe_trainer_free(t);
    OK(fm_tokenizer_open(test_dir(), &tok, &ok_err));
    return tok;
}

static void test_text(void **state)
{
    (void)state;
    fm_tokenizer *tok = tokenizer();
    machine mc = machine_open("cpu", "v3-mtp", FM_DTYPE_F32, true);
    fm_session *s = NULL;
    fm_generated g;
    OK(fm_session_open(mc.m, tok, &(fm_session_opts){.draft = FM_DRAFT_MTP}, &s, &ok_err));
    static answer whole, cut;
    fm_generate_opts o = {.tokens_max = 120, .temperature = 40, .seed = 3, .ignore_eos = true,
                          .fn = on_piece, .arg = &whole};
    whole.x = mc.x;
    OK(fm_session_push_text(s, 0, "one two", 7, FM_ENCODE_BOS, &ok_err));
    size_t n0;
    assert_int_equal(fm_session_tokens(s, 0, &n0)[0], fm_tokenizer_bos(tok));
    OK(fm_session_generate(s, 0, &o, &g, &ok_err));
    assert_int_equal(g.stop, FM_STOP_TOKENS);
    for (int i = 2; i < whole.n; i++) assert_int_equal(whole.heap[i], whole.heap[1]);
    fm_text all = {0}, stream = {0};
    OK(fm_tokenizer_decode(tok, whole.id, (size_t)whole.n, FM_DECODE_SKIP_CONTROL, &all, &ok_err));
    fm_detok d;
    fm_detok_init(&d, tok, FM_DECODE_SKIP_CONTROL);
    for (int i = 0; i < whole.n; i++) OK(fm_detok_push(&d, whole.id[i], &stream, &ok_err));
    OK(fm_detok_flush(&d, &stream, &ok_err));
    assert_int_equal(stream.n, whole.n_text);
    assert_memory_equal(stream.data, whole.text, stream.n);
    /* every ASCII pair in the text, used as a stop string, cuts right before its first place */
    for (size_t at = 8; at + 2 < whole.n_text && at < 60; at++) {
        char pair[3] = {whole.text[at], whole.text[at + 1], 0};
        if (pair[0] <= 0 || pair[1] <= 0) continue;
        const char *stop[1] = {pair};
        whole.text[whole.n_text] = 0;
        size_t first = (size_t)((char *)memmem(whole.text, whole.n_text, pair, 2) - whole.text);
        cut.n = 0;
        cut.n_text = 0;
        o.arg = &cut;
        o.stop = stop;
        o.n_stop = 1;
        OK(fm_session_truncate(s, 0, n0, &ok_err));
        OK(fm_session_generate(s, 0, &o, &g, &ok_err));
        assert_int_equal(g.stop, FM_STOP_STRING);
        assert_int_equal(cut.n_text, first);
        assert_memory_equal(cut.text, whole.text, first);
    }
    fm_text_deinit(&all);
    fm_text_deinit(&stream);
    fm_session_close(s);
    machine_close(&mc);
    fm_tokenizer_free(tok);
    test_dir_remove();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stopper),  cmocka_unit_test(test_greedy),
        cmocka_unit_test(test_greedy_fence), cmocka_unit_test(test_greedy_whole),
        cmocka_unit_test(test_batch),
        cmocka_unit_test(test_drafts),   cmocka_unit_test(test_draft_token),
        cmocka_unit_test(test_turns),
        cmocka_unit_test(test_auto),     cmocka_unit_test(test_auto_choice),
           cmocka_unit_test(test_counts),
        cmocka_unit_test(test_score),    cmocka_unit_test(test_errors),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_stop_ids), cmocka_unit_test(test_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
