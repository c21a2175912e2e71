/* Snapshots in the blob store: what is found as verified is whole, whichever call failed and
 * whatever byte was changed on the way; everything else counts for nothing and goes.  The store is
 * a real one, the blob store a folder, behind calls that fail or lie when told to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/snapshot_manifest.h"
#include "common/base/log.h"
#include "services/shard/apply.h"
#include "services/shard/snapshot_make.h"
#include "services/shard/snapshot_store.h"
#include "tests/lib/scratch.h"

#define PARTITIONS 2
#define ROWS       3000
#define REGION     7

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

/* --- a blob store that fails ------------------------------------------------------------------ */

struct faulty {
    struct blob blob; /* first */
    struct blob *inner;
    unsigned calls, fails_at; /* from 1; 0: none fails */
    unsigned puts, lies_at;   /* the put of which a byte is changed */
};

static bool fails(struct blob *blob, struct err *err)
{
    struct faulty *faulty = (struct faulty *)blob;

    if (++faulty->calls != faulty->fails_at)
        return false;
    (void)err_set(err, ERR_UNAVAILABLE, "call %u fails", faulty->calls);
    return true;
}

static enum err_code faulty_put(struct blob *blob, const char *name, const void *data, size_t len,
                                struct err *err)
{
    struct faulty *faulty = (struct faulty *)blob;
    uint8_t *copy;
    enum err_code code;

    if (fails(blob, err))
        return err->code;
    if (++faulty->puts != faulty->lies_at)
        return blob_put(faulty->inner, name, data, len, err);
    copy = malloc(len);
    assert_non_null(copy);
    memcpy(copy, data, len);
    copy[len / 2] ^= 1;
    code = blob_put(faulty->inner, name, copy, len, err);
    free(copy);
    return code;
}

static enum err_code faulty_get(struct blob *blob, const struct blob_range *range,
                                struct buffer *out, struct err *err)
{
    return fails(blob, err) ? err->code : blob_get(((struct faulty *)blob)->inner, range, out, err);
}

static enum err_code faulty_size(struct blob *blob, const char *name, uint64_t *bytes,
                                 struct err *err)
{
    return fails(blob, err) ? err->code
                            : blob_size(((struct faulty *)blob)->inner, name, bytes, err);
}

static enum err_code faulty_remove(struct blob *blob, const char *name, struct err *err)
{
    return fails(blob, err) ? err->code : blob_remove(((struct faulty *)blob)->inner, name, err);
}

static enum err_code faulty_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                                 void *context, struct err *err)
{
    return fails(blob, err) ? err->code
                            : blob_list(((struct faulty *)blob)->inner, prefix, seen, context, err);
}

static const struct blob_ops FAULTY_OPS = {
    .scheme = "faulty",
    .put = faulty_put,
    .get = faulty_get,
    .size = faulty_size,
    .remove = faulty_remove,
    .list = faulty_list,
};

/* --- the world ------------------------------------------------------------------------------- */

struct world {
    char folder[200], making_folder[260];
    struct faulty blob;
    struct store *store;
    struct copy_pace pace;
    atomic_bool is_stopping;
    struct partition_set served;
    struct snapshot_making making;
};

