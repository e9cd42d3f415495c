/* Parsing of one safetensors file: header table and the checks on it.
 *
 * Trusts nothing: lengths first, then the JSON, then each entry, then all entries sorted by offset,
 * which must tile the data exactly. Copies the names; everything else stays in the mapping. */
#include "io/safetensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/json.h"
#include "io/tensors_internal.h"

/* Bits per element, since published files may hold types under a byte. */
static const struct {
    const char *name;
    fm_dtype dtype;
    int bits;
} file_dtypes[] = {
    {"F64", FM_DTYPE_F64, 64},          {"F32", FM_DTYPE_F32, 32},
    {"F16", FM_DTYPE_F16, 16},          {"BF16", FM_DTYPE_BF16, 16},
    {"F8_E4M3", FM_DTYPE_F8E4M3, 8},    {"I64", FM_DTYPE_I64, 64},
    {"I32", FM_DTYPE_I32, 32},          {"U8", FM_DTYPE_U8, 8},
    {"BOOL", FM_DTYPE_COUNT, 8},        {"I8", FM_DTYPE_COUNT, 8},
    {"I16", FM_DTYPE_COUNT, 16},        {"U16", FM_DTYPE_COUNT, 16},
    {"U32", FM_DTYPE_COUNT, 32},        {"U64", FM_DTYPE_COUNT, 64},
    {"C64", FM_DTYPE_COUNT, 64},        {"F8_E5M2", FM_DTYPE_COUNT, 8},
    {"F8_E8M0", FM_DTYPE_COUNT, 8},     {"F8_E4M3FNUZ", FM_DTYPE_COUNT, 8},
    {"F8_E5M2FNUZ", FM_DTYPE_COUNT, 8}, {"F6_E2M3", FM_DTYPE_COUNT, 6},
    {"F6_E3M2", FM_DTYPE_COUNT, 6},     {"F4", FM_DTYPE_COUNT, 4},
};

/* What the checks of one file share. */
typedef struct parser {
    const char *file;
    const uint8_t *data; /* the whole file */
    size_t bytes;
    size_t header; /* bytes of the header */
    fm_err *err;
} parser;

/* Byte offset in the file of the header entry `name`; 8 where it is spelled with escapes. */
static size_t entry_offset(const parser *p, const char *name)
{
    size_t n = strlen(name);
    const uint8_t *s = p->data + 8, *end = s + p->header;
    while ((s = memchr(s, '"', (size_t)(end - s)))) {
        if ((size_t)(end - s) < n + 2) break;
        const uint8_t *q = s + 1 + n;
        if (!memcmp(s + 1, name, n) && *q == '"') {
            for (q++; q < end && strchr(" \t\r\n", *q) && *q; q++) {
            }
            if (q < end && *q == ':') return (size_t)(s - p->data);
        }
        s++;
    }
    return 8;
}

static fm_status bad_tensor(const parser *p, const char *name, const char *what)
{
    return FM_FAIL(p->err, FM_E_FORMAT, "%s: tensor %s (header entry at byte %zu): %s", p->file,
                   name, entry_offset(p, name), what);
}

const char *fmi_shape_text(int rank, const int64_t *dims, char *buf, size_t cap)
{
    size_t at = 0;
    FM_ASSERT(cap >= 8);
    buf[at++] = '[';
    for (int i = 0; i < rank && at < cap - 1; i++) {
        int k = snprintf(buf + at, cap - at, "%s%" PRId64, i ? ", " : "", dims[i]);
        at = k < 0 || (size_t)k >= cap - at ? cap - 1 : at + (size_t)k;
    }
    if (at > cap - 2) at = cap - 2;
    buf[at] = ']';
    buf[at + 1] = 0;
    return buf;
}

static fm_status parse_dtype(const parser *p, const json_t *entry, fm_tensor_info *t, int *bits)
{
    char what[160];
    const json_t *v = json_object_get(entry, "dtype");
    if (!json_is_string(v)) {
        snprintf(what, sizeof what, "dtype: expected a string, found %s", fmi_json_type_name(v));
        return bad_tensor(p, t->name, what);
    }
    for (size_t i = 0; i < sizeof file_dtypes / sizeof file_dtypes[0]; i++) {
        if (strcmp(json_string_value(v), file_dtypes[i].name)) continue;
        t->dtype = file_dtypes[i].dtype;
        t->dtype_name = file_dtypes[i].name;
        *bits = file_dtypes[i].bits;
        return FM_OK;
    }
    snprintf(what, sizeof what,
             "dtype: expected one of F32, BF16, F16, F8_E4M3, .., found \"%.40s\"",
             json_string_value(v));
    return bad_tensor(p, t->name, what);
}

