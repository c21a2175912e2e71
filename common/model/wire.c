/* The compact form between services: see wire.h.
 *
 * question: u8 version, u8 op, u8 flags, u8 include, u32 dim, dim floats: so the vector is aligned
 *   whenever the body is.  Then u32 k, u32 ef, f32 bound, u32 limit, u32 wait_ms,
 *   u64 max_staleness_ns, the incarnation, the partitions (varint count of words, u64 words without
 *   the zero ones at the end), the demands (position.h), the filter, f32 recall if a flag says so,
 *   the ids (varint count), the id to go on after.
 * answer: u8 version, u8 flags, u16 0, u32 region, u64 staleness_ns, u64 took_ns, u64 map_version,
 *   u64 count, the positions seen, the served (varint count; varint partition, varint position),
 * the rows (varint count), the explanation. row: u8 flags, id, varint clock, varint region, varint
 * partition, f32 distance, then text, metadata and vector (varint dim) as far as the flags say.
 *
 * Runs of bytes are a varint length and the bytes.  Both ends are of one release or of neighbouring
 * ones: a form of another version is refused, and whoever asks falls back.  Decoding is strict;
 * every count is held against what is left of the bytes before memory is taken for it. */
#include "common/model/wire.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/bytes.h"
#include "common/base/limits.h"

enum {
    QUESTION_FRESH = 1,
    QUESTION_SERVE_STALE = 2,
    QUESTION_EXPLAIN = 4,
    QUESTION_EXACT = 8,
    QUESTION_FILTER = 16,
    QUESTION_RECALL = 32,
    QUESTION_FLAGS = 63,

    ANSWER_STALE = 1,
    ANSWER_MORE = 2,
    ANSWER_EXPLAIN = 4,
    ANSWER_FLAGS = 7,

    ROW_FLAGS = INCLUDE_TEXT | INCLUDE_METADATA | INCLUDE_VECTOR,
    INCLUDE_ALL = ROW_FLAGS | INCLUDE_DELETED,

    QUESTION_VECTOR_AT = 8,
    ROW_BYTES_MIN = 10, /* flags, length and one byte of the id, three varints, the distance */
    ROW_BYTES_GUESS = 64,
};

static_assert(QUESTION_VECTOR_AT % sizeof(float) == 0, "an aligned body has an aligned vector");
static_assert(TOP_K_MAX <= WIRE_ROWS_MAX, "a search's rows fit");
static_assert(SCROLL_LIMIT_MAX <= WIRE_ROWS_MAX, "a scroll's rows fit");
static_assert(IDS_PER_REQUEST_MAX <= WIRE_ROWS_MAX, "a get's rows fit");

/* --- numbers and runs ---------------------------------------------------------------------- */

static void append_float(struct buffer *out, float value)
{
    buffer_append(out, &value, sizeof(value));
}

static float read_float(struct bytes_reader *r)
{
    uint32_t bits = read_u32(r);
    float value;

    memcpy(&value, &bits, sizeof(value));
    return value;
}

static void append_run(struct buffer *out, const void *data, size_t len)
{
    buffer_append_varint(out, len);
    buffer_append(out, data, len);
}

static const char *read_run(struct bytes_reader *r, size_t *len)
{
    uint64_t bytes = read_varint(r);
    const uint8_t *p;

    if (bytes > r->len)
        r->failed = true;
    p = read_bytes(r, (size_t)bytes);
    *len = p == NULL ? 0 : (size_t)bytes;
    return (const char *)p;
}

static bool are_finite(const uint8_t *floats, uint32_t dim)
{
    uint32_t bad = 0;

    for (size_t i = 0; i < dim; i++)
        bad |= (uint32_t)((load_u32(floats + 4 * i) & 0x7f800000u) == 0x7f800000u);
    return bad == 0;
}

/* dim floats, where they stand; NULL and a failed reader when they are not all there and finite. */
static const uint8_t *read_floats(struct bytes_reader *r, uint64_t dim)
{
    const uint8_t *p;

    if (dim > DIMENSION_MAX)
        r->failed = true;
    p = read_bytes(r, (size_t)dim * sizeof(float));
    if (p == NULL || are_finite(p, (uint32_t)dim))
        return p;
    r->failed = true;
    return NULL;
}

