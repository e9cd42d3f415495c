/* Finds the first non-finite tensor of a refused step: see diagnose.h. The weights are untouched and the
 * activations of the last micro-batch are still there. */
#include "train/diagnose.h"

#include <math.h>
#include <stdio.h>

/* Index of the first non-finite element, -1 when all are finite, -2 when reading failed. */
static int64_t first_bad(fm_exec *x, const void *dev, int64_t n, fm_dtype dt)
{
    enum { CHUNK = 4096 };
    char raw[CHUNK * 4];
    size_t size = fm_dtype_bytes(dt);
    for (int64_t at = 0; at < n; at += CHUNK) {
        int64_t k = n - at < CHUNK ? n - at : CHUNK;
        if (fm_read(x, raw, (const char *)dev + (size_t)at * size, (size_t)k * size, NULL)) return -2;
        for (int64_t i = 0; i < k; i++) {
            float v;
            if (dt == FM_DTYPE_BF16) {
                fm_bf16 h;
                memcpy(&h, raw + (size_t)i * size, sizeof h);
                v = fmi_bf16_to_f32(h);
            } else {
                memcpy(&v, raw + (size_t)i * size, sizeof v);
            }
            if (!isfinite(v)) return at + i;
        }
    }
    return -1;
}

static bool bad_weight(const fmi_stepper *t, char *name, size_t cap)
{
    const fm_layout *lay = &t->m->lay;
    for (int i = 0; i < lay->n_params; i++) {
        const fm_param *p = &lay->params[i];
        int64_t at = first_bad(t->m->x, p->w, fmi_param_count(p), p->dtype);
        if (at < 0) continue;
        snprintf(name, cap, "weight %s [%lld]", p->name, (long long)at);
        return true;
    }
    return false;
}

static bool bad_activation(const fmi_stepper *t, char *name, size_t cap)
{
    const fm_acts *a = t->acts;
    fm_dtype F = fmi_full_dtype(t->m->dt);
    int64_t n = a->T * t->m->cfg.hidden_size;
    int main_layers = t->m->cfg.num_hidden_layers;
    for (int i = 0; i < main_layers; i++) {
        if (first_bad(t->m->x, a->layer[i].x0, n, F) < 0) continue;
        if (i) snprintf(name, cap, "output of layer %d", i - 1);
        else snprintf(name, cap, "output of the embedding");
        return true;
    }
    struct { const void *p; const char *what; } ends[] = {
        { a->xout, "output of the last layer" },
        { a->hf, "output of model.norm" },
        { t->o.mtp ? a->mtp_xout : NULL, "output of the MTP layer" },
    };
    for (size_t i = 0; i < sizeof ends / sizeof *ends; i++) {
        if (!ends[i].p || first_bad(t->m->x, ends[i].p, n, F) < 0) continue;
        snprintf(name, cap, "%s", ends[i].what);
        return true;
    }
    return false;
}

fm_status fmi_diagnose(fmi_stepper *t, int64_t step, int32_t bad, fm_err *err)
{
    char name[FM_NAME_MAX + 32];
    if (bad > 0 && bad <= t->optim->n_segs) {
        int p = t->optim->param_of[bad - 1];
        if (!bad_weight(t, name, sizeof name) && !bad_activation(t, name, sizeof name))
            snprintf(name, sizeof name, "gradient of %s", t->m->lay.params[p].name);
        return FM_FAIL(err, FM_E_NUMERIC, "step %lld: the gradient of %s is not finite; first: %s; "
                       "no weight was changed", (long long)step, t->m->lay.params[p].name, name);
    }
    if (!bad_weight(t, name, sizeof name) && !bad_activation(t, name, sizeof name))
        snprintf(name, sizeof name, "logits");
    return FM_FAIL(err, FM_E_NUMERIC, "step %lld: the loss is not finite; first: %s; no weight was "
                   "changed", (long long)step, name);
}
