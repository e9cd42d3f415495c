/* Products with few rows on AVX2. */
#include <immintrin.h>

#include "ops/x86/thin.h"
#include "ops/x86/v16.h"

#include "ops/x86/thin_vec.inc"

const fmi_thin_kern fmi_thin_bf16_avx2 = {.nt = nt_bf16,
                                          .nn = nn_bf16,
                                          .nt_lines = fmi_thin_lines_avx2,
                                          .lines_rows = 16,
                                          .spread = fmi_thin_spread_avx2,
                                          .widen = widen_bf16,
                                          .store = store_row};
const fmi_thin_kern fmi_thin_f32_avx2 = {
    .nt = nt_f32, .nn = nn_f32, .widen = widen_f32, .store = store_row};
