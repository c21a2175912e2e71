/* Layout and header of a file of sections: see sections.h.  Failure: a header that is damaged, or
 * newer than this program. */
#include "engine/sections.h"

#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "engine/memory.h"

#define ENDIAN_TAG UINT32_C(0x01020304)

enum { MAGIC_BYTES = 8, TAG_AT = 12 };

static_assert(SECTIONS_TABLE_AT + SECTIONS_MAX * SECTIONS_TABLE_ROW <= SECTIONS_CHECKSUM_AT,
              "the table fits");
static_assert(SECTIONS_CHECKSUM_AT + sizeof(uint32_t) == SECTIONS_HEADER_BYTES,
              "the checksum is last");
static_assert(SECTIONS_CHUNK_BYTES % SECTIONS_BLOCK_BYTES == 0, "a chunk is whole blocks");

struct section_layout sections_place(const struct section_form *form, const uint64_t *lengths)
{
    struct section_layout layout = {.bytes = SECTIONS_HEADER_BYTES};

    assert(form->count > 0 && form->count <= SECTIONS_MAX);
    for (uint32_t i = 0; i < form->count; i++) {
        struct section_place *place = &layout.places[i];
        bool is_spacious = (form->spacious >> i & 1) != 0;

        place->first_block = layout.blocks;
        if (i == form->count - 1) {
            place->length = layout.blocks * sizeof(uint32_t);
        } else {
            place->length = lengths[i];
            layout.blocks += section_block_count(place->length);
        }
        place->alignment = is_spacious && place->length >= MEMORY_HUGE_BYTES
                               ? (uint32_t)MEMORY_HUGE_BYTES
                               : (uint32_t)MEMORY_PAGE_BYTES;
        place->offset = (layout.bytes + place->alignment - 1) / place->alignment * place->alignment;
        layout.bytes = place->offset + place->length;
    }
    return layout;
}

void sections_header_begin(const struct section_form *form, const struct section_layout *layout,
                           uint8_t out[SECTIONS_HEADER_BYTES])
{
    memset(out, 0, SECTIONS_HEADER_BYTES);
    memcpy(out, form->magic, MAGIC_BYTES);
    store_u32(out + SECTIONS_VERSION_AT, form->version);
    store_u32(out + TAG_AT, ENDIAN_TAG);
    store_u32(out + TAG_AT + 4, (uint32_t)SECTIONS_HEADER_BYTES);
    store_u32(out + TAG_AT + 8, form->count);
    store_u64(out + TAG_AT + 12, layout->bytes);
    for (uint32_t i = 0; i < form->count; i++) {
        const struct section_place *place = &layout->places[i];
        uint8_t *row = out + SECTIONS_TABLE_AT + i * SECTIONS_TABLE_ROW;

        store_u32(row, i + 1);
        store_u32(row + 4, place->alignment);
        store_u64(row + 8, place->offset);
        store_u64(row + 16, place->length);
        store_u32(row + 24, place->checksum);
    }
}

void sections_header_end(uint8_t out[SECTIONS_HEADER_BYTES])
{
    store_u32(out + SECTIONS_CHECKSUM_AT, hash_crc32c(0, out, SECTIONS_CHECKSUM_AT));
}

enum err_code sections_header_check(const struct section_form *form,
                                    const uint8_t bytes[SECTIONS_HEADER_BYTES], struct err *err)
{
    uint32_t version = load_u32(bytes + SECTIONS_VERSION_AT);

    if (memcmp(bytes, form->magic, MAGIC_BYTES) != 0)
        return err_set(err, ERR_CORRUPT, "header: this is no %s", form->kind);
    if (load_u32(bytes + SECTIONS_CHECKSUM_AT) != hash_crc32c(0, bytes, SECTIONS_CHECKSUM_AT))
        return err_set(err, ERR_CORRUPT, "header: the checksum is wrong");
    if (version > form->version)
        return err_set(err, ERR_CONFIG, "format version %u is newer than %u, which is known here",
                       version, form->version);
    if (version == 0)
        return err_set(err, ERR_CORRUPT, "header: there is no format version 0");
    if (load_u32(bytes + TAG_AT) != ENDIAN_TAG ||
        load_u32(bytes + TAG_AT + 4) != SECTIONS_HEADER_BYTES ||
        load_u32(bytes + TAG_AT + 8) != form->count)
        return err_set(err, ERR_CORRUPT, "header: another form than this version has");
    return ERR_OK;
}

enum err_code sections_table_take(const struct section_form *form, struct section_layout *layout,
                                  const uint8_t bytes[SECTIONS_HEADER_BYTES], struct err *err)
{
    for (uint32_t i = 0; i < form->count; i++) {
        struct section_place *place = &layout->places[i];
        const uint8_t *row = bytes + SECTIONS_TABLE_AT + i * SECTIONS_TABLE_ROW;

        if (load_u32(row) != i + 1 || load_u32(row + 4) != place->alignment ||
            load_u64(row + 8) != place->offset || load_u64(row + 16) != place->length)
            return err_set(err, ERR_CORRUPT, "header: section %s is not where it should be",
                           form->names[i]);
        place->checksum = load_u32(row + 24);
    }
    if (load_u64(bytes + TAG_AT + 12) != layout->bytes)
        return err_set(err, ERR_CORRUPT, "header: the wrong size of the file");
    return ERR_OK;
}
