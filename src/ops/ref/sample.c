/* Reference sampler, float logits: the token is the argmax of log p + Gumbel noise.
 *
 * Per row: logits are copied to scratch, tokens of the history get the repetition penalty, masked
 * ones -inf, and x = (v - max v) / temperature. Filters then set what they drop to -inf, in the
 * order top-k, top-p (over what top-k kept), min-p. Equal x: the lower id is the larger. Cutting by
 * count or by mass walks a histogram of 2,048 bins over an order-preserving integer code of x three
 * times (11, 11 and 10 bits), so that nothing is sorted; masses are float exponentials added
 * ascending in double. A row whose tokens are all masked or NaN gives token -1 and log-probability
 * -inf. */
#include "base/rng.h"
#include "ops/fmath.h"
#include "ops/ref/ref.h"

#define BINS 2048

typedef struct bins {
    double mass[BINS];
    int64_t count[BINS];
} bins;

/* Ascending codes for ascending floats; -inf is the lowest code in use. */
static uint32_t code_of(float x)
{
    uint32_t u = fmi_f32_bits(x == 0 ? 0.0f : x);
    return u & 0x80000000u ? ~u : u | 0x80000000u;
}

/* What a token counts towards the cut: 1 each, or its probability mass. */
static double amount_of(float x, bool by_mass)
{
    return by_mass ? (double)fmi_expf(x) : 1.0;
}

/* Keeps the tokens with largest x whose amounts first reach `want`; drops the others. */
static void cut(float *x, int64_t n, double want, bool by_mass, bins *b)
{
    static const int shift[3] = {21, 10, 0}, bits[3] = {11, 11, 10};
    uint32_t prefix = 0;
    double got = 0; /* amount above the range still open */
    for (int level = 0; level < 3; level++) {
        int top = shift[level] + bits[level];
        memset(b, 0, sizeof *b);
        for (int64_t i = 0; i < n; i++) {
            uint32_t c = code_of(x[i]);
            if (x[i] == -INFINITY || (level && (c >> top) != (prefix >> top))) continue;
            uint32_t bin = (c >> shift[level]) & ((1u << bits[level]) - 1);
            b->mass[bin] += amount_of(x[i], by_mass);
            b->count[bin]++;
        }
        int bin = (1 << bits[level]) - 1, last = -1;
        for (; bin >= 0; bin--) {
            if (!b->count[bin]) continue;
            last = bin;
            if (got + b->mass[bin] >= want) break;
            got += b->mass[bin];
        }
        if (bin < 0 && level == 0) return; /* everything together does not reach it: keep all */
        if (bin < 0) {
            /* Rounding of the partial sums: the lowest bin of this range closes it. */
            bin = last;
            got -= b->mass[bin];
        }
        prefix |= (uint32_t)bin << shift[level];
    }
    for (int64_t i = 0; i < n; i++) {
        uint32_t c = code_of(x[i]);
        if (c == prefix && got < want) got += amount_of(x[i], by_mass);
        else if (c <= prefix) x[i] = -INFINITY;
    }
}

static float max_of(const float *x, int64_t n)
{
    float m = -INFINITY;
    for (int64_t i = 0; i < n; i++)
        if (x[i] > m) m = x[i];
    return m;
}

/* Penalty and mask: x[W] from raw logits. */
static void adjust(const fm_sample_args *a, const fm_sample_row *row, const float *logits, float *x)
{
    for (int64_t w = 0; w < a->W; w++) x[w] = logits[w] == logits[w] ? logits[w] : -INFINITY;
    for (int32_t i = 0; row->repetition_penalty != 1 && i < row->history_n; i++) {
        int32_t id = a->history[row->history_begin + i];
        if (id < 0 || id >= a->W) continue;
        float v = logits[id]; /* from the raw value: a token that occurs twice is penalised once */
        v = v > 0 ? v / row->repetition_penalty : v * row->repetition_penalty;
        x[id] = v == v ? v : -INFINITY;
    }
    if (!a->mask || row->mask < 0) return;
    const uint32_t *mask = a->mask + (int64_t)row->mask * ((a->W + 31) / 32);
    for (int64_t w = 0; w < a->W; w++)
        if (!(mask[w / 32] >> (w % 32) & 1)) x[w] = -INFINITY;
}

static void filter(const fm_sample_row *row, float *x, int64_t n, float m, bins *b)
{
    for (int64_t w = 0; w < n; w++) x[w] = x[w] == m ? 0 : (x[w] - m) / row->temperature;
    if (row->top_k > 0 && row->top_k < n) cut(x, n, row->top_k, false, b);
    if (row->top_p < 1) {
        double total = 0;
        for (int64_t w = 0; w < n; w++) total += (double)fmi_expf(x[w]);
        cut(x, n, row->top_p * total, true, b);
    }
    if (row->min_p > 0)
        for (int64_t w = 0; w < n; w++)
            if (fmi_expf(x[w]) < row->min_p) x[w] = -INFINITY;
}

static int64_t choose(const fm_sample_row *row, const float *x, int64_t n)
{
    int64_t best = -1;
    float best_v = -INFINITY;
    bool noisy = row->temperature > 0;
    for (int64_t w = 0; w < n; w++) {
        if (x[w] == -INFINITY) continue;
        float v = x[w];
        if (noisy) {
            float u = fmi_rng_uniform(row->seed, row->choice, row->position, FMI_RNG_SAMPLE,
                                      (uint32_t)w);
            v = v - fmi_logf(-fmi_logf(u));
        }
        if (best < 0 || v > best_v) {
            best = w;
            best_v = v;
        }
    }
    return best;
}

static void sample_range(const void *args, int64_t begin, int64_t end, void *scratch)
{
    const fm_sample_args *a = args;
    for (int64_t t = begin; t < end; t++) {
        const fm_sample_row *row = &a->rows[t];
        const float *logits = (const float *)a->logits + t * a->ld;
        float *x = (float *)a->scratch + t * a->W, *logprob = a->logprob;
        adjust(a, row, logits, x);
        float m = max_of(x, a->W);
        if (row->temperature > 0 && m > -INFINITY) filter(row, x, a->W, m, scratch);
        int64_t token = choose(row, x, a->W);
        a->token[t] = (int32_t)token;
        /* logprob holds the row's log-sum-exp. */
        if (logprob) logprob[t] = token < 0 ? -INFINITY : logits[token] - logprob[t];
    }
}

REF_OP(sample)
{
    if (fmi_full_dtype(a->dt) != FM_DTYPE_F32) return FM_E_UNSUPPORTED;
    if (a->logprob) {
        fm_lse_args lse = {a->logits, a->logprob, a->T, a->W, a->ld, a->dt};
        fm_status st = ref_lse(k, &lse);
        if (st) return st;
    }
    ref_run(k, sample_range, a, a->T);
    return FM_OK;
}
