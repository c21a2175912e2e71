/* What a writer does before it may write: find where the committed log ends.
 *
 *   same boot as the control page   the end is its committed place: behind it nothing was
 *                                   acknowledged, and what the page cache shows there may never
 *                                   have reached the disk (a failed sync)
 *   otherwise (the machine went     the last segment is walked through; it ends at the first frame
 *   down, or the page is damaged)   that is not good
 *
 * A place known as committed is the control page's, the end of a segment that another follows, or
 * the start of a later append (wal_frame.batch).  A bad frame below such a place is damage:
 * refused, unless repair is asked for, which cuts there.  All headers are verified, and the frames
 * of the newest VERIFY_BYTES (with repair, or when damage was met: of all); older ones are verified
 * when they are read.  What a cut at damage loses is told by partition and offset, also by the
 * refusal.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/log.h"

#define VERIFY_BYTES MIB(128)
#define EPOCH_MAX    (UINT64_MAX / 2) /* a higher one is damage */
#define PROOFS_MAX   1000u            /* places tried in the search for a frame behind a bad one */

struct found {
    uint64_t number;
    uint64_t size;         /* of the file */
    uint64_t previous_end; /* of the segment before, says its header */
};

struct survey {
    int dir_fd;
    bool same_boot;
    struct wal_place floor; /* known as committed; segment 0: nothing is known */
    uint32_t region;
    uint32_t partitions;
    uint64_t epoch;       /* highest seen */
    struct wal_kept kept; /* what comes before its first segment is none of the log's */
    struct wal_segment_list list;
    struct found *found; /* segments with good headers that follow each other */
    size_t count;
    bool is_damaged;
    struct wal_place damage;
    char why[ERR_MESSAGE_BYTES];
    struct wal_place cut;
    struct wal_cursor cursor;
    struct wal_segment_header header; /* scratch */
    struct wal_loss loss;             /* when it is damaged */
};

/* Note the first damage. */
static void note_damage(struct survey *survey, struct wal_place place, const char *why)
{
    if (survey->is_damaged)
        return;
    survey->is_damaged = true;
    survey->damage = place;
    (void)snprintf(survey->why, sizeof(survey->why), "%s", why);
}

/* --- headers --------------------------------------------------------------------------------- */

/* Whether the header in survey->header follows the segments found so far; notes damage if not. */
static bool header_follows(struct survey *survey)
{
    const struct wal_segment_header *header = &survey->header;
    struct wal_place here = {.segment = header->segment};
    const struct found *before;

    if (header->region != survey->region || header->partitions != survey->partitions ||
        header->region == 0) {
        note_damage(survey, here, "it is of another log");
    } else if (header->epoch < survey->epoch || header->epoch > EPOCH_MAX) {
        note_damage(survey, here, "its file epoch does not follow that of the one before");
    } else if (survey->count > 0) {
        before = &survey->found[survey->count - 1];
        if (header->previous_end < wal_segment_header_size(header->partitions))
            note_damage(survey, here, "it does not follow the one before");
        else if (header->previous_end > before->size)
            note_damage(survey, (struct wal_place){.segment = before->number, .byte = before->size},
                        "the file is cut off");
    }
    return !survey->is_damaged;
}

/* Is what the file trim says of this log, and does the segment that it names begin no later? */
static enum err_code check_kept(const struct survey *survey, struct err *err)
{
    const struct wal_kept *kept = &survey->kept;
    bool fits = kept->region == 0 ||
                (kept->region == survey->region && kept->partitions == survey->partitions);

    for (uint32_t p = 0; fits && p < kept->partitions; p++)
        fits = survey->header.start[p] <= kept->first[p];
    return fits ? ERR_OK : err_set(err, ERR_CORRUPT, "the file trim is of another log");
}

/* Read the header of segment i of the list; damage is noted, other failures are errors. */
static enum err_code survey_header(struct survey *survey, size_t i, struct err *err)
{
    struct wal_place due = {.segment = survey->kept.segment + i};
    struct err damage = {0};
    struct stat info;
    enum err_code code;
    int fd;

