/* vicinal import: a folder of text, NDJSON, or vectors with records, into a collection.
 *
 * Happy path: open the source, find or make the collection, open the state of an interrupted run,
 * let the source write into the sink, wait, then count freshly, so that everything is searchable
 * when the command ends.
 *
 * Failure modes: the router away (asked again for --retry seconds), rows refused (counted, with
 * reasons; exit code 3), a kill (a rerun goes on behind what was acknowledged). */
#include "cli/import.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/base/hash.h"
#include "common/base/json_writer.h"

#define ASK_MS         70000u
#define COUNT_MS       60000u
#define PAUSE_MS       200u
#define HASH_DIMENSION 384u

#define ROW(row_name, row_type, row_member)                                                        \
    .name = (row_name), .type = (row_type), .offset = offsetof(struct import, row_member)

static const struct option options[] = {
    CLI_URL_ROW(struct import),
    CLI_COLLECTION_ROW(struct import),
    {ROW("vectors", OPTION_TEXT, vectors),
     .help = "An .npy file: float16 or float32, one row each."},
    {ROW("records", OPTION_TEXT, records),
     .help = "With --vectors: JSON objects, one a line, plain or .zst."},
    {ROW("create", OPTION_BOOL, create), .fallback = "true",
     .help = "Make the collection when there is none."},
    {ROW("metric", OPTION_TEXT, metric), .fallback = "cosine",
     .help = "Of a new collection: cosine, ip or l2."},
    {ROW("dimension", OPTION_U64, dimension), .max = DIMENSION_MAX,
     .help = "Of a new collection (default: that of the vectors; 384 for text)."},
    {ROW("embedder", OPTION_TEXT, embedder),
     .help = "Of a new collection: none or hash (default: hash for text)."},
    {ROW("m", OPTION_U64, m), .max = HNSW_M_MAX, .help = "Of a new collection: links of a node."},
    {ROW("ef-construction", OPTION_U64, ef_construction), .max = HNSW_EF_CONSTRUCTION_MAX,
     .help = "Of a new collection: effort of linking."},
    {ROW("threads", OPTION_U64, threads), .fallback = "4", .min = 1, .max = 64,
     .help = "Connections that send at a time."},
    {ROW("batch", OPTION_U64, batch), .fallback = "1000", .min = 1, .max = RECORDS_PER_REQUEST_MAX,
     .help = "Records of one request."},
    {ROW("batch-bytes", OPTION_U64, batch_bytes), .fallback = "8MiB", .min = 1024, .max = MIB(32),
     .unit = "bytes", .help = "Bytes of one request, about."},
    {ROW("retry", OPTION_U64, retry_seconds), .fallback = "300", .max = 86400, .unit = "s",
     .help = "Give up when a request has not succeeded for so long."},
    {ROW("state", OPTION_TEXT, state_path),
     .help = "File that remembers how far an import is (default: in XDG_STATE_HOME)."},
    {ROW("json", OPTION_BOOL, json), .fallback = "false", .help = "Print the outcome as JSON."},
    {0},
};

/* --- the collection -------------------------------------------------------------------------- */

/* As cli_ask, again and again while the router is away. */
static enum err_code ask_patiently(struct import *import, const struct cli_call *ask, json_t **out,
                                   int *status, struct err *err)
{
    uint64_t give_up = env_boot_ns(env_real()) + import->retry_seconds * NS_PER_S;

    for (;;) {
        enum err_code rc = cli_ask(import->client, import->base, ask, out, status, err);

        if (rc == ERR_OK || (*status > 0 && *status < 500) || env_boot_ns(env_real()) >= give_up)
            return rc;
        json_decref(*out);
        *out = NULL;
        if (env_sleep_until(env_real(), env_boot_ns(env_real()) + PAUSE_MS * NS_PER_MS) != ERR_OK)
            return rc;
    }
}

static void write_definition(const struct import *import, const struct import_source *source,
                             struct buffer *body)
{
    uint64_t dimension = import->dimension != 0 ? import->dimension : source->dimension;
    const char *embedder = import->embedder;
    struct json_writer w;

