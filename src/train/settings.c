/* The table of settings: parsing, bounds, printing. See settings.h. */
#include "train/settings.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/nearest.h"

typedef enum setting_kind { KIND_INT, KIND_REAL, KIND_BOOL, KIND_TEXT } setting_kind;

typedef struct setting {
    const char *key;
    setting_kind kind;
    size_t at;
    double low, high, def;
    bool may_auto;
    const char *text, *choices;
} setting;

static const setting table[] = {
#define NUMBER_ROW(kind, section, name, def, low, high)                                     \
    { #section "." #name, KIND_##kind, offsetof(fmi_settings, section##_##name),            \
      (double)(low), (double)(high), (double)(def),                                         \
      (double)(def) == FMI_AUTO_REAL || (double)(def) == (double)FMI_AUTO_INT, NULL, NULL },
    FMI_SETTING_NUMBERS(NUMBER_ROW)
#undef NUMBER_ROW
#define TEXT_ROW(section, name, def, choices)                                               \
    { #section "." #name, KIND_TEXT, offsetof(fmi_settings, section##_##name), 0, 0, 0,     \
      false, def, choices },
    FMI_SETTING_TEXTS(TEXT_ROW)
#undef TEXT_ROW
};
enum { N_SETTINGS = (int)(sizeof table / sizeof *table) };

const char *fmi_settings_key(int i)
{
    return i < N_SETTINGS ? table[i].key : NULL;
}

void fmi_settings_default(fmi_settings *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < N_SETTINGS; i++) {
        const setting *t = &table[i];
        char *p = (char *)s + t->at;
        if (t->kind == KIND_INT) *(int64_t *)(void *)p = t->may_auto ? FMI_AUTO_INT : (int64_t)t->def;
        if (t->kind == KIND_REAL) *(double *)(void *)p = t->def;
        if (t->kind == KIND_BOOL) *(bool *)p = t->def != 0;
        if (t->kind == KIND_TEXT) snprintf(p, FMI_TEXT_MAX, "%s", t->text);
    }
}

static const setting *find(const char *key)
{
    for (int i = 0; i < N_SETTINGS; i++)
        if (!strcmp(table[i].key, key)) return &table[i];
    return NULL;
}

static fm_status unknown(const char *key, fm_err *err)
{
    const char *keys[N_SETTINGS];
    for (int i = 0; i < N_SETTINGS; i++) keys[i] = table[i].key;
    const char *near = fm_nearest(key, keys, N_SETTINGS);
    if (near) return FM_FAIL(err, FM_E_FORMAT, "unknown setting %s; did you mean %s?", key, near);
    return FM_FAIL(err, FM_E_FORMAT, "unknown setting %s", key);
}

/* Whether `value` is one of "a|b|c". */
static bool among(const char *choices, const char *value)
{
    size_t n = strlen(value);
    for (const char *c = choices; *c;) {
        size_t len = strcspn(c, "|");
        if (len == n && !memcmp(c, value, n)) return true;
        c += len;
        if (*c) c++;
    }
    return false;
}

