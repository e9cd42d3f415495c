/* The trainer's half of a checkpoint: see state.h. */
#include "train/state.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/hash.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "train/muon.h"

#define STAGE_BYTES ((size_t)4 << 20)
#define NAME_BYTES (FM_NAME_MAX + 16)

enum { N_ARRAYS = FMI_FLATS + 4 };
static const char *const array_names[N_ARRAYS] = { "master", "m", "v", "slow", "filter", "ema",
                                                   "left", "left_basis", "right", "right_basis" };

/* One tensor of optimizer.safetensors. */
typedef struct entry {
    char name[NAME_BYTES];
    int array, seg;
    void *dev;
    int64_t n, side; /* side > 0: SOAP's, [side, side] */
} entry;

/* Array a of segment s; dev NULL when there is none. Muon's matrices have no second moment. */
static void place(const fmi_optim *o, int a, int s, entry *e)
{
    const fm_segment *g = &o->host_segs[s];
    *e = (entry){ .array = a, .seg = s, .n = g->n };
    if (a >= FMI_FLATS) e->dev = fmi_soap_state(o, o->param_of[s], a - FMI_FLATS, &e->side);
    else if (o->flat[a] && !(a == FMI_V && g->skip && o->parts.muon))
        e->dev = (char *)o->flat[a] + (size_t)g->offset * sizeof(float);
    if (e->side) e->n = e->side * e->side;
}

/* Lists the tensors. */
static int list_entries(const fmi_optim *o, entry *out)
{
    int n = 0;
    entry e;
    for (int a = 0; a < N_ARRAYS; a++)
        for (int s = 0; s < o->n_segs; s++) {
            place(o, a, s, &e);
            if (!e.dev) continue;
            if (out) {
                snprintf(e.name, NAME_BYTES, "%s.%s", array_names[a],
                         o->m->lay.params[o->param_of[s]].name);
                out[n] = e;
            }
            n++;
        }
    return n;
}

static void fill_spec(const fmi_optim *o, const entry *e, fmi_st_spec *s)
{
    const fm_param *p = &o->m->lay.params[o->param_of[e->seg]];
    s->name = e->name;
    s->dtype = FM_DTYPE_F32;
    s->rank = p->cols == 1 && p->kind == FM_PARAM_NORM ? 1 : 2;
    s->dims[0] = e->side ? e->side : p->rows;
    s->dims[1] = e->side ? e->side : p->cols;
}

static fm_status write_entry(fmi_st_writer *w, const fmi_optim *o, const entry *e, char *stage, fm_err *err)
{
    size_t bytes = (size_t)e->n * sizeof(float);
    fm_status st = FM_OK;
    for (size_t at = 0; at < bytes && !st; at += STAGE_BYTES) {
        size_t k = bytes - at < STAGE_BYTES ? bytes - at : STAGE_BYTES;
        st = fm_read(o->m->x, stage, (const char *)e->dev + at, k, err);
        if (!st) st = fmi_st_writer_write(w, e->name, stage, k, err);
    }
    return st;
}

static size_t window_bytes(const fmi_load_window *w)
{
    return (size_t)FMI_BALANCE_WINDOW * (size_t)w->layers * (size_t)w->experts * sizeof(int32_t);
}

static fm_status write_tensors(const char *path, const fmi_optim *o, const fmi_load_window *w, fm_err *err)
{
    int n = list_entries(o, NULL);
    entry *e = fmi_zalloc((size_t)n * sizeof *e);
    fmi_st_spec *specs = fmi_zalloc((size_t)(n + 1) * sizeof *specs);
    char *stage = fmi_alloc(STAGE_BYTES);
    fmi_st_writer *out = NULL;
    fm_status st = e && specs && stage ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    if (!st) {
        list_entries(o, e);
        for (int i = 0; i < n; i++) fill_spec(o, &e[i], &specs[i]);
        bool loads = w->experts > 0;
        specs[n] = (fmi_st_spec){ "loads", FM_DTYPE_I32, 3, { FMI_BALANCE_WINDOW, w->layers, w->experts } };
        const fmi_st_meta meta = { "format", "pt" };
        st = fmi_st_writer_open(path, specs, n + loads, &meta, 1, &out, err);
        for (int i = 0; i < n && !st; i++) st = write_entry(out, o, &e[i], stage, err);
        if (!st && loads) st = fmi_st_writer_write(out, "loads", w->load, window_bytes(w), err);
        if (!st) st = fmi_st_writer_close(out, err);
    }
    fmi_st_writer_free(out);
    fmi_free(stage);
    fmi_free(specs);
    fmi_free(e);
    return st;
}

