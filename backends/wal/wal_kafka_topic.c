/* The topic of a log: found, or made by the first writer, and refused when its settings can lose
 * what was acknowledged.
 *
 * A new topic gets as many replicas as there are brokers, three at most, and of three or more at
 * least two must have an entry before it counts.  One broker alone is taken, for a laptop's sake,
 * with a warning.  Nothing is ever changed on a topic that exists: its settings are read, and what
 * is unsafe is named together with what it should be. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define LOOK_NS            (20 * NS_PER_MS) /* between looks at a topic that is being made */
#define REPLICAS           3
#define MESSAGE_BYTES_MIN  1000000u /* any record, and librdkafka's batches */
#define MESSAGE_BYTES_TEXT "1048588"

struct kafka_shape {
    bool exists;
    bool is_ready; /* every partition has a leader */
    int brokers;
    uint32_t partitions;
};

/* --- looking --------------------------------------------------------------------------------- */

static rd_kafka_resp_err_t shape_of(const rd_kafka_metadata_topic_t *topic,
                                    struct kafka_shape *shape)
{
    if (topic->err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return RD_KAFKA_RESP_ERR_NO_ERROR;
    if (topic->err != RD_KAFKA_RESP_ERR_NO_ERROR &&
        topic->err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
        return topic->err;
    shape->exists = true;
    shape->partitions = (uint32_t)topic->partition_cnt;
    shape->is_ready = topic->partition_cnt > 0;
    for (int i = 0; i < topic->partition_cnt; i++)
        if (topic->partitions[i].leader < 0)
            shape->is_ready = false;
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

static rd_kafka_resp_err_t look_once(struct wal_kafka *wal, uint64_t deadline_ns,
                                     struct kafka_shape *shape)
{
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code =
        rd_kafka_metadata(wal->asking.rk, 0, wal->asking.topic, &metadata,
                          MAX_OF(kafka_wait_ms(wal->base.env, deadline_ns), 1));

    *shape = (struct kafka_shape){0};
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return code;
    shape->brokers = metadata->broker_cnt;
    if (metadata->topic_cnt == 1)
        code = shape_of(&metadata->topics[0], shape);
    rd_kafka_metadata_destroy(metadata);
    return code;
}

/* Look until somebody answers. */
static enum err_code look(struct wal_kafka *wal, uint64_t deadline_ns, struct kafka_shape *shape,
                          struct err *err)
{
    struct env *env = wal->base.env;

    for (;;) {
        rd_kafka_resp_err_t code = look_once(wal, deadline_ns, shape);
        struct kafka_client *asking = &wal->asking;
        bool is_refused;

        if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
            return ERR_OK;
        (void)rd_kafka_poll(asking->rk, 0);
        pthread_mutex_lock(&asking->lock);
        is_refused = asking->trouble == RD_KAFKA_RESP_ERR__AUTHENTICATION ||
                     asking->trouble == RD_KAFKA_RESP_ERR__SSL;
        pthread_mutex_unlock(&asking->lock);
        if (!kafka_is_passing(code) || is_refused || env_boot_ns(env) >= deadline_ns)
            return kafka_failed(asking, code, wal->place.brokers, err);
        if (env_sleep_until(env, env_boot_ns(env) + LOOK_NS) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
    }
}

static enum err_code await_topic(struct wal_kafka *wal, struct kafka_shape *shape, struct err *err)
{
    struct env *env = wal->base.env;
    uint64_t deadline_ns = env_boot_ns(env) + KAFKA_OPEN_NS;
    enum err_code code = look(wal, deadline_ns, shape, err);

    while (code == ERR_OK && !shape->is_ready) {
        if (env_boot_ns(env) >= deadline_ns)
            return err_set(err, ERR_UNAVAILABLE,
                           "topic %s has partitions without a leader: look at the brokers",
                           wal->place.topic);
        code = env_sleep_until(env, env_boot_ns(env) + LOOK_NS) == ERR_OK
                   ? look(wal, deadline_ns, shape, err)
                   : err_set(err, ERR_DEAD, "shutting down");
    }
    return code;
}

/* --- questions to the cluster's administration ----------------------------------------------- */

enum err_code kafka_await_event(struct wal_kafka *wal, rd_kafka_queue_t *queue, const char *what,
                                rd_kafka_event_t **event, struct err *err)
{
    *event = rd_kafka_queue_poll(queue, (int)(KAFKA_OPEN_NS / NS_PER_MS) + 1000);
    if (*event == NULL)
        return kafka_timed_out(&wal->asking, what, err);
    if (rd_kafka_event_error(*event) != RD_KAFKA_RESP_ERR_NO_ERROR)
        return kafka_failed(&wal->asking, rd_kafka_event_error(*event), what, err);
    return ERR_OK;
}

rd_kafka_AdminOptions_t *kafka_admin_options(struct wal_kafka *wal, rd_kafka_admin_op_t operation)
{
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(wal->asking.rk, operation);
    char text[100];

    (void)rd_kafka_AdminOptions_set_request_timeout(options, (int)(KAFKA_OPEN_NS / NS_PER_MS), text,
                                                    sizeof(text));
    return options;
}

/* --- making ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    const char *value;
} SETTINGS[] = {
    {"cleanup.policy", "delete"},
    {"retention.ms", "-1"},
    {"retention.bytes", "-1"},
    {"unclean.leader.election.enable", "false"},
    {"max.message.bytes", MESSAGE_BYTES_TEXT},
};

static rd_kafka_NewTopic_t *new_topic(const struct wal_kafka *wal, uint32_t partitions, int brokers,
                                      struct err *err)
{
    int replicas = MIN_OF(brokers, REPLICAS);
    char text[200];
    rd_kafka_NewTopic_t *topic =
        rd_kafka_NewTopic_new(wal->place.topic, (int)partitions + 1, replicas, text, sizeof(text));

    if (topic == NULL) {
        err_set(err, ERR_CONFIG, "topic %s: %s", wal->place.topic, text);
        return NULL;
    }
    for (size_t i = 0; i < ARRAY_COUNT(SETTINGS); i++)
        (void)rd_kafka_NewTopic_set_config(topic, SETTINGS[i].name, SETTINGS[i].value);
    (void)rd_kafka_NewTopic_set_config(topic, "min.insync.replicas", replicas >= 3 ? "2" : "1");
    return topic;
}

/* Another writer may have been faster. */
static enum err_code creation_result(struct wal_kafka *wal, const rd_kafka_event_t *event,
                                     struct err *err)
{
    const rd_kafka_topic_result_t **results;
    rd_kafka_resp_err_t code;
    size_t count;

    results = rd_kafka_CreateTopics_result_topics(
        rd_kafka_event_CreateTopics_result((rd_kafka_event_t *)event), &count);
    if (count != 1)
        return err_set(err, ERR_IO, "topic %s was not made", wal->place.topic);
    code = rd_kafka_topic_result_error(results[0]);
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR || code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS)
        return ERR_OK;
    return err_set(err, kafka_is_passing(code) ? ERR_UNAVAILABLE : ERR_CONFIG,
                   "topic %s cannot be made: %s", wal->place.topic,
                   rd_kafka_topic_result_error_string(results[0]) != NULL
                       ? rd_kafka_topic_result_error_string(results[0])
                       : rd_kafka_err2str(code));
}

static enum err_code create(struct wal_kafka *wal, uint32_t partitions, int brokers,
                            struct err *err)
{
    rd_kafka_NewTopic_t *topic = new_topic(wal, partitions, brokers, err);
    rd_kafka_AdminOptions_t *options;
    rd_kafka_event_t *event = NULL;
    rd_kafka_queue_t *queue;
    enum err_code code;

    if (topic == NULL)
        return ERR_CONFIG;
    options = kafka_admin_options(wal, RD_KAFKA_ADMIN_OP_CREATETOPICS);
    queue = rd_kafka_queue_new(wal->asking.rk);
    rd_kafka_CreateTopics(wal->asking.rk, &topic, 1, options, queue);
    code = kafka_await_event(wal, queue, "making the topic", &event, err);
    if (code == ERR_OK)
        code = creation_result(wal, event, err);
    if (event != NULL)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_NewTopic_destroy(topic);
    if (code == ERR_OK)
        log_info(NULL, "made a topic", LOG_TEXT("topic", wal->place.topic),
                 LOG_U64("partitions", partitions));
    return code;
}

/* --- checking -------------------------------------------------------------------------------- */

/* What an unsafe value should be; NULL: it is right. */
static const char *wanted(const char *name, const char *value, int brokers)
{
    uint64_t number;
    bool is_number = text_to_u64(value, strlen(value), &number);

    for (size_t i = 0; i + 1 < ARRAY_COUNT(SETTINGS); i++)
        if (strcmp(name, SETTINGS[i].name) == 0 && strcmp(value, SETTINGS[i].value) != 0)
            return SETTINGS[i].value;
    if (strcmp(name, "max.message.bytes") == 0 && (!is_number || number < MESSAGE_BYTES_MIN))
        return MESSAGE_BYTES_TEXT;
    if (strcmp(name, "min.insync.replicas") == 0 && brokers >= 3 && (!is_number || number < 2))
        return "2";
    return NULL;
}

/* One topic's settings, while they are looked at. */
struct kafka_findings {
    int brokers;
    bool is_compacted;
    char unsafe[200];
};

static void look_at(struct kafka_findings *findings, const rd_kafka_ConfigEntry_t *entry)
{
    const char *name = rd_kafka_ConfigEntry_name(entry);
    const char *value = rd_kafka_ConfigEntry_value(entry);
    size_t len = strlen(findings->unsafe);
    const char *want;

    if (name == NULL || value == NULL)
        return;
    if (strcmp(name, "cleanup.policy") == 0 && strstr(value, "compact") != NULL)
        findings->is_compacted = true;
    want = wanted(name, value, findings->brokers);
    if (want != NULL)
        (void)snprintf(findings->unsafe + len, sizeof(findings->unsafe) - len,
                       "%s%s=%s (should be %s)", len == 0 ? "" : ", ", name, value, want);
}

static enum err_code verdict(const struct wal_kafka *wal, const struct kafka_findings *findings,
                             struct err *err)
{
    if (findings->is_compacted)
        return err_set(err, ERR_CONFIG,
                       "topic %.60s: compaction takes entries out of a log: set "
                       "cleanup.policy=delete",
                       wal->place.topic);
    if (findings->unsafe[0] == '\0')
        return ERR_OK;
    if (!wal->place.allow_unsafe)
        return err_set(err, ERR_CONFIG,
                       "topic %.60s can lose data: %s; alter it, or add allow_unsafe=true to the "
                       "URL",
                       wal->place.topic, findings->unsafe);
    log_warn(NULL, "the log's topic can lose what was acknowledged; allow_unsafe takes it",
             LOG_TEXT("topic", wal->place.topic), LOG_TEXT("settings", findings->unsafe));
    return ERR_OK;
}

/* ERR_NOT_FOUND: the broker that was asked has not heard of the topic yet. */
static enum err_code judge(struct wal_kafka *wal, const rd_kafka_event_t *event, int brokers,
                           struct err *err)
{
    struct kafka_findings findings = {.brokers = brokers};
    const rd_kafka_ConfigResource_t **resources;
    const rd_kafka_ConfigEntry_t **entries;
    rd_kafka_resp_err_t code;
    size_t count;

    resources = rd_kafka_DescribeConfigs_result_resources(
        rd_kafka_event_DescribeConfigs_result((rd_kafka_event_t *)event), &count);
    if (count != 1)
        return err_set(err, ERR_IO, "topic %s has no settings", wal->place.topic);
    code = rd_kafka_ConfigResource_error(resources[0]);
    if (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
        return err_set(err, ERR_NOT_FOUND, "not every broker knows topic %s", wal->place.topic);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
        return kafka_failed(&wal->asking, code, "the topic's settings", err);
    entries = rd_kafka_ConfigResource_configs(resources[0], &count);
    for (size_t i = 0; i < count; i++)
        look_at(&findings, entries[i]);
    return verdict(wal, &findings, err);
}

static enum err_code check_once(struct wal_kafka *wal, int brokers, struct err *err)
{
    rd_kafka_ConfigResource_t *resource =
        rd_kafka_ConfigResource_new(RD_KAFKA_RESOURCE_TOPIC, wal->place.topic);
    rd_kafka_AdminOptions_t *options = kafka_admin_options(wal, RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(wal->asking.rk);
    rd_kafka_event_t *event = NULL;
    enum err_code code;

    rd_kafka_DescribeConfigs(wal->asking.rk, &resource, 1, options, queue);
    code = kafka_await_event(wal, queue, "reading the topic's settings", &event, err);
    if (code == ERR_OK)
        code = judge(wal, event, brokers, err);
    if (event != NULL)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_ConfigResource_destroy(resource);
    return code;
}

static enum err_code check_settings(struct wal_kafka *wal, int brokers, struct err *err)
{
    struct env *env = wal->base.env;
    uint64_t deadline_ns = env_boot_ns(env) + KAFKA_OPEN_NS;
    enum err_code code = check_once(wal, brokers, err);

    while (code == ERR_NOT_FOUND && env_boot_ns(env) < deadline_ns)
        code = env_sleep_until(env, env_boot_ns(env) + LOOK_NS) == ERR_OK
                   ? check_once(wal, brokers, err)
                   : err_set(err, ERR_DEAD, "shutting down");
    if (code == ERR_OK && brokers < REPLICAS)
        log_warn(NULL, "fewer than three brokers: a lost disk is a lost log",
                 LOG_U64("brokers", (uint64_t)brokers), LOG_TEXT("topic", wal->place.topic));
    return code;
}

/* --- the leaders of a new topic -------------------------------------------------------------- */

/* A broker may be named as a leader before it has heard of that.  It then refuses the first entries
 * and takes later ones, for a producer whose numbers it has never seen may begin with any:
 * librdkafka calls the refused ones delivered, without an offset, and the append has failed.  So
 * each leader must have answered once. */
static enum err_code await_leaders(struct wal_kafka *wal, uint32_t count, struct err *err)
{
    uint32_t *partitions = calloc(count, sizeof(*partitions));
    uint64_t *ends = calloc(count, sizeof(*ends));
    struct kafka_question question = {.partitions = partitions,
                                      .count = count,
                                      .what = RD_KAFKA_OFFSET_END,
                                      .deadline_ns = env_boot_ns(wal->base.env) + KAFKA_OPEN_NS};
    enum err_code code = ERR_OK;

    if (partitions == NULL || ends == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for a topic of %u partitions", count);
    for (uint32_t i = 0; code == ERR_OK && i < count; i++)
        partitions[i] = i;
    if (code == ERR_OK)
        code = kafka_offsets(wal, &question, ends, err);
    free(partitions);
    free(ends);
    return code;
}

/* --- the whole ------------------------------------------------------------------------------- */

static enum err_code check_count(const struct wal_kafka *wal, const struct kafka_shape *shape,
                                 uint32_t partitions, struct err *err)
{
    if (shape->partitions < 2 || shape->partitions - 1 > PARTITIONS_MAX)
        return err_set(err, ERR_CONFIG,
                       "topic %s has %u partitions: it is no log of ours; choose another prefix",
                       wal->place.topic, shape->partitions);
    if (partitions != 0 && partitions != shape->partitions - 1)
        return err_set(err, ERR_CONFIG,
                       "topic %s has %u partitions, a log of %u needs %u: start with --partitions "
                       "%u, or choose another prefix",
                       wal->place.topic, shape->partitions, partitions, partitions + 1,
                       shape->partitions - 1);
    return ERR_OK;
}

enum err_code kafka_topic_find(struct wal_kafka *wal, uint32_t partitions, uint32_t *partitions_out,
                               struct err *err)
{
    struct kafka_shape shape;
    enum err_code code = look(wal, env_boot_ns(wal->base.env) + KAFKA_REACH_NS, &shape, err);
    bool is_new = code == ERR_OK && !shape.exists;

    if (is_new) {
        if (!wal->writer || partitions == 0)
            return err_set(err, ERR_NOT_FOUND, "there is no topic %s", wal->place.topic);
        code = create(wal, partitions, shape.brokers, err);
    }
    if (code == ERR_OK)
        code = await_topic(wal, &shape, err);
    if (code == ERR_OK)
        code = check_count(wal, &shape, partitions, err);
    if (code == ERR_OK && wal->writer)
        code = check_settings(wal, shape.brokers, err);
    if (code == ERR_OK && is_new)
        code = await_leaders(wal, shape.partitions, err);
    if (code == ERR_OK)
        *partitions_out = shape.partitions - 1;
    return code;
}
