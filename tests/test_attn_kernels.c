/* Attention kernels against the reference, bit for bit, and rows alone against rows in blocks. */
#include "kernel_harness.h"

typedef struct dims {
    int H, N, R, V, C;
} dims;

static const dims all_dims[] = {
    {4, 32, 16, 32, 64},    /* nano                      */
    {3, 12, 8, 12, 24},     /* pico: nothing a multiple of 16 */
    {2, 64, 64, 64, 256},   /* mini                      */
    {1, 1, 2, 1, 1},        /* smallest                  */
    {1, 128, 64, 128, 512}, /* V3                        */
    {5, 33, 18, 47, 33},    /* odd                       */
};
#define N_DIMS ((int)(sizeof all_dims / sizeof all_dims[0]))

/* Documents laid end to end; key rows are query rows. */
static const int docs_short[] = {1, 63, 64, 65, 2, 0};
static const int docs_long[] = {511, 3, 0};
static const int docs_513[] = {513, 70, 0};
static const int docs_1100[] = {1100, 0};

static int total(const int *docs)
{
    int n = 0;
    while (*docs) n += *docs++;
    return n;
}

static void check_attn(kh *h, const dims *d, const int *docs, fm_dtype dt, bool lse)
{
    char what[96];
    int T = total(docs);
    snprintf(what, sizeof what, "T %d H %d N %d R %d V %d %s", T, d->H, d->N, d->R, d->V,
             fm_dtype_name(dt));
    h->what = what;
    fm_attn_args a = {.T = T, .S = T, .ldkpe = d->R + 3, .H = d->H, .N = d->N, .R = d->R, .V = d->V,
                      .scale = 0.31, .dt = dt};
    a.q = kh_in(h, (int64_t)T * d->H * (d->N + d->R), dt, 2);
    a.kv = kh_in(h, (int64_t)T * d->H * (d->N + d->V), dt, 2);
    a.kpe = kh_in(h, (int64_t)T * (d->R + 3), dt, 2);
    int32_t *kb = kh_ints(h, T, 1), *ke = kh_ints(h, T, 1);
    a.k_begin = kb;
    a.k_end = ke;
    for (int t = 0, doc = 0; docs[doc]; doc++)
        for (int i = 0, b = t; i < docs[doc]; i++, t++) {
            kb[t] = b;
            ke[t] = t + 1;
        }
    a.o = kh_out(h, (int64_t)T * d->H * d->V, fm_dtype_bytes(dt));
    if (lse) a.lse = kh_out(h, (int64_t)T * d->H, 4);
    KH_CHECK(h, attn, &a);
}

static void test_attn(void **state)
{
    kh *h = *state;
    for (int i = 0; i < N_DIMS; i++)
        for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++) {
            h->shift = (size_t)i % 3;
            check_attn(h, &all_dims[i], docs_short, (fm_dtype)dt, i % 2 == 0);
            if (i > 1 && i != 3) continue;
            check_attn(h, &all_dims[i], docs_long, (fm_dtype)dt, true);
            check_attn(h, &all_dims[i], docs_513, (fm_dtype)dt, true);
        }
    check_attn(h, &all_dims[1], docs_1100, FM_DTYPE_BF16, true);
    check_attn(h, &all_dims[1], docs_1100, FM_DTYPE_F32, true);
}

/* Rows in no order: chunks that start anywhere, empty rows, the same query twice. */
static void test_attn_ragged(void **state)
{
    kh *h = *state;
    const dims *d = &all_dims[1];
    for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++) {
        int T = 200, S = 700;
        h->what = "ragged";
        h->shift = 1;
        fm_attn_args a = {.T = T, .S = S, .ldkpe = d->R, .H = d->H, .N = d->N, .R = d->R, .V = d->V,
                          .scale = 0.5, .dt = (fm_dtype)dt};
        a.q = kh_in(h, (int64_t)T * d->H * (d->N + d->R), a.dt, 2);
        a.kv = kh_in(h, (int64_t)S * d->H * (d->N + d->V), a.dt, 2);
        a.kpe = kh_in(h, (int64_t)S * d->R, a.dt, 2);
        int32_t *kb = kh_ints(h, T, S), *ke = kh_ints(h, T, 1);
        a.k_begin = kb;
        a.k_end = ke;
        for (int t = 0; t < T; t++) {
            if (t >= 20) kb[t] = t < 90 ? 37 : 40;
            ke[t] = t < 20 ? kb[t] + kh_below(h, S + 1 - kb[t]) : t < 120 ? 90 + t : 610 - t;
        }
        kb[150] = ke[150] = 0;
        a.o = kh_out(h, (int64_t)T * d->H * d->V, fm_dtype_bytes(a.dt));
        a.lse = kh_out(h, (int64_t)T * d->H, 4);
        KH_CHECK(h, attn, &a);
        fm_attn_args none = {.H = 1, .N = 1, .R = 2, .V = 1, .dt = a.dt};
        KH_CHECK(h, attn, &none);
    }
}

