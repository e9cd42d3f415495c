/* Plots: data files and gnuplot scripts into a directory, then gnuplot as a child process.
 *
 * isoflop: loss against size, a parabola a budget with its minimum; a budget without one has hollow
 * points, joined by dots. frontier: best size, tokens and
 * loss against compute, the surface's 95% band, the other methods' lines. residuals: of the
 * surface, against compute and size. sweep, where there are sweeps: their optima against the laws.
 * Every figure is one .dat with blocks and one .gp; the scripts may be edited and run by hand.
 * Without gnuplot all files but the pictures are written. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fit.h"
#include "io/file.h"

#define BAND_STEPS 60

typedef struct sheet {
    fm_text text;
    fm_status st;
    fm_err *err;
} sheet;

static void put(sheet *s, const char *fmt, ...) FMI_PRINTF(2, 3);
static void put(sheet *s, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (!s->st) s->st = fm_text_vprintf(&s->text, s->err, fmt, ap);
    va_end(ap);
}

static fm_status save(sheet *s, const char *dir, const char *name)
{
    char *path = s->st ? NULL : fmi_path_join(dir, name);
    if (!s->st) s->st = path ? fmi_file_write(path, s->text.data, s->text.n, s->err) : FM_E_NOMEM;
    fmi_free(path);
    fm_text_deinit(&s->text);
    return s->st;
}

/* A budget's colour: from blue over green to orange. */
static unsigned colour(int i, int n)
{
    static const int stops[4][3] = {
        {0x2b, 0x3a, 0x8f}, {0x1f, 0x8a, 0x8c}, {0x6a, 0xa8, 0x32}, {0xd9, 0x7b, 0x0d}};
    double at = n > 1 ? 3.0 * i / (n - 1) : 0;
    int k = at >= 3 ? 2 : (int)at;
    unsigned rgb = 0;
    for (int c = 0; c < 3; c++)
        rgb = rgb << 8 | (unsigned)lround(stops[k][c] + (at - k) * (stops[k + 1][c] - stops[k][c]));
    return rgb;
}

static const char *size_label(const fm_scale_fit *f)
{
    return f->main == FM_SCALE_M ? "M, non-embedding FLOPs a token" : "N, parameters";
}

/* Terminal and output for one format. */
static void script_head(sheet *s, int width, int height, int size)
{
    put(s,
        "# gnuplot -e \"format='svg'\" FILE.gp (or 'png')\n"
        "if (!exists(\"format\")) format = 'svg'\n"
        "if (format eq 'png') { set terminal pngcairo size %d,%d font 'Sans,%d' background rgb "
        "'white' }\\\n"
        "else { set terminal svg size %d,%d font 'Sans,%d' background rgb 'white' }\n"
        "set encoding utf8\nset border 3 lc rgb '#444444'\nset tics nomirror\nset grid lc rgb "
        "'#dddddd' lt 1\n"
        "set format x '10^{%%L}'\nset logscale x\n",
        width, height, size, width, height, size + 1);
}

/* A margin beside the points, not whole decades. */
static void x_range(sheet *s, double ln_low, double ln_high)
{
    if (isfinite(ln_high - ln_low))
        put(s, "set xrange [%.4g:%.4g]\n", exp(ln_low) / 1.3, exp(ln_high) * 1.3);
}

/* Tics of a logarithmic axis: decades, every other one past five, 1-2-5 steps within two. */
static void tics(sheet *s, char axis, double ln_low, double ln_high)
{
    double low = floor(ln_low / log(10)), high = ceil(ln_high / log(10));
    if (high - low > 5) put(s, "set %ctics 100\n", axis);
    if (ln_high - ln_low > 1.7 * log(10) || !isfinite(ln_high - ln_low)) return;
    put(s, "set %ctics (", axis);
    for (int k = (int)low; k <= (int)high; k++)
        for (int m = 1; m <= 5; m += m == 1 ? 1 : 3)
            put(s,
                "%s'%d\xc3\x97"
                "10^{%d}' %de%d",
                k == (int)low && m == 1 ? "" : ", ", m, k, m, k);
    put(s, ")\n");
}

