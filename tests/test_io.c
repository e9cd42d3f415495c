/* io without tensors: atomic files and directories, mappings, hashes, JSON, recipes, model lookup.
 * Bad input is asserted by status code and by the parts its message must hold. */
#include "support.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "fathom/nearest.h"
#include "io/checkpoint_dir.h"
#include "io/file.h"
#include "io/hash.h"
#include "io/ini.h"
#include "io/json.h"

static fm_err ok_err;

static const char *in_dir(const char *name)
{
    static char path[4][512];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", test_dir(), name);
    return p;
}

static void put_text(const char *path, const char *text)
{
    OK(fmi_file_write(path, text, strlen(text), &ok_err));
}

/* The message holds every part (a NULL-ended list). */
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

static int entries(const char *dir)
{
    char **names;
    int n;
    OK(fmi_dir_names(dir, &names, &n, &ok_err));
    fmi_names_free(names, n);
    return n;
}

static void test_write_and_read(void **state)
{
    (void)state;
    const char *dir = in_dir("files");
    OK(fmi_dir_make(dir, &ok_err));
    char path[600];
    snprintf(path, sizeof path, "%s/a.txt", dir);
    put_text(path, "one");
    put_text(path, "two");
    char *s;
    size_t n;
    OK(fmi_file_read(path, 3, &s, &n, &ok_err));
    assert_int_equal(n, 3);
    assert_string_equal(s, "two");
    fmi_free(s);
    assert_int_equal(entries(dir), 1);
    fm_err e;
    holds(&e, fmi_file_read(path, 2, &s, &n, &e), FM_E_RANGE, "a.txt", "3 bytes", "at most 2",
          NULL);
    holds(&e, fmi_file_read("nowhere/x", 2, &s, &n, &e), FM_E_IO, "nowhere/x", "No such file",
          NULL);
    holds(&e, fmi_file_read(dir, 2, &s, &n, &e), FM_E_IO, "directory", NULL);
    holds(&e, fmi_file_read("/dev/zero", 100000, &s, &n, &e), FM_E_RANGE, "/dev/zero", NULL);
    OK(fmi_file_read("/dev/null", 10, &s, &n, &ok_err));
    assert_int_equal(n, 0);
    fmi_free(s);
    holds(&e, fmi_file_write(dir, "x", 1, &e), FM_E_IO, "is a directory", NULL);
    holds(&e, fmi_file_write("nowhere/x", "x", 1, &e), FM_E_IO, "nowhere/x", "No such file", NULL);
}

static void test_writer_streams_and_patches(void **state)
{
    (void)state;
    const char *path = in_dir("stream.bin");
    enum { PIECE = 100003, PIECES = 7 };
    char *piece = fmi_alloc(PIECE), *got;
    fmi_out *o;
    OK(fmi_out_open(path, &o, &ok_err));
    for (int i = 0; i < PIECES; i++) {
        memset(piece, 'a' + i, PIECE);
        OK(fmi_out_write(o, piece, PIECE, &ok_err));
        assert_int_equal(fmi_out_offset(o), (uint64_t)(i + 1) * PIECE);
    }
    OK(fmi_out_patch(o, 2, "XY", 2, &ok_err));
    OK(fmi_out_write(o, "end", 3, &ok_err));
    assert_false(fmi_path_exists(path));
    OK(fmi_out_close(o, &ok_err));
    fmi_out_free(o);
    size_t n;
    OK(fmi_file_read(path, 1 << 20, &got, &n, &ok_err));
    assert_int_equal(n, PIECES * PIECE + 3);
    assert_memory_equal(got, "aaXYaa", 6);
    assert_memory_equal(got + n - 3, "end", 3);
    for (int i = 1; i < PIECES; i++)
        assert_true(got[i * PIECE] == 'a' + i && got[(i + 1) * PIECE - 1] == 'a' + i);
    fmi_free(got);
    /* abandoned: nothing appears, nothing stays */
    int before = entries(test_dir());
    OK(fmi_out_open(in_dir("abandoned"), &o, &ok_err));
    OK(fmi_out_write(o, piece, PIECE, &ok_err));
    fmi_out_free(o);
    assert_int_equal(entries(test_dir()), before);
    fmi_free(piece);
}

