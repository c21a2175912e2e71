/* A shard over LMDB that keeps segments, and collections that are large enough for one.  Included
 * by the unit tests about segments. */
#ifndef VICINAL_TESTS_SEGMENTS_RIG_H
#define VICINAL_TESTS_SEGMENTS_RIG_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "common/base/checked.h"
#include "services/shard/segments.h"
#include "tests/unit/shard_rig.h"

#define SEGMENTS_DIM   8u
#define SEGMENTS_LEAST 10000u /* vectors in a graph that is worth a segment */
#define SEGMENTS_COUNT 10300u /* a few hundred more: the last ones wait to be linked */
#define BULK           1000u  /* records in an append */
#define LONG_WAIT_MS   120000u

/* Poll until the condition holds. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        unsigned waited_ms = 0;                                                                    \
        while (!(condition)) {                                                                     \
            if (waited_ms++ == LONG_WAIT_MS)                                                       \
                fail_msg("in vain: %s", #condition);                                               \
            must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);          \
        }                                                                                          \
    } while (0)

/* --- life --------------------------------------------------------------------------------------
 */

static inline void segments_open_store(struct rig *rig)
{
    struct store_options options = {.env = env_real(), .map_bytes = 1ull << 30};
    struct err err = {0};
    char url[128];

    (void)snprintf(url, sizeof(url), "lmdb:%s/store", rig->dir);
    options.url = url;
    must(store_open(&rig->store, &options, &err), &err);
}

/* Over the store in memory that every rig begins with, or over one on the disk. */
static inline struct rig *segments_rig_new(bool on_disk)
{
    struct rig *rig = rig_new();

    if (on_disk) {
        store_close(rig->store);
        segments_open_store(rig);
    }
    (void)snprintf(rig->segments, sizeof(rig->segments), "%s/segments", rig->dir);
    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    return rig;
}

static inline struct rig *segments_rig_ready(void)
{
    struct rig *rig = segments_rig_new(true);

    rig_open_shard(rig);
    rig_await_ready(rig);
    return rig;
}

static inline void segments_restart(struct rig *rig)
{
    rig_close_shard(rig);
    rig_open_shard(rig);
    rig_await_ready(rig);
}

/* --- collections -------------------------------------------------------------------------------
 */

/* A graph that is quickly made. */
static inline struct collection segments_collection(struct rig *rig, const char *name)
{
    struct collection collection = {
        .dimension = SEGMENTS_DIM,
        .metric = METRIC_L2,
        .m = 4,
        .ef_construction = 16,
        .created = {.clock = 1, .region = wal_region(rig->writer)},
        .schema = {.clock = 1, .region = wal_region(rig->writer)},
    };

    (void)snprintf(collection.tenant, sizeof(collection.tenant), "%s", TENANT_DEFAULT);
    (void)snprintf(collection.name, sizeof(collection.name), "%s", name);
    collection_identify(&collection);
    rig_change(rig, &collection, COLLECTION_CREATE);
    return collection;
}

/* The vector that record i has in its version-th state: numbers in 0..1. */
static inline void segments_vector(float *out, uint32_t dim, unsigned i, unsigned version)
{
    uint64_t x = i * UINT64_C(1000003) + version * UINT64_C(7919) + 1;

    for (unsigned d = 0; d < dim; d++) {
        x = x * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
        out[d] = (float)(x >> 40) / (float)(1 << 24);
    }
}

/* Records from..to-1 in one append after another; op: upsert or delete. */
static inline void segments_write(struct rig *rig, const struct collection *collection,
                                  enum record_op op, unsigned from, unsigned to, unsigned version)
{
    static struct buffer bytes[BULK];
    static struct wal_entry entries[BULK];
    static uint64_t offsets[BULK];
    float *vector = calloc(collection->dimension, sizeof(*vector));
    struct err err = {0};

    for (unsigned at = from; at < to;) {
        unsigned count = MIN_OF(BULK, to - at);

        for (unsigned i = 0; i < count; i++, at++) {
            char id[16];
            struct record record = {.op = op, .epoch = 1, .stamp = rig_stamp(rig), .id = id};

            record.id_len = (size_t)snprintf(id, sizeof(id), "%u", at);
            record.origin_offset = OFFSET_NONE;
            memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
            segments_vector(vector, collection->dimension, at, version);
            if (op == RECORD_UPSERT) {
                record.vector = vector;
                record.vector_bytes = collection->dimension * sizeof(*vector);
            }
            bytes[i].len = 0;
            must(record_encode(&record, &bytes[i], &err), &err);
            entries[i] =
                (struct wal_entry){.partition = record_partition(id, record.id_len, RIG_PARTITIONS),
                                   .data = bytes[i].data,
                                   .len = bytes[i].len};
        }
        must(wal_append(rig->writer, entries, count, NEVER_NS, offsets, &err), &err);
        for (unsigned i = 0; i < count; i++)
            rig->ends[entries[i].partition] = offsets[i] + 1;
    }
    for (unsigned i = 0; i < BULK; i++)
        buffer_free(&bytes[i]);
    free(vector);
}

