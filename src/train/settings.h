/* Settings of a training run: one table of keys, their bounds and defaults, read from a recipe file, from
 * `--set section.key=value` and from options, and written back resolved as recipe.ini.
 *
 * "auto" means: follows from the model's size and the stop (schedule.h says how). A key that is not in
 * the table is refused with its line and the nearest known one; keys of `model` go to the
 * configuration instead. */
#ifndef FM_TRAIN_SETTINGS_H
#define FM_TRAIN_SETTINGS_H

#include "base/base.h"
#include "io/ini.h"
#include "model/config.h"

#define FMI_TEXT_MAX 160
#define FMI_AUTO_REAL (-1.0e300)
#define FMI_AUTO_INT INT64_MIN

/* X(kind, section, name, default, low, high): kind INT, REAL, BOOL (field: int64_t, double, bool). */
#define FMI_SETTING_NUMBERS(X)                                                                   \
    X(INT, run, seed, 1, 0, INT64_MAX)            /* of weights and of the documents' order     */ \
    X(INT, data, seq, 512, 8, 1 << 20)            /* T: tokens of a packed row                  */ \
    X(INT, data, vocab, FMI_AUTO_INT, 276, 1 << 20) /* of a tokenizer made here; auto: the model's */ \
    X(REAL, stop, minutes, 0, 0, 1e7)             /* 0: not this stop                           */ \
    X(INT, stop, tokens, 0, 0, INT64_MAX)                                                        \
    X(REAL, stop, flops, 0, 0, 1e40)                                                             \
    X(INT, stop, steps, 0, 0, INT64_MAX)                                                         \
    X(REAL, train, lr, FMI_AUTO_REAL, 0, 1)       /* peak                                       */ \
    X(REAL, train, lr_embed, FMI_AUTO_REAL, 0, 1000) /* the embedding's over the others'       */ \
    X(REAL, train, lr_end, 0.05, 0, 1)            /* last learning rate over the peak           */ \
    X(REAL, train, warmup, 0.02, 0, 1)            /* fraction of the run                        */ \
    X(REAL, train, decay, 0.6, 0, 1)              /* fraction of the run (wsd)                  */ \
    X(INT, train, batch, FMI_AUTO_INT, 1, INT32_MAX)       /* tokens of an optimizer step       */ \
    X(INT, train, batch_start, FMI_AUTO_INT, 1, INT32_MAX) /* tokens at the start of the ramp   */ \
    X(REAL, train, batch_ramp, 0.032, 0, 1)       /* fraction of the run over which it grows    */ \
    X(INT, train, micro, FMI_AUTO_INT, 1, INT32_MAX)       /* tokens of a micro-batch           */ \
    X(REAL, train, beta1, 0.9, 0, 0.9999999)                                                     \
    X(REAL, train, beta2, FMI_AUTO_REAL, 0, 0.9999999)                                           \
    X(REAL, train, eps, 1e-8, 0, 1)                                                              \
    X(REAL, train, momentum, FMI_AUTO_REAL, 0, 0.9999999) /* Muon's                             */ \
    X(REAL, train, ademamix_alpha, 5, 0, 1000)    /* weight of AdEMAMix's slow average          */ \
    X(REAL, train, ademamix_beta3, FMI_AUTO_REAL, 0, 0.99999999) /* its decay                   */ \
    X(REAL, train, ademamix_warmup, 1, 0, 1)      /* fraction of the run over which both rise   */ \
    X(REAL, train, grokfast_alpha, 0.98, 0, 0.9999999) /* decay of the gradients' average      */ \
    X(REAL, train, grokfast_lamb, 0, 0, 1000)     /* its weight, added to the gradient; 0: off  */ \
    X(REAL, train, ema, 0, 0, 0.99999999)         /* decay of the weights' average; 0: none     */ \
    X(INT, train, soap_every, 10, 1, 1000000)     /* steps between SOAP's bases                 */ \
    X(INT, train, soap_first, 1, 1, 10000)        /* power iterations of the first basis        */ \
    X(INT, train, soap_side, 1024, 1, 1 << 20)    /* longer sides have no basis                 */ \
    X(REAL, train, weight_decay, 0.1, 0, 100)                                                    \
    X(REAL, train, clip, 1.0, 0, 1e30)            /* 0: no clipping                             */ \
    X(BOOL, train, recompute, 0, 0, 1)            /* activations again in the backward pass     */ \
    X(INT, train, evals, 10, 0, 100000)           /* evaluations, evenly spread; the end's counted */ \
    X(INT, train, eval_tokens, 65536, 0, INT64_MAX) /* 0: the whole held-out split, the last always whole */ \
    X(INT, train, saves, 10, 0, 100000)           /* checkpoints, evenly spread                 */ \
    X(REAL, train, save_minutes, 15, 0, 1e7)      /* at least this often too; 0: off            */ \
    X(INT, train, keep, 2, 1, 100000)             /* checkpoints kept beside the best           */ \
    X(REAL, balance, gamma, FMI_AUTO_REAL, 0, 1)  /* bias update speed                          */ \
    X(REAL, balance, gamma_decay, 1, 0, 1)        /* fraction from which it falls; 1: never     */ \
    X(REAL, balance, gamma_end, FMI_AUTO_REAL, 0, 1) /* fraction of the run from which it is 0     */ \
    X(BOOL, balance, center, 1, 0, 1)             /* subtract the mean of the update            */ \
    X(REAL, balance, alpha, FMI_AUTO_REAL, 0, 1)  /* sequence balance loss                      */ \
    X(REAL, mtp, weight, 0.3, 0, 100)                                                            \
    X(REAL, mtp, weight_end, 0.1, 0, 100)                                                        \
    X(REAL, mtp, weight_switch, 0.676, 0, 1)      /* fraction of the run from which weight_end holds */

