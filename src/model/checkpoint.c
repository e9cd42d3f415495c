/* Opening a checkpoint. A weight whose stored dtype is the one used is borrowed from the mapping
 * where the device allows it; everything else is copied and converted tensor by tensor, and the
 * source pages are let go. Values are widened to f32 exactly (FP8 as code x scale) and rounded
 * once, by the write. */
#include <string.h>

#include "model/checkpoint.h"
#include "model/model_build.h"
#include "model/shape.h"

#define CHUNK 262144 /* elements converted at a time */

void fmi_checkpoint_files_free(void *files)
{
    fm_tensors_close(files);
}

/* Rotary rows in the other order must be moved. */
static bool permuted(const fm_model *m, const fm_param *p)
{
    if (m->cfg.rope_interleave || p->layer < 0) return false;
    const fm_layer *y = &m->lay.layers[p->layer];
    int i = (int)(p - m->lay.params);
    return i == y->q || i == y->q_b || i == y->kv_a;
}

/* Are the stored bytes the ones used? In a bf16 model norms are rounded on the way. */
static bool as_stored(const fm_model *m, const fm_param *p, const fmi_source *s)
{
    bool rounded = m->dt == FM_DTYPE_BF16 && p->kind == FM_PARAM_NORM;
    return !rounded && s->info->dtype == p->dtype && !permuted(m, p);
}

static fm_status copy_param(fm_model *m, const fm_tensors *t, int i, const fmi_source *s,
                            float *buf, fm_err *err)
{
    const fm_param *p = &m->lay.params[i];
    bool vector = s->info->rank == 1;
    int64_t rows = vector ? 1 : p->rows, cols = vector ? p->rows : p->cols;
    int64_t step = cols < CHUNK ? CHUNK / cols : 1;
    fm_status st = FM_OK;
    fm_tensors_advise(t, s->info, FMI_ADVICE_WILL_NEED);
    if (as_stored(m, p, s)) {
        st = fm_write(m->x, p->w, s->info->data, s->info->bytes, err);
        rows = 0;
    }
    for (int64_t r = 0; r < rows && !st; r += step) {
        int64_t n = rows - r < step ? rows - r : step;
        for (int64_t k = 0; k < n; k++)
            fmi_source_row(s, &m->cfg, fmi_source_row_of(&m->cfg, &m->lay, p, r + k),
                           buf + k * cols);
        if (m->dt == FM_DTYPE_F64) /* widen in place, from the end */
            for (int64_t k = n * cols - 1; k >= 0; k--) ((double *)buf)[k] = buf[k];
        st = fmi_param_write_part(m, i, r * cols, n * cols, buf, err);
    }
    fm_tensors_advise(t, s->info, FMI_ADVICE_DONE);
    return st;
}

static fm_status copy_all(fm_model *m, const fm_tensors *t, const fmi_source *src, fm_err *err)
{
    int64_t widest = CHUNK;
    for (int i = 0; i < m->lay.n_params; i++) {
        const fm_param *p = &m->lay.params[i];
        int64_t cols = p->cols == 1 ? p->rows : p->cols;
        if (cols > widest) widest = cols;
    }
    float *buf = fmi_alloc((size_t)widest * sizeof(double));
    if (!buf) return FM_FAIL(err, FM_E_NOMEM, "converting %s", fm_tensors_path(t));
    fm_status st = FM_OK;
    for (int i = 0; i < m->lay.n_params && !st; i++)
        if (!m->lay.params[i].borrowed) st = copy_param(m, t, i, &src[i], buf, err);
    fmi_free(buf);
    return st;
}

/* Finds every tensor before anything large is allocated; borrows what may be. */
static fm_status load(fm_model *m, fm_tensors *t, bool writable, bool *borrowed, fm_err *err)
{
    fmi_source *src = fmi_zalloc((size_t)m->lay.n_params * sizeof *src);
    if (!src) return FM_FAIL(err, FM_E_NOMEM, "%s", fm_tensors_path(t));
    fm_status st = FM_OK;
    for (int i = 0; i < m->lay.n_params && !st; i++)
        st = fmi_source_find(t, &m->cfg, &m->lay.params[i], &src[i], err);
    if (!st) st = fmi_source_check_rest(t, &m->cfg, &m->lay, err);
    for (int i = 0; i < m->lay.n_params && !st && !writable; i++) {
        fm_param *p = &m->lay.params[i];
        if (!as_stored(m, p, &src[i]) || !fm_tensor_aligned(src[i].info)) continue;
        p->w = fm_dev_borrow(m->x, src[i].info->data);
        if (p->w) p->borrowed = *borrowed = true;
    }
    if (!st) st = fmi_model_place(m, err);
    if (!st) st = copy_all(m, t, src, err);
    if (!st) st = fmi_model_tables(m, err);
    m->cfg.rope_interleave = true; /* rows are in that order now */
    fmi_free(src);
    return st;
}

fm_status fm_model_open(fm_exec *x, const char *path, const fm_model_opts *opts, fm_model **out,
                        fm_err *err)
{
    fm_config c;
    fm_tensors *t = NULL;
    fm_model *m = NULL;
    bool borrowed = false;
    fm_dtype dt = opts->precision;
    if (dt != FM_DTYPE_F32 && dt != FM_DTYPE_BF16 && dt != FM_DTYPE_F64)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "precision: expected F32 or BF16, found %s",
                       fm_dtype_name(dt));
    fm_status st = fmi_config_of_path(path, &c, err);
    if (!st) st = fm_tensors_open(path, &t, err);
    if (!st && opts->skip_mtp) c.num_nextn_predict_layers = 0;
    if (!st && c.num_nextn_predict_layers > 0 && !fmi_source_has_layer(t, c.num_hidden_layers)) {
        fmi_log(1, "%s: config.json names a multi-token-prediction module, the weights hold none",
                path);
        c.num_nextn_predict_layers = 0;
    }
    if (!st) st = fmi_model_shell(x, &c, dt, opts->absorbed, &m, err);
    if (!st) st = load(m, t, opts->writable, &borrowed, err);
    if (!st && borrowed) {
        m->files = t;
        t = NULL;
    }
    if (st) {
        fm_model_close(m);
        m = NULL;
    }
    fm_tensors_close(t);
    if (!st) *out = m;
    return st;
}
