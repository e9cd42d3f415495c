/* safetensors and token shards: round trips, the reference checkpoints, sets of shards, and every
 * kind of damage with its code and the parts its message must hold. */
#include "support.h"

#include "io/hash.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "io/shards.h"

static fm_err ok_err;

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", test_dir(), name);
    return p;
}

static void holds(const fm_err *e, fm_status st, fm_status want, ...)
{
    if (st != want || e->code != want)
        fail_msg("%s (%s), expected %s", fm_status_text(st), e->text, fm_status_text(want));
    va_list ap;
    va_start(ap, want);
    for (const char *part; (part = va_arg(ap, const char *));)
        if (!strstr(e->text, part)) fail_msg("\"%s\" is not in: %s", part, e->text);
    va_end(ap);
}

/* A file in memory: header text and n zero bytes of data. */
static size_t build(char *out, const char *header, size_t n_data)
{
    uint64_t n = strlen(header);
    memcpy(out, &n, 8);
    memcpy(out + 8, header, n);
    memset(out + 8 + n, 0, n_data);
    return 8 + n + n_data;
}

static fm_status parse(const char *header, size_t n_data, fm_err *e)
{
    static char file[4096];
    size_t n = build(file, header, n_data);
    fm_tensors *t = NULL;
    /* an exact heap block, so that a sanitizer sees any read past the end */
    char *exact = fmi_alloc(n);
    memcpy(exact, file, n);
    fm_status st = fm_tensors_parse("m.safetensors", exact, n, &t, e);
    fm_tensors_close(t);
    fmi_free(exact);
    return st;
}

#define ENTRY(name, dtype, shape, begin, end)                                                      \
    "\"" name "\": {\"dtype\": \"" dtype "\", \"shape\": " shape ", \"data_offsets\": [" begin     \
    ", " end "]}"

static void test_refuses_bad_headers(void **state)
{
    (void)state;
    static const struct {
        const char *header;
        size_t data;
        const char *parts[3]; /* beside the file's name */
    } rows[] = {
        {"{" ENTRY("w", "F99", "[2]", "0", "8") "}", 8, {"tensor w", "byte 9", "found \"F99\""}},
        {"{\"w\": {\"dtype\": 3, \"shape\": [2], \"data_offsets\": [0, 8]}}",
         8,
         {"tensor w", "expected a string", "an integer"}},
        {"{" ENTRY("w", "F32", "[-2]", "0", "8") "}", 8, {"tensor w", "dimension 0", "negative"}},
        {"{" ENTRY("w", "F32", "[1.5]", "0", "8") "}", 8, {"tensor w", "dimension 0", "real"}},
        {"{" ENTRY("w", "F32", "7", "0", "8") "}", 8, {"tensor w", "expected an array", "integer"}},
        {"{" ENTRY("w", "F32", "[4611686018427387904, 4]", "0", "8") "}",
         8,
         {"tensor w", "[4611686018427387904, 4]", "overflow"}},
        {"{" ENTRY("w", "F32", "[1,1,1,1,1,1,1,1,2]", "0", "8") "}",
         8,
         {"tensor w", "at most 8", "found 9"}},
        {"{" ENTRY("w", "F32", "[2]", "0", "12") "}",
         12,
         {"tensor w", "F32 [2]: expected 8 bytes", "data_offsets of 12"}},
        {"{" ENTRY("w", "BF16", "[3]", "0", "12") "}", 12, {"tensor w", "expected 6 bytes", "12"}},
        {"{" ENTRY("w", "F32", "[2]", "8", "0") "}", 8, {"tensor w", "begin <= end", "[8, 0]"}},
        {"{" ENTRY("w", "F32", "[2]", "-8", "0") "}", 8, {"tensor w", "begin <= end", "[-8, 0]"}},
        {"{" ENTRY("w", "F32", "[4]", "0", "16") "}", 8, {"tensor w", "outside", "holds 8 bytes"}},
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "," ENTRY("b", "F32", "[2]", "4", "12") "}",
         12,
         {"tensor b", "overlaps", "the end of a"}},
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "," ENTRY("b", "F32", "[2]", "12", "20") "}",
         20,
         {"tensor b", "hole", "the end of a"}},
        {"{" ENTRY("a", "F32", "[2]", "4", "12") "}", 12, {"tensor a", "hole", "the header"}},
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "}", 9, {"tensor a at byte", "expected", "found"}},
        {"{" ENTRY("a", "F32", "[2]", "0", "8") "," ENTRY("a", "F32", "[2]", "8", "16") "}",
         16,
         {"duplicate", "\"a\"", "byte"}},
        {"{\"a\": 5}", 0, {"tensor a", "expected an object", "an integer"}},
        {"{\"a\": {\"dtype\": \"F32\", \"shape\": [1]}}", 4, {"tensor a", "data_offsets", "two"}},
        {"{\"__metadata__\": {\"k\": 1}}", 0, {"__metadata__", "\"k\"", "expected a string"}},
        {"{\"__metadata__\": []}", 0, {"__metadata__", "object of strings", "byte"}},
        {"[1]", 0, {"byte 8", "expected an object", "an array"}},
        {"{\"a\": {]}", 0, {"header (from byte 8)", "line 1", "byte"}},
        {"{\"a\xff\": {}}", 0, {"header (from byte 8)", "0xff", "byte"}},
        {"{" ENTRY("w", "F4", "[3]", "0", "1") "}", 1, {"tensor w", "whole bytes", "shape"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        fm_err e = {0};
        fm_status st = parse(rows[i].header, rows[i].data, &e);
        holds(&e, st, FM_E_FORMAT, "m.safetensors", rows[i].parts[0], rows[i].parts[1],
              rows[i].parts[2], NULL);
    }
}

