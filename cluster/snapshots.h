/* Snapshots of shards in the blob store: copies of what one replica held (copy_files.h), with what
 * somebody has to know who begins with one, or who trims the log because there is one.
 *
 *   snapshots/REGION/SHARD/ID/F.P        part P of file F: SNAPSHOT_PART_BYTES, fewer at its end
 *   snapshots/REGION/SHARD/ID/manifest   put when all parts are there
 *   snapshots/REGION/SHARD/ID/verified   put when all has been read back and found right
 *
 * REGION is the number of the log's life, 8 hexadecimal digits; ID begins with when it was made, so
 * that the newest sorts last.  A manifest is its checksum, a line feed, and JSON of format 1;
 * `verified` is the checksum once more.  Without it, or with another one, a snapshot counts for
 * nothing.  Any thread. */
#ifndef VICINAL_CLUSTER_SNAPSHOTS_H
#define VICINAL_CLUSTER_SNAPSHOTS_H

#include "backends/blob/blob.h"
#include "cluster/copy_files.h"
#include "common/model/position.h"

#define SNAPSHOTS_PREFIX    "snapshots/" /* of the names of all their objects */
#define SNAPSHOT_PART_BYTES (8 * COPY_CHUNK_BYTES)
#define SNAPSHOT_ID_BYTES   24
#define SNAPSHOT_FORMAT     1u

/* A partition as the snapshot has it. */
struct snapshot_partition {
    uint32_t partition;
    uint64_t position; /* everything below is applied */
    uint64_t epoch;
    uint64_t live, tombstones;
    struct hash128 digest;
};

/* Owned by whoever loaded or filled it: snapshot_free. */
struct snapshot {
    uint32_t region;
    uint32_t shard;
    char id[SNAPSHOT_ID_BYTES];
    uint64_t made_us;                      /* wall clock */
    struct snapshot_partition *partitions; /* rising */
    size_t partition_count;
    struct copy_file *files;
    size_t file_count;
};
void snapshot_free(struct snapshot *snapshot); /* zeroed is fine */

/* A name of an ID that sorts by time. */
void snapshot_id(char out[SNAPSHOT_ID_BYTES], uint64_t wall_us, uint32_t replica);

/* Which replica made it, as its ID says; false: it is no ID. */
bool snapshot_id_replica(const char *id, uint64_t *wall_us, uint32_t *replica);

/* Name of a part of a file. */
void snapshot_part_name(char out[BLOB_NAME_BYTES_MAX + 1], const struct snapshot *snapshot,
                        size_t file, uint64_t part);

/* All files are there: it may be found, and counts for nothing yet. */
MUST_CHECK enum err_code snapshot_publish(struct blob *blob, const struct snapshot *snapshot,
                                          struct err *err);
/* It was read back, and all of it was right. */
MUST_CHECK enum err_code snapshot_mark_verified(struct blob *blob, const struct snapshot *snapshot,
                                                struct err *err);

/* What there is of one shard. */
struct snapshot_entry {
    char id[SNAPSHOT_ID_BYTES];
    bool is_published, is_marked;
};
struct snapshot_list {
    uint32_t region;
    uint32_t shard;
    struct snapshot_entry *entries; /* newest first */
    size_t count, size;
};
/* Errors: those of blob_list, ERR_NO_MEMORY. */
MUST_CHECK enum err_code snapshots_list(struct blob *blob, struct snapshot_list *list,
                                        struct err *err); /* region and shard are set */
void snapshots_list_free(struct snapshot_list *list);

/* Load a manifest.  *is_verified: it has been marked, and the mark is of this manifest.
 * Errors: ERR_NOT_FOUND, ERR_CORRUPT, ERR_CONFIG (a newer format), the blob's. */
MUST_CHECK enum err_code snapshot_load(struct blob *blob, const struct snapshot_list *list,
                                       const char *id, struct snapshot *out, bool *is_verified,
                                       struct err *err);

/* The newest verified one of exactly these partitions, but not newer than `before` (an ID; NULL:
 * any); what cannot be loaded is told in the log and passed over.
 * Errors: ERR_NOT_FOUND (there is none), the blob's. */
struct snapshot_wanted {
    uint32_t region;
    uint32_t shard;
    const struct partition_set *served;
    const char *before; /* older than this one; NULL: the newest of all */
};
MUST_CHECK enum err_code snapshots_newest(struct blob *blob, const struct snapshot_wanted *wanted,
                                          struct snapshot *out, struct err *err);

/* Append len bytes of a file, which do not cross a part's end.  Errors: the blob's. */
struct snapshot_range {
    size_t file;
    uint64_t at;
    size_t len;
};
MUST_CHECK enum err_code snapshot_read(struct blob *blob, const struct snapshot *snapshot,
                                       const struct snapshot_range *range, struct buffer *out,
                                       struct err *err);

/* Read all of it and compare it with its digests.  is_stopping may be NULL.
 * Errors: ERR_NOT_FOUND and ERR_CORRUPT (it is not whole), the blob's, ERR_DEAD (stopping). */
MUST_CHECK enum err_code snapshot_check(struct blob *blob, const struct snapshot *snapshot,
                                        bool (*is_stopping)(void *), void *context,
                                        struct err *err);

/* Every object of it, the mark and the manifest first. */
MUST_CHECK enum err_code snapshot_remove(struct blob *blob, const struct snapshot_list *list,
                                         const char *id, struct err *err);

#endif
