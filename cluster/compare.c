/* Comparing replicas: see compare.h.  One thread of each process that wants it. */
#include "cluster/compare.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/http/json_doc.h"

#define DIGEST_BYTES_MAX  MIB(16)
#define DIGEST_TIMEOUT_NS (10 * NS_PER_S)
#define SCRUB_EVERY       5 /* rounds for one partition of one replica of each shard */
#define RANGES            16
#define MEETINGS_MAX      10 /* tries to ask two replicas at one position */

struct shard_comparison {
    struct partition_set divergent[1 + REPLICAS_MAX]; /* by comparing; by scrubbing each replica */
    uint32_t scrubbed; /* counts up: partition and replica that are next */
    struct metric *gauge;
};

struct comparison {
    struct cluster *cluster;
    const struct view *view; /* of this round */
    struct metric *compared, *scrubs;
    uint64_t rounds;
    struct shard_comparison shards[SHARDS_MAX];
};

static const struct report_point *points_of(const struct report *report, uint32_t partition)
{
    assert(report->slot_of[partition] > 0); /* of every partition that it serves */
    return report->points[report->slot_of[partition] - 1];
}

enum verdict compare_reports(const struct report *one, const struct report *other,
                             uint32_t partition, uint64_t *position)
{
    enum verdict verdict = VERDICT_UNKNOWN;

    *position = 0;
    if (one->region != other->region || !partition_set_has(&one->serves, partition) ||
        !partition_set_has(&other->serves, partition))
        return VERDICT_UNKNOWN;
    for (size_t i = 0; i < POINTS_MAX * POINTS_MAX; i++) {
        const struct report_point *a = &points_of(one, partition)[i / POINTS_MAX];
        const struct report_point *b = &points_of(other, partition)[i % POINTS_MAX];

        if (a->position == 0 || a->position != b->position || a->position <= *position)
            continue;
        *position = a->position;
        verdict = hash128_equal(a->digest, b->digest) ? VERDICT_EQUAL : VERDICT_DIFFERENT;
    }
    return verdict;
}

/* --- naming what differs --------------------------------------------------------------------- */

static const json_t *find_collection(const json_t *answer, const char *incarnation)
{
    const json_t *collections = json_object_get(answer, "collections");

    for (size_t i = 0; i < json_array_size(collections); i++) {
        const json_t *entry = json_array_get(collections, i);
        const char *other = json_string_value(json_object_get(entry, "incarnation"));

        if (other != NULL && strcmp(other, incarnation) == 0)
            return entry;
    }
    return NULL;
}

static bool is_same_digest(const json_t *a, const json_t *b)
{
    struct hash128 left = {0}, right = {0};

    /* A collection that one has not is one without ids. */
    (void)report_digest(a, &left);
    (void)report_digest(b, &right);
    return hash128_equal(left, right);
}

/* One collection; either may be missing. */
static void name_collection(const json_t *one, const json_t *other, bool is_pair,
                            struct buffer *out)
{
    const char *name = json_string_value(json_object_get(one != NULL ? one : other, "name"));
    const json_t *ranges = json_object_get(one, "ranges"),
                 *others = json_object_get(other, "ranges");
    const char *before = ": ids with hashes ";

    if (is_same_digest(json_object_get(one, is_pair ? "found" : "kept"),
                       json_object_get(is_pair ? other : one, "found")))
        return;
    buffer_append_format(out, "%scollection %s", out->len == 0 ? "" : "; ",
                         name == NULL ? "?" : name);
    for (size_t i = 0; is_pair && i < RANGES; i++) {
        if (is_same_digest(json_array_get(ranges, i), json_array_get(others, i)))
            continue;
        buffer_append_format(out, "%s%zx…", before, i);
        before = ", ";
    }
}

void compare_name_ranges(const json_t *one, const json_t *other, char *out, size_t size)
{
    const json_t *lists[] = {json_object_get(one, "collections"),
                             json_object_get(other, "collections")};
    struct buffer text = {0};

    for (size_t list = 0; list < ARRAY_COUNT(lists); list++)
        for (size_t i = 0; i < json_array_size(lists[list]); i++) {
            const json_t *entry = json_array_get(lists[list], i);
            const char *incarnation = json_string_value(json_object_get(entry, "incarnation"));

            if (incarnation == NULL)
                continue;
            if (list == 0)
                name_collection(entry, find_collection(other, incarnation), other != NULL, &text);
            else if (find_collection(one, incarnation) == NULL)
                name_collection(NULL, entry, true, &text);
        }
    if (text.len == 0)
        buffer_append_text(&text, "the ids are equal: the sums that are kept are wrong");
    (void)snprintf(out, size, "%.*s", text.failed ? 0 : (int)text.len, (const char *)text.data);
    buffer_free(&text);
}

