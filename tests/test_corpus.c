/* Data preparation: the document rule, compressed files, weights, the held-out split, shards read
 * back, and what bad sources are told. */
#include "text_util.h"

#include <zlib.h>

#include "fathom/data.h"
#include "io/hash.h"
#include "text/documents.h"

typedef struct collected {
    char *doc[16384];
    size_t len[16384];
    size_t n;
} collected;

static fm_status collect(void *arg, const char *text, size_t n, fm_err *err)
{
    (void)err;
    collected *c = arg;
    assert_true(c->n < 16384);
    c->doc[c->n] = fmi_alloc(n + 1);
    memcpy(c->doc[c->n], text, n);
    c->doc[c->n][n] = 0;
    c->len[c->n++] = n;
    return FM_OK;
}

static void drop(collected *c)
{
    for (size_t i = 0; i < c->n; i++) fmi_free(c->doc[i]);
    c->n = 0;
}

static char *put_file(const char *dir, const char *name, const void *data, size_t n)
{
    fm_err err;
    char *path = fmi_path_join(dir, name);
    OK(fmi_file_write(path, data, n, &err));
    return path;
}

static void read_docs(const char *path, collected *c)
{
    fm_err err;
    OK(fmi_documents_read(path, collect, c, &err));
}

static void test_document_rule(void **state)
{
    (void)state;
    static collected c;
    char *dir = temp_dir(), *path;
    const char *marked =
        "one\n\nstill one\n<|endoftext|>\ntwo\r\n<|endoftext|>\r\n<|endoftext|>\n\nthree "
        "<|endoftext|> in\n";
    path = put_file(dir, "marked.txt", marked, strlen(marked));
    read_docs(path, &c);
    assert_int_equal(c.n, 3);
    assert_string_equal(c.doc[0], "one\n\nstill one");
    assert_string_equal(c.doc[1], "two");
    assert_string_equal(c.doc[2], "three <|endoftext|> in");
    drop(&c);
    fmi_free(path);
    path = put_file(dir, "short.txt", "\na\n\nb\n\n", 7);
    read_docs(path, &c);
    assert_int_equal(c.n, 1);
    assert_string_equal(c.doc[0], "a\n\nb");
    drop(&c);
    fmi_free(path);
    path = put_file(dir, "empty.txt", "\n\n", 2);
    read_docs(path, &c);
    assert_int_equal(c.n, 0);
    fmi_free(path);
    drop_dir(dir);
}

/* Longer than 64 KiB: cut at blank lines, nothing lost, parts of 4 KiB and more. */
static void test_cut_long(void **state)
{
    (void)state;
    static collected c;
    char *dir = temp_dir();
    fm_text t = {0};
    for (int i = 0; t.n < 200000; i++) {
        char line[64];
        snprintf(line, sizeof line, "paragraph %d says something\n%s", i, i % 5 == 4 ? "\n" : "");
        size_t k = strlen(line);
        t.data = fmi_realloc(t.data, t.n + k + 1);
        memcpy(t.data + t.n, line, k);
        t.n += k;
    }
    char *path = put_file(dir, "long.txt", t.data, t.n);
    read_docs(path, &c);
    assert_in_range(c.n, 40, 49);
    size_t sum = 0;
    for (size_t i = 0; i < c.n; i++) {
        if (i + 1 < c.n) assert_in_range(c.len[i], 4000, 4400);
        assert_memory_equal(c.doc[i], "paragraph",
                            9); /* a document begins where a paragraph does */
        sum += c.len[i] + 2; /* the blank line between */
    }
    assert_in_range(sum, t.n - 2, t.n + 2);
    drop(&c);
    fmi_free(path);
    /* No blank lines at all: cut at line ends; no lines at all: one document. */
    for (size_t i = 1; i < t.n; i++)
        if (t.data[i] == '\n' && t.data[i - 1] == '\n') t.data[i] = '-';
    path = put_file(dir, "lines.txt", t.data, t.n);
    read_docs(path, &c);
    assert_int_equal(c.n, 4);
    drop(&c);
    fmi_free(path);
    memset(t.data, 'x', t.n);
    path = put_file(dir, "line.txt", t.data, t.n);
    read_docs(path, &c);
    assert_int_equal(c.n, 1);
    assert_int_equal(c.len[0], t.n);
    drop(&c);
    fmi_free(path);
    fm_text_deinit(&t);
    drop_dir(dir);
}

