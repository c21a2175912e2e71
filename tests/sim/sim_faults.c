/* What goes wrong: one thing after another, several at a time, of kinds and lengths of chance. */
#include <string.h>

#include "tests/sim/sim.h"

#define PAUSE_MIN_NS    (50 * NS_PER_MS)
#define PAUSE_MAX_NS    (1200 * NS_PER_MS)
#define BETWEEN_REGIONS 3 /* kinds of trouble, at the end of the list */

/* A thing that is wrong for a while. */
struct trouble {
    struct sim *sim;
    void (*undo)(struct sim *sim, uint64_t what);
    uint64_t what;
    uint64_t ns;
};

static struct trouble troubles[64];

static void pass_over(void *argument)
{
    struct trouble *trouble = argument;

    sim_world_sleep(trouble->sim, trouble->ns);
    trouble->undo(trouble->sim, trouble->what);
    trouble->sim = NULL;
}

static void undo_later(struct sim *sim, uint64_t ns, void (*undo)(struct sim *sim, uint64_t what),
                       uint64_t what)
{
    for (size_t i = 0; i < sizeof(troubles) / sizeof(troubles[0]); i++) {
        if (troubles[i].sim != NULL)
            continue;
        troubles[i] = (struct trouble){.sim = sim, .undo = undo, .what = what, .ns = ns};
        sim_spawn(sim, "trouble", pass_over, &troubles[i]);
        return;
    }
    undo(sim, what);
}

static struct sim_node *any_service(struct sim *sim)
{
    struct sim_node *node;

    do
        node = &sim->nodes[sim_below(sim, sim->node_count)];
    while (node->service == NULL);
    return node;
}

static struct sim_region *any_region(struct sim *sim)
{
    return &sim->regions[sim_below(sim, sim->region_count)];
}

/* --- nodes ---------------------------------------------------------------------------------------
 */

static void crash(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    node->crash_in = 1 + (uint32_t)sim_below(sim, 300);
    sim_note(sim, "%s is to die at its call %u", node->name, node->crash_in);
}

/* A replica that has to begin anew; spools are not to be lost. */
static void lose_disk(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    while (node->service != &sim_shard_service)
        node = any_service(sim);
    node->loses_disk = true;
    node->crash_in = 1 + (uint32_t)sim_below(sim, 50);
}

/* A copy of its disk is kept for later; or one that was is put back. */
static void put_old_disk(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    if (node->service != &sim_shard_service || node->store == NULL)
        return;
    if (node->old_store == NULL) {
        node->old_store = sim_store_clone(sim, node->store);
        return;
    }
    node->gets_old_disk = true;
    node->crash_in = 1 + (uint32_t)sim_below(sim, 50);
}

static void stop(struct sim *sim)
{
    sim_stop_node(any_service(sim));
}

/* The clocks of an ingest may stand still with it; a shard's boot clock goes on, or no bound on
 * its staleness could be kept. */
static void stand_still(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    sim_pause(node, sim_delay(sim, 50 * NS_PER_MS, 6 * NS_PER_S),
              node->service == &sim_ingest_service && sim_below(sim, 2) == 0);
}

static void step_clock(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    node->skew_us = (int64_t)sim_below(sim, 20000001) - 10000000;
    sim->counts.clock_steps++;
    sim_note(sim, "%s has its wall clock at %+.3f s", node->name, (double)node->skew_us / 1e6);
}

/* --- the network ---------------------------------------------------------------------------------
 */

static void join(struct sim *sim, uint64_t number)
{
    sim->nodes[number].isolated = false;
    sim_note(sim, "%s is reached again", sim->nodes[number].name);
}

static void isolate(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    if (node->isolated)
        return;
    node->isolated = true;
    sim->counts.isolations++;
    sim_note(sim, "%s cannot be reached", node->name);
    undo_later(sim, sim_delay(sim, 100 * NS_PER_MS, 6 * NS_PER_S), join, node->number);
}

static void mend_link(struct sim *sim, uint64_t pair)
{
    sim->links_cut[pair / SIM_NODES_MAX][pair % SIM_NODES_MAX] = false;
}

/* From one node to another; the other way may be open. */
static void cut_link(struct sim *sim)
{
    struct sim_node *from = any_service(sim), *to = any_service(sim);
    bool *is_cut = &sim->links_cut[from->number][to->number];

    if (from == to || *is_cut)
        return;
    *is_cut = true;
    sim->counts.links_cut++;
    sim_note(sim, "nothing comes from %s to %s", from->name, to->name);
    undo_later(sim, sim_delay(sim, 300 * NS_PER_MS, 8 * NS_PER_S), mend_link,
               from->number * SIM_NODES_MAX + to->number);
}

static void calm_net(struct sim *sim, uint64_t what)
{
    (void)what;
    sim->net_drop = sim->net_break = sim->net_double = 0;
    sim->net_slow_ns = 0;
}

