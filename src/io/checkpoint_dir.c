/* Names of models to places on disk. A path that exists wins; org/name is looked up in the caches
 * as models--org--name/refs/main -> snapshots/<commit>; all else is an error with a way out. */
#include "io/checkpoint_dir.h"

#include <string.h>

#include "io/file.h"

#define NAME_MAX_BYTES 200

static bool is_name_part(const char *s, size_t n)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.";
    return n > 0 && n <= NAME_MAX_BYTES && s[0] != '.' && strspn(s, allowed) >= n;
}

/* Splits "org/name"; false for anything else. */
static bool split_name(const char *name, size_t *n_org)
{
    const char *slash = strchr(name, '/');
    if (!slash || strchr(slash + 1, '/')) return false;
    *n_org = (size_t)(slash - name);
    return is_name_part(name, *n_org) && is_name_part(slash + 1, strlen(slash + 1));
}

/* snapshots/<commit> of the model directory, or NULL with FM_OK when it holds none. */
static fm_status find_snapshot(const char *model, char **out, fm_err *err)
{
    *out = NULL;
    char *ref = fmi_format("%s/refs/main", model), *commit = NULL;
    if (!ref) return FM_FAIL(err, FM_E_NOMEM, "%s: path", model);
    fm_status st = FM_OK;
    if (fmi_path_is_file(ref)) st = fmi_file_read(ref, NAME_MAX_BYTES, &commit, NULL, err);
    if (!st && commit) {
        commit[strcspn(commit, " \t\r\n")] = 0;
        if (!is_name_part(commit, strlen(commit)))
            st = FM_FAIL(err, FM_E_FORMAT, "%s: expected a commit, found \"%.60s\"", ref, commit);
    }
    if (!st && commit) {
        char *dir = fmi_format("%s/snapshots/%s", model, commit);
        if (!dir)
            st = FM_FAIL(err, FM_E_NOMEM, "%s: path", model);
        else if (fmi_path_is_dir(dir))
            *out = dir;
        else
            fmi_free(dir);
    }
    fmi_free(commit);
    fmi_free(ref);
    return st;
}

static fm_status search_caches(const char *name, size_t n_org, const char *const *roots,
                               int n_roots, char **out, fm_err *err)
{
    for (int i = 0; i < n_roots; i++) {
        if (!roots[i]) continue;
        char *model =
            fmi_format("%s/models--%.*s--%s", roots[i], (int)n_org, name, name + n_org + 1);
        if (!model) return FM_FAIL(err, FM_E_NOMEM, "%s: path", name);
        char *found = NULL;
        fm_status st = find_snapshot(model, &found, err);
        fmi_free(model);
        if (st) return st;
        if (found) {
            *out = found;
            return FM_OK;
        }
    }
    return FM_FAIL(err, FM_E_IO,
                   "%s: no such directory, and not in the Hugging Face cache; fetch it with: "
                   "hf download %s (older tools: huggingface-cli download %s)",
                   name, name, name);
}

fm_status fmi_model_dir_resolve(const char *name, const char *const *roots, int n_roots, char **out,
                                fm_err *err)
{
    size_t n = strlen(name), n_org;
    static const char ext[] = ".safetensors";
    bool is_dir = fmi_path_is_dir(name);
    if (!is_dir && fmi_path_is_file(name)
        && (n < sizeof ext || strcmp(name + n - (sizeof ext - 1), ext)))
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected a directory or a .safetensors file", name);
    if (is_dir || fmi_path_is_file(name)) {
        char *copy = fmi_strdup(name);
        if (!copy) return FM_FAIL(err, FM_E_NOMEM, "%s: path", name);
        *out = copy;
        return FM_OK;
    }
    if (split_name(name, &n_org)) return search_caches(name, n_org, roots, n_roots, out, err);
    return FM_FAIL(
        err, FM_E_IO,
        "%s: no such directory or .safetensors file (a published model is named org/name "
        "and fetched with: hf download org/name)",
        name);
}
