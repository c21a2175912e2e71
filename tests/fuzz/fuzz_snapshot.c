/* Any bytes behind a right checksum as a snapshot's manifest: refused, or read into what keeps
 * every limit, names no file outside of a replica's folder, and is written and read again the same.
 */
#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "cluster/snapshot_manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void check(const struct snapshot *snapshot)
{
    bool has_store = false;

    assert(snapshot->shard < SHARDS_MAX && snapshot->partition_count >= 1);
    for (size_t i = 0; i < snapshot->partition_count; i++) {
        assert(snapshot->partitions[i].partition < PARTITIONS_MAX);
        assert(i == 0 || snapshot->partitions[i - 1].partition < snapshot->partitions[i].partition);
    }
    for (size_t i = 0; i < snapshot->file_count; i++) {
        assert(copy_name_is_valid(snapshot->files[i].name));
        has_store = has_store || strcmp(snapshot->files[i].name, COPY_STORE_NAME) == 0;
    }
    assert(has_store);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    char checksum[HASH128_TEXT_BYTES];
    struct buffer bytes = {0}, first = {0}, second = {0};
    struct snapshot snapshot, again;
    struct err err = {0};

    hash128_to_text(checksum, hash_xxh128(data, len));
    buffer_append(&bytes, checksum, SNAPSHOT_CHECKSUM_BYTES);
    buffer_append_byte(&bytes, '\n');
    buffer_append(&bytes, data, len);
    if (snapshot_manifest_decode(&snapshot, bytes.data, bytes.len, &err) == ERR_OK) {
        check(&snapshot);
        assert(snapshot_manifest_encode(&snapshot, &first, &err) == ERR_OK);
        assert(snapshot_manifest_decode(&again, first.data, first.len, &err) == ERR_OK);
        assert(snapshot_manifest_encode(&again, &second, &err) == ERR_OK);
        assert(first.len == second.len && memcmp(first.data, second.data, first.len) == 0);
        snapshot_free(&snapshot);
        snapshot_free(&again);
    } else {
        assert(err.code == ERR_CORRUPT || err.code == ERR_CONFIG || err.code == ERR_NO_MEMORY);
    }
    buffer_free(&bytes);
    buffer_free(&first);
    buffer_free(&second);
    return 0;
}
