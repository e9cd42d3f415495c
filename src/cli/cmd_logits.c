/* fathom logits: numbers to hold against other implementations. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"
#include "ids_file.h"

typedef struct args {
    cli_common c;
    const char *ids, *mla;
    bool hidden, mtp;
    int64_t chunk;
} args;

static int run(const args *a)
{
    int rc;
    fm_err err = {0};
    fm_text path = {0};
    fm_exec *x = NULL;
    fm_model *m = NULL;
    int32_t *ids = NULL;
    int64_t rows = 0, length = 0;
    fm_model_opts o = {.absorbed = a->mla && !strcmp(a->mla, "absorbed"), .skip_mtp = !a->mtp};
    fm_logits_opts lo = {.hidden = a->hidden, .mtp = a->mtp, .chunk = a->chunk};
    rc = cli_precision("logits", a->c.precision, FM_DTYPE_F32, &o.precision);
    if (rc == CLI_GO_ON) rc = ids_file_read("logits", a->ids, &ids, &rows, &length);
    if (rc == CLI_GO_ON) rc = cli_model_path("logits", a->c.model, &path);
    if (rc == CLI_GO_ON) rc = cli_context("logits", &a->c, &x);
    if (rc == CLI_GO_ON && fm_model_open(x, path.data, &o, &m, &err)) rc = cli_fail("logits", "%s", err.text);
    if (rc == CLI_GO_ON)
        rc = ids_file_check("logits", a->ids, ids, rows, length, fm_model_vocab(m));
    if (rc == CLI_GO_ON && fm_model_logits(m, ids, rows, length, &lo, a->c.out, &err))
        rc = cli_fail("logits", "%s", err.text);
    fm_model_close(m);
    fm_context_close(x);
    fm_text_deinit(&path);
    free(ids);
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

int cmd_logits(int argc, char **argv)
{
    args a = {0};
    const cli_option options[] = {
        CLI_OPT_MODEL(&a.c),
        {"ids", CLI_TEXT, &a.ids, "FILE", "token ids as JSON, [[..], ..], rows of equal length"},
        {"out", CLI_TEXT, &a.c.out, "FILE", "safetensors file: logits [B, T, vocabulary] f32"},
        {"hidden", CLI_FLAG, &a.hidden, NULL, "also hidden.0 (embedding) .. hidden.L (after the final norm)"},
        {"mtp", CLI_FLAG, &a.mtp, NULL, "also mtp_logits [B, T-1, vocabulary]: row i reads token i+1"},
        {"mla", CLI_TEXT, &a.mla, "FORM", "expanded (default) or absorbed"},
        {"chunk", CLI_INT, &a.chunk, "N", "N tokens at a time through the cache; 1 is decoding"},
        CLI_OPT_PRECISION(&a.c), CLI_OPT_DEVICE(&a.c), CLI_OPT_THREADS(&a.c), CLI_OPT_ISA(&a.c),
    };
    const cli_command c = {"logits", "--model M --ids FILE --out OUT.safetensors [options]",
                           "Writes what the model computes for given token ids. Default precision: f32.",
                           options, CLI_COUNT(options), 0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!a.c.model || !a.ids || !a.c.out) return cli_wrong("logits", "--model, --ids and --out are needed");
    if (a.mla && strcmp(a.mla, "absorbed") != 0 && strcmp(a.mla, "expanded") != 0)
        return cli_wrong("logits", "--mla %s: expanded or absorbed is expected", a.mla);
    if (a.chunk < 0) return cli_wrong("logits", "--chunk must be positive");
    return run(&a);
}
