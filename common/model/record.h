/* One record of the log, format v1.  Frozen: logs written by this code are read for ever.
 *
 *   at  bytes
 *    0  1   format: 1
 *    1  1   op
 *    2  2   flags: bit 0 fields are one zstd frame, bit 1 encrypted; others must be 0
 *    4  4   length of the whole record, CRC included
 *    8  8   epoch of the holder that appended it
 *   16 16   incarnation of the collection; zero for records about the log
 *   32  8   schema version: clock      56  4  region
 *   40  8   stamp: clock               60  4  region
 *   48  8   origin: offset             64  4  region (0: none, a re-seeded record)
 *   68  2   length of the id
 *   70  1   number of centroid tags, 0..2
 *   71  1   0
 *   72  8 n centroid tags: {u32 version, u32 centroid}
 *    …      id
 *    …      fields: {u8 tag, u8 flags (bit 0: may be skipped when unknown), u16 0, u32 length},
 *           bytes; with the zstd flag: u32 length of the fields unpacked, then the frame
 *   -4  4   CRC32C of everything before
 *
 * Little-endian throughout.  A reader refuses unknown formats, ops, flags, and unknown fields that
 * may not be skipped (ERR_CORRUPT: it must not guess).  Which op has what:
 *
 *   upsert            id; vector (f32 or f16), text and metadata, each optional
 *   delete            id
 *   truncate          neither id nor fields
 *   collection        the definition
 *   epoch             the holder, 16 bytes
 *   version vector    the version vector
 *   bulk manifest     the manifest, see bulk.h
 *
 * An id is 1..500 bytes of UTF-8 without NUL; a vector has at least one element, all finite.  What
 * record_decode refuses, record_encode refuses too: a log never gets what no reader takes.
 */
#ifndef VICINAL_MODEL_RECORD_H
#define VICINAL_MODEL_RECORD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/buffer.h"
#include "common/base/err.h"
#include "common/model/stamp.h"

#define RECORD_FORMAT       1
#define RECORD_HEADER_BYTES 72
#define INCARNATION_BYTES   16
#define OFFSET_NONE         UINT64_MAX
#define HOLDER_BYTES        16

enum record_op {
    RECORD_UPSERT = 1,
    RECORD_DELETE = 2,         /* tombstone of one id */
    RECORD_TRUNCATE = 3,       /* everything of the collection in this partition, older */
    RECORD_COLLECTION = 4,     /* create, alter, drop: field definition */
    RECORD_EPOCH = 5,          /* a new holder: field holder */
    RECORD_VERSION_VECTOR = 6, /* what the holder knows: field version vector */
    RECORD_BULK_MANIFEST = 7,  /* upserts that stand in an object: field manifest */
};

enum record_flag { RECORD_ZSTD = 1, RECORD_ENCRYPTED = 2 };

enum record_field {
    FIELD_VECTOR_F32 = 1,
    FIELD_VECTOR_F16 = 2,
    FIELD_TEXT = 3,
    FIELD_METADATA = 4,       /* a JSON object */
    FIELD_DEFINITION = 5,     /* of RECORD_COLLECTION: JSON, see collection.h */
    FIELD_VERSION_VECTOR = 6, /* see version_vector_encode */
    FIELD_HOLDER = 7,         /* of RECORD_EPOCH: 16 random bytes of who wrote it */
    FIELD_MANIFEST = 8,       /* of RECORD_BULK_MANIFEST: see bulk.h */
};

struct centroid_tag {
    uint32_t version, centroid;
};

struct record {
    enum record_op op;
    uint16_t flags;
    uint64_t epoch;
    uint8_t incarnation[INCARNATION_BYTES];
    struct stamp schema;
    struct stamp stamp;
    uint64_t origin_offset; /* offset in the origin's log; OFFSET_NONE: none */
    uint32_t origin_region; /* 0: none */
    uint8_t centroid_count;
    struct centroid_tag centroids[2];
    const char *id; /* id_len bytes, not NUL-terminated; NULL when 0 */
    size_t id_len;

