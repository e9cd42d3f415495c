/* fathom generate: continues a prompt, or rows of token ids, and prints the text or JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "speak.h"
#include "text_io.h"

#define ROWS_MAX 1024

typedef struct row {
    fm_ids prompt;
    fm_generated done;
    bool stream;              /* print as it comes */
    bool named;               /* there is a tokenizer */
} row;

typedef struct job {
    speak s;
    const char *prompt, *ids_path;
    bool no_bos;
    row *rows;
    int n_rows;
} job;

static int fail(const char *message)
{
    return cli_fail("generate", "%s", message);
}

static bool keep(void *grown, size_t size, size_t *n, size_t *cap, const void *more, size_t k)
{
    void **data = grown;
    if (*n + k > *cap) {
        size_t want = (*n + k) * 2;
        void *p = realloc(*data, want * size);
        if (!p) return false;
        *data = p;
        *cap = want;
    }
    memcpy((char *)*data + *n * size, more, k * size);
    *n += k;
    return true;
}

typedef struct piece_log { /* what one row has said so far */
    int32_t *ids;
    size_t n_ids, cap_ids;
    char *text;
    size_t n_text, cap_text;
    const row *r;
    bool no_memory;
} piece_log;

static bool on_piece(void *arg, const fm_piece *p)
{
    piece_log *l = arg;
    if (p->id >= 0 && !keep(&l->ids, sizeof *l->ids, &l->n_ids, &l->cap_ids, &p->id, 1))
        l->no_memory = true;
    if (l->r->stream && l->r->named) {
        speak_print(p->text, p->n);
    } else if (l->r->stream && p->id >= 0) {
        printf("%s%d", l->n_ids > 1 ? " " : "", (int)p->id);
        fflush(stdout);
    }
    if (p->n && !keep(&l->text, 1, &l->n_text, &l->cap_text, p->text, p->n)) l->no_memory = true;
    return !speak_interrupted && !l->no_memory;
}

static bool add_row(job *j, const json_t *list, const char *where, fm_err *err)
{
    row *r = &j->rows[j->n_rows++];
    return text_ids_from_json(list, where, &r->prompt, err);
}

/* [[..], ..] or [..]. */
static bool read_ids(job *j, fm_err *err)
{
    json_error_t je;
    json_t *root = strcmp(j->ids_path, "-") ? json_load_file(j->ids_path, 0, &je)
                                            : json_loadf(stdin, 0, &je);
    bool ok = root && json_is_array(root);
    if (!root)
        snprintf(err->text, sizeof err->text, "%s: line %d: %s", j->ids_path, je.line, je.text);
    else if (!ok)
        snprintf(err->text, sizeof err->text, "%s: expected an array of token ids", j->ids_path);
    size_t n = ok ? json_array_size(root) : 0;
    if (ok && (n == 0 || n > ROWS_MAX)) {
        snprintf(err->text, sizeof err->text, "%s: expected 1 to %d rows, found %zu", j->ids_path,
                 ROWS_MAX, n);
        ok = n > 0 && json_is_integer(json_array_get(root, 0));
    }
    if (ok && json_is_array(json_array_get(root, 0))) {
        for (size_t i = 0; i < n && ok; i++) {
            char where[512];
            snprintf(where, sizeof where, "%s: row %zu", j->ids_path, i);
            ok = add_row(j, json_array_get(root, i), where, err);
        }
    } else if (ok) {
        ok = add_row(j, root, j->ids_path, err);
    }
    json_decref(root);
    return ok;
}

static bool read_prompt(job *j, fm_err *err)
{
    fm_text in = {0};
    const char *text = j->prompt;
    size_t n = strlen(text);
    if (!j->s.tok) {
        snprintf(err->text, sizeof err->text, "%s: no tokenizer.json: give token ids with --ids",
                 j->s.common.model);
        return false;
    }
    if (!strcmp(text, "-")) {
        if (!text_read_all(&in)) {
            snprintf(err->text, sizeof err->text, "standard input: cannot be read");
            return false;
        }
        text = in.data ? in.data : "";
        n = in.n;
    }
    row *r = &j->rows[j->n_rows++];
    fm_status st = fm_tokenizer_encode(j->s.tok, text, n, j->no_bos ? 0 : FM_ENCODE_BOS, &r->prompt,
                                       err);
    fm_text_deinit(&in);
    return !st;
}

static void print_json(const job *j, const row *r, const piece_log *l)
{
    fm_session_stats st;
    fm_session_stats_get(j->s.session, &st);
    double seconds = st.prefill_seconds + st.decode_seconds;
    double speed = st.decode_tokens_per_second;
    if (speed == 0 && seconds > 0) speed = (double)l->n_ids / seconds;
    printf("{\"ids\": ");
    text_print_ids(&(fm_ids){.data = l->ids, .n = l->n_ids});
    printf(", \"text\": ");
    if (r->named)
        text_print_string(l->text ? l->text : "", l->n_text);
    else
        printf("null");
    printf(", \"stop\": \"%s\", \"prompt_tokens\": %zu", fm_stop_name(r->done.stop), r->prompt.n);
    printf(", \"tokens_per_second\": %.3f, \"prefill_tokens_per_second\": %.3f", speed,
           st.prefill_tokens_per_second);
    printf(", \"drafted\": %lld, \"accepted\": %lld, \"main_forwards\": %lld}\n",
           (long long)st.drafted, (long long)st.accepted, (long long)st.main_forwards);
}

