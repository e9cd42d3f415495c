/* fathom pretrain: text or token shards to a model. The same command on the same directory goes on. */
#include <stdio.h>
#include <string.h>

#include "train_view.h"

typedef struct job {
    cli_common c;
    const char *preset, *data, *val, *prompt;
    cli_list text;
    double minutes, flops;
    int64_t tokens, steps, seq;
} job;

static void print_plan(const fm_train_plan *p, bool json)
{
    cli_buf a, b, c, d, e, f, g, h;
    if (json) {
        printf("{\"parameters\": %lld, \"active_parameters\": %lld, \"flops_per_token\": %.0f, "
               "\"weights\": %lld, \"gradients\": %lld, \"optimizer\": %lld, \"activations\": %lld, "
               "\"batch\": %lld, \"other\": %lld, \"peak_bytes\": %lld, \"tokens\": %lld, "
               "\"steps\": %lld, \"batch_tokens\": %lld, "
               "\"micro_tokens\": %lld, \"lr\": %.9g, \"seconds\": %.1f}\n",
               (long long)p->parameters, (long long)p->active_parameters, p->flops_per_token,
               (long long)p->weights, (long long)p->gradients, (long long)p->optimizer,
               (long long)p->activations, (long long)p->batch, (long long)p->other, (long long)p->peak,
               (long long)p->tokens, (long long)p->steps, (long long)p->batch_tokens,
               (long long)p->micro_tokens, p->lr, p->seconds);
        return;
    }
    printf("parameters   %s, %s active; %s FLOPs a token\n", cli_count((double)p->parameters, &a),
           cli_count((double)p->active_parameters, &b), cli_count(p->flops_per_token, &c));
    printf("memory       %s at the peak: weights %s, gradients %s, optimizer %s,\n"
           "             activations %s, batch %s, other %s\n", cli_bytes((double)p->peak, &a),
           cli_bytes((double)p->weights, &b), cli_bytes((double)p->gradients, &c),
           cli_bytes((double)p->optimizer, &d), cli_bytes((double)p->activations, &e),
           cli_bytes((double)p->batch, &f), cli_bytes((double)p->other, &g));
    if (p->tokens)
        printf("run          %s tokens in %lld steps of %lld (micro-batches of %lld), learning rate %.3g\n",
               cli_count((double)p->tokens, &a), (long long)p->steps, (long long)p->batch_tokens,
               (long long)p->micro_tokens, p->lr);
    else
        printf("run          tokens, batch and learning rate follow from the speed of the first seconds\n");
    if (p->seconds > 0) printf("time         %s\n", cli_duration(p->seconds, &h));
}

/* Training FLOP/s expected of this machine: a fifth of its ceiling. */
static double expected_rate(const job *j, bool bf16, double flops_per_token)
{
    train_view v = {0};
    train_view_measure(&v, j->c.isa, j->c.threads, bf16);
    return flops_per_token > 0 ? 0.2 * v.peak / flops_per_token : 0;
}

static int dry_run(const job *j, const fm_train_opts *o)
{
    fm_err err = {0};
    fm_train_plan p;
    fm_status st = fm_train_plan_make(o, 0, &p, &err);
    bool bf16 = !o->precision || strcmp(o->precision, "f32");
    if (!st) st = fm_train_plan_make(o, expected_rate(j, bf16, p.flops_per_token), &p, &err);
    if (st) return cli_fail("pretrain", "%s", err.text);
    print_plan(&p, j->c.json);
    return CLI_DONE;
}

