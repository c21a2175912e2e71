/* POST /internal/v1/reach {"region":"b","wait_ms":900}: what a read over all regions waits for.
 *
 * The ends of that region's log are asked after the request has come; when everything that it wrote
 * below them is in our own log, the answer is {"reached":true}, and a fresh read of this region
 * sees it.  Otherwise, at the latest when wait_ms have passed: {"reached":false}, why, and for how
 * long that region has not been here completely.
 *
 * Its log is asked, not one of its services: it has what was acknowledged, whoever has died over
 * there, and no deposed holder can answer in its stead.  And it is asked here, where it is being
 * read: what is at hand need not be fetched again, and if it cannot be read nothing would come.
 *
 * One round of asking at a time for each peer: whoever comes while one is under way waits for the
 * next, which serves all who wait then. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/http/json_doc.h"
#include "services/replicator/replicator.h"

#define ROUND_RETRY_NS (20 * NS_PER_MS)

/* --- the peer's side ---------------------------------------------------------------------------
 */

enum err_code reach_open(struct peer *peer, struct err *err)
{
    struct replicator *replicator = peer->replicator;
    struct peer_log *log = calloc(1, sizeof(*log));

    if (log == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a peer");
    log->wal = peer->wal;
    log->refs = 1;
    pthread_mutex_lock(&replicator->lock);
    peer->log = log;
    env_cond_broadcast(&replicator->changed);
    pthread_mutex_unlock(&replicator->lock);
    return ERR_OK;
}

/* Give the log back; the last one closes it, without the lock. */
static void put_log(struct replicator *replicator, struct peer_log *log)
{
    bool is_last;

    pthread_mutex_lock(&replicator->lock);
    is_last = --log->refs == 0;
    pthread_mutex_unlock(&replicator->lock);
    if (!is_last)
        return;
    wal_close(log->wal);
    free(log);
}

void reach_close(struct peer *peer)
{
    struct replicator *replicator = peer->replicator;
    struct peer_log *log;

    pthread_mutex_lock(&replicator->lock);
    log = peer->log;
    peer->log = NULL;
    for (uint32_t i = 0; i < peer->view_count; i++)
        peer->views[i].own = 0;
    pthread_mutex_unlock(&replicator->lock);
    if (log == NULL)
        wal_close(peer->wal);
    else
        put_log(replicator, log);
    peer->wal = NULL;
}

/* What the peer itself wrote below is in our log: only records of its own wait to be shipped. */
static uint64_t own_of(const struct line *line)
{
    return line->run.count > 0 || line->read < line->wanted ? line->wanted : line->read;
}

void reach_publish(struct peer *peer)
{
    struct replicator *replicator = peer->replicator;

    pthread_mutex_lock(&replicator->lock);
    for (uint32_t i = 0; i < peer->partitions; i++) {
        peer->views[i].own = own_of(&peer->lines[i]);
        peer->views[i].held = peer->lines[i].held;
    }
    if (replicator->waiters > 0)
        env_cond_broadcast(&replicator->changed);
    pthread_mutex_unlock(&replicator->lock);
}

/* --- those who wait ----------------------------------------------------------------------------
 */

struct reaching {
    struct replicator *replicator;
    struct peer *peer;
    uint64_t deadline_ns;
    uint32_t number; /* of the log whose ends these are */
    uint32_t count;
    uint64_t ends[PARTITIONS_MAX];
};

enum err_code reach_enter_locked(struct replicator *replicator, struct err *err)
{
    if (replicator->waiters >= WAITERS_MAX)
        return err_set(err, ERR_BEHIND, "%u requests wait already", replicator->waiters);
    replicator->waiters++;
    return ERR_OK;
}

/* Caller holds the lock, which is given up meanwhile. */
static void ask_round_locked(struct reaching *reaching)
{
    struct replicator *replicator = reaching->replicator;
    struct peer *peer = reaching->peer;
    struct peer_log *log = peer->log;
    uint32_t partitions[PARTITIONS_MAX], count = peer->view_count;
    uint64_t until_ns = MIN_OF(env_boot_ns(replicator->env) + ENDS_WAIT, reaching->deadline_ns);
    struct err err = {0};
    bool is_same;

    log->refs++;
    peer->round_is_open = true;
    peer->rounds_begun++;
    pthread_mutex_unlock(&replicator->lock);
    for (uint32_t i = 0; i < count; i++)
        partitions[i] = i;
    /* The code is in err. */
    (void)!wal_ends(log->wal, partitions, count, until_ns, reaching->ends, &err);
    pthread_mutex_lock(&replicator->lock);
    is_same = peer->log == log;
    if (err.code == ERR_OK && !is_same)
        (void)err_set(&err, ERR_UNAVAILABLE, "its log was closed meanwhile");
    if (err.code == ERR_OK)
        memcpy(peer->round_ends, reaching->ends, count * sizeof(reaching->ends[0]));
    peer->round_err = err;
    peer->rounds_ended = peer->rounds_begun;
    peer->round_is_open = false;
    env_cond_broadcast(&replicator->changed);
    pthread_mutex_unlock(&replicator->lock);
    put_log(replicator, log);
    pthread_mutex_lock(&replicator->lock);
}

/* Caller holds the lock. */
static enum err_code check_peer_locked(const struct peer *peer, struct err *err)
{
    if (peer_is_stopping(peer))
        return err_set(err, ERR_DEAD, "shutting down, or not followed any more");
    /* Somebody's hand is needed: waiting is of no use. */
    if (peer->state == PEER_REFUSED || peer->state == PEER_STUCK)
        return err_set(err, ERR_UNAVAILABLE, "%s", peer->detail);
    return ERR_OK;
}

/* Caller holds the lock.  Wait for a change, or until that time.  Errors: ERR_TIMEOUT (the
 * deadline), those of check_peer_locked. */
static enum err_code pause_locked(struct reaching *reaching, uint64_t until_ns, struct err *err)
{
    struct replicator *replicator = reaching->replicator;
    enum err_code rc = env_cond_wait(&replicator->changed, &replicator->lock,
                                     MIN_OF(until_ns, reaching->deadline_ns));

