/* Pages of the latent cache: a stack of free ids, a count of holders per page, one table row per
 * sequence. Copying a shared page is a row copy on the device in every pool covered. */
#include "infer/pages.h"

int64_t fmi_pages_for(int64_t rows)
{
    return (rows + FM_PAGE_ROWS - 1) / FM_PAGE_ROWS;
}

void fmi_pages_carve(fmi_pages *p, fmi_arena *host, fmi_arena *dev)
{
    size_t n_table = (size_t)p->n_seqs * (size_t)p->pages_max;
    p->free_list = fmi_arena_take(host, (size_t)p->n_pages * sizeof *p->free_list);
    p->refs = fmi_arena_take(host, (size_t)p->n_pages * sizeof *p->refs);
    p->count = fmi_arena_take(host, (size_t)p->n_seqs * sizeof *p->count);
    p->table = fmi_arena_take(host, n_table * sizeof *p->table);
    p->dev_table = fmi_arena_take(dev, n_table * sizeof *p->dev_table);
}

void fmi_pages_init(fmi_pages *p)
{
    for (int64_t i = 0; i < p->n_pages; i++) {
        p->free_list[i] = (int32_t)(p->n_pages - 1 - i);
        p->refs[i] = 0;
    }
    p->n_free = p->n_pages;
    for (int s = 0; s < p->n_seqs; s++) p->count[s] = 0;
    for (int64_t i = 0; i < p->n_seqs * p->pages_max; i++) p->table[i] = 0;
    p->dirty = true;
}

static void release(fmi_pages *p, int32_t page)
{
    FM_ASSERT(p->refs[page] > 0);
    if (--p->refs[page] == 0) p->free_list[p->n_free++] = page;
}

static fm_status take(fmi_pages *p, int32_t *page, fm_err *err)
{
    if (p->n_free == 0)
        return FM_FAIL(err, FM_E_NOMEM, "latent cache: all %lld pages are in use",
                       (long long)p->n_pages);
    *page = p->free_list[--p->n_free];
    p->refs[*page] = 1;
    return FM_OK;
}

static void copy_page(fmi_pages *p, int32_t from, int32_t to)
{
    size_t bytes = (size_t)(FM_PAGE_ROWS * p->width) * fm_dtype_bytes(p->dt);
    for (int l = p->layer0; l < p->layer0 + p->n_layers; l++) {
        char *pool = p->cache->pages[l];
        fm_op_gather_rows(p->x, &(fm_gather_rows_args){
                                    .x = pool + (size_t)from * bytes,
                                    .y = pool + (size_t)to * bytes, .n = FM_PAGE_ROWS,
                                    .D = p->width, .ldx = p->width, .ldy = p->width,
                                    .dt_x = p->dt, .dt_y = p->dt});
    }
}

fm_status fmi_pages_reserve(fmi_pages *p, int s, int64_t begin, int64_t end, fm_err *err)
{
    int64_t need = fmi_pages_for(end);
    int32_t *row = p->table + s * p->pages_max;
    FM_ASSERT(need <= p->pages_max && begin <= end);
    while (p->count[s] < need) {
        int32_t page = 0;
        fm_status st = take(p, &page, err);
        if (st) return st;
        row[p->count[s]++] = page;
        p->dirty = true;
    }
    if (begin == end) return FM_OK;
    for (int64_t i = begin / FM_PAGE_ROWS; i < need; i++) {
        if (p->refs[row[i]] == 1) continue;
        int32_t page = 0;
        fm_status st = take(p, &page, err);
        if (st) return st;
        copy_page(p, row[i], page);
        release(p, row[i]);
        row[i] = page;
        p->dirty = true;
    }
    return FM_OK;
}

void fmi_pages_truncate(fmi_pages *p, int s, int64_t rows)
{
    int64_t keep = fmi_pages_for(rows);
    int32_t *row = p->table + s * p->pages_max;
    while (p->count[s] > keep) release(p, row[--p->count[s]]);
}

void fmi_pages_fork(fmi_pages *p, int dst, int src, int64_t rows)
{
    if (dst == src) {
        fmi_pages_truncate(p, src, rows);
        return;
    }
    fmi_pages_truncate(p, dst, 0);
    int64_t n = fmi_pages_for(rows);
    FM_ASSERT(n <= p->count[src]);
    for (int64_t i = 0; i < n; i++) {
        int32_t page = p->table[src * p->pages_max + i];
        p->refs[page]++;
        p->table[dst * p->pages_max + i] = page;
    }
    p->count[dst] = (int32_t)n;
    p->dirty = true;
}

fm_status fmi_pages_write(fmi_pages *p, fm_err *err)
{
    if (!p->dirty) return FM_OK;
    fm_status st = fm_write(p->x, p->dev_table, p->table,
                            (size_t)(p->n_seqs * p->pages_max) * sizeof *p->table, err);
    if (!st) p->dirty = false;
    return st;
}
