/* The parts of the log on Kafka, for the wal_kafka*.c files only.
 *
 *   wal_kafka.c          open, close, ends, the table of operations
 *   wal_kafka_append.c   the producer: append, recovery after a failure
 *   wal_kafka_read.c     readers
 *   wal_kafka_control.c  the control partition: which log this is, and the hints
 *   wal_kafka_trim.c     forgetting what stands at the beginning
 *   wal_kafka_topic.c    the topic: made, waited for, its settings checked
 *   wal_kafka_client.c   librdkafka's handles: settings, log lines, what its errors mean
 *   wal_kafka_url.c      what a URL says
 *   wal_kafka_tsan.c     for builds with ThreadSanitizer
 *
 * A log of P partitions is the topic `PREFIX.log` of P + 1: 0..P-1 are the log's, the last one is
 * the control partition.
 */
#ifndef VICINAL_BACKENDS_WAL_KAFKA_INTERNAL_H
#define VICINAL_BACKENDS_WAL_KAFKA_INTERNAL_H

#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdatomic.h>

#include "backends/wal/wal.h"

#define KAFKA_TOPIC_BYTES 250
#define KAFKA_REACH_NS    (5 * NS_PER_S)  /* for the first answer of any broker */
#define KAFKA_OPEN_NS     (10 * NS_PER_S) /* at most for each step of opening */
#define KAFKA_ASK_NS      (10 * NS_PER_S) /* for questions that come without a deadline */

/* --- what a URL says (wal_kafka_url.c) ------------------------------------------------------- */

struct kafka_property {
    char *name;
    char *value;
};

struct kafka_place {
    char *brokers;
    char topic[KAFKA_TOPIC_BYTES];
    bool allow_unsafe;
    char linger_ms[8];
    char compression[8];
    struct kafka_property *properties; /* of the file that `config` names */
    size_t property_count;
};

/* Without reading the file of `config` when `properties` is false.  Errors: ERR_CONFIG,
 * ERR_NO_MEMORY; the place is then empty. */
MUST_CHECK enum err_code kafka_place_parse(struct kafka_place *place, const char *url,
                                           bool properties, struct err *err);
void kafka_place_free(struct kafka_place *place);

/* --- a handle of librdkafka (wal_kafka_client.c) --------------------------------------------- */

enum kafka_role {
    KAFKA_ASKS,     /* questions: ends, topics, settings */
    KAFKA_READS,    /* one reader */
    KAFKA_PRODUCES, /* one producer, from open to its first failure */
};

struct kafka_appending;

struct kafka_client {
    rd_kafka_t *rk;
    rd_kafka_topic_t *topic;
    rd_kafka_queue_t *queue;           /* KAFKA_READS: messages of all partitions */
    struct kafka_appending *appending; /* KAFKA_PRODUCES: what is under way, or NULL */
    pthread_mutex_t lock;              /* of what follows */
    rd_kafka_resp_err_t trouble;
    char trouble_text[160]; /* what librdkafka last complained of */
};

/* Called by librdkafka inside of rd_kafka_poll for each message whose fate is known. */
typedef void kafka_delivery_fn(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque);

/* delivered: KAFKA_PRODUCES only; its last argument is the client.  Errors: ERR_CONFIG (a setting
 * that librdkafka refuses), ERR_IO. */
MUST_CHECK enum err_code kafka_client_open(struct kafka_client *client,
                                           const struct kafka_place *place, enum kafka_role role,
                                           kafka_delivery_fn *delivered, struct err *err);
void kafka_client_close(struct kafka_client *client); /* a zeroed one is fine */

/* Does nothing; see wal_kafka_tsan.c. */
void kafka_threads_known(void);

/* A call has succeeded: earlier complaints explain nothing any more. */
void kafka_client_well(struct kafka_client *client);

/* What failed with that code, as an error that says what to do: the brokers cannot be reached, do
 * not know us, the topic is gone…  `what`: "append". */
enum err_code kafka_failed(struct kafka_client *client, rd_kafka_resp_err_t code, const char *what,
                           struct err *err);
enum err_code kafka_timed_out(struct kafka_client *client, const char *what, struct err *err);

/* May the same call succeed a little later? */
bool kafka_is_passing(rd_kafka_resp_err_t code);

/* Milliseconds until then, for librdkafka: at least 0, at most 1000, never too early. */
int kafka_wait_ms(struct env *env, uint64_t deadline_ns);

/* --- the log --------------------------------------------------------------------------------- */

