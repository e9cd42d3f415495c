/* Fast matrix products against the reference operator: the same bytes for every kind, dtype, level
 * and number of threads, over ragged shapes, strides, batches and groups. Operands end at an
 * unreadable page and the gaps between rows are NaN, so that reading past an operand shows. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <xmmintrin.h>

#include "ops/ops.h"

#define PAGE 4096u
#define THREADS_MAX 16

typedef struct buf {
    char *map, *data;
    size_t mapped, bytes;
} buf;

static buf buf_new(size_t bytes)
{
    buf b = { .bytes = bytes };
    size_t body = (bytes + PAGE - 1) / PAGE * PAGE;
    b.mapped = body + PAGE;
    b.map = mmap(NULL, b.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(b.map != MAP_FAILED);
    assert_int_equal(mprotect(b.map + body, PAGE, PROT_NONE), 0);
    b.data = b.map + body - bytes;
    return b;
}

static void buf_free(buf *b)
{
    munmap(b->map, b->mapped);
}

static uint64_t seed = 1;
static uint32_t draw(void)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(seed >> 33);
}

/* Mostly around 1 with both signs; some zeros, some so small that products are flushed. */
static float value(void)
{
    uint32_t r = draw(), e = 120 + draw() % 12, kind = draw() % 64;
    if (kind == 0) return 0.0f;
    if (kind == 1) e = 50 + draw() % 20;
    if (kind == 2) e = 0;
    return fmi_bits_f32((r & 0x807fffffu) | e << 23);
}

/* rows of `width` values and ld - width NaNs; the last row ends after `width`. */
static buf matrix_new(int64_t rows, int64_t width, int64_t ld, fm_dtype dt)
{
    int64_t n = rows > 0 ? (rows - 1) * ld + width : 0;
    buf b = buf_new((size_t)n * fm_dtype_bytes(dt));
    for (int64_t i = 0; i < n; i++) {
        float v = i % ld < width ? value() : fmi_bits_f32(0x7fc00000u);
        if (dt == FM_DTYPE_BF16) ((fm_bf16 *)(void *)b.data)[i] = (fm_bf16)(fmi_f32_bits(v) >> 16);
        else ((float *)(void *)b.data)[i] = v;
    }
    return b;
}

typedef struct bench {
    fm_kernel_ctx ctx;
    char *scratch[THREADS_MAX];
} bench;

static void bench_init(bench *b, int threads)
{
    assert_int_equal(fmi_pool_new(threads, &b->ctx.pool, NULL), FM_OK);
    b->ctx.n_threads = threads;
    b->ctx.scratch_bytes = FM_SCRATCH_BYTES;
    b->ctx.scratch = b->scratch;
    for (int i = 0; i < threads; i++) {
        b->scratch[i] = fmi_alloc_aligned(FM_SCRATCH_BYTES, 64);
        assert_non_null(b->scratch[i]);
        memset(b->scratch[i], 0xff, FM_SCRATCH_BYTES); /* NaN: stale scratch must not count */
    }
}

static void bench_deinit(bench *b)
{
    for (int i = 0; i < b->ctx.n_threads; i++) fmi_free_aligned(b->scratch[i]);
    fmi_pool_free(b->ctx.pool);
}

static void call(bench *b, const fm_ops *ops, const fm_gemm_args *a)
{
    unsigned csr = _mm_getcsr();
    _mm_setcsr(csr | 0x8040u);
    fm_status st = ops->gemm(&b->ctx, a);
    _mm_setcsr(csr);
    assert_int_equal(st, FM_OK);
}

typedef struct gemm_case {
    fm_gemm_kind kind;
    fm_dtype dt, dtc;
    int m, n, k;
    int pad_a, pad_b, pad_c;
    bool add;
    int batch;
    const int *groups; /* rows of each group, -1 ends; NULL: not grouped */
    const char *why;
} gemm_case;

#define NT FM_GEMM_NT
#define NN FM_GEMM_NN
#define TN FM_GEMM_TN
#define H FM_DTYPE_BF16
#define S FM_DTYPE_F32

