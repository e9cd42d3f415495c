/* fathom init: a checkpoint with random weights. With --tokenizer the vocabulary and the special
 * ids follow it, unless --set says otherwise. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "fathom/tokenizer.h"

typedef struct job {
    cli_common c;
    const char *preset, *tokenizer;
    int64_t depth;
    char from_tokenizer[4][64];   /* settings that the tokenizer implies */
    const char *set[CLI_LIST_MAX + 4];
    int n_set;
} job;

static void add_id(job *j, int slot, const char *key, int64_t value)
{
    if (value < 0) return;
    snprintf(j->from_tokenizer[slot], sizeof j->from_tokenizer[slot], "model.%s=%lld", key,
             (long long)value);
    j->set[j->n_set++] = j->from_tokenizer[slot];
}

/* The tokenizer's settings first, so that --set wins. */
static int collect(job *j)
{
    fm_err err = {0};
    fm_tokenizer *tok = NULL;
    if (j->tokenizer) {
        if (fm_tokenizer_open(j->tokenizer, &tok, &err)) return cli_fail("init", "%s", err.text);
        add_id(j, 0, "vocab_size", fm_tokenizer_vocab_size(tok));
        add_id(j, 1, "bos_token_id", fm_tokenizer_bos(tok));
        add_id(j, 2, "eos_token_id", fm_tokenizer_eos(tok));
        add_id(j, 3, "pad_token_id", fm_tokenizer_pad(tok));
        fm_tokenizer_free(tok);
    }
    for (int i = 0; i < j->c.set.n; i++) j->set[j->n_set++] = j->c.set.item[i];
    return CLI_GO_ON;
}

static int run(job *j)
{
    fm_err err = {0};
    fm_exec *x = NULL;
    fm_shape shape;
    fm_init_opts o = {
        .shape = {.preset = j->preset, .set = j->set, .n_set = j->n_set, .depth = j->depth},
        .seed = (uint64_t)j->c.seed,
        .tokenizer_dir = j->tokenizer};
    cli_buf a, b;
    int rc = cli_precision("init", j->c.precision, FM_DTYPE_BF16, &o.stored);
    if (rc != CLI_GO_ON) return rc;
    if (fm_shape_get(&o.shape, 0, &shape, &err)) return cli_fail("init", "%s", err.text);
    double bytes = (double)(shape.total + shape.mtp_total) * (double)fm_dtype_bytes(o.stored);
    if (!j->c.dry_run) {
        rc = cli_context("init", &j->c, &x);
        if (rc != CLI_GO_ON) return rc;
        fm_status st = fm_checkpoint_init(x, &o, j->c.out, &err);
        fm_context_close(x);
        if (st) return cli_fail("init", "%s", err.text);
    }
    printf("%s%s: %s parameters, %s\n", j->c.dry_run ? "would write " : "", j->c.out,
           cli_count((double)(shape.total + shape.mtp_total), &a), cli_bytes(bytes, &b));
    return CLI_DONE;
}

int cmd_init(int argc, char **argv)
{
    job j = {.c = {.seed = 1}};
    const cli_option options[] = {
        {"preset", CLI_TEXT, &j.preset, "P", "pico, nano, micro, mini, v2-lite, v2, v3 or v3-slim"},
        CLI_OPT_OUT(&j.c),
        CLI_OPT_SEED(&j.c),
        {"precision", CLI_TEXT, &j.c.precision, "f32|bf16",
         "dtype of the stored weights (default bf16)"},
        {"set", CLI_LIST, &j.c.set, "model.key=value", "a key of config.json; may be repeated"},
        {"depth", CLI_INT, &j.depth, "N", "layers"},
        {"tokenizer", CLI_TEXT, &j.tokenizer, "DIR",
         "copy this tokenizer; vocabulary and special ids follow it"},
        CLI_OPT_THREADS(&j.c),
        CLI_OPT_DRY_RUN(&j.c),
        {"device", CLI_TEXT, &j.c.device, "cpu", NULL},
    };
    const cli_command c = {
        "init",
        "--preset P --out DIR [options]",
        "Writes a checkpoint with random weights: a complete Hugging Face directory.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!j.preset) return cli_wrong("init", "--preset is missing");
    if (!j.c.out) return cli_wrong("init", "--out is missing");
    rc = collect(&j);
    return rc == CLI_GO_ON ? run(&j) : rc;
}
