/* Every invariant of the engine, for tests and tools, and the digest by which replicas compare.
 * It must not run while anyone inserts or steps.  Failure: ERR_CORRUPT with what is wrong. */
#include <assert.h>
#include <string.h>

#include "engine/cold.h"
#include "engine/hnsw.h"
#include "engine/internal.h"
#include "engine/memory.h"

static uint32_t load(const _Atomic uint32_t *value)
{
    return atomic_load_explicit(value, memory_order_acquire);
}

static enum err_code check_link(const struct graph *graph, uint32_t slot, uint32_t level,
                                uint32_t target, struct err *err)
{
    if (target >= load(&graph->linked))
        return err_set(err, ERR_CORRUPT, "slot %u links to %u, which is not linked", slot, target);
    if (target == slot)
        return err_set(err, ERR_CORRUPT, "slot %u links to itself", slot);
    if ((slot_state(graph, target) & SLOT_TWIN) != 0)
        return err_set(err, ERR_CORRUPT, "slot %u links to the twin %u", slot, target);
    if (level_of(graph, slot_of(graph, target)->ordinal) < level)
        return err_set(err, ERR_CORRUPT, "slot %u links to %u on level %u, which that lacks", slot,
                       target, level);
    return ERR_OK;
}

static enum err_code check_links(const struct graph *graph, uint32_t slot, uint32_t level,
                                 struct err *err)
{
    const _Atomic uint32_t *links = links_of(graph, slot, level);
    uint32_t max = links_max(graph, level);
    uint64_t before = 0;
    bool ended = false;

    for (uint32_t i = 0; i < max; i++) {
        uint32_t link = load(&links[i]);
        uint32_t target = (link & LINK_TARGET) - 1;

        if (link == 0) {
            ended = true;
            continue;
        }
        if (ended)
            return err_set(err, ERR_CORRUPT, "slot %u has a hole in its list", slot);
        if (check_link(graph, slot, level, target, err) != ERR_OK)
            return ERR_CORRUPT;
        uint64_t key = key_make(pair_distance(graph, slot, target), target);
        if (key <= before)
            return err_set(err, ERR_CORRUPT, "the links of slot %u do not ascend on level %u", slot,
                           level);
        before = key;
    }
    return ERR_OK;
}

/* The chain of a node ascends and every twin in it has the node's bytes. */
static enum err_code check_twins(const struct graph *graph, uint32_t slot, uint32_t *twins,
                                 struct err *err)
{
    uint32_t before = slot;

    for (uint32_t next = load(&slot_of(graph, slot)->twin); next != 0;) {
        uint32_t twin = next - 1;

        if (twin <= before || twin >= load(&graph->linked) ||
            (slot_state(graph, twin) & SLOT_TWIN) == 0)
            return err_set(err, ERR_CORRUPT, "slot %u has the wrong twin %u", slot, twin);
        if (memcmp(vector_of(graph, slot), vector_of(graph, twin),
                   graph->options.dim * sizeof(float)) != 0)
            return err_set(err, ERR_CORRUPT, "slot %u differs from its twin %u", slot, twin);
        before = twin;
        ++*twins;
        next = load(&slot_of(graph, twin)->twin);
    }
    return ERR_OK;
}

static enum err_code check_slots(const struct graph *graph, struct err *err)
{
    uint32_t count = load(&graph->count);
    uint32_t live = 0;

    for (uint32_t slot = 0; slot < count; slot++) {
        live += (slot_state(graph, slot) & SLOT_DEAD) == 0;
        if (slot > 0 && slot_of(graph, slot)->ordinal <= slot_of(graph, slot - 1)->ordinal)
            return err_set(err, ERR_CORRUPT, "the ordinals do not ascend at slot %u", slot);
    }
    if (count > 0 && slot_of(graph, 0)->ordinal < colds_floor(graph_cold(graph)))
        return err_set(err, ERR_CORRUPT, "ordinal %u should be cold", slot_of(graph, 0)->ordinal);
    if (load(&graph->linked) > count)
        return err_set(err, ERR_CORRUPT, "more vectors are linked than there are");
    if (live != atomic_load_explicit(&graph->live, memory_order_relaxed))
        return err_set(
            err, ERR_CORRUPT, "%u vectors live, %llu were counted", live,
            (unsigned long long)atomic_load_explicit(&graph->live, memory_order_relaxed));
    return ERR_OK;
}

static enum err_code check_nodes(const struct graph *graph, uint32_t *nodes, struct err *err)
{
    uint32_t linked = load(&graph->linked);
    uint32_t twins = 0;
    uint32_t top = 0;
    uint64_t entry = atomic_load_explicit(&graph->entry, memory_order_acquire);

