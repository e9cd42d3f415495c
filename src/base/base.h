/* What every module leans on: failing with a message, asserting, allocating through hooks.
 *
 * FM_FAIL fills err and yields the code; no macro hides a return. FM_ASSERT is for a caller's bug,
 * never for input. All heap memory goes through fmi_alloc and friends, so that tests can count
 * calls and make the n-th fail. */
#ifndef FM_BASE_BASE_H
#define FM_BASE_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fathom/status.h"

#if defined(__GNUC__)
#define FMI_PRINTF(f, a) __attribute__((format(printf, f, a)))
#else
#define FMI_PRINTF(f, a)
#endif

fm_status fmi_fail(fm_err *err, fm_status code, const char *file, int line, const char *fmt, ...)
    FMI_PRINTF(5, 6);
#define FM_FAIL(err, code, ...) fmi_fail((err), (code), __FILE__, __LINE__, __VA_ARGS__)

/* Puts "prefix: " (printf style) before the message already in err; returns err's code. */
fm_status fmi_fail_prefix(fm_err *err, fm_status code, const char *fmt, ...) FMI_PRINTF(3, 4);

void fmi_assert_failed(const char *what, const char *file, int line);
#ifdef NDEBUG
#define FM_ASSERT(c) ((void)0)
#else
#define FM_ASSERT(c) ((c) ? (void)0 : fmi_assert_failed(#c, __FILE__, __LINE__))
#endif

/* Heap. All return NULL when memory is out (or when a test says so); fmi_free takes NULL. */
void *fmi_alloc(size_t bytes);                    /* uninitialised, 16-byte aligned        */
void *fmi_zalloc(size_t bytes);                   /* zeroed                                */
void *fmi_realloc(void *p, size_t bytes);
void *fmi_alloc_aligned(size_t bytes, size_t align); /* zeroed; free with fmi_free_aligned  */
void fmi_free(void *p);
void fmi_free_aligned(void *p);
char *fmi_strdup(const char *s);
char *fmi_format(const char *fmt, ...) FMI_PRINTF(1, 2); /* heap string, NULL when out of memory */

/* Heap calls made so far by this process through the functions above (for "no heap call in a
 * step"), and a switch that makes the n-th next call fail (0: never). Test use only. */
int64_t fmi_alloc_calls(void);
void fmi_alloc_fail_after(int64_t n);

/* out = a * b, or false on overflow or a negative operand. */
bool fmi_mul_ok(int64_t a, int64_t b, int64_t *out);

/* To the callback of fm_log_set (fathom/status.h). */
void fmi_log(int level, const char *fmt, ...) FMI_PRINTF(2, 3);

/* Seconds from an arbitrary start, monotonic. */
double fmi_clock_s(void);

/* Arena: one block carved front to back. With base NULL it only measures: plan, then carve, with
 * the same code. Blocks are 64-byte aligned (256 when align256). */
typedef struct fmi_arena {
    char *base;      /* NULL: measuring             */
    size_t used;     /* bytes handed out, rounded   */
    size_t cap;      /* bytes available; ignored while measuring */
} fmi_arena;
void *fmi_arena_take(fmi_arena *a, size_t bytes); /* NULL while measuring; asserts on overrun */

#endif
