/* Which neighbours a node keeps: the heuristic of the paper's algorithm 4.
 *
 * A candidate is kept when no kept one is nearer to it than the base is: links then point in all
 * directions instead of at one crowd.  Room that is left is filled with the nearest of the rest,
 * for a longer list costs no more to fetch.  Differs from the paper: tree links always stay. */
#include <assert.h>

#include "common/base/checked.h"
#include "engine/hnsw.h"

enum { CANDIDATES_MAX = 2048 + BATCH_MAX, LINKS_MAX = 256, ABREAST = 4, MEASURED = 8 };

void keys_measure(const struct graph *graph, uint32_t base, uint64_t *keys, size_t count)
{
    const uint8_t *rows[MEASURED];
    float distances[MEASURED];

    for (size_t i = 0; i < count && i < MEASURED; i++)
        prefetch_fine(graph, key_number(keys[i]));
    for (size_t i = 0; i < count; i += MEASURED) {
        size_t some = MIN_OF(count - i, (size_t)MEASURED);

        for (size_t j = 0; j < some; j++) {
            if (i + j + MEASURED < count)
                prefetch_fine(graph, key_number(keys[i + j + MEASURED]));
            rows[j] = fine_of(graph, key_number(keys[i + j]));
        }
        pair_distances(graph, base, rows, some, distances);
        for (size_t j = 0; j < some; j++)
            keys[i + j] = key_make(distances[j], key_number(keys[i + j]));
    }
}

static bool in_tree(const struct prune *prune, uint32_t slot)
{
    for (size_t i = 0; i < prune->tree_count; i++)
        if (prune->tree[i] == slot)
            return true;
    return false;
}

/* Compared with some at a time: often one of the first kept ones is nearer already. */
static bool is_diverse(const struct prune *prune, uint64_t key, const uint8_t *const *kept,
                       size_t kept_count)
{
    uint32_t order = (uint32_t)(key >> 32);
    float distances[ABREAST];

    for (size_t i = 0; i < kept_count; i += ABREAST) {
        size_t count = MIN_OF(kept_count - i, (size_t)ABREAST);
        bool is_nearer = false;

        pair_distances(prune->graph, key_number(key), kept + i, count, distances);
        for (size_t j = 0; j < count; j++)
            is_nearer |= key_order(distances[j]) < order;
        if (is_nearer)
            return false;
    }
    return true;
}

size_t prune_select(const struct prune *prune)
{
    const uint8_t *kept[LINKS_MAX]; /* their codes */
    bool is_kept[CANDIDATES_MAX] = {false};
    size_t kept_count = 0;
    size_t reserved = prune->tree_count;
    size_t out = 0;

    assert(prune->count <= CANDIDATES_MAX && prune->max <= LINKS_MAX);
    assert(prune->tree_count <= prune->max);
    for (size_t i = 0; i < prune->count && kept_count < prune->max; i++) {
        uint64_t key = prune->keys[i];

        if (reserved > 0 && in_tree(prune, key_number(key)))
            reserved--;
        else if (kept_count + reserved >= prune->max || !is_diverse(prune, key, kept, kept_count))
            continue;
        kept[kept_count++] = fine_of(prune->graph, key_number(key));
        is_kept[i] = true;
    }
    assert(reserved == 0);
    for (size_t i = 0; i < prune->count && kept_count < prune->fill; i++) {
        if (is_kept[i])
            continue;
        is_kept[i] = true;
        kept_count++;
    }
    for (size_t i = 0; i < prune->count; i++)
        if (is_kept[i])
            prune->keys[out++] = prune->keys[i];
    assert(out == kept_count);
    return out;
}
