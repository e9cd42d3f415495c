/* Streaming safetensors writer: table first, data after, in table order.
 *
 * The table fixes every offset before the first byte of data, so nothing is buffered and nothing is
 * patched. The order of the table is the order of the file. */
#include <inttypes.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "io/safetensors.h"

struct fmi_st_writer {
    fmi_out *out;
    char *path;
    int n;
    char **names;    /* [n] */
    uint64_t *sizes; /* [n] bytes */
    int at;          /* first unfinished tensor */
    uint64_t done;   /* its bytes written */
    uint64_t total;  /* of the file */
};

void fmi_st_writer_free(fmi_st_writer *w)
{
    if (!w) return;
    fmi_out_free(w->out);
    fmi_names_free(w->names, w->names ? w->n : 0);
    fmi_free(w->sizes);
    fmi_free(w->path);
    fmi_free(w);
}

static fm_status spec_bytes(const char *path, const fmi_st_spec *s, uint64_t *bytes, fm_err *err)
{
    char shape[160];
    if (s->dtype == FM_DTYPE_C128 || (unsigned)s->dtype >= FM_DTYPE_COUNT)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: tensor %s: the format has no dtype %s", path,
                       s->name, fm_dtype_name(s->dtype));
    if (s->rank < 0 || s->rank > FMI_RANK_MAX)
        return FM_FAIL(err, FM_E_SHAPE, "%s: tensor %s: rank %d, expected 0..%d", path, s->name,
                       s->rank, FMI_RANK_MAX);
    int64_t n = (int64_t)fm_dtype_bytes(s->dtype);
    for (int i = 0; i < s->rank; i++)
        if (!fmi_mul_ok(n, s->dims[i], &n))
            return FM_FAIL(err, FM_E_SHAPE, "%s: tensor %s: shape %s is negative or overflows",
                           path, s->name, fmi_shape_text(s->rank, s->dims, shape, sizeof shape));
    *bytes = (uint64_t)n;
    return FM_OK;
}

static json_t *spec_json(const fmi_st_spec *s, uint64_t begin, uint64_t end)
{
    json_t *shape = json_array();
    for (int i = 0; shape && i < s->rank; i++)
        if (json_array_append_new(shape, json_integer(s->dims[i]))) {
            json_decref(shape);
            return NULL;
        }
    return json_pack("{s:s, s:o, s:[I, I]}", "dtype", fm_dtype_name(s->dtype), "shape", shape,
                     "data_offsets", (json_int_t)begin, (json_int_t)end);
}

/* The header object; also fills w's names and sizes. */
static fm_status build_table(fmi_st_writer *w, const fmi_st_spec *specs, const fmi_st_meta *meta,
                             int n_meta, json_t *table, uint64_t *data_bytes, fm_err *err)
{
    json_t *m = n_meta ? json_object() : NULL;
    for (int i = 0; i < n_meta; i++)
        if (!m || json_object_set_new(m, meta[i].key, json_string(meta[i].value))) {
            json_decref(m);
            return FM_FAIL(err, FM_E_NOMEM, "%s: metadata (or not UTF-8)", w->path);
        }
    if (m && json_object_set_new(table, "__metadata__", m))
        return FM_FAIL(err, FM_E_NOMEM, "%s: metadata", w->path);
    uint64_t at = 0;
    for (int i = 0; i < w->n; i++) {
        const char *name = specs[i].name;
        fm_status st = spec_bytes(w->path, &specs[i], &w->sizes[i], err);
        if (st) return st;
        if (json_object_get(table, name) || !strcmp(name, "__metadata__"))
            return FM_FAIL(err, FM_E_STATE, "%s: tensor %s is in the table twice", w->path, name);
        if (w->sizes[i] > (uint64_t)INT64_MAX - at)
            return FM_FAIL(err, FM_E_RANGE, "%s: tensor %s: file size overflows", w->path, name);
        json_t *entry = spec_json(&specs[i], at, at + w->sizes[i]);
        at += w->sizes[i];
        w->names[i] = fmi_strdup(name);
        if (!w->names[i] || !entry || json_object_set(table, name, entry)) {
            json_decref(entry);
            return FM_FAIL(err, FM_E_NOMEM, "%s: tensor %s (or its name is not UTF-8)", w->path,
                           name);
        }
        json_decref(entry);
    }
    *data_bytes = at;
    return FM_OK;
}