static enum err_code malformed(struct err *err, const char *what)
{
    return err_set(err, ERR_INVALID_ARGUMENT, "wire: %s", what);
}

static enum err_code no_memory(struct err *err)
{
    return err_set(err, ERR_NO_MEMORY, "wire: no memory");
}

/* --- questions ----------------------------------------------------------------------------- */

static void append_partitions(struct buffer *out, const struct partition_set *set)
{
    size_t words = ARRAY_COUNT(set->words);

    while (words > 0 && set->words[words - 1] == 0)
        words--;
    buffer_append_varint(out, words);
    buffer_append(out, set->words, words * sizeof(set->words[0]));
}

static void read_partitions(struct bytes_reader *r, struct partition_set *set)
{
    uint64_t words = read_varint(r);

    if (words > ARRAY_COUNT(set->words)) {
        r->failed = true;
        return;
    }
    for (uint64_t i = 0; i < words; i++)
        set->words[i] = read_u64(r);
    if (words > 0 && set->words[words - 1] == 0)
        r->failed = true;
}

static uint8_t question_flags(const struct wire_question *question)
{
    return (uint8_t)((question->fresh ? QUESTION_FRESH : 0) |
                     (question->serve_stale ? QUESTION_SERVE_STALE : 0) |
                     (question->explain ? QUESTION_EXPLAIN : 0) |
                     (question->exact ? QUESTION_EXACT : 0) |
                     (question->filter != NULL ? QUESTION_FILTER : 0) |
                     (question->recall != 0 ? QUESTION_RECALL : 0));
}

void wire_question_encode(const struct wire_question *question, struct buffer *out)
{
    uint32_t dim = question->vector == NULL ? 0 : question->dim;

    assert(dim <= DIMENSION_MAX);
    assert((question->include & ~(uint32_t)INCLUDE_ALL) == 0);
    assert(question->id_count <= IDS_PER_REQUEST_MAX);
    (void)buffer_reserve(out, 256 + dim * sizeof(float) + question->filter_len);
    buffer_append_byte(out, WIRE_VERSION);
    buffer_append_byte(out, (uint8_t)question->op);
    buffer_append_byte(out, question_flags(question));
    buffer_append_byte(out, (uint8_t)question->include);
    buffer_append_u32(out, dim);
    buffer_append(out, question->vector, dim * sizeof(float));
    buffer_append_u32(out, question->k);
    buffer_append_u32(out, question->ef);
    append_float(out, question->bound);
    buffer_append_u32(out, question->limit);
    buffer_append_u32(out, question->wait_ms);
    buffer_append_u64(out, question->max_staleness_ns);
    buffer_append(out, question->incarnation, INCARNATION_BYTES);
    append_partitions(out, &question->partitions);
    token_encode(&question->demands, out);
    if (question->filter != NULL)
        append_run(out, question->filter, question->filter_len);
    if (question->recall != 0)
        append_float(out, question->recall);
    buffer_append_varint(out, question->id_count);
    for (size_t i = 0; i < question->id_count; i++)
        append_run(out, question->ids[i].data, question->ids[i].len);
    append_run(out, question->after.data, question->after.len);
}

static enum err_code question_vector(struct wire_question *out, struct bytes_reader *r,
                                     struct arena *arena, struct err *err)
{
    const uint8_t *floats = read_floats(r, out->dim);
    float *copy;

    if (floats == NULL)
        return malformed(err, "the vector is cut, too long, or not finite");
    if (out->dim == 0)
        return ERR_OK;
    if ((uintptr_t)floats % _Alignof(float) == 0) {
        out->vector = (const float *)(const void *)floats;
        return ERR_OK;
    }
    copy = arena_alloc(arena, out->dim, sizeof(*copy));
    if (copy == NULL)
        return no_memory(err);
    memcpy(copy, floats, out->dim * sizeof(*copy));
    out->vector = copy;
    return ERR_OK;
}

static enum err_code question_ids(struct wire_question *out, struct bytes_reader *r,
                                  struct arena *arena, struct err *err)
{
    uint64_t count = read_varint(r);
    struct wire_id *ids;

