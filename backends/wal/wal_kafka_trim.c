/* Trimming the log on Kafka: DeleteRecords, for all partitions at once.
 *
 * Brokers give room back by whole segments of theirs, in their own time; first offsets are as asked
 * at once.  Whether they are is asked for afterwards: only that counts.  Of a call that failed
 * half-way some partitions are trimmed; each of them is where it was asked to be, so the same call
 * again completes it.
 *
 * A broker writes first offsets to its disk once a minute: one that dies before may come back with
 * a lower one.  What is there again was not needed, and goes with the next trimming; who has no
 * hint of where to begin cannot begin there until then. */
#include <stdlib.h>

#include "backends/wal/wal_kafka_internal.h"
#include "common/base/checked.h"

struct trimming {
    struct wal_kafka *wal;
    uint32_t *partitions; /* all of them */
    uint64_t *offsets;    /* of the question asked last, by partition */
};

static enum err_code ask(struct trimming *trimming, int64_t what, struct err *err)
{
    struct wal_kafka *wal = trimming->wal;
    struct kafka_question question = {.partitions = trimming->partitions,
                                      .count = wal->base.partitions,
                                      .what = what,
                                      .deadline_ns = env_boot_ns(wal->base.env) + KAFKA_ASK_NS};

    return kafka_offsets(wal, &question, trimming->offsets, err);
}

/* What each partition's broker says to it. */
static enum err_code judge(struct wal_kafka *wal, rd_kafka_event_t *event, struct err *err)
{
    const rd_kafka_DeleteRecords_result_t *result = rd_kafka_event_DeleteRecords_result(event);
    const rd_kafka_topic_partition_list_t *list =
        result == NULL ? NULL : rd_kafka_DeleteRecords_result_offsets(result);

    for (int i = 0; list != NULL && i < list->cnt; i++)
        if (list->elems[i].err != RD_KAFKA_RESP_ERR_NO_ERROR)
            return kafka_failed(&wal->asking, list->elems[i].err, "trimming", err);
    return list == NULL ? err_set(err, ERR_IO, "the brokers said nothing of the trimming") : ERR_OK;
}

static enum err_code delete_records(struct wal_kafka *wal, rd_kafka_topic_partition_list_t *list,
                                    struct err *err)
{
    rd_kafka_DeleteRecords_t *wanted = rd_kafka_DeleteRecords_new(list);
    rd_kafka_AdminOptions_t *options = kafka_admin_options(wal, RD_KAFKA_ADMIN_OP_DELETERECORDS);
    rd_kafka_queue_t *queue = rd_kafka_queue_new(wal->asking.rk);
    rd_kafka_event_t *event = NULL;
    enum err_code code;

    rd_kafka_DeleteRecords(wal->asking.rk, &wanted, 1, options, queue);
    code = kafka_await_event(wal, queue, "trimming", &event, err);
    if (code == ERR_OK)
        code = judge(wal, event, err);
    if (event != NULL)
        rd_kafka_event_destroy(event);
    rd_kafka_queue_destroy(queue);
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_DeleteRecords_destroy(wanted);
    return code;
}

/* None is beyond the end. */
static enum err_code check_ends(struct trimming *trimming, const uint64_t *positions,
                                struct err *err)
{
    enum err_code code = ask(trimming, RD_KAFKA_OFFSET_END, err);

    for (uint32_t p = 0; code == ERR_OK && p < trimming->wal->base.partitions; p++)
        if (positions[p] > trimming->offsets[p])
            code =
                err_set(err, ERR_CONFLICT, "partition %u ends at %llu, before %llu", p,
                        (unsigned long long)trimming->offsets[p], (unsigned long long)positions[p]);
    return code;
}

static enum err_code trim_all(struct trimming *trimming, const uint64_t *positions, struct err *err)
{
    struct wal_kafka *wal = trimming->wal;
    rd_kafka_topic_partition_list_t *list =
        rd_kafka_topic_partition_list_new((int)wal->base.partitions);
    enum err_code code = ask(trimming, RD_KAFKA_OFFSET_BEGINNING, err);

    for (uint32_t p = 0; code == ERR_OK && p < wal->base.partitions; p++)
        if (positions[p] > trimming->offsets[p])
            rd_kafka_topic_partition_list_add(list, wal->place.topic, (int32_t)p)->offset =
                (int64_t)positions[p];
    if (code == ERR_OK && list->cnt > 0)
        code = delete_records(wal, list, err);
    if (code == ERR_OK && list->cnt > 0)
        code = ask(trimming, RD_KAFKA_OFFSET_BEGINNING, err);
    for (uint32_t p = 0; code == ERR_OK && p < wal->base.partitions; p++)
        if (trimming->offsets[p] < positions[p])
            code =
                err_set(err, ERR_IO, "partition %u still begins at %llu, not at %llu", p,
                        (unsigned long long)trimming->offsets[p], (unsigned long long)positions[p]);
    rd_kafka_topic_partition_list_destroy(list);
    return code;
}

enum err_code kafka_trim(struct wal *base, const uint64_t *positions, struct err *err)
{
    struct trimming trimming = {.wal = wal_kafka_of(base),
                                .partitions = array_alloc(base->partitions, sizeof(uint32_t)),
                                .offsets = array_alloc(base->partitions, sizeof(uint64_t))};
    enum err_code code;

    if (trimming.partitions == NULL || trimming.offsets == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory to trim the log");
    } else {
        for (uint32_t p = 0; p < base->partitions; p++)
            trimming.partitions[p] = p;
        /* A topic that was made again has other records. */
        code = kafka_control_verify(trimming.wal, env_boot_ns(base->env) + KAFKA_ASK_NS, err);
        if (code == ERR_OK)
            code = check_ends(&trimming, positions, err);
        if (code == ERR_OK)
            code = trim_all(&trimming, positions, err);
    }
    free(trimming.partitions);
    free(trimming.offsets);
    return code;
}
