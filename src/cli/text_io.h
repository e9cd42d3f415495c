/* Reading standard input and printing ids and texts: what the text commands share. */
#ifndef FM_CLI_TEXT_IO_H
#define FM_CLI_TEXT_IO_H

#include <jansson.h>

#include "cli.h"
#include "fathom/tokenizer.h"

/* --model or --tokenizer as the user gave it -> an open tokenizer. CLI_GO_ON, or an exit code with
 * the message printed. */
int text_open_tokenizer(const char *command, const char *model, fm_tokenizer **out);

/* All of standard input into out; false: out of memory or a read error. */
bool text_read_all(fm_text *out);

/* [1, 2, 3] without a final newline. */
void text_print_ids(const fm_ids *ids);

/* A JSON string; bytes that are not UTF-8 become U+FFFD. */
void text_print_string(const char *s, size_t n);

/* Ids out of a JSON array; false with a message in err. */
bool text_ids_from_json(const json_t *list, const char *where, fm_ids *out, fm_err *err);

/* Calls fn for each line of standard input that is not blank, parsed; `where` names the line. Stops
 * at the first failure. Returns an exit code; messages are printed. */
typedef bool (*text_row_fn)(void *arg, const char *line, size_t n, const json_t *row,
                            const char *where, fm_err *err);
int text_each_line(const char *command, text_row_fn fn, void *arg);

/* Flushes stdout: CLI_FAILED with a message when what was printed did not arrive. */
int text_finish(const char *command);

#endif
