/* Chat formats: the 154 golden renderings in text and ids, recognition of templates, assistant
 * spans, and what bad requests are told. */
#include "text_util.h"

#include "fathom/chat.h"

#define DIR TOK_DATA "deepseek-v3/"
#define BOS "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define EOS "<\xef\xbd\x9c" "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"
#define HOLDER "<\xef\xbd\x9cplace\xe2\x96\x81holder\xe2\x96\x81no\xe2\x96\x81"

/* The V3 tokenizer with reserved tokens renamed as V3.1 does; `all` false: the think tokens only (R1).
 */
static fm_tokenizer *open_renamed(bool all)
{
    static const char *const to[4] = { "<\xef\xbd\x9csearch\xe2\x96\x81"
                                       "begin\xef\xbd\x9c>",
                                       "<\xef\xbd\x9csearch\xe2\x96\x81"
                                       "end\xef\xbd\x9c>",
                                       "<think>", "</think>" };
    fm_err err;
    size_t n;
    fm_tokenizer *t = NULL;
    char *json = read_whole(DIR "tokenizer.json.zst", &n);
    for (int i = all ? 0 : 2; i < 4; i++) {
        char *from = fmi_format("\"" HOLDER "79%d\xef\xbd\x9c>\"", 6 + i);
        char *at = strstr(json, from);
        assert_non_null(at);
        size_t from_n = strlen(from), to_n = strlen(to[i]);
        /* Same length in the file: spaces after the closing quote. */
        assert_true(to_n + 2 <= from_n);
        memset(at, ' ', from_n);
        at[0] = at[to_n + 1] = '"';
        memcpy(at + 1, to[i], to_n);
        fmi_free(from);
    }
    OK(fm_tokenizer_parse(json, n, "renamed", &t, &err));
    fmi_free(json);
    return t;
}

static void test_golden(void **state)
{
    (void)state;
    fm_err err;
    fm_tokenizer *v3 = open_zst(DIR "tokenizer.json.zst"), *v31 = open_renamed(true),
                 *r1 = open_renamed(false);
    size_t n, rows = 0;
    char *data = read_whole(DIR "chat-golden.jsonl", &n), *p = data;
    for (json_t *row; (row = next_row(&p, data + n)); rows++, json_decref(row)) {
        const char *name = json_string_value(json_object_get(row, "template"));
        fm_tokenizer *t = !strcmp(name, "v3") ? v3 : !strcmp(name, "r1") ? r1 : v31;
        fm_chat_format format;
        fm_text out = {0};
        fm_ids ids = {0};
        OK(fm_chat_format_get(name, &format, &err));
        char *line = json_dumps(row, JSON_COMPACT);
        OK(fm_chat_render_json(&format, BOS, line, strlen(line), "row", &out, NULL, &err));
        const json_t *text = json_object_get(row, "text"), *want = json_object_get(row, "ids");
        if (strcmp(out.data, json_string_value(text)))
            fail_msg("row %zu (%s): \"%s\"\nexpected \"%s\"", rows, name, out.data,
                     json_string_value(text));
        OK(fm_tokenizer_encode(t, out.data, out.n, 0, &ids, &err));
        assert_int_equal(ids.n, json_array_size(want));
        for (size_t i = 0; i < ids.n; i++)
            assert_int_equal(ids.data[i], json_integer_value(json_array_get(want, i)));
        free(line);
        fm_text_deinit(&out);
        fm_ids_deinit(&ids);
    }
    assert_int_equal(rows, 154);
    fmi_free(data);
    fm_tokenizer_free(v3);
    fm_tokenizer_free(v31);
    fm_tokenizer_free(r1);
}

