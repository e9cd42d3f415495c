/* XXH64, written from its public specification: four lanes over 32-byte stripes, a merge, the tail
 * in words of 8, 4 and 1 bytes, and a final avalanche. Little-endian words. */
#include "io/hash.h"

#include <string.h>

#include "io/file.h"

#define P1 0x9E3779B185EBCA87u
#define P2 0xC2B2AE3D27D4EB4Fu
#define P3 0x165667B19E3779F9u
#define P4 0x85EBCA77C2B2AE63u
#define P5 0x27D4EB2F165667C5u

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "formats are read and written in place");

static uint64_t rotl(uint64_t x, int r)
{
    return x << r | x >> (64 - r);
}

static uint64_t word64(const uint8_t *p)
{
    uint64_t w;
    memcpy(&w, p, 8);
    return w;
}

static uint64_t lane_round(uint64_t acc, uint64_t word)
{
    return rotl(acc + word * P2, 31) * P1;
}

static const uint8_t *stripes(uint64_t acc[4], const uint8_t *p, size_t n_stripes)
{
    for (; n_stripes > 0; n_stripes--, p += 32)
        for (int i = 0; i < 4; i++) acc[i] = lane_round(acc[i], word64(p + 8 * i));
    return p;
}

void fmi_hash_init(fmi_hash *h, uint64_t seed)
{
    memset(h, 0, sizeof *h);
    h->seed = seed;
    h->acc[0] = seed + P1 + P2;
    h->acc[1] = seed + P2;
    h->acc[2] = seed;
    h->acc[3] = seed - P1;
}

void fmi_hash_write(fmi_hash *h, const void *data, size_t bytes)
{
    const uint8_t *p = data;
    h->total += bytes;
    if (h->n_tail > 0) {
        size_t take = 32 - h->n_tail < bytes ? 32 - h->n_tail : bytes;
        if (take) memcpy(h->tail + h->n_tail, p, take);
        h->n_tail += take;
        p += take;
        bytes -= take;
        if (h->n_tail < 32) return;
        stripes(h->acc, h->tail, 1);
        h->n_tail = 0;
    }
    if (bytes >= 32) p = stripes(h->acc, p, bytes / 32);
    h->n_tail = bytes % 32;
    if (h->n_tail) memcpy(h->tail, p, h->n_tail);
}

uint64_t fmi_hash_get(const fmi_hash *h)
{
    uint64_t x = h->seed + P5;
    if (h->total >= 32) {
        x = rotl(h->acc[0], 1) + rotl(h->acc[1], 7) + rotl(h->acc[2], 12) + rotl(h->acc[3], 18);
        for (int i = 0; i < 4; i++) x = (x ^ lane_round(0, h->acc[i])) * P1 + P4;
    }
    x += h->total;
    const uint8_t *p = h->tail, *end = p + h->n_tail;
    for (; end - p >= 8; p += 8) x = rotl(x ^ lane_round(0, word64(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        uint32_t w;
        memcpy(&w, p, 4);
        x = rotl(x ^ w * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) x = rotl(x ^ *p * P5, 11) * P1;
    x = (x ^ x >> 33) * P2;
    x = (x ^ x >> 29) * P3;
    return x ^ x >> 32;
}

uint64_t fmi_hash_bytes(const void *data, size_t bytes, uint64_t seed)
{
    fmi_hash h;
    fmi_hash_init(&h, seed);
    fmi_hash_write(&h, data, bytes);
    return fmi_hash_get(&h);
}

fm_status fmi_hash_file(const char *path, uint64_t *out, fm_err *err)
{
    fm_map m = {0};
    fm_status st = fm_map_open(&m, path, err);
    if (st) return st;
    fm_map_advise(&m, 0, m.bytes, FMI_ADVICE_SEQUENTIAL);
    /* Pages behind are let go: hashing a file must not take its size in memory. */
    const size_t piece = (size_t)1 << 20;
    fmi_hash h;
    fmi_hash_init(&h, 0);
    for (size_t at = 0; at < m.bytes; at += piece) {
        size_t n = m.bytes - at < piece ? m.bytes - at : piece;
        fmi_hash_write(&h, m.data + at, n);
        fm_map_advise(&m, at, n, FMI_ADVICE_DONE);
    }
    *out = fmi_hash_get(&h);
    fm_map_close(&m);
    return FM_OK;
}