    if (rc == ERR_DEAD)
        return err_set(err, ERR_DEAD, "shutting down");
    if (env_boot_ns(replicator->env) >= reaching->deadline_ns)
        return err_set(err, ERR_TIMEOUT, "%s",
                       reaching->peer->detail[0] == '\0' ? "its records have not come yet"
                                                         : reaching->peer->detail);
    return check_peer_locked(reaching->peer, err);
}

/* Caller holds the lock.  The ends, of a round that begins now or later. */
static enum err_code await_ends_locked(struct reaching *reaching, struct err *err)
{
    struct peer *peer = reaching->peer;
    uint64_t wanted = peer->rounds_begun + 1;
    enum err_code rc = check_peer_locked(peer, err);

    while (rc == ERR_OK) {
        if (peer->rounds_ended >= wanted && peer->round_err.code == ERR_OK)
            break;
        if (peer->rounds_ended >= wanted) {
            wanted = peer->rounds_begun + 1;
            rc = pause_locked(reaching, env_boot_ns(reaching->replicator->env) + ROUND_RETRY_NS,
                              err);
        } else if (peer->log != NULL && !peer->round_is_open) {
            ask_round_locked(reaching);
        } else {
            rc = pause_locked(reaching, NEVER_NS, err);
        }
    }
    if (rc == ERR_TIMEOUT && peer->round_err.code != ERR_OK)
        return err_set(err, rc, "%s", peer->round_err.message);
    if (rc != ERR_OK)
        return rc;
    reaching->number = peer->view_number;
    reaching->count = peer->view_count;
    memcpy(reaching->ends, peer->round_ends, reaching->count * sizeof(reaching->ends[0]));
    return ERR_OK;
}

/* Caller holds the lock. */
static bool is_reached_locked(const struct reaching *reaching)
{
    for (uint32_t i = 0; i < reaching->count; i++)
        if (reaching->peer->views[i].own < reaching->ends[i])
            return false;
    return true;
}

/* Caller holds the lock. */
static enum err_code reach_locked(struct reaching *reaching, struct err *err)
{
    enum err_code rc = await_ends_locked(reaching, err);

