/* Reading rows of token ids for `logits` and `grad`. */
#include "ids_file.h"

#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* The number of ids in row r of root, which is a row itself when it holds integers; NULL: no row. */
static const json_t *row_of(const json_t *root, size_t r)
{
    const json_t *first = json_array_get(root, 0);
    return json_is_array(first) ? json_array_get(root, r) : r == 0 ? root : NULL;
}

static int fill(const char *command, const char *path, const json_t *root, int32_t *ids,
                size_t rows, size_t length)
{
    for (size_t r = 0; r < rows; r++) {
        const json_t *row = row_of(root, r);
        if (json_array_size(row) != length)
            return cli_fail(
                command,
                "%s: row %zu has %zu ids, row 0 has %zu; rows of equal length are expected", path,
                r, json_array_size(row), length);
        for (size_t i = 0; i < length; i++) {
            const json_t *v = json_array_get(row, i);
            json_int_t id = json_integer_value(v);
            if (!json_is_integer(v) || id < INT32_MIN || id > INT32_MAX)
                return cli_fail(command, "%s: row %zu, place %zu is no token id", path, r, i);
            ids[r * length + i] = (int32_t)id;
        }
    }
    return CLI_GO_ON;
}

int ids_file_read(const char *command, const char *path, int32_t **ids, int64_t *rows, int64_t *length)
{
    json_error_t e;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &e);
    if (!root && e.line < 0) return cli_fail(command, "%s: %s", path, strerror(errno));
    if (!root) return cli_fail(command, "%s: line %d: %s", path, e.line, e.text);
    const json_t *first = json_is_array(root) ? row_of(root, 0) : NULL;
    size_t n = json_array_size(first), r = first == root ? 1 : json_array_size(root);
    int rc;
    if (!first || n == 0) {
        rc = cli_fail(command, "%s: expected rows of token ids as JSON, [[0, 17, 4], ..]", path);
    } else {
        *ids = malloc(r * n * sizeof **ids);
        rc = *ids ? fill(command, path, root, *ids, r, n) : cli_fail(command, "out of memory");
        if (rc != CLI_GO_ON) {
            free(*ids);
            *ids = NULL;
        }
        *rows = (int64_t)r;
        *length = (int64_t)n;
    }
    json_decref(root);
    return rc;
}

int ids_file_check(const char *command, const char *path, const int32_t *ids, int64_t rows,
                   int64_t length, int vocab)
{
    for (int64_t i = 0; i < rows * length; i++)
        if (ids[i] < 0 || ids[i] >= vocab)
            return cli_fail(command, "%s: token id %d at row %lld, place %lld; expected 0..%d", path,
                            ids[i], (long long)(i / length), (long long)(i % length), vocab - 1);
    return CLI_GO_ON;
}
