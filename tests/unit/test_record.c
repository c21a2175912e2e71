/* The log's record format is frozen: golden bytes, made by another program, are written and read;
 * what is damaged or unknown is refused; the void rule and version vectors. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"
#include "common/model/record.h"

static const float vector_f32[2] = {1.0f, -0.5f};
static const uint16_t vector_f16[2] = {0x3c00, 0x4000};

static struct record base_record(enum record_op op)
{
    struct record record = {.op = op,
                            .epoch = 7,
                            .schema = {1000, 9},
                            .stamp = {1, 9},
                            .origin_offset = 42,
                            .origin_region = 9};

    for (uint8_t i = 0; i < INCARNATION_BYTES; i++)
        record.incarnation[i] = i;
    return record;
}

static struct record upsert_record(void)
{
    struct record record = base_record(RECORD_UPSERT);

    record.stamp.clock = 0x0102030405060708;
    record.centroid_count = 2;
    record.centroids[0] = (struct centroid_tag){3, 5};
    record.centroids[1] = (struct centroid_tag){4, 6};
    record.id = "kb/42";
    record.id_len = 5;
    record.vector = vector_f32;
    record.vector_bytes = sizeof(vector_f32);
    record.text = "hi";
    record.text_len = 2;
    record.metadata = "{\"a\":1}";
    record.metadata_len = 7;
    return record;
}

static struct record epoch_record(uint64_t epoch, const uint8_t holder[HOLDER_BYTES])
{
    return (struct record){.op = RECORD_EPOCH,
                           .epoch = epoch,
                           .stamp = {77, 9},
                           .origin_offset = OFFSET_NONE,
                           .payload = holder,
                           .payload_len = HOLDER_BYTES};
}

static void same_run(const void *a, size_t a_len, const void *b, size_t b_len)
{
    assert_int_equal(a == NULL, b == NULL);
    assert_int_equal(a_len, b_len);
    if (a_len > 0)
        assert_memory_equal(a, b, a_len);
}

static void same_record(const struct record *a, const struct record *b)
{
    assert_int_equal(a->op, b->op);
    assert_int_equal(a->epoch, b->epoch);
    assert_memory_equal(a->incarnation, b->incarnation, INCARNATION_BYTES);
    assert_int_equal(stamp_compare(a->schema, b->schema), 0);
    assert_int_equal(stamp_compare(a->stamp, b->stamp), 0);
    assert_int_equal(a->origin_offset, b->origin_offset);
    assert_int_equal(a->origin_region, b->origin_region);
    assert_int_equal(a->centroid_count, b->centroid_count);
    assert_memory_equal(a->centroids, b->centroids, sizeof(a->centroids));
    same_run(a->id, a->id_len, b->id, b->id_len);
    same_run(a->vector, a->vector_bytes, b->vector, b->vector_bytes);
    assert_int_equal(a->vector_is_f16, b->vector_is_f16);
    same_run(a->text, a->text_len, b->text, b->text_len);
    same_run(a->metadata, a->metadata_len, b->metadata, b->metadata_len);
    same_run(a->payload, a->payload_len, b->payload, b->payload_len);
}

static size_t from_hex(uint8_t *out, const char *hex)
{
    size_t len = strlen(hex) / 2;

    assert_true(text_hex_decode(out, len, hex, 2 * len));
    return len;
}

static void check_golden(const struct record *record, const char *hex)
{
    uint8_t golden[512];
    size_t len = from_hex(golden, hex);
    struct buffer out = {0};
    struct record read;
    struct err err = {0};

    assert_int_equal(record_encode(record, &out, &err), ERR_OK);
    assert_int_equal(out.len, len);
    assert_memory_equal(out.data, golden, len);
    assert_int_equal(record_decode(&read, golden, len, NULL, &err), ERR_OK);
    same_record(record, &read);
    buffer_free(&out);
}

static void bytes_of_format_1_are_frozen(void **state)
{
    uint8_t holder[HOLDER_BYTES];
    struct record record = upsert_record();

    (void)state;
    check_golden(&record,
                 "010100008a0000000700000000000000000102030405060708090a0b0c0d0e0fe803000000000000"
                 "08070605040302012a00000000000000090000000900000009000000050002000300000005000000"
                 "04000000060000006b622f343201000000080000000000803f000000bf0300000002000000686904"
                 "000000070000007b2261223a317d8d9de5d5");
    record = base_record(RECORD_DELETE);
    record.stamp.clock = 0x0102030405060709;
    record.origin_offset = OFFSET_NONE;
    record.origin_region = 0;
    record.id = "\xc3\xa9";
    record.id_len = 2;
    check_golden(&record,
                 "010200004e0000000700000000000000000102030405060708090a0b0c0d0e0fe803000000000000"
                 "0907060504030201ffffffffffffffff09000000090000000000000002000000c3a9f9bc1d4c");
    for (uint8_t i = 0; i < HOLDER_BYTES; i++)
        holder[i] = (uint8_t)(0xf0 + i);
    record = epoch_record(8, holder);
    record.stamp.region = 9;
    check_golden(&record,
                 "01050000640000000800000000000000000000000000000000000000000000000000000000000000"
                 "4d00000000000000ffffffffffffffff000000000900000000000000000000000700000010000000"
                 "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff45ae884f");
    record = base_record(RECORD_UPSERT);
    record.id = "x";
    record.id_len = 1;
    record.vector = vector_f16;
    record.vector_bytes = sizeof(vector_f16);
    record.vector_is_f16 = true;
    check_golden(&record,
                 "01010000590000000700000000000000000102030405060708090a0b0c0d0e0fe803000000000000"
                 "01000000000000002a00000000000000090000000900000009000000010000007802000000040000"
                 "00003c00408353438c");
}

static void unknown_fields_are_skipped_only_if_they_may_be(void **state)
{
    static const char *const may = "01010000630000000700000000000000000102030405060708090a0b0c0d0e0"
                                   "fe80300000000000001000000000"
                                   "000002a000000000000000900000009000000090000000100000078c8010000"
                                   "0600000066757475726503000000"
                                   "00000000af7d206d";
    static const char *const must =
        "010100005b0000000700000000000000000102030405060708090a0b0c0d0e0fe8030000000000000100000000"
        "0"
        "000002a000000000000000900000009000000090000000100000078c8000000060000006675747572656a14ebd"
        "2";
    uint8_t bytes[512];
    struct record record;
    struct err err = {0};
    size_t len = from_hex(bytes, may);

    (void)state;
    assert_int_equal(record_decode(&record, bytes, len, NULL, &err), ERR_OK);
    assert_non_null(record.text);
    assert_int_equal(record.text_len, 0);
    assert_null(record.vector);
    len = from_hex(bytes, must);
    assert_int_equal(record_decode(&record, bytes, len, NULL, &err), ERR_CORRUPT);
}

static void any_damage_is_noticed(void **state)
{
    struct record record = upsert_record();
    struct record read;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    for (size_t i = 0; i < out.len * 8; i++) {
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
        assert_int_equal(record_decode(&read, out.data, out.len, NULL, &err), ERR_CORRUPT);
        out.data[i / 8] ^= (uint8_t)(1 << i % 8);
    }
    for (size_t len = 0; len < out.len; len++)
        assert_int_equal(record_decode(&read, out.data, len, NULL, &err), ERR_CORRUPT);
    buffer_free(&out);
}

/* Bytes with a right CRC are believed no more than others: each byte takes every value. */
static void lies_with_a_right_checksum_are_refused_or_readable(void **state)
{
    struct record record = upsert_record();
    struct record read;
    struct buffer out = {0}, scratch = {0}, again = {0};
    struct err err = {0};
    size_t good = 0;

    (void)state;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    for (size_t i = 0; i < out.len - 4; i++) {
        uint8_t kept = out.data[i];

        for (unsigned value = 0; value < 256; value++) {
            out.data[i] = (uint8_t)value;
            store_u32(out.data + out.len - 4, hash_crc32c(0, out.data, out.len - 4));
            if (record_decode(&read, out.data, out.len, &scratch, &err) != ERR_OK)
                continue;
            good++;
            buffer_reset(&again);
            assert_int_equal(record_encode(&read, &again, &err), ERR_OK);
        }
        out.data[i] = kept;
    }
    assert_true(good > out.len);
    buffer_free(&out);
    buffer_free(&scratch);
    buffer_free(&again);
}

