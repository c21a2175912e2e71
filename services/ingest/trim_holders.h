/* Who still needs the log, and from where on: every replica (what a power cut cannot take from it),
 * the newest verified snapshot of every shard, every other region.  Who cannot be asked needs all.
 */
#ifndef VICINAL_INGEST_TRIM_HOLDERS_H
#define VICINAL_INGEST_TRIM_HOLDERS_H

#include "backends/blob/blob.h"
#include "backends/meta/meta.h"
#include "cluster/snapshots.h"
#include "common/base/env.h"
#include "common/http/client.h"

enum holder_kind { HOLDER_REPLICA, HOLDER_SNAPSHOT, HOLDER_REGION, HOLDER_KINDS };

struct holder {
    enum holder_kind kind;
    char name[80];
    char why[ERR_MESSAGE_BYTES]; /* why its positions are not known */
    uint64_t *passed;         /* by partition: what stands below is not needed; NULL: not known */
    struct snapshot snapshot; /* of HOLDER_SNAPSHOT, when it is known */
};

struct holders {
    struct holder *items;
    size_t count, size;
};
void holders_free(struct holders *holders); /* zeroed is fine */

/* All borrowed for the call. */
struct holders_setup {
    struct env *env;
    struct meta *meta;
    struct blob *blob;          /* NULL: there are no snapshots */
    struct http_client *client; /* NULL: nobody can be asked */
    uint32_t region, partitions;
    bool (*is_stopping)(void *context);
    void *context;
};

/* Ask all of them; *out is owned, zeroed after an error.
 * Errors: the metadata store's (who there is cannot be known), ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code holders_gather(const struct holders_setup *setup, struct holders *out,
                                        struct err *err);

#endif
