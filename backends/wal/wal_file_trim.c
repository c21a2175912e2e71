/* Forgetting what stands at the beginning of the log: see wal_trim.
 *
 * What is kept stands in the file `trim`: the first segment, and the first offset of each
 * partition. It is written beside, synced and renamed before anything goes; then the segments below
 * are removed, oldest first.  So a segment that is missing below that number was forgotten, and one
 * from there on is damage; what a crash leaves is removed by the next opening or trimming.
 *
 * All partitions share the segments: one goes when nothing in it is kept.  What stands below a
 * partition's first offset in a segment that stays is not handed out any more.
 *
 *   trim   0 magic 8 | 8 version u32 | 12 crc u32 | 16 region u32 | 20 partitions u32
 *          24 segment u64 | 32 first offset u64 of each partition
 *
 * The CRC32C is over all of it but itself. */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"

#define TRIM_NEW_NAME  "trim.new"
#define TRIM_VERSION   1u
#define TRIM_FIXED     32u
#define TRIM_BYTES_MAX (TRIM_FIXED + 8u * PARTITIONS_MAX)

static const uint8_t trim_magic[8] = {'V', 'i', 'c', 'W', 'a', 'l', 'T', '\n'};

static uint32_t trim_crc(const uint8_t *bytes, size_t len)
{
    return hash_crc32c(hash_crc32c(0, bytes, 12), bytes + 16, len - 16);
}

/* --- reading --------------------------------------------------------------------------------- */

static enum err_code decode(struct wal_kept *out, const uint8_t *bytes, size_t len, struct err *err)
{
    uint32_t partitions;

    if (len < TRIM_FIXED || memcmp(bytes, trim_magic, sizeof(trim_magic)) != 0)
        return err_set(err, ERR_CORRUPT, "the file trim is damaged");
    partitions = load_u32(bytes + 20);
    if (load_u32(bytes + 12) != trim_crc(bytes, len))
        return err_set(err, ERR_CORRUPT, "the file trim is damaged");
    if (load_u32(bytes + 8) != TRIM_VERSION)
        return err_set(err, ERR_CONFIG, "the file trim has format %u, this program knows %u",
                       load_u32(bytes + 8), TRIM_VERSION);
    if (partitions < 1 || partitions > PARTITIONS_MAX ||
        len != TRIM_FIXED + 8 * (size_t)partitions || load_u32(bytes + 16) == 0 ||
        load_u64(bytes + 24) == 0)
        return err_set(err, ERR_CORRUPT, "the file trim is damaged");
    out->region = load_u32(bytes + 16);
    out->partitions = partitions;
    out->segment = load_u64(bytes + 24);
    for (uint32_t p = 0; p < partitions; p++)
        out->first[p] = load_u64(bytes + TRIM_FIXED + 8 * (size_t)p);
    return ERR_OK;
}

enum err_code wal_kept_load(struct wal_kept *out, int dir_fd, struct err *err)
{
    uint8_t bytes[TRIM_BYTES_MAX + 1];
    size_t len = 0;
    ssize_t got = 1;
    int fd = openat(dir_fd, WAL_TRIM_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    *out = (struct wal_kept){.segment = 1};
    if (fd < 0)
        return errno == ENOENT ? ERR_OK : wal_errno(err, errno, "open of trim", 0);
    while (len < sizeof(bytes) && got != 0) {
        got = pread(fd, bytes + len, sizeof(bytes) - len, (off_t)len);
        if (got < 0 && errno != EINTR)
            break;
        len += got > 0 ? (size_t)got : 0;
    }
    if (got < 0)
        (void)wal_errno(err, errno, "read of trim", 0);
    close(fd);
    return got < 0 ? err->code : decode(out, bytes, len, err);
}

enum err_code wal_kept_explain(int dir_fd, uint64_t segment, struct err *err)
{
    struct wal_kept *kept = array_alloc(1, sizeof(*kept));
    enum err_code code = kept == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to read the log")
                                      : wal_kept_load(kept, dir_fd, err);

    if (code == ERR_OK && segment < kept->segment)
        code = err_set(err, ERR_NOT_FOUND, "the log was trimmed: it begins at segment %" PRIu64,
                       kept->segment);
    else if (code == ERR_OK)
        code = err_set(err, ERR_CORRUPT, "segment %" PRIu64 " is missing", segment);
    free(kept);
    return code;
}

enum err_code wal_file_first(struct wal *wal, uint32_t partition, uint64_t *first, struct err *err)
{
    const struct wal_file *file = (const struct wal_file *)wal;
    struct wal_kept *kept = array_alloc(1, sizeof(*kept));
    enum err_code code = kept == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to read the log")
                                      : wal_kept_load(kept, file->dir_fd, err);

