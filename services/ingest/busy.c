/* The busy-id table: a hash table of counted locks; see busy.h.
 *
 * One mutex guards the whole table: sections are short.  Waiters sleep on one of a few conditions,
 * chosen by the key's hash, and look again when anything there was given up. */
#include "services/ingest/busy.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"

#define BUSY_BUCKETS 4096 /* a power of two */
#define BUSY_STRIPES 64   /* a power of two */

struct busy_entry {
    struct busy_entry *next;
    uint64_t hash;
    uint32_t sharers;
    uint32_t waiters; /* of both kinds */
    uint32_t alone_waiters;
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

    if (entry->sharers > 0 || entry->alone || entry->waiters > 0)
        return;
    while (*at != entry)
        at = &(*at)->next;
    *at = entry->next;
    free(entry);
    assert(busy->count > 0);
    busy->count--;
}

static bool is_free(const struct busy_entry *entry, enum busy_mode mode)
{
    if (mode == BUSY_ALONE)
        return !entry->alone && entry->sharers == 0;
    return !entry->alone && entry->alone_waiters == 0;
}

static struct env_cond *stripe_of(struct busy *busy, const struct busy_entry *entry)
{
    return &busy->given_up[(entry->hash >> 32) & (BUSY_STRIPES - 1)];
}

static enum err_code take_locked(struct busy *busy, struct busy_entry *entry, enum busy_mode mode,
                                 uint64_t deadline_ns)
{
    enum err_code rc = ERR_OK;

    if (!is_free(entry, mode)) {
        entry->waiters++;
        entry->alone_waiters += mode == BUSY_ALONE;
        while (rc == ERR_OK && !is_free(entry, mode))
            rc = env_cond_wait(stripe_of(busy, entry), &busy->lock, deadline_ns);
        entry->waiters--;
        entry->alone_waiters -= mode == BUSY_ALONE;
        /* Sharers that let this one go first may try again, however it went. */
        if (mode == BUSY_ALONE && entry->waiters > 0)
            env_cond_broadcast(stripe_of(busy, entry));
        if (rc == ERR_TIMEOUT && is_free(entry, mode))
            rc = ERR_OK;
    }
    if (rc != ERR_OK)
        return rc;
    if (mode == BUSY_ALONE)
        entry->alone = true;
    else
        entry->sharers++;
    return ERR_OK;
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
    if (entry->waiters > 0 && entry->sharers == 0)
        env_cond_broadcast(stripe_of(busy, entry));
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
            valid = valid && !(entry->alone && entry->sharers > 0);
            valid = valid && entry->waiters >= entry->alone_waiters;
            valid = valid && (entry->alone || entry->sharers > 0 || entry->waiters > 0);
        }
    valid = valid && count == busy->count;
    pthread_mutex_unlock(&busy->lock);
    return valid;
}
