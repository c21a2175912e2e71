/* Linking the tail into the graph, a batch at a time.
 *
 * A batch's size depends on the number of linked vectors alone (doubling up to BATCH_MAX), never
 * on the caller's budget or threads, and each phase either is sequential or writes rows of its
 * own, so the graph is a pure function of the options and the (ordinal, vector) sequence:
 *   1. search: each member walks the graph as it was before the batch (threads)
 *   2. twins: members whose bytes equal a node's or an earlier member's are set aside
 *   3. select: each member also looks at the earlier members, then prunes its lists (threads)
 *   4. parents: each member gets its tree link; lists are written, links back are noted
 *   5. link back: each target takes in all links of the batch at once (threads, one per target)
 * then the entry and the number of linked vectors are published.
 * Failure: only memory, and only before phase 4; the engine is then as it was. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/hnsw.h"
#include "engine/hnsw_batch.h"
#include "engine/spread.h"

enum { LINKS_MAX = 256 };

static uint32_t batch_size(uint32_t linked)
{
    return linked == 0 ? 1 : MIN_OF(linked, (uint32_t)BATCH_MAX);
}

static uint64_t *list_of(struct batch *batch, const struct member *member, uint32_t level)
{
    return batch->keys + (member->list + level) * batch->span;
}

static bool equal_vectors(const struct graph *graph, uint32_t a, uint32_t b)
{
    return memcmp(vector_of(graph, a), vector_of(graph, b), graph->options.dim * sizeof(float)) ==
           0;
}

/* FNV-1a over words: only to sort out vectors that cannot be equal. */
static uint64_t hash_vector(const float *vector, size_t dim)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);

    for (size_t i = 0; i < dim; i++) {
        uint32_t bits;

        memcpy(&bits, &vector[i], sizeof(bits));
        hash = (hash ^ bits) * UINT64_C(0x100000001b3);
    }
    return hash;
}

/* A node with the same bytes has the same code, hence lies where the vector itself does. */
static void find_twin(struct graph *graph, struct member *member, const uint64_t *keys)
{
    uint32_t self = key_order(pair_distance(graph, member->slot, member->slot));

    for (uint32_t i = 0; i < member->count[0] && (uint32_t)(keys[i] >> 32) <= self; i++) {
        if (equal_vectors(graph, key_number(keys[i]), member->slot)) {
            member->twin_of = key_number(keys[i]) + 1;
            return;
        }
    }
}

/* What a walk found, by the finer codes. */
static void measure_found(const struct graph *graph, const struct scratch *scratch, uint32_t slot,
                          uint64_t *keys)
{
    size_t count = scratch->pool_count;

    for (size_t i = 0; i < count; i++)
        keys[i] = pool_slot(scratch->pool[i]);
    keys_measure(graph, slot, keys, count);
    keys_sort(keys, count); /* they are nearly in order */
}

/* Write a vector's code; then the vector is a query that is coded too. */
static void code_member(struct graph *graph, struct scratch *scratch, uint32_t slot)
{
    struct code_place place = {.numbers = scratch->placed};
    const float *vector = vector_of(graph, slot);

    codes_place_vector(&graph->frame, vector, &place);
    codes_encode(graph->kernels, &graph->frame, &place, graph->options.bits,
                 plane_row(&graph->codes, slot));
    if (graph->options.bits != FINE_BITS)
        codes_encode(graph->kernels, &graph->frame, &place, FINE_BITS,
                     plane_row(&graph->fine, slot));
    codes_place_query(&graph->frame, vector, &place);
    codes_query(graph->kernels, &graph->frame, &place, graph->options.bits, scratch->codes,
                &scratch->coded);
}

static void search_levels(struct batch *batch, struct member *member, struct scratch *scratch)
{
    struct graph *graph = batch->graph;
    uint32_t ef = graph->options.ef_construction;
    uint32_t level = MIN_OF(member->level, entry_level(batch->entry));
    struct walk walk = {.graph = graph,
                        .scratch = scratch,
                        .query = &scratch->coded,
                        .limit = batch->first,
                        .wanted = 1,
                        .slack = INFINITY};
    uint32_t start = walk_descend(&walk, batch->entry, level);

    for (;; level--) {
        uint64_t *keys = list_of(batch, member, level);

        if (!walk_level(&walk, start, level, ef))
            assert(!"a walk without a deadline cannot time out");
        measure_found(graph, scratch, member->slot, keys);
        member->count[level] = (uint32_t)scratch->pool_count;
        start = key_number(keys[0]);
        if (level == 0)
            break;
    }
}

