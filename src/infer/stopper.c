/* Stop strings: search in what is held, then the longest end of it that begins a stop string. Held
 * text is at most a token longer than the longest stop string, so plain comparison is enough. */
#include "infer/stopper.h"

#include <string.h>

size_t fmi_stopper_longest(const char *const *stop, int n)
{
    size_t longest = 0;
    for (int i = 0; i < n; i++) {
        size_t len = strlen(stop[i]);
        if (len > longest) longest = len;
    }
    return longest;
}

/* Does a stop string match at `at`? *whole: entirely; else the text ends inside it. */
static bool matches_at(const fmi_stopper *s, size_t at, bool *whole)
{
    size_t left = s->hold.n - at;
    bool part = false;
    *whole = false;
    for (int i = 0; i < s->n; i++) {
        size_t len = strlen(s->stop[i]);
        size_t cmp = len < left ? len : left;
        if (memcmp(s->hold.data + at, s->stop[i], cmp)) continue;
        part = true;
        if (len <= left) *whole = true;
    }
    return part;
}

void fmi_stopper_scan(const fmi_stopper *s, bool last, size_t *release, bool *stopped)
{
    size_t held = s->hold.n; /* first place that may still become a stop string */
    for (size_t at = 0; at < s->hold.n; at++) {
        bool whole;
        if (!matches_at(s, at, &whole)) continue;
        if (whole) {
            *release = at;
            *stopped = true;
            return;
        }
        if (at < held) held = at;
    }
    *stopped = false;
    *release = last ? s->hold.n : held;
    /* a stop string that starts inside a character must not split it */
    while (!last && *release > 0 && *release < s->hold.n
           && ((unsigned char)s->hold.data[*release] & 0xc0) == 0x80)
        (*release)--;
}

int fmi_stopper_which(const fmi_stopper *s)
{
    for (int i = 0; i < s->n; i++) {
        size_t len = strlen(s->stop[i]);
        if (len <= s->hold.n && !memcmp(s->hold.data, s->stop[i], len)) return i;
    }
    return -1;
}

void fmi_stopper_drop(fmi_stopper *s, size_t n)
{
    FM_ASSERT(n <= s->hold.n);
    if (n == 0) return;
    memmove(s->hold.data, s->hold.data + n, s->hold.n - n);
    s->hold.n -= n;
    s->hold.data[s->hold.n] = 0;
}
