/* A segment becomes a graph that can grow: see segment.h.
 *
 * Slots, links and codes are memory of the graph; vectors, and the finer codes, which only linking
 * reads, are pages of the file, but for the last ones, which share a page with those that are
 * still to come.
 * Failure: memory, or a disk that cannot be read; nobody has seen the graph then. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "engine/graph.h"
#include "engine/memory.h"
#include "engine/segment_file.h"

static void give_plane(struct segment *segment, enum segment_section section, struct plane *plane)
{
    size_t bytes = segment->file.layout.places[section].length;

    if (bytes == 0)
        return;
    assert((segment->copied >> section & 1) != 0);
    plane_adopt(plane, segment->bases[section], plane_run_bytes(plane->stride, bytes));
    segment->bases[section] = NULL;
}

/* Rows that searches seldom read: of them whole pages are the file's, and the rest is read.  Sets
 * *lent to the rows that are the file's. */
static enum err_code give_rows(const struct segment *segment, enum segment_section section,
                               struct plane *plane, uint32_t *lent, struct err *err)
{
    const struct section_place *place = &segment->file.layout.places[section];
    size_t bytes = plane_run_bytes(plane->stride, place->length);
    unsigned char *memory = memory_map(bytes);

    if (memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu bytes of section %s",
                       (unsigned long long)bytes, segment_form.names[section]);
    plane_adopt(plane, memory, bytes);
    size_t done = plane_lend(plane, segment->file.fd, place->offset, place->length);
    *lent = (uint32_t)(done / plane->stride);
    return file_read_at(segment->file.fd, memory + done, place->length - done, place->offset + done,
                        err);
}

static enum err_code give_seldom_read(const struct segment *segment, struct graph *graph,
                                      struct err *err)
{
    uint32_t vectors, fine;
    enum err_code code = give_rows(segment, SEGMENT_VECTORS, &graph->vectors, &vectors, err);

    graph->filed = vectors;
    if (code == ERR_OK && graph->options.bits != FINE_BITS) {
        code = give_rows(segment, SEGMENT_FINE, &graph->fine, &fine, err);
        graph->filed = MIN_OF(vectors, fine);
    }
    return code;
}

/* What the slots tell. */
static void count_slots(struct graph *graph, uint32_t count)
{
    uint64_t live = 0;
    bool has_twins = false;

    for (uint32_t slot = 0; slot < count; slot++) {
        uint32_t state = slot_state(graph, slot);

        live += (state & SLOT_DEAD) == 0;
        has_twins |= (state & SLOT_TWIN) != 0;
    }
    graph->live = live;
    graph->has_dead = live < count;
    graph->has_twins = has_twins;
}

enum err_code segment_give(struct segment *segment, struct graph *graph, struct err *err)
{
    const struct segment_parts *parts = &segment->parts;

    frame_take(graph, parts->centre, parts->length);
    enum err_code code = give_seldom_read(segment, graph, err);
    if (code != ERR_OK)
        return code;
    give_plane(segment, SEGMENT_SLOTS, &graph->slots);
    give_plane(segment, SEGMENT_GROUND, &graph->ground);
    give_plane(segment, SEGMENT_UPPER, &graph->upper);
    give_plane(segment, SEGMENT_CODES, &graph->codes);
    count_slots(graph, parts->count);
    graph->upper_rows = parts->upper_rows;
    graph->entry = parts->entry;
    graph->linked = parts->count;
    graph->count = parts->count;
    return ERR_OK;
}

uint32_t segment_filed(const struct engine_options *options)
{
    bool has_fine = options->bits != FINE_BITS;

    return UINT32_C(1) << SEGMENT_VECTORS | (uint32_t)has_fine << (uint32_t)SEGMENT_FINE;
}

static enum err_code lend_rows(int fd, const struct section_place *place, struct plane *plane,
                               uint32_t *lent, struct err *err)
{
    size_t whole = place->length / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;
    size_t done = plane_lend(plane, fd, place->offset, place->length);

    *lent = (uint32_t)(done / plane->stride);
    return done == whole ? ERR_OK : err_set_errno(err, errno, "mapping a segment");
}

enum err_code segment_lend(const char *path, const struct segment_parts *parts, struct graph *graph,
                           struct err *err)
{
    struct section_layout layout = segment_layout_of(parts);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint32_t vectors, fine;

    if (fd < 0)
        return err_set_errno(err, errno, "segment %.100s", file_name_of(path));
    enum err_code code =
        lend_rows(fd, &layout.places[SEGMENT_VECTORS], &graph->vectors, &vectors, err);
    fine = vectors;
    if (code == ERR_OK && graph->options.bits != FINE_BITS)
        code = lend_rows(fd, &layout.places[SEGMENT_FINE], &graph->fine, &fine, err);
    (void)close(fd);
    atomic_store_explicit(&graph->filed, MIN_OF(vectors, fine), memory_order_relaxed);
    return code;
}
