/* Pages of the latent cache: which page of a pool holds which 64 rows of which sequence.
 *
 * A page id is a place in every pool it serves: one fmi_pages covers the main layers, another the
 * MTP block (its rows run one token behind). Sequences may share pages after a fork; a page is
 * copied the first time a sharer writes into it. All memory is carved when the owner is created. */
#ifndef FM_INFER_PAGES_H
#define FM_INFER_PAGES_H

#include "model/forward.h"

typedef struct fmi_pages {
    fm_exec *x;
    const fm_cache *cache;
    fm_dtype dt;
    int64_t width;          /* elements of a cached row, C + R                  */
    int layer0, n_layers;   /* the pools this covers                            */
    int n_seqs;
    int64_t n_pages, pages_max;
    int32_t *free_list;     /* [n_pages] stack of free page ids                 */
    int64_t n_free;
    int32_t *refs;          /* [n_pages] sequences holding the page             */
    int32_t *count;         /* [n_seqs] pages held                              */
    int32_t *table;         /* [n_seqs, pages_max] page ids, the host's copy    */
    int32_t *dev_table;     /* the same in device memory                        */
    bool dirty;             /* the host's copy is newer                         */
} fmi_pages;

/* Pages a sequence of `rows` rows takes. */
int64_t fmi_pages_for(int64_t rows);

/* Carves host arrays and the device table (either arena may be measuring). */
void fmi_pages_carve(fmi_pages *p, fmi_arena *host, fmi_arena *dev);
void fmi_pages_init(fmi_pages *p); /* every page free; after carving */

/* Makes rows begin..end-1 of sequence s writable: new pages at the end, shared ones copied.
 * FM_E_NOMEM: the pool is used up; what was held before stays held. */
fm_status fmi_pages_reserve(fmi_pages *p, int s, int64_t begin, int64_t end, fm_err *err);

/* Gives back what rows..end held. */
void fmi_pages_truncate(fmi_pages *p, int s, int64_t rows);

/* Sequence dst drops what it holds and shares the first `rows` rows of src. */
void fmi_pages_fork(fmi_pages *p, int dst, int src, int64_t rows);

/* Row of the pool that holds row i of sequence s. */
static inline int32_t fmi_pages_row(const fmi_pages *p, int s, int64_t i)
{
    return p->table[s * p->pages_max + i / FM_PAGE_ROWS] * FM_PAGE_ROWS
           + (int32_t)(i % FM_PAGE_ROWS);
}

/* Brings the device table up to date. */
fm_status fmi_pages_write(fmi_pages *p, fm_err *err);

#endif
