/* Turns in front of the log: a flood of one writer leaves others their share, and their waits do
 * not grow with it.  Time is simulated: an append takes as long as its bytes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/checked.h"
#include "services/ingest/sequencer.h"

#define BATCHES   4096
#define QUEUE_MAX MIB(64)

static struct queue queue;
static struct sequence_batch *batches;
static size_t made;

static int set_up(void **state)
{
    (void)state;
    batches = calloc(BATCHES, sizeof(*batches));
    made = 0;
    return batches == NULL;
}

static int tear_down(void **state)
{
    struct sequence_batch *batch;

    (void)state;
    while ((batch = queue_any(&queue, false)) != NULL)
        queue_remove(&queue, batch);
    assert_null(queue.turn);
    assert_int_equal(queue.bytes, 0);
    assert_int_equal(queue.count, 0);
    assert_int_equal(queue.flows, 0);
    free(batches);
    return 0;
}

static struct sequence_batch *push(uint64_t tenant, uint64_t collection, size_t bytes)
{
    struct sequence_batch *batch = &batches[made++ % BATCHES];

    assert_null(batch->flow);
    *batch = (struct sequence_batch){.key = {tenant, collection}, .bytes = {.len = bytes}};
    assert_int_equal(queue_push(&queue, batch, NULL), ERR_OK);
    return batch;
}

static struct sequence_batch *take(void)
{
    struct sequence_batch *batch = queue_next(&queue);

    if (batch != NULL)
        queue_take(&queue, batch);
    return batch;
}

/* One append as the sequencer makes it: how many batches of this collection it had. */
static size_t append(uint64_t collection, uint64_t *clock)
{
    size_t bytes = 0, count = 0,
           most = queue.flows > 1 ? SEQUENCER_SHARED_MAX : SEQUENCER_GROUP_MAX;
    struct sequence_batch *batch;

    while ((batch = queue_next(&queue)) != NULL &&
           (bytes == 0 || bytes + batch->bytes.len <= most)) {
        queue_take(&queue, batch);
        bytes += batch->bytes.len;
        count += batch->key.collection == collection;
    }
    *clock += bytes;
    return count;
}

static void one_collection_keeps_its_order(void **state)
{
    (void)state;
    for (size_t i = 0; i < 100; i++)
        (void)push(1, 7, i % 5 * MIB(1));
    for (size_t i = 0; i < 100; i++)
        assert_ptr_equal(take(), &batches[i]);
    assert_null(take());
}

/* 64 MiB of one writer wait at any time; another one's record waits for the append under way and is
 * in the next but one at the latest. */
static void a_flood_does_not_hold_up_another_collection(void **state)
{
    uint64_t clock = 0, longest = 0;

    (void)state;
    for (int i = 0; i < 500; i++) {
        uint64_t began;
        unsigned appends = 0;

        while (queue.bytes < QUEUE_MAX)
            (void)push(1, 1, MIB(1) + MIB(1) / 2);
        (void)append(1, &clock);
        began = clock;
        (void)push(1, 2, 1000);
        do
            appends++;
        while (append(2, &clock) == 0);
        assert_true(appends <= 2);
        longest = MAX_OF(longest, clock - began);
    }
    assert_true(longest <= 2 * SEQUENCER_SHARED_MAX);
}

/* With many of its collections, too. */
static void a_flood_does_not_hold_up_another_tenant(void **state)
{
    uint64_t clock = 0;

    (void)state;
    for (int i = 0; i < 200; i++) {
        unsigned appends = 0;

        for (uint64_t c = 0; queue.bytes < QUEUE_MAX; c++)
            (void)push(1, 100 + c % 50, MIB(1) / 4);
        (void)push(2, 2, 1000);
        do
            appends++;
        while (append(2, &clock) == 0);
        assert_true(appends <= 2);
    }
}

