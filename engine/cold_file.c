/* Layout and header of a cold part's file: see cold_file.h.  Failure: a header that is damaged,
 * newer than this program, or asks for what cannot be. */
#include "engine/cold_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/graph.h"
#include "engine/memory.h"

#define ENDIAN_TAG UINT32_C(0x01020304)

enum { NUMBERS_AT = 12 };

static_assert(SEGMENT_TABLE_AT + COLD_SECTIONS * SEGMENT_TABLE_ROW <= SEGMENT_CHECKSUM_AT,
              "the table fits");

const char *cold_section_name(unsigned section)
{
    static const char *const names[COLD_SECTIONS] = {
        [IVF_PART_MEAN] = "mean",       [IVF_PART_CENTROIDS] = "centroids",
        [IVF_PART_STEPS] = "steps",     [IVF_PART_LOWS] = "lows",
        [IVF_PART_SQUARES] = "squares", [IVF_PART_SHIFTS] = "shifts",
        [IVF_PART_SPREADS] = "spreads", [IVF_PART_LISTS] = "lists",
        [IVF_PART_BOOK] = "book",       [IVF_PART_ORDINALS] = "ordinals",
        [IVF_PART_BLOCKS] = "blocks",   [COLD_VECTORS] = "vectors",
        [COLD_CHECKS] = "checksums"};

    assert(section < COLD_SECTIONS);
    return names[section];
}

static uint64_t section_bytes(const struct cold_numbers *numbers, unsigned section)
{
    if (section == COLD_VECTORS)
        return numbers->shape.count * (uint64_t)vector_stride(numbers->shape.options.dim);
    return ivf_part_bytes(&numbers->shape, (enum ivf_part)section);
}

struct cold_layout cold_layout_of(const struct cold_numbers *numbers)
{
    struct cold_layout layout = {.bytes = SEGMENT_HEADER_BYTES};

    for (unsigned i = 0; i < COLD_SECTIONS; i++) {
        struct segment_place *place = &layout.places[i];
        bool is_large;

        place->first_block = layout.blocks;
        if (i == COLD_CHECKS) {
            place->length = layout.blocks * sizeof(uint32_t);
        } else {
            place->length = section_bytes(numbers, i);
            layout.blocks += segment_block_count(place->length);
        }
        is_large = i == COLD_VECTORS && place->length >= MEMORY_HUGE_BYTES;
        place->alignment = (uint32_t)(is_large ? MEMORY_HUGE_BYTES : MEMORY_PAGE_BYTES);
        place->offset = (layout.bytes + place->alignment - 1) / place->alignment * place->alignment;
        layout.bytes = place->offset + place->length;
    }
    return layout;
}

