/* Every limit of the public surface, once.  The OpenAPI file repeats them; a test compares. */
#ifndef VICINAL_BASE_LIMITS_H
#define VICINAL_BASE_LIMITS_H

#define KIB(n) ((size_t)(n) << 10)
#define MIB(n) ((size_t)(n) << 20)

enum {
    ID_BYTES_MAX = 500,             /* UTF-8, without NUL; at least 1 */
    DIMENSION_MAX = 8192,           /* at least 1 */
    METADATA_DEPTH_MAX = 8,         /* nesting of the metadata object, itself counted */
    RECORDS_PER_REQUEST_MAX = 1000, /* at least 1 */
    IDS_PER_REQUEST_MAX = 10000,    /* ids of one get or delete */
    TOP_K_MAX = 10000,              /* at least 1; top_k + offset may not pass it either */
    TOP_K_DEFAULT = 10,
    SEARCHES_PER_BATCH_MAX = 100,
    SCROLL_LIMIT_MAX = 10000,
    SCROLL_LIMIT_DEFAULT = 100,
    COLLECTIONS_PER_PAGE_MAX = 1000,
    FILTER_DEPTH_MAX = 16,
    FILTER_CLAUSES_MAX = 256,
    FILTER_VALUES_MAX = 10000, /* of one $in */
    DEADLINE_MS_MAX = 60000,   /* at least 1 */
    DEADLINE_MS_DEFAULT = 1000,
    WRITE_DEADLINE_MS_DEFAULT = 10000,
    JSON_DEPTH_MAX = 64,             /* of any body */
    COLLECTION_NAME_BYTES_MAX = 128, /* [A-Za-z0-9][A-Za-z0-9_.-]* */
    PARTITIONS_MAX = 1024,
    PARTITIONS_DEFAULT = 64,
    REPLICAS_MAX = 16, /* of one shard */
    SHARDS_MAX = 256,
    HNSW_M_MIN = 4,
    HNSW_M_MAX = 64,
    HNSW_M_DEFAULT = 16,
    HNSW_EF_CONSTRUCTION_MIN = 8,
    HNSW_EF_CONSTRUCTION_MAX = 2000,
    HNSW_EF_CONSTRUCTION_DEFAULT = 150,
    CODE_BITS_MAX = 8,
    SEARCH_EF_MAX = 10000,
    TOKEN_BYTES_MAX = 65536, /* of a read token, as text */
    IDEMPOTENCY_KEY_MAX = 255,
};

#define RECORD_BYTES_MAX   KIB(900) /* encoded, as it stands in the log */
#define TEXT_BYTES_MAX     KIB(512)
#define METADATA_BYTES_MAX KIB(64)
#define BODY_BYTES_MAX     MIB(64) /* of a request, after decompression */

#endif
