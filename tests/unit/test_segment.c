/* A segment is the graph that it was made of: every row, every link, every answer, from a mapping
 * and from copies; equal graphs make equal files; what does not fit is refused by name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "engine/hnsw.h"
#include "tests/lib/own_threads.h"
#include "tests/lib/scratch.h"
#include "tests/lib/segment_data.h"

static char folder[160];
static char path[200];

static const uint32_t ways[] = {0, SEGMENT_COPY_ALL,
                                UINT32_C(1) << SEGMENT_SLOTS | UINT32_C(1) << SEGMENT_CODES |
                                    UINT32_C(1) << SEGMENT_FINE};

static int folder_make(void **state)
{
    (void)state;

    if (!scratch_make(folder, sizeof(folder), "segment"))
        return 1;
    snprintf(path, sizeof(path), "%s/one.segment", folder);
    return 0;
}

static int folder_remove(void **state)
{
    (void)state;
    return scratch_remove(folder);
}

static void must_write(const struct engine *engine, const char *to)
{
    struct segment_parts parts = segment_parts_of(graph_of(engine));
    struct err err;

    if (segment_write(to, &parts, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static struct segment *must_open(uint32_t copied)
{
    struct segment_how how = {.copied = copied};
    struct segment *segment;
    struct err err;

    if (segment_open(&segment, path, &how, &err) != ERR_OK)
        fail_msg("%s", err.message);
    assert_int_equal(segment_verify(segment, 0, segment_blocks(segment), &err), ERR_OK);
    return segment;
}

static void assert_equal_rows(const struct plane *a, const struct plane *b, uint64_t rows)
{
    assert_int_equal(a->stride, b->stride);
    for (uint32_t i = 0; i < rows; i++)
        assert_memory_equal(plane_row(a, i), plane_row(b, i), a->stride);
}

static void assert_equal_parts(const struct segment_parts *a, const struct segment_parts *b)
{
    assert_int_equal(a->options.dim, b->options.dim);
    assert_int_equal(a->options.metric, b->options.metric);
    assert_int_equal(a->options.kind, b->options.kind);
    assert_int_equal(a->options.m, b->options.m);
    assert_int_equal(a->options.ef_construction, b->options.ef_construction);
    assert_int_equal(a->options.flat_below, b->options.flat_below);
    assert_true(a->options.seed == b->options.seed);
    assert_int_equal(a->options.bits, b->options.bits);
    assert_true(a->length == b->length);
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->upper_rows, b->upper_rows);
    assert_true(a->entry == b->entry);
    assert_memory_equal(a->centre, b->centre, a->options.dim * sizeof(float));
    assert_equal_rows(&a->slots, &b->slots, a->count);
    assert_equal_rows(&a->ground, &b->ground, a->count);
    assert_equal_rows(&a->upper, &b->upper, a->upper_rows);
    assert_equal_rows(&a->codes, &b->codes, a->count);
    assert_equal_rows(&a->fine, &b->fine, a->options.bits == FINE_BITS ? 0 : a->count);
    assert_equal_rows(&a->vectors, &b->vectors, a->count);
}

/* What walk_level finds on the ground, for one query; returns how many keys. */
static size_t walk_ground(struct engine *engine, const float *query, uint32_t limit, uint64_t *keys)
{
    enum { EF = 40 };
    const struct graph *graph = graph_of(engine);
    struct scratch *scratch = scratch_get(&engine->scratches);
    assert_true(scratch_room(scratch, limit, EF, 1));
    struct code_place place = {.numbers = scratch->placed};
    struct walk walk = {.graph = graph,
                        .scratch = scratch,
                        .query = &scratch->coded,
                        .limit = limit,
                        .wanted = 10,
                        .slack = 0.3f,
                        .lift = 10.0f};

    codes_place_query(&graph_of(engine)->frame, query, &place);
    codes_query(graph_of(engine)->kernels, &graph_of(engine)->frame, &place, engine->options.bits,
                scratch->codes, &scratch->coded);
    assert_true(walk_level(&walk, walk_descend(&walk, graph_of(engine)->entry, 0), 0, EF));
    size_t count = scratch->pool_count;
    memcpy(keys, scratch->pool, count * sizeof(*keys));
    scratch_put(scratch);
    return count;
}

