/* The closed loop of vicinal bench: see bench.h.
 *
 * The client runs on the machine that it measures, so it does as little as it can: requests are
 * made before, answers are looked at after.  Failure modes: an answer other than 200 counts as an
 * error, a broken connection too; it is opened again. */
#include "cli/bench.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "cli/raw_http.h"
#include "common/base/arena.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/json_reader.h"

#define ERROR_PAUSE_NS (10 * NS_PER_MS)

struct runner {
    struct bench_run *run;
    struct bench_lap lap;
    uint32_t number;
    struct raw_http raw;
    struct env_thread *thread;
    uint64_t asked; /* queries asked at least once */
};

static uint64_t now(void)
{
    return env_boot_ns(env_real());
}

static void note_error(struct bench_lap *lap, const char *message)
{
    if (lap->errors++ == 0)
        (void)snprintf(lap->error, sizeof(lap->error), "%s", message);
    if (env_sleep_until(env_real(), now() + ERROR_PAUSE_NS) != ERR_OK)
        return;
}

static void note_latency(struct bench_lap *lap, uint64_t ns)
{
    uint32_t *grown;

    if (lap->count == lap->room) {
        grown = array_resize(lap->latencies_us10, lap->room * 2 + 65536, sizeof(*grown));
        if (grown == NULL)
            return;
        lap->latencies_us10 = grown;
        lap->room = lap->room * 2 + 65536;
    }
    lap->latencies_us10[lap->count++] = (uint32_t)MIN_OF(ns / 100, (uint64_t)UINT32_MAX);
}

/* Ask one query; keep the first good answer. */
static void ask(struct runner *runner, size_t query)
{
    struct bench_run *run = runner->run;
    const struct buffer *request = &run->requests->items[query];
    struct buffer *first = &run->first_replies[query];
    struct raw_reply reply;
    struct err err = {0};
    uint64_t began = now(), ended;
    enum err_code rc = raw_http_ask(&runner->raw, request->data, request->len, &reply, &err);

    ended = now();
    if (rc == ERR_OK && reply.status != 200)
        rc = err_set(&err, ERR_INTERNAL, "status %d: %.*s", reply.status,
                     (int)MIN_OF(reply.body_len, (size_t)200), reply.body);
    if (rc != ERR_OK) {
        note_error(&runner->lap, err.message);
        return;
    }
    if (first->len == 0)
        buffer_append(first, reply.body, reply.body_len);
    if (began >= run->warm_until_ns && ended <= run->until_ns)
        note_latency(&runner->lap, ended - began);
}

static void loop(void *argument)
{
    struct runner *runner = argument;
    const struct bench_run *run = runner->run;
    size_t count = run->requests->count, query = runner->number;

    while (query < count && (now() < run->until_ns || runner->asked < count)) {
        bool is_late = now() >= run->until_ns;

        if (is_late && runner->lap.errors > 0)
            return;
        ask(runner, query);
        runner->asked += run->threads;
        query += run->threads;
        if (query >= count)
            query = runner->number;
    }
}

static int compare_latencies(const void *a, const void *b)
{
    uint32_t left, right;

    memcpy(&left, a, sizeof(left));
    memcpy(&right, b, sizeof(right));
    return (left > right) - (left < right);
}

