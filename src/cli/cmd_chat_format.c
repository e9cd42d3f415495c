/* fathom chat-format: messages to the text and ids a model is given. */
#include <stdio.h>
#include <string.h>

#include "fathom/chat.h"
#include "text_io.h"

#define NAME "chat-format"

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
    int rc = text_open_tokenizer(NAME, model, &tok);
    if (rc != CLI_GO_ON) return rc;
    a.tok = tok;
    if (format && fm_chat_format_get(format, &a.format, &err)) {
        rc = cli_fail(NAME, "%s", err.text);
    } else if (!format &&
               fm_chat_format_read(fm_tokenizer_chat_template(tok), &a.format, &err)) {
        rc = cli_fail(NAME, "%s; name one with --format", err.text);
    } else {
        size_t n;
        const char *s = fm_tokenizer_token_bytes(tok, fm_tokenizer_bos(tok), &n);
        if (s && n < sizeof bos) memcpy(bos, s, n);
        a.bos = bos;
        rc = text_each_line(NAME, chat_row, &a);
    }
    fm_text_deinit(&a.text);
    fm_ids_deinit(&a.ids);
    fm_tokenizer_free(tok);
    return rc;
}

int cmd_chat_format(int argc, char **argv)
{
    cli_common c = {0};
    const char *format = NULL;
    bool jsonl = false;
    const cli_option options[] = {
        {"model", CLI_TEXT, &c.model, "M", "a model directory or a tokenizer.json"},
        {"jsonl", CLI_FLAG, &jsonl, NULL, "one request a line (the only form)"},
        {"format", CLI_TEXT, &format, "NAME",
         "v3, r1 or v3.1; otherwise told by the model's chat template"},
    };
    const cli_command command = {
        .name = NAME,
        .usage = "--model M --jsonl [--format NAME] < requests",
        .about = "Reads {\"messages\": [...], \"add_generation_prompt\": bool, \"thinking\": bool} "
                 "a line and prints {\"text\": ..., \"ids\": [...]} a line.",
        .options = options,
        .n_options = CLI_COUNT(options),
    };
    int rc = cli_parse(&command, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!jsonl) return cli_wrong(NAME, "--jsonl is missing");
    return run(c.model, format);
}
