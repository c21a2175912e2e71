/* A search: the filter becomes a bitmap, the engine finds ordinals, the snapshot turns them into
 * rows.
 *
 * The engine may know ordinals that the snapshot does not show: just inserted and not committed
 * yet, or replaced and waiting for older searches to end.  These hits are passed over; a few more
 * than k are asked for while there are such, and twice as many when that was not enough. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/checked.h"
#include "services/shard/ask.h"
#include "services/shard/bitmap.h"

#define SLACK_MAX 64

struct searching {
    struct ask *ask;
    struct engine_query query;
    struct engine_hit *hits;
    size_t hit_count;
    struct bitmap *bitmap;
};

/* The engine measures by CLOCK_MONOTONIC, which a simulated env does not have: the time that is
 * left, from now on the engine's clock. */
static uint64_t engine_deadline(const struct ask *ask)
{
    uint64_t now_ns = env_boot_ns(ask->shard->env);
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec +
           (ask->deadline_ns > now_ns ? ask->deadline_ns - now_ns : 0);
}

static enum err_code make_bitmap(struct searching *searching, struct err *err)
{
    struct ask *ask = searching->ask;
    struct bitmap_request request = {
        .txn = ask->txn,
        .generation = ask->generation,
        .collection = ask->collection->number,
        .partitions_all = ask->partitions_all,
        .asked = &ask->asked,
        .filter = ask->filter,
        .filter_text = ask->question.filter,
        .filter_len = ask->filter == NULL ? 0 : ask->question.filter_len,
        .env = ask->shard->env,
        .deadline_ns = ask->deadline_ns,
    };
    uint64_t began_ns = env_boot_ns(ask->shard->env);
    enum err_code code;

    if (ask->filter == NULL && ask->asks_all)
        return ERR_OK;
    code = bitmap_get(&searching->bitmap, ask->shard->bitmaps, &request, err);
    if (code != ERR_OK)
        return code;
    searching->query.filter = &searching->bitmap->bits;
    ask->costs.has_filter = true;
    ask->costs.matched = searching->bitmap->bits.cardinality;
    ask->costs.scanned = searching->bitmap->scanned;
    ask->costs.filter_ns = env_boot_ns(ask->shard->env) - began_ns;
    return ERR_OK;
}

static enum err_code find(struct searching *searching, struct err *err)
{
    struct ask *ask = searching->ask;
    struct engine_counters counters = {0};
    struct ask_costs *costs = &ask->costs;
    uint64_t began_ns = env_boot_ns(ask->shard->env);
    enum err_code code;

    searching->hits = arena_alloc(&ask->req->arena, searching->query.k, sizeof(*searching->hits));
    if (searching->hits == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for %u hits", searching->query.k);
    searching->hit_count = 0;
    code = engine_search(ask->collection->engine, &searching->query, searching->hits,
                         &searching->hit_count, &counters, err);
    costs->counters.plan = counters.plan;
    costs->counters.distances += counters.distances;
    costs->counters.hops += counters.hops;
    costs->counters.scanned += counters.scanned;
    costs->counters.linked = counters.linked;
    costs->search_ns += env_boot_ns(ask->shard->env) - began_ns;
    return code;
}

/* Hits that the snapshot shows become rows of the answer. */
static enum err_code map_hits(struct searching *searching, struct err *err)
{
    struct ask *ask = searching->ask;
    uint64_t began_ns = env_boot_ns(ask->shard->env);
    enum err_code code = ask_make_rows(ask, searching->hit_count, err);

    ask->answer.row_count = 0;
    ask->bytes = 0;
    /* The hits ascend: what comes behind k rows is not wanted, nor may its texts count. */
    for (size_t i = 0;
         code == ERR_OK && i < searching->hit_count && ask->answer.row_count < ask->question.k;
         i++) {
        const struct engine_hit *hit = &searching->hits[i];
        struct wire_row *out = &ask->answer.rows[ask->answer.row_count];
        struct row row;

        code = row_get(&row, ask->txn, ask->collection->number, hit->ordinal, err);
        if (code == ERR_NOT_FOUND) {
            code = ERR_OK;
            continue;
        }
        if (code == ERR_OK)
            code = ask_fill_row(ask, out, &row, hit->ordinal, err);
        if (code == ERR_OK) {
            out->distance = hit->distance;
            ask->answer.row_count++;
        }
    }
    ask->costs.rows_ns += env_boot_ns(ask->shard->env) - began_ns;
    return code;
}

static int compare_rows(const void *a, const void *b)
{
    const struct wire_row *x = a;
    const struct wire_row *y = b;
    int order;

    if (x->distance != y->distance)
        return x->distance < y->distance ? -1 : 1;
    order = memcmp(x->id, y->id, MIN_OF(x->id_len, y->id_len));
    return order != 0 ? order : (x->id_len > y->id_len) - (x->id_len < y->id_len);
}

/* Ask the engine for ever more until there are k rows or nothing is left. */
static enum err_code find_rows(struct searching *searching, struct err *err)
{
    struct ask *ask = searching->ask;
    uint32_t k = ask->question.k;
    uint64_t pending = atomic_load(&ask->collection->pending);
    enum err_code code;

    searching->query.k = k + (uint32_t)MIN_OF(pending, SLACK_MAX);
    for (;;) {
        bool is_all;

        code = find(searching, err);
        if (code == ERR_OK)
            code = map_hits(searching, err);
        if (code != ERR_OK)
            return code;
        is_all = searching->hit_count < searching->query.k;
        if (is_all || ask->answer.row_count >= k || searching->query.k > UINT32_MAX / 4)
            return ERR_OK;
        searching->query.k *= 2;
    }
}

enum err_code search_run(struct ask *ask, struct err *err)
{
    const struct wire_question *question = &ask->question;
    uint32_t dimension = ask->collection->definition.dimension;
    struct searching searching = {
        .ask = ask,
        .query = {.vector = question->vector,
                  .ef = question->ef,
                  .recall = question->recall,
                  .exact = question->exact,
                  .bound = question->bound,
                  .deadline_ns = engine_deadline(ask)},
    };
    enum err_code code;

    assert(question->k >= 1);
    if (question->dim != dimension)
        return err_set_at(err, ERR_DIMENSION_MISMATCH, "/vector",
                          "the vector has %u numbers, the collection's have %u", question->dim,
                          dimension);
    code = make_bitmap(&searching, err);
    if (code == ERR_OK)
        code = find_rows(&searching, err);
    if (code == ERR_OK) {
        qsort(ask->answer.rows, ask->answer.row_count, sizeof(*ask->answer.rows), compare_rows);
        ask->answer.row_count = MIN_OF(ask->answer.row_count, question->k);
    }
    bitmap_put(searching.bitmap);
    return code;
}
