/* Checkpoints: the seven reference ones open with the values that are stored, borrowed where they
 * may be; what is written is what was read; every way a checkpoint can be broken is refused by
 * name. */
#include "support.h"

#include "fathom/checkpoint.h"
#include "io/file.h"
#include "model/checkpoint.h"
#include "model/shape.h"

static const char *const variants[] = {
    "v3", "v3-yarn", "v3-noqlora-tied-shapes", "v3-mtp", "v3-fp8", "v2-lite", "v2"};
#define REF "tests/data/reference/"

static fm_err ok_err;
static fm_exec *x;

static int group_setup(void **state)
{
    (void)state;
    OK(fm_context_open("cpu", NULL, 1, &x, &ok_err));
    return 0;
}

static int group_teardown(void **state)
{
    (void)state;
    fm_context_close(x);
    test_dir_remove();
    return 0;
}

static float *read_param(const fm_model *m, int i)
{
    float *out = malloc((size_t)fmi_param_count(&m->lay.params[i]) * sizeof *out);
    OK(fmi_param_read(m, i, out, &ok_err));
    return out;
}

/* The stored value of element (r, c), read here a second time. */
static float stored(const fm_tensors *t, const fm_tensor_info *i, int64_t r, int64_t c)
{
    const uint8_t *at = i->data;
    int64_t k = r * (i->rank == 2 ? i->dims[1] : 1) + c;
    float f;
    fm_bf16 h;
    if (i->dtype == FM_DTYPE_F32) return memcpy(&f, at + 4 * k, 4), f;
    if (i->dtype == FM_DTYPE_BF16) return memcpy(&h, at + 2 * k, 2), fmi_bf16_to_f32(h);
    assert_int_equal(i->dtype, FM_DTYPE_F8E4M3);
    char name[160];
    snprintf(name, sizeof name, "%s_scale_inv", i->name);
    const fm_tensor_info *s = fm_tensors_find(t, name);
    assert_non_null(s);
    memcpy(&f, (const uint8_t *)s->data + 4 * (r / 128 * s->dims[1] + c / 128), 4);
    return fmi_e4m3_to_f32(at[k]) * f;
}

static void same_as_stored(const fm_model *m, const fm_tensors *t)
{
    for (int i = 0; i < m->lay.n_params; i++) {
        const fm_param *p = &m->lay.params[i];
        const fm_tensor_info *s = fm_tensors_find(t, p->name);
        assert_non_null(s);
        float *got = read_param(m, i);
        for (int64_t r = 0; r < p->rows; r++)
            for (int64_t c = 0; c < p->cols; c++) {
                float want = stored(t, s, r, c);
                if (memcmp(&got[r * p->cols + c], &want, 4))
                    fail_msg("%s[%lld, %lld]", p->name, (long long)r, (long long)c);
            }
        free(got);
    }
}

static void all_seven_open(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        char path[128];
        fm_model *m;
        fm_tensors *t;
        const fm_model_opts o = {.precision = FM_DTYPE_F32};
        snprintf(path, sizeof path, REF "%s", variants[v]);
        OK(fm_model_open(x, path, &o, &m, &ok_err));
        OK(fm_tensors_open(path, &t, &ok_err));
        same_as_stored(m, t);
        assert_int_equal(fm_model_has_mtp(m), !strcmp(variants[v], "v3-mtp"));
        fm_tensors_close(t);
        fm_model_close(m);
        size_t n = strlen(path);
        snprintf(path + n, sizeof path - n, "/model.safetensors"); /* the file itself */
        OK(fm_model_open(x, path, &o, &m, &ok_err));
        fm_model_close(m);
    }
}

