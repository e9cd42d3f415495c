/* Rendering messages in the chat formats of DeepSeek-V3, R1 and V3.1.
 *
 * Each function follows the published template statement by statement, its flags under its names,
 * so that the two can be laid side by side. V3 and R1 are one template with three switches. */
#include "fathom/chat.h"

#include <string.h>

#include "text/buf.h"

#define BAR "\xef\xbd\x9c"
#define SEP "\xe2\x96\x81"
#define MARK_USER "<" BAR "User" BAR ">"
#define MARK_ASSISTANT "<" BAR "Assistant" BAR ">"
#define MARK_EOS "<" BAR "end" SEP "of" SEP "sentence" BAR ">"
#define CALLS_BEGIN "<" BAR "tool" SEP "calls" SEP "begin" BAR ">"
#define CALLS_END "<" BAR "tool" SEP "calls" SEP "end" BAR ">"
#define CALL_BEGIN "<" BAR "tool" SEP "call" SEP "begin" BAR ">"
#define CALL_END "<" BAR "tool" SEP "call" SEP "end" BAR ">"
#define OUTPUTS_BEGIN "<" BAR "tool" SEP "outputs" SEP "begin" BAR ">"
#define OUTPUTS_END "<" BAR "tool" SEP "outputs" SEP "end" BAR ">"
#define OUTPUT_BEGIN "<" BAR "tool" SEP "output" SEP "begin" BAR ">"
#define OUTPUT_END "<" BAR "tool" SEP "output" SEP "end" BAR ">"
#define CALL_SEP "<" BAR "tool" SEP "sep" BAR ">"
#define THINK_END "</think>"

typedef struct renderer {
    const fm_chat_format *format;
    const fm_chat_options *options;
    fm_text *out;
    fm_chat_spans *spans;
    fm_err *err;
    fm_status st; /* first failure; nothing is put after it */
    bool is_first, is_tool, is_output_first, is_last_user;
} renderer;

fm_status fm_chat_format_get(const char *name, fm_chat_format *out, fm_err *err)
{
    if (!strcmp(name, "v3")) *out = (fm_chat_format){ FM_CHAT_V3, true, false, false };
    else if (!strcmp(name, "r1")) *out = (fm_chat_format){ FM_CHAT_R1, false, true, true };
    else if (!strcmp(name, "v3.1")) *out = (fm_chat_format){ FM_CHAT_V31, true, true, true };
    else
        return FM_FAIL(err, FM_E_UNSUPPORTED, "chat format \"%.40s\": expected v3, r1 or v3.1",
                       name);
    return FM_OK;
}

fm_status fm_chat_format_read(const char *t, fm_chat_format *out, fm_err *err)
{
    if (!t) return FM_FAIL(err, FM_E_UNSUPPORTED, "the tokenizer has no chat template");
    if (!strstr(t, MARK_USER) || !strstr(t, MARK_ASSISTANT) || !strstr(t, MARK_EOS))
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "the chat template is not DeepSeek-V3's, R1's or V3.1's: it lacks %s",
                       !strstr(t, MARK_USER)        ? MARK_USER
                       : !strstr(t, MARK_ASSISTANT) ? MARK_ASSISTANT
                                                    : MARK_EOS);
    if (strstr(t, "split('</think>', 1)") || strstr(t, "is_last_user"))
        return fm_chat_format_get("v3.1", out, err);
    bool cut = strstr(t, "split('</think>')[-1]") != NULL;
    /* The newline may be written as such or escaped. */
    bool open = strstr(t, MARK_ASSISTANT "<think>\\n") || strstr(t, MARK_ASSISTANT "<think>\n");
    *out = (fm_chat_format){ cut || open ? FM_CHAT_R1 : FM_CHAT_V3,
                             strstr(t, "is_first_sp") != NULL, cut, open };
    return FM_OK;
}

void fm_chat_spans_deinit(fm_chat_spans *spans)
{
    fmi_free(spans->span);
    *spans = (fm_chat_spans){0};
}

