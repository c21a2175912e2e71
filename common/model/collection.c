/* Collections: see collection.h.  What clients send is in collection_request.c; here is what the
 * log and the metadata store keep, what the API shows, and what makes two collections one. */
#include "common/model/collection.h"

#include <assert.h>
#include <string.h>

#include "common/base/hash.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"

#define INCARNATION_FORM "vicinal.collection.1"

static const char *const metric_names[] = {
    [METRIC_COSINE] = "cosine", [METRIC_IP] = "ip", [METRIC_L2] = "l2"};
static const char *const placement_names[] = {[PLACEMENT_HASH] = "hash"};
static const char *const index_names[] = {[INDEX_HNSW] = "hnsw", [INDEX_FLAT] = "flat"};
static const char *const change_names[] = {
    [COLLECTION_CREATE] = "create", [COLLECTION_ALTER] = "alter", [COLLECTION_DROP] = "drop"};

const char *metric_name(enum distance_metric metric)
{
    assert((size_t)metric < ARRAY_COUNT(metric_names));
    return metric_names[metric];
}

const char *placement_name(enum placement placement)
{
    assert((size_t)placement < ARRAY_COUNT(placement_names));
    return placement_names[placement];
}

const char *index_kind_name(enum index_kind kind)
{
    assert((size_t)kind < ARRAY_COUNT(index_names));
    return index_names[kind];
}

static bool is_alphanumeric(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

enum err_code collection_check_name(const char *name, size_t len, struct err *err)
{
    if (len < 1 || len > COLLECTION_NAME_BYTES_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "a collection's name has 1 to %d bytes",
                       COLLECTION_NAME_BYTES_MAX);
    for (size_t i = 0; i < len; i++) {
        bool allowed = is_alphanumeric(name[i]) ||
                       (i > 0 && (name[i] == '_' || name[i] == '.' || name[i] == '-'));

        if (!allowed)
            return err_set(err, ERR_INVALID_ARGUMENT,
                           "a collection's name is [A-Za-z0-9][A-Za-z0-9_.-]*");
    }
    return ERR_OK;
}

/* Each part is told with its length before it: no two definitions give the same bytes. */
static void append_part(uint8_t *bytes, size_t *at, const void *part, size_t len)
{
    uint32_t length = (uint32_t)len;

    memcpy(bytes + *at, &length, sizeof(length));
    memcpy(bytes + *at + sizeof(length), part, len);
    *at += sizeof(length) + len;
}

void collection_identify(struct collection *collection)
{
    const char *metric = metric_name(collection->metric);
    const char *placement = placement_name(collection->placement);
    uint8_t bytes[TENANT_BYTES_MAX + COLLECTION_NAME_BYTES_MAX + 128];
    uint8_t hash[32];
    size_t at = 0;

    append_part(bytes, &at, INCARNATION_FORM, strlen(INCARNATION_FORM));
    append_part(bytes, &at, collection->tenant, strlen(collection->tenant));
    append_part(bytes, &at, collection->name, strlen(collection->name));
    append_part(bytes, &at, &collection->generation, sizeof(collection->generation));
    append_part(bytes, &at, &collection->dimension, sizeof(collection->dimension));
    append_part(bytes, &at, metric, strlen(metric));
    append_part(bytes, &at, placement, strlen(placement));
    assert(at <= sizeof(bytes));
    hash_sha256(hash, bytes, at);
    memcpy(collection->incarnation, hash, INCARNATION_BYTES);
}

bool collection_code_bits_are_valid(uint64_t bits)
{
    return bits >= 1 && bits <= CODE_BITS_MAX && (bits & (bits - 1)) == 0;
}

void collection_fill(struct collection *wanted)
{
    if (wanted->m == 0)
        wanted->m = HNSW_M_DEFAULT;
    if (wanted->ef_construction == 0)
        wanted->ef_construction = HNSW_EF_CONSTRUCTION_DEFAULT;
}

static bool number_is_as_wanted(uint32_t there, uint32_t wanted)
{
    return wanted == 0 || there == wanted;
}

bool collection_is_as_wanted(const struct collection *there, const struct collection *wanted)
{
    return strcmp(there->tenant, wanted->tenant) == 0 && strcmp(there->name, wanted->name) == 0 &&
           there->dimension == wanted->dimension && there->metric == wanted->metric &&
           there->placement == wanted->placement && there->index == wanted->index &&
           number_is_as_wanted(there->m, wanted->m) &&
           number_is_as_wanted(there->ef_construction, wanted->ef_construction) &&
           number_is_as_wanted(there->code_bits, wanted->code_bits) &&
           strcmp(there->embedder, wanted->embedder) == 0;
}

/* --- writing ------------------------------------------------------------------------------- */

static void write_text(struct json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    json_text(w, text);
}

static void write_number(struct json_writer *w, const char *key, uint64_t number)
{
    json_key(w, key);
    json_u64(w, number);
}

static void write_stamp(struct json_writer *w, const char *key, struct stamp stamp)
{
    char text[STAMP_TEXT_BYTES];

    stamp_to_text(text, stamp);
    write_text(w, key, text);
}

static void write_index(struct json_writer *w, const struct collection *collection)
{
    json_key(w, "index");
    json_begin_object(w);
    write_text(w, "kind", index_kind_name(collection->index));
    write_number(w, "m", collection->m);
    write_number(w, "ef_construction", collection->ef_construction);
    if (collection->code_bits != 0)
        write_number(w, "code_bits", collection->code_bits);
    json_end_object(w);
}

void collection_encode(const struct collection *collection, enum collection_change change,
                       struct buffer *out)
{
    struct json_writer w;

    assert((size_t)change < ARRAY_COUNT(change_names));
    json_writer_init(&w, out);
    json_begin_object(&w);
    write_text(&w, "change", change_names[change]);
    write_text(&w, "tenant", collection->tenant);
    write_text(&w, "name", collection->name);
    write_number(&w, "generation", collection->generation);
    write_number(&w, "dimension", collection->dimension);
    write_text(&w, "metric", metric_name(collection->metric));
    write_text(&w, "placement", placement_name(collection->placement));
    write_index(&w, collection);
    write_text(&w, "embedder", collection->embedder);
    write_stamp(&w, "created", collection->created);
    write_stamp(&w, "schema", collection->schema);
    json_end_object(&w);
}

void collection_write(const struct collection *collection, struct json_writer *w)
{
    bool is_hash = strncmp(collection->embedder, "hash:", 5) == 0;

    write_text(w, "name", collection->name);
    json_key(w, "vector");
    json_begin_object(w);
    write_number(w, "dimension", collection->dimension);
    write_text(w, "metric", metric_name(collection->metric));
    json_end_object(w);
    write_index(w, collection);
    if (collection->embedder[0] == '\0')
        write_text(w, "embedder", "none");
    else
        write_text(w, "embedder", is_hash ? "hash" : collection->embedder);
    write_text(w, "placement", placement_name(collection->placement));
    write_stamp(w, "version", collection->schema);
}

/* --- reading ------------------------------------------------------------------------------- */

enum member {
    MEMBER_CHANGE = 1 << 0,
    MEMBER_TENANT = 1 << 1,
    MEMBER_NAME = 1 << 2,
    MEMBER_GENERATION = 1 << 3,
    MEMBER_DIMENSION = 1 << 4,
    MEMBER_METRIC = 1 << 5,
    MEMBER_PLACEMENT = 1 << 6,
    MEMBER_INDEX = 1 << 7,
    MEMBER_EMBEDDER = 1 << 8,
    MEMBER_CREATED = 1 << 9,
    MEMBER_SCHEMA = 1 << 10,
    MEMBERS_ALL = (1 << 11) - 1,
};

static enum err_code wrong_value(struct err *err, const char *key)
{
    return err_set(err, ERR_CORRUPT, "collection: %s has a value that is not known", key);
}

/* A string that is one of the names, as its index. */
static enum err_code read_name(struct json_reader *r, const char *key, const char *const *names,
                               size_t count, uint32_t *out)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(r, &text);

    if (rc != ERR_OK)
        return rc;
    for (size_t i = 0; i < count; i++) {
        if (json_text_is(text, names[i])) {
            *out = (uint32_t)i;
            return ERR_OK;
        }
    }
    return wrong_value(r->err, key);
}