static void test_recognise(void **state)
{
    (void)state;
    static const char *const name[3] = { "v3", "r1", "v3.1" };
    fm_err err;
    for (int i = 0; i < 3; i++) {
        char path[160];
        size_t n;
        fm_chat_format read, named;
        snprintf(path, sizeof path, DIR "chat_template_%s.jinja", name[i]);
        char *text = read_whole(path, &n);
        OK(fm_chat_format_read(text, &read, &err));
        OK(fm_chat_format_get(name[i], &named, &err));
        assert_int_equal(read.kind, named.kind);
        assert_int_equal(read.join_system, named.join_system);
        assert_int_equal(read.cut_think, named.cut_think);
        assert_int_equal(read.open_think, named.open_think);
        fmi_free(text);
    }
    fm_chat_format f;
    assert_int_equal(fm_chat_format_read("{{ messages }}", &f, &err), FM_E_UNSUPPORTED);
    assert_int_equal(fm_chat_format_read(NULL, &f, &err), FM_E_UNSUPPORTED);
    assert_int_equal(fm_chat_format_get("chatml", &f, &err), FM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "chatml"));
}

/* The config file holds the template as a JSON string. */
static void test_tokenizer_dir(void **state)
{
    (void)state;
    fm_err err;
    char *dir = temp_dir();
    size_t n;
    char *json = read_whole(DIR "tokenizer.json.zst", &n),
         *path = fmi_path_join(dir, "tokenizer.json");
    OK(fmi_file_write(path, json, n, &err));
    fmi_free(path);
    fmi_free(json);
    json = read_whole(DIR "tokenizer_config.json", &n);
    path = fmi_path_join(dir, "tokenizer_config.json");
    OK(fmi_file_write(path, json, n, &err));
    fmi_free(json);
    fm_tokenizer *t = NULL;
    OK(fm_tokenizer_open(dir, &t, &err));
    assert_int_equal(fm_tokenizer_bos(t), 0);
    assert_int_equal(fm_tokenizer_eos(t), 1);
    assert_int_equal(fm_tokenizer_pad(t), 1);
    fm_chat_format f;
    OK(fm_chat_format_read(fm_tokenizer_chat_template(t), &f, &err));
    assert_int_equal(f.kind, FM_CHAT_V3);
    assert_true(f.join_system && !f.cut_think && !f.open_think);
    fm_tokenizer_free(t);
    /* A mark the tokenizer lacks is refused by name. */
    OK(fmi_file_write(path, "{\"eos_token\": \"<nope>\"}", 23, &err));
    t = NULL;
    assert_int_equal(fm_tokenizer_open(dir, &t, &err), FM_E_FORMAT);
    assert_non_null(strstr(err.text, "<nope>"));
    assert_non_null(strstr(err.text, "eos_token"));
    assert_null(t);
    fmi_free(path);
    drop_dir(dir);
}

static void render(const char *name, const char *json, fm_text *out, fm_chat_spans *spans)
{
    fm_err err;
    fm_chat_format f;
    out->n = 0;
    OK(fm_chat_format_get(name, &f, &err));
    OK(fm_chat_render_json(&f, BOS, json, strlen(json), "t", out, spans, &err));
}

static void test_spans(void **state)
{
    (void)state;
    const char *json =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"},{\"role\":\"assistant\",\"content\":"
        "\"<think>x</think>b\"},{\"role\":\"user\",\"content\":\"c\"},{\"role\":\"assistant\","
        "\"content\":\"d\"}]}";
    static const char *const names[] = { "v3", "r1", "v3.1" };
    static const char *const first[] = { "<think>x</think>b" EOS, "b" EOS, "b" EOS };
    for (int i = 0; i < 3; i++) {
        fm_text out = {0};
        fm_chat_spans spans = {0};
        render(names[i], json, &out, &spans);
        assert_int_equal(spans.n, 2);
        size_t len = spans.span[0][1] - spans.span[0][0];
        assert_int_equal(len, strlen(first[i]));
        assert_memory_equal(out.data + spans.span[0][0], first[i], len);
        assert_int_equal(spans.span[1][1], out.n);
        assert_memory_equal(out.data + spans.span[1][0], "d" EOS, strlen("d" EOS));
        fm_text_deinit(&out);
        fm_chat_spans_deinit(&spans);
    }
}

