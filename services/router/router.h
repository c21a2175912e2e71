/* The public door: decodes requests, asks the shards, merges, answers; forwards writes to ingest.
 *
 * Holds no state that it could not rebuild: the view of the cluster (cluster/), a result cache, and
 * opened embedders.  The handlers run on the server's threads; the only threads besides are those
 * of cluster/. */
#ifndef VICINAL_ROUTER_ROUTER_H
#define VICINAL_ROUTER_ROUTER_H

#include <stdbool.h>
#include <stdint.h>

#include "backends/cache/cache.h"
#include "backends/embedder/embedders.h"
#include "backends/meta/meta.h"
#include "cluster/cluster.h"
#include "common/base/env.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/http/client.h"
#include "common/http/route.h"
#include "common/model/hits.h"
#include "common/observe/metrics.h"

/* All borrowed until router_close. */
struct router_setup {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct cache *cache;
    struct metrics *metrics;                 /* may be NULL */
    const char *embedders, *embedders_cache; /* as in embedders_setup */
};

struct router_metrics {
    struct metric *search_latency, *searches, *hits, *misses, *bypasses, *forwarded;
};

struct router {
    struct env *env;
    struct meta *meta;
    struct http_client *client;
    struct cache *cache;
    struct cluster *cluster;
    struct embedders *embedders;
    struct router_metrics metrics;
};

extern const struct route router_routes[];

/* Errors: ERR_UNAVAILABLE, ERR_IO (the metadata store cannot be read), ERR_NO_MEMORY. */
MUST_CHECK enum err_code router_open(struct router *router, const struct router_setup *setup,
                                     struct err *err);
void router_stop(struct router *router);  /* ends the threads */
void router_close(struct router *router); /* after stop and the last request; zeroed is fine */

/* The collection named by the request's first parameter.  again: past the view.
 * Errors: ERR_COLLECTION_NOT_FOUND, ERR_INVALID_ARGUMENT (no name at all). */
MUST_CHECK enum err_code router_collection(struct request *req, bool again, struct collection *out);

/* --- consistency.c: what a read must see, and what it saw ------------------------------------- */

struct consistency {
    bool fresh;
    bool global; /* fresh too: over all regions */
    bool serve_stale;
    bool allow_partial;
    uint64_t max_staleness_ns; /* NEVER_NS: no demand */
    struct token demands;      /* owned: consistency_free */
    uint64_t timeout_ms;
    uint64_t began_ns; /* boot time from which timeout_ms counts; 0: the request's arrival */
    /* of a global one, after router_reach: */
    struct cluster_reached reached;
    uint64_t reach_ns; /* how long it took */
};

void consistency_init(struct consistency *consistency);
void consistency_free(struct consistency *consistency);

/* Read the value of `key` if it is one of the fields fresh, max_staleness_seconds, on_stale,
 * read_token, timeout_ms, allow_partial.  *known false: it is not, and nothing was read.
 * Errors, with pointer: ERR_INVALID_ARGUMENT, ERR_INVALID_JSON, ERR_NOT_SUPPORTED. */
MUST_CHECK enum err_code consistency_read(struct consistency *consistency,
                                          struct json_reader *reader, struct json_text key,
                                          bool *known);

/* From a body that cannot be decoded yet: what stands there of these fields, as far as it is right;
 * the rest is not looked at. */
void consistency_from_body(struct consistency *consistency, struct request *req);

/* The same from the query of a GET.  Errors: ERR_INVALID_ARGUMENT, ERR_NOT_SUPPORTED. */
MUST_CHECK enum err_code consistency_from_query(struct consistency *consistency,
                                                struct request *req);

/* Put the demands into a question (borrowed) and the rest into an ask. */
void consistency_apply(const struct consistency *consistency, const struct request *req,
                       struct wire_question *question, struct cluster_ask *ask);

/* What an answer's "read" says. */
struct read_info {
    const struct token *seen;
    int64_t known_ns; /* as cluster_answer has it */
    bool stale;
    bool partial;
    double coverage;
};
void read_info_from(struct read_info *info, const struct consistency *consistency,
                    const struct cluster_answer *answer);
void read_info_write(const struct read_info *info, struct request *req, struct json_writer *w);

/* --- reading bodies --------------------------------------------------------------------------- */

/* include: an array of "metadata", "text", "vector" into enum wire_include bits. */
MUST_CHECK enum err_code include_read(struct json_reader *reader, uint32_t *include);

/* "filter": kept as raw JSON in the body after it has been parsed once to check it. */
struct filter_text {
    const char *data; /* NULL: none */
    size_t len;
};
MUST_CHECK enum err_code filter_read(struct json_reader *reader, struct filter_text *out);

/* An id: 1..ID_BYTES_MAX bytes without NUL.  Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code id_read(struct json_reader *reader, struct wire_id *out);

/* Read a whole body that is one object: `read` gets each member, reads its value, or says that it
 * is not known.  The reader is initialised by the caller. Errors: those of read, ERR_INVALID_JSON,
 * ERR_UNKNOWN_FIELD, ERR_NOT_SUPPORTED, ERR_INVALID_ARGUMENT (no object, or a member stands twice).
 */