static const int few[] = { 0, 3, 1, 0, 0, 17, 2, 0, -1 };
static const int fewer[] = { 0, 3, 1, 0, 16, 2, 0, -1 };
static const int dozens[] = { 17, 2, 0, 40, 65, 16, 130, -1 };
static const int many[] = { 40, 0, 129, 33, -1 };
static const int tokens[] = { 1030, 0, 1, 31, 2050, -1 };
static const int none[] = { 0, 0, 0, -1 };

static const gemm_case cases[] = {
    { NT, H, S, 1, 1, 1, 0, 0, 0, false, 1, NULL, "smallest" },
    { NN, H, S, 1, 1, 1, 0, 0, 0, false, 1, NULL, "smallest" },
    { TN, H, S, 1, 1, 1, 0, 0, 0, false, 1, NULL, "smallest" },
    { NT, S, S, 1, 1, 1, 0, 0, 0, false, 1, NULL, "smallest" },
    { TN, S, S, 1, 1, 1, 0, 0, 0, true, 1, NULL, "smallest" },
    { NT, H, S, 33, 47, 31, 3, 5, 7, false, 1, NULL, "odd tails, NaN gaps" },
    { NN, H, S, 33, 47, 31, 3, 5, 7, false, 1, NULL, "odd tails, NaN gaps" },
    { TN, H, S, 33, 47, 31, 3, 5, 7, false, 1, NULL, "odd tails, NaN gaps" },
    { NT, S, S, 33, 47, 31, 3, 5, 7, false, 1, NULL, "odd tails, NaN gaps" },
    { NN, S, S, 33, 47, 31, 3, 5, 7, true, 1, NULL, "odd tails, NaN gaps" },
    { TN, S, S, 33, 47, 31, 3, 5, 7, true, 1, NULL, "odd tails, NaN gaps" },
    { NT, H, H, 19, 65, 97, 1, 1, 1, true, 1, NULL, "bf16 C added to" },
    { NN, H, H, 50, 21, 70, 1, 1, 1, true, 1, NULL, "bf16 C added to" },
    { TN, H, H, 17, 35, 2100, 1, 1, 1, true, 1, NULL, "bf16 C, chunks summed before rounding" },
    { TN, H, H, 40, 12, 2049, 0, 0, 0, false, 1, NULL, "bf16 C, chunks summed before rounding" },
    { TN, H, S, 96, 64, 1024, 0, 0, 0, false, 1, NULL, "one chunk exactly" },
    { TN, H, S, 33, 70, 1025, 0, 2, 0, true, 1, NULL, "one row past a chunk" },
    { TN, H, S, 70, 33, 3000, 0, 0, 3, false, 1, NULL, "three chunks, wide R" },
    { TN, H, S, 70, 40, 4200, 0, 0, 3, true, 1, NULL, "five chunks, whole ones a thread" },
    { TN, H, S, 40, 1610, 1050, 0, 0, 0, true, 1, NULL, "two chunks, three groups of columns" },
    { TN, H, S, 820, 37, 1030, 0, 0, 0, true, 1, NULL, "the same with roles exchanged" },
    { TN, S, S, 20, 37, 2050, 0, 0, 0, false, 1, NULL, "three chunks" },
    { TN, S, S, 250, 1000, 140, 0, 1, 0, true, 1, NULL, "two pieces, more rows than sums have room" },
    { TN, H, S, 250, 1000, 140, 2, 0, 0, false, 1, NULL, "two pieces, more rows than sums have room" },
    { TN, S, S, 421, 500, 1030, 0, 0, 3, true, 1, NULL, "two chunks, more rows than sums have room" },
    { TN, H, S, 16, 16, 0, 0, 0, 0, false, 1, NULL, "no rows: zeros" },
    { NT, H, S, 16, 16, 0, 0, 0, 0, false, 1, NULL, "no k: zeros" },
    { NT, S, S, 0, 16, 8, 0, 0, 0, false, 1, NULL, "no rows" },
    { NT, H, H, 64, 192, 256, 0, 0, 0, false, 1, NULL, "nano q" },
    { NT, H, S, 100, 80, 256, 0, 0, 0, false, 1, NULL, "nano kv_a" },
    { NN, H, S, 100, 256, 80, 0, 0, 0, true, 1, NULL, "nano kv_a backward" },
    { NT, H, S, 3, 300, 704, 0, 0, 0, false, 1, NULL, "decode" },
    { NT, H, S, 1, 129, 1056, 0, 0, 0, true, 1, NULL, "decode, ragged, added" },
    { NT, H, H, 16, 96, 1000, 0, 0, 0, false, 1, NULL, "decode, ragged k" },
    { NT, H, S, 1, 130, 384, 0, 0, 0, false, 1, NULL, "decode by lines, three phases, ragged" },
    { NT, H, H, 2, 96, 1024, 5, 0, 3, true, 1, NULL, "decode by lines, added" },
    { NT, H, S, 3, 48, 320, 0, 0, 0, false, 1, NULL, "too many phases for three rows" },
    { NT, H, S, 1, 64, 320, 0, 0, 0, false, 1, NULL, "five phases" },
    { NT, H, S, 2, 32, 96, 0, 0, 0, false, 1, NULL, "fewer steps than lanes" },
    { NT, H, S, 1, 48, 32, 0, 0, 0, false, 1, NULL, "one step" },
    { NT, H, S, 7, 80, 512, 0, 0, 1, false, 1, NULL, "decode by lines, four rows and three" },
    { NT, H, H, 16, 64, 256, 0, 0, 0, false, 1, NULL, "decode by lines, four batches of rows" },
    { NT, H, S, 4, 80, 1024, 0, 0, 0, false, 1, NULL, "four rows, turned a step ahead" },
    { NT, H, H, 3, 56, 2816, 3, 0, 5, true, 1, NULL, "three rows, the same, ragged and added" },
    { NT, H, S, 4, 64, 96, 0, 8, 0, false, 2, NULL, "four rows, gaps between rows, batch" },
    { NT, H, S, 3, 32, 32, 0, 0, 0, false, 1, NULL, "three rows, one step" },
    { NT, H, S, 3, 64, 1024, 0, 0, 0, false, 1, NULL, "three rows, a router" },
    { NT, H, H, 3, 384, 1024, 0, 0, 0, false, 1, NULL, "three rows, queries" },
    { NT, H, S, 2, 64, 512, 0, 8, 0, false, 1, NULL, "decode, gaps between rows" },
    { NT, H, S, 1, 48, 256, 0, 0, 0, false, 3, NULL, "decode by lines, batch" },
    { NT, S, S, 2, 130, 1030, 0, 0, 0, false, 1, NULL, "decode f32, several k blocks" },
    { NN, S, S, 40, 66, 1100, 0, 0, 0, false, 1, NULL, "f32, several k blocks" },
    { NN, H, H, 100, 256, 16, 0, 0, 0, false, 1, NULL, "router to input: k below a step" },
    { NN, H, H, 37, 72, 10, 0, 0, 0, false, 1, NULL, "router to input, ragged" },
    { NT, H, S, 40, 40, 4200, 0, 0, 0, true, 1, NULL, "more than one k block" },
    { NN, H, H, 33, 48, 8200, 0, 0, 0, false, 1, NULL, "more than two k blocks" },
    { NN, H, S, 133, 100, 4130, 1, 0, 3, false, 1, NULL, "long chain in steps, ragged" },
    { NT, H, S, 128, 96, 6144, 0, 0, 0, false, 1, NULL, "long chain in steps" },
    { NN, S, S, 130, 70, 4200, 0, 1, 0, false, 1, NULL, "long chain in steps, f32" },
    { NT, H, S, 0, 64, 4128, 0, 0, 0, false, 1, many, "experts, long chain" },
    { NT, H, S, 2, 3, 50000, 0, 0, 0, false, 1, NULL, "k beyond the packed scratch" },
    { NN, H, H, 3, 34, 42000, 0, 0, 0, true, 1, NULL, "k beyond the packed scratch" },
    { NN, S, S, 3, 34, 21000, 0, 0, 0, true, 1, NULL, "k beyond the packed scratch" },
    { NT, H, H, 37, 64, 48, 9, 0, 0, false, 3, NULL, "batch" },
    { NN, H, S, 5, 64, 48, 0, 3, 0, true, 4, NULL, "batch, few rows (absorbed MLA)" },
    { TN, S, S, 24, 16, 40, 0, 3, 0, true, 2, NULL, "batch" },
    { NT, H, H, 0, 128, 256, 0, 0, 0, false, 1, few, "experts in decode" },
    { NT, H, S, 0, 33, 70, 2, 1, 3, true, 1, few, "experts, ragged" },
    { NT, H, S, 0, 72, 256, 0, 0, 0, false, 1, fewer, "experts in decode by lines" },
    { NT, H, S, 1, 48, 768, 0, 0, 0, false, 1, NULL, "24 steps" },
    { NT, H, S, 1, 48, 640, 0, 0, 0, false, 1, NULL, "20 steps" },
    { NN, H, S, 0, 48, 128, 0, 0, 0, false, 1, many, "experts backward" },
    { NN, S, S, 0, 48, 128, 0, 1, 0, true, 1, many, "experts backward" },
    { NT, S, S, 0, 20, 30, 0, 0, 0, false, 1, few, "experts f32" },
    { NT, H, H, 100, 192, 256, 0, 0, 0, false, 1, NULL, "dozens of rows" },
    { NT, H, S, 37, 208, 96, 5, 3, 7, true, 1, NULL, "dozens of rows, NaN gaps, added" },
    { NT, H, S, 100, 2720, 64, 0, 0, 0, false, 1, NULL, "dozens of rows, C past the caches" },
    { NT, H, H, 65, 32, 32, 0, 1, 1, true, 3, NULL, "dozens of rows, batch, bf16 C added to" },
    { NT, H, H, 0, 64, 160, 0, 0, 0, false, 1, dozens, "experts in prefill" },
    { NT, H, S, 0, 48, 64, 3, 0, 16, true, 1, dozens, "experts in prefill, added" },
    { TN, H, S, 40, 72, 0, 0, 0, 0, true, 1, tokens, "expert weight gradients" },
    { TN, H, S, 40, 24, 0, 1, 1, 1, false, 1, tokens, "expert weight gradients, zeros for none" },
    { TN, S, S, 7, 24, 0, 1, 1, 1, false, 1, tokens, "expert weight gradients" },
    { TN, H, H, 24, 40, 0, 0, 0, 0, true, 1, tokens, "expert weight gradients in bf16" },
    { NT, H, S, 0, 64, 32, 0, 0, 0, false, 1, none, "every group empty" },
    { TN, H, S, 8, 16, 0, 0, 0, 0, true, 1, none, "every group empty, added" },
};

