/* Reading a data directory: data.json names the shards, the shards are mapped.
 *
 * Counts, vocabulary and tokenizer hash of every shard must agree with data.json, so that a
 * directory put together from two runs is refused. */
#include <stdlib.h>
#include <string.h>

#include "fathom/data.h"
#include "io/json.h"
#include "io/shards.h"

typedef struct split_part {
    fmi_shard **shard;  /* [n] */
    int64_t *first;     /* [n + 1] number of the first document */
    size_t n;
    fm_data_count total;
} split_part;

struct fm_data {
    split_part part[2]; /* by fm_split */
    int32_t vocab_size;
    uint64_t tokenizer_hash;
};

void fm_data_close(fm_data *d)
{
    if (!d) return;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < d->part[k].n; i++) fmi_shard_close(d->part[k].shard[i]);
        fmi_free(d->part[k].shard);
        fmi_free(d->part[k].first);
    }
    fmi_free(d);
}

static fm_status open_shard(fm_data *d, split_part *p, const char *dir, const char *name,
                            fm_err *err)
{
    if (!*name || strchr(name, '/'))
        return FM_FAIL(err, FM_E_FORMAT, "%s/data.json: shard \"%.60s\": expected a file name", dir,
                       name);
    char *path = fmi_path_join(dir, name);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s/%s", dir, name);
    fmi_shard *s = NULL;
    fm_status st = fmi_shard_open(path, &s, err);
    if (!st) {
        p->shard[p->n] = s;
        p->first[p->n + 1] = p->first[p->n] + (int64_t)s->n_documents;
        p->n++;
        if (s->vocab_size != (uint64_t)d->vocab_size || s->tokenizer_hash != d->tokenizer_hash)
            st = FM_FAIL(err, FM_E_FORMAT,
                         "%s: made with another tokenizer than data.json says (vocabulary %llu, "
                         "hash %016llx)",
                         path, (unsigned long long)s->vocab_size,
                         (unsigned long long)s->tokenizer_hash);
    }
    fmi_free(path);
    return st;
}

static fm_status open_part(fm_data *d, split_part *p, const char *dir, const char *where,
                           const json_t *v, fm_err *err)
{
    int64_t docs = 0, tokens = 0, bytes = 0;
    json_t *names = NULL, *name;
    fm_status st = fmi_json_get_int(v, where, "documents", &docs, err);
    if (!st) st = fmi_json_get_int(v, where, "tokens", &tokens, err);
    if (!st) st = fmi_json_get_int(v, where, "bytes", &bytes, err);
    if (!st) st = fmi_json_get_array(v, where, "shards", &names, err);
    if (st) return st;
    size_t i, n = json_array_size(names);
    p->shard = fmi_zalloc((n + 1) * sizeof *p->shard);
    p->first = fmi_zalloc((n + 1) * sizeof *p->first);
    if (!p->shard || !p->first) return FM_FAIL(err, FM_E_NOMEM, "%s: %zu shards", where, n);
    json_array_foreach(names, i, name)
    {
        if (!json_is_string(name))
            return FM_FAIL(err, FM_E_FORMAT, "%s: shards[%zu]: expected a string, found %s", where,
                           i, fmi_json_type_name(name));
        if ((st = open_shard(d, p, dir, json_string_value(name), err))) return st;
        const fmi_shard *s = p->shard[p->n - 1];
        p->total.n_documents += (int64_t)s->n_documents;
        p->total.n_tokens += (int64_t)s->n_tokens;
        p->total.n_bytes += (int64_t)s->source_bytes;
    }
    if (p->total.n_documents != docs || p->total.n_tokens != tokens || p->total.n_bytes != bytes)
        return FM_FAIL(err, FM_E_FORMAT,
                       "%s: expected %lld documents of %lld tokens, found %lld of %lld", where,
                       (long long)docs, (long long)tokens, (long long)p->total.n_documents,
                       (long long)p->total.n_tokens);
    return FM_OK;
}

