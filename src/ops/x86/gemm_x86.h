/* Fast matrix products: what the driver (gemm_drive.c) and the kernels of each level share.
 *
 * A product is cut into blocks of outputs. Of its two operands one plays R, whose rows are the rows
 * of a block, the other P, which is packed into panels of `panel` rows. Normally R is A and P is
 * B; swapped, R is B (a weight read in place, few activations packed) and the block is transposed
 * when it is stored. Products commute, so both give the same bits; so does every blocking, because
 * each output's chain of docs/numerics.md is walked in order and an accumulator that is stored and
 * loaded again has not changed. */
#ifndef FM_OPS_X86_GEMM_X86_H
#define FM_OPS_X86_GEMM_X86_H

#include <xmmintrin.h>

#include "ops/ops.h"

/* Asks for the line `bytes` past p, which may lie past the array, into L1. */
static inline void fmi_ask(const void *p, int64_t bytes)
{
    _mm_prefetch((const char *)((uintptr_t)p + (uintptr_t)bytes), _MM_HINT_T0);
}

/* Memory that later products read: `runs` runs of `bytes`, `stride` apart, asked for line by line
 * beside the products of now. Addresses may lie past an array. */
typedef struct fmi_gemm_later {
    uintptr_t run, at;     /* this run; its next line */
    int64_t bytes, stride, runs;
    const struct fmi_gemm_later *then; /* what comes after it, or NULL */
} fmi_gemm_later;

static inline fmi_gemm_later fmi_later(uintptr_t at, int64_t bytes, int64_t stride, int64_t runs)
{
    return (fmi_gemm_later){ at, at & ~(uintptr_t)63, bytes, stride, bytes > 0 && runs > 0 ? runs : 0, NULL };
}

/* Asks for the next n lines, into L2. */
static inline void fmi_ask_later(fmi_gemm_later *l, int n)
{
    for (; n > 0; n--) {
        if (l->runs == 0 && l->then) *l = *l->then;
        if (l->runs == 0) return;
        _mm_prefetch((const char *)l->at, _MM_HINT_T1);
        l->at += 64;
        if (l->at < l->run + (uintptr_t)l->bytes) continue;
        l->run += (uintptr_t)l->stride;
        l->at = l->run & ~(uintptr_t)63;
        l->runs--;
    }
}

/* Lines of it and of what comes after, roughly. */
static inline int64_t fmi_later_lines(const fmi_gemm_later *l)
{
    int64_t n = 0;
    for (; l; l = l->then) n += l->runs * (l->bytes / 64 + 1);
    return n;
}

enum {
    FMI_GEMM_BLOCK_MAX = 96,   /* rows of R in a block, at most       */
    FMI_GEMM_PANEL_MAX = 32,   /* rows of P in a panel, at most       */
    FMI_GEMM_CHUNK = 1024      /* rows of a TN chunk (docs/numerics.md) */
};

/* One operand as [row][k] whichever way it lies: element (i, t) is at i*ld + t, or t*ld + i when
 * across. Elements are bf16 or f32. */
typedef struct fmi_gemm_view {
    const void *p;
    int64_t ld;
    bool across;
    bool bf16;
    int64_t rows;          /* live rows, for looking ahead */
} fmi_gemm_view;

/* A block of R made ready for mul: where its tiles or rows lie. */
typedef struct fmi_gemm_rows {
    const char *p;         /* first row, first k                                       */
    int64_t row_bytes;     /* between rows                                             */
    int64_t half_bytes;    /* from row 0 to row 16 (AMX)                               */
    int64_t step_bytes;    /* between steps of 32 (AMX)                                */
    const char *tail;      /* zero-padded last step, rows of 64 bytes, or NULL (AMX)   */
    int64_t k;             /* elements of k                                            */
    int rows;              /* live rows; the kernel may compute more                   */
    float *out;            /* what results are added to, instead of acc, or NULL (vectors) */
    int64_t out_ld;        /* its row length                                           */
    /* What to fetch while multiplying (hints; the kernel may ignore them). */
    const char *ahead;     /* source of the next block, or NULL: per step `ahead_rows` */
    int64_t ahead_bytes;   /* lines this far apart, ahead_step further each step       */
    int64_t ahead_step;
    int ahead_rows;
    const char *touch;     /* the next 32 rows of C to be written, or NULL             */
    int64_t touch_bytes;   /* between them                                             */
    fmi_gemm_later *later; /* or NULL: later_lines of it in a mul (vectors)            */
    int later_lines;
} fmi_gemm_rows;