static void test_jsonl(void **state)
{
    (void)state;
    static collected c;
    fm_err err;
    char *dir = temp_dir();
    const char *rows =
        "{\"text\": \"a\\nb\", \"id\": 3}\n\n{\"text\": \"\"}\r\n{\"text\":\"x\\u0000y\"}";
    char *path = put_file(dir, "r.jsonl", rows, strlen(rows));
    read_docs(path, &c);
    assert_int_equal(c.n, 2);
    assert_string_equal(c.doc[0], "a\nb");
    assert_int_equal(c.len[1], 3);
    drop(&c);
    fmi_free(path);
    static const struct { const char *rows, *says; } bad[] = {
        { "{\"text\":\"a\"}\n{\"text\":5}\n", "line 2" },
        { "{\"text\":\"a\"}\n\n{\"body\":\"x\"}\n", "line 3" },
        { "{\"text\":\"a\"}\n{\"text\":\"\xc3(\"}\n", "line 2" },
        { "{\"text\":\"a\"\n", "line 1" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        path = put_file(dir, "bad.jsonl", bad[i].rows, strlen(bad[i].rows));
        assert_int_equal(fmi_documents_read(path, collect, &c, &err), FM_E_FORMAT);
        if (!strstr(err.text, bad[i].says) || !strstr(err.text, "bad.jsonl"))
            fail_msg("%s", err.text);
        drop(&c);
        fmi_free(path);
    }
    drop_dir(dir);
}

static size_t gzip(const void *data, size_t n, char *out, size_t cap)
{
    z_stream z = { .next_in = (void *)(uintptr_t)data, .avail_in = (uInt)n, .next_out = (void *)out,
                   .avail_out = (uInt)cap };
    assert_int_equal(deflateInit2(&z, 6, Z_DEFLATED, 31, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return cap - z.avail_out;
}

static void test_compressed(void **state)
{
    (void)state;
    static collected c;
    fm_err err;
    static char plain[300000], packed[300000];
    char *dir = temp_dir();
    size_t n = 0;
    for (int i = 0; n + 64 < sizeof plain; i++)
        n += (size_t)snprintf(plain + n, sizeof plain - n, "doc %d %d\n<|endoftext|>\n", i,
                              i * i % 977);
    char *path = put_file(dir, "a.txt", plain, n);
    read_docs(path, &c);
    size_t n_docs = c.n ? c.n : 0;
    assert_true(n_docs > 1000);
    drop(&c);
    fmi_free(path);
    /* Two members, two frames: one file each. */
    size_t half = n / 2, a = gzip(plain, half, packed, sizeof packed);
    size_t b = gzip(plain + half, n - half, packed + a, sizeof packed - a);
    path = put_file(dir, "a.txt.gz", packed, a + b);
    read_docs(path, &c);
    assert_int_equal(c.n, n_docs);
    drop(&c);
    fmi_free(path);
    path = put_file(dir, "cut.gz", packed, a + b / 2);
    assert_int_equal(fmi_documents_read(path, collect, &c, &err), FM_E_FORMAT);
    assert_non_null(strstr(err.text, "ends early"));
    drop(&c);
    fmi_free(path);
    a = ZSTD_compress(packed, sizeof packed, plain, half, 3);
    b = ZSTD_compress(packed + a, sizeof packed - a, plain + half, n - half, 3);
    assert_false(ZSTD_isError(a) || ZSTD_isError(b));
    path = put_file(dir, "a.txt.zst", packed, a + b);
    read_docs(path, &c);
    assert_int_equal(c.n, n_docs);
    drop(&c);
    fmi_free(path);
    path = put_file(dir, "cut.zst", packed, a + b - 3);
    assert_int_equal(fmi_documents_read(path, collect, &c, &err), FM_E_FORMAT);
    assert_non_null(strstr(err.text, "cut.zst"));
    drop(&c);
    fmi_free(path);
    packed[10] ^= 0x55;
    path = put_file(dir, "bad.zst", packed, a + b);
    assert_int_equal(fmi_documents_read(path, collect, &c, &err), FM_E_FORMAT);
    drop(&c);
    fmi_free(path);
    drop_dir(dir);
}

static void test_source_syntax(void **state)
{
    (void)state;
    fm_err err;
    char *path = NULL;
    double w = 0;
    OK(fmi_source_parse("dir/a.txt:2.5", &path, &w, &err));
    assert_string_equal(path, "dir/a.txt");
    assert_true(w == 2.5);
    fmi_free(path);
    OK(fmi_source_parse("a.txt", &path, &w, &err));
    assert_true(w == 1);
    fmi_free(path);
    static const char *const bad[] = { "a:0", "a:-1", "a:nan", "a:2x", "a:1e9" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(fmi_source_parse(bad[i], &path, &w, &err), FM_E_RANGE);
        assert_non_null(strstr(err.text, bad[i]));
    }
    /* Fractions: the same choice every time, about the right share. */
    int n = 0;
    for (int i = 0; i < 4000; i++) {
        char t[16];
        snprintf(t, sizeof t, "text %d", i);
        int64_t k = fmi_source_copies(1.25, t, strlen(t));
        assert_true(k == 1 || k == 2);
        assert_int_equal(k, fmi_source_copies(1.25, t, strlen(t)));
        n += k == 2;
    }
    assert_in_range(n, 1000 - 165, 1000 + 165); /* six standard deviations of 27.4 */
}

static fm_tokenizer *train_small(const char *dir, const char *const *source, int n)
{
    fm_err err;
    fm_tokenizer *t = NULL;
    OK(fm_data_train_tokenizer(source, n, 300, dir, NULL, &err));
    OK(fm_tokenizer_open(dir, &t, &err));
    return t;
}

static char *numbered(const char *dir, const char *name, int from, int to)
{
    fm_err err;
    char *path = fmi_path_join(dir, name);
    fmi_out *o = NULL;
    OK(fmi_out_open(path, &o, &err));
    for (int i = from; i < to; i++) {
        char t[96];
        int n = snprintf(t, sizeof t, "the story number %d was told\n<|endoftext|>\n", i);
        OK(fmi_out_write(o, t, (size_t)n, &err));
    }
    OK(fmi_out_close(o, &err));
    fmi_out_free(o);
    return path;
}

/* Document i of a split as text; checks its marks and byte count. */
static void doc_text(const fm_data *d, const fm_tokenizer *t, fm_split s, int64_t i, fm_text *out)
{
    fm_err err;
    int64_t bytes, n = fm_data_document(d, s, i, &bytes);
    int32_t ids[256];
    assert_in_range(n, 3, 256);
    fm_data_read(d, s, i, 0, n, ids);
    assert_int_equal(ids[0], fm_tokenizer_bos(t));
    assert_int_equal(ids[n - 1], fm_tokenizer_eos(t));
    int32_t part[2];
    fm_data_read(d, s, i, 1, 2, part);
    assert_int_equal(part[0], ids[1]);
    out->n = 0;
    OK(fm_tokenizer_decode(t, ids + 1, (size_t)n - 2, 0, out, &err));
    assert_int_equal(out->n, bytes);
}

static void test_prepare(void **state)
{
    (void)state;
    fm_err err;
    char *dir = temp_dir(), *tok_dir = fmi_path_join(dir, "tok"), *out = fmi_path_join(dir, "data");
    char *a = numbered(dir, "a.txt", 0, 1000), *b = numbered(dir, "b.txt", 1000, 1500);
    char *b3 = fmi_format("%s:3", b);
    const char *source[2] = { a, b3 };
    fm_tokenizer *t = train_small(tok_dir, source, 2);
    fm_data_report r;
    OK(fm_data_prepare(
        t, &(fm_data_options){ .source = source, .n_sources = 2, .shard_tokens = 20000 }, out, &r,
        &err));
    assert_int_equal(r.n_read, 1500);
    fm_data *d = NULL;
    OK(fm_data_open(out, &d, &err));
    assert_true(fm_data_tokenizer_hash(d) == fm_tokenizer_hash(t));
    assert_int_equal(fm_data_vocab_size(d), 300);
    fm_data_count train = fm_data_total(d, FM_SPLIT_TRAIN), val = fm_data_total(d, FM_SPLIT_VAL);
    assert_memory_equal(&train, &r.train, sizeof train);
    assert_in_range(val.n_documents, 8,
                    60); /* 30 expected, five deviations of 5.4 below and above */
    /* Every document is on one side, as often as its weight says. */
    static int seen[1500], out_of[1500];
    memset(seen, 0, sizeof seen);
    memset(out_of, 0, sizeof out_of);
    fm_text text = {0};
    for (int s = 0; s < 2; s++)
        for (int64_t i = 0; i < fm_data_total(d, (fm_split)s).n_documents; i++) {
            doc_text(d, t, (fm_split)s, i, &text);
            int k;
            assert_int_equal(sscanf(text.data, "the story number %d was told", &k), 1);
            if (s) assert_true(fmi_hash_bytes(text.data, text.n, 0) % 50 == 0);
            (s ? out_of : seen)[k]++;
        }
    for (int k = 0; k < 1500; k++) {
        if (out_of[k]) assert_true(seen[k] == 0 && out_of[k] == 1);
        else assert_int_equal(seen[k], k < 1000 ? 1 : 3);
    }
    fm_data_close(d);
    fm_text_deinit(&text);
    /* A directory that holds something is left alone. */
    assert_int_equal(
        fm_data_prepare(t, &(fm_data_options){ .source = source, .n_sources = 2 }, out, &r, &err),
        FM_E_STATE);
    assert_non_null(strstr(err.text, "data"));
    /* The tokenizer travels along. */
    fm_tokenizer *copy = NULL;
    OK(fm_tokenizer_open(out, &copy, &err));
    assert_true(fm_tokenizer_hash(copy) == fm_tokenizer_hash(t));
    fm_tokenizer_free(copy);
    fm_tokenizer_free(t);
    fmi_free(a), fmi_free(b), fmi_free(b3), fmi_free(out), fmi_free(tok_dir);
    drop_dir(dir);
}

static void prepare_docs(const fm_tokenizer *t, const char *dir, const char *text, int val_every,
                         fm_data_report *r)
{
    fm_err err;
    char *path = put_file(dir, "in.txt", text, strlen(text)), *out = fmi_path_join(dir, "out");
    const char *source[1] = { path };
    OK(fmi_tree_remove(out, &err));
    OK(fm_data_prepare(
        t, &(fm_data_options){ .source = source, .n_sources = 1, .val_every = val_every }, out, r,
        &err));
    fm_data *d = NULL;
    OK(fm_data_open(out, &d, &err));
    assert_int_equal(fm_data_total(d, FM_SPLIT_VAL).n_documents, r->val.n_documents);
    fm_data_close(d);
    fmi_free(path);
    fmi_free(out);
}

#define E "\n<|endoftext|>\n"
static void test_small_splits(void **state)
{
    (void)state;
    char *dir = temp_dir(), *tok_dir = fmi_path_join(dir, "tok"), *a = numbered(dir, "a.txt", 0, 9);
    const char *source[1] = { a };
    fm_tokenizer *t = train_small(tok_dir, source, 1);
    fm_data_report r;
    prepare_docs(t, dir, "one", 0, &r);
    assert_int_equal(r.train.n_documents, 1);
    assert_int_equal(r.val.n_documents, 0);
    /* Two documents: one each, whatever their hashes, also where the rule would take both. */
    for (int i = 0; i < 24; i++) {
        char two[64];
        snprintf(two, sizeof two, "first %d" E "second %d", i, i);
        prepare_docs(t, dir, two, i % 2 ? 2 : 1000000, &r);
        assert_int_equal(r.train.n_documents, 1);
        assert_int_equal(r.val.n_documents, 1);
    }
    /* Equal texts stay together while something else is there; alone they part. */
    prepare_docs(t, dir, "same" E "same" E "other" E "same", 1000000, &r);
    assert_int_equal(r.train.n_documents + r.val.n_documents, 4);
    assert_true(r.val.n_documents == 1 || r.val.n_documents == 3);
    prepare_docs(t, dir, "same" E "same" E "same", 1000000, &r);
    assert_int_equal(r.train.n_documents, 2);
    assert_int_equal(r.val.n_documents, 1);
    fm_tokenizer_free(t);
    fmi_free(a), fmi_free(tok_dir);
    drop_dir(dir);
}

static void test_val_file_and_errors(void **state)
{
    (void)state;
    fm_err err;
    char *dir = temp_dir(), *tok_dir = fmi_path_join(dir, "tok"), *out = fmi_path_join(dir, "out");
    char *a = numbered(dir, "a.txt", 0, 200), *v = numbered(dir, "v.txt", 900, 910);
    const char *source[1] = { a };
    fm_tokenizer *t = train_small(tok_dir, source, 1);
    fm_data_report r;
    OK(fm_data_prepare(t, &(fm_data_options){ .source = source, .n_sources = 1, .val_source = v },
                       out, &r, &err));
    assert_int_equal(r.train.n_documents, 200);
    assert_int_equal(r.val.n_documents, 10);
    /* Manifest against shards: a shard of another run is refused. */
    char *shard = fmi_path_join(out, "val.shard"), *train = fmi_path_join(out, "train-00000.shard");
    size_t n;
    char *bytes = read_whole(train, &n);
    OK(fmi_file_write(shard, bytes, n, &err));
    fm_data *d = NULL;
    assert_int_equal(fm_data_open(out, &d, &err), FM_E_FORMAT);
    assert_non_null(strstr(err.text, "data.json: val"));
    assert_null(d);
    fmi_free(bytes);
    OK(fmi_tree_remove(out, &err));
    /* Nothing to train on, and nothing left behind. */
    char *empty = put_file(dir, "empty.txt", "\n", 1), *missing = fmi_path_join(dir, "missing.txt");
    const char *bad[2] = { empty, missing };
    fm_status want[2] = { FM_E_FORMAT, FM_E_IO };
    for (int i = 0; i < 2; i++) {
        fm_status st = fm_data_prepare(t, &(fm_data_options){ .source = &bad[i], .n_sources = 1 },
                                       out, &r, &err);
        assert_int_equal(st, want[i]);
        assert_non_null(strstr(err.text, bad[i]));
        assert_false(fmi_path_exists(out));
    }
    char **names;
    int n_names;
    OK(fmi_dir_names(dir, &names, &n_names, &err));
    for (int i = 0; i < n_names; i++) assert_null(strstr(names[i], "tmp"));
    fmi_names_free(names, n_names);
    assert_int_equal(fm_data_train_tokenizer(bad, 1, 300, out, NULL, &err), FM_E_STATE);
    fm_tokenizer_free(t);
    fmi_free(a), fmi_free(v), fmi_free(out), fmi_free(tok_dir), fmi_free(shard), fmi_free(train);
    fmi_free(empty), fmi_free(missing);
    drop_dir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_document_rule), cmocka_unit_test(test_cut_long),
        cmocka_unit_test(test_jsonl),         cmocka_unit_test(test_compressed),
        cmocka_unit_test(test_source_syntax), cmocka_unit_test(test_prepare),
        cmocka_unit_test(test_small_splits),  cmocka_unit_test(test_val_file_and_errors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
