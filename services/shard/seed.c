/* A new replica begins: see seed.h.  What is fetched and where it goes is fetched by seed_fetch.c.
 *
 * Happy path: no store yet; the rows of the other replicas name their URLs; the one that is ready
 * and farthest is asked for a copy; it is fetched, checked, and takes its place.
 *
 * Replicas of one machine start together, so one that is not ready yet is waited for, for WAIT_NS.
 */
#include "services/shard/seed.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cluster/cluster.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"
#include "services/shard/apply.h"
#include "services/shard/seed_fetch.h"
#include "services/shard/segments.h"
#include "services/shard/snapshot_store.h"

#define WAIT_NS          (10 * NS_PER_S) /* for another replica to be ready */
#define ABSENT_NS        (2 * NS_PER_S)  /* … that does not answer at all */
#define PAUSE_NS         (100 * NS_PER_MS)
#define STATUS_NS        NS_PER_S
#define STATUS_BYTES_MAX MIB(16)
#define ATTEMPTS         3
#define URL_BYTES        256

/* What the others say. */
struct others {
    char best[URL_BYTES]; /* ready and farthest; "": none */
    uint64_t position;    /* of the best: the sum over its partitions */
    uint64_t records;     /* read or kept by the best, whichever is more: a manifest has many */
    bool has_ready;       /* one is ready, with however little */
    bool has_answer;      /* one is there, if only starting or late */
    uint32_t known;
};

static bool is_stopping(const struct seed *seed)
{
    return seed->is_stopping != NULL && seed->is_stopping();
}

/* --- the others --------------------------------------------------------------------------------
 */

/* Serves it exactly the partitions that the map gives this shard? */
static bool serves_ours(const json_t *partitions, const struct shard_map *map, uint32_t shard)
{
    struct partition_set ours, theirs = {0};

    shard_map_partitions(map, shard, &ours);
    for (size_t i = 0; i < json_array_size(partitions); i++) {
        json_int_t number =
            json_integer_value(json_object_get(json_array_get(partitions, i), "partition"));

        if (number < 0 || number >= PARTITIONS_MAX)
            return false;
        partition_set_add(&theirs, (uint32_t)number);
    }
    return memcmp(&ours, &theirs, sizeof(ours)) == 0;
}

/* Take one replica's status into account. */
static void consider(struct others *others, const char *url, const json_t *status,
                     const struct shard_map *map, uint32_t shard)
{
    const char *state = json_string_value(json_object_get(status, "state"));
    const json_t *partitions = json_object_get(status, "partitions");
    uint64_t position = 0, live = 0;

    if (state == NULL || strcmp(state, "ready") != 0 || !serves_ours(partitions, map, shard))
        return;
    for (size_t i = 0; i < json_array_size(partitions); i++) {
        const json_t *partition = json_array_get(partitions, i);
        json_int_t at = json_integer_value(json_object_get(partition, "position"));
        json_int_t kept = json_integer_value(json_object_get(partition, "live"));

        position += at > 0 ? (uint64_t)at : 0;
        live += kept > 0 ? (uint64_t)kept : 0;
    }
    others->has_ready = true;
    if (others->best[0] == '\0' || position > others->position) {
        others->position = position;
        others->records = MAX_OF(position, live);
        (void)snprintf(others->best, sizeof(others->best), "%s", url);
    }
}

static void ask_other(const struct seed *seed, struct others *others, const char *url,
                      const struct shard_map *map)
{
    struct http_call call = {
        .method = "GET", .base = url, .path = "/internal/v1/status", .reply_max = STATUS_BYTES_MAX};
    json_t *status = NULL;
    struct err ignored = {0};

    (void)http_call_one(seed->client, &call, env_boot_ns(seed->env) + STATUS_NS);
    /* Who takes the question and is late with its answer is there. */
    others->has_answer = others->has_answer || call.rc == ERR_OK || call.rc == ERR_TIMEOUT;
    if (http_call_expect(&call, &ignored) == ERR_OK &&
        json_doc_parse(&status, call.reply.data, call.reply.len, &ignored) == ERR_OK)
        consider(others, url, status, map, seed->shard);
    json_decref(status);
    http_call_free(&call);
}

static enum err_code read_map(struct meta *meta, struct shard_map *map, struct err *err)
{
    struct meta_row row = {0};
    enum err_code code = meta_get(meta, "map", &row, err);

    if (code == ERR_OK)
        code = shard_map_decode(map, row.value, row.value_len, err);
    meta_row_free(&row);
    return code;
}

