/* Whether a graph that came from a file can be walked without leaving it: see segment.h.
 *
 * One pass over the slots notes a byte for each, its rank: the level of a node, or that it is a
 * twin.  Links on the ground are then looked at in the order in which they stand, many at a time;
 * where there are no twins, no rank is asked for them.  Only links above the ground, a twentieth of
 * all, always ask.  The level of a node is a hash of its ordinal, and level rows were handed out in
 * the order of slots, so that the place of every row is known, not only bounded.
 * Failure: ERR_CORRUPT with the first thing that is wrong. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "engine/graph.h"
#include "engine/memory.h"
#include "engine/segment.h"

enum {
    LANES = 8, /* links looked at together: a loop of fixed length becomes a few instructions */
    ROW_MAX = (2 * HNSW_M_MAX + LANES - 1) / LANES * LANES,
    RANK_TWIN = -1,    /* in no chain so far */
    RANK_CHAINED = -2, /* a twin in the chain of a node */
};

struct check {
    const struct segment_parts *parts;
    int8_t *ranks;
    uint32_t twins;
    uint32_t top; /* level */
};

static const struct slot *slot_at(const struct check *check, uint32_t slot)
{
    return plane_row(&check->parts->slots, slot);
}

static uint32_t twin_at(const struct check *check, uint32_t slot)
{
    return atomic_load_explicit(&slot_at(check, slot)->twin, memory_order_acquire);
}

/* Ordinals, states, levels and the places of level rows; fills the ranks. */
static enum err_code check_slots(struct check *check, struct err *err)
{
    const struct segment_parts *parts = check->parts;
    uint64_t rows = 0;
    uint32_t before = 0;

    for (uint32_t i = 0; i < parts->count; i++) {
        const struct slot *slot = slot_at(check, i);
        uint32_t state = atomic_load_explicit(&slot->state, memory_order_relaxed);

        if ((state & ~(uint32_t)(SLOT_DEAD | SLOT_TWIN)) != 0)
            return err_set(err, ERR_CORRUPT, "slot %u has the unknown state %#x", i, state);
        if (slot->ordinal < parts->floor)
            return err_set(err, ERR_CORRUPT, "slot %u has ordinal %u, below the floor %u", i,
                           slot->ordinal, parts->floor);
        if (i > 0 && slot->ordinal <= before)
            return err_set(err, ERR_CORRUPT, "the ordinals do not ascend at slot %u", i);
        before = slot->ordinal;
        if ((state & SLOT_TWIN) != 0) {
            check->ranks[i] = RANK_TWIN;
            check->twins++;
            continue;
        }
        uint32_t level = level_by(&parts->options, slot->ordinal);
        if (slot->upper != rows || rows + level > parts->upper_rows)
            return err_set(err, ERR_CORRUPT, "slot %u has the wrong level rows, %u", i,
                           slot->upper);
        rows += level;
        check->ranks[i] = (int8_t)level;
        check->top = MAX_OF(check->top, level);
    }
    if (rows != parts->upper_rows)
        return err_set(err, ERR_CORRUPT, "%llu of %u level rows belong to a slot",
                       (unsigned long long)rows, parts->upper_rows);
    return ERR_OK;
}

/* A chain ascends, so it ends; a twin stands in one chain; the first one knows the last. */
static enum err_code check_chain(struct check *check, uint32_t node, uint32_t *chained,
                                 struct err *err)
{
    uint32_t first = twin_at(check, node) - 1;
    uint32_t last = node;

    for (uint32_t next = first + 1; next != 0; next = twin_at(check, last)) {
        uint32_t twin = next - 1;

        if (twin <= last || twin >= check->parts->count || check->ranks[twin] != RANK_TWIN)
            return err_set(err, ERR_CORRUPT, "slot %u has the wrong twin %u", last, twin);
        if (twin != first && slot_at(check, twin)->upper != 0)
            return err_set(err, ERR_CORRUPT, "the twin %u has level rows", twin);
        check->ranks[twin] = RANK_CHAINED;
        ++*chained;
        last = twin;
    }
    if (slot_at(check, first)->upper != last)
        return err_set(err, ERR_CORRUPT, "the chain of slot %u does not know its end", node);
    return ERR_OK;
}

