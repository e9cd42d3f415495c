/* Matrix products with few rows (decode, drafts under verification): the time is that of reading
 * the weight.
 *
 * The lanes of a block are outputs: 16 rows of the weight (NT), or 64 of its columns (NN), which
 * lie where the checkpoint has them. The rows of A are widened and wait in L1. Every output's chain
 * is walked as docs/numerics.md says, so the bits are those of gemm_*.c. Threads own contiguous
 * ranges of blocks over all groups, so a chosen expert is read once, whoever chose it. */
#ifndef FM_OPS_X86_THIN_H
#define FM_OPS_X86_THIN_H

#include "ops/ops.h"

enum { FMI_THIN_ROWS = 16, FMI_THIN_LANES_NT = 16, FMI_THIN_LANES_NN = 64 };

/* Bytes of a row that the tiles' kernel fetches early, straight into L1: 16 rows make 10 KiB
 * (docs/kernels/decode.md). */
#define FMI_THIN_AHEAD 640

/* One block: lanes live (16 or fewer; NN 64 or fewer) of a weight, all of k. */
typedef struct fmi_thin_block {
    const char *w;  /* NT: the first of its rows; NN: its first column of row 0 */
    int64_t stride; /* bytes from row to row of the weight */
    int lanes;
    int64_t k, kp;         /* kp: rounded up to 32 */
    int m;                 /* rows of A */
    const float *x;        /* [m][kp] rows of A, zero-padded */
    const uint32_t *pairs; /* [kp / 2][m] the same as bf16 pairs, or NULL */
    const float *lines;    /* the same as `spread` leaves it, or NULL */
    float *sums;           /* with lines: [m][16][k / 32] to work in */
    float *acc;            /* out: [m][16] (NT) or [m][64] (NN) */
    const char *ahead;     /* the next block of as many rows, or NULL */
    int64_t left;          /* bytes from w on that the thread goes on to read */
    const char *after;     /* what it reads after those, or NULL */
} fmi_thin_block;

typedef struct fmi_thin_kern {
    void (*nt)(const fmi_thin_block *b);
    void (*nn)(const fmi_thin_block *b);
    /* NT for a weight without gaps between its rows, k a multiple of 32, or NULL. spread puts row r
     * of the m rows of A into x[lcm(k / 32, 16) * 32 * m] in the order that it reads. Up to
     * lines_rows rows it is the faster one. */
    void (*nt_lines)(const fmi_thin_block *b);
    int lines_rows;
    void (*spread)(float *x, int m, int r, const void *row, int64_t k);
    void (*widen)(float *x, int64_t kp, const void *row, int64_t k); /* one row of A */
    /* C[0..n-1] = (add ? C : 0) + acc, rounded when bf16. */
    void (*store)(void *c, const float *acc, int n, bool bf16, bool add);
    void (*enter)(int m); /* before and after a thread's blocks, or NULL */
    void (*leave)(void);
    bool pairs; /* wants `pairs` */
} fmi_thin_kern;

/* false: not such a product (or no k); the caller goes on. */
bool fmi_gemm_thin(const fm_kernel_ctx *ctx, const fm_gemm_args *a, fm_isa isa);

/* The gated FFN of few rows: gate, up and activation in one pass, then down. false: not such. */
bool fmi_gated_thin(const fm_kernel_ctx *ctx, const fm_gated_args *g, fm_isa isa);
/* Operators: that, or the composite. */
fm_status fmi_gated_avx2(const fm_kernel_ctx *ctx, const fm_gated_args *g);
fm_status fmi_gated_avx512(const fm_kernel_ctx *ctx, const fm_gated_args *g);

extern const fmi_thin_kern fmi_thin_bf16_avx2, fmi_thin_f32_avx2;
extern const fmi_thin_kern fmi_thin_bf16_avx512, fmi_thin_f32_avx512;
void fmi_thin_lines_avx2(const fmi_thin_block *b);
void fmi_thin_turn_avx512(const fmi_thin_block *b);
void fmi_thin_spread_avx2(float *x, int m, int r, const void *row, int64_t k);
void fmi_thin_amx(fmi_thin_kern *k); /* bf16: the AVX-512 ones, NT on tiles */

#endif
