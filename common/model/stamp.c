/* The text form of stamps: see stamp.h.  One stamp has one text: leading zeros, signs and blanks
 * are refused, so that equal texts and equal stamps are the same thing. */
#include "common/model/stamp.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "common/base/text.h"

void stamp_to_text(char out[STAMP_TEXT_BYTES], struct stamp stamp)
{
    int len = snprintf(out, STAMP_TEXT_BYTES, "%" PRIu64 "-%" PRIu32, stamp.clock, stamp.region);

    /* 20 digits, the dash, 10 digits and NUL: the room is exact. */
    assert(len > 0);
    assert(len < STAMP_TEXT_BYTES);
}

bool stamp_from_text(struct stamp *out, const char *text, size_t len)
{
    const char *dash = len == 0 ? NULL : memchr(text, '-', len);
    char again[STAMP_TEXT_BYTES];
    uint64_t clock, region;
    size_t head;

    if (dash == NULL)
        return false;
    head = (size_t)(dash - text);
    if (!text_to_u64(text, head, &clock) || !text_to_u64(dash + 1, len - head - 1, &region))
        return false;
    if (region > UINT32_MAX)
        return false;
    stamp_to_text(again, (struct stamp){.clock = clock, .region = (uint32_t)region});
    if (strlen(again) != len || memcmp(again, text, len) != 0)
        return false;
    *out = (struct stamp){.clock = clock, .region = (uint32_t)region};
    return true;
}
