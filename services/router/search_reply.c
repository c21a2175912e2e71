/* A search's answer, written: matches, what was read, and the explanation when it is asked for.
 * Texts, metadata and the shards' explanations arrive as encoded JSON and are spliced in. */
#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/limits.h"
#include "services/router/search.h"

static const char *const outcome_names[] = {
    [CACHE_BYPASS] = "bypass",
    [CACHE_MISS] = "miss",
    [CACHE_HIT] = "hit",
};

/* A cosine is one less a float of about 1: more than seven decimals of it say nothing and cost time
 * to print.  The other scores are floats as they are.  Rounding never takes a match below the
 * threshold that it has reached. */
static double shown_score(const struct search *search, double score)
{
    double shown = score + 0.0; /* 0 rather than -0 */

    if (!isfinite(score))
        return copysign(3.5e38, score); /* a product left the range of floats */
    if (search->collection.metric == METRIC_COSINE)
        shown = round(score * 1e7) / 1e7 + 0.0;
    if (search->request.has_threshold && shown < search->request.threshold)
        return score + 0.0;
    return shown;
}

void search_write_matches(const struct search *search, struct buffer *out)
{
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_array(&w);
    for (size_t i = 0; i < search->row_count; i++) {
        const struct wire_row *row = &search->rows[i];
        double score = hits_score(search->collection.metric, row->distance);

        json_begin_object(&w);
        json_key(&w, "id");
        json_put_string(&w, row->id, row->id_len);
        json_key(&w, "score");
        json_double(&w, shown_score(search, score));
        wire_row_write(row, &w);
        json_end_object(&w);
    }
    json_end_array(&w);
}

static double seconds_of(uint64_t ns)
{
    return ns == NEVER_NS ? 1e9 : round((double)ns / 1e3) / 1e6;
}

static void write_part(const struct cluster_part *part, struct json_writer *w)
{
    const struct wire_answer *answer = &part->answer;

    json_begin_object(w);
    json_key(w, "shard");
    json_u64(w, part->shard);
    json_key(w, "replica");
    json_u64(w, part->replica);
    json_key(w, "took_us");
    json_u64(w, part->took_ns / NS_PER_US);
    json_key(w, "hedged");
    json_bool(w, part->is_hedged);
    json_key(w, "staleness_seconds");
    json_double(w, seconds_of(answer->staleness_ns));
    json_key(w, "map_version");
    json_u64(w, answer->map_version);
    json_key(w, "rows");
    json_u64(w, answer->row_count);
    json_key(w, "positions");
    json_begin_array(w);
    for (size_t i = 0; i < answer->served_count; i++) {
        json_begin_array(w);
        json_u64(w, answer->served[i].partition);
        json_u64(w, answer->served[i].position);
        json_end_array(w);
    }
    json_end_array(w);
    if (answer->explain != NULL) {
        json_key(w, "plan");
        json_raw(w, answer->explain, answer->explain_len);
    }
    json_end_object(w);
}

static void write_stage(struct json_writer *w, const char *name, uint64_t from, uint64_t to)
{
    json_key(w, name);
    json_u64(w, to > from ? (to - from) / NS_PER_US : 0);
}

static void write_explain(const struct search *search, struct json_writer *w)
{
    const struct cluster_answer *answer = &search->answer;
    const struct search_times *times = &search->times;
    const struct consistency *consistency = &search->request.consistency;

    json_begin_object(w);
    json_key(w, "map_version");
    json_u64(w, search->map_version);
    json_key(w, "cache");
    json_text(w, outcome_names[search->cache]);
    json_key(w, "partitions_wanted");
    json_u64(w, answer->wanted_count);
    json_key(w, "partitions_served");
    json_u64(w, answer->served_count);
    json_key(w, "retries");
    json_u64(w, answer->retries);
    json_key(w, "hedges");
    json_u64(w, answer->hedges);
    json_key(w, "stages_us");
    json_begin_object(w);
    if (consistency->global)
        write_stage(w, "reach_regions", 0, consistency->reach_ns);
    write_stage(w, "decode_and_embed", times->began_ns + consistency->reach_ns, times->resolved_ns);
    write_stage(w, "ask", times->resolved_ns, times->asked_ns);
    write_stage(w, "merge", times->asked_ns, times->merged_ns);
    json_end_object(w);
    json_key(w, "shards");
    json_begin_array(w);
    for (size_t i = 0; i < answer->count; i++)
        write_part(&answer->parts[i], w);
    json_end_array(w);
    json_end_object(w);
}

void search_write_answer(const struct search *search, const void *matches, size_t matches_len,
                         struct buffer *out)
{
    uint64_t took_ns = env_boot_ns(search->req->env) - search->times.began_ns;
    struct json_writer w;

    assert(search->read.seen != NULL);
    json_writer_init(&w, out);
    json_begin_object(&w);
    json_key(&w, "matches");
    json_raw(&w, matches, matches_len);
    json_key(&w, "read");
    read_info_write(&search->read, search->req, &w);
    json_key(&w, "took_ms");
    json_double(&w, round((double)took_ns / 1e3) / 1e3);
    if (search->request.explain) {
        json_key(&w, "explain");
        write_explain(search, &w);
    }
    json_end_object(&w);
}
