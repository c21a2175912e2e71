/* A shard's life: freshness and tokens, rewrites under searches, restarts, other logs, drops. */
#include "tests/unit/shard_rig.h"

#include <pthread.h>

#define DIM       4u
#define REWRITES  400u
#define SEARCHERS 3u

static const float here[DIM] = {1, 2, 3, 4};
static const float far_off[DIM] = {-4, 3, -2, 1};

/* Is the id there, as a get sees it? */
static bool has(struct rig *rig, const struct collection *collection, const char *id)
{
    struct wire_question question = rig_question(collection, WIRE_GET);
    struct wire_id wanted = {.data = id, .len = strlen(id)};
    struct reply_of reply;
    bool found;

    question.ids = &wanted;
    question.id_count = 1;
    question.fresh = true;
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    found = reply.answer.row_count == 1;
    reply_free(&reply);
    return found;
}

static enum err_code wait_for(struct rig *rig, struct wire_question *question, struct err *err)
{
    struct reply_of reply;
    enum err_code code;

    rig_ask(rig, &reply, question);
    code = reply.code;
    if (err != NULL)
        *err = reply.req.err;
    reply_free(&reply);
    return code;
}

static struct token token_of(struct token_entry *entry)
{
    return (struct token){.entries = entry, .count = 1, .size = 1};
}

/* --- freshness ---------------------------------------------------------------------------------
 */

static void a_fresh_read_sees_what_was_just_appended(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    char id[16];

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        snprintf(id, sizeof(id), "%u", i);
        rig_upsert(rig, &collection, id, here, NULL);
        assert_true(has(rig, &collection, id));
        rig_delete(rig, &collection, id);
        assert_false(has(rig, &collection, id));
    }
    rig_free(rig);
}

static void a_token_is_waited_for(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    char id[16];

    (void)state;
    for (unsigned i = 0; i < 100; i++) {
        struct wire_question question = rig_question(&collection, WIRE_SEARCH);
        struct token_entry entry = {.region = wal_region(rig->writer)};
        struct reply_of reply;

        snprintf(id, sizeof(id), "%u", i);
        entry.partition = rig_upsert(rig, &collection, id, here, NULL);
        entry.position = rig->ends[entry.partition];
        question.demands = token_of(&entry);
        question.vector = here;
        question.dim = DIM;
        question.k = 1000;
        rig_ask(rig, &reply, &question);
        must(reply.code, &reply.req.err);
        assert_int_equal(reply.answer.row_count, i + 1);
        assert_true(reply.answer.served[entry.partition].position >= entry.position);
        assert_false(reply.answer.stale);
        reply_free(&reply);
    }
    rig_free(rig);
}

static void tokens_of_other_logs_are_refused_at_once(void **state)
{
    struct rig *rig = rig_ready();
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct token_entry entry = {.region = wal_region(rig->writer), .position = rig->ends[0] + 1};

    (void)state;
    question.demands = token_of(&entry);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_TOKEN_LOG_GONE); /* beyond the end */
    entry.position = rig->ends[0];
    assert_int_equal(wait_for(rig, &question, NULL), ERR_OK);
    entry.partition = RIG_PARTITIONS;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_INVALID_ARGUMENT);
    entry = (struct token_entry){.region = wal_region(rig->writer) + 1, .position = 1};
    assert_int_equal(wait_for(rig, &question, NULL), ERR_TOKEN_LOG_GONE); /* nobody knows it */
    entry.region = 0;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_TOKEN_LOG_GONE); /* no log has that */
    rig_free(rig);
}

static void what_cannot_be_met_is_behind_or_stale(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    struct record record = {.op = RECORD_DELETE,
                            .stamp = {.clock = 500, .region = 77},
                            .origin_region = 77,
                            .origin_offset = 8,
                            .id = "x",
                            .id_len = 1};
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct token_entry entry = {.region = 77, .position = 10};
    struct reply_of reply;

    (void)state;
    memcpy(record.incarnation, collection.incarnation, INCARNATION_BYTES);
    rig_append(rig, 0, record);
    rig_catch_up(rig);
    question.demands = token_of(&entry);
    question.wait_ms = 30;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_BEHIND);
    question.serve_stale = true;
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    assert_true(reply.answer.stale);
    assert_int_equal(token_position(&reply.answer.seen, 77, 0), 9);
    reply_free(&reply);
    entry.position = 9;
    question.serve_stale = false;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_OK);
    rig_free(rig);
}

