/* A new replica's copy of another: what comes whole takes its place, whatever else comes takes
 * none. The other replica is an HTTP server in this process that hands out a real store, or lies.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/cluster.h"
#include "common/base/json_writer.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/http/server.h"
#include "common/model/shard_map.h"
#include "services/shard/apply.h"
#include "services/shard/copy_make.h"
#include "services/shard/seed.h"
#include "tests/lib/scratch.h"

#define PARTITIONS 2
#define ROWS       3000

enum lie {
    LIE_NONE,
    LIE_NAME,     /* a file outside of the folder */
    LIE_NO_STORE, /* none among the files */
    LIE_DIGEST,   /* one that is not of the bytes */
    LIE_SHORT,    /* a chunk of another size */
    LIE_FORGETS,  /* the copy is gone when its second file is fetched */
    LIE_HUGE,     /* more than the disk has */
    LIE_FAILS,    /* it cannot make one */
    LIE_BUSY,     /* it is starting, for ever */
    LIE_FEW       /* it has hardly read anything */
};

struct other {
    struct http_server *server;
    struct copy_making making;
    struct copy_pace pace;
    atomic_bool is_stopping;
    char folder[300], segments[300];
    char url[64];
    _Atomic int lie;
    _Atomic int fetched; /* chunks */
    _Atomic int late;    /* so many answers about its status are to come too late */
};

struct world {
    char folder[200], data[260];
    struct other other;
    struct meta *meta;
    struct http_client *client;
};

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s", err->message);
}

static uint64_t number_of(const char *text)
{
    uint64_t number = 0;

    assert_non_null(text);
    assert_true(text_to_u64(text, strlen(text), &number));
    return number;
}

/* --- the other replica -------------------------------------------------------------------------
 */

/* Longer than the one second that its status is waited for. */
static void be_late(const struct request *req)
{
    struct other *other = req->state;
    uint64_t until_ns = env_boot_ns(req->env) + 1500 * NS_PER_MS;

    while (!atomic_load(&other->is_stopping) && env_boot_ns(req->env) < until_ns)
        if (env_sleep_until(req->env, env_boot_ns(req->env) + 10 * NS_PER_MS) != ERR_OK)
            break;
}

static enum err_code say_status(struct request *req)
{
    struct other *other = req->state;
    int lie = atomic_load(&other->lie);

    if (atomic_fetch_sub(&other->late, 1) > 0)
        be_late(req);
    buffer_append_format(
        &req->reply.body,
        "{\"state\":\"%s\",\"region\":7,\"partitions\":[{\"partition\":0,\"position\":%d},"
        "{\"partition\":1,\"position\":500}]}",
        lie == LIE_BUSY ? "starting" : "ready", lie == LIE_FEW ? 400 : 600);
    return ERR_OK;
}

static void write_file(struct json_writer *w, const char *name, uint64_t bytes,
                       struct hash128 digest)
{
    char text[HASH128_TEXT_BYTES];

    hash128_to_text(text, digest);
    json_begin_object(w);
    json_key(w, "name");
    json_text(w, name);
    json_key(w, "bytes");
    json_u64(w, bytes);
    json_key(w, "digest");
    json_text(w, text);
    json_end_object(w);
}

static enum err_code say_copy(struct request *req)
{
    struct other *other = req->state;
    int lie = atomic_load(&other->lie);
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "id");
    json_text(&w, "00000000000000aa");
    json_key(&w, "state");
    json_text(&w, lie == LIE_FAILS ? "failed" : "ready");
    json_key(&w, "files");
    json_begin_array(&w);
    for (size_t i = 0; i < other->making.count; i++) {
        const struct copy_file *file = &other->making.files[i];
        bool is_store = strcmp(file->name, COPY_STORE_NAME) == 0;
        struct hash128 digest = file->digest;

        if (is_store && lie == LIE_NO_STORE)
            continue;
        if (is_store && lie == LIE_DIGEST)
            digest.low ^= 1;
        write_file(&w, is_store && lie == LIE_NAME ? "segments/../../evil" : file->name,
                   is_store && lie == LIE_HUGE ? UINT64_MAX >> 2 : file->bytes, digest);
    }
    json_end_array(&w);
    json_end_object(&w);
    return ERR_OK;
}

