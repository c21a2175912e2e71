/* How fresh this replica is, and waiting until it is fresh enough.
 *
 * Every 100 ms the log's committed ends are asked.  The boot time noted before asking goes with the
 * ends: once a partition has applied its end, everything committed before that time is applied, and
 * its staleness is now minus that time.  No other machine's clock takes part.
 *
 * One round of asking at a time: whoever arrives while one is under way waits for the next, which
 * is sent after it arrived and serves all who wait then.
 *
 * A question's demand turns into positions that the partitions asked must reach.  The consumer
 * wakes all waiters with every commit; each looks for itself.  Failure modes: the deadline, too
 * many waiters, a log that does not answer: ERR_BEHIND, and the asker tries another replica. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "services/shard/shard.h"

#define ROUND_NS NS_PER_S /* a log that takes longer to tell its ends counts as away */

void freshness_reached_locked(struct shard_partition *partition)
{
    uint32_t reached = 0;

    while (reached < partition->poll_count && partition->polls[reached].end <= partition->position)
        partition->fresh_ns = partition->polls[reached++].asked_ns;
    if (reached == 0)
        return;
    partition->poll_count -= reached;
    memmove(partition->polls, partition->polls + reached,
            partition->poll_count * sizeof(partition->polls[0]));
}

uint64_t freshness_of_locked(const struct shard *shard, uint32_t slot, uint64_t now_ns)
{
    uint64_t fresh_ns = shard->partitions[slot].fresh_ns;

    if (fresh_ns == 0)
        return NEVER_NS;
    return now_ns > fresh_ns ? now_ns - fresh_ns : 0;
}

/* When all places are taken the newest gives way: the oldest is the one that is reached first. */
void freshness_note_locked(struct shard_partition *partition, uint64_t asked_ns, uint64_t end)
{
    if (partition->poll_count == POLLS_KEPT)
        partition->poll_count--;
    partition->polls[partition->poll_count++] =
        (struct shard_poll){.asked_ns = asked_ns, .end = end};
    freshness_reached_locked(partition);
}

/* Ask the ends, until deadline_ns at the latest; the caller has opened the round. */
static void ask_ends(struct shard *shard, uint64_t deadline_ns)
{
    uint32_t partitions[PARTITIONS_MAX];
    uint64_t ends[PARTITIONS_MAX];
    struct err err = {0};
    struct wal *wal = shard_wal_get(shard);
    uint64_t asked_ns = env_boot_ns(shard->env);
    bool is_short = deadline_ns < asked_ns + ROUND_NS;
    enum err_code code = ERR_UNAVAILABLE;
    uint64_t generation = 0;
    uint32_t count = 0;

    if (wal != NULL) {
        pthread_mutex_lock(&shard->lock);
        count = shard->served_count;
        generation = shard->generation;
        memcpy(partitions, shard->partition_of, count * sizeof(partitions[0]));
        pthread_mutex_unlock(&shard->lock);
        code = wal_ends(wal, partitions, count, is_short ? deadline_ns : asked_ns + ROUND_NS, ends,
                        &err);
    }
    pthread_mutex_lock(&shard->lock);
    /* The shard may have begun anew meanwhile: these are not the ends of its slots then. */
    if (code == ERR_OK && generation != shard->generation)
        code = ERR_UNAVAILABLE;
    for (uint32_t slot = 0; code == ERR_OK && slot < count; slot++) {
        shard->round_ends[slot] = ends[slot];
        freshness_note_locked(&shard->partitions[slot], asked_ns, ends[slot]);
    }
    shard->round_code = code;
    shard->round_was_cut = is_short && code == ERR_TIMEOUT;
    shard->rounds_ended = shard->rounds_begun;
    shard->round_is_open = false;
    env_cond_broadcast(&shard->changed);
    pthread_mutex_unlock(&shard->lock);
    if (wal != NULL)
        shard_wal_put(shard);
}

/* Wait for a round that begins now or later.  Who finds none under way asks for all, and not beyond
 * its own deadline; those who have more time left ask again then.  Errors: what the log said,
 * ERR_TIMEOUT, ERR_DEAD. */
static enum err_code await_round(struct shard *shard, uint64_t deadline_ns)
{
    enum err_code code = ERR_OK;
    uint64_t wanted;

