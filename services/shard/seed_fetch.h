/* Fetching a copy (copy.h) from another replica into a folder.  Everything that comes is hostile:
 * names are checked, sizes bounded by the disk, digests compared; files are synced. */
#ifndef VICINAL_SHARD_SEED_FETCH_H
#define VICINAL_SHARD_SEED_FETCH_H

#include <stdbool.h>
#include <stdint.h>

#include "common/base/env.h"
#include "common/base/err.h"
#include "common/http/client.h"

struct seed_fetch {
    struct env *env;
    struct http_client *client;
    const char *url;           /* of the other replica */
    const char *folder;        /* is there, and empty */
    bool (*is_stopping)(void); /* NULL: never */
    uint64_t bytes;            /* told: of all files */
};

/* Errors: what the other says, ERR_CORRUPT (another digest or size, a name that is none),
 * ERR_INSUFFICIENT_STORAGE, ERR_IO, ERR_TIMEOUT (it does not get on), ERR_NO_MEMORY, ERR_DEAD. */
MUST_CHECK enum err_code seed_fetch_run(struct seed_fetch *fetch, struct err *err);

#endif