/* A string without NUL into room for size bytes, its NUL included. */
static enum err_code read_text(struct json_reader *r, const char *key, char *out, size_t size)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(r, &text);

    if (rc != ERR_OK)
        return rc;
    if (text.len >= size || (text.len > 0 && memchr(text.data, 0, text.len) != NULL))
        return wrong_value(r->err, key);
    if (text.len > 0)
        memcpy(out, text.data, text.len);
    out[text.len] = '\0';
    return ERR_OK;
}

static enum err_code read_u32_within(struct json_reader *r, uint32_t min, uint32_t max,
                                     uint32_t *out)
{
    uint64_t value = 0;
    enum err_code rc = json_read_u64(r, min, max, &value);

    if (rc == ERR_OK)
        *out = (uint32_t)value;
    return rc;
}

static enum err_code read_stamp(struct json_reader *r, const char *key, struct stamp *out)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(r, &text);

    if (rc == ERR_OK && !stamp_from_text(out, text.data, text.len))
        rc = wrong_value(r->err, key);
    return rc;
}

static enum err_code read_code_bits(struct json_reader *r, struct collection *out)
{
    enum err_code rc = read_u32_within(r, 1, CODE_BITS_MAX, &out->code_bits);

    if (rc == ERR_OK && !collection_code_bits_are_valid(out->code_bits))
        rc = wrong_value(r->err, "code_bits");
    return rc;
}

static enum err_code read_index(struct json_reader *r, struct collection *out)
{
    uint32_t kind = UINT32_MAX;
    struct json_text key = {0};
    bool more = false;
    enum err_code rc = json_object_begin(r);

