/* vicinal status: who serves what, how far each replica is, which collections there are, how far
 * the region is behind the others. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/base/text.h"

#define CALL_MS      5000u
#define NEIGHBOUR_MS 1000u /* another region's router: it may be away */

struct status {
    const char *url;
    bool json, partitions;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct status, row_member)

static const struct option options[] = {
    CLI_URL_ROW(struct status),
    {ROW("partitions", OPTION_BOOL, partitions), .fallback = "false",
     .help = "One line for each partition of each replica, with position and digest."},
    {ROW("json", OPTION_BOOL, json), .fallback = "false", .help = "Print what the router says."},
    {0},
};

/* What is shown of a replica's partitions, together. */
struct totals {
    size_t partitions;
    uint64_t positions, live, tombstones;
    double staleness_ms; /* the highest; negative: not known of all */
    uint64_t digest;     /* of all digests, to compare replicas by eye */
};

static uint64_t number(json_t *object, const char *name)
{
    json_int_t value = json_integer_value(json_object_get(object, name));

    return value < 0 ? 0 : (uint64_t)value;
}

static void add_up(json_t *partitions, struct totals *totals)
{
    json_t *entry;
    size_t i;

    json_array_foreach(partitions, i, entry)
    {
        json_t *staleness = json_object_get(entry, "staleness_ms");
        const char *digest = cli_text(entry, "digest", "");
        uint8_t bytes[16];
        uint64_t word;

        totals->partitions++;
        totals->positions += number(entry, "position");
        totals->live += number(entry, "live");
        totals->tombstones += number(entry, "tombstones");
        if (!json_is_number(staleness))
            totals->staleness_ms = -1;
        else if (totals->staleness_ms >= 0 && json_number_value(staleness) > totals->staleness_ms)
            totals->staleness_ms = json_number_value(staleness);
        if (strlen(digest) == 32 && text_hex_decode(bytes, sizeof(bytes), digest, 32)) {
            memcpy(&word, bytes, sizeof(word));
            totals->digest += word * (2 * number(entry, "partition") + 1);
        }
    }
}

static void print_partitions(json_t *partitions)
{
    json_t *entry;
    size_t i;

    json_array_foreach(partitions, i, entry)
    {
        (void)printf("       partition %-5llu position %-10llu live %-9llu epoch %-5llu %s\n",
                     (unsigned long long)number(entry, "partition"),
                     (unsigned long long)number(entry, "position"),
                     (unsigned long long)number(entry, "live"),
                     (unsigned long long)number(entry, "epoch"), cli_text(entry, "digest", "-"));
    }
}

/* "ready" while it is asked; else what it says of itself, or why that is not enough. */
static const char *state_of(json_t *replica)
{
    const char *state = cli_text(json_object_get(replica, "status"), "state", "away");

    if (json_is_true(json_object_get(replica, "healthy")))
        return "ready";
    return strcmp(state, "ready") == 0 ? "out" : state;
}

static void print_replicas(json_t *cluster, bool with_partitions)
{
    json_t *replicas = json_object_get(cluster, "replicas"), *replica;
    size_t i;

    (void)printf("%-7s %-9s %-9s %10s %10s %9s %10s  %-16s  %s\n", "SHARD", "STATE", "PARTS",
                 "POSITION", "RECORDS", "DELETED", "STALENESS", "DIGEST", "URL");
    json_array_foreach(replicas, i, replica)
    {
        json_t *report = json_object_get(replica, "status");
        json_t *partitions = json_object_get(report, "partitions");
        struct totals totals = {0};
        char name[48], staleness[32] = "?";

        add_up(partitions, &totals);
        (void)snprintf(name, sizeof(name), "%llu.%llu",
                       (unsigned long long)number(replica, "shard"),
                       (unsigned long long)number(replica, "replica"));
        if (totals.partitions > 0 && totals.staleness_ms >= 0)
            (void)snprintf(staleness, sizeof(staleness), "%.0f ms", totals.staleness_ms);
        (void)printf("%-7s %-9s %-9zu %10llu %10llu %9llu %10s  %016llx  %s\n", name,
                     state_of(replica), totals.partitions, (unsigned long long)totals.positions,
                     (unsigned long long)totals.live, (unsigned long long)totals.tombstones,
                     staleness, (unsigned long long)totals.digest, cli_text(replica, "url", "-"));
        if (with_partitions)
            print_partitions(partitions);
    }
}

static void print_collections(json_t *page)
{
    json_t *collections = json_object_get(page, "collections"), *collection;
    size_t i;

    if (json_array_size(collections) == 0) {
        (void)printf("\nno collections\n");
        return;
    }
    (void)printf("\n%-32s %10s %10s %-8s %s\n", "COLLECTION", "RECORDS", "DIMENSION", "METRIC",
                 "EMBEDDER");
    json_array_foreach(collections, i, collection)
    {
        json_t *vector = json_object_get(collection, "vector");
        json_t *count = json_object_get(collection, "vector_count");
        char text[32] = "?";

        if (json_is_integer(count))
            (void)snprintf(text, sizeof(text), "%lld", (long long)json_integer_value(count));
        (void)printf("%-32s %10s %10llu %-8s %s\n", cli_text(collection, "name", "?"), text,
                     (unsigned long long)number(vector, "dimension"),
                     cli_text(vector, "metric", "?"), cli_text(collection, "embedder", "none"));
    }
}

