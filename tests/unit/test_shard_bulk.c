/* Bulk manifests at a shard: their rows are upserts with the manifest's stamp, once however often
 * they are delivered; what they name is waited for, loudly, and only if it counts. */
#include "tests/unit/shard_rig.h"

#include "backends/blob/blob.h"
#include "common/model/bulk.h"

#define DIM    4u
#define REGION 7u
#define ROWS   300u

static struct rig *bulk_rig(void)
{
    struct rig *rig = rig_new();
    struct err err = {0};
    char url[128];

    (void)snprintf(url, sizeof(url), "file:%s/blob", rig->dir);
    must(blob_open(&rig->blob, url, env_real(), &err), &err);
    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    rig_open_shard(rig);
    rig_await_ready(rig);
    return rig;
}

static void bulk_free(struct rig *rig)
{
    struct blob *blob = rig->blob;

    rig_free(rig);
    blob_close(blob);
}

static struct stamp at(uint64_t clock)
{
    return (struct stamp){.clock = clock, .region = REGION};
}

/* The n-th row of the test; false: it is of another partition. */
static bool row_of(unsigned n, uint32_t partition, struct bulk_row *row, char id[16],
                   float vector[DIM])
{
    size_t len = (size_t)snprintf(id, 16, "row-%u", n);

    for (unsigned i = 0; i < DIM; i++)
        vector[i] = (float)(n * (i + 1) % 31) - 7;
    *row = (struct bulk_row){.id = id,
                             .id_len = len,
                             .vector = n % 5 == 0 ? NULL : vector,
                             .text = "t\"x",
                             .text_len = n % 3,
                             .metadata = "{\"a\":1}",
                             .metadata_len = 7};
    if (n % 3 == 0)
        row->text = NULL;
    return record_partition(id, len, RIG_PARTITIONS) == partition;
}

/* All rows of a partition, as a section that is an object of its own. */
static uint32_t section_of(uint32_t partition, struct buffer *out)
{
    uint32_t rows = 0;

    for (unsigned n = 0; n < ROWS; n++) {
        struct bulk_row row;
        float vector[DIM];
        char id[16];

        if (!row_of(n, partition, &row, id, vector))
            continue;
        bulk_row_encode(out, &row, DIM);
        rows++;
    }
    assert_false(out->failed);
    return rows;
}

struct delivery {
    uint32_t partition;
    struct stamp stamp;
    uint64_t epoch; /* 0: that in force */
    bool without_object;
    const char *name;
};

static void append_section(struct rig *rig, const struct collection *collection,
                           const struct delivery *delivery, const struct buffer *section,
                           uint32_t rows)
{
    struct bulk_manifest manifest = {.section = {.rows = rows,
                                                 .bytes = section->len,
                                                 .hash = hash_xxh128(section->data, section->len)}};
    struct record record = {
        .op = RECORD_BULK_MANIFEST, .stamp = delivery->stamp, .epoch = delivery->epoch};
    struct buffer payload = {0};
    struct err err = {0};

    (void)snprintf(manifest.name, sizeof(manifest.name), "%s-%u", delivery->name,
                   delivery->partition);
    if (!delivery->without_object)
        must(blob_put(rig->blob, manifest.name, section->data, section->len, &err), &err);
    bulk_manifest_encode(&manifest, &payload);
    record.payload = payload.data;
    record.payload_len = payload.len;
    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    rig_append(rig, delivery->partition, record);
    buffer_free(&payload);
}

static void append_bulk(struct rig *rig, const struct collection *collection,
                        struct delivery delivery)
{
    struct buffer section = {0};
    uint32_t rows = section_of(delivery.partition, &section);

    append_section(rig, collection, &delivery, &section, rows);
    buffer_free(&section);
}

static void append_single(struct rig *rig, const struct collection *collection, unsigned n,
                          struct stamp stamp)
{
    struct bulk_row row;
    float vector[DIM];
    char id[16];

    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        struct record record = {.op = RECORD_UPSERT, .stamp = stamp};

        if (!row_of(n, p, &row, id, vector))
            continue;
        record.id = row.id;
        record.id_len = row.id_len;
        record.vector = row.vector;
        record.vector_bytes = row.vector == NULL ? 0 : sizeof(vector);
        record.text = row.text;
        record.text_len = row.text_len;
        record.metadata = row.metadata;
        record.metadata_len = row.metadata_len;
        memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
        rig_append(rig, p, record);
    }
}

static struct apply_counts counts_of(struct rig *rig, uint32_t partition)
{
    struct apply_counts counts;