/* X(section, name, default, choices): choices "" takes any text. */
#define FMI_SETTING_TEXTS(X)                                  \
    X(run, command, "pretrain", "")                           \
    X(run, preset, "", "")                                    \
    X(run, model, "", "")                                     \
    X(run, precision, "bf16", "bf16|f32")                     \
    X(data, dir, "", "")                                      \
    X(data, val, "", "")                                      \
    X(train, optimizer, "muon", "muon|adamw|ademamix|soap")   \
    X(train, schedule, "wsd", "wsd|cosine|v3|constant")

#define FMI_KIND_INT int64_t
#define FMI_KIND_REAL double
#define FMI_KIND_BOOL bool

typedef struct fmi_settings {
#define FMI_SETTING_FIELD(kind, section, name, def, low, high) FMI_KIND_##kind section##_##name;
    FMI_SETTING_NUMBERS(FMI_SETTING_FIELD)
#undef FMI_SETTING_FIELD
#define FMI_SETTING_FIELD(section, name, def, choices) char section##_##name[FMI_TEXT_MAX];
    FMI_SETTING_TEXTS(FMI_SETTING_FIELD)
#undef FMI_SETTING_FIELD
} fmi_settings;

void fmi_settings_default(fmi_settings *s);
/* One value, "auto" where the table allows it. FM_E_FORMAT for an unknown key (nearest named), FM_E_RANGE
 * for a value outside its bounds. Keys "model.x" set c when c is not NULL. */
fm_status fmi_settings_set(fmi_settings *s, fm_config *c, const char *key, const char *value,
                           fm_err *err);
/* The value as text; "auto" for an unresolved one. */
fm_status fmi_settings_get(const fmi_settings *s, const char *key, char *out, size_t cap, fm_err *err);
/* Puts every setting into ini. */
fm_status fmi_settings_write(const fmi_settings *s, fmi_ini *ini, fm_err *err);

/* Keys in table order; NULL past the last. */
const char *fmi_settings_key(int i);

#endif
