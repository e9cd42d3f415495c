/* What session.c (the object) and generate.c (the loop) share. */
#ifndef FM_INFER_SESSION_H
#define FM_INFER_SESSION_H

#include "fathom/session.h"
#include "infer/draft_auto.h"
#include "infer/engine.h"
#include "infer/stopper.h"

/* One sequence's answer while it is made. */
typedef struct fmi_answer {
    const fm_generate_opts *o;
    fm_generated *out;
    fm_detok detok;
    fmi_stopper stopper;
    int64_t n0;                /* tokens before the answer */
    bool active;
} fmi_answer;

struct fm_session {
    fm_model *m;
    const fm_tokenizer *tok;
    fmi_engine *e;
    fm_draft draft;
    fmi_auto drafting;         /* FM_DRAFT_AUTO only */
    fmi_answer *answer;        /* [sequences] */
    int *active;               /* [sequences] */
    size_t token_bytes_max;
    fm_session_stats stats;
    fmi_counts counts0;        /* the engine's at the last reset */
    int64_t reads0;
};

#endif
