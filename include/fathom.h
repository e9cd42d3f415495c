/* Fathom's public API: one include for all of it. Handles are opaque; every fallible call returns
 * fm_status and takes fm_err * last (fathom/status.h). examples/ holds small programs. */
#ifndef FATHOM_H
#define FATHOM_H

#include "fathom/bench.h"
#include "fathom/chat.h"
#include "fathom/checkpoint.h"
#include "fathom/data.h"
#include "fathom/dtype.h"
#include "fathom/machine.h"
#include "fathom/model.h"
#include "fathom/nearest.h"
#include "fathom/report.h"
#include "fathom/scale.h"
#include "fathom/session.h"
#include "fathom/status.h"
#include "fathom/tokenizer.h"
#include "fathom/trainer.h"

#endif