static void set_turn_gives_what_encoding_would(void **state)
{
    const struct record_turn turn = {
        .epoch = 99, .stamp = {123456789, 3}, .origin_region = 3, .origin_offset = 17};
    struct record record = upsert_record();
    struct buffer turned = {0}, wanted = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(record_encode(&record, &turned, &err), ERR_OK);
    record_set_turn(turned.data, turned.len, &turn);
    record.epoch = turn.epoch;
    record.stamp = turn.stamp;
    record.origin_region = turn.origin_region;
    record.origin_offset = turn.origin_offset;
    assert_int_equal(record_encode(&record, &wanted, &err), ERR_OK);
    assert_int_equal(turned.len, wanted.len);
    assert_memory_equal(turned.data, wanted.data, wanted.len);
    assert_int_equal(record_crc(turned.data, turned.len), record_crc(wanted.data, wanted.len));
    buffer_free(&turned);
    buffer_free(&wanted);
}

static void packed_fields_come_back(void **state)
{
    static char text[20000];
    struct record record = upsert_record();
    struct record read;
    struct buffer out = {0}, scratch = {0};
    struct err err = {0};

    (void)state;
    memset(text, 'a', sizeof(text));
    record.text = text;
    record.text_len = sizeof(text);
    record.flags = RECORD_ZSTD;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    assert_true(out.len < 1000);
    assert_int_equal(record_decode(&read, out.data, out.len, NULL, &err), ERR_CORRUPT);
    assert_int_equal(record_decode(&read, out.data, out.len, &scratch, &err), ERR_OK);
    same_record(&record, &read);
    buffer_reset(&out);
    /* What does not get smaller stays as it is. */
    record.text_len = 1;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    assert_int_equal(record_decode(&read, out.data, out.len, NULL, &err), ERR_OK);
    assert_int_equal(read.flags, 0);
    buffer_free(&out);
    buffer_free(&scratch);
}

