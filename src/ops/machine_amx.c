/* Tile rates from registers: four accumulators, two by two operands, nothing loaded in the loop. */
#include "ops/machine.h"

#include <immintrin.h>
#include <string.h>

static void configure(void)
{
    struct {
        uint8_t palette, start, reserved[14];
        uint16_t colsb[16];
        uint8_t rows[16];
    } __attribute__((packed)) cfg;
    memset(&cfg, 0, sizeof cfg);
    cfg.palette = 1;
    for (int i = 0; i < 8; i++) {
        cfg.colsb[i] = 64;
        cfg.rows[i] = 16;
    }
    __asm__ volatile("" ::: "memory"); /* gcc 12 may drop the stores above otherwise */
    _tile_loadconfig(&cfg);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
}

double fmi_spin_amx_bf16(int64_t n, float *sink)
{
    float out[16 * 16];
    configure();
    for (int64_t r = 0; r < n; r++) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    *sink = out[0];
    _tile_release();
    return (double)n * 4 * 2 * 16 * 16 * 32;
}

double fmi_spin_amx_int8(int64_t n, float *sink)
{
    int32_t out[16 * 16];
    configure();
    for (int64_t r = 0; r < n; r++) {
        _tile_dpbssd(0, 4, 6);
        _tile_dpbssd(1, 4, 7);
        _tile_dpbssd(2, 5, 6);
        _tile_dpbssd(3, 5, 7);
    }
    _tile_stored(0, out, 64);
    *sink = (float)out[0];
    _tile_release();
    return (double)n * 4 * 2 * 16 * 16 * 64;
}