#define GROUPS_MAX 16

typedef struct setup {
    fm_gemm_args args;
    buf a, b, c;
    char *c_first;                /* initial bytes of C */
    char *c_want;
    int32_t offsets[GROUPS_MAX + 1];
    void *table[GROUPS_MAX];
} setup;

/* Operands of a case. Grouped weights (or outputs) follow each other in one buffer. */
static void setup_init(setup *s, const gemm_case *t)
{
    memset(s, 0, sizeof *s);
    int64_t m = t->m, n = t->n, k = t->k, rows = 0, copies = t->batch, groups = 0;
    if (t->groups) {
        for (; t->groups[groups] >= 0; groups++) {
            s->offsets[groups] = (int32_t)rows;
            rows += t->groups[groups];
        }
        s->offsets[groups] = (int32_t)rows;
        if (t->kind == FM_GEMM_TN) k = rows;
        else m = rows;
    }
    int64_t ra = t->kind == FM_GEMM_TN ? k : m, wa = t->kind == FM_GEMM_TN ? m : k;
    int64_t rb = t->kind == FM_GEMM_NT ? n : k, wb = t->kind == FM_GEMM_NT ? k : n;
    int64_t lda = wa + t->pad_a, ldb = wb + t->pad_b, ldc = n + t->pad_c;
    bool split_b = t->groups && t->kind != FM_GEMM_TN, split_c = t->groups && !split_b;
    s->a = matrix_new(ra * copies, wa, lda, t->dt);
    s->b = matrix_new(rb * (split_b ? groups : copies), wb, ldb, t->dt);
    s->c = matrix_new(m * (split_c ? groups : copies), n, ldc, t->dtc);
    s->args = (fm_gemm_args){
        .a = s->a.data, .b = s->b.data, .c = s->c.data, .kind = t->kind, .m = m, .n = n, .k = k,
        .lda = lda, .ldb = ldb, .ldc = ldc, .dt = t->dt, .dtc = t->dtc, .accumulate = t->add,
        .batch = t->batch, .stride_a = ra * lda, .stride_b = rb * ldb, .stride_c = m * ldc,
    };
    if (t->groups) {
        s->args.offsets = s->offsets;
        s->args.table = s->table;
        s->args.groups = (int)groups;
        char *from = split_b ? s->b.data : s->c.data;
        size_t bytes = split_b ? (size_t)(rb * ldb) * fm_dtype_bytes(t->dt)
                               : (size_t)(m * ldc) * fm_dtype_bytes(t->dtc);
        for (int64_t g = 0; g < groups; g++) s->table[g] = from + (size_t)g * bytes;
        if (split_b) s->args.b = NULL;
        else s->args.c = NULL;
    }
    s->c_first = malloc(s->c.bytes + 1);
    s->c_want = malloc(s->c.bytes + 1);
    memcpy(s->c_first, s->c.data, s->c.bytes);
}

