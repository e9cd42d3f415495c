/* CSV files of runs: names of columns, what is derived, and every refusal with its line. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fathom/scale.h"
#include "scale/points.h"

static char path[64];

static int make_file(void **state)
{
    (void)state;
    snprintf(path, sizeof path, "scale-csv-XXXXXX");
    int fd = mkstemp(path);
    return fd < 0 || close(fd);
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

static void write_text(const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static fm_scale_points *read_text(const char *text, const char *const *columns, int n,
                                  fm_status want, fm_err *err)
{
    fm_scale_points *p = NULL;
    write_text(text);
    assert_int_equal(fm_scale_points_new(&p, NULL), FM_OK);
    fm_status st = fm_scale_points_read(p, path, columns, n, err);
    if (st != want) fail_msg("expected status %d, found %d: %s", want, st, err->text);
    if (st) assert_int_equal(fm_scale_points_count(p), 0);
    return p;
}

static void close_to(double found, double expected)
{
    if (!(fabs(found - expected) <= 1e-12 * fabs(expected)))
        fail_msg("expected %.17g, found %.17g", expected, found);
}

static void names_and_forms(void **state)
{
    (void)state;
    fm_err err = {0};
    static const char *const same[] = {
        "params,tokens,loss\n1e6,2e7,3.5\n",
        "N,D,L\n1000000,20000000,3.5\n",
        "\xef\xbb\xbfLoss , N_PARAMS , C\r\n3.5,1e6,1.2e14\r\n\r\n",
        "# made by hand\nname,\"params\",tokens,loss\n\"a, b\",1e6,2e7,\"3.5\"\n",
        "params,flops,val_loss,note\n1e6,1.2e14,3.5,x",
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        fm_scale_points *p = read_text(same[i], NULL, 0, FM_OK, &err);
        assert_int_equal(fm_scale_points_count(p), 1);
        const fm_scale_point *q = fm_scale_points_get(p, 0);
        close_to(q->params, 1e6);
        close_to(q->tokens, 2e7);
        close_to(q->flops, 1.2e14);
        close_to(q->loss, 3.5);
        close_to(q->params_total, 1e6);
        fm_scale_points_free(p);
    }
}

static void experts_sweeps_and_m(void **state)
{
    (void)state;
    fm_err err = {0};
    fm_scale_points *p =
        read_text("N,Na,M,tokens,lr,steps,loss,smooth_loss\n8e6,2e6,1.5e7,1e9,1e-3,500,3,2.9\n",
                  NULL, 0, FM_OK, &err);
    const fm_scale_point *q = fm_scale_points_get(p, 0);
    close_to(q->params, 2e6);
    close_to(q->params_total, 8e6);
    close_to(q->flops, 1.5e16);
    close_to(q->batch_tokens, 2e6);
    close_to(q->lr, 1e-3);
    close_to(q->loss, 2.9); /* a smoothed loss goes before the last batch's */
    assert_int_equal(q->line, 2);
    fm_scale_points_free(p);

    const char *const columns[] = {"loss=b", "m=-", "params=size"};
    p = read_text("size,m,d,loss,b\n5e6,1,1e8,9,2\n", columns, 3, FM_OK, &err);
    q = fm_scale_points_get(p, 0);
    close_to(q->loss, 2);
    close_to(q->flops, 3e15);
    assert_true(q->m == 0);
    fm_scale_points_free(p);

    p = read_text("batch_seqs,seq_len,n,d,loss\n64,512,5e6,1e8,2\n", NULL, 0, FM_OK, &err);
    close_to(fm_scale_points_get(p, 0)->batch_tokens, 32768);
    fm_scale_points_free(p);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
        fm_status st;
    } rows[] = {
        {"", "empty", FM_E_FORMAT},
        {"params,tokens,loss\n", "no points", FM_E_FORMAT},
        {"params,tokens\n1,2\n", "line 1: no column for loss", FM_E_FORMAT},
        {"width,tokens,loss\n1,2,3\n", "line 1: no column for size", FM_E_FORMAT},
        {"params,steps,loss\n1,2,3\n", "line 1: no column for tokens", FM_E_FORMAT},
        {"params,tokens,loss\n1,2,3\n1,many,3\n",
         "line 3: column \"tokens\": expected a number, found \"many\"", FM_E_FORMAT},
        {"params,tokens,loss\n1,2,\n", "line 2: column \"loss\": expected a number, found \"\"",
         FM_E_FORMAT},
        {"params,tokens,loss\n1,2,3x\n", "line 2: column \"loss\": expected a number, found \"3x\"",
         FM_E_FORMAT},
        {"params,tokens,loss\n\n0,2,3\n",
         "line 3: column \"params\": expected a positive number, found 0", FM_E_RANGE},
        {"N,D,loss\n1,-2,3\n", "line 2: column \"D\": expected a positive number, found -2",
         FM_E_RANGE},
        {"params,tokens,loss\n1,2,nan\n",
         "line 2: column \"loss\": expected a positive number, found nan", FM_E_RANGE},
        {"params,tokens,loss\n1,2,inf\n", "line 2: column \"loss\"", FM_E_RANGE},
        {"params,tokens,loss\n1,2\n", "line 2: expected 3 columns, found 2", FM_E_FORMAT},
        {"params,tokens,loss\n1,2,3,4\n", "line 2: expected 3 columns, found 4", FM_E_FORMAT},
        {"params,tokens,loss\n\"1,2,3\n", "line 2: a quote is not closed", FM_E_FORMAT},
        {"N,Na,D,loss\n1,2,3,4\n", "line 2: 1 parameters in all, but 2 active", FM_E_RANGE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_err err = {0};
        fm_scale_points_free(read_text(rows[i].text, NULL, 0, rows[i].st, &err));
        if (!strstr(err.text, rows[i].words) || !strstr(err.text, path))
            fail_msg("row %zu: no '%s' in '%s'", i, rows[i].words, err.text);
    }
    fm_err err = {0};
    const char *const none[] = {"loss=bpb"}, *const field[] = {"width=w"};
    fm_scale_points_free(read_text("n,d,loss\n1,2,3\n", none, 1, FM_E_FORMAT, &err));
    assert_non_null(strstr(err.text, "no column \"bpb\""));
    fm_scale_points_free(read_text("n,d,loss\n1,2,3\n", field, 1, FM_E_RANGE, &err));
    assert_non_null(strstr(err.text, "expected field=NAME"));
    fm_scale_points *p = NULL;
    assert_int_equal(fm_scale_points_new(&p, NULL), FM_OK);
    assert_int_equal(fm_scale_points_read(p, "no/such.csv", NULL, 0, &err), FM_E_IO);
    assert_non_null(strstr(err.text, "no/such.csv"));
    fm_scale_points_free(p);
}

