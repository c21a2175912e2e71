/* Measure the engine alone: build it from --base, sweep the beam (of an inverted file: the number
 * of lists looked at) over --queries against --truth.
 *
 * One query at a time; with --threads above one only the build uses them.  QPS at a target recall
 * is interpolated between the measured points around it.  Prints a table; with --json the last
 * line is one object.
 *
 * With --serve it prints one line about the build and then, for each line on stdin with a beam (0:
 * the default), runs all queries once and prints one object: so that somebody else can let it take
 * turns with other engines.
 *
 * With --recall it asks for recalls instead of sweeping: engine_recall.c.
 *
 * With --selectivity it measures filters instead: engine_filters.c.
 *
 * Failure: any file or option that does not fit ends the run with code 1. */
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench/crew.h"
#include "bench/engine_bench.h"
#include "common/base/checked.h"

double bench_now_s(void)
{
    struct timespec now;

    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static uint64_t bytes_used(const struct bench *bench)
{
    return bench->options.is_ivf ? bench_ivf_bytes(&bench->ivf) : engine_memory_used(bench->engine);
}

static const char *kernel_of(const struct bench *bench)
{
    return bench->options.is_ivf ? ivf_kernel(bench->ivf.ivf) : engine_kernel(bench->engine);
}

static enum err_code build_ivf(struct bench *bench, struct err *err)
{
    struct engine_executor executor = {.run = crew_run, .state = &bench->options.threads};
    double begin = bench_now_s();

    bench->ivf.options.metric = bench->options.engine.metric;
    bench->ivf.options.kernel = bench->options.engine.kernel;
    enum err_code code = bench_ivf_build(&bench->ivf, &bench->base,
                                         bench->options.threads > 1 ? &executor : NULL, err);
    bench->build_s = bench_now_s() - begin;
    return code;
}

/* Into the open engine. */
static enum err_code fill(struct bench *bench, struct err *err)
{
    float row[DIMENSION_MAX];
    enum err_code code = ERR_OK;
    uint64_t left;
    double begin = bench_now_s();

    for (uint64_t i = 0; code == ERR_OK && i < bench->base.rows; i++) {
        npy_row_f32(&bench->base, i, row);
        code = engine_insert(bench->engine, (uint32_t)i, row, err);
    }
    bench->insert_s = bench_now_s() - begin;
    if (code == ERR_OK)
        code = engine_step(bench->engine, UINT32_MAX, &left, err);
    bench->build_s = bench_now_s() - begin;
    return code;
}

static enum err_code build(struct bench *bench, struct err *err)
{
    struct engine_executor executor = {.run = crew_run, .state = &bench->options.threads};
    const struct engine_executor *borrowed = bench->options.threads > 1 ? &executor : NULL;

    if (bench->options.keep != NULL)
        return bench_keep(bench, borrowed, fill, err);
    enum err_code code = engine_open(&bench->engine, NULL, &bench->options.engine, borrowed, err);
    return code == ERR_OK ? fill(bench, err) : code;
}

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* Share of the true k nearest among the hits. */
static double recall_of(const struct engine_hit *hits, size_t count, const int32_t *truth,
                        uint32_t k)
{
    uint32_t right = 0;

    for (size_t i = 0; i < count; i++)
        for (uint32_t j = 0; j < k; j++)
            right += (int32_t)hits[i].ordinal == truth[j];
    return (double)right / k;
}

enum err_code bench_run(struct bench *bench, struct work *work, struct point *point,
                        struct err *err)
{
    size_t dim = bench->queries.cols;
    double recall = 0, total = 0;

    point->distances = point->hops = 0;
    for (uint64_t i = 0; i < bench->queries.rows; i++) {
        struct engine_query query = {.vector = bench->vectors + i * dim,
                                     .k = bench->options.k,
                                     .ef = point->ef,
                                     .recall = (float)point->asked,
                                     .bound = INFINITY};
        struct engine_counters counters;
        size_t count;
        double begin = bench_now_s();
        enum err_code code =
            bench->options.is_ivf
                ? bench_ivf_search(&bench->ivf, &query, work->hits, &count, &counters, err)
                : engine_search(bench->engine, &query, work->hits, &count, &counters, err);
        work->times[i] = bench_now_s() - begin;
        if (code != ERR_OK)
            return code;
        total += work->times[i];
        npy_row_i32(&bench->truth, i, work->truth);
        recall += recall_of(work->hits, count, work->truth, bench->options.k);
        point->distances += (double)counters.distances;
        point->hops += (double)counters.hops;
        point->used = counters.ef;
    }
    double n = (double)bench->queries.rows;
    qsort(work->times, bench->queries.rows, sizeof(double), compare_double);
    if (n / total > point->qps) {
        point->qps = n / total;
        point->p50_us = work->times[bench->queries.rows / 2] * 1e6;
        point->p99_us = work->times[bench->queries.rows * 99 / 100] * 1e6;
    }
    point->recall = recall / n;
    point->distances /= n;
    point->hops /= n;
    return ERR_OK;
}

static enum err_code sweep(struct bench *bench, struct work *work, struct err *err)
{
    static const uint32_t beams[] = {0,  10,  16,  24,  32,  40,  48,  56,  64,  72, 80,
                                     96, 112, 128, 160, 192, 256, 320, 400, 512, 768};
    double highest = 0;

    for (size_t t = 0; t < bench->options.target_count; t++)
        highest = MAX_OF(highest, bench->options.targets[t]);
    for (size_t i = 0; i < ARRAY_COUNT(beams); i++) {
        struct point point = {.ef = bench->options.ef != 0 ? bench->options.ef : beams[i]};

        for (uint32_t r = 0; r < bench->options.repeats; r++) {
            enum err_code code = bench_run(bench, work, &point, err);
            if (code != ERR_OK)
                return code;
        }
        printf("ef %4u  recall %.4f  %8.0f qps  p50 %6.1f us  p99 %6.1f us  %6.0f distances  "
               "%5.0f hops\n",
               point.ef, point.recall, point.qps, point.p50_us, point.p99_us, point.distances,
               point.hops);
        bench->points[bench->point_count++] = point;
        if (bench->options.ef != 0 || (point.ef != 0 && point.recall >= highest))
            break;
    }
    return ERR_OK;
}

/* The measured points around the recall; between them speed is taken as linear. */
static bool interpolate(const struct bench *bench, double target, struct point *out)
{
    const struct point *before = NULL;

    for (size_t i = 0; i < bench->point_count; i++) {
        const struct point *point = &bench->points[i];

        if (point->ef == 0)
            continue; /* the default beam: shown, no part of the sweep */
        if (point->recall >= target) {
            double share = 1;
            if (before != NULL && point->recall > before->recall)
                share = (target - before->recall) / (point->recall - before->recall);
            else
                before = point;
            *out = *point;
            out->qps = 1 / ((1 - share) / before->qps + share / point->qps);
            out->p50_us = before->p50_us + share * (point->p50_us - before->p50_us);
            out->p99_us = before->p99_us + share * (point->p99_us - before->p99_us);
            return true;
        }
        before = point;
    }
    return false;
}

static void print_number(const char *name, bool is_known, double value)
{
    if (is_known)
        printf("%s%.2f", name, value);
    else
        printf("%snull", name);
}

/* 0.9 is the key "0.90", 0.967 stays "0.967". */
static int decimals_of(double target)
{
    return fabs(target * 100 - round(target * 100)) < 1e-6 ? 2 : 3;
}

static void report(const struct bench *bench)
{
    const struct options *options = &bench->options;
    double bytes = (double)bytes_used(bench) / (double)bench->base.rows;
    struct point point = {0};
    struct point shown = {0};
    bool is_shown = false;

    for (size_t t = 0; t < options->target_count; t++)
        if (interpolate(bench, options->targets[t], &point))
            printf("recall %.3f: %.0f qps, p50 %.1f us, p99 %.1f us\n", options->targets[t],
                   point.qps, point.p50_us, point.p99_us);
    if (!options->json)
        return;
    printf("{\"qps\":{");
    for (size_t t = 0; t < options->target_count; t++) {
        char name[32];
        bool is_known = interpolate(bench, options->targets[t], &point);

        (void)snprintf(name, sizeof(name), "%s\"%.*f\":", t == 0 ? "" : ",",
                       decimals_of(options->targets[t]), options->targets[t]);
        print_number(name, is_known, point.qps);
        if (is_known && (!is_shown || options->targets[t] <= 0.951)) {
            shown = point;
            is_shown = true;
        }
    }
    print_number("},\"p50_us\":", is_shown, shown.p50_us);
    print_number(",\"p99_us\":", is_shown, shown.p99_us);
    printf(",\"build_s\":%.2f,\"bytes_per_vector\":%.1f}\n", bench->build_s, bytes);
}

static bool parse_u32(const char *text, uint32_t max, uint32_t *out)
{
    char *end;

    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno != 0 || end == text || *end != '\0' || text[0] == '-' || value > max)
        return false;
    *out = (uint32_t)value;
    return true;
}

