/* The result cache: what an entry may answer, and how entries look.
 *
 * An entry is the encoded matches and the positions that they were computed at (E).  Replicas tell
 * every 100 ms how far they are (K) and where each collection changed last.  An entry counts as
 * computed at K if nothing of the collection lies in (E, K]; it serves a read if it then covers
 * what that read must see.  Keys name the life of the log, the incarnation and the map, so that
 * entries of another one are never found.  A cache that forgets or is away is a miss.
 *
 * Entry: u8 version, token E, then the JSON of the matches. */
#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "services/router/search.h"

#define ENTRY_VERSION 1
#define KEY_VERSION   2
#define ENTRY_TTL_MS  30000

void cached_look(struct cached_now *now, struct cluster *cluster,
                 const struct collection *collection)
{
    struct shard_map map;

    now->region = 0;
    now->partitions = 0;
    if (!cluster_map(cluster, &map))
        return;
    now->partitions = map.partitions;
    now->map_version = map.version;
    now->region = cluster_known(cluster, collection->incarnation, now->known);
}

/* Does the entry, taken as computed at max(E, K) in this partition, hold? */
static bool holds(const struct cluster_known *known, uint64_t computed)
{
    return known->heard && (computed >= known->position || computed >= known->last_change);
}

/* Everything that the read demands is covered by what the entry then stands for. */
static bool covers(const struct token *seen, uint64_t staleness_ns,
                   const struct consistency *consistency)
{
    if (consistency->fresh || staleness_ns == NEVER_NS ||
        staleness_ns > consistency->max_staleness_ns)
        return false;
    for (size_t i = 0; i < consistency->demands.count; i++) {
        const struct token_entry *entry = &consistency->demands.entries[i];

        if (token_position(seen, entry->region, entry->partition) < entry->position)
            return false;
        /* An entry of position 0 must still be of a log and a partition that exist. */
        if (entry->position == 0)
            return false;
    }
    return true;
}

bool cached_serves(const struct cached_now *now, const struct token *computed,
                   const struct consistency *consistency, uint64_t *staleness_ns,
                   struct token *seen)
{
    struct err ignored = {0};
    uint64_t staleness = 0;

    if (now->region == 0 || now->partitions == 0)
        return false;
    for (uint32_t p = 0; p < now->partitions; p++) {
        const struct cluster_known *known = &now->known[p];

        if (!holds(known, token_position(computed, now->region, p)))
            return false;
        staleness = MAX_OF(staleness, known->staleness_ns);
    }
    if (token_merge(seen, computed, &ignored) != ERR_OK)
        return false;
    for (uint32_t p = 0; p < now->partitions; p++)
        if (now->known[p].data > 0 &&
            token_raise(seen, now->region, p, now->known[p].data, &ignored) != ERR_OK)
            return false;
    *staleness_ns = staleness;
    return covers(seen, staleness, consistency);
}

struct hash128 cached_key(const struct cached_now *now, const struct collection *collection,
                          const struct search_request *request)
{
    struct buffer key = {0};
    struct hash128 hash = {0};
    uint64_t threshold_bits = 0, lambda_bits = 0, recall_bits = 0;

    assert(request->vector != NULL);
    memcpy(&threshold_bits, &request->threshold, sizeof(threshold_bits));
    memcpy(&lambda_bits, &request->mmr.lambda, sizeof(lambda_bits));
    memcpy(&recall_bits, &request->recall, sizeof(recall_bits));
    buffer_reserve(&key, 256 + (size_t)request->dim * sizeof(float) + request->filter.len);
    buffer_append_byte(&key, KEY_VERSION);
    buffer_append_u32(&key, now->region);
    buffer_append_u64(&key, now->map_version);
    buffer_append_u32(&key, (uint32_t)strlen(collection->tenant));
    buffer_append_text(&key, collection->tenant);
    buffer_append(&key, collection->incarnation, INCARNATION_BYTES);
    buffer_append_u64(&key, request->top_k);
    buffer_append_u64(&key, request->offset);
    buffer_append_u32(&key, request->include);
    buffer_append_byte(&key, request->has_threshold ? 1 : 0);
    buffer_append_u64(&key, request->has_threshold ? threshold_bits : 0);
    buffer_append_byte(&key, request->mmr.wanted ? 1 : 0);
    buffer_append_u64(&key, request->mmr.wanted ? lambda_bits : 0);
    buffer_append_u64(&key, search_request_fetch(request));
    buffer_append_byte(&key, request->exact ? 1 : 0);
    buffer_append_u64(&key, request->ef);
    buffer_append_u64(&key, recall_bits);
    buffer_append_u32(&key, request->dim);
    buffer_append(&key, request->vector, (size_t)request->dim * sizeof(float));
    /* The filter's own text: the same filter written otherwise is only another entry. */
    buffer_append(&key, request->filter.data, request->filter.len);
    if (!key.failed)
        hash = hash_xxh128(key.data, key.len);
    buffer_free(&key);
    return hash;
}

bool cached_get(struct cache *cache, struct hash128 key, const struct cached_now *now,
                const struct consistency *consistency, struct cached_answer *out)
{
    struct bytes_reader reader = {0};
    struct token computed = {0};
    struct err ignored = {0};
    bool serves = false;

    if (now->region == 0 || (key.low == 0 && key.high == 0))
        return false;
    if (!cache_get(cache, key, &out->entry) || out->entry.failed)
        return false;
    reader = (struct bytes_reader){.data = out->entry.data, .len = out->entry.len};
    if (read_u8(&reader) == ENTRY_VERSION && token_decode(&computed, &reader, &ignored) == ERR_OK) {
        out->matches = out->entry.data + reader.at;
        out->matches_len = out->entry.len - reader.at;
        serves = out->matches_len >= 2 &&
                 cached_serves(now, &computed, consistency, &out->staleness_ns, &out->seen);
    }
    token_free(&computed);
    return serves;
}

void cached_answer_free(struct cached_answer *answer)
{
    buffer_free(&answer->entry);
    token_free(&answer->seen);
    *answer = (struct cached_answer){0};
}

void cached_put(struct cache *cache, struct hash128 key, const struct token *seen,
                const void *matches, size_t matches_len)
{
    struct buffer entry = {0};

    assert(matches_len >= 2);
    if (key.low == 0 && key.high == 0)
        return;
    buffer_append_byte(&entry, ENTRY_VERSION);
    token_encode(seen, &entry);
    buffer_append(&entry, matches, matches_len);
    if (!entry.failed)
        cache_put(cache, key, entry.data, entry.len, ENTRY_TTL_MS);
    buffer_free(&entry);
}
