/* The body of PUT /v1/collections/{c}: see collection.h.
 *
 * Each object is a table of its fields; what is not in the table is refused, so that a misspelt
 * option is never an ignored one.  Fields that a later version will know are in the table and
 * answer ERR_NOT_SUPPORTED. */
#include <assert.h>
#include <string.h>

#include "common/base/json_reader.h"
#include "common/model/collection.h"

#define HASH_EMBEDDER  "hash:384"
#define HASH_DIMENSION 384
#define BY_NAME        "an embedder is chosen by its name; its URL is the operator's to configure"

struct request {
    struct json_reader reader;
    struct collection *collection;
};

typedef enum err_code field_fn(struct request *request, struct err *err);

struct field {
    const char *name;
    const char *pointer; /* "/" and the name */
    field_fn *read;
};

/* JSON that is broken is broken as a whole; everything else is told by its place. */
static enum err_code placed(struct err *err, enum err_code rc, const char *pointer)
{
    if (rc != ERR_OK && rc != ERR_INVALID_JSON && rc != ERR_NO_MEMORY)
        err_prefix_pointer(err, pointer);
    return rc;
}

static enum err_code unknown_field(struct err *err, struct json_text key)
{
    char pointer[ERR_POINTER_BYTES];
    size_t at = 0;

    pointer[at++] = '/';
    for (size_t i = 0; i < key.len && at < sizeof(pointer) - 3; i++) {
        bool escaped = key.data[i] == '~' || key.data[i] == '/';

        if (escaped)
            pointer[at++] = '~';
        pointer[at++] = escaped ? (key.data[i] == '~' ? '0' : '1') : key.data[i];
    }
    pointer[at] = '\0';
    return err_set_at(err, ERR_UNKNOWN_FIELD, pointer, "there is no such field");
}

static enum err_code read_object(struct request *request, const struct field *fields,
                                 struct err *err)
{
    struct json_reader *r = &request->reader;
    struct json_text key = {0};
    bool more = false;
    enum err_code rc = json_object_begin(r);

    while (rc == ERR_OK && (rc = json_object_next(r, &key, &more)) == ERR_OK && more) {
        const struct field *field = fields;

        while (field->name != NULL && !json_text_is(key, field->name))
            field++;
        if (field->name == NULL)
            return unknown_field(err, key);
        rc = placed(err, field->read(request, err), field->pointer);
    }
    return rc;
}

static enum err_code read_u32_within(struct request *request, uint32_t min, uint32_t max,
                                     uint32_t *out)
{
    uint64_t value = 0;
    enum err_code rc = json_read_u64(&request->reader, min, max, &value);

    if (rc == ERR_OK)
        *out = (uint32_t)value;
    return rc;
}

static enum err_code read_dimension(struct request *request, struct err *err)
{
    (void)err;
    return read_u32_within(request, 1, DIMENSION_MAX, &request->collection->dimension);
}

static enum err_code read_metric(struct request *request, struct err *err)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(&request->reader, &text);

    if (rc != ERR_OK)
        return rc;
    for (enum distance_metric metric = METRIC_COSINE; metric <= METRIC_L2; metric++) {
        if (json_text_is(text, metric_name(metric))) {
            request->collection->metric = metric;
            return ERR_OK;
        }
    }
    return err_set(err, ERR_INVALID_ARGUMENT, "a metric is cosine, ip or l2");
}

static enum err_code read_vector(struct request *request, struct err *err)
{
    static const struct field fields[] = {
        {"dimension", "/dimension", read_dimension}, {"metric", "/metric", read_metric}, {0}};

    return read_object(request, fields, err);
}

static enum err_code read_kind(struct request *request, struct err *err)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(&request->reader, &text);

    if (rc != ERR_OK)
        return rc;
    for (enum index_kind kind = INDEX_HNSW; kind <= INDEX_FLAT; kind++) {
        if (json_text_is(text, index_kind_name(kind))) {
            request->collection->index = kind;
            return ERR_OK;
        }
    }
    return err_set(err, ERR_INVALID_ARGUMENT, "an index is hnsw or flat");
}

static enum err_code read_m(struct request *request, struct err *err)
{
    (void)err;
    return read_u32_within(request, HNSW_M_MIN, HNSW_M_MAX, &request->collection->m);
}

static enum err_code read_ef_construction(struct request *request, struct err *err)
{
    (void)err;
    return read_u32_within(request, HNSW_EF_CONSTRUCTION_MIN, HNSW_EF_CONSTRUCTION_MAX,
                           &request->collection->ef_construction);
}

static enum err_code read_code_bits(struct request *request, struct err *err)
{
    uint32_t bits = 0;
    enum err_code rc = read_u32_within(request, 1, CODE_BITS_MAX, &bits);

    if (rc == ERR_OK && !collection_code_bits_are_valid(bits))
        return err_set(err, ERR_INVALID_ARGUMENT, "codes have 1, 2, 4 or 8 bits a number");
    request->collection->code_bits = bits;
    return rc;
}

