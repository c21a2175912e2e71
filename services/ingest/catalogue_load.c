/* The catalogue after a take-over: rows first, then what partition 0 says beyond them, then every
 * pending change is completed in all partitions.  Runs on the appender's thread, before it serves.
 *
 * A change that only the log knows counts as pending: it may be missing from other partitions, and
 * to append it again changes nothing. */
#include <string.h>

#include "common/base/log.h"
#include "services/ingest/catalogue_row.h"

#define LOAD_ITEMS       256
#define LOAD_PATIENCE_NS (30 * NS_PER_S)

static const struct log_context CONTEXT = {.operation = "catalogue"};

/* *whole: there are rows, and each of them says what it is. */
static enum err_code load_rows(struct catalogue *catalogue, bool *whole, struct err *err)
{
    struct meta_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = meta_list(catalogue->meta, "collection/", &rows, &count, err);

    *whole = count > 0;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        enum collection_state state;
        struct collection collection;

        rc = catalogue_row_parse(rows[i].value, rows[i].value_len, &collection, &state, err);
        if (rc == ERR_OK) {
            rc = catalogue_set(catalogue, &collection, state, err);
        } else if (rc == ERR_CORRUPT) { /* the log knows what it was */
            log_err(LOG_ERROR, &CONTEXT, rows[i].key, err);
            err_clear(err);
            *whole = false;
            rc = ERR_OK;
        }
    }
    meta_rows_free(rows, count);
    return rc;
}

/* The rows of another life of the log say nothing of this one. */
static enum err_code forget_rows(struct catalogue *catalogue, struct err *err)
{
    struct meta_row *rows = NULL;
    size_t count = 0;
    enum err_code rc = meta_list(catalogue->meta, "collection/", &rows, &count, err);

    for (size_t i = 0; i < count && rc == ERR_OK; i++)
        rc = meta_delete(catalogue->meta, rows[i].key, META_ANY, err);
    meta_rows_free(rows, count);
    return rc;
}

static enum err_code load_change(struct catalogue *catalogue, const struct record *record,
                                 struct err *err)
{
    struct catalogue_entry entry;
    struct collection collection;
    enum collection_change change;
    enum err_code rc =
        collection_decode(&collection, &change, record->payload, record->payload_len, err);

    if (rc != ERR_OK)
        return rc;
    collection.dropped = change == COLLECTION_DROP;
    if (catalogue_find(catalogue, collection.tenant, collection.name, &entry) &&
        !catalogue_is_news(&entry.collection, &collection))
        return ERR_OK;
    return catalogue_set(catalogue, &collection, COLLECTION_PENDING, err);
}

static enum err_code load_item(struct catalogue *catalogue, struct epoch_state *epochs,
                               const struct wal_item *item, struct err *err)
{
    struct buffer scratch = {0};
    struct record record;
    enum err_code rc = record_peek(&record, item->data, item->len, err);

    /* A trimmed log begins with a record that was written in the epoch in force. */
    if (rc == ERR_OK && epochs->epoch == 0 && item->offset > 0 &&
        record.op == RECORD_VERSION_VECTOR)
        epochs->epoch = record.epoch;
    if (rc != ERR_OK || !epoch_admit(epochs, &record, item->offset) ||
        record.op != RECORD_COLLECTION)
        return rc;
    rc = record_decode(&record, item->data, item->len, &scratch, err);
    if (rc == ERR_OK)
        rc = load_change(catalogue, &record, err);
    buffer_free(&scratch);
    return rc;
}

static enum err_code load_log(struct catalogue *catalogue, const struct catalogue_mark *mark,
                              struct err *err)
{
    struct sequencer *s = catalogue->sequencer;
    struct epoch_state epochs = {.epoch = mark->epoch};
    uint64_t position = mark->position, end = sequencer_end(s, 0);
    struct wal_item items[LOAD_ITEMS];
    struct wal_reader *reader = NULL;
    uint32_t partition = 0;
    enum err_code rc;
    size_t count;

    if (position >= end)
        return ERR_OK;
    rc = wal_reader_open(&reader, s->wal, &partition, &position, 1, err);
    while (rc == ERR_OK && position < end) {
        rc = wal_reader_next(reader, items, LOAD_ITEMS, &count,
                             env_boot_ns(catalogue->env) + LOAD_PATIENCE_NS, err);
        if (rc == ERR_OK && count == 0)
            rc = err_set(err, ERR_TIMEOUT, "partition 0 cannot be read");
        for (size_t i = 0; i < count && rc == ERR_OK; i++) {
            rc = load_item(catalogue, &epochs, &items[i], err);
            if (rc != ERR_OK)
                (void)err_wrap(err, "partition 0, offset %llu",
                               (unsigned long long)items[i].offset);
            position = items[i].offset + 1;
        }
    }
    if (reader != NULL)
        wal_reader_close(reader);
    return rc;
}

enum err_code catalogue_load(struct catalogue *catalogue, struct err *err)
{
    struct sequencer *s = catalogue->sequencer;
    struct catalogue_mark mark;
    struct collection pending;
    uint64_t first = 0;
    bool whole = false;
    enum err_code rc = catalogue_mark_get(catalogue, &mark, err);

    catalogue_clear(catalogue);
    if (rc == ERR_OK && mark.other_log)
        rc = forget_rows(catalogue, err);
    if (rc == ERR_OK)
        rc = load_rows(catalogue, &whole, err);
    if (rc == ERR_OK)
        rc = wal_first(s->wal, 0, &first, err);
    /* A mark beyond the end, without rows or with a damaged one, is not to be trusted. */
    if (rc == ERR_OK && (mark.position > sequencer_end(s, 0) || mark.position < first || !whole))
        mark = (struct catalogue_mark){.position = first};
    if (rc == ERR_OK)
        rc = load_log(catalogue, &mark, err);
    while (rc == ERR_OK && catalogue_next_pending(catalogue, &pending))
        rc = catalogue_complete(catalogue, &pending, 0, NULL, err);
    if (rc == ERR_OK)
        catalogue_note_position(catalogue);
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "catalogue");
}
