/* A shard answers: searches against brute force, filters, gets, scrolls, counts, and the JSON twin.
 */
#include "services/shard/bitmap.h"
#include "tests/unit/shard_rig.h"

#include <jansson.h>

#define DIM     8u
#define RECORDS 500u
#define QUERIES 20u
#define K       10u

static float vectors[RECORDS][DIM];

static uint64_t seed = 42;

static float next_float(void)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (float)(int32_t)(seed >> 32) / (float)INT32_MAX;
}

static void id_of(char out[16], unsigned i)
{
    snprintf(out, 16, "id-%03u", i);
}

struct world {
    struct rig *rig;
    struct collection collections[3]; /* by metric */
};

static void metadata_of(char out[64], unsigned i)
{
    snprintf(out, 64, "{\"n\":%u,\"even\":%s}", i % 10, i % 2 == 0 ? "true" : "false");
}

static int world_open(void **state)
{
    struct world *world = calloc(1, sizeof(*world));
    char id[16], metadata[64];

    world->rig = rig_ready();
    for (unsigned i = 0; i < RECORDS; i++)
        for (unsigned d = 0; d < DIM; d++)
            vectors[i][d] = next_float();
    for (unsigned m = 0; m < 3; m++) {
        struct collection *collection = &world->collections[m];

        *collection = rig_collection(world->rig, metric_name((enum distance_metric)m), DIM,
                                     (enum distance_metric)m);
        for (unsigned i = 0; i < RECORDS; i++) {
            id_of(id, i);
            metadata_of(metadata, i);
            rig_upsert(world->rig, collection, id, vectors[i], metadata);
        }
        rig_upsert(world->rig, collection, "no-vector", NULL, "{\"n\":3}");
    }
    rig_catch_up(world->rig);
    *state = world;
    return 0;
}

static int world_close(void **state)
{
    struct world *world = *state;

    rig_free(world->rig);
    free(world);
    return 0;
}

static double distance_of(unsigned metric, const float *a, const float *b)
{
    double dot = 0, aa = 0, bb = 0, l2 = 0;

    for (unsigned d = 0; d < DIM; d++) {
        dot += (double)a[d] * b[d];
        aa += (double)a[d] * a[d];
        bb += (double)b[d] * b[d];
        l2 += ((double)a[d] - b[d]) * ((double)a[d] - b[d]);
    }
    if (metric == METRIC_COSINE)
        return 1 - dot / sqrt(aa * bb);
    return metric == METRIC_IP ? -dot : l2;
}

static double sorted[RECORDS];

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* The rows are the nearest of those that pass. */
static void check_rows(const struct wire_answer *answer, unsigned metric, const float *query,
                       bool (*passes)(unsigned i))
{
    size_t count = 0;

    for (unsigned i = 0; i < RECORDS; i++) {
        if (passes == NULL || passes(i))
            sorted[count++] = distance_of(metric, query, vectors[i]);
    }
    qsort(sorted, count, sizeof(sorted[0]), compare_doubles);
    assert_int_equal(answer->row_count, count < K ? count : K);
    for (size_t r = 0; r < answer->row_count; r++) {
        const struct wire_row *row = &answer->rows[r];
        unsigned i = (unsigned)strtoul(row->id + 3, NULL, 10);
        char text[64], id[16];

        assert_true(passes == NULL || passes(i));
        id_of(id, i);
        assert_true(row_is(row, id));
        assert_true(fabs(row->distance - sorted[r]) < 1e-4);
        assert_true(fabs(row->distance - distance_of(metric, query, vectors[i])) < 1e-4);
        snprintf(text, sizeof(text), "\"text of \\\"%s\\\"\"", id);
        assert_int_equal(row->text_len, strlen(text));
        assert_memory_equal(row->text, text, row->text_len);
        assert_int_equal(row->partition, record_partition(id, strlen(id), RIG_PARTITIONS));
    }
}

static void searches_agree_with_brute_force(void **state)
{
    struct world *world = *state;

    for (unsigned m = 0; m < 3; m++) {
        for (unsigned q = 0; q < QUERIES; q++) {
            struct wire_question question = rig_question(&world->collections[m], WIRE_SEARCH);
            float query[DIM];
            struct reply_of reply;

            for (unsigned d = 0; d < DIM; d++)
                query[d] = next_float();
            question.vector = query;
            question.dim = DIM;
            question.exact = q % 2 == 0;
            rig_ask(world->rig, &reply, &question);
            must(reply.code, &reply.req.err);
            assert_int_equal(reply.answer.served_count, RIG_PARTITIONS);
            assert_int_equal(reply.answer.region, wal_region(world->rig->writer));
            for (size_t i = 0; i < RIG_PARTITIONS; i++)
                assert_int_equal(reply.answer.served[i].position, world->rig->ends[i]);
            check_rows(&reply.answer, m, query, NULL);
            reply_free(&reply);
        }
    }
}

