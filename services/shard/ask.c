/* A question: decode, wait until it may be answered, open a snapshot, answer, encode.
 *
 * The order of the steps is what makes answers right:
 *   1. wait until the partitions asked have reached what the reader must see (freshness.c);
 *   2. enter the grace (grace.h): no ordinal leaves an engine from now on;
 *   3. note the published positions: what the answer promises;
 *   4. open the snapshot: it has at least that;
 *   5. search, and map what is found through the snapshot.
 * Partitions that are not served here are left out of the answer; a collection that is not known
 * here gives an empty answer: the positions say how much this replica has seen. */
#include "services/shard/ask.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/shard/copy.h"
#include "services/shard/snapshot.h"

#define ANSWER_BYTES_MAX MIB(256)

enum err_code ask_check_deadline(const struct ask *ask, struct err *err)
{
    if (env_boot_ns(ask->shard->env) >= ask->deadline_ns)
        return err_set(err, ERR_TIMEOUT, "the deadline came before the answer was complete");
    return ERR_OK;
}

enum err_code ask_make_rows(struct ask *ask, size_t count, struct err *err)
{
    ask->answer.rows = arena_alloc(&ask->req->arena, count, sizeof(*ask->answer.rows));
    if (ask->answer.rows == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %zu rows", count);
    return ERR_OK;
}

static enum err_code fill_vector(struct ask *ask, struct wire_row *out, uint32_t ordinal,
                                 struct err *err)
{
    struct ordinal_key key = ordinal_key_of(ask->collection->number, ordinal);
    uint32_t dim = ask->collection->definition.dimension;
    struct store_value value;
    enum err_code code = store_get(ask->txn, STORE_VECTORS, ordinal_key_value(&key), &value, err);

    if (code == ERR_NOT_FOUND || (code == ERR_OK && value.len != dim * sizeof(float)))
        return err_set(err, ERR_CORRUPT, "a vector of the store is missing or damaged");
    if (code != ERR_OK)
        return code;
    out->vector = value.data;
    out->dim = dim;
    ask->bytes += value.len;
    return ERR_OK;
}

enum err_code ask_fill_row(struct ask *ask, struct wire_row *out, const struct row *row,
                           uint32_t ordinal, struct err *err)
{
    uint32_t include = ask->question.include;
    enum err_code code = ERR_OK;

    *out = (struct wire_row){
        .id = row->id,
        .id_len = row->id_len,
        .stamp = row->stamp,
        .partition = row->partition,
    };
    if ((include & INCLUDE_TEXT) != 0 && row->text != NULL) {
        out->text = row->text;
        out->text_len = row->text_len;
        ask->bytes += row->text_len;
    }
    if ((include & INCLUDE_METADATA) != 0 && row->metadata != NULL) {
        out->metadata = row->metadata;
        out->metadata_len = row->metadata_len;
        ask->bytes += row->metadata_len;
    }
    if ((include & INCLUDE_VECTOR) != 0 && row->has_vector)
        code = fill_vector(ask, out, ordinal, err);
    if (code == ERR_OK && ask->bytes > ANSWER_BYTES_MAX)
        code = err_set(err, ERR_PAYLOAD_TOO_LARGE,
                       "the answer would have more than %zu bytes: ask for fewer records",
                       ANSWER_BYTES_MAX);
    return code;
}

enum err_code ask_find(struct ask *ask, struct row *out, uint32_t *ordinal,
                       const struct wire_id *id, struct err *err)
{
    struct id_entry entry;
    struct id_key key;
    uint32_t partition;
    enum err_code code;

    if (id->len == 0 || id->len > ID_BYTES_MAX)
        return ERR_NOT_FOUND;
    partition = record_partition(id->data, id->len, ask->partitions_all);
    if (!partition_set_has(&ask->asked, partition))
        return ERR_NOT_FOUND;
    key = id_key_of(ask->collection->number, partition, id->data, id->len);
    code = id_entry_get(&entry, ask->txn, &key, err);
    if (code != ERR_OK)
        return code;
    if (!entry.is_live)
        return ERR_NOT_FOUND;
    code = row_get(out, ask->txn, ask->collection->number, entry.ordinal, err);
    if (code == ERR_NOT_FOUND)
        return err_set(err, ERR_CORRUPT, "a row of the store is missing");
    *ordinal = entry.ordinal;
    return code;
}

/* --- opening -----------------------------------------------------------------------------------
 */

/* Step 1. */
static enum err_code await_demands(struct ask *ask, struct err *err)
{
    const struct wire_question *question = &ask->question;
    uint64_t arrived_ns = ask->req->received_ns;
    uint64_t wait_ns = ask->deadline_ns - arrived_ns;
    struct demand demand = {
        .token = &question->demands,
        .asked = &question->partitions,
        .fresh = question->fresh,
        .max_staleness_ns = question->max_staleness_ns,
        .arrived_ns = arrived_ns,
        .deadline_ns = ask->deadline_ns,
    };
    enum err_code code;

