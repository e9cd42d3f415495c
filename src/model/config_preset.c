/* Named shapes, and settings by name (`--set model.KEY=VALUE`). pico to mini are this project's own
 * shapes; v2-lite, v2 and v3 are the published ones, v3-slim is V3 with four layers. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "fathom/nearest.h"
#include "model/config_fields.h"

typedef struct preset {
    const char *name;
    int d, L, dense, H, q, kv, nope, rope, v, ffn, E, K, Ns, M, groups, kept, vocab;
} preset;

static const preset presets[] = {
    /* name     d    L  k0   H    q    kv  N    R   V    ffn    E   K Ns  M     groups vocab */
    {"pico",   64,   4, 1,   4,   40,  24, 16,  8,  12,  144,   16, 4, 1, 40,   4, 2, 320},
    {"nano",   256,  6, 1,   4,   96,  64, 32,  16, 32,  704,   16, 4, 1, 128,  1, 1, 4096},
    {"micro",  512,  8, 1,   8,   192, 128, 32, 16, 32,  1408,  32, 4, 1, 192,  1, 1, 8192},
    {"mini",   1024, 16, 1,  16,  384, 256, 64, 64, 64,  2816,  64, 6, 1, 512,  1, 1, 32768},
    {"v2-lite", 2048, 27, 1, 16,  0,   512, 128, 64, 128, 10944, 64, 6, 2, 1408, 1, 1, 102400},
    {"v2",     5120, 60, 1,  128, 1536, 512, 128, 64, 128, 12288, 160, 6, 2, 1536, 8, 3, 102400},
    {"v3",     7168, 61, 3,  128, 1536, 512, 128, 64, 128, 18432, 256, 8, 1, 2048, 8, 4, 129280},
    {"v3-slim", 7168, 4, 3,  128, 1536, 512, 128, 64, 128, 18432, 256, 8, 1, 2048, 8, 4, 129280},
};
#define N_PRESETS ((int)(sizeof presets / sizeof presets[0]))

static void preset_published(fm_config *c, bool v2, bool lite)
{
    c->max_position_embeddings = 163840;
    c->yarn = true;
    c->yarn_factor = 40;
    c->mscale = c->mscale_all_dim = v2 ? 0.707 : 1.0;
    c->original_max_position_embeddings = 4096;
    if (!v2) return;
    c->bos_token_id = 100000;
    c->eos_token_id = 100001;
    c->method = lite ? FM_ROUTE_GREEDY : FM_ROUTE_GROUP_MAX;
    c->routed_scaling_factor = lite ? 1 : 16;
}

fm_status fmi_config_preset(const char *name, fm_config *out, fm_err *err)
{
    const preset *p = NULL;
    for (int i = 0; i < N_PRESETS; i++)
        if (!strcmp(name, presets[i].name)) p = &presets[i];
    if (!p)
        return FM_FAIL(err, FM_E_UNSUPPORTED,
                       "unknown preset \"%s\"; known: pico, nano, micro, mini, v2-lite, "
                       "v2, v3, v3-slim",
                       name);
    fm_config c;
    bool v2 = !strncmp(name, "v2", 2), published = v2 || name[0] == 'v';
    fmi_config_defaults(v2 ? FM_FAMILY_V2 : FM_FAMILY_V3, &c);
    c.hidden_size = p->d;
    c.num_hidden_layers = p->L;
    c.first_k_dense_replace = p->dense;
    c.num_attention_heads = p->H;
    c.q_lora_rank = p->q;
    c.kv_lora_rank = p->kv;
    c.qk_nope_head_dim = p->nope;
    c.qk_rope_head_dim = p->rope;
    c.v_head_dim = p->v;
    c.intermediate_size = p->ffn;
    c.n_routed_experts = p->E;
    c.num_experts_per_tok = p->K;
    c.n_shared_experts = p->Ns;
    c.moe_intermediate_size = p->M;
    c.n_group = p->groups;
    c.topk_group = p->kept;
    c.vocab_size = p->vocab;
    /* v3-slim is for kernels at full width: a second expert layer would double its memory. */
    c.num_nextn_predict_layers = !published || !strcmp(name, "v3");
    c.max_position_embeddings = 2048;
    if (published) preset_published(&c, v2, !strcmp(name, "v2-lite"));
    fm_status st = fmi_config_check(&c, err);
    if (!st) *out = c;
    return st;
}

