/* Decode, verification of drafts, and prefill: an engine over a model of cheap random weights.
 *
 * Weights are one block of normal noise repeated at odd offsets, so that gigabytes are there in a
 * second; routing is then close to uniform. A step is what infer/step.c issues for the main model.
 * A deep cache is filled with noise too. Each timed step is followed by reading as many bytes (or
 * by arithmetic), so that what else runs on the machine meets both alike; shares are medians of
 * pairs. */
#include <math.h>
#include <string.h>

#include "base/rng.h"
#include "bench/probe.h"
#include "fathom/bench.h"
#include "infer/engine.h"
#include "model/count.h"
#include "model/internal.h"
#include "model/model_build.h"

#define NOISE ((size_t)1 << 20)
#define ROUNDS_MAX 64
#define READ_MIN ((size_t)128 << 20)

struct fm_infer_bench {
    fm_exec *x;
    fm_model *m;
    fmi_engine *e;
    fmi_ceiling ceiling;
    int32_t *load; /* device [n_layers, E] */
    int32_t *host_load;
    float *noise; /* [NOISE] normal(0, 0.02) */
    fm_bf16 *noise16;
    int64_t context;
    int rows;
};

static fm_status fill(fm_infer_bench *b, void *dev, int64_t n, fm_dtype dt, size_t *at, fm_err *err)
{
    fm_status st = FM_OK;
    size_t el = fm_dtype_bytes(dt);
    for (int64_t i = 0; i < n && !st;) {
        size_t from = *at % NOISE, k = NOISE - from;
        if ((int64_t)k > n - i) k = (size_t)(n - i);
        const void *src =
            dt == FM_DTYPE_BF16 ? (void *)(b->noise16 + from) : (void *)(b->noise + from);
        st = fm_write(b->x, (char *)dev + (size_t)i * el, src, k * el, err);
        i += (int64_t)k;
        *at += k + (k + from == NOISE ? 4099 : 0);
    }
    return st;
}

static fm_status weights(fm_infer_bench *b, fm_err *err)
{
    fm_status st = FM_OK;
    size_t at = 0;
    for (size_t i = 0; i < NOISE; i++) {
        b->noise[i] = 0.02f * (float)fmi_rng_normal(1, 0, i, FMI_RNG_TEST);
        b->noise16[i] = fmi_f32_to_bf16(b->noise[i]);
    }
    for (int i = 0; i < b->m->lay.n_params && !st; i++) {
        const fm_param *p = &b->m->lay.params[i];
        int64_t n = fmi_param_count(p);
        if (p->kind == FM_PARAM_ROUTER_BIAS) continue;
        if (p->kind != FM_PARAM_NORM) {
            st = fill(b, p->w, n, p->dtype, &at, err);
            continue;
        }
        for (int64_t j = 0; j < n && !st; j++) {
            float one = 1;
            st = fm_write(b->x, (char *)p->w + (size_t)j * sizeof one, &one, sizeof one, err);
        }
    }
    return st;
}

static fm_status caches(fm_infer_bench *b, fm_err *err)
{
    fm_status st = FM_OK;
    size_t at = 17;
    const fm_config *c = &b->m->cfg;
    int64_t n = b->e->cache.n_pages / b->e->o.sequences * FM_PAGE_ROWS *
                (c->kv_lora_rank + c->qk_rope_head_dim);
    for (int l = 0; l < c->num_hidden_layers && !st; l++)
        st = fill(b, b->e->cache.pages[l], n, b->m->dt, &at, err);
    return st;
}

