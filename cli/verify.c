/* vicinal verify: every checksum and every rule of a data folder, while nothing runs on it.
 *
 * Happy path: find out what the folder is (a suite of `up`, several regions, a shard's --data, a
 * log's folder), look at each thing in it, hold the shards against the log.  Nothing is written
 * there; lock files are held, so that no service starts meanwhile.
 *
 * Failure modes: a folder in use, or one that cannot be read, is said and makes exit code 2; what
 * else is there is looked at all the same.  Damage makes exit code 1, whatever else was. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/blob/blob.h"
#include "backends/meta/meta_verify.h"
#include "cli/verify.h"
#include "cluster/regions.h"
#include "common/base/checked.h"
#include "common/base/json_writer.h"
#include "services/ingest/spool_verify.h"

#define REGIONS_FILE  "regions" /* up_folder.c */
#define LOCK_FILE     "lock"
#define BLOB_FOLDER   "blob" /* up_regions.c */
#define REGIONS_BYTES 4096

static const struct option options[] = {
    {.name = "blob",
     .type = OPTION_TEXT,
     .help = "Blob store of imports and snapshots, as `up` was given it.  By default DIR/blob, if\n"
             "it is there; without one, rows that were imported are not compared.",
     .offset = offsetof(struct verify, blob_url)},
    {.name = "json",
     .type = OPTION_BOOL,
     .fallback = "false",
     .help = "One JSON document instead of lines.",
     .offset = offsetof(struct verify, json)},
    {0},
};

static bool is_there(const char *folder, const char *name)
{
    char path[PATH_MAX];
    int len = snprintf(path, sizeof(path), "%s/%s", folder, name);

    return len > 0 && (size_t)len < sizeof(path) && access(path, F_OK) == 0;
}

/* --- things ---------------------------------------------------------------------------------- */

static enum err_code look_at_meta(struct verify *verify, const char *folder, struct err *err)
{
    struct verify_thing *thing;
    struct meta_verified found;
    struct err why = {0};
    enum err_code rc = verify_thing_begin(&thing, verify, "metadata", folder, "meta.db", err);

    if (rc != ERR_OK)
        return rc;
    verify_thing_note(thing, meta_verify(thing->path, &thing->scrub, &found, &why), &why);
    verify_count(thing, "rows", found.rows);
    verify_count(thing, "bytes", found.bytes);
    verify_thing_end(thing);
    return ERR_OK;
}

static enum err_code look_at_spool(struct verify *verify, const char *folder, struct err *err)
{
    struct verify_thing *thing;
    struct spool_verified found;
    struct err why = {0};
    enum err_code rc = verify_thing_begin(&thing, verify, "spool", folder, "spool", err);

    if (rc != ERR_OK)
        return rc;
    verify_thing_note(thing, spool_verify(thing->path, verify->env, &thing->scrub, &found, &why),
                      &why);
    verify_count(thing, "waiting", found.waiting);
    verify_count(thing, "parked", found.parked);
    verify_count(thing, "bytes", found.bytes);
    verify_thing_end(thing);
    return ERR_OK;
}

static enum err_code look_at_shard(struct verify *verify, const char *folder, const char *name,
                                   struct verify_shard *shard, struct err *err)
{
    struct shard_verify_setup setup = {.env = verify->env, .blob = verify->blob};
    struct err why = {0};
    enum err_code rc = verify_thing_begin(&shard->thing, verify, "shard", folder, name, err);

    if (rc != ERR_OK)
        return rc;
    setup.data = shard->thing->path;
    setup.scrub = &shard->thing->scrub;
    verify_thing_note(shard->thing, shard_verify_open(&shard->look, &setup, &why), &why);
    return ERR_OK;
}