    if (r->failed || count > IDS_PER_REQUEST_MAX || count > (r->len - r->at) / 2)
        return malformed(err, "malformed ids");
    if (count == 0)
        return ERR_OK;
    ids = arena_alloc(arena, (size_t)count, sizeof(*ids));
    if (ids == NULL)
        return no_memory(err);
    for (uint64_t i = 0; i < count; i++) {
        ids[i].data = read_run(r, &ids[i].len);
        if (ids[i].len < 1 || ids[i].len > ID_BYTES_MAX)
            return malformed(err, "malformed ids");
    }
    out->ids = ids;
    out->id_count = (size_t)count;
    return ERR_OK;
}

static enum err_code question_check(const struct wire_question *question, struct err *err)
{
    if (question->op < WIRE_SEARCH || question->op > WIRE_WAIT)
        return malformed(err, "unknown question");
    if ((question->include & ~(uint32_t)INCLUDE_ALL) != 0)
        return malformed(err, "unknown flags");
    if ((question->include & INCLUDE_DELETED) != 0 && question->op != WIRE_GET)
        return malformed(err, "only a get finds what was deleted");
    if (question->wait_ms > DEADLINE_MS_MAX)
        return malformed(err, "the time to wait is too long");
    if (isnan(question->bound) || question->ef > SEARCH_EF_MAX || question->k > TOP_K_MAX ||
        question->limit > SCROLL_LIMIT_MAX || !wire_recall_is_valid(question->recall))
        return malformed(err, "a number is out of its range");
    if (question->op == WIRE_SEARCH && (question->vector == NULL || question->k == 0))
        return malformed(err, "a search without a vector or without k");
    if (question->op == WIRE_SCROLL && question->limit == 0)
        return malformed(err, "a scroll without a limit");
    return ERR_OK;
}

static enum err_code question_head(struct wire_question *out, struct bytes_reader *r,
                                   struct arena *arena, struct err *err)
{
    const uint8_t *incarnation;
    uint8_t flags;
    enum err_code rc;

    if (read_u8(r) != WIRE_VERSION)
        return malformed(err, "another version");
    out->op = (enum wire_op)read_u8(r);
    flags = read_u8(r);
    if ((flags & ~QUESTION_FLAGS) != 0)
        return malformed(err, "unknown flags");
    out->fresh = (flags & QUESTION_FRESH) != 0;
    out->serve_stale = (flags & QUESTION_SERVE_STALE) != 0;
    out->explain = (flags & QUESTION_EXPLAIN) != 0;
    out->exact = (flags & QUESTION_EXACT) != 0;
    out->include = read_u8(r);
    out->dim = read_u32(r);
    if ((rc = question_vector(out, r, arena, err)) != ERR_OK)
        return rc;
    out->k = read_u32(r);
    out->ef = read_u32(r);
    out->bound = read_float(r);
    out->limit = read_u32(r);
    out->wait_ms = read_u32(r);
    out->max_staleness_ns = read_u64(r);
    incarnation = read_bytes(r, INCARNATION_BYTES);
    if (incarnation != NULL)
        memcpy(out->incarnation, incarnation, INCARNATION_BYTES);
    read_partitions(r, &out->partitions);
    if ((rc = token_decode_in(&out->demands, r, arena, err)) != ERR_OK)
        return rc;
    if ((flags & QUESTION_FILTER) != 0)
        out->filter = read_run(r, &out->filter_len);
    if ((flags & QUESTION_RECALL) != 0 && (out->recall = read_float(r)) == 0)
        return malformed(err, "a recall of zero");
    return ERR_OK;
}

enum err_code wire_question_decode(struct wire_question *out, const void *data, size_t len,
                                   struct arena *arena, struct err *err)
{
    struct bytes_reader reader = {.data = data, .len = len};
    struct wire_question question = {0};
    enum err_code rc;

    if ((rc = question_head(&question, &reader, arena, err)) != ERR_OK)
        return rc;
    if ((rc = question_ids(&question, &reader, arena, err)) != ERR_OK)
        return rc;
    question.after.data = read_run(&reader, &question.after.len);
    if (question.after.len > ID_BYTES_MAX || !read_done(&reader))
        return malformed(err, "the question is cut or too long");
    if (question.after.len == 0)
        question.after.data = NULL;
    if ((rc = question_check(&question, err)) != ERR_OK)
        return rc;
    *out = question;
    return ERR_OK;
}

/* --- answers ------------------------------------------------------------------------------- */

