/* A model's life: shell, weights in one device arena, rotary and expert tables, random
 * initialisation, host access to single parameters, and the context it runs on. What a checkpoint
 * adds is in checkpoint.c. Host code here never touches device memory: all goes through fm_read and
 * fm_write. */
#include <complex.h>
#include <string.h>

#include "base/rng.h"
#include "model/model_build.h"

#define ROPE_ROWS_MAX 163840
#define CHUNK 262144 /* elements that pass through host memory at a time */

fm_status fm_context_open(const char *device, const char *isa, int threads, fm_exec **out,
                          fm_err *err)
{
    fm_exec_opts o = {.device = device, .threads = threads, .isa_max = -1};
    if (isa) {
        o.isa_max = fm_isa_parse(isa);
        if (o.isa_max < 0)
            return FM_FAIL(err, FM_E_UNSUPPORTED,
                           "isa: expected scalar, avx2, avx512 or amx, found \"%s\"", isa);
    }
    return fm_exec_open(&o, out, err);
}

void fm_context_close(fm_exec *x)
{
    fm_exec_close(x);
}

fm_dtype fmi_param_dtype(fm_param_kind kind, fm_dtype dt)
{
    bool vector = kind == FM_PARAM_NORM || kind == FM_PARAM_ROUTER_BIAS;
    return vector ? fmi_full_dtype(dt) : dt;
}

/* n values of double, rounded once to the full dtype F. */
static void from_double(fm_dtype full, const double *in, int64_t n, void *out)
{
    for (int64_t i = 0; i < n; i++) {
        if (full == FM_DTYPE_F32) ((float *)out)[i] = (float)in[i];
        else if (full == FM_DTYPE_F64) ((double *)out)[i] = in[i];
        else ((double complex *)out)[i] = in[i];
    }
}

static fm_status rope_tables(fm_model *m, fm_err *err)
{
    const fm_config *c = &m->cfg;
    fm_dtype full = fmi_full_dtype(m->dt);
    m->rope_rows =
        c->max_position_embeddings < ROPE_ROWS_MAX ? c->max_position_embeddings : ROPE_ROWS_MAX;
    int64_t n = m->rope_rows * (c->qk_rope_head_dim / 2);
    size_t bytes = (size_t)n * fm_dtype_bytes(full);
    double *cosv = fmi_alloc((size_t)n * sizeof *cosv), *sinv = fmi_alloc((size_t)n * sizeof *sinv);
    void *host = fmi_alloc(bytes);
    fm_status st = FM_OK;
    if (!cosv || !sinv || !host) {
        st = FM_FAIL(err, FM_E_NOMEM, "rotary tables of %lld positions", (long long)m->rope_rows);
        goto done;
    }
    fmi_config_rope(c, m->rope_rows, cosv, sinv);
    st = fm_dev_alloc(m->x, bytes, &m->rope_cos, err);
    if (!st) st = fm_dev_alloc(m->x, bytes, &m->rope_sin, err);
    if (st) goto done;
    from_double(full, cosv, n, host);
    st = fm_write(m->x, m->rope_cos, host, bytes, err);
    from_double(full, sinv, n, host);
    if (!st) st = fm_write(m->x, m->rope_sin, host, bytes, err);
done:
    fmi_free(cosv);
    fmi_free(sinv);
    fmi_free(host);
    return st;
}

fm_status fmi_model_shell(fm_exec *x, const fm_config *c, fm_dtype dt, bool absorbed,
                          fm_model **out, fm_err *err)
{
    fm_status st = fmi_config_check(c, err);
    if (st) return st;
    fm_model *m = fmi_zalloc(sizeof *m);
    if (!m) return FM_FAIL(err, FM_E_NOMEM, "model");
    m->x = x;
    m->cfg = *c;
    m->dt = dt;
    m->absorbed = absorbed;
    st = fmi_layout_new(c, &m->lay, err);
    for (int i = 0; i < m->lay.n_params; i++)
        m->lay.params[i].dtype = fmi_param_dtype(m->lay.params[i].kind, dt);
    if (!st) st = rope_tables(m, err);
    if (st) {
        fm_model_close(m);
        return st;
    }
    *out = m;
    return FM_OK;
}

static int64_t padded(const fm_param *p, fm_dtype dtype)
{
    return (fmi_param_count(p) * (int64_t)fm_dtype_bytes(dtype) + 63) / 64 * 64;
}

