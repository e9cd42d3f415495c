/* Tokenizer: golden encodings of three published tokenizers, any bytes there and back, streaming
 * decode, and what bad files are told. */
#include "text_util.h"

static fm_tokenizer *deepseek;

static void compare_ids(const char *what, size_t row, const fm_ids *got, const json_t *want)
{
    if (got->n != json_array_size(want))
        fail_msg("%s row %zu: %zu ids, expected %zu", what, row, got->n, json_array_size(want));
    for (size_t i = 0; i < got->n; i++)
        if (got->data[i] != json_integer_value(json_array_get(want, i)))
            fail_msg("%s row %zu: id %zu is %d, expected %lld", what, row, i, got->data[i],
                     (long long)json_integer_value(json_array_get(want, i)));
}

/* has_plain: the file says what the encoding without added tokens is, where it differs. */
static size_t check_golden(const fm_tokenizer *t, const char *path, bool has_plain)
{
    fm_err err;
    size_t n, rows = 0;
    char *data = read_whole(path, &n), *p = data;
    for (json_t *row; (row = next_row(&p, data + n)); rows++, json_decref(row)) {
        const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids");
        const json_t *plain = json_object_get(row, "ids_plain");
        const char *s = json_string_value(text);
        size_t len = json_string_length(text);
        fm_ids got = {0};
        fm_text back = {0};
        OK(fm_tokenizer_encode(t, s, len, 0, &got, &err));
        compare_ids(path, rows, &got, ids);
        OK(fm_tokenizer_decode(t, got.data, got.n, 0, &back, &err));
        assert_int_equal(back.n, len);
        assert_memory_equal(back.data, s, len);
        got.n = back.n = 0;
        OK(fm_tokenizer_encode(t, s, len, FM_ENCODE_PLAIN, &got, &err));
        if (has_plain) compare_ids(path, rows, &got, plain ? plain : ids);
        OK(fm_tokenizer_decode(t, got.data, got.n, 0, &back, &err));
        assert_int_equal(back.n, len);
        assert_memory_equal(back.data, s, len);
        fm_ids_deinit(&got);
        fm_text_deinit(&back);
    }
    fmi_free(data);
    return rows;
}

static void test_golden_deepseek(void **state)
{
    (void)state;
    assert_int_equal(fm_tokenizer_vocab_size(deepseek), 128815);
    assert_int_equal(fm_tokenizer_bos(deepseek), 0);
    assert_int_equal(fm_tokenizer_eos(deepseek), 1);
    assert_int_equal(check_golden(deepseek, TOK_DATA "deepseek-v3/golden.jsonl", true), 250);
}

static void test_golden_gpt2(void **state)
{
    (void)state;
    fm_tokenizer *t = open_zst(TOK_DATA "gpt2/tokenizer.json.zst");
    assert_int_equal(fm_tokenizer_vocab_size(t), 50257);
    assert_int_equal(fm_tokenizer_eos(t), 50256);
    assert_int_equal(check_golden(t, TOK_DATA "gpt2/golden.jsonl", false), 150);
    fm_tokenizer_free(t);
}

static void test_golden_minimind(void **state)
{
    (void)state;
    fm_tokenizer *t = open_zst(TOK_DATA "minimind/tokenizer.json.zst");
    assert_int_equal(fm_tokenizer_vocab_size(t), 6400);
    assert_int_equal(check_golden(t, TOK_DATA "minimind/golden.jsonl", false), 150);
    fm_tokenizer_free(t);
}

static void test_added_tokens(void **state)
{
    (void)state;
    assert_true(fm_tokenizer_is_control(deepseek, 0));
    assert_true(fm_tokenizer_is_control(deepseek, 128805));
    assert_true(fm_tokenizer_is_added(deepseek, 128803));
    assert_false(fm_tokenizer_is_control(deepseek, 128803));
    assert_false(fm_tokenizer_is_added(deepseek, 128814 + 1));
    assert_int_equal(fm_tokenizer_find_added(deepseek, "<\xef\xbd\x9cUser\xef\xbd\x9c>"), 128803);
    assert_int_equal(fm_tokenizer_find_added(deepseek, "the"), -1);
}