static enum err_code serve(struct bench *bench, struct work *work, struct err *err)
{
    char line[32];
    enum err_code code = ERR_OK;

    printf("{\"kernel\":\"%s\",\"build_s\":%.2f,\"bytes_per_vector\":%.1f}\n", kernel_of(bench),
           bench->build_s, (double)bytes_used(bench) / (double)bench->base.rows);
    (void)fflush(stdout);
    while (code == ERR_OK && fgets(line, sizeof(line), stdin) != NULL) {
        struct point point = {0};

        line[strcspn(line, "\n")] = '\0';
        if (!parse_u32(line, SEARCH_EF_MAX, &point.ef))
            return err_set(err, ERR_INVALID_ARGUMENT, "\"%s\" is no beam", line);
        code = bench_run(bench, work, &point, err);
        if (code != ERR_OK)
            break;
        printf("{\"ef\":%u,\"recall\":%.6f,\"qps\":%.2f,\"p50_us\":%.2f,\"p99_us\":%.2f,"
               "\"distances\":%.1f,\"hops\":%.1f}\n",
               point.ef, point.recall, point.qps, point.p50_us, point.p99_us, point.distances,
               point.hops);
        (void)fflush(stdout);
    }
    return code;
}

static enum err_code open_files(struct bench *bench, struct err *err)
{
    struct options *options = &bench->options;
    enum err_code code = npy_open(options->base, &bench->base, err);