    if (embedder == NULL)
        embedder = source->dimension == 0 && dimension % HASH_DIMENSION == 0 ? "hash" : "none";
    if (dimension == 0)
        dimension = HASH_DIMENSION;
    json_writer_init(&w, body);
    json_begin_object(&w);
    json_key(&w, "vector");
    json_begin_object(&w);
    json_key(&w, "dimension");
    json_u64(&w, dimension);
    json_key(&w, "metric");
    json_text(&w, import->metric);
    json_end_object(&w);
    json_key(&w, "embedder");
    json_text(&w, embedder);
    if (import->m != 0 || import->ef_construction != 0) {
        json_key(&w, "index");
        json_begin_object(&w);
        if (import->m != 0) {
            json_key(&w, "m");
            json_u64(&w, import->m);
        }
        if (import->ef_construction != 0) {
            json_key(&w, "ef_construction");
            json_u64(&w, import->ef_construction);
        }
        json_end_object(&w);
    }
    json_end_object(&w);
}

static enum err_code create(struct import *import, const struct import_source *source,
                            const char *path, json_t **out, struct err *err)
{
    struct cli_call ask = {.method = "PUT", .path = path, .timeout_ms = ASK_MS};
    struct buffer body = {0};
    int status = 0;
    enum err_code rc;

    write_definition(import, source, &body);
    ask.body = body.data;
    ask.body_len = body.len;
    rc = buffer_check(&body, err);
    if (rc == ERR_OK)
        rc = ask_patiently(import, &ask, out, &status, err);
    buffer_free(&body);
    return rc == ERR_OK ? rc : err_wrap(err, "cannot make collection '%.100s'", import->collection);
}

/* Find or make it; check that its dimension is the source's; remember its version. */
static enum err_code prepare_collection(struct import *import, const struct import_source *source,
                                        struct err *err)
{
    struct cli_call ask = {.method = "GET", .timeout_ms = ASK_MS};
    json_t *answer = NULL;
    json_int_t dimension;
    int status = 0;
    char path[1024];
    enum err_code rc = cli_path(path, sizeof(path), import->collection, "", err);

    if (rc != ERR_OK)
        return rc;
    ask.path = path;
    rc = ask_patiently(import, &ask, &answer, &status, err);
    if (rc == ERR_COLLECTION_NOT_FOUND && import->create)
        rc = create(import, source, path, &answer, err);
    if (rc == ERR_OK) {
        dimension =
            json_integer_value(json_object_get(json_object_get(answer, "vector"), "dimension"));
        (void)snprintf(import->version, sizeof(import->version), "%s",
                       cli_text(answer, "version", "-"));
        import->is_embedded = strcmp(cli_text(answer, "embedder", "none"), "none") != 0;
        if (import->vectors != NULL && dimension != (json_int_t)source->dimension)
            rc = err_set(err, ERR_CONFIG, "collection '%.100s' has dimension %lld, %.100s has %llu",
                         import->collection, (long long)dimension, import->vectors,
                         (unsigned long long)source->dimension);
    }
    json_decref(answer);
    if (rc == ERR_OK && source->dimension == 0 && !import->is_embedded)
        (void)fprintf(stderr,
                      "vicinal import: collection '%s' has no embedder: records without a vector "
                      "are kept, but no search will find them\n",
                      import->collection);
    return rc;
}

/* Wait until everything written is searchable, by counting freshly.  -1: not known. */
static long long count_freshly(struct import *import)
{
    static const char body[] = "{\"fresh\":true,\"timeout_ms\":60000}";
    struct cli_call ask = {.method = "POST",
                           .body = body,
                           .body_len = sizeof(body) - 1,
                           .timeout_ms = COUNT_MS + 5000};
    json_t *answer = NULL;
    struct err err = {0};
    char path[1024];
    long long count = -1;

    if (cli_path(path, sizeof(path), import->collection, "/records/count", &err) != ERR_OK)
        return -1;
    ask.path = path;
    if (cli_ask(import->client, import->base, &ask, &answer, NULL, &err) == ERR_OK)
        count = (long long)json_integer_value(json_object_get(answer, "count"));
    else
        (void)fprintf(stderr, "vicinal import: counting: %s\n", err.message);
    json_decref(answer);
    return count;
}

/* --- the outcome ----------------------------------------------------------------------------- */

