/* Verifying the snapshots of a blob store: what is whole has nothing to tell, each kind of damage
 * is found and names its object, what nobody relies on is counted and no damage, and a trimmed log
 * without a snapshot that reaches to its beginning is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/snapshot_manifest.h"
#include "cluster/snapshots.h"
#include "cluster/snapshots_verify.h"
#include "common/base/checked.h"
#include "tests/lib/scratch.h"

#define REGION     0x2au
#define PARTITIONS 4u
#define OBJECTS    5u /* of a snapshot: three parts, a manifest, a mark */
#define CALLS_MAX  200u

/* It is about bytes: syncs would only take long. */
int fsync(int fd)
{
    (void)fd;
    return 0;
}

/* --- a blob store of which a call fails --------------------------------------------------------
 */

struct faulty {
    struct blob blob; /* first */
    struct blob *inner;
    unsigned calls, fails_at; /* from 1; 0: none fails */
    const char *goes,
        *goes_by; /* the object `goes`, and its mark, are removed at a size of goes_by */
};

static bool fails(struct faulty *faulty, struct err *err)
{
    if (++faulty->calls != faulty->fails_at)
        return false;
    (void)err_set(err, ERR_UNAVAILABLE, "call %u fails", faulty->calls);
    return true;
}

static enum err_code faulty_get(struct blob *blob, const struct blob_range *range,
                                struct buffer *out, struct err *err)
{
    struct faulty *faulty = (struct faulty *)blob;

    return fails(faulty, err) ? err->code : blob_get(faulty->inner, range, out, err);
}

static enum err_code faulty_size(struct blob *blob, const char *name, uint64_t *bytes,
                                 struct err *err)
{
    struct faulty *faulty = (struct faulty *)blob;

    if (fails(faulty, err))
        return err->code;
    if (faulty->goes != NULL && strcmp(name, faulty->goes_by) == 0) {
        char mark[BLOB_NAME_BYTES_MAX + 1];

        (void)snprintf(mark, sizeof(mark), "%.*s/verified", (int)(strrchr(name, '/') - name), name);
        assert_int_equal(blob_remove(faulty->inner, mark, err), ERR_OK);
        assert_int_equal(blob_remove(faulty->inner, faulty->goes, err), ERR_OK);
    }
    return blob_size(faulty->inner, name, bytes, err);
}

static enum err_code faulty_list(struct blob *blob, const char *prefix, blob_seen_fn *seen,
                                 void *context, struct err *err)
{
    struct faulty *faulty = (struct faulty *)blob;

    return fails(faulty, err) ? err->code : blob_list(faulty->inner, prefix, seen, context, err);
}

static const struct blob_ops FAULTY_OPS = {
    .scheme = "faulty", .get = faulty_get, .size = faulty_size, .list = faulty_list};

/* --- the world ---------------------------------------------------------------------------------
 */

struct world {
    char folder[200];
    struct faulty blob;
    struct wal_verified *log;
    struct snapshots_verified out;
    uint64_t findings;
    char file[256], text[SCRUB_TEXT_BYTES]; /* of the last one */
};

static void must(enum err_code code, const struct err *err)
{
    if (code != ERR_OK)
        fail_msg("%s: %s", err_word(code), err->message);
}

static int open_world(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    char url[300];
    struct err err = {0};

    assert_non_null(world);
    assert_true(scratch_make(world->folder, sizeof(world->folder), "snapshots"));
    (void)snprintf(url, sizeof(url), "file:%s/blob", world->folder);
    must(blob_open(&world->blob.inner, url, env_real(), &err), &err);
    world->blob.blob = (struct blob){.ops = &FAULTY_OPS, .env = env_real()};
    world->log = calloc(1, sizeof(*world->log));
    assert_non_null(world->log);
    world->log->region = REGION;
    world->log->partitions = PARTITIONS;
    world->log->is_whole = true;
    for (uint32_t p = 0; p < PARTITIONS; p++)
        world->log->end[p] = 1000;
    *state = world;
    return 0;
}

static int close_world(void **state)
{
    struct world *world = *state;
    int rc;

    blob_close(world->blob.inner);
    rc = scratch_remove(world->folder);
    free(world->log);
    free(world);
    return rc;
}

static void put(struct world *world, const char *name, const void *data, size_t len)
{
    struct err err = {0};

    must(blob_put(world->blob.inner, name, data, len, &err), &err);
}

static void drop(struct world *world, const char *name)
{
    struct err err = {0};

    must(blob_remove(world->blob.inner, name, &err), &err);
}

