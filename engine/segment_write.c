/* Writing a segment: see segment.h.
 *
 * The planes are copied out a megabyte at a time, so that what is summed up is what is written even
 * while somebody sets a dead bit, and memory stays bounded.  The header comes last; then the file
 * gets its name (new_file.h).
 * Failure: the unfinished file is removed; what stood under the name stays. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/cold.h"
#include "engine/graph.h"
#include "engine/memory.h"
#include "engine/new_file.h"
#include "engine/segment_file.h"

struct writer {
    const struct segment_parts *parts;
    const struct segment_progress *progress;
    struct segment_layout layout;
    struct new_file file;
    unsigned char *chunk; /* SEGMENT_CHUNK_BYTES */
    uint32_t *checks;
    uint64_t bytes_done;
    uint64_t live; /* slots written that are not dead */
};

struct segment_parts segment_parts_of(const struct graph *graph)
{
    struct segment_parts parts = {.options = graph->options,
                                  .length = graph->length,
                                  .floor = colds_floor(graph_cold(graph)),
                                  .centre = graph->frame.centre,
                                  .slots = graph->slots,
                                  .ground = graph->ground,
                                  .upper = graph->upper,
                                  .codes = graph->codes,
                                  .fine = graph->fine,
                                  .vectors = graph->vectors};

    parts.options.kernel = NULL;
    parts.options.memory_budget = 0;
    parts.count = atomic_load_explicit(&graph->linked, memory_order_acquire);
    parts.entry = atomic_load_explicit(&graph->entry, memory_order_acquire);
    parts.upper_rows = atomic_load_explicit(&graph->upper_rows, memory_order_acquire);
    return parts;
}

/* --- bytes of the planes --------------------------------------------------------------------- */

/* A chunk of a plane is one array: copy run by run. */
static void copy_plane(const struct plane *plane, uint64_t at, size_t len, unsigned char *out)
{
    while (len > 0) {
        uint32_t row = (uint32_t)(at / plane->stride);
        size_t skip = (size_t)(at % plane->stride);
        uint64_t rows = (uint64_t)plane->mask + 1 - (row & plane->mask);
        size_t run = (size_t)MIN_OF(rows * plane->stride - skip, (uint64_t)len);

        memcpy(out, (const unsigned char *)plane_row(plane, row) + skip, run);
        at += run;
        out += run;
        len -= run;
    }
}

/* Others may set dead bits meanwhile. */
static void copy_slots(struct writer *writer, uint64_t at, size_t len, unsigned char *out)
{
    for (; len > 0; len -= sizeof(struct slot), at += sizeof(struct slot)) {
        const struct slot *slot =
            plane_row(&writer->parts->slots, (uint32_t)(at / sizeof(struct slot)));
        uint32_t words[] = {slot->ordinal, slot->upper,
                            atomic_load_explicit(&slot->twin, memory_order_acquire),
                            atomic_load_explicit(&slot->state, memory_order_relaxed)};

        static_assert(sizeof(words) == sizeof(struct slot), "all of it");
        writer->live += (words[3] & SLOT_DEAD) == 0;
        memcpy(out, words, sizeof(words));
        out += sizeof(words);
    }
}

static void copy_bytes(struct writer *writer, enum segment_section section, uint64_t at, size_t len)
{
    const struct segment_parts *parts = writer->parts;

    switch (section) {
    case SEGMENT_CENTRE:
        memcpy(writer->chunk, (const unsigned char *)parts->centre + at, len);
        return;
    case SEGMENT_SLOTS:
        copy_slots(writer, at, len, writer->chunk);
        return;
    case SEGMENT_GROUND:
        copy_plane(&parts->ground, at, len, writer->chunk);
        return;
    case SEGMENT_UPPER:
        copy_plane(&parts->upper, at, len, writer->chunk);
        return;
    case SEGMENT_CODES:
        copy_plane(&parts->codes, at, len, writer->chunk);
        return;
    case SEGMENT_FINE:
        copy_plane(&parts->fine, at, len, writer->chunk);
        return;
    case SEGMENT_VECTORS:
        copy_plane(&parts->vectors, at, len, writer->chunk);
        return;
    default:
        memcpy(writer->chunk, (const unsigned char *)writer->checks + at, len);
    }
}

/* --- the file -------------------------------------------------------------------------------- */

static enum err_code go_on(const struct writer *writer, struct err *err)
{
    const struct segment_progress *progress = writer->progress;

