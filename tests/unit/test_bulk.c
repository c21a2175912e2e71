/* Rows, objects and manifests of bulk loads: their bytes are frozen, whatever is written is read
 * back, and whatever is damaged or malformed is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/text.h"
#include "common/model/bulk.h"
#include "common/model/record.h"

#define DIM 3

static const float vector[DIM] = {1.0f, -0.5f, 0.25f};

static struct bulk_row full_row(void)
{
    return (struct bulk_row){.vector = vector,
                             .id = "kb/42",
                             .id_len = 5,
                             .text = "hi",
                             .text_len = 2,
                             .metadata = "{\"a\":1}",
                             .metadata_len = 7};
}

static struct bulk_manifest manifest_of(const char *name)
{
    struct bulk_manifest manifest = {
        .section = {.rows = 156, .at = 2632, .bytes = 250000, .hash = {.low = 7, .high = 9}}};

    (void)snprintf(manifest.name, sizeof(manifest.name), "%s", name);
    return manifest;
}

static void expect_hex(const struct buffer *bytes, const char *hex)
{
    char *text = malloc(2 * bytes->len + 1);

    assert_non_null(text);
    text_hex_encode(text, bytes->data, bytes->len);
    assert_string_equal(text, hex);
    free(text);
}

static void their_bytes_are_frozen(void **state)
{
    struct bulk_row row = full_row();
    struct bulk_manifest manifest = manifest_of("imports/a/0-b");
    struct bulk_section sections[] = {
        {.partition = 1, .rows = 2, .at = 104, .bytes = 64, .hash = {.low = 5, .high = 6}},
        {.partition = 9, .rows = 1, .at = 168, .bytes = 32, .hash = {.low = 1, .high = 2}}};
    struct buffer out = {0};

    (void)state;
    bulk_row_encode(&out, &row, DIM);
    expect_hex(&out, "2c0000000500070002000000070000000000803f000000bf0000803e6b622f343268697b2261"
                     "223a317d0000");
    buffer_reset(&out);
    bulk_manifest_encode(&manifest, &out);
    expect_hex(&out, "019c000000480a00000000000090d0030000000000070000000000000009000000000000000d"
                     "00696d706f7274732f612f302d62");
    buffer_reset(&out);
    bulk_head_encode(&out, sections, 2);
    assert_int_equal(out.len, bulk_head_bytes(2));
    expect_hex(&out,
               "626c6b31020000000100000002000000680000000000000040000000000000000500000000000000"
               "06000000000000000900000001000000a80000000000000020000000000000000100000000000000"
               "0200000000000000dedf3f7374527e0dce5d9d9c119eae6d");
    buffer_free(&out);
}

static void a_row_comes_back_as_it_was_written(void **state)
{
    static const struct {
        bool vector, text, metadata;
    } kinds[] = {{true, true, true},   {true, false, false},  {false, true, false},
                 {false, false, true}, {false, false, false}, {true, false, true}};

    (void)state;
    for (size_t i = 0; i < ARRAY_COUNT(kinds); i++) {
        struct bulk_row row = full_row(), back;
        struct buffer out = {0};
        struct err err = {0};

        if (!kinds[i].vector)
            row.vector = NULL;
        if (!kinds[i].text)
            row.text = NULL, row.text_len = 0;
        if (!kinds[i].metadata)
            row.metadata = NULL, row.metadata_len = 0;
        row.id_len = 1 + i % 5;
        bulk_row_encode(&out, &row, DIM);
        assert_int_equal(out.len, bulk_row_bytes(&row, DIM));
        assert_int_equal(bulk_row_length(out.data, out.len), out.len);
        assert_true(bulk_row_length_is_possible(out.len));
        assert_int_equal(bulk_row_decode(&back, DIM, out.data, out.len, &err), ERR_OK);
        assert_int_equal(back.id_len, row.id_len);
        assert_memory_equal(back.id, row.id, row.id_len);
        assert_true((back.vector != NULL) == kinds[i].vector);
        assert_true((back.text != NULL) == kinds[i].text);
        assert_true((back.metadata != NULL) == kinds[i].metadata);
        if (back.vector != NULL)
            assert_memory_equal(back.vector, vector, sizeof(vector));
        if (back.text != NULL)
            assert_memory_equal(back.text, "hi", 2);
        if (back.metadata != NULL)
            assert_memory_equal(back.metadata, "{\"a\":1}", 7);
        buffer_free(&out);
    }
}

/* Never outside its bytes (the sanitizers look), and whatever is taken makes up its length. */
static void a_damaged_row_is_refused_or_whole(void **state)
{
    struct bulk_row row = full_row(), back;
    struct buffer out = {0};
    struct err err = {0};
    unsigned refused = 0;

    (void)state;
    bulk_row_encode(&out, &row, DIM);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        uint8_t *copy = malloc(out.len);

        assert_non_null(copy);
        memcpy(copy, out.data, out.len);
        copy[bit / 8] ^= (uint8_t)(1 << bit % 8);
        if (bulk_row_decode(&back, DIM, copy, out.len, &err) != ERR_OK)
            refused++;
        else
            assert_true(back.id_len + back.text_len + back.metadata_len <= out.len);
        free(copy);
    }
    assert_true(refused >= 100); /* all of lengths and flags, and the zeros at the end */
    for (size_t len = 0; len < out.len; len++)
        assert_int_equal(bulk_row_decode(&back, DIM, out.data, len, &err), ERR_CORRUPT);
    assert_int_equal(bulk_row_decode(&back, DIM + 1, out.data, out.len, &err), ERR_CORRUPT);
    assert_int_equal(bulk_row_length(out.data, 3), 0);
    assert_false(bulk_row_length_is_possible(12));
    assert_false(bulk_row_length_is_possible(17));
    assert_false(bulk_row_length_is_possible(BULK_ROW_BYTES_MAX + 4));
    row.text_len = BULK_ROW_BYTES_MAX;
    assert_true(bulk_row_bytes(&row, DIM) == SIZE_MAX);
    row.text_len = SIZE_MAX - 10;
    assert_true(bulk_row_bytes(&row, DIM) == SIZE_MAX);
    buffer_free(&out);
}