static void fill_store(struct world *world)
{
    struct store_options options = {.env = env_real()};
    struct apply_origin origin = {.region = REGION};
    struct apply apply = {0};
    struct store_txn *txn = NULL;
    char url[300], text[600] = {0};
    struct err err = {0};

    (void)snprintf(url, sizeof(url), "lmdb:%s/store", world->folder);
    options.url = url;
    must(store_open(&world->store, &options, &err), &err);
    partition_set_fill(&world->served, PARTITIONS);
    origin.served = world->served;
    must(apply_create(&apply, world->store, &origin, &err), &err);
    apply_free(&apply);
    must(store_begin(&txn, world->store, true, &err), &err);
    for (uint32_t i = 0; i < ROWS; i++) {
        char key[16];
        int len = snprintf(key, sizeof(key), "row-%05u", i);

        must(store_put(txn, STORE_ROWS, (struct store_value){.data = key, .len = (size_t)len},
                       (struct store_value){.data = text, .len = sizeof(text)}, &err),
             &err);
    }
    must(store_commit(txn, &err), &err);
}

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    char url[300];
    struct err err = {0};

    assert_non_null(world);
    log_start("test", LOG_OFF);
    assert_true(scratch_make(world->folder, sizeof(world->folder), "snapshot"));
    (void)snprintf(url, sizeof(url), "file:%s/blob", world->folder);
    must(blob_open(&world->blob.inner, url, env_real(), &err), &err);
    world->blob.blob = (struct blob){.ops = &FAULTY_OPS, .env = env_real()};
    fill_store(world);
    world->pace.env = env_real();
    (void)snprintf(world->making_folder, sizeof(world->making_folder), "%s/making", world->folder);
    world->making = (struct snapshot_making){.env = env_real(),
                                             .blob = &world->blob.blob,
                                             .store = world->store,
                                             .folder = world->making_folder,
                                             .pace = &world->pace,
                                             .is_stopping = &world->is_stopping,
                                             .region = REGION,
                                             .keep = 2};
    *state = world;
    return 0;
}

static int close_world(void **state)
{
    struct world *world = *state;
    int rc;

    store_close(world->store);
    blob_close(world->blob.inner);
    rc = scratch_remove(world->folder);
    free(world);
    return rc;
}

static enum err_code make(struct world *world, char id[SNAPSHOT_ID_BYTES], struct err *err)
{
    enum err_code code = snapshot_make(&world->making, err);

    if (id != NULL)
        (void)snprintf(id, SNAPSHOT_ID_BYTES, "%s", world->making.made.id);
    snapshot_free(&world->making.made);
    assert_int_not_equal(access(world->making_folder, F_OK), 0);
    return code;
}

/* The newest verified one; "": there is none. */
static void newest(struct world *world, char id[SNAPSHOT_ID_BYTES])
{
    struct snapshot_wanted wanted = {.region = REGION, .served = &world->served};
    struct snapshot snapshot;
    struct err err = {0};
    enum err_code code = snapshots_newest(world->blob.inner, &wanted, &snapshot, &err);

    id[0] = '\0';
    if (code == ERR_NOT_FOUND)
        return;
    must(code, &err);
    must(snapshot_check(world->blob.inner, &snapshot, NULL, NULL, &err), &err);
    (void)snprintf(id, SNAPSHOT_ID_BYTES, "%s", snapshot.id);
    snapshot_free(&snapshot);
}

static size_t count_all(struct world *world)
{
    struct snapshot_list list = {.region = REGION};
    struct err err = {0};
    size_t count;

    must(snapshots_list(world->blob.inner, &list, &err), &err);
    count = list.count;
    snapshots_list_free(&list);
    return count;
}

/* --- promises --------------------------------------------------------------------------------- */

static void what_was_made_is_found_and_is_whole(void **state)
{
    struct world *world = *state;
    struct snapshot_wanted wanted = {.region = REGION, .served = &world->served};
    struct snapshot_fetch fetch = {.blob = world->blob.inner, .folder = world->making_folder};
    char id[SNAPSHOT_ID_BYTES], found[SNAPSHOT_ID_BYTES];
    struct snapshot snapshot;
    struct err err = {0};

    must(make(world, id, &err), &err);
    newest(world, found);
    assert_string_equal(found, id);
    must(snapshots_newest(world->blob.inner, &wanted, &snapshot, &err), &err);
    assert_int_equal(snapshot.partition_count, PARTITIONS);
    fetch.snapshot = &snapshot;
    assert_int_equal(mkdir(world->making_folder, 0777), 0);
    must(snapshot_fetch(&fetch, &err), &err);
    must(snapshot_compare(env_real(), world->making_folder, &snapshot, &world->is_stopping, &err),
         &err);
    snapshot.partitions[1].position++;
    assert_int_equal(
        snapshot_compare(env_real(), world->making_folder, &snapshot, &world->is_stopping, &err),
        ERR_CORRUPT);
    snapshot_free(&snapshot);
    /* Of other partitions, or of another log, there is none. */
    partition_set_add(&world->served, PARTITIONS);
    newest(world, found);
    assert_string_equal(found, "");
}