/* A write that the system refuses: /dev/full says ENOSPC; a file size limit stands for a disk that
 * fills in the middle of a regular file. */
static void test_full_disk(void **state)
{
    (void)state;
    fm_err e;
    holds(&e, fmi_file_write("/dev/full", "x", 1, &e), FM_E_IO, "/dev/full", "No space left", NULL);
    const char *path = in_dir("full.bin");
    put_text(path, "old");
    int before = entries(test_dir());
    struct rlimit was, small;
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = 300000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    char *big = fmi_zalloc(1000000);
    fm_status st = fmi_file_write(path, big, 1000000, &e);
    setrlimit(RLIMIT_FSIZE, &was);
    signal(SIGXFSZ, SIG_DFL);
    holds(&e, st, FM_E_IO, "full.bin", "File too large", NULL);
    fmi_free(big);
    char *s;
    OK(fmi_file_read(path, 100, &s, NULL, &ok_err));
    assert_string_equal(s, "old");
    fmi_free(s);
    assert_int_equal(entries(test_dir()), before);
}

static void test_directories(void **state)
{
    (void)state;
    char path[600], file[700];
    snprintf(path, sizeof path, "%s/x/y/z/", in_dir("tree"));
    OK(fmi_dir_make(path, &ok_err));
    OK(fmi_dir_make(path, &ok_err));
    assert_true(fmi_path_is_dir(path));
    snprintf(file, sizeof file, "%sfile", path);
    put_text(file, "x");
    fm_err e;
    holds(&e, fmi_dir_make(file, &e), FM_E_IO, "file", "Not a directory", NULL);
    /* a link out of the tree is removed, not followed */
    snprintf(file, sizeof file, "%slink", path);
    put_text(in_dir("kept"), "x");
    assert_int_equal(symlink(test_dir(), file), 0);
    OK(fmi_tree_remove(in_dir("tree"), &ok_err));
    assert_false(fmi_path_exists(in_dir("tree")));
    assert_true(fmi_path_is_file(in_dir("kept")));
    OK(fmi_tree_remove(in_dir("tree"), &ok_err));
    static const char *const parents[][2] = {{"a", "."}, {"a/b", "a"},  {"a/b/", "a"}, {"/a", "/"},
                                             {"/", "/"}, {"a//b", "a"}, {"", "."}};
    for (size_t i = 0; i < sizeof parents / sizeof parents[0]; i++) {
        char *p = fmi_path_parent(parents[i][0]);
        assert_string_equal(p, parents[i][1]);
        fmi_free(p);
    }
    char *j = fmi_path_join("a/", "b"), *k = fmi_path_join("a", "b");
    assert_string_equal(j, "a/b");
    assert_string_equal(k, "a/b");
    fmi_free(j);
    fmi_free(k);
}

static void publish(const char *path, const char *content, bool replace, fm_status want)
{
    char *tmp, *file, *sub;
    fm_err e;
    OK(fmi_dir_open_tmp(path, &tmp, &ok_err));
    assert_int_equal(entries(tmp), 0);
    sub = fmi_path_join(tmp, "trainer");
    OK(fmi_dir_make(sub, &ok_err));
    file = fmi_path_join(sub, "state");
    put_text(file, content);
    fm_status st = fmi_dir_close_tmp(tmp, path, replace, &e);
    if (st != want) fail_msg("%s", e.text);
    if (st) OK(fmi_tree_remove(tmp, &ok_err));
    assert_false(fmi_path_exists(tmp));
    fmi_free(tmp);
    fmi_free(file);
    fmi_free(sub);
}

static void check_published(const char *path, const char *want)
{
    char file[700], *s;
    snprintf(file, sizeof file, "%s/trainer/state", path);
    OK(fmi_file_read(file, 100, &s, NULL, &ok_err));
    assert_string_equal(s, want);
    fmi_free(s);
}

