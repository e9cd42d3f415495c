/* A learned vocabulary as the three files Hugging Face programs read.
 *
 * Ids: 0 begin of sentence, 1 end of sentence, 2 pad; 3..258 the bytes in order; then what merges
 * made, in order; spare tokens where merges ran out; the marks of the chat formats last. As in
 * DeepSeek-V3's own file the three and <|EOT|> are special, the chat marks are not: they survive a
 * decode that skips special tokens. The class is PreTrainedTokenizerFast: others rebuild the
 * pre-tokenizer and lose spaces. */
#include <string.h>

#include "io/file.h"
#include "io/json.h"
#include "text/chat_template.h"
#include "text/pretok.h"
#include "text/tok.h"
#include "text/words.h"

#define BAR "\xef\xbd\x9c"
#define SEP "\xe2\x96\x81"
#define N_FIRST 3

const char *const fmi_marks[] = { FMI_BOS,
                                  FMI_EOS,
                                  FMI_PAD,
                                  "<" BAR "User" BAR ">",
                                  "<" BAR "Assistant" BAR ">",
                                  "<think>",
                                  "</think>",
                                  "<|EOT|>",
                                  "<" BAR "tool" SEP "calls" SEP "begin" BAR ">",
                                  "<" BAR "tool" SEP "calls" SEP "end" BAR ">",
                                  "<" BAR "tool" SEP "call" SEP "begin" BAR ">",
                                  "<" BAR "tool" SEP "call" SEP "end" BAR ">",
                                  "<" BAR "tool" SEP "outputs" SEP "begin" BAR ">",
                                  "<" BAR "tool" SEP "outputs" SEP "end" BAR ">",
                                  "<" BAR "tool" SEP "output" SEP "begin" BAR ">",
                                  "<" BAR "tool" SEP "output" SEP "end" BAR ">",
                                  "<" BAR "tool" SEP "sep" BAR ">" };
const int32_t fmi_n_marks = sizeof fmi_marks / sizeof *fmi_marks;

static fm_status put_token(fm_text *out, const fmi_bpe_model *m, int32_t id, fm_err *err)
{
    fm_status st = FM_OK;
    for (uint32_t i = 0; i < m->len[id] && !st; i++) {
        char c[4];
        int n = fmi_utf8_put(fmi_byte_char((unsigned char)m->pool.data[m->begin[id] + i]), c);
        st = fm_text_push(out, c, (size_t)n, err);
    }
    return st;
}

static fm_status fill_vocab(const fmi_bpe_model *m, json_t *vocab, json_t *merges, fm_err *err)
{
    fm_text t = {0};
    fm_status st = FM_OK;
    bool ok = true;
    for (int i = 0; i < N_FIRST; i++)
        ok &= !json_object_set_new(vocab, fmi_marks[i], json_integer(i));
    for (size_t i = 0; i < m->n_tokens && !st && ok; i++) {
        t.n = 0;
        st = put_token(&t, m, (int32_t)i, err);
        if (!st) ok = !json_object_set_new(vocab, t.data, json_integer((json_int_t)i + N_FIRST));
    }
    for (size_t i = 0; i < m->n_merges && !st && ok; i++) {
        t.n = 0;
        st = put_token(&t, m, m->merge[i][0], err);
        if (!st) st = fmi_text_puts(&t, " ", err);
        if (!st) st = put_token(&t, m, m->merge[i][1], err);
        if (!st) ok = !json_array_append_new(merges, json_stringn(t.data, t.n));
    }
    fm_text_deinit(&t);
    if (!st && !ok) st = FM_FAIL(err, FM_E_NOMEM, "tokenizer.json");
    return st;
}

static bool put_added(json_t *list, int32_t id, const char *text, bool special)
{
    json_t *o =
        json_pack("{s:i, s:s, s:b, s:b, s:b, s:b, s:b}", "id", id, "content", text, "single_word",
                  0, "lstrip", 0, "rstrip", 0, "normalized", 0, "special", special);
    return o && !json_array_append_new(list, o);
}