static json_t *feed_json(const fmi_feed_pos *p)
{
    json_t *open = json_array();
    for (int64_t i = 0; i < p->n_open; i++)
        json_array_append_new(open, json_pack("[I,I,I]", (json_int_t)p->open[i].doc,
                                              (json_int_t)p->open[i].begin, (json_int_t)p->open[i].end));
    return json_pack("{s:I,s:I,s:I,s:o}", "epoch", (json_int_t)p->epoch, "next", (json_int_t)p->next,
                     "rows", (json_int_t)p->rows, "open", open);
}

static fm_status write_state(const char *path, const fmi_load_window *w, const fmi_run_state *r, fm_err *err)
{
    fmi_json_init();
    json_t *j = json_pack("{s:i,s:i,s:I,s:I,s:f,s:I,s:I,s:I,s:o}", "format", FMI_STATE_FORMAT, "numerics",
                          FMI_NUMERICS, "step", (json_int_t)r->step, "tokens", (json_int_t)r->tokens,
                          "seconds", r->seconds, "metrics_offset", (json_int_t)r->metrics_offset,
                          "samples_offset", (json_int_t)r->samples_offset, "load_steps",
                          (json_int_t)w->steps, "feed", feed_json(&r->feed));
    if (j && r->best_step >= 0)
        json_object_set_new(j, "best", json_pack("{s:I,s:f}", "step", (json_int_t)r->best_step,
                                                 "bits_per_byte", r->best_bits));
    if (j && r->eval_step >= 0)
        json_object_set_new(j, "eval", json_pack("{s:I,s:f}", "step", (json_int_t)r->eval_step,
                                                 "bits_per_byte", r->eval_bits));
    if (!j) return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    fm_status st = fmi_json_write(path, j, err);
    json_decref(j);
    return st;
}

/* Adds the files of DIR/SUB to hashes; sub "" is the directory itself. */
static fm_status hash_dir(const char *dir, const char *sub, json_t *out, fm_err *err)
{
    char *path = fmi_format("%s%s%s", dir, *sub ? "/" : "", sub), **names;
    int n = 0;
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    fm_status st = fmi_dir_names(path, &names, &n, err);
    for (int i = 0; i < n && !st; i++) {
        char *key = fmi_format("%s%s%s", sub, *sub ? "/" : "", names[i]);
        char *file = key ? fmi_path_join(dir, key) : NULL;
        char hex[24];
        uint64_t h;
        if (!file) st = FM_FAIL(err, FM_E_NOMEM, "%s", dir);
        if (!st && fmi_path_is_file(file)) {
            st = fmi_hash_file(file, &h, err);
            snprintf(hex, sizeof hex, "%016llx", (unsigned long long)h);
            if (!st) json_object_set_new(out, key, json_string(hex));
        }
        fmi_free(file);
        fmi_free(key);
    }
    if (n) fmi_names_free(names, n);
    fmi_free(path);
    return st;
}

fm_status fmi_state_write(const char *dir, const fmi_stepper *t, const fmi_load_window *w,
                          const fmi_run_state *r, fm_err *err)
{
    char *sub = fmi_path_join(dir, "trainer");
    char *tensors = sub ? fmi_path_join(sub, "optimizer.safetensors") : NULL;
    char *state = sub ? fmi_path_join(sub, "state.json") : NULL;
    char *hashes = sub ? fmi_path_join(sub, "hashes.json") : NULL;
    fmi_json_init();
    json_t *j = json_object();
    fm_status st = tensors && state && hashes && j ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    if (!st) st = fmi_dir_make(sub, err);
    if (!st) st = write_tensors(tensors, t->optim, w, err);
    if (!st) st = write_state(state, w, r, err);
    if (!st) st = hash_dir(dir, "", j, err);
    if (!st) st = hash_dir(dir, "trainer", j, err);
    if (!st && t->optim->parts.ema) st = hash_dir(dir, "ema", j, err);
    if (!st) st = fmi_json_write(hashes, j, err);
    json_decref(j);
    fmi_free(sub);
    fmi_free(tensors);
    fmi_free(state);
    fmi_free(hashes);
    return st;
}

