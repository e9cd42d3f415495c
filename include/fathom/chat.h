/* Chat formats: messages to the text a model was trained on. DeepSeek-V3, R1 and V3.1.
 *
 * The published templates are rendered exactly, their quirks kept (docs/formats.md): V3 and R1
 * close a list of tool calls only after the second and each later call; R1 keeps only the last
 * system message and cuts earlier answers after the last </think>, V3.1 after the first, V3 not at
 * all. */
#ifndef FATHOM_CHAT_H
#define FATHOM_CHAT_H

#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum fm_chat_kind { FM_CHAT_V3, FM_CHAT_R1, FM_CHAT_V31 } fm_chat_kind;

typedef struct fm_chat_format {
    fm_chat_kind kind;
    bool join_system; /* all system messages, not only the last        */
    bool cut_think;   /* V3 family: drop an answer's text up to </think> */
    bool open_think;  /* V3 family: the generation prompt opens <think>  */
} fm_chat_format;

/* By name: "v3", "r1", "v3.1". UNSUPPORTED names the known ones. */
fm_status fm_chat_format_get(const char *name, fm_chat_format *out, fm_err *err);

/* By the features of a model's chat template. UNSUPPORTED: it is none of the three, or NULL. */
fm_status fm_chat_format_read(const char *chat_template, fm_chat_format *out, fm_err *err);

typedef enum fm_role { FM_ROLE_SYSTEM, FM_ROLE_USER, FM_ROLE_ASSISTANT, FM_ROLE_TOOL } fm_role;

typedef struct fm_str { /* borrowed bytes; data NULL: null */
    const char *data;
    size_t n;
} fm_str;

typedef struct fm_chat_call {
    fm_str type; /* "function"; V3 and R1 print it */
    fm_str name;
    fm_str arguments; /* JSON text */
} fm_chat_call;

typedef struct fm_chat_message {
    fm_role role;
    fm_str content;
    const fm_chat_call *calls; /* [n_calls]; has_calls with n_calls 0 is an empty list */
    size_t n_calls;
    bool has_calls;
    bool prefix; /* V3.1: the answer is begun, its thinking included */
} fm_chat_message;

typedef struct fm_chat_options {
    bool add_generation_prompt;
    bool thinking; /* V3.1 only; the others have one way */
} fm_chat_options;

/* What the assistant itself says in the rendered text, its end marks included: for loss masks.
 * Start from {0}; free with fm_chat_spans_deinit. */
typedef struct fm_chat_spans {
    size_t (*span)[2]; /* [n] begin, end: bytes of the text, ascending */
    size_t n, cap;
} fm_chat_spans;
void fm_chat_spans_deinit(fm_chat_spans *spans);

/* Appends the rendering of n messages to out; bos is put first (NULL: none). spans may be NULL.
 * FORMAT names the message and what it lacks; out is then as before. Thread-safe. */
fm_status fm_chat_render(const fm_chat_format *format, const char *bos,
                         const fm_chat_message *message, size_t n, const fm_chat_options *options,
                         fm_text *out, fm_chat_spans *spans, fm_err *err);

/* The same from n bytes of JSON: {"messages": [{"role", "content", "tool_calls", "prefix"}, ..],
 * "add_generation_prompt": bool, "thinking" or "enable_thinking": bool}; other keys are passed
 * over. `name` stands for the source in messages ("chat.jsonl: line 3"). */
fm_status fm_chat_render_json(const fm_chat_format *format, const char *bos, const char *json,
                              size_t n, const char *name, fm_text *out, fm_chat_spans *spans,
                              fm_err *err);

#ifdef __cplusplus
}
#endif
#endif