static struct buffer take(struct world *world, const char *name)
{
    struct buffer bytes = {0};
    struct err err = {0};
    uint64_t len = 0;

    must(blob_size(world->blob.inner, name, &len, &err), &err);
    must(blob_get(world->blob.inner, &(struct blob_range){.name = name, .len = (size_t)len}, &bytes,
                  &err),
         &err);
    return bytes;
}

/* What a snapshot is made of. */
struct recipe {
    uint32_t region, shard, first, count; /* of partitions */
    uint64_t time, position;
    bool is_unpublished, is_unmarked;
};

static void describe(const struct recipe *recipe, struct snapshot *snapshot,
                     struct snapshot_partition partitions[PARTITIONS + 1],
                     struct copy_file files[2])
{
    *snapshot = (struct snapshot){.region = recipe->region,
                                  .shard = recipe->shard,
                                  .made_us = recipe->time,
                                  .partitions = partitions,
                                  .partition_count = recipe->count,
                                  .files = files,
                                  .file_count = 2};
    snapshot_id(snapshot->id, recipe->time, 0);
    for (uint32_t i = 0; i < recipe->count; i++)
        partitions[i] = (struct snapshot_partition){.partition = recipe->first + i,
                                                    .position = recipe->position};
    files[0] = (struct copy_file){.name = COPY_STORE_NAME, .bytes = SNAPSHOT_PART_BYTES + 5000};
    files[1] = (struct copy_file){.name = "segments/a/b/c", .bytes = 77};
}

static void make(struct world *world, const struct recipe *recipe)
{
    uint8_t *bytes = malloc(SNAPSHOT_PART_BYTES);
    struct snapshot_partition partitions[PARTITIONS + 1] = {{0}};
    struct copy_file files[2];
    struct snapshot snapshot;
    char name[BLOB_NAME_BYTES_MAX + 1];
    struct err err = {0};

    assert_non_null(bytes);
    describe(recipe, &snapshot, partitions, files);
    for (size_t f = 0; f < ARRAY_COUNT(files); f++)
        for (uint64_t at = 0; at < files[f].bytes; at += SNAPSHOT_PART_BYTES) {
            size_t len = MIN_OF(SNAPSHOT_PART_BYTES, (size_t)(files[f].bytes - at));

            memset(bytes, (int)(recipe->time + 3 * f + at / SNAPSHOT_PART_BYTES), len);
            for (size_t i = 0; i < len; i += COPY_CHUNK_BYTES)
                copy_chain(&files[f].digest, bytes + i, MIN_OF(COPY_CHUNK_BYTES, len - i));
            snapshot_part_name(name, &snapshot, f, at / SNAPSHOT_PART_BYTES);
            put(world, name, bytes, len);
        }
    if (!recipe->is_unpublished)
        must(snapshot_publish(world->blob.inner, &snapshot, &err), &err);
    if (!recipe->is_unpublished && !recipe->is_unmarked)
        must(snapshot_mark_verified(world->blob.inner, &snapshot, &err), &err);
    free(bytes);
}

static void find(void *state, const struct scrub_finding *finding)
{
    struct world *world = state;

    world->findings++;
    (void)snprintf(world->file, sizeof(world->file), "%s", finding->file);
    (void)snprintf(world->text, sizeof(world->text), "%s", finding->text);
}

static bool go_on(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return true;
}

static enum err_code look_with(struct world *world, bool with_log, struct err *err)
{
    struct scrub scrub = {.find = find, .go_on = go_on, .state = world};
    const struct wal_verified *log = world->log;
    struct snapshots_verify_setup setup = {
        .blob = &world->blob.blob, .scrub = &scrub, .logs = &log, .log_count = with_log};

    world->findings = 0;
    world->blob.calls = 0;
    world->file[0] = world->text[0] = '\0';
    return snapshots_verify(&setup, &world->out, err);
}

static void look(struct world *world)
{
    struct err err = {0};

    must(look_with(world, true, &err), &err);
}

/* One finding, about this object, that says this. */
static void assert_found(struct world *world, const char *file, const char *text)
{
    look(world);
    if (world->findings != 1 || strcmp(world->file, file) != 0 || strstr(world->text, text) == NULL)
        fail_msg("%s, \"%s\": %llu findings, the last in %s: %s", file, text,
                 (unsigned long long)world->findings, world->file, world->text);
}

