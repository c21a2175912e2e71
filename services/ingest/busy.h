/* The busy-id table: who is writing which id just now.
 *
 * A write takes the keys of all its ids before it decides or appends, and keeps them until its
 * outcome is known.  Plain appends share a key; what depends on the present state of a record has
 * it alone.  A key with an empty id is its collection's gate: every write of records shares it,
 * what concerns all records has it alone.
 *
 * Keys are taken in their order (incarnation, id bytes), so no two writes wait for each other. Each
 * key is handed on in the order of arrival: nobody overtakes, nobody starves.  Waiting is through
 * env; no mutex is held meanwhile.
 */
#ifndef VICINAL_INGEST_BUSY_H
#define VICINAL_INGEST_BUSY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"
#include "common/model/record.h"

struct busy;
struct busy_entry;

enum busy_mode { BUSY_SHARED, BUSY_ALONE };

struct busy_key {
    const uint8_t *incarnation; /* borrowed until the claim is given up */
    const char *id;             /* likewise; NULL with len 0: the gate */
    size_t len;
    enum busy_mode mode;
};

struct busy_claim {
    struct busy *busy;
    struct busy_entry **entries;
    bool *alone; /* how each is held */
    size_t count;
};

MUST_CHECK enum err_code busy_open(struct busy **out, struct env *env, struct err *err);
void busy_close(struct busy *busy); /* nobody holds or waits; NULL is fine */

/* Take all keys (any order, sorted here in place; of equal keys the stronger mode counts).  All or
 * nothing.  Errors: ERR_TIMEOUT, ERR_DEAD, ERR_NO_MEMORY. */
MUST_CHECK enum err_code busy_take(struct busy *busy, struct busy_claim *claim,
                                   struct busy_key *keys, size_t count, uint64_t deadline_ns,
                                   struct err *err);
void busy_release(struct busy_claim *claim); /* zeroed is fine; leaves it zeroed */

/* Keys held or waited for. */
size_t busy_count(struct busy *busy);

/* Threads that wait just now; for tests. */
size_t busy_waiting(struct busy *busy);

/* Every invariant; for tests. */
bool busy_validate(struct busy *busy);

#endif
