/* Reading a segment file against its checksums, and the scrub.
 *
 * Everything is read with pread: a disk that cannot give a page back, or a file that has been cut,
 * is an error here, where a mapping would answer by a signal.
 * Failure: a block that differs is named; nothing is repaired here. */
#include <assert.h>
#include <errno.h>
#include <unistd.h>

#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/memory.h"
#include "engine/segment_file.h"

enum err_code segment_read_bytes(int fd, void *out, size_t len, uint64_t at, struct err *err)
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

enum err_code segment_read_checks(struct segment *segment, struct err *err)
{
    const struct segment_place *table = &segment->layout.places[SEGMENT_CHECKS];

    segment->checks = memory_alloc(segment->layout.blocks, sizeof(*segment->checks));
    if (segment->checks == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %llu checksums",
                       (unsigned long long)segment->layout.blocks);
    if (segment_read_bytes(segment->fd, segment->checks, table->length, table->offset, err) !=
        ERR_OK)
        return err_wrap(err, "section %s", segment_section_name(SEGMENT_CHECKS));
    if (hash_crc32c(0, segment->checks, table->length) != table->checksum)
        return err_set(err, ERR_CORRUPT, "section %s is damaged",
                       segment_section_name(SEGMENT_CHECKS));
    for (enum segment_section i = 0; i < SEGMENT_CHECKS; i++) {
        const struct segment_place *place = &segment->layout.places[i];
        size_t bytes = segment_block_count(place->length) * sizeof(*segment->checks);

        if (hash_crc32c(0, segment->checks + place->first_block, bytes) != place->checksum)
            return err_set(err, ERR_CORRUPT, "the checksums of section %s are not its own",
                           segment_section_name(i));
    }
    return ERR_OK;
}

/* bytes: those of the section from block `first` on, up to a chunk. */
static enum err_code check_blocks(const struct segment *segment, enum segment_section section,
                                  uint64_t first, const unsigned char *bytes, size_t len,
                                  struct err *err)
{
    const struct segment_place *place = &segment->layout.places[section];
    const uint32_t *checks = segment->checks + place->first_block + first;

    for (size_t at = 0, i = 0; at < len; at += SEGMENT_BLOCK_BYTES, i++)
        if (hash_crc32c(0, bytes + at, MIN_OF(len - at, SEGMENT_BLOCK_BYTES)) != checks[i])
            return err_set(err, ERR_CORRUPT, "section %s: block %llu (file byte %llu) is damaged",
                           segment_section_name(section), (unsigned long long)(first + i),
                           (unsigned long long)(place->offset + first * SEGMENT_BLOCK_BYTES + at));
    return ERR_OK;
}

enum err_code segment_read_blocks(const struct segment *segment, enum segment_section section,
                                  uint64_t first, uint64_t count, unsigned char *out,
                                  struct err *err)
{
    const struct segment_place *place = &segment->layout.places[section];
    uint64_t at = first * SEGMENT_BLOCK_BYTES;
    uint64_t end = MIN_OF(at + count * SEGMENT_BLOCK_BYTES, place->length);
    unsigned char *buffer = NULL;
    enum err_code code = ERR_OK;

    assert(first + count <= segment_block_count(place->length));
    if (count == 0)
        return ERR_OK;
    if (out == NULL) {
        buffer = memory_alloc(MIN_OF(end - at, SEGMENT_CHUNK_BYTES), 1);
        if (buffer == NULL)
            return err_set(err, ERR_NO_MEMORY, "no memory to read section %s",
                           segment_section_name(section));
    }
    while (code == ERR_OK && at < end) {
        size_t len = MIN_OF(end - at, SEGMENT_CHUNK_BYTES);
        unsigned char *to = out == NULL ? buffer : out + at;

        code = segment_read_bytes(segment->fd, to, len, place->offset + at, err);
        if (code != ERR_OK)
            code = err_wrap(err, "section %s", segment_section_name(section));
        else
            code = check_blocks(segment, section, at / SEGMENT_BLOCK_BYTES, to, len, err);
        at += len;
    }
    memory_free(buffer);
    return code;
}

uint64_t segment_blocks(const struct segment *segment)
{
    return segment->layout.blocks;
}

enum err_code segment_verify(const struct segment *segment, uint64_t first, uint64_t count,
                             struct err *err)
{
    uint64_t end = MIN_OF(segment->layout.blocks, first + MIN_OF(count, segment->layout.blocks));
    enum err_code code = ERR_OK;

    for (enum segment_section i = 0; code == ERR_OK && i < SEGMENT_CHECKS; i++) {
        const struct segment_place *place = &segment->layout.places[i];
        uint64_t blocks = segment_block_count(place->length);
        uint64_t from = MAX_OF(first, place->first_block);
        uint64_t to = MIN_OF(end, place->first_block + blocks);

        if (from < to)
            code = segment_read_blocks(segment, i, from - place->first_block, to - from, NULL, err);
    }
    return code;
}
