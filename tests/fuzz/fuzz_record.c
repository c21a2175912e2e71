/* Records: whatever the bytes (their length and CRC are put right, so that the rest is looked at),
 * decoding stays inside them, and what is decoded can be written and read again as the same. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/hash.h"
#include "common/model/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool is_true, const char *what)
{
    if (is_true)
        return;
    (void)fprintf(stderr, "broken: %s\n", what);
    abort();
}

static void same_run(const void *a, size_t a_len, const void *b, size_t b_len)
{
    must((a == NULL) == (b == NULL) && a_len == b_len, "a run is as long as before");
    must(a_len == 0 || memcmp(a, b, a_len) == 0, "a run is as before");
}

static void check_again(const struct record *record)
{
    struct buffer out = {0}, scratch = {0};
    struct record again;
    struct err err = {0};

    must(record_encode(record, &out, &err) == ERR_OK, "what was read can be written");
    must(record_decode(&again, out.data, out.len, &scratch, &err) == ERR_OK, "and read");
    must(record->op == again.op && record->epoch == again.epoch, "the head is as before");
    must(memcmp(record->incarnation, again.incarnation, INCARNATION_BYTES) == 0, "incarnation");
    must(stamp_compare(record->stamp, again.stamp) == 0, "the stamp is as before");
    must(stamp_compare(record->schema, again.schema) == 0, "the schema is as before");
    must(record->origin_offset == again.origin_offset &&
             record->origin_region == again.origin_region,
         "the origin is as before");
    must(record->centroid_count == again.centroid_count &&
             memcmp(record->centroids, again.centroids, sizeof(again.centroids)) == 0,
         "the centroids are as before");
    same_run(record->id, record->id_len, again.id, again.id_len);
    same_run(record->vector, record->vector_bytes, again.vector, again.vector_bytes);
    same_run(record->text, record->text_len, again.text, again.text_len);
    same_run(record->metadata, record->metadata_len, again.metadata, again.metadata_len);
    same_run(record->payload, record->payload_len, again.payload, again.payload_len);
    buffer_free(&out);
    buffer_free(&scratch);
}

static void check_vector(const uint8_t *data, size_t size)
{
    struct version_vector vector;
    struct buffer out = {0};
    struct err err = {0};

    if (version_vector_decode(&vector, data, size, &err) != ERR_OK)
        return;
    version_vector_encode(&vector, &out);
    must(out.len == size && memcmp(out.data, data, size) == 0, "version vectors have one form");
    buffer_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size == 0 ? 1 : size);
    struct buffer scratch = {0};
    struct record record;
    struct err err = {0};

    if (copy == NULL)
        return 0;
    if (size > 0)
        memcpy(copy, data, size);
    (void)record_decode(&record, copy, size, &scratch, &err);
    if (size >= RECORD_HEADER_BYTES + 4) {
        copy[0] = RECORD_FORMAT;
        store_u32(copy + 4, (uint32_t)size);
        store_u32(copy + size - 4, hash_crc32c(0, copy, size - 4));
    }
    if (record_peek(&record, copy, size, &err) == ERR_OK)
        must(record.id_len == 0 || (const uint8_t *)record.id + record.id_len <= copy + size,
             "the id is inside");
    if (record_decode(&record, copy, size, &scratch, &err) == ERR_OK)
        check_again(&record);
    check_vector(data, size);
    buffer_free(&scratch);
    free(copy);
    return 0;
}