static void print_refusals(const struct import_counts *counts)
{
    if (counts->refused + counts->earlier_refused > 0)
        (void)printf("refused %" PRIu64 " rows\n", counts->refused + counts->earlier_refused);
    for (size_t i = 0; i < counts->refusal_count; i++) {
        const struct refusal *refusal = &counts->refusals[i];

        (void)printf("%8" PRIu64 "  %s\n", refusal->count, refusal->word);
        for (uint64_t k = 0; k < refusal->count && k < REFUSAL_EXAMPLES; k++)
            (void)printf("          %s\n", refusal->examples[k]);
    }
    if (counts->earlier_refused > 0)
        (void)printf("%8" PRIu64 "  in the run before\n", counts->earlier_refused);
}

static void print_json(const struct import *import, const struct import_counts *counts,
                       long long count, double seconds)
{
    struct buffer out = {0};
    struct json_writer w;

    json_writer_init(&w, &out);
    json_begin_object(&w);
    json_key(&w, "collection");
    json_text(&w, import->collection);
    json_key(&w, "imported");
    json_u64(&w, counts->imported + counts->earlier);
    json_key(&w, "imported_before");
    json_u64(&w, counts->earlier);
    json_key(&w, "refused");
    json_u64(&w, counts->refused + counts->earlier_refused);
    json_key(&w, "reasons");
    json_begin_object(&w);
    for (size_t i = 0; i < counts->refusal_count; i++) {
        json_key(&w, counts->refusals[i].word);
        json_u64(&w, counts->refusals[i].count);
    }
    json_end_object(&w);
    json_key(&w, "count");
    json_i64(&w, count);
    json_key(&w, "seconds");
    json_double(&w, seconds);
    json_end_object(&w);
    (void)printf("%.*s\n", (int)out.len, (const char *)out.data);
    buffer_free(&out);
}

static void print_outcome(const struct import *import, const struct import_source *source,
                          const struct import_counts *counts, double seconds)
{
    (void)printf("imported %" PRIu64 " records into '%s' in %.1f s (%.0f/s)", counts->imported,
                 import->collection, seconds,
                 seconds > 0 ? (double)counts->imported / seconds : 0.0);
    if (counts->earlier > 0)
        (void)printf(", %" PRIu64 " before", counts->earlier);
    if (source->note[0] != '\0')
        (void)printf("; %s", source->note);
    (void)printf("\n");
    print_refusals(counts);
}

/* --- the run --------------------------------------------------------------------------------- */

static enum err_code open_state(const struct import *import, const struct import_source *source,
                                struct import_state *state, struct err *err)
{
    char head[1024], name[64], source_path[4096];
    const char *path = import->vectors != NULL ? import->vectors : import->path;
    struct import_state_setup setup = {.path = import->state_path, .name = name, .head = head};
    struct buffer key = {0};
    struct hash128 hash;
    char *real = realpath(path, NULL);
    enum err_code rc;

    (void)snprintf(source_path, sizeof(source_path), "%s", real == NULL ? path : real);
    free(real);
    buffer_append_format(&key, "%s\n%s\n%s\n", import->base, import->collection, source_path);
    rc = buffer_check(&key, err);
    if (rc == ERR_OK) {
        hash = hash_xxh128(key.data, key.len);
        (void)snprintf(name, sizeof(name), "import-%016" PRIx64 "%016" PRIx64 ".state", hash.high,
                       hash.low);
        (void)snprintf(head, sizeof(head),
                       "vicinal-import 1 %016" PRIx64 " %.100s %s %" PRIu64 " %" PRIu64, hash.low,
                       import->version, source->fingerprint, import->batch, import->batch_bytes);
        rc = import_state_open(state, &setup, err);
    }
    buffer_free(&key);
    if (rc == ERR_OK && state->batches > 0)
        (void)fprintf(stderr,
                      "vicinal import: going on behind %" PRIu64 " records of an earlier run\n",
                      state->imported + state->refused);
    return rc;
}

static enum err_code open_source(struct import *import, const struct cli_operands *operands,
                                 struct import_source *source, struct err *err)
{
    struct stat info;

    source->import = import;
    if (import->vectors == NULL && import->records != NULL)
        return err_set(err, ERR_CONFIG, "--records needs --vectors; NDJSON alone is given as PATH");
    if ((import->vectors != NULL) + operands->count != 1)
        return err_set(err, ERR_CONFIG, "give one PATH (a folder or an NDJSON file) or --vectors");
    if (import->vectors != NULL)
        return import_vectors_open(source, err);
    import->path = operands->items[0];
    if (stat(import->path, &info) != 0)
        return err_set(err, ERR_CONFIG, "%s: there is no such file or folder", import->path);
    return S_ISDIR(info.st_mode) ? import_folder_open(source, err) : import_rows_open(source, err);
}

