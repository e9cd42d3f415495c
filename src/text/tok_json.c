/* tokenizer.json to fm_tokenizer.
 *
 * Read: model BPE (vocab, merges as "a b" or as pairs, ignore_merges), added_tokens, pre_tokenizer
 * (Split, ByteLevel, Digits, Sequence), decoder ByteLevel. Refused with the entry's name, since ids
 * would differ: other kinds, any normalizer that does something, dropout, byte_fallback, prefixes and
 * suffixes of subwords, add_prefix_space, added tokens with single_word, lstrip or rstrip.
 * Merges must name tokens of the vocabulary, ids must be unique and below 2^24, all 256 bytes must
 * have a token. Where a merge is listed twice the later rank counts, as in the Hugging Face
 * library. */
#include <stdlib.h>
#include <string.h>

#include "io/hash.h"
#include "io/json.h"
#include "text/bpe.h"
#include "text/load.h"

#define ID_MAX ((json_int_t)1 << 24)

static const char *type_of(const json_t *o)
{
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "(no type)";
}

static bool absent(const json_t *v)
{
    return !v || json_is_null(v);
}

/* How much of a token a message shows. */
static int shown(size_t n)
{
    return n < 60 ? (int)n : 60;
}

/* A token of the vocabulary as bytes: through the byte map; text outside it stands for itself. */
static fm_status put_mapped(fm_text *pool, const char *s, size_t n, fm_err *err)
{
    fm_status st = fmi_text_reserve(pool, n, err);
    if (st) return st;
    char *o = pool->data + pool->n;
    size_t k = 0;
    for (size_t i = 0; i < n;) {
        int len = fmi_utf8_char((const unsigned char *)s + i, n - i, NULL);
        int b = len ? fmi_char_byte(fmi_utf8_get((const unsigned char *)s + i, len)) : -1;
        if (b < 0) return fm_text_push(pool, s, n, err);
        o[k++] = (char)b;
        i += (size_t)len;
    }
    pool->n += k;
    pool->data[pool->n] = 0;
    return FM_OK;
}

static fm_status check_id(const fmi_load *l, const json_t *v, const char *what, const char *token,
                          int32_t *id, fm_err *err)
{
    if (!json_is_integer(v))
        return FM_FAIL(err, FM_E_FORMAT, "%s: %s \"%.60s\": the id is not an integer", l->name,
                       what, token);
    json_int_t x = json_integer_value(v);
    if (x < 0 || x >= ID_MAX)
        return FM_FAIL(err, FM_E_FORMAT, "%s: %s \"%.60s\": id %lld is not in 0..%lld", l->name,
                       what, token, (long long)x, (long long)ID_MAX - 1);
    *id = (int32_t)x;
    return FM_OK;
}

/* Finds the highest id, so that the tables can be allocated. */
static fm_status size_tables(fmi_load *l, fm_err *err)
{
    fm_tokenizer *t = l->tok;
    const char *key;
    json_t *v;
    int32_t id = -1, top = -1;
    json_object_foreach(l->vocab, key, v)
    {
        fm_status st = check_id(l, v, "model.vocab", key, &id, err);
        if (st) return st;
        if (id > top) top = id;
    }
    size_t i;
    json_array_foreach(l->added, i, v)
    {
        const char *s = json_string_value(json_object_get(v, "content"));
        if (!s || !*s)
            return FM_FAIL(err, FM_E_FORMAT, "%s: added_tokens[%zu]: no content", l->name, i);
        fm_status st = check_id(l, json_object_get(v, "id"), "added_tokens", s, &id, err);
        if (st) return st;
        if (id > top) top = id;
    }
    if (top < 0) return FM_FAIL(err, FM_E_FORMAT, "%s: model.vocab is empty", l->name);
    t->n_vocab = top + 1;
    size_t n = (size_t)t->n_vocab;
    t->begin = fmi_zalloc((n + 1) * sizeof *t->begin);
    t->len = fmi_zalloc(n * sizeof *t->len);
    t->kind = fmi_zalloc(n);
    l->text = fmi_zalloc(n * sizeof *l->text);
    if (!t->begin || !t->len || !t->kind || !l->text)
        return FM_FAIL(err, FM_E_NOMEM, "%s: tables of %zu tokens", l->name, n);
    return FM_OK;
}

