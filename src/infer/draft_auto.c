/* Drafting starts at once, while the MTP block's cache is warm from the prompt: giving it up costs
 * nothing, taking it up again means forwarding what it missed. Three refused drafts in a row (or
 * eight steps) end the trial; a few plain steps then tell what drafting must beat. Afterwards a
 * window of steps is weighed again and again, and the plain cost, which grows with the context, is
 * measured anew now and then. The fastest step stands for a kind of step: what else runs on the
 * machine only ever adds. */
#include "infer/draft_auto.h"

#define TRY_LEAST 3 /* steps of the trial, when nearly nothing is accepted */
#define TRY_MOST 8
#define TRY_GAIN 1.25 /* tokens a step below which the trial ends early */
#define BASE_STEPS 3
#define WINDOW 16
#define REFRESH 512 /* drafting steps between two looks at the plain cost */

static void enter(fmi_auto *a, fmi_auto_state state)
{
    a->state = state;
    a->n = 0;
    a->tokens = 0;
    a->fastest = 0;
}

static bool pays(const fmi_auto *a)
{
    return a->cost < a->plain * a->gained;
}

bool fmi_auto_step(fmi_auto *a, double seconds, int64_t tokens, int sequences, bool drafted)
{
    if (a->state == FMI_AUTO_OFF) return false;
    if (drafted == (a->state == FMI_AUTO_BASE)) return a->state != FMI_AUTO_BASE;
    a->tokens += (double)tokens / sequences;
    if (a->n++ == 0 || seconds < a->fastest) a->fastest = seconds;
    double gained = a->tokens / a->n;
    if (a->state == FMI_AUTO_BASE) {
        if (a->n < BASE_STEPS) return false;
        a->plain = a->fastest;
        a->n_on = 0;
        enter(a, pays(a) ? FMI_AUTO_ON : FMI_AUTO_OFF);
    } else if (a->state == FMI_AUTO_TRY) {
        bool poor = a->n >= TRY_LEAST && gained < TRY_GAIN;
        if (!poor && a->n < TRY_MOST) return true;
        a->gained = gained;
        a->cost = a->fastest;
        enter(a, FMI_AUTO_BASE);
    } else {
        a->n_on++;
        if (a->n < WINDOW) return true;
        a->gained = gained;
        a->cost = a->fastest;
        enter(a, !pays(a) ? FMI_AUTO_OFF : a->n_on >= REFRESH ? FMI_AUTO_BASE : FMI_AUTO_ON);
    }
    return a->state == FMI_AUTO_ON;
}
