/* One search, from its body to its answer: what the files of the search path share.
 *
 *   search_request.c  the body, decoded and checked
 *   search.c          vector, cache, shards, merging; single and batch
 *   cached.c          what the cache may answer
 *   search_reply.c    the answer, written */
#ifndef VICINAL_ROUTER_SEARCH_H
#define VICINAL_ROUTER_SEARCH_H

#include "services/router/router.h"

enum query_kind { QUERY_NONE, QUERY_VECTOR, QUERY_EMBED, QUERY_ID };

struct mmr_options {
    bool wanted;
    double lambda;    /* 1 = relevance, 0 = diversity */
    uint64_t fetch_k; /* 0: the default */
};

struct search_request {
    enum query_kind kind;
    const float *vector;    /* dim floats; for QUERY_VECTOR from the start, else once resolved */
    uint32_t dim;           /* of the collection */
    struct json_text embed; /* of QUERY_EMBED */
    struct wire_id id;      /* of QUERY_ID */
    uint64_t top_k, offset;
    struct filter_text filter;
    uint32_t include;
    bool has_threshold;
    double threshold;
    struct mmr_options mmr;
    bool exact;
    uint64_t ef;   /* 0: default */
    double recall; /* of the nearest, that is wanted; 0: as ef says */
    bool explain;
    struct consistency consistency;
};

/* Decode a search of a collection with this dimension.  Everything points into the body or the
 * reader's arena; search_request_free, on failure too.  Errors, with pointers: ERR_INVALID_JSON,
 * ERR_INVALID_ARGUMENT, ERR_UNKNOWN_FIELD, ERR_NOT_SUPPORTED, ERR_INVALID_FILTER,
 * ERR_DIMENSION_MISMATCH, ERR_NO_MEMORY. */
MUST_CHECK enum err_code search_request_decode(struct search_request *out,
                                               struct json_reader *reader, uint32_t dimension);
void search_request_free(struct search_request *request);

/* How many candidates each shard is asked for. */
uint32_t search_request_fetch(const struct search_request *request);

/* --- cache -------------------------------------------------------------------------------------
 */

enum cache_outcome { CACHE_BYPASS, CACHE_MISS, CACHE_HIT };

/* What the cache may say now, of one collection: the map and what the replicas reported. */
struct cached_now {
    uint32_t region;     /* 0: not enough was heard, the cache is not used */
    uint32_t partitions; /* of the deployment */
    uint64_t map_version;
    struct cluster_known known[PARTITIONS_MAX];
};
void cached_look(struct cached_now *now, struct cluster *cluster,
                 const struct collection *collection);

/* The rule: may an entry that was computed at `computed` answer a read with these demands?  Then
 * *staleness_ns is the answer's, and seen (zeroed; the caller frees it) its token. */
bool cached_serves(const struct cached_now *now, const struct token *computed,
                   const struct consistency *consistency, uint64_t *staleness_ns,
                   struct token *seen);

struct hash128 cached_key(const struct cached_now *now, const struct collection *collection,
                          const struct search_request *request);

/* An answer out of the cache. */
struct cached_answer {
    struct buffer entry; /* owned */
    const uint8_t *matches;
    size_t matches_len;
    uint64_t staleness_ns;
    struct token seen; /* owned */
};
bool cached_get(struct cache *cache, struct hash128 key, const struct cached_now *now,
                const struct consistency *consistency, struct cached_answer *out);
void cached_answer_free(struct cached_answer *answer);

/* Keep the encoded matches of an answer that is whole and not stale. */
void cached_put(struct cache *cache, struct hash128 key, const struct token *seen,
                const void *matches, size_t matches_len);

/* --- the answer --------------------------------------------------------------------------------
 */

struct search_times {
    uint64_t began_ns, resolved_ns, asked_ns, merged_ns; /* boot times; 0: not reached */
};

/* One search under way. */
struct search {
    struct request *req;
    struct arena *arena; /* of this search; the request's own, but for items of a batch */
    struct collection collection;
    struct search_request request;
    struct search_times times;
    uint64_t deadline_ns;
    enum cache_outcome cache;
    struct cluster_answer answer;
    struct cached_answer cached;
    struct read_info read;
    int64_t id_known_ns; /* of the record that gave the vector, see cluster_answer */
    bool id_stale;
    uint64_t map_version;
    struct wire_row *rows; /* merged, in the arena */
    size_t row_count;
};

/* The array of matches; and the whole answer around it. */
void search_write_matches(const struct search *search, struct buffer *out);
void search_write_answer(const struct search *search, const void *matches, size_t matches_len,
                         struct buffer *out);

#endif