static bool is_three(unsigned i)
{
    return i % 10 == 3;
}

static bool is_one_of_two(unsigned i)
{
    return i == 13 || i == 77;
}

static bool is_in_two_partitions(unsigned i)
{
    char id[16];

    id_of(id, i);
    return record_partition(id, strlen(id), RIG_PARTITIONS) < 2;
}

static void filters_restrict_searches(void **state)
{
    struct world *world = *state;
    static const struct {
        const char *filter;
        bool (*passes)(unsigned);
        bool is_half;
    } cases[] = {
        {"{\"n\":3}", is_three, false},
        {"{\"n\":3}", is_three, false}, /* from the bitmaps that are kept */
        {"{\"$id\":{\"$in\":[\"id-013\",\"id-077\",\"none\"]}}", is_one_of_two, false},
        {NULL, is_in_two_partitions, true},
    };

    for (size_t i = 0; i < ARRAY_COUNT(cases); i++) {
        struct wire_question question = rig_question(&world->collections[2], WIRE_SEARCH);
        struct reply_of reply;
        json_t *explain, *filter;

        question.vector = vectors[i];
        question.dim = DIM;
        question.explain = true;
        question.filter = cases[i].filter;
        question.filter_len = cases[i].filter == NULL ? 0 : strlen(cases[i].filter);
        if (cases[i].is_half) {
            partition_set_remove(&question.partitions, 2);
            partition_set_remove(&question.partitions, 3);
            partition_set_add(&question.partitions, 99); /* not served */
        }
        rig_ask(world->rig, &reply, &question);
        must(reply.code, &reply.req.err);
        assert_int_equal(reply.answer.served_count, cases[i].is_half ? 2 : RIG_PARTITIONS);
        check_rows(&reply.answer, METRIC_L2, vectors[i], cases[i].passes);
        explain = json_loadb(reply.answer.explain, reply.answer.explain_len, 0, NULL);
        filter = json_object_get(explain, "filter");
        assert_non_null(json_object_get(explain, "plan"));
        assert_true(json_integer_value(json_object_get(filter, "matched")) > 0);
        json_decref(explain);
        reply_free(&reply);
    }
}

static void more_filters_than_are_kept_are_right_too(void **state)
{
    struct world *world = *state;

    for (unsigned i = 0; i < 3 * BITMAPS_KEPT; i++) {
        struct wire_question question = rig_question(&world->collections[2], WIRE_SEARCH);
        struct reply_of reply;
        char filter[80];

        snprintf(filter, sizeof(filter), "{\"n\":3,\"even\":{\"$ne\":%u}}", i % (2 * BITMAPS_KEPT));
        question.vector = vectors[i];
        question.dim = DIM;
        question.filter = filter;
        question.filter_len = strlen(filter);
        rig_ask(world->rig, &reply, &question);
        must(reply.code, &reply.req.err);
        check_rows(&reply.answer, METRIC_L2, vectors[i], is_three);
        reply_free(&reply);
    }
}

static void gets_keep_the_order_and_leave_out_the_missing(void **state)
{
    static const struct wire_id ids[] = {
        {"id-007", 6}, {"missing", 7}, {"id-003", 6}, {"no-vector", 9}};
    struct world *world = *state;
    struct wire_question question = rig_question(&world->collections[0], WIRE_GET);
    struct reply_of reply;

    question.ids = ids;
    question.id_count = ARRAY_COUNT(ids);
    question.include = INCLUDE_VECTOR;
    rig_ask(world->rig, &reply, &question);
    must(reply.code, &reply.req.err);
    assert_int_equal(reply.answer.row_count, 3);
    assert_true(row_is(&reply.answer.rows[0], "id-007"));
    assert_true(row_is(&reply.answer.rows[1], "id-003"));
    assert_true(row_is(&reply.answer.rows[2], "no-vector"));
    assert_int_equal(reply.answer.rows[1].dim, DIM);
    assert_memory_equal(reply.answer.rows[1].vector, vectors[3], sizeof(vectors[3]));
    assert_null(reply.answer.rows[2].vector);
    assert_null(reply.answer.rows[0].text);
    reply_free(&reply);
}

