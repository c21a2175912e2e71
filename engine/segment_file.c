/* Layout and header of a segment file: see segment_file.h.  Failure: a header that is damaged,
 * newer than this program, or asks for what cannot be. */
#include "engine/segment_file.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/limits.h"
#include "engine/graph.h"

static_assert(sizeof(struct slot) == 16, "slots stand in files");
static_assert(sizeof(struct code_tail) == 8, "tails stand in files");
static_assert(sizeof(struct code_pair_tail) == 8, "these too");

static const char *const names[SEGMENT_SECTIONS] = {
    [SEGMENT_CENTRE] = "centre",   [SEGMENT_SLOTS] = "slots",     [SEGMENT_GROUND] = "ground",
    [SEGMENT_UPPER] = "upper",     [SEGMENT_CODES] = "codes",     [SEGMENT_FINE] = "fine",
    [SEGMENT_VECTORS] = "vectors", [SEGMENT_CHECKS] = "checksums"};

const struct section_form segment_form = {.magic = "vicnlSEG",
                                          .kind = "segment file",
                                          .version = SEGMENT_VERSION,
                                          .count = SEGMENT_SECTIONS,
                                          .spacious = UINT32_MAX,
                                          .names = names};

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

struct section_layout segment_layout_of(const struct segment_parts *parts)
{
    uint64_t lengths[SEGMENT_CHECKS];

    assert(parts->count <= PLANE_ROWS_MAX && parts->upper_rows <= PLANE_ROWS_MAX);
    for (enum segment_section i = 0; i < SEGMENT_CHECKS; i++)
        lengths[i] = segment_rows(parts, i) * segment_stride(parts, i);
    return sections_place(&segment_form, lengths);
}

void segment_header_encode(const struct segment_parts *parts, const struct section_layout *layout,
                           uint8_t out[SECTIONS_HEADER_BYTES])
{
    const struct engine_options *options = &parts->options;
    const uint32_t numbers[] = {options->dim,
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
    uint8_t *at = out + SECTIONS_NUMBERS_AT;

    static_assert(SECTIONS_NUMBERS_AT + sizeof(numbers) + 2 * sizeof(float) <= SECTIONS_TABLE_AT,
                  "they fit");
    sections_header_begin(&segment_form, layout, out);
    memcpy(at, numbers, sizeof(numbers));
    at += sizeof(numbers);
    memcpy(at, &parts->length, sizeof(parts->length));
    store_u32(at + sizeof(parts->length), parts->floor);
    sections_header_end(out);
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

enum err_code segment_header_decode(struct segment_parts *parts, struct section_layout *layout,
                                    const uint8_t bytes[SECTIONS_HEADER_BYTES], struct err *err)
{
    struct bytes_reader in = {
        .data = bytes, .len = SECTIONS_HEADER_BYTES, .at = SECTIONS_NUMBERS_AT};
    struct segment_parts found = {.options = {.kind = ENGINE_HNSW}};

    enum err_code code = sections_header_check(&segment_form, bytes, err);
    if (code != ERR_OK)
        return code;
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
    if (check_numbers(&found, err) != ERR_OK)
        return ERR_CORRUPT;
    struct section_layout places = segment_layout_of(&found);
    if (sections_table_take(&segment_form, &places, bytes, err) != ERR_OK)
        return ERR_CORRUPT;
    *parts = found;
    *layout = places;
    return ERR_OK;
}