static fm_status model_open(fm_infer_bench *b, const fm_infer_bench_opts *o, fm_err *err)
{
    fm_config c;
    fm_status st = fmi_config_preset(o->preset ? o->preset : "mini", &c, err);
    if (st) return st;
    c.num_nextn_predict_layers = 0;
    if (c.max_position_embeddings < b->context) c.max_position_embeddings = (int)b->context;
    st = fmi_model_new(b->x, &c, o->precision, true, &b->m, err);
    if (!st) st = weights(b, err);
    fmi_engine_opts eo = {.sequences = b->rows, .context_max = b->context,
                          .chunk = o->chunk ? o->chunk : FMI_CHUNK};
    if (!st) st = fmi_engine_new(b->m, &eo, &b->e, err);
    if (!st) st = caches(b, err);
    size_t loads = sizeof(int32_t) * (size_t)b->m->lay.n_layers * (size_t)(c.n_routed_experts + 1);
    if (!st) st = fm_dev_alloc(b->x, loads, (void **)&b->load, err);
    b->host_load = fmi_zalloc(loads);
    if (!st && !b->host_load) st = FM_FAIL(err, FM_E_NOMEM, "bench");
    return st;
}

fm_status fm_infer_bench_open(const fm_infer_bench_opts *o, fm_infer_bench **out, fm_err *err)
{
    int isa = o->isa ? fm_isa_parse(o->isa) : -1;
    if (o->isa && isa < 0)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown instruction set level '%s'", o->isa);
    if (o->rows < 0 || o->rows > 64)
        return FM_FAIL(err, FM_E_RANGE, "rows: expected 1 to 64, found %d", o->rows);
    if (o->context < 0 || o->context > (1 << 20))
        return FM_FAIL(err, FM_E_RANGE, "depth: expected at most 1048576, found %lld",
                       (long long)o->context);
    fm_infer_bench *b = fmi_zalloc(sizeof *b);
    if (!b) return FM_FAIL(err, FM_E_NOMEM, "bench");
    b->rows = o->rows > 0 ? o->rows : 1;
    b->context = (o->context > 0 ? o->context : 4096) + 128;
    b->noise = fmi_alloc(NOISE * sizeof *b->noise);
    b->noise16 = fmi_alloc(NOISE * sizeof *b->noise16);
    fm_exec_opts eo = {.device = "cpu", .threads = o->threads, .isa_max = isa, .profile = true};
    fm_status st = FM_OK;
    if (!b->noise || !b->noise16) st = FM_FAIL(err, FM_E_NOMEM, "bench");
    if (!st) st = fm_exec_open(&eo, &b->x, err);
    if (!st) st = fmi_ceiling_open(&b->ceiling, fm_exec_threads(b->x), fm_exec_isa(b->x), err);
    if (!st) st = model_open(b, o, err);
    if (st) {
        fm_infer_bench_close(b);
        return st;
    }
    /* Memory is measured by reading the weights themselves. */
    b->ceiling.memory = b->m->arena;
    b->ceiling.bytes = (size_t)fmi_model_weight_bytes(&b->m->lay, b->m->dt) & ~(size_t)4095;
    *out = b;
    return FM_OK;
}

void fm_infer_bench_close(fm_infer_bench *b)
{
    if (!b) return;
    fmi_engine_free(b->e);
    if (b->load) fm_dev_free(b->x, b->load);
    fm_model_close(b->m);
    fmi_ceiling_close(&b->ceiling);
    fm_exec_close(b->x);
    fmi_free(b->host_load);
    fmi_free(b->noise);
    fmi_free(b->noise16);
    fmi_free(b);
}

static void random_tokens(const fm_infer_bench *b, fmi_seq *q, int64_t begin, int64_t end,
                          uint32_t salt)
{
    for (int64_t i = begin; i < end; i++) {
        uint32_t w[4];
        fmi_rng_words(3, salt, (uint64_t)i, FMI_RNG_TEST, 0, w);
        q->tokens[i] = (int32_t)(w[0] % (uint32_t)b->m->cfg.vocab_size);
    }
}

/* Sequence 0 with `depth` cached tokens and `fresh` more that wait. */
static void place(fm_infer_bench *b, int64_t depth, int64_t fresh, uint32_t salt)
{
    fmi_seq *q = &b->e->seq[0];
    fmi_seq_truncate(b->e, 0, q->n < depth ? q->n : depth);
    random_tokens(b, q, 0, depth + fresh, salt);
    q->n = depth + fresh;
    q->len = depth;
}

/* The main model over `rows` successive tokens with a token sampled from each: one write, one read.
 */