static void check_refused(const struct record *record, enum err_code code)
{
    struct buffer out = {0};
    struct err err = {0};

    assert_int_equal(record_encode(record, &out, &err), code);
    assert_int_equal(out.len, 0);
    buffer_free(&out);
}

static void what_no_reader_takes_is_not_written(void **state)
{
    static char long_id[ID_BYTES_MAX + 1];
    static char big[RECORD_BYTES_MAX];
    const float infinite[1] = {INFINITY};
    struct record record = upsert_record();

    (void)state;
    memset(long_id, 'i', sizeof(long_id));
    record.id = long_id;
    record.id_len = ID_BYTES_MAX + 1;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record.id_len = 0;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record.id_len = ID_BYTES_MAX;
    record.text = big;
    record.text_len = sizeof(big);
    check_refused(&record, ERR_PAYLOAD_TOO_LARGE);
    record = upsert_record();
    record.centroid_count = 3;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record = upsert_record();
    record.vector = infinite;
    record.vector_bytes = 4;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record = upsert_record();
    record.id = "a\0b";
    record.id_len = 3;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record.id = "\xff";
    record.id_len = 1;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record = upsert_record();
    record.op = RECORD_DELETE;
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record = base_record(RECORD_COLLECTION);
    check_refused(&record, ERR_INVALID_ARGUMENT);
    record = upsert_record();
    record.flags = RECORD_ENCRYPTED;
    check_refused(&record, ERR_NOT_SUPPORTED);
    record.flags = 4;
    check_refused(&record, ERR_INVALID_ARGUMENT);
}

/* Exactly RECORD_BYTES_MAX is written and read; one byte more is not. */
static void the_largest_record_is_exact(void **state)
{
    size_t room = RECORD_BYTES_MAX - RECORD_HEADER_BYTES - 4 - 1 - 8;
    char *text = calloc(1, room + 1);
    struct record record = base_record(RECORD_UPSERT);
    struct record read;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    assert_non_null(text);
    record.id = "x";
    record.id_len = 1;
    record.text = text;
    record.text_len = room;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    assert_int_equal(out.len, RECORD_BYTES_MAX);
    assert_int_equal(record_decode(&read, out.data, out.len, NULL, &err), ERR_OK);
    record.text_len++;
    check_refused(&record, ERR_PAYLOAD_TOO_LARGE);
    buffer_free(&out);
    free(text);
}

static void peek_reads_the_head(void **state)
{
    struct record record = upsert_record();
    struct record read;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(record_encode(&record, &out, &err), ERR_OK);
    out.data[out.len - 1] ^= 1;
    assert_int_equal(record_peek(&read, out.data, out.len, &err), ERR_OK);
    assert_int_equal(read.op, RECORD_UPSERT);
    assert_int_equal(read.epoch, 7);
    same_run(read.id, read.id_len, "kb/42", 5);
    assert_int_equal(record_peek(&read, out.data, out.len - 1, &err), ERR_CORRUPT);
    buffer_free(&out);
}

