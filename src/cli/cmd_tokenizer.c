/* fathom tokenizer train | encode | decode */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/data.h"
#include "text_io.h"

static const char help[] =
    "usage: fathom tokenizer train --vocab N --out DIR FILE[:WEIGHT]...\n"
    "       fathom tokenizer encode --model DIR|FILE [--jsonl] [--no-special] < text\n"
    "       fathom tokenizer decode --model DIR|FILE [--jsonl] < ids\n"
    "\n"
    "train   learns a byte-level BPE vocabulary and writes tokenizer.json, tokenizer_config.json\n"
    "        and chat_template.jinja into DIR. FILE: .txt or .jsonl (key text), plain, .gz or\n"
    "        .zst, - for standard input; WEIGHT: how often it counts\n"
    "encode  prints the ids of standard input as JSON\n"
    "decode  reads ids as JSON and prints the text\n"
    "\n"
    "  --vocab N      exact size of the vocabulary, marks included (default 4096)\n"
    "  --out DIR      where the trained files go\n"
    "  --model M      a model directory or a tokenizer.json\n"
    "  --jsonl        encode: one {\"text\": ...} a line, one array of ids a line out;\n"
    "                 decode: one array a line, one {\"text\": ...} a line out\n"
    "  --no-special   encode special tokens in the text as plain text\n"
    "  --skip-special leave control tokens out when decoding\n"
    "  --json         train: a report as JSON\n";

typedef struct tok_args {
    const char *model, *out;
    int32_t vocab;
    bool jsonl, plain, skip, json;
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
    int rc;
    if (!text_read_all(&in)) rc = text_fail("tokenizer", "standard input cannot be read");
    else if (fm_tokenizer_encode(tok, in.data, in.n, flags, &ids, &err))
        rc = text_fail("tokenizer", err.text);
    else {
        text_print_ids(&ids);
        putchar('\n');
        rc = text_finish("tokenizer");
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
    int rc = 1;
    if (!text_read_all(&in)) {
        text_fail("tokenizer", "standard input cannot be read");
    } else if (!(list = json_loadb(in.data, in.n, 0, &je))) {
        snprintf(err.text, sizeof err.text, "standard input: line %d: %.200s", je.line, je.text);
        text_fail("tokenizer", err.text);
    } else if (!text_ids_from_json(list, "standard input", &ids, &err) ||
               fm_tokenizer_decode(tok, ids.data, ids.n, flags, &out, &err)) {
        text_fail("tokenizer", err.text);
    } else {
        fwrite(out.data, 1, out.n, stdout);
        rc = text_finish("tokenizer");
    }
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
    if (!a->out) return text_usage("tokenizer", "train needs --out DIR");
    if (n < 1) return text_usage("tokenizer", "train needs at least one file");
    if (fm_data_train_tokenizer((const char *const *)files, n, a->vocab, a->out, &r, &err))
        return text_fail("tokenizer", err.text);
    printf(a->json
               ? "{\"vocab\": %d, \"merges\": %d, \"placeholders\": %d, \"documents\": %lld, "
                 "\"bytes\": %lld}\n"
               : "vocabulary %d, %d merges, %d placeholders, from %lld documents of %lld bytes\n",
           a->vocab, r.n_merges, r.n_placeholders, (long long)r.n_documents, (long long)r.n_bytes);
    return text_finish("tokenizer");
}

static int code(const tok_args *a, bool encode)
{
    fm_err err = {0};
    row_arg row = {0};
    fm_tokenizer *tok = NULL;
    if (!a->model)
        return text_usage("tokenizer", encode ? "encode needs --model" : "decode needs --model");
    if (fm_tokenizer_open(a->model, &tok, &err)) return text_fail("tokenizer", err.text);
    row.tok = tok;
    row.flags = encode ? (a->plain ? FM_ENCODE_PLAIN : 0) : a->skip ? FM_DECODE_SKIP_CONTROL : 0;
    int rc;
    if (a->jsonl) rc = text_each_line("tokenizer", encode ? encode_row : decode_row, &row);
    else rc = encode ? encode_all(tok, row.flags) : decode_all(tok, row.flags);
    fm_ids_deinit(&row.ids);
    fm_text_deinit(&row.text);
    fm_tokenizer_free(tok);
    return rc;
}

int cmd_tokenizer(int argc, char **argv);

int cmd_tokenizer(int argc, char **argv)
{
    static const struct option options[] = {
        { "vocab", required_argument, 0, 'v' },     { "out", required_argument, 0, 'o' },
        { "model", required_argument, 0, 'm' },     { "jsonl", no_argument, 0, 'l' },
        { "no-special", no_argument, 0, 'p' },      { "skip-special", no_argument, 0, 's' },
        { "json", no_argument, 0, 'j' },            { "help", no_argument, 0, 'h' },
        { 0, 0, 0, 0 },
    };
    tok_args a = { .vocab = 4096 };
    char *end;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'v':
            a.vocab = (int32_t)strtol(optarg, &end, 10);
            if (!*optarg || *end) return text_usage("tokenizer", "--vocab: expected a number");
            break;
        case 'o': a.out = optarg; break;
        case 'm': a.model = optarg; break;
        case 'l': a.jsonl = true; break;
        case 'p': a.plain = true; break;
        case 's': a.skip = true; break;
        case 'j': a.json = true; break;
        case 'h': fputs(help, stdout); return text_finish("tokenizer");
        default: return 2;
        }
    }
    const char *what = optind < argc ? argv[optind++] : "";
    if (!strcmp(what, "train")) return train(&a, argv + optind, argc - optind);
    if (optind < argc) return text_usage("tokenizer", "unexpected argument");
    if (!strcmp(what, "encode")) return code(&a, true);
    if (!strcmp(what, "decode")) return code(&a, false);
    return text_usage("tokenizer", "expected train, encode or decode");
}
