/* fathom chat-format: messages to the text and ids a model is given. */
#include <getopt.h>
#include <string.h>

#include "fathom/chat.h"
#include "text_io.h"

static const char help[] =
    "usage: fathom chat-format --model DIR|FILE --jsonl [--format NAME] < requests\n"
    "\n"
    "Reads {\"messages\": [...], \"add_generation_prompt\": bool, \"thinking\": bool} a line\n"
    "and prints {\"text\": ..., \"ids\": [...]} a line.\n"
    "\n"
    "  --model M      a model directory or a tokenizer.json\n"
    "  --format NAME  v3, r1 or v3.1; otherwise told by the model's chat template\n"
    "  --jsonl        one request a line (the only form)\n";

typedef struct chat_arg {
    const fm_tokenizer *tok;
    fm_chat_format format;
    const char *bos;
    fm_text text;
    fm_ids ids;
} chat_arg;

static bool chat_row(void *arg, const char *line, size_t n, const json_t *row, const char *where,
                     fm_err *err)
{
    (void)row;
    chat_arg *a = arg;
    a->text.n = a->ids.n = 0;
    if (fm_chat_render_json(&a->format, a->bos, line, n, where, &a->text, NULL, err) ||
        fm_tokenizer_encode(a->tok, a->text.data, a->text.n, 0, &a->ids, err))
        return false;
    printf("{\"text\": ");
    text_print_string(a->text.data, a->text.n);
    printf(", \"ids\": ");
    text_print_ids(&a->ids);
    printf("}\n");
    return true;
}

static int run(const char *model, const char *format)
{
    fm_err err = {0};
    fm_tokenizer *tok = NULL;
    chat_arg a = {0};
    char bos[256] = "";
    if (fm_tokenizer_open(model, &tok, &err)) return text_fail("chat-format", err.text);
    a.tok = tok;
    fm_status st = format ? fm_chat_format_get(format, &a.format, &err)
                          : fm_chat_format_read(fm_tokenizer_chat_template(tok), &a.format, &err);
    int rc;
    if (st) {
        char text[FM_ERR_TEXT_MAX + 64];
        snprintf(text, sizeof text, format ? "%s" : "%s; name one with --format", err.text);
        rc = text_fail("chat-format", text);
    } else {
        size_t n;
        const char *s = fm_tokenizer_token_bytes(tok, fm_tokenizer_bos(tok), &n);
        if (s && n < sizeof bos) memcpy(bos, s, n);
        a.bos = bos;
        rc = text_each_line("chat-format", chat_row, &a);
    }
    fm_text_deinit(&a.text);
    fm_ids_deinit(&a.ids);
    fm_tokenizer_free(tok);
    return rc;
}

int cmd_chat_format(int argc, char **argv);

int cmd_chat_format(int argc, char **argv)
{
    static const struct option options[] = {
        { "model", required_argument, 0, 'm' }, { "format", required_argument, 0, 'f' },
        { "jsonl", no_argument, 0, 'l' },       { "help", no_argument, 0, 'h' },
        { 0, 0, 0, 0 },
    };
    const char *model = NULL, *format = NULL;
    bool jsonl = false;
    optind = 1;
    for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
        switch (c) {
        case 'm': model = optarg; break;
        case 'f': format = optarg; break;
        case 'l': jsonl = true; break;
        case 'h': fputs(help, stdout); return text_finish("chat-format");
        default: return 2;
        }
    }
    if (!model) return text_usage("chat-format", "--model is missing");
    if (!jsonl) return text_usage("chat-format", "--jsonl is missing");
    if (optind < argc) return text_usage("chat-format", "unexpected argument");
    return run(model, format);
}
