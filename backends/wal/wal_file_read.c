/* The file log's readers.
 *
 * A reader walks through the frames of the physical log, from the newest segment that starts at or
 * below all wanted positions, up to the committed place and never beyond, and hands out the frames
 * of its partitions.  Every frame it walks over is verified, wanted or not: checksum, and offsets
 * without gaps.  It reads with pread into a window of its own, so that a file that is cut or
 * removed under it is a short read and not a SIGBUS.
 *
 * With every take-over (the generation changed) it makes sure that what it has read is still the
 * log's: only a repair or a replaced folder can make that untrue, and then the answer is
 * ERR_CONFLICT for good.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <inttypes.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "common/base/checked.h"

#define WAIT_SLICE_NS (100 * NS_PER_MS)
#define NOT_WANTED    UINT64_MAX

struct reader {
    struct wal_reader base; /* first */
    struct wal_file *file;
    struct wal_cursor cursor;
    int fd;
    int next_fd; /* of the segment behind; -1 while it is not known */
    uint64_t generation;
    uint64_t limit;                        /* byte to which this segment may be read */
    uint64_t from[PARTITIONS_MAX];         /* first wanted offset; NOT_WANTED: none */
    struct wal_segment_header header;      /* of this segment */
    struct wal_segment_header next_header; /* of the segment behind, when next_fd is known */
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

static void enter(struct reader *reader)
{
    wal_cursor_enter(&reader->cursor, reader->fd, &reader->header);
    reader->limit = reader->cursor.at;
}

static enum err_code conflict(struct err *err)
{
    return err_set(err, ERR_CONFLICT, "the log was cut or replaced behind this reader");
}

/* Learn how far this segment may be read, which needs the header of the next one when the
 * committed place is beyond it.  place was read before the generation was. */
static enum err_code find_limit(struct reader *reader, struct wal_place place, struct err *err)
{
    enum err_code code = ERR_OK;

    if (place.segment < reader->header.segment)
        return conflict(err);
    if (place.segment == reader->header.segment) {
        reader->limit = place.byte;
    } else {
        if (reader->next_fd < 0)
            code = wal_segment_open(&reader->next_fd, &reader->next_header, reader->file->dir_fd,
                                    reader->header.segment + 1, err);
        if (code != ERR_OK)
            return code == ERR_NOT_FOUND
                       ? wal_kept_explain(reader->file->dir_fd, reader->header.segment + 1, err)
                       : code;
        reader->limit = reader->next_header.previous_end;
    }
    return reader->cursor.at > reader->limit ? conflict(err) : ERR_OK;
}

/* After a take-over: this segment is still the one that the log has under its number. */
static enum err_code verify_segment(struct reader *reader, struct err *err)
{
    struct wal_segment_header now;
    enum err_code code;
    bool is_same;
    int fd;

    code = wal_segment_open(&fd, &now, reader->file->dir_fd, reader->header.segment, err);
    if (code == ERR_NOT_FOUND)
        return wal_kept_explain(reader->file->dir_fd, reader->header.segment, err) == ERR_NOT_FOUND
                   ? ERR_NOT_FOUND
                   : conflict(err);
    if (code != ERR_OK)
        return code;
    close(fd);
    is_same = now.region == reader->header.region && now.epoch == reader->header.epoch;
    close_fd(&reader->next_fd);
    return is_same ? ERR_OK : conflict(err);
}

/* Bring the limit up to date. */
static enum err_code refresh(struct reader *reader, struct err *err)
{
    struct wal_control *control = reader->file->control;
    /* The place first: whose place is of a take-over finds its generation too. */
    struct wal_place place = wal_control_place(control);
    uint64_t generation = atomic_load_explicit(&control->generation, memory_order_acquire);
    enum err_code code = ERR_OK;

    if (generation != reader->generation) {
        code = wal_file_check_current(reader->file, err);
        if (code == ERR_OK)
            code = verify_segment(reader, err);
        if (code == ERR_OK)
            reader->generation = generation;
    }
    return code == ERR_OK ? find_limit(reader, place, err) : code;
}

/* What stands at the cursor is not what belongs there: the log is another, or it is damaged. */
static enum err_code explain_damage(struct reader *reader, struct err *err)
{
    enum err_code code = wal_file_check_current(reader->file, err);

