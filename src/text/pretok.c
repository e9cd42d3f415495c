/* Pre-tokenizer stages over PCRE2 with JIT.
 *
 * Published expressions are written for Oniguruma. PCRE2 reads the same text alike except where
 * noted here: its \s and \S follow an older Unicode, so they are written out as White_Space; set
 * intersection (&&) and \h mean something else, so they are refused. A stage sees each piece as a
 * whole subject: look-ahead ends where the piece ends, as in the Hugging Face library. */
#include "text/pretok.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <string.h>

#include "text/buf.h"

#define SPACE_SET                                                                                  \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"

const char *const fmi_pretok_gpt2 =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

const char *const fmi_pretok_fathom[3] = {
    "\\p{N}",
    "[\xe4\xb8\x80-\xe9\xbe\xa5\xe3\x81\x80-\xe3\x82\x9f\xe3\x82\xa0-\xe3\x83\xbf]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|"
    "[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|"
    "\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
};

/* Copies the pattern with \s and \S written out. */
static fm_status translate(const char *p, fm_text *out, fm_err *err)
{
    bool in_set = false;
    size_t set_at = 0;
    fm_status st = FM_OK;
    for (size_t i = 0; p[i] && !st; i++) {
        char c = p[i];
        if (c == '\\' && p[i + 1]) {
            char e = p[++i];
            if (e == 's')
                st = fmi_text_puts(out, in_set ? SPACE_SET : "[" SPACE_SET "]", err);
            else if (e == 'S' && !in_set)
                st = fmi_text_puts(out, "[^" SPACE_SET "]", err);
            else if (e == 'S' || e == 'h' || e == 'H')
                return FM_FAIL(err, FM_E_UNSUPPORTED, "\\%c%s at byte %zu of the expression", e,
                               in_set ? " in a set" : "", i - 1);
            else
                st = fm_text_push(out, p + i - 1, 2, err);
            continue;
        }
        if (in_set) {
            if (c == '&' && p[i + 1] == '&')
                return FM_FAIL(err, FM_E_UNSUPPORTED,
                               "set intersection at byte %zu of the expression", i);
            if (c == '[' && p[i + 1] != ':')
                return FM_FAIL(err, FM_E_UNSUPPORTED,
                               "a set in a set at byte %zu of the expression", i);
            if (c == ']' && i > set_at) in_set = false;
        } else if (c == '[') {
            in_set = true;
            set_at = i + (p[i + 1] == '^' ? 2 : 1); /* a ] there is an ordinary character */
        }
        st = fm_text_push(out, &p[i], 1, err);
    }
    return st;
}

fm_status fmi_pretok_add(fmi_pretok *p, const char *pattern, bool matches_only, fm_err *err)
{
    if (p->n == FMI_PRETOK_STAGES_MAX)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "more than %d stages", FMI_PRETOK_STAGES_MAX);
    fm_text t = {0};
    fm_status st = fmi_text_puts(&t, "", err);
    if (!st) st = translate(pattern, &t, err);
    if (st) {
        fm_text_deinit(&t);
        return st;
    }
    int code = 0;
    PCRE2_SIZE at = 0;
    pcre2_code *re = pcre2_compile(
        (PCRE2_SPTR)t.data, t.n, PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C, &code, &at, NULL);
    fm_text_deinit(&t);
    if (!re) {
        char why[160] = "";
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return FM_FAIL(err, FM_E_FORMAT, "the expression \"%.80s\" does not compile: %s", pattern,
                       why);
    }
    pcre2_jit_compile(re, PCRE2_JIT_COMPLETE); /* without JIT the interpreter serves */
    char *copy = fmi_strdup(pattern);
    if (!copy) {
        pcre2_code_free(re);
        return FM_FAIL(err, FM_E_NOMEM, "an expression");
    }
    p->stage[p->n++] = (fmi_pretok_stage){ re, copy, matches_only };
    return FM_OK;
}

void fmi_pretok_deinit(fmi_pretok *p)
{
    for (int i = 0; i < p->n; i++) {
        pcre2_code_free(p->stage[i].code);
        fmi_free(p->stage[i].pattern);
    }
    *p = (fmi_pretok){0};
}