static void end_shard(struct verify_shard *shard)
{
    const struct shard_verified *found;

    if (shard->thing == NULL)
        return;
    if (shard->look != NULL) {
        found = shard_verify_result(shard->look);
        verify_count(shard->thing, "collections", found->collections);
        verify_count(shard->thing, "live", found->live);
        verify_count(shard->thing, "as in the log", found->compared);
        verify_count(shard->thing, "tombstones", found->tombstones);
        verify_count(shard->thing, "vectors", found->vectors);
        verify_count(shard->thing, "store bytes", found->store_bytes);
        verify_count(shard->thing, "segments", found->segment_files);
        verify_count(shard->thing, "vectors in segments", found->segment_vectors);
        verify_count(shard->thing, "segment bytes", found->segment_bytes);
        if (found->bulk_uncompared > 0)
            verify_count(shard->thing, "sections of imports not compared", found->bulk_uncompared);
    }
    shard_verify_close(shard->look);
    verify_thing_end(shard->thing);
}

/* --- a suite --------------------------------------------------------------------------------- */

static int is_shard(const struct dirent *entry)
{
    return strncmp(entry->d_name, "shard-", strlen("shard-")) == 0;
}

/* The log, the shards of `names`, and what else a suite has. */
static enum err_code look_at_parts(struct verify *verify, const char *folder,
                                   struct dirent *const *names, size_t count, struct err *err)
{
    struct verify_shard *shards = array_alloc(count, sizeof(*shards));
    enum err_code rc = ERR_OK;

    if (shards == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory to look at %zu shards", count);
    if (is_there(folder, "meta.db"))
        rc = look_at_meta(verify, folder, err);
    if (rc == ERR_OK && is_there(folder, "spool"))
        rc = look_at_spool(verify, folder, err);
    for (size_t i = 0; rc == ERR_OK && i < count && !verify_is_stopping(); i++)
        rc = look_at_shard(verify, folder, names[i]->d_name, &shards[i], err);
    if (rc == ERR_OK && is_there(folder, "wal") && !verify_is_stopping())
        rc = verify_log(verify, folder, "wal", shards, count, err);
    for (size_t i = 0; i < count; i++)
        end_shard(&shards[i]);
    free(shards);
    return rc;
}

static enum err_code look_at_suite(struct verify *verify, const char *folder, struct err *err)
{
    struct dirent **names = NULL;
    enum err_code rc;
    int lock, count;

    rc = scrub_lock(&lock, folder, LOCK_FILE, err);
    if (rc != ERR_OK)
        return rc;
    count = scandir(folder, &names, is_shard, alphasort);
    if (count < 0)
        rc = err_set_errno(err, errno, "%.200s", folder);
    else if (count > VERIFY_SHARDS_MAX)
        rc =
            err_set(err, ERR_CONFIG, "%.200s holds more than %d shards", folder, VERIFY_SHARDS_MAX);
    else
        rc = look_at_parts(verify, folder, names, (size_t)count, err);
    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    if (lock >= 0)
        (void)close(lock); /* lets go of it */
    return rc;
}

/* --- folders --------------------------------------------------------------------------------- */

static enum err_code read_regions(const char *folder, char names[REGIONS_BYTES], struct err *err)
{
    char path[PATH_MAX];
    ssize_t len = -1;
    int fd = -1;

    if (snprintf(path, sizeof(path), "%s/" REGIONS_FILE, folder) < (int)sizeof(path))
        fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd >= 0) {
        len = read(fd, names, REGIONS_BYTES - 1);
        (void)close(fd);
    }
    if (len < 0)
        return err_set_errno(err, errno, "%.200s", path);
    names[len] = '\0';
    return ERR_OK;
}

static enum err_code look_at_regions(struct verify *verify, const char *folder, struct err *err)
{
    char names[REGIONS_BYTES], path[PATH_MAX];
    char *state = NULL;
    enum err_code rc = read_regions(folder, names, err);

    for (char *name = rc == ERR_OK ? strtok_r(names, ",\n", &state) : NULL;
         rc == ERR_OK && name != NULL; name = strtok_r(NULL, ",\n", &state)) {
        if (!region_name_is_valid(name))
            rc =
                err_set(err, ERR_CONFIG, "%.200s/" REGIONS_FILE " names what is no region", folder);
        else if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
            rc = err_set(err, ERR_CONFIG, "the path %.200s is too long", folder);
        else
            rc = look_at_suite(verify, path, err);
    }
    return rc;
}

static int is_segment(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name);

    return len > 4 && strcmp(entry->d_name + len - 4, ".wal") == 0;
}

