/* Questions and answers come over the wire as they were, aligned where promised; cut or lying ones
 * are refused. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/env.h"
#include "common/model/wire.h"

static const float vector[3] = {0.5f, -1.0f, 3.25f};
static const struct wire_id ids[2] = {{"a", 1}, {"kb/42#3", 7}};
static struct token_entry demands[2] = {{7, 3, 99}, {7, 1023, UINT64_MAX}};

static struct wire_question full_question(void)
{
    struct wire_question question = {.op = WIRE_SEARCH,
                                     .incarnation = {1, 2, 3},
                                     .demands = {demands, 2, 2},
                                     .fresh = true,
                                     .serve_stale = true,
                                     .max_staleness_ns = NEVER_NS,
                                     .wait_ms = 1000,
                                     .explain = true,
                                     .vector = vector,
                                     .dim = 3,
                                     .k = 10,
                                     .ef = 64,
                                     .recall = 0.95f,
                                     .exact = true,
                                     .bound = INFINITY,
                                     .filter = "{\"a\":1}",
                                     .filter_len = 7,
                                     .include = INCLUDE_TEXT | INCLUDE_VECTOR,
                                     .ids = ids,
                                     .id_count = 2,
                                     .after = {"m", 1},
                                     .limit = 5};

    partition_set_add(&question.partitions, 0);
    partition_set_add(&question.partitions, 130);
    return question;
}

static void same_run(const void *a, size_t a_len, const void *b, size_t b_len)
{
    assert_int_equal(a == NULL, b == NULL);
    assert_int_equal(a_len, b_len);
    if (a_len > 0)
        assert_memory_equal(a, b, a_len);
}

static void same_token(const struct token *a, const struct token *b)
{
    assert_int_equal(a->count, b->count);
    for (size_t i = 0; i < a->count; i++) {
        assert_int_equal(a->entries[i].region, b->entries[i].region);
        assert_int_equal(a->entries[i].partition, b->entries[i].partition);
        assert_int_equal(a->entries[i].position, b->entries[i].position);
    }
}

static void same_question(const struct wire_question *a, const struct wire_question *b)
{
    assert_int_equal(a->op, b->op);
    assert_memory_equal(a->incarnation, b->incarnation, INCARNATION_BYTES);
    assert_memory_equal(&a->partitions, &b->partitions, sizeof(a->partitions));
    same_token(&a->demands, &b->demands);
    assert_int_equal(a->fresh, b->fresh);
    assert_int_equal(a->serve_stale, b->serve_stale);
    assert_int_equal(a->max_staleness_ns, b->max_staleness_ns);
    assert_int_equal(a->wait_ms, b->wait_ms);
    assert_int_equal(a->explain, b->explain);
    same_run(a->vector, a->dim, b->vector, b->dim);
    assert_int_equal(a->k, b->k);
    assert_int_equal(a->ef, b->ef);
    assert_true(a->recall == b->recall);
    assert_int_equal(a->exact, b->exact);
    assert_true(a->bound == b->bound);
    same_run(a->filter, a->filter_len, b->filter, b->filter_len);
    assert_int_equal(a->include, b->include);
    assert_int_equal(a->id_count, b->id_count);
    for (size_t i = 0; i < a->id_count; i++)
        same_run(a->ids[i].data, a->ids[i].len, b->ids[i].data, b->ids[i].len);
    same_run(a->after.data, a->after.len, b->after.data, b->after.len);
    assert_int_equal(a->limit, b->limit);
}

/* Decode from every alignment; the bytes end where their memory ends, for the sanitizers. */
static void check_question(const struct wire_question *question)
{
    struct buffer out = {0};
    struct arena arena = {0};
    struct err err = {0};

    wire_question_encode(question, &out);
    assert_false(out.failed);
    for (size_t shift = 0; shift < 5; shift++) {
        uint8_t *bytes = malloc(out.len + shift);
        struct wire_question read;

        assert_non_null(bytes);
        memcpy(bytes + shift, out.data, out.len);
        assert_int_equal(wire_question_decode(&read, bytes + shift, out.len, &arena, &err), ERR_OK);
        assert_int_equal((uintptr_t)read.vector % _Alignof(float), 0);
        same_question(question, &read);
        free(bytes);
    }
    arena_free(&arena);
    buffer_free(&out);
}