static void range_of(const double *ln, int n, double *low, double *high)
{
    *low = INFINITY;
    *high = -INFINITY;
    for (int i = 0; i < n; i++) *low = fmin(*low, ln[i]), *high = fmax(*high, ln[i]);
}

/* --- isoflop ---------------------------------------------------------------------------------- */

static fm_status isoflop_data(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    const fmi_view *in = &f->in[f->main];
    const fm_scale_valley *v = &f->view[f->main].valley;
    sheet s = {.err = err};
    put(&s,
        "# per budget two blocks: points (size, loss at the budget's C, loss as run), parabola;\n"
        "# last block: minima (size, loss, low, high)\n");
    for (int g = 0; g < v->n_budgets; g++) {
        const fm_scale_budget *b = &v->budgets[g];
        double low = log(b->size_min / b->center), high = log(b->size_max / b->center);
        put(&s, "# C = %.4g\n", b->flops);
        for (int i = 0; i < in->cloud.n; i++)
            if (in->slice[i] == g)
                put(&s, "%.8g %.8g %.8g\n", exp(in->cloud.ln_x[i]), in->moved[i],
                    exp(in->cloud.ln_l[i]));
        put(&s, "\n\n");
        for (int i = 0; b->used && i <= 40; i++) {
            double t = low + (high - low) * i / 40;
            put(&s, "%.8g %.8g\n", b->center * exp(t),
                b->curve[0] + t * (b->curve[1] + t * b->curve[2]));
        }
        if (!b->used) put(&s, "%.8g NaN\n", b->center);
        put(&s, "\n\n");
    }
    for (int g = 0; g < v->n_budgets; g++) {
        const fm_scale_budget *b = &v->budgets[g];
        if (b->used)
            put(&s, "%.8g %.8g %.8g %.8g\n", b->size.value, b->loss, b->size.low, b->size.high);
    }
    if (v->n_budgets == 0)
        for (int i = 0; i < in->cloud.n; i++)
            put(&s, "%.8g %.8g\n", exp(in->cloud.ln_x[i]), exp(in->cloud.ln_l[i]));
    return save(&s, dir, "isoflop.dat");
}

/* Points and curve of a budget: a shape of its own beside the colour, hollow without a minimum. */
static void isoflop_budget(sheet *s, const fm_scale_valley *v, int g)
{
    static const int full[4] = {7, 5, 13, 11}, hollow[4] = {6, 4, 12, 10};
    const fm_scale_budget *b = &v->budgets[g];
    unsigned rgb = colour(g, v->n_budgets);
    put(s,
        "  'isoflop.dat' index %d using 1:2 with points pt %d ps 1.1 lw 1.5 lc rgb '#%06x' title "
        "'%.2g%s', \\\n",
        2 * g, b->used ? full[g % 4] : hollow[g % 4], rgb, b->flops, b->used ? "" : ", no minimum");
    if (b->used)
        put(s, "  '' index %d using 1:2 with lines lw 2 lc rgb '#%06x' notitle, \\\n", 2 * g + 1,
            rgb);
    else
        put(s,
            "  '' index %d using 1:2 smooth unique with lines lw 1.5 dt 3 lc rgb '#%06x' notitle, "
            "\\\n",
            2 * g, rgb);
}