static int borrowed(const char *path, fm_exec *on, bool writable, bool skip_mtp)
{
    fm_model *m;
    const fm_model_opts o = {
        .precision = FM_DTYPE_BF16, .writable = writable, .skip_mtp = skip_mtp};
    OK(fm_model_open(on, path, &o, &m, &ok_err));
    int n = 0;
    for (int i = 0; i < m->lay.n_params; i++) {
        const fm_param *p = &m->lay.params[i];
        n += p->borrowed;
        if (p->kind == FM_PARAM_NORM) assert_false(p->borrowed);
        float *w = read_param(m, i);
        if (p->kind != FM_PARAM_ROUTER_BIAS)
            for (int64_t k = 0; k < fmi_param_count(p); k++)
                assert_true(w[k] == fmi_bf16_to_f32(fmi_f32_to_bf16(w[k])));
        if (p->borrowed) assert_int_equal(fmi_param_write(m, i, w, NULL), FM_E_STATE);
        else OK(fmi_param_write(m, i, w, &ok_err));
        free(w);
    }
    fm_model_close(m);
    return n;
}

static void borrowing(void **state)
{
    (void)state;
    fm_exec *fence;
    OK(fm_context_open("fence", NULL, 1, &fence, &ok_err));
    /* 4 layers with q_a, q_b, kv_a, kv_b, o; 3 dense; 3 x 17 x 3 of experts; embedding, head; 3
     * routers and their biases */
    assert_int_equal(borrowed(REF "v3", x, false, false), 4 * 5 + 3 + 3 * 17 * 3 + 2 + 3 + 3);
    assert_int_equal(borrowed(REF "v3", x, true, false), 0);
    assert_int_equal(borrowed(REF "v3", fence, false, false), 0);
    assert_true(borrowed(REF "v3-mtp", x, false, true) < borrowed(REF "v3-mtp", x, false, false));
    fm_context_close(fence);
}

/* ---- writing -------------------------------------------------------------------------------- */

static char *under(const char *name)
{
    char *p = fmi_path_join(test_dir(), name);
    fmi_tree_remove(p, NULL);
    return p;
}

static void same_tensors(const char *a, const char *b, bool all)
{
    fm_tensors *ta, *tb;
    OK(fm_tensors_open(a, &ta, &ok_err));
    OK(fm_tensors_open(b, &tb, &ok_err));
    if (all) assert_int_equal(fm_tensors_count(ta), fm_tensors_count(tb));
    for (int i = 0; i < fm_tensors_count(tb); i++) {
        const fm_tensor_info *p = fm_tensors_at(tb, i), *q = fm_tensors_find(ta, p->name);
        assert_non_null(q);
        assert_int_equal(p->dtype, q->dtype);
        assert_int_equal(p->rank, q->rank);
        assert_int_equal(p->bytes, q->bytes);
        assert_memory_equal(p->data, q->data, p->bytes);
    }
    fm_tensors_close(ta);
    fm_tensors_close(tb);
}

static void round_trip(void **state)
{
    (void)state;
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        if (!strcmp(variants[v], "v3-fp8")) continue; /* widens */
        char path[128];
        fm_config a, b;
        char *out = under("copy");
        const fm_convert_opts o = {.keep_dtype = true};
        snprintf(path, sizeof path, REF "%s", variants[v]);
        OK(fm_checkpoint_convert(x, path, &o, out, &ok_err));
        same_tensors(path, out, true);
        OK(fmi_config_read(path, &a, &ok_err));
        OK(fmi_config_read(out, &b, &ok_err));
        if (!a.yarn) b.original_max_position_embeddings = a.original_max_position_embeddings;
        assert_memory_equal(&a, &b, sizeof a);
        fmi_free(out);
    }
}

