/* When has every search that began before ended?
 *
 * A search enters before it opens its snapshot of the store and leaves when it has mapped its hits.
 * The consumer retires ordinals after the commit that replaced them, with the era of that moment;
 * they may leave the engine once no search of that era or an earlier one is inside.  A search that
 * enters later opens a snapshot that has the commit and does not look for them.
 *
 * Without locks: entering is one compare-and-swap on a free slot.  All operations are sequentially
 * consistent: if the consumer does not see a search's slot, that search sees the commit. */
#ifndef VICINAL_SHARD_GRACE_H
#define VICINAL_SHARD_GRACE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define GRACE_SLOTS 4096 /* searches at a time: above any number of workers */

struct grace {
    atomic_uint_fast64_t era;                /* from 1 */
    atomic_uint hint;                        /* where the next search looks for a free slot */
    atomic_uint_fast64_t slots[GRACE_SLOTS]; /* era of the search inside; 0: free */
};

void grace_init(struct grace *grace);

/* A slot, to be given back; -1: GRACE_SLOTS searches are inside. */
int grace_enter(struct grace *grace);
void grace_leave(struct grace *grace, int slot);

/* End the present era and return its number.  One caller at a time. */
uint64_t grace_advance(struct grace *grace);

/* The oldest era that a search is still inside of; UINT64_MAX: none is inside.  What was retired
 * with a lower era may go. */
uint64_t grace_oldest(struct grace *grace);

#endif
