/* The public face of configurations and counting (fathom/checkpoint.h): a shape named by preset or
 * checkpoint, with changes, becomes figures. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fathom/checkpoint.h"
#include "io/checkpoint_dir.h"
#include "io/file.h"
#include "model/config_fields.h"
#include "model/count.h"
#include "model/shape.h"

fm_status fm_model_find(const char *name, const char *const *roots, int n_roots, fm_text *out,
                        fm_err *err)
{
    char *path = NULL;
    fm_status st = fmi_model_dir_resolve(name, roots, n_roots, &path, err);
    size_t n = st ? 0 : strlen(path) + 1;
    char *copy = st ? NULL : fmi_alloc(n);
    if (!st && !copy) st = FM_FAIL(err, FM_E_NOMEM, "%s", name);
    if (!st) {
        memcpy(copy, path, n);
        fmi_free(out->data);
        *out = (fm_text){copy, n - 1, n};
    }
    fmi_free(path);
    return st;
}

fm_status fmi_config_of_path(const char *path, fm_config *c, fm_err *err)
{
    if (!fmi_path_exists(path)) return FM_FAIL(err, FM_E_IO, "%s: no such model", path);
    size_t n = strlen(path);
    if (fmi_path_is_dir(path) || (n > 5 && !strcmp(path + n - 5, ".json")))
        return fmi_config_read(path, c, err);
    char *dir = fmi_path_parent(path);
    fm_status st = dir ? fmi_config_read(dir, c, err) : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    fmi_free(dir);
    return st;
}

static fm_status apply(fm_config *c, const char *setting, fm_err *err)
{
    char key[128];
    const char *eq = strchr(setting, '=');
    if (strncmp(setting, "model.", 6) || !eq)
        return FM_FAIL(err, FM_E_FORMAT, "\"%s\": expected model.key=value", setting);
    snprintf(key, sizeof key, "%.*s", (int)(eq - setting - 6), setting + 6);
    return fmi_config_set(c, key, eq + 1, err);
}

fm_status fmi_shape_config(const fm_shape_opts *o, fm_config *out, fm_err *err)
{
    fm_config c;
    if (!o->preset == !o->model)
        return FM_FAIL(err, FM_E_FORMAT, "expected a preset or a model, found %s",
                       o->preset ? "both" : "neither");
    fm_status st =
        o->preset ? fmi_config_preset(o->preset, &c, err) : fmi_config_of_path(o->model, &c, err);
    if (!st && o->depth) {
        if (o->depth < 1 || o->depth > INT32_MAX)
            return FM_FAIL(err, FM_E_RANGE, "depth: expected at least 1, found %lld",
                           (long long)o->depth);
        c.num_hidden_layers = (int)o->depth;
    }
    for (int i = 0; i < o->n_set && !st; i++) st = apply(&c, o->set[i], err);
    if (!st) st = fmi_config_check(&c, err);
    if (!st) *out = c;
    return st;
}

static void put(fm_shape *s, const char *key, const char *fmt, ...) FMI_PRINTF(3, 4);

static void put(fm_shape *s, const char *key, const char *fmt, ...)
{
    if (s->n_settings == FM_SETTINGS_MAX) return;
    fm_setting *row = &s->setting[s->n_settings++];
    va_list ap;
    row->key = key;
    va_start(ap, fmt);
    vsnprintf(row->value, sizeof row->value, fmt, ap);
    va_end(ap);
}

/* The configuration as rows; rotary scaling only where it is on. */
static void list_settings(const fm_config *c, fm_shape *s)
{
    put(s, "model_type", "\"%s\"", c->family == FM_FAMILY_V3 ? "deepseek_v3" : "deepseek_v2");
    for (int i = 0; i < fmi_config_n_fields; i++) {
        const fmi_config_field *f = &fmi_config_fields[i];
        const char *at = (const char *)c + f->offset;
        bool rope = f->kind == FMI_FIELD_ROPE_INT || f->kind == FMI_FIELD_ROPE_REAL;
        if (rope && !c->yarn && strcmp(f->key, "rope_theta")) continue;
        if (f->kind == FMI_FIELD_BOOL) put(s, f->key, "%s", *(const bool *)at ? "true" : "false");
        else if (f->kind == FMI_FIELD_REAL || f->kind == FMI_FIELD_ROPE_REAL)
            put(s, f->key, "%.12g", *(const double *)at);
        else if (f->kind == FMI_FIELD_ID && *(const int *)at < 0) put(s, f->key, "null");
        else put(s, f->key, "%d", *(const int *)at);
    }
    put(s, "scoring_func", "\"%s\"", fmi_config_scoring_name(c->scoring));
    put(s, "topk_method", "\"%s\"", fmi_config_method_name(c->method));
    put(s, "rope_type", "\"%s\"", c->yarn ? "yarn" : "default");
    if (c->fp8) put(s, "weight_block_size", "[%d, %d]", c->fp8_block[0], c->fp8_block[1]);
}