static enum err_code check_chains(struct check *check, struct err *err)
{
    uint32_t chained = 0;

    for (uint32_t i = 0; i < check->parts->count; i++)
        if (check->ranks[i] >= 0 && twin_at(check, i) != 0 &&
            check_chain(check, i, &chained, err) != ERR_OK)
            return ERR_CORRUPT;
    if (chained != check->twins)
        return err_set(err, ERR_CORRUPT, "%u of %u twins are in a chain", chained, check->twins);
    return ERR_OK;
}

/* A list of links, copied: room before it, zeros behind it. */
struct list {
    uint32_t before;         /* not 0: nothing is missing before the first */
    uint32_t links[ROW_MAX]; /* zeros from max on */
    uint32_t max;
    uint32_t slot;
    uint32_t level;
};

static void list_read(struct list *list, const void *row)
{
    memcpy(list->links, row, list->max * sizeof(list->links[0]));
}

/* Without a branch: a link out of bounds, to itself, or behind a hole. */
static bool list_is_bad(const struct list *list, uint32_t count)
{
    const uint32_t *links = list->links;
    uint32_t bad[LANES] = {0};
    uint32_t all = 0;

    for (uint32_t i = 0; i < list->max; i += LANES)
        for (uint32_t j = 0; j < LANES; j++) {
            uint32_t link = links[i + j];
            uint32_t target = (link & LINK_TARGET) - 1;
            uint32_t previous = i + j == 0 ? list->before : links[i + j - 1];

            bad[j] |= (uint32_t)(link != 0) &
                      ((uint32_t)(target >= count) | (uint32_t)(target == list->slot) |
                       (uint32_t)(previous == 0));
        }
    for (uint32_t j = 0; j < LANES; j++)
        all |= bad[j];
    return all != 0;
}

static enum err_code explain_list(const struct list *list, uint32_t count, struct err *err)
{
    for (uint32_t i = 0; i < list->max; i++) {
        uint32_t target = (list->links[i] & LINK_TARGET) - 1;

        if (list->links[i] == 0)
            continue;
        if (i > 0 && list->links[i - 1] == 0)
            return err_set(err, ERR_CORRUPT, "slot %u has a hole in its list on level %u",
                           list->slot, list->level);
        if (target >= count)
            return err_set(err, ERR_CORRUPT, "slot %u links to %u of %u on level %u", list->slot,
                           target, count, list->level);
        if (target == list->slot)
            return err_set(err, ERR_CORRUPT, "slot %u links to itself on level %u", list->slot,
                           list->level);
    }
    return err_set(err, ERR_CORRUPT, "the list of slot %u is damaged", list->slot);
}

/* Targets are nodes of this level or higher; they are known to be in bounds. */
static enum err_code check_targets(const struct check *check, const struct list *list,
                                   struct err *err)
{
    for (uint32_t i = 0; i < list->max && list->links[i] != 0; i++) {
        uint32_t target = (list->links[i] & LINK_TARGET) - 1;

        if (check->ranks[target] < (int8_t)list->level)
            return err_set(err, ERR_CORRUPT, "slot %u links to %u on level %u, which %s",
                           list->slot, target, list->level,
                           check->ranks[target] < 0 ? "is a twin" : "that lacks");
    }
    return ERR_OK;
}

static enum err_code check_ground(const struct check *check, struct err *err)
{
    const struct segment_parts *parts = check->parts;
    struct list list = {.before = 1, .max = 2 * parts->options.m};

    for (uint32_t i = 0; i < parts->count; i++) {
        list.slot = i;
        list_read(&list, plane_row(&parts->ground, i));
        if (list_is_bad(&list, parts->count))
            return explain_list(&list, parts->count, err);
        if (check->twins == 0)
            continue;
        if (check->ranks[i] < 0 && list.links[0] != 0)
            return err_set(err, ERR_CORRUPT, "the twin %u has links", i);
        if (check_targets(check, &list, err) != ERR_OK)
            return ERR_CORRUPT;
    }
    return ERR_OK;
}

