/* The rig of the replay with a real shard beside it: shard, servers and ingest live in one process.
 * Included by unit tests of what an ingest reads from shards before it writes. */
#ifndef VICINAL_TESTS_REPLAY_SHARD_RIG_H
#define VICINAL_TESTS_REPLAY_SHARD_RIG_H

#include "tests/unit/replay_rig.h"

#include "backends/store/store.h"
#include "common/http/server.h"
#include "services/shard/ask.h"

static struct {
    struct store *store;
    struct shard shard;
    struct http_server *server, *ingest_server;
    struct ingest standby; /* beside life.ingest, which holds the log */
    char url[64];
} side;

static inline void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static inline bool shard_is_ready(void)
{
    struct buffer why = {0};
    bool ready = shard_ready(&side.shard, &why);

    buffer_free(&why);
    return ready;
}

static inline bool shard_is_known(void)
{
    struct buffer status = {0};
    bool known;

    cluster_write_status(world.cluster, &status);
    buffer_append_byte(&status, 0);
    known = strstr((const char *)status.data, "\"healthy\":true") != NULL;
    buffer_free(&status);
    return known;
}

static inline struct http_server *serve(const struct route *routes, void *state, char url[64])
{
    struct http_server_options options = {.listen = "127.0.0.1:0",
                                          .workers = 8,
                                          .read_timeout_ms = 5000,
                                          .keep_alive_ms = 60000,
                                          .routes = routes,
                                          .state = state,
                                          .env = env_real()};
    struct http_server *server;
    struct err err = {0};

    must(http_server_open(&server, &options, &err), &err);
    (void)snprintf(url, 64, "http://127.0.0.1:%u", http_server_port(server));
    return server;
}

static inline void open_shard(void)
{
    struct store_options store = {.url = "memory:", .env = env_real()};
    struct shard_setup setup = {.env = env_real(),
                                .meta = world.meta,
                                .wal_url = life.log_url,
                                .waiters_max = 4,
                                .link_threads = 1,
                                .poll_ms = 10};
    struct err err = {0};

    must(store_open(&side.store, &store, &err), &err);
    setup.store = side.store;
    must(shard_open(&side.shard, &setup, &err), &err);
    side.server = serve(shard_routes, &side.shard, side.url);
    must(cluster_register(world.meta, env_real(), "shard", "0.0", side.url, &err), &err);
}

/* The first life, of set_up, has written the deployment's row. */
static inline int set_up_with_shard(void **state)
{
    struct err err = {0};

    assert_int_equal(set_up(state), 0);
    end();
    memset(&side, 0, sizeof(side));
    must(cluster_place(world.meta, 1, 1, &err), &err);
    must(http_client_open(&world.client, &(struct http_client_options){.env = env_real()}, &err),
         &err);
    must(cluster_open(&world.cluster,
                      &(struct cluster_options){.env = env_real(),
                                                .meta = world.meta,
                                                .client = world.client,
                                                .status_every_ms = 10},
                      &err),
         &err);
    side.ingest_server = serve(ingest_routes, &life.ingest, world.own_url);
    begin();
    open_shard();
    AWAIT(shard_is_ready());
    AWAIT(shard_is_known());
    return 0;
}

static inline int tear_down_with_shard(void **state)
{
    (void)state;
    ingest_close(&side.standby);
    if (life.is_open)
        end();
    cluster_stop(world.cluster);
    shard_stop(&side.shard);
    http_server_close(side.ingest_server, 5000);
    http_server_close(side.server, 5000);
    cluster_close(world.cluster);
    http_client_close(world.client);
    shard_close(&side.shard);
    store_close(side.store);
    return tear_down(state);
}

#endif
