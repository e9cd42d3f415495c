/* One name -> tensor space over a safetensors file or a Hugging Face directory of shards.
 *
 * The index alone decides which shard holds a name; nothing is derived from file names. Lookup is
 * an open-addressing table over XXH64 of the names. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "io/hash.h"
#include "io/tensors_internal.h"

typedef struct shard {
    char *path;
    fm_map map;
    fmi_st_table table;
    uint64_t bytes;
} shard;

struct fm_tensors {
    char *path;
    shard *shards;
    int n_shards;
    fm_tensor_info *infos; /* [n] */
    int n;
    int32_t *slots; /* [mask + 1] index into infos, or -1 */
    uint64_t mask;
};

void fm_tensors_close(fm_tensors *t)
{
    if (!t) return;
    for (int i = 0; i < t->n_shards; i++) {
        fmi_st_table_deinit(&t->shards[i].table);
        fm_map_close(&t->shards[i].map);
        fmi_free(t->shards[i].path);
    }
    fmi_free(t->shards);
    fmi_free(t->infos);
    fmi_free(t->slots);
    fmi_free(t->path);
    fmi_free(t);
}

static fm_status tensors_new(const char *path, int n_shards, fm_tensors **out, fm_err *err)
{
    fm_tensors *t = fmi_zalloc(sizeof *t);
    if (t) {
        t->path = fmi_strdup(path);
        t->shards = fmi_zalloc((size_t)n_shards * sizeof *t->shards);
    }
    if (!t || !t->path || !t->shards) {
        fm_tensors_close(t);
        return FM_FAIL(err, FM_E_NOMEM, "%s: tensor table", path);
    }
    t->n_shards = n_shards;
    *out = t;
    return FM_OK;
}

/* Maps and parses shard i, whose path is taken over. */
static fm_status shard_open(fm_tensors *t, int i, char *path, fm_err *err)
{
    shard *s = &t->shards[i];
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s: shard path", t->path);
    s->path = path;
    fm_status st = fm_map_open(&s->map, path, err);
    if (st) return st;
    s->bytes = s->map.bytes;
    return fmi_st_table_parse(path, s->map.data, s->map.bytes, &s->table, err);
}

static int32_t *slot_of(const fm_tensors *t, const char *name)
{
    uint64_t h = fmi_hash_bytes(name, strlen(name), 0) & t->mask;
    while (t->slots[h] >= 0 && strcmp(t->infos[t->slots[h]].name, name)) h = (h + 1) & t->mask;
    return &t->slots[h];
}

/* Joins the shards' tables: those tensors that weight_map (NULL: everything) puts where they are.
 */
static fm_status join(fm_tensors *t, const json_t *weight_map, fm_err *err)
{
    int64_t total = 0;
    for (int i = 0; i < t->n_shards; i++) total += t->shards[i].table.n;
    uint64_t size = 16;
    while (size < (uint64_t)total * 2) size *= 2;
    t->infos = fmi_alloc((size_t)total * sizeof *t->infos);
    t->slots = fmi_alloc(size * sizeof *t->slots);
    if (!t->infos || !t->slots || total > INT32_MAX / 2)
        return FM_FAIL(err, FM_E_NOMEM, "%s: table of %" PRId64 " tensors", t->path, total);
    for (uint64_t i = 0; i < size; i++) t->slots[i] = -1;
    t->mask = size - 1;
    for (int i = 0; i < t->n_shards; i++) {
        const shard *s = &t->shards[i];
        const char *file = strrchr(s->path, '/');
        file = file ? file + 1 : s->path;
        for (int k = 0; k < s->table.n; k++) {
            const char *name = s->table.infos[k].name;
            if (weight_map) {
                const char *where = json_string_value(json_object_get(weight_map, name));
                if (!where || strcmp(where, file)) continue;
            }
            int32_t *slot = slot_of(t, name);
            if (*slot >= 0)
                return FM_FAIL(err, FM_E_FORMAT, "%s: tensor %s is there twice", s->path, name);
            *slot = t->n;
            t->infos[t->n] = s->table.infos[k];
            t->infos[t->n++].shard = i;
        }
    }
    return FM_OK;
}

