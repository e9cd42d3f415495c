/* Recipes over inih: entries in file order with their lines, and a writer whose output reads back.
 *
 * inih is given lines by a reader of ours that counts them. inih's buffer is made long enough for
 * every accepted line, and longer ones are refused before it sees them: it would cut them silently.
 */
#include "io/ini.h"

#include <ini.h>
#include <pthread.h>
#include <string.h>

#include "fathom/nearest.h"
#include "io/file.h"

#define INI_BYTES_MAX ((size_t)4 << 20)
#define SECTION_MAX   48 /* inih keeps 49 bytes and cuts the rest */

typedef struct parse_state {
    const char *at, *end;
    int line;
    fmi_ini *ini;
    fm_status st; /* first failure of a handler */
    fm_err *err;
} parse_state;

static pthread_once_t setup_once = PTHREAD_ONCE_INIT;

static void setup(void)
{
    ini_use_stack = false;
    ini_max_line = FMI_INI_LINE_MAX + 3;
    ini_initial_alloc = FMI_INI_LINE_MAX + 3;
    ini_allow_realloc = false;
    ini_allow_multiline = false;
    ini_stop_on_first_error = true;
}

void fmi_ini_free(fmi_ini *ini)
{
    if (!ini) return;
    for (int i = 0; i < ini->n; i++) {
        fmi_free(ini->entries[i].key);
        fmi_free(ini->entries[i].value);
    }
    fmi_free(ini->entries);
    fmi_free(ini->name);
    fmi_free(ini);
}

fm_status fmi_ini_new(const char *name, fmi_ini **out, fm_err *err)
{
    fmi_ini *ini = fmi_zalloc(sizeof *ini);
    if (ini) ini->name = fmi_strdup(name);
    if (!ini || !ini->name) {
        fmi_ini_free(ini);
        return FM_FAIL(err, FM_E_NOMEM, "%s: recipe", name);
    }
    *out = ini;
    return FM_OK;
}

static fmi_ini_entry *find(const fmi_ini *ini, const char *key)
{
    for (int i = 0; i < ini->n; i++)
        if (!strcmp(ini->entries[i].key, key)) return &ini->entries[i];
    return NULL;
}

const char *fmi_ini_get(const fmi_ini *ini, const char *key)
{
    const fmi_ini_entry *e = find(ini, key);
    return e ? e->value : NULL;
}

/* Takes key and value over, also on failure; either may be NULL (out of memory). */
static fm_status append(fmi_ini *ini, char *key, char *value, int line, fm_err *err)
{
    bool ok = key && value;
    if (ok && ini->n == ini->cap) {
        int cap = ini->cap ? ini->cap * 2 : 16;
        fmi_ini_entry *e = fmi_realloc(ini->entries, (size_t)cap * sizeof *e);
        ok = e != NULL;
        if (ok) {
            ini->entries = e;
            ini->cap = cap;
        }
    }
    if (!ok) {
        fmi_free(key);
        fmi_free(value);
        return FM_FAIL(err, FM_E_NOMEM, "%s: recipe entry", ini->name);
    }
    ini->entries[ini->n++] = (fmi_ini_entry){.key = key, .value = value, .line = line};
    return FM_OK;
}

/* inih's fgets. */
static char *next_line(char *buf, int cap, void *arg)
{
    parse_state *p = arg;
    if (p->at >= p->end) return NULL;
    const char *nl = memchr(p->at, '\n', (size_t)(p->end - p->at));
    size_t n = (size_t)((nl ? nl + 1 : p->end) - p->at);
    FM_ASSERT(n < (size_t)cap); /* checked before inih runs */
    memcpy(buf, p->at, n);
    buf[n] = 0;
    p->at += n;
    p->line++;
    return buf;
}

/* inih's handler: nonzero is success. */
static int take_entry(void *arg, const char *section, const char *name, const char *value)
{
    parse_state *p = arg;
    fmi_ini *ini = p->ini;
    if (strlen(section) > SECTION_MAX) {
        p->st = FM_FAIL(p->err, FM_E_FORMAT, "%s: line %d: section name longer than %d bytes",
                        ini->name, p->line, SECTION_MAX);
        return 0;
    }
    if (!*name) {
        p->st = FM_FAIL(p->err, FM_E_FORMAT, "%s: line %d: expected a key before '='", ini->name,
                        p->line);
        return 0;
    }
    char *key = *section ? fmi_format("%s.%s", section, name) : fmi_strdup(name);
    const fmi_ini_entry *before = key ? find(ini, key) : NULL;
    if (before) {
        p->st = FM_FAIL(p->err, FM_E_FORMAT, "%s: line %d: key %s was set in line %d already",
                        ini->name, p->line, key, before->line);
        fmi_free(key);
        return 0;
    }
    p->st = append(ini, key, fmi_strdup(value), p->line, p->err);
    return p->st == FM_OK;
}

/* What inih would not notice: NUL bytes and lines beyond its buffer. */
static fm_status check_lines(const char *name, const char *text, size_t n, fm_err *err)
{
    int line = 1;
    size_t begin = 0;
    for (size_t i = 0; i <= n; i++) {
        if (i < n && text[i] == 0)
            return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: NUL byte", name, line);
        if (i < n && text[i] != '\n') continue;
        if (i - begin > FMI_INI_LINE_MAX)
            return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: %zu bytes, expected at most %d", name,
                           line, i - begin, FMI_INI_LINE_MAX);
        begin = i + 1;
        line++;
    }
    return FM_OK;
}

