/* JSON through jansson, with limits and with messages that name file, key, expected and found.
 *
 * Refused: invalid UTF-8, duplicate keys, nesting deeper than FMI_JSON_DEPTH_MAX, integers beyond
 * 64 bits, bytes after the document. \u0000 is allowed inside string values (training text may hold
 * it): use json_string_length beside json_string_value; the string getter refuses it.
 * jansson allocates through fmi_alloc; json_decref frees. */
#ifndef FM_IO_JSON_H
#define FM_IO_JSON_H

#include <jansson.h>

#include "base/base.h"

#define FMI_JSON_DEPTH_MAX 128
#define FMI_JSON_BYTES_MAX ((size_t)256 << 20) /* a sensible max_bytes; tokenizer.json is ~10 MB */

fm_status fmi_json_load(const char *path, size_t max_bytes, json_t **out, fm_err *err);
/* `name` stands for the file in messages ("data.jsonl: line 12"). `any`: bare values allowed. */
fm_status fmi_json_parse(const char *name, const char *text, size_t n, bool any, json_t **out,
                         fm_err *err);

/* Atomic, indented by 2, key order kept, final newline. */
fm_status fmi_json_write(const char *path, const json_t *json, fm_err *err);
char *fmi_json_text(const json_t *json); /* compact, one line, heap (fmi_free); NULL: no memory */

/* New reference owned by the caller, with fmi_alloc underneath even when nothing was parsed before.
 * Call once before using json_object() and friends directly; cheap and thread-safe. */
void fmi_json_init(void);

const char *fmi_json_type_name(const json_t *json); /* "an integer", "a string", "nothing" .. */

/* Required values. `file` names the source in messages (for a nested object: "config.json:
 * rope_scaling"). Borrowed results live as long as obj. int takes JSON integers only; double takes
 * any number; FM_E_FORMAT when the key is missing or of another type. */
fm_status fmi_json_get_int(const json_t *obj, const char *file, const char *key, int64_t *out,
                           fm_err *err);
fm_status fmi_json_get_double(const json_t *obj, const char *file, const char *key, double *out,
                              fm_err *err);
fm_status fmi_json_get_bool(const json_t *obj, const char *file, const char *key, bool *out,
                            fm_err *err);
fm_status fmi_json_get_string(const json_t *obj, const char *file, const char *key,
                              const char **out, fm_err *err);
fm_status fmi_json_get_object(const json_t *obj, const char *file, const char *key, json_t **out,
                              fm_err *err);
fm_status fmi_json_get_array(const json_t *obj, const char *file, const char *key, json_t **out,
                             fm_err *err);

/* The same with a value for an absent or null key (objects and arrays: NULL). */
fm_status fmi_json_opt_int(const json_t *obj, const char *file, const char *key, int64_t absent,
                           int64_t *out, fm_err *err);
fm_status fmi_json_opt_double(const json_t *obj, const char *file, const char *key, double absent,
                              double *out, fm_err *err);
fm_status fmi_json_opt_bool(const json_t *obj, const char *file, const char *key, bool absent,
                            bool *out, fm_err *err);
fm_status fmi_json_opt_string(const json_t *obj, const char *file, const char *key,
                              const char *absent, const char **out, fm_err *err);
fm_status fmi_json_opt_object(const json_t *obj, const char *file, const char *key, json_t **out,
                              fm_err *err);
fm_status fmi_json_opt_array(const json_t *obj, const char *file, const char *key, json_t **out,
                             fm_err *err);

#endif
