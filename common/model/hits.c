/* Merging of what shards found: see hits.h.
 *
 * A heap of the lists' heads gives the rows in order.  An id may stand in several lists (while a
 * partition moves, or is served twice) with different versions, and the newest one may lie far
 * behind: so first a table of all ids says which row of each is the newest, and the merge then
 * passes over all others.  MMR is in hits_mmr.c. */
#include "common/model/hits.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"

#define TABLE_SLOTS_LOCAL 1024 /* on the stack; more are allocated */

static int compare_ids(const struct wire_row *a, const struct wire_row *b)
{
    int order = memcmp(a->id, b->id, MIN_OF(a->id_len, b->id_len));

    if (order != 0)
        return order;
    return (a->id_len > b->id_len) - (a->id_len < b->id_len);
}

static int compare_distances(const struct wire_row *a, const struct wire_row *b)
{
    if (a->distance != b->distance)
        return a->distance < b->distance ? -1 : 1;
    return compare_ids(a, b);
}

static bool same_id(const struct wire_row *a, const struct wire_row *b)
{
    return a->id_len == b->id_len && memcmp(a->id, b->id, a->id_len) == 0;
}

/* --- the newest row of each id --------------------------------------------------------------- */

static bool replaces(const struct wire_row *row, const struct wire_row *old)
{
    int order = stamp_compare(row->stamp, old->stamp);

    return order > 0 || (order == 0 && row->distance < old->distance);
}

struct newest {
    const struct hit_list *lists;
    size_t list_count;
    const struct wire_row **slots; /* open addressing; NULL: no memory, look through the lists */
    size_t mask;                   /* number of slots - 1 */
};

/* The slot of an id: the one that holds it, or the empty one where it belongs. */
static const struct wire_row **newest_slot(const struct newest *newest, const struct wire_row *row)
{
    size_t at = hash_xxh64(row->id, row->id_len, 0) & newest->mask;

    while (newest->slots[at] != NULL && !same_id(newest->slots[at], row))
        at = (at + 1) & newest->mask;
    return &newest->slots[at];
}

static void newest_fill(struct newest *newest)
{
    for (size_t i = 0; i < newest->list_count; i++) {
        for (size_t j = 0; j < newest->lists[i].count; j++) {
            const struct wire_row *row = &newest->lists[i].rows[j];
            const struct wire_row **slot = newest_slot(newest, row);

            if (*slot == NULL || replaces(row, *slot))
                *slot = row;
        }
    }
}

static const struct wire_row *newest_of(const struct newest *newest, const struct wire_row *row)
{
    const struct wire_row *found = NULL;

    if (newest->slots != NULL)
        return *newest_slot(newest, row);
    for (size_t i = 0; i < newest->list_count; i++) {
        for (size_t j = 0; j < newest->lists[i].count; j++) {
            const struct wire_row *other = &newest->lists[i].rows[j];

            if (same_id(other, row) && (found == NULL || replaces(other, found)))
                found = other;
        }
    }
    assert(found != NULL);
    return found;
}

/* --- the heap of heads ----------------------------------------------------------------------- */

typedef int compare_fn(const struct wire_row *a, const struct wire_row *b);

struct merge {
    const struct wire_row *heads[SHARDS_MAX]; /* heap, least first */
    const struct wire_row *ends[SHARDS_MAX];  /* behind the last row of the list of that head */
    size_t count;
    compare_fn *compare;
};

static void merge_swap(struct merge *merge, size_t a, size_t b)
{
    const struct wire_row *head = merge->heads[a];
    const struct wire_row *end = merge->ends[a];

    merge->heads[a] = merge->heads[b];
    merge->ends[a] = merge->ends[b];
    merge->heads[b] = head;
    merge->ends[b] = end;
}

static void merge_sift(struct merge *merge, size_t at)
{
    for (;;) {
        size_t least = at;

        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < merge->count; child++) {
            if (merge->compare(merge->heads[child], merge->heads[least]) < 0)
                least = child;
        }
        if (least == at)
            return;
        merge_swap(merge, at, least);
        at = least;
    }
}

