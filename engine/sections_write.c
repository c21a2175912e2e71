/* Making a file of sections: see sections.h.
 *
 * Sections are copied out a megabyte at a time, so that what is summed up is what is written even
 * while somebody changes the source, and memory stays bounded.  The header comes last; then the
 * file gets its name (new_file.h).
 * Failure: the unfinished file is removed; what stood under the name stays. */
#include <string.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/memory.h"
#include "engine/sections.h"

enum err_code sections_write_open(struct section_writer *writer, const char *path, struct err *err)
{
    enum err_code code = new_file_open(&writer->file, path, writer->layout.bytes, err);

    writer->chunk = memory_alloc(1, SECTIONS_CHUNK_BYTES);
    writer->checks = memory_alloc(writer->layout.blocks, sizeof(*writer->checks));
    if (code == ERR_OK && (writer->chunk == NULL || writer->checks == NULL))
        code = err_set(err, ERR_NO_MEMORY, "no memory to write");
    return code;
}

void sections_write_close(struct section_writer *writer)
{
    new_file_close(&writer->file);
    memory_free(writer->chunk);
    memory_free(writer->checks);
}

/* A part of a section into the chunk, and the checksums of its blocks. */
static void take(struct section_writer *writer, unsigned section, uint64_t at, size_t len)
{
    uint32_t *checks = writer->checks + writer->layout.places[section].first_block;

    if (section == writer->form->count - 1) {
        memcpy(writer->chunk, (const unsigned char *)writer->checks + at, len);
        return;
    }
    writer->copy(writer->state, section, at, len, writer->chunk);
    for (size_t i = 0; i < len; i += SECTIONS_BLOCK_BYTES)
        checks[(at + i) / SECTIONS_BLOCK_BYTES] =
            hash_crc32c(0, writer->chunk + i, MIN_OF(len - i, SECTIONS_BLOCK_BYTES));
}

static uint32_t checksum_of(const struct section_writer *writer, unsigned section)
{
    const struct section_place *place = &writer->layout.places[section];

    if (section == writer->form->count - 1)
        return hash_crc32c(0, writer->checks, place->length);
    return hash_crc32c(0, writer->checks + place->first_block,
                       section_block_count(place->length) * sizeof(*writer->checks));
}

enum err_code sections_write(struct section_writer *writer, unsigned section, struct err *err)
{
    struct section_place *place = &writer->layout.places[section];
    size_t len;

    for (uint64_t at = 0; at < place->length; at += len) {
        enum err_code code = writer->go_on(writer->state, err);

        if (code != ERR_OK)
            return code;
        len = (size_t)MIN_OF(place->length - at, (uint64_t)SECTIONS_CHUNK_BYTES);
        take(writer, section, at, len);
        code = new_file_write(&writer->file, writer->chunk, len, place->offset + at, err);
        if (code != ERR_OK)
            return err_wrap(err, "section %s", writer->form->names[section]);
        writer->bytes_done += len;
    }
    place->checksum = checksum_of(writer, section);
    return ERR_OK;
}

enum err_code sections_publish(struct section_writer *writer, struct err *err)
{
    enum err_code code =
        new_file_write(&writer->file, writer->chunk, SECTIONS_HEADER_BYTES, 0, err);

    if (code == ERR_OK)
        code = writer->go_on(writer->state, err);
    if (code == ERR_OK)
        code = new_file_sync(&writer->file, err);
    if (code == ERR_OK)
        code = writer->before_rename(writer->state, err);
    return code == ERR_OK ? new_file_rename(&writer->file, err) : code;
}
