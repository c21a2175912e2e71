/* What all writes of records share: begin, take ids, commit, answer.
 *
 *   write_begin → write_take → (decide) → write_add … → write_commit → the handler's answer
 *
 * write_end is called in every case.  A commit that failed half-way is answered here in full: 503
 * with an entry per record that was not written and a token for those that were. */
#include <assert.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/json_writer.h"
#include "services/ingest/ingest.h"

#define DOOR_NS  NS_PER_S       /* longer than that nobody waits for the spool to become empty */
#define DEFER_NS (3 * NS_PER_S) /* nor for a log that does not answer, where there is a spool */

void write_set_timeout(struct write *write, uint64_t timeout_ms)
{
    write->deadline_ns = write->req->received_ns + timeout_ms * NS_PER_MS;
}

/* Free bytes of the log's medium below the reserve: 507 before it is full. */
static enum err_code check_room(struct ingest *ingest, struct err *err)
{
    uint64_t used, available;

    if (ingest->setup.reserve_bytes == 0)
        return ERR_OK;
    wal_space(ingest->sequencer.wal, &used, &available);
    if ((used == 0 && available == 0) || available >= ingest->setup.reserve_bytes)
        return ERR_OK;
    return err_set(err, ERR_INSUFFICIENT_STORAGE, "the log's disk has %llu bytes left",
                   (unsigned long long)available);
}

/* The collection that is active; a change of it under way, ours or another region's, is waited for.
 * Nothing is held meanwhile. */
static enum err_code find_collection(struct write *write, struct collection *out)
{
    struct ingest *ingest = write->ingest;
    const struct request *req = write->req;
    struct busy_key key = {.incarnation = CATALOGUE_NAMES,
                           .id = req->params[0],
                           .len = req->param_lens[0],
                           .mode = BUSY_SHARED};
    struct err *err = &write->req->err, passing = {0};
    struct busy_claim claim = {0};
    enum err_code rc =
        catalogue_active(&ingest->catalogue, TENANT_DEFAULT, req->params[0], out, &passing);

    if (rc == ERR_UNAVAILABLE) {
        rc = busy_take(ingest->busy, &claim, &key, 1, write->deadline_ns, err);
        busy_release(&claim);
        return rc == ERR_OK
                   ? catalogue_active(&ingest->catalogue, TENANT_DEFAULT, req->params[0], out, err)
                   : rc;
    }
    if (rc != ERR_OK)
        *err = passing;
    return rc;
}

enum err_code write_begin(struct write *write, struct request *req)
{
    struct ingest *ingest = req->state;
    struct err *err = &req->err;
    enum err_code rc;
    bool is_away;

    *write = (struct write){.ingest = ingest, .req = req};
    write_set_timeout(write, WRITE_DEADLINE_MS_DEFAULT);
    req->collection = req->params[0];
    rc = request_idempotency_key(req, &write->idempotency_key);
    if (rc != ERR_OK)
        return rc;
    /* Before any id is taken: the replay waits for ids. */
    if (ingest->spool != NULL)
        spool_pass_door(ingest->spool,
                        MIN_OF(write->deadline_ns, env_boot_ns(ingest->env) + DOOR_NS));
    rc = sequencer_check(&ingest->sequencer, &write->generation, &is_away, err);
    if (rc != ERR_OK && ingest->spool != NULL && is_away) {
        write->away = *err;
        err_clear(err);
        rc = ERR_OK;
    }
    if (rc == ERR_OK)
        rc = ingest_admit(ingest, &write->counted, err);
    if (rc == ERR_OK)
        rc = collection_check_name(req->params[0], req->param_lens[0], err);
    if (rc == ERR_OK)
        rc = find_collection(write, &write->collection);
    if (rc == ERR_OK)
        rc = check_room(ingest, err);
    return rc;
}

enum err_code write_expect_json(struct request *req)
{
    static const char NDJSON[] = "application/x-ndjson";
    const char *type = req->header == NULL ? NULL : req->header(req, "Content-Type");

