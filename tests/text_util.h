/* Shared by the tests of src/text: whole files (zstd too), JSON lines, temporary directories. */
#ifndef TESTS_TEXT_UTIL_H
#define TESTS_TEXT_UTIL_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>

#include "fathom/tokenizer.h"
#include "io/file.h"
#include "io/json.h"

#define TOK_DATA "tests/data/tokenizer/"

#define OK(call)                                                    \
    do {                                                            \
        fm_status st_ = (call);                                     \
        if (st_) fail_msg("%s: %s", #call, err.text);               \
    } while (0)

static inline char *read_whole(const char *path, size_t *n)
{
    fm_err err;
    char *raw = NULL;
    size_t raw_n = 0;
    OK(fmi_file_read(path, (size_t)1 << 30, &raw, &raw_n, &err));
    size_t len = strlen(path);
    if (len < 4 || strcmp(path + len - 4, ".zst")) {
        *n = raw_n;
        return raw;
    }
    unsigned long long full = ZSTD_getFrameContentSize(raw, raw_n);
    assert_true(full < ((unsigned long long)1 << 30));
    char *out = fmi_alloc((size_t)full + 1);
    assert_non_null(out);
    *n = ZSTD_decompress(out, (size_t)full, raw, raw_n);
    assert_false(ZSTD_isError(*n));
    out[*n] = 0;
    fmi_free(raw);
    return out;
}

static inline fm_tokenizer *open_zst(const char *path)
{
    fm_err err;
    size_t n;
    fm_tokenizer *t = NULL;
    char *json = read_whole(path, &n);
    OK(fm_tokenizer_parse(json, n, path, &t, &err));
    fmi_free(json);
    return t;
}

/* The next line of *p before end as JSON, NULL at the end. */
static inline json_t *next_row(char **p, char *end)
{
    if (*p >= end) return NULL;
    char *nl = memchr(*p, '\n', (size_t)(end - *p));
    if (!nl) nl = end;
    json_error_t je;
    json_t *row = json_loadb(*p, (size_t)(nl - *p), JSON_ALLOW_NUL, &je);
    if (!row) fail_msg("row: %s", je.text);
    *p = nl + 1;
    return row;
}

/* A fresh directory below the system's place for temporary files; remove with fmi_tree_remove. */
static inline char *temp_dir(void)
{
    const char *base = getenv("TMPDIR");
    char *t = fmi_format("%s/fathom-text-XXXXXX", base ? base : P_tmpdir);
    assert_non_null(mkdtemp(t));
    return t;
}

static inline void drop_dir(char *dir)
{
    fm_err err;
    OK(fmi_tree_remove(dir, &err));
    fmi_free(dir);
}

#endif
