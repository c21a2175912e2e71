/* A peer's thread: connect, follow, ship, and again after every failure.
 *
 * Connecting opens the peer's log, learns whose it is, and asks our ingest where to go on.  From
 * then on: read what there is, ship it, look how far behind that is.  A failure closes everything
 * and begins anew after a pause that doubles; nothing is ever skipped. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/replicator/replicator.h"

static const char *const STATES[] = {
    [PEER_CONNECTING] = "connecting",   [PEER_FOLLOWING] = "following",
    [PEER_CATCHING_UP] = "catching_up", [PEER_AWAY] = "away",
    [PEER_REFUSED] = "refused",         [PEER_STUCK] = "stuck"};

const char *peer_state_text(enum peer_state state)
{
    return STATES[state];
}

bool peer_is_stopping(const struct peer *peer)
{
    return atomic_load(&peer->stopping) || atomic_load(&peer->replicator->stopping);
}

/* Said once for each change. */
void peer_set_state(struct peer *peer, enum peer_state state, const struct err *err)
{
    struct replicator *replicator = peer->replicator;
    const struct log_context context = {.operation = "replication"};
    const char *detail = err == NULL ? "" : err->message;
    bool is_news;

    pthread_mutex_lock(&replicator->lock);
    is_news = peer->state != state || strcmp(peer->detail, detail) != 0;
    peer->state = state;
    (void)snprintf(peer->detail, sizeof(peer->detail), "%s", detail);
    pthread_mutex_unlock(&replicator->lock);
    if (is_news && err != NULL)
        LOG_AT(state == PEER_AWAY ? LOG_WARN : LOG_ERROR, &context, "a region is not followed",
               LOG_TEXT("region", peer->row.name), LOG_TEXT("state", STATES[state]),
               LOG_TEXT("error", detail));
    else if (is_news)
        log_info(&context, "a region is followed", LOG_TEXT("region", peer->row.name),
                 LOG_TEXT("state", STATES[state]));
}

enum err_code peer_pause(struct peer *peer, uint64_t ns)
{
    struct replicator *replicator = peer->replicator;
    uint64_t until_ns = env_boot_ns(replicator->env) + ns;
    enum err_code rc = ERR_OK;

    pthread_mutex_lock(&replicator->lock);
    while (rc == ERR_OK && !peer_is_stopping(peer))
        rc = env_cond_wait(&replicator->changed, &replicator->lock, until_ns);
    pthread_mutex_unlock(&replicator->lock);
    return rc == ERR_DEAD || peer_is_stopping(peer) ? ERR_DEAD : ERR_OK;
}

/* --- connecting --------------------------------------------------------------------------------
 */

static void disconnect(struct peer *peer)
{
    if (peer->reader != NULL)
        wal_reader_close(peer->reader);
    reach_close(peer);
    for (uint32_t i = 0; i < peer->partitions && peer->lines != NULL; i++) {
        buffer_free(&peer->lines[i].run.records);
        buffer_free(&peer->lines[i].run.clocks);
    }
    free(peer->lines);
    peer->reader = NULL;
    peer->lines = NULL;
    peer->partitions = 0;
    peer->run_bytes = 0;
    peer->item_at = peer->item_count = 0;
    peer->are_ends_told = false;
}

/* What the peer's log holds of a former log of ours says nothing about this one. */
static void note_own_number(struct peer *peer, uint32_t number)
{
    struct replicator *replicator = peer->replicator;

    pthread_mutex_lock(&replicator->lock);
    for (uint32_t i = 0; peer->own_number != number && i < peer->view_count; i++)
        peer->views[i].held = 0;
    peer->own_number = number;
    pthread_mutex_unlock(&replicator->lock);
}

/* Is this a log that we can follow? */
static enum err_code check_log(struct peer *peer, struct err *err)
{
    uint32_t partitions, number;
    enum err_code rc = region_deployment(peer->replicator->setup.meta, &partitions, &number, err);

    if (rc == ERR_NOT_FOUND)
        return err_set(err, ERR_UNAVAILABLE, "our own log has not been opened yet");
    if (rc != ERR_OK)
        return rc;
    if (wal_region(peer->wal) == number)
        return err_set(err, ERR_CONFIG, "region %s: its log is our own: check its wal_url",
                       peer->row.name);
    if (wal_partitions(peer->wal) != partitions)
        return err_set(err, ERR_CONFIG,
                       "region %s has %u partitions and we have %u: regions must have the same "
                       "number, which is fixed when a deployment is made",
                       peer->row.name, wal_partitions(peer->wal), partitions);
    note_own_number(peer, number);
    return ERR_OK;
}

static enum err_code make_room(struct peer *peer, struct err *err)
{
    struct replicator *replicator = peer->replicator;
    struct line_view *views = array_alloc(peer->partitions, sizeof(*views));
    uint64_t *ends = array_alloc(peer->partitions, sizeof(*ends));

