/* fathom data: text files to token shards. */
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/data.h"
#include "text_io.h"

static const char help[] =
    "usage: fathom data --out DIR --tokenizer FILE|DIR [options] FILE[:WEIGHT]...\n"
    "\n"
    "FILE is .txt or .jsonl (key text), plain, .gz or .zst, - for standard input. A document\n"
    "is a .jsonl line, the text between <|endoftext|> lines, or a file; a file longer than 64 KiB\n"
    "without such lines is cut at paragraph ends. WEIGHT is the number of times its documents are\n"
    "seen in one pass, fractions too.\n"
    "\n"
    "  --out DIR        the data directory to make\n"
    "  --tokenizer T    a tokenizer.json or a directory with one\n"
    "  --val FILE       held-out documents; without it about one in N is held out by hash\n"
    "  --val-every N    default 50\n"
    "  --json           report as JSON\n";

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
    if (fm_tokenizer_open(tokenizer, &tok, &err)) return text_fail("data", err.text);
    fm_status st = fm_data_prepare(tok, o, out, &r, &err);
    fm_tokenizer_free(tok);
    if (st) return text_fail("data", err.text);
    if (json) printf("{");
    print_count("train", &r.train, json);
    if (json) printf(", ");
    print_count("val", &r.val, json);
    if (json) printf("}\n");
    return text_finish("data");
}

int cmd_data(int argc, char **argv);

int cmd_data(int argc, char **argv)
{
    static const struct option options[] = {
        { "out", required_argument, 0, 'o' },       { "tokenizer", required_argument, 0, 't' },
        { "val", required_argument, 0, 'v' },       { "val-every", required_argument, 0, 'e' },
        { "json", no_argument, 0, 'j' },            { "help", no_argument, 0, 'h' },
        { 0, 0, 0, 0 },
    };
    const char *out = NULL, *tokenizer = NULL;
    fm_data_options o = {0};
    bool json = false;
    char *end;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'o': out = optarg; break;
        case 't': tokenizer = optarg; break;
        case 'v': o.val_source = optarg; break;
        case 'e':
            o.val_every = (int)strtol(optarg, &end, 10);
            if (*end || o.val_every < 2)
                return text_usage("data", "--val-every: expected a number from 2");
            break;
        case 'j': json = true; break;
        case 'h': fputs(help, stdout); return text_finish("data");
        default: return 2;
        }
    }
    if (!out) return text_usage("data", "--out is missing");
    if (!tokenizer) return text_usage("data", "--tokenizer is missing");
    if (optind == argc) return text_usage("data", "no source files");
    o.source = (const char *const *)(argv + optind);
    o.n_sources = argc - optind;
    return run(tokenizer, out, &o, json);
}
