/* bf16 products with few rows on tiles: the weight's rows are the tile of rows as they lie, the
 * rows of A its columns, so that a tile is configured as narrow as they are few. Ragged ends go the
 * AVX-512 way, which gives the same bits. */
#include <immintrin.h>
#include <string.h>

#include "ops/x86/gemm_x86.h"
#include "ops/x86/thin.h"
#include "ops/x86/v16.h"

#define DISTANCE (FMI_THIN_AHEAD / 64) /* steps */

typedef struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t colsb[16];
    uint8_t rows[16];
} tile_config;

/* Tiles 0..1: sums, 2..3: weights, 4..5: rows of A. */
static void enter(int m)
{
    if (m > FMI_THIN_ROWS) { /* wide.h */
        fmi_tiles_configure_amx();
        return;
    }
    tile_config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int i = 0; i < 6; i++) {
        c.rows[i] = 16;
        c.colsb[i] = (uint16_t)(i == 2 || i == 3 ? 64 : 4 * m);
    }
    __asm__ volatile("" : : "m"(c) : "memory"); /* gcc 12 does not see what the load reads */
    _tile_loadconfig(&c);
}

static void leave(void)
{
    _tile_release();
}

static void nt_tiles(const fmi_thin_block *b)
{
    if (!b->pairs || b->lanes < 16) {
        fmi_thin_bf16_avx512.nt(b);
        return;
    }
    const char *w = b->w;
    const uint32_t *x = b->pairs;
    int64_t wide = 4 * b->m;
    _tile_zero(0);
    for (int64_t s = 0, steps = b->k / 32; s < steps; s++, w += 64, x += 16 * b->m) {
        const char *soon = s + DISTANCE < steps ? w + 64 * DISTANCE
                           : b->ahead           ? b->ahead + 64 * (s + DISTANCE - steps)
                                                : w;
        for (int i = 0; i < 16; i++) _mm_prefetch(soon + i * b->stride, _MM_HINT_T0);
        _tile_loadd(2, w, b->stride);
        _tile_loadd(4, x, wide);
        _tile_dpbf16ps(0, 2, 4);
    }
    if (b->m == 1) {
        _tile_stored(0, b->acc, 4);
        return;
    }
    _Alignas(64) uint32_t t[16][16];
    v16i c[16];
    _tile_stored(0, t, 64);
    for (int i = 0; i < 16; i++) c[i] = v16i_load(t[i]);
    v16i_transpose(c);
    for (int r = 0; r < b->m; r++) v16i_store(b->acc + 16 * r, c[r]);
}

void fmi_thin_amx(fmi_thin_kern *k)
{
    *k = fmi_thin_bf16_avx512;
    k->nt_lines = NULL;
    k->nt = nt_tiles;
    k->enter = enter;
    k->leave = leave;
    k->pairs = true;
}