/* Phase 1. */
static void job_search(void *argument, size_t index)
{
    struct batch *batch = argument;
    struct graph *graph = batch->graph;
    struct member *member = &batch->members[index];
    struct scratch *scratch = scratch_get(batch->scratches);

    if (scratch == NULL ||
        !scratch_room(scratch, batch->first, graph->options.ef_construction, 1)) {
        atomic_store_explicit(&batch->failed, true, memory_order_relaxed);
        if (scratch != NULL)
            scratch_put(scratch);
        return;
    }
    member->hash = hash_vector(vector_of(graph, member->slot), graph->options.dim);
    code_member(graph, scratch, member->slot);
    if (batch->entry != 0) {
        search_levels(batch, member, scratch);
        find_twin(graph, member, list_of(batch, member, 0));
    }
    scratch_put(scratch);
}

/* Phase 2: twins within the batch. */
static void find_peer_twins(struct batch *batch)
{
    for (uint32_t i = 1; i < batch->count; i++) {
        struct member *member = &batch->members[i];

        for (uint32_t j = 0; j < i && member->twin_of == 0; j++) {
            const struct member *peer = &batch->members[j];

            if (peer->hash == member->hash && equal_vectors(batch->graph, peer->slot, member->slot))
                member->twin_of = peer->twin_of != 0 ? peer->twin_of : peer->slot + 1;
        }
    }
}

/* Phase 3. */
static void job_select(void *argument, size_t index)
{
    struct batch *batch = argument;
    struct graph *graph = batch->graph;
    struct member *member = &batch->members[index];
    uint64_t peers[BATCH_MAX];

    if (member->twin_of != 0)
        return;
    for (uint32_t level = 0; level <= member->level; level++) {
        uint64_t *keys = list_of(batch, member, level);
        size_t count = 0;

        for (size_t j = 0; j < index; j++) {
            const struct member *peer = &batch->members[j];

            if (peer->twin_of != 0 || peer->level < level)
                continue;
            peers[count++] = peer->slot;
        }
        keys_measure(graph, member->slot, peers, count);
        keys_sort(peers, count);
        keys_merge(keys, member->count[level], peers, count);
        struct prune prune = {.graph = graph,
                              .keys = keys,
                              .count = member->count[level] + count,
                              .max = graph->options.m,
                              .fill = graph->options.m};
        member->count[level] = (uint32_t)prune_select(&prune);
    }
}

/* Tree links of a node: those that stand in its row and those that this batch adds. */
static uint32_t tree_degree(struct batch *batch, uint32_t slot)
{
    _Atomic uint32_t *links = links_of(batch->graph, slot, 0);
    uint32_t max = links_max(batch->graph, 0);
    uint32_t degree = 0;

    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = atomic_load_explicit(&links[i], memory_order_relaxed);

        if (link == 0)
            break;
        degree += (link & LINK_TREE) != 0;
    }
    for (size_t i = 0; i < batch->pair_count; i++)
        degree += batch->pairs[i].is_tree != 0 && batch->pairs[i].target == slot;
    return degree;
}

/* The nearest kept neighbour that has room for a child; failing that, the newest node that has:
 * there is one, for a tree's average degree is below two and m is at least four. */
static uint32_t choose_parent(struct batch *batch, const struct member *member)
{
    struct graph *graph = batch->graph;
    const uint64_t *keys = list_of(batch, member, 0);

    for (uint32_t i = 0; i < member->count[0]; i++)
        if (tree_degree(batch, key_number(keys[i])) < graph->options.m)
            return key_number(keys[i]);
    for (uint32_t slot = member->slot; slot > 0; slot--) {
        bool is_twin = (slot_state(graph, slot - 1) & SLOT_TWIN) != 0;

        if (!is_twin && tree_degree(batch, slot - 1) < graph->options.m)
            return slot - 1;
    }
    return member->slot;
}

/* Make sure that the parent stands in the member's list. */
static void list_parent(struct batch *batch, struct member *member)
{
    struct graph *graph = batch->graph;
    uint64_t *keys = list_of(batch, member, 0);

    for (uint32_t i = 0; i < member->count[0]; i++)
        if (key_number(keys[i]) == member->parent)
            return;
    if (member->count[0] == graph->options.m)
        member->count[0]--;
    keys[member->count[0]++] =
        key_make(pair_distance(graph, member->slot, member->parent), member->parent);
    keys_sort(keys, member->count[0]);
}

/* Append to the chain of the node's twins; a reader finds the new one when it is complete. */
static void attach_twin(struct graph *graph, uint32_t node, uint32_t twin)
{
    struct slot *head = slot_of(graph, node);
    struct slot *last = head;
    uint32_t first = atomic_load_explicit(&head->twin, memory_order_relaxed);

    assert((slot_state(graph, node) & SLOT_TWIN) == 0);
    atomic_fetch_or_explicit(&slot_of(graph, twin)->state, SLOT_TWIN, memory_order_relaxed);
    atomic_store_explicit(&graph->has_twins, true, memory_order_relaxed);
    if (first != 0)
        last = slot_of(graph, slot_of(graph, first - 1)->upper);
    slot_of(graph, first != 0 ? first - 1 : twin)->upper = twin;
    atomic_store_explicit(&last->twin, twin + 1, memory_order_release);
}

