/* POST …/records/count: how many records match; always exact. */
#include <assert.h>
#include <string.h>

#include "common/base/limits.h"
#include "services/router/router.h"

struct count_request {
    struct filter_text filter;
    bool exact; /* taken and not needed: every count is exact */
    struct consistency consistency;
};

static enum err_code count_member(void *context, struct json_reader *reader, struct json_text key,
                                  bool *known)
{
    struct count_request *request = context;

    *known = true;
    if (json_text_is(key, "filter"))
        return filter_read(reader, &request->filter);
    if (json_text_is(key, "exact"))
        return member_failed(reader->err, json_read_bool(reader, &request->exact), "exact");
    return consistency_read(&request->consistency, reader, key, known);
}

static void write_count(struct request *req, const struct consistency *consistency,
                        const struct cluster_answer *answer)
{
    struct read_info info;
    struct json_writer w;
    uint64_t count = 0;

    for (size_t i = 0; i < answer->count; i++)
        count += answer->parts[i].answer.count;
    read_info_from(&info, consistency, answer);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "count");
    json_u64(&w, count);
    json_key(&w, "exact");
    json_bool(&w, true);
    json_key(&w, "read");
    read_info_write(&info, req, &w);
    json_end_object(&w);
}

enum err_code router_count(struct request *req)
{
    struct wire_question question = {.op = WIRE_COUNT};
    struct count_request request = {0};
    struct cluster_answer answer = {0};
    struct collection collection;
    struct json_reader reader;
    struct cluster_ask ask;
    enum err_code rc;

    consistency_init(&request.consistency);
    json_reader_init(&reader, req->body, req->body_len, &req->arena, &req->err);
    if ((rc = request_expect_media(req, MEDIA_JSON)) != ERR_OK ||
        (rc = body_decode(&reader, count_member, &request)) != ERR_OK ||
        (rc = router_read_collection(req, &request.consistency, &collection)) != ERR_OK)
        goto out;
    question.filter = request.filter.data;
    question.filter_len = request.filter.len;
    consistency_apply(&request.consistency, req, &question, &ask);
    if ((rc = router_ask(req, &collection, &ask, &answer)) == ERR_OK)
        write_count(req, &request.consistency, &answer);
out:
    cluster_answer_free(&answer);
    consistency_free(&request.consistency);
    return rc;
}
