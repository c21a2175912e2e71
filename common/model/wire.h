/* What router and ingest ask of a shard, and what it answers: the compact binary form
 * (application/x-vicinal).  openapi/shard.yaml documents the JSON twin of searches.
 *
 * Every question begins with the same head: which collection, which partitions, what the reader
 * must see, how long it may take.  Every answer begins with what was served and how fresh it is.
 * Texts and metadata travel as encoded JSON bytes that the router splices into its reply. */
#ifndef VICINAL_MODEL_WIRE_H
#define VICINAL_MODEL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/arena.h"
#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/model/position.h"
#include "common/model/record.h"
#include "common/model/stamp.h"

#define WIRE_VERSION  2
#define WIRE_ROWS_MAX 10000 /* of one answer */

enum wire_op {
    WIRE_SEARCH = 1,
    WIRE_GET = 2,    /* by ids; missing ones are left out */
    WIRE_SCROLL = 3, /* in id order (bytes) */
    WIRE_COUNT = 4,
    WIRE_WAIT = 5, /* nothing but the head: answer when the demands are met */
};

enum wire_include {
    INCLUDE_TEXT = 1,
    INCLUDE_METADATA = 2,
    INCLUDE_VECTOR = 4,
    INCLUDE_DELETED = 8, /* gets: an id that was deleted has a row too, with the stamp of that */
};

struct wire_id {
    const char *data;
    size_t len;
};

struct wire_question {
    enum wire_op op;
    /* the head */
    uint8_t incarnation[INCARNATION_BYTES];
    struct partition_set partitions; /* those asked */
    struct token demands;            /* decode: entries live in the arena, do not free */
    bool fresh;                      /* ask the log's end first */
    bool serve_stale;                /* demands of staleness unmet: answer with stale = true */
    uint64_t max_staleness_ns;       /* NEVER_NS: no demand */
    uint32_t wait_ms;                /* how long the shard may take, waiting included */
    bool explain;
    /* searches */
    const float *vector; /* dim floats */
    uint32_t dim;
    uint32_t k;
    uint32_t ef;  /* 0: default */
    float recall; /* 0.5..1, that is wanted; 0: as ef says */
    bool exact;
    float bound; /* distance beyond which hits are not wanted; INFINITY */
    /* searches, scrolls, counts; NULL: none */
    const char *filter; /* JSON */
    size_t filter_len;
    /* all that return rows */
    uint32_t include; /* enum wire_include */
    /* gets */
    const struct wire_id *ids;
    size_t id_count;
    /* scrolls */
    struct wire_id after; /* rows with ids above; len 0: from the start */
    uint32_t limit;
};

/* May a question ask for this recall?  0: it does not. */
static inline bool wire_recall_is_valid(float recall)
{
    return recall == 0 || (recall >= 0.5f && recall <= 1);
}

struct wire_row {
    const char *id;
    size_t id_len;
    struct stamp stamp;
    uint32_t partition;
    float distance;   /* of searches: the engine's, smaller is nearer */
    const char *text; /* an encoded JSON string, quotes included; NULL: none or not asked */
    size_t text_len;
    const char *metadata; /* an encoded JSON object; NULL likewise */
    size_t metadata_len;
    const float *vector; /* NULL likewise; as the client gave it; may be unaligned */
    uint32_t dim;
};

struct wire_served {
    uint32_t partition;
    uint64_t position; /* behind the newest data record seen: epochs and version vectors behind it
                        * never come into another region's log, where a token may be shown */
};

struct wire_answer {
    uint32_t region; /* whose log the positions are of */
    const struct wire_served *served;
    size_t served_count;
    uint64_t staleness_ns; /* the highest over the partitions served, when this was written */
    uint64_t took_ns;      /* from the question's arrival until then */
    bool stale;            /* a demand was not met and serve_stale was set */
    struct token seen;     /* other regions' positions; entries in the arena */
    uint64_t map_version;
    struct wire_row *rows;
    size_t row_count;
    bool more;           /* scrolls: there are rows behind the last one */
    uint64_t count;      /* counts; gets and searches: row_count */
    const char *explain; /* a JSON object; NULL: none */
    size_t explain_len;
};

void wire_question_encode(const struct wire_question *question, struct buffer *out);

/* Everything is checked (counts, lengths, finite floats, partitions < PARTITIONS_MAX, k and limit
 * within their limits, wait_ms <= DEADLINE_MS_MAX; a search has a vector and k >= 1, a scroll a
 * limit >= 1); the filter is not parsed.  Pointers lead into data or the arena.  vector is aligned.
 * Errors: ERR_INVALID_ARGUMENT, ERR_NO_MEMORY. */
MUST_CHECK enum err_code wire_question_decode(struct wire_question *out, const void *data,
                                              size_t len, struct arena *arena, struct err *err);

/* The members text, metadata and vector of a row, those present, into an open JSON object. */
struct json_writer;
void wire_row_write(const struct wire_row *row, struct json_writer *w);

void wire_answer_encode(const struct wire_answer *answer, struct buffer *out);

/* As for questions.  text, metadata and explain are checked to begin and end as such a value does,
 * not parsed: they come from our own shards. */
MUST_CHECK enum err_code wire_answer_decode(struct wire_answer *out, const void *data, size_t len,
                                            struct arena *arena, struct err *err);

#endif
