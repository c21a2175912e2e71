/* Handing runs to our ingest: see replicator.h and services/ingest/foreign.c, whose form this is.
 *
 * Runs of all partitions go out in one request and into one append; each is sent until it is taken,
 * which is harmless, because the ingest drops what it knows.  Failure modes: no ingest, or one that
 * is not ready: try again, for ever; a gap: somebody else moved the position back, or forward
 * (another replicator): the caller begins anew; a run refused as malformed: the caller stops,
 * loudly. */
#include <stdio.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/http/json_doc.h"
#include "services/replicator/replicator.h"

#define APPEND_VERSION 2
#define REPLY_MAX      MIB(1)

/* One run under way. */
struct shipment {
    uint32_t partition;
    uint64_t to;
    bool is_taken;
};

struct shipping {
    struct peer *peer;
    struct shipment shipments[PARTITIONS_MAX];
    size_t count, left;
};

static void encode_head(const struct peer *peer, size_t runs, struct buffer *body)
{
    buffer_append_byte(body, APPEND_VERSION);
    buffer_append_u32(body, peer->number);
    buffer_append_u32(body, (uint32_t)runs);
}

/* Up to where a run goes: behind the newest data, and not as far as has been read.  Tokens hold
 * what a region knows of the others, and all regions have to come to know the same of a log that is
 * at rest.  Its first entry, an epoch, counts as data: without any it is known as well. */
static uint64_t run_end(const struct line *line)
{
    return MAX_OF(line->data, (uint64_t)1);
}

static void encode_run(const struct peer *peer, uint32_t partition, uint64_t to,
                       struct buffer *body)
{
    const struct line *line = &peer->lines[partition];

    buffer_append_u32(body, partition);
    buffer_append_u64(body, line->wanted);
    buffer_append_u64(body, to);
    buffer_append_u32(body, line->run.count);
    buffer_append(body, line->run.records.data, line->run.records.len);
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

/* What became of one run: its position, or why it was not taken. */
static enum err_code read_answer(json_t *answer, uint64_t *position, struct err *err)
{
    const char *word = NULL, *detail = NULL;
    enum err_code rc = json_doc_text(answer, "code", &word, err);

