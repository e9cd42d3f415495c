/* fathom data: text files to token shards. */
#include <stdio.h>

#include "fathom/data.h"
#include "text_io.h"

#define NAME "data"

static void print_count(const char *name, const fm_data_count *c, bool json)
{
    printf(json ? "\"%s\": {\"documents\": %lld, \"tokens\": %lld, \"bytes\": %lld}"
                : "%-6s %lld documents, %lld tokens, %lld bytes\n",
           name, (long long)c->n_documents, (long long)c->n_tokens, (long long)c->n_bytes);
}

static int run(const char *tokenizer, const char *out, const fm_data_options *o, bool json)
{
    fm_err err = {0};
    fm_tokenizer *tok = NULL;
    fm_data_report r;
    int rc = text_open_tokenizer(NAME, tokenizer, &tok);
    if (rc != CLI_GO_ON) return rc;
    fm_status st = fm_data_prepare(tok, o, out, &r, &err);
    fm_tokenizer_free(tok);
    if (st) return cli_fail(NAME, "%s", err.text);
    if (json) printf("{");
    print_count("train", &r.train, json);
    if (json) printf(", ");
    print_count("val", &r.val, json);
    if (json) printf("}\n");
    return CLI_DONE;
}

int cmd_data(int argc, char **argv)
{
    cli_common c = {0};
    const char *tokenizer = NULL;
    int64_t val_every = 50;
    fm_data_options o = {0};
    const cli_option options[] = {
        CLI_OPT_OUT(&c),
        {"tokenizer", CLI_TEXT, &tokenizer, "FILE|DIR", "a tokenizer.json, or where one is"},
        {"val", CLI_TEXT, &o.val_source, "FILE",
         "held-out documents; without it some are held out by hash"},
        {"val-every", CLI_INT, &val_every, "N", "about one document in N (default 50)"},
        CLI_OPT_JSON(&c),
    };
    const cli_command command = {
        .name = NAME,
        .usage = "--out DIR --tokenizer FILE|DIR [options] FILE[:WEIGHT]...",
        .about = "FILE is .txt or .jsonl (key text), plain, .gz or .zst, or - for standard input. A "
                 "document is a .jsonl line, the text between <|endoftext|> lines, or a file; a "
                 "file longer than 64 KiB without such lines is cut at paragraph ends. WEIGHT is "
                 "the number of times its documents are seen in one pass, fractions too.",
        .options = options,
        .n_options = CLI_COUNT(options),
        .args_max = 100000,
    };
    char **args;
    int n = 0, rc = cli_parse(&command, argc, argv, &args, &n);
    if (rc != CLI_GO_ON) return rc;
    if (!c.out) return cli_wrong(NAME, "--out is missing");
    if (!tokenizer) return cli_wrong(NAME, "--tokenizer is missing");
    if (!n) return cli_wrong(NAME, "no source files");
    if (val_every < 2 || val_every > INT32_MAX)
        return cli_wrong(NAME, "--val-every: expected 2 or more, found %lld", (long long)val_every);
    o.source = (const char *const *)args;
    o.n_sources = n;
    o.val_every = (int)val_every;
    return run(tokenizer, c.out, &o, c.json);
}
