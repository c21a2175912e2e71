/* Conditions: what there is now, read from the shards at the log's end.
 *
 * The caller holds the ids alone, so nothing of them can be on its way; the demands are the ends
 * that have been committed, so the answer shows all that came before.  A batch that follows carries
 * the generation that the write began in: if the log changed hands in between, it is refused. */
#include <stdlib.h>
#include <string.h>

#include "services/ingest/ingest.h"

/* Ask with the log's ends of those partitions as demands. */
static enum err_code ask(struct write *write, struct wire_question *question, uint64_t deadline_ns,
                         struct cluster_answer *out)
{
    struct ingest *ingest = write->ingest;
    struct cluster_ask asked = {.question = question,
                                .deadline_ns = deadline_ns,
                                .request_id = write->req->request_id,
                                .traceparent = write->req->traceparent};

    if (ingest->setup.cluster == NULL)
        return err_set(&write->req->err, ERR_SHARDS_UNAVAILABLE, "there is no shard to ask");
    memcpy(question->incarnation, write->collection.incarnation, INCARNATION_BYTES);
    question->max_staleness_ns = NEVER_NS;
    return cluster_ask(ingest->setup.cluster, &asked, out, &write->req->err);
}

/* Demands: the committed ends of the question's partitions. */
static enum err_code demand_ends(struct write *write, struct wire_question *question)
{
    struct sequencer *s = &write->ingest->sequencer;
    enum err_code rc = ERR_OK;
    uint32_t partitions;
    struct line_view *views = sequencer_views(s, &partitions);

    if (views == NULL)
        return err_set(&write->req->err, ERR_NO_MEMORY, "no memory for the log's ends");
    for (uint32_t i = 0; i < partitions && rc == ERR_OK; i++)
        if (partition_set_has(&question->partitions, i) && views[i].end > 0)
            rc = token_raise(&question->demands, s->region, i, views[i].end, &write->req->err);
    free(views);
    return rc;
}

/* What was read, for the write's token: as a read's token would say it, not the ends that were
 * demanded, which may lie behind what ever comes to other regions. */
static enum err_code note_read(struct write *write, const struct cluster_answer *answer)
{
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < answer->count; i++) {
        const struct wire_answer *part = &answer->parts[i].answer;

        for (size_t j = 0; j < part->served_count && rc == ERR_OK; j++)
            if (part->served[j].position > 0)
                rc = token_raise(&write->token, part->region, part->served[j].partition,
                                 part->served[j].position, &write->req->err);
    }
    return rc;
}

enum err_code decide_get(struct write *write, const struct wire_id *ids, size_t count,
                         uint32_t include, struct cluster_answer *out)
{
    struct wire_question question = {
        .op = WIRE_GET, .ids = ids, .id_count = count, .include = include};
    enum err_code rc;

    *out = (struct cluster_answer){0};
    for (size_t i = 0; i < count; i++)
        partition_set_add(
            &question.partitions,
            record_partition(ids[i].data, ids[i].len, write->ingest->sequencer.partitions));
    rc = demand_ends(write, &question);
    if (rc == ERR_OK)
        rc = ask(write, &question, write->deadline_ns, out);
    if (rc == ERR_OK)
        rc = note_read(write, out);
    token_free(&question.demands);
    return rc;
}

enum err_code decide_scroll(struct write *write, const char *filter, size_t filter_len,
                            struct wire_id after, struct cluster_answer *out)
{
    struct wire_question question = {.op = WIRE_SCROLL,
                                     .filter = filter,
                                     .filter_len = filter_len,
                                     .after = after,
                                     .limit = SELECTION_PAGE};
    enum err_code rc;

    *out = (struct cluster_answer){0};
    partition_set_fill(&question.partitions, write->ingest->sequencer.partitions);
    rc = demand_ends(write, &question);
    if (rc == ERR_OK)
        rc = ask(write, &question, write->deadline_ns, out);
    if (rc == ERR_OK)
        rc = note_read(write, out);
    token_free(&question.demands);
    return rc;
}

enum err_code decide_count(struct write *write, uint64_t *count)
{
    struct wire_question question = {.op = WIRE_COUNT};
    struct cluster_answer answer = {0};
    enum err_code rc;

    *count = 0;
    partition_set_fill(&question.partitions, write->ingest->sequencer.partitions);
    rc = demand_ends(write, &question);
    if (rc == ERR_OK)
        rc = ask(write, &question, write->deadline_ns, &answer);
    for (size_t i = 0; i < answer.count && rc == ERR_OK; i++)
        *count += answer.parts[i].answer.count;
    if (rc == ERR_OK)
        cluster_answer_free(&answer);
    token_free(&question.demands);
    return rc;
}

enum err_code decide_wait(struct write *write)
{
    struct wire_question question = {.op = WIRE_WAIT, .demands = write->token};
    struct cluster_answer answer = {0};
    enum err_code rc;

    for (size_t i = 0; i < write->token.count; i++)
        partition_set_add(&question.partitions, write->token.entries[i].partition);
    rc = ask(write, &question, write->deadline_ns, &answer);
    if (rc == ERR_OK)
        cluster_answer_free(&answer);
    return rc;
}

const struct wire_row *decide_row(const struct cluster_answer *answer, const char *id, size_t len)
{
    const struct wire_row *best = NULL;

    for (size_t part = 0; part < answer->count; part++) {
        const struct wire_answer *from = &answer->parts[part].answer;

        for (size_t i = 0; i < from->row_count; i++) {
            const struct wire_row *row = &from->rows[i];

            if (row->id_len == len && memcmp(row->id, id, len) == 0 &&
                (best == NULL || stamp_compare(row->stamp, best->stamp) > 0))
                best = row;
        }
    }
    return best;
}

bool decide_if_match(const char *value, const struct wire_row *row)
{
    char version[STAMP_TEXT_BYTES];
    size_t len;

    if (row == NULL)
        return false;
    stamp_to_text(version, row->stamp);
    for (;;) {
        value += strspn(value, " \t,");
        if (*value == '\0')
            return false;
        len = strcspn(value, " \t,");
        if (len == 1 && *value == '*')
            return true;
        if (len >= 2 && value[0] == '"' && value[len - 1] == '"' && len - 2 == strlen(version) &&
            memcmp(value + 1, version, len - 2) == 0)
            return true;
        if (len == strlen(version) && memcmp(value, version, len) == 0)
            return true;
        value += len;
    }
}