static enum err_code read_index(struct request *request, struct err *err)
{
    static const struct field fields[] = {
        {"kind", "/kind", read_kind},
        {"m", "/m", read_m},
        {"ef_construction", "/ef_construction", read_ef_construction},
        {"code_bits", "/code_bits", read_code_bits},
        {0}};

    return read_object(request, fields, err);
}

bool embedder_name_is_valid(const char *name, size_t len)
{
    if (len < 1 || len > EMBEDDER_NAME_BYTES_MAX || strchr("_.-", name[0]) != NULL)
        return false;
    for (size_t i = 0; i < len; i++)
        if (name[i] == '\0' || strchr("abcdefghijklmnopqrstuvwxyz0123456789_.-", name[i]) == NULL)
            return false;
    return !(len == 4 && (memcmp(name, "none", len) == 0 || memcmp(name, "hash", len) == 0));
}

/* "none", "hash" or what the metadata keeps for it, or the name of one that the operator
 * configured.  Never a URL: who may write collections would choose what the suite calls. */
static enum err_code read_embedder(struct request *request, struct err *err)
{
    char *embedder = request->collection->embedder;
    enum json_kind type = JSON_KIND_NULL;
    struct json_text text = {0};
    enum err_code rc = json_peek(&request->reader, &type);

    if (rc == ERR_OK && type == JSON_KIND_OBJECT)
        return err_set(err, ERR_NOT_SUPPORTED, BY_NAME);
    if (rc == ERR_OK)
        rc = json_read_string(&request->reader, &text);
    if (rc != ERR_OK)
        return rc;
    if (json_text_is(text, "none")) {
        embedder[0] = '\0';
    } else if (json_text_is(text, "hash") || json_text_is(text, HASH_EMBEDDER)) {
        memcpy(embedder, HASH_EMBEDDER, sizeof(HASH_EMBEDDER));
    } else if (embedder_name_is_valid(text.data, text.len)) {
        memcpy(embedder, text.data, text.len);
        embedder[text.len] = '\0';
    } else if (text.len > 4 && memcmp(text.data, "http", 4) == 0) {
        return err_set(err, ERR_NOT_SUPPORTED, BY_NAME);
    } else {
        return err_set(err, ERR_INVALID_ARGUMENT,
                       "an embedder is none, hash, or the name of a configured one");
    }
    return ERR_OK;
}

static enum err_code read_placement(struct request *request, struct err *err)
{
    struct json_text text = {0};
    enum err_code rc = json_read_string(&request->reader, &text);

    if (rc != ERR_OK)
        return rc;
    if (json_text_is(text, "centroid"))
        return err_set(err, ERR_NOT_SUPPORTED, "centroid placement is not supported yet");
    if (!json_text_is(text, placement_name(PLACEMENT_HASH)))
        return err_set(err, ERR_INVALID_ARGUMENT, "a placement is hash");
    return ERR_OK;
}

static enum err_code read_later(struct request *request, struct err *err)
{
    (void)request;
    return err_set(err, ERR_NOT_SUPPORTED, "this field is not supported yet");
}

static enum err_code read_body(struct request *request, struct err *err)
{
    static const struct field fields[] = {{"vector", "/vector", read_vector},
                                          {"index", "/index", read_index},
                                          {"embedder", "/embedder", read_embedder},
                                          {"placement", "/placement", read_placement},
                                          {"sparse", "/sparse", read_later},
                                          {"text_fields", "/text_fields", read_later},
                                          {"indexed_fields", "/indexed_fields", read_later},
                                          {0}};
    enum err_code rc = read_object(request, fields, err);

    return rc == ERR_OK ? json_end(&request->reader) : rc;
}

/* What holds between the fields; an embedder knows the dimension by itself. */
static enum err_code complete(struct collection *collection, struct err *err)
{
    bool embeds = collection->embedder[0] != '\0';
    bool hashes = strcmp(collection->embedder, HASH_EMBEDDER) == 0;

    if (hashes && collection->dimension == 0)
        collection->dimension = HASH_DIMENSION;
    if (!embeds && collection->dimension == 0)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/vector/dimension",
                          "the dimension of the vectors is missing");
    if (hashes && collection->dimension != HASH_DIMENSION)
        return err_set_at(err, ERR_INVALID_ARGUMENT, "/vector/dimension",
                          "the hash embedder makes vectors of dimension %d", HASH_DIMENSION);
    return ERR_OK;
}

enum err_code collection_from_request(struct collection *out, const void *body, size_t len,
                                      struct err *err)
{
    struct collection collection = {
        .metric = METRIC_COSINE,
        .placement = PLACEMENT_HASH,
        .index = INDEX_HNSW,
    };
    struct request request = {.collection = &collection};
    struct arena arena = {0};
    enum err_code rc;

    assert(err != NULL);
    json_reader_init(&request.reader, body, len, &arena, err);
    rc = read_body(&request, err);
    if (rc == ERR_OK)
        rc = complete(&collection, err);
    if (rc == ERR_OK)
        *out = collection;
    arena_free(&arena);
    return rc;
}
