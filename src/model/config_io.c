/* config.json: reading with the defaults of the model's family and messages that name file and key,
 * and writing it as transformers reads it. Rope keys come in two spellings (rope_theta +
 * rope_scaling of version 4, rope_parameters of version 5); both are read, the newer wins, both are
 * written. */
#include <limits.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "model/config_fields.h"

#define CONFIG_BYTES_MAX ((size_t)4 << 20)

static fm_status wrong_type(const char *file, const char *key, const char *expected,
                            const json_t *found, fm_err *err)
{
    return FM_FAIL(err, FM_E_FORMAT, "%s: %s: expected %s, found %s", file, key, expected,
                   fmi_json_type_name(found));
}

static fm_status get_int(const char *file, const char *key, const json_t *v, int *out, fm_err *err)
{
    if (!json_is_integer(v)) return wrong_type(file, key, "an integer", v, err);
    json_int_t n = json_integer_value(v);
    if (n < INT_MIN || n > INT_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: %s: %lld is out of range", file, key, (long long)n);
    *out = (int)n;
    return FM_OK;
}

static fm_status read_field(const fmi_config_field *f, const char *file, const json_t *v,
                            fm_config *c, fm_err *err)
{
    char *at = (char *)c + f->offset;
    switch (f->kind) {
    case FMI_FIELD_REAL:
    case FMI_FIELD_ROPE_REAL:
        if (!json_is_number(v)) return wrong_type(file, f->key, "a number", v, err);
        *(double *)at = json_number_value(v);
        return FM_OK;
    case FMI_FIELD_BOOL:
        if (!json_is_boolean(v)) return wrong_type(file, f->key, "true or false", v, err);
        *(bool *)at = json_is_true(v);
        return FM_OK;
    case FMI_FIELD_ID:
        if (json_is_array(v) && json_array_size(v) > 0) v = json_array_get(v, 0);
        break;
    default:
        break;
    }
    if (json_is_null(v) && (f->kind == FMI_FIELD_INT_NULL || f->kind == FMI_FIELD_ID)) {
        *(int *)at = f->none;
        return FM_OK;
    }
    return get_int(file, f->key, v, (int *)at, err);
}

static bool is_rope(const fmi_config_field *f)
{
    return f->kind == FMI_FIELD_ROPE_INT || f->kind == FMI_FIELD_ROPE_REAL;
}

/* Reads the fields found in obj; `rope` chooses the rotary ones or the others. */
static fm_status read_fields(const json_t *obj, const char *file, bool rope, fm_config *c,
                             fm_err *err)
{
    for (int i = 0; i < fmi_config_n_fields; i++) {
        const fmi_config_field *f = &fmi_config_fields[i];
        const json_t *v = json_object_get(obj, f->key);
        if (is_rope(f) != rope || !v) continue;
        if (rope && json_is_null(v)) continue;
        fm_status st = read_field(f, file, v, c, err);
        if (st) return st;
    }
    return FM_OK;
}

/* rope_scaling or rope_parameters. */
static fm_status read_rope(const json_t *obj, const char *file, fm_config *c, fm_err *err)
{
    const char *type = NULL, *old = NULL;
    json_t *v = json_object_get(obj, "attention_factor");
    if (v && !json_is_null(v))
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: attention_factor is not supported; use mscale",
                       file);
    v = json_object_get(obj, "truncate");
    if (v && !json_is_true(v))
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: truncate: expected true or nothing", file);
    fm_status st = fmi_json_opt_string(obj, file, "rope_type", NULL, &type, err);
    if (!st) st = fmi_json_opt_string(obj, file, "type", NULL, &old, err);
    if (st) return st;
    if (!type) type = old ? old : "default";
    if (strcmp(type, "default") && strcmp(type, "yarn"))
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: rope_type: expected default or yarn, found \"%s\"", file, type);
    c->yarn = !strcmp(type, "yarn");
    if (c->yarn && !json_object_get(obj, "factor"))
        return FM_FAIL(err, FM_E_FORMAT, "%s: factor: expected a number, found nothing", file);
    if (c->yarn && !json_object_get(obj, "original_max_position_embeddings"))
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: original_max_position_embeddings: expected an integer, found nothing",
                       file);
    return read_fields(obj, file, true, c, err);
}

static fm_status read_rope_keys(const json_t *root, const char *file, fm_config *c, fm_err *err)
{
    const json_t *theta = json_object_get(root, "rope_theta");
    if (theta && !json_is_null(theta)) {
        if (!json_is_number(theta)) return wrong_type(file, "rope_theta", "a number", theta, err);
        c->rope_theta = json_number_value(theta);
    }
    const char *keys[] = {"rope_scaling", "rope_parameters"};
    for (int i = 0; i < 2; i++) {
        json_t *rope = NULL;
        fm_status st = fmi_json_opt_object(root, file, keys[i], &rope, err);
        if (st) return st;
        if (!rope) continue;
        char *name = fmi_format("%s: %s", file, keys[i]);
        if (!name) return FM_FAIL(err, FM_E_NOMEM, "%s", file);
        st = read_rope(rope, name, c, err);
        fmi_free(name);
        if (st) return st;
    }
    return FM_OK;
}