fm_status fmi_state_verify(const char *dir, fm_err *err)
{
    char *path = fmi_path_join(dir, "trainer/hashes.json");
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    json_t *j = NULL;
    fm_status st = fmi_json_load(path, FMI_JSON_BYTES_MAX, &j, err);
    const char *key;
    json_t *v;
    json_object_foreach(j, key, v) {
        if (st) break;
        char *file = fmi_path_join(dir, key);
        uint64_t h = 0;
        char hex[24];
        if (!file) st = FM_FAIL(err, FM_E_NOMEM, "%s", dir);
        if (!st) st = fmi_hash_file(file, &h, err);
        snprintf(hex, sizeof hex, "%016llx", (unsigned long long)h);
        if (!st && (!json_is_string(v) || strcmp(hex, json_string_value(v))))
            st = FM_FAIL(err, FM_E_FORMAT, "%s: hash %s, but trainer/hashes.json says %s", file, hex,
                         json_is_string(v) ? json_string_value(v) : "something else");
        fmi_free(file);
    }
    json_decref(j);
    fmi_free(path);
    return st;
}

static fm_status read_feed(const json_t *obj, const char *name, fmi_feed_pos *p, fm_err *err)
{
    json_t *open;
    fm_status st = fmi_json_get_int(obj, name, "epoch", &p->epoch, err);
    if (!st) st = fmi_json_get_int(obj, name, "next", &p->next, err);
    if (!st) st = fmi_json_get_int(obj, name, "rows", &p->rows, err);
    if (!st) st = fmi_json_get_array(obj, name, "open", &open, err);
    if (st) return st;
    p->n_open = (int64_t)json_array_size(open);
    if (p->n_open > FMI_FEED_OPEN)
        return FM_FAIL(err, FM_E_FORMAT, "%s: open: at most %d documents, found %lld", name, FMI_FEED_OPEN,
                       (long long)p->n_open);
    for (int64_t i = 0; i < p->n_open; i++) {
        const json_t *o = json_array_get(open, (size_t)i);
        for (size_t k = 0; k < 3; k++)
            if (!json_is_integer(json_array_get(o, k)))
                return FM_FAIL(err, FM_E_FORMAT, "%s: open: expected three integers", name);
        p->open[i] = (fmi_feed_piece){ json_integer_value(json_array_get(o, 0)),
                                       json_integer_value(json_array_get(o, 1)),
                                       json_integer_value(json_array_get(o, 2)) };
    }
    return FM_OK;
}

static fm_status read_mark(const json_t *j, const char *path, const char *key, int64_t *step, double *bits,
                           fm_err *err)
{
    json_t *o;
    *step = -1;
    *bits = 0;
    fm_status st = fmi_json_opt_object(j, path, key, &o, err);
    if (st || !o) return st;
    st = fmi_json_get_int(o, path, "step", step, err);
    return st ? st : fmi_json_get_double(o, path, "bits_per_byte", bits, err);
}

