/* POST …/search and …/search/batch.
 *
 * Happy path: decode, make the query's vector, look into the result cache, ask every shard, merge,
 * write, keep the answer for others.  A vector is given, embedded from text, or taken from a stored
 * record.  A collection that the shards no longer know is looked up past the view once. */
#include "services/router/search.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "common/http/age.h"

#define BATCH_REPLY_MAX MIB(256) /* later items are refused once the reply is so long */

static void search_free(struct search *search)
{
    search_request_free(&search->request);
    cluster_answer_free(&search->answer);
    cached_answer_free(&search->cached);
}

/* --- the query's vector ------------------------------------------------------------------------
 */

static enum err_code embed_query(struct search *search)
{
    struct search_request *request = &search->request;
    struct router *router = search->req->state;
    struct err *err = &search->req->err;
    struct embedder_text text = {.data = request->embed.data, .len = request->embed.len};
    struct embedder *embedder;
    float *vector;
    enum err_code rc = router_embedder(router, &search->collection, &embedder, err);

    if (rc != ERR_OK)
        return rc;
    if (embedder_dimension(embedder) != request->dim)
        return err_set_at(err, ERR_DIMENSION_MISMATCH, "/embed",
                          "the collection's embedder has dimension %u, the collection %u",
                          embedder_dimension(embedder), request->dim);
    vector = arena_alloc(search->arena, request->dim, sizeof(*vector));
    if (vector == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a vector");
    request->vector = vector;
    return embedder_embed(embedder, &text, 1, search->deadline_ns, vector, err);
}

/* The vector of the row that a get brought, copied out of the answer. */
static enum err_code vector_of_answer(struct search *search, const struct cluster_answer *answer)
{
    struct search_request *request = &search->request;
    struct err *err = &search->req->err;
    const struct wire_row *row = NULL;
    float *vector;

    for (size_t i = 0; i < answer->count; i++)
        if (answer->parts[i].answer.row_count > 0)
            row = &answer->parts[i].answer.rows[0];
    if (row == NULL)
        return err_set_at(err, ERR_RECORD_NOT_FOUND, "/id", "there is no record of this id");
    if (row->vector == NULL)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/id", "the record has no vector");
    if (row->dim != request->dim)
        return err_set_at(err, ERR_DIMENSION_MISMATCH, "/id", "length %u, expected %u", row->dim,
                          request->dim);
    vector = arena_alloc(search->arena, row->dim, sizeof(*vector));
    if (vector == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for a vector");
    memcpy(vector, row->vector, row->dim * sizeof(*vector));
    request->vector = vector;
    return ERR_OK;
}

static enum err_code fetch_query(struct search *search)
{
    struct search_request *request = &search->request;
    struct wire_question question = {
        .op = WIRE_GET, .ids = &request->id, .id_count = 1, .include = INCLUDE_VECTOR};
    struct cluster_answer answer = {0};
    struct cluster_ask ask;
    enum err_code rc;

    consistency_apply(&request->consistency, search->req, &question, &ask);
    ask.deadline_ns = search->deadline_ns;
    ask.allow_partial = false;
    if ((rc = router_ask(search->req, &search->collection, &ask, &answer)) != ERR_OK)
        return rc;
    search->id_known_ns = answer.known_ns;
    search->id_stale = answer.stale;
    rc = vector_of_answer(search, &answer);
    cluster_answer_free(&answer);
    return rc;
}

static enum err_code make_vector(struct search *search)
{
    switch (search->request.kind) {
    case QUERY_EMBED:
        return embed_query(search);
    case QUERY_ID:
        return fetch_query(search);
    case QUERY_VECTOR:
    case QUERY_NONE:
        break;
    }
    assert(search->request.vector != NULL);
    return ERR_OK;
}

/* --- asking and merging ------------------------------------------------------------------------
 */

static enum err_code ask_shards(struct search *search)
{
    const struct search_request *request = &search->request;
    struct wire_question question = {
        .op = WIRE_SEARCH,
        .explain = request->explain,
        .vector = request->vector,
        .dim = request->dim,
        .k = search_request_fetch(request),
        .ef = (uint32_t)request->ef,
        .recall = (float)request->recall,
        .exact = request->exact,
        .bound = INFINITY,
        .filter = request->filter.data,
        .filter_len = request->filter.len,
        .include = request->include | (request->mmr.wanted ? INCLUDE_VECTOR : 0),
    };
    struct cluster_ask ask;
    enum distance_metric metric;
    enum err_code rc;

