/* Replicas that are not there: HTTP servers in this process that answer questions and status calls
 * as a shard would, and misbehave when told.  For tests of who asks shards. */
#ifndef VICINAL_TESTS_FAKE_SHARDS_H
#define VICINAL_TESTS_FAKE_SHARDS_H

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/cluster.h"
#include "common/base/json_writer.h"
#include "common/base/text.h"
#include "common/http/server.h"

#define FAKE_REGION     7
#define FAKE_PARTITIONS 8
#define FAKE_SHARDS_MAX 4

enum fake_mode {
    FAKE_ANSWERS,
    FAKE_TARRIES,   /* answers a moment later */
    FAKE_BEHIND,    /* 503 staleness_unmet */
    FAKE_WAITS,     /* the same, when the question's time is over */
    FAKE_FAILS,     /* 500 */
    FAKE_HANGS,     /* until the end of the test */
    FAKE_DAWDLES,   /* answers when it is released */
    FAKE_FORGETS,   /* answers for no partition */
    FAKE_DROPPED,   /* 404 collection_not_found */
    FAKE_BABBLES,   /* 200 with bytes that mean nothing */
    FAKE_TRESPASSES /* answers for partitions that were not asked */
};

struct fake {
    struct http_server *server;
    uint32_t shard, replica;
    char url[64];
    _Atomic int mode;          /* enum fake_mode */
    _Atomic int asked;         /* questions that came */
    _Atomic uint64_t position; /* of each of its partitions */
    _Atomic uint64_t last_change;
    _Atomic bool knows; /* the collection is in its report */
    _Atomic uint64_t staleness_ms;
    _Atomic uint64_t last_ids; /* how many ids the last get had */
    _Atomic bool released;     /* those that hang go on */
    _Atomic bool is_silent;    /* status calls hang */
    _Atomic uint64_t digest;   /* of each of its partitions: kept … */
    _Atomic uint64_t found;    /* … and found in its store */
};

static const uint8_t fake_incarnation[INCARNATION_BYTES] = {1, 2, 3};

static inline void fake_fill(struct fake *fake, const struct wire_question *question,
                             struct wire_answer *answer, struct wire_served *served)
{
    uint64_t position = atomic_load(&fake->position);

    answer->region = FAKE_REGION;
    answer->served = served;
    answer->staleness_ns = atomic_load(&fake->staleness_ms) * NS_PER_MS;
    answer->map_version = 1;
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++) {
        bool asked = partition_set_has(&question->partitions, p);

        if (atomic_load(&fake->mode) == FAKE_FORGETS)
            continue;
        if (asked || atomic_load(&fake->mode) == FAKE_TRESPASSES)
            served[answer->served_count++] = (struct wire_served){p, position};
    }
    answer->count = question->op == WIRE_COUNT ? 10 * answer->served_count : 0;
    atomic_store(&fake->last_ids, question->id_count);
}

/* Until the flag is what is wanted, or the replica is released. */
static inline void fake_hang(struct fake *fake, struct request *req, _Atomic bool *flag,
                             bool wanted)
{
    uint64_t until = env_boot_ns(req->env) + 20 * NS_PER_S;

    while (atomic_load(flag) != wanted && !atomic_load(&fake->released) &&
           env_boot_ns(req->env) < until)
        if (env_sleep_until(req->env, env_boot_ns(req->env) + NS_PER_MS) != ERR_OK)
            break;
}

static inline enum err_code fake_ask(struct request *req)
{
    struct fake *fake = req->state;
    struct wire_served served[FAKE_PARTITIONS];
    struct wire_answer answer = {0};
    struct wire_question question;
    enum err_code rc;

    atomic_fetch_add(&fake->asked, 1);
    rc = wire_question_decode(&question, req->body, req->body_len, &req->arena, &req->err);
    if (rc != ERR_OK)
        return rc;
    switch ((enum fake_mode)atomic_load(&fake->mode)) {
    case FAKE_WAITS:
        rc = env_sleep_until(req->env, req->received_ns + question.wait_ms * NS_PER_MS);
        return err_set(&req->err, rc == ERR_OK ? ERR_BEHIND : rc, "behind");
    case FAKE_BEHIND:
        return err_set(&req->err, ERR_BEHIND, "behind");
    case FAKE_FAILS:
        return err_set(&req->err, ERR_CORRUPT, "broken");
    case FAKE_DROPPED:
        return err_set(&req->err, ERR_COLLECTION_NOT_FOUND, "dropped");
    case FAKE_HANGS:
        fake_hang(fake, req, &fake->released, true);
        return err_set(&req->err, ERR_UNAVAILABLE, "late");
    case FAKE_DAWDLES:
        fake_hang(fake, req, &fake->released, true);
        break;
    case FAKE_TARRIES:
        rc = env_sleep_until(req->env, env_boot_ns(req->env) + 30 * NS_PER_MS);
        break;
    case FAKE_BABBLES:
        buffer_append_text(&req->reply.body, "\x01what?");
        return ERR_OK;
    case FAKE_ANSWERS:
    case FAKE_FORGETS:
    case FAKE_TRESPASSES:
        break;
    }
    if (rc != ERR_OK)
        return err_set(&req->err, rc, "shutting down");
    fake_fill(fake, &question, &answer, served);
    wire_answer_encode(&answer, &req->reply.body);
    req->reply.content_type = MEDIA_BINARY;
    return ERR_OK;
}