static void test_directory_publication(void **state)
{
    (void)state;
    char path[600];
    snprintf(path, sizeof path, "%s", in_dir("run/checkpoints/10"));
    publish(path, "one", false, FM_OK);
    check_published(path, "one");
    publish(path, "two", false, FM_E_STATE);
    check_published(path, "one");
    publish(path, "three", true, FM_OK);
    check_published(path, "three");
    assert_int_equal(entries(in_dir("run/checkpoints")), 1);
    /* leftovers: of a dead process, of this one, of a living one, and two of another form */
    OK(fmi_dir_make(in_dir("run/checkpoints/20.tmp-2147483646/a"), &ok_err));
    char own[64], parent[64];
    snprintf(own, sizeof own, "run/checkpoints/f.tmp-%ld-3", (long)getpid());
    snprintf(parent, sizeof parent, "run/checkpoints/f.tmp-%ld", (long)getppid());
    put_text(in_dir(own), "x");
    put_text(in_dir(parent), "x");
    put_text(in_dir("run/checkpoints/f.tmp-"), "x");
    put_text(in_dir("run/checkpoints/f.tmp-12x"), "x");
    OK(fmi_dir_sweep_tmp(in_dir("run/checkpoints"), &ok_err));
    assert_false(fmi_path_exists(in_dir("run/checkpoints/20.tmp-2147483646")));
    assert_false(fmi_path_exists(in_dir(own)));
    assert_true(fmi_path_exists(in_dir(parent)));
    assert_int_equal(entries(in_dir("run/checkpoints")), 4);
}

static void test_maps(void **state)
{
    (void)state;
    fm_map m = {0};
    fm_map_close(&m);
    put_text(in_dir("empty"), "");
    OK(fm_map_open(&m, in_dir("empty"), &ok_err));
    assert_null(m.data);
    assert_int_equal(m.bytes, 0);
    fm_map_advise(&m, 0, 10, FMI_ADVICE_DONE);
    fm_map_close(&m);
    put_text(in_dir("short"), "hello");
    OK(fm_map_open(&m, in_dir("short"), &ok_err));
    assert_int_equal(m.bytes, 5);
    fm_map_advise(&m, 0, 5, FMI_ADVICE_WILL_NEED);
    fm_map_advise(&m, 1, SIZE_MAX, FMI_ADVICE_SEQUENTIAL);
    fm_map_advise(&m, 0, 5, FMI_ADVICE_DONE);
    assert_memory_equal(m.data, "hello", 5);
    fm_map_close(&m);
    fm_err e;
    holds(&e, fm_map_open(&m, test_dir(), &e), FM_E_IO, "not a regular file", NULL);
    holds(&e, fm_map_open(&m, "nowhere", &e), FM_E_IO, "nowhere", "No such file", NULL);
}

/* Values of libxxhash 0.8.1 for bytes (131 i + 7) mod 256. */
static void test_hash_known_answers(void **state)
{
    (void)state;
    static const struct {
        size_t n;
        uint64_t zero, seeded;
    } rows[] = {
        {0, 0xef46db3751d8e999, 0xac75fda2929b17ef},
        {1, 0xa96c7f0ce858bbb7, 0x84e535b36672440d},
        {3, 0xbed43740ee6332bb, 0x00b77b485431ce5d},
        {4, 0xfa212ae44b3bb23d, 0x60492c4bfcb70cac},
        {7, 0x2744460dd675d2c0, 0xcdf83b729545b016},
        {8, 0x994b676b71ce94dd, 0xf424edebfea8d23f},
        {15, 0x09e6451ed2ff8b1d, 0xc812576b9fd296ee},
        {31, 0x6711d55e306b5d8f, 0xfa1259cc8b20eb58},
        {32, 0x07f7b8e3bc5d6e25, 0x920f3e10a5db09c6},
        {33, 0x09f85eeb4e1cbe9f, 0x3d805e8712cb4890},
        {63, 0xb7c9968c066cb6a5, 0x184bc5097530bb9a},
        {64, 0x50d4159a0411632e, 0x94667e10d68b3991},
        {100, 0x9ddada11d3dc2d8f, 0x5766be6782b96389},
        {1000, 0x0bf0bdbcc82eb373, 0xb43e358553049780},
    };
    uint8_t data[1000];
    for (int i = 0; i < 1000; i++) data[i] = (uint8_t)(i * 131 + 7);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_true(fmi_hash_bytes(data, rows[i].n, 0) == rows[i].zero);
        assert_true(fmi_hash_bytes(data, rows[i].n, 0x9E3779B1) == rows[i].seeded);
    }
    /* any cutting into pieces gives the same */
    for (size_t piece = 1; piece < 70; piece++) {
        fmi_hash h;
        fmi_hash_init(&h, 0);
        for (size_t at = 0; at < 1000; at += piece)
            fmi_hash_write(&h, data + at, at + piece < 1000 ? piece : 1000 - at);
        assert_true(fmi_hash_get(&h) == fmi_hash_bytes(data, 1000, 0));
    }
    uint64_t of_file;
    OK(fmi_file_write(in_dir("hashed"), data, 1000, &ok_err));
    OK(fmi_hash_file(in_dir("hashed"), &of_file, &ok_err));
    assert_true(of_file == 0x0bf0bdbcc82eb373);
}

