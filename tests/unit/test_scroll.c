/* Pages over shards that end their parts early: every record comes once, in order.
 * The shards are a client that answers by itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/base/log.h"
#include "common/http/client.h"
#include "common/model/wire.h"
#include "services/router/router.h"

#define SHARDS    2
#define IDS       4
#define PAGES_MAX 20

/* What each shard holds, in order. */
static const char *const held[SHARDS][IDS] = {{"a", "l", "m", "x"}, {"b", "c", "y", "z"}};

static size_t rows_max[SHARDS]; /* of one part: a shard ends its part early */

struct world {
    struct meta *meta;
    struct cache *cache;
    struct http_client client;
    struct router router;
};

static void fill(size_t shard, const struct wire_question *question, struct wire_answer *answer)
{
    char after[8] = "";

    if (question->after.len > 0)
        memcpy(after, question->after.data, MIN_OF(question->after.len, sizeof(after) - 1));
    for (size_t i = 0; i < IDS && !answer->more; i++) {
        const char *id = held[shard][i];

        if (strcmp(id, after) <= 0)
            continue;
        if (answer->row_count == MIN_OF(rows_max[shard], question->limit))
            answer->more = true;
        else
            answer->rows[answer->row_count++] =
                (struct wire_row){.id = id, .id_len = 1, .stamp = {.clock = 1, .region = 1}};
    }
}

static void answer_call(struct http_call *call)
{
    struct wire_served served[PARTITIONS_MAX];
    struct wire_row rows[IDS];
    struct wire_answer answer = {.region = 7, .served = served, .rows = rows};
    struct wire_question question;
    struct arena arena = {0};
    struct err err = {0};

    buffer_reset(&call->reply);
    if (strcmp(call->method, "POST") != 0) {
        call->rc = err_set(&call->err, ERR_UNAVAILABLE, "says nothing of itself");
        return;
    }
    assert_int_equal(wire_question_decode(&question, call->body, call->body_len, &arena, &err),
                     ERR_OK);
    for (uint32_t p = 0; p < PARTITIONS_MAX; p++)
        if (partition_set_has(&question.partitions, p))
            served[answer.served_count++] = (struct wire_served){p, 1};
    fill(strcmp(call->base, "http://one") == 0, &question, &answer);
    wire_answer_encode(&answer, &call->reply);
    call->rc = ERR_OK;
    call->status = 200;
    arena_free(&arena);
}

static void gather(struct http_client *client, struct http_call *calls, size_t count,
                   uint64_t deadline_ns, const struct http_watcher *watcher)
{
    (void)client;
    (void)deadline_ns;
    for (size_t i = 0; i < count; i++) {
        if (calls[i].after_ns > 0)
            continue; /* nobody is slow here */
        answer_call(&calls[i]);
        if (watcher->ended != NULL)
            (void)watcher->ended(watcher->context, &calls[i]);
    }
}

static void close_nothing(struct http_client *client)
{
    (void)client;
}

static const struct http_client_ops ops = {.gather = gather, .close = close_nothing};

static void put_row(struct world *world, const char *key, const struct buffer *value)
{
    struct meta_put put = {
        .key = key, .value = value->data, .value_len = value->len, .expected = META_ANY};
    struct err err = {0};

    assert_int_equal(meta_put(world->meta, &put, NULL, &err), ERR_OK);
}