static void shards_and_no_mtp(void **state)
{
    (void)state;
    char *out = under("shards"), *index = fmi_path_join(out, "model.safetensors.index.json");
    const fm_convert_opts o = {.keep_dtype = true, .no_mtp = true, .shard_bytes_max = 200000};
    fm_model *m;
    const fm_model_opts mo = {.precision = FM_DTYPE_F32};
    fm_config c;
    fm_tensors *t;
    OK(fm_checkpoint_convert(x, REF "v3-mtp", &o, out, &ok_err));
    assert_true(fmi_path_is_file(index));
    same_tensors(REF "v3-mtp", out, false);
    OK(fmi_config_read(out, &c, &ok_err));
    assert_int_equal(c.num_nextn_predict_layers, 0);
    OK(fm_tensors_open(out, &t, &ok_err));
    assert_true(fm_tensors_shards(t) > 3);
    assert_false(fmi_source_has_layer(t, 4));
    char *gone = fmi_strdup(fm_tensors_shard_path(t, 1));
    fm_tensors_close(t);
    OK(fm_model_open(x, out, &mo, &m, &ok_err));
    assert_false(fm_model_has_mtp(m));
    fm_model_close(m);
    OK(fmi_tree_remove(gone, &ok_err));
    assert_int_equal(fm_model_open(x, out, &mo, &m, &ok_err), FM_E_IO);
    assert_non_null(strstr(ok_err.text, "model-00002-of-000"));
    fmi_free(gone);
    fmi_free(index);
    fmi_free(out);
}

static void init_is_a_function_of_the_seed(void **state)
{
    (void)state;
    char *a = under("a"), *b = under("b"), *c = under("c");
    fm_init_opts o = {.shape = {.preset = "pico"}, .seed = 5, .stored = FM_DTYPE_BF16};
    fm_exec *three;
    OK(fm_context_open("cpu", NULL, 3, &three, &ok_err));
    OK(fm_checkpoint_init(x, &o, a, &ok_err));
    OK(fm_checkpoint_init(three, &o, b, &ok_err));
    same_tensors(a, b, true);
    o.seed = 6;
    OK(fm_checkpoint_init(x, &o, c, &ok_err));
    fm_tensors *ta, *tc;
    OK(fm_tensors_open(a, &ta, &ok_err));
    OK(fm_tensors_open(c, &tc, &ok_err));
    const fm_tensor_info *p = fm_tensors_find(ta, "lm_head.weight"),
                         *q = fm_tensors_find(tc, "lm_head.weight");
    assert_memory_not_equal(p->data, q->data, p->bytes);
    double sum = 0, sq = 0;
    for (int64_t r = 0; r < 320; r++)
        for (int64_t k = 0; k < 64; k++)
            sum += stored(ta, p, r, k), sq += stored(ta, p, r, k) * stored(ta, p, r, k);
    double n = 320 * 64; /* mean 0, deviation 0.02: within five standard errors */
    assert_true(sum / n < 5 * 0.02 / 143 && sum / n > -5 * 0.02 / 143);
    assert_true(sq / n > 0.0004 * (1 - 5 * 0.0099) && sq / n < 0.0004 * (1 + 5 * 0.0099));
    fm_tensors_close(ta);
    fm_tensors_close(tc);
    assert_int_equal(fm_checkpoint_init(x, &o, a, &ok_err),
                     FM_E_STATE); /* holds another checkpoint */
    same_tensors(a, b, true);
    fm_context_close(three);
    fmi_free(a);
    fmi_free(b);
    fmi_free(c);
}

/* ---- broken ones ---------------------------------------------------------------------------- */

/* How a copy of a checkpoint departs from it. */
typedef struct change {
    const char *skip;          /* tensor left out                                     */
    const char *tensor;        /* tensor written with another dtype or shape          */
    fm_dtype dtype;
    int rank;
    int64_t dims[2];
    const char *extra;         /* an additional F32 tensor [2]                        */
    const char *config_from, *config_to; /* replacement in config.json                */
    bool half_split;           /* rotary rows: first halves, then second halves       */
} change;

