/* Line input. On a terminal Ctrl-C is a key while a line is typed (libedit switches the terminal's
 * signals off), so that nothing has to be undone from a signal handler. */
#include "line_edit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef FM_HAVE_LIBEDIT
#include <histedit.h>
#endif

struct line_edit {
    char *line;
    size_t cap;
    bool terminal;
    bool interrupted;
#ifdef FM_HAVE_LIBEDIT
    EditLine *el;
    History *history;
#endif
};

#ifdef FM_HAVE_LIBEDIT
static char *prompt(EditLine *el)
{
    static char text[] = "> ";
    (void)el;
    return text;
}

static unsigned char on_ctrl_c(EditLine *el, int ch)
{
    void *data = NULL;
    (void)ch;
    el_get(el, EL_CLIENTDATA, &data);
    ((line_edit *)data)->interrupted = true;
    return CC_EOF;
}

static void open_editor(line_edit *e, const char *program)
{
    HistEvent ev;
    e->el = el_init(program, stdin, stdout, stderr);
    e->history = history_init();
    if (!e->el || !e->history) return;
    history(e->history, &ev, H_SETSIZE, 1000);
    history(e->history, &ev, H_SETUNIQUE, 1);
    el_set(e->el, EL_CLIENTDATA, e);
    el_set(e->el, EL_PROMPT, prompt);
    el_set(e->el, EL_EDITOR, "emacs");
    el_set(e->el, EL_HIST, history, e->history);
    el_set(e->el, EL_ADDFN, "fathom-interrupt", "give the line up", on_ctrl_c);
    el_set(e->el, EL_BIND, "^C", "fathom-interrupt", NULL);
    el_set(e->el, EL_BIND, "^R", "em-inc-search-prev", NULL);
    el_set(e->el, EL_SETTY, "-d", "-isig", NULL);
}

static const char *edited(line_edit *e, bool *interrupted)
{
    HistEvent ev;
    int n = 0;
    e->interrupted = false;
    const char *s = el_gets(e->el, &n);
    if (e->interrupted) {
        printf("\n");
        *interrupted = true;
        return "";
    }
    if (!s || n <= 0) {
        printf("\n");
        return NULL;
    }
    if ((size_t)n + 1 > e->cap) {
        char *p = realloc(e->line, (size_t)n + 1);
        if (!p) return NULL;
        e->line = p;
        e->cap = (size_t)n + 1;
    }
    memcpy(e->line, s, (size_t)n);
    e->line[n] = 0;
    e->line[strcspn(e->line, "\n")] = 0;
    if (*e->line) history(e->history, &ev, H_ENTER, e->line);
    return e->line;
}
#endif

line_edit *line_edit_new(const char *program)
{
    line_edit *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    e->terminal = isatty(STDIN_FILENO) && isatty(STDOUT_FILENO);
#ifdef FM_HAVE_LIBEDIT
    if (e->terminal) open_editor(e, program);
#else
    (void)program;
#endif
    return e;
}

void line_edit_free(line_edit *e)
{
    if (!e) return;
#ifdef FM_HAVE_LIBEDIT
    if (e->history) history_end(e->history);
    if (e->el) el_end(e->el);
#endif
    free(e->line);
    free(e);
}

const char *line_edit_get(line_edit *e, bool *interrupted)
{
    *interrupted = false;
#ifdef FM_HAVE_LIBEDIT
    if (e->el && e->history) return edited(e, interrupted);
#endif
    if (e->terminal) {
        printf("> ");
        fflush(stdout);
    }
    if (getline(&e->line, &e->cap, stdin) < 0) return NULL;
    e->line[strcspn(e->line, "\n")] = 0;
    return e->line;
}
