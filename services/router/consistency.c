/* What a read must see, decoded from a body or a query; and the "read" part of every answer. */
#include "services/router/router.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/http/age.h"

#define STALENESS_SECONDS_MAX 1e9
#define FRESH_WORDS           "must be true, false or \"global\""

void consistency_init(struct consistency *consistency)
{
    *consistency = (struct consistency){
        .max_staleness_ns = NEVER_NS,
        .timeout_ms = DEADLINE_MS_DEFAULT,
    };
}

void consistency_free(struct consistency *consistency)
{
    token_free(&consistency->demands);
}

static enum err_code take_staleness(struct consistency *consistency, double seconds,
                                    struct err *err)
{
    if (!(seconds >= 0) || seconds > STALENESS_SECONDS_MAX)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/max_staleness_seconds",
                          "must be from 0 to 1e9 seconds");
    consistency->max_staleness_ns = (uint64_t)(seconds * (double)NS_PER_S);
    return ERR_OK;
}

static enum err_code take_on_stale(struct consistency *consistency, struct json_text word,
                                   struct err *err)
{
    if (!json_text_is(word, "serve") && !json_text_is(word, "fail"))
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/on_stale", "must be \"fail\" or \"serve\"");
    consistency->serve_stale = json_text_is(word, "serve");
    return ERR_OK;
}

static enum err_code take_token(struct consistency *consistency, struct json_text text,
                                struct err *err)
{
    token_free(&consistency->demands);
    if (text.len == 0)
        return ERR_OK;
    return token_from_text(&consistency->demands, text.data, text.len, err);
}

/* "global": false: another word. */
static bool take_fresh(struct consistency *consistency, struct json_text word)
{
    consistency->global = json_text_is(word, "global");
    consistency->fresh = consistency->global;
    return consistency->global;
}

static enum err_code read_fresh(struct consistency *consistency, struct json_reader *reader)
{
    struct json_text word;
    enum json_kind kind;
    enum err_code rc = json_peek(reader, &kind);

    if (rc != ERR_OK)
        return rc;
    if (kind != JSON_KIND_STRING)
        return member_failed(reader->err, json_read_bool(reader, &consistency->fresh), "fresh");
    rc = json_read_string(reader, &word);
    if (rc != ERR_OK)
        return member_failed(reader->err, rc, "fresh");
    if (take_fresh(consistency, word))
        return ERR_OK;
    return err_set_at(reader->err, ERR_INVALID_ARGUMENT, "/fresh", FRESH_WORDS);
}

enum err_code consistency_read(struct consistency *consistency, struct json_reader *reader,
                               struct json_text key, bool *known)
{
    struct json_text text;
    double seconds;
    enum err_code rc;

    *known = true;
    if (json_text_is(key, "fresh"))
        return read_fresh(consistency, reader);
    if (json_text_is(key, "max_staleness_seconds")) {
        rc = json_read_double(reader, &seconds);
        return rc == ERR_OK ? take_staleness(consistency, seconds, reader->err)
                            : member_failed(reader->err, rc, "max_staleness_seconds");
    }
    if (json_text_is(key, "on_stale")) {
        rc = json_read_string(reader, &text);
        return rc == ERR_OK ? take_on_stale(consistency, text, reader->err)
                            : member_failed(reader->err, rc, "on_stale");
    }
    if (json_text_is(key, "read_token")) {
        rc = json_read_string(reader, &text);
        return rc == ERR_OK ? take_token(consistency, text, reader->err)
                            : member_failed(reader->err, rc, "read_token");
    }
    if (json_text_is(key, "timeout_ms"))
        return member_failed(reader->err,
                             json_read_u64(reader, 1, DEADLINE_MS_MAX, &consistency->timeout_ms),
                             "timeout_ms");
    if (json_text_is(key, "allow_partial"))
        return member_failed(reader->err, json_read_bool(reader, &consistency->allow_partial),
                             "allow_partial");
    *known = false;
    return ERR_OK;
}

/* A query parameter as text; *out.data NULL: absent. */
static enum err_code query_text(struct request *req, const char *name, struct json_text *out)
{
    bool present = false;
    char pointer[64];
    const char *value = request_query(req, name, &present);

    *out = (struct json_text){.data = value, .len = value == NULL ? 0 : strlen(value)};
    if (value == NULL && present) {
        (void)snprintf(pointer, sizeof(pointer), "/%s", name);
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, pointer, "is not well-formed");
    }
    return ERR_OK;
}

enum err_code consistency_from_query(struct consistency *consistency, struct request *req)
{
    struct json_text fresh, staleness, on_stale, token, timeout;
    double seconds = 0;
    enum err_code rc;

