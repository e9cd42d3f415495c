/* A line from the user: with editing and history on a terminal where libedit was there at build
 * time, else as plain input. */
#ifndef FM_CLI_LINE_EDIT_H
#define FM_CLI_LINE_EDIT_H

#include <stdbool.h>

typedef struct line_edit line_edit;

line_edit *line_edit_new(const char *program); /* NULL: out of memory */
void line_edit_free(line_edit *e);

/* The next line without its newline, valid until the next call; NULL at the end of input.
 * *interrupted: Ctrl-C was typed, the line is dropped. */
const char *line_edit_get(line_edit *e, bool *interrupted);

#endif
