/* The one forward pass and its backward. Training, sampling and serving call these.
 *
 * fm_acts is what a forward pass writes: inference reuses one layer's set, training keeps one per layer
 * (or recomputes it). Everything here issues operators on the model's context and returns nothing; failures
 * come out of the next fm_read. */
#ifndef FM_MODEL_FORWARD_H
#define FM_MODEL_FORWARD_H

#include "model/model.h"

#define FM_PAGE_ROWS 64

/* Latent KV pages: one pool of n_pages pages of FM_PAGE_ROWS rows of (C + R) A for each layer, the
 * MTP block's last (lay.n_layers pools). Row r of the pool is row r % 64 of page r / 64. */
typedef struct fm_cache {
    int64_t n_pages;
    void **pages;            /* host array [n_layers] of device pools */
} fm_cache;

/* One batch of rows. All arrays are device memory, [T] i32, written by the caller with fm_write.
 * Without a cache (training, `logits` at once): the keys are the batch's own rows; k_begin/k_end index them.
 * With a cache: every row first writes its latent to pool row write_row[t]. Then
 *   absorbed: row t reads the first row_len[t] rows of sequence row_seq[t] through page_table;
 *   expanded: the pool rows gather[0..S-1] (all sequences of the batch, one after the other) are expanded,
 *             and k_begin/k_end index those S rows.
 * The MTP block keeps its rows at the index of the token it reads (row t comes from hidden t-1 and token t,
 * rotary position t-1), so its batch differs from the main one by the caller's choice of arrays. */
typedef struct fm_batch {
    int64_t T;
    const int32_t *ids;
    const int32_t *pos;
    const int32_t *k_begin, *k_end;
    const int32_t *seg;          /* [n_seg + 1] document starts, for the backward pass */
    int n_seg;
    int64_t row_length;          /* packed row length L (T is a multiple), for the sequence balance loss */
    const fm_cache *cache;       /* NULL: none */
    const int32_t *write_row;
    const int32_t *page_table;
    int pages_max;
    const int32_t *row_seq, *row_len;
    const int32_t *gather;
    int64_t S;
} fm_batch;

/* Buffers of one layer; shapes in acts.c. */
typedef struct fm_layer_acts {
    void *x0;      /* [T, D] F   residual stream entering the layer */
    void *xn;      /* [T, D] A */
    void *rstd0;   /* [T] F */
    void *q_a;     /* [T, q_lora + C+R] F: the query's part, then the cache's (kv_a) */
    void *q_an;    /* [T, q_lora] A */
    void *q_rstd;  /* [T] F */
    void *q;       /* [T, H, N+R] A, rotated */
    void *kv_a;    /* columns q_lora .. of q_a */
    void *lat;     /* [T, C+R] A: normed c, rotated k_pe: a cache row */
    void *kv_rstd; /* [T] F */
    void *kv;      /* [S or T, H, N+V] A (expanded) */
    void *o;       /* [T, H, V] A */
    void *lse;     /* [T, H] F (training) */
    void *x1;      /* [T, D] F   after attention */
    void *xn1;     /* [T, D] A   what router, experts and dense FFN read */
    void *rstd1;   /* [T] F */
    void *gate, *up;        /* [T, I] A dense FFN, or shared experts [T, Ns*M] */
    void *score;   /* [T, E] F */
    int32_t *expert;        /* [T, K] */
    void *weight;  /* [T, K] F */
    int32_t *offsets;       /* [E+1] */
    int32_t *row_slot, *row_token, *slot_row; /* [T*K] */
    void *eg, *eu;          /* [T*K, M] A */
    void *balance_f;        /* [T / L, E] F */
} fm_layer_acts;

typedef struct fm_acts_opts {
    int64_t rows_max;        /* T */
    int64_t keys_max;        /* S of expanded attention over a cache; 0: none */
    bool keep;               /* one set per layer: training, or reading hidden states */
    bool backward;           /* buffers of the backward pass too */
    bool recompute;          /* keep only x0 per layer and recompute the rest in backward */
    bool mtp;                /* buffers of the MTP block */
    int64_t logit_rows;      /* rows of logits at a time (inference: all rows asked for; training: chunk) */
    int64_t row_length_min;  /* smallest packed row length (balance_f) ; 0: rows_max */
} fm_acts_opts;