    if ((rc = query_text(req, "fresh", &fresh)) != ERR_OK ||
        (rc = query_text(req, "max_staleness_seconds", &staleness)) != ERR_OK ||
        (rc = query_text(req, "on_stale", &on_stale)) != ERR_OK ||
        (rc = query_text(req, "read_token", &token)) != ERR_OK ||
        (rc = query_text(req, "timeout_ms", &timeout)) != ERR_OK)
        return rc;
    if (fresh.data != NULL && !take_fresh(consistency, fresh)) {
        if (!json_text_is(fresh, "true") && !json_text_is(fresh, "false"))
            return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/fresh", FRESH_WORDS);
        consistency->fresh = json_text_is(fresh, "true");
    }
    if (staleness.data != NULL) {
        if (!text_to_double(staleness.data, staleness.len, &seconds))
            seconds = -1;
        if ((rc = take_staleness(consistency, seconds, &req->err)) != ERR_OK)
            return rc;
    }
    if (on_stale.data != NULL && (rc = take_on_stale(consistency, on_stale, &req->err)) != ERR_OK)
        return rc;
    if (token.data != NULL && (rc = take_token(consistency, token, &req->err)) != ERR_OK)
        return rc;
    if (timeout.data != NULL &&
        (!text_to_u64(timeout.data, timeout.len, &consistency->timeout_ms) ||
         consistency->timeout_ms < 1 || consistency->timeout_ms > DEADLINE_MS_MAX))
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/timeout_ms", "must be from 1 to %d",
                          DEADLINE_MS_MAX);
    return ERR_OK;
}

void consistency_from_body(struct consistency *consistency, struct request *req)
{
    struct json_reader reader;
    struct json_text key;
    struct err ignored = {0};
    bool more = false, known = false;
    enum err_code rc;

    json_reader_init(&reader, req->body, req->body_len, &req->arena, &ignored);
    rc = json_object_begin(&reader);
    while (rc == ERR_OK && (rc = json_object_next(&reader, &key, &more)) == ERR_OK && more) {
        rc = consistency_read(consistency, &reader, key, &known);
        if (rc == ERR_OK && !known)
            rc = json_skip(&reader, NULL, NULL);
    }
}

void consistency_apply(const struct consistency *consistency, const struct request *req,
                       struct wire_question *question, struct cluster_ask *ask)
{
    question->demands = consistency->demands;
    question->fresh = consistency->fresh;
    question->serve_stale = consistency->serve_stale;
    question->max_staleness_ns = consistency->max_staleness_ns;
    *ask = (struct cluster_ask){
        .question = question,
        .deadline_ns = req->received_ns + consistency->timeout_ms * NS_PER_MS,
        .allow_partial = consistency->allow_partial,
        .request_id = req->request_id,
        .traceparent = req->traceparent,
    };
}

/* Of a read over all regions: since when something may have been committed anywhere that it does
 * not show.  What is known of the other regions is known of this region's log, and an answer that
 * does not show all of that may lack any of it. */
static int64_t global_known(const struct consistency *consistency,
                            const struct cluster_answer *answer)
{
    uint64_t known_ns = consistency->reached.known_ns;

    if (known_ns == NEVER_NS || answer->stale)
        return CLUSTER_UNKNOWN;
    return MIN_OF(answer->known_ns, (int64_t)known_ns);
}

void read_info_from(struct read_info *info, const struct consistency *consistency,
                    const struct cluster_answer *answer)
{
    assert(answer->served_count <= answer->wanted_count);
    *info = (struct read_info){
        .seen = &answer->seen,
        .known_ns = answer->known_ns,
        .stale = answer->stale,
        .partial = answer->partial,
        .coverage = answer->wanted_count == 0
                        ? 1.0
                        : (double)answer->served_count / (double)answer->wanted_count,
    };
    if (consistency->global) {
        info->known_ns = global_known(consistency, answer);
        info->stale = info->stale || !consistency->reached.is_met;
    }
}

void read_info_write(const struct read_info *info, struct request *req, struct json_writer *w)
{
    struct buffer token = {0};

    token_to_text(info->seen, &token);
    json_begin_object(w);
    json_key(w, "read_token");
    json_put_string(w, (const char *)token.data, token.len);
    json_key(w, "staleness_seconds");
    static_assert(CLUSTER_UNKNOWN == AGE_UNKNOWN, "never caught up: as bad as can be said");
    age_put(req, w, info->known_ns);
    json_key(w, "stale");
    json_bool(w, info->stale);
    json_key(w, "partial");
    json_bool(w, info->partial);
    json_key(w, "coverage");
    json_double(w, info->coverage);
    json_end_object(w);
    if (token.failed)
        w->out->failed = true;
    buffer_free(&token);
}
