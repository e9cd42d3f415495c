/* The stages around the BPE model in tokenizer.json: which are known, and how they become
 * expressions.
 *
 * Split (Isolated; or Removed and inverted), Digits and ByteLevel's own expression turn into stages
 * of the pre-tokenizer. Every pipeline must end in ByteLevel, else the vocabulary would not be
 * bytes. Adding bos or eos is the caller's business, so post-processors that only do that are
 * passed over. */
#include <string.h>

#include "io/json.h"
#include "text/load.h"

#define NEST_MAX 4

static const char *type_of(const json_t *o)
{
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "(no type)";
}

static fm_status literal_pattern(const char *s, fm_text *out, fm_err *err)
{
    fm_status st = fmi_text_puts(out, "", err);
    for (; *s && !st; s++) {
        if (strchr("\\^$.[]|()?*+{}#-&", *s)) st = fm_text_push(out, "\\", 1, err);
        if (!st) st = fm_text_push(out, s, 1, err);
    }
    return st;
}

static fm_status load_split(fmi_load *l, const char *where, const json_t *v, fm_err *err)
{
    const json_t *pattern = json_object_get(v, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"),
                 *text = json_object_get(pattern, "String");
    const json_t *p = regex ? regex : text;
    const char *s = json_string_value(p), *how = json_string_value(json_object_get(v, "behavior"));
    bool invert = json_is_true(json_object_get(v, "invert"));
    if (!s || !*s || strlen(s) != json_string_length(p))
        return FM_FAIL(err, FM_E_FORMAT, "%s: %s: Split without a pattern", l->name, where);
    bool isolated = how && !strcmp(how, "Isolated"),
         removed = how && !strcmp(how, "Removed") && invert;
    if (!isolated && !removed)
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: %s: Split with behavior \"%.30s\"%s is not supported", l->name, where,
                       how ? how : "(none)", invert ? ", inverted," : "");
    fm_text quoted = {0};
    fm_status st = regex ? FM_OK : literal_pattern(s, &quoted, err);
    if (!st) st = fmi_pretok_add(&l->tok->pretok, regex ? s : quoted.data, removed, err);
    fm_text_deinit(&quoted);
    return st ? fmi_fail_prefix(err, st, "%s: %s", l->name, where) : FM_OK;
}

static fm_status load_pre(fmi_load *l, const char *where, const json_t *v, int depth,
                          bool *byte_level, fm_err *err)
{
    const char *type = type_of(v), *expr = NULL;
    if (*byte_level)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: %s: %.40s after ByteLevel is not supported",
                       l->name, where, type);
    if (!strcmp(type, "Sequence")) {
        json_t *list = json_object_get(v, "pretokenizers"), *item;
        if (!json_is_array(list) || depth == NEST_MAX)
            return FM_FAIL(err, FM_E_FORMAT, "%s: %s: Sequence without a list", l->name, where);
        size_t i;
        json_array_foreach(list, i, item)
        {
            char *inner = fmi_format("%s[%zu]", where, i);
            if (!inner) return FM_FAIL(err, FM_E_NOMEM, "%s", l->name);
            fm_status st = load_pre(l, inner, item, depth + 1, byte_level, err);
            fmi_free(inner);
            if (st) return st;
        }
        return FM_OK;
    }
    if (!strcmp(type, "Split")) return load_split(l, where, v, err);
    if (!strcmp(type, "Digits")) {
        expr = json_is_true(json_object_get(v, "individual_digits")) ? "\\p{N}" : "\\p{N}+";
    } else if (!strcmp(type, "ByteLevel")) {
        if (json_is_true(json_object_get(v, "add_prefix_space")))
            return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: %s: add_prefix_space is not supported",
                           l->name, where);
        *byte_level = true;
        if (!json_is_false(json_object_get(v, "use_regex"))) expr = fmi_pretok_gpt2;
    } else {
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "%s: %s: \"%.40s\" is not supported (Split, Digits and "
                       "ByteLevel are)",
                       l->name, where, type);
    }
    fm_status st = expr ? fmi_pretok_add(&l->tok->pretok, expr, false, err) : FM_OK;
    return st ? fmi_fail_prefix(err, st, "%s: %s", l->name, where) : FM_OK;
}

static fm_status check_normalizer(const fmi_load *l, const json_t *v, fm_err *err)
{
    if (!v || json_is_null(v)) return FM_OK;
    const json_t *list = json_object_get(v, "normalizers");
    if (!strcmp(type_of(v), "Sequence") && json_is_array(list) && !json_array_size(list))
        return FM_OK;
    return FM_FAIL(err, FM_E_UNSUPPORTED,
                   "%s: normalizer \"%.40s\" is not supported: expected null", l->name, type_of(v));
}

static fm_status check_post(const fmi_load *l, const json_t *v, int depth, fm_err *err)
{
    if (!v || json_is_null(v)) return FM_OK;
    if (!strcmp(type_of(v), "ByteLevel") || !strcmp(type_of(v), "TemplateProcessing")) return FM_OK;
    const json_t *list = json_object_get(v, "processors"), *item;
    if (strcmp(type_of(v), "Sequence") || !json_is_array(list) || depth == NEST_MAX)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: post_processor \"%.40s\" is not supported",
                       l->name, type_of(v));
    size_t i;
    json_array_foreach(list, i, item)
    {
        fm_status st = check_post(l, item, depth + 1, err);
        if (st) return st;
    }
    return FM_OK;
}

fm_status fmi_load_pipeline(fmi_load *l, const json_t *root, fm_err *err)
{
    bool byte_level = false;
    fm_status st = check_normalizer(l, json_object_get(root, "normalizer"), err);
    if (!st)
        st = load_pre(l, "pre_tokenizer", json_object_get(root, "pre_tokenizer"), 0, &byte_level,
                      err);
    if (!st && !byte_level)
        st = FM_FAIL(err, FM_E_UNSUPPORTED, "%s: pre_tokenizer has no ByteLevel stage", l->name);
    if (!st) st = check_post(l, json_object_get(root, "post_processor"), 0, err);
    const json_t *dec = json_object_get(root, "decoder");
    if (!st && strcmp(type_of(dec), "ByteLevel"))
        st = FM_FAIL(err, FM_E_UNSUPPORTED,
                     "%s: decoder \"%.40s\" is not supported: expected ByteLevel", l->name,
                     type_of(dec));
    return st;
}
