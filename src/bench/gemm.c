/* Single matrix products at the shapes of a preset: the forward product, the product to the input
 * and the product to the weight of every projection, grouped ones for experts.
 *
 * Cold: each call takes the next of many copies of all operands, more than any cache holds. L2: as
 * many tokens as leave the operands in half of L2. Between samples the ceilings are measured. The
 * floor is the larger of the operations at the tile (FMA) rate and the fewest bytes (operands once,
 * C written, read too when added to) at the level's bandwidth. */
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "bench/probe.h"
#include "fathom/bench.h"
#include "model/internal.h"

#define COLD_BYTES ((size_t)384 << 20)
#define SAMPLES 7
#define SAMPLE_S 0.004
#define COPIES_MAX 512
#define GROUPS_MAX 512

typedef struct product {
    const char *name;
    int64_t n, k;          /* of the weight [n, k] */
    int groups, per_token; /* experts, chosen ones; 0: not grouped */
    bool to_full;          /* the forward result is F */
    bool once;             /* one matrix a model (the head): forward only in few rows */
} product;

typedef struct gemm_bench {
    fm_exec *x;
    fmi_ceiling ceiling;
    char *arena;      /* device */
    int32_t *offsets; /* device */
    void *tables[COPIES_MAX];
    int n_tables;
    fm_dtype dt;
    void (*fn)(void *arg, const fm_gemm_speed *g);
    void *arg;
} gemm_bench;

/* Sizes of the three operands of one call. */
typedef struct call_plan {
    fm_gemm_args a; /* without addresses */
    size_t bytes_a, bytes_b, bytes_c, bytes;
    double ops, moved;
    int groups;
} call_plan;

static size_t padded(int64_t n, fm_dtype dt)
{
    return ((size_t)n * fm_dtype_bytes(dt) + 255) & ~(size_t)255;
}

static call_plan plan(const gemm_bench *b, const product *p, fm_gemm_kind kind, int64_t T)
{
    fm_dtype dt = b->dt, full = FM_DTYPE_F32;
    int64_t G = p->groups > 0 ? p->groups : 1, rows = p->groups > 0 ? T * p->per_token : T;
    call_plan c = {.groups = p->groups, .a = {.kind = kind, .dt = dt, .dtc = full}};
    int64_t na, nb, nc;
    if (kind == FM_GEMM_NT) {
        c.a.m = rows, c.a.n = p->n, c.a.k = p->k, c.a.lda = p->k, c.a.ldb = p->k, c.a.ldc = p->n;
        c.a.dtc = p->to_full ? full : dt;
        na = rows * p->k, nb = G * p->n * p->k, nc = rows * p->n;
    } else if (kind == FM_GEMM_NN) {
        c.a.m = rows, c.a.n = p->k, c.a.k = p->n, c.a.lda = p->n, c.a.ldb = p->k, c.a.ldc = p->k;
        na = rows * p->n, nb = G * p->n * p->k, nc = rows * p->k;
    } else {
        c.a.m = p->n, c.a.n = p->k, c.a.k = rows, c.a.lda = p->n, c.a.ldb = p->k, c.a.ldc = p->k;
        c.a.accumulate = true;
        na = rows * p->n, nb = rows * p->k, nc = G * p->n * p->k;
    }
    c.bytes_a = padded(na, dt);
    c.bytes_b = padded(nb, dt);
    c.bytes_c = padded(nc, c.a.dtc);
    c.bytes = c.bytes_a + c.bytes_b + c.bytes_c;
    /* Experts that no row has chosen are not read, nor their gradients written. */
    int64_t live = rows < G ? rows : G;
    if (kind == FM_GEMM_TN)
        nc = nc / G * live;
    else
        nb = nb / G * live;
    c.ops = 2.0 * (double)rows * (double)p->n * (double)p->k;
    c.moved = (double)(na + nb) * (double)fm_dtype_bytes(dt) +
              (c.a.accumulate ? 2 : 1) * (double)nc * (double)fm_dtype_bytes(c.a.dtc);
    return c;
}

static fm_status groups_ready(gemm_bench *b, const call_plan *c, int copies, fm_err *err)
{
    int32_t off[GROUPS_MAX + 1] = {0};
    const void *ptr[GROUPS_MAX];
    bool tn = c->a.kind == FM_GEMM_TN;
    int64_t rows = tn ? c->a.k : c->a.m;
    size_t one = tn ? c->bytes_c : c->bytes_b, each = one / (size_t)c->groups;
    for (int g = 0; g < c->groups; g++) {
        uint32_t w[4]; /* shares between 0.7 and 1.3 of the mean */
        fmi_rng_words(5, 0, (uint64_t)g, FMI_RNG_TEST, 0, w);
        int64_t end = rows * (g + 1) / c->groups, wide = rows / c->groups * 3 / 10;
        if (g + 1 < c->groups && wide > 0) end += (int64_t)(w[0] % (uint32_t)wide) - wide / 2;
        off[g + 1] = (int32_t)(end > off[g] ? end : off[g]);
    }
    fm_status st = fm_write(b->x, b->offsets, off, sizeof off, err);
    for (b->n_tables = 0; b->n_tables < copies && !st; b->n_tables++) {
        char *base = b->arena + c->bytes * (size_t)b->n_tables + c->bytes_a + (tn ? c->bytes_b : 0);
        for (int g = 0; g < c->groups; g++) ptr[g] = base + each * (size_t)g;
        st = fm_dev_table(b->x, ptr, c->groups, &b->tables[b->n_tables], err);
    }
    return st;
}

