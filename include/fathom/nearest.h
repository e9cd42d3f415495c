/* The nearest known name, for messages about an unknown key, option or command. */
#ifndef FATHOM_NEAREST_H
#define FATHOM_NEAREST_H

#ifdef __cplusplus
extern "C" {
#endif

/* The one of names[0..n-1] with the smallest edit distance to `name` (insertions, deletions,
 * substitutions, swaps of neighbours; the first of equals), or NULL when even that one differs in
 * more than a third of the longer name's letters plus one. Names longer than 63 bytes are never
 * near. */
const char *fm_nearest(const char *name, const char *const *names, int n);

#ifdef __cplusplus
}
#endif
#endif