static enum err_code say_chunk(struct request *req)
{
    struct other *other = req->state;
    size_t number = (size_t)number_of(request_query(req, "file", NULL));
    uint64_t offset = number_of(request_query(req, "offset", NULL));
    const struct copy_file *file = &other->making.files[number];
    int lie = atomic_load(&other->lie);
    char path[700];
    ssize_t len;
    int fd;

    atomic_fetch_add(&other->fetched, 1);
    if (lie == LIE_FORGETS && number > 0)
        return err_set(&req->err, ERR_NOT_FOUND, "no such copy");
    (void)snprintf(path, sizeof(path), "%s/%s", other->folder, file->name);
    fd = open(path, O_RDONLY);
    if (fd < 0 || !buffer_reserve(&req->reply.body, COPY_CHUNK_BYTES))
        return err_set(&req->err, ERR_IO, "no file");
    len = pread(fd, req->reply.body.data, COPY_CHUNK_BYTES, (off_t)offset);
    close(fd);
    req->reply.body.len = len < 0 ? 0 : (size_t)len - (lie == LIE_SHORT && len > 0);
    req->reply.content_type = "application/octet-stream";
    return ERR_OK;
}

static const struct route other_routes[] = {
    {"GET", "/internal/v1/status", say_status, 0, "status"},
    {"POST", "/internal/v1/copy", say_copy, 0, "start"},
    {"GET", "/internal/v1/copy", say_copy, 0, "copy"},
    {"GET", "/internal/v1/copy/chunk", say_chunk, 0, "chunk"},
    {0},
};

/* A store with a state and some rows, as a shard would have it. */
static void fill_store(const char *folder)
{
    struct store_options options = {.env = env_real()};
    struct partition_set served = {0};
    struct apply_origin origin = {.region = 7};
    struct apply apply = {0};
    struct store *store = NULL;
    struct store_txn *txn = NULL;
    char url[400], text[600] = {0};
    struct err err = {0};

    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    options.url = url;
    must(store_open(&store, &options, &err), &err);
    partition_set_fill(&served, PARTITIONS);
    origin.served = served;
    must(apply_create(&apply, store, &origin, &err), &err);
    apply_free(&apply);
    must(store_begin(&txn, store, true, &err), &err);
    for (uint32_t i = 0; i < ROWS; i++) {
        char key[16];
        int len = snprintf(key, sizeof(key), "row-%05u", i);

        must(store_put(txn, STORE_ROWS, (struct store_value){.data = key, .len = (size_t)len},
                       (struct store_value){.data = text, .len = sizeof(text)}, &err),
             &err);
    }
    must(store_commit(txn, &err), &err);
    store_close(store);
}

static uint32_t count_rows(const char *folder)
{
    struct store_options options = {.env = env_real()};
    struct store_cursor *cursor = NULL;
    struct store_value key, value;
    struct store *store = NULL;
    struct store_txn *txn = NULL;
    uint32_t count = 0;
    struct err err = {0};
    char url[400];
    bool more = true;

    (void)snprintf(url, sizeof(url), "lmdb:%s", folder);
    options.url = url;
    must(store_open(&store, &options, &err), &err);
    must(store_begin(&txn, store, false, &err), &err);
    must(store_cursor_open(&cursor, txn, STORE_ROWS, (struct store_value){.data = "", .len = 0},
                           &err),
         &err);
    while (more) {
        must(store_cursor_next(cursor, &key, &value, &more, &err), &err);
        count += more;
    }
    store_cursor_close(cursor);
    store_abort(txn);
    store_close(store);
    return count;
}

