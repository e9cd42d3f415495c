/* What the two halves of the fused gated FFN on AMX share: packed weights, tile layouts of rows, the
 * split of blocks over threads. */
#ifndef FM_OPS_X86_FFN_AMX_H
#define FM_OPS_X86_FFN_AMX_H

#include "ops/x86/amx_tiles.h"
#include "ops/x86/v16.h"

enum { FMI_FFN_ROWS = 32 };

/* Scratch handed out piece by piece. */
typedef struct fmi_ffn_carve {
    char *at;
    size_t used;
} fmi_ffn_carve;

static inline void *ffn_take(fmi_ffn_carve *c, size_t bytes)
{
    void *p = c->at ? c->at + c->used : NULL;
    c->used += (bytes + 63) & ~(size_t)63;
    return p;
}

/* Bytes of a [rows, k] operand in tile layout, rows and k multiples of 32. */
static inline size_t ffn_packed(int64_t rows, int64_t k)
{
    return (size_t)rows * (size_t)k * 2;
}

/* Rows 0 .. rows-1 of W [rows, k], as panels for products over k. */
static inline void ffn_pack_rows(char *dst, const void *w, int64_t rows, int64_t k)
{
    for (int64_t r = 0; r < rows; r += 32)
        for (int64_t t = 0; t < k; t += 32, dst += STEP_BYTES) {
            const char *src = (const char *)w + 2 * (r * k + t);
            pairs_tile(dst, src, 2 * k);
            pairs_tile(dst + 1024, src + 32 * k, 2 * k);
        }
}

/* Columns of W [k, cols] as panels for products over k. */
static inline void ffn_pack_cols(char *dst, const void *w, int64_t k, int64_t cols)
{
    for (int64_t c = 0; c < cols; c += 32, dst += 64 * k)
        pack_across(dst, (const char *)w + 2 * c, 2 * cols, 32, k);
}

/* 32 rows of x [*, D] from grouped row `row0` (n of them live) in tile layout; `ahead` rows of the next
 * block are fetched meanwhile. */
static inline void ffn_rows(char *dst, const void *x, const int32_t *token, int64_t row0, int n,
                            int64_t ahead, int64_t D)
{
    for (int r = 0; r < FMI_FFN_ROWS; r++) {
        if (r >= n) {
            for (int64_t s = 0; s < D / 32; s++)
                _mm512_store_si512(dst + s * STEP_BYTES + 64 * r, _mm512_setzero_si512());
            continue;
        }
        int64_t i = row0 + r, next = i + FMI_FFN_ROWS;
        const char *src = (const char *)x + 2 * D * (token ? token[i] : i);
        const char *far = next < ahead ? (const char *)x + 2 * D * (token ? token[next] : next) : NULL;
        for (int64_t s = 0; s < D / 32; s++) {
            if (far) _mm_prefetch(far + 64 * s, _MM_HINT_T1);
            _mm512_store_si512(dst + s * STEP_BYTES + 64 * r, _mm512_loadu_si512(src + 64 * s));
        }
    }
}

/* Needs avx512bf16. */
#define FFN_ROUND(a, b) ((__m512i)_mm512_cvtne2ps_pbh(b, a)) /* a: columns 0..15, b: 16..31 */

static inline int64_t ffn_blocks(int64_t rows)
{
    return (rows + FMI_FFN_ROWS - 1) / FMI_FFN_ROWS;
}

/* Rows of group g: [*begin, *end). */
static inline void ffn_group(const int32_t *offsets, int64_t G, int g, int64_t *begin, int64_t *end)
{
    *begin = offsets ? offsets[g] : 0;
    *end = offsets ? offsets[g + 1] : G;
}

static inline void *ffn_matrix(const void *w, int groups, int g)
{
    return groups > 0 ? ((void *const *)w)[g] : (void *)(uintptr_t)w;
}

/* dW += over all rows: the second half of the backward pass, ffn_dw_amx.c. */
fm_status fmi_ffn_dw_amx(const fm_kernel_ctx *k, const fm_gated_bwd_args *a);

#endif
