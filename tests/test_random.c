/* The operators with blocks, groups and threads on shapes drawn at random, held to the reference
 * byte for byte by every level this machine has: the lists of the other tests hold what someone
 * thought of.
 *
 * The draws follow from a seed, so a run of the same length repeats itself; a failure names the
 * seed of its case. FATHOM_RANDOM_SECONDS: how long each operator is tried (default 2; 0.5 in the
 * shortened runs). FATHOM_RANDOM_SEED: where to begin; with FATHOM_RANDOM_SECONDS=0 that case
 * alone. */
#include <time.h>

#include "kernel_harness.h"

#define F32 FM_DTYPE_F32
#define BF16 FM_DTYPE_BF16
#define WORK 6e6 /* multiply-adds of a case, at most, roughly: the reference is slow */

static char what[256]; /* of the case, for messages */

/* Adds the case's shape to it. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...)
{
    size_t at = strlen(what);
    va_list args;
    va_start(args, format);
    vsnprintf(what + at, sizeof what - at, format, args);
    va_end(args);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A size of 1..max: small ones, multiples of `unit`, their neighbours, anything. */
static int64_t size(kh *h, int64_t max, int64_t unit)
{
    int64_t top = max >> kh_below(h, 4), n = 1;
    if (top < 1) top = 1;
    switch (kh_below(h, 4)) {
    case 0:
        n = 1 + kh_below(h, top < 20 ? (int)top : 20);
        break;
    case 1:
        n = unit * (1 + kh_below(h, (int)(top / unit) + 1));
        break;
    case 2:
        n = unit * (1 + kh_below(h, (int)(top / unit) + 1)) - 1 + 2 * kh_below(h, 2);
        break;
    default:
        n = 1 + kh_below(h, (int)top);
    }
    return n < 1 ? 1 : n > max ? max : n;
}

/* Halves the sizes in turn until their product is work enough. */
static void fit(int64_t *const n[], int count, double times)
{
    for (int i = 0;; i = (i + 1) % count) {
        double all = times;
        for (int j = 0; j < count; j++) all *= (double)*n[j];
        if (all <= WORK) return;
        if (*n[i] > 1) *n[i] = (*n[i] + 1) / 2;
    }
}

static fm_dtype either(kh *h)
{
    return kh_below(h, 3) ? BF16 : F32;
}

/* rows of `width` values and ld - width NaNs, which nobody may use; the last row ends after `width`. */
static void *matrix(kh *h, int64_t rows, int64_t width, int64_t ld, fm_dtype dt, bool out)
{
    int64_t n = rows > 0 ? (rows - 1) * ld + width : 0;
    char *p = kh_values(h, n, dt, 1, out);
    size_t el = fm_dtype_bytes(dt);
    for (int64_t r = 0; r + 1 < rows && ld > width; r++)
        memset(p + (size_t)(r * ld + width) * el, 0xff, (size_t)(ld - width) * el);
    return p;
}

static int64_t gap(kh *h)
{
    return kh_below(h, 2) ? 0 : kh_below(h, 3) ? kh_below(h, 9) : 32 * (1 + kh_below(h, 4));
}

/* Rows of n groups, some empty, some with few rows, together at most `most`. */
static int32_t *offsets_of(kh *h, int n, int64_t most)
{
    int32_t *o = kh_array_new(h, n + 1, sizeof *o, false);
    o[0] = 0;
    for (int g = 0; g < n; g++) {
        int64_t left = most - o[g], rows = kh_below(h, 4) ? size(h, 1 + 2 * most / n, 16) : 0;
        if (kh_below(h, 3) == 0) rows = kh_below(h, 17);
        o[g + 1] = o[g] + (int32_t)(rows < left ? rows : left);
    }
    return o;
}

static void **table_of(kh *h, int n, char *first, size_t bytes)
{
    void **t = kh_array_new(h, n, sizeof *t, false);
    for (int g = 0; g < n; g++) t[g] = first + (size_t)g * bytes;
    return t;
}