static void write_segment(const char *folder, const char *name, const char *content)
{
    char path[500];
    FILE *file;

    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    assert_true(fputs(content, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

/* What the other one hands out, made as a shard makes it. */
static void make_copy(struct world *world)
{
    struct store_options options = {.env = env_real()};
    struct other *other = &world->other;
    char source[300], deep[400], url[400];
    struct store *store = NULL;
    struct err err = {0};

    (void)snprintf(source, sizeof(source), "%s/source", world->folder);
    fill_store(source);
    (void)snprintf(other->segments, sizeof(other->segments), "%s/segments", world->folder);
    assert_int_equal(mkdir(other->segments, 0777), 0);
    (void)snprintf(deep, sizeof(deep), "%s/0123456789abcdef", other->segments);
    assert_int_equal(mkdir(deep, 0777), 0);
    (void)snprintf(deep, sizeof(deep), "%s/0123456789abcdef/aa", other->segments);
    assert_int_equal(mkdir(deep, 0777), 0);
    write_segment(deep, "graph.seg", "a graph");
    write_segment(deep, "graph.seg.tmp", "half a graph");
    write_segment(deep, "cold.seg.damaged", "what was a part");
    (void)snprintf(other->folder, sizeof(other->folder), "%s/copies", world->folder);
    assert_int_equal(mkdir(other->folder, 0777), 0);
    (void)snprintf(url, sizeof(url), "lmdb:%s", source);
    options.url = url;
    must(store_open(&store, &options, &err), &err);
    other->pace.env = env_real();
    other->making = (struct copy_making){.store = store,
                                         .segments = other->segments,
                                         .folder = other->folder,
                                         .pace = &other->pace,
                                         .is_stopping = &other->is_stopping};
    must(copy_make(&other->making, &err), &err);
    store_close(store);
    assert_int_equal(other->making.count, 2);
    assert_string_equal(other->making.files[0].name, "segments/0123456789abcdef/aa/graph.seg");
    assert_string_equal(other->making.files[1].name, COPY_STORE_NAME);
    assert_true(other->making.files[1].bytes > COPY_CHUNK_BYTES);
}

static void put_rows(struct world *world)
{
    static const char deployment[] = "{\"partitions\":2,\"region\":7}";
    struct meta_put put = {.key = "deployment",
                           .value = deployment,
                           .value_len = strlen(deployment),
                           .expected = META_ANY};
    struct err err = {0};

    must(meta_open(&world->meta, "memory:", env_real(), &err), &err);
    must(meta_put(world->meta, &put, NULL, &err), &err);
    must(cluster_place(world->meta, 1, 2, &err), &err);
    must(cluster_register(world->meta, env_real(), "shard", "0.0", world->other.url, &err), &err);
    /* Itself, from an earlier life; and one that is gone. */
    must(cluster_register(world->meta, env_real(), "shard", "0.1", "http://127.0.0.1:1", &err),
         &err);
    must(cluster_register(world->meta, env_real(), "shard", "0.2", "http://127.0.0.1:1", &err),
         &err);
}

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    struct http_server_options options = {.listen = "127.0.0.1:0",
                                          .workers = 4,
                                          .read_timeout_ms = 5000,
                                          .keep_alive_ms = 5000,
                                          .routes = other_routes,
                                          .env = env_real()};
    struct err err = {0};

    log_start("test", LOG_OFF);
    assert_non_null(world);
    assert_true(scratch_make(world->folder, sizeof(world->folder), "seed"));
    (void)snprintf(world->data, sizeof(world->data), "%s/data", world->folder);
    assert_int_equal(mkdir(world->data, 0777), 0);
    make_copy(world);
    options.state = &world->other;
    must(http_server_open(&world->other.server, &options, &err), &err);
    (void)snprintf(world->other.url, sizeof(world->other.url), "http://127.0.0.1:%u",
                   http_server_port(world->other.server));
    put_rows(world);
    must(http_client_open(&world->client, &(struct http_client_options){.env = env_real()}, &err),
         &err);
    *state = world;
    return 0;
}

static int close_world(void **state)
{
    struct world *world = *state;

    atomic_store(&world->other.is_stopping, true);
    http_client_close(world->client);
    http_server_close(world->other.server, 5000);
    meta_close(world->meta);
    free(world->other.making.files);
    assert_int_equal(scratch_remove(world->folder), 0);
    free(world);
    return 0;
}

static bool is_there(const struct world *world, const char *name)
{
    char path[500];

    (void)snprintf(path, sizeof(path), "%s/%s", world->data, name);
    return access(path, F_OK) == 0;
}

static uint64_t run_seed(struct world *world, enum lie lie)
{
    struct seed seed = {.env = env_real(),
                        .meta = world->meta,
                        .client = world->client,
                        .data = world->data,
                        .shard = 0,
                        .replica = 1,
                        .records_min = 1000};
    struct err err = {0};

    atomic_store(&world->other.lie, lie);
    must(seed_run(&seed, &err), &err);
    assert_false(is_there(world, "seed"));
    return seed.bytes;
}

static void a_whole_copy_takes_its_place(void **state)
{
    struct world *world = *state;
    char store[300];
    uint64_t bytes = run_seed(world, LIE_NONE);

    assert_int_equal(bytes,
                     world->other.making.files[0].bytes + world->other.making.files[1].bytes);
    assert_true(is_there(world, "segments/0123456789abcdef/aa/graph.seg"));
    (void)snprintf(store, sizeof(store), "%s/store", world->data);
    assert_int_equal(count_rows(store), ROWS);
    /* It has a store now, and is not new any more. */
    atomic_store(&world->other.fetched, 0);
    assert_int_equal(run_seed(world, LIE_NONE), 0);
    assert_int_equal(atomic_load(&world->other.fetched), 0);
}

static void what_a_crash_left_is_replaced(void **state)
{
    struct world *world = *state;
    char path[400];

    (void)snprintf(path, sizeof(path), "%s/seed", world->data);
    assert_int_equal(mkdir(path, 0777), 0);
    write_segment(path, "half", "of something");
    /* Segments took their place, the store did not. */
    (void)snprintf(path, sizeof(path), "%s/segments", world->data);
    assert_int_equal(mkdir(path, 0777), 0);
    write_segment(path, "old", "of another try");
    assert_true(run_seed(world, LIE_NONE) > 0);
    assert_false(is_there(world, "segments/old"));
    assert_true(is_there(world, "store/" STORE_COPY_NAME));
}

static void what_is_not_whole_takes_no_place(void **state)
{
    static const enum lie lies[] = {LIE_NAME,    LIE_NO_STORE, LIE_DIGEST, LIE_SHORT,
                                    LIE_FORGETS, LIE_HUGE,     LIE_FAILS};
    struct world *world = *state;

    for (size_t i = 0; i < ARRAY_COUNT(lies); i++) {
        assert_int_equal(run_seed(world, lies[i]), 0);
        assert_false(is_there(world, "store"));
        assert_false(is_there(world, "segments"));
        assert_false(is_there(world, "../evil"));
    }
    assert_true(run_seed(world, LIE_NONE) > 0);
}

/* Bytes that came as they were sent, and are no store. */
static void what_cannot_be_opened_takes_no_place(void **state)
{
    struct world *world = *state;
    struct copy_file *file = &world->other.making.files[1];
    uint8_t *bytes = malloc(COPY_CHUNK_BYTES);
    char path[500];

    assert_non_null(bytes);
    memset(bytes, 'x', COPY_CHUNK_BYTES);
    (void)snprintf(path, sizeof(path), "%s/store", world->other.folder);
    write_segment(path, STORE_COPY_NAME, "");
    (void)snprintf(path, sizeof(path), "%s/" COPY_STORE_NAME, world->other.folder);
    {
        int fd = open(path, O_WRONLY);

        assert_int_equal(write(fd, bytes, COPY_CHUNK_BYTES), COPY_CHUNK_BYTES);
        close(fd);
    }
    file->bytes = COPY_CHUNK_BYTES;
    file->digest = (struct hash128){0};
    copy_chain(&file->digest, bytes, COPY_CHUNK_BYTES);
    assert_int_equal(run_seed(world, LIE_NONE), 0);
    assert_true(atomic_load(&world->other.fetched) > 0);
    assert_false(is_there(world, "store"));
    free(bytes);
}

/* A copy that was made for others a while ago, before the log was trimmed. */
static void what_is_older_than_the_log_takes_no_place(void **state)
{
    static const uint64_t firsts[PARTITIONS] = {0, 5};
    struct world *world = *state;
    struct seed seed = {.env = env_real(),
                        .meta = world->meta,
                        .client = world->client,
                        .data = world->data,
                        .replica = 1,
                        .firsts = firsts,
                        .is_trimmed = true};
    struct err err = {0};

    atomic_store(&world->other.lie, LIE_NONE);
    assert_int_equal(seed_run(&seed, &err), ERR_NOT_FOUND);
    assert_true(atomic_load(&world->other.fetched) > 0);
    assert_false(is_there(world, "store"));
    assert_false(is_there(world, "segments"));
}

static void who_has_little_is_not_copied(void **state)
{
    struct world *world = *state;

    assert_int_equal(run_seed(world, LIE_FEW), 0);
    assert_int_equal(atomic_load(&world->other.fetched), 0);
}

/* It is as busy as a replica is that opens a large store: it takes longer to answer than who is not
 * there at all is waited for. */
static void who_is_late_is_waited_for(void **state)
{
    struct world *world = *state;

    atomic_store(&world->other.late, 3);
    assert_true(run_seed(world, LIE_NONE) > 0);
    assert_true(atomic_load(&world->other.late) < 0);
}

static atomic_int looks;

static bool ends_soon(void)
{
    return atomic_fetch_add(&looks, 1) >= 2;
}

static void who_is_asked_to_end_does(void **state)
{
    struct world *world = *state;
    struct seed seed = {.env = env_real(),
                        .meta = world->meta,
                        .client = world->client,
                        .data = world->data,
                        .replica = 1,
                        .records_min = 1000,
                        .is_stopping = ends_soon};
    struct err err = {0};

    for (int lie = LIE_NONE; lie <= LIE_BUSY; lie += LIE_BUSY) {
        atomic_store(&looks, 0);
        atomic_store(&world->other.lie, lie);
        assert_int_equal(seed_run(&seed, &err), ERR_DEAD);
        assert_false(is_there(world, "store"));
    }
}

static void names_lead_nowhere_else(void **state)
{
    static const char *const bad[] = {"",
                                      "store",
                                      "store/",
                                      "store/lock.mdb",
                                      "store/../store/data.mdb",
                                      "/store/data.mdb",
                                      "segments/",
                                      "segments/..",
                                      "segments/../x",
                                      "segments/a/../../x",
                                      "segments/a//b",
                                      "segments/.hidden",
                                      "segments/a/b/c/d",
                                      "segments/A",
                                      "segments/a b",
                                      "segments/a\\b",
                                      "other/a"};
    char long_name[COPY_NAME_BYTES + 20];

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++)
        assert_false(copy_name_is_valid(bad[i]));
    memset(long_name, 'a', sizeof(long_name) - 1);
    memcpy(long_name, "segments/", 9);
    long_name[sizeof(long_name) - 1] = '\0';
    assert_false(copy_name_is_valid(long_name));
    assert_true(copy_name_is_valid("store/data.mdb"));
    assert_true(copy_name_is_valid("segments/0123456789abcdef/00ff/graph.seg"));
    assert_true(copy_name_is_valid("segments/0123456789abcdef/00ff/cold-12_13.seg"));
}

#define IN_WORLD(test) cmocka_unit_test_setup_teardown(test, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_WORLD(a_whole_copy_takes_its_place),
        IN_WORLD(what_a_crash_left_is_replaced),
        IN_WORLD(what_is_not_whole_takes_no_place),
        IN_WORLD(what_cannot_be_opened_takes_no_place),
        IN_WORLD(what_is_older_than_the_log_takes_no_place),
        IN_WORLD(who_has_little_is_not_copied),
        IN_WORLD(who_is_late_is_waited_for),
        IN_WORLD(who_is_asked_to_end_does),
        cmocka_unit_test(names_lead_nowhere_else),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