static void trouble_net(struct sim *sim)
{
    sim->net_drop = (uint32_t)sim_below(sim, 20);
    sim->net_break = (uint32_t)sim_below(sim, 20);
    sim->net_double = (uint32_t)sim_below(sim, 20);
    sim->net_slow_ns = sim_below(sim, 2) == 0 ? sim_below(sim, 400 * NS_PER_MS) : 0;
    sim->counts.net_faults++;
    sim_note(sim, "the network loses %u%%, breaks %u%%, doubles %u%%", sim->net_drop,
             sim->net_break, sim->net_double);
    undo_later(sim, sim_delay(sim, 200 * NS_PER_MS, 4 * NS_PER_S), calm_net, 0);
}

/* --- the log, the metadata store -----------------------------------------------------------------
 */

static void calm_log(struct sim *sim, uint64_t index)
{
    struct sim_log *log = &sim->regions[index].log;

    log->lose = log->late = log->unanswered = log->fail_reads = 0;
    log->slow_ns = 0;
}

static void trouble_log(struct sim *sim)
{
    struct sim_region *region = any_region(sim);
    struct sim_log *log = &region->log;

    log->lose = (uint32_t)sim_below(sim, 30);
    log->late = (uint32_t)sim_below(sim, 30);
    log->unanswered = (uint32_t)sim_below(sim, 30);
    log->fail_reads = sim_below(sim, 2) == 0 ? (uint32_t)sim_below(sim, 15) : 0;
    log->slow_ns = sim_below(sim, 2) == 0 ? sim_below(sim, 500 * NS_PER_MS) : 0;
    sim->counts.log_faults++;
    sim_note(sim, "the log of region %s loses %u%%, is late for %u%%, silent for %u%%",
             region->name, log->lose, log->late, log->unanswered);
    undo_later(sim, sim_delay(sim, 500 * NS_PER_MS, 5 * NS_PER_S), calm_log, region->index);
}

/* One of the ingests is to die while writes go into its spool. */
static void crash_ingest(struct sim_region *region)
{
    struct sim *sim = region->sim;
    struct sim_node *node;

    do
        node = any_service(sim);
    while (node->service != &sim_ingest_service || node->region != region);
    node->crash_in = 50 + (uint32_t)sim_below(sim, 400);
}

/* As when the brokers are gone: nothing lands, or late, and nothing is read. */
static void lose_log(struct sim *sim)
{
    struct sim_region *region = any_region(sim);
    struct sim_log *log = &region->log;

    log->lose = log->fail_reads = 100;
    log->late = (uint32_t)sim_below(sim, 60);
    sim->counts.log_outages++;
    sim_note(sim, "the log of region %s is away", region->name);
    if (sim_below(sim, 2) == 0)
        crash_ingest(region);
    undo_later(sim, sim_delay(sim, NS_PER_S, 12 * NS_PER_S), calm_log, region->index);
}

static void follow_again(struct sim *sim, uint64_t number)
{
    sim->nodes[number].log_away = false;
}

static void cut_one(struct sim *sim, struct sim_node *node)
{
    if (node->log_away)
        return;
    node->log_away = true;
    sim->counts.log_faults++;
    sim_note(sim, "%s reads nothing of the log", node->name);
    undo_later(sim, sim_delay(sim, 100 * NS_PER_MS, 5 * NS_PER_S), follow_again, node->number);
}

/* One of those that read the log, or all shards. */
static void cut_reader(struct sim *sim)
{
    if (sim_below(sim, 3) != 0) {
        cut_one(sim, any_service(sim));
        return;
    }
    for (uint32_t i = 0; i < sim->node_count; i++)
        if (sim->nodes[i].service == &sim_shard_service)
            cut_one(sim, &sim->nodes[i]);
}

static void mend_disk(struct sim *sim, uint64_t number)
{
    sim->nodes[number].disk_fail = 0;
}

static void trouble_disk(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    if (node->disk_fail > 0)
        return;
    node->disk_fail = 1 + (uint32_t)sim_below(sim, 20);
    sim_note(sim, "the disk of %s fails %u%% of the time", node->name, node->disk_fail);
    undo_later(sim, sim_delay(sim, 100 * NS_PER_MS, 4 * NS_PER_S), mend_disk, node->number);
}

static void wake_clients(struct sim *sim, uint64_t what)
{
    (void)what;
    sim->quiet = false;
}

/* So long that an idle ingest writes its version vectors; the next holder begins there. */
static void rest(struct sim *sim)
{
    if (sim->counts.quiet > 0 || sim->options.seed % 4 != 0)
        return;
    sim->quiet = true;
    sim->counts.quiet++;
    sim_note(sim, "the clients rest");
    undo_later(sim, 14 * NS_PER_S, wake_clients, 0);
}

static void meta_back(struct sim *sim, uint64_t index)
{
    sim->regions[index].meta_away = false;
    sim->regions[index].meta_fail = 0;
}

static void trouble_meta(struct sim *sim)
{
    struct sim_region *region = any_region(sim);

    if (sim_below(sim, 2) == 0)
        region->meta_away = true;
    else
        region->meta_fail = 5 + (uint32_t)sim_below(sim, 30);
    sim->counts.meta_outages++;
    sim_note(sim, "the metadata store of region %s is %s", region->name,
             region->meta_away ? "away" : "unsure");
    undo_later(sim, sim_delay(sim, 300 * NS_PER_MS, 6 * NS_PER_S), meta_back, region->index);
}

