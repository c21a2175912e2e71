/* Parts of uploads in every format, objects' heads and manifests: whatever comes, no row is taken
 * that a shard could not read, and nothing is read outside the part. */
#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/model/bulk.h"
#include "common/model/record.h"
#include "services/ingest/import_parse.h"

#define ROWS_MAX 1000

/* What a shard will make of it. */
static void check_row(const struct bulk_row *row, uint32_t dimension, uint64_t *hash)
{
    struct buffer bytes = {0}, encoded = {0};
    struct bulk_row back;
    struct record record = {.op = RECORD_UPSERT,
                            .id = row->id,
                            .id_len = row->id_len,
                            .vector = row->vector,
                            .vector_bytes = row->vector == NULL ? 0 : dimension * sizeof(float),
                            .text = row->text,
                            .text_len = row->text_len,
                            .metadata = row->metadata,
                            .metadata_len = row->metadata_len};

    bulk_row_encode(&bytes, row, dimension);
    if (bytes.failed)
        abort();
    if (bulk_row_decode(&back, dimension, bytes.data, bytes.len, NULL) != ERR_OK ||
        back.id_len != row->id_len || back.text_len != row->text_len ||
        record_encode(&record, &encoded, NULL) != ERR_OK)
        abort();
    *hash = hash_xxh64(bytes.data, bytes.len, *hash);
    buffer_free(&bytes);
    buffer_free(&encoded);
}

/* Rows of the upload in parts of so many bytes; a hash of them, ids that were made up left out. */
static uint64_t read_all(struct import_job *job, const struct collection *collection,
                         const uint8_t *data, size_t len, size_t part_bytes)
{
    uint64_t hash = 0, rows = 0;
    size_t at = 0;

    for (bool more = true; more && rows < ROWS_MAX;) {
        struct import_part part = {.env = env_real(), .job = job, .collection = collection};
        enum import_read read = IMPORT_READ_ROW;

        part.body = data + at;
        part.len = len - at < part_bytes ? len - at : part_bytes;
        part.is_final = at + part.len == len;
        part.next_row = rows;
        while (read == IMPORT_READ_ROW || read == IMPORT_READ_REFUSED) {
            struct bulk_row row;
            struct err err = {0};

            read = import_part_next(&part, &row, &err);
            if (part.at > part.len ||
                (read >= IMPORT_READ_REFUSED && read != IMPORT_READ_END && err.code == ERR_OK))
                abort();
            if (read == IMPORT_READ_ROW)
                check_row(&row, collection->dimension, &hash);
            if (read == IMPORT_READ_FAILED)
                more = false;
        }
        rows = part.next_row;
        more = more && part.at > 0 && import_part_check_end(&part, NULL) == ERR_OK;
        at += part.at;
        job->done.offset = at;
        import_part_free(&part);
    }
    return hash;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    struct collection collection = {.name = "c"};
    struct bulk_section sections[8];
    struct bulk_manifest manifest;
    struct import_job *job = NULL;
    uint32_t count;

    if (len < 2)
        return 0;
    if (import_job_new(&job, NULL) != ERR_OK)
        return 0;
    job->format = (enum import_format)(data[0] % 3);
    collection.dimension = 1 + data[1] % 4;
    data += 2;
    len -= 2;
    (void)read_all(job, &collection, data, len, len + 1);
    job->npy_data_at = 0;
    job->done.offset = 0;
    (void)read_all(job, &collection, data, len, 64);
    import_job_free(job);
    if (bulk_head_count(&count, data, len, NULL) == ERR_OK && count <= 8 &&
        bulk_head_decode(sections, count, data, len, NULL) == ERR_OK && sections[0].rows == 0)
        abort();
    if (bulk_manifest_decode(&manifest, data, len, NULL) == ERR_OK && manifest.section.rows == 0)
        abort();
    return 0;
}
