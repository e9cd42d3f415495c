/* Recipes: section.key = value, in file order, with line numbers (inih underneath).
 *
 * Refused, with the line: a line without '=', an unclosed section, the same key twice, an empty
 * key, a section of 49 bytes or more, a line longer than FMI_INI_LINE_MAX, a NUL byte. Comments:
 * lines beginning with ; or #, and " ;" after a value. */
#ifndef FM_IO_INI_H
#define FM_IO_INI_H

#include "base/base.h"

#define FMI_INI_LINE_MAX 4096 /* bytes, without the newline */

typedef struct fmi_ini_entry {
    char *key;   /* "section.key"; "key" where there is no section */
    char *value;
    int line;    /* 0: set by the program */
} fmi_ini_entry;

typedef struct fmi_ini {
    char *name;  /* file, for messages */
    fmi_ini_entry *entries;
    int n, cap;
} fmi_ini;

fm_status fmi_ini_open(const char *path, fmi_ini **out, fm_err *err);
fm_status fmi_ini_parse(const char *name, const char *text, size_t n, fmi_ini **out, fm_err *err);
/* Empty, to be filled by set. */
fm_status fmi_ini_new(const char *name, fmi_ini **out, fm_err *err);
void fmi_ini_free(fmi_ini *ini);

const char *fmi_ini_get(const fmi_ini *ini, const char *key); /* NULL: absent */
/* Adds or replaces. FM_E_RANGE: a key or value that a file could not carry. */
fm_status fmi_ini_set(fmi_ini *ini, const char *key, const char *value, fm_err *err);

/* Atomic; sections in the order of their first key, keys in entry order. */
fm_status fmi_ini_write(const fmi_ini *ini, const char *path, fm_err *err);
char *fmi_ini_text(const fmi_ini *ini); /* heap; NULL: out of memory */

/* FM_E_FORMAT for an entry whose key is not in known[n], naming file, line and the nearest one. */
fm_status fmi_ini_check_keys(const fmi_ini *ini, const char *const *known, int n, fm_err *err);

#endif