int64_t fmi_model_weight_bytes(const fm_layout *l, fm_dtype dt)
{
    int64_t n = 0;
    for (int i = 0; i < l->n_params; i++)
        n += padded(&l->params[i], fmi_param_dtype(l->params[i].kind, dt));
    return n;
}

fm_status fmi_model_place(fm_model *m, fm_err *err)
{
    int64_t bytes = 0;
    for (int i = 0; i < m->lay.n_params; i++)
        if (!m->lay.params[i].w) bytes += padded(&m->lay.params[i], m->lay.params[i].dtype);
    fm_status st = fm_dev_alloc(m->x, (size_t)bytes, &m->arena, err);
    if (st) return fmi_fail_prefix(err, st, "weights of %lld bytes", (long long)bytes);
    int64_t used = 0;
    for (int i = 0; i < m->lay.n_params; i++)
        for (int j = i; j >= 0; j = fmi_layout_behind(&m->lay, j)) {
            fm_param *p = &m->lay.params[j];
            if (p->w) continue;
            p->w = (char *)m->arena + used;
            used += padded(p, p->dtype);
        }
    FM_ASSERT(used == bytes);
    return FM_OK;
}

fm_status fmi_model_tables(fm_model *m, fm_err *err)
{
    int E = m->cfg.n_routed_experts;
    if (E == 0) return FM_OK;
    const void **ptrs = fmi_alloc((size_t)E * sizeof *ptrs);
    if (!ptrs) return FM_FAIL(err, FM_E_NOMEM, "table of %d experts", E);
    fm_status st = FM_OK;
    for (int i = 0; i < m->lay.n_layers && !st; i++) {
        fm_layer *y = &m->lay.layers[i];
        void **tables[3] = {&y->gate_table, &y->up_table, &y->down_table};
        if (!y->moe) continue;
        for (int k = 0; k < 3 && !st; k++) {
            for (int e = 0; e < E; e++) ptrs[e] = m->lay.params[y->expert0 + 3 * e + k].w;
            st = fm_dev_table(m->x, ptrs, E, tables[k], err);
        }
    }
    fmi_free(ptrs);
    return st;
}

fm_status fmi_model_new(fm_exec *x, const fm_config *c, fm_dtype dt, bool absorbed, fm_model **out,
                        fm_err *err)
{
    fm_model *m = NULL;
    fm_status st = fmi_model_shell(x, c, dt, absorbed, &m, err);
    if (st) return st;
    st = fmi_model_place(m, err);
    if (!st) st = fmi_model_tables(m, err);
    if (st) {
        fm_model_close(m);
        return st;
    }
    *out = m;
    return FM_OK;
}

static void dev_free(fm_exec *x, void *p)
{
    if (p) fm_dev_free(x, p);
}

void fm_model_close(fm_model *m)
{
    if (!m) return;
    for (int i = 0; i < m->lay.n_layers && m->lay.layers; i++) {
        dev_free(m->x, m->lay.layers[i].gate_table);
        dev_free(m->x, m->lay.layers[i].up_table);
        dev_free(m->x, m->lay.layers[i].down_table);
    }
    dev_free(m->x, m->rope_cos);
    dev_free(m->x, m->rope_sin);
    dev_free(m->x, m->arena);
    fmi_checkpoint_files_free(m->files);
    fmi_layout_free(&m->lay);
    fmi_free(m);
}

int fm_model_vocab(const fm_model *m) { return m->cfg.vocab_size; }
int fm_model_hidden(const fm_model *m) { return m->cfg.hidden_size; }
int fm_model_layers(const fm_model *m) { return m->cfg.num_hidden_layers; }
bool fm_model_has_mtp(const fm_model *m) { return m->cfg.num_nextn_predict_layers > 0; }

/* In a bf16 model everything but the router bias holds values a bf16 checkpoint can hold. */
static bool rounds(const fm_model *m, const fm_param *p)
{
    return m->dt == FM_DTYPE_BF16 && p->kind != FM_PARAM_ROUTER_BIAS;
}

