/* Writing a segment: see segment.h.  The planes are copied out while somebody may set a dead bit
 * (sections_write.c).  Failure: the unfinished file is removed; what stood under the name stays. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/graph.h"
#include "engine/segment_file.h"

struct writer {
    const struct segment_parts *parts;
    const struct segment_progress *progress;
    struct section_writer sections;
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

static void copy_bytes(void *state, unsigned section, uint64_t at, size_t len, unsigned char *out)
{
    struct writer *writer = state;
    const struct segment_parts *parts = writer->parts;

    switch ((enum segment_section)section) {
    case SEGMENT_CENTRE:
        memcpy(out, (const unsigned char *)parts->centre + at, len);
        return;
    case SEGMENT_SLOTS:
        copy_slots(writer, at, len, out);
        return;
    case SEGMENT_GROUND:
        copy_plane(&parts->ground, at, len, out);
        return;
    case SEGMENT_UPPER:
        copy_plane(&parts->upper, at, len, out);
        return;
    case SEGMENT_CODES:
        copy_plane(&parts->codes, at, len, out);
        return;
    case SEGMENT_FINE:
        copy_plane(&parts->fine, at, len, out);
        return;
    case SEGMENT_VECTORS:
        copy_plane(&parts->vectors, at, len, out);
        return;
    default:
        assert(!"a section of planes");
    }
}

/* --- the file -------------------------------------------------------------------------------- */

static enum err_code go_on(void *state, struct err *err)
{
    const struct writer *writer = state;
    const struct segment_progress *progress = writer->progress;
    uint64_t done = writer->sections.bytes_done, bytes = writer->sections.layout.bytes;

    if (progress == NULL || progress->go_on == NULL ||
        progress->go_on(progress->state, done, bytes))
        return ERR_OK;
    return err_set(err, ERR_DEAD, "stopped after %llu of %llu bytes", (unsigned long long)done,
                   (unsigned long long)bytes);
}

static enum err_code before_rename(void *state, struct err *err)
{
    const struct segment_progress *progress = ((const struct writer *)state)->progress;

    if (progress == NULL || progress->before_rename == NULL)
        return ERR_OK;
    return progress->before_rename(progress->state, err);
}

static enum err_code publish(struct writer *writer, struct err *err)
{
    struct segment_parts parts = *writer->parts;

    parts.live = writer->live;
    segment_header_encode(&parts, &writer->sections.layout, writer->sections.chunk);
    return sections_publish(&writer->sections, err);
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
    enum err_code code = sections_write_open(&writer->sections, path, err);

    for (enum segment_section i = 0; code == ERR_OK && i < SEGMENT_SECTIONS; i++) {
        code = sections_write(&writer->sections, i, err);
        if (code == ERR_OK && i == SEGMENT_UPPER)
            tell_links_written(writer);
    }
    return code == ERR_OK ? publish(writer, err) : code;
}

enum err_code segment_write(const char *path, const struct segment_parts *parts,
                            const struct segment_progress *progress, struct err *err)
{
    struct writer writer = {.parts = parts, .progress = progress};
    enum err_code code;

    if (parts->count == 0)
        return err_set(err, ERR_INVALID_ARGUMENT, "segment %.100s: the graph is empty",
                       file_name_of(path));
    code = segment_check(parts, err);
    if (code == ERR_OK) {
        writer.sections = (struct section_writer){.form = &segment_form,
                                                  .layout = segment_layout_of(parts),
                                                  .copy = copy_bytes,
                                                  .go_on = go_on,
                                                  .before_rename = before_rename,
                                                  .state = &writer};
        code = write_all(&writer, path, err);
        sections_write_close(&writer.sections);
    }
    return code == ERR_OK ? code : err_wrap(err, "segment %.100s", file_name_of(path));
}