struct wal_kafka {
    struct wal base; /* first */
    bool writer;
    struct kafka_place place;
    struct kafka_client asking;
    struct kafka_client *producing; /* NULL: must recover */
    struct env_thread *burying;     /* takes down the one that failed last */
    uint32_t *order;                /* of the entries of an append; the appender's */
    size_t order_size;
    atomic_bool is_suspect; /* something happened that another log of this name would explain */
    pthread_mutex_t lock;   /* of what follows */
    uint64_t *seen;         /* [P + 1] the highest end that was told */
    uint64_t *hints;        /* [P] */
    bool hints_changed;
    uint64_t hints_sent_ns;
};

struct wal_kafka *wal_kafka_of(struct wal *wal);

/* First offsets or ends (RD_KAFKA_OFFSET_BEGINNING or _END) of count partitions, by one request
 * to each broker that leads some of them. */
struct kafka_question {
    const uint32_t *partitions;
    size_t count;
    int64_t what;
    uint64_t deadline_ns;
};
MUST_CHECK enum err_code kafka_offsets(struct wal_kafka *wal, const struct kafka_question *question,
                                       uint64_t *offsets, struct err *err);

/* --- wal_kafka_topic.c ----------------------------------------------------------------------- */

/* Find the topic, or make it when `partitions` of the log are given; *partitions_out: those of
 * the log.  Errors: ERR_NOT_FOUND, ERR_CONFIG, ERR_UNAVAILABLE. */
MUST_CHECK enum err_code kafka_topic_find(struct wal_kafka *wal, uint32_t partitions,
                                          uint32_t *partitions_out, struct err *err);

/* Wait for the answer to what the cluster's administration was just asked.  *event, when it is not
 * NULL, is the caller's to destroy.  Errors: ERR_TIMEOUT, those of kafka_failed. */
MUST_CHECK enum err_code kafka_await_event(struct wal_kafka *wal, rd_kafka_queue_t *queue,
                                           const char *what, rd_kafka_event_t **event,
                                           struct err *err);
rd_kafka_AdminOptions_t *kafka_admin_options(struct wal_kafka *wal, rd_kafka_admin_op_t operation);

/* --- wal_kafka_trim.c ------------------------------------------------------------------------ */

MUST_CHECK enum err_code kafka_trim(struct wal *base, const uint64_t *positions, struct err *err);

/* --- wal_kafka_control.c --------------------------------------------------------------------- */

/* Read which log this is, write it first if nobody has and this is a writer; and the hints.
 * Errors: ERR_NOT_FOUND (nobody has written it yet), ERR_CONFIG (no log of ours). */
MUST_CHECK enum err_code kafka_control_open(struct wal_kafka *wal, struct err *err);

/* Is the topic still that of wal->base.region?  Errors: ERR_CONFLICT (no), ERR_UNAVAILABLE…  */
MUST_CHECK enum err_code kafka_control_verify(struct wal_kafka *wal, uint64_t deadline_ns,
                                              struct err *err);

void kafka_hint_set(struct wal *wal, uint32_t partition, uint64_t position);
uint64_t kafka_hint(struct wal *wal, uint32_t partition);

/* Send changed hints along, now and then; at_once: at the end. */
void kafka_hints_send(struct wal_kafka *wal, bool at_once);

/* --- wal_kafka_append.c ---------------------------------------------------------------------- */

MUST_CHECK enum err_code kafka_producer_open(struct wal_kafka *wal, struct err *err);
void kafka_producer_close(struct wal_kafka *wal); /* and the one that failed last */
enum err_code kafka_append(struct wal *base, const struct wal_entry *entries, size_t count,
                           uint64_t deadline_ns, uint64_t *offsets, struct err *err);
enum err_code kafka_recover(struct wal *base, struct err *err);

/* Append to any partition of the topic, the control partition too. */
MUST_CHECK enum err_code kafka_produce_all(struct wal_kafka *wal, const struct wal_entry *entries,
                                           size_t count, uint64_t deadline_ns, uint64_t *offsets,
                                           struct err *err);

/* --- wal_kafka_read.c ------------------------------------------------------------------------ */

enum err_code kafka_reader_open(struct wal_reader **out, struct wal *base,
                                const uint32_t *partitions, const uint64_t *positions, size_t count,
                                struct err *err);
enum err_code kafka_reader_next(struct wal_reader *base, struct wal_item *items, size_t max,
                                size_t *count, uint64_t deadline_ns, struct err *err);
void kafka_reader_close(struct wal_reader *base);

#endif
