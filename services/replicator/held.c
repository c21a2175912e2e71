/* POST /internal/v1/held {"read_token":"rt1.…","regions":1,"wait_ms":900}: what a write with a
 * quorum waits for.  The answer {"held":n}: in so many other regions' logs stands everything of
 * ours below the token's positions; at the latest when wait_ms have passed.
 *
 * A region's own log is what says so: our records in it, or a version vector, which the peer's
 * thread reads there anyway.  So nobody is asked and nothing is polled: the answer comes when that
 * log's reader meets the record. */
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/http/json_doc.h"
#include "common/model/position.h"
#include "services/replicator/replicator.h"

struct holding {
    struct token token;
    uint64_t regions, wait_ms;
};

/* Caller holds the lock. */
static bool has_all_locked(struct peer *peer, const struct token *token)
{
    for (size_t i = 0; i < token->count; i++) {
        const struct token_entry *entry = &token->entries[i];

        if (entry->region != peer->own_number) {
            atomic_store(&peer->is_outdated, peer->own_number != 0);
            return false;
        }
        if (entry->partition >= peer->view_count ||
            peer->views[entry->partition].held < entry->position)
            return false;
    }
    return true;
}

/* Caller holds the lock. */
static uint64_t count_held_locked(struct replicator *replicator, const struct token *token)
{
    uint64_t count = 0;

    for (struct peer *peer = replicator->peers; peer != NULL; peer = peer->next)
        count += has_all_locked(peer, token);
    return count;
}

static enum err_code read_body(struct request *req, struct holding *holding)
{
    static const char *const NAMES[] = {"read_token", "regions", "wait_ms", NULL};
    const char *text = "";
    json_t *document = NULL;
    enum err_code rc = request_expect_media(req, MEDIA_JSON);

    if (rc == ERR_OK)
        rc = json_doc_parse(&document, req->body, req->body_len, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_only(document, NAMES, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "read_token", &text, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "regions", 1, REGIONS_MAX, &holding->regions, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "wait_ms", 1, DEADLINE_MS_MAX, &holding->wait_ms, &req->err);
    if (rc == ERR_OK)
        rc = token_from_text(&holding->token, text, strlen(text), &req->err);
    for (size_t i = 1; i < holding->token.count && rc == ERR_OK; i++)
        if (holding->token.entries[i].region != holding->token.entries[0].region)
            rc = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/read_token",
                            "positions of one log are wanted: our own");
    json_decref(document);
    return rc;
}

/* Caller holds the lock. */
static uint64_t await_held_locked(struct replicator *replicator, const struct holding *holding,
                                  uint64_t deadline_ns)
{
    enum err_code rc = ERR_OK;
    uint64_t held;

    while ((held = count_held_locked(replicator, &holding->token)) < holding->regions &&
           rc == ERR_OK && !atomic_load(&replicator->stopping))
        rc = env_cond_wait(&replicator->changed, &replicator->lock, deadline_ns);
    return held;
}

enum err_code handle_held(struct request *req)
{
    struct replicator *replicator = req->state;
    struct holding holding = {.regions = 1, .wait_ms = DEADLINE_MS_DEFAULT};
    enum err_code rc = read_body(req, &holding);
    uint64_t held = 0;

    if (rc == ERR_OK) {
        pthread_mutex_lock(&replicator->lock);
        rc = reach_enter_locked(replicator, &req->err);
        if (rc == ERR_OK) {
            held = await_held_locked(replicator, &holding,
                                     req->received_ns + holding.wait_ms * NS_PER_MS);
            replicator->waiters--;
        }
        pthread_mutex_unlock(&replicator->lock);
    }
    token_free(&holding.token);
    if (rc == ERR_OK)
        buffer_append_format(&req->reply.body, "{\"held\":%llu}", (unsigned long long)held);
    return rc;
}