/* The rows "node/shard/S.R" of the other replicas, and what these say. */
static enum err_code ask_others(const struct seed *seed, struct others *others, struct err *err)
{
    struct meta_row *rows = NULL;
    struct shard_map map;
    char prefix[64], own[32];
    size_t count = 0;
    enum err_code code = read_map(seed->meta, &map, err);

    *others = (struct others){0};
    (void)snprintf(prefix, sizeof(prefix), "node/shard/%u.", seed->shard);
    cluster_replica_name(own, seed->shard, seed->replica);
    if (code == ERR_OK && seed->shard >= map.shards)
        code = err_set(err, ERR_NOT_FOUND, "the map does not know this shard");
    if (code == ERR_OK)
        code = meta_list(seed->meta, prefix, &rows, &count, err);
    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        json_t *row = NULL;
        const char *url;

        if (strcmp(rows[i].key + strlen("node/shard/"), own) == 0 ||
            json_doc_parse(&row, rows[i].value, rows[i].value_len, NULL) != ERR_OK)
            continue;
        url = json_string_value(json_object_get(row, "url"));
        if (url != NULL && strlen(url) < URL_BYTES) {
            others->known++;
            ask_other(seed, others, url, &map);
        }
        json_decref(row);
    }
    meta_rows_free(rows, count);
    return code;
}

static uint64_t records_min(const struct seed *seed)
{
    if (seed->is_trimmed)
        return 1;
    return seed->records_min == 0 ? SEED_RECORDS_MIN : seed->records_min;
}

/* Until one is ready, or none will be soon.  *found: there is one worth a copy. */
static enum err_code find_other(const struct seed *seed, struct others *others, bool *found,
                                struct err *err)
{
    uint64_t began = env_boot_ns(seed->env), wait_ns = WAIT_NS;
    uint64_t least = records_min(seed);
    struct err ignored = {0};

