/* Standard input and output of the text commands. */
#include "text_io.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int text_open_tokenizer(const char *command, const char *model, fm_tokenizer **out)
{
    fm_text path = {0};
    fm_err err = {0};
    struct stat file;
    bool is_file = model && !stat(model, &file) && S_ISREG(file.st_mode); /* a tokenizer.json */
    int rc = is_file ? CLI_GO_ON : cli_model_path(command, model, &path);
    if (rc == CLI_GO_ON && fm_tokenizer_open(is_file ? model : path.data, out, &err))
        rc = cli_fail(command, "%s", err.text);
    fm_text_deinit(&path);
    return rc;
}

bool text_read_all(fm_text *out)
{
    char buf[65536];
    for (size_t k; (k = fread(buf, 1, sizeof buf, stdin)) > 0;)
        if (fm_text_push(out, buf, k, NULL)) return false;
    return !ferror(stdin) && !fm_text_push(out, "", 0, NULL);
}

void text_print_ids(const fm_ids *ids)
{
    putchar('[');
    for (size_t i = 0; i < ids->n; i++) printf(i ? ", %d" : "%d", ids->data[i]);
    putchar(']');
}

/* Length of the character at s, 0 when it is none. */
static size_t char_len(const unsigned char *s, size_t n)
{
    if (s[0] < 0x80) return 1;
    size_t len = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    if (s[0] < 0xc2 || s[0] > 0xf4 || len > n) return 0;
    for (size_t i = 1; i < len; i++)
        if ((s[i] & 0xc0) != 0x80) return 0;
    bool bad = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
               (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return bad ? 0 : len;
}

void text_print_string(const char *text, size_t n)
{
    const unsigned char *s = (const unsigned char *)text;
    putchar('"');
    for (size_t i = 0; i < n;) {
        size_t k = char_len(s + i, n - i);
        if (!k) {
            fputs("\xef\xbf\xbd", stdout);
            i++;
            continue;
        }
        if (s[i] == '"' || s[i] == '\\') printf("\\%c", s[i]);
        else if (s[i] == '\n') fputs("\\n", stdout);
        else if (s[i] == '\t') fputs("\\t", stdout);
        else if (s[i] == '\r') fputs("\\r", stdout);
        else if (s[i] < 0x20) printf("\\u%04x", s[i]);
        else fwrite(s + i, 1, k, stdout);
        i += k;
    }
    putchar('"');
}

static bool fail_row(fm_err *err, const char *where, const char *what)
{
    err->code = FM_E_FORMAT;
    snprintf(err->text, sizeof err->text, "%.200s: %.200s", where, what);
    return false;
}

bool text_ids_from_json(const json_t *list, const char *where, fm_ids *out, fm_err *err)
{
    if (!json_is_array(list)) return fail_row(err, where, "expected an array of ids");
    size_t n = json_array_size(list);
    out->n = 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        json_int_t x = json_integer_value(v);
        if (!json_is_integer(v) || x < INT32_MIN || x > INT32_MAX) {
            char what[64];
            snprintf(what, sizeof what, "index %zu: expected a token id", i);
            return fail_row(err, where, what);
        }
        if (fm_ids_push(out, (int32_t)x, err)) return false;
    }
    return true;
}

int text_each_line(const char *command, text_row_fn fn, void *arg)
{
    char *line = NULL, where[64];
    size_t cap = 0;
    long number = 0;
    bool ok = true;
    fm_err err = {0};
    for (ssize_t n; ok && (n = getline(&line, &cap, stdin)) >= 0;) {
        number++;
        if (strspn(line, " \t\r\n") == (size_t)n) continue;
        snprintf(where, sizeof where, "standard input: line %ld", number);
        json_error_t je;
        json_t *row = json_loadb(line, (size_t)n, JSON_ALLOW_NUL | JSON_REJECT_DUPLICATES, &je);
        ok = row ? fn(arg, line, (size_t)n, row, where, &err) : fail_row(&err, where, je.text);
        json_decref(row);
    }
    free(line);
    if (ok && ferror(stdin)) ok = fail_row(&err, "standard input", strerror(errno));
    return ok ? CLI_DONE : cli_fail(command, "%s", err.text);
}

int text_finish(const char *command)
{
    if (fflush(stdout) || ferror(stdout))
        return cli_fail(command, "standard output: %s", strerror(errno));
    return CLI_DONE;
}
