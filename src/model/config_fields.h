/* The table of configuration fields: config.json key, kind and place in fm_config. Reading, writing
 * and
 * `--set model.KEY=VALUE` all walk it, so a field is spelled once. */
#ifndef FM_MODEL_CONFIG_FIELDS_H
#define FM_MODEL_CONFIG_FIELDS_H

#include "model/config.h"

typedef enum fmi_field_kind {
    FMI_FIELD_INT,       /* an integer                               */
    FMI_FIELD_INT_NULL,  /* an integer, or null for `none`           */
    FMI_FIELD_ID,        /* a token id, null for -1, or a list of ids (the first counts) */
    FMI_FIELD_REAL,
    FMI_FIELD_BOOL,
    FMI_FIELD_ROPE_INT,  /* inside rope_parameters / rope_scaling    */
    FMI_FIELD_ROPE_REAL
} fmi_field_kind;

typedef struct fmi_config_field {
    const char *key;
    fmi_field_kind kind;
    size_t offset;       /* of an int, double or bool in fm_config   */
    int none;            /* value that stands for null               */
} fmi_config_field;

extern const fmi_config_field fmi_config_fields[];
extern const int fmi_config_n_fields;

/* Everything a file of this family may leave out (the defaults of transformers' classes). */
void fmi_config_defaults(fm_family family, fm_config *c);

const char *fmi_config_scoring_name(fm_route_score s);
const char *fmi_config_method_name(fm_route_method m);
bool fmi_config_scoring_parse(const char *s, fm_route_score *out);
bool fmi_config_method_parse(const char *s, fm_route_method *out);

#endif
