/* fathom grad: loss, gradients and balance figures to hold against other implementations. */
#include <stdlib.h>

#include "cli.h"
#include "ids_file.h"

typedef struct args {
    cli_common c;
    const char *ids;
    fm_grad_opts o;
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
    fm_model_opts o = {.writable = true};
    rc = cli_precision("grad", a->c.precision, FM_DTYPE_F32, &o.precision);
    if (rc == CLI_GO_ON) rc = ids_file_read("grad", a->ids, &ids, &rows, &length);
    if (rc == CLI_GO_ON) rc = cli_model_path("grad", a->c.model, &path);
    if (rc == CLI_GO_ON) rc = cli_context("grad", &a->c, &x);
    if (rc == CLI_GO_ON && fm_model_open(x, path.data, &o, &m, &err)) rc = cli_fail("grad", "%s", err.text);
    if (rc == CLI_GO_ON)
        rc = ids_file_check("grad", a->ids, ids, rows, length, fm_model_vocab(m));
    if (rc == CLI_GO_ON && fm_model_grad(m, ids, rows, length, &a->o, a->c.out, &err))
        rc = cli_fail("grad", "%s", err.text);
    fm_model_close(m);
    fm_context_close(x);
    fm_text_deinit(&path);
    free(ids);
    return rc == CLI_GO_ON ? CLI_DONE : rc;
}

int cmd_grad(int argc, char **argv)
{
    args a = {.o = {.mtp_weight = 0.3}};
    const cli_option options[] = {
        CLI_OPT_MODEL(&a.c),
        {"ids", CLI_TEXT, &a.ids, "FILE", "token ids as JSON, [[..], ..], rows of equal length"},
        {"out", CLI_TEXT, &a.c.out, "FILE",
         "safetensors file: loss, mtp_loss, grad.<tensor>, router.<layer>.*"},
        {"mtp-weight", CLI_REAL, &a.o.mtp_weight, "X", "weight of the MTP loss (default 0.3)"},
        {"seq-balance", CLI_REAL, &a.o.seq_balance, "A",
         "weight of the sequence balance loss (default 0)"},
        {"recompute", CLI_FLAG, &a.o.recompute, NULL,
         "recompute activations in the backward pass; no router.*"},
        CLI_OPT_PRECISION(&a.c),
        CLI_OPT_DEVICE(&a.c),
        CLI_OPT_THREADS(&a.c),
        CLI_OPT_ISA(&a.c),
    };
    const cli_command c = {
        "grad",
        "--model M --ids FILE --out OUT.safetensors [options]",
        "Writes the gradient of loss + mtp-weight x mtp_loss (+ seq-balance x balance loss) of "
        "every\nweight. Each row of ids is one document. Default precision: f32.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!a.c.model || !a.ids || !a.c.out) return cli_wrong("grad", "--model, --ids and --out are needed");
    return run(&a);
}