static fm_status set_text(const setting *t, char *p, const char *value, fm_err *err)
{
    if (*t->choices && !among(t->choices, value))
        return FM_FAIL(err, FM_E_RANGE, "%s: expected one of %s, found \"%s\"", t->key, t->choices, value);
    if (strlen(value) >= FMI_TEXT_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: longer than %d bytes", t->key, FMI_TEXT_MAX - 1);
    snprintf(p, FMI_TEXT_MAX, "%s", value);
    return FM_OK;
}

static fm_status set_bool(const setting *t, char *p, const char *value, fm_err *err)
{
    bool yes = among("1|true|yes|on", value);
    if (!yes && !among("0|false|no|off", value))
        return FM_FAIL(err, FM_E_RANGE, "%s: expected true or false, found \"%s\"", t->key, value);
    *(bool *)p = yes;
    return FM_OK;
}

static fm_status set_number(const setting *t, char *p, const char *value, fm_err *err)
{
    char *end = NULL;
    errno = 0;
    if (t->kind == KIND_INT) {
        long long v = strtoll(value, &end, 10);
        /* Whole numbers are often written 1e6. */
        if (end != value && *end) {
            double d = strtod(value, &end);
            if (fabs(d) < 9e15 && d == floor(d)) v = (long long)d;
            else end = NULL;
        }
        if (!end || end == value || *end || errno)
            return FM_FAIL(err, FM_E_RANGE, "%s: expected a whole number, found \"%s\"", t->key, value);
        if ((double)v < t->low || (double)v > t->high)
            return FM_FAIL(err, FM_E_RANGE, "%s: expected %.15g to %.15g, found %s", t->key, t->low,
                           t->high, value);
        *(int64_t *)(void *)p = v;
        return FM_OK;
    }
    double v = strtod(value, &end);
    if (end == value || *end || !isfinite(v))
        return FM_FAIL(err, FM_E_RANGE, "%s: expected a number, found \"%s\"", t->key, value);
    if (v < t->low || v > t->high)
        return FM_FAIL(err, FM_E_RANGE, "%s: expected %.15g to %.15g, found %s", t->key, t->low, t->high,
                       value);
    *(double *)(void *)p = v;
    return FM_OK;
}

fm_status fmi_settings_set(fmi_settings *s, fm_config *c, const char *key, const char *value,
                           fm_err *err)
{
    if (!strncmp(key, "model.", 6)) return c ? fmi_config_set(c, key + 6, value, err) : FM_OK;
    const setting *t = find(key);
    if (!t) return unknown(key, err);
    char *p = (char *)s + t->at;
    if (t->may_auto && !strcmp(value, "auto")) {
        if (t->kind == KIND_INT) *(int64_t *)(void *)p = FMI_AUTO_INT;
        else *(double *)(void *)p = FMI_AUTO_REAL;
        return FM_OK;
    }
    if (t->kind == KIND_TEXT) return set_text(t, p, value, err);
    if (t->kind == KIND_BOOL) return set_bool(t, p, value, err);
    return set_number(t, p, value, err);
}

/* Shortest of 15 and 17 digits that reads back as v. */
static void print_real(double v, char *out, size_t cap)
{
    snprintf(out, cap, "%.15g", v);
    if (strtod(out, NULL) != v) snprintf(out, cap, "%.17g", v);
}

static void print(const fmi_settings *s, const setting *t, char *out, size_t cap)
{
    const char *p = (const char *)s + t->at;
    if (t->kind == KIND_TEXT) snprintf(out, cap, "%s", p);
    if (t->kind == KIND_BOOL) snprintf(out, cap, "%s", *(const bool *)p ? "true" : "false");
    if (t->kind == KIND_INT) {
        int64_t v = *(const int64_t *)(const void *)p;
        if (t->may_auto && v == FMI_AUTO_INT) snprintf(out, cap, "auto");
        else snprintf(out, cap, "%lld", (long long)v);
    }
    if (t->kind == KIND_REAL) {
        double v = *(const double *)(const void *)p;
        if (t->may_auto && v == FMI_AUTO_REAL) snprintf(out, cap, "auto");
        else print_real(v, out, cap);
    }
}

fm_status fmi_settings_get(const fmi_settings *s, const char *key, char *out, size_t cap, fm_err *err)
{
    const setting *t = find(key);
    if (!t) return unknown(key, err);
    print(s, t, out, cap);
    return FM_OK;
}

fm_status fmi_settings_write(const fmi_settings *s, fmi_ini *ini, fm_err *err)
{
    char value[FMI_TEXT_MAX + 8];
    fm_status st = FM_OK;
    for (int i = 0; i < N_SETTINGS && !st; i++) {
        print(s, &table[i], value, sizeof value);
        if (*value) st = fmi_ini_set(ini, table[i].key, value, err);
    }
    return st;
}