static void try_gemm(kh *h)
{
    fm_gemm_args a = {.kind = (fm_gemm_kind)kh_below(h, 3), .dt = either(h), .batch = 1};
    bool tn = a.kind == FM_GEMM_TN, grouped = kh_below(h, 3) == 0;
    a.dtc = a.dt == BF16 && kh_below(h, 3) == 0 ? BF16 : F32;
    a.accumulate = kh_below(h, 2);
    a.m = size(h, tn ? 300 : 600, 16);
    a.n = size(h, 600, 16);
    a.k = size(h, tn ? 3000 : 1200, 32);
    if (!grouped && kh_below(h, 4) == 0) a.batch = 1 + kh_below(h, 4);
    fit((int64_t *const[]){&a.m, &a.n, &a.k}, 3, a.batch);
    int64_t *rows = tn ? &a.k : &a.m, groups = grouped ? 1 + kh_below(h, 9) : 0;
    if (grouped) {
        int32_t *o = offsets_of(h, (int)groups, *rows);
        a.offsets = o;
        a.groups = (int)groups;
        *rows = o[groups];
    }
    int64_t ra = tn ? a.k : a.m, wa = tn ? a.m : a.k, rb = a.kind == FM_GEMM_NT ? a.n : a.k,
            wb = a.kind == FM_GEMM_NT ? a.k : a.n;
    a.lda = wa + gap(h);
    a.ldb = wb + gap(h);
    a.ldc = a.n + gap(h);
    a.stride_a = ra * a.lda;
    a.stride_b = rb * a.ldb;
    a.stride_c = a.m * a.ldc;
    a.a = matrix(h, ra * a.batch, wa, a.lda, a.dt, false);
    char *b = matrix(h, rb * (grouped && !tn ? groups : a.batch), wb, a.ldb, a.dt, false);
    char *c = matrix(h, a.m * (grouped && tn ? groups : a.batch), a.n, a.ldc, a.dtc, true);
    if (grouped && tn) a.table = table_of(h, (int)groups, c, (size_t)a.stride_c * fm_dtype_bytes(a.dtc));
    else a.c = c;
    if (grouped && !tn) a.table = table_of(h, (int)groups, b, (size_t)a.stride_b * fm_dtype_bytes(a.dt));
    else a.b = b;
    say("kind %d m %d n %d k %d, rows of %d, %d and %d, %s to %s, add %d, batch %d, groups %d",
        a.kind, (int)a.m, (int)a.n, (int)a.k, (int)a.lda, (int)a.ldb, (int)a.ldc,
        fm_dtype_name(a.dt), fm_dtype_name(a.dtc), a.accumulate, a.batch, a.groups);
    KH_CHECK(h, gemm, &a);
}

typedef struct routed {
    int32_t *offsets, *token, *slot;
    int groups;
    int64_t T, K, G;
} routed;

/* G rows in groups, each a choice of a token; or all tokens in one group. */
static routed route(kh *h, int64_t T, int64_t K)
{
    routed r = {.T = T, .K = 1, .G = T};
    if (kh_below(h, 4) == 0) return r;
    r.groups = 1 + kh_below(h, 8);
    r.K = K;
    r.offsets = offsets_of(h, r.groups, T * K);
    r.G = T * K;
    r.offsets[r.groups] = (int32_t)r.G;
    if (kh_below(h, 8) == 0) return r;
    r.slot = kh_array_new(h, r.G, sizeof *r.slot, false);
    r.token = kh_array_new(h, r.G, sizeof *r.token, false);
    for (int64_t i = 0; i < r.G; i++) r.slot[i] = (int32_t)i;
    for (int64_t i = r.G - 1; i > 0; i--) {
        int64_t j = kh_below(h, (int)i + 1);
        int32_t t = r.slot[i];
        r.slot[i] = r.slot[j];
        r.slot[j] = t;
    }
    for (int64_t i = 0; i < r.G; i++) r.token[i] = r.slot[i] / (int32_t)K;
    return r;
}

