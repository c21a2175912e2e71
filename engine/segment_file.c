/* Layout and header of a segment file: see segment_file.h.  Failure: a header that is damaged,
 * newer than this program, or asks for what cannot be. */
#include "engine/segment_file.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "engine/graph.h"
#include "engine/memory.h"

#define ENDIAN_TAG UINT32_C(0x01020304)

enum { ALIGNMENT_SMALL = MEMORY_PAGE_BYTES, NUMBERS_AT = 12 };

static_assert(SEGMENT_TABLE_AT + SEGMENT_SECTIONS * SEGMENT_TABLE_ROW <= SEGMENT_CHECKSUM_AT,
              "the table fits");
static_assert(SEGMENT_CHECKSUM_AT + sizeof(uint32_t) == SEGMENT_HEADER_BYTES,
              "the checksum is last");
static_assert(SEGMENT_CHUNK_BYTES % SEGMENT_BLOCK_BYTES == 0, "a chunk is whole blocks");
static_assert(sizeof(struct slot) == 16, "slots stand in files");
static_assert(sizeof(struct code_tail) == 8, "tails stand in files");
static_assert(sizeof(struct code_pair_tail) == 8, "these too");

const char *segment_section_name(enum segment_section section)
{
    static const char *const names[SEGMENT_SECTIONS] = {
        [SEGMENT_CENTRE] = "centre",   [SEGMENT_SLOTS] = "slots",     [SEGMENT_GROUND] = "ground",
        [SEGMENT_UPPER] = "upper",     [SEGMENT_CODES] = "codes",     [SEGMENT_FINE] = "fine",
        [SEGMENT_VECTORS] = "vectors", [SEGMENT_CHECKS] = "checksums"};

    assert(section < SEGMENT_SECTIONS);
    return names[section];
}

const char *segment_file_name(const char *path)
{
    const char *slash = strrchr(path, '/');

    return slash == NULL ? path : slash + 1;
}

size_t segment_stride(const struct segment_parts *parts, enum segment_section section)
{
    uint32_t dim = parts->options.dim;
    size_t link = sizeof(uint32_t);

    switch (section) {
    case SEGMENT_CENTRE:
        return dim * sizeof(float);
    case SEGMENT_SLOTS:
        return sizeof(struct slot);
    case SEGMENT_GROUND:
        return 2 * parts->options.m * link;
    case SEGMENT_UPPER:
        return parts->options.m * link;
    case SEGMENT_CODES:
        return codes_stride(dim, parts->options.bits);
    case SEGMENT_FINE:
        return codes_stride(dim, FINE_BITS);
    case SEGMENT_VECTORS:
        return vector_stride(dim);
    default:
        return sizeof(uint32_t);
    }
}

uint64_t segment_rows(const struct segment_parts *parts, enum segment_section section)
{
    switch (section) {
    case SEGMENT_CENTRE:
        return 1;
    case SEGMENT_UPPER:
        return parts->upper_rows;
    case SEGMENT_FINE:
        return parts->options.bits == FINE_BITS ? 0 : parts->count;
    default:
        return parts->count;
    }
}

static uint64_t round_up(uint64_t bytes, uint64_t alignment)
{
    return (bytes + alignment - 1) / alignment * alignment;
}

struct segment_layout segment_layout_of(const struct segment_parts *parts)
{
    struct segment_layout layout = {.bytes = SEGMENT_HEADER_BYTES};

    assert(parts->count <= PLANE_ROWS_MAX && parts->upper_rows <= PLANE_ROWS_MAX);
    for (enum segment_section i = 0; i < SEGMENT_SECTIONS; i++) {
        struct segment_place *place = &layout.places[i];

        place->first_block = layout.blocks;
        if (i == SEGMENT_CHECKS) {
            place->length = layout.blocks * sizeof(uint32_t);
        } else {
            place->length = segment_rows(parts, i) * segment_stride(parts, i);
            layout.blocks += segment_block_count(place->length);
        }
        place->alignment = place->length >= MEMORY_HUGE_BYTES ? (uint32_t)MEMORY_HUGE_BYTES
                                                              : (uint32_t)ALIGNMENT_SMALL;
        place->offset = round_up(layout.bytes, place->alignment);
        layout.bytes = place->offset + place->length;
    }
    return layout;
}

