/* Stop strings in streamed text: text is held back while it may still become a stop string, and
 * nothing from a stop string on is ever released. Whole UTF-8 characters come in from the streaming
 * decoder and whole ones go out. */
#ifndef FM_INFER_STOPPER_H
#define FM_INFER_STOPPER_H

#include "base/base.h"
#include "fathom/tokenizer.h"

typedef struct fmi_stopper {
    const char *const *stop; /* [n] borrowed, none empty */
    int n;
    fm_text hold;            /* decoded, not yet released */
} fmi_stopper;

/* Longest stop string in bytes. */
size_t fmi_stopper_longest(const char *const *stop, int n);

/* Looks at the text held. *release: bytes at its front that may go out now; *stopped: a stop string
 * begins right after them. At the end of the text (`last`) nothing is held back. */
void fmi_stopper_scan(const fmi_stopper *s, bool last, size_t *release, bool *stopped);

/* The stop string the text held begins with, -1 when none. */
int fmi_stopper_which(const fmi_stopper *s);

/* Drops n bytes at the front of the text held. */
void fmi_stopper_drop(fmi_stopper *s, size_t n);

#endif
