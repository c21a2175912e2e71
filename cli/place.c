/* vicinal place: which partitions the shards of one region serve, written into its metadata store.
 * `vicinal up` does this by itself; deployments that are put together by hand do it with this,
 * once, and again for another number of shards or replicas.
 *
 * Happy path: wait until an ingest has said how many partitions the log has, write the map.
 * Failure modes: no ingest says so in time, or the store is away: exit code 1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backends/meta/meta.h"
#include "cli/cli.h"
#include "cluster/cluster.h"
#include "common/base/text.h"

#define PAUSE_NS (100 * NS_PER_MS)

struct place_settings {
    const char *meta_url;
    const char *weights_text;
    uint64_t shards, replicas, wait_s;
    uint32_t weights[REPLICAS_MAX];
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct place_settings, row_member)

static const struct option options[] = {
    {ROW("meta", OPTION_TEXT, meta_url), .required = true,
     .help = "The metadata store of the region."},
    {ROW("shards", OPTION_U64, shards), .fallback = "1", .min = 1, .max = SHARDS_MAX,
     .help = "Sets of partitions that are served together."},
    {ROW("replicas", OPTION_U64, replicas), .fallback = "1", .min = 1, .max = REPLICAS_MAX,
     .help = "Processes that serve each shard."},
    {ROW("weights", OPTION_TEXT, weights_text),
     .help = "Shares of the questions, as in 4,1: one weight (1 to 100) for each replica."},
    {ROW("wait", OPTION_U64, wait_s), .fallback = "60", .max = 3600, .unit = "s",
     .help = "For an ingest that makes the log, and for the store."},
    {0},
};

static enum err_code read_weights(struct place_settings *settings, struct err *err)
{
    const char *at = settings->weights_text;

    for (uint64_t i = 0; at != NULL && i < settings->replicas; i++) {
        size_t len = strcspn(at, ",");
        uint64_t weight = 0;

        if (!text_to_u64(at, len, &weight) || weight < 1 || weight > SHARD_WEIGHT_MAX ||
            (at[len] == ',') != (i + 1 < settings->replicas))
            return err_set(err, ERR_CONFIG,
                           "--weights \"%.100s\" is not one weight, 1 to %d, for each replica",
                           settings->weights_text, SHARD_WEIGHT_MAX);
        settings->weights[i] = (uint32_t)weight;
        at += len + (at[len] == ',');
    }
    return ERR_OK;
}

static enum err_code place_once(const struct place_settings *settings, struct err *err)
{
    struct meta *meta = NULL;
    enum err_code rc = meta_open(&meta, settings->meta_url, env_real(), err);

    if (rc != ERR_OK)
        return err_wrap(err, "--meta");
    rc = cluster_place(meta, (uint32_t)settings->shards, (uint32_t)settings->replicas, err);
    if (rc == ERR_OK && settings->weights_text != NULL)
        rc = cluster_weigh(meta, settings->weights, (uint32_t)settings->replicas, err);
    meta_close(meta);
    return rc;
}

static int run_place(void *settings, const struct cli_operands *operands)
{
    struct place_settings *place = settings;
    uint64_t until = env_boot_ns(env_real()) + place->wait_s * NS_PER_S;
    struct err err = {0};
    enum err_code rc;

    (void)operands;
    if (read_weights(place, &err) != ERR_OK)
        return cli_fail("place", &err);
    while ((rc = place_once(place, &err)) == ERR_NOT_FOUND || rc == ERR_UNAVAILABLE) {
        uint64_t now = env_boot_ns(env_real());

        if (now >= until || env_sleep_until(env_real(), now + PAUSE_NS) != ERR_OK)
            break;
        err_clear(&err);
    }
    return rc == ERR_OK ? EXIT_SUCCESS : cli_fail("place", &err);
}

const struct verb verb_place = {
    .name = "place",
    .brief = "Say how many shards and replicas a region has.",
    .synopsis = "--meta URL [--shards N] [--replicas N] [--weights N,…]",
    .about =
        "Writes the map from partitions to shards, which shards and routers follow.  Needs an\n"
        "ingest that has made the log, and waits for it.  `vicinal up` does this by itself.",
    .options = options,
    .settings_size = sizeof(struct place_settings),
    .run = run_place,
};
