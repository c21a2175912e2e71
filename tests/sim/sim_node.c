/* A node's life: opened, in service, dead or stopped, closed, opened again.
 *
 * Death may come at any call of the node's env; its threads unwind, its object is closed, and a
 * new one is opened on what survives: the log, the metadata store, and a shard's store, less, after
 * a power cut, the commits that had not been synced. */
#include <stdio.h>
#include <stdlib.h>

#include "tests/sim/sim.h"

#define REOPEN_NS (500 * NS_PER_MS)

struct sim_node *sim_add_node(struct sim_region *region, const struct sim_service *service,
                              const char *name)
{
    struct sim *sim = region->sim;
    struct sim_node *node = &sim->nodes[sim->node_count];

    if (sim->node_count == SIM_NODES_MAX)
        abort();
    *node = (struct sim_node){.sim = sim,
                              .region = region,
                              .number = sim->node_count++,
                              .service = service,
                              .down = true};
    (void)snprintf(node->name, sizeof(node->name), "%s%s", region->prefix, name);
    node->boot_base_ns = NS_PER_S + sim_below(sim, 1000000) * NS_PER_S;
    node->drift_ppm = (int64_t)sim_below(sim, 401) - 200;
    node->skew_us = (int64_t)sim_below(sim, 20000001) - 10000000;
    (void)sim_life_new(node);
    sim_meta_attach(node);
    sim_net_attach(node);
    return node;
}

static void open_node(struct sim_node *node)
{
    struct sim *sim = node->sim;
    struct err err = {0};
    enum err_code code;

    (void)sim_life_new(node);
    sim_meta_attach(node);
    node->object = calloc(1, node->service->object_size);
    if (node->object == NULL)
        abort();
    code = node->service->open(node, &err);
    if (code == ERR_OK && !node->life->dead) {
        node->serving = true;
        node->opened_ns = sim->now_ns;
        node->down = false;
        sim->counts.restarts++;
        sim_note(sim, "%s is in service", node->name);
        return;
    }
    sim_note(sim, "%s could not be opened: %.100s", node->name, err.message);
}

static void cut_power(struct sim_node *node)
{
    struct sim *sim = node->sim;
    bool loses_all = node->loses_unsynced || sim_below(sim, 8) == 0;

    store_memory_crash(node->store, loses_all ? UINT32_MAX : (uint32_t)sim_below(sim, 30));
    sim->counts.power_cuts++;
}

/* What becomes of the disk of a node that is closed. */
static void change_disk(struct sim_node *node)
{
    struct sim *sim = node->sim;

    if (node->loses_disk) {
        sim_begin_lose_disk(node);
        sim->counts.disks_lost++;
        sim_note(sim, "%s has lost its disk", node->name);
    } else if (node->gets_old_disk && node->store != NULL && node->old_store != NULL) {
        store_close(node->store);
        node->store = node->old_store;
        node->old_store = NULL;
        node->disk_ns = sim->now_ns;
        sim->counts.old_disks++;
        sim_note(sim, "%s has an old disk", node->name);
    } else if (node->life->dead && node->store != NULL &&
               (node->loses_unsynced || sim_below(sim, 2) == 0)) {
        cut_power(node);
    }
    node->loses_disk = node->gets_old_disk = node->loses_unsynced = false;
}

static void close_node(struct sim_node *node)
{
    struct sim *sim = node->sim;

    node->serving = false;
    node->down = true;
    node->service->stop(node);
    while (node->guests > 0)
        (void)!sim_wait(&sim->world.env, &node->guests, NEVER_NS);
    node->service->close(node);
    free(node->object);
    node->object = NULL;
    sim_note(sim, "%s is closed", node->name);
    change_disk(node);
}

void sim_supervise(void *argument)
{
    struct sim_node *node = argument;
    struct sim *sim = node->sim;

    sim->supervisors++;
    while (!sim->stopping) {
        open_node(node);
        while (!node->life->dead && !node->down && !sim->stopping)
            (void)!sim_wait(&sim->world.env, node, NEVER_NS);
        close_node(node);
        if (!sim->stopping)
            sim_world_sleep(sim,
                            sim->healing ? REOPEN_NS : sim_delay(sim, NS_PER_MS, 3 * NS_PER_S));
    }
    store_close(node->store);
    store_close(node->old_store);
    node->store = node->old_store = NULL;
    sim->supervisors--;
    sim_wake(sim, &sim->supervisors, true);
}

void sim_stop_node(struct sim_node *node)
{
    if (node->down || node->life->dead)
        return;
    sim_note(node->sim, "%s is told to stop", node->name);
    node->down = true;
    sim_wake(node->sim, node, true);
}