static fm_status load_vocab(fmi_load *l, fm_err *err)
{
    fm_tokenizer *t = l->tok;
    void *it = json_object_iter(l->vocab);
    for (; it; it = json_object_iter_next(l->vocab, it)) {
        const char *key = json_object_iter_key(it);
        int32_t id = (int32_t)json_integer_value(json_object_iter_value(it));
        if (t->kind[id])
            return FM_FAIL(err, FM_E_FORMAT,
                           "%s: model.vocab: \"%.60s\" and \"%.60s\" both have id %d", l->name,
                           l->text[id], key, id);
        t->kind[id] = FMI_TOKEN_KNOWN;
        l->text[id] = key;
        t->begin[id] = t->pool.n;
        fm_status st = put_mapped(&t->pool, key, json_object_iter_key_len(it), err);
        if (st) return st;
        t->len[id] = (uint32_t)(t->pool.n - t->begin[id]);
    }
    for (unsigned b = 0; b < 256; b++) {
        char s[5] = "";
        s[fmi_utf8_put(fmi_byte_char(b), s)] = 0;
        const json_t *v = json_object_get(l->vocab, s);
        if (!v)
            return FM_FAIL(err, FM_E_FORMAT, "%s: model.vocab: no token \"%s\" for byte 0x%02x",
                           l->name, s, b);
        t->byte_id[b] = (int32_t)json_integer_value(v);
    }
    return FM_OK;
}

static const json_t *vocab_get(const fmi_load *l, const char *s, size_t n)
{
    return json_object_getn(l->vocab, s, n);
}

/* The two halves of merges[i]; for "a b" both borrow the string. */
static fm_status merge_halves(const fmi_load *l, size_t i, const json_t *v, const char *s[2],
                              size_t n[2], fm_err *err)
{
    if (json_is_string(v)) {
        const char *p = json_string_value(v), *end = p + json_string_length(v);
        const char *sp = memchr(p, ' ', (size_t)(end - p));
        if (sp && sp > p && sp + 1 < end && !memchr(sp + 1, ' ', (size_t)(end - sp - 1))) {
            s[0] = p, n[0] = (size_t)(sp - p);
            s[1] = sp + 1, n[1] = (size_t)(end - sp - 1);
            return FM_OK;
        }
        return FM_FAIL(err, FM_E_FORMAT, "%s: model.merges[%zu]: expected \"a b\", found \"%.60s\"",
                       l->name, i, p);
    }
    if (json_is_array(v) && json_array_size(v) == 2 && json_is_string(json_array_get(v, 0)) &&
        json_is_string(json_array_get(v, 1))) {
        for (size_t k = 0; k < 2; k++) {
            s[k] = json_string_value(json_array_get(v, k));
            n[k] = json_string_length(json_array_get(v, k));
        }
        return FM_OK;
    }
    return FM_FAIL(err, FM_E_FORMAT,
                   "%s: model.merges[%zu]: expected a string or a pair of strings, found %s",
                   l->name, i, fmi_json_type_name(v));
}

static void put_merge(fm_tokenizer *t, int32_t a, int32_t b, int32_t rank, int32_t id)
{
    uint64_t key = fmi_pair_key(a, b), i = fmi_pair_hash(key) & t->merge_mask;
    while (t->merge[i].key != UINT64_MAX && t->merge[i].key != key) i = (i + 1) & t->merge_mask;
    t->merge[i] = (fmi_merge){ key, rank, id };
}

static fm_status load_merge(fmi_load *l, size_t i, const json_t *v, fm_text *joined, fm_err *err)
{
    const char *s[2];
    size_t n[2];
    fm_status st = merge_halves(l, i, v, s, n, err);
    if (st) return st;
    joined->n = 0;
    st = fm_text_push(joined, s[0], n[0], err);
    if (!st) st = fm_text_push(joined, s[1], n[1], err);
    if (st) return st;
    const json_t *id[3] = { vocab_get(l, s[0], n[0]), vocab_get(l, s[1], n[1]),
                            vocab_get(l, joined->data, joined->n) };
    for (int k = 0; k < 3; k++)
        if (!id[k])
            return FM_FAIL(err, FM_E_FORMAT,
                           "%s: model.merges[%zu] \"%.*s %.*s\": \"%.*s\" is not in the "
                           "vocabulary",
                           l->name, i, shown(n[0]), s[0],
                           shown(n[1]), s[1],
                           shown(k < 2 ? n[k] : joined->n), k < 2 ? s[k] : joined->data);
    put_merge(l->tok, (int32_t)json_integer_value(id[0]), (int32_t)json_integer_value(id[1]),
              (int32_t)i, (int32_t)json_integer_value(id[2]));
    return FM_OK;
}

