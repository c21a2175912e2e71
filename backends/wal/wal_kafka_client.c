/* Handles of librdkafka: their settings, their log lines, and what their errors mean to us.
 *
 * What the operator's file of properties says is set first, ours after it: no file can weaken what
 * durability rests on.  librdkafka tries again for ever by itself, so its complaints are warnings
 * at most; the last one is kept and told when a call of ours fails, because that is what helps. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"
#include "common/base/log.h"

/* --- log lines ------------------------------------------------------------------------------- */

static void log_line(const rd_kafka_t *rk, int syslog_level, const char *facility, const char *text)
{
    enum log_level level = syslog_level <= 2   ? LOG_ERROR
                           : syslog_level <= 4 ? LOG_WARN
                           : syslog_level <= 6 ? LOG_INFO
                                               : LOG_DEBUG;

    (void)rk;
    /* On a fresh broker the coordinator is still loading; a producer that failed is thrown away
     * with what is in it; properties of the other kind of handle are in every file that serves
     * both. */
    if (strcmp(facility, "GETPID") == 0 || strcmp(facility, "TERMINATE") == 0)
        level = LOG_INFO;
    if (strcmp(facility, "CONFWARN") == 0)
        level = LOG_DEBUG;
    LOG_AT(level, NULL, "librdkafka", LOG_TEXT("facility", facility), LOG_TEXT("text", text));
}

static void note_trouble(rd_kafka_t *rk, int code, const char *reason, void *opaque)
{
    struct kafka_client *client = opaque;

    (void)rk;
    pthread_mutex_lock(&client->lock);
    /* "All brokers are down" comes behind what says why. */
    if (code != RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN || client->trouble_text[0] == '\0') {
        client->trouble = (rd_kafka_resp_err_t)code;
        (void)snprintf(client->trouble_text, sizeof(client->trouble_text), "%s", reason);
    }
    pthread_mutex_unlock(&client->lock);
    log_debug(NULL, "librdkafka complains", LOG_TEXT("text", reason));
}

/* --- settings -------------------------------------------------------------------------------- */

struct setting {
    const char *name;
    const char *value;
};

/* Who waits for a token waits a second by default: a broker that is back is to be found by then. */
static const struct setting FOR_ALL[] = {
    {"client.id", "vicinal"},
    {"socket.nagle.disable", "true"},
    {"socket.keepalive.enable", "true"},
    {"reconnect.backoff.ms", "50"},
    {"reconnect.backoff.max.ms", "250"},
    {"log.connection.close", "false"},
    {"topic.metadata.refresh.fast.interval.ms", "50"},
    {"topic.metadata.propagation.max.ms", "10000"},
};

/* Questions and their answers go over a connection that no waiting fetch may hold up. */
static const struct setting FOR_ASKING[] = {
    {"fetch.wait.max.ms", "10"},
    {"allow.auto.create.topics", "false"},
};

static const struct setting FOR_READING[] = {
    {"fetch.wait.max.ms", "100"},
    {"fetch.min.bytes", "1"},
    {"fetch.error.backoff.ms", "50"},
    {"queued.max.messages.kbytes", "32768"},
    {"auto.offset.reset", "error"},
    {"check.crcs", "true"},
    {"isolation.level", "read_uncommitted"},
    {"allow.auto.create.topics", "false"},
    {"enable.partition.eof", "false"},
};

/* Messages never time out by themselves: the caller's deadline ends the whole producer. */
static const struct setting FOR_PRODUCING[] = {
    {"acks", "all"},
    {"enable.idempotence", "true"},
    {"message.timeout.ms", "0"},
    {"queue.buffering.max.messages", "1000000"},
    {"queue.buffering.max.kbytes", "1048576"},
    {"retry.backoff.ms", "50"},
};

static enum err_code set(rd_kafka_conf_t *conf, const char *name, const char *value,
                         struct err *err)
{
    char text[200];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof(text)) == RD_KAFKA_CONF_OK)
        return ERR_OK;
    return err_set(err, ERR_CONFIG, "librdkafka: %s", text);
}