static void questions_come_as_they_were(void **state)
{
    struct wire_question question = full_question();

    (void)state;
    check_question(&question);
    for (enum wire_op op = WIRE_GET; op <= WIRE_WAIT; op++) {
        question = (struct wire_question){.op = op, .limit = 1};
        check_question(&question);
    }
    question.filter = "";
    check_question(&question);
    question = (struct wire_question){.op = WIRE_GET, .include = INCLUDE_DELETED | INCLUDE_TEXT};
    check_question(&question);
}

static enum err_code decode_question(const void *data, size_t len)
{
    struct wire_question read;
    struct arena arena = {0};
    struct err err = {0};
    enum err_code rc = wire_question_decode(&read, data, len, &arena, &err);

    arena_free(&arena);
    return rc;
}

static void check_question_refused(const struct wire_question *question)
{
    struct buffer out = {0};

    wire_question_encode(question, &out);
    assert_int_equal(decode_question(out.data, out.len), ERR_INVALID_ARGUMENT);
    buffer_free(&out);
}

static void bad_questions_are_refused(void **state)
{
    static const float bad_vector[1] = {NAN};
    static const struct wire_id empty_id = {"", 0};
    struct wire_question question = full_question();
    struct buffer out = {0};

    (void)state;
    wire_question_encode(&question, &out);
    for (size_t len = 0; len < out.len; len++)
        assert_int_equal(decode_question(out.data, len), ERR_INVALID_ARGUMENT);
    buffer_append_byte(&out, 0);
    assert_int_equal(decode_question(out.data, out.len), ERR_INVALID_ARGUMENT);
    out.data[0]++;
    assert_int_equal(decode_question(out.data, out.len - 1), ERR_INVALID_ARGUMENT);
    buffer_free(&out);
    question.k = 0;
    check_question_refused(&question);
    question.k = TOP_K_MAX + 1;
    check_question_refused(&question);
    question = full_question();
    question.vector = NULL;
    check_question_refused(&question);
    question.vector = bad_vector;
    question.dim = 1;
    check_question_refused(&question);
    question = full_question();
    question.bound = NAN;
    check_question_refused(&question);
    question = full_question();
    question.recall = 0.4f;
    check_question_refused(&question);
    question.recall = NAN;
    check_question_refused(&question);
    question = full_question();
    question.ids = &empty_id;
    question.id_count = 1;
    check_question_refused(&question);
    question = full_question();
    question.wait_ms = DEADLINE_MS_MAX + 1;
    check_question_refused(&question);
    question = full_question();
    question.op = WIRE_WAIT + 1;
    check_question_refused(&question);
    question.op = WIRE_SCROLL;
    question.limit = 0;
    check_question_refused(&question);
    question = full_question();
    question.include = INCLUDE_DELETED; /* only a get finds what is gone */
    check_question_refused(&question);
}

static const struct wire_served served[2] = {{3, 100}, {1023, UINT64_MAX}};

static struct wire_row rows[2] = {
    {.id = "x", .id_len = 1, .stamp = {UINT64_MAX, UINT32_MAX}, .partition = 1023, .distance = 2},
    {.id = "kb/42",
     .id_len = 5,
     .stamp = {5, 1},
     .partition = 0,
     .distance = -0.5f,
     .text = "\"hi\"",
     .text_len = 4,
     .metadata = "{}",
     .metadata_len = 2,
     .vector = vector,
     .dim = 3}};