static void staleness_is_measured_and_bounded(void **state)
{
    struct rig *rig = rig_ready();
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct reply_of reply;

    (void)state;
    question.max_staleness_ns = 0; /* everything before the request arrived */
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    assert_true(reply.answer.staleness_ns < 60 * NS_PER_S);
    reply_free(&reply);
    rig_free(rig);
}

static void *wait_behind(void *argument)
{
    struct rig *rig = argument;
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct token_entry entry = {.region = 77, .position = 10};

    question.demands = token_of(&entry);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_UNAVAILABLE);
    return NULL;
}

static uint32_t waiters_of(struct rig *rig)
{
    uint32_t waiters;

    pthread_mutex_lock(&rig->shard.lock);
    waiters = rig->shard.waiters;
    pthread_mutex_unlock(&rig->shard.lock);
    return waiters;
}

static void few_wait_and_a_stop_wakes_them(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    struct record record = {.op = RECORD_DELETE,
                            .stamp = {.clock = 500, .region = 77},
                            .origin_region = 77,
                            .id = "x",
                            .id_len = 1};
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct token_entry entry = {.region = 77, .position = 10};
    pthread_t threads[4];

    (void)state;
    memcpy(record.incarnation, collection.incarnation, INCARNATION_BYTES);
    rig_append(rig, 0, record);
    rig_catch_up(rig);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        pthread_create(&threads[i], NULL, wait_behind, rig);
    for (unsigned i = 0; i < RIG_WAIT_MS && waiters_of(rig) < 4; i++)
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    assert_int_equal(waiters_of(rig), 4);
    question.demands = token_of(&entry);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_BEHIND); /* at once: one too many */
    shard_stop(&rig->shard);
    for (size_t i = 0; i < ARRAY_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    rig_free(rig);
}

/* --- rewrites ----------------------------------------------------------------------------------
 */

struct hunt {
    struct rig *rig;
    const struct collection *collection;
    atomic_bool is_over;
    atomic_uint searches;
    atomic_uint misses;
};

static void *search_on(void *argument)
{
    struct hunt *hunt = argument;

    for (unsigned i = 0; !atomic_load(&hunt->is_over); i++) {
        struct wire_question question = rig_question(hunt->collection, WIRE_SEARCH);
        struct reply_of reply;

        question.vector = here;
        question.dim = DIM;
        question.k = 1 + i % 3;
        if (i % 4 == 3) {
            question.filter = "{\"hot\":true}";
            question.filter_len = strlen(question.filter);
        }
        rig_ask(hunt->rig, &reply, &question);
        if (reply.code != ERR_OK || reply.answer.row_count < 1 ||
            !row_is(&reply.answer.rows[0], "hot"))
            atomic_fetch_add(&hunt->misses, 1);
        reply_free(&reply);
        atomic_fetch_add(&hunt->searches, 1);
    }
    return NULL;
}

static void a_rewritten_record_is_never_absent(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    struct hunt hunt = {.rig = rig, .collection = &collection};
    pthread_t threads[SEARCHERS];
    char id[16];

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        snprintf(id, sizeof(id), "%u", i);
        rig_upsert(rig, &collection, id, far_off, NULL);
    }
    rig_upsert(rig, &collection, "hot", here, "{\"hot\":true}");
    rig_catch_up(rig);
    for (size_t i = 0; i < SEARCHERS; i++)
        pthread_create(&threads[i], NULL, search_on, &hunt);
    for (unsigned i = 0; i < REWRITES || atomic_load(&hunt.searches) < 1000; i++)
        rig_upsert(rig, &collection, "hot", here, "{\"hot\":true}");
    rig_catch_up(rig);
    atomic_store(&hunt.is_over, true);
    for (size_t i = 0; i < SEARCHERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(atomic_load(&hunt.misses), 0);
    rig_free(rig);
}

