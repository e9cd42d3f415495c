/* Parameters, FLOPs and cache bytes against published totals and formulas written out a second
 * time. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/count.h"

static void count(const char *preset, fm_config *c, fmi_param_counts *n)
{
    fm_layout l;
    assert_int_equal(fmi_config_preset(preset, c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(c, &l, NULL), FM_OK);
    fmi_count_params(c, &l, n);
    fmi_layout_free(&l);
}

/* The formula of the specification, section 1.3: E experts give the total, K the active ones. */
static int64_t formula(const fm_config *c, int64_t E)
{
    int64_t d = c->hidden_size, H = c->num_attention_heads, dn = c->qk_nope_head_dim,
            q = c->q_lora_rank;
    int64_t dr = c->qk_rope_head_dim, dv = c->v_head_dim, dc = c->kv_lora_rank,
            m = c->moe_intermediate_size;
    int64_t attn = q ? d * q + q + q * H * (dn + dr) : d * H * (dn + dr);
    attn += d * (dc + dr) + dc + dc * H * (dn + dv) + H * dv * d;
    int64_t expert = 3 * d * m, gate = d * c->n_routed_experts;
    if (c->method == FM_ROUTE_NOAUX) gate += c->n_routed_experts;
    int64_t moe = E * expert + c->n_shared_experts * expert + gate;
    int64_t k0 = c->first_k_dense_replace, L = c->num_hidden_layers;
    return 2 * (int64_t)c->vocab_size * d + d + L * (attn + 2 * d) +
           k0 * 3 * d * c->intermediate_size + (L - k0) * moe;
}

static void published_totals(void **state)
{
    (void)state;
    const struct {
        const char *name;
        int64_t total_m, active_m, no_embed_m, attn_k, expert_k;
    } rows[] = {
        {"v2-lite", 15706, 2661, 2451, 13763, 8651},
        {"v2", 235741, 21376, 20852, 149228, 23593},
        {"v3", 671026, 37552, 36626, 187107, 44040},
    };
    for (size_t i = 0; i < 3; i++) {
        fm_config c;
        fmi_param_counts n;
        count(rows[i].name, &c, &n);
        assert_int_equal((n.total + 500000) / 1000000, rows[i].total_m);
        assert_int_equal((n.active + 500000) / 1000000, rows[i].active_m);
        assert_int_equal((n.active_no_embed + 500000) / 1000000, rows[i].no_embed_m);
        assert_int_equal((n.attention_layer + 500) / 1000, rows[i].attn_k);
        assert_int_equal((n.expert + 500) / 1000, rows[i].expert_k);
        assert_int_equal(n.total, formula(&c, c.n_routed_experts));
        assert_int_equal(n.active, formula(&c, c.num_experts_per_tok));
    }
}

static void moonlight_and_kimi(void **state)
{
    (void)state;
    const struct { int d, L, H, q, ffn, k0, M, E, K, Ns, V; int64_t total_m, active_m; } rows[] = {
        {2048, 27, 16, 0, 11264, 1, 1408, 64, 6, 2, 163840, 15960, 2915},
        {7168, 61, 64, 1536, 18432, 1, 2048, 384, 8, 1, 163840, 1026408, 32862},
    };
    for (size_t i = 0; i < 2; i++) {
        fm_config c;
        fm_layout l;
        fmi_param_counts n;
        assert_int_equal(fmi_config_preset("v3", &c, NULL), FM_OK);
        c.hidden_size = rows[i].d, c.num_hidden_layers = rows[i].L,
        c.num_attention_heads = rows[i].H;
        c.q_lora_rank = rows[i].q, c.intermediate_size = rows[i].ffn,
        c.first_k_dense_replace = rows[i].k0;
        c.moe_intermediate_size = rows[i].M, c.n_routed_experts = rows[i].E,
        c.num_experts_per_tok = rows[i].K;
        c.n_shared_experts = rows[i].Ns, c.vocab_size = rows[i].V, c.n_group = c.topk_group = 1;
        c.num_nextn_predict_layers = 0;
        assert_int_equal(fmi_config_check(&c, NULL), FM_OK);
        assert_int_equal(fmi_layout_new(&c, &l, NULL), FM_OK);
        fmi_count_params(&c, &l, &n);
        assert_int_equal((n.total + 500000) / 1000000, rows[i].total_m);
        assert_int_equal((n.active + 500000) / 1000000, rows[i].active_m);
        fmi_layout_free(&l);
    }
}

static void mtp_module(void **state)
{
    (void)state;
    fm_config c;
    fmi_param_counts n;
    count("v3", &c, &n);
    assert_int_equal((n.mtp_total + 5000000) / 10000000, 1161);  /* 11.61B */
    assert_int_equal((n.mtp_active + 5000000) / 10000000, 254);  /* 2.54B  */
    count("v2", &c, &n);
    assert_int_equal(n.mtp_total, 0);
    assert_int_equal(n.mtp_active, 0);
}

static void own_presets(void **state)
{
    (void)state;
    const struct { const char *name; double total, active; } rows[] = {
        {"nano", 11.7e6, 4.7e6}, {"micro", 82e6, 20e6}, {"mini", 1.66e9, 258e6}};
    for (size_t i = 0; i < 3; i++) {
        fm_config c;
        fmi_param_counts n;
        count(rows[i].name, &c, &n);
        assert_true((double)n.total > 0.99 * rows[i].total &&
                    (double)n.total < 1.01 * rows[i].total);
        assert_true((double)n.active_no_embed > 0.97 * rows[i].active &&
                    (double)n.active_no_embed < 1.03 * rows[i].active);
    }
}