    consistency_apply(&request->consistency, search->req, &question, &ask);
    ask.deadline_ns = search->deadline_ns;
    do {
        metric = search->collection.metric;
        if (request->has_threshold)
            question.bound = hits_bound(metric, request->threshold);
        cluster_answer_free(&search->answer);
        rc = router_ask(search->req, &search->collection, &ask, &search->answer);
        /* Made anew with another metric meanwhile: the bound was the wrong one. */
    } while (rc == ERR_OK && request->has_threshold && metric != search->collection.metric);
    return rc;
}

/* Reorder the merged rows by marginal relevance, in place. */
static enum err_code diversify(struct search *search, struct wire_row *rows, size_t *count)
{
    const struct search_request *request = &search->request;
    size_t wanted = (size_t)(request->top_k + request->offset), picked = 0;
    size_t *picks = arena_alloc(search->arena, wanted, sizeof(*picks));
    struct wire_row *out = arena_alloc(search->arena, wanted, sizeof(*out));
    enum err_code rc;

    if (picks == NULL || out == NULL)
        return err_set(&search->req->err, ERR_NO_MEMORY, "no memory for the matches");
    rc = hits_mmr(request->vector, rows, *count, wanted, request->mmr.lambda, picks, &picked,
                  &search->req->err);
    if (rc != ERR_OK)
        return err_set(&search->req->err, ERR_INTERNAL, "shards answered rows without vectors");
    for (size_t i = 0; i < picked; i++) {
        out[i] = rows[picks[i]];
        if ((request->include & INCLUDE_VECTOR) == 0)
            out[i].vector = NULL;
    }
    search->rows = out;
    *count = picked;
    return ERR_OK;
}

static enum err_code merge(struct search *search)
{
    const struct search_request *request = &search->request;
    struct hit_list *lists;
    size_t rows, count, skipped;
    enum err_code rc = rows_lists(&search->answer, search->arena, &lists, &rows, &search->req->err);

    if (rc != ERR_OK)
        return rc;
    rows = MIN_OF(rows, (size_t)search_request_fetch(request));
    search->rows = arena_alloc(search->arena, rows + 1, sizeof(search->rows[0]));
    if (search->rows == NULL)
        return err_set(&search->req->err, ERR_NO_MEMORY, "no memory for the matches");
    count = hits_merge(lists, search->answer.count, rows, search->rows, NULL);
    if (request->mmr.wanted && (rc = diversify(search, search->rows, &count)) != ERR_OK)
        return rc;
    skipped = MIN_OF((size_t)request->offset, count);
    search->rows += skipped;
    search->row_count = MIN_OF(count - skipped, (size_t)request->top_k);
    return ERR_OK;
}

/* --- one search --------------------------------------------------------------------------------
 */

static void read_info_of(struct search *search)
{
    if (search->cache == CACHE_HIT && !search->request.explain)
        search->read = (struct read_info){
            .seen = &search->cached.seen,
            /* The cache was looked into after that. */
            .known_ns = cluster_known_at(search->times.resolved_ns, search->cached.staleness_ns),
            .coverage = 1.0};
    else
        read_info_from(&search->read, &search->request.consistency, &search->answer);
    search->read.stale = search->read.stale || search->id_stale;
    if (search->request.kind == QUERY_ID)
        search->read.known_ns = MIN_OF(search->read.known_ns, search->id_known_ns);
}

/* What does the cache say?  An explained search is told, and asks the shards nevertheless. */
static void look_into_cache(struct search *search, struct cached_now *now, struct hash128 *key)
{
    struct router *router = search->req->state;

    search->cache = CACHE_BYPASS;
    cached_look(now, router->cluster, &search->collection);
    search->map_version = now->map_version;
    if (now->region == 0 || search->request.consistency.fresh)
        return;
    *key = cached_key(now, &search->collection, &search->request);
    search->cache =
        cached_get(router->cache, *key, now, &search->request.consistency, &search->cached)
            ? CACHE_HIT
            : CACHE_MISS;
}

static void count_search(const struct search *search)
{
    const struct router *router = search->req->state;
    struct metric *outcome = search->cache == CACHE_HIT    ? router->metrics.hits
                             : search->cache == CACHE_MISS ? router->metrics.misses
                                                           : router->metrics.bypasses;

    router_count_one(outcome);
    router_count_one(router->metrics.searches);
    if (router->metrics.search_latency != NULL)
        metric_observe_ns(router->metrics.search_latency,
                          env_boot_ns(router->env) - search->times.began_ns);
}

/* Ask the shards, merge, and write; keep what may be kept. */
static enum err_code answer_from_shards(struct search *search, const struct cached_now *now,
                                        struct hash128 key, struct buffer *out)
{
    struct router *router = search->req->state;
    uint8_t incarnation[INCARNATION_BYTES];
    struct buffer matches = {0};
    bool is_same;
    enum err_code rc;