static void single_points(void **state)
{
    (void)state;
    static const struct {
        fm_scale_point p;
        const char *words;
    } rows[] = {
        {{.params = 1e6, .tokens = 1e7}, "loss is missing"},
        {{.tokens = 1e7, .loss = 3}, "no size"},
        {{.params = 1e6, .loss = 3}, "neither tokens"},
        {{.params = 1e6, .tokens = 1e7, .loss = NAN}, "loss: expected a positive number"},
        {{.params = -1e6, .tokens = 1e7, .loss = 3}, "params: expected a positive number"},
        {{.params = 1e6, .tokens = 1e7, .loss = 3, .lr = INFINITY}, "lr: expected"},
    };
    fm_scale_points *p = NULL;
    assert_int_equal(fm_scale_points_new(&p, NULL), FM_OK);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        fm_err err = {0};
        assert_int_equal(fm_scale_points_add(p, &rows[i].p, "run a7", &err), FM_E_RANGE);
        assert_non_null(strstr(err.text, rows[i].words));
        assert_non_null(strstr(err.text, "run a7"));
    }
    assert_int_equal(fm_scale_points_count(p), 0);
    fm_scale_points_free(p);
}

/* Budgets by gaps, by name, and a cloud that has none. */
static void budgets(void **state)
{
    (void)state;
    static const double c[] = {1.00, 1.03, 0.98, 1.01, 3.0, 3.1, 3.05, 2.95, 9.0};
    int group[12];
    double ln_c[12];
    fm_scale_points *p = NULL;
    assert_int_equal(fm_scale_points_new(&p, NULL), FM_OK);
    for (int i = 0; i < 9; i++) {
        fm_scale_point q = {.params = 1e6, .flops = c[i] * 1e18, .loss = 3};
        assert_int_equal(fm_scale_points_add(p, &q, "x", NULL), FM_OK);
        ln_c[i] = log(q.flops);
    }
    assert_int_equal(fmi_scale_budgets(p, ln_c, 4, group, NULL), 2);
    for (int i = 0; i < 9; i++) assert_int_equal(group[i], i < 4 ? 0 : i < 8 ? 1 : -1);
    for (int i = 0; i < 9; i++) p->p[i].budget = i % 2 ? 2e18 : 1e18; /* named: C does not matter */
    assert_int_equal(fmi_scale_budgets(p, ln_c, 4, group, NULL), 2);
    for (int i = 0; i < 9; i++) assert_int_equal(group[i], i % 2);
    for (int i = 0; i < 9; i++) {
        p->p[i].budget = 0;
        ln_c[i] = 40 + 0.1 * i;
    }
    assert_int_equal(fmi_scale_budgets(p, ln_c, 4, group, NULL), 0);
    fm_scale_points_drop_highest(p, 2);
    assert_int_equal(fm_scale_points_count(p), 7);
    fm_scale_points_drop_above(p, 2e18);
    assert_int_equal(fm_scale_points_count(p), 2);
    fm_scale_points_free(p);
}

