/* A file becomes a cold part: see cold.h.
 *
 * Header, the file's size, the table of checksums, then each array against it, into memory of its
 * own; the vectors stay in the file, and only the scrub looks at them.  Then the index is looked at
 * as if it were a lie.
 * Failure: all is given back, *out is NULL. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/cold.h"
#include "engine/cold_file.h"
#include "engine/graph.h"
#include "engine/internal.h"
#include "engine/memory.h"

struct opening {
    int fd;
    struct cold_numbers numbers;
    struct cold_layout layout;
    uint32_t *checks;
};

static enum err_code check_expected(const struct cold_numbers *numbers,
                                    const struct engine_options *expected, struct err *err)
{
    const struct ivf_options *found = &numbers->shape.options;

    if (found->dim != expected->dim)
        return err_set(err, ERR_CONFIG, "dimension %u instead of %u", found->dim, expected->dim);
    if (found->metric != expected->metric)
        return err_set(err, ERR_CONFIG, "metric %u instead of %u", (unsigned)found->metric,
                       (unsigned)expected->metric);
    return ERR_OK;
}

static enum err_code read_checks(struct opening *opening, struct err *err)
{
    const struct segment_place *table = &opening->layout.places[COLD_CHECKS];

    opening->checks = memory_alloc(opening->layout.blocks, sizeof(*opening->checks));
    if (opening->checks == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu checksums",
                       (unsigned long long)opening->layout.blocks);
    if (segment_read_bytes(opening->fd, opening->checks, table->length, table->offset, err) !=
        ERR_OK)
        return err_wrap(err, "section %s", cold_section_name(COLD_CHECKS));
    if (hash_crc32c(0, opening->checks, table->length) != table->checksum)
        return err_set(err, ERR_CORRUPT, "section %s is damaged", cold_section_name(COLD_CHECKS));
    for (unsigned i = 0; i < COLD_CHECKS; i++) {
        const struct segment_place *place = &opening->layout.places[i];
        size_t bytes = segment_block_count(place->length) * sizeof(*opening->checks);

        if (hash_crc32c(0, opening->checks + place->first_block, bytes) != place->checksum)
            return err_set(err, ERR_CORRUPT, "the checksums of section %s are not its own",
                           cold_section_name(i));
    }
    return ERR_OK;
}

/* len bytes of a section, from a block's first byte on. */
static enum err_code read_part(const struct opening *opening, unsigned section, uint64_t from,
                               uint64_t len, unsigned char *out, struct err *err)
{
    const struct segment_place *place = &opening->layout.places[section];
    uint64_t block = from / SEGMENT_BLOCK_BYTES;
    const uint32_t *checks = opening->checks + place->first_block;

    if (segment_read_bytes(opening->fd, out, len, place->offset + from, err) != ERR_OK)
        return err_wrap(err, "section %s", cold_section_name(section));
    for (uint64_t at = 0; at < len; at += SEGMENT_BLOCK_BYTES, block++)
        if (hash_crc32c(0, out + at, MIN_OF(len - at, SEGMENT_BLOCK_BYTES)) != checks[block])
            return err_set(err, ERR_CORRUPT, "section %s: block %llu (file byte %llu) is damaged",
                           cold_section_name(section), (unsigned long long)block,
                           (unsigned long long)(place->offset + from + at));
    return ERR_OK;
}

static enum err_code read_section(const struct opening *opening, unsigned section,
                                  unsigned char *out, struct err *err)
{
    return read_part(opening, section, 0, opening->layout.places[section].length, out, err);
}

/* room: for a megabyte, in which what was read is checked and forgotten. */
static enum err_code verify_section(const struct opening *opening, unsigned section,
                                    unsigned char *room, const struct engine_hooks *hooks,
                                    struct err *err)
{
    uint64_t len = opening->layout.places[section].length;
    enum err_code code = ERR_OK;

    for (uint64_t at = 0; code == ERR_OK && at < len; at += SEGMENT_CHUNK_BYTES) {
        if (!hooks_go_on(hooks))
            return err_set(err, ERR_DEAD, "stopped");
        code = read_part(opening, section, at, MIN_OF(len - at, SEGMENT_CHUNK_BYTES), room, err);
    }
    return code;
}

static enum err_code map_vectors(const struct opening *opening, struct cold *cold, struct err *err)
{
    const struct segment_place *place = &opening->layout.places[COLD_VECTORS];
    const struct ivf_shape *shape = &opening->numbers.shape;

