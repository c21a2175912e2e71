/* The wire of an OpenAI-compatible embeddings server: see embedder_http.h.
 *
 * Everything that comes back is foreign: its length is bounded by the HTTP client, it is read in
 * one pass, a vector is taken only at an index that was asked for, once, with the right length and
 * finite numbers.  What a server says about a failure is shown cut, and not at all where it may
 * repeat the key. */
#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "backends/embedder/embedder_http.h"
#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"

#define NUMBER_BYTES 32   /* "-0.012345678901234567," and blanks around it */
#define FRAME_BYTES  4096 /* of an answer, around a vector and around all */
#define SAID_BYTES   120  /* of a server's explanation */

void embedding_request_write(struct buffer *out, const char *model,
                             const struct embedder_text *const *texts, size_t count)
{
    struct json_writer w;

    json_writer_init(&w, out);
    json_begin_object(&w);
    json_key(&w, "model");
    json_text(&w, model);
    json_key(&w, "input");
    json_begin_array(&w);
    for (size_t i = 0; i < count; i++)
        json_put_string(&w, texts[i]->data, texts[i]->len);
    json_end_array(&w);
    json_key(&w, "encoding_format");
    json_text(&w, "float");
    json_end_object(&w);
}

size_t embedding_answer_max(size_t count, uint32_t dimension)
{
    assert(count <= EMBEDDER_BATCH_TEXTS_MAX);
    return FRAME_BYTES + count * (FRAME_BYTES + (size_t)dimension * NUMBER_BYTES);
}

bool embedding_normalise(float *vector, uint32_t dimension)
{
    double sum = 0, norm;

    for (uint32_t i = 0; i < dimension; i++)
        sum += (double)vector[i] * (double)vector[i];
    norm = sqrt(sum);
    if (!isfinite(norm) || norm == 0)
        return false;
    for (uint32_t i = 0; i < dimension; i++)
        vector[i] = (float)((double)vector[i] / norm);
    return true;
}

/* --- reading an answer -------------------------------------------------------------------------
 */

struct reading {
    const struct embedding_answer *answer;
    struct json_reader reader;
    bool *seen;
    float *vector; /* of the element that is being read */
    float *out;
    struct err *err;
};

static enum err_code read_numbers(struct reading *reading, bool *has_vector)
{
    uint32_t dimension = reading->answer->dimension;
    size_t count = 0, bad = 0;
    enum err_code rc = json_read_floats(&reading->reader, reading->vector, dimension, &count, &bad);

    if (rc != ERR_OK)
        return rc;
    if (count != dimension)
        return err_set(reading->err, ERR_EMBEDDING_FAILED, "a vector of %zu numbers, not %u", count,
                       dimension);
    *has_vector = true;
    return ERR_OK;
}

/* One element of "data". */
static enum err_code read_element(struct reading *reading)
{
    const struct embedding_answer *answer = reading->answer;
    bool more = false, has_vector = false;
    uint64_t index = UINT64_MAX;
    struct json_text key = {0};
    enum err_code rc = json_object_begin(&reading->reader);

    while (rc == ERR_OK && (rc = json_object_next(&reading->reader, &key, &more)) == ERR_OK &&
           more) {
        if (json_text_is(key, "index"))
            rc = json_read_u64(&reading->reader, 0, UINT32_MAX, &index);
        else if (json_text_is(key, "embedding"))
            rc = read_numbers(reading, &has_vector);
        else
            rc = json_skip(&reading->reader, NULL, NULL);
    }
    if (rc != ERR_OK)
        return rc;
    if (index >= answer->count || !has_vector)
        return err_set(reading->err, ERR_EMBEDDING_FAILED,
                       "an element without a vector or of an index that was not asked for");
    if (reading->seen[index])
        return err_set(reading->err, ERR_EMBEDDING_FAILED, "two vectors of index %llu",
                       (unsigned long long)index);
    if (!embedding_normalise(reading->vector, answer->dimension))
        return err_set(reading->err, ERR_EMBEDDING_FAILED, "a vector of zeros");
    reading->seen[index] = true;
    memcpy(reading->out + index * answer->dimension, reading->vector,
           answer->dimension * sizeof(float));
    return ERR_OK;
}

static enum err_code read_answer(struct reading *reading)
{
    struct json_reader *r = &reading->reader;
    struct json_text key = {0};
    bool more = false;
    enum err_code rc = json_object_begin(r);

