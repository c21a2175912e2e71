/* Maintenance of the engines: graphs that leave their dead behind, or the oldest of their vectors,
 * which become cold, and segments, so that a restart finds them linked.  One collection at a time,
 * on a thread of its own, for it may take minutes.
 *
 * Happy path: ask every engine once a second whether something is due; have it done; before a new
 * segment takes its place, wait until a commit has followed on all that the engine was told and
 * sync the store.  Then no ordinal of the segment can ever be given to another vector, nor a
 * deletion that it knows of be undone, by whatever crash.
 *
 * Work ends early when the shard stops or the collection leaves, and nothing is lost then.
 *
 * Failure modes: no memory, a full disk, a store that cannot be synced: logged, counted, and tried
 * again after a second, then after twice as long each time, up to five minutes.  The engine is as
 * it was, and a restart links more anew. */
#include <assert.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/log.h"
#include "services/shard/shard.h"

#define PAUSE_LEAST_NS NS_PER_S
#define PAUSE_MOST_NS  (300 * NS_PER_S)
#define COMMIT_WAIT_NS (10 * NS_PER_S)

enum {
    NICE = 5,
    REST_LOOKS = 5, /* without anything new in the graph: it rests */
};

struct work {
    struct shard *shard;
    struct shard_collection *entry;
};

static bool go_on(void *state)
{
    const struct work *work = state;

    return !shard_is_stopping(work->shard) && !atomic_load(&work->entry->is_leaving);
}

/* Until the store has committed every ordinal that the engine knew when this was called.  A batch
 * that failed is committed when it is read again, under higher ordinals. */
static enum err_code await_commit(struct work *work, struct err *err)
{
    struct shard *shard = work->shard;
    uint64_t until_ns = env_boot_ns(shard->env) + COMMIT_WAIT_NS;
    uint64_t told = atomic_load(&work->entry->floor);
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&shard->lock);
    while (code == ERR_OK && work->entry->committed < told) {
        if (!go_on(work))
            code = ERR_DEAD;
        else
            code = env_cond_wait(&shard->changed, &shard->lock, until_ns);
    }
    pthread_mutex_unlock(&shard->lock);
    if (code == ERR_TIMEOUT)
        return err_set(err, ERR_UNAVAILABLE, "the store does not commit what is in the engine");
    return code == ERR_OK ? ERR_OK : err_set(err, code, "the collection or the shard ends");
}

static enum err_code make_durable(void *state, struct err *err)
{
    struct work *work = state;
    enum err_code code = await_commit(work, err);

    return code == ERR_OK ? store_sync(work->shard->setup.store, err) : code;
}

/* False: it has left, or is not there yet. */
static bool enter(struct work *work)
{
    struct shard_collection *entry = work->entry;
    bool may;

    pthread_mutex_lock(&work->shard->lock);
    may = entry->is_published && !atomic_load(&entry->is_leaving);
    entry->is_maintained = may;
    pthread_mutex_unlock(&work->shard->lock);
    return may;
}

static void leave(struct work *work)
{
    pthread_mutex_lock(&work->shard->lock);
    assert(work->entry->is_maintained);
    work->entry->is_maintained = false;
    env_cond_broadcast(&work->shard->changed);
    pthread_mutex_unlock(&work->shard->lock);
}

static void put_off(struct work *work, const struct err *err)
{
    struct shard *shard = work->shard;
    struct shard_collection *entry = work->entry;
    char name[16];

    (void)snprintf(name, sizeof(name), "%u", shard->setup.shard);
    log_err(LOG_WARN, &(struct log_context){.shard_id = name, .collection = entry->definition.name},
            "a graph could not be maintained", err);
    if (shard->metrics.maintenance_failures != NULL)
        metric_add(shard->metrics.maintenance_failures, 1);
    entry->pause_ns = MAX_OF(entry->pause_ns, PAUSE_LEAST_NS);
    entry->due_ns = env_boot_ns(shard->env) + entry->pause_ns;
    entry->pause_ns = MIN_OF(2 * entry->pause_ns, PAUSE_MOST_NS);
}

/* What was loaded is not linked anew after every restart, and gives its memory back, although the
 * graph will perhaps never grow by as much as makes it worth writing while it grows. */
static void look_at_growth(struct shard_collection *entry)
{
    uint64_t linked = engine_linked(entry->engine);

    entry->looks = linked == entry->linked ? entry->looks + 1 : 0;
    entry->linked = linked;
    if (entry->looks == REST_LOOKS)
        engine_rest(entry->engine);
}

static void maintain(struct shard *shard, struct shard_collection *entry)
{
    struct work work = {.shard = shard, .entry = entry};
    struct engine_hooks hooks = {.go_on = go_on, .state = &work};
    struct err err = {0};
    enum err_code code;

    look_at_growth(entry);
    if (env_boot_ns(shard->env) < entry->due_ns || !engine_is_due(entry->engine) || !enter(&work))
        return;
    if (entry->life != 0)
        hooks.make_durable = make_durable;
    code = engine_maintain(entry->engine, &hooks, &err);
    leave(&work);
    if (code == ERR_OK)
        entry->pause_ns = 0;
    else if (code != ERR_DEAD)
        put_off(&work, &err);
}

/* Until the next round, or an errand. */
static enum err_code rest(struct shard *shard)
{
    uint64_t until_ns = env_boot_ns(shard->env) + shard->setup.maintain_ms * NS_PER_MS;
    enum err_code code = ERR_OK;

    pthread_mutex_lock(&shard->lock);
    while (code == ERR_OK && !shard_is_stopping(shard) && shard->gone == NULL)
        code = env_cond_wait(&shard->errand, &shard->lock, until_ns);
    pthread_mutex_unlock(&shard->lock);
    return code;
}

/* Where processors are short, searches and linking go first: three times out of four.  Not less,
 * for memory waits for this work, and so may who meets one of its short locks.  On Linux a number
 * of a thread is taken as that of a process, and the thread alone is meant. */
static void yield_to_others(void)
{
    (void)setpriority(PRIO_PROCESS, (id_t)gettid(), NICE);
}

void maintain_run(void *argument)
{
    struct shard *shard = argument;

    yield_to_others();
    while (!shard_is_stopping(shard)) {
        bool is_last = false;

        for (uint32_t number = 0; !is_last && !shard_is_stopping(shard); number++) {
            struct shard_collection *entry = collections_at(shard, number, &is_last);

            if (entry != NULL)
                maintain(shard, entry);
            collections_put(shard, entry);
            collections_free_gone(shard);
        }
        if (rest(shard) == ERR_DEAD)
            return;
    }
}
