/* Asking the shards: one replica of each, all at once; who fails is replaced by another, who is
 * slow is joined by another.
 *
 * Happy path: plan (which shard is asked for which partitions), aim (pick a replica of each),
 * gather, decode.  A call that cannot be sent, breaks, or comes back "behind", "moved" or
 * "unavailable" is aimed at the shard's next replica inside the gather.  One that waits longer than
 * most did lately is hedged: another replica is asked the same, the first answer counts and the
 * other call is broken off.  What is still missing afterwards (no replica answered, a gap in the
 * partitions served) is planned again on a fresh view, while the deadline allows.  A replica that
 * hangs while no hedge is allowed costs half of the time that is left when the shard has another.
 */
#include "cluster/ask_internal.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"

#define ROUNDS_MAX 4096 /* time bounds them before */
#define PAUSE_NS   (20 * NS_PER_MS)
#define MARGIN_NS  (2 * NS_PER_MS) /* a shard answers so much before the asker gives up */

/* --- one round ------------------------------------------------------------------------------ */

/* The ids of a get that are in these partitions. */
static struct wire_id *ids_of(struct asking *asking, const struct partition_set *partitions,
                              size_t *count)
{
    const struct wire_question *question = asking->ask->question;
    struct wire_id *ids = array_alloc(question->id_count, sizeof(*ids));

    *count = 0;
    for (size_t i = 0; ids != NULL && i < question->id_count; i++) {
        uint32_t partition = record_partition(question->ids[i].data, question->ids[i].len,
                                              asking->view->map.partitions);

        if (partition_set_has(partitions, partition))
            ids[(*count)++] = question->ids[i];
    }
    return ids;
}

/* Fill the question of one shard into aim->body. */
static enum err_code encode_question(struct asking *asking, struct aim *aim,
                                     const struct partition_set *partitions, uint64_t wait_ns)
{
    struct wire_question question = *asking->ask->question;
    struct wire_id *ids = NULL;
    enum err_code rc;

    question.partitions = *partitions;
    question.wait_ms = wait_ns < NS_PER_MS ? 1 : (uint32_t)(wait_ns / NS_PER_MS);
    if (question.op == WIRE_GET) {
        ids = ids_of(asking, partitions, &question.id_count);
        if (ids == NULL)
            return err_set(asking->err, ERR_NO_MEMORY, "no memory for a question");
        question.ids = ids;
    }
    wire_question_encode(&question, &aim->body);
    free(ids);
    rc = buffer_check(&aim->body, asking->err);
    return rc;
}

/* The partitions of a shard that are still missing; false: none. */
static bool missing_of(const struct asking *asking, uint32_t shard, struct partition_set *out)
{
    bool any = false;

    memset(out, 0, sizeof(*out));
    for (uint32_t p = 0; p < asking->view->map.partitions; p++)
        if (asking->view->map.shard_of[p] == shard && partition_set_has(&asking->missing, p)) {
            partition_set_add(out, p);
            any = true;
        }
    return any;
}

/* How long this round may take: half of what is left when a hanging replica could be replaced. */
static uint64_t round_deadline(struct asking *asking, const struct aim *aims, uint32_t count)
{
    uint64_t now = env_boot_ns(asking->cluster->env), deadline = asking->ask->deadline_ns;
    bool replaceable = false;

    for (uint32_t i = 0; i < count; i++)
        replaceable = replaceable || pick_is_left(asking->view, aims[i].shard, aims[i].tried);
    if (!replaceable || deadline <= now)
        return deadline;
    return now + (deadline - now) / 2;
}

int64_t cluster_known_at(uint64_t at_ns, uint64_t staleness_ns)
{
    static const uint64_t limit_ns = INT64_MAX / 4;

    if (staleness_ns > limit_ns)
        return CLUSTER_UNKNOWN;
    return (int64_t)at_ns - (int64_t)staleness_ns;
}

/* Since when, by our clock, the part may lack something.  The replica wrote its answer not before
 * we had asked and it had worked for as long as it says; what came after that, on the way or while
 * we stood still, is no excuse. */
