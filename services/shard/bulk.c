/* What a bulk manifest names, fetched from the blob store before it is applied.
 *
 * Failure modes: the store away, the object missing, or not the bytes of which the log has the
 * hash.  Nothing is skipped: the log is not followed beyond the manifest, which is said and shown
 * as any other failure of following, and tried again until the bytes are there. */
#include <assert.h>

#include "backends/blob/blob.h"
#include "common/model/bulk.h"
#include "services/shard/bulk.h"
#include "services/shard/shard.h"

static_assert(BULK_NAME_BYTES_MAX <= BLOB_NAME_BYTES_MAX, "a manifest's name is one of an object");
static_assert(BULK_BYTES_MAX < BLOB_BYTES_MAX, "an object of rows fits");

enum err_code bulk_fetch(struct blob *blob, const struct bulk_manifest *manifest,
                         struct buffer *out, struct err *err)
{
    struct blob_range range = {
        .name = manifest->name, .at = manifest->section.at, .len = manifest->section.bytes};
    enum err_code code = blob_check_name(range.name, err);

    buffer_reset(out);
    if (code == ERR_OK)
        code = blob_get(blob, &range, out, err);
    return code == ERR_OK ? bulk_manifest_check(manifest, out->data, out->len, err) : code;
}

enum err_code bulk_prepare(struct shard *shard, struct apply_input *input, struct err *err)
{
    struct bulk_manifest manifest;
    bool wanted = false;
    enum err_code code = apply_wants_bulk(&shard->apply, input, &manifest, &wanted, err);

    if (code == ERR_OK && wanted && shard->setup.blob == NULL)
        code = err_set(err, ERR_NOT_SUPPORTED, "no blob store is configured");
    else if (code == ERR_OK && wanted)
        code = bulk_fetch(shard->setup.blob, &manifest, &shard->bulk, err);
    if (code != ERR_OK) {
        (void)err_wrap(err, "partition %u, offset %llu", input->partition,
                       (unsigned long long)input->offset);
        /* An object that is missing is waited for: the log is not another one. */
        if (code == ERR_NOT_FOUND)
            err->code = ERR_IO;
        return err->code;
    }
    if (wanted) {
        input->bulk = shard->bulk.data;
        input->bulk_len = shard->bulk.len;
    }
    return ERR_OK;
}
