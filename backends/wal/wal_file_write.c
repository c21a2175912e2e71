/* The file log's writer.
 *
 * An append builds its frames in a chunk of memory, writes chunk after chunk, syncs once, and only
 * then publishes what is committed.  When a segment is full, what stands in it is synced and
 * published first, so a segment always ends at a committed position.
 *
 * After any failure nothing is known of what the disk holds behind the committed position: the
 * log takes no more appends until the recovery has cut there, synced, and gone on in a new file.
 * Deadlines are not looked at: a sync cannot be given up.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

void wal_file_publish(struct wal_file *file)
{
    struct wal_control *control = file->control;
    uint64_t position = file->segment << 32 | file->committed;

    assert(file->end == file->committed);
    assert(file->committed <= UINT32_MAX);
    atomic_store_explicit(&control->used_bytes,
                          file->sealed_bytes + file->committed - atomic_load(&file->removed_bytes),
                          memory_order_relaxed);
    /* Release, and in this order: who sees an end finds a place that holds it, and who sees the
     * place finds the bytes below it. */
    atomic_store_explicit(&control->position_check, ~position, memory_order_relaxed);
    atomic_store_explicit(&control->position, position, memory_order_release);
    for (uint32_t p = 0; p < file->wal.partitions; p++)
        atomic_store_explicit(&control->end[p], file->next[p], memory_order_release);
    atomic_fetch_add_explicit(&control->wake, 1, memory_order_release);
    /* Cannot fail for a word that is mapped and aligned. */
    (void)syscall(SYS_futex, &control->wake, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

enum err_code wal_file_start_segment(struct wal_file *file, uint64_t epoch, struct err *err)
{
    struct wal_segment_header header = {
        .region = file->wal.region,
        .partitions = file->wal.partitions,
        .segment = file->segment + 1,
        .epoch = epoch,
        .previous_end = file->segment == 0 ? 0 : file->committed,
        .oldest = atomic_load(&file->kept_segment),
    };
    enum err_code code;
    int fd;

    assert(file->chunk_len == 0);
    assert(file->end == file->committed);
    if (file->segment >= UINT32_MAX)
        return err_set(err, ERR_IO, "the log has no segment numbers left");
    memcpy(header.start, file->next, sizeof(header.start));
    code = wal_segment_create(&fd, file->dir_fd, &header, file->segment_bytes, err);
    if (code != ERR_OK)
        return code;
    if (file->fd >= 0)
        close(file->fd);
    file->fd = fd;
    file->sealed_bytes += header.previous_end;
    file->segment = header.segment;
    file->epoch = epoch;
    file->committed = wal_segment_header_size(header.partitions);
    file->end = file->committed;
    file->seed = wal_frame_seed(header.region, header.segment);
    return ERR_OK;
}

static enum err_code flush(struct wal_file *file, struct err *err)
{
    enum err_code code = wal_pwrite_all(file->fd, file->chunk, file->chunk_len,
                                        file->end - file->chunk_len, file->segment, err);

    if (code == ERR_OK)
        file->chunk_len = 0;
    return code;
}

/* Make everything built so far durable, and tell. */
static enum err_code commit(struct wal_file *file, struct err *err)
{
    enum err_code code = flush(file, err);

    if (code != ERR_OK)
        return code;
    if (file->end == file->committed)
        return ERR_OK;
    if (fdatasync(file->fd) != 0)
        return wal_errno(err, errno, "sync", file->segment);
    file->committed = file->end;
    wal_file_publish(file);
    return ERR_OK;
}

/* Build the frame of one entry behind the others; goes on in the next segment when this one is
 * full.  A segment takes at least one frame, however long. */
static enum err_code add_frame(struct wal_file *file, const struct wal_entry *entry,
                               uint64_t *offset, struct err *err)
{
    size_t size = wal_frame_size(entry->len);
    bool is_empty = file->end == wal_segment_header_size(file->wal.partitions);
    struct wal_frame frame = {
        .partition = entry->partition,
        .data = entry->data,
        .len = entry->len,
    };
    enum err_code code = ERR_OK;

    if (!is_empty && file->end + size > file->segment_bytes) {
        code = commit(file, err);
        if (code == ERR_OK)
            code = wal_file_start_segment(file, file->epoch, err);
    }
    if (code == ERR_OK && file->chunk_len + size > WAL_WINDOW_BYTES)
        code = flush(file, err);
    if (code != ERR_OK)
        return code;
    assert(file->chunk_len + size <= WAL_WINDOW_BYTES);
    frame.epoch = file->epoch;
    frame.batch = (uint32_t)file->committed;
    frame.offset = file->next[entry->partition]++;
    wal_frame_encode(&frame, file->seed, file->chunk + file->chunk_len);
    file->chunk_len += size;
    file->end += size;
    *offset = frame.offset;
    return ERR_OK;
}

enum err_code wal_file_append(struct wal *wal, const struct wal_entry *entries, size_t count,
                              uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    struct wal_file *file = (struct wal_file *)wal;
    enum err_code code = ERR_OK;

    (void)deadline_ns;
    assert(file->writer);
    if (file->failed)
        return err_set(err, ERR_READ_ONLY, "the log takes no appends until it is recovered");
    assert(file->chunk_len == 0);
    assert(file->end == file->committed);
    for (size_t i = 0; code == ERR_OK && i < count; i++)
        code = add_frame(file, &entries[i], &offsets[i], err);
    if (code == ERR_OK)
        code = commit(file, err);
    file->failed = code != ERR_OK;
    return code;
}

enum err_code wal_file_recover(struct wal *wal, struct err *err)
{
    struct wal_file *file = (struct wal_file *)wal;
    enum err_code code;

    assert(file->writer);
    if (!file->failed)
        return ERR_OK;
    /* Forget what was built; the control page says what was committed. */
    file->chunk_len = 0;
    file->end = file->committed;
    for (uint32_t p = 0; p < wal->partitions; p++)
        file->next[p] = atomic_load_explicit(&file->control->end[p], memory_order_relaxed);
    code = wal_segment_remove_after(file->dir_fd, file->segment, err);
    if (code != ERR_OK)
        return code;
    if (ftruncate(file->fd, (off_t)file->committed) != 0)
        return wal_errno(err, errno, "cut", file->segment);
    if (fdatasync(file->fd) != 0)
        return wal_errno(err, errno, "sync", file->segment);
    code = wal_file_start_segment(file, file->epoch + 1, err);
    if (code != ERR_OK)
        return code;
    /* Before the place (release, there): who finds the new place knows of the take-over. */
    atomic_store_explicit(&file->control->generation, file->epoch, memory_order_relaxed);
    wal_file_publish(file);
    file->failed = false;
    return ERR_OK;
}