static fm_status isoflop_script(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    const fm_scale_valley *v = &f->view[f->main].valley;
    sheet s = {.err = err};
    double low, high;
    script_head(&s, 960, 600, 15);
    range_of(f->in[f->main].cloud.ln_x, f->in[f->main].cloud.n, &low, &high);
    tics(&s, 'x', low, high);
    x_range(&s, low, high);
    put(&s,
        "set output 'isoflop.'.format\nset title 'IsoFLOP valleys%s'\nset xlabel '%s'\n"
        "set ylabel 'loss'\nset key outside right top Left reverse samplen 2 title 'C, FLOPs'\n",
        v->binned ? " (points moved to the C of their bin)" : "", size_label(f));
    put(&s, "plot \\\n");
    for (int g = 0; g < v->n_budgets; g++) isoflop_budget(&s, v, g);
    if (v->n_budgets)
        put(&s,
            "  'isoflop.dat' index %d using 1:2:3:4 with xerrorbars pt 9 ps 1.5 lw 2 lc rgb "
            "'#b00020' "
            "title 'minima, 95%%'\n",
            2 * v->n_budgets);
    else
        put(&s, "  'isoflop.dat' using 1:2 with points pt 7 lc rgb '#2b3a8f' title 'runs (no "
                "budgets)'\n");
    put(&s, "unset output\n");
    return save(&s, dir, "isoflop.gp");
}

/* --- frontier --------------------------------------------------------------------------------- */

/* The surface's lines with their bands a decade past the runs, then the other methods' lines. */
static fm_status frontier_data(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    const fmi_view *in = &f->in[f->main];
    const fm_scale_view *v = &f->view[f->main];
    double low, high, *scratch = fmi_alloc((size_t)(in->n_draws + 1) * sizeof *scratch);
    sheet s = {.err = err};
    if (!scratch) return FM_FAIL(err, FM_E_NOMEM, "bands");
    range_of(in->cloud.ln_c, in->cloud.n, &low, &high);
    put(&s, "# 0: surface: C, size, low, high, tokens, low, high, loss, low, high\n");
    for (int i = 0; i <= BAND_STEPS; i++) {
        double lc = low + (high + log(10) - low) * i / BAND_STEPS;
        put(&s, "%.8g", exp(lc));
        for (int k = 0; k < 3; k++) {
            fm_scale_value b = {NAN, NAN, NAN};
            if (v->surface.done) b = fmi_law_band(in, (fmi_band_of)k, lc, scratch);
            put(&s, " %.8g %.8g %.8g", b.value, b.low, b.high);
        }
        put(&s, "\n");
    }
    put(&s, "\n\n# 1: minima of the valleys: C, size, low, high, tokens, low, high, loss\n");
    for (int g = 0; g < v->valley.n_budgets; g++) {
        const fm_scale_budget *b = &v->valley.budgets[g];
        if (b->used)
            put(&s, "%.8g %.8g %.8g %.8g %.8g %.8g %.8g %.8g\n", b->flops, b->size.value,
                b->size.low, b->size.high, b->tokens.value, b->tokens.low, b->tokens.high, b->loss);
    }
    put(&s, "NaN NaN NaN NaN NaN NaN NaN NaN\n\n\n# 2: lines: C, size and tokens of isoflop, of "
            "envelope\n");
    for (int i = 0; i < 2; i++) {
        double c = exp(i ? high + log(10) : low);
        const fm_scale_frontier *a = &v->valley.frontier, *e = &v->envelope.frontier;
        double p[4] = {NAN, NAN, NAN, NAN};
        if (v->valley.done) {
            p[0] = a->size_scale.value * pow(c, a->size_exponent.value);
            p[1] = a->token_scale.value * pow(c, a->token_exponent.value);
        }
        if (v->envelope.done) {
            p[2] = e->size_scale.value * pow(c, e->size_exponent.value);
            p[3] = e->token_scale.value * pow(c, e->token_exponent.value);
        }
        put(&s, "%.8g %.8g %.8g %.8g %.8g\n", c, p[0], p[1], p[2], p[3]);
    }
    put(&s, "\n\n# 3: runs: C, size, tokens, loss\n");
    for (int i = 0; i < in->cloud.n; i++)
        put(&s, "%.8g %.8g %.8g %.8g\n", exp(in->cloud.ln_c[i]), exp(in->cloud.ln_x[i]),
            exp(in->cloud.ln_d[i]), exp(in->cloud.ln_l[i]));
    fmi_free(scratch);
    return save(&s, dir, "frontier.dat");
}

/* A panel, 0 to 2; columns of value, low and high in block 0; of the minima; of the lines (0:
 * none).
 */