static int64_t known_of(const struct aim *aim, const struct wire_answer *answer)
{
    return cluster_known_at(aim->winner->began_ns + MIN_OF(answer->took_ns, aim->took_ns),
                            answer->staleness_ns);
}

/* One answered part into the result. */
static enum err_code take_part(struct asking *asking, struct aim *aim)
{
    struct http_call *call = aim->winner->call;
    struct cluster_answer *out = asking->out;
    struct cluster_part *part = &out->parts[out->count];
    enum err_code rc;

    part->shard = aim->shard;
    part->replica = aim->winner->replica;
    part->is_hedged = aim->is_hedged;
    rc = wire_answer_decode(&part->answer, call->reply.data, call->reply.len, &out->arena,
                            asking->err);
    if (rc != ERR_OK)
        return err_set(asking->err, ERR_INTERNAL, "shard %u answered what cannot be read",
                       aim->shard);
    if (part->answer.served_count == 0)
        return ERR_OK; /* all have moved: nothing in it counts */
    part->took_ns = aim->took_ns;
    part->raw = call->reply;
    call->reply = (struct buffer){0};
    out->count++;
    for (size_t i = 0; i < part->answer.served_count; i++) {
        const struct wire_served *served = &part->answer.served[i];

        if (!partition_set_has(&asking->missing, served->partition))
            return err_set(asking->err, ERR_INTERNAL, "shard %u served partition %u unasked",
                           aim->shard, served->partition);
        partition_set_remove(&asking->missing, served->partition);
        partition_set_add(&out->served, served->partition);
        if (served->position > 0)
            rc = token_raise(&out->seen, part->answer.region, served->partition, served->position,
                             asking->err);
        if (rc != ERR_OK)
            return rc;
    }
    out->known_ns = MIN_OF(out->known_ns, known_of(aim, &part->answer));
    out->stale = out->stale || part->answer.stale;
    return token_merge(&out->seen, &part->answer.seen, asking->err);
}

static void take_answer(struct asking *asking, struct aim *aim)
{
    struct attempt *const attempts[] = {&aim->first, &aim->hedge};
    uint32_t *avoided = &asking->avoided[aim->shard];

    /* Should there be another round, it begins with the others. */
    *avoided =
        pick_is_left(asking->view, aim->shard, *avoided | aim->tried) ? *avoided | aim->tried : 0;
    /* Without memory or time for a gather nobody was told of an end. */
    for (size_t i = 0; i < ARRAY_COUNT(attempts); i++)
        if (attempts[i]->is_open) {
            aim->failed = http_call_expect(attempts[i]->call, &aim->err);
            attempt_end(attempts[i], attempt_ending(attempts[i]->call));
        }
    if (aim->winner != NULL && aim->failed == ERR_OK) {
        if (asking->rc == ERR_OK)
            asking->rc = take_part(asking, aim);
    } else if (ask_another_may_help(aim->failed)) {
        /* The last round is cut short by the deadline: that hides no cause told before. */
        if (aim->failed != ERR_TIMEOUT || asking->last_failure == ERR_OK) {
            asking->last_failure = aim->failed;
            asking->last_err = aim->err;
        }
    } else if (asking->rc == ERR_OK) {
        asking->rc = aim->failed;
        *asking->err = aim->err;
    }
}

/* Room for one more part of each shard. */
static enum err_code grow_parts(struct asking *asking)
{
    struct cluster_answer *out = asking->out;
    struct cluster_part *parts =
        array_resize(out->parts, out->count + asking->view->map.shards, sizeof(*parts));

    if (parts == NULL)
        return err_set(asking->err, ERR_NO_MEMORY, "no memory for the answers");
    memset(parts + out->count, 0, asking->view->map.shards * sizeof(*parts));
    out->parts = parts;
    return ERR_OK;
}

