/* The report page: a table of runs, curves laid over each other, balance per layer, settings that differ,
 * samples. One HTML file with everything in it; colours follow the reader's light or dark setting. */
#include "eval/report.h"

#include <stdio.h>
#include <string.h>

#include "io/file.h"

static const char HEAD[] =
    "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
    "content='width=device-width,initial-scale=1'><title>Fathom report</title><style>\n"
    ":root{color-scheme:light dark;--bg:#fff;--fg:#1a1a1a;--dim:#5c5c5c;--grid:#e3e3e3}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e8e8e8;--dim:#a8a8a8;--grid:#"
    "33373c}}\n"
    "body{background:var(--bg);color:var(--fg);font:16px/1.45 system-ui,sans-serif;margin:0 "
    "auto;max-width:1360px;"
    "padding:16px}h1{font-size:1.5em}h2{font-size:1.2em;margin-top:2em}\n"
    ".charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:"
    "20px}\n"
    "figure{margin:0;min-width:0}figcaption{font-weight:600}svg{width:100%;height:auto}\n"
    "svg "
    "text{fill:var(--dim);font-size:12px}.e{text-anchor:end}.m{text-anchor:middle}.s{text-anchor:"
    "start}\n"
    ".g{stroke:var(--grid)}.a{stroke:var(--dim)}.c{fill:none;stroke-width:1.8}\n"
    ".c0{stroke:#2f6fde}.c1{stroke:#d9622b;stroke-dasharray:7 "
    "3}.c2{stroke:#1f9a6a;stroke-dasharray:2 3}"
    ".c3{stroke:#a04bd0;stroke-dasharray:10 3 2 "
    "3}.c4{stroke:#c0392b}.c5{stroke:#8a7a00;stroke-dasharray:7 3}"
    ".c6{stroke:#0f8ea8;stroke-dasharray:2 3}.c7{stroke:#8a5a44;stroke-dasharray:10 3 2 3}\n"
    ".l{list-style:none;padding:0;margin:.2em 0;display:flex;flex-wrap:wrap;gap:2px "
    "16px;font-size:.9em}\n"
    ".k{width:28px;height:8px;margin-right:6px;vertical-align:middle}\n"
    ".t{overflow-x:auto}table{border-collapse:collapse}td,th{padding:3px 12px 3px "
    "0;text-align:right;"
    "border-bottom:1px solid var(--grid)}th:first-child,td:first-child{text-align:left}\n"
    ".set td{text-align:left}pre{white-space:pre-wrap;overflow-wrap:anywhere;border-left:3px solid "
    "var(--grid);"
    "padding-left:12px}</style>\n";

static double last_of(const report_curve *c)
{
    return c->n ? c->y[c->n - 1] : 0;
}

static double best_of(const report_curve *c)
{
    double b = last_of(c);
    for (int i = 0; i < c->n; i++)
        if (c->y[i] < b) b = c->y[i];
    return b;
}

static fm_status number(fm_text *p, const report_curve *c, double v, const char *fmt, fm_err *err)
{
    if (!c->n) return fmi_report_add(p, err, "<td>-</td>");
    char buf[64];
    snprintf(buf, sizeof buf, fmt, v);
    return fmi_report_add(p, err, "<td>%s</td>", buf);
}