/* --- the blob store ------------------------------------------------------------------------------
 */

static void calm_blobs(struct sim *sim, uint64_t what)
{
    struct sim_blobs *blobs = &sim->blobs;

    (void)what;
    blobs->fail = blobs->late = blobs->unanswered = 0;
    blobs->slow_ns = 0;
    blobs->is_away = false;
}

static void trouble_blobs(struct sim *sim)
{
    struct sim_blobs *blobs = &sim->blobs;

    blobs->is_away = sim_below(sim, 3) == 0;
    blobs->fail = (uint32_t)sim_below(sim, 40);
    blobs->late = (uint32_t)sim_below(sim, 100);
    blobs->unanswered = (uint32_t)sim_below(sim, 40);
    blobs->slow_ns = sim_below(sim, 2) == 0 ? sim_below(sim, NS_PER_S) : 0;
    sim_note(sim, "the blob store %s, fails %u%%, is silent for %u%%",
             blobs->is_away ? "is away" : "is unsure", blobs->fail, blobs->unanswered);
    undo_later(sim, sim_delay(sim, 300 * NS_PER_MS, 6 * NS_PER_S), calm_blobs, 0);
}

static void speed_up(struct sim *sim, uint64_t number)
{
    sim->nodes[number].blob_slow_ns = 0;
}

/* One replica needs so long for its snapshot that others make theirs meanwhile. */
static void slow_blobs(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    if (node->service != &sim_shard_service || node->blob_slow_ns > 0)
        return;
    node->blob_slow_ns = sim_below(sim, 3 * NS_PER_S);
    sim_note(sim, "the blob store is far from %s", node->name);
    undo_later(sim, sim_delay(sim, NS_PER_S, 12 * NS_PER_S), speed_up, node->number);
}

/* --- between regions -----------------------------------------------------------------------------
 */

static void mend_cut(struct sim *sim, uint64_t pair)
{
    sim->regions[pair / SIM_REGIONS_MAX].cut_from[pair % SIM_REGIONS_MAX] = false;
}

/* One region no longer reads another's log; the other way may be open. */
static void cut_regions(struct sim *sim)
{
    struct sim_region *from = any_region(sim), *to = any_region(sim);

    if (from == to || to->cut_from[from->index])
        return;
    to->cut_from[from->index] = true;
    sim->counts.cuts++;
    sim_note(sim, "region %s is cut off from region %s", to->name, from->name);
    undo_later(sim, sim_delay(sim, 300 * NS_PER_MS, 10 * NS_PER_S), mend_cut,
               to->index * SIM_REGIONS_MAX + from->index);
}

static struct sim_node *a_replicator(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    while (node->service != &sim_replicator_service)
        node = any_service(sim);
    return node;
}

static void crash_replicator(struct sim *sim)
{
    if (sim->region_count > 1)
        a_replicator(sim)->crash_in = 1 + (uint32_t)sim_below(sim, 300);
}

void sim_faults(void *argument)
{
    static void (*const FAULTS[])(struct sim * sim) = {
        crash,
        crash,
        crash,
        stop,
        stand_still,
        stand_still,
        step_clock,
        isolate,
        cut_link,
        trouble_blobs,
        lose_disk,
        put_old_disk,
        slow_blobs,
        trouble_net,
        trouble_log,
        trouble_log,
        cut_reader,
        trouble_meta,
        trouble_disk,
        rest,
        lose_log,
        cut_regions,
        cut_regions,
        crash_replicator, /* BETWEEN_REGIONS
                             of them */
    };
    struct sim *sim = argument;

    while (!sim->healing) {
        sim_world_sleep(sim, sim_delay(sim, PAUSE_MIN_NS, PAUSE_MAX_NS) * (sim->quiet ? 8 : 1));
        if (!sim->healing)
            FAULTS[sim_below(sim, sim->region_count > 1 ? ARRAY_COUNT(FAULTS)
                                                        : ARRAY_COUNT(FAULTS) - BETWEEN_REGIONS)](
                sim);
    }
    for (uint32_t i = 0; i < sim->node_count; i++) {
        struct sim_node *node = &sim->nodes[i];

        node->crash_in = 0;
        sim_resume(node);
        node->isolated = node->log_away = false;
        node->disk_fail = 0;
        node->blob_slow_ns = 0;
    }
    calm_net(sim, 0);
    calm_blobs(sim, 0);
    memset(sim->links_cut, 0, sizeof(sim->links_cut));
    for (uint32_t i = 0; i < sim->region_count; i++) {
        calm_log(sim, i);
        meta_back(sim, i);
        for (uint32_t j = 0; j < SIM_REGIONS_MAX; j++)
            sim->regions[i].cut_from[j] = false;
    }
    sim->healed = true;
    sim_wake(sim, &sim->clients, true);
}
