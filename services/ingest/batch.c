/* Batches: encoded records on their way to the log, shared by a handler and the appender.
 *
 * A batch is filled by one thread, then handed over.  It is freed by whoever lets go of it last. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

enum err_code sequence_batch_new(struct sequence_batch **out, struct sequencer *s, struct err *err)
{
    struct sequence_batch *batch = calloc(1, sizeof(*batch));

    *out = NULL;
    if (batch == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a batch");
    env_cond_init(s->env, &batch->done);
    batch->refs = 1;
    *out = batch;
    return ERR_OK;
}

static void batch_free(struct sequence_batch *batch)
{
    assert(batch->refs == 0);
    env_cond_free(&batch->done);
    buffer_free(&batch->bytes);
    free(batch->items);
    free(batch);
}

void batch_unref_locked(struct sequencer *s, struct sequence_batch *batch)
{
    (void)s;
    assert(batch->refs > 0);
    if (--batch->refs == 0)
        batch_free(batch);
}

void sequence_batch_put(struct sequencer *s, struct sequence_batch *batch)
{
    if (batch == NULL)
        return;
    pthread_mutex_lock(&s->lock);
    batch_unref_locked(s, batch);
    pthread_mutex_unlock(&s->lock);
}

void batch_finish(struct sequencer *s, struct sequence_batch *batch, const struct err *outcome)
{
    pthread_mutex_lock(&s->lock);
    assert(batch->state != BATCH_DONE);
    batch->state = BATCH_DONE;
    batch->next = NULL;
    if (outcome != NULL)
        batch->err = *outcome;
    /* Others may have its ids by now, and have decided without it. */
    if (batch->left)
        begin_generation_locked(s);
    env_cond_broadcast(&batch->done);
    batch_unref_locked(s, batch);
    pthread_mutex_unlock(&s->lock);
}

static struct sequence_item *batch_item(struct sequence_batch *batch, struct err *err)
{
    struct sequence_item *items;
    size_t size = batch->size == 0 ? 16 : batch->size * 2;

    assert(batch->state == BATCH_NEW);
    if (batch->count == batch->size) {
        items = array_resize(batch->items, size, sizeof(*items));
        if (items == NULL) {
            (void)err_set(err, ERR_NO_MEMORY, "no memory for a batch");
            return NULL;
        }
        batch->items = items;
        batch->size = size;
    }
    batch->items[batch->count] = (struct sequence_item){.at = batch->bytes.len};
    return &batch->items[batch->count];
}

enum err_code sequence_batch_add(struct sequence_batch *batch, uint32_t partition,
                                 const struct record *record, struct err *err)
{
    struct sequence_item *item = batch_item(batch, err);
    enum err_code rc;

    if (item == NULL)
        return ERR_NO_MEMORY;
    rc = record_encode(record, &batch->bytes, err);
    if (rc != ERR_OK) {
        batch->bytes.len = item->at;
        return rc;
    }
    item->partition = partition;
    item->len = batch->bytes.len - item->at;
    item->vectors = record->vector != NULL;
    item->stamp = record->stamp;
    item->keeps_stamp = !stamp_is_none(record->stamp);
    item->origin_region = record->origin_region;
    item->origin_offset = record->origin_offset;
    batch->count++;
    return ERR_OK;
}

enum err_code sequence_batch_add_encoded(struct sequence_batch *batch, uint32_t partition,
                                         const void *data, size_t len, const struct record *record,
                                         struct err *err)
{
    struct sequence_item *item = batch_item(batch, err);

    if (item == NULL)
        return ERR_NO_MEMORY;
    buffer_append(&batch->bytes, data, len);
    if (buffer_check(&batch->bytes, err) != ERR_OK)
        return ERR_NO_MEMORY;
    item->partition = partition;
    item->len = len;
    item->keeps_stamp = true;
    item->stamp = record->stamp;
    item->origin_region = record->origin_region;
    item->origin_offset = record->origin_offset;
    batch->count++;
    return ERR_OK;
}