static void merge_init(struct merge *merge, const struct hit_list *lists, size_t list_count,
                       compare_fn *compare)
{
    assert(list_count <= SHARDS_MAX);
    merge->count = 0;
    merge->compare = compare;
    for (size_t i = 0; i < list_count; i++) {
        if (lists[i].count == 0)
            continue;
        merge->heads[merge->count] = lists[i].rows;
        merge->ends[merge->count] = lists[i].rows + lists[i].count;
        merge->count++;
    }
    for (size_t i = merge->count / 2; i > 0; i--)
        merge_sift(merge, i - 1);
}

/* The least row of all that are left; NULL at the end. */
static const struct wire_row *merge_next(struct merge *merge)
{
    const struct wire_row *row;

    if (merge->count == 0)
        return NULL;
    row = merge->heads[0];
    merge->heads[0]++;
    if (merge->heads[0] == merge->ends[0]) {
        merge->count--;
        merge_swap(merge, 0, merge->count);
    }
    merge_sift(merge, 0);
    return row;
}

/* --- the two merges -------------------------------------------------------------------------- */

size_t hits_merge(const struct hit_list *lists, size_t list_count, size_t k, struct wire_row *out,
                  struct err *err)
{
    const struct wire_row *local[TABLE_SLOTS_LOCAL];
    struct newest newest = {.lists = lists, .list_count = list_count, .slots = local};
    size_t slots = TABLE_SLOTS_LOCAL;
    const struct wire_row *row;
    struct merge merge;
    size_t rows = 0;
    size_t count = 0;

    (void)err;
    for (size_t i = 0; i < list_count; i++)
        rows += lists[i].count;
    while (slots < 2 * rows)
        slots *= 2;
    newest.mask = slots - 1;
    if (slots > TABLE_SLOTS_LOCAL)
        newest.slots = array_alloc(slots, sizeof(newest.slots[0]));
    else
        memset(local, 0, sizeof(local));
    if (newest.slots != NULL)
        newest_fill(&newest);
    merge_init(&merge, lists, list_count, compare_distances);
    while (count < k && (row = merge_next(&merge)) != NULL) {
        /* The same rows may be given twice: equal ones come one after another. */
        bool again = count > 0 && same_id(row, &out[count - 1]);

        if (!again && newest_of(&newest, row) == row)
            out[count++] = *row;
    }
    if (newest.slots != local)
        free(newest.slots);
    return count;
}

size_t hits_merge_by_id(const struct hit_list *lists, size_t list_count, size_t k,
                        struct wire_row *out)
{
    const struct wire_row *row;
    struct merge merge;
    size_t count = 0;

    merge_init(&merge, lists, list_count, compare_ids);
    while ((row = merge_next(&merge)) != NULL) {
        /* Rows of one id come one after another, also behind the k-th id. */
        if (count > 0 && same_id(row, &out[count - 1])) {
            if (replaces(row, &out[count - 1]))
                out[count - 1] = *row;
            continue;
        }
        if (count == k)
            break;
        out[count++] = *row;
    }
    return count;
}

/* --- scores ---------------------------------------------------------------------------------- */

double hits_score(enum distance_metric metric, float distance)
{
    switch (metric) {
    case METRIC_COSINE:
        return 1.0 - (double)distance;
    case METRIC_IP:
        return -(double)distance;
    case METRIC_L2:
        break;
    }
    /* The engine's distance is the squared one; below zero it can only be by rounding. */
    return -sqrt(MAX_OF((double)distance, 0.0));
}

/* The float with that place in the order of all floats, -inf first. */
static float float_at(uint32_t place)
{
    uint32_t bits = (place & 0x80000000u) != 0 ? place & 0x7fffffffu : ~place;
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Halving over the places of floats, for rounding makes any formula miss hits at the edge. */
float hits_bound(enum distance_metric metric, double score_threshold)
{
    uint32_t low = 0x007fffffu;  /* -inf: reaches every threshold */
    uint32_t high = 0xff800000u; /* +inf */

    assert(float_at(low) == -HUGE_VALF);
    assert(float_at(high) == HUGE_VALF);
    if (metric == METRIC_L2 && score_threshold > 0)
        return -1.0f;
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;

        if (hits_score(metric, float_at(middle)) >= score_threshold)
            low = middle;
        else
            high = middle - 1;
    }
    return float_at(low);
}