void segment_header_encode(const struct segment_parts *parts, const struct segment_layout *layout,
                           uint8_t out[SEGMENT_HEADER_BYTES])
{
    const struct engine_options *options = &parts->options;
    const uint32_t numbers[] = {ENDIAN_TAG,
                                (uint32_t)SEGMENT_HEADER_BYTES,
                                SEGMENT_SECTIONS,
                                (uint32_t)layout->bytes,
                                (uint32_t)(layout->bytes >> 32),
                                options->dim,
                                options->metric,
                                options->m,
                                options->bits,
                                options->ef_construction,
                                options->flat_below,
                                (uint32_t)options->seed,
                                (uint32_t)(options->seed >> 32),
                                parts->count,
                                parts->upper_rows,
                                (uint32_t)parts->live,
                                (uint32_t)(parts->live >> 32),
                                (uint32_t)parts->entry,
                                (uint32_t)(parts->entry >> 32)};
    size_t at = NUMBERS_AT + sizeof(numbers);

    static_assert(NUMBERS_AT + sizeof(numbers) + 2 * sizeof(float) <= SEGMENT_TABLE_AT, "they fit");
    memset(out, 0, SEGMENT_HEADER_BYTES);
    memcpy(out, SEGMENT_MAGIC, 8);
    store_u32(out + SEGMENT_VERSION_AT, SEGMENT_VERSION);
    memcpy(out + NUMBERS_AT, numbers, sizeof(numbers));
    memcpy(out + at, &parts->length, sizeof(parts->length));
    store_u32(out + at + sizeof(parts->length), parts->floor);
    for (size_t i = 0; i < SEGMENT_SECTIONS; i++) {
        const struct segment_place *place = &layout->places[i];
        uint8_t *row = out + SEGMENT_TABLE_AT + i * SEGMENT_TABLE_ROW;

        store_u32(row, (uint32_t)i + 1);
        store_u32(row + 4, place->alignment);
        store_u64(row + 8, place->offset);
        store_u64(row + 16, place->length);
        store_u32(row + 24, place->checksum);
    }
    store_u32(out + SEGMENT_CHECKSUM_AT, hash_crc32c(0, out, SEGMENT_CHECKSUM_AT));
}

/* What no version changes. */
static enum err_code check_form(const uint8_t *bytes, struct err *err)
{
    uint32_t version = load_u32(bytes + SEGMENT_VERSION_AT);

    if (memcmp(bytes, SEGMENT_MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "header: this is no segment file");
    if (load_u32(bytes + SEGMENT_CHECKSUM_AT) != hash_crc32c(0, bytes, SEGMENT_CHECKSUM_AT))
        return err_set(err, ERR_CORRUPT, "header: the checksum is wrong");
    if (version > SEGMENT_VERSION)
        return err_set(err, ERR_CONFIG, "format version %u is newer than %d, which is known here",
                       version, SEGMENT_VERSION);
    if (version == 0)
        return err_set(err, ERR_CORRUPT, "header: there is no format version 0");
    return ERR_OK;
}

static enum err_code check_numbers(const struct segment_parts *parts, struct err *err)
{
    const struct engine_options *options = &parts->options;
    uint32_t bits = options->bits;

