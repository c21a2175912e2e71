/* What replicas report of themselves: asked every 100 ms, all at once, kept as immutable reports;
 * and what that means for their health.
 *
 * The staleness that a replica reported grows by the time since it was asked, so what is said here
 * is never younger than the truth. */
#include "cluster/internal.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"

#define STATUS_BYTES_MAX MIB(16)
#define LAG_OUT_NS       (2 * NS_PER_S) /* staler than this, with another ahead: not asked … */
#define LAG_BACK_NS      NS_PER_S       /* … until it is no staler than this, or has as much */

static void report_free(struct report *report)
{
    for (size_t i = 0; i < report->collection_count; i++)
        free(report->collections[i].last_change);
    free(report->collections);
    free(report->points);
    buffer_free(&report->raw);
    free(report);
}

void report_put(struct report *report)
{
    /* Acquire-release: the last holder frees after every other holder's reads. */
    if (report != NULL &&
        atomic_fetch_sub_explicit(&report->references, 1, memory_order_acq_rel) == 1)
        report_free(report);
}

struct report *report_get(struct cluster *cluster, uint32_t shard, uint32_t replica)
{
    struct report *report;

    pthread_mutex_lock(&cluster->mutex);
    report = cluster->replicas[shard * REPLICAS_MAX + replica].report;
    if (report != NULL)
        atomic_fetch_add_explicit(&report->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&cluster->mutex);
    return report;
}

bool report_digest(const json_t *text, struct hash128 *out)
{
    const char *digits = json_string_value(text);

    return digits != NULL && hash128_from_text(out, digits, strlen(digits));
}

/* What cannot be read is not compared. */
static void parse_points(struct report_point points[POINTS_MAX], const json_t *entry,
                         uint64_t position)
{
    json_t *marks = json_object_get(entry, "marks"), *mark;
    size_t i, count = 0;

    memset(points, 0, POINTS_MAX * sizeof(points[0]));
    if (report_digest(json_object_get(entry, "digest"), &points[0].digest)) {
        points[0].position = position;
        count = 1;
    }
    json_array_foreach(marks, i, mark)
    {
        json_int_t at = json_integer_value(json_array_get(mark, 0));

        if (count == POINTS_MAX || at <= 0 ||
            !report_digest(json_array_get(mark, 1), &points[count].digest))
            break;
        points[count++].position = (uint64_t)at;
    }
}

static enum err_code parse_partition(struct report *report, json_t *entry, struct err *err)
{
    uint64_t partition = UINT64_MAX, position = 0, data;
    json_t *staleness = json_object_get(entry, "staleness_ms");
    enum err_code rc = json_doc_u64(entry, "partition", 0, PARTITIONS_MAX - 1, &partition, err);

    if (rc == ERR_OK)
        rc = json_doc_u64(entry, "position", 0, UINT64_MAX >> 1, &position, err);
    data = position;
    if (rc == ERR_OK)
        rc = json_doc_u64(entry, "data", 0, position, &data, err);
    if (rc != ERR_OK)
        return rc;
    if (partition == UINT64_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "an entry names no partition");
    partition_set_add(&report->serves, (uint32_t)partition);
    report->position[partition] = position;
    if (report->slot_of[partition] == 0)
        report->slot_of[partition] = (uint16_t)++report->points_count;
    parse_points(report->points[report->slot_of[partition] - 1], entry, position);
    report->data[partition] = data;
    report->staleness_ns[partition] = NEVER_NS;
    if (json_is_number(staleness) && json_number_value(staleness) >= 0 &&
        json_number_value(staleness) < 1e12)
        report->staleness_ns[partition] =
            (uint64_t)(json_number_value(staleness) * (double)NS_PER_MS);
    return ERR_OK;
}

static enum err_code parse_collection(struct report *report, json_t *entry, struct err *err)
{
    struct report_collection *collection = &report->collections[report->collection_count];
    const char *incarnation = NULL;
    json_t *changes = json_object_get(entry, "changes"), *change;
    size_t i;
    enum err_code rc = json_doc_text(entry, "incarnation", &incarnation, err);

