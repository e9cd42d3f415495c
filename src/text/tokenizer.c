/* Opening, asking, writing and freeing a tokenizer; its companions beside tokenizer.json.
 *
 * bos, eos, pad and the chat template come from tokenizer_config.json (names; chat_template), from
 * chat_template.jinja (it wins) and from config.json (ids, where no name was given). A bare
 * tokenizer.json is asked for the names DeepSeek and GPT-2 use. */
#include <stdatomic.h>
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "text/load.h"

#define FILE_MAX ((size_t)64 << 20)

void fm_tokenizer_free(fm_tokenizer *t)
{
    if (!t) return;
    fmi_encoder_free(atomic_exchange(&t->spare, NULL));
    fmi_free(t->begin);
    fmi_free(t->len);
    fmi_free(t->kind);
    fm_text_deinit(&t->pool);
    fmi_free(t->merge);
    fmi_free(t->whole);
    for (int k = 0; k < 2; k++) fmi_free(t->added[k].item);
    fmi_pretok_deinit(&t->pretok);
    fmi_free(t->chat_template);
    fmi_free(t->json);
    fmi_free(t->config_json);
    fmi_free(t->template_file);
    fmi_free(t);
}

int32_t fm_tokenizer_vocab_size(const fm_tokenizer *tok) { return tok->n_vocab; }
uint64_t fm_tokenizer_hash(const fm_tokenizer *tok) { return tok->hash; }
int32_t fm_tokenizer_bos(const fm_tokenizer *tok) { return tok->bos; }
int32_t fm_tokenizer_eos(const fm_tokenizer *tok) { return tok->eos; }
int32_t fm_tokenizer_pad(const fm_tokenizer *tok) { return tok->pad; }
const char *fm_tokenizer_chat_template(const fm_tokenizer *tok) { return tok->chat_template; }

int32_t fm_tokenizer_find_added(const fm_tokenizer *tok, const char *text)
{
    size_t n = strlen(text);
    for (int k = 0; k < 2; k++)
        for (int32_t i = 0; i < tok->added[k].n; i++) {
            const fmi_added *a = &tok->added[k].item[i];
            if (a->n == n && !memcmp(a->text, text, n)) return a->id;
        }
    return -1;
}

static void guess_marks(fm_tokenizer *t)
{
    static const char *const bos[] = { FMI_BOS, "<|endoftext|>" };
    static const char *const eos[] = { FMI_EOS, "<|endoftext|>" };
    t->bos = t->eos = -1;
    t->pad = fm_tokenizer_find_added(t, FMI_PAD);
    for (int i = 0; i < 2 && t->bos < 0; i++) t->bos = fm_tokenizer_find_added(t, bos[i]);
    for (int i = 0; i < 2 && t->eos < 0; i++) t->eos = fm_tokenizer_find_added(t, eos[i]);
}

fm_status fm_tokenizer_parse(const char *json, size_t n, const char *name, fm_tokenizer **out,
                             fm_err *err)
{
    fm_tokenizer *t = fmi_zalloc(sizeof *t);
    if (!t) return FM_FAIL(err, FM_E_NOMEM, "%s: a tokenizer", name);
    fm_status st = fmi_tokenizer_load(t, name, json, n, err);
    if (!st) {
        guess_marks(t);
        t->json = fmi_alloc(n + 1);
        if (!t->json) st = FM_FAIL(err, FM_E_NOMEM, "%s: %zu bytes", name, n);
    }
    if (st) {
        fm_tokenizer_free(t);
        return st;
    }
    memcpy(t->json, json, n);
    t->json[n] = 0;
    t->json_bytes = n;
    *out = t;
    return FM_OK;
}

/* "bos_token": "<s>" or {"content": "<s>"}; null leaves the guess away. */
static fm_status config_mark(const fm_tokenizer *t, const char *path, const json_t *root,
                             const char *key, int32_t *id, fm_err *err)
{
    const json_t *v = json_object_get(root, key);
    if (!v) return FM_OK;
    if (json_is_null(v)) {
        *id = -1;
        return FM_OK;
    }
    const char *s = json_string_value(json_is_object(v) ? json_object_get(v, "content") : v);
    if (!s)
        return FM_FAIL(err, FM_E_FORMAT, "%s: %s: expected a string or an object with content",
                       path, key);
    *id = fm_tokenizer_find_added(t, s);
    if (*id < 0)
        return FM_FAIL(err, FM_E_FORMAT, "%s: %s: the tokenizer has no added token \"%.60s\"", path,
                       key, s);
    return FM_OK;
}

/* chat_template: a string, or a list of {name, template} of which "default" counts. */
static const char *config_template(const json_t *root)
{
    const json_t *v = json_object_get(root, "chat_template"), *item;
    size_t i;
    json_array_foreach(v, i, item)
    {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && !strcmp(name, "default"))
            return json_string_value(json_object_get(item, "template"));
    }
    return json_string_value(v);
}