    if (question->demands.count == 0 && !question->fresh && question->max_staleness_ns == NEVER_NS)
        return ERR_OK;
    /* Whoever takes a stale answer too is to have some time left for it. */
    if (question->serve_stale)
        demand.deadline_ns = arrived_ns + wait_ns / 4 * 3;
    code = freshness_await(ask->shard, &demand, err);
    if (code == ERR_BEHIND && question->serve_stale) {
        ask->answer.stale = true;
        err_clear(err);
        return ERR_OK;
    }
    return code;
}

static int compare_entries(const void *a, const void *b)
{
    const struct token_entry *x = a;
    const struct token_entry *y = b;

    if (x->region != y->region)
        return x->region < y->region ? -1 : 1;
    return (x->partition > y->partition) - (x->partition < y->partition);
}

/* Caller holds the lock.  What of other regions the answer reflects. */
static bool note_seen_locked(struct ask *ask)
{
    const struct shard *shard = ask->shard;
    struct token *seen = &ask->answer.seen;
    size_t count = 0;

    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        if (partition_set_has(&ask->asked, shard->partition_of[slot]))
            count += shard->partitions[slot].vector.count;
    }
    if (count == 0)
        return true;
    seen->entries = arena_alloc(&ask->req->arena, count, sizeof(*seen->entries));
    if (seen->entries == NULL)
        return false;
    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        const struct version_vector *vector = &shard->partitions[slot].vector;

        if (!partition_set_has(&ask->asked, shard->partition_of[slot]))
            continue;
        for (uint32_t i = 0; i < vector->count && seen->count < TOKEN_ENTRIES_MAX; i++)
            seen->entries[seen->count++] = (struct token_entry){
                .region = vector->entries[i].region,
                .partition = shard->partition_of[slot],
                .position = vector->entries[i].position,
            };
    }
    seen->size = seen->count;
    qsort(seen->entries, seen->count, sizeof(*seen->entries), compare_entries);
    return true;
}

/* Step 3. */
static enum err_code note_positions(struct ask *ask, struct err *err)
{
    struct shard *shard = ask->shard;
    uint32_t room = partition_set_count(&ask->question.partitions);
    struct wire_served *served = arena_alloc(&ask->req->arena, room, sizeof(*served));
    uint64_t now_ns = env_boot_ns(shard->env);
    bool has_memory = served != NULL;
    bool is_open;

    pthread_mutex_lock(&shard->lock);
    is_open = shard->is_open && !shard_is_stopping(shard);
    for (uint32_t slot = 0; has_memory && is_open && slot < shard->served_count; slot++) {
        uint32_t partition = shard->partition_of[slot];

        if (!partition_set_has(&ask->question.partitions, partition))
            continue;
        partition_set_add(&ask->asked, partition);
        served[ask->answer.served_count++] = (struct wire_served){
            .partition = partition,
            .position = shard->partitions[slot].data,
        };
        ask->answer.staleness_ns =
            MAX_OF(ask->answer.staleness_ns, freshness_of_locked(shard, slot, now_ns));
    }
    ask->asks_all = ask->answer.served_count == shard->served_count;
    ask->partitions_all = shard->partitions_all;
    ask->generation = shard->generation;
    ask->noted_ns = now_ns;
    ask->answer.region = shard->region;
    ask->answer.map_version = shard->map_version;
    has_memory = has_memory && note_seen_locked(ask);
    pthread_mutex_unlock(&shard->lock);
    ask->answer.served = served;
    if (!has_memory)
        return err_set(err, ERR_NO_MEMORY, "no memory for positions");
    return is_open ? ERR_OK : err_set(err, ERR_UNAVAILABLE, "the shard is not ready");
}

/* Dropped in every partition asked? */
static bool is_dropped(struct ask *ask)
{
    struct shard *shard = ask->shard;
    bool dropped = ask->answer.served_count > 0;

    pthread_mutex_lock(&shard->lock);
    if (ask->generation != shard->generation)
        dropped = false;
    for (size_t i = 0; dropped && i < ask->answer.served_count; i++) {
        uint16_t slot = shard->slot_of[ask->answer.served[i].partition];

        dropped = ask->collection->parts[slot].presence == PRESENCE_DROPPED;
    }
    pthread_mutex_unlock(&shard->lock);
    return dropped;
}

