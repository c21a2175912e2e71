/* Looking at every byte of a log that was ever promised to anybody: see wal_verify.h.
 *
 * First all headers, then the frames of each segment, up to where the next segment says that they
 * end.  The last one ends at the committed place of the control page, when that is of this boot of
 * the machine, and else at the first frame that is not good; that one is damage only below a place
 * known as committed (wal_file_recover.c has the same rules and stops at the first damage; here it
 * is told, and the next segment is looked at).
 *
 * Failure modes: a file that cannot be read ends the verification; one that is damaged does not. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/wal/wal_file_internal.h"
#include "backends/wal/wal_verify.h"
#include "common/base/checked.h"

struct file {
    uint64_t number;
    uint64_t size;
    uint64_t previous_end;
    bool is_sound; /* its header */
};

struct look {
    const struct wal_verify_request *request;
    struct scrub *scrub;
    struct wal_verified *out;
    int dir_fd;
    int lock_fd;
    struct wal_control *control; /* NULL: none, or damaged */
    struct wal_place floor;      /* known as committed; segment 0: nothing is known */
    bool same_boot;              /* the floor is the end */
    struct wal_kept kept;        /* segments below its first one were forgotten */
    struct wal_segment_list list;
    struct file *files; /* one for each of the list */
    uint64_t epoch;     /* highest seen */
    struct wal_cursor cursor;
    bool is_continuous;               /* the cursor's offsets are those that come next */
    struct wal_segment_header header; /* scratch */
    char path[PATH_MAX];              /* of the file in hand */
};

static const char *name_path(struct look *look, const char *name)
{
    (void)snprintf(look->path, sizeof(look->path), "%.4000s/%.64s", look->request->folder, name);
    return look->path;
}

static const char *segment_path(struct look *look, uint64_t number)
{
    char name[WAL_SEGMENT_NAME_BYTES];

    wal_segment_name(name, number);
    return name_path(look, name);
}

/* Something is wrong with the segment in hand, whose path stands in look->path. */
static void damage(struct look *look, uint64_t byte, const char *why)
{
    scrub_find(look->scrub, look->path, byte, "%s", why);
    look->out->is_whole = false;
}

/* --- the control page ------------------------------------------------------------------------ */

/* A page of another log tells nothing about this one. */
static void drop_foreign_control(struct look *look)
{
    struct err ignored = {0};
    int fd;

    if (look->control == NULL || look->list.count == 0 ||
        wal_segment_open(&fd, &look->header, look->dir_fd, look->list.numbers[0], &ignored) !=
            ERR_OK)
        return;
    (void)close(fd);
    if (look->control->region == look->header.region &&
        look->control->partitions == look->header.partitions)
        return;
    scrub_find(look->scrub, look->path, 0, "the control page is of another log");
    wal_control_unmap(look->control);
    look->control = NULL;
}

static enum err_code read_control(struct look *look, struct err *err)
{
    struct stat identity = {0};
    enum err_code code = wal_control_map(&look->control, &identity, look->dir_fd, false, err);

    if (code != ERR_OK)
        return code;
    name_path(look, WAL_CONTROL_NAME);
    if (look->control == NULL) {
        if (identity.st_ino != 0)
            scrub_find(look->scrub, look->path, 0, "the control page is damaged");
        return ERR_OK;
    }
    drop_foreign_control(look);
    if (look->control == NULL)
        return ERR_OK;
    uint64_t boot = atomic_load_explicit(&look->control->boot, memory_order_relaxed);
    if (boot == 0)
        return ERR_OK; /* a writer ended before it had told anything */
    if (!wal_control_place_is_sound(look->control)) {
        scrub_find(
            look->scrub, look->path, offsetof(struct wal_control, position),
            "the committed position and its check do not agree (as where a writer was killed "
            "between the two)");
        return ERR_OK;
    }
    look->floor = wal_control_place(look->control);
    look->same_boot = look->floor.segment != 0 && boot == wal_boot_word();
    return ERR_OK;
}

