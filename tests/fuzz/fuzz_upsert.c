/* Any bytes as the body of POST …/records: read without fault, and what is accepted keeps every
 * limit and can be encoded. */
#include <assert.h>
#include <math.h>
#include <stdint.h>

#include "common/base/text.h"
#include "services/ingest/upsert_parse.h"

static void check_record(const struct upsert_record *record, uint32_t dimension)
{
    if (record->id != NULL)
        assert(record->id_len >= 1 && record->id_len <= ID_BYTES_MAX &&
               text_is_utf8(record->id, record->id_len));
    for (uint32_t i = 0; record->vector != NULL && i < dimension; i++)
        assert(isfinite(record->vector[i]));
    if (record->text != NULL)
        assert(record->text_len <= TEXT_BYTES_MAX && text_is_utf8(record->text, record->text_len));
    if (record->metadata != NULL)
        assert(record->metadata_len <= METADATA_BYTES_MAX && record->metadata_len >= 2 &&
               record->metadata[0] == '{');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct upsert_schema schema = {.collection = "docs", .dimension = 3};
    struct upsert_record record;
    struct arena arena = {0};
    struct err err = {0};
    struct upsert upsert;

    if (upsert_parse(&upsert, &schema, data, len, &arena, &err) == ERR_OK) {
        assert(upsert.count >= 1 && upsert.count <= RECORDS_PER_REQUEST_MAX);
        assert(upsert.timeout_ms >= 1 && upsert.timeout_ms <= DEADLINE_MS_MAX);
        for (size_t i = 0; i < upsert.count; i++)
            check_record(&upsert.records[i], schema.dimension);
    } else {
        assert(err.code != ERR_OK && err.message[0] != '\0');
    }
    if (upsert_parse_record(&record, &schema, data, len, &arena, &err) == ERR_OK)
        check_record(&record, schema.dimension);
    arena_free(&arena);
    return 0;
}
