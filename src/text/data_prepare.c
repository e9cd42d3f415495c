/* Sources to a data directory: read, encode, split, write shards and data.json.
 *
 * Held out are documents whose hash falls on one value in `val_every`. They wait in memory (a small
 * part) and are written last, once it is known that neither side is empty: while nothing is held
 * out, the document with the lowest hash waits too, and takes that place in the end. Equal texts
 * have equal hashes, so copies of a text stay on one side; only when all documents are equal must
 * they part. */
#include <math.h>
#include <string.h>

#include "fathom/data.h"
#include "io/file.h"
#include "io/hash.h"
#include "io/json.h"
#include "io/shards.h"
#include "text/documents.h"
#include "text/tok.h"

typedef struct waiting_doc {
    int32_t *ids;
    int64_t n, n_bytes, copies;
} waiting_doc;

typedef struct waiting_list {
    waiting_doc *doc;
    size_t n, cap;
} waiting_list;

typedef struct preparer {
    fmi_encoder *enc;
    const fm_tokenizer *tok;
    const char *dir;
    int64_t shard_tokens;
    uint64_t val_every;       /* 0: no split by hash */
    double weight;            /* of the source being read */
    bool into_val;            /* the val source is being read */
    fmi_shard_writer *shard;
    json_t *shards;           /* names of closed train shards */
    waiting_list val, lowest;
    uint64_t lowest_hash;
    fm_ids ids;
    fm_data_report report;
    fm_data_count source;     /* of the source being read, copies not counted */
} preparer;

static void list_deinit(waiting_list *l)
{
    for (size_t i = 0; i < l->n; i++) fmi_free(l->doc[i].ids);
    fmi_free(l->doc);
    *l = (waiting_list){0};
}

static fm_status list_add(waiting_list *l, const fm_ids *ids, int64_t n_bytes, int64_t copies,
                          fm_err *err)
{
    void *p = l->doc;
    fm_status st = fmi_grow(&p, &l->cap, l->n + 1, sizeof *l->doc, err);
    l->doc = p;
    if (st) return st;
    int32_t *copy = fmi_alloc(ids->n * sizeof *copy);
    if (!copy) return FM_FAIL(err, FM_E_NOMEM, "a document of %zu tokens", ids->n);
    memcpy(copy, ids->data, ids->n * sizeof *copy);
    l->doc[l->n++] = (waiting_doc){ copy, (int64_t)ids->n, n_bytes, copies };
    return FM_OK;
}

static fm_status open_shard(preparer *p, const char *name, fm_err *err)
{
    char *path = fmi_path_join(p->dir, name);
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", name);
    fm_status st =
        fmi_shard_writer_open(path, (uint64_t)p->tok->n_vocab, p->tok->hash, &p->shard, err);
    fmi_free(path);
    return st;
}

static fm_status close_shard(preparer *p, fm_err *err)
{
    if (!p->shard) return FM_OK;
    fm_status st = fmi_shard_writer_close(p->shard, err);
    fmi_shard_writer_free(p->shard);
    p->shard = NULL;
    return st;
}

static fm_status write_one(preparer *p, const int32_t *ids, int64_t n, int64_t n_bytes,
                           fm_data_count *c, fm_err *err)
{
    fm_status st = fmi_shard_writer_write(p->shard, ids, n, (uint64_t)n_bytes, err);
    if (st) return st;
    c->n_documents++;
    c->n_tokens += n;
    c->n_bytes += n_bytes;
    return FM_OK;
}

static fm_status write_train(preparer *p, const int32_t *ids, int64_t n, int64_t n_bytes,
                             int64_t copies, fm_err *err)
{
    fm_status st = FM_OK;
    for (; copies > 0 && !st; copies--) {
        if (!p->shard) {
            char name[32];
            snprintf(name, sizeof name, "train-%05zu.shard", json_array_size(p->shards));
            st = open_shard(p, name, err);
            if (!st && json_array_append_new(p->shards, json_string(name)))
                st = FM_FAIL(err, FM_E_NOMEM, "%s", name);
        }
        if (!st) st = write_one(p, ids, n, n_bytes, &p->report.train, err);
        if (!st && (int64_t)fmi_shard_writer_tokens(p->shard) >= p->shard_tokens)
            st = close_shard(p, err);
    }
    return st;
}

static fm_status flush_lowest(preparer *p, size_t from, fm_err *err)
{
    fm_status st = FM_OK;
    for (size_t i = from; i < p->lowest.n && !st; i++) {
        const waiting_doc *d = &p->lowest.doc[i];
        st = write_train(p, d->ids, d->n, d->n_bytes, d->copies, err);
    }
    list_deinit(&p->lowest);
    return st;
}

