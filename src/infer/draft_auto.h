/* Whether drafting pays, decided while it runs from what steps cost and what was accepted. Times
 * are the caller's: no clock here, so that a test can play any machine. */
#ifndef FM_INFER_DRAFT_AUTO_H
#define FM_INFER_DRAFT_AUTO_H

#include <stdbool.h>
#include <stdint.h>

typedef enum fmi_auto_state {
    FMI_AUTO_TRY,  /* drafts, until there is evidence          */
    FMI_AUTO_BASE, /* plain steps, to know what they cost      */
    FMI_AUTO_ON,   /* drafts; watched                          */
    FMI_AUTO_OFF   /* for good                                 */
} fmi_auto_state;

typedef struct fmi_auto {
    fmi_auto_state state;
    int n;               /* steps seen in this state or window            */
    int n_on;            /* steps since the plain cost was last measured  */
    double tokens;       /* a sequence gained in them                     */
    double fastest;      /* the fastest of them, s                        */
    double gained, cost; /* tokens a step gains, and its seconds, with drafts */
    double plain;        /* seconds of a step without                     */
} fmi_auto;

/* After a decode step of `sequences` that took `seconds` and gave `tokens`: returns whether the
 * next one should draft. `drafted`: the step verified drafts; a step of the wrong kind for the
 * state teaches nothing. */
bool fmi_auto_step(fmi_auto *a, double seconds, int64_t tokens, int sequences, bool drafted);

#endif