/* Page through everything; returns how many rows there were. */
static size_t scroll_all(struct world *world, const char *filter, uint32_t limit)
{
    char after[16] = "";
    size_t count = 0;
    bool more = true;

    while (more) {
        struct wire_question question = rig_question(&world->collections[1], WIRE_SCROLL);
        struct reply_of reply;

        question.after = (struct wire_id){.data = after, .len = strlen(after)};
        question.limit = limit;
        question.filter = filter;
        question.filter_len = filter == NULL ? 0 : strlen(filter);
        rig_ask(world->rig, &reply, &question);
        must(reply.code, &reply.req.err);
        more = reply.answer.more;
        assert_true(!more || reply.answer.row_count == limit);
        for (size_t i = 0; i < reply.answer.row_count; i++) {
            char id[16];

            snprintf(id, sizeof(id), "%.*s", (int)reply.answer.rows[i].id_len,
                     reply.answer.rows[i].id);
            assert_true(strcmp(id, after) > 0);
            memcpy(after, id, sizeof(after));
            count++;
        }
        reply_free(&reply);
    }
    return count;
}

static void scrolls_go_through_all_ids_in_order(void **state)
{
    struct world *world = *state;

    assert_int_equal(scroll_all(world, NULL, 7), RECORDS + 1);
    assert_int_equal(scroll_all(world, NULL, RECORDS + 1), RECORDS + 1);
    assert_int_equal(scroll_all(world, "{\"n\":3}", 7), RECORDS / 10 + 1);
    assert_int_equal(
        scroll_all(world, "{\"$id\":{\"$in\":[\"id-013\",\"id-077\",\"id-013\",\"x\"]}}", 1), 2);
}

static uint64_t count(struct world *world, const char *filter)
{
    struct wire_question question = rig_question(&world->collections[1], WIRE_COUNT);
    struct reply_of reply;
    uint64_t counted;

    question.filter = filter;
    question.filter_len = filter == NULL ? 0 : strlen(filter);
    rig_ask(world->rig, &reply, &question);
    must(reply.code, &reply.req.err);
    counted = reply.answer.count;
    reply_free(&reply);
    return counted;
}

static void counts_are_exact(void **state)
{
    struct world *world = *state;

    assert_int_equal(count(world, NULL), RECORDS + 1);
    assert_int_equal(count(world, "{\"even\":true}"), RECORDS / 2);
    assert_int_equal(count(world, "{\"$id\":{\"$in\":[\"id-013\",\"none\"]}}"), 1);
}

static void wrong_questions_are_refused(void **state)
{
    struct world *world = *state;
    struct wire_question question = rig_question(&world->collections[0], WIRE_SEARCH);
    struct reply_of reply;

    question.vector = vectors[0];
    question.dim = DIM - 1;
    rig_ask(world->rig, &reply, &question);
    assert_int_equal(reply.code, ERR_DIMENSION_MISMATCH);
    reply_free(&reply);
    question.dim = DIM;
    question.filter = "{\"a\":{\"$bad\":1}}";
    question.filter_len = strlen(question.filter);
    rig_ask(world->rig, &reply, &question);
    assert_int_equal(reply.code, ERR_INVALID_FILTER);
    assert_int_equal(strncmp(reply.req.err.pointer, "/filter", 7), 0);
    reply_free(&reply);
    question.filter_len = 0;
    memset(question.incarnation, 0xee, sizeof(question.incarnation));
    rig_ask(world->rig, &reply, &question);
    must(reply.code, &reply.req.err);
    assert_int_equal(reply.answer.row_count, 0);
    assert_int_equal(reply.answer.served_count, RIG_PARTITIONS);
    reply_free(&reply);
}

static json_t *ask_json(struct world *world, const struct wire_question *question,
                        struct reply_of *reply)
{
    struct buffer body = {0};
    char incarnation[2 * INCARNATION_BYTES + 1];
    json_t *document;

