/* Problems (RFC 9457): the one place where an error becomes a body.
 *
 * The body says what the caller may know.  Messages about the inside (damage, files, memory) stay
 * in the log.  Messages may quote foreign bytes and may have been cut in the middle of a character:
 * what is no UTF-8 is made ASCII, so that the body is always valid JSON. */
#include <assert.h>
#include <string.h>

#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/http/route.h"

#define TYPE_PREFIX "/problems/"

/* Whether the message is about our inside rather than about the request. */
static bool is_internal(enum err_code code)
{
    return err_status(code) == 500 || code == ERR_IO || code == ERR_NO_MEMORY ||
           code == ERR_INSUFFICIENT_STORAGE;
}

static void write_text(struct json_writer *w, const char *text)
{
    char clean[ERR_MESSAGE_BYTES];
    size_t len = strnlen(text, sizeof(clean) - 1);

    static_assert(ERR_POINTER_BYTES <= ERR_MESSAGE_BYTES, "a pointer fits as well");
    memcpy(clean, text, len);
    if (!text_is_utf8(clean, len))
        for (size_t i = 0; i < len; i++)
            if ((unsigned char)clean[i] >= 0x80)
                clean[i] = '?';
    json_put_string(w, clean, len);
}

static void write_type(struct json_writer *w, const char *word)
{
    char type[64] = TYPE_PREFIX;
    size_t at = strlen(TYPE_PREFIX);

    for (; *word != '\0' && at < sizeof(type) - 1; word++)
        type[at++] = *word == '_' ? '-' : *word;
    json_put_string(w, type, at);
}

void reply_problem(struct request *req)
{
    const struct err *err = &req->err;
    const char *title = err_title(err->code);
    bool hide = is_internal(err->code) || err->message[0] == '\0';
    const char *detail = hide ? title : err->message;
    int status = err_status(err->code);
    struct json_writer w;

    buffer_reset(&req->reply.body);
    req->reply.ages = NULL;
    req->reply.status = status;
    req->reply.content_type = MEDIA_PROBLEM;
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "type");
    write_type(&w, err_word(err->code));
    json_key(&w, "title");
    json_text(&w, title);
    json_key(&w, "status");
    json_u64(&w, (uint64_t)status);
    json_key(&w, "code");
    json_text(&w, err_word(err->code));
    json_key(&w, "detail");
    write_text(&w, detail);
    json_key(&w, "request_id");
    json_text(&w, req->request_id);
    if (err->pointer[0] != '\0') {
        json_key(&w, "errors");
        json_begin_array(&w);
        json_begin_object(&w);
        json_key(&w, "pointer");
        write_text(&w, err->pointer);
        json_key(&w, "detail");
        write_text(&w, detail);
        json_end_object(&w);
        json_end_array(&w);
    }
    json_end_object(&w);
    if (err_is_retriable(err->code) && (status == 429 || status == 503))
        reply_header(&req->reply, "Retry-After", "1");
}
