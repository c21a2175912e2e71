/* The view, written out for people and probes. */
#include "cluster/internal.h"

#include <stdio.h>

#include "common/base/json_writer.h"

static void write_replica(struct cluster *cluster, const struct view *view, uint32_t shard,
                          uint32_t replica, struct json_writer *w)
{
    struct report *report = report_get(cluster, shard, replica);
    struct health health;

    pthread_mutex_lock(&cluster->mutex);
    health = cluster->replicas[shard * REPLICAS_MAX + replica].health;
    pthread_mutex_unlock(&cluster->mutex);
    json_begin_object(w);
    json_key(w, "shard");
    json_u64(w, shard);
    json_key(w, "replica");
    json_u64(w, replica);
    json_key(w, "url");
    json_text(w, view_url(view, shard, replica));
    json_key(w, "healthy");
    json_bool(w, health.state != HEALTH_OUT);
    json_key(w, "health");
    json_text(w, health_name(health.state));
    json_key(w, "in_flight");
    json_u64(w, health.in_flight);
    json_key(w, "weight");
    json_u64(w, view->map.replica_weights[replica]);
    json_key(w, "heard_ms_ago");
    if (report == NULL) {
        json_put_null(w);
    } else {
        json_u64(w, (env_boot_ns(cluster->env) - report->asked_ns) / NS_PER_MS);
        json_key(w, "status");
        json_raw(w, report->raw.data, report->raw.len);
    }
    json_end_object(w);
    report_put(report);
}

void cluster_write_status(struct cluster *cluster, struct buffer *out)
{
    struct view *view = view_get(cluster);
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_object(&w);
    json_key(&w, "ingest_url");
    json_text(&w, view->ingest_url);
    json_key(&w, "nodes");
    json_begin_array(&w);
    for (size_t i = 0; i < view->node_count; i++) {
        json_begin_object(&w);
        json_key(&w, "service");
        json_text(&w, view->nodes[i].service);
        json_key(&w, "name");
        json_text(&w, view->nodes[i].name);
        json_key(&w, "url");
        json_text(&w, view->nodes[i].url);
        json_end_object(&w);
    }
    json_end_array(&w);
    if (view->has_map) {
        json_key(&w, "map_version");
        json_u64(&w, view->map.version);
        json_key(&w, "partitions");
        json_u64(&w, view->map.partitions);
        json_key(&w, "shards");
        json_u64(&w, view->map.shards);
        json_key(&w, "replicas_per_shard");
        json_u64(&w, view->map.replicas);
        json_key(&w, "replicas");
        json_begin_array(&w);
        for (uint32_t i = 0; i < view->map.shards * view->map.replicas; i++)
            write_replica(cluster, view, i / view->map.replicas, i % view->map.replicas, &w);
        json_end_array(&w);
    }
    json_end_object(&w);
    view_put(view);
}

static void add_reason(struct buffer *why, const char *text)
{
    if (why->len > 0)
        buffer_append_byte(why, ',');
    json_escape(why, text, strlen(text));
}

bool cluster_ready(struct cluster *cluster, struct buffer *why)
{
    struct view *view = view_get(cluster);
    size_t before = why->len;
    char text[64];

    if (!view->has_map)
        add_reason(why, "there is no shard map yet");
    if (view->ingest_url[0] == '\0')
        add_reason(why, "no ingest service holds the log");
    for (uint32_t shard = 0; view->has_map && shard < view->map.shards; shard++) {
        bool healthy = false;

        pthread_mutex_lock(&cluster->mutex);
        for (uint32_t replica = 0; replica < view->map.replicas; replica++)
            healthy = healthy ||
                      cluster->replicas[shard * REPLICAS_MAX + replica].health.state != HEALTH_OUT;
        pthread_mutex_unlock(&cluster->mutex);
        if (healthy)
            continue;
        (void)snprintf(text, sizeof(text), "shard %u has no healthy replica", shard);
        add_reason(why, text);
    }
    view_put(view);
    return why->len == before;
}
