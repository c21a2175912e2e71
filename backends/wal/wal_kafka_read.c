/* Readers of the log on Kafka: one consumer each, without any group, all partitions into one queue.
 *
 * librdkafka fetches ahead, up to a bound, and reconnects by itself; a reader whose brokers are
 * away just gets nothing.  Offsets of a partition follow each other without gaps, and that is
 * checked: a gap means that something else has written here.  A position that the broker does not
 * know any more, or not yet, ends the reader: what it knew is another log, or is no longer kept. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"
#include "common/base/limits.h"

#define HELD_MAX   1024u   /* messages at once */
#define POKE_BYTES MIB(16) /* half of what librdkafka fetches ahead */
#define VERIFY_NS  (3 * NS_PER_S)

struct kafka_reader {
    struct wal_reader base; /* first */
    struct wal_kafka *wal;
    struct kafka_client client;
    uint32_t *partitions;
    size_t count, started;
    uint64_t *next; /* [P] the offset that must come next; UINT64_MAX: not read */
    rd_kafka_message_t *held[HELD_MAX];
    size_t held_count;
    size_t taken_bytes; /* since the last poke */
    struct err failure; /* told behind the items that came before it, and from then on */
};

/* --- open ------------------------------------------------------------------------------------ */

static enum err_code check_positions(struct wal_kafka *wal, const struct kafka_question *about,
                                     const uint64_t *positions, struct err *err)
{
    uint64_t *offsets = array_alloc(about->count, sizeof(*offsets));
    struct kafka_question question = *about;
    enum err_code code;

    if (offsets == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a reader");
    question.what = RD_KAFKA_OFFSET_BEGINNING;
    code = kafka_offsets(wal, &question, offsets, err);
    for (size_t i = 0; i < about->count && code == ERR_OK; i++)
        if (positions[i] < offsets[i])
            code = err_set(err, ERR_NOT_FOUND, "partition %u is kept from %llu on, not %llu",
                           about->partitions[i], (unsigned long long)offsets[i],
                           (unsigned long long)positions[i]);
    question.what = RD_KAFKA_OFFSET_END;
    if (code == ERR_OK)
        code = kafka_offsets(wal, &question, offsets, err);
    for (size_t i = 0; i < about->count && code == ERR_OK; i++)
        if (positions[i] > offsets[i])
            code = err_set(err, ERR_CONFLICT, "partition %u ends at %llu, before %llu",
                           about->partitions[i], (unsigned long long)offsets[i],
                           (unsigned long long)positions[i]);
    free(offsets);
    return code;
}

/* Wait for the partitions' leaders first: otherwise librdkafka looks for them now and then. */
static enum err_code start(struct kafka_reader *reader, const uint64_t *positions,
                           uint64_t deadline_ns, struct err *err)
{
    struct kafka_client *client = &reader->client;
    const struct rd_kafka_metadata *metadata;
    rd_kafka_resp_err_t code =
        rd_kafka_metadata(client->rk, 0, client->topic, &metadata,
                          MAX_OF(kafka_wait_ms(reader->wal->base.env, deadline_ns), 1));

    if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
        rd_kafka_metadata_destroy(metadata);
    else if (!kafka_is_passing(code))
        return kafka_failed(client, code, "opening a reader", err);
    for (size_t i = 0; i < reader->count; i++) {
        if (rd_kafka_consume_start_queue(client->topic, (int32_t)reader->partitions[i],
                                         (int64_t)positions[i], client->queue) != 0)
            return kafka_failed(client, rd_kafka_last_error(), "opening a reader", err);
        reader->next[reader->partitions[i]] = positions[i];
        reader->started++;
    }
    return ERR_OK;
}

static enum err_code reader_alloc(struct kafka_reader **out, struct wal_kafka *wal,
                                  const uint32_t *partitions, size_t count, struct err *err)
{
    struct kafka_reader *reader = calloc(1, sizeof(*reader));

    *out = reader;
    if (reader == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a reader");
    reader->base.ops = &wal_kafka_ops;
    reader->wal = wal;
    reader->count = count;
    reader->partitions = array_alloc(count, sizeof(*partitions));
    reader->next = array_alloc(wal->base.partitions, sizeof(*reader->next));
    if (reader->partitions == NULL || reader->next == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a reader");
    if (count > 0)
        memcpy(reader->partitions, partitions, count * sizeof(*partitions));
    memset(reader->next, 0xff, wal->base.partitions * sizeof(*reader->next));
    return ERR_OK;
}

enum err_code kafka_reader_open(struct wal_reader **out, struct wal *base,
                                const uint32_t *partitions, const uint64_t *positions, size_t count,
                                struct err *err)
{
    struct wal_kafka *wal = wal_kafka_of(base);
    struct kafka_question about = {.partitions = partitions,
                                   .count = count,
                                   .deadline_ns = env_boot_ns(base->env) + KAFKA_ASK_NS};
    struct kafka_reader *reader;
    enum err_code code = reader_alloc(&reader, wal, partitions, count, err);

    if (code == ERR_OK)
        code = kafka_control_verify(wal, about.deadline_ns, err);
    if (code == ERR_OK)
        code = check_positions(wal, &about, positions, err);
    if (code == ERR_OK)
        code = kafka_client_open(&reader->client, &wal->place, KAFKA_READS, NULL, err);
    if (code == ERR_OK)
        code = start(reader, positions, about.deadline_ns, err);
    if (code == ERR_OK)
        *out = &reader->base;
    else if (reader != NULL)
        kafka_reader_close(&reader->base);
    return code;
}

/* --- next ------------------------------------------------------------------------------------ */

static void release(struct kafka_reader *reader)
{
    for (size_t i = 0; i < reader->held_count; i++)
        rd_kafka_message_destroy(reader->held[i]);
    reader->held_count = 0;
}

void kafka_reader_close(struct wal_reader *base)
{
    struct kafka_reader *reader = (struct kafka_reader *)base;

    release(reader);
    for (size_t i = 0; i < reader->started; i++)
        (void)rd_kafka_consume_stop(reader->client.topic, (int32_t)reader->partitions[i]);
    kafka_client_close(&reader->client);
    free(reader->partitions);
    free(reader->next);
    free(reader);
}

/* The broker does not have that offset: is it no longer kept, or is this another log? */
static enum err_code out_of_range(struct kafka_reader *reader, uint32_t partition, struct err *err)
{
    uint64_t position = reader->next[partition], kept;
    struct kafka_question question = {.partitions = &partition,
                                      .count = 1,
                                      .what = RD_KAFKA_OFFSET_BEGINNING,
                                      .deadline_ns =
                                          env_boot_ns(reader->wal->base.env) + VERIFY_NS};
    enum err_code code = kafka_offsets(reader->wal, &question, &kept, err);

    if (code != ERR_OK)
        return code;
    if (position < kept)
        return err_set(err, ERR_NOT_FOUND, "partition %u is kept from %llu on, not %llu", partition,
                       (unsigned long long)kept, (unsigned long long)position);
    return err_set(err, ERR_CONFLICT, "partition %u does not reach to %llu any more", partition,
                   (unsigned long long)position);
}

/* An error that came instead of a message; most are news of brokers that come and go. */
static enum err_code judge_error(struct kafka_reader *reader, const rd_kafka_message_t *message,
                                 struct err *err)
{
    rd_kafka_resp_err_t code = message->err;
    bool is_placed = (uint32_t)message->partition < reader->wal->base.partitions;
    enum err_code outcome;

    if ((code == RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET ||
         code == RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE) &&
        is_placed)
        return out_of_range(reader, (uint32_t)message->partition, err);
    if (kafka_is_passing(code))
        return ERR_OK;
    atomic_store(&reader->wal->is_suspect, true);
    outcome = kafka_failed(&reader->client, code, "reading", err);
    /* What came with it is not believed: the entry that is due cannot be had. */
    if (is_placed)
        (void)err_wrap(err, "partition %d, offset %llu", (int)message->partition,
                       (unsigned long long)reader->next[message->partition]);
    return outcome;
}

static enum err_code judge(struct kafka_reader *reader, const rd_kafka_message_t *message,
                           bool *is_wanted, struct err *err)
{
    uint32_t partition = (uint32_t)message->partition;
    uint64_t offset = (uint64_t)message->offset;

    *is_wanted = false;
    if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
        return judge_error(reader, message, err);
    assert(partition < reader->wal->base.partitions);
    if (offset < reader->next[partition])
        return ERR_OK;
    if (offset > reader->next[partition])
        return err_set(err, ERR_CORRUPT, "partition %u: offset %llu follows %llu", partition,
                       (unsigned long long)offset, (unsigned long long)reader->next[partition] - 1);
    if (message->payload == NULL || message->len == 0)
        return err_set(err, ERR_CORRUPT, "partition %u: offset %llu is empty", partition,
                       (unsigned long long)offset);
    reader->next[partition]++;
    reader->taken_bytes += message->len;
    *is_wanted = true;
    return ERR_OK;
}

/* Keep what the caller gets, give back the rest. */
static void sift(struct kafka_reader *reader, rd_kafka_message_t **messages, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        bool is_wanted = false;

        if (reader->failure.code == ERR_OK)
            reader->failure.code = judge(reader, messages[i], &is_wanted, &reader->failure);
        if (is_wanted)
            reader->held[reader->held_count++] = messages[i];
        else
            rd_kafka_message_destroy(messages[i]);
    }
}

/* When librdkafka 2.0 has fetched as far ahead as it may, it looks again a second later, which is
 * long for a reader that has to catch up; any request makes it look at once.  The answer is of no
 * use. */
static void poke(struct kafka_reader *reader)
{
    rd_kafka_topic_partition_list_t *list;

    if (reader->taken_bytes < POKE_BYTES)
        return;
    reader->taken_bytes = 0;
    list = rd_kafka_topic_partition_list_new(1);
    rd_kafka_topic_partition_list_add(list, reader->wal->place.topic,
                                      (int32_t)reader->partitions[0])
        ->offset = RD_KAFKA_OFFSET_END;
    (void)rd_kafka_offsets_for_times(reader->client.rk, list, 1);
    rd_kafka_topic_partition_list_destroy(list);
}

/* What is there, at most max; waits at most wait_ms for the first. */
static void take(struct kafka_reader *reader, size_t max, int wait_ms)
{
    rd_kafka_message_t *messages[HELD_MAX];
    ssize_t count;

    (void)rd_kafka_poll(reader->client.rk, 0);
    poke(reader);
    count = rd_kafka_consume_batch_queue(reader->client.queue, 0, messages, max);
    if (count <= 0 && wait_ms > 0) {
        messages[0] = rd_kafka_consume_queue(reader->client.queue, wait_ms);
        count = messages[0] == NULL ? 0 : 1;
        if (count == 1 && max > 1) {
            ssize_t more =
                rd_kafka_consume_batch_queue(reader->client.queue, 0, messages + 1, max - 1);

            count += MAX_OF(more, 0);
        }
    }
    sift(reader, messages, (size_t)MAX_OF(count, 0));
}

/* Brokers that are away say nothing about the log. */
static enum err_code check_suspicion(struct kafka_reader *reader, uint64_t deadline_ns,
                                     struct err *err)
{
    struct wal_kafka *wal = reader->wal;
    uint64_t patience_ns = env_boot_ns(wal->base.env) + VERIFY_NS;
    enum err_code code;

    if (!atomic_load(&wal->is_suspect))
        return ERR_OK;
    code = kafka_control_verify(wal, MIN_OF(deadline_ns, patience_ns), err);
    if (code == ERR_OK)
        atomic_store(&wal->is_suspect, false);
    return code == ERR_CONFLICT ? code : ERR_OK;
}

static enum err_code failed_before(const struct kafka_reader *reader, struct err *err)
{
    if (err != NULL)
        *err = reader->failure;
    return reader->failure.code;
}

enum err_code kafka_reader_next(struct wal_reader *base, struct wal_item *items, size_t max,
                                size_t *count, uint64_t deadline_ns, struct err *err)
{
    struct kafka_reader *reader = (struct kafka_reader *)base;
    struct env *env = reader->wal->base.env;
    enum err_code code = check_suspicion(reader, deadline_ns, err);
    int wait_ms;

    release(reader);
    if (code != ERR_OK)
        return code;
    do {
        wait_ms = kafka_wait_ms(env, deadline_ns);
        if (reader->failure.code == ERR_OK)
            take(reader, MIN_OF(max, HELD_MAX), wait_ms);
        if (reader->held_count == 0 && reader->failure.code != ERR_OK)
            return failed_before(reader, err);
    } while (reader->held_count == 0 && wait_ms > 0);
    for (size_t i = 0; i < reader->held_count; i++)
        items[i] = (struct wal_item){.partition = (uint32_t)reader->held[i]->partition,
                                     .offset = (uint64_t)reader->held[i]->offset,
                                     .data = reader->held[i]->payload,
                                     .len = reader->held[i]->len};
    *count = reader->held_count;
    return ERR_OK;
}