/* Matrices of n values, one or a table of them. */
static void *weights(kh *h, int groups, int64_t n, fm_dtype dt, bool out)
{
    char *all = kh_values(h, n * (groups ? groups : 1), dt, out ? 1 : 0.3f, out);
    return groups ? (void *)table_of(h, groups, all, (size_t)n * fm_dtype_bytes(dt)) : all;
}

static void try_gated(kh *h)
{
    fm_gated_args a = {.dt = either(h)};
    int64_t T = size(h, 400, 16), K = 1 + kh_below(h, 4);
    a.D = size(h, 600, 32);
    a.M = size(h, 600, 32);
    fit((int64_t *const[]){&T, &a.D, &a.M}, 3, 3.0 * (double)K);
    routed r = route(h, T, K);
    size_t el = fm_dtype_bytes(a.dt);
    int64_t n = a.D * a.M;
    int variant = kh_below(h, 4);
    a.offsets = r.offsets;
    a.row_token = r.token;
    a.row_slot = r.slot;
    a.groups = r.groups;
    a.G = r.G;
    a.x = kh_in(h, (r.token ? T : r.G) * a.D, a.dt, 1);
    if (r.slot) a.weight = kh_in(h, r.G, F32, 2);
    a.w_gate = weights(h, r.groups, n, a.dt, false);
    a.w_up = weights(h, r.groups, n, a.dt, false);
    a.w_down = weights(h, r.groups, n, a.dt, false);
    a.xg = kh_scratch(h, r.G * a.D, el);
    a.h = kh_scratch(h, r.G * a.M, el);
    a.gate = kh_out(h, r.G * a.M, el);
    a.up = kh_out(h, r.G * a.M, el);
    a.dty = variant ? F32 : a.dt;
    if (variant == 1) a.base = kh_in(h, r.G * a.D, F32, 1);
    if (variant < 3) a.y = kh_out(h, r.G * a.D, fm_dtype_bytes(a.dty));
    say("T %d K %d D %d M %d groups %d %s, variant %d", (int)r.T, (int)r.K, (int)a.D, (int)a.M, r.groups,
        fm_dtype_name(a.dt), variant);
    KH_CHECK(h, gated, &a);
}

static void try_gated_bwd(kh *h)
{
    fm_gated_bwd_args a = {.dt = either(h)};
    a.dtdx = kh_below(h, 2) ? a.dt : F32;
    int64_t T = size(h, 1500, 16), K = 1 + kh_below(h, 4);
    a.D = size(h, 400, 32);
    a.M = size(h, 400, 32);
    fit((int64_t *const[]){&T, &a.D, &a.M}, 3, 6.0 * (double)K);
    routed r = route(h, T, K);
    size_t el = fm_dtype_bytes(a.dt);
    int64_t n = a.D * a.M, rows = r.token ? T : r.G;
    a.offsets = r.offsets;
    a.row_token = r.token;
    a.row_slot = r.slot;
    a.groups = r.groups;
    a.G = r.G;
    a.dy = kh_in(h, rows * a.D, a.dt, 1);
    a.x = kh_in(h, rows * a.D, a.dt, 1);
    if (r.slot) a.weight = kh_in(h, r.G, F32, 2);
    a.w_gate = weights(h, r.groups, n, a.dt, false);
    a.w_up = weights(h, r.groups, n, a.dt, false);
    a.w_down = weights(h, r.groups, n, a.dt, false);
    a.g_gate = weights(h, r.groups, n, F32, true);
    a.g_up = weights(h, r.groups, n, F32, true);
    a.g_down = weights(h, r.groups, n, F32, true);
    a.gate = kh_in(h, r.G * a.M, a.dt, 3);
    a.up = kh_in(h, r.G * a.M, a.dt, 2);
    a.xg = kh_scratch(h, r.G * a.D, el);
    a.h = kh_scratch(h, r.G * a.M, el);
    a.dh = kh_scratch(h, r.G * a.M, el);
    a.dgate = kh_scratch(h, r.G * a.M, el);
    a.dup = kh_scratch(h, r.G * a.M, el);
    a.dx = kh_out(h, r.G * a.D, fm_dtype_bytes(a.dtdx));
    if (r.slot) a.dweight = kh_out(h, r.G, 4);
    say("T %d K %d D %d M %d groups %d %s, dx %s", (int)r.T, (int)r.K, (int)a.D, (int)a.M, r.groups,
        fm_dtype_name(a.dt), fm_dtype_name(a.dtdx));
    KH_CHECK(h, gated_bwd, &a);
}

