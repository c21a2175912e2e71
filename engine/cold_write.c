/* Writing a cold part: see cold.h.  The arrays of the index go out as they are, the vectors are
 * asked for row by row, a megabyte at a time; then the checksums, and the header last.
 * Failure: the unfinished file is removed; what stood under the name stays. */
#include <assert.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/cold.h"
#include "engine/cold_file.h"
#include "engine/internal.h"
#include "engine/memory.h"
#include "engine/new_file.h"

struct writer {
    const struct cold_source *source;
    const struct engine_hooks *hooks;
    struct cold_numbers numbers;
    struct cold_layout layout;
    struct new_file file;
    unsigned char *chunk; /* SEGMENT_CHUNK_BYTES */
    float *room;          /* dim */
    uint32_t *checks;
};

static enum err_code go_on(const struct writer *writer, struct err *err)
{
    if (hooks_go_on(writer->hooks))
        return ERR_OK;
    return err_set(err, ERR_DEAD, "stopped while it was written");
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

static void copy_bytes(const struct writer *writer, unsigned section, uint64_t at, size_t len)
{
    const unsigned char *from = section == COLD_CHECKS
                                    ? (const void *)writer->checks
                                    : ivf_part_of(writer->source->ivf, (enum ivf_part)section);

    memcpy(writer->chunk, from + at, len);
}

static enum err_code write_section(struct writer *writer, unsigned section, struct err *err)
{
    struct segment_place *place = &writer->layout.places[section];
    uint32_t *checks = writer->checks + place->first_block;
    size_t len;

    for (uint64_t at = 0; at < place->length; at += len) {
        enum err_code code = go_on(writer, err);

        if (code != ERR_OK)
            return code;
        len = (size_t)MIN_OF(place->length - at, (uint64_t)SEGMENT_CHUNK_BYTES);
        if (section == COLD_VECTORS)
            copy_vectors(writer, at, len, writer->chunk);
        else
            copy_bytes(writer, section, at, len);
        for (size_t i = 0; i < len && section != COLD_CHECKS; i += SEGMENT_BLOCK_BYTES)
            checks[(at + i) / SEGMENT_BLOCK_BYTES] =
                hash_crc32c(0, writer->chunk + i, MIN_OF(len - i, SEGMENT_BLOCK_BYTES));
        code = new_file_write(&writer->file, writer->chunk, len, place->offset + at, err);
        if (code != ERR_OK)
            return err_wrap(err, "section %s", cold_section_name(section));
    }
    if (section == COLD_CHECKS)
        place->checksum = hash_crc32c(0, writer->checks, place->length);
    else
        place->checksum =
            hash_crc32c(0, checks, segment_block_count(place->length) * sizeof(*checks));
    return ERR_OK;
}

static enum err_code publish(struct writer *writer, struct err *err)
{
    enum err_code code = go_on(writer, err);

    if (code == ERR_OK) {
        cold_header_encode(&writer->numbers, &writer->layout, writer->chunk);
        code = new_file_write(&writer->file, writer->chunk, SEGMENT_HEADER_BYTES, 0, err);
    }
    if (code == ERR_OK)
        code = new_file_sync(&writer->file, err);
    if (code == ERR_OK)
        code = hooks_make_durable(writer->hooks, err);
    return code == ERR_OK ? new_file_rename(&writer->file, err) : code;
}

static enum err_code write_all(struct writer *writer, const char *path, struct err *err)
{
    enum err_code code = new_file_open(&writer->file, path, writer->layout.bytes, err);

    writer->chunk = memory_alloc(1, SEGMENT_CHUNK_BYTES);
    writer->room = memory_alloc(writer->numbers.shape.options.dim, sizeof(float));
    writer->checks = memory_alloc(writer->layout.blocks, sizeof(*writer->checks));
    if (code == ERR_OK && (writer->chunk == NULL || writer->room == NULL || writer->checks == NULL))
        code = err_set(err, ERR_NO_MEMORY, "no memory to write");
    for (unsigned i = 0; code == ERR_OK && i < COLD_SECTIONS; i++)
        code = write_section(writer, i, err);
    return code == ERR_OK ? publish(writer, err) : code;
}

enum err_code cold_write(const char *path, const struct cold_source *source,
                         const struct engine_hooks *hooks, struct err *err)
{
    struct writer writer = {
        .source = source,
        .hooks = hooks,
        .numbers = {.shape = ivf_shape_of(source->ivf), .from = source->from, .to = source->to},
        .file = {.dir_fd = -1, .fd = -1}};
    enum err_code code = ivf_check_shape(&writer.numbers.shape, err);

    assert(source->from < source->to && writer.numbers.shape.has_ordinals);
    if (code == ERR_OK)
        code = ivf_validate(source->ivf, err);
    if (code == ERR_OK) {
        writer.layout = cold_layout_of(&writer.numbers);
        code = write_all(&writer, path, err);
    }
    new_file_close(&writer.file);
    memory_free(writer.chunk);
    memory_free(writer.room);
    memory_free(writer.checks);
    return code == ERR_OK ? code : err_wrap(err, "cold part %.100s", segment_file_name(path));
}
