/* Which vectors a search may return: those that its filter names and that live.  One predicate for
 * the filtered and the dead, by slot, for walks and scans.
 *
 * The bitmap counts ordinals, a walk meets slots.  Where ordinals have no gaps, one is the other
 * and a constant, and no row of the slot is fetched to refuse it. */
#ifndef VICINAL_ENGINE_ADMIT_H
#define VICINAL_ENGINE_ADMIT_H

#include "engine/graph.h"

struct admit {
    const struct graph *graph;
    const uint64_t *words; /* bit i: ordinal i; NULL: all are named */
    uint64_t bits;         /* of words */
    uint32_t count;        /* slots that the search knows */
    uint32_t first;        /* ordinal of slot 0 */
    bool is_dense;         /* the ordinal of a slot is slot + first */
    bool has_dead;         /* some may be dead */
    bool has_twins;        /* some nodes may have twins */
};

/* filter: NULL for all; borrowed.  count: slots that the search knows, at least 1. */
void admit_init(struct admit *admit, const struct graph *graph, const struct engine_bitmap *filter,
                uint32_t count);

/* By a filter that is there. */
static inline bool admit_names(const struct admit *admit, uint32_t ordinal)
{
    return ordinal < admit->bits && (admit->words[ordinal / 64] >> ordinal % 64 & 1) != 0;
}

/* May this vector be returned? */
static inline bool admit_slot(const struct admit *admit, uint32_t slot)
{
    if (admit->words != NULL &&
        !admit_names(admit,
                     admit->is_dense ? slot + admit->first : slot_of(admit->graph, slot)->ordinal))
        return false;
    return !admit->has_dead || (slot_state(admit->graph, slot) & SLOT_DEAD) == 0;
}

/* May one of this node's twins be returned?  Of a long chain only the first are looked at; then it
 * is taken for granted. */
bool admit_twins(const struct admit *admit, uint32_t slot);

/* May this node or one of its twins be returned? */
static inline bool admit_node(const struct admit *admit, uint32_t slot)
{
    return admit_slot(admit, slot) || (admit->has_twins && admit_twins(admit, slot));
}

/* A way through all slots that are admitted, ascending. */
struct admit_cursor {
    uint32_t slot; /* none before it is left */
    uint32_t to;   /* slots at or above this are not wanted */
    bool is_done;
};

/* Up to max of them into slots.  It also returns, with few or none, when it has looked at many in
 * vain, so that the caller can look at the clock; at the end cursor->is_done is set. */
size_t admit_run(const struct admit *admit, struct admit_cursor *cursor, uint32_t *slots,
                 size_t max);

#endif
