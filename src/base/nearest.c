/* Edit distance between short names, so that a message about an unknown key can name the known one
 * that was probably meant. Optimal string alignment with three rows on the stack. */
#include <string.h>

#include "base/base.h"
#include "fathom/nearest.h"

#define NAME_MAX_LEN 63

static int min_int(int a, int b)
{
    return a < b ? a : b;
}

static int distance(const char *a, int na, const char *b, int nb)
{
    int row[3][NAME_MAX_LEN + 1];
    for (int j = 0; j <= nb; j++) row[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *cur = row[i % 3], *prev = row[(i + 2) % 3], *prev2 = row[(i + 1) % 3];
        cur[0] = i;
        for (int j = 1; j <= nb; j++) {
            int d = prev[j - 1] + (a[i - 1] != b[j - 1]);
            d = min_int(d, min_int(prev[j], cur[j - 1]) + 1);
            bool swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
            if (swapped) d = min_int(d, prev2[j - 2] + 1);
            cur[j] = d;
        }
    }
    return row[na % 3][nb];
}

const char *fm_nearest(const char *name, const char *const *names, int n)
{
    size_t len = strlen(name);
    const char *best = NULL;
    int best_d = 0;
    if (len > NAME_MAX_LEN) return NULL;
    for (int i = 0; i < n; i++) {
        size_t li = strlen(names[i]);
        if (li > NAME_MAX_LEN) continue;
        int d = distance(name, (int)len, names[i], (int)li);
        int limit = (int)(len > li ? len : li) / 3 + 1;
        if (d <= limit && (!best || d < best_d)) {
            best = names[i];
            best_d = d;
        }
    }
    return best;
}
