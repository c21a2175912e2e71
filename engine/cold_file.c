/* Layout and header of a cold part's file: see cold_file.h.  Failure: a header that is damaged,
 * newer than this program, or asks for what cannot be. */
#include "engine/cold_file.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "engine/graph.h"

static const char *const names[COLD_SECTIONS] = {
    [IVF_PART_MEAN] = "mean",       [IVF_PART_CENTROIDS] = "centroids",
    [IVF_PART_STEPS] = "steps",     [IVF_PART_LOWS] = "lows",
    [IVF_PART_SQUARES] = "squares", [IVF_PART_SHIFTS] = "shifts",
    [IVF_PART_SPREADS] = "spreads", [IVF_PART_LISTS] = "lists",
    [IVF_PART_BOOK] = "book",       [IVF_PART_ORDINALS] = "ordinals",
    [IVF_PART_BLOCKS] = "blocks",   [COLD_VECTORS] = "vectors",
    [COLD_CHECKS] = "checksums"};

const struct section_form cold_form = {.magic = "vicnlCLD",
                                       .kind = "cold part",
                                       .version = COLD_VERSION,
                                       .count = COLD_SECTIONS,
                                       .spacious = UINT32_C(1) << COLD_VECTORS,
                                       .names = names};

static uint64_t section_bytes(const struct cold_numbers *numbers, unsigned section)
{
    if (section == COLD_VECTORS)
        return numbers->shape.count * (uint64_t)vector_stride(numbers->shape.options.dim);
    return ivf_part_bytes(&numbers->shape, (enum ivf_part)section);
}

struct section_layout cold_layout_of(const struct cold_numbers *numbers)
{
    uint64_t lengths[COLD_CHECKS];

    for (unsigned i = 0; i < COLD_CHECKS; i++)
        lengths[i] = section_bytes(numbers, i);
    return sections_place(&cold_form, lengths);
}

void cold_header_encode(const struct cold_numbers *numbers, const struct section_layout *layout,
                        uint8_t out[SECTIONS_HEADER_BYTES])
{
    const struct ivf_shape *shape = &numbers->shape;
    const struct ivf_options *options = &shape->options;
    const uint32_t words[] = {options->dim,
                              options->metric,
                              options->kind,
                              options->lists,
                              options->code_dims,
                              (uint32_t)options->seed,
                              (uint32_t)(options->seed >> 32),
                              shape->count,
                              shape->block_count,
                              numbers->from,
                              numbers->to};
    uint8_t *at = out + SECTIONS_NUMBERS_AT;

    static_assert(SECTIONS_NUMBERS_AT + sizeof(words) + sizeof(float) <= SECTIONS_TABLE_AT,
                  "they fit");
    sections_header_begin(&cold_form, layout, out);
    memcpy(at, words, sizeof(words));
    memcpy(at + sizeof(words), &shape->radius, sizeof(shape->radius));
    sections_header_end(out);
}

enum err_code cold_header_decode(struct cold_numbers *numbers, struct section_layout *layout,
                                 const uint8_t bytes[SECTIONS_HEADER_BYTES], struct err *err)
{
    struct bytes_reader in = {
        .data = bytes, .len = SECTIONS_HEADER_BYTES, .at = SECTIONS_NUMBERS_AT};
    struct cold_numbers found = {.shape = {.has_ordinals = true}};
    struct ivf_options *options = &found.shape.options;

    enum err_code code = sections_header_check(&cold_form, bytes, err);
    if (code != ERR_OK)
        return code;
    options->dim = read_u32(&in);
    options->metric = (enum engine_metric)read_u32(&in);
    options->kind = (enum ivf_kind)read_u32(&in);
    options->lists = read_u32(&in);
    options->code_dims = read_u32(&in);
    options->seed = read_u64(&in);
    found.shape.count = read_u32(&in);
    found.shape.block_count = read_u32(&in);
    found.from = read_u32(&in);
    found.to = read_u32(&in);
    memcpy(&found.shape.radius, read_bytes(&in, sizeof(float)), sizeof(float));
    assert(!in.failed);
    code = ivf_check_shape(&found.shape, err);
    if (code != ERR_OK)
        return err_wrap(err, "header");
    if (found.from >= found.to || found.shape.count > found.to - found.from)
        return err_set(err, ERR_CORRUPT, "header: %u vectors of the ordinals %u to %u",
                       found.shape.count, found.from, found.to);
    struct section_layout places = cold_layout_of(&found);
    if (sections_table_take(&cold_form, &places, bytes, err) != ERR_OK)
        return ERR_CORRUPT;
    *numbers = found;
    *layout = places;
    return ERR_OK;
}

enum err_code cold_header_read(struct section_file *file, const char *path,
                               struct cold_numbers *numbers, struct err *err)
{
    uint8_t header[SECTIONS_HEADER_BYTES];
    enum err_code code = sections_open(file, &cold_form, path, header, err);

    if (code == ERR_OK)
        code = cold_header_decode(numbers, &file->layout, header, err);
    if (code == ERR_OK)
        code = sections_check_size(file, err);
    if (code != ERR_OK)
        sections_close(file);
    return code;
}