static inline void fake_write_collection(struct fake *fake, const struct partition_set *serves,
                                         struct json_writer *w)
{
    char hex[2 * INCARNATION_BYTES + 1];

    text_hex_encode(hex, fake_incarnation, INCARNATION_BYTES);
    json_begin_object(w);
    json_key(w, "incarnation");
    json_text(w, hex);
    json_key(w, "count");
    json_u64(w, 3);
    json_key(w, "changes");
    json_begin_array(w);
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++) {
        if (!partition_set_has(serves, p))
            continue;
        json_begin_array(w);
        json_u64(w, p);
        json_u64(w, atomic_load(&fake->last_change));
        json_end_array(w);
    }
    json_end_array(w);
    json_end_object(w);
}

static inline void fake_digest(struct json_writer *w, uint64_t digest)
{
    char text[33];

    (void)snprintf(text, sizeof(text), "%032llx", (unsigned long long)digest);
    json_text(w, text);
}

static inline enum err_code fake_scan(struct request *req)
{
    struct fake *fake = req->state;
    struct json_writer w;

    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "position");
    json_u64(&w, atomic_load(&fake->position));
    json_key(&w, "kept");
    fake_digest(&w, atomic_load(&fake->digest));
    json_key(&w, "found");
    fake_digest(&w, atomic_load(&fake->found));
    json_key(&w, "collections");
    json_begin_array(&w);
    json_end_array(&w);
    json_end_object(&w);
    return ERR_OK;
}

static inline enum err_code fake_status(struct request *req)
{
    struct fake *fake = req->state;
    struct partition_set serves;
    struct json_writer w;

    fake_hang(fake, req, &fake->is_silent, false);
    /* It says that it serves everything; who asks knows the map. */
    memset(&serves, 0, sizeof(serves));
    partition_set_fill(&serves, FAKE_PARTITIONS);
    json_writer_init(&w, &req->reply.body);
    json_begin_object(&w);
    json_key(&w, "region");
    json_u64(&w, FAKE_REGION);
    json_key(&w, "state");
    json_text(&w, "ready");
    json_key(&w, "partitions");
    json_begin_array(&w);
    for (uint32_t p = 0; p < FAKE_PARTITIONS; p++) {
        json_begin_object(&w);
        json_key(&w, "partition");
        json_u64(&w, p);
        json_key(&w, "position");
        json_u64(&w, atomic_load(&fake->position));
        json_key(&w, "staleness_ms");
        json_double(&w, (double)atomic_load(&fake->staleness_ms));
        json_key(&w, "digest");
        fake_digest(&w, atomic_load(&fake->digest));
        json_end_object(&w);
    }
    json_end_array(&w);
    json_key(&w, "collections");
    json_begin_array(&w);
    if (atomic_load(&fake->knows))
        fake_write_collection(fake, &serves, &w);
    json_end_array(&w);
    json_end_object(&w);
    return ERR_OK;
}

static const struct route fake_routes[] = {
    {"POST", "/internal/v1/ask", fake_ask, 1 << 20, "ask"},
    {"GET", "/internal/v1/status", fake_status, 0, "status"},
    {"GET", "/internal/v1/digest", fake_scan, 0, "digest"},
    {0},
};

static inline bool fake_open(struct fake *fake, uint32_t shard, uint32_t replica)
{
    struct http_server_options options = {
        .listen = "127.0.0.1:0",
        .workers = 8,
        .read_timeout_ms = 5000,
        .keep_alive_ms = 5000,
        .routes = fake_routes,
        .state = fake,
        .env = env_real(),
    };
    struct err err = {0};

    memset(fake, 0, sizeof(*fake));
    fake->shard = shard;
    fake->replica = replica;
    atomic_store(&fake->position, 10);
    atomic_store(&fake->last_change, 4);
    atomic_store(&fake->knows, true);
    if (http_server_open(&fake->server, &options, &err) != ERR_OK)
        return false;
    (void)snprintf(fake->url, sizeof(fake->url), "http://127.0.0.1:%u",
                   http_server_port(fake->server));
    return true;
}

static inline void fake_close(struct fake *fake)
{
    atomic_store(&fake->released, true);
    if (fake->server != NULL)
        http_server_close(fake->server, 5000);
    fake->server = NULL;
}

#endif
