/* The busy-id table: a hash table of counted locks; see busy.h.
 *
 * One mutex guards the whole table: sections are short.  Each key has a queue in the order of
 * arrival, and who gives the key up hands it to the head of that queue: a newcomer never overtakes,
 * so that nobody starves at a key that many write.  Waiters sleep on one of a few conditions,
 * chosen by the key's hash, until theirs was handed over. */
#include "services/ingest/busy.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"

#define BUSY_BUCKETS 4096 /* a power of two */
#define BUSY_STRIPES 64   /* a power of two */

/* Lives on its thread's stack, in the queue until the key was handed over or given up on. */
struct waiter {
    struct waiter *next;
    enum busy_mode mode;
    bool has;
};

struct busy_entry {
    struct busy_entry *next;
    struct waiter *first;
    uint64_t hash;
    uint32_t sharers;
    bool alone;
    uint8_t incarnation[INCARNATION_BYTES];
    size_t len;
    char id[];
};

struct busy {
    struct env *env;
    pthread_mutex_t lock;
    struct env_cond given_up[BUSY_STRIPES];
    struct busy_entry *buckets[BUSY_BUCKETS];
    size_t count;
    size_t waiting; /* threads, over all keys */
};

enum err_code busy_open(struct busy **out, struct env *env, struct err *err)
{
    struct busy *busy = calloc(1, sizeof(*busy));

    *out = NULL;
    if (busy == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the busy-id table");
    busy->env = env;
    pthread_mutex_init(&busy->lock, NULL);
    for (size_t i = 0; i < BUSY_STRIPES; i++)
        env_cond_init(env, &busy->given_up[i]);
    *out = busy;
    return ERR_OK;
}

void busy_close(struct busy *busy)
{
    if (busy == NULL)
        return;
    assert(busy->count == 0);
    for (size_t i = 0; i < BUSY_STRIPES; i++)
        env_cond_free(&busy->given_up[i]);
    pthread_mutex_destroy(&busy->lock);
    free(busy);
}

static int key_compare(const void *left, const void *right)
{
    const struct busy_key *a = left, *b = right;
    int order = memcmp(a->incarnation, b->incarnation, INCARNATION_BYTES);
    size_t len = MIN_OF(a->len, b->len);

    if (order == 0 && len > 0)
        order = memcmp(a->id, b->id, len);
    if (order != 0)
        return order;
    return a->len < b->len ? -1 : a->len > b->len;
}

static size_t unique_keys(struct busy_key *keys, size_t count)
{
    size_t kept = 0;

    if (count > 0) /* there may be no keys at all, nor memory for them */
        qsort(keys, count, sizeof(*keys), key_compare);
    for (size_t i = 0; i < count; i++) {
        if (kept > 0 && key_compare(&keys[kept - 1], &keys[i]) == 0) {
            if (keys[i].mode == BUSY_ALONE)
                keys[kept - 1].mode = BUSY_ALONE;
            continue;
        }
        keys[kept++] = keys[i];
    }
    return kept;
}

static struct busy_entry **find_locked(struct busy *busy, const struct busy_key *key, uint64_t hash)
{
    struct busy_entry **at = &busy->buckets[hash & (BUSY_BUCKETS - 1)];

    while (*at != NULL && ((*at)->hash != hash || (*at)->len != key->len ||
                           memcmp((*at)->incarnation, key->incarnation, INCARNATION_BYTES) != 0 ||
                           (key->len > 0 && memcmp((*at)->id, key->id, key->len) != 0)))
        at = &(*at)->next;
    return at;
}

static struct busy_entry *entry_locked(struct busy *busy, const struct busy_key *key)
{
    uint64_t hash = hash_xxh64(key->len == 0 ? "" : key->id, key->len, load_u64(key->incarnation));
    struct busy_entry **at = find_locked(busy, key, hash);
    struct busy_entry *entry;