typedef struct heads {
    int64_t H, N, R, V, T;
} heads;

static heads heads_of(kh *h, double times)
{
    heads d = {.H = size(h, 20, 4), .N = size(h, 128, 16), .R = 2 * size(h, 32, 8), .V = size(h, 128, 16),
               .T = size(h, 1200, 64)};
    while ((double)d.H * (double)(d.N + d.R + d.V) * (double)d.T * (double)d.T * times / 2 > WORK)
        *(d.T > 90 ? &d.T : d.H > 1 ? &d.H : d.N > 16 ? &d.N : &d.V) /= 2;
    return d;
}

/* Documents that fill T rows. */
static int32_t *documents(kh *h, int64_t T, int *n)
{
    int32_t *seg = kh_array_new(h, T + 1, sizeof *seg, false);
    seg[0] = 0;
    *n = 0;
    while (seg[*n] < T) {
        int64_t left = T - seg[*n], len = kh_below(h, 3) ? size(h, left, 64) : left;
        seg[*n + 1] = seg[*n] + (int32_t)len;
        (*n)++;
    }
    for (int64_t i = *n + 1; i <= T; i++) seg[i] = 0;
    return seg;
}

static void try_attn(kh *h)
{
    heads d = heads_of(h, 1);
    int n = 0;
    int32_t *seg = documents(h, d.T, &n);
    fm_attn_args a = {.T = d.T, .S = d.T, .ldkpe = d.R + kh_below(h, 4), .H = (int)d.H, .N = (int)d.N,
                      .R = (int)d.R, .V = (int)d.V, .scale = 0.3, .dt = either(h)};
    bool chunk = kh_below(h, 3) == 0; /* a prompt's last rows alone */
    int64_t first = chunk ? kh_below(h, (int)d.T) : 0;
    int32_t *kb = kh_ints(h, d.T, 1), *ke = kh_ints(h, d.T, 1);
    for (int i = 0; i < n; i++)
        for (int32_t t = seg[i]; t < seg[i + 1]; t++) {
            kb[t] = seg[i];
            ke[t] = t + 1;
        }
    a.T = d.T - first;
    a.k_begin = kb + first;
    a.k_end = ke + first;
    a.q = kh_in(h, a.T * d.H * (d.N + d.R), a.dt, 2);
    a.kv = kh_in(h, d.T * d.H * (d.N + d.V), a.dt, 2);
    a.kpe = kh_in(h, (d.T - 1) * a.ldkpe + d.R, a.dt, 2);
    a.o = kh_out(h, a.T * d.H * d.V, fm_dtype_bytes(a.dt));
    if (kh_below(h, 2)) a.lse = kh_out(h, a.T * d.H, 4);
    say("T %d of %d H %d N %d R %d V %d, %d documents, %s", (int)a.T, (int)d.T, a.H, a.N, a.R, a.V, n,
        fm_dtype_name(a.dt));
    KH_CHECK(h, attn, &a);
}

