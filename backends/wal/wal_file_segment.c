/* Segment files: see wal_file_internal.h.
 *
 * A segment is made under another name, preallocated, given its header, synced and only then
 * renamed: a file with a segment's name has had a whole, durable header once, so that a bad header
 * is damage.  Preallocation makes a sync cheaper by a quarter (the file does not grow); where there
 * is no room for all of it, the file grows as it is written instead.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"

#define SEGMENT_NEW_NAME "segment.new"
#define SEGMENT_DIGITS   16
#define SEGMENTS_MAX     (1u << 24)

static_assert(WAL_FRAME_MAX + 8 <= WAL_WINDOW_BYTES, "a window holds any frame");
static_assert(WAL_SEGMENT_HEADER_MAX <= WAL_WINDOW_BYTES, "a window holds any header");

enum err_code wal_errno(struct err *err, int errnum, const char *what, uint64_t segment)
{
    if (errnum == EFBIG)
        errnum = ENOSPC;
    if (segment == 0)
        return err_set_errno(err, errnum, "%s", what);
    return err_set_errno(err, errnum, "segment %" PRIu64 ": %s", segment, what);
}

enum err_code wal_pwrite_all(int fd, const void *data, size_t len, uint64_t at, uint64_t segment,
                             struct err *err)
{
    const uint8_t *from = data;

    while (len > 0) {
        ssize_t done = pwrite(fd, from, len, (off_t)at);

        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0)
            return wal_errno(err, done == 0 ? ENOSPC : errno, "write", segment);
        from += done;
        at += (uint64_t)done;
        len -= (size_t)done;
    }
    return ERR_OK;
}

/* --- names and lists ------------------------------------------------------------------------- */

void wal_segment_name(char out[WAL_SEGMENT_NAME_BYTES], uint64_t number)
{
    int len = snprintf(out, WAL_SEGMENT_NAME_BYTES, "%016" PRIx64 ".wal", number);

    assert(len == SEGMENT_DIGITS + 4);
}

/* Whether a name is exactly that of a segment. */
static bool segment_number(const char *name, uint64_t *number)
{
    char again[WAL_SEGMENT_NAME_BYTES];
    uint64_t value = 0;

    if (strlen(name) != SEGMENT_DIGITS + 4)
        return false;
    for (size_t i = 0; i < SEGMENT_DIGITS; i++) {
        const char *digits = "0123456789abcdef";
        const char *found = strchr(digits, name[i]);

        if (found == NULL)
            return false;
        value = value << 4 | (uint64_t)(found - digits);
    }
    wal_segment_name(again, value);
    *number = value;
    return value > 0 && value <= UINT32_MAX && strcmp(name, again) == 0;
}