    if (rc != ERR_OK)
        return rc;
    while ((rc = json_object_next(r, &key, &more)) == ERR_OK && more) {
        if (json_text_is(key, "kind"))
            rc = read_name(r, "kind", index_names, ARRAY_COUNT(index_names), &kind);
        else if (json_text_is(key, "m"))
            rc = read_u32_within(r, HNSW_M_MIN, HNSW_M_MAX, &out->m);
        else if (json_text_is(key, "ef_construction"))
            rc = read_u32_within(r, HNSW_EF_CONSTRUCTION_MIN, HNSW_EF_CONSTRUCTION_MAX,
                                 &out->ef_construction);
        else if (json_text_is(key, "code_bits"))
            rc = read_code_bits(r, out);
        else
            rc = json_skip(r, NULL, NULL);
        if (rc != ERR_OK)
            return rc;
    }
    if (rc != ERR_OK)
        return rc;
    if (kind == UINT32_MAX || out->m == 0 || out->ef_construction == 0)
        return wrong_value(r->err, "index");
    out->index = (enum index_kind)kind;
    return ERR_OK;
}

/* The members that are names of an enum. */
static enum err_code read_choice(struct json_reader *r, struct collection *out, unsigned member,
                                 enum collection_change *change)
{
    uint32_t value = 0;
    enum err_code rc;

    if (member == MEMBER_CHANGE) {
        rc = read_name(r, "change", change_names, ARRAY_COUNT(change_names), &value);
        *change = (enum collection_change)value;
    } else if (member == MEMBER_METRIC) {
        rc = read_name(r, "metric", metric_names, ARRAY_COUNT(metric_names), &value);
        out->metric = (enum distance_metric)value;
    } else {
        assert(member == MEMBER_PLACEMENT);
        rc = read_name(r, "placement", placement_names, ARRAY_COUNT(placement_names), &value);
        out->placement = (enum placement)value;
    }
    return rc;
}

static enum err_code read_member(struct json_reader *r, struct collection *out, unsigned member,
                                 enum collection_change *change)
{
    switch (member) {
    case MEMBER_TENANT:
        return read_text(r, "tenant", out->tenant, sizeof(out->tenant));
    case MEMBER_NAME:
        return read_text(r, "name", out->name, sizeof(out->name));
    case MEMBER_GENERATION:
        return json_read_u64(r, 0, UINT64_MAX, &out->generation);
    case MEMBER_DIMENSION:
        return read_u32_within(r, 1, DIMENSION_MAX, &out->dimension);
    case MEMBER_INDEX:
        return read_index(r, out);
    case MEMBER_EMBEDDER:
        return read_text(r, "embedder", out->embedder, sizeof(out->embedder));
    case MEMBER_CREATED:
        return read_stamp(r, "created", &out->created);
    case MEMBER_SCHEMA:
        return read_stamp(r, "schema", &out->schema);
    case MEMBER_CHANGE:
    case MEMBER_METRIC:
    case MEMBER_PLACEMENT:
        return read_choice(r, out, member, change);
    default:
        return json_skip(r, NULL, NULL);
    }
}

static unsigned member_of(struct json_text key)
{
    static const char *const names[] = {"change",    "tenant",  "name",      "generation",
                                        "dimension", "metric",  "placement", "index",
                                        "embedder",  "created", "schema"};

    static_assert((1u << ARRAY_COUNT(names)) - 1 == MEMBERS_ALL, "the names of all members");
    for (unsigned i = 0; i < ARRAY_COUNT(names); i++) {
        if (json_text_is(key, names[i]))
            return 1u << i;
    }
    return 0;
}

static enum err_code read_members(struct json_reader *r, struct collection *out,
                                  enum collection_change *change)
{
    struct json_text key = {0};
    unsigned seen = 0;
    bool more = false;
    enum err_code rc = json_object_begin(r);

    while (rc == ERR_OK && (rc = json_object_next(r, &key, &more)) == ERR_OK && more) {
        unsigned member = member_of(key);

        if ((seen & member) != 0)
            return err_set(r->err, ERR_CORRUPT, "collection: a member twice");
        seen |= member;
        rc = read_member(r, out, member, change);
    }
    if (rc == ERR_OK)
        rc = json_end(r);
    if (rc == ERR_OK && seen != MEMBERS_ALL)
        rc = err_set(r->err, ERR_CORRUPT, "collection: a member is missing");
    if (rc == ERR_OK && collection_check_name(out->name, strlen(out->name), NULL) != ERR_OK)
        rc = wrong_value(r->err, "name");
    return rc;
}

enum err_code collection_decode(struct collection *out, enum collection_change *change,
                                const void *data, size_t len, struct err *err)
{
    struct collection collection = {0};
    enum collection_change what = COLLECTION_CREATE;
    struct arena arena = {0};
    struct json_reader r;
    struct err inner = {0};
    enum err_code rc;

    json_reader_init(&r, data, len, &arena, &inner);
    rc = read_members(&r, &collection, &what);
    arena_free(&arena);
    if (rc != ERR_OK)
        return err_set(err, rc == ERR_NO_MEMORY ? rc : ERR_CORRUPT, "%s", inner.message);
    collection.dropped = what == COLLECTION_DROP;
    collection_identify(&collection);
    *out = collection;
    *change = what;
    return ERR_OK;
}