static void copy_config(const char *from, const char *to, const change *ch)
{
    char *a = fmi_path_join(from, "config.json"), *b = fmi_path_join(to, "config.json"), *text,
         *hit;
    OK(fmi_file_read(a, 1 << 20, &text, NULL, &ok_err));
    char *out = NULL;
    if (ch->config_from) {
        hit = strstr(text, ch->config_from);
        assert_non_null(hit);
        out = fmi_format("%.*s%s%s", (int)(hit - text), text, ch->config_to,
                         hit + strlen(ch->config_from));
    }
    OK(fmi_file_write(b, out ? out : text, strlen(out ? out : text), &ok_err));
    fmi_free(out);
    fmi_free(text);
    fmi_free(a);
    fmi_free(b);
}

/* Row r of a half-split file holds this row of the interleaved original (v3: N 16, R 8, C 24). */
static int64_t original_row(const char *name, int64_t r)
{
    int64_t first;
    if (strstr(name, "q_b_proj")) first = r / 24 * 24 + 16;
    else if (strstr(name, "kv_a_proj")) first = 24;
    else return r;
    if (r < first) return r;
    int64_t j = r - first;
    return first + (j < 4 ? 2 * j : 2 * (j - 4) + 1);
}

static void put_tensor(fmi_st_writer *w, const fm_tensor_info *s, const fmi_st_spec *spec,
                       const change *ch)
{
    static const char zeros[1 << 16];
    size_t bytes = fm_dtype_bytes(spec->dtype);
    for (int k = 0; k < spec->rank; k++) bytes *= (size_t)spec->dims[k];
    if (!s || bytes != s->bytes) {
        assert_true(bytes <= sizeof zeros);
        OK(fmi_st_writer_write(w, spec->name, zeros, bytes, &ok_err));
        return;
    }
    if (!ch->half_split || s->rank != 2) {
        OK(fmi_st_writer_write(w, spec->name, s->data, bytes, &ok_err));
        return;
    }
    size_t row = bytes / (size_t)s->dims[0];
    for (int64_t r = 0; r < s->dims[0]; r++)
        OK(fmi_st_writer_write(w, spec->name,
                               (const char *)s->data + (size_t)original_row(s->name, r) * row, row,
                               &ok_err));
}

static char *changed_copy(const char *from, const change *ch)
{
    char *to = under("bad");
    fm_tensors *t;
    fmi_st_writer *w;
    fmi_st_spec specs[600] = {{0}};
    int n = 0;
    OK(fmi_dir_make(to, &ok_err));
    copy_config(from, to, ch);
    OK(fm_tensors_open(from, &t, &ok_err));
    for (int i = 0; i < fm_tensors_count(t); i++) {
        const fm_tensor_info *s = fm_tensors_at(t, i);
        if (ch->skip && !strcmp(ch->skip, s->name)) continue;
        specs[n] = (fmi_st_spec){s->name, s->dtype, s->rank, {s->dims[0], s->dims[1]}};
        if (ch->tensor && !strcmp(ch->tensor, s->name))
            specs[n] = (fmi_st_spec){s->name, ch->dtype, ch->rank, {ch->dims[0], ch->dims[1]}};
        n++;
    }
    if (ch->extra) specs[n++] = (fmi_st_spec){ch->extra, FM_DTYPE_F32, 1, {2}};
    char *path = fmi_path_join(to, "model.safetensors");
    OK(fmi_st_writer_open(path, specs, n, NULL, 0, &w, &ok_err));
    for (int i = 0; i < n; i++) put_tensor(w, fm_tensors_find(t, specs[i].name), &specs[i], ch);
    OK(fmi_st_writer_close(w, &ok_err));
    fmi_st_writer_free(w);
    fm_tensors_close(t);
    fmi_free(path);
    return to;
}

typedef struct broken {
    const char *from;
    change ch;
    fm_status code;
    const char *says[3];
} broken;

#define Q "model.layers.1.self_attn.q_a_proj.weight"
#define MTP_EMBED "model.layers.4.embed_tokens.weight"

