/* Balance figures: see balance.h. */
#include "train/balance.h"

#include <math.h>
#include <string.h>

fm_status fmi_load_window_init(fmi_load_window *w, int layers, int experts, fm_err *err)
{
    memset(w, 0, sizeof *w);
    w->layers = layers;
    w->experts = experts;
    size_t n = (size_t)FMI_BALANCE_WINDOW * (size_t)layers * (size_t)experts;
    w->load = fmi_zalloc((n + 1) * sizeof *w->load);
    return w->load ? FM_OK : FM_FAIL(err, FM_E_NOMEM, "loads of %d layers", layers);
}

void fmi_load_window_deinit(fmi_load_window *w)
{
    fmi_free(w->load);
    w->load = NULL;
}

void fmi_load_window_push(fmi_load_window *w, const int32_t *load)
{
    size_t n = (size_t)w->layers * (size_t)w->experts;
    memcpy(w->load + (size_t)(w->steps % FMI_BALANCE_WINDOW) * n, load, n * sizeof *load);
    w->steps++;
}

/* MaxVio of one layer over the window. */
static double window_vio(const fmi_load_window *w, int layer)
{
    size_t row = (size_t)w->layers * (size_t)w->experts;
    int64_t steps = w->steps < FMI_BALANCE_WINDOW ? w->steps : FMI_BALANCE_WINDOW;
    int64_t sum = 0, most = 0;
    for (int e = 0; e < w->experts; e++) {
        int64_t n = 0;
        for (int64_t s = 0; s < steps; s++)
            n += w->load[(size_t)s * row + (size_t)layer * (size_t)w->experts + (size_t)e];
        sum += n;
        if (n > most) most = n;
    }
    return sum ? (double)most * w->experts / (double)sum - 1 : 0;
}

void fmi_balance_layer(const fmi_load_window *w, int layer, const int32_t *load, const float *bias,
                       fmi_layer_balance *out)
{
    int n = w->experts;
    int64_t sum = 0, most = 0;
    memset(out, 0, sizeof *out);
    out->layer = layer;
    for (int i = 0; i < n; i++) {
        sum += load[i];
        if (load[i] > most) most = load[i];
        out->dead += load[i] == 0;
        if (i == 0 || bias[i] < out->bias_min) out->bias_min = bias[i];
        if (i == 0 || bias[i] > out->bias_max) out->bias_max = bias[i];
    }
    out->max_vio_window = window_vio(w, layer);
    if (!sum) return;
    out->max_vio = (double)most * n / (double)sum - 1;
    double h = 0;
    for (int i = 0; i < n; i++) {
        double p = (double)load[i] / (double)sum;
        if (p > 0) h -= p * log(p);
    }
    out->entropy = n > 1 ? h / log((double)n) : 1;
}
