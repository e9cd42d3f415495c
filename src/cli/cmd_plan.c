/* fathom plan: what a shape is, what training and using it take, whether that fits in this
 * machine's memory, and how long so many tokens last at a given or measured speed. Allocates
 * nothing large. */
#include <stdio.h>
#include <string.h>

#include "cli.h"
#include "fathom/machine.h"

/* Share of the measured ceiling that a whole training step is assumed to reach when no speed is
 * given. */
#define TRAINING_SHARE 0.2

typedef struct job {
    cli_common c;
    const char *preset;
    int64_t depth, tokens, batch, seq, context, sequences, chunk;
    double speed;
    bool recompute;
    const char *optimizer;
    fm_dtype precision;
} job;

typedef struct result {
    fm_shape shape;
    fm_memory training, use;
    int64_t memory, available;
    double flops_per_s, tokens_per_s, seconds; /* 0: unknown */
    bool measured;
} result;

static int memory_of(const job *j, const fm_shape_opts *s, result *r)
{
    fm_err err = {0};
    const fm_memory_opts train = {.precision = j->precision,
                                  .training = true,
                                  .recompute = j->recompute,
                                  .muon = !strcmp(j->optimizer, "muon"),
                                  .arrays = !strcmp(j->optimizer, "ademamix"),
                                  .soap_side = strcmp(j->optimizer, "soap") ? 0 : 1024,
                                  .rows = j->batch,
                                  .length = j->seq,
                                  .threads = (int)j->c.threads};
    const fm_memory_opts use = {.precision = j->precision, .rows = j->chunk, .length = j->context,
                                .sequences = j->sequences, .threads = (int)j->c.threads};
    if (fm_shape_memory(s, &train, &r->training, &err) || fm_shape_memory(s, &use, &r->use, &err))
        return cli_fail("plan", "%s", err.text);
    return CLI_GO_ON;
}

static int speed_of(const job *j, result *r)
{
    fm_ceiling ceilings[FM_CEILINGS_MAX];
    fm_err err = {0};
    int n = 0;
    if (j->speed > 0) {
        r->tokens_per_s = j->speed;
    } else if (j->tokens > 0) {
        const char *want = j->precision == FM_DTYPE_BF16 ? "amx_bf16" : "fma_f32";
        if (fm_machine_measure_compute(j->c.isa, (int)j->c.threads, 1, ceilings, &n, &err))
            return cli_fail("plan", "%s", err.text);
        for (int i = 0; i < n; i++) {
            bool f32 = !strcmp(ceilings[i].name, "fma_f32");
            if (!strcmp(ceilings[i].name, want) || (f32 && r->flops_per_s == 0))
                r->flops_per_s = ceilings[i].value > 0 ? ceilings[i].value : r->flops_per_s;
        }
        r->measured = true;
        r->tokens_per_s = TRAINING_SHARE * r->flops_per_s / r->shape.flops_training;
    }
    if (r->tokens_per_s > 0) r->seconds = (double)j->tokens / r->tokens_per_s;
    return CLI_GO_ON;
}

static void print_memory(const char *what, const fm_memory *m, const result *r)
{
    const struct {
        const char *name; int64_t bytes;
    } rows[] = {{"weights", m->weights},         {"masters", m->masters},
                {"gradients", m->gradients},     {"moments", m->moments},
                {"activations", m->activations}, {"cache", m->cache},
                {"workspace", m->workspace}};
    cli_buf a, b;
    const char *largest = "";
    int64_t most = -1;
    printf("%-12s%s", what, cli_bytes((double)m->total, &a));
    for (int i = 0; i < CLI_COUNT(rows); i++) {
        if (rows[i].bytes > most) most = rows[i].bytes, largest = rows[i].name;
        if (rows[i].bytes)
            printf("%s %s %s", i ? "," : ":", rows[i].name, cli_bytes((double)rows[i].bytes, &b));
    }
    if (r->available <= 0) printf("\n");
    else if (m->total <= r->available)
        printf("\n            fits: %s are available\n", cli_bytes((double)r->available, &a));
    else
        printf("\n            does not fit: %s are available, %s; most of it is %s\n",
               cli_bytes((double)r->available, &a),
               m->total <= r->memory ? "others hold the rest" : "more than the machine has",
               largest);
}