/* What the page says beside the place, when all else has been read. */
static void check_control(struct look *look)
{
    const struct wal_control *control = look->control;
    struct wal_verified *out = look->out;

    if (control == NULL || !look->same_boot || out->partitions == 0)
        return;
    name_path(look, WAL_CONTROL_NAME);
    if (atomic_load_explicit(&control->generation, memory_order_relaxed) < look->epoch)
        scrub_find(look->scrub, look->path, offsetof(struct wal_control, generation),
                   "the control page does not know the newest file epoch");
    /* An end that is lower is one that a killed writer had not told yet; the next one tells it. */
    for (uint32_t p = 0; p < out->partitions && out->is_whole; p++) {
        uint64_t end = atomic_load_explicit(&control->end[p], memory_order_relaxed);

        if (end > out->end[p])
            scrub_find(look->scrub, look->path, offsetof(struct wal_control, end[0]) + 8ull * p,
                       "the end of partition %u is %" PRIu64 ", the control page says %" PRIu64, p,
                       out->end[p], end);
    }
}

/* --- what was trimmed --------------------------------------------------------------------------
 */

static enum err_code read_kept(struct look *look, struct err *err)
{
    struct err why = {0};
    enum err_code code = wal_kept_load(&look->kept, look->dir_fd, &why);

    name_path(look, WAL_TRIM_NAME);
    if (code == ERR_CORRUPT) {
        damage(look, 0, why.message);
        /* Where the log begins is what is there. */
        look->kept = (struct wal_kept){.segment = 1};
        if (look->list.count > 0)
            look->kept.segment = look->list.numbers[0];
        code = ERR_OK;
    }
    if (code != ERR_OK) {
        *err = why;
        return code;
    }
    memcpy(look->out->first, look->kept.first, sizeof(look->out->first));
    return ERR_OK;
}

/* What an interrupted trimming left over is none of the log's. */
static void drop_trimmed(struct wal_segment_list *list, uint64_t first)
{
    size_t gone = 0;

    while (gone < list->count && list->numbers[gone] < first)
        gone++;
    if (gone == 0) /* maybe there is no list */
        return;
    list->count -= gone;
    memmove(list->numbers, list->numbers + gone, list->count * sizeof(*list->numbers));
}

/* The first segment, whose header is in hand, begins no later than what is kept. */
static void check_kept(struct look *look)
{
    const struct wal_kept *kept = &look->kept;
    bool fits = kept->region == 0 || (kept->region == look->header.region &&
                                      kept->partitions == look->header.partitions);

    for (uint32_t p = 0; fits && p < kept->partitions; p++)
        fits = look->header.start[p] <= kept->first[p];
    if (fits)
        return;
    name_path(look, WAL_TRIM_NAME);
    damage(look, 0, "what it says was trimmed does not fit the first segment");
}

/* --- headers --------------------------------------------------------------------------------- */

/* Whether the header in look->header can be this log's; before: the segment before, NULL: not
 * known. */
static const char *header_fault(struct look *look, const struct file *before)
{
    const struct wal_segment_header *header = &look->header;

    if (header->region == 0 ||
        (look->out->partitions != 0 &&
         (header->region != look->out->region || header->partitions != look->out->partitions)))
        return "the segment is of another log";
    if (header->epoch < look->epoch)
        return "its file epoch is lower than one before";
    if (header->segment == 1 && header->previous_end != 0)
        return "the first segment has one before it";
    if (header->segment > 1 && header->previous_end < wal_segment_header_size(header->partitions))
        return "it does not follow the one before";
    if (before != NULL && header->previous_end > before->size)
        return "the segment before is cut off";
    return NULL;
}

static enum err_code look_at_header(struct look *look, size_t i, struct err *err)
{
    struct file *file = &look->files[i];
    const struct file *before = i > 0 && file[-1].number + 1 == file->number ? &file[-1] : NULL;
    struct err why = {0};
    struct stat info;
    const char *fault;
    int fd;
    enum err_code code = wal_segment_open(&fd, &look->header, look->dir_fd, file->number, &why);