static fm_status parse(const char *text, size_t n, json_t **out, fm_err *e)
{
    return fmi_json_parse("t.json", text, n, false, out, e);
}

static void test_json_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } rows[] = {
        {"{\"a\": 1,\n \"a\": 2}", "duplicate"},
        {"{\"a\": \"\xff\"}", "decode byte 0xff"},
        {"{\"a\": \"\xc3\"}", "line 1"},
        {"{\n\"a\": }", "line 2"},
        {"{\"a\": 99999999999999999999}", "integer"},
        {"{\"a\": 1e999}", "overflow"},
        {"{} x", "end of file expected"},
        {"", "'[' or '{' expected"},
        {"3", "'[' or '{' expected"},
        {"{\"a\": NaN}", "line 1"},
    };
    json_t *j = NULL;
    fm_err e;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        holds(&e, parse(rows[i].text, strlen(rows[i].text), &j, &e), FM_E_FORMAT, "t.json: line ",
              "column", "byte", rows[i].part, NULL);
        assert_null(j);
    }
    char deep[2 * 200 + 1];
    memset(deep, '[', 200);
    memset(deep + 200, ']', 200);
    holds(&e, parse(deep, 400, &j, &e), FM_E_FORMAT, "byte 128", "deeper than 128", NULL);
    assert_int_equal(parse(deep + 72, 256, &j, &e), FM_OK);
    json_decref(j);
    assert_int_equal(fmi_json_parse("t", "3", 1, true, &j, &e), FM_OK);
    json_decref(j);
    assert_int_equal(parse("{\"a\": \"x\\u0000y\"}", 17, &j, &e), FM_OK);
    assert_int_equal(json_string_length(json_object_get(j, "a")), 3);
    const char *s;
    holds(&e, fmi_json_get_string(j, "t.json", "a", &s, &e), FM_E_FORMAT, "\\u0000", NULL);
    json_decref(j);
    put_text(in_dir("big.json"), "{\"a\": 1}");
    holds(&e, fmi_json_load(in_dir("big.json"), 4, &j, &e), FM_E_RANGE, "big.json", NULL);
    put_text(in_dir("bad.json"), "{\n\n\"a\": 1,}");
    holds(&e, fmi_json_load(in_dir("bad.json"), 100, &j, &e), FM_E_FORMAT, "bad.json: line 3",
          NULL);
}