/* Steps 2 to 4. */
static enum err_code open_snapshot(struct ask *ask, struct err *err)
{
    struct shard *shard = ask->shard;
    enum err_code code = ERR_OK;
    bool is_same;

    ask->grace_slot = grace_enter(&shard->grace);
    if (ask->grace_slot < 0)
        return err_set(err, ERR_UNAVAILABLE, "too many questions at a time");
    code = note_positions(ask, err);
    if (code != ERR_OK)
        return code;
    ask->collection = collections_get(shard, ask->question.incarnation);
    if (ask->collection != NULL && is_dropped(ask))
        return err_set(err, ERR_COLLECTION_NOT_FOUND, "the collection was dropped");
    if (ask->collection != NULL)
        code = store_begin(&ask->txn, shard->setup.store, false, err);
    if (code != ERR_OK)
        return code;
    /* A store that was cleared meanwhile gives ordinals anew: they are not those of this engine.
     * And a collection that is not found because all were just cut is not an empty one. */
    pthread_mutex_lock(&shard->lock);
    is_same = ask->generation == shard->generation;
    pthread_mutex_unlock(&shard->lock);
    return is_same ? ERR_OK : err_set(err, ERR_UNAVAILABLE, "the shard begins anew");
}

static enum err_code parse_filter(struct ask *ask, struct err *err)
{
    enum err_code code;

    if (ask->question.filter_len == 0)
        return ERR_OK;
    code = filter_parse(&ask->filter, ask->question.filter, ask->question.filter_len,
                        &ask->req->arena, err);
    if (code != ERR_OK)
        err_prefix_pointer(err, "/filter");
    return code;
}

/* --- answering ---------------------------------------------------------------------------------
 */

static double milliseconds(uint64_t ns)
{
    return (double)(ns / NS_PER_US) / 1000.0;
}

static void explain_stages(const struct ask *ask, struct json_writer *w)
{
    const struct ask_costs *costs = &ask->costs;

    if (costs->has_filter) {
        json_key(w, "filter");
        json_begin_object(w);
        json_key(w, "matched");
        json_u64(w, costs->matched);
        json_key(w, "scanned");
        json_u64(w, costs->scanned);
        json_key(w, "us");
        json_u64(w, costs->filter_ns / NS_PER_US);
        json_end_object(w);
    }
    json_key(w, "stages_us");
    json_begin_object(w);
    json_key(w, "wait");
    json_u64(w, costs->wait_ns / NS_PER_US);
    json_key(w, "search");
    json_u64(w, costs->search_ns / NS_PER_US);
    json_key(w, "rows");
    json_u64(w, costs->rows_ns / NS_PER_US);
    json_end_object(w);
}

static void write_explain(struct ask *ask)
{
    const struct engine_counters *counters = &ask->costs.counters;
    struct json_writer w;

    json_writer_init(&w, &ask->explain);
    json_begin_object(&w);
    json_key(&w, "shard");
    json_u64(&w, ask->shard->setup.shard);
    json_key(&w, "replica");
    json_u64(&w, ask->shard->setup.replica);
    json_key(&w, "plan");
    json_text(&w, counters->plan != NULL ? counters->plan : "none");
    json_key(&w, "distances");
    json_u64(&w, counters->distances);
    json_key(&w, "hops");
    json_u64(&w, counters->hops);
    json_key(&w, "scanned");
    json_u64(&w, counters->scanned);
    json_key(&w, "linked");
    json_u64(&w, counters->linked);
    json_key(&w, "kernel");
    json_text(&w, ask->collection != NULL && ask->collection->engine != NULL
                      ? engine_kernel(ask->collection->engine)
                      : "none");
    json_key(&w, "positions");
    json_begin_object(&w);
    for (size_t i = 0; i < ask->answer.served_count; i++) {
        char name[16];

        snprintf(name, sizeof(name), "%u", ask->answer.served[i].partition);
        json_key(&w, name);
        json_u64(&w, ask->answer.served[i].position);
    }
    json_end_object(&w);
    json_key(&w, "staleness_ms");
    if (ask->answer.staleness_ns == NEVER_NS)
        json_put_null(&w);
    else
        json_double(&w, milliseconds(ask->answer.staleness_ns));
    explain_stages(ask, &w);
    json_end_object(&w);
    ask->answer.explain = (const char *)ask->explain.data;
    ask->answer.explain_len = ask->explain.len;
}

static enum err_code dispatch(struct ask *ask, struct err *err)
{
    enum err_code code = ERR_OK;

