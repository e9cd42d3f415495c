/* What several test files share: contexts, temporary directories, comparison of tensors. */
#ifndef TESTS_SUPPORT_H
#define TESTS_SUPPORT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/base.h"
#include "fathom/model.h"

/* Fails the test with the library's message. */
#define OK(call)                                                              \
    do {                                                                      \
        fm_status ok_st = (call);                                             \
        if (ok_st) fail_msg("%s: %s", fm_status_text(ok_st), ok_err.text);    \
    } while (0)

/* A fresh directory for this process; removed by the caller with test_dir_remove. */
static inline const char *test_dir(void)
{
    static char dir[64];
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/tmp/fathom-test-XXXXXX");
        if (!mkdtemp(dir)) fail_msg("no temporary directory");
    }
    return dir;
}

static inline void test_dir_remove(void)
{
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf '%s'", test_dir());
    if (system(cmd) != 0) fail_msg("cannot remove %s", test_dir());
}

static inline bool test_quick(void)
{
    return getenv("FATHOM_TEST_QUICK") != NULL;
}

#endif
