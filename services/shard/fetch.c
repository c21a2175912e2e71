/* Records without a search: by ids, in id order, counted.
 *
 * The ids of a collection stand partition by partition in the store: a scroll merges as many
 * sorted streams as partitions are asked, through a heap of their next ids.  Failure modes: the
 * deadline, looked at every 1,024 records and more often where a filter reads long metadata; no
 * memory to evaluate the filter, for what it says then may be wrong. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "services/shard/ask.h"

#define RECORD_WORK    64      /* of any record, beside the bytes of metadata that a filter reads */
#define WORK_PER_CHECK KIB(64) /* between two looks at the clock */

static int compare_ids(const char *a, size_t a_len, const char *b, size_t b_len)
{
    size_t len = MIN_OF(a_len, b_len);
    int order = len == 0 ? 0 : memcmp(a, b, len);

    return order != 0 ? order : (a_len > b_len) - (a_len < b_len);
}

/* --- by ids ------------------------------------------------------------------------------------
 */

/* When the id was deleted: its tombstone's stamp, or that of a truncation which took it along. */
static enum err_code find_deleted(struct ask *ask, struct wire_row *out, const struct wire_id *id,
                                  struct err *err)
{
    struct shard *shard = ask->shard;
    uint32_t partition = record_partition(id->data, id->len, ask->partitions_all);
    struct id_key key = id_key_of(ask->collection->number, partition, id->data, id->len);
    struct id_entry entry = {0};
    struct stamp truncate = {0};
    enum err_code code;
    bool is_same;

    if (!partition_set_has(&ask->asked, partition))
        return ERR_NOT_FOUND;
    code = id_entry_get(&entry, ask->txn, &key, err);
    if (code != ERR_OK && code != ERR_NOT_FOUND)
        return code;
    pthread_mutex_lock(&shard->lock);
    is_same = ask->generation == shard->generation;
    if (is_same)
        truncate = ask->collection->parts[shard->slot_of[partition]].truncate;
    pthread_mutex_unlock(&shard->lock);
    if (!is_same)
        return err_set(err, ERR_UNAVAILABLE, "the shard begins anew");
    if (stamp_compare(truncate, entry.stamp) > 0)
        entry.stamp = truncate;
    if (stamp_is_none(entry.stamp))
        return ERR_NOT_FOUND;
    *out = (struct wire_row){
        .id = id->data, .id_len = id->len, .stamp = entry.stamp, .partition = partition};
    return ERR_OK;
}

enum err_code fetch_get(struct ask *ask, struct err *err)
{
    const struct wire_question *question = &ask->question;
    bool deleted = (question->include & INCLUDE_DELETED) != 0;
    enum err_code code = ask_make_rows(ask, question->id_count, err);

    for (size_t i = 0; code == ERR_OK && i < question->id_count; i++) {
        struct wire_row *out = &ask->answer.rows[ask->answer.row_count];
        struct row row;
        uint32_t ordinal;

        code = ask_find(ask, &row, &ordinal, &question->ids[i], err);
        if (code == ERR_OK)
            code = ask_fill_row(ask, out, &row, ordinal, err);
        else if (code == ERR_NOT_FOUND && deleted)
            code = find_deleted(ask, out, &question->ids[i], err);
        if (code == ERR_OK)
            ask->answer.row_count++;
        else if (code == ERR_NOT_FOUND)
            code = ERR_OK;
    }
    return code;
}

static int compare_wire_ids(const void *a, const void *b)
{
    const struct wire_id *x = a;
    const struct wire_id *y = b;

    return compare_ids(x->data, x->len, y->data, y->len);
}

/* The ids that the filter restricts to, sorted, each once; NULL and *count 0 without memory. */
static struct wire_id *restricted_ids(struct ask *ask, const struct json_text *ids, size_t *count)
{
    struct wire_id *sorted = arena_alloc(&ask->req->arena, *count, sizeof(*sorted));
    size_t kept = 0;

    if (sorted == NULL)
        return NULL;
    for (size_t i = 0; i < *count; i++)
        sorted[i] = (struct wire_id){.data = ids[i].data, .len = ids[i].len};
    qsort(sorted, *count, sizeof(*sorted), compare_wire_ids);
    for (size_t i = 0; i < *count; i++) {
        if (kept == 0 || compare_wire_ids(&sorted[kept - 1], &sorted[i]) != 0)
            sorted[kept++] = sorted[i];
    }
    *count = kept;
    return sorted;
}

/* --- scrolling ---------------------------------------------------------------------------------
 */

/* The ids of one partition, in order, from behind `after`. */
struct stream {
    struct store_cursor *cursor;
    uint32_t partition;
    const char *id; /* the next live one */
    size_t id_len;
    uint32_t ordinal;
};

struct scroll {
    struct ask *ask;
    struct filter_scratch scratch;
    struct stream *streams; /* a heap of those that have a next id, the lowest first */
    size_t count;
    uint64_t work; /* since the last look at the clock */
};

static enum err_code spend(struct scroll *scroll, uint64_t work, struct err *err)
{
    scroll->work += work;
    if (scroll->work < WORK_PER_CHECK)
        return ERR_OK;
    scroll->work = 0;
    return ask_check_deadline(scroll->ask, err);
}

