/* Reference row movers: embedding, gather with conversion, scatter, expert sum, elementwise sums.
 *
 * Conversion in gather reads any stored format; a value is rounded once, into the target. */
#include "ops/ref/ref.h"

#define REF_BODY "ops/ref/rows.inc"
#include "ops/ref/instances.h"

REF_OP(embed)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(embed), a, a->T);
}

REF_OP(embed_bwd)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(embed_bwd), a, a->D);
}

REF_OP(moe_combine)
{
    if (a->K < 1) return FM_E_RANGE;
    return ref_run_dt(k, a->dt, REF_VERSIONS(moe_combine), a, a->T);
}

REF_OP(sum)
{
    return ref_run_dt(k, a->dt, REF_VERSIONS(sum), a, 1);
}

REF_OP(axpby)
{
    if (a->dt == FM_DTYPE_BF16 || (a->ya && a->dt != FM_DTYPE_F32)) return FM_E_UNSUPPORTED;
    return ref_run_dt(k, a->dt, REF_VERSIONS(axpby), a, a->n);
}

static void zero_range(const void *args, int64_t begin, int64_t end, void *scratch)
{
    const fm_zero_args *a = args;
    (void)scratch;
    memset((char *)a->y + begin, 0, (size_t)(end - begin));
}

REF_OP(zero)
{
    ref_run(k, zero_range, a, a->bytes);
    return FM_OK;
}

/* Element i as a float, exactly (of a double: rounded). */
static float load_f32(const void *p, int64_t i, fm_dtype dt)
{
    switch (dt) {
    case FM_DTYPE_F32: return ((const float *)p)[i];
    case FM_DTYPE_BF16: return fmi_bf16_to_f32(((const fm_bf16 *)p)[i]);
    case FM_DTYPE_F16: return fmi_f16_to_f32(((const uint16_t *)p)[i]);
    case FM_DTYPE_F8E4M3: return fmi_e4m3_to_f32(((const uint8_t *)p)[i]);
    case FM_DTYPE_F64: return (float)((const double *)p)[i];
    default: return 0;
    }
}

static void store_f32(void *p, int64_t i, fm_dtype dt, float v)
{
    switch (dt) {
    case FM_DTYPE_F32: ((float *)p)[i] = v; break;
    case FM_DTYPE_BF16: ((fm_bf16 *)p)[i] = fmi_f32_to_bf16(v); break;
    case FM_DTYPE_F16: ((uint16_t *)p)[i] = fmi_f32_to_f16(v); break;
    case FM_DTYPE_F8E4M3: ((uint8_t *)p)[i] = fmi_f32_to_e4m3(v); break;
    case FM_DTYPE_F64: ((double *)p)[i] = v; break;
    default: break;
    }
}

static void gather_range(const void *args, int64_t begin, int64_t end, void *scratch)
{
    const fm_gather_rows_args *a = args;
    size_t bx = fm_dtype_bytes(a->dt_x), by = fm_dtype_bytes(a->dt_y);
    (void)scratch;
    for (int64_t i = begin; i < end; i++) {
        int64_t row = a->rows ? a->rows[i] : i;
        char *y = (char *)a->y + (size_t)(i * a->ldy) * by;
        const char *x = (const char *)a->x + (row < 0 ? 0 : (size_t)(row * a->ldx) * bx);
        if (row < 0) memset(y, 0, (size_t)a->D * by);
        else if (a->dt_x == a->dt_y) memmove(y, x, (size_t)a->D * by);
        else
            for (int64_t d = 0; d < a->D; d++) store_f32(y, d, a->dt_y, load_f32(x, d, a->dt_x));
    }
}

/* A type that conversion passes through float without a second rounding. */
static bool converts(fm_dtype dt)
{
    return dt == FM_DTYPE_F32 || dt == FM_DTYPE_BF16 || dt == FM_DTYPE_F16 || dt == FM_DTYPE_F8E4M3;
}

REF_OP(gather_rows)
{
    bool exact = (a->dt_x == FM_DTYPE_F64 && a->dt_y == FM_DTYPE_F32) ||
                 (converts(a->dt_x) && (converts(a->dt_y) || a->dt_y == FM_DTYPE_F64));
    if (a->dt_x != a->dt_y && !exact) return FM_E_UNSUPPORTED;
    ref_run(k, gather_range, a, a->n);
    return FM_OK;
}

static void scatter_range(const void *args, int64_t begin, int64_t end, void *scratch)
{
    const fm_scatter_rows_args *a = args;
    size_t b = fm_dtype_bytes(a->dt);
    (void)scratch;
    for (int64_t i = begin; i < end; i++) {
        if (a->rows[i] < 0) continue;
        memcpy((char *)a->y + (size_t)(a->rows[i] * a->ldy) * b,
               (const char *)a->x + (size_t)(i * a->ldx) * b, (size_t)a->D * b);
    }
}

REF_OP(scatter_rows)
{
    ref_run(k, scatter_range, a, a->n);
    return FM_OK;
}
