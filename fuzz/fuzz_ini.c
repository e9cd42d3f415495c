/* Recipes: what is accepted has whole entries with ascending lines, and can be printed; entries
 * that fmi_ini_set takes are read back as they were. */
#include "check.h"
#include "io/ini.h"

static void round_trip(const fmi_ini *ini)
{
    fm_err err;
    fmi_ini *copy = NULL, *back = NULL;
    if (fmi_ini_new("copy", &copy, &err)) return;
    bool whole = true;
    for (int i = 0; i < ini->n; i++) {
        fm_status st = fmi_ini_set(copy, ini->entries[i].key, ini->entries[i].value, &err);
        FUZZ_CHECK(!st || st == FM_E_RANGE || st == FM_E_NOMEM);
        if (st == FM_E_NOMEM) whole = false;
    }
    char *text = whole ? fmi_ini_text(copy) : NULL;
    if (text) {
        fm_status st = fmi_ini_parse("text", text, strlen(text), &back, &err);
        FUZZ_CHECK(!st || st == FM_E_NOMEM);
        for (int i = 0; !st && i < copy->n; i++) {
            const char *v = fmi_ini_get(back, copy->entries[i].key);
            FUZZ_CHECK(v && !strcmp(v, copy->entries[i].value));
        }
        if (!st) FUZZ_CHECK(back->n == copy->n);
    }
    fmi_free(text);
    fmi_ini_free(back);
    fmi_ini_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *const known[] = {"train.lr", "model.preset", "data.text"};
    fm_err err;
    fmi_ini *ini = NULL;
    fm_status st = fmi_ini_parse("input", (const char *)data, size, &ini, &err);
    if (st) {
        fuzz_check_failure(st, &err, "input");
        return 0;
    }
    for (int i = 0; i < ini->n; i++) {
        FUZZ_CHECK(*ini->entries[i].key && ini->entries[i].value && ini->entries[i].line > 0);
        if (i) FUZZ_CHECK(ini->entries[i].line > ini->entries[i - 1].line);
        FUZZ_CHECK(fmi_ini_get(ini, ini->entries[i].key) == ini->entries[i].value);
    }
    (void)fmi_ini_check_keys(ini, known, 3, &err);
    round_trip(ini);
    fmi_ini_free(ini);
    return 0;
}