/* A query row alone gives the bits it gives inside a block. */
static void test_attn_row_alone(void **state)
{
    kh *h = *state;
    const dims *d = &all_dims[0];
    int T = 600;
    int64_t qn = (int64_t)d->H * (d->N + d->R), on = (int64_t)d->H * d->V;
    h->shift = 0;
    for (int l = FM_ISA_AVX2; l <= (int)h->isa_max; l++) {
        fm_attn_args a = {.T = T, .S = T, .ldkpe = d->R, .H = d->H, .N = d->N, .R = d->R, .V = d->V,
                          .scale = 0.2, .dt = FM_DTYPE_BF16};
        fm_bf16 *q = kh_in(h, T * qn, a.dt, 2);
        a.q = q;
        a.kv = kh_in(h, (int64_t)T * d->H * (d->N + d->V), a.dt, 2);
        a.kpe = kh_in(h, (int64_t)T * d->R, a.dt, 2);
        int32_t *kb = kh_ints(h, T, 1), *ke = kh_ints(h, T, 1);
        a.k_begin = kb;
        a.k_end = ke;
        for (int t = 0; t < T; t++) ke[t] = t + 1;
        fm_bf16 *all = kh_out(h, T * on, 2), *one = kh_out(h, on, 2);
        a.o = all;
        assert_int_equal(h->level[l].attn(&h->k[1], &a), FM_OK);
        for (int t = 0; t < T; t += 7) {
            fm_attn_args b = a;
            b.T = 1;
            b.q = q + t * qn;
            b.k_begin = kb + t;
            b.k_end = ke + t;
            b.o = one;
            assert_int_equal(h->level[l].attn(&h->k[1], &b), FM_OK);
            assert_memory_equal(one, all + t * on, (size_t)on * 2);
        }
        kh_clear(h);
    }
}

static void check_bwd(kh *h, const dims *d, const int *docs, fm_dtype dt)
{
    char what[96];
    int T = total(docs), n_seg = 0;
    snprintf(what, sizeof what, "T %d H %d N %d R %d V %d %s", T, d->H, d->N, d->R, d->V,
             fm_dtype_name(dt));
    h->what = what;
    size_t es = fm_dtype_bytes(dt);
    int64_t rows = (int64_t)T * d->H;
    fm_attn_bwd_args a = {.T = T, .ldkpe = d->R, .H = d->H, .N = d->N, .R = d->R, .V = d->V,
                          .scale = 0.2, .dt = dt};
    a.q = kh_in(h, rows * (d->N + d->R), dt, 1);
    a.kv = kh_in(h, rows * (d->N + d->V), dt, 1);
    a.kpe = kh_in(h, (int64_t)T * d->R, dt, 1);
    a.o = kh_in(h, rows * d->V, dt, 1);
    a.dout = kh_in(h, rows * d->V, dt, 1);
    float *lse = kh_in(h, rows, FM_DTYPE_F32, 1);
    for (int64_t i = 0; i < rows; i++) lse[i] += 4;
    a.lse = lse;
    int32_t *seg = kh_ints(h, 16, 1);
    for (; docs[n_seg]; n_seg++) seg[n_seg + 1] = seg[n_seg] + docs[n_seg];
    a.seg = seg;
    a.n_seg = n_seg;
    a.dq = kh_out(h, rows * (d->N + d->R), 4);
    a.dkv = kh_out(h, rows * (d->N + d->V), es);
    a.dkpe = kh_out(h, (int64_t)T * d->R, 4);
    a.scratch = kh_out(h, rows * d->R, 4);
    KH_CHECK(h, attn_bwd, &a);
}

static void test_attn_bwd(void **state)
{
    kh *h = *state;
    for (int i = 0; i < N_DIMS; i++)
        for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++) {
            h->shift = (size_t)i % 3;
            check_bwd(h, &all_dims[i], docs_short, (fm_dtype)dt);
            if (i > 1 && i != 3) continue;
            check_bwd(h, &all_dims[i], docs_long, (fm_dtype)dt);
            check_bwd(h, &all_dims[i], docs_513, (fm_dtype)dt);
        }
}