    pthread_mutex_lock(&shard->lock);
    wanted = shard->rounds_begun + 1;
    while (code == ERR_OK && shard->rounds_ended < wanted) {
        if (shard_is_stopping(shard)) {
            code = ERR_DEAD;
        } else if (!shard->round_is_open) {
            shard->round_is_open = true;
            shard->rounds_begun++;
            pthread_mutex_unlock(&shard->lock);
            ask_ends(shard, deadline_ns);
            pthread_mutex_lock(&shard->lock);
        } else {
            code = env_cond_wait(&shard->changed, &shard->lock, deadline_ns);
        }
        if (shard->rounds_ended >= wanted && shard->round_was_cut &&
            env_boot_ns(shard->env) < deadline_ns)
            wanted = shard->rounds_begun + 1;
    }
    if (code == ERR_OK)
        code = shard->round_code;
    pthread_mutex_unlock(&shard->lock);
    return code;
}

void freshness_run(void *argument)
{
    struct shard *shard = argument;
    uint64_t every_ns = shard->setup.poll_ms * NS_PER_MS;
    uint64_t next_ns = env_boot_ns(shard->env);

    while (!shard_is_stopping(shard)) {
        uint64_t now_ns = env_boot_ns(shard->env);

        /* A log that is away is the consumer's to tell; here the staleness only grows. */
        if (await_round(shard, now_ns + ROUND_NS) == ERR_DEAD)
            return;
        next_ns = MAX_OF(next_ns + every_ns, env_boot_ns(shard->env));
        pthread_mutex_lock(&shard->lock);
        while (!shard_is_stopping(shard)) {
            enum err_code code = env_cond_wait(&shard->changed, &shard->lock, next_ns);

            if (code == ERR_DEAD) {
                pthread_mutex_unlock(&shard->lock);
                return;
            }
            if (code == ERR_TIMEOUT)
                break;
        }
        pthread_mutex_unlock(&shard->lock);
    }
}

/* --- waiting -----------------------------------------------------------------------------------
 */

/* What one question waits for. */
struct waiting {
    const struct demand *demand;
    uint64_t generation;           /* of the shard, whose slots these are */
    uint64_t fresh_from_ns;        /* fresh_ns must have reached this; 0: no matter */
    uint64_t need[PARTITIONS_MAX]; /* positions by slot */
};

/* Caller holds the lock. */
static bool foreign_is_met_locked(const struct shard *shard, const struct token_entry *entry)
{
    const struct version_entry *known;

    known = version_vector_find(&shard->partitions[shard->slot_of[entry->partition]].vector,
                                entry->region);
    return entry->position == 0 || (known != NULL && known->position >= entry->position);
}

/* Caller holds the lock.  Is the entry about a partition that is served and asked? */
static bool is_concerned_locked(const struct shard *shard, const struct demand *demand,
                                const struct token_entry *entry)
{
    return entry->partition < PARTITIONS_MAX &&
           partition_set_has(&shard->served, entry->partition) &&
           partition_set_has(demand->asked, entry->partition);
}

/* Caller holds the lock. */
static bool is_met_locked(const struct shard *shard, const struct waiting *waiting)
{
    const struct demand *demand = waiting->demand;

    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        const struct shard_partition *partition = &shard->partitions[slot];

        if (!partition_set_has(demand->asked, shard->partition_of[slot]))
            continue;
        if (partition->position < waiting->need[slot] ||
            partition->fresh_ns < waiting->fresh_from_ns)
            return false;
    }
    for (size_t i = 0; i < demand->token->count; i++) {
        const struct token_entry *entry = &demand->token->entries[i];

        if (entry->region != shard->region && is_concerned_locked(shard, demand, entry) &&
            !foreign_is_met_locked(shard, entry))
            return false;
    }
    return true;
}

/* Caller holds the lock. */
static bool region_is_known_locked(const struct shard *shard, uint32_t region)
{
    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        if (version_vector_find(&shard->partitions[slot].vector, region) != NULL)
            return true;
    }
    return false;
}

/* Caller holds the lock.  The token's own positions into need. */
static enum err_code read_token_locked(const struct shard *shard, struct waiting *waiting,
                                       struct err *err)
{
    const struct demand *demand = waiting->demand;
    const struct token_entry *known = NULL; /* of the region looked up last: they are sorted */