static void puts_(renderer *r, const char *s)
{
    if (!r->st) r->st = fmi_text_puts(r->out, s, r->err);
}

static void put(renderer *r, fm_str s)
{
    if (!r->st) r->st = fm_text_push(r->out, s.data, s.n, r->err);
}

/* From `begin` to here the assistant speaks. */
static void mark(renderer *r, size_t begin)
{
    fm_chat_spans *s = r->spans;
    if (r->st || !s || begin == r->out->n) return;
    if (s->n && s->span[s->n - 1][1] == begin) { /* goes on */
        s->span[s->n - 1][1] = r->out->n;
        return;
    }
    void *p = s->span;
    r->st = fmi_grow(&p, &s->cap, s->n + 1, sizeof *s->span, r->err);
    s->span = p;
    if (r->st) return;
    s->span[s->n][0] = begin;
    s->span[s->n++][1] = r->out->n;
}

/* What follows </think>: its first occurrence or its last; the whole where there is none. */
static fm_str after_think(fm_str s, bool last)
{
    size_t k = strlen(THINK_END);
    const char *found = NULL, *from = s.data, *end = s.data + s.n;
    for (const char *p; (p = memmem(from, (size_t)(end - from), THINK_END, k)); from = p + k) {
        found = p;
        if (!last) break;
    }
    return found ? (fm_str){ found + k, (size_t)(end - found) - k } : s;
}

static void put_system(renderer *r, const fm_chat_message *m, size_t n)
{
    bool some = false;
    size_t begin = r->out->n;
    for (size_t i = 0; i < n; i++) {
        if (m[i].role != FM_ROLE_SYSTEM) continue;
        if (!r->format->join_system && !r->st) r->out->n = begin;
        else if (some) puts_(r, "\n\n");
        put(r, m[i].content);
        some = true;
    }
}

static void v3_calls(renderer *r, const fm_chat_message *m)
{
    r->is_tool = false;
    for (size_t i = 0; i < m->n_calls; i++) {
        const fm_chat_call *c = &m->calls[i];
        bool first = !r->is_first;
        if (first) puts_(r, MARK_ASSISTANT);
        size_t begin = r->out->n;
        puts_(r, first ? CALLS_BEGIN CALL_BEGIN : "\n" CALL_BEGIN);
        put(r, c->type);
        puts_(r, CALL_SEP);
        put(r, c->name);
        puts_(r, "\n```json\n");
        put(r, c->arguments);
        puts_(r, "\n```" CALL_END);
        if (first) r->is_first = true; /* never reset, as published */
        else puts_(r, CALLS_END MARK_EOS);
        mark(r, begin);
    }
}

static void v3_message(renderer *r, const fm_chat_message *m)
{
    if (m->role == FM_ROLE_USER) {
        r->is_tool = false;
        puts_(r, MARK_USER);
        put(r, m->content);
    } else if (m->role == FM_ROLE_ASSISTANT && !m->content.data) {
        v3_calls(r, m);
    } else if (m->role == FM_ROLE_ASSISTANT) {
        puts_(r, r->is_tool ? OUTPUTS_END : MARK_ASSISTANT);
        size_t begin = r->out->n;
        put(r, r->format->cut_think && !r->is_tool ? after_think(m->content, true) : m->content);
        puts_(r, MARK_EOS);
        mark(r, begin);
        r->is_tool = false;
    } else if (m->role == FM_ROLE_TOOL) {
        r->is_tool = true;
        puts_(r, r->is_output_first ? OUTPUTS_BEGIN OUTPUT_BEGIN : "\n" OUTPUT_BEGIN);
        put(r, m->content);
        puts_(r, OUTPUT_END);
        r->is_output_first = false;
    }
}