    segment_path(look, file->number);
    if (code == ERR_CORRUPT) {
        damage(look, 0, why.message);
        return ERR_OK;
    }
    if (code != ERR_OK) {
        *err = why;
        return code;
    }
    if (fstat(fd, &info) != 0)
        code = wal_errno(err, errno, "read", file->number);
    (void)close(fd);
    if (code != ERR_OK)
        return code;
    file->size = (uint64_t)info.st_size;
    fault = header_fault(look, before);
    if (fault != NULL) {
        damage(look, 0, fault);
        return ERR_OK;
    }
    file->previous_end = look->header.previous_end;
    file->is_sound = true;
    if (i == 0)
        check_kept(look);
    look->epoch = look->header.epoch;
    look->out->region = look->header.region;
    look->out->partitions = look->header.partitions;
    return ERR_OK;
}

static enum err_code look_at_headers(struct look *look, struct err *err)
{
    enum err_code code = ERR_OK;
    uint64_t due = look->kept.segment;

    /* What stands behind the committed place was never told to anybody. */
    while (look->same_boot && look->list.count > 0 &&
           look->list.numbers[look->list.count - 1] > look->floor.segment)
        look->list.count--;
    for (size_t i = 0; code == ERR_OK && i < look->list.count; i++) {
        look->files[i].number = look->list.numbers[i];
        segment_path(look, due);
        if (look->files[i].number != due)
            damage(look, SCRUB_NO_BYTE, "the file is missing");
        due = look->files[i].number + 1;
        code = look_at_header(look, i, err);
    }
    if (code == ERR_OK && due <= look->floor.segment) {
        segment_path(look, due);
        damage(look, SCRUB_NO_BYTE, "the file is missing");
    }
    return code;
}

/* --- frames ---------------------------------------------------------------------------------- */

static enum err_code give(struct look *look, const struct wal_frame *frame, struct err *err)
{
    struct wal_item item = {.partition = frame->partition,
                            .offset = frame->offset,
                            .data = frame->data,
                            .len = frame->len};
    struct scrub_finding place = {.file = look->path, .byte = look->cursor.at - frame->size};

    look->out->frames++;
    if (look->request->each == NULL || frame->offset < look->kept.first[frame->partition])
        return ERR_OK;
    return look->request->each(look->request->state, look->out, &item, &place, err);
}

/* Walk to limit, or to the first frame that is not good. */
static enum err_code walk(struct look *look, uint64_t limit, enum wal_step *step, struct err *err)
{
    struct wal_cursor *cursor = &look->cursor;
    struct wal_frame frame;
    enum err_code code = ERR_OK;

    do {
        *step = wal_cursor_next(cursor, limit, &frame);
        if (*step == WAL_STEP_FRAME)
            code = give(look, &frame, err);
        else if (*step == WAL_STEP_REFILL)
            code = wal_cursor_fill(cursor, limit, err);
        if (code == ERR_OK && *step == WAL_STEP_REFILL)
            code = scrub_go_on(look->scrub, cursor->window_len, err);
    } while (code == ERR_OK && (*step == WAL_STEP_FRAME || *step == WAL_STEP_REFILL));
    return code;
}

/* The end of a segment whose end nothing tells: is the bad frame there a torn tail, or damage? */
static enum err_code judge_tail(struct look *look, const struct file *file, enum wal_step step,
                                struct err *err)
{
    struct wal_cursor *cursor = &look->cursor;
    const char *why = step == WAL_STEP_BAD ? cursor->why : "the file is cut off";
    bool is_proven = false;
    enum err_code code = ERR_OK;

    if (look->floor.segment == file->number && cursor->at < look->floor.byte)
        is_proven = true;
    else if (step == WAL_STEP_BAD)
        code = wal_cursor_find_proof(cursor, file->size, &is_proven, err);
    if (is_proven)
        damage(look, cursor->at, why);
    return code;
}