static void append_row(struct buffer *out, const struct wire_row *row)
{
    bool has_vector = row->vector != NULL && row->dim > 0;

    assert(row->id_len >= 1);
    assert(row->partition < PARTITIONS_MAX);
    buffer_append_byte(out, (uint8_t)((row->text != NULL ? INCLUDE_TEXT : 0) |
                                      (row->metadata != NULL ? INCLUDE_METADATA : 0) |
                                      (has_vector ? INCLUDE_VECTOR : 0)));
    append_run(out, row->id, row->id_len);
    buffer_append_varint(out, row->stamp.clock);
    buffer_append_varint(out, row->stamp.region);
    buffer_append_varint(out, row->partition);
    append_float(out, row->distance);
    if (row->text != NULL)
        append_run(out, row->text, row->text_len);
    if (row->metadata != NULL)
        append_run(out, row->metadata, row->metadata_len);
    if (!has_vector)
        return;
    buffer_append_varint(out, row->dim);
    buffer_append(out, row->vector, row->dim * sizeof(float));
}

/* What all rows take, about: one growth instead of many. */
static size_t rows_guess(const struct wire_answer *answer)
{
    size_t bytes = 0;

    for (size_t i = 0; i < answer->row_count; i++) {
        const struct wire_row *row = &answer->rows[i];

        bytes += ROW_BYTES_GUESS + row->id_len + row->text_len + row->metadata_len;
        bytes += row->vector == NULL ? 0 : row->dim * sizeof(float);
    }
    return bytes;
}

void wire_answer_encode(const struct wire_answer *answer, struct buffer *out)
{
    assert(answer->row_count <= WIRE_ROWS_MAX);
    assert(answer->served_count <= PARTITIONS_MAX);
    (void)buffer_reserve(out, 256 + answer->served_count * 12 + answer->explain_len +
                                  rows_guess(answer));
    buffer_append_byte(out, WIRE_VERSION);
    buffer_append_byte(out, (uint8_t)((answer->stale ? ANSWER_STALE : 0) |
                                      (answer->more ? ANSWER_MORE : 0) |
                                      (answer->explain != NULL ? ANSWER_EXPLAIN : 0)));
    buffer_append_u16(out, 0);
    buffer_append_u32(out, answer->region);
    buffer_append_u64(out, answer->staleness_ns);
    buffer_append_u64(out, answer->took_ns);
    buffer_append_u64(out, answer->map_version);
    buffer_append_u64(out, answer->count);
    token_encode(&answer->seen, out);
    buffer_append_varint(out, answer->served_count);
    for (size_t i = 0; i < answer->served_count; i++) {
        buffer_append_varint(out, answer->served[i].partition);
        buffer_append_varint(out, answer->served[i].position);
    }
    buffer_append_varint(out, answer->row_count);
    for (size_t i = 0; i < answer->row_count; i++)
        append_row(out, &answer->rows[i]);
    if (answer->explain != NULL)
        append_run(out, answer->explain, answer->explain_len);
}

static enum err_code answer_served(struct wire_answer *out, struct bytes_reader *r,
                                   struct arena *arena, struct err *err)
{
    uint64_t count = read_varint(r);
    struct wire_served *served;

    if (r->failed || count > PARTITIONS_MAX || count > (r->len - r->at) / 2)
        return malformed(err, "malformed positions");
    if (count == 0)
        return ERR_OK;
    served = arena_alloc(arena, (size_t)count, sizeof(*served));
    if (served == NULL)
        return no_memory(err);
    for (uint64_t i = 0; i < count; i++) {
        uint64_t partition = read_varint(r);

        if (partition >= PARTITIONS_MAX)
            return malformed(err, "malformed positions");
        served[i].partition = (uint32_t)partition;
        served[i].position = read_varint(r);
    }
    out->served = served;
    out->served_count = (size_t)count;
    return ERR_OK;
}

/* Spliced into a reply as it is: it begins and ends as such a value does. */
static bool is_bracketed(const char *data, size_t len, char first, char last)
{
    return len >= 2 && data[0] == first && data[len - 1] == last;
}

