/* Decisions on a run's length: see horizon.h. */
#include "train/horizon.h"

#include <string.h>

#include "io/file.h"
#include "io/json.h"

fm_status fmi_horizons_read(const char *run, fmi_horizons *h, fm_err *err)
{
    char *path = fmi_path_join(run, "schedule.json");
    json_t *j = NULL, *list = NULL;
    h->n = 0;
    if (!path) return FM_FAIL(err, FM_E_NOMEM, "%s", run);
    fm_status st = FM_OK;
    if (!fmi_path_exists(path)) goto done;
    st = fmi_json_load(path, FMI_JSON_BYTES_MAX, &j, err);
    if (!st) st = fmi_json_get_array(j, path, "decisions", &list, err);
    if (!st && (json_array_size(list) == 0 || json_array_size(list) > FMI_DECISIONS_MAX))
        st = FM_FAIL(err, FM_E_FORMAT, "%s: decisions: expected 1 to %d, found %zu", path,
                     FMI_DECISIONS_MAX, json_array_size(list));
    for (size_t i = 0; !st && i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        fmi_decision *d = &h->d[i];
        st = fmi_json_get_int(o, path, "step", &d->step, err);
        if (!st) st = fmi_json_get_int(o, path, "tokens", &d->h.tokens, err);
        if (!st) st = fmi_json_opt_int(o, path, "steps", 0, &d->h.steps, err);
        if (!st) st = fmi_json_opt_double(o, path, "seconds", 0, &d->seconds, err);
        if (!st && (d->h.tokens < 1 || d->h.steps < 0 || (i > 0 && d->step <= h->d[i - 1].step)))
            st = FM_FAIL(err, FM_E_FORMAT, "%s: decision %zu is out of order or empty", path, i);
        if (!st) h->n = (int)i + 1;
    }
done:
    json_decref(j);
    fmi_free(path);
    return st;
}

static fm_status write_all(const char *run, const fmi_horizons *h, fm_err *err)
{
    fmi_json_init();
    char *path = fmi_path_join(run, "schedule.json");
    json_t *list = json_array();
    for (int i = 0; i < h->n; i++) {
        const fmi_decision *d = &h->d[i];
        json_t *o = json_pack("{s:I,s:I}", "step", (json_int_t)d->step, "tokens", (json_int_t)d->h.tokens);
        if (d->h.steps) json_object_set_new(o, "steps", json_integer(d->h.steps));
        if (d->seconds > 0) json_object_set_new(o, "seconds", json_real(d->seconds));
        json_array_append_new(list, o);
    }
    json_t *j = json_pack("{s:o}", "decisions", list);
    fm_status st = path && j ? fmi_json_write(path, j, err) : FM_FAIL(err, FM_E_NOMEM, "%s", run);
    json_decref(j);
    fmi_free(path);
    return st;
}

fm_status fmi_horizons_add(const char *run, fmi_horizons *h, const fmi_decision *d, fm_err *err)
{
    while (h->n && h->d[h->n - 1].step >= d->step) h->n--;
    if (h->n == FMI_DECISIONS_MAX) {
        /* The first ones only matter for steps long gone. */
        memmove(h->d, h->d + 1, sizeof *h->d * (FMI_DECISIONS_MAX - 1));
        h->n--;
    }
    h->d[h->n++] = *d;
    return write_all(run, h, err);
}

const fmi_decision *fmi_horizons_at(const fmi_horizons *h, int64_t step)
{
    FM_ASSERT(h->n > 0);
    int i = h->n - 1;
    while (i > 0 && h->d[i].step > step) i--;
    return &h->d[i];
}

bool fmi_horizon_due(const fmi_decision *d, double before, double after)
{
    static const double shares[] = { 0.05, 0.1, 0.2, 0.4, 0.6 };
    if (d->seconds <= 0) return false;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        double at = shares[i] * d->seconds;
        if (before < at && after >= at) return true;
    }
    return false;
}
