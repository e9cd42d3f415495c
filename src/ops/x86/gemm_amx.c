/* bf16 matrix products on AMX tiles: blocks of 32 x 32 outputs in four accumulator tiles.
 *
 * TDPBF16PS is the step of docs/numerics.md, so the only duty here is to feed it in order. R rows
 * lie in memory as a tile wants them and are loaded in place (copied only at ragged ends); P is
 * packed in pairs of k. Per step of 32 a block costs four tile loads (4 KiB) and four products (64
 * cycles). What the next block reads and where it will write are fetched meanwhile. Bound, reached
 * and refused: docs/kernels/gemm.md. */
#include "ops/x86/amx_tiles.h"
#include "ops/x86/thin.h"
#include "ops/x86/tn_amx.h"

#define K_BLOCK 4096

typedef struct __attribute__((packed)) tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} tile_config;

void fmi_tiles_configure_amx(void)
{
    tile_config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 8; i++) {
        c.colsb[i] = 64;
        c.rows[i] = 16;
    }
    __asm__ volatile("" : : "m"(c) : "memory"); /* gcc 12 does not see what the load reads */
    _tile_loadconfig(&c);
}

void fmi_tiles_release_amx(void)
{
    _tile_release();
}

static const char *view_at(const fmi_gemm_view *v, int64_t row, int64_t k)
{
    return (const char *)v->p + 2 * (v->across ? k * v->ld + row : row * v->ld + k);
}

static void pack_bf16(void *dst, const fmi_gemm_view *v, int64_t row, int rows, int64_t k0,
                      int64_t k)
{
    int64_t stride = 2 * v->ld;
    const char *src = view_at(v, row, k0);
    if (v->across) {
        pack_across(dst, src, stride, rows, k);
        return;
    }
    char *o = dst;
    for (int64_t t = 0; t < k; t += 32, o += STEP_BYTES, src += 64)
        for (int h = 0; h < 2; h++) {
            const char *ahead = src + 16 * h * stride + 256;
            for (int i = 0; i < 16; i++) _mm_prefetch(ahead + i * stride, _MM_HINT_T0);
            if (rows >= 16 * (h + 1) && k - t >= 32) {
                pairs_tile(o + 1024 * h, src + 16 * h * stride, stride);
            } else if (rows <= 16 * h) {
                memset(o + 1024 * h, 0, 1024);
            } else {
                _Alignas(64) char pad[1024];
                copy_padded(pad, 16, src + 16 * h * stride, stride, rows - 16 * h, k - t);
                pairs_tile(o + 1024 * h, pad, 64);
            }
        }
}

static void prepare_bf16(fmi_gemm_rows *out, char *scratch, const fmi_gemm_view *v, int64_t row,
                         int rows, int64_t k0, int64_t k)
{
    int64_t stride = 2 * v->ld;
    const char *src = view_at(v, row, k0);
    *out = (fmi_gemm_rows){ .p = scratch, .row_bytes = 64, .half_bytes = 1024,
                            .step_bytes = STEP_BYTES, .k = (k + 31) / 32 * 32, .rows = rows };
    if (row + 32 < v->rows) {
        out->ahead = src + (v->across ? 64 : 32 * stride);
        out->ahead_bytes = stride;
        out->ahead_step = v->across ? 32 * stride : 64;
    }
    if (v->across) {
        rows_across(scratch, src, stride, rows, k);
    } else if (rows % 16 == 0) {
        out->p = src;
        out->row_bytes = stride;
        out->half_bytes = 16 * stride;
        out->step_bytes = 64;
        out->k = k / 32 * 32;
        if (k % 32) {
            copy_padded(scratch, rows, src + k / 32 * 64, stride, rows, k % 32);
            out->tail = scratch;
        }
    } else {
        for (int64_t t = 0; t < k; t += 32)
            copy_padded(scratch + t / 32 * STEP_BYTES, 32, src + 2 * t, stride, rows, k - t);
    }
}