static fm_status parse_shape(const parser *p, const json_t *entry, fm_tensor_info *t, int bits)
{
    char what[200];
    const json_t *v = json_object_get(entry, "shape");
    if (!json_is_array(v)) {
        snprintf(what, sizeof what, "shape: expected an array, found %s", fmi_json_type_name(v));
        return bad_tensor(p, t->name, what);
    }
    size_t rank = json_array_size(v);
    if (rank > FMI_RANK_MAX) {
        snprintf(what, sizeof what, "shape: expected at most %d dimensions, found %zu",
                 FMI_RANK_MAX, rank);
        return bad_tensor(p, t->name, what);
    }
    t->rank = (int)rank;
    t->n = 1;
    for (size_t i = 0; i < rank; i++) {
        const json_t *d = json_array_get(v, i);
        int64_t dim = json_integer_value(d);
        if (!json_is_integer(d) || dim < 0) {
            snprintf(what, sizeof what, "shape: dimension %zu: expected an integer >= 0, found %s",
                     i, json_is_integer(d) ? "a negative one" : fmi_json_type_name(d));
            return bad_tensor(p, t->name, what);
        }
        t->dims[i] = dim;
    }
    int64_t n_bits;
    for (size_t i = 0; i < rank; i++)
        if (!fmi_mul_ok(t->n, t->dims[i], &t->n)) t->n = -1;
    if (!fmi_mul_ok(t->n, bits, &n_bits)) {
        char shape[120];
        snprintf(what, sizeof what, "shape: %s elements overflow 64 bits",
                 fmi_shape_text(t->rank, t->dims, shape, sizeof shape));
        return bad_tensor(p, t->name, what);
    }
    t->bytes = (size_t)(n_bits / 8);
    if (n_bits % 8) return bad_tensor(p, t->name, "shape: elements do not fill whole bytes");
    return FM_OK;
}

static fm_status parse_offsets(const parser *p, const json_t *entry, fm_tensor_info *t)
{
    char what[240];
    const json_t *v = json_object_get(entry, "data_offsets");
    const json_t *b = json_array_get(v, 0), *e = json_array_get(v, 1);
    if (json_array_size(v) != 2 || !json_is_integer(b) || !json_is_integer(e))
        return bad_tensor(p, t->name, "data_offsets: expected two integers [begin, end]");
    int64_t begin = json_integer_value(b), end = json_integer_value(e);
    size_t room = p->bytes - 8 - p->header;
    if (begin < 0 || end < begin) {
        snprintf(what, sizeof what,
                 "data_offsets: expected 0 <= begin <= end, found [%" PRId64 ", %" PRId64 "]",
                 begin, end);
        return bad_tensor(p, t->name, what);
    }
    if ((uint64_t)end > room) {
        snprintf(what, sizeof what,
                 "data_offsets: [%" PRId64 ", %" PRId64 "] ends outside the file, which holds %zu "
                 "bytes of data (truncated?)",
                 begin, end, room);
        return bad_tensor(p, t->name, what);
    }
    if ((uint64_t)(end - begin) != t->bytes) {
        char shape[100];
        snprintf(what, sizeof what, "%s %s: expected %zu bytes, found data_offsets of %" PRId64,
                 t->dtype_name, fmi_shape_text(t->rank, t->dims, shape, sizeof shape), t->bytes,
                 end - begin);
        return bad_tensor(p, t->name, what);
    }
    t->offset = 8 + p->header + (uint64_t)begin;
    t->data = p->data + t->offset;
    return FM_OK;
}

static int by_offset(const void *a, const void *b)
{
    const fm_tensor_info *x = a, *y = b;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1; /* empty ones first */
    return strcmp(x->name, y->name);
}

/* The sorted tensors must tile the data: no overlap, no hole, nothing left over. */
static fm_status check_tiling(const parser *p, const fm_tensor_info *infos, int n)
{
    char what[FM_ERR_TEXT_MAX];
    uint64_t at = 8 + p->header;
    for (int i = 0; i < n; i++) {
        const fm_tensor_info *t = &infos[i];
        if (t->offset != at) {
            snprintf(what, sizeof what,
                     "data at byte %" PRIu64 " %s, expected to begin at byte %" PRIu64
                     ", the end of %.160s",
                     t->offset, t->offset < at ? "overlaps" : "leaves a hole", at,
                     i ? infos[i - 1].name : "the header");
            return bad_tensor(p, t->name, what);
        }
        at += t->bytes;
    }
    if (at != p->bytes)
        return FM_FAIL(p->err, FM_E_FORMAT,
                       "%s: expected the file to end with its last tensor%s%s at byte %" PRIu64
                       ", found %zu bytes",
                       p->file, n ? " " : "", n ? infos[n - 1].name : "", at, p->bytes);
    return FM_OK;
}

