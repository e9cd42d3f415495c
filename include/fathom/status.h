/* Status codes and the error object: the one error convention of the library.
 *
 * A function that can fail returns fm_status (0 is FM_OK) and takes `fm_err *err` last; err may be
 * NULL. On failure err receives the code, the source line and a message that names the thing that
 * failed. Results are written only on success. Thread rule: an fm_err belongs to one thread. */
#ifndef FATHOM_STATUS_H
#define FATHOM_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#define FM_STATUS_LIST(X)                                        \
    X(OK, "ok")                                                  \
    X(NOMEM, "out of memory")                                    \
    X(IO, "input or output failed")                              \
    X(FORMAT, "malformed input")                                 \
    X(SHAPE, "shape or dtype disagrees")                         \
    X(RANGE, "value out of range")                               \
    X(UNSUPPORTED, "not supported")                              \
    X(DEVICE, "device failed")                                   \
    X(BUSY, "busy")                                              \
    X(CANCELLED, "cancelled")                                    \
    X(NUMERIC, "non-finite value")                               \
    X(STATE, "wrong state for this call")

typedef enum fm_status {
#define FM_STATUS_ENUM(name, text) FM_E_##name,
    FM_STATUS_LIST(FM_STATUS_ENUM)
#undef FM_STATUS_ENUM
    FM_OK = FM_E_OK
} fm_status;

#define FM_ERR_TEXT_MAX 480

typedef struct fm_err {
    fm_status code;
    int line;
    const char *file;           /* source file that reported the failure */
    char text[FM_ERR_TEXT_MAX]; /* one line, without a final newline     */
} fm_err;

/* The code's name in words ("malformed input"); never NULL. */
const char *fm_status_text(fm_status code);

/* What the library says besides errors: one line without a final newline; names from files stand in it as
 * they are. It prints nothing itself. level: 0 information, 1 warning (a damaged checkpoint passed over,
 * tensors ignored). fn is called by the thread that calls the library; NULL, as at the start: nobody. Set it
 * before other threads run. */
typedef void (*fm_log_fn)(void *arg, int level, const char *text);
void fm_log_set(fm_log_fn fn, void *arg);

#ifdef __cplusplus
}
#endif
#endif