static void whatever_call_fails_only_what_is_whole_is_found(void **state)
{
    struct world *world = *state;
    char first[SNAPSHOT_ID_BYTES], id[SNAPSHOT_ID_BYTES], found[SNAPSHOT_ID_BYTES];
    enum err_code code = ERR_IO;
    struct err err = {0};
    unsigned at = 1;

    must(make(world, first, &err), &err);
    for (; code != ERR_OK; at++) {
        world->blob.calls = 0;
        world->blob.fails_at = at;
        err_clear(&err);
        code = make(world, id, &err);
        newest(world, found);
        assert_string_equal(found, code == ERR_OK ? id : first);
        world->blob.fails_at = 0;
        must(snapshot_tidy(&world->making, NULL, &err), &err);
        assert_int_equal(count_all(world), code == ERR_OK ? 2 : 1);
        assert_true(at < 200);
    }
    print_message("%u calls failed\n", at - 2);
    assert_true(at > 8);
}

static void a_byte_that_changes_on_its_way_is_found(void **state)
{
    struct world *world = *state;
    char found[SNAPSHOT_ID_BYTES];
    enum err_code code = ERR_IO;
    struct err err = {0};
    unsigned at = 1;

    for (; code != ERR_OK; at++) {
        world->blob.puts = 0;
        world->blob.lies_at = at;
        code = make(world, NULL, &err);
        newest(world, found);
        assert_true((found[0] != '\0') == (code == ERR_OK));
        assert_true(code == ERR_OK || code == ERR_CORRUPT);
    }
    assert_true(at > 3); /* the store, the manifest, the mark */
}

static void a_damaged_manifest_is_none(void **state)
{
    struct world *world = *state;
    struct snapshot_list list = {.region = REGION};
    char id[SNAPSHOT_ID_BYTES], name[BLOB_NAME_BYTES_MAX + 1];
    struct snapshot snapshot;
    struct buffer bytes = {0};
    struct err err = {0};
    bool is_verified;
    uint64_t len;

    must(make(world, id, &err), &err);
    (void)snprintf(name, sizeof(name), "snapshots/%08x/0/%s/manifest", REGION, id);
    must(blob_size(world->blob.inner, name, &len, &err), &err);
    must(blob_get(world->blob.inner, &(struct blob_range){.name = name, .len = (size_t)len}, &bytes,
                  &err),
         &err);
    for (size_t i = 0; i < bytes.len; i++) {
        bytes.data[i] ^= 4;
        assert_int_not_equal(snapshot_manifest_decode(&snapshot, bytes.data, bytes.len, &err),
                             ERR_OK);
        bytes.data[i] ^= 4;
        assert_int_not_equal(snapshot_manifest_decode(&snapshot, bytes.data, i, &err), ERR_OK);
    }
    /* One that was put in its place, whole, is not what was verified. */
    must(snapshot_load(world->blob.inner, &list, id, &snapshot, &is_verified, &err), &err);
    assert_true(is_verified);
    snapshot.partitions[0].position++;
    must(snapshot_publish(world->blob.inner, &snapshot, &err), &err);
    snapshot_free(&snapshot);
    must(snapshot_load(world->blob.inner, &list, id, &snapshot, &is_verified, &err), &err);
    assert_false(is_verified);
    snapshot_free(&snapshot);
    newest(world, id);
    assert_string_equal(id, "");
    buffer_free(&bytes);
}