static void assert_sound(struct world *world)
{
    look(world);
    if (world->findings != 0)
        fail_msg("%s: %s", world->file, world->text);
}

static const struct recipe SOUND = {
    .region = REGION, .shard = 0, .count = PARTITIONS, .time = 7, .position = 1000};
#define AT "snapshots/0000002a/0/0000000000000007-0/"

/* --- promises -----------------------------------------------------------------------------------
 */

static void what_is_whole_has_nothing_to_tell(void **state)
{
    struct world *world = *state;
    struct recipe recipe = SOUND;

    assert_sound(world);
    assert_int_equal(world->out.whole, 0);
    make(world, &SOUND);
    recipe.time++;
    make(world, &recipe);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        world->log->first[p] = 999;
    assert_sound(world);
    assert_int_equal(world->out.whole, 2);
    assert_int_equal(world->out.objects, 2 * OBJECTS);
    assert_int_equal(world->out.bytes, 2 * (SNAPSHOT_PART_BYTES + 5000 + 77));
    assert_int_equal(world->out.unfinished + world->out.others + world->out.unnamed, 0);
    /* Without its log it is as whole. */
    must(look_with(world, false, NULL), NULL);
    assert_int_equal(world->findings, 0);
    assert_int_equal(world->out.others, 2);
}

static void a_part_that_is_missing_cut_or_longer_is_named(void **state)
{
    static const char *const parts[] = {AT "00000.0000000", AT "00000.0000001", AT "00001.0000000"};
    struct world *world = *state;

    make(world, &SOUND);
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        struct buffer bytes = take(world, parts[i]);

        drop(world, parts[i]);
        assert_found(world, parts[i], "no such object");
        put(world, parts[i], bytes.data, bytes.len - 1);
        assert_found(world, parts[i], "bytes, the manifest says");
        buffer_append_byte(&bytes, 0);
        put(world, parts[i], bytes.data, bytes.len);
        assert_found(world, parts[i], "bytes, the manifest says");
        put(world, parts[i], bytes.data, bytes.len - 1);
        assert_sound(world);
        buffer_free(&bytes);
    }
}

static void a_changed_byte_of_a_part_is_found_and_its_file_is_named(void **state)
{
    static const char *const parts[] = {AT "00000.0000000", AT "00000.0000001", AT "00001.0000000"};
    static const char *const told[] = {COPY_STORE_NAME " is damaged", COPY_STORE_NAME " is damaged",
                                       "segments/a/b/c is damaged"};
    struct world *world = *state;

    make(world, &SOUND);
    for (size_t i = 0; i < ARRAY_COUNT(parts); i++) {
        struct buffer bytes = take(world, parts[i]);

        for (size_t at = 0; at < bytes.len; at += bytes.len / 3 + 1) {
            bytes.data[at] ^= 0x10;
            put(world, parts[i], bytes.data, bytes.len);
            /* One digest for a file: of several parts the first is named. */
            assert_found(world, i == 1 ? parts[0] : parts[i], told[i]);
            bytes.data[at] ^= 0x10;
        }
        put(world, parts[i], bytes.data, bytes.len);
        buffer_free(&bytes);
    }
    assert_sound(world);
}

static void a_manifest_that_is_missing_cut_or_changed_is_named(void **state)
{
    static const char name[] = AT "manifest";
    struct world *world = *state;
    struct buffer bytes;

    make(world, &SOUND);
    bytes = take(world, name);
    drop(world, name);
    assert_found(world, name, "has no manifest");
    for (size_t at = 0; at < bytes.len; at += 7) {
        bytes.data[at] ^= 1;
        put(world, name, bytes.data, bytes.len);
        assert_found(world, name, "damaged");
        bytes.data[at] ^= 1;
        put(world, name, bytes.data, at + 1);
        assert_found(world, name, "damaged");
    }
    put(world, name, bytes.data, bytes.len);
    assert_sound(world);
    buffer_free(&bytes);
}

static void a_mark_that_is_cut_or_anothers_is_named(void **state)
{
    static const char name[] = AT "verified";
    struct world *world = *state;
    struct buffer bytes;

    make(world, &SOUND);
    bytes = take(world, name);
    for (size_t at = 0; at < bytes.len; at++) {
        bytes.data[at] ^= 1;
        put(world, name, bytes.data, bytes.len);
        assert_found(world, name, "not the mark");
        bytes.data[at] ^= 1;
        if (at > 0) {
            put(world, name, bytes.data, at);
            assert_found(world, name, "not the mark");
        }
    }
    buffer_free(&bytes);
}