static void write_links(struct graph *graph, const struct member *member, uint32_t level,
                        const uint64_t *keys)
{
    _Atomic uint32_t *links = links_of(graph, member->slot, level);

    for (uint32_t i = 0; i < member->count[level]; i++) {
        uint32_t link = key_number(keys[i]) + 1;

        if (level == 0 && key_number(keys[i]) == member->parent)
            link |= LINK_TREE;
        atomic_store_explicit(&links[i], link, memory_order_release);
    }
}

/* Phase 4 for one level: write the member's list, note the links back. */
static void commit_list(struct batch *batch, struct member *member, uint32_t level)
{
    const uint64_t *keys = list_of(batch, member, level);

    write_links(batch->graph, member, level, keys);
    for (uint32_t i = 0; i < member->count[level]; i++) {
        assert(batch->pair_count < batch->pairs_max);
        batch->pairs[batch->pair_count++] = (struct pair){
            .target = key_number(keys[i]),
            .order = (uint32_t)(keys[i] >> 32),
            .source = member->slot,
            .is_tree = level == 0 && key_number(keys[i]) == member->parent,
        };
    }
}

static void commit_member(struct batch *batch, struct member *member)
{
    struct graph *graph = batch->graph;

    if (member->twin_of != 0) {
        attach_twin(graph, member->twin_of - 1, member->slot);
        return;
    }
    uint32_t rows = atomic_load_explicit(&graph->upper_rows, memory_order_relaxed);
    slot_of(graph, member->slot)->upper = rows;
    atomic_store_explicit(&graph->upper_rows, rows + member->level, memory_order_relaxed);
    member->parent = choose_parent(batch, member);
    if (member->parent != member->slot)
        list_parent(batch, member);
    commit_list(batch, member, 0);
}

static int compare_pairs(const void *a, const void *b)
{
    const struct pair *x = a;
    const struct pair *y = b;

    if (x->target != y->target)
        return x->target < y->target ? -1 : 1;
    if (x->order != y->order)
        return x->order < y->order ? -1 : 1;
    return x->source < y->source ? -1 : x->source > y->source;
}

/* The row of a target as keys, with distances; notes its tree links.  Returns the count. */
static size_t read_links(struct batch *batch, uint32_t target, uint64_t *keys, struct prune *prune,
                         uint32_t *tree)
{
    struct graph *graph = batch->graph;
    _Atomic uint32_t *links = links_of(graph, target, batch->level);
    uint32_t max = links_max(graph, batch->level);
    size_t count = 0;

    for (; count < max; count++) {
        uint32_t link = atomic_load_explicit(&links[count], memory_order_relaxed);
        uint32_t slot = (link & LINK_TARGET) - 1;

        if (link == 0)
            break;
        if ((link & LINK_TREE) != 0)
            tree[prune->tree_count++] = slot;
        keys[count] = slot;
    }
    keys_measure(graph, target, keys, count);
    return count;
}

/* A full list is pruned anew for each new link, so room is left for those to come.  Not among inner
 * products of uneven lengths: there nearly all directions lead to the few longest vectors, and what
 * pruning leaves would not hold the graph together. */
static size_t fill_of(const struct graph *graph, size_t max)
{
    bool is_uneven = graph->options.metric == ENGINE_IP && graph->length == 0.0f;

    return is_uneven ? max : max / 2;
}

/* Phase 5: one target takes in its new links. */
static void job_link(void *argument, size_t index)
{
    struct batch *batch = argument;
    struct graph *graph = batch->graph;
    const struct pair *pair = &batch->pairs[batch->groups[index]];
    size_t incoming = batch->groups[index + 1] - batch->groups[index];
    _Atomic uint32_t *links = links_of(graph, pair->target, batch->level);
    uint64_t keys[LINKS_MAX];
    uint64_t sources[BATCH_MAX];
    uint32_t tree[LINKS_MAX];
    struct prune prune = {.graph = graph, .keys = keys, .tree = tree};

    assert(incoming > 0 && incoming <= BATCH_MAX);
    size_t before = read_links(batch, pair->target, keys, &prune, tree);
    for (size_t i = 0; i < incoming; i++) {
        if (pair[i].is_tree != 0)
            tree[prune.tree_count++] = pair[i].source;
        sources[i] = (uint64_t)pair[i].order << 32 | pair[i].source;
    }
    keys_merge(keys, before, sources, incoming);
    prune.count = before + incoming;
    prune.max = links_max(graph, batch->level);
    prune.fill = fill_of(graph, prune.max);
    size_t count = prune.count <= prune.max ? prune.count : prune_select(&prune);
    for (size_t i = 0; i < count; i++) {
        uint32_t link = key_number(keys[i]) + 1;

        for (size_t j = 0; j < prune.tree_count; j++)
            if (tree[j] == key_number(keys[i]))
                link |= LINK_TREE;
        atomic_store_explicit(&links[i], link, memory_order_release);
    }
    for (size_t i = count; i < before; i++)
        atomic_store_explicit(&links[i], 0, memory_order_release);
}

