/* fathom chat: a conversation in the terminal. What was said is kept as messages; before an answer
 * they are rendered and encoded, and the session keeps the tokens both have in common, so only what
 * is new is computed. A model without a chat template continues the text as it stands. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <jansson.h>

#include "fathom/chat.h"
#include "line_edit.h"
#include "speak.h"

typedef struct message {
    fm_role role;
    char *text;
    size_t n;
} message;

typedef struct chat {
    speak s;
    const char *system, *format_name;
    bool plain, thinking;
    fm_chat_format format;
    char bos[256];
    message *said;
    size_t n_said, cap_said;
    char *answer;            /* what is being said */
    size_t n_answer, cap_answer;
    bool color;
} chat;

static const char commands_help[] =
    "  /new              starts over\n"
    "  /save FILE        writes the conversation as JSON\n"
    "  /load FILE        reads one back\n"
    "  /set              lists the settings; /set KEY VALUE changes one\n"
    "  /help  /quit      (Ctrl-D quits too; Ctrl-C stops an answer)\n";

static const char *const role_names[] = {"system", "user", "assistant", "tool"};

static void note(const chat *c, const char *text)
{
    printf("%s%s%s\n", c->color ? "\033[2m" : "", text, c->color ? "\033[0m" : "");
}

static bool say(chat *c, fm_role role, const char *text, size_t n)
{
    if (c->n_said == c->cap_said) {
        size_t cap = c->cap_said ? 2 * c->cap_said : 16;
        message *p = realloc(c->said, cap * sizeof *p);
        if (!p) return false;
        c->said = p;
        c->cap_said = cap;
    }
    char *copy = malloc(n + 1);
    if (!copy) return false;
    memcpy(copy, text, n);
    copy[n] = 0;
    c->said[c->n_said++] = (message){role, copy, n};
    return true;
}

static void forget(chat *c, size_t keep)
{
    while (c->n_said > keep) free(c->said[--c->n_said].text);
}

static bool start_over(chat *c)
{
    forget(c, 0);
    fm_session_truncate(c->s.session, 0, 0, NULL);
    return !c->system || say(c, FM_ROLE_SYSTEM, c->system, strlen(c->system));
}

static bool on_piece(void *arg, const fm_piece *p)
{
    chat *c = arg;
    if (p->n) {
        if (c->n_answer + p->n > c->cap_answer) {
            size_t cap = 2 * (c->n_answer + p->n);
            char *grown = realloc(c->answer, cap);
            if (!grown) return false;
            c->answer = grown;
            c->cap_answer = cap;
        }
        memcpy(c->answer + c->n_answer, p->text, p->n);
        c->n_answer += p->n;
        speak_print(p->text, p->n);
    }
    return !speak_interrupted;
}

/* The conversation as text, ready for an answer. */
static fm_status render(const chat *c, fm_text *out, fm_err *err)
{
    fm_chat_message *m = calloc(c->n_said + 1, sizeof *m);
    if (!m) {
        snprintf(err->text, sizeof err->text, "out of memory");
        return FM_E_NOMEM;
    }
    for (size_t i = 0; i < c->n_said; i++) {
        m[i].role = c->said[i].role;
        m[i].content = (fm_str){c->said[i].text, c->said[i].n};
    }
    fm_chat_options o = {.add_generation_prompt = true, .thinking = c->thinking};
    fm_status st = fm_chat_render(&c->format, c->bos, m, c->n_said, &o, out, NULL, err);
    free(m);
    return st;
}

/* Brings the session to the rendered conversation, keeping the tokens they share. */
static fm_status push_conversation(chat *c, fm_err *err)
{
    fm_text text = {0};
    fm_ids ids = {0};
    size_t n_old = 0, same = 0;
    fm_status st = render(c, &text, err);
    if (!st) st = fm_tokenizer_encode(c->s.tok, text.data, text.n, 0, &ids, err);
    if (!st) {
        const int32_t *old = fm_session_tokens(c->s.session, 0, &n_old);
        while (same < n_old && same < ids.n && old[same] == ids.data[same]) same++;
        st = fm_session_truncate(c->s.session, 0, same, err);
    }
    if (!st) st = fm_session_push_ids(c->s.session, 0, ids.data + same, ids.n - same, err);
    fm_text_deinit(&text);
    fm_ids_deinit(&ids);
    return st;
}