static fm_status read_quantization(const json_t *root, const char *file, fm_config *c, fm_err *err)
{
    json_t *q = NULL, *block = NULL;
    const char *method = NULL, *fmt = NULL;
    fm_status st = fmi_json_opt_object(root, file, "quantization_config", &q, err);
    if (st || !q) return st;
    st = fmi_json_get_string(q, file, "quant_method", &method, err);
    if (!st) st = fmi_json_opt_string(q, file, "fmt", "e4m3", &fmt, err);
    if (!st) st = fmi_json_opt_array(q, file, "weight_block_size", &block, err);
    if (st) return st;
    if (strcmp(method, "fp8") || strcmp(fmt, "e4m3"))
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: quantization_config: expected quant_method fp8 with fmt e4m3, "
                       "found %s with %s",
                       file, method, fmt);
    c->fp8 = true;
    if (!block) return FM_OK;
    if (json_array_size(block) != 2)
        return FM_FAIL(err, FM_E_FORMAT, "%s: weight_block_size: expected two sizes, found %zu",
                       file, json_array_size(block));
    for (size_t i = 0; i < 2 && !st; i++)
        st = get_int(file, "weight_block_size", json_array_get(block, i), &c->fp8_block[i], err);
    return st;
}

/* Keys that change the computation and that no published model of the family sets. */
static fm_status refuse(const json_t *root, const char *file, fm_err *err)
{
    const char *flags[] = {"attention_bias", "mlp_bias", "tie_word_embeddings"};
    const char *act = NULL;
    for (size_t i = 0; i < sizeof flags / sizeof flags[0]; i++) {
        bool on = false;
        fm_status st = fmi_json_opt_bool(root, file, flags[i], false, &on, err);
        if (st) return st;
        if (on)
            return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: %s: expected false, found true", file,
                           flags[i]);
    }
    fm_status st = fmi_json_opt_string(root, file, "hidden_act", "silu", &act, err);
    if (!st && strcmp(act, "silu"))
        st = FM_FAIL(err, FM_E_UNSUPPORTED, "%s: hidden_act: expected silu, found \"%s\"", file,
                     act);
    return st;
}

static fm_status read_names(const json_t *root, const char *file, fm_config *c, fm_err *err)
{
    const char *s = NULL;
    fm_status st = fmi_json_opt_string(root, file, "scoring_func",
                                       fmi_config_scoring_name(c->scoring), &s, err);
    if (st) return st;
    if (!fmi_config_scoring_parse(s, &c->scoring))
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: scoring_func: expected sigmoid or softmax, found \"%s\"", file, s);
    st = fmi_json_opt_string(root, file, "topk_method", fmi_config_method_name(c->method), &s, err);
    if (st) return st;
    if (!fmi_config_method_parse(s, &c->method))
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: topk_method: expected greedy, group_limited_greedy or noaux_tc, "
                       "found \"%s\"",
                       file, s);
    return FM_OK;
}

static fm_status config_parse(const json_t *root, const char *file, fm_config *out, fm_err *err)
{
    fm_config c;
    const char *type = NULL;
    if (!json_is_object(root))
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected an object, found %s", file,
                       fmi_json_type_name(root));
    fm_status st = fmi_json_get_string(root, file, "model_type", &type, err);
    if (st) return st;
    if (!strcmp(type, "deepseek_v3") || !strcmp(type, "kimi_k2"))
        fmi_config_defaults(FM_FAMILY_V3, &c);
    else if (!strcmp(type, "deepseek_v2")) fmi_config_defaults(FM_FAMILY_V2, &c);
    else
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: model_type: expected deepseek_v3, deepseek_v2 or kimi_k2, "
                       "found \"%s\"",
                       file, type);
    st = read_fields(root, file, false, &c, err);
    if (!st) st = read_rope_keys(root, file, &c, err);
    if (!st) st = read_names(root, file, &c, err);
    if (!st) st = refuse(root, file, err);
    if (!st) st = read_quantization(root, file, &c, err);
    if (st) return st;
    st = fmi_config_check(&c, err);
    if (st) return fmi_fail_prefix(err, st, "%s", file);
    *out = c;
    return FM_OK;
}

fm_status fmi_config_read(const char *path, fm_config *out, fm_err *err)
{
    json_t *root = NULL;
    char *file = fmi_path_is_dir(path) ? fmi_path_join(path, "config.json") : fmi_strdup(path);
    if (!file) return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    fm_status st = fmi_json_load(file, CONFIG_BYTES_MAX, &root, err);
    if (!st) st = config_parse(root, file, out, err);
    json_decref(root);
    fmi_free(file);
    return st;
}