    memcpy(incarnation, search->collection.incarnation, sizeof(incarnation));
    if ((rc = ask_shards(search)) != ERR_OK)
        return rc;
    is_same = memcmp(incarnation, search->collection.incarnation, sizeof(incarnation)) == 0;
    search->times.asked_ns = env_boot_ns(router->env);
    if ((rc = merge(search)) != ERR_OK)
        return rc;
    search->times.merged_ns = env_boot_ns(router->env);
    search_write_matches(search, &matches);
    if ((rc = buffer_check(&matches, &search->req->err)) == ERR_OK) {
        read_info_of(search);
        search_write_answer(search, matches.data, matches.len, out);
        if (now->region != 0 && is_same && !search->answer.partial && !search->answer.stale &&
            !search->request.explain)
            cached_put(router->cache, key, &search->answer.seen, matches.data, matches.len);
    }
    buffer_free(&matches);
    return rc;
}

/* The vector is there: the cache's answer, or the shards'. */
static enum err_code answer_search(struct search *search, struct buffer *out)
{
    struct hash128 key = {0};
    struct cached_now now;
    enum err_code rc = ERR_OK;

    look_into_cache(search, &now, &key);
    if (search->cache == CACHE_HIT && !search->request.explain) {
        read_info_of(search);
        search_write_answer(search, search->cached.matches, search->cached.matches_len, out);
    } else {
        if (search->cache == CACHE_BYPASS && now.region != 0)
            key = cached_key(&now, &search->collection, &search->request);
        rc = answer_from_shards(search, &now, key, out);
    }
    if (rc == ERR_OK)
        count_search(search);
    return rc;
}

static enum err_code run_search(struct search *search, struct json_reader *reader,
                                struct buffer *out)
{
    struct search_request *request = &search->request;
    struct env *env = search->req->env;
    enum err_code rc = search_request_decode(request, reader, search->collection.dimension);

    if (rc != ERR_OK)
        return rc;
    request->consistency.began_ns = search->times.began_ns;
    if (request->consistency.fresh) {
        rc = router_read_collection(search->req, &request->consistency, &search->collection);
        if (rc != ERR_OK)
            return rc;
        if (search->collection.dimension != request->dim)
            return err_set(&search->req->err, ERR_DIMENSION_MISMATCH,
                           "the collection was made anew with dimension %u",
                           search->collection.dimension);
    }
    search->deadline_ns =
        MIN_OF(search->times.began_ns + request->consistency.timeout_ms * NS_PER_MS,
               search->req->received_ns + DEADLINE_MS_MAX * NS_PER_MS);
    if ((rc = make_vector(search)) != ERR_OK)
        return rc;
    search->times.resolved_ns = env_boot_ns(env);
    return answer_search(search, out);
}

/* What the fields of a search mean depends on the collection's dimension.  When that is not known
 * here yet, only the demands are looked at. */
static enum err_code find_collection(struct request *req, struct collection *out)
{
    struct consistency consistency;
    enum err_code rc = router_collection(req, false, out);

