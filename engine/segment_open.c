/* Opening a segment: see segment.h.
 *
 * Header, the file's size, the table of checksums, then each section against it (of the vectors
 * only if they are copied), then the graph (segment_check.c).  A section that is to be mapped is
 * read once through the descriptor all the same: that brings it into the page cache, and a disk
 * that fails is an error then instead of a signal. Failure: whatever was mapped is given back, *out
 * is NULL. */
#include <assert.h>
#include <errno.h>

#include "engine/graph.h"
#include "engine/memory.h"
#include "engine/segment_file.h"

static bool is_copied(const struct segment *segment, enum segment_section section)
{
    return (segment->copied >> section & 1) != 0;
}

static enum err_code open_file(struct segment *segment, const char *path, struct err *err)
{
    uint8_t header[SECTIONS_HEADER_BYTES];
    enum err_code code = sections_open(&segment->file, &segment_form, path, header, err);

    if (code == ERR_OK)
        code = segment_header_decode(&segment->parts, &segment->file.layout, header, err);
    return code == ERR_OK ? sections_check_size(&segment->file, err) : code;
}

static enum err_code check_expected(const struct engine_options *found,
                                    const struct engine_options *expected, struct err *err)
{
    if (expected == NULL)
        return ERR_OK;
    if (found->dim != expected->dim)
        return err_set(err, ERR_CONFIG, "dimension %u instead of %u", found->dim, expected->dim);
    if (found->metric != expected->metric)
        return err_set(err, ERR_CONFIG, "metric %u instead of %u", (unsigned)found->metric,
                       (unsigned)expected->metric);
    if (found->m != expected->m)
        return err_set(err, ERR_CONFIG, "m %u instead of %u", found->m, expected->m);
    if (expected->bits != 0 && found->bits != expected->bits)
        return err_set(err, ERR_CONFIG, "codes of %u bits instead of %u", found->bits,
                       expected->bits);
    if (found->seed != expected->seed)
        return err_set(err, ERR_CONFIG, "seed %llu instead of %llu",
                       (unsigned long long)found->seed, (unsigned long long)expected->seed);
    return ERR_OK;
}

/* Let bases[section] be the section's first byte, and check the bytes, if they are wanted soon. */
static enum err_code load_section(struct segment *segment, enum segment_section section,
                                  struct err *err)
{
    const struct section_place *place = &segment->file.layout.places[section];
    unsigned char *copy = NULL;

    if (place->length == 0)
        return ERR_OK;
    if (is_copied(segment, section)) {
        copy = memory_map(plane_run_bytes(segment_stride(&segment->parts, section), place->length));
        if (copy == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory for section %s",
                           segment_form.names[section]);
        memory_want_huge(copy, place->length);
        segment->bases[section] = copy;
    } else {
        segment->bases[section] = segment->mapping + place->offset;
        if (section == SEGMENT_VECTORS) {
            memory_want_random(segment->bases[section], place->length);
            return ERR_OK;
        }
    }
    return sections_read_blocks(&segment->file, section, 0, section_block_count(place->length),
                                copy, err);
}

static enum err_code load_sections(struct segment *segment, struct err *err)
{
    enum err_code code = ERR_OK;

    if ((segment->copied & SEGMENT_COPY_ALL) != SEGMENT_COPY_ALL) {
        segment->mapping = memory_map_file(segment->file.fd, segment->file.layout.bytes);
        if (segment->mapping == NULL)
            return err_set_errno(err, errno, "mapping");
    }
    for (enum segment_section i = 0; code == ERR_OK && i < SEGMENT_CHECKS; i++)
        code = load_section(segment, i, err);
    return code;
}