static struct wire_answer full_answer(void)
{
    return (struct wire_answer){.region = 7,
                                .served = served,
                                .served_count = 2,
                                .staleness_ns = 12345,
                                .took_ns = 678,
                                .stale = true,
                                .seen = {demands, 2, 2},
                                .map_version = 4,
                                .rows = rows,
                                .row_count = 2,
                                .more = true,
                                .count = 77,
                                .explain = "{\"plan\":1}",
                                .explain_len = 10};
}

static void same_row(const struct wire_row *a, const struct wire_row *b)
{
    same_run(a->id, a->id_len, b->id, b->id_len);
    assert_int_equal(stamp_compare(a->stamp, b->stamp), 0);
    assert_int_equal(a->partition, b->partition);
    assert_true(a->distance == b->distance);
    same_run(a->text, a->text_len, b->text, b->text_len);
    same_run(a->metadata, a->metadata_len, b->metadata, b->metadata_len);
    same_run(a->vector, a->dim * sizeof(float), b->vector, b->dim * sizeof(float));
}

static void answers_come_as_they_were(void **state)
{
    struct wire_answer answer = full_answer();
    struct wire_answer read;
    struct buffer out = {0};
    struct arena arena = {0};
    struct err err = {0};

    (void)state;
    wire_answer_encode(&answer, &out);
    assert_int_equal(wire_answer_decode(&read, out.data, out.len, &arena, &err), ERR_OK);
    assert_int_equal(read.region, 7);
    assert_int_equal(read.served_count, 2);
    assert_memory_equal(&read.served[0], &served[0], sizeof(served[0]));
    assert_memory_equal(&read.served[1], &served[1], sizeof(served[1]));
    assert_int_equal(read.staleness_ns, 12345);
    assert_int_equal(read.took_ns, 678);
    assert_true(read.stale);
    assert_true(read.more);
    same_token(&read.seen, &answer.seen);
    assert_int_equal(read.map_version, 4);
    assert_int_equal(read.count, 77);
    same_run(read.explain, read.explain_len, answer.explain, answer.explain_len);
    assert_int_equal(read.row_count, 2);
    same_row(&read.rows[0], &rows[0]);
    same_row(&read.rows[1], &rows[1]);
    for (size_t len = 0; len < out.len; len++)
        assert_int_equal(wire_answer_decode(&read, out.data, len, &arena, &err),
                         ERR_INVALID_ARGUMENT);
    buffer_reset(&out);
    answer = (struct wire_answer){.count = 3};
    wire_answer_encode(&answer, &out);
    assert_int_equal(wire_answer_decode(&read, out.data, out.len, &arena, &err), ERR_OK);
    assert_int_equal(read.count, 3);
    assert_null(read.rows);
    assert_null(read.explain);
    arena_free(&arena);
    buffer_free(&out);
}

static void check_row_refused(const struct wire_row *row)
{
    struct wire_row copy = *row;
    struct wire_answer answer = {.rows = &copy, .row_count = 1};
    struct wire_answer read;
    struct buffer out = {0};
    struct arena arena = {0};
    struct err err = {0};

    wire_answer_encode(&answer, &out);
    assert_int_equal(wire_answer_decode(&read, out.data, out.len, &arena, &err),
                     ERR_INVALID_ARGUMENT);
    arena_free(&arena);
    buffer_free(&out);
}

static void bad_rows_are_refused(void **state)
{
    struct wire_row row = rows[1];

    (void)state;
    row.distance = NAN;
    check_row_refused(&row);
    row = rows[1];
    row.text = "hi";
    row.text_len = 2;
    check_row_refused(&row);
    row = rows[1];
    row.metadata = "[]";
    check_row_refused(&row);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(questions_come_as_they_were),
        cmocka_unit_test(bad_questions_are_refused),
        cmocka_unit_test(answers_come_as_they_were),
        cmocka_unit_test(bad_rows_are_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
