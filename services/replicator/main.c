/* vicinal-replicator: carries the other regions' records into this one. */
#include <stddef.h>
#include <string.h>

#include "cluster/cluster.h"
#include "services/replicator/replicator.h"

struct process {
    struct service_base base; /* first */
    struct replicator replicator;
    const char *region, *meta_url;
    struct meta *meta;
    struct http_client *client;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct process, row_member)

static struct option options[] = {
    SERVICE_OPTION_ROWS(struct process),
    {ROW("region", OPTION_TEXT, region), .required = true,
     .help = "Name of the own region: 1 to 32 of a-z, 0-9 and -."},
    {ROW("meta", OPTION_TEXT, meta_url), .required = true,
     .help = "The own region's metadata store; its rows about regions say whom to follow."},
    {0},
};

static enum err_code open_wal(void *context, const char *url, struct wal **out, struct err *err)
{
    struct process *process = context;

    return wal_open(out, &(struct wal_options){.url = url, .env = process->base.env}, err);
}

static enum err_code process_open(void *state, struct err *err)
{
    struct process *process = state;
    enum err_code rc = meta_open(&process->meta, process->meta_url, process->base.env, err);

    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    rc = http_client_open(&process->client, &(struct http_client_options){.env = process->base.env},
                          err);
    if (rc != ERR_OK)
        return rc;
    return replicator_open(&process->replicator,
                           &(struct replicator_setup){.env = process->base.env,
                                                      .meta = process->meta,
                                                      .client = process->client,
                                                      .metrics = process->base.metrics,
                                                      .region = process->region,
                                                      .open_wal = open_wal,
                                                      .open_wal_context = process},
                           err);
}

static enum err_code process_start(void *state, struct err *err)
{
    struct process *process = state;
    enum err_code rc = cluster_register(process->meta, process->base.env, "replicator",
                                        process->region, process->base.url, err);

    return rc == ERR_OK ? replicator_start(&process->replicator, err) : rc;
}

static bool process_ready(void *state, struct buffer *why)
{
    struct process *process = state;

    return replicator_ready(&process->replicator, why);
}

static void process_stop(void *state)
{
    struct process *process = state;

    replicator_stop(&process->replicator);
}

static void process_close(void *state)
{
    struct process *process = state;

    replicator_close(&process->replicator);
    if (process->client != NULL)
        http_client_close(process->client);
    meta_close(process->meta);
}

static void process_measure(void *state)
{
    struct process *process = state;

    replicator_measure(&process->replicator);
}

int main(int argc, char **argv)
{
    static struct process process;
    const struct service service = {
        .name = "replicator",
        .about = "Carries the other regions' records into this region's log.",
        .options = options,
        .routes = replicator_routes,
        .core_offset = offsetof(struct process, replicator),
        .open = process_open,
        .start = process_start,
        .ready = process_ready,
        .stop = process_stop,
        .close = process_close,
        .measure = process_measure,
    };

    /* A request that waits holds a worker (WAITERS_MAX of them), and others are to get through. */
    for (struct option *option = options; option->name != NULL; option++)
        if (strcmp(option->name, "workers") == 0)
            option->fallback = "128";
    return service_run(&service, &process, argc, argv);
}