/* A document longer than the scratch keeps: query blocks share a slot and dq waits in the
 * output. */
static void test_attn_bwd_long(void **state)
{
    kh *h = *state;
    size_t whole = FM_SCRATCH_BYTES;
    for (int t = 0; t < KH_THREADS; t++) h->k[t].scratch_bytes = 400000;
    check_bwd(h, &all_dims[1], docs_1100, FM_DTYPE_BF16);
    check_bwd(h, &all_dims[1], docs_1100, FM_DTYPE_F32);
    for (int t = 0; t < KH_THREADS; t++) h->k[t].scratch_bytes = 150000;
    check_attn(h, &all_dims[1], docs_1100, FM_DTYPE_BF16, true);
    for (int t = 0; t < KH_THREADS; t++) h->k[t].scratch_bytes = whole;
}

typedef struct latent_row {
    int seq, len;
} latent_row;

enum { SEQS = 4, PAGES_MAX = 20, PAGES = 70 };

/* Rows of pages that no query sees hold NaN: what a page that was used before may leave. */
static void spoil_unseen(const fm_attn_latent_args *a)
{
    bool seen[PAGES * 64] = {false};
    size_t bytes = (size_t)(a->C + a->R) * fm_dtype_bytes(a->dt);
    char *pages = (char *)(uintptr_t)a->pages;
    for (int t = 0; t < a->T; t++)
        for (int i = 0; i < a->row_len[t]; i++)
            seen[a->page_table[a->row_seq[t] * PAGES_MAX + i / 64] * 64 + i % 64] = true;
    for (int i = 0; i < PAGES * 64; i++)
        if (!seen[i]) memset(pages + (size_t)i * bytes, 0xff, bytes);
}

static void check_latent(kh *h, const dims *d, const latent_row *rows, int T, fm_dtype dt)
{
    char what[96];
    snprintf(what, sizeof what, "T %d H %d R %d C %d %s", T, d->H, d->R, d->C, fm_dtype_name(dt));
    h->what = what;
    fm_attn_latent_args a = {.T = T, .pages_max = PAGES_MAX, .H = d->H, .N = d->N, .R = d->R,
                             .C = d->C, .scale = 0.1, .dt = dt};
    a.q_lat = kh_in(h, (int64_t)T * d->H * d->C, dt, 1);
    a.q = kh_in(h, (int64_t)T * d->H * (d->N + d->R), dt, 1);
    a.pages = kh_in(h, (int64_t)PAGES * 64 * (d->C + d->R), dt, 1);
    int32_t *table = kh_ints(h, SEQS * PAGES_MAX, PAGES);
    int32_t *seq = kh_ints(h, T, 1), *len = kh_ints(h, T, 1);
    for (int t = 0; t < T; t++) {
        seq[t] = rows[t].seq;
        len[t] = rows[t].len;
    }
    a.page_table = table;
    a.row_seq = seq;
    a.row_len = len;
    spoil_unseen(&a);
    a.u = kh_out(h, (int64_t)T * d->H * d->C, fm_dtype_bytes(dt));
    KH_CHECK(h, attn_latent, &a);
}