    if (code == ERR_OK)
        *first = kept->first[partition];
    free(kept);
    return code;
}

/* --- writing --------------------------------------------------------------------------------- */

enum err_code wal_kept_forget(int dir_fd, struct err *err)
{
    if (unlinkat(dir_fd, WAL_TRIM_NAME, 0) != 0)
        return errno == ENOENT ? ERR_OK : wal_errno(err, errno, "remove of trim", 0);
    return fsync(dir_fd) == 0 ? ERR_OK : wal_errno(err, errno, "sync of the folder", 0);
}

static enum err_code store_kept(const struct wal_kept *kept, int dir_fd, struct err *err)
{
    uint8_t bytes[TRIM_BYTES_MAX];
    size_t len = TRIM_FIXED + 8 * (size_t)kept->partitions;
    enum err_code code;
    int fd =
        openat(dir_fd, TRIM_NEW_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

    if (fd < 0)
        return wal_errno(err, errno, "create of trim", 0);
    memcpy(bytes, trim_magic, sizeof(trim_magic));
    store_u32(bytes + 8, TRIM_VERSION);
    store_u32(bytes + 16, kept->region);
    store_u32(bytes + 20, kept->partitions);
    store_u64(bytes + 24, kept->segment);
    for (uint32_t p = 0; p < kept->partitions; p++)
        store_u64(bytes + TRIM_FIXED + 8 * (size_t)p, kept->first[p]);
    store_u32(bytes + 12, trim_crc(bytes, len));
    code = wal_pwrite_all(fd, bytes, len, 0, 0, err);
    if (code == ERR_OK && fdatasync(fd) != 0)
        code = wal_errno(err, errno, "sync of trim", 0);
    close(fd);
    if (code == ERR_OK && renameat(dir_fd, TRIM_NEW_NAME, dir_fd, WAL_TRIM_NAME) != 0)
        code = wal_errno(err, errno, "rename of trim", 0);
    if (code == ERR_OK && fsync(dir_fd) != 0)
        code = wal_errno(err, errno, "sync of the folder", 0);
    return code;
}

enum err_code wal_kept_lower(struct wal_kept *kept, int dir_fd, const uint64_t *ends,
                             struct err *err)
{
    bool changed = false;

    for (uint32_t p = 0; p < kept->partitions; p++) {
        changed = changed || kept->first[p] > ends[p];
        kept->first[p] = MIN_OF(kept->first[p], ends[p]);
    }
    return changed ? store_kept(kept, dir_fd, err) : ERR_OK;
}

/* --- trimming -------------------------------------------------------------------------------- */

/* The first offsets become what is asked for, where that is more. */
static enum err_code raise_firsts(const struct wal_file *file, const uint64_t *positions,
                                  struct wal_kept *kept, struct err *err)
{
    for (uint32_t p = 0; p < file->wal.partitions; p++) {
        /* Acquire: as for any reader of the end. */
        uint64_t end = atomic_load_explicit(&file->control->end[p], memory_order_acquire);

        if (positions[p] > end)
            return err_set(err, ERR_CONFLICT,
                           "position %" PRIu64 " of partition %u is beyond the log's end %" PRIu64,
                           positions[p], p, end);
        kept->first[p] = MAX_OF(kept->first[p], positions[p]);
    }
    kept->region = file->wal.region;
    kept->partitions = file->wal.partitions;
    return ERR_OK;
}

static bool begins_below(const struct wal_segment_header *header, const struct wal_kept *kept)
{
    for (uint32_t p = 0; p < kept->partitions; p++) {
        if (header->start[p] > kept->first[p])
            return false;
    }
    return true;
}

/* The newest segment of which nothing in the ones before is kept.  *bytes: of those before. */
static enum err_code find_segment(const struct wal_file *file, struct wal_kept *kept,
                                  uint64_t *bytes, struct err *err)
{
    uint64_t newest = wal_control_place(file->control).segment;
    struct wal_segment_header *header = array_alloc(1, sizeof(*header));
    enum err_code code =
        header == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to trim the log") : ERR_OK;

    *bytes = 0;
    while (code == ERR_OK && kept->segment < newest) {
        int fd;

        code = wal_segment_open(&fd, header, file->dir_fd, kept->segment + 1, err);
        if (code != ERR_OK)
            break;
        close(fd);
        if (!begins_below(header, kept))
            break;
        kept->segment++;
        *bytes += header->previous_end;
    }
    free(header);
    return code;
}

enum err_code wal_file_trim(struct wal *wal, const uint64_t *positions, struct err *err)
{
    struct wal_file *file = (struct wal_file *)wal;
    struct wal_kept *kept = array_alloc(1, sizeof(*kept));
    uint64_t bytes = 0;
    enum err_code code = kept == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to trim the log")
                                      : wal_kept_load(kept, file->dir_fd, err);

    assert(file->writer);
    if (code == ERR_OK)
        code = raise_firsts(file, positions, kept, err);
    if (code == ERR_OK)
        code = find_segment(file, kept, &bytes, err);
    if (code == ERR_OK)
        code = store_kept(kept, file->dir_fd, err);
    if (code == ERR_OK) {
        atomic_store(&file->kept_segment, kept->segment);
        atomic_fetch_add(&file->removed_bytes, bytes);
        code = wal_segment_remove_before(file->dir_fd, kept->segment, err);
    }
    free(kept);
    return code;
}
