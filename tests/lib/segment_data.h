/* Segments for tests: small graphs with twins and dead ones, files as bytes, an engine that stands
 * on an open segment, and checksums made good again after a change.  Anything that fails here ends
 * the test by an assertion. */
#ifndef VICINAL_TESTS_LIB_SEGMENT_DATA_H
#define VICINAL_TESTS_LIB_SEGMENT_DATA_H

#include <stdio.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/internal.h"
#include "engine/memory.h"
#include "engine/segment_file.h"
#include "tests/lib/engine_data.h"

struct segment_recipe {
    uint32_t count;
    uint32_t dim;
    enum engine_metric metric;
    uint32_t m;          /* 0: 8 */
    uint32_t bits;       /* 0: default */
    uint32_t flat_below; /* 0: 1; the centre is that of half as many vectors */
    uint32_t twin_every; /* every so manieth vector is a copy of an early one; 0: none */
    uint32_t dead_every; /* is deleted; 0: none */
    uint32_t step;       /* budget of a step; 0: all at once */
};

/* An engine whose vectors are all linked but the last few (a batch that is not full).  Ordinals
 * have gaps. */
static inline struct engine *segment_engine(const struct segment_recipe *recipe)
{
    struct data data = data_make(recipe->count, recipe->dim, 0.2f, 77);
    struct engine_options options = {.dim = recipe->dim,
                                     .metric = recipe->metric,
                                     .m = recipe->m == 0 ? 8 : recipe->m,
                                     .ef_construction = 40,
                                     .bits = recipe->bits,
                                     .flat_below = recipe->flat_below == 0 ? 1 : recipe->flat_below,
                                     .seed = 7};
    struct engine *engine;
    struct err err;
    uint64_t left = 1;

    if (engine_open(&engine, NULL, &options, NULL, &err) != ERR_OK)
        assert(!"the engine opens");
    for (uint32_t i = 0; i < recipe->count; i++) {
        bool is_twin = recipe->twin_every != 0 && i % recipe->twin_every == recipe->twin_every - 1;

        if (engine_insert(engine, 3 * i + i % 2, data_at(&data, is_twin ? i % 5 : i), &err) !=
            ERR_OK)
            assert(!"the engine inserts");
        if (recipe->dead_every != 0 && i % recipe->dead_every == 0)
            engine_delete(engine, 3 * i + i % 2);
    }
    while (left > 0)
        if (engine_step(engine, recipe->step == 0 ? UINT32_MAX : recipe->step, &left, &err) !=
            ERR_OK)
            assert(!"the engine links");
    data_free(&data);
    return engine;
}

/* An engine over the planes of a segment, which stays open longer. */
static inline struct engine *segment_attach(const struct segment_parts *parts)
{
    struct engine *engine;
    struct err err;

    if (engine_open(&engine, NULL, &parts->options, NULL, &err) != ERR_OK)
        assert(!"the engine opens");
    assert(engine->options.bits == parts->options.bits);
    struct graph *graph = graph_of(engine);
    plane_free(&graph->vectors);
    plane_free(&graph->codes);
    plane_free(&graph->fine);
    plane_free(&graph->slots);
    plane_free(&graph->ground);
    plane_free(&graph->upper);
    graph->vectors = parts->vectors;
    graph->codes = parts->codes;
    graph->fine = parts->fine;
    graph->slots = parts->slots;
    graph->ground = parts->ground;
    graph->upper = parts->upper;
    frame_take(graph, parts->centre, parts->length);
    graph->upper_rows = parts->upper_rows;
    graph->live = parts->live;
    graph->has_dead = graph->has_twins = true; /* perhaps */
    graph->entry = parts->entry;
    graph->count = parts->count;
    graph->linked = parts->count;
    return engine;
}

static inline unsigned char *segment_file_read(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");

    assert(file != NULL);
    if (fseek(file, 0, SEEK_END) != 0)
        assert(!"the file has an end");
    *size = (size_t)ftell(file);
    rewind(file);
    unsigned char *bytes = malloc(*size + 1);
    assert(bytes != NULL);
    if (fread(bytes, 1, *size, file) != *size)
        assert(!"the file can be read");
    fclose(file);
    return bytes;
}

static inline void segment_file_write(const char *path, const void *bytes, size_t size)
{
    FILE *file = fopen(path, "wb");

    assert(file != NULL);
    if (fwrite(bytes, 1, size, file) != size || fclose(file) != 0)
        assert(!"the file can be written");
}

static inline void segment_header_seal(unsigned char *bytes)
{
    store_u32(bytes + SECTIONS_CHECKSUM_AT, hash_crc32c(0, bytes, SECTIONS_CHECKSUM_AT));
}

/* All checksums of a file of sections of this layout, of its bytes as they are. */
static inline void sections_seal(unsigned char *bytes, const struct section_form *form,
                                 const struct section_layout *layout)
{
    uint32_t last = form->count - 1;
    unsigned char *checks = bytes + layout->places[last].offset;

    for (uint32_t i = 0; i < form->count; i++) {
        const struct section_place *place = &layout->places[i];
        unsigned char *own = checks + place->first_block * sizeof(uint32_t);
        uint64_t blocks = section_block_count(place->length);
        uint64_t own_bytes = i == last ? place->length : blocks * sizeof(uint32_t);

        for (uint64_t b = 0; b < blocks && i != last; b++) {
            uint64_t at = b * SECTIONS_BLOCK_BYTES;
            size_t len = (size_t)MIN_OF(place->length - at, SECTIONS_BLOCK_BYTES);

            store_u32(own + b * sizeof(uint32_t), hash_crc32c(0, bytes + place->offset + at, len));
        }
        store_u32(bytes + SECTIONS_TABLE_AT + i * SECTIONS_TABLE_ROW + 24,
                  hash_crc32c(0, i == last ? checks : own, own_bytes));
    }
    segment_header_seal(bytes);
}

#endif
