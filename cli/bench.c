/* vicinal bench: how fast a collection answers, and how right.
 *
 * Happy path: every query of an .npy file becomes a whole HTTP request beforehand; threads send
 * them in a closed loop over one connection each; afterwards the first answer to each query is
 * compared with the truth.  A result cache would answer repeated queries: start the suite with
 * --cache none: to measure the index. */
#include "cli/bench.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/base64.h"
#include "cli/lines.h"
#include "common/base/arena.h"
#include "common/base/checked.h"
#include "common/base/json_reader.h"
#include "common/base/json_writer.h"
#include "common/base/limits.h"
#include "common/base/npy.h"

struct bench {
    const char *url, *collection, *queries_path, *truth_path, *id_map, *include, *filter;
    uint64_t top_k, concurrency, seconds, warm_ms, ef, limit;
    bool exact, json_vectors, json;
    char base[512];
    struct npy queries, truth;
    struct bench_requests requests;
    struct buffer *first_replies;
    uint64_t *ids; /* of the row numbers, hashed; NULL: the number as text */
    uint64_t id_count;
};

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct bench, row_member)

static const struct option options[] = {
    CLI_URL_ROW(struct bench),
    CLI_COLLECTION_ROW(struct bench),
    {ROW("queries", OPTION_TEXT, queries_path), .required = true,
     .help = "An .npy file of query vectors, float16 or float32."},
    {ROW("truth", OPTION_TEXT, truth_path),
     .help = "An .npy file of int32 row numbers, nearest first, a row for each query."},
    {ROW("id-map", OPTION_TEXT, id_map),
     .help = "Records file whose ids stand for the row numbers (default: the number as text)."},
    {ROW("top-k", OPTION_U64, top_k), .fallback = "10", .min = 1, .max = TOP_K_MAX,
     .help = "Matches asked for."},
    {ROW("concurrency", OPTION_U64, concurrency), .fallback = "1", .min = 1, .max = 1024,
     .help = "Threads with one connection each."},
    {ROW("seconds", OPTION_U64, seconds), .fallback = "5", .min = 1, .max = 3600,
     .help = "Measured time."},
    {ROW("warm-up", OPTION_U64, warm_ms), .fallback = "500", .max = 600000, .unit = "ms",
     .help = "Time before it that does not count."},
    {ROW("ef", OPTION_U64, ef), .max = SEARCH_EF_MAX,
     .help = "Effort of the search (default: the server's)."},
    {ROW("exact", OPTION_BOOL, exact), .fallback = "false", .help = "Ask for exact answers."},
    {ROW("filter", OPTION_TEXT, filter), .help = "JSON filter for every query."},
    {ROW("include", OPTION_TEXT, include), .fallback = "",
     .help = "Fields asked for: metadata,text,vector (default: ids and scores only)."},
    {ROW("json-vectors", OPTION_BOOL, json_vectors), .fallback = "false",
     .help = "Send vectors as JSON numbers instead of base64."},
    {ROW("limit", OPTION_U64, limit), .help = "Use only so many queries (0: all)."},
    {ROW("json", OPTION_BOOL, json), .fallback = "false", .help = "Print one line of JSON."},
    {0},
};

/* --- requests -------------------------------------------------------------------------------- */

static void write_vector(const struct bench *bench, const float *vector, struct json_writer *w)
{
    if (!bench->json_vectors) {
        json_key(w, "vector_base64");
        buffer_append_byte(w->out, '"');
        base64_append(w->out, vector, bench->queries.cols * sizeof(float));
        buffer_append_byte(w->out, '"');
        w->comma = true;
        w->after_key = false;
        return;
    }
    json_key(w, "vector");
    json_begin_array(w);
    for (uint32_t i = 0; i < bench->queries.cols; i++)
        json_float(w, vector[i]);
    json_end_array(w);
}

static void write_include(const struct bench *bench, struct json_writer *w)
{
    const char *at = bench->include;

    json_key(w, "include");
    json_begin_array(w);
    while (*at != '\0') {
        size_t len = strcspn(at, ",");

        if (len > 0)
            json_put_string(w, at, len);
        at += len + (at[len] == ',');
    }
    json_end_array(w);
}

static void write_body(const struct bench *bench, const float *vector, struct buffer *body)
{
    struct json_writer w;

    json_writer_init(&w, body);
    json_begin_object(&w);
    write_vector(bench, vector, &w);
    json_key(&w, "top_k");
    json_u64(&w, bench->top_k);
    write_include(bench, &w);
    if (bench->filter != NULL) {
        json_key(&w, "filter");
        json_raw(&w, bench->filter, strlen(bench->filter));
    }
    if (bench->ef != 0 || bench->exact) {
        json_key(&w, "params");
        json_begin_object(&w);
        if (bench->ef != 0) {
            json_key(&w, "ef");
            json_u64(&w, bench->ef);
        }
        if (bench->exact) {
            json_key(&w, "exact");
            json_bool(&w, true);
        }
        json_end_object(&w);
    }
    json_key(&w, "timeout_ms");
    json_u64(&w, 10000);
    json_end_object(&w);
}