fm_status fmi_pretok_run_init(fmi_pretok_run *r, const fmi_pretok *p, fm_err *err)
{
    *r = (fmi_pretok_run){ .pretok = p };
    bool ok = (r->context = pcre2_match_context_create(NULL)) != NULL;
    for (int i = 0; i < p->n && ok; i++)
        ok = (r->match[i] = pcre2_match_data_create(1, NULL)) != NULL;
    if (!ok) {
        fmi_pretok_run_deinit(r);
        return FM_FAIL(err, FM_E_NOMEM, "scratch of the pre-tokenizer");
    }
    r->stack = pcre2_jit_stack_create(32 << 10, 4 << 20, NULL); /* NULL: the small built-in one */
    if (r->stack) pcre2_jit_stack_assign(r->context, NULL, r->stack);
    return FM_OK;
}

void fmi_pretok_run_deinit(fmi_pretok_run *r)
{
    if (!r->pretok) return;
    for (int i = 0; i < r->pretok->n; i++) pcre2_match_data_free(r->match[i]);
    pcre2_match_context_free(r->context);
    pcre2_jit_stack_free(r->stack);
    *r = (fmi_pretok_run){0};
}

/* The next match at or after `from`: 1 and its bounds, 0 when there is none. */
static fm_status next_match(fmi_pretok_run *r, int stage, const char *s, size_t n, size_t from,
                            size_t *begin, size_t *end, bool *found, fm_err *err)
{
    const fmi_pretok_stage *g = &r->pretok->stage[stage];
    int rc = pcre2_match(g->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK, r->match[stage],
                         r->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(g->code, (PCRE2_SPTR)s, n, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         r->match[stage], r->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return FM_OK;
    if (rc < 0) {
        char why[120] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return FM_FAIL(err, rc == PCRE2_ERROR_NOMEMORY ? FM_E_NOMEM : FM_E_UNSUPPORTED,
                       "pre-tokenizer stage %d at byte %zu of a piece of %zu: %s", stage, from, n,
                       why);
    }
    const PCRE2_SIZE *o = pcre2_get_ovector_pointer(r->match[stage]);
    *begin = o[0];
    *end = o[1];
    if (*end < *begin) *end = *begin; /* \K can do this */
    return FM_OK;
}

static fm_status split_stage(fmi_pretok_run *r, int stage, const char *s, size_t n, fmi_piece_fn fn,
                             void *arg, fm_err *err)
{
    if (!n) return FM_OK;
    if (stage == r->pretok->n) return fn(arg, s, n, err);
    bool keep_gaps = !r->pretok->stage[stage].matches_only;
    size_t done = 0, from = 0;
    fm_status st = FM_OK;
    while (from < n && !st) {
        size_t b = n, e = n;
        bool found = false;
        st = next_match(r, stage, s, n, from, &b, &e, &found, err);
        if (st || !found) break;
        if (b == e) { /* empty: step over one character */
            if (b >= n) break;
            int len = fmi_utf8_char((const unsigned char *)s + b, n - b, NULL);
            from = b + (size_t)(len ? len : 1);
            continue;
        }
        if (b > done && keep_gaps) st = split_stage(r, stage + 1, s + done, b - done, fn, arg, err);
        if (b < done) b = done;
        if (!st) st = split_stage(r, stage + 1, s + b, e - b, fn, arg, err);
        done = from = e;
    }
    if (!st && keep_gaps) st = split_stage(r, stage + 1, s + done, n - done, fn, arg, err);
    return st;
}

fm_status fmi_pretok_split(fmi_pretok_run *r, const char *text, size_t n, fmi_piece_fn fn,
                           void *arg, fm_err *err)
{
    /* Backtracking grows with the subject at most linearly in sane expressions. */
    uint64_t limit = 10000000u + 16 * (uint64_t)n;
    pcre2_set_match_limit(r->context, limit > UINT32_MAX ? UINT32_MAX : (uint32_t)limit);
    return split_stage(r, 0, text, n, fn, arg, err);
}
