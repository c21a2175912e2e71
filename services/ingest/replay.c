/* From the spool into the log, once it takes appends again.
 *
 *   round: the oldest rows of one collection → take their ids alone → drop those replaced since →
 *   (compare with what there is now) → append under new stamps → settle
 *
 * Rows that this holder took, and since which nobody else has held the log, are the newest of their
 * ids: nothing has gone before them, for while any row waits other writes queue behind it or are
 * refused.  All others (found at a start, or after another one held the log) are appended only if
 * what there is now, tombstones included, is older than their provisional stamp.  No row is
 * appended while a newer one of its id waits or may be put: so whatever is found to be newer is
 * newer, or is the row itself, appended by a round whose end nobody heard of.
 *
 * An ingest that does not hold the log hands its rows to the one that does: POST
 * /internal/v1/replay, u8 version, u32 count, then each row as u32 length and bytes; the answer has
 * one letter for each: a(ppended), o(lder), p(ark it).
 *
 * Failure modes: the log or the shards away: the rows wait, tries come ever more slowly up to
 * PAUSE_MAX_NS; a row that cannot be appended ever is parked and told in the log; the disk of the
 * spool fails or is full: the store is opened again, and what was appended is not appended twice.
 */
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"
#include "services/ingest/ingest.h"

#define REPLAY_VERSION 1
#define REPLAY_ROWS    1000
#define REPLAY_BYTES   MIB(4)
#define PAUSE_MIN_NS   (50 * NS_PER_MS)
#define PAUSE_MAX_NS   (2 * NS_PER_S)
#define PATIENCE_NS    (5 * NS_PER_S)           /* for ids, shards and the other ingest */
#define COMPARABLE_US  (24ull * 3600 * 1000000) /* tombstones are kept so long at least */

static const struct log_context CONTEXT = {.operation = "spool"};

/* Rows of one collection on their way. */
struct replay {
    struct write write;
    struct spool_row *rows;
    enum spool_fate *fates;
    size_t count;
    bool ours; /* they stand in our spool */
    uint64_t commit_ns;
    bool *in; /* still to be appended */
    struct record *records;
    size_t *item_of; /* of the batch, for those that are in it */
};

/* Rows that have come to their end, and the spool's disk would not take note of it: else they would
 * be appended in every round until it does. */
struct ended {
    size_t count;
    struct ended_row {
        uint64_t number,
            clock; /* numbers come again when the store is opened anew; stamps do not */
        enum spool_fate fate;
    } rows[REPLAY_ROWS]; /* in the order of their numbers, as those of a page */
};

static bool is_of_this_term(const struct replay *replay, const struct spool_row *row)
{
    struct sequencer *s = &replay->write.ingest->sequencer;

    return replay->ours && memcmp(row->life, s->nonce, SPOOL_LIFE_BYTES) == 0 &&
           row->term == sequencer_term(s);
}

static void park_all(struct replay *replay, const char *why)
{
    for (size_t i = 0; i < replay->count; i++)
        replay->fates[i] = SPOOL_PARKED;
    log_warn(&CONTEXT, "records of the spool are parked", LOG_TEXT("why", why),
             LOG_TEXT("collection", replay->rows[0].collection), LOG_U64("records", replay->count));
}

/* So few wait that new writes had better wait for their end than go behind them: else those that
 * come all the time would keep the spool from ever becoming empty. */
static bool is_nearly_empty(struct spool *spool)
{
    struct spool_status status;

    spool_status(spool, &status);
    return status.waiting <= REPLAY_ROWS;
}

/* What can be said of each row by itself. */
static void judge_rows(struct replay *replay)
{
    struct ingest *ingest = replay->write.ingest;
    uint64_t now_us = env_wall_us(ingest->env), parked = 0;

    for (size_t i = 0; i < replay->count; i++) {
        const struct spool_row *row = &replay->rows[i];
        bool too_old = !is_of_this_term(replay, row) && now_us > row->wall_us &&
                       now_us - row->wall_us > COMPARABLE_US;

        replay->in[i] =
            !too_old && row->stamp.region == ingest->sequencer.region &&
            record_decode(&replay->records[i], row->record, row->record_len, NULL, NULL) == ERR_OK;
        if (replay->in[i])
            continue;
        replay->fates[i] = SPOOL_PARKED;
        parked++;
    }
    if (parked > 0)
        log_warn(&CONTEXT, "records of the spool are parked",
                 LOG_TEXT("why", "over a day old, of another log, or damaged"),
                 LOG_TEXT("collection", replay->rows[0].collection), LOG_U64("records", parked));
}

