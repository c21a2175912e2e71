/* Reading a file of sections against its checksums, and the scrub: see sections.h.
 *
 * Everything is read with pread: a disk that cannot give a page back, or a file that has been cut,
 * is an error here, where a mapping would answer by a signal.
 * Failure: a block that differs is named; nothing is repaired here. */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/memory.h"
#include "engine/sections.h"

enum err_code file_read_at(int fd, void *out, size_t len, uint64_t at, struct err *err)
{
    unsigned char *to = out;

    while (len > 0) {
        ssize_t got = pread(fd, to, len, (off_t)at);

        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return err_set_errno(err, errno, "read");
        if (got == 0)
            return err_set(err, ERR_CORRUPT, "the file ends at byte %llu", (unsigned long long)at);
        to += got;
        at += (uint64_t)got;
        len -= (size_t)got;
    }
    return ERR_OK;
}

enum err_code sections_open(struct section_file *file, const struct section_form *form,
                            const char *path, uint8_t header[SECTIONS_HEADER_BYTES],
                            struct err *err)
{
    struct stat about;

    *file = (struct section_file){.form = form};
    file->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (file->fd < 0 && errno == ENOENT)
        return err_set(err, ERR_NOT_FOUND, "there is no such file");
    if (file->fd < 0 || fstat(file->fd, &about) != 0)
        return err_set_errno(err, errno, "open");
    if (!S_ISREG(about.st_mode))
        return err_set(err, ERR_CORRUPT, "this is no regular file");
    file->bytes = (uint64_t)about.st_size;
    if (file->bytes < SECTIONS_HEADER_BYTES)
        return err_set(err, ERR_CORRUPT, "the file has %llu bytes, less than a header",
                       (unsigned long long)file->bytes);
    return file_read_at(file->fd, header, SECTIONS_HEADER_BYTES, 0, err);
}

void sections_close(struct section_file *file)
{
    memory_free(file->checks);
    file->checks = NULL;
    if (file->fd >= 0)
        (void)close(file->fd);
    file->fd = -1;
}

enum err_code sections_check_size(const struct section_file *file, struct err *err)
{
    if (file->bytes == file->layout.bytes)
        return ERR_OK;
    return err_set(err, ERR_CORRUPT, "the file has %llu bytes instead of %llu",
                   (unsigned long long)file->bytes, (unsigned long long)file->layout.bytes);
}

enum err_code sections_read_checks(struct section_file *file, struct err *err)
{
    const struct section_form *form = file->form;
    const struct section_place *table = &file->layout.places[form->count - 1];

    file->checks = memory_alloc(file->layout.blocks, sizeof(*file->checks));
    if (file->checks == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu checksums",
                       (unsigned long long)file->layout.blocks);
    if (file_read_at(file->fd, file->checks, table->length, table->offset, err) != ERR_OK)
        return err_wrap(err, "section %s", form->names[form->count - 1]);
    if (hash_crc32c(0, file->checks, table->length) != table->checksum)
        return err_set(err, ERR_CORRUPT, "section %s is damaged", form->names[form->count - 1]);
    for (uint32_t i = 0; i < form->count - 1; i++) {
        const struct section_place *place = &file->layout.places[i];
        size_t bytes = section_block_count(place->length) * sizeof(*file->checks);

        if (hash_crc32c(0, file->checks + place->first_block, bytes) != place->checksum)
            return err_set(err, ERR_CORRUPT, "the checksums of section %s are not its own",
                           form->names[i]);
    }
    return ERR_OK;
}

/* bytes: those of the section from block `first` on, up to a chunk. */
static enum err_code check_blocks(const struct section_file *file, unsigned section, uint64_t first,
                                  const unsigned char *bytes, size_t len, struct err *err)
{
    const struct section_place *place = &file->layout.places[section];
    const uint32_t *checks = file->checks + place->first_block + first;

    for (size_t at = 0, i = 0; at < len; at += SECTIONS_BLOCK_BYTES, i++)
        if (hash_crc32c(0, bytes + at, MIN_OF(len - at, SECTIONS_BLOCK_BYTES)) != checks[i])
            return err_set(err, ERR_CORRUPT, "section %s: block %llu (file byte %llu) is damaged",
                           file->form->names[section], (unsigned long long)(first + i),
                           (unsigned long long)(place->offset + first * SECTIONS_BLOCK_BYTES + at));
    return ERR_OK;
}

enum err_code sections_read_blocks(const struct section_file *file, unsigned section,
                                   uint64_t first, uint64_t count, unsigned char *out,
                                   struct err *err)
{
    const struct section_place *place = &file->layout.places[section];
    uint64_t at = first * SECTIONS_BLOCK_BYTES;
    uint64_t end = MIN_OF(at + count * SECTIONS_BLOCK_BYTES, place->length);
    unsigned char *buffer = NULL;
    enum err_code code = ERR_OK;

    assert(first + count <= section_block_count(place->length));
    if (count == 0)
        return ERR_OK;
    if (out == NULL) {
        buffer = memory_alloc(MIN_OF(end - at, SECTIONS_CHUNK_BYTES), 1);
        if (buffer == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to read section %s",
                           file->form->names[section]);
    }
    while (code == ERR_OK && at < end) {
        size_t len = MIN_OF(end - at, SECTIONS_CHUNK_BYTES);
        unsigned char *to = out == NULL ? buffer : out + at;

        code = file_read_at(file->fd, to, len, place->offset + at, err);
        if (code != ERR_OK)
            code = err_wrap(err, "section %s", file->form->names[section]);
        else
            code = check_blocks(file, section, at / SECTIONS_BLOCK_BYTES, to, len, err);
        at += len;
    }
    memory_free(buffer);
    return code;
}

enum err_code sections_scrub(const struct section_file *file, uint64_t first, uint64_t count,
                             struct err *err)
{
    uint64_t end = MIN_OF(file->layout.blocks, first + MIN_OF(count, file->layout.blocks));
    enum err_code code = ERR_OK;

    for (uint32_t i = 0; code == ERR_OK && i < file->form->count - 1; i++) {
        const struct section_place *place = &file->layout.places[i];
        uint64_t blocks = section_block_count(place->length);
        uint64_t from = MAX_OF(first, place->first_block);
        uint64_t to = MIN_OF(end, place->first_block + blocks);

        if (from < to)
            code = sections_read_blocks(file, i, from - place->first_block, to - from, NULL, err);
    }
    return code;
}
