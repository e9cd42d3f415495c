/* Schedules and scaling laws: see schedule.h. Everything in double, so that a step's numbers depend on
 * nothing but the settings and the step. */
#include "train/schedule.h"

#include <math.h>
#include <string.h>

static double clamp(double v, double low, double high)
{
    return v < low ? low : v > high ? high : v;
}

double fmi_progress(const fmi_horizon *h, int64_t step, int64_t tokens)
{
    double p = h->steps ? (double)step / (double)h->steps : (double)tokens / (double)h->tokens;
    return clamp(p, 0, 1);
}

static double cosine(double from, double to, double x)
{
    return to + (from - to) * 0.5 * (1.0 + cos(3.14159265358979323846 * clamp(x, 0, 1)));
}

double fmi_schedule_lr(const fmi_settings *s, double p, double p_next)
{
    double lr = s->train_lr, end = s->train_lr_end, warm = s->train_warmup;
    /* The middle of the step while warming up: the first step then learns something. */
    if (p < warm) return lr * clamp(0.5 * (p + p_next) / warm, 0, 1);
    if (!strcmp(s->train_schedule, "constant")) return lr;
    if (!strcmp(s->train_schedule, "cosine")) {
        double span = 1 - warm;
        return cosine(lr, lr * end, span > 0 ? (p - warm) / span : 1);
    }
    if (!strcmp(s->train_schedule, "v3")) {
        if (p < 10.0 / 14.8) return lr;
        if (p < 14.3 / 14.8) return cosine(lr, 0.1 * lr, (p - 10.0 / 14.8) / (4.3 / 14.8));
        return p < 14.633 / 14.8 ? 0.1 * lr : lr * (7.3e-6 / 2.2e-4);
    }
    double from = 1 - s->train_decay;
    if (p < from || s->train_decay <= 0) return lr;
    double mid = 0.5 * (p + p_next);
    return lr * (1 - (1 - end) * clamp((mid - from) / s->train_decay, 0, 1));
}

int64_t fmi_schedule_rows_max(const fmi_settings *s)
{
    int64_t T = s->data_seq;
    int64_t most = s->train_batch > s->train_batch_start ? s->train_batch : s->train_batch_start;
    int64_t rows = (most + T / 2) / T;
    return rows < 1 ? 1 : rows;
}

int64_t fmi_schedule_rows(const fmi_settings *s, double p)
{
    double a = (double)s->train_batch_start, b = (double)s->train_batch;
    double x = s->train_batch_ramp > 0 ? clamp(p / s->train_batch_ramp, 0, 1) : 1;
    int64_t rows = (int64_t)floor((a + (b - a) * x) / (double)s->data_seq + 0.5);
    return rows < 1 ? 1 : rows;
}

double fmi_schedule_gamma(const fmi_settings *s, double p)
{
    double from = s->balance_gamma_decay, to = s->balance_gamma_end;
    if (p >= to) return 0;
    if (p <= from || to <= from) return s->balance_gamma;
    return s->balance_gamma * (1 - 0.95 * (p - from) / (to - from));
}

double fmi_schedule_mtp(const fmi_settings *s, double p)
{
    return p < s->mtp_weight_switch ? s->mtp_weight : s->mtp_weight_end;
}

static double slow_start(const fmi_settings *s, double p)
{
    return p < s->train_ademamix_warmup ? p / s->train_ademamix_warmup : 1;
}

double fmi_schedule_alpha(const fmi_settings *s, double p)
{
    return s->train_ademamix_alpha * slow_start(s, p);
}

double fmi_schedule_beta3(const fmi_settings *s, double p)
{
    double x = slow_start(s, p), end = s->train_ademamix_beta3;
    double l1 = log(fmax(s->train_beta1, 1e-8)), l3 = log(fmax(end, 1e-8));
    return x < 1 ? fmin(exp(l1 * l3 / ((1 - x) * l3 + x * l1)), end) : end;
}

bool fmi_schedule_crosses(int64_t n, double p0, double p1)
{
    return n > 0 && floor(p1 * (double)n + 1e-9) > floor(p0 * (double)n + 1e-9);
}

/* Tokens of the optimizer step where tokens in all are D (or, with steps, D = steps x batch). */
static double batch_law(double flops_per_token, const fmi_horizon *h)
{
    const double a = 0.2920, b = 0.3271;
    if (!h->steps) {
        double law = a * pow(flops_per_token * (double)h->tokens, b);
        double most = (double)h->tokens / 500;
        return law < most ? law : most;
    }
    return pow(a * pow(flops_per_token * (double)h->steps, b), 1 / (1 - b));
}

void fmi_settings_resolve(fmi_settings *s, double flops_per_token, fmi_horizon *h)
{
    int64_t T = s->data_seq;
    if (s->train_batch == FMI_AUTO_INT) {
        double rows = floor(batch_law(flops_per_token, h) / (double)T + 0.5);
        double least = T <= 512 ? ceil(4096.0 / (double)T) : 8;
        s->train_batch = (int64_t)clamp(rows, least, 1 << 20) * T;
    }
    if (s->train_batch_start == FMI_AUTO_INT)
        s->train_batch_start = strcmp(s->train_schedule, "v3") ? s->train_batch : s->train_batch / 5;
    if (s->train_batch_start < T) s->train_batch_start = T;
    if (s->train_micro == FMI_AUTO_INT) {
        int64_t micro = 4096 / T * T;
        s->train_micro = micro < T ? T : micro;
    }
    if (h->steps) h->tokens = h->steps * fmi_schedule_rows_max(s) * T;
    if (s->train_lr == FMI_AUTO_REAL) {
        double C = flops_per_token * (double)h->tokens;
        s->train_lr = clamp(0.3118 * pow(C, -0.125), 1e-6, 6e-3);
    }
    double steps = (double)h->tokens / (double)(fmi_schedule_rows_max(s) * T);
    if (s->balance_gamma == FMI_AUTO_REAL) {
        s->balance_gamma = clamp(8 / steps, 0.001, 0.02);
    }
    if (s->balance_gamma_end == FMI_AUTO_REAL)
        s->balance_gamma_end = strcmp(s->train_schedule, "v3") ? 1 : 14.3 / 14.8;
    bool muon = !strcmp(s->train_optimizer, "muon");
    if (s->train_momentum == FMI_AUTO_REAL)
        s->train_momentum = muon ? clamp(1 - 80 / steps, 0.8, 0.95) : 0.95;
    if (s->train_lr_embed == FMI_AUTO_REAL) s->train_lr_embed = muon ? 8 : 1;
    if (s->train_beta2 == FMI_AUTO_REAL) s->train_beta2 = muon ? 0.99 : 0.95;
    if (s->train_ademamix_beta3 == FMI_AUTO_REAL)
        s->train_ademamix_beta3 = clamp(1 - 10 / steps, 0.99, 0.9999);
    if (s->balance_alpha == FMI_AUTO_REAL) s->balance_alpha = clamp(2 / steps, 1e-4, 5e-3);
}