static void call(gemm_bench *b, const call_plan *c, int copy)
{
    fm_gemm_args a = c->a;
    char *p = b->arena + c->bytes * (size_t)copy;
    a.a = p;
    a.b = p + c->bytes_a;
    a.c = p + c->bytes_a + c->bytes_b;
    if (c->groups > 0) {
        a.offsets = b->offsets;
        a.table = b->tables[copy];
        a.groups = c->groups;
        if (a.kind == FM_GEMM_TN)
            a.c = NULL;
        else
            a.b = NULL;
    }
    fm_op_gemm(b->x, &a);
}

static fm_status measure(gemm_bench *b, const product *p, fm_gemm_kind kind, int64_t T, bool cold,
                         fm_err *err)
{
    static const char *const kinds[] = {"NT", "NN", "TN"};
    static const char *const verbs[] = {"forward", "to input", "to weight"};
    call_plan c = plan(b, p, kind, T);
    int copies = cold ? (int)(COLD_BYTES / c.bytes) : 1, at = 0, reps = 1;
    if (copies > COPIES_MAX) copies = COPIES_MAX;
    if (copies < 1) return FM_OK; /* larger than the buffer: not of these presets */
    double share[SAMPLES], secs[SAMPLES], ops_s[SAMPLES], byte_s[SAMPLES];
    fm_status st = c.groups > 0 ? groups_ready(b, &c, copies, err) : FM_OK;
    for (int i = -1; i < SAMPLES && !st; i++) {
        double t = fmi_clock_s();
        for (int r = 0; r < reps; r++, at = (at + 1) % copies) call(b, &c, at);
        st = fm_sync(b->x, err);
        t = (fmi_clock_s() - t) / reps;
        if (i < 0 && t * reps < SAMPLE_S) {
            reps = t > SAMPLE_S / 1000 ? (int)(SAMPLE_S / t) + 1 : 1000;
            if (reps < 2) reps = 2;
            if (reps < 1000 && at < 2) i = -2; /* the first call also met cold code */
            at += 2;
            at %= copies;
        }
        if (i < 0) continue;
        double rate = fmi_ceiling_compute(&b->ceiling, c.a.dt);
        double wide =
            cold ? fmi_ceiling_read(&b->ceiling, (size_t)64 << 20) : fmi_ceiling_l2(&b->ceiling);
        secs[i] = t;
        ops_s[i] = c.ops / rate;
        byte_s[i] = c.moved / wide;
        share[i] = (ops_s[i] > byte_s[i] ? ops_s[i] : byte_s[i]) / t;
    }
    for (int i = 0; i < b->n_tables; i++) fm_dev_free(b->x, b->tables[i]);
    b->n_tables = 0;
    if (st) return st;
    fm_gemm_speed g = {.kind = kinds[kind],
                       .dtype = fm_dtype_name(c.a.dt),
                       .m = c.a.m,
                       .n = c.a.n,
                       .k = c.a.k,
                       .groups = c.groups > 0 ? c.groups : 1,
                       .cold = cold};
    snprintf(g.name, sizeof g.name, "%s %s", p->name, verbs[kind]);
    g.seconds = fmi_median(secs, SAMPLES);
    g.flops = c.ops / g.seconds;
    g.compute_s = fmi_median(ops_s, SAMPLES);
    g.bytes_s = fmi_median(byte_s, SAMPLES);
    g.fraction = fmi_median(share, SAMPLES);
    b->fn(b->arg, &g);
    return FM_OK;
}

/* Most tokens, of a power of two, with all operands in half of L2; 0: fewer than 32. */
static int64_t tokens_in_l2(const gemm_bench *b, const product *p, fm_gemm_kind kind, int64_t most)
{
    size_t room = b->ceiling.small_bytes * (size_t)fmi_pool_threads(b->ceiling.pool);
    int64_t best = 0;
    for (int64_t T = 32; T <= most; T *= 2)
        if (plan(b, p, kind, T).bytes <= room) best = T;
    return best;
}