static fm_status run_rows(job *j, piece_log *log, fm_err *err)
{
    fm_generate_opts *ask = calloc((size_t)j->n_rows, sizeof *ask);
    fm_generated *done = calloc((size_t)j->n_rows, sizeof *done);
    int *seqs = calloc((size_t)j->n_rows, sizeof *seqs);
    fm_status st = ask && done && seqs ? FM_OK : FM_E_NOMEM;
    if (st) snprintf(err->text, sizeof err->text, "out of memory");
    for (int i = 0; i < j->n_rows && !st; i++) {
        seqs[i] = i;
        ask[i] = speak_ask(&j->s);
        ask[i].fn = on_piece;
        ask[i].arg = &log[i];
        st = fm_session_push_ids(j->s.session, i, j->rows[i].prompt.data, j->rows[i].prompt.n, err);
    }
    if (!st) st = fm_session_generate_batch(j->s.session, j->n_rows, seqs, ask, done, err);
    for (int i = 0; i < j->n_rows && !st; i++) j->rows[i].done = done[i];
    free(ask);
    free(done);
    free(seqs);
    return st;
}

static int report(const job *j, const piece_log *log)
{
    int64_t tokens = 0;
    for (int i = 0; i < j->n_rows; i++) {
        const row *r = &j->rows[i];
        tokens += (int64_t)log[i].n_ids;
        if (j->s.common.json) print_json(j, r, &log[i]);
        else if (r->stream) printf("\n");
        else if (r->named) printf("%.*s\n", (int)log[i].n_text, log[i].text ? log[i].text : "");
        else {
            text_print_ids(&(fm_ids){.data = log[i].ids, .n = log[i].n_ids});
            printf("\n");
        }
    }
    int rc = text_finish("generate");
    if (!j->s.common.json) {
        char line[200];
        speak_summary(&j->s, tokens, line, sizeof line);
        fprintf(stderr, "%s\n", line);
    }
    return rc ? rc : speak_interrupted ? 130 : 0;
}

/* Without --context a session has just the room that is needed. */
static int64_t room(const job *j)
{
    int64_t longest = 1;
    for (int i = 0; i < j->n_rows; i++)
        if ((int64_t)j->rows[i].prompt.n > longest) longest = (int64_t)j->rows[i].prompt.n;
    return longest + j->s.tokens;
}

static int dry_run(job *j)
{
    cli_buf bytes;
    j->s.session_opts.sequences = j->n_rows;
    j->s.session_opts.context_max = j->s.context_max ? j->s.context_max : room(j);
    size_t n = fm_session_bytes(j->s.model, &j->s.session_opts);
    if (j->s.common.json)
        printf("{\"session_bytes\": %zu, \"sequences\": %d, \"context\": %lld}\n", n, j->n_rows,
               (long long)j->s.session_opts.context_max);
    else
        printf("session: %s (%d sequence%s of %lld tokens)\n", cli_bytes((double)n, &bytes),
               j->n_rows, j->n_rows == 1 ? "" : "s", (long long)j->s.session_opts.context_max);
    return text_finish("generate");
}

static int run(job *j)
{
    fm_err err = {0};
    int rc = speak_open(&j->s);
    if (rc != CLI_GO_ON) return rc;
    if (!(j->ids_path ? read_ids(j, &err) : read_prompt(j, &err))) return fail(err.text);
    for (int i = 0; i < j->n_rows; i++) {
        j->rows[i].named = j->s.tok != NULL;
        j->rows[i].stream = !j->s.common.json && j->n_rows == 1;
        if (j->rows[i].prompt.n == 0) return fail("the prompt is empty");
    }
    if (j->s.common.dry_run) return dry_run(j);
    fm_status st = speak_open_session(&j->s, j->n_rows, room(j), &err);
    if (st) return fail(err.text);
    piece_log *log = calloc((size_t)j->n_rows, sizeof *log);
    if (!log) return fail("out of memory");
    for (int i = 0; i < j->n_rows; i++) log[i].r = &j->rows[i];
    speak_catch_interrupt(true);
    st = run_rows(j, log, &err);
    bool no_memory = false;
    for (int i = 0; i < j->n_rows; i++) no_memory = no_memory || log[i].no_memory;
    rc = st ? fail(err.text) : no_memory ? fail("out of memory") : report(j, log);
    for (int i = 0; i < j->n_rows; i++) {
        free(log[i].ids);
        free(log[i].text);
    }
    free(log);
    return rc;
}

int cmd_generate(int argc, char **argv)
{
    static job j;
    static const cli_option options[] = {
        {"prompt", CLI_TEXT, &j.prompt, "TEXT", "the text to continue; - reads standard input"},
        {"ids", CLI_TEXT, &j.ids_path, "FILE",
         "or token ids: JSON [..] or [[..], ..], the rows as one batch; - reads standard input"},
        SPEAK_OPTIONS(&j.s),
        {"no-bos", CLI_FLAG, &j.no_bos, NULL, "no begin-of-sentence token before the text"},
        CLI_OPT_JSON(&j.s.common),
        CLI_OPT_DRY_RUN(&j.s.common),
    };
    static const cli_command command = {
        "generate", "--model M (--prompt TEXT | --ids FILE) [--tokens N] [options]",
        "Continues a text or rows of token ids. With --json one object a row: ids (new tokens "
        "only), text, stop, tokens_per_second, drafted, accepted, main_forwards.",
        options, CLI_COUNT(options), 0};
    speak_init(&j.s, "generate");
    j.s.tokens = 128;
    int rc = cli_parse(&command, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!j.prompt == !j.ids_path) return cli_wrong("generate", "give one of --prompt and --ids");
    j.rows = calloc(ROWS_MAX, sizeof *j.rows);
    if (!j.rows) return fail("out of memory");
    rc = run(&j);
    for (int i = 0; i < j.n_rows; i++) fm_ids_deinit(&j.rows[i].prompt);
    free(j.rows);
    speak_close(&j.s);
    return rc;
}