    if (type != NULL && strncasecmp(type, NDJSON, sizeof(NDJSON) - 1) == 0)
        return err_set(&req->err, ERR_NOT_SUPPORTED, "%s is not supported yet", NDJSON);
    return request_expect_media(req, MEDIA_JSON);
}

enum err_code write_check_wait(const char *text, size_t len, bool *searchable, struct err *err)
{
    *searchable = len == 10 && memcmp(text, "searchable", 10) == 0;
    if (*searchable || (len == 9 && memcmp(text, "committed", 9) == 0))
        return ERR_OK;
    return err_set_at(err, ERR_INVALID_ARGUMENT, "/wait",
                      "wait has to be \"committed\" or \"searchable\"");
}

enum err_code write_check_quorum(struct write *write)
{
    struct ingest *ingest = write->ingest;
    struct err *err = &write->req->err;
    uint32_t regions =
        ingest->setup.cluster == NULL ? 1 : cluster_region_count(ingest->setup.cluster);

    if (write->quorum > regions)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/write_quorum",
                          regions == 1 ? "there is %u region" : "there are %u regions", regions);
    if (write->quorum < 2)
        return ERR_OK;
    write->awaits_quorum = true;
    if (atomic_fetch_add(&ingest->quorum_waits, 1) < QUORUM_WAITS_MAX)
        return ERR_OK;
    return err_set(err, ERR_UNAVAILABLE,
                   "%d writes wait for other regions already; nothing was written",
                   QUORUM_WAITS_MAX);
}

enum err_code ingest_check_spool(struct ingest *ingest, struct err *err)
{
    if (ingest->spool == NULL || !spool_waits(ingest->spool))
        return ERR_OK;
    return err_set(err, ERR_UNAVAILABLE, "earlier writes wait in the spool for the log");
}

enum err_code write_check_spool(struct write *write)
{
    if (write->may_spool)
        return ERR_OK;
    if (write->away.code != ERR_OK) {
        write->req->err = write->away;
        return write->away.code;
    }
    return ingest_check_spool(write->ingest, &write->req->err);
}

enum err_code write_take(struct write *write, const struct wire_id *ids, size_t count,
                         enum busy_mode mode)
{
    struct err *err = &write->req->err;
    struct collection now;
    struct busy_key *keys = array_alloc(count + 1, sizeof(*keys));
    enum err_code rc;

    if (keys == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to take %zu ids", count);
    keys[0] = (struct busy_key){.incarnation = write->collection.incarnation,
                                .mode = count == 0 ? mode : BUSY_SHARED};
    for (size_t i = 0; i < count; i++)
        keys[i + 1] = (struct busy_key){.incarnation = write->collection.incarnation,
                                        .id = ids[i].data,
                                        .len = ids[i].len,
                                        .mode = mode};
    do {
        struct err passing = {0};

        rc =
            busy_take(write->ingest->busy, &write->claim, keys, count + 1, write->deadline_ns, err);
        if (rc != ERR_OK)
            break;
        rc = catalogue_active(&write->ingest->catalogue, write->collection.tenant,
                              write->collection.name, &now, &passing);
        if (rc == ERR_OK)
            break;
        /* Who changes a collection waits for our ids, so we let go before we wait for that. */
        busy_release(&write->claim);
        if (rc == ERR_UNAVAILABLE)
            rc = find_collection(write, &now);
        else
            *err = passing;
    } while (rc == ERR_OK);
    free(keys);
    if (rc == ERR_OK &&
        memcmp(now.incarnation, write->collection.incarnation, INCARNATION_BYTES) != 0)
        rc = err_set(err, ERR_UNAVAILABLE, "collection '%s' was made anew meanwhile%s", now.name,
                     write->committed == 0 ? "; nothing was written" : "");
    /* The ids are held: nothing of them goes into the spool any more. */
    return rc == ERR_OK ? write_check_spool(write) : rc;
}

static enum err_code new_batch(struct write *write)
{
    const struct collection *collection = &write->collection;
    enum err_code rc =
        sequence_batch_new(&write->batch, &write->ingest->sequencer, &write->req->err);

