/* What replicas report of themselves: asked every 100 ms, all at once, kept as immutable reports.
 *
 * The staleness that a replica reported grows by the time since it was asked, so what is said here
 * is never younger than the truth. */
#include "cluster/internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/json_doc.h"

#define STATUS_BYTES_MAX MIB(16)

static void report_free(struct report *report)
{
    for (size_t i = 0; i < report->collection_count; i++)
        free(report->collections[i].last_change);
    free(report->collections);
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

    if (rc == ERR_OK)
        rc = json_doc_u64(entry, "count", 0, UINT64_MAX >> 1, &collection->count, err);
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

/* One replica's status call has ended. */
static void take_report(struct cluster *cluster, uint32_t place, struct http_call *call,
                        uint64_t asked_ns)
{
    struct report *report = NULL, *old = NULL;
    struct err err = {0};
    bool ready = false;
    enum err_code rc = http_call_expect(call, &err);

    if (rc == ERR_OK)
        rc = report_parse(&report, call->reply.data, call->reply.len, asked_ns, &ready, &err);
    if (rc != ERR_OK)
        log_err(LOG_DEBUG, NULL, "a replica does not report", &err);
    pthread_mutex_lock(&cluster->mutex);
    cluster->replicas[place].healthy = rc == ERR_OK && ready;
    if (rc == ERR_OK) {
        old = cluster->replicas[place].report;
        cluster->replicas[place].report = report;
    }
    pthread_mutex_unlock(&cluster->mutex);
    report_put(old);
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

/* Ask every replica that has a URL, all at once. */
static void ask_all(struct cluster *cluster, const struct view *view)
{
    uint32_t total = view->map.shards * view->map.replicas, count = 0;
    struct http_call *calls = array_alloc(total, sizeof(*calls));
    uint32_t *places = array_alloc(total, sizeof(*places));
    struct status_round round = {.cluster = cluster, .asked_ns = env_boot_ns(cluster->env)};

    for (uint32_t i = 0; calls != NULL && places != NULL && i < total; i++) {
        uint32_t shard = i / view->map.replicas, replica = i % view->map.replicas;
        const char *url = view_url(view, shard, replica);

        if (url[0] == '\0')
            continue;
        places[count] = shard * REPLICAS_MAX + replica;
        calls[count] = (struct http_call){.method = "GET",
                                          .base = url,
                                          .path = "/internal/v1/status",
                                          .reply_max = STATUS_BYTES_MAX,
                                          .user = &places[count]};
        count++;
    }
    if (count > 0)
        http_gather(cluster->client, calls, count, round.asked_ns + STATUS_TIMEOUT_MS * NS_PER_MS,
                    status_ended, &round);
    for (uint32_t i = 0; i < count; i++)
        http_call_free(&calls[i]);
    free(calls);
    free(places);
}

void report_watch(void *argument)
{
    struct cluster *cluster = argument;
    bool stopping = false;

    while (!stopping) {
        struct view *view = view_get(cluster);
        uint64_t next = env_boot_ns(cluster->env) + cluster->status_every_ms * NS_PER_MS;
        enum err_code rc = ERR_OK;

        if (view->has_map)
            ask_all(cluster, view);
        view_put(view);
        pthread_mutex_lock(&cluster->mutex);
        while (!cluster->stopping && rc == ERR_OK)
            rc = env_cond_wait(&cluster->wake, &cluster->mutex, next);
        stopping = cluster->stopping || rc == ERR_DEAD;
        pthread_mutex_unlock(&cluster->mutex);
    }
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
    struct report_collection wanted = {0};
    uint32_t region = 0;
    bool is_mixed = false;

    memset(out, 0, PARTITIONS_MAX * sizeof(out[0]));
    memcpy(wanted.incarnation, incarnation, INCARNATION_BYTES);
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
        collection = report->collection_count == 0
                         ? NULL
                         : bsearch(&wanted, report->collections, report->collection_count,
                                   sizeof(wanted), compare_incarnations);
        for (uint32_t p = 0; p < view->map.partitions; p++)
            if (view->map.shard_of[p] == shard && partition_set_has(&report->serves, p))
                raise_known(&out[p], report, p, collection, now - report->asked_ns);
        report_put(report);
    }
    view_put(view);
    return is_mixed ? 0 : region;
}