static void panel(sheet *s, const fm_scale_view *v, int at, int value, int line, int runs)
{
    static const char *const title[3] = {"Best size", "Best token count", "Loss at the best size"};
    const char *d = "'frontier.dat'";
    put(s,
        "set lmargin at screen %.3f\nset rmargin at screen %.3f\nset title '%s'\n"
        "plot %s index 3 using 1:%d with points pt 7 ps 0.6 lc rgb '#999999'",
        0.075 + 0.325 * at, 0.325 + 0.325 * at, title[at], d, runs);
    if (v->surface.done)
        put(s,
            ", \\\n  %s index 0 using 1:%d:%d with filledcurves fs transparent solid 0.25 noborder "
            "lc rgb '#2b3a8f', \\\n  %s index 0 using 1:%d with lines lw 2.5 lc rgb '#2b3a8f'",
            d, value + 1, value + 2, d, value);
    if (v->valley.done && line)
        put(s, ", \\\n  %s index 2 using 1:%d with lines lw 2 dt 2 lc rgb '#b00020'", d, line);
    if (v->envelope.done && line)
        put(s, ", \\\n  %s index 2 using 1:%d with lines lw 2.5 dt 3 lc rgb '#3f7d13'", d,
            line + 2);
    if (v->valley.n_budgets && line)
        put(s,
            ", \\\n  %s index 1 using 1:%d:%d:%d with yerrorbars pt 9 ps 1.4 lw 2 lc rgb '#b00020'",
            d, value, value + 1, value + 2);
    else if (v->valley.n_budgets)
        put(s, ", \\\n  %s index 1 using 1:%d with points pt 9 ps 1.4 lc rgb '#b00020'", d, value);
    put(s, "\n");
}

/* One key for the three panels, below them: a plot of nothing across the figure. */
static void shared_key(sheet *s, const fm_scale_view *v)
{
    put(s, "set lmargin at screen 0\nset rmargin at screen 1\nset bmargin at screen 0\n"
           "set tmargin at screen 0.1\nunset title\nunset xlabel\nunset ylabel\nunset border\n"
           "unset tics\nunset grid\nunset logscale\nset xrange [0:1]\nset yrange [0:1]\n"
           "set key center center horizontal maxrows 1 Left reverse samplen 2\n"
           "plot NaN with points pt 7 ps 0.6 lc rgb '#999999' title 'runs'");
    if (v->surface.done)
        put(s, ", \\\n  NaN with boxes fs transparent solid 0.25 noborder lc rgb '#2b3a8f' "
               "title 'parametric, 95%%', \\\n"
               "  NaN with lines lw 2.5 lc rgb '#2b3a8f' title 'parametric'");
    if (v->valley.done) put(s, ", \\\n  NaN with lines lw 2 dt 2 lc rgb '#b00020' title 'isoflop'");
    if (v->envelope.done)
        put(s, ", \\\n  NaN with lines lw 2.5 dt 3 lc rgb '#3f7d13' title 'envelope'");
    if (v->valley.n_budgets)
        put(s,
            ", \\\n  NaN with points pt 9 ps 1.4 lc rgb '#b00020' title 'minima of valleys, 95%%'");
    put(s, "\n");
}

static fm_status frontier_script(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    const fm_scale_view *v = &f->view[f->main];
    sheet s = {.err = err};
    double low, high;
    script_head(&s, 1500, 600, 16);
    put(&s, "set output 'frontier.'.format\nset multiplot\nunset key\n"
            "set bmargin at screen 0.25\nset tmargin at screen 0.9\n"
            "set xlabel 'C, FLOPs'\nset logscale y\nset format y '10^{%%L}'\n");
    range_of(f->in[f->main].cloud.ln_c, f->in[f->main].cloud.n, &low, &high);
    tics(&s, 'x', low, high + log(10));
    x_range(&s, low, high + log(10));
    put(&s, "set ylabel '%s'\n", size_label(f));
    panel(&s, v, 0, 2, 2, 2);
    put(&s, "set ylabel 'D, tokens'\n");
    panel(&s, v, 1, 5, 3, 3);
    put(&s, "set ylabel 'loss'\nunset logscale y\nset format y '%%g'\n");
    panel(&s, v, 2, 8, 0, 4);
    shared_key(&s, v);
    put(&s, "unset multiplot\nunset output\n");
    return save(&s, dir, "frontier.gp");
}