static void setup_deinit(setup *s)
{
    buf_free(&s->a);
    buf_free(&s->b);
    buf_free(&s->c);
    free(s->c_first);
    free(s->c_want);
}

/* Byte equality, gaps included. */
static void check_equal(const setup *s, const gemm_case *t, const char *level, int threads)
{
    if (memcmp(s->c.data, s->c_want, s->c.bytes) == 0) return;
    size_t el = fm_dtype_bytes(t->dtc), i = 0;
    while (memcmp(s->c.data + i * el, s->c_want + i * el, el) == 0) i++;
    fail_msg("%s, %d threads, kind %d %s m %d n %d k %d (%s): element %zu of %zu differs", level,
             threads, t->kind, fm_dtype_name(t->dt), t->m, t->n, t->k, t->why, i, s->c.bytes / el);
}

static void check_level(fm_isa isa)
{
    if (fm_isa_detect() < isa) {
        print_message("skipped: this processor has no %s\n", fm_isa_name(isa));
        skip();
    }
    fm_ops ref, fast;
    fm_ops_init_ref(&ref);
    fast = ref;
    fm_ops_init_x86(&fast, isa);
    assert_true(fast.gemm != ref.gemm);
    static const int threads[] = { 1, 2, 3, 16 };
    bench one, some[4];
    bench_init(&one, 1);
    for (int j = 0; j < 4; j++) bench_init(&some[j], threads[j]);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        setup s;
        setup_init(&s, &cases[i]);
        call(&one, &ref, &s.args);
        memcpy(s.c_want, s.c.data, s.c.bytes);
        for (int j = 0; j < 4; j++) {
            memcpy(s.c.data, s.c_first, s.c.bytes);
            call(&some[j], &fast, &s.args);
            check_equal(&s, &cases[i], fm_isa_name(isa), threads[j]);
        }
        setup_deinit(&s);
    }
    for (int j = 0; j < 4; j++) bench_deinit(&some[j]);
    bench_deinit(&one);
}

