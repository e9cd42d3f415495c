/* What the commands share: the table of options with parsing and --help made from it, opening
 * contexts and models as the user named them, and printing: messages, live lines, numbers.
 *
 * A command is one file, cmd_<name>.c, with `int cmd_<name>(int argc, char **argv)`; argv[0] is the
 * command's name; it returns the exit code: 0 done, 1 failed, 2 wrong usage. main.c lists it. */
#ifndef FM_CLI_H
#define FM_CLI_H

#include <stdbool.h>
#include <stdint.h>

#include "fathom/checkpoint.h"
#include "fathom/model.h"

enum { CLI_DONE = 0, CLI_FAILED = 1, CLI_USAGE = 2, CLI_GO_ON = -1 };

/* Options that may be given several times. */
#define CLI_LIST_MAX 64
typedef struct cli_list {
    const char *item[CLI_LIST_MAX];
    int n;
} cli_list;

typedef enum cli_kind {
    CLI_FLAG,    /* bool *                        */
    CLI_TEXT,    /* const char **                 */
    CLI_INT,     /* int64_t *; k, M, G multiply by powers of 1000 */
    CLI_REAL,    /* double *                      */
    CLI_LIST     /* cli_list *                    */
} cli_kind;

typedef struct cli_option {
    const char *name;    /* without the dashes          */
    cli_kind kind;
    void *to;
    const char *value;   /* in --help: "DIR", "N"; NULL for flags */
    const char *help;    /* NULL: not in --help         */
} cli_option;

typedef struct cli_command {
    const char *name;
    const char *usage;   /* what follows the name: "--preset P --out DIR [options]" */
    const char *about;   /* one or more lines */
    const cli_option *options;
    int n_options;
    int args_max;        /* arguments that are no options */
} cli_command;

/* The options that are spelled alike everywhere. */
typedef struct cli_common {
    const char *model, *out, *recipe, *device, *precision, *isa;
    cli_list set;
    int64_t seed, threads;
    bool dry_run, json;
} cli_common;
#define CLI_OPT_MODEL(c) \
    {"model", CLI_TEXT, &(c)->model, "M", "a checkpoint directory, a .safetensors file beside " \
     "its config.json, or org/name in the Hugging Face cache"}
#define CLI_OPT_OUT(c) {"out", CLI_TEXT, &(c)->out, "DIR", "where the result goes"}
#define CLI_OPT_RECIPE(c) \
    {"recipe", CLI_TEXT, &(c)->recipe, "FILE", "settings, section.key = value"}
#define CLI_OPT_SET(c) \
    {"set", CLI_LIST, &(c)->set, "section.key=value", "one setting; may be repeated"}
#define CLI_OPT_SEED(c) {"seed", CLI_INT, &(c)->seed, "N", "seed of every random choice"}
#define CLI_OPT_THREADS(c) \
    {"threads", CLI_INT, &(c)->threads, "N", "processors to use (default: all it may use)"}
#define CLI_OPT_DEVICE(c) {"device", CLI_TEXT, &(c)->device, "cpu", "where the model runs"}
#define CLI_OPT_PRECISION(c) \
    {"precision", CLI_TEXT, &(c)->precision, "f32|bf16", "arithmetic of the model"}
#define CLI_OPT_ISA(c) \
    {"isa", CLI_TEXT, &(c)->isa, "LEVEL", "highest instruction set: scalar, avx2, avx512, amx"}
#define CLI_OPT_DRY_RUN(c) \
    {"dry-run", CLI_FLAG, &(c)->dry_run, NULL, "print what it would take, and stop"}
#define CLI_OPT_JSON(c) {"json", CLI_FLAG, &(c)->json, NULL, "print JSON"}
#define CLI_COUNT(a) ((int)(sizeof(a) / sizeof(a)[0]))

/* Parses argv[1..]. CLI_GO_ON, or the exit code after --help (0) or a wrong usage (2, message
 * printed). Arguments that are no options: *args [*n_args], pointing into argv, which is
 * reordered. */
int cli_parse(const cli_command *c, int argc, char **argv, char ***args, int *n_args);

/* For fm_log_set: warnings as one line on stderr, arg the command's name. */
void cli_log(void *arg, int level, const char *text);

/* One line on stderr, "fathom NAME: ..."; returns 1 or 2. */
int cli_fail(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int cli_wrong(const char *name, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* CLI_GO_ON, or an exit code with the message printed. */
int cli_precision(const char *name, const char *text, fm_dtype absent, fm_dtype *out);
int cli_context(const char *name, const cli_common *c, fm_exec **out);
/* --model as the user gave it -> a path in *out (fm_text_deinit). Looks into HF_HUB_CACHE,
 * HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub and ~/.cache/huggingface/hub. */
int cli_model_path(const char *name, const char *model, fm_text *out);

/* Columns of the terminal behind stderr, 60..200; 80 when it is none. */
int cli_width(void);
bool cli_is_terminal(void);

/* One line on stderr that is drawn over on a terminal; elsewhere a plain line at most every
 * `every` seconds. Control characters in text are not printed. */
typedef struct cli_live {
    double last_s;
    bool drawn;
} cli_live;
void cli_live_print(cli_live *l, double every_s, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
void cli_live_end(cli_live *l); /* clears the line; print what is to stay after it */

/* Text of a model on stderr: control characters other than newline and tab are left out. */
void cli_print_text(const char *s, size_t n);

/* "671.026B", "11.694M"; "23.4 GiB"; "3 h 12 min". Into buf, returned. */
typedef struct cli_buf {
    char s[48];
} cli_buf;
const char *cli_count(double n, cli_buf *buf);
const char *cli_bytes(double n, cli_buf *buf);
const char *cli_duration(double seconds, cli_buf *buf);

/* Text as a JSON string on stdout. */
void cli_json_string(const char *s);

/* Every command. One whose file is not part of the build is weak and absent, and is not shown. */
#define CLI_COMMANDS(X)                                                                     \
    X(init, "init", "random weights of a preset, as a checkpoint")                          \
    X(inspect, "inspect", "what a checkpoint holds, without loading it")                    \
    X(convert, "convert", "a checkpoint in another dtype, sharding, or without MTP")        \
    X(plan, "plan", "parameters, FLOPs, bytes and time before anything starts")             \
    X(tokenizer, "tokenizer", "train a tokenizer; encode and decode")                       \
    X(chat_format, "chat-format", "messages to the text a model is given")                  \
    X(data, "data", "text files to token shards")                                           \
    X(pretrain, "pretrain", "train a model on text")                                        \
    X(resume, "resume", "go on with a run")                                                 \
    X(generate, "generate", "continue a prompt")                                            \
    X(chat, "chat", "talk to a model")                                                      \
    X(logits, "logits", "logits and hidden states into a file")                             \
    X(grad, "grad", "gradients and router figures into a file")                             \
    X(scale, "scale", "scaling laws: plan, run, fit, plot, predict, compare")                 \
    X(report, "report", "one page about one or more runs")                                  \
    X(demo, "demo", "the whole way, from the corpus to a story")                            \
    X(bench, "bench", "speed as a fraction of what the machine can do")                     \
    X(doctor, "doctor", "processor, memory, optional parts: found or missing")

#define CLI_DECLARE(id, name, about) int cmd_##id(int argc, char **argv) __attribute__((weak));
CLI_COMMANDS(CLI_DECLARE)
#undef CLI_DECLARE

#endif