static int products_of(const fm_config *c, product out[16])
{
    int64_t D = c->hidden_size, Q = c->q_lora_rank, H = c->num_attention_heads, C = c->kv_lora_rank;
    int64_t dq = H * (c->qk_nope_head_dim + c->qk_rope_head_dim), M = c->moe_intermediate_size;
    int64_t R = c->qk_rope_head_dim, S = M * c->n_shared_experts, I = c->intermediate_size;
    int E = c->n_routed_experts, K = c->num_experts_per_tok, n = 0;
    if (Q) {
        out[n++] = (product){.name = "q_a", .n = Q, .k = D, .to_full = true};
        out[n++] = (product){.name = "q_b", .n = dq, .k = Q, .to_full = true};
    } else {
        out[n++] = (product){.name = "q", .n = dq, .k = D, .to_full = true};
    }
    out[n++] = (product){.name = "kv_a", .n = C + R, .k = D, .to_full = true};
    out[n++] = (product){.name = "kv_b", .n = H * (c->qk_nope_head_dim + c->v_head_dim), .k = C};
    out[n++] = (product){.name = "o", .n = D, .k = H * c->v_head_dim, .to_full = true};
    out[n++] = (product){.name = "gate", .n = I, .k = D};
    out[n++] = (product){.name = "down", .n = D, .k = I, .to_full = true};
    if (E) {
        out[n++] = (product){.name = "router", .n = E, .k = D, .to_full = true};
        out[n++] = (product){.name = "experts gate", .n = M, .k = D, .groups = E, .per_token = K};
        out[n++] = (product){
            .name = "experts down", .n = D, .k = M, .groups = E, .per_token = K, .to_full = true};
    }
    if (S) {
        out[n++] = (product){.name = "shared gate", .n = S, .k = D};
        out[n++] = (product){.name = "shared down", .n = D, .k = S, .to_full = true};
    }
    out[n++] = (product){.name = "head", .n = c->vocab_size, .k = D, .to_full = true, .once = true};
    out[n++] = (product){.name = "square", .n = 2048, .k = 2048, .to_full = true, .once = true};
    return n;
}

static fm_status fill(gemm_bench *b, fm_err *err)
{
    size_t n = (size_t)1 << 20;
    fm_status st = FM_OK;
    uint16_t *noise = fmi_alloc(n * 2);
    if (!noise) return FM_FAIL(err, FM_E_NOMEM, "bench");
    for (size_t i = 0; i < n;
         i++) { /* halves of a float are fine as bf16 and as f32: exponents near 1 */
        uint32_t w[4];
        fmi_rng_words(6, 0, i, FMI_RNG_TEST, 0, w);
        noise[i] = (uint16_t)(0x3c00u + (w[0] & 0x83ffu));
    }
    for (size_t at = 0; at < COLD_BYTES && !st; at += 2 * n)
        st = fm_write(b->x, b->arena + at, noise, 2 * n, err);
    fmi_free(noise);
    return st;
}

static fm_status run(gemm_bench *b, const fm_gemm_bench_opts *o, const fm_config *c, fm_err *err)
{
    product p[16];
    int n = products_of(c, p);
    int64_t T = o->rows > 0 ? o->rows : 4096;
    fm_status st = fill(b, err);
    for (int i = 0; i < n && !st; i++)
        for (int kind = 0; kind < 3 && !st; kind++) {
            if (T < 64 && kind != FM_GEMM_NT) continue;
            int64_t rows = !strcmp(p[i].name, "square") ? 2048 : T;
            if (rows == 2048 && T < 64) continue;
            st = measure(b, &p[i], (fm_gemm_kind)kind, rows, true, err);
            int64_t few = T < 64 ? 0 : tokens_in_l2(b, &p[i], (fm_gemm_kind)kind, rows);
            if (!st && few) st = measure(b, &p[i], (fm_gemm_kind)kind, few, false, err);
        }
    return st;
}

fm_status fm_bench_gemm(const fm_gemm_bench_opts *o, void (*fn)(void *arg, const fm_gemm_speed *g),
                        void *arg, fm_err *err)
{
    fm_config c;
    gemm_bench b = {.fn = fn, .arg = arg, .dt = o->precision};
    fm_status st = fmi_config_preset(o->preset ? o->preset : "nano", &c, err);
    if (st) return st;
    int isa = o->isa ? fm_isa_parse(o->isa) : -1;
    if (o->isa && isa < 0)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown instruction set level '%s'", o->isa);
    if (c.n_routed_experts > GROUPS_MAX)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%d experts", c.n_routed_experts);
    fm_exec_opts eo = {.device = "cpu", .threads = o->threads, .isa_max = isa};
    st = fm_exec_open(&eo, &b.x, err);
    if (!st) st = fmi_ceiling_open(&b.ceiling, fm_exec_threads(b.x), fm_exec_isa(b.x), err);
    if (!st) st = fm_dev_alloc(b.x, COLD_BYTES, (void **)&b.arena, err);
    if (!st) st = fm_dev_alloc(b.x, sizeof(int32_t) * (GROUPS_MAX + 1), (void **)&b.offsets, err);
    b.ceiling.memory = b.arena;
    b.ceiling.bytes = COLD_BYTES;
    if (!st) st = run(&b, o, &c, err);
    if (b.offsets) fm_dev_free(b.x, b.offsets);
    if (b.arena) fm_dev_free(b.x, b.arena);
    fmi_ceiling_close(&b.ceiling);
    fm_exec_close(b.x);
    return st;
}
