/* What a partition's log means beyond its records: the void rule and version vectors; see
 * record.h.  Both are pure functions of what was read so far, so that every reader comes to the
 * same result. */
#include <assert.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/model/record.h"

#define VERSION_VECTOR_FORM 1

bool record_is_data(enum record_op op)
{
    switch (op) {
    case RECORD_UPSERT:
    case RECORD_DELETE:
    case RECORD_TRUNCATE:
    case RECORD_COLLECTION:
    case RECORD_BULK_MANIFEST:
        return true;
    case RECORD_EPOCH:
    case RECORD_VERSION_VECTOR:
        return false;
    }
    return false;
}

bool epoch_admit(struct epoch_state *state, const struct record *record, uint64_t offset)
{
    if (record->op != RECORD_EPOCH)
        return state->epoch != 0 && record->epoch == state->epoch;
    if (record->epoch <= state->epoch)
        return false;
    state->epoch = record->epoch;
    state->epoch_offset = offset;
    return true;
}

/* Index of the first entry whose region is not below. */
static uint32_t version_vector_index(const struct version_vector *vector, uint32_t region)
{
    uint32_t index = 0;

    assert(vector->count <= VERSION_ENTRIES_MAX);
    while (index < vector->count && vector->entries[index].region < region)
        index++;
    return index;
}

const struct version_entry *version_vector_find(const struct version_vector *vector,
                                                uint32_t region)
{
    uint32_t index = version_vector_index(vector, region);

    if (index == vector->count || vector->entries[index].region != region)
        return NULL;
    return &vector->entries[index];
}

struct version_entry *version_vector_entry(struct version_vector *vector, uint32_t region)
{
    uint32_t index = version_vector_index(vector, region);
    struct version_entry *entry = &vector->entries[index];

    if (index < vector->count && entry->region == region)
        return entry;
    if (vector->count == VERSION_ENTRIES_MAX)
        return NULL;
    memmove(entry + 1, entry, (vector->count - index) * sizeof(*entry));
    *entry = (struct version_entry){.region = region};
    vector->count++;
    return entry;
}

void version_vector_encode(const struct version_vector *vector, struct buffer *out)
{
    assert(vector->count <= VERSION_ENTRIES_MAX);
    buffer_append_byte(out, VERSION_VECTOR_FORM);
    buffer_append_u64(out, vector->clock);
    buffer_append_u32(out, vector->count);
    for (uint32_t i = 0; i < vector->count; i++) {
        const struct version_entry *entry = &vector->entries[i];

        assert(i == 0 || entry[-1].region < entry->region);
        buffer_append_u32(out, entry->region);
        buffer_append_u64(out, entry->position);
        buffer_append_u64(out, entry->newest.clock);
        buffer_append_u32(out, entry->newest.region);
    }
}

enum err_code version_vector_decode(struct version_vector *out, const void *data, size_t len,
                                    struct err *err)
{
    struct bytes_reader reader = {.data = data, .len = len};
    struct version_vector vector = {0};
    uint8_t form = read_u8(&reader);

    vector.clock = read_u64(&reader);
    vector.count = read_u32(&reader);
    if (reader.failed || form != VERSION_VECTOR_FORM || vector.count > VERSION_ENTRIES_MAX)
        return err_set(err, ERR_CORRUPT, "version vector: malformed head");
    for (uint32_t i = 0; i < vector.count; i++) {
        struct version_entry *entry = &vector.entries[i];

        entry->region = read_u32(&reader);
        entry->position = read_u64(&reader);
        entry->newest.clock = read_u64(&reader);
        entry->newest.region = read_u32(&reader);
        if (i > 0 && entry[-1].region >= entry->region)
            return err_set(err, ERR_CORRUPT, "version vector: regions do not rise");
    }
    if (!read_done(&reader))
        return err_set(err, ERR_CORRUPT, "version vector: wrong length");
    *out = vector;
    return ERR_OK;
}