typedef enum err_code member_fn(void *context, struct json_reader *reader, struct json_text key,
                                bool *known);
MUST_CHECK enum err_code body_decode(struct json_reader *reader, member_fn *read, void *context);

/* As body_decode, for an object inside of the body: nothing is said of what stands behind it. */
MUST_CHECK enum err_code object_read(struct json_reader *reader, member_fn *read, void *context);

/* A value is wrong in itself: the error gets the member's pointer. */
enum err_code member_wrong(struct json_reader *reader, const char *name, const char *detail);

/* The error of reading a member's value, with its name put before the pointer. */
enum err_code member_failed(struct err *err, enum err_code rc, const char *name);

/* A field nobody knows, or one that is known and not built yet. */
enum err_code member_unknown(struct err *err, struct json_text key);

/* --- rows in answers (rows.c) ------------------------------------------------------------------
 */

/* id, version and the fields of a row, into an open object. */
void row_write(const struct wire_row *row, struct json_writer *w);

/* The rows of an answer's parts as lists for merging, in req's arena.
 * Errors: ERR_NO_MEMORY, ERR_SHARDS_UNAVAILABLE (more parts than can be merged). */
MUST_CHECK enum err_code rows_lists(const struct cluster_answer *answer, struct arena *arena,
                                    struct hit_list **lists, size_t *rows, struct err *err);

/* A stamp as ETag, quotes included; and whether an If-None-Match header names it. */
#define ETAG_BYTES (STAMP_TEXT_BYTES + 2)
void etag_of(char out[ETAG_BYTES], struct stamp stamp);
bool etag_listed(const char *header, const char *etag);

/* --- page tokens (page_token.c) -----------------------------------------------------------------
 */

struct page_token {
    uint8_t incarnation[INCARNATION_BYTES]; /* of the collection; zeros for lists of collections */
    uint64_t filter_hash;                   /* of the filter's text; 0: none */
    const char *last;                       /* the last id or name of the page before */
    size_t last_len;
};

uint64_t page_filter_hash(struct filter_text filter);
void page_token_encode(const struct page_token *token, struct buffer *out);

/* *out points into the arena.  Errors: ERR_INVALID_ARGUMENT at /page_token, ERR_NO_MEMORY. */
MUST_CHECK enum err_code page_token_decode(struct page_token *out, struct json_text text,
                                           struct arena *arena, struct err *err);

/* A token that was read belongs to this collection and this filter.
 * Errors: ERR_INVALID_ARGUMENT (other filter), ERR_PAGE_TOKEN_EXPIRED (other incarnation). */
MUST_CHECK enum err_code page_token_check(const struct page_token *token,
                                          const struct page_token *now, struct err *err);

/* --- asking again -------------------------------------------------------------------------------
 */

/* cluster_ask about *collection; when the shards say that it is gone, look it up past the view and
 * ask once more.  question's incarnation is set here.  Errors: those of cluster_ask and of
 * router_collection; ERR_DIMENSION_MISMATCH (made anew with another dimension, asked by vector). */
MUST_CHECK enum err_code router_ask(struct request *req, struct collection *collection,
                                    struct cluster_ask *ask, struct cluster_answer *out);

/* A collection to be read with these demands: global ones wait for the other regions; fresh ones
 * look past the view; one that is not known yet may be in what a token names, which is waited for.
 * Errors: those of router_collection and, with a token, of cluster_ask; ERR_STALENESS_UNMET. */
MUST_CHECK enum err_code router_read_collection(struct request *req,
                                                struct consistency *consistency,
                                                struct collection *out);

/* The embedder of a collection.  Errors: ERR_INVALID_ARGUMENT at /embed (it has none),
 * ERR_EMBEDDING_FAILED (none of that name is configured here). */
MUST_CHECK enum err_code router_embedder(struct router *router, const struct collection *collection,
                                         struct embedder **out, struct err *err);

static inline void router_count_one(struct metric *metric)
{
    if (metric != NULL)
        metric_add(metric, 1);
}

/* --- handlers --------------------------------------------------------------------------------- */

enum err_code router_root(struct request *req);
enum err_code router_openapi(struct request *req);
enum err_code router_status(struct request *req);
enum err_code router_list_collections(struct request *req);
enum err_code router_get_collection(struct request *req);
enum err_code router_change_collection(struct request *req);
enum err_code router_forward(struct request *req);
enum err_code router_get_record(struct request *req);
enum err_code router_get_records(struct request *req);
enum err_code router_scroll(struct request *req);
enum err_code router_count(struct request *req);
enum err_code router_search(struct request *req);
enum err_code router_search_batch(struct request *req);
enum err_code router_get_regions(struct request *req);
enum err_code router_set_role(struct request *req);

#endif
