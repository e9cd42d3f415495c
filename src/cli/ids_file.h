/* Token ids from a JSON file: rows of equal length. */
#ifndef FM_CLI_IDS_FILE_H
#define FM_CLI_IDS_FILE_H

#include <stdint.h>

/* Reads [[..], ..] or [..] (one row). Returns -1 (CLI_GO_ON), or an exit code with the message printed.
 * *ids is from malloc. */
int ids_file_read(const char *command, const char *path, int32_t **ids, int64_t *rows, int64_t *length);

/* Every id inside 0 .. vocab-1; the same results. */
int ids_file_check(const char *command, const char *path, const int32_t *ids, int64_t rows,
                   int64_t length, int vocab);

#endif