/* --- residuals -------------------------------------------------------------------------------- */

static fm_status residual_files(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    const fmi_view *in = &f->in[f->main];
    const fm_scale_surface *v = &f->view[f->main].surface;
    sheet s = {.err = err}, g = {.err = err};
    put(&s, "# C, size, tokens, ln loss - ln fit\n");
    for (int i = 0; v->done && i < in->cloud.n; i++)
        put(&s, "%.8g %.8g %.8g %.6g\n", exp(in->cloud.ln_c[i]), exp(in->cloud.ln_x[i]),
            exp(in->cloud.ln_d[i]), in->cloud.ln_l[i] - log(in->fitted[i]));
    if (!v->done) put(&s, "1 1 1 NaN\n");
    fm_status st = save(&s, dir, "residuals.dat");
    if (st) return st;
    script_head(&g, 1200, 540, 15);
    put(&g,
        "set output 'residuals.'.format\nset multiplot layout 1,2\nset ylabel 'ln loss - ln fit'\n"
        "set format y '%%g'\nset bmargin 6\nset key below center horizontal Left reverse samplen "
        "2\n");
    if (!v->done)
        put(&g, "set label 1 'no parametric fit' at graph 0.3,0.5\nset xrange [0.1:10]\nset yrange "
                "[-1:1]\n");
    const char *axis[2] = {"C, FLOPs", size_label(f)};
    for (int k = 0; k < 2; k++)
        put(&g,
            "set xlabel '%s'\nset title 'Residuals of the parametric fit'\nplot 0 lc rgb '#444444' "
            "notitle, "
            "%.6g dt 2 lc rgb '#b00020' title 'rms', %.6g dt 2 lc rgb '#b00020' notitle, \\\n"
            "  'residuals.dat' using %d:4 with points pt 7 ps 0.9 lc rgb '#2b3a8f' title 'runs'\n",
            axis[k], v->residuals.rms, -v->residuals.rms, k + 1);
    put(&g, "unset multiplot\nunset output\n");
    return save(&g, dir, "residuals.gp");
}

/* --- sweeps ----------------------------------------------------------------------------------- */

/* The optima against the laws: on the diagonal a law is right. */
static fm_status sweep_files(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    static const char *const what[2] = {"Peak learning rate", "Batch, tokens a step"};
    static const char *const ours[2] = {"fitted, of N and D", "fitted, of D"};
    sheet s = {.err = err}, g = {.err = err};
    put(&s, "# lr: optimum, fitted, published; batch tokens: the same\n");
    for (int i = 0; i < f->sweep.n_groups; i++) {
        const double *r = f->optima + 6 * (size_t)i;
        put(&s, "%.6g %.6g %.6g %.6g %.6g %.6g\n", r[0], r[1], r[2], r[3], r[4], r[5]);
    }
    fm_status st = save(&s, dir, "sweep.dat");
    if (st) return st;
    script_head(&g, 1200, 600, 15);
    put(&g, "set output 'sweep.'.format\nset multiplot layout 1,2\nset logscale y\n"
            "set format '%%.1t\xc3\x97"
            "10^{%%T}'\nset bmargin 6.5\nset key below center horizontal Left reverse samplen 1\n"
            "set ylabel 'best of a sweep'\nset xlabel 'law'\nset xtics 2\nset ytics 2\n");
    for (int k = 0; k < 2; k++) {
        double low = INFINITY, high = 0;
        for (int i = 0; i < f->sweep.n_groups; i++)
            for (int c = 3 * k; c < 3 * k + 3; c++) {
                low = fmin(low, f->optima[6 * (size_t)i + (size_t)c]);
                high = fmax(high, f->optima[6 * (size_t)i + (size_t)c]);
            }
        if (low < high)
            put(&g, "set xrange [%.4g:%.4g]\nset yrange [%.4g:%.4g]\n", low / 1.5, high * 1.5,
                low / 1.5, high * 1.5);
        put(&g,
            "set title '%s'\nplot x lc rgb '#444444' notitle, \\\n"
            "  'sweep.dat' using %d:%d with points pt 7 ps 1 lc rgb '#2b3a8f' title '%s', \\\n"
            "  'sweep.dat' using %d:%d with points pt 6 ps 1 lw 1.5 lc rgb '#b00020' title "
            "'published (Step Law)'\n",
            what[k], 3 * k + 2, 3 * k + 1, ours[k], 3 * k + 3, 3 * k + 1);
    }
    put(&g, "unset multiplot\nunset output\n");
    return save(&g, dir, "sweep.gp");
}