    collection->room = UINT64_MAX;
    if (rc == ERR_OK)
        rc = json_doc_u64(entry, "count", 0, UINT64_MAX >> 1, &collection->count, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(entry, "room", 0, UINT32_MAX, &collection->room, err);
    if (rc != ERR_OK)
        return rc;
    if (incarnation == NULL || !text_hex_decode(collection->incarnation, INCARNATION_BYTES,
                                                incarnation, strlen(incarnation)))
        return err_set(err, ERR_INVALID_ARGUMENT, "a collection has no incarnation");
    collection->last_change = calloc(PARTITIONS_MAX, sizeof(uint64_t));
    if (collection->last_change == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a report");
    report->collection_count++;
    json_array_foreach(changes, i, change)
    {
        json_int_t partition = json_integer_value(json_array_get(change, 0));
        json_int_t position = json_integer_value(json_array_get(change, 1));

        if (partition < 0 || partition >= PARTITIONS_MAX || position < 0)
            return err_set(err, ERR_INVALID_ARGUMENT, "a change is out of bounds");
        collection->last_change[partition] = (uint64_t)position;
    }
    return ERR_OK;
}

static int compare_incarnations(const void *a, const void *b)
{
    return memcmp(((const struct report_collection *)a)->incarnation,
                  ((const struct report_collection *)b)->incarnation, INCARNATION_BYTES);
}

const struct report_collection *report_collection(const struct report *report,
                                                  const uint8_t incarnation[INCARNATION_BYTES])
{
    struct report_collection wanted = {0};

    memcpy(wanted.incarnation, incarnation, INCARNATION_BYTES);
    return report->collection_count == 0
               ? NULL
               : bsearch(&wanted, report->collections, report->collection_count, sizeof(wanted),
                         compare_incarnations);
}

static enum err_code parse_memory(struct report *report, json_t *document, struct err *err)
{
    json_t *memory = json_object_get(document, "memory");
    enum err_code rc = ERR_OK;

    if (memory == NULL)
        return ERR_OK;
    rc = json_doc_u64(memory, "limit_bytes", 0, UINT64_MAX >> 1, &report->memory_limit, err);
    if (rc == ERR_OK)
        rc = json_doc_u64(memory, "wanted_bytes", 0, UINT64_MAX >> 1, &report->memory_wanted, err);
    return rc;
}

static enum err_code fill_report(struct report *report, json_t *document, bool *ready,
                                 struct err *err)
{
    json_t *partitions = json_object_get(document, "partitions"), *entry;
    json_t *collections = json_object_get(document, "collections");
    const char *state = "";
    uint64_t region = 0;
    size_t i;
    enum err_code rc = json_doc_text(document, "state", &state, err);

    if (rc == ERR_OK)
        rc = json_doc_u64(document, "region", 0, UINT32_MAX, &region, err);
    if (rc != ERR_OK)
        return rc;
    *ready = strcmp(state, "ready") == 0;
    report->region = (uint32_t)region;
    report->points = array_alloc(json_array_size(partitions), sizeof(report->points[0]));
    if (report->points == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a report");
    if ((rc = parse_memory(report, document, err)) != ERR_OK)
        return rc;
    json_array_foreach(partitions, i, entry)
    {
        if ((rc = parse_partition(report, entry, err)) != ERR_OK)
            return rc;
    }
    report->collections = array_alloc(json_array_size(collections), sizeof(report->collections[0]));
    if (report->collections == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a report");
    json_array_foreach(collections, i, entry)
    {
        if ((rc = parse_collection(report, entry, err)) != ERR_OK)
            return rc;
    }
    qsort(report->collections, report->collection_count, sizeof(report->collections[0]),
          compare_incarnations);
    return ERR_OK;
}

enum err_code report_parse(struct report **out, const void *data, size_t len, uint64_t asked_ns,
                           bool *ready, struct err *err)
{
    struct report *report = calloc(1, sizeof(*report));
    json_t *document = NULL;
    enum err_code rc;

    *out = NULL;
    if (report == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a report");
    atomic_init(&report->references, 1);
    report->asked_ns = asked_ns;
    rc = json_doc_parse(&document, data, len, err);
    if (rc == ERR_OK)
        rc = fill_report(report, document, ready, err);
    json_decref(document);
    if (rc == ERR_OK) {
        buffer_append(&report->raw, data, len);
        rc = buffer_check(&report->raw, err);
    }
    if (rc != ERR_OK) {
        report_free(report);
        return err_wrap(err, "status of a replica");
    }
    *out = report;
    return ERR_OK;
}

/* --- the watcher --------------------------------------------------------------------------- */

/* How far a replica is behind the others of its shard that were heard of lately.  One that is stale
 * alone is not: then the log is away, and all stand where it ended. */
static enum health_lag lag_locked(const struct cluster *cluster, uint32_t place,
                                  const struct report *report, uint64_t now_ns)
{
    const struct replica_state *states = &cluster->replicas[place - place % REPLICAS_MAX];
    uint64_t age_ns = now_ns - report->asked_ns;
    enum health_lag lag = LAG_NONE;

    for (uint32_t i = 0; i < REPLICAS_MAX; i++) {
        const struct report *other = states[i].report;

        if (i == place % REPLICAS_MAX || other == NULL || states[i].health.state == HEALTH_OUT ||
            other->region != report->region || now_ns - other->asked_ns > HEARD_NS)
            continue;
        for (uint32_t p = 0; p < PARTITIONS_MAX; p++) {
            uint64_t stale_ns = report->staleness_ns[p];

            if (!partition_set_has(&report->serves, p) || !partition_set_has(&other->serves, p) ||
                report->position[p] >= other->position[p] ||
                (stale_ns != NEVER_NS && stale_ns + age_ns <= LAG_BACK_NS))
                continue;
            if (stale_ns == NEVER_NS || stale_ns + age_ns > LAG_OUT_NS)
                return LAG_MUCH;
            lag = LAG_SOME;
        }
    }
    return lag;
}

static void tell_change(uint32_t place, enum health_state from, enum health_state to)
{
    char name[32];

    if ((from == HEALTH_OUT) == (to == HEALTH_OUT))
        return;
    cluster_replica_name(name, place / REPLICAS_MAX, place % REPLICAS_MAX);
    log_info(NULL,
             to == HEALTH_OUT ? "a replica is not asked any more" : "a replica is asked again",
             LOG_TEXT("replica", name));
}

/* One replica's status call has ended. */
static void take_report(struct cluster *cluster, uint32_t place, struct http_call *call,
                        uint64_t asked_ns)
{
    struct replica_state *state = &cluster->replicas[place];
    struct health_status status = {.asked_ns = asked_ns};
    struct report *report = NULL, *old = NULL;
    uint64_t now_ns = env_boot_ns(cluster->env);
    struct metric *in_use = atomic_load(&state->in_use);
    enum health_state before, after;
    struct err err = {0};
    enum err_code rc = http_call_expect(call, &err);

    if (rc == ERR_OK)
        rc = report_parse(&report, call->reply.data, call->reply.len, asked_ns, &status.is_ready,
                          &err);
    if (rc != ERR_OK)
        log_err(LOG_DEBUG, NULL, "a replica does not report", &err);
    pthread_mutex_lock(&cluster->mutex);
    before = state->health.state;
    if (rc == ERR_OK) {
        status.lag = lag_locked(cluster, place, report, now_ns);
        health_heard(&state->health, &status);
        old = state->report;
        state->report = report;
        if (report->memory_limit > 0)
            atomic_store_explicit(&cluster->has_limits, true, memory_order_relaxed);
    } else {
        health_unheard(&state->health, now_ns, call->rc == ERR_UNAVAILABLE);
    }
    after = state->health.state;
    pthread_mutex_unlock(&cluster->mutex);
    report_put(old);
    tell_change(place, before, after);
    if (in_use != NULL)
        metric_set(in_use, after == HEALTH_OUT ? 0 : 1);
}

/* One round of status calls. */
struct status_round {
    struct cluster *cluster;
    uint64_t asked_ns;
};

/* Taken as each call ends: a replica that hangs does not hold up what the others say. */
static bool status_ended(void *context, struct http_call *call)
{
    const struct status_round *round = context;
    const uint32_t *place = call->user;

    take_report(round->cluster, *place, call, round->asked_ns);
    return false;
}

/* Is it one of those that this thread asks?  A thread of its own for those that are out: a call
 * that hangs holds up its round. */
static bool is_asked(struct cluster *cluster, uint32_t place, bool asks_out)
{
    struct replica_state *state = &cluster->replicas[place];
    char labels[64];
    bool is_out;

    pthread_mutex_lock(&cluster->mutex);
    is_out = state->health.state == HEALTH_OUT;
    pthread_mutex_unlock(&cluster->mutex);
    if (is_out != asks_out)
        return false;
    if (atomic_load(&state->in_use) == NULL && cluster->metrics != NULL) {
        (void)snprintf(labels, sizeof(labels), "shard=\"%u\",replica=\"%u\"", place / REPLICAS_MAX,
                       place % REPLICAS_MAX);
        atomic_store(&state->in_use, metrics_gauge(cluster->metrics, "replica_in_use", labels,
                                                   "1 while questions are sent to the replica."));
    }
    return true;
}

/* Ask every replica that has a URL and is in use (or out), all at once. */
static void ask_all(struct cluster *cluster, const struct view *view, bool asks_out)
{
    uint32_t total = view->map.shards * view->map.replicas, count = 0;
    struct http_call *calls = array_alloc(total, sizeof(*calls));
    uint32_t *places = array_alloc(total, sizeof(*places));
    struct status_round round = {.cluster = cluster, .asked_ns = env_boot_ns(cluster->env)};

    for (uint32_t i = 0; calls != NULL && places != NULL && i < total; i++) {
        uint32_t shard = i / view->map.replicas, replica = i % view->map.replicas;
        uint32_t place = shard * REPLICAS_MAX + replica;
        const char *url = view_url(view, shard, replica);

        if (url[0] == '\0' || !is_asked(cluster, place, asks_out))
            continue;
        places[count] = place;
        calls[count] = (struct http_call){.method = "GET",
                                          .base = url,
                                          .path = "/internal/v1/status",
                                          .reply_max = STATUS_BYTES_MAX,
                                          .user = &places[count]};
        count++;
    }
    if (count > 0)
        http_gather(cluster->client, calls, count, round.asked_ns + STATUS_TIMEOUT_MS * NS_PER_MS,
                    &(struct http_watcher){.ended = status_ended, .context = &round});
    for (uint32_t i = 0; i < count; i++)
        http_call_free(&calls[i]);
    free(calls);
    free(places);
}

static void ask_for_ever(struct cluster *cluster, bool asks_out)
{
    bool stopping = false;

    while (!stopping) {
        struct view *view = view_get(cluster);
        uint64_t next = env_boot_ns(cluster->env) + cluster->status_every_ms * NS_PER_MS;
        enum err_code rc = ERR_OK;

        if (view->has_map)
            ask_all(cluster, view, asks_out);
        view_put(view);
        pthread_mutex_lock(&cluster->mutex);
        while (!cluster->stopping && rc == ERR_OK)
            rc = env_cond_wait(&cluster->wake, &cluster->mutex, next);
        stopping = cluster->stopping || rc == ERR_DEAD;
        pthread_mutex_unlock(&cluster->mutex);
    }
}

void report_watch(void *cluster)
{
    ask_for_ever(cluster, false);
}

void report_probe(void *cluster)
{
    ask_for_ever(cluster, true);
}

/* --- for the result cache ------------------------------------------------------------------ */

static void raise_known(struct cluster_known *known, const struct report *report,
                        uint32_t partition, const struct report_collection *collection,
                        uint64_t age_ns)
{
    if (known->heard && report->position[partition] <= known->position)
        return;
    known->heard = true;
    known->position = report->position[partition];
    known->data = report->data[partition];
    known->last_change = collection == NULL ? UINT64_MAX : collection->last_change[partition];
    known->staleness_ns = NEVER_NS;
    if (report->staleness_ns[partition] != NEVER_NS)
        known->staleness_ns = report->staleness_ns[partition] + age_ns;
}

uint32_t cluster_known(struct cluster *cluster, const uint8_t incarnation[INCARNATION_BYTES],
                       struct cluster_known *out)
{
    struct view *view = view_get(cluster);
    uint64_t now = env_boot_ns(cluster->env);
    uint32_t region = 0;
    bool is_mixed = false;

    memset(out, 0, PARTITIONS_MAX * sizeof(out[0]));
    for (uint32_t i = 0; view->has_map && i < view->map.shards * view->map.replicas; i++) {
        uint32_t shard = i / view->map.replicas;
        struct report *report = report_get(cluster, shard, i % view->map.replicas);
        const struct report_collection *collection;

        if (report == NULL || now - report->asked_ns > HEARD_NS) {
            report_put(report);
            continue;
        }
        is_mixed = is_mixed || (region != 0 && region != report->region);
        region = report->region;
        collection = report_collection(report, incarnation);
        for (uint32_t p = 0; p < view->map.partitions; p++)
            if (view->map.shard_of[p] == shard && partition_set_has(&report->serves, p))
                raise_known(&out[p], report, p, collection, now - report->asked_ns);
        report_put(report);
    }
    view_put(view);
    return is_mixed ? 0 : region;
}
