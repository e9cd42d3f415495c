/* safetensors headers. The input runs as it is, and again with the header length corrected so that
 * mutations of the JSON reach the checks behind it. */
#include "check.h"
#include "io/safetensors.h"

static void parse(const uint8_t *data, size_t size)
{
    fm_err err;
    fm_tensors *t = NULL;
    fm_status st = fm_tensors_parse("input", data, size, &t, &err);
    if (st) {
        fuzz_check_failure(st, &err, "input");
        FUZZ_CHECK(!t);
        return;
    }
    uint64_t end = 0;
    for (int i = 0; i < fm_tensors_count(t); i++) {
        const fm_tensor_info *x = fm_tensors_at(t, i);
        const uint8_t *p = x->data;
        FUZZ_CHECK(p >= data && x->bytes <= size && (size_t)(p - data) <= size - x->bytes);
        FUZZ_CHECK(x->offset >= end);
        end = x->offset + x->bytes;
        FUZZ_CHECK(fm_tensors_find(t, x->name) == x);
        int64_t n = 1;
        for (int k = 0; k < x->rank; k++) FUZZ_CHECK(fmi_mul_ok(n, x->dims[k], &n));
        FUZZ_CHECK(n == x->n);
        if (x->dtype < FM_DTYPE_COUNT)
            FUZZ_CHECK(x->bytes == (size_t)x->n * fm_dtype_bytes(x->dtype));
    }
    FUZZ_CHECK(end == size || fm_tensors_count(t) == 0);
    fm_tensors_metadata(t, "format");
    fm_tensors_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    parse(data, size);
    const uint8_t *last = size > 8 ? memrchr(data + 8, '}', size - 8) : NULL;
    if (!last) return 0;
    uint8_t *fixed = malloc(size);
    if (!fixed) return 0;
    uint64_t n = (uint64_t)(last + 1 - (data + 8));
    memcpy(fixed, data, size);
    memcpy(fixed, &n, 8);
    parse(fixed, size);
    free(fixed);
    return 0;
}
