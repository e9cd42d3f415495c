/* Chat requests as JSON: roles, contents and tool calls checked by name, then rendered. */
#include <string.h>

#include "fathom/chat.h"
#include "io/json.h"
#include "text/buf.h"

static fm_str as_str(const json_t *v)
{
    if (!json_is_string(v)) return (fm_str){0};
    return (fm_str){ json_string_value(v), json_string_length(v) };
}

/* Absent and null are fine, other types are not. */
static fm_status opt_str(const json_t *obj, const char *key, const char *where, fm_str *out,
                         fm_err *err)
{
    const json_t *v = json_object_get(obj, key);
    if (v && !json_is_string(v) && !json_is_null(v))
        return FM_FAIL(err, FM_E_FORMAT, "%s.%s: expected a string, found %s", where, key,
                       fmi_json_type_name(v));
    *out = as_str(v);
    return FM_OK;
}

static fm_status read_call(const json_t *v, const char *where, fm_chat_call *out, fm_err *err)
{
    const json_t *f = json_object_get(v, "function");
    if (!json_is_object(f))
        return FM_FAIL(err, FM_E_FORMAT, "%s.function: expected an object, found %s", where,
                       fmi_json_type_name(f));
    fm_status st = opt_str(v, "type", where, &out->type, err);
    if (!st) st = opt_str(f, "name", where, &out->name, err);
    if (!st) st = opt_str(f, "arguments", where, &out->arguments, err);
    return st;
}

static fm_status read_calls(const json_t *list, const char *where, fm_chat_message *out,
                            fm_err *err)
{
    if (!list || json_is_null(list)) return FM_OK;
    if (!json_is_array(list))
        return FM_FAIL(err, FM_E_FORMAT, "%s.tool_calls: expected an array, found %s", where,
                       fmi_json_type_name(list));
    size_t n = json_array_size(list);
    fm_chat_call *calls = fmi_zalloc((n + 1) * sizeof *calls);
    if (!calls) return FM_FAIL(err, FM_E_NOMEM, "%s: %zu tool calls", where, n);
    out->calls = calls;
    out->n_calls = n;
    out->has_calls = true;
    for (size_t i = 0; i < n; i++) {
        char inner[96];
        snprintf(inner, sizeof inner, "%.60s.tool_calls[%zu]", where, i);
        fm_status st = read_call(json_array_get(list, i), inner, &calls[i], err);
        if (st) return st;
    }
    return FM_OK;
}

static fm_status read_message(const json_t *v, size_t i, fm_chat_message *out, fm_err *err)
{
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    char where[48];
    snprintf(where, sizeof where, "messages[%zu]", i);
    if (!json_is_object(v))
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected an object, found %s", where,
                       fmi_json_type_name(v));
    const char *role = json_string_value(json_object_get(v, "role"));
    int k = 0;
    while (role && k < 4 && strcmp(role, roles[k])) k++;
    if (!role || k == 4)
        return FM_FAIL(
            err, FM_E_FORMAT, "%s.role: expected system, user, assistant or tool, found %s%.40s",
            where, role ? "" : fmi_json_type_name(json_object_get(v, "role")), role ? role : "");
    out->role = (fm_role)k;
    out->prefix = json_is_true(json_object_get(v, "prefix"));
    fm_status st = opt_str(v, "content", where, &out->content, err);
    if (!st) st = read_calls(json_object_get(v, "tool_calls"), where, out, err);
    return st;
}

static fm_status render_root(const fm_chat_format *format, const char *bos, const json_t *root,
                             const char *name, fm_text *out, fm_chat_spans *spans, fm_err *err)
{
    fm_chat_options opt = {0};
    json_t *list = NULL;
    fm_status st = fmi_json_get_array(root, name, "messages", &list, err);
    if (!st)
        st = fmi_json_opt_bool(root, name, "add_generation_prompt", false,
                               &opt.add_generation_prompt, err);
    if (!st) st = fmi_json_opt_bool(root, name, "enable_thinking", false, &opt.thinking, err);
    if (!st) st = fmi_json_opt_bool(root, name, "thinking", opt.thinking, &opt.thinking, err);
    if (st) return st;
    size_t n = json_array_size(list);
    fm_chat_message *m = fmi_zalloc((n + 1) * sizeof *m);
    if (!m) return FM_FAIL(err, FM_E_NOMEM, "%s: %zu messages", name, n);
    for (size_t i = 0; i < n && !st; i++) st = read_message(json_array_get(list, i), i, &m[i], err);
    if (!st) st = fm_chat_render(format, bos, m, n, &opt, out, spans, err);
    for (size_t i = 0; i < n; i++) fmi_free((void *)m[i].calls);
    fmi_free(m);
    return st && st != FM_E_NOMEM ? fmi_fail_prefix(err, st, "%s", name) : st;
}

fm_status fm_chat_render_json(const fm_chat_format *format, const char *bos, const char *json,
                              size_t n, const char *name, fm_text *out, fm_chat_spans *spans,
                              fm_err *err)
{
    json_t *root = NULL;
    fm_status st = fmi_json_parse(name, json, n, false, &root, err);
    if (!st) st = render_root(format, bos, root, name, out, spans, err);
    json_decref(root);
    return st;
}