static void assert_equal_walks(struct engine *a, struct engine *b, uint32_t limit)
{
    for (uint32_t i = 0; i < limit; i += limit / 50 + 1) {
        uint64_t keys[2][64];
        size_t count = walk_ground(a, vector_of(graph_of(a), i), limit, keys[0]);

        assert_true(count > 0);
        assert_int_equal(walk_ground(b, vector_of(graph_of(a), i), limit, keys[1]), count);
        assert_memory_equal(keys[0], keys[1], count * sizeof(keys[0][0]));
    }
}

static void assert_equal_searches(struct engine *a, struct engine *b)
{
    for (uint32_t i = 0; i < graph_of(a)->linked; i += graph_of(a)->linked / 30 + 1) {
        struct engine_query query = {
            .vector = vector_of(graph_of(a), i), .k = 10, .bound = INFINITY};
        struct engine_hit hits[2][10];
        size_t counts[2];
        struct engine_counters counters[2];
        struct err err;

        assert_int_equal(engine_search(a, &query, hits[0], &counts[0], &counters[0], &err), ERR_OK);
        assert_int_equal(engine_search(b, &query, hits[1], &counts[1], &counters[1], &err), ERR_OK);
        assert_int_equal(counts[0], counts[1]);
        for (size_t j = 0; j < counts[0]; j++)
            assert_memory_equal(&hits[0][j], &hits[1][j], sizeof(hits[0][j]));
        assert_int_equal(counters[0].hops, counters[1].hops);
        assert_string_equal(counters[0].plan, counters[1].plan);
        assert_true(graph_of(a)->linked < 1000 || counters[1].hops > 0);
    }
}

/* Write, open in every way, compare, walk. */
static void round_trip(const struct segment_recipe *recipe)
{
    struct engine *engine = segment_engine(recipe);
    struct segment_parts parts = segment_parts_of(graph_of(engine));
    struct err err;

    must_write(engine, path);
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        struct segment *segment = must_open(ways[i]);
        struct engine *again = segment_attach(segment_parts(segment));

        assert_equal_parts(&parts, segment_parts(segment));
        assert_memory_equal(&graph_of(again)->frame.pair_base, &graph_of(engine)->frame.pair_base,
                            sizeof(float));
        if (engine_validate(again, &err) != ERR_OK)
            fail_msg("%s", err.message);
        assert_equal_walks(engine, again, parts.count);
        if (graph_of(engine)->count == graph_of(engine)->linked) {
            assert_true(engine_digest(engine) == engine_digest(again));
            assert_equal_searches(engine, again);
        }
        engine_close(again);
        segment_close(segment);
    }
    engine_close(engine);
}

static void every_metric_comes_back(void **state)
{
    (void)state;
    for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++)
        round_trip(&(struct segment_recipe){.count = 1472, .dim = 48, .metric = metric});
}

/* A centre and a length that are those of many vectors. */
static void a_fitted_frame_comes_back(void **state)
{
    struct segment_recipe recipe = {
        .count = 1472, .dim = 48, .metric = ENGINE_COSINE, .flat_below = 200};
    struct engine *engine = segment_engine(&recipe);

    (void)state;
    assert_true(graph_of(engine)->length > 0);
    engine_close(engine);
    round_trip(&recipe);
    recipe.metric = ENGINE_IP;
    round_trip(&recipe);
}

/* Codes of 8 bits are fine enough: no others are kept beside them. */
static void every_width_of_codes_comes_back(void **state)
{
    (void)state;
    for (uint32_t bits = 1; bits <= 8; bits *= 2) {
        size_t size;

        for (enum engine_metric metric = ENGINE_COSINE; metric <= ENGINE_L2; metric++)
            round_trip(&(struct segment_recipe){
                .count = 1472, .dim = 70, .metric = metric, .bits = bits, .twin_every = 30});
        unsigned char *bytes = segment_file_read(path, &size);
        uint64_t length =
            load_u64(bytes + SECTIONS_TABLE_AT + SEGMENT_FINE * SECTIONS_TABLE_ROW + 16);
        assert_true(length == (bits == 8 ? 0 : 1472 * codes_stride(70, 8)));
        free(bytes);
    }
}