    while (rc == ERR_OK) {
        if (reaching->peer->view_number != reaching->number)
            return err_set(err, ERR_UNAVAILABLE, "its log was replaced meanwhile");
        if (is_reached_locked(reaching))
            return ERR_OK;
        rc = pause_locked(reaching, NEVER_NS, err);
    }
    return rc;
}

/* --- the request -------------------------------------------------------------------------------
 */

/* Caller holds the lock.  For how long, rounded up, something of the peer has not been here. */
static uint64_t lag_us_locked(const struct peer *peer)
{
    uint64_t now_ns = env_boot_ns(peer->replicator->env), oldest_ns = now_ns;

    for (uint32_t i = 0; i < peer->view_count; i++)
        oldest_ns = MIN_OF(oldest_ns, peer->views[i].fresh_ns);
    if (peer->view_count == 0 || oldest_ns == 0)
        return LAG_NEVER;
    return (now_ns - oldest_ns) / NS_PER_US + 1;
}

static void answer(struct request *req, bool is_reached, uint64_t lag_us, const struct err *why)
{
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "reached");
    json_bool(&w, is_reached);
    json_key(&w, "detail");
    json_text(&w, why->message);
    json_key(&w, "lag_us");
    if (lag_us == LAG_NEVER)
        json_put_null(&w);
    else
        json_u64(&w, lag_us);
    json_end_object(&w);
}

static enum err_code read_body(struct request *req, char name[REGION_NAME_BYTES], uint64_t *wait_ms)
{
    static const char *const NAMES[] = {"region", "wait_ms", NULL};
    const char *text = "";
    json_t *document = NULL;
    enum err_code rc = request_expect_media(req, MEDIA_JSON);

    if (rc == ERR_OK)
        rc = json_doc_parse(&document, req->body, req->body_len, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_only(document, NAMES, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_text(document, "region", &text, &req->err);
    if (rc == ERR_OK)
        rc = json_doc_u64(document, "wait_ms", 1, DEADLINE_MS_MAX, wait_ms, &req->err);
    if (rc == ERR_OK && !region_name_is_valid(text))
        rc = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/region", "no region's name");
    if (rc == ERR_OK)
        (void)snprintf(name, REGION_NAME_BYTES, "%s", text);
    json_decref(document);
    return rc;
}

enum err_code handle_reach(struct request *req)
{
    struct replicator *replicator = req->state;
    struct reaching reaching = {.replicator = replicator};
    char name[REGION_NAME_BYTES];
    struct err why = {0};
    uint64_t wait_ms = DEADLINE_MS_DEFAULT, lag_us = LAG_NEVER;
    enum err_code rc = read_body(req, name, &wait_ms);

    if (rc != ERR_OK)
        return rc;
    reaching.deadline_ns = req->received_ns + wait_ms * NS_PER_MS;
    pthread_mutex_lock(&replicator->lock);
    for (struct peer *peer = replicator->peers; peer != NULL; peer = peer->next)
        if (strcmp(peer->row.name, name) == 0)
            reaching.peer = peer;
    rc = reaching.peer == NULL ? err_set(&why, ERR_NOT_FOUND, "it is not followed")
                               : reach_enter_locked(replicator, &why);
    if (rc == ERR_OK) {
        reaching.peer->refs++;
        rc = reach_locked(&reaching, &why);
        lag_us = lag_us_locked(reaching.peer);
        peer_put_locked(reaching.peer);
        replicator->waiters--;
    }
    pthread_mutex_unlock(&replicator->lock);
    if (rc == ERR_DEAD)
        return err_set(&req->err, ERR_UNAVAILABLE, "shutting down");
    answer(req, rc == ERR_OK, lag_us, &why);
    return ERR_OK;
}
