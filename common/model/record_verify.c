/* The rules of a log's records: see record_verify.h. */
#include "common/model/record_verify.h"

#include <assert.h>

static enum err_code check_place(const struct record_verifier *verifier, uint32_t partition,
                                 const struct record *record, struct err *err)
{
    uint32_t own;

    if (record->id_len == 0)
        return ERR_OK;
    own = record_partition(record->id, record->id_len, verifier->partitions);
    if (own == partition)
        return ERR_OK;
    return err_set(err, ERR_CORRUPT, "the record's id belongs into partition %u", own);
}

static enum err_code check_stamp(struct record_verifier *verifier, uint32_t partition,
                                 const struct record *record, struct err *err)
{
    struct stamp *newest = &verifier->newest[partition];

    if (stamp_compare(record->stamp, *newest) > 0) {
        *newest = record->stamp;
        return ERR_OK;
    }
    if (record->stamp.region != verifier->region || record->op == RECORD_COLLECTION ||
        record->op == RECORD_EPOCH || record->op == RECORD_BULK_MANIFEST)
        return ERR_OK;
    return err_set(err, ERR_CORRUPT, "the record's stamp is not above those before it");
}

enum err_code record_verify(struct record_verifier *verifier, uint32_t partition, uint64_t offset,
                            const void *data, size_t len, struct record_verified *out,
                            struct err *err)
{
    enum err_code code = record_decode(&out->record, data, len, &verifier->unpacked, err);

    assert(partition < verifier->partitions);
    if (code != ERR_OK)
        return code;
    /* A trimmed log begins with a record that was written in the epoch in force. */
    if (offset > 0 && verifier->epochs[partition].epoch == 0 &&
        out->record.op == RECORD_VERSION_VECTOR)
        verifier->epochs[partition].epoch = out->record.epoch;
    out->counts = epoch_admit(&verifier->epochs[partition], &out->record, offset);
    *(out->counts ? &verifier->counted : &verifier->voided) += 1;
    code = check_place(verifier, partition, &out->record, err);
    if (code == ERR_OK && out->counts)
        code = check_stamp(verifier, partition, &out->record, err);
    return code;
}