    if (code == ERR_OK)
        code = npy_open(options->queries, &bench->queries, err);
    if (code == ERR_OK)
        code = npy_open(options->truth, &bench->truth, err);
    if (code != ERR_OK)
        return code;
    if (bench->base.cols != bench->queries.cols || bench->queries.rows == 0 ||
        bench->queries.rows > bench->truth.rows || bench->truth.cols < options->k ||
        bench->truth.type != NPY_INT32 || bench->base.cols > DIMENSION_MAX)
        return err_set(err, ERR_INVALID_ARGUMENT, "base, queries and truth do not fit together");
    options->engine.dim = bench->base.cols;
    bench->vectors =
        array_alloc(bench->queries.rows, (size_t)bench->queries.cols * sizeof(*bench->vectors));
    if (bench->vectors == NULL)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    for (uint64_t i = 0; i < bench->queries.rows; i++)
        npy_row_f32(&bench->queries, i, bench->vectors + i * bench->queries.cols);
    return ERR_OK;
}

static void print_build(const struct bench *bench)
{
    if (bench->options.is_ivf) {
        printf("kernel %s, %llu x %u, %u lists: built in %.2f s, %.1f MB and vectors, predicted "
               "%.1f MB\n",
               kernel_of(bench), (unsigned long long)bench->base.rows, bench->base.cols,
               ivf_lists(bench->ivf.ivf), bench->build_s,
               (double)ivf_memory_used(bench->ivf.ivf) * 1e-6,
               (double)ivf_predict(&bench->ivf.options, (uint32_t)bench->base.rows, ENGINE_LOAD) *
                   1e-6);
        return;
    }
    printf("kernel %s, %llu x %u, m %u, ef_construction %u: copied in %.2f s, built in %.2f s, "
           "%.1f MB, predicted %.1f MB\n",
           kernel_of(bench), (unsigned long long)bench->base.rows, bench->base.cols,
           bench->options.engine.m, bench->options.engine.ef_construction, bench->insert_s,
           bench->build_s, (double)bytes_used(bench) * 1e-6,
           (double)engine_predict(&bench->options.engine, bench->base.rows, ENGINE_BUILD) * 1e-6);
}

static enum err_code measure(struct bench *bench, struct err *err)
{
    struct work work = {0};
    enum err_code code = open_files(bench, err);