    if (options->dim < 1 || options->dim > DIMENSION_MAX)
        return err_set(err, ERR_CORRUPT, "header: dimension %u", options->dim);
    if (options->metric > ENGINE_L2)
        return err_set(err, ERR_CORRUPT, "header: metric %u", (unsigned)options->metric);
    if (options->m < HNSW_M_MIN || options->m > HNSW_M_MAX)
        return err_set(err, ERR_CORRUPT, "header: m %u", options->m);
    if (options->ef_construction < HNSW_EF_CONSTRUCTION_MIN ||
        options->ef_construction > HNSW_EF_CONSTRUCTION_MAX)
        return err_set(err, ERR_CORRUPT, "header: ef_construction %u", options->ef_construction);
    if (options->flat_below == 0)
        return err_set(err, ERR_CORRUPT, "header: flat_below 0");
    if (bits != 1 && bits != 2 && bits != 4 && bits != 8)
        return err_set(err, ERR_CORRUPT, "header: codes of %u bits", bits);
    if (parts->count < 1 || parts->count >= PLANE_ROWS_MAX)
        return err_set(err, ERR_CORRUPT, "header: %u slots", parts->count);
    if (parts->upper_rows > PLANE_ROWS_MAX)
        return err_set(err, ERR_CORRUPT, "header: %u upper rows", parts->upper_rows);
    if (!isfinite(parts->length) || parts->length < 0)
        return err_set(err, ERR_CORRUPT, "header: a length that is no number");
    return ERR_OK;
}

/* Take the checksums from the table; all else in it must be as computed. */
static enum err_code check_table(struct segment_layout *layout, const uint8_t *bytes,
                                 struct err *err)
{
    for (size_t i = 0; i < SEGMENT_SECTIONS; i++) {
        struct segment_place *place = &layout->places[i];
        const uint8_t *row = bytes + SEGMENT_TABLE_AT + i * SEGMENT_TABLE_ROW;

        if (load_u32(row) != i + 1 || load_u32(row + 4) != place->alignment ||
            load_u64(row + 8) != place->offset || load_u64(row + 16) != place->length)
            return err_set(err, ERR_CORRUPT, "header: section %s is not where it should be",
                           segment_section_name((enum segment_section)i));
        place->checksum = load_u32(row + 24);
    }
    return ERR_OK;
}

enum err_code segment_header_decode(struct segment_parts *parts, struct segment_layout *layout,
                                    const uint8_t bytes[SEGMENT_HEADER_BYTES], struct err *err)
{
    struct bytes_reader in = {.data = bytes, .len = SEGMENT_HEADER_BYTES, .at = NUMBERS_AT};
    struct segment_parts found = {.options = {.kind = ENGINE_HNSW}};

    enum err_code code = check_form(bytes, err);
    if (code != ERR_OK)
        return code;
    uint32_t tag = read_u32(&in);
    uint32_t header_bytes = read_u32(&in);
    uint32_t sections = read_u32(&in);
    uint64_t file_bytes = read_u64(&in);
    found.options.dim = read_u32(&in);
    found.options.metric = (enum engine_metric)read_u32(&in);
    found.options.m = read_u32(&in);
    found.options.bits = read_u32(&in);
    found.options.ef_construction = read_u32(&in);
    found.options.flat_below = read_u32(&in);
    found.options.seed = read_u64(&in);
    found.count = read_u32(&in);
    found.upper_rows = read_u32(&in);
    found.live = read_u64(&in);
    found.entry = read_u64(&in);
    memcpy(&found.length, read_bytes(&in, sizeof(found.length)), sizeof(found.length));
    found.floor = read_u32(&in);
    assert(!in.failed);
    if (tag != ENDIAN_TAG || header_bytes != SEGMENT_HEADER_BYTES || sections != SEGMENT_SECTIONS)
        return err_set(err, ERR_CORRUPT, "header: another form than this version has");
    if (check_numbers(&found, err) != ERR_OK)
        return ERR_CORRUPT;
    struct segment_layout places = segment_layout_of(&found);
    if (check_table(&places, bytes, err) != ERR_OK)
        return ERR_CORRUPT;
    if (file_bytes != places.bytes)
        return err_set(err, ERR_CORRUPT, "header: the wrong size of the file");
    *parts = found;
    *layout = places;
    return ERR_OK;
}
