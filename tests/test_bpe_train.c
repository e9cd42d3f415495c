/* The BPE trainer against a plain reference that counts everything anew for each merge; exact size,
 * independence of order, round trips, and refusals. */
#include "text_util.h"

#include "text/words.h"

static const char *const texts[] = {
    "the cat sat on the mat, the fat cat that sat. 2024 was 20 years and 4 days\n\n",
    "She said: \"don't!\" aaaa aaa aaaaaaa abababab; abab\tab  ab   ab\n",
    "\xe4\xbd\xa0\xe5\xa5\xbd\xe4\xbd\xa0\xe5\xa5\xbd\xef\xbc\x8c\xe4\xb8\x96\xe7\x95\x8c "
    "\xf0\x9f\x98\x80\xf0\x9f\x98\x80 caf\xc3\xa9 caf\xc3\xa9",
    "bytes \xff\xfe that are no text, and then \xc3 half",
};

/* The same rule without any cleverness. rows hold token ids; out gets (left, right) per merge. */
static size_t slow_learn(const fmi_words *w, size_t n_merges, int32_t (*out)[2])
{
    enum { ROW = 128, TOKENS = 700 };
    static int32_t row[256][ROW];
    static size_t len[256];
    static char bytes[TOKENS][64];
    static size_t n_bytes[TOKENS];
    size_t n_tokens = 256, done = 0;
    assert_true(w->n <= 256);
    for (size_t i = 0; i < 256; i++) bytes[i][0] = (char)i, n_bytes[i] = 1;
    for (size_t i = 0; i < w->n; i++) {
        len[i] = w->word[i].len;
        assert_true(len[i] <= ROW);
        for (size_t k = 0; k < len[i]; k++)
            row[i][k] = (unsigned char)w->pool.data[w->word[i].begin + k];
    }
    while (done < n_merges) {
        static int64_t count[TOKENS][TOKENS];
        memset(count, 0, sizeof count);
        for (size_t i = 0; i < w->n; i++)
            for (size_t k = 0; k + 1 < len[i]; k++)
                count[row[i][k]][row[i][k + 1]] += w->word[i].count;
        int64_t best = 1;
        int32_t a = -1, b = -1;
        for (int32_t x = 0; x < (int32_t)n_tokens; x++)
            for (int32_t y = 0; y < (int32_t)n_tokens; y++)
                if (count[x][y] > best) best = count[x][y], a = x, b = y;
        if (a < 0) break;
        char joined[128];
        memcpy(joined, bytes[a], n_bytes[a]);
        memcpy(joined + n_bytes[a], bytes[b], n_bytes[b]);
        size_t n = n_bytes[a] + n_bytes[b], id = 0;
        assert_true(n <= 64 && n_tokens < TOKENS);
        while (id < n_tokens && !(n_bytes[id] == n && !memcmp(bytes[id], joined, n))) id++;
        if (id == n_tokens) memcpy(bytes[id], joined, n), n_bytes[n_tokens++] = n;
        bool again = false;
        for (size_t k = 0; k < done; k++) again |= out[k][0] == a && out[k][1] == b;
        if (!again) out[done][0] = a, out[done++][1] = b;
        for (size_t i = 0; i < w->n; i++) {
            size_t m = 0;
            for (size_t k = 0; k < len[i]; m++) {
                bool join = k + 1 < len[i] && row[i][k] == a && row[i][k + 1] == b;
                row[i][m] = join ? (int32_t)id : row[i][k];
                k += join ? 2 : 1;
            }
            len[i] = m;
        }
    }
    return done;
}

static void compare_with_slow(const char *const *word, const int64_t *count, size_t n,
                              size_t n_tokens)
{
    fm_err err;
    fmi_words w = {0};
    fmi_bpe_model m = {0};
    static int32_t want[500][2];
    for (size_t i = 0; i < n; i++) OK(fmi_words_push(&w, word[i], strlen(word[i]), count[i], &err));
    OK(fmi_bpe_learn(&w, n_tokens, &m, &err));
    size_t k = slow_learn(&w, m.n_merges, want);
    assert_int_equal(k, m.n_merges);
    for (size_t i = 0; i < k; i++) {
        assert_int_equal(m.merge[i][0], want[i][0]);
        assert_int_equal(m.merge[i][1], want[i][1]);
    }
    assert_true(m.n_tokens <= n_tokens);
    fmi_bpe_model_deinit(&m);
    fmi_words_deinit(&w);
}

static void test_against_slow(void **state)
{
    (void)state;
    static const char *const word[] = { "the",         " the",      " cat",     " sat",
                                        "aaaaaaa",     "aaaa",      "abababab", "abab",
                                        "ba",          " that",     " hat",     " mat",
                                        "mississippi", "abcabcabd", "bcabca",   "cabc" };
    static const int64_t count[] = { 5, 9, 4, 4, 3, 2, 6, 2, 7, 3, 3, 2, 2, 4, 3, 2 };
    compare_with_slow(word, count, 16, 256 + 60);
    /* Random words over three letters: ties and equal strings by two ways come up. */
    uint64_t seed = 11;
    for (int round = 0; round < 12; round++) {
        char text[60][12];
        const char *list[60];
        int64_t times[60];
        for (int i = 0; i < 60; i++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            int n = 2 + (int)(seed >> 40) % 9;
            for (int k = 0; k < n; k++) {
                seed = seed * 6364136223846793005u + 1442695040888963407u;
                text[i][k] = (char)('a' + (seed >> 40) % 3);
            }
            text[i][n] = 0;
            list[i] = text[i];
            times[i] = 1 + (int64_t)(seed >> 50) % 6;
        }
        compare_with_slow(list, times, 60, 256 + 80);
    }
}