static void test_json_getters(void **state)
{
    (void)state;
    static const char text[] =
        "{\"i\": 7, \"d\": 1.5, \"b\": true, \"s\": \"str\", \"o\": {\"k\": 1},"
        " \"a\": [1], \"z\": null}";
    json_t *j, *sub;
    fm_err e;
    int64_t i = 0;
    double d = 0;
    bool b = false;
    const char *s;
    OK(parse(text, sizeof text - 1, &j, &ok_err));
    OK(fmi_json_get_int(j, "f", "i", &i, &ok_err));
    assert_int_equal(i, 7);
    OK(fmi_json_get_double(j, "f", "d", &d, &ok_err));
    assert_true(d == 1.5);
    OK(fmi_json_get_double(j, "f", "i", &d, &ok_err));
    assert_true(d == 7);
    OK(fmi_json_get_bool(j, "f", "b", &b, &ok_err));
    assert_true(b);
    OK(fmi_json_get_string(j, "f", "s", &s, &ok_err));
    assert_string_equal(s, "str");
    OK(fmi_json_get_object(j, "f", "o", &sub, &ok_err));
    OK(fmi_json_get_int(sub, "f: o", "k", &i, &ok_err));
    OK(fmi_json_get_array(j, "f", "a", &sub, &ok_err));
    OK(fmi_json_opt_int(j, "f", "z", 9, &i, &ok_err));
    assert_int_equal(i, 9);
    OK(fmi_json_opt_double(j, "f", "none", 2.5, &d, &ok_err));
    assert_true(d == 2.5);
    OK(fmi_json_opt_bool(j, "f", "none", false, &b, &ok_err));
    assert_false(b);
    OK(fmi_json_opt_string(j, "f", "none", "def", &s, &ok_err));
    assert_string_equal(s, "def");
    OK(fmi_json_opt_object(j, "f", "z", &sub, &ok_err));
    assert_null(sub);
    OK(fmi_json_opt_array(j, "f", "none", &sub, &ok_err));
    assert_null(sub);
    holds(&e, fmi_json_get_int(j, "c.json", "d", &i, &e), FM_E_FORMAT, "c.json", "\"d\"",
          "expected an integer", "1.5", NULL);
    holds(&e, fmi_json_get_int(j, "c.json", "none", &i, &e), FM_E_FORMAT, "found nothing", NULL);
    holds(&e, fmi_json_get_int(j, "c.json", "z", &i, &e), FM_E_FORMAT, "found null", NULL);
    holds(&e, fmi_json_opt_int(j, "c.json", "s", 0, &i, &e), FM_E_FORMAT, "the string \"str\"",
          NULL);
    holds(&e, fmi_json_get_double(j, "c.json", "s", &d, &e), FM_E_FORMAT, "a number", NULL);
    holds(&e, fmi_json_get_bool(j, "c.json", "i", &b, &e), FM_E_FORMAT, "true or false", "7", NULL);
    holds(&e, fmi_json_get_string(j, "c.json", "o", &s, &e), FM_E_FORMAT, "an object", NULL);
    holds(&e, fmi_json_get_object(j, "c.json", "a", &sub, &e), FM_E_FORMAT, "an array", NULL);
    holds(&e, fmi_json_get_array(j, "c.json", "none", &sub, &e), FM_E_FORMAT, "found nothing",
          NULL);
    json_decref(j);
}

static void test_json_writes(void **state)
{
    (void)state;
    json_t *j =
        json_pack("{s:i, s:f, s:f, s:f, s:s%, s:[i,i], s:{}, s:[], s:b, s:n, s:[s]}", "z", 1, "eps",
                  1e-6, "third", 1.0 / 3, "one", 1.0, "text", "a\"\\\n\x01\xc3\xa9\0b", (size_t)9,
                  "ids", 1, 2, "o", "l", "t", 1, "n", "names", "x");
    assert_non_null(j);
    char *s = fmi_json_text(j);
    assert_string_equal(s,
                        "{\"z\": 1, \"eps\": 1e-06, \"third\": 0.3333333333333333, \"one\": 1.0, "
                        "\"text\": \"a\\\"\\\\\\n\\u0001\xc3\xa9\\u0000b\", \"ids\": [1, 2], "
                        "\"o\": {}, \"l\": [], \"t\": true, \"n\": null, \"names\": [\"x\"]}");
    fmi_free(s);
    OK(fmi_json_write(in_dir("out.json"), j, &ok_err));
    OK(fmi_file_read(in_dir("out.json"), 1000, &s, NULL, &ok_err));
    assert_non_null(strstr(s, "{\n  \"z\": 1,\n  \"eps\": 1e-06,\n"));
    assert_non_null(strstr(s, "\"ids\": [1, 2],\n"));
    assert_non_null(strstr(s, "\"names\": [\n    \"x\"\n  ]\n}\n"));
    fmi_free(s);
    json_t *back;
    OK(fmi_json_load(in_dir("out.json"), 1000, &back, &ok_err));
    assert_true(json_equal(j, back));
    json_decref(back);
    json_decref(j);
}