static fm_status check_metadata(const parser *p, const json_t *meta)
{
    if (!json_is_object(meta))
        return bad_tensor(p, "__metadata__", "expected an object of strings");
    for (void *it = json_object_iter((json_t *)(uintptr_t)meta); it;
         it = json_object_iter_next((json_t *)(uintptr_t)meta, it)) {
        const json_t *v = json_object_iter_value(it);
        if (json_is_string(v)) continue;
        char what[160];
        snprintf(what, sizeof what, "key \"%.60s\": expected a string, found %s",
                 json_object_iter_key(it), fmi_json_type_name(v));
        return bad_tensor(p, "__metadata__", what);
    }
    return FM_OK;
}

static fm_status parse_entry(const parser *p, const json_t *entry, fm_tensor_info *t)
{
    if (!json_is_object(entry)) {
        char what[80];
        snprintf(what, sizeof what, "expected an object, found %s", fmi_json_type_name(entry));
        return bad_tensor(p, t->name, what);
    }
    int bits = 0;
    fm_status st = parse_dtype(p, entry, t, &bits);
    if (!st) st = parse_shape(p, entry, t, bits);
    return st ? st : parse_offsets(p, entry, t);
}

/* Fills out from the header object. */
static fm_status parse_table(const parser *p, json_t *table, fmi_st_table *out)
{
    size_t n = json_object_size(table), name_bytes = 1;
    for (void *it = json_object_iter(table); it; it = json_object_iter_next(table, it))
        name_bytes += strlen(json_object_iter_key(it)) + 1;
    out->infos = fmi_zalloc((n + 1) * sizeof *out->infos);
    out->names = fmi_alloc(name_bytes);
    if (!out->infos || !out->names)
        return FM_FAIL(p->err, FM_E_NOMEM, "%s: table of %zu tensors", p->file, n);
    char *name = out->names;
    for (void *it = json_object_iter(table); it; it = json_object_iter_next(table, it)) {
        const char *key = json_object_iter_key(it);
        json_t *entry = json_object_iter_value(it);
        fm_status st;
        if (!strcmp(key, "__metadata__")) {
            if ((st = check_metadata(p, entry))) return st;
            out->meta = json_incref(entry);
            continue;
        }
        fm_tensor_info *t = &out->infos[out->n];
        size_t len = strlen(key) + 1;
        memcpy(name, key, len);
        t->name = name;
        name += len;
        if ((st = parse_entry(p, entry, t))) return st;
        out->n++;
    }
    qsort(out->infos, (size_t)out->n, sizeof *out->infos, by_offset);
    return check_tiling(p, out->infos, out->n);
}

void fmi_st_table_deinit(fmi_st_table *t)
{
    fmi_free(t->infos);
    fmi_free(t->names);
    json_decref(t->meta);
    memset(t, 0, sizeof *t);
}

fm_status fmi_st_table_parse(const char *file, const void *data, size_t bytes, fmi_st_table *out,
                             fm_err *err)
{
    parser p = {.file = file, .data = data, .bytes = bytes, .err = err};
    uint64_t header;
    memset(out, 0, sizeof *out);
    if (bytes < 8)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 0: expected a header length of 8 bytes, found a file of %zu", file,
                       bytes);
    memcpy(&header, data, 8);
    if (header > FMI_ST_HEADER_MAX)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 0: header length: expected at most %zu bytes, found %" PRIu64,
                       file, FMI_ST_HEADER_MAX, header);
    if (header > bytes - 8)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: byte 0: header length: expected at most the %zu bytes that follow, "
                       "found %" PRIu64 " (truncated?)",
                       file, bytes - 8, header);
    p.header = (size_t)header;
    json_t *table;
    char name[FM_ERR_TEXT_MAX];
    snprintf(name, sizeof name, "%s: safetensors header (from byte 8)", file);
    fm_status st = fmi_json_parse(name, (const char *)data + 8, p.header, false, &table, err);
    if (st) return st;
    st = json_is_object(table)
             ? parse_table(&p, table, out)
             : FM_FAIL(err, FM_E_FORMAT, "%s: byte 8: expected an object, found %s", file,
                       fmi_json_type_name(table));
    json_decref(table);
    if (st) fmi_st_table_deinit(out);
    return st;
}