/* The first page of the list names the collections; each one's own page has its count. */
static void add_counts(struct http_client *client, const char *base, json_t *page)
{
    json_t *collections = json_object_get(page, "collections"), *collection;
    size_t i;

    json_array_foreach(collections, i, collection)
    {
        struct cli_call ask = {.method = "GET", .timeout_ms = CALL_MS};
        json_t *one = NULL;
        struct err err = {0};
        char path[1024];

        if (json_object_get(collection, "vector_count") != NULL)
            continue;
        if (cli_path(path, sizeof(path), cli_text(collection, "name", ""), "", &err) != ERR_OK)
            continue;
        ask.path = path;
        if (cli_ask(client, base, &ask, &one, NULL, &err) == ERR_OK)
            (void)json_object_set(collection, "vector_count", json_object_get(one, "vector_count"));
        json_decref(one);
    }
}

/* Each region knows its own role only: ask their routers. */
static void add_roles(struct http_client *client, json_t *page)
{
    static const struct cli_call ask = {
        .method = "GET", .path = "/v1/admin/regions", .timeout_ms = NEIGHBOUR_MS};
    json_t *region;
    size_t i;

    json_array_foreach(json_object_get(page, "regions"), i, region)
    {
        json_t *answer = NULL;
        struct err ignored = {0};

        if (json_object_get(region, "role") == NULL &&
            cli_ask(client, cli_text(region, "router_url", ""), &ask, &answer, NULL, &ignored) ==
                ERR_OK &&
            strcmp(cli_text(answer, "self", ""), cli_text(region, "name", "?")) == 0)
            (void)json_object_set(region, "role", json_object_get(answer, "role"));
        json_decref(answer);
    }
}

/* What waits for the log, and what keeps it from being trimmed, only the ingests know; one that
 * cannot be reached from here says nothing. */
static void add_ingests(struct http_client *client, json_t *cluster)
{
    static const struct cli_call ask = {
        .method = "GET", .path = "/internal/v1/status", .timeout_ms = NEIGHBOUR_MS};
    json_t *node;
    size_t i;

    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        json_t *answer = NULL;
        struct err ignored = {0};

        if (strcmp(cli_text(node, "service", ""), "ingest") != 0)
            continue;
        if (cli_ask(client, cli_text(node, "url", ""), &ask, &answer, NULL, &ignored) == ERR_OK) {
            if (json_object_get(answer, "spool") != NULL)
                (void)json_object_set(node, "spool", json_object_get(answer, "spool"));
            if (json_is_true(json_object_get(answer, "holder")) &&
                json_object_get(answer, "trim") != NULL)
                (void)json_object_set(node, "trim", json_object_get(answer, "trim"));
        }
        json_decref(answer);
    }
}

/* Only what an operator should know of. */
static void print_spools(json_t *cluster)
{
    json_t *node;
    size_t i;

    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        json_t *spool = json_object_get(node, "spool");
        unsigned long long waiting = number(spool, "records");
        unsigned long long parked = number(spool, "parked_records");

        if (waiting > 0)
            (void)printf("\ningest %s: %llu records wait in its spool for the log, for %.0f s\n",
                         cli_text(node, "name", "?"), waiting,
                         json_number_value(json_object_get(spool, "oldest_seconds")));
        if (parked > 0)
            (void)printf(
                "\ningest %s: %llu records of its spool cannot be written any more and are "
                "parked there\n",
                cli_text(node, "name", "?"), parked);
        if (json_is_true(json_object_get(spool, "broken")))
            (void)printf("\ningest %s: the disk of its spool has failed\n",
                         cli_text(node, "name", "?"));
    }
}

static void print_trim(json_t *cluster)
{
    json_t *node;
    size_t i;

    json_array_foreach(json_object_get(cluster, "nodes"), i, node)
    {
        json_t *trim = json_object_get(node, "trim");

        if (trim == NULL)
            continue;
        (void)printf("\nlog: %llu records were trimmed from its beginning",
                     (unsigned long long)number(trim, "trimmed_records"));
        if (cli_text(trim, "detail", "")[0] != '\0')
            (void)printf("; not trimmed further: %s", cli_text(trim, "detail", ""));
        (void)printf("\n");
    }
}

/* "12 ms", "3.4 s", or "?" for what is no number. */
static const char *time_text(char out[24], json_t *seconds)
{
    double value = json_number_value(seconds);

    if (!json_is_number(seconds))
        (void)snprintf(out, 24, "?");
    else if (value < 1)
        (void)snprintf(out, 24, "%.0f ms", value * 1000);
    else
        (void)snprintf(out, 24, "%.1f s", value);
    return out;
}