fm_status fm_tensors_parse(const char *name, const void *data, size_t bytes, fm_tensors **out,
                           fm_err *err)
{
    fm_tensors *t = NULL;
    fm_status st = tensors_new(name, 1, &t, err);
    if (st) return st;
    t->shards[0].path = fmi_strdup(name);
    t->shards[0].bytes = bytes;
    st = t->shards[0].path ? fmi_st_table_parse(name, data, bytes, &t->shards[0].table, err)
                           : FM_FAIL(err, FM_E_NOMEM, "%s: tensor table", name);
    if (!st) st = join(t, NULL, err);
    if (st) {
        fm_tensors_close(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

static fm_status open_file(const char *path, fm_tensors **out, fm_err *err)
{
    fm_tensors *t = NULL;
    fm_status st = tensors_new(path, 1, &t, err);
    if (st) return st;
    st = shard_open(t, 0, fmi_strdup(path), err);
    if (!st) st = join(t, NULL, err);
    if (st) {
        fm_tensors_close(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

/* The distinct files of weight_map, in the order of first mention: keys of *files. */
static fm_status list_files(const char *index, json_t *weight_map, json_t **out, fm_err *err)
{
    json_t *files = json_object();
    if (!files) return FM_FAIL(err, FM_E_NOMEM, "%s: shard list", index);
    fm_status st = FM_OK;
    for (void *it = json_object_iter(weight_map); it && !st;
         it = json_object_iter_next(weight_map, it)) {
        const char *name = json_object_iter_key(it);
        const json_t *v = json_object_iter_value(it);
        const char *file = json_string_value(v);
        if (!file || !*file || strlen(file) != json_string_length(v) || strchr(file, '/')
            || file[0] == '.')
            st = FM_FAIL(
                err, FM_E_FORMAT,
                "%s: weight_map: tensor %s: expected a file name in this directory, found %s%s",
                index, name, file ? file : "", file ? "" : fmi_json_type_name(v));
        else if (!json_object_get(files, file)
                 && json_object_set_new(files, file, json_string(name)))
            st = FM_FAIL(err, FM_E_NOMEM, "%s: shard list", index);
    }
    if (!st && json_object_size(files) == 0)
        st = FM_FAIL(err, FM_E_FORMAT, "%s: weight_map is empty", index);
    if (st) {
        json_decref(files);
        return st;
    }
    *out = files;
    return FM_OK;
}

static fm_status open_shards(fm_tensors *t, const char *index, json_t *files, fm_err *err)
{
    int i = 0;
    for (void *it = json_object_iter(files); it; it = json_object_iter_next(files, it), i++) {
        const char *file = json_object_iter_key(it);
        char *path = fmi_path_join(t->path, file);
        if (path && !fmi_path_is_file(path)) {
            fmi_free(path);
            return FM_FAIL(err, FM_E_IO, "%s: shard %s, named for tensor %s, is missing", index,
                           file, json_string_value(json_object_iter_value(it)));
        }
        fm_status st = shard_open(t, i, path, err);
        if (st) return st;
    }
    return FM_OK;
}

static fm_status open_indexed(const char *dir, const char *index, json_t *weight_map,
                              fm_tensors **out, fm_err *err)
{
    json_t *files = NULL;
    fm_status st = list_files(index, weight_map, &files, err);
    if (st) return st;
    fm_tensors *t = NULL;
    st = tensors_new(dir, (int)json_object_size(files), &t, err);
    if (!st) st = open_shards(t, index, files, err);
    if (!st) st = join(t, weight_map, err);
    for (void *it = st ? NULL : json_object_iter(weight_map); it && !st;
         it = json_object_iter_next(weight_map, it))
        if (!fm_tensors_find(t, json_object_iter_key(it)))
            st = FM_FAIL(err, FM_E_FORMAT, "%s: tensor %s is not in shard %s, where it should be",
                         index, json_object_iter_key(it),
                         json_string_value(json_object_iter_value(it)));
    json_decref(files);
    if (st) {
        fm_tensors_close(t);
        return st;
    }
    *out = t;
    return FM_OK;
}

static fm_status open_dir(const char *dir, fm_tensors **out, fm_err *err)
{
    char *single = fmi_path_join(dir, "model.safetensors");
    char *index = fmi_path_join(dir, "model.safetensors.index.json");
    json_t *root = NULL, *weight_map;
    fm_status st;
    if (!single || !index) {
        st = FM_FAIL(err, FM_E_NOMEM, "%s: tensor table", dir);
    } else if (fmi_path_is_file(single)) {
        st = open_file(single, out, err);
    } else if (!fmi_path_is_file(index)) {
        st = FM_FAIL(
            err, FM_E_IO,
            "%s: expected model.safetensors or model.safetensors.index.json, found neither", dir);
    } else {
        st = fmi_json_load(index, FMI_JSON_BYTES_MAX, &root, err);
        if (!st) st = fmi_json_get_object(root, index, "weight_map", &weight_map, err);
        if (!st) st = open_indexed(dir, index, weight_map, out, err);
        json_decref(root);
    }
    fmi_free(single);
    fmi_free(index);
    return st;
}

fm_status fm_tensors_open(const char *path, fm_tensors **out, fm_err *err)
{
    fmi_json_init();
    return fmi_path_is_dir(path) ? open_dir(path, out, err) : open_file(path, out, err);
}

int fm_tensors_count(const fm_tensors *t)
{
    return t->n;
}

const fm_tensor_info *fm_tensors_at(const fm_tensors *t, int i)
{
    FM_ASSERT(i >= 0 && i < t->n);
    return &t->infos[i];
}

const fm_tensor_info *fm_tensors_find(const fm_tensors *t, const char *name)
{
    int32_t i = *slot_of(t, name);
    return i < 0 ? NULL : &t->infos[i];
}

fm_status fm_tensors_get(const fm_tensors *t, const char *name, const fm_tensor_info **out,
                         fm_err *err)
{
    const fm_tensor_info *info = fm_tensors_find(t, name);
    if (!info)
        return FM_FAIL(err, FM_E_FORMAT, "%s: tensor %s is missing (%d others are there)", t->path,
                       name, t->n);
    *out = info;
    return FM_OK;
}

fm_status fm_tensors_expect(const fm_tensors *t, const char *name, int rank, const int64_t *dims,
                            const fm_tensor_info **out, fm_err *err)
{
    const fm_tensor_info *info;
    fm_status st = fm_tensors_get(t, name, &info, err);
    if (st) return st;
    if (info->rank != rank || (rank && memcmp(info->dims, dims, (size_t)rank * sizeof *dims))) {
        char want[100], found[100];
        return FM_FAIL(err, FM_E_SHAPE, "%s: tensor %s: expected shape %s, found %s %s",
                       t->shards[info->shard].path, name,
                       fmi_shape_text(rank, dims, want, sizeof want), info->dtype_name,
                       fmi_shape_text(info->rank, info->dims, found, sizeof found));
    }
    *out = info;
    return FM_OK;
}

const char *fm_tensors_path(const fm_tensors *t)
{
    return t->path;
}

int fm_tensors_shards(const fm_tensors *t)
{
    return t->n_shards;
}

const char *fm_tensors_shard_path(const fm_tensors *t, int i)
{
    FM_ASSERT(i >= 0 && i < t->n_shards);
    return t->shards[i].path;
}

uint64_t fm_tensors_shard_bytes(const fm_tensors *t, int i)
{
    FM_ASSERT(i >= 0 && i < t->n_shards);
    return t->shards[i].bytes;
}

const char *fm_tensors_metadata(const fm_tensors *t, const char *key)
{
    for (int i = 0; i < t->n_shards; i++) {
        const char *v = json_string_value(json_object_get(t->shards[i].table.meta, key));
        if (v) return v;
    }
    return NULL;
}

void fm_tensors_advise(const fm_tensors *t, const fm_tensor_info *info, fmi_advice advice)
{
    fm_map_advise(&t->shards[info->shard].map, (size_t)info->offset, info->bytes, advice);
}

bool fm_tensor_aligned(const fm_tensor_info *info)
{
    size_t unit = info->dtype < FM_DTYPE_COUNT ? fm_dtype_bytes(info->dtype) : 1;
    return (uintptr_t)info->data % unit == 0;
}