    *found = false;
    while (env_boot_ns(seed->env) - began < wait_ns) {
        if (ask_others(seed, others, &ignored) != ERR_OK || others->known == 0 || others->has_ready)
            break;
        wait_ns = others->has_answer ? WAIT_NS : ABSENT_NS;
        if (is_stopping(seed) ||
            env_sleep_until(seed->env, env_boot_ns(seed->env) + PAUSE_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
    }
    *found = others->has_ready && others->records >= least;
    return ERR_OK;
}

/* --- folders -----------------------------------------------------------------------------------
 */

struct paths {
    char seed[SEGMENTS_PATH_BYTES]; /* where it is fetched */
    char seed_store[SEGMENTS_PATH_BYTES], seed_segments[SEGMENTS_PATH_BYTES];
    char store[SEGMENTS_PATH_BYTES], segments[SEGMENTS_PATH_BYTES];
    char store_file[SEGMENTS_PATH_BYTES];
};

static enum err_code set_paths(struct paths *paths, const char *data, struct err *err)
{
    /* The longest of all. */
    if (snprintf(paths->seed_segments, SEGMENTS_PATH_BYTES, "%s/seed/segments", data) >=
        SEGMENTS_PATH_BYTES - 128)
        return err_set(err, ERR_CONFIG, "--data is too long");
    (void)snprintf(paths->seed, SEGMENTS_PATH_BYTES, "%s/seed", data);
    (void)snprintf(paths->seed_store, SEGMENTS_PATH_BYTES, "%s/seed/store", data);
    (void)snprintf(paths->store, SEGMENTS_PATH_BYTES, "%s/store", data);
    (void)snprintf(paths->segments, SEGMENTS_PATH_BYTES, "%s/segments", data);
    (void)snprintf(paths->store_file, SEGMENTS_PATH_BYTES, "%s/store/" STORE_COPY_NAME, data);
    return ERR_OK;
}

/* A folder takes the place of another, or of none. */
static enum err_code take_place(const char *from, const char *to, struct err *err)
{
    enum err_code code = segments_remove(to, err);

    if (code == ERR_OK && rename(from, to) != 0 && errno != ENOENT)
        code = err_set_errno(err, errno, "seed: renaming %.200s", from);
    return code;
}

enum err_code seed_reaches(const struct apply *apply, const uint64_t *firsts, struct err *err)
{
    for (uint32_t slot = 0; slot < apply->partition_count; slot++) {
        const struct apply_partition *partition = &apply->partitions[slot];
        uint64_t first = firsts[partition->partition];

        if (first > 0 && partition->position <= first)
            return err_set(err, ERR_NOT_FOUND,
                           "the store is at %llu of partition %u, where the log begins at %llu",
                           (unsigned long long)partition->position, partition->partition,
                           (unsigned long long)first);
    }
    return ERR_OK;
}

/* Can the store be used?  It is opened as it lies.  A copy that was made for others a while ago may
 * be older than the log. */
static enum err_code try_store(const struct seed *seed, const char *folder, struct err *err)
{
    char url[SEGMENTS_PATH_BYTES + 8];
    struct store_options options = {.url = url, .env = seed->env};
    struct store *store = NULL;
    struct apply apply = {0};
    enum err_code code;

    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    code = store_open(&store, &options, err);
    if (code == ERR_OK)
        code = apply_load(&apply, store, err);
    if (code == ERR_OK && seed->firsts != NULL)
        code = seed_reaches(&apply, seed->firsts, err);
    apply_free(&apply);
    store_close(store);
    return code;
}

static enum err_code install(const struct seed *seed, const struct paths *paths, struct err *err)
{
    enum err_code code = try_store(seed, paths->seed_store, err);

    if (code == ERR_OK)
        code = segments_sync(paths->seed_store, err);
    if (code == ERR_OK)
        code = take_place(paths->seed_segments, paths->segments, err);
    if (code == ERR_OK)
        code = segments_sync(seed->data, err);
    if (code == ERR_OK)
        code = take_place(paths->seed_store, paths->store, err);
    return code == ERR_OK ? segments_sync(seed->data, err) : code;
}

/* --- the whole ---------------------------------------------------------------------------------
 */

static enum err_code empty_folder(const char *path, struct err *err)
{
    enum err_code code = segments_remove(path, err);

    if (code == ERR_OK && mkdir(path, 0777) != 0)
        code = err_set_errno(err, errno, "seed: mkdir %.200s", path);
    return code;
}

static enum err_code fetch_from(struct seed *seed, const struct paths *paths, const char *url,
                                struct err *err)
{
    struct seed_fetch fetch = {.env = seed->env,
                               .client = seed->client,
                               .url = url,
                               .folder = paths->seed,
                               .is_stopping = seed->is_stopping};
    enum err_code code = empty_folder(paths->seed, err);

    if (code == ERR_OK)
        code = seed_fetch_run(&fetch, err);
    if (code == ERR_OK)
        code = install(seed, paths, err);
    if (code == ERR_OK)
        seed->bytes = fetch.bytes;
    return code;
}

static void tell(const struct seed *seed, const struct others *others, enum err_code code,
                 const struct err *err)
{
    char name[16];
    struct log_context context = {.shard_id = name};

    (void)snprintf(name, sizeof(name), "%u", seed->shard);
    if (code == ERR_OK)
        log_info(&context, "begun with a copy of another replica",
                 LOG_U64("replica", seed->replica), LOG_TEXT("from", others->best),
                 LOG_U64("bytes", seed->bytes), LOG_U64("records", others->records));
    else
        log_err(LOG_WARN, &context, "no copy of another replica could be had", err);
}

static enum err_code begin_with_copy(struct seed *seed, const struct paths *paths, struct err *err)
{
    struct others others;
    enum err_code code = ERR_IO;
    struct err why = {0};
    bool found = true;

    for (uint32_t i = 0; i < ATTEMPTS && code != ERR_OK; i++) {
        enum err_code looked = find_other(seed, &others, &found, err);

        if (looked != ERR_OK || !found)
            return looked;
        err_clear(&why);
        code = fetch_from(seed, paths, others.best, &why);
        tell(seed, &others, code, &why);
        if (is_stopping(seed) || code == ERR_DEAD)
            return code == ERR_OK ? ERR_OK : err_set(err, ERR_DEAD, "shutting down");
    }
    return ERR_OK;
}

/* --- a snapshot --------------------------------------------------------------------------------
 */

/* Does it reach to where the log begins?  The record before its position proves that the log is the
 * one that was applied. */
static bool reaches_log(const struct seed *seed, const struct snapshot *snapshot)
{
    for (size_t i = 0; seed->firsts != NULL && i < snapshot->partition_count; i++) {
        const struct snapshot_partition *partition = &snapshot->partitions[i];
        uint64_t first = seed->firsts[partition->partition];

        if (first > 0 && partition->position <= first)
            return false;
    }
    return true;
}

static bool is_worth_it(const struct seed *seed, const struct snapshot *snapshot)
{
    uint64_t position = 0, live = 0;

    for (size_t i = 0; i < snapshot->partition_count; i++) {
        position += snapshot->partitions[i].position;
        live += snapshot->partitions[i].live;
    }
    return MAX_OF(position, live) >= records_min(seed);
}

static enum err_code check_stopping(void *context, size_t len, struct err *err)
{
    (void)len;
    return is_stopping(context) ? err_set(err, ERR_DEAD, "shutting down") : ERR_OK;
}

static enum err_code install_snapshot(struct seed *seed, const struct paths *paths,
                                      const struct snapshot *snapshot, struct err *err)
{
    struct snapshot_fetch fetch = {.blob = seed->blob,
                                   .snapshot = snapshot,
                                   .folder = paths->seed,
                                   .go_on = check_stopping,
                                   .context = seed};
    atomic_bool never = false;
    enum err_code code = empty_folder(paths->seed, err);

    if (code == ERR_OK)
        code = snapshot_fetch(&fetch, err);
    if (code == ERR_OK)
        code = snapshot_compare(seed->env, paths->seed, snapshot, &never, err);
    if (code == ERR_OK)
        code = install(seed, paths, err);
    if (code == ERR_OK)
        seed->bytes = fetch.bytes;
    return code;
}

static void tell_snapshot(const struct seed *seed, const char *id, enum err_code code,
                          const struct err *err)
{
    char name[16];
    struct log_context context = {.shard_id = name};

    (void)snprintf(name, sizeof(name), "%u", seed->shard);
    if (code == ERR_OK)
        log_info(&context, "begun with a snapshot", LOG_U64("replica", seed->replica),
                 LOG_TEXT("snapshot", id), LOG_U64("bytes", seed->bytes));
    else
        log_err(LOG_ERROR, &context, "a snapshot could not be used", err);
}

/* The newest one that is whole and reaches to the log's beginning: one that is newer still may have
 * been made of less.  Nothing usable is no error. */
static enum err_code begin_with_snapshot(struct seed *seed, const struct paths *paths,
                                         struct err *err)
{
    char id[SNAPSHOT_ID_BYTES] = "";
    struct partition_set served;
    struct snapshot_wanted wanted = {
        .region = seed->region, .shard = seed->shard, .served = &served};
    struct shard_map map;
    struct snapshot snapshot;
    struct err why = {0};
    enum err_code code = read_map(seed->meta, &map, &why);

    if (code != ERR_OK || seed->shard >= map.shards)
        return ERR_OK;
    shard_map_partitions(&map, seed->shard, &served);
    do {
        err_clear(&why);
        code = snapshots_newest(seed->blob, &wanted, &snapshot, &why);
        if (code != ERR_OK) {
            if (code != ERR_NOT_FOUND || seed->is_trimmed)
                tell_snapshot(seed, "", code, &why);
            return ERR_OK;
        }
        (void)snprintf(id, sizeof(id), "%s", snapshot.id);
        wanted.before = id;
        if (!is_worth_it(seed, &snapshot)) {
            snapshot_free(&snapshot);
            return ERR_OK;
        }
        if (reaches_log(seed, &snapshot))
            code = install_snapshot(seed, paths, &snapshot, &why);
        else
            code = err_set(&why, ERR_NOT_FOUND, "it does not reach to the log's beginning");
        snapshot_free(&snapshot);
        tell_snapshot(seed, id, code, &why);
    } while (code != ERR_OK && code != ERR_DEAD && !is_stopping(seed));
    return code == ERR_OK ? ERR_OK : err_set(err, ERR_DEAD, "shutting down");
}

static bool has_store(const struct paths *paths)
{
    return access(paths->store_file, F_OK) == 0;
}

/* Without a store: from another replica, or from a snapshot, or from the log. */
static enum err_code begin_anew(struct seed *seed, const struct paths *paths, struct err *err)
{
    enum err_code code = begin_with_copy(seed, paths, err);

    if (code == ERR_OK && !has_store(paths) && seed->blob != NULL && seed->region != 0)
        code = begin_with_snapshot(seed, paths, err);
    if (code == ERR_OK && !has_store(paths) && seed->is_trimmed)
        code = err_set(err, ERR_NOT_FOUND,
                       "the log has been trimmed, and there is neither another replica that is "
                       "ready nor a verified snapshot that reaches to its beginning");
    return code;
}

enum err_code seed_run(struct seed *seed, struct err *err)
{
    struct paths *paths = array_alloc(1, sizeof(*paths));
    enum err_code code;

    seed->bytes = 0;
    if (paths == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for paths");
    code = set_paths(paths, seed->data, err);
    if (code == ERR_OK)
        code = segments_remove(paths->seed, err);
    if (code == ERR_OK && !has_store(paths))
        code = begin_anew(seed, paths, err);
    if (code == ERR_OK)
        code = segments_remove(paths->seed, err);
    free(paths);
    return code;
}