    peer->lines = array_alloc(peer->partitions, sizeof(*peer->lines));
    if (peer->lines == NULL || views == NULL || ends == NULL) {
        free(views);
        free(ends);
        return err_set(err, ERR_NO_MEMORY, "no memory for a peer");
    }
    memset(peer->lines, 0, peer->partitions * sizeof(*peer->lines));
    memset(views, 0, peer->partitions * sizeof(*views));
    pthread_mutex_lock(&replicator->lock);
    /* What was known of this log is known still, while it is away and after. */
    if (peer->view_number == peer->number && peer->view_count == peer->partitions) {
        free(views);
        free(ends);
    } else {
        free(peer->views);
        free(peer->round_ends);
        peer->views = views;
        peer->round_ends = ends;
        peer->view_count = peer->partitions;
        peer->view_number = peer->number;
        peer->round_err = (struct err){.code = ERR_UNAVAILABLE}; /* the ends were another log's */
    }
    for (uint32_t i = 0; i < peer->partitions; i++) {
        peer->lines[i].fresh_ns = peer->views[i].fresh_ns;
        peer->lines[i].held = peer->views[i].held;
    }
    pthread_mutex_unlock(&replicator->lock);
    return ERR_OK;
}

/* The number of the log goes into the row, for people and for other services. */
static enum err_code tell_number(struct peer *peer, struct err *err)
{
    struct region_row row = peer->row;

    if (row.number == peer->number)
        return ERR_OK;
    row.number = peer->row.number = peer->number;
    return region_write(peer->replicator->setup.meta, &row, err);
}

static enum err_code connect_peer(struct peer *peer, struct err *err)
{
    const struct replicator_setup *setup = &peer->replicator->setup;
    enum err_code rc = setup->open_wal(setup->open_wal_context, peer->row.wal_url, &peer->wal, err);

    if (rc == ERR_OK)
        rc = check_log(peer, err);
    if (rc != ERR_OK)
        return rc;
    peer->number = wal_region(peer->wal);
    peer->partitions = wal_partitions(peer->wal);
    rc = make_room(peer, err);
    if (rc == ERR_OK)
        rc = tell_number(peer, err);
    if (rc == ERR_OK)
        rc = ship_positions(peer, err);
    if (rc == ERR_OK)
        rc = follow_open(peer, err);
    return rc == ERR_OK ? reach_open(peer, err) : rc;
}

/* --- following ---------------------------------------------------------------------------------
 */

/* When something must be done at the latest, though nothing is read: a position that waits, the
 * ends. */
static uint64_t next_duty(const struct peer *peer)
{
    uint64_t due_ns = peer->ends_ns + ENDS_EVERY;

    for (uint32_t i = 0; i < peer->partitions; i++)
        if (peer->lines[i].has_data)
            due_ns = MIN_OF(due_ns, peer->lines[i].shipped_ns + POSITION_EVERY);
    return due_ns;
}

static enum err_code follow(struct peer *peer, uint64_t *pause_ns, struct err *err)
{
    enum err_code rc = ERR_OK;

    while (rc == ERR_OK && !peer_is_stopping(peer)) {
        rc = follow_read(peer, next_duty(peer), err);
        /* Writes that wait for the peer to have them are not to wait for what we ship: their
         * waiting takes up the ingest's workers. */
        reach_publish(peer);
        if (rc == ERR_OK)
            rc = ship_due(peer, err);
        reach_publish(peer);
        if (rc == ERR_OK)
            rc = lag_poll(peer, err);
        if (rc == ERR_OK) {
            lag_publish(peer);
            *pause_ns = RETRY_MIN_NS;
        }
        if (rc == ERR_OK && atomic_exchange(&peer->is_outdated, false))
            rc = err_set(err, ERR_UNAVAILABLE, "our own log was replaced");
    }
    return rc;
}

static enum peer_state state_after(enum err_code code)
{
    switch (code) {
    case ERR_CONFIG:
        return PEER_REFUSED;
    case ERR_INVALID_ARGUMENT: /* the ingest does not take a record */
    case ERR_NOT_FOUND:        /* the log no longer holds what we lack */
    case ERR_CORRUPT:
        return PEER_STUCK;
    default:
        return PEER_AWAY;
    }
}

void peer_run(void *argument)
{
    struct peer *peer = argument;
    uint64_t pause_ns = RETRY_MIN_NS;

    peer->items = array_alloc(READ_ITEMS_MAX, sizeof(*peer->items));
    while (!peer_is_stopping(peer)) {
        struct err err = {0};
        enum err_code rc = peer->items == NULL
                               ? err_set(&err, ERR_NO_MEMORY, "no memory for a peer")
                               : connect_peer(peer, &err);

        if (rc == ERR_NOT_FOUND && peer->wal == NULL)
            rc = err_set(&err, ERR_UNAVAILABLE, "there is no log at its wal_url yet");
        if (rc == ERR_OK)
            rc = follow(peer, &pause_ns, &err);
        disconnect(peer);
        if (rc == ERR_DEAD || peer_is_stopping(peer))
            break;
        /* A gap is mended by asking anew. */
        if (rc != ERR_OK && rc != ERR_VERSION_CONFLICT)
            peer_set_state(peer, state_after(rc), &err);
        if (peer_pause(peer, pause_ns) != ERR_OK)
            break;
        pause_ns = MIN_OF(pause_ns * 2, RETRY_MAX_NS);
    }
    free(peer->items);
}