static void twins_and_the_dead_come_back(void **state)
{
    (void)state;
    round_trip(&(struct segment_recipe){
        .count = 1472, .dim = 20, .metric = ENGINE_L2, .twin_every = 3, .dead_every = 7});
}

static void any_shape_comes_back(void **state)
{
    static const struct segment_recipe recipes[] = {
        {.count = 1, .dim = 1, .metric = ENGINE_L2},
        {.count = 2, .dim = 3, .metric = ENGINE_IP, .m = 4},
        {.count = 64, .dim = 17, .metric = ENGINE_COSINE, .m = 5},
        {.count = 320, .dim = 700, .metric = ENGINE_COSINE, .m = 64},
        {.count = 1, .dim = 1, .metric = ENGINE_IP, .bits = 8},
        {.count = 16384, .dim = 96, .metric = ENGINE_L2}, /* planes of several chunks */
        {.count = 16384, .dim = 20, .metric = ENGINE_L2, .bits = 8},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(recipes); i++)
        round_trip(&recipes[i]);
}

/* What waits in the tail is in no graph. */
static void only_what_is_linked_is_written(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 1500, .dim = 8, .metric = ENGINE_L2});

    (void)state;
    assert_true(graph_of(engine)->linked < graph_of(engine)->count);
    must_write(engine, path);
    struct segment *segment = must_open(0);
    assert_int_equal(segment_parts(segment)->count, graph_of(engine)->linked);
    assert_true(segment_parts(segment)->live == graph_of(engine)->linked);
    segment_close(segment);
    engine_close(engine);
}

static void equal_graphs_make_equal_files(void **state)
{
    struct segment_recipe recipe = {
        .count = 1472, .dim = 20, .metric = ENGINE_L2, .twin_every = 11, .dead_every = 9};
    char other[220];
    size_t sizes[2];

    (void)state;
    snprintf(other, sizeof(other), "%s.other", path);
    struct engine *engine = segment_engine(&recipe);
    recipe.step = 100;
    struct engine *sliced = segment_engine(&recipe);
    must_write(engine, path);
    must_write(sliced, other);
    unsigned char *a = segment_file_read(path, &sizes[0]);
    unsigned char *b = segment_file_read(other, &sizes[1]);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(a, b, sizes[0]);
    free(b);

    /* And a segment of an open segment is the same again, over itself. */
    struct segment *segment = must_open(0);
    struct err err;
    assert_int_equal(segment_write(path, segment_parts(segment), NULL, &err), ERR_OK);
    b = segment_file_read(path, &sizes[1]);
    assert_int_equal(sizes[0], sizes[1]);
    assert_memory_equal(a, b, sizes[0]);
    segment_close(segment);
    free(a);
    free(b);
    assert_int_equal(unlink(other), 0);
    engine_close(sliced);
    engine_close(engine);
}

static void big_planes_stand_on_huge_pages(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 16384, .dim = 96, .metric = ENGINE_L2});

    (void)state;
    must_write(engine, path);
    for (size_t i = 0; i < ARRAY_COUNT(ways); i++) {
        struct segment *segment = must_open(ways[i]);
        const struct segment_parts *parts = segment_parts(segment);

        assert_int_equal((uintptr_t)plane_row(&parts->vectors, 0) % MEMORY_HUGE_BYTES, 0);
        assert_int_equal((uintptr_t)plane_row(&parts->codes, 0) % 64, 0);
        assert_int_equal((uintptr_t)plane_row(&parts->fine, 0) % 64, 0);
        assert_int_equal((uintptr_t)plane_row(&parts->slots, 0) % 64, 0);
        assert_true(segment_memory(segment) < segment_bytes(segment));
        segment_close(segment);
    }
    engine_close(engine);
}

