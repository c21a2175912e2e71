/* The folders of segments: that of a dropped collection goes, one that belongs to nobody is swept,
 * and what a crash leaves of a removal is never believed. */
#include "tests/unit/segments_rig.h"

static void make_file(const char *folder, const char *name)
{
    char path[SEGMENTS_PATH_BYTES];
    FILE *file;

    assert_true(mkdir(folder, 0777) == 0 || errno == EEXIST);
    (void)snprintf(path, sizeof(path), "%s/%s", folder, name);
    file = fopen(path, "w");
    assert_non_null(file);
    fclose(file);
}

static void path_of(char path[SEGMENTS_PATH_BYTES], const char *folder, const char *name)
{
    assert_true(snprintf(path, SEGMENTS_PATH_BYTES, "%s/%s", folder, name) < SEGMENTS_PATH_BYTES);
}

static void a_dropped_collection_leaves_no_folder(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    struct collection again = collection;
    char folder[SEGMENTS_PATH_BYTES];

    (void)state;
    segments_path(folder, rig, &collection);
    assert_true(segments_file_is_there(rig, &collection));
    rig_change(rig, &collection, COLLECTION_DROP);
    again.generation = 1;
    collection_identify(&again);
    rig_change(rig, &again, COLLECTION_CREATE);
    rig_catch_up(rig);
    AWAIT(!path_is_there(folder));
    /* The new one of that name has a place of its own, and nothing in it. */
    assert_int_equal(covered_of(rig, &again), 0);
    assert_int_equal(segments_live(rig, &again), 0);
    segments_fill(rig, &again, 0, 10);
    rig_catch_up(rig);
    segments_restart(rig);
    assert_int_equal(segments_live(rig, &again), 10);
    rig_free(rig);
}

static void a_folder_stays_as_long_as_its_engine_is_used(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    struct shard_collection *entry = collections_get(&rig->shard, collection.incarnation);
    struct collection later;
    char folder[SEGMENTS_PATH_BYTES];

    (void)state;
    segments_path(folder, rig, &collection);
    rig_change(rig, &collection, COLLECTION_DROP);
    later = segments_collection(rig, "later");
    rig_catch_up(rig);
    AWAIT(atomic_load(&entry->is_leaving));
    assert_true(path_is_there(folder));
    collections_put(&rig->shard, entry);
    AWAIT(!path_is_there(folder));
    assert_int_equal(segments_live(rig, &later), 0);
    rig_free(rig);
}

/* The drop is the last thing that happens before the end. */
static void the_end_removes_what_was_dropped(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    struct shard_collection *entry = collections_get(&rig->shard, collection.incarnation);
    char folder[SEGMENTS_PATH_BYTES];

    (void)state;
    segments_path(folder, rig, &collection);
    rig_change(rig, &collection, COLLECTION_DROP);
    rig_catch_up(rig);
    AWAIT(atomic_load(&entry->is_leaving));
    shard_stop(&rig->shard);
    collections_put(&rig->shard, entry);
    shard_close(&rig->shard);
    assert_false(path_is_there(folder));
    rig_open_shard(rig);
    rig_free(rig);
}

static void what_belongs_to_nobody_is_swept(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    char own[SEGMENTS_PATH_BYTES], life[SEGMENTS_PATH_BYTES], path[SEGMENTS_PATH_BYTES];
    char inner[SEGMENTS_PATH_BYTES];
    static const char *const strangers[] = {
        "00000000000000000000000000000000", /* of no collection */
        "00000000000000000000000000000000.gone",
        "something else",
    };

    (void)state;
    segments_path(own, rig, &collection);
    memcpy(life, own, sizeof(life));
    *strrchr(life, '/') = '\0';
    rig_close_shard(rig);
    for (size_t i = 0; i < ARRAY_COUNT(strangers); i++) {
        path_of(path, life, strangers[i]);
        make_file(path, "graph.seg");
    }
    path_of(path, rig->segments, "0123456789abcdef"); /* of another life */
    make_file(path, "graph.seg");
    path_of(inner, path, "inner");
    make_file(inner, "graph.seg");
    make_file(rig->segments, "a file");
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(entries_of(rig->segments), 1);
    assert_int_equal(entries_of(life), 1);
    assert_true(segments_file_is_there(rig, &collection));
    assert_true(covered_of(rig, &collection) > 0);
    rig_free(rig);
}

