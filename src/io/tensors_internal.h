/* The table of one safetensors file, between its parser and the set of shards. */
#ifndef FM_IO_TENSORS_INTERNAL_H
#define FM_IO_TENSORS_INTERNAL_H

#include "io/json.h"
#include "io/safetensors.h"

typedef struct fmi_st_table {
    fm_tensor_info *infos; /* [n], data ascending; shard is 0 */
    int n;
    char *names;           /* one block that infos[].name point into */
    json_t *meta;          /* __metadata__ or NULL */
} fmi_st_table;

/* data is borrowed by the infos. On failure out is empty. */
fm_status fmi_st_table_parse(const char *file, const void *data, size_t bytes, fmi_st_table *out,
                             fm_err *err);
void fmi_st_table_deinit(fmi_st_table *t);

#endif
