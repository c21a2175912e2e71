/* Handing runs to our ingest: see replicator.h and services/ingest/foreign.c, whose form this is.
 *
 * Runs of different partitions go out together; each is sent until it is taken, which is harmless,
 * because the ingest drops what it knows.  Failure modes: no ingest, or one that is not ready: try
 * again, for ever; a gap: somebody else moved the position back, or forward (another replicator):
 * the caller begins anew; a run refused as malformed: the caller stops, loudly. */
#include <stdio.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/http/json_doc.h"
#include "services/replicator/replicator.h"

#define APPEND_VERSION 1
#define REPLY_MAX      KIB(64)

/* One POST under way. */
struct shipment {
    uint32_t partition;
    uint64_t to;
    struct buffer body;
    bool is_taken;
};

struct shipping {
    struct peer *peer;
    struct shipment shipments[PARTITIONS_MAX];
    size_t count, left;
};

static void encode(struct peer *peer, uint32_t partition, struct shipment *shipment)
{
    struct line *line = &peer->lines[partition];

    *shipment = (struct shipment){.partition = partition, .to = line->read};
    buffer_append_byte(&shipment->body, APPEND_VERSION);
    buffer_append_u32(&shipment->body, peer->number);
    buffer_append_u32(&shipment->body, partition);
    buffer_append_u64(&shipment->body, line->wanted);
    buffer_append_u64(&shipment->body, line->read);
    buffer_append_u32(&shipment->body, line->run.count);
    buffer_append(&shipment->body, line->run.records.data, line->run.records.len);
}

/* Has the run's turn come?  The first contact is told also without data: from then on tokens of
 * that region are known here. */
static bool is_due(const struct line *line, uint64_t now_ns)
{
    if (line->read <= line->wanted)
        return false;
    return line->run.count > 0 || line->wanted == 0 ||
           (line->has_data && now_ns - line->shipped_ns >= POSITION_EVERY);
}

/* --- answers -----------------------------------------------------------------------------------
 */

static enum err_code read_position(const struct http_call *call, uint64_t *position,
                                   struct err *err)
{
    json_t *document = NULL;
    enum err_code rc = http_call_expect(call, err);

    if (rc == ERR_OK)
        rc = json_doc_parse(&document, call->reply.data, call->reply.len, err);
    *position = UINT64_MAX;
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "position", 0, INT64_MAX, position, err);
    if (rc == ERR_OK && *position == UINT64_MAX)
        rc = err_set(err, ERR_UNAVAILABLE, "the ingest answered without a position");
    json_decref(document);
    return rc;
}

/* What is wrong about us, or about the record; anything else passes. */
static bool is_for_ever(enum err_code code)
{
    return code == ERR_INVALID_ARGUMENT || code == ERR_VERSION_CONFLICT ||
           code == ERR_PAYLOAD_TOO_LARGE || code == ERR_UNSUPPORTED_MEDIA_TYPE ||
           code == ERR_NOT_SUPPORTED;
}

static void observe(struct peer *peer, const struct line *line)
{
    struct replicator *replicator = peer->replicator;
    uint64_t now_us = env_wall_us(replicator->env);

    pthread_mutex_lock(&replicator->lock);
    for (uint32_t i = 0; i < line->run.count; i++) {
        uint64_t then_us = load_u64(line->run.clocks.data + 8 * (size_t)i);
        uint64_t took_us = now_us > then_us ? now_us - then_us : 0;

        lag_sample_locked(peer, took_us);
        if (peer->metrics.propagation != NULL)
            metric_observe_ns(peer->metrics.propagation, took_us * NS_PER_US);
    }
    pthread_mutex_unlock(&replicator->lock);
    if (peer->metrics.records != NULL)
        metric_add(peer->metrics.records, line->run.count);
}

/* The ingest has it.  It may know more than was sent: another replicator is at work. */
static enum err_code taken(struct peer *peer, struct shipment *shipment, uint64_t position,
                           struct err *err)
{
    struct line *line = &peer->lines[shipment->partition];

    if (position < shipment->to)
        return err_set(err, ERR_VERSION_CONFLICT, "the ingest is at %llu, not at %llu",
                       (unsigned long long)position, (unsigned long long)shipment->to);
    observe(peer, line);
    peer->run_bytes -= line->run.records.len;
    buffer_reset(&line->run.records);
    buffer_reset(&line->run.clocks);
    line->run.count = 0;
    line->wanted = position;
    line->has_data = false;
    line->shipped_ns = env_boot_ns(peer->replicator->env);
    shipment->is_taken = true;
    return ERR_OK;
}

/* --- calls -------------------------------------------------------------------------------------
 */

static void aim(const struct peer *peer, struct http_call *call, const struct buffer *body)
{
    *call = (struct http_call){.method = "POST",
                               .base = peer->ingest_url,
                               .path = "/internal/v1/append",
                               .content_type = MEDIA_BINARY,
                               .body = body->data,
                               .body_len = body->len,
                               .reply_max = REPLY_MAX};
}

static enum err_code find_ingest(struct peer *peer, struct err *err)
{
    if (peer->ingest_url[0] != '\0')
        return ERR_OK;
    return region_holder_url(peer->replicator->setup.meta, peer->ingest_url,
                             sizeof(peer->ingest_url), err);
}