static void refused(void **state)
{
    (void)state;
    static const broken cases[] = {
        {REF "v3", {.skip = Q}, FM_E_FORMAT, {Q, "model.safetensors"}},
        {REF "v3",
         {.skip = "model.layers.2.mlp.gate.e_score_correction_bias"},
         FM_E_FORMAT,
         {"model.layers.2.mlp.gate.e_score_correction_bias"}},
        {REF "v3",
         {.tensor = Q, .dtype = FM_DTYPE_BF16, .rank = 2, .dims = {64, 40}},
         FM_E_SHAPE,
         {Q, "[40, 64]", "[64, 40]"}},
        {REF "v3",
         {.tensor = "model.norm.weight", .dtype = FM_DTYPE_BF16, .rank = 2, .dims = {64, 1}},
         FM_E_SHAPE,
         {"model.norm.weight", "[64]", "[64, 1]"}},
        {REF "v3",
         {.tensor = Q, .dtype = FM_DTYPE_I32, .rank = 2, .dims = {40, 64}},
         FM_E_SHAPE,
         {Q, "I32", "BF16"}},
        {REF "v3",
         {.tensor = Q, .dtype = FM_DTYPE_F8E4M3, .rank = 2, .dims = {40, 64}},
         FM_E_UNSUPPORTED,
         {Q, "quantization_config"}},
        {REF "v3-fp8", {.skip = Q "_scale_inv"}, FM_E_FORMAT, {Q "_scale_inv"}},
        {REF "v3-fp8",
         {.tensor = Q "_scale_inv", .dtype = FM_DTYPE_F32, .rank = 2, .dims = {1, 1}},
         FM_E_SHAPE,
         {Q "_scale_inv", "[1, 2]", "[1, 1]"}},
        {REF "v3-fp8",
         {.tensor = Q "_scale_inv", .dtype = FM_DTYPE_BF16, .rank = 2, .dims = {1, 2}},
         FM_E_SHAPE,
         {Q "_scale_inv", "F32", "BF16"}},
        {REF "v3-mtp",
         {.skip = "model.layers.4.eh_proj.weight"},
         FM_E_FORMAT,
         {"model.layers.4.eh_proj.weight"}},
        {REF "v3-mtp", {.extra = MTP_EMBED}, FM_E_SHAPE, {MTP_EMBED, "[320, 64]", "[2]"}},
        {REF "v3",
         {.config_from = "\"hidden_size\": 64", .config_to = "\"hidden_size\": 128"},
         FM_E_SHAPE,
         {"model.embed_tokens.weight", "[320, 128]", "[320, 64]"}},
        {REF "v3",
         {.config_from = "deepseek_v3", .config_to = "mixtral"},
         FM_E_UNSUPPORTED,
         {"config.json", "mixtral"}},
        {REF "v3",
         {.config_from = "\"n_group\": 4", .config_to = "\"n_group\": 0"},
         FM_E_RANGE,
         {"config.json", "n_group"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const broken *b = &cases[i];
        const fm_model_opts o = {.precision = FM_DTYPE_F32};
        char *dir = changed_copy(b->from, &b->ch);
        size_t before = fm_dev_bytes(x);
        fm_model *m = NULL;
        fm_err err = {0};
        fm_status st = fm_model_open(x, dir, &o, &m, &err);
        if (st != b->code) fail_msg("case %zu: status %d: %s", i, st, err.text);
        for (int k = 0; k < 3 && b->says[k]; k++)
            if (!strstr(err.text, b->says[k]))
                fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.text, b->says[k]);
        assert_null(m);
        assert_int_equal(fm_dev_bytes(x), before); /* nothing is left behind */
        fmi_free(dir);
    }
}

static int logged;

static void count_log(void *arg, int level, const char *text)
{
    (void)arg;
    (void)level;
    if (strstr(text, "strange.weight")) logged++;
}

static void tolerated(void **state)
{
    (void)state;
    static const change cases[] = {{.extra = "strange.weight"},
                                   {.extra = "model.layers.0.self_attn.rotary_emb.inv_freq"},
                                   {.extra = "model.layers.9.strange.weight"},
                                   {.config_from = "\"num_nextn_predict_layers\": 0",
                                    .config_to = "\"num_nextn_predict_layers\": 1"}};
    const fm_model_opts o = {.precision = FM_DTYPE_F32};
    logged = 0;
    fm_log_set(count_log, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *dir = changed_copy(REF "v3", &cases[i]);
        fm_model *m;
        OK(fm_model_open(x, dir, &o, &m, &ok_err));
        assert_false(fm_model_has_mtp(m));
        fm_model_close(m);
        fmi_free(dir);
    }
    fm_log_set(NULL, NULL);
    assert_int_equal(logged, 1);
}

/* Writes the tensors of `t` whose names end in _scale_inv, or the others. */
static void write_half(const fm_tensors *t, bool scales, const char *path)
{
    fmi_st_writer *w;
    fmi_st_spec specs[600];
    int n = 0;
    for (int i = 0; i < fm_tensors_count(t); i++) {
        const fm_tensor_info *s = fm_tensors_at(t, i);
        if (!strstr(s->name, "_scale_inv") == scales) continue;
        specs[n++] = (fmi_st_spec){s->name, s->dtype, s->rank, {s->dims[0], s->dims[1]}};
    }
    OK(fmi_st_writer_open(path, specs, n, NULL, 0, &w, &ok_err));
    for (int i = 0; i < n; i++) {
        const fm_tensor_info *s = fm_tensors_find(t, specs[i].name);
        OK(fmi_st_writer_write(w, s->name, s->data, s->bytes, &ok_err));
    }
    OK(fmi_st_writer_close(w, &ok_err));
    fmi_st_writer_free(w);
}

static void scales_in_another_shard(void **state)
{
    (void)state;
    const change none = {0};
    const fm_model_opts o = {.precision = FM_DTYPE_F32};
    char *dir = under("split"), *a = fmi_path_join(dir, "a.safetensors"),
         *b = fmi_path_join(dir, "b.safetensors");
    char *index = fmi_path_join(dir, "model.safetensors.index.json");
    fm_tensors *t;
    fm_model *m;
    OK(fmi_dir_make(dir, &ok_err));
    copy_config(REF "v3-fp8", dir, &none);
    OK(fm_tensors_open(REF "v3-fp8", &t, &ok_err));
    write_half(t, false, a);
    write_half(t, true, b);
    FILE *f = fopen(index, "w");
    fprintf(f, "{\"metadata\": {}, \"weight_map\": {");
    for (int i = 0; i < fm_tensors_count(t); i++) {
        const char *name = fm_tensors_at(t, i)->name;
        fprintf(f, "%s\"%s\": \"%s.safetensors\"", i ? ", " : "", name,
                strstr(name, "_scale_inv") ? "b" : "a");
    }
    fprintf(f, "}}\n");
    fclose(f);
    OK(fm_model_open(x, dir, &o, &m, &ok_err));
    same_as_stored(m, t);
    fm_model_close(m);
    fm_tensors_close(t);
    fmi_free(index);
    fmi_free(a);
    fmi_free(b);
    fmi_free(dir);
}

static void half_split_rows(void **state)
{
    (void)state;
    const change ch = {.half_split = true, .config_from = "\"rope_interleave\": true",
                       .config_to = "\"rope_interleave\": false"};
    char *dir = changed_copy(REF "v3", &ch);
    fm_model *m;
    fm_tensors *t;
    OK(fm_tensors_open(REF "v3", &t, &ok_err));
    for (int bf16 = 0; bf16 < 2; bf16++) {
        const fm_model_opts o = {.precision = bf16 ? FM_DTYPE_BF16 : FM_DTYPE_F32};
        OK(fm_model_open(x, dir, &o, &m, &ok_err));
        same_as_stored(m, t);
        fm_model_close(m);
    }
    fm_tensors_close(t);
    fmi_free(dir);
}

static void truncated(void **state)
{
    (void)state;
    const change none = {0};
    const fm_model_opts o = {.precision = FM_DTYPE_F32};
    char *dir = changed_copy(REF "v3", &none), *path = fmi_path_join(dir, "model.safetensors"),
         *data;
    size_t n;
    fm_model *m;
    OK(fmi_file_read(path, 1 << 24, &data, &n, &ok_err));
    const size_t cuts[] = {0, 7, 8, 100, n / 2, n - 1};
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        OK(fmi_file_write(path, data, cuts[i], &ok_err));
        assert_int_equal(fm_model_open(x, dir, &o, &m, &ok_err), FM_E_FORMAT);
        assert_non_null(strstr(ok_err.text, "model.safetensors"));
    }
    OK(fmi_tree_remove(path, &ok_err));
    assert_int_equal(fm_model_open(x, dir, &o, &m, &ok_err), FM_E_IO);
    assert_int_equal(fm_model_open(x, "tests/data/none", &o, &m, &ok_err), FM_E_IO);
    fmi_free(data);
    fmi_free(path);
    fmi_free(dir);
}