static enum err_code set_all(rd_kafka_conf_t *conf, const struct setting *settings, size_t count,
                             struct err *err)
{
    enum err_code code = ERR_OK;

    for (size_t i = 0; i < count && code == ERR_OK; i++)
        code = set(conf, settings[i].name, settings[i].value, err);
    return code;
}

static enum err_code fill(rd_kafka_conf_t *conf, const struct kafka_place *place,
                          enum kafka_role role, struct err *err)
{
    enum err_code code = ERR_OK;

    for (size_t i = 0; i < place->property_count && code == ERR_OK; i++)
        code = set(conf, place->properties[i].name, place->properties[i].value, err);
    if (code == ERR_OK)
        code = set(conf, "bootstrap.servers", place->brokers, err);
    if (code == ERR_OK)
        code = set_all(conf, FOR_ALL, ARRAY_COUNT(FOR_ALL), err);
    if (code == ERR_OK && role == KAFKA_ASKS)
        code = set_all(conf, FOR_ASKING, ARRAY_COUNT(FOR_ASKING), err);
    if (code == ERR_OK && role == KAFKA_READS)
        code = set_all(conf, FOR_READING, ARRAY_COUNT(FOR_READING), err);
    if (code == ERR_OK && role == KAFKA_PRODUCES)
        code = set_all(conf, FOR_PRODUCING, ARRAY_COUNT(FOR_PRODUCING), err);
    if (code == ERR_OK && role == KAFKA_PRODUCES)
        code = set(conf, "linger.ms", place->linger_ms, err);
    if (code == ERR_OK && role == KAFKA_PRODUCES)
        code = set(conf, "compression.codec", place->compression, err);
    return code;
}

/* --- open and close -------------------------------------------------------------------------- */

static enum err_code make(struct kafka_client *client, rd_kafka_conf_t *conf, enum kafka_role role,
                          struct err *err)
{
    char text[200];

    client->rk = rd_kafka_new(role == KAFKA_PRODUCES ? RD_KAFKA_PRODUCER : RD_KAFKA_CONSUMER, conf,
                              text, sizeof(text));
    if (client->rk == NULL) {
        rd_kafka_conf_destroy(conf);
        return err_set(err, ERR_CONFIG, "librdkafka: %s", text);
    }
    return ERR_OK;
}

enum err_code kafka_client_open(struct kafka_client *client, const struct kafka_place *place,
                                enum kafka_role role, kafka_delivery_fn *delivered, struct err *err)
{
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    enum err_code code;

    assert((delivered != NULL) == (role == KAFKA_PRODUCES));
    *client = (struct kafka_client){0};
    kafka_threads_known();
    code = fill(conf, place, role, err);
    if (code != ERR_OK) {
        rd_kafka_conf_destroy(conf);
        return code;
    }
    rd_kafka_conf_set_opaque(conf, client);
    rd_kafka_conf_set_log_cb(conf, log_line);
    rd_kafka_conf_set_error_cb(conf, note_trouble);
    if (delivered != NULL)
        rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    code = make(client, conf, role, err);
    if (code != ERR_OK)
        return code;
    pthread_mutex_init(&client->lock, NULL);
    client->topic = rd_kafka_topic_new(client->rk, place->topic, NULL);
    if (client->topic == NULL)
        code = err_set(err, ERR_CONFIG, "topic %s: %s", place->topic,
                       rd_kafka_err2str(rd_kafka_last_error()));
    if (code == ERR_OK && role != KAFKA_PRODUCES)
        client->queue = rd_kafka_queue_new(client->rk);
    if (code != ERR_OK)
        kafka_client_close(client);
    return code;
}

void kafka_client_close(struct kafka_client *client)
{
    if (client->rk == NULL)
        return;
    if (client->queue != NULL)
        rd_kafka_queue_destroy(client->queue);
    if (client->topic != NULL)
        rd_kafka_topic_destroy(client->topic);
    rd_kafka_destroy(client->rk);
    pthread_mutex_destroy(&client->lock);
    *client = (struct kafka_client){0};
}