static void test_refuses_bad_lengths(void **state)
{
    (void)state;
    char file[64] = {0};
    fm_tensors *t = NULL;
    fm_err e;
    holds(&e, fm_tensors_parse("f", file, 7, &t, &e), FM_E_FORMAT, "byte 0", "8 bytes", "of 7",
          NULL);
    holds(&e, fm_tensors_parse("f", NULL, 0, &t, &e), FM_E_FORMAT, "byte 0", "of 0", NULL);
    uint64_t n = 57;
    memcpy(file, &n, 8);
    holds(&e, fm_tensors_parse("f", file, 64, &t, &e), FM_E_FORMAT, "header length", "56 bytes",
          "found 57", NULL);
    n = 100000001;
    memcpy(file, &n, 8);
    holds(&e, fm_tensors_parse("f", file, 64, &t, &e), FM_E_FORMAT, "at most 100000000",
          "100000001", NULL);
    n = UINT64_MAX;
    memcpy(file, &n, 8);
    holds(&e, fm_tensors_parse("f", file, 64, &t, &e), FM_E_FORMAT, "18446744073709551615", NULL);
    assert_null(t);
}

static void test_accepts_odd_but_valid(void **state)
{
    (void)state;
    fm_err e;
    assert_int_equal(parse("{}", 0, &e), FM_OK);
    assert_int_equal(parse("{}    ", 0, &e), FM_OK);
    assert_int_equal(parse("{" ENTRY("s", "F32", "[]", "0", "4") "}", 4, &e), FM_OK);
    assert_int_equal(
        parse("{" ENTRY("b", "F32", "[2]", "0", "8") "," ENTRY(
                  "z", "F32", "[0, 3]", "8", "8") "," ENTRY("a", "U16", "[1]", "8", "10") "}",
              10, &e),
        FM_OK);
    assert_int_equal(parse("{" ENTRY("w", "F4", "[4]", "0", "2") "}", 2, &e), FM_OK);
}

/* Bytes that differ for every tensor and place. */
static uint8_t pattern(int tensor, size_t i)
{
    return (uint8_t)((size_t)tensor * 31 + i * 7 + i / 251);
}

