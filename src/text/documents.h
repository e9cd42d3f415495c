/* Documents out of files: decompression, the document rule, weights. */
#ifndef FM_TEXT_DOCUMENTS_H
#define FM_TEXT_DOCUMENTS_H

#include "base/base.h"

/* A byte stream over a plain, gzip or zstd file, told apart by its first bytes; "-" is standard
 * input. */
typedef struct fmi_stream fmi_stream;
fm_status fmi_stream_open(const char *path, fmi_stream **out, fm_err *err);
fm_status fmi_stream_read(fmi_stream *s, void *buf, size_t cap, size_t *n,
                          fm_err *err); /* n 0: end */
void fmi_stream_close(fmi_stream *s);

#define FMI_DOCUMENT_WHOLE_MAX 65536 /* a file up to this long is one document         */
#define FMI_DOCUMENT_CUT_MIN 4096 /* a longer one is cut at the first paragraph end after so many  \
                                   */

typedef fm_status (*fmi_document_fn)(void *arg, const char *text, size_t n, fm_err *err);

/* Calls fn for each document of a file, in order; empty ones are passed over. Text files are taken
 * as bytes; a .jsonl line must be an object with a string `text`. */
fm_status fmi_documents_read(const char *path, fmi_document_fn fn, void *arg, fm_err *err);

/* "FILE:WEIGHT" to a heap path (fmi_free) and a weight, 1 when absent. A file that exists under the
 * whole name is taken as such. RANGE: a weight that is not in (0, 1000]. */
fm_status fmi_source_parse(const char *spec, char **path, double *weight, fm_err *err);

/* How often a document with this text is written at this weight. */
int64_t fmi_source_copies(double weight, const char *text, size_t n);

#endif
