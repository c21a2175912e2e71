/* The regions of vicinal up, and the processes of each: see up.h.
 *
 * Failure modes, all refused before anything is started: a name that is none or stands twice; a log
 * or a metadata store that regions would share; logs with different numbers of partitions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/blob/blob.h"
#include "backends/wal/wal.h"
#include "cli/up.h"
#include "common/base/checked.h"
#include "common/base/log.h"
#include "common/base/text.h"

#define INTERNAL "127.0.0.1:0"
#define PLACE    "{region}"

/* --- names and URLs -------------------------------------------------------------------------- */

static enum err_code add_region(struct up *up, const char *name, size_t len, struct err *err)
{
    struct up_region *region = &up->regions[up->region_count];
    int written;

    if (up->region_count == UP_REGIONS_MAX)
        return err_set(err, ERR_CONFIG, "--regions: at most %d on one machine", UP_REGIONS_MAX);
    if (len >= sizeof(region->name))
        len = sizeof(region->name); /* too long: below */
    written = snprintf(region->name, sizeof(region->name), "%.*s", (int)len, name);
    if (written >= (int)sizeof(region->name) || !region_name_is_valid(region->name))
        return err_set(err, ERR_CONFIG, "--regions %s: a name has 1 to %d of a-z, 0-9 and -",
                       up->region_names, REGION_NAME_BYTES - 1);
    for (size_t i = 0; i < up->region_count; i++)
        if (strcmp(up->regions[i].name, region->name) == 0)
            return err_set(err, ERR_CONFIG, "--regions %s: \"%s\" stands there twice",
                           up->region_names, region->name);
    up->region_count++;
    return ERR_OK;
}

static enum err_code read_names(struct up *up, struct err *err)
{
    const char *at = up->region_names;
    enum err_code rc = ERR_OK;

    if (at == NULL) {
        up->region_count = 1;
        return ERR_OK;
    }
    while (rc == ERR_OK) {
        size_t len = strcspn(at, ",");

        rc = add_region(up, at, len, err);
        if (at[len] == '\0')
            break;
        at += len + 1;
    }
    return rc;
}

/* A URL option, and what stands for it when it is not given: prefix, folder, suffix. */
struct url_option {
    const char *name, *given, *prefix, *suffix;
};

/* What is given, with the region's name in its place. */
static enum err_code fill_url(const struct up *up, const struct up_region *region,
                              const struct url_option *option, char out[UP_URL_BYTES],
                              struct err *err)
{
    const char *url = option->given, *place;
    struct buffer text = {0};
    enum err_code rc;

    if (strstr(url, PLACE) != NULL && up->region_names == NULL)
        return err_set(err, ERR_CONFIG, "--%s has " PLACE " in it: name the region by --regions",
                       option->name);
    for (; (place = strstr(url, PLACE)) != NULL; url = place + strlen(PLACE)) {
        buffer_append(&text, url, (size_t)(place - url));
        buffer_append_text(&text, region->name);
    }
    buffer_append(&text, url, strlen(url) + 1);
    rc = buffer_check(&text, err);
    if (rc == ERR_OK && text.len > UP_URL_BYTES)
        rc = err_set(err, ERR_CONFIG, "--%s is too long", option->name);
    if (rc == ERR_OK)
        memcpy(out, text.data, text.len);
    buffer_free(&text);
    return rc;
}

/* The URL of something that no two regions may share. */
static enum err_code own_url(const struct up *up, const struct up_region *region,
                             const struct url_option *option, char out[UP_URL_BYTES],
                             struct err *err)
{
    int len;

    if (option->given != NULL && up->region_count > 1 && strstr(option->given, PLACE) == NULL)
        return err_set(err, ERR_CONFIG,
                       "--%s has to have " PLACE " in it, which becomes the region's name: regions "
                       "share no log and no metadata",
                       option->name);
    if (option->given != NULL)
        return fill_url(up, region, option, out, err);
    len = snprintf(out, UP_URL_BYTES, "%s%s%s", option->prefix, region->data, option->suffix);
    if (len < 0 || len >= UP_URL_BYTES)
        return err_set(err, ERR_CONFIG, "--data is too long");
    return ERR_OK;
}

/* HOST:PORT, HOST:PORT+1 …; what cannot be read is refused when a process gets it. */
static enum err_code set_listen(const struct up *up, struct up_region *region, size_t number,
                                struct err *err)
{
    const char *colon = strrchr(up->listen, ':');
    uint64_t port = 0;
    int len;

    if (colon == NULL || !text_to_u64(colon + 1, strlen(colon + 1), &port) || port == 0)
        len = snprintf(region->listen, sizeof(region->listen), "%s", up->listen);
    else
        len = snprintf(region->listen, sizeof(region->listen), "%.*s:%llu",
                       (int)(colon - up->listen), up->listen, (unsigned long long)(port + number));
    if (len < 0 || (size_t)len >= sizeof(region->listen))
        return err_set(err, ERR_CONFIG, "--listen \"%.100s\" is not of the form HOST:PORT",
                       up->listen);
    if (port > UINT16_MAX - number)
        return err_set(err, ERR_CONFIG, "--listen %s: there are no %zu ports from there on",
                       up->listen, up->region_count);
    return ERR_OK;
}

