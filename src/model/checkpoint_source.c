/* Matching parameters with tensors of safetensors files: names, shapes, dtypes, FP8 block scales
 * and the order of rotary rows. Reads one row at a time in f32; knows nothing of device memory.
 * Source of the FP8 rule (w = code * weight_scale_inv of its block): DeepSeek-V3 README_WEIGHTS. */
#include <stdio.h>
#include <string.h>

#include "model/checkpoint.h"

static int64_t div_up(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

static fm_status find_scale(const fm_tensors *t, const fm_config *c, const fm_param *p,
                            fmi_source *s, fm_err *err)
{
    char name[FM_NAME_MAX + 16];
    const char *file = fm_tensors_shard_path(t, s->info->shard);
    if (!c->fp8)
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: %s is F8_E4M3, but config.json has no quantization_config", file,
                       p->name);
    if (p->kind != FM_PARAM_MATRIX)
        return FM_FAIL(err, FM_E_SHAPE, "%s: %s: expected BF16, F16 or F32, found F8_E4M3", file,
                       p->name);
    snprintf(name, sizeof name, "%s_scale_inv", p->name);
    const int64_t dims[2] = {div_up(p->rows, c->fp8_block[0]), div_up(p->cols, c->fp8_block[1])};
    fm_status st = fm_tensors_expect(t, name, 2, dims, &s->scale, err);
    if (!st && s->scale->dtype != FM_DTYPE_F32)
        st = FM_FAIL(err, FM_E_SHAPE, "%s: %s: expected F32, found %s",
                     fm_tensors_shard_path(t, s->scale->shard), name, s->scale->dtype_name);
    return st;
}

fm_status fmi_source_find(const fm_tensors *t, const fm_config *c, const fm_param *p,
                          fmi_source *out, fm_err *err)
{
    bool vector = p->kind == FM_PARAM_NORM || p->kind == FM_PARAM_ROUTER_BIAS;
    const int64_t dims[2] = {p->rows, p->cols};
    fmi_source s = {0};
    fm_status st = fm_tensors_expect(t, p->name, vector ? 1 : 2, dims, &s.info, err);
    if (st) return st;
    switch (s.info->dtype) {
    case FM_DTYPE_F32:
    case FM_DTYPE_BF16:
    case FM_DTYPE_F16:
        break;
    case FM_DTYPE_F8E4M3:
        st = find_scale(t, c, p, &s, err);
        break;
    default:
        st = FM_FAIL(err, FM_E_SHAPE, "%s: %s: expected BF16, F16, F32 or F8_E4M3, found %s",
                     fm_tensors_shard_path(t, s.info->shard), p->name, s.info->dtype_name);
    }
    if (!st) *out = s;
    return st;
}

/* Tensors need not be aligned in the file: every element is copied out. */
void fmi_source_row(const fmi_source *s, const fm_config *c, int64_t row, float *out)
{
    const fm_tensor_info *t = s->info;
    int64_t n = t->rank == 2 ? t->dims[1] : t->n;
    const uint8_t *in = (const uint8_t *)t->data + (size_t)(row * n) * fm_dtype_bytes(t->dtype);
    if (t->dtype == FM_DTYPE_F32) {
        memcpy(out, in, (size_t)n * sizeof *out);
    } else if (t->dtype == FM_DTYPE_F8E4M3) {
        const uint8_t *scales =
            (const uint8_t *)s->scale->data + (row / c->fp8_block[0]) * s->scale->dims[1] * 4;
        for (int64_t j = 0; j < n; j++) {
            float scale;
            memcpy(&scale, scales + j / c->fp8_block[1] * 4, sizeof scale);
            out[j] = fmi_e4m3_to_f32(in[j]) * scale;
        }
    } else {
        for (int64_t j = 0; j < n; j++) {
            uint16_t h;
            memcpy(&h, in + 2 * j, sizeof h);
            out[j] = t->dtype == FM_DTYPE_BF16 ? fmi_bf16_to_f32(h) : fmi_f16_to_f32(h);
        }
    }
}

int64_t fmi_source_row_of(const fm_config *c, const fm_layout *l, const fm_param *p, int64_t r)
{
    if (c->rope_interleave || p->layer < 0) return r;
    const fm_layer *y = &l->layers[p->layer];
    int64_t i = p - l->params, R = c->qk_rope_head_dim, head = c->qk_nope_head_dim + R, first;
    if (i == y->q || i == y->q_b) first = r / head * head + c->qk_nope_head_dim;
    else if (i == y->kv_a) first = c->kv_lora_rank;
    else return r;
    if (r < first) return r;
    int64_t j = r - first; /* stored: all first halves of the pairs, then all second halves */
    return first + j % 2 * (R / 2) + j / 2;
}

/* The layer index in "model.layers.<i>.rest", or -1; *rest points behind the dot. */
static int layer_of(const char *name, const char **rest)
{
    int i = 0;
    if (strncmp(name, "model.layers.", 13)) return -1;
    const char *s = name + 13;
    if (*s < '0' || *s > '9') return -1;
    for (; *s >= '0' && *s <= '9'; s++) {
        if (i > 100000) return -1;
        i = 10 * i + (*s - '0');
    }
    if (*s != '.') return -1;
    *rest = s + 1;
    return i;
}

bool fmi_source_has_layer(const fm_tensors *t, int i)
{
    const char *rest;
    for (int k = 0; k < fm_tensors_count(t); k++)
        if (layer_of(fm_tensors_at(t, k)->name, &rest) == i) return true;
    return false;
}

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && !strcmp(s + n - k, tail);
}

/* The scale of an FP8 weight that the model has. */
static bool is_scale(const fm_layout *l, const char *name)
{
    char base[FM_NAME_MAX];
    size_t n = strlen(name);
    if (!ends_with(name, "_scale_inv") || n - 10 >= sizeof base) return false;
    memcpy(base, name, n - 10);
    base[n - 10] = 0;
    return fmi_layout_find(l, base) >= 0;
}

fm_status fmi_source_check_rest(const fm_tensors *t, const fm_config *c, const fm_layout *l,
                                fm_err *err)
{
    const char *first = NULL, *rest = NULL;
    int n = 0;
    for (int k = 0; k < fm_tensors_count(t); k++) {
        const char *name = fm_tensors_at(t, k)->name;
        if (fmi_layout_find(l, name) >= 0 || is_scale(l, name) ||
            ends_with(name, "rotary_emb.inv_freq"))
            continue;
        int i = layer_of(name, &rest);
        if (i >= l->n_layers) continue; /* MTP modules that were not asked for */
        bool copy = i >= c->num_hidden_layers && (!strcmp(rest, "embed_tokens.weight") ||
                                                  !strcmp(rest, "shared_head.head.weight"));
        if (copy) {
            const int64_t dims[2] = {c->vocab_size, c->hidden_size};
            const fm_tensor_info *info;
            fm_status st = fm_tensors_expect(t, name, 2, dims, &info, err);
            if (st) return st;
            continue;
        }
        if (!n++) first = name;
    }
    if (n) fmi_log(1, "%s: %d tensors are not part of this model and are ignored, the first is %s",
                   fm_tensors_path(t), n, first);
    return FM_OK;
}