static void any_damage_of_a_head_is_noticed(void **state)
{
    struct bulk_section sections[] = {
        {.partition = 1, .rows = 2, .at = 104, .bytes = 64, .hash = {.low = 5, .high = 6}},
        {.partition = 9, .rows = 1, .at = 168, .bytes = 32, .hash = {.low = 1, .high = 2}}};
    struct bulk_section back[2];
    struct buffer out = {0};
    struct err err = {0};
    uint32_t count;

    (void)state;
    bulk_head_encode(&out, sections, 2);
    assert_int_equal(bulk_head_count(&count, out.data, out.len, &err), ERR_OK);
    assert_int_equal(count, 2);
    assert_int_equal(bulk_head_decode(back, 2, out.data, out.len, &err), ERR_OK);
    assert_true(back[1].partition == 9 && back[1].at == 168 && back[1].bytes == 32 &&
                back[1].rows == 1 && back[1].hash.high == 2);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(bulk_head_decode(back, 2, out.data, out.len, &err), ERR_CORRUPT);
        out.data[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_int_equal(bulk_head_decode(back, 1, out.data, out.len, &err), ERR_CORRUPT);
    assert_int_equal(bulk_head_count(&count, out.data, 7, &err), ERR_CORRUPT);
    out.data[0] ^= 1;
    assert_int_equal(bulk_head_count(&count, out.data, out.len, &err), ERR_CORRUPT);
    buffer_free(&out);
}

static void a_manifest_names_its_bytes(void **state)
{
    static const char bytes[] = "the bytes of a section";
    struct bulk_manifest manifest = manifest_of("imports/a/0-b"), back;
    struct record record = {.op = RECORD_BULK_MANIFEST, .stamp = {5, 1}}, read;
    struct buffer payload = {0}, encoded = {0};
    struct err err = {0};

    (void)state;
    manifest.section.bytes = sizeof(bytes);
    manifest.section.hash = hash_xxh128(bytes, sizeof(bytes));
    bulk_manifest_encode(&manifest, &payload);
    record.payload = payload.data;
    record.payload_len = payload.len;
    assert_int_equal(record_encode(&record, &encoded, &err), ERR_OK);
    assert_int_equal(record_decode(&read, encoded.data, encoded.len, NULL, &err), ERR_OK);
    assert_int_equal(bulk_manifest_decode(&back, read.payload, read.payload_len, &err), ERR_OK);
    assert_string_equal(back.name, manifest.name);
    assert_int_equal(back.section.rows, 156);
    assert_int_equal(bulk_manifest_check(&back, bytes, sizeof(bytes), &err), ERR_OK);
    assert_int_equal(bulk_manifest_check(&back, bytes, sizeof(bytes) - 1, &err), ERR_CORRUPT);
    assert_int_equal(bulk_manifest_check(&back, "The bytes of a section", sizeof(bytes), &err),
                     ERR_CORRUPT);
    for (size_t len = 0; len < payload.len; len++)
        assert_int_equal(bulk_manifest_decode(&back, payload.data, len, &err), ERR_CORRUPT);
    payload.data[0] = 2; /* a form of later */
    assert_int_equal(bulk_manifest_decode(&back, payload.data, payload.len, &err), ERR_CORRUPT);
    /* Without its payload, or with an id, it is no manifest. */
    record.payload = NULL;
    assert_int_equal(record_encode(&record, &encoded, &err), ERR_INVALID_ARGUMENT);
    buffer_free(&payload);
    buffer_free(&encoded);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(their_bytes_are_frozen),
        cmocka_unit_test(a_row_comes_back_as_it_was_written),
        cmocka_unit_test(a_damaged_row_is_refused_or_whole),
        cmocka_unit_test(any_damage_of_a_head_is_noticed),
        cmocka_unit_test(a_manifest_names_its_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