static enum err_code list_add(struct wal_segment_list *list, uint64_t number, struct err *err)
{
    if (list->count == SEGMENTS_MAX)
        return err_set(err, ERR_IO, "more than %u segment files", SEGMENTS_MAX);
    if (list->count == list->size) {
        size_t size = list->size == 0 ? 64 : 2 * list->size;
        uint64_t *numbers = array_resize(list->numbers, size, sizeof(*numbers));

        if (numbers == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for the list of segments");
        list->numbers = numbers;
        list->size = size;
    }
    list->numbers[list->count++] = number;
    return ERR_OK;
}

static int number_compare(const void *a, const void *b)
{
    const uint64_t *x = a;
    const uint64_t *y = b;

    return (*x > *y) - (*x < *y);
}

enum err_code wal_segment_list(struct wal_segment_list *out, int dir_fd, struct err *err)
{
    enum err_code code = ERR_OK;
    DIR *dir = NULL;
    int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    *out = (struct wal_segment_list){0};
    if (fd >= 0)
        dir = fdopendir(fd);
    if (dir == NULL) {
        code = err_set_errno(err, errno, "list of segments");
        if (fd >= 0)
            close(fd);
        return code;
    }
    while (code == ERR_OK) {
        struct dirent *entry;
        uint64_t number;

        errno = 0;
        entry = readdir(dir);
        if (entry == NULL) {
            if (errno != 0)
                code = err_set_errno(err, errno, "list of segments");
            break;
        }
        if (segment_number(entry->d_name, &number))
            code = list_add(out, number, err);
    }
    closedir(dir);
    if (code != ERR_OK)
        wal_segment_list_free(out);
    else if (out->count > 1)
        qsort(out->numbers, out->count, sizeof(*out->numbers), number_compare);
    return code;
}

void wal_segment_list_free(struct wal_segment_list *list)
{
    free(list->numbers);
    *list = (struct wal_segment_list){0};
}

/* --- files ----------------------------------------------------------------------------------- */

static ssize_t pread_all(int fd, uint8_t *data, size_t len, uint64_t at)
{
    size_t done = 0;

    while (done < len) {
        ssize_t got = pread(fd, data + done, len - done, (off_t)(at + done));

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return -1;
        if (got == 0)
            break;
        done += (size_t)got;
    }
    return (ssize_t)done;
}

enum err_code wal_segment_open(int *out_fd, struct wal_segment_header *header, int dir_fd,
                               uint64_t number, struct err *err)
{
    char name[WAL_SEGMENT_NAME_BYTES];
    uint8_t bytes[WAL_SEGMENT_HEADER_MAX];
    enum err_code code;
    ssize_t len;
    int fd;

    wal_segment_name(name, number);
    fd = openat(dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "segment %" PRIu64 " is missing", number);
    if (fd < 0)
        return wal_errno(err, errno, "open", number);
    len = pread_all(fd, bytes, sizeof(bytes), 0);
    if (len < 0) {
        code = wal_errno(err, errno, "read", number);
    } else {
        code = wal_segment_header_decode(header, bytes, (size_t)len, err);
        if (code == ERR_OK && header->segment != number)
            code =
                err_set(err, ERR_CORRUPT, "the file is that of segment %" PRIu64, header->segment);
        if (code != ERR_OK)
            code = err_wrap(err, "segment %" PRIu64, number);
    }
    if (code != ERR_OK) {
        close(fd);
        return code;
    }
    *out_fd = fd;
    return ERR_OK;
}

/* Reserve room, where the file system can and has it. */
static enum err_code preallocate(int fd, uint64_t bytes, uint64_t segment, struct err *err)
{
    if (fallocate(fd, 0, 0, (off_t)bytes) == 0)
        return ERR_OK;
    if (errno != EOPNOTSUPP && errno != ENOSPC && errno != EDQUOT && errno != EFBIG &&
        errno != EINTR)
        return wal_errno(err, errno, "preallocation", segment);
    if (ftruncate(fd, 0) != 0)
        return wal_errno(err, errno, "preallocation", segment);
    return ERR_OK;
}

enum err_code wal_segment_create(int *out_fd, int dir_fd, const struct wal_segment_header *header,
                                 uint64_t segment_bytes, struct err *err)
{
    uint8_t bytes[WAL_SEGMENT_HEADER_MAX];
    char name[WAL_SEGMENT_NAME_BYTES];
    enum err_code code;
    int fd =
        openat(dir_fd, SEGMENT_NEW_NAME, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);

    if (fd < 0)
        return wal_errno(err, errno, "create", header->segment);
    wal_segment_name(name, header->segment);
    wal_segment_header_encode(header, bytes);
    code = preallocate(fd, segment_bytes, header->segment, err);
    if (code == ERR_OK)
        code = wal_pwrite_all(fd, bytes, wal_segment_header_size(header->partitions), 0,
                              header->segment, err);
    if (code == ERR_OK && fdatasync(fd) != 0)
        code = wal_errno(err, errno, "sync", header->segment);
    if (code == ERR_OK && renameat(dir_fd, SEGMENT_NEW_NAME, dir_fd, name) != 0)
        code = wal_errno(err, errno, "rename", header->segment);
    if (code == ERR_OK && fsync(dir_fd) != 0)
        code = wal_errno(err, errno, "sync of the folder", header->segment);
    if (code != ERR_OK) {
        close(fd);
        /* Gives the room back; a segment that already has its name is removed by the recovery. */
        (void)unlinkat(dir_fd, SEGMENT_NEW_NAME, 0);
        return code;
    }
    *out_fd = fd;
    return ERR_OK;
}

static enum err_code remove_one(int dir_fd, uint64_t number, struct err *err)
{
    char name[WAL_SEGMENT_NAME_BYTES];

    wal_segment_name(name, number);
    return unlinkat(dir_fd, name, 0) == 0 ? ERR_OK : wal_errno(err, errno, "remove", number);
}

enum err_code wal_segment_remove_after(int dir_fd, uint64_t last, struct err *err)
{
    struct wal_segment_list list;
    enum err_code code = wal_segment_list(&list, dir_fd, err);
    bool changed = false;