static fm_status read_tokenizer_config(fm_tokenizer *t, const char *path, fm_err *err)
{
    json_t *root = NULL;
    fm_status st = fmi_file_read(path, FILE_MAX, &t->config_json, &t->config_bytes, err);
    if (!st) st = fmi_json_parse(path, t->config_json, t->config_bytes, false, &root, err);
    if (!st) st = config_mark(t, path, root, "bos_token", &t->bos, err);
    if (!st) st = config_mark(t, path, root, "eos_token", &t->eos, err);
    if (!st) st = config_mark(t, path, root, "pad_token", &t->pad, err);
    const char *tmpl = st ? NULL : config_template(root);
    if (tmpl && !(t->chat_template = fmi_strdup(tmpl))) st = FM_FAIL(err, FM_E_NOMEM, "%s", path);
    json_decref(root);
    return st;
}

static fm_status read_template(fm_tokenizer *t, const char *path, fm_err *err)
{
    fm_status st = fmi_file_read(path, FILE_MAX, &t->template_file, &t->template_bytes, err);
    if (st) return st;
    fmi_free(t->chat_template);
    t->chat_template = fmi_strdup(t->template_file);
    return t->chat_template ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
}

/* config.json's ids count only where the tokenizer's own files name nothing. */
static fm_status read_model_config(fm_tokenizer *t, const char *path, fm_err *err)
{
    static const char *const key[] = { "bos_token_id", "eos_token_id" };
    int32_t *const id[] = { &t->bos, &t->eos };
    json_t *root = NULL;
    fm_status st = fmi_json_load(path, FILE_MAX, &root, err);
    for (int k = 0; k < 2 && !st; k++) {
        const json_t *v = json_object_get(root, key[k]);
        if (json_is_array(v)) v = json_array_get(v, 0);
        json_int_t x = json_is_integer(v) ? json_integer_value(v) : -1;
        if (*id[k] < 0 && x >= 0 && x < t->n_vocab && t->kind[x]) *id[k] = (int32_t)x;
    }
    json_decref(root);
    return st;
}

static fm_status read_beside(fm_tokenizer *t, const char *dir, const char *name,
                             fm_status (*read)(fm_tokenizer *, const char *, fm_err *), fm_err *err)
{
    char *path = fmi_path_join(dir, name);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s/%s", dir, name);
    fm_status st = fmi_path_is_file(path) ? read(t, path, err) : FM_OK;
    fmi_free(path);
    return st;
}

static fm_status open_files(const char *path, const char *dir, fm_tokenizer **out, fm_err *err)
{
    char *json = NULL;
    size_t n = 0;
    fm_status st = fmi_file_read(path, FMI_JSON_BYTES_MAX, &json, &n, err);
    if (st) return st;
    fm_tokenizer *t = NULL;
    st = fm_tokenizer_parse(json, n, path, &t, err);
    fmi_free(json);
    if (st) return st;
    st = read_beside(t, dir, "tokenizer_config.json", read_tokenizer_config, err);
    if (!st) st = read_beside(t, dir, "chat_template.jinja", read_template, err);
    if (!st) st = read_beside(t, dir, "config.json", read_model_config, err);
    if (st) fm_tokenizer_free(t);
    else *out = t;
    return st;
}

fm_status fm_tokenizer_open(const char *path, fm_tokenizer **out, fm_err *err)
{
    /* A weight file stands for the directory around it. */
    bool is_dir = fmi_path_is_dir(path), weights = !is_dir && strstr(path, ".safetensors");
    char *dir = is_dir ? fmi_strdup(path) : fmi_path_parent(path);
    char *file = !dir              ? NULL
                 : is_dir || weights ? fmi_path_join(dir, "tokenizer.json")
                                     : fmi_strdup(path);
    fm_status st = file && dir ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", path);
    if (!st) st = open_files(file, dir, out, err);
    fmi_free(file);
    fmi_free(dir);
    return st;
}

static fm_status write_one(const char *dir, const char *name, const char *data, size_t n,
                           fm_err *err)
{
    if (!data) return FM_OK;
    char *path = fmi_path_join(dir, name);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s/%s", dir, name);
    fm_status st = fmi_file_write(path, data, n, err);
    fmi_free(path);
    return st;
}

fm_status fm_tokenizer_write(const fm_tokenizer *t, const char *dir, fm_err *err)
{
    fm_status st = fmi_dir_make(dir, err);
    if (!st) st = write_one(dir, "tokenizer.json", t->json, t->json_bytes, err);
    if (!st) st = write_one(dir, "tokenizer_config.json", t->config_json, t->config_bytes, err);
    if (!st) st = write_one(dir, "chat_template.jinja", t->template_file, t->template_bytes, err);
    return st;
}