static inline void segments_fill(struct rig *rig, const struct collection *collection,
                                 unsigned from, unsigned to)
{
    segments_write(rig, collection, RECORD_UPSERT, from, to, 0);
}

static inline uint32_t covered_of(struct rig *rig, const struct collection *collection)
{
    struct shard_collection *entry = collections_get(&rig->shard, collection->incarnation);
    uint32_t covered = entry == NULL || entry->engine == NULL ? 0 : engine_covered(entry->engine);

    collections_put(&rig->shard, entry);
    return covered;
}

/* A collection of SEGMENTS_COUNT records with a segment. */
static inline struct collection segments_kept(struct rig *rig, const char *name)
{
    struct collection collection = segments_collection(rig, name);

    segments_fill(rig, &collection, 0, SEGMENTS_COUNT);
    rig_catch_up(rig);
    AWAIT(covered_of(rig, &collection) > 0);
    return collection;
}

/* Does an exact search find record i, in that state of it, and nothing nearer? */
static inline bool segments_finds(struct rig *rig, const struct collection *collection, unsigned i,
                                  unsigned version)
{
    struct wire_question question = rig_question(collection, WIRE_SEARCH);
    float vector[SEGMENTS_DIM];
    struct reply_of reply;
    char id[16];
    bool found;

    (void)snprintf(id, sizeof(id), "%u", i);
    segments_vector(vector, SEGMENTS_DIM, i, version);
    question.vector = vector;
    question.dim = SEGMENTS_DIM;
    question.k = 1;
    question.exact = true;
    question.fresh = true;
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    found = reply.answer.row_count == 1 && row_is(&reply.answer.rows[0], id) &&
            reply.answer.rows[0].distance == 0;
    reply_free(&reply);
    return found;
}

static inline uint64_t segments_live(struct rig *rig, const struct collection *collection)
{
    struct shard_collection *entry = collections_get(&rig->shard, collection->incarnation);
    uint64_t count;

    AWAIT(atomic_load(&entry->pending) == 0);
    count = engine_count(entry->engine);
    collections_put(&rig->shard, entry);
    return count;
}

/* --- folders -----------------------------------------------------------------------------------
 */

static inline void segments_path(char path[SEGMENTS_PATH_BYTES], struct rig *rig,
                                 const struct collection *collection)
{
    struct segments_place place = {.root = rig->segments,
                                   .life = rig->shard.apply.life,
                                   .incarnation = collection->incarnation};
    struct err err = {0};

    must(segments_folder(path, &place, &err), &err);
}

static inline bool path_is_there(const char *path)
{
    struct stat about;

    return stat(path, &about) == 0;
}

/* Is there the segment of this collection? */
static inline bool segments_file_is_there(struct rig *rig, const struct collection *collection)
{
    char folder[SEGMENTS_PATH_BYTES], path[SEGMENTS_PATH_BYTES + 16];

    segments_path(folder, rig, collection);
    (void)snprintf(path, sizeof(path), "%s/graph.seg", folder);
    return path_is_there(path);
}

/* Entries of a folder; SIZE_MAX: it is not there. */
static inline size_t entries_of(const char *path)
{
    DIR *dir = opendir(path);
    const struct dirent *item;
    size_t count = 0;

    if (dir == NULL)
        return SIZE_MAX;
    while ((item = readdir(dir)) != NULL)
        count += item->d_name[0] != '.';
    closedir(dir);
    return count;
}

static inline void copy_file(const char *from, const char *to)
{
    static char block[1 << 16];
    int in = open(from, O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0666);
    ssize_t len;

    assert_true(in >= 0 && out >= 0);
    while ((len = read(in, block, sizeof(block))) > 0)
        assert_int_equal(write(out, block, (size_t)len), len);
    assert_int_equal(len, 0);
    close(in);
    close(out);
}

/* The shard is closed.  Put the copy of the store in its place, or make one. */
static inline void segments_swap_store(struct rig *rig, bool restore)
{
    char store[128], copy[128];

    (void)snprintf(store, sizeof(store), "%s/store/data.mdb", rig->dir);
    (void)snprintf(copy, sizeof(copy), "%s/copy.mdb", rig->dir);
    must(store_sync(rig->store, NULL), NULL);
    store_close(rig->store);
    copy_file(restore ? copy : store, restore ? store : copy);
    segments_open_store(rig);
}

static inline bool is_maintained(struct rig *rig, struct shard_collection *entry)
{
    bool is;

    pthread_mutex_lock(&rig->shard.lock);
    is = entry->is_maintained;
    pthread_mutex_unlock(&rig->shard.lock);
    return is;
}

/* The shard stops; what the maintainer alone writes may be read then. */
static inline void segments_end_maintenance(struct rig *rig)
{
    shard_stop(&rig->shard);
    env_thread_join(rig->shard.maintainer);
    rig->shard.maintainer = NULL;
}

static inline uint64_t set_aside_count(struct rig *rig)
{
    return metric_count(rig->shard.metrics.set_aside);
}

#endif
