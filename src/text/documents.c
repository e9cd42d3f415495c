/* The document rule of the design, applied while a file streams by.
 *
 * Text is kept only as long as it may still belong to the running document. Whether a long file has
 * `<|endoftext|>` lines is known only at the first one, so a file without any is held whole and cut
 * at its end. */
#include "text/documents.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "io/file.h"
#include "io/hash.h"
#include "io/json.h"
#include "text/buf.h"

#define CHUNK ((size_t)256 << 10)
#define BORDER "<|endoftext|>"

typedef struct reader {
    const char *path;     /* for messages */
    fmi_document_fn fn;
    void *arg;
    fm_text buf;          /* the running document, or line */
    size_t scanned;       /* bytes of buf before the first line not looked at */
    bool jsonl, sniff, borders;
    int64_t line;         /* lines seen */
} reader;

static bool ends_with(const char *s, size_t n, const char *end)
{
    size_t k = strlen(end);
    return n >= k && !strncasecmp(s + n - k, end, k);
}

static bool name_is_jsonl(const char *path)
{
    size_t n = strlen(path);
    if (ends_with(path, n, ".gz")) n -= 3;
    else if (ends_with(path, n, ".zst")) n -= 4;
    return ends_with(path, n, ".jsonl") || ends_with(path, n, ".ndjson");
}

/* Without the line ends around it. */
static fm_status give(reader *r, const char *s, size_t n, fm_err *err)
{
    while (n && (*s == '\n' || *s == '\r')) s++, n--;
    while (n && (s[n - 1] == '\n' || s[n - 1] == '\r')) n--;
    return n ? r->fn(r->arg, s, n, err) : FM_OK;
}

static fm_status give_json(reader *r, const char *s, size_t n, fm_err *err)
{
    size_t k = 0;
    while (k < n && (s[k] == ' ' || s[k] == '\t' || s[k] == '\r')) k++;
    if (k == n) return FM_OK;
    char name[400];
    snprintf(name, sizeof name, "%.360s: line %lld", r->path, (long long)r->line);
    json_t *root = NULL;
    fm_status st = fmi_json_parse(name, s, n, false, &root, err);
    if (st) return st;
    const json_t *text = json_object_get(root, "text");
    if (!json_is_string(text))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: key \"text\": expected a string, found %s", name,
                     fmi_json_type_name(text));
    else if (json_string_length(text))
        st = r->fn(r->arg, json_string_value(text), json_string_length(text), err);
    json_decref(root);
    return st;
}

static bool is_border(const char *s, size_t n)
{
    while (n && (s[n - 1] == '\r' || s[n - 1] == ' ' || s[n - 1] == '\t')) n--;
    return n == strlen(BORDER) && !memcmp(s, BORDER, n);
}

/* Standard input: JSON lines when its first line is an object with a string `text`. */
static void sniff(reader *r, const char *s, size_t n)
{
    r->sniff = false;
    json_error_t je;
    fmi_json_init();
    json_t *v = json_loadb(s, n, JSON_ALLOW_NUL, &je);
    r->jsonl = json_is_string(json_object_get(v, "text"));
    json_decref(v);
}

/* Looks at every whole line in buf; with `last` the rest counts as a line. Drops what was given
 * out. */
static fm_status take_lines(reader *r, bool last, fm_err *err)
{
    size_t doc = 0; /* begin of the running document */
    fm_status st = FM_OK;
    while (!st && r->scanned < r->buf.n) {
        char *s = r->buf.data + r->scanned, *nl = memchr(s, '\n', r->buf.n - r->scanned);
        if (!nl && !last) break;
        size_t n = nl ? (size_t)(nl - s) : r->buf.n - r->scanned;
        size_t next = r->scanned + n + (nl != NULL);
        r->line++;
        if (r->sniff) sniff(r, s, n);
        if (r->jsonl) {
            st = give_json(r, s, n, err);
            doc = next;
        } else if (n >= strlen(BORDER) && is_border(s, n)) {
            st = give(r, r->buf.data + doc, r->scanned - doc, err);
            r->borders = true;
            doc = next;
        }
        r->scanned = next;
    }
    if (doc) {
        memmove(r->buf.data, r->buf.data + doc, r->buf.n - doc);
        r->buf.n -= doc;
        r->scanned -= doc;
    }
    return st;
}