static void link_back(struct batch *batch, uint32_t level)
{
    size_t groups = 0;

    qsort(batch->pairs, batch->pair_count, sizeof(*batch->pairs), compare_pairs);
    for (size_t i = 0; i < batch->pair_count; i++)
        if (i == 0 || batch->pairs[i].target != batch->pairs[i - 1].target)
            batch->groups[groups++] = i;
    batch->groups[groups] = batch->pair_count;
    batch->level = level;
    spread(batch->executor, job_link, batch, groups);
    batch->pair_count = 0;
}

/* Name the members and take all memory that the batch will want.  False: there is none. */
static bool prepare(struct batch *batch, uint32_t first, uint32_t count)
{
    struct graph *graph = batch->graph;
    size_t lists = 0;

    batch->first = first;
    batch->count = count;
    batch->pair_count = 0;
    batch->entry = atomic_load_explicit(&graph->entry, memory_order_relaxed);
    atomic_store_explicit(&batch->failed, false, memory_order_relaxed);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t level = level_of(graph, slot_of(graph, first + i)->ordinal);

        batch->members[i] = (struct member){.slot = first + i, .level = level, .list = lists};
        lists += level + 1;
    }
    uint64_t rows = atomic_load_explicit(&graph->upper_rows, memory_order_relaxed) + lists;
    return batch_grow(batch, lists) && plane_reserve(&graph->upper, rows) &&
           plane_reserve(&graph->codes, (uint64_t)first + count) &&
           (graph->options.bits == FINE_BITS ||
            plane_reserve(&graph->fine, (uint64_t)first + count)) &&
           plane_reserve(&graph->ground, (uint64_t)first + count);
}

static void commit(struct batch *batch)
{
    struct graph *graph = batch->graph;
    uint32_t top = 0;
    uint64_t entry = batch->entry;

    for (uint32_t i = 0; i < batch->count; i++) {
        const struct member *member = &batch->members[i];

        commit_member(batch, &batch->members[i]);
        if (member->twin_of != 0)
            continue;
        top = MAX_OF(top, member->level);
        if (entry == 0 || member->level > entry_level(entry))
            entry = (uint64_t)(member->slot + 1) << 8 | member->level;
    }
    link_back(batch, 0);
    for (uint32_t level = 1; level <= top; level++) {
        for (uint32_t i = 0; i < batch->count; i++) {
            struct member *member = &batch->members[i];

            if (member->twin_of == 0 && member->level >= level)
                commit_list(batch, member, level);
        }
        link_back(batch, level);
    }
    /* Releasing: who sees the entry sees its links; who sees the number finds all in the graph. */
    atomic_store_explicit(&graph->entry, entry, memory_order_release);
    atomic_store_explicit(&graph->linked, batch->first + batch->count, memory_order_release);
}

/* Vectors that the next batch takes; 0: there are not enough for one. */
static uint32_t next_size(const struct graph *graph, uint32_t linked, uint32_t count)
{
    uint32_t size = batch_size(linked);

    if (linked == 0 && count < frame_sample(&graph->options))
        return 0;
    return count - linked >= size ? size : 0;
}

enum err_code batch_link(struct batch *batch, struct graph *graph, uint32_t budget, uint64_t *left,
                         struct err *err)
{
    uint32_t linked = atomic_load_explicit(&graph->linked, memory_order_relaxed);
    uint32_t count = atomic_load_explicit(&graph->count, memory_order_acquire);
    uint32_t begun = linked;
    uint32_t size;

    *left = 0;
    batch->graph = graph;
    while ((size = next_size(graph, linked, count)) > 0 && linked - begun < budget) {
        if (linked == 0)
            frame_fit(graph);
        if (!prepare(batch, linked, size))
            return err_set(err, ERR_NO_MEMORY, "no memory to link %u vectors", size);
        spread(batch->executor, job_search, batch, size);
        if (atomic_load_explicit(&batch->failed, memory_order_relaxed))
            return err_set(err, ERR_NO_MEMORY, "no memory to search for neighbours");
        find_peer_twins(batch);
        spread(batch->executor, job_select, batch, size);
        commit(batch);
        linked += size;
    }
    if (size > 0)
        *left = MAX_OF((count - linked) / BATCH_MAX * BATCH_MAX, size);
    return ERR_OK;
}
