/* A line chart in SVG: axes with units, round tick values, up to eight curves told apart by colour, by dash
 * and by a legend in words. Long curves are averaged into at most POINTS_MAX places. */
#include "eval/report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define POINTS_MAX 360
#define WIDTH 640.0
#define HEIGHT 300.0
#define LEFT 62.0
#define RIGHT 16.0
#define TOP 12.0
#define BOTTOM 40.0
#define STYLES 8

fm_status fmi_report_add(fm_text *page, fm_err *err, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    fm_status st = fm_text_vprintf(page, err, fmt, ap);
    va_end(ap);
    return st;
}

fm_status fmi_report_escaped(fm_text *page, const char *s, fm_err *err)
{
    fm_status st = FM_OK;
    for (size_t i = 0; s[i] && !st; i++) {
        const char *e = s[i] == '<'   ? "&lt;"
                        : s[i] == '>' ? "&gt;"
                        : s[i] == '&' ? "&amp;"
                        : s[i] == '"' ? "&quot;"
                                      : NULL;
        st = e ? fm_text_push(page, e, strlen(e), err) : fm_text_push(page, s + i, 1, err);
    }
    return st;
}

typedef struct frame {
    double x0, x1, y0, y1;   /* of the data; logarithms when log_y */
    bool log_y;
} frame;

static double value(const frame *f, double y)
{
    return f->log_y ? log10(y > 1e-12 ? y : 1e-12) : y;
}

static double px(const frame *f, double x)
{
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (WIDTH - LEFT - RIGHT);
}

static double py(const frame *f, double y)
{
    return HEIGHT - BOTTOM - (value(f, y) - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
}

static bool frame_of(const report_chart *c, frame *f)
{
    bool any = false;
    *f = (frame){.log_y = c->log_y};
    for (int k = 0; k < c->n; k++)
        for (int i = 0; i < c->curves[k]->n && c->curves[k]->n > 1; i++) {
            double x = c->curves[k]->x[i], y = value(f, c->curves[k]->y[i]);
            if (!any || x < f->x0) f->x0 = x;
            if (!any || x > f->x1) f->x1 = x;
            if (!any || y < f->y0) f->y0 = y;
            if (!any || y > f->y1) f->y1 = y;
            any = true;
        }
    if (!any) return false;
    if (c->from_zero && f->y0 > 0) f->y0 = 0;
    if (f->x1 <= f->x0) f->x1 = f->x0 + 1;
    if (f->y1 - f->y0 < 1e-9) f->y1 = f->y0 + (fabs(f->y0) > 0 ? 0.1 * fabs(f->y0) : 1);
    f->y1 += 0.04 * (f->y1 - f->y0);
    return true;
}

/* 1, 2 or 5 times a power of ten, about a fifth of the span. */
static double tick_step(double span)
{
    double raw = span / 5, p = pow(10, floor(log10(raw))), m = raw / p;
    return p * (m < 1.5 ? 1 : m < 3.5 ? 2 : m < 7.5 ? 5 : 10);
}

static void tick_text(char *out, size_t cap, double v)
{
    double a = fabs(v);
    if (a >= 1e9) snprintf(out, cap, "%gB", v / 1e9);
    else if (a >= 1e6) snprintf(out, cap, "%gM", v / 1e6);
    else if (a >= 1e4) snprintf(out, cap, "%gk", v / 1e3);
    else if (a > 0 && a < 1e-3) snprintf(out, cap, "%.0e", v);
    else snprintf(out, cap, "%.4g", a < 1e-12 ? 0 : v);
}

static fm_status axes(fm_text *page, const frame *f, const char *unit, fm_err *err)
{
    char text[32];
    fm_status st = FM_OK;
    double step = tick_step(f->y1 - f->y0);
    for (double y = ceil(f->y0 / step) * step; y <= f->y1 && !st; y += step) {
        double at = HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - TOP - BOTTOM);
        tick_text(text, sizeof text, f->log_y ? pow(10, y) : y);
        st = fmi_report_add(page, err, "<line class=g x1=%.0f y1=%.1f x2=%.0f y2=%.1f /><text x=%.0f y=%.1f "
                            "class=e>%s</text>", LEFT, at, WIDTH - RIGHT, at, LEFT - 6, at + 4, text);
    }
    step = tick_step(f->x1 - f->x0);
    for (double x = ceil(f->x0 / step) * step; x <= f->x1 && !st; x += step) {
        tick_text(text, sizeof text, x);
        st = fmi_report_add(page, err, "<text x=%.1f y=%.0f class=m>%s</text>", px(f, x),
                            HEIGHT - BOTTOM + 16, text);
    }
    if (!st)
        st = fmi_report_add(page, err, "<line class=a x1=%.0f y1=%.0f x2=%.0f y2=%.0f /><text x=%.0f y=%.0f "
                            "class=m>tokens</text>", LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM,
                            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6);
    if (!st)
        st = fmi_report_add(page, err, "<text x=%.0f y=%.0f class=s>%s</text>", LEFT + 6, TOP + 10,
                            unit);
    return st;
}

static fm_status curve(fm_text *page, const frame *f, const report_curve *c, int style, fm_err *err)
{
    int bucket = (c->n + POINTS_MAX - 1) / POINTS_MAX;
    fm_status st = fmi_report_add(page, err, "<polyline class='c c%d' points='", style % STYLES);
    for (int i = 0; i < c->n && !st; i += bucket) {
        double x = 0, y = 0;
        int k = 0;
        for (; k < bucket && i + k < c->n; k++) {
            x += c->x[i + k];
            y += c->y[i + k];
        }
        st = fmi_report_add(page, err, "%.1f,%.1f ", px(f, x / k), py(f, y / k));
    }
    if (!st) st = fmi_report_add(page, err, "'/>");
    return st;
}

fm_status fmi_report_chart(fm_text *page, const report_chart *c, fm_err *err)
{
    frame f;
    if (!frame_of(c, &f)) return FM_OK;
    fm_status st = fmi_report_add(page, err,
                                  "<figure><figcaption>%s</figcaption><svg viewBox='0 0 %.0f %.0f' "
                                  "role=img aria-label='%s'>",
                                  c->title, WIDTH, HEIGHT, c->title);
    if (!st) st = axes(page, &f, c->unit, err);
    for (int k = 0; k < c->n && !st; k++)
        if (c->curves[k]->n > 1) st = curve(page, &f, c->curves[k], k, err);
    if (!st) st = fmi_report_add(page, err, "</svg><ul class=l>");
    for (int k = 0; k < c->n && !st; k++) {
        const report_curve *r = c->curves[k];
        if (r->n < 2) continue;
        char last[32];
        tick_text(last, sizeof last, r->y[r->n - 1]);
        st = fmi_report_add(
            page, err,
            "<li><svg class=k viewBox='0 0 28 8'><line class='c c%d' x1=0 y1=4 x2=28 "
            "y2=4 /></svg>",
            k % STYLES);
        if (!st) st = fmi_report_escaped(page, r->label, err);
        if (!st) st = fmi_report_add(page, err, " <b>%s</b></li>", last);
    }
    if (!st) st = fmi_report_add(page, err, "</ul></figure>\n");
    return st;
}