static void try_attn_bwd(kh *h)
{
    heads d = heads_of(h, 2.5);
    fm_attn_bwd_args a = {.T = d.T,
                          .ldkpe = d.R + kh_below(h, 4),
                          .H = (int)d.H,
                          .N = (int)d.N,
                          .R = (int)d.R,
                          .V = (int)d.V,
                          .scale = 0.2,
                          .dt = either(h)};
    a.seg = documents(h, d.T, &a.n_seg);
    int64_t rows = d.T * d.H;
    a.q = kh_in(h, rows * (d.N + d.R), a.dt, 1);
    a.kv = kh_in(h, rows * (d.N + d.V), a.dt, 1);
    a.kpe = kh_in(h, (d.T - 1) * a.ldkpe + d.R, a.dt, 1);
    a.o = kh_in(h, rows * d.V, a.dt, 1);
    a.dout = kh_in(h, rows * d.V, a.dt, 1);
    float *lse = kh_in(h, rows, F32, 1);
    for (int64_t i = 0; i < rows; i++) lse[i] += 4;
    a.lse = lse;
    a.dq = kh_out(h, rows * (d.N + d.R), 4);
    a.dkv = kh_out(h, rows * (d.N + d.V), fm_dtype_bytes(a.dt));
    a.dkpe = kh_out(h, d.T * d.R, 4);
    a.scratch = kh_out(h, rows * d.R, 4);
    say("T %d H %d N %d R %d V %d, %d documents, %s", (int)a.T, a.H, a.N, a.R, a.V, a.n_seg,
        fm_dtype_name(a.dt));
    KH_CHECK(h, attn_bwd, &a);
}

/* Rows of sequences as a step has them: one each, some of a sequence in a row, with any length
 * before. Rows of pages that nobody sees hold NaN. */
static void try_latent(kh *h)
{
    enum { SEQS = 4, PAGES_MAX = 24 };
    fm_attn_latent_args a = {.pages_max = PAGES_MAX,
                             .H = (int)size(h, 64, 16),
                             .N = (int)size(h, 64, 16),
                             .R = 2 * (int)size(h, 32, 16),
                             .C = (int)size(h, 512, 32),
                             .scale = 0.1,
                             .dt = either(h)};
    int64_t T = size(h, 40, 16), most = size(h, PAGES_MAX * 64 - 40, 64), row = a.C + a.R;
    while ((double)T * a.H * (double)(2 * a.C + a.R) * (double)most > WORK)
        if (most > 80) most /= 2;
        else if (T > 8) T /= 2;
        else if (a.H > 1) a.H /= 2;
        else a.C /= 2;
    row = a.C + a.R;
    a.T = T;
    int32_t *seq = kh_ints(h, T, SEQS), *len = kh_ints(h, T, (int)most + 1),
            *table = kh_ints(h, SEQS * PAGES_MAX, 1);
    for (int64_t t = 1; t < T; t++) {
        if (kh_below(h, 4) == 0) continue;
        seq[t] = seq[t - 1];
        len[t] = len[t - 1] + 1;
    }
    for (int i = 0; i < SEQS * PAGES_MAX; i++) table[i] = i;
    for (int i = SEQS * PAGES_MAX - 1; i > 0; i--) {
        int j = kh_below(h, i + 1);
        int32_t p = table[i];
        table[i] = table[j];
        table[j] = p;
    }
    size_t bytes = (size_t)row * fm_dtype_bytes(a.dt);
    char *pages = kh_in(h, (int64_t)SEQS * PAGES_MAX * 64 * row, a.dt, 1);
    for (int s = 0; s < SEQS; s++) {
        int32_t seen = 0;
        for (int64_t t = 0; t < T; t++)
            if (seq[t] == s && len[t] > seen) seen = len[t];
        for (int32_t i = seen; i < PAGES_MAX * 64; i++)
            memset(pages + (size_t)(table[s * PAGES_MAX + i / 64] * 64 + i % 64) * bytes, 0xff, bytes);
    }
    a.pages = pages;
    a.page_table = table;
    a.row_seq = seq;
    a.row_len = len;
    a.q_lat = kh_in(h, T * a.H * a.C, a.dt, 1);
    a.q = kh_in(h, T * a.H * (a.N + a.R), a.dt, 1);
    a.u = kh_out(h, T * a.H * a.C, fm_dtype_bytes(a.dt));
    say("T %d H %d N %d R %d C %d, at most %d keys, %s", (int)T, a.H, a.N, a.R, a.C, (int)most,
        fm_dtype_name(a.dt));
    KH_CHECK(h, attn_latent, &a);
}

