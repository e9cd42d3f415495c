/* What a checkpoint holds and which programs will load it, from headers and config.json alone.
 * Facts on other programs: transformers 5.17 (its deepseek classes and their ignored-key patterns),
 * vLLM's MLA kernels (latent rows of 576, and 320). */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "model/checkpoint.h"
#include "model/shape.h"

static fm_loader *loader(fm_inspection *r, const char *program, bool loads)
{
    fm_loader *l = &r->loader[r->n_loaders++];
    l->program = program;
    l->loads = loads;
    return l;
}

/* Appends a remark; "loads = false" is the caller's. */
static void remark(fm_loader *l, const char *fmt, ...) FMI_PRINTF(2, 3);

static void remark(fm_loader *l, const char *fmt, ...)
{
    size_t n = strlen(l->why);
    va_list ap;
    if (n && n + 3 < sizeof l->why) n += (size_t)snprintf(l->why + n, sizeof l->why - n, "; ");
    va_start(ap, fmt);
    vsnprintf(l->why + n, sizeof l->why - n, fmt, ap);
    va_end(ap);
}

/* Fathom: every parameter's tensor is there as it must be. */
static fm_status judge_fathom(fm_inspection *r, const fm_tensors *t, const fm_config *c,
                              fm_err *err)
{
    fm_layout l;
    fm_err first = {0};
    fm_status st = fmi_layout_new(c, &l, err);
    if (st) return st;
    for (int i = 0; i < l.n_params && !st; i++) {
        fmi_source s;
        st = fmi_source_find(t, c, &l.params[i], &s, &first);
    }
    if (!st) st = fmi_source_check_rest(t, c, &l, &first);
    fm_loader *f = loader(r, "fathom", !st);
    if (st) remark(f, "%s", first.text);
    fmi_layout_free(&l);
    return FM_OK;
}

/* What transformers' classes compute whatever config.json says. */
static void judge_transformers(fm_inspection *r, const fm_config *c)
{
    bool v3 = c->family == FM_FAMILY_V3;
    fm_loader *l = loader(r, "transformers", true);
    if (c->n_routed_experts == 0) {
        l->loads = false;
        remark(l,
               "a dense twin has no class there: its layers' FFN width is not intermediate_size");
        return;
    }
    if (v3 && (c->scoring != FM_ROUTE_SIGMOID || c->method != FM_ROUTE_NOAUX))
        l->loads = false, remark(l, "deepseek_v3 always routes by sigmoid with noaux_tc");
    if (!v3 && (c->scoring != FM_ROUTE_SOFTMAX || c->method == FM_ROUTE_NOAUX))
        l->loads = false, remark(l, "deepseek_v2 always routes by softmax, without a bias");
    if (!v3 && c->norm_topk_prob) l->loads = false, remark(l, "deepseek_v2 ignores norm_topk_prob");
    if (c->moe_layer_freq != 1) l->loads = false, remark(l, "moe_layer_freq is ignored there");
    if (c->fp8) remark(l, "FP8 weights need a GPU there");
    if (r->mtp && c->num_hidden_layers == 61)
        remark(l, "the MTP module at layer 61 is ignored");
    else if (r->mtp)
        remark(l,
               "the MTP module (model.layers.%d.*) is listed as unused: only layer 61 is ignored "
               "silently; fathom convert --no-mtp leaves it out",
               c->num_hidden_layers);
}

static void judge_vllm(fm_inspection *r, const fm_config *c)
{
    int row = c->kv_lora_rank + c->qk_rope_head_dim;
    fm_loader *l = loader(r, "vllm", true);
    if (row != 576 && row != 320) {
        l->loads = false;
        remark(
            l,
            "latent rows of 320 and 576 only, these have %d (kv_lora_rank %d + "
             "qk_rope_head_dim %d)",
            row, c->kv_lora_rank, c->qk_rope_head_dim);
    }
    if (c->n_routed_experts == 0) l->loads = false, remark(l, "a dense twin has no class there");
}

static fm_status list_tensors(fm_inspection *r, const fm_tensors *t, fm_err *err)
{
    r->n_tensors = fm_tensors_count(t);
    r->n_files = fm_tensors_shards(t);
    r->tensors = fmi_zalloc((size_t)r->n_tensors * sizeof *r->tensors + 1);
    if (!r->tensors)
        return FM_FAIL(err, FM_E_NOMEM, "%s: %d tensors", fm_tensors_path(t), r->n_tensors);
    for (int i = 0; i < r->n_tensors; i++) {
        const fm_tensor_info *s = fm_tensors_at(t, i);
        fm_tensor_row *d = &r->tensors[i];
        d->name = s->name;
        d->dtype = s->dtype_name;
        d->file = fm_tensors_shard_path(t, s->shard);
        d->rank = s->rank;
        memcpy(d->dims, s->dims, sizeof d->dims);
        d->n = s->n;
        d->bytes = (int64_t)s->bytes;
        d->offset = (int64_t)s->offset;
        r->bytes += d->bytes;
        r->elements += d->n;
    }
    return FM_OK;
}

fm_status fm_checkpoint_inspect(const char *path, fm_inspection **out, fm_err *err)
{
    fm_config c;
    fm_tensors *t = NULL;
    fm_status st = fmi_config_of_path(path, &c, err);
    if (!st) st = fm_tensors_open(path, &t, err);
    if (st) return st;
    fm_inspection *r = fmi_zalloc(sizeof *r);
    if (!r) {
        fm_tensors_close(t);
        return FM_FAIL(err, FM_E_NOMEM, "%s", path);
    }
    r->files = t;
    r->mtp = fmi_source_has_layer(t, c.num_hidden_layers);
    r->fp8 = c.fp8;
    if (!r->mtp) c.num_nextn_predict_layers = 0;
    st = fmi_shape_fill(&c, 0, &r->shape, err);
    if (!st) st = list_tensors(r, t, err);
    if (!st) st = judge_fathom(r, t, &c, err);
    if (st) {
        fm_inspection_free(r);
        return st;
    }
    judge_transformers(r, &c);
    judge_vllm(r, &c);
    *out = r;
    return FM_OK;
}

void fm_inspection_free(fm_inspection *i)
{
    if (!i) return;
    fmi_free(i->tensors);
    fm_tensors_close(i->files);
    fmi_free(i);
}