/* Their ids alone, the collection shared.  ERR_COLLECTION_NOT_FOUND: it is gone. */
static enum err_code take_ids(struct replay *replay)
{
    struct request *req = replay->write.req;
    struct wire_id *ids = arena_alloc(&req->arena, replay->count, sizeof(*ids));
    size_t count = 0;

    if (ids == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory to replay");
    for (size_t i = 0; i < replay->count; i++)
        if (replay->in[i])
            ids[count++] =
                (struct wire_id){.data = replay->rows[i].id, .len = replay->rows[i].id_len};
    return count == 0 ? ERR_OK : write_take(&replay->write, ids, count, BUSY_ALONE);
}

/* Rows that were replaced since they were read are not ours to append. */
static enum err_code drop_replaced(struct replay *replay)
{
    struct request *req = replay->write.req;
    bool *still = arena_alloc(&req->arena, replay->count, sizeof(*still));
    enum err_code rc;

    if (!replay->ours)
        return ERR_OK;
    if (still == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory to replay");
    rc = spool_still(replay->write.ingest->spool, replay->rows, replay->count, still, &req->err);
    for (size_t i = 0; i < replay->count && rc == ERR_OK; i++)
        replay->in[i] = replay->in[i] && still[i];
    return rc;
}

/* Those of another term that are older than what there is now have lost. */
static enum err_code drop_older(struct replay *replay)
{
    struct request *req = replay->write.req;
    struct wire_id *ids = arena_alloc(&req->arena, replay->count, sizeof(*ids));
    struct cluster_answer answer = {0};
    size_t count = 0;
    enum err_code rc;

    if (ids == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory to replay");
    for (size_t i = 0; i < replay->count; i++)
        if (replay->in[i] && !is_of_this_term(replay, &replay->rows[i]))
            ids[count++] =
                (struct wire_id){.data = replay->rows[i].id, .len = replay->rows[i].id_len};
    if (count == 0)
        return ERR_OK;
    rc = decide_get(&replay->write, ids, count, INCLUDE_DELETED, &answer);
    for (size_t i = 0; i < replay->count && rc == ERR_OK; i++) {
        const struct spool_row *row = &replay->rows[i];
        const struct wire_row *present = decide_row(&answer, row->id, row->id_len);

        if (!replay->in[i] || present == NULL || is_of_this_term(replay, row) ||
            stamp_compare(present->stamp, row->stamp) < 0)
            continue;
        replay->in[i] = false;
        replay->fates[i] = SPOOL_OLDER;
    }
    cluster_answer_free(&answer);
    return rc;
}

static enum err_code fill_batch(struct replay *replay)
{
    struct write *write = &replay->write;
    enum err_code rc = ERR_OK;
    size_t items = 0;

    for (size_t i = 0; i < replay->count && rc == ERR_OK; i++) {
        struct record *record = &replay->records[i];

        if (!replay->in[i])
            continue;
        record->epoch = 0;
        record->stamp = (struct stamp){0};
        record->origin_region = 0;
        record->origin_offset = 0;
        replay->item_of[i] = items++;
        rc = write_add(
            write,
            record_partition(record->id, record->id_len, write->ingest->sequencer.partitions),
            record);
        /* Above it, or a round that came again would take the row for newer than itself, and than
         * what came after; but not now: what other regions wrote meanwhile is newer. */
        if (rc == ERR_OK)
            write->batch->items[replay->item_of[i]].at_clock = replay->rows[i].stamp.clock;
    }
    return rc;
}

static enum err_code append(struct replay *replay)
{
    struct write *write = &replay->write;
    struct spool *spool = write->ingest->spool;
    enum err_code rc = fill_batch(replay);

    if (rc != ERR_OK || write->batch == NULL)
        return rc;
    /* Refused if anybody has held the log since the decision. */
    write->batch->generation = write->generation;
    if (replay->ours && is_nearly_empty(spool))
        spool_close_door(spool);
    rc = sequencer_commit(&write->ingest->sequencer, write->batch, replay->commit_ns,
                          &write->req->err);
    if (rc != ERR_UNKNOWN_OUTCOME)
        for (size_t i = 0; i < replay->count; i++)
            if (replay->in[i] && write->batch->items[replay->item_of[i]].committed)
                replay->fates[i] = SPOOL_APPENDED;
    return rc;
}

static enum err_code replay_prepare(struct replay *replay)
{
    struct request *req = replay->write.req;

