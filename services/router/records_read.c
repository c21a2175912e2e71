/* Records by id: GET …/records/{id} and POST …/records/get. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/checked.h"
#include "common/base/limits.h"
#include "services/router/router.h"

/* --- one -------------------------------------------------------------------------------------- */

/* include=text,metadata,vector of a query. */
static enum err_code include_from_query(struct request *req, uint32_t *include)
{
    bool present = false;
    const char *text = request_query(req, "include", &present);

    *include = INCLUDE_TEXT | INCLUDE_METADATA;
    if (!present)
        return ERR_OK;
    *include = 0;
    for (const char *at = text; at != NULL && *at != '\0';) {
        struct json_text word = {.data = at, .len = strcspn(at, ",")};

        if (json_text_is(word, "text"))
            *include |= INCLUDE_TEXT;
        else if (json_text_is(word, "metadata"))
            *include |= INCLUDE_METADATA;
        else if (json_text_is(word, "vector"))
            *include |= INCLUDE_VECTOR;
        else
            text = NULL;
        at = text == NULL ? NULL : at + word.len + (at[word.len] == ',' ? 1 : 0);
    }
    if (text == NULL)
        return err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/include",
                          "may name metadata, text and vector, separated by commas");
    return ERR_OK;
}

static const struct wire_row *only_row(const struct cluster_answer *answer)
{
    for (size_t i = 0; i < answer->count; i++)
        if (answer->parts[i].answer.row_count > 0)
            return &answer->parts[i].answer.rows[0];
    return NULL;
}

static enum err_code write_record(struct request *req, const struct consistency *consistency,
                                  const struct cluster_answer *answer)
{
    const struct wire_row *row = only_row(answer);
    struct read_info info;
    struct json_writer w;
    char etag[ETAG_BYTES];

    if (row == NULL)
        return err_set(&req->err, ERR_RECORD_NOT_FOUND, "there is no record of this id");
    etag_of(etag, row->stamp);
    reply_header(&req->reply, "ETag", "%s", etag);
    if (etag_listed(req->header(req, "If-None-Match"), etag)) {
        req->reply.status = 304;
        return ERR_OK;
    }
    read_info_from(&info, consistency, answer);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    row_write(row, &w);
    json_key(&w, "read");
    read_info_write(&info, req, &w);
    json_end_object(&w);
    return ERR_OK;
}

enum err_code router_get_record(struct request *req)
{
    static const char *const names[] = {
        "include", "fresh", "max_staleness_seconds", "on_stale", "read_token", "timeout_ms", NULL};
    struct wire_id id = {.data = req->params[1], .len = req->param_lens[1]};
    struct wire_question question = {.op = WIRE_GET, .ids = &id, .id_count = 1};
    struct cluster_answer answer = {0};
    struct consistency consistency;
    struct collection collection;
    struct cluster_ask ask;
    enum err_code rc;

    consistency_init(&consistency);
    if ((rc = request_query_only(req, names)) != ERR_OK ||
        (rc = consistency_from_query(&consistency, req)) != ERR_OK ||
        (rc = include_from_query(req, &question.include)) != ERR_OK)
        goto out;
    if (id.len < 1 || id.len > ID_BYTES_MAX) {
        rc = err_set_at(&req->err, ERR_INVALID_ARGUMENT, "/id", "an id has 1 to %d bytes, not %zu",
                        ID_BYTES_MAX, id.len);
        goto out;
    }
    if ((rc = router_read_collection(req, &consistency, &collection)) != ERR_OK)
        goto out;
    consistency_apply(&consistency, req, &question, &ask);
    if ((rc = router_ask(req, &collection, &ask, &answer)) == ERR_OK)
        rc = write_record(req, &consistency, &answer);
out:
    cluster_answer_free(&answer);
    consistency_free(&consistency);
    return rc;
}

/* --- many ------------------------------------------------------------------------------------- */

struct get_request {
    struct wire_id *ids; /* room for IDS_PER_REQUEST_MAX, in the arena */
    size_t count;
    uint32_t include;
    struct consistency consistency;
};

static enum err_code read_ids(struct get_request *get, struct json_reader *reader)
{
    bool more = false;
    char name[32] = "ids";
    enum err_code rc = json_array_begin(reader);

