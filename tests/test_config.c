/* Configurations: presets, both spellings of the rope keys, YaRN and the softmax scale against
 * published values, what is refused and how it is said, and the round trip through config.json. */
#include "support.h"

#include <math.h>

#include "io/file.h"
#include "model/config.h"
#include "model/model.h"

static fm_err ok_err;

static fm_status parse(const char *text, fm_config *c, fm_err *err)
{
    return fmi_config_parse("config.json", text, strlen(text), c, err);
}

/* Frequency of pair j, taken from the table's angle at position 1 (below pi for every pair). */
static double frequency(const fm_config *c, int j)
{
    double cosv[64], sinv[64];
    int half = c->qk_rope_head_dim / 2;
    fmi_config_rope(c, 2, cosv, sinv);
    return atan2(sinv[half + j], cosv[half + j]);
}

static void yarn_frequencies(void **state)
{
    (void)state;
    fm_config c;
    OK(fmi_config_preset("v3", &c, &ok_err));
    const struct {
        int j; double f;
    } want[] = {{0, 1},       {9, 0.07498942},    {10, 0.05623413},   {11, 0.03900693},
                {16, 0.0055}, {20, 0.0007905694}, {22, 0.0001778279}, {23, 3.333804e-5},
                {24, 2.5e-5}, {31, 3.333804e-6}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        double f = frequency(&c, want[i].j);
        assert_true(fabs(f - want[i].f) <= 1e-6 * want[i].f); /* seven digits are printed */
    }
    c.yarn = false;
    assert_true(fabs(frequency(&c, 31) - pow(10000, -62.0 / 64)) < 1e-12);
}

static void rope_tables(void **state)
{
    (void)state;
    fm_config c;
    OK(fmi_config_preset("pico", &c, &ok_err));
    double cosv[40], sinv[40];
    fmi_config_rope(&c, 10, cosv, sinv);
    for (int j = 0; j < 4; j++) {
        assert_true(cosv[j] == 1 && sinv[j] == 0);
        double a = 7 * pow(10000, -2.0 * j / 8);
        assert_true(fabs(cosv[7 * 4 + j] - cos(a)) < 1e-15 &&
                    fabs(sinv[7 * 4 + j] - sin(a)) < 1e-15);
    }
    /* mscale without mscale_all_dim multiplies the tables, equal ones do not (transformers' rule).
     */
    OK(fmi_config_preset("v3", &c, &ok_err));
    double big[32], s[32];
    fmi_config_rope(&c, 1, big, s);
    assert_true(big[0] == 1);
    c.mscale_all_dim = 0;
    fmi_config_rope(&c, 1, big, s);
    assert_true(fabs(big[0] - (0.1 * log(40) + 1)) < 1e-15);
}

static void softmax_scales(void **state)
{
    (void)state;
    fm_config c;
    OK(fmi_config_preset("v3", &c, &ok_err));
    assert_true(fabs(fmi_config_softmax_scale(&c) - 0.13523378) < 5e-9);
    OK(fmi_config_preset("v2-lite", &c, &ok_err));
    assert_true(fabs(fmi_config_softmax_scale(&c) - 0.11472139) < 5e-9);
    OK(fmi_config_preset("nano", &c, &ok_err));
    assert_true(fmi_config_softmax_scale(&c) == 1 / sqrt(48));
}

static void presets(void **state)
{
    (void)state;
    fm_config c;
    OK(fmi_config_preset("pico", &c, &ok_err));
    assert_int_equal(c.n_group, 4);
    assert_int_equal(c.topk_group, 2);
    assert_int_equal(c.num_nextn_predict_layers, 1);
    assert_int_equal(c.method, FM_ROUTE_NOAUX);
    OK(fmi_config_preset("v3-slim", &c, &ok_err));
    assert_int_equal(c.num_hidden_layers, 4);
    assert_int_equal(c.hidden_size, 7168);
    assert_false(fmi_config_is_moe(&c, 2));
    assert_true(fmi_config_is_moe(&c, 3));
    OK(fmi_config_preset("v2", &c, &ok_err));
    assert_int_equal(c.method, FM_ROUTE_GROUP_MAX);
    assert_true(c.routed_scaling_factor == 16 && !c.norm_topk_prob);
    assert_int_equal(fmi_config_preset("huge", &c, &ok_err), FM_E_UNSUPPORTED);
    assert_non_null(strstr(ok_err.text, "pico, nano"));
}

