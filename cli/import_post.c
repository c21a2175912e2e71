/* Sends one batch of an import until all of it has been written or refused.
 *
 * Happy path: one POST, 200.  A router that is away or asks for patience (no connection, 408, 429,
 * 502, 503, 504, 507) is asked again with growing pauses, not before Retry-After; records have ids,
 * so sending twice changes nothing.  A request is all or nothing: a refused record is named by its
 * pointer "/records/N/…"; it is counted, and the others are sent again in parts that shrink near
 * refused ones, so that a batch full of them does not cost its square. */
#include <assert.h>
#include <string.h>

#include "cli/import.h"
#include "common/base/checked.h"
#include "common/base/text.h"

#define CALL_NS        (70 * NS_PER_S)
#define PAUSE_MS_FIRST 50u
#define PAUSE_MS_MAX   5000u
#define PART_MIN       16u

struct post {
    struct import_sink *sink;
    const struct import *import;
    const struct batch *batch;
    struct buffer part; /* body of a part of the batch */
};

static bool is_worth_a_retry(const struct http_call *call)
{
    static const int statuses[] = {408, 429, 502, 503, 504, 507};

    if (call->rc != ERR_OK)
        return call->rc == ERR_UNAVAILABLE || call->rc == ERR_IO || call->rc == ERR_TIMEOUT;
    for (size_t i = 0; i < ARRAY_COUNT(statuses); i++)
        if (call->status == statuses[i])
            return true;
    return false;
}

/* The body with records [first, first + count). */
static enum err_code cut_part(struct post *post, size_t first, size_t count, struct err *err)
{
    const struct batch *batch = post->batch;
    size_t start = first == 0 ? strlen(BATCH_HEAD) : batch->ends[first - 1] + 1;

    buffer_reset(&post->part);
    buffer_append_text(&post->part, BATCH_HEAD);
    buffer_append(&post->part, batch->body.data + start, batch->ends[first + count - 1] - start);
    buffer_append_text(&post->part, BATCH_TAIL);
    return buffer_check(&post->part, err);
}

/* One request, repeated while there is hope. */
static enum err_code send_body(struct post *post, struct err *err)
{
    struct http_call call = {.method = "POST",
                             .base = post->import->base,
                             .path = post->import->records_path,
                             .content_type = "application/json",
                             .body = post->part.data,
                             .body_len = post->part.len,
                             .reply_max = MIB(8)};
    uint64_t began = env_boot_ns(env_real());
    uint64_t give_up = began + post->import->retry_seconds * NS_PER_S;
    uint32_t pause_ms = PAUSE_MS_FIRST;
    enum err_code rc;

    for (;;) {
        uint64_t now, until;

        (void)http_call_one(post->import->client, &call, env_boot_ns(env_real()) + CALL_NS);
        rc = http_call_expect(&call, err);
        if (rc == ERR_OK || !is_worth_a_retry(&call))
            break;
        now = env_boot_ns(env_real());
        until = now + MAX_OF(pause_ms * NS_PER_MS, MIN_OF(call.retry_after_s, 60u) * NS_PER_S);
        if (until > give_up)
            break;
        if (!import_sink_pause(post->sink, until, err->message)) {
            rc = err_set(err, ERR_DEAD, "stopped");
            break;
        }
        pause_ms = MIN_OF(pause_ms * 2, PAUSE_MS_MAX);
        http_call_free(&call);
        call.retry_after_s = 0;
    }
    http_call_free(&call);
    return rc;
}

/* N of "/records/N" or "/records/N/…", below count. */
static bool record_of_pointer(const char *pointer, size_t count, size_t *out)
{
    static const char prefix[] = "/records/";
    size_t len = strlen(prefix);
    uint64_t number;

    if (strncmp(pointer, prefix, len) != 0 ||
        !text_to_u64(pointer + len, strcspn(pointer + len, "/"), &number) || number >= count)
        return false;
    *out = (size_t)number;
    return true;
}

/* Is the error about the request, and not about its address or our rights? */
static bool is_about_content(enum err_code code)
{
    return code == ERR_INVALID_JSON || code == ERR_INVALID_ARGUMENT || code == ERR_UNKNOWN_FIELD ||
           code == ERR_NOT_SUPPORTED || code == ERR_PAYLOAD_TOO_LARGE ||
           code == ERR_DIMENSION_MISMATCH;
}

enum err_code import_post(struct import_sink *sink, struct batch *batch, uint64_t *imported,
                          uint64_t *refused, struct err *err)
{
    struct post post = {.sink = sink, .import = import_sink_import(sink), .batch = batch};
    size_t at = 0, part = batch->count, bad = SIZE_MAX;
    enum err_code rc = ERR_OK;

    assert(batch->count > 0);
    while (at < batch->count && rc == ERR_OK) {
        size_t count = MIN_OF(part, MIN_OF(batch->count, bad) - at);
        size_t which;

        if (at == bad) { /* its reason was counted when it was met */
            bad = SIZE_MAX;
            at++;
            (*refused)++;
            continue;
        }
        rc = cut_part(&post, at, count, err);
        if (rc == ERR_OK)
            rc = send_body(&post, err);
        if (rc == ERR_OK) {
            at += count;
            *imported += count;
            part = MIN_OF(part * 2, batch->count);
        } else if (is_about_content(rc) && record_of_pointer(err->pointer, count, &which)) {
            import_sink_count_refused(sink, batch->rows[at + which], err);
            bad = at + which;
            part = MAX_OF(part / 8, PART_MIN);
            rc = ERR_OK;
        } else if (is_about_content(rc) && count > 1) {
            part = count / 2; /* too large, or it does not say which */
            rc = ERR_OK;
        } else if (is_about_content(rc)) {
            import_sink_count_refused(sink, batch->rows[at], err);
            bad = at;
            rc = ERR_OK;
        }
    }
    buffer_free(&post.part);
    return rc;
}
