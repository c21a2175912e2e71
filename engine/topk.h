/* Keys that order by (distance, number), and a heap that keeps the k smallest of them.
 *
 * A key is one 64-bit integer: the distance's bits, turned so that they order as the numbers do,
 * above a 32-bit number.  Comparing two keys breaks ties by the number for free, which makes
 * every result a pure function of the data. */
#ifndef VICINAL_ENGINE_TOPK_H
#define VICINAL_ENGINE_TOPK_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* NaN, which only overflow can bring forth here, counts as infinitely far. */
static inline uint32_t key_order(float distance)
{
    uint32_t bits;

    if (distance != distance)
        distance = INFINITY;
    distance += 0.0f; /* -0 and 0 are one distance */
    memcpy(&bits, &distance, sizeof(bits));
    return bits ^ ((bits >> 31) != 0 ? UINT32_MAX : UINT32_C(0x80000000));
}

static inline uint64_t key_make(float distance, uint32_t number)
{
    return (uint64_t)key_order(distance) << 32 | number;
}

static inline uint32_t key_number(uint64_t key)
{
    return (uint32_t)key;
}

static inline float key_distance(uint64_t key)
{
    uint32_t bits = (uint32_t)(key >> 32);
    float distance;

    bits ^= (bits >> 31) != 0 ? UINT32_C(0x80000000) : UINT32_MAX;
    memcpy(&distance, &bits, sizeof(distance));
    return distance;
}

/* Sort ascending; quick when they are nearly in order. */
static inline void keys_sort(uint64_t *keys, size_t count)
{
    for (size_t i = 1; i < count; i++) {
        uint64_t key = keys[i];
        size_t at = i;

        for (; at > 0 && keys[at - 1] > key; at--)
            keys[at] = keys[at - 1];
        keys[at] = key;
    }
}

/* Merge two ascending lists; into has room for both. */
static inline void keys_merge(uint64_t *into, size_t count, const uint64_t *more, size_t more_count)
{
    size_t at = count + more_count;

    while (more_count > 0) {
        if (count > 0 && into[count - 1] > more[more_count - 1])
            into[--at] = into[--count];
        else
            into[--at] = more[--more_count];
    }
}

struct topk {
    uint64_t *keys; /* max-heap: the worst one first */
    size_t count;   /* keys held */
    size_t max;     /* k */
    uint64_t limit; /* a key at or above this is not taken */
};

static inline void topk_sift(uint64_t *keys, size_t count, size_t at)
{
    uint64_t key = keys[at];

    for (;;) {
        size_t child = 2 * at + 1;

        if (child >= count)
            break;
        if (child + 1 < count && keys[child + 1] > keys[child])
            child++;
        if (keys[child] <= key)
            break;
        keys[at] = keys[child];
        at = child;
    }
    keys[at] = key;
}

static inline void topk_push(struct topk *topk, uint64_t key)
{
    if (key >= topk->limit)
        return;
    if (topk->count == topk->max) {
        topk->keys[0] = key;
        topk_sift(topk->keys, topk->count, 0);
    } else {
        size_t at = topk->count++;

        while (at > 0 && topk->keys[(at - 1) / 2] < key) {
            topk->keys[at] = topk->keys[(at - 1) / 2];
            at = (at - 1) / 2;
        }
        topk->keys[at] = key;
    }
    if (topk->count == topk->max)
        topk->limit = topk->keys[0];
}

/* Sort ascending; afterwards it is a list, no heap. */
static inline void topk_finish(struct topk *topk)
{
    for (size_t left = topk->count; left > 1; left--) {
        uint64_t worst = topk->keys[0];

        topk->keys[0] = topk->keys[left - 1];
        topk_sift(topk->keys, left - 1, 0);
        topk->keys[left - 1] = worst;
    }
}

#endif