fm_status fmi_ini_parse(const char *name, const char *text, size_t n, fmi_ini **out, fm_err *err)
{
    pthread_once(&setup_once, setup);
    fm_status st = check_lines(name, text, n, err);
    if (st) return st;
    fmi_ini *ini;
    st = fmi_ini_new(name, &ini, err);
    if (st) return st;
    parse_state p = {.at = text, .end = text + n, .ini = ini, .err = err};
    int rc = ini_parse_stream(next_line, &p, take_entry, &p);
    if (p.st)
        st = p.st;
    else if (rc == -2)
        st = FM_FAIL(err, FM_E_NOMEM, "%s: recipe", name);
    else if (rc)
        st = FM_FAIL(err, FM_E_FORMAT, "%s: line %d: expected [section] or key = value", name, rc);
    if (st) {
        fmi_ini_free(ini);
        return st;
    }
    *out = ini;
    return FM_OK;
}

fm_status fmi_ini_open(const char *path, fmi_ini **out, fm_err *err)
{
    char *text;
    size_t n;
    fm_status st = fmi_file_read(path, INI_BYTES_MAX, &text, &n, err);
    if (st) return st;
    st = fmi_ini_parse(path, text, n, out, err);
    fmi_free(text);
    return st;
}

static bool key_ok(const char *key)
{
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.";
    size_t n = strlen(key);
    const char *dot = strchr(key, '.');
    return n > 0 && n <= 200 && strspn(key, allowed) == n && key[0] != '.' && key[n - 1] != '.'
           && (!dot || dot - key <= SECTION_MAX);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool value_ok(const char *v)
{
    size_t n = strlen(v);
    if (n > FMI_INI_LINE_MAX - 210) return false;
    if (n && (is_space(v[0]) || is_space(v[n - 1]))) return false;
    for (size_t i = 0; i < n; i++) {
        if (v[i] == '\n' || v[i] == '\r') return false;
        if (v[i] == ';' && (i == 0 || is_space(v[i - 1]))) return false; /* would be a comment */
    }
    return true;
}

fm_status fmi_ini_set(fmi_ini *ini, const char *key, const char *value, fm_err *err)
{
    if (!key_ok(key))
        return FM_FAIL(err, FM_E_RANGE, "%s: key \"%.80s\" cannot be written to a recipe",
                       ini->name, key);
    if (!value_ok(value))
        return FM_FAIL(err, FM_E_RANGE, "%s: value of %s cannot be written to a recipe: \"%.80s\"",
                       ini->name, key, value);
    fmi_ini_entry *e = find(ini, key);
    char *copy = fmi_strdup(value);
    if (!e) return append(ini, fmi_strdup(key), copy, 0, err);
    if (!copy) return FM_FAIL(err, FM_E_NOMEM, "%s: value of %s", ini->name, key);
    fmi_free(e->value);
    e->value = copy;
    e->line = 0;
    return FM_OK;
}

static size_t section_length(const char *key)
{
    const char *dot = strchr(key, '.');
    return dot ? (size_t)(dot - key) : 0;
}

static bool same_section(const char *a, const char *b)
{
    size_t n = section_length(a);
    return n == section_length(b) && !memcmp(a, b, n);
}

static size_t emit(char *out, size_t at, const char *s, size_t n)
{
    if (out) memcpy(out + at, s, n);
    return at + n;
}

/* Writes all entries of the section of entry `first`; out NULL only measures. */
static size_t emit_section(const fmi_ini *ini, int first, char *out, size_t at)
{
    const char *key = ini->entries[first].key;
    size_t n = section_length(key);
    if (n > 0) {
        at = emit(out, at, at ? "\n[" : "[", at ? 2 : 1);
        at = emit(out, at, key, n);
        at = emit(out, at, "]\n", 2);
    }
    for (int i = first; i < ini->n; i++) {
        const fmi_ini_entry *e = &ini->entries[i];
        if (!same_section(e->key, key)) continue;
        const char *name = e->key + (n ? n + 1 : 0);
        at = emit(out, at, name, strlen(name));
        at = emit(out, at, " = ", 3);
        at = emit(out, at, e->value, strlen(e->value));
        at = emit(out, at, "\n", 1);
    }
    return at;
}

/* Keys without a section come first: after a section header they would belong to it. */
static size_t emit_all(const fmi_ini *ini, char *out)
{
    size_t at = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < ini->n; i++) {
            if ((section_length(ini->entries[i].key) > 0) != (pass == 1)) continue;
            bool seen = false;
            for (int k = 0; k < i && !seen; k++)
                seen = same_section(ini->entries[k].key, ini->entries[i].key);
            if (!seen) at = emit_section(ini, i, out, at);
        }
    return at;
}

char *fmi_ini_text(const fmi_ini *ini)
{
    size_t n = emit_all(ini, NULL);
    char *s = fmi_alloc(n + 1);
    if (!s) return NULL;
    emit_all(ini, s);
    s[n] = 0;
    return s;
}

fm_status fmi_ini_write(const fmi_ini *ini, const char *path, fm_err *err)
{
    char *s = fmi_ini_text(ini);
    if (!s) return FM_FAIL(err, FM_E_NOMEM, "%s: recipe", path);
    fm_status st = fmi_file_write(path, s, strlen(s), err);
    fmi_free(s);
    return st;
}

fm_status fmi_ini_check_keys(const fmi_ini *ini, const char *const *known, int n, fm_err *err)
{
    for (int i = 0; i < ini->n; i++) {
        const fmi_ini_entry *e = &ini->entries[i];
        bool found = false;
        for (int k = 0; k < n && !found; k++) found = !strcmp(e->key, known[k]);
        if (found) continue;
        const char *near = fm_nearest(e->key, known, n);
        return FM_FAIL(err, FM_E_FORMAT, "%s: line %d: unknown key %s%s%s%s", ini->name, e->line,
                       e->key, near ? " (did you mean " : "", near ? near : "", near ? "?)" : "");
    }
    return FM_OK;
}