/* --- gnuplot ---------------------------------------------------------------------------------- */

enum { EXIT_NOT_FOUND = 127 };

static int run_gnuplot(const char *dir, const char *script, const char *format)
{
    char set[32];
    int status;
    snprintf(set, sizeof set, "format='%s'", format);
    pid_t pid = fork();
    if (pid < 0) return -1;
    if (pid == 0) { /* only calls that are safe after a fork */
        int log = -1, null = open("/dev/null", O_RDONLY);
        if (chdir(dir) == 0) log = open("gnuplot.log", O_WRONLY | O_CREAT | O_APPEND, 0644);
        if (log < 0 || null < 0) _exit(EXIT_NOT_FOUND - 1);
        dup2(null, 0);
        dup2(log, 1);
        dup2(log, 2);
        execlp("gnuplot", "gnuplot", "-e", set, script, (char *)NULL);
        _exit(errno == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_FOUND - 1);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static fm_status draw(const char *dir, bool sweeps, fm_err *err)
{
    static const char *const scripts[] = {"isoflop.gp", "frontier.gp", "residuals.gp", "sweep.gp"};
    static const char *const formats[] = {"svg", "png"};
    char *log = fmi_path_join(dir, "gnuplot.log"), *text = NULL;
    fm_status st = log ? fmi_tree_remove(log, err) : FM_FAIL(err, FM_E_NOMEM, "%s", dir);
    for (int i = 0; i < (sweeps ? 8 : 6) && !st; i++) {
        int rc = run_gnuplot(dir, scripts[i / 2], formats[i % 2]);
        if (rc == EXIT_NOT_FOUND) {
            st = FM_FAIL(err, FM_E_UNSUPPORTED,
                         "%s: data and scripts are written, but gnuplot is not installed: install "
                         "gnuplot-nox for the pictures",
                         dir);
        } else if (rc) {
            const char *at = "";
            if (!fmi_file_read(log, 1 << 20, &text, NULL, NULL)) at = text + strspn(text, "\n ");
            st = FM_FAIL(err, FM_E_IO, "%s/%s: gnuplot ended with %d: %.*s", dir, scripts[i / 2],
                         rc, (int)strcspn(at, "\n"), at);
            fmi_free(text);
        }
    }
    if (log && (!st || st == FM_E_UNSUPPORTED)) fmi_tree_remove(log, NULL);
    fmi_free(log);
    return st;
}

fm_status fm_scale_plot(const fm_scale_fit *f, const char *dir, fm_err *err)
{
    sheet report = {.err = err};
    fm_status st = fmi_dir_make(dir, err);
    if (!st) st = isoflop_data(f, dir, err);
    if (!st) st = isoflop_script(f, dir, err);
    if (!st) st = frontier_data(f, dir, err);
    if (!st) st = frontier_script(f, dir, err);
    if (!st) st = residual_files(f, dir, err);
    if (!st && f->sweep.there) st = sweep_files(f, dir, err);
    if (st) return st;
    report.st = fm_scale_fit_report(f, true, &report.text, err);
    st = save(&report, dir, "report.md");
    return st ? st : draw(dir, f->sweep.there, err);
}