fm_status fmi_config_parse(const char *name, const char *text, size_t n, fm_config *out,
                           fm_err *err)
{
    json_t *root = NULL;
    fm_status st = fmi_json_parse(name, text, n, false, &root, err);
    if (!st) st = config_parse(root, name, out, err);
    json_decref(root);
    return st;
}

static json_t *id_or_null(int v)
{
    return v < 0 ? json_null() : json_integer(v);
}

static json_t *rope_object(const fm_config *c, bool old)
{
    json_t *r = json_object();
    json_object_set_new(r, "rope_type", json_string(c->yarn ? "yarn" : "default"));
    /* Version 4 keeps rope_theta outside and warns about keys it does not know. */
    if (old) json_object_set_new(r, "type", json_string("yarn"));
    else json_object_set_new(r, "rope_theta", json_real(c->rope_theta));
    if (!c->yarn) return r;
    json_object_set_new(r, "factor", json_real(c->yarn_factor));
    json_object_set_new(r, "beta_fast", json_real(c->beta_fast));
    json_object_set_new(r, "beta_slow", json_real(c->beta_slow));
    json_object_set_new(r, "mscale", json_real(c->mscale));
    json_object_set_new(r, "mscale_all_dim", json_real(c->mscale_all_dim));
    json_object_set_new(r, "original_max_position_embeddings",
                        json_integer(c->original_max_position_embeddings));
    return r;
}

static void write_field(json_t *root, const fmi_config_field *f, const fm_config *c)
{
    const char *at = (const char *)c + f->offset;
    json_t *v;
    if (f->kind == FMI_FIELD_REAL) v = json_real(*(const double *)at);
    else if (f->kind == FMI_FIELD_BOOL) v = json_boolean(*(const bool *)at);
    else if (f->kind == FMI_FIELD_ID) v = id_or_null(*(const int *)at);
    else v = json_integer(*(const int *)at);
    json_object_set_new(root, f->key, v);
}

fm_status fmi_config_write(const fm_config *c, const char *path, fm_dtype dtype, fm_err *err)
{
    bool v3 = c->family == FM_FAMILY_V3;
    const char *torch_dtype = dtype == FM_DTYPE_BF16  ? "bfloat16"
                              : dtype == FM_DTYPE_F16 ? "float16"
                                                      : "float32";
    fmi_json_init();
    json_t *root = json_object(), *arch = json_array();
    json_array_append_new(arch,
                          json_string(v3 ? "DeepseekV3ForCausalLM" : "DeepseekV2ForCausalLM"));
    json_object_set_new(root, "architectures", arch);
    json_object_set_new(root, "model_type", json_string(v3 ? "deepseek_v3" : "deepseek_v2"));
    for (int i = 0; i < fmi_config_n_fields; i++)
        if (!is_rope(&fmi_config_fields[i])) write_field(root, &fmi_config_fields[i], c);
    if (c->q_lora_rank == 0) json_object_set_new(root, "q_lora_rank", json_null());
    if (!v3 && c->method == FM_ROUTE_GREEDY) {
        json_object_set_new(root, "n_group", json_null());
        json_object_set_new(root, "topk_group", json_null());
    }
    json_object_set_new(root, "num_key_value_heads", json_integer(c->num_attention_heads));
    json_object_set_new(root, "head_dim", json_integer(c->qk_rope_head_dim));
    json_object_set_new(root, "scoring_func", json_string(fmi_config_scoring_name(c->scoring)));
    json_object_set_new(root, "topk_method", json_string(fmi_config_method_name(c->method)));
    json_object_set_new(root, "hidden_act", json_string("silu"));
    json_object_set_new(root, "attention_bias", json_false());
    json_object_set_new(root, "attention_dropout", json_real(0));
    json_object_set_new(root, "mlp_bias", json_false());
    json_object_set_new(root, "tie_word_embeddings", json_false());
    json_object_set_new(root, "use_cache", json_true());
    json_object_set_new(root, "rope_theta", json_real(c->rope_theta));
    json_object_set_new(root, "rope_scaling", c->yarn ? rope_object(c, true) : json_null());
    json_object_set_new(root, "rope_parameters", rope_object(c, false));
    json_object_set_new(root, "torch_dtype", json_string(torch_dtype));
    json_object_set_new(root, "dtype", json_string(torch_dtype));
    fm_status st = FM_OK;
    if (!root || json_object_size(root) < (size_t)fmi_config_n_fields)
        st = FM_FAIL(err, FM_E_NOMEM, "%s", path);
    else
        st = fmi_json_write(path, root, err);
    json_decref(root);
    return st;
}