static void put_collection(struct world *world)
{
    static const char wanted[] = "{\"vector\":{\"dimension\":3}}";
    struct collection collection;
    struct err err = {0};
    struct buffer row = {0};

    assert_int_equal(collection_from_request(&collection, wanted, strlen(wanted), &err), ERR_OK);
    collection_fill(&collection);
    (void)snprintf(collection.tenant, sizeof(collection.tenant), "%s", TENANT_DEFAULT);
    (void)snprintf(collection.name, sizeof(collection.name), "c");
    collection.generation = 1;
    collection.created = collection.schema = (struct stamp){.clock = 1, .region = 1};
    collection_identify(&collection);
    buffer_append_text(&row, "{\"state\":\"active\",\"definition\":");
    collection_encode(&collection, COLLECTION_CREATE, &row);
    buffer_append_text(&row, "}");
    put_row(world, "collection/" TENANT_DEFAULT "/c", &row);
    buffer_free(&row);
}

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct buffer deployment = {0};
    struct err err = {0};

    log_start("test", LOG_OFF);
    assert_non_null(world);
    world->client.ops = &ops;
    assert_int_equal(meta_open(&world->meta, "memory:", env_real(), &err), ERR_OK);
    assert_int_equal(cache_open(&world->cache, "none:", env_real(), &err), ERR_OK);
    buffer_append_text(&deployment, "{\"partitions\":8,\"region\":7}");
    put_row(world, "deployment", &deployment);
    buffer_free(&deployment);
    assert_int_equal(cluster_place(world->meta, SHARDS, 1, &err), ERR_OK);
    for (uint32_t i = 0; i < SHARDS; i++) {
        char name[32];

        cluster_replica_name(name, i, 0);
        assert_int_equal(cluster_register(world->meta, env_real(), "shard", name,
                                          i == 1 ? "http://one" : "http://zero", &err),
                         ERR_OK);
    }
    put_collection(world);
    assert_int_equal(router_open(&world->router,
                                 &(struct router_setup){.env = env_real(),
                                                        .meta = world->meta,
                                                        .client = &world->client,
                                                        .cache = world->cache},
                                 &err),
                     ERR_OK);
    *state = world;
    return 0;
}

static int close_world(void **state)
{
    struct world *world = *state;

    router_stop(&world->router);
    router_close(&world->router);
    cache_close(world->cache);
    meta_close(world->meta);
    free(world);
    return 0;
}

static const char *json_header(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "Content-Type") == 0 ? "application/json" : NULL;
}

/* The text behind a mark, up to the next quote. */
static bool text_behind(const char **at, const char *mark, char *out, size_t size)
{
    const char *found = strstr(*at, mark);
    size_t len;

    if (found == NULL)
        return false;
    found += strlen(mark);
    len = strcspn(found, "\"");
    assert_true(len < size);
    memcpy(out, found, len);
    out[len] = '\0';
    *at = found + len;
    return true;
}

/* One page: its ids are appended to seen; token becomes that of the next page, or empty. */
static void read_page(struct world *world, unsigned limit, char token[512], char seen[64])
{
    char body[600], id[8];
    struct request req = {.state = &world->router,
                          .env = env_real(),
                          .method = "POST",
                          .path = "/v1/collections/c/records/scroll",
                          .query = "",
                          .received_ns = env_boot_ns(env_real()),
                          .header = json_header};
    const char *at;

    if (token[0] == '\0')
        (void)snprintf(body, sizeof(body), "{\"limit\":%u}", limit);
    else
        (void)snprintf(body, sizeof(body), "{\"limit\":%u,\"page_token\":\"%s\"}", limit, token);
    req.body = (const uint8_t *)body;
    req.body_len = strlen(body);
    route_dispatch(router_routes, &req);
    assert_int_equal(req.err.code, ERR_OK);
    buffer_append_byte(&req.reply.body, 0);
    for (at = (const char *)req.reply.body.data; text_behind(&at, "\"id\":\"", id, sizeof(id));)
        (void)strncat(seen, id, 63 - strlen(seen));
    at = (const char *)req.reply.body.data;
    token[0] = '\0';
    (void)text_behind(&at, "\"next_page_token\":\"", token, 512);
    request_free(&req);
}

static void parts_that_end_early_lose_no_record(void **state)
{
    struct world *world = *state;

    for (unsigned limit = 1; limit <= 2 * IDS + 1; limit++)
        for (size_t i = 0; i < IDS * IDS; i++) {
            char token[512] = "", seen[64] = "";
            unsigned pages = 0;

            rows_max[0] = i / IDS + 1;
            rows_max[1] = i % IDS + 1;
            do {
                read_page(world, limit, token, seen);
            } while (token[0] != '\0' && ++pages < PAGES_MAX);
            assert_string_equal(seen, "abclmxyz");
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(parts_that_end_early_lose_no_record, open_world,
                                        close_world),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