/* Where a document that begins at s may end: after the first blank line past FMI_DOCUMENT_CUT_MIN;
 * where a stretch of FMI_DOCUMENT_WHOLE_MAX has none, after its last line; else the whole rest. */
static size_t cut_at(const char *s, size_t n)
{
    size_t line_end = 0;
    for (size_t i = 0; i < n;) {
        const char *nl = memchr(s + i, '\n', n - i);
        if (!nl) break;
        size_t end = (size_t)(nl - s), next = end + 1;
        bool blank = end == i || (end == i + 1 && s[i] == '\r');
        if (blank && end >= FMI_DOCUMENT_CUT_MIN) return next;
        if (next > FMI_DOCUMENT_WHOLE_MAX) return line_end ? line_end : next;
        line_end = next;
        i = next;
    }
    return n;
}

static fm_status finish(reader *r, fm_err *err)
{
    const char *s = r->buf.data;
    size_t n = r->buf.n;
    if (!n) return FM_OK;
    if (r->borders || n <= FMI_DOCUMENT_WHOLE_MAX) return give(r, s, n, err);
    fm_status st = FM_OK;
    while (n && !st) {
        size_t k = cut_at(s, n);
        st = give(r, s, k, err);
        s += k;
        n -= k;
    }
    return st;
}

fm_status fmi_documents_read(const char *path, fmi_document_fn fn, void *arg, fm_err *err)
{
    bool std = !strcmp(path, "-");
    reader r = { .path = std ? "standard input" : path,
                 .fn = fn,
                 .arg = arg,
                 .jsonl = name_is_jsonl(path),
                 .sniff = std };
    fmi_stream *in = NULL;
    if (!std && fmi_path_is_dir(path))
        return FM_FAIL(err, FM_E_IO, "%s: a directory; expected a text or .jsonl file", path);
    fm_status st = fmi_stream_open(path, &in, err);
    while (!st) {
        size_t n = 0;
        st = fmi_text_reserve(&r.buf, CHUNK, err);
        if (!st) st = fmi_stream_read(in, r.buf.data + r.buf.n, CHUNK, &n, err);
        if (st || !n) break;
        r.buf.n += n;
        if (r.buf.n > INT32_MAX)
            st = FM_FAIL(err, FM_E_RANGE, "%s: a document longer than 2 GiB", r.path);
        else
            st = take_lines(&r, false, err);
    }
    if (!st) st = take_lines(&r, true, err);
    if (!st && !r.jsonl) st = finish(&r, err);
    fmi_stream_close(in);
    fm_text_deinit(&r.buf);
    return st;
}

fm_status fmi_source_parse(const char *spec, char **path, double *weight, fm_err *err)
{
    const char *colon = strrchr(spec, ':');
    size_t n = strlen(spec);
    *weight = 1;
    if (colon && colon[1] && !fmi_path_exists(spec)) {
        char *end;
        double w = strtod(colon + 1, &end);
        if (*end || !isfinite(w) || w <= 0 || w > 1000)
            return FM_FAIL(err, FM_E_RANGE, "%s: weight \"%.40s\": expected a number in (0, 1000]",
                           spec, colon + 1);
        *weight = w;
        n = (size_t)(colon - spec);
    }
    char *p = fmi_alloc(n + 1);
    if (!p) return FM_FAIL(err, FM_E_NOMEM, "%s", spec);
    memcpy(p, spec, n);
    p[n] = 0;
    *path = p;
    return FM_OK;
}

int64_t fmi_source_copies(double weight, const char *text, size_t n)
{
    double whole = floor(weight), rest = weight - whole;
    /* Another seed than the held-out split's: the two choices must not follow each other. */
    double u = rest > 0 ? (double)(fmi_hash_bytes(text, n, 1) >> 11) * 0x1p-53 : 1;
    return (int64_t)whole + (u < rest);
}
