/* JSON in and out. Depth is bounded by a scan before jansson recurses; the rest of the grammar,
 * UTF-8 and duplicate keys are jansson's business. */
#include "io/json.h"

#include <math.h>
#include <pthread.h>
#include <string.h>

#include "io/file.h"

/* jansson's lexer does not look whether its token buffer could grow: a failed allocation there
 * loses characters or writes past the end. So while a parse runs, a failed allocation is answered
 * from a reserve and remembered; the input then ends (after at most the 1024 bytes jansson has
 * fetched), and the outcome is thrown away as out of memory. */
#define RESERVE_BYTES ((size_t)128 << 10) /* for the values in 1024 bytes; tokens come on top */

static _Thread_local struct {
    char *base; /* NULL: no parse is running */
    size_t used, cap;
    bool failed;
} reserve;

static pthread_once_t alloc_once = PTHREAD_ONCE_INIT;

static void *json_alloc(size_t bytes)
{
    void *p = fmi_alloc(bytes);
    if (p || !reserve.base) return p;
    reserve.failed = true;
    size_t rounded = (bytes + 15) & ~(size_t)15;
    if (rounded < bytes || rounded > reserve.cap - reserve.used) return NULL;
    p = reserve.base + reserve.used;
    reserve.used += rounded;
    return p;
}

static void json_release(void *p)
{
    uintptr_t at = (uintptr_t)p, base = (uintptr_t)reserve.base;
    if (!reserve.base || at < base || at >= base + reserve.cap) fmi_free(p);
}

static void set_alloc(void)
{
    json_set_alloc_funcs(json_alloc, json_release);
}

void fmi_json_init(void)
{
    pthread_once(&alloc_once, set_alloc);
}

/* Position of the bracket that goes too deep, or n; and the length of the longest token. The
 * grammar is not judged. */
static size_t scan(const char *s, size_t n, size_t *longest)
{
    int depth = 0;
    bool in_string = false;
    size_t start = 0, most = 0; /* of the current token */
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        if (in_string) {
            if (c == '\\') i++;
            if (c != '"') continue;
            in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '{' || c == '[') {
            if (++depth > FMI_JSON_DEPTH_MAX) return i;
        } else if (c == '}' || c == ']') {
            depth--;
        } else if (c != ',' && c != ':' && c != ' ' && c != '\n') {
            continue;
        }
        if (i - start > most) most = i - start;
        start = i;
    }
    *longest = n - start > most ? n - start : most;
    return n;
}

typedef struct feed {
    const char *at;
    size_t left;
} feed;

/* jansson's source of bytes: ends early once an allocation has failed. */
static size_t feed_bytes(void *buf, size_t cap, void *arg)
{
    feed *f = arg;
    size_t n = f->left < cap ? f->left : cap;
    if (reserve.failed) return 0;
    if (n) memcpy(buf, f->at, n);
    f->at += n;
    f->left -= n;
    return n;
}

/* NULL with e filled, or NULL with reserve.failed. */
static json_t *load(const char *text, size_t n, size_t longest, size_t flags, json_error_t *e)
{
    feed f = {text, n};
    reserve.used = 0;
    reserve.cap = RESERVE_BYTES + 4 * longest;
    reserve.base = fmi_alloc(reserve.cap);
    reserve.failed = !reserve.base;
    if (reserve.failed) return NULL;
    json_t *j = json_load_callback(feed_bytes, &f, flags, e);
    if (reserve.failed) {
        json_decref(j);
        j = NULL;
    }
    fmi_free(reserve.base);
    reserve.base = NULL;
    return j;
}

static int line_of(const char *s, size_t at)
{
    int line = 1;
    for (size_t i = 0; i < at; i++) line += s[i] == '\n';
    return line;
}

fm_status fmi_json_parse(const char *name, const char *text, size_t n, bool any, json_t **out,
                         fm_err *err)
{
    fmi_json_init();
    if (n > FMI_JSON_BYTES_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: %zu bytes of JSON, expected at most %zu", name, n,
                       FMI_JSON_BYTES_MAX);
    size_t longest = 0, deep = scan(text, n, &longest);
    if (deep < n)
        return FM_FAIL(err, FM_E_FORMAT, "%s: line %d (byte %zu): JSON nested deeper than %d", name,
                       line_of(text, deep), deep, FMI_JSON_DEPTH_MAX);
    json_error_t e;
    memset(&e, 0, sizeof e);
    size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | (any ? JSON_DECODE_ANY : 0);
    json_t *j = load(text, n, longest, flags, &e);
    if (j) {
        *out = j;
        return FM_OK;
    }
    if (reserve.failed || json_error_code(&e) == json_error_out_of_memory)
        return FM_FAIL(err, FM_E_NOMEM, "%s: JSON of %zu bytes", name, n);
    return FM_FAIL(err, FM_E_FORMAT, "%s: line %d, column %d (byte %d): %s", name, e.line, e.column,
                   e.position, e.text);
}

fm_status fmi_json_load(const char *path, size_t max_bytes, json_t **out, fm_err *err)
{
    char *text;
    size_t n;
    fm_status st = fmi_file_read(path, max_bytes, &text, &n, err);
    if (st) return st;
    st = fmi_json_parse(path, text, n, false, out, err);
    fmi_free(text);
    return st;
}