static char *train(const char *dir, const char *name, int32_t vocab, const int *order, int n,
                   fm_bpe_report *r)
{
    fm_err err;
    fm_bpe_trainer *t = NULL;
    OK(fm_bpe_trainer_new(&t, &err));
    for (int i = 0; i < n; i++)
        OK(fm_bpe_trainer_push(t, texts[order[i]], strlen(texts[order[i]]), 2, &err));
    char *out = fmi_path_join(dir, name);
    OK(fm_bpe_trainer_run(t, vocab, out, r, &err));
    assert_int_equal(fm_bpe_trainer_run(t, vocab, out, r, &err), FM_E_STATE);
    fm_bpe_trainer_free(t);
    return out;
}

static void test_exact_size_and_order(void **state)
{
    (void)state;
    fm_err err;
    fm_bpe_report r;
    char *dir = temp_dir();
    static const int32_t sizes[] = { 273, 274, 320, 4096 };
    for (int k = 0; k < 4; k++) {
        char *a = train(dir, "a", sizes[k], (const int[]){ 0, 1, 2, 3 }, 4, &r);
        char *b = train(dir, "b", sizes[k], (const int[]){ 3, 1, 0, 2 }, 4, &r);
        size_t na, nb;
        char *fa = fmi_path_join(a, "tokenizer.json"), *fb = fmi_path_join(b, "tokenizer.json");
        char *ja = read_whole(fa, &na), *jb = read_whole(fb, &nb);
        assert_int_equal(na, nb);
        assert_memory_equal(ja, jb, na);
        fm_tokenizer *t = NULL;
        OK(fm_tokenizer_open(a, &t, &err));
        assert_int_equal(fm_tokenizer_vocab_size(t), sizes[k]);
        assert_int_equal(fm_tokenizer_bos(t), 0);
        assert_int_equal(fm_tokenizer_eos(t), 1);
        assert_int_equal(fm_tokenizer_pad(t), 2);
        assert_true(k < 3 || r.n_spare > 0);
        for (int32_t id = 0; id < sizes[k]; id++) { /* no holes */
            size_t n;
            assert_non_null(fm_tokenizer_token_bytes(t, id, &n));
        }
        assert_int_equal(fm_tokenizer_find_added(t, "</think>"), sizes[k] - 11);
        fm_tokenizer_free(t);
        fmi_free(a), fmi_free(b), fmi_free(fa), fmi_free(fb), fmi_free(ja), fmi_free(jb);
    }
    drop_dir(dir);
}

static void test_round_trip_and_digits(void **state)
{
    (void)state;
    fm_err err;
    char *dir = temp_dir(), *a = train(dir, "a", 400, (const int[]){ 0, 1, 2, 3 }, 4, NULL);
    fm_tokenizer *t = NULL;
    OK(fm_tokenizer_open(a, &t, &err));
    for (int i = 0; i < 4; i++) {
        fm_ids ids = {0};
        fm_text back = {0};
        OK(fm_tokenizer_encode(t, texts[i], strlen(texts[i]), 0, &ids, &err));
        assert_true(ids.n < strlen(texts[i]));
        OK(fm_tokenizer_decode(t, ids.data, ids.n, 0, &back, &err));
        assert_int_equal(back.n, strlen(texts[i]));
        assert_memory_equal(back.data, texts[i], back.n);
        fm_ids_deinit(&ids);
        fm_text_deinit(&back);
    }
    /* No token holds two digits, none joins a digit with anything. */
    for (int32_t id = 259; id < 400 - 14; id++) {
        size_t n;
        const char *s = fm_tokenizer_token_bytes(t, id, &n);
        if (fm_tokenizer_is_added(t, id)) continue;
        for (size_t k = 0; k < n; k++) assert_false(n > 1 && s[k] >= '0' && s[k] <= '9');
    }
    const char *chat = fm_tokenizer_chat_template(t);
    assert_non_null(chat);
    assert_non_null(strstr(chat, "split('</think>', 1)"));
    fm_tokenizer_free(t);
    fmi_free(a);
    drop_dir(dir);
}

static void test_refusals(void **state)
{
    (void)state;
    fm_err err;
    fm_bpe_trainer *t = NULL;
    OK(fm_bpe_trainer_new(&t, &err));
    assert_int_equal(fm_bpe_trainer_run(t, 400, "nowhere", NULL, &err), FM_E_STATE);
    OK(fm_bpe_trainer_push(t, "a", 1, 1, &err));
    assert_int_equal(fm_bpe_trainer_run(t, 272, "nowhere", NULL, &err), FM_E_RANGE);
    assert_non_null(strstr(err.text, "272"));
    assert_int_equal(fm_bpe_trainer_push(t, "a", 1, 0, &err), FM_E_RANGE);
    assert_false(fmi_path_exists("nowhere"));
    fm_bpe_trainer_free(t);
}

/* One enormous piece: bounded work, no crash. */
static void test_one_long_piece(void **state)
{
    (void)state;
    fm_err err;
    fm_bpe_report r;
    size_t n = 400000;
    char *dir = temp_dir(), *s = fmi_alloc(n);
    memset(s, 'a', n);
    fm_bpe_trainer *t = NULL;
    OK(fm_bpe_trainer_new(&t, &err));
    OK(fm_bpe_trainer_push(t, s, n, 1, &err));
    OK(fm_bpe_trainer_run(t, 1000, dir, &r, &err));
    assert_in_range(r.n_merges, 10, 30); /* doublings of a 4,096-byte part, and of its remainder */
    fm_bpe_trainer_free(t);
    fmi_free(s);
    drop_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_slow),          cmocka_unit_test(test_exact_size_and_order),
        cmocka_unit_test(test_round_trip_and_digits), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_one_long_piece),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