    while (rc == ERR_OK && (rc = json_object_next(r, &key, &more)) == ERR_OK && more) {
        bool element = false;

        if (!json_text_is(key, "data")) {
            rc = json_skip(r, NULL, NULL);
            continue;
        }
        rc = json_array_begin(r);
        while (rc == ERR_OK && (rc = json_array_next(r, &element)) == ERR_OK && element)
            rc = read_element(reading);
    }
    if (rc == ERR_OK)
        rc = json_end(r);
    for (size_t i = 0; rc == ERR_OK && i < reading->answer->count; i++)
        if (!reading->seen[i])
            rc = err_set(reading->err, ERR_EMBEDDING_FAILED, "no vector of index %zu", i);
    return rc;
}

enum err_code embedding_answer_read(const struct embedding_answer *answer, float *out,
                                    struct err *err)
{
    struct arena arena = {0};
    struct err inner = {0};
    struct reading reading = {.answer = answer,
                              .seen = array_alloc(answer->count, sizeof(bool)),
                              .vector = array_alloc(answer->dimension, sizeof(float)),
                              .out = out,
                              .err = &inner};
    enum err_code rc;

    if (reading.seen == NULL || reading.vector == NULL) {
        rc = err_set(&inner, ERR_NO_MEMORY, "no memory for vectors");
    } else {
        json_reader_init(&reading.reader, answer->body, answer->len, &arena, &inner);
        rc = read_answer(&reading);
    }
    free(reading.seen);
    free(reading.vector);
    arena_free(&arena);
    if (rc == ERR_OK || rc == ERR_NO_MEMORY) {
        if (rc != ERR_OK && err != NULL)
            *err = inner;
        return rc;
    }
    return err_set(err, ERR_EMBEDDING_FAILED, "the answer is not as asked for: %s", inner.message);
}

/* --- what became of a call ----------------------------------------------------------------------
 */

/* {"error":{"message":…}} or {"error":…}: the text, printable and cut; "" where there is none. */
static void read_explanation(const struct http_call *call, char out[SAID_BYTES + 1])
{
    struct arena arena = {0};
    struct json_reader r;
    struct json_text key, text = {0};
    enum json_kind kind;
    struct err err;
    bool more, inside = false;

    out[0] = '\0';
    json_reader_init(&r, call->reply.data, call->reply.len, &arena, &err);
    if (call->reply.len == 0 || json_object_begin(&r) != ERR_OK)
        goto out;
    while (json_object_next(&r, &key, &more) == ERR_OK && more) {
        if (json_peek(&r, &kind) != ERR_OK)
            goto out;
        if (!inside && kind == JSON_KIND_OBJECT && json_text_is(key, "error")) {
            inside = true;
            if (json_object_begin(&r) != ERR_OK)
                goto out;
        } else if (kind == JSON_KIND_STRING && json_text_is(key, inside ? "message" : "error")) {
            if (json_read_string(&r, &text) != ERR_OK)
                text.len = 0;
            break;
        } else if (json_skip(&r, NULL, NULL) != ERR_OK) {
            goto out;
        }
    }
    text.len = text_utf8_cut(text.data, text.len, SAID_BYTES);
    for (size_t i = 0; i < text.len; i++)
        out[i] = (unsigned char)text.data[i] < 0x20 ? ' ' : text.data[i];
    out[text.len] = '\0';
out:
    arena_free(&arena);
}

enum err_code embedding_call_judge(const struct http_call *call, bool *again, struct err *err)
{
    int status = call->status;
    char said[SAID_BYTES + 1] = "";

    *again = false;
    if (call->rc == ERR_NO_MEMORY || call->rc == ERR_DEAD) {
        if (err != NULL)
            *err = call->err;
        return call->rc;
    }
    if (call->rc != ERR_OK) {
        *again = call->rc == ERR_UNAVAILABLE || call->rc == ERR_IO || call->rc == ERR_TIMEOUT;
        return err_set(err, ERR_EMBEDDING_FAILED, "%s", call->err.message);
    }
    if (status == 200)
        return ERR_OK;
    *again = status == 408 || status == 429 || (status >= 500 && status != 501 && status != 505);
    if (status == 401 || status == 403)
        return err_set(err, ERR_EMBEDDING_FAILED, "status %d: the key is not accepted", status);
    read_explanation(call, said);
    return err_set(err, ERR_EMBEDDING_FAILED, "status %d%s%s", status, said[0] == '\0' ? "" : ": ",
                   said);
}