/* A growing text; `failed` sticks. */
typedef struct text_buf {
    char *s;
    size_t n, cap;
    bool failed;
} text_buf;

static void put(text_buf *b, const char *s, size_t n)
{
    if (b->failed) return;
    if (b->n + n + 1 > b->cap) {
        size_t cap = b->cap ? b->cap * 2 : 256;
        while (cap < b->n + n + 1) cap *= 2;
        char *p = fmi_realloc(b->s, cap);
        if (!p) {
            b->failed = true;
            return;
        }
        b->s = p;
        b->cap = cap;
    }
    memcpy(b->s + b->n, s, n);
    b->n += n;
    b->s[b->n] = 0;
}

static void put_string(text_buf *b, const char *s, size_t n)
{
    put(b, "\"", 1);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char esc[8];
        if (c == '"' || c == '\\') {
            put(b, (char[]){'\\', (char)c}, 2);
        } else if (c == '\n') {
            put(b, "\\n", 2);
        } else if (c == '\t') {
            put(b, "\\t", 2);
        } else if (c == '\r') {
            put(b, "\\r", 2);
        } else if (c < 0x20) {
            int k = snprintf(esc, sizeof esc, "\\u%04x", c);
            put(b, esc, (size_t)k);
        } else {
            put(b, s + i, 1);
        }
    }
    put(b, "\"", 1);
}

/* The shortest decimal that reads back as the same double, always with a point or an exponent. */
static void put_real(text_buf *b, double x)
{
    char s[40];
    int k = 0;
    for (int digits = 1; digits <= 17; digits++) {
        k = snprintf(s, sizeof s, "%.*g", digits, x);
        if (strtod(s, NULL) == x) break;
    }
    put(b, s, (size_t)k);
    if (!strpbrk(s, ".eE")) put(b, ".0", 2);
}

static void newline(text_buf *b, int indent, int depth)
{
    if (indent <= 0) return;
    put(b, "\n", 1);
    for (int i = 0; i < indent * depth; i++) put(b, " ", 1);
}

static void put_value(text_buf *b, const json_t *j, int indent, int depth);

static void put_object(text_buf *b, const json_t *j, int indent, int depth)
{
    bool first = true;
    put(b, "{", 1);
    for (void *it = json_object_iter((json_t *)(uintptr_t)j); it;
         it = json_object_iter_next((json_t *)(uintptr_t)j, it)) {
        if (!first) put(b, indent ? "," : ", ", indent ? 1 : 2);
        first = false;
        newline(b, indent, depth + 1);
        const char *key = json_object_iter_key(it);
        put_string(b, key, strlen(key));
        put(b, ": ", 2);
        put_value(b, json_object_iter_value(it), indent, depth + 1);
    }
    if (!first) newline(b, indent, depth);
    put(b, "}", 1);
}

static void put_array(text_buf *b, const json_t *j, int indent, int depth)
{
    size_t n = json_array_size(j);
    /* Numbers side by side: a list of a thousand ids is one line. */
    bool flat = n > 0 && json_is_number(json_array_get(j, 0));
    int in = flat ? 0 : indent;
    put(b, "[", 1);
    for (size_t i = 0; i < n; i++) {
        if (i) put(b, in ? "," : ", ", in ? 1 : 2);
        newline(b, in, depth + 1);
        put_value(b, json_array_get(j, i), in, depth + 1);
    }
    if (n) newline(b, in, depth);
    put(b, "]", 1);
}

static void put_value(text_buf *b, const json_t *j, int indent, int depth)
{
    char s[32];
    int k;
    FM_ASSERT(j && depth <= FMI_JSON_DEPTH_MAX + 1);
    switch (json_typeof(j)) {
    case JSON_OBJECT: put_object(b, j, indent, depth); break;
    case JSON_ARRAY: put_array(b, j, indent, depth); break;
    case JSON_STRING: put_string(b, json_string_value(j), json_string_length(j)); break;
    case JSON_INTEGER:
        k = snprintf(s, sizeof s, "%" JSON_INTEGER_FORMAT, json_integer_value(j));
        put(b, s, (size_t)k);
        break;
    case JSON_REAL: put_real(b, json_real_value(j)); break;
    case JSON_TRUE: put(b, "true", 4); break;
    case JSON_FALSE: put(b, "false", 5); break;
    case JSON_NULL: put(b, "null", 4); break;
    }
}

char *fmi_json_text(const json_t *json)
{
    text_buf b = {0};
    put_value(&b, json, 0, 0);
    if (!b.failed) return b.s;
    fmi_free(b.s);
    return NULL;
}

fm_status fmi_json_write(const char *path, const json_t *json, fm_err *err)
{
    text_buf b = {0};
    put_value(&b, json, 2, 0);
    put(&b, "\n", 1);
    fm_status st = b.failed ? FM_FAIL(err, FM_E_NOMEM, "%s: JSON text", path)
                            : fmi_file_write(path, b.s, b.n, err);
    fmi_free(b.s);
    return st;
}
