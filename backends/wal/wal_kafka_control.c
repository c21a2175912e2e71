/* The control partition: which log this is, and the hints.
 *
 * Its first record names this life of the log: a random region number and the number of
 * partitions.  When two writers make the log at once both write one, and the first counts for
 * both.  A topic that is deleted and made again has another number, so that nobody takes its
 * offsets for those of the old one.
 *
 * Every later record holds all hints, so that the newest alone is enough.  They are sent along with
 * appends, at most every few seconds, and when the log is closed; lost ones cost a longer reading
 * at the next start, nothing else. */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/buffer.h"
#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"

#define MAGIC_BYTES     8
#define IDENTITY_MAGIC  "VICLOG01"
#define HINTS_MAGIC     "VICHNT01"
#define IDENTITY_BYTES  (MAGIC_BYTES + 8)
#define HINTS_BYTES_MAX (MAGIC_BYTES + 8 * PARTITIONS_MAX)
#define HINTS_EVERY_NS  (5 * NS_PER_S)
#define HINTS_LAST_NS   (2 * NS_PER_S) /* at most, at the end */

/* --- reading --------------------------------------------------------------------------------- */

/* Wait for the first message that comes. */
static enum err_code take(struct wal_kafka *wal, struct kafka_client *client, uint64_t deadline_ns,
                          struct buffer *out, struct err *err)
{
    int32_t control = (int32_t)wal->base.partitions;

    while (env_boot_ns(wal->base.env) < deadline_ns) {
        rd_kafka_message_t *got =
            rd_kafka_consume(client->topic, control, kafka_wait_ms(wal->base.env, deadline_ns));
        rd_kafka_resp_err_t code = got == NULL ? RD_KAFKA_RESP_ERR__TIMED_OUT : got->err;

        if (code == RD_KAFKA_RESP_ERR_NO_ERROR && got->len <= HINTS_BYTES_MAX)
            buffer_append(out, got->payload, got->len);
        if (got != NULL)
            rd_kafka_message_destroy(got);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
            return buffer_check(out, err);
        if (!kafka_is_passing(code))
            return kafka_failed(client, code, "reading the control partition", err);
    }
    return kafka_timed_out(client, "reading the control partition", err);
}

/* The record of the control partition at that offset.  A handle of its own, which lives no longer:
 * a fetch that waits for news would hold up the other questions. */
static enum err_code read_at(struct wal_kafka *wal, uint64_t offset, uint64_t deadline_ns,
                             struct buffer *out, struct err *err)
{
    int32_t control = (int32_t)wal->base.partitions;
    struct kafka_client client;
    enum err_code code = kafka_client_open(&client, &wal->place, KAFKA_READS, NULL, err);

    if (code != ERR_OK)
        return code;
    buffer_reset(out);
    if (rd_kafka_consume_start(client.topic, control, (int64_t)offset) != 0) {
        code = kafka_failed(&client, rd_kafka_last_error(), "reading the control partition", err);
    } else {
        code = take(wal, &client, deadline_ns, out, err);
        (void)rd_kafka_consume_stop(client.topic, control);
    }
    kafka_client_close(&client);
    return code;
}

static enum err_code read_identity(struct wal_kafka *wal, uint64_t deadline_ns, uint32_t *region,
                                   struct err *err)
{
    struct buffer bytes = {0};
    enum err_code code = read_at(wal, 0, deadline_ns, &bytes, err);

    if (code == ERR_OK &&
        (bytes.len != IDENTITY_BYTES || memcmp(bytes.data, IDENTITY_MAGIC, MAGIC_BYTES) != 0 ||
         load_u32(bytes.data + MAGIC_BYTES) == 0))
        code = err_set(err, ERR_CONFIG,
                       "topic %s is no log of this version: choose another prefix, or run the "
                       "version that made it",
                       wal->place.topic);
    else if (code == ERR_OK && load_u32(bytes.data + MAGIC_BYTES + 4) != wal->base.partitions)
        code =
            err_set(err, ERR_CONFIG,
                    "topic %s was made for %u partitions and has %u now: choose another prefix",
                    wal->place.topic, load_u32(bytes.data + MAGIC_BYTES + 4), wal->base.partitions);
    if (code == ERR_OK)
        *region = load_u32(bytes.data + MAGIC_BYTES);
    buffer_free(&bytes);
    return code;
}

static enum err_code ask_end(struct wal_kafka *wal, uint64_t deadline_ns, uint64_t *end,
                             struct err *err)
{
    uint32_t control = wal->base.partitions;
    struct kafka_question question = {.partitions = &control,
                                      .count = 1,
                                      .what = RD_KAFKA_OFFSET_END,
                                      .deadline_ns = deadline_ns};

    return kafka_offsets(wal, &question, end, err);
}

/* --- opening --------------------------------------------------------------------------------- */