static void class_defaults(void **state)
{
    (void)state;
    fm_config c;
    OK(parse("{\"model_type\": \"deepseek_v3\"}", &c, &ok_err));
    assert_int_equal(c.num_hidden_layers, 61);
    assert_int_equal(c.max_position_embeddings, 4096);
    assert_int_equal(c.scoring, FM_ROUTE_SIGMOID);
    assert_int_equal(c.num_nextn_predict_layers, 0);
    assert_int_equal(c.pad_token_id, -1);
    OK(parse("{\"model_type\": \"deepseek_v2\", \"num_experts_per_tok\": 6, \"q_lora_rank\": null,"
             "\"eos_token_id\": [5, 7], \"head_dim\": \"ignored\"}", &c, &ok_err));
    assert_int_equal(c.vocab_size, 32000);
    assert_int_equal(c.scoring, FM_ROUTE_SOFTMAX);
    assert_int_equal(c.q_lora_rank, 0);
    assert_int_equal(c.eos_token_id, 5);
    assert_int_equal(parse("{\"model_type\": \"deepseek_v2\"}", &c, &ok_err), FM_E_RANGE);
    OK(parse("{\"model_type\": \"kimi_k2\", \"n_group\": 1, \"topk_group\": 1}", &c, &ok_err));
    assert_int_equal(c.family, FM_FAMILY_V3);
}

static void rope_spellings(void **state)
{
    (void)state;
    fm_config a, b;
    OK(parse(
        "{\"model_type\": \"deepseek_v3\", \"rope_theta\": 50000,"
        "\"rope_scaling\": {\"type\": \"yarn\","
        "\"factor\": 32, \"beta_fast\": 1, \"beta_slow\": 1, \"mscale\": 1.0,"
        "\"mscale_all_dim\": 1.0,"
        "\"original_max_position_embeddings\": 4096}}",
        &a, &ok_err));
    OK(parse(
        "{\"model_type\": \"deepseek_v3\", \"rope_parameters\": "
        "{\"rope_type\": \"yarn\", \"rope_theta\": 50000.0,"
        "\"factor\": 32.0, \"beta_fast\": 1.0, \"beta_slow\": 1, \"mscale\": 1.0,"
        "\"mscale_all_dim\": 1.0,"
        "\"original_max_position_embeddings\": 4096}}",
        &b, &ok_err));
    assert_true(a.yarn && a.yarn_factor == 32 && a.rope_theta == 50000 && a.beta_fast == 1);
    assert_memory_equal(&a, &b, sizeof a);
    OK(parse("{\"model_type\": \"deepseek_v3\", \"rope_scaling\": null}", &a, &ok_err));
    assert_false(a.yarn);
}

typedef struct bad {
    const char *body;      /* after the model_type                     */
    fm_status code;
    const char *says;      /* what the message must hold               */
} bad;