static fm_status fill_added(const fmi_bpe_model *m, int32_t vocab_size, json_t *added,
                            int32_t *n_spare, fm_err *err)
{
    bool ok = true;
    for (int32_t i = 0; i < N_FIRST; i++) ok &= put_added(added, i, fmi_marks[i], true);
    int32_t id = (int32_t)m->n_tokens + N_FIRST, first_mark = vocab_size - (fmi_n_marks - N_FIRST);
    *n_spare = first_mark - id;
    for (int32_t k = 0; id < first_mark && ok; id++, k++) {
        char *name = fmi_format("<" BAR "place" SEP "holder" SEP "no" SEP "%d" BAR ">", k);
        ok = name && put_added(added, id, name, true);
        fmi_free(name);
    }
    for (int32_t k = N_FIRST; k < fmi_n_marks && ok; k++, id++)
        ok = put_added(added, id, fmi_marks[k], !strcmp(fmi_marks[k], "<|EOT|>"));
    return ok ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "tokenizer.json: added tokens");
}

static json_t *split_stage(const char *pattern)
{
    return json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern", "Regex", pattern,
                     "behavior", "Isolated", "invert", 0);
}

static json_t *byte_level(void)
{
    return json_pack("{s:s, s:b, s:b, s:b}", "type", "ByteLevel", "add_prefix_space", 0,
                     "trim_offsets", 1, "use_regex", 0);
}

static fm_status build(const fmi_bpe_model *m, int32_t vocab_size, json_t **out,
                       int32_t *n_spare, fm_err *err)
{
    json_t *vocab = json_object(), *merges = json_array(), *added = json_array();
    fm_status st = vocab && merges && added ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "tokenizer.json");
    if (!st) st = fill_vocab(m, vocab, merges, err);
    if (!st) st = fill_added(m, vocab_size, added, n_spare, err);
    if (st) {
        json_decref(vocab);
        json_decref(merges);
        json_decref(added);
        return st;
    }
    json_t *model =
        json_pack("{s:s, s:n, s:n, s:n, s:n, s:b, s:b, s:b, s:o, s:o}", "type", "BPE", "dropout",
                  "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", 0,
                  "byte_fallback", 0, "ignore_merges", 0, "vocab", vocab, "merges", merges);
    *out = json_pack("{s:s, s:n, s:n, s:o, s:n, s:{s:s, s:[o, o, o, o]}, s:n, s:o, s:o}", "version",
                     "1.0", "truncation", "padding", "added_tokens", added, "normalizer",
                     "pre_tokenizer", "type", "Sequence", "pretokenizers",
                     split_stage(fmi_pretok_fathom[0]), split_stage(fmi_pretok_fathom[1]),
                     split_stage(fmi_pretok_fathom[2]), byte_level(), "post_processor", "decoder",
                     byte_level(), "model", model);
    return *out ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "tokenizer.json");
}

static fm_status write_json(const char *dir, const char *name, const json_t *json, fm_err *err)
{
    char *path = fmi_path_join(dir, name);
    fm_status st = path && json ? fmi_json_write(path, json, err)
                                : FM_FAIL(err, FM_E_NOMEM, "%s/%s", dir, name);
    fmi_free(path);
    return st;
}

fm_status fmi_bpe_model_write(const fmi_bpe_model *m, int32_t vocab_size, const char *dir,
                              int32_t *n_spare, fm_err *err)
{
    fmi_json_init();
    json_t *root = NULL;
    fm_status st = fmi_dir_make(dir, err);
    if (!st) st = build(m, vocab_size, &root, n_spare, err);
    if (!st) st = write_json(dir, "tokenizer.json", root, err);
    json_decref(root);
    if (st) return st;
    json_t *config =
        json_pack("{s:b, s:b, s:s, s:b, s:s, s:i, s:s, s:s, s:n}", "add_bos_token", 0,
                  "add_eos_token", 0, "bos_token", FMI_BOS, "clean_up_tokenization_spaces", 0,
                  "eos_token", FMI_EOS, "model_max_length", 2048, "pad_token", FMI_PAD,
                  "tokenizer_class", "PreTrainedTokenizerFast", "unk_token");
    st = write_json(dir, "tokenizer_config.json", config, err);
    json_decref(config);
    char *path = fmi_path_join(dir, "chat_template.jinja");
    if (!st && !path) st = FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    if (!st) st = fmi_file_write(path, fmi_chat_template_v31, strlen(fmi_chat_template_v31), err);
    fmi_free(path);
    return st;
}
