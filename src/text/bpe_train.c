/* The trainer: documents are cut into pieces and counted; then merges are learned and written.
 *
 * Pieces longer than 4,096 bytes (a run without any border) are counted in parts of that length:
 * this bounds the work a hostile text can cause and changes nothing in written language. */
#include <string.h>

#include "text/pretok.h"
#include "text/tok.h"
#include "text/words.h"

#define PIECE_MAX 4096

struct fm_bpe_trainer {
    fmi_pretok pretok;
    fmi_pretok_run run;
    fmi_words words;
    int64_t count; /* of the document being pushed */
    int64_t n_documents, n_bytes;
    bool done;
};

fm_status fm_bpe_trainer_new(fm_bpe_trainer **out, fm_err *err)
{
    fm_bpe_trainer *t = fmi_zalloc(sizeof *t);
    if (!t) return FM_FAIL(err, FM_E_NOMEM, "a tokenizer trainer");
    fm_status st = FM_OK;
    for (int i = 0; i < 3 && !st; i++)
        st = fmi_pretok_add(&t->pretok, fmi_pretok_fathom[i], false, err);
    if (!st) st = fmi_pretok_run_init(&t->run, &t->pretok, err);
    if (st) fm_bpe_trainer_free(t);
    else *out = t;
    return st;
}

void fm_bpe_trainer_free(fm_bpe_trainer *t)
{
    if (!t) return;
    fmi_pretok_run_deinit(&t->run);
    fmi_pretok_deinit(&t->pretok);
    fmi_words_deinit(&t->words);
    fmi_free(t);
}

static fm_status count_piece(void *arg, const char *piece, size_t n, fm_err *err)
{
    fm_bpe_trainer *t = arg;
    fm_status st = FM_OK;
    for (size_t i = 0; i < n && !st; i += PIECE_MAX)
        st = fmi_words_push(&t->words, piece + i, n - i < PIECE_MAX ? n - i : PIECE_MAX, t->count,
                            err);
    return st;
}

fm_status fm_bpe_trainer_push(fm_bpe_trainer *t, const char *text, size_t n, int64_t count,
                              fm_err *err)
{
    if (t->done) return FM_FAIL(err, FM_E_STATE, "the tokenizer is already trained");
    if (count < 1 || count > 1000000)
        return FM_FAIL(err, FM_E_RANGE, "a document counted %lld times", (long long)count);
    fm_status st = FM_OK;
    t->count = count;
    for (size_t i = 0;
         i < n && !st;) { /* an invalid byte is a piece of its own, and cannot merge */
        size_t run = fmi_utf8_valid(text + i, n - i);
        st = fmi_pretok_split(&t->run, text + i, run, count_piece, t, err);
        i += run + (i + run < n);
    }
    t->n_documents += count;
    t->n_bytes += (int64_t)n * count;
    return st;
}

fm_status fm_bpe_trainer_run(fm_bpe_trainer *t, int32_t vocab_size, const char *dir,
                             fm_bpe_report *report, fm_err *err)
{
    if (t->done || !t->words.n)
        return FM_FAIL(err, FM_E_STATE, t->done ? "the tokenizer is already trained"
                                                : "no text to train a tokenizer on");
    if (vocab_size < FM_BPE_VOCAB_MIN || vocab_size > FM_BPE_VOCAB_MAX)
        return FM_FAIL(err, FM_E_RANGE, "vocabulary size %d is not in %d..%d", vocab_size,
                       FM_BPE_VOCAB_MIN, FM_BPE_VOCAB_MAX);
    t->done = true;
    fmi_bpe_model m = {0};
    int32_t n_spare = 0;
    fm_status st = fmi_bpe_learn(&t->words, (size_t)(vocab_size - fmi_n_marks), &m, err);
    if (!st) st = fmi_bpe_model_write(&m, vocab_size, dir, &n_spare, err);
    if (!st && report)
        *report = (fm_bpe_report){ t->n_documents, t->n_bytes, (int64_t)t->words.n,
                                   (int32_t)m.n_merges, n_spare };
    fmi_bpe_model_deinit(&m);
    return st;
}
