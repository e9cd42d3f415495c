/* fathom convert: a checkpoint written anew, in another dtype, in shards, or without its MTP
 * module. */
#include <stdio.h>
#include <string.h>

#include "cli.h"

int cmd_convert(int argc, char **argv)
{
    cli_common common = {0};
    const char *dtype = NULL;
    bool no_mtp = false;
    int64_t shard = 0;
    const cli_option options[] = {
        CLI_OPT_MODEL(&common),
        CLI_OPT_OUT(&common),
        {"no-mtp", CLI_FLAG, &no_mtp, NULL, "leave the multi-token-prediction module out"},
        {"dtype", CLI_TEXT, &dtype, "bf16|f32",
         "stored dtype (default: f32 stays, the rest becomes bf16)"},
        {"shard-bytes", CLI_INT, &shard, "N", "largest file (default 4 GiB)"},
        CLI_OPT_THREADS(&common),
        {"device", CLI_TEXT, &common.device, "cpu", NULL},
    };
    const cli_command c = {
        "convert",
        "--model M --out DIR [options]",
        "Writes a checkpoint anew as a complete Hugging Face directory. FP8 weights widen as "
        "code x scale. Tokenizer files are copied.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    fm_convert_opts o = {.no_mtp = no_mtp, .keep_dtype = !dtype, .shard_bytes_max = shard};
    if (!common.out) return cli_wrong("convert", "--out is missing");
    if (shard < 0) return cli_wrong("convert", "--shard-bytes: expected at least 1");
    rc = cli_precision("convert", dtype, FM_DTYPE_BF16, &o.stored);
    if (rc != CLI_GO_ON) return rc;
    fm_text path = {0};
    fm_exec *x = NULL;
    fm_err err = {0};
    rc = cli_model_path("convert", common.model, &path);
    if (rc != CLI_GO_ON) return rc;
    rc = cli_context("convert", &common, &x);
    if (rc == CLI_GO_ON) {
        fm_status st = fm_checkpoint_convert(x, path.data, &o, common.out, &err);
        rc = st ? cli_fail("convert", "%s", err.text) : CLI_DONE;
        if (!st) printf("%s\n", common.out);
    }
    fm_context_close(x);
    fm_text_deinit(&path);
    return rc;
}