/* A fixed sequence of bytes: the same on every machine. */
static unsigned next_random(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(*s >> 33);
}

static void test_any_bytes(void **state)
{
    (void)state;
    fm_err err;
    uint64_t seed = 7;
    for (int round = 0; round < 400; round++) {
        char buf[600];
        size_t n = next_random(&seed) % sizeof buf;
        /* Three kinds: any bytes; lead and continuation bytes mostly; runs of one byte. */
        unsigned one = next_random(&seed) & 255;
        for (size_t i = 0; i < n; i++) {
            unsigned r = next_random(&seed);
            buf[i] = (char)(round % 3 == 0 ? r : round % 3 == 1 ? 0x80 | r : r & 0x300 ? one : r);
        }
        for (unsigned flags = 0; flags < 2; flags++) {
            fm_ids ids = {0};
            fm_text back = {0};
            OK(fm_tokenizer_encode(deepseek, buf, n, flags ? FM_ENCODE_PLAIN : 0, &ids, &err));
            OK(fm_tokenizer_decode(deepseek, ids.data, ids.n, 0, &back, &err));
            assert_int_equal(back.n, n);
            assert_memory_equal(back.data, buf, n);
            fm_ids_deinit(&ids);
            fm_text_deinit(&back);
        }
    }
}

/* A long piece goes through the heap, its parts through the scan: joined by hand they must agree
 * where no merge crosses. Here: a long run of one letter, against the same text found by brute
 * force. */
static void test_long_piece(void **state)
{
    (void)state;
    fm_err err;
    size_t n = 300000;
    char *s = fmi_alloc(n);
    uint64_t seed = 3;
    for (size_t i = 0; i < n; i++) s[i] = (char)('a' + next_random(&seed) % 3);
    fm_ids ids = {0};
    fm_text back = {0};
    OK(fm_tokenizer_encode(deepseek, s, n, 0, &ids, &err));
    OK(fm_tokenizer_decode(deepseek, ids.data, ids.n, 0, &back, &err));
    assert_int_equal(back.n, n);
    assert_memory_equal(back.data, s, n);
    assert_true(ids.n < n);
    /* No two neighbours are left that merge into a token with a rank: encoding a pair of neighbours
     * on its own may only merge differently if it gives the same two ids back. */
    for (size_t i = 0; i + 1 < 400; i++) {
        size_t la, lb;
        const char *a = fm_tokenizer_token_bytes(deepseek, ids.data[i], &la);
        const char *b = fm_tokenizer_token_bytes(deepseek, ids.data[i + 1], &lb);
        char pair[600];
        memcpy(pair, a, la);
        memcpy(pair + la, b, lb);
        fm_ids two = {0};
        OK(fm_tokenizer_encode(deepseek, pair, la + lb, 0, &two, &err));
        assert_true(two.n >= 2);
        fm_ids_deinit(&two);
    }
    fm_ids_deinit(&ids);
    fm_text_deinit(&back);
    fmi_free(s);
}

static void test_bos_flag(void **state)
{
    (void)state;
    fm_err err;
    fm_ids ids = {0};
    OK(fm_tokenizer_encode(deepseek, "Hi", 2, FM_ENCODE_BOS, &ids, &err));
    assert_int_equal(ids.data[0], 0);
    size_t n = ids.n;
    const char *with = "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>Hi";
    ids.n = 0;
    OK(fm_tokenizer_encode(deepseek, with, strlen(with), FM_ENCODE_BOS, &ids, &err));
    assert_int_equal(ids.n, n); /* exactly one */
    fm_ids_deinit(&ids);
}

static bool ends_whole(const fm_text *t)
{
    /* Valid UTF-8 through and through. */
    json_t *s = json_stringn(t->data ? t->data : "", t->n);
    bool ok = s != NULL;
    json_decref(s);
    return ok;
}