static enum err_code look_at_frames(struct look *look, size_t i, struct err *err)
{
    const struct file *file = &look->files[i];
    const struct file *next = i + 1 < look->list.count ? &file[1] : NULL;
    bool is_sealed = next != NULL && next->number == file->number + 1 && next->is_sound;
    uint64_t limit = is_sealed ? next->previous_end : file->size;
    enum wal_step step = WAL_STEP_END;
    enum err_code code;
    int fd;

    code = wal_segment_open(&fd, &look->header, look->dir_fd, file->number, err);
    if (code != ERR_OK)
        return code;
    segment_path(look, file->number);
    if (look->is_continuous && memcmp(look->cursor.next, look->header.start,
                                      look->out->partitions * sizeof(look->cursor.next[0])) != 0)
        damage(look, WAL_SEGMENT_FIXED, "its start offsets do not follow the segment before");
    if (!is_sealed && look->same_boot && file->number == look->floor.segment)
        limit = MIN_OF(limit, look->floor.byte);
    wal_cursor_enter(&look->cursor, fd, &look->header);
    code = walk(look, limit, &step, err);
    if (code == ERR_OK && !is_sealed)
        code = judge_tail(look, file, step, err);
    else if (code == ERR_OK && step == WAL_STEP_BAD)
        damage(look, look->cursor.at, look->cursor.why);
    look->is_continuous = step == WAL_STEP_END;
    look->out->bytes += look->cursor.at;
    memcpy(look->out->end, look->cursor.next, sizeof(look->out->end));
    (void)close(fd);
    return code;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err_code open_folder(struct look *look, struct err *err)
{
    const char *folder = look->request->folder;

    look->dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (look->dir_fd < 0 && (errno == ENOENT || errno == ENOTDIR))
        return err_set(err, ERR_NOT_FOUND, "there is no log in %.200s", folder);
    if (look->dir_fd < 0)
        return err_set_errno(err, errno, "folder %.200s", folder);
    return scrub_lock(&look->lock_fd, folder, WAL_LOCK_NAME, err);
}

static enum err_code look_at_all(struct look *look, struct err *err)
{
    enum err_code code = open_folder(look, err);

    if (code == ERR_OK)
        code = wal_segment_list(&look->list, look->dir_fd, err);
    if (code == ERR_OK)
        code = read_control(look, err);
    if (code == ERR_OK)
        code = read_kept(look, err);
    if (code != ERR_OK)
        return code;
    drop_trimmed(&look->list, look->kept.segment);
    if (look->list.count == 0 && look->control == NULL)
        return err_set(err, ERR_NOT_FOUND, "there is no log in %.200s", look->request->folder);
    look->files = array_alloc(look->list.count, sizeof(*look->files));
    if (look->files == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the list of segments");
    code = wal_cursor_init(&look->cursor, err);
    if (code == ERR_OK)
        code = look_at_headers(look, err);
    for (size_t i = 0; code == ERR_OK && i < look->list.count; i++) {
        if (i > 0 && look->files[i - 1].number + 1 != look->files[i].number)
            look->is_continuous = false;
        if (!look->files[i].is_sound) {
            look->is_continuous = false;
            continue;
        }
        code = look_at_frames(look, i, err);
        look->out->segments++;
    }
    if (code == ERR_OK)
        check_control(look);
    return code;
}

enum err_code wal_verify(const struct wal_verify_request *request, struct wal_verified *out,
                         struct err *err)
{
    struct look *look = array_alloc(1, sizeof(*look));
    enum err_code code;

    *out = (struct wal_verified){.is_whole = true};
    if (look == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at the log");
    look->request = request;
    look->scrub = request->scrub;
    look->out = out;
    look->dir_fd = look->lock_fd = -1;
    code = look_at_all(look, err);
    wal_cursor_free(&look->cursor);
    wal_control_unmap(look->control);
    wal_segment_list_free(&look->list);
    free(look->files);
    if (look->lock_fd >= 0)
        (void)close(look->lock_fd); /* nothing was written through it */
    if (look->dir_fd >= 0)
        (void)close(look->dir_fd);
    free(look);
    return code;
}