static fm_status take_split(preparer *p, const char *text, size_t n, fm_err *err)
{
    uint64_t h = fmi_hash_bytes(text, n, 0);
    int64_t copies = fmi_source_copies(p->weight, text, n);
    fm_status st = FM_OK;
    if (p->val_every && h % p->val_every == 0) {
        st = list_add(&p->val, &p->ids, (int64_t)n, copies, err);
        return st ? st : flush_lowest(p, 0, err);
    }
    if (!copies) return FM_OK;
    if (!p->val_every || p->val.n || (p->lowest.n && h > p->lowest_hash))
        return write_train(p, p->ids.data, (int64_t)p->ids.n, (int64_t)n, copies, err);
    if (p->lowest.n && h < p->lowest_hash) st = flush_lowest(p, 0, err);
    p->lowest_hash = h;
    return st ? st : list_add(&p->lowest, &p->ids, (int64_t)n, copies, err);
}

static fm_status take_document(void *arg, const char *text, size_t n, fm_err *err)
{
    preparer *p = arg;
    p->ids.n = 0;
    fm_status st = p->tok->bos >= 0 ? fm_ids_push(&p->ids, p->tok->bos, err) : FM_OK;
    if (!st) st = fmi_encode(p->enc, text, n, FM_ENCODE_PLAIN, &p->ids, err);
    if (!st) st = fm_ids_push(&p->ids, p->tok->eos, err);
    if (st) return st;
    p->source.n_documents++;
    p->source.n_tokens += (int64_t)p->ids.n;
    p->source.n_bytes += (int64_t)n;
    if (p->into_val) return list_add(&p->val, &p->ids, (int64_t)n, 1, err);
    p->report.n_read++;
    return take_split(p, text, n, err);
}

/* Neither side empty, where there are two documents to part. */
static fm_status balance(preparer *p, fm_err *err)
{
    bool train_empty = !p->report.train.n_documents;
    if (p->val_every && !p->val.n && p->lowest.n > (train_empty ? 1 : 0)) {
        /* All of the lowest go out; of nothing but equal texts only the first. */
        size_t out = train_empty ? 1 : p->lowest.n;
        for (size_t i = 0; i < out; i++) {
            waiting_doc *d = &p->lowest.doc[i];
            fm_status st =
                list_add(&p->val, &(fm_ids){ d->ids, (size_t)d->n, 0 }, d->n_bytes, 1, err);
            if (st) return st;
        }
        return flush_lowest(p, out, err);
    }
    fm_status st = flush_lowest(p, 0, err);
    if (st || p->report.train.n_documents || !p->val_every || !p->val.n) return st;
    /* Everything was held out: the last goes back. */
    waiting_doc *d = &p->val.doc[p->val.n - 1];
    st = write_train(p, d->ids, d->n, d->n_bytes, d->copies > 0 ? d->copies : 1, err);
    fmi_free(d->ids);
    p->val.n--;
    return st;
}

static fm_status write_val(preparer *p, fm_err *err)
{
    if (!p->val.n) return FM_OK;
    fm_status st = open_shard(p, "val.shard", err);
    for (size_t i = 0; i < p->val.n && !st; i++)
        st = write_one(p, p->val.doc[i].ids, p->val.doc[i].n, p->val.doc[i].n_bytes, &p->report.val,
                       err);
    return st ? st : close_shard(p, err);
}

static json_t *count_json(const fm_data_count *c)
{
    return json_pack("{s:I, s:I, s:I}", "documents", (json_int_t)c->n_documents, "tokens",
                     (json_int_t)c->n_tokens, "bytes", (json_int_t)c->n_bytes);
}

static fm_status read_sources(preparer *p, const fm_data_options *o, json_t *list, fm_err *err)
{
    fm_status st = FM_OK;
    for (int i = 0; i <= o->n_sources && !st; i++) {
        char *path = NULL;
        const char *spec = i < o->n_sources ? o->source[i] : o->val_source;
        if (!spec) continue;
        p->into_val = i == o->n_sources;
        p->source = (fm_data_count){0};
        p->weight = 1;
        st = p->into_val
                 ? ((path = fmi_strdup(spec)) ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "%s", spec))
                 : fmi_source_parse(spec, &path, &p->weight, err);
        if (!st) st = fmi_documents_read(path, take_document, p, err);
        if (!st && !p->source.n_documents)
            st = FM_FAIL(err, FM_E_FORMAT, "%s: no document in it", path);
        if (!st) {
            json_t *c = count_json(&p->source);
            if (!c || json_object_set_new(c, "path", json_string(path)) ||
                json_object_set_new(c, "weight", json_real(p->weight)) ||
                json_object_set_new(c, "held_out", json_boolean(p->into_val)) ||
                json_array_append_new(list, c))
                st = FM_FAIL(err, FM_E_FORMAT, "%s: its name is not UTF-8", path);
        }
        fmi_free(path);
    }
    return st;
}