/* X X^T, whose C is symmetric: threads that are alone compute half of it. Then what only looks like it:
 * C added to or in bf16, all of a batch by the first X. */
static void check_symmetric(fm_isa isa)
{
    static const int sizes[] = { 1, 2, 16, 17, 31, 33, 35, 48, 64, 97, 128, 161, 256, 1030 };
    static const int depths[] = { 0, 1, 33, 300, 4200 };
    fm_ops ref, fast;
    fm_ops_init_ref(&ref);
    fast = ref;
    fm_ops_init_x86(&fast, isa);
    bench b[2];
    for (int j = 0; j < 2; j++) bench_init(&b[j], 1 + 2 * j);
    for (int i = 0; i < 14 * 5 * 2; i++) {
        int n = sizes[i % 14], k = depths[i / 14 % 5];
        if (n > 161 && k > 33) continue;
        gemm_case t = { NT, i / 70 ? H : S, S, n, n, k, i % 3, i % 3, i % 4,
                        false, 1 + i % 2, NULL, "symmetric" };
        for (int v = 0; v < (k == 33 ? 4 : 1); v++) {
            gemm_case u = t;
            u.add = v == 1;
            if (v == 2 && t.dt == H) u.dtc = H;
            setup s;
            setup_init(&s, &u);
            s.args.b = s.args.a;
            if (v == 3) s.args.stride_b = 0;
            call(&b[0], &ref, &s.args);
            memcpy(s.c_want, s.c.data, s.c.bytes);
            for (int j = 0; j < 2; j++) {
                memcpy(s.c.data, s.c_first, s.c.bytes);
                call(&b[j], &fast, &s.args);
                check_equal(&s, &u, fm_isa_name(isa), 1 + 2 * j);
            }
            setup_deinit(&s);
        }
    }
    for (int j = 0; j < 2; j++) bench_deinit(&b[j]);
}