static void test_stream(void **state)
{
    (void)state;
    fm_err err;
    const char *text = "a\xf0\x9f\x95\xbf\xe1\x9f\x8a z\xcc\x88\xf0\xa0\xb1\xa3!";
    fm_ids ids = {0};
    fm_text out = {0};
    fm_detok d;
    OK(fm_tokenizer_encode(deepseek, text, strlen(text), 0, &ids, &err));
    fm_detok_init(&d, deepseek, 0);
    for (size_t i = 0; i < ids.n; i++) {
        OK(fm_detok_push(&d, ids.data[i], &out, &err));
        assert_true(ends_whole(&out));
    }
    OK(fm_detok_flush(&d, &out, &err));
    assert_string_equal(out.data, text);
    /* Half a character at the end, and bytes that are none: U+FFFD as Python's "replace" gives. */
    static const struct { const char *in, *out; } bad[] = {
        { "a\xf0\x9f\x95", "a\xef\xbf\xbd" },
        { "\xff\xfe", "\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xe1\x9f" "b", "\xef\xbf\xbd" "b" },
        { "\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd" },
        { "\xf0\x9f\x95\xf0\x9f\x95\xbf", "\xef\xbf\xbd\xf0\x9f\x95\xbf" },
    };
    for (size_t k = 0; k < sizeof bad / sizeof *bad; k++) {
        ids.n = out.n = 0;
        OK(fm_tokenizer_encode(deepseek, bad[k].in, strlen(bad[k].in), 0, &ids, &err));
        fm_detok_init(&d, deepseek, 0);
        for (size_t i = 0; i < ids.n; i++) OK(fm_detok_push(&d, ids.data[i], &out, &err));
        OK(fm_detok_flush(&d, &out, &err));
        assert_string_equal(out.data, bad[k].out);
    }
    assert_int_equal(fm_detok_push(&d, 129000, &out, &err), FM_E_RANGE);
    fm_ids_deinit(&ids);
    fm_text_deinit(&out);
}

static void test_decode_errors(void **state)
{
    (void)state;
    fm_err err;
    fm_text out = {0};
    int32_t ids[3] = { 5, 128815, 6 };
    assert_int_equal(fm_tokenizer_decode(deepseek, ids, 3, 0, &out, &err), FM_E_RANGE);
    assert_non_null(strstr(err.text, "128815"));
    assert_non_null(strstr(err.text, "index 1"));
    assert_int_equal(out.n, 0);
    ids[1] = 1;
    OK(fm_tokenizer_decode(deepseek, ids, 3, FM_DECODE_SKIP_CONTROL, &out, &err));
    fm_text all = {0};
    OK(fm_tokenizer_decode(deepseek, ids, 3, 0, &all, &err));
    assert_true(all.n > out.n);
    fm_text_deinit(&out);
    fm_text_deinit(&all);
}

/* A tokenizer of the 256 bytes with holes to fill: printf-style. */
static char *small_json(const char *vocab, const char *merges, const char *added, const char *more)
{
    char *v = fmi_strdup("");
    for (unsigned b = 0; b < 256; b++) {
        unsigned c = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b != 0xad) ? b
                     : b <= 0x20 ? 0x100 + b : b <= 0xa0 ? 0x121 + b - 0x7f : 0x143;
        char *w = fmi_format("%s\"\\u%04x\":%u,", v, c, b);
        fmi_free(v);
        v = w;
    }
    char *out =
        fmi_format("{\"added_tokens\":[%s],\"normalizer\":null,\"pre_tokenizer\":{\"type\":"
                   "\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
                   "%s\"model\":{\"type\":\"BPE\",\"vocab\":{%s%s},\"merges\":[%s]}}",
                   added, more, v, vocab, merges);
    fmi_free(v);
    return out;
}

static void expect_refused(char *json, fm_status want, const char *a, const char *b)
{
    fm_err err = {0};
    fm_tokenizer *t = NULL;
    fm_status st = fm_tokenizer_parse(json, strlen(json), "x/tokenizer.json", &t, &err);
    if (st != want) fail_msg("status %d, expected %d: %s", st, want, err.text);
    assert_null(t);
    if (!strstr(err.text, "x/tokenizer.json") || !strstr(err.text, a) || !strstr(err.text, b))
        fail_msg("message \"%s\" lacks \"%s\" or \"%s\"", err.text, a, b);
    fmi_free(json);
}

