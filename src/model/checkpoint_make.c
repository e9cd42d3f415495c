/* Checkpoints made by one call: random weights of a shape, and conversion. Both write a directory
 * beside the target and publish it whole; a target that holds anything is refused first. */
#include <string.h>

#include "fathom/checkpoint.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/shape.h"

static fm_status check_target(const char *out, bool *exists, fm_err *err)
{
    char **names = NULL;
    int n = 0;
    *exists = fmi_path_exists(out);
    if (!*exists) return FM_OK;
    if (!fmi_path_is_dir(out))
        return FM_FAIL(err, FM_E_STATE, "%s: exists and is no directory", out);
    fm_status st = fmi_dir_names(out, &names, &n, err);
    if (!st && n > 0)
        st = FM_FAIL(err, FM_E_STATE, "%s: expected a new or empty directory, found %s and %d more",
                     out, names[0], n - 1);
    fmi_names_free(names, n);
    return st;
}

static fm_status publish(const fm_model *m, const char *out, fm_dtype stored,
                         const fmi_checkpoint_opts *o, bool exists, fm_err *err)
{
    char *tmp = NULL;
    fm_status st = fmi_dir_open_tmp(out, &tmp, err);
    if (st) return st;
    st = fmi_checkpoint_write(m, tmp, stored, o, err);
    if (!st) st = fmi_dir_close_tmp(tmp, out, exists, err);
    if (st) fmi_tree_remove(tmp, NULL);
    fmi_free(tmp);
    return st;
}

fm_status fm_checkpoint_init(fm_exec *x, const fm_init_opts *o, const char *out, fm_err *err)
{
    fm_config c;
    fm_model *m = NULL;
    bool exists = false;
    const fmi_checkpoint_opts w = {.tokenizer_dir = o->tokenizer_dir,
                                   .shard_bytes_max = o->shard_bytes_max};
    fm_status st = fmi_shape_config(&o->shape, &c, err);
    if (!st) st = check_target(out, &exists, err);
    if (!st) st = fmi_model_new(x, &c, o->stored, false, &m, err);
    if (!st) st = fmi_model_init(m, o->seed, err);
    if (!st) st = publish(m, out, o->stored, &w, exists, err);
    fm_model_close(m);
    return st;
}

/* F32 only if everything that may be BF16 is F32. */
static fm_status stored_dtype(const char *path, fm_dtype *out, fm_err *err)
{
    fm_tensors *t = NULL;
    fm_status st = fm_tensors_open(path, &t, err);
    if (st) return st;
    *out = FM_DTYPE_F32;
    for (int i = 0; i < fm_tensors_count(t); i++) {
        fm_dtype d = fm_tensors_at(t, i)->dtype;
        if (d == FM_DTYPE_BF16 || d == FM_DTYPE_F16 || d == FM_DTYPE_F8E4M3) *out = FM_DTYPE_BF16;
    }
    fm_tensors_close(t);
    return FM_OK;
}

fm_status fm_checkpoint_convert(fm_exec *x, const char *path, const fm_convert_opts *o,
                                const char *out, fm_err *err)
{
    fm_model *m = NULL;
    bool exists = false;
    fm_dtype stored = o->stored;
    char *dir = fmi_path_is_dir(path) ? fmi_strdup(path) : fmi_path_parent(path);
    if (!dir) return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    const fmi_checkpoint_opts w = {
        .no_mtp = o->no_mtp, .tokenizer_dir = dir, .shard_bytes_max = o->shard_bytes_max};
    fm_status st = check_target(out, &exists, err);
    if (!st && !fmi_path_exists(path)) st = FM_FAIL(err, FM_E_IO, "%s: no such model", path);
    if (!st && o->keep_dtype) st = stored_dtype(path, &stored, err);
    fm_model_opts mo = {.precision = stored, .skip_mtp = o->no_mtp};
    if (!st) st = fm_model_open(x, path, &mo, &m, err);
    if (!st) st = publish(m, out, stored, &w, exists, err);
    fm_model_close(m);
    fmi_free(dir);
    return st;
}