    replay->in = arena_alloc(&req->arena, replay->count, sizeof(*replay->in));
    replay->records = arena_alloc(&req->arena, replay->count, sizeof(*replay->records));
    replay->item_of = arena_alloc(&req->arena, replay->count, sizeof(*replay->item_of));
    if (replay->in == NULL || replay->records == NULL || replay->item_of == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory to replay");
    req->params[0] = replay->rows[0].collection;
    req->param_lens[0] = strlen(replay->rows[0].collection);
    return ERR_OK;
}

/* Bring the rows to their end as far as it can be done now.  fates are valid whatever the code. */
static enum err_code replay_rows(struct replay *replay)
{
    struct write *write = &replay->write;
    struct ingest *ingest = write->ingest;
    const struct spool_row *first = &replay->rows[0];
    struct err *err = &write->req->err;
    enum err_code rc = replay_prepare(replay);

    if (rc == ERR_OK)
        rc = sequencer_check(&ingest->sequencer, &write->generation, NULL, err);
    /* Else the ids, which others want, would be held until it does. */
    if (rc == ERR_OK && !sequencer_is_prompt(&ingest->sequencer))
        rc = err_set(err, ERR_UNAVAILABLE, "the log does not answer");
    if (rc != ERR_OK)
        return rc;
    judge_rows(replay);
    rc = first->record == NULL ? ERR_OK
                               : catalogue_active(&ingest->catalogue, first->tenant,
                                                  first->collection, &write->collection, err);
    if (rc == ERR_OK && first->record != NULL &&
        memcmp(write->collection.incarnation, first->incarnation, INCARNATION_BYTES) != 0)
        rc = ERR_COLLECTION_NOT_FOUND;
    if (rc == ERR_OK)
        rc = take_ids(replay);
    if (rc == ERR_COLLECTION_NOT_FOUND) {
        err_clear(err);
        park_all(replay, "their collection is gone");
        return ERR_OK;
    }
    if (rc == ERR_OK)
        rc = drop_replaced(replay);
    if (rc == ERR_OK)
        rc = drop_older(replay);
    return rc == ERR_OK ? append(replay) : rc;
}

/* --- another ingest's rows -----------------------------------------------------------------------
 */

static enum err_code malformed(struct request *req, const char *what)
{
    return err_set(&req->err, ERR_INVALID_ARGUMENT, "the rows are malformed: %s", what);
}

static enum err_code read_rows(struct request *req, struct replay *replay)
{
    struct bytes_reader r = {.data = req->body, .len = req->body_len};
    uint8_t version = read_u8(&r);
    uint32_t count = read_u32(&r);

    if (r.failed || version != REPLAY_VERSION)
        return malformed(req, "unknown version");
    if (count == 0 || count > REPLAY_ROWS)
        return malformed(req, "none, or too many");
    replay->rows = arena_alloc(&req->arena, count, sizeof(*replay->rows));
    replay->fates = arena_alloc(&req->arena, count, sizeof(*replay->fates));
    if (replay->rows == NULL || replay->fates == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for rows");
    replay->count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct spool_row *row = &replay->rows[i];
        uint32_t len = read_u32(&r);
        const uint8_t *data = read_bytes(&r, len);

        if (data == NULL || spool_row_decode(row, data, len, NULL) != ERR_OK)
            return malformed(req, "a damaged one");
        if (memcmp(row->incarnation, replay->rows[0].incarnation, INCARNATION_BYTES) != 0 ||
            strcmp(row->collection, replay->rows[0].collection) != 0 ||
            strcmp(row->tenant, replay->rows[0].tenant) != 0)
            return malformed(req, "of more than one collection");
    }
    return read_done(&r) ? ERR_OK : malformed(req, "bytes behind the last one");
}

enum err_code handle_replay(struct request *req)
{
    static const char LETTERS[] = {
        [SPOOL_WAITS] = 'w', [SPOOL_APPENDED] = 'a', [SPOOL_OLDER] = 'o', [SPOOL_PARKED] = 'p'};
    uint64_t deadline_ns = req->received_ns + PATIENCE_NS;
    struct replay replay = {
        .write = {.ingest = req->state, .req = req, .deadline_ns = deadline_ns, .may_spool = true},
        .commit_ns = deadline_ns};
    struct json_writer w;
    enum err_code rc = request_expect_media(req, MEDIA_BINARY);
    char *text;

