/* JSON documents: what is accepted must survive writing and reading, and typed getters must answer
 * any value with a value or a message. */
#include "check.h"
#include "io/json.h"

static void get_all(json_t *obj)
{
    fm_err err;
    int64_t i;
    double d;
    bool b;
    const char *s;
    json_t *sub;
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it)) {
        const char *key = json_object_iter_key(it);
        (void)fmi_json_get_int(obj, "input", key, &i, &err);
        (void)fmi_json_opt_double(obj, "input", key, 0, &d, &err);
        (void)fmi_json_get_bool(obj, "input", key, &b, &err);
        (void)fmi_json_opt_string(obj, "input", key, NULL, &s, &err);
        (void)fmi_json_get_object(obj, "input", key, &sub, &err);
        (void)fmi_json_get_array(obj, "input", key, &sub, &err);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_err err;
    json_t *j = NULL, *back = NULL;
    fm_status st = fmi_json_parse("input", (const char *)data, size, true, &j, &err);
    if (st) {
        fuzz_check_failure(st, &err, "input");
        return 0;
    }
    if (json_is_object(j)) get_all(j);
    char *text = fmi_json_text(j);
    if (text) {
        st = fmi_json_parse("text", text, strlen(text), true, &back, &err);
        FUZZ_CHECK(st == FM_E_NOMEM || (st == FM_OK && json_equal(j, back)));
    }
    fmi_free(text);
    json_decref(back);
    json_decref(j);
    return 0;
}
