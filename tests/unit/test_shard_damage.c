/* A damaged record in the log, whatever the log is kept in: the shard takes what comes before it,
 * says which partition and offset it is, stops there, and neither passes over it nor dies of it. */
#include "tests/unit/shard_rig.h"

#define BEFORE 12u /* records of the collection, in all partitions */

/* The bytes of an upsert as the next record of that partition would be. */
static uint32_t encode(struct rig *rig, const struct collection *collection, struct buffer *out)
{
    struct record record = {.op = RECORD_UPSERT,
                            .epoch = 1,
                            .stamp = rig_stamp(rig),
                            .origin_offset = OFFSET_NONE,
                            .id = "damaged",
                            .id_len = 7,
                            .text = "some text",
                            .text_len = 9};
    struct err err = {0};

    memcpy(record.incarnation, collection->incarnation, INCARNATION_BYTES);
    must(record_encode(&record, out, &err), &err);
    return record_partition(record.id, record.id_len, RIG_PARTITIONS);
}

static void append_bytes(struct rig *rig, uint32_t partition, const void *data, size_t len)
{
    struct wal_entry entry = {.partition = partition, .data = data, .len = len};
    struct err err = {0};
    uint64_t offset;

    must(wal_append(rig->writer, &entry, 1, NEVER_NS, &offset, &err), &err);
    rig->ends[partition] = offset + 1;
}

static void await_told(struct rig *rig, const char *place)
{
    for (unsigned i = 0; i < RIG_WAIT_MS; i++) {
        bool is_told;

        pthread_mutex_lock(&rig->shard.lock);
        is_told = rig->shard.state == SHARD_FAILED && strstr(rig->shard.detail, place) != NULL;
        pthread_mutex_unlock(&rig->shard.lock);
        if (is_told)
            return;
        must(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS), NULL);
    }
    fail_msg("it is not told that %s is damaged: %s", place, rig->shard.detail);
}

static uint64_t position_of(struct rig *rig, uint32_t partition)
{
    uint64_t position;

    pthread_mutex_lock(&rig->shard.lock);
    position = rig->shard.partitions[rig->shard.slot_of[partition]].position;
    pthread_mutex_unlock(&rig->shard.lock);
    return position;
}

/* One that is damaged by `change`, between good ones, all read in one batch. */
static void try_damage(size_t at, uint8_t change, bool is_cut)
{
    static const float vector[3] = {1, 2, 3};
    struct rig *rig = rig_new();
    struct collection collection;
    struct buffer bytes = {0};
    uint64_t due[RIG_PARTITIONS];
    uint32_t partition;
    char place[60];

    rig_open_log(rig, "wal");
    rig_put_map(rig, 1);
    collection = rig_collection(rig, "c", 3, METRIC_COSINE);
    for (unsigned i = 0; i < BEFORE; i++) {
        char id[20];

        snprintf(id, sizeof(id), "before %u", i);
        (void)rig_upsert(rig, &collection, id, vector, NULL);
    }
    memcpy(due, rig->ends, sizeof(due));
    partition = encode(rig, &collection, &bytes);
    assert_true(at < bytes.len);
    bytes.data[at] ^= change;
    append_bytes(rig, partition, bytes.data, is_cut ? at + 1 : bytes.len);
    buffer_free(&bytes);
    (void)rig_upsert(rig, &collection, "damaged", vector, NULL); /* behind it */
    rig_open_shard(rig);
    snprintf(place, sizeof(place), "partition %u, offset %llu", partition,
             (unsigned long long)due[partition]);
    await_told(rig, place);
    for (uint32_t p = 0; p < RIG_PARTITIONS; p++)
        assert_int_equal(position_of(rig, p), due[p]);
    /* And so it stays, after a restart too. */
    rig_close_shard(rig);
    rig_open_shard(rig);
    await_told(rig, place);
    assert_int_equal(position_of(rig, partition), due[partition]);
    rig_free(rig);
}

static void a_record_whose_contents_are_damaged_is_told(void **state)
{
    (void)state;
    try_damage(RECORD_HEADER_BYTES + 10, 0x01, false); /* contents: only the checksum knows */
    try_damage(40, 0x80, false);                       /* its stamp */
}

static void a_record_whose_head_is_damaged_is_told(void **state)
{
    (void)state;
    try_damage(0, 0x02, false); /* format */
    try_damage(1, 0x40, false); /* op */
    try_damage(1, 0x06, false); /* op: a bulk manifest */
    try_damage(2, 0x01, false); /* flags: packed */
    try_damage(4, 0xff, false); /* length */
}

static void a_record_that_is_cut_is_told(void **state)
{
    (void)state;
    try_damage(0, 0, true);
    try_damage(RECORD_HEADER_BYTES, 0, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_record_whose_contents_are_damaged_is_told),
        cmocka_unit_test(a_record_whose_head_is_damaged_is_told),
        cmocka_unit_test(a_record_that_is_cut_is_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
