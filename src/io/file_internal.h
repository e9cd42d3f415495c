/* What files of this module share and no other module sees. */
#ifndef FM_IO_FILE_INTERNAL_H
#define FM_IO_FILE_INTERNAL_H

#include "base/base.h"

/* file.c. path is for messages. */
fm_status fmi_write_all(int fd, const char *path, const void *data, size_t bytes, fm_err *err);
fm_status fmi_sync_dir(const char *path, fm_err *err);

#endif