static enum err_code move_rows(struct import *import, struct import_source *source,
                               struct import_state *state, struct import_counts *counts,
                               struct err *err)
{
    struct import_sink_setup setup = {
        .import = import, .state = state, .units_total = source->units_total};
    struct import_sink *sink = NULL;
    struct err sent = {0};
    enum err_code rc = import_sink_open(&sink, &setup, err);
    enum err_code sent_rc;

    if (rc != ERR_OK)
        return rc;
    rc = source->run(source, sink, err);
    sent_rc = import_sink_close(sink, false, counts, &sent);
    if (rc == ERR_OK && sent_rc != ERR_OK) {
        *err = sent;
        rc = sent_rc;
    }
    return rc;
}

static enum err_code import_all(struct import *import, struct import_source *source,
                                struct import_counts *counts, struct err *err)
{
    struct import_state state = {.fd = -1};
    enum err_code rc = prepare_collection(import, source, err);

    if (rc == ERR_OK)
        rc = open_state(import, source, &state, err);
    if (rc == ERR_OK)
        rc = move_rows(import, source, &state, counts, err);
    import_state_close(&state, rc == ERR_OK);
    return rc;
}

static int run_import(void *settings, const struct cli_operands *operands)
{
    struct import *import = settings;
    struct import_source source = {0};
    struct import_counts counts = {0};
    struct err err = {0};
    uint64_t began = env_boot_ns(env_real());
    long long count;
    double seconds;
    enum err_code rc = cli_base_url(import->base, sizeof(import->base), import->url, &err);

    if (rc == ERR_OK)
        rc = cli_path(import->records_path, sizeof(import->records_path), import->collection,
                      "/records", &err);
    if (rc == ERR_OK)
        rc = open_source(import, operands, &source, &err);
    if (rc == ERR_OK)
        rc = http_client_open(&import->client, &(struct http_client_options){.env = env_real()},
                              &err);
    if (rc == ERR_OK)
        rc = import_all(import, &source, &counts, &err);
    if (rc == ERR_OK) {
        count = count_freshly(import);
        seconds = (double)(env_boot_ns(env_real()) - began) / 1e9;
        if (import->json)
            print_json(import, &counts, count, seconds);
        else
            print_outcome(import, &source, &counts, seconds);
        if (!import->json && count >= 0)
            (void)printf("'%s' holds %lld records, all searchable\n", import->collection, count);
    } else if (counts.imported + counts.refused > 0) {
        print_outcome(import, &source, &counts, (double)(env_boot_ns(env_real()) - began) / 1e9);
    }
    if (source.close != NULL)
        source.close(&source);
    http_client_close(import->client);
    if (rc != ERR_OK)
        return cli_fail("import", &err);
    return counts.refused + counts.earlier_refused > 0 ? EXIT_REFUSED : EXIT_SUCCESS;
}

const struct verb verb_import = {
    .name = "import",
    .brief = "Import a folder of text, NDJSON, or vectors with records.",
    .synopsis = "--collection NAME [options] PATH | --vectors X.npy [--records Y.jsonl[.zst]]",
    .about =
        "PATH is a folder of text (cut into passages with file and line as metadata, embedded by\n"
        "the collection's embedder) or an NDJSON file (plain or .zst) with one record of the API "
        "a\n"
        "line.  With --vectors, rows without an id in the records file get their row number, all\n"
        "fields but id and text become metadata.  An NDJSON record without an id gets one made of\n"
        "its line and the line's number.\n\n"
        "An import that was interrupted goes on where it was when it is called again.  Rows that\n"
        "the server refuses are left out, counted and explained.  Where an id comes twice in one\n"
        "source, either may win: several requests are under way at a time.\n\n"
        "Exit codes: 0 everything imported, 1 failed, 2 wrong options, 3 imported, but rows were\n"
        "refused.",
    .options = options,
    .settings_size = sizeof(struct import),
    .operand_max = 1,
    .run = run_import,
};