static fm_status summary(fm_text *p, const report_run *runs, int n, fm_err *err)
{
    fm_status st =
        fmi_report_add(p, err,
                       "<div class=t><table><tr><th>run<th>steps<th>tokens<th>loss<th>MTP loss"
                       "<th>held-out bits per byte<th>best<th>tokens/s<th>worst MaxVio (last 50 "
                       "steps)</tr>\n");
    for (int i = 0; i < n && !st; i++) {
        const report_run *r = &runs[i];
        double vio = 0;
        for (int k = 0; k < r->n_layers; k++)
            if (last_of(&r->layer[REPORT_VIO][k]) > vio) vio = last_of(&r->layer[REPORT_VIO][k]);
        st = fmi_report_add(p, err, "<tr><td>");
        if (!st) st = fmi_report_escaped(p, r->name, err);
        if (!st) st = fmi_report_add(p, err, "</td><td>%lld</td><td>%lld</td>", (long long)r->steps,
                                     (long long)r->tokens);
        const report_curve *c = r->curve;
        if (!st) st = number(p, &c[REPORT_LOSS], last_of(&c[REPORT_LOSS]), "%.4f", err);
        if (!st) st = number(p, &c[REPORT_MTP], last_of(&c[REPORT_MTP]), "%.4f", err);
        if (!st) st = number(p, &c[REPORT_VAL], last_of(&c[REPORT_VAL]), "%.4f", err);
        if (!st) st = number(p, &c[REPORT_VAL], best_of(&c[REPORT_VAL]), "%.4f", err);
        if (!st) st = number(p, &c[REPORT_SPEED], last_of(&c[REPORT_SPEED]), "%.0f", err);
        if (!st) st = number(p, &r->layer[REPORT_VIO][0], vio, "%.3f", err);
        if (!st) st = fmi_report_add(p, err, "</tr>\n");
    }
    if (!st) st = fmi_report_add(p, err, "</table></div>\n");
    return st;
}

static fm_status run_charts(fm_text *p, const report_run *runs, int n, fm_err *err)
{
    static const struct {
        int curve;
        const char *title, *unit;
        bool log_y, from_zero;
    } charts[] = {
        {REPORT_LOSS, "Training loss", "nats per token", false, false},
        {REPORT_MTP, "Multi-token-prediction loss", "nats per token", false, false},
        {REPORT_VAL, "Held-out text", "bits per byte", false, false},
        {REPORT_SPEED, "Speed", "tokens per second", false, true},
        {REPORT_NORM, "Gradient norm before clipping", "", true, false},
        {REPORT_LR, "Learning rate", "", false, true},
        {REPORT_BALANCE, "Sequence balance loss", "", false, true},
    };
    fm_status st = fmi_report_add(p, err, "<h2>Training</h2><div class=charts>\n");
    for (size_t k = 0; k < sizeof charts / sizeof *charts && !st; k++) {
        const report_curve *curves[FM_REPORT_RUNS_MAX];
        for (int i = 0; i < n; i++) curves[i] = &runs[i].curve[charts[k].curve];
        st = fmi_report_chart(p, &(report_chart){.title = charts[k].title, .unit = charts[k].unit,
                                                 .curves = curves, .n = n, .log_y = charts[k].log_y,
                                                 .from_zero = charts[k].from_zero}, err);
    }
    if (!st) st = fmi_report_add(p, err, "</div>\n");
    return st;
}

static fm_status balance_charts(fm_text *p, const report_run *r, fm_err *err)
{
    static const char *const title[] = {"MaxVio over the last 50 steps", "Load entropy, share of the maximum",
                                        "Range of the router bias", "Experts without a token in a step"};
    if (!r->n_layers) return FM_OK;
    fm_status st = fmi_report_add(p, err, "<h2>Balance per layer: ");
    if (!st) st = fmi_report_escaped(p, r->name, err);
    if (!st) st = fmi_report_add(p, err, "</h2><div class=charts>\n");
    for (int k = 0; k < REPORT_LAYER_CURVES && !st; k++) {
        const report_curve *curves[REPORT_LAYERS_MAX];
        for (int i = 0; i < r->n_layers; i++) curves[i] = &r->layer[k][i];
        st = fmi_report_chart(p, &(report_chart){.title = title[k], .unit = "", .curves = curves,
                                                 .n = r->n_layers, .from_zero = k != REPORT_ENTROPY}, err);
    }
    if (!st) st = fmi_report_add(p, err, "</div>\n");
    return st;
}

static const char *setting(const report_run *r, const char *key)
{
    const char *v = r->recipe ? fmi_ini_get(r->recipe, key) : NULL;
    return v ? v : "";
}