static void a_manifest_that_names_no_end_of_objects_comes_to_an_end(void **state)
{
    struct snapshot_partition partitions[PARTITIONS + 1] = {{0}};
    struct world *world = *state;
    struct copy_file files[2];
    struct snapshot snapshot;
    struct err err = {0};

    make(world, &SOUND);
    describe(&SOUND, &snapshot, partitions, files);
    files[1].bytes = INT64_MAX;
    must(snapshot_publish(world->blob.inner, &snapshot, &err), &err);
    must(snapshot_mark_verified(world->blob.inner, &snapshot, &err), &err);
    look(world);
    assert_in_range(world->findings, 1, 2000);
}

/* A manifest that is whole and lies where another belongs. */
static void a_manifest_of_another_snapshot_is_named(void **state)
{
    struct world *world = *state;
    struct recipe other = SOUND;
    struct buffer bytes;

    other.time++;
    make(world, &SOUND);
    make(world, &other);
    bytes = take(world, "snapshots/0000002a/0/0000000000000008-0/manifest");
    put(world, AT "manifest", bytes.data, bytes.len);
    assert_found(world, AT "manifest", "that of another");
    buffer_free(&bytes);
}

static void positions_that_the_log_does_not_have_are_told(void **state)
{
    struct world *world = *state;

    make(world, &SOUND);
    world->log->end[2] = 999;
    assert_found(world, AT "manifest", "partition 2 up to 1000, the log ends at 999");
    world->log->end[2] = 1000;
    world->log->partitions = PARTITIONS - 1;
    assert_found(world, AT "manifest", "partition 3, the log has only 3");
}

static void a_trimmed_log_has_to_begin_where_a_whole_snapshot_reaches_to(void **state)
{
    static const char beginning[] = "snapshots/0000002a";
    struct world *world = *state;
    struct recipe shard = {.region = REGION, .count = 2, .position = 500, .time = 7};
    struct buffer bytes;

    /* What was never trimmed needs none; half of it covered is not enough. */
    assert_sound(world);
    for (uint32_t p = 0; p < PARTITIONS; p++)
        world->log->first[p] = 400;
    assert_found(world, beginning, "begins at 400 in partition 0");
    make(world, &shard);
    assert_found(world, beginning, "begins at 400 in partition 2");
    shard.shard = 1;
    shard.first = 2;
    make(world, &shard);
    assert_sound(world);
    /* The record before its position has to be there. */
    world->log->first[3] = 500;
    assert_found(world, beginning, "in 2 of its 4");
    world->log->first[3] = 499;
    assert_sound(world);
    /* With the newer one damaged, an older one may do. */
    shard.time = 8;
    shard.position = 600;
    make(world, &shard);
    bytes = take(world, "snapshots/0000002a/1/0000000000000008-0/00001.0000000");
    bytes.data[3] ^= 1;
    put(world, "snapshots/0000002a/1/0000000000000008-0/00001.0000000", bytes.data, bytes.len);
    assert_found(world, "snapshots/0000002a/1/0000000000000008-0/00001.0000000", "is damaged");
    world->log->first[2] = 550;
    look(world);
    assert_int_equal(world->findings, 2);
    assert_string_equal(world->file, beginning);
    buffer_free(&bytes);
}

static void snapshots_of_another_log_cover_nothing(void **state)
{
    struct world *world = *state;
    struct recipe other = SOUND;

    other.region = REGION + 1;
    other.position = 100000;
    make(world, &other);
    assert_sound(world);
    assert_int_equal(world->out.whole, 1);
    assert_int_equal(world->out.others, 1);
    world->log->first[1] = 3;
    assert_found(world, "snapshots/0000002a", "begins at 3 in partition 1");
}

static void what_nobody_relies_on_is_counted_and_no_damage(void **state)
{
    static const char *const strays[] = {AT "00009.0000000", AT "notes", "snapshots/notes",
                                         "snapshots/0000002a/0/no-id/manifest",
                                         "snapshots/0000002a/1000/0000000000000007-0/manifest"};
    struct world *world = *state;
    struct recipe recipe = SOUND;

    make(world, &SOUND);
    for (size_t i = 0; i < ARRAY_COUNT(strays); i++)
        put(world, strays[i], "?", 1);
    recipe.time = 8;
    recipe.is_unpublished = true;
    make(world, &recipe);
    recipe.time = 9;
    recipe.is_unpublished = false;
    recipe.is_unmarked = true;
    recipe.position = 100000;
    make(world, &recipe);
    drop(world, "snapshots/0000002a/0/0000000000000009-0/00001.0000000");
    assert_sound(world);
    assert_int_equal(world->out.whole, 1);
    assert_int_equal(world->out.unfinished, 2);
    assert_int_equal(world->out.unnamed, ARRAY_COUNT(strays));
    assert_int_equal(world->out.objects,
                     OBJECTS + ARRAY_COUNT(strays) + (OBJECTS - 2) + (OBJECTS - 2));
    /* Nor can the log rely on it. */
    drop(world, AT "verified");
    world->log->first[0] = 1;
    assert_found(world, "snapshots/0000002a", "begins at 1 in partition 0");
}

