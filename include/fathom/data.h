/* Training data: text files to a directory of token shards, and reading such a directory.
 *
 * A source is written FILE or FILE:WEIGHT: .txt or .jsonl (key `text`), plain, .gz or .zst, or "-"
 * for standard input. A document is a .jsonl line, the text between lines `<|endoftext|>`, or a
 * file; a file longer than 64 KiB without such lines is cut at paragraph ends. The weight is the
 * number of times a document is written: its whole part for all, its fraction for those a hash of
 * the text chooses.
 *
 * A data directory holds train-NNNNN.shard, val.shard (absent when nothing is held out), data.json
 * and a copy of the tokenizer's files. Each document is bos (if the tokenizer has one), its tokens,
 * eos; marks written in the text are plain text. Copies of a document follow each other: readers
 * shuffle. */
#ifndef FATHOM_DATA_H
#define FATHOM_DATA_H

#include "fathom/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct fm_data_options {
    const char *const *source; /* [n_sources] FILE[:WEIGHT] */
    int n_sources;
    const char *val_source;    /* NULL: documents are held out by hash of their text     */
    int val_every;             /* about one in so many is held out; 0: 50. At least one when
                                  there are two or more, never all                       */
    int64_t shard_tokens;      /* a train shard ends after so many; 0: 67,108,864         */
} fm_data_options;

typedef struct fm_data_count {
    int64_t n_documents;
    int64_t n_tokens;
    int64_t n_bytes; /* UTF-8 bytes of the documents' texts */
} fm_data_count;

typedef struct fm_data_report {
    fm_data_count train, val; /* copies counted */
    int64_t n_read;           /* documents in the sources, without the val source */
} fm_data_report;

/* Makes `dir`, which must not exist or be empty; nothing is left on failure. report may be NULL.
 * Errors: IO, FORMAT (file and line), STATE (dir is not empty; no document; no eos). */
fm_status fm_data_prepare(const fm_tokenizer *tok, const fm_data_options *options, const char *dir,
                          fm_data_report *report, fm_err *err);

/* Trains a tokenizer on sources (weights count) and writes its files into dir. */
fm_status fm_data_train_tokenizer(const char *const *source, int n_sources, int32_t vocab_size,
                                  const char *dir, fm_bpe_report *report, fm_err *err);

/* Reading. An fm_data is read-only once open: all threads may share it. */
typedef enum fm_split { FM_SPLIT_TRAIN, FM_SPLIT_VAL } fm_split;
typedef struct fm_data fm_data;

/* Errors: IO, FORMAT (a shard that disagrees with data.json or is damaged). */
fm_status fm_data_open(const char *dir, fm_data **out, fm_err *err);
void fm_data_close(fm_data *d); /* NULL is fine */

fm_data_count fm_data_total(const fm_data *d, fm_split split);
int32_t fm_data_vocab_size(const fm_data *d);
uint64_t fm_data_tokenizer_hash(const fm_data *d);

/* Tokens of document i (0 <= i < n_documents), bos and eos counted, and the bytes of its text. */
int64_t fm_data_document(const fm_data *d, fm_split split, int64_t i, int64_t *n_bytes);

/* Tokens [first, first + n) of document i into out[n]; the range must lie inside the document. */
void fm_data_read(const fm_data *d, fm_split split, int64_t i, int64_t first, int64_t n,
                  int32_t *out);

#ifdef __cplusplus
}
#endif
#endif