static bool differs(const report_run *runs, int n, const char *key)
{
    for (int i = 1; i < n; i++)
        if (strcmp(setting(&runs[0], key), setting(&runs[i], key)) != 0) return true;
    return false;
}

static fm_status settings(fm_text *p, const report_run *runs, int n, fm_err *err)
{
    fm_status st = fmi_report_add(p, err, "<h2>%s</h2><div class=t><table class=set><tr><th>setting",
                                  n > 1 ? "Settings that differ" : "Settings");
    for (int i = 0; i < n && !st; i++) {
        st = fmi_report_add(p, err, "<th>");
        if (!st) st = fmi_report_escaped(p, runs[i].name, err);
    }
    if (!st) st = fmi_report_add(p, err, "</tr>\n");
    for (int i = 0; i < n && !st; i++)
        for (int k = 0; runs[i].recipe && k < runs[i].recipe->n && !st; k++) {
            const char *key = runs[i].recipe->entries[k].key;
            bool seen = false;
            for (int j = 0; j < i; j++) seen = seen || setting(&runs[j], key)[0];
            if (seen || (n > 1 && !differs(runs, n, key))) continue;
            st = fmi_report_add(p, err, "<tr><td>");
            if (!st) st = fmi_report_escaped(p, key, err);
            for (int j = 0; j < n && !st; j++) {
                st = fmi_report_add(p, err, "<td>");
                if (!st) st = fmi_report_escaped(p, setting(&runs[j], key), err);
            }
            if (!st) st = fmi_report_add(p, err, "</tr>\n");
        }
    if (!st) st = fmi_report_add(p, err, "</table></div>\n");
    return st;
}

static fm_status samples(fm_text *p, const report_run *r, fm_err *err)
{
    if (!r->samples || !r->samples[0]) return FM_OK;
    fm_status st = fmi_report_add(p, err, "<h2>Samples: ");
    if (!st) st = fmi_report_escaped(p, r->name, err);
    if (!st) st = fmi_report_add(p, err, "</h2><pre>");
    if (!st) st = fmi_report_escaped(p, r->samples, err);
    if (!st) st = fmi_report_add(p, err, "</pre>\n");
    return st;
}

static fm_status page_of(fm_text *p, const report_run *runs, int n, fm_err *err)
{
    fm_status st = fm_text_push(p, HEAD, sizeof HEAD - 1, err);
    if (!st) st = fmi_report_add(p, err, "<h1>%d run%s</h1>\n", n, n > 1 ? "s" : "");
    if (!st) st = summary(p, runs, n, err);
    if (!st) st = run_charts(p, runs, n, err);
    for (int i = 0; i < n && !st; i++) st = balance_charts(p, &runs[i], err);
    if (!st) st = settings(p, runs, n, err);
    for (int i = 0; i < n && !st; i++) st = samples(p, &runs[i], err);
    return st;
}

fm_status fm_report_write(const char *const *dirs, int n, const char *out_path, fm_err *err)
{
    if (n < 1 || n > FM_REPORT_RUNS_MAX)
        return FM_FAIL(err, FM_E_RANGE, "%d runs; 1..%d can be laid over each other", n, FM_REPORT_RUNS_MAX);
    report_run *runs = fmi_zalloc((size_t)n * sizeof *runs);
    if (!runs) return FM_FAIL(err, FM_E_NOMEM, "report");
    fm_text page = {0};
    fm_status st = FM_OK;
    for (int i = 0; i < n && !st; i++) st = fmi_report_load(dirs[i], &runs[i], err);
    if (!st) st = page_of(&page, runs, n, err);
    if (!st) st = fmi_file_write(out_path, page.data, page.n, err);
    for (int i = 0; i < n; i++) fmi_report_unload(&runs[i]);
    fm_text_deinit(&page);
    fmi_free(runs);
    return st;
}