/* NULL: no answer. */
static json_t *ask_digest(struct comparison *comparison, const char *url, uint32_t partition)
{
    struct cluster *cluster = comparison->cluster;
    struct http_call call = {.method = "GET", .base = url, .reply_max = DIGEST_BYTES_MAX};
    json_t *answer = NULL;
    struct err ignored = {0};
    char path[64];

    (void)snprintf(path, sizeof(path), "/internal/v1/digest?partition=%u", partition);
    call.path = path;
    (void)http_call_one(cluster->client, &call, env_boot_ns(cluster->env) + DIGEST_TIMEOUT_NS);
    if (http_call_expect(&call, &ignored) == ERR_OK)
        (void)(json_doc_parse(&answer, call.reply.data, call.reply.len, &ignored) == ERR_OK);
    http_call_free(&call);
    return answer;
}

/* --- telling --------------------------------------------------------------------------------- */

static void show(struct comparison *comparison, uint32_t shard)
{
    struct shard_comparison *state = &comparison->shards[shard];
    struct partition_set all = {0};
    char labels[32];

    for (size_t way = 0; way < ARRAY_COUNT(state->divergent); way++)
        for (size_t i = 0; i < ARRAY_COUNT(all.words); i++)
            all.words[i] |= state->divergent[way].words[i];
    if (state->gauge == NULL && comparison->cluster->metrics != NULL) {
        (void)snprintf(labels, sizeof(labels), "shard=\"%u\"", shard);
        state->gauge = metrics_gauge(
            comparison->cluster->metrics, "replica_divergent_partitions", labels,
            "Partitions in which replicas differ at one position, or a store from its sums.");
    }
    if (state->gauge != NULL)
        metric_set(state->gauge, partition_set_count(&all));
}

/* Where, between whom, and in which ranges of ids. */
struct finding {
    uint32_t shard, partition;
    uint32_t replica, other;
    uint64_t position;
};

static void tell(const struct finding *finding, const char *what, const char *ranges)
{
    char one[32], other[32];

    cluster_replica_name(one, finding->shard, finding->replica);
    cluster_replica_name(other, finding->shard, finding->other);
    log_error(NULL, what, LOG_TEXT("replica", one), LOG_TEXT("other", other),
              LOG_U64("partition", finding->partition), LOG_U64("position", finding->position),
              LOG_TEXT("range", ranges));
}

/* A partition was looked at in one of the ways (struct shard_comparison); true: it differs since
 * now. */
static bool note(struct comparison *comparison, const struct finding *finding, size_t way,
                 bool differs)
{
    struct partition_set *set = &comparison->shards[finding->shard].divergent[way];
    bool did = partition_set_has(set, finding->partition);

    if (differs == did)
        return false;
    if (differs)
        partition_set_add(set, finding->partition);
    else
        partition_set_remove(set, finding->partition);
    show(comparison, finding->shard);
    if (!differs)
        log_info(NULL, "a partition of a shard agrees again", LOG_U64("shard", finding->shard),
                 LOG_U64("partition", finding->partition));
    return differs;
}

/* --- comparing ------------------------------------------------------------------------------- */

/* The ranges in which two replicas differ, as far as they can be caught at one position. */
static void name_ranges(struct comparison *comparison, const struct finding *finding, char *out,
                        size_t size)
{
    const struct view *view = comparison->view;
    bool is_named = false;

    (void)snprintf(out, size, "not known: the replicas were not met at one position");
    for (uint32_t i = 0; i < MEETINGS_MAX && !is_named; i++) {
        json_t *one = ask_digest(comparison, view_url(view, finding->shard, finding->replica),
                                 finding->partition);
        json_t *other = ask_digest(comparison, view_url(view, finding->shard, finding->other),
                                   finding->partition);

        is_named = one != NULL && json_integer_value(json_object_get(one, "position")) ==
                                      json_integer_value(json_object_get(other, "position"));
        if (is_named)
            compare_name_ranges(one, other, out, size);
        json_decref(one);
        json_decref(other);
    }
}

/* Every pair of replicas in one partition. */
static void compare_partition(struct comparison *comparison, struct report **reports,
                              struct finding finding)
{
    uint32_t replicas = comparison->view->map.replicas;
    struct finding worst = finding;
    char ranges[ERR_MESSAGE_BYTES];
    uint64_t compared = 0;
    bool differs = false;

    for (uint32_t i = 0; i < replicas * replicas; i++) {
        enum verdict verdict;

        finding.replica = i / replicas;
        finding.other = i % replicas;
        if (finding.replica >= finding.other || reports[finding.replica] == NULL ||
            reports[finding.other] == NULL)
            continue;
        verdict = compare_reports(reports[finding.replica], reports[finding.other],
                                  finding.partition, &finding.position);
        compared += verdict != VERDICT_UNKNOWN;
        if (verdict == VERDICT_DIFFERENT && !differs) {
            differs = true;
            worst = finding;
        }
    }
    if (comparison->compared != NULL)
        metric_add(comparison->compared, compared);
    if (compared > 0 && note(comparison, &worst, 0, differs)) {
        name_ranges(comparison, &worst, ranges, sizeof(ranges));
        tell(&worst, "replicas of a shard differ at one position", ranges);
    }
}