/* Where a finished block goes. */
typedef struct fmi_gemm_dst {
    char *c;
    int64_t ldc;           /* elements                              */
    bool bf16;             /* C is bf16, else f32                   */
    bool add;              /* C = C + acc                           */
    bool transposed;       /* block (r, p) is C[p][r], else C[r][p] */
} fmi_gemm_dst;

/* Kernels of one instruction set for one dtype. Only mul, prepare and pack run inside the tile
 * configuration; all are leaf functions of one thread. */
typedef struct fmi_gemm_kern {
    int block;             /* rows of R a mul computes, at most                */
    int block_unit;        /* rows it computes together                        */
    int panel;             /* rows of P in a panel                             */
    int packed_bytes;      /* of one packed element of P                       */
    int k_round;           /* packed k is rounded up to this                   */
    int64_t k_block;       /* most k of one mul, multiple of 32                */
    size_t rows_bytes;     /* scratch of prepare                               */
    bool tiles;            /* needs the tile configuration                     */
    /* Rough cycles an element, for choosing roles; units that live rows are rounded up to. */
    double mac, pack_cost, pack_cost_across, rows_cost, rows_cost_across;
    int unit_r, unit_p;
    /* Packs rows row .. row+rows-1 and k0 .. k0+k-1 of v as one panel, zero-padded. */
    void (*pack)(void *dst, const fmi_gemm_view *v, int64_t row, int rows, int64_t k0, int64_t k);
    void (*prepare)(fmi_gemm_rows *out, char *scratch, const fmi_gemm_view *v, int64_t row,
                    int rows, int64_t k0, int64_t k);
    /* acc[block][ldacc] = (load ? acc : 0) then the chains over r and one panel; cols live. */
    void (*mul)(const fmi_gemm_rows *r, const void *panel, int cols, float *acc, int64_t ldacc,
                bool load);
    void (*store)(const float *acc, int64_t ldacc, int rows, int cols, const fmi_gemm_dst *d);
} fmi_gemm_kern;

/* The driver: every kind, batch and group, with the kernels for a->dt. */
fm_status fmi_gemm_drive(const fm_kernel_ctx *k, const fm_gemm_args *a, const fmi_gemm_kern *kern);

extern const fmi_gemm_kern fmi_gemm_bf16_avx2, fmi_gemm_f32_avx2;
extern const fmi_gemm_kern fmi_gemm_bf16_avx512, fmi_gemm_f32_avx512;
extern const fmi_gemm_kern fmi_gemm_bf16_amx;

/* Units of cost b that begin below a, for shares of a list of problems. */
static inline int64_t fmi_ceil_div(int64_t a, int64_t b)
{
    return a <= 0 ? 0 : (a + b - 1) / b;
}

/* Tile configuration of eight full tiles for the calling thread; release gives the state back. */
void fmi_tiles_configure_amx(void);
void fmi_tiles_release_amx(void);
void fmi_gemm_store_avx2(const float *acc, int64_t ldacc, int rows, int cols,
                         const fmi_gemm_dst *d);
void fmi_gemm_store_avx512(const float *acc, int64_t ldacc, int rows, int cols,
                           const fmi_gemm_dst *d);

/* Entries of the operator table. dtypes other than bf16 and f32 go to the reference. */
fm_status fmi_gemm_x86_avx2(const fm_kernel_ctx *k, const fm_gemm_args *a);
fm_status fmi_gemm_x86_avx512(const fm_kernel_ctx *k, const fm_gemm_args *a);
fm_status fmi_gemm_x86_amx(const fm_kernel_ctx *k, const fm_gemm_args *a);

#endif