/* Arms of a comparison are not fitted together; one may be taken. */
static void arms(void **state)
{
    (void)state;
    static const char text[] =
        "id,arm,params,tokens,loss\n"
        "a,baseline,1e6,2e7,3.5\nb,muon,1e6,2e7,3.4\nc,baseline,2e6,2e7,3.3\n";
    static const struct {
        const char *text, *arm, *words;
    } bad[] = {
        {text, NULL, "line 3: arm \"muon\" beside \"baseline\""},
        {text, "mu", "no run of arm \"mu\""},
        {"params,tokens,loss\n1e6,2e7,3.5\n", "muon", "no column \"arm\""},
        {"arm,params,tokens,loss\n,1e6,2e7,3\nx,1e6,2e7,3\n", NULL, "arm \"x\" beside \"\""},
    };
    fm_err err = {0};
    fm_scale_points *p = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        fm_scale_points *q = NULL;
        write_text(bad[i].text);
        assert_int_equal(fm_scale_points_new(&q, NULL), FM_OK);
        fm_scale_points_arm(q, bad[i].arm);
        assert_int_equal(fm_scale_points_read(q, path, NULL, 0, &err), FM_E_FORMAT);
        if (!strstr(err.text, bad[i].words)) fail_msg("\"%s\": no \"%s\"", err.text, bad[i].words);
        assert_int_equal(fm_scale_points_count(q), 0);
        fm_scale_points_free(q);
    }
    fm_scale_points_free(read_text(text, NULL, 0, FM_E_FORMAT, &err));
    assert_int_equal(fm_scale_points_new(&p, NULL), FM_OK);
    fm_scale_points_arm(p, "baseline");
    assert_int_equal(fm_scale_points_read(p, path, NULL, 0, &err), FM_OK);
    assert_int_equal(fm_scale_points_count(p), 2);
    close_to(fm_scale_points_get(p, 1)->params, 2e6);
    assert_int_equal(fm_scale_points_get(p, 1)->line, 4);
    fm_scale_points_free(p);
    /* A study has one arm, of no name. */
    p = read_text("arm,params,tokens,loss\n,1e6,2e7,3\n,2e6,2e7,3\n", NULL, 0, FM_OK, &err);
    assert_int_equal(fm_scale_points_count(p), 2);
    fm_scale_points_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_and_forms), cmocka_unit_test(experts_sweeps_and_m),
        cmocka_unit_test(refusals),        cmocka_unit_test(single_points),
        cmocka_unit_test(budgets),         cmocka_unit_test(arms),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