    get->ids = arena_alloc(reader->arena, IDS_PER_REQUEST_MAX, sizeof(get->ids[0]));
    if (get->ids == NULL)
        return err_set(reader->err, ERR_NO_MEMORY, "no memory for the ids");
    while (rc == ERR_OK && (rc = json_array_next(reader, &more)) == ERR_OK && more) {
        if (get->count == IDS_PER_REQUEST_MAX)
            return member_wrong(reader, "ids", "may hold at most 10000 ids");
        if ((rc = id_read(reader, &get->ids[get->count])) != ERR_OK)
            (void)snprintf(name, sizeof(name), "ids/%zu", get->count);
        get->count++;
    }
    if (rc == ERR_OK && get->count == 0)
        return member_wrong(reader, "ids", "must hold from 1 to 10000 ids");
    return member_failed(reader->err, rc, name);
}

static enum err_code get_member(void *context, struct json_reader *reader, struct json_text key,
                                bool *known)
{
    struct get_request *get = context;

    *known = true;
    if (json_text_is(key, "ids"))
        return read_ids(get, reader);
    if (json_text_is(key, "include"))
        return include_read(reader, &get->include);
    return consistency_read(&get->consistency, reader, key, known);
}

static int compare_bytes(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, MIN_OF(a_len, b_len));

    if (order != 0)
        return order;
    return a_len < b_len ? -1 : a_len > b_len ? 1 : 0;
}

static int compare_rows(const void *a, const void *b)
{
    const struct wire_row *left = a, *right = b;

    return compare_bytes(left->id, left->id_len, right->id, right->id_len);
}

static int compare_id_with_row(const void *a, const void *b)
{
    const struct wire_id *id = a;
    const struct wire_row *row = b;

    return compare_bytes(id->data, id->len, row->id, row->id_len);
}

/* All rows of the parts, sorted by id, into the arena. */
static enum err_code sorted_rows(struct request *req, const struct cluster_answer *answer,
                                 struct wire_row **rows, size_t *count)
{
    size_t total = 0;

    for (size_t i = 0; i < answer->count; i++)
        total += answer->parts[i].answer.row_count;
    *rows = arena_alloc(&req->arena, total + 1, sizeof(**rows));
    if (*rows == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for the records");
    *count = 0;
    for (size_t i = 0; i < answer->count; i++) {
        const struct wire_answer *part = &answer->parts[i].answer;

        if (part->row_count > 0)
            memcpy(*rows + *count, part->rows, part->row_count * sizeof(**rows));
        *count += part->row_count;
    }
    qsort(*rows, *count, sizeof(**rows), compare_rows);
    return ERR_OK;
}

/* In the order asked, each record once. */
static enum err_code write_records(struct request *req, const struct get_request *get,
                                   const struct cluster_answer *answer)
{
    struct wire_row *rows = NULL;
    struct read_info info;
    struct json_writer w;
    bool *written;
    size_t count = 0;
    enum err_code rc = sorted_rows(req, answer, &rows, &count);

    if (rc != ERR_OK)
        return rc;
    written = arena_alloc(&req->arena, count + 1, sizeof(*written));
    if (written == NULL)
        return err_set(&req->err, ERR_NO_MEMORY, "no memory for the records");
    read_info_from(&info, &get->consistency, answer);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "records");
    json_begin_array(&w);
    for (size_t i = 0; count > 0 && i < get->count; i++) {
        const struct wire_row *row =
            bsearch(&get->ids[i], rows, count, sizeof(rows[0]), compare_id_with_row);

        if (row == NULL || written[row - rows])
            continue;
        written[row - rows] = true;
        json_begin_object(&w);
        row_write(row, &w);
        json_end_object(&w);
    }
    json_end_array(&w);
    json_key(&w, "read");
    read_info_write(&info, req, &w);
    json_end_object(&w);
    return ERR_OK;
}

enum err_code router_get_records(struct request *req)
{
    struct get_request get = {.include = INCLUDE_TEXT | INCLUDE_METADATA};
    struct wire_question question = {.op = WIRE_GET};
    struct cluster_answer answer = {0};
    struct collection collection;
    struct json_reader reader;
    struct cluster_ask ask;
    enum err_code rc;

    consistency_init(&get.consistency);
    json_reader_init(&reader, req->body, req->body_len, &req->arena, &req->err);
    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK ||
        (rc = body_decode(&reader, get_member, &get)) != ERR_OK)
        goto out;
    if (get.count == 0) {
        rc = member_wrong(&reader, "ids", "is needed");
        goto out;
    }
    if ((rc = router_read_collection(req, &get.consistency, &collection)) != ERR_OK)
        goto out;
    question.ids = get.ids;
    question.id_count = get.count;
    question.include = get.include;
    consistency_apply(&get.consistency, req, &question, &ask);
    if ((rc = router_ask(req, &collection, &ask, &answer)) == ERR_OK)
        rc = write_records(req, &get, &answer);
out:
    cluster_answer_free(&answer);
    consistency_free(&get.consistency);
    return rc;
}