static void replaced_ordinals_leave_the_engine(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    struct shard_collection *entry;
    uint64_t count = 0;

    (void)state;
    for (unsigned i = 0; i < 50; i++)
        rig_upsert(rig, &collection, "a", here, NULL);
    rig_catch_up(rig);
    entry = collections_get(&rig->shard, collection.incarnation);
    for (unsigned i = 0; i < RIG_WAIT_MS; i++) {
        count = engine_count(entry->engine);
        if (count == 1 && atomic_load(&entry->pending) == 0)
            break;
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    assert_int_equal(count, 1);
    assert_int_equal(atomic_load(&entry->pending), 0);
    collections_put(&rig->shard, entry);
    rig_free(rig);
}

/* --- restarts ----------------------------------------------------------------------------------
 */

static struct hash128 digest_of(struct rig *rig)
{
    struct hash128 sum = {0};

    pthread_mutex_lock(&rig->shard.lock);
    for (uint32_t slot = 0; slot < rig->shard.served_count; slot++) {
        sum.low ^= rig->shard.partitions[slot].counts.digest.low + slot;
        sum.high ^= rig->shard.partitions[slot].counts.digest.high + slot;
    }
    pthread_mutex_unlock(&rig->shard.lock);
    return sum;
}

static void fill(struct rig *rig, const struct collection *collection, unsigned from, unsigned to)
{
    char id[16];

    for (unsigned i = from; i < to; i++) {
        float vector[DIM] = {(float)i, 1, 2, 3};

        snprintf(id, sizeof(id), "%u", i);
        rig_upsert(rig, collection, id, vector, NULL);
    }
}

static size_t found_by_search(struct rig *rig, const struct collection *collection)
{
    struct wire_question question = rig_question(collection, WIRE_SEARCH);
    struct reply_of reply;
    size_t count;

    question.vector = here;
    question.dim = DIM;
    question.k = 1000;
    question.fresh = true;
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    count = reply.answer.row_count;
    reply_free(&reply);
    return count;
}

static void a_restart_goes_on_where_it_was(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_L2);
    struct hash128 before, after;

    (void)state;
    fill(rig, &collection, 0, 100);
    rig_delete(rig, &collection, "7");
    assert_int_equal(found_by_search(rig, &collection), 99);
    before = digest_of(rig);
    rig_close_shard(rig);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(rig->shard.generation, 0); /* nothing was cleared */
    assert_int_equal(found_by_search(rig, &collection), 99);
    after = digest_of(rig);
    assert_memory_equal(&before, &after, sizeof(before));
    /* What is appended while it is down is read afterwards. */
    rig_close_shard(rig);
    fill(rig, &collection, 100, 150);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(found_by_search(rig, &collection), 149);
    /* The log alone gives the same state. */
    before = digest_of(rig);
    rig_close_shard(rig);
    must(store_clear(rig->store, NULL), NULL);
    rig_open_shard(rig);
    rig_await_ready(rig);
    after = digest_of(rig);
    assert_memory_equal(&before, &after, sizeof(before));
    rig_free(rig);
}

/* Change one byte of what the store remembers of the record before partition 0's position. */
static void forge_lineage(struct rig *rig)
{
    static const uint8_t key[] = {'p', 0, 0, 0, 0};
    struct store_value value, where = {.data = key, .len = sizeof(key)};
    struct store_txn *txn = NULL;
    struct err err = {0};
    uint8_t row[4096];

    must(store_begin(&txn, rig->store, true, &err), &err);
    must(store_get(txn, STORE_META, where, &value, &err), &err);
    assert_true(value.len <= sizeof(row));
    memcpy(row, value.data, value.len);
    row[24] ^= 1; /* the CRC, behind position and epoch */
    must(store_put(txn, STORE_META, where, (struct store_value){.data = row, .len = value.len},
                   &err),
         &err);
    must(store_commit(txn, &err), &err);
}

static void another_lineage_is_built_anew(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_L2);
    struct hash128 before, after;

    (void)state;
    fill(rig, &collection, 0, 60);
    assert_int_equal(found_by_search(rig, &collection), 60);
    before = digest_of(rig);
    rig_close_shard(rig);
    forge_lineage(rig);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_true(rig->shard.generation > 0);
    assert_int_equal(found_by_search(rig, &collection), 60);
    after = digest_of(rig);
    assert_memory_equal(&before, &after, sizeof(before));
    /* A log with another region number: nothing of the old one is left. */
    rig_close_shard(rig);
    wal_close(rig->writer);
    rig_open_log(rig, "other");
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(found_by_search(rig, &collection), 0);
    collection = rig_collection(rig, "d", DIM, METRIC_L2);
    fill(rig, &collection, 0, 5);
    assert_int_equal(found_by_search(rig, &collection), 5);
    rig_free(rig);
}

static void a_shard_waits_for_map_and_log(void **state)
{
    struct rig *rig = rig_new();
    struct wire_question question = rig_question(NULL, WIRE_WAIT);
    struct buffer why = {0};

    (void)state;
    snprintf(rig->wal_url, sizeof(rig->wal_url), "file:%s/wal", rig->dir);
    rig_open_shard(rig);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_UNAVAILABLE);
    assert_false(shard_ready(&rig->shard, &why));
    assert_true(why.len > 2 && why.data[0] == '"');
    buffer_free(&why);
    rig_put_map(rig, 1);
    rig_open_log(rig, "wal");
    rig_await_ready(rig);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_OK);
    rig_free(rig);
}