static void test_symmetric(void **state)
{
    (void)state;
    for (int isa = FM_ISA_AVX2; isa <= (int)fm_isa_detect(); isa++) check_symmetric((fm_isa)isa);
}

static void test_avx2(void **state)
{
    (void)state;
    check_level(FM_ISA_AVX2);
}

static void test_avx512(void **state)
{
    (void)state;
    check_level(FM_ISA_AVX512);
}

static void test_amx(void **state)
{
    (void)state;
    check_level(FM_ISA_AMX);
}

/* A row alone, or among 2, 5 or 64, is the same bytes. */
static void check_row_invariance(int64_t N, int64_t K)
{
    enum { M = 64, N_MAX = 208 };
    static const int sizes[] = { 64, 5, 2, 1 };
    static const fm_gemm_kind kinds[] = { FM_GEMM_NT, FM_GEMM_NN };
    static char want[M * N_MAX * 2], got[M * N_MAX * 2];
    bench b;
    bench_init(&b, 2);
    for (int isa = FM_ISA_AVX2; isa <= (int)fm_isa_detect(); isa++)
        for (int kind = 0; kind < 2; kind++) {
            fm_ops ops;
            fm_ops_init_ref(&ops);
            fm_ops_init_x86(&ops, (fm_isa)isa);
            int64_t rb = kind == 0 ? N : K, wb = kind == 0 ? K : N;
            buf a = matrix_new(M, K, K, H), w = matrix_new(rb, wb, wb, H);
            for (int z = 0; z < 4; z++)
                for (int m = 0; m < M; m += sizes[z]) {
                    int rows = M - m < sizes[z] ? M - m : sizes[z];
                    call(&b, &ops, &(fm_gemm_args){
                        .a = a.data + m * K * 2, .b = w.data, .c = (z ? got : want) + m * N * 2,
                        .kind = kinds[kind], .m = rows, .n = N, .k = K, .lda = K, .ldb = wb,
                        .ldc = N, .dt = H, .dtc = H });
                    size_t at = (size_t)m * N * 2, bytes = (size_t)rows * N * 2;
                    if (z) assert_memory_equal(got + at, want + at, bytes);
                }
            buf_free(&a);
            buf_free(&w);
        }
    bench_deinit(&b);
}

static void test_row_invariance(void **state)
{
    (void)state;
    check_row_invariance(200, 333);
    check_row_invariance(208, 352);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_avx2),
        cmocka_unit_test(test_avx512),
        cmocka_unit_test(test_amx),
        cmocka_unit_test(test_symmetric),
        cmocka_unit_test(test_row_invariance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
