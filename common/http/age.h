/* Ages in replies: seconds since a moment.  They go on counting while the reply is put together,
 * and are written once more as the last thing before it is sent. */
#ifndef VICINAL_HTTP_AGE_H
#define VICINAL_HTTP_AGE_H

#include "common/base/json_writer.h"
#include "common/http/route.h"

#define AGE_CHARS   10
#define AGE_UNKNOWN INT64_MIN

/* One age in a body; the request's arena holds it. */
struct reply_age {
    struct reply_age *next;
    size_t at;        /* where its AGE_CHARS characters begin in the body */
    int64_t since_ns; /* boot time; AGE_UNKNOWN: 1e9 seconds are told */
};

/* The age of what was so at since_ns, as a JSON number of always AGE_CHARS characters, cut after
 * the last; no NUL. A moment to come has the age 0. */
void age_write(char out[AGE_CHARS], int64_t since_ns, uint64_t now_ns);

/* Put an age as the next value.  w writes into the reply's body, or what it writes is moved there
 * whole: ages_move then. */
void age_put(struct request *req, struct json_writer *w, int64_t since_ns);

/* The ages that were put after `last` (the reply's ages at that time) begin so much further on. */
void ages_move(struct reply *reply, const struct reply_age *last, size_t by);

/* Write all of them anew into a body, which may be a copy of the reply's. */
void ages_refresh(const struct reply *reply, uint64_t now_ns, uint8_t *body);

#endif