    if (rc != ERR_COLLECTION_NOT_FOUND)
        return rc;
    consistency_init(&consistency);
    consistency_from_body(&consistency, req);
    if (consistency.demands.count > 0 || consistency.global) {
        err_clear(&req->err);
        rc = router_read_collection(req, &consistency, out);
    }
    consistency_free(&consistency);
    return rc;
}

enum err_code router_search(struct request *req)
{
    struct search search = {
        .req = req, .arena = &req->arena, .times = {.began_ns = req->received_ns}};
    struct json_reader reader;
    enum err_code rc;

    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK ||
        (rc = find_collection(req, &search.collection)) != ERR_OK)
        return rc;
    json_reader_init(&reader, req->body, req->body_len, search.arena, &req->err);
    rc = run_search(&search, &reader, &req->reply.body);
    search_free(&search);
    return rc;
}

/* --- batches -----------------------------------------------------------------------------------
 */

struct batch {
    struct json_text searches[SEARCHES_PER_BATCH_MAX];
    size_t count;
};

static enum err_code batch_member(void *context, struct json_reader *reader, struct json_text key,
                                  bool *known)
{
    struct batch *batch = context;
    struct json_text raw;
    bool more = false;
    enum err_code rc;

    *known = json_text_is(key, "searches");
    if (!*known)
        return ERR_OK;
    rc = json_array_begin(reader);
    while (rc == ERR_OK && (rc = json_array_next(reader, &more)) == ERR_OK && more) {
        if (batch->count == SEARCHES_PER_BATCH_MAX)
            return member_wrong(reader, "searches", "may hold at most 100 searches");
        if ((rc = json_skip(reader, &raw, NULL)) == ERR_OK)
            batch->searches[batch->count++] = raw;
    }
    return member_failed(reader->err, rc, "searches");
}

/* The problem of one item, as its "error"; the request's own error is cleared. */
static void write_item_error(struct request *req, struct json_writer *w)
{
    struct request item = {.err = req->err};

    memcpy(item.request_id, req->request_id, sizeof(item.request_id));
    reply_problem(&item);
    err_clear(&req->err);
    json_begin_object(w);
    json_key(w, "error");
    if (item.reply.body.failed)
        w->out->failed = true;
    else
        json_raw(w, item.reply.body.data, item.reply.body.len);
    json_end_object(w);
    buffer_free(&item.reply.body);
}

/* One item of a batch; its clock starts now. */
static void run_item(struct request *req, const struct collection *collection,
                     struct json_text text, struct arena *arena, struct json_writer *w)
{
    struct search search = {.req = req,
                            .arena = arena,
                            .collection = *collection,
                            .times = {.began_ns = env_boot_ns(req->env)}};
    struct reply_age *ages = req->reply.ages;
    struct buffer answer = {0};
    struct json_reader reader;
    enum err_code rc;

    json_reader_init(&reader, text.data, text.len, arena, &req->err);
    if (w->out->len > BATCH_REPLY_MAX)
        rc = err_set(&req->err, ERR_PAYLOAD_TOO_LARGE, "the answers of this batch are too long");
    else
        rc = run_search(&search, &reader, &answer);
    if (rc == ERR_OK)
        rc = buffer_check(&answer, &req->err);
    if (rc == ERR_OK) {
        json_raw(w, answer.data, answer.len);
        ages_move(&req->reply, ages, w->out->len - answer.len);
    } else {
        req->reply.ages = ages;
        write_item_error(req, w);
    }
    buffer_free(&answer);
    search_free(&search);
}

enum err_code router_search_batch(struct request *req)
{
    struct batch *batch = arena_alloc(&req->arena, 1, sizeof(*batch));
    struct collection collection;
    struct json_reader reader;
    struct arena arena = {0};
    struct json_writer w;
    enum err_code rc;

    if (batch == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for a batch");
    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK ||
        (rc = router_collection(req, false, &collection)) != ERR_OK)
        return rc;
    json_reader_init(&reader, req->body, req->body_len, &req->arena, &req->err);
    if ((rc = body_decode(&reader, batch_member, batch)) != ERR_OK)
        return rc;
    if (batch->count == 0)
        return member_wrong(&reader, "searches", "must hold from 1 to 100 searches");
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "results");
    json_begin_array(&w);
    for (size_t i = 0; i < batch->count; i++) {
        run_item(req, &collection, batch->searches[i], &arena, &w);
        arena_reset(&arena);
    }
    json_end_array(&w);
    json_end_object(&w);
    arena_free(&arena);
    return ERR_OK;
}