static const fmi_st_spec specs[] = {
    {"model.embed.weight", FM_DTYPE_F32, 2, {5, 3}},
    {"scalar", FM_DTYPE_F64, 0, {0}},
    {"empty", FM_DTYPE_F32, 2, {0, 4}},
    {"b", FM_DTYPE_BF16, 3, {2, 3, 7}},
    {"a \"quoted\" \xc3\xa9", FM_DTYPE_F16, 1, {9}},
    {"q", FM_DTYPE_F8E4M3, 2, {128, 1000}},
    {"i", FM_DTYPE_I64, 1, {3}},
    {"j", FM_DTYPE_I32, 1, {3}},
    {"u", FM_DTYPE_U8, 1, {5}},
    {"last.empty", FM_DTYPE_U8, 1, {0}},
};
enum { N_SPECS = sizeof specs / sizeof specs[0] };

static size_t spec_bytes(const fmi_st_spec *s)
{
    size_t n = fm_dtype_bytes(s->dtype);
    for (int i = 0; i < s->rank; i++) n *= (size_t)s->dims[i];
    return n;
}

static fm_status write_all(const char *path, size_t piece, fm_err *e)
{
    static const fmi_st_meta meta[] = {{"format", "pt"}, {"note", "x\ny"}};
    fmi_st_writer *w = NULL;
    uint8_t *buf = fmi_alloc(1 << 18);
    if (!buf) return FM_FAIL(e, FM_E_NOMEM, "test buffer");
    fm_status st = fmi_st_writer_open(path, specs, N_SPECS, meta, 2, &w, e);
    for (int t = 0; t < N_SPECS && !st; t++) {
        size_t n = spec_bytes(&specs[t]);
        for (size_t i = 0; i < n; i++) buf[i] = pattern(t, i);
        for (size_t at = 0; at < n && !st; at += piece)
            st =
                fmi_st_writer_write(w, specs[t].name, buf + at, at + piece < n ? piece : n - at, e);
    }
    if (!st) st = fmi_st_writer_close(w, e);
    fmi_st_writer_free(w);
    fmi_free(buf);
    return st;
}

static void check_file(const char *path)
{
    fm_tensors *t;
    OK(fm_tensors_open(path, &t, &ok_err));
    assert_int_equal(fm_tensors_count(t), N_SPECS);
    assert_int_equal(fm_tensors_shards(t), 1);
    assert_string_equal(fm_tensors_metadata(t, "format"), "pt");
    assert_string_equal(fm_tensors_metadata(t, "note"), "x\ny");
    assert_null(fm_tensors_metadata(t, "other"));
    uint64_t end = 0;
    for (int i = 0; i < N_SPECS; i++) {
        const fm_tensor_info *x = fm_tensors_find(t, specs[i].name);
        assert_non_null(x);
        assert_int_equal(x->dtype, specs[i].dtype);
        assert_string_equal(x->dtype_name, fm_dtype_name(specs[i].dtype));
        assert_int_equal(x->bytes, spec_bytes(&specs[i]));
        const uint8_t *p = x->data;
        for (size_t k = 0; k < x->bytes; k++) assert_int_equal(p[k], pattern(i, k));
        if (i == 0) assert_int_equal(x->offset % 64, 0);
        if (i == 0) assert_true(fm_tensor_aligned(x));
        OK(fm_tensors_expect(t, specs[i].name, specs[i].rank, specs[i].dims, &x, &ok_err));
        fm_tensors_advise(t, x, FMI_ADVICE_WILL_NEED);
        /* file order: data never goes back */
        const fm_tensor_info *y = fm_tensors_at(t, i);
        assert_true(y->offset >= end);
        end = y->offset + y->bytes;
    }
    assert_true(end == fm_tensors_shard_bytes(t, 0));
    assert_null(fm_tensors_find(t, "no"));
    fm_err e;
    const fm_tensor_info *x;
    holds(&e, fm_tensors_get(t, "no.such", &x, &e), FM_E_FORMAT, path, "no.such", "missing", NULL);
    holds(&e, fm_tensors_expect(t, "b", 2, (int64_t[]){2, 21}, &x, &e), FM_E_SHAPE, path,
          "tensor b", "expected shape [2, 21]", "found BF16 [2, 3, 7]", NULL);
    fm_tensors_close(t);
}