static void print_regions(json_t *page)
{
    json_t *regions = json_object_get(page, "regions"), *region;
    size_t i;

    if (json_array_size(regions) == 0)
        return;
    (void)printf("\n%-16s %-8s %-12s %8s %8s %9s %9s %9s  %s\n", "REGION", "ROLE", "STATE", "LAG",
                 "RECORDS", "P50", "P99", "SEEN", "URL");
    json_array_foreach(regions, i, region)
    {
        json_t *known = json_object_get(region, "replication");
        json_t *propagation = json_object_get(known, "propagation_seconds");
        char lag[24], p50[24], p99[24], seen[24];

        if (known == NULL) {
            (void)printf("%-16s %-8s %-12s %8s %8s %9s %9s %9s  %s\n",
                         cli_text(region, "name", "?"), cli_text(region, "role", "?"), "this one",
                         "-", "-", "-", "-", "-", cli_text(region, "router_url", "-"));
            continue;
        }
        (void)printf("%-16s %-8s %-12s %8s %8llu %9s %9s %9s  %s\n", cli_text(region, "name", "?"),
                     cli_text(region, "role", "?"), cli_text(known, "state", "?"),
                     time_text(lag, json_object_get(known, "lag_seconds")),
                     (unsigned long long)number(known, "lag_records"),
                     time_text(p50, json_object_get(propagation, "p50")),
                     time_text(p99, json_object_get(propagation, "p99")),
                     time_text(seen, json_object_get(known, "seen_seconds_ago")),
                     cli_text(region, "router_url", "-"));
        if (cli_text(known, "detail", "")[0] != '\0')
            (void)printf("                 %s\n", cli_text(known, "detail", ""));
    }
}

static void print_json(json_t *const *answers, bool is_ready)
{
    struct buffer text = {0};

    buffer_append_format(&text, "{\"ready\":%s,\"cluster\":", is_ready ? "true" : "false");
    json_doc_dump(answers[0], &text);
    buffer_append_text(&text, ",\"collections\":");
    json_doc_dump(json_object_get(answers[1], "collections"), &text);
    buffer_append_text(&text, ",\"regions\":");
    json_doc_dump(answers[2], &text);
    (void)printf("%.*s}\n", (int)text.len, (const char *)text.data);
    buffer_free(&text);
}

static int run_status(void *settings, const struct cli_operands *operands)
{
    static const struct cli_call asks[] = {
        {.method = "GET", .path = "/internal/v1/status", .timeout_ms = CALL_MS},
        {.method = "GET", .path = "/v1/collections?limit=1000", .timeout_ms = CALL_MS},
        {.method = "GET", .path = "/v1/admin/regions", .timeout_ms = CALL_MS},
        {.method = "GET", .path = "/readyz", .timeout_ms = CALL_MS},
    };
    const struct status *status = settings;
    struct http_client *client = NULL;
    json_t *answers[ARRAY_COUNT(asks)] = {0};
    struct err err = {0}, unready = {0};
    bool is_ready = false;
    char base[512];
    enum err_code rc = cli_base_url(base, sizeof(base), status->url, &err);

    (void)operands;
    if (rc == ERR_OK)
        rc = http_client_open(&client, &(struct http_client_options){.env = env_real()}, &err);
    for (size_t i = 0; i < 3 && rc == ERR_OK; i++)
        rc = cli_ask(client, base, &asks[i], &answers[i], NULL, &err);
    if (rc == ERR_OK) {
        is_ready = cli_ask(client, base, &asks[3], &answers[3], NULL, &unready) == ERR_OK;
        add_counts(client, base, answers[1]);
        add_roles(client, answers[2]);
        add_ingests(client, answers[0]);
    }
    if (rc == ERR_OK && status->json) {
        print_json(answers, is_ready);
    } else if (rc == ERR_OK) {
        (void)printf("%s at %s; map version %llu, %llu partitions\n\n",
                     is_ready ? "ready" : "NOT READY", base,
                     (unsigned long long)number(answers[0], "map_version"),
                     (unsigned long long)number(answers[0], "partitions"));
        print_replicas(answers[0], status->partitions);
        print_collections(answers[1]);
        print_regions(answers[2]);
        print_spools(answers[0]);
        print_trim(answers[0]);
    }
    for (size_t i = 0; i < ARRAY_COUNT(asks); i++)
        json_decref(answers[i]);
    http_client_close(client);
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("status", &err);
}

const struct verb verb_status = {
    .name = "status",
    .brief = "Show shards, replicas, positions, staleness, collections and regions.",
    .synopsis = "[--url URL] [--json]",
    .about = "Replicas of one shard that are equally far show the same digest.",
    .options = options,
    .settings_size = sizeof(struct status),
    .run = run_status,
};
