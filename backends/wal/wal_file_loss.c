/* What the log loses when it is cut at damage: see wal_file_internal.h.
 *
 * Lost is, in each partition, what stands between the offset that is due at the cut and the highest
 * end that anything still tells: the control page, if it is this log's; the headers of the segments
 * behind the cut, which say with which offsets they begin; the good frames behind the damage.  A
 * frame's place is not known there, so it is looked for at each multiple of 8.  Bytes that nothing
 * vouches for any more say nothing, so what is told is at least what is lost; it is all of it as
 * long as the page or a later segment is whole.
 */
#include "backends/wal/wal_file_internal.h"

#include <assert.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/log.h"

#define TRIES_MAX  1000u /* places of a segment that look like a frame and are none */
#define LINE_BYTES 2000u /* of one line of the log; few enough lines for none to be held back */

struct search {
    const struct wal_loss_question *question;
    struct wal_loss *loss;
    struct wal_cursor cursor; /* its window only */
    struct wal_segment_header header;
};

static void raise_end(struct search *search, uint32_t partition, uint64_t end)
{
    uint64_t *to = &search->loss->to[partition];

    *to = MAX_OF(*to, end);
}

/* --- frames ---------------------------------------------------------------------------------- */

static void take_frame(struct search *search, const struct wal_frame *frame)
{
    if (frame->partition < search->loss->partitions && frame->offset < UINT64_MAX)
        raise_end(search, frame->partition, frame->offset + 1);
}

/* Every good frame from a byte of a segment to its end.  Bounded for hostile bytes: what only looks
 * like a long frame has to be read and summed to know it. */
static enum err_code scan(struct search *search, uint64_t from, uint64_t to, struct err *err)
{
    struct wal_cursor *cursor = &search->cursor;
    uint32_t tries = 0;

    cursor->at = cursor->window_at = from;
    cursor->window_len = 0;
    while (cursor->at < to && tries < TRIES_MAX) {
        size_t skip = (size_t)(cursor->at - cursor->window_at);
        size_t left = cursor->window_len > skip ? cursor->window_len - skip : 0;
        struct wal_frame frame;
        enum wal_frame_state state =
            wal_frame_decode(&frame, cursor->window + (left == 0 ? 0 : skip), left, cursor->seed);

        if (state == WAL_FRAME_SHORT && frame.size <= to - cursor->at && !(skip == 0 && left > 0)) {
            enum err_code code = wal_cursor_fill(cursor, to, err);

            if (code != ERR_OK)
                return code;
            if (cursor->window_len == 0)
                break;
            continue;
        }
        if (state == WAL_FRAME_GOOD)
            take_frame(search, &frame);
        tries += state != WAL_FRAME_GOOD && frame.size > WAL_FRAME_HEADER;
        cursor->at += state == WAL_FRAME_GOOD ? frame.size : 8;
    }
    return ERR_OK;
}

static uint64_t round_up(uint64_t byte)
{
    return (byte + 7) / 8 * 8;
}

/* A file that cannot be read tells nothing; what cannot be opened for damage has no header. */
static enum err_code look_at_segment(struct search *search, uint64_t number, struct err *err)
{
    const struct wal_loss_question *question = search->question;
    char name[WAL_SEGMENT_NAME_BYTES];
    struct stat info;
    uint64_t from = wal_segment_header_size(search->loss->partitions), to;
    enum err_code code = ERR_OK;
    int fd;

    wal_segment_name(name, number);
    fd = openat(question->dir_fd, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0)
        return ERR_OK;
    if (fstat(fd, &info) == 0) {
        to = (uint64_t)info.st_size;
        if (number == question->cut.segment)
            from = question->cut.byte;
        if (question->end.segment == number)
            to = MIN_OF(to, question->end.byte);
        search->cursor.fd = fd;
        search->cursor.segment = number;
        search->cursor.seed = wal_frame_seed(search->loss->region, number);
        if (round_up(from) < to)
            code = scan(search, round_up(from), to, err);
    }
    close(fd);
    return code;
}