static fm_status open_json(fm_data *d, const char *dir, const char *path, fm_err *err)
{
    json_t *root = NULL;
    int64_t format = 0, vocab = 0;
    const char *hash = NULL;
    char *end = NULL;
    fm_status st = fmi_json_load(path, FMI_JSON_BYTES_MAX, &root, err);
    if (!st) st = fmi_json_get_int(root, path, "format", &format, err);
    if (!st && format != 1)
        st = FM_FAIL(err, FM_E_UNSUPPORTED, "%s: format: expected 1, found %lld", path,
                     (long long)format);
    if (!st) st = fmi_json_get_int(root, path, "vocab_size", &vocab, err);
    if (!st && (vocab < 1 || vocab > INT32_MAX))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: vocab_size: %lld", path, (long long)vocab);
    if (!st) st = fmi_json_get_string(root, path, "tokenizer_hash", &hash, err);
    if (!st) {
        d->vocab_size = (int32_t)vocab;
        d->tokenizer_hash = strtoull(hash, &end, 16);
        if (strlen(hash) != 16 || *end)
            st = FM_FAIL(err, FM_E_FORMAT,
                         "%s: tokenizer_hash: expected 16 hexadecimal digits, found \"%.40s\"",
                         path, hash);
    }
    static const char *const key[2] = { "train", "val" };
    for (int k = 0; k < 2 && !st; k++) {
        json_t *v = NULL;
        st = fmi_json_get_object(root, path, key[k], &v, err);
        char *where = fmi_format("%s: %s", path, key[k]);
        if (!st)
            st = where ? open_part(d, &d->part[k], dir, where, v, err)
                       : FM_FAIL(err, FM_E_NOMEM, "%s", path);
        fmi_free(where);
    }
    json_decref(root);
    return st;
}

fm_status fm_data_open(const char *dir, fm_data **out, fm_err *err)
{
    fm_data *d = fmi_zalloc(sizeof *d);
    char *path = fmi_path_join(dir, "data.json");
    fm_status st = d && path ? open_json(d, dir, path, err) : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    fmi_free(path);
    if (st) fm_data_close(d);
    else *out = d;
    return st;
}

fm_data_count fm_data_total(const fm_data *d, fm_split split) { return d->part[split].total; }
int32_t fm_data_vocab_size(const fm_data *d) { return d->vocab_size; }
uint64_t fm_data_tokenizer_hash(const fm_data *d) { return d->tokenizer_hash; }

/* The shard that holds document i, and i counted from its beginning. */
static const fmi_shard *locate(const fm_data *d, fm_split split, int64_t *i)
{
    const split_part *p = &d->part[split];
    FM_ASSERT(*i >= 0 && *i < p->total.n_documents);
    size_t lo = 0, hi = p->n;
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (p->first[mid] <= *i) lo = mid;
        else hi = mid;
    }
    *i -= p->first[lo];
    return p->shard[lo];
}

int64_t fm_data_document(const fm_data *d, fm_split split, int64_t i, int64_t *n_bytes)
{
    const fmi_shard *s = locate(d, split, &i);
    uint64_t begin, end, bytes;
    fmi_shard_document(s, (uint64_t)i, &begin, &end, &bytes);
    if (n_bytes) *n_bytes = (int64_t)bytes;
    return (int64_t)(end - begin);
}

void fm_data_read(const fm_data *d, fm_split split, int64_t i, int64_t first, int64_t n,
                  int32_t *out)
{
    const fmi_shard *s = locate(d, split, &i);
    uint64_t begin, end;
    fmi_shard_document(s, (uint64_t)i, &begin, &end, NULL);
    FM_ASSERT(first >= 0 && n >= 0 && begin + (uint64_t)(first + n) <= end);
    fmi_shard_tokens(s, begin + (uint64_t)first, (uint64_t)n, out);
}
