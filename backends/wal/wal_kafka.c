/* The log on Kafka, through librdkafka.  What a back end of the log must keep stands in wal.h; the
 * parts are listed in wal_kafka_internal.h.
 *
 * The broker's word is the truth: an entry counts when it is acknowledged by all in-sync replicas,
 * an end is asked for by a round trip, and a reader gets nothing beyond the high watermark.  The
 * handles: one for questions, kept apart so that no waiting fetch holds an answer up; one producer
 * for each life between failures; one consumer for each reader, without any group.
 *
 * When the brokers are away, calls wait until their deadline and readers for ever; librdkafka
 * reconnects by itself.  When the topic was deleted and made again, offsets mean other entries: an
 * end that goes back, or a reader whose position is gone, makes the log suspect, and then the
 * control partition is read again. */
#include "backends/wal/wal_kafka_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"

struct wal_kafka *wal_kafka_of(struct wal *wal)
{
    return (struct wal_kafka *)wal;
}

/* --- ends ------------------------------------------------------------------------------------ */

static rd_kafka_resp_err_t ask_once(struct wal_kafka *wal, const struct kafka_question *question,
                                    uint64_t *offsets)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new((int)question->count);
    rd_kafka_resp_err_t code;

    for (size_t i = 0; i < question->count; i++)
        rd_kafka_topic_partition_list_add(list, wal->place.topic, (int32_t)question->partitions[i])
            ->offset = question->what;
    code = rd_kafka_offsets_for_times(wal->asking.rk, list,
                                      kafka_wait_ms(wal->base.env, question->deadline_ns));
    for (size_t i = 0; i < question->count && code == RD_KAFKA_RESP_ERR_NO_ERROR; i++) {
        code = list->elems[i].err;
        /* No answer for this one: its leader is not known. */
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR && list->elems[i].offset < 0)
            code = RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE;
        offsets[i] = (uint64_t)list->elems[i].offset;
    }
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

/* While the log is opened, a topic just made is not yet known to all brokers. */
static bool may_ask_again(const struct wal_kafka *wal, rd_kafka_resp_err_t code)
{
    return kafka_is_passing(code) ||
           (code == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART && wal->base.region == 0);
}

enum err_code kafka_offsets(struct wal_kafka *wal, const struct kafka_question *question,
                            uint64_t *offsets, struct err *err)
{
    struct env *env = wal->base.env;
    uint64_t pause_ns = 2 * NS_PER_MS;

    if (question->count == 0)
        return ERR_OK;
    for (;;) {
        rd_kafka_resp_err_t code = ask_once(wal, question, offsets);
        uint64_t now_ns = env_boot_ns(env);

        (void)rd_kafka_poll(wal->asking.rk, 0);
        if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
            kafka_client_well(&wal->asking);
            return ERR_OK;
        }
        if (!may_ask_again(wal, code))
            return kafka_failed(&wal->asking, code, "asking for offsets", err);
        if (now_ns >= question->deadline_ns)
            return kafka_timed_out(&wal->asking, "asking for offsets", err);
        pause_ns = MIN_OF(MIN_OF(pause_ns * 2, 100 * NS_PER_MS), question->deadline_ns - now_ns);
        if (env_sleep_until(env, now_ns + pause_ns) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
    }
}

/* Ends only grow on one life of a topic.  What was told before this question was asked is the
 * measure; answers that cross each other are none. */
static enum err_code check_growth(struct wal_kafka *wal, const struct kafka_question *question,
                                  const uint64_t *before, const uint64_t *ends, struct err *err)
{
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&wal->lock);
    for (size_t i = 0; i < question->count && code == ERR_OK; i++) {
        uint32_t p = question->partitions[i];

        if (ends[i] < before[i])
            code = err_set(err, ERR_IO, "the end of partition %u went back from %llu to %llu", p,
                           (unsigned long long)before[i], (unsigned long long)ends[i]);
        wal->seen[p] = MAX_OF(wal->seen[p], ends[i]);
    }
    pthread_mutex_unlock(&wal->lock);
    if (code != ERR_OK)
        atomic_store(&wal->is_suspect, true);
    return code;
}