    pthread_mutex_lock(&rig->shard.lock);
    counts = rig->shard.partitions[rig->shard.slot_of[partition]].counts;
    pthread_mutex_unlock(&rig->shard.lock);
    return counts;
}

static void expect_same(struct rig *a, struct rig *b)
{
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++) {
        struct apply_counts x = counts_of(a, p), y = counts_of(b, p);

        assert_int_equal(x.live, y.live);
        assert_int_equal(x.tombstones, y.tombstones);
        assert_true(x.digest.low == y.digest.low && x.digest.high == y.digest.high);
    }
}

static uint32_t ordinals_given(struct rig *rig)
{
    uint32_t committed;

    pthread_mutex_lock(&rig->shard.lock);
    committed = rig->shard.collections[0]->committed;
    pthread_mutex_unlock(&rig->shard.lock);
    return committed;
}

static uint64_t count(struct rig *rig, const struct collection *collection, bool fresh)
{
    struct wire_question question = rig_question(collection, WIRE_COUNT);
    struct reply_of reply;
    uint64_t found;

    question.fresh = fresh;
    rig_ask(rig, &reply, &question);
    must(reply.code, &reply.req.err);
    found = reply.answer.count;
    reply_free(&reply);
    return found;
}

static void await_failure(struct rig *rig, const char *word)
{
    bool told = false;

    for (unsigned i = 0; i < RIG_WAIT_MS && !told; i++) {
        pthread_mutex_lock(&rig->shard.lock);
        told = rig->shard.state == SHARD_FAILED && strstr(rig->shard.detail, word) != NULL;
        pthread_mutex_unlock(&rig->shard.lock);
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    assert_true(told);
}

/* --- the promises ---------------------------------------------------------------------------- */

static void rows_are_upserts_with_the_manifests_stamp(void **state)
{
    struct rig *bulk = bulk_rig(), *single = bulk_rig();
    struct collection a = rig_collection(bulk, "c", DIM, METRIC_COSINE);
    struct collection b = rig_collection(single, "c", DIM, METRIC_COSINE);
    struct wire_question question = rig_question(&a, WIRE_SEARCH);
    struct reply_of left, right;
    float vector[DIM] = {3, -2, 1, 9};

    (void)state;
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        append_bulk(bulk, &a, (struct delivery){.partition = p, .stamp = at(500), .name = "x"});
    for (unsigned n = 0; n < ROWS; n++)
        append_single(single, &b, n, at(500));
    assert_int_equal(count(bulk, &a, true), ROWS);
    assert_int_equal(count(single, &b, true), ROWS);
    expect_same(bulk, single);
    question.vector = vector;
    question.dim = DIM;
    question.k = 20;
    rig_ask(bulk, &left, &question);
    rig_ask(single, &right, &question);
    must(left.code, &left.req.err);
    assert_int_equal(left.answer.row_count, 20);
    for (size_t i = 0; i < 20; i++) {
        assert_true(left.answer.rows[i].distance == right.answer.rows[i].distance);
    }
    reply_free(&left);
    reply_free(&right);
    bulk_free(bulk);
    bulk_free(single);
}

static void in_any_order_the_newest_stamp_wins_once(void **state)
{
    struct rig *bulk = bulk_rig(), *single = bulk_rig();
    struct collection a = rig_collection(bulk, "c", DIM, METRIC_COSINE);
    struct collection b = rig_collection(single, "c", DIM, METRIC_COSINE);
    uint32_t given;

    (void)state;
    for (unsigned n = 0; n < ROWS; n += 3) /* some older, some newer, some of the same stamp */
        append_single(bulk, &a, n, at(499 + n % 4));
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        append_bulk(bulk, &a, (struct delivery){.partition = p, .stamp = at(500), .name = "x"});
    for (unsigned n = 0; n < ROWS; n++)
        append_single(single, &b, n, at(n % 3 == 0 && n % 4 > 1 ? 499 + n % 4 : 500));
    assert_int_equal(count(bulk, &a, true), ROWS);
    assert_int_equal(count(single, &b, true), ROWS);
    expect_same(bulk, single);
    /* Delivered again, from another object even: nothing changes, no ordinal is used. */
    given = ordinals_given(bulk);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        append_bulk(bulk, &a, (struct delivery){.partition = p, .stamp = at(500), .name = "y"});
    assert_int_equal(count(bulk, &a, true), ROWS);
    expect_same(bulk, single);
    assert_int_equal(ordinals_given(bulk), given);
    bulk_free(bulk);
    bulk_free(single);
}

static void a_missing_object_is_waited_for_and_uses_up_nothing(void **state)
{
    struct rig *rig = bulk_rig();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
    struct delivery delivery = {
        .partition = 1, .stamp = at(500), .name = "late", .without_object = true};
    struct buffer section = {0};
    struct err err = {0};
    uint32_t given, rows = section_of(1, &section);

    (void)state;
    append_single(rig, &collection, 1, at(400));
    append_single(rig, &collection, 2, at(400));
    append_section(rig, &collection, &delivery, &section, rows);
    await_failure(rig, "late-1");
    for (unsigned i = 0; i < RIG_WAIT_MS && count(rig, &collection, false) < 2; i++)
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    assert_int_equal(count(rig, &collection, false), 2); /* what stands before it */
    given = ordinals_given(rig);
    for (unsigned i = 0; i < 5; i++) {
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + 100 * NS_PER_MS), NULL);
        assert_int_equal(ordinals_given(rig), given);
    }
    /* Damaged it is as good as missing. */
    section.data[20] ^= 1;
    must(blob_put(rig->blob, "late-1", section.data, section.len, &err), &err);
    await_failure(rig, "is not what the log says of it");
    section.data[20] ^= 1;
    must(blob_put(rig->blob, "late-1", section.data, section.len, &err), &err);
    assert_true(count(rig, &collection, true) >= rows);
    rig_await_ready(rig);
    buffer_free(&section);
    bulk_free(rig);
}

