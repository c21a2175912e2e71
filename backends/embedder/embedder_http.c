/* The embedder behind an OpenAI-compatible server: see embedder_http.h.
 *
 * Happy path: texts that the cache knows are answered from it; of the others each distinct one is
 * sent once, in requests of a bounded size, a few at a time; vectors are brought to unit norm, kept
 * in the cache, and copied to all places that asked for that text.
 *
 * A request that could not be sent, took too long, or got 408, 429 or a 5xx is sent again after a
 * pause that doubles, with chance in it, and is as long as Retry-After says; one that cannot help
 * before the deadline is not waited for.  What was answered meanwhile stays in the cache, so a
 * caller's own retry goes on from there.  Any other status, and any answer that is not one vector
 * for each text, ends the call.  No lock is held anywhere. */
#include "backends/embedder/embedder_http.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/bytes.h"
#include "common/base/checked.h"
#include "common/base/hash.h"
#include "common/base/limits.h"
#include "common/base/text.h"

#define PATH_DEFAULT   "/v1/embeddings"
#define BACKOFF_NS     (100 * NS_PER_MS)
#define BACKOFF_NS_MAX (5 * NS_PER_S)
#define CACHE_TTL_MS   (24u * 3600u * 1000u)
#define MODEL_BYTES    256

struct http_metrics {
    struct metric *requests, *retries, *texts, *hits, *failures, *latency;
};

struct http_embedder {
    struct embedder base; /* first */
    struct env *env;
    struct http_client *client;
    struct cache *cache;
    uint64_t timeout_ns;
    uint8_t identity[32]; /* of server, model and dimension: the cache's keys are made from it */
    struct http_metrics metrics;
    char name[EMBEDDER_NAME_BYTES_MAX + 1];
    char model[MODEL_BYTES];
    char server[HTTP_URL_MAX]; /* "https://host:port" */
    char path[HTTP_URL_MAX];
    char authorization[EMBEDDER_KEY_BYTES_MAX + 16]; /* "": none */
};

static const struct embedder_ops http_ops;

static struct http_embedder *http_of(struct embedder *embedder)
{
    assert(embedder->ops == &http_ops);
    return (struct http_embedder *)embedder;
}

static void count(struct metric *metric, uint64_t amount)
{
    if (metric != NULL)
        metric_add(metric, amount);
}

/* --- the work of one call -----------------------------------------------------------------------
 */

/* A text that the cache does not know. */
struct item {
    struct hash128 key;
    size_t index; /* of the caller's text */
    size_t same;  /* the index of an equal text that is sent in its place, or its own */
};

/* Neighbouring items that travel together. */
struct batch {
    size_t first, count; /* of job.items */
    unsigned attempts;
    bool done;
};

struct job {
    struct http_embedder *http;
    const struct embedder_text *texts;
    uint64_t deadline_ns;
    float *out;
    struct item *items; /* those that are sent come first */
    size_t item_count, sent_count;
    struct batch *batches;
    size_t batch_count;
    struct err *err;
};

/* Requests that are under way together; the arrays are parallel. */
struct wave {
    struct batch *batches[EMBEDDER_PARALLEL_MAX];
    struct buffer bodies[EMBEDDER_PARALLEL_MAX];
    struct http_call calls[EMBEDDER_PARALLEL_MAX];
    size_t count;
};

static struct hash128 key_of(const struct http_embedder *http, const struct embedder_text *text)
{
    uint8_t both[64], key[32];

    memcpy(both, http->identity, 32);
    hash_sha256(both + 32, text->data == NULL ? "" : text->data, text->len);
    hash_sha256(key, both, sizeof(both));
    return (struct hash128){.low = load_u64(key), .high = load_u64(key + 8)};
}

/* What is in the cache may come from a server that others write to. */
static bool take_cached(struct http_embedder *http, struct hash128 key, float *out)
{
    size_t bytes = http->base.dimension * sizeof(float);
    struct buffer value = {0};
    bool found = http->cache != NULL && cache_get(http->cache, key, &value) && value.len == bytes;

    if (found) {
        memcpy(out, value.data, bytes);
        found = embedding_normalise(out, http->base.dimension);
    }
    buffer_free(&value);
    count(http->metrics.hits, found);
    return found;
}

static bool is_blank(const struct embedder_text *text)
{
    for (size_t i = 0; i < text->len; i++)
        if (strchr(" \t\r\n", text->data[i]) == NULL || text->data[i] == '\0')
            return false;
    return true;
}