/* One for all regions: objects of one are read in the others. */
static enum err_code set_blob(const struct up *up, struct up_region *region, struct err *err)
{
    const struct url_option blob = {"blob", up->blob, NULL, NULL};
    enum err_code rc;
    int len;

    if (up->blob == NULL) {
        len = snprintf(region->blob_url, UP_URL_BYTES, "file:%s/blob", up->data);
        return len >= 0 && len < UP_URL_BYTES ? ERR_OK
                                              : err_set(err, ERR_CONFIG, "--data is too long");
    }
    if (strstr(up->blob, PLACE) != NULL)
        return err_set(err, ERR_CONFIG, "--blob has " PLACE " in it: regions share their imports");
    rc = blob_check_url(up->blob, err);
    return rc == ERR_OK ? fill_url(up, region, &blob, region->blob_url, err)
                        : err_wrap(err, "--blob");
}

enum err_code up_set_regions(struct up *up, struct err *err)
{
    const struct url_option wal = {"wal", up->wal, "file:", "/wal"};
    const struct url_option meta = {"meta", up->meta, "sqlite:", "/meta.db"};
    const struct url_option cache = {"cache", up->cache, "", ""};
    enum err_code rc = read_names(up, err);

    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++) {
        struct up_region *region = &up->regions[i];
        int len = snprintf(region->data, sizeof(region->data), "%s%s%s", up->data,
                           region->name[0] == '\0' ? "" : "/", region->name);

        if (len < 0 || (size_t)len >= sizeof(region->data))
            rc = err_set(err, ERR_CONFIG, "--data is too long");
        if (rc == ERR_OK)
            rc = own_url(up, region, &wal, region->wal_url, err);
        if (rc == ERR_OK)
            rc = own_url(up, region, &meta, region->meta_url, err);
        if (rc == ERR_OK)
            rc = fill_url(up, region, &cache, region->cache_url, err);
        if (rc == ERR_OK)
            rc = set_blob(up, region, err);
        if (rc == ERR_OK)
            rc = set_listen(up, region, i, err);
    }
    return rc;
}

/* --- logs ------------------------------------------------------------------------------------ */

/* That the URL is none of ours, and how many partitions there are.  A log that is not there yet, or
 * whose brokers do not answer yet, is for ingest to wait for; the latter is told. */
static enum err_code look_at_log(struct up_region *region, struct err *err)
{
    struct wal_options options = {.url = region->wal_url, .env = env_real()};
    struct err found = {0};
    uint32_t partitions = 0;
    enum err_code rc = wal_look(&options, &partitions, &found);

    region->partitions = rc == ERR_OK ? partitions : 0;
    if (rc == ERR_CONFIG) {
        *err = found;
        return err_wrap(err, "--wal");
    }
    if (rc != ERR_OK && rc != ERR_NOT_FOUND)
        log_warn(NULL, "the log does not answer; the start waits for it",
                 LOG_TEXT("option", "--wal"), LOG_TEXT("error", found.message));
    return ERR_OK;
}

enum err_code up_look_at_logs(struct up *up, struct err *err)
{
    const struct up_region *known = NULL;
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++) {
        struct up_region *region = &up->regions[i];

        rc = look_at_log(region, err);
        if (rc != ERR_OK || region->partitions == 0)
            continue;
        if (known != NULL && known->partitions != region->partitions)
            return err_set(err, ERR_CONFIG,
                           "the log of region %s has %u partitions and that of %s has %u: regions "
                           "have the same number, which is fixed when a log is made; move %s out "
                           "of the way, and write its records again when it has been made anew",
                           known->name, known->partitions, region->name, region->partitions,
                           region->name);
        known = region;
    }
    if (rc != ERR_OK)
        return rc;
    if (known != NULL && up->partitions != 0 && up->partitions != known->partitions)
        return err_set(err, ERR_CONFIG, "--partitions %llu: the log has %u, which is fixed",
                       (unsigned long long)up->partitions, known->partitions);
    if (up->partitions == 0)
        up->partitions = known != NULL ? known->partitions : PARTITIONS_DEFAULT;
    return ERR_OK;
}

/* --- processes ------------------------------------------------------------------------------- */