    cold->mapping_bytes = opening->layout.bytes;
    cold->mapping = memory_map_file(opening->fd, cold->mapping_bytes);
    if (cold->mapping == NULL)
        return err_set_errno(err, errno, "mapping");
    memory_want_random(cold->mapping + place->offset, place->length);
    struct ivf_rows rows = {.count = shape->count,
                            .vectors = (const void *)(cold->mapping + place->offset),
                            .stride = vector_stride(shape->options.dim) / sizeof(float),
                            .is_unit = shape->options.metric == ENGINE_COSINE};
    ivf_put_rows(cold->ivf, &rows);
    return ERR_OK;
}

static enum err_code check_part(const struct cold *cold, struct err *err)
{
    uint32_t count = cold->ivf->rows.count;
    enum err_code code = ivf_validate(cold->ivf, err);

    if (code == ERR_OK && count > 0 &&
        (ivf_ordinal(cold->ivf, 0) < cold->from || ivf_ordinal(cold->ivf, count - 1) >= cold->to))
        code =
            err_set(err, ERR_CORRUPT, "an ordinal lies outside of %u to %u", cold->from, cold->to);
    return code;
}

static enum err_code load(const struct opening *opening, struct cold *cold,
                          const struct kernels *kernels, struct err *err)
{
    const struct cold_numbers *numbers = &opening->numbers;
    enum err_code code = ivf_new(&cold->ivf, &numbers->shape, kernels, err);

    cold->from = numbers->from;
    cold->to = numbers->to;
    cold->live = numbers->shape.count;
    cold->dead = memory_alloc(numbers->shape.count / 64 + 1, sizeof(*cold->dead));
    if (code == ERR_OK && cold->dead == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory for a cold part");
    for (unsigned i = 0; code == ERR_OK && i < COLD_VECTORS; i++)
        code = read_section(opening, i, ivf_part_of(cold->ivf, (enum ivf_part)i), err);
    if (code == ERR_OK)
        code = map_vectors(opening, cold, err);
    return code == ERR_OK ? check_part(cold, err) : code;
}

enum err_code cold_open(struct cold **out, const char *path, const struct engine_options *expected,
                        const struct kernels *kernels, struct err *err)
{
    struct cold *cold = memory_alloc(1, sizeof(*cold));
    struct opening opening = {.fd = -1};
    enum err_code code;

    *out = NULL;
    if (cold == NULL)
        return err_set(err, ERR_NO_MEMORY, "cold part %.100s: no memory", segment_file_name(path));
    code = cold_header_read(&opening.fd, path, &opening.numbers, &opening.layout, err);
    if (code == ERR_OK)
        code = check_expected(&opening.numbers, expected, err);
    if (code == ERR_OK)
        code = read_checks(&opening, err);
    if (code == ERR_OK)
        code = load(&opening, cold, kernels, err);
    memory_free(opening.checks);
    if (opening.fd >= 0)
        (void)close(opening.fd);
    if (code != ERR_OK) {
        cold_close(cold);
        return err_wrap(err, "cold part %.100s", segment_file_name(path));
    }
    *out = cold;
    return ERR_OK;
}

enum err_code cold_verify(const char *path, const struct engine_hooks *hooks, struct err *err)
{
    struct opening opening = {.fd = -1};
    unsigned char *room = memory_alloc(SEGMENT_CHUNK_BYTES, 1);
    enum err_code code;

    if (room == NULL)
        return err_set(err, ERR_NO_MEMORY, "cold part %.100s: no memory", segment_file_name(path));
    code = cold_header_read(&opening.fd, path, &opening.numbers, &opening.layout, err);
    if (code == ERR_OK)
        code = read_checks(&opening, err);
    for (unsigned i = 0; code == ERR_OK && i < COLD_CHECKS; i++)
        code = verify_section(&opening, i, room, hooks, err);
    memory_free(opening.checks);
    memory_free(room);
    if (opening.fd >= 0)
        (void)close(opening.fd);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "cold part %.100s", segment_file_name(path));
}

void cold_close(struct cold *cold)
{
    if (cold == NULL)
        return;
    ivf_free(cold->ivf);
    memory_unmap(cold->mapping, cold->mapping_bytes);
    memory_free((void *)(uintptr_t)cold->dead);
    memory_free(cold);
}
