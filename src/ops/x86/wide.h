/* Products with some dozens to some hundreds of rows whose weight is used once or a few times: prefill
 * over experts.
 *
 * As in decode (thin.h) 16 rows of the weight are a tile as they lie, fetched into L1 a little ahead of
 * their use; the rows of A, packed by each thread as tiles of pairs, stay in L2 and pass by, four tiles at
 * a time. A finished pass is transposed and stored between the tile steps of the next. */
#ifndef FM_OPS_X86_WIDE_H
#define FM_OPS_X86_WIDE_H

#include "ops/ops.h"

enum { FMI_WIDE_TILE = 16, FMI_WIDE_PASS = 4 /* tiles of rows of A side by side */ };

/* 16 rows of the weight against all rows of A. */
typedef struct fmi_wide_block {
    const char *w;      /* the first of the 16 rows, k elements each              */
    const char *next;   /* the block after it, or NULL                            */
    int64_t stride;     /* bytes between rows                                     */
    int64_t steps;      /* k / 32                                                 */
    const char *x;      /* [steps][tiles][1024]                                   */
    int tiles, rows;    /* of A; rows live                                        */
    char *c;            /* where row 0 meets the first of the 16 columns          */
    int64_t ldc;        /* elements                                               */
    bool bf16, add;     /* of C                                                   */
    bool stream;        /* f32 C past the caches; rows and columns of whole lines */
} fmi_wide_block;

/* A pass whose sums still lie in the order of the tiles. */
typedef struct fmi_wide_pass {
    const float *acc;   /* [tiles][16 columns][16 rows], NULL: nothing waits      */
    int tiles, rows;
    char *c;
    int64_t ldc;
    bool bf16, add, stream;
} fmi_wide_pass;

typedef struct fmi_wide {
    float *acc[2];      /* [FMI_WIDE_PASS][16][16] each, 64-byte aligned          */
    int turn;
    fmi_wide_pass wait;
} fmi_wide;

#define FMI_WIDE_ACC_BYTES ((size_t)FMI_WIDE_PASS * 1024)

/* All inside the configuration of eight full tiles. */
void fmi_wide_block_amx(fmi_wide *w, const fmi_wide_block *b);
void fmi_wide_flush_amx(fmi_wide *w);
/* Rows row[0 .. live-1] (live <= 16, the rest zeros) as tile `tile` of x. */
void fmi_wide_pack_amx(char *x, int64_t steps, int tiles, int tile, const char *const *row, int live);

#endif