static void cache_bytes(void **state)
{
    (void)state;
    fm_config c;
    assert_int_equal(fmi_config_preset("v3", &c, NULL), FM_OK);
    assert_int_equal(fmi_count_kv_bytes(&c, FM_DTYPE_BF16, false), 70272);
    assert_int_equal(fmi_count_kv_bytes(&c, FM_DTYPE_BF16, true), 70272 + 1152);
    assert_int_equal(fmi_config_preset("v2", &c, NULL), FM_OK);
    assert_int_equal(fmi_count_kv_bytes(&c, FM_DTYPE_BF16, true), 69120);
    assert_int_equal(fmi_config_preset("v2-lite", &c, NULL), FM_OK);
    assert_int_equal(fmi_count_kv_bytes(&c, FM_DTYPE_BF16, true), 31104);
}

/* pico by hand: D 64, H 4, Q 40, C 24, N 16, R 8, V 12, I 144, E 16, K 4, M 40, W 320. */
static void flops_by_hand(void **state)
{
    (void)state;
    fm_config c;
    fm_layout l;
    fmi_flops f;
    assert_int_equal(fmi_config_preset("pico", &c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(&c, &l, NULL), FM_OK);
    fmi_count_flops(&c, &l, 33, &f);
    double attn = 64 * 40 + 40 * 4 * 24 + 64 * 32 + 24 * 4 * 28 + 48 * 64;
    double dense = 3 * 64 * 144, moe = 5 * 3 * 64 * 40, pair = 2 * 4 * (24 + 12);
    assert_true(f.matrices == 2 * (4 * attn + dense + 3 * moe));
    assert_true(f.router == 2 * 3 * 64 * 16);
    assert_true(f.head == 2 * 64 * 320);
    assert_true(f.attention == 4 * 17 * pair);
    assert_true(f.mtp == 2 * (attn + moe + 64 * 16 + 2 * 64 * 64) + f.head + 17 * pair);
    assert_true(f.training == 3 * (f.matrices + f.router + f.head + f.attention + f.mtp));
    assert_true(f.decode == f.matrices + f.router + f.head + 4 * 33 * 2.0 * 4 * (24 + 8 + 24));
    fmi_layout_free(&l);
}

/* Six FLOPs per active parameter and token, but for what is no product: the embedding's lookup and
 * vectors. */
static void six_n(void **state)
{
    (void)state;
    fm_config c;
    fm_layout l;
    fmi_flops f;
    fmi_param_counts n;
    assert_int_equal(fmi_config_preset("v2-lite", &c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(&c, &l, NULL), FM_OK);
    fmi_count_params(&c, &l, &n);
    fmi_count_flops(&c, &l, 1, &f);
    double vectors = 0, products = f.training - 3 * f.attention;
    for (int i = 0; i < l.n_params; i++)
        if (l.params[i].kind == FM_PARAM_NORM) vectors += (double)fmi_param_count(&l.params[i]);
    assert_true(products == 6 * ((double)n.active_no_embed - vectors));
    fmi_layout_free(&l);
}

static void dense_twin(void **state)
{
    (void)state;
    fm_config c;
    fm_layout l, twin;
    fmi_flops a, b;
    assert_int_equal(fmi_config_preset("nano", &c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(&c, &l, NULL), FM_OK);
    fmi_count_flops(&c, &l, 512, &a);
    assert_int_equal(fmi_config_set(&c, "n_routed_experts", "0", NULL), FM_OK);
    assert_int_equal(fmi_config_check(&c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(&c, &twin, NULL), FM_OK);
    fmi_count_flops(&c, &twin, 512, &b);
    assert_true(b.router == 0);
    assert_true(a.matrices == b.matrices); /* the same active products but for the router */
    fmi_layout_free(&l);
    fmi_layout_free(&twin);
}

static void memory_by_purpose(void **state)
{
    (void)state;
    fm_config c;
    fm_layout l;
    fmi_param_counts n;
    fmi_memory m;
    assert_int_equal(fmi_config_preset("nano", &c, NULL), FM_OK);
    assert_int_equal(fmi_layout_new(&c, &l, NULL), FM_OK);
    fmi_count_params(&c, &l, &n);
    fmi_memory_request r = {.dt = FM_DTYPE_BF16, .training = true, .rows = 1024, .row_length = 512};
    fmi_count_memory(&c, &l, &r, &m);
    assert_int_equal(m.masters, 4 * n.trained);
    assert_int_equal(m.gradients, 4 * n.trained);
    assert_int_equal(m.moments, 8 * n.trained);
    assert_true(m.weights >= 2 * n.trained && m.weights < 2 * n.trained + 2000000);
    assert_true(m.activations > 0 && m.cache == 0);
    int64_t kept = m.activations;
    r.recompute = true;
    fmi_count_memory(&c, &l, &r, &m);
    assert_true(m.activations < kept);
    r = (fmi_memory_request){
        .dt = FM_DTYPE_BF16, .borrowed = true, .rows = 64, .cache_tokens = 1000};
    fmi_count_memory(&c, &l, &r, &m);
    assert_int_equal(m.weights + m.masters + m.gradients + m.moments, 0);
    assert_int_equal(m.cache, 1000 * 80 * 7 * 2);
    assert_int_equal(m.total, m.activations + m.cache + m.workspace);
    fmi_layout_free(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_totals), cmocka_unit_test(moonlight_and_kimi),
        cmocka_unit_test(mtp_module),       cmocka_unit_test(own_presets),
        cmocka_unit_test(cache_bytes),      cmocka_unit_test(flops_by_hand),
        cmocka_unit_test(six_n),            cmocka_unit_test(dense_twin),
        cmocka_unit_test(memory_by_purpose),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
