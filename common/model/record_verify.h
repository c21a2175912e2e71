/* The rules that the records of a log keep, beyond being whole: what a reader takes for granted.
 *
 *   - every record can be decoded, and stands in the partition of its id;
 *   - of those that count (epoch_admit), the stamps of this region's own rise within a partition:
 *     but a collection's change, which brings its own, an epoch record, which is stamped
 *     before its writer knows what lands right before it, and a bulk manifest, which keeps the
 *     stamp that was taken before it was appended for the first time.
 *
 * Records are given in the order of each partition, from its first on. */
#ifndef VICINAL_MODEL_RECORD_VERIFY_H
#define VICINAL_MODEL_RECORD_VERIFY_H

#include "common/base/limits.h"
#include "common/model/record.h"

struct record_verifier {
    uint32_t region;     /* number of the log */
    uint32_t partitions; /* of the log */
    struct epoch_state epochs[PARTITIONS_MAX];
    struct stamp newest[PARTITIONS_MAX];
    uint64_t counted, voided;
    struct buffer unpacked; /* fields of the record in hand; to be freed by the owner */
};

struct record_verified {
    struct record record; /* borrows the bytes given and the verifier's */
    bool counts;          /* false: void */
};

/* Errors: ERR_CORRUPT with the rule that is broken (the record is not to be used then),
 * ERR_NOT_SUPPORTED, ERR_NO_MEMORY. */
MUST_CHECK enum err_code record_verify(struct record_verifier *verifier, uint32_t partition,
                                       uint64_t offset, const void *data, size_t len,
                                       struct record_verified *out, struct err *err);

#endif
