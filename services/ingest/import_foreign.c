/* Bulk manifests of other regions: taken into our log when the objects that they name are in our
 * blob store.  Until then the run is not taken, which its replicator tells and tries again.  What
 * an object holds is checked by those who read it. */
#include <string.h>

#include "backends/blob/blob.h"
#include "services/ingest/imports.h"

static bool is_known(const struct import_known *known, struct hash128 name)
{
    for (size_t i = 0; i < known->count; i++)
        if (known->names[i].low == name.low && known->names[i].high == name.high)
            return true;
    return false;
}

enum err_code import_check_foreign(struct ingest *ingest, const struct record *record,
                                   struct import_known *known, struct err *err)
{
    struct bulk_manifest manifest;
    struct hash128 name;
    uint64_t bytes = 0;
    enum err_code rc = bulk_manifest_decode(&manifest, record->payload, record->payload_len, err);

    if (rc != ERR_OK || (rc = blob_check_name(manifest.name, err)) != ERR_OK)
        return err_set(err, ERR_INVALID_ARGUMENT, "a bulk manifest that makes no sense");
    if (ingest->setup.blob == NULL)
        return err_set(err, ERR_UNAVAILABLE, "an import of another region, and no blob store here");
    name = hash_xxh128(manifest.name, strlen(manifest.name));
    if (is_known(known, name))
        return ERR_OK;
    rc = blob_size(ingest->setup.blob, manifest.name, &bytes, err);
    if (rc == ERR_OK && bytes < manifest.section.at + manifest.section.bytes)
        rc = err_set(err, ERR_CORRUPT, "object %s is too short", manifest.name);
    if (rc == ERR_OK && known->count < IMPORT_KNOWN_MAX)
        known->names[known->count++] = name;
    if (rc == ERR_OK || rc == ERR_DEAD)
        return rc;
    (void)err_wrap(err, "an import of another region is not to be had here");
    return err->code = ERR_UNAVAILABLE;
}