static void refused(void **state)
{
    (void)state;
    static const bad cases[] = {
        {"\"hidden_size\": 0", FM_E_RANGE, "hidden_size: expected at least 1, found 0"},
        {"\"hidden_size\": -64", FM_E_RANGE, "found -64"},
        {"\"hidden_size\": 64.5", FM_E_FORMAT, "hidden_size: expected an integer"},
        {"\"hidden_size\": \"64\"", FM_E_FORMAT,
         "hidden_size: expected an integer, found a string"},
        {"\"hidden_size\": null", FM_E_FORMAT, "hidden_size: expected an integer"},
        {"\"hidden_size\": 99999999999", FM_E_RANGE, "hidden_size"},
        {"\"vocab_size\": 2147483647, \"hidden_size\": 2147483647", FM_E_RANGE, "overflow"},
        {"\"num_attention_heads\": 2147483647", FM_E_RANGE, "overflow"},
        {"\"moe_intermediate_size\": 2147483647, \"n_routed_experts\": 16384, "
         "\"n_group\": 1, \"topk_group\": 1",
         FM_E_RANGE, "overflow"},
        {"\"kv_lora_rank\": 0", FM_E_RANGE, "kv_lora_rank"},
        {"\"qk_rope_head_dim\": 63", FM_E_RANGE,
         "qk_rope_head_dim: expected an even number, found 63"},
        {"\"n_routed_experts\": 250", FM_E_RANGE, "multiple of n_group 8, found 250"},
        {"\"topk_group\": 9", FM_E_RANGE, "topk_group"},
        {"\"num_experts_per_tok\": 257", FM_E_RANGE, "num_experts_per_tok"},
        {"\"num_experts_per_tok\": 200", FM_E_RANGE, "num_experts_per_tok"},
        {"\"num_hidden_layers\": 2147483647", FM_E_RANGE, "num_hidden_layers"},
        {"\"num_nextn_predict_layers\": 2", FM_E_RANGE,
         "num_nextn_predict_layers: expected 0 to 1, found 2"},
        {"\"first_k_dense_replace\": 62", FM_E_RANGE, "first_k_dense_replace"},
        {"\"moe_layer_freq\": 0", FM_E_RANGE, "moe_layer_freq"},
        {"\"rope_theta\": 0", FM_E_RANGE, "rope_theta"},
        {"\"rope_theta\": \"big\"", FM_E_FORMAT, "rope_theta"},
        {"\"rms_norm_eps\": -1", FM_E_RANGE, "rms_norm_eps"},
        {"\"norm_topk_prob\": 1", FM_E_FORMAT, "norm_topk_prob: expected true or false"},
        {"\"scoring_func\": \"tanh\"", FM_E_UNSUPPORTED, "scoring_func"},
        {"\"topk_method\": \"best\"", FM_E_UNSUPPORTED, "topk_method"},
        {"\"hidden_act\": \"gelu\"", FM_E_UNSUPPORTED, "hidden_act"},
        {"\"tie_word_embeddings\": true", FM_E_UNSUPPORTED, "tie_word_embeddings"},
        {"\"attention_bias\": true", FM_E_UNSUPPORTED, "attention_bias"},
        {"\"eos_token_id\": 129280", FM_E_RANGE, "eos_token_id"},
        {"\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}", FM_E_UNSUPPORTED, "linear"},
        {"\"rope_scaling\": {\"type\": \"yarn\"}", FM_E_FORMAT, "factor"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4}", FM_E_FORMAT,
         "original_max_position_embeddings"},
        {"\"rope_scaling\": 7", FM_E_FORMAT, "rope_scaling"},
        {"\"quantization_config\": {\"quant_method\": \"awq\"}", FM_E_UNSUPPORTED, "awq"},
        {"\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [128]}",
         FM_E_FORMAT, "weight_block_size"},
        {"\"quantization_config\": {\"quant_method\": \"fp8\", \"weight_block_size\": [0, 128]}",
         FM_E_RANGE, "weight_block_size"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512];
        fm_config c = {.hidden_size = -5};
        fm_err err;
        snprintf(text, sizeof text, "{\"model_type\": \"deepseek_v3\", %s}", cases[i].body);
        fm_status st = parse(text, &c, &err);
        if (st != cases[i].code) fail_msg("%s: status %d, %s", cases[i].body, st, err.text);
        if (!strstr(err.text, cases[i].says)) fail_msg("%s: said \"%s\"", cases[i].body, err.text);
        assert_non_null(strstr(err.text, "config.json"));
        assert_int_equal(c.hidden_size, -5); /* nothing written */
    }
}

static void no_model(void **state)
{
    (void)state;
    fm_config c;
    fm_err err;
    assert_int_equal(parse("{\"model_type\": \"llama\"}", &c, &err), FM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "llama"));
    assert_int_equal(parse("{}", &c, &err), FM_E_FORMAT);
    assert_non_null(strstr(err.text, "model_type"));
    assert_int_equal(parse("[]", &c, &err), FM_E_FORMAT);
    assert_int_equal(parse("{\"model_type\": \"deepseek_v3\"", &c, &err), FM_E_FORMAT);
    assert_int_equal(parse("{\"model_type\": \"deep\xff\"}", &c, &err), FM_E_FORMAT);
    assert_int_equal(fmi_config_read("tests/data/reference/none", &c, &err), FM_E_IO);
}

