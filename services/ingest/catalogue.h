/* The collections: metadata rows, what is in memory, and the log, kept in step.
 *
 *   change:    row pending (compare and swap) → one record in every partition, all with one change
 *              stamp → row active or dropped → answer
 *   take-over: rows → changes of partition 0 behind the row `catalogue` → pending ones are
 *              completed
 *
 * What is left over by a change that failed is settled behind it (settle.c).  Who finds a
 * collection pending completes it first; doing so twice changes nothing, because equal
 * change stamps are the same change.  With the metadata store lost, everything comes back from
 * partition 0.  Changes of one name are serialised by the busy-id table (the caller's business);
 * `lock` guards the list and is not held across calls that block.
 */
#ifndef VICINAL_INGEST_CATALOGUE_H
#define VICINAL_INGEST_CATALOGUE_H

#include <pthread.h>
#include <stdbool.h>

#include "common/model/collection.h"
#include "services/ingest/sequencer.h"

enum collection_state { COLLECTION_ACTIVE, COLLECTION_PENDING, COLLECTION_DROPPED };

struct catalogue_entry {
    struct collection collection; /* `dropped` says which change is the newest */
    enum collection_state state;
};

/* Changes that stand in every partition of our log.  The regions tell each other of a definition
 * that lost; who told it again each time would never hear the end of it. */
struct told_change {
    uint8_t incarnation[INCARNATION_BYTES];
    struct stamp schema; /* none: a free place */
};
struct told_changes {
    struct told_change *places; /* size of them, open addressing */
    size_t count, size;
};

/* Changes that failed, of which the row may say something: settle.c.  One of each name. */
struct left_over {
    struct collection *changes;
    size_t count, size;
    struct env_cond come; /* or stopping */
    bool stopping;
};

/* Names are keys of an incarnation that no collection has. */
extern const uint8_t CATALOGUE_NAMES[INCARNATION_BYTES];

struct catalogue {
    struct sequencer *sequencer;
    struct meta *meta;
    struct env *env;
    pthread_mutex_t lock;
    struct catalogue_entry *entries; /* rising by (tenant, name) */
    size_t count, size;
    struct told_changes told;
    struct left_over left;
};

void catalogue_init(struct catalogue *catalogue, struct sequencer *sequencer, struct meta *meta,
                    struct env *env);
void catalogue_free(struct catalogue *catalogue);

/* After a take-over, on the appender's thread: read rows and log, complete what is pending. */
MUST_CHECK enum err_code catalogue_load(struct catalogue *catalogue, struct err *err);

/* False: never heard of. */
bool catalogue_find(struct catalogue *catalogue, const char *tenant, const char *name,
                    struct catalogue_entry *out);

/* The collection that takes records now.  Errors: ERR_COLLECTION_NOT_FOUND, ERR_UNAVAILABLE (a
 * change of it has not been completed). */
MUST_CHECK enum err_code catalogue_active(struct catalogue *catalogue, const char *tenant,
                                          const char *name, struct collection *out,
                                          struct err *err);

/* Carry out one change: `collection` with its stamps set; dropped says which kind.  Caller has the
 * name alone.  Errors: the sequencer's and the store's; the collection is then as it was before,
 * or, where something of the change may be in the log, pending. */
MUST_CHECK enum err_code catalogue_change(struct catalogue *catalogue,
                                          const struct collection *collection, uint64_t deadline_ns,
                                          struct err *err);

/* It failed, and the row may not be as memory is: to be settled when that is possible. */
void catalogue_leave_over(struct catalogue *catalogue, const struct collection *change);

/* A change that came from another region: in every partition before records of it are taken.  Of
 * two definitions of one name the smaller creation stamp stays. */
MUST_CHECK enum err_code catalogue_foreign(struct catalogue *catalogue,
                                           const struct collection *collection,
                                           uint64_t deadline_ns, struct err *err);

/* Append again what is known of every collection that has no change under way: all of it to
 * partition 0, from which everything comes back when the metadata store is lost, and of one
 * collection to every partition, so that other regions pass what stands before.  Nothing changes by
 * it, for equal stamps are the same change.  Errors: the sequencer's. */
MUST_CHECK enum err_code catalogue_repeat(struct catalogue *catalogue, uint64_t deadline_ns,
                                          struct err *err);

/* Is the change news to who knows the other one, both of one name?  The same everywhere, in any
 * order: of one incarnation a drop is final, and the newer change counts; of two the later
 * generation, or, where two regions made different ones, the smaller creation stamp. */
bool catalogue_is_news(const struct collection *known, const struct collection *collection);

size_t catalogue_count(struct catalogue *catalogue); /* active ones */

#endif