static fm_status write_manifest(preparer *p, const fm_data_options *o, json_t *sources, fm_err *err)
{
    char hash[20];
    snprintf(hash, sizeof hash, "%016llx", (unsigned long long)p->tok->hash);
    json_t *train = count_json(&p->report.train), *val = count_json(&p->report.val);
    json_t *val_shards = p->report.val.n_documents ? json_pack("[s]", "val.shard") : json_array();
    if (train) json_object_set(train, "shards", p->shards);
    if (val) json_object_set_new(val, "shards", val_shards);
    json_t *root =
        json_pack("{s:i, s:s, s:i, s:i, s:i, s:I, s:o, s:o, s:O}", "format", 1, "tokenizer_hash",
                  hash, "vocab_size", p->tok->n_vocab, "bos", p->tok->bos, "eos", p->tok->eos,
                  "val_every", (json_int_t)(o->val_source ? 0 : p->val_every), "train", train,
                  "val", val, "sources", sources);
    char *path = fmi_path_join(p->dir, "data.json");
    fm_status st =
        root && path ? fmi_json_write(path, root, err) : FM_FAIL(err, FM_E_NOMEM, "data.json");
    json_decref(root);
    fmi_free(path);
    return st;
}

static fm_status prepare_in(preparer *p, const fm_data_options *o, fm_err *err)
{
    json_t *sources = json_array();
    p->shards = json_array();
    fm_status st = sources && p->shards ? fmi_encoder_new(p->tok, &p->enc, err)
                                        : FM_FAIL(err, FM_E_NOMEM, "data.json");
    if (!st) st = read_sources(p, o, sources, err);
    if (!st) st = balance(p, err);
    if (!st && !p->report.train.n_documents)
        st = FM_FAIL(err, FM_E_STATE, "no document is left to train on: the weights chose none");
    if (!st) st = close_shard(p, err);
    if (!st) st = write_val(p, err);
    if (!st) st = fm_tokenizer_write(p->tok, p->dir, err);
    if (!st) st = write_manifest(p, o, sources, err);
    fmi_shard_writer_free(p->shard);
    fmi_encoder_free(p->enc);
    fm_ids_deinit(&p->ids);
    list_deinit(&p->val);
    list_deinit(&p->lowest);
    json_decref(p->shards);
    json_decref(sources);
    return st;
}

/* An empty directory may be taken over; anything else must not be there. */
static fm_status check_target(const char *dir, fm_err *err)
{
    if (!fmi_path_exists(dir)) return FM_OK;
    char **names = NULL;
    int n = 1;
    fm_status st = fmi_path_is_dir(dir) ? fmi_dir_names(dir, &names, &n, err) : FM_OK;
    if (!st && names) fmi_names_free(names, n);
    if (st) return st;
    if (n) return FM_FAIL(err, FM_E_STATE, "%s is there already and not empty", dir);
    return fmi_tree_remove(dir, err);
}

fm_status fm_data_prepare(const fm_tokenizer *tok, const fm_data_options *o, const char *dir,
                          fm_data_report *report, fm_err *err)
{
    if (tok->eos < 0)
        return FM_FAIL(err, FM_E_STATE,
                       "the tokenizer names no end-of-sequence token (tokenizer_config.json: "
                       "eos_token)");
    if (o->n_sources < 1) return FM_FAIL(err, FM_E_RANGE, "no source files");
    if (o->val_every < 0 || o->val_every == 1)
        return FM_FAIL(err, FM_E_RANGE, "one in %d documents held out: expected 2 or more",
                       o->val_every);
    fmi_json_init();
    char *tmp = NULL;
    fm_status st = check_target(dir, err);
    if (!st) st = fmi_dir_open_tmp(dir, &tmp, err);
    if (st) return st;
    preparer p = { .tok = tok, .dir = tmp,
                   .shard_tokens = o->shard_tokens > 0 ? o->shard_tokens : (int64_t)1 << 26,
                   .val_every = o->val_source ? 0 : o->val_every ? (uint64_t)o->val_every : 50 };
    st = prepare_in(&p, o, err);
    if (!st) st = fmi_dir_close_tmp(tmp, dir, false, err);
    if (st) fmi_tree_remove(tmp, NULL);
    fmi_free(tmp);
    if (!st && report) *report = p.report;
    return st;
}

typedef struct counter {
    fm_bpe_trainer *trainer;
    double weight;
    int64_t n_documents; /* of this source */
} counter;

static fm_status count_document(void *arg, const char *text, size_t n, fm_err *err)
{
    counter *c = arg;
    int64_t copies = fmi_source_copies(c->weight, text, n);
    c->n_documents++;
    return copies ? fm_bpe_trainer_push(c->trainer, text, n, copies, err) : FM_OK;
}

fm_status fm_data_train_tokenizer(const char *const *source, int n_sources, int32_t vocab_size,
                                  const char *dir, fm_bpe_report *report, fm_err *err)
{
    counter c = {0};
    fm_status st = fm_bpe_trainer_new(&c.trainer, err);
    for (int i = 0; i < n_sources && !st; i++) {
        char *path = NULL;
        st = fmi_source_parse(source[i], &path, &c.weight, err);
        c.n_documents = 0;
        if (!st) st = fmi_documents_read(path, count_document, &c, err);
        if (!st && !c.n_documents) st = FM_FAIL(err, FM_E_STATE, "%s: no document in it", path);
        fmi_free(path);
    }
    if (!st) st = fm_bpe_trainer_run(c.trainer, vocab_size, dir, report, err);
    fm_bpe_trainer_free(c.trainer);
    return st;
}