    if (survey->list.numbers[i] != due.segment) {
        note_damage(survey, due, "the file is missing");
        return ERR_OK;
    }
    code = wal_segment_open(&fd, &survey->header, survey->dir_fd, due.segment, &damage);
    if (code == ERR_CORRUPT) {
        note_damage(survey, due, damage.message);
        return ERR_OK;
    }
    if (code != ERR_OK)
        return err_set(err, code, "%s", damage.message);
    if (fstat(fd, &info) != 0)
        code = wal_errno(err, errno, "read", due.segment);
    close(fd);
    if (code != ERR_OK)
        return code;
    if (i == 0) {
        survey->region = survey->header.region;
        survey->partitions = survey->header.partitions;
        code = check_kept(survey, err);
        if (code != ERR_OK)
            return code;
    }
    if (!header_follows(survey))
        return ERR_OK;
    survey->found[survey->count++] = (struct found){
        .number = due.segment,
        .size = (uint64_t)info.st_size,
        .previous_end = survey->header.previous_end,
    };
    survey->epoch = MAX_OF(survey->epoch, survey->header.epoch);
    return ERR_OK;
}

/* What the control page knows, if it is this log's. */
static void consult_control(struct survey *survey, const struct wal_control *control)
{
    uint64_t boot;

    survey->floor = (struct wal_place){0};
    if (control == NULL || !wal_control_place_is_sound(control) ||
        wal_control_place(control).segment == 0)
        return;
    if (survey->count > 0 &&
        (control->region != survey->region || control->partitions != survey->partitions))
        return;
    survey->floor = wal_control_place(control);
    boot = atomic_load_explicit(&control->boot, memory_order_relaxed);
    survey->same_boot = boot != 0 && boot == wal_boot_word();
    /* What stands behind the committed place was never told to anybody. */
    while (survey->same_boot && survey->list.count > 0 &&
           survey->list.numbers[survey->list.count - 1] > survey->floor.segment)
        survey->list.count--;
}

static enum err_code survey_headers(struct survey *survey, const struct wal_control *control,
                                    struct err *err)
{
    enum err_code code = ERR_OK;

    survey->found = array_alloc(survey->list.count, sizeof(*survey->found));
    if (survey->found == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the list of segments");
    if (survey->list.count > 0)
        code = survey_header(survey, 0, err);
    consult_control(survey, control);
    for (size_t i = 1; code == ERR_OK && !survey->is_damaged && i < survey->list.count; i++)
        code = survey_header(survey, i, err);
    if (code == ERR_OK && survey->floor.segment >= survey->kept.segment + survey->count)
        note_damage(survey, (struct wal_place){.segment = survey->kept.segment + survey->count},
                    "the file is missing");
    return code;
}

/* --- frames ---------------------------------------------------------------------------------- */

enum err_code wal_cursor_find_proof(struct wal_cursor *cursor, uint64_t size, bool *is_proven,
                                    struct err *err)
{
    uint64_t bad = cursor->at;
    uint32_t tries = 0;
    struct wal_frame frame;

    *is_proven = false;
    cursor->window_len = 0;
    cursor->window_at = bad;
    for (cursor->at = bad + 8; cursor->at < size && tries < PROOFS_MAX;) {
        size_t skip = (size_t)(cursor->at - cursor->window_at);
        size_t left = cursor->window_len > skip ? cursor->window_len - skip : 0;
        enum wal_frame_state state =
            wal_frame_decode(&frame, cursor->window + (left == 0 ? 0 : skip), left, cursor->seed);

        if (state == WAL_FRAME_SHORT && frame.size <= size - cursor->at &&
            !(skip == 0 && left > 0)) {
            enum err_code code = wal_cursor_fill(cursor, size, err);

            if (code != ERR_OK)
                return code;
            tries += frame.size > WAL_FRAME_HEADER;
            if (cursor->window_len == 0)
                break;
            continue;
        }
        if (state == WAL_FRAME_GOOD && frame.epoch == cursor->epoch && frame.batch > bad) {
            *is_proven = true;
            break;
        }
        tries += state != WAL_FRAME_GOOD && frame.size > WAL_FRAME_HEADER;
        cursor->at += state == WAL_FRAME_GOOD ? frame.size : 8;
    }
    cursor->at = bad;
    return ERR_OK;
}

/* Walk to limit, or to the first frame that is not good. */
static enum err_code walk(struct wal_cursor *cursor, uint64_t limit, enum wal_step *step,
                          struct err *err)
{
    struct wal_frame frame;
    enum err_code code = ERR_OK;

    do {
        *step = wal_cursor_next(cursor, limit, &frame);
        if (*step == WAL_STEP_REFILL)
            code = wal_cursor_fill(cursor, limit, err);
    } while (code == ERR_OK && (*step == WAL_STEP_FRAME || *step == WAL_STEP_REFILL));
    return code;
}

/* Judge where the last segment ended, at the cursor. */
static enum err_code judge_tail(struct survey *survey, const struct found *last, enum wal_step step,
                                struct err *err)
{
    struct wal_cursor *cursor = &survey->cursor;
    struct wal_place here = {.segment = last->number, .byte = cursor->at};
    const char *why = step == WAL_STEP_BAD ? cursor->why : "the file is cut off";
    bool is_proven = false;
    enum err_code code;

