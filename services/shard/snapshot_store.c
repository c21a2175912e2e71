/* Stores of snapshots: see snapshot_store.h. */
#include "services/shard/snapshot_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/store/store.h"
#include "common/base/checked.h"
#include "services/shard/apply.h"
#include "services/shard/ask.h"
#include "services/shard/copy_write.h"
#include "services/shard/segments.h"

/* A store and the state that it holds, while they are looked at. */
struct looking {
    struct store *store;
    struct apply apply;
};

static void end_looking(struct looking *looking)
{
    apply_free(&looking->apply);
    store_close(looking->store);
}

static enum err_code begin_looking(struct looking *looking, struct env *env, const char *folder,
                                   struct err *err)
{
    char url[SEGMENTS_PATH_BYTES];
    struct store_options options = {.url = url, .env = env};
    enum err_code code;

    *looking = (struct looking){0};
    if (snprintf(url, sizeof(url), "lmdb:%s/store", folder) >= (int)sizeof(url))
        return err_set(err, ERR_CONFIG, "the path of a snapshot is too long");
    code = store_open(&looking->store, &options, err);
    if (code == ERR_OK)
        code = apply_load(&looking->apply, looking->store, err);
    if (code != ERR_OK)
        end_looking(looking);
    return code;
}

static struct snapshot_partition describe_one(const struct apply_partition *from)
{
    return (struct snapshot_partition){
        .partition = from->partition,
        .position = from->position,
        .epoch = from->epoch.epoch,
        .live = from->counts.live,
        .tombstones = from->counts.tombstones,
        .digest = from->counts.digest,
    };
}

enum err_code snapshot_describe(struct env *env, const char *folder, struct snapshot *snapshot,
                                struct err *err)
{
    struct looking looking;
    struct snapshot_partition *partitions;
    enum err_code code = begin_looking(&looking, env, folder, err);

    if (code != ERR_OK)
        return code;
    partitions = array_alloc(looking.apply.partition_count, sizeof(*partitions));
    if (partitions == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory for a manifest");
    } else {
        for (uint32_t slot = 0; slot < looking.apply.partition_count; slot++)
            partitions[slot] = describe_one(&looking.apply.partitions[slot]);
        free(snapshot->partitions);
        snapshot->partitions = partitions;
        snapshot->partition_count = looking.apply.partition_count;
        snapshot->region = looking.apply.region;
    }
    end_looking(&looking);
    return code;
}

/* --- comparing ---------------------------------------------------------------------------------
 */

static enum err_code compare_one(const struct snapshot_partition *said,
                                 const struct apply_partition *kept, struct hash128 found,
                                 struct err *err)
{
    struct snapshot_partition is = describe_one(kept);

    if (said->partition != is.partition || said->position != is.position ||
        said->epoch != is.epoch || said->live != is.live || said->tombstones != is.tombstones ||
        !hash128_equal(said->digest, is.digest))
        return err_set(err, ERR_CORRUPT, "partition %u is another than the manifest says",
                       said->partition);
    if (!hash128_equal(said->digest, found))
        return err_set(err, ERR_CORRUPT, "the ids of partition %u do not make its digest",
                       said->partition);
    return ERR_OK;
}

static enum err_code compare_all(struct looking *looking, const struct snapshot *snapshot,
                                 const atomic_bool *is_stopping, struct err *err)
{
    struct store_txn *txn = NULL;
    enum err_code code = ERR_OK;

    if (looking->apply.region != snapshot->region ||
        looking->apply.partition_count != snapshot->partition_count)
        return err_set(err, ERR_CORRUPT, "the store is another than the manifest says");
    code = store_begin(&txn, looking->store, false, err);
    for (uint32_t slot = 0; code == ERR_OK && slot < looking->apply.partition_count; slot++) {
        const struct apply_partition *kept = &looking->apply.partitions[slot];
        struct hash128 found;

        code = digest_count(txn, kept->partition, is_stopping, &found, err);
        if (code == ERR_OK)
            code = compare_one(&snapshot->partitions[slot], kept, found, err);
    }
    store_abort(txn);
    return code;
}

enum err_code snapshot_compare(struct env *env, const char *folder, const struct snapshot *snapshot,
                               const atomic_bool *is_stopping, struct err *err)
{
    struct looking looking;
    enum err_code code = begin_looking(&looking, env, folder, err);

    if (code != ERR_OK)
        return code;
    code = compare_all(&looking, snapshot, is_stopping, err);
    end_looking(&looking);
    return code;
}

/* --- fetching ----------------------------------------------------------------------------------
 */

static enum err_code read_chunk(void *context, const struct copy_chunk *chunk, struct buffer *out,
                                struct err *err)
{
    const struct snapshot_fetch *fetch = context;
    struct snapshot_range range = {.file = chunk->file, .at = chunk->at, .len = chunk->len};
    enum err_code code =
        fetch->go_on == NULL ? ERR_OK : fetch->go_on(fetch->context, chunk->len, err);

    return code == ERR_OK ? snapshot_read(fetch->blob, fetch->snapshot, &range, out, err) : code;
}

enum err_code snapshot_fetch(struct snapshot_fetch *fetch, struct err *err)
{
    struct copy_writing writing = {.folder = fetch->folder,
                                   .files = fetch->snapshot->files,
                                   .count = fetch->snapshot->file_count,
                                   .read = read_chunk,
                                   .context = fetch};
    enum err_code code = copy_write(&writing, err);

    fetch->bytes = writing.bytes;
    return code == ERR_OK ? ERR_OK : err_wrap(err, "snapshot %s", fetch->snapshot->id);
}
