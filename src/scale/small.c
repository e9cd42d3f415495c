/* Small dense problems of the fits. See small.h; the idea of each is one line above it. */
#include "small.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

bool fmi_small_solve(int n, double a[][FMI_SMALL_MAX], const double *b, double *x)
{
    double l[FMI_SMALL_MAX][FMI_SMALL_MAX], s[FMI_SMALL_MAX], y[FMI_SMALL_MAX];
    FM_ASSERT(n >= 1 && n <= FMI_SMALL_MAX);
    for (int i = 0; i < n; i++) { /* unit diagonal first: columns differ by many orders */
        if (!(a[i][i] > 0) || !isfinite(a[i][i])) return false;
        s[i] = 1 / sqrt(a[i][i]);
    }
    for (int j = 0; j < n; j++)
        for (int i = j; i < n; i++) {
            double v = a[j][i] * s[i] * s[j];
            for (int k = 0; k < j; k++) v -= l[i][k] * l[j][k];
            if (i == j) {
                if (!(v > 1e-13)) return false;
                l[i][j] = sqrt(v);
            } else {
                l[i][j] = v / l[j][j];
            }
        }
    for (int i = 0; i < n; i++) {
        double v = b[i] * s[i];
        for (int k = 0; k < i; k++) v -= l[i][k] * y[k];
        y[i] = v / l[i][i];
    }
    for (int i = n - 1; i >= 0; i--) {
        double v = y[i];
        for (int k = i + 1; k < n; k++) v -= l[k][i] * x[k];
        x[i] = v / l[i][i];
    }
    for (int i = 0; i < n; i++) x[i] *= s[i];
    return true;
}

bool fmi_small_solve_positive(int n, double a[][FMI_SMALL_MAX], const double *b, double *x)
{
    double best = INFINITY;
    FM_ASSERT(n >= 1 && n <= 4);
    for (int mask = 1; mask < 1 << n; mask++) {
        double sub[FMI_SMALL_MAX][FMI_SMALL_MAX], sb[FMI_SMALL_MAX], sx[FMI_SMALL_MAX];
        int at[FMI_SMALL_MAX], m = 0;
        for (int i = 0; i < n; i++)
            if (mask >> i & 1) at[m++] = i;
        for (int i = 0; i < m; i++) {
            sb[i] = b[at[i]];
            for (int j = i; j < m; j++) sub[i][j] = a[at[i]][at[j]];
        }
        if (!fmi_small_solve(m, sub, sb, sx)) continue;
        bool inside = true;
        double value = 0; /* x'ax/2 - b'x = -b'x/2 at the solution */
        for (int i = 0; i < m; i++) {
            inside = inside && sx[i] >= 0;
            value -= sb[i] * sx[i] / 2;
        }
        if (!inside || !(value < best)) continue;
        best = value;
        memset(x, 0, (size_t)n * sizeof *x);
        for (int i = 0; i < m; i++) x[at[i]] = sx[i];
    }
    return best < INFINITY;
}

bool fmi_fit_poly(int n, const double *x, const double *y, const double *w, int degree, double *c)
{
    double a[FMI_SMALL_MAX][FMI_SMALL_MAX] = {{0}}, b[FMI_SMALL_MAX] = {0};
    FM_ASSERT(degree >= 0 && degree <= 2);
    if (n < degree + 1) return false;
    for (int i = 0; i < n; i++) {
        double p[3] = {1, x[i], x[i] * x[i]}, v = w ? w[i] : 1;
        for (int j = 0; j <= degree; j++) {
            b[j] += v * p[j] * y[i];
            for (int k = j; k <= degree; k++) a[j][k] += v * p[j] * p[k];
        }
    }
    return fmi_small_solve(degree + 1, a, b, c);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

void fmi_sort(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, ascending);
}

double fmi_quantile(const double *sorted, int n, double q)
{
    double at = q * (n - 1);
    int i = (int)floor(at);
    if (i >= n - 1) return sorted[n - 1];
    return sorted[i] + (at - i) * (sorted[i + 1] - sorted[i]);
}

double fmi_median_abs(double *scratch, const double *v, int n)
{
    for (int i = 0; i < n; i++) scratch[i] = fabs(v[i]);
    fmi_sort(scratch, n);
    return n ? fmi_quantile(scratch, n, 0.5) : 0;
}

fm_scale_value fmi_interval(double value, double *draws, int n)
{
    int m = 0;
    for (int i = 0; i < n; i++)
        if (isfinite(draws[i])) draws[m++] = draws[i];
    if (m < 2) return (fm_scale_value){value, -INFINITY, INFINITY};
    fmi_sort(draws, m);
    fm_scale_value v = {value, fmi_quantile(draws, m, 0.025), fmi_quantile(draws, m, 0.975)};
    return v;
}