/* Copied slots are memory of our own: the dead may be marked there. */
static void copied_slots_take_deletions(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 704, .dim = 8, .metric = ENGINE_L2});
    struct engine_hit hits[1];
    size_t count;
    struct err err;

    (void)state;
    must_write(engine, path);
    struct segment *segment = must_open(UINT32_C(1) << SEGMENT_SLOTS);
    struct engine *again = segment_attach(segment_parts(segment));
    struct engine_query query = {
        .vector = vector_of(graph_of(engine), 20), .k = 1, .bound = INFINITY};
    assert_int_equal(engine_search(again, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_equal(hits[0].ordinal, 60);
    engine_delete(again, 60);
    assert_int_equal(engine_search(again, &query, hits, &count, NULL, &err), ERR_OK);
    assert_int_not_equal(hits[0].ordinal, 60);
    engine_close(again);
    segment_close(segment);
    segment = must_open(0);
    assert_true(segment_parts(segment)->live == 704);
    segment_close(segment);
    engine_close(engine);
}

static void *delete_many(void *argument)
{
    struct engine *engine = argument;

    for (uint32_t i = 0; i < graph_of(engine)->linked; i += 2)
        engine_delete(engine, slot_of(graph_of(engine), i)->ordinal);
    return NULL;
}

/* Each deletion is either in the file or not; the file is whole. */
static void deleting_goes_on_meanwhile(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 16384, .dim = 4, .metric = ENGINE_L2});
    uint32_t count = graph_of(engine)->linked;
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, delete_many, engine), 0);
    must_write(engine, path);
    assert_int_equal(pthread_join(thread, NULL), 0);
    struct segment *segment = must_open(0);
    assert_true(segment_parts(segment)->live >= count / 2);
    segment_close(segment);
    must_write(engine, path);
    segment = must_open(0);
    assert_true(segment_parts(segment)->live == count / 2);
    segment_close(segment);
    engine_close(engine);
}

/* Numbers beyond 1e18 have codes whose scale may be infinite; they are still a graph. */
static void huge_numbers_come_back(void **state)
{
    enum { COUNT = 320, DIM = 400 };
    struct data data = data_make(COUNT, DIM, 0.0f, 3);
    struct engine *engine = data_open(DIM, ENGINE_IP);
    uint32_t infinite = 0;

    (void)state;
    for (size_t i = DIM; i < (size_t)COUNT * DIM; i++)
        data.vectors[i] =
            i / DIM % 3 == 0 ? data.vectors[i] * 1e30f : copysignf(9.9e17f, data.vectors[i]);
    data_insert(engine, &data, 0, COUNT);
    data_link(engine);
    for (uint32_t i = 0; i < graph_of(engine)->linked; i++) {
        struct code_tail tail;

        memcpy(&tail, code_of(graph_of(engine), i) + codes_bytes(DIM, engine->options.bits),
               sizeof(tail));
        infinite += isinf(tail.scale) != 0;
    }
    assert_true(infinite > 0);
    must_write(engine, path);
    struct segment *segment = must_open(0);
    segment_close(segment);
    engine_close(engine);
    data_free(&data);
}

static void an_empty_graph_is_refused(void **state)
{
    struct engine *engine = data_open(4, ENGINE_L2);
    struct segment_parts parts = segment_parts_of(graph_of(engine));
    struct stat about;
    struct err err;

    (void)state;
    (void)unlink(path);
    assert_int_equal(segment_write(path, &parts, NULL, &err), ERR_INVALID_ARGUMENT);
    assert_non_null(strstr(err.message, "empty"));
    assert_int_equal(stat(path, &about), -1);
    engine_close(engine);
}

static void a_path_that_is_no_file_is_refused(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 64, .dim = 4, .metric = ENGINE_L2});
    struct segment_parts parts = segment_parts_of(graph_of(engine));
    struct segment *segment = NULL;
    char other[600];
    struct err err;

    (void)state;
    snprintf(other, sizeof(other), "%s/", folder);
    assert_int_equal(segment_write(other, &parts, NULL, &err), ERR_INVALID_ARGUMENT);
    snprintf(other, sizeof(other), "%s/%0300d", folder, 1);
    assert_int_equal(segment_write(other, &parts, NULL, &err), ERR_INVALID_ARGUMENT);
    snprintf(other, sizeof(other), "%s/no/folder", folder);
    assert_int_equal(segment_write(other, &parts, NULL, &err), ERR_IO);
    assert_int_equal(segment_open(&segment, other, NULL, &err), ERR_NOT_FOUND);
    assert_null(segment);
    assert_int_equal(segment_open(&segment, folder, NULL, &err), ERR_CORRUPT);
    engine_close(engine);
}

