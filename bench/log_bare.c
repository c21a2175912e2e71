/* The bare producer: librdkafka as our log uses it (acks of all in-sync replicas, idempotent, the
 * same topic), without anything of ours.  Writers share it, a thread hears the acknowledgements. */
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/log_bench.h"
#include "common/base/env.h"

#define SCHEME   "kafka://"
#define POLL_MS  10
#define FLUSH_MS 60000

struct bare {
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    pthread_t poller;
    atomic_bool stopping;
    atomic_uint_fast64_t failed;
};

/* A group that waits; lives on its writer's stack. */
struct waiting {
    pthread_mutex_t lock;
    pthread_cond_t done;
    size_t missing;
};

static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct bare *bare = opaque;
    struct waiting *waiting = message->_private;

    (void)rk;
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        atomic_fetch_add(&bare->failed, 1);
    if (waiting == NULL)
        return;
    pthread_mutex_lock(&waiting->lock);
    if (--waiting->missing == 0)
        pthread_cond_signal(&waiting->done);
    pthread_mutex_unlock(&waiting->lock);
}

static void *poll_run(void *argument)
{
    struct bare *bare = argument;

    while (!atomic_load(&bare->stopping))
        (void)rd_kafka_poll(bare->rk, POLL_MS);
    return NULL;
}

static enum err_code configure(rd_kafka_conf_t *conf, const char *brokers, const char *linger_ms,
                               struct err *err)
{
    const char *settings[][2] = {
        {"bootstrap.servers", brokers},
        {"acks", "all"},
        {"enable.idempotence", "true"},
        {"message.timeout.ms", "0"},
        {"linger.ms", linger_ms},
        {"queue.buffering.max.messages", "1000000"},
        {"queue.buffering.max.kbytes", "1048576"},
        {"socket.nagle.disable", "true"},
    };
    char text[200];

    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        if (rd_kafka_conf_set(conf, settings[i][0], settings[i][1], text, sizeof(text)) !=
            RD_KAFKA_CONF_OK)
            return err_set(err, ERR_CONFIG, "%s", text);
    rd_kafka_conf_set_dr_msg_cb(conf, delivered);
    return ERR_OK;
}

/* kafka://host:port/prefix[?…] */
static enum err_code split(const char *url, char brokers[200], char topic[200], struct err *err)
{
    char prefix[180];

    if (strncmp(url, SCHEME, sizeof(SCHEME) - 1) != 0 ||
        sscanf(url + sizeof(SCHEME) - 1, "%199[^/]/%179[^?]", brokers, prefix) != 2)
        return err_set(err, ERR_CONFIG, "the bare producer writes to kafka://host:port/prefix");
    (void)snprintf(topic, 200, "%s.log", prefix);
    return ERR_OK;
}

static void bare_close(void *way)
{
    struct bare *bare = way;

    if (bare->topic != NULL) {
        atomic_store(&bare->stopping, true);
        pthread_join(bare->poller, NULL);
        rd_kafka_topic_destroy(bare->topic);
    }
    if (bare->rk != NULL)
        rd_kafka_destroy(bare->rk);
    free(bare);
}

static enum err_code bare_open(void **out, const struct log_bench_options *options, struct err *err)
{
    struct bare *bare = calloc(1, sizeof(*bare));
    rd_kafka_conf_t *conf = rd_kafka_conf_new();
    char brokers[200], topic[200], text[200];
    enum err_code code = split(options->wal, brokers, topic, err);

    if (bare == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    if (code == ERR_OK)
        code = configure(conf, brokers, options->linger_ms, err);
    if (code == ERR_OK) {
        rd_kafka_conf_set_opaque(conf, bare);
        bare->rk = rd_kafka_new(RD_KAFKA_PRODUCER, conf, text, sizeof(text));
        if (bare->rk == NULL)
            code = err_set(err, ERR_CONFIG, "%s", text);
    }
    if (code == ERR_OK)
        bare->topic = rd_kafka_topic_new(bare->rk, topic, NULL);
    if (code != ERR_OK || pthread_create(&bare->poller, NULL, poll_run, bare) != 0) {
        free(bare);
        return code == ERR_OK ? err_set(err, ERR_NO_MEMORY, "no thread") : code;
    }
    *out = bare;
    return ERR_OK;
}

static enum err_code produce(struct bare *bare, const struct log_bench_records *records, size_t i,
                             void *waiting, struct err *err)
{
    while (rd_kafka_produce(bare->topic, (int32_t)records->partitions[i], RD_KAFKA_MSG_F_COPY,
                            records->bytes.data + records->at[i],
                            records->at[i + 1] - records->at[i], NULL, 0, waiting) != 0) {
        if (rd_kafka_last_error() != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            return err_set(err, ERR_IO, "%s", rd_kafka_err2str(rd_kafka_last_error()));
        nanosleep(&(struct timespec){.tv_nsec = 100000}, NULL);
    }
    return ERR_OK;
}

static enum err_code bare_commit(void *way, const struct log_bench_records *records,
                                 struct err *err)
{
    struct bare *bare = way;
    struct waiting waiting = {.lock = PTHREAD_MUTEX_INITIALIZER,
                              .done = PTHREAD_COND_INITIALIZER,
                              .missing = records->count};

    for (size_t i = 0; i < records->count; i++)
        if (produce(bare, records, i, &waiting, err) != ERR_OK)
            exit(1); /* the group lives on our stack */
    pthread_mutex_lock(&waiting.lock);
    while (waiting.missing > 0)
        pthread_cond_wait(&waiting.done, &waiting.lock);
    pthread_mutex_unlock(&waiting.lock);
    if (atomic_load(&bare->failed) > 0)
        return err_set(err, ERR_IO, "records were not delivered");
    return ERR_OK;
}

static enum err_code bare_stream(void *way, const struct log_bench_records *records, double seconds,
                                 uint64_t *total, struct err *err)
{
    struct bare *bare = way;
    uint64_t until_ns = env_boot_ns(env_real()) + (uint64_t)(seconds * 1e9);
    enum err_code code = ERR_OK;

    *total = 0;
    do {
        for (size_t i = 0; i < records->count && code == ERR_OK; i++, ++*total)
            code = produce(bare, records, i, NULL, err);
    } while (code == ERR_OK && env_boot_ns(env_real()) < until_ns);
    if (code == ERR_OK && (rd_kafka_flush(bare->rk, FLUSH_MS) != RD_KAFKA_RESP_ERR_NO_ERROR ||
                           atomic_load(&bare->failed) > 0))
        code = err_set(err, ERR_IO, "records were not delivered");
    return code;
}

const struct log_way log_way_bare = {.name = "bare",
                                     .open = bare_open,
                                     .commit = bare_commit,
                                     .stream = bare_stream,
                                     .close = bare_close};
