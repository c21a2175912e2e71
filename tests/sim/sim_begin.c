/* How a shard begins, by the real code: services/shard/begin.h, seed.h, copy.h.  Only its files are
 * real ones, in memory; the file of a store is without a byte where it stands for the node's disk.
 *
 * A store may be set aside only where a disk was lost, or an old one put back: else the log was
 * trimmed above what a replica had, or the replica could not go on from it. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "services/shard/apply.h"
#include "services/shard/begin.h"
#include "services/shard/segments.h"
#include "tests/sim/sim.h"

#define FROM_LOG_ONE_IN 4 /* where the log would do */

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

void sim_node_path(const struct sim_node *node, const char *what, char path[SIM_PATH_BYTES])
{
    char folder[SIM_PATH_BYTES / 2];

    (void)snprintf(folder, sizeof(folder), "/dev/shm/vicinal-sim-%ld", (long)getpid());
    (void)snprintf(path, SIM_PATH_BYTES, "%s/%s.%s", folder, node->name, what);
}

/* --- the disk and its file ---------------------------------------------------------------------
 */

struct disk {
    char data[SIM_PATH_BYTES], store[SIM_PATH_BYTES], file[SIM_PATH_BYTES];
};

static void set_paths(struct disk *disk, const struct sim_node *node)
{
    sim_node_path(node, "data", disk->data);
    sim_node_path(node, "data/store", disk->store);
    sim_node_path(node, "data/store/" STORE_COPY_NAME, disk->file);
}

static bool make_file(const char *path)
{
    FILE *file = fopen(path, "wb");

    return file != NULL && fclose(file) == 0;
}

/* The folder is there, and in it the file, if the node has a disk. */
static enum err_code show_disk(const struct sim_node *node, const struct disk *disk,
                               struct err *err)
{
    if ((mkdir(disk->data, 0700) != 0 && errno != EEXIST) ||
        (node->store != NULL && ((mkdir(disk->store, 0700) != 0 && errno != EEXIST) ||
                                 (access(disk->file, F_OK) != 0 && !make_file(disk->file)))))
        return err_set_errno(err, errno, "no folder for %s", node->name);
    return ERR_OK;
}

/* -1: there is none. */
static off_t file_bytes(const struct disk *disk)
{
    struct stat about;

    return stat(disk->file, &about) == 0 ? about.st_size : -1;
}

static void check_aside(struct sim_node *node)
{
    struct sim *sim = node->sim;
    struct apply apply = {0};
    struct err err = {0};
    bool is_empty = apply_load(&apply, node->store, &err) == ERR_NOT_FOUND;

    apply_free(&apply);
    sim->counts.set_aside++;
    sim_note(sim, "%s sets its store aside", node->name);
    if (!is_empty && !sim_had_other_disk(node, node->region->log.trimmed_ns))
        sim_fail(sim, "%s cannot go on from its store, and has had no other disk lately",
                 node->name);
}

/* What has happened to the file has happened to the disk. */
static enum err_code take_disk(struct sim_node *node, const struct disk *disk, struct err *err)
{
    char url[SIM_PATH_BYTES + 8];
    struct store_options options = {.url = url, .env = &node->sim->world.env};
    enum err_code code = ERR_OK;

    if (node->store != NULL && file_bytes(disk) != 0) {
        check_aside(node);
        store_close(node->store);
        node->store = NULL;
    }
    if (node->store != NULL || file_bytes(disk) <= 0)
        return ERR_OK;
    (void)snprintf(url, sizeof(url), "lmdb:%s", disk->store);
    code = store_open(&node->store, &options, err);
    if (code == ERR_OK)
        code = store_sync(node->store, err);
    if (code == ERR_OK && truncate(disk->file, 0) != 0)
        code = err_set_errno(err, errno, "the file of %s", node->name);
    return code;
}

void sim_begin_lose_disk(struct sim_node *node)
{
    static const char *const FOLDERS[] = {"data", "copies", "snapshot"};
    char path[SIM_PATH_BYTES];
    struct err ignored = {0};

    store_close(node->store);
    node->store = NULL;
    node->is_new = true;
    node->disk_ns = node->sim->now_ns;
    for (size_t i = 0; i < ARRAY_COUNT(FOLDERS); i++) {
        sim_node_path(node, FOLDERS[i], path);
        (void)!segments_remove(path, &ignored);
    }
}

/* --- beginning ---------------------------------------------------------------------------------
 */

static void count(struct sim_node *node, const struct begin *begin, uint64_t gets)
{
    struct sim *sim = node->sim;
    bool has_snapshot = begin->bytes > 0 && node->blob_gets > gets;

    sim->counts.copies += begin->bytes > 0 && !has_snapshot;
    sim->counts.begun_with_snapshot += has_snapshot;
    sim->counts.copied_bytes += begin->bytes;
    sim->counts.copies_failed += begin->seed && begin->bytes == 0;
    if (begin->bytes > 0)
        sim_note(sim, "%s has begun with a %s of %llu bytes", node->name,
                 has_snapshot ? "snapshot" : "copy", (unsigned long long)begin->bytes);
}

enum err_code sim_begin_shard(struct sim_node *node, uint64_t *bytes, struct err *err)
{
    struct disk disk;
    char wal_url[16];
    struct blob *blob = sim_blob_open(node);
    struct begin begin = {.env = &node->life->env,
                          .meta = &node->meta,
                          .blob = blob,
                          .client = &node->client,
                          .wal_url = wal_url,
                          .data = disk.data,
                          .shard = node->shard,
                          .replica = node->replica,
                          .records_min = 1};
    uint64_t gets = node->blob_gets;
    enum err_code code;

    (void)snprintf(wal_url, sizeof(wal_url), "sim:%u", node->region->index);
    begin.seed = node->is_new && sim_below(node->sim, FROM_LOG_ONE_IN) != 0;
    set_paths(&disk, node);
    code = show_disk(node, &disk, err);
    if (code == ERR_OK) {
        struct err taking = {0};
        enum err_code taken;

        code = begin_run(&begin, err);
        taken = take_disk(node, &disk, &taking);
        if (code == ERR_OK && taken != ERR_OK) {
            *err = taking;
            code = taken;
        }
        count(node, &begin, gets);
    }
    blob_close(blob);
    *bytes = begin.bytes;
    node->is_new = node->is_new && code != ERR_OK;
    return code;
}

void sim_begin_again(void *context, const struct err *why)
{
    struct sim_node *node = context;
    char data[SIM_PATH_BYTES];
    struct err err = {0};

    sim_note(node->sim, "%s has to begin again: %.80s", node->name, why->message);
    sim_node_path(node, "data", data);
    if (begin_again(data, &err) != ERR_OK)
        sim_fail(node->sim, "%s cannot note that it has to begin again", node->name);
    sim_stop_node(node);
}