    for (size_t i = 0; i < demand->token->count; i++) {
        const struct token_entry *entry = &demand->token->entries[i];

        if (entry->region == shard->region) {
            if (entry->partition >= shard->partitions_all)
                return err_set_at(err, ERR_INVALID_ARGUMENT, "/read_token",
                                  "the token names partition %u of %u", entry->partition,
                                  shard->partitions_all);
            if (is_concerned_locked(shard, demand, entry))
                waiting->need[shard->slot_of[entry->partition]] = entry->position;
        } else if (known == NULL || entry->region != known->region) {
            if (!region_is_known_locked(shard, entry->region))
                return err_set_at(err, ERR_TOKEN_LOG_GONE, "/read_token",
                                  "the token is of log %u, which is not known here", entry->region);
            known = entry;
        }
    }
    return ERR_OK;
}

/* Caller holds the lock.  A round has been asked: the ends bound what a token may want, and are
 * what a fresh read needs. */
static enum err_code use_ends_locked(const struct shard *shard, struct waiting *waiting,
                                     struct err *err)
{
    for (uint32_t slot = 0; slot < shard->served_count; slot++) {
        uint64_t end = MAX_OF(shard->round_ends[slot], shard->partitions[slot].position);

        if (waiting->need[slot] > end)
            return err_set_at(err, ERR_TOKEN_LOG_GONE, "/read_token",
                              "the token wants offset %llu of partition %u, whose log ends at %llu",
                              (unsigned long long)waiting->need[slot], shard->partition_of[slot],
                              (unsigned long long)end);
        if (waiting->demand->fresh)
            waiting->need[slot] = MAX_OF(waiting->need[slot], shard->round_ends[slot]);
    }
    return ERR_OK;
}

/* Caller holds the lock. */
static enum err_code check_state_locked(const struct shard *shard, const struct waiting *waiting,
                                        struct err *err)
{
    if (shard_is_stopping(shard))
        return err_set(err, ERR_UNAVAILABLE, "the shard is shutting down");
    if (!shard->is_open)
        return err_set(err, ERR_UNAVAILABLE, "the shard is starting: %s", shard->detail);
    /* It has begun anew, maybe with other partitions in its slots. */
    if (waiting->generation != shard->generation)
        return err_set(err, ERR_UNAVAILABLE, "the shard has begun anew");
    return ERR_OK;
}

/* Caller holds the lock. */
static enum err_code wait_locked(struct shard *shard, const struct waiting *waiting,
                                 struct err *err)
{
    enum err_code code = ERR_OK;

    if (is_met_locked(shard, waiting))
        return ERR_OK;
    if (shard->waiters >= shard->setup.waiters_max)
        return err_set(err, ERR_BEHIND, "behind, and %u questions wait already", shard->waiters);
    shard->waiters++;
    env_cond_signal(&shard->wanted);
    while (code == ERR_OK && !is_met_locked(shard, waiting)) {
        code = env_cond_wait(&shard->changed, &shard->lock, waiting->demand->deadline_ns);
        if (code == ERR_TIMEOUT)
            code = err_set(err, ERR_BEHIND, "still behind at the deadline");
        else if (code == ERR_OK)
            code = check_state_locked(shard, waiting, err);
        else
            code = err_set(err, code, "the node is gone");
    }
    shard->waiters--;
    return code;
}

enum err_code freshness_await(struct shard *shard, const struct demand *demand, struct err *err)
{
    struct waiting waiting = {.demand = demand};
    enum err_code code;
    bool is_met;

    if (demand->max_staleness_ns != NEVER_NS)
        waiting.fresh_from_ns = demand->arrived_ns > demand->max_staleness_ns
                                    ? demand->arrived_ns - demand->max_staleness_ns
                                    : 1;
    pthread_mutex_lock(&shard->lock);
    waiting.generation = shard->generation;
    code = check_state_locked(shard, &waiting, err);
    if (code == ERR_OK)
        code = read_token_locked(shard, &waiting, err);
    is_met = code == ERR_OK && !demand->fresh && is_met_locked(shard, &waiting);
    pthread_mutex_unlock(&shard->lock);
    if (code != ERR_OK || is_met)
        return code;
    if (await_round(shard, demand->deadline_ns) != ERR_OK)
        return err_set(err, ERR_BEHIND, "the log's end cannot be asked");
    pthread_mutex_lock(&shard->lock);
    code = check_state_locked(shard, &waiting, err);
    if (code == ERR_OK)
        code = use_ends_locked(shard, &waiting, err);
    if (code == ERR_OK)
        code = wait_locked(shard, &waiting, err);
    pthread_mutex_unlock(&shard->lock);
    return code;
}