static enum err_code make_requests(struct bench *bench, struct err *err)
{
    size_t count = (size_t)bench->queries.rows;
    float *vector = array_alloc(bench->queries.cols, sizeof(float));
    const char *host = bench->base + strlen("http://");
    struct buffer body = {0};
    char path[1024];
    enum err_code rc = cli_path(path, sizeof(path), bench->collection, "/search", err);

    if (bench->limit != 0)
        count = MIN_OF(count, (size_t)bench->limit);
    bench->requests.items = array_alloc(count, sizeof(struct buffer));
    bench->first_replies = array_alloc(count, sizeof(struct buffer));
    if (vector == NULL || bench->requests.items == NULL || bench->first_replies == NULL)
        rc = err_set(err, ERR_NO_MEMORY, "no memory for the queries");
    else
        bench->requests.count = count;
    for (size_t i = 0; i < count && rc == ERR_OK; i++) {
        struct buffer *request = &bench->requests.items[i];

        buffer_reset(&body);
        npy_row_f32(&bench->queries, i, vector);
        write_body(bench, vector, &body);
        buffer_append_format(request,
                             "POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\n"
                             "Content-Length: %zu\r\n\r\n",
                             path, host, body.len);
        buffer_append(request, body.data, body.len);
        rc = buffer_check(body.failed ? &body : request, err);
    }
    buffer_free(&body);
    free(vector);
    return rc;
}

/* --- truth ----------------------------------------------------------------------------------- */

/* Hash of the id in one line of a records file. */
static enum err_code id_of_line(const char *data, size_t len, uint64_t row, uint64_t *out,
                                struct err *err)
{
    struct arena arena = {0};
    json_t *document = NULL;
    char number[32];
    const char *id;
    enum err_code rc = json_doc_parse(&document, data, len, err);

    if (rc == ERR_OK) {
        json_t *member = json_object_get(document, "id");
        bool is_number = json_is_integer(member);

        (void)snprintf(number, sizeof(number), "%lld",
                       is_number ? (long long)json_integer_value(member) : (long long)row);
        id = json_is_string(member) ? json_string_value(member) : number;
        *out = bench_hash_id(id, strlen(id));
    }
    json_decref(document);
    arena_free(&arena);
    return rc;
}

static enum err_code read_id_map(struct bench *bench, struct err *err)
{
    struct lines lines = {.fd = -1};
    enum err_code rc = lines_open(&lines, bench->id_map, err);
    const char *data;
    size_t len, room = 0;
    bool more = true;

    while (rc == ERR_OK && (rc = lines_next(&lines, &data, &len, &more, err)) == ERR_OK && more) {
        if (len == 0)
            continue;
        if (bench->id_count == room) {
            uint64_t *grown = array_resize(bench->ids, room * 2 + 1024, sizeof(*grown));

            if (grown == NULL) {
                rc = err_set(err, ERR_NO_MEMORY, "no memory for ids");
                break;
            }
            bench->ids = grown;
            room = room * 2 + 1024;
        }
        rc = id_of_line(data, len, bench->id_count, &bench->ids[bench->id_count], err);
        bench->id_count++;
    }
    lines_close(&lines);
    return rc == ERR_OK ? rc : err_wrap(err, "--id-map");
}

static uint64_t true_id(const struct bench *bench, int32_t row)
{
    char number[16];
    int len;

    if (bench->ids != NULL)
        return row >= 0 && (uint64_t)row < bench->id_count ? bench->ids[row] : 0;
    len = snprintf(number, sizeof(number), "%d", row);
    return bench_hash_id(number, (size_t)len);
}

/* Share of the true nearest top_k that the answers hold. */
static enum err_code judge(const struct bench *bench, struct bench_result *result, struct err *err)
{
    size_t k = MIN_OF((size_t)bench->top_k, (size_t)bench->truth.cols), found = 0;
    int32_t *row = array_alloc(bench->truth.cols, sizeof(*row));
    uint64_t *ids = array_alloc(bench->top_k, sizeof(*ids));

    if (row == NULL || ids == NULL) {
        free(row);
        free(ids);
        return err_set(err, ERR_NO_MEMORY, "no memory");
    }
    for (size_t i = 0; i < bench->requests.count; i++) {
        size_t count;

        if (bench->first_replies[i].len == 0)
            continue;
        count = bench_ids(&bench->first_replies[i], ids, bench->top_k);
        npy_row_i32(&bench->truth, i, row);
        for (size_t t = 0; t < k; t++) {
            uint64_t wanted = true_id(bench, row[t]);

            for (size_t g = 0; g < count; g++)
                if (ids[g] == wanted) {
                    found++;
                    break;
                }
        }
        result->judged++;
    }
    if (result->judged > 0)
        result->recall = (double)found / (double)(result->judged * k);
    free(row);
    free(ids);
    return ERR_OK;
}