    if (rc == ERR_OK)
        rc = read_rows(req, &replay);
    if (rc == ERR_OK)
        rc = replay_rows(&replay);
    write_end(&replay.write);
    if (rc != ERR_OK)
        return rc;
    text = arena_alloc(&req->arena, replay.count, 1);
    if (text == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for an answer");
    for (size_t i = 0; i < replay.count; i++)
        text[i] = LETTERS[replay.fates[i]];
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "fates");
    json_put_string(&w, text, replay.count);
    json_end_object(&w);
    return ERR_OK;
}

/* The answer of the ingest that holds the log. */
static enum err_code read_fates(struct replay *replay, const struct http_call *call)
{
    struct err *err = &replay->write.req->err;
    const char *text = NULL;
    json_t *document = NULL;
    enum err_code rc = http_call_expect(call, err);

    if (rc == ERR_OK)
        rc = json_doc_parse(&document, call->reply.data, call->reply.len, err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "fates", &text, err);
    if (rc == ERR_OK && (text == NULL || strlen(text) != replay->count))
        rc = err_set(err, ERR_UNAVAILABLE, "the other ingest answered something else");
    for (size_t i = 0; i < replay->count && rc == ERR_OK; i++)
        replay->fates[i] = text[i] == 'a'   ? SPOOL_APPENDED
                           : text[i] == 'o' ? SPOOL_OLDER
                           : text[i] == 'p' ? SPOOL_PARKED
                                            : SPOOL_WAITS;
    json_decref(document);
    return rc;
}

/* We do not hold the log: to the one that does. */
static enum err_code hand_over(struct replay *replay)
{
    struct ingest *ingest = replay->write.ingest;
    struct request *req = replay->write.req;
    struct http_call call = {.method = "POST",
                             .path = "/internal/v1/replay",
                             .content_type = MEDIA_BINARY,
                             .reply_max = KIB(64)};
    struct buffer body = {0};
    char url[256];
    enum err_code rc;

    if (replay->rows[0].record == NULL) { /* nobody could read them; they come by themselves */
        park_all(replay, "damaged");
        return ERR_OK;
    }
    if (ingest->setup.cluster == NULL || ingest->setup.client == NULL)
        return err_set(&req->err, ERR_READ_ONLY, "there is nobody to hand the spool to");
    rc = cluster_ingest_url(ingest->setup.cluster, true, url, sizeof(url), &req->err);
    if (rc != ERR_OK)
        return rc;
    if (strcmp(url, ingest->url) == 0)
        return err_set(&req->err, ERR_READ_ONLY, "nobody holds the log yet");
    buffer_append_byte(&body, REPLAY_VERSION);
    buffer_append_u32(&body, (uint32_t)replay->count);
    for (size_t i = 0; i < replay->count; i++) {
        size_t at = body.len;

        buffer_append_u32(&body, 0);
        spool_row_encode(&replay->rows[i], &body);
        if (!body.failed)
            store_u32(body.data + at, (uint32_t)(body.len - at - 4));
    }
    rc = buffer_check(&body, &req->err);
    if (rc == ERR_OK) {
        call.base = url;
        call.body = body.data;
        call.body_len = body.len;
        (void)http_call_one(ingest->setup.client, &call,
                            env_boot_ns(ingest->env) + 2 * PATIENCE_NS);
        rc = read_fates(replay, &call);
        http_call_free(&call);
    }
    buffer_free(&body);
    return rc;
}

/* --- the thread "spool" --------------------------------------------------------------------------
 */

static void count_fates(const struct ingest *ingest, const struct replay *replay)
{
    uint64_t appended = 0, older = 0;

    for (size_t i = 0; i < replay->count; i++) {
        appended += replay->fates[i] == SPOOL_APPENDED;
        older += replay->fates[i] == SPOOL_OLDER;
    }
    if (ingest->metrics.replayed == NULL)
        return;
    metric_add(ingest->metrics.replayed, appended);
    metric_add(ingest->metrics.replayed_older, older);
}

static enum err_code read_page(struct replay *replay)
{
    struct request *req = replay->write.req;
    struct spool *spool = replay->write.ingest->spool;
    enum err_code rc = spool_mend(spool, &req->err);