static fm_status read_state(const char *path, const fmi_stepper *t, fmi_load_window *w, fmi_run_state *r,
                            fm_err *err)
{
    json_t *j = NULL, *feed;
    int64_t format, numerics, metrics, samples;
    fm_status st = fmi_json_load(path, FMI_JSON_BYTES_MAX, &j, err);
    if (st) return st;
    memset(r, 0, sizeof *r);
    st = fmi_json_get_int(j, path, "format", &format, err);
    if (!st && format != FMI_STATE_FORMAT)
        st = FM_FAIL(err, FM_E_UNSUPPORTED, "%s: format %lld, this build reads %d", path, (long long)format,
                     FMI_STATE_FORMAT);
    if (!st) st = fmi_json_get_int(j, path, "numerics", &numerics, err);
    if (!st && (numerics < FMI_NUMERICS_TRAINING(t->m->dt, t->o.muon) || numerics > FMI_NUMERICS))
        fmi_log(
            1,
            "%s: numerics %lld, this program computes by %d: bits will differ from an unbroken run",
            path, (long long)numerics, FMI_NUMERICS);
    if (!st) st = fmi_json_get_int(j, path, "step", &r->step, err);
    if (!st) st = fmi_json_get_int(j, path, "tokens", &r->tokens, err);
    if (!st) st = fmi_json_get_double(j, path, "seconds", &r->seconds, err);
    if (!st) st = fmi_json_get_int(j, path, "metrics_offset", &metrics, err);
    if (!st) st = fmi_json_get_int(j, path, "samples_offset", &samples, err);
    if (!st) st = fmi_json_get_int(j, path, "load_steps", &w->steps, err);
    if (!st) st = read_mark(j, path, "best", &r->best_step, &r->best_bits, err);
    if (!st) st = read_mark(j, path, "eval", &r->eval_step, &r->eval_bits, err);
    if (!st) st = fmi_json_get_object(j, path, "feed", &feed, err);
    if (!st) st = read_feed(feed, path, &r->feed, err);
    if (!st && (r->step < 0 || r->tokens < 0 || metrics < 0 || samples < 0 || w->steps < 0))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: a counter is negative", path);
    if (!st) {
        r->metrics_offset = (uint64_t)metrics;
        r->samples_offset = (uint64_t)samples;
    }
    json_decref(j);
    return st;
}

/* Tensor to the flat array; a master becomes the weight too. */
static fm_status read_entry(const fm_tensors *f, fmi_optim *o, const entry *e, float *stage, fm_err *err)
{
    fmi_st_spec spec = { 0 };
    const fm_tensor_info *info;
    fill_spec(o, e, &spec);
    fm_status st = fm_tensors_expect(f, e->name, spec.rank, spec.dims, &info, err);
    if (st) return st;
    if (info->dtype != FM_DTYPE_F32)
        return FM_FAIL(err, FM_E_SHAPE, "%s: %s: expected F32, found %s", fm_tensors_path(f), e->name,
                       info->dtype_name);
    memcpy(stage, info->data, info->bytes); /* the mapping need not be aligned */
    fm_tensors_advise(f, info, FMI_ADVICE_DONE);
    st = fm_write(o->m->x, e->dev, stage, info->bytes, err);
    if (!st && e->array == FMI_MASTER) st = fmi_param_write(o->m, o->param_of[e->seg], stage, err);
    return st;
}

static fm_status read_tensors(const char *path, fmi_optim *o, fmi_load_window *w, fm_err *err)
{
    fm_tensors *f = NULL;
    fm_status st = fm_tensors_open(path, &f, err);
    if (st) return st;
    int n = list_entries(o, NULL);
    int64_t most = 1;
    entry *e = fmi_zalloc((size_t)n * sizeof *e);
    if (e) list_entries(o, e);
    for (int i = 0; i < n && e; i++)
        if (e[i].n > most) most = e[i].n;
    float *stage = fmi_alloc((size_t)most * sizeof *stage);
    if (!e || !stage) st = FM_FAIL(err, FM_E_NOMEM, "%s", path);
    for (int i = 0; i < n && !st; i++) st = read_entry(f, o, &e[i], stage, err);
    if (!st && w->experts > 0) {
        const int64_t dims[3] = { FMI_BALANCE_WINDOW, w->layers, w->experts };
        const fm_tensor_info *info;
        st = fm_tensors_expect(f, "loads", 3, dims, &info, err);
        if (!st && info->dtype != FM_DTYPE_I32)
            st = FM_FAIL(err, FM_E_SHAPE, "%s: loads: expected I32, found %s", path, info->dtype_name);
        if (!st) memcpy(w->load, info->data, window_bytes(w));
    }
    fmi_free(e);
    fmi_free(stage);
    fm_tensors_close(f);
    return st;
}

fm_status fmi_state_read(const char *dir, fmi_stepper *t, fmi_load_window *w, fmi_run_state *r, fm_err *err)
{
    char *tensors = fmi_path_join(dir, "trainer/optimizer.safetensors");
    char *state = fmi_path_join(dir, "trainer/state.json");
    fm_status st = tensors && state ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    if (!st) st = read_state(state, t, w, r, err);
    if (!st) st = read_tensors(tensors, t->optim, w, err);
    fmi_free(tensors);
    fmi_free(state);
    return st;
}