static enum err_code check_upper(const struct check *check, struct err *err)
{
    const struct segment_parts *parts = check->parts;
    struct list list = {.before = 1, .max = parts->options.m};
    uint32_t row = 0;

    for (uint32_t i = 0; i < parts->count; i++) {
        list.slot = i;
        for (int level = 1; level <= check->ranks[i]; level++, row++) {
            list.level = (uint32_t)level;
            list_read(&list, plane_row(&parts->upper, row));
            if (list_is_bad(&list, parts->count))
                return explain_list(&list, parts->count, err);
            if (check_targets(check, &list, err) != ERR_OK)
                return ERR_CORRUPT;
        }
    }
    assert(row == parts->upper_rows);
    return ERR_OK;
}

static enum err_code check_entry(const struct check *check, struct err *err)
{
    const struct segment_parts *parts = check->parts;
    uint64_t slot = (parts->entry >> 8) - 1;

    if (slot >= parts->count || check->ranks[slot] != (int)entry_level(parts->entry) ||
        entry_level(parts->entry) != check->top)
        return err_set(err, ERR_CORRUPT, "the entry %#llx is no node of the top level %u",
                       (unsigned long long)parts->entry, check->top);
    return ERR_OK;
}

/* The sum need not be that of the codes, but be such that two of them can be added. */
static bool is_pair_tail(const uint8_t *bytes, size_t padded)
{
    struct code_pair_tail tail;

    memcpy(&tail, bytes, sizeof(tail));
    return isfinite(tail.square) && tail.sum >= -128 * (int32_t)padded &&
           tail.sum <= 127 * (int32_t)padded;
}

/* A scale may be infinite: vectors with numbers beyond 1e18 have codes that mean little. */
static enum err_code check_codes(const struct segment_parts *parts, const struct plane *codes,
                                 uint32_t bits, struct err *err)
{
    size_t bytes = codes_bytes(parts->options.dim, bits);

    for (uint32_t i = 0; i < parts->count; i++) {
        const uint8_t *row = plane_row(codes, i);
        struct code_tail tail;

        memcpy(&tail, row + bytes, sizeof(tail));
        if (!(tail.scale >= 0) || !isfinite(tail.add) ||
            (bits == FINE_BITS && !is_pair_tail(row + bytes + sizeof(tail), bytes)))
            return err_set(err, ERR_CORRUPT, "the %u-bit code of slot %u is no number", bits, i);
    }
    return ERR_OK;
}

static enum err_code check_places(const struct segment_parts *parts, struct err *err)
{
    enum err_code code;

    if (!all_finite(parts->centre, parts->options.dim))
        return err_set(err, ERR_CORRUPT, "the centre is not finite");
    code = check_codes(parts, &parts->codes, parts->options.bits, err);
    if (code == ERR_OK && parts->options.bits != FINE_BITS)
        code = check_codes(parts, &parts->fine, FINE_BITS, err);
    return code;
}

enum err_code segment_check(const struct segment_parts *parts, struct err *err)
{
    struct check check = {.parts = parts};
    enum err_code code;

    assert(parts->count > 0 && parts->options.m <= HNSW_M_MAX);
    check.ranks = memory_alloc(parts->count, sizeof(*check.ranks));
    if (check.ranks == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to check %u slots", parts->count);
    code = check_slots(&check, err);
    if (code == ERR_OK)
        code = check_chains(&check, err);
    if (code == ERR_OK)
        code = check_ground(&check, err);
    if (code == ERR_OK)
        code = check_upper(&check, err);
    if (code == ERR_OK)
        code = check_entry(&check, err);
    if (code == ERR_OK)
        code = check_places(parts, err);
    memory_free(check.ranks);
    return code;
}