    /* fields; NULL: absent.  Borrowed. */
    const void *vector; /* dim floats (f32, maybe unaligned) or halves (f16) */
    size_t vector_bytes;
    bool vector_is_f16;
    const char *text;
    size_t text_len;
    const char *metadata;
    size_t metadata_len;
    const void *payload; /* definition, version vector, holder or manifest, by op */
    size_t payload_len;
};

/* No float32 among them, little-endian and maybe unaligned, is infinite or not a number: its
 * exponent is not all ones. */
bool record_is_finite(const void *vector, size_t bytes);

/* Append the encoded record.  RECORD_ZSTD in flags packs the fields, where that makes the record
 * smaller.  Appends nothing on failure.
 * Errors: ERR_PAYLOAD_TOO_LARGE (over RECORD_BYTES_MAX), ERR_INVALID_ARGUMENT (id, too many
 * centroids, fields that the op has not, a vector that is not finite), ERR_NO_MEMORY,
 * ERR_NOT_SUPPORTED (encryption). */
MUST_CHECK enum err_code record_encode(const struct record *record, struct buffer *out,
                                       struct err *err);

/* What the sequencer fills in when a record's turn has come: into bytes that record_encode made,
 * CRC mended. */
struct record_turn {
    uint64_t epoch;
    struct stamp stamp;
    uint32_t origin_region;
    uint64_t origin_offset;
};
void record_set_turn(void *data, size_t len, const struct record_turn *turn);

/* Decode and check everything, CRC first.  Pointers lead into data, or into scratch (for packed
 * fields; may be NULL if those are to be refused) until it is next used.
 * Errors: ERR_CORRUPT, ERR_NO_MEMORY, ERR_NOT_SUPPORTED (encrypted). */
MUST_CHECK enum err_code record_decode(struct record *out, const void *data, size_t len,
                                       struct buffer *scratch, struct err *err);

/* The header, centroid tags and id, no CRC and no fields: for skipping.
 * Errors: ERR_CORRUPT, ERR_NOT_SUPPORTED (encrypted). */
MUST_CHECK enum err_code record_peek(struct record *out, const void *data, size_t len,
                                     struct err *err);

/* The CRC at the end of encoded bytes: names this record in a log's lineage. */
uint32_t record_crc(const void *data, size_t len);

/* The partition of an id: murmur3_32 with one seed, the same everywhere, for ever. */
uint32_t record_partition(const char *id, size_t id_len, uint32_t partitions);

/* Does it say something about records or collections, and not only about the log itself? */
bool record_is_data(enum record_op op);

/* --- the void rule ---------------------------------------------------------------------------
 * Every reader of a log applies it, partition by partition, in order, from where its knowledge of
 * the epoch is right: an epoch record that is not higher than all before it is void; so is every
 * record whose epoch is not that of the newest valid epoch record before it. */
struct epoch_state {
    uint64_t epoch;        /* 0: none seen yet */
    uint64_t epoch_offset; /* where its record stands */
};

/* True: the record counts (and the state is moved on); false: it is void. */
bool epoch_admit(struct epoch_state *state, const struct record *record, uint64_t offset);

/* --- version vectors ---------------------------------------------------------------------------
 * Per partition: what has been seen of each origin. */
struct version_entry {
    uint32_t region;
    uint64_t position;   /* the next offset wanted from that origin's log */
    struct stamp newest; /* the newest stamp seen from there */
};

#define VERSION_ENTRIES_MAX 64

struct version_vector {
    uint64_t clock; /* of the holder: stamps it gives are above */
    uint32_t count; /* entries, rising by region */
    struct version_entry entries[VERSION_ENTRIES_MAX];
};

/* The entry of a region, made (zeroed) when absent; NULL when the vector is full. */
struct version_entry *version_vector_entry(struct version_vector *vector, uint32_t region);
const struct version_entry *version_vector_find(const struct version_vector *vector,
                                                uint32_t region);
/* Frozen, as the record is: u8 form 1, u64 clock, u32 count, then count times {u32 region,
 * u64 position, u64 clock, u32 region of the newest stamp}, rising by region. */
void version_vector_encode(const struct version_vector *vector, struct buffer *out);
/* Errors: ERR_CORRUPT. */
MUST_CHECK enum err_code version_vector_decode(struct version_vector *out, const void *data,
                                               size_t len, struct err *err);

#endif
