/* An engine of which the older half is cold, in a folder that is removed again, and one beside it
 * that holds the same and never becomes cold.  Included by the unit tests of cold vectors. */
#ifndef VICINAL_TESTS_ENGINE_COLD_RIG_H
#define VICINAL_TESTS_ENGINE_COLD_RIG_H

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/cold.h"
#include "engine/internal.h"
#include "engine/memory.h"
#include "tests/lib/engine_data.h"
#include "tests/lib/scratch.h"

#define KEPT(test) cmocka_unit_test_setup_teardown(test, make_folder, drop_folder)

enum { COUNT = 3000, MORE = 3000, DIM = 24, ABOVE = 2000, K = 10 };

static char folder[200];
static char segment[240];
static struct data data;

static const struct engine_options options = {.dim = DIM,
                                              .metric = ENGINE_COSINE,
                                              .m = 8,
                                              .ef_construction = 40,
                                              .flat_below = 1,
                                              .cold_above = ABOVE,
                                              .seed = 7};

static inline int make_data(void **state)
{
    (void)state;
    data = data_make(COUNT + MORE, DIM, 0.0f, 78);
    for (uint32_t i = 9; i < COUNT; i += 9) /* twins, in the graph and in the cold parts */
        memcpy(data.vectors + (size_t)i * DIM, data.vectors, DIM * sizeof(float));
    return 0;
}

static inline int free_data(void **state)
{
    (void)state;
    data_free(&data);
    return 0;
}

static inline int make_folder(void **state)
{
    (void)state;
    if (!scratch_make(folder, sizeof(folder), "cold"))
        return 1;
    snprintf(segment, sizeof(segment), "%s/graph.seg", folder);
    return 0;
}

static inline int drop_folder(void **state)
{
    (void)state;
    (void)memory_fail_at(0);
    return scratch_remove(folder);
}

static inline void empty_folder(void)
{
    assert_int_equal(scratch_remove(folder), 0);
    assert_int_equal(mkdir(folder, 0755), 0);
}

static inline struct engine *open_with(const struct engine_options *of, const char *dir)
{
    struct engine *engine;
    struct err err = {0};

    if (engine_open(&engine, dir, of, NULL, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return engine;
}

static inline struct engine *open_engine(void)
{
    return open_with(&options, folder);
}

static inline void maintain(struct engine *engine)
{
    struct err err = {0};

    while (engine_is_due(engine))
        if (engine_maintain(engine, NULL, &err) != ERR_OK)
            fail_msg("%s", err.message);
}

static inline void assert_valid(struct engine *engine)
{
    struct err err = {0};

    if (engine_validate(engine, &err) != ERR_OK)
        fail_msg("%s", err.message);
}

static inline struct engine *filled(uint32_t count)
{
    struct engine *engine = open_engine();

    data_insert(engine, &data, 0, count);
    data_link(engine);
    return engine;
}

/* An engine of which more than half is cold. */
static inline struct engine *half_cold(void)
{
    struct engine *engine = filled(COUNT);

    maintain(engine);
    return engine;
}

static inline const struct colds *colds_of(const struct engine *engine)
{
    return graph_cold(graph_of(engine));
}

static inline void path_of(uint32_t number, char *path, size_t size)
{
    assert_true(cold_path(path, size, folder, number));
}

static inline uint32_t count_files(void)
{
    DIR *dir = opendir(folder);
    uint32_t count = 0;

    assert_non_null(dir);
    for (const struct dirent *entry; (entry = readdir(dir)) != NULL;)
        count += strncmp(entry->d_name, "cold-", 5) == 0;
    closedir(dir);
    return count;
}

static inline bool is_there(const char *path)
{
    return access(path, F_OK) == 0;
}

static inline size_t ask(struct engine *engine, const struct engine_query *query,
                         struct engine_hit *hits, struct engine_counters *counters)
{
    struct err err = {0};
    size_t count;

    if (engine_search(engine, query, hits, &count, counters, &err) != ERR_OK)
        fail_msg("%s", err.message);
    return count;
}

/* The exact answers of both are the same, to the bit. */
static inline void assert_equal(struct engine *engine, struct engine *expected,
                                const struct engine_bitmap *filter, float bound)
{
    static struct engine_hit hits[COUNT], wanted[COUNT];

    for (uint32_t q = 0; q < 20; q++) {
        struct engine_query query = {.vector = data_at(&data, q * 131),
                                     .k = q % 2 == 0 ? K : COUNT,
                                     .exact = true,
                                     .filter = filter,
                                     .bound = bound};
        size_t count = ask(engine, &query, hits, NULL);

        assert_int_equal(count, ask(expected, &query, wanted, NULL));
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(hits[i].ordinal, wanted[i].ordinal);
            assert_true(hits[i].distance == wanted[i].distance);
        }
    }
}

static inline struct engine *never_cold(uint32_t count)
{
    struct engine_options of = options;

    of.cold_above = 0;
    struct engine *engine = open_with(&of, NULL);
    data_insert(engine, &data, 0, count);
    data_link(engine);
    return engine;
}

/* Whatever the folder held: with what the engine does not cover it holds all, once. */
static inline void assert_complete(struct engine *engine, uint32_t count)
{
    struct engine *expected = never_cold(count);

    assert_valid(engine);
    data_insert(engine, &data, engine_covered(engine), count);
    data_link(engine);
    assert_int_equal(engine_count(engine), count);
    assert_equal(engine, expected, NULL, INFINITY);
    assert_valid(engine);
    engine_close(expected);
}

#endif