    for (size_t i = 0; i < INCARNATION_BYTES; i++)
        snprintf(incarnation + 2 * i, 3, "%02x", question->incarnation[i]);
    buffer_append_format(&body,
                         "{\"incarnation\":\"%s\",\"partitions\":[0,1,2,3],\"k\":%u,\"recall\":0.9,"
                         "\"include\":[\"text\",\"metadata\",\"vector\"],\"explain\":true,"
                         "\"filter\":{\"even\":true},\"vector\":[",
                         incarnation, question->k);
    for (uint32_t d = 0; d < question->dim; d++)
        buffer_append_format(&body, "%s%.9g", d == 0 ? "" : ",", (double)question->vector[d]);
    buffer_append_text(&body, "]}");
    memset(reply, 0, sizeof(*reply));
    reply->req.header = rig_json;
    rig_send(world->rig, reply, "/internal/v1/search", body.data, body.len);
    buffer_free(&body);
    must(reply->code, &reply->req.err);
    document =
        json_loadb((const char *)reply->req.reply.body.data, reply->req.reply.body.len, 0, NULL);
    assert_non_null(document);
    return document;
}

static void the_json_twin_says_the_same(void **state)
{
    struct world *world = *state;
    struct wire_question question = rig_question(&world->collections[0], WIRE_SEARCH);
    struct reply_of binary, twin;
    json_t *document, *rows;

    question.vector = vectors[5];
    question.dim = DIM;
    question.filter = "{\"even\":true}";
    question.filter_len = strlen(question.filter);
    question.include |= INCLUDE_VECTOR;
    rig_ask(world->rig, &binary, &question);
    must(binary.code, &binary.req.err);
    document = ask_json(world, &question, &twin);
    rows = json_object_get(document, "rows");
    assert_int_equal(json_array_size(rows), binary.answer.row_count);
    assert_int_equal(json_array_size(json_object_get(document, "served")), RIG_PARTITIONS);
    for (size_t i = 0; i < binary.answer.row_count; i++) {
        const struct wire_row *row = &binary.answer.rows[i];
        json_t *twin_row = json_array_get(rows, i);
        json_t *vector = json_object_get(twin_row, "vector");
        json_t *text = json_loadb(row->text, row->text_len, JSON_DECODE_ANY, NULL);
        json_t *metadata = json_loadb(row->metadata, row->metadata_len, 0, NULL);
        char version[STAMP_TEXT_BYTES];

        stamp_to_text(version, row->stamp);
        assert_true(row_is(row, json_string_value(json_object_get(twin_row, "id"))));
        assert_string_equal(version, json_string_value(json_object_get(twin_row, "version")));
        assert_true((float)json_real_value(json_object_get(twin_row, "distance")) == row->distance);
        assert_true(json_equal(text, json_object_get(twin_row, "text")));
        assert_true(json_equal(metadata, json_object_get(twin_row, "metadata")));
        assert_int_equal(json_array_size(vector), DIM);
        for (size_t d = 0; d < DIM; d++) {
            float value;

            memcpy(&value, (const uint8_t *)row->vector + d * sizeof(float), sizeof(value));
            assert_true((float)json_number_value(json_array_get(vector, d)) == value);
        }
        json_decref(text);
        json_decref(metadata);
    }
    json_decref(document);
    reply_free(&binary);
    reply_free(&twin);
}

static void the_twin_survives_distances_beyond_floats(void **state)
{
    static const float huge[DIM] = {3e38f, 3e38f}, minus[DIM] = {-3e38f, -3e38f};
    struct rig *rig = rig_ready();
    struct world alone = {.rig = rig};
    struct collection collection = rig_collection(rig, "huge", DIM, METRIC_L2);
    struct wire_question question = rig_question(&collection, WIRE_SEARCH);
    struct reply_of reply;
    json_t *document, *row;

    (void)state;
    rig_upsert(rig, &collection, "huge", minus, "{\"even\":true}");
    rig_catch_up(rig);
    question.vector = huge;
    question.dim = DIM;
    document = ask_json(&alone, &question, &reply);
    row = json_array_get(json_object_get(document, "rows"), 0);
    assert_non_null(row);
    assert_true(json_real_value(json_object_get(row, "distance")) > 3.4e38);
    json_decref(document);
    reply_free(&reply);
    rig_free(rig);
}

static void the_twin_takes_one_vector(void **state)
{
    static const char body[] = "{\"vector\":[1],\"vector\":[1]}";
    struct world *world = *state;
    struct reply_of reply = {0};

    reply.req.header = rig_json;
    rig_send(world->rig, &reply, "/internal/v1/search", body, sizeof(body) - 1);
    assert_int_equal(reply.code, ERR_INVALID_ARGUMENT);
    assert_string_equal(reply.req.err.pointer, "/vector");
    reply_free(&reply);
}

/* The clock is looked at by the work done, not by the number of rows: few long ones cost as much
 * as many short ones. */
