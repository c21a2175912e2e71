/* Bulk manifests of other regions: taken into our log when our shards can read what they name.
 * Until then the run is not taken, which its replicator tells and tries again. */
#include "backends/blob/blob.h"
#include "services/ingest/imports.h"

enum err_code import_check_foreign(struct ingest *ingest, const struct record *record,
                                   struct err *err)
{
    struct bulk_manifest manifest;
    struct blob_range range = {.name = manifest.name};
    struct buffer bytes = {0};
    enum err_code rc = bulk_manifest_decode(&manifest, record->payload, record->payload_len, err);

    if (rc != ERR_OK || (rc = blob_check_name(manifest.name, err)) != ERR_OK)
        return err_set(err, ERR_INVALID_ARGUMENT, "a bulk manifest that makes no sense");
    if (ingest->setup.blob == NULL)
        return err_set(err, ERR_UNAVAILABLE, "an import of another region, and no blob store here");
    range.at = manifest.section.at;
    range.len = manifest.section.bytes;
    rc = blob_get(ingest->setup.blob, &range, &bytes, err);
    if (rc == ERR_OK)
        rc = bulk_manifest_check(&manifest, bytes.data, bytes.len, err);
    buffer_free(&bytes);
    if (rc == ERR_OK || rc == ERR_DEAD)
        return rc;
    (void)err_wrap(err, "an import of another region is not to be had here");
    return err->code = ERR_UNAVAILABLE;
}
