/* What the reports of logits and of gradients share. */
#ifndef FM_BENCH_REPORT_H
#define FM_BENCH_REPORT_H

#include "model/forward.h"

/* Element `n` of a device buffer of dtype d. */
static inline void *report_at(const void *p, int64_t n, fm_dtype d)
{
    return (char *)(uintptr_t)p + (size_t)n * fm_dtype_bytes(d);
}

/* RANGE unless every id is in the vocabulary and the rows fit the rotary tables. */
fm_status fmi_check_ids(const fm_model *m, const int32_t *ids, int64_t rows, int64_t T, fm_err *err);

#endif