static void test_ini(void **state)
{
    (void)state;
    static const char text[] = "; recipe\nname = first\n\n[model]\npreset = nano\n# note\n"
                               "rope.theta = 1e4 ; inline\n  indented=yes\n[data]\ntext=a.txt  \n"
                               "empty =\n[model]\nextra: 5\n";
    fmi_ini *ini;
    fm_err e;
    OK(fmi_ini_parse("r.ini", text, sizeof text - 1, &ini, &ok_err));
    static const fmi_ini_entry want[] = {
        {"name", "first", 2},         {"model.preset", "nano", 5}, {"model.rope.theta", "1e4", 7},
        {"model.indented", "yes", 8}, {"data.text", "a.txt", 10},  {"data.empty", "", 11},
        {"model.extra", "5", 13}};
    assert_int_equal(ini->n, 7);
    for (int i = 0; i < 7; i++) {
        assert_string_equal(ini->entries[i].key, want[i].key);
        assert_string_equal(ini->entries[i].value, want[i].value);
        assert_int_equal(ini->entries[i].line, want[i].line);
    }
    assert_null(fmi_ini_get(ini, "model"));
    OK(fmi_ini_set(ini, "model.preset", "pico", &ok_err));
    OK(fmi_ini_set(ini, "top", "last", &ok_err));
    char long_value[1001];
    memset(long_value, 'v', 1000);
    long_value[1000] = 0;
    OK(fmi_ini_set(ini, "data.long", long_value, &ok_err));
    OK(fmi_ini_write(ini, in_dir("r.ini"), &ok_err));
    fmi_ini *back;
    OK(fmi_ini_open(in_dir("r.ini"), &back, &ok_err));
    assert_int_equal(back->n, ini->n);
    for (int i = 0; i < ini->n; i++)
        assert_string_equal(fmi_ini_get(back, ini->entries[i].key), ini->entries[i].value);
    assert_string_equal(back->entries[1].key, "top");
    fmi_ini_free(back);
    static const char *const bad_values[] = {"a\nb", " a", "a ", "a ;b", ";b", "a\r"};
    for (size_t i = 0; i < sizeof bad_values / sizeof bad_values[0]; i++)
        holds(&e, fmi_ini_set(ini, "k.v", bad_values[i], &e), FM_E_RANGE, "k.v", NULL);
    holds(&e, fmi_ini_set(ini, "a b", "x", &e), FM_E_RANGE, "a b", NULL);
    static const char *const known[] = {
        "name",      "top",        "model.preset", "model.rope.theta",
        "data.text", "data.empty", "data.long",    "model.extras"};
    holds(&e, fmi_ini_check_keys(ini, known, 8, &e), FM_E_FORMAT, "r.ini", "line 8",
          "model.indented", NULL);
    fmi_ini_free(ini);
}

static void test_ini_refuses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *line, *part;
    } rows[] = {
        {"[a]\nb = 1\nc\n", "line 3", "key = value"},
        {"[a\nb = 1\n", "line 1", "[section]"},
        {"[a]\nb = 1\n[c]\nx = 1\n[a]\nb = 2\n", "line 6", "line 2"},
        {"[a]\n= 2\n", "line 2", "key before"},
        {"[a234567890123456789012345678901234567890123456789012345]\nx = 1\n", "line 2",
         "section name"},
    };
    fmi_ini *ini = NULL;
    fm_err e;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        holds(&e, fmi_ini_parse("r.ini", rows[i].text, strlen(rows[i].text), &ini, &e), FM_E_FORMAT,
              "r.ini", rows[i].line, rows[i].part, NULL);
        assert_null(ini);
    }
    holds(&e, fmi_ini_parse("r.ini", "a = 1\nb\0 = 1", 12, &ini, &e), FM_E_FORMAT, "line 2", "NUL",
          NULL);
    char *long_line = fmi_alloc(FMI_INI_LINE_MAX + 2);
    memset(long_line, 'x', FMI_INI_LINE_MAX + 2);
    memcpy(long_line, "a = ", 4);
    holds(&e, fmi_ini_parse("r.ini", long_line, FMI_INI_LINE_MAX + 1, &ini, &e), FM_E_FORMAT,
          "line 1", "4097 bytes", NULL);
    long_line[FMI_INI_LINE_MAX] = '\n';
    OK(fmi_ini_parse("r.ini", long_line, FMI_INI_LINE_MAX + 1, &ini, &ok_err));
    assert_int_equal(strlen(fmi_ini_get(ini, "a")), FMI_INI_LINE_MAX - 4);
    fmi_ini_free(ini);
    fmi_free(long_line);
}