static fm_status verify(fm_infer_bench *b, int64_t depth, int rows, fm_err *err)
{
    fmi_engine *e = b->e;
    fmi_rows r;
    int32_t *dev;
    int64_t W = b->m->cfg.vocab_size;
    e->in_n = 0;
    fm_status st = fmi_pages_reserve(&e->main, 0, depth, depth + rows, err);
    if (st) return st;
    fmi_rows_begin(e, &e->main, rows, 0, &r);
    fmi_rows_put(e, &e->main, &r, 0, 0, depth, depth + rows);
    for (int i = 0; i < rows; i++) r.ids[i] = e->seq[0].tokens[depth + i];
    fm_sample_row *how =
        (void *)fmi_in_put(e, rows * (int64_t)(sizeof *how / sizeof(int32_t)), &dev);
    for (int i = 0; i < rows; i++) how[i] = e->seq[0].how;
    st = fm_write(b->x, e->dev_in, e->in, (size_t)e->in_n * sizeof *e->in, err);
    if (!st) st = fmi_pages_write(&e->main, err);
    if (st) return st;
    fmi_forward(b->m, e->acts, &r.b, b->load);
    fmi_logits(b->m, e->acts, e->acts->h, NULL, rows, e->acts->logits);
    fm_op_sample(b->x, &(fm_sample_args){.logits = e->acts->logits,
                                         .rows = (void *)dev,
                                         .token = e->dev_out,
                                         .logprob = e->dev_out + rows,
                                         .scratch = e->dev_scratch,
                                         .T = rows,
                                         .W = W,
                                         .ld = W,
                                         .dt = b->m->dt});
    return fm_read(b->x, e->out, e->dev_out, 2 * (size_t)rows * sizeof *e->out, err);
}

static fm_status clear_load(fm_infer_bench *b, fm_err *err)
{
    size_t n = sizeof(int32_t) * (size_t)b->m->lay.n_layers * (size_t)b->m->cfg.n_routed_experts;
    if (n == 0) return FM_OK;
    memset(b->host_load, 0, n);
    return fm_write(b->x, b->load, b->host_load, n, err);
}

/* Distinct experts of the last step, all layers together. */
static fm_status union_of(fm_infer_bench *b, double *out, fm_err *err)
{
    size_t n = (size_t)b->m->lay.n_layers * (size_t)b->m->cfg.n_routed_experts;
    *out = 0;
    fm_status st = n ? fm_read(b->x, b->host_load, b->load, n * sizeof(int32_t), err) : FM_OK;
    for (size_t i = 0; i < n && !st; i++) *out += b->host_load[i] > 0;
    return st;
}

/* Bytes of every weight but the routed experts and the embedding's other rows; of one expert. */
static void weight_bytes(const fm_infer_bench *b, double *rest, double *expert, int *layers)
{
    const fm_layout *l = &b->m->lay;
    *rest = *expert = 0;
    *layers = 0;
    for (int i = 0; i < l->n_params; i++) {
        const fm_param *p = &l->params[i];
        double n = (double)fmi_param_count(p) * (double)fm_dtype_bytes(p->dtype);
        if (p->kind == FM_PARAM_EMBED) continue;
        if (p->expert < 0) *rest += n;
    }
    for (int i = 0; i < l->n_layers; i++) *layers += l->layers[i].moe;
    *expert = 3.0 * b->m->cfg.hidden_size * b->m->cfg.moe_intermediate_size *
              (double)fm_dtype_bytes(b->m->dt);
}

static void parts(const fm_infer_bench *b, int n, fm_infer_speed *out)
{
    double seconds;
    int64_t calls;
    const char *name;
    out->n_parts = 0;
    for (int i = 0; (name = fm_exec_profile(b->x, i, &seconds, &calls)) != NULL; i++)
        if (calls && out->n_parts < FM_BENCH_PARTS) {
            out->part[out->n_parts].name = name;
            out->part[out->n_parts].seconds = seconds / n;
            out->part[out->n_parts++].calls = calls / n;
        }
}