static void a_newer_version_is_refused_by_name(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 64, .dim = 4, .metric = ENGINE_L2});
    struct segment *segment;
    struct err err;
    size_t size;

    (void)state;
    must_write(engine, path);
    unsigned char *bytes = segment_file_read(path, &size);
    store_u32(bytes + SECTIONS_VERSION_AT, 7);
    segment_header_seal(bytes);
    segment_file_write(path, bytes, size);
    assert_int_equal(segment_open(&segment, path, NULL, &err), ERR_CONFIG);
    assert_non_null(strstr(err.message, "version 7 is newer than 1"));
    free(bytes);
    engine_close(engine);
}

static void other_options_are_refused_by_name(void **state)
{
    struct engine *engine =
        segment_engine(&(struct segment_recipe){.count = 64, .dim = 4, .metric = ENGINE_L2});
    struct engine_options good = engine->options;
    struct engine_options bad[5] = {good, good, good, good, good};
    static const char *const words[] = {"dimension 4 instead of 5", "metric 2 instead of 1",
                                        "m 8 instead of 16", "seed 7 instead of 8",
                                        "codes of 4 bits instead of 8"};
    struct segment *segment;
    struct err err;

    (void)state;
    bad[0].dim = 5;
    bad[1].metric = ENGINE_IP;
    bad[2].m = 16;
    bad[3].seed = 8;
    bad[4].bits = 8;
    must_write(engine, path);
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct segment_how how = {.expected = &bad[i]};

        assert_int_equal(segment_open(&segment, path, &how, &err), ERR_CONFIG);
        assert_non_null(strstr(err.message, words[i]));
        assert_null(segment);
    }
    struct segment_how how = {.expected = &good};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(segment_open(&segment, path, &how, &err), ERR_OK);
        segment_close(segment);
        good.bits = 0; /* any */
    }
    engine_close(engine);
}

/* A borrowed plane reads like any other, does not grow, and frees nothing. */
static void a_borrowed_plane_is_somebody_elses(void **state)
{
    static uint32_t array[3][4];
    unsigned char *base = (unsigned char *)array;
    struct plane plane;

    (void)state;
    plane_borrow(&plane, &base, sizeof(array[0]), 3);
    assert_ptr_equal(plane_row(&plane, 0), array[0]);
    assert_ptr_equal(plane_row(&plane, 2), array[2]);
    assert_true(plane_reserve(&plane, 3));
    assert_false(plane_reserve(&plane, 4));
    plane_free(&plane);
    assert_null(plane.chunks);
    assert_ptr_equal(base, array);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_metric_comes_back),
        cmocka_unit_test(a_fitted_frame_comes_back),
        cmocka_unit_test(every_width_of_codes_comes_back),
        cmocka_unit_test(twins_and_the_dead_come_back),
        cmocka_unit_test(any_shape_comes_back),
        cmocka_unit_test(only_what_is_linked_is_written),
        cmocka_unit_test(equal_graphs_make_equal_files),
        cmocka_unit_test(big_planes_stand_on_huge_pages),
        cmocka_unit_test(copied_slots_take_deletions),
        cmocka_unit_test(deleting_goes_on_meanwhile),
        cmocka_unit_test(huge_numbers_come_back),
        cmocka_unit_test(an_empty_graph_is_refused),
        cmocka_unit_test(a_path_that_is_no_file_is_refused),
        cmocka_unit_test(a_newer_version_is_refused_by_name),
        cmocka_unit_test(other_options_are_refused_by_name),
        cmocka_unit_test(a_borrowed_plane_is_somebody_elses),
    };

    OWN_THREADS_ONLY_IN(tests, "deleting_goes_on_meanwhile");
    return cmocka_run_group_tests(tests, folder_make, folder_remove);
}