static void test_nearest(void **state)
{
    (void)state;
    static const char *const known[] = {"train.lr", "train.steps", "model.preset", "data.text"};
    assert_string_equal(fm_nearest("train.step", known, 4), "train.steps");
    assert_string_equal(fm_nearest("train.rl", known, 4), "train.lr");
    assert_string_equal(fm_nearest("modle.preset", known, 4), "model.preset");
    assert_null(fm_nearest("zzzzzzzzzzzz", known, 4));
    assert_null(fm_nearest("x", known, 0));
    fmi_ini *ini;
    fm_err e;
    OK(fmi_ini_parse("r.ini", "[train]\nstep = 5\n", 17, &ini, &ok_err));
    holds(&e, fmi_ini_check_keys(ini, known, 4, &e), FM_E_FORMAT, "line 2",
          "unknown key train.step", "did you mean train.steps", NULL);
    fmi_ini_free(ini);
}

static void test_model_lookup(void **state)
{
    (void)state;
    char root[512], *got;
    snprintf(root, sizeof root, "%s", in_dir("hub"));
    const char *const roots[] = {NULL, "nowhere", root};
    fm_err e;
    OK(fmi_dir_make(in_dir("hub/models--org--name/snapshots/abc123"), &ok_err));
    OK(fmi_dir_make(in_dir("hub/models--org--name/refs"), &ok_err));
    holds(&e, fmi_model_dir_resolve("org/name", roots, 3, &got, &e), FM_E_IO, "org/name",
          "hf download org/name", "huggingface-cli download org/name", NULL);
    put_text(in_dir("hub/models--org--name/refs/main"), "abc123\n");
    OK(fmi_model_dir_resolve("org/name", roots, 3, &got, &ok_err));
    assert_string_equal(got, in_dir("hub/models--org--name/snapshots/abc123"));
    fmi_free(got);
    put_text(in_dir("hub/models--org--name/refs/main"), "../../../etc");
    holds(&e, fmi_model_dir_resolve("org/name", roots, 3, &got, &e), FM_E_FORMAT, "refs/main",
          NULL);
    OK(fmi_model_dir_resolve(root, NULL, 0, &got, &ok_err));
    assert_string_equal(got, root);
    fmi_free(got);
    put_text(in_dir("m.safetensors"), "x");
    put_text(in_dir("m.bin"), "x");
    OK(fmi_model_dir_resolve(in_dir("m.safetensors"), NULL, 0, &got, &ok_err));
    fmi_free(got);
    holds(&e, fmi_model_dir_resolve(in_dir("m.bin"), NULL, 0, &got, &e), FM_E_FORMAT, "m.bin",
          NULL);
    holds(&e, fmi_model_dir_resolve("./gone/dir", roots, 3, &got, &e), FM_E_IO, "./gone/dir", NULL);
    holds(&e, fmi_model_dir_resolve("../name", roots, 3, &got, &e), FM_E_IO, "../name", NULL);
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
        cmocka_unit_test(test_write_and_read),
        cmocka_unit_test(test_writer_streams_and_patches),
        cmocka_unit_test(test_full_disk),
        cmocka_unit_test(test_directories),
        cmocka_unit_test(test_directory_publication),
        cmocka_unit_test(test_maps),
        cmocka_unit_test(test_hash_known_answers),
        cmocka_unit_test(test_json_refuses),
        cmocka_unit_test(test_json_getters),
        cmocka_unit_test(test_json_writes),
        cmocka_unit_test(test_ini),
        cmocka_unit_test(test_ini_refuses),
        cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_model_lookup),
    };
    return cmocka_run_group_tests(tests, NULL, remove_dir);
}
