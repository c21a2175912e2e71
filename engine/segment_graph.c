/* A segment becomes a graph that can grow: see segment.h.
 *
 * Slots, links and codes are memory of the graph; vectors are pages of the file, but for the last
 * ones, which share a page with vectors that are still to come.
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
    size_t bytes = segment->layout.places[section].length;

    if (bytes == 0)
        return;
    assert((segment->copied >> section & 1) != 0);
    plane_adopt(plane, segment->bases[section], plane_run_bytes(plane->stride, bytes));
    segment->bases[section] = NULL;
}

/* Room for all vectors, of which whole pages are the file's and the rest is read. */
static enum err_code give_vectors(const struct segment *segment, struct graph *graph,
                                  struct err *err)
{
    const struct segment_place *place = &segment->layout.places[SEGMENT_VECTORS];
    struct plane *plane = &graph->vectors;
    size_t bytes = plane_run_bytes(plane->stride, place->length);
    unsigned char *memory = memory_map(bytes);

    if (memory == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu bytes of vectors",
                       (unsigned long long)bytes);
    plane_adopt(plane, memory, bytes);
    size_t lent = plane_lend(plane, segment->fd, place->offset, place->length);
    graph->filed = (uint32_t)(lent / plane->stride);
    memory_want_random(memory, lent);
    return segment_read_bytes(segment->fd, memory + lent, place->length - lent,
                              place->offset + lent, err);
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
    enum err_code code = give_vectors(segment, graph, err);
    if (code != ERR_OK)
        return code;
    give_plane(segment, SEGMENT_SLOTS, &graph->slots);
    give_plane(segment, SEGMENT_GROUND, &graph->ground);
    give_plane(segment, SEGMENT_UPPER, &graph->upper);
    give_plane(segment, SEGMENT_CODES, &graph->codes);
    give_plane(segment, SEGMENT_FINE, &graph->fine);
    count_slots(graph, parts->count);
    graph->upper_rows = parts->upper_rows;
    graph->entry = parts->entry;
    graph->linked = parts->count;
    graph->count = parts->count;
    return ERR_OK;
}

enum err_code segment_lend_vectors(const char *path, const struct segment_parts *parts,
                                   struct graph *graph, struct err *err)
{
    struct segment_layout layout = segment_layout_of(parts);
    const struct segment_place *place = &layout.places[SEGMENT_VECTORS];
    size_t whole = place->length / MEMORY_PAGE_BYTES * MEMORY_PAGE_BYTES;

    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno, "segment %.100s", segment_file_name(path));
    errno = 0;
    size_t lent = plane_lend(&graph->vectors, fd, place->offset, place->length);
    int failed = errno;
    (void)close(fd);
    atomic_store_explicit(&graph->filed, (uint32_t)(lent / graph->vectors.stride),
                          memory_order_relaxed);
    return lent == whole ? ERR_OK : err_set_errno(err, failed, "mapping the vectors");
}
