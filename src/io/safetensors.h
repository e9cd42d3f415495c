/* Tensors of safetensors files, as one space of names over one file or a set of shards, mapped and
 * not copied; and a streaming writer.
 *
 * File (all little-endian):
 *   offset  size  meaning
 *   0       8     N, length of the header, u64
 *   8       N     header: JSON object, name -> {"dtype", "shape", "data_offsets": [begin, end]},
 *                 and "__metadata__": string -> string; padded with spaces
 *   8 + N   ..    data; offsets count from here; tensors row-major, without gap or overlap, to the
 *                 end of the file
 * Refused, with file, tensor, byte offset, expected and found: everything that departs from this.
 * Thread rule: an opened set is read-only and may be shared. */
#ifndef FM_IO_SAFETENSORS_H
#define FM_IO_SAFETENSORS_H

#include "base/base.h"
#include "io/file.h"
#include "tensor/tensor.h"

#define FMI_RANK_MAX 8
#define FMI_ST_HEADER_MAX ((size_t)100 * 1000 * 1000)

typedef struct fm_tensor_info {
    const char *name;
    const char *dtype_name;     /* the file's spelling */
    fm_dtype dtype;             /* FM_DTYPE_COUNT: a known type without a codec here (BOOL, I8, ..),
                                   carried for `inspect` only */
    int rank;                   /* 0: a scalar */
    int64_t dims[FMI_RANK_MAX];
    int64_t n;                  /* elements */
    const void *data;           /* in the mapping. NOT always aligned to the element: copy with
                                   memcpy, or test with fm_tensor_aligned */
    size_t bytes;
    uint64_t offset;            /* of data in its file */
    int shard;                  /* index for fm_tensors_shard_path */
} fm_tensor_info;

typedef struct fm_tensors fm_tensors;

/* path: a .safetensors file, or a directory holding model.safetensors or
 * model.safetensors.index.json (whose weight_map alone says which file holds what). */
fm_status fm_tensors_open(const char *path, fm_tensors **out, fm_err *err);
/* One file's bytes in memory, borrowed; `name` stands for the file in messages. */
fm_status fm_tensors_parse(const char *name, const void *data, size_t bytes, fm_tensors **out,
                           fm_err *err);
void fm_tensors_close(fm_tensors *t); /* NULL is fine */

/* File order: shards in the order the index first names them, data ascending inside each. */
int fm_tensors_count(const fm_tensors *t);
const fm_tensor_info *fm_tensors_at(const fm_tensors *t, int i);

/* By name: NULL, or a FORMAT error naming tensor and file, when absent. */
const fm_tensor_info *fm_tensors_find(const fm_tensors *t, const char *name);
fm_status fm_tensors_get(const fm_tensors *t, const char *name, const fm_tensor_info **out,
                         fm_err *err);
/* get, and FM_E_SHAPE unless the shape is dims[rank]. */
fm_status fm_tensors_expect(const fm_tensors *t, const char *name, int rank, const int64_t *dims,
                            const fm_tensor_info **out, fm_err *err);

const char *fm_tensors_path(const fm_tensors *t);       /* as given to open */
int fm_tensors_shards(const fm_tensors *t);
const char *fm_tensors_shard_path(const fm_tensors *t, int shard);
uint64_t fm_tensors_shard_bytes(const fm_tensors *t, int shard);
/* A value of __metadata__ of the first shard that has the key; NULL if none. */
const char *fm_tensors_metadata(const fm_tensors *t, const char *key);
/* Hint that a tensor will be read, or is done with (its pages may go). */
void fm_tensors_advise(const fm_tensors *t, const fm_tensor_info *info, fmi_advice advice);

bool fm_tensor_aligned(const fm_tensor_info *info);

/* "[2, 3]" into buf; returns buf. */
const char *fmi_shape_text(int rank, const int64_t *dims, char *buf, size_t cap);

/* Writer: the whole table first, then the data in table order, in pieces of any size. The file is
 * written beside and renamed by close. Data begins at a multiple of 64 bytes. */
typedef struct fmi_st_spec {
    const char *name;
    fm_dtype dtype;          /* not C128 */
    int rank;
    int64_t dims[FMI_RANK_MAX];
} fmi_st_spec;

typedef struct fmi_st_meta {
    const char *key, *value;
} fmi_st_meta;

typedef struct fmi_st_writer fmi_st_writer;
/* specs and their names are copied. Metadata usually is {"format", "pt"}: transformers wants it. */
fm_status fmi_st_writer_open(const char *path, const fmi_st_spec *specs, int n_specs,
                             const fmi_st_meta *meta, int n_meta, fmi_st_writer **out, fm_err *err);
/* Appends bytes to tensor `name`, which must be the next unfinished one. FM_E_STATE: another is
 * next, or too many bytes. */
fm_status fmi_st_writer_write(fmi_st_writer *w, const char *name, const void *data, size_t bytes,
                              fm_err *err);
/* FM_E_STATE when data is missing; publishes. Then free, which without close leaves nothing. */
fm_status fmi_st_writer_close(fmi_st_writer *w, fm_err *err);
void fmi_st_writer_free(fmi_st_writer *w);
/* Bytes the file will have (known from the table). */
uint64_t fmi_st_writer_bytes(const fmi_st_writer *w);

#endif