static void test_writer_round_trip(void **state)
{
    (void)state;
    OK(write_all(in_dir("w.safetensors"), 1 << 20, &ok_err));
    check_file(in_dir("w.safetensors"));
    uint64_t one, two;
    OK(fmi_hash_file(in_dir("w.safetensors"), &one, &ok_err));
    OK(write_all(in_dir("w.safetensors"), 7, &ok_err));
    OK(fmi_hash_file(in_dir("w.safetensors"), &two, &ok_err));
    assert_true(one == two);
}

static void test_writer_refuses(void **state)
{
    (void)state;
    fm_err e;
    fmi_st_writer *w = NULL;
    const char *path = in_dir("bad.safetensors");
    fmi_st_spec s[2] = {{"a", FM_DTYPE_F32, 1, {2}}, {"b", FM_DTYPE_F32, 1, {1}}};
    OK(fmi_st_writer_open(path, s, 2, NULL, 0, &w, &ok_err));
    holds(&e, fmi_st_writer_write(w, "b", "1234", 4, &e), FM_E_STATE, "tensor b", "expected a",
          NULL);
    holds(&e, fmi_st_writer_write(w, "a", "123456789", 9, &e), FM_E_STATE, "9 bytes", "8 remain",
          NULL);
    OK(fmi_st_writer_write(w, "a", "12345678", 8, &ok_err));
    holds(&e, fmi_st_writer_close(w, &e), FM_E_STATE, "tensor b", "0 of 4 bytes", NULL);
    OK(fmi_st_writer_write(w, "b", "1234", 4, &ok_err));
    holds(&e, fmi_st_writer_write(w, "b", "1", 1, &e), FM_E_STATE, "all tensors", NULL);
    fmi_st_writer_free(w);
    assert_false(fmi_path_exists(path));
    s[1].name = "a";
    holds(&e, fmi_st_writer_open(path, s, 2, NULL, 0, &w, &e), FM_E_STATE, "a", "twice", NULL);
    s[1] = (fmi_st_spec){"b", FM_DTYPE_C128, 1, {1}};
    holds(&e, fmi_st_writer_open(path, s, 2, NULL, 0, &w, &e), FM_E_UNSUPPORTED, "b", "C128", NULL);
    s[1] = (fmi_st_spec){"b", FM_DTYPE_F32, 2, {-1, 3}};
    holds(&e, fmi_st_writer_open(path, s, 2, NULL, 0, &w, &e), FM_E_SHAPE, "[-1, 3]", NULL);
    assert_false(fmi_path_exists(path));
}

/* Every allocation failing in turn: always NOMEM, never a leak or a half-written file. */
static void test_failing_allocations(void **state)
{
    (void)state;
    const char *path = in_dir("nomem.safetensors");
    int n, writes = 0, reads = 0;
    for (n = 1;; n++) {
        fm_err e = {0};
        int64_t calls = fmi_alloc_calls();
        fmi_alloc_fail_after(n);
        fm_status st = write_all(path, 1 << 20, &e);
        fmi_alloc_fail_after(0);
        if (fmi_alloc_calls() - calls < n) break;
        if (st && st != FM_E_NOMEM) fail_msg("allocation %d: %s", n, e.text);
        assert_true(fmi_path_exists(path) == !st);
        writes += st == FM_E_NOMEM;
        OK(fmi_tree_remove(path, &ok_err));
    }
    for (n = 1;; n++) {
        fm_err e = {0};
        fm_tensors *t = NULL;
        int64_t calls = fmi_alloc_calls();
        fmi_alloc_fail_after(n);
        fm_status st = fm_tensors_open(path, &t, &e);
        fmi_alloc_fail_after(0);
        if (!st) assert_int_equal(fm_tensors_count(t), N_SPECS);
        fm_tensors_close(t);
        if (fmi_alloc_calls() - calls < n) break;
        /* jansson does without some of its blocks: a success must be a whole one */
        if (st && st != FM_E_NOMEM) fail_msg("allocation %d: %s", n, e.text);
        reads += st == FM_E_NOMEM;
    }
    check_file(path);
    assert_true(writes > 100 && reads > 50);
}

