/* What goes wrong: one thing after another, several at a time, of kinds and lengths of chance. */
#include "tests/sim/sim.h"

#define PAUSE_MIN_NS (50 * NS_PER_MS)
#define PAUSE_MAX_NS (1200 * NS_PER_MS)

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

/* --- nodes ---------------------------------------------------------------------------------------
 */

static void crash(struct sim *sim)
{
    struct sim_node *node = any_service(sim);

    node->crash_in = 1 + (uint32_t)sim_below(sim, 300);
    sim_note(sim, "%s is to die at its call %u", node->name, node->crash_in);
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

static void calm_log(struct sim *sim, uint64_t what)
{
    (void)what;
    sim->log.lose = sim->log.late = sim->log.unanswered = sim->log.fail_reads = 0;
    sim->log.slow_ns = 0;
}

static void trouble_log(struct sim *sim)
{
    sim->log.lose = (uint32_t)sim_below(sim, 30);
    sim->log.late = (uint32_t)sim_below(sim, 30);
    sim->log.unanswered = (uint32_t)sim_below(sim, 30);
    sim->log.fail_reads = sim_below(sim, 2) == 0 ? (uint32_t)sim_below(sim, 15) : 0;
    sim->log.slow_ns = sim_below(sim, 2) == 0 ? sim_below(sim, 500 * NS_PER_MS) : 0;
    sim->counts.log_faults++;
    sim_note(sim, "the log loses %u%%, is late for %u%%, silent for %u%%", sim->log.lose,
             sim->log.late, sim->log.unanswered);
    undo_later(sim, sim_delay(sim, 500 * NS_PER_MS, 5 * NS_PER_S), calm_log, 0);
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

static void meta_back(struct sim *sim, uint64_t what)
{
    (void)what;
    sim->meta_away = false;
    sim->meta_fail = 0;
}

static void trouble_meta(struct sim *sim)
{
    if (sim_below(sim, 2) == 0)
        sim->meta_away = true;
    else
        sim->meta_fail = 5 + (uint32_t)sim_below(sim, 30);
    sim->counts.meta_outages++;
    sim_note(sim, "the metadata store is %s", sim->meta_away ? "away" : "unsure");
    undo_later(sim, sim_delay(sim, 300 * NS_PER_MS, 6 * NS_PER_S), meta_back, 0);
}

void sim_faults(void *argument)
{
    static void (*const FAULTS[])(struct sim * sim) = {
        crash,       crash,      crash,        stop,         stand_still,
        stand_still, step_clock, isolate,      trouble_net,  trouble_log,
        trouble_log, cut_reader, trouble_meta, trouble_disk, rest,
    };
    struct sim *sim = argument;

    while (!sim->healing) {
        sim_world_sleep(sim, sim_delay(sim, PAUSE_MIN_NS, PAUSE_MAX_NS) * (sim->quiet ? 8 : 1));
        if (!sim->healing)
            FAULTS[sim_below(sim, sizeof(FAULTS) / sizeof(FAULTS[0]))](sim);
    }
    for (uint32_t i = 0; i < sim->node_count; i++) {
        struct sim_node *node = &sim->nodes[i];

        node->crash_in = 0;
        sim_resume(node);
        node->isolated = node->log_away = false;
        node->disk_fail = 0;
    }
    calm_net(sim, 0);
    calm_log(sim, 0);
    meta_back(sim, 0);
    sim->healed = true;
    sim_wake(sim, &sim->clients, true);
}
