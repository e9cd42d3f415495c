/* Writing a checkpoint as a complete Hugging Face directory: configuration, weights in one file or
 * in shards with an index, generation settings, tokenizer files. Each file is atomic; the directory
 * is the caller's to publish. Order of tensors: the layout's. Nothing is held in memory but one
 * chunk. */
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "model/checkpoint.h"

#define CHUNK 262144
#define SHARD_BYTES ((int64_t)4 << 30)
#define TOKENIZER_BYTES_MAX ((size_t)256 << 20)

typedef struct writer {
    const fm_model *m;
    const char *dir;
    fm_dtype stored;
    int n_params;        /* the first n of the layout (the MTP module comes last) */
    int n_shards;
    int *shard;          /* [n_params] */
    fmi_st_spec *specs;  /* [n_params] */
    void *buf, *out;     /* one chunk as the model holds it, and as it is stored */
} writer;

static fm_dtype stored_dtype(const writer *w, const fm_param *p)
{
    return p->kind == FM_PARAM_ROUTER_BIAS ? FM_DTYPE_F32 : w->stored;
}

static double element(fm_dtype dt, const void *p, int64_t i)
{
    if (dt == FM_DTYPE_F32) return ((const float *)p)[i];
    if (dt == FM_DTYPE_BF16) return fmi_bf16_to_f32(((const fm_bf16 *)p)[i]);
    return ((const double *)p)[dt == FM_DTYPE_C128 ? 2 * i : i];
}

static void convert(fm_dtype from, const void *in, fm_dtype to, void *out, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        float v = (float)element(from, in, i);
        if (to == FM_DTYPE_BF16) ((fm_bf16 *)out)[i] = fmi_f32_to_bf16(v);
        else ((float *)out)[i] = v;
    }
}

static fm_status write_param(const writer *w, fmi_st_writer *f, int i, fm_err *err)
{
    const fm_param *p = &w->m->lay.params[i];
    fm_dtype to = stored_dtype(w, p);
    int64_t n = fmi_param_count(p);
    size_t size = fm_dtype_bytes(p->dtype);
    fm_status st = FM_OK;
    for (int64_t at = 0; at < n && !st; at += CHUNK) {
        int64_t k = n - at < CHUNK ? n - at : CHUNK;
        st =
            fm_read(w->m->x, w->buf, (const char *)p->w + (size_t)at * size, (size_t)k * size, err);
        if (st) break;
        if (to != p->dtype) convert(p->dtype, w->buf, to, w->out, k);
        st = fmi_st_writer_write(f, p->name, to == p->dtype ? w->buf : w->out,
                                 (size_t)k * fm_dtype_bytes(to), err);
    }
    return st;
}

static void shard_name(const writer *w, int shard, char *out, size_t cap)
{
    if (w->n_shards == 1) snprintf(out, cap, "model.safetensors");
    else snprintf(out, cap, "model-%05d-of-%05d.safetensors", shard + 1, w->n_shards);
}

static fm_status write_shard(const writer *w, int shard, int begin, int end, fm_err *err)
{
    const fmi_st_meta meta = {"format", "pt"};
    char name[64];
    fmi_st_writer *f = NULL;
    shard_name(w, shard, name, sizeof name);
    char *path = fmi_path_join(w->dir, name);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", name);
    fm_status st = fmi_st_writer_open(path, w->specs + begin, end - begin, &meta, 1, &f, err);
    for (int i = begin; i < end && !st; i++) st = write_param(w, f, i, err);
    if (!st) st = fmi_st_writer_close(f, err);
    fmi_st_writer_free(f);
    fmi_free(path);
    return st;
}

static fm_status write_index(const writer *w, int64_t total, fm_err *err)
{
    char name[64];
    char *path = fmi_path_join(w->dir, "model.safetensors.index.json");
    json_t *root = json_object(), *meta = json_object(), *map = json_object();
    json_object_set_new(meta, "total_size", json_integer(total));
    for (int i = 0; i < w->n_params; i++) {
        shard_name(w, w->shard[i], name, sizeof name);
        json_object_set_new(map, w->m->lay.params[i].name, json_string(name));
    }
    bool whole = path && map && json_object_size(map) == (size_t)w->n_params;
    json_object_set_new(root, "metadata", meta);
    json_object_set_new(root, "weight_map", map);
    fm_status st = whole && json_object_size(root) == 2
                       ? fmi_json_write(path, root, err)
                       : FM_FAIL(err, FM_E_NOMEM, "%s: index", w->dir);
    json_decref(root);
    fmi_free(path);
    return st;
}

