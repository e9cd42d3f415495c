/* What the files that read tokenizer.json pass around. */
#ifndef FM_TEXT_LOAD_H
#define FM_TEXT_LOAD_H

#include <jansson.h>

#include "text/tok.h"

typedef struct fmi_load {
    fm_tokenizer *tok;
    const char *name;  /* the file, for messages     */
    char *name_model;  /* "<file>: model"            */
    json_t *vocab;     /* borrowed from the document */
    json_t *added;     /* borrowed; may be NULL      */
    const char **text; /* [n_vocab] each id's text as in the file, borrowed */
} fmi_load;

/* Fills tok (zeroed) from the n bytes of a tokenizer.json; on failure tok may be half filled. */
fm_status fmi_tokenizer_load(fm_tokenizer *tok, const char *name, const char *json, size_t n,
                             fm_err *err);

/* normalizer, pre_tokenizer, post_processor and decoder of the document. */
fm_status fmi_load_pipeline(fmi_load *l, const json_t *root, fm_err *err);

#endif