fm_status fm_infer_bench_decode(fm_infer_bench *b, int64_t depth, int rows, fm_infer_speed *out,
                                fm_err *err)
{
    double at[ROUNDS_MAX], share[ROUNDS_MAX], rate[ROUNDS_MAX], rest, expert, experts = 0,
                                                                              bytes = 0;
    int layers, n = 0, rounds = 24;
    if (depth < 0 || depth + rows + 1 > b->context || rows < 1 || rows > b->rows)
        return FM_FAIL(err, FM_E_RANGE,
                       "depth %lld with %d rows: the bench was opened for %lld and %d",
                       (long long)depth, rows, (long long)b->context - 128, b->rows);
    *out = (fm_infer_speed){0};
    weight_bytes(b, &rest, &expert, &layers);
    out->cache_bytes =
        (double)(depth + rows) * (double)fmi_count_kv_bytes(&b->m->cfg, b->m->dt, false);
    place(b, depth, rows, 0);
    fm_status st = fmi_pages_reserve(&b->e->main, 0, 0, depth + rows, err);
    for (int i = 0; i < rounds + 2 && !st; i++) {
        double picked = 0;
        random_tokens(b, &b->e->seq[0], depth, depth + rows, (uint32_t)i + 1);
        st = clear_load(b, err);
        if (i == 2) fm_exec_profile_reset(b->x);
        double t = fmi_clock_s();
        if (!st) st = verify(b, depth, rows, err);
        t = fmi_clock_s() - t;
        if (!st) st = union_of(b, &picked, err);
        double need = rest + picked * expert + out->cache_bytes;
        double read = fmi_ceiling_read(&b->ceiling, need > READ_MIN ? (size_t)need : READ_MIN);
        if (i < 2 || st) continue;
        at[n] = t;
        rate[n] = read;
        share[n++] = need / t / read;
        experts += picked;
        bytes += need - out->cache_bytes;
    }
    if (st) return st;
    parts(b, rounds, out);
    out->step_seconds = fmi_median(at, n);
    out->tokens_per_second = rows / out->step_seconds;
    out->ceiling = fmi_median(rate, n);
    out->fraction = fmi_median(share, n);
    out->weight_bytes = bytes / n;
    out->experts = layers ? experts / n / layers : 0;
    return FM_OK;
}

fm_status fm_infer_bench_prefill(fm_infer_bench *b, int64_t tokens, fm_infer_speed *out,
                                 fm_err *err)
{
    double at[ROUNDS_MAX], share[ROUNDS_MAX], rate[ROUNDS_MAX];
    int n = 0, rounds = tokens > 1024 ? 3 : 7, seq = 0;
    fmi_flops f, pairs;
    if (tokens < 2 || tokens + 1 > b->context)
        return FM_FAIL(err, FM_E_RANGE, "%lld tokens: the bench was opened for %lld",
                       (long long)tokens, (long long)b->context - 128);
    *out = (fm_infer_speed){0};
    fmi_count_flops(&b->m->cfg, &b->m->lay, tokens, &f);
    fmi_count_flops(&b->m->cfg, &b->m->lay, tokens / 2, &pairs);
    out->counted = (f.forward - f.head) * (double)tokens + f.head;
    out->operations = (pairs.decode - f.head) * (double)tokens + f.head;
    fm_status st = FM_OK;
    for (int i = 0; i <= rounds && !st; i++) {
        place(b, 0, tokens, (uint32_t)i);
        if (i == 1) fm_exec_profile_reset(b->x);
        double peak = fmi_ceiling_compute(&b->ceiling, b->m->dt), t = fmi_clock_s();
        while (b->e->seq[0].n == tokens && !st) st = fmi_engine_step(b->e, &seq, 1, err);
        t = fmi_clock_s() - t;
        double after = fmi_ceiling_compute(&b->ceiling, b->m->dt);
        if (i == 0) continue;
        at[n] = t;
        rate[n] = (peak + after) / 2;
        share[n] = out->operations / t / rate[n];
        n++;
    }
    if (st) return st;
    parts(b, rounds, out);
    out->step_seconds = fmi_median(at, n);
    out->tokens_per_second = (double)tokens / out->step_seconds;
    out->ceiling = fmi_median(rate, n);
    out->fraction = fmi_median(share, n);
    return FM_OK;
}
