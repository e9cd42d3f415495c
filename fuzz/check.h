/* What the fuzz targets hold the parsers to: a failure has a code that input can cause and a
 * message that names the input; a success has whatever FUZZ_CHECK says. */
#ifndef FUZZ_CHECK_H
#define FUZZ_CHECK_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"

#define FUZZ_CHECK(c)                                                                              \
    do {                                                                                           \
        if (!(c)) {                                                                                \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #c);                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static inline void fuzz_check_failure(fm_status st, const fm_err *err, const char *name)
{
    FUZZ_CHECK(st == err->code);
    FUZZ_CHECK(st == FM_E_FORMAT || st == FM_E_NOMEM || st == FM_E_RANGE || st == FM_E_UNSUPPORTED);
    FUZZ_CHECK(strstr(err->text, name) != NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