    if (rc == ERR_OK) /* no tenant's number is 0 */
        write->batch->key = (struct queue_key){
            .tenant = hash_xxh64(collection->tenant, strlen(collection->tenant), 0) | 1,
            .collection = load_u64(collection->incarnation)};
    return rc;
}

enum err_code write_add(struct write *write, uint32_t partition, struct record *record)
{
    struct err *err = &write->req->err;
    enum err_code rc = ERR_OK;

    if (write->batch == NULL)
        rc = new_batch(write);
    memcpy(record->incarnation, write->collection.incarnation, INCARNATION_BYTES);
    record->schema = write->collection.schema;
    if (rc == ERR_OK)
        rc = sequence_batch_add(write->batch, partition, record, err);
    return rc;
}

enum err_code write_add_delete(struct write *write, const char *id, size_t len)
{
    struct record record = {.op = RECORD_DELETE, .id = id, .id_len = len};

    return write_add(write, record_partition(id, len, write->ingest->sequencer.partitions),
                     &record);
}

void write_token_member(struct write *write, struct json_writer *w)
{
    struct buffer text = {0};

    if (write->spooled) {
        json_key(w, "durability");
        json_text(w, "spooled");
        return;
    }
    token_to_text(&write->token, &text);
    json_key(w, "read_token");
    json_put_string(w, (const char *)text.data, text.len);
    buffer_free(&text);
}

static enum err_code raise_token(struct write *write, size_t *committed)
{
    const struct sequence_batch *batch = write->batch;
    enum err_code rc = ERR_OK;

    *committed = 0;
    for (size_t i = 0; i < batch->count && rc == ERR_OK; i++) {
        if (!batch->items[i].committed)
            continue;
        (*committed)++;
        rc = token_raise(&write->token, write->ingest->sequencer.region, batch->items[i].partition,
                         batch->items[i].offset + 1, &write->req->err);
        if (rc == ERR_OK && write->awaits_quorum)
            rc = token_raise(&write->written, write->ingest->sequencer.region,
                             batch->items[i].partition, batch->items[i].offset + 1,
                             &write->req->err);
    }
    return rc;
}

/* The problem of req->err with further members: whole, with its status; the handler is done. */
static void answer_problem(struct write *write, bool with_records)
{
    const struct sequence_batch *batch = write->batch;
    struct buffer *body = &write->req->reply.body;
    struct buffer more = {0};
    struct json_writer w;

    json_writer_init(&w, &more);
    json_begin_object(&w);
    json_key(&w, "committed");
    json_bool(&w, true);
    if (write->count_name != NULL) {
        json_key(&w, write->count_name);
        json_u64(&w, write->committed);
    }
    write_token_member(write, &w);
    if (with_records) {
        json_key(&w, "errors");
        json_begin_array(&w);
        for (size_t i = 0; i < batch->count; i++) {
            struct record record;
            char detail[64];

            if (batch->items[i].committed ||
                record_peek(&record, batch->bytes.data + batch->items[i].at, batch->items[i].len,
                            NULL) != ERR_OK)
                continue;
            (void)snprintf(detail, sizeof(detail), "record %zu of the append was not written", i);
            json_begin_object(&w);
            json_key(&w, "detail");
            json_text(&w, detail);
            json_key(&w, "id");
            json_put_string(&w, record.id, record.id_len);
            json_end_object(&w);
        }
        json_end_array(&w);
    }
    json_end_object(&w);
    write->req->err.pointer[0] = '\0';
    reply_problem(write->req);
    if (!more.failed && !body->failed && body->len > 0) {
        body->data[body->len - 1] = ',';
        buffer_append(body, more.data + 1, more.len - 1);
    }
    buffer_free(&more);
}

static enum err_code await_searchable(struct write *write)
{
    enum err_code rc = decide_wait(write);