static void print_text(const job *j, const result *r)
{
    const fm_shape *s = &r->shape;
    cli_buf a, b, c;
    printf("parameters  %s total, %s active (%s without the input embedding)\n",
           cli_count((double)s->total, &a), cli_count((double)s->active, &b),
           cli_count((double)s->active_no_embed, &c));
    if (s->mtp_layers)
        printf("            %s more in the MTP module\n", cli_count((double)s->mtp_total, &a));
    printf("FLOPs       %s a token training, %s forward, %s for the MTP module (rows of %lld)\n",
           cli_count(s->flops_training, &a), cli_count(s->flops_forward, &b),
           cli_count(s->flops_mtp, &c), (long long)s->length);
    printf("            without embedding and head: M %s a token (DeepSeek LLM's count), 6N %s\n",
           cli_count(s->flops_m, &a), cli_count(s->flops_6n, &b));
    printf("latent KV   %lld bytes a token in bf16\n", (long long)s->kv_bytes_bf16);
    printf(
        "\n%s, micro-batch of %lld tokens in rows of %lld; use: %lld x %lld tokens, "
        "prompts in chunks of %lld\n",
        j->precision == FM_DTYPE_BF16 ? "bf16" : "f32", (long long)j->batch, (long long)j->seq,
        (long long)j->sequences, (long long)j->context, (long long)j->chunk);
    print_memory("training", &r->training, r);
    print_memory("use", &r->use, r);
    if (r->seconds <= 0) return;
    printf("\ntime        %s for %s tokens at %.0f tokens/s", cli_duration(r->seconds, &a),
           cli_count((double)j->tokens, &b), r->tokens_per_s);
    if (r->measured)
        printf(", %.0f%% of the %s FLOP/s measured here", 100 * TRAINING_SHARE,
               cli_count(r->flops_per_s, &c));
    putchar('\n');
}

static void json_memory(const char *name, const fm_memory *m, const result *r)
{
    printf(
        ", \"%s\": {\"weights\": %lld, \"masters\": %lld, \"gradients\": %lld, \"moments\": %lld, "
        "\"activations\": %lld, \"cache\": %lld, \"workspace\": %lld, \"total\": %lld, "
        "\"fits\": %s}",
        name, (long long)m->weights, (long long)m->masters, (long long)m->gradients,
        (long long)m->moments, (long long)m->activations, (long long)m->cache,
        (long long)m->workspace, (long long)m->total,
        r->available <= 0          ? "null"
        : m->total <= r->available ? "true"
                                   : "false");
}

static void print_json(const job *j, const result *r)
{
    const fm_shape *s = &r->shape;
    printf(
        "{\"parameters\": {\"total\": %lld, \"active\": %lld, "
        "\"active_no_embedding\": %lld, \"mtp\": %lld}",
        (long long)s->total, (long long)s->active, (long long)s->active_no_embed,
        (long long)s->mtp_total);
    printf(
        ", \"flops_per_token\": {\"length\": %lld, \"forward\": %.0f, \"mtp\": %.0f, "
        "\"training\": %.0f, "
        "\"decode\": %.0f, \"m\": %.0f, \"six_n\": %.0f}",
        (long long)s->length, s->flops_forward, s->flops_mtp, s->flops_training, s->flops_decode, s->flops_m,
        s->flops_6n);
    printf(", \"kv_bytes_per_token\": {\"f32\": %lld, \"bf16\": %lld}",
           4 * (long long)s->kv_elements, (long long)s->kv_bytes_bf16);
    json_memory("training", &r->training, r);
    json_memory("use", &r->use, r);
    printf(", \"memory\": {\"total\": %lld, \"available\": %lld}", (long long)r->memory,
           (long long)r->available);
    if (r->seconds > 0)
        printf(", \"tokens\": %lld, \"tokens_per_second\": %.6g, \"seconds\": %.6g",
               (long long)j->tokens, r->tokens_per_s, r->seconds);
    printf("}\n");
}

