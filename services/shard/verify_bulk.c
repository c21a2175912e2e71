/* Rows that were imported against the objects that the log names: see verify.h.
 *
 * The log has the hash of what a manifest names, so an object that is missing or another is damage.
 * A blob store that does not answer is none: what is in it could not be looked at, which is said
 * once, at the end, and it is not asked again. */
#include "common/model/bulk.h"
#include "services/shard/bulk.h"
#include "services/shard/verify_internal.h"

struct against {
    struct shard_verify *verify;
    const struct apply_collection *from;
    uint32_t partition;
};

static enum err_code compare_row(void *context, const struct record *record, struct err *err)
{
    const struct against *against = context;

    return verify_entry(against->verify, against->from, against->partition, record, err);
}

/* Damage of the object. */
static void tell(struct shard_verify *verify, const struct wal_item *item,
                 const struct bulk_manifest *manifest, const struct err *why)
{
    scrub_find(verify->setup.scrub, manifest->name, manifest->section.at,
               "partition %u, offset %llu: %s", item->partition, (unsigned long long)item->offset,
               why->message);
}

/* *is_there: its bytes are in verify->bulk, and are those of the log. */
static enum err_code fetch(struct shard_verify *verify, const struct wal_item *item,
                           const struct bulk_manifest *manifest, bool *is_there, struct err *err)
{
    struct err why = {0};
    enum err_code code;

    *is_there = false;
    if (verify->setup.blob == NULL || verify->blob_err.code != ERR_OK) {
        verify->result.bulk_uncompared++;
        return ERR_OK;
    }
    code = bulk_fetch(verify->setup.blob, manifest, &verify->bulk, &why);
    *is_there = code == ERR_OK;
    if (code == ERR_NO_MEMORY) {
        *err = why;
        return code;
    }
    if (code == ERR_NOT_FOUND || code == ERR_CORRUPT || code == ERR_INVALID_ARGUMENT) {
        tell(verify, item, manifest, &why);
    } else if (code != ERR_OK) {
        (void)err_wrap(&why, "blob store");
        verify->blob_err = why;
        verify->result.bulk_uncompared++;
    }
    return ERR_OK;
}

enum err_code verify_manifest(struct shard_verify *verify, const struct apply_collection *from,
                              const struct wal_item *item, const struct record *record,
                              struct err *err)
{
    struct against against = {.verify = verify, .from = from, .partition = item->partition};
    struct bulk_manifest manifest;
    struct apply_bulk bulk = {
        .record = record, .manifest = &manifest, .dimension = from->definition.dimension};
    struct err why = {0};
    bool is_there = false;
    enum err_code code = bulk_manifest_decode(&manifest, record->payload, record->payload_len, err);

    if (code == ERR_OK)
        code = fetch(verify, item, &manifest, &is_there, err);
    if (code != ERR_OK || !is_there) {
        verify->collections[from->number].is_partial = true;
        return code;
    }
    bulk.data = verify->bulk.data;
    bulk.len = verify->bulk.len;
    code = apply_each_row(&bulk, compare_row, &against, &why);
    if (code == ERR_CORRUPT) {
        verify->collections[from->number].is_partial = true;
        tell(verify, item, &manifest, &why);
        return ERR_OK;
    }
    if (code != ERR_OK)
        *err = why;
    return code;
}