static void test_reads_the_reference(void **state)
{
    (void)state;
    static const char *const variants[] = {
        "v2", "v2-lite", "v3", "v3-fp8", "v3-mtp", "v3-noqlora-tied-shapes", "v3-yarn"};
    for (size_t v = 0; v < sizeof variants / sizeof variants[0]; v++) {
        char path[300], dir[128];
        snprintf(dir, sizeof dir, "tests/data/reference/%s", variants[v]);
        snprintf(path, sizeof path, "%s/reference.safetensors", dir);
        fm_tensors *t;
        OK(fm_tensors_open(dir, &t, &ok_err));
        assert_true(fm_tensors_count(t) > 50);
        const fm_tensor_info *x;
        OK(fm_tensors_get(t, "model.embed_tokens.weight", &x, &ok_err));
        assert_int_equal(x->rank, 2);
        fm_tensors_close(t);
        OK(fm_tensors_open(path, &t, &ok_err));
        OK(fm_tensors_get(t, "logits", &x, &ok_err));
        assert_int_equal(x->dtype, FM_DTYPE_F32);
        assert_int_equal(x->rank, 3);
        fm_tensors_close(t);
    }
}

/* A directory of two shards and an index with this weight_map. */
static void make_shards(const char *weight_map)
{
    fmi_st_spec s[2] = {{"x", FM_DTYPE_U8, 1, {4}}, {"y", FM_DTYPE_U8, 1, {4}}};
    static const char *const files[] = {"set/first.safetensors", "set/second.safetensors"};
    OK(fmi_dir_make(in_dir("set"), &ok_err));
    for (int i = 0; i < 2; i++) {
        fmi_st_writer *w;
        OK(fmi_st_writer_open(in_dir(files[i]), &s[i], 2 - i, NULL, 0, &w, &ok_err));
        for (int k = i; k < 2; k++)
            OK(fmi_st_writer_write(w, s[k].name, i ? "BBBB" : "AAAA", 4, &ok_err));
        OK(fmi_st_writer_close(w, &ok_err));
        fmi_st_writer_free(w);
    }
    char index[600];
    snprintf(index, sizeof index, "{\"metadata\": {}, \"weight_map\": %s}", weight_map);
    OK(fmi_file_write(in_dir("set/model.safetensors.index.json"), index, strlen(index), &ok_err));
}