static fm_status write_header(fmi_st_writer *w, const json_t *table, uint64_t data_bytes,
                              fm_err *err)
{
    char *text = fmi_json_text(table);
    if (!text) return FM_FAIL(err, FM_E_NOMEM, "%s: header", w->path);
    uint64_t n = strlen(text), padded = ((n + 8 + 63) & ~(uint64_t)63) - 8;
    fm_status st = FM_OK;
    char spaces[64];
    memset(spaces, ' ', sizeof spaces);
    if (padded > FMI_ST_HEADER_MAX)
        st = FM_FAIL(err, FM_E_RANGE, "%s: header of %" PRIu64 " bytes, expected at most %zu",
                     w->path, padded, FMI_ST_HEADER_MAX);
    if (!st) st = fmi_out_open(w->path, &w->out, err);
    if (!st) st = fmi_out_write(w->out, &padded, 8, err);
    if (!st) st = fmi_out_write(w->out, text, (size_t)n, err);
    if (!st) st = fmi_out_write(w->out, spaces, (size_t)(padded - n), err);
    fmi_free(text);
    w->total = 8 + padded + data_bytes;
    return st;
}

static void skip_finished(fmi_st_writer *w)
{
    while (w->at < w->n && w->done == w->sizes[w->at]) {
        w->at++;
        w->done = 0;
    }
}

fm_status fmi_st_writer_open(const char *path, const fmi_st_spec *specs, int n_specs,
                             const fmi_st_meta *meta, int n_meta, fmi_st_writer **out, fm_err *err)
{
    fmi_json_init();
    fmi_st_writer *w = fmi_zalloc(sizeof *w);
    if (!w) return FM_FAIL(err, FM_E_NOMEM, "%s: writer", path);
    w->n = n_specs;
    w->path = fmi_strdup(path);
    w->names = fmi_zalloc((size_t)n_specs * sizeof *w->names);
    w->sizes = fmi_zalloc((size_t)n_specs * sizeof *w->sizes);
    json_t *table = json_object();
    uint64_t data_bytes = 0;
    fm_status st = FM_OK;
    if (!w->path || !w->names || !w->sizes || !table)
        st = FM_FAIL(err, FM_E_NOMEM, "%s: writer for %d tensors", path, n_specs);
    if (!st) st = build_table(w, specs, meta, n_meta, table, &data_bytes, err);
    if (!st) st = write_header(w, table, data_bytes, err);
    json_decref(table);
    if (st) {
        fmi_st_writer_free(w);
        return st;
    }
    skip_finished(w);
    *out = w;
    return FM_OK;
}

fm_status fmi_st_writer_write(fmi_st_writer *w, const char *name, const void *data, size_t bytes,
                              fm_err *err)
{
    if (bytes == 0) return FM_OK;
    if (w->at == w->n)
        return FM_FAIL(err, FM_E_STATE, "%s: tensor %s: all tensors are written already", w->path,
                       name);
    if (strcmp(w->names[w->at], name))
        return FM_FAIL(err, FM_E_STATE, "%s: tensor %s: expected %s next", w->path, name,
                       w->names[w->at]);
    uint64_t room = w->sizes[w->at] - w->done;
    if (bytes > room)
        return FM_FAIL(err, FM_E_STATE, "%s: tensor %s: %zu bytes where %" PRIu64 " remain",
                       w->path, name, bytes, room);
    fm_status st = fmi_out_write(w->out, data, bytes, err);
    if (st) return st;
    w->done += bytes;
    skip_finished(w);
    return FM_OK;
}

fm_status fmi_st_writer_close(fmi_st_writer *w, fm_err *err)
{
    if (w->at < w->n)
        return FM_FAIL(err, FM_E_STATE, "%s: tensor %s: %" PRIu64 " of %" PRIu64 " bytes written",
                       w->path, w->names[w->at], w->done, w->sizes[w->at]);
    return fmi_out_close(w->out, err);
}

uint64_t fmi_st_writer_bytes(const fmi_st_writer *w)
{
    return w->total;
}