    *position = UINT64_MAX;
    if (rc == ERR_OK)
        rc = json_doc_text(answer, "detail", &detail, err);
    if (rc == ERR_OK && word != NULL)
        return err_set(err, err_from_word(word, strlen(word)), "%.250s",
                       detail == NULL ? word : detail);
    if (rc == ERR_OK)
        rc = json_doc_u64(answer, "position", 0, INT64_MAX, position, err);
    if (rc == ERR_OK && *position == UINT64_MAX)
        rc = err_set(err, ERR_UNAVAILABLE, "the ingest answered without a position");
    return rc;
}

/* The answers to that many runs, to be freed with json_decref(*document). */
static enum err_code read_answers(const struct http_call *call, size_t count, json_t **document,
                                  json_t **answers, struct err *err)
{
    enum err_code rc = http_call_expect(call, err);

    *document = *answers = NULL;
    if (rc == ERR_OK)
        rc = json_doc_parse(document, call->reply.data, call->reply.len, err);
    if (rc != ERR_OK)
        return rc;
    *answers = json_object_get(*document, "runs");
    if (json_array_size(*answers) != count)
        return err_set(err, ERR_UNAVAILABLE, "the ingest answered something else");
    return ERR_OK;
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

static enum err_code find_ingest(struct peer *peer, struct err *err)
{
    if (peer->ingest_url[0] != '\0')
        return ERR_OK;
    return region_holder_url(peer->replicator->setup.meta, peer->ingest_url,
                             sizeof(peer->ingest_url), err);
}

/* The runs in body are sent; the call is to be freed. */
static void send_runs(struct peer *peer, const struct buffer *body, struct http_call *call)
{
    const struct replicator_setup *setup = &peer->replicator->setup;

    *call = (struct http_call){.method = "POST",
                               .base = peer->ingest_url,
                               .path = "/internal/v1/append",
                               .content_type = MEDIA_BINARY,
                               .body = body->data,
                               .body_len = body->len,
                               .reply_max = REPLY_MAX};
    (void)http_call_one(setup->client, call, env_boot_ns(setup->env) + SHIP_DEADLINE_NS);
}

/* A failure that passes goes to *passing, another one is returned. */
static enum err_code sort_failure(const struct err *failure, struct err *passing, struct err *err)
{
    if (!is_for_ever(failure->code) && failure->code != ERR_DEAD) {
        *passing = *failure;
        return ERR_OK;
    }
    *err = *failure;
    if (failure->code != ERR_VERSION_CONFLICT && failure->code != ERR_DEAD)
        err->code = ERR_INVALID_ARGUMENT;
    return err->code;
}

/* The answers, in the order of what was sent. */
static enum err_code take_answers(struct shipping *shipping, json_t *answers, struct err *passing,
                                  struct err *err)
{
    enum err_code rc = ERR_OK;
    size_t at = 0;

    for (size_t i = 0; i < shipping->count; i++) {
        struct shipment *shipment = &shipping->shipments[i];
        struct err failure = {0};
        uint64_t position;
        enum err_code code;

        if (shipment->is_taken)
            continue;
        code = read_answer(json_array_get(answers, at++), &position, &failure);
        if (code == ERR_OK)
            code = taken(shipping->peer, shipment, position, &failure);
        if (code == ERR_OK) {
            shipping->left--;
            continue;
        }
        (void)err_wrap(&failure, "partition %u", shipment->partition);
        if (rc == ERR_OK)
            rc = sort_failure(&failure, passing, err);
    }
    return rc;
}

/* Send what has not been taken; *passing is the last failure that may pass. */
static enum err_code send_left(struct shipping *shipping, struct err *passing, struct err *err)
{
    struct buffer body = {0};
    struct http_call call = {0};
    struct err failure = {0};
    json_t *document = NULL, *answers;
    enum err_code rc;

    encode_head(shipping->peer, shipping->left, &body);
    for (size_t i = 0; i < shipping->count; i++)
        if (!shipping->shipments[i].is_taken)
            encode_run(shipping->peer, shipping->shipments[i].partition, shipping->shipments[i].to,
                       &body);
    rc = buffer_check(&body, err);
    if (rc == ERR_OK) {
        send_runs(shipping->peer, &body, &call);
        if (read_answers(&call, shipping->left, &document, &answers, &failure) == ERR_OK)
            rc = take_answers(shipping, answers, passing, err);
        else
            rc = sort_failure(&failure, passing, err);
    }
    json_decref(document);
    http_call_free(&call);
    buffer_free(&body);
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

    for (uint32_t i = 0; i < peer->partitions; i++) {
        if (!is_due(&peer->lines[i], now_ns))
            continue;
        if (shipping == NULL && (shipping = calloc(1, sizeof(*shipping))) == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to ship");
        shipping->shipments[shipping->count++] =
            (struct shipment){.partition = i, .to = run_end(&peer->lines[i])};
    }
    if (shipping == NULL)
        return ERR_OK;
    shipping->peer = peer;
    shipping->left = shipping->count;
    rc = send_all(shipping, err);
    free(shipping);
    return rc;
}

/* --- where to go on ----------------------------------------------------------------------------
 */

/* Runs of nothing, from nothing: the ingest answers with the positions that it wants. */
enum err_code ship_positions(struct peer *peer, struct err *err)
{
    struct buffer body = {0};
    struct http_call call = {0};
    json_t *document = NULL, *answers;
    enum err_code rc = find_ingest(peer, err);

    encode_head(peer, peer->partitions, &body);
    for (uint32_t i = 0; i < peer->partitions; i++)
        encode_run(peer, i, 0, &body); /* all of the line is zero */
    if (rc == ERR_OK)
        rc = buffer_check(&body, err);
    if (rc == ERR_OK) {
        send_runs(peer, &body, &call);
        rc = read_answers(&call, peer->partitions, &document, &answers, err);
    }
    for (uint32_t i = 0; i < peer->partitions && rc == ERR_OK; i++)
        rc = read_answer(json_array_get(answers, i), &peer->lines[i].wanted, err);
    json_decref(document);
    http_call_free(&call);
    buffer_free(&body);
    if (rc != ERR_OK)
        peer->ingest_url[0] = '\0';
    return rc == ERR_OK || rc == ERR_DEAD ? rc : err_wrap(err, "our ingest");
}