    if (rc == ERR_STALENESS_UNMET || rc == ERR_BEHIND || rc == ERR_TIMEOUT)
        return err_set(&write->req->err, ERR_TIMEOUT,
                       "committed, but not searchable before the deadline");
    return rc == ERR_OK ? rc
                        : err_wrap(&write->req->err, "committed, but not known to be searchable");
}

static enum err_code await_quorum(struct write *write)
{
    return cluster_await_held(write->ingest->setup.cluster, &write->written,
                              (uint32_t)write->quorum - 1, write->deadline_ns, &write->req->err);
}

enum err_code write_wait(struct write *write, bool *answered)
{
    enum err_code rc = ERR_OK;

    *answered = false;
    if (write->holds_waits)
        return ERR_OK;
    /* Its outcome is known: a region that becomes passive does not wait for others. */
    ingest_leave(write->ingest, &write->counted);
    if (write->awaits_quorum && write->written.count > 0)
        rc = await_quorum(write);
    if (rc == ERR_OK && write->wait_searchable && write->token.count > 0)
        rc = await_searchable(write);
    if (rc == ERR_OK)
        return ERR_OK;
    answer_problem(write, false);
    *answered = true;
    return ERR_OK;
}

/* Keep the batch on our disk until the log takes it. */
static enum err_code put_into_spool(struct write *write)
{
    struct ingest *ingest = write->ingest;
    struct sequencer *s = &ingest->sequencer;
    const struct sequence_batch *batch = write->batch;
    struct request *req = write->req;
    struct spool_row *rows = arena_alloc(&req->arena, batch->count, sizeof(*rows));
    struct spool_row row = {.wall_us = env_wall_us(ingest->env),
                            .stamp = sequencer_change_stamp(s),
                            .term = sequencer_term(s)};
    enum err_code rc = ERR_OK;

    if (rows == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for the spool");
    memcpy(row.life, s->nonce, SPOOL_LIFE_BYTES);
    memcpy(row.tenant, write->collection.tenant, sizeof(row.tenant));
    memcpy(row.collection, write->collection.name, sizeof(row.collection));
    memcpy(row.incarnation, write->collection.incarnation, INCARNATION_BYTES);
    for (size_t i = 0; i < batch->count && rc == ERR_OK; i++) {
        struct record record;

        rows[i] = row;
        rows[i].record = batch->bytes.data + batch->items[i].at;
        rows[i].record_len = batch->items[i].len;
        rc = record_peek(&record, rows[i].record, rows[i].record_len, &req->err);
        rows[i].id = record.id;
        rows[i].id_len = record.id_len;
    }
    if (rc == ERR_OK)
        rc = spool_put(ingest->spool, rows, batch->count, &req->err);
    if (rc != ERR_OK)
        return rc;
    write->spooled = true;
    req->reply.status = 202;
    if (ingest->metrics.spooled != NULL)
        metric_add(ingest->metrics.spooled, batch->count);
    return ERR_OK;
}

/* Into the log; or, where that is away and the write depends on nothing, into the spool. */
static enum err_code append_or_spool(struct write *write)
{
    struct sequencer *s = &write->ingest->sequencer;
    struct spool *spool = write->may_spool ? write->ingest->spool : NULL;
    struct err *err = &write->req->err, cause;
    enum err_code rc, put;

    /* Who has lost the log since the write began says so, as without a spool. */
    if (spool != NULL && spool_waits(spool) && !sequencer_stands_by(s))
        return put_into_spool(write);
    if (spool != NULL)
        write->batch->defer_ns = env_boot_ns(write->ingest->env) + DEFER_NS;
    rc = sequencer_commit(s, write->batch, write->deadline_ns, err);
    if (rc == ERR_OK || spool == NULL || !sequencer_may_defer(s, write->batch))
        return rc;
    err_clear(err);
    put = put_into_spool(write);
    if (put == ERR_OK || rc != ERR_UNKNOWN_OUTCOME)
        return put;
    /* Not kept here, but it may come to stand in the log. */
    cause = *err;
    return err_set(err, rc, "the log has not come back: %s", cause.message);
}

/* With room for its vectors.  spools: the spool may take it. */
static enum err_code append(struct write *write, bool spools)
{
    struct ingest *ingest = write->ingest;
    struct headroom_ask ask = {
        .cluster = ingest->setup.cluster, .collection = &write->collection, .use = write->headroom};
    struct err *err = &write->req->err;
    uint64_t bytes;
    enum err_code rc = headroom_take(&ingest->headroom, &ask, write->batch, &bytes, err);