/* --- headers --------------------------------------------------------------------------------- */

/* A header behind the cut says how far the partitions had come.  The first one that is good says
 * which log this is, if nothing else did. */
static void look_at_header(struct search *search, uint64_t number)
{
    struct wal_loss *loss = search->loss;
    struct err ignored = {0};
    int fd;

    if (wal_segment_open(&fd, &search->header, search->question->dir_fd, number, &ignored) !=
        ERR_OK)
        return;
    close(fd);
    if (loss->region == 0) {
        loss->region = search->header.region;
        loss->partitions = search->header.partitions;
    }
    if (search->header.region != loss->region || search->header.partitions != loss->partitions)
        return;
    for (uint32_t p = 0; p < loss->partitions; p++)
        raise_end(search, p, search->header.start[p]);
}

static void look_at_control(struct search *search)
{
    const struct wal_control *control = search->question->control;
    struct wal_loss *loss = search->loss;

    if (control == NULL || !wal_control_place_is_sound(control) ||
        wal_control_place(control).segment == 0)
        return;
    if (loss->region == 0) {
        loss->region = control->region;
        loss->partitions = control->partitions;
    }
    if (control->region != loss->region || control->partitions != loss->partitions)
        return;
    for (uint32_t p = 0; p < loss->partitions; p++)
        raise_end(search, p, atomic_load_explicit(&control->end[p], memory_order_relaxed));
}

/* --- the whole ------------------------------------------------------------------------------- */

static bool is_behind_cut(const struct wal_loss_question *question, uint64_t number)
{
    return number >= question->cut.segment &&
           (question->end.segment == 0 || number <= question->end.segment);
}

static enum err_code search_all(struct search *search, struct err *err)
{
    const struct wal_loss_question *question = search->question;
    enum err_code code = wal_cursor_init(&search->cursor, err);

    look_at_control(search);
    for (size_t i = 0; i < question->list->count; i++)
        if (is_behind_cut(question, question->list->numbers[i]))
            look_at_header(search, question->list->numbers[i]);
    for (size_t i = 0; code == ERR_OK && search->loss->region != 0 && i < question->list->count;
         i++)
        if (is_behind_cut(question, question->list->numbers[i]))
            code = look_at_segment(search, question->list->numbers[i], err);
    wal_cursor_free(&search->cursor);
    return code;
}

enum err_code wal_file_find_loss(struct wal_loss *out, const struct wal_loss_question *question,
                                 struct err *err)
{
    struct search *search = array_alloc(1, sizeof(*search));
    enum err_code code;

    *out = (struct wal_loss){.region = question->region, .partitions = question->partitions};
    if (search == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at the log");
    search->question = question;
    search->loss = out;
    code = search_all(search, err);
    free(search);
    for (uint32_t p = 0; p < out->partitions; p++) {
        out->from[p] = question->next[p];
        out->to[p] = MAX_OF(out->to[p], out->from[p]);
        out->entries += out->to[p] - out->from[p];
    }
    return code;
}

size_t wal_loss_text(const struct wal_loss *loss, uint32_t *partition, char *out, size_t size)
{
    size_t len = 0;

    assert(size > 0);
    out[0] = '\0';
    for (; *partition < loss->partitions; ++*partition) {
        uint32_t p = *partition;
        int more;

        if (loss->to[p] == loss->from[p])
            continue;
        more = snprintf(out + len, size - len, "%spartition %u: %" PRIu64 " to %" PRIu64,
                        len == 0 ? "" : ", ", p, loss->from[p], loss->to[p] - 1);
        if (more < 0 || (size_t)more >= size - len) {
            out[len] = '\0';
            break;
        }
        len += (size_t)more;
    }
    return len;
}

void wal_loss_tell(const struct wal_loss *loss)
{
    char text[LINE_BYTES];
    uint32_t partition = 0;

    while (wal_loss_text(loss, &partition, text, sizeof(text)) > 0)
        log_warn(NULL, "entries of the log are lost", LOG_TEXT("offsets", text));
}
