/* GET /internal/v1/digest?partition=P: the digests of a partition's collections, made anew from the
 * ids in the store, by ranges of the ids' hashes, beside those that are kept; all of one snapshot.
 *
 * Who compares replicas asks for it when their digests differ, to learn where; and from time to
 * time of every partition, because a store that was altered behind our back keeps its old sums.  It
 * reads every id of the partition: one such call at a time. */
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "services/shard/ask.h"
#include "services/shard/rows.h"

/* One collection in the partition. */
struct scan {
    const atomic_bool *is_stopping;
    struct store_txn *txn;
    uint32_t partition;
    uint32_t collection;
    struct collection definition;
    struct hash128 ranges[DIGEST_RANGES];
    struct hash128 found;
};

void digest_write(struct json_writer *w, struct hash128 digest)
{
    char text[HASH128_TEXT_BYTES];

    hash128_to_text(text, digest);
    json_text(w, text);
}

static enum err_code add_entry(struct scan *scan, struct store_value key, struct store_value value,
                               struct err *err)
{
    const char *id = (const char *)key.data + ID_PREFIX_BYTES;
    size_t len = key.len - ID_PREFIX_BYTES;
    struct id_entry entry;
    struct hash128 hash;
    enum err_code code = id_entry_decode(&entry, value, err);

    if (code != ERR_OK)
        return code;
    if (len == 0 || len > ID_BYTES_MAX)
        return err_set(err, ERR_CORRUPT, "an id of the store is too long, or none");
    hash = id_entry_hash(scan->definition.incarnation, &entry, id, len);
    hash128_add(&scan->found, hash);
    hash128_add(&scan->ranges[hash_xxh64(id, len, 0) >> 60], hash);
    return ERR_OK;
}

static enum err_code scan_ids(struct scan *scan, struct err *err)
{
    struct id_key from = id_key_of(scan->collection, scan->partition, NULL, 0);
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    bool more = false;
    enum err_code code = store_cursor_open(&cursor, scan->txn, STORE_IDS, id_key_value(&from), err);

    memset(scan->ranges, 0, sizeof(scan->ranges));
    scan->found = (struct hash128){0};
    while (code == ERR_OK) {
        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !id_key_is_of(key, scan->collection, scan->partition))
            break;
        code = atomic_load(scan->is_stopping) ? err_set(err, ERR_DEAD, "shutting down")
                                              : add_entry(scan, key, value, err);
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

enum err_code digest_count(struct store_txn *txn, uint32_t partition,
                           const atomic_bool *is_stopping, struct hash128 *out, struct err *err)
{
    struct scan scan = {.is_stopping = is_stopping, .txn = txn, .partition = partition};
    enum err_code code = ERR_OK;

    *out = (struct hash128){0};
    while (code == ERR_OK) {
        code = apply_read_definition(&scan.definition, txn, scan.collection, err);
        if (code == ERR_NOT_FOUND)
            return ERR_OK;
        if (code == ERR_OK)
            code = scan_ids(&scan, err);
        hash128_add(out, scan.found);
        scan.collection++;
    }
    return code;
}

static void write_scan(const struct scan *scan, struct hash128 kept, struct json_writer *w)
{
    char incarnation[2 * INCARNATION_BYTES + 1];

    text_hex_encode(incarnation, scan->definition.incarnation, INCARNATION_BYTES);
    json_begin_object(w);
    json_key(w, "incarnation");
    json_text(w, incarnation);
    json_key(w, "name");
    json_text(w, scan->definition.name);
    json_key(w, "kept");
    digest_write(w, kept);
    json_key(w, "found");
    digest_write(w, scan->found);
    json_key(w, "ranges");
    json_begin_array(w);
    for (size_t i = 0; i < DIGEST_RANGES; i++)
        digest_write(w, scan->ranges[i]);
    json_end_array(w);
    json_end_object(w);
}

/* All collections that the snapshot knows; those without an entry in the partition are left out. */
static enum err_code scan_all(struct scan *scan, struct hash128 *found, struct json_writer *w,
                              struct err *err)
{
    struct apply_counts counts;
    enum err_code code = ERR_OK;

    for (scan->collection = 0; code == ERR_OK; scan->collection++) {
        code = apply_read_definition(&scan->definition, scan->txn, scan->collection, err);
        if (code == ERR_NOT_FOUND)
            return ERR_OK;
        if (code == ERR_OK)
            code = apply_read_counts(&counts, scan->txn, scan->collection, scan->partition, err);
        if (code == ERR_OK)
            code = scan_ids(scan, err);
        if (code != ERR_OK)
            return code;
        hash128_add(found, scan->found);
        if (counts.live + counts.tombstones > 0 || !hash128_equal(scan->found, (struct hash128){0}))
            write_scan(scan, counts.digest, w);
    }
    return code;
}

static enum err_code write_digests(struct scan *scan, struct json_writer *w, struct err *err)
{
    struct hash128 found = {0};
    struct apply_kept kept;
    enum err_code code = apply_read_partition(&kept, scan->txn, scan->partition, err);

    if (code != ERR_OK)
        return code;
    json_begin_object(w);
    json_key(w, "partition");
    json_u64(w, scan->partition);
    json_key(w, "position");
    json_u64(w, kept.position);
    json_key(w, "kept");
    digest_write(w, kept.counts.digest);
    json_key(w, "collections");
    json_begin_array(w);
    code = scan_all(scan, &found, w, err);
    json_end_array(w);
    json_key(w, "found");
    digest_write(w, found);
    json_end_object(w);
    return code;
}

/* A state that is served; a region of 0 or a store that is being cleared has nothing to compare. */
static enum err_code check_served(struct shard *shard, uint64_t partition, struct err *err)
{
    bool is_served;

    pthread_mutex_lock(&shard->lock);
    is_served = shard->is_open && partition < PARTITIONS_MAX &&
                partition_set_has(&shard->served, (uint32_t)partition);
    pthread_mutex_unlock(&shard->lock);
    return is_served ? ERR_OK : err_set(err, ERR_MOVED, "the partition is not served here now");
}

static enum err_code run_scan(struct shard *shard, struct request *req, uint32_t partition)
{
    struct scan scan = {.is_stopping = &shard->is_stopping, .partition = partition};
    struct json_writer w;
    enum err_code code = store_begin(&scan.txn, shard->setup.store, false, &req->err);

    json_writer_init(&w, &req->reply.body);
    if (code == ERR_OK)
        code = write_digests(&scan, &w, &req->err);
    store_abort(scan.txn);
    if (code == ERR_NOT_FOUND)
        return err_set(&req->err, ERR_MOVED, "the partition is not in the store now");
    return code == ERR_OK ? buffer_check(&req->reply.body, &req->err) : code;
}

enum err_code digest_handle(struct request *req)
{
    struct shard *shard = req->state;
    const char *wanted = request_query(req, "partition", NULL);
    uint64_t partition;
    enum err_code code;

    if (wanted == NULL || !text_to_u64(wanted, strlen(wanted), &partition))
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "partition", "must be a number");
    if ((code = check_served(shard, partition, &req->err)) != ERR_OK)
        return code;
    if (atomic_exchange(&shard->is_digesting, true))
        return err_set(&req->err, ERR_UNAVAILABLE, "another such call is under way");
    code = run_scan(shard, req, (uint32_t)partition);
    atomic_store(&shard->is_digesting, false);
    return code;
}
