/* Finds a model on disk by what the user typed: a directory, a .safetensors file, or org/name in a
 * Hugging Face cache. Reads no environment (the caller passes the cache roots) and fetches nothing:
 * a model that is not there is answered with the command that gets it. */
#ifndef FM_IO_CHECKPOINT_DIR_H
#define FM_IO_CHECKPOINT_DIR_H

#include "base/base.h"

/* roots: directories that hold models--org--name, best first (".../huggingface/hub"); entries may
 * be NULL. *out: a heap path (fmi_free). An existing path wins over the cache. */
fm_status fmi_model_dir_resolve(const char *name, const char *const *roots, int n_roots, char **out,
                                fm_err *err);

#endif