static void *aligned(kh *h, int64_t bytes)
{
    char *p = kh_scratch(h, bytes + 64, 1);
    return p + (64 - ((uintptr_t)p & 63)) % 64;
}

static void try_linear_xent(kh *h)
{
    fm_linear_xent_args a = {.T = size(h, 2200, 32), .D = size(h, 512, 32), .W = size(h, 3000, 32),
                             .grad_scale = 1.0 / 37, .dt = either(h)};
    bool grad = kh_below(h, 3) > 0;
    fit((int64_t *const[]){&a.T, &a.D, &a.W}, 3, grad ? 3 : 1);
    a.block = size(h, a.T, 32);
    a.chunk = a.block + kh_below(h, (int)(a.T - a.block) + 1);
    int32_t *target = kh_ints(h, a.T, (int)a.W);
    for (int64_t t = 0; t < a.T; t++)
        if (kh_below(h, 7) == 0) target[t] = -1;
    a.target = target;
    a.x = kh_in(h, a.T * a.D, a.dt, kh_below(h, 5) ? 0.25f : 16.0f);
    a.w = kh_in(h, a.W * a.D, a.dt, 1);
    a.loss = kh_out(h, a.T, 4);
    a.logits = aligned(h, a.block * a.W * 4);
    if (grad) {
        a.dx = kh_out(h, a.T * a.D, 4);
        a.dw = kh_values(h, a.W * a.D, F32, 1, true);
        a.dlogits = aligned(h, a.chunk * a.W * (int64_t)fm_dtype_bytes(a.dt));
    }
    say("T %d D %d W %d block %d chunk %d %s, gradients %d", (int)a.T, (int)a.D, (int)a.W, (int)a.block,
        (int)a.chunk, fm_dtype_name(a.dt), grad);
    KH_CHECK(h, linear_xent, &a);
}

static void try_newton_schulz(kh *h)
{
    static const double quintics[][3] = {{8, -22.5, 16}, {3.5, -2.5, 0.5}, {2.5, -2, 0.5}};
    fm_newton_schulz_args a = {
        .coef = quintics, .n = size(h, 12, 4), .r = size(h, 300, 16), .steps = 1 + kh_below(h, 3),
        .dt = either(h)};
    a.c = a.r + (kh_below(h, 3) ? size(h, 300, 16) : 0);
    while ((double)(a.n * a.r * a.r) * (double)(2 * a.c + a.r) * a.steps > WORK)
        *(a.n > 3 ? &a.n : &a.r) /= 2;
    size_t el = fm_dtype_bytes(a.dt);
    a.x = kh_values(h, a.n * a.r * a.c, a.dt, 1.0f / (float)a.c, true);
    h->a[h->n - 1].scratch = true;
    a.y = kh_out(h, a.n * a.r * a.c, 4);
    a.p = kh_scratch(h, a.n * a.r * a.c, el);
    a.sums = kh_scratch(h, a.n, 4);
    a.g = kh_scratch(h, a.n * a.r * a.r, 4);
    a.g2 = kh_scratch(h, a.n * a.r * a.r, 4);
    a.ga = kh_scratch(h, a.n * a.r * a.r, el);
    say("n %d r %d c %d steps %d %s", (int)a.n, (int)a.r, (int)a.c, a.steps, fm_dtype_name(a.dt));
    KH_CHECK(h, newton_schulz, &a);
}