    if (survey->floor.segment == last->number && cursor->at < survey->floor.byte) {
        note_damage(survey, here, why);
        return ERR_OK;
    }
    if (step != WAL_STEP_BAD || survey->is_damaged)
        return ERR_OK;
    code = wal_cursor_find_proof(cursor, last->size, &is_proven, err);
    if (is_proven)
        note_damage(survey, here, why);
    return code;
}

/* Walk through segment i of those found.  Its frames end at `cut` afterwards.  Damage makes it the
 * last of them (or, where its start is wrong, the one before), and comes before any noted so far.
 */
static enum err_code survey_frames(struct survey *survey, size_t i, bool is_first, struct err *err)
{
    const struct found *found = &survey->found[i];
    struct wal_cursor *cursor = &survey->cursor;
    bool is_last = i + 1 == survey->count;
    uint64_t limit = is_last ? found->size : survey->found[i + 1].previous_end;
    enum wal_step step;
    enum err_code code;
    int fd;

    code = wal_segment_open(&fd, &survey->header, survey->dir_fd, found->number, err);
    if (code != ERR_OK)
        return code;
    if (!is_first && memcmp(cursor->next, survey->header.start,
                            survey->partitions * sizeof(cursor->next[0])) != 0) {
        survey->is_damaged = false;
        note_damage(survey, (struct wal_place){.segment = found->number},
                    "its start offsets do not fit");
        survey->count = i;
        close(fd);
        return ERR_OK;
    }
    if (is_last && survey->same_boot && found->number == survey->floor.segment)
        limit = MIN_OF(limit, survey->floor.byte);
    wal_cursor_enter(cursor, fd, &survey->header);
    code = walk(cursor, limit, &step, err);
    survey->cut = (struct wal_place){.segment = found->number, .byte = cursor->at};
    if (code == ERR_OK && is_last)
        code = judge_tail(survey, found, step, err);
    else if (code == ERR_OK && step == WAL_STEP_BAD) {
        survey->is_damaged = false;
        note_damage(survey, survey->cut, cursor->why);
        survey->count = i + 1;
    }
    close(fd);
    return code;
}

static enum err_code survey_tail(struct survey *survey, bool all, struct err *err)
{
    size_t first = survey->count;
    uint64_t bytes = 0;
    enum err_code code = ERR_OK;

    while (first > 0 && (all || bytes < VERIFY_BYTES))
        bytes += survey->found[--first].size;
    for (size_t i = first; code == ERR_OK && i < survey->count; i++) {
        code = survey_frames(survey, i, i == first, err);
    }
    return code;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err_code refuse(const struct survey *survey, struct err *err)
{
    char offsets[100];
    uint32_t partition = 0;

    if (wal_loss_text(&survey->loss, &partition, offsets, sizeof(offsets)) == 0)
        return err_set(err, ERR_CORRUPT,
                       "segment %" PRIu64 " is damaged at byte %" PRIu64
                       ": %.120s; --repair cuts there and loses no entry that anything tells of",
                       survey->damage.segment, survey->damage.byte, survey->why);
    return err_set(err, ERR_CORRUPT,
                   "segment %" PRIu64 " is damaged at byte %" PRIu64
                   ": %.100s; --repair cuts there and loses %" PRIu64 " entries: %s%s",
                   survey->damage.segment, survey->damage.byte, survey->why, survey->loss.entries,
                   offsets, partition < survey->loss.partitions ? " and more" : "");
}

/* What a cut costs. */
static enum err_code find_loss(struct survey *survey, const struct wal_control *control,
                               struct err *err)
{
    struct wal_loss_question question = {
        .dir_fd = survey->dir_fd,
        .list = &survey->list,
        .control = control,
        .region = survey->region,
        .partitions = survey->partitions,
        .cut = survey->cut,
        .next = survey->cursor.next,
    };

    if (survey->same_boot)
        question.end = survey->floor;
    return wal_file_find_loss(&survey->loss, &question, err);
}

/* Make the end of the log be where the survey says, on the disk too. */
static enum err_code cut(struct wal_file *file, const struct survey *survey, struct err *err)
{
    char name[WAL_SEGMENT_NAME_BYTES];
    enum err_code code = wal_segment_remove_after(file->dir_fd, survey->cut.segment, err);

