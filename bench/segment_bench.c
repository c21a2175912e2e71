/* Measure segment files: writing, checking, opening up to the first answer, warm and cold, mapped
 * and copied.
 *
 * The graph is drawn, not built: random vectors and random links of full lists, which is the most
 * that a check can meet and what a first answer least likes.
 *
 *   segment-bench FOLDER [COUNT [DIM]]       1,000,000 x 384 in a file that is removed again
 *
 * Failure: anything that fails ends the run with code 1. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "engine/hnsw.h"
#include "engine/segment.h"

enum { COUNT = 1000000, DIM = 384, PATH_BYTES = 4000, QUERIES = 2000 };

static double now_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static _Noreturn void give_up(const char *what)
{
    fprintf(stderr, "segment-bench: %s\n", what);
    exit(1);
}

static uint32_t draw(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 32);
}

static struct engine *open_engine(const struct engine_options *options)
{
    struct engine *engine;
    struct err err;

    if (engine_open(&engine, NULL, options, NULL, &err) != ERR_OK)
        give_up(err.message);
    return engine;
}

/* One row of links to nodes that nodes[] lists. */
static void draw_links(_Atomic uint32_t *links, uint32_t max, uint32_t slot, const uint32_t *nodes,
                       uint32_t node_count, uint64_t *state)
{
    uint32_t used = 0;

    for (uint32_t i = 0; i < max; i++) {
        uint32_t target = nodes[draw(state) % node_count];

        if (target != slot)
            links[used++] = target + 1;
    }
}

static void draw_slot(struct engine *engine, uint32_t slot, float *numbers, uint64_t *state)
{
    float *vector = plane_row(&engine->vectors, slot);
    struct code_place place = {.numbers = numbers};
    uint32_t dim = engine->options.dim;

    for (uint32_t i = 0; i < dim; i++)
        vector[i] = (float)(int32_t)draw(state) * 0x1p-31f;
    codes_place_vector(&engine->frame, vector, &place);
    codes_encode(engine->kernels, &engine->frame, &place, engine->bits,
                 plane_row(&engine->codes, slot));
    codes_encode(engine->kernels, &engine->frame, &place, FINE_BITS,
                 plane_row(&engine->fine, slot));
    slot_of(engine, slot)->ordinal = slot;
    slot_of(engine, slot)->upper = engine->upper_rows;
    engine->upper_rows += level_of(engine, slot);
}

/* Nodes of at least this level. */
static uint32_t list_nodes(const struct engine *engine, uint32_t count, uint32_t level,
                           uint32_t *nodes)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < count; i++)
        if (level_of(engine, i) >= level)
            nodes[found++] = i;
    return found;
}

static void draw_graph(struct engine *engine, uint32_t count)
{
    uint32_t *nodes = array_alloc(count, sizeof(*nodes));
    float *numbers = array_alloc(rotation_padded(engine->options.dim), sizeof(*numbers));
    uint64_t state = 1;
    uint32_t found;

    if (nodes == NULL || numbers == NULL || !plane_reserve(&engine->vectors, count) ||
        !plane_reserve(&engine->codes, count) || !plane_reserve(&engine->fine, count) ||
        !plane_reserve(&engine->slots, count) || !plane_reserve(&engine->ground, count) ||
        !plane_reserve(&engine->upper, count))
        give_up("no memory");
    for (uint32_t i = 0; i < count; i++)
        draw_slot(engine, i, numbers, &state);
    for (uint32_t level = 0; (found = list_nodes(engine, count, level, nodes)) > 0; level++) {
        for (uint32_t i = 0; i < found; i++)
            draw_links(links_of(engine, nodes[i], level), links_max(engine, level), nodes[i], nodes,
                       found, &state);
        engine->entry = (uint64_t)(nodes[0] + 1) << 8 | level;
    }
    engine->count = count;
    engine->linked = count;
    engine->live = count;
    engine->length = 1;
    free(nodes);
    free(numbers);
}

/* An engine over an open segment; the centre is a copy. */
static struct engine *attach(const struct segment_parts *parts)
{
    struct engine *engine = open_engine(&parts->options);

    engine->vectors = parts->vectors;
    engine->codes = parts->codes;
    engine->fine = parts->fine;
    engine->slots = parts->slots;
    engine->ground = parts->ground;
    engine->upper = parts->upper;
    frame_take(engine, parts->centre, parts->length);
    engine->live = parts->live;
    engine->entry = parts->entry;
    engine->count = parts->count;
    engine->linked = parts->count;
    return engine;
}