/* Tenant 1 has three collections, tenant 2 has one; batches of all sizes. */
static void shares_are_equal_in_bytes(void **state)
{
    static const struct queue_key KEYS[] = {{1, 1}, {1, 2}, {1, 3}, {2, 4}};
    static const size_t SIZES[] = {100, KIB(300), MIB(1) + 77, KIB(9)};
    size_t sent[5] = {0}, waiting[5] = {0}, total = 0;

    (void)state;
    while (total < MIB(600)) {
        struct sequence_batch *batch;

        for (size_t i = 0; i < ARRAY_COUNT(KEYS); i++)
            while (waiting[KEYS[i].collection] < 4) {
                (void)push(KEYS[i].tenant, KEYS[i].collection,
                           SIZES[(made + i) % ARRAY_COUNT(SIZES)]);
                waiting[KEYS[i].collection]++;
            }
        batch = take();
        waiting[batch->key.collection]--;
        sent[batch->key.collection] += batch->bytes.len;
        total += batch->bytes.len;
    }
    for (size_t i = 1; i <= 3; i++)
        assert_in_range(sent[i], MIB(100) - MIB(4), MIB(100) + MIB(4));
    assert_in_range(sent[4], MIB(300) - MIB(4), MIB(300) + MIB(4));
}

static void room_is_shared_and_nobody_is_kept_out(void **state)
{
    struct queue_key flood = {1, 1}, other = {1, 2}, stranger = {2, 3}, ours = {0, 0};

    (void)state;
    assert_int_equal(queue_check(&queue, flood, 2 * QUEUE_MAX, QUEUE_MAX, NULL), ERR_OK);
    while (queue_check(&queue, flood, MIB(1), QUEUE_MAX, NULL) == ERR_OK)
        (void)push(1, 1, MIB(1));
    assert_in_range(queue.bytes, QUEUE_MAX / 2 - MIB(1), QUEUE_MAX / 2);
    assert_int_equal(queue_check(&queue, flood, MIB(1), QUEUE_MAX, NULL), ERR_RATE_LIMITED);
    assert_int_equal(queue_check(&queue, other, MIB(1), QUEUE_MAX, NULL), ERR_OK);
    assert_int_equal(queue_check(&queue, stranger, MIB(1), QUEUE_MAX, NULL), ERR_OK);
    for (uint64_t c = 10; c < 200; c++) /* many floods of one tenant */
        while (queue_check(&queue, (struct queue_key){1, c}, MIB(1), QUEUE_MAX, NULL) == ERR_OK &&
               queue.bytes < QUEUE_MAX - MIB(20))
            (void)push(1, c, MIB(1));
    assert_int_equal(queue_check(&queue, flood, MIB(1), QUEUE_MAX, NULL), ERR_RATE_LIMITED);
    assert_int_equal(queue_check(&queue, other, MIB(1), QUEUE_MAX, NULL), ERR_OK);
    (void)push(2, 3, MIB(1));
    assert_int_equal(queue_check(&queue, stranger, MIB(8), QUEUE_MAX, NULL), ERR_OK);
    assert_int_equal(queue_check(&queue, ours, MIB(16), QUEUE_MAX, NULL), ERR_OK);
    (void)push(0, 0, MIB(16));
    assert_int_equal(queue_check(&queue, other, MIB(8), QUEUE_MAX, NULL), ERR_UNAVAILABLE);
}

static void whoever_leaves_takes_nothing_along(void **state)
{
    struct sequence_batch *waiting[300];
    uint64_t seed = 20261121;

    (void)state;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 200; round++) {
        size_t count = 0, bytes = 0, taken = 0;

        for (; count < ARRAY_COUNT(waiting); count++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            waiting[count] = push(seed >> 60, seed >> 50 & 7, seed >> 40 & 0xfffff);
            waiting[count]->generation = seed >> 33 & 1;
        }
        for (size_t i = 0; i < count; i++) {
            seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
            if (seed >> 62 == 0)
                queue_remove(&queue, waiting[i]);
            else
                bytes += waiting[i]->bytes.len;
        }
        assert_int_equal(queue.bytes, bytes);
        for (struct sequence_batch *batch; (batch = queue_any(&queue, true)) != NULL; taken++) {
            assert_int_equal(batch->generation, 1);
            queue_remove(&queue, batch);
        }
        assert_true(taken > 0 && queue.count > 0);
        for (struct sequence_batch *batch; (batch = take()) != NULL;)
            assert_int_equal(batch->generation, 0);
        assert_int_equal(queue.count, 0);
    }
}

int main(void)
{
#define PROMISE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        PROMISE(one_collection_keeps_its_order),
        PROMISE(a_flood_does_not_hold_up_another_collection),
        PROMISE(a_flood_does_not_hold_up_another_tenant),
        PROMISE(shares_are_equal_in_bytes),
        PROMISE(room_is_shared_and_nobody_is_kept_out),
        PROMISE(whoever_leaves_takes_nothing_along),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