static void what_a_manifest_may_not_say_is_refused(void **state)
{
    static const char *const names[] = {"segments/../../evil", "/etc/passwd", "store/lock.mdb",
                                        "segments//a", ""};
    struct snapshot_partition partitions[2] = {{.partition = 0}, {.partition = 1}};
    struct copy_file files[2] = {{.name = COPY_STORE_NAME}, {.name = "segments/a/b/c"}};
    struct snapshot snapshot = {.region = REGION,
                                .id = "0000000000000001-0",
                                .partitions = partitions,
                                .partition_count = 2,
                                .files = files,
                                .file_count = 2};
    struct snapshot out;
    struct buffer bytes = {0};
    struct err err = {0};

    (void)state;
    must(snapshot_manifest_encode(&snapshot, &bytes, &err), &err);
    must(snapshot_manifest_decode(&out, bytes.data, bytes.len, &err), &err);
    snapshot_free(&out);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        (void)snprintf(files[1].name, sizeof(files[1].name), "%s", names[i]);
        buffer_reset(&bytes);
        must(snapshot_manifest_encode(&snapshot, &bytes, &err), &err);
        assert_int_equal(snapshot_manifest_decode(&out, bytes.data, bytes.len, &err), ERR_CORRUPT);
    }
    (void)snprintf(files[1].name, sizeof(files[1].name), "segments/a/b/c");
    partitions[1].partition = 0;
    buffer_reset(&bytes);
    must(snapshot_manifest_encode(&snapshot, &bytes, &err), &err);
    assert_int_equal(snapshot_manifest_decode(&out, bytes.data, bytes.len, &err), ERR_CORRUPT);
    buffer_free(&bytes);
}

static void old_ones_go_and_others_unfinished_ones_stay(void **state)
{
    struct world *world = *state;
    char ids[4][SNAPSHOT_ID_BYTES], other[SNAPSHOT_ID_BYTES], own[SNAPSHOT_ID_BYTES];
    char found[SNAPSHOT_ID_BYTES];
    struct snapshot begun = {.region = REGION};
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct err err = {0};

    for (size_t i = 0; i < 4; i++)
        must(make(world, ids[i], &err), &err);
    snapshot_id(other, env_wall_us(env_real()), 1);
    snapshot_id(own, env_wall_us(env_real()), 0);
    for (size_t i = 0; i < 2; i++) {
        (void)snprintf(begun.id, sizeof(begun.id), "%s", i == 0 ? other : own);
        snapshot_part_name(name, &begun, 0, 0);
        must(blob_put(world->blob.inner, name, "part", 4, &err), &err);
    }
    assert_int_equal(count_all(world), 6);
    must(snapshot_tidy(&world->making, own, &err), &err);
    assert_int_equal(count_all(world), 4);
    must(snapshot_tidy(&world->making, NULL, &err), &err);
    assert_int_equal(count_all(world), 3);
    newest(world, found);
    assert_string_equal(found, ids[3]);
}

/* The maker of the newer one was behind, or had its clock ahead. */
static void what_holds_more_stays_whatever_its_name(void **state)
{
    struct world *world = *state;
    struct snapshot_list list = {.region = REGION};
    char id[SNAPSHOT_ID_BYTES], found[SNAPSHOT_ID_BYTES];
    struct snapshot more = {0};
    struct err err = {0};
    bool is_verified;

    must(make(world, id, &err), &err);
    must(snapshot_load(world->blob.inner, &list, id, &more, &is_verified, &err), &err);
    snapshot_id(more.id, env_wall_us(env_real()) - 10000000, 1);
    more.partitions[1].position++;
    must(snapshot_publish(world->blob.inner, &more, &err), &err);
    must(snapshot_mark_verified(world->blob.inner, &more, &err), &err);
    newest(world, found);
    assert_string_equal(found, id);
    world->making.keep = 1;
    must(snapshot_tidy(&world->making, NULL, &err), &err);
    must(snapshots_list(world->blob.inner, &list, &err), &err);
    assert_int_equal(list.count, 1);
    assert_string_equal(list.entries[0].id, more.id);
    snapshots_list_free(&list);
    snapshot_free(&more);
}

static void a_stop_ends_it_and_leaves_nothing(void **state)
{
    struct world *world = *state;
    struct err err = {0};

    atomic_store(&world->is_stopping, true);
    assert_int_equal(make(world, NULL, &err), ERR_DEAD);
    assert_int_equal(count_all(world), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_was_made_is_found_and_is_whole),
        TEST(whatever_call_fails_only_what_is_whole_is_found),
        TEST(a_byte_that_changes_on_its_way_is_found),
        TEST(a_damaged_manifest_is_none),
        TEST(what_a_manifest_may_not_say_is_refused),
        TEST(old_ones_go_and_others_unfinished_ones_stay),
        TEST(what_holds_more_stays_whatever_its_name),
        TEST(a_stop_ends_it_and_leaves_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