/* Fills specs and shard; returns the bytes of all tensors. */
static int64_t plan_shards(writer *w, int64_t bytes_max)
{
    int64_t total = 0, used = 0;
    w->n_shards = 1;
    for (int i = 0; i < w->n_params; i++) {
        const fm_param *p = &w->m->lay.params[i];
        bool vector = p->kind == FM_PARAM_NORM || p->kind == FM_PARAM_ROUTER_BIAS;
        fm_dtype dt = stored_dtype(w, p);
        int64_t bytes = fmi_param_count(p) * (int64_t)fm_dtype_bytes(dt);
        w->specs[i] = (fmi_st_spec){p->name, dt, vector ? 1 : 2, {p->rows, p->cols}};
        if (used > 0 && used + bytes > bytes_max) {
            used = 0;
            w->n_shards++;
        }
        used += bytes;
        total += bytes;
        w->shard[i] = w->n_shards - 1;
    }
    return total;
}

static fm_status write_weights(writer *w, int64_t bytes_max, fm_err *err)
{
    int64_t total = plan_shards(w, bytes_max);
    fm_status st = FM_OK;
    for (int s = 0, begin = 0; s < w->n_shards && !st; s++) {
        int end = begin;
        while (end < w->n_params && w->shard[end] == s) end++;
        st = write_shard(w, s, begin, end, err);
        begin = end;
    }
    if (!st && w->n_shards > 1) st = write_index(w, total, err);
    return st;
}

static fm_status write_generation_config(const fm_config *c, const char *dir, fm_err *err)
{
    char *path = fmi_path_join(dir, "generation_config.json");
    json_t *root = json_object();
    json_object_set_new(root, "_from_model_config", json_true());
    if (c->bos_token_id >= 0)
        json_object_set_new(root, "bos_token_id", json_integer(c->bos_token_id));
    if (c->eos_token_id >= 0)
        json_object_set_new(root, "eos_token_id", json_integer(c->eos_token_id));
    if (c->pad_token_id >= 0)
        json_object_set_new(root, "pad_token_id", json_integer(c->pad_token_id));
    fm_status st =
        path && root ? fmi_json_write(path, root, err) : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    json_decref(root);
    fmi_free(path);
    return st;
}

static fm_status copy_file(const char *from_dir, const char *to_dir, const char *name, fm_err *err)
{
    char *from = fmi_path_join(from_dir, name), *to = fmi_path_join(to_dir, name), *data = NULL;
    size_t n = 0;
    fm_status st = FM_OK;
    if (!from || !to) st = FM_FAIL(err, FM_E_NOMEM, "%s", name);
    else if (fmi_path_is_file(from)) {
        st = fmi_file_read(from, TOKENIZER_BYTES_MAX, &data, &n, err);
        if (!st) st = fmi_file_write(to, data, n, err);
    }
    fmi_free(from);
    fmi_free(to);
    fmi_free(data);
    return st;
}

static fm_status write_config(const writer *w, bool mtp, fm_err *err)
{
    fm_config c = w->m->cfg;
    c.fp8 = false;
    if (!mtp) c.num_nextn_predict_layers = 0;
    char *path = fmi_path_join(w->dir, "config.json");
    fm_status st =
        path ? fmi_config_write(&c, path, w->stored, err) : FM_FAIL(err, FM_E_NOMEM, "%s", w->dir);
    fmi_free(path);
    return st ? st : write_generation_config(&c, w->dir, err);
}

fm_status fmi_checkpoint_write(const fm_model *m, const char *dir, fm_dtype stored,
                               const fmi_checkpoint_opts *opts, fm_err *err)
{
    static const char *const files[] = {"tokenizer.json", "tokenizer_config.json",
                                        "chat_template.jinja"};
    const fmi_checkpoint_opts none = {0};
    const fmi_checkpoint_opts *o = opts ? opts : &none;
    int64_t bytes_max = o->shard_bytes_max > 0 ? o->shard_bytes_max : SHARD_BYTES;
    if (stored != FM_DTYPE_BF16 && stored != FM_DTYPE_F32)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: stored dtype: expected BF16 or F32, found %s",
                       dir, fm_dtype_name(stored));
    fmi_json_init();
    writer w = {.m = m, .dir = dir, .stored = stored, .n_params = m->lay.n_params};
    while (o->no_mtp && m->lay.params[w.n_params - 1].layer >= m->cfg.num_hidden_layers)
        w.n_params--;
    w.shard = fmi_alloc((size_t)w.n_params * sizeof *w.shard);
    w.specs = fmi_zalloc((size_t)w.n_params * sizeof *w.specs);
    w.buf = fmi_alloc(CHUNK * fm_dtype_bytes(FM_DTYPE_C128));
    w.out = fmi_alloc(CHUNK * sizeof(float));
    fm_status st = FM_OK;
    if (!w.shard || !w.specs || !w.buf || !w.out) st = FM_FAIL(err, FM_E_NOMEM, "%s: writing", dir);
    if (!st) st = write_config(&w, !o->no_mtp, err);
    if (!st) st = write_weights(&w, bytes_max, err);
    for (int i = 0; i < 3 && !st && o->tokenizer_dir; i++)
        st = copy_file(o->tokenizer_dir, dir, files[i], err);
    fmi_free(w.shard);
    fmi_free(w.specs);
    fmi_free(w.buf);
    fmi_free(w.out);
    return st;
}