/* Plan the shards that have missing partitions; returns how many can be asked. */
static uint32_t plan_round(struct asking *asking, struct aim *aims, struct partition_set *sets)
{
    uint32_t count = 0;

    for (uint32_t shard = 0; shard < asking->view->map.shards; shard++) {
        struct aim *aim = &aims[count];

        if (!missing_of(asking, shard, &sets[count]))
            continue;
        *aim = (struct aim){.asking = asking, .shard = shard};
        aim->first.aim = aim->hedge.aim = aim;
        if (attempt_begin(&aim->first, false))
            count++;
        else
            asking->last_failure = err_set(&asking->last_err, ERR_SHARDS_UNAVAILABLE,
                                           "shard %u has no replica", shard);
    }
    return count;
}

/* The calls of a round: one for each shard, and its hedge where there can be one. */
static uint32_t fill_calls(struct asking *asking, struct aim *aims, uint32_t count,
                           struct http_call *calls)
{
    uint32_t filled = 0;

    for (uint32_t i = 0; i < count; i++) {
        uint64_t hedge_ns = attempt_hedge_ns(asking, &aims[i]);

        attempt_fill_call(&aims[i].first, &calls[filled++], 0);
        if (hedge_ns > 0)
            attempt_fill_call(&aims[i].hedge, &calls[filled++], hedge_ns);
    }
    return filled;
}

static void send_round(struct asking *asking, struct aim *aims, struct partition_set *sets,
                       uint32_t count)
{
    struct http_call *calls = array_alloc(2 * (size_t)count, sizeof(*calls));
    const struct http_watcher watcher = {
        .ended = attempt_call_ended, .due = attempt_call_due, .context = asking};
    uint64_t deadline = round_deadline(asking, aims, count);
    uint64_t now = env_boot_ns(asking->cluster->env);
    uint64_t wait_ns = deadline > now + MARGIN_NS ? deadline - now - MARGIN_NS : NS_PER_MS;
    uint32_t filled = 0;

    asking->last_turn_ns = deadline > now ? now + (deadline - now) / 4 * 3 : now;
    if (calls == NULL)
        asking->rc = err_set(asking->err, ERR_NO_MEMORY, "no memory for the calls");
    for (uint32_t i = 0; asking->rc == ERR_OK && i < count; i++)
        asking->rc = encode_question(asking, &aims[i], &sets[i], wait_ns);
    if (asking->rc == ERR_OK) {
        filled = fill_calls(asking, aims, count, calls);
        http_gather(asking->cluster->client, calls, filled, deadline, &watcher);
    }
    for (uint32_t i = 0; i < count; i++) {
        if (asking->rc == ERR_OK)
            take_answer(asking, &aims[i]);
        else if (aims[i].first.is_open)
            attempt_end(&aims[i].first, ENDED_DROPPED);
    }
    for (uint32_t i = 0; i < filled; i++)
        http_call_free(&calls[i]);
    free(calls);
}

/* Ask every shard that has missing partitions, once each with all its replicas. */
static void run_round(struct asking *asking)
{
    uint32_t shards = asking->view->map.shards, count = 0;
    struct aim *aims = array_alloc(shards, sizeof(*aims));
    struct partition_set *sets = array_alloc(shards, sizeof(*sets));

    if (aims == NULL || sets == NULL)
        asking->rc = err_set(asking->err, ERR_NO_MEMORY, "no memory for the question");
    else
        asking->rc = grow_parts(asking);
    if (asking->rc == ERR_OK)
        count = plan_round(asking, aims, sets);
    if (asking->rc == ERR_OK && count > 0)
        send_round(asking, aims, sets, count);
    for (uint32_t i = 0; aims != NULL && i < shards; i++)
        buffer_free(&aims[i].body);
    free(aims);
    free(sets);
}

/* --- the whole ------------------------------------------------------------------------------ */

/* The partitions that the question wants: those named, those of its ids, or all. */
static void want(struct asking *asking, const struct wire_question *question)
{
    uint32_t partitions = asking->view->map.partitions;

    if (partition_set_count(&question->partitions) > 0) {
        asking->missing = question->partitions;
    } else if (question->op == WIRE_GET) {
        for (size_t i = 0; i < question->id_count; i++)
            partition_set_add(&asking->missing, record_partition(question->ids[i].data,
                                                                 question->ids[i].len, partitions));
    } else {
        partition_set_fill(&asking->missing, partitions);
    }
    asking->out->wanted_count = partition_set_count(&asking->missing);
}