void cold_header_encode(const struct cold_numbers *numbers, const struct cold_layout *layout,
                        uint8_t out[SEGMENT_HEADER_BYTES])
{
    const struct ivf_shape *shape = &numbers->shape;
    const struct ivf_options *options = &shape->options;
    const uint32_t words[] = {ENDIAN_TAG,
                              (uint32_t)SEGMENT_HEADER_BYTES,
                              COLD_SECTIONS,
                              (uint32_t)layout->bytes,
                              (uint32_t)(layout->bytes >> 32),
                              options->dim,
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
    size_t at = NUMBERS_AT + sizeof(words);

    static_assert(NUMBERS_AT + sizeof(words) + sizeof(float) <= SEGMENT_TABLE_AT, "they fit");
    memset(out, 0, SEGMENT_HEADER_BYTES);
    memcpy(out, COLD_MAGIC, 8);
    store_u32(out + SEGMENT_VERSION_AT, COLD_VERSION);
    memcpy(out + NUMBERS_AT, words, sizeof(words));
    memcpy(out + at, &shape->radius, sizeof(shape->radius));
    for (unsigned i = 0; i < COLD_SECTIONS; i++) {
        const struct segment_place *place = &layout->places[i];
        uint8_t *row = out + SEGMENT_TABLE_AT + i * SEGMENT_TABLE_ROW;

        store_u32(row, i + 1);
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

    if (memcmp(bytes, COLD_MAGIC, 8) != 0)
        return err_set(err, ERR_CORRUPT, "header: this is no cold part");
    if (load_u32(bytes + SEGMENT_CHECKSUM_AT) != hash_crc32c(0, bytes, SEGMENT_CHECKSUM_AT))
        return err_set(err, ERR_CORRUPT, "header: the checksum is wrong");
    if (version > COLD_VERSION)
        return err_set(err, ERR_CONFIG, "format version %u is newer than %d, which is known here",
                       version, COLD_VERSION);
    if (version == 0)
        return err_set(err, ERR_CORRUPT, "header: there is no format version 0");
    return ERR_OK;
}

/* Take the checksums from the table; all else in it must be as computed. */
static enum err_code check_table(struct cold_layout *layout, const uint8_t *bytes, struct err *err)
{
    for (unsigned i = 0; i < COLD_SECTIONS; i++) {
        struct segment_place *place = &layout->places[i];
        const uint8_t *row = bytes + SEGMENT_TABLE_AT + i * SEGMENT_TABLE_ROW;

        if (load_u32(row) != i + 1 || load_u32(row + 4) != place->alignment ||
            load_u64(row + 8) != place->offset || load_u64(row + 16) != place->length)
            return err_set(err, ERR_CORRUPT, "header: section %s is not where it should be",
                           cold_section_name(i));
        place->checksum = load_u32(row + 24);
    }
    return ERR_OK;
}

enum err_code cold_header_decode(struct cold_numbers *numbers, struct cold_layout *layout,
                                 const uint8_t bytes[SEGMENT_HEADER_BYTES], struct err *err)
{
    struct bytes_reader in = {.data = bytes, .len = SEGMENT_HEADER_BYTES, .at = NUMBERS_AT};
    struct cold_numbers found = {.shape = {.has_ordinals = true}};
    struct ivf_options *options = &found.shape.options;

    enum err_code code = check_form(bytes, err);
    if (code != ERR_OK)
        return code;
    uint32_t tag = read_u32(&in);
    uint32_t header_bytes = read_u32(&in);
    uint32_t sections = read_u32(&in);
    uint64_t file_bytes = read_u64(&in);
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
    if (tag != ENDIAN_TAG || header_bytes != SEGMENT_HEADER_BYTES || sections != COLD_SECTIONS)
        return err_set(err, ERR_CORRUPT, "header: another form than this version has");
    code = ivf_check_shape(&found.shape, err);
    if (code != ERR_OK)
        return err_wrap(err, "header");
    if (found.from >= found.to || found.shape.count > found.to - found.from)
        return err_set(err, ERR_CORRUPT, "header: %u vectors of the ordinals %u to %u",
                       found.shape.count, found.from, found.to);
    struct cold_layout places = cold_layout_of(&found);
    if (check_table(&places, bytes, err) != ERR_OK)
        return ERR_CORRUPT;
    if (file_bytes != places.bytes)
        return err_set(err, ERR_CORRUPT, "header: the wrong size of the file");
    *numbers = found;
    *layout = places;
    return ERR_OK;
}

static enum err_code read_header(int fd, struct cold_numbers *numbers, struct cold_layout *layout,
                                 struct err *err)
{
    uint8_t header[SEGMENT_HEADER_BYTES];
    struct stat about;

    if (fstat(fd, &about) != 0)
        return err_set_errno(err, errno, "open");
    if (!S_ISREG(about.st_mode))
        return err_set(err, ERR_CORRUPT, "this is no regular file");
    if ((uint64_t)about.st_size < sizeof(header))
        return err_set(err, ERR_CORRUPT, "the file has %llu bytes, less than a header",
                       (unsigned long long)about.st_size);
    enum err_code code = segment_read_bytes(fd, header, sizeof(header), 0, err);
    if (code == ERR_OK)
        code = cold_header_decode(numbers, layout, header, err);
    if (code == ERR_OK && (uint64_t)about.st_size != layout->bytes)
        code = err_set(err, ERR_CORRUPT, "the file has %llu bytes instead of %llu",
                       (unsigned long long)about.st_size, (unsigned long long)layout->bytes);
    return code;
}

enum err_code cold_header_read(int *fd, const char *path, struct cold_numbers *numbers,
                               struct cold_layout *layout, struct err *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "there is no such file");
    if (*fd < 0)
        return err_set_errno(err, errno, "open");
    enum err_code code = read_header(*fd, numbers, layout, err);
    if (code != ERR_OK) {
        (void)close(*fd);
        *fd = -1;
    }
    return code;
}