static void v31_assistant(renderer *r, const fm_chat_message *m)
{
    bool open = m->prefix && r->options->thinking && !m->has_calls;
    if (r->is_last_user) puts_(r, open ? MARK_ASSISTANT "<think>" : MARK_ASSISTANT THINK_END);
    r->is_last_user = false;
    size_t begin = r->out->n;
    if (m->has_calls) {
        for (size_t i = 0; i < m->n_calls; i++) {
            if (!i && m->content.data) put(r, m->content);
            puts_(r, i ? CALL_BEGIN : CALLS_BEGIN CALL_BEGIN);
            put(r, m->calls[i].name);
            puts_(r, CALL_SEP);
            put(r, m->calls[i].arguments);
            puts_(r, CALL_END);
        }
        puts_(r, CALLS_END);
    } else {
        put(r, r->is_tool ? m->content : after_think(m->content, false));
    }
    r->is_tool = false;
    puts_(r, MARK_EOS);
    mark(r, begin);
}

static void v31_message(renderer *r, const fm_chat_message *m)
{
    if (m->role == FM_ROLE_USER) {
        r->is_tool = false;
        r->is_last_user = true;
        puts_(r, MARK_USER);
        put(r, m->content);
    } else if (m->role == FM_ROLE_ASSISTANT) {
        v31_assistant(r, m);
    } else if (m->role == FM_ROLE_TOOL) {
        r->is_last_user = false;
        r->is_tool = true;
        puts_(r, OUTPUT_BEGIN);
        put(r, m->content);
        puts_(r, OUTPUT_END);
    }
}

static void put_end(renderer *r)
{
    bool ask = r->options->add_generation_prompt && !r->is_tool;
    if (r->format->kind == FM_CHAT_V31) {
        if (ask && r->is_last_user)
            puts_(r, r->options->thinking ? MARK_ASSISTANT "<think>" : MARK_ASSISTANT THINK_END);
        return;
    }
    if (r->is_tool) puts_(r, OUTPUTS_END);
    if (ask) puts_(r, r->format->open_think ? MARK_ASSISTANT "<think>\n" : MARK_ASSISTANT);
}

/* What a template would stumble over: null where a string is added. */
static fm_status check_message(const fm_chat_format *f, const fm_chat_message *m, size_t i,
                               fm_err *err)
{
    if (!m->content.data &&
        (m->role != FM_ROLE_ASSISTANT || (f->kind == FM_CHAT_V31 && !m->has_calls)))
        return FM_FAIL(err, FM_E_FORMAT, "messages[%zu].content is missing: expected a string", i);
    for (size_t k = 0; k < m->n_calls; k++) {
        const fm_chat_call *c = &m->calls[k];
        const char *what = !c->name.data ? "name" : !c->arguments.data ? "arguments" : NULL;
        if (f->kind != FM_CHAT_V31 && m->content.data) continue; /* not printed */
        if (what)
            return FM_FAIL(err, FM_E_FORMAT,
                           "messages[%zu].tool_calls[%zu].function.%s is missing: expected a "
                           "string",
                           i, k, what);
        if (f->kind != FM_CHAT_V31 && !c->type.data)
            return FM_FAIL(err, FM_E_FORMAT,
                           "messages[%zu].tool_calls[%zu].type is missing: expected a string", i,
                           k);
    }
    return FM_OK;
}

fm_status fm_chat_render(const fm_chat_format *format, const char *bos,
                         const fm_chat_message *message, size_t n, const fm_chat_options *options,
                         fm_text *out, fm_chat_spans *spans, fm_err *err)
{
    for (size_t i = 0; i < n; i++) {
        fm_status st = check_message(format, &message[i], i, err);
        if (st) return st;
    }
    size_t before = out->n, spans_before = spans ? spans->n : 0;
    renderer r = { .format = format, .options = options, .out = out, .spans = spans, .err = err,
                   .is_output_first = true };
    puts_(&r, bos ? bos : "");
    put_system(&r, message, n);
    for (size_t i = 0; i < n; i++)
        if (format->kind == FM_CHAT_V31) v31_message(&r, &message[i]);
        else v3_message(&r, &message[i]);
    put_end(&r);
    if (r.st) {
        out->n = before;
        if (spans) spans->n = spans_before;
    } else {
        out->data[out->n] = 0; /* put_system may have stepped back */
    }
    return r.st;
}