/* Send what has not been taken; *passing is the last failure that may pass. */
static enum err_code send_left(struct shipping *shipping, struct err *passing, struct err *err)
{
    struct peer *peer = shipping->peer;
    const struct replicator_setup *setup = &peer->replicator->setup;
    struct http_call *calls = array_alloc(shipping->left, sizeof(*calls));
    enum err_code rc = ERR_OK;
    size_t count = 0;

    if (calls == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to ship");
    for (size_t i = 0; i < shipping->count; i++)
        if (!shipping->shipments[i].is_taken) {
            aim(peer, &calls[count], &shipping->shipments[i].body);
            calls[count++].user = &shipping->shipments[i];
        }
    http_gather(setup->client, calls, count, env_boot_ns(setup->env) + SHIP_DEADLINE_NS, NULL,
                NULL);
    for (size_t i = 0; i < count; i++) {
        struct err failure = {0};
        uint64_t position;
        enum err_code code = read_position(&calls[i], &position, &failure);

        if (code == ERR_OK)
            code = taken(peer, calls[i].user, position, &failure);
        if (code == ERR_OK)
            shipping->left--;
        else if (!is_for_ever(code) && code != ERR_DEAD)
            *passing = failure;
        else if (rc == ERR_OK)
            rc = err_set(
                err, code == ERR_VERSION_CONFLICT || code == ERR_DEAD ? code : ERR_INVALID_ARGUMENT,
                "partition %u: %.250s", ((struct shipment *)calls[i].user)->partition,
                failure.message);
        http_call_free(&calls[i]);
    }
    free(calls);
    return rc;
}

/* Until all are taken; our ingest away is told in the peer's state, and waited for. */
static enum err_code send_all(struct shipping *shipping, struct err *err)
{
    struct peer *peer = shipping->peer;
    uint64_t pause_ns = RETRY_MIN_NS;
    enum err_code rc = ERR_OK;

    while (rc == ERR_OK && shipping->left > 0) {
        struct err passing = {0};

        if (find_ingest(peer, &passing) == ERR_OK)
            rc = send_left(shipping, &passing, err);
        if (rc != ERR_OK || shipping->left == 0)
            break;
        if (passing.code == ERR_DEAD)
            return err_set(err, ERR_DEAD, "shutting down");
        peer->ingest_url[0] = '\0'; /* it may have moved */
        (void)err_wrap(&passing, "our ingest");
        peer_set_state(peer, PEER_AWAY, &passing);
        lag_publish(peer);
        if (peer_pause(peer, pause_ns) != ERR_OK)
            return err_set(err, ERR_DEAD, "shutting down");
        pause_ns = MIN_OF(pause_ns * 2, RETRY_MAX_NS);
    }
    return rc;
}

enum err_code ship_due(struct peer *peer, struct err *err)
{
    struct shipping *shipping = NULL;
    uint64_t now_ns = env_boot_ns(peer->replicator->env);
    enum err_code rc = ERR_OK;

    for (uint32_t i = 0; i < peer->partitions && rc == ERR_OK; i++) {
        if (!is_due(&peer->lines[i], now_ns))
            continue;
        if (shipping == NULL && (shipping = calloc(1, sizeof(*shipping))) == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to ship");
        encode(peer, i, &shipping->shipments[shipping->count]);
        rc = buffer_check(&shipping->shipments[shipping->count++].body, err);
    }
    if (shipping == NULL)
        return ERR_OK;
    shipping->peer = peer;
    shipping->left = shipping->count;
    if (rc == ERR_OK)
        rc = send_all(shipping, err);
    for (size_t i = 0; i < shipping->count; i++)
        buffer_free(&shipping->shipments[i].body);
    free(shipping);
    return rc;
}

/* --- where to go on ----------------------------------------------------------------------------
 */

/* A run of nothing, from nothing: the ingest answers with the position that it wants. */
enum err_code ship_positions(struct peer *peer, struct err *err)
{
    const struct replicator_setup *setup = &peer->replicator->setup;
    struct http_call *calls = array_alloc(peer->partitions, sizeof(*calls));
    struct shipment *questions = array_alloc(peer->partitions, sizeof(*questions));
    enum err_code rc = calls == NULL || questions == NULL
                           ? err_set(err, ERR_NO_MEMORY, "no memory for a peer")
                           : find_ingest(peer, err);
    uint32_t count = rc == ERR_OK ? peer->partitions : 0;

    for (uint32_t i = 0; i < count; i++) {
        encode(peer, i, &questions[i]); /* all of the line is zero */
        aim(peer, &calls[i], &questions[i].body);
    }
    if (count > 0)
        http_gather(setup->client, calls, count, env_boot_ns(setup->env) + SHIP_DEADLINE_NS, NULL,
                    NULL);
    for (uint32_t i = 0; i < count; i++) {
        if (rc == ERR_OK)
            rc = read_position(&calls[i], &peer->lines[i].wanted, err);
        http_call_free(&calls[i]);
        buffer_free(&questions[i].body);
    }
    free(calls);
    free(questions);
    if (rc != ERR_OK)
        peer->ingest_url[0] = '\0';
    return rc == ERR_OK || rc == ERR_DEAD ? rc : err_wrap(err, "our ingest");
}
