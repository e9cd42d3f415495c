/* Attention with AMX tiles for bf16 products and AVX-512 for the rest.
 *
 * One tile configuration for all: 16 rows of 64 bytes; operands are padded to it (tile_pack.inc).
 * C stays in four tiles while two A and two B tiles pass by, or in six while A and B change.
 * Probabilities are rounded by vcvtne2ps2bf16, which every processor with AMX has; it is asked for
 * all the same. */
#pragma GCC target("avx512bf16")
#include <immintrin.h>

#include "ops/x86/amx_tiles.h"
#include "ops/x86/v16.h"
#include "ops/x86/x86.h"

#define ATTN_AMX
#include "ops/x86/tile_mm.inc"

static inline void tiles_enter(void)
{
    fmi_tiles_configure_amx();
}

static inline void tiles_leave(void)
{
    fmi_tiles_release_amx();
}

/* C tiles 0..3 of a 2 x 2 block; `two_r`, `two_l`: whether the second row and lane tile exist. */
MM_INLINE void mm_tiles(const mm_args *g, int r, int l, const bool two_r, const bool two_l)
{
    float *c = g->c + r * g->ldc + l;
    const uint32_t *a = g->a + r * g->lda, *b = g->b + l;
    int64_t sa = g->lda * 4, sb = g->ldb * 4, sc = g->ldc * 4;
    if (g->zero) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    } else {
        _tile_loadd(0, c, sc);
        if (two_l) _tile_loadd(1, c + 16, sc);
        if (two_r) _tile_loadd(2, c + 16 * g->ldc, sc);
        if (two_r && two_l) _tile_loadd(3, c + 16 * g->ldc + 16, sc);
    }
    int64_t step_a = mm_sa(g), step_b = mm_sb(g);
    for (int w = 0; w < g->kw; w += 16, a += step_a, b += step_b) {
        _tile_loadd(4, a, sa);
        gap();
        _tile_loadd(6, b, sb);
        gap();
        _tile_dpbf16ps(0, 4, 6);
        gap();
        if (two_l) {
            _tile_loadd(7, b + 16, sb);
            gap();
            _tile_dpbf16ps(1, 4, 7);
            gap();
        }
        if (two_r) {
            _tile_loadd(5, a + 16 * g->lda, sa);
            gap();
            _tile_dpbf16ps(2, 5, 6);
            gap();
            if (two_l) _tile_dpbf16ps(3, 5, 7);
            gap();
        }
    }
    _tile_stored(0, c, sc);
    if (two_l) _tile_stored(1, c + 16, sc);
    if (two_r) _tile_stored(2, c + 16 * g->ldc, sc);
    if (two_r && two_l) _tile_stored(3, c + 16 * g->ldc + 16, sc);
}

/* C tiles 0..5 of a 2 x 3 block (wide) or a 3 x 2 block: each step loads seven tiles for six
 * products, those of the longer side once. */
MM_INLINE void mm_six(const mm_args *g, const bool wide)
{
    const uint32_t *a = g->a, *b = g->b;
    int64_t sa = g->lda * 4, sb = g->ldb * 4, sc = g->ldc * 4;
    int64_t step_a = mm_sa(g), step_b = mm_sb(g);
    float *c1 = g->c + (wide ? 16 : 16 * g->ldc), *c2 = g->c + (wide ? 32 : 32 * g->ldc);
    int64_t other = wide ? 16 * g->ldc : 16;
    if (g->zero) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        _tile_zero(4);
        _tile_zero(5);
    } else {
        _tile_loadd(0, g->c, sc);
        _tile_loadd(1, c1, sc);
        _tile_loadd(2, c2, sc);
        _tile_loadd(3, g->c + other, sc);
        _tile_loadd(4, c1 + other, sc);
        gap();
        _tile_loadd(5, c2 + other, sc);
        gap();
    }
    for (int w = 0; w < g->kw; w += 16, a += step_a, b += step_b) {
        if (wide) {
            _tile_loadd(6, a, sa);
            gap();
            _tile_loadd(7, b, sb);
            gap();
            _tile_dpbf16ps(0, 6, 7);
            gap();
            _tile_loadd(7, b + 16, sb);
            gap();
            _tile_dpbf16ps(1, 6, 7);
            gap();
            _tile_loadd(7, b + 32, sb);
            gap();
            _tile_dpbf16ps(2, 6, 7);
            gap();
            _tile_loadd(6, a + 16 * g->lda, sa);
            gap();
            _tile_dpbf16ps(5, 6, 7);
            gap();
            _tile_loadd(7, b + 16, sb);
            gap();
            _tile_dpbf16ps(4, 6, 7);
            gap();
            _tile_loadd(7, b, sb);
            gap();
            _tile_dpbf16ps(3, 6, 7);
            gap();
        } else {
            _tile_loadd(6, a, sa);
            gap();
            _tile_loadd(7, b, sb);
            gap();
            _tile_dpbf16ps(0, 6, 7);
            gap();
            _tile_loadd(6, a + 16 * g->lda, sa);
            gap();
            _tile_dpbf16ps(1, 6, 7);
            gap();
            _tile_loadd(6, a + 32 * g->lda, sa);
            gap();
            _tile_dpbf16ps(2, 6, 7);
            gap();
            _tile_loadd(7, b + 16, sb);
            gap();
            _tile_dpbf16ps(5, 6, 7);
            gap();
            _tile_loadd(6, a + 16 * g->lda, sa);
            gap();
            _tile_dpbf16ps(4, 6, 7);
            gap();
            _tile_loadd(6, a, sa);
            gap();
            _tile_dpbf16ps(3, 6, 7);
            gap();
        }
    }
    _tile_stored(0, g->c, sc);
    _tile_stored(1, c1, sc);
    _tile_stored(2, c2, sc);
    _tile_stored(3, g->c + other, sc);
    _tile_stored(4, c1 + other, sc);
    _tile_stored(5, c2 + other, sc);
}

static void mm_bf16(const mm_args *g)
{
    if (g->rows == 32 && g->lanes == 48) {
        mm_six(g, true);
        return;
    }
    if (g->rows == 48 && g->lanes == 32) {
        mm_six(g, false);
        return;
    }
    for (int r = 0; r < g->rows; r += 32)
        for (int l = 0; l < g->lanes; l += 32) {
            bool two_r = r + 16 < g->rows, two_l = l + 16 < g->lanes;
            if (two_r && two_l) mm_tiles(g, r, l, true, true);
            else if (two_r) mm_tiles(g, r, l, true, false);
            else if (two_l) mm_tiles(g, r, l, false, true);
            else mm_tiles(g, r, l, false, false);
        }
}

#include "ops/x86/tile_pack.inc"
#include "ops/x86/tile_fwd.inc"
#include "ops/x86/tile_bwd.inc"
#include "ops/x86/tile_latent.inc"

void fmi_attn_init_amx(fm_ops *ops)
{
    if (!__builtin_cpu_supports("avx512bf16")) return;
    ops->attn = attn;
    ops->attn_bwd = attn_bwd;
    ops->attn_latent = attn_latent;
}