fm_status fmi_param_write_part(fm_model *m, int i, int64_t begin, int64_t n, const void *f,
                               fm_err *err)
{
    const fm_param *p = &m->lay.params[i];
    size_t size = fm_dtype_bytes(p->dtype);
    if (p->borrowed)
        return FM_FAIL(err, FM_E_STATE, "%s lies in a file mapping and cannot be written", p->name);
    char *dst = (char *)p->w + (size_t)begin * size;
    if (!rounds(m, p)) return fm_write(m->x, dst, f, (size_t)n * size, err);
    const float *in = f;
    void *tmp = fmi_alloc((size_t)(n < CHUNK ? n : CHUNK) * size);
    if (!tmp) return FM_FAIL(err, FM_E_NOMEM, "rounding %s", p->name);
    fm_status st = FM_OK;
    for (int64_t at = 0; at < n && !st; at += CHUNK) {
        int64_t k = n - at < CHUNK ? n - at : CHUNK;
        for (int64_t j = 0; j < k; j++) {
            fm_bf16 h = fmi_f32_to_bf16(in[at + j]);
            if (p->dtype == FM_DTYPE_BF16) ((fm_bf16 *)tmp)[j] = h;
            else ((float *)tmp)[j] = fmi_bf16_to_f32(h);
        }
        st = fm_write(m->x, dst + (size_t)at * size, tmp, (size_t)k * size, err);
    }
    fmi_free(tmp);
    return st;
}

fm_status fmi_param_write(fm_model *m, int i, const void *in_f, fm_err *err)
{
    return fmi_param_write_part(m, i, 0, fmi_param_count(&m->lay.params[i]), in_f, err);
}

fm_status fmi_param_read(const fm_model *m, int i, void *out_f, fm_err *err)
{
    const fm_param *p = &m->lay.params[i];
    int64_t n = fmi_param_count(p);
    size_t size = fm_dtype_bytes(p->dtype);
    if (p->dtype != FM_DTYPE_BF16) return fm_read(m->x, out_f, p->w, (size_t)n * size, err);
    /* The halves go to the upper half of out_f and widen upwards: each write stays below what is
     * unread. */
    float *out = out_f;
    char *half = (char *)out_f + (size_t)n * 2;
    fm_status st = fm_read(m->x, half, p->w, (size_t)n * 2, err);
    if (st) return st;
    for (int64_t j = 0; j < n; j++) {
        fm_bf16 h;
        memcpy(&h, half + 2 * j, sizeof h);
        out[j] = fmi_bf16_to_f32(h);
    }
    return FM_OK;
}

typedef struct init_job {
    uint64_t seed;
    double std;
    int param;
    int64_t begin, n;
    fm_dtype full;
    void *out;
} init_job;

static void init_share(void *arg, int tid, int n_threads)
{
    const init_job *j = arg;
    int64_t b, e;
    fmi_pool_share(j->n, 64, tid, n_threads, &b, &e);
    for (int64_t k = b; k < e; k++) {
        double v = j->std * fmi_rng_normal(j->seed, (uint32_t)j->param, (uint64_t)(j->begin + k),
                                           FMI_RNG_INIT);
        from_double(j->full, &v, 1, (char *)j->out + (size_t)k * fm_dtype_bytes(j->full));
    }
}

static fm_status init_param(fm_model *m, fmi_pool *pool, uint64_t seed, int i, void *buf,
                            fm_err *err)
{
    const fm_param *p = &m->lay.params[i];
    int64_t n = fmi_param_count(p);
    fm_dtype full = fmi_full_dtype(m->dt);
    fm_status st = FM_OK;
    for (int64_t at = 0; at < n && !st; at += CHUNK) {
        int64_t k = n - at < CHUNK ? n - at : CHUNK;
        init_job job = {seed, m->cfg.initializer_range, i, at, k, full, buf};
        if (p->kind == FM_PARAM_NORM || p->kind == FM_PARAM_ROUTER_BIAS) {
            double v = p->kind == FM_PARAM_NORM ? 1 : 0;
            for (int64_t j = 0; j < k; j++)
                from_double(full, &v, 1, (char *)buf + (size_t)j * fm_dtype_bytes(full));
        } else {
            fmi_pool_run(pool, init_share, &job);
        }
        st = fmi_param_write_part(m, i, at, k, buf, err);
    }
    return st;
}

fm_status fmi_model_init(fm_model *m, uint64_t seed, fm_err *err)
{
    fmi_pool *pool = NULL;
    void *buf = fmi_alloc(CHUNK * fm_dtype_bytes(fmi_full_dtype(m->dt)));
    if (!buf) return FM_FAIL(err, FM_E_NOMEM, "initialisation");
    fm_status st = fmi_pool_new(fm_exec_threads(m->x), &pool, err);
    for (int i = 0; i < m->lay.n_params && !st; i++) st = init_param(m, pool, seed, i, buf, err);
    fmi_pool_free(pool);
    fmi_free(buf);
    return st;
}
