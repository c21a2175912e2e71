/* Runs of another region: each record is in the log once, in order, as it was written there. */
#include "tests/unit/foreign_rig.h"

static void overlap_is_dropped_and_a_gap_is_refused(void **state)
{
    struct tally tally = {.foreign_clock = 5000};
    struct run run;
    uint64_t position;
    char detail[320];

    (void)state;
    run = run_of(1, 0, 6, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 6);
    run = run_of(1, 8, 9, 5000);
    assert_int_equal(send_run(&run, NULL, detail), 409);
    assert_non_null(strstr(detail, "position 6 "));
    run = run_of(1, 3, 9, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 9);
    run = run_of(1, 2, 5, 5000); /* nothing new */
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 9);
    look_at(1, count_record, &tally);
    assert_int_equal(tally.foreign, 9);
}

static void runs_that_bring_nothing_use_up_no_region(void **state)
{
    struct run run;
    uint64_t position;

    (void)state;
    for (uint32_t i = 0; i < 2 * VERSION_ENTRIES_MAX; i++) {
        run = (struct run){.region = 1000 + i, .partition = 1, .from = i % 2, .to = i % 2};
        assert_int_equal(send_run(&run, NULL, NULL), i % 2 == 0 ? 200 : 409);
    }
    run = run_of(1, 0, 6, 5000);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 6);
}

static void a_run_without_records_moves_the_vector_for_good(void **state)
{
    struct run run = {.region = REGION, .partition = 3, .from = 0, .to = 40};
    struct tally tally = {0};
    uint64_t position;

    (void)state;
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 40);
    look_at(3, count_record, &tally);
    assert_int_equal(tally.vectors, 1);
    assert_int_equal(version_vector_find(&tally.vector, REGION)->position, 40);
    life_end();
    begin();
    run = run_of(3, 41, 42, 1);
    assert_int_equal(send_run(&run, NULL, NULL), 409);
    run = run_of(3, 40, 42, 1);
    assert_int_equal(send_run(&run, &position, NULL), 200);
    assert_int_equal(position, 42);
}

static void stamps_are_kept_and_raise_the_clock(void **state)
{
    uint64_t ahead = env_wall_us(env_real()) + 100 * (uint64_t)1000000;
    struct tally tally = {.foreign_clock = ahead};
    struct run run = run_of(2, 0, 3, ahead);
    char body[128], id[32];

    (void)state;
    assert_int_equal(
        ask_json("PUT", "/v1/collections/docs", "{\"vector\":{\"dimension\":2}}", NULL), 201);
    assert_int_equal(send_run(&run, NULL, NULL), 200);
    (void)id_of(2, 50, id);
    (void)snprintf(body, sizeof(body), "{\"records\":[{\"id\":\"%s\",\"vector\":[1,2]}]}", id);
    assert_int_equal(ask_json("POST", "/v1/collections/docs/records", body, NULL), 200);
    look_at(2, count_record, &tally);
    assert_int_equal(tally.local, 1);
    assert_true(tally.local_clock > ahead + 2);
}

/* One that is taken is the highest clock there is: what is written here afterwards would be lost.
 */
static void a_clock_that_cannot_be_is_refused(void **state)
{
    struct collection collection = foreign_collection("late", 2, UINT64_MAX);
    struct run run = run_of(1, 0, 1, UINT64_MAX);

    (void)state;
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 1, (uint64_t)INT64_MAX + 1);
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    assert_int_equal(send_collection(&collection, 0), 400);
    run = run_of(1, 0, 1, INT64_MAX);
    assert_int_equal(send_run(&run, NULL, NULL), 200);
}

static void a_run_that_lies_is_refused_whole(void **state)
{
    struct tally tally = {0};
    struct run run;
    struct record record;
    char id[32];

    (void)state;
    run = run_of(1, 0, 3, 1);
    run.partition = 2; /* ids of another partition */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.region = 78; /* records of another origin */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.region = life.ingest.sequencer.region;
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.to = 2; /* an offset beyond */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.count = 2; /* bytes left over */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.count = 4; /* bytes missing */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 3, 1);
    run.records.data[40] ^= 1; /* damage */
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    run = run_of(1, 0, 1, 1);
    run.to = 5;
    record = (struct record){.op = RECORD_EPOCH,
                             .stamp = {.clock = 9, .region = REGION},
                             .origin_region = REGION,
                             .origin_offset = 3,
                             .payload = INCARNATION,
                             .payload_len = HOLDER_BYTES};
    run_add(&run, &record);
    assert_int_equal(send_run(&run, NULL, NULL), 400);
    (void)id_of(1, 0, id);
    look_at(1, count_record, &tally);
    assert_int_equal(tally.foreign, 0);
}

static void runs_of_several_partitions_are_one_append(void **state)
{
    struct run runs[3] = {run_of(0, 0, 5, 1000), run_of(2, 0, 7, 2000), run_of(3, 0, 0, 0)};
    unsigned before = wal_faulty_appends(life.log);
    uint64_t position;
    json_t *answer, *answered;

    (void)state;
    assert_int_equal(send_runs(runs, 3, &answer), 200);
    assert_int_equal(wal_faulty_appends(life.log), before + 1);
    answered = json_object_get(answer, "runs");
    assert_int_equal(json_array_size(answered), 3);
    assert_int_equal(read_run(json_array_get(answered, 0), &position, NULL), 200);
    assert_int_equal(position, 5);
    assert_int_equal(read_run(json_array_get(answered, 1), &position, NULL), 200);
    assert_int_equal(position, 7);
    assert_int_equal(read_run(json_array_get(answered, 2), &position, NULL), 200);
    assert_int_equal(position, 0);
    json_decref(answer);
}

static void a_gap_in_one_run_does_not_hold_up_the_others(void **state)
{
    struct run runs[2] = {run_of(1, 3, 6, 1000), run_of(2, 0, 4, 2000)};
    uint64_t position;
    json_t *answer, *answered;

    (void)state;
    assert_int_equal(send_runs(runs, 2, &answer), 200);
    answered = json_object_get(answer, "runs");
    assert_int_equal(read_run(json_array_get(answered, 0), &position, NULL), 409);
    assert_int_equal(position, 0);
    assert_int_equal(read_run(json_array_get(answered, 1), &position, NULL), 200);
    assert_int_equal(position, 4);
    json_decref(answer);
}

static void a_partition_stands_once_in_a_request(void **state)
{
    struct run runs[2] = {run_of(1, 0, 2, 1000), run_of(1, 2, 4, 2000)};
    struct run none = run_of(1, 0, 0, 0);
    json_t *answer;

    (void)state;
    assert_int_equal(send_runs(runs, 2, &answer), 400);
    json_decref(answer);
    assert_int_equal(send_runs(&none, 0, &answer), 400);
    json_decref(answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        PROMISE(overlap_is_dropped_and_a_gap_is_refused),
        PROMISE(runs_that_bring_nothing_use_up_no_region),
        PROMISE(a_run_without_records_moves_the_vector_for_good),
        PROMISE(stamps_are_kept_and_raise_the_clock),
        PROMISE(a_clock_that_cannot_be_is_refused),
        PROMISE(a_run_that_lies_is_refused_whole),
        PROMISE(runs_of_several_partitions_are_one_append),
        PROMISE(a_gap_in_one_run_does_not_hold_up_the_others),
        PROMISE(a_partition_stands_once_in_a_request),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