    if (rc != ERR_OK)
        return rc;
    rc = spools ? append_or_spool(write)
                : sequencer_commit(&ingest->sequencer, write->batch, write->deadline_ns, err);
    /* Of an unknown outcome the appender may still touch the items. */
    headroom_settle(&ingest->headroom, &write->collection, write->batch, bytes,
                    rc != ERR_UNKNOWN_OUTCOME && !write->spooled);
    return rc;
}

enum err_code write_commit(struct write *write, bool *answered)
{
    size_t committed = 0;
    enum err_code rc = ERR_OK, token_rc;

    *answered = false;
    if (write->batch == NULL || write->batch->count == 0) {
        busy_release(&write->claim);
        return ERR_OK;
    }
    rc = append(write, true);
    busy_release(&write->claim);
    if (rc == ERR_UNKNOWN_OUTCOME || write->spooled)
        return rc; /* the appender may still touch the items */
    token_rc = raise_token(write, &committed);
    write->committed += committed;
    if (rc != ERR_OK && committed > 0 && token_rc == ERR_OK) {
        answer_problem(write, true);
        *answered = true;
        return ERR_OK;
    }
    if (rc != ERR_OK)
        return rc;
    if (write->ingest->metrics.latency != NULL)
        metric_observe_ns(write->ingest->metrics.latency,
                          env_boot_ns(write->ingest->env) - write->req->received_ns);
    return token_rc != ERR_OK ? token_rc : write_wait(write, answered);
}

enum err_code write_half_way(struct write *write, enum err_code rc, bool *answered)
{
    if (rc == ERR_OK || write->committed == 0)
        return rc;
    /* Not 429: that one promises that nothing was written. */
    if (rc == ERR_RATE_LIMITED)
        write->req->err.code = ERR_UNAVAILABLE;
    answer_problem(write, false);
    *answered = true;
    return ERR_OK;
}

void write_next_batch(struct write *write)
{
    sequence_batch_put(&write->ingest->sequencer, write->batch);
    write->batch = NULL;
}

enum err_code write_commit_whole(struct write *write)
{
    size_t committed;
    enum err_code rc = append(write, false);

    return rc == ERR_OK ? raise_token(write, &committed) : rc;
}

void write_end(struct write *write)
{
    busy_release(&write->claim);
    if (write->awaits_quorum)
        atomic_fetch_sub(&write->ingest->quorum_waits, 1);
    write->awaits_quorum = false;
    ingest_leave(write->ingest, &write->counted);
    write_next_batch(write);
    token_free(&write->token);
    token_free(&write->written);
}

enum err_code ingest_embed(struct write *write, const struct embedder_text *texts, size_t count,
                           float *out)
{
    struct embedder *embedder =
        embedders_find(write->ingest->embedders, write->collection.embedder);
    struct err *err = &write->req->err;

    if (embedder == NULL)
        return err_set(err, ERR_EMBEDDING_FAILED, "the embedder '%s' is not configured here",
                       write->collection.embedder);
    if (embedder_dimension(embedder) != write->collection.dimension)
        return err_set(err, ERR_DIMENSION_MISMATCH, "the embedder of '%s' makes %u numbers, not %u",
                       write->collection.name, embedder_dimension(embedder),
                       write->collection.dimension);
    return embedder_embed(embedder, texts, count, write->deadline_ns, out, err);
}
