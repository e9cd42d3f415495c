/* Head and cross-entropy in one: the fused version against the composite of reference operators, bit for
 * bit; blocks and chunks that do not divide the rows, rows without a target, shapes that fall back. */
#include "kernel_harness.h"

typedef struct shape {
    int64_t T, D, W, block, chunk;
} shape;

/* Widths off the tile sizes; a vocabulary shorter and longer than a chunk of 1,024 columns and off
 * the strips; more rows than a chunk of 1,024, chunks shorter than that, rows past the last tile;
 * wide rows. */
static const shape shapes[] = {{3, 32, 64, 8, 8},         {70, 40, 96, 32, 96},     {64, 32, 32, 64, 64},
                               {97, 64, 320, 64, 128},    {128, 96, 1056, 64, 128}, {200, 64, 1312, 96, 96},
                               {1100, 32, 288, 64, 2048}, {2050, 64, 96, 32, 1024}, {75, 64, 96, 16, 75},
                               {160, 1024, 544, 512, 160}};

static void *aligned(kh *h, int64_t bytes)
{
    char *p = kh_scratch(h, bytes + 64, 1);
    return p + (64 - ((uintptr_t)p & 63)) % 64;
}

static void check(kh *h, const shape *s, fm_dtype dt, bool grad, float range)
{
    int64_t el = (int64_t)fm_dtype_bytes(dt);
    fm_linear_xent_args a = {.T = s->T, .D = s->D, .W = s->W, .block = s->block, .chunk = s->chunk,
                             .grad_scale = 1.0 / 37, .dt = dt};
    int32_t *target = kh_ints(h, s->T, (int)s->W + 1);
    for (int64_t t = 0; t < s->T; t++) target[t] = target[t] == s->W || t % 11 == 3 ? -1 : target[t];
    a.target = target;
    a.x = kh_in(h, s->T * s->D, dt, range);
    a.w = kh_in(h, s->W * s->D, dt, 1);
    a.loss = kh_out(h, s->T, 4);
    a.logits = aligned(h, s->block * s->W * 4);
    if (grad) {
        a.dx = kh_out(h, s->T * s->D, 4);
        a.dw = kh_values(h, s->W * s->D, FM_DTYPE_F32, 1, true);
        a.dlogits = aligned(h, s->chunk * s->W * el);
    }
    KH_CHECK(h, linear_xent, &a);
}

static void test_linear_xent(void **state)
{
    kh *h = *state;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (int dt = FM_DTYPE_F32; dt <= FM_DTYPE_BF16; dt++)
            for (int v = 0; v < 3; v++) {
                const shape *s = &shapes[i];
                if (kh_quick() && s->T * s->D * s->W > 1 << 24) continue;
                if (dt == FM_DTYPE_F32 && v != 1) continue;
                h->what = v == 0 ? "losses" : v == 1 ? "gradients" : "large logits";
                h->shift = i % 2;
                check(h, s, (fm_dtype)dt, v > 0, v == 2 ? 16.0f : 0.25f);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_linear_xent)};
    return cmocka_run_group_tests(tests, kh_setup, kh_teardown);
}