void kafka_client_well(struct kafka_client *client)
{
    pthread_mutex_lock(&client->lock);
    client->trouble = RD_KAFKA_RESP_ERR_NO_ERROR;
    client->trouble_text[0] = '\0';
    pthread_mutex_unlock(&client->lock);
}

/* --- errors ---------------------------------------------------------------------------------- */

bool kafka_is_passing(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__TRANSPORT:
    case RD_KAFKA_RESP_ERR__ALL_BROKERS_DOWN:
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__TIMED_OUT_QUEUE:
    case RD_KAFKA_RESP_ERR__RESOLVE:
    case RD_KAFKA_RESP_ERR__WAIT_CACHE:
    case RD_KAFKA_RESP_ERR__WAIT_COORD:
    case RD_KAFKA_RESP_ERR__RETRY:
    case RD_KAFKA_RESP_ERR__OUTDATED:
    case RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_BROKER_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_REPLICA_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NETWORK_EXCEPTION:
    case RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS:
    case RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_NOT_COORDINATOR:
    case RD_KAFKA_RESP_ERR_NOT_CONTROLLER:
    case RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR:
    case RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH:
    case RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH:
    case RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE:
    case RD_KAFKA_RESP_ERR_PREFERRED_LEADER_NOT_AVAILABLE:
        return true;
    default:
        return false;
    }
}

static enum err_code meaning(rd_kafka_resp_err_t code)
{
    switch (code) {
    case RD_KAFKA_RESP_ERR__TIMED_OUT:
    case RD_KAFKA_RESP_ERR__MSG_TIMED_OUT:
    case RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT:
        return ERR_TIMEOUT;
    case RD_KAFKA_RESP_ERR__AUTHENTICATION:
    case RD_KAFKA_RESP_ERR__SSL:
    case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
    case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
    case RD_KAFKA_RESP_ERR_UNSUPPORTED_SASL_MECHANISM:
        return ERR_CONFIG;
    case RD_KAFKA_RESP_ERR__BAD_MSG:
    case RD_KAFKA_RESP_ERR__BAD_COMPRESSION:
    case RD_KAFKA_RESP_ERR_INVALID_MSG:
        return ERR_CORRUPT;
    default:
        return ERR_IO;
    }
}

static const char *advice(rd_kafka_resp_err_t code)
{
    if (meaning(code) == ERR_CONFIG)
        return "; check the user, the password and the certificates in the URL's config=FILE";
    if (code == RD_KAFKA_RESP_ERR__RESOLVE)
        return "; check the host names in the URL";
    return "";
}

enum err_code kafka_failed(struct kafka_client *client, rd_kafka_resp_err_t code, const char *what,
                           struct err *err)
{
    char text[sizeof(client->trouble_text)];
    rd_kafka_resp_err_t trouble;

    (void)rd_kafka_poll(client->rk, 0);
    pthread_mutex_lock(&client->lock);
    trouble = client->trouble;
    memcpy(text, client->trouble_text, sizeof(text));
    pthread_mutex_unlock(&client->lock);
    if (!kafka_is_passing(code) || text[0] == '\0')
        return err_set(err, meaning(code), "%s: %s%s", what, rd_kafka_err2str(code), advice(code));
    return err_set(err, meaning(trouble) == ERR_CONFIG ? ERR_CONFIG : meaning(code), "%s: %s%s",
                   what, text, advice(trouble));
}

enum err_code kafka_timed_out(struct kafka_client *client, const char *what, struct err *err)
{
    return kafka_failed(client, RD_KAFKA_RESP_ERR__TIMED_OUT, what, err);
}

int kafka_wait_ms(struct env *env, uint64_t deadline_ns)
{
    uint64_t now = env_boot_ns(env);

    if (now >= deadline_ns)
        return 0;
    return (int)MIN_OF((deadline_ns - now + NS_PER_MS - 1) / NS_PER_MS, 1000);
}