    if (code == ERR_OK)
        code = verify_segment(reader, err);
    if (code == ERR_OK)
        code = find_limit(reader, wal_control_place(reader->file->control), err);
    if (code != ERR_OK)
        return code;
    return err_set(err, ERR_CORRUPT,
                   "segment %" PRIu64 " is damaged at byte %" PRIu64 ": %s; opened for writing "
                   "with --repair, the log is cut there",
                   reader->header.segment, reader->cursor.at, reader->cursor.why);
}

/* Go on in the next segment, whose header is known. */
static enum err_code advance(struct reader *reader, struct err *err)
{
    size_t starts = reader->header.partitions * sizeof(uint64_t);

    if (reader->next_header.region != reader->header.region ||
        reader->next_header.partitions != reader->header.partitions ||
        reader->next_header.epoch < reader->header.epoch ||
        memcmp(reader->next_header.start, reader->cursor.next, starts) != 0) {
        reader->cursor.why = "the next segment does not follow";
        return explain_damage(reader, err);
    }
    close_fd(&reader->fd);
    reader->fd = reader->next_fd;
    reader->next_fd = -1;
    reader->header = reader->next_header;
    enter(reader);
    return ERR_OK;
}

/* --- opening --------------------------------------------------------------------------------- */

static bool starts_below(const struct reader *reader)
{
    for (uint32_t p = 0; p < reader->header.partitions; p++) {
        if (reader->from[p] != NOT_WANTED && reader->header.start[p] > reader->from[p])
            return false;
    }
    return true;
}

/* Open the newest segment that starts at or below all wanted positions. */
static enum err_code find_start(struct reader *reader, struct err *err)
{
    struct wal_control *control = reader->file->control;
    uint64_t number = wal_control_place(control).segment;
    enum err_code code = ERR_OK;

    reader->generation = atomic_load_explicit(&control->generation, memory_order_acquire);
    for (; code == ERR_OK && number > 0; number--) {
        close_fd(&reader->fd);
        code = wal_segment_open(&reader->fd, &reader->header, reader->file->dir_fd, number, err);
        if (code == ERR_NOT_FOUND)
            code = wal_kept_explain(reader->file->dir_fd, number, err);
        if (code == ERR_OK && (reader->header.region != reader->file->wal.region ||
                               reader->header.partitions != reader->file->wal.partitions))
            code = conflict(err);
        if (code == ERR_OK && starts_below(reader))
            return ERR_OK;
    }
    if (code == ERR_OK)
        code = err_set(err, ERR_NOT_FOUND, "a position is below the first offset kept");
    return code;
}

/* Nothing that was forgotten is wanted. */
static enum err_code check_kept(const struct reader *reader, struct err *err)
{
    struct wal_kept *kept = array_alloc(1, sizeof(*kept));
    enum err_code code = kept == NULL ? err_set(err, ERR_NO_MEMORY, "no memory to read the log")
                                      : wal_kept_load(kept, reader->file->dir_fd, err);

    for (uint32_t p = 0; code == ERR_OK && p < kept->partitions; p++) {
        if (reader->from[p] < kept->first[p])
            code = err_set(err, ERR_NOT_FOUND,
                           "position %" PRIu64 " of partition %u was trimmed: the log begins at "
                           "%" PRIu64,
                           reader->from[p], p, kept->first[p]);
    }
    free(kept);
    return code;
}

static enum err_code set_positions(struct reader *reader, const uint32_t *partitions,
                                   const uint64_t *positions, size_t count, struct err *err)
{
    memset(reader->from, 0xff, sizeof(reader->from));
    for (size_t i = 0; i < count; i++) {
        uint64_t end;

        /* Acquire: the frames below the end, and a place that holds them, are seen. */
        end =
            atomic_load_explicit(&reader->file->control->end[partitions[i]], memory_order_acquire);
        if (positions[i] > end)
            return err_set(err, ERR_CONFLICT,
                           "position %" PRIu64 " of partition %u is beyond the log's end %" PRIu64,
                           positions[i], partitions[i], end);
        reader->from[partitions[i]] = positions[i];
    }
    return ERR_OK;
}