static void ids_have_their_partition_for_ever(void **state)
{
    (void)state;
    assert_int_equal(record_partition("a", 1, 64), 29);
    assert_int_equal(record_partition("kb/42", 5, 64), 51);
    assert_int_equal(record_partition("0", 1, 64), 30);
    assert_int_equal(record_partition("row-17", 6, 64), 8);
    assert_int_equal(record_partition("row-17", 6, 1), 0);
}

static bool admit(struct epoch_state *state, enum record_op op, uint64_t epoch, uint64_t offset)
{
    const struct record record = {.op = op, .epoch = epoch};

    return epoch_admit(state, &record, offset);
}

static void records_of_another_epoch_are_void(void **state)
{
    struct epoch_state epochs = {0};

    (void)state;
    assert_false(admit(&epochs, RECORD_UPSERT, 0, 0));
    assert_false(admit(&epochs, RECORD_EPOCH, 0, 1));
    assert_true(admit(&epochs, RECORD_EPOCH, 3, 2));
    assert_true(admit(&epochs, RECORD_UPSERT, 3, 3));
    assert_false(admit(&epochs, RECORD_UPSERT, 2, 4));
    assert_false(admit(&epochs, RECORD_UPSERT, 4, 5));
    assert_false(admit(&epochs, RECORD_EPOCH, 3, 6));
    assert_true(admit(&epochs, RECORD_EPOCH, 5, 7));
    assert_int_equal(epochs.epoch, 5);
    assert_int_equal(epochs.epoch_offset, 7);
    assert_false(admit(&epochs, RECORD_DELETE, 3, 8));
    assert_false(admit(&epochs, RECORD_EPOCH, 4, 9));
    assert_true(admit(&epochs, RECORD_VERSION_VECTOR, 5, 10));
    assert_int_equal(epochs.epoch_offset, 7);
}

static void version_vectors_are_sorted_and_frozen(void **state)
{
    static const char *const hex = "01f40100000000000002000000030000000a000000000000009001000000000"
                                   "00003000000090000000000000000"
                                   "010000f30100000000000008000000";
    uint8_t golden[128];
    size_t len = from_hex(golden, hex);
    struct version_vector vector = {.clock = 500};
    struct version_vector read;
    struct version_entry *entry;
    struct buffer out = {0};
    struct err err = {0};

    (void)state;
    entry = version_vector_entry(&vector, 9);
    *entry = (struct version_entry){9, 1ull << 40, {499, 8}};
    entry = version_vector_entry(&vector, 3);
    *entry = (struct version_entry){3, 10, {400, 3}};
    assert_int_equal(version_vector_find(&vector, 9)->position, 1ull << 40);
    assert_null(version_vector_find(&vector, 4));
    version_vector_encode(&vector, &out);
    assert_int_equal(out.len, len);
    assert_memory_equal(out.data, golden, len);
    assert_int_equal(version_vector_decode(&read, golden, len, &err), ERR_OK);
    assert_memory_equal(&read, &vector, sizeof(vector));
    for (size_t i = 0; i < len; i++)
        assert_int_equal(version_vector_decode(&read, golden, i, &err), ERR_CORRUPT);
    golden[13] = 10; /* the first region is above the second now */
    assert_int_equal(version_vector_decode(&read, golden, len, &err), ERR_CORRUPT);
    for (uint32_t region = 100; version_vector_entry(&vector, region) != NULL; region++)
        continue;
    assert_int_equal(vector.count, VERSION_ENTRIES_MAX);
    assert_non_null(version_vector_entry(&vector, 9));
    buffer_free(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_format_1_are_frozen),
        cmocka_unit_test(unknown_fields_are_skipped_only_if_they_may_be),
        cmocka_unit_test(any_damage_is_noticed),
        cmocka_unit_test(lies_with_a_right_checksum_are_refused_or_readable),
        cmocka_unit_test(set_turn_gives_what_encoding_would),
        cmocka_unit_test(packed_fields_come_back),
        cmocka_unit_test(what_no_reader_takes_is_not_written),
        cmocka_unit_test(the_largest_record_is_exact),
        cmocka_unit_test(peek_reads_the_head),
        cmocka_unit_test(ids_have_their_partition_for_ever),
        cmocka_unit_test(records_of_another_epoch_are_void),
        cmocka_unit_test(version_vectors_are_sorted_and_frozen),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