static fm_status load_merges(fmi_load *l, json_t *merges, fm_err *err)
{
    fm_tokenizer *t = l->tok;
    size_t n = json_array_size(merges), slots = 16;
    if (n > (size_t)ID_MAX)
        return FM_FAIL(err, FM_E_FORMAT, "%s: model.merges: %zu entries", l->name, n);
    while (slots < 2 * n + 2) slots *= 2;
    t->merge = fmi_alloc(slots * sizeof *t->merge);
    if (!t->merge) return FM_FAIL(err, FM_E_NOMEM, "%s: %zu merges", l->name, n);
    for (size_t i = 0; i < slots; i++) t->merge[i].key = UINT64_MAX;
    t->merge_mask = slots - 1;
    t->n_merges = (int32_t)n;
    fm_text joined = {0};
    fm_status st = FM_OK;
    size_t i;
    json_t *v;
    json_array_foreach(merges, i, v)
    {
        if ((st = load_merge(l, i, v, &joined, err))) break;
    }
    fm_text_deinit(&joined);
    return st;
}

static int compare_added(const void *pa, const void *pb)
{
    const fmi_added *a = pa, *b = pb;
    int c = memcmp(a->text, b->text, a->n < b->n ? a->n : b->n);
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

static fm_status load_added_one(fmi_load *l, size_t i, const json_t *v, fm_err *err)
{
    static const char *const off[] = { "single_word", "lstrip", "rstrip" };
    fm_tokenizer *t = l->tok;
    const json_t *content = json_object_get(v, "content");
    const char *s = json_string_value(content);
    size_t n = json_string_length(content);
    int32_t id = (int32_t)json_integer_value(json_object_get(v, "id"));
    for (size_t k = 0; k < 3; k++)
        if (json_is_true(json_object_get(v, off[k])))
            return FM_FAIL(err, FM_E_UNSUPPORTED,
                           "%s: added_tokens[%zu] \"%.60s\": %s is not supported", l->name, i, s,
                           off[k]);
    if (t->kind[id] && strcmp(l->text[id], s))
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: added_tokens[%zu] \"%.60s\": id %d already belongs to \"%.60s\"",
                       l->name, i, s, id, l->text[id]);
    if (t->kind[id] & FMI_TOKEN_ADDED)
        return FM_FAIL(err, FM_E_FORMAT, "%s: added_tokens[%zu] \"%.60s\" is listed twice", l->name,
                       i, s);
    const json_t *in_vocab = vocab_get(l, s, n);
    if (in_vocab && json_integer_value(in_vocab) != id)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: added_tokens[%zu] \"%.60s\" has id %d; model.vocab gives it %lld",
                       l->name, i, s, id, (long long)json_integer_value(in_vocab));
    l->text[id] = s;
    t->kind[id] = FMI_TOKEN_KNOWN | FMI_TOKEN_ADDED;
    if (json_is_true(json_object_get(v, "special"))) t->kind[id] |= FMI_TOKEN_CONTROL;
    if (json_is_true(json_object_get(v, "normalized"))) t->kind[id] |= FMI_TOKEN_SECOND;
    t->begin[id] = t->pool.n;
    t->len[id] = (uint32_t)n;
    return fm_text_push(&t->pool, s, n, err);
}

/* After the pool has its final address. */
static fm_status sort_added(fmi_load *l, fm_err *err)
{
    fm_tokenizer *t = l->tok;
    size_t n = json_array_size(l->added);
    for (int k = 0; k < 2; k++)
        if (!(t->added[k].item = fmi_zalloc((n + 1) * sizeof *t->added[k].item)))
            return FM_FAIL(err, FM_E_NOMEM, "%s: %zu added tokens", l->name, n);
    for (int32_t id = 0; id < t->n_vocab; id++) {
        if (!(t->kind[id] & FMI_TOKEN_ADDED)) continue;
        fmi_added_set *set = &t->added[t->kind[id] & FMI_TOKEN_SECOND ? 1 : 0];
        const char *s = t->pool.data + t->begin[id];
        set->item[set->n++] = (fmi_added){ s, t->len[id], id };
        set->first[(unsigned char)*s] = 1;
    }
    for (int k = 0; k < 2; k++) {
        fmi_added_set *set = &t->added[k];
        qsort(set->item, (size_t)set->n, sizeof *set->item, compare_added);
        for (int32_t i = 1; i < set->n; i++)
            if (!compare_added(&set->item[i - 1], &set->item[i]))
                return FM_FAIL(err, FM_E_FORMAT, "%s: added_tokens: \"%.*s\" has ids %d and %d",
                               l->name, shown(set->item[i].n), set->item[i].text,
                               set->item[i - 1].id, set->item[i].id);
    }
    return FM_OK;
}

