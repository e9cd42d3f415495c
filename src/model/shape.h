/* Configurations behind the public shape functions. */
#ifndef FM_MODEL_SHAPE_H
#define FM_MODEL_SHAPE_H

#include "fathom/checkpoint.h"
#include "model/config.h"

/* config.json of a directory, beside a .safetensors file, or the file itself. */
fm_status fmi_config_of_path(const char *path, fm_config *c, fm_err *err);
fm_status fmi_shape_config(const fm_shape_opts *o, fm_config *out, fm_err *err);
fm_status fmi_shape_fill(const fm_config *c, int64_t length, fm_shape *out, fm_err *err);

#endif