static bool read_row(struct bytes_reader *r, struct wire_row *row)
{
    uint8_t flags = read_u8(r);
    uint64_t region, partition;

    row->id = read_run(r, &row->id_len);
    row->stamp.clock = read_varint(r);
    region = read_varint(r);
    partition = read_varint(r);
    row->distance = read_float(r);
    if (r->failed || (flags & ~ROW_FLAGS) != 0 || row->id_len < 1 || row->id_len > ID_BYTES_MAX ||
        region > UINT32_MAX || partition >= PARTITIONS_MAX || isnan(row->distance))
        return false;
    row->stamp.region = (uint32_t)region;
    row->partition = (uint32_t)partition;
    if ((flags & INCLUDE_TEXT) != 0) {
        row->text = read_run(r, &row->text_len);
        if (row->text == NULL || !is_bracketed(row->text, row->text_len, '"', '"'))
            return false;
    }
    if ((flags & INCLUDE_METADATA) != 0) {
        row->metadata = read_run(r, &row->metadata_len);
        if (row->metadata == NULL || !is_bracketed(row->metadata, row->metadata_len, '{', '}'))
            return false;
    }
    if ((flags & INCLUDE_VECTOR) != 0) {
        uint64_t dim = read_varint(r);
        const uint8_t *floats = read_floats(r, dim);

        if (floats == NULL || dim == 0)
            return false;
        /* Unaligned, as the header says: readers copy it out. */
        row->vector = (const void *)floats;
        row->dim = (uint32_t)dim;
    }
    return true;
}

static enum err_code answer_rows(struct wire_answer *out, struct bytes_reader *r,
                                 struct arena *arena, struct err *err)
{
    uint64_t count = read_varint(r);
    struct wire_row *rows;

    if (r->failed || count > WIRE_ROWS_MAX || count > (r->len - r->at) / ROW_BYTES_MIN)
        return malformed(err, "malformed rows");
    if (count == 0)
        return ERR_OK;
    rows = arena_alloc(arena, (size_t)count, sizeof(*rows));
    if (rows == NULL)
        return no_memory(err);
    for (uint64_t i = 0; i < count; i++) {
        if (!read_row(r, &rows[i]))
            return malformed(err, "malformed rows");
    }
    out->rows = rows;
    out->row_count = (size_t)count;
    return ERR_OK;
}

enum err_code wire_answer_decode(struct wire_answer *out, const void *data, size_t len,
                                 struct arena *arena, struct err *err)
{
    struct bytes_reader reader = {.data = data, .len = len};
    struct wire_answer answer = {0};
    uint8_t flags;
    enum err_code rc;

    if (read_u8(&reader) != WIRE_VERSION)
        return malformed(err, "another version");
    flags = read_u8(&reader);
    if ((flags & ~ANSWER_FLAGS) != 0 || read_u16(&reader) != 0)
        return malformed(err, "unknown flags");
    answer.stale = (flags & ANSWER_STALE) != 0;
    answer.more = (flags & ANSWER_MORE) != 0;
    answer.region = read_u32(&reader);
    answer.staleness_ns = read_u64(&reader);
    answer.took_ns = read_u64(&reader);
    answer.map_version = read_u64(&reader);
    answer.count = read_u64(&reader);
    if ((rc = token_decode_in(&answer.seen, &reader, arena, err)) != ERR_OK)
        return rc;
    if ((rc = answer_served(&answer, &reader, arena, err)) != ERR_OK)
        return rc;
    if ((rc = answer_rows(&answer, &reader, arena, err)) != ERR_OK)
        return rc;
    if ((flags & ANSWER_EXPLAIN) != 0) {
        answer.explain = read_run(&reader, &answer.explain_len);
        if (answer.explain != NULL && !is_bracketed(answer.explain, answer.explain_len, '{', '}'))
            return malformed(err, "malformed explanation");
    }
    if (!read_done(&reader))
        return malformed(err, "the answer is cut or too long");
    *out = answer;
    return ERR_OK;
}

void wire_row_write(const struct wire_row *row, struct json_writer *w)
{
    if (row->text != NULL) {
        json_key(w, "text");
        json_raw(w, row->text, row->text_len);
    }
    if (row->metadata != NULL) {
        json_key(w, "metadata");
        json_raw(w, row->metadata, row->metadata_len);
    }
    if (row->vector != NULL) {
        json_key(w, "vector");
        json_begin_array(w);
        for (uint32_t i = 0; i < row->dim; i++) {
            float value;

            memcpy(&value, (const char *)row->vector + i * sizeof(value), sizeof(value));
            json_float(w, value);
        }
        json_end_array(w);
    }
}