static void search(struct engine *engine, const float *vector, struct engine_hit hits[10])
{
    struct engine_query query = {.vector = vector, .k = 10, .bound = INFINITY};
    struct err err;
    size_t count;

    if (engine_search(engine, &query, hits, &count, NULL, &err) != ERR_OK || count != 10)
        give_up("the search failed");
}

/* Microseconds of a search, over the vectors of the original as queries. */
static double search_us(struct engine *engine, struct engine *original)
{
    struct engine_hit hits[10];
    double begun = now_s();

    for (uint32_t i = 0; i < QUERIES; i++)
        search(engine, vector_of(original, i), hits);
    return (now_s() - begun) * 1e6 / QUERIES;
}

static void drop_cache(const char *path)
{
    int fd = open(path, O_RDONLY);

    if (fd < 0 || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) != 0)
        give_up("the page cache keeps the file");
    (void)close(fd);
}

static void bench_open(const char *path, const char *label, uint32_t copied,
                       struct engine *original)
{
    struct segment_how how = {.copied = copied};
    const float *vector = vector_of(original, 0);
    struct engine_hit expected[10];
    struct engine_hit hits[10];
    struct segment *segment;
    struct err err;

    search(original, vector, expected);
    double begun = now_s();
    if (segment_open(&segment, path, &how, &err) != ERR_OK)
        give_up(err.message);
    double opened = now_s();
    struct engine *engine = attach(segment_parts(segment));
    search(engine, vector, hits);
    double answered = now_s();
    if (memcmp(hits, expected, sizeof(hits)) != 0)
        give_up("another answer");
    (void)search_us(engine, original);
    printf("%-24s open %6.0f ms, first answer after %6.0f ms, then %4.0f us a search\n", label,
           (opened - begun) * 1e3, (answered - begun) * 1e3, search_us(engine, original));
    if (strcmp(label, "mapped, warm") == 0) {
        begun = now_s();
        if (segment_verify(segment, 0, segment_blocks(segment), &err) != ERR_OK)
            give_up(err.message);
        printf("%-24s %6.0f ms\n", "verify, warm", (now_s() - begun) * 1e3);
    }
    engine_close(engine);
    segment_close(segment);
}

int main(int argc, char **argv)
{
    uint32_t count = argc > 2 ? (uint32_t)strtoul(argv[2], NULL, 10) : COUNT;
    uint32_t dim = argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : DIM;
    struct engine_options options = {.dim = dim, .metric = ENGINE_L2};
    char path[PATH_BYTES];
    struct err err;

    if (argc < 2 || count < 3000)
        give_up("usage: segment-bench FOLDER [COUNT (3000 or more) [DIM]]");
    (void)snprintf(path, sizeof(path), "%s/bench.segment", argv[1]);
    struct engine *engine = open_engine(&options);
    double begun = now_s();
    draw_graph(engine, count);
    struct segment_parts parts = segment_parts_of(engine);
    printf("%u x %u drawn in %.1f s\n", count, dim, now_s() - begun);
    begun = now_s();
    if (segment_check(&parts, &err) != ERR_OK)
        give_up(err.message);
    printf("%-24s %6.0f ms\n", "check, in memory", (now_s() - begun) * 1e3);
    begun = now_s();
    if (segment_write(path, &parts, NULL, &err) != ERR_OK)
        give_up(err.message);
    double seconds = now_s() - begun;
    int fd = open(path, O_RDONLY);
    double bytes = (double)lseek(fd, 0, SEEK_END);
    (void)close(fd);
    printf("%-24s %6.0f ms: %.2f GB, %.2f GB/s, synced\n", "write", seconds * 1e3, bytes * 1e-9,
           bytes * 1e-9 / seconds);
    (void)search_us(engine, engine);
    printf("%-24s %6.0f us a search\n", "the engine itself", search_us(engine, engine));
    bench_open(path, "mapped, warm", 0, engine);
    bench_open(path, "walk copied, warm",
               UINT32_C(1) << SEGMENT_SLOTS | UINT32_C(1) << SEGMENT_GROUND |
                   UINT32_C(1) << SEGMENT_CODES,
               engine);
    bench_open(path, "all copied, warm", SEGMENT_COPY_ALL, engine);
    drop_cache(path);
    bench_open(path, "mapped, cold", 0, engine);
    drop_cache(path);
    bench_open(path, "all copied, cold", SEGMENT_COPY_ALL, engine);
    (void)unlink(path);
    engine_close(engine);
    return 0;
}