static void what_does_not_count_is_not_fetched(void **state)
{
    struct rig *rig = bulk_rig();
    struct collection dropped = rig_collection(rig, "d", DIM, METRIC_COSINE);
    struct collection unknown = dropped, truncated = rig_collection(rig, "t", DIM, METRIC_COSINE);
    struct record truncate = {.op = RECORD_TRUNCATE, .stamp = at(900)};

    (void)state;
    unknown.incarnation[0] ^= 1;
    append_bulk(
        rig, &dropped,
        (struct delivery){
            .partition = 2, .stamp = at(500), .epoch = 9, .name = "void", .without_object = true});
    rig_change(rig, &dropped, COLLECTION_DROP);
    append_bulk(rig, &dropped,
                (struct delivery){
                    .partition = 2, .stamp = at(500), .name = "dropped", .without_object = true});
    append_bulk(rig, &unknown,
                (struct delivery){
                    .partition = 2, .stamp = at(500), .name = "unknown", .without_object = true});
    memcpy(truncate.incarnation, truncated.incarnation, INCARNATION_BYTES);
    rig_append(rig, 2, truncate);
    append_bulk(rig, &truncated,
                (struct delivery){
                    .partition = 2, .stamp = at(500), .name = "older", .without_object = true});
    rig_catch_up(rig);
    assert_int_equal(count(rig, &truncated, true), 0);
    bulk_free(rig);
}

/* With the right hash, and yet no rows. */
static void bytes_that_are_no_rows_are_told(void **state)
{
    static const uint8_t bad[][20] = {
        {16, 0, 0, 0, 0, 0, 0, 0},                         /* no id */
        {24, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, /* longer than what is left */
        {0, 0, 0, 0},                                      /* no length */
        {20, 0, 0, 0, 9, 0, 0, 0},                         /* an id beyond the end */
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(bad); i++) {
        struct rig *rig = bulk_rig();
        struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);
        struct delivery delivery = {.partition = 1, .stamp = at(500), .name = "bad"};
        struct buffer section = {0};

        buffer_append(&section, bad[i], sizeof(bad[i]) - (i == 0 ? 4 : 0));
        append_section(rig, &collection, &delivery, &section, 1);
        await_failure(rig, "bulk: ");
        buffer_free(&section);
        bulk_free(rig);
    }
}

static void without_a_blob_store_it_is_told(void **state)
{
    struct rig *rig = rig_ready();
    struct collection collection = rig_collection(rig, "c", DIM, METRIC_COSINE);

    (void)state;
    append_bulk(
        rig, &collection,
        (struct delivery){.partition = 0, .stamp = at(500), .name = "x", .without_object = true});
    await_failure(rig, "no blob store");
    rig_free(rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_upserts_with_the_manifests_stamp),
        cmocka_unit_test(in_any_order_the_newest_stamp_wins_once),
        cmocka_unit_test(a_missing_object_is_waited_for_and_uses_up_nothing),
        cmocka_unit_test(what_does_not_count_is_not_fetched),
        cmocka_unit_test(bytes_that_are_no_rows_are_told),
        cmocka_unit_test(without_a_blob_store_it_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