static void compare_shard(struct comparison *comparison, uint32_t shard)
{
    const struct shard_map *map = &comparison->view->map;
    struct report *reports[REPLICAS_MAX] = {0};

    for (uint32_t replica = 0; replica < map->replicas; replica++)
        reports[replica] = report_get(comparison->cluster, shard, replica);
    for (uint32_t p = 0; p < map->partitions; p++)
        if (map->shard_of[p] == shard)
            compare_partition(comparison, reports,
                              (struct finding){.shard = shard, .partition = p});
    for (uint32_t replica = 0; replica < map->replicas; replica++)
        report_put(reports[replica]);
}

/* --- scrubbing ------------------------------------------------------------------------------- */

/* The next partition of the shard, in the next replica. */
static struct finding next_scrub(struct comparison *comparison, uint32_t shard)
{
    const struct shard_map *map = &comparison->view->map;
    struct shard_comparison *state = &comparison->shards[shard];
    struct finding finding = {.shard = shard};

    for (uint32_t i = 0; i < map->partitions * map->replicas; i++) {
        uint32_t at = (state->scrubbed + i) % (map->partitions * map->replicas);

        finding.partition = at / map->replicas;
        finding.replica = finding.other = at % map->replicas;
        if (map->shard_of[finding.partition] == shard) {
            state->scrubbed = at + 1;
            break;
        }
    }
    return finding;
}

static void scrub(struct comparison *comparison, uint32_t shard)
{
    struct finding finding = next_scrub(comparison, shard);
    const char *url = view_url(comparison->view, shard, finding.replica);
    json_t *answer = url[0] == '\0' ? NULL : ask_digest(comparison, url, finding.partition);
    char ranges[ERR_MESSAGE_BYTES];
    bool differs;

    if (answer == NULL)
        return;
    if (comparison->scrubs != NULL)
        metric_add(comparison->scrubs, 1);
    finding.position = (uint64_t)json_integer_value(json_object_get(answer, "position"));
    differs = !is_same_digest(json_object_get(answer, "kept"), json_object_get(answer, "found"));
    if (note(comparison, &finding, 1 + finding.replica, differs)) {
        if (comparison->view->map.replicas == 1) {
            compare_name_ranges(answer, NULL, ranges, sizeof(ranges));
        } else {
            finding.other = finding.replica == 0 ? 1 : 0;
            name_ranges(comparison, &finding, ranges, sizeof(ranges));
        }
        tell(&finding, "a store holds other ids than were put into it", ranges);
    }
    json_decref(answer);
}

/* --- the thread ------------------------------------------------------------------------------ */

static struct comparison *comparison_new(struct cluster *cluster)
{
    struct comparison *comparison = calloc(1, sizeof(*comparison));

    if (comparison == NULL)
        return NULL;
    comparison->cluster = cluster;
    if (cluster->metrics != NULL) {
        comparison->compared =
            metrics_counter(cluster->metrics, "replica_comparisons_total", "",
                            "Digests of two replicas compared at one position of a partition.");
        comparison->scrubs =
            metrics_counter(cluster->metrics, "replica_scrubs_total", "",
                            "Partitions of replicas whose digest was made anew from their ids.");
    }
    return comparison;
}

static void run_round(struct comparison *comparison)
{
    const struct view *view = comparison->view;

    for (uint32_t shard = 0; view->has_map && shard < view->map.shards; shard++) {
        show(comparison, shard);
        compare_shard(comparison, shard);
        if (comparison->rounds % SCRUB_EVERY == 0)
            scrub(comparison, shard);
    }
    comparison->rounds++;
}

void compare_run(void *argument)
{
    struct cluster *cluster = argument;
    struct comparison *comparison = comparison_new(cluster);
    bool stopping = comparison == NULL;

    while (!stopping) {
        uint64_t next = env_boot_ns(cluster->env) + cluster->compare_every_ms * NS_PER_MS;
        struct view *view = view_get(cluster);
        enum err_code rc = ERR_OK;

        comparison->view = view;
        run_round(comparison);
        view_put(view);
        pthread_mutex_lock(&cluster->mutex);
        while (!cluster->stopping && rc == ERR_OK)
            rc = env_cond_wait(&cluster->wake, &cluster->mutex, next);
        stopping = cluster->stopping || rc == ERR_DEAD;
        pthread_mutex_unlock(&cluster->mutex);
    }
    free(comparison);
}
