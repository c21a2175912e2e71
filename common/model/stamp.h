/* The version of a record: a hybrid logical clock, then the region number.  Total order; decides
 * every conflict.  Final when written to a log. */
#ifndef VICINAL_MODEL_STAMP_H
#define VICINAL_MODEL_STAMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stamp {
    uint64_t clock;  /* microseconds since 1970 where the wall clock led, else the last one + 1 */
    uint32_t region; /* number of the region's log; 0: none */
};

/* < 0, 0, > 0: a is older than, equal to, newer than b. */
static inline int stamp_compare(struct stamp a, struct stamp b)
{
    if (a.clock != b.clock)
        return a.clock < b.clock ? -1 : 1;
    if (a.region != b.region)
        return a.region < b.region ? -1 : 1;
    return 0;
}

static inline bool stamp_is_none(struct stamp stamp)
{
    return stamp.clock == 0 && stamp.region == 0;
}

/* "clock-region", the version that clients see and send back in If-Match. */
#define STAMP_TEXT_BYTES 32
void stamp_to_text(char out[STAMP_TEXT_BYTES], struct stamp stamp);
bool stamp_from_text(struct stamp *out, const char *text, size_t len);

#endif