static void test_sets_of_shards(void **state)
{
    (void)state;
    const char *dir = in_dir("set");
    char path[600];
    snprintf(path, sizeof path, "%s", dir);
    fm_tensors *t = NULL;
    fm_err e;
    OK(fmi_dir_make(path, &ok_err));
    holds(&e, fm_tensors_open(path, &t, &e), FM_E_IO, path, "model.safetensors.index.json", NULL);
    make_shards("{\"y\": \"second.safetensors\", \"x\": \"first.safetensors\"}");
    OK(fm_tensors_open(path, &t, &ok_err));
    /* first.safetensors holds a y of its own, which the index does not choose */
    assert_int_equal(fm_tensors_count(t), 2);
    assert_int_equal(fm_tensors_shards(t), 2);
    assert_string_equal(fm_tensors_at(t, 0)->name, "y");
    assert_memory_equal(fm_tensors_find(t, "y")->data, "BBBB", 4);
    assert_memory_equal(fm_tensors_find(t, "x")->data, "AAAA", 4);
    assert_non_null(strstr(fm_tensors_shard_path(t, 1), "first.safetensors"));
    fm_tensors_close(t);
    t = NULL;
    static const struct {
        const char *map;
        fm_status code;
        const char *parts[3];
    } rows[] = {
        {"{\"x\": \"third.safetensors\"}", FM_E_IO, {"third.safetensors", "tensor x", "missing"}},
        {"{\"x\": \"second.safetensors\"}",
         FM_E_FORMAT,
         {"tensor x", "second.safetensors", "not in"}},
        {"{\"w\": \"first.safetensors\"}",
         FM_E_FORMAT,
         {"tensor w", "first.safetensors", "not in"}},
        {"{\"x\": \"../first.safetensors\"}", FM_E_FORMAT, {"tensor x", "file name", "../first"}},
        {"{\"x\": 3}", FM_E_FORMAT, {"tensor x", "file name", "an integer"}},
        {"{}", FM_E_FORMAT, {"weight_map", "empty", "index.json"}},
        {"[]", FM_E_FORMAT, {"weight_map", "expected an object", "an array"}},
        {"{\"x\": \"first.safetensors\", \"x\": \"second.safetensors\"}",
         FM_E_FORMAT,
         {"duplicate", "\"x\"", "index.json"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        make_shards(rows[i].map);
        holds(&e, fm_tensors_open(path, &t, &e), rows[i].code, rows[i].parts[0], rows[i].parts[1],
              rows[i].parts[2], NULL);
        assert_null(t);
    }
}

static void write_shard(const char *path, uint64_t vocab)
{
    fmi_shard_writer *w;
    OK(fmi_shard_writer_open(path, vocab, 0x1234, &w, &ok_err));
    int32_t ids[5000];
    for (int d = 0; d < 1500; d++) { /* more documents than the first table holds */
        int n = d == 7 ? 5000 : 1 + d % 5;
        for (int i = 0; i < n; i++) ids[i] = (int32_t)((uint64_t)(d * 31 + i) % vocab);
        OK(fmi_shard_writer_write(w, ids, n, (uint64_t)d * 3, &ok_err));
    }
    fm_err e;
    ids[1] = (int32_t)vocab;
    holds(&e, fmi_shard_writer_write(w, ids, 2, 1, &e), FM_E_RANGE, "document 1500", "token 1",
          NULL);
    ids[0] = -1;
    holds(&e, fmi_shard_writer_write(w, ids, 1, 1, &e), FM_E_RANGE, "found -1", NULL);
    holds(&e, fmi_shard_writer_write(w, ids, 0, 1, &e), FM_E_RANGE, "no tokens", NULL);
    assert_int_equal(fmi_shard_writer_documents(w), 1500);
    OK(fmi_shard_writer_close(w, &ok_err));
    fmi_shard_writer_free(w);
}

static void test_shard_round_trip(void **state)
{
    (void)state;
    static const uint64_t vocabs[] = {300, 65536, 65537, 129280};
    for (size_t v = 0; v < sizeof vocabs / sizeof vocabs[0]; v++) {
        const char *path = in_dir("t.shard");
        write_shard(path, vocabs[v]);
        fmi_shard *s;
        OK(fmi_shard_open(path, &s, &ok_err));
        OK(fmi_shard_check_hash(s, &ok_err));
        assert_int_equal(s->token_bytes, vocabs[v] <= 65536 ? 2 : 4);
        assert_int_equal(s->vocab_size, vocabs[v]);
        assert_int_equal(s->tokenizer_hash, 0x1234);
        assert_int_equal(s->n_documents, 1500);
        assert_int_equal(s->source_bytes, 3 * 1499 * 1500 / 2);
        uint64_t at = 0;
        for (uint64_t d = 0; d < 1500; d++) {
            uint64_t begin, end, bytes;
            int32_t ids[5000];
            fmi_shard_document(s, d, &begin, &end, &bytes);
            assert_int_equal(begin, at);
            assert_int_equal(end - begin, d == 7 ? 5000 : 1 + d % 5);
            assert_int_equal(bytes, 3 * d);
            fmi_shard_tokens(s, begin, end - begin, ids);
            for (uint64_t i = 0; i < end - begin; i++)
                assert_int_equal(ids[i], (d * 31 + i) % vocabs[v]);
            at = end;
        }
        assert_int_equal(at, s->n_tokens);
        fmi_shard_close(s);
    }
    fmi_shard_close(NULL);
    fmi_shard_writer *w;
    fmi_shard *s;
    OK(fmi_shard_writer_open(in_dir("none.shard"), 10, 0, &w, &ok_err));
    OK(fmi_shard_writer_close(w, &ok_err));
    fmi_shard_writer_free(w);
    OK(fmi_shard_open(in_dir("none.shard"), &s, &ok_err));
    assert_int_equal(s->n_documents + s->n_tokens, 0);
    fmi_shard_close(s);
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

static void test_shard_refuses(void **state)
{
    (void)state;
    char *text;
    size_t n;
    fmi_shard *s = NULL;
    fm_err e;
    fmi_shard_writer *w;
    OK(fmi_shard_writer_open(in_dir("d.shard"), 100, 9, &w, &ok_err));
    OK(fmi_shard_writer_write(w, (int32_t[]){1, 2, 99}, 3, 10, &ok_err));
    OK(fmi_shard_writer_write(w, (int32_t[]){4, 5}, 2, 20, &ok_err));
    OK(fmi_shard_writer_close(w, &ok_err));
    fmi_shard_writer_free(w);
    OK(fmi_file_read(in_dir("d.shard"), 1000, &text, &n, &ok_err));
    assert_int_equal(n, 128 + 16 + 24 + 16); /* 5 tokens of 2 bytes, padded; tables */
    /* what is put where, with the header's own hash made right again */
    static const struct {
        size_t at;
        int bytes;
        uint64_t value;
        fm_status code;
        const char *parts[2];
    } rows[] = {
        {0, 1, 'X', FM_E_FORMAT, {"byte 0", "FMTOKENS"}},
        {8, 4, 2, FM_E_UNSUPPORTED, {"byte 8", "version 1"}},
        {12, 4, 3, FM_E_FORMAT, {"byte 12", "found 3"}},
        {16, 8, 0, FM_E_FORMAT, {"byte 16", "found 0"}},
        {16, 8, 99, FM_E_FORMAT, {"byte 132", "token 2: expected an id below 99, found 99"}},
        {32, 8, 3, FM_E_FORMAT, {"byte 32", "3 documents"}},
        {32, 8, UINT64_MAX, FM_E_FORMAT, {"byte 32", "do not fill"}},
        {40, 8, UINT64_MAX, FM_E_FORMAT, {"byte 32", "do not fill"}},
        {48, 8, 31, FM_E_FORMAT, {"byte 48", "expected 31"}},
        {56, 8, 1, FM_E_FORMAT, {"byte 56", "truncated"}},
        {100, 1, 1, FM_E_FORMAT, {"byte 100", "expected zero"}},
        {144, 8, 1, FM_E_FORMAT, {"byte 144", "document 0"}},
        {152, 8, 0, FM_E_FORMAT, {"byte 152", "document 1"}},
        {152, 8, 5, FM_E_FORMAT, {"byte 160", "document 2"}},
        {160, 8, 4, FM_E_FORMAT, {"byte 160", "found 4"}},
        {168, 8, UINT64_MAX, FM_E_FORMAT, {"document 1", "overflow"}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        uint8_t bad[184];
        memcpy(bad, text, n);
        memcpy(bad + rows[i].at, &rows[i].value, (size_t)rows[i].bytes);
        put64(bad + 72, fmi_hash_bytes(bad, 72, 0));
        holds(&e, fmi_shard_parse("d.shard", bad, n, &s, &e), rows[i].code, "d.shard",
              rows[i].parts[0], rows[i].parts[1], NULL);
        assert_null(s);
    }
    for (size_t cut = 0; cut < n; cut++)
        assert_int_equal(fmi_shard_parse("d.shard", text, cut, &s, &e), FM_E_FORMAT);
    text[20] ^= 1; /* the header, its hash left alone */
    holds(&e, fmi_shard_parse("d.shard", text, n, &s, &e), FM_E_FORMAT, "byte 72", "hash", NULL);
    text[20] ^= 1;
    text[128] ^= 1; /* a token, still inside the vocabulary */
    OK(fmi_shard_parse("d.shard", text, n, &s, &ok_err));
    holds(&e, fmi_shard_check_hash(s, &e), FM_E_FORMAT, "byte 64", "damaged", NULL);
    fmi_shard_close(s);
    fmi_free(text);
}

static int remove_dir(void **state)
{
    (void)state;
    test_dir_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refuses_bad_headers),   cmocka_unit_test(test_refuses_bad_lengths),
        cmocka_unit_test(test_accepts_odd_but_valid), cmocka_unit_test(test_writer_round_trip),
        cmocka_unit_test(test_writer_refuses),        cmocka_unit_test(test_failing_allocations),
        cmocka_unit_test(test_reads_the_reference),   cmocka_unit_test(test_sets_of_shards),
        cmocka_unit_test(test_shard_round_trip),      cmocka_unit_test(test_shard_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, remove_dir);
}
