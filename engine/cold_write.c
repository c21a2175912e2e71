/* Writing a cold part: see cold.h.  The arrays of the index go out as they are, the vectors are
 * asked for row by row, a megabyte at a time; then the checksums, and the header last.
 * Failure: the unfinished file is removed; what stood under the name stays. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "engine/cold.h"
#include "engine/cold_file.h"
#include "engine/internal.h"
#include "engine/memory.h"

struct writer {
    const struct cold_source *source;
    const struct engine_hooks *hooks;
    struct cold_numbers numbers;
    struct section_writer sections;
    float *room; /* dim */
};

static enum err_code go_on(void *state, struct err *err)
{
    const struct writer *writer = state;

    if (hooks_go_on(writer->hooks))
        return ERR_OK;
    return err_set(err, ERR_DEAD, "stopped while it was written");
}

static enum err_code before_rename(void *state, struct err *err)
{
    return hooks_make_durable(((const struct writer *)state)->hooks, err);
}

/* Bytes of the rows, each padded by zeros to its stride. */
static void copy_vectors(const struct writer *writer, uint64_t at, size_t len, unsigned char *out)
{
    size_t bytes = writer->numbers.shape.options.dim * sizeof(float);
    size_t stride = vector_stride(writer->numbers.shape.options.dim);

    while (len > 0) {
        size_t skip = (size_t)(at % stride);
        size_t run = MIN_OF(stride - skip, len);
        size_t told = skip < bytes ? MIN_OF(run, bytes - skip) : 0;
        const float *row = ivf_row(writer->source->ivf, (uint32_t)(at / stride), writer->room);

        if (told > 0)
            memcpy(out, (const unsigned char *)row + skip, told);
        memset(out + told, 0, run - told);
        at += run;
        out += run;
        len -= run;
    }
}

static void copy_bytes(void *state, unsigned section, uint64_t at, size_t len, unsigned char *out)
{
    const struct writer *writer = state;
    const unsigned char *from;

    if (section == COLD_VECTORS) {
        copy_vectors(writer, at, len, out);
        return;
    }
    from = ivf_part_of(writer->source->ivf, (enum ivf_part)section);
    memcpy(out, from + at, len);
}

static enum err_code write_all(struct writer *writer, const char *path, struct err *err)
{
    enum err_code code = sections_write_open(&writer->sections, path, err);

    writer->room = memory_alloc(writer->numbers.shape.options.dim, sizeof(float));
    if (code == ERR_OK && writer->room == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory to write");
    for (unsigned i = 0; code == ERR_OK && i < COLD_SECTIONS; i++)
        code = sections_write(&writer->sections, i, err);
    if (code != ERR_OK)
        return code;
    cold_header_encode(&writer->numbers, &writer->sections.layout, writer->sections.chunk);
    return sections_publish(&writer->sections, err);
}

enum err_code cold_write(const char *path, const struct cold_source *source,
                         const struct engine_hooks *hooks, struct err *err)
{
    struct writer writer = {
        .source = source,
        .hooks = hooks,
        .numbers = {.shape = ivf_shape_of(source->ivf), .from = source->from, .to = source->to}};
    enum err_code code = ivf_check_shape(&writer.numbers.shape, err);

    assert(source->from < source->to && writer.numbers.shape.has_ordinals);
    if (code == ERR_OK)
        code = ivf_validate(source->ivf, err);
    if (code == ERR_OK) {
        writer.sections = (struct section_writer){.form = &cold_form,
                                                  .layout = cold_layout_of(&writer.numbers),
                                                  .copy = copy_bytes,
                                                  .go_on = go_on,
                                                  .before_rename = before_rename,
                                                  .state = &writer};
        code = write_all(&writer, path, err);
        sections_write_close(&writer.sections);
    }
    memory_free(writer.room);
    return code == ERR_OK ? code : err_wrap(err, "cold part %.100s", file_name_of(path));
}
