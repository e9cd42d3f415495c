/* fathom tokenizer train | encode | decode */
#include <stdio.h>
#include <string.h>

#include "fathom/data.h"
#include "text_io.h"

#define NAME "tokenizer"

typedef struct tok_args {
    cli_common c;
    int64_t vocab;
    bool jsonl, plain, skip;
} tok_args;

typedef struct row_arg {
    const fm_tokenizer *tok;
    unsigned flags;
    fm_ids ids;
    fm_text text;
} row_arg;

static bool encode_row(void *arg, const char *line, size_t n, const json_t *row, const char *where,
                       fm_err *err)
{
    (void)line, (void)n;
    row_arg *a = arg;
    const json_t *text = json_object_get(row, "text");
    if (!json_is_string(text)) {
        snprintf(err->text, sizeof err->text, "%s: key \"text\": expected a string", where);
        return false;
    }
    a->ids.n = 0;
    if (fm_tokenizer_encode(a->tok, json_string_value(text), json_string_length(text), a->flags,
                            &a->ids, err))
        return false;
    text_print_ids(&a->ids);
    putchar('\n');
    return true;
}

static bool decode_row(void *arg, const char *line, size_t n, const json_t *row, const char *where,
                       fm_err *err)
{
    (void)line, (void)n;
    row_arg *a = arg;
    if (!text_ids_from_json(row, where, &a->ids, err)) return false;
    a->text.n = 0;
    if (fm_tokenizer_decode(a->tok, a->ids.data, a->ids.n, a->flags, &a->text, err)) {
        fm_err inner = *err;
        snprintf(err->text, sizeof err->text, "%s: %.400s", where, inner.text);
        return false;
    }
    printf("{\"text\": ");
    text_print_string(a->text.data, a->text.n);
    printf("}\n");
    return true;
}

static int encode_all(const fm_tokenizer *tok, unsigned flags)
{
    fm_err err = {0};
    fm_text in = {0};
    fm_ids ids = {0};
    int rc = CLI_DONE;
    if (!text_read_all(&in)) {
        rc = cli_fail(NAME, "standard input cannot be read");
    } else if (fm_tokenizer_encode(tok, in.data, in.n, flags, &ids, &err)) {
        rc = cli_fail(NAME, "%s", err.text);
    } else {
        text_print_ids(&ids);
        putchar('\n');
    }
    fm_text_deinit(&in);
    fm_ids_deinit(&ids);
    return rc;
}

static int decode_all(const fm_tokenizer *tok, unsigned flags)
{
    fm_err err = {0};
    fm_text in = {0}, out = {0};
    fm_ids ids = {0};
    json_error_t je;
    json_t *list = NULL;
    int rc = CLI_DONE;
    if (!text_read_all(&in))
        rc = cli_fail(NAME, "standard input cannot be read");
    else if (!(list = json_loadb(in.data, in.n, 0, &je)))
        rc = cli_fail(NAME, "standard input: line %d: %s", je.line, je.text);
    else if (!text_ids_from_json(list, "standard input", &ids, &err) ||
             fm_tokenizer_decode(tok, ids.data, ids.n, flags, &out, &err))
        rc = cli_fail(NAME, "%s", err.text);
    else
        fwrite(out.data, 1, out.n, stdout);
    json_decref(list);
    fm_text_deinit(&in);
    fm_ids_deinit(&ids);
    fm_text_deinit(&out);
    return rc;
}

static int train(const tok_args *a, char **files, int n)
{
    fm_err err = {0};
    fm_bpe_report r;
    if (!a->c.out) return cli_wrong(NAME, "train: --out is missing");
    if (n < 1) return cli_wrong(NAME, "train: no source files");
    if (a->vocab < FM_BPE_VOCAB_MIN || a->vocab > FM_BPE_VOCAB_MAX)
        return cli_wrong(NAME, "--vocab: expected %d to %d, found %lld", FM_BPE_VOCAB_MIN,
                         FM_BPE_VOCAB_MAX, (long long)a->vocab);
    if (fm_data_train_tokenizer((const char *const *)files, n, (int32_t)a->vocab, a->c.out, &r,
                                &err))
        return cli_fail(NAME, "%s", err.text);
    printf(a->c.json ? "{\"vocab\": %lld, \"merges\": %d, \"spare\": %d, "
                       "\"documents\": %lld, \"bytes\": %lld}\n"
                     : "vocabulary %lld: %d merges, %d spare tokens, from %lld documents of %lld "
                       "bytes\n",
           (long long)a->vocab, r.n_merges, r.n_spare, (long long)r.n_documents,
           (long long)r.n_bytes);
    return CLI_DONE;
}

static int code(const tok_args *a, bool encode)
{
    row_arg row = {0};
    fm_tokenizer *tok = NULL;
    int rc = text_open_tokenizer(NAME, a->c.model, &tok);
    if (rc != CLI_GO_ON) return rc;
    row.tok = tok;
    row.flags = encode ? (a->plain ? FM_ENCODE_PLAIN : 0) : a->skip ? FM_DECODE_SKIP_CONTROL : 0;
    if (a->jsonl) rc = text_each_line(NAME, encode ? encode_row : decode_row, &row);
    else rc = encode ? encode_all(tok, row.flags) : decode_all(tok, row.flags);
    fm_ids_deinit(&row.ids);
    fm_text_deinit(&row.text);
    fm_tokenizer_free(tok);
    return rc;
}

int cmd_tokenizer(int argc, char **argv)
{
    tok_args a = {.vocab = 4096};
    const cli_option options[] = {
        {"vocab", CLI_INT, &a.vocab, "N", "train: exact size, marks included (default 4096)"},
        CLI_OPT_OUT(&a.c),
        {"model", CLI_TEXT, &a.c.model, "M", "a model directory or a tokenizer.json"},
        {"jsonl", CLI_FLAG, &a.jsonl, NULL,
         "encode: one {\"text\": ...} a line in, one array of ids a line out; decode: the reverse"},
        {"no-special", CLI_FLAG, &a.plain, NULL,
         "encode: special tokens in the text are plain text"},
        {"skip-special", CLI_FLAG, &a.skip, NULL, "decode: leave control tokens out"},
        CLI_OPT_JSON(&a.c),
    };
    const cli_command command = {
        .name = NAME,
        .usage = "train --vocab N --out DIR FILE[:WEIGHT]... | encode --model M < text | "
                 "decode --model M < ids",
        .about = "train learns a byte-level BPE vocabulary and writes tokenizer.json, "
                 "tokenizer_config.json and chat_template.jinja into DIR. FILE is .txt or .jsonl "
                 "(key text), plain, .gz or .zst, or - for standard input; WEIGHT is how often it "
                 "counts. encode prints the ids of standard input as JSON; decode reads them.",
        .options = options,
        .n_options = CLI_COUNT(options),
        .args_max = 100000,
    };
    char **args;
    int n = 0, rc = cli_parse(&command, argc, argv, &args, &n);
    if (rc != CLI_GO_ON) return rc;
    const char *what = n ? args[0] : "";
    if (!strcmp(what, "train")) return train(&a, args + 1, n - 1);
    if (n > 1) return cli_wrong(NAME, "unexpected argument \"%s\"", args[1]);
    if (!strcmp(what, "encode")) return code(&a, true);
    if (!strcmp(what, "decode")) return code(&a, false);
    return cli_wrong(NAME, "expected train, encode or decode, found \"%s\"", what);
}