    if (code != ERR_OK)
        return code;
    wal_segment_name(name, survey->cut.segment);
    file->fd = openat(file->dir_fd, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (file->fd < 0)
        return wal_errno(err, errno, "open", survey->cut.segment);
    if (ftruncate(file->fd, (off_t)survey->cut.byte) != 0)
        return wal_errno(err, errno, "cut", survey->cut.segment);
    if (fdatasync(file->fd) != 0)
        return wal_errno(err, errno, "sync", survey->cut.segment);
    return ERR_OK;
}

static enum err_code conclude(struct wal_file *file, struct survey *survey, struct err *err)
{
    enum err_code code;

    file->wal.region = survey->region;
    file->wal.partitions = survey->partitions;
    file->segment = survey->cut.segment;
    file->committed = survey->cut.byte;
    file->epoch = survey->epoch;
    atomic_store(&file->kept_segment, survey->kept.segment);
    file->sealed_bytes = 0;
    for (size_t i = 1; i < survey->count; i++)
        file->sealed_bytes += survey->found[i].previous_end;
    memcpy(file->next, survey->cursor.next, sizeof(file->next));
    if (file->control != NULL && (file->control->region != survey->region ||
                                  file->control->partitions != survey->partitions)) {
        wal_control_unmap(file->control);
        file->control = NULL;
    }
    if (file->control != NULL) {
        /* Readers may know of a take-over whose segment is behind the cut. */
        uint64_t generation =
            atomic_load_explicit(&file->control->generation, memory_order_relaxed);

        if (generation <= EPOCH_MAX)
            file->epoch = MAX_OF(file->epoch, generation);
    }
    code = cut(file, survey, err);
    return code == ERR_OK ? wal_kept_lower(&survey->kept, file->dir_fd, file->next, err) : code;
}

/* The segments that are kept; of those below, what an interrupted trimming left goes. */
static enum err_code list_kept(struct survey *survey, struct err *err)
{
    enum err_code code = wal_kept_load(&survey->kept, survey->dir_fd, err);

    if (code == ERR_OK)
        code = wal_segment_remove_before(survey->dir_fd, survey->kept.segment, err);
    if (code == ERR_OK)
        code = wal_segment_list(&survey->list, survey->dir_fd, err);
    if (code == ERR_OK && survey->list.count == 0 && survey->kept.region != 0)
        code = err_set(err, ERR_CORRUPT, "all segments are missing, which began at number %" PRIu64,
                       survey->kept.segment);
    return code;
}

static enum err_code survey_run(struct survey *survey, struct wal_file *file,
                                const struct wal_options *options, struct err *err)
{
    enum err_code code = list_kept(survey, err);
    bool all;

    if (code == ERR_OK)
        code = wal_cursor_init(&survey->cursor, err);
    if (code == ERR_OK)
        code = survey_headers(survey, file->control, err);
    if (code != ERR_OK)
        return code;
    if (survey->count > 0 && options->partitions != 0 && options->partitions != survey->partitions)
        return err_set(err, ERR_CONFIG, "the log has %u partitions, not %u", survey->partitions,
                       options->partitions);
    all = options->repair || survey->is_damaged;
    code = survey_tail(survey, all, err);
    /* Where it is cut is known when all of it was looked at. */
    if (code == ERR_OK && survey->is_damaged && !all)
        code = survey_tail(survey, true, err);
    if (code == ERR_OK && survey->is_damaged)
        code = find_loss(survey, file->control, err);
    if (code == ERR_OK && survey->is_damaged && !options->repair)
        return refuse(survey, err);
    return code;
}

enum err_code wal_file_find_end(struct wal_file *file, const struct wal_options *options,
                                bool *fresh, struct err *err)
{
    struct survey *survey = array_alloc(1, sizeof(*survey));
    enum err_code code;

    if (survey == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to open the log");
    survey->dir_fd = file->dir_fd;
    code = survey_run(survey, file, options, err);
    if (code == ERR_OK && survey->is_damaged) {
        log_warn(NULL, "the log is cut at damage", LOG_U64("segment", survey->damage.segment),
                 LOG_U64("byte", survey->damage.byte), LOG_TEXT("reason", survey->why),
                 LOG_U64("entries_lost", survey->loss.entries));
        wal_loss_tell(&survey->loss);
    }
    *fresh = code == ERR_OK && survey->count == 0;
    if (code == ERR_OK && !*fresh)
        code = conclude(file, survey, err);
    wal_cursor_free(&survey->cursor);
    wal_segment_list_free(&survey->list);
    free(survey->found);
    free(survey);
    return code;
}
