/* Typed values out of JSON objects, with messages that say what was expected and what is there. */
#include <inttypes.h>
#include <string.h>

#include "io/json.h"

const char *fmi_json_type_name(const json_t *json)
{
    if (!json) return "nothing";
    switch (json_typeof(json)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a real number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: return "null";
    }
    return "an unknown value";
}

static fm_status wrong(const json_t *v, const char *file, const char *key, const char *want,
                       fm_err *err)
{
    char found[80];
    const char *name = fmi_json_type_name(v);
    if (json_is_string(v))
        snprintf(found, sizeof found, "the string \"%.40s\"", json_string_value(v));
    else if (json_is_integer(v))
        snprintf(found, sizeof found, "the integer %" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        snprintf(found, sizeof found, "the real number %g", json_real_value(v));
    else
        snprintf(found, sizeof found, "%s", name);
    return FM_FAIL(err, FM_E_FORMAT, "%s: key \"%s\": expected %s, found %s", file, key, want,
                   found);
}

/* The value of key; absent counts as NULL, and so does null where the key is optional. */
static fm_status find(const json_t *obj, const char *file, const char *key, bool optional,
                      json_t **out, fm_err *err)
{
    if (!json_is_object(obj))
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected an object with key \"%s\", found %s", file,
                       key, fmi_json_type_name(obj));
    json_t *v = json_object_get(obj, key);
    if (optional && json_is_null(v)) v = NULL;
    *out = v;
    return FM_OK;
}

static fm_status get_int(const json_t *obj, const char *file, const char *key, bool optional,
                         int64_t absent, int64_t *out, fm_err *err)
{
    json_t *v = NULL;
    fm_status st = find(obj, file, key, optional, &v, err);
    if (st) return st;
    if (!v && optional) {
        *out = absent;
        return FM_OK;
    }
    if (!json_is_integer(v)) return wrong(v, file, key, "an integer", err);
    *out = json_integer_value(v);
    return FM_OK;
}

static fm_status get_double(const json_t *obj, const char *file, const char *key, bool optional,
                            double absent, double *out, fm_err *err)
{
    json_t *v = NULL;
    fm_status st = find(obj, file, key, optional, &v, err);
    if (st) return st;
    if (!v && optional) {
        *out = absent;
        return FM_OK;
    }
    if (!json_is_number(v)) return wrong(v, file, key, "a number", err);
    *out = json_number_value(v);
    return FM_OK;
}

static fm_status get_bool(const json_t *obj, const char *file, const char *key, bool optional,
                          bool absent, bool *out, fm_err *err)
{
    json_t *v = NULL;
    fm_status st = find(obj, file, key, optional, &v, err);
    if (st) return st;
    if (!v && optional) {
        *out = absent;
        return FM_OK;
    }
    if (!json_is_boolean(v)) return wrong(v, file, key, "true or false", err);
    *out = json_is_true(v);
    return FM_OK;
}

static fm_status get_string(const json_t *obj, const char *file, const char *key, bool optional,
                            const char *absent, const char **out, fm_err *err)
{
    json_t *v = NULL;
    fm_status st = find(obj, file, key, optional, &v, err);
    if (st) return st;
    if (!v && optional) {
        *out = absent;
        return FM_OK;
    }
    if (!json_is_string(v)) return wrong(v, file, key, "a string", err);
    if (strlen(json_string_value(v)) != json_string_length(v))
        return wrong(v, file, key, "a string without \\u0000", err);
    *out = json_string_value(v);
    return FM_OK;
}

static fm_status get_container(const json_t *obj, const char *file, const char *key, bool optional,
                               json_type type, json_t **out, fm_err *err)
{
    json_t *v = NULL;
    fm_status st = find(obj, file, key, optional, &v, err);
    if (st) return st;
    if (!(!v && optional) && (!v || json_typeof(v) != type))
        return wrong(v, file, key, type == JSON_OBJECT ? "an object" : "an array", err);
    *out = v;
    return FM_OK;
}

fm_status fmi_json_get_int(const json_t *obj, const char *file, const char *key, int64_t *out,
                           fm_err *err)
{
    return get_int(obj, file, key, false, 0, out, err);
}

fm_status fmi_json_opt_int(const json_t *obj, const char *file, const char *key, int64_t absent,
                           int64_t *out, fm_err *err)
{
    return get_int(obj, file, key, true, absent, out, err);
}

fm_status fmi_json_get_double(const json_t *obj, const char *file, const char *key, double *out,
                              fm_err *err)
{
    return get_double(obj, file, key, false, 0, out, err);
}

fm_status fmi_json_opt_double(const json_t *obj, const char *file, const char *key, double absent,
                              double *out, fm_err *err)
{
    return get_double(obj, file, key, true, absent, out, err);
}

fm_status fmi_json_get_bool(const json_t *obj, const char *file, const char *key, bool *out,
                            fm_err *err)
{
    return get_bool(obj, file, key, false, false, out, err);
}

fm_status fmi_json_opt_bool(const json_t *obj, const char *file, const char *key, bool absent,
                            bool *out, fm_err *err)
{
    return get_bool(obj, file, key, true, absent, out, err);
}

fm_status fmi_json_get_string(const json_t *obj, const char *file, const char *key,
                              const char **out, fm_err *err)
{
    return get_string(obj, file, key, false, NULL, out, err);
}

fm_status fmi_json_opt_string(const json_t *obj, const char *file, const char *key,
                              const char *absent, const char **out, fm_err *err)
{
    return get_string(obj, file, key, true, absent, out, err);
}

fm_status fmi_json_get_object(const json_t *obj, const char *file, const char *key, json_t **out,
                              fm_err *err)
{
    return get_container(obj, file, key, false, JSON_OBJECT, out, err);
}

fm_status fmi_json_opt_object(const json_t *obj, const char *file, const char *key, json_t **out,
                              fm_err *err)
{
    return get_container(obj, file, key, true, JSON_OBJECT, out, err);
}

fm_status fmi_json_get_array(const json_t *obj, const char *file, const char *key, json_t **out,
                             fm_err *err)
{
    return get_container(obj, file, key, false, JSON_ARRAY, out, err);
}

fm_status fmi_json_opt_array(const json_t *obj, const char *file, const char *key, json_t **out,
                             fm_err *err)
{
    return get_container(obj, file, key, true, JSON_ARRAY, out, err);
}