/* Does the row pass the filter?  Errors: ERR_TIMEOUT, ERR_NO_MEMORY. */
static enum err_code judge(struct scroll *scroll, const struct row *row, bool *passes,
                           struct err *err)
{
    const struct filter *filter = scroll->ask->filter;

    *passes = filter_matches(filter, row->id, row->id_len, row->metadata, row->metadata_len,
                             &scroll->scratch);
    if (scroll->scratch.failed)
        return err_set(err, ERR_NO_MEMORY, "no memory to evaluate the filter");
    return filter == NULL ? ERR_OK : spend(scroll, RECORD_WORK + row->metadata_len, err);
}

/* Move to the next live id; id NULL: the end. */
static enum err_code stream_next(struct scroll *scroll, struct stream *stream, struct err *err)
{
    const struct wire_id *after = &scroll->ask->question.after;
    uint32_t collection = scroll->ask->collection->number;
    enum err_code code = ERR_OK;

    stream->id = NULL;
    while (code == ERR_OK && stream->id == NULL) {
        struct store_value key, value;
        struct id_entry entry;
        const char *id;
        size_t id_len;
        bool more;

        code = store_cursor_next(stream->cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !id_key_is_of(key, collection, stream->partition))
            break;
        code = id_entry_decode(&entry, value, err);
        if (code == ERR_OK)
            code = spend(scroll, RECORD_WORK, err);
        id = (const char *)key.data + ID_PREFIX_BYTES;
        id_len = key.len - ID_PREFIX_BYTES;
        if (code != ERR_OK || !entry.is_live ||
            (after->len > 0 && compare_ids(id, id_len, after->data, after->len) <= 0))
            continue;
        stream->id = id;
        stream->id_len = id_len;
        stream->ordinal = entry.ordinal;
    }
    return code;
}

static bool is_before(const struct stream *a, const struct stream *b)
{
    return compare_ids(a->id, a->id_len, b->id, b->id_len) < 0;
}

static void sift_down(struct scroll *scroll, size_t at)
{
    for (;;) {
        size_t least = at;
        struct stream swapped;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < scroll->count; child++) {
            if (is_before(&scroll->streams[child], &scroll->streams[least]))
                least = child;
        }
        if (least == at)
            return;
        swapped = scroll->streams[at];
        scroll->streams[at] = scroll->streams[least];
        scroll->streams[least] = swapped;
        at = least;
    }
}

static void drop_stream(struct scroll *scroll, size_t at)
{
    store_cursor_close(scroll->streams[at].cursor);
    scroll->streams[at] = scroll->streams[--scroll->count];
}

static enum err_code open_streams(struct scroll *scroll, struct err *err)
{
    struct ask *ask = scroll->ask;
    const struct wire_id *after = &ask->question.after;

    scroll->streams =
        arena_alloc(&ask->req->arena, ask->answer.served_count, sizeof(*scroll->streams));
    if (scroll->streams == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a scroll");
    for (size_t i = 0; i < ask->answer.served_count; i++) {
        struct stream *stream = &scroll->streams[scroll->count];
        uint32_t partition = ask->answer.served[i].partition;
        struct id_key from = id_key_of(ask->collection->number, partition, after->data, after->len);
        enum err_code code =
            store_cursor_open(&stream->cursor, ask->txn, STORE_IDS, id_key_value(&from), err);

        if (code != ERR_OK)
            return code;
        stream->partition = partition;
        scroll->count++;
        code = stream_next(scroll, stream, err);
        if (code != ERR_OK)
            return code;
        if (stream->id == NULL)
            drop_stream(scroll, scroll->count - 1);
    }
    for (size_t i = scroll->count / 2; i-- > 0;)
        sift_down(scroll, i);
    return ERR_OK;
}

/* Take a row into the page; *is_full: there was no room, and there is more. */
static enum err_code take(struct scroll *scroll, const struct row *row, uint32_t ordinal,
                          bool *is_full, struct err *err)
{
    struct ask *ask = scroll->ask;
    struct wire_row *out = &ask->answer.rows[ask->answer.row_count];
    bool passes;
    enum err_code code = judge(scroll, row, &passes, err);

    *is_full = false;
    if (code != ERR_OK || !passes)
        return code;
    if (ask->answer.row_count == ask->question.limit) {
        *is_full = true;
        return ERR_OK;
    }
    code = ask_fill_row(ask, out, row, ordinal, err);
    /* A page that would become too large ends early. */
    if (code == ERR_PAYLOAD_TOO_LARGE && ask->answer.row_count > 0) {
        err_clear(err);
        *is_full = true;
        return ERR_OK;
    }
    if (code == ERR_OK)
        ask->answer.row_count++;
    return code;
}

static enum err_code scroll_streams(struct scroll *scroll, struct err *err)
{
    struct ask *ask = scroll->ask;
    enum err_code code = open_streams(scroll, err);