static void one_of_a_newer_format_is_not_said_to_be_damaged(void **state)
{
    static const char body[] = "{\"format\":2}";
    char checksum[HASH128_TEXT_BYTES];
    struct buffer manifest = {0};
    struct world *world = *state;
    struct err err = {0};

    make(world, &SOUND);
    hash128_to_text(checksum, hash_xxh128(body, strlen(body)));
    buffer_append(&manifest, checksum, SNAPSHOT_CHECKSUM_BYTES);
    buffer_append_byte(&manifest, '\n');
    buffer_append_text(&manifest, body);
    put(world, "snapshots/0000002a/0/0000000000000008-0/manifest", manifest.data, manifest.len);
    put(world, "snapshots/0000002a/0/0000000000000008-0/verified", checksum,
        SNAPSHOT_CHECKSUM_BYTES);
    world->log->first[0] = 1000; /* it may be what the log relies on */
    assert_int_equal(look_with(world, true, &err), ERR_CONFIG);
    assert_int_equal(world->findings, 0);
    assert_int_equal(world->out.whole, 1);
    buffer_free(&manifest);
}

static void a_store_that_is_away_is_no_damage(void **state)
{
    struct world *world = *state;
    struct err err = {0};
    enum err_code code = ERR_UNAVAILABLE;
    unsigned at = 0;

    make(world, &SOUND);
    world->log->first[0] = 1;
    while (code != ERR_OK) {
        assert_true(++at < CALLS_MAX);
        world->blob.fails_at = at;
        code = look_with(world, true, &err);
        assert_true(code == ERR_OK || code == ERR_UNAVAILABLE);
        assert_int_equal(world->findings, 0);
    }
    assert_true(at > OBJECTS);
}

static void one_that_is_removed_meanwhile_is_no_damage(void **state)
{
    struct world *world = *state;
    struct recipe newer = SOUND;

    newer.time++;
    make(world, &SOUND);
    make(world, &newer);
    world->blob.goes = AT "00001.0000000";
    world->blob.goes_by = AT "00000.0000001";
    assert_sound(world);
    assert_int_equal(world->out.whole, 1);
}

static bool stop(void *state, uint64_t bytes)
{
    (void)state;
    (void)bytes;
    return false;
}

static void it_ends_when_it_is_told_to(void **state)
{
    struct world *world = *state;
    struct scrub scrub = {.find = find, .go_on = stop, .state = world};
    struct snapshots_verify_setup setup = {.blob = world->blob.inner, .scrub = &scrub};
    struct err err = {0};

    make(world, &SOUND);
    assert_int_equal(snapshots_verify(&setup, &world->out, &err), ERR_DEAD);
    assert_int_equal(world->findings, 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, open_world, close_world)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_whole_has_nothing_to_tell),
        TEST(a_part_that_is_missing_cut_or_longer_is_named),
        TEST(a_changed_byte_of_a_part_is_found_and_its_file_is_named),
        TEST(a_manifest_that_is_missing_cut_or_changed_is_named),
        TEST(a_mark_that_is_cut_or_anothers_is_named),
        TEST(a_manifest_that_names_no_end_of_objects_comes_to_an_end),
        TEST(a_manifest_of_another_snapshot_is_named),
        TEST(positions_that_the_log_does_not_have_are_told),
        TEST(a_trimmed_log_has_to_begin_where_a_whole_snapshot_reaches_to),
        TEST(snapshots_of_another_log_cover_nothing),
        TEST(what_nobody_relies_on_is_counted_and_no_damage),
        TEST(one_of_a_newer_format_is_not_said_to_be_damaged),
        TEST(a_store_that_is_away_is_no_damage),
        TEST(one_that_is_removed_meanwhile_is_no_damage),
        TEST(it_ends_when_it_is_told_to),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
