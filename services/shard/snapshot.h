/* Snapshots of a replica into the blob store (cluster/snapshots.h): made by a thread of its own,
 * now and then or when asked, so that the log may be trimmed, and a shard of which no replica is
 * left begins with the newest of them and the rest of the log.
 *
 *   POST /internal/v1/snapshot   make one now, unless one is being made
 *   GET  /internal/v1/snapshot   how far it is, and what the newest verified one holds
 *
 * Of several replicas one makes it: each looks first what is there, and the higher its number the
 * longer it waits. */
#ifndef VICINAL_SHARD_SNAPSHOT_H
#define VICINAL_SHARD_SNAPSHOT_H

#include "common/base/err.h"
#include "common/http/route.h"

struct shard;
struct snapshotter;

/* What the shard's setup says of snapshots; it has a blob store and a folder for them.
 * Errors: ERR_NO_MEMORY, those of env_thread_start. */
MUST_CHECK enum err_code snapshotter_open(struct snapshotter **out, struct shard *shard,
                                          struct err *err);
void snapshotter_stop(struct snapshotter *snapshotter);    /* its thread ends; NULL is fine */
void snapshotter_close(struct snapshotter *snapshotter);   /* after stop, and the last request */
void snapshotter_measure(struct snapshotter *snapshotter); /* set the gauges; NULL is fine */

enum err_code snapshot_start_handle(struct request *req);  /* POST /internal/v1/snapshot */
enum err_code snapshot_status_handle(struct request *req); /* GET /internal/v1/snapshot */

#endif