static void another_map_makes_another_shard(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_L2);
    struct shard_map *map = calloc(1, sizeof(*map));
    struct partition_set mine;
    uint32_t served = RIG_PARTITIONS;

    (void)state;
    fill(rig, &collection, 0, 40);
    assert_int_equal(found_by_search(rig, &collection), 40);
    rig_put_map(rig, 2);
    *map = (struct shard_map){
        .version = 2, .partitions = RIG_PARTITIONS, .shards = 2, .replicas = 1, .weights = {1, 1}};
    shard_map_place(map);
    shard_map_partitions(map, 0, &mine);
    for (unsigned i = 0; i < RIG_WAIT_MS && served != partition_set_count(&mine); i++) {
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
        pthread_mutex_lock(&rig->shard.lock);
        served = rig->shard.is_open ? rig->shard.served_count : 0;
        pthread_mutex_unlock(&rig->shard.lock);
    }
    assert_int_equal(served, partition_set_count(&mine));
    assert_true(found_by_search(rig, &collection) < 40);
    free(map);
    rig_free(rig);
}

/* --- a store that fails ------------------------------------------------------------------------
 */

/* Rewrites and deletes in several partitions; 35 records are left. */
static void churn(struct rig *rig, const struct collection *collection)
{
    char id[16];

    fill(rig, collection, 0, 40);
    fill(rig, collection, 10, 20);
    for (unsigned i = 0; i < 5; i++) {
        snprintf(id, sizeof(id), "%u", i);
        rig_delete(rig, collection, id);
    }
}

static void a_failed_batch_is_undone_and_read_again(void **state)
{
    (void)state;
    for (unsigned call = 1; call < 160; call += 7) {
        struct rig *rig = rig_new();
        struct faulty *faulty = faulty_new(true);
        struct collection collection;

        store_close(rig->store);
        rig->store = &faulty->base;
        rig_open_log(rig, "wal");
        rig_put_map(rig, 1);
        rig_open_shard(rig);
        rig_await_ready(rig);
        collection = rig_collection(rig, "c", DIM, METRIC_L2);
        fill(rig, &collection, 0, 3);
        rig_catch_up(rig);
        faulty_fail_at(faulty, call);
        churn(rig, &collection);
        assert_int_equal(found_by_search(rig, &collection), 35);
        assert_int_equal(rig->shard.generation, 1); /* nothing was cleared after the creation */
        assert_true(has(rig, &collection, "12"));
        assert_false(has(rig, &collection, "3"));
        rig_free(rig);
    }
}

/* --- drops -------------------------------------------------------------------------------------
 */

static void a_dropped_collection_is_gone(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_L2);
    struct collection again = collection;
    struct wire_question question;

    (void)state;
    fill(rig, &collection, 0, 30);
    assert_int_equal(found_by_search(rig, &collection), 30);
    rig_change(rig, &collection, COLLECTION_DROP);
    question = rig_question(&collection, WIRE_COUNT);
    question.fresh = true;
    assert_int_equal(wait_for(rig, &question, NULL), ERR_COLLECTION_NOT_FOUND);
    again.generation = 1;
    collection_identify(&again);
    rig_change(rig, &again, COLLECTION_CREATE);
    assert_int_equal(found_by_search(rig, &again), 0);
    fill(rig, &again, 0, 3);
    assert_int_equal(found_by_search(rig, &again), 3);
    rig_close_shard(rig);
    rig_open_shard(rig);
    rig_await_ready(rig);
    assert_int_equal(wait_for(rig, &question, NULL), ERR_COLLECTION_NOT_FOUND);
    assert_int_equal(found_by_search(rig, &again), 3);
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_fresh_read_sees_what_was_just_appended),
        cmocka_unit_test(a_token_is_waited_for),
        cmocka_unit_test(tokens_of_other_logs_are_refused_at_once),
        cmocka_unit_test(what_cannot_be_met_is_behind_or_stale),
        cmocka_unit_test(staleness_is_measured_and_bounded),
        cmocka_unit_test(few_wait_and_a_stop_wakes_them),
        cmocka_unit_test(a_rewritten_record_is_never_absent),
        cmocka_unit_test(replaced_ordinals_leave_the_engine),
        cmocka_unit_test(a_restart_goes_on_where_it_was),
        cmocka_unit_test(another_lineage_is_built_anew),
        cmocka_unit_test(a_shard_waits_for_map_and_log),
        cmocka_unit_test(another_map_makes_another_shard),
        cmocka_unit_test(a_failed_batch_is_undone_and_read_again),
        cmocka_unit_test(a_dropped_collection_is_gone),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