static fm_status parse_int(const char *key, const char *value, int *out, fm_err *err)
{
    char *end;
    errno = 0;
    long v = strtol(value, &end, 10);
    if (end == value || *end)
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected an integer, found \"%s\"", key, value);
    if (errno || v < INT_MIN || v > INT_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%s: %s is out of range", key, value);
    *out = (int)v;
    return FM_OK;
}

static fm_status parse_real(const char *key, const char *value, double *out, fm_err *err)
{
    char *end;
    double v = strtod(value, &end);
    if (end == value || *end)
        return FM_FAIL(err, FM_E_FORMAT, "%s: expected a number, found \"%s\"", key, value);
    *out = v;
    return FM_OK;
}

static fm_status parse_bool(const char *key, const char *value, bool *out, fm_err *err)
{
    if (!strcmp(value, "true") || !strcmp(value, "1")) return *out = true, FM_OK;
    if (!strcmp(value, "false") || !strcmp(value, "0")) return *out = false, FM_OK;
    return FM_FAIL(err, FM_E_FORMAT, "%s: expected true or false, found \"%s\"", key, value);
}

static fm_status unknown_key(const char *key, fm_err *err)
{
    const char *names[64] = {"scoring_func", "topk_method", "rope_type"};
    int n = 3;
    for (int i = 0; i < fmi_config_n_fields && n < 64; i++) names[n++] = fmi_config_fields[i].key;
    const char *near = fm_nearest(key, names, n);
    if (!near) return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown model setting \"%s\"", key);
    return FM_FAIL(err, FM_E_UNSUPPORTED, "unknown model setting \"%s\"; nearest: %s", key, near);
}

/* The three settings that are names. Returns false when key is none of them. */
static bool set_name(fm_config *c, const char *key, const char *value, fm_status *st, fm_err *err)
{
    *st = FM_OK;
    if (!strcmp(key, "scoring_func")) {
        if (!fmi_config_scoring_parse(value, &c->scoring))
            *st = FM_FAIL(err, FM_E_UNSUPPORTED,
                          "scoring_func: expected sigmoid or softmax, found \"%s\"", value);
        return true;
    }
    if (!strcmp(key, "topk_method")) {
        if (!fmi_config_method_parse(value, &c->method))
            *st = FM_FAIL(err, FM_E_UNSUPPORTED,
                          "topk_method: expected greedy, group_limited_greedy or noaux_tc, "
                          "found \"%s\"",
                          value);
        return true;
    }
    if (strcmp(key, "rope_type")) return false;
    c->yarn = !strcmp(value, "yarn");
    if (!c->yarn && strcmp(value, "default"))
        *st = FM_FAIL(err, FM_E_UNSUPPORTED, "rope_type: expected default or yarn, found \"%s\"",
                      value);
    return true;
}

fm_status fmi_config_set(fm_config *c, const char *key, const char *value, fm_err *err)
{
    fm_config n = *c;
    fm_status st;
    const char *full = key;
    if (!strncmp(key, "rope_scaling.", 13)) key += 13;
    if (!strncmp(key, "rope_parameters.", 16)) key += 16;
    if (!strcmp(key, "yarn_factor")) key = "factor";
    if (set_name(&n, key, value, &st, err)) {
        if (!st) *c = n;
        return st;
    }
    for (int i = 0; i < fmi_config_n_fields; i++) {
        const fmi_config_field *f = &fmi_config_fields[i];
        if (strcmp(key, f->key)) continue;
        char *at = (char *)&n + f->offset;
        bool null = !strcmp(value, "null");
        if (null && (f->kind == FMI_FIELD_INT_NULL || f->kind == FMI_FIELD_ID))
            *(int *)at = f->none, st = FM_OK;
        else if (f->kind == FMI_FIELD_REAL || f->kind == FMI_FIELD_ROPE_REAL)
            st = parse_real(key, value, (double *)at, err);
        else if (f->kind == FMI_FIELD_BOOL)
            st = parse_bool(key, value, (bool *)at, err);
        else
            st = parse_int(key, value, (int *)at, err);
        if (!st) *c = n;
        return st;
    }
    return unknown_key(full, err);
}
