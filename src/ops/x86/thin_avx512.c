/* Products with few rows on AVX-512. */
#include <immintrin.h>

#include "ops/x86/thin.h"
#include "ops/x86/v16.h"

#include "ops/x86/thin_vec.inc"

static void nt_turned(const fmi_thin_block *b)
{
    bool whole = b->lanes == FMI_THIN_LANES_NT && b->k % 32 == 0;
    if (whole && (b->m == 3 || b->m == 4)) fmi_thin_turn_avx512(b);
    else nt_bf16(b);
}

const fmi_thin_kern fmi_thin_bf16_avx512 = {.nt = nt_turned,
                                            .nn = nn_bf16,
                                            .nt_lines = fmi_thin_lines_avx2,
                                            .lines_rows = 2,
                                            .spread = fmi_thin_spread_avx2,
                                            .widen = widen_bf16,
                                            .store = store_row};
const fmi_thin_kern fmi_thin_f32_avx512 = {
    .nt = nt_f32, .nn = nn_f32, .widen = widen_f32, .store = store_row};
