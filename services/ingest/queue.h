/* What waits for the log, and whose turn it is: deficit round robin by bytes, between tenants, and
 * between the collections of each.
 *
 * Whoever has something waiting is visited in turn and may send QUEUE_QUANTUM bytes a visit; what
 * is left of it counts next time, as long as something waits.  So a writer that floods the queue
 * gets what others leave, and each of n others waits for at most n quanta (and a batch more each),
 * however much waits in all.  Within one collection batches keep their order of arrival.
 *
 * Room is shared too: of a queue that fills, no collection may take more than what is still free,
 * no tenant more than twice that; the first batch of a collection is always taken, if it fits at
 * all.
 *
 * Not thread safe: the sequencer's lock. */
#ifndef VICINAL_INGEST_QUEUE_H
#define VICINAL_INGEST_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/err.h"

#define QUEUE_QUANTUM (size_t)(1u << 20)

struct sequence_batch;
struct queue_tenant;

/* tenant 0: our own, and other regions' (collection: the region); no share of the room. */
struct queue_key {
    uint64_t tenant, collection;
};

/* Zeroed is empty. */
struct queue {
    struct queue_tenant *turn; /* a ring; NULL: nobody waits */
    size_t bytes, count, flows;
};

/* Is there room for so many bytes more?
 * Errors: ERR_RATE_LIMITED (its own share is full), ERR_UNAVAILABLE (all is). */
MUST_CHECK enum err_code queue_check(const struct queue *queue, struct queue_key key, size_t bytes,
                                     size_t bytes_max, struct err *err);

/* Put a batch last in its flow (batch->key).  Errors: ERR_NO_MEMORY. */
MUST_CHECK enum err_code queue_push(struct queue *queue, struct sequence_batch *batch,
                                    struct err *err);

/* Whose turn it is: it stays there; NULL: nobody waits.  Then it may be taken. */
struct sequence_batch *queue_next(struct queue *queue);
void queue_take(struct queue *queue, struct sequence_batch *next);

/* One that waits leaves without its turn. */
void queue_remove(struct queue *queue, struct sequence_batch *batch);

/* Any that waits and whose decision was made in a generation (not 0); or any at all.  NULL: none.
 */
struct sequence_batch *queue_any(const struct queue *queue, bool decided_only);

#endif