/* The next child: program "vicinal-KIND" with arguments; the router has the public address. */
static enum err_code add_child(struct up *up, const struct up_region *region, const char *kind,
                               const char *const *args, struct err *err)
{
    const char *listen = strcmp(kind, "router") == 0 ? region->listen : INTERNAL;
    struct child *child = &up->children[up->child_count++];
    size_t size = strlen(up->programs) + strlen(kind) + 16;
    const char *const common[] = {"--meta", region->meta_url, "--log-level", up->log_level, NULL};
    enum err_code rc;

    child->out = -1;
    (void)snprintf(child->name, sizeof(child->name), "%s%s%s", region->name,
                   region->name[0] == '\0' ? "" : " ", kind);
    child->program = malloc(size);
    if (child->program == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %s", kind);
    (void)snprintf(child->program, size, "%s/vicinal-%s", up->programs, kind);
    rc = child_listen_on(child, listen, err);
    if (rc == ERR_OK)
        rc = child_add_args(child, args, err);
    if (rc == ERR_OK)
        rc = child_add_args(child, common, err);
    return rc;
}

static enum err_code add_ingest(struct up *up, struct up_region *region, struct err *err)
{
    const char *embedders = up->embedders == NULL ? "" : up->embedders;
    bool is_remote = strncmp(region->wal_url, "file:", 5) != 0;
    char partitions[24], spool[PATH_MAX];
    const char *const args[] = {"--embedders-cache",
                                up->embedders_cache,
                                "--embedders",
                                embedders,
                                "--wal",
                                region->wal_url,
                                "--blob",
                                region->blob_url,
                                "--partitions",
                                partitions,
                                "--spool",
                                spool,
                                up->repair ? "--repair" : NULL,
                                NULL};

    (void)snprintf(partitions, sizeof(partitions), "%llu", (unsigned long long)up->partitions);
    /* For what the log does not take while it is away. */
    if ((size_t)snprintf(spool, sizeof(spool), "%s%s", is_remote ? region->data : "",
                         is_remote ? "/spool" : "") >= sizeof(spool))
        return err_set(err, ERR_CONFIG, "--data is too long");
    region->ingest = &up->children[up->child_count];
    return add_child(up, region, "ingest", args, err);
}

static enum err_code add_shard(struct up *up, const struct up_region *region, uint32_t shard,
                               uint32_t replica, struct err *err)
{
    char shard_text[16], replica_text[16], data[PATH_MAX];
    const char *const args[] = {
        "--shard", shard_text,      "--replica", replica_text,     "--data", data,
        "--wal",   region->wal_url, "--blob",    region->blob_url, NULL};
    struct child *child = &up->children[up->child_count];
    size_t named;
    enum err_code rc;
    int len;

    (void)snprintf(shard_text, sizeof(shard_text), "%u", shard);
    (void)snprintf(replica_text, sizeof(replica_text), "%u", replica);
    len = snprintf(data, sizeof(data), "%s/shard-%u.%u", region->data, shard, replica);
    if (len < 0 || (size_t)len >= sizeof(data))
        return err_set(err, ERR_CONFIG, "--data is too long");
    rc = add_child(up, region, "shard", args, err);
    named = strlen(child->name);
    (void)snprintf(child->name + named, sizeof(child->name) - named, " %u.%u", shard, replica);
    return rc;
}

static enum err_code add_shards(struct up *up, const struct up_region *region, struct err *err)
{
    enum err_code rc = ERR_OK;

    for (uint32_t shard = 0; shard < up->shards; shard++)
        for (uint32_t replica = 0; replica < up->replicas && rc == ERR_OK; replica++)
            rc = add_shard(up, region, shard, replica, err);
    return rc;
}

static enum err_code add_replicator(struct up *up, struct up_region *region, struct err *err)
{
    const char *const args[] = {"--region", region->name, NULL};

    region->replicator = &up->children[up->child_count];
    return add_child(up, region, "replicator", args, err);
}

static enum err_code add_router(struct up *up, struct up_region *region, struct err *err)
{
    const char *embedders = up->embedders == NULL ? "" : up->embedders;
    const char *const args[] = {"--embedders-cache", up->embedders_cache, "--embedders", embedders,
                                "--cache",           region->cache_url,   NULL};

    region->router = &up->children[up->child_count];
    return add_child(up, region, "router", args, err);
}

enum err_code up_add_children(struct up *up, struct err *err)
{
    size_t each = up->shards * up->replicas + 2 + (up->region_names != NULL);
    size_t total = each * up->region_count;
    enum err_code rc = ERR_OK;

    if (total > SUPERVISED_MAX)
        return err_set(err, ERR_CONFIG, "%zu processes are too many for one machine", total);
    up->children = array_alloc(total, sizeof(*up->children));
    if (up->children == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    up->supervisor.children = up->children;
    up->supervisor.doors = up->region_count;
    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++)
        rc = add_ingest(up, &up->regions[i], err);
    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++)
        rc = add_shards(up, &up->regions[i], err);
    for (size_t i = 0; i < up->region_count && up->region_names != NULL && rc == ERR_OK; i++)
        rc = add_replicator(up, &up->regions[i], err);
    for (size_t i = 0; i < up->region_count && rc == ERR_OK; i++)
        rc = add_router(up, &up->regions[i], err);
    return rc;
}
