/* The part of the byte reader that is too long to be inline: see bytes.h. */
#include "common/base/bytes.h"

#define VARINT_BYTES_MAX 10

uint64_t read_varint(struct bytes_reader *r)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < VARINT_BYTES_MAX; i++) {
        uint8_t byte = read_u8(r);

        if (r->failed)
            return 0;
        /* The tenth byte holds the one bit that is left of 64. */
        if (i == VARINT_BYTES_MAX - 1 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if ((byte & 0x80) == 0)
            return value;
    }
    r->failed = true;
    return 0;
}
