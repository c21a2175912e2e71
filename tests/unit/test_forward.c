/* Writes on their way to ingest: what is handed on is what came, whatever stands in the path or the
 * headers.  Ingest is an HTTP server in this process that writes down what reached it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "backends/meta/meta.h"
#include "common/base/limits.h"
#include "common/http/client.h"
#include "common/http/server.h"
#include "services/router/router.h"

struct world {
    struct http_server *ingest;
    struct http_client *client;
    struct meta *meta;
    struct cache *cache;
    struct router router;
    char id[ID_BYTES_MAX + 1]; /* of the write that came last */
    char wait[64];             /* its query parameter */
    bool has_condition;
    bool is_late;    /* it holds the log no more, and says so after a while */
    uint64_t age_ns; /* of a write when it is sent */
    unsigned calls, writes;
};

#define LATE_NS (400 * NS_PER_MS)

static const char *if_match;

static enum err_code take_write(struct request *req)
{
    struct world *world = req->state;
    const char *wait = request_query(req, "wait", NULL);

    world->writes++;
    world->calls++;
    if (world->is_late && env_sleep_until(req->env, env_boot_ns(req->env) + LATE_NS) == ERR_OK)
        return err_set(&req->err, ERR_READ_ONLY, "another one holds the log");
    world->has_condition = req->header(req, "If-Match") != NULL;
    (void)snprintf(world->id, sizeof(world->id), "%s", req->params[1]);
    (void)snprintf(world->wait, sizeof(world->wait), "%s", wait == NULL ? "" : wait);
    buffer_append_text(&req->reply.body, "{}");
    return ERR_OK;
}

static const struct route ingest_routes[] = {
    {"DELETE", "/v1/collections/*/records/*", take_write, 0, "deleteRecord"},
    {"PUT", "/v1/collections/*/records/*", take_write, KIB(64), "putRecord"},
    {0},
};

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct http_server_options server = {.listen = "127.0.0.1:0",
                                         .env = env_real(),
                                         .routes = ingest_routes,
                                         .state = world,
                                         .workers = 2,
                                         .read_timeout_ms = 10000,
                                         .keep_alive_ms = 10000,
                                         .service = "ingest"};
    struct router_setup setup = {.env = env_real()};
    struct meta_put put = {.key = "lease", .expected = META_ANY};
    char lease[128];
    struct err err = {0};

    assert_non_null(world);
    assert_int_equal(http_server_open(&world->ingest, &server, &err), ERR_OK);
    assert_int_equal(
        http_client_open(&world->client, &(struct http_client_options){.env = env_real()}, &err),
        ERR_OK);
    assert_int_equal(meta_open(&world->meta, "memory:", env_real(), &err), ERR_OK);
    assert_int_equal(cache_open(&world->cache, "none:", env_real(), &err), ERR_OK);
    (void)snprintf(lease, sizeof(lease), "{\"holder\":\"00\",\"url\":\"http://127.0.0.1:%u\"}",
                   http_server_port(world->ingest));
    put.value = lease;
    put.value_len = strlen(lease);
    assert_int_equal(meta_put(world->meta, &put, NULL, &err), ERR_OK);
    setup.meta = world->meta;
    setup.client = world->client;
    setup.cache = world->cache;
    assert_int_equal(router_open(&world->router, &setup, &err), ERR_OK);
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
    http_client_close(world->client);
    http_server_close(world->ingest, 100);
    free(world);
    return 0;
}

static const char *header_of(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "If-Match") == 0 ? if_match : NULL;
}

/* The code of the router's answer. */
static enum err_code send_write(struct world *world, const char *method, const char *path,
                                const char *query)
{
    struct request req = {.state = &world->router,
                          .env = env_real(),
                          .method = method,
                          .path = path,
                          .query = query,
                          .received_ns = env_boot_ns(env_real()) - world->age_ns,
                          .header = header_of};
    enum err_code code;

    world->id[0] = '\0';
    route_dispatch(router_routes, &req);
    code = req.err.code;
    request_free(&req);
    return code;
}

static void a_write_reaches_the_record_that_it_names(void **state)
{
    struct world *world = *state;

    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a", ""), ERR_OK);
    assert_string_equal(world->id, "a");
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a#b", ""), ERR_OK);
    assert_string_equal(world->id, "a#b");
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a%23b%2Fc", ""),
                     ERR_OK);
    assert_string_equal(world->id, "a#b/c");
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a\xc3\xa4", "wait=x#y"),
                     ERR_OK);
    assert_string_equal(world->id, "a\xc3\xa4");
    assert_string_equal(world->wait, "x#y");
}

static void a_write_never_loses_its_condition(void **state)
{
    struct world *world = *state;
    unsigned before;

    if_match = "\"7\"";
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a", ""), ERR_OK);
    assert_true(world->has_condition);
    before = world->writes;
    if_match = "";
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a", ""),
                     ERR_INVALID_ARGUMENT);
    assert_int_equal(world->writes, before);
    if_match = NULL;
}

static void what_cannot_be_handed_on_is_refused_and_known_not_to_be_written(void **state)
{
    struct world *world = *state;
    char path[2 * HTTP_URL_MAX], value[2 * HTTP_URL_MAX];
    unsigned before = world->writes;

    memset(path, 'a', sizeof(path) - 1);
    path[sizeof(path) - 1] = '\0';
    memcpy(path, "/v1/collections/c/records/", 26);
    assert_int_equal(send_write(world, "DELETE", path, ""), ERR_INVALID_ARGUMENT);
    memset(value, '"', sizeof(value) - 1);
    value[sizeof(value) - 1] = '\0';
    if_match = value;
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a", ""),
                     ERR_INVALID_ARGUMENT);
    if_match = NULL;
    assert_int_equal(world->writes, before);
}

/* Its client may have given it up, and written anew: the old one is not to come after that. */
static void a_write_is_not_sent_again_when_its_time_is_over(void **state)
{
    struct world *world = *state;
    unsigned before = world->calls;

    world->is_late = true;
    world->age_ns = WRITE_DEADLINE_MS_DEFAULT * NS_PER_MS - LATE_NS / 2;
    assert_int_equal(send_write(world, "DELETE", "/v1/collections/c/records/a", ""), ERR_OK);
    assert_int_equal(world->calls, before + 1);
    world->age_ns = 0;
    world->is_late = false;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_write_reaches_the_record_that_it_names, open_world,
                                        close_world),
        cmocka_unit_test_setup_teardown(a_write_never_loses_its_condition, open_world, close_world),
        cmocka_unit_test_setup_teardown(
            what_cannot_be_handed_on_is_refused_and_known_not_to_be_written, open_world,
            close_world),
        cmocka_unit_test_setup_teardown(a_write_is_not_sent_again_when_its_time_is_over, open_world,
                                        close_world),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
