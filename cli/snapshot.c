/* vicinal snapshot: have a snapshot of every shard made in the blob store, and wait until each has
 * been read back and found right.
 *
 * The first replica of each shard is asked, all of them before any is waited for. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "common/base/checked.h"

#define CALL_MS  5000u
#define PAUSE_NS (200 * NS_PER_MS)
#define PATH     "/internal/v1/snapshot"

struct snapshot_verb {
    const char *url;
    uint64_t wait_s;
};

static const struct option options[] = {
    CLI_URL_ROW(struct snapshot_verb),
    {.name = "wait",
     .type = OPTION_U64,
     .fallback = "3600",
     .max = 7 * 86400,
     .unit = "s",
     .help = "How long to wait for all of them.",
     .offset = offsetof(struct snapshot_verb, wait_s)},
    {0},
};

/* A shard whose snapshot is waited for. */
struct waiting {
    const char *name, *url;  /* in the router's answer */
    json_int_t made, failed; /* when it was asked */
};

static json_int_t number(json_t *object, const char *name)
{
    return json_integer_value(json_object_get(object, name));
}

/* Is it the first replica of a shard? */
static bool is_first(json_t *node)
{
    const char *name = cli_text(node, "name", ""), *dot = strchr(name, '.');

    return strcmp(cli_text(node, "service", ""), "shard") == 0 && dot != NULL &&
           strcmp(dot, ".0") == 0;
}

static enum err_code begin(struct http_client *client, json_t *node, struct waiting *out,
                           struct err *err)
{
    static const struct cli_call ask = {.method = "POST", .path = PATH, .timeout_ms = CALL_MS};
    json_t *answer = NULL;
    enum err_code rc;

    *out = (struct waiting){.name = cli_text(node, "name", ""), .url = cli_text(node, "url", "")};
    rc = cli_ask(client, out->url, &ask, &answer, NULL, err);
    out->made = number(answer, "made");
    out->failed = number(answer, "failed");
    json_decref(answer);
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "shard %s", out->name);
}

static enum err_code await(struct http_client *client, const struct waiting *waiting,
                           uint64_t deadline_ns, struct err *err)
{
    static const struct cli_call ask = {.method = "GET", .path = PATH, .timeout_ms = CALL_MS};
    enum err_code rc = ERR_OK;
    bool is_made = false;

    while (rc == ERR_OK && !is_made) {
        json_t *answer = NULL;

        rc = cli_ask(client, waiting->url, &ask, &answer, NULL, err);
        is_made = number(answer, "made") > waiting->made;
        if (rc == ERR_OK && number(answer, "failed") > waiting->failed)
            rc = err_set(err, ERR_UNAVAILABLE, "%.200s", cli_text(answer, "detail", "?"));
        if (rc == ERR_OK && is_made)
            (void)printf("shard %s: snapshot %s\n", waiting->name,
                         cli_text(json_object_get(answer, "newest"), "id", "?"));
        json_decref(answer);
        if (rc == ERR_OK && !is_made && env_boot_ns(env_real()) >= deadline_ns)
            rc = err_set(err, ERR_TIMEOUT, "it is still being made");
        if (rc == ERR_OK && !is_made &&
            env_sleep_until(env_real(), env_boot_ns(env_real()) + PAUSE_NS) != ERR_OK)
            rc = err_set(err, ERR_DEAD, "shutting down");
    }
    return rc == ERR_OK ? ERR_OK : err_wrap(err, "shard %s", waiting->name);
}

static enum err_code make_all(struct http_client *client, json_t *nodes, uint64_t deadline_ns,
                              struct err *err)
{
    struct waiting *waiting = array_alloc(json_array_size(nodes), sizeof(*waiting));
    enum err_code rc = ERR_OK;
    size_t count = 0, i;
    json_t *node;

    if (waiting == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for the shards");
    json_array_foreach(nodes, i, node)
    {
        if (rc == ERR_OK && is_first(node))
            rc = begin(client, node, &waiting[count++], err);
    }
    if (rc == ERR_OK && count == 0)
        rc = err_set(err, ERR_UNAVAILABLE, "the router knows no shard");
    for (i = 0; rc == ERR_OK && i < count; i++)
        rc = await(client, &waiting[i], deadline_ns, err);
    free(waiting);
    return rc;
}

static int run_snapshot(void *settings, const struct cli_operands *operands)
{
    static const struct cli_call ask = {
        .method = "GET", .path = "/internal/v1/status", .timeout_ms = CALL_MS};
    const struct snapshot_verb *verb = settings;
    uint64_t deadline_ns = env_boot_ns(env_real()) + verb->wait_s * NS_PER_S;
    struct http_client *client = NULL;
    json_t *status = NULL;
    struct err err = {0};
    char base[512];
    enum err_code rc = cli_base_url(base, sizeof(base), verb->url, &err);

    (void)operands;
    if (rc == ERR_OK)
        rc = http_client_open(&client, &(struct http_client_options){.env = env_real()}, &err);
    if (rc == ERR_OK)
        rc = cli_ask(client, base, &ask, &status, NULL, &err);
    if (rc == ERR_OK)
        rc = make_all(client, json_object_get(status, "nodes"), deadline_ns, &err);
    json_decref(status);
    http_client_close(client);
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("snapshot", &err);
}

const struct verb verb_snapshot = {
    .name = "snapshot",
    .brief = "Make a verified snapshot of every shard in the blob store.",
    .synopsis = "[--url URL] [--wait SECONDS]",
    .about =
        "Each is read back and compared before it counts.  The log is trimmed below the newest "
        "ones, when all replicas and regions have passed there, too.",
    .options = options,
    .settings_size = sizeof(struct snapshot_verb),
    .run = run_snapshot,
};
