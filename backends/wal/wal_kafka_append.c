/* The writer's side of the log on Kafka: one producer, idempotent, acks of all in-sync replicas.
 *
 * An append hands all entries over, each for its partition, and waits for every acknowledgement;
 * the offsets are the broker's.  Whatever else happens (an error, the deadline, an acknowledgement
 * without an offset) leaves the outcome unknown.  The producer is then thrown away whole, so that
 * nothing of the append is ever sent again by librdkafka, and no append is taken until wal_recover
 * has made a new one.  What was on its way to the broker may still land.
 *
 * Entries of a partition are handed over one behind the other, whatever order they come in:
 * librdkafka makes a request of what it finds for a partition as soon as there is something, and
 * so finds more of them.
 *
 * Taking a producer down waits for its threads, so a thread of its own does that. */
#include <assert.h>
#include <stdlib.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"
#include "common/base/limits.h"

#define VERIFY_NS (5 * NS_PER_S)

/* The append that is under way. */
struct kafka_appending {
    uint64_t *offsets;
    size_t missing;
    rd_kafka_resp_err_t code; /* of the first entry that failed */
};

/* Entries carry their index + 1; hints nothing. */
static void delivered(rd_kafka_t *rk, const rd_kafka_message_t *message, void *opaque)
{
    struct kafka_client *client = opaque;
    struct kafka_appending *appending = client->appending;
    size_t index = (size_t)(uintptr_t)message->_private;

    (void)rk;
    if (index == 0 || appending == NULL)
        return;
    assert(appending->missing > 0);
    appending->missing--;
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR) {
        if (appending->code == RD_KAFKA_RESP_ERR_NO_ERROR)
            appending->code = message->err;
    } else if (message->offset < 0) {
        /* Acknowledged as a double of what the broker has forgotten the place of. */
        appending->code = RD_KAFKA_RESP_ERR__INCONSISTENT;
    } else {
        appending->offsets[index - 1] = (uint64_t)message->offset;
    }
}

/* --- a producer's life ----------------------------------------------------------------------- */

enum err_code kafka_producer_open(struct wal_kafka *wal, struct err *err)
{
    struct kafka_client *client = calloc(1, sizeof(*client));
    enum err_code code;

    assert(wal->producing == NULL);
    if (client == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a producer");
    code = kafka_client_open(client, &wal->place, KAFKA_PRODUCES, delivered, err);
    if (code == ERR_OK)
        wal->producing = client;
    else
        free(client);
    return code;
}

static void bury(void *argument)
{
    struct kafka_client *client = argument;

    kafka_client_close(client);
    free(client);
}

static void join_graves(struct wal_kafka *wal)
{
    env_thread_join(wal->burying);
    wal->burying = NULL;
}

void kafka_producer_close(struct wal_kafka *wal)
{
    join_graves(wal);
    if (wal->producing != NULL)
        bury(wal->producing);
    wal->producing = NULL;
}

/* The last one has been joined by the recovery that made this producer. */
static void producer_drop(struct wal_kafka *wal)
{
    struct kafka_client *client = wal->producing;
    struct err err;

    assert(wal->burying == NULL);
    wal->producing = NULL;
    client->appending = NULL;
    (void)rd_kafka_purge(client->rk, RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT |
                                         RD_KAFKA_PURGE_F_NON_BLOCKING);
    if (env_thread_start(wal->base.env, &wal->burying, "wal-bury", bury, client, &err) != ERR_OK)
        bury(client);
}

/* --- append ---------------------------------------------------------------------------------- */

/* Hand one entry over, making room first if need be. */
static rd_kafka_resp_err_t hand_over(struct wal_kafka *wal, const struct wal_entry *entry,
                                     size_t index, uint64_t deadline_ns)
{
    struct kafka_client *client = wal->producing;

    while (rd_kafka_produce(client->topic, (int32_t)entry->partition, RD_KAFKA_MSG_F_COPY,
                            (void *)(uintptr_t)entry->data, entry->len, NULL, 0,
                            (void *)(uintptr_t)(index + 1)) != 0) {
        rd_kafka_resp_err_t code = rd_kafka_last_error();

        if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL)
            return code;
        if (env_boot_ns(wal->base.env) >= deadline_ns)
            return RD_KAFKA_RESP_ERR__TIMED_OUT;
        (void)rd_kafka_poll(client->rk, 1);
    }
    return RD_KAFKA_RESP_ERR_NO_ERROR;
}