static void test_latent(void **state)
{
    kh *h = *state;
    static const latent_row one[] = {{1, 1}}, deep[] = {{2, 1100}}, two[] = {{0, 513}, {3, 65}};
    static const latent_row many[] = {{0, 511}, {0, 512}, {0, 513}, {0, 514}, {1, 63}, {1, 64},
                                      {1, 65}, {2, 0}, {3, 100}, {3, 101}, {3, 1280}};
    latent_row chunk[70];
    for (int i = 0; i < 70; i++) chunk[i] = (latent_row){1, 30 + i};
    for (int i = 0; i < N_DIMS; i++)
        for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++) {
            const dims *d = &all_dims[i];
            h->shift = (size_t)i % 3;
            check_latent(h, d, one, 1, (fm_dtype)dt);
            check_latent(h, d, two, 2, (fm_dtype)dt);
            check_latent(h, d, many, 0, (fm_dtype)dt);
            if (i > 2) continue;
            check_latent(h, d, deep, 1, (fm_dtype)dt);
            check_latent(h, d, many, 11, (fm_dtype)dt);
            if (i < 2) check_latent(h, d, chunk, 70, (fm_dtype)dt);
        }
    dims wide = {128, 2, 4, 2, 32}; /* more heads than lanes */
    check_latent(h, &wide, two, 2, FM_DTYPE_BF16);
    dims lanes = {20, 8, 32, 8, 96}; /* blocks of 20 to 64 lanes on tiles, two pages */
    for (int i = 0; i < 11; i++) chunk[i] = (latent_row){1, 60 + i};
    check_latent(h, &lanes, chunk, 11, FM_DTYPE_BF16);
    check_latent(h, &lanes, chunk + 6, 1, FM_DTYPE_BF16);
    check_latent(h, &lanes, many, 11, FM_DTYPE_BF16);
    static const latent_row none[] = {{1, 0}, {1, 19}, {1, 20}}; /* no keys, among units that share a copy */
    check_latent(h, &lanes, none, 3, FM_DTYPE_BF16);
    dims prompt = {16, 8, 32, 8, 64}; /* more units than share a copy, over the border of a segment */
    for (int i = 0; i < 40; i++) chunk[i] = (latent_row){2, 480 + i};
    check_latent(h, &prompt, chunk, 40, FM_DTYPE_BF16);
    for (int i = 0; i < 40; i++) chunk[i] = (latent_row){i < 21 ? 2 : 3, i < 21 ? 1030 + i : i - 20};
    check_latent(h, &prompt, chunk, 40, FM_DTYPE_BF16);
    check_latent(h, &prompt, chunk, 4, FM_DTYPE_BF16); /* one unit, its segments spread over the threads */
    check_latent(h, &prompt, chunk, 2, FM_DTYPE_BF16);
    dims row = {16, 64, 64, 64, 256}; /* a decoding row of mini: sixteen lanes, a page in one pass */
    static const latent_row ends[] = {{0, 1}, {1, 33}, {2, 1087}, {3, 1088}, {0, 97}};
    check_latent(h, &row, deep, 1, FM_DTYPE_BF16);
    check_latent(h, &row, ends, 5, FM_DTYPE_BF16);
    for (int i = 0; i < 6; i++) chunk[i] = (latent_row){1, 1 + i};
    for (int n = 2; n <= 6; n++) { /* drafts under verification: 32, 48, 64 lanes */
        check_latent(h, &row, chunk, n, FM_DTYPE_BF16);
        check_latent(h, &row, chunk, n, FM_DTYPE_F32);
    }
    for (int i = 0; i < 6; i++) chunk[i] = (latent_row){2, 700 + i};
    for (int n = 2; n <= 6; n++) check_latent(h, &row, chunk, n, FM_DTYPE_BF16);
    size_t whole = FM_SCRATCH_BYTES; /* from too little through rounds of two segments to all at once */
    for (int i = 0; i < 20; i++) {
        size_t bytes = i < 7 ? 72000 + 3000 * (size_t)i : 100000 + 12000 * (size_t)(i - 7);
        for (int t = 0; t < KH_THREADS; t++) h->k[t].scratch_bytes = bytes;
        check_latent(h, i < 7 ? &all_dims[1] : &row, deep, 1, FM_DTYPE_BF16);
    }
    for (int t = 0; t < KH_THREADS; t++) h->k[t].scratch_bytes = whole;
}

/* Every number of lanes and its multiples, since scratch is carved by it. */
static void test_latent_lanes(void **state)
{
    kh *h = *state;
    static const int heads[] = {1, 3, 4, 8, 12, 16, 17, 20, 24, 33, 40, 48, 64};
    latent_row rows[12];
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++)
        for (int T = 1; T <= 12; T++) {
            dims d = {heads[i], 8, 32, 8, 32 << (T % 3)};
            for (int t = 0; t < T; t++) rows[t] = (latent_row){T % 4, (T % 2 ? 60 : 508) + t};
            h->shift = (size_t)T % 2 * 2;
            check_latent(h, &d, rows, T, FM_DTYPE_BF16);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_attn),
        cmocka_unit_test(test_attn_ragged),
        cmocka_unit_test(test_attn_row_alone),
        cmocka_unit_test(test_attn_bwd),
        cmocka_unit_test(test_attn_bwd_long),
        cmocka_unit_test(test_latent),
        cmocka_unit_test(test_latent_lanes),
    };
    return cmocka_run_group_tests(tests, kh_setup, kh_teardown);
}