static double cpu_seconds(void)
{
    struct rusage usage;

    if (getrusage(RUSAGE_SELF, &usage) != 0)
        return 0;
    return (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
           (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6;
}

/* The threads' laps as one result. */
static enum err_code summarise(struct runner *runners, uint32_t threads,
                               struct bench_result *result, struct err *err)
{
    uint32_t *all;
    size_t count = 0, at = 0;
    double sum = 0;

    for (uint32_t i = 0; i < threads; i++) {
        count += runners[i].lap.count;
        if (result->errors == 0 && runners[i].lap.errors > 0)
            (void)snprintf(result->error, sizeof(result->error), "%s", runners[i].lap.error);
        result->errors += runners[i].lap.errors;
    }
    result->requests = count;
    if (count == 0)
        return ERR_OK;
    all = array_alloc(count, sizeof(*all));
    if (all == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for latencies");
    for (uint32_t i = 0; i < threads; i++) {
        if (runners[i].lap.count > 0)
            memcpy(all + at, runners[i].lap.latencies_us10, runners[i].lap.count * sizeof(*all));
        at += runners[i].lap.count;
    }
    assert(at == count);
    qsort(all, count, sizeof(*all), compare_latencies);
    for (size_t i = 0; i < count; i++)
        sum += all[i];
    result->p50_ms = all[(count - 1) / 2] / 1e4;
    result->p99_ms = all[(count - 1) * 99 / 100] / 1e4;
    result->mean_ms = sum / (double)count / 1e4;
    result->qps = (double)count / result->seconds;
    free(all);
    return ERR_OK;
}

enum err_code bench_measure(struct bench_run *run, struct bench_result *result, struct err *err)
{
    struct runner *runners = array_alloc(run->threads, sizeof(*runners));
    double cpu_began = cpu_seconds(), cpu;
    uint64_t sent = 0;
    uint32_t started = 0;
    enum err_code rc = ERR_OK;

    *result = (struct bench_result){.seconds = (double)run->seconds};
    if (runners == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    run->warm_until_ns = now() + run->warm_ms * NS_PER_MS;
    run->until_ns = run->warm_until_ns + run->seconds * NS_PER_S;
    for (uint32_t i = 0; i < run->threads && rc == ERR_OK; i++) {
        runners[i].run = run;
        runners[i].number = i;
        rc = raw_http_open(&runners[i].raw, run->base, err);
        if (rc == ERR_OK)
            rc = env_thread_start(env_real(), &runners[i].thread, "bench", loop, &runners[i], err);
        started += rc == ERR_OK;
    }
    for (uint32_t i = 0; i < started; i++)
        env_thread_join(runners[i].thread);
    cpu = cpu_seconds() - cpu_began;
    if (rc == ERR_OK)
        rc = summarise(runners, run->threads, result, err);
    for (uint32_t i = 0; i < run->threads; i++) {
        sent += runners[i].asked / run->threads;
        if (i < started)
            raw_http_close(&runners[i].raw);
        free(runners[i].lap.latencies_us10);
    }
    result->client_us = sent == 0 ? 0 : cpu * 1e6 / (double)sent;
    free(runners);
    return rc;
}

uint64_t bench_hash_id(const char *id, size_t len)
{
    return hash_xxh64(id, len, 0);
}

/* The id of one match; false: it has none. */
static bool read_id(struct json_reader *reader, uint64_t *out)
{
    struct json_text key, id = {0};
    bool more = true;

    if (json_object_begin(reader) != ERR_OK)
        return false;
    while (json_object_next(reader, &key, &more) == ERR_OK) {
        if (!more) {
            *out = bench_hash_id(id.data, id.len);
            return id.data != NULL;
        }
        if (json_text_is(key, "id") ? json_read_string(reader, &id) != ERR_OK
                                    : json_skip(reader, NULL, NULL) != ERR_OK)
            return false;
    }
    return false;
}

size_t bench_ids(const struct buffer *body, uint64_t *out, size_t max)
{
    struct json_reader reader;
    struct json_text key;
    struct arena arena = {0};
    struct err err = {0};
    size_t count = 0;
    bool more = true;

    json_reader_init(&reader, body->data, body->len, &arena, &err);
    if (json_object_begin(&reader) != ERR_OK)
        goto out;
    while (json_object_next(&reader, &key, &more) == ERR_OK && more) {
        if (!json_text_is(key, "matches")) {
            if (json_skip(&reader, NULL, NULL) != ERR_OK)
                goto out;
            continue;
        }
        if (json_array_begin(&reader) != ERR_OK)
            goto out;
        while (json_array_next(&reader, &more) == ERR_OK && more && count < max)
            if (!read_id(&reader, &out[count++]))
                goto out;
        goto out;
    }
out:
    arena_free(&arena);
    return count;
}
