/* vicinal up: the whole suite on one machine, as separate processes; with --regions several suites
 * that carry each other's records.
 *
 * Happy path: lock the data folder, start ingest (which makes the log), write the shard map, start
 * shards and router, print "ready URL" once the router says so (one line for each region),
 * supervise until SIGTERM or SIGINT, end everything.
 *
 * Failure modes: a second `up` on the folder is refused; a wrong configuration of a service ends
 * all with exit code 2; what dies later is started again for ever. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backends/embedder/embedders.h"
#include "cli/up.h"
#include "common/base/log.h"

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct up, row_member)

static const struct option options[] = {
    {ROW("data", OPTION_TEXT, data), .required = true,
     .help = "Folder for everything that is kept; made when missing."},
    {ROW("listen", OPTION_TEXT, listen), .fallback = "127.0.0.1:8080",
     .help = "Address of the public door; port 0 takes a free one; regions take PORT, PORT+1, …"},
    {ROW("regions", OPTION_TEXT, region_names),
     .help = "Names, as in a,b: a suite for each, in a folder of its own; records go to all."},
    {ROW("shards", OPTION_U64, shards), .fallback = "1", .min = 1, .max = SHARDS_MAX,
     .help = "Sets of partitions that are served together."},
    {ROW("replicas", OPTION_U64, replicas), .fallback = "1", .min = 1, .max = REPLICAS_MAX,
     .help = "Processes that serve each shard."},
    {ROW("partitions", OPTION_U64, partitions), .max = PARTITIONS_MAX,
     .help = "Logs of a new deployment (default 64); fixed from then on."},
    {ROW("wal", OPTION_TEXT, wal),
     .help = "The log; default file:DATA/wal.  {region} becomes the region's name."},
    {ROW("meta", OPTION_TEXT, meta),
     .help = "Metadata store; default sqlite:DATA/meta.db.  {region} as above."},
    {ROW("blob", OPTION_TEXT, blob),
     .help = "Where imports are kept: file:DIR or s3://BUCKET/PREFIX?endpoint=URL; default "
             "file:DATA/blob.  All regions have to reach it."},
    {ROW("cache", OPTION_TEXT, cache), .fallback = "memory:64MiB",
     .help = "Result cache: memory:SIZE, redis://HOST:PORT or none:."},
    EMBEDDERS_OPTION_ROWS(struct up, embedders, embedders_cache),
    {ROW("repair", OPTION_BOOL, repair), .fallback = "false",
     .help = "Cut the log at damage instead of refusing to start: loses what follows it."},
    {ROW("log-level", OPTION_TEXT, log_level), .fallback = "warn",
     .help = "debug, info, warn, error or off; logs go to stderr."},
    {0},
};

static enum err_code find_programs(struct up *up, struct err *err)
{
    ssize_t len = readlink("/proc/self/exe", up->programs, sizeof(up->programs) - 1);
    char *slash;

    if (len < 0)
        return err_set_errno(err, errno, "/proc/self/exe");
    up->programs[len] = '\0';
    slash = strrchr(up->programs, '/');
    if (slash != NULL)
        *slash = '\0';
    return ERR_OK;
}

/* --- life ------------------------------------------------------------------------------------ */

static enum err_code prepare(struct up *up, struct err *err)
{
    enum err_code rc;

    up->lock = up->supervisor.signals = UP_NONE;
    for (size_t i = 0; i < UP_REGIONS_MAX; i++)
        up->regions[i].lock = UP_NONE;
    if (log_level_from_text(up->log_level, LOG_DEBUG) !=
        log_level_from_text(up->log_level, LOG_OFF))
        return err_set(err, ERR_CONFIG, "--log-level \"%s\" is none", up->log_level);
    log_start("up", log_level_from_text(up->log_level, LOG_WARN));
    (void)unsetenv("VICINAL_CONFIG"); /* it was ours, not the services' */
    if ((rc = find_programs(up, err)) != ERR_OK || (rc = up_set_regions(up, err)) != ERR_OK ||
        (rc = up_lock_folders(up, err)) != ERR_OK || (rc = up_look_at_logs(up, err)) != ERR_OK ||
        (rc = up_add_children(up, err)) != ERR_OK ||
        (rc = supervisor_open(&up->supervisor, err)) != ERR_OK)
        return rc;
    return http_client_open(&up->client, &(struct http_client_options){.env = env_real()}, err);
}

static enum err_code serve(struct up *up, struct err *err)
{
    enum err_code rc = up_start(up, err);

    while (rc == ERR_OK && up_goes_on(up))
        supervisor_step(&up->supervisor, NEVER_NS);
    return rc;
}

static void clean_up(struct up *up)
{
    supervisor_end(&up->supervisor);
    supervisor_close(&up->supervisor);
    http_client_close(up->client);
    for (size_t i = 0; i < up->child_count; i++)
        child_free(&up->children[i]);
    free(up->children);
    for (size_t i = 0; i < UP_REGIONS_MAX; i++)
        if (up->regions[i].lock >= 0)
            (void)close(up->regions[i].lock);
    if (up->lock >= 0)
        (void)close(up->lock);
}

static int run_up(void *settings, const struct cli_operands *operands)
{
    struct up *up = settings;
    struct err err = {0};
    int exit_code = EXIT_SUCCESS;

    (void)operands;
    if (prepare(up, &err) != ERR_OK || serve(up, &err) != ERR_OK)
        exit_code = cli_fail("up", &err);
    else if (up->supervisor.failed != 0)
        exit_code = up->supervisor.failed;
    clean_up(up);
    return exit_code;
}

const struct verb verb_up = {
    .name = "up",
    .brief = "Start the whole suite on this machine and keep it running.",
    .synopsis = "--data DIR [options]",
    .about =
        "Starts ingest, shards and router as separate processes, prints one line \"ready URL\"\n"
        "when searches work, restarts what dies, and ends everything within five seconds of\n"
        "SIGTERM or Ctrl-C.  Everything is kept in DIR, which one `up` uses at a time.\n"
        "With --regions a,b there is one such suite for each name, in DIR/a and DIR/b, and a\n"
        "replicator that carries the others' records into it; one \"ready URL\" each, in order.\n\n"
        "Exit codes: 0 ended by a signal, 1 could not start, 2 wrong configuration.",
    .options = options,
    .settings_size = sizeof(struct up),
    .run = run_up,
};