    if (progress == NULL || progress->go_on == NULL ||
        progress->go_on(progress->state, writer->bytes_done, writer->layout.bytes))
        return ERR_OK;
    return err_set(err, ERR_DEAD, "stopped after %llu of %llu bytes",
                   (unsigned long long)writer->bytes_done,
                   (unsigned long long)writer->layout.bytes);
}

static enum err_code write_section(struct writer *writer, enum segment_section section,
                                   struct err *err)
{
    struct segment_place *place = &writer->layout.places[section];
    uint32_t *checks = writer->checks + place->first_block;
    size_t len;

    for (uint64_t at = 0; at < place->length; at += len) {
        enum err_code code = go_on(writer, err);

        if (code != ERR_OK)
            return code;
        len = (size_t)MIN_OF(place->length - at, (uint64_t)SEGMENT_CHUNK_BYTES);
        copy_bytes(writer, section, at, len);
        for (size_t i = 0; i < len && section != SEGMENT_CHECKS; i += SEGMENT_BLOCK_BYTES)
            checks[(at + i) / SEGMENT_BLOCK_BYTES] =
                hash_crc32c(0, writer->chunk + i, MIN_OF(len - i, SEGMENT_BLOCK_BYTES));
        code = new_file_write(&writer->file, writer->chunk, len, place->offset + at, err);
        if (code != ERR_OK)
            return err_wrap(err, "section %s", segment_section_name(section));
        writer->bytes_done += len;
    }
    if (section == SEGMENT_CHECKS)
        place->checksum = hash_crc32c(0, writer->checks, place->length);
    else
        place->checksum =
            hash_crc32c(0, checks, segment_block_count(place->length) * sizeof(*checks));
    return ERR_OK;
}

static enum err_code write_header(struct writer *writer, struct err *err)
{
    struct segment_parts parts = *writer->parts;

    parts.live = writer->live;
    segment_header_encode(&parts, &writer->layout, writer->chunk);
    return new_file_write(&writer->file, writer->chunk, SEGMENT_HEADER_BYTES, 0, err);
}

static enum err_code publish(struct writer *writer, struct err *err)
{
    enum err_code code = go_on(writer, err);

    if (code == ERR_OK)
        code = new_file_sync(&writer->file, err);
    if (code == ERR_OK && writer->progress != NULL && writer->progress->before_rename != NULL)
        code = writer->progress->before_rename(writer->progress->state, err);
    return code == ERR_OK ? new_file_rename(&writer->file, err) : code;
}

/* The sections behind are of rows that never change. */
static void tell_links_written(const struct writer *writer)
{
    static_assert(SEGMENT_SLOTS < SEGMENT_UPPER && SEGMENT_GROUND < SEGMENT_UPPER, "all links");
    if (writer->progress != NULL && writer->progress->links_written != NULL)
        writer->progress->links_written(writer->progress->state);
}

static enum err_code write_all(struct writer *writer, const char *path, struct err *err)
{
    enum err_code code = new_file_open(&writer->file, path, writer->layout.bytes, err);

    writer->chunk = memory_alloc(1, SEGMENT_CHUNK_BYTES);
    writer->checks = memory_alloc(writer->layout.blocks, sizeof(*writer->checks));
    if (code == ERR_OK && (writer->chunk == NULL || writer->checks == NULL))
        code = err_set(err, ERR_NO_MEMORY, "no memory to write");
    for (enum segment_section i = 0; code == ERR_OK && i < SEGMENT_SECTIONS; i++) {
        code = write_section(writer, i, err);
        if (code == ERR_OK && i == SEGMENT_UPPER)
            tell_links_written(writer);
    }
    if (code == ERR_OK)
        code = write_header(writer, err);
    if (code == ERR_OK)
        code = publish(writer, err);
    return code;
}

enum err_code segment_write(const char *path, const struct segment_parts *parts,
                            const struct segment_progress *progress, struct err *err)
{
    struct writer writer = {.parts = parts, .progress = progress, .file = {.dir_fd = -1, .fd = -1}};
    enum err_code code;

    if (parts->count == 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "segment %.100s: the graph is empty",
                       segment_file_name(path));
    code = segment_check(parts, err);
    if (code == ERR_OK) {
        writer.layout = segment_layout_of(parts);
        code = write_all(&writer, path, err);
    }
    new_file_close(&writer.file);
    memory_free(writer.chunk);
    memory_free(writer.checks);
    return code == ERR_OK ? code : err_wrap(err, "segment %.100s", segment_file_name(path));
}