static void try_rows(kh *h)
{
    fm_dtype dt = either(h);
    int64_t T = size(h, 2500, 4), D = size(h, 800, 32);
    fit((int64_t *const[]){&T, &D}, 2, 20);
    say("T %d D %d %s", (int)T, (int)D, fm_dtype_name(dt));
    fm_rmsnorm_bwd_args a = {.T = T,
                             .D = D,
                             .ldx = D + gap(h),
                             .lddy = D + gap(h),
                             .lddx = D + gap(h),
                             .dt = dt,
                             .dtdx = kh_below(h, 2) ? dt : F32};
    a.accumulate = a.dtdx == F32 && kh_below(h, 2);
    int given = 1 + kh_below(h, 3);
    if (given & 1) a.dy = matrix(h, T, D, a.lddy, F32, false);
    if (given & 2) a.dyf = kh_in(h, T * D, F32, 1);
    a.x = matrix(h, T, D, a.ldx, F32, false);
    a.w = kh_in(h, D, F32, 2);
    a.rstd = kh_in(h, T, F32, 1);
    a.dx = matrix(h, T, D, a.lddx, a.dtdx, true);
    a.dw = kh_values(h, D, F32, 1, true);
    if (kh_below(h, 2)) a.dxa = kh_out(h, T * D, fm_dtype_bytes(dt));
    KH_CHECK(h, rmsnorm_bwd, &a);

    fm_moe_combine_args c = {.T = T, .D = D, .K = 1 + kh_below(h, 8), .dt = dt};
    c.y = kh_in(h, T * c.K * D, dt, 1);
    int32_t *row = kh_array_new(h, T * c.K, sizeof *row, false);
    for (int64_t i = 0; i < T * c.K; i++) row[i] = (int32_t)(T * c.K - 1 - i);
    c.slot_row = row;
    if (kh_below(h, 2)) c.shared = kh_in(h, T * D, dt, 1);
    if (kh_below(h, 2)) c.extra = kh_in(h, T * D, dt, 1);
    c.x = kh_values(h, T * D, F32, 1, true);
    if (kh_below(h, 2)) c.base = kh_below(h, 2) ? c.x : kh_in(h, T * D, F32, 1);
    KH_CHECK(h, moe_combine, &c);
}

/* Cases of one operator for as long as there is time. */
static void run(kh *h, const char *name, void (*try)(kh *h))
{
    const char *s = getenv("FATHOM_RANDOM_SECONDS"), *from = getenv("FATHOM_RANDOM_SEED");
    double end = now() + (s ? atof(s) : kh_quick() ? 0.5 : 2);
    uint64_t seed = from ? strtoull(from, NULL, 0) : 1, first = seed;
    do {
        snprintf(what, sizeof what, "FATHOM_RANDOM_SEED=%llu: ", (unsigned long long)seed);
        h->what = what;
        h->seed = seed++ * 0x2545f4914f6cdd1du;
        h->shift = (size_t)kh_below(h, 4);
        for (int i = 0; i < KH_THREADS; i++) memset(h->scratch[i], 0xff, FM_SCRATCH_BYTES);
        try(h);
    } while (now() < end);
    print_message("%s: %llu cases\n", name, (unsigned long long)(seed - first));
}

#define TEST(name)                          \
    static void test_##name(void **state)   \
    {                                       \
        run(*state, #name, try_##name);     \
    }
TEST(gemm)
TEST(gated)
TEST(gated_bwd)
TEST(attn)
TEST(attn_bwd)
TEST(latent)
TEST(linear_xent)
TEST(newton_schulz)
TEST(rows)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gemm),        cmocka_unit_test(test_gated),
        cmocka_unit_test(test_gated_bwd),   cmocka_unit_test(test_attn),
        cmocka_unit_test(test_attn_bwd),    cmocka_unit_test(test_latent),
        cmocka_unit_test(test_linear_xent), cmocka_unit_test(test_newton_schulz),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, kh_setup, kh_teardown);
}