    if (*at != NULL)
        return *at;
    entry = calloc(1, sizeof(*entry) + key->len);
    if (entry == NULL)
        return NULL;
    entry->hash = hash;
    entry->len = key->len;
    memcpy(entry->incarnation, key->incarnation, INCARNATION_BYTES);
    if (key->len > 0)
        memcpy(entry->id, key->id, key->len);
    *at = entry;
    busy->count++;
    return entry;
}

/* Nobody has it or wants it: forget it. */
static void drop_locked(struct busy *busy, struct busy_entry *entry)
{
    struct busy_entry **at = &busy->buckets[entry->hash & (BUSY_BUCKETS - 1)];

    if (entry->sharers > 0 || entry->alone || entry->first != NULL)
        return;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    free(entry);
    assert(busy->count > 0);
    busy->count--;
}

static struct env_cond *stripe_of(struct busy *busy, const struct busy_entry *entry)
{
    return &busy->given_up[(entry->hash >> 32) & (BUSY_STRIPES - 1)];
}

static bool hold_locked(struct busy_entry *entry, enum busy_mode mode)
{
    if (entry->alone || (mode == BUSY_ALONE && entry->sharers > 0))
        return false;
    if (mode == BUSY_ALONE)
        entry->alone = true;
    else
        entry->sharers++;
    return true;
}

/* Hand the key to as many from the head of its queue as can have it together. */
static void hand_over_locked(struct busy *busy, struct busy_entry *entry)
{
    bool handed = false;

    while (entry->first != NULL && hold_locked(entry, entry->first->mode)) {
        entry->first->has = true;
        entry->first = entry->first->next;
        handed = true;
    }
    if (handed)
        env_cond_broadcast(stripe_of(busy, entry));
}

static void leave_queue_locked(struct busy *busy, struct busy_entry *entry, struct waiter *waiter)
{
    struct waiter **at = &entry->first;

    while (*at != waiter)
        at = &(*at)->next;
    *at = waiter->next;
    hand_over_locked(busy, entry);
}

static enum err_code take_locked(struct busy *busy, struct busy_entry *entry, enum busy_mode mode,
                                 uint64_t deadline_ns)
{
    struct waiter waiter = {.mode = mode}, **last = &entry->first;
    enum err_code rc = ERR_OK;

    if (entry->first == NULL && hold_locked(entry, mode))
        return ERR_OK;
    while (*last != NULL)
        last = &(*last)->next;
    *last = &waiter;
    busy->waiting++;
    while (rc == ERR_OK && !waiter.has)
        rc = env_cond_wait(stripe_of(busy, entry), &busy->lock, deadline_ns);
    busy->waiting--;
    if (waiter.has)
        return ERR_OK; /* also when the deadline came together with the key */
    leave_queue_locked(busy, entry, &waiter);
    return rc;
}

static void give_up_locked(struct busy *busy, struct busy_entry *entry, bool alone)
{
    if (alone) {
        assert(entry->alone && entry->sharers == 0);
        entry->alone = false;
    } else {
        assert(!entry->alone && entry->sharers > 0);
        entry->sharers--;
    }
    hand_over_locked(busy, entry);
    drop_locked(busy, entry);
}

void busy_release(struct busy_claim *claim)
{
    struct busy *busy = claim->busy;

    if (busy != NULL && claim->count > 0) {
        pthread_mutex_lock(&busy->lock);
        for (size_t i = 0; i < claim->count; i++)
            give_up_locked(busy, claim->entries[i], claim->alone[i]);
        pthread_mutex_unlock(&busy->lock);
    }
    free(claim->entries);
    free(claim->alone);
    *claim = (struct busy_claim){0};
}

enum err_code busy_take(struct busy *busy, struct busy_claim *claim, struct busy_key *keys,
                        size_t count, uint64_t deadline_ns, struct err *err)
{
    enum err_code rc = ERR_OK;

    count = unique_keys(keys, count);
    *claim = (struct busy_claim){.busy = busy};
    claim->entries = array_alloc(count, sizeof(struct busy_entry *));
    claim->alone = array_alloc(count, sizeof(bool));
    if (claim->entries == NULL || claim->alone == NULL) {
        busy_release(claim);
        return err_set(err, ERR_NO_MEMORY, "no memory to take %zu ids", count);
    }
    pthread_mutex_lock(&busy->lock);
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        struct busy_entry *entry = entry_locked(busy, &keys[i]);

        rc = entry == NULL ? ERR_NO_MEMORY : take_locked(busy, entry, keys[i].mode, deadline_ns);
        if (rc == ERR_OK) {
            claim->entries[claim->count] = entry;
            claim->alone[claim->count++] = keys[i].mode == BUSY_ALONE;
        } else if (entry != NULL) {
            drop_locked(busy, entry);
        }
    }
    pthread_mutex_unlock(&busy->lock);
    if (rc == ERR_OK)
        return ERR_OK;
    busy_release(claim);
    return err_set(err, rc, "another write of the same records has not ended");
}

size_t busy_count(struct busy *busy)
{
    size_t count;

    pthread_mutex_lock(&busy->lock);
    count = busy->count;
    pthread_mutex_unlock(&busy->lock);
    return count;
}

size_t busy_waiting(struct busy *busy)
{
    size_t waiting;

    pthread_mutex_lock(&busy->lock);
    waiting = busy->waiting;
    pthread_mutex_unlock(&busy->lock);
    return waiting;
}

/* Nobody waits for what he could have. */
static bool is_valid(const struct busy_entry *entry)
{
    if (entry->alone)
        return entry->sharers == 0;
    if (entry->sharers == 0)
        return false;
    return entry->first == NULL || entry->first->mode == BUSY_ALONE;
}

bool busy_validate(struct busy *busy)
{
    size_t count = 0;
    bool valid = true;

    pthread_mutex_lock(&busy->lock);
    for (size_t i = 0; i < BUSY_BUCKETS; i++)
        for (const struct busy_entry *entry = busy->buckets[i]; entry != NULL;
             entry = entry->next) {
            count++;
            valid = valid && (entry->hash & (BUSY_BUCKETS - 1)) == i;
            valid = valid && is_valid(entry);
        }
    valid = valid && count == busy->count;
    pthread_mutex_unlock(&busy->lock);
    return valid;
}