/* A crash between the drop's commit and the removal. */
static void a_folder_of_a_dropped_collection_is_swept(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    char folder[SEGMENTS_PATH_BYTES], aside[SEGMENTS_PATH_BYTES];

    (void)state;
    segments_path(folder, rig, &collection);
    path_of(aside, rig->dir, "aside");
    rig_close_shard(rig);
    assert_int_equal(rename(folder, aside), 0);
    rig_change(rig, &collection, COLLECTION_DROP);
    rig_open_shard(rig);
    rig_await_ready(rig);
    rig_catch_up(rig);
    rig_close_shard(rig);
    assert_int_equal(rename(aside, folder), 0);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_false(path_is_there(folder));
    rig_free(rig);
}

/* A collection is new, but something lies in its folder. */
static void a_new_collection_begins_with_nothing(void **state)
{
    struct rig *rig = segments_rig_ready();
    struct collection collection = segments_kept(rig, "c");
    struct collection other = collection;
    char from[SEGMENTS_PATH_BYTES], to[SEGMENTS_PATH_BYTES], path[SEGMENTS_PATH_BYTES + 16];
    char segment[SEGMENTS_PATH_BYTES + 16];

    (void)state;
    (void)snprintf(other.name, sizeof(other.name), "other");
    collection_identify(&other);
    segments_path(from, rig, &collection);
    segments_path(to, rig, &other);
    (void)snprintf(segment, sizeof(segment), "%s/graph.seg", from);
    (void)snprintf(path, sizeof(path), "%s/graph.seg", to);
    assert_int_equal(mkdir(to, 0777), 0);
    copy_file(segment, path);
    rig_change(rig, &other, COLLECTION_CREATE);
    rig_catch_up(rig);
    assert_int_equal(covered_of(rig, &other), 0);
    assert_int_equal(segments_live(rig, &other), 0);
    assert_false(path_is_there(path));
    rig_free(rig);
}

static void a_folder_that_cannot_be_made_is_said_and_waited_for(void **state)
{
    struct rig *rig = segments_rig_new(true);
    struct buffer why = {0};
    const char *reason = "segments: mkdir";
    bool says_so = false;
    FILE *file = fopen(rig->segments, "w"); /* in its place */

    (void)state;
    assert_non_null(file);
    fclose(file);
    rig_open_shard(rig);
    while (!says_so) {
        why.len = 0;
        assert_false(shard_ready(&rig->shard, &why));
        buffer_append_byte(&why, 0);
        says_so = strstr((const char *)why.data, reason) != NULL;
    }
    assert_int_equal(unlink(rig->segments), 0);
    rig_await_ready(rig);
    assert_int_equal(entries_of(rig->segments), 1);
    buffer_free(&why);
    rig_free(rig);
}

static void removing_takes_what_an_earlier_removal_left(void **state)
{
    char root[] = "/tmp/vicinal-segments-XXXXXX", path[SEGMENTS_PATH_BYTES];
    char gone[SEGMENTS_PATH_BYTES + 8];
    struct err err = {0};

    (void)state;
    assert_non_null(mkdtemp(root));
    path_of(path, root, "x");
    (void)snprintf(gone, sizeof(gone), "%s.gone", path);
    must(segments_remove(path, &err), &err); /* there is none */
    make_file(gone, "graph.seg");            /* what a crash has left */
    make_file(path, "graph.seg");
    must(segments_remove(path, &err), &err);
    assert_int_equal(entries_of(root), 0);
    scratch_remove(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dropped_collection_leaves_no_folder),
        cmocka_unit_test(a_folder_stays_as_long_as_its_engine_is_used),
        cmocka_unit_test(the_end_removes_what_was_dropped),
        cmocka_unit_test(what_belongs_to_nobody_is_swept),
        cmocka_unit_test(a_folder_of_a_dropped_collection_is_swept),
        cmocka_unit_test(a_new_collection_begins_with_nothing),
        cmocka_unit_test(a_folder_that_cannot_be_made_is_said_and_waited_for),
        cmocka_unit_test(removing_takes_what_an_earlier_removal_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
