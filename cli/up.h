/* vicinal up, between its files.
 *
 *   up.c          options, the order of things, the end
 *   up_folder.c   data folders: made, locked, told apart
 *   up_regions.c  which regions there are, and what processes each one has
 *   up_start.c    from the first process to "ready"
 *
 * Without --regions there is one region without a name, whose folder is the data folder. */
#ifndef VICINAL_CLI_UP_H
#define VICINAL_CLI_UP_H

#include <limits.h>

#include "cli/cli.h"
#include "cli/supervise.h"
#include "cluster/cluster.h"
#include "cluster/regions.h"

#define UP_URL_BYTES   (PATH_MAX + 64)
#define UP_REGIONS_MAX 8 /* on one machine */
#define UP_STEP_NS     (10 * NS_PER_MS)
#define UP_CALL_NS     (300 * NS_PER_MS)
#define UP_NONE        (-1) /* no descriptor */

struct up_region {
    char name[REGION_NAME_BYTES]; /* "": the only one */
    char data[PATH_MAX];
    char wal_url[UP_URL_BYTES], meta_url[UP_URL_BYTES], cache_url[UP_URL_BYTES];
    char blob_url[UP_URL_BYTES];
    char listen[128];
    char router_url[192]; /* once it listens */
    int lock;             /* of its own folder */
    uint32_t partitions;  /* of its log; 0: not known */
    struct child *ingest, *router, *replicator;
};

struct up {
    /* settings */
    const char *data, *listen, *wal, *cache, *meta, *log_level, *region_names, *blob;
    const char *embedders, *embedders_cache;
    uint64_t shards, replicas, partitions;
    bool repair;
    /* state */
    char programs[PATH_MAX]; /* folder of our own executable */
    int lock;
    struct up_region regions[UP_REGIONS_MAX];
    size_t region_count;
    struct supervisor supervisor;
    struct child *children;
    size_t child_count;
    struct http_client *client;
};

/* Make and lock the data folder, and each region's own.  Errors: ERR_CONFIG (in use, or it holds
 * something else), ERR_IO, ERR_DEAD. */
MUST_CHECK enum err_code up_lock_folders(struct up *up, struct err *err);

/* Who is to be there, with folders and URLs.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code up_set_regions(struct up *up, struct err *err);

/* What a look at the logs can tell before anything is started.  Errors: ERR_CONFIG. */
MUST_CHECK enum err_code up_look_at_logs(struct up *up, struct err *err);

/* All processes: ingests first, routers last.  Errors: ERR_CONFIG, ERR_NO_MEMORY. */
MUST_CHECK enum err_code up_add_children(struct up *up, struct err *err);

/* Start them, until everything is ready and said so, or the start has ended otherwise. */
MUST_CHECK enum err_code up_start(struct up *up, struct err *err);

static inline bool up_goes_on(const struct up *up)
{
    return !up->supervisor.is_ending && up->supervisor.failed == 0;
}

#endif
