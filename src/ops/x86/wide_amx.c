/* See wide.h. Per step of 32 k and pass of four: five tile loads (one of the weight, from L1; four of
 * A, from L2) and four products. The bound is the weight's way from memory up to about 64 rows, then
 * the tiles. docs/kernels/gemm.md. */
#include "ops/x86/wide.h"

#include "ops/x86/amx_tiles.h"
#include "ops/x86/v16.h"

/* Steps that the weight's lines are asked for early where the next block's are not. More, and the 16 rows,
 * which often lie a multiple of 2 KiB apart and so share two sets of L1, push one another out. */
#define DISTANCE 2

void fmi_wide_pack_amx(char *x, int64_t steps, int tiles, int tile, const char *const *row, int live)
{
    _Alignas(64) char pad[1024];
    for (int i = live; i < FMI_WIDE_TILE; i++) memset(pad + 64 * i, 0, 64);
    x += 1024 * tile;
    for (int64_t s = 0; s < steps; s++, x += 1024 * tiles) {
        for (int i = 0; i < live; i++) _mm512_store_si512(pad + 64 * i, _mm512_loadu_si512(row[i] + 64 * s));
        pairs_tile(x, pad, 64);
    }
}

/* Tile t of a pass: turned so that a row of A is a row again, and written. */
static void put_tile(const fmi_wide_pass *p, int t)
{
    const float *acc = p->acc + 256 * t;
    v16i v[16];
    for (int i = 0; i < 16; i++) v[i] = v16i_load(acc + 16 * i);
    v16i_transpose(v);
    int64_t row = 16 * p->ldc * t;
    int live = p->rows - 16 * t;
    for (int i = 0; i < 16 && i < live; i++, row += p->ldc) {
        v16 x = v16_from_bits(v[i]);
        if (p->bf16) {
            fm_bf16 *c = (fm_bf16 *)(void *)p->c + row;
            v16_store_bf16(c, p->add ? v16_add(v16_load_bf16(c), x) : x);
        } else {
            float *c = (float *)(void *)p->c + row;
            if (p->add) x = v16_add(v16_load(c), x);
            if (p->stream) _mm512_stream_ps(c, x);
            else v16_store(c, x);
        }
    }
}

void fmi_wide_flush_amx(fmi_wide *w)
{
    for (int t = 0; w->wait.acc && t < w->wait.tiles; t++) put_tile(&w->wait, t);
    w->wait.acc = NULL;
}

/* Lines of the weight that step s asks for. Blocks that lie one behind the other without a gap: a sixteenth
 * of the next one into L2, in the order in which it lies, which the processor's own prefetch follows, and of
 * this one the next step into L1. Others: two steps ahead into L1. */
ALWAYS void ask(const fmi_wide_block *b, const char *at, int64_t s)
{
    if (b->stride == 64 * b->steps && b->next) {
        for (int i = 0; i < 16; i++) _mm_prefetch(b->next + 1024 * s + 64 * i, _MM_HINT_T1);
        if (s + 1 < b->steps)
            for (int i = 0; i < 16; i++) _mm_prefetch(at + 64 + i * b->stride, _MM_HINT_T0);
        return;
    }
    const char *soon = s + DISTANCE < b->steps ? at + 64 * DISTANCE
                       : b->next               ? b->next + 64 * (s + DISTANCE - b->steps)
                                               : at;
    for (int i = 0; i < 16; i++) _mm_prefetch(soon + i * b->stride, _MM_HINT_T0);
}

/* Tiles t .. t+n-1 of A. A tile of the pass before is written every quarter of the way. */
ALWAYS void pass(fmi_wide *w, const fmi_wide_block *b, int t, const int n)
{
    const char *at = b->w, *x = b->x + 1024 * t;
    int64_t quarter = (b->steps + 3) / 4;
    int done = 0;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t s = 0; s < b->steps; s++, at += 64, x += 1024 * b->tiles) {
        if (t == 0) ask(b, at, s);
        _tile_loadd(4, at, b->stride);
        gap();
        _tile_loadd(5, x, 64);
        gap();
        _tile_dpbf16ps(0, 4, 5);
        gap();
        if (n > 1) {
            _tile_loadd(6, x + 1024, 64);
            gap();
            _tile_dpbf16ps(1, 4, 6);
            gap();
        }
        if (n > 2) {
            _tile_loadd(7, x + 2048, 64);
            gap();
            _tile_dpbf16ps(2, 4, 7);
            gap();
        }
        if (n > 3) {
            _tile_loadd(5, x + 3072, 64);
            gap();
            _tile_dpbf16ps(3, 4, 5);
            gap();
        }
        if (w->wait.acc && s >= done * quarter && done < w->wait.tiles) put_tile(&w->wait, done++);
    }
    for (; w->wait.acc && done < w->wait.tiles; done++) put_tile(&w->wait, done);
    float *acc = w->acc[w->turn];
    _tile_stored(0, acc, 64);
    if (n > 1) _tile_stored(1, acc + 256, 64);
    if (n > 2) _tile_stored(2, acc + 512, 64);
    if (n > 3) _tile_stored(3, acc + 768, 64);
    char *c = b->c + 16 * t * b->ldc * (b->bf16 ? 2 : 4);
    w->wait = (fmi_wide_pass){acc, n, b->rows - 16 * t, c, b->ldc, b->bf16, b->add, b->stream};
    w->turn ^= 1;
}

void fmi_wide_block_amx(fmi_wide *w, const fmi_wide_block *b)
{
    int passes = (b->tiles + FMI_WIDE_PASS - 1) / FMI_WIDE_PASS;
    for (int i = 0, t = 0; i < passes; i++) {
        int n = (b->tiles - t + passes - i - 1) / (passes - i);
        if (n == 4) pass(w, b, t, 4);
        else if (n == 3) pass(w, b, t, 3);
        else if (n == 2) pass(w, b, t, 2);
        else pass(w, b, t, 1);
        t += n;
    }
}
