/* Ask for recalls and see what is got: the calibration's promise beside the queries' truth.
 *
 * A line for each recall that is asked for; with --json the last line is one object, by what was
 * asked.  Failure: that of a search, or of the calibration. */
#include <stdio.h>

#include "bench/engine_bench.h"

enum err_code bench_calibrate(struct bench *bench, struct err *err)
{
    double begin = bench_now_s();

    if (!engine_is_due(bench->engine)) {
        printf("not calibrated: the folder kept it, or there are too few vectors\n");
        return ERR_OK;
    }
    enum err_code code = engine_maintain(bench->engine, NULL, err);
    printf("calibrated in %.2f s\n", bench_now_s() - begin);
    return code;
}

enum err_code bench_recalls(struct bench *bench, struct work *work, struct err *err)
{
    const struct options *options = &bench->options;
    struct point points[TARGETS_MAX] = {0};

    for (size_t i = 0; i < options->recall_count; i++) {
        struct point *point = &points[i];

        point->ef = options->ef;
        point->asked = options->recalls[i];
        for (uint32_t r = 0; r < options->repeats; r++) {
            enum err_code code = bench_run(bench, work, point, err);
            if (code != ERR_OK)
                return code;
        }
        printf("asked %.4f  got %.4f  by ef %4u  %8.0f qps  p50 %6.1f us  p99 %6.1f us  %6.0f "
               "distances\n",
               point->asked, point->recall, point->used, point->qps, point->p50_us, point->p99_us,
               point->distances);
    }
    if (!options->json)
        return ERR_OK;
    printf("{\"asked\":{");
    for (size_t i = 0; i < options->recall_count; i++)
        printf("%s\"%g\":{\"got\":%.4f,\"ef\":%u,\"qps\":%.2f,\"p50_us\":%.2f,\"p99_us\":%.2f}",
               i == 0 ? "" : ",", points[i].asked, points[i].recall, points[i].used, points[i].qps,
               points[i].p50_us, points[i].p99_us);
    printf("}}\n");
    return ERR_OK;
}