/* --- the run --------------------------------------------------------------------------------- */

static enum err_code open_files(struct bench *bench, struct err *err)
{
    enum err_code rc = npy_open(bench->queries_path, &bench->queries, err);

    if (rc != ERR_OK)
        return rc;
    if (bench->queries.type == NPY_INT32 || bench->queries.rows == 0)
        return err_set(err, ERR_CONFIG, "--queries %s holds no vectors", bench->queries_path);
    if (bench->truth_path != NULL) {
        rc = npy_open(bench->truth_path, &bench->truth, err);
        if (rc == ERR_OK &&
            (bench->truth.type != NPY_INT32 || bench->truth.rows != bench->queries.rows))
            rc = err_set(err, ERR_CONFIG, "--truth %s is not int32 with a row for each query",
                         bench->truth_path);
    }
    if (rc == ERR_OK && bench->id_map != NULL)
        rc = read_id_map(bench, err);
    return rc;
}

static void print_result(const struct bench *bench, const struct bench_result *result)
{
    if (!bench->json) {
        (void)printf("%.0f queries/s at %" PRIu64 " connections; ms: p50 %.3f, p99 %.3f, mean "
                     "%.3f; errors %" PRIu64,
                     result->qps, bench->concurrency, result->p50_ms, result->p99_ms,
                     result->mean_ms, result->errors);
        if (result->judged > 0)
            (void)printf("; recall@%" PRIu64 " %.4f", bench->top_k, result->recall);
        (void)printf("\n");
        return;
    }
    (void)printf("{\"qps\":%.1f,\"p50_ms\":%.4f,\"p99_ms\":%.4f,\"mean_ms\":%.4f,", result->qps,
                 result->p50_ms, result->p99_ms, result->mean_ms);
    if (result->judged > 0)
        (void)printf("\"recall\":%.5f,", result->recall);
    else
        (void)printf("\"recall\":null,");
    (void)printf("\"errors\":%" PRIu64 ",\"requests\":%" PRIu64 ",\"queries\":%" PRIu64
                 ",\"client_us\":%.1f}\n",
                 result->errors, result->requests, result->judged, result->client_us);
}

static void close_bench(struct bench *bench)
{
    for (size_t i = 0; i < bench->requests.count; i++) {
        buffer_free(&bench->requests.items[i]);
        buffer_free(&bench->first_replies[i]);
    }
    free(bench->requests.items);
    free(bench->first_replies);
    free(bench->ids);
    npy_close(&bench->queries);
    npy_close(&bench->truth);
}

static int run_bench(void *settings, const struct cli_operands *operands)
{
    struct bench *bench = settings;
    struct bench_result result = {0};
    struct bench_run run = {.base = bench->base,
                            .threads = (uint32_t)bench->concurrency,
                            .warm_ms = bench->warm_ms,
                            .seconds = bench->seconds};
    struct err err = {0};
    enum err_code rc = cli_base_url(bench->base, sizeof(bench->base), bench->url, &err);

    (void)operands;
    if (rc == ERR_OK)
        rc = open_files(bench, &err);
    if (rc == ERR_OK)
        rc = make_requests(bench, &err);
    if (rc == ERR_OK && run.threads > bench->requests.count)
        rc = err_set(&err, ERR_CONFIG, "--concurrency is above the number of queries (%zu)",
                     bench->requests.count);
    run.requests = &bench->requests;
    run.first_replies = bench->first_replies;
    if (rc == ERR_OK)
        rc = bench_measure(&run, &result, &err);
    if (rc == ERR_OK && bench->truth_path != NULL)
        rc = judge(bench, &result, &err);
    if (rc == ERR_OK)
        print_result(bench, &result);
    if (rc == ERR_OK && result.errors > 0)
        (void)fprintf(stderr, "vicinal bench: first error: %s\n", result.error);
    close_bench(bench);
    if (rc != ERR_OK)
        return cli_fail("bench", &err);
    return result.requests > 0 ? EXIT_SUCCESS : EXIT_FAILED;
}

const struct verb verb_bench = {
    .name = "bench",
    .brief = "Measure a collection: queries a second, latency, recall.",
    .synopsis = "--collection NAME --queries Q.npy [--truth T.npy] [options]",
    .about =
        "A closed loop: each of --concurrency threads sends the next query when it has the\n"
        "answer to the last, for --seconds.  The recall is the share of the true nearest that\n"
        "the first answer to each query holds.  The router's result cache answers queries\n"
        "that repeat: start the suite with --cache none: to measure the index.",
    .options = options,
    .settings_size = sizeof(struct bench),
    .run = run_bench,
};
