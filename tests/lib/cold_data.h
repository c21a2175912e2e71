/* Files of cold parts for tests: small ones of every kind, as bytes, and checksums made good again
 * after a change.  Anything that fails here ends the test by an assertion. */
#ifndef VICINAL_TESTS_LIB_COLD_DATA_H
#define VICINAL_TESTS_LIB_COLD_DATA_H

#include "engine/cold.h"
#include "engine/cold_file.h"
#include "tests/lib/ivf_data.h"
#include "tests/lib/segment_data.h"

struct cold_recipe {
    uint32_t count;
    uint32_t dim;
    enum engine_metric metric;
    enum ivf_kind kind;
};

enum { COLD_DATA_MAX = 4096 }; /* vectors of a recipe */

/* Ordinals have gaps. */
static inline void cold_data_write(const char *path, const struct cold_recipe *recipe)
{
    static uint32_t ordinals[COLD_DATA_MAX];
    struct data data = data_make(recipe->count, recipe->dim, 0.2f, 79);
    struct ivf_rows rows = ivf_data_rows(&data);
    struct ivf_options options = {
        .dim = recipe->dim, .metric = recipe->metric, .kind = recipe->kind, .seed = 7};
    struct cold_source source = {.to = 3 * recipe->count + 2};
    struct ivf *ivf;
    struct err err;

    for (uint32_t i = 0; i < recipe->count; i++)
        ordinals[i] = 3 * i + i % 2;
    rows.ordinals = ordinals;
    if (ivf_build(&ivf, &options, &rows, NULL, &err) != ERR_OK)
        assert(!"the index is built");
    source.ivf = ivf;
    if (cold_write(path, &source, NULL, &err) != ERR_OK)
        assert(!"the part is written");
    ivf_free(ivf);
    data_free(&data);
}

#endif