static enum err_code write_identity(struct wal_kafka *wal, struct err *err)
{
    uint8_t bytes[IDENTITY_BYTES];
    struct wal_entry entry = {
        .partition = wal->base.partitions, .data = bytes, .len = sizeof(bytes)};
    uint32_t region = 0;
    uint64_t offset;

    while (region == 0)
        env_random(wal->base.env, &region, sizeof(region));
    memcpy(bytes, IDENTITY_MAGIC, MAGIC_BYTES);
    store_u32(bytes + MAGIC_BYTES, region);
    store_u32(bytes + MAGIC_BYTES + 4, wal->base.partitions);
    return kafka_produce_all(wal, &entry, 1, env_boot_ns(wal->base.env) + KAFKA_OPEN_NS, &offset,
                             err);
}

/* Whatever is no record of hints is none. */
static enum err_code read_hints(struct wal_kafka *wal, uint64_t end, struct err *err)
{
    struct buffer bytes = {0};
    enum err_code code =
        read_at(wal, end - 1, env_boot_ns(wal->base.env) + KAFKA_OPEN_NS, &bytes, err);

    if (code == ERR_OK && bytes.len == MAGIC_BYTES + 8 * (size_t)wal->base.partitions &&
        memcmp(bytes.data, HINTS_MAGIC, MAGIC_BYTES) == 0)
        for (uint32_t p = 0; p < wal->base.partitions; p++)
            wal->hints[p] = load_u64(bytes.data + MAGIC_BYTES + 8 * (size_t)p);
    buffer_free(&bytes);
    return code;
}

enum err_code kafka_control_open(struct wal_kafka *wal, struct err *err)
{
    uint64_t end, deadline_ns = env_boot_ns(wal->base.env) + KAFKA_OPEN_NS;
    enum err_code code = ask_end(wal, deadline_ns, &end, err);

    if (code == ERR_OK && end == 0) {
        if (!wal->writer)
            return err_set(err, ERR_NOT_FOUND, "topic %s is still being made", wal->place.topic);
        code = write_identity(wal, err);
    }
    if (code == ERR_OK)
        code = read_identity(wal, deadline_ns, &wal->base.region, err);
    if (code == ERR_OK && wal->writer && end > 1)
        code = read_hints(wal, end, err);
    return code;
}

enum err_code kafka_control_verify(struct wal_kafka *wal, uint64_t deadline_ns, struct err *err)
{
    uint32_t region = 0;
    uint64_t end = 0;
    enum err_code code = ask_end(wal, deadline_ns, &end, err);

    if (code == ERR_OK && end > 0)
        code = read_identity(wal, deadline_ns, &region, err);
    if (code == ERR_OK && region != wal->base.region)
        code = err_set(err, ERR_CONFLICT, "topic %s is another than before", wal->place.topic);
    return code;
}

/* --- hints ----------------------------------------------------------------------------------- */

void kafka_hint_set(struct wal *base, uint32_t partition, uint64_t position)
{
    struct wal_kafka *wal = wal_kafka_of(base);

    pthread_mutex_lock(&wal->lock);
    wal->hints_changed |= wal->hints[partition] != position;
    wal->hints[partition] = position;
    pthread_mutex_unlock(&wal->lock);
}

uint64_t kafka_hint(struct wal *base, uint32_t partition)
{
    struct wal_kafka *wal = wal_kafka_of(base);
    uint64_t position;

    pthread_mutex_lock(&wal->lock);
    position = wal->hints[partition];
    pthread_mutex_unlock(&wal->lock);
    return position;
}

static size_t encode_hints(struct wal_kafka *wal, uint8_t *bytes)
{
    memcpy(bytes, HINTS_MAGIC, MAGIC_BYTES);
    pthread_mutex_lock(&wal->lock);
    for (uint32_t p = 0; p < wal->base.partitions; p++)
        store_u64(bytes + MAGIC_BYTES + 8 * (size_t)p, wal->hints[p]);
    wal->hints_changed = false;
    wal->hints_sent_ns = env_boot_ns(wal->base.env);
    pthread_mutex_unlock(&wal->lock);
    return MAGIC_BYTES + 8 * (size_t)wal->base.partitions;
}

void kafka_hints_send(struct wal_kafka *wal, bool at_once)
{
    uint8_t bytes[HINTS_BYTES_MAX];
    uint64_t now_ns = env_boot_ns(wal->base.env);
    size_t len;
    bool is_due;

    pthread_mutex_lock(&wal->lock);
    is_due = wal->hints_changed && (at_once || now_ns - wal->hints_sent_ns >= HINTS_EVERY_NS);
    pthread_mutex_unlock(&wal->lock);
    if (!is_due)
        return;
    len = encode_hints(wal, bytes);
    (void)rd_kafka_produce(wal->producing->topic, (int32_t)wal->base.partitions,
                           RD_KAFKA_MSG_F_COPY, bytes, len, NULL, 0, NULL);
    if (at_once)
        (void)rd_kafka_flush(wal->producing->rk, (int)(HINTS_LAST_NS / NS_PER_MS));
}