static void test_bad_files(void **state)
{
    (void)state;
    const char *ab = "\"ab\":256";
    expect_refused(small_json(ab, "\"a b\",\"a q7\"", "", ""), FM_E_FORMAT, "merges[1]", "q7");
    expect_refused(small_json(ab, "\"a b\",\"b c\"", "", ""), FM_E_FORMAT, "merges[1]", "\"bc\"");
    expect_refused(small_json(ab, "\"ab\"", "", ""), FM_E_FORMAT, "merges[0]", "\"ab\"");
    expect_refused(small_json(ab, "[\"a\"]", "", ""), FM_E_FORMAT, "merges[0]", "pair");
    expect_refused(small_json("\"ab\":97", "", "", ""), FM_E_FORMAT, "97", "\"ab\"");
    expect_refused(small_json("\"ab\":-1", "", "", ""), FM_E_FORMAT, "-1", "\"ab\"");
    expect_refused(small_json("\"ab\":99999999", "", "", ""), FM_E_FORMAT, "99999999", "\"ab\"");
    expect_refused(small_json("\"ab\":\"x\"", "", "", ""), FM_E_FORMAT, "integer", "\"ab\"");
    expect_refused(small_json("\"a\":300", "", "", ""), FM_E_FORMAT, "duplicate", "");
    expect_refused(small_json(ab, "", "{\"id\":256,\"content\":\"<x>\"}", ""), FM_E_FORMAT, "<x>",
                   "256");
    expect_refused(
        small_json(ab, "", "{\"id\":300,\"content\":\"<x>\"},{\"id\":301,\"content\":\"<x>\"}", ""),
        FM_E_FORMAT, "<x>", "301");
    expect_refused(fmi_strdup("{\"model\":{\"type\":\"WordPiece\",\"vocab\":{}}}"),
                   FM_E_UNSUPPORTED, "WordPiece", "model.type");
    static const char *const off[] = {"single_word", "lstrip", "rstrip"};
    for (int i = 0; i < 3; i++) {
        char *added = fmi_format("{\"id\":300,\"content\":\"<x>\",\"%s\":true}", off[i]);
        expect_refused(small_json(ab, "", added, ""), FM_E_UNSUPPORTED, "<x>", off[i]);
        fmi_free(added);
    }
    static const char *const model[][2] = {{"dropout", "0.1"},
                                           {"byte_fallback", "true"},
                                           {"continuing_subword_prefix", "\"##\""},
                                           {"end_of_word_suffix", "\"</w>\""}};
    for (int i = 0; i < 4; i++)
        expect_refused(fmi_format("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[],"
                                  "\"%s\":%s}}", model[i][0], model[i][1]),
                       FM_E_UNSUPPORTED, model[i][0], "model.");
    expect_refused(fmi_strdup("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},"
                              "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":true}}"),
                   FM_E_UNSUPPORTED, "add_prefix_space", "pre_tokenizer");
    expect_refused(fmi_strdup("{\"added_tokens\":[]}"), FM_E_FORMAT, "model", "");
    expect_refused(
        fmi_strdup("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"normalizer\":"
                   "{\"type\":\"NFC\"}}"),
        FM_E_UNSUPPORTED, "NFC", "normalizer");
    expect_refused(
        fmi_strdup(
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":"
            "{\"type\":\"Metaspace\"}}"),
        FM_E_UNSUPPORTED, "Metaspace", "pre_tokenizer");
    expect_refused(
        fmi_strdup(
            "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0},\"merges\":[]},\"pre_tokenizer\":"
            "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
            "\"a(\"},\"behavior\":\"Isolated\"}]}}"),
        FM_E_FORMAT, "pre_tokenizer[0]", "a(");
    expect_refused(fmi_strdup("{\"model\":{\"type\":\"BPE\",\"vocab\":{\"\xff\":0}}}"), FM_E_FORMAT,
                   "0xff", "byte");
    expect_refused(fmi_strdup("{\"model\":"), FM_E_FORMAT, "", "");
}

