/* TensorBoard event files: TFRecord framing with masked CRC-32C around hand-encoded protobuf Events
 * (wall_time 1, step 2, file_version 3, summary 5, session_log 7). Only what a run writes: a version
 * record, a session start, scalars.
 *
 * Record:
 *   offset  size  meaning
 *   0       8     length N, u64 little-endian
 *   8       4     masked CRC-32C of bytes 0..7
 *   12      N     Event
 *   12 + N  4     masked CRC-32C of the Event
 * masked(c) = rotate_right(c, 15) + 0xa282ead8. */
#ifndef FM_TRAIN_EVENTS_H
#define FM_TRAIN_EVENTS_H

#include "base/base.h"

#define FMI_EVENTS_BYTES 8192

typedef struct fmi_events {
    int fd;
    int64_t step;
    double wall;
    size_t n;                     /* bytes of the summary being built */
    unsigned char summary[FMI_EVENTS_BYTES];
    bool failed;
} fmi_events;

/* Makes DIR/events.out.tfevents.<seconds>.<number>.fathom, never an existing file, and opens it with the
 * version and, when resumed_at >= 0, a session start at that step: the first one this file will hold, since
 * TensorBoard drops what earlier files say of it and of later ones (0 for a fresh run). */
fm_status fmi_events_open(fmi_events *e, const char *dir, int64_t resumed_at, fm_err *err);
void fmi_events_close(fmi_events *e);

/* begin, scalar.., end: one Event with all scalars of a step. A scalar that does not fit goes into a
 * further Event. end fails when the disk does. */
void fmi_events_begin(fmi_events *e, int64_t step);
void fmi_events_scalar(fmi_events *e, const char *tag, double value);
fm_status fmi_events_end(fmi_events *e, fm_err *err);

uint32_t fmi_crc32c(const void *data, size_t n); /* Castagnoli; "123456789" gives 0xe3069283 */

#endif
