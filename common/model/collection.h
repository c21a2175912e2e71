/* What a collection is: its definition, its identity, and the changes of it that the log carries.
 *
 * The incarnation is the first 16 bytes of the SHA-256 of (tenant, name, generation, dimension,
 * metric, placement): a name that is dropped and created again is another collection; the same
 * definition created in two regions is one.  The generation is the number of times that the name
 * has been dropped. */
#ifndef VICINAL_MODEL_COLLECTION_H
#define VICINAL_MODEL_COLLECTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/base/limits.h"
#include "common/model/record.h"
#include "common/model/stamp.h"

#define TENANT_DEFAULT          "default"
#define TENANT_BYTES_MAX        64
#define EMBEDDER_BYTES_MAX      256
#define EMBEDDER_NAME_BYTES_MAX 64

enum distance_metric { METRIC_COSINE, METRIC_IP, METRIC_L2 };
enum placement { PLACEMENT_HASH };
enum index_kind { INDEX_HNSW, INDEX_FLAT };
enum collection_change { COLLECTION_CREATE, COLLECTION_ALTER, COLLECTION_DROP };

struct collection {
    char tenant[TENANT_BYTES_MAX + 1];
    char name[COLLECTION_NAME_BYTES_MAX + 1];
    uint64_t generation;
    uint32_t dimension;
    enum distance_metric metric;
    enum placement placement;
    enum index_kind index;
    uint32_t m;
    uint32_t ef_construction;
    uint32_t code_bits; /* of the codes that a walk reads: 1, 2, 4, 8; 0: the engine's choice */
    char embedder[EMBEDDER_BYTES_MAX + 1];  /* "" none; "hash:384"; a name */
    uint8_t incarnation[INCARNATION_BYTES]; /* collection_identify */
    struct stamp created;                   /* change stamp of the creation */
    struct stamp schema;                    /* stamp of its newest change */
    bool dropped;
};

const char *metric_name(enum distance_metric metric);
const char *placement_name(enum placement placement);
const char *index_kind_name(enum index_kind kind);

/* 1, 2, 4 or 8. */
bool collection_code_bits_are_valid(uint64_t bits);

/* [A-Za-z0-9][A-Za-z0-9_.-]*, 1..COLLECTION_NAME_BYTES_MAX bytes.  Errors: ERR_INVALID_ARGUMENT. */
MUST_CHECK enum err_code collection_check_name(const char *name, size_t len, struct err *err);

/* The name of an embedder that an operator may configure: [a-z0-9][a-z0-9_.-]*, at most
 * EMBEDDER_NAME_BYTES_MAX bytes, and none of the built-in words. */
bool embedder_name_is_valid(const char *name, size_t len);

/* The body of PUT /v1/collections/{c} into a definition (tenant, name and generation are the
 * caller's; m, ef_construction and code_bits are 0 where the request leaves them open).  Fields:
 * vector{dimension, metric}, index{kind, m, ef_construction, code_bits}, embedder ("none", "hash",
 * or a name; hash needs dimension 384, or none given; whether anyone configured the name is the
 * caller's to find out, and the dimension stays 0 where it is left to that embedder), placement
 * ("hash").  *out is overwritten whole, tenant, name and generation too; err is not NULL. Errors,
 * all with pointers: ERR_INVALID_JSON, ERR_INVALID_ARGUMENT, ERR_UNKNOWN_FIELD, ERR_NOT_SUPPORTED
 * (centroid placement, embedder URLs, sparse, text_fields, indexed_fields). */
MUST_CHECK enum err_code collection_from_request(struct collection *out, const void *body,
                                                 size_t len, struct err *err);

/* Fill incarnation from the rest. */
void collection_identify(struct collection *collection);

/* Decide what a request left open. */
void collection_fill(struct collection *wanted);

/* Is it what a request wants, so that PUT answers 200?  What the request leaves open, stamps and
 * generation may be anything. */
bool collection_is_as_wanted(const struct collection *there, const struct collection *wanted);

/* JSON of the log record and of the metadata row:
 * {"change":"create","tenant":…,"name":…,"generation":…,"dimension":…,"metric":…,"placement":…,
 *  "index":{"kind","m","ef_construction"},"embedder":…,"created":"clock-region","schema":…}; in
 * "index" also "code_bits", if that is not 0.
 * Unknown members are kept out of sight (a newer version's).  Decoding identifies the collection,
 * and sets dropped for a drop.  Errors: ERR_CORRUPT, ERR_NO_MEMORY. */
void collection_encode(const struct collection *collection, enum collection_change change,
                       struct buffer *out);
MUST_CHECK enum err_code collection_decode(struct collection *out, enum collection_change *change,
                                           const void *data, size_t len, struct err *err);

/* What the API shows: the members name, vector{}, index{}, embedder, placement, version of an
 * object that the caller has begun, adds to and ends. */
struct json_writer;
void collection_write(const struct collection *collection, struct json_writer *w);

#endif