static void test_v31_switches(void **state)
{
    (void)state;
    fm_text out = {0};
    render("v3.1",
           "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"}],\"add_generation_prompt\":true,"
           "\"enable_thinking\":true}",
           &out, NULL);
    assert_string_equal(out.data + out.n - 7, "<think>");
    render("v3.1",
           "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\","
           "\"content\":\"a\","
           "\"prefix\":true}],\"thinking\":true}",
           &out, NULL);
    assert_non_null(strstr(out.data, "<think>a"));
    /* Two thoughts: V3.1 cuts after the first, R1 after the last. */
    const char *two =
        "{\"messages\":[{\"role\":\"user\",\"content\":\"q\"},{\"role\":\"assistant\",\"content\":"
        "\"1</think>2</think>3\"}]}";
    render("v3.1", two, &out, NULL);
    assert_non_null(strstr(out.data, "</think>2</think>3"));
    render("r1", two, &out, NULL);
    assert_null(strstr(out.data, "</think>"));
    render(
        "r1",
        "{\"messages\":[{\"role\":\"system\",\"content\":\"one\"},{\"role\":\"system\",\"content\":"
        "\"two\"},{\"role\":\"user\",\"content\":\"q\"}]}",
        &out, NULL);
    assert_null(strstr(out.data, "one"));
    assert_non_null(strstr(out.data, BOS "two"));
    fm_text_deinit(&out);
}

static void test_bad_requests(void **state)
{
    (void)state;
    static const struct { const char *format, *json, *says;
    } cases[] = {
        { "v3", "{}", "messages" },
        { "v3", "{\"messages\":{}}", "messages" },
        { "v3", "{\"messages\":[1]}", "messages[0]" },
        { "v3", "{\"messages\":[{\"content\":\"x\"}]}", "messages[0].role" },
        { "v3", "{\"messages\":[{\"role\":\"robot\",\"content\":\"x\"}]}", "robot" },
        { "v3", "{\"messages\":[{\"role\":\"user\"}]}", "messages[0].content" },
        { "v3", "{\"messages\":[{\"role\":\"user\",\"content\":[]}]}", "messages[0].content" },
        { "v3.1", "{\"messages\":[{\"role\":\"assistant\",\"content\":null}]}",
          "messages[0].content" },
        { "v3", "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{}]}]}",
          "function" },
        { "v3",
          "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":"
          "\"function\","
          "\"function\":{\"name\":\"f\",\"arguments\":{}}}]}]}",
          "arguments" },
        { "v3",
          "{\"messages\":[{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{"
          "\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}]}",
          "tool_calls[0].type" },
        { "v3", "{\"messages\":[],\"add_generation_prompt\":1}", "add_generation_prompt" },
        { "v3", "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}", "0xff" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        fm_err err = {0};
        fm_chat_format f;
        fm_text out = {0};
        OK(fm_chat_format_get(cases[i].format, &f, &err));
        fm_status st = fm_chat_render_json(&f, BOS, cases[i].json, strlen(cases[i].json),
                                           "chat.jsonl: line 4", &out, NULL, &err);
        if (st != FM_E_FORMAT || !strstr(err.text, cases[i].says) ||
            !strstr(err.text, "chat.jsonl: line 4"))
            fail_msg("case %zu: status %d, \"%s\" should say \"%s\"", i, st, err.text,
                     cases[i].says);
        assert_int_equal(out.n, 0);
        fm_text_deinit(&out);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden),        cmocka_unit_test(test_recognise),
        cmocka_unit_test(test_tokenizer_dir), cmocka_unit_test(test_spans),
        cmocka_unit_test(test_v31_switches),  cmocka_unit_test(test_bad_requests),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
