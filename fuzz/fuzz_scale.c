/* CSV files of runs. What is accepted holds only positive numbers and, when it is short, is fitted:
 * any such points give a fit or a reason, whatever their values. */
#include <math.h>

#include "check.h"
#include "fathom/scale.h"
#include "scale/points.h"

static void fit(const fm_scale_points *p)
{
    fm_err err;
    fm_scale_fit *f = NULL;
    fm_text text = {0};
    const fm_scale_options o = {.n_bootstrap = 2, .sparsity = p->n % 2, .only_main = true};
    fm_status st = fm_scale_fit_new(p, &o, &f, &err);
    if (st) {
        FUZZ_CHECK(st == FM_E_RANGE || st == FM_E_NOMEM);
        return;
    }
    if (!fm_scale_fit_json(f, &text, &err)) FUZZ_CHECK(text.n > 2 && text.data[0] == '{');
    (void)fm_scale_fit_report(f, true, &text, &err);
    fm_text_deinit(&text);
    fm_scale_fit_free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fm_err err;
    fm_scale_points *p = NULL;
    char *text = malloc(size + 1);
    if (!text) return 0;
    memcpy(text, data, size);
    text[size] = 0;
    if (!fm_scale_points_new(&p, &err)) {
        fm_status st = fmi_scale_points_parse(p, "input", text, size, NULL, 0, &err);
        if (st) {
            fuzz_check_failure(st, &err, "input");
            FUZZ_CHECK(fm_scale_points_count(p) == 0);
        }
        for (int i = 0; i < p->n; i++) {
            FUZZ_CHECK(p->p[i].loss > 0 && p->p[i].tokens > 0 && p->p[i].flops > 0);
            FUZZ_CHECK(p->p[i].params > 0 || p->p[i].m > 0);
        }
        if (!st && p->n <= 16) fit(p);
    }
    fm_scale_points_free(p);
    free(text);
    return 0;
}