/* Where there is no memory for it they stay in the order in which they came. */
static const uint32_t *sort_by_partition(struct wal_kafka *wal, const struct wal_entry *entries,
                                         size_t count)
{
    size_t next[PARTITIONS_MAX + 1] = {0}, sum = 0;

    if (count < 2 || count > UINT32_MAX)
        return NULL;
    if (count > wal->order_size) {
        uint32_t *order = array_resize(wal->order, count, sizeof(*order));

        if (order == NULL)
            return NULL;
        wal->order = order;
        wal->order_size = count;
    }
    for (size_t i = 0; i < count; i++)
        next[entries[i].partition]++;
    for (uint32_t p = 0; p <= wal->base.partitions; p++) {
        size_t in_p = next[p];

        next[p] = sum;
        sum += in_p;
    }
    for (size_t i = 0; i < count; i++)
        wal->order[next[entries[i].partition]++] = (uint32_t)i;
    return wal->order;
}

static rd_kafka_resp_err_t await_all(struct wal_kafka *wal, uint64_t deadline_ns)
{
    struct kafka_client *client = wal->producing;
    const struct kafka_appending *appending = client->appending;

    while (appending->missing > 0 && appending->code == RD_KAFKA_RESP_ERR_NO_ERROR) {
        int wait_ms = kafka_wait_ms(wal->base.env, deadline_ns);

        if (rd_kafka_poll(client->rk, wait_ms) == 0 && wait_ms == 0)
            return RD_KAFKA_RESP_ERR__TIMED_OUT;
    }
    return appending->code;
}

enum err_code kafka_produce_all(struct wal_kafka *wal, const struct wal_entry *entries,
                                size_t count, uint64_t deadline_ns, uint64_t *offsets,
                                struct err *err)
{
    struct kafka_appending appending = {.offsets = offsets, .missing = count};
    rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;
    enum err_code outcome = ERR_OK;
    const uint32_t *order;

    if (wal->producing == NULL)
        return err_set(err, ERR_READ_ONLY, "the log has failed and is not recovered yet");
    wal->producing->appending = &appending;
    order = sort_by_partition(wal, entries, count);
    for (size_t i = 0; i < count && code == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
        size_t at = order == NULL ? i : order[i];

        code = hand_over(wal, &entries[at], at, deadline_ns);
    }
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        code = await_all(wal, deadline_ns);
    if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
        outcome = kafka_failed(wal->producing, code, "append", err);
        producer_drop(wal);
    } else {
        wal->producing->appending = NULL;
        kafka_client_well(wal->producing);
    }
    return outcome;
}

enum err_code kafka_append(struct wal *base, const struct wal_entry *entries, size_t count,
                           uint64_t deadline_ns, uint64_t *offsets, struct err *err)
{
    struct wal_kafka *wal = wal_kafka_of(base);
    enum err_code code;

    if (!wal->writer)
        return err_set(err, ERR_READ_ONLY, "the log was opened for reading");
    code = kafka_produce_all(wal, entries, count, deadline_ns, offsets, err);
    if (code == ERR_OK)
        kafka_hints_send(wal, false);
    return code;
}

/* The broker must answer, and the topic be the one it was. */
enum err_code kafka_recover(struct wal *base, struct err *err)
{
    struct wal_kafka *wal = wal_kafka_of(base);
    enum err_code code;

    if (!wal->writer)
        return err_set(err, ERR_READ_ONLY, "the log was opened for reading");
    if (wal->producing != NULL)
        return ERR_OK;
    code = kafka_control_verify(wal, env_boot_ns(base->env) + VERIFY_NS, err);
    if (code != ERR_OK)
        return code;
    join_graves(wal);
    return kafka_producer_open(wal, err);
}
