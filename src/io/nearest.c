/* Edit distance with insertions, deletions, substitutions and swaps of neighbours (optimal string
 * alignment), three rows at a time. Longer strings than DISTANCE_MAX are not compared. */
#include <string.h>

#include "io/ini.h"

#define DISTANCE_MAX 128

static int least(int a, int b)
{
    return a < b ? a : b;
}

static int distance(const char *a, int n, const char *b, int m)
{
    int rows[3][DISTANCE_MAX + 1];
    int *before = rows[0], *last = rows[1], *now = rows[2];
    for (int j = 0; j <= m; j++) last[j] = j;
    for (int i = 1; i <= n; i++) {
        now[0] = i;
        for (int j = 1; j <= m; j++) {
            int d = last[j - 1] + (a[i - 1] != b[j - 1]);
            d = least(d, least(last[j], now[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                d = least(d, before[j - 2] + 1);
            now[j] = d;
        }
        int *spare = before;
        before = last;
        last = now;
        now = spare;
    }
    return last[m];
}

const char *fmi_nearest(const char *key, const char *const *known, int n)
{
    size_t len = strlen(key);
    const char *best = NULL;
    int best_d = 0;
    if (len > DISTANCE_MAX) return NULL;
    for (int i = 0; i < n; i++) {
        size_t m = strlen(known[i]);
        if (m > DISTANCE_MAX) continue;
        int limit = (int)(len > m ? len : m) / 3;
        if (limit < 2) limit = 2;
        int d = distance(key, (int)len, known[i], (int)m);
        if (d > limit || (best && d >= best_d)) continue;
        best = known[i];
        best_d = d;
    }
    return best;
}
