/* Counting: parameters, operations, bytes. Exact, by walking the layout; nothing is estimated but
 * what is said to be. Anchors: 15.706B (V2-Lite), 235.741B (V2), 671.026B (V3). */
#ifndef FM_MODEL_COUNT_H
#define FM_MODEL_COUNT_H

#include "model/forward.h"

/* Parameters. The MTP module is apart: its embedding and head are the main ones. "Active": what one
 * token uses, K of the E experts. */
typedef struct fmi_param_counts {
    int64_t total;             /* main model                                                 */
    int64_t active;            /* with input embedding and head                              */
    int64_t active_no_embed;   /* without the input embedding                                */
    int64_t mtp_total;         /* the module's own                                           */
    int64_t mtp_active;        /* own active, plus the shared embedding and head             */
    int64_t attention_layer;   /* attention of one layer, latent norms included              */
    int64_t expert;            /* one routed expert; 0 without                               */
    int64_t trained;           /* main + MTP without the router bias: what has a gradient    */
    int64_t largest;           /* elements of the largest tensor                             */
} fmi_param_counts;
void fmi_count_params(const fm_config *c, const fm_layout *l, fmi_param_counts *out);

/* Floating-point operations of one token (a multiply-add is 2), the mean over a causal row of L
 * tokens. Only products count: norms, activations, softmax and rotary do not. */
typedef struct fmi_flops {
    double matrices;    /* every weight matrix of attention and FFN, chosen experts only     */
    double router;
    double attention;   /* scores and values over (L + 1) / 2 keys, expanded form            */
    double head;
    double mtp;         /* the module: block, eh_proj and the head once more; 0 without      */
    double forward;     /* matrices + router + attention + head                              */
    double training;    /* 3 x (forward + mtp): each product has two backward products       */
    double decode;      /* one token at depth L, absorbed form: all L keys, MTP not counted  */
} fmi_flops;
void fmi_count_flops(const fm_config *c, const fm_layout *l, int64_t L, fmi_flops *out);

/* Latent cache of one token; `mtp` adds the module's layer. */
int64_t fmi_count_kv_bytes(const fm_config *c, fm_dtype dt, bool mtp);

/* Muon's scratch: elements of matrices of one shape, as many at a time as FMI_MUON_ELEMENTS hold (at
 * least one), of their Gram matrices, and the most matrices at a time. train/muon.c carves by it. SOAP
 * takes as many of a group's matrices at a time. */
#define FMI_MUON_ELEMENTS ((int64_t)1 << 19)
static inline int64_t fmi_muon_fit(int64_t elements)
{
    return elements < FMI_MUON_ELEMENTS ? FMI_MUON_ELEMENTS / elements : 1;
}
typedef struct fmi_muon_sizes {
    int64_t x, gram;
    int64_t batch;
} fmi_muon_sizes;
void fmi_count_muon(const fm_layout *l, fmi_muon_sizes *out);
int64_t fmi_count_muon_bytes(const fm_layout *l, fm_dtype dt);

/* SOAP's elements: of the matrices at a time, of their square factors, of one side each; state: factor
 * and basis of every side up to `limit`. train/soap.c carves by it. */
typedef struct fmi_soap_sizes {
    int64_t x, gram, order, state;
} fmi_soap_sizes;
void fmi_count_soap(const fm_layout *l, int64_t limit, fmi_soap_sizes *out);
int64_t fmi_count_soap_bytes(const fm_layout *l, int64_t limit, fm_dtype dt);

/* Training, as train/stepper.c carves it: rows of a chunk of logits; i32 elements of a packed
 * micro-batch; bytes of a step of n_micro micro-batches (packed on both sides, losses of rows,
 * gradients of the norms' outputs). */
#define FMI_FEED_ARRAYS 8
int64_t fmi_count_logit_rows(const fm_config *c, int64_t rows);
int64_t fmi_count_micro_ids(int64_t rows);
int64_t fmi_count_batch_bytes(const fm_config *c, fm_dtype dt, int64_t rows, int64_t n_micro);

/* What a process takes beside the blocks planned here: code, tokenizer, threads (0: one a
 * processor), staging of a save. Measured on x86-64 Linux, not derived. */
int64_t fmi_count_process_bytes(bool training, int threads, int64_t vocab);

/* Memory by purpose, in bytes. workspace: tables, optimizer scratch, one packed micro-batch, the
 * process. */
typedef struct fmi_memory_request {
    fm_dtype dt;
    bool training;         /* masters, gradients, moments, backward buffers                  */
    bool muon;             /* its scratch                                                    */
    int arrays;            /* full ones beside AdamW's two: AdEMAMix, Grokfast, EMA          */
    int64_t soap;          /* SOAP's longest side with a basis; 0: not SOAP                  */
    bool recompute;
    bool borrowed;         /* weights stay in the file mapping (not counted as `weights`)    */
    int64_t rows;          /* tokens of a micro-batch, or of a prefill chunk                 */
    int64_t row_length;    /* packed row length                                              */
    int64_t logit_rows;    /* 0: rows, at most 64; training: 16M elements                    */
    int64_t cache_tokens;  /* tokens of latent cache                                         */
    int threads;           /* 0: one a processor                                             */
} fmi_memory_request;

typedef struct fmi_memory {
    int64_t weights, masters, gradients, moments, activations, cache, workspace;
    int64_t total;
} fmi_memory;
void fmi_count_memory(const fm_config *c, const fm_layout *l, const fmi_memory_request *r,
                      fmi_memory *out);

#endif