static fm_status check_model(fmi_load *l, const json_t *model, fm_err *err)
{
    static const char *const empty[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    fm_tokenizer *t = l->tok;
    if (strcmp(type_of(model), "BPE"))
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: model.type is \"%.40s\"; only BPE is supported",
                       l->name, type_of(model));
    for (size_t k = 0; k < 2; k++) {
        const json_t *v = json_object_get(model, empty[k]);
        if (!absent(v) && json_string_length(v))
            return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: model.%s is not supported", l->name,
                           empty[k]);
    }
    const json_t *d = json_object_get(model, "dropout");
    if (!absent(d) && json_number_value(d) != 0)
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: model.dropout is not supported", l->name);
    if (json_is_true(json_object_get(model, "byte_fallback")))
        return FM_FAIL(err, FM_E_UNSUPPORTED, "%s: model.byte_fallback is not supported", l->name);
    t->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    fm_status st = fmi_json_get_object(model, l->name_model, "vocab", &l->vocab, err);
    return st;
}

static fm_status index_whole(fmi_load *l, fm_err *err)
{
    fm_tokenizer *t = l->tok;
    uint64_t slots = 16;
    while (slots < 2 * (uint64_t)t->n_vocab + 2) slots *= 2;
    t->whole = fmi_alloc(slots * sizeof *t->whole);
    if (!t->whole) return FM_FAIL(err, FM_E_NOMEM, "%s: index of tokens", l->name);
    for (uint64_t i = 0; i < slots; i++) t->whole[i] = -1;
    t->whole_mask = slots - 1;
    json_t *v;
    const char *key;
    json_object_foreach(l->vocab, key, v) fmi_bpe_index_whole(t, (int32_t)json_integer_value(v));
    return FM_OK;
}

/* Everything that decides ids, in one order: tokens by id, merges by rank, expressions. */
static uint64_t hash_meaning(const fm_tokenizer *t, const json_t *merges)
{
    fmi_hash h;
    fmi_hash_init(&h, 0);
    for (int32_t i = 0; i < t->n_vocab; i++) {
        uint32_t head[2] = { t->kind[i], t->len[i] };
        fmi_hash_write(&h, head, sizeof head);
        fmi_hash_write(&h, t->pool.data + t->begin[i], t->len[i]);
    }
    size_t i;
    json_t *v;
    json_array_foreach(merges, i, v)
    {
        for (size_t k = 0; k < (json_is_array(v) ? 2 : 1); k++) {
            const json_t *s = json_is_array(v) ? json_array_get(v, k) : v;
            if (k) fmi_hash_write(&h, " ", 1);
            fmi_hash_write(&h, json_string_value(s), json_string_length(s));
        }
        fmi_hash_write(&h, "\n", 1);
    }
    for (int k = 0; k < t->pretok.n; k++) {
        fmi_hash_write(&h, t->pretok.stage[k].pattern, strlen(t->pretok.stage[k].pattern) + 1);
        fmi_hash_write(&h, &t->pretok.stage[k].matches_only, 1);
    }
    fmi_hash_write(&h, &t->ignore_merges, 1);
    return fmi_hash_get(&h);
}

static fm_status load_root(fmi_load *l, const json_t *root, fm_err *err)
{
    json_t *model, *merges = NULL, *v;
    fm_status st = fmi_json_get_object(root, l->name, "model", &model, err);
    if (!st) st = fmi_json_opt_array(root, l->name, "added_tokens", &l->added, err);
    if (!st) st = check_model(l, model, err);
    if (!st) st = fmi_json_get_array(model, l->name_model, "merges", &merges, err);
    if (!st) st = fmi_load_pipeline(l, root, err);
    if (!st) st = size_tables(l, err);
    if (!st) st = load_vocab(l, err);
    if (!st) st = load_merges(l, merges, err);
    if (st) return st;
    size_t i;
    json_array_foreach(l->added, i, v)
    {
        if ((st = load_added_one(l, i, v, err))) return st;
    }
    st = sort_added(l, err);
    if (!st && l->tok->ignore_merges) st = index_whole(l, err);
    if (!st) l->tok->hash = hash_meaning(l->tok, merges);
    return st;
}

fm_status fmi_tokenizer_load(fm_tokenizer *tok, const char *name, const char *json, size_t n,
                             fm_err *err)
{
    json_t *root = NULL;
    fmi_load l = { .tok = tok, .name = name, .name_model = fmi_format("%s: model", name) };
    fm_status st = l.name_model ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", name);
    if (!st) st = fmi_json_parse(name, json, n, false, &root, err);
    if (!st) st = load_root(&l, root, err);
    json_decref(root);
    fmi_free(l.text);
    fmi_free(l.name_model);
    return st;
}