fm_status fmi_shape_fill(const fm_config *c, int64_t length, fm_shape *out, fm_err *err)
{
    fm_layout l;
    fmi_param_counts n;
    fmi_flops f;
    fm_shape s = {0};
    fm_status st = fmi_layout_new(c, &l, err);
    if (st) return st;
    if (length <= 0) length = c->max_position_embeddings < 4096 ? c->max_position_embeddings : 4096;
    fmi_count_params(c, &l, &n);
    fmi_count_flops(c, &l, length, &f);
    fmi_layout_free(&l);
    list_settings(c, &s);
    s.total = n.total;
    s.active = n.active;
    s.active_no_embed = n.active_no_embed;
    s.mtp_total = n.mtp_total;
    s.mtp_active = n.mtp_active;
    s.attention_layer = n.attention_layer;
    s.expert = n.expert;
    s.kv_bytes_bf16 = fmi_count_kv_bytes(c, FM_DTYPE_BF16, false);
    s.kv_elements = s.kv_bytes_bf16 / 2;
    s.kv_elements_mha = (int64_t)c->num_attention_heads * c->num_hidden_layers *
                        ((int64_t)c->qk_nope_head_dim + c->qk_rope_head_dim + c->v_head_dim);
    s.length = length;
    s.flops_forward = f.forward;
    s.flops_mtp = f.mtp;
    s.flops_training = f.training;
    s.flops_decode = f.decode;
    s.flops_m = 3 * (f.forward - f.head);
    s.flops_6n = 6 * (double)(n.active_no_embed - (int64_t)c->vocab_size * c->hidden_size);
    s.layers = c->num_hidden_layers;
    s.mtp_layers = c->num_nextn_predict_layers;
    s.max_positions = c->max_position_embeddings;
    *out = s;
    return FM_OK;
}

fm_status fm_shape_get(const fm_shape_opts *o, int64_t length, fm_shape *out, fm_err *err)
{
    fm_config c;
    fm_status st = fmi_shape_config(o, &c, err);
    return st ? st : fmi_shape_fill(&c, length, out, err);
}

fm_status fm_shape_memory(const fm_shape_opts *o, const fm_memory_opts *m, fm_memory *out,
                          fm_err *err)
{
    fm_config c;
    fm_layout l;
    fmi_memory n;
    fm_status st = fmi_shape_config(o, &c, err);
    if (st) return st;
    if (m->rows < 1 || m->rows > INT32_MAX || m->length < 1 || m->length > INT32_MAX ||
        m->sequences < 0 || m->sequences > INT32_MAX)
        return FM_FAIL(err, FM_E_RANGE, "rows, length and sequences: expected 1 to 2147483647");
    if (m->training && m->rows % m->length)
        return FM_FAIL(err, FM_E_RANGE,
                       "rows: expected a multiple of the row length %lld, found %lld",
                       (long long)m->length, (long long)m->rows);
    st = fmi_layout_new(&c, &l, err);
    if (st) return st;
    int64_t pages = (m->length + FM_PAGE_ROWS - 1) / FM_PAGE_ROWS;
    fmi_memory_request r = {.dt = m->precision, .training = m->training, .muon = m->muon,
                            .arrays = m->arrays, .soap = m->soap_side,
                            .recompute = m->recompute, .rows = m->rows, .row_length = m->length,
                            .threads = m->threads,
                            .cache_tokens = m->training ? 0 : m->sequences * pages * FM_PAGE_ROWS};
    fmi_count_memory(&c, &l, &r, &n);
    fmi_layout_free(&l);
    *out = (fm_memory){n.weights,     n.masters, n.gradients, n.moments,
                       n.activations, n.cache,   n.workspace, n.total};
    return FM_OK;
}