    while (code == ERR_OK && scroll->count > 0 && !ask->answer.more) {
        struct stream *stream = &scroll->streams[0];
        struct row row;

        code = row_get(&row, ask->txn, ask->collection->number, stream->ordinal, err);
        if (code == ERR_NOT_FOUND)
            code = err_set(err, ERR_CORRUPT, "a row of the store is missing");
        if (code == ERR_OK)
            code = take(scroll, &row, stream->ordinal, &ask->answer.more, err);
        if (code == ERR_OK)
            code = stream_next(scroll, stream, err);
        if (code == ERR_OK && stream->id == NULL)
            drop_stream(scroll, 0);
        if (code == ERR_OK && scroll->count > 0)
            sift_down(scroll, 0);
    }
    while (scroll->count > 0)
        drop_stream(scroll, scroll->count - 1);
    return code;
}

static enum err_code scroll_ids(struct scroll *scroll, const struct json_text *ids, size_t count,
                                struct err *err)
{
    struct ask *ask = scroll->ask;
    const struct wire_id *after = &ask->question.after;
    struct wire_id *sorted = restricted_ids(ask, ids, &count);
    enum err_code code = ERR_OK;

    if (sorted == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %zu ids", count);
    for (size_t i = 0; code == ERR_OK && i < count && !ask->answer.more; i++) {
        struct row row;
        uint32_t ordinal;

        if (after->len > 0 &&
            compare_ids(sorted[i].data, sorted[i].len, after->data, after->len) <= 0)
            continue;
        code = ask_find(ask, &row, &ordinal, &sorted[i], err);
        if (code == ERR_OK)
            code = take(scroll, &row, ordinal, &ask->answer.more, err);
        if (code == ERR_NOT_FOUND)
            code = ERR_OK;
    }
    return code;
}

enum err_code fetch_scroll(struct ask *ask, struct err *err)
{
    struct scroll scroll = {.ask = ask};
    size_t id_count = 0;
    const struct json_text *ids = ask->filter == NULL ? NULL : filter_ids(ask->filter, &id_count);
    /* One more than the limit: a page is full when the next row has found no room. */
    enum err_code code = ask_make_rows(ask, (size_t)ask->question.limit + 1, err);

    if (code == ERR_OK)
        code = ids != NULL ? scroll_ids(&scroll, ids, id_count, err) : scroll_streams(&scroll, err);
    filter_scratch_free(&scroll.scratch);
    return code;
}

/* --- counting ----------------------------------------------------------------------------------
 */

static enum err_code count_live(struct ask *ask, struct err *err)
{
    for (size_t i = 0; i < ask->answer.served_count; i++) {
        uint64_t live = 0;
        enum err_code code = apply_read_live(&live, ask->txn, ask->collection->number,
                                             ask->answer.served[i].partition, err);

        if (code != ERR_OK)
            return code;
        ask->answer.count += live;
    }
    return ERR_OK;
}

static enum err_code count_ids(struct scroll *scroll, const struct json_text *ids, size_t count,
                               struct err *err)
{
    struct ask *ask = scroll->ask;
    struct wire_id *sorted = restricted_ids(ask, ids, &count);
    enum err_code code = ERR_OK;

    if (sorted == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %zu ids", count);
    for (size_t i = 0; code == ERR_OK && i < count; i++) {
        struct row row;
        uint32_t ordinal;
        bool passes = false;

        code = ask_find(ask, &row, &ordinal, &sorted[i], err);
        if (code == ERR_OK)
            code = judge(scroll, &row, &passes, err);
        ask->answer.count += passes;
        if (code == ERR_NOT_FOUND)
            code = ERR_OK;
    }
    return code;
}

static enum err_code count_rows(struct scroll *scroll, struct err *err)
{
    struct ask *ask = scroll->ask;
    uint32_t collection = ask->collection->number;
    struct ordinal_key from = ordinal_key_of(collection, 0);
    struct store_cursor *cursor = NULL;
    enum err_code code =
        store_cursor_open(&cursor, ask->txn, STORE_ROWS, ordinal_key_value(&from), err);

    while (code == ERR_OK) {
        struct store_value key, value;
        struct row row;
        uint32_t ordinal;
        bool passes = false;
        bool more;

        code = store_cursor_next(cursor, &key, &value, &more, err);
        if (code != ERR_OK || !more || !ordinal_key_is_of(key, collection, &ordinal))
            break;
        code = row_decode(&row, value, err);
        if (code == ERR_OK)
            code = partition_set_has(&ask->asked, row.partition) ? judge(scroll, &row, &passes, err)
                                                                 : spend(scroll, RECORD_WORK, err);
        ask->answer.count += passes;
    }
    if (cursor != NULL)
        store_cursor_close(cursor);
    return code;
}

enum err_code fetch_count(struct ask *ask, struct err *err)
{
    struct scroll scroll = {.ask = ask};
    const struct json_text *ids;
    size_t id_count = 0;
    enum err_code code;

    if (ask->filter == NULL)
        return count_live(ask, err);
    ids = filter_ids(ask->filter, &id_count);
    code = ids != NULL ? count_ids(&scroll, ids, id_count, err) : count_rows(&scroll, err);
    filter_scratch_free(&scroll.scratch);
    return code;
}