static bool has_segments(const char *folder)
{
    struct dirent **names = NULL;
    int count = scandir(folder, &names, is_segment, NULL);

    for (int i = 0; i < count; i++)
        free(names[i]);
    free(names);
    return count > 0;
}

/* One for all regions of the folder, as `up` has it. */
static enum err_code open_blob(struct verify *verify, const char *folder, struct err *err)
{
    char url[PATH_MAX + 16];
    enum err_code rc;

    if (verify->blob_url != NULL) {
        rc = blob_open_to_read(&verify->blob, verify->blob_url, verify->env, err);
        return rc == ERR_OK ? ERR_OK : err_wrap(err, "--blob");
    }
    if (!is_there(folder, BLOB_FOLDER))
        return ERR_OK;
    (void)snprintf(url, sizeof(url), "file:%s/" BLOB_FOLDER, folder);
    return blob_open_to_read(&verify->blob, url, verify->env, err);
}

static enum err_code look_at_folder(struct verify *verify, const char *folder, struct err *err)
{
    struct verify_shard shard = {0};
    enum err_code rc;

    if (is_there(folder, REGIONS_FILE))
        return look_at_regions(verify, folder, err);
    if (is_there(folder, "store")) {
        rc = look_at_shard(verify, folder, "", &shard, err);
        end_shard(&shard);
        return rc;
    }
    if (has_segments(folder))
        return verify_log(verify, folder, "", NULL, 0, err);
    rc = look_at_suite(verify, folder, err);
    if (rc == ERR_OK && verify->things == 0)
        rc = err_set(err, ERR_CONFIG, "%.200s holds nothing of vicinal's", folder);
    return rc;
}

/* Everything, while nothing may begin to run on it. */
static enum err_code look_at(struct verify *verify, const char *folder, struct err *err)
{
    bool has_url = verify->blob_url != NULL;
    int lock;
    enum err_code rc = scrub_lock(&lock, folder, LOCK_FILE, err);

    if (rc == ERR_OK)
        rc = look_at_folder(verify, folder, err);
    if (rc == ERR_OK && verify->blob != NULL && !verify_is_stopping())
        rc = verify_blob(verify, has_url ? verify->blob_url : folder, has_url ? "" : BLOB_FOLDER,
                         err);
    if (lock >= 0)
        (void)close(lock); /* lets go of it */
    return rc;
}

static int run_verify(void *settings, const struct cli_operands *operands)
{
    struct verify *verify = settings;
    struct json_writer writer;
    struct err err = {0};
    enum err_code rc;

    if (operands->count != 1) {
        (void)err_set(&err, ERR_CONFIG, "one folder is wanted: vicinal verify DIR");
        return cli_fail("verify", &err);
    }
    verify->env = env_real();
    verify->writer = &writer;
    json_writer_init(&writer, &verify->report);
    verify_begin(verify);
    rc = open_blob(verify, operands->items[0], &err);
    if (rc == ERR_OK)
        rc = look_at(verify, operands->items[0], &err);
    if (rc == ERR_OK && verify_is_stopping())
        rc = err_set(&err, ERR_DEAD, "stopped");
    verify_end(verify);
    buffer_free(&verify->report);
    verify_forget_logs(verify);
    blob_close(verify->blob);
    if (rc != ERR_OK)
        (void)cli_fail("verify", &err);
    if (verify->findings > 0)
        return EXIT_FAILED;
    return rc == ERR_OK && verify->failures == 0 ? EXIT_SUCCESS : EXIT_CONFIG;
}

const struct verb verb_verify = {
    .name = "verify",
    .brief = "Check every checksum and every rule of a data folder.",
    .synopsis = "DIR [--blob URL] [--json]",
    .about =
        "DIR is the folder of `vicinal up`, or what a log or a shard keeps by itself.  Looks at\n"
        "the log, the stores of the shards, their segments, the spool and the metadata file,\n"
        "and holds the shards against the log and the objects of imports that it names, and\n"
        "the snapshots of the blob store against their manifests and the log.\n"
        "Changes nothing; no service may be running.\n\n"
        "Exit codes: 0 all is well, 1 damage was found, 2 something could not be looked at.",
    .options = options,
    .settings_size = sizeof(struct verify),
    .operand_max = 1,
    .run = run_verify,
};