static void test_missing_file(void **state)
{
    (void)state;
    fm_err err = {0};
    fm_tokenizer *t = NULL;
    assert_int_equal(fm_tokenizer_open("tests/data/nowhere/tokenizer.json", &t, &err), FM_E_IO);
    assert_non_null(strstr(err.text, "tests/data/nowhere/tokenizer.json"));
    assert_null(t);
}

static void test_small_rules(void **state)
{
    (void)state;
    fm_err err;
    /* Added tokens: longest first; merges: rank before position. */
    char *json = small_json(
        "\"ab\":256,\"bc\":257,\"abc\":258,\"aa\":259", "\"b c\",\"a b\",\"a a\",\"a bc\"",
        "{\"id\":300,\"content\":\"<x\"},{\"id\":301,\"content\":\"<xy>\",\"special\":true}", "");
    fm_tokenizer *t = NULL;
    OK(fm_tokenizer_parse(json, strlen(json), "small", &t, &err));
    static const struct { const char *text; int n; int32_t ids[8]; } cases[] = {
        { "abc", 1, { 258 } },         /* b c before a b, then a bc       */
        { "abb", 2, { 256, 98 } },
        { "aaa", 2, { 259, 97 } },     /* equal ranks: leftmost           */
        { "<xy>", 1, { 301 } },        /* the longest                     */
        { "<xyz", 3, { 300, 121, 122 } },
        { "", 0, { 0 } },
    };
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        fm_ids ids = {0};
        OK(fm_tokenizer_encode(t, cases[k].text, strlen(cases[k].text), 0, &ids, &err));
        assert_int_equal(ids.n, cases[k].n);
        for (size_t i = 0; i < ids.n; i++) assert_int_equal(ids.data[i], cases[k].ids[i]);
        fm_ids_deinit(&ids);
    }
    size_t n;
    assert_null(fm_tokenizer_token_bytes(t, 299, &n)); /* a hole in the ids */
    assert_null(fm_tokenizer_token_bytes(t, -1, &n));
    uint64_t hash = fm_tokenizer_hash(t);
    fm_tokenizer_free(t);
    /* The hash follows the meaning: other merges, other hash. */
    char *other = small_json(
        "\"ab\":256,\"bc\":257,\"abc\":258,\"aa\":259", "\"a b\",\"b c\",\"a a\",\"a bc\"",
        "{\"id\":300,\"content\":\"<x\"},{\"id\":301,\"content\":\"<xy>\",\"special\":true}", "");
    OK(fm_tokenizer_parse(other, strlen(other), "small", &t, &err));
    assert_true(hash != fm_tokenizer_hash(t));
    fm_tokenizer_free(t);
    fmi_free(json);
    fmi_free(other);
}

/* Every allocation fails once: an error comes back, nothing leaks (seen under ASan), nothing
 * crashes. */
static void test_out_of_memory(void **state)
{
    (void)state;
    char *json = small_json("\"ab\":256", "\"a b\"", "{\"id\":300,\"content\":\"<x>\"}", "");
    int refused = 0;
    for (int64_t n = 1; n < 2000; n += n < 60 ? 1 : 37) {
        fm_err err;
        fm_tokenizer *t = NULL;
        fm_ids ids = {0};
        fmi_alloc_fail_after(n);
        fm_status st = fm_tokenizer_parse(json, strlen(json), "small", &t, &err);
        if (!st) st = fm_tokenizer_encode(t, "abab<x>", 7, 0, &ids, &err);
        fmi_alloc_fail_after(0);
        if (st) {
            assert_int_equal(ids.n, 0);
            refused++;
        }
        fm_tokenizer_free(t);
        fm_ids_deinit(&ids);
    }
    assert_true(refused > 20);
    fmi_free(json);
}

static int setup(void **state)
{
    (void)state;
    deepseek = open_zst(TOK_DATA "deepseek-v3/tokenizer.json.zst");
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fm_tokenizer_free(deepseek);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_deepseek), cmocka_unit_test(test_golden_gpt2),
        cmocka_unit_test(test_golden_minimind), cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_any_bytes),       cmocka_unit_test(test_long_piece),
        cmocka_unit_test(test_bos_flag),        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_decode_errors),   cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_missing_file),    cmocka_unit_test(test_small_rules),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