enum err_code wal_file_reader_open(struct wal_reader **out, struct wal *wal,
                                   const uint32_t *partitions, const uint64_t *positions,
                                   size_t count, struct err *err)
{
    struct reader *reader = array_alloc(1, sizeof(*reader));
    enum err_code code;

    if (reader == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to read the log");
    reader->base.ops = &wal_file_ops;
    reader->file = (struct wal_file *)wal;
    reader->fd = -1;
    reader->next_fd = -1;
    code = wal_cursor_init(&reader->cursor, err);
    if (code == ERR_OK)
        code = wal_file_check_current(reader->file, err);
    if (code == ERR_OK)
        code = set_positions(reader, partitions, positions, count, err);
    if (code == ERR_OK)
        code = check_kept(reader, err);
    if (code == ERR_OK)
        code = find_start(reader, err);
    if (code != ERR_OK) {
        wal_file_reader_close(&reader->base);
        return code;
    }
    enter(reader);
    *out = &reader->base;
    return ERR_OK;
}

void wal_file_reader_close(struct wal_reader *base)
{
    struct reader *reader = (struct reader *)base;

    close_fd(&reader->fd);
    close_fd(&reader->next_fd);
    wal_cursor_free(&reader->cursor);
    free(reader);
}

/* --- reading --------------------------------------------------------------------------------- */

/* Take the frames that are in the window already.  *step says why it ended. */
static size_t take(struct reader *reader, struct wal_item *items, size_t max, enum wal_step *step)
{
    size_t count = 0;

    *step = WAL_STEP_FRAME;
    while (count < max) {
        struct wal_frame frame;

        *step = wal_cursor_next(&reader->cursor, reader->limit, &frame);
        if (*step != WAL_STEP_FRAME)
            break;
        if (frame.offset < reader->from[frame.partition] ||
            reader->from[frame.partition] == NOT_WANTED)
            continue;
        items[count++] = (struct wal_item){
            .partition = frame.partition,
            .offset = frame.offset,
            .data = frame.data,
            .len = frame.len,
        };
    }
    return count;
}

/* Sleep until the control page's wake word is another than seen, the deadline, or a slice. */
static void wait_for_news(struct reader *reader, uint32_t seen, uint64_t wait_ns)
{
    uint64_t slice = MIN_OF(wait_ns, WAIT_SLICE_NS);
    struct timespec timeout = {.tv_sec = 0, .tv_nsec = (long)slice};

    static_assert(WAIT_SLICE_NS < NS_PER_S, "less than a second");
    /* Whatever ends it, the caller looks again. */
    (void)syscall(SYS_futex, &reader->file->control->wake, FUTEX_WAIT, seen, &timeout, NULL, 0);
}

/* At the limit: learn of more, or go to the next segment, or wait a little.  *is_over: the
 * deadline has come. */
static enum err_code go_on(struct reader *reader, uint64_t deadline_ns, bool *is_over,
                           struct err *err)
{
    /* Acquire, before the place is looked at: news after it change the word. */
    uint32_t seen = atomic_load_explicit(&reader->file->control->wake, memory_order_acquire);
    enum err_code code = refresh(reader, err);
    uint64_t now;

    if (code != ERR_OK || reader->cursor.at < reader->limit)
        return code;
    if (reader->next_fd >= 0)
        return advance(reader, err);
    code = wal_file_check_current(reader->file, err);
    if (code != ERR_OK)
        return code;
    now = env_boot_ns(reader->file->wal.env);
    if (now >= deadline_ns)
        *is_over = true;
    else
        wait_for_news(reader, seen, deadline_ns - now);
    return ERR_OK;
}

enum err_code wal_file_reader_next(struct wal_reader *base, struct wal_item *items, size_t max,
                                   size_t *count, uint64_t deadline_ns, struct err *err)
{
    struct reader *reader = (struct reader *)base;
    bool is_over = false;

    while (!is_over) {
        enum err_code code = ERR_OK;
        enum wal_step step;
        size_t taken = take(reader, items, max, &step);

        if (taken > 0) {
            *count = taken;
            return ERR_OK;
        }
        if (step == WAL_STEP_BAD)
            return explain_damage(reader, err);
        if (step == WAL_STEP_REFILL)
            code = wal_cursor_fill(&reader->cursor, reader->limit, err);
        else
            code = go_on(reader, deadline_ns, &is_over, err);
        if (code != ERR_OK)
            return code;
    }
    return ERR_OK;
}