static int compare_items(const void *left, const void *right)
{
    const struct item *a = left, *b = right;

    if (a->key.high != b->key.high)
        return a->key.high < b->key.high ? -1 : 1;
    if (a->key.low != b->key.low)
        return a->key.low < b->key.low ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

static int compare_sent(const void *left, const void *right)
{
    const struct item *a = left, *b = right;

    if ((a->same == a->index) != (b->same == b->index))
        return a->same == a->index ? -1 : 1;
    return a->index < b->index ? -1 : a->index > b->index;
}

/* Fill in what needs no server; list the rest, equal texts once, in the caller's order. */
static enum err_code sort_out(struct job *job, size_t text_count)
{
    uint32_t dimension = job->http->base.dimension;

    job->items = array_alloc(text_count, sizeof(*job->items));
    if (job->items == NULL)
        return err_set(job->err, ERR_NO_MEMORY, "no memory to embed %zu texts", text_count);
    for (size_t i = 0; i < text_count; i++) {
        float *vector = job->out + i * dimension;
        struct item item = {.index = i, .same = i};

        if (is_blank(&job->texts[i])) { /* many servers refuse such a text */
            memset(vector, 0, dimension * sizeof(*vector));
            vector[0] = 1;
            continue;
        }
        item.key = key_of(job->http, &job->texts[i]);
        if (!take_cached(job->http, item.key, vector))
            job->items[job->item_count++] = item;
    }
    qsort(job->items, job->item_count, sizeof(*job->items), compare_items);
    for (size_t i = 0; i < job->item_count; i++) {
        struct item *item = &job->items[i];

        if (i > 0 && item->key.low == item[-1].key.low && item->key.high == item[-1].key.high)
            item->same = item[-1].same;
        else
            job->sent_count++;
    }
    qsort(job->items, job->item_count, sizeof(*job->items), compare_sent);
    return ERR_OK;
}

static enum err_code cut_batches(struct job *job)
{
    struct batch *batch = NULL;
    size_t bytes = 0;

    job->batches = array_alloc(job->sent_count, sizeof(*job->batches));
    if (job->batches == NULL)
        return err_set(job->err, ERR_NO_MEMORY, "no memory to embed %zu texts", job->sent_count);
    for (size_t i = 0; i < job->sent_count; i++) {
        size_t len = job->texts[job->items[i].index].len;

        if (batch == NULL || batch->count == EMBEDDER_BATCH_TEXTS_MAX ||
            bytes > EMBEDDER_BATCH_BYTES_MAX || EMBEDDER_BATCH_BYTES_MAX - bytes < len) {
            batch = &job->batches[job->batch_count++];
            batch->first = i;
            bytes = 0;
        }
        batch->count++;
        bytes += len;
    }
    return ERR_OK;
}

static enum err_code add_request(const struct job *job, struct wave *wave, struct batch *batch)
{
    const struct embedder_text *texts[EMBEDDER_BATCH_TEXTS_MAX];
    const struct http_embedder *http = job->http;
    struct buffer *body = &wave->bodies[wave->count];

    for (size_t i = 0; i < batch->count; i++)
        texts[i] = &job->texts[job->items[batch->first + i].index];
    embedding_request_write(body, http->model, texts, batch->count);
    wave->calls[wave->count] = (struct http_call){
        .method = "POST",
        .base = http->server,
        .path = http->path,
        .content_type = "application/json",
        .accept = "application/json",
        .authorization = http->authorization[0] == '\0' ? NULL : http->authorization,
        .body = body->data,
        .body_len = body->len,
        .reply_max = embedding_answer_max(batch->count, http->base.dimension)};
    wave->batches[wave->count++] = batch;
    batch->attempts++;
    count(http->metrics.requests, 1);
    count(http->metrics.retries, batch->attempts > 1);
    return buffer_check(body, job->err);
}

static enum err_code fill_wave(struct job *job, struct wave *wave)
{
    enum err_code rc = ERR_OK;

    for (size_t i = 0; i < job->batch_count && rc == ERR_OK; i++) {
        if (wave->count == EMBEDDER_PARALLEL_MAX)
            break;
        if (!job->batches[i].done)
            rc = add_request(job, wave, &job->batches[i]);
    }
    return rc;
}

/* An answer's vectors into their places and the cache. */
static enum err_code take_vectors(const struct job *job, const struct http_call *call,
                                  struct batch *batch, struct err *err)
{
    uint32_t dimension = job->http->base.dimension;
    struct embedding_answer answer = {.body = call->reply.data,
                                      .len = call->reply.len,
                                      .count = batch->count,
                                      .dimension = dimension};
    float *vectors = array_alloc(batch->count * dimension, sizeof(*vectors));
    enum err_code rc;

    if (vectors == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory for vectors");
    rc = embedding_answer_read(&answer, vectors, err);
    for (size_t i = 0; i < batch->count && rc == ERR_OK; i++) {
        const struct item *item = &job->items[batch->first + i];
        const float *vector = vectors + i * dimension;

        memcpy(job->out + item->index * dimension, vector, dimension * sizeof(*vector));
        if (job->http->cache != NULL)
            cache_put(job->http->cache, item->key, vector, dimension * sizeof(*vector),
                      CACHE_TTL_MS);
    }
    free(vectors);
    batch->done = rc == ERR_OK;
    if (batch->done)
        count(job->http->metrics.texts, batch->count);
    return rc;
}

/* Until a request that failed is sent again. */
static uint64_t pause_of(const struct job *job, const struct http_call *call,
                         const struct batch *batch)
{
    uint64_t pause = BACKOFF_NS, chance;

    for (unsigned i = 1; i < batch->attempts && pause < BACKOFF_NS_MAX; i++)
        pause *= 2;
    pause = MIN_OF(pause, BACKOFF_NS_MAX);
    env_random(job->http->env, &chance, sizeof(chance));
    pause = pause / 2 + chance % (pause / 2 + 1);
    return MAX_OF(pause, call->retry_after_s * NS_PER_S);
}

/* What came of a request.  One that is worth another attempt is ERR_OK: err says why, and *pause
 * has grown to what has to be waited for. */
static enum err_code conclude(const struct job *job, const struct http_call *call,
                              struct batch *batch, uint64_t *pause, struct err *err)
{
    bool again = false;
    uint64_t wanted;
    enum err_code rc = embedding_call_judge(call, &again, err);

    if (rc == ERR_OK)
        return take_vectors(job, call, batch, err);
    if (!again)
        return rc;
    if (batch->attempts >= EMBEDDER_ATTEMPTS_MAX)
        return err_wrap(err, "%u attempts", batch->attempts);
    wanted = pause_of(job, call, batch);
    *pause = MAX_OF(*pause, wanted);
    return ERR_OK;
}

/* The first failure is what is told; vectors of the other answers are kept all the same. */
static enum err_code land_wave(const struct job *job, const struct wave *wave, uint64_t *pause)
{
    enum err_code first = ERR_OK;

    for (size_t i = 0; i < wave->count; i++) {
        struct err err = {0};
        enum err_code rc = conclude(job, &wave->calls[i], wave->batches[i], pause, &err);

        if (first == ERR_OK && err.code != ERR_OK)
            *job->err = err;
        if (first == ERR_OK)
            first = rc;
    }
    return first;
}

/* A few requests at once.  *pause: 0, or how long those that are worth another attempt wait. */
static enum err_code fly(struct job *job, uint64_t *pause)
{
    const struct http_embedder *http = job->http;
    uint64_t began = env_boot_ns(http->env), until = began + http->timeout_ns;
    struct wave wave = {0};
    enum err_code rc = fill_wave(job, &wave);

    *pause = 0;
    if (rc == ERR_OK) {
        http_gather(http->client, wave.calls, wave.count, MIN_OF(until, job->deadline_ns), NULL);
        if (http->metrics.latency != NULL)
            metric_observe_ns(http->metrics.latency, env_boot_ns(http->env) - began);
        rc = land_wave(job, &wave, pause);
    }
    for (size_t i = 0; i < wave.count; i++) {
        http_call_free(&wave.calls[i]);
        buffer_free(&wave.bodies[i]);
    }
    return rc;
}

static bool is_done(const struct job *job)
{
    for (size_t i = 0; i < job->batch_count; i++)
        if (!job->batches[i].done)
            return false;
    return true;
}

static enum err_code send_all(struct job *job)
{
    const struct http_embedder *http = job->http;
    uint64_t pause, now;
    enum err_code rc = ERR_OK;

    while (!is_done(job)) {
        if (env_boot_ns(http->env) >= job->deadline_ns)
            return err_set(job->err, ERR_TIMEOUT, "no vectors in time");
        rc = fly(job, &pause);
        if (rc != ERR_OK)
            return rc;
        now = env_boot_ns(http->env);
        if (pause == 0)
            continue;
        if (now >= job->deadline_ns) {
            char last[ERR_MESSAGE_BYTES];

            memcpy(last, job->err->message, sizeof(last));
            return err_set(job->err, ERR_TIMEOUT, "no vectors in time: %.200s", last);
        }
        /* To wait for what comes too late would only keep the caller from knowing. */
        if (job->deadline_ns - now <= pause)
            return err_wrap(job->err, "no time for another attempt");
        rc = env_sleep_until(http->env, now + pause);
        if (rc != ERR_OK)
            return err_set(job->err, rc, "stopped");
        err_clear(job->err);
    }
    return ERR_OK;
}

static enum err_code http_embed(struct embedder *embedder, const struct embedder_text *texts,
                                size_t text_count, uint64_t deadline_ns, float *out,
                                struct err *err)
{
    struct http_embedder *http = http_of(embedder);
    uint32_t dimension = embedder->dimension;
    struct err inner = {0};
    struct job job = {
        .http = http, .texts = texts, .deadline_ns = deadline_ns, .out = out, .err = &inner};
    enum err_code rc = sort_out(&job, text_count);

    if (rc == ERR_OK)
        rc = cut_batches(&job);
    if (rc == ERR_OK)
        rc = send_all(&job);
    for (size_t i = job.sent_count; i < job.item_count && rc == ERR_OK; i++)
        memcpy(out + job.items[i].index * dimension, out + job.items[i].same * dimension,
               dimension * sizeof(*out));
    free(job.items);
    free(job.batches);
    if (rc == ERR_OK)
        return ERR_OK;
    count(http->metrics.failures, 1);
    if (err != NULL)
        *err = inner;
    return err_wrap(err, "embedder '%s'", http->name);
}

/* --- life ---------------------------------------------------------------------------------------
 */

/* "http[s]://host[:port][/path]"; what would be a credential or a fragment is refused. */
static enum err_code set_url(struct http_embedder *http, const char *url, struct err *err)
{
    const char *host, *path;
    size_t host_len;

    for (const char *at = url; *at != '\0'; at++)
        if ((unsigned char)*at <= 0x20 || (unsigned char)*at >= 0x7f || strchr("\"<>\\^`{|}", *at))
            return err_set(err, ERR_CONFIG, "the URL has a character that has to be encoded");
    if (!text_has_scheme(url, "http") && !text_has_scheme(url, "https"))
        return err_set(err, ERR_CONFIG, "want a URL that starts with http:// or https://");
    host = strchr(url, ':') + 1;
    if (strncmp(host, "//", 2) != 0)
        return err_set(err, ERR_CONFIG, "want a URL that starts with http:// or https://");
    host += 2;
    host_len = strcspn(host, "/?#");
    path = host + host_len;
    if (host_len == 0 || memchr(host, '@', host_len) != NULL)
        return err_set(err, ERR_CONFIG,
                       "want a host in the URL, and no user (a key stands in key_file)");
    if (strchr(path, '#') != NULL || path[0] == '?')
        return err_set(err, ERR_CONFIG, "want a URL with a path, and no fragment");
    if (strlen(url) >= sizeof(http->server) / 2)
        return err_set(err, ERR_CONFIG, "the URL is too long");
    (void)snprintf(http->server, sizeof(http->server), "%.*s", (int)(path - url), url);
    (void)snprintf(http->path, sizeof(http->path), "%s",
                   path[0] == '\0' || strcmp(path, "/") == 0 ? PATH_DEFAULT : path);
    return ERR_OK;
}

/* One line of printable ASCII. */
static enum err_code read_key(struct http_embedder *http, const char *file, struct err *err)
{
    char key[EMBEDDER_KEY_BYTES_MAX + 2];
    FILE *in = fopen(file, "re");
    size_t len;

    if (in == NULL)
        return err_set(err, ERR_CONFIG, "key_file %s: %s", file, strerror(errno));
    len = fread(key, 1, sizeof(key) - 1, in);
    if (ferror(in) != 0)
        len = 0;
    (void)fclose(in);
    while (len > 0 && strchr(" \t\r\n", key[len - 1]) != NULL && key[len - 1] != '\0')
        len--;
    if (len == 0 || len > EMBEDDER_KEY_BYTES_MAX)
        return err_set(err, ERR_CONFIG, "key_file %s: want one line of at most %d bytes", file,
                       EMBEDDER_KEY_BYTES_MAX);
    for (size_t i = 0; i < len; i++)
        if (key[i] <= 0x20 || key[i] >= 0x7f)
            return err_set(err, ERR_CONFIG, "key_file %s: want one word of printable ASCII", file);
    (void)snprintf(http->authorization, sizeof(http->authorization), "Bearer %.*s", (int)len, key);
    memset(key, 0, sizeof(key));
    return ERR_OK;
}

static enum err_code identify(struct http_embedder *http, struct err *err)
{
    struct buffer text = {0};
    enum err_code rc;

    buffer_append_format(&text, "%s%s\n%s\n%u", http->server, http->path, http->model,
                         http->base.dimension);
    rc = buffer_check(&text, err);
    if (rc == ERR_OK)
        hash_sha256(http->identity, text.data, text.len);
    buffer_free(&text);
    return rc;
}

static void open_metrics(struct http_embedder *http, struct metrics *metrics)
{
    char labels[EMBEDDER_NAME_BYTES_MAX + 16];

    if (metrics == NULL)
        return;
    (void)snprintf(labels, sizeof(labels), "embedder=\"%s\"", http->name);
    http->metrics = (struct http_metrics){
        .requests = metrics_counter(metrics, "embedding_requests_total", labels,
                                    "Requests to the embeddings server."),
        .retries = metrics_counter(metrics, "embedding_retries_total", labels,
                                   "Requests that were sent again."),
        .texts = metrics_counter(metrics, "embedding_texts_total", labels,
                                 "Texts that the server made vectors of."),
        .hits = metrics_counter(metrics, "embedding_cache_hits_total", labels,
                                "Texts whose vectors were known."),
        .failures = metrics_counter(metrics, "embedding_failures_total", labels,
                                    "Writes and searches that got no vectors."),
        .latency = metrics_latency(metrics, "embedding_latency_seconds", labels,
                                   "Time of requests that went out together."),
    };
}

enum err_code embedder_http_open(struct embedder **out, const struct embedder_http_options *options,
                                 struct err *err)
{
    const char *model = options->model == NULL ? options->name : options->model;
    uint32_t timeout_ms =
        options->timeout_ms == 0 ? EMBEDDER_TIMEOUT_MS_DEFAULT : options->timeout_ms;
    struct http_embedder *http;
    enum err_code rc;

    *out = NULL;
    assert(options->env != NULL && options->client != NULL);
    assert(strlen(options->name) <= EMBEDDER_NAME_BYTES_MAX);
    if (options->dimension < 1 || options->dimension > DIMENSION_MAX)
        return err_set(err, ERR_CONFIG, "want dimension=1 to %d", DIMENSION_MAX);
    if (strlen(model) >= MODEL_BYTES || !text_is_utf8(model, strlen(model)))
        return err_set(err, ERR_CONFIG, "want a model name of less than %d bytes", MODEL_BYTES);
    http = calloc(1, sizeof(*http));
    if (http == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    http->base = (struct embedder){.ops = &http_ops, .dimension = options->dimension};
    http->env = options->env;
    http->client = options->client;
    http->cache = options->cache;
    http->timeout_ns = timeout_ms * NS_PER_MS;
    (void)snprintf(http->name, sizeof(http->name), "%s", options->name);
    (void)snprintf(http->model, sizeof(http->model), "%s", model);
    rc = set_url(http, options->url, err);
    if (rc == ERR_OK && options->key_file != NULL)
        rc = read_key(http, options->key_file, err);
    if (rc == ERR_OK)
        rc = identify(http, err);
    if (rc != ERR_OK) {
        free(http);
        return rc;
    }
    open_metrics(http, options->metrics);
    *out = &http->base;
    return ERR_OK;
}

static void http_close(struct embedder *embedder)
{
    struct http_embedder *http = http_of(embedder);

    explicit_bzero(http->authorization, sizeof(http->authorization));
    free(http);
}

static const struct embedder_ops http_ops = {
    .scheme = "http",
    .close = http_close,
    .embed = http_embed,
};