/* Without a chat format the line itself goes on where the text ended. */
static fm_status push_plain(chat *c, const char *line, fm_err *err)
{
    size_t n = 0;
    fm_session_tokens(c->s.session, 0, &n);
    fm_status st = n ? fm_session_push_text(c->s.session, 0, "\n", 1, 0, err) : FM_OK;
    if (!st)
        st = fm_session_push_text(c->s.session, 0, line, strlen(line),
                                  FM_ENCODE_BOS | FM_ENCODE_PLAIN, err);
    return st;
}

static fm_status generate(chat *c, fm_generated *done, fm_err *err)
{
    size_t n = 0;
    fm_generate_opts ask = speak_ask(&c->s);
    fm_session_tokens(c->s.session, 0, &n);
    int64_t left = fm_session_context(c->s.session) - (int64_t)n;
    if (ask.tokens_max > left) ask.tokens_max = left > 0 ? left : 0;
    ask.fn = on_piece;
    ask.arg = c;
    c->n_answer = 0;
    speak_interrupted = 0;
    speak_catch_interrupt(true);
    fm_session_stats_reset(c->s.session);
    fm_status st = fm_session_generate(c->s.session, 0, &ask, done, err);
    speak_catch_interrupt(false);
    return st;
}

static void answer(chat *c, const char *line)
{
    char summary[200];
    fm_err err = {0};
    fm_generated done = {0};
    size_t before = c->n_said;
    if (!say(c, FM_ROLE_USER, line, strlen(line))) {
        note(c, "out of memory");
        return;
    }
    fm_status st = c->plain ? push_plain(c, line, &err) : push_conversation(c, &err);
    if (!st) st = generate(c, &done, &err);
    if (st) {
        forget(c, before);
        note(c, err.text);
        if (st == FM_E_RANGE) note(c, "/new starts over");
        return;
    }
    printf("\n");
    speak_summary(&c->s, done.n_tokens, summary, sizeof summary);
    note(c, summary);
    if (done.stop == FM_STOP_CONTEXT) note(c, "the context is full: /new starts over");
    if (!say(c, FM_ROLE_ASSISTANT, c->answer ? c->answer : "", c->n_answer)) forget(c, before);
}

static void save(const chat *c, const char *path)
{
    char tmp[4096], text[4200];
    json_t *list = json_array(), *root = json_object();
    for (size_t i = 0; i < c->n_said; i++) {
        json_t *m = json_object();
        json_object_set_new(m, "role", json_string(role_names[c->said[i].role]));
        json_object_set_new(m, "content", json_stringn(c->said[i].text, c->said[i].n));
        json_array_append_new(list, m);
    }
    json_object_set_new(root, "messages", list);
    snprintf(tmp, sizeof tmp, "%s.tmp", path);
    bool ok = json_dump_file(root, tmp, JSON_INDENT(1)) == 0 && rename(tmp, path) == 0;
    if (!ok) remove(tmp);
    json_decref(root);
    snprintf(text, sizeof text, ok ? "saved in %s" : "%s: cannot be written", path);
    note(c, text);
}

static int role_of(const json_t *m)
{
    const char *name = json_string_value(json_object_get(m, "role"));
    for (int i = 0; name && i < 3; i++)
        if (!strcmp(name, role_names[i])) return i;
    return -1;
}

static void load(chat *c, const char *path)
{
    char text[4500];
    json_error_t je;
    json_t *root = json_load_file(path, 0, &je);
    const json_t *list = json_object_get(root, "messages");
    snprintf(text, sizeof text, "%s: %s", path,
             root ? "expected {\"messages\": [{\"role\", \"content\"}, ..]}" : je.text);
    bool ok = json_is_array(list);
    for (size_t i = 0; ok && i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i);
        ok = role_of(m) >= 0 && json_is_string(json_object_get(m, "content"));
    }
    if (ok) {
        forget(c, 0);
        fm_session_truncate(c->s.session, 0, 0, NULL);
        for (size_t i = 0; ok && i < json_array_size(list); i++) {
            const json_t *m = json_array_get(list, i), *t = json_object_get(m, "content");
            ok = say(c, (fm_role)role_of(m), json_string_value(t), json_string_length(t));
        }
        snprintf(text, sizeof text, "%zu messages from %s", c->n_said, path);
    }
    if (ok && c->plain) /* the text so far, as it was */
        for (size_t i = 0; i < c->n_said; i++)
            if (fm_session_push_text(c->s.session, 0, c->said[i].text, c->said[i].n,
                                     FM_ENCODE_BOS | FM_ENCODE_PLAIN, NULL))
                snprintf(text, sizeof text, "%s: longer than the context", path);
    json_decref(root);
    note(c, text);
}