    for (uint32_t slot = 0; slot < linked; slot++) {
        uint32_t level = level_of(graph, slot_of(graph, slot)->ordinal);

        if ((slot_state(graph, slot) & SLOT_TWIN) != 0)
            continue;
        ++*nodes;
        top = level > top ? level : top;
        if (check_twins(graph, slot, &twins, err) != ERR_OK)
            return ERR_CORRUPT;
        for (uint32_t l = 0; l <= level; l++)
            if (check_links(graph, slot, l, err) != ERR_OK)
                return ERR_CORRUPT;
    }
    if (*nodes + twins != linked)
        return err_set(err, ERR_CORRUPT, "%u nodes and %u twins make %u linked vectors", *nodes,
                       twins, linked);
    if ((entry == 0) != (linked == 0) || (entry != 0 && entry_level(entry) != top))
        return err_set(err, ERR_CORRUPT, "the entry is not on the top level %u", top);
    return ERR_OK;
}

/* Breadth first over the ground from the entry: every node must be met. */
static uint32_t count_reachable(const struct graph *graph, uint32_t *queue, uint8_t *seen)
{
    uint32_t head = 0;
    uint32_t tail = 0;
    uint32_t start = entry_slot(atomic_load_explicit(&graph->entry, memory_order_acquire));

    seen[start] = 1;
    queue[tail++] = start;
    while (head < tail) {
        const _Atomic uint32_t *links = links_of(graph, queue[head++], 0);

        for (uint32_t i = 0; i < links_max(graph, 0) && load(&links[i]) != 0; i++) {
            uint32_t target = (load(&links[i]) & LINK_TARGET) - 1;

            if (seen[target] != 0)
                continue;
            seen[target] = 1;
            queue[tail++] = target;
        }
    }
    return tail;
}

static enum err_code check_reachable(const struct graph *graph, uint32_t nodes, struct err *err)
{
    uint32_t linked = load(&graph->linked);
    enum err_code code = ERR_OK;

    if (linked == 0)
        return ERR_OK;
    uint32_t *queue = memory_alloc(linked, sizeof(*queue));
    uint8_t *seen = memory_alloc(linked, 1);
    if (queue == NULL || seen == NULL) {
        code = err_set(err, ERR_NO_MEMORY, "no memory to validate");
    } else {
        uint32_t reached = count_reachable(graph, queue, seen);
        if (reached != nodes)
            code = err_set(err, ERR_CORRUPT, "%u of %u nodes can be reached", reached, nodes);
    }
    memory_free(queue);
    memory_free(seen);
    return code;
}

enum err_code engine_validate(const struct engine *engine, struct err *err)
{
    const struct graph *graph = graph_of(engine);
    uint32_t nodes = 0;

    enum err_code code = colds_validate(graph_cold(graph), err);
    if (code != ERR_OK)
        return code;
    if (check_slots(graph, err) != ERR_OK)
        return ERR_CORRUPT;
    if (graph->options.kind == ENGINE_FLAT)
        return ERR_OK;
    if (check_nodes(graph, &nodes, err) != ERR_OK)
        return ERR_CORRUPT;
    return check_reachable(graph, nodes, err);
}

static uint64_t digest_words(uint64_t digest, const void *words, size_t count)
{
    const unsigned char *bytes = words;

    for (size_t i = 0; i < count; i++) {
        uint32_t word;

        memcpy(&word, bytes + i * sizeof(word), sizeof(word));
        digest = (digest ^ word) * UINT64_C(0x100000001b3);
        digest ^= digest >> 29;
    }
    return digest;
}

static uint64_t digest_links(const struct graph *graph, uint32_t slot, uint64_t digest)
{
    uint32_t level = level_of(graph, slot_of(graph, slot)->ordinal);

    for (uint32_t l = 0; l <= level; l++) {
        const _Atomic uint32_t *links = links_of(graph, slot, l);

        for (uint32_t i = 0; i < links_max(graph, l); i++) {
            uint32_t link = load(&links[i]);
            digest = digest_words(digest, &link, 1);
        }
    }
    return digest;
}

uint64_t engine_digest(const struct engine *engine)
{
    const struct graph *graph = graph_of(engine);
    uint32_t count = load(&graph->count);
    uint32_t linked = load(&graph->linked);
    uint64_t entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    uint64_t digest = digest_words(UINT64_C(0xcbf29ce484222325), &entry, 2);

    for (uint32_t slot = 0; slot < count; slot++) {
        uint32_t head[2] = {slot_of(graph, slot)->ordinal, slot_state(graph, slot)};

        digest = digest_words(digest, head, 2);
        digest = digest_words(digest, vector_of(graph, slot), graph->options.dim);
        if (slot >= linked)
            continue;
        uint32_t twin = load(&slot_of(graph, slot)->twin);
        digest = digest_words(digest, &twin, 1);
        if ((head[1] & SLOT_TWIN) == 0)
            digest = digest_links(graph, slot, digest);
    }
    return colds_digest(graph_cold(graph), digest);
}