/* Every allocation of an opening fails once: a status, and nothing leaks (address sanitizer looks).
 */
static void out_of_memory(void **state)
{
    (void)state;
    const fm_model_opts o = {.precision = FM_DTYPE_F32};
    for (int64_t n = 1;; n += test_quick() ? 97 : 13) {
        fm_model *m = NULL;
        size_t before = fm_dev_bytes(x);
        fmi_alloc_fail_after(n);
        fm_status st = fm_model_open(x, REF "v2", &o, &m, &ok_err);
        fmi_alloc_fail_after(0);
        if (!st) {
            fm_model_close(m);
            return;
        }
        assert_int_equal(st, FM_E_NOMEM);
        assert_int_equal(fm_dev_bytes(x), before);
    }
}

static void inspection(void **state)
{
    (void)state;
    fm_inspection *r;
    OK(fm_checkpoint_inspect(REF "v3-mtp", &r, &ok_err));
    assert_true(r->mtp && !r->fp8 && r->n_files == 1);
    fm_tensors *t;
    OK(fm_tensors_open(REF "v3-mtp", &t, &ok_err));
    assert_int_equal(r->n_tensors, fm_tensors_count(t));
    fm_tensors_close(t);
    assert_int_equal(r->shape.total + r->shape.mtp_total, r->elements);
    assert_int_equal(r->shape.kv_bytes_bf16, 4 * 32 * 2);
    for (int i = 0; i < r->n_loaders; i++) {
        bool vllm = !strcmp(r->loader[i].program, "vllm");
        assert_int_equal(r->loader[i].loads, !vllm);
        if (vllm) assert_non_null(strstr(r->loader[i].why, "320 and 576"));
        if (!strcmp(r->loader[i].program, "transformers"))
            assert_non_null(strstr(r->loader[i].why, "model.layers.4"));
    }
    fm_inspection_free(r);
    const change ch = {.skip = Q};
    char *dir = changed_copy(REF "v3", &ch);
    OK(fm_checkpoint_inspect(dir, &r, &ok_err)); /* still says what is there */
    assert_false(r->loader[0].loads);
    assert_non_null(strstr(r->loader[0].why, Q));
    fm_inspection_free(r);
    fmi_free(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_seven_open),
        cmocka_unit_test(borrowing),
        cmocka_unit_test(round_trip),
        cmocka_unit_test(shards_and_no_mtp),
        cmocka_unit_test(init_is_a_function_of_the_seed),
        cmocka_unit_test(refused),
        cmocka_unit_test(tolerated),
        cmocka_unit_test(half_split_rows),
        cmocka_unit_test(scales_in_another_shard),
        cmocka_unit_test(truncated),
        cmocka_unit_test(out_of_memory),
        cmocka_unit_test(inspection),
    };
    return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
