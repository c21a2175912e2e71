/* A replica that has lost its disk begins with a copy of another's, made, handed out and fetched by
 * the real code: services/shard/copy.h, seed.h.  Only its files are real ones, in memory. */
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/shard/seed.h"
#include "services/shard/segments.h"
#include "tests/sim/sim.h"

#define FROM_LOG_ONE_IN 4 /* all the same */

static void folder_of(pid_t pid, char path[SIM_PATH_BYTES])
{
    (void)snprintf(path, SIM_PATH_BYTES, "/dev/shm/vicinal-sim-%ld", (long)pid);
}

void sim_folder_make(void)
{
    char path[SIM_PATH_BYTES];

    folder_of(getpid(), path);
    if (mkdir(path, 0700) != 0)
        perror(path);
}

void sim_folder_remove(pid_t pid)
{
    char path[SIM_PATH_BYTES];
    struct err ignored = {0};

    folder_of(pid, path);
    (void)!segments_remove(path, &ignored);
}

static void path_of(const struct sim_node *node, const char *what, char path[SIM_PATH_BYTES])
{
    char folder[SIM_PATH_BYTES / 2];

    (void)snprintf(folder, sizeof(folder), "/dev/shm/vicinal-sim-%ld", (long)getpid());
    (void)snprintf(path, SIM_PATH_BYTES, "%s/%s.%s", folder, node->name, what);
}

void sim_copy_folder(const struct sim_node *node, char path[SIM_PATH_BYTES])
{
    path_of(node, "copies", path);
}

/* What has taken its place below the folder, if anything has. */
static enum err_code take_store(struct sim_node *node, const char *folder, struct err *err)
{
    char store[SIM_PATH_BYTES + 16], url[SIM_PATH_BYTES + 32];
    struct store_options options = {.url = url, .env = &node->sim->world.env};

    (void)snprintf(store, sizeof(store), "%s/store", folder);
    (void)snprintf(url, sizeof(url), "lmdb:%s", store);
    if (access(store, F_OK) != 0)
        return ERR_OK;
    return store_open(&node->store, &options, err);
}

enum err_code sim_copy_begin(struct sim_node *node, struct err *err)
{
    struct sim *sim = node->sim;
    char folder[SIM_PATH_BYTES];
    struct seed seed = {.env = &node->life->env,
                        .meta = &node->meta,
                        .client = &node->client,
                        .data = folder,
                        .shard = node->shard,
                        .replica = node->replica,
                        .records_min = 1};
    struct err ignored = {0};
    enum err_code code;

    if (!node->is_new || node->store != NULL)
        return ERR_OK;
    node->is_new = false;
    if (node->region->replicas < 2 || sim_below(sim, FROM_LOG_ONE_IN) == 0)
        return ERR_OK;
    path_of(node, "data", folder);
    if (mkdir(folder, 0700) != 0)
        return err_set(err, ERR_IO, "no folder %s", folder);
    code = seed_run(&seed, err);
    if (code == ERR_OK)
        code = take_store(node, folder, err);
    sim->counts.copies += seed.bytes > 0;
    sim->counts.copied_bytes += seed.bytes;
    sim->counts.copies_failed += seed.bytes == 0;
    sim_note(sim, "%s has begun with a copy of %llu bytes", node->name,
             (unsigned long long)seed.bytes);
    node->is_new = code != ERR_OK;
    (void)!segments_remove(folder, &ignored);
    return code;
}
