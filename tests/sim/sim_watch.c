/* What replicas publish while everything goes wrong: at one position of a partition every replica,
 * in each of its lives and however it came there, has one digest and as many records.  For the
 * state is a pure function of the log. */
#include <stdlib.h>
#include <string.h>

#include "services/shard/shard.h"
#include "tests/sim/sim.h"

#define EVERY_NS (15 * NS_PER_MS)

static struct sim_mark *mark_at(struct sim_region *region, uint32_t partition, uint64_t position)
{
    struct sim_marks *marks = &region->chronicle.marks[partition];

    if (position >= marks->size) {
        size_t size = (size_t)position * 2 + 64;

        marks->marks = realloc(marks->marks, size * sizeof(*marks->marks));
        if (marks->marks == NULL)
            abort();
        memset(&marks->marks[marks->size], 0, (size - marks->size) * sizeof(*marks->marks));
        marks->size = size;
    }
    return &marks->marks[position];
}

void sim_compare(struct sim_region *region, const char *who, const struct sim_shown *shown)
{
    struct sim *sim = region->sim;
    struct sim_mark *mark;
    char texts[2][HASH128_TEXT_BYTES];

    if (shown->position > region->log.partitions[shown->partition].count)
        sim_fail(sim, "%s shows position %llu of partition %u, and the log ends before", who,
                 (unsigned long long)shown->position, shown->partition);
    mark = mark_at(region, shown->partition, shown->position);
    if (!mark->is_known) {
        *mark = (struct sim_mark){.is_known = true, .digest = shown->digest, .live = shown->live};
        return;
    }
    hash128_to_text(texts[0], mark->digest);
    hash128_to_text(texts[1], shown->digest);
    if (strcmp(texts[0], texts[1]) != 0 || mark->live != shown->live)
        sim_fail(sim,
                 "%s shows digest %s and %llu records at position %llu of partition %u; before it "
                 "was %s and %llu",
                 who, texts[1], (unsigned long long)shown->live,
                 (unsigned long long)shown->position, shown->partition, texts[0],
                 (unsigned long long)mark->live);
    sim->counts.checks[CHECK_DIGEST]++;
}

static bool is_shard(const struct sim_node *node)
{
    return node->service == &sim_shard_service && node->object != NULL && node->serving;
}

static void look_at(struct sim_node *node)
{
    const struct shard *shard = sim_shard_of(node);

    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        if (shard->state == SHARD_READY)
            sim_compare(node->region, node->name,
                        &(struct sim_shown){.partition = shard->partition_of[slot],
                                            .position = shard->partitions[slot].position,
                                            .live = shard->partitions[slot].counts.live,
                                            .digest = shard->partitions[slot].counts.digest});
}

void sim_watch(void *argument)
{
    struct sim *sim = argument;

    while (!sim->stopping) {
        for (uint32_t i = 0; i < sim->node_count; i++)
            if (is_shard(&sim->nodes[i]))
                look_at(&sim->nodes[i]);
        sim_world_sleep(sim, EVERY_NS);
    }
}

static bool shows_position(const struct sim_node *node, uint32_t partition, uint64_t position)
{
    const struct shard *shard = sim_shard_of((struct sim_node *)node);

    for (uint32_t slot = 0; slot < shard->served_count; slot++)
        if (shard->partition_of[slot] == partition)
            return shard->partitions[slot].position >= position;
    return false;
}

void sim_check_searchable(struct sim_region *region, uint32_t partition, uint64_t position,
                          uint64_t since_ns)
{
    struct sim *sim = region->sim;
    bool has_begun_anew = false;

    for (uint32_t i = 0; i < sim->node_count; i++) {
        const struct sim_node *node = &sim->nodes[i];

        if (node->service != &sim_shard_service || node->region != region)
            continue;
        has_begun_anew = has_begun_anew || node->down || node->life->dead || !node->serving ||
                         node->opened_ns >= since_ns;
        if (is_shard(node) && shows_position(node, partition, position)) {
            sim->counts.checks[CHECK_SEARCHABLE]++;
            return;
        }
    }
    /* Who had it may have died since. */
    if (!has_begun_anew)
        sim_fail(sim, "partition %u was to be searchable up to %llu, and no replica shows that",
                 partition, (unsigned long long)position);
}