/* Something is missing: wait a little for what the metadata's follower brings; false: there is no
 * time.  The store itself is not asked: it may take seconds to be away. */
static bool prepare_next_round(struct asking *asking)
{
    struct cluster *cluster = asking->cluster;
    uint64_t now = env_boot_ns(cluster->env);

    if (now + PAUSE_NS + MARGIN_NS >= asking->ask->deadline_ns)
        return false;
    if (env_sleep_until(cluster->env, now + PAUSE_NS) != ERR_OK)
        return false;
    view_put(asking->view);
    asking->view = view_get(cluster);
    return asking->view->has_map;
}

/* Why partitions are missing, as the caller's error. */
static enum err_code report_missing(struct asking *asking)
{
    struct err *err = asking->err;
    uint32_t missing = partition_set_count(&asking->missing);

    switch (asking->last_failure) {
    case ERR_BEHIND:
    case ERR_STALENESS_UNMET:
        return err_set(err, ERR_STALENESS_UNMET, "no replica is fresh enough in time: %s",
                       asking->last_err.message);
    case ERR_TIMEOUT:
        if (ask_demands(asking->ask->question))
            return err_set(err, ERR_STALENESS_UNMET, "no replica answered in time");
        return err_set(err, ERR_TIMEOUT, "%u of %u partitions were not answered in time", missing,
                       asking->out->wanted_count);
    case ERR_NO_MEMORY:
    case ERR_DEAD:
        *err = asking->last_err;
        return err->code;
    default:
        return err_set(err, ERR_SHARDS_UNAVAILABLE, "%u of %u partitions are not served: %s",
                       missing, asking->out->wanted_count, asking->last_err.message);
    }
}

enum err_code cluster_ask(struct cluster *cluster, const struct cluster_ask *ask,
                          struct cluster_answer *out, struct err *err)
{
    struct asking asking = {.cluster = cluster, .ask = ask, .out = out, .err = err};

    memset(out, 0, sizeof(*out));
    out->known_ns = INT64_MAX;
    asking.view = view_get(cluster);
    asking.key = pick_key(ask->question);
    if (!asking.view->has_map) {
        view_put(asking.view);
        return err_set(err, ERR_SHARDS_UNAVAILABLE, "there is no shard map yet");
    }
    want(&asking, ask->question);
    for (uint32_t round = 0; round < ROUNDS_MAX; round++) {
        if (partition_set_count(&asking.missing) == 0)
            break;
        run_round(&asking);
        if (asking.rc != ERR_OK || partition_set_count(&asking.missing) == 0)
            break;
        if (ask->allow_partial && asking.last_failure != ERR_BEHIND && round > 0)
            break;
        if (asking.last_failure == ERR_OK)
            asking.last_failure =
                err_set(&asking.last_err, ERR_MOVED, "partitions are on the move");
        if (!prepare_next_round(&asking))
            break;
    }
    view_put(asking.view);
    out->served_count = partition_set_count(&out->served);
    out->partial = out->served_count < out->wanted_count;
    if (out->count == 0)
        out->known_ns = CLUSTER_UNKNOWN;
    if (asking.rc == ERR_OK && out->partial &&
        (!ask->allow_partial || asking.last_failure == ERR_BEHIND ||
         asking.last_failure == ERR_STALENESS_UNMET))
        asking.rc = report_missing(&asking);
    /* A read's token never says less than the one that it was asked with: who keeps only the last
     * token reads monotonically, also when the next question concerns other partitions. */
    if (asking.rc == ERR_OK)
        asking.rc = token_merge(&out->seen, &ask->question->demands, err);
    if (asking.rc != ERR_OK)
        cluster_answer_free(out);
    return asking.rc;
}

void cluster_answer_free(struct cluster_answer *answer)
{
    for (size_t i = 0; i < answer->count; i++)
        buffer_free(&answer->parts[i].raw);
    free(answer->parts);
    token_free(&answer->seen);
    arena_free(&answer->arena);
    memset(answer, 0, sizeof(*answer));
}
