/* Scalar codecs between element types. Shapes travel as explicit dimensions in operator arguments;
 * strides are in elements everywhere. */
#ifndef FM_TENSOR_TENSOR_H
#define FM_TENSOR_TENSOR_H

#include <string.h>

#include "base/base.h"
#include "fathom/dtype.h"

typedef uint16_t fm_bf16; /* the upper half of a binary32 */

static inline float fmi_bits_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static inline uint32_t fmi_f32_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static inline float fmi_bf16_to_f32(fm_bf16 h)
{
    return fmi_bits_f32((uint32_t)h << 16);
}

/* Round to nearest, ties to even; NaN stays NaN (quiet). Subnormals are kept: whether they are
 * flushed is the business of the arithmetic around (docs/numerics.md). */
static inline fm_bf16 fmi_f32_to_bf16(float f)
{
    uint32_t u = fmi_f32_bits(f);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (fm_bf16)((u >> 16) | 0x40u);
    return (fm_bf16)((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

float fmi_f16_to_f32(uint16_t h);
uint16_t fmi_f32_to_f16(float f);
float fmi_e4m3_to_f32(uint8_t c);   /* 0x7f, 0xff: NaN */
uint8_t fmi_f32_to_e4m3(float f);   /* nearest even, saturates at +-448, NaN stays NaN */

/* The dtype of statistics, residuals and gradients of weights beside activations of `dt`:
 * F32 for F32 and BF16, F64 for F64, C128 for C128 ("F" in operator comments; "A" is dt itself). */
static inline fm_dtype fmi_full_dtype(fm_dtype dt)
{
    return dt == FM_DTYPE_BF16 ? FM_DTYPE_F32 : dt;
}

#endif
