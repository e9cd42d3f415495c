/* The family of shapes: one rule from width to everything else, so that a study varies one number.
 *
 *   width      d: 24, 32 ..; multiples of 8 to 128, of 16 to 256, of 32 to 512, and so on
 *   layers     round(2 + d/64), the first of them dense
 *   heads      round(d / (2 x no-position head dim)), at least 1; head dims fixed: 16 + 8 rotary,
 * values 16 (those three may be set in study.ini: wide models want wider heads) latents    queries
 * 3d/8, keys and values d/4 (multiples of 8, at least 16) dense FFN  11d/4; an expert d/2
 * (multiples of 16) experts    16 of which 4 are chosen, and a shared one; dense: n_routed_experts
 * 0, whose FFN is as wide as the active experts (the dense twin) no MTP module: its loss is not
 * part of what is fitted
 *
 * Width 256 has nano's depth and widths. Everything else is the nano preset's. Sizes
 * are counted without embedding and head, as DeepSeek LLM does (M: 3 x forward products, attention
 * over the causal half). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/count.h"
#include "scale/study.h"

#define WIDTH_MAX 8192

int fmi_family_next(int width)
{
    int step = 8;
    for (int w = 128; w <= width && step < 256; w *= 2) step *= 2;
    int next = width < 24 ? 24 : width / step * step + step;
    return next <= WIDTH_MAX ? next : 0;
}

static int multiple(double v, int of, int least)
{
    int n = (int)(v / of + 0.5) * of;
    return n < least ? least : n;
}

static fm_status put(json_t *set, const fmi_ini *ini, const char *key, int value, fm_err *err)
{
    static const char *const free_keys[] = {"qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"};
    char text[96];
    snprintf(text, sizeof text, "model.%s", key);
    for (size_t i = 0; i < sizeof free_keys / sizeof *free_keys; i++)
        if (!strcmp(key, free_keys[i]) && fmi_ini_get(ini, text)) return FM_OK;
    snprintf(text, sizeof text, "model.%s=%d", key, value);
    if (json_array_append_new(set, json_string(text))) return FM_FAIL(err, FM_E_NOMEM, "settings");
    return FM_OK;
}

fm_status fmi_family_sets(const fm_study_design_opts *o, const fmi_ini *ini, int width, json_t *set,
                          fm_err *err)
{
    const char *nope = fmi_ini_get(ini, "model.qk_nope_head_dim");
    double d = width, head = nope ? strtod(nope, NULL) : 16;
    int heads = (int)floor(d / (2 * (head > 0 ? head : 16)) + 0.5);
    const struct {
        const char *key;
        int value;
    } sets[] = {{"hidden_size", width},
                {"num_hidden_layers", (int)floor(2.5 + d / 64)},
                {"first_k_dense_replace", 1},
                {"qk_nope_head_dim", 16},
                {"qk_rope_head_dim", 8},
                {"v_head_dim", 16},
                {"num_attention_heads", heads < 1 ? 1 : heads},
                {"q_lora_rank", multiple(3 * d / 8, 8, 16)},
                {"kv_lora_rank", multiple(d / 4, 8, 16)},
                {"intermediate_size", multiple(2.75 * d, 8, 32)},
                {"moe_intermediate_size", multiple(d / 2, 8, 16)},
                {"n_routed_experts", o->dense ? 0 : o->experts},
                {"num_experts_per_tok", o->active},
                {"n_shared_experts", 1},
                {"num_nextn_predict_layers", 0}};
    fm_status st = FM_OK;
    for (size_t i = 0; i < sizeof sets / sizeof *sets && !st; i++)
        st = put(set, ini, sets[i].key, sets[i].value, err);
    return st;
}

static fm_status apply(fm_config *c, const char *key, const char *value, fm_err *err)
{
    return strncmp(key, "model.", 6) ? FM_OK : fmi_config_set(c, key + 6, value, err);
}

fm_status fmi_family_count(const fmi_ini *ini, const json_t *set, int vocab, int seq,
                           fmi_study_size *out, fm_err *err)
{
    fm_config c;
    fm_layout l;
    fm_status st = fmi_config_preset("nano", &c, err);
    for (int i = 0; !st && ini && i < ini->n; i++)
        st = apply(&c, ini->entries[i].key, ini->entries[i].value, err);
    for (size_t i = 0; !st && i < json_array_size(set); i++) {
        char text[256];
        snprintf(text, sizeof text, "%s", json_string_value(json_array_get(set, i)));
        char *value = strchr(text, '=');
        if (!value) return FM_FAIL(err, FM_E_FORMAT, "setting \"%s\": expected key=value", text);
        *value++ = 0;
        st = apply(&c, text, value, err);
    }
    if (!st) {
        c.vocab_size = vocab;
        st = fmi_config_check(&c, err);
    }
    if (!st) st = fmi_layout_new(&c, &l, err);
    if (st) return st;
    fmi_param_counts n;
    fmi_flops f;
    fmi_count_params(&c, &l, &n);
    fmi_count_flops(&c, &l, seq, &f);
    double head = (double)fmi_param_count(&l.params[l.head]),
           embed = (double)(n.active - n.active_no_embed);
    *out = (fmi_study_size){.width = c.hidden_size,
                            .layers = c.num_hidden_layers,
                            .experts = c.n_routed_experts,
                            .params = (double)n.active_no_embed - head,
                            .params_total = (double)n.total - embed - head,
                            .M = 3 * (f.matrices + f.router + f.attention)};
    fmi_layout_free(&l);
    return FM_OK;
}