static int run(job *j)
{
    fm_err err = {0};
    result r = {0};
    fm_machine machine;
    fm_text path = {0};
    fm_shape_opts s = {
        .preset = j->preset, .set = j->c.set.item, .n_set = j->c.set.n, .depth = j->depth};
    int rc = CLI_GO_ON;
    if (!j->preset) {
        rc = cli_model_path("plan", j->c.model, &path);
        s.model = path.data;
    }
    if (rc == CLI_GO_ON && fm_shape_get(&s, j->seq, &r.shape, &err))
        rc = cli_fail("plan", "%s", err.text);
    if (rc == CLI_GO_ON && j->context == 0)
        j->context = r.shape.max_positions < 8192 ? r.shape.max_positions : 8192;
    if (rc == CLI_GO_ON) rc = memory_of(j, &s, &r);
    if (rc == CLI_GO_ON) rc = speed_of(j, &r);
    if (rc == CLI_GO_ON) {
        fm_machine_describe(&machine);
        r.memory = machine.memory_bytes;
        r.available = machine.memory_available_bytes;
        if (j->c.json) print_json(j, &r);
        else print_text(j, &r);
        rc = CLI_DONE;
    }
    fm_text_deinit(&path);
    return rc;
}

int cmd_plan(int argc, char **argv)
{
    job j = {.seq = 512, .batch = 4096, .sequences = 1, .chunk = 2048, .optimizer = "muon"};
    const cli_option options[] = {
        {"preset", CLI_TEXT, &j.preset, "P", "pico, nano, micro, mini, v2-lite, v2, v3 or v3-slim"},
        CLI_OPT_MODEL(&j.c),
        {"set", CLI_LIST, &j.c.set, "model.key=value", "a key of config.json; may be repeated"},
        {"depth", CLI_INT, &j.depth, "N", "layers"},
        {"tokens", CLI_INT, &j.tokens, "N", "training tokens, for the time (12, 5k, 3.2M, 1G)"},
        {"batch", CLI_INT, &j.batch, "N", "tokens of a micro-batch (default 4096)"},
        {"seq", CLI_INT, &j.seq, "N", "tokens of a packed row (default 512)"},
        {"context", CLI_INT, &j.context, "N",
         "tokens of a sequence in use (default: the model's, at most 8192)"},
        {"sequences", CLI_INT, &j.sequences, "N", "sequences in use at once (default 1)"},
        {"chunk", CLI_INT, &j.chunk, "N", "prompt tokens of a forward pass (default 2048)"},
        {"speed", CLI_REAL, &j.speed, "TOKENS/S",
         "training speed (default: estimated from a short measurement)"},
        {"recompute", CLI_FLAG, &j.recompute, NULL, "activations again in the backward pass"},
        {"optimizer", CLI_TEXT, &j.optimizer, "NAME",
         "whose memory counts: muon (default), adamw, ademamix or soap"},
        CLI_OPT_PRECISION(&j.c),
        CLI_OPT_THREADS(&j.c),
        CLI_OPT_ISA(&j.c),
        CLI_OPT_JSON(&j.c),
    };
    const cli_command c = {
        "plan",
        "(--preset P | --model M) [options]",
        "Prints parameters, FLOPs and bytes by purpose, and whether this machine's memory "
        "holds them.",
        options,
        CLI_COUNT(options),
        0};
    int rc = cli_parse(&c, argc, argv, NULL, NULL);
    if (rc != CLI_GO_ON) return rc;
    if (!j.preset == !j.c.model) return cli_wrong("plan", "expected --preset or --model");
    static const char *const known[] = {"adamw", "muon", "ademamix", "soap"};
    size_t k = 0;
    while (k < 4 && strcmp(j.optimizer, known[k])) k++;
    if (k == 4) return cli_wrong("plan", "--optimizer: expected adamw, muon, ademamix or soap");
    rc = cli_precision("plan", j.c.precision, FM_DTYPE_BF16, &j.precision);
    return rc == CLI_GO_ON ? run(&j) : rc;
}
