/* Element types of tensors. F64 and C128 exist for the gradient checks only. */
#ifndef FATHOM_DTYPE_H
#define FATHOM_DTYPE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_dtype {
    FM_DTYPE_F32,
    FM_DTYPE_BF16,
    FM_DTYPE_F16,
    FM_DTYPE_F8E4M3, /* e4m3fn: bias 7, max 448, 0x7f and 0xff are NaN, no infinities */
    FM_DTYPE_F64,
    FM_DTYPE_C128,   /* double complex */
    FM_DTYPE_I32,
    FM_DTYPE_I64,
    FM_DTYPE_U8,
    FM_DTYPE_COUNT
} fm_dtype;

/* Bytes of one element. */
size_t fm_dtype_bytes(fm_dtype dtype);

/* safetensors' spelling ("BF16", "F8_E4M3", ...); "C128" for the test type. */
const char *fm_dtype_name(fm_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