    if (code != ERR_OK)
        return code;
    for (size_t i = list.count; code == ERR_OK && i > 0 && list.numbers[i - 1] > last; i--) {
        code = remove_one(dir_fd, list.numbers[i - 1], err);
        changed = true;
    }
    if (code == ERR_OK && changed && fsync(dir_fd) != 0)
        code = wal_errno(err, errno, "sync of the folder", 0);
    wal_segment_list_free(&list);
    return code;
}

enum err_code wal_segment_remove_before(int dir_fd, uint64_t first, struct err *err)
{
    struct wal_segment_list list;
    enum err_code code = wal_segment_list(&list, dir_fd, err);
    bool changed = false;

    if (code != ERR_OK)
        return code;
    for (size_t i = 0; code == ERR_OK && i < list.count && list.numbers[i] < first; i++) {
        code = remove_one(dir_fd, list.numbers[i], err);
        changed = true;
    }
    if (code == ERR_OK && changed && fsync(dir_fd) != 0)
        code = wal_errno(err, errno, "sync of the folder", 0);
    wal_segment_list_free(&list);
    return code;
}

/* --- walking through frames ------------------------------------------------------------------ */

enum err_code wal_cursor_init(struct wal_cursor *cursor, struct err *err)
{
    *cursor = (struct wal_cursor){.fd = -1, .why = ""};
    cursor->window = array_alloc(WAL_WINDOW_BYTES, 1);
    if (cursor->window == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to read the log");
    return ERR_OK;
}

void wal_cursor_free(struct wal_cursor *cursor)
{
    free(cursor->window);
    cursor->window = NULL;
}

void wal_cursor_enter(struct wal_cursor *cursor, int fd, const struct wal_segment_header *header)
{
    cursor->fd = fd;
    cursor->segment = header->segment;
    cursor->epoch = header->epoch;
    cursor->partitions = header->partitions;
    cursor->seed = wal_frame_seed(header->region, header->segment);
    cursor->at = wal_segment_header_size(header->partitions);
    cursor->window_at = cursor->at;
    cursor->window_len = 0;
    cursor->window_is_last = false;
    memcpy(cursor->next, header->start, sizeof(cursor->next));
}

static enum wal_step cursor_bad(struct wal_cursor *cursor, const char *why)
{
    cursor->why = why;
    return WAL_STEP_BAD;
}

enum wal_step wal_cursor_next(struct wal_cursor *cursor, uint64_t limit, struct wal_frame *frame)
{
    size_t skip = (size_t)(cursor->at - cursor->window_at);
    size_t left = cursor->window_len - skip;

    assert(skip <= cursor->window_len);
    if (cursor->at >= limit)
        return cursor->at == limit ? WAL_STEP_END : cursor_bad(cursor, "a frame crosses the end");
    if (left > limit - cursor->at)
        left = (size_t)(limit - cursor->at);
    switch (wal_frame_decode(frame, cursor->window + skip, left, cursor->seed)) {
    case WAL_FRAME_GOOD:
        break;
    case WAL_FRAME_SHORT:
        if (frame->size > limit - cursor->at)
            return cursor_bad(cursor, "a frame crosses the end");
        if (skip == 0 && cursor->window_is_last)
            return cursor_bad(cursor, "the file is cut off");
        return WAL_STEP_REFILL;
    case WAL_FRAME_BAD:
        return cursor_bad(cursor, "no good frame");
    }
    if (frame->partition >= cursor->partitions)
        return cursor_bad(cursor, "a frame of an unknown partition");
    if (frame->epoch != cursor->epoch)
        return cursor_bad(cursor, "a frame of another file epoch");
    if (frame->offset != cursor->next[frame->partition])
        return cursor_bad(cursor, "a frame out of order");
    cursor->next[frame->partition]++;
    cursor->at += frame->size;
    return WAL_STEP_FRAME;
}

enum err_code wal_cursor_fill(struct wal_cursor *cursor, uint64_t limit, struct err *err)
{
    uint64_t want = MIN_OF(limit - cursor->at, (uint64_t)WAL_WINDOW_BYTES);
    ssize_t got;

    assert(limit > cursor->at);
    cursor->window_at = cursor->at;
    cursor->window_len = 0;
    got = pread_all(cursor->fd, cursor->window, (size_t)want, cursor->at);
    if (got < 0)
        return wal_errno(err, errno, "read", cursor->segment);
    cursor->window_len = (size_t)got;
    cursor->window_is_last = (uint64_t)got < want;
    return ERR_OK;
}