static enum err_code ends(struct wal *base, const uint32_t *partitions, size_t count,
                          uint64_t deadline_ns, uint64_t *out, struct err *err)
{
    struct wal_kafka *wal = wal_kafka_of(base);
    struct kafka_question question = {.partitions = partitions,
                                      .count = count,
                                      .what = RD_KAFKA_OFFSET_END,
                                      .deadline_ns = deadline_ns};
    uint64_t *before = array_alloc(count, sizeof(*before));
    enum err_code code;

    if (before == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to ask for ends");
    pthread_mutex_lock(&wal->lock);
    for (size_t i = 0; i < count; i++)
        before[i] = wal->seen[partitions[i]];
    pthread_mutex_unlock(&wal->lock);
    code = kafka_offsets(wal, &question, out, err);
    if (code == ERR_OK)
        code = check_growth(wal, &question, before, out, err);
    free(before);
    return code;
}

static enum err_code first(struct wal *base, uint32_t partition, uint64_t *out, struct err *err)
{
    struct kafka_question question = {.partitions = &partition,
                                      .count = 1,
                                      .what = RD_KAFKA_OFFSET_BEGINNING,
                                      .deadline_ns = env_boot_ns(base->env) + KAFKA_ASK_NS};

    return kafka_offsets(wal_kafka_of(base), &question, out, err);
}

/* Brokers do not tell. */
static void space(struct wal *base, uint64_t *used_bytes, uint64_t *free_bytes)
{
    (void)base;
    (void)used_bytes;
    (void)free_bytes;
}

/* --- open and close -------------------------------------------------------------------------- */

static void close_log(struct wal *base)
{
    struct wal_kafka *wal = wal_kafka_of(base);

    if (wal->producing != NULL && wal->base.region != 0)
        kafka_hints_send(wal, true);
    kafka_producer_close(wal);
    kafka_client_close(&wal->asking);
    kafka_place_free(&wal->place);
    pthread_mutex_destroy(&wal->lock);
    free(wal->seen);
    free(wal->hints);
    free(wal->order);
    free(wal);
}

static enum err_code connect_log(struct wal_kafka *wal, const struct wal_options *options,
                                 struct err *err)
{
    enum err_code code = kafka_place_parse(&wal->place, options->url, true, err);

    if (code == ERR_OK)
        code = kafka_client_open(&wal->asking, &wal->place, KAFKA_ASKS, NULL, err);
    if (code == ERR_OK)
        code = kafka_topic_find(wal, options->partitions, &wal->base.partitions, err);
    if (code != ERR_OK)
        return code;
    wal->seen = array_alloc(wal->base.partitions + 1, sizeof(*wal->seen));
    wal->hints = array_alloc(wal->base.partitions, sizeof(*wal->hints));
    if (wal->seen == NULL || wal->hints == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the log");
    if (options->writer)
        code = kafka_producer_open(wal, err);
    if (code == ERR_OK)
        code = kafka_control_open(wal, err);
    return code;
}

/* Before it is open, a deadline that has passed means that nobody is there. */
static enum err_code open_code(enum err_code code, struct err *err)
{
    if (code != ERR_TIMEOUT && code != ERR_IO)
        return code;
    if (err != NULL)
        err->code = ERR_UNAVAILABLE;
    return ERR_UNAVAILABLE;
}

static enum err_code open_log(struct wal **out, const struct wal_options *options, struct err *err)
{
    struct wal_kafka *wal = calloc(1, sizeof(*wal));
    enum err_code code;

    if (wal == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the log");
    wal->base.ops = &wal_kafka_ops;
    wal->base.env = options->env;
    wal->writer = options->writer;
    pthread_mutex_init(&wal->lock, NULL);
    code = connect_log(wal, options, err);
    if (code != ERR_OK) {
        close_log(&wal->base);
        return open_code(code, err);
    }
    *out = &wal->base;
    return ERR_OK;
}

static enum err_code check_url(const char *url, struct err *err)
{
    struct kafka_place place;
    enum err_code code = kafka_place_parse(&place, url, false, err);

    if (code == ERR_OK)
        kafka_place_free(&place);
    return code;
}

const struct wal_ops wal_kafka_ops = {
    .scheme = "kafka",
    .check_url = check_url,
    .open = open_log,
    .close = close_log,
    .append = kafka_append,
    .recover = kafka_recover,
    .ends = ends,
    .trim = kafka_trim,
    .first = first,
    .hint_set = kafka_hint_set,
    .hint = kafka_hint,
    .space = space,
    .reader_open = kafka_reader_open,
    .reader_next = kafka_reader_next,
    .reader_close = kafka_reader_close,
};