#define PAST_K 2048 /* up to here panels pass by L1, so that R stays there: docs/kernels/gemm.md */

static void mul_bf16(const fmi_gemm_rows *r, const void *panel, int cols, float *acc, int64_t ldacc,
                     bool load)
{
    bool two_r = r->rows > 16, two_p = cols > 16;
    if (two_r && two_p && r->k <= PAST_K) block(r, panel, acc, ldacc, load, true, true, true);
    else if (two_r && two_p) block(r, panel, acc, ldacc, load, true, true, false);
    else if (two_r) block(r, panel, acc, ldacc, load, true, false, false);
    else if (two_p) block(r, panel, acc, ldacc, load, false, true, false);
    else block(r, panel, acc, ldacc, load, false, false, false);
}

/* A full bf16 block with the instruction that rounds 32 values at once. It differs from
 * fmi_f32_to_bf16 on denormals only, and results are flushed before they come here. */
__attribute__((target("avx512bf16")))
static void store_bf16(const float *acc, int64_t ldacc, int rows, int cols, const fmi_gemm_dst *d)
{
    if (!d->bf16 || d->add || d->transposed || cols != 32) {
        fmi_gemm_store_avx512(acc, ldacc, rows, cols, d);
        return;
    }
    char *c = d->c;
    for (int i = 0; i < rows; i++, acc += ldacc, c += 2 * d->ldc) {
        __m512bh v = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(acc + 16), _mm512_loadu_ps(acc));
        memcpy(c, &v, sizeof v);
    }
}

const fmi_gemm_kern fmi_gemm_bf16_amx = {
    .block = 32, .block_unit = 32, .panel = 32, .packed_bytes = 2, .k_round = 32, .k_block = K_BLOCK,
    .rows_bytes = K_BLOCK / 32 * STEP_BYTES, .tiles = true, .mac = 1.0 / 512, .pack_cost = 0.08,
    .pack_cost_across = 0.035, .rows_cost = 0.01, .rows_cost_across = 0.1, .unit_r = 16,
    .unit_p = 16,
    .pack = pack_bf16, .prepare = prepare_bf16, .mul = mul_bf16, .store = fmi_gemm_store_avx512,
};

/* Problem i of a TN product; the narrower operand is the one that is transposed. */
static void tn_problem(const void *arg, int i, fmi_tn *q)
{
    const fm_gemm_args *a = arg;
    int64_t row = a->offsets ? a->offsets[i] : 0;
    const fm_bf16 *pa = (const fm_bf16 *)a->a + row * a->lda, *pb = (const fm_bf16 *)a->b + row * a->ldb;
    bool swap = a->n < a->m;
    *q = (fmi_tn){.a = {swap ? pb : pa}, .b = swap ? pa : pb, .c = {a->offsets ? a->table[i] : a->c},
                  .lda = swap ? a->ldb : a->lda, .ldb = swap ? a->lda : a->ldb, .ldc = a->ldc,
                  .k = a->offsets ? a->offsets[i + 1] - row : a->k, .m = swap ? a->n : a->m,
                  .n = swap ? a->m : a->n, .transposed = swap};
}

fm_status fmi_gemm_x86_amx(const fm_kernel_ctx *k, const fm_gemm_args *a)
{
    if (fmi_gemm_thin(k, a, FM_ISA_AMX)) return FM_OK;
    bool gradient = a->kind == FM_GEMM_TN && a->accumulate && a->dtc == FM_DTYPE_F32 && a->batch <= 1;
    if (a->dt == FM_DTYPE_BF16 && gradient)
        return fmi_tn_run(k, tn_problem, a, a->offsets ? a->groups : 1);
    if (a->dt == FM_DTYPE_BF16) {
        fmi_gemm_kern kern = fmi_gemm_bf16_amx;
        if (__builtin_cpu_supports("avx512bf16")) kern.store = store_bf16;
        return fmi_gemm_drive(k, a, &kern);
    }
    return fmi_gemm_x86_avx512(k, a);
}