/* A line that starts with a slash; false to quit. */
static bool command(chat *c, const char *line)
{
    char name[32] = "", arg[4000] = "", key[64] = "", value[64] = "", text[256];
    sscanf(line, "/%31s %3999[^\n]", name, arg);
    if (!strcmp(name, "quit") || !strcmp(name, "exit")) return false;
    if (!strcmp(name, "new")) {
        if (!start_over(c)) note(c, "out of memory");
    } else if (!strcmp(name, "save") && *arg) {
        save(c, arg);
    } else if (!strcmp(name, "load") && *arg) {
        load(c, arg);
    } else if (!strcmp(name, "set") && !*arg) {
        speak_show_settings(&c->s);
    } else if (!strcmp(name, "set") && sscanf(arg, "%63s %63s", key, value) == 2) {
        if (!speak_set(&c->s, key, value, text, sizeof text)) note(c, text);
    } else if (!strcmp(name, "help")) {
        fputs(commands_help, stdout);
    } else {
        note(c, "unknown command; these are known:");
        fputs(commands_help, stdout);
    }
    return true;
}

static int choose_format(chat *c)
{
    fm_err err = {0};
    size_t n = 0;
    if (!c->s.tok)
        return cli_fail("chat", "%s: no tokenizer.json: chat needs text", c->s.common.model);
    const char *bos = fm_tokenizer_token_bytes(c->s.tok, fm_tokenizer_bos(c->s.tok), &n);
    if (bos && n < sizeof c->bos) memcpy(c->bos, bos, n);
    if (c->plain) return CLI_GO_ON;
    if (c->format_name) {
        if (!fm_chat_format_get(c->format_name, &c->format, &err)) return CLI_GO_ON;
        return cli_wrong("chat", "--format: %s", err.text);
    }
    if (fm_chat_format_read(fm_tokenizer_chat_template(c->s.tok), &c->format, &err)) {
        c->plain = true;
        note(c, "no chat template that is known: each line goes on with the text as it stands");
    }
    return CLI_GO_ON;
}

static int run(chat *c)
{
    fm_err err = {0};
    int rc = speak_open(&c->s);
    if (rc == CLI_GO_ON) rc = choose_format(c);
    if (rc != CLI_GO_ON) return rc;
    if (speak_open_session(&c->s, 1, 0, &err)) return cli_fail("chat", "%s", err.text);
    line_edit *in = line_edit_new("fathom");
    if (!in || !start_over(c)) {
        line_edit_free(in);
        return cli_fail("chat", "out of memory");
    }
    if (c->color) note(c, "/help lists the commands");
    for (bool on = true; on;) {
        bool interrupted;
        const char *line = line_edit_get(in, &interrupted);
        if (!line) break;
        if (interrupted || !line[strspn(line, " \t")]) continue;
        if (line[0] == '/')
            on = command(c, line);
        else
            answer(c, line);
    }
    line_edit_free(in);
    return CLI_DONE;
}

int cmd_chat(int argc, char **argv)
{
    static chat c;
    static const cli_option options[] = {
        SPEAK_OPTIONS(&c.s),
        {"system", CLI_TEXT, &c.system, "TEXT", "a system message to begin with"},
        {"thinking", CLI_FLAG, &c.thinking, NULL, "asks for reasoning (V3.1's format)"},
        {"format", CLI_TEXT, &c.format_name, "NAME", "v3, r1 or v3.1 instead of the model's own"},
        {"plain", CLI_FLAG, &c.plain, NULL, "no chat format: each line continues the text"},
    };
    static const cli_command about = {
        "chat", "--model M [options]",
        "Talks to a model: an answer per line. Commands: /new, /save FILE, /load FILE, /set KEY "
        "VALUE, /help, /quit; Ctrl-C stops an answer.",
        options, CLI_COUNT(options), 0};
    speak_init(&c.s, "chat");
    int rc = cli_parse(&about, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    c.color = cli_is_terminal() && isatty(STDOUT_FILENO);
    rc = run(&c);
    forget(&c, 0);
    free(c.said);
    free(c.answer);
    speak_close(&c.s);
    return rc;
}