static void filters_of_long_metadata_keep_the_deadline(void **state)
{
    enum { LONG = 60000, PATTERN = 500 };
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "long", DIM, METRIC_L2);
    struct wire_question question = rig_question(&collection, WIRE_COUNT);
    struct buffer metadata = {0}, filter = {0};
    struct reply_of reply;
    char id[16];

    (void)state;
    buffer_append_text(&metadata, "{\"a\":\"");
    for (unsigned i = 0; i < LONG; i++)
        buffer_append_byte(&metadata, 'a');
    buffer_append_text(&metadata, "\"}");
    buffer_append_byte(&metadata, 0);
    buffer_append_text(&filter, "{\"a\":{\"$like\":\"%");
    for (unsigned i = 0; i < PATTERN; i++)
        buffer_append_byte(&filter, 'a');
    buffer_append_text(&filter, "b%\"}}");
    for (unsigned i = 0; i < 40; i++) {
        id_of(id, i);
        rig_upsert(rig, &collection, id, vectors[i], (const char *)metadata.data);
    }
    rig_catch_up(rig);
    question.filter = (const char *)filter.data;
    question.filter_len = filter.len;
    question.wait_ms = 1;
    rig_ask(rig, &reply, &question);
    assert_int_equal(reply.code, ERR_TIMEOUT);
    reply_free(&reply);
    question.op = WIRE_SCROLL;
    rig_ask(rig, &reply, &question);
    assert_int_equal(reply.code, ERR_TIMEOUT);
    reply_free(&reply);
    buffer_free(&metadata);
    buffer_free(&filter);
    rig_free(rig);
}

static void the_status_tells_everything(void **state)
{
    struct world *world = *state;
    struct reply_of reply = {0};
    json_t *document, *partitions, *collections;
    struct buffer text = {0};
    int64_t live = 0;

    reply.req.header = rig_json;
    rig_send(world->rig, &reply, "/internal/v1/status", NULL, 0);
    must(reply.code, &reply.req.err);
    document =
        json_loadb((const char *)reply.req.reply.body.data, reply.req.reply.body.len, 0, NULL);
    assert_string_equal(json_string_value(json_object_get(document, "state")), "ready");
    partitions = json_object_get(document, "partitions");
    collections = json_object_get(document, "collections");
    assert_int_equal(json_array_size(partitions), RIG_PARTITIONS);
    assert_int_equal(json_array_size(collections), 3);
    for (size_t i = 0; i < RIG_PARTITIONS; i++) {
        json_t *partition = json_array_get(partitions, i);

        live += json_integer_value(json_object_get(partition, "live"));
        assert_int_equal(json_integer_value(json_object_get(partition, "position")),
                         world->rig->ends[i]);
        assert_int_equal(json_string_length(json_object_get(partition, "digest")), 32);
        assert_int_equal(json_integer_value(json_object_get(partition, "epoch")), 1);
    }
    assert_int_equal(live, 3 * (RECORDS + 1));
    assert_int_equal(json_array_size(json_object_get(json_array_get(collections, 0), "changes")),
                     RIG_PARTITIONS);
    assert_int_equal(json_integer_value(json_object_get(json_array_get(collections, 0), "covered")),
                     0);
    assert_true(json_is_false(json_object_get(json_array_get(collections, 0), "maintaining")));
    json_decref(document);
    reply_free(&reply);
    shard_measure(&world->rig->shard);
    metrics_write(world->rig->metrics, &text);
    buffer_append_byte(&text, 0);
    assert_non_null(strstr((const char *)text.data, "shard_records{shard=\"0\"} 1503"));
    assert_non_null(strstr((const char *)text.data, "vector_search_latency_seconds"));
    buffer_free(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(searches_agree_with_brute_force),
        cmocka_unit_test(filters_restrict_searches),
        cmocka_unit_test(more_filters_than_are_kept_are_right_too),
        cmocka_unit_test(gets_keep_the_order_and_leave_out_the_missing),
        cmocka_unit_test(scrolls_go_through_all_ids_in_order),
        cmocka_unit_test(counts_are_exact),
        cmocka_unit_test(wrong_questions_are_refused),
        cmocka_unit_test(the_json_twin_says_the_same),
        cmocka_unit_test(the_twin_survives_distances_beyond_floats),
        cmocka_unit_test(the_twin_takes_one_vector),
        cmocka_unit_test(filters_of_long_metadata_keep_the_deadline),
        cmocka_unit_test(the_status_tells_everything),
    };

    return cmocka_run_group_tests(tests, world_open, world_close);
}
