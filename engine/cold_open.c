/* A file becomes a cold part: see cold.h.
 *
 * Header, the file's size, the table of checksums, then each array against it, into memory of its
 * own; the vectors stay in the file, and only the scrub looks at them.  Then the index is looked at
 * as if it were a lie.
 * Failure: all is given back, *out is NULL. */
#include <errno.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/cold_file.h"
#include "engine/graph.h"
#include "engine/internal.h"
#include "engine/memory.h"

enum { CHUNK_BLOCKS = SECTIONS_CHUNK_BYTES / SECTIONS_BLOCK_BYTES };

struct opening {
    struct section_file file;
    struct cold_numbers numbers;
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

static enum err_code map_vectors(const struct opening *opening, struct cold *cold, struct err *err)
{
    const struct section_place *place = &opening->file.layout.places[COLD_VECTORS];
    const struct ivf_shape *shape = &opening->numbers.shape;

    cold->mapping_bytes = opening->file.layout.bytes;
    cold->mapping = memory_map_file(opening->file.fd, cold->mapping_bytes);
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
        code = sections_read_blocks(&opening->file, i, 0,
                                    section_block_count(opening->file.layout.places[i].length),
                                    ivf_part_of(cold->ivf, (enum ivf_part)i), err);
    if (code == ERR_OK)
        code = map_vectors(opening, cold, err);
    return code == ERR_OK ? check_part(cold, err) : code;
}

enum err_code cold_open(struct cold **out, const char *path, const struct engine_options *expected,
                        const struct kernels *kernels, struct err *err)
{
    struct cold *cold = memory_alloc(1, sizeof(*cold));
    struct opening opening = {.file = {.fd = -1}};
    enum err_code code;

    *out = NULL;
    if (cold == NULL)
        return err_set(err, ERR_NO_MEMORY, "cold part %.100s: no memory", file_name_of(path));
    code = cold_header_read(&opening.file, path, &opening.numbers, err);
    if (code == ERR_OK)
        code = check_expected(&opening.numbers, expected, err);
    if (code == ERR_OK)
        code = sections_read_checks(&opening.file, err);
    if (code == ERR_OK)
        code = load(&opening, cold, kernels, err);
    sections_close(&opening.file);
    if (code != ERR_OK) {
        cold_close(cold);
        return err_wrap(err, "cold part %.100s", file_name_of(path));
    }
    *out = cold;
    return ERR_OK;
}

enum err_code cold_verify(const char *path, const struct engine_hooks *hooks, struct err *err)
{
    struct section_file file;
    struct cold_numbers numbers;
    enum err_code code = cold_header_read(&file, path, &numbers, err);

    if (code == ERR_OK)
        code = sections_read_checks(&file, err);
    for (uint64_t at = 0; code == ERR_OK && at < file.layout.blocks; at += CHUNK_BLOCKS)
        code = hooks_go_on(hooks) ? sections_scrub(&file, at, CHUNK_BLOCKS, err)
                                  : err_set(err, ERR_DEAD, "stopped");
    sections_close(&file);
    return code == ERR_OK ? ERR_OK : err_wrap(err, "cold part %.100s", file_name_of(path));
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