    if (code == ERR_OK && bench->options.inserting)
        return bench_inserting(bench, err);
    if (code == ERR_OK)
        code = bench->options.is_ivf ? build_ivf(bench, err) : build(bench, err);
    if (code != ERR_OK)
        return code;
    if (!bench->options.serve)
        print_build(bench);
    work.hits = array_alloc(bench->options.k, sizeof(*work.hits));
    work.truth = array_alloc(bench->truth.cols, sizeof(*work.truth));
    work.times = array_alloc(bench->queries.rows, sizeof(*work.times));
    if (work.hits == NULL || work.truth == NULL || work.times == NULL)
        code = err_set(err, ERR_NO_MEMORY, "no memory");
    if (code == ERR_OK && bench->options.recall_count > 0)
        code = bench_calibrate(bench, err);
    if (code == ERR_OK && bench->options.share_count > 0)
        code = bench_filters(bench, err);
    else if (code == ERR_OK && bench->options.serve)
        code = serve(bench, &work, err);
    else if (code == ERR_OK && bench->options.recall_count > 0)
        code = bench_recalls(bench, &work, err);
    else if (code == ERR_OK && (code = sweep(bench, &work, err)) == ERR_OK)
        report(bench);
    free(work.hits);
    free(work.truth);
    free(work.times);
    return code;
}

/* Numbers in (0, 1], with commas. */
static bool parse_shares(const char *text, double *shares, size_t max, size_t *count)
{
    *count = 0;
    for (;;) {
        char *end;
        double value = strtod(text, &end);

        if (end == text || !(value > 0 && value <= 1) || *count == max)
            return false;
        shares[(*count)++] = value;
        if (*end == '\0')
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
}

static bool parse_metric(const char *text, enum engine_metric *metric)
{
    static const char *const names[] = {"cosine", "ip", "l2"};

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *metric = (enum engine_metric)i;
            return true;
        }
    }
    return false;
}

static bool parse_filter(const char *text, enum bench_filter *filter)
{
    static const char *const names[] = {"uncorrelated", "correlated", "anti"};

    for (size_t i = 0; i < ARRAY_COUNT(names); i++) {
        if (strcmp(text, names[i]) == 0) {
            *filter = (enum bench_filter)i;
            return true;
        }
    }
    return false;
}

static bool parse_index(const char *text, struct bench *bench)
{
    static const char *const ivfs[] = {"ivfflat", "ivfpq", "ivfrabitq"};

    for (size_t i = 0; i < ARRAY_COUNT(ivfs); i++)
        if (strcmp(text, ivfs[i]) == 0) {
            bench->options.is_ivf = true;
            bench->ivf.options.kind = (enum ivf_kind)i;
            return true;
        }
    bench->options.engine.kind = strcmp(text, "flat") == 0 ? ENGINE_FLAT : ENGINE_HNSW;
    return bench->options.engine.kind == ENGINE_FLAT || strcmp(text, "hnsw") == 0;
}

enum {
    O_BASE = 1,
    O_QUERIES,
    O_TRUTH,
    O_METRIC,
    O_K,
    O_EF,
    O_THREADS,
    O_TARGETS,
    O_JSON,
    O_SERVE,
    O_M,
    O_EFC,
    O_BITS,
    O_KERNEL,
    O_REPEATS,
    O_INDEX,
    O_LISTS,
    O_SELECTIVITY,
    O_FILTER,
    O_RECALL,
    O_KEEP,
    O_COLD_ABOVE,
    O_INSERTING
};

static bool set_option(struct bench *bench, int option, const char *text)
{
    struct options *options = &bench->options;

    switch (option) {
    case O_BASE:
        options->base = text;
        return true;
    case O_QUERIES:
        options->queries = text;
        return true;
    case O_TRUTH:
        options->truth = text;
        return true;
    case O_METRIC:
        return parse_metric(text, &options->engine.metric);
    case O_INDEX:
        return parse_index(text, bench);
    case O_LISTS:
        return parse_u32(text, UINT32_MAX, &bench->ivf.options.lists);
    case O_K:
        return parse_u32(text, TOP_K_MAX, &options->k) && options->k > 0;
    case O_EF:
        return parse_u32(text, SEARCH_EF_MAX, &options->ef);
    case O_THREADS:
        return parse_u32(text, CREW_MAX, &options->threads) && options->threads > 0;
    case O_REPEATS:
        return parse_u32(text, 100, &options->repeats) && options->repeats > 0;
    case O_M:
        return parse_u32(text, HNSW_M_MAX, &options->engine.m);
    case O_EFC:
        return parse_u32(text, HNSW_EF_CONSTRUCTION_MAX, &options->engine.ef_construction);
    case O_BITS:
        return parse_u32(text, 8, &options->engine.bits);
    case O_TARGETS:
        return parse_shares(text, options->targets, TARGETS_MAX, &options->target_count);
    case O_SELECTIVITY:
        return parse_shares(text, options->shares, SHARES_MAX, &options->share_count);
    case O_RECALL:
        return parse_shares(text, options->recalls, TARGETS_MAX, &options->recall_count);
    case O_FILTER:
        return parse_filter(text, &options->filter);
    case O_KEEP:
        options->keep = text;
        return true;
    case O_COLD_ABOVE:
        return parse_u32(text, UINT32_MAX, &options->engine.cold_above);
    case O_KERNEL:
        options->engine.kernel = text;
        return true;
    case O_INSERTING:
        options->inserting = true;
        return true;
    case O_JSON:
        options->json = true;
        return true;
    case O_SERVE:
        options->serve = true;
        return true;
    default:
        return false;
    }
}