static int run(job *j)
{
    fm_err err = {0};
    fm_text path = {0};
    fm_exec *x = NULL;
    fm_trainer *t = NULL;
    int rc = j->c.model ? cli_model_path("pretrain", j->c.model, &path) : CLI_GO_ON;
    fm_train_opts o = {.out = j->c.out, .preset = j->preset, .model = path.data, .recipe = j->c.recipe,
                       .set = j->c.set.item, .n_set = j->c.set.n, .text = j->text.item,
                       .n_text = j->text.n, .data = j->data, .val = j->val, .minutes = j->minutes,
                       .flops = j->flops, .tokens = j->tokens, .steps = j->steps, .seq = j->seq,
                       .precision = j->c.precision, .seed = j->c.seed, .threads = (int)j->c.threads};
    if (rc == CLI_GO_ON && j->c.dry_run) rc = dry_run(j, &o);
    if (rc == CLI_GO_ON) rc = cli_context("pretrain", &j->c, &x);
    if (rc == CLI_GO_ON) {
        train_view v = {.command = "pretrain", .prompt = j->prompt, .json = j->c.json};
        fm_train_hooks hooks = train_view_hooks(&v);
        if (fm_trainer_open(x, &o, &hooks, &t, &err)) rc = cli_fail("pretrain", "%s", err.text);
        if (rc == CLI_GO_ON && !j->c.json) {
            fprintf(stderr, "run: %s\n", fm_trainer_dir(t));
            train_view_measure(&v, j->c.isa, j->c.threads, !o.precision || strcmp(o.precision, "f32"));
        }
        if (rc == CLI_GO_ON) rc = train_view_run(&v, t);
    }
    fm_context_close(x);
    fm_text_deinit(&path);
    return rc;
}

int cmd_pretrain(int argc, char **argv)
{
    static job j;
    char **args;
    int n_args;
    j = (job){.c.seed = -1, .prompt = "Once upon a time"};
    const cli_option options[] = {
        {"text", CLI_LIST, &j.text, "FILE[:WEIGHT]",
         "text to train on (.txt, .jsonl, .gz, .zst); further files may follow"},
        {"data", CLI_TEXT, &j.data, "DIR", "token shards made by fathom data, instead of text"},
        {"val", CLI_TEXT, &j.val, "FILE", "held-out text (default: about one document in fifty, by hash)"},
        {"preset", CLI_TEXT, &j.preset, "P", "pico, nano, micro, mini .. (default: nano)"},
        {"model", CLI_TEXT, &j.c.model, "M", "continue from this checkpoint instead of a fresh preset"},
        {"minutes", CLI_REAL, &j.minutes, "N", "the stop: time"},
        {"tokens", CLI_INT, &j.tokens, "N", "the stop: tokens (default: 20 for each active parameter)"},
        {"flops", CLI_REAL, &j.flops, "N", "the stop: training FLOPs"},
        {"steps", CLI_INT, &j.steps, "N", "the stop: optimizer steps"},
        {"seq", CLI_INT, &j.seq, "N", "tokens of a packed row (default: 512)"},
        {"prompt", CLI_TEXT, &j.prompt, "TEXT", "continued at 1, 10, 50 and 100 percent; \"\": never"},
        CLI_OPT_OUT(&j.c), CLI_OPT_RECIPE(&j.c), CLI_OPT_SET(&j.c), CLI_OPT_SEED(&j.c),
        CLI_OPT_THREADS(&j.c), CLI_OPT_DEVICE(&j.c), CLI_OPT_PRECISION(&j.c), CLI_OPT_ISA(&j.c),
        CLI_OPT_DRY_RUN(&j.c), CLI_OPT_JSON(&j.c),
    };
    const cli_command command = {
        "pretrain", "(--text FILE[:WEIGHT]... | --data DIR) [--preset P] [--minutes N] [options]",
        "Trains a model on text: tokenizer, token shards and model in one go, in a run directory "
        "(runs/pretrain-<preset>-<time> unless --out says otherwise). The same command on the same directory "
        "goes on where it stopped. Learning rate, batch and schedule follow from size and stop unless set "
        "(--set train.lr=.., docs/training.md).",
        options, CLI_COUNT(options), CLI_LIST_MAX};
    int rc = cli_parse(&command, argc, argv, &args, &n_args);
    if (rc != CLI_GO_ON) return rc;
    for (int i = 0; i < n_args; i++) {
        if (!j.text.n) return cli_wrong("pretrain", "unexpected argument \"%s\"", args[i]);
        if (j.text.n == CLI_LIST_MAX) return cli_wrong("pretrain", "more than %d text files", CLI_LIST_MAX);
        j.text.item[j.text.n++] = args[i];
    }
    return run(&j);
}