/* Where there are no finer codes their plane stays zeroed, as an engine's does. */
static void borrow_planes(struct segment *segment)
{
    struct segment_parts *parts = &segment->parts;
    const struct {
        struct plane *plane;
        enum segment_section section;
    } planes[] = {{&parts->slots, SEGMENT_SLOTS}, {&parts->ground, SEGMENT_GROUND},
                  {&parts->upper, SEGMENT_UPPER}, {&parts->codes, SEGMENT_CODES},
                  {&parts->fine, SEGMENT_FINE},   {&parts->vectors, SEGMENT_VECTORS}};

    for (size_t i = 0; i < ARRAY_COUNT(planes); i++) {
        enum segment_section section = planes[i].section;
        uint64_t rows = segment_rows(parts, section);

        if (section != SEGMENT_FINE || rows > 0)
            plane_borrow(planes[i].plane, &segment->bases[section], segment_stride(parts, section),
                         rows);
    }
    parts->centre = (const float *)segment->bases[SEGMENT_CENTRE];
}

static enum err_code check_live(const struct segment_parts *parts, struct err *err)
{
    uint64_t live = 0;

    for (uint32_t i = 0; i < parts->count; i++) {
        const struct slot *slot = plane_row(&parts->slots, i);

        live += (atomic_load_explicit(&slot->state, memory_order_relaxed) & SLOT_DEAD) == 0;
    }
    if (live != parts->live)
        return err_set(err, ERR_CORRUPT, "%llu slots live, the header says %llu",
                       (unsigned long long)live, (unsigned long long)parts->live);
    return ERR_OK;
}

static enum err_code open_all(struct segment *segment, const char *path,
                              const struct segment_how *how, struct err *err)
{
    enum err_code code = open_file(segment, path, err);

    if (code == ERR_OK && how != NULL)
        code = check_expected(&segment->parts.options, how->expected, err);
    if (code == ERR_OK)
        code = sections_read_checks(&segment->file, err);
    if (code == ERR_OK)
        code = load_sections(segment, err);
    if (code != ERR_OK)
        return code;
    borrow_planes(segment);
    code = segment_check(&segment->parts, err);
    return code == ERR_OK ? check_live(&segment->parts, err) : code;
}

enum err_code segment_open(struct segment **out, const char *path, const struct segment_how *how,
                           struct err *err)
{
    struct segment *segment = memory_alloc(1, sizeof(*segment));
    enum err_code code;

    *out = NULL;
    if (segment == NULL)
        return err_set(err, ERR_NO_MEMORY, "segment %.100s: no memory", file_name_of(path));
    segment->file.fd = -1;
    segment->copied = how == NULL ? 0 : how->copied & SEGMENT_COPY_ALL;
    code = open_all(segment, path, how, err);
    if (code != ERR_OK) {
        segment_close(segment);
        return err_wrap(err, "segment %.100s", file_name_of(path));
    }
    *out = segment;
    return ERR_OK;
}

void segment_close(struct segment *segment)
{
    if (segment == NULL)
        return;
    for (enum segment_section i = 0; i < SEGMENT_CHECKS; i++)
        if (is_copied(segment, i) && segment->bases[i] != NULL)
            memory_unmap(segment->bases[i], plane_run_bytes(segment_stride(&segment->parts, i),
                                                            segment->file.layout.places[i].length));
    memory_unmap(segment->mapping, segment->file.layout.bytes);
    sections_close(&segment->file);
    memory_free(segment);
}

const struct segment_parts *segment_parts(const struct segment *segment)
{
    return &segment->parts;
}

uint64_t segment_blocks(const struct segment *segment)
{
    return segment->file.layout.blocks;
}

enum err_code segment_verify(const struct segment *segment, uint64_t first, uint64_t count,
                             struct err *err)
{
    return sections_scrub(&segment->file, first, count, err);
}

uint64_t segment_bytes(const struct segment *segment)
{
    return segment->file.layout.bytes;
}

uint64_t segment_memory(const struct segment *segment)
{
    uint64_t bytes = sizeof(*segment) + segment->file.layout.places[SEGMENT_CHECKS].length;

    for (enum segment_section i = 0; i < SEGMENT_CHECKS; i++)
        if (is_copied(segment, i))
            bytes += segment->file.layout.places[i].length;
    return bytes;
}