static void settings(void **state)
{
    (void)state;
    fm_config c, before;
    fm_err err;
    OK(fmi_config_preset("nano", &c, &ok_err));
    OK(fmi_config_set(&c, "num_hidden_layers", "3", &ok_err));
    OK(fmi_config_set(&c, "q_lora_rank", "null", &ok_err));
    OK(fmi_config_set(&c, "rms_norm_eps", "1e-5", &ok_err));
    OK(fmi_config_set(&c, "norm_topk_prob", "false", &ok_err));
    OK(fmi_config_set(&c, "rope_scaling.factor", "4", &ok_err));
    OK(fmi_config_set(&c, "rope_type", "yarn", &ok_err));
    OK(fmi_config_set(&c, "scoring_func", "softmax", &ok_err));
    assert_true(c.num_hidden_layers == 3 && c.q_lora_rank == 0 && c.rms_norm_eps == 1e-5);
    assert_true(!c.norm_topk_prob && c.yarn && c.yarn_factor == 4 && c.scoring == FM_ROUTE_SOFTMAX);
    before = c;
    assert_int_equal(fmi_config_set(&c, "num_hiden_layers", "3", &err), FM_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "nearest: num_hidden_layers"));
    assert_int_equal(fmi_config_set(&c, "hidden_size", "12x", &err), FM_E_FORMAT);
    assert_int_equal(fmi_config_set(&c, "hidden_size", "", &err), FM_E_FORMAT);
    assert_int_equal(fmi_config_set(&c, "hidden_size", "99999999999", &err), FM_E_RANGE);
    assert_int_equal(fmi_config_set(&c, "rope_type", "linear", &err), FM_E_UNSUPPORTED);
    assert_memory_equal(&c, &before, sizeof c);
}

static void round_trip(void **state)
{
    (void)state;
    static const char *const names[] = {"pico", "nano", "v2-lite", "v2", "v3"};
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", test_dir());
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        fm_config c, back;
        OK(fmi_config_preset(names[i], &c, &ok_err));
        OK(fmi_config_write(&c, path, FM_DTYPE_BF16, &ok_err));
        OK(fmi_config_read(path, &back, &ok_err));
        if (!c.yarn) /* written only where it is used */
            back.original_max_position_embeddings = c.original_max_position_embeddings;
        if (c.method == FM_ROUTE_GREEDY) assert_true(back.n_group == 1 && back.topk_group == 1);
        assert_memory_equal(&c, &back, sizeof c);
        OK(fmi_config_read(test_dir(), &back, &ok_err)); /* the directory */
    }
    test_dir_remove();
}

/* Names and shapes of a layout against the published ones, with and without each part. */
static void layout_names(void **state)
{
    (void)state;
    fm_config c;
    fm_layout l;
    OK(fmi_config_preset("pico", &c, &ok_err));
    OK(fmi_layout_new(&c, &l, &ok_err));
    const struct {
        const char *name; int64_t rows, cols;
    } want[] = {{"model.embed_tokens.weight", 320, 64},
                {"lm_head.weight", 320, 64},
                {"model.norm.weight", 64, 1},
                {"model.layers.0.self_attn.q_b_proj.weight", 96, 40},
                {"model.layers.0.self_attn.kv_a_proj_with_mqa.weight", 32, 64},
                {"model.layers.0.self_attn.kv_b_proj.weight", 112, 24},
                {"model.layers.0.self_attn.o_proj.weight", 64, 48},
                {"model.layers.0.mlp.down_proj.weight", 64, 144},
                {"model.layers.3.mlp.gate.e_score_correction_bias", 16, 1},
                {"model.layers.3.mlp.experts.15.down_proj.weight", 64, 40},
                {"model.layers.4.eh_proj.weight", 64, 128},
                {"model.layers.4.shared_head.norm.weight", 64, 1},
                {"model.layers.4.mlp.shared_experts.gate_proj.weight", 40, 64}};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++) {
        int k = fmi_layout_find(&l, want[i].name);
        assert_true(k >= 0);
        assert_string_equal(l.params[k].name, want[i].name);
        assert_true(l.params[k].rows == want[i].rows && l.params[k].cols == want[i].cols);
    }
    assert_int_equal(fmi_layout_find(&l, "model.layers.0.self_attn.q_proj.weight"), -1);
    assert_int_equal(fmi_layout_find(&l, "model.layers.4.embed_tokens.weight"), -1);
    assert_int_equal(fmi_layout_find(&l, ""), -1);
    const fm_layer *y = &l.layers[2];
    assert_string_equal(l.params[y->expert0 + 3 * 7 + 1].name,
                        "model.layers.2.mlp.experts.7.up_proj.weight");
    assert_true(l.layers[0].router == -1 && l.layers[0].gate >= 0 && l.layers[1].gate == -1);
    fmi_layout_free(&l);
    fmi_layout_free(&l); /* twice is fine */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(yarn_frequencies), cmocka_unit_test(rope_tables),
        cmocka_unit_test(softmax_scales),   cmocka_unit_test(presets),
        cmocka_unit_test(class_defaults),   cmocka_unit_test(rope_spellings),
        cmocka_unit_test(refused),          cmocka_unit_test(no_model),
        cmocka_unit_test(settings),         cmocka_unit_test(round_trip),
        cmocka_unit_test(layout_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