typedef struct fm_acts {
    fm_model *m;
    fm_acts_opts o;
    int64_t T;                   /* rows of the batch last run */
    fm_layer_acts *layer;        /* [n_layers]; without keep all entries share one set */
    void *xout;                  /* [T, D] F residual after the last main layer */
    void *h;                     /* [T, D] A final norm's output */
    void *hf;                    /* [T, D] F the same, unrounded: what the MTP block reads */
    void *h_rstd;                /* [T] F */
    void *mtp_emb;               /* [T, D] F */
    void *mtp_erstd, *mtp_hrstd; /* [T] F */
    void *mtp_cat;               /* [T, 2D] A: normed embedding, normed hidden */
    void *mtp_xout;              /* [T, D] F after the MTP block */
    void *mtp_h;                 /* [T, D] A after shared_head.norm */
    void *mtp_hf;                /* [T, D] F, unrounded: the hidden a further draft step reads */
    void *mtp_rstd;              /* [T] F */
    int64_t logit_block;         /* rows below: logit_rows, for training fewer */
    void *logits;                /* [logit_block, W] F */
    struct fm_temp *tmp;         /* transients, acts.c */
    void *arena;                 /* device block everything above is carved from */
    size_t bytes;
} fm_acts;

/* Plans (m->x may be anything), then allocates. fmi_acts_bytes is the same plan without allocating. */
fm_status fmi_acts_new(fm_model *m, const fm_acts_opts *o, fm_acts **out, fm_err *err);
size_t fmi_acts_bytes(const fm_config *c, fm_dtype dt, const fm_acts_opts *o);
void fmi_acts_free(fm_acts *a);

/* load: NULL, or device [n_layers, E] i32, rows of the routed layers' expert counts, added to. */
/* Embedding, main layers, final norm: writes a->h and a->hf. b->T <= rows_max. */
void fmi_forward(fm_model *m, fm_acts *a, const fm_batch *b, int32_t *load);
/* The MTP block: row t reads hidden[t] (F; a->hf for the main one's) and token b->ids[t]; writes
 * a->mtp_h, a->mtp_hf. */
void fmi_forward_mtp(fm_model *m, fm_acts *a, const fm_batch *b, const void *hidden, int32_t *load);
/* logits[i,:] = head . h[rows[i],:], n rows into `logits` [n, W] F; rows (device) NULL: the first n
 * rows. Uses the same sums whatever n is. h is a->h or a->mtp_h. n <= rows_max. */
void fmi_logits(fm_model *m, fm_acts *a, const void *h, const int32_t *rows, int64_t n, void *logits);

/* Gradients: F buffers with the layout's indices; grouped outputs through tables. */
typedef struct fm_grads {
    fm_model *m;
    void *flat;                  /* all gradients, one device block of n F elements */
    int64_t n;
    int64_t *offset;             /* host [n_params]: first element; -1: no gradient (router bias) */
    void **g;                    /* host [n_params]: device address or NULL */
    void ***tables;              /* host [n_layers][3]: device tables of expert gradients (gate, up, down) */
} fm_grads;
fm_status fmi_grads_new(fm_model *m, fm_grads **out, fm_err *err);
void fmi_grads_free(fm_grads *g);
void fmi_grads_zero(fm_grads *g);

/* Cross-entropy of rows of h against target [T] (device i32, -1: none) in chunks of logit_rows
 * rows: loss_rows [T] F gets each row's loss; when g is given, dh [T, D] F gets the gradient times
 * grad_scale and the head's gradient is added to. */
void fmi_head_loss(fm_model *m, fm_acts *a, fm_grads *g, const void *h, const int32_t *target, int64_t T,
                   double grad_scale, void *loss_rows, void *dh);

typedef struct fm_backward_opts {
    double balance_scale;        /* alpha / packed rows in the optimizer step; 0: no sequence balance loss */
    void *balance_loss;          /* device [n_layers] F, each layer's loss added to, or NULL */
} fm_backward_opts;

/* Backward of the MTP block: dmtp [T, D] F is the gradient of a->mtp_h. Adds the gradient of a->hf
 * into dhf [T, D] F (written, not added to) and the embedding's into g. Call before fmi_backward.
 */
void fmi_backward_mtp(fm_model *m, fm_acts *a, fm_grads *g, const fm_batch *b, const void *hidden,
                      const void *dmtp, void *dhf, const fm_backward_opts *o);
/* Backward of everything else: dh [T, D] F of a->h; dhf [T, D] F of a->hf or NULL. Adds into g. */
void fmi_backward(fm_model *m, fm_acts *a, fm_grads *g, const fm_batch *b, const void *dh, const void *dhf,
                  const fm_backward_opts *o);

#endif
