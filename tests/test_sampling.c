/* The distribution of sampled text with drafting: on a vocabulary of eight tokens the three tokens
 * after a prompt are drawn thousands of times and counted against the exact probabilities
 * (chi-square). The right rule passes with and without drafts; taking every draft as it comes, or a
 * temperature that is off, does not. */
#include "support.h"

#include <math.h>

#include "infer/session.h"

static fm_err ok_err;

#define W 8
#define CELLS (W * W * W)
#define DRAWS 2000

typedef struct setup {
    fm_exec *x;
    fm_model *m;
    double p[CELLS]; /* of three tokens, first the most significant */
} setup;

static const int32_t prompt[5] = {1, 2, 3, 2, 5};

/* Probabilities of the next token after n tokens, at temperature t. */
static void next(fm_session *s, const int32_t *ids, size_t n, double t, double out[W])
{
    fm_generated g;
    float logits[W];
    double sum = 0, top = -1e30;
    OK(fm_session_truncate(s, 0, 0, &ok_err));
    OK(fm_session_push_ids(s, 0, ids, n, &ok_err));
    OK(fm_session_generate(s, 0, &(fm_generate_opts){.tokens_max = 1}, &g, &ok_err));
    OK(fm_read(s->m->x, logits, s->e->acts->logits, sizeof logits, &ok_err));
    for (int i = 0; i < W; i++) top = logits[i] > top ? logits[i] : top;
    for (int i = 0; i < W; i++) sum += out[i] = exp((logits[i] - top) / t);
    for (int i = 0; i < W; i++) out[i] /= sum;
}

static void exact(setup *k, double t)
{
    fm_session *s = NULL;
    int32_t ids[8];
    double a[W], b[W], c[W];
    OK(fm_session_open(k->m, NULL, NULL, &s, &ok_err));
    memcpy(ids, prompt, sizeof prompt);
    next(s, ids, 5, t, a);
    for (int i = 0; i < W; i++) {
        ids[5] = i;
        next(s, ids, 6, t, b);
        for (int j = 0; j < W; j++) {
            ids[6] = j;
            next(s, ids, 7, t, c);
            for (int l = 0; l < W; l++) k->p[(i * W + j) * W + l] = a[i] * b[j] * c[l];
        }
    }
    fm_session_close(s);
}

/* Chi-square of counts against n * p, cells below five expected merged; is it within the 0.9999
 * quantile (Wilson and Hilferty's normal approximation)? */
static bool fits(const int *count, const double *p, int cells, int n)
{
    double chi = 0, rest_p = 0, rest_n = 0;
    int df = -1;
    for (int i = 0; i < cells; i++) {
        if (p[i] * n < 5) {
            rest_p += p[i];
            rest_n += count[i];
            continue;
        }
        double d = count[i] - p[i] * n;
        chi += d * d / (p[i] * n);
        df++;
    }
    if (rest_p * n >= 5) {
        chi += (rest_n - rest_p * n) * (rest_n - rest_p * n) / (rest_p * n);
        df++;
    }
    assert_true(df >= 7);
    double h = 2.0 / (9.0 * df), limit = df * pow(1 - h + 3.719 * sqrt(h), 3);
    return chi < limit;
}

static void open_setup(setup *k)
{
    fm_config c;
    OK(fm_context_open(NULL, NULL, 1, &k->x, &ok_err));
    OK(fmi_config_preset("pico", &c, &ok_err));
    c.vocab_size = W;
    c.bos_token_id = c.eos_token_id = c.pad_token_id = -1;
    c.initializer_range = 0.2;
    OK(fmi_config_check(&c, &ok_err));
    OK(fmi_model_new(k->x, &c, FM_DTYPE_F32, true, &k->m, &ok_err));
    OK(fmi_model_init(k->m, 3, &ok_err));
}

static void close_setup(setup *k)
{
    fm_model_close(k->m);
    fm_context_close(k->x);
}

/* Draws triples at temperature t; *wrong counts pairs of the first token and the draft beside it. */
static void draw(setup *k, fm_draft draft, double t, int *count, int *wrong, double *accepted)
{
    fm_session *s = NULL;
    fm_generated g;
    fm_session_stats st;
    size_t n;
    OK(fm_session_open(k->m, NULL, &(fm_session_opts){.draft = draft, .drafts = 2}, &s, &ok_err));
    OK(fm_session_push_ids(s, 0, prompt, 5, &ok_err));
    for (int i = 0; i < DRAWS; i++) {
        fm_generate_opts o = {.tokens_max = 3, .temperature = t, .seed = 17, .choice = (uint32_t)i};
        if (wrong) o.tokens_max = 1;
        OK(fm_session_truncate(s, 0, 5, &ok_err));
        OK(fm_session_generate(s, 0, &o, &g, &ok_err));
        const int32_t *id = fm_session_tokens(s, 0, &n) + 5;
        if (wrong)
            wrong[id[0] * W + s->e->seq[0].draft]++;
        else
            count[(id[0] * W + id[1]) * W + id[2]]++;
    }
    fm_session_stats_get(s, &st);
    *accepted = st.drafted ? (double)st.accepted / (double)st.drafted : 0;
    fm_session_close(s);
}

static void test_distribution(void **state)
{
    (void)state;
    static setup k;
    static int plain[CELLS], drafted[CELLS], cooler[CELLS];
    int taken[W * W] = {0};
    double pair[W * W] = {0}, accepted, none;
    open_setup(&k);
    exact(&k, 1);
    draw(&k, FM_DRAFT_OFF, 1, plain, NULL, &none);
    draw(&k, FM_DRAFT_MTP, 1, drafted, NULL, &accepted);
    assert_memory_equal(plain, drafted, sizeof plain);
    assert_true(accepted > 0.05 && accepted < 0.999); /* both ways are taken */
    assert_true(fits(drafted, k.p, CELLS, DRAWS));
    draw(&k, FM_DRAFT_MTP, 1, NULL, taken, &none);
    for (int i = 0; i < CELLS; i++) pair[i / W] += k.p[i];
    assert_false(fits(taken, pair, W * W, DRAWS));
    draw(&k, FM_DRAFT_OFF, 0.8, cooler, NULL, &none);
    assert_false(fits(cooler, k.p, CELLS, DRAWS));
    close_setup(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_distribution)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