static bool parse_options(int argc, char **argv, struct bench *bench)
{
    const struct options *options = &bench->options;
    static const struct option table[] = {
        {"base", required_argument, NULL, O_BASE},
        {"queries", required_argument, NULL, O_QUERIES},
        {"truth", required_argument, NULL, O_TRUTH},
        {"metric", required_argument, NULL, O_METRIC},
        {"index", required_argument, NULL, O_INDEX},
        {"k", required_argument, NULL, O_K},
        {"ef", required_argument, NULL, O_EF},
        {"threads", required_argument, NULL, O_THREADS},
        {"repeats", required_argument, NULL, O_REPEATS},
        {"m", required_argument, NULL, O_M},
        {"ef-construction", required_argument, NULL, O_EFC},
        {"bits", required_argument, NULL, O_BITS},
        {"targets", required_argument, NULL, O_TARGETS},
        {"lists", required_argument, NULL, O_LISTS},
        {"selectivity", required_argument, NULL, O_SELECTIVITY},
        {"filter", required_argument, NULL, O_FILTER},
        {"recall", required_argument, NULL, O_RECALL},
        {"keep", required_argument, NULL, O_KEEP},
        {"cold-above", required_argument, NULL, O_COLD_ABOVE},
        {"kernel", required_argument, NULL, O_KERNEL},
        {"inserting", no_argument, NULL, O_INSERTING},
        {"json", no_argument, NULL, O_JSON},
        {"serve", no_argument, NULL, O_SERVE},
        {NULL, 0, NULL, 0},
    };
    int option;

    while ((option = getopt_long(argc, argv, "", table, NULL)) != -1)
        if (!set_option(bench, option, optarg))
            return false;
    return optind == argc && options->base != NULL && options->queries != NULL &&
           options->truth != NULL &&
           !(options->is_ivf && options->share_count + options->recall_count > 0);
}

int main(int argc, char **argv)
{
    struct bench bench = {.options = {.engine = {.metric = ENGINE_COSINE,
                                                 .m = HNSW_M_DEFAULT,
                                                 .ef_construction = HNSW_EF_CONSTRUCTION_DEFAULT},
                                      .k = 10,
                                      .threads = 1,
                                      .repeats = 3,
                                      .targets = {0.90, 0.95, 0.99},
                                      .target_count = 3}};
    struct err err;

    if (!parse_options(argc, argv, &bench)) {
        fprintf(stderr,
                "usage: engine-bench --base X.npy --queries Q.npy --truth T.npy\n"
                "  [--metric cosine|ip|l2] [--k N] [--ef N] [--recall 0.95[,0.99...]]\n"
                "  [--index hnsw|flat|ivfflat|ivfpq|ivfrabitq] [--lists N]\n"
                "  [--threads N (build)] [--targets 0.90,0.95,0.99] [--repeats N]\n"
                "  [--m N] [--ef-construction N] [--bits N] [--kernel NAME] [--json] [--serve]\n"
                "  [--keep DIR [--cold-above N]] [--inserting]\n"
                "  [--selectivity S[,S...] [--filter uncorrelated|correlated|anti]]\n");
        return 2;
    }
    enum err_code code = measure(&bench, &err);
    if (code != ERR_OK)
        fprintf(stderr, "engine-bench: %s\n", err.message);
    engine_close(bench.engine);
    bench_ivf_close(&bench.ivf);
    npy_close(&bench.base);
    npy_close(&bench.queries);
    npy_close(&bench.truth);
    free(bench.vectors);
    return code == ERR_OK ? 0 : 1;
}
