/* One ingest in a process, without a server, over a log that fails to order: its life, its routes,
 * and what its log holds.  The rigs of foreign runs, imports and the replay stand on it. */
#ifndef VICINAL_TESTS_INGEST_RIG_H
#define VICINAL_TESTS_INGEST_RIG_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include <cmocka.h>

#include "services/ingest/ingest.h"
#include "tests/lib/scratch.h"
#include "tests/lib/wal_faulty.h"

#define PARTITIONS 4
#define WAIT_NS    (30 * NS_PER_S)

/* Poll until the condition holds. */
#define AWAIT(condition)                                                                           \
    do {                                                                                           \
        uint64_t await_end = env_boot_ns(env_real()) + WAIT_NS;                                    \
        while (!(condition)) {                                                                     \
            assert_true(env_boot_ns(env_real()) < await_end);                                      \
            assert_int_equal(env_sleep_until(env_real(), env_boot_ns(env_real()) + NS_PER_MS),     \
                             ERR_OK);                                                              \
        }                                                                                          \
    } while (0)

/* --- life ------------------------------------------------------------------------------------ */

static struct life {
    struct env *env;
    char log_url[96];
    struct wal *log; /* the faults are in front of it */
    struct ingest ingest;
    bool is_open;
} life;

/* Before the first begin. */
static inline void life_prepare(struct env *env, const char *dir)
{
    life = (struct life){.env = env};
    (void)snprintf(life.log_url, sizeof(life.log_url), "file:%s/wal", dir);
}

static inline enum err_code open_bare_wal(void *context, struct wal **out, struct err *err)
{
    struct wal_options options = {
        .url = life.log_url, .env = life.env, .writer = true, .partitions = PARTITIONS};
    enum err_code rc = wal_open(out, &options, err);

    (void)context;
    if (rc == ERR_OK)
        life.log = *out;
    return rc;
}

static inline enum err_code open_wal(void *context, struct wal **out, struct err *err)
{
    enum err_code rc = open_bare_wal(context, out, err);

    if (rc == ERR_OK)
        *out = life.log = wal_faulty_wrap(*out);
    return rc;
}

static inline bool is_ready(void)
{
    struct buffer why = {0};
    bool ready = ingest_ready(&life.ingest, &why);

    buffer_free(&why);
    return ready;
}

/* more: what this ingest has besides its log. */
static inline enum err_code life_try_begin(const struct ingest_setup *more, struct err *err)
{
    struct ingest_setup setup = *more;
    enum err_code rc;

    setup.env = life.env;
    setup.name = "0";
    setup.log_locks = true;
    setup.url = setup.url == NULL ? "http://test" : setup.url;
    setup.open_wal = setup.open_wal == NULL ? open_wal : setup.open_wal;
    memset(&life.ingest, 0, sizeof(life.ingest));
    rc = ingest_open(&life.ingest, &setup, err);
    if (rc == ERR_OK)
        rc = ingest_start(&life.ingest, NULL, err);
    life.is_open = rc == ERR_OK;
    return rc;
}

static inline void life_begin(const struct ingest_setup *more)
{
    struct err err = {0};

    assert_int_equal(life_try_begin(more, &err), ERR_OK);
    AWAIT(is_ready());
}

static inline void life_end(void)
{
    ingest_stop(&life.ingest);
    ingest_close(&life.ingest);
    life.is_open = false;
}

/* --- requests -------------------------------------------------------------------------------- */

static __thread const char *media = MEDIA_JSON, *if_match;

static inline const char *header(const struct request *req, const char *name)
{
    (void)req;
    return strcasecmp(name, "Content-Type") == 0 ? media
           : strcasecmp(name, "If-Match") == 0   ? if_match
                                                 : NULL;
}

/* What came back. */
struct answer {
    int status;
    bool retry_after;
    json_t *body; /* NULL: none */
};

struct question {
    const char *method, *path;
    const char *query; /* NULL: none */
    const void *body;
    size_t len;
};

static inline struct answer life_ask(const struct question *question)
{
    struct request req = {.state = &life.ingest,
                          .env = life.env,
                          .method = question->method,
                          .path = question->path,
                          .query = question->query == NULL ? "" : question->query,
                          .body = question->body,
                          .body_len = question->len,
                          .received_ns = env_boot_ns(life.env),
                          .header = header};
    struct answer answer = {0};

    route_dispatch(ingest_routes, &req);
    answer.status = req.reply.status;
    for (size_t i = 0; i < req.reply.header_count; i++)
        answer.retry_after |= strcasecmp(req.reply.headers[i].name, "Retry-After") == 0;
    answer.body = json_loadb((const char *)req.reply.body.data, req.reply.body.len, 0, NULL);
    request_free(&req);
    return answer;
}

/* *body (may be NULL): to be freed with json_decref. */
static inline int status_and_body(struct answer answer, json_t **body)
{
    if (body == NULL)
        json_decref(answer.body);
    else
        *body = answer.body;
    return answer.status;
}

/* --- what the log holds ---------------------------------------------------------------------- */

typedef void look_fn(const struct record *record, uint64_t offset, void *context);

/* At every valid record of the partition. */
static inline void look_at(uint32_t partition, look_fn *look, void *context)
{
    struct epoch_state epochs = {0};
    struct wal_reader *reader;
    struct wal_item items[64];
    struct buffer scratch = {0};
    struct err err = {0};
    uint64_t position = 0, last;
    size_t count;

    assert_int_equal(wal_ends(life.log, &partition, 1, NEVER_NS, &last, &err), ERR_OK);
    assert_int_equal(wal_reader_open(&reader, life.log, &partition, &position, 1, &err), ERR_OK);
    while (position < last) {
        assert_int_equal(
            wal_reader_next(reader, items, 64, &count, env_boot_ns(life.env) + WAIT_NS, &err),
            ERR_OK);
        for (size_t i = 0; i < count; i++) {
            struct record record;

            assert_int_equal(record_decode(&record, items[i].data, items[i].len, &scratch, &err),
                             ERR_OK);
            if (epoch_admit(&epochs, &record, items[i].offset))
                look(&record, items[i].offset, context);
            position = items[i].offset + 1;
        }
    }
    wal_reader_close(reader);
    buffer_free(&scratch);
}

#endif