    if (ask->collection == NULL || ask->collection->engine == NULL)
        return ERR_OK;
    switch (ask->question.op) {
    case WIRE_SEARCH:
        code = search_run(ask, err);
        break;
    case WIRE_GET:
        code = fetch_get(ask, err);
        break;
    case WIRE_SCROLL:
        code = fetch_scroll(ask, err);
        break;
    case WIRE_COUNT:
        code = fetch_count(ask, err);
        break;
    case WIRE_WAIT:
        break;
    }
    return code;
}

/* What was found since is as old as it was then, and a process may have stood still meanwhile. */
static void grow_older(struct ask *ask)
{
    uint64_t now_ns = env_boot_ns(ask->shard->env);

    if (ask->answer.staleness_ns != NEVER_NS)
        ask->answer.staleness_ns += now_ns - ask->noted_ns;
    ask->answer.took_ns = now_ns - ask->req->received_ns;
}

enum err_code ask_run(struct ask *ask, struct err *err)
{
    struct shard *shard = ask->shard;
    const struct wire_question *question = &ask->question;
    uint32_t wait_ms = question->wait_ms == 0 ? DEADLINE_MS_DEFAULT : question->wait_ms;
    uint64_t began_ns = env_boot_ns(shard->env);
    enum err_code code;

    ask->grace_slot = -1;
    ask->deadline_ns = ask->req->received_ns + wait_ms * NS_PER_MS;
    code = parse_filter(ask, err);
    if (code == ERR_OK)
        code = await_demands(ask, err);
    ask->costs.wait_ns = env_boot_ns(shard->env) - began_ns;
    if (code == ERR_OK)
        code = open_snapshot(ask, err);
    if (code == ERR_OK && question->op != WIRE_WAIT)
        code = dispatch(ask, err);
    if (code == ERR_OK && question->op != WIRE_COUNT)
        ask->answer.count = ask->answer.row_count;
    if (code == ERR_OK)
        grow_older(ask);
    if (code == ERR_OK && question->explain) {
        write_explain(ask);
        code = buffer_check(&ask->explain, err);
    }
    if (code == ERR_OK && question->op == WIRE_SEARCH && shard->metrics.searches != NULL)
        metric_add(shard->metrics.searches, 1);
    if (shard->metrics.latency[question->op] != NULL)
        metric_observe_ns(shard->metrics.latency[question->op],
                          env_boot_ns(shard->env) - ask->req->received_ns);
    return code;
}

void ask_close(struct ask *ask)
{
    store_abort(ask->txn);
    if (ask->grace_slot >= 0)
        grace_leave(&ask->shard->grace, ask->grace_slot);
    collections_put(ask->shard, ask->collection);
    buffer_free(&ask->explain);
}

enum err_code ask_handle(struct request *req)
{
    struct ask ask = {.shard = req->state, .req = req, .grace_slot = -1};
    enum err_code code = request_expect_media(req, MEDIA_BINARY);

    if (code == ERR_OK)
        code =
            wire_question_decode(&ask.question, req->body, req->body_len, &req->arena, &req->err);
    if (code == ERR_OK)
        code = ask_run(&ask, &req->err);
    if (code == ERR_OK) {
        wire_answer_encode(&ask.answer, &req->reply.body);
        req->reply.content_type = MEDIA_BINARY;
        code = buffer_check(&req->reply.body, &req->err);
    }
    ask_close(&ask);
    return code;
}

const struct route shard_routes[] = {
    {.method = "POST",
     .path = "/internal/v1/ask",
     .handler = ask_handle,
     .body_max = MIB(8),
     .operation = "ask"},
    {.method = "POST",
     .path = "/internal/v1/search",
     .handler = search_json_handle,
     .body_max = MIB(8),
     .operation = "searchJson"},
    {.method = "GET",
     .path = "/internal/v1/status",
     .handler = status_handle,
     .operation = "shardStatus"},
    {.method = "GET",
     .path = "/internal/v1/digest",
     .handler = digest_handle,
     .operation = "partitionDigest"},
    {.method = "POST",
     .path = "/internal/v1/copy",
     .handler = copy_start_handle,
     .operation = "copyStart"},
    {.method = "POST",
     .path = "/internal/v1/snapshot",
     .handler = snapshot_start_handle,
     .operation = "snapshotStart"},
    {.method = "GET",
     .path = "/internal/v1/snapshot",
     .handler = snapshot_status_handle,
     .operation = "snapshotStatus"},
    {.method = "GET",
     .path = "/internal/v1/copy",
     .handler = copy_status_handle,
     .operation = "copyStatus"},
    {.method = "GET",
     .path = "/internal/v1/copy/chunk",
     .handler = copy_chunk_handle,
     .operation = "copyChunk"},
    {0},
};
