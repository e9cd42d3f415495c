/* The steps in which a model comes to life, shared by fmi_model_new (zeroed weights) and
 * fm_model_open (weights of a checkpoint): shell, place, tables. */
#ifndef FM_MODEL_BUILD_H
#define FM_MODEL_BUILD_H

#include "model/model.h"

/* The model without weights: configuration, layout with each parameter's dtype, rotary tables. */
fm_status fmi_model_shell(fm_exec *x, const fm_config *c, fm_dtype dt, bool absorbed,
                          fm_model **out, fm_err *err);
/* Carves the arena for every parameter whose w is still NULL. */
fm_status fmi_model_place(fm_model *m, fm_err *err);
/* Bytes that fmi_model_place would ask for if nothing were borrowed. */
int64_t fmi_model_weight_bytes(const fm_layout *l, fm_dtype dt);
/* Device tables of the experts' weights; every w must be in place. */
fm_status fmi_model_tables(fm_model *m, fm_err *err);

fm_dtype fmi_param_dtype(fm_param_kind kind, fm_dtype dt);

/* Writes elements begin .. begin+n-1 of parameter i from f, given in the full dtype F. */
fm_status fmi_param_write_part(fm_model *m, int i, int64_t begin, int64_t n, const void *f,
                               fm_err *err);

/* Closes the mappings in m->files (checkpoint.c). NULL is fine. */
void fmi_checkpoint_files_free(void *files);

#endif