    if (rc == ERR_OK)
        rc = spool_read(spool, &req->arena, REPLAY_ROWS, REPLAY_BYTES, &replay->rows,
                        &replay->count, &req->err);
    if (rc != ERR_OK || replay->count == 0)
        return rc;
    replay->fates = arena_alloc(&req->arena, replay->count, sizeof(*replay->fates));
    return replay->fates == NULL ? err_set(&req->err, ERR_NO_MEMORY, "no memory to replay")
                                 : ERR_OK;
}

static void note_ended(struct ended *ended, const struct replay *replay)
{
    ended->count = 0;
    for (size_t i = 0; i < replay->count; i++)
        if (replay->fates[i] != SPOOL_WAITS)
            ended->rows[ended->count++] = (struct ended_row){.number = replay->rows[i].number,
                                                             .clock = replay->rows[i].stamp.clock,
                                                             .fate = replay->fates[i]};
}

/* Have any of the page?  Then they have their fates, and the others wait for the next round. */
static bool recall_ended(const struct ended *ended, struct replay *replay)
{
    bool any = false;

    for (size_t i = 0, at = 0; i < replay->count; i++) {
        const struct spool_row *row = &replay->rows[i];

        while (at < ended->count && ended->rows[at].number < row->number)
            at++;
        if (at == ended->count || ended->rows[at].number != row->number ||
            ended->rows[at].clock != row->stamp.clock)
            continue;
        replay->fates[i] = ended->rows[at].fate;
        any = true;
    }
    return any;
}

/* Append the page's rows, or have them appended, and take away what has come to its end. */
static enum err_code end_page(struct replay *replay, struct ended *ended, struct err *err)
{
    struct ingest *ingest = replay->write.ingest;
    struct request *req = replay->write.req;
    enum err_code rc = ERR_OK, settled;

    if (!recall_ended(ended, replay))
        rc = sequencer_stands_by(&ingest->sequencer) ? hand_over(replay) : replay_rows(replay);
    *err = req->err;
    if (rc == ERR_DEAD)
        return rc;
    settled = spool_settle(ingest->spool, replay->rows, replay->fates, replay->count, &req->err);
    if (settled == ERR_OK) {
        ended->count = 0;
        count_fates(ingest, replay);
        return rc;
    }
    note_ended(ended, replay);
    if (rc == ERR_OK)
        *err = req->err;
    return rc == ERR_OK ? settled : rc;
}

/* One page of the spool.  ERR_OK: something has come to its end. */
static enum err_code round_of(struct ingest *ingest, struct ended *ended, struct err *err)
{
    struct request req = {.state = ingest,
                          .env = ingest->env,
                          .method = "",
                          .path = "",
                          .query = "",
                          .received_ns = env_boot_ns(ingest->env)};
    struct replay replay = {.write = {.ingest = ingest,
                                      .req = &req,
                                      .deadline_ns = req.received_ns + PATIENCE_NS,
                                      .may_spool = true},
                            .ours = true,
                            /* Left while it is not known, the ids could be written to. */
                            .commit_ns = NEVER_NS};
    enum err_code rc = read_page(&replay);

    if (rc == ERR_OK && replay.count > 0)
        rc = end_page(&replay, ended, err);
    else
        *err = req.err;
    /* The ids are kept until the rows are gone: nobody is to pass what still waits.  The door stays
     * closed for the rows of those that were past it already, and of other collections. */
    write_end(&replay.write);
    if (rc != ERR_OK || !spool_waits(ingest->spool) || !is_nearly_empty(ingest->spool))
        spool_open_door(ingest->spool);
    request_free(&req);
    return rc;
}

void replay_main(void *argument)
{
    struct ingest *ingest = argument;
    struct ended ended = {0};
    enum err_code rc = ERR_OK, told = ERR_OK;
    uint64_t pause_ns = PAUSE_MIN_NS;
    struct err err;

    while (rc != ERR_DEAD) {
        rc = spool_await(ingest->spool, NEVER_NS);
        if (rc == ERR_DEAD)
            break;
        err_clear(&err);
        rc = round_of(ingest, &ended, &err);
        if (rc == ERR_OK) {
            pause_ns = PAUSE_MIN_NS;
            if (told != ERR_OK && !spool_waits(ingest->spool))
                log_info(&CONTEXT, "everything that waited in the spool is in the log");
            told = spool_waits(ingest->spool) ? told : ERR_OK;
            continue;
        }
        if (rc != ERR_DEAD && rc != told)
            log_err(LOG_WARN, &CONTEXT, "records wait in the spool", &err);
        told = rc;
        if (rc != ERR_DEAD)
            rc = spool_pause(ingest->spool, env_boot_ns(ingest->env) + pause_ns);
        pause_ns = MIN_OF(pause_ns * 2, PAUSE_MAX_NS);
    }
}
